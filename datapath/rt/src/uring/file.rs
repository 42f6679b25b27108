//! Files on the ring.

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use io_uring::{opcode, types};

use super::files::entry_for;
use super::{Keep, Registered, Ring, outcome};
use crate::blocking;
use crate::buf::{Buf, View};
use crate::fs::{Allocation, OpenOptions};

/// An open file, registered with its ring.
#[derive(Debug)]
pub(crate) struct UringFile {
    /// Shared with operations that the kernel may carry out long after they were given up: it looks for the file only then.
    registered: Rc<Registered>,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path must not contain a NUL byte"))
}

const HERE: types::Fd = types::Fd(libc::AT_FDCWD);

impl UringFile {
    pub(crate) async fn open(ring: &Ring, path: &Path, options: &OpenOptions) -> io::Result<Self> {
        let path = c_path(path)?;
        let entry = opcode::OpenAt::new(HERE, path.as_ptr()).flags(options.flags()).mode(0o600).build();
        let (result, _) = ring.submit(entry, Keep::Descriptor(Some(path))).await;
        let fd = outcome(result)?;
        // SAFETY: the kernel has just made this descriptor for us.
        Self::of(ring, unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    fn of(ring: &Ring, fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { registered: Rc::new(Registered::new(ring, fd)?) })
    }

    fn ring(&self) -> &Ring {
        self.registered.ring()
    }

    pub(crate) async fn read_at(&self, mut buf: Buf, offset: u64) -> (io::Result<usize>, Buf) {
        let (start, len) = (buf.as_mut_ptr(), buf.len() as u32);
        let entry = match buf.registered() {
            Some(index) => entry_for!(self.registered.target(), |fd| {
                opcode::ReadFixed::new(fd, start, len, index).offset(offset).build()
            }),
            None => entry_for!(self.registered.target(), |fd| opcode::Read::new(fd, start, len)
                .offset(offset)
                .build()),
        };
        let (result, keep) = self.ring().submit(entry, Keep::Buf(buf)).await;
        let Keep::Buf(buf) = keep else { unreachable!("an operation gives back what it kept") };
        (outcome(result), buf)
    }

    pub(crate) async fn write_at(&self, data: View, offset: u64) -> io::Result<usize> {
        let (start, len) = (data.first_byte(), data.len() as u32);
        let entry = match data.registered() {
            Some(index) => entry_for!(self.registered.target(), |fd| {
                opcode::WriteFixed::new(fd, start, len, index).offset(offset).build()
            }),
            None => entry_for!(self.registered.target(), |fd| opcode::Write::new(fd, start, len)
                .offset(offset)
                .build()),
        };
        outcome(self.ring().submit(entry, Keep::View(data)).await.0)
    }

    pub(crate) async fn sync(&self, data_only: bool) -> io::Result<()> {
        let flags = if data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
        let entry = entry_for!(self.registered.target(), |fd| opcode::Fsync::new(fd).flags(flags).build());
        outcome(self.ring().submit(entry, Keep::File(Rc::clone(&self.registered))).await.0).map(drop)
    }

    pub(crate) async fn allocate(&self, kind: Allocation, offset: u64, len: u64) -> io::Result<()> {
        let mode = match kind {
            Allocation::Reserve => libc::FALLOC_FL_KEEP_SIZE,
            Allocation::Extend => 0,
            Allocation::Punch => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            Allocation::Zero => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
        };
        let entry = entry_for!(self.registered.target(), |fd| {
            opcode::Fallocate::new(fd, len).offset(offset).mode(mode).build()
        });
        outcome(self.ring().submit(entry, Keep::File(Rc::clone(&self.registered))).await.0).map(drop)
    }

    async fn blocking<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(OwnedFd) -> io::Result<T> + Send + 'static,
    {
        let fd = self.registered.fd().try_clone_to_owned()?;
        blocking::run(move || work(fd)).await?
    }

    pub(crate) async fn set_len(&self, len: u64) -> io::Result<()> {
        self.blocking(move |fd| Ok(rustix::fs::ftruncate(fd, len)?)).await
    }

    pub(crate) async fn len(&self) -> io::Result<u64> {
        self.blocking(|fd| Ok(rustix::fs::fstat(fd)?.st_size.cast_unsigned())).await
    }

    pub(crate) async fn allocated_bytes(&self) -> io::Result<u64> {
        self.blocking(|fd| Ok(rustix::fs::fstat(fd)?.st_blocks.cast_unsigned() * 512)).await
    }

    /// Takes the file's lock (`flock(2)`), which belongs to the open file and so to the ring's table as well.
    pub(crate) async fn try_lock(&self) -> io::Result<bool> {
        self.blocking(|fd| {
            match rustix::fs::flock(fd, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(true),
                Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }
}

pub(crate) async fn create_dir(ring: &Ring, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let entry = opcode::MkDirAt::new(HERE, path.as_ptr()).mode(0o700).build();
    outcome(ring.submit(entry, Keep::Path(path)).await.0).map(drop)
}

pub(crate) async fn remove_file(ring: &Ring, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let entry = opcode::UnlinkAt::new(HERE, path.as_ptr()).build();
    outcome(ring.submit(entry, Keep::Path(path)).await.0).map(drop)
}

pub(crate) async fn rename(ring: &Ring, from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    let entry = opcode::RenameAt::new(HERE, from.as_ptr(), HERE, to.as_ptr()).build();
    outcome(ring.submit(entry, Keep::Paths(from, to)).await.0).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::pin::pin;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::*;
    use crate::context::{self, Driver};
    use crate::{Executor, ExecutorOptions};

    fn ring() -> Ring {
        context::with(|core| match &core.driver {
            Driver::Uring(ring) => ring.clone(),
            Driver::Sim(_) => unreachable!("this test runs on a ring"),
        })
    }

    /// Makes a file longer, gives that and the file up, and opens another one.
    async fn allocate_and_give_up(ring: &Ring, dead: File, alive: File) {
        let before = ring.0.ops.borrow().in_flight();
        let file = UringFile::of(ring, dead.into()).unwrap();
        {
            let mut allocating = pin!(file.allocate(Allocation::Extend, 0, 1 << 20));
            let polled = allocating.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
        }
        drop(file);
        let _next = UringFile::of(ring, alive.into()).unwrap();
        while ring.0.ops.borrow().in_flight() > before {
            crate::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn what_is_given_up_is_done_to_its_own_file() {
        let _alone = crate::uring::files::tests::alone();
        for files_max in [64, 1] {
            let dir = tempfile::tempdir().unwrap();
            let options = ExecutorOptions { files_max, ..ExecutorOptions::default() };
            Executor::start(&options).unwrap().run(async move {
                let ring = ring();
                let make = |name: String| File::create_new(dir.path().join(name)).unwrap();
                // Uses up a table of one place, so that descriptors are named themselves.
                let _first = UringFile::of(&ring, make("first".into()).into()).unwrap();
                for turn in 0..100 {
                    let (dead, alive) = (make(format!("dead{turn}")), make(format!("alive{turn}")));
                    let (its, other) = (dead.try_clone().unwrap(), alive.try_clone().unwrap());
                    allocate_and_give_up(&ring, dead, alive).await;
                    let lengths = (its.metadata().unwrap().len(), other.metadata().unwrap().len());
                    assert_eq!(lengths, (1 << 20, 0), "turn {turn}, {files_max} places");
                }
            });
        }
    }
}
