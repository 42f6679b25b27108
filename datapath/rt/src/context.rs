//! The executor running on this thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::mailbox::Inbox;
use crate::random::Rng;
use crate::task::Tasks;
use crate::timers::Timers;
use crate::{sim, uring};

/// What carries the I/O of an executor.
pub(crate) enum Driver {
    Uring(uring::Ring),
    Sim(Rc<sim::World>),
}

/// Everything one executor owns.
pub(crate) struct Core {
    pub(crate) tasks: Tasks,
    pub(crate) timers: RefCell<Timers>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) rng: RefCell<Rng>,
    pub(crate) driver: Driver,
}

impl Core {
    pub(crate) fn now_nanos(&self) -> u64 {
        match &self.driver {
            Driver::Uring(ring) => ring.now_nanos(),
            Driver::Sim(world) => world.local_nanos(self.tasks.owner.get()),
        }
    }

    /// What timers are ordered by, for a point on the clock of whoever runs.
    pub(crate) fn timer_at(&self, nanos: u64) -> u64 {
        match &self.driver {
            Driver::Uring(_) => nanos,
            Driver::Sim(world) => world.world_nanos(self.tasks.owner.get(), nanos),
        }
    }

    pub(crate) fn wall_clock_ms(&self) -> u64 {
        match &self.driver {
            Driver::Uring(_) => uring::wall_clock_ms(),
            Driver::Sim(world) => world.wall_clock_ms(self.tasks.owner.get()),
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

/// Runs `f` on this thread's executor.
///
/// # Panics
/// When there is none: a bug of the caller.
pub(crate) fn with<T>(f: impl FnOnce(&Core) -> T) -> T {
    try_with(f).expect("called outside an executor of datapath-rt")
}

/// Runs `f` on this thread's executor, if there is one.
pub(crate) fn try_with<T>(f: impl FnOnce(&Core) -> T) -> Option<T> {
    try_with_rc(|core| f(core))
}

/// As [`try_with`], but keeps no borrow of the thread's slot while `f` runs.
pub(crate) fn try_with_rc<T>(f: impl FnOnce(&Rc<Core>) -> T) -> Option<T> {
    // `try_with` because destructors of other thread-locals may run after this one is gone.
    CURRENT.try_with(|current| current.try_borrow().ok().and_then(|core| core.as_ref().map(f))).ok().flatten()
}

/// Makes `core` the executor of this thread for as long as the guard lives.
pub(crate) fn enter(core: Rc<Core>) -> Entered {
    CURRENT.with(|current| {
        let mut current = current.borrow_mut();
        assert!(current.is_none(), "an executor is already running on this thread");
        *current = Some(core);
    });
    Entered(())
}

/// Guard of [`enter`].
pub(crate) struct Entered(());

impl Drop for Entered {
    fn drop(&mut self) {
        let core = CURRENT.with(|current| current.borrow_mut().take());
        drop(core);
    }
}
