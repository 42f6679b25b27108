//! A connection to one peer.

use std::fmt;
use std::rc::Rc;

use rt::time::Instant;
use wire::Status;

use crate::error::{AskError, CallError, CloseReason};
use crate::greeting::PeerInfo;
use crate::message::{Body, Call, Reply};
use crate::shared::Shared;

/// What users of a connection hold; the tasks of the connection do not.
pub(crate) struct Handle {
    pub(crate) shared: Rc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.drain(CloseReason::Local, true);
    }
}

/// A secure connection to one peer, over which both sides make requests. Cheap to clone; when the last clone is
/// dropped, the connection closes in order.
#[derive(Clone)]
pub struct Connection(pub(crate) Rc<Handle>);

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("address", &self.0.shared.address)
            .field("node", &self.0.shared.identity.node)
            .field("phase", &self.0.shared.phase())
            .finish()
    }
}

impl Connection {
    pub(crate) fn new(shared: &Rc<Shared>) -> Self {
        let handle = Rc::new(Handle { shared: Rc::clone(shared) });
        shared.handle.replace(Rc::downgrade(&handle));
        Self(handle)
    }

    /// Who the peer is.
    #[must_use]
    pub fn peer(&self) -> &PeerInfo {
        self.0.shared.peer().expect("connections are handed out when the greeting is over")
    }

    /// Whether both are the same connection.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0.shared, &other.0.shared)
    }

    /// Makes a request and waits for its answer. Answers come in any order; dropping the future forgets the call.
    ///
    /// # Errors
    /// [`CallError`]; a refusal by the peer is a [`Reply`] with its status.
    ///
    /// # Panics
    /// When [`Call::id`] is one of the connection's own ids.
    pub async fn call(&self, call: Call) -> Result<Reply, CallError> {
        self.0.shared.call(call).await
    }

    /// Makes a control request.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask<R: wire::Call>(&self, request: &R, deadline: Instant) -> Result<R::Reply, AskError> {
        let call = Call::new(R::OP, wire::encode_body(request)?, deadline);
        read_reply::<R>(&self.call(call).await?)
    }

    /// As [`Connection::ask`], with a request id of the caller's choice, the same in every attempt.
    ///
    /// # Errors
    /// [`AskError`].
    ///
    /// # Panics
    /// When `id` is one of the connection's own ids.
    pub async fn ask_as<R: wire::Call>(
        &self,
        id: u64,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Reply, AskError> {
        let call = Call::new(R::OP, wire::encode_body(request)?, deadline).with_id(id);
        read_reply::<R>(&self.call(call).await?)
    }

    /// Sends a message nobody answers; waits only for room in the queue.
    ///
    /// # Errors
    /// [`CallError`], never [`CallError::Timeout`].
    pub async fn notify<N: wire::Notice>(&self, notice: &N) -> Result<(), CallError> {
        let body = prost::Message::encode_to_vec(notice);
        self.0.shared.notify(N::OP, Body::from(body)).await
    }

    /// Whether requests can be made.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.shared.is_open()
    }

    /// Waits until the connection has ended, and says why.
    pub async fn closed(&self) -> CloseReason {
        self.0.shared.wait_for_end().await
    }

    /// Closes in order: requests of the peer that are running are answered, new ones are not taken, our own that have
    /// no answer yet fail.
    pub async fn close(&self) {
        self.0.shared.drain(CloseReason::Local, true);
        self.closed().await;
    }
}

/// Reads the reply to a control request.
pub(crate) fn read_reply<R: wire::Call>(reply: &Reply) -> Result<R::Reply, AskError> {
    match reply.status {
        Status::Ok => Ok(wire::decode_body(&reply.body)?),
        status => Err(AskError::Status { status, error: reply.error() }),
    }
}
