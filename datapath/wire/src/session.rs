//! Client sessions: one renewal covers all leases of a client (C1).

use std::fmt;

/// Proof of a session. The token is a secret between the client and the MDS: it is left out of `Debug`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct SessionKey {
    /// Client id, given by the MDS; never 0.
    #[prost(uint64, tag = "1")]
    pub client_id: u64,
    /// Secret, given by the MDS. A client stores it to take its own leases over after a restart.
    #[prost(bytes = "vec", tag = "2")]
    pub token: Vec<u8>,
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionKey").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// What a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ClientKind {
    /// Not said.
    Unspecified = 0,
    /// FUSE mount.
    Mount = 1,
    /// ublk block device.
    Ublk = 2,
    /// NBD export.
    Nbd = 3,
    /// iSCSI target.
    Iscsi = 4,
    /// S3 gateway.
    S3 = 5,
    /// Command-line tool.
    Tool = 6,
}

/// I/O of a client or chunk server. Counters run from the start of the session; whoever shows rates
/// takes differences.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct IoStats {
    /// Bytes read.
    #[prost(uint64, tag = "1")]
    pub read_bytes: u64,
    /// Bytes written.
    #[prost(uint64, tag = "2")]
    pub write_bytes: u64,
    /// Read operations.
    #[prost(uint64, tag = "3")]
    pub read_ops: u64,
    /// Write operations.
    #[prost(uint64, tag = "4")]
    pub write_ops: u64,
    /// Flushes.
    #[prost(uint64, tag = "5")]
    pub flushes: u64,
    /// Average time of an operation since the last report, in microseconds.
    #[prost(uint64, tag = "6")]
    pub latency_us_avg: u64,
    /// Longest time of an operation since the last report, in microseconds.
    #[prost(uint64, tag = "7")]
    pub latency_us_max: u64,
    /// Average operations in flight since the last report, in thousandths.
    #[prost(uint64, tag = "8")]
    pub queue_depth_milli: u64,
    /// Part of the time since the last report in which the disk was busy, in thousandths.
    #[prost(uint32, tag = "9")]
    pub io_wait_permille: u32,
}

/// OPEN_SESSION request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct OpenSession {
    /// UUID of the client installation, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub client_uuid: Vec<u8>,
    /// Host name, for messages.
    #[prost(string, tag = "2")]
    pub host_name: String,
    /// The client's previous session, whose leases it takes over at once (C1).
    #[prost(message, optional, tag = "3")]
    pub resume: Option<SessionKey>,
    /// What the client is.
    #[prost(enumeration = "ClientKind", tag = "4")]
    pub kind: i32,
    /// Version of the program, for messages.
    #[prost(string, tag = "5")]
    pub software: String,
}

/// OPEN_SESSION reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct OpenSessionReply {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
    /// Term of all leases, in milliseconds from the sending of the request (C1).
    #[prost(uint32, tag = "2")]
    pub term_ms: u32,
}

/// RENEW_SESSION request: renews all leases of the session.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RenewSession {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
    /// What the client did.
    #[prost(message, required, tag = "2")]
    pub io: IoStats,
    /// The client has the answers of all its requests with a lower id: the MDS may forget them.
    #[prost(uint64, tag = "3")]
    pub answered_below: u64,
}

/// A lease that was taken away.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RevokedFile {
    /// File id.
    #[prost(uint64, tag = "1")]
    pub file_id: u64,
    /// Epoch of the lease that is gone.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}

/// RENEW_SESSION reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RenewSessionReply {
    /// Term of all leases, in milliseconds from the sending of the request.
    #[prost(uint32, tag = "1")]
    pub term_ms: u32,
    /// Leases taken away since the last renewal; told until the client releases them.
    #[prost(message, repeated, tag = "2")]
    pub revoked: Vec<RevokedFile>,
}

/// CLOSE_SESSION request: releases all leases, unclean where the client has not released them itself.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CloseSession {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub session: SessionKey,
}

/// LIST_CLIENTS request.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ListClients {
    /// Clients with a higher id only; 0 = from the start.
    #[prost(uint64, tag = "1")]
    pub after: u64,
}

/// A client with a session.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ClientInfo {
    /// Client id.
    #[prost(uint64, tag = "1")]
    pub client_id: u64,
    /// Host name.
    #[prost(string, tag = "2")]
    pub host_name: String,
    /// Address and port it is connected from.
    #[prost(string, tag = "3")]
    pub address: String,
    /// What it is.
    #[prost(enumeration = "ClientKind", tag = "4")]
    pub kind: i32,
    /// Files it has open for reading.
    #[prost(uint32, tag = "5")]
    pub leases_read: u32,
    /// Files it has open for writing.
    #[prost(uint32, tag = "6")]
    pub leases_write: u32,
    /// Its counters at the last renewal.
    #[prost(message, required, tag = "7")]
    pub io: IoStats,
    /// Its rates per second over the last 20 seconds; the latencies are of the same time.
    #[prost(message, required, tag = "8")]
    pub io_rate: IoStats,
    /// Age of the session in milliseconds.
    #[prost(uint64, tag = "9")]
    pub age_ms: u64,
    /// Version of the program.
    #[prost(string, tag = "10")]
    pub software: String,
}

/// LIST_CLIENTS reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListClientsReply {
    /// Clients, ascending by id.
    #[prost(message, repeated, tag = "1")]
    pub clients: Vec<ClientInfo>,
    /// There are more: ask again after the last one here.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_does_not_show_in_logs() {
        let session = SessionKey { client_id: 7, token: vec![0xab; 16] };
        let shown = format!("{:?}", CloseSession { session });
        assert!(shown.contains("client_id: 7"), "{shown}");
        assert!(!shown.contains("171"), "{shown}");
    }
}
