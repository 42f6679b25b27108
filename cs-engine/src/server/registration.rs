//! Being a member of the cluster: registration, renewal, and what may be served in between (C2, C10).
//!
//! A registration is valid from the *sending* of its last successful renewal. For half its term the server serves
//! data. After that it refuses until it has registered again and recorded every fence that was raised meanwhile: the
//! metadata server may grant without it once the whole term has passed.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use link::{AskError, Connection, Endpoint, Expect};
use rt::net::Address;
use rt::time::Instant;
use wire::cluster::{Event, Severity};
use wire::cs::{
    self, CaughtUp, ChunkInDoubt, DamageItem, Heartbeat, JournalInfo, RegisterCs, RegisterCsReply,
    ReplicaReport, ReplicaState, ReportChunks, ReportDamage,
};
use wire::hello::Role;
use wire::session::IoStats;
use wire::{Action, Status};

use super::Server;
use super::doubts::{self, Doubts};
use crate::engine::{Engine, Held, Refusal};

/// First pause after a failed attempt.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long one request to the metadata server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many times in a row a server may name another one and be believed at once.
const REDIRECTS_MAX: u32 = 3;
/// A registration that lasted as long was a good one: the next attempt is made at once.
const STEADY: Duration = Duration::from_secs(5);
/// Replicas of one page of the inventory.
const INVENTORY_PAGE: usize = 4096;
/// Bytes of a nonce.
const NONCE: usize = 16;

/// Whether data may be served.
#[derive(Debug)]
pub(crate) struct Registration {
    serve_until: Cell<Option<Instant>>,
    fences_pending: Cell<bool>,
    /// The cluster does not want this server (C10): nothing is served any more, whatever was promised before.
    withdrawn: Cell<bool>,
    /// Counts the registrations: what an earlier one was told completes no later one.
    round: Cell<u64>,
    /// Counts how often the last fence was recorded.
    completed: Cell<u64>,
    changed: rt::sync::Notify,
}

impl Registration {
    pub(crate) fn new() -> Self {
        Self {
            serve_until: Cell::new(None),
            fences_pending: Cell::new(true),
            withdrawn: Cell::new(false),
            round: Cell::new(0),
            completed: Cell::new(0),
            changed: rt::sync::Notify::new(),
        }
    }

    /// Whether data may be served now.
    pub(crate) fn may_serve(&self) -> bool {
        !self.withdrawn.get()
            && !self.fences_pending.get()
            && self.serve_until.get().is_some_and(|until| rt::time::now() < until)
    }

    /// The cluster has said that it does not want this server: it serves nothing from now on.
    pub(crate) fn withdraw(&self) {
        self.withdrawn.set(true);
    }

    /// Whether the cluster has said that it does not want this server.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.get()
    }

    /// Completes once data may be served.
    pub(crate) async fn serving(&self) {
        loop {
            let changed = self.changed.notified();
            if self.may_serve() {
                return;
            }
            changed.await;
        }
    }

    fn has_lapsed(&self) -> bool {
        self.serve_until.get().is_none_or(|until| rt::time::now() >= until)
    }

    fn renewed(&self, sent: Instant, term: Duration) {
        self.serve_until.set(Some(sent + term / 2));
        self.changed.notify_all();
    }

    fn begin(&self) {
        self.serve_until.set(None);
        self.fences_pending.set(true);
        self.round.set(self.round.get() + 1);
    }

    /// Names the registration under way.
    pub(crate) fn round(&self) -> u64 {
        self.round.get()
    }

    /// More fences follow an answer, and data waits for them, whether the registration had lapsed or not; unless the
    /// last one has come since `completed` was read.
    fn fences_follow(&self, completed: u64) {
        if self.completed.get() == completed {
            self.fences_pending.set(true);
        }
    }

    /// Every fence that was raised for a registration is recorded.
    pub(crate) fn fences_complete(&self, round: u64) {
        if round != self.round.get() {
            return;
        }
        self.completed.set(self.completed.get() + 1);
        self.fences_pending.set(false);
        self.changed.notify_all();
    }
}

/// Why a chunk server cannot be a member.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The cluster refuses it.
    #[error("the cluster refuses this chunk server: {status}: {message}")]
    Refused {
        /// The status.
        status: Status,
        /// What the metadata server said.
        message: String,
    },
    /// No metadata server answered.
    #[error("no metadata server answers (tried {tried}): {last}")]
    Unreachable {
        /// Addresses tried.
        tried: String,
        /// The last error.
        last: String,
    },
    /// The chunk server's own disk.
    #[error(transparent)]
    Disk(#[from] std::io::Error),
    /// The engine failed or stopped.
    #[error(transparent)]
    Engine(#[from] Refusal),
}

/// Who registers, and where.
#[derive(Clone, Debug)]
pub struct RegistrarOptions {
    /// Addresses of the metadata servers for clients and chunk servers (port P+1).
    pub mds: Vec<Address>,
    /// Addresses at which clients reach this server.
    pub addresses: Vec<String>,
    /// Identity of the host.
    pub host_id: String,
    /// The server's directory.
    pub path: PathBuf,
}

/// Keeps a chunk server registered.
#[derive(Debug)]
pub struct Registrar {
    server: Rc<Server>,
    endpoint: Endpoint,
    options: RegistrarOptions,
    /// The addresses of the metadata servers now; never empty.
    mds: RefCell<Vec<Address>>,
    /// What the cluster's log has of the server's disks.
    told: Cell<Told>,
    /// Generation of the journal that the last registration told of.
    journal_told: Cell<u64>,
}

/// The outcome of a first registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The server's id.
    pub cs_id: u64,
}

impl Registrar {
    /// Prepares to register `server`.
    #[must_use]
    pub fn new(server: Rc<Server>, endpoint: Endpoint, options: RegistrarOptions) -> Self {
        let mds = RefCell::new(options.mds.clone());
        server.copier().connect_with(endpoint.clone());
        Self { server, endpoint, options, mds, told: Cell::default(), journal_told: Cell::new(0) }
    }

    /// The metadata servers have these addresses from now on. A registration that is there stays.
    ///
    /// # Panics
    /// Without any address.
    pub fn set_mds(&self, mds: Vec<Address>) {
        assert!(!mds.is_empty(), "a chunk server needs metadata servers");
        self.mds.replace(mds);
    }

    /// The address to try in this turn.
    fn address(&self, turn: usize) -> Address {
        let mds = self.mds.borrow();
        mds[turn % mds.len()].clone()
    }

    fn engine(&self) -> &Rc<Engine> {
        self.server.engine()
    }

    /// Registers once, for `make-cs`: the cluster gives the server its id.
    ///
    /// # Errors
    /// [`RegistrationError`].
    pub async fn join(&self) -> Result<Joined, RegistrationError> {
        let mut last = String::new();
        for address in &self.options.mds {
            match self.register_at(address).await {
                Ok((_, reply)) => return Ok(Joined { cs_id: reply.cs_id }),
                Err(Attempt::Fatal(error)) => return Err(error),
                Err(Attempt::Passing(text, _)) => last = text,
            }
        }
        let tried: Vec<String> = self.options.mds.iter().map(ToString::to_string).collect();
        Err(RegistrationError::Unreachable { tried: tried.join(", "), last })
    }

    /// Registers, renews, and registers again, for as long as the server runs.
    ///
    /// # Errors
    /// [`RegistrationError`] when going on makes no sense.
    pub async fn run(&self) -> Result<(), RegistrationError> {
        self.server.scrub().start();
        let mut pause = Pause::new();
        let (mut turn, mut redirects) = (0, 0);
        let mut hint: Option<Address> = None;
        loop {
            let address = hint.take().unwrap_or_else(|| self.address(turn));
            match self.register_at(&address).await {
                Ok((connection, reply)) => {
                    tracing::info!("registered as CS#{} with the metadata server at {address}", reply.cs_id);
                    let since = rt::time::now();
                    let why = self.renew(&connection, &reply).await;
                    tracing::warn!("the registration with {address} ended: {why}");
                    // What was ordered under it and has not arrived is of no account: the next one begins with what is due then.
                    rt::spawn(async move { connection.close().await });
                    if since.elapsed() >= STEADY {
                        (pause, redirects) = (Pause::new(), 0);
                    } else {
                        pause.wait().await;
                    }
                }
                Err(Attempt::Fatal(error)) => return Err(error),
                Err(Attempt::Passing(text, elsewhere)) => {
                    tracing::warn!("registering with {address}: {text}");
                    turn += 1;
                    hint = elsewhere;
                    // Servers may name each other for as long as they have not agreed on who is master.
                    if hint.is_some() && redirects < REDIRECTS_MAX {
                        redirects += 1;
                    } else {
                        redirects = 0;
                        pause.wait().await;
                    }
                }
            }
        }
    }

    async fn register_at(&self, address: &Address) -> Result<(Connection, RegisterCsReply), Attempt> {
        let connection = self
            .endpoint
            .connect_serving(address, Expect::role(Role::Mds), Rc::clone(&self.server))
            .await
            .map_err(|error| Attempt::Passing(error.to_string(), None))?;
        let registration = self.server.registration();
        let lapsed = registration.has_lapsed();
        if lapsed {
            registration.begin();
        }
        let (round, completed) = (registration.round(), registration.completed.get());
        let request = self.request().await?;
        let offered = request.new_nonce.clone();
        let sent = rt::time::now();
        let reply = match connection.ask(&request, sent + PATIENCE).await {
            Ok(reply) => reply,
            Err(AskError::Status { status, error }) => {
                let why = refused(status, &error);
                if matches!(why, Attempt::Fatal(_)) {
                    registration.withdraw();
                }
                return Err(why);
            }
            Err(error) => return Err(Attempt::Passing(error.to_string(), None)),
        };
        if reply.stale {
            registration.withdraw();
        }
        if reply.more_fences {
            registration.fences_follow(completed);
        }
        self.adopt(&reply, &offered).await?;
        for fence in &reply.fences {
            self.engine().fence(fence.file_id, fence.epoch).await.map_err(RegistrationError::from)?;
        }
        if !reply.more_fences {
            registration.fences_complete(round);
        }
        registration.renewed(sent, Duration::from_millis(u64::from(reply.term_ms)));
        Ok((connection, reply))
    }

    /// Notes what a registration gave: the id and the nonce (C10).
    async fn adopt(&self, reply: &RegisterCsReply, offered: &[u8]) -> Result<(), RegistrationError> {
        if reply.stale {
            tracing::error!(
                "the cluster does not recognise the state of this disk (it was restored, copied or rolled back): its \
                 replicas are stale and will be replaced"
            );
        }
        let superblock = self.engine().superblock();
        if superblock.cs_id != reply.cs_id || superblock.nonce != offered {
            let mut nonce = [0; NONCE];
            nonce.copy_from_slice(offered);
            self.engine()
                .update_superblock(|superblock| {
                    superblock.cs_id = reply.cs_id;
                    superblock.nonce = nonce;
                })
                .await?;
            self.endpoint.update_hello(|hello| {
                hello.cs_id = reply.cs_id;
                hello.nonce_generation += 1;
            });
        }
        Ok(())
    }

    /// The registration: presents the nonce of the last one and offers a new one, which is on disk first (C10). An
    /// offer whose answer was lost is made again: the cluster knows it then.
    async fn request(&self) -> Result<RegisterCs, Attempt> {
        let engine = self.engine();
        let superblock = engine.superblock();
        let first_in_this_run = self.endpoint_nonce_generation() == 0;
        let pending = superblock.nonce_offered != superblock.nonce;
        if first_in_this_run && !pending {
            let mut fresh = [0; NONCE];
            rt::random::fill_secret(&mut fresh);
            let noted = engine.update_superblock(|superblock| superblock.nonce_offered = fresh).await;
            noted.map_err(RegistrationError::from)?;
        }
        let superblock = engine.superblock();
        let space = rt::fs::space(&self.options.path).await.map_err(passing)?;
        self.journal_told.set(superblock.journal_generation);
        Ok(RegisterCs {
            cs_id: superblock.cs_id,
            cs_uuid: superblock.cs_uuid.to_vec(),
            nonce: superblock.nonce.to_vec(),
            new_nonce: superblock.nonce_offered.to_vec(),
            host_id: self.options.host_id.clone(),
            host_name: rt::node::host_name(),
            boot_id: rt::node::boot_id().map_err(passing)?.to_vec(),
            addresses: self.options.addresses.clone(),
            tier: u32::from(superblock.tier),
            total_bytes: space.total,
            free_bytes: space.free,
            flags: flags(&self.server),
            journal: superblock.journal_dir.as_ref().map(|dir| JournalInfo {
                path: dir.display().to_string(),
                size_bytes: superblock.journal_bytes,
                dirty_bytes: engine.journal_used_percent() * superblock.journal_bytes / 100,
                uuid: superblock.store_uuid.to_vec(),
                generation: superblock.journal_generation,
            }),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            path: self.options.path.display().to_string(),
            chunk_count: engine.chunk_count() as u64,
            nonce_generation: self.endpoint_nonce_generation(),
        })
    }

    fn endpoint_nonce_generation(&self) -> u64 {
        let mut generation = 0;
        self.endpoint.update_hello(|hello| generation = hello.nonce_generation);
        generation
    }

    /// Renews until that fails; says why.
    async fn renew(&self, connection: &Connection, reply: &RegisterCsReply) -> String {
        let mut term = Duration::from_millis(u64::from(reply.term_ms));
        // The first at once: it tells the metadata server that the fences are in force.
        let mut pause = Duration::ZERO;
        // From which chunk on the metadata server wants to hear what is here.
        let mut inventory = reply.report_all.then_some(0);
        self.server.scrub().forget_told();
        let doubts = Doubts::default();
        let journal = self.journal_told.get();
        loop {
            let told = self.tell_outcomes_for(pause, connection, reply);
            match rt::first(told, self.engine().journal_changed(journal)).await {
                rt::First::Left(Ok(())) => {}
                rt::First::Left(Err(why)) => return why,
                rt::First::Right(()) => return "the journal is another one now".into(),
            }
            if self.server.registration().has_lapsed() {
                return "it was not renewed in time".into();
            }
            let in_doubt = doubts.take(self.engine());
            let (items, new) = self.server.scrub().take_news();
            let telling = Told::of(self.engine());
            let news: Vec<u64> = new.iter().map(|replica| replica.chunk_id).collect();
            let heartbeat = match self.heartbeat(reply, new, telling, in_doubt).await {
                Ok(heartbeat) => heartbeat,
                Err(error) => {
                    self.server.scrub().not_told(&news);
                    return error.to_string();
                }
            };
            let sent = rt::time::now();
            match connection.ask(&heartbeat, sent + PATIENCE.min(term / 3)).await {
                Ok(answer) => {
                    term = Duration::from_millis(u64::from(answer.term_ms));
                    pause = term / 6;
                    self.server.registration().renewed(sent, term);
                    if let Some(limit) = answer.io_tout_ms.filter(|limit| *limit > 0) {
                        self.engine().latency().set_limit(Duration::from_millis(limit.into()));
                    }
                    self.told.set(telling);
                    if let Some(per_minute) = answer.verify_chunks {
                        self.server.scrub().set_rate(per_minute);
                    }
                    if let Some(limit) = answer.copy_bytes_per_second {
                        self.server.limit_copying((limit > 0).then_some(limit));
                    }
                    if let Some(limit) = answer.move_bytes_per_second {
                        self.server.limit_moving((limit > 0).then_some(limit));
                    }
                    if answer.report_all {
                        inventory = Some(0);
                    }
                    doubts::settle(self.engine(), &answer.settled);
                }
                Err(error) => {
                    self.server.scrub().not_named(heartbeat.verified);
                    if matches!(error, AskError::Status { status: Status::Forbidden, .. }) {
                        self.server.registration().withdraw();
                    }
                    // It is refused, and heard all the same.
                    if matches!(error, AskError::Status { status: Status::DeviceFailed, .. }) {
                        self.told.set(telling);
                    } else {
                        self.server.scrub().not_told(&news);
                    }
                    return error.to_string();
                }
            }
            if let Err(why) = self.tell_damage(connection, reply, items).await {
                return why;
            }
            match self.tell_inventory(connection, reply, inventory, sent + pause).await {
                Ok(rest) => inventory = rest,
                Err(why) => return why,
            }
        }
    }

    /// Tells which replicas are here, page by page from a chunk on, until it is time for a heartbeat. Gives from where it goes on
    /// after that.
    async fn tell_inventory(
        &self,
        connection: &Connection,
        reply: &RegisterCsReply,
        mut from: Option<u64>,
        until: Instant,
    ) -> Result<Option<u64>, String> {
        while let Some(first_id) = from
            && rt::time::now() < until
        {
            let page = self.engine().inventory(first_id, INVENTORY_PAGE);
            let next = page.last().filter(|_| page.len() == INVENTORY_PAGE).map(|held| held.chunk + 1);
            let replica = |held: &Held| {
                let state = if held.lost { ReplicaState::Missing } else { ReplicaState::Good };
                let (chunk_id, version) = (held.chunk, held.version);
                ReplicaReport { chunk_id, version, state: state.into(), used_bytes: 0 }
            };
            let replicas = page.iter().map(replica).collect();
            let (cs_id, session, last) = (reply.cs_id, reply.session, next.is_none());
            let report = ReportChunks { cs_id, session, first_id, replicas, last };
            match connection.ask(&report, rt::time::now() + PATIENCE).await {
                Ok(_) => from = next,
                // It asks again when it wants to know.
                Err(AskError::Status { status, .. }) => {
                    tracing::info!("the inventory was not taken: {status}");
                    return Ok(None);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(from)
    }

    /// Tells what is damaged here, so that it is repaired from others.
    async fn tell_damage(
        &self,
        connection: &Connection,
        reply: &RegisterCsReply,
        items: Vec<DamageItem>,
    ) -> Result<(), String> {
        if items.is_empty() {
            return Ok(());
        }
        let report = ReportDamage { cs_id: reply.cs_id, session: reply.session, items };
        match connection.ask(&report, rt::time::now() + PATIENCE).await {
            Ok(_) => Ok(()),
            // One of an earlier release; it has heard of the replicas by the heartbeat. Told again in some minutes.
            Err(AskError::Status { status, .. }) => {
                tracing::info!("the report of damaged blocks was not taken: {status}");
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Tells the metadata server what becomes of joiners here, until it is time for a heartbeat. Says why it ended
    /// before.
    async fn tell_outcomes_for(
        &self,
        pause: Duration,
        connection: &Connection,
        reply: &RegisterCsReply,
    ) -> Result<(), String> {
        let copier = self.server.copier();
        let next = rt::time::now() + pause;
        // The first heartbeat comes before everything else.
        while !pause.is_zero() && rt::time::now() < next {
            let something = rt::first(copier.finished(), connection.closed());
            match rt::time::timeout_at(next, something).await {
                Err(_elapsed) => return Ok(()),
                Ok(rt::First::Right(reason)) => return Err(reason.to_string()),
                Ok(rt::First::Left(())) => {}
            }
            let items = copier.outcomes();
            let told = CaughtUp { cs_id: reply.cs_id, session: reply.session, items };
            match connection.ask(&told, rt::time::now() + PATIENCE).await {
                Ok(_) => copier.told(&told.items),
                Err(AskError::Status { status, error }) if status.action() == Action::GiveUp => {
                    // It orders again if it still wants them.
                    tracing::warn!("the outcome of filling replicas is refused: {status}: {}", error.message);
                    copier.told(&told.items);
                }
                Err(AskError::Status { status, .. }) => {
                    tracing::info!("the outcome of filling replicas is told later: {status}");
                    break;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        match rt::time::timeout_at(next, connection.closed()).await {
            Ok(reason) => Err(reason.to_string()),
            Err(_elapsed) => Ok(()),
        }
    }

    async fn heartbeat(
        &self,
        reply: &RegisterCsReply,
        differences: Vec<ReplicaReport>,
        telling: Told,
        in_doubt: Vec<ChunkInDoubt>,
    ) -> Result<Heartbeat, std::io::Error> {
        let engine = self.engine();
        let space = rt::fs::space(&self.options.path).await?;
        let counters = engine.counters();
        let (copied_out_bytes, copied_in_bytes) = self.server.copier().copied();
        Ok(Heartbeat {
            cs_id: reply.cs_id,
            session: reply.session,
            free_bytes: space.free,
            chunk_count: engine.chunk_count() as u64,
            io: IoStats {
                read_bytes: counters.read_bytes,
                write_bytes: counters.write_bytes,
                read_ops: counters.reads,
                write_ops: counters.writes,
                flushes: counters.flushes,
                ..IoStats::default()
            },
            events: telling.news(self.told.get(), engine),
            differences,
            total_bytes: space.total,
            flags: flags(&self.server),
            journal_dirty_bytes: engine.journal_used_percent() * engine.superblock().journal_bytes / 100,
            scrub: Some(self.server.scrub().stats()),
            copied_out_bytes,
            copied_in_bytes,
            verified: self.server.scrub().take_verified(),
            in_doubt,
        })
    }
}

/// What is wrong with a server's disks, as far as its events tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    failed: bool,
    slow: bool,
}

impl Told {
    fn of(engine: &Engine) -> Self {
        Self { failed: engine.has_failed(), slow: engine.latency().is_slow() }
    }

    /// Events about what has changed since `before`: one for each occurrence.
    fn news(self, before: Self, engine: &Engine) -> Vec<Event> {
        let limit = engine.latency().limit().as_millis();
        let path = engine.dir().display();
        let superblock = engine.superblock();
        let journal = superblock.journal_dir.as_deref().filter(|_| engine.has_lost_journal());
        let failed = journal.unwrap_or(engine.dir()).display();
        let event = |severity: Severity, code: &str, message: String| Event {
            severity: severity.into(),
            code: code.to_owned(),
            message,
            ..Event::default()
        };
        let mut events = Vec::new();
        if self.failed && !before.failed {
            let text = format!("hard error on {failed}: {}", engine.failure_text());
            events.push(event(Severity::Error, "cs.hard_error", text));
        }
        match (before.slow, self.slow) {
            (false, true) => {
                let text = format!("requests to the disk of {path} take longer than {limit} ms");
                events.push(event(Severity::Warning, "cs.slow_disk", text));
            }
            (true, false) => {
                let text = format!("the disk of {path} answers in time again");
                events.push(event(Severity::Info, "cs.disk_in_time", text));
            }
            _ => {}
        }
        events
    }
}

/// Growing pauses between attempts, not in step with those of other servers.
struct Pause(Duration);

impl Pause {
    fn new() -> Self {
        Self(PAUSE_MIN)
    }

    async fn wait(&mut self) {
        let drawn = Duration::from_nanos(rt::random::below(self.0.as_nanos() as u64));
        rt::time::sleep(self.0 + drawn).await;
        self.0 = (self.0 * 2).min(PAUSE_MAX);
    }
}

/// Why an attempt failed.
enum Attempt {
    Fatal(RegistrationError),
    /// With the address of the master, if it is known.
    Passing(String, Option<Address>),
}

impl From<RegistrationError> for Attempt {
    fn from(error: RegistrationError) -> Self {
        Self::Fatal(error)
    }
}

/// What cannot be found out now, for want of descriptors, say: no reason for a daemon to end.
fn passing(error: std::io::Error) -> Attempt {
    Attempt::Passing(error.to_string(), None)
}

fn refused(status: Status, error: &wire::ErrorBody) -> Attempt {
    let text = format!("{status}: {}", error.message);
    match status.action() {
        Action::Redirect => Attempt::Passing(text, error.hint.parse().ok().map(Address::Tcp)),
        Action::GiveUp => {
            Attempt::Fatal(RegistrationError::Refused { status, message: error.message.clone() })
        }
        _ => Attempt::Passing(text, None),
    }
}

/// The flags of the guide's table.
fn flags(server: &Server) -> u32 {
    let engine = server.engine();
    let superblock = engine.superblock();
    let mut flags = 0;
    if superblock.journal_dir.is_some() {
        flags |= cs::FLAG_JOURNAL;
        if engine.journal_is_clean() {
            flags |= cs::FLAG_CLEAN;
        }
    } else {
        flags |= cs::FLAG_DIRECT;
    }
    if !superblock.no_checksums {
        flags |= cs::FLAG_CHECKSUMS;
    }
    if engine.has_failed() {
        flags |= if engine.has_lost_journal() { cs::FLAG_FAILED_JOURNAL } else { cs::FLAG_FAILED_IO };
    }
    if engine.latency().is_slow() {
        flags |= cs::FLAG_FAILED_TIMEOUT;
    }
    if server.scrub().is_hopeless() {
        flags |= cs::FLAG_FAILED_CHECKSUM;
    }
    flags
}
