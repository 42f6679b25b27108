//! What the tasks of one connection share: its phase, its queues, its windows.
//!
//! ```text
//! Greeting ──HELLO agreed──▶ Open ──close, refusal──▶ Draining ──all answered and sent──▶ Ended
//!     └───────────────────────┴──── loss, violation, silence ────┴───────────────────────▲
//! ```
//!
//! **Invariant:** every request ends exactly once: with its answer, its deadline, or the end of the connection.
//! **Invariant:** what waits to be sent is bounded: requests by the peer's window, answers by ours (and no request is
//! started while answers pile up), notices by the queue's bound, pings by their number.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use rt::net::Address;
use rt::sync::{Notify, OneReceiver, OneSender, Permit, Semaphore};
use rt::time::Instant;
use rt::{First, first};
use wire::{Header, Op, Status};

use crate::connection::{Connection, Handle};
use crate::endpoint::{Expect, Local, Options};
use crate::error::{CallError, CloseReason, Violation};
use crate::greeting::PeerInfo;
use crate::identity::Identity;
use crate::message::{Body, Call, OWN_IDS, Payload, Reply, Request, Response};
use crate::outgoing::{OutQueue, Outgoing, Sort};
use crate::pending::{Answer, Expected, PendingTable};
use crate::revocation::SignedList;
use crate::service::{Dispatch, Ticket};
use crate::signal::Signal;

/// Answers to pings that may wait to be sent; nobody needs more than one.
pub(crate) const PINGS_MAX: usize = 16;
/// A window the peer does not bound is bounded here.
const WINDOW_MAX: (u32, u64) = (1024, 64 << 20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Greeting,
    Open,
    Draining,
    Ended,
}

/// Which side of the greeting we are.
pub(crate) enum Greeter {
    /// We connected, and know whom we expect.
    Caller(Expect),
    /// We were connected to.
    Callee,
}

/// What the peer allows us to have under way.
struct Window {
    requests: Semaphore,
    bytes: Semaphore,
}

/// What the peer has under way.
#[derive(Default)]
struct Inbound {
    requests: u32,
    bytes: u64,
    /// Not started because our answers pile up.
    waiting: VecDeque<(Ticket, Request)>,
}

/// The state of one connection.
pub(crate) struct Shared {
    pub(crate) address: Address,
    /// Who the peer is, by its certificate.
    pub(crate) identity: Identity,
    pub(crate) local: Rc<Local>,
    pub(crate) greeter: Greeter,
    pub(crate) handle: RefCell<Weak<Handle>>,
    dispatch: Option<Rc<dyn Dispatch>>,
    phase: Cell<Phase>,
    peer: OnceCell<PeerInfo>,
    greeted: RefCell<Option<OneSender<Result<(), CloseReason>>>>,
    window: OnceCell<Window>,
    pending: RefCell<PendingTable>,
    inbound: RefCell<Inbound>,
    /// Bytes of payload that the answers to running requests may bring.
    pub(crate) reserved: Cell<usize>,
    pub(crate) queue: RefCell<OutQueue>,
    next_id: Cell<u64>,
    /// The request id of the ping that is out.
    pub(crate) ping: Cell<Option<u64>>,
    /// Something has come since this was last looked at.
    pub(crate) heard: Cell<bool>,
    pub(crate) key_update_wanted: Cell<bool>,
    peer_stopping: Cell<bool>,
    /// The earliest deadline of a request, at least.
    pub(crate) earliest: Cell<Option<Instant>>,
    /// When the watching task wakes by itself.
    pub(crate) watch_until: Cell<Instant>,
    /// When draining is over at the latest; set by the watching task, because handles may be dropped where no clock is.
    pub(crate) drain_until: Cell<Option<Instant>>,
    /// Why the connection is draining.
    drain_reason: RefCell<CloseReason>,
    end: RefCell<Option<CloseReason>>,
    /// No more requests can be made, or none are answered.
    changed: Notify,
    /// For the sending task: there is something to send.
    pub(crate) send: Signal,
    /// For the sending task: stop even while sending.
    pub(crate) abort: Signal,
    /// For the watching task: look again.
    pub(crate) watch: Signal,
    /// The queue has room for a notice.
    room: Notify,
}

impl Shared {
    pub(crate) fn new(
        address: Address,
        identity: Identity,
        local: Rc<Local>,
        greeter: Greeter,
        dispatch: Option<Rc<dyn Dispatch>>,
        greeted: OneSender<Result<(), CloseReason>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            address,
            identity,
            local,
            greeter,
            handle: RefCell::new(Weak::new()),
            dispatch,
            phase: Cell::new(Phase::Greeting),
            peer: OnceCell::new(),
            greeted: RefCell::new(Some(greeted)),
            window: OnceCell::new(),
            pending: RefCell::default(),
            inbound: RefCell::default(),
            reserved: Cell::new(0),
            queue: RefCell::default(),
            next_id: Cell::new(OWN_IDS),
            ping: Cell::new(None),
            heard: Cell::new(false),
            key_update_wanted: Cell::new(false),
            peer_stopping: Cell::new(false),
            earliest: Cell::new(None),
            watch_until: Cell::new(Instant::from_nanos(u64::MAX)),
            drain_until: Cell::new(None),
            drain_reason: RefCell::new(CloseReason::Local),
            end: RefCell::new(None),
            changed: Notify::new(),
            send: Signal::default(),
            abort: Signal::default(),
            watch: Signal::default(),
            room: Notify::new(),
        })
    }

    pub(crate) fn options(&self) -> &Options {
        &self.local.options
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Who the peer is; `None` before the greeting is over.
    pub(crate) fn peer(&self) -> Option<&PeerInfo> {
        self.peer.get()
    }

    /// A request id of our own.
    pub(crate) fn take_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id.checked_add(1).unwrap_or(OWN_IDS));
        id
    }

    /// Queues a frame.
    pub(crate) fn push(&self, header: Header, sort: Sort, body: Body, payload: Payload) {
        let mut queue = self.queue.borrow_mut();
        queue.push(Outgoing { header, sort, body, payload });
        rt::sim::gauge("link.queue-bytes", queue.bytes() as u64);
        drop(queue);
        self.send.set();
    }

    /// The greeting is over, and this is the peer.
    pub(crate) fn open(&self, peer: PeerInfo, window: (u32, u64)) {
        let bound = |asked: u64, most: u64| if asked == 0 { most } else { asked.min(most) };
        let requests = Semaphore::new(bound(window.0.into(), WINDOW_MAX.0.into()));
        let bytes = Semaphore::new(bound(window.1, WINDOW_MAX.1));
        let fresh = self.window.set(Window { requests, bytes }).is_ok() && self.peer.set(peer).is_ok();
        assert!(fresh && self.phase.get() == Phase::Greeting, "a connection greets once");
        self.phase.set(Phase::Open);
        if let Some(greeted) = self.greeted.borrow_mut().take() {
            // Nobody waits when the time for the greeting ran out just now; the connection ends with its handle.
            let _late = greeted.send(Ok(()));
        }
    }

    // Requests of ours.

    /// Why no requests can be made, if so.
    fn check_open(&self) -> Result<(), CloseReason> {
        match self.phase.get() {
            Phase::Open if !self.peer_stopping.get() => Ok(()),
            Phase::Open => Err(CloseReason::PeerStopping),
            Phase::Greeting | Phase::Draining => Err(self.drain_reason()),
            Phase::Ended => Err(self.end_reason()),
        }
    }

    /// Whether new requests are taken.
    pub(crate) fn is_open(&self) -> bool {
        self.check_open().is_ok()
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn call(self: &Rc<Self>, call: Call) -> Result<Reply, CallError> {
        self.check_open().map_err(CallError::Disconnected)?;
        if call.deadline <= rt::time::now() {
            return Err(CallError::Timeout);
        }
        let id = call.id.unwrap_or_else(|| self.take_id());
        assert!(call.id.is_none_or(|id| id < OWN_IDS), "ids from {OWN_IDS:#x} on are the connection's own");
        let header = Header::request(call.op, id, 0, &call.body, call.payload.len());
        let mut header = header.map_err(CallError::TooLarge)?;
        header.flags = call.flags;
        let (op, deadline) = (call.op.code(), call.deadline);
        let repeated = call.id.and_then(|id| self.pending.borrow_mut().adopt(id, op, deadline));
        let (serial, answer) = match repeated {
            Some(repeated) => repeated,
            None => self.queue_request(header, call).await?,
        };
        self.note_deadline(deadline);
        let _caller = Caller { shared: self, id, serial };
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Disconnected(self.end_reason())),
        }
    }

    async fn queue_request(
        &self,
        header: Header,
        call: Call,
    ) -> Result<(u64, OneReceiver<Answer>), CallError> {
        let bytes = (header.rest_len() + call.reply_bytes) as u64;
        let window = match self.try_window(bytes) {
            Some(window) => window,
            None => Box::pin(self.wait_for_window(bytes, call.deadline)).await?,
        };
        let mut pending = self.pending.borrow_mut();
        let expected = Expected { op: header.op, payload_max: call.reply_bytes };
        let waiting = pending.insert(header.request_id, expected, call.deadline, window);
        rt::sim::gauge("link.requests-out", pending.len() as u64);
        drop(pending);
        self.push(header, Sort::Request { deadline: call.deadline }, call.body, call.payload);
        Ok(waiting)
    }

    fn try_window(&self, bytes: u64) -> Option<(Permit, Permit)> {
        let window = self.window.get()?;
        Some((window.requests.try_acquire(1)?, window.bytes.try_acquire(bytes)?))
    }

    async fn wait_for_window(&self, bytes: u64, deadline: Instant) -> Result<(Permit, Permit), CallError> {
        let window = self.window.get().ok_or(CallError::Timeout)?;
        let room = async { (window.requests.acquire(1).await, window.bytes.acquire(bytes).await) };
        match first(rt::time::timeout_at(deadline, room), self.wait_until_useless()).await {
            First::Left(Ok(window)) => self.check_open().map(|()| window).map_err(CallError::Disconnected),
            First::Left(Err(_)) => Err(CallError::Timeout),
            First::Right(reason) => Err(CallError::Disconnected(reason)),
        }
    }

    fn note_deadline(&self, deadline: Instant) {
        if self.earliest.get().is_none_or(|earliest| deadline < earliest) {
            self.earliest.set(Some(deadline));
        }
        if deadline < self.watch_until.get() {
            self.watch.set();
        }
    }

    /// Ends the requests whose deadline has passed.
    pub(crate) fn expire(&self, now: Instant) {
        let (unsent, next) = self.pending.borrow_mut().expire(now);
        for id in unsent {
            self.withdraw(id);
        }
        self.earliest.set(next);
    }

    /// Takes back a request that has not begun to leave. The sending task learns of it: others may wait for the room.
    fn withdraw(&self, id: u64) {
        self.queue.borrow_mut().remove(id);
        self.send.set();
    }

    /// Sends a message nobody answers, as soon as the queue has room for it.
    pub(crate) async fn notify(&self, op: Op, body: Body) -> Result<(), CallError> {
        let header = Header::notice(op, &body, 0).map_err(CallError::TooLarge)?;
        loop {
            self.check_open().map_err(CallError::Disconnected)?;
            let room = self.room.notified();
            if self.has_room() {
                self.push(header, Sort::Other, body, Payload::none());
                return Ok(());
            }
            room.await;
        }
    }

    fn has_room(&self) -> bool {
        self.queue.borrow().bytes() + self.reserved.get() < self.options().queue_bytes
    }

    pub(crate) fn pending(&self) -> std::cell::RefMut<'_, PendingTable> {
        self.pending.borrow_mut()
    }

    // Requests of the peer.

    /// Counts a request of the peer in, before memory is spent on it.
    pub(crate) fn admit(&self, header: &Header) -> Result<(), Violation> {
        let limits = self.options().limits;
        let mut inbound = self.inbound.borrow_mut();
        if inbound.requests >= limits.requests {
            return Err(Violation::Requests { limit: limits.requests });
        }
        // One request may be larger than the whole window, if it is alone.
        let bytes = inbound.bytes + header.rest_len() as u64;
        if bytes > limits.bytes && inbound.bytes > 0 {
            return Err(Violation::Bytes { limit: limits.bytes });
        }
        inbound.requests += 1;
        inbound.bytes = bytes;
        rt::sim::gauge("link.requests-in", inbound.requests.into());
        rt::sim::gauge("link.request-bytes-in", bytes);
        Ok(())
    }

    /// Takes a request that has been counted in.
    pub(crate) fn take(self: &Rc<Self>, header: Header, request: Request, now: Instant) {
        let ticket = Ticket::new(Rc::clone(self), header);
        if self.phase.get() != Phase::Open {
            return ticket.respond(Status::Stopping.into());
        }
        if self.inbound.borrow().waiting.is_empty() && self.has_room() {
            return self.start(ticket, request, now);
        }
        self.inbound.borrow_mut().waiting.push_back((ticket, request));
    }

    /// Starts requests that had to wait, and lets notices in, as far as the queue has room.
    pub(crate) fn use_room(self: &Rc<Self>, now: Instant) {
        while self.has_room() {
            let next = self.inbound.borrow_mut().waiting.pop_front();
            let Some((ticket, request)) = next else { break };
            self.start(ticket, request, now);
        }
        if self.has_room() {
            self.room.notify_all();
        }
    }

    fn start(&self, mut ticket: Ticket, request: Request, now: Instant) {
        if request.deadline.is_some_and(|deadline| deadline <= now) {
            return ticket.respond(Status::Timeout.into());
        }
        let Some(dispatch) = &self.dispatch else { return ticket.respond(Status::Unsupported.into()) };
        ticket.reserve(dispatch.reply_bytes(&request));
        match self.connection() {
            Some(connection) => Rc::clone(dispatch).start(connection, request, ticket),
            None => ticket.respond(Status::Stopping.into()),
        }
    }

    /// Hands a notice to the service.
    pub(crate) fn take_notice(&self, notice: crate::service::Notice) {
        if let (Some(dispatch), Some(connection)) = (&self.dispatch, self.connection()) {
            Rc::clone(dispatch).notice(&connection, notice);
        }
    }

    /// Tells the peer who is a member no longer.
    pub(crate) fn announce(&self, list: &SignedList) {
        if self.phase.get() != Phase::Open {
            return;
        }
        let body = prost::Message::encode_to_vec(list.notice());
        if let Ok(header) = Header::notice(Op::Revocations, &body, 0) {
            self.push(header, Sort::Other, body.into(), Payload::none());
        }
    }

    /// Ends the connection if the peer is a member no longer.
    pub(crate) fn end_if_revoked(&self) {
        if let Err(refused) = self.local.credentials.standing().check(&self.identity) {
            self.end(CloseReason::Refused(refused));
        }
    }

    pub(crate) fn connection(&self) -> Option<Connection> {
        self.handle.borrow().upgrade().map(Connection)
    }

    /// Queues the answer to a request that has been counted in, and counts it out.
    pub(crate) fn respond(&self, request: &Header, response: Response) {
        {
            let mut inbound = self.inbound.borrow_mut();
            inbound.requests -= 1;
            inbound.bytes -= request.rest_len() as u64;
        }
        if self.phase.get() == Phase::Ended {
            return;
        }
        let Response { status, body, payload } = response;
        match Header::response(request, status, &body, payload.len()) {
            Ok(header) => self.push(header, Sort::Other, body, payload),
            Err(error) => {
                tracing::error!(peer = %self.address, op = request.op, %error, "an answer cannot be sent");
                let header = Header::response(request, Status::Internal, &[], 0);
                let header = header.expect("no body and no payload fit");
                self.push(header, Sort::Other, Body::default(), Payload::none());
            }
        }
    }

    // The end.

    /// Whether a draining connection has nothing left to do.
    pub(crate) fn is_drained(&self) -> bool {
        self.phase.get() == Phase::Draining
            && self.queue.borrow().is_empty()
            && self.inbound.borrow().requests == 0
    }

    /// Takes no more requests, of either side; ends when the running ones are answered.
    pub(crate) fn drain(&self, reason: CloseReason, goodbye: bool) {
        match self.phase.get() {
            Phase::Draining | Phase::Ended => return,
            Phase::Greeting | Phase::Open => self.phase.set(Phase::Draining),
        }
        self.drain_reason.replace(reason.clone());
        self.fail_pending(&reason);
        self.changed.notify_all();
        let waiting = std::mem::take(&mut self.inbound.borrow_mut().waiting);
        for (ticket, _) in waiting {
            ticket.respond(Status::Stopping.into());
        }
        if goodbye && let Ok(header) = Header::notice(Op::Goodbye, &[], 0) {
            self.push(header, Sort::Other, Body::default(), Payload::none());
        }
        self.send.set();
        self.watch.set();
    }

    /// Ends the connection at once.
    pub(crate) fn end(&self, reason: CloseReason) {
        if self.phase.replace(Phase::Ended) == Phase::Ended {
            return;
        }
        self.end.replace(Some(reason.clone()));
        self.fail_pending(&reason);
        self.queue.borrow_mut().clear();
        // The tickets count themselves out.
        let waiting = std::mem::take(&mut self.inbound.borrow_mut().waiting);
        drop(waiting);
        if let Some(greeted) = self.greeted.borrow_mut().take() {
            let _gone = greeted.send(Err(reason));
        }
        self.changed.notify_all();
        self.room.notify_all();
        self.send.set();
        self.abort.set();
        self.watch.set();
    }

    fn fail_pending(&self, reason: &CloseReason) {
        let mut pending = std::mem::take(&mut *self.pending.borrow_mut());
        pending.fail_all(reason);
    }

    /// The reason a draining connection ends with.
    pub(crate) fn drain_reason(&self) -> CloseReason {
        self.drain_reason.borrow().clone()
    }

    /// Why the connection has ended.
    pub(crate) fn end_reason(&self) -> CloseReason {
        self.end.borrow().clone().unwrap_or_else(|| self.drain_reason())
    }

    /// Waits for the end.
    pub(crate) async fn wait_for_end(&self) -> CloseReason {
        while self.phase.get() != Phase::Ended {
            self.changed.notified().await;
        }
        self.end_reason()
    }

    /// Waits until no more requests can be made.
    pub(crate) async fn wait_until_useless(&self) -> CloseReason {
        loop {
            match self.check_open() {
                Ok(()) => self.changed.notified().await,
                Err(reason) => return reason,
            }
        }
    }

    /// The peer takes no more requests.
    pub(crate) fn peer_stops(&self) {
        self.peer_stopping.set(true);
        self.changed.notify_all();
    }
}

/// Somebody who waits for an answer; takes the request back when he stops waiting.
struct Caller<'a> {
    shared: &'a Shared,
    id: u64,
    serial: u64,
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        let unsent = self.shared.pending.borrow_mut().forget(self.id, self.serial);
        if unsent {
            self.shared.withdraw(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use rt::buf::View;

    use super::*;
    use crate::endpoint::Limits;
    use crate::service::Service;
    use crate::testing::{open, run};

    /// Answers everything at once and notes the ids.
    #[derive(Default)]
    struct Quick(RefCell<Vec<u64>>);

    impl Service for Quick {
        async fn serve(self: Rc<Self>, _connection: Connection, request: Request) -> Response {
            self.0.borrow_mut().push(request.id);
            Response::ok(vec![0; 100])
        }

        fn reply_bytes(&self, request: &Request) -> usize {
            if request.op == Op::Read.code() { 1000 } else { 0 }
        }
    }

    fn callee(queue_bytes: usize) -> (Rc<Shared>, Connection, Rc<Quick>) {
        let limits = Limits { requests: 4, bytes: 1000 };
        let service = Rc::new(Quick::default());
        let dispatch: Rc<dyn Dispatch> = service.clone();
        let (shared, connection) =
            open(Options { queue_bytes, limits, ..Options::default() }, Some(dispatch));
        (shared, connection, service)
    }

    fn ask(shared: &Rc<Shared>, op: Op, id: u64, deadline: Option<Instant>) {
        let header = Header::request(op, id, 0, &[1; 10], 0).unwrap();
        shared.admit(&header).unwrap();
        let empty = View::empty();
        let request = Request { op: op.code(), id, flags: 0, body: empty.clone(), payload: empty, deadline };
        shared.take(header, request, rt::time::now());
    }

    #[test]
    fn a_request_whose_time_is_over_is_not_started() {
        run(async {
            let (shared, _connection, service) = callee(1000);
            ask(&shared, Op::Write, 1, Some(rt::time::now()));
            ask(&shared, Op::Write, 2, None);
            rt::yield_now().await;
            assert_eq!(*service.0.borrow(), [2]);
            assert_eq!(shared.inbound.borrow().requests, 0);
            assert_eq!(shared.queue.borrow().bytes(), 64 + 164, "both are answered");
        });
    }

    #[test]
    fn requests_wait_while_answers_pile_up_or_may() {
        run(async {
            let (shared, _connection, service) = callee(1000);
            for id in 1..=3 {
                ask(&shared, Op::Read, id, None);
            }
            rt::yield_now().await;
            // The first alone may fill the queue. Its answer turns out to be short, but nobody has sent it yet.
            assert_eq!((service.0.borrow().len(), shared.inbound.borrow().requests), (1, 2));
            assert_eq!(shared.reserved.get(), 0);
            shared.use_room(rt::time::now());
            rt::yield_now().await;
            assert_eq!(*service.0.borrow(), [1, 2]);
            // When the connection ends, those that wait are never started, and the others are counted out.
            shared.end(CloseReason::Cut);
            assert_eq!((shared.inbound.borrow().requests, shared.queue.borrow().bytes()), (0, 0));
            assert_eq!(*service.0.borrow(), [1, 2]);
        });
    }

    #[test]
    fn the_window_is_enforced_to_the_request_and_the_byte() {
        run(async {
            let (shared, _connection, _service) = callee(1000);
            let header = |len: usize| Header::request(Op::Write, 1, 0, &[], len).unwrap();
            shared.admit(&header(999)).unwrap();
            shared.admit(&header(1)).unwrap();
            assert_eq!(shared.admit(&header(1)), Err(Violation::Bytes { limit: 1000 }));
            shared.admit(&header(0)).unwrap();
            shared.admit(&header(0)).unwrap();
            assert_eq!(shared.admit(&header(0)), Err(Violation::Requests { limit: 4 }));
            for len in [999, 1, 0, 0] {
                shared.respond(&header(len), Status::Ok.into());
            }
            shared.admit(&header(4 << 20)).expect("a giant may come alone");
            assert_eq!(shared.admit(&header(1)), Err(Violation::Bytes { limit: 1000 }));
        });
    }

    #[test]
    fn a_connection_without_users_takes_no_requests() {
        run(async {
            let (shared, connection, service) = callee(1000);
            drop(connection);
            ask(&shared, Op::Write, 1, None);
            rt::yield_now().await;
            assert!(service.0.borrow().is_empty() && shared.inbound.borrow().requests == 0);
            assert_eq!(shared.phase(), Phase::Draining);
        });
    }
}
