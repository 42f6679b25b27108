//! Records that are written but not yet taken into account by whoever appended them.
//!
//! Between the moment a record lies in the journal and the moment its content is noted in a block map, neither may the
//! tail pass it nor may a flush claim that everything up to it is complete. A [`Floor`] says so until it is dropped.
//!
//! A floor begins when the record gets its place, not when the append is asked for: a request that waits for
//! space in the ring must not hold the very tail whose movement would give it space.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use rt::sync::Notify;

/// The floors of one journal.
#[derive(Debug, Default)]
pub(super) struct Floors {
    counts: RefCell<BTreeMap<u64, usize>>,
    /// Appends wait for space: whoever lets go of the lowest floor wakes the writer, which may ask for a checkpoint.
    pub(super) starving: Cell<bool>,
    /// Wakes the journal's writer.
    pub(super) work: Notify,
    /// Told when all that was appended may be taken into account.
    pub(super) quiet: Notify,
}

impl Floors {
    pub(super) fn lowest(&self) -> Option<u64> {
        self.counts.borrow().first_key_value().map(|(&lsn, _)| lsn)
    }

    /// Wakes whoever waits for the end of all that is under way; it looks for itself.
    pub(super) fn tell_quiet(&self) {
        self.quiet.notify_all();
    }

    pub(super) fn hold(self: &Rc<Self>, lsn: u64) -> Floor {
        *self.counts.borrow_mut().entry(lsn).or_insert(0) += 1;
        Floor { floors: Rc::clone(self), lsn }
    }
}

/// A record at this LSN is not yet taken into account.
#[derive(Debug)]
pub struct Floor {
    floors: Rc<Floors>,
    lsn: u64,
}

impl Drop for Floor {
    fn drop(&mut self) {
        let mut counts = self.floors.counts.borrow_mut();
        let Some(count) = counts.get_mut(&self.lsn) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        counts.remove(&self.lsn);
        let was_lowest = counts.first_key_value().is_none_or(|(&lowest, _)| lowest > self.lsn);
        let was_last = counts.is_empty();
        drop(counts);
        if was_last {
            self.floors.tell_quiet();
        }
        if was_lowest && self.floors.starving.get() {
            self.floors.work.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_floor_counts() {
        let floors = Rc::new(Floors::default());
        let (a, b, c) = (floors.hold(10), floors.hold(10), floors.hold(20));
        assert_eq!(floors.lowest(), Some(10));
        drop(a);
        assert_eq!(floors.lowest(), Some(10));
        drop(b);
        assert_eq!(floors.lowest(), Some(20));
        drop(c);
        assert_eq!(floors.lowest(), None);
    }
}
