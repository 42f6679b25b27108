//! How quickly chunk servers answer reads, and which of a chunk's members to ask first.

use std::cell::Cell;
use std::time::Duration;

use rt::time::Instant;

/// Up to this a member is quick enough: going elsewhere would only lose what its caches hold. It is also what is expected of
/// a server that was never asked.
const ENOUGH: Duration = Duration::from_millis(50);
/// Another member must be expected to be so many times as quick.
const FACTOR: u32 = 2;
/// The part of the mean that an answer makes up.
const WEIGHT: u32 = 8;
/// How long a slow server rests before it gets one read to show how quick it is; twice as long after each one that is slow.
const REST_MIN: Duration = Duration::from_secs(10);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(160);

/// The mean time of a server's answers to reads.
#[derive(Debug)]
pub(crate) struct Quickness {
    mean: Cell<Duration>,
    /// The last answer, or the last one that was given up.
    noted: Cell<Option<Instant>>,
    rest: Cell<Duration>,
    /// When the last rest ended.
    tried: Cell<Option<Instant>>,
}

impl Default for Quickness {
    fn default() -> Self {
        Self {
            mean: Cell::default(),
            noted: Cell::default(),
            rest: Cell::new(REST_MIN),
            tried: Cell::default(),
        }
    }
}

impl Quickness {
    /// Notes an answer.
    pub(crate) fn note(&self, now: Instant, took: Duration) {
        let mean = match self.noted.replace(Some(now)) {
            Some(before) if now.since(before) < REST_MIN => (self.mean.get() * (WEIGHT - 1) + took) / WEIGHT,
            // What was long ago says nothing.
            _ => took,
        };
        self.mean.set(mean);
        if took <= ENOUGH {
            self.rest.set(REST_MIN);
        }
    }

    /// Notes that there was no answer for so long; it may be a refusal that came at once.
    pub(crate) fn note_none(&self, now: Instant, waited: Duration) {
        if waited > ENOUGH {
            self.noted.set(Some(now));
            self.mean.set(self.mean.get().max(waited));
        }
    }

    /// How long an answer is expected to take.
    pub(crate) fn expected(&self) -> Duration {
        self.noted.get().map_or(ENOUGH, |_| self.mean.get())
    }

    /// Whether a slow server has rested, and is to get a read; the next rest begins with that.
    pub(crate) fn has_rested(&self, now: Instant) -> bool {
        let rest = self.rest.get();
        if [self.noted.get(), self.tried.get()].into_iter().flatten().any(|last| now.since(last) < rest) {
            return false;
        }
        self.tried.set(Some(now));
        self.rest.set((rest * 2).min(REST_MAX));
        true
    }
}

/// Which of so many members to read from, given what is expected of each (`None` = it cannot be reached): `home`, or the next
/// one that can be reached; another one if that is slow and the other much quicker.
pub(crate) fn choose(home: usize, count: usize, expected: impl Fn(usize) -> Option<Duration>) -> usize {
    let ring = || (0..count).map(|turn| (home + turn) % count);
    let Some((first, time)) = ring().find_map(|index| Some((index, expected(index)?))) else { return home };
    if time <= ENOUGH {
        return first;
    }
    let others = ring().filter_map(|index| Some((expected(index)?, index)));
    match others.min_by_key(|&(time, _)| time) {
        Some((least, index)) if time > least * FACTOR => index,
        _ => first,
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
            (0, &[-1, 1, 1], 1),
            (1, &[1, -1, 1], 2),
            (0, &[-1, 300, 1], 2),
            (0, &[-1, -1, -1], 0),
            (1, &[300, 3000, 200], 2),
            (0, &[], 0),
        ] {
            let times = some(times);
            let chosen = choose(present, times.len(), |index| times[index]);
            assert_eq!(chosen, expected, "{present} of {times:?}");
        }
    }

    #[test]
    fn the_mean_follows_and_is_forgotten() {
        let quickness = Quickness::default();
        assert_eq!(quickness.expected(), ENOUGH);
        quickness.note(at(100), millis(80));
        assert_eq!(quickness.expected(), millis(80));
        quickness.note(at(200), millis(160));
        assert_eq!(quickness.expected(), millis(90));
        quickness.note(at(10_199), millis(10));
        assert_eq!(quickness.expected(), millis(80));
        quickness.note(at(20_199), millis(10));
        assert_eq!(quickness.expected(), millis(10), "the mean is of long ago");
    }

    #[test]
    fn one_that_does_not_answer_is_slow_at_once() {
        let quickness = Quickness::default();
        quickness.note(at(100), millis(1));
        quickness.note_none(at(101), millis(1));
        assert_eq!(quickness.expected(), millis(1), "a refusal that came at once");
        quickness.note_none(at(3200), millis(3000));
        assert_eq!(quickness.expected(), millis(3000));
    }

    #[test]
    fn a_slow_one_gets_one_read_after_each_rest() {
        let quickness = Quickness::default();
        quickness.note_none(at(3000), millis(3000));
        let tries = |from: u64, to: u64| -> Vec<u64> {
            (from..to).filter(|&second| quickness.has_rested(at(second * 1000))).collect()
        };
        assert_eq!(tries(3, 35), [13, 33]);
        quickness.note_none(at(36_000), millis(3000));
        assert_eq!(tries(36, 500), [76, 156, 316, 476]);
        quickness.note(at(500_000), millis(2));
        assert_eq!(quickness.expected(), millis(2));
        assert_eq!(tries(500, 521), [510]);
    }
}
