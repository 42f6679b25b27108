//! The tasks that carry requests out.
//!
//! A connection keeps its tasks: a request costs no allocation for one, and as many exist as there have been
//! requests under way at once. The one that ended last goes first, so that a quiet client uses one.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use rt::sync::Notify;

/// Where one worker waits for its next job.
#[derive(Debug)]
pub(super) struct Seat<J> {
    job: RefCell<Option<J>>,
    ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl<J> Seat<J> {
    /// The next job; `None` when there will be no more.
    pub(super) async fn next(&self) -> Option<J> {
        poll_fn(|cx| {
            if let Some(job) = self.job.borrow_mut().take() {
                return Poll::Ready(Some(job));
            }
            if self.ended.get() {
                return Poll::Ready(None);
            }
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// The workers of one connection.
#[derive(Debug)]
pub(super) struct Workers<J> {
    idle: RefCell<Vec<Rc<Seat<J>>>>,
    busy: Cell<usize>,
    drained: Notify,
}

impl<J> Default for Workers<J> {
    fn default() -> Self {
        Self { idle: RefCell::default(), busy: Cell::new(0), drained: Notify::new() }
    }
}

impl<J> Workers<J> {
    /// Gives `job` to a worker; `start` starts one more if all are busy.
    pub(super) fn give(&self, job: J, start: impl FnOnce(Rc<Seat<J>>)) {
        self.busy.set(self.busy.get() + 1);
        if let Some(seat) = self.idle.borrow_mut().pop() {
            *seat.job.borrow_mut() = Some(job);
            seat.wake();
            return;
        }
        start(Rc::new(Seat {
            job: RefCell::new(Some(job)),
            ended: Cell::new(false),
            waker: RefCell::new(None),
        }));
    }

    /// Takes a worker back that has done its job.
    pub(super) fn done(&self, seat: &Rc<Seat<J>>) {
        self.idle.borrow_mut().push(Rc::clone(seat));
        self.busy.set(self.busy.get() - 1);
        if self.busy.get() == 0 {
            self.drained.notify_all();
        }
    }

    /// Waits until no job is under way, and ends the workers. No job may be given from now on.
    pub(super) async fn finish(&self) {
        while self.busy.get() > 0 {
            self.drained.notified().await;
        }
        for seat in self.idle.borrow_mut().drain(..) {
            seat.ended.set(true);
            seat.wake();
        }
    }
}
