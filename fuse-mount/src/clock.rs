//! The wall clock in nanoseconds, for time stamps of files.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since 1970 (UTC).
pub(crate) fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}
