//! Damage of one replica or one page stays with it: the other chunks go on, and nobody is told that there is nothing where
//! there was something.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{self, BlockSurvey, CreateOptions, Refusal, Surveyed, WriteKind};
use cs_engine::format::superblock::Superblock;
use cs_engine::format::table::{CrcPage, Place};
use cs_engine::format::{BLOCK, crc32c};
use rt::sim::control;
use rt::sim::{DiskFault, DiskFaultKind, DiskOptions, HostOptions, SimOptions, Simulation};

use crate::rig::{CHUNK, Client, FILE, MIB, Rig, new_chunk, no_interval, open, pattern, superblock};
use crate::scrub::Holds;

const CHUNK_FILE: &str = "chunks/42/0001000000000042";

/// A device puts a write somewhere else, and the server is killed before anybody reads: what was there before was flushed, and matches
/// what was recorded then.
#[test]
fn c8_what_was_answered_is_not_rolled_back_by_a_kill() {
    const LEN: usize = 256 << 10;
    let rig = Rig::new();
    let (old, new) = (pattern(1, LEN), pattern(2, LEN));
    let (before, after) = (old.clone(), new.clone());
    rig.life(async move |engine| {
        let client = Client::with_chunk(&engine, 1, 8 << 20).await;
        client.write(0, &before).await;
        client.flush().await;
        engine.checkpoint().await.expect("a checkpoint");
        client.write(0, &after).await;
        assert!(engine.counters().in_place >= 2, "not through the journal");
    });
    let file = fs::File::options().write(true).open(rig.path.join(CHUNK_FILE)).unwrap();
    let lost = 3 * BLOCK..4 * BLOCK;
    file.write_all_at(&old[lost.clone()], lost.start as u64).unwrap();
    rig.life(async move |engine| {
        let client = Client::new(&engine, 1);
        let read = client.try_read(CHUNK, lost.start as u32, BLOCK as u32).await;
        assert_eq!(read, Err(Refusal::Unsettled { block: 3 }));
        let rest = client.try_read(CHUNK, lost.end as u32, (LEN - lost.end) as u32).await;
        assert_eq!(rest.as_deref(), Ok(&new[lost.end..]));
        engine.stop().await;
    });
}

/// Whoever settles has to know that something newer was there than what the other members have (simulator, seed 4448).
#[test]
fn c4_a_survey_names_a_write_that_is_damaged() {
    let rig = Rig::new();
    let path = rig.path.join(CHUNK_FILE);
    rig.life(async move |engine| {
        let client = Client::with_chunk(&engine, 1, 8 << 20).await;
        let written = pattern(1, 2 * BLOCK);
        client.write(0, &written).await;
        engine.checkpoint().await.expect("a checkpoint");
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[0x5A; BLOCK], BLOCK as u64).unwrap();
        file.sync_all().unwrap();
        let survey = engine.survey(FILE, 1, CHUNK, 1, 0, 2).await.expect("a survey");
        let [whole, damaged] = survey[..] else { panic!("{survey:?}") };
        assert_eq!(whole.content, Surveyed::Data(crc32c(&written[..BLOCK])));
        assert_eq!(damaged, BlockSurvey { content: Surveyed::Unknown, ..whole });
        assert_eq!(whole.epoch, 1, "{whole:?}");
        engine.stop().await;
    });
}

/// What settling puts in the place of a block stays there: one wrong answer of a device is not enough.
#[test]
fn c4_a_survey_asks_a_device_twice() {
    let faults = [DiskFaultKind::CorruptRead, DiskFaultKind::ReadError, DiskFaultKind::BitRot];
    let cases = faults.into_iter().flat_map(|kind| [(kind, 1), (kind, 2)]);
    for (kind, times) in cases {
        let mut simulation = Simulation::new(SimOptions::new(1));
        let ended = simulation.run(async move {
            let host = control::add_host(HostOptions::new("cs").with_disk(DiskOptions::default()));
            let dir = Path::new("/cs");
            let first = control::start_process(host, "csd", async move {
                engine::create(&CreateOptions { dir: dir.into(), superblock: superblock() })
                    .await
                    .expect("a server");
                let engine = open(dir, no_interval()).await.expect("it opens");
                Client::with_chunk(&engine, 1, 8 << 20).await.write(0, &pattern(1, BLOCK)).await;
                engine.stop().await;
            });
            first.wait().await.returned();
            let fault = DiskFault::new(kind).on(dir.join(CHUNK_FILE)).times(times);
            control::disk_fault(host, dir, fault);
            let second = control::start_process(host, "csd", async move {
                let engine = open(dir, no_interval()).await.expect("it opens");
                let survey = engine.survey(FILE, 1, CHUNK, 1, 0, 1).await.expect("a survey");
                let is_lost = times == 2 || kind == DiskFaultKind::BitRot;
                let content =
                    if is_lost { Surveyed::Unknown } else { Surveyed::Data(crc32c(&pattern(1, BLOCK))) };
                assert_eq!(survey[0].content, content, "{kind:?}, {times} times");
            });
            second.wait().await.returned();
            assert_eq!(control::coverage().get(kind.name()), Some(&times));
            let damages = control::damages();
            let block = (dir.join(CHUNK_FILE), 0..BLOCK as u64);
            assert!(damages.iter().all(|damage| (damage.path.clone(), damage.bytes.clone()) == block));
            assert_eq!(damages.len() as u64, times);
        });
        ended.expect("it comes to an end");
    }
}

/// A discard opens no file, so that it is acknowledged; a checkpoint has to live with it.
#[test]
fn c13_a_lost_chunk_file_stops_no_checkpoint() {
    const OTHER: u64 = CHUNK + 1;
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, 8 << 20).await;
        engine.create_chunk(new_chunk(OTHER, 8 << 20)).await.expect("another chunk");
        client.write(0, &pattern(1, 4 * BLOCK)).await;
        client.flush().await;
        engine.stop().await;
    });
    let (file, aside) = (rig.path.join(CHUNK_FILE), rig.path.join("aside"));
    fs::rename(&file, &aside).unwrap();
    rig.life(async move |engine| {
        // The metadata server is told of it whether anybody reads it or not (C9).
        let told = || -> Vec<(u64, bool)> {
            engine.inventory(0, 9).iter().map(|held| (held.chunk, held.lost)).collect()
        };
        assert_eq!(told(), [(CHUNK, true), (OTHER, false)]);
        let client = Client::new(&engine, 2);
        client.zero(0, BLOCK as u32).await;
        engine.checkpoint().await.expect("a checkpoint");
        // More than the journal holds, several times.
        for round in 0..8 {
            for piece in 0..64 {
                let bytes = pattern(round << 8 | piece, 64 << 10);
                client.try_write(OTHER, piece as u32 * (64 << 10), &bytes).await.expect("a write");
                client.done.set(client.next.get());
            }
            client.flush().await;
        }
        let lost = client.try_read(CHUNK, BLOCK as u32, BLOCK as u32).await;
        assert_eq!(lost, Err(Refusal::ReplicaLost(CHUNK)));
        // The operator puts it back.
        fs::rename(&aside, &file).unwrap();
        client.try_read(CHUNK, BLOCK as u32, BLOCK as u32).await.expect("it is there again");
        assert_eq!(told(), [(CHUNK, false), (OTHER, false)]);
        engine.stop().await;
    });
}

/// The newer copy of a page rots; the older one still calls a block a hole that has data since.
#[test]
fn c8_the_older_copy_of_a_page_is_not_believed_about_holes() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, 8 << 20).await;
        client.write(0, &pattern(1, BLOCK)).await;
        engine.checkpoint().await.expect("a checkpoint");
        client.write(BLOCK as u32, &pattern(2, BLOCK)).await;
        client.flush().await;
        engine.stop().await;
    });
    let table = fs::File::options().read(true).write(true).open(rig.path.join("crc.table")).unwrap();
    let copies = [0, 1].map(|copy| {
        let at = Place::CrcPage { slot: 0, page: 0, copy }.offset();
        let mut block = [0; BLOCK];
        table.read_exact_at(&mut block, at).unwrap();
        (CrcPage::decode(&block, &[3; 16]).expect("a page").sequence, at)
    });
    let (_, newest) = copies.into_iter().max().unwrap();
    table.write_all_at(&[0x5a; 64], newest + 2048).unwrap();
    rig.life(async |engine| {
        let client = Client::new(&engine, 2);
        assert_eq!(client.try_read(CHUNK, 0, BLOCK as u32).await, Ok(pattern(1, BLOCK)));
        // One is on the list of the last epoch: whoever reconciles that may settle it. Nobody is about to settle the other: it is damage,
        // and another member repairs it.
        for (block, refusal) in [(1, Refusal::Unsettled { block: 1 }), (2, Refusal::Corrupt { block: 2 })] {
            let read = client.try_read(CHUNK, block * BLOCK as u32, BLOCK as u32).await;
            assert_eq!(read, Err(refusal));
        }
        // Written anew all is well again.
        client.write(BLOCK as u32, &pattern(3, BLOCK)).await;
        engine.stop().await;
    });
    rig.life(async |engine| {
        let client = Client::new(&engine, 3);
        assert_eq!(client.try_read(CHUNK, BLOCK as u32, BLOCK as u32).await, Ok(pattern(3, BLOCK)));
    });
}

/// What is remembered of files cannot be flushed away: it must not make writers flush for ever.
#[test]
fn c13_many_files_do_not_stop_a_writer() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, 8 << 20).await;
        for batch in 0..30 {
            let fences: Vec<_> = (0..1000)
                .map(|file| {
                    let engine = Rc::clone(&engine);
                    rt::spawn(async move { engine.fence(1_000_000 + batch * 1000 + file, 1).await })
                })
                .collect();
            for fence in fences {
                fence.await.expect("it ends").expect("a fence");
            }
        }
        // Neither is answered before the other: no flush would help the second.
        for block in 0..2 {
            let written = client.try_write(CHUNK, block * BLOCK as u32, &pattern(1, BLOCK)).await;
            assert_eq!(written.map(|reply| reply.flush_soon), Ok(false));
        }
    });
}

/// Whoever lists a write counts as having its content: a replica that refused it before anything was written would pass off what was there
/// before as that write, and be believed as much as one that has it (simulator, seed 10266).
#[test]
fn c5_who_has_refused_a_write_has_nothing_of_it() {
    let mut simulation = Simulation::new(SimOptions::new(1));
    let ended = simulation.run(async {
        let disk = DiskOptions { capacity: 32 << 20, ..DiskOptions::default() };
        let host = control::add_host(HostOptions::new("cs").with_disk(disk));
        let (ready, full) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let (theirs, is_full) = (Rc::clone(&ready), Rc::clone(&full));
        let server = control::start_process(host, "csd", async move {
            let dir = Path::new("/cs");
            engine::create(&CreateOptions { dir: dir.into(), superblock: superblock() })
                .await
                .expect("a server");
            let engine = open(dir, no_interval()).await.expect("it opens");
            let client = Client::with_chunk(&engine, 1, 8 << 20).await;
            theirs.set(true);
            while !is_full.get() {
                rt::time::sleep(Duration::from_millis(1)).await;
            }
            let refused = client.try_write(CHUNK, 3 * MIB, &pattern(1, 2 * BLOCK)).await;
            assert_eq!(refused.map(drop), Err(Refusal::NoSpace));
            let first = 3 * MIB / BLOCK as u32;
            let survey = engine.survey(FILE, 1, CHUNK, 1, first, 2).await.expect("a survey");
            let hole = BlockSurvey { epoch: 0, seq: 0, content: Surveyed::Hole };
            assert_eq!(survey, [hole, hole]);
            let doubts = engine.doubts(FILE, 1, CHUNK, 1).expect("doubts");
            assert!(doubts.iter().all(|doubt| doubt.seq == 0), "{doubts:?}");
        });
        while !ready.get() {
            control::advance(Duration::from_millis(1)).await;
        }
        control::occupy(host, "/cs", 32 << 20);
        full.set(true);
        server.wait().await.returned();
    });
    ended.expect("no violation");
}

/// A checkpoint may forget the record of one part while the others wait for room: whoever is asked then has to know of it (C5).
#[test]
fn c5_a_part_of_a_write_is_listed_as_soon_as_it_is_there() {
    let mut simulation = Simulation::new(SimOptions::new(1));
    let ended = simulation.run(async {
        let disk = DiskOptions { capacity: 32 << 20, ..DiskOptions::default() };
        let host = control::add_host(HostOptions::new("cs").with_disk(disk));
        let server = control::start_process(host, "csd", async move {
            let dir = Path::new("/cs");
            engine::create(&CreateOptions { dir: dir.into(), superblock: superblock() })
                .await
                .expect("a server");
            let engine = open(dir, no_interval()).await.expect("it opens");
            let client = Client::with_chunk(&engine, 1, 8 << 20).await;
            client.write(0, &pattern(1, 4 * BLOCK)).await;
            client.flush().await;
            // Two parts of blocks, and whole ones between them.
            let zeroes = client.request(CHUNK, 100, 3 * BLOCK as u32, WriteKind::Zero);
            let seq = zeroes.seq;
            let (theirs, over) = (Rc::clone(&engine), Rc::new(Cell::new(false)));
            let is_over = Rc::clone(&over);
            let writing = rt::spawn(async move {
                let written = theirs.write(zeroes).await;
                is_over.set(true);
                written
            });
            let mut listed = false;
            while !over.get() {
                let doubts = engine.doubts(FILE, 1, CHUNK, 1).expect("doubts");
                listed |= doubts.iter().any(|doubt| doubt.seq == seq);
                rt::time::sleep(Duration::from_micros(1)).await;
            }
            writing.await.expect("it ends").expect("zeroed");
            assert!(listed, "nobody could know of its parts before it was over");
        });
        server.wait().await.returned();
    });
    ended.expect("no violation");
}

/// Behind the end of what was written a bad sector is nobody's loss.
#[test]
fn c13_an_unreadable_sector_in_the_unused_ring_stops_no_start() {
    let mut simulation = Simulation::new(SimOptions::new(1));
    let ended = simulation.run(async {
        let disk = DiskOptions { capacity: 32 << 20, ..DiskOptions::default() };
        let host = control::add_host(HostOptions::new("cs").with_disk(disk));
        let dir = Path::new("/cs");
        let first = control::start_process(host, "csd", async move {
            engine::create(&CreateOptions { dir: dir.into(), superblock: superblock() })
                .await
                .expect("a server");
            let engine = open(dir, no_interval()).await.expect("it opens");
            let client = Client::with_chunk(&engine, 1, 8 << 20).await;
            client.write(0, &pattern(1, BLOCK)).await;
            client.flush().await;
        });
        first.wait().await.returned();
        control::make_unreadable(host, "/cs/journal", (4 << 20)..(4 << 20) + 4096).expect("a journal");
        let second = control::start_process(host, "csd", async move {
            let engine = open(dir, no_interval()).await.expect("it opens");
            let client = Client::new(&engine, 1);
            assert_eq!(client.try_read(CHUNK, 0, BLOCK as u32).await, Ok(pattern(1, BLOCK)));
            engine.stop().await;
        });
        second.wait().await.returned();
    });
    ended.expect("no violation");
}

/// What a deleted chunk leaves in its slot says nothing of the next one there.
#[test]
fn c8_damage_of_a_deleted_chunks_page_does_not_outlive_it() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, 8 << 20).await;
        client.write(0, &pattern(1, BLOCK)).await;
        client.flush().await;
        engine.stop().await;
    });
    let table = fs::File::options().read(true).write(true).open(rig.path.join("crc.table")).unwrap();
    let at = Place::CrcPage { slot: 0, page: 0, copy: 0 }.offset();
    table.write_all_at(&[0x5a; 64], at + 2048).unwrap();
    rig.life(async |engine| {
        engine.delete_chunk(CHUNK, 1).await.expect("deleted");
        engine.create_chunk(new_chunk(CHUNK + 1, 8 << 20)).await.expect("another in its slot");
        let client = Client::new(&engine, 1);
        client.try_write(CHUNK + 1, 0, &pattern(2, BLOCK)).await.expect("a write");
        client.flush().await;
        engine.stop().await;
    });
    rig.life(async |engine| {
        let client = Client::new(&engine, 1);
        for (block, expected) in [(0, pattern(2, BLOCK)), (1, vec![0; BLOCK])] {
            assert_eq!(client.try_read(CHUNK + 1, block * BLOCK as u32, BLOCK as u32).await, Ok(expected));
        }
    });
}

/// Groups behind one that cannot be read were acknowledged after it: it is no torn tail.
#[test]
fn c3_an_unreadable_sector_between_groups_is_damage() {
    let mut simulation = Simulation::new(SimOptions::new(1));
    let ended = simulation.run(async {
        let disk = DiskOptions { capacity: 32 << 20, ..DiskOptions::default() };
        let host = control::add_host(HostOptions::new("cs").with_disk(disk));
        let dir = Path::new("/cs");
        let first = control::start_process(host, "csd", async move {
            engine::create(&CreateOptions { dir: dir.into(), superblock: superblock() })
                .await
                .expect("a server");
            let engine = open(dir, no_interval()).await.expect("it opens");
            let client = Client::with_chunk(&engine, 1, 8 << 20).await;
            client.flush().await;
            // Acknowledged and not flushed: nothing says so far that any of it is durable.
            for block in 0..8 {
                client.write(block * BLOCK as u32, &pattern(u64::from(block), BLOCK)).await;
            }
        });
        first.wait().await.returned();
        let start = cs_engine::format::journal::RING_START;
        control::make_unreadable(host, "/cs/journal", start + 4 * 4096..start + 5 * 4096).expect("a journal");
        let second = control::start_process(host, "csd", async move {
            match open(dir, no_interval()).await {
                Ok(_) => panic!("acknowledged writes are missing"),
                Err(error) => assert!(error.to_string().contains("no sector can be read"), "{error}"),
            }
        });
        second.wait().await.returned();
    });
    ended.expect("no violation");
}

/// Without checksums (`-S`) a sector that cannot be read is found all the same, and repaired with what is settled elsewhere.
#[test]
fn c8_a_server_without_checksums_finds_and_repairs_what_cannot_be_read() {
    let mut simulation = Simulation::new(SimOptions::new(1));
    let ended = simulation.run(async {
        let disk = DiskOptions { capacity: 32 << 20, ..DiskOptions::default() };
        let host = control::add_host(HostOptions::new("cs").with_disk(disk));
        let dir = Path::new("/cs");
        let first = control::start_process(host, "csd", async move {
            let superblock = Superblock { no_checksums: true, ..superblock() };
            engine::create(&CreateOptions { dir: dir.into(), superblock }).await.expect("a server");
            let engine = open(dir, no_interval()).await.expect("it opens");
            let client = Client::with_chunk(&engine, 1, 4 << 20).await;
            client.write(0, &pattern(1, 4 * BLOCK)).await;
            client.write(BLOCK as u32 + 100, &pattern(2, 50)).await;
            client.zero(3 * BLOCK as u32, BLOCK as u32).await;
            client.flush().await;
            engine.clear_doubts(FILE, 2, CHUNK, 1).await.expect("settled");
            engine.stop().await;
        });
        first.wait().await.returned();
        let mut content = pattern(1, 4 * BLOCK);
        content[BLOCK + 100..BLOCK + 150].copy_from_slice(&pattern(2, 50));
        content[3 * BLOCK..].fill(0);
        control::make_unreadable(host, dir.join(CHUNK_FILE), 4096..8192).expect("a chunk file");
        let second = control::start_process(host, "csd", async move {
            let engine = open(dir, no_interval()).await.expect("it opens");
            let client = Client::new(&engine, 2);
            let verified = engine.verify_next().await.expect("it runs").expect("a chunk");
            assert_eq!(verified.damaged, 1, "everything is read");
            assert_eq!(client.try_read(CHUNK, 4096, 4096).await, Err(Refusal::Corrupt { block: 1 }));
            let mut all = content.clone();
            all.resize(4 << 20, 0);
            let source = Holds { content: all, listed: vec![], damaged: vec![] };
            assert_eq!(engine.repair_blocks(FILE, CHUNK, 1, 0..4, &source).await, Ok(0));
            engine.checkpoint().await.expect("a checkpoint");
            assert_eq!(client.try_read(CHUNK, 0, 4 * BLOCK as u32).await, Ok(content));
            assert_eq!(engine.verify_next().await.expect("it runs").expect("a chunk").damaged, 0);
            assert!(engine.damage().is_empty());
            engine.stop().await;
        });
        second.wait().await.returned();
    });
    ended.expect("no violation");
}

/// What rots in the journal before it is moved is the last that has a checksum there: nothing is served without it.
#[test]
fn c8_a_server_without_checksums_moves_nothing_that_has_rotted() {
    let rig = Rig::with(|superblock, _| superblock.no_checksums = true);
    let path = rig.path.clone();
    rig.life(async move |engine| {
        let client = Client::with_chunk(&engine, 1, 4 << 20).await;
        client.write(0, &pattern(1, BLOCK)).await;
        client.flush().await;
        let wanted = pattern(1, BLOCK);
        let journal = fs::File::options().read(true).write(true).open(path.join("journal")).unwrap();
        let mut ring = vec![0; 4 << 20];
        journal.read_exact_at(&mut ring, 0).unwrap();
        let at = ring.chunks(BLOCK).position(|block| block == wanted).expect("the payload") * BLOCK;
        journal.write_all_at(&[wanted[5] ^ 1], at as u64 + 5).unwrap();
        journal.sync_all().unwrap();
        assert_eq!(engine.checkpoint().await, Err(Refusal::DeviceFailed));
        assert!(client.try_read(CHUNK, 0, BLOCK as u32).await.is_err());
    });
}
