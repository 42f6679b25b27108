//! What a server remembers of a file: its fence, the writes already done, the writes not yet stable.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use rt::sync::Notify;

use super::chunk::extents;
use super::{SEQ_WINDOW, UNSTABLE_MAX, UNSTABLE_SOON};

/// A write that may not be on every member's stable storage (C5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unstable {
    /// The chunk.
    pub chunk: u64,
    /// First block.
    pub first: u32,
    /// Blocks.
    pub count: u32,
}

impl Unstable {
    /// Its blocks.
    #[must_use]
    pub fn blocks(&self) -> Range<u32> {
        self.first..self.first + self.count
    }
}

/// The writes of the current lease epoch (C11).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The epoch.
    pub epoch: u64,
    /// All lower sequence numbers have been answered.
    pub done: u64,
    /// Those at or above `done` that have been carried out here.
    pub outcomes: BTreeSet<u64>,
}

/// Orders unstable writes by epoch, sequence number, chunk and first block.
type UnstableKey = (u64, u64, u64, u32);

/// Unstable writes of all files, for the bound of them all.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Writes.
    pub(crate) writes: Cell<usize>,
    /// Files that have any.
    pub(crate) files: Cell<usize>,
}

/// State of one file.
#[derive(Debug)]
pub struct FileState {
    /// The file.
    pub file: u64,
    /// Lower epochs are refused.
    fence: Cell<u64>,
    /// The highest fence that is durable and had nothing below it under way any more.
    fenced: Cell<u64>,
    session: RefCell<Session>,
    unstable: RefCell<BTreeMap<UnstableKey, Unstable>>,
    totals: Rc<Totals>,
    /// Those of the current epoch; older ones go only when somebody settles them and must not stop the writer.
    unstable_current: Cell<usize>,
    /// All lower sequence numbers of the session are stable on all members.
    stable: Cell<u64>,
    /// Epoch and `done` of the first request since the server started.
    resumed: Cell<Option<(u64, u64)>>,
    /// Writes of lower epochs are stable: the file was released in order.
    settled_before: Cell<u64>,
    /// No request with watermarks has come since the last round of questions about what is in doubt.
    quiet: Cell<bool>,
    /// Chunks of the file that are here.
    pub(crate) chunks: Cell<usize>,
    in_flight: RefCell<BTreeMap<u64, usize>>,
    idle: Notify,
    running: RefCell<BTreeSet<(u64, u64, u64)>>,
    pub(crate) finished: Notify,
}

/// What to do with a write that arrives (C11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Carry it out.
    New,
    /// It has been carried out: answer again.
    Repeat,
    /// Its first arrival is being carried out: wait for that.
    Running,
    /// It was answered long ago; a delayed duplicate must not touch anything.
    Answered {
        /// The watermark.
        done: u64,
    },
}

impl FileState {
    pub(crate) fn new(file: u64, totals: Rc<Totals>) -> Self {
        Self {
            file,
            fence: Cell::new(0),
            fenced: Cell::new(0),
            session: RefCell::default(),
            unstable: RefCell::default(),
            totals,
            unstable_current: Cell::new(0),
            stable: Cell::new(0),
            resumed: Cell::new(None),
            settled_before: Cell::new(0),
            quiet: Cell::new(false),
            chunks: Cell::new(0),
            in_flight: RefCell::default(),
            idle: Notify::new(),
            running: RefCell::default(),
            finished: Notify::new(),
        }
    }

    /// The lowest epoch that is not refused.
    pub fn fence(&self) -> u64 {
        self.fence.get().max(self.session.borrow().epoch)
    }

    /// The fence that was ordered, durable or not.
    pub fn ordered_fence(&self) -> u64 {
        self.fence.get()
    }

    /// The fence that is durable, with nothing older under way.
    pub(crate) fn completed_fence(&self) -> u64 {
        self.fenced.get()
    }

    /// Refuses lower epochs from now on.
    pub(crate) fn raise_fence(&self, epoch: u64) {
        self.fence.set(self.fence.get().max(epoch));
    }

    /// Notes that a fence is durable and drained.
    pub(crate) fn complete_fence(&self, epoch: u64) {
        self.fenced.set(self.fenced.get().max(epoch));
    }

    /// The writes of the current epoch.
    pub fn session(&self) -> Session {
        self.session.borrow().clone()
    }

    /// Epoch of the current session.
    pub(crate) fn epoch(&self) -> u64 {
        self.session.borrow().epoch
    }

    /// A request's watermarks: begins the session of `epoch` if it is new.
    pub(crate) fn advance(&self, epoch: u64, done: u64, stable: u64) {
        self.quiet.set(false);
        if self.resumed.get().is_none() {
            self.resumed.set(Some((epoch, done)));
        }
        self.replay(epoch, done, stable);
    }

    /// As [`FileState::advance`], for what the journal tells.
    pub(crate) fn replay(&self, epoch: u64, done: u64, stable: u64) {
        let mut session = self.session.borrow_mut();
        if epoch < session.epoch {
            return;
        }
        if epoch > session.epoch {
            *session = Session { epoch, ..Session::default() };
            self.stable.set(0);
            // A joiner may have taken over some of them before the writer came.
            let of_epoch = (epoch, 0, 0, 0)..=(epoch, u64::MAX, u64::MAX, u32::MAX);
            self.unstable_current.set(self.unstable.borrow().range(of_epoch).count());
        }
        if done > session.done {
            session.done = done;
            while session.outcomes.first().is_some_and(|&seq| seq < done) {
                session.outcomes.pop_first();
            }
        }
        drop(session);
        if stable > self.stable.get() {
            self.stable.set(stable);
            self.retain_unstable(|&(e, seq, ..)| e != epoch || seq >= stable);
        }
    }

    /// Decides what to do with a write to `chunk`.
    pub(crate) fn admit(&self, epoch: u64, seq: u64, chunk: u64) -> Admission {
        let session = self.session.borrow();
        if epoch == session.epoch {
            if seq < session.done {
                return Admission::Answered { done: session.done };
            }
            if session.outcomes.contains(&seq) {
                return Admission::Repeat;
            }
        }
        if self.running.borrow().contains(&(epoch, seq, chunk)) {
            return Admission::Running;
        }
        Admission::New
    }

    pub(crate) fn begin(&self, epoch: u64, seq: u64, chunk: u64) {
        self.running.borrow_mut().insert((epoch, seq, chunk));
    }

    pub(crate) fn end(&self, epoch: u64, seq: u64, chunk: u64) {
        self.running.borrow_mut().remove(&(epoch, seq, chunk));
        self.finished.notify_all();
    }

    /// Notes a write as carried out.
    pub(crate) fn done(&self, epoch: u64, seq: u64) {
        let mut session = self.session.borrow_mut();
        if epoch == session.epoch && seq >= session.done {
            session.outcomes.insert(seq);
        }
    }

    /// Forgets that a write was carried out: its data did not survive.
    pub(crate) fn undo(&self, epoch: u64, seq: u64) {
        let mut session = self.session.borrow_mut();
        if epoch == session.epoch {
            session.outcomes.remove(&seq);
        }
    }

    /// Notes a write as not yet stable.
    pub(crate) fn add_unstable(&self, epoch: u64, seq: u64, write: Unstable) {
        let current = self.session.borrow().epoch;
        if epoch == current && seq < self.stable.get() {
            return;
        }
        let key = (epoch, seq, write.chunk, write.first);
        let mut unstable = self.unstable.borrow_mut();
        let was_empty = unstable.is_empty();
        // Of one write after a crash first some blocks may have been listed, then all: those count.
        let count = unstable.get(&key).map_or(0, |known| known.count).max(write.count);
        if unstable.insert(key, Unstable { count, ..write }).is_none() {
            self.totals.writes.set(self.totals.writes.get() + 1);
            self.totals.files.set(self.totals.files.get() + usize::from(was_empty));
            self.unstable_current.set(self.unstable_current.get() + usize::from(epoch == current));
            rt::sim::gauge("cs.unstable-writes", self.unstable_current.get() as u64);
        }
    }

    fn retain_unstable(&self, keep: impl Fn(&UnstableKey) -> bool) {
        let current = self.session.borrow().epoch;
        let mut unstable = self.unstable.borrow_mut();
        if unstable.is_empty() {
            return;
        }
        let (mut gone, mut gone_current) = (0, 0);
        unstable.retain(|key, _| {
            let stays = keep(key);
            gone += usize::from(!stays);
            gone_current += usize::from(!stays && key.0 == current);
            stays
        });
        self.totals.writes.set(self.totals.writes.get() - gone);
        self.totals.files.set(self.totals.files.get() - usize::from(unstable.is_empty()));
        self.unstable_current.set(self.unstable_current.get() - gone_current);
    }

    /// Whether the writer may add another unstable write.
    pub(crate) fn has_room(&self) -> bool {
        self.unstable_current.get() < UNSTABLE_MAX
    }

    /// Whether the writer of the current epoch has nothing that a flush would make stable.
    pub(crate) fn is_stable(&self) -> bool {
        self.unstable_current.get() == 0
    }

    /// Whether the writer should flush soon.
    pub(crate) fn wants_flush(&self) -> bool {
        self.unstable_current.get() >= UNSTABLE_SOON
    }

    /// The unstable writes, with epoch and sequence number.
    pub fn unstable(&self) -> Vec<(u64, u64, Unstable)> {
        self.unstable.borrow().iter().map(|(&(epoch, seq, ..), &write)| (epoch, seq, write)).collect()
    }

    /// Calls `see` with epoch, sequence number and blocks of each unstable write of a chunk.
    pub(crate) fn for_each_unstable(&self, chunk: u64, mut see: impl FnMut(u64, u64, Range<u32>)) {
        for (&(epoch, seq, of, _), write) in &*self.unstable.borrow() {
            if of == chunk {
                see(epoch, seq, write.blocks());
            }
        }
    }

    /// Active extents that unstable writes touch, by chunk.
    pub(crate) fn unstable_extents(&self) -> BTreeSet<(u64, u32)> {
        let unstable = self.unstable.borrow();
        unstable.values().flat_map(|w| extents(&w.blocks()).map(|extent| (w.chunk, extent))).collect()
    }

    /// Voids unstable writes of a chunk with epochs up to `epoch`.
    pub(crate) fn clear_unstable(&self, chunk: u64, epoch: u64) {
        self.retain_unstable(|&(e, _, c, _)| c != chunk || e > epoch);
    }

    /// Voids unstable writes of a chunk whose replica begins to join: they count as never carried out here, so that one
    /// that is sent again is not taken for done.
    pub(crate) fn void_chunk(&self, chunk: u64) {
        self.for_each_unstable(chunk, |epoch, seq, _| self.undo(epoch, seq));
        self.clear_unstable(chunk, u64::MAX);
    }

    /// Epochs below `epoch` were released in order: what members list of them is stable. That says nothing of a chunk whose members
    /// may have settled without the replica here: there it counts as far as the epoch that `written` gives, in which a
    /// holder has written to it as to a member.
    pub(crate) fn forget_below(&self, epoch: u64, written: impl Fn(u64) -> u64) {
        self.settled_before.set(self.settled_before.get().max(epoch));
        self.retain_unstable(|&(e, _, chunk, _)| e >= epoch.min(written(chunk)));
    }

    /// A holder writes to a chunk for the first time in `epoch`: see [`Self::forget_below`].
    pub(crate) fn written(&self, chunk: u64, epoch: u64) {
        let settled = self.settled_before.get().min(epoch);
        self.retain_unstable(|&(e, _, c, _)| c != chunk || e >= settled);
    }

    /// The metadata server knows that writes of epochs below `below` are stable on all members of a chunk, of which the replica here is one.
    /// Whether that goes for all that a crash can have left in doubt; no epoch above `newest` had been granted by then.
    pub(crate) fn settle(&self, chunk: u64, below: u64, newest: u64) -> bool {
        // A writer that is there may have listed very many, none of them below.
        let is_listed = self.unstable.borrow().range(..(below, 0, 0, 0)).any(|(&(.., of, _), _)| of == chunk);
        if is_listed {
            self.retain_unstable(|&(e, _, c, _)| c != chunk || e >= below);
        }
        self.resumed.get().map_or(newest.max(self.fence()), |(epoch, _)| epoch) < below
    }

    /// Chunks with unstable writes that no writer settles soon: those of epochs that are over as far as the server knows, and all if it has
    /// not heard of the file since the last round.
    pub(crate) fn left_unstable(&self) -> BTreeSet<u64> {
        let is_quiet = self.quiet.get() || rt::sim::planted("settled-too-early");
        let current = if is_quiet { u64::MAX } else { self.fence() };
        self.unstable.borrow().range(..(current, 0, 0, 0)).map(|(&(.., chunk, _), _)| chunk).collect()
    }

    /// A round of questions about what is in doubt has ended.
    pub(crate) fn begin_quiet(&self) {
        self.quiet.set(true);
    }

    /// Whether a mark that recovery found, when the session had this epoch, no longer hides a write whose record was
    /// lost in the crash. Such a write is either sent again, and stable once the watermark has passed
    /// everything that could have been on its way then, or it belongs to an epoch that has been settled.
    ///
    /// The crash may have taken the session itself, so that it was of an epoch above the one known here, but not above
    /// that of the first request since. `written`: see [`Self::forget_below`].
    pub(crate) fn is_settled_since_start(&self, epoch: u64, written: u64) -> bool {
        let Some((resumed, done)) = self.resumed.get() else { return false };
        let settled_before = self.settled_before.get().min(written);
        let none_older = resumed == epoch || resumed <= settled_before;
        let sent_again =
            self.session.borrow().epoch == resumed && self.stable.get() >= done.saturating_add(SEQ_WINDOW);
        resumed < settled_before || (none_older && sent_again)
    }

    /// Forgets a deleted chunk.
    pub(crate) fn forget_chunk(&self, chunk: u64) {
        self.retain_unstable(|&(_, _, c, _)| c != chunk);
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.borrow().is_empty()
    }

    /// Counts a request of `epoch` as under way until the guard is dropped.
    pub(crate) fn enter(self: &Rc<Self>, epoch: u64) -> InFlight {
        *self.in_flight.borrow_mut().entry(epoch).or_insert(0) += 1;
        InFlight { state: Rc::clone(self), epoch }
    }

    /// Waits until no request with an epoch below `epoch` is under way (C2).
    pub(crate) async fn drained_below(&self, epoch: u64) {
        loop {
            let idle = self.idle.notified();
            let older = self.in_flight.borrow().range(..epoch).next().is_some();
            if !older {
                return;
            }
            idle.await;
        }
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct InFlight {
    state: Rc<FileState>,
    epoch: u64,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut in_flight = self.state.in_flight.borrow_mut();
        if let Some(count) = in_flight.get_mut(&self.epoch) {
            *count -= 1;
            if *count == 0 {
                in_flight.remove(&self.epoch);
            }
        }
        drop(in_flight);
        self.state.idle.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> FileState {
        FileState::new(1, Rc::default())
    }

    fn at(first: u32) -> Unstable {
        Unstable { chunk: 5, first, count: 1 }
    }

    #[test]
    fn what_was_done_is_not_done_again() {
        let file = file();
        file.advance(3, 10, 10);
        assert_eq!(file.admit(3, 9, 5), Admission::Answered { done: 10 });
        assert_eq!(file.admit(3, 10, 5), Admission::New);
        file.begin(3, 10, 5);
        assert_eq!(file.admit(3, 10, 5), Admission::Running);
        file.done(3, 10);
        file.end(3, 10, 5);
        assert_eq!(file.admit(3, 10, 5), Admission::Repeat);
        file.advance(3, 11, 10);
        assert_eq!(file.admit(3, 10, 5), Admission::Answered { done: 11 });
        file.advance(4, 1, 1);
        assert_eq!(file.admit(4, 10, 5), Admission::New, "another epoch counts anew");
        assert_eq!(file.fence(), 4);
    }

    #[test]
    fn the_list_of_unstable_writes_follows_the_watermark() {
        let totals = Rc::new(Totals::default());
        let file = FileState::new(1, Rc::clone(&totals));
        let total = &totals.writes;
        file.advance(3, 1, 1);
        for seq in 1..=4 {
            file.add_unstable(3, seq, at(seq as u32));
        }
        file.add_unstable(3, 4, at(4));
        assert_eq!((file.unstable().len(), total.get()), (4, 4));
        file.advance(3, 4, 3);
        assert_eq!(file.unstable(), [(3, 3, at(3)), (3, 4, at(4))]);
        file.add_unstable(3, 2, at(2));
        assert_eq!(total.get(), 2, "stable by the time it was noted");
        file.advance(4, 1, 1);
        file.add_unstable(4, 1, at(9));
        assert_eq!(
            (total.get(), file.unstable_current.get()),
            (3, 1),
            "older ones stay until they are settled"
        );
        file.clear_unstable(6, 3);
        assert_eq!(total.get(), 3);
        file.clear_unstable(5, 3);
        assert_eq!(file.unstable(), [(4, 1, at(9))]);
        file.forget_below(5, |_| u64::MAX);
        assert_eq!((total.get(), totals.files.get(), file.unstable_current.get()), (0, 0, 0));
    }

    #[test]
    fn what_is_voided_is_carried_out_when_it_comes_again() {
        let file = file();
        file.advance(5, 1, 1);
        for (seq, chunk) in [(1, 5), (2, 6)] {
            file.add_unstable(5, seq, Unstable { chunk, first: 0, count: 1 });
            file.done(5, seq);
        }
        file.void_chunk(5);
        assert_eq!((file.admit(5, 1, 5), file.admit(5, 2, 6)), (Admission::New, Admission::Repeat));
        assert_eq!(file.unstable().len(), 1);
    }

    #[test]
    fn what_was_taken_over_before_the_writer_came_counts() {
        let file = file();
        file.add_unstable(5, 3, at(1));
        file.add_unstable(4, 9, at(2));
        file.advance(5, 1, 1);
        assert!(!file.is_stable());
        file.advance(5, 4, 4);
        assert!(file.is_stable());
        assert_eq!(file.unstable(), [(4, 9, at(2))]);
    }

    #[test]
    fn old_unstable_writes_do_not_stop_a_new_writer() {
        let file = file();
        file.advance(1, 1, 1);
        for seq in 0..UNSTABLE_MAX as u64 {
            assert!(file.has_room());
            file.add_unstable(1, seq + 1, at(0));
        }
        assert!(!file.has_room() && file.wants_flush());
        file.advance(2, 1, 1);
        assert!(file.has_room() && !file.wants_flush());
    }

    #[test]
    fn marks_from_before_a_crash_stay_until_nothing_can_hide_under_them() {
        let file = file();
        file.replay(3, 5, 5);
        assert!(!file.is_settled_since_start(3, u64::MAX));
        file.advance(3, 10, 10);
        file.advance(3, 9 + SEQ_WINDOW, 9 + SEQ_WINDOW);
        assert!(!file.is_settled_since_start(3, u64::MAX));
        file.advance(3, 10 + SEQ_WINDOW, 10 + SEQ_WINDOW);
        assert!(file.is_settled_since_start(3, u64::MAX));
        file.advance(4, SEQ_WINDOW * 9, SEQ_WINDOW * 9);
        assert!(!file.is_settled_since_start(3, u64::MAX), "the session ended before it was known");
        file.forget_below(4, |_| u64::MAX);
        assert!(file.is_settled_since_start(3, u64::MAX));
    }

    #[test]
    fn c6_what_members_settled_among_themselves_stays_in_doubt_here() {
        let file = file();
        file.replay(3, 5, 5);
        let (here, away) = (5, 6);
        for chunk in [here, away] {
            file.add_unstable(3, 7, Unstable { chunk, first: 0, count: 1 });
        }
        // Epoch 4 has settled everything with whoever was a member then, and ended in order.
        file.advance(5, 1, 1);
        file.forget_below(5, |chunk| if chunk == here { 5 } else { 0 });
        let listed = || file.unstable().into_iter().map(|(.., write)| write.chunk).collect::<Vec<_>>();
        assert_eq!(listed(), [away]);
        file.advance(5, 1 + SEQ_WINDOW, 1);
        file.advance(5, 1 + SEQ_WINDOW, 1 + SEQ_WINDOW);
        assert!(file.is_settled_since_start(3, 5) && !file.is_settled_since_start(3, 0));
        // It was a member after all.
        file.written(away, 5);
        assert!(listed().is_empty());
    }

    #[test]
    fn c5_what_the_metadata_server_has_seen_settled_is_in_doubt_no_more() {
        let file = file();
        file.replay(3, 5, 5);
        let (cold, other) = (5, 6);
        for chunk in [cold, other] {
            file.add_unstable(3, 7, Unstable { chunk, first: 0, count: 1 });
        }
        let listed = || file.left_unstable().into_iter().collect::<Vec<_>>();
        assert!(listed().is_empty(), "its writer is there still");
        file.begin_quiet();
        assert_eq!(listed(), [cold, other], "or it is not");
        assert!(!file.settle(cold, 3, 2), "epoch 3 was granted, whoever says what");
        file.quiet.set(false);
        assert!(!file.settle(cold, 3, 3), "the crash was in epoch 3, or in a later one");
        assert!(
            !file.settle(cold, 3, 4) && !file.settle(cold, 4, 4),
            "nobody knows that it was not in epoch 4"
        );
        assert_eq!(file.unstable().len(), 1, "what is listed of epoch 3 is settled all the same");
        assert!(file.settle(cold, 5, 4), "and now that is settled, too");
        file.advance(4, 1, 1);
        assert_eq!(listed(), [other]);
        file.add_unstable(4, 2, Unstable { chunk: cold, first: 0, count: 1 });
        assert_eq!(listed(), [other]);
        file.raise_fence(5);
        assert_eq!(listed(), [cold, other], "epoch 4 is over");
        file.clear_unstable(cold, 4);
        assert!(!file.settle(other, 4, 4), "of epoch 4 something may be in doubt here");
        assert!(listed().is_empty() && file.settle(other, 5, 5));
    }

    #[test]
    fn a_crash_may_have_taken_all_that_was_known_of_the_newest_session() {
        let file = file();
        file.replay(3, 5, 5);
        // The writer of epoch 4 had begun before the crash; of its writes in place no record is left.
        file.advance(4, 7, 7);
        file.forget_below(4, |_| u64::MAX);
        assert!(!file.is_settled_since_start(3, u64::MAX), "epoch 3 ended in order, epoch 4 goes on");
        file.advance(4, 7 + SEQ_WINDOW, 7 + SEQ_WINDOW);
        assert!(
            file.is_settled_since_start(3, u64::MAX),
            "all that was on its way has been sent again and is stable"
        );

        let file = self::file();
        file.replay(3, 5, 5);
        file.advance(4, 7, 7);
        file.advance(4, 7 + SEQ_WINDOW, 7 + SEQ_WINDOW);
        assert!(!file.is_settled_since_start(3, u64::MAX), "epoch 3 was not released in order");
        file.advance(5, 1, 1);
        file.forget_below(5, |_| u64::MAX);
        assert!(file.is_settled_since_start(3, u64::MAX));
    }
}
