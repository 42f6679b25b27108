//! Authenticated, encrypted, multiplexed connections.
//!
//! An [`Endpoint`] connects to others and accepts them. Both sides of a [`Connection`] prove with a certificate of
//! the cluster's own authority ([`authority`]) that they are members, over TLS 1.3; then both make requests
//! ([`Connection::call`]) and answer those of the other side ([`Service`]). [`Peer`] keeps a connection to one server
//! alive, [`Master`] finds the metadata server that is master. `docs/formats/security.md` says who authenticates how.
//!
//! **Invariant:** nothing a peer sends makes this side spend memory beyond the limits it has announced.
//! **Invariant:** every call ends exactly once, at its deadline at the latest.

pub mod authority;
mod backoff;
pub mod cluster_dir;
mod connection;
pub mod credentials;
pub mod daemon;
pub mod discovery;
mod endpoint;
pub mod error;
mod frame;
mod greeting;
pub mod guest;
pub mod identity;
mod master;
mod message;
mod outgoing;
pub mod password;
mod peer;
mod pending;
mod renewal;
pub mod revocation;
mod security;
pub mod servers;
mod service;
mod shared;
mod signal;
mod simulated;
mod tasks;
#[cfg(test)]
mod testing;
mod tls;
mod verify;

pub use authority::{AuthorityError, ClusterAuthority};
pub use connection::Connection;
pub use credentials::{Credentials, CredentialsError};
pub use endpoint::{Endpoint, Expect, Limits, Options};
pub use error::{AskError, CallError, CloseReason, ConnectCause, ConnectError, GreetError, Violation};
pub use greeting::{LocalHello, PeerInfo};
pub use identity::{ClusterId, Identity, Roles};
pub use master::Master;
pub use message::{Body, Call, OWN_IDS, Payload, Reply, Request, Response};
pub use peer::{Change, Keep, Peer};
pub use security::{ConfigError, Security};
pub use servers::ServerAddress;
pub use service::{Notice, Service};
pub use tls::handshake::HandshakeError;
pub use tls::record::RecordError;
pub use verify::CertificateRefused;
