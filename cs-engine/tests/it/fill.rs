//! A joiner that is filled from a member while both are written to (C6, C7).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{
    self, CreateOptions, Engine, EngineOptions, NewChunk, NotRead, ReadReply, Reading, Refusal, Source,
    WriteKind, WriteRequest,
};
use cs_engine::format::BLOCK;
use rt::buf::View;
use rt::sim::control;
use rt::sim::{DiskOptions, HostOptions, SimOptions, Simulation};

use crate::install::{joiner, member};
use crate::rig::{CHUNK, FILE, crcs, new_chunk, no_interval, open, pattern, superblock};
use crate::simulated::seeds_asked_for;

const SIZE: u64 = 2 << 20;
const BLOCKS: u32 = (SIZE / BLOCK as u64) as u32;
const REGIONS: u32 = BLOCKS / 16;
const WRITERS: u32 = 4;

/// A member that has nothing but zeroes.
#[derive(Debug)]
pub(crate) struct Zeroes;

impl Source for Zeroes {
    fn read(&self, _offset: u32, _len: u32) -> Reading<'_> {
        Box::pin(async { Ok(ReadReply { payload: None, crcs: Vec::new() }) })
    }
}

/// A member that does not answer.
#[derive(Debug)]
struct Never;

impl Source for Never {
    fn read(&self, _offset: u32, _len: u32) -> Reading<'_> {
        Box::pin(std::future::pending())
    }
}

/// A member at hand.
#[derive(Debug)]
struct Member {
    engine: Rc<Engine>,
    version: u64,
    reads: Cell<u32>,
}

impl Member {
    fn new(engine: &Rc<Engine>, version: u64) -> Rc<Self> {
        Rc::new(Self { engine: Rc::clone(engine), version, reads: Cell::new(0) })
    }
}

impl Source for Member {
    fn read(&self, offset: u32, len: u32) -> Reading<'_> {
        self.reads.set(self.reads.get() + 1);
        Box::pin(async move {
            // On its way there and back.
            pause(200).await;
            let read = self.engine.read_for_joiner(FILE, CHUNK, self.version, offset, len).await;
            pause(200).await;
            read.map_err(|_| NotRead)
        })
    }
}

async fn pause(us_max: u64) {
    rt::time::sleep(Duration::from_micros(rt::random::below(us_max))).await;
}

/// A writer's books, and what was written last.
struct Books {
    epoch: Cell<u64>,
    version: Cell<u64>,
    next: Cell<u64>,
    /// Writes that are not answered, with their blocks.
    open: RefCell<BTreeMap<u64, u32>>,
    stable: Cell<u64>,
    model: RefCell<BTreeMap<u32, Vec<u8>>>,
    done: Cell<bool>,
}

impl Books {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            epoch: Cell::new(1),
            version: Cell::new(1),
            next: Cell::new(1),
            open: RefCell::default(),
            stable: Cell::new(1),
            model: RefCell::default(),
            done: Cell::new(false),
        })
    }

    fn done(&self) -> u64 {
        self.open.borrow().first_key_value().map_or(self.next.get(), |(&seq, _)| seq)
    }

    /// Writes at a byte of a block to all of `engines`, one a little after the other.
    async fn write(&self, engines: &[Rc<Engine>], block: u32, from: usize, bytes: &[u8]) {
        let seq = self.next.replace(self.next.get() + 1);
        self.open.borrow_mut().insert(seq, block);
        let offset = block * BLOCK as u32 + from as u32;
        let kind = || WriteKind::Data { payload: View::copy_of(bytes), crcs: crcs(offset, bytes) };
        let mut order: Vec<_> = engines.to_vec();
        order.reverse();
        for engine in order {
            let request = WriteRequest {
                file: FILE,
                epoch: self.epoch.get(),
                chunk: CHUNK,
                version: self.version.get(),
                seq,
                done: self.done(),
                stable: self.stable.get(),
                offset,
                len: bytes.len() as u32,
                kind: kind(),
                settles: None,
            };
            engine.write(request).await.expect("a write");
            pause(600).await;
        }
        self.open.borrow_mut().remove(&seq);
        let mut model = self.model.borrow_mut();
        let content = model.entry(block).or_insert_with(|| vec![0; BLOCK]);
        content[from..from + bytes.len()].copy_from_slice(bytes);
    }

    async fn flush(&self, engines: &[Rc<Engine>]) {
        let done = self.done();
        for engine in engines {
            let stable = self.stable.get();
            engine.flush_file(FILE, self.epoch.get(), done, stable, false).await.expect("a flush");
        }
        self.stable.set(self.stable.get().max(done));
    }

    /// A random write; each writer has blocks of its own.
    async fn work(&self, engines: &[Rc<Engine>], writer: u32) {
        let block = rt::random::below(u64::from(BLOCKS / WRITERS)) as u32 * WRITERS + writer;
        let bytes = pattern(self.next.get(), BLOCK);
        if rt::random::below(3) == 0 {
            self.write(engines, block, 100, &bytes[..1000]).await;
        } else {
            self.write(engines, block, 0, &bytes).await;
        }
    }

    async fn check(&self, engine: &Rc<Engine>, name: &str) -> Result<(), String> {
        for block in 0..BLOCKS {
            let offset = block * BLOCK as u32;
            let read = engine.read_for_joiner(FILE, CHUNK, self.version.get(), offset, BLOCK as u32).await;
            let found = read.map_err(|refusal| format!("{name}, block {block}: {refusal}"))?.payload;
            let found = found.map_or_else(|| vec![0; BLOCK], |payload| payload.to_vec());
            if self.model.borrow().get(&block).map_or(&[0; BLOCK][..], |content| content) != found {
                return Err(format!("{name}, block {block}: not what was written last"));
            }
        }
        Ok(())
    }
}

/// What a joiner held before.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    /// It was a member and was away for a while.
    Away,
    /// It is new.
    Nothing,
}

const DIRS: [&str; 2] = ["/cs/a", "/cs/b"];

fn settings() -> EngineOptions {
    EngineOptions { pages_max: 16, ..no_interval() }
}

/// The first life: up to the moment when the second server is a joiner.
async fn begin(books: &Rc<Books>, before: Before) -> Vec<Rc<Engine>> {
    let mut engines = Vec::new();
    for dir in DIRS {
        let create = CreateOptions { dir: dir.into(), superblock: superblock() };
        engine::create(&create).await.expect("a new chunk server");
        engines.push(open(Path::new(dir), settings()).await.expect("it opens"));
    }
    engines[0].create_chunk(new_chunk(CHUNK, SIZE)).await.unwrap();
    let members = if before == Before::Away { 2 } else { 1 };
    if before == Before::Away {
        engines[1].create_chunk(new_chunk(CHUNK, SIZE)).await.unwrap();
    }
    for step in 0..60 {
        books.work(&engines[..members], step % WRITERS).await;
        if step % 16 == 7 {
            books.flush(&engines[..members]).await;
        }
    }
    if before == Before::Away {
        // Its last write reaches nobody else.
        let alone = books.next.replace(books.next.get() + 1);
        let bytes = pattern(alone, 3 * BLOCK);
        let request = WriteRequest {
            file: FILE,
            epoch: 1,
            chunk: CHUNK,
            version: 1,
            seq: alone,
            done: alone,
            stable: books.stable.get(),
            offset: 40 * BLOCK as u32,
            len: bytes.len() as u32,
            kind: WriteKind::Data { payload: View::copy_of(&bytes), crcs: crcs(0, &bytes) },
            settles: None,
        };
        engines[1].write(request).await.expect("a write");
        engines[0].install(CHUNK, member(1, 2, true)).await.unwrap();
        books.version.set(2);
        for step in 0..60 {
            books.work(&engines[..1], step % WRITERS).await;
            if step % 16 == 7 {
                books.flush(&engines[..1]).await;
            }
        }
    }
    engines[0].install(CHUNK, member(1, 3, true)).await.unwrap();
    if before == Before::Away {
        engines[1].install(CHUNK, joiner(1, 3, true)).await.unwrap();
    } else {
        let new = NewChunk { version: 3, joining: true, ..new_chunk(CHUNK, SIZE) };
        engines[1].create_chunk(new).await.unwrap();
    }
    books.version.set(3);
    engines
}

/// Copies what is missing while writers go on, and promotes the joiner. Gives the bytes that were copied.
async fn catch_up(books: &Rc<Books>, engines: &[Rc<Engine>]) -> u64 {
    let (a, b) = (&engines[0], &engines[1]);
    let source = Member::new(a, 3);
    b.set_source(CHUNK, 3, Rc::clone(&source) as Rc<dyn Source>).unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (books, engines) = (Rc::clone(books), engines.to_vec());
            rt::spawn(async move {
                while !books.done.get() {
                    books.work(&engines, writer).await;
                    if writer == 0 {
                        books.flush(&engines).await;
                    }
                }
            })
        })
        .collect();
    let held = b.progress(CHUNK, 3).unwrap().held;
    let known = a.changed_regions(FILE, CHUNK, 3, held).unwrap();
    b.take_difference(CHUNK, 3, &known).await.unwrap();
    loop {
        let lacking: Vec<u32> = b.progress(CHUNK, 3).unwrap().lacking.iter().collect();
        if lacking.is_empty() {
            // What a write has fetched by itself since.
            b.commit_copied(CHUNK, 3).await.unwrap();
            break;
        }
        let some = lacking.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(3)).take(4);
        let copies: Vec<_> = some
            .map(|run| {
                let (b, source, regions) = (Rc::clone(b), Rc::clone(&source), run[0]..run[run.len() - 1] + 1);
                rt::spawn(async move { b.copy_regions(CHUNK, 3, regions, &*source).await })
            })
            .collect();
        for copy in copies {
            copy.await.unwrap().expect("copied");
        }
        b.commit_copied(CHUNK, 3).await.unwrap();
    }
    books.done.set(true);
    for writer in writers {
        writer.await.unwrap();
    }
    a.flush().await.unwrap();
    b.inherit_list(CHUNK, 3, &known.listed).await.unwrap();
    let bytes = b.progress(CHUNK, 3).unwrap().bytes;
    for engine in engines {
        engine.install(CHUNK, member(3, 4, false)).await.unwrap();
    }
    books.version.set(4);
    bytes
}

struct Outcome {
    wrong: Result<(), String>,
    bytes: u64,
    coverage: BTreeMap<&'static str, u64>,
}

/// One run; `killed` = the servers are killed in the middle of the copying, once.
fn run(seed: u64, before: Before, killed: bool, planted: Option<&str>) -> Outcome {
    crate::rig::log();
    let mut options = SimOptions::new(seed);
    options.planted.extend(planted.map(str::to_owned));
    options.time_max = Duration::from_secs(600);
    let mut simulation = Simulation::new(options);
    let (wrong, bytes) = simulation
        .run(async move {
            let disk = DiskOptions { capacity: 128 << 20, ..DiskOptions::default() };
            let host = control::add_host(HostOptions::new("cs").with_disk(disk));
            let books = Books::new();
            let theirs = Rc::clone(&books);
            let ready = Rc::new(Cell::new(false));
            let is_ready = Rc::clone(&ready);
            let first = control::start_process(host, "csd", async move {
                let engines = begin(&theirs, before).await;
                is_ready.set(true);
                let bytes = catch_up(&theirs, &engines).await;
                finish(&theirs, &engines, bytes).await
            });
            if !killed {
                return first.wait().await.returned();
            }
            while !ready.get() {
                control::advance(Duration::from_micros(500)).await;
            }
            control::advance(Duration::from_micros(3000 + seed * 1371 % 20_000)).await;
            control::kill(first.id());
            let _killed = first.wait().await;
            let second = control::start_process(host, "csd", async move { resume(&books).await });
            second.wait().await.returned()
        })
        .unwrap_or_else(|failure| (Err(failure.to_string()), 0));
    Outcome { wrong, bytes, coverage: simulation.coverage().into_iter().collect() }
}

async fn finish(books: &Books, engines: &[Rc<Engine>], bytes: u64) -> (Result<(), String>, u64) {
    let mut wrong = books.check(&engines[0], "the member").await;
    if wrong.is_ok() {
        wrong = books.check(&engines[1], "the joiner").await;
    }
    (wrong, bytes)
}

/// After a kill: what was copied and flushed is not copied again. What was not answered is written again.
async fn resume(books: &Rc<Books>) -> (Result<(), String>, u64) {
    let mut engines = Vec::new();
    for dir in DIRS {
        engines.push(loop {
            match open(Path::new(dir), settings()).await {
                Ok(engine) => break engine,
                Err(engine::OpenError::InUse(_)) => rt::time::sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("{error}"),
            }
        });
    }
    if engines[0].install(CHUNK, member(3, 3, false)).await.is_err() {
        // It was done before the kill.
        return (Ok(()), 0);
    }
    // A client of a higher epoch.
    for engine in &engines {
        engine.fence(FILE, 2).await.unwrap();
    }
    let unanswered: Vec<u32> = books.open.take().into_values().collect();
    books.epoch.set(2);
    books.next.set(1);
    books.stable.set(1);
    books.done.set(false);
    let source = Member::new(&engines[0], 3);
    engines[1].set_source(CHUNK, 3, source as Rc<dyn Source>).unwrap();
    for (n, block) in (1000..).zip(unanswered.into_iter().chain((0..BLOCKS).step_by(3))) {
        books.write(&engines, block, 0, &pattern(n, BLOCK)).await;
        if n % 33 == 0 {
            books.flush(&engines).await;
        }
    }
    let bytes = catch_up(books, &engines).await;
    finish(books, &engines, bytes).await
}

#[test]
fn a_joiner_has_everything_at_the_end() {
    let mut coverage: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in seeds_asked_for().unwrap_or(0..24) {
        for before in [Before::Away, Before::Nothing] {
            let outcome = run(seed, before, false, None);
            outcome.wrong.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
            let most = u64::from(REGIONS) * 16 * BLOCK as u64;
            // What writes fetch before it is known what is missing is copied once more.
            assert!(outcome.bytes <= most + most / 4, "seed {seed}: {} bytes", outcome.bytes);
            assert!(before == Before::Away || outcome.bytes >= most, "seed {seed}: {} bytes", outcome.bytes);
            coverage.extend(outcome.coverage);
        }
    }
    for name in ["engine.copy-skips", "engine.fetched-for-a-write", "engine.joins"] {
        assert!(coverage.contains_key(name), "no seed reaches {name}");
    }
}

#[test]
fn a_copy_that_overwrites_what_is_newer_is_caught() {
    let caught =
        (0..40).find_map(|seed| run(seed, Before::Nothing, false, Some("copy-over-newer")).wrong.err());
    println!("{}", caught.expect("a copied block overwrote a newer write, and nobody saw it"));
}

#[test]
fn a_kill_in_the_middle_costs_only_what_was_not_flushed() {
    let (mut resumed, mut least) = (0, u64::MAX);
    for seed in seeds_asked_for().unwrap_or(0..24) {
        let outcome = run(seed, Before::Nothing, true, None);
        outcome.wrong.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        if outcome.bytes > 0 {
            resumed += 1;
            least = least.min(outcome.bytes);
        }
    }
    assert!(resumed > 3, "only {resumed} runs were killed while they copied");
    assert!(least < SIZE, "every resumed run copied everything again");
}

/// The power of both fails while the joiner is filled; the member has flushed everything before.
fn cut_while_copying(seed: u64, planted: Option<&str>) -> (Result<(), String>, u64) {
    crate::rig::log();
    let mut options = SimOptions::new(seed);
    options.planted.extend(planted.map(str::to_owned));
    let ended = Simulation::new(options).run(async move {
        let host = control::add_host(HostOptions::new("cs"));
        let books = Books::new();
        let (theirs, ready) = (Rc::clone(&books), Rc::new(Cell::new(false)));
        let is_ready = Rc::clone(&ready);
        let first = control::start_process(host, "csd", async move {
            let engines = begin(&theirs, Before::Nothing).await;
            engines[0].flush().await.unwrap();
            is_ready.set(true);
            fill_quietly(&engines).await;
            std::future::pending::<()>().await;
        });
        while !ready.get() {
            control::advance(Duration::from_micros(500)).await;
        }
        control::advance(Duration::from_micros(seed * 1931 % 30_000)).await;
        control::power_cut(&[host], control::PeerView::Silence);
        control::power_on(host);
        let _cut = first.wait().await;
        let second = control::start_process(host, "csd", async move {
            let mut engines = Vec::new();
            for dir in DIRS {
                engines.push(open(Path::new(dir), settings()).await.expect("it opens"));
            }
            fill_quietly(&engines).await;
            let bytes = engines[1].progress(CHUNK, 3).unwrap().bytes;
            for engine in &engines {
                engine.install(CHUNK, member(3, 4, false)).await.unwrap();
            }
            books.version.set(4);
            finish(&books, &engines, bytes).await
        });
        second.wait().await.returned()
    });
    ended.unwrap_or_else(|failure| (Err(failure.to_string()), 0))
}

/// Fills the joiner while nobody writes, two regions at a time.
async fn fill_quietly(engines: &[Rc<Engine>]) {
    let source = Member::new(&engines[0], 3);
    let held = engines[1].progress(CHUNK, 3).unwrap().held;
    let known = engines[0].changed_regions(FILE, CHUNK, 3, held).unwrap();
    engines[1].take_difference(CHUNK, 3, &known).await.unwrap();
    loop {
        let lacking: Vec<u32> = engines[1].progress(CHUNK, 3).unwrap().lacking.iter().take(2).collect();
        let Some(&first) = lacking.first() else { break };
        let end = lacking[lacking.len() - 1] + 1;
        engines[1].copy_regions(CHUNK, 3, first..end, &*source).await.expect("copied");
        engines[1].commit_copied(CHUNK, 3).await.unwrap();
    }
}

#[test]
fn what_a_joiner_has_struck_survives_a_power_cut() {
    let mut bytes = Vec::new();
    for seed in seeds_asked_for().unwrap_or(0..40) {
        let (wrong, copied) = cut_while_copying(seed, None);
        wrong.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        bytes.push(copied);
    }
    assert!(
        bytes.iter().any(|&bytes| bytes > 0 && bytes < SIZE),
        "cut in the middle, and gone on: {bytes:?}"
    );
}

#[test]
fn regions_struck_before_they_are_durable_are_caught() {
    let caught = (0..80).find_map(|seed| cut_while_copying(seed, Some("copied-not-flushed")).0.err());
    println!("{}", caught.expect("copied regions were lost, and nobody saw it"));
}

#[test]
fn a_write_of_a_part_fetches_the_rest_or_is_refused() {
    let ended = Simulation::new(SimOptions::new(1)).run(async {
        let host = control::add_host(HostOptions::new("cs"));
        let process = control::start_process(host, "csd", async {
            let books = Books::new();
            let engines = begin(&books, Before::Nothing).await;
            let b = &engines[1];
            let write = |block: u32, version| {
                let (offset, bytes) = (block * BLOCK as u32 + 5, pattern(9, 7));
                let kind = WriteKind::Data { payload: View::copy_of(&bytes), crcs: crcs(offset, &bytes) };
                let seq = books.next.replace(books.next.get() + 1);
                let (file, epoch, chunk, len) = (FILE, 1, CHUNK, 7);
                let (done, stable) = (seq, books.stable.get());
                let settles = None;
                b.write(WriteRequest {
                    file,
                    epoch,
                    chunk,
                    version,
                    seq,
                    done,
                    stable,
                    offset,
                    len,
                    kind,
                    settles,
                })
            };
            // Nobody has said where to fetch from.
            let begun = rt::time::now();
            assert_eq!(write(3, 3).await, Err(Refusal::NoSource(CHUNK)));
            assert!(begun.elapsed() > Duration::from_secs(5));
            let source = Member::new(&engines[0], 3);
            b.set_source(CHUNK, 3, Rc::clone(&source) as Rc<dyn Source>).unwrap();
            write(3, 3).await.expect("it is fetched");
            write(4, 3).await.expect("the region is here");
            assert_eq!(source.reads.get(), 1);
            // A later version waits for no answer of a member.
            let (ours, never) = (Rc::clone(b), Never);
            let copying = rt::spawn(async move { ours.copy_regions(CHUNK, 3, 8..9, &never).await });
            // It waits for the member then, however the tasks take turns.
            rt::time::sleep(Duration::from_millis(1)).await;
            b.install(CHUNK, joiner(3, 5, true)).await.unwrap();
            assert_eq!(copying.await.unwrap(), Err(Refusal::StaleVersion { have: 3, wanted: 3 }));
            assert_eq!(write(3, 3).await, Err(Refusal::StaleVersion { have: 5, wanted: 3 }));
        });
        process.wait().await.returned();
    });
    ended.unwrap_or_else(|failure| panic!("{failure}"));
}
