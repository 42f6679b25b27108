//! The model on simulated disks, with kills and power cuts at random moments.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{self, CreateOptions, EngineOptions, OpenError};
use cs_engine::format::superblock::Superblock;
use rt::random::Rng;
use rt::sim::control::{self, PeerView};
use rt::sim::{Coverage, DiskOptions, FaultRates, HostId, HostOptions, SimOptions, Simulation};

use crate::model::{End, Model};
use crate::rig::{no_interval, open, quick, superblock};

/// Bytes of each disk.
const CAPACITY: u64 = 32 << 20;
const DIR: &str = "/cs";
const JOURNAL_DIR: &str = "/ssd/cs";

/// What a seed makes of a run.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    lives: u32,
    /// Longest life, in milliseconds of virtual time.
    life_ms: u64,
    planted: Vec<String>,
}

impl Plan {
    fn new(seed: u64) -> Self {
        Self { seed, lives: 5, life_ms: 60, planted: Vec::new() }
    }

    fn settings(&self) -> Superblock {
        let mut superblock = superblock();
        superblock.no_checksums = self.seed % 16 == 5;
        superblock.block_atomic = self.seed % 16 != 9;
        superblock.journal_dir = self.seed.is_multiple_of(4).then(|| JOURNAL_DIR.into());
        superblock
    }

    fn disk(&self) -> DiskOptions {
        let atomic_unit = if self.settings().block_atomic { 4096 } else { 512 };
        let mut rates = FaultRates::default();
        if self.seed % 8 >= 4 {
            (rates.short_read, rates.short_write) = (30, 30);
        }
        if self.seed % 8 == 6 {
            rates.stall = 100;
        }
        let stall = Duration::from_millis(20);
        DiskOptions { atomic_unit, capacity: CAPACITY, rates, stall, ..DiskOptions::default() }
    }

    /// Whether somebody else fills the disk now and then.
    fn fills(&self) -> bool {
        self.seed % 8 == 7
    }
}

struct Outcome {
    violation: Option<String>,
    steps: u64,
    coverage: Coverage,
    hash: u64,
}

fn simulate(plan: &Plan) -> Outcome {
    crate::rig::log();
    let mut options = SimOptions::new(plan.seed);
    options.planted.clone_from(&plan.planted);
    options.time_max = Duration::from_secs(600);
    options.steps_max = 20_000_000;
    let model = Model::new(plan.seed ^ 0x5eed);
    let mut simulation = Simulation::new(options);
    let ended = simulation.run(live(plan.clone(), Rc::clone(&model)));
    let violation = match ended {
        Ok(()) => model.violation(),
        Err(failure) => Some(failure.to_string()),
    };
    let (coverage, hash) = (simulation.coverage(), simulation.trace_hash());
    Outcome { violation, steps: model.steps.get(), coverage, hash }
}

async fn live(plan: Plan, model: Rc<Model>) {
    let mut options = HostOptions::new("cs").with_disk(plan.disk());
    options.disks.push(("/ssd".into(), plan.disk()));
    let host = control::add_host(options);
    let create = CreateOptions { dir: DIR.into(), superblock: plan.settings() };
    let made = control::start_process(host, "make-cs", async move { engine::create(&create).await.is_ok() });
    assert!(made.wait().await.returned(), "a new chunk server");
    let mut rng = Rng::from_seed(plan.seed);
    for life in 0..plan.lives {
        let last = life + 1 == plan.lives;
        let end = live_once(&plan, host, &model, &mut rng, last).await;
        model.ended(end);
        if model.violation().is_some() {
            return;
        }
    }
}

/// Starts the server and ends it in some way.
async fn live_once(plan: &Plan, host: HostId, model: &Rc<Model>, rng: &mut Rng, last: bool) -> End {
    let next = match rng.below(8) {
        _ if last => End::Stopped,
        0 => End::Stopped,
        1..4 => End::Killed,
        _ => End::PowerCut,
    };
    let workers = 1 + rng.below(8) as usize;
    let steps = if next == End::Stopped { 60 } else { u64::MAX / 2 };
    let theirs = Rc::clone(model);
    let process = control::start_process(host, "csd", async move {
        let options = EngineOptions { pages_max: 16, ..no_interval() };
        let engine = loop {
            match open(Path::new(DIR), options.clone()).await {
                Ok(engine) => break engine,
                // The lock falls after the last operation of the killed process (C10).
                Err(OpenError::InUse(_)) => rt::time::sleep(Duration::from_millis(1)).await,
                Err(error) => return theirs.fail(format!("opening: {error}")),
            }
        };
        theirs.resume(&engine).await;
        theirs.work(&engine, workers, steps).await;
        if next == End::Stopped && theirs.violation().is_none() {
            engine.stop().await;
        }
    });
    if plan.fills() {
        control::occupy(host, DIR, rng.below(CAPACITY));
        control::advance(Duration::from_micros(rng.below(plan.life_ms * 1000))).await;
        control::occupy(host, DIR, 0);
    }
    if next == End::Stopped {
        process.wait().await.returned();
        return next;
    }
    control::advance(Duration::from_micros(rng.below(plan.life_ms * 1000))).await;
    match next {
        End::Killed => {
            control::kill(process.id());
        }
        _ => {
            control::power_cut(&[host], PeerView::Silence);
            control::power_on(host);
        }
    }
    // Ended already only with a violation.
    let _ended = process.wait().await;
    next
}

/// Runs many seeds; gives what they covered.
fn run_seeds(seeds: std::ops::Range<u64>) -> Coverage {
    let mut all: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut steps = 0;
    for seed in seeds {
        let outcome = simulate(&Plan::new(seed));
        if let Some(violation) = outcome.violation {
            panic!("seed {seed}: {violation}");
        }
        steps += outcome.steps;
        for (name, count) in outcome.coverage {
            *all.entry(name).or_insert(0) += count;
        }
    }
    println!("{steps} steps");
    all
}

#[test]
fn crashes_lose_nothing_that_was_flushed() {
    let coverage = run_seeds(0..if quick() { 60 } else { 300 });
    println!("{coverage:#?}");
}

#[test]
#[ignore = "one seed, given by VSTORAGE_SEED"]
fn one_seed() {
    let seed = std::env::var("VSTORAGE_SEED").expect("VSTORAGE_SEED").parse().expect("a number");
    run_seeds(seed..seed + 1);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (first, second) = (simulate(&Plan::new(7)), simulate(&Plan::new(7)));
    assert_eq!((first.hash, first.steps), (second.hash, second.steps));
}
