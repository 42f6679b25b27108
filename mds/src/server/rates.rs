//! Counters that run on, and what they did in the last seconds.

use std::collections::VecDeque;
use std::time::Duration;

use rt::time::Instant;
use wire::session::IoStats;

/// Over which time rates are taken.
const SPAN: Duration = Duration::from_secs(20);
/// Reports kept; whoever reports more often has the older ones of them thinned out.
const REPORTS_MAX: usize = 64;

/// The reports of one client or chunk server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    reports: VecDeque<(Instant, IoStats)>,
}

impl Rates {
    /// Notes a report; gives what was added since the one before. Counters that went back began anew.
    pub(crate) fn note(&mut self, now: Instant, io: IoStats) -> IoStats {
        let added = match self.reports.back() {
            Some((_, last)) if went_on(last, &io) => difference(last, &io),
            _ => {
                self.reports.clear();
                io
            }
        };
        if self.reports.len() == REPORTS_MAX {
            self.reports.remove(1);
        }
        self.reports.push_back((now, io));
        // One that is older than the span stays, to reckon from.
        while self.reports.get(1).is_some_and(|(at, _)| now.since(*at) >= SPAN) {
            self.reports.pop_front();
        }
        added
    }

    /// The last report.
    pub(crate) fn last(&self) -> IoStats {
        self.reports.back().map(|(_, io)| *io).unwrap_or_default()
    }

    /// Per second over the last seconds; nothing when nothing was heard for as long.
    pub(crate) fn per_second(&self, now: Instant) -> IoStats {
        let (Some((from, first)), Some((to, last))) = (self.reports.front(), self.reports.back()) else {
            return IoStats::default();
        };
        let millis = u64::try_from(to.since(*from).as_millis()).unwrap_or(u64::MAX);
        if now.since(*to) > SPAN || millis == 0 {
            return IoStats::default();
        }
        let rate =
            |count: u64| u64::try_from(u128::from(count) * 1000 / u128::from(millis)).unwrap_or(u64::MAX);
        let added = difference(first, last);
        IoStats {
            read_bytes: rate(added.read_bytes),
            write_bytes: rate(added.write_bytes),
            read_ops: rate(added.read_ops),
            write_ops: rate(added.write_ops),
            flushes: rate(added.flushes),
            ..*last
        }
    }
}

/// Adds counters; of the rest the larger.
pub(crate) fn add(sum: &mut IoStats, io: &IoStats) {
    let plus = |a: &mut u64, b: u64| *a = a.saturating_add(b);
    plus(&mut sum.read_bytes, io.read_bytes);
    plus(&mut sum.write_bytes, io.write_bytes);
    plus(&mut sum.read_ops, io.read_ops);
    plus(&mut sum.write_ops, io.write_ops);
    plus(&mut sum.flushes, io.flushes);
    sum.latency_us_avg = sum.latency_us_avg.max(io.latency_us_avg);
    sum.latency_us_max = sum.latency_us_max.max(io.latency_us_max);
    sum.queue_depth_milli = sum.queue_depth_milli.max(io.queue_depth_milli);
    sum.io_wait_permille = sum.io_wait_permille.max(io.io_wait_permille);
}

fn went_on(before: &IoStats, now: &IoStats) -> bool {
    before.read_bytes <= now.read_bytes
        && before.write_bytes <= now.write_bytes
        && before.read_ops <= now.read_ops
        && before.write_ops <= now.write_ops
        && before.flushes <= now.flushes
}

fn difference(before: &IoStats, now: &IoStats) -> IoStats {
    IoStats {
        read_bytes: now.read_bytes.saturating_sub(before.read_bytes),
        write_bytes: now.write_bytes.saturating_sub(before.write_bytes),
        read_ops: now.read_ops.saturating_sub(before.read_ops),
        write_ops: now.write_ops.saturating_sub(before.write_ops),
        flushes: now.flushes.saturating_sub(before.flushes),
        ..*now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn written(bytes: u64) -> IoStats {
        IoStats { write_bytes: bytes, write_ops: bytes / 10, ..IoStats::default() }
    }

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let mut rates = Rates::default();
        assert_eq!(rates.per_second(at(0)), IoStats::default());
        for second in 0..100 {
            rates.note(at(second), written(second * 1000));
        }
        assert_eq!(rates.per_second(at(99)).write_bytes, 1000);
        assert_eq!(rates.note(at(119), written(119_000)).write_bytes, 20_000);
        for second in 120..140 {
            rates.note(at(second), written(119_000));
        }
        assert_eq!(rates.per_second(at(140)).write_bytes, 0, "what is older does not count");
        assert_eq!(rates.per_second(at(170)), IoStats::default());
        assert_eq!(rates.last(), written(119_000));
    }

    #[test]
    fn counters_that_begin_anew_are_no_loss() {
        let mut rates = Rates::default();
        rates.note(at(1), written(5000));
        assert_eq!(rates.note(at(2), written(100)), written(100));
        assert_eq!(rates.note(at(3), written(300)).write_bytes, 200);
        assert_eq!(rates.per_second(at(3)).write_bytes, 200);
    }

    #[test]
    fn a_flood_of_reports_takes_no_room() {
        let mut rates = Rates::default();
        for nanos in 0..10_000 {
            rates.note(Instant::from_nanos(nanos * 1000), written(nanos));
        }
        assert!(rates.reports.len() <= REPORTS_MAX);
        let mut sum = IoStats::default();
        add(&mut sum, &written(5));
        add(&mut sum, &written(6));
        assert_eq!(sum.write_bytes, 11);
    }
}
