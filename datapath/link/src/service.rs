//! Serving a peer's requests.

use std::future::Future;
use std::rc::Rc;

use rt::buf::View;
use rt::{First, first};
use wire::{Header, Op, Status};

use crate::connection::Connection;
use crate::message::{Request, Response};
use crate::shared::Shared;

/// A message nobody answers.
#[derive(Debug)]
pub struct Notice {
    /// Code of the operation, known or not.
    pub op: u16,
    /// Body.
    pub body: View,
    /// Payload; its first byte is aligned for direct I/O.
    pub payload: View,
}

impl Notice {
    /// The operation, if this code knows it.
    #[must_use]
    pub fn known_op(&self) -> Option<Op> {
        Op::from_code(self.op)
    }
}

/// Who answers the requests that come over connections.
pub trait Service: 'static {
    /// Answers one request. Each runs as a task of its own, to its end, even when the connection dies meanwhile:
    /// what has been accepted is finished, only nobody is told. Unless [`Service::may_be_dropped`] says otherwise.
    fn serve(
        self: Rc<Self>,
        connection: Connection,
        request: Request,
    ) -> impl Future<Output = Response> + 'static;

    /// Whether the work on a request may be dropped at any await point once its connection has ended: nobody hears the
    /// answer, and nothing else may depend on it. By default it may not.
    fn may_be_dropped(&self, request: &Request) -> bool {
        let _ = request;
        false
    }

    /// How many bytes of payload the answer to a request may have. Requests whose answers could not be queued are not
    /// started yet, so that a peer that asks for much and reads nothing costs no memory.
    fn reply_bytes(&self, request: &Request) -> usize {
        let _ = request;
        0
    }

    /// Takes a notice. Called in the order of arrival, before the next frame is looked at; so it must be quick.
    fn notice(self: Rc<Self>, connection: &Connection, notice: Notice) {
        let _ = (connection, notice);
    }
}

/// [`Service`] without its type.
pub(crate) trait Dispatch {
    fn reply_bytes(&self, request: &Request) -> usize;
    fn start(self: Rc<Self>, connection: Connection, request: Request, ticket: Ticket);
    fn notice(self: Rc<Self>, connection: &Connection, notice: Notice);
}

impl<S: Service> Dispatch for S {
    fn reply_bytes(&self, request: &Request) -> usize {
        Service::reply_bytes(self, request)
    }

    fn start(self: Rc<Self>, connection: Connection, request: Request, ticket: Ticket) {
        let may_be_dropped = self.may_be_dropped(&request);
        let shared = Rc::clone(&ticket.shared);
        rt::spawn(async move {
            // Pinned here: handed on by value it would have a place of its own in each future that it passes through.
            let mut serving = std::pin::pin!(self.serve(connection, request));
            let response = if may_be_dropped {
                match first(serving.as_mut(), shared.wait_for_end()).await {
                    First::Left(response) => response,
                    First::Right(_) => return,
                }
            } else {
                serving.await
            };
            ticket.respond(response);
        });
    }

    fn notice(self: Rc<Self>, connection: &Connection, notice: Notice) {
        Service::notice(self, connection, notice);
    }
}

/// The duty to answer one request.
pub(crate) struct Ticket {
    shared: Rc<Shared>,
    header: Header,
    /// Bytes of the queue that are kept free for the answer.
    reserved: usize,
    answered: bool,
}

impl Ticket {
    pub(crate) fn new(shared: Rc<Shared>, header: Header) -> Self {
        Self { shared, header, reserved: 0, answered: false }
    }

    /// Keeps so many bytes of the queue free until the answer is there.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.shared.reserved.set(self.shared.reserved.get() + bytes);
        self.reserved += bytes;
    }

    fn settle(&mut self, response: Response) {
        self.answered = true;
        self.shared.reserved.set(self.shared.reserved.get() - self.reserved);
        self.shared.respond(&self.header, response);
    }

    pub(crate) fn respond(mut self, response: Response) {
        self.settle(response);
    }
}

impl Drop for Ticket {
    /// A task that was aborted must not leave its peer waiting, nor hold its place for ever.
    fn drop(&mut self) {
        if !self.answered {
            self.settle(Status::Internal.into());
        }
    }
}
