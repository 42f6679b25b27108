//! Commands on directories, files and their attributes.

use super::LeaseProof;
use prost::Message;

/// Where replicas may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum FailureDomain {
    /// At most one replica per chunk server.
    Disk = 1,
    /// At most one replica per host; the default.
    Host = 2,
}

/// A change of the replica counts; they change together.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ReplicaChange {
    /// Replicas a chunk should have, 1 to 15.
    #[prost(uint32, tag = "1")]
    pub normal: u32,
    /// Replicas below which writes wait; absent: one less than normal, at least 1.
    #[prost(uint32, optional, tag = "2")]
    pub minimum: Option<u32>,
}

/// The attributes to change; what is absent stays.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AttrChange {
    /// Replica counts.
    #[prost(message, optional, tag = "1")]
    pub replicas: Option<ReplicaChange>,
    /// Where replicas may meet.
    #[prost(enumeration = "FailureDomain", optional, tag = "2")]
    pub failure_domain: Option<i32>,
    /// Storage tier, 0 to 3.
    #[prost(uint32, optional, tag = "3")]
    pub tier: Option<u32>,
    /// Bytes per chunk, a power of two from 64 KiB to 64 MiB.
    #[prost(uint64, optional, tag = "4")]
    pub chunk_size: Option<u64>,
    /// Erasure coding such as `5+2`: refused by this version. Empty for replicas.
    #[prost(string, optional, tag = "5")]
    pub encoding: Option<String>,
}

/// Names a file or directory by its place or by its id.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Target {
    /// The one or the other.
    #[prost(oneof = "TargetRef", tags = "1, 2")]
    pub target: Option<TargetRef>,
}

/// The two ways to name a file.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum TargetRef {
    /// By its path at the time the command is applied.
    #[prost(string, tag = "1")]
    Path(String),
    /// By its id, which follows it through renames and unlinking.
    #[prost(uint64, tag = "2")]
    File(u64),
}

impl Target {
    /// By path.
    pub fn path(path: impl Into<String>) -> Option<Self> {
        Some(Self { target: Some(TargetRef::Path(path.into())) })
    }

    /// By id.
    pub fn file(file: u64) -> Option<Self> {
        Some(Self { target: Some(TargetRef::File(file)) })
    }
}

/// Makes a directory.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MakeDir {
    /// Its path.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Make missing parents too, and accept a directory that is there.
    #[prost(bool, tag = "2")]
    pub parents: bool,
    /// Permission bits as in POSIX, for those made.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
}

/// Makes a regular file.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CreateFile {
    /// Its path.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Its size in bytes; it holds no chunks yet and reads as zeros.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// Attributes that differ from those of the directory.
    #[prost(message, optional, tag = "3")]
    pub attrs: Option<AttrChange>,
    /// Permission bits as in POSIX.
    #[prost(uint32, tag = "4")]
    pub mode: u32,
}

/// Unlinks a file or a directory.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Remove {
    /// Its path.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Remove a directory with all that is in it.
    #[prost(bool, tag = "2")]
    pub recursive: bool,
}

/// Moves a file or directory, over an existing file or empty directory if there is one (POSIX `rename`).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Rename {
    /// What to move.
    #[prost(string, tag = "1")]
    pub from: String,
    /// Its new path.
    #[prost(string, tag = "2")]
    pub to: String,
    /// Refuse if there is something at the new path.
    #[prost(bool, tag = "3")]
    pub no_replace: bool,
}

/// Changes the size of a file.
///
/// Under the write lease, or by anybody while nobody holds a lease. To cut a chunk in two the writer first
/// zeroes what follows the new end, so that needs the lease.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Resize {
    /// The file.
    #[prost(message, optional, tag = "1")]
    pub target: Option<Target>,
    /// The new size in bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// The lease under which it is asked, if any.
    #[prost(message, optional, tag = "3")]
    pub lease: Option<LeaseProof>,
    /// Without this a size below the present one is refused: it destroys data.
    #[prost(bool, tag = "4")]
    pub allow_shrink: bool,
}

/// Changes attributes of a directory or file.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SetAttr {
    /// Which.
    #[prost(string, tag = "1")]
    pub path: String,
    /// What to change.
    #[prost(message, optional, tag = "2")]
    pub change: Option<AttrChange>,
    /// Change what lies below, too.
    #[prost(bool, tag = "3")]
    pub recursive: bool,
}
