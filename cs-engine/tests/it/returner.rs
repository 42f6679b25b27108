//! A replica that leaves in the middle of writes and returns by difference (C6): in the end it has nothing that the others
//! do not have, and everything that they have; and it copied no more than what it had to.
//!
//! The others are one slow and obvious twin: the content, the list of writes that are not stable, the map of what changed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{
    self, CreateOptions, Engine, EngineOptions, Install, Known, NotRead, OpenError, ReadReply, Reading,
    Refusal, Regions, Source, WriteKind, WriteRequest,
};
use cs_engine::format::{BLOCK, crc32c};
use rt::buf::View;
use rt::random::Rng;
use rt::sim::control::{self, PeerView};
use rt::sim::{DiskOptions, HostId, HostOptions, SimOptions, Simulation};

use crate::rig::{CHUNK, FILE, crcs, new_chunk, no_interval, open, pattern, superblock};
use crate::simulated::seeds_asked_for;

const SIZE: u64 = 4 << 20;
const BLOCKS: u32 = (SIZE / BLOCK as u64) as u32;
const LIVES: u32 = 6;
const WORKERS: u64 = 5;
const DIR: &str = "/cs";

/// A write that is not answered, or not stable.
#[derive(Clone)]
struct Sent {
    offset: u32,
    /// None: zeroes.
    bytes: Option<Rc<[u8]>>,
    len: u32,
    /// The others have it.
    applied: bool,
}

impl Sent {
    fn blocks(&self) -> Range<u32> {
        self.offset / BLOCK as u32..(self.offset + self.len).div_ceil(BLOCK as u32)
    }
}

/// A client, and the others.
struct Twin {
    rng: RefCell<Rng>,
    content: RefCell<Vec<Rc<[u8]>>>,
    busy: RefCell<BTreeSet<u32>>,
    /// Not answered.
    open: RefCell<BTreeMap<u64, Sent>>,
    /// What the others list as not stable.
    unstable: RefCell<BTreeMap<u64, Range<u32>>>,
    /// Regions of writes since the last return that are not stable: what the replica may have alone.
    reached: RefCell<Regions>,
    epoch: Cell<u64>,
    next: Cell<u64>,
    stable: Cell<u64>,
    /// Version of the others.
    version: Cell<u64>,
    /// The lowest version the replica may have: it was in every set since.
    from: Cell<u64>,
    /// The replica is away: the map, and above which version it names changes.
    away: RefCell<Option<(u64, Regions)>>,
    /// Its power has failed since it was whole, or it has died while it came back: it need not know exactly what it lacks.
    unsure: Cell<bool>,
    /// Writes may reach it alone from now on.
    parting: Cell<bool>,
    working: Cell<bool>,
    copied: Cell<u32>,
    returns: Cell<u32>,
    wrong: RefCell<Option<String>>,
}

impl Twin {
    fn new(seed: u64) -> Rc<Self> {
        let zero: Rc<[u8]> = vec![0; BLOCK].into();
        Rc::new(Self {
            rng: RefCell::new(Rng::from_seed(seed)),
            content: RefCell::new(vec![zero; BLOCKS as usize]),
            busy: RefCell::default(),
            open: RefCell::default(),
            unstable: RefCell::default(),
            reached: RefCell::default(),
            epoch: Cell::new(1),
            next: Cell::new(1),
            stable: Cell::new(1),
            version: Cell::new(1),
            from: Cell::new(1),
            away: RefCell::default(),
            unsure: Cell::new(false),
            parting: Cell::new(false),
            working: Cell::new(false),
            copied: Cell::new(0),
            returns: Cell::new(0),
            wrong: RefCell::default(),
        })
    }

    fn below(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }

    fn fail(&self, text: String) {
        self.wrong.borrow_mut().get_or_insert(text);
    }

    fn done(&self) -> u64 {
        self.open.borrow().keys().next().copied().unwrap_or(self.next.get())
    }

    /// The others carry out a write.
    fn apply(&self, seq: u64, sent: &Sent) {
        let mut content = self.content.borrow_mut();
        let (mut at, end) = (sent.offset as usize, (sent.offset + sent.len) as usize);
        while at < end {
            let (block, from) = (at / BLOCK, at % BLOCK);
            let len = (BLOCK - from).min(end - at);
            let mut bytes = content[block].to_vec();
            let start = at - sent.offset as usize;
            match &sent.bytes {
                Some(new) => bytes[from..from + len].copy_from_slice(&new[start..start + len]),
                None => bytes[from..from + len].fill(0),
            }
            content[block] = bytes.into();
            at += len;
        }
        self.unstable.borrow_mut().insert(seq, sent.blocks());
        if let Some((_, changed)) = &mut *self.away.borrow_mut() {
            changed.add_blocks(&sent.blocks());
        }
    }

    /// A random write to blocks that nobody is busy with.
    fn pick(&self) -> Option<(u64, Sent)> {
        let block = BLOCK as u32;
        let (offset, len) = match self.below(20) {
            0..10 => (self.below(BLOCKS.into()) as u32 * block, block),
            10..13 => {
                (self.below(u64::from(BLOCKS - 16)) as u32 * block, block * (2 + self.below(14) as u32))
            }
            13..17 => {
                (self.below(u64::from(BLOCKS - 64)) as u32 * block, block * (32 + self.below(30) as u32))
            }
            _ => (self.below(u64::from(BLOCKS - 4) * BLOCK as u64) as u32, 1 + self.below(9000) as u32),
        };
        let seq = self.next.get();
        let bytes = (self.below(12) > 0).then(|| pattern(seq << 8 | self.epoch.get(), len as usize).into());
        let sent = Sent { offset, bytes, len, applied: false };
        let mut busy = self.busy.borrow_mut();
        if busy.range(sent.blocks()).next().is_some() {
            return None;
        }
        busy.extend(sent.blocks());
        self.next.set(seq + 1);
        Some((seq, sent))
    }

    async fn write(&self, engine: &Rc<Engine>) {
        let Some((seq, mut sent)) = self.pick() else { return rt::yield_now().await };
        let alone = self.parting.get() && self.below(3) == 0;
        self.reached.borrow_mut().add_blocks(&sent.blocks());
        if !alone && self.below(2) == 0 {
            self.apply(seq, &sent);
            sent.applied = true;
        }
        self.open.borrow_mut().insert(seq, sent.clone());
        let kind = sent.bytes.as_ref().map_or(WriteKind::Zero, |bytes| WriteKind::Data {
            payload: View::copy_of(bytes),
            crcs: crcs(sent.offset, bytes),
        });
        let request = WriteRequest {
            file: FILE,
            epoch: self.epoch.get(),
            chunk: CHUNK,
            version: self.version.get(),
            seq,
            done: self.done(),
            stable: self.stable.get(),
            offset: sent.offset,
            len: sent.len,
            kind,
            settles: None,
        };
        if let Err(refusal) = engine.write(request).await {
            return self.fail(format!("write {seq}: {refusal}"));
        }
        if alone {
            // It reaches nobody else before the replica leaves.
            return;
        }
        if !sent.applied {
            self.apply(seq, &sent);
        }
        self.open.borrow_mut().remove(&seq);
        let mut busy = self.busy.borrow_mut();
        sent.blocks().for_each(|block| _ = busy.remove(&block));
    }

    async fn flush(&self, engine: &Rc<Engine>) {
        let done = self.done();
        let stable = self.stable.get();
        if let Err(refusal) = engine.flush_file(FILE, self.epoch.get(), done, stable, false).await {
            return self.fail(format!("a flush: {refusal}"));
        }
        self.stabilise(done);
    }

    /// Everything below `done` is stable on all members.
    fn stabilise(&self, done: u64) {
        self.stable.set(self.stable.get().max(done));
        self.unstable.borrow_mut().retain(|&seq, _| seq >= done);
    }

    async fn work(self: Rc<Self>, engine: Rc<Engine>) {
        while self.wrong.borrow().is_none() && self.working.get() {
            match self.below(40) {
                0..2 => self.flush(&engine).await,
                2 => {
                    if let Err(refusal) = engine.checkpoint().await {
                        self.fail(format!("a checkpoint: {refusal}"));
                    }
                }
                3..5 => rt::time::sleep(Duration::from_micros(self.below(1000))).await,
                _ => self.write(&engine).await,
            }
        }
    }

    /// The others go on without the replica. Either the client does, too, and sends again what was not answered, or it is
    /// gone, and another one comes.
    fn leave(&self) {
        let version = self.version.get();
        self.working.set(false);
        if self.away.borrow().is_none() {
            let mut changed = Regions::default();
            self.unstable.borrow().values().for_each(|blocks| changed.add_blocks(blocks));
            self.away.replace(Some((version, changed)));
        } else {
            self.unsure.set(true);
        }
        self.version.set(version + 1);
        let open = self.open.take();
        self.busy.take();
        if self.below(2) == 0 {
            for (seq, sent) in open {
                self.apply(seq, &sent);
            }
        } else {
            self.epoch.set(self.epoch.get() + 1);
            self.next.set(1);
            self.stable.set(1);
            self.unstable.take();
        }
        for _ in 0..self.below(30) {
            if let Some((seq, sent)) = self.pick() {
                self.apply(seq, &sent);
                self.busy.take();
            }
            if self.below(8) == 0 {
                self.stabilise(self.next.get());
            }
        }
        self.parting.set(false);
    }

    /// The replica joins, copies what it lacks, and is a member again.
    async fn come_back(self: &Rc<Self>, engine: &Rc<Engine>) -> Result<(), Refusal> {
        let to = self.version.get() + 1;
        self.version.set(to);
        let order = Install { from: self.from.get(), to, joiner: true, keep: false };
        engine.install(CHUNK, order).await?;
        engine.examine_suspects(CHUNK, to).await?;
        let held = engine.progress(CHUNK, to)?.held;
        let (since, changed) = self.away.borrow().clone().unwrap_or_default();
        let complete = held != 0 && since <= held;
        let known = Known { complete, since, changed: changed.clone(), listed: Vec::new(), blocks: BLOCKS };
        engine.take_difference(CHUNK, to, &known).await?;
        let lacking = engine.progress(CHUNK, to)?.lacking;
        if complete && !self.unsure.get() {
            let mut more = lacking.clone();
            more.subtract(&changed);
            more.subtract(&self.reached.borrow());
            if !more.is_empty() {
                self.fail(format!("regions {:?} are copied for nothing", more.iter().collect::<Vec<_>>()));
            }
            self.copied.set(self.copied.get() + lacking.len());
            self.returns.set(self.returns.get() + 1);
        }
        let regions: Vec<u32> = lacking.iter().collect();
        for run in regions.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(4)) {
            engine.copy_regions(CHUNK, to, run[0]..run[run.len() - 1] + 1, &**self).await?;
        }
        engine.commit_copied(CHUNK, to).await?;
        // The metadata server has committed it: from here on writes count on the replica.
        let version = to + 1;
        self.version.set(version);
        self.from.set(to);
        self.away.take();
        self.unsure.set(false);
        engine.install(CHUNK, Install { from: to, to: version, joiner: false, keep: false }).await?;
        self.reached.replace(Regions::default());
        self.compare(engine).await
    }

    async fn compare(&self, engine: &Rc<Engine>) -> Result<(), Refusal> {
        let version = self.version.get();
        for block in 0..BLOCKS {
            let offset = block * BLOCK as u32;
            let read = engine.read_for_joiner(FILE, CHUNK, version, offset, BLOCK as u32).await?;
            let found = read.payload.map_or_else(|| vec![0; BLOCK], |payload| payload.to_vec());
            if *found != *self.content.borrow()[block as usize] {
                self.fail(format!("block {block} is not what the others have"));
            }
        }
        Ok(())
    }

    /// One life of the replica's server.
    async fn live(self: Rc<Self>) {
        let options = EngineOptions { pages_max: 16, ..no_interval() };
        let engine = loop {
            match open(Path::new(DIR), options.clone()).await {
                Ok(engine) => break engine,
                Err(OpenError::InUse(_)) => rt::time::sleep(Duration::from_millis(1)).await,
                Err(error) => return self.fail(format!("opening: {error}")),
            }
        };
        loop {
            if self.away.borrow().is_some()
                && let Err(refusal) = self.come_back(&engine).await
            {
                return self.fail(format!("the return: {refusal}"));
            }
            self.working.set(true);
            let workers: Vec<_> =
                (0..WORKERS).map(|_| rt::spawn(Rc::clone(&self).work(Rc::clone(&engine)))).collect();
            for worker in workers {
                let _ended = worker.await;
            }
            if self.wrong.borrow().is_some() {
                return;
            }
            // Cut off without having died.
            self.leave();
        }
    }
}

impl Source for Twin {
    fn read(&self, offset: u32, len: u32) -> Reading<'_> {
        Box::pin(async move {
            rt::time::sleep(Duration::from_micros(self.below(300))).await;
            let blocks = offset as usize / BLOCK..(offset + len) as usize / BLOCK;
            let Some(blocks) = self.content.borrow().get(blocks).map(<[Rc<[u8]>]>::concat) else {
                return Err(NotRead);
            };
            let crcs = blocks.chunks(BLOCK).map(crc32c).collect();
            Ok(ReadReply { payload: Some(View::copy_of(&blocks)), crcs })
        })
    }
}

impl std::fmt::Debug for Twin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Twin")
    }
}

async fn wait(us: u64) {
    control::advance(Duration::from_micros(us)).await;
}

/// Lets the replica live and leave once.
async fn live_once(host: HostId, twin: &Rc<Twin>) {
    let process = control::start_process(host, "csd", Rc::clone(twin).live());
    let at_work = async || {
        let mut patience = 5000;
        while patience > 0 && !twin.working.get() && twin.wrong.borrow().is_none() {
            patience -= 1;
            wait(200).await;
        }
    };
    // Now and then it goes while it comes back.
    if twin.below(4) > 0 {
        at_work().await;
        wait(twin.below(60_000)).await;
        twin.parting.set(true);
        wait(twin.below(4000)).await;
        if twin.below(4) == 0 {
            twin.working.set(false);
            wait(2000).await;
            at_work().await;
            wait(twin.below(20_000)).await;
        }
    } else {
        wait(twin.below(20_000)).await;
    }
    if twin.below(4) > 0 {
        control::kill(process.id());
    } else {
        twin.unsure.set(true);
        control::power_cut(&[host], PeerView::Silence);
        control::power_on(host);
    }
    let _ended = process.wait().await;
    twin.leave();
}

struct Outcome {
    wrong: Option<String>,
    copied: u32,
    returns: u32,
}

fn simulate(seed: u64, planted: Option<&str>) -> Outcome {
    crate::rig::log();
    let mut options = SimOptions::new(seed);
    options.planted.extend(planted.map(str::to_owned));
    options.time_max = Duration::from_secs(600);
    let twin = Twin::new(seed);
    let theirs = Rc::clone(&twin);
    let ended = Simulation::new(options).run(async move {
        let disk = DiskOptions { capacity: 64 << 20, ..DiskOptions::default() };
        let host = control::add_host(HostOptions::new("cs").with_disk(disk));
        let create = CreateOptions { dir: DIR.into(), superblock: superblock() };
        let made = control::start_process(host, "make-cs", async move {
            engine::create(&create).await.expect("a new chunk server");
            let engine = open(Path::new(DIR), no_interval()).await.expect("it opens");
            engine.create_chunk(new_chunk(CHUNK, SIZE)).await.expect("a new chunk");
            engine.stop().await;
        });
        made.wait().await.returned();
        for _ in 0..LIVES {
            live_once(host, &theirs).await;
            if theirs.wrong.borrow().is_some() {
                return;
            }
        }
    });
    let wrong = ended.err().map(|failure| failure.to_string()).or_else(|| twin.wrong.take());
    Outcome { wrong, copied: twin.copied.get(), returns: twin.returns.get() }
}

#[test]
fn a_replica_that_returns_is_like_the_others() {
    let (mut copied, mut returns) = (0, 0);
    for seed in seeds_asked_for().unwrap_or(0..40) {
        let outcome = simulate(seed, None);
        assert_eq!(outcome.wrong, None, "seed {seed}");
        (copied, returns) = (copied + outcome.copied, returns + outcome.returns);
    }
    println!("{returns} returns without loss of power: {copied} regions of {} copied", returns * BLOCKS / 16);
}

#[test]
fn what_is_forgotten_at_a_return_is_caught() {
    for fault in ["returner-forgets-one", "returner-trusts-marks"] {
        let caught = seeds_asked_for().unwrap_or(0..200).find_map(|seed| {
            let wrong = simulate(seed, Some(fault)).wrong;
            wrong.map(|wrong| (seed, wrong))
        });
        println!("{fault}: {:?}", caught.unwrap_or_else(|| panic!("{fault} is not caught")));
    }
}
