//! The scheduler: which task runs next, and what happens in between.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::disk::nanos;
use super::event::Event;
use super::host::Life;
use super::world::World;
use super::{SimFailure, SimOptions};
use crate::context::{self, Core, Driver};
use crate::mailbox::Inbox;
use crate::random::Rng;
use crate::task::{self, JoinHandle, Owner, TaskId, Tasks};

/// A world and its run.
pub struct Simulation {
    core: Rc<Core>,
    world: Rc<World>,
    ran: bool,
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation").field("seed", &self.world.options.seed).finish_non_exhaustive()
    }
}

impl Simulation {
    /// An empty world.
    #[must_use]
    pub fn new(options: SimOptions) -> Self {
        let world = World::new(options);
        let seed = world.rng.borrow_mut().next_u64();
        let core = Core {
            tasks: Tasks::new(),
            timers: RefCell::default(),
            inbox: Inbox::new(None),
            rng: RefCell::new(Rng::from_seed(seed)),
            driver: Driver::Sim(Rc::clone(&world)),
        };
        Self { core: Rc::new(core), world, ran: false }
    }

    /// Runs the controller to its end, then ends every process.
    ///
    /// # Errors
    /// [`SimFailure`], when the controller does not come to an end.
    ///
    /// # Panics
    /// With the panic of any task, after printing seed and virtual time; when called twice, or on a thread with an
    /// executor.
    pub fn run<F>(&mut self, controller: F) -> Result<F::Output, SimFailure>
    where
        F: Future + 'static,
    {
        assert!(!std::mem::replace(&mut self.ran, true), "a world runs once");
        let _entered = context::enter(Rc::clone(&self.core));
        self.core.tasks.owner.set(0);
        let mut main = std::pin::pin!(task::spawn(controller));
        // Caught here and not while it unwinds: the tasks that are left are dropped in good order, whatever their
        // destructors do.
        match std::panic::catch_unwind(AssertUnwindSafe(|| self.drive(main.as_mut()))) {
            Ok(result) => {
                self.core.tasks.abort_all();
                result
            }
            Err(panic) => {
                self.report_panic();
                self.core.tasks.clear_after_panic();
                std::panic::resume_unwind(panic)
            }
        }
    }

    /// Runs until the controller has ended.
    fn drive<T>(&self, mut main: Pin<&mut JoinHandle<T>>) -> Result<T, SimFailure> {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            self.settle();
            if main.is_finished() {
                let Poll::Ready(Ok(output)) = main.as_mut().poll(&mut cx) else {
                    unreachable!("nobody aborts the controller")
                };
                return Ok(output);
            }
            self.step()?;
        }
    }

    /// Says where the run was when a task panicked.
    fn report_panic(&self) {
        let world = &self.world;
        let owner = self.core.tasks.owner.get();
        let process =
            world.processes.try_borrow().ok().and_then(|all| all.get(owner as usize).map(|p| p.name.clone()));
        eprintln!(
            "simulation of seed {} panicked at {:?} of virtual time, in process {}",
            world.options.seed,
            world.elapsed(),
            process.as_deref().unwrap_or("?"),
        );
    }

    /// A number that stands for everything that has happened; it does not depend on whether lines are kept.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.world.trace.borrow().hash()
    }

    /// The lines of the trace, if they are kept.
    #[must_use]
    pub fn trace_lines(&self) -> Vec<String> {
        self.world.trace.borrow().lines().to_vec()
    }

    /// How often each fault happened and each [`super::hit`] was reached.
    #[must_use]
    pub fn coverage(&self) -> BTreeMap<&'static str, u64> {
        self.world.coverage()
    }

    /// The longest that each queue was that tells its length by [`super::gauge`].
    #[must_use]
    pub fn gauges(&self) -> BTreeMap<&'static str, u64> {
        self.world.gauges()
    }

    /// Virtual time since the world began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.world.elapsed()
    }

    /// Polls and events so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.world.steps.get()
    }

    /// Sorts what has become ready into the queues of its processes, and clears away processes that have ended.
    fn settle(&self) {
        loop {
            self.collect();
            let ended = self.world.ended.borrow_mut().pop();
            match ended {
                Some(owner) => self.world.end_process(&self.core, owner, false),
                None => return,
            }
        }
    }

    fn collect(&self) {
        while let Some(id) = self.core.inbox.pop_task() {
            self.core.tasks.ready.borrow_mut().push_back(id);
        }
        let mut ready = self.core.tasks.ready.borrow_mut();
        if ready.is_empty() {
            return;
        }
        let mut processes = self.world.processes.borrow_mut();
        let mut runnable = self.world.runnable.borrow_mut();
        for id in ready.drain(..) {
            let Some(owner) = self.core.tasks.owner_of(id) else { continue };
            let process = &mut processes[owner as usize];
            process.next.push(id);
            if !process.listed && process.life != Life::Paused {
                process.listed = true;
                runnable.push(owner);
            }
        }
    }

    /// One poll or one event, or a jump of the clock to the next one.
    fn step(&self) -> Result<(), SimFailure> {
        let world = &self.world;
        let steps = world.steps.get() + 1;
        world.steps.set(steps);
        let (seed, now) = (world.options.seed, world.elapsed());
        if steps > world.options.steps_max {
            return Err(SimFailure::StepLimit { seed, now, steps });
        }
        if now > world.options.time_max {
            return Err(SimFailure::TimeLimit { seed, now });
        }
        if self.fire() {
            return Ok(());
        }
        if let Some((owner, id)) = self.pick() {
            self.poll(owner, id);
            return Ok(());
        }
        let next =
            self.next_at().ok_or(SimFailure::Deadlock { seed, now, tasks: self.core.tasks.count() })?;
        world.set_now(next);
        Ok(())
    }

    fn next_at(&self) -> Option<u64> {
        let timer = self.core.timers.borrow_mut().next_deadline();
        let event = self.world.events.borrow().next_at();
        timer.into_iter().chain(event).min()
    }

    /// Lets what is due happen; false if nothing is.
    fn fire(&self) -> bool {
        let now = self.world.now_nanos();
        let event = self.world.events.borrow_mut().pop_due(now);
        if let Some(event) = event {
            let (kind, key) = event.words();
            self.world.fold(now);
            self.world.fold(kind << 56 ^ key);
            self.happen(event);
            return true;
        }
        let timer = self.core.timers.borrow_mut().pop_due(now);
        let Some(waker) = timer else { return false };
        self.world.fold(now);
        waker.wake();
        true
    }

    fn happen(&self, event: Event) {
        let world = &*self.world;
        match event {
            Event::Operation(key) => world.finish(key),
            Event::Deliver { conn, from } => world.net.borrow_mut().deliver(world, conn, from),
            Event::Reset { conn, end } => world.net.borrow_mut().reset(conn, end),
            Event::Close { conn, end } => world.net.borrow_mut().close_orphan(world, conn, end),
            Event::Request(key) => world.net.borrow_mut().request(world, key),
            Event::Answer(key) => world.net.borrow_mut().answer(key),
        }
    }

    /// Draws the next task to run.
    fn pick(&self) -> Option<(Owner, TaskId)> {
        let mut runnable = self.world.runnable.borrow_mut();
        let mut processes = self.world.processes.borrow_mut();
        let mut rng = self.world.rng.borrow_mut();
        while !runnable.is_empty() {
            let at = if runnable.len() == 1 { 0 } else { rng.below(runnable.len() as u64) as usize };
            let owner = runnable[at];
            let process = &mut processes[owner as usize];
            if process.round.is_empty() {
                std::mem::swap(&mut process.round, &mut process.next);
            }
            if process.round.is_empty() || process.life == Life::Paused {
                process.listed = false;
                runnable.swap_remove(at);
                continue;
            }
            let count = process.round.len();
            let next = if count == 1 { 0 } else { rng.below(count as u64) as usize };
            return Some((owner, process.round.swap_remove(next)));
        }
        None
    }

    fn poll(&self, owner: Owner, id: TaskId) {
        let world = &self.world;
        world.fold(world.now_nanos());
        world.fold(u64::from(owner) << 32 ^ id.word());
        self.core.tasks.poll(id);
        self.core.tasks.owner.set(0);
        let cost = world.rng.borrow_mut().below(nanos(world.options.poll_cost) + 1);
        world.set_now(world.now_nanos() + cost);
    }
}
