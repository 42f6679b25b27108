//! A chunk with one member: when that one cannot tell what a block holds, nobody can. A flushed block must come back,
//! as it was flushed or newer, and stay; the reconciler takes what lies in the file (C5), as
//! `client::Volume` does when no member's content matches a record.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{self, CreateOptions, Engine, Refusal, Surveyed, WriteKind};
use cs_engine::format::BLOCK;
use rt::buf::View;
use rt::sim::control::{self, PeerView};
use rt::sim::{Coverage, DiskFault, DiskFaultKind, HostOptions, SimOptions, Simulation};

use crate::rig::{CHUNK, Client, FILE, crcs, no_interval, open, pattern, superblock};

const DIR: &str = "/cs";
const CHUNK_FILE: &str = "/cs/chunks/42/0001000000000042";
/// Blocks that are written over and over.
const BLOCKS: u32 = 12;
/// The block of which a record outlives the checkpoint that has moved it.
const MOVED: u32 = 5;

/// What the writer knows of one block.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The last version that a flush has covered.
    flushed: u64,
    /// The last one that was answered.
    answered: u64,
    /// The last one that was begun.
    newest: u64,
}

#[derive(Debug, Default)]
struct Writer {
    blocks: RefCell<[Known; BLOCKS as usize]>,
    unsettled: Cell<u32>,
    unreadable: Cell<u32>,
    /// The controller is to make the next write to block 0 slow.
    wants_stall: Cell<bool>,
    /// From now on the power may be cut.
    exposed: Cell<bool>,
}

fn content(block: u32, version: u64) -> Vec<u8> {
    if version == 0 { vec![0; BLOCK] } else { pattern(version << 8 | u64::from(block), BLOCK) }
}

impl Writer {
    async fn write(&self, client: &Client, block: u32) {
        let version = {
            let mut blocks = self.blocks.borrow_mut();
            blocks[block as usize].newest += 1;
            blocks[block as usize].newest
        };
        let request = client.data(CHUNK, block * BLOCK as u32, &content(block, version));
        client.engine.write(request).await.expect("a write");
        self.blocks.borrow_mut()[block as usize].answered = version;
    }

    async fn flush(&self, client: &Client) {
        let earlier = *self.blocks.borrow();
        client.engine.flush().await.expect("a flush");
        for (known, before) in self.blocks.borrow_mut().iter_mut().zip(earlier) {
            known.flushed = known.flushed.max(before.answered);
        }
    }

    /// Everything flushed, then writes in place that may or may not land before the power is cut.
    async fn first_life(self: Rc<Self>, engine: Rc<Engine>) {
        let client = Rc::new(Client::with_chunk(&engine, 1, 64 * BLOCK as u64).await);
        for block in 0..BLOCKS {
            self.write(&client, block).await;
        }
        self.flush(&client).await;
        engine.checkpoint().await.expect("a checkpoint");
        for block in 1..BLOCKS - 2 {
            self.write(&client, block).await;
        }
        self.flush(&client).await;
        // A write in place that takes its time keeps the tail before the records that come after it.
        self.wants_stall.set(true);
        rt::time::sleep(Duration::from_millis(1)).await;
        let (theirs, slow) = (Rc::clone(&self), Rc::clone(&client));
        let slow = rt::spawn(async move { theirs.write(&slow, 0).await });
        rt::time::sleep(Duration::from_millis(1)).await;
        let zeroes = client.request(CHUNK, MOVED * BLOCK as u32, BLOCK as u32, WriteKind::Zero);
        engine.write(zeroes).await.expect("zeroes");
        self.write(&client, MOVED).await;
        self.flush(&client).await;
        engine.checkpoint().await.expect("a checkpoint");
        self.exposed.set(true);
        self.write(&client, MOVED).await;
        rt::time::sleep(Duration::from_micros(300)).await;
        loop {
            for block in 1..BLOCKS {
                self.write(&client, block).await;
                if slow.is_finished() {
                    return;
                }
            }
        }
    }

    /// What the client does before it serves anything: it settles every block in doubt, flushes, and clears.
    async fn settle(&self, client: &Client) {
        let (engine, epoch, version) = (&client.engine, client.epoch.get(), client.version.get());
        let doubts = engine.doubts(FILE, epoch, CHUNK, version).expect("doubts");
        let surveys = engine.survey(FILE, epoch, CHUNK, version, 0, BLOCKS).await.expect("a survey");
        for (block, survey) in (0..BLOCKS).zip(surveys) {
            if survey.content != Surveyed::Unknown {
                continue;
            }
            let read = client.try_read(CHUNK, block * BLOCK as u32, BLOCK as u32).await;
            assert!(matches!(read, Err(Refusal::Unsettled { .. } | Refusal::Corrupt { .. })), "{read:?}");
            let in_doubt =
                doubts.iter().any(|doubt| (doubt.first..doubt.first + doubt.count).contains(&block));
            assert!(in_doubt, "block {block} is unknown, and no mark says so");
            let content = match engine.accept_block(FILE, epoch, CHUNK, version, block).await {
                Ok(content) => content,
                Err(refusal) => {
                    // Only the device can have lost it. The writer's next write makes it good.
                    assert_eq!(refusal, Refusal::Corrupt { block });
                    self.unreadable.set(self.unreadable.get() + 1);
                    self.write(client, block).await;
                    continue;
                }
            };
            self.unsettled.set(self.unsettled.get() + 1);
            let kind = WriteKind::Data { payload: View::copy_of(&content), crcs: crcs(0, &content) };
            let mut settle = client.request(CHUNK, block * BLOCK as u32, BLOCK as u32, kind);
            settle.settles = Some((0, 0));
            engine.write(settle).await.expect("a settled block");
        }
        engine.flush().await.expect("a flush");
        engine.clear_doubts(FILE, epoch, CHUNK, version).await.expect("cleared doubts");
        let left = engine.doubts(FILE, epoch, CHUNK, version).expect("doubts");
        assert!(left.iter().all(|doubt| doubt.epoch == 0 || doubt.epoch == epoch), "{left:?}");
    }

    /// Reads every block: it must be a version that is not older than the flushed one, and is then the only one.
    async fn look(&self, client: &Client) {
        for block in 0..BLOCKS {
            let found = client.try_read(CHUNK, block * BLOCK as u32, BLOCK as u32).await;
            let found = found.unwrap_or_else(|refusal| panic!("block {block}: {refusal}"));
            let Known { flushed, newest, .. } = self.blocks.borrow()[block as usize];
            let version = (flushed..=newest).find(|&version| content(block, version) == found);
            // Zeroes were written between two versions and flushed with the second.
            let version = version.unwrap_or_else(|| panic!("block {block} is none of {flushed}..={newest}"));
            self.blocks.borrow_mut()[block as usize].flushed = version;
        }
    }
}

/// One run; gives how many blocks were unsettled, how many unreadable, and what was covered.
fn run_single(seed: u64) -> (u32, u32, Coverage) {
    crate::rig::log();
    let mut simulation = Simulation::new(SimOptions::new(seed));
    let writer: Rc<Writer> = Rc::default();
    let ended = simulation.run(lives(seed, Rc::clone(&writer)));
    if let Err(failure) = ended {
        panic!("seed {seed}: {failure}");
    }
    (writer.unsettled.get(), writer.unreadable.get(), simulation.coverage())
}

async fn lives(seed: u64, writer: Rc<Writer>) {
    let host = control::add_host(HostOptions::new("cs"));
    let create = CreateOptions { dir: DIR.into(), superblock: superblock() };
    let made = control::start_process(host, "make-cs", async move { engine::create(&create).await.is_ok() });
    assert!(made.wait().await.returned(), "a new chunk server");
    let theirs = Rc::clone(&writer);
    let first = control::start_process(host, "csd", async move {
        let engine = open(Path::new(DIR), no_interval()).await.expect("it opens");
        theirs.first_life(engine).await;
    });
    while !writer.exposed.get() {
        if writer.wants_stall.take() {
            let slow = DiskFault::new(DiskFaultKind::Stall(Duration::from_millis(50))).on(CHUNK_FILE);
            control::disk_fault(host, DIR, slow.within(0..BLOCK as u64));
        }
        control::advance(Duration::from_micros(100)).await;
    }
    control::advance(Duration::from_micros(seed % 7 * 150)).await;
    control::power_cut(&[host], PeerView::Silence);
    control::power_on(host);
    let _cut = first.wait().await;
    if !seed.is_multiple_of(3) {
        let block = u64::from(1 + seed as u32 % 4) * BLOCK as u64;
        control::make_unreadable(host, CHUNK_FILE, block..block + BLOCK as u64).expect("the chunk's file");
    }
    for epoch in 2..4 {
        let theirs = Rc::clone(&writer);
        let life = control::start_process(host, "csd", async move {
            let engine = open(Path::new(DIR), no_interval()).await.expect("it opens");
            let client = Client::new(&engine, epoch);
            engine.fence(FILE, epoch).await.expect("a fence");
            theirs.settle(&client).await;
            theirs.look(&client).await;
        });
        life.wait().await.returned();
        control::power_cut(&[host], PeerView::Silence);
        control::power_on(host);
    }
}

/// Seeds enough for every kind of trouble.
pub(crate) fn run_seeds() -> (u32, u32, Coverage) {
    let (mut unsettled, mut unreadable, mut all) = (0, 0, Coverage::new());
    for seed in 0..120 {
        let (more, bad, coverage) = run_single(seed);
        unsettled += more;
        unreadable += bad;
        for (name, count) in coverage {
            *all.entry(name).or_insert(0) += count;
        }
    }
    (unsettled, unreadable, all)
}

#[test]
fn a_flushed_block_of_the_only_copy_comes_back() {
    let (unsettled, unreadable, coverage) = run_seeds();
    println!("{coverage:#?}");
    assert!(unsettled > 10, "{unsettled} blocks had to be settled");
    assert!(unreadable > 0, "no block was unreadable");
}
