//! The file system calls of simulated processes.

use std::io;
use std::path::Path;
use std::rc::Rc;

use super::World;
use super::disk::Target;
use super::ops::{Answer, HandleId, Op, Place, Request};
use crate::buf::{Buf, View};
use crate::fs::{Allocation, DirEntry, OpenOptions, Space};
use crate::task::Owner;

/// An open file of a simulated process.
pub(crate) struct SimFile {
    world: Rc<World>,
    handle: HandleId,
    owner: Owner,
    place: Place,
    target: Target,
    write: bool,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimFile")
            .field("handle", &self.handle)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.world.close(self.handle);
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// A path of the calling process: its file system and the names below its root.
struct Located {
    world: Rc<World>,
    owner: Owner,
    place: Place,
    names: Vec<String>,
}

fn locate(path: &Path) -> io::Result<Located> {
    let (world, owner) = super::calling();
    let host = world.host_of(owner);
    let (mount, names) = world.hosts.borrow()[host.0 as usize].locate(path)?;
    Ok(Located { world, owner, place: (host, mount), names })
}

impl Located {
    async fn ask(self, request: impl FnOnce(Vec<String>) -> Request) -> Answer {
        self.world.submit(self.owner, self.place, None, request(self.names)).await
    }
}

/// What an operation without a value has answered.
fn done(answer: Answer) -> io::Result<()> {
    match answer {
        Answer::Done(result) => result,
        other => unreachable!("an operation without a value answered {other:?}"),
    }
}

/// What an operation with a number has answered.
fn number(answer: Answer) -> io::Result<u64> {
    match answer {
        Answer::Number(result) => result,
        other => unreachable!("an operation with a number answered {other:?}"),
    }
}

/// What a question has answered.
fn flag(answer: Answer) -> io::Result<bool> {
    match answer {
        Answer::Flag(result) => result,
        other => unreachable!("a question was answered by {other:?}"),
    }
}

impl SimFile {
    pub(crate) async fn open(path: &Path, options: &OpenOptions) -> io::Result<Self> {
        let (full, options) = (Rc::from(path), *options);
        let at = locate(path)?;
        let (world, owner, place) = (Rc::clone(&at.world), at.owner, at.place);
        let handle = match at.ask(|path| Request::Open { path, full, options }).await {
            Answer::Open(result) => result?,
            other => unreachable!("an open answered {other:?}"),
        };
        let target = world.handles.borrow().open.get(&handle).map(|handle| handle.target.clone());
        // The handle is gone if the power went in this very moment; then no operation on it will be answered either.
        let target = target.ok_or(errno(libc::EIO))?;
        Ok(Self { world, handle, owner, place, target, write: options.write })
    }

    fn submit(&self, request: Request) -> Op {
        self.world.submit(self.owner, self.place, Some(self.handle), request)
    }

    /// Refuses what direct I/O refuses.
    fn check(&self, offset: u64, len: usize, memory: *const u8) -> io::Result<()> {
        if self.target.direct
            && !self.world.with_fs(self.place, |fs| fs.is_aligned(offset, len, memory.addr()))
        {
            return Err(errno(libc::EINVAL));
        }
        Ok(())
    }

    fn writable(&self, code: i32) -> io::Result<()> {
        if self.write { Ok(()) } else { Err(errno(code)) }
    }

    pub(crate) async fn read_at(&self, buf: Buf, offset: u64) -> (io::Result<usize>, Buf) {
        if let Err(error) = self.check(offset, buf.len(), buf.as_ptr()) {
            return (Err(error), buf);
        }
        match self.submit(Request::Read { target: self.target.clone(), buf, offset }).await {
            Answer::Read(result, buf) => (result, buf),
            other => unreachable!("a read answered {other:?}"),
        }
    }

    pub(crate) async fn write_at(&self, data: View, offset: u64) -> io::Result<usize> {
        self.writable(libc::EBADF)?;
        self.check(offset, data.len(), data.first_byte())?;
        number(self.submit(Request::Write { target: self.target.clone(), data, offset }).await)
            .map(|count| count as usize)
    }

    pub(crate) async fn sync(&self, _data_only: bool) -> io::Result<()> {
        let upto = self.world.with_fs(self.place, |fs| fs.seq());
        done(self.submit(Request::Sync { target: self.target.clone(), upto }).await)
    }

    pub(crate) async fn allocate(&self, kind: Allocation, offset: u64, len: u64) -> io::Result<()> {
        self.writable(libc::EBADF)?;
        done(self.submit(Request::Allocate { target: self.target.clone(), kind, offset, len }).await)
    }

    pub(crate) async fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable(libc::EINVAL)?;
        done(self.submit(Request::SetLen { target: self.target.clone(), len }).await)
    }

    pub(crate) async fn len(&self) -> io::Result<u64> {
        number(self.submit(Request::Len { target: self.target.clone() }).await)
    }

    pub(crate) async fn allocated_bytes(&self) -> io::Result<u64> {
        number(self.submit(Request::AllocatedBytes { target: self.target.clone() }).await)
    }

    pub(crate) async fn try_lock(&self) -> io::Result<bool> {
        flag(self.submit(Request::TryLock { target: self.target.clone(), handle: self.handle }).await)
    }
}

pub(crate) async fn create_dir(path: &Path) -> io::Result<()> {
    done(locate(path)?.ask(|path| Request::CreateDir { path }).await)
}

pub(crate) async fn remove_file(path: &Path) -> io::Result<()> {
    done(locate(path)?.ask(|path| Request::Remove { path }).await)
}

pub(crate) async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (locate(from)?, locate(to)?);
    if from.place != to.place {
        return Err(errno(libc::EXDEV));
    }
    done(from.ask(|from| Request::Rename { from, to: to.names }).await)
}

pub(crate) async fn read_dir(path: &Path) -> io::Result<Vec<DirEntry>> {
    match locate(path)?.ask(|path| Request::ReadDir { path }).await {
        Answer::Entries(result) => result,
        other => unreachable!("a directory answered {other:?}"),
    }
}

pub(crate) async fn exists(path: &Path) -> io::Result<bool> {
    flag(locate(path)?.ask(|path| Request::Exists { path }).await)
}

pub(crate) async fn sync_dir(path: &Path) -> io::Result<()> {
    let at = locate(path)?;
    let upto = at.world.with_fs(at.place, |fs| fs.seq());
    done(at.ask(|path| Request::SyncDir { path, upto }).await)
}

pub(crate) async fn space(path: &Path) -> io::Result<Space> {
    match locate(path)?.ask(|path| Request::Space { path }).await {
        Answer::Space(result) => result,
        other => unreachable!("a file system answered {other:?}"),
    }
}
