//! The metadata server on the network: requests of clients, tools and chunk servers meet the replicated state.
//!
//! The way of a request: [`service`] looks who asks, the [`reign`] of the present master answers: reads from the state once
//! it is sure to be the master (C12), changes by a command that goes through the log. What the commands ask to be done
//! outside (fence, create, delete) the master does over the connections that chunk servers made.
//!
//! | module | holds |
//! |---|---|
//! | [`service`], [`asked`], [`failure`] | a request, its circumstances, its refusal |
//! | [`metadata`] | the state machine of [`crate::raft`] |
//! | [`reign`], [`timekeeper`], [`watch`], [`mark`] | being master; terms that run out; a directory that is older than it should be |
//! | [`sessions`], [`names`], [`leases`], [`chunks`], [`chunk_servers`], [`removal`], [`monitoring`] | requests, one group each |
//! | [`guests`], [`nodes`] | passwords, nodes and their certificates |
//! | [`orders`], [`creations`], [`returns`], [`rebuild`], [`repairs`], [`losses`], [`compare`], [`inventory`] | what chunk servers are told; replicas that come back, and new ones; damage; blocks that members lack; what differs; what they have |
//! | [`waiting`], [`rates`], [`shown`], [`attributes`] | small helpers of these |
//!
//! **Invariant:** no answer goes out before what it says is committed; no term is renewed without knowing to be the master.
//! **Invariant:** time that decides anything is counted in memory on the clock that runs during suspend; the wall clock only
//! stamps.
//! **Invariant:** one slow chunk server or client delays nobody but those who wait for it.

mod asked;
mod attributes;
mod chunk_servers;
mod chunks;
mod compare;
mod creations;
mod failure;
mod guests;
mod inodes;
mod inventory;
mod leases;
mod losses;
mod mark;
mod metadata;
mod monitoring;
mod names;
mod nodes;
mod orders;
mod rates;
pub(crate) mod rebuild;
mod reign;
mod removal;
mod repairs;
pub(crate) mod returns;
mod service;
mod sessions;
mod shown;
mod timekeeper;
mod waiting;
mod watch;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use link::{ClusterAuthority, ConfigError, Credentials, Endpoint, LocalHello, Security};
use rt::net::{Address, Listener};
use rt::sync::{Notify, Permit, Semaphore};
use rt::time::Instant;
use wire::Status;
use wire::hello::Role as PeerRole;

use crate::log::OpenError;
use crate::raft::{self, Consensus, NoPeers, Peer, ProposeError, Role, StartError};
use crate::state::command::{AdmitNode, CommandOp, InitCluster, RaiseGeneration, SetPassword};
use crate::state::{Command, Outcome, Refusal, Uuid};
use failure::Failure;
use guests::{Guests, Reception};
use mark::Mark;
use metadata::Metadata;
use reign::Reign;

/// The id of the first metadata server of a cluster.
pub const FIRST_MDS_ID: u64 = 1;
/// Requests that may be under way, over all connections; renewals do not count.
const REQUESTS_MAX: u64 = 8192;

/// What the process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// CPU time since the last look, in thousandths of a core.
    pub cpu_permille: u32,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
}

/// How a metadata server runs.
#[derive(Clone)]
pub struct ServerOptions {
    /// Where the cryptography of its connections comes from.
    pub security: Security,
    /// Sizes of its log and snapshots.
    pub consensus: raft::Options,
    /// The term of client sessions, instead of the configured one.
    pub lease_term: Option<Duration>,
    /// The term of chunk servers' registrations, instead of the configured one.
    pub cs_term: Option<Duration>,
    /// Looks at what the process uses. Without it zeroes are shown.
    pub vitals: Option<Rc<dyn Fn() -> Vitals>>,
    /// The file in which the newest reign is noted. It lies outside of the server's directory. Without it a directory that
    /// was put back from a copy is not noticed.
    pub mark: Option<PathBuf>,
    /// The cluster's authority. Without it nobody can join, and revoked nodes are refused by nobody.
    pub authority: Option<Rc<ClusterAuthority>>,
    /// An hour of the cluster's own time, instead of one of the clock.
    pub hour: Option<Duration>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            security: Security::real(),
            consensus: raft::Options::default(),
            lease_term: None,
            cs_term: None,
            vitals: None,
            mark: None,
            authority: None,
            hour: None,
        }
    }
}

impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerOptions")
            .field("lease_term", &self.lease_term)
            .field("cs_term", &self.cs_term)
            .finish_non_exhaustive()
    }
}

/// Why a metadata server cannot be made, started, or go on. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its directory cannot be made.
    #[error(transparent)]
    Create(#[from] OpenError),
    /// Its directory or log cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The first entry was not taken.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The cluster cannot be founded.
    #[error("the cluster cannot be made: {0}")]
    Refused(#[from] Refusal),
    /// The log has no cluster in it.
    #[error(
        "the log in {} holds no cluster: its creation was interrupted; remove the directory and create the cluster again",
        .0.display()
    )]
    NoCluster(PathBuf),
    /// The log is of another cluster than the credentials.
    #[error(
        "{} is of cluster '{name}' ({found}), the credentials are of cluster {expected}; \
         give the directory of that cluster's metadata server, or the right credentials", .dir.display()
    )]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Name of its cluster.
        name: String,
        /// Its cluster.
        found: Uuid,
        /// The cluster of the credentials.
        expected: Uuid,
    },
    /// The authority is another cluster's.
    #[error(
        "the authority (ca.key) in {} is that of another cluster: restore this cluster's one from a backup", .0.display()
    )]
    OtherAuthority(PathBuf),
    /// The credentials cannot be used.
    #[error("cannot use the credentials: {0}")]
    Config(#[from] ConfigError),
    /// What was noted of the newest reign cannot be read.
    #[error("cannot read {}: {error}", .path.display())]
    ReadMark {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// What was noted of the newest reign makes no sense.
    #[error(
        "{} is damaged, or of a newer version: it tells whether the metadata server's directory is the newest one; if you are sure that it is, remove this file", .0.display()
    )]
    Mark(PathBuf),
    /// The address leaves no port for clients.
    #[error("port {0} leaves no next one for chunk servers and clients; use a port from 1 to 65534")]
    Port(u16),
    /// A port cannot be used.
    #[error(
        "cannot listen at {address}: {error}{}",
        if error.kind() == std::io::ErrorKind::AddrInUse { "; another program uses the port: stop it" } else { "" }
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The host does not say when it booted.
    #[error("cannot read the boot id: {0}")]
    BootId(#[source] std::io::Error),
    /// The server failed and must be started again.
    #[error(transparent)]
    Failed(#[from] raft::Failure),
    /// It was stopped.
    #[error("the metadata server was stopped")]
    Stopped,
}

/// What a server is to those outside, for as long as its process runs.
#[derive(Debug)]
struct Served {
    mds_id: u64,
    /// Where other metadata servers reach it; chunk servers and clients use the next port.
    address: SocketAddr,
    dir: PathBuf,
    /// The number of the node it runs on; 0 if it has none.
    node: u64,
    since: Instant,
    /// Requests that wait for events.
    followers: Cell<u32>,
}

/// Answers requests, while it is master.
struct Server {
    consensus: Consensus<Metadata>,
    reign: RefCell<Option<Rc<Reign>>>,
    /// The master, if that is another one.
    leader: RefCell<Option<Peer>>,
    requests: Semaphore,
    changed: Notify,
    stopped: Cell<bool>,
    guests: Guests,
}

impl Server {
    fn reign(&self) -> Result<Rc<Reign>, Failure> {
        if let Some(reign) = &*self.reign.borrow() {
            return Ok(Rc::clone(reign));
        }
        if self.stopped.get() {
            return Err(Failure::new(Status::Stopping, ""));
        }
        match &*self.leader.borrow() {
            Some(leader) => Err(Failure::new(Status::NotMaster, "").hint(leader.address.clone())),
            None => Err(Failure::busy("the metadata servers have no master yet")),
        }
    }

    fn admit(&self) -> Result<Permit, Failure> {
        rt::sim::gauge("mds.requests", REQUESTS_MAX - self.requests.available());
        self.requests.try_acquire(1).ok_or_else(|| Failure::busy("too many requests are under way"))
    }

    fn end_reign(&self) {
        if let Some(reign) = self.reign.take() {
            reign.end();
        }
        self.changed.notify_all();
    }

    /// Follows the role of this member for as long as it runs.
    async fn follow_role(self: Rc<Self>, metadata: Metadata, served: Rc<Served>, options: Rc<ServerOptions>) {
        let _dethroned = Dethroned(Rc::clone(&self));
        let mut roles = self.consensus.watch_role();
        loop {
            let role = roles.next().await;
            self.end_reign();
            self.leader.replace(role.other_leader().cloned());
            match role {
                Role::Leader { term } => {
                    tracing::info!("this metadata server is the master (term {term})");
                    self.begin_reign(&metadata, &served, &options).await;
                }
                Role::Follower { .. } => {}
                Role::Stopped => {
                    self.stopped.set(true);
                    return self.changed.notify_all();
                }
            }
        }
    }

    async fn begin_reign(&self, metadata: &Metadata, served: &Rc<Served>, options: &Rc<ServerOptions>) {
        let (consensus, metadata_too) = (self.consensus.clone(), metadata.clone());
        match Reign::begin(consensus, metadata_too, Rc::clone(served), Rc::clone(options)).await {
            Ok(reign) => {
                self.reign.replace(Some(reign));
                self.changed.notify_all();
            }
            // The next role says how it goes on.
            Err(error) => {
                tracing::warn!("this metadata server does not become the master: {error}");
                metadata.collect(false);
            }
        }
    }
}

/// Parts a server from its reign when its process is gone. The reign knows connections of chunk servers, and these the server:
/// in the simulator, where a killed process leaves its memory behind, all of it would stay for ever.
struct Dethroned(Rc<Server>);

impl Drop for Dethroned {
    fn drop(&mut self) {
        drop(self.0.reign.take());
    }
}

/// Makes the first metadata server of a new cluster in a directory. `address` is where other metadata servers will reach
/// it; chunk servers and clients use the next port.
///
/// # Errors
/// [`ServerError`]. The caller removes what there is of the directory then.
pub async fn create(
    dir: &Path,
    cluster: [u8; 16],
    name: &str,
    address: SocketAddr,
) -> Result<(), ServerError> {
    found(dir, cluster, name, address, Founding::default()).await
}

/// What a cluster begins with.
#[derive(Debug, Default)]
pub struct Founding {
    /// Name and host id of the node that is the first one ([`crate::state::nodes::FOUNDER`]).
    pub node: Option<(String, String)>,
    /// What is kept of the password ([`link::password::Verifier::to_bytes`]).
    pub verifier: Option<Vec<u8>>,
}

/// As [`create`], with a first node and a password.
///
/// # Errors
/// As [`create`].
pub async fn found(
    dir: &Path,
    cluster: [u8; 16],
    name: &str,
    address: SocketAddr,
    founding: Founding,
) -> Result<(), ServerError> {
    let options = raft::Options::default();
    Consensus::<Metadata>::create(dir, FIRST_MDS_ID, &address.to_string(), options.log).await?;
    let consensus = Consensus::open(dir, Metadata::new(), options, Rc::new(NoPeers)).await?;
    let mut ops = vec![CommandOp::InitCluster(InitCluster { uuid: cluster.to_vec(), name: name.to_owned() })];
    ops.extend(
        founding
            .node
            .map(|(name, host_id)| CommandOp::AdmitNode(AdmitNode { name, host_id, address: String::new() })),
    );
    ops.extend(founding.verifier.map(|verifier| {
        CommandOp::SetPassword(SetPassword { verifier, replaces: 0, origin: String::new() })
    }));
    let proposed = async {
        for op in ops {
            let command = Command::internal(rt::time::wall_clock_ms(), op);
            consensus.propose(command.encode_log()).await??;
        }
        Ok(())
    };
    let proposed: Result<(), ServerError> = proposed.await;
    consensus.shutdown().await;
    proposed
}

/// Sets the password of the cluster whose metadata server lies in a directory and does not run, without asking for the old one.
///
/// # Errors
/// [`ServerError`].
pub async fn reset_password(
    dir: &Path,
    credentials: &Credentials,
    verifier: Vec<u8>,
) -> Result<(), ServerError> {
    let metadata = Metadata::new();
    let consensus =
        Consensus::open(dir, metadata.clone(), raft::Options::default(), Rc::new(NoPeers)).await?;
    let set = async {
        check_cluster(dir, credentials, &metadata)?;
        let replaces = metadata.read(|state| state.nodes().password().version);
        let origin = "the metadata server itself".to_owned();
        let op = CommandOp::SetPassword(SetPassword { verifier, replaces, origin });
        let command = Command::internal(rt::time::wall_clock_ms(), op);
        consensus.propose(command.encode_log()).await??;
        Ok(())
    };
    let set: Result<(), ServerError> = set.await;
    consensus.shutdown().await;
    set
}

/// A metadata server that runs.
pub struct RunningServer {
    server: Rc<Server>,
    endpoint: Endpoint,
    clients: SocketAddr,
    tasks: [rt::JoinHandle<()>; 4],
}

impl fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningServer").field("clients", &self.clients).finish_non_exhaustive()
    }
}

/// Opens the metadata server in a directory and begins to serve at the port after that of `address`.
///
/// # Errors
/// [`ServerError`].
pub async fn start_server(
    dir: &Path,
    credentials: Credentials,
    address: SocketAddr,
    options: ServerOptions,
) -> Result<RunningServer, ServerError> {
    let clients = address.port().checked_add(1).ok_or(ServerError::Port(address.port()))?;
    let clients = SocketAddr::new(address.ip(), clients);
    let metadata = Metadata::new();
    let known = match &options.mark {
        Some(path) => mark::load(path).await?,
        None => None,
    };
    let known_reign = known.map(|known| known.reign);
    let consensus = raft::Options { known_reign, ..options.consensus };
    let consensus = Consensus::open(dir, metadata.clone(), consensus, Rc::new(NoPeers)).await?;
    if let Err(error) = check_cluster(dir, &credentials, &metadata) {
        consensus.shutdown().await;
        return Err(error);
    }
    let cluster = credentials.identity().cluster;
    if options.authority.as_ref().is_some_and(|authority| authority.cluster() != cluster) {
        consensus.shutdown().await;
        return Err(ServerError::OtherAuthority(dir.to_owned()));
    }
    note_reign(options.mark.as_deref(), known, &consensus, &metadata).await;
    match begin(dir, credentials, address, clients, options, &consensus, metadata) {
        Ok(running) => Ok(running),
        Err(error) => {
            consensus.shutdown().await;
            Err(error)
        }
    }
}

fn begin(
    dir: &Path,
    credentials: Credentials,
    address: SocketAddr,
    clients: SocketAddr,
    options: ServerOptions,
    consensus: &Consensus<Metadata>,
    metadata: Metadata,
) -> Result<RunningServer, ServerError> {
    let recovery = consensus.recovery();
    if let Some(torn) = &recovery.torn {
        tracing::info!("an interrupted write at the end of the metadata log was dropped: {torn:?}");
    }
    for bad in &recovery.bad_snapshots {
        tracing::error!("a snapshot is damaged; the log makes up for it, but the disk is losing data: {bad}");
    }
    let boot_id = rt::node::boot_id().map_err(ServerError::BootId)?;
    let hello = LocalHello {
        mds_id: FIRST_MDS_ID,
        software: env!("CARGO_PKG_VERSION").to_owned(),
        ..LocalHello::new(PeerRole::Mds, boot_id)
    };
    let link_options = link::Options { security: options.security, ..link::Options::default() };
    let endpoint = Endpoint::new(credentials, hello, link_options)?;
    // Kept for other metadata servers. Nobody listens there yet, but a conflict should show now and not when they come.
    drop(listen(address)?);
    let listener = listen(clients)?;

    let served = Rc::new(Served {
        mds_id: FIRST_MDS_ID,
        address,
        dir: dir.to_owned(),
        node: endpoint.credentials().identity().number,
        since: rt::time::now(),
        followers: Cell::new(0),
    });
    let server = Rc::new(Server {
        consensus: consensus.clone(),
        reign: RefCell::new(None),
        leader: RefCell::new(None),
        requests: Semaphore::new(REQUESTS_MAX),
        changed: Notify::new(),
        stopped: Cell::new(false),
        guests: Guests::new(),
    });
    if options.authority.is_some() {
        endpoint.receive_guests(Rc::new(Reception(Rc::downgrade(&server))));
    }
    let publishing = nodes::publish(endpoint.clone(), metadata.clone(), options.authority.clone());
    let publishing = rt::spawn(publishing);
    let reporting = rt::spawn(Rc::clone(&server).report_guests());
    let following = rt::spawn(Rc::clone(&server).follow_role(metadata, served, Rc::new(options)));
    let serving = rt::spawn({
        let (endpoint, server) = (endpoint.clone(), Rc::clone(&server));
        async move { endpoint.serve(listener, server).await }
    });
    Ok(RunningServer { server, endpoint, clients, tasks: [serving, following, publishing, reporting] })
}

/// Notes the present reign before anybody is answered in it. With one member there is one from the start.
async fn note_reign(
    mark: Option<&Path>,
    known: Option<Mark>,
    consensus: &Consensus<Metadata>,
    metadata: &Metadata,
) {
    if let Some((path, reign)) = mark.zip(consensus.reign()) {
        let now = metadata.read(|state| state.cluster().map_or(0, |cluster| cluster.generation));
        let generation = now.max(known_generation(known, consensus));
        mark::save(path, Mark { reign, generation }).await;
    }
}

/// The highest generation that was noted for this directory, or for the one that it is a copy of.
fn known_generation(known: Option<Mark>, consensus: &Consensus<Metadata>) -> u16 {
    let directory = consensus.reign().map(|reign| reign.directory);
    known.filter(|known| Some(known.reign.directory) == directory).map_or(0, |known| known.generation)
}

/// Accepts a directory that was put back from a copy as the newest there is, in the way of C12: from here on all numbers are
/// higher than any that may have been given since the copy was made, and everybody starts anew. Gives the new generation
/// of the cluster.
///
/// # Errors
/// [`ServerError`].
pub async fn accept_restored(dir: &Path, credentials: &Credentials, mark: &Path) -> Result<u64, ServerError> {
    let metadata = Metadata::new();
    let consensus =
        Consensus::open(dir, metadata.clone(), raft::Options::default(), Rc::new(NoPeers)).await?;
    let raised = async {
        check_cluster(dir, credentials, &metadata)?;
        // A copy does not know of the restores that came after it.
        let known = mark::load(mark).await?;
        let above = known_generation(known, &consensus).into();
        let op = CommandOp::RaiseGeneration(RaiseGeneration { above });
        let command = Command::internal(rt::time::wall_clock_ms(), op);
        let outcome = consensus.propose(command.encode_log()).await??;
        note_reign(Some(mark), known, &consensus, &metadata).await;
        Ok(outcome)
    };
    let raised: Result<Outcome, ServerError> = raised.await;
    consensus.shutdown().await;
    match raised? {
        Outcome::Generation(generation) => Ok(generation.into()),
        other => unreachable!("raising the generation answered {other:?}"),
    }
}

fn check_cluster(dir: &Path, credentials: &Credentials, metadata: &Metadata) -> Result<(), ServerError> {
    let expected = Uuid(credentials.identity().cluster.0);
    let found = metadata.read(|state| state.cluster().map(|cluster| (cluster.name.clone(), cluster.uuid)));
    match found {
        None => Err(ServerError::NoCluster(dir.to_owned())),
        Some((_, found)) if found == expected => Ok(()),
        Some((name, found)) => Err(ServerError::OtherCluster { dir: dir.to_owned(), name, found, expected }),
    }
}

fn listen(address: SocketAddr) -> Result<Listener, ServerError> {
    Listener::bind(&Address::Tcp(address)).map_err(|error| ServerError::Listen { address, error })
}

impl RunningServer {
    /// Where chunk servers and clients reach it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.clients
    }

    /// Whether it is the master and answers.
    #[must_use]
    pub fn is_master(&self) -> bool {
        self.server.reign.borrow().is_some()
    }

    /// Waits until it is the master.
    pub async fn master(&self) {
        loop {
            let changed = self.server.changed.notified();
            if self.is_master() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until it cannot go on, and says why.
    pub async fn failed(&self) -> ServerError {
        loop {
            let changed = self.server.changed.notified();
            if self.server.stopped.get() {
                return self.server.consensus.failure().map_or(ServerError::Stopped, ServerError::Failed);
            }
            changed.await;
        }
    }

    /// Stops in order: changes under way are answered, nothing new is taken.
    pub async fn stop(self) {
        self.server.stopped.set(true);
        self.server.end_reign();
        self.tasks.iter().for_each(rt::JoinHandle::abort);
        self.endpoint.close().await;
        self.server.consensus.shutdown().await;
    }
}

/// Runs a metadata server until it fails, in a process that is stopped from outside.
///
/// # Errors
/// [`ServerError`], always.
pub async fn run_server(
    dir: &Path,
    credentials: Credentials,
    address: SocketAddr,
    options: ServerOptions,
) -> Result<(), ServerError> {
    let running = start_server(dir, credentials, address, options).await?;
    let error = running.failed().await;
    running.stop().await;
    Err(error)
}
