//! Commands about passwords and nodes.

use prost::Message;

/// Sets the password.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SetPassword {
    /// What is kept of it; see `docs/formats/security.md`.
    #[prost(bytes = "vec", tag = "1")]
    pub verifier: Vec<u8>,
    /// Which password it replaces: the number of those that were set before.
    #[prost(uint64, tag = "2")]
    pub replaces: u64,
    /// Where the request came from, for the event; may be empty.
    #[prost(string, tag = "3")]
    pub origin: String,
}

/// Admits a node.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AdmitNode {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The id of its host.
    #[prost(string, tag = "2")]
    pub host_id: String,
    /// Where it asked from, without port; empty for the founder.
    #[prost(string, tag = "3")]
    pub address: String,
}

/// A node is a member no longer.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RevokeNode {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Where the request came from, for the event; may be empty.
    #[prost(string, tag = "2")]
    pub origin: String,
}

/// Attempts to log in failed; only leaves an event.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LoginsFailed {
    /// How many with a wrong password.
    #[prost(uint64, tag = "1")]
    pub wrong: u64,
    /// How many that were not listened to because there were too many.
    #[prost(uint64, tag = "2")]
    pub ignored: u64,
    /// Where the last one came from, without port.
    #[prost(string, tag = "3")]
    pub address: String,
}

/// The cluster is an hour older.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct NoteHour {
    /// How many hours old it is now; changes nothing unless it is the next one.
    #[prost(uint64, tag = "1")]
    pub hours: u64,
}
