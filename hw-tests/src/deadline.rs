//! Limits on waiting, on the machine's own clock.
//!
//! These tests run beside real processes and a real kernel, outside the simulator; this module is the only one here
//! that reads the clock or sleeps.

use std::time::{Duration, Instant};

/// A moment after which waiting is given up.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
}

impl Deadline {
    /// `limit` from now.
    pub fn after(limit: Duration) -> Self {
        Self { at: now() + limit }
    }

    /// What is left, zero once passed.
    pub fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(now())
    }

    /// Whether nothing is left.
    pub fn passed(&self) -> bool {
        self.remaining().is_zero()
    }
}

/// Time since a moment.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    from: Instant,
}

impl Stopwatch {
    /// From now on.
    pub fn start() -> Self {
        Self { from: now() }
    }

    /// What has passed since.
    pub fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.from)
    }
}

/// Waits for `time` to pass, where that alone is the point: a quantity is measured over it.
pub fn let_pass(time: Duration) {
    let none = poll_until(time, || None::<()>);
    debug_assert!(none.is_none(), "there is nothing to wait for");
}

#[allow(clippy::disallowed_methods, reason = "bounds waiting for a real kernel; nothing here is simulated")]
fn now() -> Instant {
    Instant::now()
}

/// Asks `probe` until it answers or `limit` has passed; `None` when it never did.
///
/// Only for kernel state that announces no change (sysfs attributes of a loop device, `/proc`). Where there is an event
/// (a pidfd, a pipe) wait for that.
pub fn poll_until<T>(limit: Duration, probe: impl FnMut() -> Option<T>) -> Option<T> {
    poll(limit, Duration::from_millis(10), probe)
}

/// As [`poll_until`], ten times per second, where the probe costs what is being measured.
pub fn poll_seldom<T>(limit: Duration, probe: impl FnMut() -> Option<T>) -> Option<T> {
    poll(limit, Duration::from_millis(100), probe)
}

fn poll<T>(limit: Duration, longest_pause: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    const FIRST_PAUSE: Duration = Duration::from_micros(200);
    let deadline = Deadline::after(limit);
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if deadline.passed() {
            return None;
        }
        #[allow(clippy::disallowed_methods, reason = "the state polled for has no event to wait on")]
        std::thread::sleep(pause.min(deadline.remaining()));
        pause = (pause * 2).min(longest_pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_answers_or_gives_up() {
        let mut left = 3;
        let answer = poll_until(Duration::from_secs(5), || {
            left -= 1;
            (left == 0).then_some("there")
        });
        assert_eq!(answer, Some("there"));
        assert_eq!(poll_until(Duration::from_millis(1), || None::<()>), None);
    }
}
