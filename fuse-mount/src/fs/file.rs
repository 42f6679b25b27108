//! Opening and closing: one lease for all handles of a file on this mount (C1).
//!
//! A file is read under a shared lease until somebody opens it for writing; then the shared one is given back and the
//! exclusive one taken, which fails with EBUSY while another client has either. The lease ends with the last handle.

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use client::{OpenError, OpenOptions, Volume, VolumeState};
use rt::sync::{RangeGuard, RangeLock, Semaphore};
use wire::lease::OpenReply;
use wire::namespace::{FileKind, FileRef};

use super::node::Node;
use super::{Answer, FileHandle, Fs, Handle};
use crate::errno::{self, Errno};
use crate::kernel::{Old, OpenFlags};

/// What a file is while handles are open.
pub(super) struct OpenFile {
    /// One opens, closes or changes the kind of lease at a time.
    turn: Semaphore,
    /// Shared by reads and writes; whoever cuts the file or changes its lease is alone.
    gate: RangeLock,
    volume: RefCell<Option<Volume>>,
    writing: Cell<bool>,
    handles: Cell<u32>,
    /// Size or times are ahead of what the metadata server knows. Counts changes, so that one during a report is seen.
    changes: Cell<u64>,
    reported: Cell<u64>,
    reported_size: Cell<u64>,
    /// One report or cut at a time.
    pub(super) reporting: Semaphore,
    /// How it was left: what the kernel has cached is good as long as nobody else was granted a lease since, or changed its size
    /// without one.
    left: Cell<Option<Left>>,
}

/// How a file was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    epoch: u64,
    writing: bool,
    size: u64,
    mtime_ns: i64,
}

impl Default for OpenFile {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            gate: RangeLock::new(),
            volume: RefCell::default(),
            writing: Cell::new(false),
            handles: Cell::new(0),
            changes: Cell::new(0),
            reported: Cell::new(0),
            reported_size: Cell::new(0),
            reporting: Semaphore::new(1),
            left: Cell::new(None),
        }
    }
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenFile")
            .field("writing", &self.writing.get())
            .field("handles", &self.handles.get())
            .finish_non_exhaustive()
    }
}

/// What an inode is as a file, once it has been opened: most of those that the kernel knows never are.
#[derive(Debug, Default)]
pub(super) struct MaybeOpen(OnceCell<Box<OpenFile>>);

impl MaybeOpen {
    /// Whether there is a lease, or is about to be.
    pub(super) fn is_open(&self) -> bool {
        self.0.get().is_some_and(|open| open.handles.get() > 0 || open.volume.borrow().is_some())
    }

    /// Whether this client is the one that may write.
    pub(super) fn is_writing(&self) -> bool {
        self.0.get().is_some_and(|open| open.writing.get())
    }

    /// Size or times are to be reported.
    pub(super) fn is_dirty(&self) -> bool {
        self.0.get().is_some_and(|open| open.changes.get() != open.reported.get())
    }
}

impl Deref for MaybeOpen {
    type Target = OpenFile;

    fn deref(&self) -> &OpenFile {
        self.0.get_or_init(Box::default)
    }
}

impl OpenFile {
    /// Notes a change of size or times.
    pub(super) fn soil(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    /// Whether this size is another one than the metadata server knows.
    pub(super) fn has_grown(&self, size: u64) -> bool {
        size != self.reported_size.get()
    }

    /// How many changes there have been.
    pub(super) fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// The first `changes` have been reported, and this size.
    pub(super) fn set_reported(&self, changes: u64, size: u64) {
        self.reported.set(self.reported.get().max(changes));
        self.reported_size.set(size);
    }

    /// The right to read and write.
    pub(super) async fn enter(&self) -> RangeGuard {
        self.gate.shared(0..1).await
    }

    /// The right to change the file's shape or lease.
    pub(super) async fn enter_alone(&self) -> RangeGuard {
        self.gate.exclusive(0..1).await
    }

    /// The volume; without one the lease was lost while it changed its kind.
    pub(super) fn volume(&self) -> Answer<Volume> {
        self.volume.borrow().clone().ok_or(Errno::EIO)
    }

    /// The volume, if it may be written.
    pub(super) fn writable(&self) -> Answer<Volume> {
        if self.writing.get() { self.volume() } else { Err(Errno::EBADF) }
    }
}

/// What opening a file found.
struct Opened {
    fh: u64,
    flags: OpenFlags,
}

impl Fs {
    /// Opens a file.
    pub(super) async fn open_file(&self, ino: u64, flags: i32) -> Answer<(u64, OpenFlags)> {
        let node = self.node(ino)?;
        if node.inode().kind() == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        if writes {
            self.writable()?;
        }
        let opened = self.open_node(&node, writes, flags).await?;
        Ok((opened.fh, opened.flags))
    }

    async fn open_node(&self, node: &Rc<Node>, writes: bool, flags: i32) -> Answer<Opened> {
        let _turn = node.open.turn.acquire(1).await;
        let unchanged = self.need_lease(node, writes).await?;
        Ok(self.add_file(node, writes, flags, unchanged))
    }

    /// Takes over the lease that came with a new file.
    pub(super) async fn adopt(
        &self,
        node: &Rc<Node>,
        generation: u64,
        reply: &OpenReply,
        flags: i32,
    ) -> Answer<(u64, OpenFlags)> {
        let _turn = node.open.turn.acquire(1).await;
        let session = self.meta.session();
        let volume = Volume::from_reply(session, &self.servers, generation, reply, true);
        let volume = volume.map_err(|error| {
            tracing::error!("file {}: {error}", node.id);
            Errno::EIO
        })?;
        self.install(node, volume, true);
        let opened = self.add_file(node, flags & libc::O_ACCMODE != libc::O_RDONLY, flags, true);
        Ok((opened.fh, opened.flags))
    }

    /// Makes the handle. `unchanged`: what the kernel has cached of the file is good.
    fn add_file(&self, node: &Rc<Node>, writes: bool, flags: i32, unchanged: bool) -> Opened {
        let appends = flags & libc::O_APPEND != 0;
        let mut answer = OpenFlags::default();
        // Where the kernel may have the wrong end of the file in mind, appending must not go through its cache.
        let astray = appends && writes && !unchanged;
        let direct = self.behaviour.direct || flags & libc::O_DIRECT != 0 || astray;
        if direct {
            answer = answer.and(OpenFlags::DIRECT);
            if !appends {
                answer = answer.and(OpenFlags::PARALLEL_DIRECT_WRITES);
            }
        }
        if unchanged {
            answer = answer.and(OpenFlags::KEEP_CACHE);
        }
        if !writes {
            answer = answer.and(OpenFlags::NO_FLUSH);
        }
        node.open.handles.set(node.open.handles.get() + 1);
        let handle = FileHandle { node: Rc::clone(node), writes, appends: astray, direct };
        Opened { fh: self.add_handle(Handle::File(Rc::new(handle))), flags: answer }
    }

    /// Sees to it that there is a lease of the kind that is needed. Returns whether what the kernel has cached is good. The caller
    /// has the turn.
    pub(super) async fn need_lease(&self, node: &Rc<Node>, writes: bool) -> Answer<bool> {
        let open = &node.open;
        let has_one = open.volume.borrow().is_some();
        if has_one && (open.writing.get() || !writes) {
            return Ok(true);
        }
        if !has_one {
            return self.take_lease(node, writes).await.map_err(|error| errno::of_open(&error));
        }
        // From reading to writing.
        let _alone = open.enter_alone().await;
        self.give_back(node).await?;
        match self.take_lease(node, true).await {
            Ok(unchanged) => Ok(unchanged),
            Err(error) => {
                // Those who read go on, unless somebody else writes now: then their handles are dead.
                if let Err(error) = self.take_lease(node, false).await {
                    tracing::warn!("file {}: readers have lost it: {error}", node.id);
                }
                Err(errno::of_open(&error))
            }
        }
    }

    async fn take_lease(&self, node: &Rc<Node>, writes: bool) -> Result<bool, OpenError> {
        let options = OpenOptions { write: writes, patience: self.behaviour.patience };
        let session = self.meta.session();
        let file = FileRef::Id(node.id);
        let volume = Volume::open_file(session, &self.servers, file, &options).await?;
        let (epoch, size) = (volume.epoch(), volume.size());
        let left = node.open.left.get();
        // Every grant has the next epoch, but for a reader that joins readers.
        let follows =
            |left: Left| epoch == left.epoch + 1 || (epoch == left.epoch && !writes && !left.writing);
        let unchanged = left
            .is_some_and(|left| follows(left) && left.size == size && left.mtime_ns == node.inode().mtime_ns);
        if !unchanged && node.size() != size {
            self.tell_old(node, Old::Attributes);
        }
        self.install(node, volume, writes);
        Ok(unchanged)
    }

    fn install(&self, node: &Node, volume: Volume, writes: bool) {
        let size = volume.size();
        if writes {
            volume.set_growing();
            volume.set_fails_when_full(self.behaviour.fails_when_full);
        }
        node.update(|inode| inode.size = size);
        node.reject_older();
        self.watch_lease(node, volume.clone());
        node.open.set_reported(node.open.changes(), size);
        *node.open.volume.borrow_mut() = Some(volume);
        node.open.writing.set(writes);
    }

    /// Tells the kernel that what it knows is old.
    fn tell_old(&self, node: &Node, old: Old) {
        if let Some(device) = &*self.device.borrow() {
            device.tell_old(self.nodes.ino(node.id), old);
        }
    }

    /// Without its lease a file may be written by others: what the kernel has cached of it must not be read any longer.
    fn watch_lease(&self, node: &Node, volume: Volume) {
        let Some(device) = self.device.borrow().clone() else { return };
        let ino = self.nodes.ino(node.id);
        rt::spawn(async move {
            if volume.ended().await == VolumeState::Lost {
                device.tell_old(ino, Old::Data);
            }
        });
    }

    /// A handle is closed; the last one ends the lease.
    pub(super) async fn release_file(&self, fh: u64) -> Answer<()> {
        let file = self.file(fh)?;
        let node = &file.node;
        let _turn = node.open.turn.acquire(1).await;
        self.handles.borrow_mut().remove(&fh);
        node.open.handles.set(node.open.handles.get().saturating_sub(1));
        self.end_lease(node).await
    }

    /// Gives the lease back if no handle needs it. The caller has the turn.
    async fn end_lease(&self, node: &Rc<Node>) -> Answer<()> {
        if node.open.handles.get() > 0 {
            return Ok(());
        }
        let ended = {
            let _alone = node.open.enter_alone().await;
            self.give_back(node).await
        };
        if node.inode().nlink == 0 {
            node.set_gone();
        }
        self.nodes.let_go(node);
        ended
    }

    /// Reports, flushes, and gives the lease back. The caller is alone.
    async fn give_back(&self, node: &Rc<Node>) -> Answer<()> {
        let Some(volume) = node.open.volume.borrow().clone() else { return Ok(()) };
        let writing = node.open.writing.get();
        // A file without a name goes with its lease.
        let reported = match writing && node.inode().nlink > 0 {
            true => self.report(node).await,
            false => Ok(()),
        };
        if reported.is_err() {
            volume.doubt_end();
        }
        let epoch = volume.epoch();
        let closed = volume.close().await;
        *node.open.volume.borrow_mut() = None;
        node.open.writing.set(false);
        node.open.set_reported(node.open.changes(), node.size());
        let whole = reported.is_ok() && closed.is_ok();
        node.open.left.set(whole.then_some(Left {
            epoch,
            writing,
            size: node.size(),
            mtime_ns: node.inode().mtime_ns,
        }));
        if writing {
            // What it takes is counted anew.
            node.age();
        }
        if let Err(error) = &closed {
            tracing::error!("file {} was not closed in order: {error}", node.id);
        }
        reported.and(closed.map_err(|error| errno::of_volume(&error)))
    }

    /// Closes the file whatever handles there are: the file system goes.
    pub(super) async fn close_volume(&self, node: &Rc<Node>) -> Answer<()> {
        let _turn = node.open.turn.acquire(1).await;
        let _alone = node.open.enter_alone().await;
        self.give_back(node).await
    }

    /// Runs `work` under a lease for writing, which is taken for that long if there is none.
    pub(super) async fn with_lease<T>(
        &self,
        node: &Rc<Node>,
        work: impl AsyncFnOnce() -> Answer<T>,
    ) -> Answer<T> {
        {
            let _turn = node.open.turn.acquire(1).await;
            self.need_lease(node, true).await?;
            node.open.handles.set(node.open.handles.get() + 1);
        }
        let done = work().await;
        let _turn = node.open.turn.acquire(1).await;
        node.open.handles.set(node.open.handles.get().saturating_sub(1));
        let ended = self.end_lease(node).await;
        let done = done?;
        ended.map(|()| done)
    }
}
