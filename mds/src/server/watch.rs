//! Terms that run out: who has to renew until when (C1, C2).
//!
//! Only the leader counts terms, in memory, on the clock that runs during suspend. What it grants may always last longer
//! than it said, never shorter: so a new leader begins with full terms, a term once granted is not cut when the
//! configured one becomes shorter, and a leader that was stopped for a while gives the time back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rt::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Which session or registration of this holder.
    id: u64,
    until: Instant,
    /// Its time is over: it is renewed no more, whatever becomes of the command that says so.
    fired: bool,
}

/// The terms of the holders of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Watch<K> {
    entries: BTreeMap<K, Entry>,
    /// Those that have not fired, by time.
    queue: BTreeSet<(Instant, K)>,
}

impl<K> Default for Watch<K> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), queue: BTreeSet::new() }
    }
}

impl<K: Copy + Ord> Watch<K> {
    /// Begins a term. One of the same session or registration that is running already is only ever prolonged, and one that
    /// is over stays over.
    pub(crate) fn begin(&mut self, key: K, id: u64, until: Instant) {
        match self.entries.get(&key) {
            Some(entry) if entry.id == id => {
                self.renew(key, id, until);
            }
            _ => {
                self.end(key);
                self.entries.insert(key, Entry { id, until, fired: false });
                self.queue.insert((until, key));
            }
        }
    }

    /// Begins the term of a later registration of the same holder. What was promised to the one before holds on: its term was
    /// perhaps longer, and the answer to the later one may never arrive.
    pub(crate) fn succeed(&mut self, key: K, id: u64, until: Instant) {
        let promised = self.entries.get(&key).filter(|entry| !entry.fired).map(|entry| entry.until);
        self.begin(key, id, promised.map_or(until, |promised| promised.max(until)));
    }

    /// Begins a term anew, whatever became of the one before. One that is running already is only ever prolonged.
    pub(crate) fn restart(&mut self, key: K, id: u64, until: Instant) {
        if !self.renew(key, id, until) {
            self.end(key);
            self.begin(key, id, until);
        }
    }

    /// Prolongs a term; false when it is over, or that of another session or registration.
    pub(crate) fn renew(&mut self, key: K, id: u64, until: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.id == id && !entry.fired) else {
            return false;
        };
        if until > entry.until {
            self.queue.remove(&(entry.until, key));
            entry.until = until;
            self.queue.insert((until, key));
        }
        true
    }

    /// Whether a term of this session or registration is known.
    pub(crate) fn knows(&self, key: K, id: u64) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.id == id)
    }

    /// Forgets a holder.
    pub(crate) fn end(&mut self, key: K) {
        if let Some(entry) = self.entries.remove(&key) {
            self.queue.remove(&(entry.until, key));
        }
    }

    /// Forgets a session or registration, unless a later one has taken its place.
    pub(crate) fn end_this(&mut self, key: K, id: u64) {
        if self.knows(key, id) {
            self.end(key);
        }
    }

    /// When the next term is over.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(until, _)| *until)
    }

    /// Those whose term is over. They are given once.
    pub(crate) fn fire(&mut self, now: Instant) -> Vec<(K, u64)> {
        let mut over = Vec::new();
        while let Some((until, key)) = self.queue.first().copied().filter(|(until, _)| *until <= now) {
            self.queue.remove(&(until, key));
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.fired = true;
                over.push((key, entry.id));
            }
        }
        over
    }

    /// Gives everybody time in which nobody could renew.
    pub(crate) fn delay(&mut self, by: Duration) {
        for (until, key) in std::mem::take(&mut self.queue) {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.until = until + by;
                self.queue.insert((entry.until, key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn c1_a_term_that_is_over_cannot_be_renewed() {
        let mut watch = Watch::default();
        watch.begin(1, 7, at(10));
        watch.begin(2, 8, at(20));
        assert_eq!(watch.next(), Some(at(10)));
        assert!(watch.renew(1, 7, at(30)));
        assert!(!watch.renew(1, 6, at(99)), "another session");
        assert!(!watch.renew(3, 7, at(99)), "nobody");
        assert_eq!(watch.fire(at(19)), []);
        assert_eq!(watch.fire(at(20)), [(2, 8)]);
        assert_eq!(watch.fire(at(20)), [], "given once");
        assert!(!watch.renew(2, 8, at(99)));
        watch.begin(2, 8, at(99));
        assert!(!watch.renew(2, 8, at(99)), "the same session does not come back to life");
        watch.begin(2, 9, at(40));
        assert!(watch.renew(2, 9, at(50)), "the next one does");
        assert_eq!(watch.fire(at(60)), [(1, 7), (2, 9)]);
        assert_eq!(watch.next(), None);
    }

    #[test]
    fn terms_never_shrink() {
        let mut watch = Watch::default();
        watch.begin(1, 7, at(60));
        assert!(watch.renew(1, 7, at(6)));
        watch.begin(1, 7, at(5));
        assert_eq!(watch.fire(at(59)), []);
        assert_eq!(watch.fire(at(60)), [(1, 7)]);
    }

    #[test]
    fn c2_a_later_registration_does_not_cut_the_term_of_the_one_before() {
        let mut watch = Watch::default();
        watch.succeed(1, 7, at(60));
        watch.succeed(1, 8, at(20));
        assert!(!watch.renew(1, 7, at(99)), "that one is over");
        assert_eq!((watch.fire(at(59)), watch.fire(at(60))), (vec![], vec![(1, 8)]));
        watch.succeed(1, 8, at(99));
        assert_eq!(watch.next(), None, "what is over stays over");
        watch.succeed(1, 9, at(30));
        assert_eq!(watch.next(), Some(at(30)), "and promises nothing any more");
    }

    #[test]
    fn what_is_begun_anew_has_a_whole_term() {
        let mut watch = Watch::default();
        watch.restart(1, 7, at(10));
        watch.restart(1, 7, at(30));
        watch.restart(1, 7, at(20));
        assert_eq!((watch.fire(at(29)), watch.fire(at(30))), (vec![], vec![(1, 7)]));
        watch.restart(1, 7, at(40));
        assert_eq!((watch.fire(at(39)), watch.fire(at(40))), (vec![], vec![(1, 7)]));
    }

    #[test]
    fn lost_time_is_given_back_to_all_whose_term_runs() {
        let mut watch = Watch::default();
        watch.begin(1, 7, at(10));
        watch.begin(2, 8, at(20));
        assert_eq!(watch.fire(at(10)), [(1, 7)]);
        watch.delay(Duration::from_nanos(100));
        assert_eq!(watch.next(), Some(at(120)));
        assert!(!watch.renew(1, 7, at(200)));
        assert_eq!(watch.fire(at(120)), [(2, 8)]);
    }

    #[test]
    fn a_later_session_is_not_forgotten_with_an_earlier_one() {
        let mut watch = Watch::default();
        watch.begin(1, 7, at(10));
        watch.begin(1, 8, at(20));
        watch.end_this(1, 7);
        assert!(watch.knows(1, 8));
        assert_eq!(watch.fire(at(15)), []);
        watch.end_this(1, 8);
        assert_eq!((watch.next(), watch.fire(at(99))), (None, vec![]));
    }
}
