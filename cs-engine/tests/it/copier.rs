//! Chunk servers that fill each other at the word of a metadata server, on the simulated network.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{self, CreateOptions, OpenError};
use cs_engine::format::superblock::Superblock;
use cs_engine::server::{Registrar, RegistrarOptions, Server};
use link::{
    Call, ClusterAuthority, ClusterId, Connection, Credentials, Endpoint, Expect, LocalHello, Options,
    Request, Response, Roles, Security, Service,
};
use rt::buf::View;
use rt::net::{Address, Listener};
use rt::sim::control::{self, PeerView};
use rt::sim::{HostId, HostOptions, SimOptions, Simulation};
use rt::sync::Notify;
use wire::cs::{
    BlockRange, CatchUp, CatchUpItem, CaughtUp, CaughtUpItem, CreateChunks, CreateItem, DamageItem,
    Heartbeat, HeartbeatReply, InstallItem, InstallVersions, RegisterCs, RegisterCsReply, RepairBlocks,
    RepairItem, ReportDamage, ResultsReply, Role as ReplicaRole, VerifiedChunk,
};
use wire::data::{Read, SurveyBlocks, SurveyBlocksReply, Target, Write, WriteKind};
use wire::hello::Role;
use wire::lease::CsAddress;
use wire::{Op, Status};

use crate::rig::{CHUNK, FILE, MIB, crcs, log, no_interval, open, pattern, superblock};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const SIZE: u32 = 4 * MIB;
const PORT: u16 = 2520;
const TERM_MS: u32 = 120_000;
pub(crate) const IDS: [u64; 3] = [1025, 1026, 1027];

/// A metadata server that takes everybody and remembers what it is told.
#[derive(Default)]
pub(crate) struct Mds {
    pub(crate) connections: RefCell<BTreeMap<u64, Connection>>,
    told: RefCell<Vec<CaughtUpItem>>,
    damage: RefCell<Vec<DamageItem>>,
    /// Chunks that heartbeats call corrupt.
    corrupt: RefCell<Vec<u64>>,
    /// The next heartbeat that calls one so is not heard.
    is_deaf: Cell<bool>,
    /// Chunks that heartbeats call verified, with their servers.
    pub(crate) verified: RefCell<Vec<(u64, VerifiedChunk)>>,
}

impl Service for Mds {
    async fn serve(self: Rc<Self>, connection: Connection, request: Request) -> Response {
        let reply = match request.known_op() {
            Some(Op::RegisterCs) => {
                let from: RegisterCs = wire::decode_body(&request.body).expect("a registration");
                let cs_id = from.path.rsplit('/').next().and_then(|id| id.parse().ok()).expect("its id");
                self.connections.borrow_mut().insert(cs_id, connection);
                let reply =
                    RegisterCsReply { cs_id, term_ms: TERM_MS, session: 7, ..RegisterCsReply::default() };
                wire::encode_body(&reply)
            }
            Some(Op::ReportDamage) => {
                let told: ReportDamage = wire::decode_body(&request.body).expect("damage");
                self.damage.borrow_mut().extend(told.items);
                return Response::ok(Vec::new());
            }
            Some(Op::Heartbeat) => {
                let heartbeat: Heartbeat = wire::decode_body(&request.body).expect("a heartbeat");
                if !heartbeat.differences.is_empty() && self.is_deaf.take() {
                    return Status::Retry.into();
                }
                let verified = heartbeat.verified.iter().map(|chunk| (heartbeat.cs_id, *chunk));
                self.verified.borrow_mut().extend(verified);
                self.corrupt
                    .borrow_mut()
                    .extend(heartbeat.differences.iter().map(|replica| replica.chunk_id));
                wire::encode_body(&HeartbeatReply {
                    term_ms: TERM_MS,
                    verify_chunks: Some(4),
                    ..HeartbeatReply::default()
                })
            }
            Some(Op::CaughtUp) => {
                let told: CaughtUp = wire::decode_body(&request.body).expect("outcomes");
                self.told.borrow_mut().extend(told.items);
                return Response::ok(Vec::new());
            }
            _ => return Status::Unsupported.into(),
        };
        Response::ok(reply.expect("short"))
    }
}

pub(crate) fn endpoint(credentials: Credentials, role: Role, boot_id: [u8; 16]) -> Endpoint {
    let options = Options { security: Security::simulated(), ..Options::default() };
    Endpoint::new(credentials, LocalHello::new(role, boot_id), options).expect("valid credentials")
}

pub(crate) struct World {
    pub(crate) authority: ClusterAuthority,
    pub(crate) mds: Rc<Mds>,
    mds_address: SocketAddr,
    pub(crate) hosts: Vec<HostId>,
    client: RefCell<Option<HostId>>,
    /// Chunk servers make one when it is told.
    pub(crate) checkpoint: Rc<Notify>,
}

impl World {
    pub(crate) async fn start(copying: Option<u64>) -> Self {
        Self::start_with(copying, [superblock(), superblock()]).await
    }

    pub(crate) async fn start_with(copying: Option<u64>, made: [Superblock; 2]) -> Self {
        let authority = ClusterAuthority::create("test", ClusterId::random()).expect("a valid name");
        let mds_host = control::add_host(HostOptions::new("mds"));
        let mds_address = SocketAddr::new(control::host_ip(mds_host), 2511);
        let mds = Rc::new(Mds::default());
        let (credentials, service) = (member(&authority), Rc::clone(&mds));
        let _mds = control::start_process(mds_host, "mds", async move {
            let listener = Listener::bind(&Address::Tcp(mds_address)).expect("a free port");
            endpoint(credentials, Role::Mds, [9; 16]).serve(listener, service).await;
        });
        let hosts = IDS.map(|id| control::add_host(HostOptions::new(&format!("cs{id}")))).to_vec();
        let (client, checkpoint) = (RefCell::default(), Rc::default());
        let world = Self { authority, mds, mds_address, hosts, client, checkpoint };
        for (index, superblock) in made.into_iter().enumerate() {
            world.add(index, superblock, copying).await;
        }
        world
    }

    /// Makes a chunk server and starts it.
    async fn add(&self, index: usize, superblock: Superblock, copying: Option<u64>) {
        let create = CreateOptions { dir: dir(index).into(), superblock };
        let host = self.hosts[index];
        let made = control::start_process(host, "make", async move { engine::create(&create).await.is_ok() });
        assert!(made.wait().await.returned());
        self.run(index, copying).await;
    }

    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        SocketAddr::new(control::host_ip(self.hosts[index]), PORT)
    }

    /// Starts a chunk server and waits until it serves.
    pub(crate) async fn run(&self, index: usize, copying: Option<u64>) {
        self.mds.connections.borrow_mut().remove(&IDS[index]);
        let (credentials, at, mds) = (member(&self.authority), self.address(index), self.mds_address);
        let checkpoint = Rc::clone(&self.checkpoint);
        let _process = control::start_process(self.hosts[index], "cs", async move {
            let dir = dir(index);
            let engine = loop {
                match open(Path::new(&dir), no_interval()).await {
                    Ok(engine) => break engine,
                    Err(OpenError::InUse(_)) => rt::time::sleep(Duration::from_millis(1)).await,
                    Err(error) => panic!("{error}"),
                }
            };
            let boot_id = rt::node::boot_id().expect("a boot id");
            let theirs = Rc::clone(&engine);
            let _checkpoints = rt::spawn(async move {
                loop {
                    checkpoint.notified().await;
                    theirs.checkpoint().await.expect("a checkpoint");
                }
            });
            let (server, endpoint) = (Server::new(engine, boot_id), endpoint(credentials, Role::Cs, boot_id));
            server.limit_copying(copying);
            let options = RegistrarOptions {
                mds: vec![Address::Tcp(mds)],
                addresses: vec![at.to_string()],
                host_id: "cs".into(),
                path: dir.into(),
            };
            let registrar = Registrar::new(Rc::clone(&server), endpoint.clone(), options);
            let _registering = rt::spawn(async move { registrar.run().await });
            let listener = Listener::bind(&Address::Tcp(at)).expect("a free port");
            endpoint.serve(listener, server).await;
        });
        while !self.mds.connections.borrow().contains_key(&IDS[index]) {
            control::advance(SECOND / 10).await;
        }
        control::advance(SECOND / 2).await;
    }

    /// Gives an order; the status of its only item.
    async fn order<R: wire::Call<Reply = ResultsReply>>(&self, index: usize, order: &R) -> Status {
        let connection = self.mds.connections.borrow()[&IDS[index]].clone();
        let reply = connection.ask(order, rt::time::now() + SECOND * 20).await.expect("an answer");
        Status::from_code(reply.results[0].status as u16)
    }

    pub(crate) async fn create(&self, index: usize, version: u64, joining: bool) -> Status {
        let (chunk_id, file_id, size_bytes) = (CHUNK, FILE, u64::from(SIZE));
        let item =
            CreateItem { chunk_id, version, file_id, size_bytes, epoch: 1, joining, ..CreateItem::default() };
        self.order(index, &CreateChunks { items: vec![item] }).await
    }

    pub(crate) async fn install(
        &self,
        index: usize,
        to_version: u64,
        role: ReplicaRole,
        keep: bool,
    ) -> Status {
        let (chunk_id, role) = (CHUNK, role as i32);
        let item = InstallItem { chunk_id, from_version: 1, to_version, role, keep };
        self.order(index, &InstallVersions { items: vec![item] }).await
    }

    /// Orders the second server to be filled from the first one.
    async fn catch_up(&self, version: u64) -> Status {
        self.catch_up_by(CatchUpItem { version, ..CatchUpItem::default() }).await
    }

    async fn catch_up_by(&self, item: CatchUpItem) -> Status {
        self.fill(1, &[0], item).await
    }

    /// Orders a server to be filled from others.
    async fn fill(&self, index: usize, from: &[usize], item: CatchUpItem) -> Status {
        let sources = from.iter().map(|source| IDS[*source]).collect();
        let item = CatchUpItem { file_id: FILE, chunk_id: CHUNK, sources, ..item };
        let servers = from.iter().map(|source| self.named(*source)).collect();
        self.order(index, &CatchUp { items: vec![item], servers }).await
    }

    fn named(&self, index: usize) -> CsAddress {
        let addresses = vec![self.address(index).to_string()];
        CsAddress { cs_id: IDS[index], addresses, ..CsAddress::default() }
    }

    /// Orders a block to be repaired from the other server.
    async fn repair(&self, index: usize, block: u32) -> Status {
        self.repair_from(index, &[1 - index], 1, block..block + 1).await
    }

    async fn repair_from(
        &self,
        index: usize,
        from: &[usize],
        version: u64,
        blocks: std::ops::Range<u32>,
    ) -> Status {
        let (file_id, chunk_id) = (FILE, CHUNK);
        let ranges = vec![BlockRange { first: blocks.start, count: blocks.len() as u32 }];
        let sources = from.iter().map(|source| IDS[*source]).collect();
        let item = RepairItem { file_id, chunk_id, version, ranges, sources };
        let servers = from.iter().map(|source| self.named(*source)).collect();
        self.order(index, &RepairBlocks { items: vec![item], servers }).await
    }

    /// Flushes all writes below a number, which are stable from then on.
    async fn flush_below(&self, indices: &[usize], seq: u64) {
        for &index in indices {
            for stable in [1, seq] {
                let flush = wire::data::Flush {
                    file: FILE,
                    epoch: 1,
                    upto_seq: seq - 1,
                    done: seq,
                    stable,
                    settled_before: false,
                };
                let mut body = Vec::new();
                flush.encode(&[], &mut body);
                assert_eq!(self.call(index, Op::Flush, body, None).await.0, Status::Ok);
            }
        }
    }

    /// What a client gets.
    pub(crate) async fn call(
        &self,
        index: usize,
        op: Op,
        body: Vec<u8>,
        payload: Option<Vec<u8>>,
    ) -> (Status, Vec<u8>) {
        let (status, _, payload) = self.call_whole(index, op, body, payload).await;
        (status, payload)
    }

    /// The same with the answer's body before its payload.
    async fn call_whole(
        &self,
        index: usize,
        op: Op,
        body: Vec<u8>,
        payload: Option<Vec<u8>>,
    ) -> (Status, Vec<u8>, Vec<u8>) {
        let host =
            *self.client.borrow_mut().get_or_insert_with(|| control::add_host(HostOptions::new("client")));
        let (credentials, address) = (member(&self.authority), Address::Tcp(self.address(index)));
        let asked = control::start_process(host, "client", async move {
            let endpoint = endpoint(credentials, Role::Client, [8; 16]);
            let connection = endpoint.connect(&address, Expect::role(Role::Cs)).await.expect("it listens");
            let mut call = Call::new(op, body, rt::time::now() + SECOND * 20).expecting(MIB as usize);
            if let Some(payload) = payload {
                call = call.with_payload(View::copy_of(&payload));
            }
            let reply = connection.call(call).await.expect("an answer");
            (reply.status, reply.body.to_vec(), reply.payload.to_vec())
        });
        asked.wait().await.returned()
    }

    pub(crate) async fn write(&self, indices: &[usize], version: u64, seq: u64, offset: u32, bytes: &[u8]) {
        for &index in indices {
            let target = Target { file: FILE, epoch: 1, chunk: CHUNK, version };
            let (len, kind, done) = (bytes.len() as u32, WriteKind::Data, seq);
            let write =
                Write { target, seq, done, stable: 1, offset, len, kind, fua: false, stripe_version: 0 };
            let mut body = Vec::new();
            write.encode(&crcs(offset, bytes), &mut body);
            assert_eq!(self.call(index, Op::Write, body, Some(bytes.to_vec())).await.0, Status::Ok);
        }
    }

    pub(crate) async fn read(
        &self,
        index: usize,
        op: Op,
        version: u64,
        offset: u32,
        len: u32,
    ) -> (Status, Vec<u8>) {
        let target = Target { file: FILE, epoch: 1, chunk: CHUNK, version };
        let mut body = Vec::new();
        Read { target, offset, len, unsettled: false }.encode(&mut body);
        self.call(index, op, body, None).await
    }

    /// Waits for the next outcome.
    async fn outcome(&self) -> CaughtUpItem {
        let begun = rt::time::now();
        loop {
            if let Some(item) = self.mds.told.borrow_mut().pop() {
                return item;
            }
            assert!(begun.elapsed() < SECOND * 120, "the joiner was never filled");
            control::advance(SECOND / 10).await;
        }
    }
}

/// The body of a write.
pub(crate) fn write(version: u64, seq: u64, stable: u64, offset: u32, bytes: &[u8]) -> Vec<u8> {
    let target = Target { file: FILE, epoch: 1, chunk: CHUNK, version };
    let (len, kind, done) = (bytes.len() as u32, WriteKind::Data, seq);
    let write = Write { target, seq, done, stable, offset, len, kind, fua: false, stripe_version: 0 };
    let mut body = Vec::new();
    write.encode(&crcs(offset, bytes), &mut body);
    body
}

pub(crate) fn dir(index: usize) -> String {
    format!("/cs/{}", IDS[index])
}

pub(crate) fn member(authority: &ClusterAuthority) -> Credentials {
    authority.issue("node", "0123456789abcdef", Roles::ALL).expect("valid names")
}

pub(crate) fn simulate<F: Future<Output = ()> + 'static>(controller: F) -> rt::sim::Coverage {
    log();
    let mut simulation = Simulation::new(SimOptions::new(1));
    simulation.run(controller).unwrap_or_else(|failure| panic!("{failure}"));
    simulation.coverage()
}

/// A member with content, and a new joiner under version 2.
async fn with_joiner(copying: Option<u64>) -> (World, Vec<u8>) {
    let world = World::start(copying).await;
    assert_eq!(world.create(0, 1, false).await, Status::Ok);
    let mut content = vec![0; SIZE as usize];
    for (seq, (offset, len)) in (1..).zip([(0, MIB), (2 * MIB + 100, 9000), (3 * MIB, MIB / 2)]) {
        let bytes = pattern(seq, len as usize);
        world.write(&[0], 1, seq, offset, &bytes).await;
        content[offset as usize..(offset + len) as usize].copy_from_slice(&bytes);
    }
    assert_eq!(world.create(1, 2, true).await, Status::Ok);
    assert_eq!(world.install(0, 2, ReplicaRole::Member, true).await, Status::Ok);
    (world, content)
}

async fn check(world: &World, version: u64, content: &[u8]) {
    for (at, bytes) in (0..SIZE).step_by(MIB as usize).zip(content.chunks(MIB as usize)) {
        let (status, found) = world.read(1, Op::Read, version, at, MIB).await;
        assert_eq!(status, Status::Ok);
        // A hole has no payload.
        let found = if found.is_empty() { vec![0; MIB as usize] } else { found };
        assert!(found == bytes, "what lies at {at}");
    }
}

#[test]
fn a_joiner_is_filled_and_its_power_may_fail_then() {
    simulate(async {
        let (world, mut content) = with_joiner(Some(u64::from(MIB))).await;
        assert_eq!(world.catch_up(3).await, Status::StaleVersion);
        assert_eq!(world.catch_up(2).await, Status::Ok);
        assert_eq!(world.catch_up(2).await, Status::Ok, "again, while it runs");
        assert_eq!(world.read(1, Op::Read, 2, 0, 4096).await.0, Status::Retry, "a joiner serves no reads");
        assert_eq!(
            world.read(0, Op::CopyRead, 2, 0, 4096).await.0,
            Status::Forbidden,
            "copies are for servers"
        );
        // A part of a block in what is copied last.
        let bytes = pattern(99, 100);
        world.write(&[0, 1], 2, 4, SIZE - MIB + 50, &bytes).await;
        content[(SIZE - MIB + 50) as usize..][..100].copy_from_slice(&bytes);
        let outcome = world.outcome().await;
        assert_eq!((outcome.chunk_id, outcome.version, outcome.status), (CHUNK, 2, 0));
        assert!(outcome.copied_bytes >= u64::from(SIZE), "{}", outcome.copied_bytes);
        control::power_cut(&world.hosts[1..], PeerView::Silence);
        control::power_on(world.hosts[1]);
        world.run(1, None).await;
        assert!(world.mds.told.borrow().is_empty(), "told once");
        assert_eq!(world.install(1, 3, ReplicaRole::Member, false).await, Status::Ok);
        check(&world, 3, &content).await;
    });
}

#[test]
fn a_source_that_runs_in_another_boot_is_noticed() {
    let coverage = simulate(async {
        let (world, content) = with_joiner(Some(u64::from(MIB / 2))).await;
        // Everything of it is durable, so that nothing is lost but what the joiner may think it has.
        let flush = wire::data::Flush {
            file: FILE,
            epoch: 1,
            upto_seq: 3,
            done: 4,
            stable: 1,
            settled_before: false,
        };
        let mut body = Vec::new();
        flush.encode(&[], &mut body);
        assert_eq!(world.call(0, Op::Flush, body, None).await.0, Status::Ok);
        assert_eq!(world.catch_up(2).await, Status::Ok);
        control::advance(SECOND * 3).await;
        control::power_cut(&world.hosts[..1], PeerView::Reset);
        control::power_on(world.hosts[0]);
        world.run(0, None).await;
        // It may have been away for too long: then it is ordered again.
        let mut outcome = world.outcome().await;
        if outcome.status != 0 {
            assert_eq!(world.catch_up(2).await, Status::Ok);
            outcome = world.outcome().await;
        }
        assert_eq!(outcome.status, 0);
        assert_eq!(world.install(1, 3, ReplicaRole::Member, false).await, Status::Ok);
        check(&world, 3, &content).await;
    });
    assert!(coverage.contains_key("cs.source-rebooted"), "{coverage:?}");
}

#[test]
fn a_joiner_whose_members_cannot_be_reached_is_told_and_a_later_version_ends_it() {
    simulate(async {
        let (world, _) = with_joiner(None).await;
        control::power_cut(&world.hosts[..1], PeerView::Reset);
        assert_eq!(world.catch_up(2).await, Status::Ok);
        let outcome = world.outcome().await;
        assert_eq!(Status::from_code(outcome.status as u16), Status::Timeout);
        assert_eq!(world.catch_up(2).await, Status::Ok);
        assert_eq!(world.install(1, 3, ReplicaRole::Joiner, false).await, Status::Ok);
        control::advance(SECOND * 60).await;
        assert!(world.mds.told.borrow().is_empty());
        assert_eq!(world.catch_up(2).await, Status::StaleVersion);
    });
}

/// Two members with the same content; a bit of the second one's block 300 rots, then both are ordered to repair it.
fn rot_and_repair(planted: Option<&str>) -> Result<(), String> {
    log();
    let mut options = SimOptions::new(1);
    options.planted.extend(planted.map(str::to_owned));
    let outcome = Simulation::new(options).run(async {
        let world = World::start(None).await;
        for index in 0..2 {
            assert_eq!(world.create(index, 1, false).await, Status::Ok);
        }
        let content = pattern(1, MIB as usize);
        world.write(&[0, 1], 1, 1, MIB, &content).await;
        let flush = wire::data::Flush {
            file: FILE,
            epoch: 1,
            upto_seq: 1,
            done: 2,
            stable: 1,
            settled_before: false,
        };
        let mut body = Vec::new();
        flush.encode(&[], &mut body);
        assert_eq!(world.call(1, Op::Flush, body, None).await.0, Status::Ok);
        // Everything is in the chunk's file: nothing is redone from the journal when it starts again.
        let file = format!("{}/chunks/{:02x}/{CHUNK:016x}", dir(1), CHUNK & 0xff);
        control::advance(SECOND * 120).await;
        assert!(control::rot(world.hosts[1], &file, 300 * 4096 + 77).expect("the chunk's file"));
        world.mds.is_deaf.set(true);
        // The verifier comes to it, and the metadata server is told.
        let begun = rt::time::now();
        while world.mds.damage.borrow().is_empty() {
            assert!(begun.elapsed() < SECOND * 200, "the damage is never told");
            control::advance(SECOND).await;
        }
        {
            let damage = world.mds.damage.borrow();
            let told: Vec<_> =
                damage.iter().flat_map(|item| &item.ranges).map(|r| (r.first, r.count)).collect();
            assert_eq!((damage[0].chunk_id, damage[0].version, told), (CHUNK, 1, vec![(300, 1)]));
        }
        assert!(!world.mds.is_deaf.get(), "it was told in vain before");
        assert_eq!(world.mds.corrupt.borrow().as_slice(), [CHUNK], "an event, once");
        for index in [0, 1] {
            let status = world.repair(index, 300).await;
            if status != Status::Ok {
                return Err(format!("server {index}: {status}"));
            }
        }
        for index in [0, 1] {
            let (status, found) = world.read(index, Op::Read, 1, MIB, MIB).await;
            if (status, found.as_slice()) != (Status::Ok, content.as_slice()) {
                return Err(format!("server {index} has something else: {status}"));
            }
        }
        Ok(())
    });
    outcome.map_err(|failure| failure.to_string())?
}

#[test]
fn a_rotten_block_is_told_and_repaired_from_the_good_one() {
    rot_and_repair(None).unwrap();
}

#[test]
fn a_good_block_that_is_repaired_from_the_bad_one_is_caught() {
    println!("{}", rot_and_repair(Some("repair-unchecked")).expect_err("nobody saw it"));
}

/// A flush that names a version which is not installed yet.
#[test]
fn c6_a_flush_waits_for_the_versions_that_it_names() {
    simulate(async {
        let (world, _) = with_joiner(None).await;
        let flush = async |version| {
            let flush = wire::data::Flush {
                file: FILE,
                epoch: 1,
                upto_seq: 3,
                done: 4,
                stable: 1,
                settled_before: false,
            };
            let mut body = Vec::new();
            flush.encode(&[wire::data::InstalledVersion { chunk: CHUNK, version }], &mut body);
            world.call(0, Op::Flush, body, None).await.0
        };
        assert_eq!((flush(2).await, flush(3).await), (Status::Ok, Status::StaleVersion));
        assert_eq!(world.install(0, 4, ReplicaRole::Member, true).await, Status::Ok);
        assert_eq!((flush(3).await, flush(4).await), (Status::Ok, Status::Ok));
    });
}

/// One block of the only member is damaged: all else is copied, and the rest when it is written again.
#[test]
fn c8_a_bad_block_of_the_only_member_keeps_nothing_else_out() {
    const BAD: u32 = 5 * 4096;
    simulate(async {
        let (world, mut content) = with_joiner(None).await;
        let file = format!("{}/chunks/{:02x}/{CHUNK:016x}", dir(0), CHUNK & 0xff);
        assert!(control::rot(world.hosts[0], file, u64::from(BAD) + 7).expect("written in place"));
        assert_eq!(world.read(0, Op::Read, 2, BAD, 4096).await.0, Status::Corrupt);
        assert_eq!(world.catch_up(2).await, Status::Ok);
        let outcome = world.outcome().await;
        assert_eq!(Status::from_code(outcome.status as u16), Status::Corrupt);
        assert!(outcome.copied_bytes >= u64::from(SIZE - 4096), "{}", outcome.copied_bytes);
        let bytes = pattern(99, 4096);
        world.write(&[0, 1], 2, 4, BAD, &bytes).await;
        content[BAD as usize..][..4096].copy_from_slice(&bytes);
        assert_eq!(world.catch_up(2).await, Status::Ok);
        assert_eq!(world.outcome().await.status, 0);
        assert_eq!(world.install(1, 3, ReplicaRole::Member, false).await, Status::Ok);
        check(&world, 3, &content).await;
    });
}

/// No other member is waited for: the block is as bad in the new replica, and all else has one more.
#[test]
fn c8_a_bad_block_of_the_last_member_does_not_keep_the_joiner_out() {
    const BAD: u32 = 5 * 4096;
    let coverage = simulate(async {
        let (world, mut content) = with_joiner(None).await;
        let file = format!("{}/chunks/{:02x}/{CHUNK:016x}", dir(0), CHUNK & 0xff);
        assert!(control::rot(world.hosts[0], file, u64::from(BAD) + 7).expect("written in place"));
        assert_eq!(
            world.catch_up_by(CatchUpItem { version: 2, last_sources: true, ..CatchUpItem::default() }).await,
            Status::Ok
        );
        let outcome = world.outcome().await;
        assert_eq!((outcome.status, outcome.lost_blocks), (0, 1), "the metadata server is to know");
        let told_by_joiner = |world: &World| -> Vec<BlockRange> {
            let told = world.mds.damage.borrow();
            told.iter().filter(|item| item.version == 3).flat_map(|item| item.ranges.clone()).collect()
        };
        assert_eq!(world.install(1, 3, ReplicaRole::Member, false).await, Status::Ok);
        let begun = rt::time::now();
        while told_by_joiner(&world).is_empty() {
            assert!(begun.elapsed() < SECOND * 60, "it is not told that the new member lacks a block");
            control::advance(SECOND).await;
        }
        assert_eq!(told_by_joiner(&world), [BlockRange { first: BAD / 4096, count: 1 }]);
        assert_eq!(world.install(0, 3, ReplicaRole::Member, false).await, Status::Ok);
        for index in [0, 1] {
            assert_eq!(world.read(index, Op::Read, 3, BAD, 4096).await.0, Status::Corrupt);
        }
        let bytes = pattern(99, 4096);
        world.write(&[0, 1], 3, 4, BAD, &bytes).await;
        content[BAD as usize..][..4096].copy_from_slice(&bytes);
        check(&world, 3, &content).await;
    });
    assert!(coverage.contains_key("engine.block-lost"), "{coverage:?}");
}

/// A replica is away; two blocks of the only member rot, of which the one that is away has the first as it was and the second as it
/// was before. The one that is made meanwhile has neither. When the one that was away is back all have the first again.
#[test]
fn c8_a_block_that_only_a_returner_has_is_repaired_everywhere() {
    const BLOCK: u32 = 4096;
    const UNCHANGED: u32 = 5;
    const CHANGED: u32 = 2 * MIB / BLOCK;
    let coverage = simulate(async {
        let world = World::start(None).await;
        let (member, made, away) = (0, 1, 2);
        world.add(away, superblock(), None).await;
        for index in [member, away] {
            assert_eq!(world.create(index, 1, false).await, Status::Ok);
        }
        let content = pattern(1, MIB as usize);
        world.write(&[member, away], 1, 1, 0, &content).await;
        world.write(&[member, away], 1, 2, CHANGED * BLOCK, &pattern(2, 4096)).await;
        world.flush_below(&[member, away], 3).await;
        assert_eq!(world.install(member, 2, ReplicaRole::Member, true).await, Status::Ok);
        world.write(&[member], 2, 3, CHANGED * BLOCK, &pattern(3, 4096)).await;
        world.flush_below(&[member], 4).await;
        // Into the chunk's file with all of it.
        world.checkpoint.notify_all();
        control::advance(SECOND * 5).await;
        let file = format!("{}/chunks/{:02x}/{CHUNK:016x}", dir(member), CHUNK & 0xff);
        for block in [UNCHANGED, CHANGED] {
            let at = u64::from(block * BLOCK) + 7;
            assert!(control::rot(world.hosts[member], &file, at).expect("the chunk's file"));
        }
        // Made elsewhere, while nobody else seems to be left.
        assert_eq!(world.create(made, 3, true).await, Status::Ok);
        assert_eq!(world.install(member, 3, ReplicaRole::Member, true).await, Status::Ok);
        let last = |version| CatchUpItem { version, last_sources: true, ..CatchUpItem::default() };
        assert_eq!(world.fill(made, &[member], last(3)).await, Status::Ok);
        let outcome = world.outcome().await;
        assert_eq!((outcome.status, outcome.lost_blocks), (0, 2));
        for index in [member, made] {
            assert_eq!(world.install(index, 4, ReplicaRole::Member, true).await, Status::Ok);
        }
        // It is back: what has not changed is its own, what has is on nobody.
        assert_eq!(world.install(away, 4, ReplicaRole::Joiner, true).await, Status::Ok);
        assert_eq!(world.fill(away, &[member, made], last(4)).await, Status::Ok);
        let outcome = world.outcome().await;
        assert_eq!((outcome.status, outcome.lost_blocks), (0, 1));
        for index in [member, made, away] {
            assert_eq!(world.install(index, 5, ReplicaRole::Member, false).await, Status::Ok);
        }
        // All are made to look at everything. As long as one cannot be asked nobody knows that a block is lost.
        let all = 0..SIZE / BLOCK;
        control::power_cut(&world.hosts[away..], PeerView::Reset);
        let unsaid = world.repair_from(made, &[member, away], 5, all.clone()).await;
        assert!(!matches!(unsaid, Status::Ok | Status::Corrupt), "{unsaid}");
        control::power_on(world.hosts[away]);
        world.run(away, None).await;
        // For a moment it is taken for unreachable.
        control::advance(SECOND * 3).await;
        assert_eq!(world.repair_from(made, &[member, away], 5, all.clone()).await, Status::Corrupt);
        assert_eq!(world.repair_from(member, &[made, away], 5, all).await, Status::Corrupt);
        for index in [member, made, away] {
            let (status, found) = world.read(index, Op::Read, 5, 0, MIB).await;
            assert!((status, &found) == (Status::Ok, &content), "server {index}: {status}");
            let changed = world.read(index, Op::Read, 5, CHANGED * BLOCK, BLOCK).await.0;
            assert_eq!(changed, Status::Corrupt, "never an older one");
        }
    });
    assert!(coverage.contains_key("engine.block-lost"), "{coverage:?}");
}

/// Members that nobody has reconciled may differ. A joiner is in doubt about what one of them lists, but whoever has it is believed
/// first: it may have copied from another one (C4, seed 142 of whole clusters).
#[test]
fn c4_a_joiner_claims_no_write_that_its_source_may_not_have() {
    for unreconciled in [false, true] {
        simulate(async move {
            let (world, _) = with_joiner(None).await;
            let item = CatchUpItem { version: 2, unreconciled, ..CatchUpItem::default() };
            assert_eq!(world.catch_up_by(item).await, Status::Ok);
            assert_eq!(world.outcome().await.status, 0);
            assert_eq!(world.install(1, 3, ReplicaRole::Member, false).await, Status::Ok);
            // What was copied is in the table only.
            world.checkpoint.notify_all();
            control::advance(SECOND).await;
            let target = Target { file: FILE, epoch: 1, chunk: CHUNK, version: 3 };
            let mut body = Vec::new();
            SurveyBlocks { target, first_block: 0, count: 1 }.encode(&mut body);
            let (status, body, _) = world.call_whole(1, Op::SurveyBlocks, body, None).await;
            assert_eq!(status, Status::Ok);
            let found = SurveyBlocksReply::decode(&body).expect("a survey").blocks[0];
            assert_eq!((found.epoch, found.seq), (1, u64::from(!unreconciled)));
        });
    }
}

/// The joiner cannot reach the member that it would ask first: writes do not wait for that time and again.
#[test]
fn c6_a_member_that_the_joiner_cannot_reach_holds_up_no_write() {
    simulate(async {
        let (world, mut content) = with_joiner(None).await;
        let gone = control::add_host(HostOptions::new("gone"));
        let unreachable = SocketAddr::new(control::host_ip(gone), PORT);
        control::power_cut(&[gone], PeerView::Silence);
        let item = CatchUpItem {
            file_id: FILE,
            chunk_id: CHUNK,
            version: 2,
            sources: vec![IDS[1] + 1, IDS[0]],
            ..CatchUpItem::default()
        };
        let server = |cs_id, address: SocketAddr| CsAddress {
            cs_id,
            addresses: vec![address.to_string()],
            ..CsAddress::default()
        };
        let servers = vec![server(IDS[1] + 1, unreachable), server(IDS[0], world.address(0))];
        assert_eq!(world.order(1, &CatchUp { items: vec![item], servers }).await, Status::Ok);
        // By now it knows from the other one what it lacks.
        control::advance(SECOND * 6).await;
        let bytes = pattern(99, 4096);
        for (seq, at) in (4..).zip([0, MIB, 2 * MIB, 3 * MIB]) {
            let begun = rt::time::now();
            world.write(&[0, 1], 2, seq, at, &bytes).await;
            content[at as usize..][..4096].copy_from_slice(&bytes);
            assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        }
        // It cannot be sure of a member that it does not hear of.
        let outcome = world.outcome().await;
        assert_eq!(Status::from_code(outcome.status as u16), Status::Timeout);
        assert!(outcome.copied_bytes >= u64::from(SIZE), "{}", outcome.copied_bytes);
        assert_eq!(world.catch_up(2).await, Status::Ok);
        assert_eq!(world.outcome().await.status, 0);
        assert_eq!(world.install(1, 3, ReplicaRole::Member, false).await, Status::Ok);
        check(&world, 3, &content).await;
    });
}
