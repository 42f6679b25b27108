//! What the controller does to a disk from outside: faults, a look inside, and copies of the whole.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::content::{Content, Ino};
use super::fault::Faults;
use super::names::{Names, ROOT};
use super::{BLOCK, DiskFault, FaultRates, Fs, errno, range_of};

/// A copy of everything on a disk, to be put back later.
#[derive(Clone, Debug)]
pub struct DiskImage(Names);

impl DiskImage {
    /// A new file system with nothing on it.
    #[must_use]
    pub fn empty() -> Self {
        Self(Names::new())
    }
}

impl Fs {
    pub(in crate::sim) fn add_fault(&mut self, fault: DiskFault) {
        self.faults.asked.push(fault);
    }

    pub(in crate::sim) fn clear_faults(&mut self) {
        self.faults = Faults::default();
    }

    pub(in crate::sim) fn set_rates(&mut self, rates: FaultRates) {
        self.faults.rates = rates;
    }

    /// What was damaged so far.
    pub(in crate::sim) fn damaged(&self) -> &[(PathBuf, Range<u64>)] {
        &self.damaged
    }

    /// Notes that the block at `offset` of a file is damaged.
    pub(in crate::sim) fn note_damage(&mut self, path: &Path, offset: u64) {
        self.damaged.push((path.to_owned(), range_of(offset / BLOCK as u64)));
    }

    pub(in crate::sim) fn occupy(&mut self, bytes: u64) {
        self.occupied = bytes;
    }

    pub(in crate::sim) fn find_file(&mut self, path: &[String]) -> io::Result<&mut Content> {
        let ino = self.names.resolve(path)?;
        self.names.file_mut(ino).ok_or(errno(libc::EISDIR))
    }

    pub(in crate::sim) fn image(&self) -> DiskImage {
        DiskImage(self.names.settled())
    }

    /// Puts an image in the place of everything; no file may be open.
    pub(in crate::sim) fn restore(&mut self, image: &DiskImage) {
        self.names = image.0.clone();
        self.cache.dirty.clear();
        self.recount();
    }

    pub(in crate::sim) fn recount(&mut self) {
        let all: Vec<Ino> = self.names.inodes.keys().copied().filter(|&ino| ino != ROOT).collect();
        self.used = all.into_iter().map(|ino| self.blocks_of(ino)).sum();
    }
}
