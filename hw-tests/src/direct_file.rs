//! Reads and writes past the page cache (`O_DIRECT`).

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Alignment of the memory, enough for every logical block size in use.
const ALIGNMENT: usize = 4096;

/// Zeroed memory at a multiple of 4096 bytes.
#[derive(Debug)]
pub struct AlignedBuffer {
    raw: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// A buffer of `len` bytes.
    pub fn new(len: usize) -> Self {
        let raw = vec![0; len + ALIGNMENT];
        let start = raw.as_ptr().addr().next_multiple_of(ALIGNMENT) - raw.as_ptr().addr();
        Self { raw, start, len }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.raw[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.len]
    }
}

/// A file or block device opened with `O_DIRECT`. Offsets and lengths are multiples of its logical block.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
}

impl DirectFile {
    /// Opens what exists at `path` for reading and writing.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(OpenOptions::new().read(true).write(true), path)
    }

    /// Opens `path` for reading and writing, and makes it if absent.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::open_with(OpenOptions::new().read(true).write(true).create(true).truncate(false), path)
    }

    fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECT.bits().cast_signed();
        Ok(Self { file: options.custom_flags(flags).open(path)? })
    }

    /// Writes the whole buffer at `offset`, in bytes.
    pub fn write_at(&self, offset: u64, data: &AlignedBuffer) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    /// Fills the whole buffer from `offset`, in bytes.
    pub fn read_at(&self, offset: u64, out: &mut AlignedBuffer) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    /// fdatasync(2): returns when all completed writes are durable.
    pub fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The open file, for what is not offered here.
    pub fn file(&self) -> &File {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_of_their_length() {
        for len in [0, 1, 512, 4096, 100_000] {
            let mut buffer = AlignedBuffer::new(len);
            assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0);
            assert_eq!(buffer.len(), len);
            buffer.fill(0xff);
        }
    }
}
