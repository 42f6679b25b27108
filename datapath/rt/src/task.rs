//! Tasks: the run queue of one executor.
//!
//! A task belongs to the thread that spawned it and is polled there only. Wakers may travel: a wake from another
//! thread goes through a lock-free inbox and, if the executor sleeps, its eventfd.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::context;
use crate::mailbox::Inbox;

/// Names a task of one executor; never reused while a waker for it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskId {
    slot: u32,
    generation: u32,
}

impl TaskId {
    /// Both parts in one word, for the trace of a simulation.
    pub(crate) fn word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }
}

/// The simulated process a task belongs to; always zero outside the simulator.
pub(crate) type Owner = u32;

struct TaskWaker {
    id: TaskId,
    /// Set while the task is in a run queue, so that it is there once.
    queued: AtomicBool,
    inbox: Arc<Inbox>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let local = context::try_with(|core| {
            let here = Arc::ptr_eq(&core.inbox, &self.inbox);
            if here {
                core.tasks.ready.borrow_mut().push_back(self.id);
            }
            here
        });
        if local != Some(true) {
            self.inbox.wake_task(self.id);
        }
    }
}

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

enum Body {
    /// Waiting to be polled.
    Idle(LocalFuture),
    /// Being polled right now.
    Running,
    /// Being polled right now, and to be dropped afterwards.
    Aborted,
}

struct Task {
    body: Body,
    waker: Arc<TaskWaker>,
    owner: Owner,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    task: Option<Task>,
}

/// Every task of one executor.
pub(crate) struct Tasks {
    slots: RefCell<Vec<Slot>>,
    vacant: RefCell<Vec<u32>>,
    pub(crate) ready: RefCell<VecDeque<TaskId>>,
    /// Owner of the task being polled; inherited by what it spawns.
    pub(crate) owner: Cell<Owner>,
    count: Cell<usize>,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Self {
            slots: RefCell::default(),
            vacant: RefCell::default(),
            ready: RefCell::default(),
            owner: Cell::new(0),
            count: Cell::new(0),
        }
    }

    /// Tasks that have not ended.
    pub(crate) fn count(&self) -> usize {
        self.count.get()
    }

    fn insert(&self, future: LocalFuture, owner: Owner, inbox: &Arc<Inbox>) -> TaskId {
        let mut slots = self.slots.borrow_mut();
        let slot = self.vacant.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot::default());
            u32::try_from(slots.len() - 1).expect("fewer than 2^32 tasks")
        });
        let entry = &mut slots[slot as usize];
        let id = TaskId { slot, generation: entry.generation };
        let waker = Arc::new(TaskWaker { id, queued: AtomicBool::new(true), inbox: Arc::clone(inbox) });
        entry.task = Some(Task { body: Body::Idle(future), waker, owner });
        self.count.set(self.count.get() + 1);
        self.ready.borrow_mut().push_back(id);
        id
    }

    /// The owner of a task, unless it has ended.
    pub(crate) fn owner_of(&self, id: TaskId) -> Option<Owner> {
        let slots = self.slots.borrow();
        let slot = slots.get(id.slot as usize)?;
        (slot.generation == id.generation).then(|| slot.task.as_ref().map(|task| task.owner)).flatten()
    }

    /// Polls one task that was taken from the ready queue.
    pub(crate) fn poll(&self, id: TaskId) {
        let (mut future, waker) = {
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.get_mut(id.slot as usize) else { return };
            if slot.generation != id.generation {
                return;
            }
            let Some(task) = &mut slot.task else { return };
            task.waker.queued.store(false, Ordering::Release);
            let Body::Idle(future) = std::mem::replace(&mut task.body, Body::Running) else {
                unreachable!("a task is polled by its executor only, once at a time");
            };
            self.owner.set(task.owner);
            (future, Waker::from(Arc::clone(&task.waker)))
        };
        let outcome = future.as_mut().poll(&mut Context::from_waker(&waker));
        if outcome.is_pending() {
            let mut slots = self.slots.borrow_mut();
            if let Some(task) = &mut slots[id.slot as usize].task
                && matches!(task.body, Body::Running)
            {
                task.body = Body::Idle(future);
                return;
            }
        }
        self.remove(id);
        drop(future);
    }

    fn remove(&self, id: TaskId) -> Option<Task> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(id.slot as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let task = slot.task.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.vacant.borrow_mut().push(id.slot);
        self.count.set(self.count.get() - 1);
        Some(task)
    }

    fn abort(&self, id: TaskId) {
        {
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.get_mut(id.slot as usize) else { return };
            if slot.generation != id.generation {
                return;
            }
            let Some(task) = &mut slot.task else { return };
            if !matches!(task.body, Body::Idle(_)) {
                task.body = Body::Aborted;
                return;
            }
        }
        // Dropped outside the borrow: destructors may wake, spawn and abort.
        drop(self.remove(id));
    }

    /// Ends every task of `owner` on the spot, as a kill does; gives how many there were.
    pub(crate) fn abort_owner(&self, owner: Owner) -> usize {
        let victims: Vec<TaskId> = {
            let slots = self.slots.borrow();
            let owned = slots
                .iter()
                .enumerate()
                .filter(|(_, slot)| slot.task.as_ref().is_some_and(|t| t.owner == owner));
            owned.map(|(index, slot)| TaskId { slot: index as u32, generation: slot.generation }).collect()
        };
        for id in &victims {
            self.abort(*id);
        }
        victims.len()
    }

    /// Drops every task after one of them panicked. What they share may be in disorder, so a destructor that panics
    /// in turn takes along no more than its own task.
    pub(crate) fn clear_after_panic(&self) {
        loop {
            let slots = std::mem::take(&mut *self.slots.borrow_mut());
            self.vacant.borrow_mut().clear();
            self.ready.borrow_mut().clear();
            self.count.set(0);
            if slots.is_empty() {
                return;
            }
            // Destructors may spawn; hence the loop.
            for slot in slots {
                let dropped = std::panic::catch_unwind(AssertUnwindSafe(move || drop(slot)));
                drop(dropped);
            }
        }
    }

    /// Ends every task.
    pub(crate) fn abort_all(&self) {
        loop {
            let victims: Vec<TaskId> = {
                let slots = self.slots.borrow();
                let live = slots.iter().enumerate().filter(|(_, slot)| slot.task.is_some());
                live.map(|(index, slot)| TaskId { slot: index as u32, generation: slot.generation }).collect()
            };
            if victims.is_empty() {
                return;
            }
            for id in victims {
                self.abort(id);
            }
        }
    }
}

/// Why a task gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The task was aborted, or its executor has ended.
    #[error("task was aborted")]
    Aborted,
}

struct Join<T> {
    result: Option<T>,
    waker: Option<Waker>,
    ended: bool,
}

/// Marks the end of a task even when its future is dropped before it is ready.
struct Ending<T>(Rc<RefCell<Join<T>>>);

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        let waker = {
            let mut join = self.0.borrow_mut();
            join.ended = true;
            join.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What a task runs. Not an `async` block, which would hold the future twice: as it came and as it is polled. The futures
/// of requests are large, and one is made for each.
struct Work<F: Future> {
    // Dropped before the end is told.
    future: F,
    ending: Ending<F::Output>,
}

impl<F: Future> Future for Work<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `future` stays where it is: nothing moves out of it, `Work` has no `Drop` of its own, and it is `Unpin`
        // only where `F` is. `ending` is never pinned.
        let (future, ending) = unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.future), &this.ending)
        };
        future.poll(cx).map(|output| ending.0.borrow_mut().result = Some(output))
    }
}

/// The result of a task to come. Dropping it leaves the task running.
pub struct JoinHandle<T> {
    join: Rc<RefCell<Join<T>>>,
    id: TaskId,
    inbox: Arc<Inbox>,
}

impl<T> std::fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinHandle").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<T> JoinHandle<T> {
    /// Drops the task's future at its next await point; operations under way keep their buffers.
    pub fn abort(&self) {
        context::try_with_rc(|core| {
            if Arc::ptr_eq(&core.inbox, &self.inbox) {
                core.tasks.abort(self.id);
            }
        });
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.join.borrow().ended
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut join = self.join.borrow_mut();
        if let Some(result) = join.result.take() {
            return Poll::Ready(Ok(result));
        }
        if join.ended {
            return Poll::Ready(Err(JoinError::Aborted));
        }
        join.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Starts a task on this thread's executor.
///
/// # Panics
/// When called outside an executor.
#[inline]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    let owner = context::with(|core| core.tasks.owner.get());
    spawn_owned(owner, future)
}

#[inline]
pub(crate) fn spawn_owned<F>(owner: Owner, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    let join = Rc::new(RefCell::new(Join { result: None, waker: None, ended: false }));
    let work = Box::pin(Work { future, ending: Ending(Rc::clone(&join)) });
    enqueue(owner, work, join)
}

/// Apart from [`spawn_owned`], so that a future is put into its box where it is made.
fn enqueue<T>(owner: Owner, work: LocalFuture, join: Rc<RefCell<Join<T>>>) -> JoinHandle<T> {
    let (id, inbox) =
        context::with(|core| (core.tasks.insert(work, owner, &core.inbox), Arc::clone(&core.inbox)));
    JoinHandle { join, id, inbox }
}

/// Lets every other ready task run once.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
