//! Commands about replicas that leave, return and are promoted (C3, C6, C7).

use super::LeaseProof;
use prost::Message;

/// A chunk server's replicas are left out: one version more without them, wherever enough others remain (C3).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DropMember {
    /// Who holds the file and says so; absent if the leader does by itself.
    #[prost(message, optional, tag = "1")]
    pub lease: Option<LeaseProof>,
    /// The file's id.
    #[prost(uint64, tag = "2")]
    pub file: u64,
    /// The chunk server.
    #[prost(uint32, tag = "3")]
    pub cs: u32,
    /// The chunk that failed; 0 for none in particular.
    #[prost(uint64, tag = "4")]
    pub chunk: u64,
    /// Its version as the reporter knows it: a report about an earlier one changes nothing.
    #[prost(uint64, tag = "5")]
    pub version: u64,
    /// Only this chunk's replica, and for good: it does not return by difference.
    #[prost(bool, tag = "6")]
    pub lost: bool,
    /// Why, for the operator.
    #[prost(string, tag = "7")]
    pub why: String,
}

/// Absent replicas on a chunk server join again (C6). Those that cannot are passed over.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct JoinMembers {
    /// The chunk server.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// Its session.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// Which chunks; at most [`crate::state::MEMBERS_MAX`].
    #[prost(message, repeated, tag = "3")]
    pub chunks: Vec<ChunkPosition>,
}

/// Where a chunk is.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ChunkPosition {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub file: u64,
    /// Which of its chunks.
    #[prost(uint32, tag = "2")]
    pub index: u32,
}

/// More replicas: chunk servers are told to make empty ones, which join when they are there (C7, C9). Those that cannot be are
/// passed over.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AddReplicas {
    /// Where; at most [`crate::state::MEMBERS_MAX`].
    #[prost(message, repeated, tag = "1")]
    pub places: Vec<ReplicaPlace>,
}

/// Replicas that have no use any more go: from the members, and through quarantine from their chunk servers (C9). Those that are
/// needed are passed over.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RemoveReplicas {
    /// Which; at most [`crate::state::MEMBERS_MAX`].
    #[prost(message, repeated, tag = "1")]
    pub places: Vec<ReplicaPlace>,
}

/// A replica, or a place for one.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ReplicaPlace {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub file: u64,
    /// Which of its chunks.
    #[prost(uint32, tag = "2")]
    pub index: u32,
    /// The version of the chunk that this was decided for (C7).
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// The chunk server.
    #[prost(uint32, tag = "4")]
    pub cs: u32,
}

/// A chunk in a version.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ChunkVersion {
    /// The chunk.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// The version.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// Bytes copied to get there.
    #[prost(uint64, tag = "3")]
    pub copied_bytes: u64,
    /// Blocks that it lacks, because no member had them whole (C8).
    #[prost(uint32, tag = "4")]
    pub lost_blocks: u32,
}

/// Blocks that members lack are waited for no more: whoever may have had them is a member, and has been asked (C8). Chunks of another
/// version, or of which somebody is still to be asked, are passed over.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SettleLosses {
    /// Which; at most [`crate::state::MEMBERS_MAX`].
    #[prost(message, repeated, tag = "1")]
    pub chunks: Vec<LossAt>,
}

/// A chunk with members that lack blocks.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LossAt {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub file: u64,
    /// Which of its chunks.
    #[prost(uint32, tag = "2")]
    pub index: u32,
    /// The version under which all were asked.
    #[prost(uint64, tag = "3")]
    pub version: u64,
}

/// A chunk server's joiners have everything: they become members (C7). Those of another version are passed over.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PromoteMembers {
    /// The chunk server.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// Its session.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// Which chunks; at most [`crate::state::MEMBERS_MAX`].
    #[prost(message, repeated, tag = "3")]
    pub chunks: Vec<ChunkVersion>,
}

/// A chunk server has durably installed these versions (C7).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct VersionsInstalled {
    /// The chunk server.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// Its session.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// The chunks.
    #[prost(message, repeated, tag = "3")]
    pub chunks: Vec<ChunkVersion>,
}
