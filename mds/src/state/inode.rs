//! What hangs in the tree: directories, files, symbolic links and special files.

use super::attrs::{AttrSet, Attrs};
use super::chunk::ChunkMap;
use super::ids::FileId;
use super::lease::Lease;
use super::name::Name;
use std::collections::BTreeMap;

/// Permission bits, set-id bits and sticky bit.
pub const MODE_BITS: u32 = 0o7777;
/// The set-group-id bit: what is made below such a directory has its group.
pub(super) const SET_GID: u32 = 0o2000;
/// The most names of an inode that is not a directory, as ext4.
pub const LINKS_MAX: u32 = 65_000;
/// The longest target of a symbolic link, in bytes.
pub const SYMLINK_MAX: usize = 4095;
/// What directories say is their size, in bytes.
pub const DIR_SIZE: u64 = 4096;

/// Nanoseconds of a stamp in milliseconds.
pub(super) fn ns_of_ms(ms: u64) -> i64 {
    i64::try_from(ms).map_or(i64::MAX, |ms| ms.saturating_mul(1_000_000))
}

/// A stamp in milliseconds of nanoseconds; 0 for what lies before 1970.
pub(super) fn ms_of_ns(ns: i64) -> u64 {
    u64::try_from(ns).unwrap_or(0) / 1_000_000
}

/// An inode. Names beyond the first and extended attributes are rare and lie beside it, in
/// [`Namespace`](super::namespace::Namespace).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// One of its names; `None` for the top directory and for orphans.
    pub(super) place: Option<Place>,
    pub(super) times: Times,
    /// [`MODE_BITS`].
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) body: Body,
}

impl Inode {
    /// One without a name, of nobody in particular.
    pub(super) fn new(mode: u32, now_ns: i64, body: Body) -> Self {
        Self { place: None, times: Times::at(now_ns), mode, uid: 0, gid: 0, body }
    }
}

/// When something happened to an inode, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Last access, as far as somebody said so.
    pub access: i64,
    /// Last change of the data, or of a directory's entries.
    pub data: i64,
    /// Last change of the inode.
    pub inode: i64,
    /// When it was made.
    pub birth: i64,
}

impl Times {
    /// All at once.
    pub(super) fn at(ns: i64) -> Self {
        Self { access: ns, data: ns, inode: ns, birth: ns }
    }

    /// The data changed, which changes the inode, too.
    pub(super) fn touch(&mut self, ns: i64) {
        (self.data, self.inode) = (ns, ns);
    }
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) parent: FileId,
    pub(super) name: Name,
}

/// What kind of inode it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Dir(Box<Dir>),
    File(Box<File>),
    /// Its target.
    Symlink(Box<[u8]>),
    Special(Special),
}

/// A named pipe, socket or device. Kernels do what is to be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// Which.
    pub kind: SpecialKind,
    /// The number of a device, else 0.
    pub rdev: u32,
}

/// The numbers are those in snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialKind {
    /// Named pipe.
    Fifo = 1,
    /// Socket.
    Socket = 2,
    /// Character device.
    CharDevice = 3,
    /// Block device.
    BlockDevice = 4,
}

impl SpecialKind {
    /// Reads a number of a snapshot.
    pub(super) fn from_raw(raw: u32) -> Option<Self> {
        [Self::Fifo, Self::Socket, Self::CharDevice, Self::BlockDevice]
            .into_iter()
            .find(|kind| *kind as u32 == raw)
    }
}

/// A directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dir {
    pub(super) children: BTreeMap<Name, FileId>,
    /// How many of them are directories.
    pub(super) subdirs: u32,
    /// What was set on this directory itself.
    pub(super) attrs: AttrSet,
}

impl Dir {
    /// An empty one that says this about attributes.
    pub(super) fn new(attrs: AttrSet) -> Self {
        Self { children: BTreeMap::new(), subdirs: 0, attrs }
    }
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub(super) size: u64,
    pub(super) attrs: Attrs,
    pub(super) chunks: ChunkMap,
    pub(super) lease: Lease,
}

impl File {
    /// An empty file.
    pub(super) fn new(size: u64, attrs: Attrs) -> Self {
        Self { size, attrs, chunks: ChunkMap::default(), lease: Lease::default() }
    }

    /// Chunks that the size covers, allocated or not.
    pub fn chunk_span(&self) -> u64 {
        self.size.div_ceil(self.attrs.chunk_size)
    }

    /// Whether the end lies inside a chunk that is to be reconciled: a writer that died may have written behind the end and not
    /// have said so. The file does not grow before who reconciles the chunk has made that zero (C5).
    pub(super) fn is_end_unsettled(&self) -> bool {
        let inside = !self.size.is_multiple_of(self.attrs.chunk_size);
        let last = u32::try_from(self.size / self.attrs.chunk_size).ok();
        let chunk = last.filter(|_| inside).and_then(|index| self.chunks.get(index));
        chunk.is_some_and(super::chunk::ChunkEntry::is_unreconciled)
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its attributes.
    pub fn attrs(&self) -> Attrs {
        self.attrs
    }

    /// Its map.
    pub fn chunks(&self) -> &ChunkMap {
        &self.chunks
    }

    /// Its lease.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_turned_without_overflow() {
        for (ms, ns) in [(0, 0), (1, 1_000_000), (1_700_000_000_123, 1_700_000_000_123_000_000)] {
            assert_eq!((ns_of_ms(ms), ms_of_ns(ns)), (ns, ms));
        }
        assert_eq!((ns_of_ms(u64::MAX), ms_of_ns(-1), ms_of_ns(999_999)), (i64::MAX, 0, 0));
    }

    #[test]
    fn an_inode_is_small() {
        // Millions are kept in memory.
        assert!(size_of::<Inode>() <= 96, "{}", size_of::<Inode>());
    }
}
