//! Locks on ranges of numbers: who asked first goes first.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
struct Entry {
    range: Range<u64>,
    exclusive: bool,
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Entry {
    fn conflicts(&self, other: &Self) -> bool {
        (self.exclusive || other.exclusive)
            && self.range.start < other.range.end
            && other.range.start < self.range.end
    }
}

/// Shared and exclusive locks on ranges. A request waits for every conflicting one made before it, granted or not,
/// so none is overtaken for ever. An empty range conflicts with nothing.
#[derive(Clone, Debug, Default)]
pub struct RangeLock(Rc<RefCell<VecDeque<Rc<Entry>>>>);

impl RangeLock {
    /// Without any lock.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Locks for others to share.
    pub fn shared(&self, range: Range<u64>) -> LockRange {
        self.request(range, false)
    }

    /// Locks for oneself.
    pub fn exclusive(&self, range: Range<u64>) -> LockRange {
        self.request(range, true)
    }

    /// Requests held or waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Whether nothing is locked or waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn request(&self, range: Range<u64>, exclusive: bool) -> LockRange {
        let entry = Entry { range, exclusive, granted: Cell::new(false), waker: RefCell::new(None) };
        let mut entries = self.0.borrow_mut();
        entry.granted.set(!entries.iter().any(|earlier| earlier.conflicts(&entry)));
        let entry = Rc::new(entry);
        entries.push_back(Rc::clone(&entry));
        LockRange { held: Some(RangeGuard { lock: self.clone(), entry }) }
    }

    fn release(&self, entry: &Rc<Entry>) {
        let mut wake = Vec::new();
        {
            let mut entries = self.0.borrow_mut();
            let at = entries.iter().position(|other| Rc::ptr_eq(other, entry)).expect("held until released");
            entries.remove(at);
            for index in at..entries.len() {
                let candidate = &entries[index];
                if candidate.granted.get()
                    || !candidate.conflicts(entry)
                    || entries.range(..index).any(|earlier| earlier.conflicts(candidate))
                {
                    continue;
                }
                candidate.granted.set(true);
                wake.extend(candidate.waker.borrow_mut().take());
            }
        }
        wake.into_iter().for_each(Waker::wake);
    }
}

/// The future of [`RangeLock::shared`] and [`RangeLock::exclusive`]. The place in the queue is taken by the call,
/// and given up if the future is dropped.
#[derive(Debug)]
#[must_use = "nothing is locked until it is awaited"]
pub struct LockRange {
    held: Option<RangeGuard>,
}

impl Future for LockRange {
    type Output = RangeGuard;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RangeGuard> {
        let guard = self.held.take().expect("polled after completion");
        if guard.entry.granted.get() {
            return Poll::Ready(guard);
        }
        *guard.entry.waker.borrow_mut() = Some(cx.waker().clone());
        self.held = Some(guard);
        Poll::Pending
    }
}

/// A locked range; released when dropped.
#[derive(Debug)]
pub struct RangeGuard {
    lock: RangeLock,
    entry: Rc<Entry>,
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        self.lock.release(&self.entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;

    fn ready(future: &mut LockRange) -> Option<RangeGuard> {
        match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(guard) => Some(guard),
            Poll::Pending => None,
        }
    }

    #[test]
    fn order_of_arrival_is_kept() {
        let lock = RangeLock::new();
        let first = ready(&mut lock.shared(0..10)).expect("nothing is locked");
        let mut writer = lock.exclusive(5..6);
        let mut reader = lock.shared(0..10);
        let mut elsewhere = lock.exclusive(10..20);
        assert!(ready(&mut writer).is_none());
        assert!(ready(&mut reader).is_none(), "must not overtake the writer");
        assert!(ready(&mut elsewhere).is_some());
        drop(first);
        let writing = ready(&mut writer).expect("its turn");
        assert!(ready(&mut reader).is_none());
        drop(writing);
        assert!(ready(&mut reader).is_some());
    }

    #[test]
    fn giving_up_lets_others_through() {
        let lock = RangeLock::new();
        let held = ready(&mut lock.shared(0..4)).unwrap();
        let writer = lock.exclusive(0..4);
        let mut reader = lock.shared(0..4);
        assert!(ready(&mut reader).is_none());
        drop(writer);
        assert!(ready(&mut reader).is_some());
        drop(held);
        assert!(lock.is_empty());
    }

    /// The slow and obvious twin: a request is granted when no earlier one that is still there conflicts.
    #[test]
    fn agrees_with_the_obvious_rule() {
        let mut rng = Rng::from_seed(11);
        for _ in 0..200 {
            let lock = RangeLock::new();
            let mut waiting: Vec<LockRange> = Vec::new();
            let mut held: Vec<RangeGuard> = Vec::new();
            for _ in 0..60 {
                match rng.below(3) {
                    0 | 1 => {
                        let start = rng.below(20);
                        let range = start..start + rng.below(6);
                        waiting.push(if rng.one_in(2) { lock.exclusive(range) } else { lock.shared(range) });
                    }
                    _ if !held.is_empty() => drop(held.swap_remove(rng.below(held.len() as u64) as usize)),
                    _ => {}
                }
                {
                    let entries = lock.0.borrow();
                    for (index, entry) in entries.iter().enumerate() {
                        let free = !entries.range(..index).any(|earlier| earlier.conflicts(entry));
                        assert_eq!(entry.granted.get(), free, "entry {index} of {entries:?}");
                    }
                }
                let mut still = Vec::new();
                for mut request in waiting.drain(..) {
                    match ready(&mut request) {
                        Some(guard) => held.push(guard),
                        None => still.push(request),
                    }
                }
                waiting = still;
            }
        }
    }
}
