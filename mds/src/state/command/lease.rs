//! Commands of clients: sessions, leases and chunks.

use super::Target;
use crate::state::ids::Secret;
use prost::Message;

/// What a lease allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum LeaseMode {
    /// Read, together with other readers.
    Shared = 1,
    /// Read and write, alone.
    Exclusive = 2,
}

/// Shows that the sender holds a file's lease: its session and the epoch it was granted.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LeaseProof {
    /// The client's id.
    #[prost(uint32, tag = "1")]
    pub client: u32,
    /// The token of its session.
    #[prost(message, required, tag = "2")]
    pub token: Secret,
    /// The epoch of its lease.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
}

/// Opens a session, or takes one's own over after a restart (C1).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct OpenSession {
    /// The UUID in the client's state directory, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub client_uuid: Vec<u8>,
    /// Its host, for the operator.
    #[prost(string, tag = "2")]
    pub host: String,
    /// The token it stored when it last opened a session; none if there is none.
    #[prost(message, required, tag = "3")]
    pub stored_token: Secret,
    /// The token of the new session, drawn by the leader. Not none.
    #[prost(message, required, tag = "4")]
    pub new_token: Secret,
    /// The version of its software, for the operator.
    #[prost(string, tag = "5")]
    pub build: String,
    /// What it is (mount, block device …), as the number of the wire protocol, for the operator.
    #[prost(uint32, tag = "6")]
    pub kind: u32,
}

/// Closes a session in good order. Leases still held end as released without a flush.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CloseSession {
    /// Which client.
    #[prost(uint32, tag = "1")]
    pub client: u32,
    /// Its token.
    #[prost(message, required, tag = "2")]
    pub token: Secret,
}

/// The leader's timer for a session ran out: all its leases expire (C1).
///
/// The leader stops renewing the session before it proposes this, and a new leader first waits a whole term.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ExpireSession {
    /// Which client.
    #[prost(uint32, tag = "1")]
    pub client: u32,
    /// The number of the session that ran out; a later session is not touched.
    #[prost(uint64, tag = "2")]
    pub session: u64,
}

/// Asks for a lease (C1, C2).
///
/// Asking again is how a client waits: after `Fencing` until it is granted, after `Held` until it gives up.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Open {
    /// Which client.
    #[prost(uint32, tag = "1")]
    pub client: u32,
    /// Its token.
    #[prost(message, required, tag = "2")]
    pub token: Secret,
    /// The file.
    #[prost(message, optional, tag = "3")]
    pub target: Option<Target>,
    /// Reading or writing.
    #[prost(enumeration = "LeaseMode", tag = "4")]
    pub mode: i32,
}

/// Asks for a lease anew, at a higher epoch (C1): after it expired, after a restart of the client's daemon, or, while it
/// is still held, because a chunk server lost its memory (C10).
///
/// Granted only if nobody else was granted since; otherwise that open is lost for ever.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Resume {
    /// Which client.
    #[prost(uint32, tag = "1")]
    pub client: u32,
    /// Its token.
    #[prost(message, required, tag = "2")]
    pub token: Secret,
    /// The file's id.
    #[prost(uint64, tag = "3")]
    pub file: u64,
    /// Reading or writing.
    #[prost(enumeration = "LeaseMode", tag = "4")]
    pub mode: i32,
    /// The epoch it held: who holds a higher one has its answer already.
    #[prost(uint64, tag = "5")]
    pub epoch: u64,
}

/// Gives a lease back.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Release {
    /// Who and at which epoch.
    #[prost(message, optional, tag = "1")]
    pub lease: Option<LeaseProof>,
    /// The file's id.
    #[prost(uint64, tag = "2")]
    pub file: u64,
    /// Everything was flushed on all members and nothing is in flight (C5): the next grant needs neither fence
    /// nor reconciliation.
    #[prost(bool, tag = "3")]
    pub clean: bool,
    /// The client that shall open the file next (C1, hand-over); 0 for anybody.
    #[prost(uint32, tag = "4")]
    pub successor: u32,
}

/// Takes leases away (`vstorage revoke`). What was acknowledged stays; the holder's next request is refused.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Revoke {
    /// Whose.
    #[prost(oneof = "RevokeWhat", tags = "1, 2")]
    pub what: Option<RevokeWhat>,
    /// The client is told until it shows that it knows, and a file that is kept for a client counts as held. Came later
    /// than the rest; each revocation has it now.
    #[prost(bool, tag = "3")]
    pub told: bool,
}

/// What [`Revoke`] strikes.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum RevokeWhat {
    /// All leases on one file.
    #[prost(message, tag = "1")]
    File(Target),
    /// One client's session with all its leases.
    #[prost(uint32, tag = "2")]
    Client(u32),
}

/// A chunk that was reconciled.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ReconciledChunk {
    /// Which chunk of the file.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// Its id.
    #[prost(uint64, tag = "2")]
    pub chunk: u64,
    /// The version that was reconciled; another one does not count (C7).
    #[prost(uint64, tag = "3")]
    pub version: u64,
}

/// A file was kept for a client for a whole term, and the client did not open it: whoever asks first has it (C1).
///
/// The client may still have the file back for as long as nobody else was granted it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct EndReservation {
    /// The file's id.
    #[prost(uint64, tag = "1")]
    pub file: u64,
    /// The client it is kept for.
    #[prost(uint32, tag = "2")]
    pub client: u32,
    /// The number of the session that had the time; a later one has its own.
    #[prost(uint64, tag = "3")]
    pub session: u64,
}

/// The holder has reconciled these chunks on all members and flushed the result (C5).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReconcileDone {
    /// Who and at which epoch.
    #[prost(message, optional, tag = "1")]
    pub lease: Option<LeaseProof>,
    /// The file's id.
    #[prost(uint64, tag = "2")]
    pub file: u64,
    /// Which chunks; at most [`crate::state::RECONCILED_MAX`].
    #[prost(message, repeated, tag = "3")]
    pub chunks: Vec<ReconciledChunk>,
    /// All members of one of them had restarted with writes of the holder that were not flushed (C4).
    #[prost(bool, tag = "4")]
    pub writes_lost: bool,
}

/// Asks for chunks at indices that have none (C9). An index that has one already is answered with it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AllocateChunks {
    /// Who and at which epoch; must be the writer.
    #[prost(message, optional, tag = "1")]
    pub lease: Option<LeaseProof>,
    /// The file's id.
    #[prost(uint64, tag = "2")]
    pub file: u64,
    /// Which chunks of the file; at most [`crate::state::INDICES_MAX`].
    #[prost(uint32, repeated, tag = "3")]
    pub indices: Vec<u32>,
    /// A random number, drawn by the leader, that decides among equal places.
    #[prost(fixed64, tag = "4")]
    pub seed: u64,
    /// The file grows to this size first, if it is smaller; 0: it stays.
    #[prost(uint64, tag = "5")]
    pub grow_to: u64,
}

/// A chunk server durably holds these new, empty chunks.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ChunkCreated {
    /// Which chunk server.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// Its session.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// The chunks.
    #[prost(uint64, repeated, tag = "3")]
    pub chunks: Vec<u64>,
}

/// A chunk server cannot create a chunk: another takes its place.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ReplaceCreating {
    /// The chunk.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// The chunk server that failed.
    #[prost(uint32, tag = "2")]
    pub cs: u32,
    /// A random number, drawn by the leader, that decides among equal places.
    #[prost(fixed64, tag = "3")]
    pub seed: u64,
}

/// The quarantine of these deleted chunks is over: chunk servers may delete them (C9).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PurgeChunks {
    /// The chunks.
    #[prost(uint64, repeated, tag = "1")]
    pub chunks: Vec<u64>,
}

/// A chunk server holds these chunks no more.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ChunksPurged {
    /// Which chunk server.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// Its session.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// The chunks.
    #[prost(uint64, repeated, tag = "3")]
    pub chunks: Vec<u64>,
}
