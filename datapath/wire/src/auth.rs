//! Passwords and nodes: how a host becomes a member of a cluster, and how it ceases to be one.
//!
//! LOGIN to SET_PASSWORD are spoken on connections of guests, whose end that connected has shown no certificate; the rest on
//! connections of members. `docs/formats/security.md` says what the bytes in them are and what they prove.

/// Longest name of a node or host id, in bytes.
pub const NAME_MAX: usize = 64;

/// Longest body on a connection of a guest, in bytes.
pub const GUEST_BODY_MAX: u32 = 16 << 10;

/// Most numbers in a list of revoked nodes.
pub const REVOKED_MAX: usize = 16_384;

/// LOGIN request: the first message of a guest.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Login {
    /// OPAQUE's KE1.
    #[prost(bytes = "vec", tag = "1")]
    pub ke1: Vec<u8>,
}

/// LOGIN reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LoginReply {
    /// OPAQUE's KE2.
    #[prost(bytes = "vec", tag = "1")]
    pub ke2: Vec<u8>,
}

/// ENROLL request: the guest proves the password and asks for a certificate.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Enroll {
    /// OPAQUE's KE3.
    #[prost(bytes = "vec", tag = "1")]
    pub ke3: Vec<u8>,
    /// The key to be certified.
    #[prost(message, optional, tag = "2")]
    pub key: Option<KeyClaim>,
    /// Name the node wants, for people.
    #[prost(string, tag = "3")]
    pub node: String,
    /// Id of its host.
    #[prost(string, tag = "4")]
    pub host_id: String,
}

/// A public key, and the proof that its secret half is known.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyClaim {
    /// Ed25519, 32 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub public_key: Vec<u8>,
    /// The key's own signature, 64 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
}

/// ENROLL reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EnrollReply {
    /// Certificate of the cluster's authority, DER.
    #[prost(bytes = "vec", tag = "1")]
    pub authority: Vec<u8>,
    /// Certificate of the node, DER.
    #[prost(bytes = "vec", tag = "2")]
    pub certificate: Vec<u8>,
    /// HMAC-SHA-512 over both, under the key that the password led to.
    #[prost(bytes = "vec", tag = "3")]
    pub proof: Vec<u8>,
}

/// NEW_PASSWORD request: the guest proves the old password and begins to set a new one.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NewPassword {
    /// OPAQUE's KE3.
    #[prost(bytes = "vec", tag = "1")]
    pub ke3: Vec<u8>,
    /// OPAQUE's registration request.
    #[prost(bytes = "vec", tag = "2")]
    pub request: Vec<u8>,
}

/// NEW_PASSWORD reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NewPasswordReply {
    /// OPAQUE's registration response.
    #[prost(bytes = "vec", tag = "1")]
    pub response: Vec<u8>,
}

/// SET_PASSWORD request: ends what NEW_PASSWORD began. The reply is empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SetPassword {
    /// OPAQUE's registration record.
    #[prost(bytes = "vec", tag = "1")]
    pub record: Vec<u8>,
    /// HMAC-SHA-512 over it, under the key that the old password led to.
    #[prost(bytes = "vec", tag = "2")]
    pub proof: Vec<u8>,
}

/// LIST_NODES request.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ListNodes {
    /// Nodes with a higher number than this one.
    #[prost(uint64, tag = "1")]
    pub after: u64,
}

/// A node that was admitted once.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NodeInfo {
    /// Its number: the same in all certificates that follow from one admission, and never used again.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Id of its host.
    #[prost(string, tag = "3")]
    pub host_id: String,
    /// Where it was admitted from, without port; empty for the founder.
    #[prost(string, tag = "4")]
    pub address: String,
    /// When it was admitted, in milliseconds since 1970.
    #[prost(uint64, tag = "5")]
    pub admitted_ms: u64,
    /// When it was revoked, in milliseconds since 1970; 0 = it is a member.
    #[prost(uint64, tag = "6")]
    pub revoked_ms: u64,
}

/// LIST_NODES reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListNodesReply {
    /// Nodes, ascending by number.
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<NodeInfo>,
    /// There are more with higher numbers.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// REVOKE_NODE request. The reply is empty.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RevokeNode {
    /// The node's number.
    #[prost(uint64, tag = "1")]
    pub number: u64,
}

/// RENEW_CERTIFICATE request: a member wants a certificate that lasts longer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RenewCertificate {
    /// The key to be certified: the same one, or another.
    #[prost(message, optional, tag = "1")]
    pub key: Option<KeyClaim>,
}

/// RENEW_CERTIFICATE reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RenewCertificateReply {
    /// The new certificate, DER: the same node, roles and number.
    #[prost(bytes = "vec", tag = "1")]
    pub certificate: Vec<u8>,
}

/// REVOCATIONS notice, MDS to everyone that is connected.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Revocations {
    /// A [`RevocationList`].
    #[prost(bytes = "vec", tag = "1")]
    pub list: Vec<u8>,
    /// The authority's Ed25519 signature, 64 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
}

/// Which nodes are members no longer, and how old the cluster is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RevocationList {
    /// UUID of the cluster, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub cluster: Vec<u8>,
    /// A later list has a higher one.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// Hours the cluster has run.
    #[prost(uint64, tag = "3")]
    pub hours: u64,
    /// Numbers of revoked nodes, ascending.
    #[prost(uint64, repeated, tag = "4")]
    pub revoked: Vec<u64>,
}
