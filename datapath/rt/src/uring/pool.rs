//! The registered buffer pool: a buddy allocator over segments that are pinned once.
//!
//! Segments are mapped and registered only as they are needed, so an idle executor pins one. When the limit is
//! reached, buffers come from the heap: slower for the kernel, never an error.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use io_uring::IoUring;

use crate::buf::ALIGN;
use crate::context::{self, Driver};
use crate::launch::StartError;

/// Size of one registered segment, in bytes.
pub(crate) const SEGMENT: usize = 2 << 20;
const PAGES: usize = SEGMENT / ALIGN;
const ORDERS: usize = PAGES.trailing_zeros() as usize + 1;
const TAKEN: u8 = u8::MAX;

const _: () = assert!(PAGES.is_power_of_two() && ORDERS < TAKEN as usize);

/// Where a pooled buffer lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolSlot {
    pool: u32,
    pub(crate) segment: u16,
    page: u16,
    order: u8,
}

impl PoolSlot {
    /// Frees the memory. A buffer that outlives its executor, or dies on another thread's, is leaked with its segment.
    pub(crate) fn give_back(self) {
        context::try_with(|core| {
            if let Driver::Uring(ring) = &core.driver {
                ring.0.pool.borrow_mut().give_back(self);
            }
        });
    }
}

struct Segment {
    memory: NonNull<u8>,
    /// Per page: the order of the free block that starts there, or TAKEN.
    free: Vec<u8>,
}

/// The pool of one executor.
pub(super) struct Pool {
    id: u32,
    segments: Vec<Segment>,
    segments_max: usize,
    /// Candidates per order; entries may be stale and are checked against `Segment::free`.
    lists: [Vec<(u16, u16)>; ORDERS],
    taken_pages: usize,
    leaked: bool,
}

impl Pool {
    pub(super) fn register(ring: &IoUring, bytes_max: usize) -> Result<Self, StartError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let segments_max = (bytes_max / SEGMENT).clamp(1, usize::from(u16::MAX));
        ring.submitter()
            .register_buffers_sparse(segments_max as u32)
            .map_err(|error| StartError::from_setup(&error))?;
        let mut pool = Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            segments: Vec::new(),
            segments_max,
            lists: std::array::from_fn(|_| Vec::new()),
            taken_pages: 0,
            leaked: false,
        };
        pool.grow(ring).map_err(|error| StartError::from_setup(&error))?;
        Ok(pool)
    }

    fn grow(&mut self, ring: &IoUring) -> std::io::Result<()> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let memory = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                SEGMENT,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
            )
        }?;
        let index = self.segments.len();
        let iovec = libc::iovec { iov_base: memory.cast(), iov_len: SEGMENT };
        // SAFETY: the mapping stays in place until the ring is closed (see `Drop`).
        let registered = unsafe { ring.submitter().register_buffers_update(index as u32, &[iovec], None) };
        if let Err(error) = registered {
            // SAFETY: mapped above and used by nobody.
            unsafe { rustix::mm::munmap(memory, SEGMENT) }?;
            return Err(error);
        }
        let memory = NonNull::new(memory.cast()).expect("a mapping is never at address zero");
        let mut free = vec![TAKEN; PAGES];
        free[0] = (ORDERS - 1) as u8;
        self.segments.push(Segment { memory, free });
        self.lists[ORDERS - 1].push((index as u16, 0));
        Ok(())
    }

    /// Memory for `len` bytes: address, capacity, and where it lies.
    pub(super) fn take(
        &mut self,
        len: usize,
        ring: Option<&IoUring>,
    ) -> Option<(NonNull<u8>, usize, PoolSlot)> {
        let pages = len.max(1).div_ceil(ALIGN).next_power_of_two();
        let order = pages.trailing_zeros() as usize;
        if order >= ORDERS {
            return None;
        }
        let (segment, page) = match self.take_block(order) {
            Some(block) => block,
            None => {
                // A refused registration (locked memory used up) makes this buffer a heap buffer.
                if self.segments.len() >= self.segments_max || self.grow(ring?).is_err() {
                    return None;
                }
                self.take_block(order)?
            }
        };
        self.taken_pages += pages;
        // SAFETY: the block lies inside the segment.
        let start = unsafe { self.segments[usize::from(segment)].memory.add(usize::from(page) * ALIGN) };
        Some((start, pages * ALIGN, PoolSlot { pool: self.id, segment, page, order: order as u8 }))
    }

    fn take_block(&mut self, order: usize) -> Option<(u16, u16)> {
        for from in order..ORDERS {
            while let Some((segment, page)) = self.lists[from].pop() {
                let free = &mut self.segments[usize::from(segment)].free;
                if free[usize::from(page)] != from as u8 {
                    continue;
                }
                free[usize::from(page)] = TAKEN;
                for lower in (order..from).rev() {
                    let buddy = page + (1 << lower);
                    free[usize::from(buddy)] = lower as u8;
                    self.lists[lower].push((segment, buddy));
                }
                return Some((segment, page));
            }
        }
        None
    }

    fn give_back(&mut self, slot: PoolSlot) {
        if slot.pool != self.id {
            return;
        }
        self.taken_pages -= 1 << slot.order;
        let free = &mut self.segments[usize::from(slot.segment)].free;
        let (mut page, mut order) = (usize::from(slot.page), usize::from(slot.order));
        while order + 1 < ORDERS {
            let buddy = page ^ (1 << order);
            if free[buddy] != order as u8 {
                break;
            }
            free[buddy] = TAKEN;
            page = page.min(buddy);
            order += 1;
        }
        free[page] = order as u8;
        self.lists[order].push((slot.segment, page as u16));
    }

    /// Keeps the memory for ever: operations may still be using it.
    pub(super) fn leak(&mut self) {
        self.leaked = true;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.leaked || self.taken_pages > 0 {
            return;
        }
        for segment in &self.segments {
            // SAFETY: no buffer lies in the pool any more and the ring that pinned it is closed. Unmapping our own
            // whole mapping cannot fail.
            let _unmapped = unsafe { rustix::mm::munmap(segment.memory.as_ptr().cast(), SEGMENT) };
        }
    }
}

impl super::Ring {
    /// Memory of the registered pool, if it has room.
    pub(crate) fn pool_take(&self, len: usize) -> Option<(NonNull<u8>, usize, PoolSlot)> {
        let ring = self.0.ring.try_borrow().ok();
        self.0.pool.borrow_mut().take(len, ring.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;

    fn pool(segments_max: usize) -> (IoUring, Pool) {
        let ring = IoUring::new(8).unwrap();
        let pool = Pool::register(&ring, segments_max * SEGMENT).unwrap();
        (ring, pool)
    }

    #[test]
    fn blocks_never_overlap_and_merge_again() {
        let (ring, mut pool) = pool(2);
        let mut rng = Rng::from_seed(3);
        let mut held: Vec<(usize, usize, PoolSlot)> = Vec::new();
        for _ in 0..20_000 {
            if rng.one_in(2) {
                let len = 1 + rng.below(300_000) as usize;
                if let Some((start, capacity, slot)) = pool.take(len, Some(&ring)) {
                    assert!(capacity >= len);
                    let start = start.as_ptr().addr();
                    assert!(held.iter().all(|&(s, c, _)| start + capacity <= s || s + c <= start), "overlap");
                    held.push((start, capacity, slot));
                }
            } else if !held.is_empty() {
                let (_, _, slot) = held.swap_remove(rng.below(held.len() as u64) as usize);
                pool.give_back(slot);
            }
        }
        for (_, _, slot) in held.drain(..) {
            pool.give_back(slot);
        }
        assert_eq!(pool.taken_pages, 0);
        let whole: Vec<_> = (0..2).filter_map(|_| pool.take(SEGMENT, Some(&ring))).collect();
        assert_eq!(whole.len(), 2, "all blocks have merged into whole segments");
        for (_, _, slot) in whole {
            pool.give_back(slot);
        }
    }

    #[test]
    fn a_full_pool_refuses() {
        let (ring, mut pool) = pool(1);
        let (_, _, all) = pool.take(SEGMENT, Some(&ring)).unwrap();
        assert!(pool.take(1, Some(&ring)).is_none());
        pool.give_back(all);
        assert!(pool.take(SEGMENT + 1, Some(&ring)).is_none());
    }
}
