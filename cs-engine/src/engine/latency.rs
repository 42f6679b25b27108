//! How long the devices of a server take to answer: whether more than one request in a hundred of the last seconds took too
//! long, or one that is under way does.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rt::time::Instant;

/// From how long on a request is slow, until somebody says otherwise.
const LIMIT: Duration = Duration::from_secs(3);
/// How far back requests count.
const WINDOW: Duration = Duration::from_secs(10);
/// Requests of this long are counted together.
const SLICE: Duration = Duration::from_secs(1);
/// One slow request among so many makes the device slow.
const AMONG: u64 = 100;
/// For so long nothing may have been slow before the device counts as quick again: a disk that stalls every now and then is
/// one occurrence.
const CALM: Duration = Duration::from_secs(60);

/// The requests that ended in a part of the window.
#[derive(Clone, Copy, Debug)]
struct Slice {
    since: Instant,
    all: u64,
    slow: u64,
}

/// What is known of the latency of a server's devices.
#[derive(Debug)]
pub struct Latency {
    limit: Cell<Duration>,
    next: Cell<u64>,
    under_way: RefCell<BTreeMap<u64, Instant>>,
    slices: RefCell<VecDeque<Slice>>,
    /// When the device was last found slow.
    found: Cell<Option<Instant>>,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            limit: Cell::new(LIMIT),
            next: Cell::new(0),
            under_way: RefCell::default(),
            slices: RefCell::default(),
            found: Cell::default(),
        }
    }
}

/// A request under way; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Timed<'a> {
    latency: &'a Latency,
    id: u64,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.latency.end(self.id, rt::time::now());
    }
}

impl Latency {
    /// From how long on a request is slow.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.limit.get()
    }

    /// Changes that; what has ended is not judged anew.
    pub fn set_limit(&self, limit: Duration) {
        self.limit.set(limit);
    }

    /// Begins a request.
    pub(crate) fn start(&self) -> Timed<'_> {
        Timed { latency: self, id: self.begin(rt::time::now()) }
    }

    fn begin(&self, now: Instant) -> u64 {
        let id = self.next.get();
        self.next.set(id + 1);
        self.under_way.borrow_mut().insert(id, now);
        id
    }

    fn end(&self, id: u64, now: Instant) {
        let Some(began) = self.under_way.borrow_mut().remove(&id) else { return };
        let slow = u64::from(now.since(began) > self.limit.get());
        let mut slices = self.slices.borrow_mut();
        match slices.back_mut() {
            Some(last) if now.since(last.since) < SLICE => {
                last.all += 1;
                last.slow += slow;
            }
            _ => slices.push_back(Slice { since: now, all: 1, slow }),
        }
        while slices.front().is_some_and(|first| now.since(first.since) > WINDOW) {
            slices.pop_front();
        }
    }

    /// Whether the devices are slow (flag `T`).
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.is_slow_at(rt::time::now())
    }

    fn is_slow_at(&self, now: Instant) -> bool {
        if self.is_slow_just_now(now) {
            self.found.set(Some(now));
        }
        self.found.get().is_some_and(|found| now.since(found) < CALM)
    }

    fn is_slow_just_now(&self, now: Instant) -> bool {
        // The oldest has the lowest number.
        let oldest = self.under_way.borrow().first_key_value().map(|(_, &began)| began);
        if oldest.is_some_and(|began| now.since(began) > self.limit.get()) {
            return true;
        }
        let slices = self.slices.borrow();
        let recent = slices.iter().filter(|slice| now.since(slice.since) <= WINDOW);
        let (all, slow) = recent.fold((0, 0), |(all, slow), slice| (all + slice.all, slow + slice.slow));
        slow * AMONG > all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// So many requests that begin at `from` and take `took` milliseconds.
    fn requests(latency: &Latency, count: usize, from: u64, took: u64) {
        for _ in 0..count {
            let id = latency.begin(at(from));
            latency.end(id, at(from + took));
        }
    }

    #[test]
    fn one_slow_request_in_a_hundred_is_forgiven() {
        let latency = Latency::default();
        assert!(!latency.is_slow_at(at(0)), "nothing is known");
        requests(&latency, 100, 1000, 5);
        requests(&latency, 1, 1000, 3001);
        assert!(!latency.is_slow_at(at(4100)));
        requests(&latency, 1, 1200, 3001);
        assert!(latency.is_slow_at(at(4300)), "two in 102");
        requests(&latency, 200, 4300, 3000);
        assert!(!latency.is_slow_just_now(at(7300)), "two in 302");
    }

    #[test]
    fn what_is_long_ago_does_not_count() {
        let latency = Latency::default();
        requests(&latency, 1, 0, 5000);
        assert!(latency.is_slow_at(at(5000)) && latency.is_slow_at(at(15_000)));
        assert!(!latency.is_slow_just_now(at(15_001)));
        requests(&latency, 1, 20_000, 1);
        assert!(latency.is_slow_at(at(74_999)), "it has to be quick for a while");
        assert!(!latency.is_slow_at(at(75_000)));
    }

    #[test]
    fn a_disk_that_stalls_now_and_then_is_slow_all_the_time() {
        let latency = Latency::default();
        let mut changes = Vec::new();
        let mut before = false;
        for tick in 0..200 {
            // A stall of four seconds every ten, and requests enough between them to forgive it.
            requests(&latency, 400, tick * 1000, 5);
            let stalled = (tick < 60 && tick % 10 == 0).then(|| latency.begin(at(tick * 1000)));
            let look = at(tick * 1000 + 3500);
            if latency.is_slow_at(look) != before {
                before = !before;
                changes.push(tick);
            }
            if let Some(id) = stalled {
                latency.end(id, look);
            }
        }
        assert_eq!(changes, [0, 110]);
    }

    #[test]
    fn a_request_that_never_ends_is_slow() {
        let latency = Latency::default();
        let first = latency.begin(at(0));
        let _second = latency.begin(at(2000));
        assert!(!latency.is_slow_at(at(3000)) && latency.is_slow_at(at(3001)));
        latency.set_limit(Duration::from_millis(5000));
        assert!(!latency.is_slow_just_now(at(4000)));
        latency.end(first, at(4000));
        assert!(!latency.is_slow_just_now(at(7000)) && latency.is_slow_just_now(at(7001)));
    }
}
