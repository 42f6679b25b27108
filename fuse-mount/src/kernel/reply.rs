//! Answers.

use std::rc::Rc;
use std::time::Duration;

use wire::inode::Inode;
use wire::namespace::FileKind;

use super::abi::Body;
use super::device::Device;
use crate::errno::Errno;

/// Unit of `st_blocks` in bytes.
const SECTOR: u64 = 512;
/// Preferred size of I/O in bytes.
const BLOCK: u32 = 4096;

/// Flags of an answer to OPEN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenFlags(pub(super) u32);

impl OpenFlags {
    /// Past the page cache.
    pub(crate) const DIRECT: Self = Self(1 << 0);
    /// What is cached is good.
    pub(crate) const KEEP_CACHE: Self = Self(1 << 1);
    /// No FLUSH when it is closed.
    pub(crate) const NO_FLUSH: Self = Self(1 << 5);
    /// Several direct writes at once.
    pub(crate) const PARALLEL_DIRECT_WRITES: Self = Self(1 << 6);

    /// With these as well.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// An inode as the kernel knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr {
    /// Its number at the kernel.
    pub(crate) ino: u64,
    pub(crate) inode: Inode,
    /// How long that counts.
    pub(crate) valid: Duration,
}

/// Space of the file system, in blocks of 4096 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    pub(crate) blocks: u64,
    pub(crate) free_blocks: u64,
    pub(crate) inodes: u64,
    pub(crate) free_inodes: u64,
    pub(crate) name_max: u32,
}

/// The type bits of a mode.
fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
        FileKind::File | FileKind::Unspecified => libc::S_IFREG,
    }
}

/// Seconds, rounded down, and nanoseconds.
fn split(ns: i64) -> (u64, u32) {
    (ns.div_euclid(1_000_000_000).cast_unsigned(), ns.rem_euclid(1_000_000_000) as u32)
}

fn put_attr(body: &mut Body, attr: &Attr) {
    let inode = &attr.inode;
    let times = [inode.atime_ns, inode.mtime_ns, inode.ctime_ns].map(split);
    body.u64(attr.ino).u64(inode.size).u64(inode.allocated_bytes.div_ceil(SECTOR));
    for (seconds, _) in times {
        body.u64(seconds);
    }
    for (_, nanos) in times {
        body.u32(nanos);
    }
    body.u32(type_bits(inode.kind()) | inode.mode & 0o7777);
    body.u32(inode.nlink).u32(inode.uid).u32(inode.gid).u32(inode.rdev).u32(BLOCK).u32(0);
}

/// `name_valid`: how long the name leads there.
fn put_entry(body: &mut Body, attr: &Attr, name_valid: Duration) {
    body.u64(attr.ino).u64(0).u64(name_valid.as_secs()).u64(attr.valid.as_secs());
    body.u32(name_valid.subsec_nanos()).u32(attr.valid.subsec_nanos());
    put_attr(body, attr);
}

/// A list of names under way.
#[derive(Debug)]
pub(crate) struct Listing {
    body: Body,
    room: usize,
    plus: bool,
    counted: Vec<u64>,
}

impl Listing {
    pub(crate) fn new(room: u32, plus: bool) -> Self {
        Self { body: Body::default(), room: room as usize, plus, counted: Vec::new() }
    }

    /// Adds an entry; `next` is where listing goes on after it. False if there is no room. `counted` is told of entries with
    /// attributes that the kernel will count on.
    pub(crate) fn add(
        &mut self,
        attr: &Attr,
        name: &[u8],
        next: u64,
        name_valid: Duration,
        counted: bool,
    ) -> bool {
        let head = if self.plus { 128 + 24 } else { 24 };
        let len = (head + name.len()).next_multiple_of(8);
        if self.body.0.len() + len > self.room {
            return false;
        }
        let start = self.body.0.len();
        if self.plus && counted {
            put_entry(&mut self.body, attr, name_valid);
            self.counted.push(attr.ino);
        } else if self.plus {
            // Without an inode number the kernel counts on nothing.
            self.body.zeroes(128);
        }
        self.body.u64(attr.ino).u64(next).u32(name.len() as u32);
        self.body.u32(type_bits(attr.inode.kind()) >> 12);
        self.body.0.extend_from_slice(name);
        self.body.0.resize(start + len, 0);
        true
    }

    /// The inodes that the kernel will count on.
    pub(crate) fn counted(&self) -> &[u64] {
        &self.counted
    }
}

/// Answers a request; dropped without an answer, it answers EIO.
#[derive(Debug)]
pub(crate) struct Reply {
    device: Rc<Device>,
    unique: u64,
    open: bool,
}

impl Reply {
    pub(super) fn new(device: Rc<Device>, unique: u64) -> Self {
        Self { device, unique, open: true }
    }

    fn send(&mut self, error: i32, body: &[u8]) -> bool {
        self.open = false;
        self.device.answer(self.unique, error, body)
    }

    fn body(mut self, body: &Body) -> bool {
        self.send(0, &body.0)
    }

    /// Waits until whoever asked has been let go, since it is being killed: nobody waits for the answer any longer.
    pub(crate) async fn let_go(&self) {
        self.device.until_let_go(self.unique).await;
    }

    /// For what is not answered at all.
    pub(crate) fn never(mut self) {
        self.open = false;
        self.device.leave(self.unique);
    }

    pub(crate) fn error(mut self, error: Errno) {
        self.send(-error.code(), &[]);
    }

    pub(crate) fn ok(mut self) {
        self.send(0, &[]);
    }

    pub(crate) fn data(mut self, data: &[u8]) {
        self.send(0, data);
    }

    pub(crate) fn attr(self, attr: &Attr) {
        let mut body = Body::default();
        body.u64(attr.valid.as_secs()).u32(attr.valid.subsec_nanos()).u32(0);
        put_attr(&mut body, attr);
        self.data(&body.0);
    }

    /// False if nobody takes it: the kernel counts on nothing then.
    pub(crate) fn entry(self, attr: &Attr) -> bool {
        let mut body = Body::default();
        put_entry(&mut body, attr, attr.valid);
        self.body(&body)
    }

    /// False if nobody takes it: nobody will release the handle then.
    pub(crate) fn opened(self, fh: u64, flags: OpenFlags) -> bool {
        let mut body = Body::default();
        body.u64(fh).u32(flags.0).u32(0);
        self.body(&body)
    }

    /// False if nobody takes it, as with [`Reply::entry`] and [`Reply::opened`].
    pub(crate) fn created(self, attr: &Attr, fh: u64, flags: OpenFlags) -> bool {
        let mut body = Body::default();
        put_entry(&mut body, attr, attr.valid);
        body.u64(fh).u32(flags.0).u32(0);
        self.body(&body)
    }

    /// How many bytes were written, or how long an attribute is.
    pub(crate) fn length(self, len: u32) {
        let mut body = Body::default();
        body.u32(len).u32(0);
        self.data(&body.0);
    }

    pub(crate) fn offset(self, offset: u64) {
        self.data(&offset.to_ne_bytes());
    }

    /// False if nobody takes it: the kernel counts on none of its entries then.
    pub(crate) fn listing(self, listing: &Listing) -> bool {
        self.body(&listing.body)
    }

    pub(crate) fn space(self, space: &Space) {
        let mut body = Body::default();
        body.u64(space.blocks).u64(space.free_blocks).u64(space.free_blocks);
        body.u64(space.inodes).u64(space.free_inodes);
        body.u32(BLOCK).u32(space.name_max).u32(BLOCK).zeroes(4 + 6 * 4);
        self.data(&body.0);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.open {
            self.send(-libc::EIO, &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr() -> Attr {
        let inode = Inode { id: 9, mode: 0o640, size: 5, mtime_ns: -500_000_000, ..Inode::default() };
        Attr { ino: 9, inode, valid: Duration::from_millis(250) }
    }

    #[test]
    fn answers_have_the_kernels_sizes() {
        let mut body = Body::default();
        put_attr(&mut body, &attr());
        assert_eq!(body.0.len(), 88);
        // Half a second before 1970 is second -1 and half of it.
        assert_eq!(body.0[32..40], (-1i64).to_ne_bytes());
        assert_eq!(body.0[52..56], 500_000_000u32.to_ne_bytes());
        assert_eq!(body.0[60..64], (libc::S_IFREG | 0o640).to_ne_bytes());
        put_entry(&mut body, &attr(), Duration::from_millis(1500));
        assert_eq!(body.0.len(), 88 + 128);
        // Seconds of the name and of the attributes, then nanoseconds of both.
        let valid = [1u64.to_ne_bytes(), 0u64.to_ne_bytes()].concat();
        let nanos = [500_000_000u32.to_ne_bytes(), 250_000_000u32.to_ne_bytes()].concat();
        assert_eq!(body.0[88 + 16..88 + 40], [valid, nanos].concat());
    }

    #[test]
    fn listings_end_where_there_is_no_room() {
        let mut listing = Listing::new(64, false);
        let add = |listing: &mut Listing, name: &[u8]| listing.add(&attr(), name, 3, Duration::ZERO, true);
        assert!(add(&mut listing, b"123456789"));
        assert_eq!(listing.body.0.len(), 40);
        assert!(!add(&mut listing, b"x"));
        assert_eq!(listing.body.0.len(), 40);
        let mut plus = Listing::new(4096, true);
        assert!(add(&mut plus, b"x"));
        assert_eq!(plus.body.0.len(), 160);
    }
}
