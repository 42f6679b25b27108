//! Why a connection was not made, ended, or did not answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rt::net::Address;
use wire::hello::{HelloError, Role};
use wire::{BodyError, ErrorBody, FrameError, Status};

use crate::identity::role_name;
use crate::tls::handshake::{HandshakeError, alert_text};
use crate::tls::record::RecordError;
use crate::verify::CertificateRefused;

/// A rule of the connection that the peer broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More requests under way than we allow.
    #[error("more than {limit} requests under way")]
    Requests {
        /// What we allow.
        limit: u32,
    },
    /// More bytes of requests under way than we allow.
    #[error("more than {limit} bytes of requests under way")]
    Bytes {
        /// What we allow.
        limit: u64,
    },
    /// More pings than anybody needs.
    #[error("a flood of pings")]
    Pings,
    /// An answer to a request we have not made.
    #[error("an answer to a request that was never made (id {id:#x})")]
    Unasked {
        /// The request id it names.
        id: u64,
    },
    /// An answer with more payload than was asked for.
    #[error("an answer with {bytes} bytes of payload, which is more than was asked for (id {id:#x})")]
    TooMuch {
        /// The request id it names.
        id: u64,
        /// Its length.
        bytes: u32,
    },
    /// Something before HELLO, or a second HELLO.
    #[error("a message out of order (operation {op:#06x})")]
    OutOfOrder {
        /// Code of the operation.
        op: u16,
    },
}

/// Why both ends could not agree after they had proved who they are.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GreetError {
    /// Versions, features or clusters do not meet.
    #[error(transparent)]
    Disagree(#[from] HelloError),
    /// The greeting cannot be read.
    #[error("malformed greeting: {0}")]
    Malformed(#[from] BodyError),
    /// The peer is not what was expected at its address.
    #[error(
        "expected role {} at this address, found {}; check the address and port",
        role_name(*.expected),
        role_name(*.found)
    )]
    Role {
        /// What was expected.
        expected: Role,
        /// What is there.
        found: Role,
    },
    /// Another chunk server answers at this address.
    #[error("expected chunk server {expected} at this address, found {found}")]
    ChunkServer {
        /// Its id.
        expected: u64,
        /// The id found.
        found: u64,
    },
    /// The peer's certificate does not let it be what it says it is.
    #[error("the peer's certificate does not allow the role {}", role_name(*.0))]
    NotAllowed(Role),
    /// The peer refused our greeting.
    #[error("the peer refuses us: {status}{}{}", if .message.is_empty() { "" } else { ": " }, .message)]
    Refused {
        /// Its status.
        status: Status,
        /// What it says.
        message: String,
    },
}

impl GreetError {
    /// What the peer is told.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Disagree(HelloError::Cluster) => Status::WrongCluster,
            Self::Disagree(_) => Status::Unsupported,
            Self::Malformed(error) => error.status(),
            Self::NotAllowed(_) => Status::Forbidden,
            _ => Status::Invalid,
        }
    }
}

/// Why a connection has ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CloseReason {
    /// We closed it.
    #[error("closed here")]
    Local,
    /// The peer closed it in order.
    #[error("closed by the peer")]
    PeerClosed,
    /// The peer is stopping and takes no new requests.
    #[error("the peer is stopping")]
    PeerStopping,
    /// The stream ended without the peer saying so.
    #[error("the connection was cut")]
    Cut,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[source] Arc<io::Error>),
    /// Nothing was heard for too long.
    #[error("nothing heard for {} ms", .0.as_millis())]
    Silent(Duration),
    /// The peer ended it with an alert.
    #[error("the peer refuses us: {}", alert_text(*.0))]
    Alert(u8),
    /// What came was not TLS, or not from the peer.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What came was not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer broke a rule.
    #[error("the peer broke the protocol: {0}")]
    Violation(#[from] Violation),
    /// Both ends could not agree.
    #[error(transparent)]
    Greeting(#[from] GreetError),
    /// The peer is a member of the cluster no longer.
    #[error("the peer is refused: {0}")]
    Refused(#[from] CertificateRefused),
    /// The greeting took too long.
    #[error("the peer did not greet in time")]
    GreetingTimeout,
}

impl From<io::Error> for CloseReason {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// Why a call has no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The deadline passed. Whether the request was executed is not known.
    #[error("no answer in time")]
    Timeout,
    /// There is no connection (any more). Whether the request was executed is not known.
    #[error("no connection: {0}")]
    Disconnected(#[source] CloseReason),
    /// No connection could be made before the deadline. The request was not executed.
    #[error("cannot connect in time: {0}")]
    Unreachable(#[source] Arc<ConnectError>),
    /// The request is beyond the limits of a frame.
    #[error(transparent)]
    TooLarge(FrameError),
}

/// Why a typed request failed (see [`crate::Connection::ask`]).
#[derive(Clone, Debug, thiserror::Error)]
pub enum AskError {
    /// There was no reply.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The reply is a refusal.
    #[error("{status}{}{}", if .error.message.is_empty() { "" } else { ": " }, .error.message)]
    Status {
        /// The status; its action says what to do.
        status: Status,
        /// What the peer says about it.
        error: ErrorBody,
    },
    /// The reply, or the request itself, is not what the protocol says.
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// What went wrong while connecting.
#[derive(Debug, thiserror::Error)]
pub enum ConnectCause {
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Io(#[source] io::Error),
    /// It took too long.
    #[error("cannot connect: no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The peer had not shown who it is when too many others came.
    #[error("it had not shown who it is when too many others came")]
    Shed,
    /// The TLS handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The greeting failed.
    #[error(transparent)]
    Greeting(CloseReason),
}

/// Why there is no connection to an address.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {cause}")]
pub struct ConnectError {
    /// The address.
    pub address: Address,
    /// What went wrong.
    pub cause: ConnectCause,
}
