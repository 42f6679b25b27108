//! Measuring and showing how long things took.

use std::fmt;
use std::time::{Duration, Instant};

/// Runs from its creation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[allow(clippy::disallowed_methods, reason = "xtask runs outside the executor and times real processes")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// A duration as people read it: `0.4 s`, `59.9 s`, `3 min 04 s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown(pub(crate) Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0.as_millis() + 50) / 100;
        let text = if tenths < 600 {
            format!("{}.{} s", tenths / 10, tenths % 10)
        } else {
            let seconds = (self.0.as_millis() + 500) / 1000;
            format!("{} min {:02} s", seconds / 60, seconds % 60)
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let shown = |ms| Shown(Duration::from_millis(ms)).to_string();
        assert_eq!(shown(0), "0.0 s");
        assert_eq!(shown(349), "0.3 s");
        assert_eq!(shown(350), "0.4 s");
        assert_eq!(shown(59_949), "59.9 s");
        assert_eq!(shown(59_950), "1 min 00 s");
        assert_eq!(shown(184_400), "3 min 04 s");
        assert_eq!(format!("{:>9}|", Shown(Duration::from_secs(1))), "    1.0 s|");
    }
}
