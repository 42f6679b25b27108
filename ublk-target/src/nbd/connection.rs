//! One client: the handshake, then requests until it leaves.
//!
//! ```text
//! socket ──▶ reader task ──▶ workers ──▶ outbox ──▶ writer task ──▶ socket
//!            │ header, check, place,     │ device     │ in any order, whole, several per send
//!            │ payload                   └────────────┴─ the place is given back once the reply is sent
//!            └ no place: receives no further until there is one
//! ```
//!
//! What the reader has accepted is carried out to its end, whatever becomes of the client: a write that has begun on
//! some replicas must reach the others.

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use rt::buf::View;
use rt::net::{Reader, Writer};
use rt::sync::Semaphore;

use super::budget::{Budget, Hold};
use super::export::Exports;
use super::gather::{Encoder, Reply};
use super::incoming::Incoming;
use super::negotiation::{Negotiation, NegotiationError, Next};
use super::outbox::Outbox;
use super::patience::{Patience, Stalled};
use super::session::Session;
use super::transmission::{Answer, BadMagic, Refused, Request, RequestHeader};
use super::wire;
use super::workers::{Seat, Workers};
use crate::device::Device;
use crate::stop::{Leash, Stop, unless};

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// The handshake broke a rule that no reply can tell of.
    #[error(transparent)]
    Negotiation(#[from] NegotiationError),
    /// The handshake took too long.
    #[error("no handshake within {} ms; is it an NBD client?", .0.as_millis())]
    Timeout(Duration),
    /// A request did not begin as requests do.
    #[error(transparent)]
    Magic(#[from] BadMagic),
    /// A refused write was too long to be read only to be thrown away.
    #[error("the client announced a write of {0} bytes; drop the connection")]
    Payload(u32),
    /// It held memory that others waited for, and did not go on.
    #[error(transparent)]
    Stalled(#[from] Stalled),
    /// The socket failed, or the stream ended in the middle of something.
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// How a client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// In the handshake, in order.
    Aborted,
    /// By a disconnect request.
    Disconnected,
    /// By closing the socket between two requests.
    HungUp,
    /// Because the server stops.
    Stopping,
}

/// What connections need to know of their server.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) stop: Stop,
    pub(super) handshake_timeout: Duration,
    pub(super) requests_max: u32,
    pub(super) bytes_max: u64,
    pub(super) server_bytes: Semaphore,
    pub(super) stall_timeout: Duration,
    /// Requests under way on the device, of all connections.
    pub(super) requests: std::cell::Cell<usize>,
}

/// A request on its way to the device.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) cookie: u64,
    pub(super) request: Request,
    /// Data of a write.
    pub(super) data: Option<View>,
    hold: Hold,
}

/// A connection in the transmission phase.
pub(super) struct Connection<D> {
    /// Names the client in the log.
    pub(super) id: u64,
    pub(super) device: Rc<D>,
    pub(super) session: Session,
    surroundings: Rc<Surroundings>,
    budget: Budget,
    receiving: Patience,
    workers: Workers<Job>,
    outbox: Outbox,
}

/// Serves one client to its end.
///
/// # Errors
/// [`ConnectionError`] when the client broke a rule or the socket failed.
pub(super) async fn run<D: Device, E: Exports>(
    id: u64,
    surroundings: Rc<Surroundings>,
    device: Rc<D>,
    exports: E,
    (reader, mut writer): (Reader, Writer),
) -> Result<Farewell, ConnectionError> {
    let mut incoming = Incoming::new(reader);
    let session = {
        let mut stop = pin!(surroundings.stop.wait());
        let within = surroundings.handshake_timeout;
        let talk = negotiate(&surroundings.stop, exports, &mut incoming, &mut writer);
        match unless(stop.as_mut(), rt::time::timeout(within, talk)).await {
            None => return Ok(Farewell::Stopping),
            Some(Err(_)) => return Err(ConnectionError::Timeout(within)),
            Some(Ok(session)) => session?,
        }
    };
    let Some(session) = session else { return Ok(Farewell::Aborted) };
    tracing::debug!(client = id, structured = session.structured, "ready");
    let connection = Rc::new(Connection {
        id,
        budget: Budget::new(
            surroundings.requests_max.into(),
            surroundings.bytes_max,
            &surroundings.server_bytes,
        ),
        receiving: Patience::new(surroundings.stall_timeout),
        device,
        session,
        surroundings,
        workers: Workers::default(),
        outbox: Outbox::default(),
    });
    let theirs = Rc::clone(&connection);
    let mut sender = Leash(rt::spawn(async move {
        let encoder = Encoder::new(theirs.session.reply_form());
        let patience = Patience::new(theirs.surroundings.stall_timeout);
        theirs.outbox.send(&mut writer, encoder, &patience, || theirs.budget.others_wait()).await
    }));
    let outcome = connection.receive(&mut incoming).await;
    if outcome.is_err() {
        connection.outbox.break_off();
    }
    connection.workers.finish().await;
    connection.outbox.close();
    let sent = (&mut sender.0).await;
    match (outcome, sent) {
        // Why a send failed says more than that the stream ended.
        (Err(ConnectionError::Socket(_)) | Ok(Farewell::HungUp), Ok(Err(error))) => Err(error),
        (outcome, _) => outcome,
    }
}

/// The handshake. `None` if the client ended it in order.
async fn negotiate<E: Exports>(
    stop: &Stop,
    exports: E,
    incoming: &mut Incoming,
    writer: &mut Writer,
) -> Result<Option<Session>, ConnectionError> {
    let mut out = Vec::new();
    let mut negotiation = Negotiation::new(exports, &mut out);
    let mut next = Ok(Next::More);
    loop {
        if !out.is_empty() {
            let sent = writer.send_all(View::copy_of(&out)).await;
            // The client's mistake matters more than whether it still listens.
            next = next.and_then(|next| sent.map(|()| next).map_err(ConnectionError::Socket));
            out.clear();
        }
        match next? {
            Next::More => {}
            Next::Ready(session) => return Ok(Some(session)),
            Next::Closed => return Ok(None),
        }
        if stop.is_set() {
            negotiation.shut_down();
        }
        let input = incoming.bytes(negotiation.needed()).await?;
        next = negotiation.step(&input, &mut out).map_err(ConnectionError::Negotiation);
    }
}

/// What a step of the reader gives: its result, or the reason to leave in order.
type Step<T> = Result<T, Leave>;

/// Why the reader ends.
enum Leave {
    Farewell(Farewell),
    Error(ConnectionError),
}

impl<E: Into<ConnectionError>> From<E> for Leave {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl<D: Device> Connection<D> {
    /// Takes requests until the client leaves or the server stops.
    async fn receive(self: &Rc<Self>, incoming: &mut Incoming) -> Result<Farewell, ConnectionError> {
        let mut stop = pin!(self.surroundings.stop.wait());
        loop {
            match self.receive_one(incoming, stop.as_mut()).await {
                Ok(()) => {}
                Err(Leave::Farewell(farewell)) => return Ok(farewell),
                Err(Leave::Error(error)) => return Err(error),
            }
        }
    }

    async fn receive_one<S: Future<Output = ()>>(
        self: &Rc<Self>,
        incoming: &mut Incoming,
        mut stop: Pin<&mut S>,
    ) -> Step<()> {
        let header = unless(stop.as_mut(), incoming.header::<{ wire::REQUEST_LEN }>()).await;
        let header = header.ok_or(Leave::Farewell(Farewell::Stopping))??;
        let header = header.ok_or(Leave::Farewell(Farewell::HungUp))?;
        let header = RequestHeader::parse(&header)?;
        let checked = self.session.check(&header);
        let weight = match checked {
            Ok(Request::Disconnect) => return Err(Leave::Farewell(Farewell::Disconnected)),
            Ok(Request::Read { length, .. } | Request::Write { length, .. }) => u64::from(length),
            _ => 0,
        };
        let hold = match self.budget.try_take(weight) {
            Some(hold) => hold,
            None => self.place(incoming, stop.as_mut(), weight).await?,
        };
        match checked {
            Ok(request) => {
                let data = match request {
                    Request::Write { length, .. } => {
                        let payload = incoming.payload(length as usize);
                        let payload = self.receiving.during(weight, || self.budget.others_wait(), payload);
                        let payload = unless(stop, payload).await;
                        Some(payload.ok_or(Leave::Farewell(Farewell::Stopping))???.freeze())
                    }
                    _ => None,
                };
                let job = Job { cookie: header.cookie, request, data, hold };
                self.start(job);
            }
            Err(Refused { reason, answer }) => {
                let drained = match answer {
                    Answer::Now => 0,
                    Answer::AfterDrain(length) => length,
                    Answer::Never => return Err(Leave::Error(ConnectionError::Payload(header.length))),
                };
                let skipped = unless(stop, incoming.skip(drained)).await;
                skipped.ok_or(Leave::Farewell(Farewell::Stopping))??;
                tracing::debug!(client = self.id, "refused: {reason}");
                let text = reason.to_string();
                let bytes = self.session.reply_form().error(header.cookie, reason.errno(), &text);
                self.outbox.push(Reply::Bytes(bytes), hold);
            }
        }
        Ok(())
    }

    /// Waits for a place for a request with so many bytes, receiving nothing meanwhile (C13).
    async fn place<S: Future<Output = ()>>(
        &self,
        incoming: &mut Incoming,
        stop: Pin<&mut S>,
        weight: u64,
    ) -> Step<Hold> {
        let wait = async {
            incoming.pause().await?;
            Ok::<_, io::Error>(self.budget.take(weight).await)
        };
        Ok(unless(stop, wait).await.ok_or(Leave::Farewell(Farewell::Stopping))??)
    }

    fn start(self: &Rc<Self>, job: Job) {
        let requests = &self.surroundings.requests;
        requests.set(requests.get() + 1);
        self.workers.give(job, |seat| {
            rt::spawn(Rc::clone(self).work(seat));
        });
    }

    async fn work(self: Rc<Self>, seat: Rc<Seat<Job>>) {
        while let Some(mut job) = seat.next().await {
            let reply = self.execute(&mut job).await;
            if job.data.take().is_some() {
                job.hold.release_bytes();
            }
            self.outbox.push(reply, job.hold);
            let requests = &self.surroundings.requests;
            requests.set(requests.get() - 1);
            self.workers.done(&seat);
        }
    }
}
