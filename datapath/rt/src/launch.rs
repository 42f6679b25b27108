//! Starting an executor.

use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::context::{self, Core, Driver};
use crate::mailbox::Inbox;
use crate::random::{self, Rng};
pub use crate::start_error::{KernelVersion, StartError};
use crate::task::{self, Tasks};
use crate::uring::Ring;

/// Sizes of an executor.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// Entries of the submission queue.
    pub ring_entries: u32,
    /// Places in the table of registered files; files beyond it work unregistered.
    pub files_max: u32,
    /// Upper bound of the registered (pinned) buffer pool, in bytes; it grows in steps of 2 MiB as it is used.
    pub pool_bytes_max: usize,
    /// Provided receive buffers of 32 KiB each.
    pub recv_buffers: u16,
}

impl Default for ExecutorOptions {
    fn default() -> Self {
        Self { ring_entries: 512, files_max: 4096, pool_bytes_max: 128 << 20, recv_buffers: 64 }
    }
}

/// How long an executor that ends waits for peers to acknowledge what was sent without a copy.
const LINGER_NANOS: u64 = 500_000_000;

/// How many tasks run between two visits to the kernel.
const POLLS_PER_TURN: usize = 256;

/// A single-threaded executor on io_uring.
pub struct Executor {
    core: Rc<Core>,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("tasks", &self.core.tasks.count()).finish_non_exhaustive()
    }
}

impl Executor {
    /// Sets up the ring, its file table and its buffers.
    ///
    /// # Errors
    /// [`StartError`], which says what the operator can do.
    pub fn start(options: &ExecutorOptions) -> Result<Self, StartError> {
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC);
        let event = event.map_err(|error| StartError::from_setup(&error.into()))?;
        let inbox = Inbox::new(Some(event));
        let ring = Ring::start(options, std::sync::Arc::clone(&inbox))?;
        let mut seed = [0; 8];
        random::kernel_random(&mut seed);
        let core = Core {
            tasks: Tasks::new(),
            timers: std::cell::RefCell::default(),
            inbox,
            rng: std::cell::RefCell::new(Rng::from_seed(u64::from_le_bytes(seed))),
            driver: Driver::Uring(ring),
        };
        Ok(Self { core: Rc::new(core) })
    }

    /// Runs `main` to its end, then ends every other task.
    ///
    /// # Panics
    /// When an executor is running on this thread already, or with the panic of a task.
    pub fn run<F>(self, main: F) -> F::Output
    where
        F: Future + 'static,
    {
        let core = Rc::clone(&self.core);
        let entered = context::enter(Rc::clone(&core));
        let mut main = std::pin::pin!(task::spawn(main));
        let mut cx = Context::from_waker(Waker::noop());
        let output = loop {
            self.turn(|| main.is_finished());
            if let Poll::Ready(result) = main.as_mut().poll(&mut cx) {
                break result;
            }
        };
        core.tasks.abort_all();
        self.drain();
        drop(entered);
        match output {
            Ok(output) => output,
            Err(error) => unreachable!("nobody aborts the main task: {error}"),
        }
    }

    fn turn(&self, ended: impl Fn() -> bool) {
        let core = &*self.core;
        let Driver::Uring(ring) = &core.driver else { unreachable!("this executor runs on a ring") };
        while let Some(id) = core.inbox.pop_task() {
            core.tasks.ready.borrow_mut().push_back(id);
        }
        for _ in 0..POLLS_PER_TURN {
            let next = core.tasks.ready.borrow_mut().pop_front();
            let Some(id) = next else { break };
            core.tasks.poll(id);
        }
        let idle = core.tasks.ready.borrow().is_empty();
        ring.turn(idle && !ended(), &core.timers);
        let now = ring.now_nanos();
        while let Some(waker) = { core.timers.borrow_mut().pop_due(now) } {
            waker.wake();
        }
    }

    /// Waits for the operations of aborted tasks, whose buffers the kernel may still use. Those of sends that peers
    /// have not acknowledged are waited for a moment only, then leaked: such a peer may be dead.
    fn drain(&self) {
        let Driver::Uring(ring) = &self.core.driver else { unreachable!("this executor runs on a ring") };
        while ring.busy() {
            self.turn(|| false);
        }
        let until = ring.now_nanos() + LINGER_NANOS;
        self.core.timers.borrow_mut().insert(until, Waker::noop().clone());
        while ring.lingers() && ring.now_nanos() < until {
            self.turn(|| false);
        }
    }
}

/// Calls of `io_uring_enter(2)` by this executor so far.
#[must_use]
pub fn enters() -> u64 {
    context::with(|core| match &core.driver {
        Driver::Uring(ring) => ring.enters(),
        Driver::Sim(_) => 0,
    })
}
