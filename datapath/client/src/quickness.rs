//! How quickly chunk servers answer reads, and which of a chunk's members to ask first.

use std::cell::Cell;
use std::time::Duration;

use rt::time::Instant;

/// Below this a member is quick enough: going elsewhere would only lose what its caches hold.
const ENOUGH: Duration = Duration::from_millis(50);
/// Another member must be expected to be so many times as quick.
const FACTOR: u32 = 2;
/// The part of the mean that an answer makes up.
const WEIGHT: u32 = 8;
/// After so long without an answer half as much is expected: a disk may have recovered.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// The mean time of a server's answers to reads.
#[derive(Debug, Default)]
pub(crate) struct Quickness {
    mean: Cell<Duration>,
    noted: Cell<Option<Instant>>,
}

impl Quickness {
    /// Notes an answer.
    pub(crate) fn note(&self, now: Instant, took: Duration) {
        let mean = match self.noted.replace(Some(now)) {
            Some(before) => (decayed(self.mean.get(), now.since(before)) * (WEIGHT - 1) + took) / WEIGHT,
            None => took,
        };
        self.mean.set(mean);
    }

    /// How long an answer is expected to take; nothing is expected of a server that was never asked.
    pub(crate) fn expected(&self, now: Instant) -> Duration {
        self.noted.get().map_or(Duration::ZERO, |noted| decayed(self.mean.get(), now.since(noted)))
    }
}

fn decayed(mean: Duration, since: Duration) -> Duration {
    let halves = since.as_secs() / HALF_LIFE.as_secs();
    u32::try_from(halves)
        .ok()
        .and_then(|halves| 1u32.checked_shl(halves))
        .map_or(Duration::ZERO, |part| mean / part)
}

/// Which member to ask next time, given what is expected of each (`None` = it cannot be reached): the present one, unless it
/// is slow and another one much quicker.
pub(crate) fn choose(present: usize, expected: &[Option<Duration>]) -> usize {
    let Some(Some(now)) = expected.get(present) else { return present };
    let others = expected.iter().enumerate().filter_map(|(index, time)| Some(((*time)?, index)));
    match others.min() {
        Some((least, index)) if *now > ENOUGH && *now > least * FACTOR => index,
        _ => present,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_slow_member_is_left_for_a_much_quicker_one() {
        let some = |times: &[i64]| -> Vec<Option<Duration>> {
            times.iter().map(|&time| u64::try_from(time).ok().map(millis)).collect()
        };
        for (present, times, expected) in [
            (0, &[1, 1, 1][..], 0),
            (0, &[50, 0, 0], 0),
            (0, &[51, 40, 30], 0),
            (0, &[80, 45, 30], 2),
            (2, &[1, -1, 200], 0),
            (1, &[-1, 3000, -1], 1),
            (0, &[-1, 1, 1], 0),
            (1, &[300, 3000, 200], 2),
            (0, &[], 0),
        ] {
            assert_eq!(choose(present, &some(times)), expected, "{present} of {times:?}");
        }
    }

    #[test]
    fn the_mean_follows_and_is_forgotten() {
        let quickness = Quickness::default();
        assert_eq!(quickness.expected(at(5)), Duration::ZERO);
        quickness.note(at(100), millis(80));
        assert_eq!(quickness.expected(at(100)), millis(80));
        quickness.note(at(200), millis(160));
        assert_eq!(quickness.expected(at(200)), millis(90));
        assert_eq!(quickness.expected(at(10_199)), millis(90));
        assert_eq!(quickness.expected(at(10_200)), millis(45));
        assert_eq!(quickness.expected(at(10_000_000)), Duration::ZERO);
    }
}
