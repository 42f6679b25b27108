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
//! A chunk server stores the new nonce durably *before* it registers, records the fences it is given, confirms
//! them with [`FencesRecorded`] (even if there are none) and serves no data before that is answered. After half
//! its term without a renewal it refuses data by itself; [`CsLapsed`] follows after the whole term.

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
    /// The nonce of its last registration that was answered; 0 if there is none.
    #[prost(uint64, tag = "3")]
    pub last_nonce: u64,
    /// The random nonce of this registration, already durable on the chunk server. Not 0.
    #[prost(uint64, tag = "4")]
    pub new_nonce: u64,
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
    /// What the operator sees as flags (`J`, `C`, `D`, `c`), as its letters.
    #[prost(string, tag = "11")]
    pub flags: String,
    /// The term the leader grants, in milliseconds; recorded for the operator.
    #[prost(uint64, tag = "12")]
    pub term_ms: u64,
    /// The version of its software, for the operator.
    #[prost(string, tag = "13")]
    pub build: String,
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
    /// The nonce of the registration under which it recorded them.
    #[prost(uint64, tag = "2")]
    pub nonce: u64,
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
    /// The nonce of the registration that lapsed; a later registration is not touched.
    #[prost(uint64, tag = "2")]
    pub nonce: u64,
}

/// The leader's timers moved a chunk server between active, inactive and offline.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CsStateChanged {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// The nonce of the registration this is about.
    #[prost(uint64, tag = "2")]
    pub nonce: u64,
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
    /// The nonce of its registration.
    #[prost(uint64, tag = "2")]
    pub nonce: u64,
    /// Bytes of its file system in all.
    #[prost(uint64, tag = "3")]
    pub total_bytes: u64,
    /// Bytes of its file system that are free.
    #[prost(uint64, tag = "4")]
    pub free_bytes: u64,
    /// Flags as letters.
    #[prost(string, tag = "5")]
    pub flags: String,
    /// A hard error it found since the last report: what it was about. Empty if there is none.
    #[prost(string, tag = "6")]
    pub hard_error: String,
}
