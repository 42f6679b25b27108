//! A metadata server and chunk servers that answer as a test wants, and a client between them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use link::{
    ClusterAuthority, ClusterId, Connection, Credentials, Endpoint, Keep, LocalHello, Master, Options,
    Request, Response, Roles, Security, ServerAddress, Service,
};
use rt::net::{Address, Listener};
use rt::sim::control;
use rt::sim::{HostOptions, SimOptions, Simulation};
use rt::sync::Notify;
use wire::data::{BlockStatus, BlockStatusReply, FlushReply, Read, ReadReply, RunKind, Write, WriteReply};
use wire::hello::{Empty, Role};
use wire::lease::{
    AllocateChunks, ChunkMap, CsAddress, GetMap, MapReply, Member, MemberState, Open, OpenReply, Release,
};
use wire::session::{ClientKind, OpenSessionReply, RenewSessionReply, SessionKey};
use wire::{ErrorBody, Op, Status};

use crate::client::{OpenOptions, Servers, Session, SessionOptions, Volume};

/// Bytes of a chunk.
pub(crate) const CHUNK: u64 = 1 << 20;
/// Most chunks in one answer.
const PAGE: usize = 1000;
/// The only file.
pub(crate) const FILE: u64 = 7;
const MDS_PORT: u16 = 2510;
const CS_PORT: u16 = 3000;

/// What a server does with a request.
#[derive(Clone)]
pub(crate) enum Turn {
    /// What it is there for.
    Usual,
    /// This, and nothing else.
    Refuse(Status, ErrorBody),
    /// Never answers.
    Silence,
    /// The usual, once this is told.
    Wait(Rc<Notify>),
}

impl Turn {
    pub(crate) fn refuse(status: Status) -> Self {
        Self::Refuse(status, ErrorBody::default())
    }
}

type Script = Box<dyn FnMut(Op, &[u8]) -> Turn>;

/// What a server was asked, and what it shall say.
pub(crate) struct Desk {
    script: RefCell<Script>,
    asked: RefCell<Vec<(Op, Vec<u8>)>>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { script: RefCell::new(Box::new(|_, _| Turn::Usual)), asked: RefCell::default() }
    }
}

impl Desk {
    /// From now on requests go by this script.
    pub(crate) fn script(&self, script: impl FnMut(Op, &[u8]) -> Turn + 'static) {
        *self.script.borrow_mut() = Box::new(script);
    }

    /// Requests of one kind so far.
    pub(crate) fn count(&self, op: Op) -> usize {
        self.asked.borrow().iter().filter(|(asked, _)| *asked == op).count()
    }

    /// Requests to the metadata server of one kind so far.
    pub(crate) fn asked<R: wire::Call>(&self) -> Vec<R> {
        let asked = self.asked.borrow();
        let bodies = asked.iter().filter(|(op, _)| *op == R::OP);
        bodies.map(|(_, body)| wire::decode_body(body).expect("it was sent by a client")).collect()
    }

    async fn turn(&self, request: &Request) -> Result<(), Response> {
        let Some(op) = request.known_op() else { return Err(Status::Unsupported.into()) };
        self.asked.borrow_mut().push((op, request.body.to_vec()));
        let turn = (self.script.borrow_mut())(op, &request.body);
        match turn {
            Turn::Usual => Ok(()),
            Turn::Refuse(status, error) => Err(Response::failure(status, &error)),
            Turn::Silence => std::future::pending().await,
            Turn::Wait(told) => {
                told.notified().await;
                Ok(())
            }
        }
    }
}

/// The metadata server: one file, whose chunks are on all chunk servers.
pub(crate) struct Mds {
    pub(crate) desk: Desk,
    pub(crate) size: Cell<u64>,
    pub(crate) epoch: Cell<u64>,
    /// Who holds the file.
    pub(crate) held: Cell<Option<u64>>,
    pub(crate) chunks: RefCell<BTreeMap<u64, u64>>,
    /// Whoever holds the file and opens it again gets the same epoch, as readers do.
    pub(crate) shared: Cell<bool>,
    /// The last holder has left something in doubt.
    pub(crate) needs_reconcile: Cell<bool>,
    addresses: Vec<CsAddress>,
}

impl Mds {
    fn map(&self, first: u64, count: u64) -> MapReply {
        let chunks = self.chunks.borrow();
        let members = self.addresses.iter();
        let members: Vec<_> = members
            .map(|cs| Member { cs_id: cs.cs_id, state: MemberState::Member.into(), slot: 0 })
            .collect();
        let entry = |(&index, &chunk_id): (&u64, &u64)| ChunkMap {
            index,
            chunk_id,
            version: 1,
            members: members.clone(),
            ..ChunkMap::default()
        };
        let mut found = chunks.range(first..first.saturating_add(count));
        let page = found.by_ref().take(PAGE).map(entry).collect();
        let next_index = found.next().map_or(0, |(index, _)| *index);
        MapReply { chunks: page, servers: self.addresses.clone(), next_index }
    }

    /// Gives the file a chunk.
    pub(crate) fn allocate(&self, index: u64) {
        self.chunks.borrow_mut().entry(index).or_insert(1000 + index);
    }

    fn answer(&self, request: &Request) -> Vec<u8> {
        fn body<R: prost::Message + Default>(request: &Request) -> R {
            wire::decode_body(&request.body).expect("it was sent by a client")
        }
        let reply = match request.known_op() {
            Some(Op::OpenSession) => wire::encode_body(&OpenSessionReply {
                session: SessionKey { client_id: 1, token: vec![1; 16] },
                term_ms: 60_000,
            }),
            Some(Op::RenewSession) => {
                wire::encode_body(&RenewSessionReply { term_ms: 60_000, revoked: Vec::new() })
            }
            Some(Op::Open) => {
                let open: Open = body(request);
                let map_count = u64::from(open.map_count);
                if !(self.shared.get() && self.held.get().is_some()) {
                    self.epoch.set(self.epoch.get() + 1);
                }
                self.held.set(Some(self.epoch.get()));
                wire::encode_body(&OpenReply {
                    file_id: FILE,
                    epoch: self.epoch.get(),
                    size: self.size.get(),
                    chunk_size: CHUNK,
                    needs_reconcile: self.needs_reconcile.get(),
                    map: MapReply { next_index: map_count, ..self.map(0, map_count) },
                    ..OpenReply::default()
                })
            }
            Some(Op::Release) => {
                let release: Release = body(request);
                if self.held.get() == Some(release.epoch) {
                    self.held.set(None);
                }
                wire::encode_body(&Empty {})
            }
            Some(Op::GetMap) => {
                let get: GetMap = body(request);
                wire::encode_body(&self.map(get.first_index, get.count.into()))
            }
            Some(Op::AllocateChunks) => {
                let call: AllocateChunks = body(request);
                self.size.set(self.size.get().max(call.grow_to));
                call.indices.iter().for_each(|index| self.allocate(*index));
                wire::encode_body(&self.map(call.indices[0], 1))
            }
            _ => wire::encode_body(&Empty {}),
        };
        reply.expect("it fits")
    }
}

impl Service for Mds {
    async fn serve(self: Rc<Self>, _connection: Connection, request: Request) -> Response {
        match self.desk.turn(&request).await {
            Ok(()) => Response::ok(self.answer(&request)),
            Err(response) => response,
        }
    }
}

/// A chunk server, which holds nothing but zeroes.
#[derive(Default)]
pub(crate) struct Cs {
    pub(crate) desk: Desk,
}

impl Cs {
    fn answer(request: &Request) -> Vec<u8> {
        let mut body = Vec::new();
        match request.known_op() {
            Some(Op::Write) => {
                Write::decode(&request.body, request.payload.len() as u32).expect("a client's write");
                WriteReply::default().encode(&mut body);
            }
            Some(Op::Read) => {
                let read = Read::decode(&request.body).expect("a client's read");
                ReadReply { offset: read.offset, len: read.len, zeroes: true }.encode(&[], &mut body);
            }
            Some(Op::BlockStatus) => {
                let asked = BlockStatus::decode(&request.body).expect("a client's question");
                let run = wire::data::Run { blocks: asked.len / wire::BLOCK, kind: RunKind::Data };
                BlockStatusReply { offset: asked.offset, runs: vec![run] }.encode(&mut body);
            }
            Some(Op::Flush) => {
                let boot_id = rt::node::boot_id().expect("simulated");
                FlushReply { boot_id }.encode(&mut body);
            }
            other => panic!("{other:?} is not asked here"),
        }
        body
    }
}

impl Service for Cs {
    async fn serve(self: Rc<Self>, _connection: Connection, request: Request) -> Response {
        match self.desk.turn(&request).await {
            Ok(()) => Response::ok(Self::answer(&request)),
            Err(response) => response,
        }
    }
}

fn endpoint(credentials: Credentials, role: Role, cs_id: u64) -> Endpoint {
    let boot_id = rt::node::boot_id().expect("simulated");
    let hello = LocalHello { cs_id, ..LocalHello::new(role, boot_id) };
    let options = Options { security: Security::simulated(), ..Options::default() };
    Endpoint::new(credentials, hello, options).expect("good credentials")
}

/// What a test has to do with.
pub(crate) struct World {
    pub(crate) mds: Rc<Mds>,
    pub(crate) cs: Vec<Rc<Cs>>,
    pub(crate) session: Rc<Session>,
    pub(crate) servers: Rc<Servers>,
}

impl World {
    /// Opens the file for writing.
    pub(crate) async fn open(&self) -> Volume {
        let options = OpenOptions { write: true, patience: Duration::from_secs(5) };
        Volume::open(&self.session, &self.servers, "/file", &options).await.expect("opened")
    }
}

/// Runs a test with a file of `size` bytes and two chunk servers.
pub(crate) fn run<F: Future<Output = ()> + 'static>(size: u64, test: impl FnOnce(World) -> F + 'static) {
    let mut simulation = Simulation::new(SimOptions::new(1));
    let outcome = simulation.run(async move {
        let authority = ClusterAuthority::create("sim", ClusterId::random()).expect("a good name");
        let issue = || authority.issue("node", "0123456789abcdef", Roles::ALL).expect("good names");
        let hosts: Vec<_> = ["mds", "cs", "cs", "client"]
            .iter()
            .map(|name| control::add_host(HostOptions::new(name)))
            .collect();
        let at = |host, port| SocketAddr::new(control::host_ip(host), port);
        let (mut cs, mut addresses) = (Vec::new(), Vec::new());
        for (number, &host) in (1..).zip(&hosts[1..3]) {
            let (service, credentials, address) = (Rc::new(Cs::default()), issue(), at(host, CS_PORT));
            cs.push(Rc::clone(&service));
            let cs_id = number;
            addresses.push(CsAddress { cs_id, addresses: vec![address.to_string()], boot_id: Vec::new() });
            control::start_process(host, "cs", async move {
                let listener = Listener::bind(&Address::Tcp(address)).expect("a free port");
                endpoint(credentials, Role::Cs, cs_id).serve(listener, service).await;
            });
        }
        let mds = Rc::new(Mds {
            desk: Desk::default(),
            size: Cell::new(size),
            epoch: Cell::new(0),
            held: Cell::new(None),
            shared: Cell::new(false),
            chunks: RefCell::default(),
            needs_reconcile: Cell::new(false),
            addresses,
        });
        let (service, credentials, address) = (Rc::clone(&mds), issue(), at(hosts[0], MDS_PORT + 1));
        control::start_process(hosts[0], "mds", async move {
            let listener = Listener::bind(&Address::Tcp(address)).expect("a free port");
            endpoint(credentials, Role::Mds, 0).serve(listener, service).await;
        });
        let credentials = issue();
        let servers = vec![ServerAddress { host: address.ip().to_string(), port: MDS_PORT }];
        let client = control::start_process(hosts[3], "client", async move {
            let endpoint = endpoint(credentials, Role::Client, 0);
            let master = Rc::new(Master::new(&endpoint, servers, Keep::default()));
            let options = SessionOptions {
                client_uuid: [1; 16],
                kind: ClientKind::Tool,
                resume: None,
                patience: Duration::from_secs(30),
            };
            let session = Session::open(master, options).await.expect("a session");
            test(World { mds, cs, session, servers: Servers::new(endpoint) }).await;
        });
        client.wait().await.returned();
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
