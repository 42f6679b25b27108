//! A bounded queue between tasks of one executor.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::Notify;

#[derive(Debug)]
struct Shared<T> {
    queue: RefCell<VecDeque<T>>,
    capacity: usize,
    senders: std::cell::Cell<usize>,
    receiver_gone: std::cell::Cell<bool>,
    filled: Notify,
    drained: Notify,
}

/// A queue of at most `capacity` values.
///
/// # Panics
/// When `capacity` is zero.
#[must_use]
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a channel needs room for one value");
    let shared = Rc::new(Shared {
        queue: RefCell::new(VecDeque::new()),
        capacity,
        senders: std::cell::Cell::new(1),
        receiver_gone: std::cell::Cell::new(false),
        filled: Notify::new(),
        drained: Notify::new(),
    });
    (Sender(Rc::clone(&shared)), Receiver(shared))
}

/// The receiver is gone; the value is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendError<T>(pub T);

/// Why a value was not taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// No room.
    Full(T),
    /// Nobody receives any more.
    Closed(T),
}

/// The sending end.
#[derive(Debug)]
pub struct Sender<T>(Rc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.set(self.0.senders.get() + 1);
        Self(Rc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.senders.set(self.0.senders.get() - 1);
        if self.0.senders.get() == 0 {
            self.0.filled.notify_one();
        }
    }
}

impl<T> Sender<T> {
    /// Queues a value, waiting for room.
    ///
    /// # Errors
    /// [`SendError`] when the receiver is gone.
    pub async fn send(&self, mut value: T) -> Result<(), SendError<T>> {
        loop {
            let drained = self.0.drained.notified();
            match self.try_send(value) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(value)) => return Err(SendError(value)),
                Err(TrySendError::Full(back)) => value = back,
            }
            drained.await;
        }
    }

    /// Queues a value if there is room.
    ///
    /// # Errors
    /// The value, and why.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        if self.0.receiver_gone.get() {
            return Err(TrySendError::Closed(value));
        }
        let mut queue = self.0.queue.borrow_mut();
        if queue.len() >= self.0.capacity {
            return Err(TrySendError::Full(value));
        }
        queue.push_back(value);
        drop(queue);
        self.0.filled.notify_one();
        Ok(())
    }
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiver<T>(Rc<Shared<T>>);

impl<T> Receiver<T> {
    /// The next value, or `None` once every sender is gone and the queue is empty.
    pub async fn recv(&mut self) -> Option<T> {
        loop {
            let shared = Rc::clone(&self.0);
            let filled = shared.filled.notified();
            if let Some(value) = self.try_recv() {
                return Some(value);
            }
            if self.0.senders.get() == 0 {
                return None;
            }
            filled.await;
        }
    }

    /// The next value if one is queued.
    pub fn try_recv(&mut self) -> Option<T> {
        let value = self.0.queue.borrow_mut().pop_front()?;
        self.0.drained.notify_one();
        Some(value)
    }

    /// Values queued now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.queue.borrow().len()
    }

    /// Whether nothing is queued now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.receiver_gone.set(true);
        self.0.drained.notify_all();
        let left = std::mem::take(&mut *self.0.queue.borrow_mut());
        drop(left);
    }
}
