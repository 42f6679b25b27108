//! Leases and chunk maps: what a client needs before and between its data operations.

use crate::namespace::{Attrs, FileRef};
use crate::session::SessionKey;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum OpenMode {
    /// Not said; refused.
    Unspecified = 0,
    /// Shared with other readers.
    Read = 1,
    /// Exclusive (C1).
    Write = 2,
}

/// State of one replica in a chunk's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MemberState {
    /// Not said, or newer than this code: used for nothing.
    Unspecified = 0,
    /// In sync at the chunk's version: reads and writes.
    Member = 1,
    /// Receives writes, serves no reads, does not count for the minimum (C7).
    Joining = 2,
    /// Its CS is away; it returns by difference (C6).
    Absent = 3,
    /// Failed for good; kept until replaced.
    Failed = 4,
}

/// One replica of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Member {
    /// CS that holds it.
    #[prost(uint64, tag = "1")]
    pub cs_id: u64,
    /// Its state.
    #[prost(enumeration = "MemberState", tag = "2")]
    pub state: i32,
    /// Piece of the stripe it holds; 0 for replicated chunks.
    #[prost(uint32, tag = "3")]
    pub slot: u32,
}

/// One chunk of a file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChunkMap {
    /// Position in the file: offset divided by chunk size.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Chunk id; never used again.
    #[prost(uint64, tag = "2")]
    pub chunk_id: u64,
    /// Version.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// Replicas.
    #[prost(message, repeated, tag = "4")]
    pub members: Vec<Member>,
    /// The chunk must be reconciled before it is used (C5).
    #[prost(bool, tag = "5")]
    pub needs_reconcile: bool,
    /// Too few members: writes wait, reads go on (C3).
    #[prost(bool, tag = "6")]
    pub blocked: bool,
}

/// Where a CS listens.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CsAddress {
    /// CS id.
    #[prost(uint64, tag = "1")]
    pub cs_id: u64,
    /// Addresses with port, the preferred first.
    #[prost(string, repeated, tag = "2")]
    pub addresses: Vec<String>,
    /// Boot id at its last registration, 16 bytes; another one in HELLO means that the map is stale.
    #[prost(bytes = "vec", tag = "3")]
    pub boot_id: Vec<u8>,
}

/// A page of a file's map. Reply of GET_MAP, ALLOCATE_CHUNKS and REPORT_MEMBER.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MapReply {
    /// Chunks, ascending by index; holes are left out.
    #[prost(message, repeated, tag = "1")]
    pub chunks: Vec<ChunkMap>,
    /// Each CS that holds a replica of these chunks.
    #[prost(message, repeated, tag = "2")]
    pub servers: Vec<CsAddress>,
    /// Index of the first chunk not answered; 0 = all that was asked for is here.
    #[prost(uint64, tag = "3")]
    pub next_index: u64,
}

/// OPEN request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Open {
    /// The file.
    #[prost(oneof = "FileRef", tags = "1, 2")]
    pub file: Option<FileRef>,
    /// The session.
    #[prost(message, required, tag = "3")]
    pub session: SessionKey,
    /// Read or write.
    #[prost(enumeration = "OpenMode", tag = "4")]
    pub mode: i32,
    /// Chunks of the map wanted in the reply, from the first; 0 = none.
    #[prost(uint32, tag = "5")]
    pub map_count: u32,
    /// Of a client that opens the file again: the epoch it held. Refused with `StaleEpoch` if another client was granted
    /// a lease since (C1). 0 for a first open.
    #[prost(uint64, tag = "6")]
    pub resume_epoch: u64,
}

/// OPEN reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct OpenReply {
    /// File id.
    #[prost(uint64, tag = "1")]
    pub file_id: u64,
    /// Lease epoch (C1).
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Size in bytes.
    #[prost(uint64, tag = "3")]
    pub size: u64,
    /// Chunk size in bytes.
    #[prost(uint64, tag = "4")]
    pub chunk_size: u64,
    /// Attributes in effect.
    #[prost(message, required, tag = "5")]
    pub attrs: Attrs,
    /// The last lease did not end by flush and release: this client is the reconciler (C5).
    #[prost(bool, tag = "6")]
    pub needs_reconcile: bool,
    /// The first chunks.
    #[prost(message, required, tag = "7")]
    pub map: MapReply,
}

/// RELEASE request. The reply is empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Release {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
    /// File id.
    #[prost(uint64, tag = "2")]
    pub file_id: u64,
    /// Epoch of the lease.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// All writes were flushed on all members and nothing is in flight: no fence, no reconciling.
    #[prost(bool, tag = "4")]
    pub clean: bool,
}

/// GET_MAP request.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct GetMap {
    /// File id.
    #[prost(uint64, tag = "1")]
    pub file_id: u64,
    /// Epoch of the sender's lease.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// First chunk wanted.
    #[prost(uint64, tag = "3")]
    pub first_index: u64,
    /// How many chunks are wanted.
    #[prost(uint32, tag = "4")]
    pub count: u32,
}

/// ALLOCATE_CHUNKS request: give these positions a chunk where they have none.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AllocateChunks {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
    /// File id.
    #[prost(uint64, tag = "2")]
    pub file_id: u64,
    /// Epoch of the lease, for writing.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Positions in the file.
    #[prost(uint64, repeated, tag = "4")]
    pub indices: Vec<u64>,
}

/// RECONCILE_DONE request: the chunk's members are equal and flushed (C5). The reply is empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReconcileDone {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
    /// File id.
    #[prost(uint64, tag = "2")]
    pub file_id: u64,
    /// Epoch of the lease.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Chunk id.
    #[prost(uint64, tag = "4")]
    pub chunk_id: u64,
    /// Version of the chunk that was reconciled.
    #[prost(uint64, tag = "5")]
    pub version: u64,
    /// All members had restarted with writes of this client that were acknowledged and not flushed (C4).
    #[prost(bool, tag = "6")]
    pub writes_lost: bool,
}

/// REPORT_MEMBER request: a replica failed a request. Replied with the chunk's map as it is then.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReportMember {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
    /// File id.
    #[prost(uint64, tag = "2")]
    pub file_id: u64,
    /// Epoch of the lease.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Chunk id.
    #[prost(uint64, tag = "4")]
    pub chunk_id: u64,
    /// Version the sender knows: a report about an older one changes nothing.
    #[prost(uint64, tag = "5")]
    pub version: u64,
    /// CS of the replica.
    #[prost(uint64, tag = "6")]
    pub cs_id: u64,
    /// Code of the [`Status`](crate::Status) it answered; that of `Timeout` when it did not.
    #[prost(uint32, tag = "7")]
    pub status: u32,
}

/// Whose leases are taken away.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum RevokeTarget {
    /// All leases on the file with this path.
    #[prost(string, tag = "1")]
    Path(String),
    /// All leases of this client.
    #[prost(uint64, tag = "2")]
    Client(u64),
}

/// REVOKE request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Revoke {
    /// Whose leases.
    #[prost(oneof = "RevokeTarget", tags = "1, 2")]
    pub target: Option<RevokeTarget>,
}

/// REVOKE reply.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RevokeReply {
    /// Leases taken away.
    #[prost(uint32, tag = "1")]
    pub revoked: u32,
}
