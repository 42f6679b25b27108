//! What the leader has found out and every member is to know: replicas that nobody knows, replicas that are not there, and events of
//! which nothing else in the log tells.

use super::ReplicaPlace;
use crate::state::event::EventCode;
use prost::Message;

/// Replicas on a chunk server that no map has go in quarantine (C9). Those that cannot are passed over.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct QuarantineReplicas {
    /// The chunk server.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// Its session.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// Which; at most [`crate::state::MEMBERS_MAX`].
    #[prost(message, repeated, tag = "3")]
    pub replicas: Vec<UnknownReplica>,
}

/// A replica that no map has.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct UnknownReplica {
    /// The chunk.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// The version on the chunk server.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// The file that has the chunk, with replicas elsewhere; 0 if none has.
    #[prost(uint64, tag = "3")]
    pub file: u64,
    /// Which of its chunks.
    #[prost(uint32, tag = "4")]
    pub index: u32,
}

/// Replicas that should be on a chunk server are not: they have nothing worth returning with, and others take their places, if enough
/// others remain.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LoseReplicas {
    /// The chunk server.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// Its session.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// Which; at most [`crate::state::MEMBERS_MAX`]. Those with another version by now are passed over.
    #[prost(message, repeated, tag = "3")]
    pub places: Vec<ReplicaPlace>,
}

/// A chunk server has a chunk of the present generation with an id that was never given out: the metadata is older than it should
/// be. Ids up to there are not given out, and chunks with them never count as deleted.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SkipIds {
    /// The highest such id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Or the id is known, and the version is not.
    #[prost(bool, tag = "2")]
    pub newer: bool,
}

/// An event of the leader's.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NoteEvent {
    /// Its kind: one of those that are noted like this.
    #[prost(enumeration = "EventCode", tag = "1")]
    pub code: i32,
    /// What fills the places in its text.
    #[prost(string, repeated, tag = "2")]
    pub args: Vec<String>,
}
