//! The kernel's requests as values: what is asked, and the object that answers it.

use fuser::{
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow,
};

/// Who asks, for what is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What is to be made under a new name.
#[derive(Clone, Debug)]
pub(crate) struct Making {
    /// Directory.
    pub(crate) parent: u64,
    /// Name.
    pub(crate) name: Vec<u8>,
    /// Type and permission bits, as `mknod(2)` takes them.
    pub(crate) mode: u32,
    /// Device number, of devices.
    pub(crate) rdev: u32,
    /// Whose it will be.
    pub(crate) owner: Owner,
    /// Target, of symbolic links.
    pub(crate) target: Vec<u8>,
}

/// Attributes to be changed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AttrChange {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<TimeOrNow>,
    pub(crate) mtime: Option<TimeOrNow>,
    /// Nanoseconds.
    pub(crate) ctime_ns: Option<i64>,
}

/// A request, by inode number and file handle as the kernel knows them. Lengths and offsets are in bytes.
#[derive(Debug)]
pub(crate) enum Request {
    Lookup { parent: u64, name: Vec<u8>, reply: ReplyEntry },
    Forget { inodes: Vec<(u64, u64)> },
    GetAttr { ino: u64, reply: ReplyAttr },
    SetAttr { ino: u64, change: AttrChange, reply: ReplyAttr },
    ReadLink { ino: u64, reply: ReplyData },
    Make { making: Making, reply: ReplyEntry },
    Create { making: Making, flags: i32, reply: ReplyCreate },
    Remove { parent: u64, name: Vec<u8>, directory: bool, reply: ReplyEmpty },
    Rename { from: (u64, Vec<u8>), to: (u64, Vec<u8>), flags: u32, reply: ReplyEmpty },
    Link { ino: u64, parent: u64, name: Vec<u8>, reply: ReplyEntry },
    Open { ino: u64, flags: i32, reply: ReplyOpen },
    Read { fh: u64, offset: u64, len: u32, reply: ReplyData },
    Write { fh: u64, offset: u64, data: Vec<u8>, reply: ReplyWrite },
    Flush { fh: u64, reply: ReplyEmpty },
    Release { fh: u64, reply: ReplyEmpty },
    Sync { fh: u64, data_only: bool, reply: ReplyEmpty },
    OpenDir { ino: u64, reply: ReplyOpen },
    ReadDir { fh: u64, offset: u64, reply: ReplyDirectory },
    ReadDirPlus { fh: u64, offset: u64, reply: ReplyDirectoryPlus },
    ReleaseDir { fh: u64, reply: ReplyEmpty },
    StatFs { reply: ReplyStatfs },
    SetXattr { ino: u64, name: Vec<u8>, value: Vec<u8>, flags: i32, reply: ReplyEmpty },
    GetXattr { ino: u64, name: Vec<u8>, room: u32, reply: ReplyXattr },
    ListXattrs { ino: u64, room: u32, reply: ReplyXattr },
    RemoveXattr { ino: u64, name: Vec<u8>, reply: ReplyEmpty },
    Allocate { fh: u64, offset: u64, len: u64, mode: i32, reply: ReplyEmpty },
    Seek { fh: u64, offset: i64, whence: i32, reply: ReplyLseek },
}
