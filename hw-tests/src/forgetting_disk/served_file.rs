//! The FUSE file system with its one file `disk.img`, and the power switch.
//!
//! Nothing here caches: the file is opened with `FOPEN_DIRECT_IO` and without writeback cache, so that each write of the
//! kernel arrives before it is acknowledged and each `fsync` arrives as `FUSE_FSYNC`. Ranges are punched and zeroed as
//! volatile writes of zeroes; any other `fallocate` is refused with `EOPNOTSUPP`.
//!
//! Each open belongs to the *power cycle* it was made in. After a cut all older opens fail with `EIO` for ever, so a
//! loop device that outlives the cut can never write to the disk that was powered on again.
//!
//! At another [`Pace`] than full speed whatever changes the disk or flushes it waits in a queue, from which a thread takes it;
//! reads are answered at once.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::FallocateFlags;

use super::cache::{CutReport, VolatileCache};

/// Name of the one file.
pub(super) const FILE_NAME: &str = "disk.img";

const FILE_INODE: INodeNo = INodeNo(2);
const ATTRIBUTES_VALID: Duration = Duration::from_secs(3600);

/// How fast a disk takes what changes it, and flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    Full,
    /// One request after the other, with this pause behind each.
    Slow(Duration),
    /// Not at all: it keeps them waiting.
    Frozen,
}

/// A request that waits for its turn.
struct Held(Box<dyn FnOnce(&Drive) + Send>);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

/// What the disk did since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Writes of data that arrived.
    pub writes: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Punches and zeroings that arrived.
    pub zeroings: u64,
    /// Flushes that arrived, also those answered with a lie.
    pub flushes: u64,
    /// Bytes of data that a power cut may take now.
    pub volatile_bytes: u64,
}

/// The disk's state: one lock, so that a cut is a moment and not a period.
#[derive(Debug)]
pub(super) struct Drive {
    size_bytes: u64,
    sector_bytes: u64,
    state: Mutex<State>,
    /// The pace has changed, or something is held.
    turn: Condvar,
}

#[derive(Debug)]
struct State {
    medium: File,
    cache: VolatileCache,
    powered: bool,
    /// Counts power cycles; an open's handle is the cycle it was made in.
    cycle: u64,
    lies: bool,
    pace: Pace,
    held: VecDeque<Held>,
    /// A thread takes what is held.
    is_queueing: bool,
    stats: Stats,
}

impl Drive {
    pub(super) fn new(
        medium: File,
        size_bytes: u64,
        sector_bytes: u32,
        cache: VolatileCache,
        lies: bool,
    ) -> Self {
        let state = State {
            medium,
            cache,
            powered: true,
            cycle: 1,
            lies,
            pace: Pace::Full,
            held: VecDeque::new(),
            is_queueing: false,
            stats: Stats::default(),
        };
        let turn = Condvar::new();
        Self { size_bytes, sector_bytes: u64::from(sector_bytes), state: Mutex::new(state), turn }
    }

    pub(super) fn stats(&self) -> Stats {
        let state = self.state();
        Stats { volatile_bytes: state.cache.held_bytes(), ..state.stats }
    }

    pub(super) fn set_lies(&self, lies: bool) {
        self.state().lies = lies;
    }

    /// Changes the pace. What is held goes on at it.
    pub(super) fn set_pace(self: &Arc<Self>, pace: Pace) -> io::Result<()> {
        let mut state = self.state();
        state.pace = pace;
        if pace != Pace::Full && !state.is_queueing {
            let drive = Arc::clone(self);
            let name = "slow-disk".to_owned();
            std::thread::Builder::new().name(name).spawn(move || drive.take_held())?;
            state.is_queueing = true;
        }
        drop(state);
        self.turn.notify_all();
        Ok(())
    }

    /// Takes what is held at the disk's pace, until that is full speed again and nothing is left.
    fn take_held(&self) {
        let mut state = self.state();
        loop {
            let pause = match state.pace {
                Pace::Full if state.held.is_empty() => {
                    state.is_queueing = false;
                    return;
                }
                Pace::Full => None,
                Pace::Slow(pause) if !state.held.is_empty() => Some(pause),
                Pace::Slow(_) | Pace::Frozen => {
                    state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            let next = state.held.pop_front();
            drop(state);
            if let Some(Held(work)) = next {
                work(self);
            }
            state = self.state();
            if let Some(pause) = pause {
                let is_as_slow = |state: &mut State| state.pace == Pace::Slow(pause);
                let waited = self.turn.wait_timeout_while(state, pause, is_as_slow);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Whether what changes the disk has to wait for its turn.
    fn is_queueing(&self) -> bool {
        self.state().is_queueing
    }

    /// Does something when its turn has come, which is at once at full speed.
    fn in_turn(&self, work: impl FnOnce(&Self) + Send + 'static) {
        let mut state = self.state();
        if state.is_queueing {
            state.held.push_back(Held(Box::new(work)));
            drop(state);
            self.turn.notify_all();
        } else {
            drop(state);
            work(self);
        }
    }

    pub(super) fn is_powered(&self) -> bool {
        self.state().powered
    }

    /// Takes the power away: the lock orders every request before it (volatile or flushed) or after it (`EIO`).
    pub(super) fn cut(&self) -> io::Result<CutReport> {
        let state = &mut *self.state();
        state.powered = false;
        // Whoever is held fails now.
        state.pace = Pace::Full;
        self.turn.notify_all();
        state.cache.cut(&state.medium)
    }

    pub(super) fn power_on(&self) {
        let state = &mut *self.state();
        state.powered = true;
        state.cycle += 1;
    }

    /// A panic in a request leaves at worst that request half done; the tests see it as data.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if the power is on and `handle` was opened since it came on.
    fn live(&self, handle: FileHandle) -> Result<MutexGuard<'_, State>, Errno> {
        let state = self.state();
        if state.powered && handle.0 == state.cycle { Ok(state) } else { Err(Errno::EIO) }
    }

    /// Whether the range is whole sectors inside the disk.
    fn admit(&self, offset: u64, len: u64) -> Result<(), Errno> {
        if !offset.is_multiple_of(self.sector_bytes) || !len.is_multiple_of(self.sector_bytes) {
            return Err(Errno::EINVAL);
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => Err(Errno::ENOSPC),
        }
    }

    fn read(&self, handle: FileHandle, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        let state = self.live(handle)?;
        let mut out = vec![0; u64::from(len).min(self.size_bytes.saturating_sub(offset)) as usize];
        state.cache.read(&state.medium, offset, &mut out).map_err(Errno::from)?;
        Ok(out)
    }

    fn write(&self, handle: FileHandle, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let state = &mut *self.live(handle)?;
        self.admit(offset, data.len() as u64)?;
        state.stats.writes += 1;
        state.stats.bytes += data.len() as u64;
        state.cache.write(&state.medium, offset, data).map_err(Errno::from)
    }

    fn zero(&self, handle: FileHandle, offset: u64, len: u64) -> Result<(), Errno> {
        let state = &mut *self.live(handle)?;
        self.admit(offset, len)?;
        state.stats.zeroings += 1;
        state.cache.zero(&state.medium, offset, len).map_err(Errno::from)
    }

    fn flush(&self, handle: FileHandle) -> Result<(), Errno> {
        let state = &mut *self.live(handle)?;
        state.stats.flushes += 1;
        if state.lies {
            return Ok(());
        }
        state.cache.flush(&state.medium).map_err(Errno::from)
    }

    fn open(&self) -> Result<FileHandle, Errno> {
        let state = self.state();
        if state.powered { Ok(FileHandle(state.cycle)) } else { Err(Errno::EIO) }
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o700, 0),
            FILE_INODE => (FileType::RegularFile, 0o600, self.size_bytes),
            _ => return None,
        };
        let time: SystemTime = UNIX_EPOCH;
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

/// The file system that shows a [`Drive`].
pub(super) struct ServedFile(pub(super) Arc<Drive>);

fn answer(reply: ReplyEmpty, outcome: Result<(), Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for ServedFile {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Many requests in flight, as a drive has; without it direct I/O is served one request at a time. An older kernel
        // lacks the flag and is merely slower.
        let _absent = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.attributes(FILE_INODE) {
            Some(attributes) if parent == INodeNo::ROOT && name == FILE_NAME => {
                reply.entry(&ATTRIBUTES_VALID, &attributes, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attributes(inode) {
            Some(attributes) => reply.attr(&ATTRIBUTES_VALID, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.0.attributes(inode) {
            // A disk does not change its size.
            Some(attributes) if size.is_some_and(|size| size != attributes.size) => reply.error(Errno::EPERM),
            Some(attributes) => reply.attr(&ATTRIBUTES_VALID, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if inode != FILE_INODE {
            return reply.error(Errno::EISDIR);
        }
        match self.0.open() {
            Ok(handle) => {
                reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.read(handle, offset, size) {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let finish = |outcome, len, reply: ReplyWrite| match outcome {
            Ok(()) => reply.written(len),
            Err(errno) => reply.error(errno),
        };
        let len = data.len() as u32;
        if self.0.is_queueing() {
            let data = data.to_vec();
            self.0.in_turn(move |drive| finish(drive.write(handle, offset, &data), len, reply));
        } else {
            finish(self.0.write(handle, offset, data), len, reply);
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Sent on each close(); it promises nothing about durability.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.0.in_turn(move |drive| answer(reply, drive.flush(handle)));
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let kind = FallocateFlags::from_bits_retain(mode as u32) - FallocateFlags::KEEP_SIZE;
        if kind == FallocateFlags::PUNCH_HOLE || kind == FallocateFlags::ZERO_RANGE {
            self.0.in_turn(move |drive| answer(reply, drive.zero(handle, offset, length)));
        } else {
            reply.error(Errno::EOPNOTSUPP);
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (FILE_INODE, FileType::RegularFile, FILE_NAME),
        ];
        for (place, (inode, kind, name)) in
            (1..).zip(entries).skip(usize::try_from(offset).unwrap_or(usize::MAX))
        {
            if reply.add(inode, place, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
