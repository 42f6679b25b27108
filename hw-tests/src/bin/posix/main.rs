//! What programs expect of a file system: a table of cases that runs on ext4 and on a mounted cluster, which must give the same
//! results, errors included.
//!
//! ```text
//! cargo build --profile ci --bins -p control-cli -p mds -p cs-engine -p fuse-mount -p hw-tests
//! target/ci/posix [--list] [--on DIR] [--options OPTS] [--dir DIR] [CASE…]
//! ```
//!
//! Each case leaves lines behind. Some look again after a remount, or after the mount's daemon was killed (on ext4 after
//! a remount as well): what was synced must be there. Needs what [`hw_tests`] needs.

mod attrs;
mod files;
mod later;
mod names;
mod pairs;
mod place;
mod shm;
mod trial;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use hw_tests::deadline::Stopwatch;
use hw_tests::machine;
use hw_tests::own_dir::OwnDir;

use place::{Ext4, Mounted, Place, Plain};
use trial::{BROKEN, Case, Class, Trial};

/// All cases.
const TABLES: &[&[Case]] =
    &[names::CASES, files::CASES, attrs::CASES, shm::CASES, pairs::CASES, later::CASES];

/// POSIX cases on ext4 and on a mounted cluster
#[derive(Debug, Parser)]
struct Cli {
    /// Name the cases
    #[arg(long)]
    list: bool,
    /// Only run them in this directory, and print what they leave
    #[arg(long, value_name = "DIR")]
    on: Option<PathBuf>,
    /// Mount options of the cluster
    #[arg(long, default_value = "rw")]
    options: String,
    /// Where the directory vstorage-posix goes, on a disk with 4 GiB free [default: tmp beside the programs' directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Run the second process of a case
    #[arg(long, hide = true, value_name = "CASE")]
    partner: Option<String>,
    /// Which cases, by a part of their names [default: all]; the directory of a second process
    only: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let all = || TABLES.iter().flat_map(|table| table.iter());
    if let Some(name) = &cli.partner {
        let case = all().find(|case| case.name == name).expect("the first process names a case");
        trial::run_partner(case, Path::new(&cli.only[0]));
        return ExitCode::SUCCESS;
    }
    let meant: Vec<&Case> = all()
        .filter(|case| cli.only.is_empty() || cli.only.iter().any(|part| case.name.contains(part.as_str())))
        .collect();
    if cli.list {
        meant.iter().for_each(|case| println!("{} ({:?})", case.name, case.class));
        return ExitCode::SUCCESS;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if let Some(dir) = &cli.on {
        for (name, lines) in run(&meant, &mut Plain(dir.clone())) {
            println!("-- {name}");
            lines.iter().for_each(|line| println!("   {line}"));
        }
        return ExitCode::SUCCESS;
    }
    if !machine::can_run("posix") {
        println!("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; {} filtered out", meant.len());
        return ExitCode::SUCCESS;
    }
    compare(&cli, &meant)
}

/// Runs the cases on both and compares.
fn compare(cli: &Cli, meant: &[&Case]) -> ExitCode {
    let clock = Stopwatch::start();
    let beside =
        std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned())).unwrap_or_default();
    let given = cli.dir.clone().unwrap_or_else(|| beside.join("../tmp"));
    let own = match OwnDir::claim(&given, "vstorage-posix") {
        Ok(own) => own,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    place::clear(&own);
    let dir = own.path();
    println!("running {} cases", meant.len());
    let expected = {
        let mut ext4 = Ext4::make(dir);
        run(meant, &mut ext4)
    };
    println!("   {:6.1} s  ext4 is done", clock.elapsed().as_secs_f64());
    let found = {
        let mut mounted = Mounted::make(dir, &beside, &cli.options);
        println!("   {:6.1} s  the cluster is mounted", clock.elapsed().as_secs_f64());
        let found = run(meant, &mut mounted);
        mounted.end();
        found
    };
    let mut failed = 0;
    for case in meant {
        let (expected, found) = (&expected[case.name], &found[case.name]);
        // What breaks off in both places has compared nothing.
        let is_whole = !expected.iter().any(|line| line.starts_with(BROKEN));
        let same = is_whole && expected == found;
        println!("test posix::{} ... {}", case.name, if same { "ok" } else { "FAILED" });
        if !same {
            failed += 1;
            show(expected, found);
            expected
                .iter()
                .filter(|line| line.starts_with(BROKEN))
                .for_each(|line| println!("   both:  {line}"));
        }
    }
    let second = meant.iter().filter(|case| case.class != Class::Plain).count();
    println!("\n{} cases, {second} of them with two processes, a remount or a crash", meant.len());
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "test result: {word}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        meant.len() - failed,
        clock.elapsed().as_secs_f64()
    );
    if failed > 0 {
        return ExitCode::FAILURE;
    }
    place::clear(&own);
    ExitCode::SUCCESS
}

/// Shows where lines differ.
fn show(expected: &[String], found: &[String]) {
    for at in 0..expected.len().max(found.len()) {
        let (left, right) = (expected.get(at), found.get(at));
        if left != right {
            println!("   ext4:  {}", left.map_or("(nothing)", String::as_str));
            println!("   mount: {}", right.map_or("(nothing)", String::as_str));
        }
    }
}

/// Runs the cases in one place; gives the lines of each.
fn run(cases: &[&Case], place: &mut dyn Place) -> BTreeMap<&'static str, Vec<String>> {
    let mut lines: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for case in cases {
        let dir = place.root().join(case.name);
        std::fs::create_dir(&dir).expect("a directory for the case");
        lines.insert(case.name, attempt(case, case.run, dir));
    }
    for class in [Class::Remount, Class::Crash] {
        let again: Vec<_> = cases.iter().filter(|case| case.class == class).collect();
        if again.is_empty() {
            continue;
        }
        match class {
            Class::Crash => place.crash(),
            _ => place.remount(),
        }
        for case in again {
            let Some(then) = case.then else { continue };
            let more = attempt(case, then, place.root().join(case.name));
            lines.entry(case.name).or_default().extend(more);
        }
    }
    lines
}

/// Runs one part of a case; a panic is a line, too.
fn attempt(case: &Case, part: fn(&mut Trial), dir: PathBuf) -> Vec<String> {
    let mut trial = Trial::new(case.name, dir);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| part(&mut trial))) {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        trial.lines.push(format!("{BROKEN}{}", text.unwrap_or_default()));
    }
    trial.lines
}
