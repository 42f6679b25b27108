//! `vstorage-mount`: mounts a cluster and serves it until it is unmounted.
//!
//! Exit codes: 0 when the cluster is mounted (or, in the foreground, was unmounted in order), 1 after a failure, 2 when the
//! command line was wrong.

mod args;
mod background;
mod failure;
mod mount;
mod options;
mod run;

use std::process::ExitCode;

use link::cluster_dir::HostDirs;
use rt::{Executor, ExecutorOptions};

use args::{Cli, Mounting};
use failure::Failure;

/// Name of the log, of many mounts together.
const LOG: &str = "vstorage-mount.log";

/// The grammar of the command line, for manual pages and completions.
#[must_use]
pub fn grammar() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the daemon's command line.
#[must_use]
pub fn main() -> ExitCode {
    let (cli, mounting) = Cli::read();
    match run(&cli, mounting) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !cli.foreground {
                tracing::error!("{failure}");
            }
            eprintln!("vstorage-mount: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli, mounting: Mounting) -> Result<(), Failure> {
    if !cli.foreground && !cli.detached {
        return background::launch();
    }
    // Before any thread starts: they inherit it.
    rt::signal::block_stop_signals().map_err(Failure::system("cannot hold back SIGTERM"))?;
    let log = match (&cli.log_file, cli.foreground) {
        (Some(file), _) => Some(file.clone()),
        (None, true) => None,
        (None, false) => {
            let dir = HostDirs::from_environment().log;
            std::fs::create_dir_all(&dir).map_err(Failure::system("cannot make the directory of the log"))?;
            Some(dir.join(LOG))
        }
    };
    link::daemon::init_logging(&cli.log_level, log.as_deref())?;
    let executor = Executor::start(&ExecutorOptions::default())?;
    let detached = cli.detached;
    executor.run(async move { run::run(&mounting, detached).await })
}
