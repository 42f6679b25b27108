//! Ending things: a request to stop that many tasks see, and tasks that end with their owner.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use rt::sync::Notify;

/// Set once, never cleared.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    set: Cell<bool>,
    changed: Notify,
}

impl Stop {
    /// Asks everybody to stop.
    pub(crate) fn set(&self) {
        self.set.set(true);
        self.changed.notify_all();
    }

    /// Whether it is time to stop.
    pub(crate) fn is_set(&self) -> bool {
        self.set.get()
    }

    /// Waits until it is time to stop.
    pub(crate) async fn wait(&self) {
        let changed = self.changed.notified();
        if !self.set.get() {
            changed.await;
        }
    }
}

/// Runs `work` until it is ready or `end` is, which wins a draw; `None` if it ended so. `end` may be used again
/// until it has ended something.
pub(crate) async fn unless<E: Future<Output = ()>, F: Future>(
    mut end: Pin<&mut E>,
    work: F,
) -> Option<F::Output> {
    let mut work = std::pin::pin!(work);
    poll_fn(|cx| {
        if end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

/// Aborts its task when dropped.
#[derive(Debug)]
pub(crate) struct Leash<T>(pub(crate) rt::JoinHandle<T>);

impl<T> Drop for Leash<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
