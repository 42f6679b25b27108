//! What the process uses, for the operator.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rt::time::Instant;
use rustix::time::{ClockId, clock_gettime};

use crate::server::Vitals;

/// Looks at the CPU time since the look before, and at the memory.
pub(super) fn watch() -> Rc<dyn Fn() -> Vitals> {
    let before = Cell::new((rt::time::now(), cpu_time()));
    Rc::new(move || {
        let now = (rt::time::now(), cpu_time());
        let last = before.replace(now);
        Vitals { cpu_permille: permille(last, now), memory_bytes: resident_bytes().unwrap_or(0) }
    })
}

fn permille((then, spent): (Instant, Duration), (now, spent_now): (Instant, Duration)) -> u32 {
    let time = now.since(then).as_micros().max(1);
    let share = spent_now.saturating_sub(spent).as_micros() * 1000 / time;
    u32::try_from(share).unwrap_or(u32::MAX)
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // Both are positive: time that was spent.
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// From `statm` of proc(5): the second number is resident pages.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_core_are_taken_over_the_time_between() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let used = permille((at(1000), Duration::from_millis(50)), (at(3000), Duration::from_millis(150)));
        assert_eq!(used, 50);
        assert_eq!(permille((at(5), Duration::ZERO), (at(5), Duration::ZERO)), 0);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(resident_bytes().unwrap() > 1 << 20);
    }
}
