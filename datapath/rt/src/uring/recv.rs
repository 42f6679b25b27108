//! Provided buffers: memory the kernel picks from when data arrives, so that an idle connection holds none.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::{IoUring, types};

use super::Ring;
use crate::launch::StartError;

/// The only buffer group of a ring.
pub(super) const GROUP: u16 = 0;
/// Size of one provided buffer, in bytes: two full TLS records.
pub(crate) const BUFFER: usize = 32 << 10;

/// The ring of provided buffers (`io_uring_register_buf_ring(3)`).
pub(super) struct RecvRing {
    entries: NonNull<types::BufRingEntry>,
    memory: NonNull<u8>,
    count: u16,
    tail: u16,
    available: u16,
    leaked: bool,
}

fn map(bytes: usize) -> std::io::Result<NonNull<u8>> {
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
    let start = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            bytes,
            rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
            rustix::mm::MapFlags::PRIVATE,
        )
    }?;
    Ok(NonNull::new(start.cast()).expect("a mapping is never at address zero"))
}

impl RecvRing {
    pub(super) fn register(ring: &IoUring, count: u16) -> Result<Self, StartError> {
        let count = count.max(2).next_power_of_two();
        let entries = map(Self::entries_bytes(count)).map_err(|error| StartError::from_setup(&error))?;
        let memory = map(usize::from(count) * BUFFER).map_err(|error| StartError::from_setup(&error))?;
        // SAFETY: both mappings live until the ring is closed (see `Drop` and the order of fields in `Inner`).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries.as_ptr().addr() as u64, count, GROUP, 0)
        }
        .map_err(|error| StartError::from_setup(&error))?;
        let mut this = Self { entries: entries.cast(), memory, count, tail: 0, available: 0, leaked: false };
        for id in 0..count {
            this.give_back(id);
        }
        Ok(this)
    }

    fn entries_bytes(count: u16) -> usize {
        usize::from(count) * size_of::<types::BufRingEntry>()
    }

    pub(super) fn give_back(&mut self, id: u16) {
        let index = self.tail & (self.count - 1);
        // SAFETY: `index < count`, the ring of entries is ours, and the kernel reads an entry only after the tail
        // has passed it.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(usize::from(index));
            entry.set_addr(self.start(id).as_ptr().addr() as u64);
            entry.set_len(BUFFER as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        self.available += 1;
        // SAFETY: `tail` gives the address of the tail inside the first entry, which the kernel reads atomically.
        unsafe {
            let tail = types::BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    /// The kernel has picked a buffer. Counted when the completion is reaped, not when somebody looks at it: a buffer
    /// that waits in the results of a receive is not there for others.
    pub(super) fn taken(&mut self) {
        self.available -= 1;
    }

    pub(super) fn has_room(&self) -> bool {
        self.available > 0
    }

    fn start(&self, id: u16) -> NonNull<u8> {
        assert!(id < self.count, "the kernel named a buffer that does not exist");
        // SAFETY: inside the mapping, by the check above.
        unsafe { self.memory.add(usize::from(id) * BUFFER) }
    }

    pub(super) fn leak(&mut self) {
        self.leaked = true;
    }
}

impl Drop for RecvRing {
    fn drop(&mut self) {
        if self.leaked || self.available != self.count {
            return;
        }
        // SAFETY: the ring is closed and no `Provided` is alive; unmapping our own mappings cannot fail.
        unsafe {
            let _unmapped = rustix::mm::munmap(self.memory.as_ptr().cast(), usize::from(self.count) * BUFFER);
            let _unmapped = rustix::mm::munmap(self.entries.as_ptr().cast(), Self::entries_bytes(self.count));
        }
    }
}

/// A provided buffer with received data; goes back to the kernel when dropped, so it must not be kept while waiting
/// for more data.
#[derive(Debug)]
pub(crate) struct Provided {
    ring: Ring,
    id: u16,
    start: NonNull<u8>,
    len: usize,
}

impl Provided {
    pub(super) fn new(ring: &Ring, id: u16, len: usize) -> Self {
        let start = ring.0.recv.borrow().start(id);
        assert!(len <= BUFFER, "the kernel filled more than the buffer");
        Self { ring: ring.clone(), id, start, len }
    }

    /// Drops the first `count` bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        assert!(count <= self.len, "cannot skip more than there is");
        // SAFETY: still inside the buffer, by the check above.
        self.start = unsafe { self.start.add(count) };
        self.len -= count;
    }
}

impl Deref for Provided {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the kernel gave this buffer to us alone until it is given back, and `len` bytes of it are filled
        // (the rest of the mapping is initialised, too).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Provided {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` excludes other access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Provided {
    fn drop(&mut self) {
        self.ring.give_back(self.id);
    }
}
