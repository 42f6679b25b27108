//! Between cores: an executor's inbox and bounded channels whose ends live on different threads.
//!
//! Nothing of a task is shared between threads; what crosses is moved through a lock-free queue. The receiving
//! executor is interrupted (one eventfd write) only when it sleeps in the kernel.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Poll, Waker};

use atomic_waker::AtomicWaker;
use crossbeam_queue::{ArrayQueue, SegQueue};

use crate::task::TaskId;

/// Where other threads leave wakes for an executor.
pub(crate) struct Inbox {
    tasks: SegQueue<TaskId>,
    /// True while the executor is in the kernel, or about to be.
    sleeping: AtomicBool,
    /// Interrupts the sleep; `None` for the simulator, which never sleeps.
    event: Option<OwnedFd>,
}

impl Inbox {
    pub(crate) fn new(event: Option<OwnedFd>) -> Arc<Self> {
        Arc::new(Self { tasks: SegQueue::new(), sleeping: AtomicBool::new(false), event })
    }

    pub(crate) fn wake_task(&self, id: TaskId) {
        self.tasks.push(id);
        if self.sleeping.swap(false, Ordering::SeqCst)
            && let Some(event) = &self.event
        {
            // A full counter means that a wake is pending already; no other error is possible on our own eventfd.
            let _pending = rustix::io::write(event.as_fd(), &1u64.to_ne_bytes());
        }
    }

    pub(crate) fn pop_task(&self) -> Option<TaskId> {
        self.tasks.pop()
    }

    /// Announces that the executor is going to sleep; false if a wake has come in meanwhile.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.tasks.is_empty() {
            return true;
        }
        self.sleeping.store(false, Ordering::SeqCst);
        false
    }

    pub(crate) fn end_sleep(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    pub(crate) fn event(&self) -> Option<&OwnedFd> {
        self.event.as_ref()
    }
}

struct Shared<T> {
    queue: ArrayQueue<T>,
    receiver: AtomicWaker,
    receiver_gone: AtomicBool,
    /// Counted here and not by the `Arc`, whose count falls only after the last sender's wake.
    senders: AtomicUsize,
    /// Senders waiting for room.
    waiting: SegQueue<Waker>,
}

/// The sending end of a [`channel`]; may be cloned and moved to any thread.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The receiving end of a [`channel`].
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("queued", &self.shared.queue.len()).finish()
    }
}

impl<T> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("queued", &self.shared.queue.len()).finish()
    }
}

/// The receiver is gone; the value is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed<T>(pub T);

/// A bounded channel for values that change threads. With one sender its order is kept.
///
/// # Panics
/// When `capacity` is zero.
#[must_use]
pub fn channel<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity),
        receiver: AtomicWaker::new(),
        receiver_gone: AtomicBool::new(false),
        senders: AtomicUsize::new(1),
        waiting: SegQueue::new(),
    });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Send> Sender<T> {
    /// Sends at once if there is room, else gives the value back.
    ///
    /// # Errors
    /// The value, when the channel is full or closed ([`Sender::is_closed`] tells which).
    pub fn try_send(&self, value: T) -> Result<(), T> {
        if self.is_closed() {
            return Err(value);
        }
        self.shared.queue.push(value)?;
        self.shared.receiver.wake();
        Ok(())
    }

    /// Sends, waiting for room.
    ///
    /// # Errors
    /// [`Closed`] when the receiver is gone.
    pub async fn send(&self, value: T) -> Result<(), Closed<T>> {
        let mut value = Some(value);
        std::future::poll_fn(|cx| {
            let mut registered = false;
            loop {
                let item = value.take().expect("polled after completion");
                match self.try_send(item) {
                    Ok(()) => return Poll::Ready(Ok(())),
                    Err(item) if self.is_closed() => return Poll::Ready(Err(Closed(item))),
                    Err(item) => value = Some(item),
                }
                if registered {
                    return Poll::Pending;
                }
                // Try once more after registering: the receiver may have made room in between.
                self.shared.waiting.push(cx.waker().clone());
                registered = true;
            }
        })
        .await
    }

    /// Whether the receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.receiver_gone.load(Ordering::Acquire)
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.senders.fetch_sub(1, Ordering::Release);
        self.shared.receiver.wake();
    }
}

impl<T: Send> Receiver<T> {
    /// The next value, or `None` once every sender is gone and the queue is empty.
    pub async fn recv(&mut self) -> Option<T> {
        std::future::poll_fn(|cx| {
            if let Some(value) = self.try_recv() {
                return Poll::Ready(Some(value));
            }
            self.shared.receiver.register(cx.waker());
            // Senders are counted before the queue is read again: a sender's last value precedes its drop.
            let senders_gone = self.shared.senders.load(Ordering::Acquire) == 0;
            match self.try_recv() {
                Some(value) => Poll::Ready(Some(value)),
                None if senders_gone => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// The next value if one is queued.
    pub fn try_recv(&mut self) -> Option<T> {
        let value = self.shared.queue.pop()?;
        // All of them: who was first may have got its room meanwhile, or not want it any more.
        for _ in 0..self.shared.waiting.len() {
            if let Some(waker) = self.shared.waiting.pop() {
                waker.wake();
            }
        }
        Some(value)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receiver_gone.store(true, Ordering::Release);
        while let Some(waker) = self.shared.waiting.pop() {
            waker.wake();
        }
    }
}
