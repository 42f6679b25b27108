//! Waking the one task that does a job.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Tells one task that there is something to do. Costs nothing to set while it is set.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    pub(crate) fn set(&self) {
        if !self.set.replace(true)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Waits until the signal is set, and clears it.
    pub(crate) async fn wait(&self) {
        poll_fn(|cx| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use rt::{First, first};

    use super::*;
    use crate::testing::run;

    #[test]
    fn a_signal_set_before_the_wait_is_seen_once() {
        run(async {
            let signal = Rc::new(Signal::default());
            signal.set();
            signal.set();
            signal.wait().await;
            let theirs = Rc::clone(&signal);
            rt::spawn(async move { theirs.set() });
            let raced = first(signal.wait(), std::future::pending::<()>()).await;
            assert!(matches!(raced, First::Left(())));
            let raced = first(signal.wait(), async { 7 }).await;
            assert!(matches!(raced, First::Right(7)));
        });
    }
}
