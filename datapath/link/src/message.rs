//! What travels over a connection: calls and replies on one side, requests and responses on the other.

use std::fmt;
use std::ops::Deref;

use rt::buf::View;
use rt::time::Instant;
use wire::{ErrorBody, Op, Status};

/// The body of a message: bytes of its own, or a part of a buffer.
#[derive(Clone)]
pub enum Body {
    /// Bytes of its own.
    Bytes(Vec<u8>),
    /// A part of a buffer.
    View(View),
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::View(view) => view,
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::Bytes(Vec::new())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<View> for Body {
    fn from(view: View) -> Self {
        Self::View(view)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

#[derive(Clone, Default)]
enum Parts {
    #[default]
    None,
    One(View),
    Many(Vec<View>),
}

/// The payload of a message: any number of buffers, sent one behind the other without being joined first.
#[derive(Clone, Default)]
pub struct Payload {
    parts: Parts,
    len: usize,
}

impl Payload {
    /// No payload.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffers in their order.
    #[must_use]
    pub fn views(&self) -> &[View] {
        match &self.parts {
            Parts::None => &[],
            Parts::One(view) => std::slice::from_ref(view),
            Parts::Many(views) => views,
        }
    }
}

impl From<View> for Payload {
    fn from(view: View) -> Self {
        Self { len: view.len(), parts: Parts::One(view) }
    }
}

impl From<Vec<View>> for Payload {
    fn from(views: Vec<View>) -> Self {
        Self { len: views.iter().map(|view| view.len()).sum(), parts: Parts::Many(views) }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in {} buffers", self.len, self.views().len())
    }
}

/// Request ids from here on are the connection's own; below they are the caller's (see [`Call::id`]).
pub const OWN_IDS: u64 = 1 << 63;

/// A request to the peer.
#[derive(Clone, Debug)]
pub struct Call {
    /// The operation.
    pub op: Op,
    /// Its body.
    pub body: Body,
    /// Its payload.
    pub payload: Payload,
    /// When the caller stops waiting. The peer is told how much time is left when the request is sent.
    pub deadline: Instant,
    /// Header flags (see [`wire::header::FLAGS_MUST_UNDERSTAND`]).
    pub flags: u32,
    /// The request id, where it must be the same in every attempt (control requests that change something); below
    /// [`OWN_IDS`]. `None` lets the connection choose.
    pub id: Option<u64>,
    /// How many bytes of payload the reply may bring. They count against the peer's window together with the
    /// request's own, so that answers to many small requests cannot pile up.
    pub reply_bytes: usize,
}

impl Call {
    /// A request without payload.
    #[must_use]
    pub fn new(op: Op, body: impl Into<Body>, deadline: Instant) -> Self {
        Self { op, body: body.into(), payload: Payload::none(), deadline, flags: 0, id: None, reply_bytes: 0 }
    }

    /// Adds a payload.
    #[must_use]
    pub fn with_payload(self, payload: impl Into<Payload>) -> Self {
        Self { payload: payload.into(), ..self }
    }

    /// Says how many bytes of payload the reply may bring.
    #[must_use]
    pub fn expecting(self, reply_bytes: usize) -> Self {
        Self { reply_bytes, ..self }
    }

    /// Gives the request an id of the caller's choice.
    #[must_use]
    pub fn with_id(self, id: u64) -> Self {
        Self { id: Some(id), ..self }
    }
}

/// The peer's answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Outcome.
    pub status: Status,
    /// The reply of the operation, or an [`ErrorBody`] unless the status is [`Status::Ok`].
    pub body: View,
    /// Payload; its first byte is aligned for direct I/O.
    pub payload: View,
}

impl Reply {
    /// The error of a reply whose status is not [`Status::Ok`].
    #[must_use]
    pub fn error(&self) -> ErrorBody {
        ErrorBody::lossy(&self.body)
    }
}

/// A request of the peer.
#[derive(Debug)]
pub struct Request {
    /// Code of the operation, known or not (see [`Request::known_op`]).
    pub op: u16,
    /// The request id the peer has chosen.
    pub id: u64,
    /// Header flags.
    pub flags: u32,
    /// Body.
    pub body: View,
    /// Payload; its first byte is aligned for direct I/O.
    pub payload: View,
    /// When the peer stops waiting, as far as it said.
    pub deadline: Option<Instant>,
}

impl Request {
    /// The operation, if this code knows it.
    #[must_use]
    pub fn known_op(&self) -> Option<Op> {
        Op::from_code(self.op)
    }
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Response {
    /// Outcome.
    pub status: Status,
    /// The reply of the operation, or an [`ErrorBody`] unless the status is [`Status::Ok`].
    pub body: Body,
    /// Payload.
    pub payload: Payload,
}

impl Response {
    /// Success.
    #[must_use]
    pub fn ok(body: impl Into<Body>) -> Self {
        Self { status: Status::Ok, body: body.into(), payload: Payload::none() }
    }

    /// Adds a payload.
    #[must_use]
    pub fn with_payload(self, payload: impl Into<Payload>) -> Self {
        Self { payload: payload.into(), ..self }
    }

    /// Failure, with more than the status says.
    #[must_use]
    pub fn failure(status: Status, error: &ErrorBody) -> Self {
        Self { status, body: prost::Message::encode_to_vec(error).into(), payload: Payload::none() }
    }
}

impl From<Status> for Response {
    /// An answer that is nothing but a status.
    fn from(status: Status) -> Self {
        Self { status, body: Body::default(), payload: Payload::none() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_know_their_length() {
        let part = View::copy_of(b"abc");
        assert!(Payload::none().is_empty() && Payload::none().views().is_empty());
        assert_eq!(Payload::from(part.clone()).len(), 3);
        let many = Payload::from(vec![part.clone(), part.slice(1..)]);
        assert_eq!((many.len(), many.views().len()), (5, 2));
    }
}
