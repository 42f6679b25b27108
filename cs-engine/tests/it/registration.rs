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
use wire::cs::{HeartbeatReply, RegisterCsReply};
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
}

impl Mds {
    fn new(script: Script) -> Rc<Self> {
        let (registrations, connections) = (Cell::new(0), RefCell::default());
        Rc::new(Self { script: Cell::new(script), registrations, connections })
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
            Some(Op::Heartbeat) if self.script.get() == Script::Accept => Response::ok(
                wire::encode_body(&HeartbeatReply { term_ms: TERM_MS, ..HeartbeatReply::default() })
                    .expect("short"),
            ),
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
