//! How fast content is copied: the place where limits and priorities attach.

use std::cell::Cell;
use std::time::Duration;

use rt::time::Instant;

/// Lets so many bytes per second pass; whoever comes when that is used up waits for its turn, in the order of arrival.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: Cell<Option<u64>>,
    /// What was let through is used up then.
    paid: Cell<Instant>,
}

impl Pace {
    /// Without a limit.
    pub(crate) fn unlimited() -> Self {
        Self { bytes_per_second: Cell::new(None), paid: Cell::new(rt::time::now()) }
    }

    /// Sets the limit for whatever comes from now on; `None` = none. A limit of nothing counts as one byte.
    pub(crate) fn limit(&self, bytes_per_second: Option<u64>) {
        self.bytes_per_second.set(bytes_per_second.map(|limit| limit.max(1)));
    }

    /// Waits until `bytes` may pass.
    pub(crate) async fn take(&self, bytes: u64) {
        let Some(limit) = self.bytes_per_second.get() else { return };
        let begin = self.paid.get().max(rt::time::now());
        self.paid.set(begin + Duration::from_secs_f64(bytes as f64 / limit as f64));
        rt::time::sleep_until(begin).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rt::sim::{SimOptions, Simulation};

    #[test]
    fn a_limit_is_kept_and_can_be_lifted() {
        let elapsed = Simulation::new(SimOptions::new(1)).run(async {
            let pace = Pace::unlimited();
            let begun = rt::time::now();
            pace.take(1 << 40).await;
            assert_eq!(begun.elapsed(), Duration::ZERO);
            pace.limit(Some(1 << 20));
            for _ in 0..4 {
                pace.take(1 << 19).await;
            }
            let limited = begun.elapsed();
            pace.limit(None);
            pace.take(1 << 40).await;
            (limited, begun.elapsed())
        });
        let (limited, all) = elapsed.unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!((limited, all), (Duration::from_millis(1500), limited));
    }
}
