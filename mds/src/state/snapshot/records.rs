//! The records of a snapshot, as protobuf messages. See `docs/formats/mds-state.md`.

use crate::state::command::FenceRecord;
use crate::state::ids::Secret;
use crate::state::outcome::StoredAnswer;
use prost::Message;

/// One record.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    #[prost(oneof = "RecordKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 90, 91")]
    pub(super) kind: Option<RecordKind>,
}

/// The kinds, in the order in which they are written.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum RecordKind {
    /// First, exactly once.
    #[prost(message, tag = "1")]
    Cluster(ClusterRecord),
    /// A parameter somebody set.
    #[prost(message, tag = "2")]
    Setting(SettingRecord),
    #[prost(message, tag = "3")]
    Server(ServerRecord),
    #[prost(message, tag = "4")]
    Client(ClientRecord),
    /// By id.
    #[prost(message, tag = "5")]
    Inode(InodeRecord),
    /// Part of a file's map, after the file.
    #[prost(message, tag = "6")]
    Chunks(ChunksRecord),
    #[prost(message, tag = "7")]
    Deletion(DeletionRecord),
    /// By id.
    #[prost(message, tag = "8")]
    Event(EventRecord),
    #[prost(message, tag = "9")]
    Requester(RequesterRecord),
    /// After the inodes: a version that a chunk server has not installed.
    #[prost(message, tag = "10")]
    Due(DueRecord),
    /// After the inodes: a replica that a chunk server is to make.
    #[prost(message, tag = "11")]
    Addition(AdditionRecord),
    /// After the inodes: a replica that was made to join and has never been a member.
    #[prost(message, tag = "12")]
    Fresh(FreshRecord),
    /// Last, exactly once.
    #[prost(message, tag = "15")]
    End(End),
    /// Password and cluster's own time, before the nodes; absent while there is neither, nor any node.
    #[prost(message, tag = "90")]
    Access(AccessRecord),
    /// By number.
    #[prost(message, tag = "91")]
    Node(NodeRecord),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ClusterRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) uuid: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(uint32, tag = "3")]
    pub(super) generation: u32,
    #[prost(uint64, tag = "4")]
    pub(super) created_ms: u64,
    #[prost(uint64, tag = "5")]
    pub(super) next_file: u64,
    #[prost(uint64, tag = "6")]
    pub(super) next_chunk: u64,
    /// Index of the last command applied.
    #[prost(uint64, tag = "7")]
    pub(super) applied: u64,
    #[prost(uint64, tag = "8")]
    pub(super) root: u64,
    #[prost(uint32, tag = "9")]
    pub(super) next_client: u32,
    #[prost(uint32, tag = "10")]
    pub(super) next_cs: u32,
    /// 0 unknown, 1 healthy, 2 degraded, 3 failed.
    #[prost(uint32, tag = "11")]
    pub(super) status: u32,
    #[prost(uint64, tag = "12")]
    pub(super) filled: u64,
    #[prost(uint64, tag = "13")]
    pub(super) last_event: u64,
    /// Chunk ids that the metadata should know of and does not: from this counter on, and up to that; both 0 if there are none.
    #[prost(uint64, tag = "14")]
    pub(super) ahead_from: u64,
    #[prost(uint64, tag = "15")]
    pub(super) ahead_to: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DueRecord {
    #[prost(uint32, tag = "1")]
    pub(super) cs: u32,
    #[prost(uint64, tag = "2")]
    pub(super) file: u64,
    #[prost(uint32, tag = "3")]
    pub(super) index: u32,
    #[prost(uint64, tag = "4")]
    pub(super) from: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AdditionRecord {
    #[prost(uint32, tag = "1")]
    pub(super) cs: u32,
    #[prost(uint64, tag = "2")]
    pub(super) file: u64,
    #[prost(uint32, tag = "3")]
    pub(super) index: u32,
    #[prost(uint64, tag = "4")]
    pub(super) version: u64,
    #[prost(uint64, tag = "5")]
    pub(super) epoch: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct FreshRecord {
    #[prost(uint32, tag = "1")]
    pub(super) cs: u32,
    #[prost(uint64, tag = "2")]
    pub(super) chunk: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SettingRecord {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(uint64, tag = "2")]
    pub(super) value: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServerRecord {
    #[prost(uint32, tag = "1")]
    pub(super) id: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) uuid: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) host: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) boot_id: Vec<u8>,
    #[prost(string, repeated, tag = "5")]
    pub(super) addresses: Vec<String>,
    #[prost(uint32, tag = "6")]
    pub(super) tier: u32,
    #[prost(uint64, tag = "7")]
    pub(super) total_bytes: u64,
    #[prost(uint64, tag = "8")]
    pub(super) free_bytes: u64,
    #[prost(uint32, tag = "9")]
    pub(super) flags: u32,
    #[prost(string, tag = "10")]
    pub(super) build: String,
    #[prost(message, required, tag = "11")]
    pub(super) nonce: Secret,
    #[prost(message, optional, tag = "12")]
    pub(super) prior_nonce: Option<Secret>,
    #[prost(bool, tag = "13")]
    pub(super) trust_next: bool,
    /// Numbers of `Standing`.
    #[prost(uint32, tag = "14")]
    pub(super) standing: u32,
    /// Numbers of `Registration`.
    #[prost(uint32, tag = "15")]
    pub(super) registration: u32,
    /// Numbers of `CsState`.
    #[prost(int32, tag = "16")]
    pub(super) state: i32,
    #[prost(uint64, tag = "17")]
    pub(super) term_ms: u64,
    #[prost(uint64, tag = "18")]
    pub(super) registered_ms: u64,
    #[prost(uint64, tag = "19")]
    pub(super) changed_ms: u64,
    #[prost(message, repeated, tag = "20")]
    pub(super) debts: Vec<FenceRecord>,
    #[prost(uint64, tag = "21")]
    pub(super) session: u64,
    #[prost(string, tag = "22")]
    pub(super) host_name: String,
    #[prost(string, tag = "23")]
    pub(super) path: String,
    #[prost(string, tag = "24")]
    pub(super) journal_path: String,
    #[prost(uint64, tag = "25")]
    pub(super) journal_bytes: u64,
    #[prost(uint64, tag = "26")]
    pub(super) returned: u64,
    #[prost(uint64, tag = "27")]
    pub(super) returned_bytes: u64,
    /// Numbers of `Leave`.
    #[prost(int32, tag = "28")]
    pub(super) leave: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ClientRecord {
    #[prost(uint32, tag = "1")]
    pub(super) id: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) uuid: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) host: String,
    #[prost(string, tag = "4")]
    pub(super) build: String,
    #[prost(message, required, tag = "5")]
    pub(super) token: Secret,
    #[prost(message, optional, tag = "6")]
    pub(super) prior_token: Option<Secret>,
    #[prost(uint64, tag = "7")]
    pub(super) session: u64,
    #[prost(uint64, tag = "8")]
    pub(super) opened_ms: u64,
    #[prost(uint64, optional, tag = "9")]
    pub(super) expired_index: Option<u64>,
    #[prost(uint32, tag = "10")]
    pub(super) kind: u32,
    /// Leases that were revoked, and the client may not know.
    #[prost(message, repeated, tag = "11")]
    pub(super) lost: Vec<FenceRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct InodeRecord {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    /// 0 for the top directory and unlinked files.
    #[prost(uint64, tag = "2")]
    pub(super) parent: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) name: Vec<u8>,
    /// Both in milliseconds, and 0 if `owned` is there.
    #[prost(uint64, tag = "4")]
    pub(super) created_ms: u64,
    #[prost(uint64, tag = "5")]
    pub(super) changed_ms: u64,
    #[prost(uint32, tag = "6")]
    pub(super) mode: u32,
    /// Absent: nobody's, last used when it was made, data and inode changed at once, all at full milliseconds.
    #[prost(message, optional, tag = "7")]
    pub(super) owned: Option<OwnedRecord>,
    /// Its other names.
    #[prost(message, repeated, tag = "8")]
    pub(super) links: Vec<LinkRecord>,
    #[prost(message, repeated, tag = "9")]
    pub(super) xattrs: Vec<XattrRecord>,
    #[prost(oneof = "InodeKind", tags = "10, 11, 12, 13")]
    pub(super) kind: Option<InodeKind>,
}

/// Owner, group, and times in nanoseconds.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct OwnedRecord {
    #[prost(uint32, tag = "1")]
    pub(super) uid: u32,
    #[prost(uint32, tag = "2")]
    pub(super) gid: u32,
    #[prost(sfixed64, tag = "3")]
    pub(super) access_ns: i64,
    #[prost(sfixed64, tag = "4")]
    pub(super) data_ns: i64,
    #[prost(sfixed64, tag = "5")]
    pub(super) inode_ns: i64,
    #[prost(sfixed64, tag = "6")]
    pub(super) birth_ns: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LinkRecord {
    #[prost(uint64, tag = "1")]
    pub(super) parent: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) name: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct XattrRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct SpecialRecord {
    /// Numbers of `SpecialKind`.
    #[prost(uint32, tag = "1")]
    pub(super) kind: u32,
    #[prost(uint32, tag = "2")]
    pub(super) rdev: u32,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum InodeKind {
    /// What was set on the directory.
    #[prost(message, tag = "10")]
    Dir(AttrsRecord),
    #[prost(message, tag = "11")]
    File(FileRecord),
    /// The target of a symbolic link.
    #[prost(bytes = "vec", tag = "12")]
    Symlink(Vec<u8>),
    #[prost(message, tag = "13")]
    Special(SpecialRecord),
}

/// Attributes: those of a directory may be absent, those of a file are all there.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct AttrsRecord {
    #[prost(uint32, optional, tag = "1")]
    pub(super) normal: Option<u32>,
    #[prost(uint32, optional, tag = "2")]
    pub(super) minimum: Option<u32>,
    /// Numbers of `FailureDomain`.
    #[prost(int32, optional, tag = "3")]
    pub(super) domain: Option<i32>,
    #[prost(uint32, optional, tag = "4")]
    pub(super) tier: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) chunk_size: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FileRecord {
    #[prost(uint64, tag = "1")]
    pub(super) size: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) attrs: Option<AttrsRecord>,
    #[prost(uint64, tag = "3")]
    pub(super) epoch: u64,
    #[prost(uint32, optional, tag = "4")]
    pub(super) reserved_for: Option<u32>,
    #[prost(uint32, repeated, tag = "5")]
    pub(super) resumable: Vec<u32>,
    #[prost(oneof = "PhaseRecord", tags = "10, 11, 12, 13, 14, 15")]
    pub(super) phase: Option<PhaseRecord>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum PhaseRecord {
    #[prost(message, tag = "10")]
    Idle(()),
    #[prost(message, tag = "11")]
    Unclean(()),
    #[prost(message, tag = "12")]
    Fencing(CsList),
    #[prost(message, tag = "13")]
    Fenced(()),
    #[prost(uint32, tag = "14")]
    Exclusive(u32),
    #[prost(message, tag = "15")]
    Shared(Readers),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CsList {
    #[prost(uint32, repeated, tag = "1")]
    pub(super) servers: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Readers {
    #[prost(uint32, repeated, tag = "1")]
    pub(super) clients: Vec<u32>,
    #[prost(bool, tag = "2")]
    pub(super) unclean: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ChunksRecord {
    #[prost(uint64, tag = "1")]
    pub(super) file: u64,
    #[prost(message, repeated, tag = "2")]
    pub(super) chunks: Vec<ChunkRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ChunkRecord {
    #[prost(uint32, tag = "1")]
    pub(super) index: u32,
    #[prost(uint64, tag = "2")]
    pub(super) id: u64,
    #[prost(uint64, tag = "3")]
    pub(super) version: u64,
    /// 1 shared (reserved), 2 unreconciled, 4 on distinct hosts, 8 members lack blocks.
    #[prost(uint32, tag = "4")]
    pub(super) flags: u32,
    /// Reserved; 0 for none.
    #[prost(uint64, tag = "5")]
    pub(super) parent: u64,
    /// Reserved; 0 is plain replicas.
    #[prost(uint32, tag = "6")]
    pub(super) layout: u32,
    /// Chunk servers, in the order of `places`.
    #[prost(uint32, repeated, tag = "7")]
    pub(super) servers: Vec<u32>,
    /// One byte for each: state in the low three bits, slot above.
    #[prost(bytes = "vec", tag = "8")]
    pub(super) places: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DeletionRecord {
    #[prost(uint64, tag = "1")]
    pub(super) chunk: u64,
    #[prost(uint64, tag = "2")]
    pub(super) file: u64,
    #[prost(uint64, tag = "3")]
    pub(super) version: u64,
    #[prost(uint64, tag = "4")]
    pub(super) since_ms: u64,
    #[prost(bool, tag = "5")]
    pub(super) purging: bool,
    #[prost(uint32, repeated, tag = "6")]
    pub(super) waiting: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EventRecord {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(uint64, tag = "2")]
    pub(super) time_ms: u64,
    /// Numbers of `EventCode`.
    #[prost(int32, tag = "3")]
    pub(super) code: i32,
    #[prost(string, repeated, tag = "4")]
    pub(super) args: Vec<String>,
    #[prost(uint64, tag = "5")]
    pub(super) repeats: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RequesterRecord {
    #[prost(uint64, tag = "1")]
    pub(super) client: u64,
    #[prost(uint64, tag = "2")]
    pub(super) last_index: u64,
    #[prost(uint64, tag = "3")]
    pub(super) floor: u64,
    #[prost(message, repeated, tag = "4")]
    pub(super) answers: Vec<AnswerRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AnswerRecord {
    #[prost(uint64, tag = "1")]
    pub(super) request: u64,
    #[prost(uint32, tag = "2")]
    pub(super) kind: u32,
    #[prost(message, optional, tag = "3")]
    pub(super) answer: Option<StoredAnswer>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AccessRecord {
    /// The last number given to a node.
    #[prost(uint64, tag = "1")]
    pub(super) last: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) verifier: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub(super) password_version: u64,
    #[prost(uint64, tag = "4")]
    pub(super) hours: u64,
    /// Of the list of revoked nodes.
    #[prost(uint64, tag = "5")]
    pub(super) version: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeRecord {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(string, tag = "3")]
    pub(super) host_id: String,
    #[prost(string, tag = "4")]
    pub(super) address: String,
    #[prost(uint64, tag = "5")]
    pub(super) admitted_ms: u64,
    #[prost(uint64, optional, tag = "6")]
    pub(super) revoked_ms: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct End {
    /// How many records come before this one.
    #[prost(uint64, tag = "1")]
    pub(super) records: u64,
}
