//! Finding the metadata server that is master, and asking it.
//!
//! Any server of the list can be asked: one that is not the master answers so and, as far as it knows, names the
//! one that is. All callers share one connection and one search.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rt::sync::Notify;
use rt::time::Instant;
use wire::{Action, Blame};

use crate::backoff::Backoff;
use crate::connection::{Connection, read_reply};
use crate::endpoint::Endpoint;
use crate::error::{AskError, CallError, ConnectError};
use crate::message::{Call, Reply};
use crate::peer::{Change, Keep};
use crate::servers::ServerAddress;
use crate::shared::Shared;

/// How many times in a row a server may name another one and be believed at once.
const REDIRECTS: u32 = 3;

struct Inner {
    endpoint: Endpoint,
    servers: RefCell<Vec<ServerAddress>>,
    /// The server to try first: a hint named it.
    favourite: RefCell<Option<ServerAddress>>,
    /// Which server of the list is tried next.
    turn: Cell<usize>,
    keep: Keep,
    current: RefCell<Option<(ServerAddress, Connection)>>,
    searching: Cell<bool>,
    /// Callers that wait for the search.
    waiting: Cell<usize>,
    failure: RefCell<Option<Arc<ConnectError>>>,
    found: Notify,
}

/// The master among the metadata servers. Cheap to clone; all clones share one connection.
#[derive(Clone)]
pub struct Master(Rc<Inner>);

impl std::fmt::Debug for Master {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Master")
            .field("servers", &self.0.servers.borrow())
            .field("connection", &self.0.current.borrow().as_ref().map(|(_, connection)| connection))
            .finish()
    }
}

impl Master {
    /// The master among `servers`. Nothing is connected before the first request.
    ///
    /// [`Keep::observed`] is told of each new connection before the requests that wait for it go out.
    #[must_use]
    pub fn new(endpoint: &Endpoint, servers: Vec<ServerAddress>, keep: Keep) -> Self {
        Self(Rc::new(Inner {
            endpoint: endpoint.clone(),
            servers: RefCell::new(servers),
            favourite: RefCell::new(None),
            turn: Cell::new(0),
            keep,
            current: RefCell::new(None),
            searching: Cell::new(false),
            waiting: Cell::new(0),
            failure: RefCell::new(None),
            found: Notify::new(),
        }))
    }

    /// Replaces the list of servers; a connection that is there stays.
    pub fn set_servers(&self, servers: Vec<ServerAddress>) {
        self.0.servers.replace(servers);
    }

    /// The server last connected to, for messages.
    #[must_use]
    pub fn server(&self) -> Option<ServerAddress> {
        self.0.current.borrow().as_ref().map(|(server, _)| server.clone())
    }

    fn current(&self) -> Option<Connection> {
        let current = self.0.current.borrow();
        current.as_ref().map(|(_, connection)| connection.clone()).filter(Connection::is_open)
    }

    /// A connection to the master, or to a server that will name it; waits for it until `deadline`.
    ///
    /// # Errors
    /// [`CallError::Unreachable`] with the last attempt's error, or [`CallError::Timeout`] when none has ended yet.
    pub async fn connection(&self, deadline: Instant) -> Result<Connection, CallError> {
        loop {
            if let Some(connection) = self.current() {
                return Ok(connection);
            }
            let found = self.0.found.notified();
            let _waiting = Waiting::new(&self.0.waiting);
            if !self.0.searching.replace(true) {
                rt::spawn(search(Rc::clone(&self.0)));
            }
            if rt::time::timeout_at(deadline, found).await.is_err() {
                let failure = self.0.failure.borrow().clone();
                return Err(failure.map_or(CallError::Timeout, CallError::Unreachable));
            }
        }
    }

    /// Makes a request that may be executed more than once (or has its [`Call::id`]): it is repeated, on other
    /// servers if need be, until it is answered or its deadline passes. Statuses that ask for that (`not_master`,
    /// `stopping`, `retry`, …) are handled here.
    ///
    /// # Errors
    /// [`CallError`]. When the deadline passes after a server asked for patience, its last answer is the result.
    pub async fn call(&self, call: Call) -> Result<Reply, CallError> {
        let mut patience = Patience { backoff: Backoff::new(), redirects: 0 };
        let mut last = None;
        loop {
            let attempt = match self.connection(call.deadline).await {
                Ok(connection) => (connection.call(call.clone()).await, connection),
                Err(error) => return last.ok_or(error),
            };
            let pause = match attempt {
                (Ok(reply), _) if !is_worth_repeating(&reply) => return Ok(reply),
                (Ok(reply), connection) => {
                    let pause = self.heed(&connection, &reply, &mut patience);
                    last = Some(reply);
                    pause
                }
                (Err(CallError::Disconnected(_)), connection) => {
                    self.leave(&connection, None);
                    patience.backoff.next()
                }
                (Err(error), _) => return last.ok_or(error),
            };
            if rt::time::now() + pause >= call.deadline {
                rt::time::sleep_until(call.deadline).await;
                return last.ok_or(CallError::Timeout);
            }
            rt::time::sleep(pause).await;
        }
    }

    /// Does what a reply asks for, and says how long to wait.
    fn heed(&self, connection: &Connection, reply: &Reply, patience: &mut Patience) -> Duration {
        let error = reply.error();
        match reply.status.action() {
            Action::Redirect => {
                let hint: Option<ServerAddress> = error.hint.parse().ok();
                let hinted = hint.is_some();
                self.leave(connection, hint);
                patience.redirects += 1;
                if hinted && patience.redirects <= REDIRECTS {
                    return Duration::ZERO;
                }
            }
            Action::Reconnect => self.leave(connection, None),
            _ => {}
        }
        patience.backoff.next().max(Duration::from_millis(error.retry_after_ms.into()))
    }

    /// Makes a control request that may be executed more than once, as [`Master::call`] does.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask<R: wire::Call>(&self, request: &R, deadline: Instant) -> Result<R::Reply, AskError> {
        let call = Call::new(R::OP, wire::encode_body(request)?, deadline);
        read_reply::<R>(&self.call(call).await?)
    }

    /// Makes a control request under an id that is the same in every attempt, as [`Master::call`] does.
    ///
    /// # Errors
    /// [`AskError`].
    ///
    /// # Panics
    /// When `id` is one of the connections' own ids ([`crate::OWN_IDS`]).
    pub async fn ask_as<R: wire::Call>(
        &self,
        id: u64,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Reply, AskError> {
        let call = Call::new(R::OP, wire::encode_body(request)?, deadline).with_id(id);
        read_reply::<R>(&self.call(call).await?)
    }

    /// Looks for another server, `hint` first, unless somebody has already.
    fn leave(&self, from: &Connection, hint: Option<ServerAddress>) {
        let is_current = self.0.current.borrow().as_ref().is_some_and(|(_, connection)| connection.is(from));
        if is_current {
            self.0.favourite.replace(hint);
            drop(self.0.current.take());
        }
    }
}

/// Whether the same request may do better later or elsewhere, and nobody but time and place is to blame.
fn is_worth_repeating(reply: &Reply) -> bool {
    let again = matches!(
        reply.status.action(),
        Action::Redirect | Action::Reconnect | Action::RetrySame | Action::RetryAfter
    );
    again && matches!(reply.status.blame(), Blame::Peer | Blame::Corrupt)
}

/// How long one request is willing to be sent about.
struct Patience {
    backoff: Backoff,
    redirects: u32,
}

/// Counts a caller that waits.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Connects to one server after the other until one can be reached or nobody waits any more.
async fn search(inner: Rc<Inner>) {
    let mut backoff = Backoff::new();
    while inner.waiting.get() > 0 {
        for server in round(&inner) {
            if let Some(connection) = try_server(&inner, &server).await {
                inner.searching.set(false);
                let shared = come_up(&inner, server, connection);
                let weak = Rc::downgrade(&inner);
                drop(inner);
                return stay(shared, weak).await;
            }
        }
        rt::time::sleep(backoff.next()).await;
    }
    inner.searching.set(false);
}

/// The servers to try, in order: the favourite, then the list from where the last round ended.
fn round(inner: &Inner) -> Vec<ServerAddress> {
    let favourite = inner.favourite.borrow_mut().take();
    let servers = inner.servers.borrow();
    let start = inner.turn.get();
    inner.turn.set(start.wrapping_add(1));
    let listed = (0..servers.len()).map(|at| servers[(start + at) % servers.len()].clone());
    let others: Vec<_> = listed.filter(|server| Some(server) != favourite.as_ref()).collect();
    favourite.into_iter().chain(others).collect()
}

async fn try_server(inner: &Inner, server: &ServerAddress) -> Option<Connection> {
    let addresses = match server.for_clients().await {
        Ok(addresses) => addresses,
        Err(error) => {
            tracing::warn!(%server, %error, "cannot find the address of a metadata server");
            return None;
        }
    };
    for address in addresses {
        match inner.endpoint.dial(&address, inner.keep.expect, inner.keep.dispatch.clone()).await {
            Ok(connection) => return Some(connection),
            Err(error) => {
                let error = Arc::new(error);
                inner.failure.replace(Some(Arc::clone(&error)));
                inner.keep.tell(&Change::Failed(error));
            }
        }
    }
    None
}

/// Hands the connection out.
fn come_up(inner: &Inner, server: ServerAddress, connection: Connection) -> Rc<Shared> {
    let shared = Rc::clone(&connection.0.shared);
    inner.failure.replace(None);
    inner.current.replace(Some((server, connection.clone())));
    inner.keep.tell(&Change::Up(connection));
    inner.found.notify_all();
    shared
}

/// Waits until a connection is of no use any more. Holds neither the connection nor the [`Master`], which end with
/// their users.
async fn stay(shared: Rc<Shared>, inner: Weak<Inner>) {
    let reason = shared.wait_until_useless().await;
    let Some(inner) = inner.upgrade() else { return };
    let current =
        inner.current.borrow_mut().take_if(|(_, connection)| Rc::ptr_eq(&connection.0.shared, &shared));
    drop(current);
    inner.keep.tell(&Change::Down(reason));
}
