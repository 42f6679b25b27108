//! A counted allowance: how much may be under way at once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
struct Waiter {
    wanted: u64,
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Debug)]
struct State {
    available: Cell<u64>,
    total: u64,
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
}

impl State {
    /// Serves waiters strictly in order, so that a large request is not starved by small ones.
    fn grant(&self) {
        loop {
            let next = {
                let mut waiters = self.waiters.borrow_mut();
                match waiters.front() {
                    Some(waiter) if waiter.wanted <= self.available.get() => waiters.pop_front(),
                    _ => None,
                }
            };
            let Some(waiter) = next else { return };
            self.available.set(self.available.get() - waiter.wanted);
            waiter.granted.set(true);
            let waker = waiter.waker.borrow_mut().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// Hands out units of something bounded (bytes, requests), first come, first served.
#[derive(Clone, Debug)]
pub struct Semaphore(Rc<State>);

impl Semaphore {
    /// An allowance of `total` units.
    #[must_use]
    pub fn new(total: u64) -> Self {
        Self(Rc::new(State { available: Cell::new(total), total, waiters: RefCell::default() }))
    }

    /// Waits for `units`; a request above the total gets the total.
    pub fn acquire(&self, units: u64) -> Acquire {
        let wanted = units.min(self.0.total);
        let waiter = Rc::new(Waiter { wanted, granted: Cell::new(false), waker: RefCell::new(None) });
        self.0.waiters.borrow_mut().push_back(Rc::clone(&waiter));
        self.0.grant();
        Acquire { state: Rc::clone(&self.0), waiter, taken: false }
    }

    /// Takes `units` if they are there and nobody waits.
    #[must_use]
    pub fn try_acquire(&self, units: u64) -> Option<Permit> {
        let wanted = units.min(self.0.total);
        if wanted > self.0.available.get() || !self.0.waiters.borrow().is_empty() {
            return None;
        }
        self.0.available.set(self.0.available.get() - wanted);
        Some(Permit { state: Rc::clone(&self.0), units: wanted })
    }

    /// Units nobody holds.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.0.available.get()
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.waiters.borrow().len()
    }
}

/// The future of [`Semaphore::acquire`].
#[derive(Debug)]
#[must_use = "nothing is held until it is awaited"]
pub struct Acquire {
    state: Rc<State>,
    waiter: Rc<Waiter>,
    taken: bool,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        if self.waiter.granted.get() {
            self.taken = true;
            return Poll::Ready(Permit { state: Rc::clone(&self.state), units: self.waiter.wanted });
        }
        *self.waiter.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        if self.waiter.granted.get() {
            self.state.available.set(self.state.available.get() + self.waiter.wanted);
        } else {
            self.state.waiters.borrow_mut().retain(|waiter| !Rc::ptr_eq(waiter, &self.waiter));
        }
        self.state.grant();
    }
}

/// Units held; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    state: Rc<State>,
    units: u64,
}

impl Permit {
    /// How many units.
    #[must_use]
    pub fn units(&self) -> u64 {
        self.units
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.state.available.set(self.state.available.get() + self.units);
        self.state.grant();
    }
}
