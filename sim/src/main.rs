//! Runs seeds. `cargo xtask sim` drives it on all cores.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::Parser;
use sim::plans::Plan;
use sim::run::{RunOptions, run};

/// Run whole clusters from seeds.
#[derive(Debug, Parser)]
#[command(name = "sim", after_help = "Examples:\n  sim --first 1 --seeds 100\n  sim --seed 42 --trace")]
struct Cli {
    /// First seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Just this seed.
    #[arg(long, conflicts_with_all = ["first", "seeds"])]
    seed: Option<u64>,
    /// Print the trace.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Carry this deliberate bug; may be given several times.
    #[arg(long)]
    planted: Vec<String>,
    /// What the faults are mostly about.
    #[arg(long, value_enum, default_value_t)]
    plan: Plan,
    /// Client operations per run.
    #[arg(long, default_value_t = 2000)]
    operations: u64,
    /// Faults per run.
    #[arg(long, default_value_t = 12)]
    faults: usize,
    /// Print at the end which faults and other rare things were met how often, and which faults must be.
    #[arg(long)]
    coverage: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (first, count) = cli.seed.map_or((cli.first, cli.seeds), |seed| (seed, 1));
    if cli.trace {
        sim::log::into_trace();
    }
    let mut failed = 0;
    let mut coverage: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut gauges: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in first..first.saturating_add(count) {
        let options = RunOptions {
            seed,
            operations: cli.operations,
            faults: cli.faults,
            planted: cli.planted.clone(),
            trace: cli.trace,
            plan: cli.plan,
        };
        match std::panic::catch_unwind(AssertUnwindSafe(|| run(&options))) {
            Ok(report) => {
                for (name, hits) in report.coverage {
                    *coverage.entry(name).or_insert(0) += hits;
                }
                for (name, most) in report.gauges {
                    let longest = gauges.entry(name).or_insert(0);
                    *longest = most.max(*longest);
                }
                match report.violations.first() {
                    None => println!(
                        "seed {seed} ok ({} operations, {} steps, {:.1} s of virtual time, trace {:016x})",
                        report.operations,
                        report.steps,
                        report.elapsed.as_secs_f64(),
                        report.hash
                    ),
                    Some(violation) => {
                        failed += 1;
                        println!("seed {seed} FAILED: {}", violation.trim().replace('\n', "; "));
                    }
                }
            }
            Err(panic) => {
                failed += 1;
                let text = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("a panic without a message");
                println!("seed {seed} FAILED: panic: {}", text.lines().next().unwrap_or(text));
            }
        }
    }
    if cli.coverage {
        for name in sim::coverage::required() {
            coverage.entry(name).or_insert(0);
            println!("must be met {name}");
        }
        for name in sim::coverage::rows() {
            coverage.entry(name).or_insert(0);
        }
        for (name, times) in coverage {
            println!("met {name} {times}");
        }
        for (name, most) in gauges {
            println!("at most {name} {most}");
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
