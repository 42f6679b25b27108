//! Disk operations in flight, and open files.
//!
//! An operation belongs to the kernel once it is submitted: it ends whether or not anybody still waits for it. A file
//! stays open, and locked, until its handle is dropped and its last operation has ended; after a kill, until the last
//! operation of the whole process has, because one ring holds them all (C10).

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::World;
use super::disk::{Effect, Fs, Interrupted, Target};
use super::event::Event;
use super::host::{HostId, Life};
use super::slab::Key;
use crate::buf::{Buf, View};
use crate::fs::{Allocation, DirEntry, OpenOptions, Space};
use crate::task::Owner;

/// A file system: a host and the index of a mount of it.
pub(super) type Place = (HostId, usize);
/// Names an open file; never reused.
pub(super) type HandleId = u64;

/// An open file.
pub(super) struct Handle {
    pub(super) place: Place,
    pub(super) owner: Owner,
    pub(super) target: Target,
    in_flight: u32,
    /// Nobody will use it again.
    closed: bool,
}

#[derive(Debug)]
pub(super) enum Request {
    Open { path: Vec<String>, full: Rc<Path>, options: OpenOptions },
    Read { target: Target, buf: Buf, offset: u64 },
    Write { target: Target, data: View, offset: u64 },
    Sync { target: Target, upto: u64 },
    Allocate { target: Target, kind: Allocation, offset: u64, len: u64 },
    SetLen { target: Target, len: u64 },
    Len { target: Target },
    AllocatedBytes { target: Target },
    TryLock { target: Target, handle: HandleId },
    CreateDir { path: Vec<String> },
    Remove { path: Vec<String> },
    Rename { from: Vec<String>, to: Vec<String> },
    ReadDir { path: Vec<String> },
    Exists { path: Vec<String> },
    SyncDir { path: Vec<String>, upto: u64 },
    Space { path: Vec<String> },
}

#[derive(Debug)]
pub(super) enum Answer {
    Done(io::Result<()>),
    Number(io::Result<u64>),
    Flag(io::Result<bool>),
    Read(io::Result<usize>, Buf),
    Open(io::Result<HandleId>),
    Entries(io::Result<Vec<DirEntry>>),
    Space(io::Result<Space>),
}

pub(super) struct Operation {
    pub(super) owner: Owner,
    pub(super) place: Place,
    handle: Option<HandleId>,
    /// Gone once it has been performed.
    pub(super) request: Option<Request>,
    pub(super) effect: Effect,
    answer: Option<Answer>,
    waker: Option<Waker>,
    wanted: bool,
}

impl Request {
    /// What a power cut interrupts, if it can leave a trace on the disk.
    pub(super) fn interrupted(self) -> Option<Interrupted> {
        Some(match self {
            Self::Write { target, data, offset } => Interrupted::Write { target, offset, data },
            Self::Allocate { target, kind, offset, len } => {
                Interrupted::Allocate { target, kind, offset, len }
            }
            Self::SetLen { target, len } => Interrupted::SetLen { target, len },
            Self::Remove { path } => Interrupted::Remove { path },
            Self::Rename { from, to } => Interrupted::Rename { from, to },
            Self::CreateDir { path } => Interrupted::CreateDir { path },
            _ => return None,
        })
    }

    fn duration(&self, fs: &mut Fs) -> u64 {
        let options = fs.options();
        let (read, write, flush, metadata) = (options.read, options.write, options.flush, options.metadata);
        let nowhere = Path::new("");
        match self {
            Self::Read { target, buf, .. } => fs.duration(read, buf.len(), &target.path),
            Self::Write { target, data, .. } => fs.duration(write, data.len(), &target.path),
            Self::Sync { target, .. } => fs.duration(flush, 0, &target.path),
            Self::SyncDir { .. } => fs.duration(flush, 0, nowhere),
            Self::Open { full, .. } => fs.duration(metadata, 0, full),
            Self::Allocate { target, .. } | Self::SetLen { target, .. } | Self::TryLock { target, .. } => {
                fs.duration(metadata, 0, &target.path)
            }
            _ => fs.duration(metadata, 0, nowhere),
        }
    }

    fn perform(self, fs: &mut Fs, effect: Effect) -> Answer {
        if effect == Effect::Nothing {
            return Answer::Done(Err(io::Error::from_raw_os_error(libc::ECANCELED)));
        }
        match self {
            Self::Open { .. } => unreachable!("opening is done by the table of handles"),
            Self::Read { target, mut buf, offset } => {
                let result = fs.read(&target, offset, &mut buf);
                Answer::Read(result, buf)
            }
            Self::Write { target, data, offset } => {
                Answer::Number(fs.write(&target, offset, &data, effect).map(|count| count as u64))
            }
            Self::Sync { target, upto } => Answer::Done(fs.sync(&target, upto)),
            Self::Allocate { target, kind, offset, len } => {
                Answer::Done(fs.allocate(target.ino, kind, offset, len))
            }
            Self::SetLen { target, len } => Answer::Done(fs.set_len(target.ino, len)),
            Self::Len { target } => Answer::Number(fs.len(target.ino)),
            Self::AllocatedBytes { target } => Answer::Number(fs.allocated_bytes(target.ino)),
            Self::TryLock { target, handle } => Answer::Flag(Ok(fs.try_lock(target.ino, handle))),
            Self::CreateDir { path } => Answer::Done(fs.create_dir(&path)),
            Self::Remove { path } => Answer::Done(fs.remove_file(&path)),
            Self::Rename { from, to } => Answer::Done(fs.rename(&from, &to)),
            Self::ReadDir { path } => Answer::Entries(fs.read_dir(&path)),
            Self::Exists { path } => Answer::Flag(fs.exists(&path)),
            Self::SyncDir { path, upto } => Answer::Done(fs.sync_dir(&path, upto)),
            Self::Space { path } => Answer::Space(fs.space(&path)),
        }
    }
}

impl Answer {
    /// The error, if it is one, and a number that stands for the rest in the trace.
    fn outcome(&self) -> Result<u64, &io::Error> {
        match self {
            Self::Done(result) => result.as_ref().map(|()| 0),
            Self::Number(result) | Self::Open(result) => result.as_ref().copied(),
            Self::Flag(result) => result.as_ref().map(|flag| u64::from(*flag)),
            Self::Read(result, _) => result.as_ref().map(|count| *count as u64),
            Self::Entries(result) => result.as_ref().map(|entries| entries.len() as u64),
            Self::Space(result) => result.as_ref().map(|space| space.free),
        }
    }
}

impl World {
    /// Gives an operation to the kernel of a host.
    pub(super) fn submit(
        self: &Rc<Self>,
        owner: Owner,
        place: Place,
        handle: Option<HandleId>,
        request: Request,
    ) -> Op {
        let time = self.with_fs(place, |fs| request.duration(fs));
        self.processes.borrow_mut()[owner as usize].in_flight += 1;
        self.handles.borrow_mut().count(handle, 1);
        let operation = Operation {
            owner,
            place,
            handle,
            request: Some(request),
            effect: Effect::Whole,
            answer: None,
            waker: None,
            wanted: true,
        };
        let key = self.operations.borrow_mut().insert(operation);
        self.after(time, Event::Operation(key));
        Op { world: Rc::clone(self), key: Some(key) }
    }

    pub(super) fn with_fs<T>(&self, (host, mount): Place, work: impl FnOnce(&mut Fs) -> T) -> T {
        work(&mut self.hosts.borrow_mut()[host.0 as usize].mounts[mount].fs)
    }

    /// Ends an operation: its effect happens now.
    pub(super) fn finish(&self, key: Key) {
        let (request, effect, owner, place, handle) = {
            let mut operations = self.operations.borrow_mut();
            let Some(operation) = operations.get_mut(key) else { return };
            let Some(request) = operation.request.take() else { return };
            (request, operation.effect, operation.owner, operation.place, operation.handle)
        };
        let description = self.wants_lines().then(|| request.to_string());
        let answer = match request {
            Request::Open { path, full, options } if effect == Effect::Whole => {
                Answer::Open(self.open(owner, place, &path, full, options))
            }
            request => self.with_fs(place, |fs| request.perform(fs, effect)),
        };
        let outcome = answer.outcome();
        self.fold(
            outcome.as_ref().map_or_else(|error| error.raw_os_error().unwrap_or(-1) as u64, |number| *number),
        );
        if let Some(description) = description {
            self.line(owner, || match outcome {
                Ok(number) => format!("{description} = {number}"),
                Err(error) => format!("{description}: {error}"),
            });
        }
        self.processes.borrow_mut()[owner as usize].in_flight -= 1;
        self.handles.borrow_mut().count(handle, -1);
        self.hand_over(key, answer);
        self.release(owner, handle);
    }

    /// Gives an answer to the task that waits for it, or closes what nobody will use.
    fn hand_over(&self, key: Key, answer: Answer) {
        let mut operations = self.operations.borrow_mut();
        let Some(operation) = operations.get_mut(key) else { return };
        if operation.wanted {
            operation.answer = Some(answer);
            let waker = operation.waker.take();
            drop(operations);
            if let Some(waker) = waker {
                waker.wake();
            }
            return;
        }
        operations.remove(key);
        drop(operations);
        if let Answer::Open(Ok(handle)) = answer {
            self.close(handle);
        }
    }

    fn open(
        &self,
        owner: Owner,
        place: Place,
        path: &[String],
        full: Rc<Path>,
        options: OpenOptions,
    ) -> io::Result<HandleId> {
        let ino = self.with_fs(place, |fs| fs.open(path, &options))?;
        let target = Target { ino, path: full, direct: options.direct };
        let mut handles = self.handles.borrow_mut();
        handles.last += 1;
        let id = handles.last;
        handles.open.insert(id, Handle { place, owner, target, in_flight: 0, closed: false });
        Ok(id)
    }

    /// The handle was dropped.
    pub(super) fn close(&self, id: HandleId) {
        let owner = match self.handles.borrow_mut().open.get_mut(&id) {
            Some(handle) => {
                handle.closed = true;
                handle.owner
            }
            None => return,
        };
        self.release(owner, Some(id));
    }

    /// Closes what nothing uses any more: one handle of a live process, every handle of a dead one.
    pub(super) fn release(&self, owner: Owner, handle: Option<HandleId>) {
        let (dead, idle) = {
            let process = &self.processes.borrow()[owner as usize];
            (process.life == Life::Dead, process.in_flight == 0)
        };
        let mut gone = Vec::new();
        {
            let mut handles = self.handles.borrow_mut();
            if dead && idle {
                let theirs =
                    handles.open.iter().filter(|(_, handle)| handle.owner == owner).map(|(id, _)| *id);
                for id in theirs.collect::<Vec<_>>() {
                    gone.extend(handles.open.remove(&id).map(|handle| (id, handle)));
                }
            } else if let Some(id) = handle.filter(|_| !dead)
                && handles.open.get(&id).is_some_and(|handle| handle.closed && handle.in_flight == 0)
            {
                gone.extend(handles.open.remove(&id).map(|handle| (id, handle)));
            }
        }
        for (id, handle) in gone {
            self.with_fs(handle.place, |fs| fs.close(handle.target.ino, id));
        }
    }

    /// Draws what becomes of the operations of a process that is killed.
    pub(super) fn orphan_operations(&self, owner: Owner) {
        for (_, operation) in self.operations.borrow_mut().iter_mut() {
            if operation.owner != owner || operation.request.is_none() {
                continue;
            }
            operation.effect = match self.rng.borrow_mut().below(8) {
                0 | 1 => Effect::Nothing,
                2 if matches!(operation.request, Some(Request::Write { .. })) => Effect::Part,
                _ => Effect::Whole,
            };
            super::hit(match operation.effect {
                Effect::Whole => "kill.operation-done",
                Effect::Part => "kill.write-partial",
                Effect::Nothing => "kill.operation-canceled",
            });
        }
    }

    /// Takes every operation in flight off a host that has lost its power; its files are no longer open.
    pub(super) fn interrupt_operations(&self, host: HostId) -> Vec<(usize, Request)> {
        let mut operations = self.operations.borrow_mut();
        let mut interrupted = Vec::new();
        for key in operations.keys() {
            let Some(operation) = operations.get_mut(key).filter(|operation| operation.place.0 == host)
            else {
                continue;
            };
            if let Some(request) = operation.request.take() {
                self.processes.borrow_mut()[operation.owner as usize].in_flight -= 1;
                interrupted.push((operation.place.1, request));
            }
            operations.remove(key);
        }
        self.handles.borrow_mut().open.retain(|_, handle| handle.place.0 != host);
        interrupted
    }
}

/// The open files of a world.
#[derive(Default)]
pub(super) struct Handles {
    pub(super) open: BTreeMap<HandleId, Handle>,
    last: HandleId,
}

impl Handles {
    /// Counts an operation on a handle that begins or ends.
    fn count(&mut self, handle: Option<HandleId>, by: i32) {
        if let Some(handle) = handle.and_then(|id| self.open.get_mut(&id)) {
            handle.in_flight = handle.in_flight.saturating_add_signed(by);
        }
    }
}

/// Waits for an operation. Dropping it leaves the operation running.
pub(super) struct Op {
    world: Rc<World>,
    key: Option<Key>,
}

impl Future for Op {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let key = self.key.expect("polled after completion");
        let mut operations = self.world.operations.borrow_mut();
        let Some(operation) = operations.get_mut(key) else {
            // The host has lost its power under a task that is not of this host: nothing will ever answer.
            return Poll::Pending;
        };
        let Some(answer) = operation.answer.take() else {
            match &mut operation.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        operations.remove(key);
        drop(operations);
        self.key = None;
        Poll::Ready(answer)
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut operations = self.world.operations.borrow_mut();
        let Some(operation) = operations.get_mut(key) else { return };
        operation.wanted = false;
        let Some(answer) = operation.answer.take() else { return };
        operations.remove(key);
        drop(operations);
        if let Answer::Open(Ok(handle)) = answer {
            self.world.close(handle);
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { full, options, .. } => write!(f, "open {} {options:?}", full.display()),
            Self::Read { target, buf, offset } => {
                write!(f, "read {} {offset}+{}", target.path.display(), buf.len())
            }
            Self::Write { target, data, offset } => {
                write!(f, "write {} {offset}+{}", target.path.display(), data.len())
            }
            Self::Sync { target, .. } => write!(f, "sync {}", target.path.display()),
            Self::Allocate { target, kind, offset, len } => {
                write!(f, "allocate {} {kind:?} {offset}+{len}", target.path.display())
            }
            Self::SetLen { target, len } => write!(f, "truncate {} {len}", target.path.display()),
            Self::Len { target } => write!(f, "size {}", target.path.display()),
            Self::AllocatedBytes { target } => write!(f, "allocated {}", target.path.display()),
            Self::TryLock { target, .. } => write!(f, "lock {}", target.path.display()),
            Self::CreateDir { path } => write!(f, "mkdir /{}", path.join("/")),
            Self::Remove { path } => write!(f, "unlink /{}", path.join("/")),
            Self::Rename { from, to } => write!(f, "rename /{} /{}", from.join("/"), to.join("/")),
            Self::ReadDir { path } => write!(f, "readdir /{}", path.join("/")),
            Self::Exists { path } => write!(f, "stat /{}", path.join("/")),
            Self::SyncDir { path, .. } => write!(f, "syncdir /{}", path.join("/")),
            Self::Space { path } => write!(f, "statfs /{}", path.join("/")),
        }
    }
}
