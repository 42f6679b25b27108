//! The model on simulated disks, with kills and power cuts at random moments.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::recovery::Row;
use cs_engine::engine::{
    self, CreateOptions, Engine, EngineOptions, JournalChange, JournalError, OpenError, Refusal,
};
use cs_engine::format::journal::RING_MIN;
use cs_engine::format::superblock::Superblock;
use rt::random::Rng;
use rt::sim::control::{self, PeerView};
use rt::sim::{Coverage, DiskOptions, FaultRates, HostId, HostOptions, SimOptions, Simulation};

use crate::model::{End, Model};
use crate::rig::{no_interval, open, quick, run, superblock};
use crate::single;

/// Bytes of each disk.
const CAPACITY: u64 = 32 << 20;
const DIR: &str = "/cs";
/// Seeds that run however long they take: what must be covered is covered by these.
const ALWAYS: u64 = 60;
const JOURNAL_DIR: &str = "/ssd/cs";

/// What a seed makes of a run.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    lives: u32,
    /// Longest life, in milliseconds of virtual time.
    life_ms: u64,
    planted: Vec<String>,
    /// The journal goes to other places and gets other sizes, again and again.
    moves: bool,
}

impl Plan {
    fn new(seed: u64) -> Self {
        // Of the large writes of these seeds nothing stays unflushed for long: there have to be many ends.
        let (lives, life_ms) = if seed % 4 == 1 { (12, 25) } else { (5, 60) };
        Self { seed, lives, life_ms, planted: Vec::new(), moves: false }
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
    let model = Model::new(plan.seed);
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
        if plan.moves {
            check(host, &model).await;
        }
        if model.violation().is_some() {
            return;
        }
    }
}

/// Gives the server one journal after the other.
async fn move_journal(engine: Rc<Engine>, model: Rc<Model>, mut rng: Rng) {
    loop {
        rt::time::sleep(Duration::from_micros(rng.below(3000))).await;
        let dir = match rng.below(3) {
            0 => None,
            1 => Some(PathBuf::from(JOURNAL_DIR)),
            _ => Some(PathBuf::from("/ssd/other")),
        };
        let bytes = RING_MIN + rng.below(3) * (1 << 20);
        match engine.change_journal(JournalChange { dir, bytes, ssd: rng.one_in(2) }).await {
            Ok(_) => {}
            Err(JournalError::NoSpace { .. } | JournalError::TooSmallNow { .. }) => {}
            // What a full disk keeps from being moved.
            Err(JournalError::Engine(Refusal::NoSpace)) => {}
            Err(JournalError::Io { error, .. }) if error.kind() == ErrorKind::StorageFull => {}
            Err(JournalError::Engine(Refusal::Stopping)) => return,
            Err(error) => return model.fail(format!("changing the journal: {error}")),
        }
    }
}

/// What a check of the stopped server finds.
async fn check(host: HostId, model: &Rc<Model>) {
    let theirs = Rc::clone(model);
    let process = control::start_process(host, "check", async move {
        loop {
            match cs_engine::check::run(Path::new(DIR), &mut |_| {}).await {
                Ok(report) if report.is_clean() => return,
                Ok(report) => return theirs.fail(format!("a check finds: {report}")),
                Err(OpenError::InUse(_)) => rt::time::sleep(Duration::from_millis(1)).await,
                Err(error) => return theirs.fail(format!("a check fails: {error}")),
            }
        }
    });
    process.wait().await;
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
    let mover = plan.moves.then(|| Rng::from_seed(rng.next_u64()));
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
        if let Some(rng) = mover {
            rt::spawn(move_journal(Rc::clone(&engine), Rc::clone(&theirs), rng));
        }
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
    // Mostly it ends at work, sometimes while it looks at what the last life has left.
    let mut patience = if rng.one_in(4) { 0 } else { 500 };
    while patience > 0 && !model.is_working() && model.violation().is_none() {
        patience -= 1;
        control::advance(Duration::from_micros(200)).await;
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

/// Runs seeds until there are none left or `time` is over; gives what they covered.
fn run_seeds(seeds: Range<u64>, time: Duration) -> BTreeMap<&'static str, u64> {
    let now = || run(async { rt::time::now() });
    let began = now();
    let mut all: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut steps, mut violations) = (0, Vec::new());
    for seed in seeds {
        if seed >= ALWAYS && seed % 10 == 0 && now().since(began) > time {
            println!("no time for seed {seed} and later ones");
            break;
        }
        let outcome = simulate(&Plan::new(seed));
        if let Some(violation) = outcome.violation {
            println!("seed {seed}: {violation}");
            violations.push(format!("seed {seed}: {violation}"));
        }
        steps += outcome.steps;
        for (name, count) in outcome.coverage {
            *all.entry(name).or_insert(0) += count;
        }
    }
    println!("{steps} steps");
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    all
}

/// The seeds asked for: one (`VSTORAGE_SEED=7`), or many (`VSTORAGE_SEED=0..5000`).
pub(crate) fn seeds_asked_for() -> Option<Range<u64>> {
    let text = std::env::var("VSTORAGE_SEED").ok()?;
    let number = |text: &str| text.trim().parse::<u64>().expect("VSTORAGE_SEED is a number or a range");
    Some(match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&text)..number(&text) + 1,
    })
}

#[test]
fn crashes_lose_nothing_that_was_flushed() {
    let (seeds, time) = match seeds_asked_for() {
        Some(seeds) => (seeds, Duration::MAX),
        None => (0..if quick() { ALWAYS } else { 300 }, Duration::from_secs(15)),
    };
    let mut covered = run_seeds(seeds, time);
    println!("{covered:#?}");
    if seeds_asked_for().is_none() {
        // Some rows need more care than random work takes.
        covered.extend(single::run_seeds().2);
        // Here a kill leaves nothing half done: see `c8_what_was_answered_is_not_rolled_back_by_a_kill`.
        for row in Row::ALL.into_iter().filter(|row| *row != Row::NotArrived) {
            assert!(covered.contains_key(row.name()), "no seed reaches {}", row.name());
        }
    }
}

/// Seeds that once failed, each for a reason of its own: a reconciler's answer that got lost, a write that was refused and
/// listed, a file that had no chunk for a moment.
#[test]
fn seeds_of_the_past_stay_good() {
    for seed in [467, 817, 215, 752] {
        assert_eq!(simulate(&Plan::new(seed)).violation, None, "seed {seed}");
    }
}

#[test]
fn journals_move_and_lose_nothing() {
    let (seeds, least) = match seeds_asked_for() {
        Some(seeds) => (seeds, 0),
        None => {
            if quick() {
                (0..30, 30)
            } else {
                (0..60, 60)
            }
        }
    };
    let mut changed = 0;
    for seed in seeds {
        let outcome = simulate(&Plan { moves: true, ..Plan::new(seed) });
        assert_eq!(outcome.violation, None, "seed {seed}");
        changed += outcome.coverage.get("engine.journal-changed").copied().unwrap_or(0);
    }
    println!("{changed} changes of journals");
    assert!(changed >= least, "only {changed} journals were changed");
}

/// Those that this model can see; a skipped reconciliation and a nonce that is not checked it cannot.
const PLANTED: [&str; 5] =
    ["flush-skipped", "acked-before-journal", "active-mark-not-durable", "epoch-ignored", "dedup-lost"];

#[test]
fn planted_faults_are_caught() {
    for fault in PLANTED {
        let caught = seeds_asked_for().unwrap_or(0..100).find_map(|number| {
            // The mark counts for large writes into quiet extents only.
            let seed = if fault == "active-mark-not-durable" { number * 16 + 1 } else { number };
            let plan = Plan { planted: vec![fault.to_owned()], ..Plan::new(seed) };
            simulate(&plan).violation.map(|violation| (seed, violation))
        });
        let (seed, violation) = caught.unwrap_or_else(|| panic!("{fault} is not caught"));
        println!("{fault}: seed {seed}: {violation}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (first, second) = (simulate(&Plan::new(7)), simulate(&Plan::new(7)));
    assert_eq!((first.hash, first.steps), (second.hash, second.steps));
}
