//! What a command answers when it is carried out.
//!
//! Outcomes are protobuf messages because those of recent requests are kept in the state (and its snapshots), so
//! that a retry gets the same answer (C11, C12).

use prost::Message;

/// The answer to a command that was carried out.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Outcome {
    /// Done; there is nothing more to say.
    #[prost(message, tag = "1")]
    Done(()),
    /// To `RaiseGeneration`: the new cluster generation.
    #[prost(uint32, tag = "2")]
    Generation(u32),
    /// To `MakeDir` and `CreateFile`: the new file's (or directory's) id. To `AdmitNode`: the node's number.
    #[prost(uint64, tag = "3")]
    Created(u64),
    /// To `Remove`.
    #[prost(message, tag = "4")]
    Removed(Removed),
    /// To `Resize`.
    #[prost(message, tag = "5")]
    Resized(Resized),
    /// To `SetAttr`: how many files and directories changed.
    #[prost(uint64, tag = "6")]
    AttrsChanged(u64),
    /// To `RegisterCs`.
    #[prost(message, tag = "7")]
    CsRegistered(CsRegistered),
    /// To `FencesRecorded`.
    #[prost(message, tag = "8")]
    FencesNoted(FencesNoted),
    /// To `OpenSession`.
    #[prost(message, tag = "9")]
    Session(SessionOpened),
    /// To `Open` and `Resume`: the lease is granted.
    #[prost(message, tag = "10")]
    Granted(Granted),
    /// To `Open`: somebody else holds it. Ask again, or give up.
    #[prost(message, tag = "11")]
    Held(Held),
    /// To `Open` and `Resume`: chunk servers are recording the new epoch (C2). Ask again.
    #[prost(message, tag = "12")]
    Fencing(Fencing),
    /// To `AllocateChunks`: one entry for each index, in the order asked.
    #[prost(message, tag = "13")]
    Allocated(Allocated),
    /// To `ReconcileDone`: chunks of the file still to reconcile.
    #[prost(uint64, tag = "14")]
    Unreconciled(u64),
    /// To acknowledgements: how many of them told something new.
    #[prost(uint64, tag = "15")]
    Acknowledged(u64),
    /// To `ReplaceCreating`: the chunk server chosen instead.
    #[prost(uint32, tag = "16")]
    Replaced(u32),
    /// To `MakeNode`.
    #[prost(message, tag = "17")]
    Made(Made),
    /// To `UnlinkNode`.
    #[prost(message, tag = "18")]
    Unlinked(Unlinked),
    /// To `RenameNode`.
    #[prost(message, tag = "19")]
    Renamed(Renamed),
}

/// What has the name after `MakeNode`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Made {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// It was made now.
    #[prost(bool, tag = "2")]
    pub created: bool,
    /// The lease, if one was asked for and a file was made.
    #[prost(message, optional, tag = "3")]
    pub granted: Option<Granted>,
}

/// What became of an inode that lost a name.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Unlinked {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Names it still has.
    #[prost(uint32, tag = "2")]
    pub nlink: u32,
    /// It is there no more. A file without names lives on until its last lease ends (C9).
    #[prost(bool, tag = "3")]
    pub gone: bool,
}

/// What `RenameNode` moved.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Renamed {
    /// The id of what has the new name.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What had it before; absent if nobody, or if nothing was done.
    #[prost(message, optional, tag = "2")]
    pub other: Option<Unlinked>,
}

/// What `Remove` unlinked.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Removed {
    /// Files and directories unlinked.
    #[prost(uint64, tag = "1")]
    pub entries: u64,
    /// Of these, files that live on until their last lease ends (C9).
    #[prost(uint64, tag = "2")]
    pub orphans: u64,
}

/// What `Resize` did.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Resized {
    /// The size now, in bytes.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// Chunks that lay beyond the new end and were dropped.
    #[prost(uint64, tag = "2")]
    pub dropped: u64,
}

/// What a registration means for the chunk server (C10).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CsRegistered {
    /// Its id.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// It presented the right nonce and the same boot id: sessions with clients go on.
    #[prost(bool, tag = "2")]
    pub resumed: bool,
    /// Its boot id changed: counts as a failure of its replicas, clients reopen at a higher epoch.
    #[prost(bool, tag = "3")]
    pub rebooted: bool,
    /// It presented a wrong nonce: it must serve none of its replicas, for ever.
    #[prost(bool, tag = "4")]
    pub stale: bool,
    /// Replicas that this registration made stale.
    #[prost(uint64, tag = "5")]
    pub stale_replicas: u64,
    /// What it must record durably before it serves data (C2).
    #[prost(message, repeated, tag = "6")]
    pub fences: Vec<super::command::FenceRecord>,
    /// The number of its session, which it names in whatever it says later.
    #[prost(uint64, tag = "7")]
    pub session: u64,
}

/// What is left after fences were recorded.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct FencesNoted {
    /// Fences the chunk server still has to record before it serves.
    #[prost(uint64, tag = "1")]
    pub remaining: u64,
    /// It may serve data.
    #[prost(bool, tag = "2")]
    pub serving: bool,
}

/// A session was opened.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SessionOpened {
    /// The client's id.
    #[prost(uint32, tag = "1")]
    pub client: u32,
    /// Its token: to be stored durably before it is used.
    #[prost(message, required, tag = "2")]
    pub token: super::ids::Secret,
    /// The number of the session, for `ExpireSession`.
    #[prost(uint64, tag = "3")]
    pub session: u64,
    /// Leases that an earlier process of this client held until now: they may be resumed.
    #[prost(uint64, tag = "4")]
    pub taken_over: u64,
}

/// A lease (C1).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Granted {
    /// The file's id.
    #[prost(uint64, tag = "1")]
    pub file: u64,
    /// The epoch for all its requests.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// The holder is the file's reconciler: chunks marked so must be reconciled before anything uses them (C5).
    #[prost(bool, tag = "3")]
    pub needs_reconcile: bool,
    /// The file's size in bytes.
    #[prost(uint64, tag = "4")]
    pub size: u64,
    /// Bytes per chunk.
    #[prost(uint64, tag = "5")]
    pub chunk_size: u64,
}

/// Who stands in the way of a lease.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Held {
    /// The file's id.
    #[prost(uint64, tag = "1")]
    pub file: u64,
    /// The clients; more than one only if they are readers.
    #[prost(uint32, repeated, tag = "2")]
    pub by: Vec<u32>,
    /// Nobody holds it, but it is kept for this client (hand-over or restart).
    #[prost(bool, tag = "3")]
    pub reserved: bool,
}

/// A grant that waits for fences.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Fencing {
    /// The file's id.
    #[prost(uint64, tag = "1")]
    pub file: u64,
    /// The epoch being recorded.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Chunk servers that have neither recorded it nor lapsed.
    #[prost(uint32, repeated, tag = "3")]
    pub waiting: Vec<u32>,
}

/// Chunks for `AllocateChunks`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Allocated {
    /// One for each index asked.
    #[prost(message, repeated, tag = "1")]
    pub chunks: Vec<ChunkPlace>,
}

/// A chunk and where its replicas are.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ChunkPlace {
    /// Which chunk of the file.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// Its id.
    #[prost(uint64, tag = "2")]
    pub chunk: u64,
    /// Its version.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// All chosen chunk servers hold it: it may be written.
    #[prost(bool, tag = "4")]
    pub usable: bool,
    /// The chunk servers, in the order of their slots.
    #[prost(uint32, repeated, tag = "5")]
    pub servers: Vec<u32>,
}

/// Wraps [`Outcome`] or a refusal so that it can be stored.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct StoredAnswer {
    /// What was answered.
    #[prost(oneof = "Outcome", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19")]
    pub(crate) outcome: Option<Outcome>,
    /// Or why it was refused.
    #[prost(message, optional, tag = "100")]
    pub(crate) refusal: Option<super::refusal::StoredRefusal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each variant.
    fn all() -> Vec<Outcome> {
        vec![
            Outcome::Done(()),
            Outcome::Generation(1),
            Outcome::Created(1),
            Outcome::Removed(Removed::default()),
            Outcome::Resized(Resized::default()),
            Outcome::AttrsChanged(1),
            Outcome::CsRegistered(CsRegistered::default()),
            Outcome::FencesNoted(FencesNoted::default()),
            Outcome::Session(SessionOpened::default()),
            Outcome::Granted(Granted::default()),
            Outcome::Held(Held::default()),
            Outcome::Fencing(Fencing::default()),
            Outcome::Allocated(Allocated::default()),
            Outcome::Unreconciled(1),
            Outcome::Acknowledged(1),
            Outcome::Replaced(1),
            Outcome::Made(Made::default()),
            Outcome::Unlinked(Unlinked::default()),
            Outcome::Renamed(Renamed::default()),
        ]
    }

    #[test]
    fn every_outcome_can_be_stored() {
        // A tag that is missing in the list of StoredAnswer would be dropped silently.
        for outcome in all() {
            let stored = StoredAnswer { outcome: Some(outcome), refusal: None };
            assert_eq!(StoredAnswer::decode(&*stored.encode_to_vec()), Ok(stored));
        }
    }
}
