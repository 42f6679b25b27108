//! Catching up: joiners here are filled from members elsewhere (C6, C7).
//!
//! One task per joiner, a few of them at work at a time. It asks a member what changed, copies what is missing in large
//! reads, strikes it from the map in batches, and in the end has the members flush what they sent: if one of them runs in
//! another boot then, what came from there is copied again. The outcome waits here until the metadata server has it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::time::Duration;

use link::{AskError, Call, Connection, Endpoint, Expect};
use rt::net::Address;
use rt::sync::{Notify, Semaphore};
use rt::time::Instant;
use wire::copy::{ChangedRegions, ChangedRegionsReply, CopyFlush, ListedWrite, RECORDED};
use wire::cs::{BlockRange, CatchUp, CatchUpItem, CaughtUpItem, ItemResult, RepairBlocks};
use wire::data::{Read, ReadReply, Target};
use wire::lease::CsAddress;
use wire::{Action, Op, Status};

use super::Failure;
use super::courtesy::{Courtesy, Side};
use super::pace::Pace;
use crate::engine::{
    self, Engine, Fault, Known, Listed, NotRead, REGION_BLOCKS, Reading, ReadingSettled, Refusal, Regions,
    Source,
};
use crate::format::BLOCK;

/// Joiners that are filled at a time.
const CHUNKS_AT_ONCE: u64 = 4;
/// Reads under way for each of them.
const READS_AT_ONCE: u64 = 8;
/// Most regions of one read: 1 MiB.
const READ_REGIONS: usize = 16;
/// The same while clients are there: 256 KiB.
const POLITE_REGIONS: u32 = 4;
/// Reads after which what was copied is flushed and struck from the map: 16 MiB.
const READS_PER_BATCH: usize = 16;
/// How long one request to a member may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a server that could not be reached is taken for unreachable, instead of being dialled by everybody who wants it.
const UNREACHABLE: Duration = Duration::from_secs(2);
/// Pause before members are asked once more when none of them answered.
const PAUSE: Duration = Duration::from_secs(1);
/// How often they are asked.
const ASKED_MAX: u32 = 4;
/// How often a joiner begins anew because members had lost what they sent.
const ROUNDS_MAX: u32 = 3;
/// Outcomes told at once.
const OUTCOMES_MAX: usize = 1000;

/// Fills joiners.
#[derive(Debug)]
pub(crate) struct Copier {
    this: Weak<Self>,
    engine: Rc<Engine>,
    endpoint: RefCell<Option<Endpoint>>,
    peers: RefCell<BTreeMap<u64, Rc<Peer>>>,
    /// Chunks and versions.
    running: RefCell<BTreeSet<(u64, u64)>>,
    places: Semaphore,
    /// What the metadata server has not heard yet, by chunk.
    outcomes: RefCell<BTreeMap<u64, CaughtUpItem>>,
    finished: Notify,
    pub(crate) pace: Pace,
    /// Of what only lies better elsewhere.
    pub(crate) spare_pace: Pace,
    courtesy: Rc<Courtesy>,
    /// Joiners that their chunks need and that are being filled, or wait for a place.
    needed: Cell<usize>,
    /// One of them is done.
    needed_done: Notify,
    /// Who only lies better elsewhere: one at a time.
    spare_places: Semaphore,
    /// Bytes that joiners elsewhere have fetched here.
    given: Cell<u64>,
    /// Bytes that joiners here have fetched.
    taken: Cell<u64>,
}

/// A chunk server that has members.
#[derive(Debug)]
struct Peer {
    id: u64,
    addresses: RefCell<Vec<Address>>,
    connection: RefCell<Option<Connection>>,
    connecting: Semaphore,
    /// It was dialled in vain.
    unreachable_until: Cell<Option<Instant>>,
}

/// Why a joiner is not filled.
enum Stop {
    /// It is no joiner under this version any more: nobody waits for it.
    Ended,
    /// The metadata server is to know.
    Failed(Status),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::StaleVersion { .. } | Refusal::UnknownChunk(_) | Refusal::Stopping => Self::Ended,
            refusal => Self::Failed(Failure::from(refusal).status),
        }
    }
}

impl Copier {
    pub(crate) fn new(engine: Rc<Engine>, courtesy: Rc<Courtesy>) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            engine,
            endpoint: RefCell::default(),
            peers: RefCell::default(),
            running: RefCell::default(),
            places: Semaphore::new(CHUNKS_AT_ONCE),
            outcomes: RefCell::default(),
            finished: Notify::new(),
            pace: Pace::unlimited(),
            spare_pace: Pace::unlimited(),
            courtesy,
            needed: Cell::new(0),
            needed_done: Notify::new(),
            spare_places: Semaphore::new(1),
            given: Cell::new(0),
            taken: Cell::new(0),
        })
    }

    /// Says how members are reached.
    pub(crate) fn connect_with(&self, endpoint: Endpoint) {
        self.endpoint.replace(Some(endpoint));
    }

    /// A joiner elsewhere has fetched so many bytes here.
    pub(crate) fn note_given(&self, bytes: usize) {
        self.given.set(self.given.get().saturating_add(bytes as u64));
    }

    /// Bytes that were fetched since the start: by joiners elsewhere, and by those here.
    pub(crate) fn copied(&self) -> (u64, u64) {
        (self.given.get(), self.taken.get())
    }

    /// Begins to fill joiners; what is under way goes on.
    pub(crate) fn start(&self, order: CatchUp) -> Vec<ItemResult> {
        self.note_servers(&order.servers);
        order.items.into_iter().map(|item| self.start_one(item)).collect()
    }

    /// Repairs damaged blocks of members here.
    pub(crate) async fn repair(&self, order: RepairBlocks) -> Vec<ItemResult> {
        self.note_servers(&order.servers);
        let mut results = Vec::with_capacity(order.items.len());
        for item in order.items {
            let id = item.chunk_id;
            let members = self.members(CatchUpItem {
                file_id: item.file_id,
                chunk_id: item.chunk_id,
                version: item.version,
                sources: item.sources,
                ..CatchUpItem::default()
            });
            let status = match self.repair_ranges(&members, &item.ranges).await {
                Ok(0) => Status::Ok,
                // Who has not said that it does not have them may have them.
                Ok(_) => members.unsaid.get().unwrap_or(Status::Corrupt),
                Err(refusal) => Failure::from(refusal).status,
            };
            results.push(ItemResult { id, status: u32::from(status.code()) });
        }
        results
    }

    /// Gives how many blocks are still damaged.
    async fn repair_ranges(&self, members: &Rc<Members>, ranges: &[BlockRange]) -> Result<u32, Refusal> {
        let CatchUpItem { file_id, chunk_id, version, .. } = members.item;
        let mut left = 0;
        for BlockRange { first, count } in ranges {
            let end =
                first.checked_add(*count).ok_or(Refusal::Invalid("the range is not inside the chunk"))?;
            left += self.engine.repair_blocks(file_id, chunk_id, version, *first..end, &**members).await?;
        }
        Ok(left)
    }

    fn members(&self, item: CatchUpItem) -> Rc<Members> {
        Rc::new(Members {
            copier: Weak::clone(&self.this),
            item,
            boots: RefCell::default(),
            read: RefCell::default(),
            last: Cell::new(Status::Timeout),
            unsaid: Cell::default(),
            faults: RefCell::default(),
            gave: Cell::default(),
            waited: Cell::default(),
        })
    }

    /// A connection to a chunk server whose addresses are known.
    pub(super) async fn connected(&self, id: u64, deadline: Instant) -> Result<Connection, Status> {
        let endpoint = self.endpoint.borrow().clone().ok_or(Status::Stopping)?;
        self.peer(id).connected(&endpoint, deadline).await
    }

    /// Takes up where chunk servers are.
    pub(super) fn note_servers(&self, servers: &[CsAddress]) {
        for server in servers {
            let usable = |text: &String| match text.parse() {
                Ok(address) => Some(Address::Tcp(address)),
                Err(_) => {
                    tracing::warn!("chunk server {} has an unusable address: {text:?}", server.cs_id);
                    None
                }
            };
            let addresses: Vec<Address> = server.addresses.iter().filter_map(usable).collect();
            let peer = self.peer(server.cs_id);
            if peer.addresses.replace(addresses.clone()) != addresses {
                peer.unreachable_until.set(None);
            }
        }
    }

    fn start_one(&self, item: CatchUpItem) -> ItemResult {
        let id = item.chunk_id;
        let status = match self.engine.progress(id, item.version) {
            Ok(_) => Status::Ok,
            Err(refusal) => Failure::from(refusal).status,
        };
        if status == Status::Ok
            && let Some(this) = self.this.upgrade()
            && self.running.borrow_mut().insert((id, item.version))
        {
            rt::spawn(this.run(item));
        }
        ItemResult { id, status: u32::from(status.code()) }
    }

    fn peer(&self, id: u64) -> Rc<Peer> {
        let new = || {
            let (addresses, connection) = (RefCell::default(), RefCell::default());
            let (connecting, unreachable_until) = (Semaphore::new(1), Cell::default());
            Rc::new(Peer { id, addresses, connection, connecting, unreachable_until })
        };
        Rc::clone(self.peers.borrow_mut().entry(id).or_insert_with(new))
    }

    /// Completes when there may be an outcome to tell.
    pub(crate) async fn finished(&self) {
        let finished = self.finished.notified();
        if self.outcomes.borrow().is_empty() {
            finished.await;
        }
    }

    /// What the metadata server is to be told.
    pub(crate) fn outcomes(&self) -> Vec<CaughtUpItem> {
        self.outcomes.borrow().values().take(OUTCOMES_MAX).copied().collect()
    }

    /// It has been told.
    pub(crate) fn told(&self, items: &[CaughtUpItem]) {
        let mut outcomes = self.outcomes.borrow_mut();
        for item in items {
            if outcomes.get(&item.chunk_id) == Some(item) {
                outcomes.remove(&item.chunk_id);
            }
        }
    }

    async fn run(self: Rc<Self>, item: CatchUpItem) {
        let (id, version) = (item.chunk_id, item.version);
        let members = self.members(item);
        let filled = match self.engine.set_source(id, version, Rc::clone(&members) as Rc<dyn Source>) {
            Ok(()) if members.item.spare => {
                let _place = self.spare_places.acquire(1).await;
                self.nothing_needed().await;
                self.fill(&members).await
            }
            Ok(()) => {
                let _needed = Needed::enter(&self);
                let _place = self.places.acquire(1).await;
                self.fill(&members).await
            }
            Err(refusal) => Err(refusal.into()),
        };
        let filled = match filled {
            Ok(()) => self.engine.lost_blocks(id, version).await.map_err(Stop::from),
            Err(stop) => Err(stop),
        };
        self.running.borrow_mut().remove(&(id, version));
        let lost_blocks = *filled.as_ref().unwrap_or(&0);
        let (status, copied_bytes) = match (filled, self.engine.progress(id, version)) {
            (Ok(_), Ok(progress)) => (Status::Ok, progress.bytes),
            (Err(Stop::Failed(status)), Ok(progress)) => (status, progress.bytes),
            (Err(Stop::Ended), _) | (_, Err(_)) => {
                tracing::info!("chunk {id:#x}: not filled any more under version {version}");
                return;
            }
        };
        if status == Status::Ok {
            tracing::info!(
                "chunk {id:#x}: filled, {copied_bytes} bytes were copied, {lost_blocks} blocks are lost"
            );
        } else {
            tracing::warn!("chunk {id:#x}: not filled: {status}; {copied_bytes} bytes were copied");
        }
        let status = u32::from(status.code());
        let outcome = CaughtUpItem { chunk_id: id, version, status, copied_bytes, lost_blocks };
        self.outcomes.borrow_mut().insert(id, outcome);
        self.finished.notify_all();
    }

    /// Waits until no joiner is being filled that its chunk needs.
    async fn nothing_needed(&self) {
        loop {
            let done = self.needed_done.notified();
            if self.needed.get() == 0 {
                return;
            }
            done.await;
        }
    }

    async fn fill(&self, members: &Rc<Members>) -> Result<(), Stop> {
        let (id, version) = (members.item.chunk_id, members.item.version);
        self.engine.examine_suspects(id, version).await?;
        for _ in 0..ROUNDS_MAX {
            let progress = self.engine.progress(id, version)?;
            let known = members.ask(progress.held, progress.blocks).await?;
            self.engine.take_difference(id, version, &known).await?;
            self.copy_all(members).await?;
            if let Some(mut listed) = members.still_have_all(version, progress.blocks).await? {
                if members.item.unreconciled {
                    // What was copied may come from a member without these writes: it is in doubt as theirs is, but whoever has
                    // them is believed first.
                    listed.iter_mut().for_each(|write| write.seq = 0);
                }
                self.engine.inherit_list(id, version, &listed).await?;
                return Ok(());
            }
            rt::sim::hit("cs.source-rebooted");
            tracing::warn!(
                "chunk {id:#x}: a member it was filled from has another boot id now: copied again"
            );
            let read = members.read.take();
            members.boots.take();
            self.engine.copy_again(id, version, &read).await?;
        }
        Err(Stop::Failed(Status::Retry))
    }

    /// Copies until nothing is missing.
    async fn copy_all(&self, members: &Rc<Members>) -> Result<(), Stop> {
        let (id, version) = (members.item.chunk_id, members.item.version);
        loop {
            let lacking: Vec<u32> = self.engine.progress(id, version)?.lacking.iter().collect();
            let runs = lacking.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(READ_REGIONS));
            let runs: Vec<Range<u32>> = runs.map(|run| run[0]..run[run.len() - 1] + 1).collect();
            let mut damaged = Ok(());
            for batch in runs.chunks(READS_PER_BATCH) {
                let copied = self.copy_batch(members, batch).await;
                // What was copied counts also when something else was not.
                self.engine.commit_copied(id, version).await?;
                match copied {
                    // What lies behind it can be copied all the same.
                    Err(Stop::Failed(status)) if is_damage(status) => damaged = damaged.and(copied),
                    copied => copied?,
                }
            }
            damaged?;
            if runs.is_empty() {
                // What writes have fetched by themselves.
                return Ok(self.engine.commit_copied(id, version).await?);
            }
        }
    }

    async fn copy_batch(&self, members: &Rc<Members>, batch: &[Range<u32>]) -> Result<(), Stop> {
        let (id, version) = (members.item.chunk_id, members.item.version);
        let at_once = Semaphore::new(READS_AT_ONCE);
        let mut copies = Vec::new();
        for run in batch {
            let mut rest = run.clone();
            while !rest.is_empty() {
                let permit = at_once.acquire(1).await;
                if members.item.spare {
                    self.nothing_needed().await;
                }
                let most = if self.courtesy.is_busy() { POLITE_REGIONS } else { rest.len() as u32 };
                let regions = rest.start..rest.end.min(rest.start + most);
                rest.start = regions.end;
                // Before the range is locked: a client's write waits for nobody's turn.
                let pace = if members.item.spare { &self.spare_pace } else { &self.pace };
                pace.take(regions.len() as u64 * u64::from(REGION_BLOCKS) * BLOCK as u64).await;
                let mut turn = self.courtesy.turn(Side::Filling).await;
                let (engine, members) = (Rc::clone(&self.engine), Rc::clone(members));
                // A task of its own: what has begun runs to its end.
                copies.push(rt::spawn(async move {
                    let before = members.waited.get();
                    let copied = engine.copy_regions(id, version, regions, &*members).await;
                    turn.waited(members.waited.get() - before);
                    drop((permit, turn));
                    copied
                }));
            }
        }
        let mut result = Ok(());
        for copy in copies {
            let copied = copy.await.unwrap_or(Err(Refusal::Stopping));
            result = result.and(copied.map(drop).map_err(|refusal| match refusal {
                Refusal::NoSource(_) => Stop::Failed(members.last.get()),
                refusal => refusal.into(),
            }));
        }
        result
    }
}

/// A joiner that its chunk needs.
struct Needed(Rc<Copier>);

impl Needed {
    fn enter(copier: &Rc<Copier>) -> Self {
        copier.needed.set(copier.needed.get() + 1);
        Self(Rc::clone(copier))
    }
}

impl Drop for Needed {
    fn drop(&mut self) {
        self.0.needed.set(self.0.needed.get() - 1);
        self.0.needed_done.notify_all();
    }
}

impl Peer {
    async fn connected(&self, endpoint: &Endpoint, deadline: Instant) -> Result<Connection, Status> {
        let turn = rt::time::timeout_at(deadline, self.connecting.acquire(1)).await;
        let _one_at_a_time = turn.map_err(|_| Status::Timeout)?;
        let live = self.connection.borrow().clone().filter(Connection::is_open);
        if let Some(live) = live {
            return Ok(live);
        }
        // Whoever waited for an attempt in vain makes none of his own.
        if self.unreachable_until.get().is_some_and(|until| rt::time::now() < until) {
            return Err(Status::Timeout);
        }
        let addresses = self.addresses.borrow().clone();
        for (left, address) in (1..=addresses.len() as u32).rev().zip(addresses) {
            let connecting = endpoint.connect(&address, Expect::chunk_server(self.id));
            // Each address has its share of the time.
            let patience = deadline.since(rt::time::now()) / left;
            match rt::time::timeout(patience, connecting).await {
                Ok(Ok(connection)) => {
                    self.connection.replace(Some(connection.clone()));
                    return Ok(connection);
                }
                Ok(Err(error)) => tracing::warn!("chunk server {} at {address}: {error}", self.id),
                Err(_) => tracing::warn!("chunk server {} at {address}: no answer", self.id),
            }
        }
        self.unreachable_until.set(Some(rt::time::now() + UNREACHABLE));
        Err(Status::Timeout)
    }
}

/// The members of one joiner's chunk.
#[derive(Debug)]
struct Members {
    copier: Weak<Copier>,
    item: CatchUpItem,
    /// Boot ids of those that were read from, at the first time.
    boots: RefCell<BTreeMap<u64, Vec<u8>>>,
    /// Regions that were read.
    read: RefCell<Regions>,
    /// Why the last one gave nothing.
    last: Cell<Status>,
    /// What somebody answered instead of saying whether it has what was asked for.
    unsaid: Cell<Option<Status>>,
    /// Ranges that could not be read because of damage, by offset and length.
    faults: RefCell<BTreeMap<(u32, u32), Fault>>,
    /// Who gave something last is asked first.
    gave: Cell<u64>,
    /// For how long members were waited for that read, or had no turn yet.
    waited: Cell<Duration>,
}

impl Members {
    async fn connected(&self, id: u64, deadline: Instant) -> Result<Connection, Status> {
        let copier = self.copier.upgrade().ok_or(Status::Stopping)?;
        let connection = copier.connected(id, deadline).await?;
        self.boots.borrow_mut().entry(id).or_insert_with(|| connection.peer().boot_id.to_vec());
        Ok(connection)
    }

    /// What the first member that answers knows.
    async fn ask(&self, held: u64, blocks: u32) -> Result<Known, Stop> {
        let CatchUpItem { file_id, chunk_id, version, .. } = self.item;
        let request = ChangedRegions { file_id, chunk_id, version, held };
        for round in 1..=ASKED_MAX {
            for &id in &self.item.sources {
                let answer = async {
                    let deadline = rt::time::now() + PATIENCE;
                    let connection = self.connected(id, deadline).await?;
                    let reply = connection.ask(&request, deadline).await.map_err(status_of)?;
                    known(reply, blocks).ok_or(Status::Invalid)
                };
                match answer.await {
                    Ok(known) => return Ok(known),
                    Err(status) => self.failed(id, status),
                }
            }
            if !self.wait_for(round).await {
                break;
            }
        }
        Err(Stop::Failed(self.last.get()))
    }

    /// What a member lists as not stable.
    async fn listed(&self, id: u64) -> Result<Vec<Listed>, Status> {
        let CatchUpItem { file_id, chunk_id, version, .. } = self.item;
        let deadline = rt::time::now() + PATIENCE;
        let connection = self.connected(id, deadline).await?;
        let request = ChangedRegions { file_id, chunk_id, version, held: 0 };
        let reply = connection.ask(&request, deadline).await.map_err(status_of)?;
        Ok(reply.listed.into_iter().map(listed).collect())
    }

    /// Waits before members are asked another time; not if they would answer the same.
    async fn wait_for(&self, round: u32) -> bool {
        let passing =
            matches!(self.last.get().action(), Action::RetrySame | Action::RetryAfter | Action::Reconnect);
        if passing && round < ASKED_MAX {
            rt::time::sleep(PAUSE).await;
        }
        passing && round < ASKED_MAX
    }

    fn failed(&self, id: u64, status: Status) {
        tracing::debug!("chunk {:#x}: chunk server {id}: {status}", self.item.chunk_id);
        self.last.set(status);
        if !is_damage(status) {
            self.unsaid.set(Some(status));
        }
    }

    /// Has all members flush, and gives what they list as not stable now that everything is copied: what only one of them
    /// has may have come from there. Nothing if one runs in another boot than when it was first read from.
    ///
    /// All of them, because nobody remembers through a restart which were read from.
    async fn still_have_all(&self, held: u64, blocks: u32) -> Result<Option<Vec<Listed>>, Stop> {
        let CatchUpItem { file_id, chunk_id, version, .. } = self.item;
        let mut listed = Vec::new();
        for &id in &self.item.sources {
            let told = async || {
                let deadline = rt::time::now() + PATIENCE;
                let connection = self.connected(id, deadline).await?;
                let flush = CopyFlush { chunk_id, version };
                let flushed = connection.ask(&flush, deadline).await.map_err(status_of)?;
                let request = ChangedRegions { file_id, chunk_id, version, held };
                let reply = connection.ask(&request, deadline).await.map_err(status_of)?;
                let same_boot = self.boots.borrow().get(&id) == Some(&flushed.boot_id);
                Ok((same_boot, known(reply, blocks).ok_or(Status::Invalid)?))
            };
            let mut round = 1;
            let known = loop {
                match told().await {
                    Ok((true, known)) => break known,
                    Ok((false, _)) => return Ok(None),
                    Err(status) => self.failed(id, status),
                }
                // The flush of a busy disk may take long.
                if !self.wait_for(round).await {
                    return Err(Stop::Failed(self.last.get()));
                }
                round += 1;
            };
            listed.extend(known.listed);
        }
        Ok(Some(listed))
    }

    /// A member's content; of a block that nobody can tell, with `unsettled`, as it lies there.
    async fn read_from(
        &self,
        id: u64,
        (offset, len): (u32, u32),
        unsettled: bool,
    ) -> Result<engine::ReadReply, (Status, u64)> {
        let deadline = rt::time::now() + PATIENCE;
        let connection = self.connected(id, deadline).await.map_err(plainly)?;
        let CatchUpItem { file_id: file, chunk_id: chunk, version, .. } = self.item;
        let target = Target { file, epoch: 0, chunk, version };
        let mut body = Vec::new();
        Read { target, offset, len, unsettled }.encode(&mut body);
        let call = Call::new(Op::CopyRead, body, deadline).expecting(len as usize);
        let begun = rt::time::now();
        let reply = connection.call(call).await;
        self.waited.set(self.waited.get() + begun.elapsed());
        let reply = reply.map_err(|_| plainly(Status::Timeout))?;
        if reply.status != Status::Ok {
            return Err((reply.status, reply.error().detail));
        }
        let (head, crcs) = ReadReply::decode(&reply.body, reply.payload.len() as u32)
            .map_err(|error| plainly(error.status()))?;
        if (head.offset, head.len) != (offset, len) {
            return Err(plainly(Status::Invalid));
        }
        if head.zeroes {
            return Ok(engine::ReadReply { payload: None, crcs: Vec::new() });
        }
        if wire::crc::verify_blocks(offset.into(), &reply.payload, crcs.iter()).is_err() {
            return Err(plainly(Status::ChecksumMismatch));
        }
        if let Some(copier) = self.copier.upgrade() {
            copier.taken.set(copier.taken.get().saturating_add(reply.payload.len() as u64));
        }
        Ok(engine::ReadReply { payload: Some(reply.payload), crcs: crcs.iter().collect() })
    }
}

impl Members {
    /// A block that no member can tell: what is on record for it. If no other member is waited for, it is taken as it lies on one where a
    /// crash may have left it so.
    async fn read_unsettled(
        &self,
        damage: &[(u64, Status)],
        offset: u32,
    ) -> Result<engine::ReadReply, Fault> {
        let mut recorded = Vec::new();
        // Where it may have been left by a crash first.
        let (unsettled, corrupt): (Vec<_>, Vec<_>) =
            damage.iter().partition(|(_, status)| *status == Status::Unsettled);
        // Where members agree a crash has left nothing that could be taken as it is.
        let for_good = self.item.last_sources;
        let may_take = for_good && self.item.unreconciled;
        if !unsettled.is_empty() && !may_take {
            return Err(Fault::Partly);
        }
        for &(id, _) in unsettled.into_iter().chain(corrupt) {
            match self.read_from(id, (offset, BLOCK as u32), true).await {
                // It has been settled meanwhile, or is in doubt.
                Ok(_) if !for_good => return Err(Fault::Partly),
                Ok(reply) => {
                    let block = offset / BLOCK as u32;
                    let chunk = self.item.chunk_id;
                    tracing::warn!(
                        "chunk {chunk:#x}, block {block}: no replica matches a record; one copy is taken"
                    );
                    rt::sim::hit("cs.unsettled-taken");
                    return Ok(reply);
                }
                Err((Status::Corrupt, detail)) => {
                    self.failed(id, Status::Corrupt);
                    recorded.push((detail & RECORDED != 0).then_some(detail as u32));
                }
                Err((status, _)) => {
                    self.failed(id, status);
                    return Err(Fault::Partly);
                }
            }
        }
        if !self.item.unreconciled && recorded.iter().any(Option::is_some) {
            // Members of a reconciled chunk have one content: the record of one says what it was. Who has noted it as lost has none.
            recorded.retain(Option::is_some);
        }
        Err(Fault::Lost { recorded, for_good, settled: !self.item.unreconciled })
    }
}

impl Source for Members {
    fn read(&self, offset: u32, len: u32) -> Reading<'_> {
        Box::pin(async move {
            let first = offset / BLOCK as u32;
            self.read.borrow_mut().add_blocks(&(first..first + len / BLOCK as u32));
            for round in 1..=ASKED_MAX {
                let mut damage = Vec::new();
                let mut sources = self.item.sources.clone();
                sources.sort_by_key(|id| *id != self.gave.get());
                for id in sources {
                    match self.read_from(id, (offset, len), false).await {
                        Ok(reply) => {
                            self.gave.set(id);
                            return Ok(reply);
                        }
                        Err((status, _)) => {
                            damage.extend(Some((id, status)).filter(|_| is_damage(status)));
                            self.failed(id, status);
                        }
                    }
                }
                if let Some((_, status)) = damage.first() {
                    // They would say so again.
                    let nobody_can_tell = damage.len() == self.item.sources.len() && len == BLOCK as u32;
                    let fault = if nobody_can_tell {
                        match self.read_unsettled(&damage, offset).await {
                            Ok(reply) => return Ok(reply),
                            Err(fault) => fault,
                        }
                    } else {
                        Fault::Partly
                    };
                    self.faults.borrow_mut().insert((offset, len), fault);
                    self.last.set(*status);
                    break;
                }
                if !self.wait_for(round).await {
                    break;
                }
            }
            Err(NotRead)
        })
    }

    fn read_settled(&self, offset: u32, len: u32) -> ReadingSettled<'_> {
        Box::pin(async move {
            let reply = self.read(offset, len).await?;
            // Of the very one that gave it.
            let id = self.gave.get();
            match self.listed(id).await {
                Ok(listed) => Ok((reply, listed)),
                Err(status) => {
                    self.failed(id, status);
                    Err(NotRead)
                }
            }
        })
    }

    fn passed_over(&self) {
        self.unsaid.set(Some(Status::Unsettled));
    }

    fn fault(&self, offset: u32, len: u32) -> Fault {
        self.faults.borrow_mut().remove(&(offset, len)).unwrap_or_default()
    }
}

/// A status that comes with no detail.
fn plainly(status: Status) -> (Status, u64) {
    (status, 0)
}

/// Whether a member says with this that some of what it was asked for is no good, and the rest may be.
fn is_damage(status: Status) -> bool {
    matches!(status, Status::Corrupt | Status::Unsettled)
}

pub(super) fn status_of(error: AskError) -> Status {
    match error {
        AskError::Status { status, .. } => status,
        _ => Status::Timeout,
    }
}

/// What a member says it knows; `None` when that makes no sense.
fn known(reply: ChangedRegionsReply, blocks: u32) -> Option<Known> {
    let changed =
        if reply.since == 0 { Regions::default() } else { Regions::from_bytes(&reply.changed, blocks)? };
    let listed = reply.listed.into_iter().map(listed).collect();
    Some(Known { complete: reply.complete, since: reply.since, changed, listed, blocks })
}

fn listed(write: ListedWrite) -> Listed {
    Listed { epoch: write.epoch, seq: write.seq, first: write.first_block, count: write.blocks }
}

const _: () = assert!(READ_REGIONS * REGION_BLOCKS as usize * BLOCK <= wire::limits::MAX_PAYLOAD as usize);
