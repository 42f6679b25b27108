//! What is in doubt after a crash, of this server or of a writer, and how the metadata server ends that for chunks that nobody writes to (C5).
//!
//! A holder's writes end the doubts of the chunks that it writes to (`FileState::forget_below`). Those of others end when the
//! metadata server says up to which epoch the file was settled while the replica here was a member: all that was acknowledged below is stable
//! on all members, so nothing of it is listed for a reason any more, and nothing of it hides under a mark.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::Engine;

/// A chunk of whose lower epochs nothing is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The chunk.
    pub chunk: u64,
    /// The version of which the replica here is a member.
    pub version: u64,
    /// What was written in lower epochs is stable on all members.
    pub below: u64,
    /// The highest epoch that was granted. None that was granted when this server crashed is above it.
    pub newest: u64,
}

impl Engine {
    /// Files and chunks of which something may be in doubt that no writer settles soon: from a pair on, ascending, at most so many.
    #[must_use]
    pub fn in_doubt(&self, from: (u64, u64), limit: usize) -> Vec<(u64, u64)> {
        let mut page = BTreeSet::new();
        let mut add = |pair| {
            if pair >= from && page.insert(pair) && page.len() > limit {
                page.pop_last();
            }
        };
        for (id, chunk) in &*self.marked.borrow() {
            if chunk.active.borrow().values().any(|mark| mark.suspect.is_some()) {
                add((chunk.file, *id));
            }
        }
        for (id, file) in self.files.borrow().range(from.0..) {
            file.left_unstable().into_iter().for_each(|chunk| add((*id, chunk)));
        }
        page.into_iter().collect()
    }

    /// All that is in doubt has been asked for: what nobody has asked for when this is done again is nobody's.
    pub fn begin_quiet(&self) {
        self.files.borrow().values().for_each(|file| file.begin_quiet());
    }

    /// Takes word that a chunk is settled. What is said of another version, or of a chunk that is in use just now, counts for nothing.
    pub fn settle(self: &Rc<Self>, settled: &Settled) {
        let Settled { chunk, version, mut below, newest } = *settled;
        if rt::sim::planted("settled-too-early") {
            below = u64::MAX;
        }
        let Some(chunk) = self.chunks.borrow().get(&chunk).map(Rc::clone) else { return };
        if chunk.is_joiner() || chunk.version.get() != version || !chunk.ranges.is_empty() {
            return;
        }
        if !self.file_state(chunk.file).settle(chunk.id, below, newest) {
            return;
        }
        let mut any = false;
        for mark in chunk.active.borrow_mut().values_mut() {
            any |= mark.suspect.take().is_some();
            mark.lost = false;
        }
        if any {
            rt::sim::hit("cs.doubt-settled");
            if !self.has_suspects() {
                // It notes the boot, which had to wait for this.
                self.checkpoint_wanted.notify_one();
            }
        }
    }
}
