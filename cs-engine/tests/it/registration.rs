//! A chunk server and metadata servers that do as a script says, on the simulated network.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{self, CreateOptions, EngineOptions};
use cs_engine::server::{Registrar, RegistrarOptions, Server};
use link::{
    Call, ClusterAuthority, ClusterId, Connection, Credentials, Endpoint, Expect, LocalHello, Options,
    Request, Response, Roles, Security, Service,
};
use rt::net::{Address, Listener};
use rt::sim::control;
use rt::sim::{HostId, HostOptions, SimOptions, Simulation};
use wire::cs::{
    CreateChunks, CreateItem, DeleteChunks, DeleteItem, HeartbeatReply, RegisterCsReply, ReplicaState,
    ReportChunks, ResultsReply,
};
use wire::hello::Role;
use wire::{ErrorBody, Op, Status};

use crate::rig::{FILE, open, superblock};

const SECOND: Duration = Duration::from_secs(1);
const MDS_PORT: u16 = 2511;
const CS_PORT: u16 = 2520;
/// Long enough for nothing in these tests to lapse.
const TERM_MS: u32 = 120_000;

/// What a metadata server does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Script {
    Accept,
    /// The nonce was wrong (C10).
    Stale,
    /// It knows from before that the nonce was wrong.
    Forbid,
    /// Registers, but renews nothing.
    ForbidRenewal,
    /// Names another.
    Name(SocketAddr),
}

struct Mds {
    script: Cell<Script>,
    registrations: Cell<u32>,
    connections: RefCell<Vec<Connection>>,
    /// The next heartbeat is answered with the wish for an inventory.
    wants_inventory: Cell<bool>,
    pages: RefCell<Vec<ReportChunks>>,
}

impl Mds {
    fn new(script: Script) -> Rc<Self> {
        let (registrations, connections) = (Cell::new(0), RefCell::default());
        let (wants_inventory, pages) = (Cell::new(false), RefCell::default());
        Rc::new(Self { script: Cell::new(script), registrations, connections, wants_inventory, pages })
    }

    /// Gives an order to the chunk server; what became of each item.
    async fn order<R: wire::Call<Reply = ResultsReply>>(&self, order: &R) -> Vec<Status> {
        let connection = self.connections.borrow().last().cloned().expect("it has registered");
        let reply = connection.ask(order, rt::time::now() + SECOND * 60).await.expect("an answer");
        reply.results.iter().map(|result| Status::from_code(result.status as u16)).collect()
    }

    /// Asks for all that is there, and waits for it: chunks and whether they are whole.
    async fn inventory(&self) -> Vec<(u64, bool)> {
        self.pages.borrow_mut().clear();
        self.wants_inventory.set(true);
        // A heartbeat comes after a sixth of the term.
        control::advance(SECOND * 45).await;
        let pages = self.pages.borrow();
        assert!(pages.last().is_some_and(|page| page.last) && pages[0].first_id == 0, "{pages:?}");
        let replicas = pages.iter().flat_map(|page| &page.replicas);
        replicas.map(|replica| (replica.chunk_id, replica.state() == ReplicaState::Good)).collect()
    }

    async fn cut(&self) {
        let connections = self.connections.take();
        for connection in connections {
            connection.close().await;
        }
    }

    fn register(&self) -> Response {
        self.registrations.set(self.registrations.get() + 1);
        let stale = match self.script.get() {
            Script::Accept | Script::ForbidRenewal => false,
            Script::Stale => true,
            Script::Forbid => return Status::Forbidden.into(),
            Script::Name(other) => {
                let error = ErrorBody { hint: other.to_string(), ..ErrorBody::default() };
                return Response::failure(Status::NotMaster, &error);
            }
        };
        let reply = RegisterCsReply {
            cs_id: 1025,
            term_ms: TERM_MS,
            stale,
            session: 7,
            more_fences: stale,
            ..RegisterCsReply::default()
        };
        Response::ok(wire::encode_body(&reply).expect("short"))
    }
}

impl Service for Mds {
    async fn serve(self: Rc<Self>, connection: Connection, request: Request) -> Response {
        match request.known_op() {
            Some(Op::RegisterCs) => {
                self.connections.borrow_mut().push(connection);
                self.register()
            }
            Some(Op::Heartbeat) if self.script.get() == Script::Accept => {
                let report_all = self.wants_inventory.take();
                let reply = HeartbeatReply { term_ms: TERM_MS, report_all, ..HeartbeatReply::default() };
                Response::ok(wire::encode_body(&reply).expect("short"))
            }
            Some(Op::ReportChunks) => {
                self.pages.borrow_mut().push(wire::decode_body(&request.body).expect("a page"));
                Response::ok(Vec::new())
            }
            Some(Op::Heartbeat) => Status::Forbidden.into(),
            _ => Status::Unsupported.into(),
        }
    }
}

fn endpoint(credentials: Credentials, role: Role) -> Endpoint {
    let options = Options { security: Security::simulated(), ..Options::default() };
    Endpoint::new(credentials, LocalHello::new(role, [1; 16]), options).expect("valid credentials")
}

struct World {
    authority: ClusterAuthority,
    cs: HostId,
    mds: Vec<(SocketAddr, Rc<Mds>)>,
}

impl World {
    /// Metadata servers and a chunk server that knows them all; `scripts` is told their addresses.
    async fn start(servers: usize, script: impl Fn(usize, &[SocketAddr]) -> Script) -> Self {
        let authority = ClusterAuthority::create("test", ClusterId::random()).expect("a valid name");
        let hosts: Vec<HostId> =
            (0..servers).map(|n| control::add_host(HostOptions::new(&format!("mds{n}")))).collect();
        let addresses: Vec<SocketAddr> =
            hosts.iter().map(|host| SocketAddr::new(control::host_ip(*host), MDS_PORT)).collect();
        let mut mds = Vec::new();
        for (n, host) in hosts.into_iter().enumerate() {
            let server = Mds::new(script(n, &addresses));
            mds.push((addresses[n], Rc::clone(&server)));
            let (credentials, address) = (member(&authority), Address::Tcp(addresses[n]));
            let _process = control::start_process(host, "mds", async move {
                let listener = Listener::bind(&address).expect("a free port");
                endpoint(credentials, Role::Mds).serve(listener, server).await;
            });
        }
        let cs = control::add_host(HostOptions::new("cs"));
        let (credentials, at) = (member(&authority), SocketAddr::new(control::host_ip(cs), CS_PORT));
        let _process = control::start_process(cs, "cs", serve(credentials, at, addresses));
        control::advance(SECOND).await;
        Self { authority, cs, mds }
    }

    /// What a client gets for a flush.
    async fn flush(&self) -> Status {
        let host = control::add_host(HostOptions::new("client"));
        let credentials = member(&self.authority);
        let address = Address::Tcp(SocketAddr::new(control::host_ip(self.cs), CS_PORT));
        let asked = control::start_process(host, "client", async move {
            let connection =
                endpoint(credentials, Role::Client).connect(&address, Expect::role(Role::Cs)).await;
            let mut body = Vec::new();
            let flush = wire::data::Flush {
                file: FILE,
                epoch: 1,
                upto_seq: 0,
                done: 0,
                stable: 0,
                settled_before: false,
            };
            flush.encode(&[], &mut body);
            let call = Call::new(Op::Flush, body, rt::time::now() + SECOND * 5);
            connection.expect("the chunk server listens").call(call).await.expect("an answer").status
        });
        asked.wait().await.returned()
    }

    /// Waits until a flush is answered so; how long that took.
    async fn until(&self, status: Status) -> Duration {
        let begun = rt::time::now();
        loop {
            let got = self.flush().await;
            if got == status {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < SECOND * 30, "{got:?} and not {status:?}");
            control::advance(SECOND / 10).await;
        }
    }
}

fn member(authority: &ClusterAuthority) -> Credentials {
    authority.issue("node", "0123456789abcdef", Roles::ALL).expect("valid names")
}

async fn serve(credentials: Credentials, at: SocketAddr, mds: Vec<SocketAddr>) {
    let dir = Path::new("/cs");
    let create = CreateOptions { dir: PathBuf::from(dir), superblock: superblock() };
    engine::create(&create).await.expect("a new chunk server");
    let engine = open(dir, EngineOptions::default()).await.expect("the server starts");
    let (server, endpoint) = (Server::new(engine, [1; 16]), endpoint(credentials, Role::Cs));
    let options = RegistrarOptions {
        mds: mds.into_iter().map(Address::Tcp).collect(),
        addresses: vec![at.to_string()],
        host_id: "cs".into(),
        path: dir.into(),
    };
    let registrar = Registrar::new(Rc::clone(&server), endpoint.clone(), options);
    let _registering = rt::spawn(async move { registrar.run().await });
    let listener = Listener::bind(&Address::Tcp(at)).expect("a free port");
    endpoint.serve(listener, server).await;
}

fn world<F: Future + 'static>(controller: F) -> F::Output {
    crate::rig::log();
    Simulation::new(SimOptions::new(1)).run(controller).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn c10_a_server_that_is_not_wanted_any_more_stops_at_once() {
    for told in [Script::Stale, Script::Forbid, Script::ForbidRenewal] {
        world(async move {
            let world = World::start(1, |_, _| Script::Accept).await;
            world.until(Status::Ok).await;
            let (_, mds) = &world.mds[0];
            // A connection that breaks does not keep it from serving: its term goes on.
            mds.cut().await;
            control::advance(SECOND).await;
            assert_eq!((world.flush().await, mds.registrations.get()), (Status::Ok, 2));
            mds.script.set(told);
            if told != Script::ForbidRenewal {
                mds.cut().await;
            }
            let took = world.until(Status::RegistrationLapsed).await;
            // A renewal comes after a sixth of the term; by itself the server would stop after half of it.
            let most = if told == Script::ForbidRenewal { SECOND * 22 } else { SECOND };
            assert!(took < most, "{told:?}: it served on for {took:?}");
            // Nor does anything that comes later change that.
            mds.script.set(Script::Accept);
            mds.cut().await;
            control::advance(SECOND * 5).await;
            assert_eq!(world.flush().await, Status::RegistrationLapsed, "{told:?}");
        });
    }
}

#[test]
fn servers_that_name_each_other_are_not_asked_without_a_pause() {
    world(async {
        let world = World::start(2, |n, all| Script::Name(all[1 - n])).await;
        control::advance(SECOND * 60).await;
        let asked: u32 = world.mds.iter().map(|(_, mds)| mds.registrations.get()).sum();
        assert!((20..200).contains(&asked), "asked {asked} times in a minute");
        // Once they agree it is there soon.
        world.mds[1].1.script.set(Script::Accept);
        assert!(world.until(Status::Ok).await < SECOND * 10);
    });
}

#[test]
fn a_server_that_registers_and_does_not_renew_is_not_asked_without_a_pause() {
    world(async {
        // As one that has not noticed that it is not the master any more.
        let world = World::start(1, |_, _| Script::ForbidRenewal).await;
        control::advance(SECOND * 60).await;
        let asked = world.mds[0].1.registrations.get();
        assert!((10..100).contains(&asked), "asked {asked} times in a minute");
    });
}

fn new_chunk(chunk_id: u64) -> CreateItem {
    CreateItem {
        chunk_id,
        version: 1,
        file_id: FILE,
        size_bytes: 64 << 10,
        epoch: 1,
        ..CreateItem::default()
    }
}

#[test]
fn c9_a_server_tells_all_it_has_when_it_is_asked() {
    world(async {
        let world = World::start(1, |_, _| Script::Accept).await;
        world.until(Status::Ok).await;
        let (_, mds) = &world.mds[0];
        assert_eq!(mds.inventory().await, []);
        // More than one page.
        let chunks: Vec<u64> = (1..=4100).map(|number| number * 3).collect();
        for some in chunks.chunks(256) {
            let items = some.iter().map(|chunk| new_chunk(*chunk)).collect();
            assert!(mds.order(&CreateChunks { items }).await.iter().all(|status| status.is_ok()));
        }
        let all: Vec<(u64, bool)> = chunks.iter().map(|chunk| (*chunk, true)).collect();
        assert_eq!(mds.inventory().await, all);
        assert_eq!(mds.pages.borrow().len(), 2);
    });
}

#[test]
fn c9_a_deletion_is_not_overtaken_by_an_earlier_creation() {
    world(async {
        let world = World::start(1, |_, _| Script::Accept).await;
        world.until(Status::Ok).await;
        let (_, mds) = &world.mds[0];
        let items = (1..=64).map(new_chunk).collect();
        let creating = rt::spawn({
            let mds = Rc::clone(mds);
            async move { mds.order(&CreateChunks { items }).await }
        });
        // On its way, and far from the last one.
        control::advance(Duration::from_millis(2)).await;
        let last = DeleteItem { chunk_id: 64, version: 1 };
        assert_eq!(mds.order(&DeleteChunks { items: vec![last] }).await, [Status::Ok]);
        let created = creating.await.expect("it runs to its end");
        assert_eq!(created, [Status::Ok; 64]);
        assert_eq!(mds.inventory().await.len(), 63);
    });
}
