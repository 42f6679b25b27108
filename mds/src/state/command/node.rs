//! Commands about chunk servers.
//!
//! The life of a registration (C2, C10):
//!
//! ```text
//!            RegisterCs                FencesRecorded (all of them)
//!   (none) ─────────────▶ recording ──────────────────────────────▶ serving
//!      ▲                     │                                          │
//!      └───── CsLapsed ──────┴───────────────── CsLapsed ───────────────┘
//! ```
//!
//! A chunk server stores the new nonce durably *before* it registers, and records the fences it is given before it
//! serves. That it has done so is logged as [`FencesRecorded`], even if there were none: until then it may repeat
//! the registration, and no new chunk is placed on it. After half its term without a renewal it refuses data by
//! itself; [`CsLapsed`] follows after the whole term.
//!
//! Each registration is a *session* with a number of its own. Whatever a chunk server says later names its session,
//! so a message of an earlier life changes nothing.

use crate::state::ids::Secret;
use prost::Message;

/// How long a chunk server has been quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum CsState {
    /// Registered and heard from.
    Active = 1,
    /// Not heard from for its term.
    Inactive = 2,
    /// Not heard from for `mds.wd.offline_tout`.
    Offline = 3,
    /// The operator removed it.
    Dropped = 4,
}

/// What is to become of a chunk server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Leave {
    /// It stays.
    Stay = 0,
    /// Its replicas go elsewhere, then it is dropped.
    Leave = 1,
    /// It is lost for ever: what it held is made anew elsewhere, at once.
    Lost = 2,
}

/// A chunk server is to leave the cluster, or to stay after all.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReleaseCs {
    /// The chunk server.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// Numbers of [`Leave`].
    #[prost(enumeration = "Leave", tag = "2")]
    pub how: i32,
    /// Who asks, for the operator.
    #[prost(string, tag = "3")]
    pub origin: String,
}

/// A chunk server that is to leave holds nothing any more: it is no part of the cluster from now on.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DropCs {
    /// The chunk server.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
}

/// A chunk server starts, or returns after its registration lapsed (C10).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RegisterCs {
    /// The UUID of its directory, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub cs_uuid: Vec<u8>,
    /// The id it was given when it first registered; 0 if it never did.
    #[prost(uint32, tag = "2")]
    pub claimed_id: u32,
    /// The nonce of its last registration that was answered; none if there is none.
    #[prost(message, required, tag = "3")]
    pub last_nonce: Secret,
    /// The nonce of this registration, already durable on the chunk server: drawn at each start, the same as
    /// `last_nonce` when it registers again without a start in between.
    #[prost(message, required, tag = "4")]
    pub new_nonce: Secret,
    /// The host's id (`/etc/vstorage/host_id`).
    #[prost(string, tag = "5")]
    pub host: String,
    /// Changes whenever what the chunk server held in memory may be lost, 16 bytes.
    #[prost(bytes = "vec", tag = "6")]
    pub boot_id: Vec<u8>,
    /// `address:port` pairs at which it serves.
    #[prost(string, repeated, tag = "7")]
    pub addresses: Vec<String>,
    /// Its storage tier, 0 to 3.
    #[prost(uint32, tag = "8")]
    pub tier: u32,
    /// Bytes of its file system in all.
    #[prost(uint64, tag = "9")]
    pub total_bytes: u64,
    /// Bytes of its file system that are free.
    #[prost(uint64, tag = "10")]
    pub free_bytes: u64,
    /// What the operator sees as flags (`J`, `C`, `D`, `c` …), as the bits of the wire protocol.
    #[prost(uint32, tag = "11")]
    pub flags: u32,
    /// The term the leader grants, in milliseconds; recorded for the operator.
    #[prost(uint64, tag = "12")]
    pub term_ms: u64,
    /// The version of its software, for the operator.
    #[prost(string, tag = "13")]
    pub build: String,
    /// The host's name, for the operator.
    #[prost(string, tag = "14")]
    pub host_name: String,
    /// Its directory, for the operator.
    #[prost(string, tag = "15")]
    pub path: String,
    /// The directory of its journal, for the operator; empty if that is inside its own.
    #[prost(string, tag = "16")]
    pub journal_path: String,
    /// Bytes of its journal.
    #[prost(uint64, tag = "17")]
    pub journal_bytes: u64,
}

/// One durable fence record of a chunk server (C2).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct FenceRecord {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub file: u64,
    /// The epoch below which the chunk server refuses requests for the file.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}

/// A chunk server has drained older requests and durably recorded these fences (C2).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FencesRecorded {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// The session under which it recorded them.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// What it recorded; empty to confirm a registration that brought none.
    #[prost(message, repeated, tag = "3")]
    pub fences: Vec<FenceRecord>,
}

/// The registration was not renewed for its whole term: the chunk server counts as drained (C2).
///
/// The leader stops renewing it before it proposes this, and a new leader first waits a whole term.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CsLapsed {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// The session that lapsed; a later one is not touched.
    #[prost(uint64, tag = "2")]
    pub session: u64,
}

/// The leader's timers moved a chunk server between active, inactive and offline.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CsStateChanged {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// The session this is about.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// The new state.
    #[prost(enumeration = "CsState", tag = "3")]
    pub state: i32,
}

/// A chunk server's space and flags changed enough to be worth an entry.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CsReport {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// Its session.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// Bytes of its file system in all.
    #[prost(uint64, tag = "3")]
    pub total_bytes: u64,
    /// Bytes of its file system that are free.
    #[prost(uint64, tag = "4")]
    pub free_bytes: u64,
    /// Its flags.
    #[prost(uint32, tag = "5")]
    pub flags: u32,
    /// What it has to say to the operator since the last report; at most [`crate::state::REPORTED_MAX`].
    #[prost(message, repeated, tag = "6")]
    pub events: Vec<ReportedEvent>,
    /// It has nothing to say but these: what is known of its space and flags stays. Came later than the rest.
    #[prost(bool, tag = "7")]
    pub events_only: bool,
}

/// An event that a chunk server saw.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReportedEvent {
    /// How bad it is.
    #[prost(enumeration = "ReportedSeverity", tag = "1")]
    pub severity: i32,
    /// Its stable code, such as `cs.hard_error`.
    #[prost(string, tag = "2")]
    pub code: String,
    /// The text.
    #[prost(string, tag = "3")]
    pub message: String,
}

/// How bad a reported event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ReportedSeverity {
    /// Good to know.
    Info = 1,
    /// Somebody should look.
    Warning = 2,
    /// Somebody must act.
    Error = 3,
}
