//! What the daemons use while nobody wants anything.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use hw_tests::deadline::{Stopwatch, let_pass};
use hw_tests::nbd::Client;

use crate::scene::{Loads, PATIENCE, Scene, VOLUME, Works};

/// After a load the journals are emptied and connections settle; it may take so long.
const SETTLING_MAX: Duration = Duration::from_secs(30);
/// What one look at whether they have settled takes.
const LOOK: Duration = Duration::from_millis(500);
const WINDOW: Duration = Duration::from_secs(5);
/// Share of one core, in percent.
const CPU_PERCENT_MAX: f64 = 1.0;
/// Resident memory, in KiB. The default caches are small enough to be within.
const RESIDENT_KIB_MAX: u64 = 64 << 10;

/// Each daemon uses less than 1 % of a core and 64 MiB after some work, with a client connected.
pub(crate) fn idle(scene: &Scene) {
    let mut cluster = scene.small_cluster();
    cluster.export(VOLUME).works("export");
    let mut loads = Loads::new(scene.settings.seed);
    let (outcomes, ()) = loads.run(&mut cluster, |_, watch| {
        assert!(watch.advances(3000), "the load does not advance");
    });
    outcomes.into_iter().for_each(|outcome| outcome.expect("no error"));
    let client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    let pids = cluster.pids();
    let clock = Stopwatch::start();
    // One that never settles is seen below.
    while use_over(&pids, LOOK).iter().any(|percent| *percent >= CPU_PERCENT_MAX)
        && clock.elapsed() < SETTLING_MAX
    {}
    scene.say(format!("quiet {:.1} s after the load", clock.elapsed().as_secs_f64()));
    let mut over = Vec::new();
    for ((name, pid), percent) in pids.iter().zip(use_over(&pids, WINDOW)) {
        let resident = resident_kib(*pid);
        let line = format!("{name}: {percent:.2} % of a core, {:.1} MiB resident", resident as f64 / 1024.0);
        scene.say(&line);
        if percent >= CPU_PERCENT_MAX || resident >= RESIDENT_KIB_MAX {
            over.push(line);
        }
    }
    drop(client);
    assert!(over.is_empty(), "more than {CPU_PERCENT_MAX} % or {} MiB: {over:?}", RESIDENT_KIB_MAX >> 10);
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}

/// What each process uses of a core while `time` passes, in percent.
fn use_over(pids: &[(String, u32)], time: Duration) -> Vec<f64> {
    let clock = Stopwatch::start();
    let before: Vec<_> = pids.iter().map(|(_, pid)| running_ns(*pid)).collect();
    let_pass(time);
    let seconds = clock.elapsed().as_secs_f64();
    let percent = |((_, pid), before): (&(String, u32), BTreeMap<OsString, u64>)| {
        let used = |(thread, ns): (OsString, u64)| ns - before.get(&thread).unwrap_or(&0);
        running_ns(*pid).into_iter().map(used).sum::<u64>() as f64 / 1e9 / seconds * 100.0
    };
    pids.iter().zip(before).map(percent).collect()
}

/// How long each thread of a process has run, in nanoseconds: the first field of `/proc/PID/task/TID/schedstat`.
fn running_ns(pid: u32) -> BTreeMap<OsString, u64> {
    let mut threads = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten() {
        // A thread may have ended meanwhile.
        let Ok(text) = std::fs::read_to_string(entry.path().join("schedstat")) else { continue };
        let ns = text.split_whitespace().next().and_then(|field| field.parse().ok());
        threads.insert(entry.file_name(), ns.expect("a number"));
    }
    threads
}

pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
