//! The kernel's requests as values.

use rt::buf::View;

/// Who asks, for what is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What is to be made under a new name.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeChange {
    /// To the present.
    Now,
    /// To this one, in nanoseconds since 1970 (UTC).
    To(i64),
}

/// Attributes to be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AttrChange {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<TimeChange>,
    pub(crate) mtime: Option<TimeChange>,
    /// Nanoseconds.
    pub(crate) ctime_ns: Option<i64>,
}

/// A write.
#[derive(Clone, Debug)]
pub(crate) struct Writing {
    pub(crate) fh: u64,
    pub(crate) offset: u64,
    pub(crate) data: View,
    /// Pages that were written to a map: their place is theirs, even where the handle appends.
    pub(crate) from_cache: bool,
    /// Who writes.
    pub(crate) uid: u32,
}

/// A request, by inode number and file handle as the kernel knows them. Lengths and offsets are in bytes.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Lookup {
        parent: u64,
        name: Vec<u8>,
    },
    /// Not answered.
    Forget {
        inodes: Vec<(u64, u64)>,
    },
    /// The caller of a request has a signal. Not answered.
    Interrupt {
        unique: u64,
    },
    GetAttr {
        ino: u64,
    },
    SetAttr {
        ino: u64,
        change: AttrChange,
    },
    ReadLink {
        ino: u64,
    },
    Make {
        making: Making,
    },
    Create {
        making: Making,
        flags: i32,
    },
    Remove {
        parent: u64,
        name: Vec<u8>,
        directory: bool,
    },
    Rename {
        from: (u64, Vec<u8>),
        to: (u64, Vec<u8>),
        flags: u32,
    },
    Link {
        ino: u64,
        parent: u64,
        name: Vec<u8>,
    },
    Open {
        ino: u64,
        flags: i32,
    },
    Read {
        fh: u64,
        offset: u64,
        len: u32,
    },
    Write(Writing),
    Flush {
        fh: u64,
    },
    Release {
        fh: u64,
    },
    Sync {
        fh: u64,
        data_only: bool,
    },
    OpenDir {
        ino: u64,
    },
    ReadDir {
        fh: u64,
        offset: u64,
        room: u32,
        plus: bool,
    },
    ReleaseDir {
        fh: u64,
    },
    SyncDir,
    StatFs,
    SetXattr {
        ino: u64,
        name: Vec<u8>,
        value: Vec<u8>,
        flags: i32,
    },
    GetXattr {
        ino: u64,
        name: Vec<u8>,
        room: u32,
    },
    ListXattrs {
        ino: u64,
        room: u32,
    },
    RemoveXattr {
        ino: u64,
        name: Vec<u8>,
    },
    Allocate {
        fh: u64,
        offset: u64,
        len: u64,
        mode: i32,
    },
    Seek {
        fh: u64,
        offset: i64,
        whence: i32,
    },
    /// Nothing that is done here: the error to answer.
    Refused {
        errno: i32,
    },
}
