//! A metadata server and chunk servers that answer as a test wants, and a client between them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use link::{
    ClusterAuthority, ClusterId, Connection, Credentials, Endpoint, Keep, LocalHello, Master, Options,
    Request, Response, Roles, Security, ServerAddress, Service,
};
use rt::net::{Address, Listener};
use rt::sim::control::{self, PeerView, Process};
use rt::sim::{HostId, HostOptions, SimOptions, Simulation};
use rt::sync::{Notify, OneSender, oneshot};
use wire::data::{
    BlockStatus, BlockStatusReply, BlockSurvey, EntryKind, Flush, FlushReply, InstalledVersion, Read,
    ReadReply, RunKind, SurveyBlocks, SurveyBlocksReply, SurveyEntry, SurveyReply, Write, WriteReply,
};
use wire::hello::{Empty, Role};
use wire::lease::{
    AllocateChunks, ChunkMap, CsAddress, GetMap, MapReply, Member, MemberState, Open, OpenReply, Release,
    ReportMember,
};
use wire::session::{ClientKind, OpenSessionReply, RenewSessionReply, SessionKey};
use wire::{ErrorBody, Op, Status};

use crate::client::{OpenOptions, Servers, Session, SessionOptions, Volume};

/// Bytes of a chunk.
pub(crate) const CHUNK: u64 = 1 << 20;
/// Most chunks in one answer.
const PAGE: usize = 1000;
/// The first version of a chunk.
pub(crate) const FIRST_VERSION: u64 = 5;
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
    /// The usual, so much later.
    After(Duration),
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
    /// Operation, body, bytes of payload.
    asked: RefCell<Vec<(Op, Vec<u8>, u32)>>,
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
        self.asked.borrow().iter().filter(|(asked, ..)| *asked == op).count()
    }

    /// The versions that requests of one kind were about.
    pub(crate) fn versions(&self, op: Op) -> Vec<u64> {
        let asked = self.asked.borrow();
        asked.iter().filter(|(asked, ..)| *asked == op).map(|(_, body, _)| version_of(body)).collect()
    }

    /// Requests to the metadata server of one kind so far.
    pub(crate) fn asked<R: wire::Call>(&self) -> Vec<R> {
        let asked = self.asked.borrow();
        let bodies = asked.iter().filter(|(op, ..)| *op == R::OP);
        bodies.map(|(_, body, _)| wire::decode_body(body).expect("it was sent by a client")).collect()
    }

    /// Writes so far, as they were asked for.
    pub(crate) fn writes(&self) -> Vec<Write> {
        let asked = self.asked.borrow();
        let writes = asked.iter().filter(|(op, ..)| *op == Op::Write);
        writes.map(|(_, body, payload)| Write::decode(body, *payload).expect("a client's write").0).collect()
    }

    /// Flushes so far, with the versions that they named.
    pub(crate) fn flushes(&self) -> Vec<(Flush, Vec<InstalledVersion>)> {
        let asked = self.asked.borrow();
        let flushes = asked.iter().filter(|(op, ..)| *op == Op::Flush);
        flushes.map(|(_, body, _)| Flush::decode(body).expect("a client's flush")).collect()
    }

    async fn turn(&self, request: &Request) -> Result<(), Response> {
        let Some(op) = request.known_op() else { return Err(Status::Unsupported.into()) };
        self.asked.borrow_mut().push((op, request.body.to_vec(), request.payload.len() as u32));
        let turn = (self.script.borrow_mut())(op, &request.body);
        match turn {
            Turn::Usual => Ok(()),
            Turn::Refuse(status, error) => Err(Response::failure(status, &error)),
            Turn::Silence => std::future::pending().await,
            Turn::Wait(told) => {
                told.notified().await;
                Ok(())
            }
            Turn::After(pause) => {
                rt::time::sleep(pause).await;
                Ok(())
            }
        }
    }
}

/// The version that a read or write is about.
pub(crate) fn version_of(body: &[u8]) -> u64 {
    // The last field of the target, which these requests begin with.
    u64::from_le_bytes(body[24..32].try_into().expect("eight bytes"))
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
    /// Version of all chunks but those that are kept.
    pub(crate) version: Cell<u64>,
    /// State of each chunk server in them.
    pub(crate) states: RefCell<BTreeMap<u64, MemberState>>,
    /// These have all chunk servers as members, and their first version, for ever.
    pub(crate) kept: RefCell<BTreeSet<u64>>,
    /// Who is reported is absent from then on.
    pub(crate) drops: Cell<bool>,
    /// The chunks must be settled.
    pub(crate) unreconciled: Cell<bool>,
    /// Too few members.
    pub(crate) blocked: Cell<bool>,
    addresses: Vec<CsAddress>,
}

impl Mds {
    /// Changes the state of a chunk server in all chunks but those that are kept.
    pub(crate) fn set(&self, cs: u64, state: MemberState) {
        self.states.borrow_mut().insert(cs, state);
        self.version.set(self.version.get() + 1);
    }

    fn map(&self, first: u64, count: u64) -> MapReply {
        let chunks = self.chunks.borrow();
        let (states, kept) = (self.states.borrow(), self.kept.borrow());
        let member = |cs_id: u64, is_kept: bool| {
            let state = states.get(&cs_id).filter(|_| !is_kept).copied().unwrap_or(MemberState::Member);
            Member { cs_id, state: state.into(), slot: 0 }
        };
        let entry = |(&index, &chunk_id): (&u64, &u64)| {
            let is_kept = kept.contains(&index);
            ChunkMap {
                index,
                chunk_id,
                version: if is_kept { FIRST_VERSION } else { self.version.get() },
                members: self.addresses.iter().map(|cs| member(cs.cs_id, is_kept)).collect(),
                blocked: self.blocked.get(),
                needs_reconcile: self.unreconciled.get(),
            }
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
            Some(Op::ReportMember) => {
                let report: ReportMember = body(request);
                let index = report.chunk_id - 1000;
                let may_go = self.drops.get() && !self.kept.borrow().contains(&index);
                if may_go && report.version == self.version.get() {
                    self.set(report.cs_id, MemberState::Absent);
                }
                wire::encode_body(&self.map(index, 1))
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
    /// What it says of the first blocks of a chunk that is settled, all of which are in doubt.
    pub(crate) surveyed: RefCell<Vec<BlockSurvey>>,
}

impl Cs {
    fn answer(&self, request: &Request) -> Vec<u8> {
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
            Some(Op::Survey) => {
                let blocks = 0..self.surveyed.borrow().len() as u32;
                let mark = |first_block| SurveyEntry {
                    first_block,
                    blocks: 1,
                    epoch: 0,
                    seq: 0,
                    kind: EntryKind::Mark,
                };
                let reply =
                    SurveyReply { total: blocks.end, mark_blocks: 1, entries: blocks.map(mark).collect() };
                reply.encode(&mut body);
            }
            Some(Op::SurveyBlocks) => {
                let asked = SurveyBlocks::decode(&request.body).expect("a client's question");
                let blocks = self.surveyed.borrow();
                let blocks = blocks.iter().skip(asked.first_block as usize).take(asked.count as usize);
                let blocks = blocks.copied().collect();
                SurveyBlocksReply { first_block: asked.first_block, blocks }.encode(&mut body);
            }
            Some(Op::ClearMarks | Op::Settle) => {}
            other => panic!("{other:?} is not asked here"),
        }
        body
    }
}

impl Service for Cs {
    async fn serve(self: Rc<Self>, _connection: Connection, request: Request) -> Response {
        match self.desk.turn(&request).await {
            Ok(()) => Response::ok(self.answer(&request)),
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
    pub(crate) endpoint: Endpoint,
    orders: Rc<Orders>,
}

/// What happens to a chunk server, by its number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Kill(usize),
    /// After it was killed.
    Start(usize),
    Pause(usize),
    Resume(usize),
    /// Its host loses power, and has it again.
    Reboot(usize),
}

/// Only the controller of the simulation may carry them out.
#[derive(Default)]
struct Orders {
    waiting: RefCell<VecDeque<(Order, OneSender<()>)>>,
    told: Notify,
}

/// The chunk servers as the controller has them.
struct Machines {
    authority: ClusterAuthority,
    hosts: Vec<(HostId, SocketAddr)>,
    services: Vec<Rc<Cs>>,
    processes: RefCell<Vec<Option<Process<()>>>>,
}

impl Machines {
    fn start(&self, number: usize) {
        let (host, address) = self.hosts[number];
        let credentials = self.authority.issue("node", "0123456789abcdef", Roles::ALL).expect("good names");
        let (service, cs_id) = (Rc::clone(&self.services[number]), number as u64 + 1);
        let process = control::start_process(host, "cs", async move {
            let listener = Listener::bind(&Address::Tcp(address)).expect("a free port");
            endpoint(credentials, Role::Cs, cs_id).serve(listener, service).await;
        });
        self.processes.borrow_mut()[number] = Some(process);
    }

    fn carry_out(&self, order: Order) {
        let id = |number: usize| self.processes.borrow()[number].as_ref().expect("it was started").id();
        let happened = match order {
            Order::Kill(number) => control::kill(id(number)),
            Order::Pause(number) => control::pause(id(number)),
            Order::Resume(number) => control::resume(id(number)),
            Order::Start(number) => {
                self.start(number);
                true
            }
            Order::Reboot(number) => {
                let (host, _) = self.hosts[number];
                control::power_cut(&[host], PeerView::Reset);
                control::power_on(host);
                self.start(number);
                true
            }
        };
        assert!(happened, "{order:?}");
    }
}

impl World {
    /// Has something happen to a chunk server.
    pub(crate) async fn order(&self, order: Order) {
        let (done, carried_out) = oneshot();
        self.orders.waiting.borrow_mut().push_back((order, done));
        self.orders.told.notify_one();
        carried_out.await.expect("the controller is there");
    }

    /// Opens the file for writing.
    pub(crate) async fn open(&self) -> Volume {
        let options = OpenOptions { write: true, patience: Duration::from_secs(5) };
        Volume::open(&self.session, &self.servers, "/file", &options).await.expect("opened")
    }
}

/// Runs a test with a file of `size` bytes and two chunk servers.
pub(crate) fn run<F: Future<Output = ()> + 'static>(size: u64, test: impl FnOnce(World) -> F + 'static) {
    run_with(2, size, test);
}

/// Runs a test with a file of `size` bytes and some chunk servers.
pub(crate) fn run_with<F: Future<Output = ()> + 'static>(
    count: usize,
    size: u64,
    test: impl FnOnce(World) -> F + 'static,
) {
    let mut simulation = Simulation::new(SimOptions::new(1));
    let outcome = simulation.run(async move {
        let authority = ClusterAuthority::create("sim", ClusterId::random()).expect("a good name");
        let issue = || authority.issue("node", "0123456789abcdef", Roles::ALL).expect("good names");
        let host = |name| control::add_host(HostOptions::new(name));
        let (mds_host, client_host) = (host("mds"), host("client"));
        let at = |host, port| SocketAddr::new(control::host_ip(host), port);
        let hosts: Vec<_> = (0..count)
            .map(|_| {
                let host = host("cs");
                (host, at(host, CS_PORT))
            })
            .collect();
        let cs: Vec<_> = (0..count).map(|_| Rc::new(Cs::default())).collect();
        let addresses = (1..).zip(&hosts).map(|(cs_id, (_, address))| CsAddress {
            cs_id,
            addresses: vec![address.to_string()],
            boot_id: Vec::new(),
        });
        let addresses = addresses.collect();
        let mds = Rc::new(Mds {
            desk: Desk::default(),
            size: Cell::new(size),
            epoch: Cell::new(0),
            held: Cell::new(None),
            shared: Cell::new(false),
            chunks: RefCell::default(),
            needs_reconcile: Cell::new(false),
            version: Cell::new(FIRST_VERSION),
            states: RefCell::default(),
            kept: RefCell::default(),
            drops: Cell::new(false),
            unreconciled: Cell::new(false),
            blocked: Cell::new(false),
            addresses,
        });
        let (service, credentials, address) = (Rc::clone(&mds), issue(), at(mds_host, MDS_PORT + 1));
        control::start_process(mds_host, "mds", async move {
            let listener = Listener::bind(&Address::Tcp(address)).expect("a free port");
            endpoint(credentials, Role::Mds, 0).serve(listener, service).await;
        });
        let credentials = issue();
        let servers = vec![ServerAddress { host: address.ip().to_string(), port: MDS_PORT }];
        let processes = RefCell::new((0..count).map(|_| None).collect());
        let machines = Machines { authority, hosts, services: cs.clone(), processes };
        (0..count).for_each(|number| machines.start(number));
        let orders = Rc::new(Orders::default());
        let given = Rc::clone(&orders);
        rt::spawn(async move {
            loop {
                given.told.notified().await;
                while let Some((order, done)) = given.waiting.borrow_mut().pop_front() {
                    machines.carry_out(order);
                    // Whoever gave it waits.
                    let _told = done.send(());
                }
            }
        });
        let client = control::start_process(client_host, "client", async move {
            let endpoint = endpoint(credentials, Role::Client, 0);
            let master = Rc::new(Master::new(&endpoint, servers, Keep::default()));
            let options = SessionOptions {
                client_uuid: [1; 16],
                kind: ClientKind::Tool,
                resume: None,
                patience: Duration::from_secs(30),
            };
            let session = Session::open(master, options).await.expect("a session");
            test(World { mds, cs, session, servers: Servers::new(endpoint.clone()), endpoint, orders }).await;
        });
        client.wait().await.returned();
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
