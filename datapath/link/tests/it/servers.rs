//! Staying connected to one server, and finding the master among several.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use rt::net::{Address, Listener};
use wire::hello::Role;
use wire::{ErrorBody, Op, Status};

use crate::link::servers::ServerAddress;
use crate::link::{
    Call, CallError, Change, ClusterAuthority, Connection, Endpoint, Expect, Keep, Master, Options, Peer,
    Request, Response, Service,
};
use crate::world::{Echo, authority, endpoint, endpoint_with, member, run, serve, serve_at, soon, within};

fn write() -> Call {
    Call::new(Op::Write, vec![1], soon())
}

/// Notes what an observer is told.
#[derive(Clone, Default)]
struct Seen(Rc<RefCell<Vec<&'static str>>>);

impl Seen {
    fn observer(&self) -> impl Fn(&Change) + 'static {
        let seen = Rc::clone(&self.0);
        move |change| {
            seen.borrow_mut().push(match change {
                Change::Up(_) => "up",
                Change::Down(_) => "down",
                Change::Failed(_) => "failed",
            });
        }
    }
}

#[test]
fn a_peer_is_connected_to_again_and_again() {
    run(async {
        let authority = authority();
        let mut server = serve(endpoint(&authority, Role::Cs));
        let address = server.address.clone();
        let seen = Seen::default();
        let keep = Keep::new(Expect::role(Role::Cs)).observed(seen.observer());
        let peer = Peer::start(&endpoint(&authority, Role::Client), vec![address.clone()], keep);
        for _ in 0..3 {
            // Many callers share one connection.
            let calls: Vec<_> = (0..10)
                .map(|_| {
                    let peer = peer.clone();
                    rt::spawn(async move { peer.call(write()).await.unwrap() })
                })
                .collect();
            for call in calls {
                call.await.unwrap();
            }
            assert_eq!(server.echo.served.get(), 10);
            let connection = peer.current().unwrap();
            server.endpoint.close().await;
            drop(server);
            connection.closed().await;
            let refused = peer.connection(within(60)).await;
            match refused {
                Err(CallError::Unreachable(error)) => assert_eq!(error.address, address),
                Err(CallError::Disconnected(_)) => {}
                other => panic!("{other:?}"),
            }
            server = serve_at(endpoint(&authority, Role::Cs), &address);
        }
        peer.call(write()).await.unwrap();
        let seen = seen.0.take();
        assert_eq!(seen.iter().filter(|&&change| change == "up").count(), 4, "{seen:?}");
        assert_eq!(seen.iter().filter(|&&change| change == "down").count(), 3, "{seen:?}");
        assert!(seen.contains(&"failed"));
        let connection = peer.current().unwrap();
        drop(peer);
        connection.close().await;
    });
}

#[test]
fn a_peer_tries_all_its_addresses() {
    run(async {
        let authority = authority();
        let dead = Listener::bind(&crate::world::anywhere()).unwrap().local_address().unwrap();
        let server = serve(endpoint(&authority, Role::Cs));
        let client = endpoint(&authority, Role::Client);
        let peer = Peer::start(&client, vec![dead.clone(), server.address.clone()], Keep::default());
        peer.call(write()).await.unwrap();
        let moved = Peer::start(&client, vec![dead], Keep::default());
        assert!(moved.connection(within(20)).await.is_err());
        moved.set_addresses(vec![server.address.clone()]);
        moved.call(write()).await.unwrap();
    });
}

#[test]
fn a_dropped_peer_leaves_no_connection() {
    run(async {
        let authority = authority();
        let server = serve(endpoint(&authority, Role::Cs));
        let peer =
            Peer::start(&endpoint(&authority, Role::Client), vec![server.address.clone()], Keep::default());
        peer.call(Call::new(Op::GetMap, vec![], soon())).await.unwrap();
        let theirs = server.echo.held.borrow_mut().pop().unwrap();
        drop(peer);
        theirs.closed().await;
    });
}

/// A metadata server: the master answers, the others say who it is.
struct Mds {
    address: ServerAddress,
    master: Rc<RefCell<Option<ServerAddress>>>,
    asked: Cell<u32>,
    /// So many requests are answered with `Retry` first.
    busy: Cell<u32>,
    connections: RefCell<Vec<Connection>>,
}

impl Service for Mds {
    async fn serve(self: Rc<Self>, connection: Connection, request: Request) -> Response {
        self.asked.set(self.asked.get() + 1);
        let known = self.connections.borrow().iter().any(|other| other.is(&connection));
        if !known {
            self.connections.borrow_mut().push(connection);
        }
        let master = self.master.borrow().clone();
        if master.as_ref() != Some(&self.address) {
            let hint = master.map(|master| master.to_string()).unwrap_or_default();
            return Response::failure(Status::NotMaster, &ErrorBody { hint, ..Default::default() });
        }
        if self.busy.get() > 0 {
            self.busy.set(self.busy.get() - 1);
            return Response::failure(Status::Retry, &ErrorBody { retry_after_ms: 5, ..Default::default() });
        }
        match request.known_op() {
            Some(Op::Stat) => Status::NotFound.into(),
            _ => Response::ok(self.address.port.to_le_bytes().to_vec()),
        }
    }
}

struct Servers {
    master: Rc<RefCell<Option<ServerAddress>>>,
    all: Vec<(Rc<Mds>, Endpoint, rt::JoinHandle<()>)>,
}

impl Servers {
    fn start(authority: &ClusterAuthority, count: usize) -> Self {
        let master: Rc<RefCell<Option<ServerAddress>>> = Rc::default();
        let all = (0..count).map(|_| Self::one(authority, &crate::world::anywhere(), &master)).collect();
        Self { master, all }
    }

    fn one(
        authority: &ClusterAuthority,
        at: &Address,
        master: &Rc<RefCell<Option<ServerAddress>>>,
    ) -> (Rc<Mds>, Endpoint, rt::JoinHandle<()>) {
        let listener = Listener::bind(at).unwrap();
        let Address::Tcp(address) = listener.local_address().unwrap() else { panic!("TCP") };
        // Lists give the port before the one for clients.
        let address = ServerAddress { host: address.ip().to_string(), port: address.port() - 1 };
        let mds = Rc::new(Mds {
            address,
            master: Rc::clone(master),
            asked: Cell::new(0),
            busy: Cell::new(0),
            connections: RefCell::default(),
        });
        let endpoint = endpoint_with(member(authority, "mds"), Role::Mds, Options::default());
        let (theirs, service) = (endpoint.clone(), Rc::clone(&mds));
        (mds, endpoint, rt::spawn(async move { theirs.serve(listener, service).await }))
    }

    fn addresses(&self) -> Vec<ServerAddress> {
        self.all.iter().map(|(mds, ..)| mds.address.clone()).collect()
    }

    fn elect(&self, index: usize) {
        self.master.replace(Some(self.all[index].0.address.clone()));
    }

    async fn stop(&self, index: usize) {
        let (mds, endpoint, task) = &self.all[index];
        task.abort();
        endpoint.close().await;
        mds.connections.take();
    }
}

async fn ask(master: &Master) -> u16 {
    let reply = master.call(Call::new(Op::List, vec![], soon())).await.unwrap();
    assert_eq!(reply.status, Status::Ok);
    u16::from_le_bytes(reply.body[..].try_into().unwrap())
}

#[test]
fn the_master_is_found_followed_and_remembered() {
    run(async {
        let authority = authority();
        let servers = Servers::start(&authority, 3);
        let client = endpoint(&authority, Role::Client);
        let seen = Seen::default();
        let keep = Keep::new(Expect::role(Role::Mds)).observed(seen.observer());
        let master = Master::new(&client, servers.addresses(), keep);
        servers.elect(2);
        for _ in 0..10 {
            assert_eq!(ask(&master).await, servers.all[2].0.address.port);
        }
        assert_eq!(master.server().as_ref(), Some(&servers.all[2].0.address));
        let asked: Vec<u32> = servers.all.iter().map(|(mds, ..)| mds.asked.get()).collect();
        assert_eq!(asked, [1, 0, 10], "one hint, then straight to the master");
        assert_eq!(*seen.0.borrow(), ["up", "down", "up"]);
        // It moves: its old self names the new one.
        servers.elect(1);
        assert_eq!(ask(&master).await, servers.all[1].0.address.port);
        // It dies: the others know the new one.
        servers.stop(1).await;
        servers.elect(0);
        assert_eq!(ask(&master).await, servers.all[0].0.address.port);
    });
}

#[test]
fn callers_share_one_search_and_one_connection() {
    run(async {
        let authority = authority();
        let servers = Servers::start(&authority, 2);
        servers.elect(1);
        let master = Master::new(&endpoint(&authority, Role::Client), servers.addresses(), Keep::default());
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let master = master.clone();
                rt::spawn(async move { ask(&master).await })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap(), servers.all[1].0.address.port);
        }
        assert_eq!(servers.all[1].0.connections.borrow().len(), 1);
    });
}

#[test]
fn no_master_for_a_while_is_waited_for() {
    run(async {
        let authority = authority();
        let servers = Rc::new(Servers::start(&authority, 3));
        let master = Master::new(&endpoint(&authority, Role::Client), servers.addresses(), Keep::default());
        let nobody = master.call(Call::new(Op::List, vec![], within(1_000))).await.unwrap();
        assert_eq!(nobody.status, Status::NotMaster, "the last answer says why");
        let theirs = Rc::clone(&servers);
        rt::spawn(async move {
            rt::time::sleep(Duration::from_millis(100)).await;
            theirs.elect(1);
        });
        assert_eq!(ask(&master).await, servers.all[1].0.address.port);
    });
}

#[test]
fn a_busy_master_is_asked_again_and_a_refusal_is_not() {
    run(async {
        let authority = authority();
        let servers = Servers::start(&authority, 1);
        servers.elect(0);
        servers.all[0].0.busy.set(3);
        let master = Master::new(&endpoint(&authority, Role::Client), servers.addresses(), Keep::default());
        ask(&master).await;
        assert_eq!(servers.all[0].0.asked.get(), 4);
        let refused = master.ask(&wire::namespace::Stat::default(), soon()).await.unwrap_err();
        assert!(matches!(refused, crate::link::AskError::Status { status: Status::NotFound, .. }));
        assert_eq!(servers.all[0].0.asked.get(), 5);
    });
}

#[test]
fn nobody_there_is_said_with_the_address() {
    run(async {
        let authority = authority();
        let dead = Listener::bind(&crate::world::anywhere()).unwrap().local_address().unwrap();
        let Address::Tcp(dead) = dead else { panic!("TCP") };
        let list = vec![ServerAddress { host: "127.0.0.1".into(), port: dead.port() - 1 }];
        let master = Master::new(&endpoint(&authority, Role::Client), list, Keep::default());
        let start = rt::time::now();
        let error = master.call(Call::new(Op::List, vec![], within(150))).await.unwrap_err();
        assert!(matches!(error, CallError::Unreachable(_)));
        assert!(error.to_string().contains(&dead.to_string()), "{error}");
        assert!(start.elapsed() < Duration::from_secs(2));
        // The server appears, and the connection goes both ways.
        let servers = Servers {
            all: vec![Servers::one(&authority, &Address::Tcp(dead), &Rc::default())],
            master: Rc::default(),
        };
        servers.all[0].0.master.replace(Some(servers.all[0].0.address.clone()));
        let echo = Rc::new(Echo::default());
        let keep = Keep::new(Expect::role(Role::Mds)).serving(Rc::clone(&echo));
        let master = Master::new(&endpoint(&authority, Role::Cs), servers.addresses(), keep);
        ask(&master).await;
        let theirs = servers.all[0].0.connections.borrow()[0].clone();
        theirs.call(write()).await.unwrap();
        assert_eq!(echo.served.get(), 1);
        drop(master);
        theirs.closed().await;
    });
}
