//! The metadata server in the simulator, with everybody around it being killed, paused, cut off, switched off and set back,
//! by seed.
//!
//! Chunk servers and clients here are small models that follow the rules of theirs. What is checked at each grant: nobody
//! else trusts a lease on the file (C1), epochs grow (C1), and every chunk server that would serve has recorded the epoch
//! (C2). A chunk server is stale if and only if its directory was rolled back (C10). When the faults stop, everybody gets
//! on with it.

mod chunk_server;
mod client;
mod names;
mod truth;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use link::{
    ClusterAuthority, ClusterId, Credentials, Endpoint, Expect, Keep, LocalHello, Master, Options, Roles,
    Security, ServerAddress,
};
use mds::server::{ServerOptions, create, run_server};
use rt::net::Address;
use rt::random::Rng;
use rt::sim::control::{self, PeerView, Process};
use rt::sim::{HostId, HostOptions, SimOptions, Simulation};
use wire::hello::Role;
use wire::namespace::{Attrs, Create, FailureDomain, FileKind};

use chunk_server::run_cs;
use client::run_client;
use truth::Truth;

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

fn endpoint(credentials: Credentials, role: Role) -> Endpoint {
    let options = Options { security: Security::simulated(), ..Options::default() };
    let boot = rt::node::boot_id().expect("simulated");
    Endpoint::new(credentials, LocalHello::new(role, boot), options).expect("good credentials")
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

    /// Sets a chunk server that is dead back to an older state of its directory, if there is one.
    fn roll_back(&self, part: usize) {
        if (1..=CHUNK_SERVERS).contains(&part) {
            self.truth.roll_back(part - 1);
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
                self.roll_back(part);
                self.start(part);
            }
            1 => {
                let peers = if rng.one_in(2) { PeerView::Silence } else { PeerView::Reset };
                control::power_cut(&[self.hosts[part]], peers);
                self.bury(part);
                nap(1500).await;
                self.roll_back(part);
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

/// What a run did.
#[derive(Debug, PartialEq, Eq)]
struct Done {
    grants: u64,
    allocated: u64,
    stale: u64,
    trace: u64,
}

/// Runs a world with these deliberate bugs.
fn run(seed: u64, planted: &[&str]) -> Done {
    let mut options = SimOptions::new(seed);
    options.planted = planted.iter().map(|name| (*name).to_owned()).collect();
    let mut simulation = Simulation::new(options);
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
        let Truth { grants, allocated, stale, .. } = &*world.truth;
        (grants.get(), allocated.get(), stale.get())
    });
    let (grants, allocated, stale) = outcome.unwrap_or_else(|failure| panic!("seed {seed}: {failure:?}"));
    Done { grants, allocated, stale, trace: simulation.trace_hash() }
}

#[test]
fn c1_c2_c9_c10_hold_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let (first, seeds) = (number("MDS_SIM_FIRST").unwrap_or(1), number("MDS_SIM_SEEDS").unwrap_or(60));
    let (mut grants, mut allocated, mut stale) = (0, 0, 0);
    for seed in first..first + seeds {
        let done = run(seed, &[]);
        grants += done.grants;
        allocated += done.allocated;
        stale += done.stale;
    }
    assert!(
        grants > 20 * seeds && allocated > 5 * seeds && 4 * stale > seeds,
        "too little was done: {grants} grants, {allocated} allocations, {stale} stale directories"
    );
}

#[test]
fn c10_a_nonce_that_is_not_checked_is_noticed() {
    let noticed =
        (1..=100).find_map(|seed| std::panic::catch_unwind(|| run(seed, &["nonce-not-checked"])).err());
    let said = noticed.expect("a run in which it shows").downcast::<String>().expect("a message");
    assert!(said.contains("C10: "), "{said}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_eq!(run(3, &[]), run(3, &[]));
}
