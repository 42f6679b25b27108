//! A single member in the simulator: kills, power cuts and failing disks, by seed.
//!
//! Whatever happens, an answered proposal is in the ledger for ever, under its number; a proposal that was not answered is
//! there once or not at all; and the ledger never goes back behind what a reader has seen.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use mds::log::{LogOptions, OpenError};
use mds::raft::{Options, ProposeError, StartError};
use rt::random::Rng;
use rt::sim::control::{self, Exit, PeerView, Process};
use rt::sim::{
    Coverage, DiskFault, DiskFaultKind, DiskOptions, FAULTS, HostId, HostOptions, SimOptions, Simulation,
};

use crate::raft_ledger::{Group, create, open};

fn tiny() -> Options {
    let log = LogOptions { segment_bytes: 128 << 10, cached_bytes_max: 2 << 10 };
    Options { log, snapshot_entries: 40, ..Options::default() }
}

/// What the world outside knows.
#[derive(Default)]
struct Oracle {
    /// The number and the command of every answered proposal.
    answered: RefCell<BTreeMap<u64, Vec<u8>>>,
    /// The longest ledger that somebody has seen.
    seen: Cell<usize>,
    /// For names of commands that are never used twice.
    serial: Cell<u64>,
    /// A member serves.
    serving: Cell<bool>,
}

impl Oracle {
    fn command(&self) -> Vec<u8> {
        self.serial.set(self.serial.get() + 1);
        let mut command = format!("command {}", self.serial.get()).into_bytes();
        if rt::random::below(3) == 0 {
            // Long enough for a group of several blocks, which a power cut can tear.
            command.resize(command.len() + rt::random::below(9000) as usize, b'.');
        }
        command
    }

    fn answered(&self, number: u64, command: Vec<u8>) {
        let before = self.answered.borrow_mut().insert(number, command);
        assert!(before.is_none(), "two proposals were answered with number {number}");
    }

    /// Compares with what a member has.
    fn check(&self, group: &Group) -> Result<(), String> {
        group.with(|ledger| {
            for (number, command) in &*self.answered.borrow() {
                let has = ledger.lines.get(*number as usize - 1);
                if has != Some(command) {
                    return Err(format!("answered proposal {number} is lost of {}", ledger.lines.len()));
                }
            }
            let distinct: BTreeSet<&Vec<u8>> = ledger.lines.iter().collect();
            if distinct.len() != ledger.lines.len() {
                return Err("a proposal was carried out twice".to_owned());
            }
            if ledger.lines.len() < self.seen.get() {
                return Err(format!("{} lines where {} were seen", ledger.lines.len(), self.seen.get()));
            }
            self.seen.set(ledger.lines.len());
            Ok(())
        })
    }
}

/// Opens a member and proposes from several tasks until the end of the world, or of the member.
async fn serve(dir: PathBuf, oracle: Rc<Oracle>, options: Options) -> Result<(), String> {
    let group = open(&dir, options).await.map_err(|error| error.to_string())?;
    oracle.check(&group)?;
    oracle.serving.set(true);
    let writers = (0..4).map(|_| {
        let (group, oracle) = (group.clone(), Rc::clone(&oracle));
        rt::spawn(async move {
            loop {
                let command = oracle.command();
                match group.propose(command.clone()).await {
                    Ok(number) => oracle.answered(number, command),
                    Err(ProposeError::Full { .. }) => rt::time::sleep(Duration::from_millis(300)).await,
                    Err(error) => return error.to_string(),
                }
                if group.read_barrier().await.is_ok() {
                    group.with(|ledger| oracle.seen.set(oracle.seen.get().max(ledger.lines.len())));
                }
                if rt::random::below(4) == 0 {
                    rt::time::sleep(Duration::from_micros(rt::random::below(3000))).await;
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        let end = writer.await.map_err(|error| error.to_string())?;
        if group.failure().is_none() {
            return Err(end);
        }
    }
    Ok(())
}

async fn on<F: std::future::Future + 'static>(host: HostId, main: F) -> F::Output {
    control::start_process(host, "mds", main).wait().await.returned()
}

fn world<F>(seed: u64, planted: &[&str], controller: F) -> (F::Output, u64, Coverage)
where
    F: std::future::Future + 'static,
{
    let mut options = SimOptions::new(seed);
    options.planted = planted.iter().map(|name| (*name).to_owned()).collect();
    let mut simulation = Simulation::new(options);
    let output = simulation.run(controller).unwrap();
    (output, simulation.trace_hash(), simulation.coverage())
}

fn add_host(rng: &mut Rng) -> HostId {
    let atomic_unit = if rng.below(2) == 0 { 512 } else { 4096 };
    control::add_host(
        HostOptions::new("mds").with_disk(DiskOptions { atomic_unit, ..DiskOptions::default() }),
    )
}

/// Creates a member; a creation that is interrupted is begun again elsewhere.
async fn create_under_fire(host: HostId, rng: &mut Rng) -> PathBuf {
    for attempt in 0.. {
        let dir = PathBuf::from(format!("/var/mds{attempt}"));
        let at = dir.clone();
        let process = control::start_process(host, "make-mds", async move { create(&at, tiny()).await });
        if attempt == 0 && rng.below(2) == 0 {
            control::advance(Duration::from_micros(rng.below(8000))).await;
            interrupt(host, &process, rng);
        }
        if process.wait().await == Exit::Returned(()) {
            return dir;
        }
    }
    unreachable!("the second attempt is left alone")
}

fn interrupt<T>(host: HostId, process: &Process<T>, rng: &mut Rng) {
    if rng.below(3) == 0 {
        control::kill(process.id());
    } else {
        control::power_cut(&[host], PeerView::Silence);
        control::power_on(host);
    }
}

/// Many lives of one member, each ended by a kill or a power cut.
async fn lives(seed: u64) -> Result<usize, String> {
    let mut rng = Rng::from_seed(seed ^ 0xA11CE);
    let host = add_host(&mut rng);
    let dir = create_under_fire(host, &mut rng).await;
    let oracle = Rc::new(Oracle::default());
    for _ in 0..6 {
        let process = control::start_process(host, "mds", serve(dir.clone(), Rc::clone(&oracle), tiny()));
        control::advance(Duration::from_micros(rng.below(150_000))).await;
        interrupt(host, &process, &mut rng);
        if let Exit::Returned(end) = process.wait().await {
            end?;
        }
    }
    on(host, last_look(dir, Rc::clone(&oracle))).await?;
    Ok(oracle.answered.borrow().len())
}

async fn last_look(dir: PathBuf, oracle: Rc<Oracle>) -> Result<(), String> {
    let group = open(&dir, tiny()).await.map_err(|error| error.to_string())?;
    oracle.check(&group)?;
    let command = oracle.command();
    oracle.answered(group.propose(command.clone()).await.map_err(|error| error.to_string())?, command);
    oracle.check(&group)?;
    group.shutdown().await;
    Ok(())
}

/// Whether only what is quick may run.
fn quick() -> bool {
    std::env::var_os("VSTORAGE_QUICK").is_some_and(|value| value == "1")
}

#[test]
fn answered_proposals_survive_kills_and_power_cuts() {
    let (mut total, mut coverage) = (0, Coverage::new());
    let seeds = if quick() { 40 } else { 250 };
    for seed in 0..seeds {
        let (outcome, _, hits) = world(seed, &[], lives(seed));
        total += outcome.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        hits.into_iter().for_each(|(name, count)| *coverage.entry(name).or_default() += count);
    }
    assert!(total > 80 * seeds as usize, "only {total} proposals were answered in all");
    for name in ["host.power-cut", "process.kill", "crash.write-lost", "crash.write-torn", "crash.name-lost"]
    {
        assert!(
            FAULTS.contains(&name) && coverage.get(name).is_some_and(|count| *count > 0),
            "{name}: {coverage:?}"
        );
    }
    for name in ["mds.log-torn-tail", "mds.log-new-segment", "mds.snapshot-written"] {
        assert!(coverage.get(name).is_some_and(|count| *count > 0), "{name}: {coverage:?}");
    }
}

#[test]
fn one_seed_has_one_trace() {
    for seed in [1, 7, 42] {
        let (first, second) = (world(seed, &[], lives(seed)), world(seed, &[], lives(seed)));
        assert_eq!((first.0, first.1), (second.0, second.1), "seed {seed}");
        assert_ne!(first.1, world(seed + 1000, &[], lives(seed + 1000)).1);
    }
}

#[test]
fn a_skipped_flush_is_noticed() {
    let caught = (0..100).find(|seed| world(*seed, &["mds.log-flush-skipped"], lives(*seed)).0.is_err());
    assert!(caught.is_some(), "a hundred power cuts did not show that the log is never flushed");
}

/// A disk that fails once while the member serves.
async fn failing(seed: u64, kind: DiskFaultKind) -> Result<(), String> {
    let mut rng = Rng::from_seed(seed ^ 0xD15C);
    let host = add_host(&mut rng);
    let dir = PathBuf::from("/mds");
    on(host, {
        let dir = dir.clone();
        async move { create(&dir, tiny()).await }
    })
    .await;
    let oracle = Rc::new(Oracle::default());
    let process = control::start_process(host, "mds", serve(dir.clone(), Rc::clone(&oracle), tiny()));
    while !oracle.serving.get() {
        control::advance(Duration::from_millis(1)).await;
    }
    control::advance(Duration::from_micros(rng.below(60_000))).await;
    control::disk_fault(host, "/", DiskFault::new(kind));
    // Every writer ends, with an error that names the failure.
    match rt::time::timeout(Duration::from_secs(20), process.wait()).await {
        Ok(Exit::Returned(end)) => end?,
        other => return Err(format!("the member went on after a failure: {other:?}")),
    }
    control::clear_disk_faults(host);
    if rng.below(2) == 0 {
        control::power_cut(&[host], PeerView::Silence);
        control::power_on(host);
    }
    on(host, last_look(dir, oracle)).await
}

#[test]
fn a_failed_write_or_flush_ends_the_member_and_loses_nothing() {
    for seed in 0..60 {
        for kind in [DiskFaultKind::WriteError, DiskFaultKind::FlushError] {
            let (outcome, _, _) = world(seed, &[], failing(seed, kind));
            outcome.unwrap_or_else(|error| panic!("seed {seed}, {kind:?}: {error}"));
        }
    }
}

/// A disk that lies once while the member serves: what was answered is there afterwards, or the member refuses to start.
async fn lying(seed: u64, kind: DiskFaultKind) -> Result<bool, String> {
    let mut rng = Rng::from_seed(seed ^ 0x11E);
    let host = add_host(&mut rng);
    let dir = PathBuf::from("/mds");
    on(host, {
        let dir = dir.clone();
        async move { create(&dir, tiny()).await }
    })
    .await;
    let oracle = Rc::new(Oracle::default());
    // Without snapshots: the damaged part of the log is not dropped.
    let options = Options { snapshot_entries: u64::MAX, ..tiny() };
    let process = control::start_process(host, "mds", serve(dir.clone(), Rc::clone(&oracle), options));
    control::advance(Duration::from_micros(10_000 + rng.below(60_000))).await;
    control::disk_fault(host, "/", DiskFault::new(kind));
    // Until the write in question is followed by others.
    control::advance(Duration::from_millis(100)).await;
    control::kill(process.id());
    let _killed = process.wait().await;
    let refused = on(host, {
        let (dir, oracle) = (dir.clone(), Rc::clone(&oracle));
        async move {
            match open(&dir, tiny()).await {
                Ok(group) => oracle.check(&group).map(|()| false),
                Err(StartError::Open(OpenError::Corrupt { .. } | OpenError::Strange { .. }))
                | Err(StartError::SnapshotMissing { .. }) => Ok(true),
                Err(other) => Err(other.to_string()),
            }
        }
    });
    refused.await
}

#[test]
fn a_lying_disk_is_found_out() {
    let mut refused = 0;
    for seed in 0..60 {
        for kind in [DiskFaultKind::LostWrite, DiskFaultKind::MisdirectedWrite] {
            let (outcome, _, _) = world(seed, &[], lying(seed, kind));
            refused += u32::from(outcome.unwrap_or_else(|error| panic!("seed {seed}, {kind:?}: {error}")));
        }
    }
    assert!(refused > 20, "only {refused} of 120 lies were found out");
}

#[test]
fn rotten_bits_are_never_served() {
    for seed in 0..60 {
        let run = async move {
            let mut rng = Rng::from_seed(seed);
            let host = add_host(&mut rng);
            let (dir, oracle) = (PathBuf::from("/mds"), Rc::new(Oracle::default()));
            on(host, {
                let dir = dir.clone();
                async move { create(&dir, tiny()).await }
            })
            .await;
            let process = control::start_process(host, "mds", serve(dir.clone(), Rc::clone(&oracle), tiny()));
            control::advance(Duration::from_micros(20_000 + rng.below(60_000))).await;
            control::kill(process.id());
            let _killed = process.wait().await;
            on(host, last_look(dir.clone(), Rc::clone(&oracle))).await.unwrap();
            let mut files = control::files_under(host, "/mds");
            files.retain(|(_, size)| *size > 0);
            let (path, size) = &files[rng.below(files.len() as u64) as usize];
            let _rotten = control::rot(host, path, rng.below(size.div_ceil(4096)) * 4096).unwrap();
            let name = path.clone();
            on(host, async move {
                match open(&dir, tiny()).await {
                    Ok(group) => oracle.check(&group).map_err(|error| format!("{}: {error}", name.display())),
                    Err(_refused) => Ok(()),
                }
            })
            .await
        };
        world(seed, &[], run).0.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[test]
fn a_full_disk_is_back_pressure() {
    let run = async {
        let host = add_host(&mut Rng::from_seed(1));
        let at = |dir: &str| PathBuf::from(dir);
        on(host, async move { create(&at("/mds"), tiny()).await }).await;
        let oracle = Rc::new(Oracle::default());
        let process = control::start_process(host, "mds", serve(at("/mds"), Rc::clone(&oracle), tiny()));
        control::advance(Duration::from_millis(20)).await;
        control::occupy(host, "/", 64 << 30);
        control::advance(Duration::from_secs(5)).await;
        let stuck = oracle.answered.borrow().len();
        control::advance(Duration::from_secs(5)).await;
        assert_eq!(oracle.answered.borrow().len(), stuck, "there is no room for more");
        assert!(control::is_alive(process.id()), "a full disk is no failure");
        control::occupy(host, "/", 0);
        control::advance(Duration::from_secs(15)).await;
        assert!(oracle.answered.borrow().len() > stuck + 100, "it goes on when there is room");
        control::kill(process.id());
        let _killed = process.wait().await;
        on(host, last_look(at("/mds"), oracle)).await
    };
    world(3, &[], run).0.unwrap();
}

#[test]
fn a_fresh_directory_on_a_full_disk_is_refused_in_words() {
    let run = async {
        let host = add_host(&mut Rng::from_seed(1));
        control::occupy(host, "/", (64 << 30) - (40 << 10));
        on(host, async {
            let error = Group::create(Path::new("/mds"), 1, "a:1", tiny().log).await.unwrap_err();
            assert!(error.to_string().starts_with("cannot make a log segment in /mds"), "{error}");
            assert!(matches!(
                open(Path::new("/mds"), tiny()).await,
                Err(StartError::Open(OpenError::NotCreated(_)))
            ));
        })
        .await;
        control::occupy(host, "/", 0);
        on(host, async {
            create(Path::new("/mds"), tiny()).await;
            open(Path::new("/mds"), tiny()).await.unwrap();
        })
        .await;
    };
    let _outcome = world(5, &[], run);
}
