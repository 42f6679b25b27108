//! The volume: one file, open under a lease.
//!
//! The road of a write: [`Volume::write`] → range lock → split by chunk → sequence number → every member at once →
//! acknowledged when all have it (C3). A member that stays away, or refuses for good, is reported: the same number then goes to all that the
//! chunk has by its next version (C11). A server that comes back in the same boot goes on where it was; one that comes back in another
//! boot breaks the epoch off, the file is opened again at a higher one, and each chunk is settled among its members before it is
//! used (C5, C10).

mod call;
mod flush;
mod known;
mod lease;
mod map;
mod read;
mod reports;
mod settle;
mod shape;
mod window;
mod write;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use link::AskError;
use rt::sync::{Notify, RangeLock, Semaphore};
use rt::time::Instant;
use wire::lease::{Open, OpenMode, OpenReply};
use wire::namespace::FileRef;
use wire::{Action, Status};

use crate::error::{OpenError, VolumeError};
use crate::release::Unused;
use crate::servers::Servers;
use crate::session::{OpenFile, Session};
use lease::{Chunk, Lease};

pub use settle::Comparison;
pub use shape::Cut;

/// Unit of checksums, in bytes.
pub(crate) const BLOCK: u64 = 4096;
/// Most bytes that one request to a chunk server carries.
pub(crate) const PART_MAX: u64 = 1 << 20;
/// Largest size of any file: offsets are signed on every client.
pub(crate) const SIZE_MAX: u64 = i64::MAX as u64;
/// Bytes of reads and writes under way before more must wait.
const BUDGET_BYTES: u64 = 64 << 20;
/// Most chunks of a file.
const CHUNKS_MAX: u64 = 1 << 32;
/// How long one request may take before it is sent again.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(10);
/// How long one request to the metadata server may take before it is sent again.
pub(crate) const ASK: Duration = Duration::from_secs(10);
/// Pause before a request that found a server busy or full is sent again.
pub(crate) const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause between two epochs.
const REOPEN_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How to open a volume.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Write as well as read.
    pub write: bool,
    /// Wait this long for a lease that another client holds or that is being fenced.
    pub patience: Duration,
}

/// What a volume is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// Serving.
    Active,
    /// Waiting for a new epoch: requests wait.
    Reopening,
    /// Dead for ever.
    Lost,
    /// Closed.
    Closed,
}

/// A run of blocks with the same allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Bytes.
    pub len: u64,
    /// Whether it holds data; else it reads as zero.
    pub data: bool,
}

/// Why an attempt under one epoch ended.
#[derive(Clone, Debug)]
pub(crate) enum Stop {
    /// The epoch is over: try again under the next.
    Broken,
    /// For good.
    Fatal(VolumeError),
}

impl From<VolumeError> for Stop {
    fn from(error: VolumeError) -> Self {
        Self::Fatal(error)
    }
}

/// Why an attempt under one version of a chunk ended.
#[derive(Clone, Debug)]
pub(crate) enum Halt {
    /// The chunk has another version, or its map has to be asked for: try again with that.
    Replaced,
    /// As for every attempt.
    Stop(Stop),
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<VolumeError> for Halt {
    fn from(error: VolumeError) -> Self {
        Self::Stop(error.into())
    }
}

/// An open volume; clones are the same volume.
#[derive(Clone, Debug)]
pub struct Volume {
    inner: Rc<Inner>,
}

struct Inner {
    this: std::rc::Weak<Self>,
    session: Rc<Session>,
    servers: Rc<Servers>,
    file_id: u64,
    chunk_size: u64,
    size: Cell<u64>,
    writable: bool,
    /// Writes beyond the end make it longer.
    grows: Cell<bool>,
    /// Behind the end that the metadata server knows may be more than zeroes.
    end_in_doubt: Cell<bool>,
    /// A write that finds no space fails; else it waits.
    fails_when_full: Cell<bool>,
    lease: RefCell<Rc<Lease>>,
    state: Cell<VolumeState>,
    state_changed: Notify,
    lost: RefCell<Option<VolumeError>>,
    writes_lost: Cell<bool>,
    /// The metadata server has been told of it.
    loss_told: Cell<bool>,
    /// Nobody else in this session has the file open, until it is closed or lost.
    open: RefCell<Option<OpenFile>>,
    ranges: RangeLock,
    budget: Semaphore,
    /// That of reads: writes that wait hold up none.
    read_budget: Semaphore,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("file_id", &self.file_id)
            .field("epoch", &self.lease.borrow().epoch)
            .field("state", &self.state.get())
            .finish_non_exhaustive()
    }
}

impl Volume {
    /// Opens a file under a lease.
    ///
    /// # Errors
    /// [`OpenError`]: `LeaseHeld` when another client has it, `NotFound`, and so on.
    pub async fn open(
        session: &Rc<Session>,
        servers: &Rc<Servers>,
        path: &str,
        options: &OpenOptions,
    ) -> Result<Self, OpenError> {
        Self::open_file(session, servers, FileRef::Path(path.to_owned()), options).await
    }

    /// Opens a file under a lease, by its path or its id.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub async fn open_file(
        session: &Rc<Session>,
        servers: &Rc<Servers>,
        file: FileRef,
        options: &OpenOptions,
    ) -> Result<Self, OpenError> {
        let generation = session.generation();
        let request = Open {
            file: Some(file),
            session: session.key(),
            mode: if options.write { OpenMode::Write } else { OpenMode::Read }.into(),
            map_count: 16,
            resume_epoch: 0,
        };
        let deadline = rt::time::now() + options.patience;
        loop {
            let reply = session.master().ask(&request, deadline).await?;
            // A reader may be granted anew what it is about to give back, and would lose both without knowing.
            let given_back = session.unreleased().passes(session, reply.file_id, reply.epoch);
            match rt::time::timeout_at(deadline, given_back).await {
                Ok(false) => return Self::from_reply(session, servers, generation, &reply, options.write),
                Ok(true) => {}
                Err(_) => return Err(OpenError::AlreadyOpen),
            }
        }
    }

    /// Takes over a lease that came with the answer to another request, such as the one that made the file.
    /// `generation` is that of the session when the request was sent ([`Session::generation`]).
    ///
    /// # Errors
    /// [`OpenError::Answer`].
    pub fn from_reply(
        session: &Rc<Session>,
        servers: &Rc<Servers>,
        generation: u64,
        reply: &OpenReply,
        write: bool,
    ) -> Result<Self, OpenError> {
        let unused = Unused { file_id: reply.file_id, epoch: reply.epoch, generation, clean: false };
        if reply.chunk_size == 0 || !reply.chunk_size.is_multiple_of(BLOCK) {
            session.release_later(unused);
            return Err(OpenError::Answer("chunk size"));
        }
        let Some(open) = session.enter(reply.file_id) else {
            // Whoever has it open opens it again at a higher epoch, or has closed it and knows nothing of this one.
            session.release_later(unused);
            return Err(OpenError::AlreadyOpen);
        };
        let lease = Rc::new(Lease::new(reply.epoch, generation, reply.needs_reconcile));
        let chunks = reply.size.div_ceil(reply.chunk_size);
        let asked = if reply.map.next_index == 0 { chunks } else { reply.map.next_index };
        lease.learn(servers, &reply.map, 0..asked.min(chunks));
        let inner = Rc::new_cyclic(|this| Inner {
            this: this.clone(),
            session: Rc::clone(session),
            servers: Rc::clone(servers),
            file_id: reply.file_id,
            chunk_size: reply.chunk_size,
            size: Cell::new(reply.size),
            writable: write,
            grows: Cell::new(false),
            end_in_doubt: Cell::new(false),
            fails_when_full: Cell::new(false),
            lease: RefCell::new(lease),
            state: Cell::new(VolumeState::Active),
            state_changed: Notify::new(),
            lost: RefCell::new(None),
            writes_lost: Cell::new(false),
            loss_told: Cell::new(false),
            open: RefCell::new(Some(open)),
            ranges: RangeLock::new(),
            budget: Semaphore::new(BUDGET_BYTES),
            read_budget: Semaphore::new(BUDGET_BYTES),
        });
        rt::spawn(keep_lease(Rc::downgrade(&inner)));
        inner.settle_in_background(&Rc::clone(&inner.lease.borrow()));
        Ok(Self { inner })
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inner.size.get()
    }

    /// The largest size the file can have, in bytes.
    #[must_use]
    pub fn size_max(&self) -> u64 {
        self.inner.chunk_size.saturating_mul(CHUNKS_MAX).min(SIZE_MAX)
    }

    /// The file's id.
    #[must_use]
    pub fn file_id(&self) -> u64 {
        self.inner.file_id
    }

    /// Bytes of one chunk.
    #[must_use]
    pub fn chunk_size(&self) -> u64 {
        self.inner.chunk_size
    }

    /// What the volume is doing.
    #[must_use]
    pub fn state(&self) -> VolumeState {
        self.inner.state.get()
    }

    /// Waits until it is lost or closed, and says which.
    pub async fn ended(&self) -> VolumeState {
        loop {
            let changed = self.inner.state_changed.notified();
            let state = self.state();
            if matches!(state, VolumeState::Lost | VolumeState::Closed) {
                return state;
            }
            changed.await;
        }
    }

    /// Whether it serves, or will again.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.inner.state.get(), VolumeState::Active | VolumeState::Reopening)
    }

    /// Epoch of the lease now.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.inner.lease.borrow().epoch
    }

    /// Flushes, tells the servers that everything is stable, and gives the lease back (C1).
    ///
    /// # Errors
    /// [`VolumeError`] when the flush failed: the lease is given back as not clean then, and the next client
    /// has the chunks settled first.
    pub async fn close(&self) -> Result<(), VolumeError> {
        let inner = &self.inner;
        // Nothing new begins; what is under way ends first.
        let _all = inner.ranges.exclusive(0..u64::MAX).await;
        let flushed = if inner.writable { self.flush().await } else { Ok(()) };
        // Without a write under this epoch there is nothing to announce, unless it has settled what others left.
        let has_changed = {
            let lease = inner.lease.borrow();
            lease.needs_reconcile || lease.window.borrow().has_issued()
        };
        if flushed.is_ok() && inner.writable && has_changed {
            self.announce_stable().await;
        }
        // The epoch may be another one by now.
        let lease = Rc::clone(&inner.lease.borrow());
        inner.set_state(VolumeState::Closed);
        // Whatever is under way still is answered no more.
        lease.break_off();
        let clean = flushed.is_ok() && lease.is_all_settled() && !inner.end_in_doubt.get();
        inner.session.release(inner.unused(&lease, clean)).await;
        inner.open.borrow_mut().take();
        flushed
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<(), VolumeError> {
        let size = if self.inner.grows.get() { self.size_max() } else { self.inner.size.get() };
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(VolumeError::Range { offset, len, size }),
        }
    }
}

impl Inner {
    fn set_state(&self, state: VolumeState) {
        // What is closed stays so, whatever was under way.
        if self.state.get() == VolumeState::Closed {
            return;
        }
        self.state.set(state);
        self.state_changed.notify_all();
    }

    fn unused(&self, lease: &Lease, clean: bool) -> Unused {
        let (file_id, epoch, generation) = (self.file_id, lease.epoch, lease.session_generation);
        Unused { file_id, epoch, generation, clean }
    }

    fn lose(&self, error: VolumeError) {
        tracing::error!("file {}: {error}", self.file_id);
        *self.lost.borrow_mut() = Some(error);
        self.lease.borrow().break_off();
        self.open.borrow_mut().take();
        self.set_state(VolumeState::Lost);
    }

    /// The lease, once it may be used.
    async fn usable_lease(&self) -> Result<Rc<Lease>, VolumeError> {
        if self.state.get() == VolumeState::Active && self.session.may_issue() {
            let lease = self.lease.borrow();
            if self.is_current(&lease) && !lease.is_broken() {
                return Ok(Rc::clone(&lease));
            }
        }
        Box::pin(self.next_usable_lease()).await
    }

    /// Whether the lease was granted to the session as it is now.
    fn is_current(&self, lease: &Lease) -> bool {
        lease.session_generation == self.session.generation()
            && !self.session.is_revoked(self.file_id, lease.epoch)
    }

    async fn next_usable_lease(&self) -> Result<Rc<Lease>, VolumeError> {
        loop {
            let changed = self.state_changed.notified();
            match self.state.get() {
                VolumeState::Active => {
                    let lease = Rc::clone(&self.lease.borrow());
                    if self.session.valid().await.is_err() {
                        return Err(VolumeError::LeaseLost("the session has ended".into()));
                    }
                    if self.is_current(&lease) && !lease.is_broken() {
                        return Ok(lease);
                    }
                    // The keeper opens the file again.
                    lease.break_off();
                }
                VolumeState::Reopening => {}
                VolumeState::Lost => {
                    let lost = self.lost.borrow().clone();
                    return Err(lost.unwrap_or(VolumeError::Closed));
                }
                VolumeState::Closed => return Err(VolumeError::Closed),
            }
            changed.await;
        }
    }

    /// Whether a result obtained under `lease` may be given to the caller (C1): the lease was valid all the while.
    async fn may_acknowledge(&self, lease: &Lease) -> Result<(), Stop> {
        // A session that was opened anew says nothing of what was granted under the one before.
        let is_of_session = || self.is_current(lease) || rt::sim::planted("generation-ignored");
        if self.session.is_valid() && !lease.is_broken() && is_of_session() {
            return Ok(());
        }
        if self.session.valid().await.is_err() {
            return Err(Stop::Fatal(VolumeError::LeaseLost("the session has ended".into())));
        }
        if lease.is_broken() || !is_of_session() {
            lease.break_off();
            return Err(Stop::Broken);
        }
        Ok(())
    }

    /// Opens the file again at a higher epoch (C10).
    async fn reopen(&self, old: &Rc<Lease>) {
        self.set_state(VolumeState::Reopening);
        loop {
            if self.state.get() == VolumeState::Closed {
                // What it held was given back; whoever has the file open now has it by himself.
                return;
            }
            if self.session.valid().await.is_err() {
                return self.lose(VolumeError::LeaseLost("the session has ended".into()));
            }
            let generation = self.session.generation();
            let request = Open {
                file: Some(FileRef::Id(self.file_id)),
                session: self.session.key(),
                mode: if self.writable { OpenMode::Write } else { OpenMode::Read }.into(),
                map_count: 0,
                resume_epoch: old.epoch,
            };
            match self.session.master().ask(&request, rt::time::now() + ASK).await {
                Ok(reply) if reply.chunk_size == self.chunk_size => {
                    tracing::warn!("file {} is open again at epoch {:#x}", self.file_id, reply.epoch);
                    let new = Rc::new(Lease::new(reply.epoch, generation, reply.needs_reconcile));
                    new.inherit(old);
                    if self.state.get() == VolumeState::Closed {
                        // Whoever has opened the file since in this session holds what was granted here, too.
                        if !self.session.is_open(self.file_id) {
                            self.session.release_later(self.unused(&new, false));
                        }
                        return;
                    }
                    // What a growing file has gained is not reported yet, perhaps.
                    let grown = if self.grows.get() { self.size.get() } else { 0 };
                    self.size.set(reply.size.max(grown));
                    *self.lease.borrow_mut() = Rc::clone(&new);
                    self.set_state(VolumeState::Active);
                    return self.settle_in_background(&new);
                }
                Ok(_) => return self.lose(VolumeError::LeaseLost("the file has been replaced".into())),
                Err(AskError::Status { status, error }) if !is_passing(status) => {
                    return self.lose(VolumeError::LeaseLost(format!("{status}: {}", error.message)));
                }
                Err(error) => tracing::warn!("opening file {} again: {error}", self.file_id),
            }
            rt::time::sleep(BUSY_PAUSE * 4).await;
        }
    }

    /// If every member of a chunk with acknowledged, unstable writes has rebooted, they may be lost, and flushes say so
    /// (C4). Whatever a member still has is found again when the chunk is settled. Tells whether the
    /// metadata server has to hear of it.
    fn note_lost_writes(&self, lease: &Lease, chunk: &Chunk) -> bool {
        if lease.lost_all(chunk) && !self.writes_lost.replace(true) {
            tracing::error!(
                "file {}: all replicas of chunk {} restarted with unflushed writes; flushes fail until the volume is \
                 opened again",
                self.file_id,
                chunk.index
            );
        }
        self.writes_lost.get() && !self.loss_told.get()
    }
}

/// Whether a refusal to open may pass by itself.
fn is_passing(status: Status) -> bool {
    matches!(
        status.action(),
        Action::RetrySame | Action::RetryAfter | Action::Redirect | Action::Reconnect | Action::Rejoin
    )
}

/// Opens the file again whenever its epoch breaks, until the volume is dropped or closed.
async fn keep_lease(inner: std::rc::Weak<Inner>) {
    // An epoch that breaks as soon as it is granted is followed by pauses that grow.
    let mut pause = BUSY_PAUSE;
    let mut granted: Option<Instant> = None;
    loop {
        let Some(strong) = inner.upgrade() else { return };
        let lease = Rc::clone(&strong.lease.borrow());
        match strong.state.get() {
            VolumeState::Closed | VolumeState::Lost => return,
            VolumeState::Active | VolumeState::Reopening => {}
        }
        if lease.is_broken() {
            match granted.take() {
                Some(at) if rt::time::now() < at + REOPEN_PAUSE_MAX => {
                    strong.set_state(VolumeState::Reopening);
                    drop(strong);
                    rt::time::sleep(pause).await;
                    pause = (pause * 2).min(REOPEN_PAUSE_MAX);
                    continue;
                }
                Some(_) => pause = BUSY_PAUSE,
                // The pause has just been made, or it is the first time.
                None => {}
            }
            strong.reopen(&lease).await;
            granted = Some(rt::time::now());
            continue;
        }
        drop(strong);
        // The lease does not keep the volume alive; a dropped volume is noticed at the next look.
        let broke = lease.broke.notified();
        if !lease.is_broken() {
            let _looked = rt::time::timeout(Duration::from_secs(5), broke).await;
        }
    }
}
