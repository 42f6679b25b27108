//! The metadata server in the simulator, with everybody around it being killed, paused, cut off and switched off, by seed.
//!
//! Chunk servers and clients here are small models that follow the rules of theirs: a chunk server serves for half its term,
//! a client trusts its lease for five sixths. What is checked at each grant: nobody else trusts a lease on the file
//! (C1), epochs grow (C1), and every chunk server that would serve has recorded the epoch (C2). No directory is ever rolled
//! back here, so none may count as stale (C10). When the faults stop, everybody gets on with it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use link::{
    AskError, ClusterAuthority, ClusterId, Connection, Credentials, Endpoint, Expect, Keep, LocalHello,
    Master, Options, Request, Response, Roles, Security, ServerAddress, Service,
};
use mds::server::{ServerOptions, create, run_server};
use rt::net::Address;
use rt::random::Rng;
use rt::sim::control::{self, PeerView, Process};
use rt::sim::{HostId, HostOptions, SimOptions, Simulation};
use rt::time::Instant;
use wire::cs::{CreateChunks, DeleteChunks, Fence, Heartbeat, ItemResult, RegisterCs, ResultsReply};
use wire::hello::Role;
use wire::lease::{AllocateChunks, Open, OpenMode, OpenReply, Release};
use wire::namespace::{Attrs, Create, FailureDomain, FileKind, FileRef};
use wire::session::{IoStats, OpenSession, RenewSession, SessionKey};
use wire::{Op, Status};

const DIR: &str = "/mds";
const LEASE: Duration = Duration::from_secs(3);
const CS_TERM: Duration = Duration::from_secs(2);
const CHUNK_SERVERS: usize = 4;
const CLIENTS: usize = 3;
const FILES: u64 = 2;

fn path(file: u64) -> String {
    format!("/f{file}")
}

async fn nap(rng_max_ms: u64) {
    rt::time::sleep(Duration::from_micros(rt::random::below(rng_max_ms * 1000 + 1))).await;
}

/// A chunk server's disk, and what it would do with a request for data right now.
#[derive(Default)]
struct CsDisk {
    id: u64,
    nonce: [u8; 16],
    offered: [u8; 16],
    fences: BTreeMap<u64, u64>,
    chunks: BTreeMap<u64, u64>,
    // In memory.
    alive: bool,
    fences_pending: bool,
    serve_until: Option<Instant>,
}

impl CsDisk {
    fn serves(&self, now: Instant) -> bool {
        self.alive && !self.fences_pending && self.serve_until.is_some_and(|until| now < until)
    }
}

/// What a client thinks it holds.
#[derive(Clone, Copy, Debug)]
struct Belief {
    client: usize,
    epoch: u64,
    until: Instant,
}

/// What the world outside knows.
#[derive(Default)]
struct Truth {
    servers: Vec<RefCell<CsDisk>>,
    beliefs: RefCell<BTreeMap<u64, Belief>>,
    highest: RefCell<BTreeMap<u64, u64>>,
    /// Files whose last holder said, or may have said, that nothing is under way.
    clean: RefCell<BTreeSet<u64>>,
    /// What clients stored of their sessions.
    keys: Vec<RefCell<Option<SessionKey>>>,
    grants: Cell<u64>,
    allocated: Cell<u64>,
    /// Per client: times it got through since the faults stopped.
    rounds: Vec<Cell<u64>>,
}

impl Truth {
    fn grant(&self, file: u64, belief: Belief) {
        let now = rt::time::now();
        if belief.until <= now {
            // The answer took so long that the client does not trust it any more.
            return;
        }
        self.grants.set(self.grants.get() + 1);
        if let Some(other) = self.beliefs.borrow().get(&file)
            && other.client != belief.client
        {
            assert!(
                other.until <= now,
                "C1: {belief:?} was granted file {file} while {other:?} trusts its lease"
            );
        }
        let before = self.highest.borrow_mut().insert(file, belief.epoch).unwrap_or(0);
        assert!(belief.epoch > before, "C1: epoch {:#x} was granted after {before:#x}", belief.epoch);
        let clean = self.clean.borrow_mut().remove(&file);
        for (number, server) in self.servers.iter().enumerate() {
            let server = server.borrow();
            let holds = server.chunks.values().any(|of| *of == file);
            let fenced = server.fences.get(&file).is_some_and(|fence| *fence >= belief.epoch);
            assert!(
                clean || !holds || fenced || !server.serves(now),
                "C2: epoch {:#x} of file {file} was granted, and chunk server {number} still serves at {:?}",
                belief.epoch,
                server.fences.get(&file)
            );
        }
        self.beliefs.borrow_mut().insert(file, belief);
    }

    fn renewed(&self, client: usize, until: Instant) {
        for belief in self.beliefs.borrow_mut().values_mut().filter(|belief| belief.client == client) {
            belief.until = until;
        }
    }

    fn forget(&self, client: usize, file: Option<u64>) {
        self.beliefs
            .borrow_mut()
            .retain(|of, belief| belief.client != client || file.is_some_and(|file| *of != file));
    }
}

fn endpoint(credentials: Credentials, role: Role) -> Endpoint {
    let options = Options { security: Security::simulated(), ..Options::default() };
    let boot = rt::node::boot_id().expect("simulated");
    Endpoint::new(credentials, LocalHello::new(role, boot), options).expect("good credentials")
}

/// The orders a chunk server carries out.
struct CsService {
    truth: Rc<Truth>,
    number: usize,
}

impl Service for CsService {
    async fn serve(self: Rc<Self>, _: Connection, request: Request) -> Response {
        nap(5).await;
        let mut disk = self.truth.servers[self.number].borrow_mut();
        let ok = |id| ItemResult { id, status: Status::Ok.code().into() };
        let fence = |disk: &mut CsDisk, file, epoch| {
            let recorded = disk.fences.entry(file).or_insert(epoch);
            *recorded = epoch.max(*recorded);
        };
        let results = match request.known_op() {
            Some(Op::CreateChunks) => {
                let order: CreateChunks = wire::decode_body(&request.body).expect("an order");
                let one = |item: wire::cs::CreateItem| {
                    fence(&mut disk, item.file_id, item.epoch);
                    disk.chunks.insert(item.chunk_id, item.file_id);
                    ok(item.chunk_id)
                };
                order.items.into_iter().map(one).collect()
            }
            Some(Op::DeleteChunks) => {
                let order: DeleteChunks = wire::decode_body(&request.body).expect("an order");
                let one = |item: wire::cs::DeleteItem| {
                    disk.chunks.remove(&item.chunk_id);
                    ok(item.chunk_id)
                };
                order.items.into_iter().map(one).collect()
            }
            Some(Op::Fence) => {
                let order: Fence = wire::decode_body(&request.body).expect("an order");
                let last = order.last;
                let one = |item: wire::cs::FenceItem| {
                    fence(&mut disk, item.file_id, item.epoch);
                    ok(item.file_id)
                };
                let results = order.items.into_iter().map(one).collect();
                disk.fences_pending &= !last;
                results
            }
            other => panic!("not an order: {other:?}"),
        };
        Response::ok(wire::encode_body(&ResultsReply { results }).expect("short"))
    }
}

/// A chunk server: registers, renews, registers again.
async fn run_cs(truth: Rc<Truth>, number: usize, credentials: Credentials, mds: Address) {
    let endpoint = endpoint(credentials, Role::Cs);
    let disk = &truth.servers[number];
    {
        let mut disk = disk.borrow_mut();
        (disk.alive, disk.fences_pending, disk.serve_until) = (true, true, None);
    }
    let service = Rc::new(CsService { truth: Rc::clone(&truth), number });
    let mut started = true;
    loop {
        nap(300).await;
        let connected = endpoint.connect_serving(&mds, Expect::role(Role::Mds), Rc::clone(&service)).await;
        let Ok(connection) = connected else { continue };
        let fresh = started && disk.borrow().nonce == disk.borrow().offered;
        started = false;
        if fresh {
            let mut nonce = [0; 16];
            rt::random::fill_secret(&mut nonce);
            nap(3).await;
            disk.borrow_mut().offered = nonce;
        }
        let request = {
            let mut disk = disk.borrow_mut();
            if disk.serve_until.is_none_or(|until| rt::time::now() >= until) {
                (disk.fences_pending, disk.serve_until) = (true, None);
            }
            RegisterCs {
                cs_id: disk.id,
                cs_uuid: vec![number as u8 + 1; 16],
                nonce: disk.nonce.to_vec(),
                new_nonce: disk.offered.to_vec(),
                host_id: format!("host{number}"),
                boot_id: rt::node::boot_id().expect("simulated").to_vec(),
                addresses: vec![format!("10.0.9.{number}:1")],
                total_bytes: 1 << 40,
                free_bytes: 1 << 39,
                ..RegisterCs::default()
            }
        };
        let offered = request.new_nonce.clone();
        let sent = rt::time::now();
        let reply = match connection.ask(&request, sent + Duration::from_secs(3)).await {
            Ok(reply) => reply,
            Err(AskError::Status { status, error }) => {
                assert!(
                    matches!(status, Status::Retry | Status::Stopping | Status::NotMaster | Status::Timeout),
                    "C10: registration refused: {status}: {}",
                    error.message
                );
                continue;
            }
            Err(_) => continue,
        };
        assert!(!reply.stale, "C10: nothing was rolled back, and chunk server {number} is stale");
        // The answer reaches the disk a little later; a kill in between loses it.
        nap(5).await;
        let mut term = Duration::from_millis(reply.term_ms.into());
        {
            let mut disk = disk.borrow_mut();
            disk.id = reply.cs_id;
            disk.nonce.copy_from_slice(&offered);
            for item in &reply.fences {
                let recorded = disk.fences.entry(item.file_id).or_insert(item.epoch);
                *recorded = item.epoch.max(*recorded);
            }
            disk.fences_pending &= reply.more_fences;
            disk.serve_until = Some(sent + term / 2);
        }
        loop {
            if rt::time::timeout(term / 6, connection.closed()).await.is_ok() {
                break;
            }
            let sent = rt::time::now();
            let heartbeat = Heartbeat {
                cs_id: reply.cs_id,
                session: reply.session,
                total_bytes: 1 << 40,
                free_bytes: 1 << 39,
                ..Heartbeat::default()
            };
            if disk.borrow().serve_until.is_none_or(|until| sent >= until) {
                break;
            }
            match connection.ask(&heartbeat, sent + term / 3).await {
                Ok(renewed) => {
                    term = Duration::from_millis(renewed.term_ms.into());
                    disk.borrow_mut().serve_until = Some(sent + term / 2);
                }
                Err(_) => break,
            }
        }
    }
}

/// A client's session while it runs.
struct Session {
    key: SessionKey,
    until: Cell<Instant>,
    over: Cell<bool>,
}

async fn open_session(truth: &Truth, client: usize, master: &Master) -> Option<Rc<Session>> {
    let resume = truth.keys[client].borrow().clone();
    // Taken over: what the last one held is over.
    let sent = rt::time::now();
    let request = OpenSession {
        client_uuid: vec![client as u8 + 1; 16],
        host_name: format!("client{client}"),
        resume,
        ..OpenSession::default()
    };
    // The same in every attempt, so that an answer that was lost is given again.
    let id = 1 << 40 | rt::random::below(1 << 40);
    let reply = master.ask_as(id, &request, sent + Duration::from_secs(10)).await.ok()?;
    truth.forget(client, None);
    *truth.keys[client].borrow_mut() = Some(reply.session.clone());
    let term = Duration::from_millis(reply.term_ms.into());
    let until = Cell::new(sent + term * 5 / 6);
    Some(Rc::new(Session { key: reply.session, until, over: Cell::new(false) }))
}

async fn renew(truth: Rc<Truth>, client: usize, master: Master, session: Rc<Session>) {
    while !session.over.get() {
        rt::time::sleep(LEASE / 4).await;
        let sent = rt::time::now();
        let request =
            RenewSession { session: session.key.clone(), io: IoStats::default(), answered_below: 0 };
        match master.ask(&request, sent + LEASE / 2).await {
            Ok(reply) if !session.over.get() => {
                let term = Duration::from_millis(reply.term_ms.into());
                session.until.set(sent + term * 5 / 6);
                truth.renewed(client, session.until.get());
                for lost in reply.revoked {
                    truth.forget(client, Some(lost.file_id));
                }
            }
            Err(AskError::Status { status: Status::SessionExpired, .. }) => {
                session.over.set(true);
                truth.forget(client, None);
            }
            _ => {}
        }
    }
}

/// A client: opens files, holds them for a while, gives them back in one way or another.
async fn run_client(truth: Rc<Truth>, client: usize, credentials: Credentials, mds: ServerAddress) {
    let endpoint = endpoint(credentials, Role::Client);
    let master = Master::new(&endpoint, vec![mds], Keep::new(Expect::role(Role::Mds)));
    loop {
        let Some(session) = open_session(&truth, client, &master).await else { continue };
        let renewing = rt::spawn(renew(Rc::clone(&truth), client, master.clone(), Rc::clone(&session)));
        while !session.over.get() {
            let file = rt::random::below(FILES);
            let Some(open) = open(&truth, client, &master, &session, file).await else { continue };
            allocate(&truth, &master, &session, &open).await;
            nap(400).await;
            give_back(&truth, client, &master, &session, &open).await;
        }
        renewing.abort();
    }
}

async fn open(
    truth: &Truth,
    client: usize,
    master: &Master,
    session: &Session,
    file: u64,
) -> Option<OpenReply> {
    let mut resume_epoch = 0;
    loop {
        let request = Open {
            file: Some(FileRef::Path(path(file))),
            session: session.key.clone(),
            mode: OpenMode::Write.into(),
            map_count: 4,
            resume_epoch,
        };
        match master.ask(&request, rt::time::now() + Duration::from_secs(4)).await {
            Ok(reply) if !session.over.get() => {
                let belief = Belief { client, epoch: reply.epoch, until: session.until.get() };
                truth.grant(reply.file_id, belief);
                if rt::random::below(4) > 0 {
                    return Some(reply);
                }
                // As after the reboot of a chunk server: nothing more is done at this epoch.
                truth.forget(client, Some(reply.file_id));
                resume_epoch = reply.epoch;
            }
            Ok(_) => return None,
            Err(AskError::Status { status: Status::SessionExpired, .. }) => {
                session.over.set(true);
                truth.forget(client, None);
                return None;
            }
            Err(AskError::Status { status: Status::LeaseHeld | Status::StaleEpoch, .. }) => {
                nap(300).await;
                return None;
            }
            Err(_) => {}
        }
        if session.over.get() {
            return None;
        }
    }
}

async fn allocate(truth: &Truth, master: &Master, session: &Session, open: &OpenReply) {
    let request = AllocateChunks {
        session: session.key.clone(),
        file_id: open.file_id,
        epoch: open.epoch,
        indices: vec![rt::random::below(8)],
    };
    let answer = master.ask(&request, rt::time::now() + Duration::from_secs(2)).await;
    let Ok(map) = answer else { return };
    truth.allocated.set(truth.allocated.get() + 1);
    for member in &map.chunks[0].members {
        let held = truth.servers.iter().any(|server| {
            let server = server.borrow();
            server.id == member.cs_id && server.chunks.contains_key(&map.chunks[0].chunk_id)
        });
        assert!(held, "C9: a chunk was given out before {} held it", member.cs_id);
    }
}

async fn give_back(truth: &Truth, client: usize, master: &Master, session: &Session, open: &OpenReply) {
    let trusts = rt::time::now() < session.until.get() && !session.over.get();
    // Some just drop what they have, and open it again some day.
    if rt::random::below(5) == 0 {
        return truth.forget(client, Some(open.file_id));
    }
    let clean = trusts && rt::random::below(2) == 0;
    truth.forget(client, Some(open.file_id));
    if clean {
        truth.clean.borrow_mut().insert(open.file_id);
    }
    let request = Release { session: session.key.clone(), file_id: open.file_id, epoch: open.epoch, clean };
    let released = master.ask(&request, rt::time::now() + Duration::from_secs(4)).await;
    if released.is_ok() {
        truth.rounds[client].set(truth.rounds[client].get() + 1);
    }
}

/// Everything that runs.
struct World {
    truth: Rc<Truth>,
    authority: ClusterAuthority,
    address: SocketAddr,
    /// The metadata server's, then those of chunk servers and clients.
    hosts: Vec<HostId>,
    running: Vec<Option<Process<()>>>,
}

impl World {
    async fn build() -> Self {
        let count = 1 + CHUNK_SERVERS + CLIENTS;
        let hosts: Vec<HostId> = (0..count).map(|_| control::add_host(HostOptions::new("host"))).collect();
        let authority = ClusterAuthority::create("sim", ClusterId::random()).expect("a good name");
        let address = SocketAddr::new(control::host_ip(hosts[0]), 2510);
        let cluster = authority.cluster().0;
        let made = control::start_process(hosts[0], "make", async move {
            create(Path::new(DIR), cluster, "sim", address).await.expect("made");
        });
        made.wait().await.returned();
        let truth = Truth {
            servers: (0..CHUNK_SERVERS).map(|_| RefCell::default()).collect(),
            keys: (0..CLIENTS).map(|_| RefCell::default()).collect(),
            rounds: (0..CLIENTS).map(|_| Cell::default()).collect(),
            ..Truth::default()
        };
        let running = (0..count).map(|_| None).collect();
        let mut world = Self { truth: Rc::new(truth), authority, address, hosts, running };
        world.start(0);
        world.set_up().await;
        (1..count).for_each(|part| world.start(part));
        world
    }

    fn credentials(&self) -> Credentials {
        self.authority.issue("node", "00", Roles::ALL).expect("good names")
    }

    fn mds(&self) -> ServerAddress {
        ServerAddress { host: self.address.ip().to_string(), port: self.address.port() }
    }

    /// Makes the files.
    async fn set_up(&self) {
        let (credentials, mds) = (self.credentials(), self.mds());
        let made = control::start_process(self.hosts[1], "tool", async move {
            let master = Master::new(
                &endpoint(credentials, Role::Tool),
                vec![mds],
                Keep::new(Expect::role(Role::Mds)),
            );
            for file in 0..FILES {
                let attrs = Attrs {
                    replicas: Some(3),
                    failure_domain: Some(FailureDomain::Host.into()),
                    chunk_size: Some(64 << 10),
                    ..Attrs::default()
                };
                let create = Create {
                    path: path(file),
                    kind: FileKind::File.into(),
                    size: 8 * (64 << 10),
                    attrs,
                    mode: 0,
                };
                let id = 1 << 40 | file;
                master.ask_as(id, &create, rt::time::now() + Duration::from_secs(20)).await.expect("made");
            }
        });
        made.wait().await.returned();
    }

    fn start(&mut self, part: usize) {
        let (truth, credentials, address) = (Rc::clone(&self.truth), self.credentials(), self.address);
        let host = self.hosts[part];
        if !control::is_powered(host) {
            control::power_on(host);
        }
        let process = if part == 0 {
            let options = ServerOptions {
                security: Security::simulated(),
                lease_term: Some(LEASE),
                cs_term: Some(CS_TERM),
                ..ServerOptions::default()
            };
            control::start_process(host, "mds", async move {
                let ended = run_server(Path::new(DIR), credentials, address, options).await;
                panic!("the metadata server: {}", ended.expect_err("it never ends well"));
            })
        } else if part <= CHUNK_SERVERS {
            let mds = Address::Tcp(SocketAddr::new(address.ip(), address.port() + 1));
            control::start_process(host, "cs", run_cs(truth, part - 1, credentials, mds))
        } else {
            let client = part - 1 - CHUNK_SERVERS;
            control::start_process(host, "client", run_client(truth, client, credentials, self.mds()))
        };
        self.running[part] = Some(process);
    }

    /// It is dead: what it would have done it does no more.
    fn bury(&mut self, part: usize) {
        self.running[part] = None;
        if (1..=CHUNK_SERVERS).contains(&part) {
            self.truth.servers[part - 1].borrow_mut().alive = false;
        } else if part > CHUNK_SERVERS {
            self.truth.forget(part - 1 - CHUNK_SERVERS, None);
        }
    }

    async fn trouble(&mut self, rng: &mut Rng) {
        let part = if rng.one_in(3) { 0 } else { rng.below(self.hosts.len() as u64) as usize };
        let other = rng.below(self.hosts.len() as u64) as usize;
        let lasting = Duration::from_millis(20 + rng.below(4000));
        let Some(process) = self.running[part].as_ref().map(Process::id) else { return };
        match rng.below(7) {
            0 => {
                control::kill(process);
                self.bury(part);
                nap(300).await;
                self.start(part);
            }
            1 => {
                let peers = if rng.one_in(2) { PeerView::Silence } else { PeerView::Reset };
                control::power_cut(&[self.hosts[part]], peers);
                self.bury(part);
                nap(1500).await;
                self.start(part);
            }
            2 => {
                control::pause(process);
                control::advance(lasting).await;
                control::resume(process);
            }
            3 if part != other => {
                control::partition(self.hosts[part], self.hosts[other]);
                control::advance(lasting).await;
                control::heal(self.hosts[part], self.hosts[other]);
            }
            4 if part != other => {
                control::delay(self.hosts[part], self.hosts[other], lasting / 8, lasting);
            }
            5 if part != other => {
                control::reset_connections(self.hosts[part], self.hosts[other]);
            }
            6 => {
                let ms = rng.below(100_000) as i64 - 50_000;
                control::shift_wall_clock(self.hosts[part], ms);
            }
            _ => {}
        }
    }
}

/// Runs a world; gives how many grants and allocations there were, and the hash of its trace.
fn run(seed: u64) -> (u64, u64, u64) {
    let mut simulation = Simulation::new(SimOptions::new(seed));
    let outcome = simulation.run(async move {
        let mut rng = Rng::from_seed(seed);
        let mut world = World::build().await;
        control::advance(Duration::from_secs(1)).await;
        for _ in 0..20 {
            nap(700).await;
            world.trouble(&mut rng).await;
        }
        control::heal_all();
        // All chunk servers serve again, and every client gets through.
        world.truth.rounds.iter().for_each(|rounds| rounds.set(0));
        let deadline = rt::time::now() + Duration::from_secs(60);
        loop {
            let now = rt::time::now();
            let serving = world.truth.servers.iter().all(|server| server.borrow().serves(now));
            if serving && world.truth.rounds.iter().all(|rounds| rounds.get() >= 2) {
                break;
            }
            assert!(now < deadline, "seed {seed}: serving {serving}, rounds {:?}", world.truth.rounds);
            control::advance(Duration::from_millis(50)).await;
        }
        (world.truth.grants.get(), world.truth.allocated.get())
    });
    let (grants, allocated) = outcome.unwrap_or_else(|failure| panic!("seed {seed}: {failure:?}"));
    (grants, allocated, simulation.trace_hash())
}

#[test]
fn c1_c2_c10_hold_whatever_happens() {
    let (mut grants, mut allocated) = (0, 0);
    let seeds = std::env::var("MDS_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(12);
    for seed in 1..=seeds {
        let (granted, given, _) = run(seed);
        grants += granted;
        allocated += given;
    }
    assert!(
        grants > 20 * seeds && allocated > 5 * seeds,
        "too little was done: {grants} grants, {allocated} allocations"
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_eq!(run(3), run(3));
}
