//! Versions, maps of changes, and what a joiner is (C6, C7).

use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{self, CreateOptions, Engine, Install, Listed, NewChunk, Refusal};
use cs_engine::format::BLOCK;
use rt::sim::control::{self, PeerView};
use rt::sim::{HostOptions, SimOptions, Simulation};

use crate::check::checked;
use crate::rig::{CHUNK, Client, FILE, MIB, Rig, new_chunk, no_interval, open, pattern, superblock};
use crate::simulated::seeds_asked_for;

const REGION: u32 = 64 << 10;
const SIZE: u64 = 8 << 20;

pub(crate) fn member(from: u64, to: u64, keep: bool) -> Install {
    Install { from, to, joiner: false, keep }
}

pub(crate) fn joiner(from: u64, to: u64, keep: bool) -> Install {
    Install { from, to, joiner: true, keep }
}

fn changed(engine: &Engine, version: u64, held: u64) -> (bool, u64, BTreeSet<u32>) {
    let known = engine.changed_regions(FILE, CHUNK, version, held).expect("a member");
    (known.complete, known.since, known.changed.iter().collect())
}

fn stale(have: u64, wanted: u64) -> Refusal {
    Refusal::StaleVersion { have, wanted }
}

#[test]
fn an_install_waits_for_what_is_under_way_and_is_there_after_a_kill() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Rc::new(Client::with_chunk(&engine, 1, SIZE).await);
        let first = client.data(CHUNK, 0, &pattern(1, MIB as usize));
        let second = client.data(CHUNK, 2 * MIB, &pattern(2, 4096));
        let (theirs, ours) = (Rc::clone(&engine), Rc::clone(&engine));
        let writing = rt::spawn(async move { theirs.write(first).await });
        // The first one holds its range; the install comes before the second.
        rt::yield_now().await;
        let installing = rt::spawn(async move { ours.install(CHUNK, member(1, 4, false)).await });
        rt::yield_now().await;
        assert_eq!(engine.write(second).await, Err(stale(4, 1)));
        assert!(writing.await.unwrap().is_ok());
        assert_eq!(installing.await.unwrap(), Ok(()));
        assert_eq!(client.try_read(CHUNK, 0, 4096).await, Err(stale(4, 1)));
        client.version.set(4);
        assert_eq!(client.read(0, MIB).await, pattern(1, MIB as usize));
        assert_eq!(engine.install(CHUNK, member(2, 4, true)).await, Ok(()), "again");
        assert_eq!(engine.install(CHUNK, member(2, 3, false)).await, Err(stale(4, 3)));
        assert_eq!(engine.install(CHUNK, member(5, 6, false)).await, Err(stale(4, 6)));
        assert_eq!(engine.install(9, member(1, 2, false)).await, Err(Refusal::UnknownChunk(9)));
    });
    // From the journal, then from the header.
    for orderly in [false, true, true] {
        assert_eq!(checked(&rig.path).findings.len(), 0, "{}", checked(&rig.path));
        rig.life(async move |engine| {
            let client = Client::new(&engine, 1);
            client.version.set(4);
            assert_eq!(client.read(0, MIB).await, pattern(1, MIB as usize));
            assert_eq!(engine.install(CHUNK, member(1, 4, false)).await, Ok(()));
            if orderly {
                engine.stop().await;
            }
        });
    }
}

#[test]
fn a_map_names_what_was_written_and_what_was_not_stable() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, SIZE).await;
        client.write(0, &pattern(1, 4096)).await;
        client.flush().await;
        client.write(3 * REGION, &pattern(2, 4096)).await;
        client.write(5 * REGION - 100, &pattern(3, 200)).await;
        engine.install(CHUNK, member(1, 2, true)).await.unwrap();
        client.version.set(2);
        // The writer says that the first one is stable with its next write.
        let mut expected = BTreeSet::from([3, 4, 5]);
        let (complete, since, regions) = changed(&engine, 2, 1);
        assert!(complete && since == 1 && regions.is_superset(&expected), "{regions:?}");
        engine.checkpoint().await.unwrap();
        for (offset, len) in [(7 * REGION + 5, 10), (40 * REGION, 3 * REGION), (64 * REGION - 4096, 8192)] {
            client.write(offset, &pattern(4, len as usize)).await;
            expected.extend(offset / REGION..(offset + len).div_ceil(REGION));
        }
        client.zero(100 * REGION, 4096).await;
        expected.insert(100);
        let first = regions.clone();
        let (_, _, regions) = changed(&engine, 2, 1);
        let mut all = first;
        all.extend(&expected);
        assert_eq!(regions, all, "exactly what was written");
        assert!(regions.len() <= expected.len() + 1, "{regions:?}");
        // One more leaves: the map goes on.
        engine.install(CHUNK, member(2, 3, true)).await.unwrap();
        assert_eq!(changed(&engine, 3, 2), (true, 1, regions.clone()));
        assert!(!engine.changed_regions(FILE, CHUNK, 3, 0).unwrap().complete, "a new one lacks everything");
        client.flush().await;
    });
    // Killed: the journal has the writes; after a checkpoint the map itself is recorded.
    let kept: BTreeSet<u32> = [3, 4, 5, 7, 40, 41, 42, 63, 64, 100].into();
    for checkpoint in [true, false, true] {
        let kept = kept.clone();
        assert_eq!(checked(&rig.path).findings.len(), 0, "{}", checked(&rig.path));
        rig.life(async move |engine| {
            let (complete, since, regions) = changed(&engine, 3, 1);
            assert!(complete && since == 1 && regions.is_superset(&kept), "{regions:?}");
            assert!(regions.len() <= kept.len() + 1, "{regions:?}");
            if checkpoint {
                engine.checkpoint().await.unwrap();
                engine.checkpoint().await.unwrap();
            }
        });
    }
    rig.life(async |engine| {
        engine.install(CHUNK, member(3, 4, false)).await.unwrap();
        assert_eq!(changed(&engine, 4, 3), (false, 0, BTreeSet::new()));
        engine.install(CHUNK, member(4, 5, true)).await.unwrap();
        assert!(!changed(&engine, 5, 3).0, "it begins too late for whoever held 3");
        assert!(changed(&engine, 5, 4).0);
    });
}

#[test]
fn a_joiner_forgets_what_it_did_alone_and_serves_nobody() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, SIZE).await;
        client.write(0, &pattern(1, 2 * MIB as usize)).await;
        client.flush().await;
        client.write(3 * MIB, &pattern(2, 4096)).await;
        engine.checkpoint().await.unwrap();
        client.write(5 * MIB, &pattern(3, 4096)).await;
        client.done.set(client.next.get());
        assert!(!engine.doubts(FILE, 1, CHUNK, 1).unwrap().is_empty());
        engine.install(CHUNK, joiner(1, 3, true)).await.unwrap();
        client.version.set(3);
        let lacking = engine.progress(CHUNK, 3).unwrap();
        assert_eq!((lacking.held, lacking.lacking.len()), (1, 128), "what it lacks is not known yet");
        for refused in [
            client.try_read(CHUNK, 0, 4096).await.map(drop),
            engine.doubts(FILE, 1, CHUNK, 3).map(drop),
            engine.survey(FILE, 1, CHUNK, 3, 0, 1).await.map(drop),
            engine.holes(FILE, 1, CHUNK, 3, 0, 4096).await.map(drop),
            engine.clear_doubts(FILE, 2, CHUNK, 3).await,
            engine.read_for_joiner(FILE, CHUNK, 3, 0, 4096).await.map(drop),
            engine.changed_regions(FILE, CHUNK, 3, 1).map(drop),
        ] {
            assert_eq!(refused, Err(Refusal::Joining(CHUNK)));
        }
        assert_eq!(engine.install(CHUNK, member(3, 4, false)).await, Err(Refusal::NotFilled(CHUNK)));
        assert!(matches!(engine.install(CHUNK, member(1, 3, false)).await, Err(Refusal::Invalid(_))));
        // It takes writes like a member.
        client.write(6 * MIB, &pattern(4, 4096)).await;
        client.flush().await;
    });
    for checkpoint in [true, false, false] {
        assert_eq!(checked(&rig.path).findings.len(), 0, "{}", checked(&rig.path));
        rig.life(async move |engine| {
            let known = engine::Known { complete: true, since: 1, ..engine::Known::default() };
            if checkpoint {
                engine.checkpoint().await.unwrap();
                engine.checkpoint().await.unwrap();
                return;
            }
            engine.take_difference(CHUNK, 3, &known).await.unwrap();
            let progress = engine.progress(CHUNK, 3).unwrap();
            let lacking: BTreeSet<u32> = progress.lacking.iter().collect();
            // All of the extents that it had marked or listed, and nothing of what came after it joined.
            let extents: BTreeSet<u32> = lacking.iter().map(|region| region / 16).collect();
            assert!(extents.contains(&3) && extents.contains(&5) && !extents.contains(&6), "{extents:?}");
            assert_eq!(progress.held, 3);
        });
    }
}

#[test]
fn a_new_joiner_never_looks_like_a_member() {
    let rig = Rig::new();
    let new = NewChunk { version: 7, joining: true, ..new_chunk(CHUNK, SIZE) };
    rig.life(async move |engine| {
        engine.create_chunk(new).await.unwrap();
        assert_eq!(engine.create_chunk(new).await, Ok(()), "again");
        assert_eq!(engine.create_chunk(NewChunk { joining: false, ..new }).await, Err(stale(7, 7)));
    });
    for _ in 0..2 {
        assert_eq!(checked(&rig.path).findings.len(), 0, "{}", checked(&rig.path));
        rig.life(async |engine| {
            let progress = engine.progress(CHUNK, 7).unwrap();
            assert_eq!((progress.held, progress.lacking.len(), progress.blocks), (0, 128, 2048));
            assert_eq!(engine.install(CHUNK, member(7, 8, false)).await, Err(Refusal::NotFilled(CHUNK)));
            engine.checkpoint().await.unwrap();
        });
    }
    rig.life(async |engine| {
        engine.delete_chunk(CHUNK, 7).await.unwrap();
        engine.checkpoint().await.unwrap();
        assert_eq!(engine.progress(CHUNK, 7), Err(Refusal::UnknownChunk(CHUNK)));
    });
    rig.life(async |engine| assert_eq!(engine.chunk_count(), 0));
}

/// Power fails at any moment of a series of installs with writes between: what was answered is there.
#[test]
fn power_cuts_take_no_installed_version_back() {
    for seed in seeds_asked_for().unwrap_or(0..60) {
        crate::rig::log();
        Simulation::new(SimOptions::new(seed))
            .run(cut_while_installing(seed))
            .unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// Version and changed regions that were answered.
#[derive(Default)]
struct Answered {
    version: std::cell::Cell<u64>,
    flushed: std::cell::RefCell<BTreeSet<u32>>,
}

async fn cut_while_installing(seed: u64) {
    const DIR: &str = "/cs";
    let host = control::add_host(HostOptions::new("cs"));
    let create = CreateOptions { dir: DIR.into(), superblock: superblock() };
    let made = control::start_process(host, "make-cs", async move { engine::create(&create).await.is_ok() });
    assert!(made.wait().await.returned());
    let answered = Rc::new(Answered::default());
    for life in 0..4 {
        let theirs = Rc::clone(&answered);
        let process = control::start_process(host, "csd", async move {
            let engine = open(Path::new(DIR), no_interval()).await.expect("it opens");
            work_and_install(&engine, &theirs, life, seed).await;
        });
        control::advance(Duration::from_micros(500 + (seed * 7919 + life * 104_729) % 40_000)).await;
        control::power_cut(&[host], PeerView::Silence);
        control::power_on(host);
        let _cut = process.wait().await;
    }
}

async fn work_and_install(engine: &Rc<Engine>, answered: &Answered, life: u64, seed: u64) {
    let client = Client::new(engine, life + 1);
    engine
        .create_chunk(new_chunk(CHUNK, SIZE))
        .await
        .or_else(|refusal| match refusal {
            Refusal::StaleVersion { .. } => Ok(()),
            other => Err(other),
        })
        .expect("the chunk is there");
    let answered_version = answered.version.get().max(1);
    let have = match engine.install(CHUNK, member(u64::MAX, u64::MAX, false)).await {
        Err(Refusal::StaleVersion { have, .. }) => have,
        other => panic!("{other:?}"),
    };
    assert!(have >= answered_version, "version {answered_version} was answered, {have} is here");
    // The first version has no map.
    if have > 1 {
        let (complete, since, regions) = changed(engine, have, 1);
        assert!(complete && since == 1, "since {since}");
        assert!(regions.is_superset(&answered.flushed.borrow()), "{regions:?}");
    }
    client.version.set(have);
    for step in 0.. {
        let at = ((seed + life * 31 + step * 7) % 128) as u32;
        client.write(at * REGION, &pattern(step, BLOCK)).await;
        if step % 3 == 0 {
            client.flush().await;
            answered.flushed.borrow_mut().extend((client.version.get() > 1).then_some(at));
        }
        if step % 4 == 1 {
            let to = client.version.get() + 1;
            engine.install(CHUNK, member(1, to, true)).await.expect("an install");
            client.version.set(to);
            answered.version.set(to);
        }
        if step % 9 == 8 {
            engine.checkpoint().await.expect("a checkpoint");
        }
    }
}

#[test]
fn an_inherited_list_is_durable() {
    let rig = Rig::new();
    let listed =
        [Listed { epoch: 3, seq: 9, first: 0, count: 2 }, Listed { epoch: 2, seq: 70, first: 5, count: 1 }];
    let new = NewChunk { version: 7, joining: true, ..new_chunk(CHUNK, SIZE) };
    rig.life(async move |engine| {
        engine.create_fenced(new, 4).await.unwrap();
        engine.inherit_list(CHUNK, 7, &listed).await.unwrap();
    });
    for _ in 0..2 {
        rig.life(async move |engine| {
            engine.install(CHUNK, joiner(1, 7, false)).await.unwrap();
            engine.checkpoint().await.unwrap();
        });
    }
    // Joining again voids it, for good.
    rig.life(async move |engine| {
        engine.install(CHUNK, joiner(1, 9, false)).await.unwrap();
        engine.inherit_list(CHUNK, 9, &listed[..1]).await.unwrap();
    });
    rig.life(async |engine| {
        let known = engine::Known::default();
        engine.take_difference(CHUNK, 9, &known).await.unwrap();
        let zeroes = crate::fill::Zeroes;
        engine.copy_regions(CHUNK, 9, 0..128, &zeroes).await.unwrap();
        engine.commit_copied(CHUNK, 9).await.unwrap();
        engine.install(CHUNK, member(9, 10, false)).await.unwrap();
        let doubts = engine.doubts(FILE, 4, CHUNK, 10).unwrap();
        let writes: Vec<_> = doubts
            .iter()
            .filter(|doubt| doubt.epoch > 0)
            .map(|d| (d.epoch, d.seq, d.first, d.count))
            .collect();
        assert_eq!(writes, [(3, 9, 0, 2)]);
    });
}

/// Power fails around a join, with checkpoints beside it: what the replica listed before never counts afterwards.
#[test]
fn what_a_join_voids_stays_void() {
    let mut joined = 0;
    for seed in seeds_asked_for().unwrap_or(0..80) {
        crate::rig::log();
        let ended = Simulation::new(SimOptions::new(seed)).run(cut_while_joining(seed));
        joined += u32::from(ended.unwrap_or_else(|failure| panic!("seed {seed}: {failure}")));
    }
    assert!(seeds_asked_for().is_some() || (10..80).contains(&joined), "{joined} of 80 had joined");
}

/// Whether it had joined when the power failed.
async fn cut_while_joining(seed: u64) -> bool {
    const DIR: &str = "/cs";
    let host = control::add_host(HostOptions::new("cs"));
    let ready = Rc::new(std::cell::Cell::new(false));
    let is_ready = Rc::clone(&ready);
    let first = control::start_process(host, "csd", async move {
        let create = CreateOptions { dir: DIR.into(), superblock: superblock() };
        engine::create(&create).await.expect("a new chunk server");
        let engine = open(Path::new(DIR), no_interval()).await.expect("it opens");
        let client = Client::with_chunk(&engine, 1, SIZE).await;
        for region in 0..100 {
            client.write(region * REGION, &pattern(9, BLOCK)).await;
        }
        engine.flush().await.expect("a flush");
        let theirs = Rc::clone(&engine);
        let _checkpoints = rt::spawn(async move {
            while theirs.checkpoint().await.is_ok() {
                rt::time::sleep(Duration::from_micros(50)).await;
            }
        });
        is_ready.set(true);
        rt::time::sleep(Duration::from_micros(seed * 53 % 2000)).await;
        engine.install(CHUNK, joiner(1, 2, true)).await.expect("it joins");
        client.version.set(2);
        for region in 0..100 {
            client.write(region * REGION + MIB / 32, &pattern(8, BLOCK)).await;
        }
        std::future::pending::<()>().await;
    });
    while !ready.get() {
        control::advance(Duration::from_micros(100)).await;
    }
    control::advance(Duration::from_micros(seed * 977 % 6000)).await;
    control::power_cut(&[host], PeerView::Silence);
    control::power_on(host);
    let _cut = first.wait().await;
    let second = control::start_process(host, "csd", async move {
        let engine = open(Path::new(DIR), no_interval()).await.expect("it opens");
        let listed = async |version| {
            let doubts = engine.doubts(FILE, 1, CHUNK, version).expect("a member");
            doubts
                .into_iter()
                .filter(|doubt| doubt.epoch > 0)
                .map(|doubt| doubt.seq)
                .collect::<BTreeSet<u64>>()
        };
        if engine.progress(CHUNK, 2).is_err() {
            assert!(listed(1).await.is_superset(&(1..101).collect()), "as before");
            return false;
        }
        engine.take_difference(CHUNK, 2, &engine::Known::default()).await.unwrap();
        engine.copy_regions(CHUNK, 2, 0..128, &crate::fill::Zeroes).await.unwrap();
        engine.commit_copied(CHUNK, 2).await.unwrap();
        engine.install(CHUNK, member(2, 3, false)).await.unwrap();
        let listed = listed(3).await;
        assert!(listed.iter().all(|&seq| seq > 100), "{listed:?}");
        true
    });
    second.wait().await.returned()
}

/// A write that only this replica had got is sent again after it has joined: what it did alone does not count as done.
#[test]
fn a_write_from_before_a_join_is_carried_out_again() {
    for restart in [false, true] {
        let rig = Rig::new();
        let alone = pattern(7, BLOCK);
        let bytes = alone.clone();
        let join = async |engine: &Rc<Engine>| {
            engine.install(CHUNK, joiner(1, 3, false)).await.unwrap();
            engine.take_difference(CHUNK, 3, &engine::Known::default()).await.unwrap();
            engine.copy_regions(CHUNK, 3, 0..128, &crate::fill::Zeroes).await.unwrap();
            engine.commit_copied(CHUNK, 3).await.unwrap();
        };
        rig.life(async move |engine| {
            let client = Client::with_chunk(&engine, 1, SIZE).await;
            client.try_write(CHUNK, 0, &bytes).await.unwrap();
            join(&engine).await;
            if !restart {
                again(&engine, &bytes).await;
            }
        });
        if restart {
            rig.life(async move |engine| again(&engine, &alone).await);
        }
    }
}

/// Sends the first write again, and looks at it as a member.
async fn again(engine: &Rc<Engine>, bytes: &[u8]) {
    let client = Client::new(engine, 1);
    client.version.set(3);
    client.write(0, bytes).await;
    engine.install(CHUNK, member(3, 4, false)).await.unwrap();
    client.version.set(4);
    assert_eq!(client.read(0, BLOCK as u32).await, bytes);
}
