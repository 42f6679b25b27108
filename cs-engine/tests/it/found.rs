//! What a start finds and builds upon: it must be durable by then, and still be doubted if it was in doubt before.

use std::cell::Cell;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{self, CreateOptions, Refusal};
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

/// A block that nobody wrote since the last checkpoint, in an extent that was active in a crash.
#[test]
fn c5_an_orderly_stop_after_a_crash_keeps_the_doubt() {
    const AT: u32 = 2 * MIB;
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
    let other = AT / BLOCK as u32 + 3;
    let file =
        std::fs::File::options().write(true).open(rig.path.join("chunks/42/0001000000000042")).unwrap();
    file.write_all_at(&pattern(3, BLOCK), u64::from(other) * BLOCK as u64).unwrap();
    for life in 1..4 {
        rig.life(async move |engine| {
            let client = Client::new(&engine, 1);
            let read = client.try_read(CHUNK, other * BLOCK as u32, BLOCK as u32).await;
            assert_eq!(read, Err(Refusal::Unsettled { block: other }), "life {life}");
            engine.stop().await;
        });
    }
}
