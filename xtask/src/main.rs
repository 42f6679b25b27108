//! `cargo xtask`: builds, tests and tidies this repository. `.ci/run` calls `cargo xtask test` and nothing else.

/// Prints a line on standard output. Whoever listened may have gone: what was started has to be ended all the same.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _unheard = writeln!(std::io::stdout(), $($words)*);
    }};
}

/// As [`say`], on standard error.
macro_rules! complain {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _unheard = writeln!(std::io::stderr(), $($words)*);
    }};
}

mod bench;
mod error;
mod fix;
mod leader;
mod packages;
mod packaging;
mod process;
mod quickstart;
mod sim_run;
mod stopwatch;
mod test_run;
mod tidy;
mod torture;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::leader::Part;
use crate::workspace::Workspace;

/// Builds, tests and tidies this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run what CI runs, with the time of each stage, and fail over budget.
    Test(test_run::Args),
    /// Check the house rules that neither rustc nor clippy knows.
    Tidy,
    /// Start a cluster on this machine, use it, kill it, start it again, and compare every checksum.
    Quickstart(quickstart::Args),
    /// Run seeds of the simulator on all cores, or replay one.
    Sim(sim_run::Args),
    /// Measure what an operation costs, against the raw medium.
    Bench(bench::Args),
    /// Let everything that can happen to a cluster happen to one, by seed.
    Torture(torture::Args),
    /// Write the manual pages and completions in packaging/ anew.
    Packaging,
    /// Format the code and apply what clippy can mend by itself.
    Fix,
}

/// How a command ended that ran to its end. Whatever made it fail is already on the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(cli.command, Command::Test(_)) {
        match leader::take_part() {
            Ok(Part::Work) => {}
            Ok(Part::Led(code)) => return code,
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    let outcome = Workspace::load().and_then(|workspace| match &cli.command {
        Command::Test(args) => Ok(test_run::run(&workspace, args)),
        Command::Tidy => tidy::run(&workspace),
        Command::Sim(args) => sim_run::run(&workspace, args),
        Command::Quickstart(args) => quickstart::run(&workspace, args),
        Command::Bench(args) => bench::run(&workspace, args),
        Command::Torture(args) => torture::run(&workspace, args),
        Command::Packaging => packaging::run(&workspace),
        Command::Fix => fix::run(&workspace),
    });
    match outcome {
        Ok(Outcome::Passed) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sim_wants_a_range_or_one_seed() {
        let parses = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parses("xtask sim --seeds 10"));
        assert!(parses("xtask sim --seeds 10 --first 7"));
        assert!(parses("xtask sim --seed 7 --trace"));
        assert!(!parses("xtask sim"));
        assert!(!parses("xtask sim --seeds 10 --seed 7"));
        assert!(!parses("xtask sim --seeds 10 --trace"));
        assert!(!parses("xtask sim --seeds 0"));
        assert!(!parses("xtask sim --seed 7 --first 3"));
    }
}
