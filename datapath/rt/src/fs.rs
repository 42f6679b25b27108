//! Files and directories.
//!
//! Every operation gives its buffer to the kernel and gets it back with the result. Errors are sticky: after
//! one failed write or flush a [`File`] answers nothing but errors, because what the device holds is unknown
//! then and a later flush that succeeds would prove nothing (C4).

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};

use crate::blocking;
use crate::buf::{Buf, View};
use crate::context::{self, Driver};
use crate::sim;
use crate::uring;

/// How to open a file.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are the flags of open(2)")]
pub struct OpenOptions {
    /// Open for writing as well as reading.
    pub write: bool,
    /// Make the file if it is not there.
    pub create: bool,
    /// Make the file, and fail if it is there.
    pub create_new: bool,
    /// Bypass the page cache: addresses, offsets and lengths must be multiples of the device's block.
    pub direct: bool,
}

impl OpenOptions {
    /// For reading through the page cache.
    #[must_use]
    pub fn read() -> Self {
        Self::default()
    }

    /// For direct reading and writing.
    #[must_use]
    pub fn direct() -> Self {
        Self { write: true, direct: true, ..Self::default() }
    }

    /// Also makes the file, which must not exist.
    #[must_use]
    pub fn create_new(self) -> Self {
        Self { write: true, create_new: true, ..self }
    }

    /// Also makes the file if there is none.
    #[must_use]
    pub fn create(self) -> Self {
        Self { write: true, create: true, ..self }
    }

    pub(crate) fn flags(self) -> i32 {
        let mut flags = libc::O_CLOEXEC | if self.write { libc::O_RDWR } else { libc::O_RDONLY };
        if self.create || self.create_new {
            flags |= libc::O_CREAT;
        }
        if self.create_new {
            flags |= libc::O_EXCL;
        }
        if self.direct {
            flags |= libc::O_DIRECT;
        }
        flags
    }
}

/// What [`File::allocate`] does with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Allocates extents; the file's size stays.
    Reserve,
    /// Allocates extents and extends the file's size over them.
    Extend,
    /// Gives the range back to the file system; it reads as zero.
    Punch,
    /// Makes the range read as zero and keeps it allocated.
    Zero,
}

#[derive(Debug)]
enum Inner {
    Uring(uring::UringFile),
    Sim(sim::SimFile),
}

/// An open file.
#[derive(Debug)]
pub struct File {
    inner: Inner,
    failed: Cell<bool>,
}

macro_rules! each {
    ($self:expr, $file:ident => $call:expr) => {
        match &$self.inner {
            Inner::Uring($file) => $call.await,
            Inner::Sim($file) => $call.await,
        }
    };
}

impl File {
    /// Opens a file.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub async fn open(path: &Path, options: OpenOptions) -> io::Result<Self> {
        let inner = match driver() {
            Which::Uring(ring) => Inner::Uring(uring::UringFile::open(&ring, path, &options).await?),
            Which::Sim => Inner::Sim(sim::SimFile::open(path, &options).await?),
        };
        Ok(Self { inner, failed: Cell::new(false) })
    }

    fn check(&self) -> io::Result<()> {
        if self.failed.get() {
            return Err(io::Error::other("an earlier write or flush of this file failed"));
        }
        Ok(())
    }

    /// Notes a failed write or flush; running out of space is no failure of the device.
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::StorageFull
        {
            self.failed.set(true);
        }
        result
    }

    /// Whether a write or flush has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Reads into the whole length of `buf`; fewer bytes at the end of the file.
    ///
    /// # Errors
    /// Those of `pread(2)`. The buffer comes back in every case.
    pub async fn read_at(&self, buf: Buf, offset: u64) -> (io::Result<usize>, Buf) {
        if let Err(error) = self.check() {
            return (Err(error), buf);
        }
        each!(self, file => file.read_at(buf, offset))
    }

    /// Fills `buf`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before; those of `pread(2)`.
    pub async fn read_exact_at(&self, buf: Buf, offset: u64) -> (io::Result<()>, Buf) {
        let wanted = buf.len();
        let (result, buf) = self.read_at(buf, offset).await;
        match result {
            Ok(count) if count == wanted => (Ok(()), buf),
            Ok(0) => (Err(io::ErrorKind::UnexpectedEof.into()), buf),
            Ok(count) => Box::pin(self.read_rest(buf, count, offset)).await,
            Err(error) => (Err(error), buf),
        }
    }

    /// After a short read: fetches the rest block by block through a second buffer.
    async fn read_rest(&self, mut buf: Buf, mut have: usize, offset: u64) -> (io::Result<()>, Buf) {
        while have < buf.len() {
            // Direct I/O wants an aligned offset: fetch from the block in which the last read ended.
            let from = have / crate::buf::ALIGN * crate::buf::ALIGN;
            let (result, rest) = self.read_at(Buf::new(buf.len() - from), offset + from as u64).await;
            match result {
                Ok(count) if from + count > have => {
                    buf[from..from + count].copy_from_slice(&rest[..count]);
                    have = from + count;
                }
                Ok(_) => return (Err(io::ErrorKind::UnexpectedEof.into()), buf),
                Err(error) => return (Err(error), buf),
            }
        }
        (Ok(()), buf)
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// Those of `pwrite(2)`; a short write that cannot go on aligned is an error. Any error but a full device makes
    /// the file fail for good.
    pub async fn write_all_at(&self, mut data: View, mut offset: u64) -> io::Result<()> {
        self.check()?;
        loop {
            let written = self.note(each!(self, file => file.write_at(data.clone(), offset)))?;
            if written == data.len() {
                return Ok(());
            }
            // Direct I/O can go on only at a block boundary; what lies before it is written again.
            let done = written / crate::buf::ALIGN * crate::buf::ALIGN;
            if done == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "the device took only a part of the write",
                ));
            }
            data = data.slice(done..);
            offset += done as u64;
        }
    }

    /// Makes written data durable (`fdatasync`), which on the file systems we support flushes the whole device.
    ///
    /// # Errors
    /// Those of `fdatasync(2)`; the file has failed for good then (C4).
    pub async fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.note(each!(self, file => file.sync(true)))
    }

    /// Makes data and all attributes durable (`fsync`).
    ///
    /// # Errors
    /// As [`File::sync_data`].
    pub async fn sync_all(&self) -> io::Result<()> {
        self.check()?;
        self.note(each!(self, file => file.sync(false)))
    }

    /// Changes the allocation of a range.
    ///
    /// # Errors
    /// Those of `fallocate(2)`.
    pub async fn allocate(&self, kind: Allocation, offset: u64, len: u64) -> io::Result<()> {
        self.check()?;
        each!(self, file => file.allocate(kind, offset, len))
    }

    /// Sets the size.
    ///
    /// # Errors
    /// Those of `ftruncate(2)`.
    pub async fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        each!(self, file => file.set_len(len))
    }

    /// The size in bytes.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub async fn len(&self) -> io::Result<u64> {
        each!(self, file => file.len())
    }

    /// Bytes of the device that the file occupies.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub async fn allocated_bytes(&self) -> io::Result<u64> {
        each!(self, file => file.allocated_bytes())
    }

    /// Takes the exclusive lock of the file; false when another process has it. The lock is held by the ring itself
    /// and falls after the last operation of a killed process (C10).
    ///
    /// # Errors
    /// Those of `flock(2)`.
    pub async fn try_lock(&self) -> io::Result<bool> {
        each!(self, file => file.try_lock())
    }
}

enum Which {
    Uring(uring::Ring),
    Sim,
}

fn driver() -> Which {
    context::with(|core| match &core.driver {
        Driver::Uring(ring) => Which::Uring(ring.clone()),
        Driver::Sim(_) => Which::Sim,
    })
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name, without the directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Room on the file system of a directory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What is left for us.
    pub free: u64,
}

/// Makes a directory and those above it; the names are not durable yet ([`sync_dir`]).
///
/// # Errors
/// Those of `mkdir(2)`, but not that it exists.
pub async fn create_dir_all(path: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut at = Some(path);
    while let Some(dir) = at.filter(|dir| !dir.as_os_str().is_empty()) {
        match create_dir(dir).await {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(dir.to_owned()),
            Err(error) => return Err(error),
        }
        at = dir.parent();
    }
    for dir in missing.iter().rev() {
        match create_dir(dir).await {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

async fn create_dir(path: &Path) -> io::Result<()> {
    match driver() {
        Which::Uring(ring) => uring::create_dir(&ring, path).await,
        Which::Sim => sim::create_dir(path).await,
    }
}

/// Removes a file's name.
///
/// # Errors
/// Those of `unlink(2)`.
pub async fn remove_file(path: &Path) -> io::Result<()> {
    match driver() {
        Which::Uring(ring) => uring::remove_file(&ring, path).await,
        Which::Sim => sim::remove_file(path).await,
    }
}

/// Renames, replacing what has the new name.
///
/// # Errors
/// Those of `rename(2)`.
pub async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match driver() {
        Which::Uring(ring) => uring::rename(&ring, from, to).await,
        Which::Sim => sim::rename(from, to).await,
    }
}

/// The entries of a directory, sorted by name. Names that are not UTF-8 are an error: we never make such.
///
/// # Errors
/// Those of `readdir(3)`.
pub async fn read_dir(path: &Path) -> io::Result<Vec<DirEntry>> {
    if matches!(driver(), Which::Sim) {
        return sim::read_dir(path).await;
    }
    let path = path.to_owned();
    blocking::run(move || {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|name| {
                io::Error::new(io::ErrorKind::InvalidData, format!("unexpected file name {name:?}"))
            })?;
            entries.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
        }
        entries.sort();
        Ok(entries)
    })
    .await?
}

/// Whether the path names something.
///
/// # Errors
/// Those of `stat(2)`, but not that it is absent.
pub async fn exists(path: &Path) -> io::Result<bool> {
    if matches!(driver(), Which::Sim) {
        return sim::exists(path).await;
    }
    let path = path.to_owned();
    blocking::run(move || path.try_exists()).await?
}

/// Makes the names in a directory durable.
///
/// # Errors
/// Those of `fsync(2)` on the directory.
pub async fn sync_dir(path: &Path) -> io::Result<()> {
    if matches!(driver(), Which::Sim) {
        return sim::sync_dir(path).await;
    }
    let path = path.to_owned();
    blocking::run(move || std::fs::File::open(path)?.sync_all()).await?
}

/// Room on the file system that holds `path`.
///
/// # Errors
/// Those of `statvfs(3)`.
pub async fn space(path: &Path) -> io::Result<Space> {
    if matches!(driver(), Which::Sim) {
        return sim::space(path).await;
    }
    let path = path.to_owned();
    blocking::run(move || {
        let stat = rustix::fs::statvfs(&path)?;
        Ok(Space { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
    })
    .await?
}

/// Reads a whole small file through the page cache.
///
/// # Errors
/// Those of `open(2)` and `pread(2)`.
pub async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path, OpenOptions::read()).await?;
    let len = usize::try_from(file.len().await?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let (result, buf) = file.read_exact_at(Buf::new(len), 0).await;
    if len > 0 {
        result?;
    }
    Ok(buf.to_vec())
}

/// Replaces a small file so that after a crash either the old or the new content is there, whole.
///
/// # Errors
/// Those of the calls it takes; the old content stays then.
pub async fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let new = dir.join(name);
    match remove_file(&new).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = File::open(&new, OpenOptions::read().create_new()).await?;
    if !bytes.is_empty() {
        file.write_all_at(View::copy_of(bytes), 0).await?;
    }
    file.sync_all().await?;
    rename(&new, path).await?;
    sync_dir(dir).await
}
