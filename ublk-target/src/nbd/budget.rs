//! How much the clients may have under way: what bounds the memory they can make the server hold.

use std::cell::Cell;

use rt::sync::{Permit, Semaphore};

/// The allowance of one connection, and its part in that of the server.
#[derive(Debug)]
pub(super) struct Budget {
    requests: Semaphore,
    bytes: Semaphore,
    server_bytes: Semaphore,
    /// Whether this connection waits for the server's bytes.
    waits: Cell<bool>,
}

/// The place of one request; given back when dropped.
#[derive(Debug)]
pub(super) struct Hold {
    _request: Permit,
    bytes: Option<(Permit, Permit)>,
}

impl Hold {
    /// Gives back the bytes: the data of a write is gone before its reply.
    pub(super) fn release_bytes(&mut self) {
        self.bytes = None;
    }
}

impl Budget {
    /// For one connection: so many requests and bytes, and all connections together no more bytes than
    /// `server_bytes` has.
    pub(super) fn new(requests: u64, bytes: u64, server_bytes: &Semaphore) -> Self {
        Self {
            requests: Semaphore::new(requests),
            bytes: Semaphore::new(bytes),
            server_bytes: server_bytes.clone(),
            waits: Cell::new(false),
        }
    }

    /// Whether other connections wait for what this one may hold of the server's bytes.
    pub(super) fn others_wait(&self) -> bool {
        self.server_bytes.waiting() > usize::from(self.waits.get())
    }

    /// A place for a request with so many bytes of data, if there is one.
    pub(super) fn try_take(&self, bytes: u64) -> Option<Hold> {
        let request = self.requests.try_acquire(1)?;
        let bytes = match bytes {
            0 => None,
            bytes => Some((self.bytes.try_acquire(bytes)?, self.server_bytes.try_acquire(bytes)?)),
        };
        Some(Hold { _request: request, bytes })
    }

    /// A place for a request with so many bytes of data. Only this connection's reader asks, so the order of the
    /// three cannot tie two connections up: what the server waits for goes on by itself, and a client that keeps it from
    /// going on is given up (see [`super::patience`]). A reader that stops waiting before it has its place asks no more.
    pub(super) async fn take(&self, bytes: u64) -> Hold {
        let request = self.requests.acquire(1).await;
        if bytes == 0 {
            return Hold { _request: request, bytes: None };
        }
        let own = self.bytes.acquire(bytes).await;
        self.waits.set(true);
        let of_server = self.server_bytes.acquire(bytes).await;
        self.waits.set(false);
        Hold { _request: request, bytes: Some((own, of_server)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_holds_by_itself_and_is_given_back() {
        let server = Semaphore::new(100);
        let (one, two) = (Budget::new(2, 60, &server), Budget::new(2, 60, &server));
        let mut first = one.try_take(50).unwrap();
        assert!(one.try_take(20).is_none(), "the connection has 10 left");
        let second = one.try_take(0).unwrap();
        assert!(one.try_take(0).is_none(), "two requests are under way");
        drop(second);
        assert!(two.try_take(60).is_none(), "the server has 50 left");
        let third = two.try_take(50).unwrap();
        first.release_bytes();
        assert_eq!(server.available(), 50);
        assert!(two.try_take(10).is_some());
        drop((first, third));
        assert_eq!(server.available(), 100);
        assert!(one.try_take(1000).is_some(), "more than all there is gets all there is");
    }

    #[test]
    fn a_connection_does_not_wait_for_itself() {
        let server = Semaphore::new(100);
        let (one, two) = (Budget::new(9, 100, &server), Budget::new(9, 100, &server));
        let _held = one.try_take(60).unwrap();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut own = std::pin::pin!(one.take(40));
        assert!(own.as_mut().poll(&mut context).is_ready());
        let _rest = two.try_take(40).unwrap();
        let mut waiting = std::pin::pin!(two.take(10));
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert_eq!((one.others_wait(), two.others_wait()), (true, false));
    }
}
