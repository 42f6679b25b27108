//! Latencies and their percentiles.

use serde::{Deserialize, Serialize};

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Percentiles {
    /// Of latencies in nanoseconds.
    pub(crate) fn of(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        let Some(last) = nanos.len().checked_sub(1) else { return Self::default() };
        let at = |permille: usize| nanos[last * permille / 1000] as f64 / 1e3;
        Self { p50: at(500), p95: at(950), p99: at(990), p999: at(999), max: at(1000) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_latencies() {
        let found = Percentiles::of((0..=1000).rev().map(|n| n * 1000).collect());
        assert_eq!(found, Percentiles { p50: 500.0, p95: 950.0, p99: 990.0, p999: 999.0, max: 1000.0 });
        assert_eq!(Percentiles::of(Vec::new()), Percentiles::default());
    }
}
