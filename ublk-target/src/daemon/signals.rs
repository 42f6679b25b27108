//! SIGTERM and SIGINT: the first asks for an orderly stop, the second for no further patience.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;

use rt::signal::StopSignals;
use rt::sync::Notify;

use crate::stop::{Leash, unless};

/// Counts the signals.
#[derive(Debug)]
pub(super) struct Signals {
    counter: Rc<Counter>,
    _task: Leash<()>,
}

#[derive(Debug, Default)]
struct Counter {
    count: Cell<u32>,
    changed: Notify,
}

impl Counter {
    async fn reached(&self, count: u32) {
        loop {
            let changed = self.changed.notified();
            if self.count.get() >= count {
                return;
            }
            changed.await;
        }
    }
}

impl Signals {
    /// Begins to count.
    pub(super) fn start(mut signals: StopSignals) -> Self {
        let counter = Rc::new(Counter::default());
        let theirs = Rc::clone(&counter);
        let task = rt::spawn(async move {
            loop {
                match signals.next().await {
                    Ok(number) => tracing::info!("signal {number}"),
                    // Deaf to signals it is better to stop than to go on for ever.
                    Err(error) => tracing::error!("cannot wait for signals: {error}"),
                }
                theirs.count.set(theirs.count.get() + 1);
                theirs.changed.notify_all();
            }
        });
        Self { counter, _task: Leash(task) }
    }

    /// Waits for the first signal.
    pub(super) async fn stopped(&self) {
        self.counter.reached(1).await;
    }

    /// Runs `work` until the first signal; `None` if that came.
    pub(super) async fn unless_stopped<F: Future>(&self, work: F) -> Option<F::Output> {
        let stopped = pin!(self.counter.reached(1));
        unless(stopped, work).await
    }

    /// Runs `work` until the second signal; `None` if that came.
    pub(super) async fn unless_stopped_again<F: Future>(&self, work: F) -> Option<F::Output> {
        let stopped = pin!(self.counter.reached(2));
        unless(stopped, work).await
    }
}
