//! Numbers about consensus for those who operate it.

use std::cell::Cell;
use std::time::Duration;

use super::role::Role;
use crate::log::{LogId, LogStats};

/// Classes of latencies: class n holds those below 2^n microseconds that no lower class holds.
const CLASSES: usize = 32;

/// How long things took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many there were.
    pub count: u64,
    /// All of them together.
    pub total: Duration,
    /// The longest.
    pub max: Duration,
    classes: [u64; CLASSES],
}

impl Latency {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.total += took;
        self.max = self.max.max(took);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = (u64::BITS - micros.leading_zeros()) as usize;
        self.classes[class.min(CLASSES - 1)] += 1;
    }

    /// A duration that at least `percent` of them did not exceed; at most twice the least such.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> Duration {
        let wanted = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        for (class, count) in self.classes.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return Duration::from_micros(1 << class).min(self.max);
            }
        }
        self.max
    }
}

/// Counts as it goes.
#[derive(Debug, Default)]
pub(super) struct Meter {
    commit: Cell<Latency>,
    proposals: Cell<u64>,
    snapshot: Cell<Latency>,
}

impl Meter {
    pub(super) fn committed(&self, proposals: u64, took: Duration) {
        let mut commit = self.commit.get();
        commit.add(took);
        self.commit.set(commit);
        self.proposals.set(self.proposals.get() + proposals);
    }

    pub(super) fn snapshot(&self, took: Duration) {
        let mut snapshot = self.snapshot.get();
        snapshot.add(took);
        self.snapshot.set(snapshot);
    }

    pub(super) fn read(&self) -> (u64, Latency, Latency) {
        (self.proposals.get(), self.commit.get(), self.snapshot.get())
    }
}

/// What consensus is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// The part this member plays.
    pub role: Role,
    /// The last entry in the log.
    pub last: Option<LogId>,
    /// The last entry known to be committed.
    pub committed: Option<LogId>,
    /// The last entry applied.
    pub applied: Option<LogId>,
    /// Commands applied, from the first one ever.
    pub commands: u64,
    /// The last entry in the newest snapshot.
    pub snapshot: Option<LogId>,
    /// Bytes of the state in the newest snapshot.
    pub snapshot_bytes: u64,
    /// What the log occupies.
    pub log: LogStats,
    /// Whether the disk is full.
    pub full: bool,
    /// Commands proposed here and answered.
    pub proposals: u64,
    /// From the moment a batch of commands was handed over until all of them were applied.
    pub commit: Latency,
    /// Taking a snapshot, from the first byte of the state to the name of the file.
    pub snapshots: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_at_most_doubled() {
        let mut latency = Latency::default();
        assert_eq!(latency.percentile(99), Duration::ZERO);
        for micros in 1..=1000 {
            latency.add(Duration::from_micros(micros));
        }
        let (half, most) = (latency.percentile(50), latency.percentile(99));
        assert!(half >= Duration::from_micros(500) && half <= Duration::from_micros(1000), "{half:?}");
        assert!(most >= Duration::from_micros(990) && most <= Duration::from_micros(1000), "{most:?}");
        assert_eq!((latency.count, latency.max), (1000, Duration::from_micros(1000)));
        latency.add(Duration::from_secs(1 << 40));
        assert_eq!(latency.percentile(100), Duration::from_micros(1 << (CLASSES - 1)));
    }
}
