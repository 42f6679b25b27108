//! Where each entry is, and the payloads of the newest ones.

use std::collections::VecDeque;
use std::ops::Range;

use super::entry::{Entry, LogId, Payload};
use super::recover::Found;

/// Where an entry is, and what it says if that is still in memory.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) found: Found,
    pub(super) payload: Option<Payload>,
}

/// The entries of the log, with consecutive indices.
#[derive(Debug)]
pub(super) struct Index {
    slots: VecDeque<Slot>,
    /// Position of the first slot that may have a payload.
    cached_from: usize,
    cached_bytes: usize,
    cached_bytes_max: usize,
}

impl Index {
    pub(super) fn new(found: Vec<Found>, cached_bytes_max: usize) -> Self {
        let slots: VecDeque<Slot> = found.into_iter().map(|found| Slot { found, payload: None }).collect();
        Self { cached_from: slots.len(), slots, cached_bytes: 0, cached_bytes_max }
    }

    pub(super) fn first(&self) -> Option<LogId> {
        self.slots.front().map(|slot| slot.found.id)
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.found.id)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    fn position(&self, index: u64) -> Option<usize> {
        let first = self.first()?.index;
        usize::try_from(index.checked_sub(first)?).ok()
    }

    pub(super) fn get(&self, index: u64) -> Option<&Slot> {
        self.slots.get(self.position(index)?)
    }

    /// The indices of `range` that there are.
    pub(super) fn within(&self, range: Range<u64>) -> Range<u64> {
        let Some((first, last)) = self.first().zip(self.last()) else { return 0..0 };
        let (start, end) = (range.start.max(first.index), range.end.min(last.index + 1));
        start..end.max(start)
    }

    /// Adds the entry after the last one.
    pub(super) fn push(&mut self, found: Found, entry: Entry) {
        debug_assert!(
            self.last().is_none_or(|last| last.index + 1 == entry.id.index),
            "entries are consecutive"
        );
        self.cached_bytes += found.body_len as usize;
        self.slots.push_back(Slot { found, payload: Some(entry.payload) });
        while self.cached_bytes > self.cached_bytes_max && self.cached_from + 1 < self.slots.len() {
            self.forget(self.cached_from);
            self.cached_from += 1;
        }
    }

    fn forget(&mut self, position: usize) {
        let slot = &mut self.slots[position];
        if slot.payload.take().is_some() {
            self.cached_bytes -= slot.found.body_len as usize;
        }
    }

    /// Drops the entries from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        while self.last().is_some_and(|last| last.index >= index) {
            self.forget(self.slots.len() - 1);
            self.slots.pop_back();
        }
        self.cached_from = self.cached_from.min(self.slots.len());
    }

    /// Drops the entries up to `index`.
    pub(super) fn purge(&mut self, index: u64) {
        while self.first().is_some_and(|first| first.index <= index) {
            self.forget(0);
            self.slots.pop_front();
            self.cached_from = self.cached_from.saturating_sub(1);
        }
    }

    /// The oldest segment that holds an entry.
    pub(super) fn oldest_segment(&self) -> Option<u64> {
        self.slots.iter().next().map(|slot| slot.found.segment)
    }

    #[cfg(test)]
    fn check(&self) {
        let cached = self.slots.iter().filter(|slot| slot.payload.is_some());
        assert_eq!(self.cached_bytes, cached.map(|slot| slot.found.body_len as usize).sum::<usize>());
        assert!(self.slots.iter().take(self.cached_from).all(|slot| slot.payload.is_none()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(index: u64) -> Found {
        Found { id: LogId { term: 1, node: 1, index }, segment: index / 10, offset: 0, body_len: 100 }
    }

    fn push(index: &mut Index, at: u64) {
        index.push(found(at), Entry { id: found(at).id, payload: Payload::Blank });
        index.check();
    }

    #[test]
    fn the_newest_payloads_stay_in_memory() {
        let mut index = Index::new((5..8).map(found).collect(), 250);
        (8..20).for_each(|at| push(&mut index, at));
        let cached = |index: &Index| {
            (5..20).filter(|at| index.get(*at).is_some_and(|slot| slot.payload.is_some())).count()
        };
        assert_eq!((index.len(), cached(&index)), (15, 2));
        index.truncate(19);
        index.check();
        assert_eq!((index.last(), cached(&index)), (Some(found(18).id), 1));
        index.truncate(12);
        index.check();
        (12..14).for_each(|at| push(&mut index, at));
        index.purge(9);
        index.check();
        assert_eq!((index.first(), index.oldest_segment(), cached(&index)), (Some(found(10).id), Some(1), 2));
        index.purge(100);
        index.check();
        assert_eq!((index.len(), index.first()), (0, None));
    }

    #[test]
    fn one_large_payload_stays_whatever_the_limit() {
        let mut index = Index::new(Vec::new(), 10);
        push(&mut index, 0);
        assert!(index.get(0).unwrap().payload.is_some());
        push(&mut index, 1);
        assert!(index.get(0).unwrap().payload.is_none());
    }

    #[test]
    fn ranges_are_cut_to_what_there_is() {
        let index = Index::new((5..8).map(found).collect(), 0);
        for (range, expected) in [(0..100, 5..8), (6..7, 6..7), (0..5, 5..5), (8..9, 8..8), (7..7, 7..7)] {
            assert_eq!(index.within(range.clone()), expected, "{range:?}");
        }
        assert_eq!(Index::new(Vec::new(), 0).within(0..9), 0..0);
        assert!(index.get(4).is_none() && index.get(8).is_none());
    }
}
