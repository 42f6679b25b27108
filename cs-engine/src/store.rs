//! Chunk files: one sparse file per chunk, a bounded number of them open.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rt::collections::FixedMap;
use rt::fs::{self, Allocation, File, OpenOptions};
use rt::sync::Semaphore;

use crate::format::BLOCK;

/// Extents are allocated ahead in units of this many blocks (1 MiB).
pub const ALLOCATION_BLOCKS: u32 = 256;
/// Name of the directory of chunk files.
pub const CHUNKS: &str = "chunks";
/// What is added to the name of a chunk's file while the chunk is being deleted.
pub const DELETED: &str = ".deleted";

/// An open chunk file.
#[derive(Debug)]
pub struct ChunkFile {
    chunk: u64,
    file: File,
    blocks: u32,
    /// Allocation units known to be allocated since the file was opened.
    allocated: RefCell<BTreeSet<u32>>,
    /// Counts the beginnings and ends of punches.
    punches: Cell<u64>,
    /// Counts the changes of extents that only an `fdatasync` of this very file commits...
    changes: Cell<u64>,
    /// ...and how many of them one has.
    committed: Cell<u64>,
    /// A commit has failed: the kernel says so only once, and no later one may pass for good (C4).
    failed: Cell<bool>,
    committing: Semaphore,
    used: Cell<bool>,
}

impl ChunkFile {
    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Allocates the extents under `blocks`, so that a later write cannot run out of space.
    ///
    /// # Errors
    /// `StorageFull`, or those of the device.
    pub async fn allocate(&self, blocks: Range<u32>) -> io::Result<()> {
        for unit in blocks.start / ALLOCATION_BLOCKS..blocks.end.div_ceil(ALLOCATION_BLOCKS) {
            let punches = self.punches.get();
            if self.allocated.borrow().contains(&unit) {
                continue;
            }
            let whole = unit * ALLOCATION_BLOCKS..((unit + 1) * ALLOCATION_BLOCKS).min(self.blocks);
            match Box::pin(self.reserve(&whole)).await {
                // A punch of other blocks of the unit may have come later than the reservation.
                Ok(()) if self.punches.get() != punches => {}
                Ok(()) => {
                    self.allocated.borrow_mut().insert(unit);
                }
                // Nearly full: what is needed may still fit where what is handy does not.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    let needed = blocks.start.max(whole.start)..blocks.end.min(whole.end);
                    Box::pin(self.reserve(&needed)).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn reserve(&self, blocks: &Range<u32>) -> io::Result<()> {
        let (offset, len) = bytes_of(blocks);
        let result = self.file.allocate(Allocation::Reserve, offset, len).await;
        self.set_uncommitted();
        result
    }

    /// Notes that extents were changed, or written to for the first time.
    pub fn set_uncommitted(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    fn is_committed(&self) -> bool {
        self.changes.get() == self.committed.get()
    }

    /// Commits extents; what is changed meanwhile stays uncommitted.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn commit(&self) -> io::Result<()> {
        // One at a time: of two the kernel would tell only one that it failed.
        let _turn = self.committing.acquire(1).await;
        if self.failed.get() {
            return Err(io::Error::other("an earlier flush of the file failed"));
        }
        let changes = self.changes.get();
        if let Err(error) = self.file.sync_data().await {
            self.failed.set(true);
            return Err(error);
        }
        self.committed.set(self.committed.get().max(changes));
        Ok(())
    }

    /// Gives `blocks` back to the file system. The caller keeps others from allocating any of them meanwhile.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn punch(&self, blocks: Range<u32>) -> io::Result<()> {
        let (offset, len) = bytes_of(&blocks);
        self.punches.set(self.punches.get() + 1);
        self.forget_allocated(&blocks);
        let result = self.file.allocate(Allocation::Punch, offset, len).await;
        // Again: another block of the same unit may have been allocated meanwhile, and the unit with it.
        self.punches.set(self.punches.get() + 1);
        self.forget_allocated(&blocks);
        self.set_uncommitted();
        result
    }

    fn forget_allocated(&self, blocks: &Range<u32>) {
        let units = blocks.start / ALLOCATION_BLOCKS..blocks.end.div_ceil(ALLOCATION_BLOCKS);
        self.allocated.borrow_mut().retain(|unit| !units.contains(unit));
    }

    /// Makes `blocks` read as zero and keeps their space.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn zero(&self, blocks: Range<u32>) -> io::Result<()> {
        let (offset, len) = bytes_of(&blocks);
        let result = self.file.allocate(Allocation::Zero, offset, len).await;
        self.set_uncommitted();
        result
    }
}

fn bytes_of(blocks: &Range<u32>) -> (u64, u64) {
    (u64::from(blocks.start) * BLOCK as u64, blocks.len() as u64 * BLOCK as u64)
}

/// Why a chunk's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there.
    #[error("the chunk's file is missing")]
    Missing,
    /// It is not as long as the chunk.
    #[error("the chunk's file has {found} bytes instead of {size}")]
    Size {
        /// Its length.
        found: u64,
        /// The chunk's.
        size: u64,
    },
    /// The system will not open it now.
    #[error("cannot open the chunk's file: {0}")]
    Open(#[source] io::Error),
    /// Another file could not be committed to make room for it: the device has failed.
    #[error("cannot commit a chunk's file: {0}")]
    Commit(#[source] io::Error),
}

impl FileError {
    /// Whether the file is there and may be opened later: rights or descriptors are missing, and no device is broken.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        use rustix::io::Errno;
        let Self::Open(error) = self else { return false };
        let broken = [Errno::IO, Errno::UCLEAN, Errno::NXIO, Errno::STALE].map(Errno::raw_os_error);
        !error.raw_os_error().is_some_and(|number| broken.contains(&number))
    }

    /// Whether only the process or its host is short of something, so that whoever tries again soon gets it.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        use rustix::io::Errno;
        let Self::Open(error) = self else { return false };
        let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN].map(Errno::raw_os_error);
        error.raw_os_error().is_some_and(|number| short.contains(&number))
    }
}

/// A file below the directory of chunks that belongs to no chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Where it is.
    pub path: PathBuf,
    /// The chunk its name says, if it is a chunk's name.
    pub chunk: Option<u64>,
    /// The name says that the chunk was being deleted.
    pub deleted: bool,
}

/// The chunk files of one server.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    open_max: usize,
    open: RefCell<FixedMap<u64, Rc<ChunkFile>>>,
    clock: RefCell<VecDeque<u64>>,
}

impl Store {
    /// The store in a chunk server's directory.
    #[must_use]
    pub fn new(dir: &Path, open_max: usize) -> Self {
        Self {
            dir: dir.join(CHUNKS),
            open_max: open_max.max(8),
            open: RefCell::default(),
            clock: RefCell::default(),
        }
    }

    /// Where a chunk's file is.
    #[must_use]
    pub fn path(&self, chunk: u64) -> PathBuf {
        self.dir.join(format!("{:02x}", chunk & 0xff)).join(format!("{chunk:016x}"))
    }

    fn path_deleted(&self, chunk: u64) -> PathBuf {
        self.path(chunk).with_extension(&DELETED[1..])
    }

    /// Makes the file of a new chunk durably. A file that is there already belongs to a creation that was cut off
    /// before the chunk's header was written; it holds nothing.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn create(&self, chunk: u64, size: u64) -> io::Result<()> {
        let path = self.path(chunk);
        let parent = path.parent().expect("a chunk's path has a directory");
        fs::create_dir_all(parent).await?;
        let file = File::open(&path, OpenOptions::direct().create()).await?;
        file.set_len(0).await?;
        file.set_len(size).await?;
        file.sync_all().await?;
        fs::sync_dir(parent).await?;
        fs::sync_dir(&self.dir).await
    }

    /// First step of a deletion: takes the file's name away, so that what is left after a crash can be told from the
    /// file of a chunk whose header was lost. It stays open: until the deletion is durable a crash may bring the chunk
    /// back, and a flush that is answered meanwhile speaks for it too.
    ///
    /// # Errors
    /// Those of the file system, but not that it is gone.
    pub async fn retire(&self, chunk: u64) -> io::Result<()> {
        let path = self.path(chunk);
        match fs::rename(&path, &self.path_deleted(chunk)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::sync_dir(path.parent().expect("a chunk's path has a directory")).await,
        }
    }

    /// Undoes [`Store::retire`], when the chunk turns out to be alive.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn restore(&self, chunk: u64) -> io::Result<()> {
        let path = self.path(chunk);
        fs::rename(&self.path_deleted(chunk), &path).await?;
        fs::sync_dir(path.parent().expect("a chunk's path has a directory")).await
    }

    /// Last step of a deletion: removes the file, under either name.
    ///
    /// # Errors
    /// Those of the file system, but not that it is gone.
    pub async fn remove(&self, chunk: u64) -> io::Result<()> {
        self.close(chunk);
        for path in [self.path_deleted(chunk), self.path(chunk)] {
            match fs::remove_file(&path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn close(&self, chunk: u64) {
        self.open.borrow_mut().remove(&chunk);
        self.clock.borrow_mut().retain(|&other| other != chunk);
    }

    /// Every file that is not the file of a chunk that `is_alive`; `seen` hears of those that are.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn strays(
        &self,
        is_alive: impl Fn(u64) -> bool,
        mut seen: impl FnMut(u64),
    ) -> io::Result<Vec<Stray>> {
        let mut strays = Vec::new();
        for entry in fs::read_dir(&self.dir).await? {
            let dir = self.dir.join(&entry.name);
            if !entry.is_dir {
                strays.push(Stray { path: dir, chunk: None, deleted: false });
                continue;
            }
            for file in fs::read_dir(&dir).await? {
                let path = dir.join(&file.name);
                let name = file.name.strip_suffix(DELETED).unwrap_or(&file.name);
                let chunk = u64::from_str_radix(name, 16).ok();
                let chunk = chunk.filter(|&chunk| !file.is_dir && self.path(chunk) == dir.join(name));
                let deleted = chunk.is_some() && name.len() != file.name.len();
                match chunk.filter(|chunk| !deleted && is_alive(*chunk)) {
                    Some(chunk) => seen(chunk),
                    None => strays.push(Stray { path, chunk, deleted }),
                }
            }
        }
        Ok(strays)
    }

    /// The open file of a chunk of `size` bytes.
    ///
    /// # Errors
    /// [`FileError`].
    pub async fn file(&self, chunk: u64, size: u64) -> Result<Rc<ChunkFile>, FileError> {
        match self.cached(chunk) {
            Some(open) => Ok(open),
            None => Box::pin(self.open_file(chunk, size)).await,
        }
    }

    async fn open_file(&self, chunk: u64, size: u64) -> Result<Rc<ChunkFile>, FileError> {
        let file = match File::open(&self.path(chunk), OpenOptions::direct()).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(FileError::Missing),
            Err(error) => return Err(FileError::Open(error)),
        };
        let found = file.len().await.map_err(FileError::Open)?;
        if found != size {
            return Err(FileError::Size { found, size });
        }
        self.make_room().await.map_err(FileError::Commit)?;
        // Another task may have opened it meanwhile; there must be one of it only.
        if let Some(open) = self.cached(chunk) {
            return Ok(open);
        }
        let open = Rc::new(ChunkFile {
            chunk,
            file,
            blocks: (size / BLOCK as u64) as u32,
            allocated: RefCell::default(),
            changes: Cell::new(0),
            punches: Cell::new(0),
            committed: Cell::new(0),
            failed: Cell::new(false),
            committing: Semaphore::new(1),
            used: Cell::new(true),
        });
        self.open.borrow_mut().insert(chunk, Rc::clone(&open));
        self.clock.borrow_mut().push_back(chunk);
        Ok(open)
    }

    fn cached(&self, chunk: u64) -> Option<Rc<ChunkFile>> {
        let open = self.open.borrow();
        let file = open.get(&chunk)?;
        file.used.set(true);
        Some(Rc::clone(file))
    }

    /// Closes files by the second-chance rule until another fits. One with uncommitted extents is committed first: no
    /// flush would find it afterwards.
    async fn make_room(&self) -> io::Result<()> {
        let mut turns = 3 * self.clock.borrow().len();
        while self.open.borrow().len() >= self.open_max && turns > 0 {
            turns -= 1;
            let Some(chunk) = self.clock.borrow_mut().pop_front() else { return Ok(()) };
            let Some(file) = self.open.borrow().get(&chunk).map(Rc::clone) else { continue };
            // One for the map, one for this function: any other is of a request under way.
            let busy = Rc::strong_count(&file) > 2;
            if busy || file.used.replace(false) {
                self.clock.borrow_mut().push_back(chunk);
                continue;
            }
            if !file.is_committed() {
                self.clock.borrow_mut().push_back(chunk);
                // In a task of its own: whoever asked for room may go away, and the outcome must not go with it.
                let committed = rt::spawn(async move { file.commit().await }).await;
                committed.unwrap_or_else(|error| Err(io::Error::other(error)))?;
                continue;
            }
            self.open.borrow_mut().remove(&chunk);
        }
        Ok(())
    }

    /// The files with uncommitted extents.
    #[must_use]
    pub fn uncommitted(&self) -> Vec<Rc<ChunkFile>> {
        let open = self.open.borrow();
        let mut files: Vec<_> = open.values().filter(|file| !file.is_committed()).map(Rc::clone).collect();
        files.sort_by_key(|file| file.chunk);
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn what_the_process_is_short_of_may_be_had_again() {
        let open = |errno: Errno| FileError::Open(io::Error::from_raw_os_error(errno.raw_os_error()));
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert!(open(errno).is_shortage() && open(errno).may_pass(), "{errno:?}");
        }
        assert!(
            !open(Errno::ACCESS).is_shortage() && open(Errno::ACCESS).may_pass(),
            "somebody has to mend it"
        );
        for errno in [Errno::IO, Errno::UCLEAN] {
            assert!(!open(errno).is_shortage() && !open(errno).may_pass(), "{errno:?}");
        }
        assert!(!FileError::Missing.is_shortage() && !FileError::Size { found: 0, size: 1 }.is_shortage());
    }
}
