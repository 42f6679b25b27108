//! How long a client may take to send or fetch its data while others wait for the memory it holds (C13).

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

/// What a client must move on average while others wait, in bytes per second.
const RATE_MIN: u64 = 2 << 20;

/// A client that moved less than it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the client moved less than {} MiB/s for more than {} s while others waited for the memory it held",
    RATE_MIN >> 20,
    .0.as_secs()
)]
pub(super) struct Stalled(Duration);

/// What is left of the patience with one direction of a connection: a pause costs, moving data at more than the least rate
/// wins back, and where nobody waits all is forgiven.
#[derive(Debug)]
pub(super) struct Patience {
    most: Duration,
    left: Cell<Duration>,
}

impl Patience {
    /// For pauses of `most` in all.
    pub(super) fn new(most: Duration) -> Self {
        Self { most, left: Cell::new(most) }
    }

    /// Runs a transfer of so many bytes to its end. It is dropped when it takes too long and `others_wait` then; until
    /// somebody waits it may take for ever.
    pub(super) async fn during<F: Future>(
        &self,
        bytes: u64,
        others_wait: impl Fn() -> bool,
        transfer: F,
    ) -> Result<F::Output, Stalled> {
        let mut transfer = pin!(transfer);
        loop {
            let limit = self.limit(bytes);
            let began = rt::time::now();
            match rt::time::timeout(limit, transfer.as_mut()).await {
                Ok(output) => {
                    self.took(bytes, began.elapsed(), others_wait());
                    return Ok(output);
                }
                Err(_) if others_wait() => return Err(Stalled(self.most)),
                Err(_) => self.left.set(self.most),
            }
        }
    }

    fn limit(&self, bytes: u64) -> Duration {
        self.left.get() + Duration::from_micros(bytes.saturating_mul(1_000_000) / RATE_MIN)
    }

    fn took(&self, bytes: u64, time: Duration, others_wait: bool) {
        let left = if others_wait { self.limit(bytes).saturating_sub(time) } else { self.most };
        self.left.set(left.min(self.most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_cost_and_moving_wins_back() {
        let second = Duration::from_secs(1);
        let patience = Patience::new(10 * second);
        assert_eq!(patience.limit(RATE_MIN), 11 * second);
        patience.took(RATE_MIN, 8 * second, true);
        assert_eq!(patience.left.get(), 3 * second);
        // A byte now and then is no progress.
        patience.took(1, 2 * second, true);
        assert_eq!(patience.limit(0), second);
        patience.took(5 * RATE_MIN, second, true);
        assert_eq!(patience.left.get(), 5 * second);
        patience.took(100 * RATE_MIN, second, true);
        assert_eq!(patience.left.get(), 10 * second, "never more than at first");
        patience.took(0, 9 * second, false);
        assert_eq!(patience.left.get(), 10 * second, "nobody waited");
        patience.took(0, 60 * second, true);
        assert_eq!(patience.left.get(), Duration::ZERO);
    }
}
