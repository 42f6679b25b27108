//! The `vstorage` command line: sets a cluster up, changes it and watches it.
//!
//! One struct per sub-command ([`command`](mod@command)); each is parsed, then checked as a whole, then acts. What is
//! made or run on this host is made and run by the daemons' own programs; everything else is asked of the metadata
//! servers over the wire protocol. Results go to standard output, as text or with `--json`; messages go to standard
//! error. Exit codes: 0 done, 1 failed, 2 the command line makes no sense.
//!
//! **Invariant:** nothing is touched before all arguments have been checked.
//! **Invariant:** a password is never in an argument, in the environment or in a log.

mod attributes;
mod cli;
mod cluster;
mod command;
mod error;
mod guest;
mod listen;
mod logging;
mod mds;
mod mounted;
mod output;
mod password;
mod path;
mod place;
mod program;
mod redundancy;
mod service;
mod table;
mod terminal;
mod units;
mod view;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use rt::{Executor, ExecutorOptions};

use crate::cli::{Cli, Command, Context, Next};
use crate::command::top::Top;
use crate::error::Error;

/// Runs the command of this process's arguments.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match act(cli) {
        Ok(code) => code,
        Err(error) => {
            if !error.is_silent() {
                // Nobody is left to tell if that fails.
                let _lost = writeln!(std::io::stderr(), "error: {error}");
            }
            error.code()
        }
    }
}

/// The grammar, for manual pages and completions.
#[must_use]
pub fn grammar() -> clap::Command {
    Cli::command()
}

fn act(cli: Cli) -> Result<ExitCode, Error> {
    if let Command::Detached(command) = cli.command {
        return Err(command.run().into());
    }
    if matches!(cli.command, Command::Top(_)) && Top::is_interactive(cli.globals.json) {
        rt::signal::block_stop_signals().map_err(Error::Terminal)?;
    }
    logging::start(cli.globals.log_level, cli.globals.log_file.as_deref())?;
    // One connection and a few small files: far less than a daemon needs.
    let options =
        ExecutorOptions { ring_entries: 64, files_max: 64, pool_bytes_max: 16 << 20, recv_buffers: 16 };
    let executor = Executor::start(&options)?;
    let mut context = Context::new(cli.globals);
    match executor.run(async move { cli.command.run(&mut context).await })? {
        Next::Done => Ok(ExitCode::SUCCESS),
        Next::Exit(code) => Ok(code),
        Next::Become(program) => Err(program::become_program(program).into()),
    }
}
