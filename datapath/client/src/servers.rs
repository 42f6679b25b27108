//! The chunk servers a client talks to: one connection each, made again whenever it breaks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use link::{AskError, Call, CallError, Connection, Endpoint, Expect, Reply};
use rt::net::Address;
use rt::sync::Notify;
use rt::time::Instant;
use wire::Status;
use wire::hello::Ping;
use wire::lease::CsAddress;

use crate::detector::{Detector, FailureLimits, Traffic};
use crate::quickness::Quickness;

/// First pause after a failed attempt.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Pause before the same is said again.
const SAY_PAUSE: Duration = Duration::from_secs(60);

/// A connection and the boot of the host behind it (C10).
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) connection: Connection,
    pub(crate) boot_id: [u8; 16],
    pub(crate) serial: u64,
    traffic: Rc<Traffic>,
}

/// One chunk server.
#[derive(Debug)]
pub struct Server {
    id: u64,
    endpoint: Endpoint,
    addresses: RefCell<Vec<Address>>,
    live: RefCell<Option<Live>>,
    limits: FailureLimits,
    detector: Detector,
    /// How quickly it answers reads.
    quickness: Quickness,
    /// Somebody asks whether it is there at all.
    probing: Cell<bool>,
    /// The connection has come or gone.
    changed: Notify,
    connecting: Cell<bool>,
    serial: Cell<u64>,
    /// Its addresses have changed.
    moved: Rc<Notify>,
    /// Somebody asks where it is.
    locating: Cell<bool>,
    /// It has been said that it is away.
    missed: Cell<bool>,
    /// When it was last said that requests wait because of a status.
    said: RefCell<BTreeMap<Status, Instant>>,
}

impl Server {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether there is a connection now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.live.borrow().is_some()
    }

    /// The connection, if there is one now.
    pub(crate) fn live(&self) -> Option<Live> {
        self.live.borrow().clone()
    }

    /// The connection, waiting until there is one.
    pub(crate) async fn connected(self: &Rc<Self>) -> Live {
        loop {
            let changed = self.changed.notified();
            if let Some(live) = self.live() {
                return live;
            }
            self.connect_in_background();
            changed.await;
        }
    }

    /// How long it may be away.
    pub(crate) fn limits(&self) -> &FailureLimits {
        &self.limits
    }

    /// Waits until it counts as lost: it has been away for too long, or was silent when it was last there (C3).
    pub(crate) async fn lost(&self) {
        loop {
            let changed = self.changed.notified();
            match self.detector.lost_from() {
                Some(from) if from <= rt::time::now() => return,
                // Either way it is looked at again.
                Some(from) => drop(rt::time::timeout_at(from, changed).await),
                None => changed.await,
            }
        }
    }

    /// Makes a request over a connection. While the answer does not come somebody sees to it that the server is there at all; a
    /// connection on which nobody is ends, and with it the requests.
    pub(crate) async fn call(
        self: &Rc<Self>,
        live: &Live,
        call: Call,
        bytes: u64,
    ) -> Result<Reply, CallError> {
        let _counted = live.traffic.enter(bytes);
        let mut answer = std::pin::pin!(live.connection.call(call));
        loop {
            if let Ok(answer) = rt::time::timeout(self.limits.unanswered, answer.as_mut()).await {
                if answer.is_ok() {
                    live.traffic.answered();
                }
                return answer;
            }
            self.probe_in_background(live);
        }
    }

    fn probe_in_background(self: &Rc<Self>, live: &Live) {
        if !self.is_current(live.serial) || self.probing.replace(true) {
            return;
        }
        let (this, live) = (Rc::clone(self), live.clone());
        rt::spawn(async move {
            let is_there = this.probe(&live).await;
            this.probing.set(false);
            if !is_there && this.is_current(live.serial) {
                tracing::warn!("chunk server {} has fallen silent", this.id);
                this.detector.silence();
                this.forget(live.serial);
                this.connect_in_background();
                // Whoever waits for an answer on it hears of it at once.
                live.connection.close().await;
            }
        });
    }

    async fn probe(&self, live: &Live) -> bool {
        let deadline = rt::time::now() + self.limits.unheard;
        let answers = live.traffic.answers();
        let is_there = if live.traffic.is_crowded() {
            // A ping would wait behind requests that a slow disk has not carried out. A connection of its own does not.
            rt::time::timeout_at(deadline, self.dial()).await.is_ok_and(|connection| connection.is_some())
        } else {
            let answer = live.connection.ask(&Ping {}, deadline).await;
            !matches!(answer, Err(AskError::Call(CallError::Timeout)))
        };
        is_there || live.traffic.answers() != answers
    }

    /// How quickly it answers reads.
    pub(crate) fn quickness(&self) -> &Quickness {
        &self.quickness
    }

    fn is_current(&self, serial: u64) -> bool {
        self.live.borrow().as_ref().is_some_and(|live| live.serial == serial)
    }

    /// Waits until the connection comes or goes, from this call on.
    pub(crate) fn changed(&self) -> impl Future<Output = ()> {
        self.changed.notified()
    }

    /// Begins to connect unless that is under way.
    pub(crate) fn connect_in_background(self: &Rc<Self>) {
        if self.live.borrow().is_some() {
            return;
        }
        self.detector.miss(rt::time::now());
        if self.connecting.replace(true) {
            return;
        }
        // The task ends when the server is forgotten: it holds no strong reference between attempts.
        let this = Rc::downgrade(self);
        let moved = Rc::clone(&self.moved);
        rt::spawn(async move {
            let mut pause = PAUSE_MIN;
            while let Some(server) = this.upgrade() {
                // Heard also while an attempt is under way.
                let elsewhere = moved.notified();
                if server.attempt().await {
                    server.connecting.set(false);
                    return;
                }
                drop(server);
                let jitter = Duration::from_nanos(rt::random::below(pause.as_nanos() as u64 / 2));
                let has_moved = rt::time::timeout(pause + jitter, elsewhere).await.is_ok();
                pause = if has_moved { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            }
        });
    }

    async fn attempt(self: &Rc<Self>) -> bool {
        match self.dial().await {
            Some(connection) => self.adopt(connection),
            None => false,
        }
    }

    async fn dial(&self) -> Option<Connection> {
        let addresses = self.addresses.borrow().clone();
        for address in addresses {
            match self.endpoint.connect(&address, Expect::chunk_server(self.id)).await {
                Ok(connection) => return Some(connection),
                Err(error) => tracing::debug!("chunk server {}: {error}", self.id),
            }
        }
        None
    }

    /// Uses a connection from now on; says whether it can be used.
    fn adopt(self: &Rc<Self>, connection: Connection) -> bool {
        let Ok(boot_id) = <[u8; 16]>::try_from(connection.peer().boot_id.as_slice()) else {
            tracing::warn!("chunk server {} does not say which boot it runs in", self.id);
            return false;
        };
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        let traffic = Rc::default();
        *self.live.borrow_mut() = Some(Live { connection: connection.clone(), boot_id, serial, traffic });
        self.detector.meet();
        self.changed.notify_all();
        if self.missed.take() {
            tracing::info!("chunk server {} is back", self.id);
        }
        let this = Rc::downgrade(self);
        rt::spawn(async move {
            let reason = connection.closed().await;
            if let Some(server) = this.upgrade() {
                tracing::debug!("chunk server {}: {reason}", server.id);
                server.forget(serial);
                server.connect_in_background();
            }
        });
        true
    }

    /// Drops the connection with this serial number, if it is still the current one.
    pub(crate) fn forget(&self, serial: u64) {
        if self.is_current(serial) {
            *self.live.borrow_mut() = None;
            self.detector.miss(rt::time::now());
            self.changed.notify_all();
        }
    }

    /// Takes its addresses from a map.
    fn set_addresses(&self, addresses: Vec<Address>) {
        if *self.addresses.borrow() != addresses {
            *self.addresses.borrow_mut() = addresses;
            self.moved.notify_all();
        }
    }

    /// Lets one task ask where it is, while that task keeps what this returns.
    pub(crate) fn locate(self: &Rc<Self>) -> Option<Locating> {
        (!self.locating.replace(true)).then(|| Locating(Rc::clone(self)))
    }

    /// Whether to say that requests wait because of a status: not again soon.
    pub(crate) fn may_say(&self, status: Status) -> bool {
        let now = rt::time::now();
        let mut said = self.said.borrow_mut();
        let is_due = said.get(&status).is_none_or(|at| now.since(*at) >= SAY_PAUSE);
        if is_due {
            said.insert(status, now);
        }
        is_due
    }

    /// Says that I/O waits for it, once until it is back.
    pub(crate) fn miss(&self) {
        if !self.missed.replace(true) {
            let addresses: Vec<String> = self.addresses.borrow().iter().map(ToString::to_string).collect();
            tracing::warn!("waiting for chunk server {} at {}", self.id, addresses.join(", "));
        }
    }
}

/// The right to ask where a chunk server is.
#[derive(Debug)]
pub(crate) struct Locating(Rc<Server>);

impl Drop for Locating {
    fn drop(&mut self) {
        self.0.locating.set(false);
    }
}

/// All chunk servers known to this client.
#[derive(Debug)]
pub struct Servers {
    endpoint: Endpoint,
    limits: FailureLimits,
    servers: RefCell<BTreeMap<u64, Rc<Server>>>,
}

impl Servers {
    /// Without any server yet.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Rc<Self> {
        Self::with_limits(endpoint, FailureLimits::default())
    }

    /// Without any server yet; each may be away or silent for this long before it is reported.
    #[must_use]
    pub fn with_limits(endpoint: Endpoint, limits: FailureLimits) -> Rc<Self> {
        Rc::new(Self { endpoint, limits, servers: RefCell::default() })
    }

    /// The server with this id; its addresses come with the maps.
    pub(crate) fn get(&self, id: u64) -> Rc<Server> {
        let mut servers = self.servers.borrow_mut();
        Rc::clone(servers.entry(id).or_insert_with(|| {
            Rc::new(Server {
                id,
                endpoint: self.endpoint.clone(),
                addresses: RefCell::default(),
                live: RefCell::default(),
                limits: self.limits,
                detector: Detector::new(&self.limits),
                quickness: Quickness::default(),
                probing: Cell::new(false),
                changed: Notify::new(),
                connecting: Cell::new(false),
                serial: Cell::new(0),
                moved: Rc::default(),
                locating: Cell::new(false),
                missed: Cell::new(false),
                said: RefCell::default(),
            })
        }))
    }

    /// Takes addresses from a map; unusable ones are passed over with a warning.
    pub(crate) fn learn(&self, found: &[CsAddress]) {
        for server in found {
            let mut addresses = Vec::new();
            for text in &server.addresses {
                match text.parse() {
                    Ok(address) => addresses.push(Address::Tcp(address)),
                    Err(_) => {
                        tracing::warn!("chunk server {} has an unusable address: {text:?}", server.cs_id)
                    }
                }
            }
            if !addresses.is_empty() {
                self.get(server.cs_id).set_addresses(addresses);
            }
        }
    }

    /// Every server, with whether it is connected.
    #[must_use]
    pub fn states(&self) -> Vec<(u64, bool)> {
        self.servers.borrow().values().map(|server| (server.id, server.is_connected())).collect()
    }
}
