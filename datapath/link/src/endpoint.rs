//! One end of connections: it connects to others and accepts them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rt::net::{Address, Listener, Reader, Writer};
use rt::sync::{OneReceiver, OneSender, Semaphore, oneshot};
use rt::time::Instant;
use rt::{First, first};
use wire::hello::Role;

use crate::connection::Connection;
use crate::credentials::Credentials;
use crate::error::{CloseReason, ConnectCause, ConnectError};
use crate::greeting::{self, LocalHello};
use crate::guest::{Channel, Host};
use crate::identity::Identity;
use crate::revocation::SignedList;
use crate::security::{ConfigError, Configs, Security};
use crate::service::{Dispatch, Service};
use crate::shared::{Greeter, Shared};
use crate::tasks;
use crate::tls::handshake::{self, HandshakeError, Secured};

/// Guests that may be received at a time. They take no place of a member's.
const GUESTS_MAX: u64 = 16;
/// How long a visit may take. People have typed their password before it begins.
const VISIT_MAX: Duration = Duration::from_secs(20);

/// What a peer may have under way on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests.
    pub requests: u32,
    /// Bytes of bodies and payloads of requests; one request may be larger when it is alone.
    pub bytes: u64,
}

/// How an endpoint behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the cryptography comes from.
    pub security: Security,
    /// What each peer may have under way.
    pub limits: Limits,
    /// How long connecting may take, handshake and greeting included.
    pub connect_timeout: Duration,
    /// How long handshake and greeting of a peer that connects may take.
    pub handshake_timeout: Duration,
    /// After this time without a sign of life the peer is asked for one.
    pub keepalive: Duration,
    /// After this time without a sign of life the connection is given up; at least twice [`Options::keepalive`].
    pub silence_max: Duration,
    /// How long an orderly end may take.
    pub close_timeout: Duration,
    /// When this many bytes wait to be sent on a connection or may soon ([`Service::reply_bytes`]), no request of the
    /// peer is started and no notice taken.
    pub queue_bytes: usize,
    /// Most connections that peers may have made.
    pub connections_max: u32,
    /// Most peers that may be shaking hands; they are not known yet. When there are more the oldest is dropped.
    pub handshakes_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            security: Security::real(),
            limits: Limits { requests: 256, bytes: 32 << 20 },
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(5),
            keepalive: Duration::from_secs(5),
            silence_max: Duration::from_secs(15),
            close_timeout: Duration::from_secs(5),
            queue_bytes: 4 << 20,
            connections_max: 4096,
            handshakes_max: 128,
        }
    }
}

/// Whom we expect at an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// What it is; `None` = anything.
    pub role: Option<Role>,
    /// Which chunk server it is; `None` = any.
    pub cs_id: Option<u64>,
}

impl Expect {
    /// Anybody of this role.
    #[must_use]
    pub const fn role(role: Role) -> Self {
        Self { role: Some(role), cs_id: None }
    }

    /// This chunk server and no other.
    #[must_use]
    pub const fn chunk_server(cs_id: u64) -> Self {
        Self { role: Some(Role::Cs), cs_id: Some(cs_id) }
    }
}

/// What an endpoint and its connections share.
pub(crate) struct Local {
    pub(crate) options: Options,
    pub(crate) credentials: Credentials,
    pub(crate) hello: RefCell<LocalHello>,
    configs: RefCell<Configs>,
    /// Who receives those without a certificate.
    guests: RefCell<Option<Rc<dyn Host>>>,
    guest_places: Semaphore,
    /// What every peer is told, if this side publishes it.
    published: RefCell<Option<Rc<SignedList>>>,
    /// A new certificate is being asked for.
    pub(crate) renewing: Cell<bool>,
    strangers: Rc<Strangers>,
    accepted: Semaphore,
    live: RefCell<Vec<Weak<Shared>>>,
    refusals: LogLimit,
}

/// One end of connections. Cheap to clone; belongs to one executor.
#[derive(Clone)]
pub struct Endpoint(pub(crate) Rc<Local>);

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("hello", &self.0.hello.borrow()).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint that is who `credentials` and `hello` say.
    ///
    /// A certificate that is not valid by this host's clock is used all the same, with a line in the log: the clock may be
    /// wrong, and the peers judge by theirs.
    ///
    /// # Errors
    /// [`ConfigError`] when the credentials cannot be used.
    ///
    /// # Panics
    /// When called outside an executor, or with limits of zero.
    pub fn new(credentials: Credentials, hello: LocalHello, options: Options) -> Result<Self, ConfigError> {
        assert!(options.limits.requests > 0 && options.limits.bytes > 0, "limits of zero allow nothing");
        let configs = Configs::new(&credentials, options.security)?;
        if let Err(error) = credentials.check_validity() {
            tracing::warn!(node = credentials.identity().node, %error, "peers may refuse this node");
        }
        Ok(Self(Rc::new(Local {
            configs: RefCell::new(configs),
            guests: RefCell::new(None),
            guest_places: Semaphore::new(GUESTS_MAX),
            published: RefCell::new(None),
            renewing: Cell::new(false),
            strangers: Rc::new(Strangers::new(options.handshakes_max)),
            accepted: Semaphore::new(options.connections_max.into()),
            live: RefCell::default(),
            refusals: LogLimit::default(),
            hello: RefCell::new(hello),
            credentials,
            options,
        })))
    }

    /// The credentials it was made with.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    /// Lets those in who have no certificate, to be received by `host`. Without this they are refused in the handshake.
    pub fn receive_guests(&self, host: Rc<dyn Host>) {
        self.0.guests.replace(Some(host));
    }

    /// From now on later connections are made with these credentials; those that are there stay as they are.
    ///
    /// # Errors
    /// [`ConfigError`]; then nothing has changed.
    pub(crate) fn adopt(&self, credentials: &Credentials) -> Result<(), ConfigError> {
        self.0.configs.replace(Configs::new(credentials, self.0.options.security)?);
        Ok(())
    }

    /// Tells this list to everybody who is connected, and to everybody who connects from now on; cuts the connections of those
    /// whom it names, and refuses them. A list that is no later than the one known changes nothing.
    pub fn publish(&self, list: SignedList) {
        if !self.0.credentials.standing().take(list.clone()) {
            return;
        }
        self.cut_revoked();
        let list = Rc::new(list);
        self.0.published.replace(Some(Rc::clone(&list)));
        for shared in self.live() {
            shared.announce(&list);
        }
    }

    /// Tells a peer that has just connected.
    pub(crate) fn announce_to(&self, shared: &Shared) {
        if let Some(list) = &*self.0.published.borrow() {
            shared.announce(list);
        }
    }

    /// Ends the connections of those who are members no longer.
    pub(crate) fn cut_revoked(&self) {
        for shared in self.live() {
            shared.end_if_revoked();
        }
    }

    fn live(&self) -> Vec<Rc<Shared>> {
        self.0.live.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// Changes what later connections say about this side.
    pub fn update_hello(&self, change: impl FnOnce(&mut LocalHello)) {
        change(&mut self.0.hello.borrow_mut());
    }

    /// Connects. Requests of the peer are answered with [`wire::Status::Unsupported`].
    ///
    /// # Errors
    /// [`ConnectError`], which names the address and says what to do.
    pub async fn connect(&self, address: &Address, expect: Expect) -> Result<Connection, ConnectError> {
        self.dial(address, expect, None).await
    }

    /// Connects, and answers the peer's requests on the connection with `service`.
    ///
    /// # Errors
    /// As [`Endpoint::connect`].
    pub async fn connect_serving<S: Service>(
        &self,
        address: &Address,
        expect: Expect,
        service: Rc<S>,
    ) -> Result<Connection, ConnectError> {
        self.dial(address, expect, Some(service)).await
    }

    pub(crate) async fn dial(
        &self,
        address: &Address,
        expect: Expect,
        dispatch: Option<Rc<dyn Dispatch>>,
    ) -> Result<Connection, ConnectError> {
        let within = self.0.options.connect_timeout;
        let deadline = rt::time::now() + within;
        let connected = match rt::time::timeout_at(deadline, self.connect_securely(address)).await {
            Ok(connected) => connected,
            Err(_) => Err(ConnectCause::Timeout(within)),
        };
        let greeted = match connected.and_then(|(reader, writer, mut secured)| {
            let peer = secured.peer.take().ok_or(HandshakeError::NoCertificate)?;
            Ok(((reader, writer, secured), peer))
        }) {
            Ok((secured, peer)) => {
                let (connection, greeted) =
                    self.start(address.clone(), secured, peer, Greeter::Caller(expect), dispatch);
                greeting::begin(&connection.0.shared);
                greet_until(deadline, &connection, greeted)
                    .await
                    .map(|()| connection)
                    .map_err(ConnectCause::Greeting)
            }
            Err(cause) => Err(cause),
        };
        greeted.map_err(|cause| ConnectError { address: address.clone(), cause })
    }

    async fn connect_securely(&self, address: &Address) -> Result<(Reader, Writer, Secured), ConnectCause> {
        let (mut reader, mut writer) = rt::net::connect(address).await.map_err(ConnectCause::Io)?;
        let config = Arc::clone(&self.0.configs.borrow().client);
        let secured = handshake::connect(&config, &mut reader, &mut writer).await?;
        Ok((reader, writer, secured))
    }

    /// Starts the tasks of a connection.
    fn start(
        &self,
        address: Address,
        (reader, writer, secured): (Reader, Writer, Secured),
        peer: Identity,
        greeter: Greeter,
        dispatch: Option<Rc<dyn Dispatch>>,
    ) -> (Connection, OneReceiver<Result<(), CloseReason>>) {
        let (greeted, greeting) = oneshot();
        let shared = Shared::new(address, peer, Rc::clone(&self.0), greeter, dispatch, greeted);
        let connection = Connection::new(&shared);
        self.remember(&shared);
        rt::spawn(tasks::receive(Rc::clone(&shared), reader, secured.opener, secured.surplus));
        rt::spawn(tasks::send(Rc::clone(&shared), writer, secured.sealer));
        rt::spawn(tasks::watch(shared));
        (connection, greeting)
    }

    fn remember(&self, shared: &Rc<Shared>) {
        let mut live = self.0.live.borrow_mut();
        if live.len() == live.capacity() {
            live.retain(|one| one.strong_count() > 0);
        }
        live.push(Rc::downgrade(shared));
    }

    /// Accepts connections and answers their requests with `service`; runs until it is dropped. The connections live on.
    ///
    /// Whoever does not prove in time to be a member is dropped, with a line in the log.
    pub async fn serve<S: Service>(&self, mut listener: Listener, service: Rc<S>) {
        loop {
            match listener.accept().await {
                Ok((reader, writer, address)) => self.admit(reader, writer, address, service.clone()),
                Err(error) => {
                    // Out of descriptors or memory, as a rule: waiting may help, spinning will not.
                    tracing::warn!(%error, "cannot accept connections");
                    rt::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn admit(&self, reader: Reader, writer: Writer, address: Address, dispatch: Rc<dyn Dispatch>) {
        let Some(place) = self.0.accepted.try_acquire(1) else {
            return self.refuse(&address, &"too many connections");
        };
        let stranger = Strangers::enter(&self.0.strangers);
        let endpoint = self.clone();
        rt::spawn(async move {
            match endpoint.accept(reader, writer, &address, dispatch, stranger).await {
                Ok(Accepted::Guest(channel)) => endpoint.receive(*channel).await,
                Ok(Accepted::Member(connection)) => {
                    let peer = connection.peer();
                    tracing::debug!(%address, node = peer.identity.node, role = ?peer.role, "connected");
                    let reason = connection.closed().await;
                    log_end(&connection, &reason);
                }
                Err(cause) => endpoint.refuse(&address, &cause),
            }
            drop(place);
        });
    }

    async fn accept(
        &self,
        mut reader: Reader,
        mut writer: Writer,
        address: &Address,
        dispatch: Rc<dyn Dispatch>,
        mut stranger: Stranger,
    ) -> Result<Accepted, ConnectCause> {
        let within = self.0.options.handshake_timeout;
        let deadline = rt::time::now() + within;
        let (config, own) = {
            let configs = self.0.configs.borrow();
            let open = self.0.guests.borrow().is_some();
            (Arc::clone(if open { &configs.host } else { &configs.server }), configs.certificate.clone())
        };
        let secured = handshake::accept(&config, &own, &mut reader, &mut writer);
        let mut secured = match first(rt::time::timeout_at(deadline, secured), stranger.shed()).await {
            First::Left(Ok(secured)) => secured?,
            First::Left(Err(_)) => return Err(ConnectCause::Timeout(within)),
            First::Right(()) => return Err(ConnectCause::Shed),
        };
        // Whoever has shown a certificate of the cluster is none; for guests there are places of their own.
        drop(stranger);
        let Some(peer) = secured.peer.take() else {
            let channel = Channel::new(address.clone(), reader, writer, secured);
            return Ok(Accepted::Guest(Box::new(channel)));
        };
        let (connection, greeted) =
            self.start(address.clone(), (reader, writer, secured), peer, Greeter::Callee, Some(dispatch));
        greet_until(deadline, &connection, greeted).await.map_err(ConnectCause::Greeting)?;
        self.announce_to(&connection.0.shared);
        Ok(Accepted::Member(connection))
    }

    /// Has a guest received, for as long as a visit may take.
    async fn receive(&self, channel: Channel) {
        let address = channel.address().clone();
        let (Some(host), Some(_place)) = (self.0.guests.borrow().clone(), self.0.guest_places.try_acquire(1))
        else {
            return self.refuse(&address, &"too many guests");
        };
        if rt::time::timeout(VISIT_MAX, host.receive(channel)).await.is_err() {
            self.refuse(&address, &"a guest took too long");
        }
    }

    fn refuse(&self, address: &Address, cause: &dyn std::fmt::Display) {
        if let Some(unlogged) = self.0.refusals.pass() {
            tracing::warn!(%address, %cause, unlogged, "connection refused");
        }
    }

    /// Closes every connection in order (see [`Connection::close`]).
    pub async fn close(&self) {
        let live = self.live();
        for shared in &live {
            shared.drain(CloseReason::Local, true);
        }
        for shared in live {
            shared.wait_for_end().await;
        }
    }
}

/// Who has come.
enum Accepted {
    Member(Connection),
    Guest(Box<Channel>),
}

/// Those who have not shown yet who they are. When there are too many the one that has been there longest goes: a member
/// is through in milliseconds, whoever hangs is none.
#[derive(Debug)]
struct Strangers {
    max: usize,
    serial: Cell<u64>,
    /// By age.
    inside: RefCell<VecDeque<(u64, OneSender<()>)>>,
}

impl Strangers {
    fn new(max: u32) -> Self {
        Self { max: max.max(1) as usize, serial: Cell::new(0), inside: RefCell::default() }
    }

    fn enter(all: &Rc<Self>) -> Stranger {
        let serial = all.serial.get();
        all.serial.set(serial + 1);
        let (sender, shed) = oneshot();
        let mut inside = all.inside.borrow_mut();
        inside.push_back((serial, sender));
        let surplus = if inside.len() > all.max { inside.pop_front() } else { None };
        drop(inside);
        if let Some((_, oldest)) = surplus {
            // It may have gone just now.
            let _gone = oldest.send(());
        }
        Stranger { all: Rc::clone(all), serial, shed }
    }
}

/// One of them.
#[derive(Debug)]
struct Stranger {
    all: Rc<Strangers>,
    serial: u64,
    shed: OneReceiver<()>,
}

impl Stranger {
    /// Completes when it has to go.
    async fn shed(&mut self) {
        if (&mut self.shed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.all.inside.borrow_mut().retain(|(serial, _)| *serial != self.serial);
    }
}

/// Waits until the greeting is over.
async fn greet_until(
    deadline: Instant,
    connection: &Connection,
    greeted: OneReceiver<Result<(), CloseReason>>,
) -> Result<(), CloseReason> {
    let outcome = rt::time::timeout_at(deadline, greeted).await;
    let outcome =
        outcome.map_or(Err(CloseReason::GreetingTimeout), |told| told.unwrap_or(Err(CloseReason::Cut)));
    if let Err(reason) = &outcome {
        connection.0.shared.end(reason.clone());
    }
    outcome
}

fn log_end(connection: &Connection, reason: &CloseReason) {
    let (address, node) = (&connection.peer().address, &connection.peer().identity.node);
    match reason {
        CloseReason::Local | CloseReason::PeerClosed | CloseReason::PeerStopping => {
            tracing::debug!(%address, node, %reason, "disconnected");
        }
        _ => tracing::warn!(%address, node, %reason, "connection dropped"),
    }
}

/// Keeps whoever knocks at the port from filling the log.
#[derive(Debug, Default)]
struct LogLimit {
    since: Cell<Option<Instant>>,
    lines: Cell<u32>,
    unlogged: Cell<u64>,
}

impl LogLimit {
    const LINES: u32 = 20;
    const PERIOD: Duration = Duration::from_secs(10);

    /// Whether a line may be written; then also how many were not since the last one.
    fn pass(&self) -> Option<u64> {
        let now = rt::time::now();
        if self.since.get().is_none_or(|since| now.since(since) >= Self::PERIOD) {
            self.since.set(Some(now));
            self.lines.set(0);
        }
        if self.lines.get() >= Self::LINES {
            self.unlogged.set(self.unlogged.get() + 1);
            return None;
        }
        self.lines.set(self.lines.get() + 1);
        Some(self.unlogged.take())
    }
}
