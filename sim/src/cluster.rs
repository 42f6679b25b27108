//! The hosts and processes of a simulated cluster.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

use client::Servers;
use cs_engine::engine::{self, CreateOptions, Engine, EngineOptions};
use cs_engine::format::superblock::Superblock;
use cs_engine::server::{Registrar, RegistrarOptions, Server};
use link::{
    ClusterAuthority, ClusterId, Credentials, Endpoint, Keep, LocalHello, Master, Options, Roles, Security,
    ServerAddress,
};
use rt::net::{Address, Listener};
use rt::sim::control::{self, Exit, Process};
use rt::sim::{DiskOptions, FaultRates, HostId, HostOptions, ProcessId};
use rt::sync::Notify;
use wire::cluster::{ClusterStatReply, GetEvents, ServiceStatus};
use wire::hello::Role;

use crate::coverage;
use crate::plans::Plan;
use crate::workload::{self, Job, Shared};

/// Chunk servers: one more than replicas, so that what one held can be made anew elsewhere.
pub const CHUNK_SERVERS: usize = 4;
/// Replicas of a chunk, unless a fault changes that.
pub const REPLICAS: usize = 3;
/// Replicas without which nothing is written.
pub const REPLICAS_MIN: usize = 2;
/// How long all replicas may take to be back when nothing disturbs them any more: a chunk server that a client could not reach several
/// times is kept from it for up to a minute.
const RETURN_MAX: Duration = Duration::from_secs(180);
/// How long what was in doubt may stay so when every file was released in order: chunk servers ask every half minute.
const DOUBTS: Duration = Duration::from_secs(90);
/// By how much a clock may be fast or slow, in parts per million.
const DRIFT_PPM: u64 = 20_000;
/// Clients, and volumes.
pub const CLIENTS: usize = 2;
/// Port of the metadata server among its kind; clients and chunk servers dial the next.
const MDS_PORT: u16 = 2510;
/// Port of the chunk servers.
const CS_PORT: u16 = 3000;
/// Directory of a chunk server on its host.
pub const CS_DIR: &str = "/cs";
/// Files of chunks, in their repository.
pub const CHUNKS_DIR: &str = "/cs/chunks";
/// Directory of the metadata server on its host.
pub const MDS_DIR: &str = "/mds";
/// Bytes of a volume.
pub const VOLUME_BYTES: u64 = 8 << 20;
/// Bytes of a chunk.
pub const CHUNK_BYTES: u64 = 2 << 20;

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The metadata server.
    Mds,
    /// A chunk server.
    Cs(usize),
    /// A client.
    Client(usize),
}

/// A cluster under test.
pub struct Cluster {
    /// Newer ones of a part last.
    hosts: RefCell<Vec<(Part, HostId)>>,
    credentials: Vec<(Part, Credentials)>,
    running: RefCell<Vec<(Part, ProcessId)>>,
    /// Told to chunk servers that shall stop in order.
    stop: Rc<Notify>,
    stopping: Rc<Cell<bool>>,
    /// The chunk servers' own, unless the cluster wants them no more.
    engines: Rc<RefCell<BTreeMap<usize, Weak<Engine>>>>,
    /// Common to all processes.
    pub shared: Rc<Shared>,
    jobs: Vec<Job>,
    finished: Rc<RefCell<Vec<bool>>>,
    depth: usize,
    /// The chunk server whose disk is lost for ever.
    dead: Cell<Option<usize>>,
    /// Where it was reached, also when another one has taken its place.
    lost: RefCell<Option<String>>,
    /// Of the cluster.
    id: [u8; 16],
    /// Whether the hosts' clocks have rates of their own.
    drifts: bool,
    /// The chunk server whose disk fails.
    doomed: Rc<Cell<Option<usize>>>,
}

fn endpoint(credentials: &Credentials, role: Role, cs_id: u64) -> Endpoint {
    let boot_id = rt::node::boot_id().expect("simulated hosts have a boot id");
    let hello = LocalHello { cs_id, ..LocalHello::new(role, boot_id) };
    let options = Options { security: Security::simulated(), ..Options::default() };
    Endpoint::new(credentials.clone(), hello, options).expect("credentials made for this run")
}

impl Cluster {
    /// Adds the hosts and makes the servers' directories.
    pub async fn make(operations: u64, plan: Plan) -> Self {
        let authority = ClusterAuthority::create("sim", ClusterId::random()).expect("the name is good");
        let parts: Vec<Part> = std::iter::once(Part::Mds)
            .chain((0..CHUNK_SERVERS).map(Part::Cs))
            .chain((0..CLIENTS).map(Part::Client))
            .collect();
        let drifts = rt::random::below(2) == 0;
        if drifts {
            rt::sim::hit(coverage::CLOCKS_DRIFT);
        }
        let id = authority.cluster().0;
        let mut hosts = Vec::new();
        let mut credentials = Vec::new();
        for part in parts {
            let name = match part {
                Part::Mds => "mds".to_owned(),
                Part::Cs(n) => format!("cs{n}"),
                Part::Client(n) => format!("client{n}"),
            };
            let (host, atomic_unit) = add_host(&name, drifts);
            let issued =
                authority.issue(&name, "0123456789abcdef0123456789abcdef", Roles::ALL).expect("a good name");
            hosts.push((part, host));
            credentials.push((part, issued));
            if let Part::Cs(n) = part {
                let made = control::start_process(host, "make-cs", make_cs(n, id, atomic_unit == 4096));
                made.wait().await.returned();
            }
        }
        let depth = 1 + rt::random::below(6) as usize;
        // In every other run much is at stake when the power fails.
        let flush_percent = if rt::random::below(2) == 0 { 12 } else { 1 };
        let jobs = (0..CLIENTS)
            .map(|n| Job {
                client: n,
                volume: n,
                volumes: CLIENTS,
                size: VOLUME_BYTES,
                depth,
                flush_percent,
                operations: operations / CLIENTS as u64,
                scratch_one_in: plan.scratch_one_in(),
            })
            .collect();
        let cluster = Self {
            hosts: RefCell::new(hosts),
            credentials,
            running: RefCell::default(),
            stop: Rc::new(Notify::new()),
            stopping: Rc::new(Cell::new(false)),
            engines: Rc::default(),
            shared: Shared::new(CLIENTS, CLIENTS + 1),
            jobs,
            finished: Rc::new(RefCell::new(vec![false; CLIENTS])),
            depth,
            dead: Cell::new(None),
            lost: RefCell::default(),
            id,
            drifts,
            doomed: Rc::default(),
        };
        cluster.make_mds(&authority).await;
        cluster
    }

    /// The host of a part.
    #[must_use]
    pub fn host(&self, part: Part) -> HostId {
        let hosts = self.hosts.borrow();
        let newest = hosts.iter().rev().find(|(other, _)| *other == part);
        newest.map(|(_, host)| *host).expect("every part has a host")
    }

    fn credentials(&self, part: Part) -> Credentials {
        let found = self.credentials.iter().find(|(other, _)| *other == part);
        found.map(|(_, credentials)| credentials.clone()).expect("every part has credentials")
    }

    fn mds_address(&self) -> ServerAddress {
        ServerAddress { host: control::host_ip(self.host(Part::Mds)).to_string(), port: MDS_PORT }
    }

    /// A chunk server is lost for ever.
    pub fn bury(&self, n: usize) {
        *self.lost.borrow_mut() = Some(self.cs_address(n));
        self.dead.set(Some(n));
    }

    /// Where the chunk server was reached whose disk is lost.
    #[must_use]
    pub fn lost_address(&self) -> Option<String> {
        self.lost.borrow().clone()
    }

    /// An empty disk, and a host, take the place of what is lost: a chunk server of its own.
    pub async fn replace(&self, n: usize) {
        rt::sim::hit("disk.replaced");
        let (host, atomic_unit) = add_host(&format!("cs{n}b"), self.drifts);
        let made = control::start_process(host, "make-cs", make_cs(n, self.id, atomic_unit == 4096));
        made.wait().await.returned();
        self.hosts.borrow_mut().push((Part::Cs(n), host));
        self.dead.set(None);
        self.start(Part::Cs(n));
    }

    /// The disk of a chunk server will fail.
    pub fn doom(&self, n: usize) {
        self.doomed.set(Some(n));
    }

    /// Whether the disk of a part has failed, or will.
    #[must_use]
    pub fn is_doomed(&self, part: Part) -> bool {
        self.doomed.get().map(Part::Cs) == Some(part)
    }

    /// Whether a part is lost for ever.
    #[must_use]
    pub fn is_dead(&self, part: Part) -> bool {
        self.dead.get().map(Part::Cs) == Some(part)
    }

    /// Has an operator do something, from the first client's host; whether it came to an end depends on the faults.
    pub fn operate(&self, act: impl AsyncFnOnce(Rc<Master>) + 'static) {
        let host = self.host(Part::Client(0));
        if !control::is_powered(host) {
            return;
        }
        let credentials = self.credentials(Part::Client(0));
        let mds = self.mds_address();
        let _unwaited = control::start_process(host, "operator", async move {
            let (master, _servers) = connect(&credentials, mds);
            act(master).await;
        });
    }

    /// Whether the process of a part runs.
    #[must_use]
    pub fn is_running(&self, part: Part) -> bool {
        self.process(part).is_some_and(control::is_alive)
    }

    /// The process of a part, running or not.
    #[must_use]
    pub fn process(&self, part: Part) -> Option<ProcessId> {
        self.running.borrow().iter().rev().find(|(other, _)| *other == part).map(|(_, process)| *process)
    }

    /// Whether a client has done its job.
    #[must_use]
    pub fn has_finished(&self, client: usize) -> bool {
        self.finished.borrow()[client]
    }

    fn note<T>(&self, part: Part, process: &Process<T>) {
        self.running.borrow_mut().push((part, process.id()));
    }

    /// Starts the process of a part on its host, which must have power.
    pub fn start(&self, part: Part) {
        let host = self.host(part);
        let credentials = self.credentials(part);
        match part {
            Part::Mds => {
                let address = std::net::SocketAddr::new(control::host_ip(host), MDS_PORT);
                let process = control::start_process(host, "mds", run_mds(credentials, address));
                self.note(part, &process);
            }
            Part::Cs(n) => {
                let mds = Address::Tcp(std::net::SocketAddr::new(
                    control::host_ip(self.host(Part::Mds)),
                    MDS_PORT + 1,
                ));
                let ip = control::host_ip(host);
                let (stop, stopping) = (Rc::clone(&self.stop), Rc::clone(&self.stopping));
                let shared = Rc::clone(&self.shared);
                let doomed = Rc::clone(&self.doomed);
                let engines = Rc::clone(&self.engines);
                let serves = move |engine: Option<&Rc<Engine>>| {
                    let _before = match engine {
                        Some(engine) => engines.borrow_mut().insert(n, Rc::downgrade(engine)),
                        None => engines.borrow_mut().remove(&n),
                    };
                };
                let process = control::start_process(host, "cs", async move {
                    match run_cs(credentials, mds, ip, stop, stopping, serves).await {
                        Ok(()) => {}
                        // It fails again at its start, or remembers that it has failed.
                        Err(error) if doomed.get() == Some(n) => {
                            rt::sim::hit("disk.failed-server-refuses");
                            rt::sim::trace(|| format!("a chunk server whose disk fails: {error}"));
                        }
                        // A misdirected write may land in the journal: then nothing is served, as it must be.
                        Err(_) if n == 0 && shared.misdirected.get() => shared.refused.set(true),
                        Err(error) => panic!("opening a chunk server: {error}"),
                    }
                });
                self.note(part, &process);
            }
            Part::Client(n) => {
                let job = self.jobs[n].clone();
                let (shared, finished) = (Rc::clone(&self.shared), Rc::clone(&self.finished));
                let mds = self.mds_address();
                let process = control::start_process(host, "client", async move {
                    let (master, servers) = connect(&credentials, mds);
                    workload::run(shared, master, servers, job).await;
                    finished.borrow_mut()[n] = true;
                });
                self.note(part, &process);
            }
        }
    }

    /// Makes the metadata server's directory, starts everything, and creates the volumes.
    pub async fn start_all(&self) {
        self.start(Part::Mds);
        for n in 0..CHUNK_SERVERS {
            self.start(Part::Cs(n));
        }
        let host = self.host(Part::Client(0));
        let credentials = self.credentials(Part::Client(0));
        let mds = self.mds_address();
        let setup = control::start_process(host, "setup", async move { set_up(&credentials, mds).await });
        setup.wait().await.returned();
        for n in 0..CLIENTS {
            self.start(Part::Client(n));
        }
    }

    async fn make_mds(&self, authority: &ClusterAuthority) {
        let host = self.host(Part::Mds);
        let cluster = authority.cluster();
        let address = std::net::SocketAddr::new(control::host_ip(host), MDS_PORT);
        let made = control::start_process(host, "make-mds", make_mds(cluster, address));
        made.wait().await.returned();
    }

    /// Stops the chunk servers in order and checks their disks; gives what was found.
    pub async fn stop_and_check(&self) -> Vec<String> {
        self.stopping.set(true);
        self.stop.notify_all();
        let mut findings = Vec::new();
        let lasts = |n: &usize| !self.is_dead(Part::Cs(*n)) && !self.is_doomed(Part::Cs(*n));
        for n in (0..CHUNK_SERVERS).filter(lasts) {
            let deadline = rt::time::now() + Duration::from_secs(60);
            while self.is_running(Part::Cs(n)) {
                if rt::time::now() > deadline {
                    findings.push(format!("C13: chunk server {n} has not stopped within a minute"));
                    return findings;
                }
                rt::time::sleep(Duration::from_millis(100)).await;
            }
            let check = control::start_process(self.host(Part::Cs(n)), "check", async {
                cs_engine::check::run(Path::new(CS_DIR), &mut |_| {}).await
            });
            match check.wait().await {
                Exit::Returned(Ok(report)) if report.is_clean() => {}
                // It hit what nobody reads while the server runs.
                Exit::Returned(Ok(_)) if n == 0 && self.shared.misdirected.get() => {}
                // What it had was damaged before it was removed, and belongs to nobody.
                Exit::Returned(Ok(_)) if self.is_removed(Part::Cs(n)) && !self.shared.undamaged.get() => {}
                Exit::Returned(Ok(report)) => findings.push(format!("chunk server {n}: {report}")),
                Exit::Returned(Err(error)) => findings.push(format!("chunk server {n}: {error}")),
                Exit::Killed => findings.push(format!("the check of chunk server {n} was killed")),
            }
        }
        findings
    }

    /// Nothing is in doubt any more once every file was released in order: else verifying is blind there, and no stop is an orderly one (C5).
    pub async fn doubts_end(&self) {
        if self.shared.misdirected.get() {
            return;
        }
        let lasts = |n: &usize| {
            let part = Part::Cs(*n);
            !self.is_dead(part) && !self.is_doomed(part) && !self.is_removed(part)
        };
        let in_doubt = || -> Vec<(usize, u64)> {
            let engines = self.engines.borrow();
            let running = engines.iter().filter(|(n, _)| lasts(n));
            let running = running.filter_map(|(n, engine)| Some((*n, engine.upgrade()?)));
            running
                .flat_map(|(n, engine)| engine.in_doubt((0, 0), 9).into_iter().map(move |(_, id)| (n, id)))
                .collect()
        };
        // Nobody writes any more: what is listed of the last epoch counts as well.
        self.engines.borrow().values().filter_map(Weak::upgrade).for_each(|engine| engine.begin_quiet());
        let began = rt::time::now();
        while !in_doubt().is_empty() {
            if began.elapsed() > DOUBTS {
                let left = in_doubt();
                self.shared
                    .violation(format!("C5: chunk servers and their chunks that stay in doubt: {left:x?}"));
                return;
            }
            rt::time::sleep(Duration::from_secs(1)).await;
        }
        rt::sim::gauge("sim.settled-after-s", began.elapsed().as_secs());
    }

    /// Whether an operator has had this chunk server removed.
    fn is_removed(&self, part: Part) -> bool {
        matches!(part, Part::Cs(n) if self.shared.removed.borrow().contains(&self.cs_address(n)))
    }

    /// Where a chunk server is reached, as the metadata server tells it.
    pub fn cs_address(&self, n: usize) -> String {
        std::net::SocketAddr::new(control::host_ip(self.host(Part::Cs(n))), CS_PORT).to_string()
    }

    /// Opens every volume, reads every sector ever written, compares the members.
    pub async fn verify(&self) {
        let host = self.host(Part::Client(0));
        let credentials = self.credentials(Part::Client(0));
        let mds = self.mds_address();
        let shared = Rc::clone(&self.shared);
        let depth = self.depth;
        let process = control::start_process(host, "verify", async move {
            let (master, servers) = connect(&credentials, mds);
            verify(&shared, &master, &servers, depth).await;
        });
        if process.wait().await == Exit::Killed {
            self.shared.violation("the verification was killed".into());
        }
    }
}

fn connect(credentials: &Credentials, mds: ServerAddress) -> (Rc<Master>, Rc<Servers>) {
    let endpoint = endpoint(credentials, Role::Client, 0);
    (Rc::new(Master::new(&endpoint, vec![mds], Keep::default())), Servers::new(endpoint))
}

/// A host, and the bytes that its disk writes whole.
fn add_host(name: &str, drifts: bool) -> (HostId, u32) {
    // Half of the disks tear blocks in a power cut; there everything goes through the journal.
    let atomic_unit = if rt::random::below(2) == 0 { 512 } else { 4096 };
    // Nothing may depend on an operation being carried out whole, or soon.
    let rates = FaultRates { short_read: 10, short_write: 10, stall: 20, ..FaultRates::default() };
    let stall = Duration::from_millis(300);
    let disk = DiskOptions { capacity: 4 << 30, atomic_unit, rates, stall, ..DiskOptions::default() };
    // Leases must hold whatever the quartz of a host does (C1).
    let fast_ppm = if drifts { rt::random::below(2 * DRIFT_PPM + 1) as i32 - DRIFT_PPM as i32 } else { 0 };
    (control::add_host(HostOptions::new(name).with_disk(disk).with_clock(fast_ppm)), atomic_unit)
}

async fn make_cs(number: usize, cluster: [u8; 16], block_atomic: bool) {
    let random = || {
        let mut id = [0; 16];
        rt::random::fill_secret(&mut id);
        id
    };
    let superblock = Superblock {
        sequence: 1,
        cluster,
        cluster_name: "sim".into(),
        cs_uuid: random(),
        cs_id: 0,
        store_uuid: random(),
        journal_generation: 1,
        nonce: [0; 16],
        nonce_offered: [0; 16],
        boot_id: [0; 16],
        incarnation: 0,
        tier: 0,
        no_checksums: false,
        ssd_journal: false,
        block_atomic,
        failed: false,
        failed_journal: false,
        journal_bytes: cs_engine::format::journal::RING_MIN,
        journal_dir: None,
        listen: String::new(),
        other_journal: cs_engine::format::superblock::OtherJournal::None,
    };
    let options = CreateOptions { dir: PathBuf::from(CS_DIR), superblock };
    engine::create(&options).await.unwrap_or_else(|error| panic!("making chunk server {number}: {error}"));
}

async fn run_cs(
    credentials: Credentials,
    mds: Address,
    ip: std::net::IpAddr,
    stop: Rc<Notify>,
    stopping: Rc<Cell<bool>>,
    serves: impl Fn(Option<&Rc<Engine>>) + 'static,
) -> Result<(), engine::OpenError> {
    let dir = Path::new(CS_DIR);
    let lock = loop {
        match engine::lock_directory(dir).await {
            Ok(lock) => break lock,
            // The last operation of the process before is still under way.
            Err(engine::OpenError::InUse(_)) => rt::time::sleep(Duration::from_millis(20)).await,
            Err(error) => return Err(error),
        }
    };
    let options = EngineOptions { checkpoint_interval: Duration::from_secs(2), files_max: 8, pages_max: 16 };
    let engine = Engine::open(dir, lock, options).await?;
    serves(Some(&engine));
    let boot_id = rt::node::boot_id().expect("simulated hosts have a boot id");
    let endpoint = endpoint(&credentials, Role::Cs, engine.superblock().cs_id);
    let server = Server::new(Rc::clone(&engine), boot_id);
    let address = std::net::SocketAddr::new(ip, CS_PORT);
    let listener =
        Listener::bind(&Address::Tcp(address)).unwrap_or_else(|error| panic!("port {CS_PORT}: {error}"));
    let serving = rt::spawn({
        let (endpoint, server) = (endpoint.clone(), Rc::clone(&server));
        async move { endpoint.serve(listener, server).await }
    });
    let registrar = Registrar::new(
        server,
        endpoint.clone(),
        RegistrarOptions {
            mds: vec![mds],
            addresses: vec![address.to_string()],
            host_id: rt::node::host_name(),
            path: dir.to_owned(),
        },
    );
    let registering = rt::spawn(async move {
        if let Err(error) = registrar.run().await {
            rt::sim::trace(|| format!("registration ends: {error}"));
            serves(None);
        }
    });
    loop {
        let told = stop.notified();
        if stopping.get() {
            break;
        }
        told.await;
    }
    registering.abort();
    serving.abort();
    endpoint.close().await;
    engine.stop().await;
    Ok(())
}

async fn make_mds(cluster: ClusterId, address: std::net::SocketAddr) {
    mds::server::create(Path::new(MDS_DIR), cluster.0, "sim", address)
        .await
        .unwrap_or_else(|error| panic!("making the metadata server: {error}"));
}

async fn run_mds(credentials: Credentials, address: std::net::SocketAddr) {
    let options = mds::server::ServerOptions {
        security: Security::simulated(),
        ..mds::server::ServerOptions::default()
    };
    if let Err(error) = mds::server::run_server(Path::new(MDS_DIR), credentials, address, options).await {
        panic!("the metadata server: {error}");
    }
}

/// Short terms, three replicas, and the volumes.
async fn set_up(credentials: &Credentials, mds: ServerAddress) {
    let (master, _servers) = connect(credentials, mds);
    let patience = || rt::time::now() + Duration::from_secs(30);
    let settings = [
        ("gen.lease_term", "8"),
        ("mds.cs.term", "4"),
        ("mds.wd.offline_tout", "10"),
        ("mds.wd.quarantine_tout", "5"),
    ];
    for (key, value) in settings {
        let request = wire::cluster::SetConfig { key: key.into(), value: Some(value.to_owned()) };
        master.ask(&request, patience()).await.unwrap_or_else(|error| panic!("setting {key}: {error}"));
    }
    for volume in 0..CLIENTS {
        let request = new_file(workload::path(volume), VOLUME_BYTES);
        master
            .ask(&request, patience())
            .await
            .unwrap_or_else(|error| panic!("creating volume {volume}: {error}"));
    }
}

/// The request that makes a file of a size.
pub fn new_file(path: String, size: u64) -> wire::namespace::Create {
    wire::namespace::Create {
        path,
        kind: wire::namespace::FileKind::File.into(),
        size,
        attrs: wire::namespace::Attrs {
            replicas: Some(REPLICAS as u32),
            replicas_min: Some(REPLICAS_MIN as u32),
            failure_domain: Some(wire::namespace::FailureDomain::Disk.into()),
            chunk_size: Some(CHUNK_BYTES),
            ..wire::namespace::Attrs::default()
        },
        ..wire::namespace::Create::default()
    }
}

async fn verify(shared: &Rc<Shared>, master: &Rc<Master>, servers: &Rc<Servers>, depth: usize) {
    let options = client::SessionOptions {
        client_uuid: [99; 16],
        kind: wire::session::ClientKind::Tool,
        resume: None,
        patience: Duration::from_secs(60),
    };
    let session = client::Session::open(Rc::clone(master), options)
        .await
        .unwrap_or_else(|error| panic!("a session for the verification: {error}"));
    let job = |number: usize| Job {
        client: CLIENTS,
        volume: number,
        volumes: CLIENTS,
        size: VOLUME_BYTES,
        depth,
        flush_percent: 0,
        operations: 0,
        scratch_one_in: u64::MAX,
    };
    for number in 0..CLIENTS {
        let volume = workload::open(shared, &session, servers, &job(number)).await;
        let sectors = VOLUME_BYTES / crate::oracle::SECTOR;
        for first in (0..sectors).step_by(512) {
            if let Err(error) =
                workload::check_range(shared, &volume, number, first..(first + 512).min(sectors)).await
            {
                shared.violation(format!("convergence: reading volume {number}: {error}"));
            }
        }
        // In order, so that whoever is away may return.
        if let Err(error) = volume.close().await {
            shared.violation(format!("convergence: closing volume {number}: {error}"));
        }
    }
    crate::scratch::clear(shared, master).await;
    let began = rt::time::now();
    // What waits to be deleted may be damaged, and nobody would mend it. A disk that is lost is waited for in vain.
    let stat = match until_healthy(master, !shared.undamaged.get()).await {
        Ok(stat) => stat,
        Err(stat) => {
            shared.violation(format!("convergence: not all replicas are back (C6): {:?}", stat.chunks));
            return;
        }
    };
    check_differences(shared, master).await;
    let removed = stat.cs.iter().filter(|cs| cs.status() == ServiceStatus::Dropped);
    shared.removed.borrow_mut().extend(removed.flat_map(|cs| cs.addresses.iter().cloned()));
    rt::sim::gauge("sim.healthy-after-s", began.elapsed().as_secs());
    for number in 0..CLIENTS {
        let volume = workload::open(shared, &session, servers, &job(number)).await;
        for index in 0..VOLUME_BYTES / CHUNK_BYTES {
            // Damage that was planted and that nobody happened to read is mended first.
            if let Err(error) = volume.mend(index).await {
                shared.violation(format!("convergence: mending volume {number}: {error}"));
            }
            match volume.compare_members(index).await {
                Ok(found) if found == client::Comparison::default() => {}
                Ok(found) => {
                    shared.violation(format!(
                        "C5: members of chunk {index} of volume {number} do not agree: {found:?}"
                    ));
                }
                Err(error) => shared.violation(format!("convergence: comparing volume {number}: {error}")),
            }
        }
        if let Err(error) = volume.close().await {
            shared.violation(format!("convergence: closing volume {number}: {error}"));
        }
    }
}

/// Members that were compared at any time of the run may not have differed (C7): no fault gives one of them content that the others do
/// not have, with a checksum that matches it. A misdirected write may.
async fn check_differences(shared: &Rc<Shared>, master: &Rc<Master>) {
    if shared.misdirected.get() {
        return;
    }
    let mut after = 0;
    loop {
        let request = GetEvents { after, ..GetEvents::default() };
        match master.ask(&request, rt::time::now() + Duration::from_secs(10)).await {
            Ok(reply) => {
                for event in reply.events.iter().filter(|event| event.code == "mds.replicas_differ") {
                    shared.violation(format!("C7: {}", event.message));
                }
                match reply.events.last() {
                    Some(last) if last.id < reply.last_id => after = last.id,
                    _ => return,
                }
            }
            Err(error) => return shared.violation(format!("convergence: events: {error}")),
        }
    }
}

/// Waits until every chunk has all its replicas again; gives the state of the cluster, as an error if that takes too long.
async fn until_healthy(master: &Rc<Master>, purged: bool) -> Result<ClusterStatReply, ClusterStatReply> {
    let deadline = rt::time::now() + RETURN_MAX;
    let mut last = ClusterStatReply::default();
    while rt::time::now() < deadline {
        let patience = rt::time::now() + Duration::from_secs(10);
        match master.ask(&wire::cluster::ClusterStat {}, patience).await {
            Ok(stat) if stat.chunks.healthy == stat.fs_chunks && !(purged && stat.chunks.deleting > 0) => {
                return Ok(stat);
            }
            Ok(stat) => last = stat,
            Err(error) => rt::sim::trace(|| format!("stat: {error}")),
        }
        rt::time::sleep(Duration::from_secs(1)).await;
    }
    Err(last)
}
