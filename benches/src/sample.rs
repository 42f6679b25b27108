//! What processes and a device have used up until now.
//!
//! Times on a core come from `/proc/PID/stat` (exact sums, cut to ticks of 10 ms), context switches from the threads'
//! `status`, flushes from the device's `stat` in sysfs (field 16, Documentation/admin-guide/iostats.rst).

use std::fs;
use std::ops::Sub;
use std::path::{Path, PathBuf};

/// `USER_HZ` is 100 on every architecture we run on.
const TICK_NS: u64 = 10_000_000;

/// What has been used up until a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Time on cores, user and system, in nanoseconds.
    pub(crate) cpu_ns: u64,
    /// Context switches, both kinds.
    pub(crate) switches: u64,
    /// Flushes of the device.
    pub(crate) flushes: u64,
}

impl Sample {
    /// Of all threads of these processes, and of a device.
    pub(crate) fn take(pids: &[u32], device: Option<&Path>) -> Self {
        let mut sample = Self::default();
        for pid in pids {
            sample.cpu_ns += read(format!("/proc/{pid}/stat")).map_or(0, |text| cpu_ns(&text));
            for thread in threads(*pid) {
                sample.switches += read(thread.join("status")).map_or(0, |text| switches(&text));
            }
        }
        sample.flushes = device.and_then(read).map_or(0, |text| field(&text, 15));
        sample
    }
}

impl Sub for Sample {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            switches: self.switches.saturating_sub(before.switches),
            flushes: self.flushes.saturating_sub(before.flushes),
        }
    }
}

/// A thread may end while it is looked at: then it counts as nothing.
fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn threads(pid: u32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.map(|entry| entry.path()).collect()
}

fn field(text: &str, index: usize) -> u64 {
    text.split_ascii_whitespace().nth(index).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// User and system time; the fields are counted behind the name, which may contain anything.
fn cpu_ns(stat: &str) -> u64 {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    (field(rest, 11) + field(rest, 12)) * TICK_NS
}

fn switches(status: &str) -> u64 {
    let lines = status.lines().filter(|line| line.contains("voluntary_ctxt_switches"));
    lines.map(|line| field(line, 1)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows() {
        let pid = std::process::id();
        let before = Sample::take(&[pid], None);
        let mut sum = 0_u64;
        while (Sample::take(&[pid], None) - before).cpu_ns < 2 * TICK_NS {
            sum = std::hint::black_box((0..100_000).fold(sum, u64::wrapping_add));
        }
    }

    #[test]
    fn names_may_contain_anything() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 30 12 0 0 20 0 1 0";
        assert_eq!(cpu_ns(stat), 42 * TICK_NS);
    }

    #[test]
    fn both_kinds_of_switches_count() {
        assert_eq!(switches("x:\t1\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n"), 42);
    }
}
