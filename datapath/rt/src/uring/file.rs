//! Files on the ring.

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use io_uring::{opcode, types};

use super::files::entry_for;
use super::{Keep, Registered, Ring, outcome};
use crate::blocking;
use crate::buf::{Buf, View};
use crate::fs::{Allocation, OpenOptions};

/// An open file, registered with its ring.
#[derive(Debug)]
pub(crate) struct UringFile {
    registered: Registered,
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
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Self { registered: Registered::new(ring, fd)? })
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
        outcome(self.ring().submit(entry, Keep::Nothing).await.0).map(drop)
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
        outcome(self.ring().submit(entry, Keep::Nothing).await.0).map(drop)
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
