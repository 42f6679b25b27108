//! Commands about the cluster as a whole.

use prost::Message;

/// Founds the cluster: the first entry of the first log.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct InitCluster {
    /// 16 random bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub uuid: Vec<u8>,
    /// The cluster's name, as in `-c NAME`: 1 to 63 of `a-z A-Z 0-9 . _ -`, not beginning with `.` or `-`.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// Raises the cluster generation: the first entry after every restore from a backup (C12).
///
/// Everything the backup believes about leases and registrations may be out of date, so all sessions end, every
/// file is fenced before its next grant and reconciled, and each chunk server's next nonce is taken on trust once.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RaiseGeneration {
    /// A generation that the cluster had after the backup was made, if one is known: the new one is above it.
    #[prost(uint32, tag = "1")]
    pub above: u32,
}

/// A metadata server won an election; the first entry of its term. Only leaves an event.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LeaderElected {
    /// Its id, from 1.
    #[prost(uint32, tag = "1")]
    pub mds_id: u32,
    /// Its `address:port`.
    #[prost(string, tag = "2")]
    pub address: String,
}

/// Sets one parameter; see [`crate::state::config`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SetConfig {
    /// The parameter's name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value as the operator typed it: a decimal number in the parameter's unit.
    #[prost(string, tag = "2")]
    pub value: String,
    /// Where the request came from, for the event; may be empty.
    #[prost(string, tag = "3")]
    pub origin: String,
}
