//! What a server remembers of a file: its fence, the writes already done, the writes not yet stable.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use rt::sync::Notify;

use super::{UNSTABLE_MAX, UNSTABLE_SOON};

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

/// State of one file.
#[derive(Debug)]
pub struct FileState {
    /// The file.
    pub file: u64,
    fence: Cell<u64>,
    session: RefCell<Session>,
    /// By epoch, sequence number, chunk and first block.
    unstable: RefCell<BTreeMap<(u64, u64, u64, u32), Unstable>>,
    stable: Cell<(u64, u64)>,
    in_flight: RefCell<BTreeMap<u64, usize>>,
    pub(crate) idle: Notify,
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
    pub(crate) fn new(file: u64) -> Self {
        Self {
            file,
            fence: Cell::new(0),
            session: RefCell::default(),
            unstable: RefCell::default(),
            stable: Cell::new((0, 0)),
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

    /// The fence that is recorded.
    pub fn recorded_fence(&self) -> u64 {
        self.fence.get()
    }

    /// Refuses lower epochs from now on.
    pub(crate) fn raise_fence(&self, epoch: u64) {
        self.fence.set(self.fence.get().max(epoch));
    }

    /// The writes of the current epoch.
    pub fn session(&self) -> Session {
        self.session.borrow().clone()
    }

    /// Begins the session of `epoch` if it is new, and moves its watermarks.
    pub(crate) fn advance(&self, epoch: u64, done: u64, stable: u64) {
        let mut session = self.session.borrow_mut();
        if epoch < session.epoch {
            return;
        }
        if epoch > session.epoch {
            *session = Session { epoch, ..Session::default() };
            self.stable.set((epoch, 0));
        }
        if done > session.done {
            session.done = done;
            session.outcomes = session.outcomes.split_off(&done);
        }
        if stable > self.stable.get().1 {
            self.stable.set((epoch, stable));
            let mut unstable = self.unstable.borrow_mut();
            let passed: Vec<_> = unstable.range((epoch, 0, 0, 0)..(epoch, stable, 0, 0)).map(|(&key, _)| key).collect();
            for key in passed {
                unstable.remove(&key);
            }
        }
    }

    /// Decides what to do with a write to `chunk`; a write that spans chunks has one sequence number per chunk's part.
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

    /// Notes a write as carried out and not yet stable.
    pub(crate) fn done(&self, epoch: u64, seq: u64, write: Unstable) {
        let mut session = self.session.borrow_mut();
        if epoch == session.epoch && seq >= session.done {
            session.outcomes.insert(seq);
        }
        drop(session);
        self.add_unstable(epoch, seq, write);
    }

    /// Forgets that a write was carried out: its data did not survive.
    pub(crate) fn undo(&self, epoch: u64, seq: u64) {
        let mut session = self.session.borrow_mut();
        if epoch == session.epoch {
            session.outcomes.remove(&seq);
        }
    }

    pub(crate) fn restore_outcome(&self, epoch: u64, seq: u64) {
        let mut session = self.session.borrow_mut();
        if epoch == session.epoch && seq >= session.done {
            session.outcomes.insert(seq);
        }
    }

    pub(crate) fn add_unstable(&self, epoch: u64, seq: u64, write: Unstable) {
        let (stable_epoch, stable) = self.stable.get();
        if epoch == stable_epoch && seq < stable {
            return;
        }
        self.unstable.borrow_mut().insert((epoch, seq, write.chunk, write.first), write);
    }

    /// Whether another unstable write fits.
    pub(crate) fn has_room(&self) -> bool {
        self.unstable.borrow().len() < UNSTABLE_MAX
    }

    /// Whether the client should flush soon.
    pub(crate) fn wants_flush(&self) -> bool {
        self.unstable.borrow().len() >= UNSTABLE_SOON
    }

    /// The unstable writes, with epoch and sequence number.
    pub fn unstable(&self) -> Vec<(u64, u64, Unstable)> {
        self.unstable.borrow().iter().map(|(&(epoch, seq, ..), &write)| (epoch, seq, write)).collect()
    }

    pub(crate) fn is_unstable(&self, chunk: u64, blocks: &std::ops::Range<u32>) -> bool {
        let unstable = self.unstable.borrow();
        unstable.values().any(|w| w.chunk == chunk && w.first < blocks.end && blocks.start < w.first + w.count)
    }

    /// Voids unstable writes of a chunk with epochs up to `epoch`.
    pub(crate) fn clear_unstable(&self, chunk: u64, epoch: u64) {
        self.unstable.borrow_mut().retain(|&(e, _, c, _), _| c != chunk || e > epoch);
    }

    /// Voids unstable writes of epochs below `epoch`: the file was released cleanly, all of them are stable.
    pub(crate) fn forget_below(&self, epoch: u64) {
        self.unstable.borrow_mut().retain(|&(e, ..), _| e >= epoch);
    }

    /// Forgets a deleted chunk.
    pub(crate) fn forget_chunk(&self, chunk: u64) {
        self.unstable.borrow_mut().retain(|&(_, _, c, _), _| c != chunk);
    }

    /// Counts a request of `epoch` as under way until the guard is dropped.
    pub(crate) fn enter(self: &std::rc::Rc<Self>, epoch: u64) -> InFlight {
        *self.in_flight.borrow_mut().entry(epoch).or_insert(0) += 1;
        InFlight { state: std::rc::Rc::clone(self), epoch }
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
    state: std::rc::Rc<FileState>,
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
