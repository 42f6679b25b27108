//! The append-only journal: group commit over one write in flight.
//!
//! Three cursors, as every asynchronous log has them: *accepted* (queued here), *written* (the group's write has
//! completed; the next LSN), *durable* (a flush that began after the write has completed). An append is answered when
//! it is written; the flush (C4) is the engine's, because it covers the data devices too.
//!
//! While a group is being written, appends gather for the next one; nothing waits for a timer.

mod floors;
mod ring;
pub mod scan;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::rc::Rc;

use rt::buf::{Buf, View};
use rt::fs::{Allocation, File, OpenOptions};
use rt::sync::{Notify, OneReceiver, OneSender, Semaphore, oneshot};

use crate::engine::Latency;
use crate::format::BLOCK;
use crate::format::journal::{GROUP_HEADER, GROUP_MAX, JournalHeader, RING_MIN, RING_START};
use crate::format::record::Record;

pub use floors::Floor;
use floors::Floors;

/// The least part of the ring that only checkpoints may use, so that a full journal can always be emptied (C13).
pub const RESERVE: u64 = 3 * GROUP_MAX as u64 / 2;
/// A checkpoint is asked for when it could free this part of the ring.
const PRESSURE: u64 = 4;

const _: () = assert!(RESERVE * 2 < RING_MIN);

/// Why an append failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The device failed; nothing is accepted any more (C4).
    #[error("the journal device has failed")]
    Failed,
    /// The server is stopping.
    #[error("the journal is closed")]
    Closed,
    /// The ring is full, and the checkpoint that would empty it finds no space on the disk (C13).
    #[error("the journal is full")]
    Full,
}

/// Where a record was written. As long as this value lives, the record is not taken into account.
#[derive(Debug)]
pub struct Appended {
    /// LSN of its group.
    pub lsn: u64,
    /// Byte LSN of the first block of its payload; meaningless without payload.
    pub payload: u64,
    /// Keeps the tail and the durable mark below the record.
    pub floor: Floor,
}

/// Who appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A checkpoint; may use the whole ring.
    Checkpoint,
    /// Orders and discards: may use half of what is kept for checkpoints.
    Urgent,
    /// A write; waits while only the reserve is left.
    Normal,
}

impl Class {
    const ALL: [Self; 3] = [Self::Checkpoint, Self::Urgent, Self::Normal];
}

/// Which appends wait until the journal goes on, or another one takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// None of them.
    Nothing,
    /// All but those of [`Class::Checkpoint`].
    Requests,
    /// All of them.
    Everything,
}

/// A record that waits to be written.
#[derive(Debug)]
pub struct Submitted(OneReceiver<Result<Appended, AppendError>>);

impl Submitted {
    /// Waits until it is written.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn written(self) -> Result<Appended, AppendError> {
        self.0.await.unwrap_or(Err(AppendError::Closed))
    }
}

struct Pending {
    record: Record,
    payload: Option<View>,
    answer: OneSender<Result<Appended, AppendError>>,
}

impl Pending {
    fn payload_len(&self) -> usize {
        self.record.payload_blocks() as usize * BLOCK
    }
}

/// The journal of a running server.
pub struct Journal {
    file: Rc<File>,
    header: Cell<JournalHeader>,
    /// The copy of the header that is durable for sure; the other one may be written.
    header_copy: Cell<u8>,
    header_writing: Semaphore,
    incarnation: u64,
    next: Cell<u64>,
    previous_crc: Cell<u32>,
    durable: Cell<u64>,
    /// The durable mark stays where it is.
    durable_held: Cell<bool>,
    /// What the newest group or header on disk says is durable.
    durable_told: Cell<u64>,
    /// LSN of the group whose write is under way.
    writing: Cell<Option<u64>>,
    queues: [RefCell<VecDeque<Pending>>; 3],
    reserve: Cell<u64>,
    closed: Cell<bool>,
    failed: Cell<bool>,
    stuck: Cell<bool>,
    held: Cell<Hold>,
    /// Told when a checkpoint could free a good part of the ring.
    pressure: Notify,
    floors: Rc<Floors>,
    /// Group starts since the tail, with the CRC of the group before each: the tail can only move to one of these.
    starts: RefCell<VecDeque<(u64, u32)>>,
    latency: Rc<Latency>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("next", &self.next.get())
            .field("tail", &self.tail())
            .finish_non_exhaustive()
    }
}

/// What recovery hands over to the running journal.
#[derive(Debug)]
pub struct Position {
    /// LSN of the first group to be written.
    pub next: u64,
    /// CRC of the header of the group before it.
    pub previous_crc: u32,
    /// Everything below is known to have been durable.
    pub durable: u64,
    /// Group starts from the tail on, with the CRC of the group *before* each.
    pub starts: VecDeque<(u64, u32)>,
}

impl Journal {
    /// Makes an empty journal, zero-filled so that appends never change the file's extents.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn create(path: &Path, header: JournalHeader) -> io::Result<File> {
        let file = File::open(path, OpenOptions::direct().create_new()).await?;
        // From here on nobody who clears up takes it for a remnant.
        if !file.try_lock().await? {
            return Err(io::Error::other("another process has locked the new journal"));
        }
        // First of all: whoever finds it is to know whose it is.
        file.write_all_at(View::copy_of(&header.encode()), 0).await?;
        let bytes = RING_START + header.ring_bytes;
        file.allocate(Allocation::Extend, 0, bytes).await?;
        let zeroes = Buf::zeroed(1 << 20).freeze();
        let mut at = BLOCK as u64;
        while at < bytes {
            let len = (bytes - at).min(zeroes.len() as u64);
            file.write_all_at(zeroes.slice(..len as usize), at).await?;
            at += len;
        }
        file.sync_all().await?;
        Ok(file)
    }

    /// Takes over a scanned journal.
    pub fn start(
        file: Rc<File>,
        header: JournalHeader,
        copy: u8,
        incarnation: u64,
        at: Position,
        latency: Rc<Latency>,
    ) -> Rc<Self> {
        let journal = Rc::new(Self {
            file,
            header: Cell::new(header),
            header_copy: Cell::new(copy),
            header_writing: Semaphore::new(1),
            incarnation,
            next: Cell::new(at.next),
            previous_crc: Cell::new(at.previous_crc),
            durable: Cell::new(at.durable),
            durable_held: Cell::new(false),
            durable_told: Cell::new(at.durable),
            writing: Cell::new(None),
            queues: Default::default(),
            reserve: Cell::new(RESERVE),
            closed: Cell::new(false),
            failed: Cell::new(false),
            stuck: Cell::new(false),
            held: Cell::new(Hold::Nothing),
            pressure: Notify::new(),
            floors: Rc::default(),
            starts: RefCell::new(at.starts),
            latency,
        });
        rt::spawn(Rc::clone(&journal).write_groups());
        journal
    }

    /// The file itself, for flushing and for reading payloads.
    pub fn file(&self) -> &Rc<File> {
        &self.file
    }

    /// LSN of the next group: everything appended from now on lies at it or behind.
    pub fn next(&self) -> u64 {
        self.next.get()
    }

    /// Everything below has been written.
    pub fn written(&self) -> u64 {
        self.writing.get().unwrap_or(self.next.get())
    }

    /// Everything below has been written and taken into account by whoever appended it.
    pub fn complete(&self) -> u64 {
        self.floors.lowest().map_or(self.written(), |lowest| lowest.min(self.written()))
    }

    /// Everything below is durable.
    pub fn durable(&self) -> u64 {
        self.durable.get()
    }

    /// Notes that a flush of all devices, begun when everything below `lsn` was complete, has succeeded.
    pub fn set_durable(&self, lsn: u64) {
        if !self.durable_held.get() {
            self.durable.set(self.durable.get().max(lsn));
        }
    }

    /// Keeps the durable mark where it is, or lets it go on. While records of in-place writes whose data was lost are
    /// in the journal, the mark must not pass them: the next recovery would miss a flushed write.
    pub fn hold_durable(&self, held: bool) {
        self.durable_held.set(held);
    }

    /// See [`Self::hold_durable`].
    pub fn is_durable_held(&self) -> bool {
        self.durable_held.get()
    }

    /// LSN of the oldest group still needed.
    pub fn tail(&self) -> u64 {
        self.header.get().tail
    }

    /// Share of the ring in use, in percent.
    pub fn used_percent(&self) -> u64 {
        (self.next.get() - self.tail()) * 100 / self.ring_bytes()
    }

    /// Bytes of the ring.
    pub fn ring_bytes(&self) -> u64 {
        self.header.get().ring_bytes
    }

    /// Whether a write has failed.
    pub fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Completes when a checkpoint could free a good part of the ring.
    pub async fn pressed(&self) {
        self.pressure.notified().await;
    }

    /// Keeps room for `bytes` of what a checkpoint records, twice: an attempt may fail after it has recorded.
    pub fn reserve_for_state(&self, bytes: u64) {
        let wanted = RESERVE.max(2 * bytes + GROUP_MAX as u64);
        self.reserve.set(wanted.min(self.ring_bytes() / 4 * 3));
    }

    /// Says whether checkpoints fail for want of space: appends that do not fit are refused then instead of waiting.
    pub fn set_stuck(&self, stuck: bool) {
        self.stuck.set(stuck);
        self.floors.work.notify_one();
    }

    /// Appends a record, with its payload in whole blocks, and waits until it is written.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn append(
        &self,
        class: Class,
        record: Record,
        payload: Option<View>,
    ) -> Result<Appended, AppendError> {
        self.submit(class, record, payload)?.written().await
    }

    /// As [`Journal::append`], but only takes the record's place in the queue of its class: records of one class lie in
    /// the journal in this order.
    ///
    /// # Errors
    /// [`AppendError::Failed`], [`AppendError::Closed`].
    ///
    /// # Panics
    /// When the payload is not as long as the record says, or too long.
    pub fn submit(
        &self,
        class: Class,
        record: Record,
        payload: Option<View>,
    ) -> Result<Submitted, AppendError> {
        let (answer, receive) = oneshot();
        let pending = Pending { record, payload, answer };
        let len = pending.payload_len();
        assert_eq!(
            pending.payload.as_ref().map_or(0, |view| view.len()),
            len,
            "a record's payload is its blocks"
        );
        assert!(
            GROUP_HEADER + pending.record.encoded_len() + BLOCK + len <= GROUP_MAX,
            "a record must fit a group"
        );
        self.check_open()?;
        self.queues[class as usize].borrow_mut().push_back(pending);
        self.floors.work.notify_one();
        Ok(Submitted(receive))
    }

    /// Whether a record without payload would be written at once in this class, whatever others append.
    pub fn has_room(&self, class: Class) -> bool {
        // The group, and a filler before it.
        const NEED: u64 = 4 * BLOCK as u64;
        self.ring_bytes() - (self.next.get() - self.tail()) >= self.kept_from(class) + NEED
    }

    /// Bytes of the ring that a class leaves to those before it.
    fn kept_from(&self, class: Class) -> u64 {
        match class {
            Class::Checkpoint => 0,
            Class::Urgent => self.reserve.get() / 2,
            Class::Normal => self.reserve.get(),
        }
    }

    fn check_open(&self) -> Result<(), AppendError> {
        match (self.failed.get(), self.closed.get()) {
            (true, _) => Err(AppendError::Failed),
            (_, true) => Err(AppendError::Closed),
            _ => Ok(()),
        }
    }

    /// Ends the writer; appends that wait are refused.
    pub fn close(&self) {
        self.closed.set(true);
        self.floors.work.notify_one();
    }

    /// Ends the writer after a failure of any device: nothing is accepted any more.
    pub fn fail(&self) {
        self.failed.set(true);
        self.close();
    }

    /// Holds appends until [`Journal::let_go`], and waits until all that was appended is written and taken into account.
    /// What is asked for meanwhile waits.
    ///
    /// # Errors
    /// [`AppendError::Failed`], [`AppendError::Closed`].
    pub async fn hold(&self, what: Hold) -> Result<(), AppendError> {
        self.held.set(what);
        loop {
            let quiet = self.floors.quiet.notified();
            self.check_open()?;
            if self.writing.get().is_none() && self.floors.lowest().is_none() {
                return Ok(());
            }
            quiet.await;
        }
    }

    /// Ends [`Journal::hold`].
    pub fn let_go(&self) {
        self.held.set(Hold::Nothing);
        self.floors.work.notify_one();
    }

    /// A journal that goes on where this one ends: same LSNs, same chain of groups, another file and another generation.
    /// This one is to be held as long as both are there.
    ///
    /// # Errors
    /// Those of the new device.
    pub async fn continue_in(&self, file: File, made: &JournalHeader) -> io::Result<Rc<Self>> {
        let next = self.next.get();
        let header = JournalHeader {
            sequence: made.sequence + 1,
            tail: next,
            tail_previous_crc: self.previous_crc.get(),
            durable: next,
            ..*made
        };
        // The header that it was made with is copy 0.
        file.write_all_at(View::copy_of(&header.encode()), BLOCK as u64).await?;
        file.sync_data().await?;
        let starts = VecDeque::new();
        let position = Position { next, previous_crc: self.previous_crc.get(), durable: next, starts };
        Ok(Self::start(Rc::new(file), header, 1, self.incarnation, position, Rc::clone(&self.latency)))
    }

    /// Takes over what waits to be appended to `old`, which is held and ends with that.
    pub fn succeed(&self, old: &Self) {
        for (mine, theirs) in self.queues.iter().zip(&old.queues) {
            mine.borrow_mut().append(&mut theirs.borrow_mut());
        }
        old.close();
        self.floors.work.notify_one();
    }

    /// Reads blocks of payload that lie in the ring.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn read_payload(&self, at: u64, buf: Buf) -> (io::Result<()>, Buf) {
        self.file.read_exact_at(buf, self.header.get().offset(at)).await
    }
}
