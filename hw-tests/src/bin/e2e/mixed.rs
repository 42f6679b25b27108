//! A mount under mixed load for a while: does anything grow that should not?

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hw_tests::cluster::{Cluster, Options};
use hw_tests::deadline::{Stopwatch, poll_until};
use hw_tests::mount::Mount;
use hw_tests::seeded::Seeded;

use crate::scene::{Scene, Works};

/// How long the load goes on unless told otherwise.
const SECONDS: u64 = 25;
/// Part of the time after which the processes are expected to have what they need.
const SETTLED_AFTER: f64 = 0.4;
/// What anonymous memory may gain after that, in KiB: buffers and caches that fill late on a slow machine are smaller, a leak of 1 KiB for
/// each operation is larger within an hour.
const ANONYMOUS_GROWTH_KIB: u64 = 48 << 10;
/// What descriptors may gain: those of connections and of files under way.
const DESCRIPTOR_GROWTH: u64 = 64;
/// Chunk files that a chunk server keeps open; chunks of removed files are among them until their quarantine is over.
const OPEN_CHUNKS: u64 = 512;
/// What threads may gain: the blocking ones come one by one.
const THREAD_GROWTH: u64 = 16;
/// Bytes of each file that fio works on.
const FILE_BYTES: u64 = 48 << 20;
/// Directories of the tree that comes and goes, and files in each.
const TREE: (u64, u64) = (4, 12);
/// Time between two looks at the processes.
const PAUSE: Duration = Duration::from_millis(500);

/// The three ways of working on a file.
const JOBS: [(&str, &[&str]); 3] = [
    ("direct", &["--rw=randwrite", "--bsrange=4k-64k", "--direct=1", "--ioengine=libaio", "--iodepth=8"]),
    ("buffered", &["--rw=randwrite", "--bsrange=1k-32k", "--ioengine=psync", "--fsync=64"]),
    ("sequential", &["--rw=write", "--bs=256k", "--ioengine=psync", "--end_fsync=1"]),
];

/// What a process has.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    resident_kib: u64,
    anonymous_kib: u64,
    descriptors: u64,
    threads: u64,
    disk_kib: u64,
}

type Field = (&'static str, fn(&Sample) -> u64);

const FIELDS: [Field; 5] = [
    ("resident KiB", |sample| sample.resident_kib),
    ("anonymous KiB", |sample| sample.anonymous_kib),
    ("descriptors", |sample| sample.descriptors),
    ("threads", |sample| sample.threads),
    ("disk KiB", |sample| sample.disk_kib),
];

impl Sample {
    fn take(pid: u32, repository: Option<&Path>) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of status");
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
        };
        Self {
            resident_kib: number("VmRSS"),
            anonymous_kib: number("RssAnon"),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count() as u64,
            threads: number("Threads"),
            disk_kib: repository.map_or(0, disk_kib),
        }
    }
}

/// What a directory takes, as du(1) counts it. Files may go while it is looked at.
fn disk_kib(dir: &Path) -> u64 {
    let ended = Command::new("du").args(["-sk"]).arg(dir).stderr(Stdio::null()).output();
    let text =
        String::from_utf8(ended.expect("du of the Debian package coreutils").stdout).unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number of KiB")
}

/// The history of every process.
#[derive(Default)]
struct History {
    samples: BTreeMap<String, Vec<(f64, Sample)>>,
}

impl History {
    fn look(&mut self, seconds: f64, processes: &[(String, u32, Option<PathBuf>)]) {
        for (name, pid, repository) in processes {
            let sample = Sample::take(*pid, repository.as_deref());
            self.samples.entry(name.clone()).or_default().push((seconds, sample));
        }
    }

    /// Prints the table, and gives the lines of what has grown beyond its limit after it had settled.
    fn judge(&self, scene: &Scene, seconds: f64) -> Vec<String> {
        let mut over = Vec::new();
        scene.say(format!(
            "{:<8} {:<14} {:>9} {:>9} {:>9} {:>9} {:>11}",
            "process", "", "start", "settled", "end", "max", "per hour"
        ));
        for (name, samples) in &self.samples {
            let settled_at = samples.partition_point(|(at, _)| *at < seconds * SETTLED_AFTER);
            let (first, last) = (&samples[0].1, &samples[samples.len() - 1].1);
            let (settled_seconds, settled) = samples[settled_at.min(samples.len() - 1)];
            let (early, late) = samples.split_at(settled_at.min(samples.len() - 1));
            for (what, of) in FIELDS {
                let max = samples.iter().map(|(_, sample)| of(sample)).max().unwrap_or_default();
                let gained = of(last) as f64 - of(&settled) as f64;
                let hourly = gained * 3600.0 / (seconds - settled_seconds).max(1.0);
                let line = format!(
                    "{name:<8} {what:<14} {:>9} {:>9} {:>9} {max:>9} {hourly:>+11.0}",
                    of(first),
                    of(&settled),
                    of(last)
                );
                scene.say(&line);
                let limit = match what {
                    "anonymous KiB" => ANONYMOUS_GROWTH_KIB,
                    "descriptors" => DESCRIPTOR_GROWTH,
                    "threads" => THREAD_GROWTH,
                    _ => continue,
                };
                // The least of the last looks: what stays when requests under way have ended.
                let before =
                    early.iter().chain(&late[..1]).map(|(_, sample)| of(sample)).max().unwrap_or_default();
                let keeps =
                    if what == "descriptors" && name.starts_with("cs") { of(first) + OPEN_CHUNKS } else { 0 };
                let before = before.max(keeps);
                let tail = &late[late.len() - late.len().min(4)..];
                let after = tail.iter().map(|(_, sample)| of(sample)).min().unwrap_or_default();
                if after > before + limit {
                    over.push(format!("{line} (at most {limit} more than {before})"));
                }
            }
        }
        over
    }
}

/// fio, on a file of its own. Killed when dropped.
struct Fio {
    child: Child,
    report: PathBuf,
}

impl Fio {
    fn start(name: &str, args: &[&str], mount: &Path, dir: &Path, seconds: u64) -> Self {
        let report = dir.join(format!("fio-{name}.txt"));
        let out = File::create(&report).expect("a report");
        let child = Command::new("fio")
            .current_dir(dir)
            .arg(format!("--name={name}"))
            .arg(format!("--filename={}", mount.join(name).display()))
            .args(args)
            .args([format!("--size={FILE_BYTES}"), format!("--runtime={seconds}")])
            .args(["--time_based", "--verify=crc32c", "--verify_backlog=256", "--verify_fatal=1"])
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a descriptor"))
            .stderr(out)
            .spawn()
            .expect("fio of the Debian package fio");
        Self { child, report }
    }

    fn finish(mut self, limit: Duration) {
        let ended = poll_until(limit, || self.child.try_wait().expect("it is our child"));
        let text = fs::read_to_string(&self.report).unwrap_or_default();
        assert!(ended.is_some_and(|status| status.success()), "fio has ended with {ended:?}:\n{text}");
        assert!(text.contains("WRITE:"), "fio wrote:\n{text}");
    }
}

impl Drop for Fio {
    fn drop(&mut self) {
        // Ended already, unless the scenario failed.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Trees of small files are made, renamed, read, and removed again, until `stop` is set.
fn churn(top: &Path, seed: u64, stop: &AtomicBool, rounds: &AtomicU64) {
    let mut seeded = Seeded::new(seed);
    while !stop.load(Ordering::Relaxed) {
        let round = rounds.load(Ordering::Relaxed);
        let tree = top.join(format!("tree{}", round % 3));
        for number in 0..TREE.0 {
            let dir = tree.join(format!("d{number}"));
            fs::create_dir_all(&dir).expect("a directory");
            for file in 0..TREE.1 {
                let content = vec![file as u8; seeded.below(9000) as usize];
                let (from, to) = (dir.join(format!("new{file}")), dir.join(format!("f{file}")));
                fs::write(&from, &content).expect("a small file");
                fs::rename(&from, &to).expect("a new name");
                let found = fs::read(&to).expect("it can be read");
                assert!(found == content, "{}: another content", to.display());
            }
            assert_eq!(fs::read_dir(&dir).expect("a list").count() as u64, TREE.1);
        }
        let aside = top.join("aside");
        fs::rename(&tree, &aside).expect("a tree has another name");
        fs::remove_dir_all(&aside).expect("a tree goes");
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Data that is verified and names that come and go, while every process is looked at: none may go on growing.
pub(crate) fn mixed_load(scene: &Scene) {
    let seconds = if scene.settings.is_long { scene.settings.soak_seconds } else { SECONDS };
    let options = Options::plain(&scene.dir, &scene.settings.binaries);
    let repositories = [vec![options.mds.clone()], options.servers.clone()].concat();
    let mut cluster = Cluster::make(options).expect("a cluster");
    let mut mount = Mount::make(&cluster, &scene.settings.binaries, "mount", &scene.dir.join("mnt"), "rw")
        .expect("a mount");
    let mut processes: Vec<_> = cluster
        .pids()
        .into_iter()
        .zip(repositories)
        .map(|((name, pid), repository)| (name, pid, Some(repository)))
        .collect();
    processes.push(("mount".to_owned(), mount.pid().expect("it runs"), None));
    let mut history = History::default();
    let clock = Stopwatch::start();
    history.look(0.0, &processes);
    let fios: Vec<Fio> =
        JOBS.iter().map(|(name, args)| Fio::start(name, args, mount.point(), &scene.dir, seconds)).collect();
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let (top, seed) = (mount.point().to_owned(), scene.settings.seed);
    std::thread::scope(|scope| {
        let churning = scope.spawn(|| churn(&top, seed, &stop, &rounds));
        let end = Duration::from_secs(seconds);
        while clock.elapsed() < end && !churning.is_finished() {
            // Looks come seldom in long runs, so that there are some thousand at most.
            let pause = PAUSE.max(end / 2000);
            let over = poll_until(pause, || churning.is_finished().then_some(()));
            if over.is_none() {
                history.look(clock.elapsed().as_secs_f64(), &processes);
            }
        }
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = churning.join() {
            std::panic::resume_unwind(panic);
        }
    });
    fios.into_iter().for_each(|fio| fio.finish(Duration::from_secs(120)));
    history.look(clock.elapsed().as_secs_f64(), &processes);
    let over = history.judge(scene, clock.elapsed().as_secs_f64());
    scene
        .say(format!("{} trees came and went, fio has verified three files", rounds.load(Ordering::Relaxed)));
    assert!(over.is_empty(), "grown after it had settled:\n{}", over.join("\n"));
    assert!(rounds.load(Ordering::Relaxed) > 0, "names came and went");
    mount.unmount().expect("it ends in order");
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}
