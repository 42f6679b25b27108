//! `cargo xtask test`: what CI runs, stage by stage, each with its time and some with a budget.
//!
//! The tests themselves are told how they run by two environment variables, which they find set or not set
//! whatever the caller's environment says:
//!
//! - `VSTORAGE_REQUIRE_ALL=1`: nothing may be skipped. A test that finds a program, a kernel feature or a right
//!   missing fails and says which; without the variable it may print that and pass. Set in CI.
//! - `VSTORAGE_QUICK=1`: tests of more than a second or so pass at once. Set by `--quick`.
//!
//! In CI (`CI` is set) a test that libtest reports as ignored is a failure too.

mod tally;

use std::env;
use std::process::Command;
use std::time::Duration;

use crate::Outcome;
use crate::error::Error;
use crate::leader;
use crate::packages;
use crate::process::{self, Limits};
use crate::sim_run::{self, Seeds};
use crate::stopwatch::{Shown, Stopwatch};
use crate::tidy;
use crate::workspace::Workspace;
use tally::Tally;

/// Everything together, from a clean clone on two cores: what a slow machine has needed (30 min 18 s), and a tenth.
const TOTAL_MAX: Duration = Duration::from_secs(34 * 60);
/// Everything together with `--quick`, on a warm target directory.
const QUICK_MAX: Duration = Duration::from_secs(2 * 60);
/// The simulator's seeds.
const SIM_MAX: Duration = Duration::from_secs(4 * 60);
/// The end-to-end tests, with two minutes of torture and what comes after them: what a slow machine has needed (11 min 13 s), and
/// a tenth.
const E2E_MAX: Duration = Duration::from_secs(12 * 60 + 20);
/// Silence of an end-to-end test after which it counts as hanging. Its own waits are shorter, but some scenarios run a
/// program to its end before they print, which takes as long as the machine is slow.
const E2E_SILENCE_MAX: Duration = Duration::from_secs(10 * 60);
/// How long it may take to clear away what a stage has left mounted.
const CLEANING_MAX: Duration = Duration::from_secs(60);
/// When a stage that hangs is killed, counted from the start of the run: late enough that a run over its budget
/// mostly ends and can say by how much.
const HARD_STOP: Duration = Duration::from_secs(50 * 60);
/// Seeds per run.
const SEEDS: u64 = 200;
/// Seeds per run with `--quick`.
const SEEDS_QUICK: u64 = 5;

/// `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out what is slow: for use after each change, on a warm target directory.
    #[arg(long)]
    quick: bool,
}

/// What the stages have in common.
struct Run<'a> {
    workspace: &'a Workspace,
    quick: bool,
    in_ci: bool,
    clock: Stopwatch,
    tally: Tally,
}

/// Why a stage did not pass.
#[derive(Debug, thiserror::Error)]
enum StageError {
    #[error(transparent)]
    Command(#[from] Error),
    #[error("tidy has findings, listed above")]
    Tidy,
    #[error("no test result line was seen: libtest's output is not understood any more, mend xtask")]
    NothingCounted,
    #[error("{} tests were ignored and in CI every test runs: {}", .0.len(), .0.join(", "))]
    Ignored(Vec<String>),
    #[error("{0} seeds failed, listed above")]
    Seeds(usize),
    #[error("no seed met {}: the simulator tests less than it says", .0.join(", "))]
    NeverMet(Vec<String>),
}

/// How a stage ended, apart from failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Passed,
    Skipped(&'static str),
}

type StageResult = Result<Done, StageError>;

/// One step of a run.
struct Stage {
    name: &'static str,
    budget: Option<Duration>,
    run: fn(&mut Run) -> StageResult,
}

/// A stage that has ended.
struct Ended {
    name: &'static str,
    budget: Option<Duration>,
    took: Duration,
    result: StageResult,
}

/// The stages in their order: what is cheap and fails often comes first.
fn stages(quick: bool) -> Vec<Stage> {
    let stage = |name, run| Stage { name, budget: None, run };
    let mut stages = vec![
        stage("fmt", fmt as fn(&mut Run) -> StageResult),
        stage("tidy", run_tidy),
        stage("clippy", clippy),
        stage("build", build),
        stage("tests", tests),
        Stage { budget: Some(SIM_MAX), ..stage("sim", sim) },
    ];
    if !quick {
        stages.insert(0, stage("packages", install_packages));
        stages.push(Stage { budget: Some(E2E_MAX), ..stage("e2e", e2e) });
    }
    stages
}

/// Runs all stages, also after one has failed, so that one run shows everything there is to mend.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let in_ci = env::var("CI").is_ok_and(|value| !["", "0", "false"].contains(&&*value));
    let mut run =
        Run { workspace, quick: args.quick, in_ci, clock: Stopwatch::start(), tally: Tally::default() };
    if let Err(error) = process::adopt_orphans() {
        say!("processes that tests leave behind cannot be ended: {error}");
    }
    let total_max = if args.quick { QUICK_MAX } else { TOTAL_MAX };
    let stages = stages(args.quick).into_iter().take_while(|_| !leader::is_gone());
    let ended: Vec<Ended> = stages.map(|stage| run_stage(stage, &mut run)).collect();
    let total = run.clock.elapsed();
    print_table(&ended, total, total_max);
    let mut problems = problems(&ended, total, total_max);
    if leader::is_gone() {
        problems.push("the run was ended by a signal".to_owned());
    }
    for problem in &problems {
        say!("{problem}");
    }
    say!("{} passed, {} failed", run.tally.passed, run.tally.failed);
    if problems.is_empty() { Outcome::Passed } else { Outcome::Failed }
}

fn run_stage(stage: Stage, run: &mut Run) -> Ended {
    say!("==> {}", stage.name);
    let clock = Stopwatch::start();
    let result = (stage.run)(run);
    process::end_orphans();
    let took = clock.elapsed();
    let ended = Ended { name: stage.name, budget: stage.budget, took, result };
    say!("<== {} {} in {}", ended.name, ended.word(), Shown(took));
    ended
}

impl Ended {
    fn word(&self) -> &'static str {
        match self.result {
            Ok(Done::Passed) if self.budget.is_some_and(|budget| self.took > budget) => "over budget",
            Ok(Done::Passed) => "ok",
            Ok(Done::Skipped(_)) => "skipped",
            Err(_) => "FAILED",
        }
    }
}

fn print_table(ended: &[Ended], total: Duration, total_max: Duration) {
    say!("\n{:10} {:>12} {:>12}  result", "stage", "time", "budget");
    for stage in ended {
        let budget = stage.budget.map_or("-".to_owned(), |budget| Shown(budget).to_string());
        let note = if let Ok(Done::Skipped(why)) = stage.result { format!(": {why}") } else { String::new() };
        say!("{:10} {:>12} {budget:>12}  {}{note}", stage.name, Shown(stage.took), stage.word());
    }
    let word = if total > total_max { "over budget" } else { "" };
    say!("{:10} {:>12} {:>12}  {word}\n", "total", Shown(total), Shown(total_max));
}

/// Everything that makes the run fail, a line each.
fn problems(ended: &[Ended], total: Duration, total_max: Duration) -> Vec<String> {
    let mut problems = Vec::new();
    for stage in ended {
        if let Err(error) = &stage.result {
            problems.push(format!("stage {} FAILED: {error}", stage.name));
        }
        if let Some(over) =
            stage.budget.and_then(|budget| stage.took.checked_sub(budget)).filter(|over| !over.is_zero())
        {
            problems.push(format!("stage {} is over its budget by {}", stage.name, Shown(over)));
        }
    }
    if total > total_max {
        let built = ended
            .iter()
            .filter(|stage| ["clippy", "build"].contains(&stage.name))
            .map(|stage| stage.took)
            .sum();
        problems.push(format!(
            "the run is over its budget by {}; {} of it went into clippy and build, which a warm target directory saves",
            Shown(total - total_max),
            Shown(built)
        ));
    }
    problems
}

impl Run<'_> {
    /// Runs cargo with its output passed through.
    fn cargo(&mut self, arguments: &[&str]) -> Result<(), Error> {
        let mut command = self.workspace.cargo();
        process::succeed(command.args(arguments), self.limits(), process::echo)
    }

    fn limits(&self) -> Limits {
        Limits { total: HARD_STOP.saturating_sub(self.clock.elapsed()), silence: None }
    }
}

fn install_packages(_: &mut Run) -> StageResult {
    packages::ensure(packages::FOR_TESTS)?;
    Ok(Done::Passed)
}

fn fmt(run: &mut Run) -> StageResult {
    run.cargo(&["fmt", "--all", "--check"])?;
    Ok(Done::Passed)
}

fn run_tidy(run: &mut Run) -> StageResult {
    match tidy::run(run.workspace)? {
        Outcome::Passed => Ok(Done::Passed),
        Outcome::Failed => Err(StageError::Tidy),
    }
}

fn clippy(run: &mut Run) -> StageResult {
    run.cargo(&["clippy", "--profile", "ci", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    Ok(Done::Passed)
}

/// Compiles what the next stage runs, so that the two times can be told apart.
fn build(run: &mut Run) -> StageResult {
    run.cargo(&["test", "--profile", "ci", "--workspace", "--no-run"])?;
    run.cargo(&["build", "--profile", "ci", "--workspace", "--bins"])?;
    Ok(Done::Passed)
}

fn tests(run: &mut Run) -> StageResult {
    let mut command = run.workspace.cargo();
    command.args(["test", "--profile", "ci", "--workspace", "--no-fail-fast"]);
    command.env_remove("VSTORAGE_QUICK").env_remove("VSTORAGE_REQUIRE_ALL");
    if run.quick {
        // Tests of every kind but those in documentation, which are compiled one by one.
        command.arg("--tests").env("VSTORAGE_QUICK", "1");
    }
    if run.in_ci {
        command.env("VSTORAGE_REQUIRE_ALL", "1");
    }
    let limits = run.limits();
    let tally = &mut run.tally;
    process::succeed(&mut command, limits, |line| {
        say!("{line}");
        tally.count(line);
    })?;
    check_tally(&run.tally, run.in_ci)
}

fn check_tally(tally: &Tally, in_ci: bool) -> StageResult {
    if tally.results == 0 {
        return Err(StageError::NothingCounted);
    }
    if in_ci && tally.ignored > 0 {
        return Err(StageError::Ignored(tally.ignored_names.clone()));
    }
    Ok(Done::Passed)
}

fn sim(run: &mut Run) -> StageResult {
    let Some(name) = run.workspace.binary_of("sim") else {
        return Ok(Done::Skipped("package sim has no binary target yet"));
    };
    let simulator = sim_run::build(run.workspace, name)?;
    let count = if run.quick { SEEDS_QUICK } else { SEEDS };
    let report = sim_run::run_seeds(&simulator, Seeds::new(1, count)?, run.limits().total)?;
    let never_met = report.never_met();
    match report.failures.len() {
        0 if run.quick || never_met.is_empty() => Ok(Done::Passed),
        0 => Err(StageError::NeverMet(never_met.into_iter().map(str::to_owned).collect())),
        failed => Err(StageError::Seeds(failed)),
    }
}

/// Real daemons, killed, cut off from their power and lied to; see `hw-tests/src/bin/e2e`.
fn e2e(run: &mut Run) -> StageResult {
    let program = run.workspace.target_directory.join("ci").join("e2e");
    let mut command = Command::new(&program);
    if run.in_ci {
        command.env("VSTORAGE_REQUIRE_ALL", "1");
    }
    let limits = Limits { silence: Some(E2E_SILENCE_MAX), ..run.limits() };
    let before = run.tally.results;
    let tally = &mut run.tally;
    let ended = process::succeed(&mut command, limits, |line| {
        say!("{line}");
        tally.count(line);
    });
    // What a test that was killed has mounted would hang whoever looks at it after us.
    process::end_orphans();
    let cleaned = process::clear_away(Command::new(&program).arg("--clean"), CLEANING_MAX);
    ended?;
    cleaned?;
    if run.tally.results == before { Err(StageError::NothingCounted) } else { Ok(Done::Passed) }
}

#[cfg(test)]
mod tests_of_stages {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ended(name: &'static str, budget: Option<Duration>, took: Duration, result: StageResult) -> Ended {
        Ended { name, budget, took, result }
    }

    #[test]
    fn a_run_within_budget_has_no_problems() {
        let stages = [
            ended("tests", None, 20 * MINUTE, Ok(Done::Passed)),
            ended("sim", Some(4 * MINUTE), 4 * MINUTE, Ok(Done::Passed)),
            ended("e2e", Some(4 * MINUTE), MINUTE, Ok(Done::Skipped("why"))),
        ];
        assert_eq!(problems(&stages, 25 * MINUTE, 25 * MINUTE), Vec::<String>::new());
        assert_eq!(stages.each_ref().map(Ended::word), ["ok", "ok", "skipped"]);
    }

    #[test]
    fn over_budget_says_by_how_much() {
        let stages = [
            ended("build", None, 2 * MINUTE, Ok(Done::Passed)),
            ended("sim", Some(4 * MINUTE), 5 * MINUTE, Ok(Done::Passed)),
        ];
        assert_eq!(stages[1].word(), "over budget");
        let said = problems(&stages, 27 * MINUTE, 25 * MINUTE);
        assert_eq!(said[0], "stage sim is over its budget by 1 min 00 s");
        assert!(
            said[1].starts_with("the run is over its budget by 2 min 00 s; 2 min 00 s of it"),
            "{}",
            said[1]
        );
        assert_eq!(said.len(), 2);
    }

    #[test]
    fn a_failed_stage_fails_the_run() {
        let stages = [ended("tidy", None, MINUTE, Err(StageError::Tidy))];
        assert_eq!(
            problems(&stages, MINUTE, 25 * MINUTE),
            ["stage tidy FAILED: tidy has findings, listed above"]
        );
        assert_eq!(stages[0].word(), "FAILED");
    }

    #[test]
    fn ignored_tests_fail_in_ci_only() {
        let mut tally = Tally::default();
        assert!(matches!(check_tally(&tally, false), Err(StageError::NothingCounted)));
        tally.count("test slow ... ignored");
        tally.count(
            "test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        assert!(matches!(check_tally(&tally, false), Ok(Done::Passed)));
        let said = check_tally(&tally, true).unwrap_err().to_string();
        assert_eq!(said, "1 tests were ignored and in CI every test runs: slow");
    }

    #[test]
    fn a_quick_run_leaves_out_packages_and_real_clusters() {
        let names = |quick| stages(quick).iter().map(|stage| stage.name).collect::<Vec<_>>();
        assert_eq!(names(false), ["packages", "fmt", "tidy", "clippy", "build", "tests", "sim", "e2e"]);
        assert_eq!(names(true), ["fmt", "tidy", "clippy", "build", "tests", "sim"]);
    }
}
