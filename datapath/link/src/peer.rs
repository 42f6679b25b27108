//! One server that we want to stay connected to.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rt::net::Address;
use rt::sync::Notify;
use rt::time::Instant;
use rt::{First, first};

use crate::backoff::Backoff;
use crate::connection::{Connection, read_reply};
use crate::endpoint::{Endpoint, Expect};
use crate::error::{AskError, CallError, CloseReason, ConnectError};
use crate::message::{Call, Reply};
use crate::service::{Dispatch, Service};
use crate::signal::Signal;

/// A connection that lived this long was a good one: the next attempts begin with short pauses.
const GOOD: Duration = Duration::from_secs(1);

/// What happens to the connection to a server.
#[derive(Clone, Debug)]
pub enum Change {
    /// It is there.
    Up(Connection),
    /// It has ended, or takes no more requests.
    Down(CloseReason),
    /// An attempt to make one failed; there will be others.
    Failed(Arc<ConnectError>),
}

/// Who is told of changes. It is called by a task that has nothing else to do; it must not wait.
pub(crate) type Observer = Box<dyn Fn(&Change)>;

/// How to keep a connection.
#[derive(Default)]
pub struct Keep {
    pub(crate) expect: Expect,
    pub(crate) dispatch: Option<Rc<dyn Dispatch>>,
    pub(crate) observer: Option<Observer>,
    /// The last attempt failed, and the log has it.
    failing: Cell<bool>,
}

impl std::fmt::Debug for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keep").field("expect", &self.expect).finish_non_exhaustive()
    }
}

impl Keep {
    /// A connection to whom we expect.
    #[must_use]
    pub fn new(expect: Expect) -> Self {
        Self { expect, ..Self::default() }
    }

    /// Requests of the server are answered by `service`.
    #[must_use]
    pub fn serving<S: Service>(self, service: Rc<S>) -> Self {
        Self { dispatch: Some(service), ..self }
    }

    /// Tells `observer` of every change. It must not wait.
    #[must_use]
    pub fn observed(self, observer: impl Fn(&Change) + 'static) -> Self {
        Self { observer: Some(Box::new(observer)), ..self }
    }

    pub(crate) fn tell(&self, change: &Change) {
        match change {
            Change::Up(connection) => {
                let peer = connection.peer();
                tracing::info!(address = %peer.address, node = peer.identity.node, "connected");
            }
            Change::Down(reason) => tracing::info!(%reason, "disconnected"),
            // Attempts go on for as long as the server is away; one line is enough.
            Change::Failed(error) if self.failing.get() => tracing::debug!(%error, "no connection"),
            Change::Failed(error) => tracing::warn!(%error, "no connection"),
        }
        self.failing.set(matches!(change, Change::Failed(_)));
        if let Some(observer) = &self.observer {
            observer(change);
        }
    }
}

struct Inner {
    endpoint: Endpoint,
    addresses: RefCell<Vec<Address>>,
    keep: Keep,
    current: RefCell<Option<Connection>>,
    /// Why there is no connection, as far as is known.
    failure: RefCell<Option<CallError>>,
    /// For those who wait for a connection.
    up: Notify,
    /// For the keeper: do not pause any longer.
    hurry: Signal,
    stopped: Cell<bool>,
}

/// A server that we stay connected to. All callers share its one connection; the task that keeps it ends with
/// the last clone.
#[derive(Clone)]
pub struct Peer(Rc<Owner>);

struct Owner(Rc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.stopped.set(true);
        self.0.hurry.set();
        drop(self.0.current.take());
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = &self.0.0;
        f.debug_struct("Peer")
            .field("addresses", &inner.addresses.borrow())
            .field("connection", &inner.current.borrow())
            .finish()
    }
}

impl Peer {
    /// Begins to keep a connection to the server that has these addresses (tried in turn).
    ///
    /// # Panics
    /// When called outside an executor.
    #[must_use]
    pub fn start(endpoint: &Endpoint, addresses: Vec<Address>, keep: Keep) -> Self {
        let inner = Rc::new(Inner {
            endpoint: endpoint.clone(),
            addresses: RefCell::new(addresses),
            keep,
            current: RefCell::new(None),
            failure: RefCell::new(None),
            up: Notify::new(),
            hurry: Signal::default(),
            stopped: Cell::new(false),
        });
        rt::spawn(run(Rc::clone(&inner)));
        Self(Rc::new(Owner(inner)))
    }

    /// Replaces the addresses, and tries the new ones at once if there is no connection.
    pub fn set_addresses(&self, addresses: Vec<Address>) {
        self.0.0.addresses.replace(addresses);
        self.0.0.hurry.set();
    }

    /// The connection, if there is one that takes requests.
    #[must_use]
    pub fn current(&self) -> Option<Connection> {
        self.0.0.current.borrow().clone().filter(Connection::is_open)
    }

    /// The connection, waiting for it until `deadline`.
    ///
    /// # Errors
    /// [`CallError::Unreachable`] with the last attempt's error; [`CallError::Disconnected`] when there was none since
    /// the last connection ended; [`CallError::Timeout`] when the first has not ended yet.
    pub async fn connection(&self, deadline: Instant) -> Result<Connection, CallError> {
        let inner = &self.0.0;
        loop {
            if let Some(connection) = self.current() {
                return Ok(connection);
            }
            let up = inner.up.notified();
            if rt::time::timeout_at(deadline, up).await.is_err() {
                let failure = inner.failure.borrow().clone();
                return Err(failure.unwrap_or(CallError::Timeout));
            }
        }
    }

    /// Makes a request on the connection, once there is one. Not repeated when the connection breaks: whether the
    /// request was executed is not known then.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, call: Call) -> Result<Reply, CallError> {
        self.connection(call.deadline).await?.call(call).await
    }

    /// Makes a control request as [`Peer::call`] does.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask<R: wire::Call>(&self, request: &R, deadline: Instant) -> Result<R::Reply, AskError> {
        let call = Call::new(R::OP, wire::encode_body(request)?, deadline);
        read_reply::<R>(&self.call(call).await?)
    }
}

/// Keeps the connection.
async fn run(inner: Rc<Inner>) {
    let mut backoff = Backoff::new();
    let mut turn = 0usize;
    while !inner.stopped.get() {
        let address = {
            let addresses = inner.addresses.borrow();
            (!addresses.is_empty()).then(|| addresses[turn % addresses.len()].clone())
        };
        turn = turn.wrapping_add(1);
        if let Some(address) = address {
            attempt(&inner, &address, &mut backoff).await;
        }
        if inner.stopped.get() {
            return;
        }
        if let First::Right(()) = first(rt::time::sleep(backoff.next()), inner.hurry.wait()).await {
            backoff.reset();
        }
    }
}

/// Connects to one address and stays for as long as the connection does.
async fn attempt(inner: &Rc<Inner>, address: &Address, backoff: &mut Backoff) {
    let dialled = inner.endpoint.dial(address, inner.keep.expect, inner.keep.dispatch.clone()).await;
    if inner.stopped.get() {
        return;
    }
    let connection = match dialled {
        Ok(connection) => connection,
        Err(error) => {
            let error = Arc::new(error);
            inner.failure.replace(Some(CallError::Unreachable(Arc::clone(&error))));
            return inner.keep.tell(&Change::Failed(error));
        }
    };
    let since = rt::time::now();
    let shared = Rc::clone(&connection.0.shared);
    inner.failure.replace(None);
    inner.current.replace(Some(connection.clone()));
    inner.up.notify_all();
    inner.keep.tell(&Change::Up(connection));
    // Without a handle of its own: the connection ends with its users.
    let reason = shared.wait_until_useless().await;
    drop(inner.current.take());
    inner.failure.replace(Some(CallError::Disconnected(reason.clone())));
    if since.elapsed() >= GOOD {
        backoff.reset();
    }
    if !inner.stopped.get() {
        inner.keep.tell(&Change::Down(reason));
    }
}
