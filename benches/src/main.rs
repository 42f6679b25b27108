//! `bench`: what an operation costs, through each way into the store, held against the medium itself.
//!
//! `bench run` makes a medium and a cluster on it and measures every target with every pattern, interleaved: round
//! after round on the same medium, because absolute times of a machine wander. It starts itself again as `bench worker`
//! for each measurement and as `bench floor-server` for the simplest program that could do the same work.

mod error;
mod floor;
mod latency;
mod pattern;
mod report;
mod run;
mod sample;
mod target;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures what an operation costs.
#[derive(Debug, Parser)]
#[command(
    name = "bench",
    after_help = "Example:\n  bench run --medium ram --binaries target/release --dir target"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure every target with every pattern and print a table.
    Run(run::Args),
    /// One measurement; prints a line of JSON.
    #[command(hide = true)]
    Worker(worker::Args),
    /// Writes what it is sent to a file and answers.
    #[command(hide = true)]
    FloorServer(floor::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Worker(args) => worker::run(&args),
        Command::FloorServer(args) => floor::serve(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
