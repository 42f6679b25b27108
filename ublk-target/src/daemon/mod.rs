//! `vstorage-ublkd`: serves a volume to block clients of this host.
//!
//! Exit codes: 0 after an orderly stop, 1 after a failure, 2 when the command line was wrong.

mod args;
mod export;
mod failure;
mod signals;
mod socket;
mod uri;

use std::process::ExitCode;

use rt::{Executor, ExecutorOptions};

use args::{Cli, Command};
use failure::Failure;

/// Exit code for a command line that is wrong.
const USAGE: u8 = 2;

/// The grammar of the command line, for manual pages and completions.
#[must_use]
pub fn grammar() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the daemon's command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::read();
    if let Err(error) = link::daemon::init_logging(&cli.log_level, cli.log_file.as_deref()) {
        eprintln!("vstorage-ublkd: {error}");
        return ExitCode::from(USAGE);
    }
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            if cli.log_file.is_some() || cli.log_level == "off" {
                eprintln!("vstorage-ublkd: {failure}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    // Before any thread starts: they inherit it.
    rt::signal::block_stop_signals().map_err(Failure::system("cannot hold back SIGTERM"))?;
    let executor = Executor::start(&ExecutorOptions::default())?;
    match command {
        Command::Nbd(nbd) => executor.run(export::run(nbd)),
    }
}
