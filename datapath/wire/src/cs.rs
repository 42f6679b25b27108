//! Between chunk servers and the MDS: registration, heartbeats, inventory, and the MDS's orders.

use crate::cluster::Event;
use crate::lease::CsAddress;
use crate::session::IoStats;

/// Flag `J`: the CS uses a write journal of its own.
pub const FLAG_JOURNAL: u32 = 1 << 0;
/// Flag `C`: checksums are on.
pub const FLAG_CHECKSUMS: u32 = 1 << 1;
/// Flag `D`: direct I/O.
pub const FLAG_DIRECT: u32 = 1 << 2;
/// Flag `c`: the journal is clean, nothing waits to be moved to the disk.
pub const FLAG_CLEAN: u32 = 1 << 3;
/// Flag `H`, failed: an I/O error of the disk.
pub const FLAG_FAILED_IO: u32 = 1 << 8;
/// Flag `h`, failed: stored data does not match its checksum.
pub const FLAG_FAILED_CHECKSUM: u32 = 1 << 9;
/// Flag `S`, failed: the journal is not accessible or not the CS's own.
pub const FLAG_FAILED_JOURNAL: u32 = 1 << 10;
/// Flag `R`, failed: the repository is not there.
pub const FLAG_FAILED_REPOSITORY: u32 = 1 << 11;
/// Flag `T`: the disk does not answer in time. The only one of these with which a CS goes on serving.
pub const FLAG_FAILED_TIMEOUT: u32 = 1 << 12;
/// All flags of a failed CS.
pub const FLAGS_FAILED: u32 = FLAGS_OUT_OF_SERVICE | FLAG_FAILED_CHECKSUM | FLAG_FAILED_TIMEOUT;
/// Those with which a CS cannot serve. With the others it goes on: what is good on it may be the only copy.
pub const FLAGS_OUT_OF_SERVICE: u32 = FLAG_FAILED_IO | FLAG_FAILED_JOURNAL | FLAG_FAILED_REPOSITORY;

/// Letters of CS flags in the order in which they are shown.
const LETTERS: [(u32, char); 9] = [
    (FLAG_FAILED_IO, 'H'),
    (FLAG_FAILED_CHECKSUM, 'h'),
    (FLAG_FAILED_JOURNAL, 'S'),
    (FLAG_FAILED_REPOSITORY, 'R'),
    (FLAG_FAILED_TIMEOUT, 'T'),
    (FLAG_JOURNAL, 'J'),
    (FLAG_CHECKSUMS, 'C'),
    (FLAG_DIRECT, 'D'),
    (FLAG_CLEAN, 'c'),
];

/// The letters of CS flags as operators see them, such as `JCc`. Unknown flags have none.
pub fn flag_letters(flags: u32) -> String {
    LETTERS.iter().filter(|(flag, _)| flags & flag != 0).map(|&(_, letter)| letter).collect()
}

/// A file and the lowest epoch a CS may still serve (C2).
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct FenceItem {
    /// File id.
    #[prost(uint64, tag = "1")]
    pub file_id: u64,
    /// Epoch below which requests are refused.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}

/// The write journal of a CS.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct JournalInfo {
    /// Directory; empty when it is inside the repository.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Size in bytes.
    #[prost(uint64, tag = "2")]
    pub size_bytes: u64,
    /// Bytes that wait to be moved to the disk.
    #[prost(uint64, tag = "3")]
    pub dirty_bytes: u64,
    /// UUID shared with the superblock, 16 bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub uuid: Vec<u8>,
    /// Generation shared with the superblock.
    #[prost(uint64, tag = "5")]
    pub generation: u64,
}

/// REGISTER_CS request (C10).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RegisterCs {
    /// CS id; 0 = new, the MDS gives one.
    #[prost(uint64, tag = "1")]
    pub cs_id: u64,
    /// UUID of the repository, 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub cs_uuid: Vec<u8>,
    /// Nonce of its last registration, 16 bytes; empty when new.
    #[prost(bytes = "vec", tag = "3")]
    pub nonce: Vec<u8>,
    /// Nonce it has durably stored for this registration, 16 bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub new_nonce: Vec<u8>,
    /// Host id, as in `/etc/vstorage/host_id`.
    #[prost(string, tag = "5")]
    pub host_id: String,
    /// Host name, for messages.
    #[prost(string, tag = "6")]
    pub host_name: String,
    /// Boot id of the host, 16 bytes.
    #[prost(bytes = "vec", tag = "7")]
    pub boot_id: Vec<u8>,
    /// Addresses with port where it listens, the preferred first.
    #[prost(string, repeated, tag = "8")]
    pub addresses: Vec<String>,
    /// Storage tier, 0 to 3.
    #[prost(uint32, tag = "9")]
    pub tier: u32,
    /// Size of its disk in bytes.
    #[prost(uint64, tag = "10")]
    pub total_bytes: u64,
    /// Free space on its disk in bytes.
    #[prost(uint64, tag = "11")]
    pub free_bytes: u64,
    /// Flags, see [`FLAG_JOURNAL`] and the following.
    #[prost(uint32, tag = "12")]
    pub flags: u32,
    /// Its journal.
    #[prost(message, optional, tag = "13")]
    pub journal: Option<JournalInfo>,
    /// Version of the program.
    #[prost(string, tag = "14")]
    pub software: String,
    /// Path of the repository.
    #[prost(string, tag = "15")]
    pub path: String,
    /// Replicas it holds.
    #[prost(uint64, tag = "16")]
    pub chunk_count: u64,
    /// Counts its registrations; as in HELLO.
    #[prost(uint64, tag = "17")]
    pub nonce_generation: u64,
}

/// REGISTER_CS reply. The CS serves data only after it has durably recorded all `fences`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RegisterCsReply {
    /// CS id.
    #[prost(uint64, tag = "1")]
    pub cs_id: u64,
    /// Term of the registration in milliseconds from the sending of the request (C2).
    #[prost(uint32, tag = "2")]
    pub term_ms: u32,
    /// Epochs raised while it was away.
    #[prost(message, repeated, tag = "3")]
    pub fences: Vec<FenceItem>,
    /// The nonce was wrong: all its replicas are stale (C10).
    #[prost(bool, tag = "4")]
    pub stale: bool,
    /// Session of this registration, for HELLO and heartbeats.
    #[prost(uint64, tag = "5")]
    pub session: u64,
    /// The MDS wants the whole inventory by REPORT_CHUNKS.
    #[prost(bool, tag = "6")]
    pub report_all: bool,
    /// There are more fences than one reply holds: they follow by FENCE requests, and the CS serves no
    /// data before it has recorded those of the one marked `last`.
    #[prost(bool, tag = "7")]
    pub more_fences: bool,
}

/// State of a replica by its own CS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ReplicaState {
    /// Not said.
    Unspecified = 0,
    /// Whole.
    Good = 1,
    /// Some of its blocks do not match their checksums.
    Corrupt = 2,
    /// It should be there and is not.
    Missing = 3,
    /// Some of its blocks must be reconciled before they are served (C5).
    Unsettled = 4,
    /// It was there and is deleted.
    Deleted = 5,
}

/// A replica on a CS.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReplicaReport {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk_id: u64,
    /// Version it holds.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// Its state.
    #[prost(enumeration = "ReplicaState", tag = "3")]
    pub state: i32,
    /// Space it takes in bytes.
    #[prost(uint64, tag = "4")]
    pub used_bytes: u64,
}

/// HEARTBEAT request: renews the registration; carries what changed since the last one.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Heartbeat {
    /// CS id.
    #[prost(uint64, tag = "1")]
    pub cs_id: u64,
    /// Session of its registration.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// Free space on its disk in bytes.
    #[prost(uint64, tag = "3")]
    pub free_bytes: u64,
    /// Replicas it holds.
    #[prost(uint64, tag = "4")]
    pub chunk_count: u64,
    /// What it did.
    #[prost(message, required, tag = "5")]
    pub io: IoStats,
    /// Events for the cluster's log, as many as fit; their ids are 0.
    #[prost(message, repeated, tag = "6")]
    pub events: Vec<Event>,
    /// Replicas whose state changed, as many as fit: the rest goes with the next heartbeat.
    #[prost(message, repeated, tag = "7")]
    pub differences: Vec<ReplicaReport>,
    /// Size of its disk in bytes.
    #[prost(uint64, tag = "8")]
    pub total_bytes: u64,
    /// Flags, see [`FLAG_JOURNAL`] and the following.
    #[prost(uint32, tag = "9")]
    pub flags: u32,
    /// Bytes in its journal that wait to be moved to the disk.
    #[prost(uint64, tag = "10")]
    pub journal_dirty_bytes: u64,
    /// What its verifier did.
    #[prost(message, optional, tag = "11")]
    pub scrub: Option<ScrubStats>,
    /// Bytes of its chunks that joiners elsewhere have fetched since it started. Not part of `io`.
    #[prost(uint64, tag = "13")]
    pub copied_out_bytes: u64,
    /// Bytes that joiners here have fetched from members since it started. Not part of `io`.
    #[prost(uint64, tag = "14")]
    pub copied_in_bytes: u64,
    /// Chunks that its verifier has been through since the last one, as many as fit: it can be asked to compare them
    /// (COMPARE_CHUNKS).
    #[prost(message, repeated, tag = "15")]
    pub verified: Vec<VerifiedChunk>,
    /// Chunks of which it has something in doubt that no writer is about to settle, some of them: [`HeartbeatReply::settled`] ends
    /// that (C5).
    #[prost(message, repeated, tag = "16")]
    pub in_doubt: Vec<ChunkInDoubt>,
}

/// A chunk that may have writes that its CS does not know to be stable on all members (C5).
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ChunkInDoubt {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk_id: u64,
    /// File id.
    #[prost(uint64, tag = "2")]
    pub file_id: u64,
}

/// A chunk that is reconciled and of which the CS is a member in sync that has installed its version.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SettledChunk {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk_id: u64,
    /// Its version.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// Writes of lower epochs are stable on all members: these epochs ended in order, or were reconciled.
    #[prost(uint64, tag = "3")]
    pub below_epoch: u64,
    /// The highest epoch of the file that was granted or prepared.
    #[prost(uint64, tag = "4")]
    pub newest_epoch: u64,
}

/// A chunk that was verified.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct VerifiedChunk {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk_id: u64,
    /// File id.
    #[prost(uint64, tag = "2")]
    pub file_id: u64,
}

/// What the verifier of a CS has done since the CS started (C8).
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ScrubStats {
    /// Chunks verified.
    #[prost(uint64, tag = "1")]
    pub chunks: u64,
    /// Damaged blocks found, by the verifier and by reads.
    #[prost(uint64, tag = "2")]
    pub bad_blocks: u64,
    /// Of these, repaired from other members.
    #[prost(uint64, tag = "3")]
    pub repaired_blocks: u64,
    /// Blocks that are damaged now.
    #[prost(uint64, tag = "4")]
    pub damaged_blocks: u64,
    /// Chunks compared with other members.
    #[prost(uint64, tag = "5")]
    pub compared_chunks: u64,
    /// Blocks in which members were found to differ, each time they were compared.
    #[prost(uint64, tag = "6")]
    pub differing_blocks: u64,
}

/// HEARTBEAT reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HeartbeatReply {
    /// Term of the registration in milliseconds from the sending of the request.
    #[prost(uint32, tag = "1")]
    pub term_ms: u32,
    /// Chunks per minute that the CS is to verify (`mds.wd.verify_chunks`), 0 = none; absent = as it has it.
    #[prost(uint32, optional, tag = "2")]
    pub verify_chunks: Option<u32>,
    /// Milliseconds from which on a request to its disk counts as slow (`mds.wd.io_tout`); absent = as it has it.
    #[prost(uint32, optional, tag = "3")]
    pub io_tout_ms: Option<u32>,
    /// The MDS wants the whole inventory by REPORT_CHUNKS, from the first id on.
    #[prost(bool, tag = "4")]
    pub report_all: bool,
    /// Most bytes per second that the CS copies to joiners that their chunks need (`mds.wd.copy_limit`), 0 = as many as it can;
    /// absent = as it has it.
    #[prost(uint64, optional, tag = "5")]
    pub copy_bytes_per_second: Option<u64>,
    /// The same of joiners that only lie better on it (`mds.wd.move_limit`).
    #[prost(uint64, optional, tag = "6")]
    pub move_bytes_per_second: Option<u64>,
    /// Of the chunks in doubt those that are not, as far as the MDS knows.
    #[prost(message, repeated, tag = "7")]
    pub settled: Vec<SettledChunk>,
}

/// REPORT_CHUNKS request: a page of the inventory. The reply is empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReportChunks {
    /// CS id.
    #[prost(uint64, tag = "1")]
    pub cs_id: u64,
    /// Session of its registration.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// Lowest chunk id this page speaks for: ids between here and the last one listed that are not
    /// listed are not held.
    #[prost(uint64, tag = "3")]
    pub first_id: u64,
    /// Replicas, ascending by chunk id.
    #[prost(message, repeated, tag = "4")]
    pub replicas: Vec<ReplicaReport>,
    /// The last page: no higher id is held.
    #[prost(bool, tag = "5")]
    pub last: bool,
}

/// A replica to be created.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct CreateItem {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk_id: u64,
    /// First version.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// File it belongs to.
    #[prost(uint64, tag = "3")]
    pub file_id: u64,
    /// Size in bytes.
    #[prost(uint64, tag = "4")]
    pub size_bytes: u64,
    /// Layout id; 0 = replicated.
    #[prost(uint32, tag = "5")]
    pub layout: u32,
    /// Piece of the stripe; 0 for replicated chunks.
    #[prost(uint32, tag = "6")]
    pub slot: u32,
    /// Epoch of the file below which requests are refused.
    #[prost(uint64, tag = "7")]
    pub epoch: u64,
    /// It is a joiner that lacks everything (C7), and not the first of its kind.
    #[prost(bool, tag = "8")]
    pub joining: bool,
}

/// CREATE_CHUNKS request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CreateChunks {
    /// Replicas; creating one that is there at this version is no error.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<CreateItem>,
}

/// A replica to be deleted.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct DeleteItem {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk_id: u64,
    /// Highest version to delete: a higher one is spared (C9).
    #[prost(uint64, tag = "2")]
    pub version: u64,
}

/// DELETE_CHUNKS request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeleteChunks {
    /// Replicas; deleting one that is not there is no error.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<DeleteItem>,
}

/// FENCE request: answered when older requests have drained and the epochs are recorded (C2).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Fence {
    /// Files and epochs.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<FenceItem>,
    /// Ends the fences that `more_fences` of REGISTER_CS announced.
    #[prost(bool, tag = "2")]
    pub last: bool,
}

/// What a replica is under a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Role {
    /// Not said; refused.
    Unspecified = 0,
    /// In sync: it has everything.
    Member = 1,
    /// It is being filled (C7).
    Joiner = 2,
}

/// A replica that changes its version.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct InstallItem {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk_id: u64,
    /// Lowest version it may have now.
    #[prost(uint64, tag = "2")]
    pub from_version: u64,
    /// Version it has afterwards.
    #[prost(uint64, tag = "3")]
    pub to_version: u64,
    /// What it is afterwards.
    #[prost(enumeration = "Role", tag = "4")]
    pub role: i32,
    /// A replica is away: keep a map of what changes (C6).
    #[prost(bool, tag = "5")]
    pub keep: bool,
}

/// INSTALL_VERSIONS request: answered when nothing of an earlier version is under way and the later one is durable.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct InstallVersions {
    /// Replicas; installing a version that is there is no error.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<InstallItem>,
}

/// A joiner to be filled.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CatchUpItem {
    /// File id.
    #[prost(uint64, tag = "1")]
    pub file_id: u64,
    /// Chunk id.
    #[prost(uint64, tag = "2")]
    pub chunk_id: u64,
    /// Version under which it joins.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// Members that have installed it, the best first.
    #[prost(uint64, repeated, tag = "4")]
    pub sources: Vec<u64>,
    /// Whether no other member is waited for: a block that none of the sources can tell is taken as it lies on one of them if a
    /// crash may have left it so, and is lost otherwise.
    #[prost(bool, tag = "5")]
    pub last_sources: bool,
    /// Whether nobody has reconciled the chunk: the sources may differ, and none of them has all that another one lists.
    #[prost(bool, tag = "6")]
    pub unreconciled: bool,
    /// Its chunk has as many members as it wants: it only lies better here, and comes after those that are needed.
    #[prost(bool, tag = "7")]
    pub spare: bool,
}

/// CATCH_UP request: answered when it is begun, or was before. The outcome comes by CAUGHT_UP.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CatchUp {
    /// Joiners.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<CatchUpItem>,
    /// Where the sources are.
    #[prost(message, repeated, tag = "2")]
    pub servers: Vec<CsAddress>,
}

/// What became of a joiner.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct CaughtUpItem {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk_id: u64,
    /// Version under which it joined.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// Code of the [`Status`](crate::Status): that of `Ok` when it has everything.
    #[prost(uint32, tag = "3")]
    pub status: u32,
    /// Bytes it has copied since it joined.
    #[prost(uint64, tag = "4")]
    pub copied_bytes: u64,
    /// Blocks that it has everything but for: no source had them whole, and they are noted as lost.
    #[prost(uint32, tag = "5")]
    pub lost_blocks: u32,
}

/// CAUGHT_UP request. The reply is empty, and comes when the outcome is in the metadata.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CaughtUp {
    /// CS id.
    #[prost(uint64, tag = "1")]
    pub cs_id: u64,
    /// Session of its registration.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// Joiners.
    #[prost(message, repeated, tag = "3")]
    pub items: Vec<CaughtUpItem>,
}

/// What is wrong with blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum DamageKind {
    /// Not said, or newer than this code.
    Unspecified = 0,
    /// They do not match their checksums.
    Mismatch = 1,
    /// The device cannot read them.
    Unreadable = 2,
}

/// Neighbouring blocks.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct BlockRange {
    /// First block of the chunk.
    #[prost(uint32, tag = "1")]
    pub first: u32,
    /// Blocks.
    #[prost(uint32, tag = "2")]
    pub count: u32,
}

/// Damaged blocks of a replica.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DamageItem {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk_id: u64,
    /// Version it holds.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// What is wrong with them; if several things are, the worst.
    #[prost(enumeration = "DamageKind", tag = "3")]
    pub kind: i32,
    /// The blocks, ascending; as many as fit, the rest is told when these are repaired.
    #[prost(message, repeated, tag = "4")]
    pub ranges: Vec<BlockRange>,
    /// File id.
    #[prost(uint64, tag = "5")]
    pub file_id: u64,
}

/// REPORT_DAMAGE request: the CS serves none of these blocks and has nothing to repair them from (C8). The reply is empty.
///
/// What the MDS does with it: an event for each chunk, once per occurrence. If the chunk has other members at this version, it
/// orders REPAIR_BLOCKS with them as sources, until that is answered with `Ok` or the replica is gone; a chunk in need of
/// reconciliation waits for that (C5). If there is none, the blocks stay damaged until a client writes or discards
/// them. The CS tells what is still damaged anew with each registration, and some minutes after it was told.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReportDamage {
    /// CS id.
    #[prost(uint64, tag = "1")]
    pub cs_id: u64,
    /// Session of its registration.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// Replicas with damaged blocks.
    #[prost(message, repeated, tag = "3")]
    pub items: Vec<DamageItem>,
}

/// Blocks to be repaired.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RepairItem {
    /// File id.
    #[prost(uint64, tag = "1")]
    pub file_id: u64,
    /// Chunk id.
    #[prost(uint64, tag = "2")]
    pub chunk_id: u64,
    /// Version of this replica and of the sources: another one is refused.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// The blocks; those that turn out to be good are left alone.
    #[prost(message, repeated, tag = "4")]
    pub ranges: Vec<BlockRange>,
    /// Members in sync, the best first.
    #[prost(uint64, repeated, tag = "5")]
    pub sources: Vec<u64>,
}

/// REPAIR_BLOCKS request: answered when it is done. The status of an item is `Ok` when none of its blocks is damaged any more,
/// `Corrupt` when no source gave what it takes, `StaleVersion` when the replica has another version.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RepairBlocks {
    /// Replicas; repairing what is good is no error.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<RepairItem>,
    /// Where the sources are.
    #[prost(message, repeated, tag = "2")]
    pub servers: Vec<CsAddress>,
}

/// A replica to be compared with those of other members.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CompareItem {
    /// File id.
    #[prost(uint64, tag = "1")]
    pub file_id: u64,
    /// Chunk id.
    #[prost(uint64, tag = "2")]
    pub chunk_id: u64,
    /// Version of all of them.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// The other members.
    #[prost(uint64, repeated, tag = "4")]
    pub members: Vec<u64>,
}

/// COMPARE_CHUNKS request: answered when it is done, which takes some seconds where there is a difference. Nothing is changed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CompareChunks {
    /// Replicas.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<CompareItem>,
    /// Where the other members are.
    #[prost(message, repeated, tag = "2")]
    pub servers: Vec<CsAddress>,
}

/// Members that have the same.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AgreeingMembers {
    /// Their ids, ascending.
    #[prost(uint64, repeated, tag = "1")]
    pub cs_ids: Vec<u64>,
}

/// Neighbouring blocks of which members have different contents, each with a checksum that matches.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ReplicaDifference {
    /// The blocks.
    #[prost(message, required, tag = "1")]
    pub range: BlockRange,
    /// Who agrees with whom, the most first; who cannot be compared is not named.
    #[prost(message, repeated, tag = "2")]
    pub groups: Vec<AgreeingMembers>,
}

/// What comparing one replica has shown.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CompareResult {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk_id: u64,
    /// Code of the [`Status`](crate::Status): `Ok` when all of it was compared that can be. Otherwise nothing is known.
    #[prost(uint32, tag = "2")]
    pub status: u32,
    /// Differences, ascending, as many as fit.
    #[prost(message, repeated, tag = "3")]
    pub differences: Vec<ReplicaDifference>,
    /// Blocks of all differences.
    #[prost(uint32, tag = "4")]
    pub differing_blocks: u32,
    /// Blocks that could not be compared now with some member.
    #[prost(uint32, tag = "5")]
    pub left_out_blocks: u32,
}

/// COMPARE_CHUNKS reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CompareChunksReply {
    /// One result per item, in the order of the request.
    #[prost(message, repeated, tag = "1")]
    pub results: Vec<CompareResult>,
}

/// Outcome of one item of an order.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ItemResult {
    /// Chunk id, or file id for FENCE.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Code of the [`Status`](crate::Status).
    #[prost(uint32, tag = "2")]
    pub status: u32,
}

/// Reply of CREATE_CHUNKS, DELETE_CHUNKS, FENCE, INSTALL_VERSIONS, CATCH_UP and REPAIR_BLOCKS.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResultsReply {
    /// One result per item, in the order of the request.
    #[prost(message, repeated, tag = "1")]
    pub results: Vec<ItemResult>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_show_as_letters() {
        assert_eq!(flag_letters(FLAG_JOURNAL | FLAG_CHECKSUMS | FLAG_CLEAN), "JCc");
        assert_eq!(flag_letters(FLAGS_FAILED), "HhSRT");
        assert_eq!(flag_letters(u32::MAX), "HhSRTJCDc");
        assert_eq!(flag_letters(0), "");
    }
}
