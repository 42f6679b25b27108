//! A metadata server on the loopback, with chunk servers that only pretend and clients that only ask.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use link::{
    AskError, ClusterAuthority, ClusterId, Connection, Endpoint, Expect, LocalHello, Options, Request,
    Response, Roles, Service,
};
use mds::server::{RunningServer, ServerError, ServerOptions, create, start_server};
use rt::net::Address;
use rt::sync::Notify;
use rt::time::Instant;
use wire::cs::{
    CatchUp, CompareChunks, CompareChunksReply, CompareResult, CreateChunks, CreateItem, DeleteChunks, Fence,
    Heartbeat, HeartbeatReply, InstallVersions, ItemResult, RegisterCs, RegisterCsReply, ReplicaDifference,
    ReplicaReport, ReplicaState, ReportChunks, ResultsReply, VerifiedChunk,
};
use wire::hello::Role;
use wire::lease::{Open, OpenMode, OpenReply};
use wire::namespace::{Attrs, Create, FailureDomain, FileKind, FileRef};
use wire::session::{ClientKind, OpenSession, OpenSessionReply, SessionKey};
use wire::{ErrorBody, Op, Status};

use super::raft_ledger::directory;
pub(crate) use super::raft_ledger::on_ring;

/// Long enough for anything that is meant to work.
pub(crate) fn soon() -> Instant {
    within(10_000)
}

pub(crate) fn within(ms: u64) -> Instant {
    rt::time::now() + Duration::from_millis(ms)
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = soon();
    while !so() {
        assert!(rt::time::now() < deadline, "it never came to be: {what}");
        rt::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a refusal says.
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, AskError>) -> (Status, ErrorBody) {
    match answer {
        Err(AskError::Status { status, error }) => {
            assert!(!error.message.is_empty(), "a refusal explains itself");
            (status, error)
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// A metadata server.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) authority: ClusterAuthority,
    pub(crate) address: SocketAddr,
    pub(crate) options: ServerOptions,
    running: RefCell<Option<RunningServer>>,
}

impl World {
    /// Made and running, with short terms if they are given.
    pub(crate) async fn start(lease_ms: u64, cs_ms: u64) -> Self {
        let options = ServerOptions {
            lease_term: Some(Duration::from_millis(lease_ms)),
            cs_term: Some(Duration::from_millis(cs_ms)),
            ..ServerOptions::default()
        };
        let world = Self::made(options).await;
        world.run().await;
        world
    }

    /// Long terms: nothing runs out.
    pub(crate) async fn calm() -> Self {
        Self::start(60_000, 60_000).await
    }

    pub(crate) async fn made(options: ServerOptions) -> Self {
        let authority = ClusterAuthority::create("stor1", ClusterId::random()).expect("a good name");
        // An address of its own, so that tests at the same time do not meet.
        let any = || 1 + rt::random::below(254) as u8;
        let address = SocketAddr::from((Ipv4Addr::new(127, any(), any(), any()), 2510));
        let dir = directory();
        create(&dir.path().join("mds"), authority.cluster().0, "stor1", address).await.expect("made");
        Self { dir, authority, address, options, running: RefCell::new(None) }
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("mds")
    }

    pub(crate) async fn try_run(&self) -> Result<(), ServerError> {
        let credentials = self.authority.issue("mds1", "00", Roles::ALL).expect("good names");
        let running = start_server(&self.path(), credentials, self.address, self.options.clone()).await?;
        assert_eq!(running.address().port(), self.address.port() + 1);
        running.master().await;
        self.running.replace(Some(running));
        Ok(())
    }

    pub(crate) async fn run(&self) {
        self.try_run().await.expect("it runs");
    }

    pub(crate) async fn stop(&self) {
        let running = self.running.take().expect("it runs");
        running.stop().await;
    }

    pub(crate) fn endpoint(&self, node: &str, role: Role, boot: u8) -> Endpoint {
        let credentials = self.authority.issue(node, "00", Roles::ALL).expect("good names");
        Endpoint::new(credentials, LocalHello::new(role, [boot; 16]), Options::default())
            .expect("good credentials")
    }

    pub(crate) fn clients(&self) -> Address {
        Address::Tcp(SocketAddr::new(self.address.ip(), self.address.port() + 1))
    }

    pub(crate) async fn connect(&self, role: Role) -> Connection {
        let endpoint = self.endpoint("node", role, 1);
        endpoint.connect(&self.clients(), Expect::role(Role::Mds)).await.expect("connected")
    }

    pub(crate) async fn tool(&self) -> Connection {
        self.connect(Role::Tool).await
    }

    /// A client with a session.
    pub(crate) async fn client(&self, uuid: u8) -> Client {
        let connection = self.connect(Role::Client).await;
        let reply = open_session(&connection, uuid, None).await.expect("a session");
        Client { connection, session: reply.session, term_ms: reply.term_ms }
    }

    /// Chunk servers that serve, on hosts of their own.
    pub(crate) async fn chunk_servers(&self, count: u8) -> Vec<Rc<FakeCs>> {
        let mut servers = Vec::new();
        for number in 1..=count {
            let cs = FakeCs::new(self, number);
            cs.join().await;
            servers.push(cs);
        }
        let tool = self.tool().await;
        for _ in 0..400 {
            let stat = tool.ask(&wire::cluster::ClusterStat {}, soon()).await.expect("the state");
            if stat.cs_active >= u32::from(count) && servers.iter().all(|cs| cs.serves.get()) {
                return servers;
            }
            rt::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not all chunk servers serve");
    }
}

/// Makes a file of this many chunks of 64 KiB in three replicas, on disks of any host.
pub(crate) async fn file(connection: &Connection, path: &str, chunks: u64) -> u64 {
    let attrs = Attrs {
        replicas: Some(3),
        replicas_min: Some(2),
        failure_domain: Some(FailureDomain::Host.into()),
        chunk_size: Some(64 << 10),
        ..Attrs::default()
    };
    let kind = FileKind::File.into();
    let create = Create { path: path.into(), kind, size: chunks * (64 << 10), attrs, mode: 0o600 };
    connection.ask(&create, soon()).await.expect("created").info.file_id
}

pub(crate) async fn open_session(
    connection: &Connection,
    uuid: u8,
    resume: Option<SessionKey>,
) -> Result<OpenSessionReply, AskError> {
    let request = OpenSession {
        client_uuid: vec![uuid; 16],
        host_name: format!("host{uuid}"),
        resume,
        kind: ClientKind::Nbd.into(),
        software: "1.0".into(),
    };
    connection.ask(&request, soon()).await
}

/// A client with a session.
pub(crate) struct Client {
    pub(crate) connection: Connection,
    pub(crate) session: SessionKey,
    pub(crate) term_ms: u32,
}

impl Client {
    pub(crate) async fn ask<R: wire::Call>(&self, request: &R) -> Result<R::Reply, AskError> {
        self.connection.ask(request, soon()).await
    }

    pub(crate) fn open_request(&self, path: &str, mode: OpenMode, resume_epoch: u64) -> Open {
        Open {
            file: Some(FileRef::Path(path.into())),
            session: self.session.clone(),
            mode: mode.into(),
            map_count: 16,
            resume_epoch,
        }
    }

    pub(crate) async fn open(&self, path: &str, mode: OpenMode) -> Result<OpenReply, AskError> {
        self.ask(&self.open_request(path, mode, 0)).await
    }

    pub(crate) async fn allocate(
        &self,
        open: &OpenReply,
        indices: &[u64],
        deadline: Instant,
    ) -> Result<wire::lease::MapReply, AskError> {
        let request = wire::lease::AllocateChunks {
            session: self.session.clone(),
            file_id: open.file_id,
            epoch: open.epoch,
            indices: indices.to_vec(),
            grow_to: 0,
        };
        self.connection.ask(&request, deadline).await
    }

    pub(crate) async fn release(&self, open: &OpenReply, clean: bool) -> Result<(), AskError> {
        let (session, file_id, epoch) = (self.session.clone(), open.file_id, open.epoch);
        self.ask(&wire::lease::Release { session, file_id, epoch, clean }).await.map(drop)
    }

    pub(crate) async fn renew(&self) -> Result<wire::session::RenewSessionReply, AskError> {
        let session = self.session.clone();
        let io = wire::session::IoStats { write_bytes: 4096, write_ops: 1, ..Default::default() };
        self.ask(&wire::session::RenewSession { session, io, answered_below: 0 }).await
    }
}

/// A chunk server without a disk: it keeps what it is told in memory.
pub(crate) struct FakeCs {
    pub(crate) endpoint: Endpoint,
    mds: Address,
    pub(crate) uuid: u8,
    pub(crate) host: String,
    pub(crate) boot: Cell<u8>,
    pub(crate) id: Cell<u64>,
    pub(crate) nonce: Cell<u8>,
    pub(crate) session: Cell<u64>,
    pub(crate) flags: Cell<u32>,
    pub(crate) free_bytes: Cell<u64>,
    /// How often it told all it has.
    pub(crate) inventories: Cell<u32>,
    /// What was copied from and to it.
    pub(crate) copied: Cell<(u64, u64)>,
    pub(crate) chunks: RefCell<BTreeMap<u64, CreateItem>>,
    pub(crate) fences: RefCell<BTreeMap<u64, u64>>,
    pub(crate) deleted: RefCell<BTreeSet<u64>>,
    /// Orders to fill joiners.
    pub(crate) copies: RefCell<Vec<CatchUp>>,
    /// Fences that came with the answer to the last registration.
    pub(crate) told: RefCell<Vec<(u64, u64)>>,
    /// It has renewed, so that the metadata server knows that it serves.
    pub(crate) serves: Cell<bool>,
    /// What creations are answered with.
    pub(crate) create_status: Cell<Status>,
    /// Orders are not answered while this is set.
    pub(crate) stalled: Cell<bool>,
    pub(crate) orders: Cell<u32>,
    /// What the next heartbeat says was verified.
    pub(crate) verified: RefCell<Vec<VerifiedChunk>>,
    /// Orders to compare, and what they are answered with.
    pub(crate) comparisons: RefCell<Vec<CompareChunks>>,
    pub(crate) differences: RefCell<Vec<ReplicaDifference>>,
    go_on: Notify,
    beating: RefCell<Option<rt::JoinHandle<()>>>,
    pub(crate) connection: RefCell<Option<Connection>>,
}

impl FakeCs {
    pub(crate) fn new(world: &World, uuid: u8) -> Rc<Self> {
        Rc::new(Self {
            endpoint: world.endpoint(&format!("cs{uuid}"), Role::Cs, 1),
            mds: world.clients(),
            uuid,
            host: format!("host{uuid}"),
            boot: Cell::new(1),
            id: Cell::new(0),
            nonce: Cell::new(0),
            session: Cell::new(0),
            flags: Cell::new(wire::cs::FLAG_CHECKSUMS),
            free_bytes: Cell::new(90 << 30),
            inventories: Cell::default(),
            copied: Cell::default(),
            chunks: RefCell::default(),
            fences: RefCell::default(),
            deleted: RefCell::default(),
            copies: RefCell::default(),
            told: RefCell::default(),
            serves: Cell::new(false),
            create_status: Cell::new(Status::Ok),
            stalled: Cell::new(false),
            orders: Cell::new(0),
            verified: RefCell::default(),
            comparisons: RefCell::default(),
            differences: RefCell::default(),
            go_on: Notify::new(),
            beating: RefCell::default(),
            connection: RefCell::default(),
        })
    }

    pub(crate) fn request(&self, nonce: u8, new_nonce: u8) -> RegisterCs {
        RegisterCs {
            cs_id: self.id.get(),
            cs_uuid: vec![self.uuid; 16],
            nonce: if nonce == 0 { Vec::new() } else { vec![nonce; 16] },
            new_nonce: vec![new_nonce; 16],
            host_id: self.host.clone(),
            host_name: format!("{}.test", self.host),
            boot_id: vec![self.boot.get(); 16],
            addresses: vec![format!("127.0.0.1:{}", 3000 + u16::from(self.uuid))],
            total_bytes: 100 << 30,
            free_bytes: self.free_bytes.get(),
            flags: self.flags.get(),
            software: "1.0".into(),
            path: format!("/cs{}", self.uuid),
            ..RegisterCs::default()
        }
    }

    /// Connects.
    pub(crate) async fn connect(self: &Rc<Self>) -> Connection {
        let connected =
            self.endpoint.connect_serving(&self.mds, Expect::role(Role::Mds), Rc::clone(self)).await;
        let connection = connected.expect("connected");
        self.connection.replace(Some(connection.clone()));
        connection
    }

    /// Registers with these nonces over a new connection.
    pub(crate) async fn register(
        self: &Rc<Self>,
        nonce: u8,
        new_nonce: u8,
    ) -> Result<RegisterCsReply, AskError> {
        let connection = self.connect().await;
        let reply = connection.ask(&self.request(nonce, new_nonce), soon()).await?;
        self.id.set(reply.cs_id);
        self.nonce.set(new_nonce);
        self.session.set(reply.session);
        self.told.replace(reply.fences.iter().map(|fence| (fence.file_id, fence.epoch)).collect());
        for fence in &reply.fences {
            self.fences.borrow_mut().insert(fence.file_id, fence.epoch);
        }
        Ok(reply)
    }

    pub(crate) async fn heartbeat(&self) -> Result<HeartbeatReply, AskError> {
        let connection = self.connection.borrow().clone().expect("connected");
        let request = Heartbeat {
            cs_id: self.id.get(),
            session: self.session.get(),
            free_bytes: self.free_bytes.get(),
            total_bytes: 100 << 30,
            flags: self.flags.get(),
            copied_out_bytes: self.copied.get().0,
            copied_in_bytes: self.copied.get().1,
            verified: self.verified.take(),
            ..Heartbeat::default()
        };
        let reply = connection.ask(&request, soon()).await?;
        self.serves.set(true);
        if reply.report_all {
            self.report_all(&connection).await?;
        }
        Ok(reply)
    }

    /// Tells all it has, in pages of two.
    async fn report_all(&self, connection: &Connection) -> Result<(), AskError> {
        let mut first_id = 0;
        loop {
            let held: Vec<CreateItem> =
                self.chunks.borrow().range(first_id..).take(2).map(|(_, item)| *item).collect();
            let replica = |item: &CreateItem| ReplicaReport {
                chunk_id: item.chunk_id,
                version: item.version,
                state: ReplicaState::Good.into(),
                used_bytes: 0,
            };
            let last = held.len() < 2;
            let (cs_id, session) = (self.id.get(), self.session.get());
            let replicas = held.iter().map(replica).collect();
            connection.ask(&ReportChunks { cs_id, session, first_id, replicas, last }, soon()).await?;
            if last {
                self.inventories.set(self.inventories.get() + 1);
                return Ok(());
            }
            first_id = held[1].chunk_id + 1;
        }
    }

    /// Registers as a start does, and goes on renewing.
    pub(crate) async fn join(self: &Rc<Self>) {
        let reply = self.register(self.nonce.get(), self.nonce.get() + 1).await.expect("registered");
        assert!(!reply.stale);
        let cs = Rc::clone(self);
        let beating = rt::spawn(async move {
            // The first at once: the tests have little time.
            loop {
                match cs.heartbeat().await {
                    Ok(reply) => rt::time::sleep(Duration::from_millis(reply.term_ms.into()) / 6).await,
                    Err(error) => break eprintln!("CS#{}: {error}", cs.id.get()),
                }
            }
        });
        self.beating.replace(Some(beating));
    }

    /// Falls silent, but stays connected.
    pub(crate) fn fall_silent(&self) {
        if let Some(beating) = self.beating.take() {
            beating.abort();
        }
    }

    /// Is killed.
    pub(crate) async fn die(&self) {
        self.fall_silent();
        self.connection.take();
        self.serves.set(false);
        self.endpoint.close().await;
    }

    /// Answers orders again.
    pub(crate) fn go_on(&self) {
        self.stalled.set(false);
        self.go_on.notify_all();
    }

    fn compare(&self, request: &Request) -> CompareChunksReply {
        let order: CompareChunks = wire::decode_body(&request.body).expect("an order");
        let differences = self.differences.borrow().clone();
        let differing_blocks = differences.iter().map(|one| one.range.count).sum();
        let chunk_id = order.items[0].chunk_id;
        self.comparisons.borrow_mut().push(order);
        let result = CompareResult { chunk_id, differences, differing_blocks, ..CompareResult::default() };
        CompareChunksReply { results: vec![result] }
    }

    fn carry_out(&self, request: &Request) -> ResultsReply {
        let result = |id, status: Status| ItemResult { id, status: status.code().into() };
        let results = match request.known_op() {
            Some(Op::CreateChunks) => {
                let order: CreateChunks = wire::decode_body(&request.body).expect("an order");
                let status = self.create_status.get();
                let create = |item: CreateItem| {
                    if status.is_ok() {
                        self.chunks.borrow_mut().insert(item.chunk_id, item);
                        self.fences.borrow_mut().insert(item.file_id, item.epoch);
                    }
                    result(item.chunk_id, status)
                };
                order.items.into_iter().map(create).collect()
            }
            Some(Op::DeleteChunks) => {
                let order: DeleteChunks = wire::decode_body(&request.body).expect("an order");
                let delete = |item: wire::cs::DeleteItem| {
                    self.chunks.borrow_mut().remove(&item.chunk_id);
                    self.deleted.borrow_mut().insert(item.chunk_id);
                    result(item.chunk_id, Status::Ok)
                };
                order.items.into_iter().map(delete).collect()
            }
            Some(Op::Fence) => {
                let order: Fence = wire::decode_body(&request.body).expect("an order");
                let fence = |item: wire::cs::FenceItem| {
                    self.fences.borrow_mut().insert(item.file_id, item.epoch);
                    result(item.file_id, Status::Ok)
                };
                order.items.into_iter().map(fence).collect()
            }
            Some(Op::InstallVersions) => {
                let order: InstallVersions = wire::decode_body(&request.body).expect("an order");
                let install = |item: wire::cs::InstallItem| {
                    let mut chunks = self.chunks.borrow_mut();
                    let Some(chunk) = chunks.get_mut(&item.chunk_id) else {
                        return result(item.chunk_id, Status::UnknownChunk);
                    };
                    let fits = (item.from_version..=item.to_version).contains(&chunk.version);
                    if fits {
                        chunk.version = item.to_version;
                    }
                    result(item.chunk_id, if fits { Status::Ok } else { Status::StaleVersion })
                };
                order.items.into_iter().map(install).collect()
            }
            Some(Op::CatchUp) => {
                let order: CatchUp = wire::decode_body(&request.body).expect("an order");
                let ids: Vec<u64> = order.items.iter().map(|item| item.chunk_id).collect();
                self.copies.borrow_mut().push(order);
                ids.into_iter().map(|id| result(id, Status::Ok)).collect()
            }
            other => panic!("not an order: {other:?}"),
        };
        ResultsReply { results }
    }
}

impl Service for FakeCs {
    async fn serve(self: Rc<Self>, connection: Connection, request: Request) -> Response {
        assert_eq!(connection.peer().role, Role::Mds);
        self.orders.set(self.orders.get() + 1);
        loop {
            let go_on = self.go_on.notified();
            if !self.stalled.get() {
                break;
            }
            go_on.await;
        }
        if request.known_op() == Some(Op::CompareChunks) {
            return Response::ok(wire::encode_body(&self.compare(&request)).expect("short"));
        }
        Response::ok(wire::encode_body(&self.carry_out(&request)).expect("short"))
    }
}

/// Runs a test on a ring of its own.
pub(crate) fn test<F: Future<Output = ()> + 'static>(main: F) {
    on_ring(main);
}
