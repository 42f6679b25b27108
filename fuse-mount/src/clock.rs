//! The wall clock in nanoseconds, for time stamps of files.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since 1970 (UTC).
pub(crate) fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// As the kernel's side wants it.
pub(crate) fn to_system(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
}

/// From what the kernel's side gives; what 64 bits of nanoseconds cannot hold becomes the nearest they can.
///
/// Of a time before 1970 the kernel gives negative seconds and positive nanoseconds; `fuser` takes both from 1970, so
/// that the nanoseconds have to be turned round.
pub(crate) fn from_kernel(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            let nanos = i64::from(before.subsec_nanos());
            seconds.checked_mul(-1_000_000_000).map_or(i64::MIN, |ns| ns.saturating_add(nanos))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_both_ways() {
        for ns in [0, 1, 1_700_000_000_123_456_789, -3_000_000_000, i64::MAX] {
            assert_eq!(from_kernel(to_system(ns)), ns);
        }
        // -1 s and 500 ms, as `fuser` has it.
        assert_eq!(from_kernel(UNIX_EPOCH - Duration::from_millis(1500)), -500_000_000);
        assert_eq!(from_kernel(UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 1000)), i64::MAX);
        assert!(now_ns() > 1_700_000_000_000_000_000);
    }
}
