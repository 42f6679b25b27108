//! Operations by inode: what a kernel's file system client asks, beside the operations by path in
//! [`namespace`](crate::namespace).
//!
//! An inode is named by its file id, which is never used again; in requests 0 stands for the top directory. A name is
//! 1 to [`MAX_NAME`](crate::limits::MAX_NAME) bytes of any value but `/` and NUL, and neither `.` nor `..`.
//! Times are in nanoseconds since 1970 (UTC), before it negative.
//!
//! Every change names its session, so that it is carried out once however often it is sent (C11), and
//! `now_ns`, the client's clock, which becomes the time stamp of what changes (as POSIX says: `mtime` and
//! `ctime` of a directory whose entries change, `ctime` of an inode). 0 = the clock of the MDS.
//!
//! The MDS checks no permissions: whoever mounts has his kernel do that. Failures map one to one to
//! numbers of `errno`, see [`Status::errno`](crate::Status::errno). Where a directory is named by an id
//! that is gone the answer is `NotFound`; where any other inode is, `Gone`.

use crate::lease::OpenReply;
use crate::namespace::FileKind;
use crate::session::SessionKey;

/// An inode.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Inode {
    /// File id; never used again after removal.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// For clients that want one beside the id; 0, because ids are never used again.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// What it is.
    #[prost(enumeration = "FileKind", tag = "3")]
    pub kind: i32,
    /// Permission bits, set-id bits and sticky bit: 0o7777 at most.
    #[prost(uint32, tag = "4")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "5")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "6")]
    pub gid: u32,
    /// Names it has; of a directory 2 and one more for each directory in it. 0 = unlinked, lives on until its
    /// last lease ends (C9).
    #[prost(uint32, tag = "7")]
    pub nlink: u32,
    /// Device number, of device nodes.
    #[prost(uint32, tag = "8")]
    pub rdev: u32,
    /// Size in bytes: of a symbolic link the length of its target, of a directory 4096.
    #[prost(uint64, tag = "9")]
    pub size: u64,
    /// Space in bytes, replicas not counted: chunks times chunk size, at most the size rounded up to 4096. An upper
    /// bound, because chunks have holes.
    #[prost(uint64, tag = "10")]
    pub allocated_bytes: u64,
    /// Last access, as the last SET_INODE said: reading does not change it by itself.
    #[prost(sfixed64, tag = "11")]
    pub atime_ns: i64,
    /// Last change of the data, or of the entries of a directory.
    #[prost(sfixed64, tag = "12")]
    pub mtime_ns: i64,
    /// Last change of the inode.
    #[prost(sfixed64, tag = "13")]
    pub ctime_ns: i64,
    /// Creation.
    #[prost(sfixed64, tag = "14")]
    pub btime_ns: i64,
    /// Highest lease epoch granted; 0 = never opened for writing.
    #[prost(uint64, tag = "15")]
    pub epoch: u64,
    /// Client that has it open for writing; 0 = none. Its size and times may be ahead of what is said here.
    #[prost(uint64, tag = "16")]
    pub writer: u64,
    /// Clients that have it open for reading.
    #[prost(uint32, tag = "17")]
    pub readers: u32,
    /// Chunk size in bytes, of files.
    #[prost(uint64, tag = "18")]
    pub chunk_size: u64,
}

/// Reply of LOOKUP, GET_INODE, SET_INODE and LINK.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct InodeReply {
    /// The inode as it is now.
    #[prost(message, required, tag = "1")]
    pub inode: Inode,
}

/// LOOKUP request: what has this name?
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Lookup {
    /// Directory.
    #[prost(uint64, tag = "1")]
    pub parent: u64,
    /// Name.
    #[prost(bytes = "vec", tag = "2")]
    pub name: Vec<u8>,
}

/// GET_INODE request.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct GetInode {
    /// Which.
    #[prost(uint64, tag = "1")]
    pub id: u64,
}

/// A time to be set.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct TimeChange {
    /// To this one.
    #[prost(sfixed64, tag = "1")]
    pub ns: i64,
    /// To `now_ns` of the request instead.
    #[prost(bool, tag = "2")]
    pub now: bool,
}

/// A size to be set.
///
/// Extending costs nothing but its entry in the log. A smaller size drops the chunks beyond it; what follows the new end in
/// a chunk that stays the writer zeroes first, under its lease, so that extending shows zeroes again.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SizeChange {
    /// New size in bytes.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// Epoch of the sender's lease for writing: `StaleEpoch` if it does not hold that (C1). 0 = without a lease: `LeaseHeld` if
    /// anybody has one, `Invalid` if a chunk with data would be cut in two.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// A size that is not above the present one changes nothing, so that reports may come late and in any order.
    #[prost(bool, tag = "3")]
    pub grow_only: bool,
}

/// SET_INODE request: changes what is present, all or nothing. `ctime` is set to `now_ns` unless it is present, too;
/// so is `mtime` when the size changes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SetInode {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
    /// Which.
    #[prost(uint64, tag = "2")]
    pub id: u64,
    /// The client's clock.
    #[prost(sfixed64, tag = "3")]
    pub now_ns: i64,
    /// Permission bits, 0o7777 at most.
    #[prost(uint32, optional, tag = "4")]
    pub mode: Option<u32>,
    /// Owner.
    #[prost(uint32, optional, tag = "5")]
    pub uid: Option<u32>,
    /// Group.
    #[prost(uint32, optional, tag = "6")]
    pub gid: Option<u32>,
    /// Size; of files only.
    #[prost(message, optional, tag = "7")]
    pub size: Option<SizeChange>,
    /// Last access.
    #[prost(message, optional, tag = "8")]
    pub atime: Option<TimeChange>,
    /// Last change of the data.
    #[prost(message, optional, tag = "9")]
    pub mtime: Option<TimeChange>,
    /// Last change of the inode.
    #[prost(message, optional, tag = "10")]
    pub ctime: Option<TimeChange>,
}

/// MAKE_NODE request. A new inode below a directory with the set-group-id bit gets that directory's group,
/// and if it is a directory that bit, too.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MakeNode {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
    /// Directory.
    #[prost(uint64, tag = "2")]
    pub parent: u64,
    /// Name.
    #[prost(bytes = "vec", tag = "3")]
    pub name: Vec<u8>,
    /// The client's clock.
    #[prost(sfixed64, tag = "4")]
    pub now_ns: i64,
    /// What to make.
    #[prost(enumeration = "FileKind", tag = "5")]
    pub kind: i32,
    /// Permission bits, 0o7777 at most.
    #[prost(uint32, tag = "6")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "7")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "8")]
    pub gid: u32,
    /// Device number, of device nodes.
    #[prost(uint32, tag = "9")]
    pub rdev: u32,
    /// Target of a symbolic link, 1 to 4095 bytes without NUL; nobody checks where it leads.
    #[prost(bytes = "vec", tag = "10")]
    pub target: Vec<u8>,
    /// `AlreadyExists` if the name is taken. Without it what has the name is answered, whatever it is.
    #[prost(bool, tag = "11")]
    pub exclusive: bool,
    /// Open the new file for writing at once. Not done for what existed already: OPEN does that.
    #[prost(bool, tag = "12")]
    pub open: bool,
}

/// MAKE_NODE reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MakeNodeReply {
    /// What has the name now.
    #[prost(message, required, tag = "1")]
    pub inode: Inode,
    /// It was made by this request.
    #[prost(bool, tag = "2")]
    pub created: bool,
    /// The lease, if it was made and was to be opened.
    #[prost(message, optional, tag = "3")]
    pub opened: Option<OpenReply>,
}

/// LINK request: one more name for an inode that is not a directory (`Forbidden`). `TooManyLinks` beyond
/// [`MAX_LINKS`](crate::limits::MAX_LINKS); `NotFound` for one that has no name any more.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Link {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
    /// Which inode.
    #[prost(uint64, tag = "2")]
    pub id: u64,
    /// Directory of the new name.
    #[prost(uint64, tag = "3")]
    pub parent: u64,
    /// New name.
    #[prost(bytes = "vec", tag = "4")]
    pub name: Vec<u8>,
    /// The client's clock.
    #[prost(sfixed64, tag = "5")]
    pub now_ns: i64,
}

/// What UNLINK is to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum UnlinkWhat {
    /// Not said; refused.
    Unspecified = 0,
    /// Anything.
    Any = 1,
    /// Anything but a directory (`unlink`): else `IsADirectory`.
    NotADirectory = 2,
    /// A directory (`rmdir`): else `NotADirectory`.
    Directory = 3,
}

/// UNLINK request: takes a name away. `NotEmpty` for a directory with entries. An inode without names goes, a file with
/// its last lease (C9).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Unlink {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
    /// Directory.
    #[prost(uint64, tag = "2")]
    pub parent: u64,
    /// Name.
    #[prost(bytes = "vec", tag = "3")]
    pub name: Vec<u8>,
    /// What it must be.
    #[prost(enumeration = "UnlinkWhat", tag = "4")]
    pub what: i32,
    /// The client's clock.
    #[prost(sfixed64, tag = "5")]
    pub now_ns: i64,
}

/// UNLINK reply.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct UnlinkReply {
    /// Id of what had the name.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Names it still has.
    #[prost(uint32, tag = "2")]
    pub nlink: u32,
    /// It is there no more; false with `nlink` 0 = somebody holds a lease on it.
    #[prost(bool, tag = "3")]
    pub gone: bool,
}

/// What RENAME_ENTRY does when the new name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum RenameMode {
    /// Not said; refused.
    Unspecified = 0,
    /// Replaces what has it: a directory only an empty directory (`NotEmpty`, `NotADirectory`), anything else only what
    /// is not a directory (`IsADirectory`). Two names of one inode: nothing is done.
    Replace = 1,
    /// Refuses: `AlreadyExists`.
    NoReplace = 2,
    /// Exchanges the two, of whatever kind; `NotFound` if it is not taken.
    Exchange = 3,
}

/// RENAME_ENTRY request. `Invalid` when a directory would come to lie below itself.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RenameEntry {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
    /// Directory now.
    #[prost(uint64, tag = "2")]
    pub parent: u64,
    /// Name now.
    #[prost(bytes = "vec", tag = "3")]
    pub name: Vec<u8>,
    /// Directory to be.
    #[prost(uint64, tag = "4")]
    pub new_parent: u64,
    /// Name to be.
    #[prost(bytes = "vec", tag = "5")]
    pub new_name: Vec<u8>,
    /// When it is taken.
    #[prost(enumeration = "RenameMode", tag = "6")]
    pub mode: i32,
    /// The client's clock.
    #[prost(sfixed64, tag = "7")]
    pub now_ns: i64,
}

/// RENAME_ENTRY reply.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RenameEntryReply {
    /// Id of what moved.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What had the new name before, as in the reply of UNLINK (after an exchange with its names and not gone); absent if it
    /// was free, or nothing was done.
    #[prost(message, optional, tag = "2")]
    pub other: Option<UnlinkReply>,
}

/// READ_DIR request: a page of a directory.
///
/// What is there from the first page to the last is answered exactly once; what comes or goes meanwhile, at most once.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReadDir {
    /// Directory.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Cursor: the last name of the page before, whether or not it still exists; empty = from the start.
    #[prost(bytes = "vec", tag = "2")]
    pub after: Vec<u8>,
    /// Most entries wanted; 0 = as many as one reply holds ([`MAX_LISTED`](crate::limits::MAX_LISTED)).
    #[prost(uint32, tag = "3")]
    pub limit: u32,
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DirEntry {
    /// Name.
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    /// What has it.
    #[prost(message, required, tag = "2")]
    pub inode: Inode,
}

/// READ_DIR reply. There are no entries `.` and `..`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReadDirReply {
    /// Entries, ascending by the bytes of their names.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<DirEntry>,
    /// There are more: ask again after the last one here.
    #[prost(bool, tag = "2")]
    pub more: bool,
    /// Id of the directory above; of the top directory its own.
    #[prost(uint64, tag = "3")]
    pub parent: u64,
}

/// READ_LINK request. `Invalid` if it is not a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReadLink {
    /// Which.
    #[prost(uint64, tag = "1")]
    pub id: u64,
}

/// READ_LINK reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReadLinkReply {
    /// Its target.
    #[prost(bytes = "vec", tag = "1")]
    pub target: Vec<u8>,
}

/// GET_XATTR request. `NoData` if there is none of this name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetXattr {
    /// Which inode.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Name of the extended attribute.
    #[prost(bytes = "vec", tag = "2")]
    pub name: Vec<u8>,
}

/// GET_XATTR reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetXattrReply {
    /// Its value; may be empty.
    #[prost(bytes = "vec", tag = "1")]
    pub value: Vec<u8>,
}

/// Whether the extended attribute may, or must, exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum XattrMode {
    /// Not said; refused.
    Unspecified = 0,
    /// It may.
    Any = 1,
    /// It must not: `AlreadyExists`.
    Create = 2,
    /// It must: `NoData`.
    Replace = 3,
}

/// SET_XATTR request. The reply is empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SetXattr {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
    /// Which inode.
    #[prost(uint64, tag = "2")]
    pub id: u64,
    /// Name, 1 to 255 bytes without NUL: else `NameTooLong` or `Invalid`. Namespaces (`user.`) are the kernel's matter.
    #[prost(bytes = "vec", tag = "3")]
    pub name: Vec<u8>,
    /// Value, at most [`MAX_XATTR_VALUE`](crate::limits::MAX_XATTR_VALUE) bytes (`ValueTooLarge`); with all others of the inode,
    /// names included, at most [`MAX_XATTRS`](crate::limits::MAX_XATTRS), their names at most
    /// [`MAX_XATTR_NAMES`](crate::limits::MAX_XATTR_NAMES) (`XattrsFull`).
    #[prost(bytes = "vec", tag = "4")]
    pub value: Vec<u8>,
    /// Whether it may exist.
    #[prost(enumeration = "XattrMode", tag = "5")]
    pub mode: i32,
    /// The client's clock.
    #[prost(sfixed64, tag = "6")]
    pub now_ns: i64,
}

/// LIST_XATTRS request.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ListXattrs {
    /// Which inode.
    #[prost(uint64, tag = "1")]
    pub id: u64,
}

/// LIST_XATTRS reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListXattrsReply {
    /// Names, ascending by their bytes; with a NUL after each at most 64 KiB.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub names: Vec<Vec<u8>>,
}

/// REMOVE_XATTR request. The reply is empty; `NoData` if there is none of this name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RemoveXattr {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
    /// Which inode.
    #[prost(uint64, tag = "2")]
    pub id: u64,
    /// Name.
    #[prost(bytes = "vec", tag = "3")]
    pub name: Vec<u8>,
    /// The client's clock.
    #[prost(sfixed64, tag = "4")]
    pub now_ns: i64,
}

/// STAT_FS request.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct StatFs {}

/// STAT_FS reply. Cheap: no file is looked at.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct StatFsReply {
    /// Bytes of all disks.
    #[prost(uint64, tag = "1")]
    pub total_bytes: u64,
    /// Bytes free on them.
    #[prost(uint64, tag = "2")]
    pub free_bytes: u64,
    /// Bytes of data that all disks could hold with the top directory's replicas and failure domain.
    #[prost(uint64, tag = "3")]
    pub allocatable_total_bytes: u64,
    /// Bytes of data that can still be allocated with them.
    #[prost(uint64, tag = "4")]
    pub allocatable_bytes: u64,
    /// Inodes there are. There is no limit but the memory of the MDS.
    #[prost(uint64, tag = "5")]
    pub inodes: u64,
}
