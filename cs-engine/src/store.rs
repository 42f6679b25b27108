//! Chunk files: one sparse file per chunk, a bounded number of them open.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rt::collections::FixedMap;
use rt::fs::{self, Allocation, File, OpenOptions};

use crate::format::BLOCK;

/// Extents are allocated ahead in units of this many blocks (1 MiB).
pub const ALLOCATION_BLOCKS: u32 = 256;
/// Name of the directory of chunk files.
pub const CHUNKS: &str = "chunks";

/// An open chunk file.
#[derive(Debug)]
pub struct ChunkFile {
    chunk: u64,
    file: File,
    blocks: u32,
    /// Allocation units known to be allocated since the file was opened.
    allocated: RefCell<BTreeSet<u32>>,
    /// Data was written into extents that no `fdatasync` of this file has committed.
    uncommitted: Cell<bool>,
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
        let units = blocks.start / ALLOCATION_BLOCKS..blocks.end.div_ceil(ALLOCATION_BLOCKS);
        for unit in units {
            if self.allocated.borrow().contains(&unit) {
                continue;
            }
            let from = unit * ALLOCATION_BLOCKS;
            let to = (from + ALLOCATION_BLOCKS).min(self.blocks);
            let (offset, len) = (u64::from(from) * BLOCK as u64, u64::from(to - from) * BLOCK as u64);
            self.file.allocate(Allocation::Reserve, offset, len).await?;
            self.allocated.borrow_mut().insert(unit);
            self.uncommitted.set(true);
        }
        Ok(())
    }

    /// Notes that data was written into extents that may not be committed.
    pub fn set_uncommitted(&self) {
        self.uncommitted.set(true);
    }

    /// Gives `blocks` back to the file system.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn punch(&self, blocks: Range<u32>) -> io::Result<()> {
        for unit in blocks.start / ALLOCATION_BLOCKS..blocks.end.div_ceil(ALLOCATION_BLOCKS) {
            self.allocated.borrow_mut().remove(&unit);
        }
        let offset = u64::from(blocks.start) * BLOCK as u64;
        self.uncommitted.set(true);
        self.file.allocate(Allocation::Punch, offset, blocks.len() as u64 * BLOCK as u64).await
    }
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

    /// Removes a chunk's file.
    ///
    /// # Errors
    /// Those of the file system, but not that it is gone.
    pub async fn remove(&self, chunk: u64) -> io::Result<()> {
        self.open.borrow_mut().remove(&chunk);
        self.clock.borrow_mut().retain(|&other| other != chunk);
        match fs::remove_file(&self.path(chunk)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The open file of a chunk of `size` bytes.
    ///
    /// # Errors
    /// Those of `open(2)`; `InvalidData` when the file has another size.
    pub async fn file(&self, chunk: u64, size: u64) -> io::Result<Rc<ChunkFile>> {
        if let Some(open) = self.cached(chunk) {
            return Ok(open);
        }
        let file = File::open(&self.path(chunk), OpenOptions::direct()).await?;
        let found = file.len().await?;
        if found != size {
            let text = format!("the chunk's file has {found} bytes instead of {size}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        // Another task may have opened it meanwhile; there must be one of it only.
        if let Some(open) = self.cached(chunk) {
            return Ok(open);
        }
        self.evict();
        let open = Rc::new(ChunkFile {
            chunk,
            file,
            blocks: (size / BLOCK as u64) as u32,
            allocated: RefCell::default(),
            uncommitted: Cell::new(false),
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

    fn evict(&self) {
        let (mut open, mut clock) = (self.open.borrow_mut(), self.clock.borrow_mut());
        let mut turns = 2 * clock.len();
        while open.len() >= self.open_max && turns > 0 {
            turns -= 1;
            let Some(chunk) = clock.pop_front() else { return };
            match open.get(&chunk) {
                Some(file) if file.used.replace(false) || file.uncommitted.get() || Rc::strong_count(file) > 1 => {
                    clock.push_back(chunk);
                }
                _ => {
                    open.remove(&chunk);
                }
            }
        }
    }

    /// Takes the files with uncommitted extents; each must be synced now.
    #[must_use]
    pub fn take_uncommitted(&self) -> Vec<Rc<ChunkFile>> {
        let open = self.open.borrow();
        let mut files: Vec<_> = open.values().filter(|file| file.uncommitted.replace(false)).map(Rc::clone).collect();
        files.sort_by_key(|file| file.chunk);
        files
    }
}
