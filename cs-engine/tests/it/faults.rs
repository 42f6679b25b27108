//! Devices that fail or are slow: what a server says of itself then, now and after a restart.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{self, CreateOptions, Engine, OpenError, Refusal};
use rt::sim::control::{self, Process};
use rt::sim::{DiskFault, DiskFaultKind, DiskOptions, HostId, HostOptions, SimOptions, Simulation};

use crate::rig::{CHUNK, Client, MIB, no_interval, open, pattern, superblock};

const DIR: &str = "/cs";
const JOURNAL_DIR: &str = "/ssd/cs";

/// Runs with a server that has its journal on a disk of its own and a chunk with some data. Gives the longest queues.
pub(crate) fn with_server(main: impl AsyncFnOnce(HostId) + 'static) -> BTreeMap<&'static str, u64> {
    crate::rig::log();
    let mut simulation = Simulation::new(SimOptions::new(1));
    let ended = simulation.run(async move {
        let disk = DiskOptions { capacity: 32 << 20, ..DiskOptions::default() };
        let mut options = HostOptions::new("cs").with_disk(disk.clone());
        options.disks.push(("/ssd".into(), disk));
        let host = control::add_host(options);
        life(host, async |_| ()).await;
        main(host).await;
    });
    ended.expect("the simulation ends well");
    simulation.gauges()
}

/// As [`with_server`], with something that happens beside what uses the server.
pub(crate) fn beside(
    happens: impl AsyncFnOnce(HostId) + 'static,
    main: impl AsyncFnOnce(Rc<Engine>) + 'static,
) -> BTreeMap<&'static str, u64> {
    with_server(async move |host| {
        let process = start(host, main);
        happens(host).await;
        process.wait().await.returned();
    })
}

/// A process of the host that makes the server if there is none, and uses it; afterwards it is gone without a word.
pub(crate) async fn life(host: HostId, main: impl AsyncFnOnce(Rc<Engine>) + 'static) {
    start(host, main).wait().await.returned();
}

/// As [`life`], without waiting for its end.
pub(crate) fn start(host: HostId, main: impl AsyncFnOnce(Rc<Engine>) + 'static) -> Process<()> {
    control::start_process(host, "csd", async move {
        let mut superblock = superblock();
        superblock.journal_dir = Some(JOURNAL_DIR.into());
        let new = engine::create(&CreateOptions { dir: DIR.into(), superblock }).await.is_ok();
        let engine = open(Path::new(DIR), no_interval()).await.expect("it starts");
        if new {
            let client = Client::with_chunk(&engine, 1, 4 << 20).await;
            client.write(0, &pattern(1, 8192)).await;
            client.flush().await;
        }
        main(engine).await;
    })
}

/// How a start fails, and whether the superblock says that the journal was lost.
pub(crate) async fn refused(host: HostId) -> (OpenError, bool) {
    let found = Rc::new(std::cell::RefCell::new(None));
    let theirs = Rc::clone(&found);
    let process = control::start_process(host, "csd", async move {
        let error = open(Path::new(DIR), no_interval()).await.expect_err("it does not start");
        let lock = engine::lock_directory(Path::new(DIR)).await.expect("nobody has it");
        let superblock = engine::read_superblock(Path::new(DIR), &lock).await.expect("it is there");
        theirs.replace(Some((error, superblock.failed_journal)));
    });
    process.wait().await.returned();
    found.take().expect("the process has said so")
}

async fn noted(engine: &Engine) {
    while !engine.superblock().failed {
        rt::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn nothing_is_acknowledged_by_a_server_that_has_lost_its_journal() {
    with_server(async |host| {
        let fault = DiskFault::new(DiskFaultKind::WriteError).on("/ssd/cs/journal");
        control::disk_fault(host, JOURNAL_DIR, fault);
        life(host, async |engine| {
            let client = Client::new(&engine, 2);
            assert_eq!(client.try_write(CHUNK, 8192, &pattern(2, 4096)).await, Err(Refusal::DeviceFailed));
            assert_eq!(engine.flush().await, Err(Refusal::DeviceFailed));
            assert!(client.try_read(CHUNK, 0, 4096).await.is_err(), "it serves nothing any more");
            assert!(engine.has_failed() && engine.has_lost_journal());
            noted(&engine).await;
        })
        .await;
        let (error, lost) = refused(host).await;
        assert!(matches!(error, OpenError::Failed { journal: true, .. }) && lost, "{error}");
    });
}

#[test]
fn a_server_whose_own_disk_fails_has_not_lost_its_journal() {
    with_server(async |host| {
        let name = format!("/cs/chunks/{:02x}/{CHUNK:016x}", CHUNK & 0xff);
        control::disk_fault(host, DIR, DiskFault::new(DiskFaultKind::WriteError).on(name));
        life(host, async |engine| {
            let client = Client::new(&engine, 2);
            let written = client.try_write(CHUNK, 2 * MIB, &pattern(2, MIB as usize)).await;
            assert_eq!(written, Err(Refusal::DeviceFailed));
            assert!(engine.has_failed() && !engine.has_lost_journal());
            noted(&engine).await;
        })
        .await;
        let (error, lost) = refused(host).await;
        assert!(matches!(error, OpenError::Failed { journal: false, .. }) && !lost, "{error}");
    });
}

#[test]
fn a_disk_that_stalls_is_slow_until_it_has_not_for_a_while() {
    with_server(async |host| {
        let stalls = Rc::new(std::cell::Cell::new(false));
        let theirs = Rc::clone(&stalls);
        // Once the server is at rest: its start reads the journal.
        let fault = async {
            control::advance(Duration::from_secs(1)).await;
            let stall = DiskFault::new(DiskFaultKind::Stall(Duration::from_secs(8))).on("/ssd/cs/journal");
            control::disk_fault(host, JOURNAL_DIR, stall);
            stalls.set(true);
        };
        let life = life(host, async move |engine| {
            while !theirs.get() {
                rt::time::sleep(Duration::from_millis(100)).await;
            }
            let began = rt::time::now();
            let slow_at = async |seconds: u64| {
                rt::time::sleep_until(began + Duration::from_secs(seconds)).await;
                engine.latency().is_slow()
            };
            let client = Client::new(&engine, 2);
            let request = client.data(CHUNK, 8192, &pattern(2, 4096));
            let theirs = Rc::clone(&engine);
            let writing = rt::spawn(async move { theirs.write(request).await });
            assert!(!slow_at(2).await, "it may take so long");
            assert!(slow_at(5).await, "it is still under way");
            assert!(writing.await.expect("it ends").is_ok(), "slow is no failure");
            assert!(slow_at(10).await, "it took too long");
            assert!(slow_at(69).await, "it may stall again");
            assert!(!slow_at(71).await, "nothing was slow for a minute");
        });
        let (mut life, mut fault) = (std::pin::pin!(life), std::pin::pin!(fault));
        let mut asked = false;
        std::future::poll_fn(|cx| {
            asked = asked || fault.as_mut().poll(cx).is_ready();
            life.as_mut().poll(cx)
        })
        .await;
    });
}

/// With a journal on an SSD before a disk that seeks, small overwrites go by way of the journal; tuned for SSDs, to their place.
#[test]
fn small_overwrites_go_where_the_tuning_says() {
    with_server(async |host| {
        life(host, async |engine| {
            let client = Client::new(&engine, 2);
            client.write(0, &pattern(2, MIB as usize)).await;
            client.flush().await;
            for (ssd, journaled, in_place) in [(false, 1, 0), (true, 0, 1)] {
                let now = engine.superblock();
                let change = engine::JournalChange { dir: now.journal_dir, bytes: now.journal_bytes, ssd };
                engine.change_journal(change).await.expect("another tuning");
                client.write(512 << 10, &pattern(3, 4096)).await;
                engine.checkpoint().await.expect("a checkpoint");
                let before = engine.counters();
                client.write(512 << 10, &pattern(4, 4096)).await;
                let now = engine.counters();
                let ways = (now.journaled - before.journaled, now.in_place - before.in_place);
                assert_eq!(ways, (journaled, in_place), "-T ssd: {ssd}");
                assert_eq!(client.read(512 << 10, 4096).await, pattern(4, 4096));
            }
        })
        .await;
    });
}
