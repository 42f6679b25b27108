//! Configuration and monitoring of the whole cluster.

use crate::session::{ClientInfo, IoStats};

/// GET_CONFIG request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetConfig {
    /// Keys with this prefix; empty = all.
    #[prost(string, tag = "1")]
    pub prefix: String,
}

/// A setting.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConfigEntry {
    /// Key, such as `mds.wd.max_offline_cs`.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value in effect.
    #[prost(string, tag = "2")]
    pub value: String,
    /// Value when nobody sets one.
    #[prost(string, tag = "3")]
    pub default: String,
    /// What it does.
    #[prost(string, tag = "4")]
    pub description: String,
}

/// GET_CONFIG reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetConfigReply {
    /// Settings, ascending by key.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<ConfigEntry>,
}

/// SET_CONFIG request. The reply is empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SetConfig {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// New value; absent = back to the default.
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

/// LIST_SERVICES request.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ListServices {}

/// State of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ServiceStatus {
    /// Not known yet.
    Unspecified = 0,
    /// Up and in use (an MDS shows as `avail`).
    Active = 1,
    /// Away for a short time.
    Inactive = 2,
    /// Away for long: its data is being replicated elsewhere.
    Offline = 3,
    /// Reports that it failed.
    Failed = 4,
    /// Being emptied before it is removed.
    Releasing = 5,
    /// Removed by an operator.
    Dropped = 6,
    /// An MDS that lags behind the master.
    Stale = 7,
}

/// What is to become of a CS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum RemoveAction {
    /// Nothing: only say how far it is.
    Unspecified = 0,
    /// Its replicas go elsewhere, then it is no part of the cluster any more.
    Release = 1,
    /// It stays after all.
    Cancel = 2,
    /// It is lost for ever: what it held is made anew elsewhere.
    Force = 3,
}

/// REMOVE_CS request.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RemoveCs {
    /// CS id.
    #[prost(uint64, tag = "1")]
    pub cs_id: u64,
    /// What to do.
    #[prost(enumeration = "RemoveAction", tag = "2")]
    pub action: i32,
}

/// REMOVE_CS response.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RemoveCsReply {
    /// Its state: `Releasing` while it is being removed, `Dropped` when that is done.
    #[prost(enumeration = "ServiceStatus", tag = "1")]
    pub status: i32,
    /// Replicas that are on it still.
    #[prost(uint64, tag = "2")]
    pub replicas: u64,
    /// About how many bytes these are.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
}

/// A metadata server.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MdsInfo {
    /// MDS id.
    #[prost(uint64, tag = "1")]
    pub mds_id: u64,
    /// Address and port.
    #[prost(string, tag = "2")]
    pub address: String,
    /// Host name.
    #[prost(string, tag = "3")]
    pub host_name: String,
    /// Path of its repository.
    #[prost(string, tag = "4")]
    pub path: String,
    /// Its state.
    #[prost(enumeration = "ServiceStatus", tag = "5")]
    pub status: i32,
    /// It is the master.
    #[prost(bool, tag = "6")]
    pub master: bool,
    /// Part of the time it spends writing its journal, in thousandths.
    #[prost(uint32, tag = "7")]
    pub commit_time_permille: u32,
    /// Commits to its journal per second.
    #[prost(uint64, tag = "8")]
    pub commits_per_s: u64,
    /// CPU time it uses, in thousandths of a core.
    #[prost(uint32, tag = "9")]
    pub cpu_permille: u32,
    /// Resident memory in bytes.
    #[prost(uint64, tag = "10")]
    pub memory_bytes: u64,
    /// Time since its start in milliseconds.
    #[prost(uint64, tag = "11")]
    pub uptime_ms: u64,
    /// Version of the program.
    #[prost(string, tag = "12")]
    pub software: String,
}

/// A chunk server.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CsInfo {
    /// CS id.
    #[prost(uint64, tag = "1")]
    pub cs_id: u64,
    /// Addresses with port, the preferred first.
    #[prost(string, repeated, tag = "2")]
    pub addresses: Vec<String>,
    /// Host name.
    #[prost(string, tag = "3")]
    pub host_name: String,
    /// Host id.
    #[prost(string, tag = "4")]
    pub host_id: String,
    /// Path of its repository.
    #[prost(string, tag = "5")]
    pub path: String,
    /// Its state.
    #[prost(enumeration = "ServiceStatus", tag = "6")]
    pub status: i32,
    /// Flags, see [`cs::FLAG_JOURNAL`](crate::cs::FLAG_JOURNAL) and the following.
    #[prost(uint32, tag = "7")]
    pub flags: u32,
    /// Storage tier.
    #[prost(uint32, tag = "8")]
    pub tier: u32,
    /// Size of its disk in bytes.
    #[prost(uint64, tag = "9")]
    pub total_bytes: u64,
    /// Free space on its disk in bytes.
    #[prost(uint64, tag = "10")]
    pub free_bytes: u64,
    /// Replicas it holds.
    #[prost(uint64, tag = "11")]
    pub replicas: u64,
    /// Replicas it holds that are the only one of their chunk.
    #[prost(uint64, tag = "12")]
    pub unique: u64,
    /// Its rates per second over the last 20 seconds; latencies, queue and wait are of the same time.
    #[prost(message, required, tag = "13")]
    pub io_rate: IoStats,
    /// Version of the program.
    #[prost(string, tag = "14")]
    pub software: String,
    /// Time since its last renewal in milliseconds.
    #[prost(uint64, tag = "15")]
    pub renewed_ms_ago: u64,
    /// Path of its journal; empty when inside the repository.
    #[prost(string, tag = "16")]
    pub journal_path: String,
    /// Size of its journal in bytes.
    #[prost(uint64, tag = "17")]
    pub journal_bytes: u64,
}

/// LIST_SERVICES reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListServicesReply {
    /// Metadata servers, ascending by id.
    #[prost(message, repeated, tag = "1")]
    pub mds: Vec<MdsInfo>,
    /// Chunk servers, ascending by id.
    #[prost(message, repeated, tag = "2")]
    pub cs: Vec<CsInfo>,
}

/// CLUSTER_STAT request.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ClusterStat {}

/// Overall state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ClusterHealth {
    /// Too little is known yet, such as after the election of a master.
    Unknown = 0,
    /// All CS are active.
    Healthy = 1,
    /// Some CS are inactive or offline.
    Degraded = 2,
    /// Too many CS are offline: automatic replication is off.
    Failure = 3,
}

/// Space, of the cluster or of a tier, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Space {
    /// Size of all disks.
    #[prost(uint64, tag = "1")]
    pub total_bytes: u64,
    /// Free on all disks.
    #[prost(uint64, tag = "2")]
    pub free_bytes: u64,
    /// What can still be stored by the redundancy in effect.
    #[prost(uint64, tag = "3")]
    pub allocatable_bytes: u64,
    /// What could be stored were the disks empty.
    #[prost(uint64, tag = "4")]
    pub allocatable_total_bytes: u64,
    /// Tier; meaningless for the whole cluster.
    #[prost(uint32, tag = "5")]
    pub tier: u32,
}

/// Chunks by state. A chunk may be counted in more than one.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ChunkCounts {
    /// Enough active replicas.
    #[prost(uint64, tag = "1")]
    pub healthy: u64,
    /// A replica has been away for a short time.
    #[prost(uint64, tag = "2")]
    pub standby: u64,
    /// Fewer replicas than normal, not below the minimum.
    #[prost(uint64, tag = "3")]
    pub degraded: u64,
    /// Degraded, with replicas that differ.
    #[prost(uint64, tag = "4")]
    pub urgent: u64,
    /// Fewer replicas than the minimum: writes wait.
    #[prost(uint64, tag = "5")]
    pub blocked: u64,
    /// Blocked, with a write waiting: replicated first.
    #[prost(uint64, tag = "6")]
    pub pending: u64,
    /// No replica is reachable.
    #[prost(uint64, tag = "7")]
    pub offline: u64,
    /// Being replicated.
    #[prost(uint64, tag = "8")]
    pub replicating: u64,
    /// More replicas than normal.
    #[prost(uint64, tag = "9")]
    pub overcommitted: u64,
    /// Being deleted.
    #[prost(uint64, tag = "10")]
    pub deleting: u64,
    /// Allocated, never written.
    #[prost(uint64, tag = "11")]
    pub void: u64,
}

/// CLUSTER_STAT reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ClusterStatReply {
    /// Name of the cluster.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Overall state.
    #[prost(enumeration = "ClusterHealth", tag = "2")]
    pub health: i32,
    /// Space of all tiers.
    #[prost(message, required, tag = "3")]
    pub space: Space,
    /// Space per tier in use, ascending.
    #[prost(message, repeated, tag = "4")]
    pub tiers: Vec<Space>,
    /// Id of the MDS that answers: the master.
    #[prost(uint64, tag = "5")]
    pub master_id: u64,
    /// Time since it became master in milliseconds.
    #[prost(uint64, tag = "6")]
    pub master_uptime_ms: u64,
    /// MDS that are up.
    #[prost(uint32, tag = "7")]
    pub mds_up: u32,
    /// MDS in all.
    #[prost(uint32, tag = "8")]
    pub mds_total: u32,
    /// CS that are active.
    #[prost(uint32, tag = "9")]
    pub cs_active: u32,
    /// CS that are inactive.
    #[prost(uint32, tag = "10")]
    pub cs_inactive: u32,
    /// CS that are offline.
    #[prost(uint32, tag = "11")]
    pub cs_offline: u32,
    /// CS in all.
    #[prost(uint32, tag = "12")]
    pub cs_total: u32,
    /// Normal number of replicas at the root.
    #[prost(uint32, tag = "13")]
    pub replicas: u32,
    /// Minimum number of replicas at the root.
    #[prost(uint32, tag = "14")]
    pub replicas_min: u32,
    /// Chunks by state.
    #[prost(message, required, tag = "15")]
    pub chunks: ChunkCounts,
    /// Bytes users have stored, replicas not counted.
    #[prost(uint64, tag = "16")]
    pub fs_bytes: u64,
    /// Files.
    #[prost(uint64, tag = "17")]
    pub fs_files: u64,
    /// Files and directories.
    #[prost(uint64, tag = "18")]
    pub fs_inodes: u64,
    /// Chunks.
    #[prost(uint64, tag = "19")]
    pub fs_chunks: u64,
    /// Replicas of chunks.
    #[prost(uint64, tag = "20")]
    pub fs_replicas: u64,
    /// I/O of all clients since the master's election.
    #[prost(message, required, tag = "21")]
    pub io: IoStats,
    /// I/O of all clients per second over the last 20 seconds.
    #[prost(message, required, tag = "22")]
    pub io_rate: IoStats,
    /// Metadata servers, ascending by id.
    #[prost(message, repeated, tag = "23")]
    pub mds: Vec<MdsInfo>,
    /// Chunk servers, ascending by id.
    #[prost(message, repeated, tag = "24")]
    pub cs: Vec<CsInfo>,
    /// Clients, ascending by id; no more than one reply holds.
    #[prost(message, repeated, tag = "25")]
    pub clients: Vec<ClientInfo>,
    /// Cluster UUID, 16 bytes.
    #[prost(bytes = "vec", tag = "26")]
    pub cluster_uuid: Vec<u8>,
    /// What chunk servers copy among themselves; nothing if the metadata server does not count it.
    #[prost(message, optional, tag = "27")]
    pub copy_rate: Option<CopyRate>,
}

/// What chunk servers copied among themselves per second over the last 20 seconds.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct CopyRate {
    /// Bytes read from members.
    #[prost(uint64, tag = "1")]
    pub read_bytes: u64,
    /// Bytes written to joiners.
    #[prost(uint64, tag = "2")]
    pub write_bytes: u64,
}

/// How grave an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Severity {
    /// Not said.
    Unspecified = 0,
    /// `INF`: normal.
    Info = 1,
    /// `WRN`: may need attention.
    Warning = 2,
    /// `ERR`: needs attention.
    Error = 3,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Event {
    /// Number in the cluster's log, from 1 without gaps; 0 on its way from a CS to the MDS.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// When, in milliseconds since 1970 (UTC) by the clock of whoever saw it.
    #[prost(uint64, tag = "2")]
    pub time_ms: u64,
    /// Part of the cluster: `MDS`, `CS`, `JRN`, `MON`.
    #[prost(string, tag = "3")]
    pub sys: String,
    /// How grave.
    #[prost(enumeration = "Severity", tag = "4")]
    pub severity: i32,
    /// Stable code, such as `mds.became_master`.
    #[prost(string, tag = "5")]
    pub code: String,
    /// Text for an operator.
    #[prost(string, tag = "6")]
    pub message: String,
}

/// GET_EVENTS request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetEvents {
    /// Events with a higher id only.
    #[prost(uint64, tag = "1")]
    pub after: u64,
    /// Most events wanted; 0 = as many as one reply holds.
    #[prost(uint32, tag = "2")]
    pub limit: u32,
    /// If there is none yet, answer when one comes or when the request's time budget is nearly gone.
    #[prost(bool, tag = "3")]
    pub follow: bool,
    /// Of those after `after` the newest `limit`, not the oldest.
    #[prost(bool, tag = "4")]
    pub newest: bool,
}

/// GET_EVENTS reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetEventsReply {
    /// Events, ascending by id.
    #[prost(message, repeated, tag = "1")]
    pub events: Vec<Event>,
    /// Id of the newest event there is.
    #[prost(uint64, tag = "2")]
    pub last_id: u64,
}
