//! Sequence numbers of one lease epoch: which writes are answered, which are stable (C5, C11).

use std::collections::BTreeMap;

/// The writes of one epoch.
#[derive(Debug)]
pub(crate) struct Window {
    next: u64,
    /// Issued and not answered to the caller; with the chunk that it goes to if it is a caller's write.
    open: BTreeMap<u64, Option<u64>>,
    /// Chunks in which parts of writes have been answered that grow the file and are not over: how many.
    landed: BTreeMap<u64, usize>,
    /// All lower ones are stable on all members.
    stable: u64,
    /// Chunk servers with writes that no flush has covered: the number of the last such write there.
    dirty: BTreeMap<u64, u64>,
    /// How many writes have been answered...
    answers: u64,
    /// ...and how many of them had been when the last successful flush began.
    flushed_answers: u64,
}

/// What a flush has to do, and may claim when it has done it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FlushPlan {
    /// Chunk servers to flush, with the last write that each one's flush covers.
    pub(crate) servers: Vec<(u64, u64)>,
    /// All lower writes are stable afterwards.
    pub(crate) covers: u64,
    /// Every write issued so far is below.
    pub(crate) upto: u64,
    /// How many writes had been answered.
    pub(crate) answers: u64,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self {
            next: 1,
            open: BTreeMap::new(),
            landed: BTreeMap::new(),
            stable: 1,
            dirty: BTreeMap::new(),
            answers: 0,
            flushed_answers: 0,
        }
    }

    /// A number for a new write: a caller's to a chunk, or what settles one.
    pub(crate) fn issue(&mut self, chunk: Option<u64>) -> u64 {
        let seq = self.next;
        self.next += 1;
        self.open.insert(seq, chunk);
        seq
    }

    /// Whether a caller's write to a chunk is on its way.
    pub(crate) fn writes_to(&self, chunk: u64) -> bool {
        self.landed.contains_key(&chunk) || self.open.values().any(|to| *to == Some(chunk))
    }

    /// A part of a write that grows the file is there: the file's size does not tell yet.
    pub(crate) fn land(&mut self, chunk: u64) {
        *self.landed.entry(chunk).or_insert(0) += 1;
    }

    /// The whole write is over.
    pub(crate) fn leave(&mut self, chunk: u64) {
        let Some(count) = self.landed.get_mut(&chunk) else { return };
        *count -= 1;
        if *count == 0 {
            self.landed.remove(&chunk);
        }
    }

    /// Whether any number has been given out.
    pub(crate) fn has_issued(&self) -> bool {
        self.next > 1
    }

    /// Notes that a write may have reached `server`.
    pub(crate) fn touch(&mut self, server: u64, seq: u64) {
        let last = self.dirty.entry(server).or_insert(seq);
        *last = (*last).max(seq);
    }

    /// Notes that a write has been answered.
    pub(crate) fn answered(&mut self, seq: u64) {
        self.open.remove(&seq);
        self.answers += 1;
    }

    /// How many writes have been answered.
    pub(crate) fn answers(&self) -> u64 {
        self.answers
    }

    /// Whether the first `answers` writes that were answered have been flushed wherever they are. Those that are still on
    /// their way do not count: nobody has been told of them.
    pub(crate) fn has_flushed(&self, answers: u64) -> bool {
        self.flushed_answers >= answers
    }

    /// All lower numbers have been answered.
    pub(crate) fn done(&self) -> u64 {
        self.open.first_key_value().map_or(self.next, |(seq, _)| *seq)
    }

    /// Writes that were issued and are not answered, or never will be.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = u64> {
        self.open.keys().copied()
    }

    /// All lower numbers are stable.
    pub(crate) fn stable(&self) -> u64 {
        self.stable
    }

    /// What a flush that begins now has to do. A server that a write is still on its way to is flushed as well: what
    /// had been answered before is there.
    pub(crate) fn plan(&self) -> FlushPlan {
        FlushPlan {
            servers: self.dirty.iter().map(|(&server, &last)| (server, last)).collect(),
            covers: self.done(),
            upto: self.next,
            answers: self.answers,
        }
    }

    /// Notes that every server of the plan has been flushed.
    pub(crate) fn flushed(&mut self, plan: &FlushPlan) {
        self.stable = self.stable.max(plan.covers);
        self.flushed_answers = self.flushed_answers.max(plan.answers);
        for &(server, last) in &plan.servers {
            // Writes issued since keep the server dirty; so do those still open when the flush began.
            if self.dirty.get(&server) == Some(&last) && last < plan.covers {
                self.dirty.remove(&server);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermarks_follow_the_oldest_open_write() {
        let mut window = Window::new();
        let (a, b, c) = (window.issue(None), window.issue(None), window.issue(None));
        assert_eq!((a, b, c), (1, 2, 3));
        window.answered(b);
        assert_eq!(window.done(), 1);
        window.answered(a);
        assert_eq!(window.done(), 3);
        window.answered(c);
        assert_eq!(window.done(), 4);
    }

    #[test]
    fn a_chunk_is_written_to_until_the_last_write_is_over() {
        let mut window = Window::new();
        assert!(!window.writes_to(7));
        let (a, b) = (window.issue(Some(7)), window.issue(None));
        assert!(window.writes_to(7) && !window.writes_to(8));
        window.land(7);
        window.answered(a);
        window.land(7);
        assert!(window.writes_to(7));
        window.leave(7);
        assert!(window.writes_to(7));
        window.leave(7);
        assert!(!window.writes_to(7), "{b} settles");
    }

    #[test]
    fn a_flush_claims_only_what_was_answered_when_it_began() {
        let mut window = Window::new();
        let (a, b) = (window.issue(None), window.issue(None));
        window.touch(10, a);
        window.touch(11, b);
        window.answered(a);
        let plan = window.plan();
        assert_eq!(plan, FlushPlan { servers: vec![(10, 1), (11, 2)], covers: 2, upto: 3, answers: 1 });
        window.answered(b);
        window.flushed(&plan);
        assert_eq!(window.stable(), 2);
        assert_eq!(window.plan().servers, [(11, 2)], "b was open when the flush began");
        let plan = window.plan();
        window.flushed(&plan);
        assert_eq!(window.stable(), 3);
        assert!(window.plan().servers.is_empty());
    }

    #[test]
    fn a_flush_speaks_for_all_that_was_answered_when_it_began_and_for_nothing_else() {
        let mut window = Window::new();
        let (a, b, c) = (window.issue(None), window.issue(None), window.issue(None));
        for seq in [a, b, c] {
            window.touch(10, seq);
        }
        assert!(window.has_flushed(window.answers()), "nobody has been told of anything");
        // Out of order: the oldest one is still open.
        window.answered(b);
        let early = window.plan();
        window.answered(c);
        let late = window.plan();
        assert!(!window.has_flushed(1));
        // The later one ends first.
        window.flushed(&late);
        assert!(
            window.has_flushed(window.answers()),
            "both are flushed, though `stable` waits for the first"
        );
        window.flushed(&early);
        assert!(window.has_flushed(2));
        assert_eq!(window.stable(), 1);
        window.answered(a);
        assert!(!window.has_flushed(window.answers()), "it may have come after the flush");
        assert_eq!(window.plan().servers, [(10, 3)]);
    }

    #[test]
    fn a_write_during_a_flush_keeps_its_server_dirty() {
        let mut window = Window::new();
        let a = window.issue(None);
        window.touch(10, a);
        window.answered(a);
        let plan = window.plan();
        let b = window.issue(None);
        window.touch(10, b);
        window.answered(b);
        window.flushed(&plan);
        assert_eq!(window.plan().servers, [(10, 2)]);
        assert_eq!(window.stable(), 2);
    }
}
