//! The log in use: appending, reading, dropping what is not needed any more.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::Duration;

use rt::buf::Buf;
use rt::fs::{self, File, OpenOptions};
use rt::sync::{Notify, Semaphore};

use super::body;
use super::directory::Directory;
use super::entry::{Entry, LogId, Membership, NodeId, Payload, Vote};
use super::failure::{LogFailure, OpenError, is_full};
use super::index::{Index, Slot};
use super::record::{self, BLOCK, Flaw, Group, Head, Kind, Unreadable};
use super::recover::{Found, Recovered, TornTail, recover};
use super::scan::scan;
use super::segment::{self, STEP, Segment};

/// How long the log must have been idle before a record is written that only says that the last group is durable.
const MARK_DELAY: Duration = Duration::from_millis(200);
/// How long to wait before trying again to make a segment on a full disk.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// Sizes of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Bytes of a new segment: a multiple of [`BLOCK`], at least 16 blocks.
    pub segment_bytes: u64,
    /// Bytes of entries kept in memory.
    pub cached_bytes_max: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 4 << 20, cached_bytes_max: 8 << 20 }
    }
}

impl LogOptions {
    /// The longest body of one record, in bytes: a quarter of a segment, at most 512 KiB.
    #[must_use]
    pub fn body_max(&self) -> usize {
        usize::try_from(self.segment_bytes / 4).unwrap_or(usize::MAX).min(record::BODY_MAX / 2)
    }
}

/// What a log occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Segment files.
    pub segments: u64,
    /// Bytes of the segment files.
    pub bytes: u64,
    /// Entries that are there.
    pub entries: u64,
    /// Bytes appended since the log was opened, with what fills groups up.
    pub appended_bytes: u64,
    /// Groups written since the log was opened: one write and one flush each.
    pub groups: u64,
}

/// Creates a log in a new directory. A founder is the first member of a new group.
///
/// # Errors
/// [`OpenError`]; nothing that [`Log::open`] would find is left then.
pub async fn create(
    dir: &Path,
    node: NodeId,
    founder: Option<&str>,
    options: LogOptions,
) -> Result<(), OpenError> {
    let dir = Directory::prepare(dir, node).await?;
    if !list_segments(&dir).await?.0.is_empty() {
        // An interrupted creation, or a server whose identity was lost: its log is not ours to remove.
        return Err(OpenError::Leftovers(dir.path().to_owned()));
    }
    let cannot = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidInput => OpenError::NoDirectIo(dir.path().to_owned()),
        _ => OpenError::io("make a log segment in", dir.path())(error),
    };
    let segment = Segment::draft(&dir, 1, options.segment_bytes).await.map_err(cannot)?;
    let mut group = Group::new(dir.identity().tag(), 1);
    match founder {
        Some(address) => {
            let members = Payload::Membership(Membership::founder(node, address));
            group.push(Head::new(Kind::Entry, LogId::default()), &body::encode(&members));
        }
        None => {
            group.push(Head::new(Kind::Vote, LogId::default()), &[]);
        }
    }
    let bytes = Buf::copy_of(&group.finish()).freeze();
    segment.file.write_all_at(bytes, BLOCK as u64).await.map_err(cannot)?;
    segment.file.sync_all().await.map_err(cannot)?;
    segment.publish(&dir).await.map_err(OpenError::io("name a log segment in", dir.path()))?;
    dir.sign().await
}

/// The log of one member. Clones share it.
#[derive(Clone, Debug)]
pub struct Log(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    dir: Rc<Directory>,
    options: LogOptions,
    state: RefCell<State>,
    /// One group at a time.
    writing: Semaphore,
    failure: RefCell<Option<LogFailure>>,
    /// There is a failure now.
    failed: Rc<Notify>,
    spare: RefCell<Spare>,
    spare_changed: Notify,
    mark: Cell<Mark>,
    /// Nothing is waited for any more.
    closing: Cell<bool>,
    closed: Cell<bool>,
}

#[derive(Debug)]
struct State {
    index: Index,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// The last one that is in a record.
    committed_written: Option<LogId>,
    purged: Option<LogId>,
    next_seq: u64,
    segment: Rc<Segment>,
    position: u64,
    /// Every segment file and its size.
    segments: BTreeMap<u64, u64>,
    appended_bytes: u64,
    groups: u64,
}

/// The segment that will be next.
#[derive(Debug)]
enum Spare {
    None,
    Making,
    /// The disk is full; it is tried again.
    Full,
    Ready(Segment),
}

/// Whether the last group is yet to be vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// A later record does so.
    Done,
    /// No later record does; a timer runs.
    Due { last_write: rt::time::Instant },
}

/// A record to write.
#[derive(Debug)]
struct Item {
    head: Head,
    body: Vec<u8>,
    entry: Option<Entry>,
}

impl Item {
    fn plain(head: Head) -> Self {
        Self { head, body: Vec::new(), entry: None }
    }

    fn vote(vote: Vote) -> Self {
        let id = LogId { term: vote.term, node: vote.node, index: 0 };
        Self::plain(Head { committed: vote.committed, ..Head::new(Kind::Vote, id) })
    }

    fn entry(entry: Entry) -> Self {
        let body = body::encode(&entry.payload);
        Self { head: Head::new(Kind::Entry, entry.id), body, entry: Some(entry) }
    }

    fn len(&self) -> usize {
        record::record_len(self.body.len())
    }
}

impl Log {
    /// Opens the log of a directory. The second part says what was dropped at its end, if anything was.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        dir: Rc<Directory>,
        options: LogOptions,
    ) -> Result<(Self, Option<TornTail>), OpenError> {
        let at = dir.path().to_owned();
        // A segment may have got its name just before a kill.
        fs::sync_dir(&at).await.map_err(OpenError::io("flush", &at))?;
        let (numbers, drafts) = list_segments(&dir).await?;
        for draft in drafts {
            let path = at.join(draft);
            fs::remove_file(&path).await.map_err(OpenError::io("remove", &path))?;
        }
        let (mut scans, mut newest, mut sizes) = (Vec::new(), None, BTreeMap::new());
        for number in numbers {
            let (segment, bytes) = Segment::open(&dir, number).await?;
            let seen = scan(number, &bytes, dir.identity().tag());
            scans.push(seen.map_err(|_newer| OpenError::Newer(segment.path.clone()))?);
            sizes.insert(number, segment.size);
            newest = Some(segment);
        }
        let found =
            recover(&scans).map_err(|corruption| OpenError::Corrupt { dir: at.clone(), corruption })?;
        let segment = newest.expect("a log without segments is corrupt");
        if let Some(torn) = found.torn {
            rt::sim::hit("mds.log-torn-tail");
            segment
                .wipe(torn.offset, torn.end)
                .await
                .map_err(OpenError::io("clear the end of", &segment.path))?;
        }
        // What was read may still be in the device's cache; from here on it counts.
        segment.file.sync_data().await.map_err(OpenError::io("flush", &segment.path))?;
        for number in &found.stale {
            remove(&dir, *number).await.map_err(OpenError::io("remove an old segment in", &at))?;
            sizes.remove(number);
        }
        let torn = found.torn;
        let log = Self(Rc::new(Shared::new(dir, options, found, segment, sizes)));
        log.0.prepare_spare();
        Ok((log, torn))
    }

    /// The directory it is in.
    #[must_use]
    pub fn directory(&self) -> &Rc<Directory> {
        &self.0.dir
    }

    /// The vote last saved.
    #[must_use]
    pub fn vote(&self) -> Option<Vote> {
        self.0.state.borrow().vote
    }

    /// The last entry known to be committed.
    #[must_use]
    pub fn committed(&self) -> Option<LogId> {
        self.0.state.borrow().committed
    }

    /// The last entry that was dropped because a snapshot holds it.
    #[must_use]
    pub fn purged(&self) -> Option<LogId> {
        self.0.state.borrow().purged
    }

    /// The last entry, or the last one purged if none is left.
    #[must_use]
    pub fn last(&self) -> Option<LogId> {
        let state = self.0.state.borrow();
        state.index.last().or(state.purged)
    }

    /// Why the log takes nothing more, if so.
    #[must_use]
    pub fn failure(&self) -> Option<LogFailure> {
        self.0.failure.borrow().clone()
    }

    /// Notified when [`Log::failure`] has something to say: also what is done beside the groups that are written can fail.
    pub(crate) fn failed(&self) -> Rc<Notify> {
        Rc::clone(&self.0.failed)
    }

    /// Whether the disk is full and what is left of the last segment is kept for votes and the like.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let state = self.0.state.borrow();
        let left = state.segment.size - state.position;
        matches!(*self.0.spare.borrow(), Spare::Full) && left < state.segment.size / 2
    }

    /// What the log occupies.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let state = self.0.state.borrow();
        LogStats {
            segments: state.segments.len() as u64,
            bytes: state.segments.values().sum(),
            entries: state.index.len() as u64,
            appended_bytes: state.appended_bytes,
            groups: state.groups,
        }
    }

    /// Bytes of the segments from the entry with this index on; all of them if it is not there.
    #[must_use]
    pub fn bytes_from(&self, index: u64) -> u64 {
        let state = self.0.state.borrow();
        if state.index.last().is_none_or(|last| last.index < index) {
            return 0;
        }
        let whole: u64 = match state.index.get(index).map(|slot| slot.found) {
            Some(Found { segment, offset, .. }) => {
                let before = |size: u64| size.saturating_sub(offset);
                let range = state.segments.range(segment..state.segment.number);
                let full: u64 =
                    range.map(|(number, size)| if *number == segment { before(*size) } else { *size }).sum();
                return if segment == state.segment.number {
                    state.position - offset
                } else {
                    full + state.position
                };
            }
            None => state.segments.range(..state.segment.number).map(|(_, size)| size).sum(),
        };
        whole + state.position
    }

    /// Saves a vote; it is durable when this returns.
    ///
    /// # Errors
    /// [`LogFailure`]: the process must end.
    pub async fn save_vote(&self, vote: Vote) -> Result<(), LogFailure> {
        self.commit(vec![Item::vote(vote)]).await
    }

    /// Appends entries, the first of which follows the last one; they are durable when this returns.
    ///
    /// # Errors
    /// [`LogFailure`]: the process must end.
    ///
    /// # Panics
    /// When an entry is too large ([`LogOptions::body_max`]).
    pub async fn append(&self, entries: Vec<Entry>) -> Result<(), LogFailure> {
        self.commit(entries.into_iter().map(Item::entry).collect()).await
    }

    /// Drops the entries from `first` on; that is durable when this returns.
    ///
    /// # Errors
    /// [`LogFailure`]: the process must end.
    pub async fn truncate(&self, first: LogId) -> Result<(), LogFailure> {
        self.commit(vec![Item::plain(Head::new(Kind::Truncate, first))]).await
    }

    /// Drops the entries up to `last`, which a snapshot holds; that is durable when this returns. Segments without
    /// entries go a little later.
    ///
    /// # Errors
    /// [`LogFailure`]: the process must end.
    pub async fn purge(&self, last: LogId) -> Result<(), LogFailure> {
        self.commit(vec![Item::plain(Head::new(Kind::Purge, last))]).await
    }

    /// Notes that everything up to `id` is committed. It is written with the next group, or when the log has been idle for
    /// a moment.
    pub fn note_committed(&self, id: LogId) {
        let mut state = self.0.state.borrow_mut();
        state.committed = state.committed.max(Some(id));
    }

    /// Reads entries of `range` from its beginning on, at least one if there is one, and more until they have `bytes_max`
    /// bytes.
    ///
    /// # Errors
    /// [`LogFailure`]: the process must end.
    pub async fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, LogFailure> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut wanted = self.0.state.borrow().index.within(range);
        while !wanted.is_empty() {
            let slot = self.0.state.borrow().index.get(wanted.start).cloned();
            // What is purged meanwhile is not there any more.
            let Some(Slot { found, payload }) = slot else { break };
            if !entries.is_empty() && bytes + found.body_len as usize > bytes_max {
                break;
            }
            match payload {
                Some(payload) => {
                    bytes += found.body_len as usize;
                    entries.push(Entry { id: found.id, payload });
                    wanted.start += 1;
                }
                None => {
                    let stretch = self.0.stretch(wanted.clone(), bytes_max.saturating_sub(bytes));
                    let read = self.0.read_stretch(&stretch).await.inspect_err(|error| self.0.fail(error))?;
                    bytes += stretch.iter().map(|found| found.body_len as usize).sum::<usize>();
                    wanted.start += read.len() as u64;
                    entries.extend(read);
                }
            }
        }
        Ok(entries)
    }

    /// Vouches for the last group and takes nothing more. Groups under way are completed, unless they wait for room on
    /// the disk.
    pub async fn close(&self) {
        self.0.closing.set(true);
        self.0.spare_changed.notify_all();
        if matches!(self.0.mark.get(), Mark::Due { .. }) {
            // If it fails there is nothing left to stop.
            let _failed = self.commit(Vec::new()).await;
        }
        self.0.closed.set(true);
        let _idle = self.0.writing.acquire(1).await;
    }

    /// Writes records, durably. The work goes on to its end even if the future is dropped.
    async fn commit(&self, items: Vec<Item>) -> Result<(), LogFailure> {
        let shared = Rc::clone(&self.0);
        let written = rt::spawn(async move {
            let _turn = shared.writing.acquire(1).await;
            shared.write_all(items).await.inspect_err(|error| shared.fail(error))
        });
        written.await.unwrap_or(Err(LogFailure::Closed))
    }
}

impl Shared {
    fn new(
        dir: Rc<Directory>,
        options: LogOptions,
        found: Recovered,
        segment: Segment,
        segments: BTreeMap<u64, u64>,
    ) -> Self {
        let state = State {
            index: Index::new(found.entries, options.cached_bytes_max),
            vote: found.vote,
            committed: found.committed,
            committed_written: found.committed,
            purged: found.purged,
            next_seq: found.next_seq,
            segment: Rc::new(segment),
            position: found.position,
            segments,
            appended_bytes: 0,
            groups: 0,
        };
        Self {
            dir,
            options,
            state: RefCell::new(state),
            writing: Semaphore::new(1),
            failure: RefCell::new(None),
            failed: Rc::new(Notify::new()),
            spare: RefCell::new(Spare::None),
            spare_changed: Notify::new(),
            mark: Cell::new(Mark::Done),
            closing: Cell::new(false),
            closed: Cell::new(false),
        }
    }

    fn fail(&self, error: &LogFailure) {
        if matches!(error, LogFailure::Closed) {
            return;
        }
        self.failure.borrow_mut().get_or_insert_with(|| error.clone());
        self.failed.notify_all();
        // Who waits for a segment waits in vain.
        self.spare_changed.notify_all();
    }

    fn check(&self) -> Result<(), LogFailure> {
        if let Some(failure) = &*self.failure.borrow() {
            return Err(failure.clone());
        }
        if self.closed.get() { Err(LogFailure::Closed) } else { Ok(()) }
    }

    /// Writes records as one group, or as several if they are too large for one.
    async fn write_all(self: &Rc<Self>, mut items: Vec<Item>) -> Result<(), LogFailure> {
        let vouch_only = items.is_empty();
        if let Some(committed) = self.unwritten_commit(vouch_only) {
            items.insert(0, Item::plain(Head::new(Kind::Committed, committed)));
        }
        while !items.is_empty() {
            self.check()?;
            let rest = items.split_off(group_end(&items, self.options.body_max()));
            self.write_group(std::mem::replace(&mut items, rest)).await?;
        }
        if vouch_only {
            self.mark.set(Mark::Done);
        } else {
            self.schedule_mark();
        }
        Ok(())
    }

    /// What the log should say is committed and does not yet; or again, if that is all there is to say.
    fn unwritten_commit(&self, again: bool) -> Option<LogId> {
        let state = self.state.borrow();
        state.committed.filter(|_| again || state.committed != state.committed_written)
    }

    async fn write_group(self: &Rc<Self>, items: Vec<Item>) -> Result<(), LogFailure> {
        let len: usize = items.iter().map(Item::len).sum();
        let restated = self.make_room(len).await?;
        let (segment, position, next_seq) = {
            let state = self.state.borrow();
            (Rc::clone(&state.segment), state.position, state.next_seq)
        };
        let mut group = Group::new(self.dir.identity().tag(), next_seq);
        for head in restated {
            group.push(head, &[]);
        }
        let offsets: Vec<usize> = items.iter().map(|item| group.push(item.head, &item.body)).collect();
        let next_seq = group.next_seq();
        let bytes = group.finish();
        let len = bytes.len() as u64;
        let data = Buf::copy_of(&bytes).freeze();
        segment.file.write_all_at(data, position).await.map_err(LogFailure::io("write", &segment.path))?;
        if !rt::sim::planted("mds.log-flush-skipped") {
            segment.file.sync_data().await.map_err(LogFailure::io("flush", &segment.path))?;
        }
        let mut state = self.state.borrow_mut();
        state.next_seq = next_seq;
        state.position += len;
        state.appended_bytes += len;
        state.groups += 1;
        for (item, offset) in items.into_iter().zip(offsets) {
            state.take(item, segment.number, position + offset as u64);
        }
        drop(state);
        self.drop_old_segments();
        self.prepare_spare();
        Ok(())
    }

    /// Goes on to the next segment if `len` bytes do not fit; gives what must be restated at its beginning.
    async fn make_room(self: &Rc<Self>, len: usize) -> Result<Vec<Head>, LogFailure> {
        let fits = {
            let state = self.state.borrow();
            state.position + len as u64 <= state.segment.size
        };
        if fits {
            return Ok(Vec::new());
        }
        rt::sim::hit("mds.log-new-segment");
        let spare = self.take_spare().await?;
        let path = spare.path.clone();
        let next = spare.publish(&self.dir).await.map_err(LogFailure::io("name", &path))?;
        let mut state = self.state.borrow_mut();
        state.segments.insert(next.number, next.size);
        state.segment = Rc::new(next);
        state.position = BLOCK as u64;
        Ok(state.restated())
    }

    async fn take_spare(self: &Rc<Self>) -> Result<Segment, LogFailure> {
        loop {
            let changed = self.spare_changed.notified();
            match self.spare.replace(Spare::None) {
                Spare::Ready(segment) => return Ok(segment),
                Spare::None => self.start_spare(),
                other => *self.spare.borrow_mut() = other,
            }
            self.check()?;
            if self.closing.get() {
                return Err(LogFailure::Closed);
            }
            changed.await;
        }
    }

    /// Makes the next segment ahead of time, once half of this one is used.
    fn prepare_spare(self: &Rc<Self>) {
        let half_used = {
            let state = self.state.borrow();
            state.position > state.segment.size / 2
        };
        if half_used && matches!(*self.spare.borrow(), Spare::None) && !self.closing.get() {
            self.start_spare();
        }
    }

    fn start_spare(self: &Rc<Self>) {
        *self.spare.borrow_mut() = Spare::Making;
        let number = self.state.borrow().segment.number + 1;
        let shared = Rc::downgrade(self);
        // Detached: it ends with the segment made, or with the log.
        drop(rt::spawn(make_spare(shared, number)));
    }

    /// Removes the segments whose entries are all purged; what else they said is restated in later ones.
    fn drop_old_segments(self: &Rc<Self>) {
        let old: Vec<u64> = {
            let mut state = self.state.borrow_mut();
            let newest = state.segment.number;
            let needed = state.index.oldest_segment().unwrap_or(newest).min(newest);
            let kept = state.segments.split_off(&needed);
            std::mem::replace(&mut state.segments, kept).into_keys().collect()
        };
        if old.is_empty() {
            return;
        }
        let shared = Rc::clone(self);
        drop(rt::spawn(async move {
            for number in old {
                let path = segment::path_of(shared.dir.path(), number);
                if let Err(error) = fs::remove_file(&path).await.map_err(LogFailure::io("remove", &path)) {
                    shared.fail(&error);
                }
            }
        }));
    }

    /// Sees to it that the last group is vouched for when the log falls idle.
    fn schedule_mark(self: &Rc<Self>) {
        let due = Mark::Due { last_write: rt::time::now() };
        if self.mark.replace(due) == Mark::Done {
            drop(rt::spawn(vouch_when_idle(Rc::downgrade(self))));
        }
    }

    /// The entries from the beginning of `range` on that can be fetched with one read.
    fn stretch(&self, range: Range<u64>, bytes_max: usize) -> Vec<Found> {
        let state = self.state.borrow();
        let mut stretch: Vec<Found> = Vec::new();
        let mut bytes = 0;
        for slot in range.map_while(|index| state.index.get(index)) {
            let found = slot.found;
            bytes += found.body_len as usize;
            let fits = stretch.first().is_none_or(|first| {
                let end = found.offset + record::record_len(found.body_len as usize) as u64;
                found.segment == first.segment && end - first.offset <= STEP as u64 && bytes <= bytes_max
            });
            if !fits || slot.payload.is_some() {
                break;
            }
            stretch.push(found);
        }
        stretch
    }

    /// Reads entries of one segment back and checks them again.
    async fn read_stretch(&self, stretch: &[Found]) -> Result<Vec<Entry>, LogFailure> {
        let Some((first, last)) = stretch.first().zip(stretch.last()) else { return Ok(Vec::new()) };
        let path = segment::path_of(self.dir.path(), first.segment);
        let from = first.offset / BLOCK as u64 * BLOCK as u64;
        let end =
            (last.offset + record::record_len(last.body_len as usize) as u64).next_multiple_of(BLOCK as u64);
        let file = File::open(&path, OpenOptions { direct: true, ..OpenOptions::read() });
        let file = file.await.map_err(LogFailure::io("open", &path))?;
        let bytes =
            segment::read(&file, from, (end - from) as usize).await.map_err(LogFailure::io("read", &path))?;
        let entry = |found: &Found| {
            let damaged = |flaw| LogFailure::Damaged { path: path.clone(), offset: found.offset, flaw };
            let parsed = record::parse(&bytes[(found.offset - from) as usize..], self.dir.identity().tag());
            let (header, content) = parsed.map_err(|error| match error {
                Unreadable::Flaw(flaw) => damaged(flaw),
                Unreadable::Newer(_) => damaged(Flaw::NoRecord),
            })?;
            if header.head.id != found.id {
                return Err(damaged(Flaw::Sequence { found: header.seq }));
            }
            let payload = body::decode(content).map_err(|_| damaged(Flaw::NoRecord))?;
            Ok(Entry { id: found.id, payload })
        };
        stretch.iter().map(entry).collect()
    }
}

impl State {
    /// What an earlier segment said and a new one must say again, because the earlier one may go.
    fn restated(&self) -> Vec<Head> {
        let vote = self.vote.map(|vote| Item::vote(vote).head);
        let purged = self.purged.map(|id| Head::new(Kind::Purge, id));
        let committed = self.committed_written.map(|id| Head::new(Kind::Committed, id));
        [vote, purged, committed].into_iter().flatten().map(|head| Head { restated: true, ..head }).collect()
    }

    /// Takes over what has become durable.
    fn take(&mut self, item: Item, segment: u64, offset: u64) {
        let Head { kind, id, committed, .. } = item.head;
        match kind {
            Kind::Entry => {
                let found = Found { id, segment, offset, body_len: item.body.len() as u32 };
                if let Some(entry) = item.entry {
                    self.index.push(found, entry);
                }
            }
            Kind::Vote => self.vote = Some(Vote { term: id.term, node: id.node, committed }),
            Kind::Committed => self.committed_written = self.committed_written.max(Some(id)),
            Kind::Truncate => self.index.truncate(id.index),
            Kind::Purge => {
                self.purged = self.purged.max(Some(id));
                self.index.purge(id.index);
            }
        }
    }
}

/// How many items, at least one, go into one group of about `max` bytes.
fn group_end(items: &[Item], max: usize) -> usize {
    let mut len = 0;
    let fits = items.iter().take_while(|item| {
        len += item.len();
        len <= max
    });
    fits.count().max(1)
}

async fn make_spare(shared: Weak<Shared>, number: u64) {
    let mut was_full = false;
    loop {
        let Some(log) = shared.upgrade().filter(|log| !log.closing.get()) else { return };
        let dir = Rc::clone(&log.dir);
        let size = log.options.segment_bytes;
        drop(log);
        let made = Segment::draft(&dir, number, size).await;
        drop(dir);
        let Some(log) = shared.upgrade() else { return };
        let (spare, full) = match made {
            Ok(segment) => (Spare::Ready(segment), false),
            Err(error) if is_full(&error) => (Spare::Full, true),
            Err(error) => {
                log.fail(&LogFailure::io("make", &segment::draft_of(log.dir.path(), number))(error));
                (Spare::None, false)
            }
        };
        *log.spare.borrow_mut() = spare;
        log.spare_changed.notify_all();
        let dir = log.dir.path().display().to_string();
        drop(log);
        match (full, was_full) {
            (true, false) => tracing::error!(
                "no room in {dir} for the next segment of the metadata log ({size} bytes): when the present one is \
                 half full changes are refused; free some space"
            ),
            (false, true) => tracing::info!("there is room in {dir} for the metadata log again"),
            _ => {}
        }
        if !full {
            return;
        }
        was_full = true;
        rt::time::sleep(FULL_RETRY).await;
    }
}

async fn vouch_when_idle(shared: Weak<Shared>) {
    loop {
        let Some(Mark::Due { last_write }) = shared.upgrade().map(|log| log.mark.get()) else { return };
        rt::time::sleep_until(last_write + MARK_DELAY).await;
        let Some(log) = shared.upgrade() else { return };
        match log.mark.get() {
            Mark::Done => return,
            Mark::Due { last_write } if last_write + MARK_DELAY <= rt::time::now() => {
                // A failure is kept by the log itself.
                let _noted = Log(log).commit(Vec::new()).await;
                return;
            }
            Mark::Due { .. } => {}
        }
    }
}

/// The numbers of the segments of a directory, in order, and the names of drafts.
async fn list_segments(dir: &Directory) -> Result<(Vec<u64>, Vec<String>), OpenError> {
    let names = fs::read_dir(dir.path()).await.map_err(OpenError::io("list", dir.path()))?;
    let names = names.into_iter().filter(|entry| !entry.is_dir).map(|entry| entry.name);
    let (mut numbers, mut drafts) = (Vec::new(), Vec::new());
    for name in names {
        match segment::number_in(&name) {
            Some(number) => numbers.push(number),
            None if name.strip_suffix(".new").and_then(segment::number_in).is_some() => drafts.push(name),
            None => {}
        }
    }
    numbers.sort_unstable();
    Ok((numbers, drafts))
}

async fn remove(dir: &Directory, number: u64) -> io::Result<()> {
    fs::remove_file(&segment::path_of(dir.path(), number)).await
}
