//! Namespace operations: names, sizes, attributes.
//!
//! A path is absolute within the cluster, `/`-separated, without empty, `.` and `..` components; the
//! root is `/`. At most [`MAX_PATH`](crate::limits::MAX_PATH) bytes, a component at most
//! [`MAX_NAME`](crate::limits::MAX_NAME). The MDS checks this; a client that checks first has the
//! better message.

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum FileKind {
    /// Not said; refused.
    Unspecified = 0,
    /// File: a sequence of chunks.
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

/// What may fail at once: no two replicas of a chunk are placed within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum FailureDomain {
    /// Not said; refused.
    Unspecified = 0,
    /// A disk, that is a CS.
    Disk = 1,
    /// A host.
    Host = 2,
}

/// A file by its path or its id.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum FileRef {
    /// By path.
    #[prost(string, tag = "1")]
    Path(String),
    /// By file id.
    #[prost(uint64, tag = "2")]
    Id(u64),
}

/// Attributes. Absent ones are inherited (in a file's own attributes) or left alone (in a change).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Attrs {
    /// Replicas a chunk should have.
    #[prost(uint32, optional, tag = "1")]
    pub replicas: Option<u32>,
    /// Replicas below which writes wait.
    #[prost(uint32, optional, tag = "2")]
    pub replicas_min: Option<u32>,
    /// Failure domain.
    #[prost(enumeration = "FailureDomain", optional, tag = "3")]
    pub failure_domain: Option<i32>,
    /// Storage tier, 0 to 3.
    #[prost(uint32, optional, tag = "4")]
    pub tier: Option<u32>,
    /// Erasure code as `M+N`; empty = replication.
    #[prost(string, optional, tag = "5")]
    pub encoding: Option<String>,
    /// Chunk size in bytes; fixed when a file gets its first chunk.
    #[prost(uint64, optional, tag = "6")]
    pub chunk_size: Option<u64>,
}

/// CREATE request: a file or a directory.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Create {
    /// Path.
    #[prost(string, tag = "1")]
    pub path: String,
    /// File or directory.
    #[prost(enumeration = "FileKind", tag = "2")]
    pub kind: i32,
    /// Size in bytes; 0 for a directory.
    #[prost(uint64, tag = "3")]
    pub size: u64,
    /// Own attributes; the rest is inherited.
    #[prost(message, required, tag = "4")]
    pub attrs: Attrs,
    /// Permission bits as in POSIX.
    #[prost(uint32, tag = "5")]
    pub mode: u32,
}

/// A lease holder, for messages.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Holder {
    /// Client id.
    #[prost(uint64, tag = "1")]
    pub client_id: u64,
    /// Host name.
    #[prost(string, tag = "2")]
    pub host_name: String,
}

/// A file or directory.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FileInfo {
    /// File id; never used again after removal.
    #[prost(uint64, tag = "1")]
    pub file_id: u64,
    /// File or directory.
    #[prost(enumeration = "FileKind", tag = "2")]
    pub kind: i32,
    /// Size in bytes.
    #[prost(uint64, tag = "3")]
    pub size: u64,
    /// Chunk size in bytes.
    #[prost(uint64, tag = "4")]
    pub chunk_size: u64,
    /// Attributes in effect, inherited ones included.
    #[prost(message, required, tag = "5")]
    pub attrs: Attrs,
    /// Creation, in milliseconds since 1970 (UTC) by the clock of the MDS.
    #[prost(uint64, tag = "6")]
    pub created_ms: u64,
    /// Last change of size or attributes, likewise.
    #[prost(uint64, tag = "7")]
    pub modified_ms: u64,
    /// Space of its chunks in bytes, replicas not counted.
    #[prost(uint64, tag = "8")]
    pub allocated_bytes: u64,
    /// Clients that have it open for reading.
    #[prost(uint32, tag = "9")]
    pub readers: u32,
    /// The client that has it open for writing.
    #[prost(message, optional, tag = "10")]
    pub writer: Option<Holder>,
    /// Highest lease epoch granted; 0 = never opened for writing.
    #[prost(uint64, tag = "11")]
    pub epoch: u64,
    /// Path; empty when unlinked and still open.
    #[prost(string, tag = "12")]
    pub path: String,
    /// Permission bits as in POSIX.
    #[prost(uint32, tag = "13")]
    pub mode: u32,
    /// Chunks allocated.
    #[prost(uint64, tag = "14")]
    pub chunks: u64,
}

/// Reply of CREATE, STAT and RESIZE.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FileReply {
    /// The file as it is now.
    #[prost(message, required, tag = "1")]
    pub info: FileInfo,
}

/// LIST request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct List {
    /// Path of the directory.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Names after this one only; empty = from the start.
    #[prost(string, tag = "2")]
    pub after: String,
    /// Most entries wanted; 0 = as many as one reply holds.
    #[prost(uint32, tag = "3")]
    pub limit: u32,
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Entry {
    /// Name, one component.
    #[prost(string, tag = "1")]
    pub name: String,
    /// File or directory.
    #[prost(enumeration = "FileKind", tag = "2")]
    pub kind: i32,
    /// Size in bytes.
    #[prost(uint64, tag = "3")]
    pub size: u64,
    /// File id.
    #[prost(uint64, tag = "4")]
    pub file_id: u64,
    /// Last change, in milliseconds since 1970 (UTC) by the clock of the MDS.
    #[prost(uint64, tag = "5")]
    pub modified_ms: u64,
}

/// LIST reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListReply {
    /// Entries, ascending by the bytes of their names.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
    /// There are more: ask again after the last one here.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// STAT request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Stat {
    /// The file.
    #[prost(oneof = "FileRef", tags = "1, 2")]
    pub file: Option<FileRef>,
}

/// REMOVE request. The reply is empty. An open file lives on until its last lease ends (C9).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Remove {
    /// Path.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Remove a directory with all it holds.
    #[prost(bool, tag = "2")]
    pub recursive: bool,
}

/// RENAME request. The reply is empty. Never replaces an existing name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Rename {
    /// Path now.
    #[prost(string, tag = "1")]
    pub from: String,
    /// Path to be.
    #[prost(string, tag = "2")]
    pub to: String,
}

/// RESIZE request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Resize {
    /// The file.
    #[prost(oneof = "FileRef", tags = "1, 2")]
    pub file: Option<FileRef>,
    /// New size in bytes.
    #[prost(uint64, tag = "3")]
    pub size: u64,
    /// Without this, a size below the present one is refused: it destroys data.
    #[prost(bool, tag = "4")]
    pub allow_shrink: bool,
}

/// GET_ATTR request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetAttr {
    /// Path.
    #[prost(string, tag = "1")]
    pub path: String,
}

/// GET_ATTR reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetAttrReply {
    /// Attributes set on the file or directory itself.
    #[prost(message, required, tag = "1")]
    pub explicit: Attrs,
    /// Attributes in effect, inherited ones included; all are present.
    #[prost(message, required, tag = "2")]
    pub effective: Attrs,
}

/// SET_ATTR request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SetAttr {
    /// Path.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Change everything below a directory too.
    #[prost(bool, tag = "2")]
    pub recursive: bool,
    /// The attributes to change.
    #[prost(message, required, tag = "3")]
    pub attrs: Attrs,
}

/// SET_ATTR reply.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SetAttrReply {
    /// Files and directories changed.
    #[prost(uint64, tag = "1")]
    pub changed: u64,
}
