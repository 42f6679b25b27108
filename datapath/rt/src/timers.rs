//! The timers of one executor: a heap of deadlines with lazy removal.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::task::Waker;

/// Names a pending timer of one executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerId {
    slot: u32,
    generation: u32,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    waker: Option<Waker>,
}

/// All pending timers. Removed timers leave their heap entry behind; it is skipped when it surfaces, and the
/// heap is rebuilt when more than half of it is dead.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(u64, u64, u32, u32)>>,
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    live: usize,
    serial: u64,
}

impl Timers {
    /// Adds a timer; equal deadlines fire in the order of insertion.
    pub(crate) fn insert(&mut self, deadline: u64, waker: Waker) -> TimerId {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, waker: None });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 timers")
        });
        let entry = &mut self.slots[slot as usize];
        entry.waker = Some(waker);
        let id = TimerId { slot, generation: entry.generation };
        self.serial += 1;
        self.heap.push(Reverse((deadline, self.serial, slot, id.generation)));
        self.live += 1;
        id
    }

    /// Replaces the waker of a pending timer.
    pub(crate) fn set_waker(&mut self, id: TimerId, waker: &Waker) {
        let slot = &mut self.slots[id.slot as usize];
        if slot.generation == id.generation
            && let Some(old) = &mut slot.waker
            && !old.will_wake(waker)
        {
            *old = waker.clone();
        }
    }

    /// Forgets a timer; nothing happens if it has fired.
    pub(crate) fn cancel(&mut self, id: TimerId) {
        if self.take(id.slot, id.generation).is_some()
            && self.heap.len() > 64
            && self.heap.len() > self.live * 2
        {
            let slots = &self.slots;
            self.heap.retain(|Reverse((_, _, slot, generation))| {
                let entry = &slots[*slot as usize];
                entry.generation == *generation && entry.waker.is_some()
            });
        }
    }

    fn take(&mut self, slot: u32, generation: u32) -> Option<Waker> {
        let entry = &mut self.slots[slot as usize];
        if entry.generation != generation {
            return None;
        }
        let waker = entry.waker.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.vacant.push(slot);
        self.live -= 1;
        Some(waker)
    }

    /// The earliest deadline still wanted.
    pub(crate) fn next_deadline(&mut self) -> Option<u64> {
        while let Some(Reverse((deadline, _, slot, generation))) = self.heap.peek().copied() {
            let entry = &self.slots[slot as usize];
            if entry.generation == generation && entry.waker.is_some() {
                return Some(deadline);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes the waker of one timer that is due at `now`.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<Waker> {
        while let Some(Reverse((deadline, _, slot, generation))) = self.heap.peek().copied() {
            if deadline > now {
                return None;
            }
            self.heap.pop();
            if let Some(waker) = self.take(slot, generation) {
                return Some(waker);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waker() -> Waker {
        Waker::noop().clone()
    }

    #[test]
    fn fires_in_order_and_skips_the_cancelled() {
        let mut timers = Timers::default();
        let late = timers.insert(30, waker());
        let _early = timers.insert(10, waker());
        let _middle = timers.insert(20, waker());
        timers.cancel(late);
        assert_eq!(timers.next_deadline(), Some(10));
        assert!(timers.pop_due(9).is_none());
        assert!(timers.pop_due(25).is_some());
        assert!(timers.pop_due(25).is_some());
        assert!(timers.pop_due(100).is_none());
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn cancelled_timers_do_not_pile_up() {
        let mut timers = Timers::default();
        for round in 0..10_000 {
            let id = timers.insert(1_000_000 + round, waker());
            timers.cancel(id);
        }
        assert!(timers.heap.len() <= 65, "{} dead entries kept", timers.heap.len());
        assert_eq!(timers.slots.len(), 1);
    }
}
