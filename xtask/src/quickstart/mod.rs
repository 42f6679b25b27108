//! `cargo xtask quickstart`: a cluster on this machine, used, killed and found whole again.
//!
//! Everything goes through the product's own command line, as an operator would type it; the hand-made part
//! is only the block device on top (kernel NBD where there is one, else Debian's nbdfuse and a loop device).

mod cluster;
mod device;
mod place;
mod report;
mod tree;

use std::path::PathBuf;

use crate::error::Error;
use crate::packages::{self, Package};
use crate::process;
use crate::stopwatch::Stopwatch;
use crate::workspace::Workspace;
use crate::{Outcome, error};

use cluster::Cluster;
use device::BlockDevice;
use place::Place;
use report::Report;

/// Start a cluster on this machine, use it, kill it with -9, start it again, and compare every checksum.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the cluster running and print how to go on by hand.
    #[arg(long)]
    keep: bool,
    /// Where the directory vstorage-quickstart goes; needs about 8 GB free. That of an earlier quickstart there is removed
    /// first.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Size of the volume.
const VOLUME: &str = "2G";
/// Path of the volume in the cluster.
const VOLUME_PATH: &str = "/quickstart";
/// What it takes besides Rust.
const PACKAGES: &[Package] = &[
    Package { name: "libnbd-bin", programs: &["nbdfuse", "nbdinfo"] },
    Package { name: "fio", programs: &["fio"] },
    Package { name: "e2fsprogs", programs: &["mkfs.ext4", "e2fsck"] },
    Package { name: "mount", programs: &["mount", "umount", "losetup"] },
    Package { name: "fuse3", programs: &["fusermount3"] },
];

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Outcome, Error> {
    let place = Place::take(args.dir.as_ref().unwrap_or(&workspace.target_directory))?;
    let dir = place.dir();
    let mut report = Report::new();
    step("installing Debian packages where they are missing");
    packages::ensure(PACKAGES)?;
    step("building release binaries (some minutes the first time)");
    let building = Stopwatch::start();
    let mut build = workspace.cargo();
    build.args([
        "build",
        "--release",
        "--bins",
        "-p",
        "control-cli",
        "-p",
        "mds",
        "-p",
        "cs-engine",
        "-p",
        "ublk-target",
    ]);
    let limits = process::Limits { total: std::time::Duration::from_secs(3600), silence: None };
    process::succeed(&mut build, limits, process::echo)?;
    report.row("build", "release binaries", building.elapsed());

    step("removing what an interrupted run has left");
    end_all(dir)?;
    place.empty()?;
    let outcome = use_cluster(workspace, args, dir, &mut report);
    if args.keep && outcome.is_ok() {
        report.print();
        cluster::how_to_go_on(workspace, dir, VOLUME_PATH);
        return Ok(Outcome::Passed);
    }
    let cleaned = end_all(dir);
    if let Err(error) = outcome {
        // Why it failed comes first; what cleaning up says as well is no reason to hide it.
        eprintln!("error: {error}");
        let logs = cleaned.and_then(|()| place.keep_logs())?;
        println!("\nquickstart failed; the logs stay in {} until the next one.", logs.display());
        return Ok(Outcome::Failed);
    }
    cleaned?;
    place.remove()?;
    report.print();
    println!("\nquickstart passed. With --keep the cluster stays, to go on by hand.");
    Ok(Outcome::Passed)
}

/// Ends the daemons and takes away the mounts and devices that are left of a cluster in `dir`.
fn end_all(dir: &std::path::Path) -> Result<(), Error> {
    device::clean(dir)?;
    cluster::end_daemons(dir);
    Ok(())
}

fn use_cluster(
    workspace: &Workspace,
    args: &Args,
    dir: &std::path::Path,
    report: &mut Report,
) -> Result<(), Error> {
    step("making a cluster: 1 metadata server, 3 chunk servers");
    let making = Stopwatch::start();
    let mut cluster = Cluster::make(workspace, dir)?;
    report.row("cluster", "1 MDS, 3 CS, replicas=3 failure-domain=disk", making.elapsed());

    step(&format!("creating a volume of {VOLUME} and exporting it over NBD"));
    cluster.vstorage(&["create", VOLUME_PATH, "--size", VOLUME])?;
    cluster.export(VOLUME_PATH)?;

    step("fio: random writes and reads with verification, straight over NBD");
    let fio = Stopwatch::start();
    let figures = device::fio_verify(&cluster.socket_uri())?;
    report.row("fio", &figures, fio.elapsed());

    step("making it a block device with ext4");
    let mut device = BlockDevice::attach(dir, &cluster.socket())?;
    device.make_file_system()?;
    device.mount()?;
    report.note(&format!("block device: {}", device.kind()));

    let source = tree::sysroot_lib()?;
    step(&format!("copying {} in", source.display()));
    let copying = Stopwatch::start();
    let copied = tree::copy(&source, &device.mount_point().join("lib"))?;
    device.sync()?;
    let took = copying.elapsed();
    report.row("copy", &format!("{} files, {}", copied.files, report::bytes(copied.bytes, took)), took);

    step("killing every process of the cluster with -9");
    let killing = Stopwatch::start();
    cluster.kill_all()?;
    device.give_up()?;
    report.row("kill -9", "MDS, 3 CS, client", killing.elapsed());

    step("starting them again");
    let starting = Stopwatch::start();
    cluster.start_all()?;
    cluster.export(VOLUME_PATH)?;
    report.row("restart", "all registered, lease taken over, volume served", starting.elapsed());

    step("checking the file system and comparing every checksum");
    let comparing = Stopwatch::start();
    let mut device = BlockDevice::attach(dir, &cluster.socket())?;
    device.check_file_system()?;
    device.mount()?;
    let compared = tree::compare(&copied, &device.mount_point().join("lib"))?;
    report.row(
        "compare",
        &format!("{compared} files, all checksums equal; e2fsck clean"),
        comparing.elapsed(),
    );
    if args.keep {
        device.keep();
        cluster.keep();
        return Ok(());
    }
    device.detach()?;

    step("stopping in order and checking every chunk server's disk");
    let checking = Stopwatch::start();
    cluster.stop_all()?;
    let checked = cluster.check_all()?;
    report.row("check", &checked, checking.elapsed());
    Ok(())
}

fn step(what: &str) {
    println!("==> {what}");
}

/// A step that failed, with what the operator can look at.
fn failed(what: impl Into<String>) -> Error {
    error::Error::Quickstart(what.into())
}

/// Runs a program to its end; its output is shown only when it fails.
fn tool(program: &str, args: &[&str]) -> Result<String, Error> {
    let output = std::process::Command::new(program)
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|source| Error::Spawn { program: program.to_owned(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(format!(
        "`{program} {}` ended with {}:\n{}{}",
        args.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )))
}
