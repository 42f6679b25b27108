//! The sending side of a connection: replies wait here, and one task sends them, each whole, several at once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use rt::net::Writer;

use super::budget::Hold;
use super::connection::ConnectionError;
use super::gather::{Encoder, Reply};
use super::patience::Patience;

/// Replies that wait to be sent. Their number and size are bounded by what each one [`Hold`]s.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: RefCell<VecDeque<(Reply, Hold)>>,
    closed: Cell<bool>,
    broken: Cell<bool>,
    /// Whether the sending task waits here, and not for the socket.
    waiting: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Outbox {
    /// Queues a reply. Once the connection is broken it is dropped instead.
    pub(super) fn push(&self, reply: Reply, hold: Hold) {
        if self.broken.get() {
            return;
        }
        self.queue.borrow_mut().push_back((reply, hold));
        self.wake();
    }

    /// Nothing more will come: when all is sent the connection ends.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.wake();
    }

    /// The client is gone or not worth an answer: ends the connection at once.
    pub(super) fn break_off(&self) {
        self.broken.set(true);
        let unsent = std::mem::take(&mut *self.queue.borrow_mut());
        drop(unsent);
        self.wake();
    }

    fn wake(&self) {
        if self.waiting.replace(false)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Waits for something to send; false when there will be nothing more.
    async fn filled(&self) -> bool {
        poll_fn(|cx| {
            if self.broken.get() {
                return Poll::Ready(false);
            }
            if !self.queue.borrow().is_empty() {
                return Poll::Ready(true);
            }
            if self.closed.get() {
                return Poll::Ready(false);
            }
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            self.waiting.set(true);
            Poll::Pending
        })
        .await
    }

    /// Sends what is queued until the box is closed or broken, then ends the connection. A client that fetches too little
    /// while `others_wait` for memory is given up.
    ///
    /// # Errors
    /// Those of `send(2)`, or [`ConnectionError::Stalled`]. The box is broken then.
    pub(super) async fn send(
        &self,
        writer: &mut Writer,
        mut encoder: Encoder,
        patience: &Patience,
        others_wait: impl Fn() -> bool,
    ) -> Result<(), ConnectionError> {
        let mut held = Vec::new();
        let mut outcome = Ok(());
        while self.filled().await {
            let views = encoder.batch(&mut self.queue.borrow_mut(), &mut held);
            let bytes = views.iter().map(|view| view.len() as u64).sum();
            let sending = async {
                match <[_; 1]>::try_from(views) {
                    Ok([view]) => writer.send_all(view).await,
                    Err(views) => writer.send_all_vectored(views).await,
                }
            };
            outcome = match patience.during(bytes, &others_wait, sending).await {
                Ok(sent) => sent.map_err(ConnectionError::Socket),
                Err(stalled) => Err(stalled.into()),
            };
            // The data has left: others may take its place.
            held.clear();
            if outcome.is_err() {
                self.break_off();
            }
        }
        writer.shutdown();
        outcome
    }
}
