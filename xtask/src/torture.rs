//! `cargo xtask torture`: builds the daemons and lets everything happen to a cluster of them for as long as is wished.

use std::process::Command;
use std::time::Duration;

use crate::Outcome;
use crate::error::Error;
use crate::packages;
use crate::process::{self, Limits};
use crate::workspace::Workspace;

/// Packages of the workspace whose programs run, or make them suffer.
const TORTURED: &[&str] = &["control-cli", "mds", "cs-engine", "ublk-target", "hw-tests"];
/// How long making the cluster, the last round, the last comparison and the checks may take besides.
const BESIDES: Duration = Duration::from_secs(20 * 60);
/// For compiling.
const BUILD_MAX: Duration = Duration::from_secs(60 * 60);

/// Kill, pause, fill, cut off and power down the parts of a cluster by seed, under writers that are judged from outside.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask torture --minutes 30\n  cargo xtask torture --minutes 2 --seed 7"
)]
pub(crate) struct Args {
    /// How long, before everything is healed and compared.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    minutes: u64,
    /// Decides what happens, what is written and what a power cut takes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Outcome, Error> {
    packages::ensure(packages::FOR_TESTS)?;
    let mut build = workspace.cargo();
    build.args(["build", "--profile", "ci", "--bins"]);
    for package in TORTURED {
        build.args(["-p", package]);
    }
    process::succeed(&mut build, Limits { total: BUILD_MAX, silence: None }, process::echo)?;
    let mut torture = Command::new(workspace.target_directory.join("ci/e2e"));
    torture.args(["--minutes", &args.minutes.to_string(), "--seed", &args.seed.to_string(), "torture"]);
    let limits = Limits { total: Duration::from_secs(args.minutes * 60) + BESIDES, silence: None };
    process::succeed(&mut torture, limits, process::echo)?;
    Ok(Outcome::Passed)
}
