//! HELLO, PING and GOODBYE: the connection itself.
//!
//! HELLO is the first exchange on each connection. It is always framed in header version 1, so that
//! any two versions understand each other far enough to say that they do not.

use crate::limits::{PROTOCOL_MAX, PROTOCOL_MIN};
use crate::status::Status;

/// What a program is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Role {
    /// Not said; refused.
    Unspecified = 0,
    /// Metadata server.
    Mds = 1,
    /// Chunk server.
    Cs = 2,
    /// Client that reads and writes files.
    Client = 3,
    /// Administrator's tool.
    Tool = 4,
}

/// Who one side of a connection is. Sent as request by the side that connected, as reply by the other.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Hello {
    /// Oldest protocol version the sender speaks.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// Newest protocol version the sender speaks.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// Cluster UUID, 16 bytes; empty when the sender does not know it yet and takes the peer's word.
    #[prost(bytes = "vec", tag = "3")]
    pub cluster_uuid: Vec<u8>,
    /// What the sender is.
    #[prost(enumeration = "Role", tag = "4")]
    pub role: i32,
    /// Host name, for messages.
    #[prost(string, tag = "5")]
    pub node_name: String,
    /// CS id; 0 if not a CS, or not registered yet.
    #[prost(uint64, tag = "6")]
    pub cs_id: u64,
    /// Boot id of the sender's host, 16 bytes (C10).
    #[prost(bytes = "vec", tag = "7")]
    pub boot_id: Vec<u8>,
    /// Counts the registrations of a CS: rises with each new nonce (C10). 0 if not a CS.
    #[prost(uint64, tag = "8")]
    pub nonce_generation: u64,
    /// Session the connection belongs to: client id, or session of the CS's registration. 0 = none yet.
    #[prost(uint64, tag = "9")]
    pub session_id: u64,
    /// Features the sender has. Both sides use those that both have.
    #[prost(uint64, tag = "10")]
    pub features: u64,
    /// Features the peer must have; a peer that lacks one refuses the connection.
    #[prost(uint64, tag = "11")]
    pub features_required: u64,
    /// Most requests the peer may have unanswered on this connection; 0 = no limit of its own.
    #[prost(uint32, tag = "12")]
    pub max_inflight: u32,
    /// Most bytes of body and payload the peer may have unanswered; 0 = no limit of its own.
    #[prost(uint64, tag = "13")]
    pub max_inflight_bytes: u64,
    /// MDS id; 0 if not an MDS.
    #[prost(uint64, tag = "14")]
    pub mds_id: u64,
    /// Version of the program, for messages.
    #[prost(string, tag = "15")]
    pub software: String,
}

/// What two sides have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Protocol version both speak on this connection.
    pub version: u32,
    /// Features both have.
    pub features: u64,
}

/// Why two sides cannot speak to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The ranges of versions do not meet.
    #[error(
        "the peer speaks protocol versions {peer_min} to {peer_max}, this program {own_min} to {own_max}; \
         upgrade the older side"
    )]
    Version {
        /// Oldest version of the peer.
        peer_min: u32,
        /// Newest version of the peer.
        peer_max: u32,
        /// Oldest version of this side.
        own_min: u32,
        /// Newest version of this side.
        own_max: u32,
    },
    /// One side demands features that the other lacks.
    #[error(
        "features {missing:#x} are demanded by one side and unknown to the other; upgrade the older side"
    )]
    Features {
        /// The features one side lacks.
        missing: u64,
    },
    /// The peer belongs to another cluster.
    #[error("the peer belongs to another cluster; check the address and the cluster name")]
    Cluster,
}

impl HelloError {
    /// The status to answer with, before the connection is closed.
    pub const fn status(&self) -> Status {
        match self {
            Self::Version { .. } | Self::Features { .. } => Status::Unsupported,
            Self::Cluster => Status::WrongCluster,
        }
    }
}

impl Hello {
    /// A greeting with the versions this code speaks; the caller fills in who it is.
    pub fn current() -> Self {
        Self { version_min: PROTOCOL_MIN, version_max: PROTOCOL_MAX, ..Default::default() }
    }

    /// What this side and `peer` can agree on. Both sides come to the same result.
    ///
    /// # Errors
    /// No common version, a demanded feature that is missing, or another cluster.
    pub fn agree(&self, peer: &Self) -> Result<Agreed, HelloError> {
        let version = self.version_max.min(peer.version_max);
        if version < self.version_min.max(peer.version_min) || version == 0 {
            return Err(HelloError::Version {
                peer_min: peer.version_min,
                peer_max: peer.version_max,
                own_min: self.version_min,
                own_max: self.version_max,
            });
        }
        let unknown = self.cluster_uuid.is_empty() || peer.cluster_uuid.is_empty();
        if !unknown && self.cluster_uuid != peer.cluster_uuid {
            return Err(HelloError::Cluster);
        }
        let missing = (self.features_required & !peer.features) | (peer.features_required & !self.features);
        if missing != 0 {
            return Err(HelloError::Features { missing });
        }
        Ok(Agreed { version, features: self.features & peer.features })
    }
}

/// PING: is the peer alive? The reply is [`Empty`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Ping {}

/// Reply without content.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}

/// GOODBYE notice: the sender is stopping in order.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Goodbye {
    /// Why, for the log of the peer.
    #[prost(string, tag = "1")]
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(min: u32, max: u32, features: u64, required: u64) -> Hello {
        Hello {
            version_min: min,
            version_max: max,
            features,
            features_required: required,
            ..Default::default()
        }
    }

    #[test]
    fn sides_agree_on_the_newest_common_version_whoever_asks() {
        let version = |own: (u32, u32), peer: (u32, u32)| HelloError::Version {
            peer_min: peer.0,
            peer_max: peer.1,
            own_min: own.0,
            own_max: own.1,
        };
        let table = [
            ((1, 1), (1, 1), Some(1)),
            ((1, 3), (2, 5), Some(3)),
            ((1, 2), (2, 2), Some(2)),
            ((1, 1), (2, 3), None),
            ((0, 0), (0, 0), None),
        ];
        for (a, b, expected) in table {
            let (left, right) = (hello(a.0, a.1, 0, 0), hello(b.0, b.1, 0, 0));
            let result =
                |version: Result<u32, HelloError>| version.map(|v| Agreed { version: v, features: 0 });
            assert_eq!(left.agree(&right), result(expected.ok_or(version(a, b))));
            assert_eq!(right.agree(&left), result(expected.ok_or(version(b, a))));
        }
    }

    #[test]
    fn features_are_shared_or_demanded() {
        let old = hello(1, 1, 0b0011, 0);
        assert_eq!(old.agree(&hello(1, 1, 0b0110, 0)), Ok(Agreed { version: 1, features: 0b0010 }));
        let demanding = hello(1, 1, 0b0111, 0b0100);
        let missing = Err(HelloError::Features { missing: 0b0100 });
        assert_eq!((old.agree(&demanding), demanding.agree(&old)), (missing, missing));
    }

    #[test]
    fn other_clusters_are_refused() {
        let own = Hello { cluster_uuid: vec![1; 16], ..Hello::current() };
        let other = Hello { cluster_uuid: vec![2; 16], ..Hello::current() };
        assert_eq!(own.agree(&own.clone()), Ok(Agreed { version: PROTOCOL_MAX, features: 0 }));
        assert_eq!(own.agree(&other), Err(HelloError::Cluster));
        let newcomer = Hello::current();
        assert!(own.agree(&newcomer).is_ok() && newcomer.agree(&own).is_ok());
        assert_eq!(HelloError::Cluster.status(), Status::WrongCluster);
    }
}
