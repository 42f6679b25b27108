//! `cargo xtask bench`: builds release binaries and runs `bench run` on them.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::Outcome;
use crate::error::Error;
use crate::packages::{self, Package};
use crate::process::{self, Limits};
use crate::workspace::Workspace;

/// What it takes besides Rust.
const PACKAGES: &[Package] = &[
    Package { name: "e2fsprogs", programs: &["mkfs.ext4", "e2fsck"] },
    Package { name: "fuse3", programs: &["fusermount3"] },
    Package { name: "mount", programs: &["mount", "umount", "losetup"] },
];
/// Packages of the workspace whose programs are measured, or measure.
const MEASURED: &[&str] = &["benches", "control-cli", "mds", "cs-engine", "ublk-target", "fuse-mount"];

/// Measure what an operation costs through each way into the store, against the raw medium.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cargo xtask bench --medium ram --json bench.json")]
pub(crate) struct Args {
    /// `ram`: a loop device with direct I/O on memory, which shows the software's own cost; `disk`: files on this disk.
    #[arg(long, value_parser = ["ram", "disk"], default_value = "ram")]
    medium: String,
    /// One round of short measurements.
    #[arg(long)]
    quick: bool,
    /// Also write everything to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also write the table, as Markdown, to this file.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Only patterns whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Only targets whose name contains this.
    #[arg(long)]
    target: Option<String>,
    /// Where the directory vstorage-bench goes; that of an earlier run there is emptied first.
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Outcome, Error> {
    packages::ensure(PACKAGES)?;
    let limits = Limits { total: Duration::from_secs(3600), silence: None };
    let mut build = workspace.cargo();
    build.args(["build", "--release", "--bins"]);
    for package in MEASURED {
        build.args(["-p", package]);
    }
    process::succeed(&mut build, limits, process::echo)?;

    let binaries = workspace.target_directory.join("release");
    let mut bench = Command::new(binaries.join("bench"));
    bench.args(["run", "--syscalls", "--medium", &args.medium]).arg("--binaries").arg(&binaries);
    bench.arg("--dir").arg(args.dir.clone().unwrap_or_else(|| workspace.target_directory.clone()));
    bench.args(["--commit", &commit(workspace)]);
    if args.quick {
        bench.arg("--quick");
    }
    for (name, path) in [("--json", &args.json), ("--markdown", &args.markdown)] {
        if let Some(path) = path {
            bench.arg(name).arg(path);
        }
    }
    for (name, part) in [("--only", &args.only), ("--target", &args.target)] {
        if let Some(part) = part {
            bench.args([name, part]);
        }
    }
    process::succeed(&mut bench, limits, process::echo)?;
    Ok(Outcome::Passed)
}

/// The commit that is measured, for the table; `-dirty` when something is not committed.
fn commit(workspace: &Workspace) -> String {
    let output =
        Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(&workspace.root).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    text.map_or_else(|| "unknown".to_owned(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}
