//! A slow and obvious twin of the engine, and a client that does random things to both.
//!
//! The twin holds for every block the versions it may have: the newest one that a flush has made durable, and every
//! one written since. In a running server only the newest may be read; after a kill the newest that was
//! answered or a later one; after a power cut any of them. Which of them it is settles the block: from then on
//! it must be that one. Every finding is a violation, kept as text.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use cs_engine::engine::{Doubt, Engine, NewChunk, Refusal, Surveyed, WriteKind, WriteRequest};
use cs_engine::format::{BLOCK, crc32c};
use rt::buf::View;
use rt::random::Rng;

use crate::rig::{FILE, crcs};

/// Blocks of each chunk: more than one extent.
const BLOCKS: u32 = 320;
const CHUNKS: u64 = 3;
/// Answered writes that may be sent again.
const RECENT: usize = 8;

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// In order.
    Stopped,
    /// Whatever was answered is there.
    Killed,
    /// Whatever was flushed is there.
    PowerCut,
}

/// What sort of work a seed does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Writes of every size, everywhere.
    Mixed,
    /// Mostly small writes over each other: what goes in place.
    Overwrites,
    /// The same few blocks again and again, with many checkpoints in between: what recovery has to think about.
    Tight,
    /// Large writes into extents that are quiet: what has to mark them first.
    Large,
}

#[derive(Clone, Debug)]
struct Version {
    /// Moment of the answer.
    answered: Option<u64>,
    epoch: u64,
    seq: u64,
    content: Rc<[u8]>,
}

#[derive(Debug)]
struct Twin {
    version: u64,
    /// Writes of epochs up to this one may be settled: the answer to that is missing...
    clearing: u64,
    /// ...and up to this one they are.
    cleared: u64,
    /// Oldest first; never empty.
    blocks: Vec<VecDeque<Version>>,
}

/// The client's and the twin's state; it outlives the server.
#[derive(Debug)]
pub(crate) struct Model {
    rng: RefCell<Rng>,
    style: Style,
    moment: Cell<u64>,
    chunks: RefCell<BTreeMap<u64, Twin>>,
    /// Blocks that a request is busy with, by chunk.
    busy: RefCell<BTreeSet<(u64, u32)>>,
    epoch: Cell<u64>,
    next: Cell<u64>,
    open: RefCell<BTreeMap<u64, WriteRequest>>,
    recent: RefCell<VecDeque<WriteRequest>>,
    done: Cell<u64>,
    stable: Cell<u64>,
    /// The last watermark of each epoch.
    stable_of: RefCell<BTreeMap<u64, u64>>,
    /// Blocks that were unsettled and whose settled content may still be volatile.
    shaky: RefCell<BTreeSet<(u64, u32)>>,
    /// Blocks taken without their number although the answer to that may have got lost.
    settling: RefCell<BTreeSet<(u64, u32)>>,
    /// Writes (epoch, number) that were refused once: they are listed, although a block may hold what was there before.
    refused: RefCell<BTreeSet<(u64, u64)>>,
    /// The worst end of a life since which nobody has looked at everything.
    unseen: Cell<Option<End>>,
    violation: RefCell<Option<String>>,
    /// What a lost request may have done: a chunk whose deletion was not answered.
    deleting: RefCell<BTreeSet<u64>>,
    /// The server knows the epoch: it has answered its fence or a write, and has had a chunk of the file ever since.
    fenced: Cell<bool>,
    /// An epoch has begun to which the server was not yet brought.
    fencing: Cell<bool>,
    /// The last version of each chunk: no version of a chunk comes twice (C9).
    versions: RefCell<BTreeMap<u64, u64>>,
    working: Cell<bool>,
    pub(crate) steps: Cell<u64>,
}

impl Model {
    pub(crate) fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            rng: RefCell::new(Rng::from_seed(seed)),
            style: match seed % 4 {
                0 => Style::Overwrites,
                1 => Style::Large,
                2 => Style::Tight,
                _ => Style::Mixed,
            },
            moment: Cell::new(0),
            chunks: RefCell::default(),
            busy: RefCell::default(),
            epoch: Cell::new(1),
            next: Cell::new(1),
            open: RefCell::default(),
            recent: RefCell::default(),
            done: Cell::new(1),
            stable: Cell::new(1),
            stable_of: RefCell::default(),
            shaky: RefCell::default(),
            settling: RefCell::default(),
            refused: RefCell::default(),
            unseen: Cell::new(None),
            violation: RefCell::default(),
            deleting: RefCell::default(),
            fenced: Cell::new(false),
            fencing: Cell::new(false),
            versions: RefCell::default(),
            working: Cell::new(false),
            steps: Cell::new(0),
        })
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.violation.borrow().clone()
    }

    pub(crate) fn fail(&self, text: String) {
        self.violation.borrow_mut().get_or_insert(text);
    }

    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }

    /// Whether somebody has begun to work in this life.
    pub(crate) fn is_working(&self) -> bool {
        self.working.get()
    }

    /// Notes how a life ended.
    pub(crate) fn ended(&self, end: End) {
        self.working.set(false);
        self.unseen.set(Some(self.unseen.get().map_or(end, |unseen| unseen.max(end))));
    }

    fn tick(&self) -> u64 {
        self.moment.set(self.moment.get() + 1);
        self.moment.get()
    }

    /// Lets `workers` do random things at once until `steps` are done or something is wrong.
    pub(crate) async fn work(self: &Rc<Self>, engine: &Rc<Engine>, workers: usize, steps: u64) {
        self.working.set(true);
        let end = self.steps.get() + steps;
        let workers = if self.style == Style::Large { workers.min(2) } else { workers };
        let tasks: Vec<_> = (0..workers)
            .map(|_| {
                let (model, engine) = (Rc::clone(self), Rc::clone(engine));
                rt::spawn(async move {
                    while model.steps.get() < end && model.violation.borrow().is_none() {
                        model.steps.set(model.steps.get() + 1);
                        model.step(&engine).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            // A worker that was dropped has nothing to say.
            let _ended = task.await;
        }
    }

    async fn step(self: &Rc<Self>, engine: &Rc<Engine>) {
        // A step that finds nothing to do must let the others go on.
        rt::yield_now().await;
        let Some(chunk) = self.pick_chunk(engine).await else { return };
        match self.below(100) {
            0..8 if self.style == Style::Tight => self.checkpoint(engine).await,
            0..10 if self.style == Style::Large => self.quieten(engine).await,
            0..58 => self.write(engine, chunk, false).await,
            58..66 => self.write(engine, chunk, true).await,
            66..80 => self.read(engine, chunk).await,
            80..88 if self.style != Style::Large => self.flush(engine).await,
            88..92 => self.duplicate(engine).await,
            92..94 => self.stale(engine, chunk).await,
            94..96 => self.checkpoint(engine).await,
            96 => self.recreate(engine, chunk).await,
            97 if self.style != Style::Mixed => self.checkpoint(engine).await,
            _ => rt::time::sleep(std::time::Duration::from_micros(self.below(2000))).await,
        }
    }

    /// Leaves no extent active: all is stable, the server is told so, and a checkpoint forgets the marks.
    async fn quieten(&self, engine: &Rc<Engine>) {
        self.flush(engine).await;
        self.flush(engine).await;
        self.checkpoint(engine).await;
    }

    async fn checkpoint(&self, engine: &Rc<Engine>) {
        match engine.checkpoint().await {
            Ok(()) | Err(Refusal::NoSpace) => {}
            Err(refusal) => self.fail(format!("a checkpoint: {refusal}")),
        }
    }

    async fn pick_chunk(&self, engine: &Rc<Engine>) -> Option<u64> {
        let chunk = 1 + self.below(if self.style == Style::Tight { 1 } else { CHUNKS });
        if self.chunks.borrow().contains_key(&chunk) {
            return Some(chunk);
        }
        let _busy = self.hold(chunk, 0..BLOCKS)?;
        self.create(engine, chunk).await;
        None
    }

    async fn create(&self, engine: &Rc<Engine>, chunk: u64) {
        let version = {
            let mut versions = self.versions.borrow_mut();
            let last = versions.entry(chunk).or_insert(0);
            *last += 1;
            *last
        };
        let size = u64::from(BLOCKS) * BLOCK as u64;
        match engine.create_chunk(NewChunk { chunk, version, file: FILE, size, joining: false }).await {
            Ok(()) => {
                let zero: Rc<[u8]> = vec![0; BLOCK].into();
                let version0 = Version { answered: Some(0), epoch: 0, seq: 0, content: zero };
                let blocks = (0..BLOCKS).map(|_| VecDeque::from([version0.clone()])).collect();
                self.chunks.borrow_mut().insert(chunk, Twin { version, clearing: 0, cleared: 0, blocks });
            }
            Err(Refusal::NoSpace) => {}
            Err(refusal) => self.fail(format!("making chunk {chunk}: {refusal}")),
        }
    }

    /// Takes a range of a chunk, or nothing if somebody has a part of it.
    fn hold(&self, chunk: u64, blocks: Range<u32>) -> Option<Held<'_>> {
        let mut busy = self.busy.borrow_mut();
        if busy.range((chunk, blocks.start)..(chunk, blocks.end)).next().is_some() {
            return None;
        }
        busy.extend(blocks.clone().map(|block| (chunk, block)));
        Some(Held { model: self, chunk, blocks })
    }

    /// A random range in bytes: small or large, aligned or not, often where others were.
    fn pick_range(&self) -> (u32, u32) {
        let block = BLOCK as u32;
        match self.style {
            Style::Overwrites if self.below(8) > 0 => {
                return (self.below(4) as u32 * 60 * block, block * (1 + self.below(2) as u32));
            }
            Style::Tight if self.below(32) > 0 => return (self.below(6) as u32 * block, block),
            Style::Large if self.below(8) > 0 => return (self.below(4) as u32 * 80 * block, 40 * block),
            _ => {}
        }
        let (blocks, aligned) = match self.below(20) {
            0..8 => (1, true),
            8..12 => (1 + self.below(2) as u32, false),
            12..16 => (1 + self.below(16) as u32, true),
            16..18 => (32 + self.below(64) as u32, true),
            18 => (32 + self.below(32) as u32, false),
            _ => (257 + self.below(20) as u32, self.below(2) == 0),
        };
        let hot = if self.below(2) == 0 { 40 } else { BLOCKS };
        let first = self.below(u64::from(hot)) as u32;
        let first = first.min(BLOCKS - blocks);
        if aligned {
            return (first * block, blocks * block);
        }
        let from = self.below(u64::from(blocks * block - 1)) as u32;
        let len = 1 + self.below(u64::from(blocks * block - from)) as u32;
        (first * block + from, len)
    }

    async fn write(self: &Rc<Self>, engine: &Rc<Engine>, chunk: u64, zero: bool) {
        let (offset, len) = self.pick_range();
        let blocks = blocks_of(offset, len);
        let Some(_held) = self.hold(chunk, blocks.clone()) else { return };
        let seq = self.next.get();
        self.next.set(seq + 1);
        let kind = if zero {
            WriteKind::Zero
        } else {
            let mut bytes = vec![0; len as usize];
            Rng::from_seed(seq << 20 | self.epoch.get() << 8 | chunk).fill(&mut bytes);
            WriteKind::Data { payload: View::copy_of(&bytes), crcs: crcs(offset, &bytes) }
        };
        let Some(version) = self.chunks.borrow().get(&chunk).map(|twin| twin.version) else { return };
        let (epoch, file) = (self.epoch.get(), FILE);
        let (done, stable) = (self.done.get(), self.stable.get());
        let request =
            WriteRequest { file, epoch, chunk, version, seq, done, stable, offset, len, kind, settles: None };
        self.open.borrow_mut().insert(seq, request.clone());
        self.carry_out(engine, request).await;
    }

    /// Sends a write until it is answered.
    async fn carry_out(self: &Rc<Self>, engine: &Rc<Engine>, mut request: WriteRequest) {
        self.issue(&request);
        loop {
            match engine.write(anew(&request)).await {
                Ok(_) => break,
                Err(Refusal::NeedFlush) => self.flush(engine).await,
                Err(Refusal::NoSpace) => {
                    self.refused.borrow_mut().insert((request.epoch, request.seq));
                    self.check_refused(engine, &request).await;
                    rt::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                Err(refusal) => {
                    let (chunk, offset, len) = (request.chunk, request.offset, request.len);
                    return self.fail(format!("writing {len} bytes at {offset} of chunk {chunk}: {refusal}"));
                }
            }
            if self.violation.borrow().is_some() {
                return;
            }
            request.done = self.done.get().min(request.seq);
            request.stable = self.stable.get().min(request.done);
        }
        self.answered(request);
    }

    /// After a refusal each block holds what it held or what the write brings.
    async fn check_refused(&self, engine: &Rc<Engine>, request: &WriteRequest) {
        let (chunk, version) = (request.chunk, request.version);
        for block in blocks_of(request.offset, request.len) {
            let offset = block * BLOCK as u32;
            let found = match engine.read(FILE, request.epoch, chunk, version, offset, BLOCK as u32).await {
                Ok(reply) => reply.payload.map_or_else(|| vec![0; BLOCK], |payload| payload.to_vec()),
                Err(refusal) => {
                    return self.fail(format!("block {block} of chunk {chunk} after a refusal: {refusal}"));
                }
            };
            let chunks = self.chunks.borrow();
            let versions = chunks.get(&chunk).map(|twin| &twin.blocks[block as usize]);
            if !versions.is_some_and(|all| all.iter().rev().take(2).any(|v| *v.content == *found)) {
                return self
                    .fail(format!("block {block} of chunk {chunk} after a refusal is neither old nor new"));
            }
        }
    }

    /// Adds the versions a write makes.
    fn issue(&self, request: &WriteRequest) {
        let mut chunks = self.chunks.borrow_mut();
        let Some(twin) = chunks.get_mut(&request.chunk) else { return };
        let (mut at, end) = (request.offset, request.offset + request.len);
        while at < end {
            let block = at / BLOCK as u32;
            let from = at as usize % BLOCK;
            let len = (BLOCK - from).min((end - at) as usize);
            let versions = &mut twin.blocks[block as usize];
            let mut content = versions.back().expect("never empty").content.to_vec();
            match &request.kind {
                WriteKind::Data { payload, .. } => {
                    let start = (at - request.offset) as usize;
                    content[from..from + len].copy_from_slice(&payload[start..start + len]);
                }
                WriteKind::Zero => content[from..from + len].fill(0),
            }
            versions.push_back(Version {
                answered: None,
                epoch: request.epoch,
                seq: request.seq,
                content: content.into(),
            });
            at += len as u32;
        }
    }

    fn answered(&self, request: WriteRequest) {
        let now = self.tick();
        self.fenced.set(true);
        let mut chunks = self.chunks.borrow_mut();
        if let Some(twin) = chunks.get_mut(&request.chunk) {
            for block in blocks_of(request.offset, request.len) {
                let newest = twin.blocks[block as usize].back_mut().expect("never empty");
                if (newest.epoch, newest.seq) == (request.epoch, request.seq) {
                    newest.answered = Some(now);
                }
            }
        }
        self.open.borrow_mut().remove(&request.seq);
        let mut recent = self.recent.borrow_mut();
        recent.push_back(request);
        if recent.len() > RECENT {
            recent.pop_front();
        }
        drop(recent);
        self.advance_done();
    }

    /// What may be sent again is not told to be done.
    fn advance_done(&self) {
        let mut oldest = self.next.get();
        oldest = self.recent.borrow().iter().map(|request| request.seq).min().unwrap_or(oldest).min(oldest);
        oldest = self.open.borrow().keys().next().copied().unwrap_or(oldest).min(oldest);
        self.done.set(self.done.get().max(oldest));
    }

    async fn flush(&self, engine: &Rc<Engine>) {
        if self.style == Style::Large {
            // Everything becomes stable, and extents quiet.
            self.recent.borrow_mut().clear();
            self.advance_done();
        }
        let (now, covers) = (self.tick(), self.done.get());
        let epoch = self.epoch.get();
        if let Err(refusal) =
            engine.flush_file(FILE, epoch, covers, self.stable.get().min(covers), false).await
        {
            return self.fail(format!("a flush: {refusal}"));
        }
        for twin in self.chunks.borrow_mut().values_mut() {
            for versions in &mut twin.blocks {
                let durable =
                    versions.iter().rposition(|v| v.answered.is_some_and(|answered| answered <= now));
                versions.drain(..durable.unwrap_or(0));
            }
        }
        self.stable.set(self.stable.get().max(covers));
    }

    async fn read(&self, engine: &Rc<Engine>, chunk: u64) {
        let (offset, len) = self.pick_range();
        let Some(_held) = self.hold(chunk, blocks_of(offset, len)) else { return };
        self.compare(engine, chunk, offset, len).await;
    }

    /// Reads a range that is held and compares it with the newest versions.
    async fn compare(&self, engine: &Rc<Engine>, chunk: u64, offset: u32, len: u32) {
        let Some(version) = self.chunks.borrow().get(&chunk).map(|twin| twin.version) else { return };
        let found = match engine.read(FILE, self.epoch.get(), chunk, version, offset, len).await {
            Ok(reply) => reply.payload.map_or_else(|| vec![0; len as usize], |payload| payload.to_vec()),
            Err(refusal) => {
                return self.fail(format!("reading {len} bytes at {offset} of chunk {chunk}: {refusal}"));
            }
        };
        let chunks = self.chunks.borrow();
        for (index, byte) in found.into_iter().enumerate() {
            let at = offset as usize + index;
            let expected = chunks[&chunk].blocks[at / BLOCK].back().expect("never empty").content[at % BLOCK];
            if byte != expected {
                return self
                    .fail(format!("byte {at} of chunk {chunk} is {byte:#x} instead of {expected:#x}"));
            }
        }
    }

    /// Sends an answered write again: nothing may happen (C11).
    async fn duplicate(&self, engine: &Rc<Engine>) {
        let request = {
            let recent = self.recent.borrow();
            if recent.is_empty() {
                return;
            }
            recent[self.below(recent.len() as u64) as usize].clone()
        };
        self.send_again(engine, request).await;
    }

    async fn send_again(&self, engine: &Rc<Engine>, request: WriteRequest) {
        let (chunk, offset, len) = (request.chunk, request.offset, request.len);
        let Some(_held) = self.hold(chunk, blocks_of(offset, len)) else { return };
        if request.epoch != self.epoch.get()
            || self.chunks.borrow().get(&request.chunk).is_none_or(|twin| twin.version != request.version)
        {
            return;
        }
        let seq = request.seq;
        match engine.write(anew(&request)).await {
            Ok(_) => self.compare(engine, chunk, offset, len).await,
            Err(Refusal::Answered { done, .. }) if seq < done => {}
            Err(refusal) => self.fail(format!("write {seq} sent again: {refusal}")),
        }
    }

    /// An older epoch must be refused (C2).
    async fn stale(&self, engine: &Rc<Engine>, chunk: u64) {
        let epoch = self.epoch.get();
        let Some(version) = self.chunks.borrow().get(&chunk).map(|twin| twin.version) else { return };
        if epoch < 2 || !self.fenced.get() {
            return;
        }
        let Some(_held) = self.hold(chunk, 0..1) else { return };
        let bytes = vec![0xEE; BLOCK];
        let request = WriteRequest {
            file: FILE,
            epoch: epoch - 1,
            chunk,
            version,
            seq: 1 << 19,
            done: 1,
            stable: 1,
            offset: 0,
            len: BLOCK as u32,
            kind: WriteKind::Data { payload: View::copy_of(&bytes), crcs: crcs(0, &bytes) },
            settles: None,
        };
        match engine.write(request).await {
            Err(Refusal::StaleEpoch { fence, .. }) if fence == epoch => {}
            other => self.fail(format!("a write of epoch {} below {epoch}: {other:?}", epoch - 1)),
        }
    }

    /// With a file's last chunk its fence goes: nobody of an older epoch can name a chunk made later (C9).
    /// One that was made while the other one went does not count.
    fn deleted(&self, beside: &BTreeSet<(u64, u64)>) {
        self.fenced.set(self.fenced.get() && !beside.is_disjoint(&self.lasting()));
    }

    /// Chunks that nobody is deleting, with their versions.
    fn lasting(&self) -> BTreeSet<(u64, u64)> {
        let deleting = self.deleting.borrow();
        let chunks = self.chunks.borrow();
        let lasting = chunks.iter().filter(|(chunk, _)| !deleting.contains(chunk));
        lasting.map(|(&chunk, twin)| (chunk, twin.version)).collect()
    }

    /// Deletes a chunk and, mostly, makes it again with a higher version.
    async fn recreate(&self, engine: &Rc<Engine>, chunk: u64) {
        let Some(_held) = self.hold(chunk, 0..BLOCKS) else { return };
        let Some(version) = self.chunks.borrow().get(&chunk).map(|twin| twin.version) else { return };
        self.deleting.borrow_mut().insert(chunk);
        let beside = self.lasting();
        if let Err(refusal) = engine.delete_chunk(chunk, version).await {
            return self.fail(format!("deleting chunk {chunk}: {refusal}"));
        }
        self.chunks.borrow_mut().remove(&chunk);
        self.deleting.borrow_mut().remove(&chunk);
        self.deleted(&beside);
        match engine.read(FILE, self.epoch.get(), chunk, version, 0, 1).await {
            Err(Refusal::UnknownChunk(_)) => {}
            other => self.fail(format!("reading the deleted chunk {chunk}: {other:?}")),
        }
        if self.below(4) > 0 {
            self.create(engine, chunk).await;
        }
    }
}

/// The request with its payload in memory of this executor: the model outlives executors and their registered pools.
fn anew(request: &WriteRequest) -> WriteRequest {
    let mut request = request.clone();
    if let WriteKind::Data { payload, .. } = &mut request.kind {
        *payload = View::copy_of(payload);
    }
    request
}

/// Blocks held; given back when dropped.
struct Held<'a> {
    model: &'a Model,
    chunk: u64,
    blocks: Range<u32>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut busy = self.model.busy.borrow_mut();
        for block in self.blocks.clone() {
            busy.remove(&(self.chunk, block));
        }
    }
}

fn blocks_of(offset: u32, len: u32) -> Range<u32> {
    offset / BLOCK as u32..(offset + len).div_ceil(BLOCK as u32)
}

/// What is found when the server is back.
impl Model {
    /// Looks at everything after a restart, settles what is in doubt, and goes on in the same or in a new epoch.
    pub(crate) async fn resume(self: &Rc<Self>, engine: &Rc<Engine>) {
        let Some(end) = self.unseen.get() else { return };
        self.busy.borrow_mut().clear();
        self.find_chunks(engine).await;
        let resumes = end != End::PowerCut && !self.fencing.get() && self.below(3) > 0;
        if !resumes {
            self.fencing.set(true);
            let epoch = self.epoch.get() + 1;
            self.stable_of.borrow_mut().insert(self.epoch.get(), self.stable.get());
            self.epoch.set(epoch);
            // What is still open belongs to the old epoch and is given up.
            self.open.borrow_mut().clear();
            self.recent.borrow_mut().clear();
            self.next.set(1);
            self.done.set(1);
            self.stable.set(1);
            if let Err(refusal) = engine.fence(FILE, epoch).await {
                return self.fail(format!("a fence: {refusal}"));
            }
            self.fenced.set(true);
        }
        let chunks: Vec<u64> = self.chunks.borrow().keys().copied().collect();
        for chunk in chunks {
            let doubts = self.doubts(engine, chunk);
            self.look_at(engine, chunk, end, &doubts, resumes).await;
            if self.violation.borrow().is_some() {
                return;
            }
            if !resumes {
                self.clear(engine, chunk).await;
            }
        }
        self.unseen.set(None);
        self.fencing.set(false);
        // What was not answered is sent again under its old number.
        let open: Vec<WriteRequest> = self.open.borrow().values().cloned().collect();
        // Nobody sends a write again that was answered before another one to its range began.
        let blocks = |request: &WriteRequest| blocks_of(request.offset, request.len);
        let apart = |a: &WriteRequest, b: &WriteRequest| {
            a.chunk != b.chunk || blocks(a).end <= blocks(b).start || blocks(b).end <= blocks(a).start
        };
        self.recent.borrow_mut().retain(|request| open.iter().all(|other| apart(request, other)));
        for mut request in open {
            request.done = self.done.get().min(request.seq);
            request.stable = self.stable.get().min(request.done);
            self.carry_out(engine, request).await;
        }
        // The answers of others got lost: those too.
        let recent: Vec<WriteRequest> = self.recent.borrow().iter().cloned().collect();
        for request in recent {
            self.send_again(engine, request).await;
        }
    }

    /// Whether a version is of a write that nobody knows to be stable everywhere.
    fn is_unstable(&self, chunk: u64, version: &Version) -> bool {
        let cleared = self.chunks.borrow()[&chunk].cleared;
        let current = version.epoch == self.epoch.get();
        let ended = self.stable_of.borrow().get(&version.epoch).copied().unwrap_or(0);
        let stable = if current { self.stable.get() } else { ended };
        version.seq > 0 && version.epoch > cleared && version.seq >= stable
    }

    /// A chunk whose deletion or making was not answered is there or not; every other one is.
    async fn find_chunks(&self, engine: &Rc<Engine>) {
        let size = u64::from(BLOCKS) * BLOCK as u64;
        for chunk in 1..=CHUNKS {
            let known = self.chunks.borrow().get(&chunk).map(|twin| twin.version);
            match known {
                Some(version) => {
                    let read = engine.read(FILE, self.epoch.get(), chunk, version, 0, 1).await;
                    let deleting = self.deleting.borrow_mut().remove(&chunk);
                    match read {
                        Err(Refusal::UnknownChunk(_)) if deleting => {
                            self.chunks.borrow_mut().remove(&chunk);
                            self.deleted(&self.lasting());
                            self.open.borrow_mut().retain(|_, request| request.chunk != chunk);
                        }
                        Err(Refusal::UnknownChunk(_)) => self.fail(format!("chunk {chunk} is gone")),
                        _ => {}
                    }
                }
                // Its making may have been cut off after it was made.
                None => {
                    let new = NewChunk { chunk, version: u64::MAX, file: FILE, size, joining: false };
                    match engine.create_chunk(new).await {
                        Ok(()) | Err(Refusal::StaleVersion { .. }) => {
                            if let Err(refusal) = engine.delete_chunk(chunk, u64::MAX).await {
                                self.fail(format!("deleting chunk {chunk}: {refusal}"));
                            }
                            self.deleted(&self.lasting());
                        }
                        Err(Refusal::NoSpace) => {}
                        Err(refusal) => self.fail(format!("making chunk {chunk}: {refusal}")),
                    }
                    self.open.borrow_mut().retain(|_, request| request.chunk != chunk);
                }
            }
        }
    }

    fn version_of(&self, chunk: u64) -> u64 {
        self.chunks.borrow()[&chunk].version
    }

    fn doubts(&self, engine: &Rc<Engine>, chunk: u64) -> Vec<Doubt> {
        match engine.doubts(FILE, self.epoch.get(), chunk, self.version_of(chunk)) {
            Ok(doubts) => doubts,
            Err(refusal) => {
                self.fail(format!("the doubts of chunk {chunk}: {refusal}"));
                Vec::new()
            }
        }
    }

    /// Reads every block and decides which version it is.
    async fn look_at(&self, engine: &Rc<Engine>, chunk: u64, end: End, doubts: &[Doubt], resumes: bool) {
        let (epoch, version) = (self.epoch.get(), self.version_of(chunk));
        let surveys = match engine.survey(FILE, epoch, chunk, version, 0, BLOCKS).await {
            Ok(surveys) => surveys,
            Err(refusal) => return self.fail(format!("surveying chunk {chunk}: {refusal}")),
        };
        for block in 0..BLOCKS {
            let offset = block * BLOCK as u32;
            let read = engine.read(FILE, epoch, chunk, version, offset, BLOCK as u32).await;
            let versions: Vec<Version> = {
                let chunks = self.chunks.borrow();
                let all = &chunks[&chunk].blocks[block as usize];
                let answered = all.iter().rposition(|version| version.answered.is_some()).unwrap_or(0);
                let from = if end == End::PowerCut { 0 } else { answered };
                all.iter().skip(from).cloned().collect()
            };
            let in_doubt =
                doubts.iter().any(|doubt| (doubt.first..doubt.first + doubt.count).contains(&block));
            let unsettled = read.is_err();
            let content: Rc<[u8]> = match read {
                Ok(reply) => reply.payload.map_or_else(|| vec![0; BLOCK], |payload| payload.to_vec()).into(),
                Err(Refusal::Unsettled { .. })
                    if in_doubt && (versions.len() > 1 || self.shaky.borrow().contains(&(chunk, block))) =>
                {
                    self.shaky.borrow_mut().insert((chunk, block));
                    match self.accept(engine, chunk, block, resumes).await {
                        Some(content) => content,
                        None => return,
                    }
                }
                Err(refusal) => {
                    let count = versions.len();
                    return self.fail(format!(
                        "reading block {block} of chunk {chunk} after {end:?}: {refusal} ({count} versions, in doubt: {in_doubt})"
                    ));
                }
            };
            let Some(found) = versions.iter().rev().find(|version| version.content == content) else {
                return self.fail(format!(
                    "block {block} of chunk {chunk} after {end:?} is none of its {} versions: {}",
                    versions.len(),
                    self.describe(&content, chunk, block)
                ));
            };
            // What an answer that got lost may have said of it is not asked.
            let unstable =
                self.is_unstable(chunk, found) && found.epoch > self.chunks.borrow()[&chunk].clearing;
            let same = versions.iter().filter(|version| version.content == content).count();
            if unstable && same == 1 && !in_doubt {
                return self.fail(format!(
                    "block {block} of chunk {chunk} has write {} of epoch {}, which is not stable, and is not in doubt",
                    found.seq, found.epoch
                ));
            }
            let survey = &surveys[block as usize];
            let told = (survey.epoch, survey.seq);
            let may_be_settled = told == (0, 0) && self.settling.borrow().contains(&(chunk, block));
            // Nobody has been told of a refused write that it is done: a reconciler may take what it found for that.
            let after_refusal = told > (found.epoch, found.seq) && self.refused.borrow().contains(&told);
            let told_right = told == (found.epoch, found.seq) || may_be_settled || after_refusal;
            if !unsettled && unstable && same == 1 && !told_right {
                return self.fail(format!(
                    "block {block} of chunk {chunk} is said to be write {told:?}, it is {:?}",
                    (found.epoch, found.seq)
                ));
            }
            match survey.content {
                Surveyed::Data(crc) if !unsettled && crc == crc32c(&content) => {}
                Surveyed::Hole if !unsettled && content.iter().all(|byte| *byte == 0) => {}
                Surveyed::Unknown if unsettled => {}
                other => {
                    return self.fail(format!("block {block} of chunk {chunk} is surveyed as {other:?}"));
                }
            }
            let mut settled = Version { answered: Some(self.tick()), ..found.clone() };
            if unsettled || same > 1 || may_be_settled {
                // Taken without its number, or nobody can tell which of several writes it is.
                (settled.epoch, settled.seq) = (0, 0);
            }
            self.chunks.borrow_mut().get_mut(&chunk).expect("it is there").blocks[block as usize] =
                VecDeque::from([settled]);
        }
    }

    /// Which version a content is of those that were given up, for the text of a violation.
    fn describe(&self, content: &[u8], chunk: u64, block: u32) -> String {
        let chunks = self.chunks.borrow();
        let all = &chunks[&chunk].blocks[block as usize];
        let known = all.iter().position(|version| *version.content == *content);
        let versions: Vec<_> = all.iter().map(|v| (v.epoch, v.seq, v.answered.is_some())).collect();
        let zero = content.iter().all(|byte| *byte == 0);
        format!("{known:?} of {versions:?}, zero: {zero}")
    }

    /// Takes an unsettled block as it is, as a chunk's only member does.
    async fn accept(&self, engine: &Rc<Engine>, chunk: u64, block: u32, resumes: bool) -> Option<Rc<[u8]>> {
        let (epoch, version) = (self.epoch.get(), self.version_of(chunk));
        let content = match engine.accept_block(FILE, epoch, chunk, version, block).await {
            Ok(content) => content,
            Err(refusal) => {
                self.fail(format!("accepting block {block} of chunk {chunk}: {refusal}"));
                return None;
            }
        };
        if resumes {
            // The write that was under way is sent again and settles it.
            return Some(content.to_vec().into());
        }
        let seq = self.next.get();
        self.next.set(seq + 1);
        let settle = WriteRequest {
            file: FILE,
            epoch,
            chunk,
            version,
            seq: seq + (1 << 18),
            done: 1,
            stable: 1,
            offset: block * BLOCK as u32,
            len: BLOCK as u32,
            kind: WriteKind::Data { payload: View::copy_of(&content), crcs: vec![crc32c(&content)] },
            settles: Some((0, 0)),
        };
        self.settling.borrow_mut().insert((chunk, block));
        if let Err(refusal) = engine.write(settle).await {
            self.fail(format!("settling block {block} of chunk {chunk}: {refusal}"));
            return None;
        }
        Some(content.to_vec().into())
    }

    /// Ends the doubts of a chunk as the reconciler does.
    async fn clear(&self, engine: &Rc<Engine>, chunk: u64) {
        let (epoch, version) = (self.epoch.get(), self.version_of(chunk));
        let cleared = match engine.flush().await {
            Ok(()) => {
                self.chunks.borrow_mut().get_mut(&chunk).expect("it is there").clearing = epoch - 1;
                engine.clear_doubts(FILE, epoch, chunk, version).await
            }
            refused => refused,
        };
        if let Err(refusal) = cleared {
            return self.fail(format!("clearing chunk {chunk}: {refusal}"));
        }
        self.chunks.borrow_mut().get_mut(&chunk).expect("it is there").cleared = epoch - 1;
        self.shaky.borrow_mut().retain(|(of, _)| *of != chunk);
        self.settling.borrow_mut().retain(|(of, _)| *of != chunk);
        let left = self.doubts(engine, chunk);
        if !left.is_empty() {
            self.fail(format!("chunk {chunk} is cleared and has doubts: {left:?}"));
        }
    }
}
