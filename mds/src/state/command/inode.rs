//! Commands on inodes and their names, as a mounted file system gives them.
//!
//! Inodes are named by their ids, 0 being the top directory. `now_ns`, in nanoseconds since 1970, stamps what changes; it is
//! the clock of who asked, or the leader's.

use super::LeaseProof;
use crate::state::ids::Secret;
use prost::Message;

/// What can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum NodeKind {
    /// Regular file.
    File = 1,
    /// Directory.
    Directory = 2,
    /// Symbolic link.
    Symlink = 3,
    /// Named pipe.
    Fifo = 4,
    /// Socket.
    Socket = 5,
    /// Character device.
    CharDevice = 6,
    /// Block device.
    BlockDevice = 7,
}

/// A client and the token of its session.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SessionProof {
    /// The client's id.
    #[prost(uint32, tag = "1")]
    pub client: u32,
    /// The token of its session.
    #[prost(message, required, tag = "2")]
    pub token: Secret,
}

/// Makes an inode and its first name.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MakeNode {
    /// The directory.
    #[prost(uint64, tag = "1")]
    pub parent: u64,
    /// The name.
    #[prost(bytes = "vec", tag = "2")]
    pub name: Vec<u8>,
    /// What to make.
    #[prost(enumeration = "NodeKind", tag = "3")]
    pub kind: i32,
    /// Permission bits as in POSIX.
    #[prost(uint32, tag = "4")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "5")]
    pub uid: u32,
    /// Group, unless the directory says otherwise (set-group-id).
    #[prost(uint32, tag = "6")]
    pub gid: u32,
    /// Number of a device.
    #[prost(uint32, tag = "7")]
    pub rdev: u32,
    /// Target of a symbolic link.
    #[prost(bytes = "vec", tag = "8")]
    pub target: Vec<u8>,
    /// Refuse if the name is taken; without it, what has it is answered.
    #[prost(bool, tag = "9")]
    pub exclusive: bool,
    /// Grant this client the lease for writing, if a file is made.
    #[prost(message, optional, tag = "10")]
    pub opener: Option<SessionProof>,
    /// The stamp.
    #[prost(sfixed64, tag = "11")]
    pub now_ns: i64,
}

/// Gives an inode one more name.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LinkNode {
    /// The inode, no directory.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The directory of the new name.
    #[prost(uint64, tag = "2")]
    pub parent: u64,
    /// The new name.
    #[prost(bytes = "vec", tag = "3")]
    pub name: Vec<u8>,
    /// The stamp.
    #[prost(sfixed64, tag = "4")]
    pub now_ns: i64,
}

/// What [`UnlinkNode`] shall find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum UnlinkWhat {
    /// Anything.
    Any = 1,
    /// Anything but a directory.
    NotADirectory = 2,
    /// A directory.
    Directory = 3,
}

/// Takes a name away, of a directory only when it is empty.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UnlinkNode {
    /// The directory.
    #[prost(uint64, tag = "1")]
    pub parent: u64,
    /// The name.
    #[prost(bytes = "vec", tag = "2")]
    pub name: Vec<u8>,
    /// What it must be.
    #[prost(enumeration = "UnlinkWhat", tag = "3")]
    pub what: i32,
    /// The stamp.
    #[prost(sfixed64, tag = "4")]
    pub now_ns: i64,
}

/// What [`RenameNode`] does when the new name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum RenameMode {
    /// Replaces what has it, by the rules of POSIX `rename`.
    Replace = 1,
    /// Refuses.
    NoReplace = 2,
    /// Exchanges the two; refuses if it is not taken.
    Exchange = 3,
}

/// Moves a name.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RenameNode {
    /// The directory now.
    #[prost(uint64, tag = "1")]
    pub parent: u64,
    /// The name now.
    #[prost(bytes = "vec", tag = "2")]
    pub name: Vec<u8>,
    /// The directory to be.
    #[prost(uint64, tag = "3")]
    pub new_parent: u64,
    /// The name to be.
    #[prost(bytes = "vec", tag = "4")]
    pub new_name: Vec<u8>,
    /// When it is taken.
    #[prost(enumeration = "RenameMode", tag = "5")]
    pub mode: i32,
    /// The stamp.
    #[prost(sfixed64, tag = "6")]
    pub now_ns: i64,
}

/// A new size; the rules of [`Resize`](super::Resize) hold.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SizeSet {
    /// In bytes.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// The lease under which it is asked, if any.
    #[prost(message, optional, tag = "2")]
    pub lease: Option<LeaseProof>,
    /// A size below the present one changes nothing.
    #[prost(bool, tag = "3")]
    pub grow_only: bool,
}

/// Changes what is present of an inode.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SetInode {
    /// Which.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Permission bits as in POSIX.
    #[prost(uint32, optional, tag = "2")]
    pub mode: Option<u32>,
    /// Owner.
    #[prost(uint32, optional, tag = "3")]
    pub uid: Option<u32>,
    /// Group.
    #[prost(uint32, optional, tag = "4")]
    pub gid: Option<u32>,
    /// Size, of a file.
    #[prost(message, optional, tag = "5")]
    pub size: Option<SizeSet>,
    /// Last access, in nanoseconds since 1970.
    #[prost(sfixed64, optional, tag = "6")]
    pub atime_ns: Option<i64>,
    /// Last change of the data; absent: the stamp if the size changes.
    #[prost(sfixed64, optional, tag = "7")]
    pub mtime_ns: Option<i64>,
    /// Last change of the inode; absent: the stamp.
    #[prost(sfixed64, optional, tag = "8")]
    pub ctime_ns: Option<i64>,
    /// The stamp.
    #[prost(sfixed64, tag = "9")]
    pub now_ns: i64,
}

/// Whether an extended attribute may, or must, exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum XattrMode {
    /// It may.
    Any = 1,
    /// It must not.
    Create = 2,
    /// It must.
    Replace = 3,
}

/// Sets an extended attribute.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SetXattr {
    /// Of which inode.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name.
    #[prost(bytes = "vec", tag = "2")]
    pub name: Vec<u8>,
    /// Its value.
    #[prost(bytes = "vec", tag = "3")]
    pub value: Vec<u8>,
    /// Whether it may exist.
    #[prost(enumeration = "XattrMode", tag = "4")]
    pub mode: i32,
    /// The stamp.
    #[prost(sfixed64, tag = "5")]
    pub now_ns: i64,
}

/// Removes an extended attribute.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RemoveXattr {
    /// Of which inode.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name.
    #[prost(bytes = "vec", tag = "2")]
    pub name: Vec<u8>,
    /// The stamp.
    #[prost(sfixed64, tag = "3")]
    pub now_ns: i64,
}
