//! A signal that can be waited for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
struct Waiter {
    waker: RefCell<Option<Waker>>,
    notified: Cell<bool>,
}

/// Wakes waiting tasks. [`Notify::notify_one`] without a waiter is remembered once; [`Notify::notify_all`]
/// reaches those that wait now, and nobody later.
#[derive(Debug, Default)]
pub struct Notify {
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
    stored: Cell<bool>,
}

impl Notify {
    /// A signal nobody waits for.
    #[must_use]
    pub const fn new() -> Self {
        Self { waiters: RefCell::new(VecDeque::new()), stored: Cell::new(false) }
    }

    /// Wakes the task that has waited longest, or lets the next one through.
    pub fn notify_one(&self) {
        let waiter = self.waiters.borrow_mut().pop_front();
        match waiter {
            Some(waiter) => Self::wake(&waiter),
            None => self.stored.set(true),
        }
    }

    /// Wakes every task that waits now.
    pub fn notify_all(&self) {
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for waiter in waiters {
            Self::wake(&waiter);
        }
    }

    fn wake(waiter: &Waiter) {
        waiter.notified.set(true);
        let waker = waiter.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for a signal given after this call (or stored before it by [`Notify::notify_one`]): it counts from the
    /// call, not from the first poll, so a condition checked after it cannot be missed.
    pub fn notified(&self) -> Notified<'_> {
        let waiter = Rc::new(Waiter { waker: RefCell::new(None), notified: Cell::new(self.stored.take()) });
        if !waiter.notified.get() {
            self.waiters.borrow_mut().push_back(Rc::clone(&waiter));
        }
        Notified { notify: self, waiter, done: false }
    }
}

/// The future of [`Notify::notified`].
#[derive(Debug)]
#[must_use = "nothing waits until it is awaited"]
pub struct Notified<'a> {
    notify: &'a Notify,
    waiter: Rc<Waiter>,
    done: bool,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiter.notified.get() {
            self.done = true;
            return Poll::Ready(());
        }
        *self.waiter.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if self.waiter.notified.get() {
            // A signal meant for one task must not be lost with it.
            self.notify.notify_one();
        } else {
            self.notify.waiters.borrow_mut().retain(|waiter| !Rc::ptr_eq(waiter, &self.waiter));
        }
    }
}
