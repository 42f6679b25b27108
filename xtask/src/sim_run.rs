//! `cargo xtask sim`: seeds of the simulator over all cores, or the replay of one.
//!
//! The simulator's binary is asked in two ways. `--first S --seeds N` prints one line per seed in ascending order,
//! `seed S ok (…)` or `seed S FAILED: reason`, and exits with 1 if any failed; with `--coverage` then `met NAME TIMES` and
//! `must be met NAME`. `--seed S --trace` prints the trace of one. Other lines of a range run are passed on.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::num::NonZeroU64;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use crate::Outcome;
use crate::error::Error;
use crate::process::{self, Limits};
use crate::stopwatch::{Shown, Stopwatch};
use crate::workspace::Workspace;

/// A seed that prints nothing for this long hangs.
const SEED_MAX: Duration = Duration::from_secs(120);
/// How often progress is printed.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Seeds that one process runs: enough that starting it costs nothing, few enough that the cores end together.
const BATCH_MAX: u64 = 16;

/// `cargo xtask sim`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["seeds", "seed"])))]
pub(crate) struct Args {
    /// How many seeds to run.
    #[arg(long, value_name = "N")]
    seeds: Option<NonZeroU64>,
    /// The first of them.
    #[arg(long, value_name = "S", default_value_t = 1, conflicts_with = "seed")]
    first: u64,
    /// Run this seed alone.
    #[arg(long, value_name = "S", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Print everything that happens in it.
    #[arg(long, requires = "seed", conflicts_with = "seeds")]
    trace: bool,
}

/// The simulator as a program to start.
#[derive(Clone, Debug)]
pub(crate) struct Simulator {
    program: PathBuf,
    leading: Vec<OsString>,
}

/// Seeds `first..first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seeds {
    first: u64,
    count: u64,
}

impl Seeds {
    /// Refuses a range whose last seed has no number.
    pub(crate) fn new(first: u64, count: u64) -> Result<Self, Error> {
        match first.checked_add(count) {
            Some(_) => Ok(Self { first, count }),
            None => Err(Error::SeedRange { first, count }),
        }
    }

    fn end(self) -> u64 {
        self.first + self.count
    }

    /// Cut so that each of `workers` gets several pieces.
    fn batches(self, workers: u64) -> Vec<Self> {
        let size = (self.count / (workers * 4)).clamp(1, BATCH_MAX);
        let starts = (self.first..self.end()).step_by(usize::try_from(size).unwrap_or(usize::MAX));
        starts.map(|first| Self { first, count: size.min(self.end() - first) }).collect()
    }
}

/// How a range ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Seeds without a violation.
    pub(crate) ok: u64,
    /// The others, each with its reason.
    pub(crate) failures: BTreeMap<u64, String>,
    /// How often each fault and each other rare thing was met.
    pub(crate) met: BTreeMap<String, u64>,
    /// What a larger set of seeds has to meet.
    pub(crate) must_meet: BTreeSet<String>,
}

impl Report {
    /// What should have been met and was not.
    pub(crate) fn never_met(&self) -> Vec<&str> {
        let met = |name: &&String| self.met.get(*name).is_some_and(|&times| times > 0);
        self.must_meet.iter().filter(|name| !met(name)).map(String::as_str).collect()
    }

    /// Takes a line about coverage, if it is one.
    fn cover(&mut self, line: &str) -> bool {
        if let Some(name) = line.strip_prefix("must be met ") {
            self.must_meet.insert(name.to_owned());
            return true;
        }
        let Some((name, times)) = line.strip_prefix("met ").and_then(|rest| rest.rsplit_once(' ')) else {
            return false;
        };
        let Ok(times) = times.parse::<u64>() else { return false };
        *self.met.entry(name.to_owned()).or_insert(0) += times;
        true
    }
}

/// What a worker tells.
enum Told {
    Seed { seed: u64, verdict: Verdict },
    Other(String),
    Broken(Error),
}

/// What became of one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Failed(String),
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Outcome, Error> {
    let Some(name) = workspace.binary_of("sim") else { return Err(Error::NoSimBinary) };
    let simulator = build(workspace, name)?;
    if let (Some(seed), true) = (args.seed, args.trace) {
        let source = Command::new(&simulator.program).args(["--seed", &seed.to_string(), "--trace"]).exec();
        return Err(Error::Spawn { program: name.into(), source });
    }
    let seeds = match (args.seed, args.seeds) {
        (Some(seed), _) => Seeds::new(seed, 1)?,
        (None, count) => Seeds::new(args.first, count.map_or(1, NonZeroU64::get))?,
    };
    let report = run_seeds(&simulator, seeds, Duration::MAX)?;
    Ok(if report.failures.is_empty() { Outcome::Passed } else { Outcome::Failed })
}

/// Builds the simulator with the profile of all tests.
pub(crate) fn build(workspace: &Workspace, name: &str) -> Result<Simulator, Error> {
    let mut command = workspace.cargo();
    // All of the workspace is named, so that its crates are compiled with the same features as for the tests.
    command.args(["build", "--profile", "ci", "--workspace", "--bin", name]);
    process::succeed(
        &mut command,
        Limits { total: Duration::from_secs(3600), silence: None },
        process::echo,
    )?;
    Ok(Simulator { program: workspace.built_binary(name), leading: Vec::new() })
}

/// Runs seeds on all cores with progress, and prints those that failed. Seeds that are not through when
/// `time_left` is up are an error.
pub(crate) fn run_seeds(simulator: &Simulator, seeds: Seeds, time_left: Duration) -> Result<Report, Error> {
    let workers = thread::available_parallelism().map_or(1, |cores| cores.get());
    let clock = Stopwatch::start();
    let report = collect(simulator, seeds, workers, Limits { total: time_left, silence: Some(SEED_MAX) })?;
    if !report.met.is_empty() {
        say!("{:32} {:>10}", "met", "times");
        for (name, times) in &report.met {
            say!("{name:32} {times:>10}");
        }
    }
    say!("sim: {} seeds in {}, {} failed", seeds.count, Shown(clock.elapsed()), report.failures.len());
    for (seed, reason) in &report.failures {
        say!("seed {seed} FAILED: {reason}\n    replay: cargo xtask sim --seed {seed} --trace");
    }
    Ok(report)
}

fn collect(simulator: &Simulator, seeds: Seeds, workers: usize, limits: Limits) -> Result<Report, Error> {
    let clock = Stopwatch::start();
    let mut report = Report::default();
    let mut progress_at = PROGRESS_EVERY;
    let mut broken = None;
    let batches = Mutex::new(seeds.batches(workers as u64).into_iter());
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        for _ in 0..workers {
            let tell = tell.clone();
            scope.spawn(|| work(simulator, &batches, clock, limits, tell));
        }
        drop(tell);
        loop {
            match told.recv_timeout(PROGRESS_EVERY) {
                Ok(Told::Seed { verdict: Verdict::Ok, .. }) => report.ok += 1,
                Ok(Told::Seed { seed, verdict: Verdict::Failed(reason) }) => {
                    say!("seed {seed} FAILED: {reason}");
                    report.failures.insert(seed, reason);
                }
                Ok(Told::Other(line)) if report.cover(&line) => {}
                Ok(Told::Other(line)) => say!("{line}"),
                Ok(Told::Broken(error)) => broken = Some(error),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if clock.elapsed() >= progress_at {
                let done = report.ok + report.failures.len() as u64;
                say!("sim: {done} of {} seeds, {} failed", seeds.count, report.failures.len());
                progress_at = clock.elapsed() + PROGRESS_EVERY;
            }
        }
    });
    broken.map_or(Ok(report), Err)
}

/// Takes batches until there are none; an error that would meet every other batch too ends all workers.
fn work(
    simulator: &Simulator,
    batches: &Mutex<impl Iterator<Item = Seeds>>,
    clock: Stopwatch,
    limits: Limits,
    tell: Sender<Told>,
) {
    let take = || batches.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
    while let Some(batch) = take() {
        if let Err(error) = run_batch(simulator, batch, clock, limits, &tell) {
            while take().is_some() {}
            let _ = tell.send(Told::Broken(error));
        }
    }
}

/// Runs a batch. If the process dies or hangs, the seed it was at has failed and a new process takes the rest.
fn run_batch(
    simulator: &Simulator,
    batch: Seeds,
    clock: Stopwatch,
    limits: Limits,
    tell: &Sender<Told>,
) -> Result<(), Error> {
    let tell_of = |seed, verdict| {
        // Nobody listens any more only if the run is over.
        let _ = tell.send(Told::Seed { seed, verdict });
    };
    let mut missing: BTreeSet<u64> = (batch.first..batch.end()).collect();
    while let Some(&first) = missing.first() {
        let mut any_failed = false;
        let mut command = Command::new(&simulator.program);
        command.args(&simulator.leading);
        let count = batch.end() - first;
        command.args(["--first", &first.to_string(), "--seeds", &count.to_string(), "--coverage"]);
        let left = Limits { total: limits.total.saturating_sub(clock.elapsed()), ..limits };
        let ended = process::stream(&mut command, left, |line| match parse(line) {
            Some((seed, verdict)) => {
                any_failed |= verdict != Verdict::Ok;
                if missing.remove(&seed) {
                    tell_of(seed, verdict);
                }
            }
            None => {
                let _ = tell.send(Told::Other(line.to_owned()));
            }
        });
        let (reason, hides_a_failure) = match ended {
            Ok(status) if status.success() => ("the process ended without a line for it".to_owned(), false),
            Ok(status) => (format!("the process ended with {status}"), !any_failed),
            Err(error @ Error::Silent { .. }) => (error.to_string(), false),
            Err(error) => return Err(error),
        };
        if let Some(culprit) = missing.pop_first() {
            tell_of(culprit, Verdict::Failed(reason));
        } else if hides_a_failure {
            tell_of(first, Verdict::Failed(format!("{reason} though every seed from {first} on was ok")));
        }
    }
    Ok(())
}

/// A line about a seed, if it is one.
fn parse(line: &str) -> Option<(u64, Verdict)> {
    let (seed, rest) = line.strip_prefix("seed ")?.split_once(' ')?;
    let seed = seed.parse().ok()?;
    if let Some(reason) = rest.strip_prefix("FAILED:") {
        return Some((seed, Verdict::Failed(reason.trim().to_owned())));
    }
    (rest == "ok" || rest.starts_with("ok ")).then_some((seed, Verdict::Ok))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A simulator in shell; `$seed` is the seed, and what `body` prints comes after `seed N`.
    fn simulator(directory: &tempfile::TempDir, body: &str) -> Simulator {
        let script = directory.path().join("simulator");
        let text = format!(
            "seed=$2; end=$(($2 + $4))\nwhile [ $seed -lt $end ]; do\n{body}\nseed=$((seed + 1))\ndone"
        );
        fs::write(&script, text).unwrap();
        Simulator { program: "/bin/sh".into(), leading: vec![script.into()] }
    }

    fn run(body: &str, first: u64, count: u64, seed_max: Duration) -> Result<Report, Error> {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { total: Duration::from_secs(60), silence: Some(seed_max) };
        collect(&simulator(&directory, body), Seeds::new(first, count).unwrap(), 2, limits)
    }

    #[test]
    fn batches_cover_the_range_once() {
        for (first, count, workers) in [(1, 1, 2), (5, 7, 2), (0, 1000, 3), (1, 4, 16), (u64::MAX - 9, 9, 2)]
        {
            let mut next = first;
            for batch in Seeds::new(first, count).unwrap().batches(workers) {
                assert_eq!(batch.first, next);
                assert!((1..=BATCH_MAX).contains(&batch.count));
                next = batch.end();
            }
            assert_eq!(next, first + count);
        }
        assert!(matches!(Seeds::new(u64::MAX, 1), Err(Error::SeedRange { .. })));
    }

    #[test]
    fn lines_about_seeds_are_told_from_others() {
        assert_eq!(parse("seed 7 ok (2100 operations)"), Some((7, Verdict::Ok)));
        assert_eq!(parse("seed 7 ok"), Some((7, Verdict::Ok)));
        assert_eq!(parse("seed 7 FAILED: C4: lost"), Some((7, Verdict::Failed("C4: lost".into()))));
        assert_eq!(parse("seed 7 okay"), None);
        assert_eq!(parse("seed x ok"), None);
        assert_eq!(parse("coverage: torn write 4"), None);
    }

    #[test]
    fn every_seed_is_counted_and_failures_keep_their_reason() {
        let body = "if [ $seed = 13 ]; then echo seed $seed FAILED: C1: two writers; bad=1; else echo seed $seed ok; fi
            [ $seed = $((end - 1)) ] && [ -n \"$bad\" ] && exit 1";
        let report = run(body, 3, 40, SEED_MAX).unwrap();
        let failures = BTreeMap::from([(13, "C1: two writers".to_owned())]);
        assert_eq!(report, Report { ok: 39, failures, ..Report::default() });
    }

    #[test]
    fn coverage_is_summed_over_all_processes() {
        let body =
            "echo seed $seed ok; echo must be met net.cut; echo must be met disk.full; echo met net.cut 2";
        let report = run(body, 1, 20, SEED_MAX).unwrap();
        assert_eq!(report.met, BTreeMap::from([("net.cut".to_owned(), 40)]));
        assert_eq!(report.never_met(), ["disk.full"]);
    }

    #[test]
    fn a_seed_that_kills_the_process_fails_alone() {
        let report = run("[ $seed = 9 ] && kill -6 $$; echo seed $seed ok", 1, 30, SEED_MAX).unwrap();
        assert_eq!(report.ok, 29);
        assert_eq!(report.failures.keys().copied().collect::<Vec<_>>(), [9]);
        assert!(report.failures[&9].contains("signal: 6"), "{}", report.failures[&9]);
    }

    #[test]
    fn a_seed_that_hangs_fails_alone() {
        let body = "[ $seed = 2 ] && exec sleep 600; echo seed $seed ok";
        // Only the one that hangs may be silent for so long, whatever else the machine does.
        let report = run(body, 1, 3, Duration::from_secs(8)).unwrap();
        assert_eq!(report.ok, 2);
        assert!(report.failures[&2].contains("printed nothing"), "{}", report.failures[&2]);
    }

    #[test]
    fn a_missing_line_and_a_hidden_failure_are_failures() {
        let report = run("[ $seed = 42 ] || echo seed $seed ok", 1, 80, SEED_MAX).unwrap();
        assert_eq!((report.ok, report.failures.len()), (79, 1));
        assert!(report.failures[&42].contains("without a line"), "{}", report.failures[&42]);
        let report = run("echo seed $seed ok; [ $seed = 80 ] && exit 1", 1, 80, SEED_MAX).unwrap();
        assert_eq!(report.failures.len(), 1);
        assert!(report.failures[&71].contains("every seed from 71"), "{}", report.failures[&71]);
    }

    #[test]
    fn a_simulator_that_cannot_start_is_an_error() {
        let simulator = Simulator { program: "/nonexistent/sim".into(), leading: Vec::new() };
        let limits = Limits { total: Duration::MAX, silence: None };
        let result = collect(&simulator, Seeds::new(1, 100).unwrap(), 2, limits);
        assert!(matches!(result, Err(Error::Spawn { .. })), "{result:?}");
    }

    #[test]
    fn a_run_over_its_time_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { total: Duration::from_millis(400), silence: None };
        let slow = simulator(&directory, "sleep 0.2; echo seed $seed ok");
        let result = collect(&slow, Seeds::new(1, 1000).unwrap(), 2, limits);
        assert!(matches!(result, Err(Error::OutOfTime { .. })), "{result:?}");
    }
}
