//! Aligned buffers that operations own.
//!
//! A [`Buf`] has one owner and may be written; [`Buf::freeze`] turns it into a [`View`], which is counted, cheap to
//! clone and slice, and read-only. Memory comes from the executor's registered pool where there is one
//! (see [`crate::launch::ExecutorOptions::pool_bytes_max`]), else from the heap; both are aligned to [`ALIGN`]
//! and initialised, so direct I/O may use them as they are.

use std::alloc::Layout;
use std::ops::{Bound, Deref, DerefMut, RangeBounds};
use std::ptr::NonNull;
use std::rc::Rc;

use crate::context::{self, Driver};
use crate::uring::PoolSlot;

/// Alignment of every buffer's first byte, in bytes: what direct I/O asks for on any device.
pub const ALIGN: usize = 4096;

/// Where a buffer's memory goes back to.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Heap,
    Pool(PoolSlot),
}

/// A buffer with one owner.
pub struct Buf {
    start: NonNull<u8>,
    capacity: usize,
    len: usize,
    origin: Origin,
}

impl Buf {
    /// A buffer of `len` bytes whose content is unspecified (but initialised).
    ///
    /// # Panics
    /// When the machine has no memory.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let pooled = context::try_with(|core| match &core.driver {
            Driver::Uring(ring) => ring.pool_take(len),
            Driver::Sim(_) => None,
        });
        if let Some(Some((start, capacity, slot))) = pooled {
            return Self { start, capacity, len, origin: Origin::Pool(slot) };
        }
        Self::on_heap(len)
    }

    /// A buffer of `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut buf = Self::new(len);
        buf.fill(0);
        buf
    }

    /// A buffer with a copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = Self::new(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    fn on_heap(len: usize) -> Self {
        let layout = Self::heap_layout(len);
        // SAFETY: the layout has a non-zero size.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { std::alloc::handle_alloc_error(layout) };
        Self { start, capacity: layout.size(), len, origin: Origin::Heap }
    }

    fn heap_layout(len: usize) -> Layout {
        let size = len.max(1).next_multiple_of(ALIGN);
        Layout::from_size_align(size, ALIGN).expect("buffers are far below isize::MAX")
    }

    /// Bytes the buffer could hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Changes the length; bytes that come in keep whatever they last held.
    ///
    /// # Panics
    /// When `len` is above the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "{len} bytes do not fit into a buffer of {}", self.capacity);
        self.len = len;
    }

    /// Gives up the right to write in exchange for cheap clones.
    #[must_use]
    pub fn freeze(self) -> View {
        let end = self.len;
        View { buf: Rc::new(self), start: 0, end }
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The index of the registered buffer this memory lies in.
    pub(crate) fn registered(&self) -> Option<u16> {
        match self.origin {
            Origin::Heap => None,
            Origin::Pool(slot) => Some(slot.segment),
        }
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `capacity >= len` initialised bytes that this buffer owns.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` excludes every other access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        match self.origin {
            // SAFETY: allocated in `on_heap` with the layout of this capacity, which is a multiple of ALIGN already.
            Origin::Heap => unsafe {
                std::alloc::dealloc(self.start.as_ptr(), Self::heap_layout(self.capacity))
            },
            Origin::Pool(slot) => slot.give_back(),
        }
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} of {} bytes, {:?})", self.len, self.capacity, self.origin)
    }
}

/// A counted, read-only part of a buffer.
#[derive(Clone)]
pub struct View {
    buf: Rc<Buf>,
    start: usize,
    end: usize,
}

impl View {
    /// A view of no bytes.
    #[must_use]
    pub fn empty() -> Self {
        Buf::on_heap(0).freeze()
    }

    /// A view of a copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        Buf::copy_of(bytes).freeze()
    }

    /// A part of this view; the memory is shared.
    ///
    /// # Panics
    /// When the range is not inside the view.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let from = match range.start_bound() {
            Bound::Included(&from) => from,
            Bound::Excluded(&before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(&last) => last + 1,
            Bound::Excluded(&to) => to,
            Bound::Unbounded => self.len(),
        };
        assert!(from <= to && to <= self.len(), "{from}..{to} is outside a view of {} bytes", self.len());
        Self { buf: Rc::clone(&self.buf), start: self.start + from, end: self.start + to }
    }

    /// Whether the first byte lies where direct I/O may begin.
    #[must_use]
    pub fn is_aligned(&self) -> bool {
        self.as_ptr().addr().is_multiple_of(ALIGN)
    }

    /// The index of the registered buffer this memory lies in.
    pub(crate) fn registered(&self) -> Option<u16> {
        self.buf.registered()
    }

    pub(crate) fn first_byte(&self) -> *const u8 {
        // SAFETY: `start <= len <= capacity` of the buffer.
        unsafe { self.buf.as_ptr().add(self.start) }
    }

    /// The buffer itself, if this is its only view and covers it from the first byte.
    ///
    /// # Errors
    /// The view, when others look at the same memory.
    pub fn try_into_buf(self) -> Result<Buf, Self> {
        let Self { buf, start, end } = self;
        if start != 0 {
            return Err(Self { buf, start, end });
        }
        match Rc::try_unwrap(buf) {
            Ok(mut buf) => {
                buf.set_len(end);
                Ok(buf)
            }
            Err(buf) => Err(Self { buf, start, end }),
        }
    }
}

impl Deref for View {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }
}

impl From<Buf> for View {
    fn from(buf: Buf) -> Self {
        buf.freeze()
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View({}..{} of {:?})", self.start, self.end, self.buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_sized() {
        for len in [0, 1, 4095, 4096, 4097, 1 << 20] {
            let buf = Buf::new(len);
            assert_eq!(buf.len(), len);
            assert!(buf.as_ptr().addr().is_multiple_of(ALIGN));
            assert!(buf.capacity() >= len);
        }
    }

    #[test]
    fn views_share_and_give_back() {
        let view = Buf::copy_of(b"0123456789").freeze();
        let part = view.slice(2..5);
        assert_eq!(&part[..], b"234");
        assert_eq!(&part.slice(1..)[..], b"34");
        let view = view.try_into_buf().expect_err("a part is still alive");
        drop(part);
        let buf = view.try_into_buf().expect("the only view");
        assert_eq!(&buf[..], b"0123456789");
    }

    #[test]
    #[should_panic(expected = "outside a view")]
    fn slicing_beyond_the_end_is_a_bug() {
        let _ = View::copy_of(b"abc").slice(1..5);
    }
}
