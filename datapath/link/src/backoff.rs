//! Growing pauses between attempts, not in step with anybody else's.

use std::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_millis(20);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(2);

/// Gives the pause before the next attempt: between the half and the whole of a time that doubles from 20 ms to 2 s.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(FIRST)
    }

    /// Begins anew.
    pub(crate) fn reset(&mut self) {
        self.0 = FIRST;
    }

    pub(crate) fn next(&mut self) -> Duration {
        let whole = self.0;
        self.0 = (whole * 2).min(LONGEST);
        let half = u64::try_from(whole.as_micros() / 2).unwrap_or(u64::MAX);
        Duration::from_micros(half + rt::random::below(half + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run;

    #[test]
    fn pauses_grow_to_their_limit_and_begin_anew() {
        run(async {
            let mut backoff = Backoff::new();
            let mut whole = FIRST;
            for _ in 0..20 {
                let pause = backoff.next();
                assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
                whole = (whole * 2).min(LONGEST);
            }
            assert_eq!(whole, LONGEST);
            backoff.reset();
            assert!(backoff.next() <= FIRST);
        });
    }
}
