//! What the leader has to do after a command is committed.
//!
//! Effects are hints: losing one loses nothing, because all that lasts can be had again from
//! [`State::pending_work`](crate::state::State::pending_work). A new leader starts with that list; a leader whose
//! message was not answered uses it too. Every one may be carried out twice.

use super::ids::{ChunkId, ClientId, CsId, Epoch, FileId, Version};

/// Something to do outside the state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Tell a chunk server to create empty chunks; it answers, and `ChunkCreated` is logged. It also records the
    /// epoch, so that the new chunks are born fenced (C2).
    CreateChunks {
        /// The chunk server.
        cs: CsId,
        /// The owner of the chunks.
        file: FileId,
        /// The epoch of the file.
        epoch: Epoch,
        /// Bytes per chunk.
        chunk_size: u64,
        /// Which chunks, by index.
        chunks: Vec<NewChunk>,
    },
    /// Tell a chunk server to drain requests of lower epochs and to record this one (C2); it answers, and
    /// `FencesRecorded` is logged.
    Fence {
        /// The chunk server.
        cs: CsId,
        /// The file.
        file: FileId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Tell a chunk server to delete chunks whose quarantine is over, sparing higher versions (C9); it answers,
    /// and `ChunksPurged` is logged.
    DeleteChunks {
        /// The chunk server.
        cs: CsId,
        /// Which chunks.
        chunks: Vec<(ChunkId, Version)>,
    },
    /// Tell a chunk server that replicas have another version (C7); it answers, and `VersionsInstalled` is logged.
    InstallVersions {
        /// The chunk server.
        cs: CsId,
        /// Which chunks.
        chunks: Vec<InstallOrder>,
    },
    /// Tell a chunk server to fill joiners (C6, C7); it reports, and `PromoteMembers` is logged.
    CatchUp {
        /// The chunk server.
        cs: CsId,
        /// Which chunks.
        chunks: Vec<CopyOrder>,
    },
    /// Tell a chunk server to make empty replicas that are to join (C7, C9); it answers, and `ChunkCreated` is logged.
    MakeReplicas {
        /// The chunk server.
        cs: CsId,
        /// Which.
        chunks: Vec<NewReplica>,
    },
    /// Chunks have become nobody's: look whether they need their quarantine. Not part of the pending work.
    Purge,
    /// Replicas may be missing, or too many. Not part of the pending work.
    Replicate,
    /// Replicas are away and may return: look who can. Not part of the pending work.
    Returns,
    /// Time this session's lease from now on: a full term (C1).
    WatchClient {
        /// The client.
        client: ClientId,
        /// Its session.
        session: u64,
    },
    /// Time this registration from now on: a full term (C2).
    WatchCs {
        /// The chunk server.
        cs: CsId,
        /// Its session.
        session: u64,
    },
    /// The session is over: forget its timer. Not part of the pending work.
    UnwatchClient {
        /// The client.
        client: ClientId,
    },
    /// Time how long this file is kept for a client that does not hold it: a full term.
    LeaseKept {
        /// The client.
        client: ClientId,
        /// The file.
        file: FileId,
    },
    /// A client no longer holds a lease. Not part of the pending work: C2 protects without it, and of what was revoked
    /// the client is told with each renewal.
    LeaseLost {
        /// The client.
        client: ClientId,
        /// The file.
        file: FileId,
        /// The epoch it held.
        epoch: Epoch,
    },
    /// Wake those who wait to open this file: it is fenced, or free. Not part of the pending work.
    LeaseFree {
        /// The file.
        file: FileId,
    },
    /// Wake those who wait for this chunk: all its chunk servers hold it. Not part of the pending work.
    ChunkUsable {
        /// The file.
        file: FileId,
        /// Which of its chunks.
        index: u32,
    },
    /// Tell the holder that a chunk server it uses lost its memory: it flushes nothing more at this epoch and opens
    /// the file again (C10). Not part of the pending work: its connection tells it as well.
    Reopen {
        /// The client.
        client: ClientId,
        /// The file.
        file: FileId,
    },
}

/// A replica that changes its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstallOrder {
    /// The chunk.
    pub chunk: ChunkId,
    /// The lowest version the replica may have.
    pub from: Version,
    /// The present version.
    pub to: Version,
    /// It is a joiner; else a member.
    pub joins: bool,
    /// A replica is away: what changes is to be remembered (C6).
    pub keep: bool,
}

/// A joiner to be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CopyOrder {
    /// The file.
    pub file: FileId,
    /// Which of its chunks.
    pub index: u32,
    /// The chunk.
    pub chunk: ChunkId,
    /// Its version.
    pub version: Version,
}

/// A chunk to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NewChunk {
    /// Which chunk of the file.
    pub index: u32,
    /// Its id.
    pub chunk: ChunkId,
    /// Its first version.
    pub version: Version,
    /// How it is laid out; 0 is a plain replica.
    pub layout: u16,
    /// Which piece this chunk server holds; the replica's number for plain replicas.
    pub slot: u8,
}

/// A replica to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NewReplica {
    /// The file.
    pub file: FileId,
    /// The epoch to record with it (C2).
    pub epoch: Epoch,
    /// Bytes of the chunk.
    pub chunk_size: u64,
    /// The chunk.
    pub chunk: ChunkId,
    /// The version to make it with.
    pub version: Version,
    /// How it is laid out.
    pub layout: u16,
}

impl Effect {
    /// Whether [`State::pending_work`](crate::state::State::pending_work) lists it until it is done.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::CreateChunks { .. }
            | Self::Fence { .. }
            | Self::DeleteChunks { .. }
            | Self::InstallVersions { .. }
            | Self::CatchUp { .. }
            | Self::MakeReplicas { .. }
            | Self::WatchClient { .. }
            | Self::WatchCs { .. }
            | Self::LeaseKept { .. } => true,
            Self::Returns
            | Self::Purge
            | Self::Replicate
            | Self::UnwatchClient { .. }
            | Self::LeaseLost { .. }
            | Self::LeaseFree { .. }
            | Self::ChunkUsable { .. }
            | Self::Reopen { .. } => false,
        }
    }
}
