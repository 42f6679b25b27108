//! End-to-end tests: whole clusters of real daemons, cut, killed, filled and lied to. A stage of `cargo xtask test`.
//!
//! ```text
//! cargo build --profile ci --bins -p control-cli -p mds -p cs-engine -p ublk-target -p fuse-mount -p hw-tests
//! target/ci/e2e [--list] [--minutes N] [--seed S] [--dir DIR] [SCENARIO…]
//! ```
//!
//! Prints what libtest prints, so that the same eyes can read it. Needs root, FUSE, loop devices, and the Debian packages
//! of [`hw_tests`] and `qemu-utils`, `libnbd-bin`, `fio`.

mod bad_files;
mod bad_requests;
mod damage;
mod dead_writers;
mod deletion;
mod failover;
mod faults;
mod fio;
mod full;
mod guide;
mod idle;
mod journal_full;
mod journals;
mod kill;
mod mixed;
mod mounts;
mod power;
mod rebalance;
mod rebuild;
mod restarts;
mod scene;
mod tools;
mod torture;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use hw_tests::deadline::Stopwatch;
use hw_tests::own_dir::OwnDir;
use hw_tests::{leftovers, machine};

use scene::{Scene, Settings};

/// A scenario. It panics when the product does not do what it should.
struct Scenario {
    name: &'static str,
    run: fn(&Scene),
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "kill_everything", run: kill::kill_everything },
    Scenario { name: "kill_unchecked", run: kill::kill_unchecked },
    Scenario { name: "power_cuts", run: power::power_cuts },
    Scenario { name: "restarts_under_load", run: restarts::restarts_under_load },
    Scenario { name: "fio_verifies_through_restarts", run: restarts::fio_verifies_through_restarts },
    Scenario { name: "nbd_tools", run: tools::nbd_tools },
    Scenario { name: "bad_files", run: bad_files::bad_files },
    Scenario { name: "bad_requests", run: bad_requests::bad_requests },
    Scenario { name: "full_disk", run: full::full_disk },
    Scenario { name: "full_mount", run: full::full_mount },
    Scenario { name: "full_cluster", run: full::full_cluster },
    Scenario { name: "full_metadata", run: full::full_metadata },
    Scenario { name: "two_mounts", run: mounts::two_mounts },
    Scenario { name: "dead_writers", run: dead_writers::dead_writers },
    Scenario { name: "killed_openers", run: dead_writers::killed_openers },
    Scenario { name: "mount_commands", run: mounts::mount_commands },
    Scenario { name: "failover", run: failover::failover },
    Scenario { name: "faults", run: faults::faults },
    Scenario { name: "journals", run: journals::journals },
    Scenario { name: "journal_full", run: journal_full::journal_full },
    Scenario { name: "rebuild", run: rebuild::rebuild },
    Scenario { name: "damage", run: damage::damage },
    Scenario { name: "deletion", run: deletion::deletion },
    Scenario { name: "rebuild_speed", run: rebuild::rebuild_speed },
    Scenario { name: "rebalance", run: rebalance::rebalance },
    Scenario { name: "mixed_load", run: mixed::mixed_load },
    Scenario { name: "mounted_programs", run: mounts::mounted_programs },
    Scenario { name: "guide", run: guide::guide },
    Scenario { name: "posix", run: mounts::posix },
    Scenario { name: "idle", run: idle::idle },
    Scenario { name: "torture", run: torture::torture },
];

/// End-to-end tests on real daemons
#[derive(Debug, Parser)]
struct Cli {
    /// Name the scenarios
    #[arg(long)]
    list: bool,
    /// How long fio_verifies_through_restarts, mixed_load and torture go on, in minutes [default: 20 and 25 seconds, and 2
    /// minutes]; with it, mounted_programs also runs the tests of SQLite and PostgreSQL, for some 20 minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// Decides what is written and what a power cut takes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the directory vstorage-e2e goes, on a disk with 4 GiB free [default: tmp beside the programs' directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Take away what an interrupted run has left mounted, and run nothing
    #[arg(long)]
    clean: bool,
    /// Where the daemons' programs are [default: beside this one]
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Which scenarios, by a part of their names [default: all]
    only: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.list {
        SCENARIOS.iter().for_each(|scenario| println!("{}", scenario.name));
        return ExitCode::SUCCESS;
    }
    if !machine::can_run("e2e") {
        println!(
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; {} filtered out",
            SCENARIOS.len()
        );
        return ExitCode::SUCCESS;
    }
    let beside =
        std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned())).unwrap_or_default();
    let given = cli.dir.unwrap_or_else(|| beside.join("../tmp"));
    // Takes away what an interrupted run has left mounted, and nothing of one that goes on.
    let own = match OwnDir::claim(&given, "vstorage-e2e") {
        Ok(own) => own,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    if cli.clean {
        return ExitCode::SUCCESS;
    }
    let settings = Settings {
        binaries: cli.binaries.unwrap_or_else(|| beside.clone()),
        dir: own.path().to_owned(),
        seed: cli.seed,
        removals: RefCell::default(),
        soak_seconds: cli.minutes.map_or(scene::SOAK_SECONDS, |minutes| minutes * 60),
        is_long: cli.minutes.is_some(),
    };
    let is_meant = |scenario: &&Scenario| {
        cli.only.is_empty() || cli.only.iter().any(|part| scenario.name.contains(part.as_str()))
    };
    let meant: Vec<&Scenario> = SCENARIOS.iter().filter(is_meant).collect();
    // Daemons that go into the background are ours to end.
    let adopted = leftovers::adopt_orphans();
    adopted.expect("PR_SET_CHILD_SUBREAPER of Linux 3.4");
    // The place and the words are enough; the logs follow.
    std::panic::set_hook(Box::new(|info| eprintln!("\n{info}")));
    settings.finish_removals();
    println!("running {} scenarios with seed {}", meant.len(), settings.seed);
    let clock = Stopwatch::start();
    let failed: Vec<&str> =
        meant.iter().filter(|scenario| !passes(scenario, &settings)).map(|scenario| scenario.name).collect();
    settings.wait_for_removals();
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s",
        meant.len() - failed.len(),
        failed.len(),
        SCENARIOS.len() - meant.len(),
        clock.elapsed().as_secs_f64()
    );
    failed
        .iter()
        .for_each(|name| println!("failed: {name} (again: target/ci/e2e --seed {} {name})", settings.seed));
    if failed.is_empty() && !meant.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a scenario and says how it ended.
fn passes(scenario: &Scenario, settings: &Settings) -> bool {
    println!("\n-- {}", scenario.name);
    let clock = Stopwatch::start();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let scene = Scene::new(scenario.name, settings);
        (scenario.run)(&scene);
    }));
    // Also after a failure nothing may stay that runs, or hangs whoever looks at a mount of a dead cluster.
    scene::abandon(&settings.dir.join(scenario.name));
    leftovers::end_children(&settings.removing());
    let (word, took) = (if outcome.is_ok() { "ok" } else { "FAILED" }, clock.elapsed().as_secs_f64());
    println!("test e2e::{} ... {word} ({took:.1} s)", scenario.name);
    outcome.is_ok()
}
