//! What a start finds and builds upon: it must be durable by then, and still be doubted if it was in doubt before.

use std::cell::Cell;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{self, CreateOptions, Engine, Refusal, Settled};
use cs_engine::format::BLOCK;
use rt::sim::control::{self, PeerView};
use rt::sim::{DiskOptions, HostOptions, SimOptions, Simulation};

use crate::rig::{CHUNK, Client, FILE, MIB, Rig, new_chunk, no_interval, open, pattern, superblock};

const DIR: &str = "/cs";
/// Shorter than a flush takes on the simulated disk.
const STEP: Duration = Duration::from_micros(50);

/// Kills a server `after` it began to make a chunk, asks the next one for the same, and cuts the power. Whether the first
/// one had made it by then.
fn made_by_a_killed_server(after: Duration) -> bool {
    let mut simulation = Simulation::new(SimOptions::new(1));
    let ended = simulation.run(async move {
        let disk = DiskOptions { capacity: 32 << 20, ..DiskOptions::default() };
        let host = control::add_host(HostOptions::new("cs").with_disk(disk));
        let create = CreateOptions { dir: DIR.into(), superblock: superblock() };
        let made =
            control::start_process(host, "make-cs", async move { engine::create(&create).await.is_ok() });
        assert!(made.wait().await.returned(), "a new chunk server");

        let server = async || loop {
            match open(Path::new(DIR), no_interval()).await {
                Ok(engine) => break engine,
                // The lock falls after the last operation of the killed process (C10).
                Err(engine::OpenError::InUse(_)) => rt::time::sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("opening: {error}"),
            }
        };
        let answered = Rc::new(Cell::new(0));
        let told = Rc::clone(&answered);
        let make = move || {
            let answered = Rc::clone(&answered);
            control::start_process(host, "csd", async move {
                let engine = server().await;
                engine.create_chunk(new_chunk(CHUNK, u64::from(MIB))).await.expect("a new chunk");
                answered.set(answered.get() + 1);
                // It stays until it is killed.
                std::future::pending::<()>().await;
            })
        };
        let first = make();
        control::advance(after).await;
        control::kill(first.id());
        let _killed = first.wait().await;
        let made_by_first = told.get() == 1;
        let second = make();
        while told.get() == u32::from(made_by_first) {
            control::advance(STEP).await;
        }
        control::power_cut(&[host], PeerView::Silence);
        control::power_on(host);
        let _cut = second.wait().await;
        let third = control::start_process(host, "csd", async move {
            let engine = server().await;
            let found = engine.doubts(FILE, 1, CHUNK, 1);
            assert!(found.is_ok(), "killed after {after:?}: {found:?}");
            engine.stop().await;
        });
        third.wait().await.returned();
        made_by_first
    });
    ended.unwrap_or_else(|failure| panic!("killed after {after:?}: {failure}"))
}

#[test]
fn c9_a_chunk_that_is_told_as_made_outlives_a_power_cut_whoever_made_it() {
    let mut after = Duration::ZERO;
    while !made_by_a_killed_server(after) {
        after += STEP;
    }
}

/// The extent that [`killed_in_an_active_extent`] leaves.
const AT: u32 = 2 * MIB;
/// A block of it that the crash has left in doubt.
const OTHER: u32 = AT / BLOCK as u32 + 3;

/// A block that nobody wrote since the last checkpoint, in an extent that was active in a crash.
fn killed_in_an_active_extent() -> Rig {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, 8 << 20).await;
        client.write(AT, &pattern(1, MIB as usize)).await;
        client.flush().await;
        engine.checkpoint().await.expect("a checkpoint");
        client.write(AT, &pattern(2, BLOCK)).await;
        client.flush().await;
    });
    // A write in place of which the crash took the record.
    let file =
        std::fs::File::options().write(true).open(rig.path.join("chunks/42/0001000000000042")).unwrap();
    file.write_all_at(&pattern(3, BLOCK), u64::from(OTHER) * BLOCK as u64).unwrap();
    rig
}

async fn read_other(engine: &Rc<Engine>) -> Result<Vec<u8>, Refusal> {
    Client::new(engine, 1).try_read(CHUNK, OTHER * BLOCK as u32, BLOCK as u32).await
}

#[test]
fn c5_an_orderly_stop_after_a_crash_keeps_the_doubt() {
    let rig = killed_in_an_active_extent();
    for life in 1..4 {
        rig.life(async move |engine| {
            assert_eq!(read_other(&engine).await, Err(Refusal::Unsettled { block: OTHER }), "life {life}");
            engine.stop().await;
        });
    }
}

#[test]
fn what_is_in_doubt_is_named_page_by_page() {
    let rig = Rig::new();
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, 8 << 20).await;
        for chunk in [CHUNK, CHUNK + 1, CHUNK + 2] {
            if chunk != CHUNK {
                engine.create_chunk(new_chunk(chunk, 8 << 20)).await.expect("a new chunk");
            }
            let data = pattern(chunk, MIB as usize);
            client.try_write(chunk, 0, &data).await.expect("a write");
        }
    });
    rig.life(async |engine| {
        let (first, second, third) = ((FILE, CHUNK), (FILE, CHUNK + 1), (FILE, CHUNK + 2));
        assert_eq!(engine.in_doubt((0, 0), 2), [first, second]);
        assert_eq!(engine.in_doubt((FILE, CHUNK + 2), 2), [third]);
        assert_eq!(engine.in_doubt((FILE - 1, u64::MAX), 9), [first, second, third]);
        assert_eq!(engine.in_doubt((FILE + 1, 0), 9), []);
    });
}

/// Nobody writes to the chunk any more.
#[test]
fn c5_c8_when_its_file_is_known_to_be_settled_nothing_is_in_doubt_and_what_does_not_match_is_damage() {
    let rig = killed_in_an_active_extent();
    rig.life(async |engine| {
        let in_doubt = || engine.in_doubt((0, 0), 9);
        assert_eq!((in_doubt(), engine.in_doubt((FILE, CHUNK + 1), 9)), (vec![(FILE, CHUNK)], vec![]));
        engine.verify_next().await.expect("verified");
        assert_eq!(engine.damage().len(), 0, "it may be right");
        let settled = Settled { chunk: CHUNK, version: 1, below: 2, newest: 1 };
        let later = Settled { version: 2, ..settled };
        let held = Settled { below: 1, ..settled };
        for other in [later, held, Settled { chunk: CHUNK + 1, ..settled }] {
            engine.settle(&other);
            assert_eq!(in_doubt(), [(FILE, CHUNK)], "{other:?}");
        }
        engine.settle(&settled);
        assert_eq!(in_doubt(), []);
        engine.verify_next().await.expect("verified");
        assert_eq!(engine.damage().len(), 1);
        engine.stop().await;
    });
    rig.life(async |engine| {
        assert_eq!(engine.in_doubt((0, 0), 9), [], "it has stopped in order");
        assert_eq!(read_other(&engine).await, Err(Refusal::Corrupt { block: OTHER }));
    });
}
