//! What the daemons use while nobody wants anything.

use std::time::Duration;

use hw_tests::deadline::{Stopwatch, let_pass};
use hw_tests::nbd::Client;

use crate::scene::{Loads, PATIENCE, Scene, VOLUME, Works};

/// After a load the journals are emptied and connections settle.
const REST: Duration = Duration::from_secs(4);
const WINDOW: Duration = Duration::from_secs(10);
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
    let_pass(REST);
    let clock = Stopwatch::start();
    let before: Vec<_> = cluster.pids().into_iter().map(|(name, pid)| (name, pid, cpu_ticks(pid))).collect();
    let_pass(WINDOW);
    let seconds = clock.elapsed().as_secs_f64();
    let mut over = Vec::new();
    for (name, pid, ticks) in before {
        let percent = (cpu_ticks(pid) - ticks) as f64 / ticks_per_second() / seconds * 100.0;
        let resident = resident_kib(pid);
        let line = format!("{name}: {percent:.2} % of a core, {:.1} MiB resident", resident as f64 / 1024.0);
        scene.say(&line);
        if percent >= CPU_PERCENT_MAX || resident >= RESIDENT_KIB_MAX {
            over.push(line);
        }
    }
    drop(client);
    assert!(over.is_empty(), "more than {CPU_PERCENT_MAX} % or {} MiB: {over:?}", RESIDENT_KIB_MAX >> 10);
    cluster.stop_all().works("orderly stop");
}

/// User and system time of a process: fields 14 and 15 of `/proc/PID/stat`, see proc(5).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, after_name) = stat.rsplit_once(')').expect("a name in brackets");
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let number = |index: usize| fields[index].parse::<u64>().expect("a number");
    number(11) + number(12)
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
