//! A simulated disk with one file system, after ext4 on a device with a volatile write cache.
//!
//! See [`crate::sim`] for what the model promises. Here it is split so: [`cell`] one block and its unflushed
//! changes, [`content`] one file, [`names`] the directories, [`crash`] what a power cut leaves, [`fault`] what goes
//! wrong, [`image`] what the controller does, and this file the operations.

mod cell;
mod content;
mod crash;
mod fault;
mod image;
mod names;
mod options;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use self::cell::{BLOCK, Cell};
use self::content::{Cache, Content, Ino};
use self::fault::{Act, Faults};
use self::names::{Dir, Names, Node};
use crate::fs::{Allocation, DirEntry, OpenOptions, Space};
use crate::random::Rng;

pub(super) use crash::Interrupted;
pub use fault::{Damage, DiskFault, DiskFaultKind};
pub use image::DiskImage;
pub(super) use options::nanos;
pub use options::{DiskOptions, FaultRates, Latency};

/// Unflushed writes of a disk beyond which it writes the oldest back by itself.
const DIRTY_MAX: usize = 16384;

/// What an operation on an open file acts on.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) ino: Ino,
    /// The path it was opened under, for faults and the trace.
    pub(super) path: Rc<Path>,
    pub(super) direct: bool,
}

/// How much of an operation happens; less than all of it only if its process was killed meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Whole,
    Part,
    Nothing,
}

pub(super) struct Fs {
    options: DiskOptions,
    rng: Rng,
    names: Names,
    cache: Cache,
    faults: Faults,
    /// Blocks in use by what is visible or open; each file counts one for itself.
    used: u64,
    /// Bytes somebody else occupies.
    occupied: u64,
    /// What was damaged so far: the path of the file, as it was opened or below the root of the disk, and a range of its bytes.
    damaged: Vec<(PathBuf, Range<u64>)>,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// The bytes of a block.
fn range_of(block: u64) -> Range<u64> {
    block * BLOCK as u64..(block + 1) * BLOCK as u64
}

fn end_of(offset: u64, len: u64) -> io::Result<u64> {
    offset.checked_add(len).filter(|&end| end <= i64::MAX as u64).ok_or(errno(libc::EFBIG))
}

impl Fs {
    pub(super) fn new(options: DiskOptions, rng: Rng) -> Self {
        for (size, what) in [(options.sector, "sector"), (options.atomic_unit, "atomic unit")] {
            assert!(size == 512 || size == 4096, "a {what} has 512 or 4096 bytes, not {size}");
        }
        let faults = Faults { asked: Vec::new(), rates: options.rates };
        Self {
            options,
            rng,
            names: Names::new(),
            cache: Cache::default(),
            faults,
            used: 0,
            occupied: 0,
            damaged: Vec::new(),
        }
    }

    pub(super) fn options(&self) -> &DiskOptions {
        &self.options
    }

    /// What has completed so far; a sync issued now covers it.
    pub(super) fn seq(&self) -> u64 {
        self.cache.seq
    }

    /// Nanoseconds an operation takes.
    pub(super) fn duration(&mut self, latency: Latency, bytes: usize, path: &Path) -> u64 {
        let stall = self.options.stall;
        let transfer = (bytes as u64).saturating_mul(1_000_000_000) / self.options.bandwidth.max(1);
        let time = latency.draw(&mut self.rng) + transfer;
        match self.faults.strike(Act::Submit, path, 0..u64::MAX, stall, &mut self.rng) {
            Some(DiskFaultKind::Stall(longer)) => time + nanos(longer),
            _ => time,
        }
    }

    /// Whether offset, length and memory suit direct I/O.
    pub(super) fn is_aligned(&self, offset: u64, len: usize, memory: usize) -> bool {
        let sector = self.options.sector as usize;
        offset.is_multiple_of(sector as u64) && len.is_multiple_of(sector) && memory.is_multiple_of(sector)
    }

    fn free(&self) -> u64 {
        self.options.capacity.saturating_sub(self.used * BLOCK as u64 + self.occupied)
    }

    fn full<T>() -> io::Result<T> {
        super::hit("disk.full");
        Err(errno(libc::ENOSPC))
    }

    /// Runs a change and counts what it takes of the disk.
    fn accounted<T>(&mut self, ino: Ino, change: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.blocks_of(ino);
        let result = change(self);
        self.names.collect(ino);
        self.used = self.used - before + self.blocks_of(ino);
        result
    }

    fn blocks_of(&self, ino: Ino) -> u64 {
        match self.names.inodes.get(&ino) {
            Some(inode) if inode.links > 0 || inode.opens > 0 => match &inode.node {
                Node::File(content) => 1 + content.allocated,
                _ => 1,
            },
            _ => 0,
        }
    }

    fn file(&mut self, ino: Ino) -> io::Result<&mut Content> {
        self.names.file_mut(ino).ok_or(errno(libc::EIO))
    }

    // Files.

    pub(super) fn open(&mut self, path: &[String], options: &OpenOptions) -> io::Result<Ino> {
        let (dir, name, found) = self.names.parent(path).map_err(|error| match error.raw_os_error() {
            Some(libc::EEXIST) => errno(libc::EISDIR),
            _ => error,
        })?;
        let ino = match found {
            Some(_) if options.create_new => return Err(errno(libc::EEXIST)),
            Some(ino) if self.names.dir(ino).is_ok() => return Err(errno(libc::EISDIR)),
            Some(ino) if self.names.file(ino).is_none() => return Err(errno(libc::ENXIO)),
            Some(ino) => ino,
            None if !options.create && !options.create_new => return Err(errno(libc::ENOENT)),
            None if self.free() < BLOCK as u64 => return Self::full(),
            None => {
                let seq = self.cache.next();
                let ino = self.names.create(dir, name, Node::File(Content::default()), seq);
                self.used += 1;
                ino
            }
        };
        if let Some(inode) = self.names.inodes.get_mut(&ino) {
            inode.opens += 1;
        }
        Ok(ino)
    }

    /// Closes a handle; its lock falls.
    pub(super) fn close(&mut self, ino: Ino, handle: u64) {
        self.accounted(ino, |fs| {
            if let Some(inode) = fs.names.inodes.get_mut(&ino) {
                inode.opens -= 1;
                inode.lock = inode.lock.filter(|&holder| holder != handle);
            }
        });
    }

    pub(super) fn try_lock(&mut self, ino: Ino, handle: u64) -> bool {
        self.names.inodes.get_mut(&ino).is_some_and(|inode| *inode.lock.get_or_insert(handle) == handle)
    }

    pub(super) fn read(&mut self, target: &Target, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let end = end_of(offset, buf.len() as u64)?;
        let stall = self.options.stall;
        let fault = self.faults.strike(Act::Read, &target.path, offset..end, stall, &mut self.rng);
        let chance = self.rng.next_u64();
        let file = self.names.file_mut(target.ino).ok_or(errno(libc::EIO))?;
        let blocks = offset / BLOCK as u64..end.div_ceil(BLOCK as u64);
        if fault == Some(DiskFaultKind::ReadError) || file.unreadable.range(blocks.clone()).next().is_some() {
            self.damaged.push((target.path.to_path_buf(), offset..end));
            return Err(errno(libc::EIO));
        }
        if fault == Some(DiskFaultKind::BitRot) {
            let block = blocks.start + chance % (blocks.end - blocks.start).max(1);
            if file.rot(block, (chance >> 16) as usize, (chance >> 8) as u8) {
                self.damaged.push((target.path.to_path_buf(), range_of(block)));
            }
        }
        let mut count = file.read(offset, buf);
        if fault == Some(DiskFaultKind::ShortRead) && count > BLOCK {
            count = BLOCK * (1 + chance as usize % (count / BLOCK)).min((count - 1) / BLOCK);
        }
        if fault == Some(DiskFaultKind::CorruptRead) && count > 0 {
            let at = (chance >> 8) as usize % count;
            buf[at] ^= 1 << (chance % 8);
            self.damaged.push((target.path.to_path_buf(), range_of((offset + at as u64) / BLOCK as u64)));
        }
        Ok(count)
    }

    pub(super) fn write(
        &mut self,
        target: &Target,
        offset: u64,
        data: &[u8],
        effect: Effect,
    ) -> io::Result<usize> {
        let end = end_of(offset, data.len() as u64)?;
        let stall = self.options.stall;
        let fault = self.faults.strike(Act::Write, &target.path, offset..end, stall, &mut self.rng);
        let data = match effect {
            Effect::Whole => data,
            Effect::Part => &data[..self.some_blocks(data.len(), 0)],
            Effect::Nothing => return Ok(0),
        };
        let data = &data[..self.room_for(target.ino, offset, data)?];
        match fault {
            Some(DiskFaultKind::WriteError) => {
                let landed = self.some_blocks(data.len(), 0);
                self.store(target, offset, &data[..landed]);
                Err(errno(libc::EIO))
            }
            Some(DiskFaultKind::LostWrite) => Ok(self.lose(target, offset, data.len())),
            Some(DiskFaultKind::MisdirectedWrite) => {
                let count = self.lose(target, offset, data.len());
                self.misdirect(target.ino, offset, data);
                Ok(count)
            }
            Some(DiskFaultKind::ShortWrite) => {
                let count = self.some_blocks(data.len(), 1);
                Ok(self.store(target, offset, &data[..count]))
            }
            _ => Ok(self.store(target, offset, data)),
        }
    }

    /// A random number of whole blocks of `len` bytes, at least `least`, or all of them.
    fn some_blocks(&mut self, len: usize, least: usize) -> usize {
        let blocks = len.div_ceil(BLOCK);
        let count = least + self.rng.below((blocks + 1).saturating_sub(least).max(1) as u64) as usize;
        (count * BLOCK).min(len)
    }

    /// How much of a write fits.
    fn room_for(&mut self, ino: Ino, offset: u64, data: &[u8]) -> io::Result<usize> {
        let free = self.free() / BLOCK as u64;
        if free > data.len() as u64 / BLOCK as u64 + 2 {
            return Ok(data.len());
        }
        let file = self.file(ino)?;
        let mut fits = data.len();
        while fits > 0 && file.holes(offset, fits as u64) > free {
            fits = (fits - 1) / BLOCK * BLOCK;
        }
        if fits < data.len() && (fits == 0 || self.rng.one_in(2)) {
            return Self::full();
        }
        Ok(fits)
    }

    fn store(&mut self, target: &Target, offset: u64, data: &[u8]) -> usize {
        if data.is_empty() {
            return 0;
        }
        self.accounted(target.ino, |fs| {
            let Some(file) = fs.names.file_mut(target.ino) else { return };
            let seq = fs.cache.next();
            file.store(target.ino, offset, data, seq, target.direct, &mut fs.cache);
            let end = offset + data.len() as u64;
            if end > file.size {
                file.resize(end, seq);
            }
        });
        if self.cache.dirty.len() > DIRTY_MAX {
            let upto = self.cache.dirty[DIRTY_MAX / 4].order;
            self.flush(upto);
        }
        data.len()
    }

    /// Does everything a write does but store its data.
    fn lose(&mut self, target: &Target, offset: u64, len: usize) -> usize {
        self.damaged.push((target.path.to_path_buf(), offset..offset + len as u64));
        let mut old = vec![0; len];
        if let Some(file) = self.names.file(target.ino) {
            file.read(offset, &mut old);
        }
        self.store(target, offset, &old)
    }

    /// Puts the first block of a write on another block, of the same file or of any.
    fn misdirect(&mut self, ino: Ino, offset: u64, data: &[u8]) {
        let away = self
            .names
            .inodes
            .range(self.rng.below(ino + 8)..)
            .find(|(_, inode)| matches!(&inode.node, Node::File(content) if content.allocated > 0));
        let victim = match away {
            Some((&other, _)) if self.rng.one_in(2) => other,
            _ => ino,
        };
        let near = self.rng.below(offset / BLOCK as u64 * 2 + 8);
        let Some(file) = self.names.file_mut(victim) else { return };
        let Some(block) =
            file.written_near(near).filter(|&block| (victim, block) != (ino, offset / BLOCK as u64))
        else {
            return;
        };
        crate::sim::trace(|| {
            format!("misdirected: inode {ino} at {offset} went to inode {victim}, block {block}")
        });
        let seq = self.cache.next();
        file.store(victim, block * BLOCK as u64, &data[..data.len().min(BLOCK)], seq, true, &mut self.cache);
        // Without a name nobody asks for it again.
        if let Some(path) = self.names.path_of(victim) {
            self.damaged.push((path, range_of(block)));
        }
    }

    /// Makes durable what is in the device's cache up to `upto`.
    fn flush(&mut self, upto: u64) {
        while let Some(dirty) = self.cache.dirty.front().filter(|dirty| dirty.order <= upto).copied() {
            self.cache.dirty.pop_front();
            if let Some(file) = self.names.file_mut(dirty.ino) {
                file.land(dirty.block, dirty.version);
            }
        }
    }

    /// A sync of one file issued when the disk had completed `upto`.
    pub(super) fn sync(&mut self, target: &Target, upto: u64) -> io::Result<()> {
        let stall = self.options.stall;
        let fault = self.faults.strike(Act::Flush, &target.path, 0..u64::MAX, stall, &mut self.rng);
        if fault == Some(DiskFaultKind::FlushError) {
            self.fail_flush(target.ino, upto);
            return Err(errno(libc::EIO));
        }
        self.flush(upto);
        if let Some(file) = self.names.file_mut(target.ino) {
            file.commit(target.ino, upto, &mut self.cache);
        }
        Ok(())
    }

    /// Half of what a flush covered lands; the rest is forgotten by every later flush.
    fn fail_flush(&mut self, ino: Ino, upto: u64) {
        while let Some(dirty) = self.cache.dirty.front().filter(|dirty| dirty.order <= upto).copied() {
            self.cache.dirty.pop_front();
            if self.rng.one_in(2)
                && let Some(file) = self.names.file_mut(dirty.ino)
            {
                file.land(dirty.block, dirty.version);
            }
        }
        if let Some(file) = self.names.file_mut(ino) {
            file.forget(upto);
        }
    }

    pub(super) fn allocate(&mut self, ino: Ino, kind: Allocation, offset: u64, len: u64) -> io::Result<()> {
        let end = end_of(offset, len)?;
        if len == 0 {
            return Err(errno(libc::EINVAL));
        }
        let free = self.free() / BLOCK as u64;
        if kind != Allocation::Punch && self.file(ino)?.holes(offset, len) > free {
            return Self::full();
        }
        self.accounted(ino, |fs| {
            let seq = fs.cache.next();
            let Some(file) = fs.names.file_mut(ino) else { return };
            match kind {
                Allocation::Reserve | Allocation::Extend => {
                    file.reserve(ino, offset, len, seq, &mut fs.cache)
                }
                Allocation::Punch => file.clear(ino, offset, len, &Cell::Hole, seq, &mut fs.cache),
                Allocation::Zero => file.clear(ino, offset, len, &Cell::Unwritten, seq, &mut fs.cache),
            }
            if kind == Allocation::Extend && end > file.size {
                file.resize(end, seq);
            }
        });
        Ok(())
    }

    pub(super) fn set_len(&mut self, ino: Ino, len: u64) -> io::Result<()> {
        end_of(len, 0)?;
        self.file(ino)?;
        self.accounted(ino, |fs| {
            let seq = fs.cache.next();
            let Some(file) = fs.names.file_mut(ino) else { return };
            file.cut(ino, len.min(file.size), seq, &mut fs.cache);
            file.resize(len, seq);
        });
        Ok(())
    }

    pub(super) fn len(&mut self, ino: Ino) -> io::Result<u64> {
        Ok(self.file(ino)?.size)
    }

    pub(super) fn allocated_bytes(&mut self, ino: Ino) -> io::Result<u64> {
        Ok(self.file(ino)?.allocated * BLOCK as u64)
    }

    // Names.

    pub(super) fn create_dir(&mut self, path: &[String]) -> io::Result<()> {
        self.create(path, Node::Dir(Dir::default()), libc::EEXIST).map(drop)
    }

    /// Makes the name of a Unix socket.
    pub(super) fn create_socket(&mut self, path: &[String]) -> io::Result<Ino> {
        self.create(path, Node::Socket, libc::EADDRINUSE)
    }

    /// The socket of that name.
    pub(super) fn find_socket(&self, path: &[String]) -> io::Result<Ino> {
        let ino = self.names.resolve(path)?;
        let is_socket = matches!(self.names.inodes[&ino].node, Node::Socket);
        is_socket.then_some(ino).ok_or(errno(libc::ECONNREFUSED))
    }

    fn create(&mut self, path: &[String], node: Node, taken: i32) -> io::Result<Ino> {
        let (dir, name, found) = self.names.parent(path)?;
        if found.is_some() {
            return Err(errno(taken));
        }
        if self.free() < BLOCK as u64 {
            return Self::full();
        }
        let seq = self.cache.next();
        self.used += 1;
        Ok(self.names.create(dir, name, node, seq))
    }

    pub(super) fn remove_file(&mut self, path: &[String]) -> io::Result<()> {
        let ino = self.names.resolve(path)?;
        self.accounted(ino, |fs| {
            let seq = fs.cache.next();
            fs.names.unlink(path, seq).map(drop)
        })
    }

    pub(super) fn rename(&mut self, from: &[String], to: &[String]) -> io::Result<()> {
        let replaced = self.names.resolve(to).unwrap_or(0);
        self.accounted(replaced, |fs| {
            let seq = fs.cache.next();
            fs.names.rename(from, to, seq).map(drop)
        })
    }

    pub(super) fn read_dir(&self, path: &[String]) -> io::Result<Vec<DirEntry>> {
        self.names.list(path)
    }

    pub(super) fn exists(&self, path: &[String]) -> io::Result<bool> {
        match self.names.resolve(path) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn sync_dir(&mut self, path: &[String], upto: u64) -> io::Result<()> {
        let dir = self.names.resolve(path)?;
        self.names.dir(dir)?;
        self.names.sync_dir(dir, upto);
        self.names.collect(dir);
        Ok(())
    }

    pub(super) fn space(&self, path: &[String]) -> io::Result<Space> {
        self.names.resolve(path)?;
        Ok(Space { total: self.options.capacity, free: self.free() })
    }
}
