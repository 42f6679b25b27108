//! What will happen at a known virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::slab::Key;

/// Something the world does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A disk operation ends.
    Operation(Key),
    /// The next bytes of one direction of a connection arrive, or are sent again.
    Deliver { conn: Key, from: usize },
    /// A reset reaches one end of a connection.
    Reset { conn: Key, end: usize },
    /// The kernel closes a socket that a dead process has left.
    Close { conn: Key, end: usize },
    /// A connection request reaches its target.
    Request(Key),
    /// The answer to a connection request is back.
    Answer(Key),
}

impl Event {
    /// Two words that tell events apart, for the trace.
    pub(super) fn words(self) -> (u64, u64) {
        match self {
            Self::Operation(key) => (1, key.word()),
            Self::Deliver { conn, from } => (2 + from as u64, conn.word()),
            Self::Reset { conn, end } => (4 + end as u64, conn.word()),
            Self::Close { conn, end } => (6 + end as u64, conn.word()),
            Self::Request(key) => (8, key.word()),
            Self::Answer(key) => (9, key.word()),
        }
    }
}

/// Events in the order of their times; those of one time in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    serial: u64,
}

impl Events {
    pub(super) fn push(&mut self, at: u64, event: Event) {
        self.serial += 1;
        self.heap.push(Reverse((at, self.serial, event)));
    }

    pub(super) fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    pub(super) fn pop_due(&mut self, now: u64) -> Option<Event> {
        if self.next_at()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, _, event))| event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_insertion() {
        let mut events = Events::default();
        let mut slab = crate::sim::slab::Slab::new();
        let keys = [slab.insert(()), slab.insert(()), slab.insert(())];
        for (at, key) in [(20, 0), (10, 2), (10, 1)] {
            events.push(at, Event::Operation(keys[key]));
        }
        assert_eq!(events.pop_due(9), None);
        let order: Vec<_> = std::iter::from_fn(|| events.pop_due(30)).collect();
        assert_eq!(order, [2, 1, 0].map(|key| Event::Operation(keys[key])));
    }
}
