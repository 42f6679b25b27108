//! What members note for one that leaves, so that it gets all of it when it returns (C6).

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{
    self, CreateOptions, Engine, EngineOptions, Fault, Known, Listed, NewChunk, NotRead, ReadReply, Reading,
    Refusal, Regions, Source, WriteKind,
};
use cs_engine::format::{BLOCK, crc32c};
use rt::buf::View;
use rt::sim::control::{self, PeerView};
use rt::sim::{DiskFault, DiskFaultKind, HostOptions, SimOptions, Simulation};

use crate::check::checked;
use crate::fill::Zeroes;
use crate::install::{joiner, member};
use crate::rig::{CHUNK, Client, FILE, MIB, Rig, crcs, new_chunk, no_interval, open, pattern, superblock};
use crate::simulated::seeds_asked_for;

const REGION: u32 = 64 << 10;
const SIZE: u64 = 8 << 20;

#[test]
fn what_is_listed_counts_as_stable_once_the_version_without_the_one_who_left_is_here() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, SIZE).await;
        client.write(3 * REGION, &pattern(1, 4096)).await;
        let stale = |wanted| Err(Refusal::StaleVersion { have: 1, wanted });
        // The one who left had the write, too, and has lost it.
        assert_eq!(engine.has_installed(FILE, [(CHUNK, 1), (CHUNK, 2)]), stale(2));
        assert_eq!(engine.has_installed(FILE, [(9, 7), (CHUNK, 3)]), stale(3), "chunk 9 is not here");
        assert_eq!(engine.has_installed(FILE + 1, [(CHUNK, 3)]), Ok(()), "that file is not here");
        assert_eq!(engine.has_installed(FILE, []), Ok(()));
        engine.install(CHUNK, member(1, 3, true)).await.unwrap();
        // Collapsed, so that it has a higher one at once.
        assert_eq!(engine.has_installed(FILE, [(CHUNK, 2), (9, 7), (CHUNK, 3)]), Ok(()));
        let done = client.done.get();
        engine.flush_file(FILE, 1, done, done, false).await.unwrap();
        let known = engine.changed_regions(FILE, CHUNK, 3, 1).unwrap();
        assert!(known.complete && known.changed.contains(3) && known.listed.is_empty(), "{known:?}");
        engine.delete_chunk(CHUNK, 3).await.unwrap();
        assert_eq!(engine.has_installed(FILE, [(CHUNK, 4)]), Ok(()), "deleted");
    });
}

/// A joiner that is dismissed and joins again while it takes over a list has nothing of it afterwards.
#[test]
fn a_list_that_is_taken_over_late_is_void_after_the_next_join() {
    for restart in [false, true] {
        let rig = Rig::new();
        let new = NewChunk { version: 7, joining: true, ..new_chunk(CHUNK, SIZE) };
        let listed = [Listed { epoch: 1, seq: 9, first: 0, count: 2 }];
        rig.life(async move |engine| {
            engine.create_chunk(new).await.unwrap();
            let theirs = Rc::clone(&engine);
            let inheriting = rt::spawn(async move { theirs.inherit_list(CHUNK, 7, &listed).await });
            // On its way into the journal.
            rt::yield_now().await;
            engine.install(CHUNK, joiner(1, 9, false)).await.unwrap();
            assert_eq!(inheriting.await.unwrap(), Ok(()));
            assert!(matches!(
                engine.inherit_list(CHUNK, 7, &listed).await,
                Err(Refusal::StaleVersion { have: 9, wanted: 7 })
            ));
            if !restart {
                nothing_is_listed(&engine).await;
            }
        });
        if restart {
            rig.life(async move |engine| nothing_is_listed(&engine).await);
        }
    }
}

async fn nothing_is_listed(engine: &Rc<Engine>) {
    engine.take_difference(CHUNK, 9, &Known::default()).await.unwrap();
    engine.copy_regions(CHUNK, 9, 0..128, &Zeroes).await.unwrap();
    engine.commit_copied(CHUNK, 9).await.unwrap();
    engine.install(CHUNK, member(9, 10, false)).await.unwrap();
    let doubts = engine.doubts(FILE, 1, CHUNK, 10).unwrap();
    assert!(doubts.iter().all(|doubt| doubt.epoch == 0), "{doubts:?}");
}

/// More than a checkpoint writes headers of at a time.
const MANY: u64 = 300;

/// What was answered of each chunk.
struct Answered(Vec<Cell<u64>>);

/// Replicas that have just got a version begin to join while checkpoints write versions into headers, and all ends anywhere: none of
/// them is a member of the version that it was to join, and what was answered is there.
#[test]
fn a_joiner_is_never_found_as_a_member() {
    let (mut joined, mut not_joined) = (0, 0);
    for seed in seeds_asked_for().unwrap_or(0..24) {
        crate::rig::log();
        let found = Simulation::new(SimOptions::new(seed)).run(end_while_many_join(seed));
        let found = found.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        joined += found.0;
        not_joined += found.1;
    }
    assert!(seeds_asked_for().is_some() || (joined > 300 && not_joined > 300), "{joined} {not_joined}");
}

/// How many had joined and how many had not when it ended.
async fn end_while_many_join(seed: u64) -> (usize, usize) {
    const DIR: &str = "/cs";
    let host = control::add_host(HostOptions::new("cs"));
    let answered = Rc::new(Answered((0..MANY).map(|_| Cell::new(1)).collect()));
    let theirs = Rc::clone(&answered);
    let ready = Rc::new(Cell::new(false));
    let is_ready = Rc::clone(&ready);
    let first = control::start_process(host, "csd", async move {
        let create = CreateOptions { dir: DIR.into(), superblock: superblock() };
        engine::create(&create).await.expect("a new chunk server");
        let engine = open(Path::new(DIR), no_interval()).await.expect("it opens");
        let client = Rc::new(Client::with_chunk(&engine, 1, SIZE).await);
        for chunk in 0..MANY {
            engine.create_chunk(new_chunk(1000 + chunk, 64 << 10)).await.expect("a new chunk");
        }
        is_ready.set(true);
        for round in 0..3 {
            // Groups of the journal that take their time.
            let writer = Rc::clone(&client);
            let _writing = rt::spawn(async move {
                for step in 0..40 {
                    writer.write((step % 7) * MIB + 4096, &pattern(step.into(), 60 << 10)).await;
                }
            });
            let installs: Vec<_> = (round..MANY)
                .step_by(3)
                .map(|chunk| {
                    let (engine, theirs) = (Rc::clone(&engine), Rc::clone(&theirs));
                    rt::spawn(async move {
                        engine.install(1000 + chunk, member(1, 2, false)).await.expect("installed");
                        theirs.0[chunk as usize].set(2);
                    })
                })
                .collect();
            for install in installs {
                install.await.expect("not aborted");
            }
            let checkpoints = Rc::clone(&engine);
            let checkpoint = rt::spawn(async move { checkpoints.checkpoint().await });
            rt::time::sleep(Duration::from_micros(seed * 131 % 3000)).await;
            let joins: Vec<_> = (round..MANY)
                .step_by(3)
                .filter(|chunk| chunk % 2 == 0)
                .map(|chunk| {
                    let (engine, theirs) = (Rc::clone(&engine), Rc::clone(&theirs));
                    rt::spawn(async move {
                        rt::time::sleep(Duration::from_micros(rt::random::below(3000))).await;
                        engine.install(1000 + chunk, joiner(1, 4, true)).await.expect("it joins");
                        theirs.0[chunk as usize].set(4);
                    })
                })
                .collect();
            for join in joins {
                join.await.expect("not aborted");
            }
            checkpoint.await.expect("not aborted").expect("a checkpoint");
        }
        std::future::pending::<()>().await;
    });
    while !ready.get() {
        control::advance(Duration::from_micros(100)).await;
    }
    control::advance(Duration::from_micros(seed * 1571 % 40_000)).await;
    if seed.is_multiple_of(2) {
        control::kill(first.id());
    } else {
        control::power_cut(&[host], PeerView::Silence);
        control::power_on(host);
    }
    let _ended = first.wait().await;
    let second = control::start_process(host, "csd", async move {
        let engine = open(Path::new(DIR), no_interval()).await.expect("it opens");
        let mut wrong = Vec::new();
        let (mut joined, mut not_joined) = (0, 0);
        for (chunk, answered) in (1000..).zip(&answered.0) {
            let has = engine.progress(chunk, 4).map(|progress| progress.held);
            match has {
                Ok(2) => joined += 1,
                Err(Refusal::StaleVersion { have, .. }) if have <= 2 && have >= answered.get() => {
                    not_joined += 1
                }
                other => wrong.push((chunk, other, answered.get())),
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
        (joined, not_joined)
    });
    second.wait().await.returned()
}

/// Members with content of which some blocks cannot be had.
#[derive(Debug)]
struct Damaged {
    content: Vec<u8>,
    /// Damaged on each of them.
    bad: Vec<u32>,
    /// Not settled yet.
    unsettled: RefCell<Vec<u32>>,
}

impl Damaged {
    fn holds(blocks: &[u32], offset: u32, len: u32) -> bool {
        let range = offset / BLOCK as u32..(offset + len) / BLOCK as u32;
        blocks.iter().any(|block| range.contains(block))
    }
}

impl Source for Damaged {
    fn read(&self, offset: u32, len: u32) -> Reading<'_> {
        Box::pin(async move {
            if self.fault(offset, len) != Fault::Away {
                return Err(NotRead);
            }
            let bytes = &self.content[offset as usize..(offset + len) as usize];
            Ok(ReadReply { payload: Some(View::copy_of(bytes)), crcs: crcs(offset, bytes) })
        })
    }

    fn fault(&self, offset: u32, len: u32) -> Fault {
        if Self::holds(&self.unsettled.borrow(), offset, len) {
            return Fault::Partly;
        }
        if Self::holds(&self.bad, offset, len) { Fault::Partly } else { Fault::Away }
    }
}

#[test]
fn c8_what_no_member_gives_stays_missing_and_all_else_is_copied() {
    const BAD: u32 = 5;
    const UNSETTLED: u32 = 40;
    let rig = Rig::new();
    let content = pattern(77, SIZE as usize);
    rig.life(async move |engine| {
        let new = NewChunk { version: 2, joining: true, ..new_chunk(CHUNK, SIZE) };
        engine.create_chunk(new).await.unwrap();
        let source = Damaged { content, bad: vec![BAD, 21], unsettled: RefCell::new(vec![UNSETTLED]) };
        engine.take_difference(CHUNK, 2, &Known::default()).await.unwrap();
        let client = Client::new(&engine, 1);
        client.version.set(2);
        // Newer than what the members have lost.
        client.write(21 * BLOCK as u32, &source.content[21 * BLOCK..22 * BLOCK]).await;
        let lacking = || engine.progress(CHUNK, 2).unwrap().lacking.iter().collect::<Vec<u32>>();
        for first in (0..128).step_by(16) {
            let copied = engine.copy_regions(CHUNK, 2, first..first + 16, &source).await;
            assert_eq!(copied.is_ok(), first > 0, "{first}: {copied:?}");
        }
        engine.commit_copied(CHUNK, 2).await.unwrap();
        assert_eq!(lacking(), [0, 2], "the regions of what is damaged and of what is not settled");
        source.unsettled.take();
        engine.copy_regions(CHUNK, 2, 2..3, &source).await.unwrap();
        assert_eq!(engine.install(CHUNK, member(2, 3, false)).await, Err(Refusal::NotFilled(CHUNK)));
        // It is written again, to all.
        client.write(BAD * BLOCK as u32, &source.content[BAD as usize * BLOCK..][..BLOCK]).await;
        engine.copy_regions(CHUNK, 2, 0..1, &source).await.unwrap();
        engine.commit_copied(CHUNK, 2).await.unwrap();
        engine.install(CHUNK, member(2, 3, false)).await.unwrap();
        client.version.set(3);
        assert!(client.read(0, 4 * MIB).await == source.content[..4 * MIB as usize]);
    });
}

/// Members that have a block damaged, all of them.
#[derive(Debug)]
struct AllDamaged {
    members: Damaged,
    recorded: Vec<Option<u32>>,
    for_good: bool,
    settled: bool,
}

impl Source for AllDamaged {
    fn read(&self, offset: u32, len: u32) -> Reading<'_> {
        self.members.read(offset, len)
    }

    fn fault(&self, offset: u32, len: u32) -> Fault {
        match self.members.fault(offset, len) {
            Fault::Partly if len == BLOCK as u32 => {
                let (recorded, for_good, settled) = (self.recorded.clone(), self.for_good, self.settled);
                Fault::Lost { recorded, for_good, settled }
            }
            fault => fault,
        }
    }
}

#[test]
fn c8_a_block_that_no_member_has_whole_is_as_bad_in_the_new_replica() {
    const BAD: [u32; 3] = [5, 6, 300];
    let at = |block: u32| block as usize * BLOCK..(block as usize + 1) * BLOCK;
    let rig = Rig::new();
    let content = pattern(77, SIZE as usize);
    let whole = content.clone();
    rig.life(async move |engine| {
        let new = NewChunk { version: 2, joining: true, ..new_chunk(CHUNK, SIZE) };
        engine.create_chunk(new).await.unwrap();
        let members = Damaged { content: whole, bad: BAD.to_vec(), unsettled: RefCell::default() };
        let source = AllDamaged { members, recorded: vec![Some(7)], for_good: true, settled: false };
        engine.take_difference(CHUNK, 2, &Known::default()).await.unwrap();
        for first in (0..128).step_by(16) {
            engine.copy_regions(CHUNK, 2, first..first + 16, &source).await.unwrap();
        }
        engine.commit_copied(CHUNK, 2).await.unwrap();
        engine.install(CHUNK, member(2, 3, false)).await.unwrap();
    });
    // Replayed from the journal, then from the table.
    for life in 0..2 {
        let content = content.clone();
        rig.life(async move |engine| {
            let client = Client::new(&engine, 1);
            client.version.set(3);
            for block in 0..(SIZE / BLOCK as u64) as u32 {
                let read = client.try_read(CHUNK, block * BLOCK as u32, BLOCK as u32).await;
                let bad = BAD.contains(&block);
                let right =
                    if bad { Err(Refusal::Corrupt { block }) } else { Ok(content[at(block)].to_vec()) };
                assert!(read == right, "life {life}, block {block}");
            }
            for block in BAD {
                // What lies in the file was never this block.
                let accepted = engine.accept_block(FILE, 1, CHUNK, 3, block).await.map(|_| ());
                assert_eq!(accepted, Err(Refusal::Corrupt { block }));
            }
            assert_eq!(engine.verify_next().await.unwrap().expect("a chunk").damaged, 3);
            engine.checkpoint().await.unwrap();
        });
    }
    let found = checked(&rig.path);
    let lost = found.findings.iter().filter(|finding| finding.problem.kind() == "lost");
    let lost: Vec<_> = lost.map(|finding| finding.blocks.clone().expect("blocks")).collect();
    assert_eq!(lost, [5..7, 300..301]);
    rig.life(async move |engine| {
        let client = Client::new(&engine, 1);
        client.version.set(3);
        let block = |block| block * BLOCK as u32;
        client.write(block(BAD[0]), &content[at(BAD[0])]).await;
        client.zero(block(BAD[1]), BLOCK as u32).await;
        // Nothing is known that a repair could be compared with.
        let members = Damaged { content: content.clone(), bad: Vec::new(), unsettled: RefCell::default() };
        assert_eq!(engine.repair_blocks(FILE, CHUNK, 3, BAD[2]..BAD[2] + 1, &members).await, Ok(1));
        client.write(block(BAD[2]), &content[at(BAD[2])]).await;
        assert_eq!(client.read(block(BAD[0]), BLOCK as u32).await, content[at(BAD[0])]);
        assert_eq!(client.read(block(BAD[1]), BLOCK as u32).await, [0; BLOCK]);
        assert_eq!(client.read(block(BAD[2]), BLOCK as u32).await, content[at(BAD[2])]);
        assert_eq!(engine.verify_next().await.unwrap().expect("a chunk").damaged, 0);
    });
}

/// One rotten sector and one restart: the joiner has had the block all the time, and keeps it if it is what its members have on record.
#[test]
fn c8_a_joiner_keeps_the_last_good_copy_of_a_block() {
    const BAD: u32 = 5;
    for checksums in [true, false] {
        let rig = Rig::with(|superblock, _| superblock.no_checksums = !checksums);
        let old = pattern(1, 32 * BLOCK);
        let own = crc32c(&old[BAD as usize * BLOCK..][..BLOCK]);
        // What the members say, and what becomes of the block.
        let waits = Err(Refusal::NoSource(CHUNK));
        let cases = [
            (Some(own), true, Ok(true)),
            (None, true, waits.clone()),
            (Some(own ^ 1), true, Ok(false)),
            // Another joiner may have it: what is here is kept all the same, and nothing is given up.
            (Some(own), false, Ok(true)),
            (Some(own ^ 1), false, waits.clone()),
        ];
        let cases =
            cases.map(|(recorded, for_good, kept)| (vec![Some(own ^ 2), recorded], for_good, false, kept));
        // Nobody has a record left: in a reconciled chunk nobody ever will, and all else that is here is wanted.
        let forgotten = [
            (vec![None, None], true, true, Ok(false)),
            (vec![None, None], false, true, waits.clone()),
            (vec![None, None], true, false, waits),
        ];
        for (recorded, for_good, settled, kept) in cases.into_iter().chain(forgotten) {
            let (old, kept) = (old.clone(), if checksums { kept } else { Err(Refusal::NoSource(CHUNK)) });
            rig.life(async move |engine| {
                let client = Client::with_chunk(&engine, 1, SIZE).await;
                client.write(0, &old).await;
                client.flush().await;
                engine.install(CHUNK, joiner(1, 2, false)).await.unwrap();
                // Somebody has written the block before.
                let mut changed = Regions::default();
                changed.add_blocks(&(BAD - 1..BAD));
                let known = Known {
                    blocks: (SIZE / BLOCK as u64) as u32,
                    complete: true,
                    since: 1,
                    changed,
                    ..Known::default()
                };
                engine.take_difference(CHUNK, 2, &known).await.unwrap();
                let content = pattern(2, SIZE as usize);
                let members = Damaged { content, bad: vec![BAD], unsettled: RefCell::default() };
                let source = AllDamaged { members, recorded: recorded.clone(), for_good, settled };
                let copied = engine.copy_regions(CHUNK, 2, 0..2, &source).await;
                assert_eq!(copied.map(|_| ()), kept.clone().map(|_| ()), "{recorded:?}");
                engine.commit_copied(CHUNK, 2).await.unwrap();
                if let Ok(kept) = kept {
                    engine.install(CHUNK, member(2, 3, false)).await.unwrap();
                    client.version.set(3);
                    let read = client.try_read(CHUNK, BAD * BLOCK as u32, BLOCK as u32).await;
                    let block = old[BAD as usize * BLOCK..][..BLOCK].to_vec();
                    assert_eq!(read, if kept { Ok(block) } else { Err(Refusal::Corrupt { block: BAD }) });
                }
                let version = if kept.is_ok() { 3 } else { 2 };
                engine.delete_chunk(CHUNK, version).await.unwrap();
            });
        }
    }
}

/// Plain versions wait for headers, in a server that is idle until its next checkpoint: they are no maps.
#[test]
fn c6_versions_that_wait_for_headers_leave_the_journal_to_maps() {
    const RECORD: u64 = 640;
    let outcome = Simulation::new(SimOptions::new(1)).run(async {
        let host = control::add_host(HostOptions::new("cs"));
        let process = control::start_process(host, "csd", async move {
            let create = CreateOptions { dir: "/cs".into(), superblock: superblock() };
            engine::create(&create).await.expect("a new chunk server");
            let options = EngineOptions { checkpoint_interval: Duration::from_secs(60), ..no_interval() };
            let engine = open(Path::new("/cs"), options).await.expect("it opens");
            let chunks = 1000..1001 + create.superblock.journal_bytes / 8 / RECORD;
            for chunk in chunks.clone() {
                engine.create_chunk(new_chunk(chunk, 64 << 10)).await.expect("a new chunk");
            }
            // Whatever its birth has left to do.
            engine.checkpoint().await.expect("a checkpoint");
            for chunk in chunks {
                engine.install(chunk, member(1, 2, false)).await.expect("installed");
            }
            engine.install(1000, member(2, 3, true)).await.expect("installed");
            let known = engine.changed_regions(FILE, 1000, 3, 2).expect("a member");
            assert!(known.complete, "{known:?}");
            // The last of the checkpoints that so many installs have called for may be under way.
            rt::time::sleep(Duration::from_secs(1)).await;
            engine.install(1001, member(2, 3, false)).await.expect("installed");
            let before = engine.counters().checkpoints;
            rt::time::sleep(Duration::from_secs(90)).await;
            let after = engine.counters().checkpoints;
            assert_eq!(after, before + 1, "the versions go into the headers");
            rt::time::sleep(Duration::from_secs(600)).await;
            assert_eq!(engine.counters().checkpoints, after, "then there is nothing to do");
        });
        process.wait().await.returned();
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// A checkpoint takes long, and the block maps are as large as they may be: copies wait for it as writes do.
#[test]
fn c13_copies_wait_for_room_in_the_block_maps() {
    const BIG: u64 = 64 << 20;
    const STALL: Duration = Duration::from_secs(600);
    let outcome = Simulation::new(SimOptions::new(1)).run(async {
        let host = control::add_host(HostOptions::new("cs"));
        let ready = Rc::new(Cell::new(false));
        let is_ready = Rc::clone(&ready);
        let process = control::start_process(host, "csd", async move {
            let create = CreateOptions { dir: "/cs".into(), superblock: superblock() };
            engine::create(&create).await.expect("a new chunk server");
            let engine = open(Path::new("/cs"), no_interval()).await.expect("it opens");
            let client = Client::with_chunk(&engine, 1, SIZE).await;
            client.write(0, &pattern(1, 64 << 10)).await;
            client.flush().await;
            engine.checkpoint().await.expect("a checkpoint");
            engine.install(CHUNK, joiner(1, 2, false)).await.expect("it joins");
            for chunk in 1000..1000 + 2 * engine::BLOCK_MAP_MAX as u64 * BLOCK as u64 / BIG {
                engine.create_chunk(new_chunk(chunk, BIG)).await.expect("a new chunk");
            }
            // A checkpoint has to move this.
            client.try_write(1000, 0, &pattern(2, BLOCK)).await.expect("a write");
            client.done.set(client.next.get());
            is_ready.set(true);
            while is_ready.get() {
                rt::time::sleep(Duration::from_millis(1)).await;
            }
            let theirs = Rc::clone(&engine);
            let checkpoint = rt::spawn(async move { theirs.checkpoint().await });
            for chunk in 1000..1000 + 2 * engine::BLOCK_MAP_MAX as u64 * BLOCK as u64 / BIG {
                let zeroes = client.request(chunk, 0, BIG as u32, WriteKind::Zero);
                engine.write(zeroes).await.expect("a write of zeroes");
                client.done.set(client.next.get());
            }
            let theirs = Rc::clone(&engine);
            let copying = rt::spawn(async move { theirs.copy_regions(CHUNK, 2, 0..1, &Zeroes).await });
            rt::time::sleep(STALL / 2).await;
            assert!(!checkpoint.is_finished() && !copying.is_finished(), "there is no room");
            checkpoint.await.expect("not aborted").expect("a checkpoint");
            assert_eq!(copying.await.expect("not aborted"), Ok(64 << 10));
        });
        while !ready.get() {
            control::advance(Duration::from_millis(1)).await;
        }
        let stall = DiskFault::new(DiskFaultKind::Stall(STALL));
        control::disk_fault(host, "/cs", stall.on(format!("/cs/chunks/{:02x}", 1000 & 0xff)));
        ready.set(false);
        process.wait().await.returned();
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
