//! Requests that wait for their answers.
//!
//! An entry lives from the moment its request is queued until the answer has come, even when nobody waits for
//! the answer any more: until then the request counts against the peer's window, and its id is taken. Whoever
//! makes the request again meanwhile waits for the answer that is out.

use rt::collections::FixedMap;
use rt::sync::{OneReceiver, OneSender, Permit, oneshot};
use rt::time::Instant;

use crate::error::{CallError, CloseReason};
use crate::message::Reply;

/// What a caller gets.
pub(crate) type Answer = Result<Reply, CallError>;

/// Somebody who waits.
struct Waiter {
    serial: u64,
    deadline: Instant,
    answer: OneSender<Answer>,
}

/// What the answer to a request must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Code of the operation, which the answer must repeat.
    pub(crate) op: u16,
    /// Bytes of payload it may bring at most.
    pub(crate) payload_max: usize,
}

/// One request on its way.
struct Pending {
    expected: Expected,
    /// `None` when nobody waits any more.
    waiter: Option<Waiter>,
    /// Whether the first byte has been handed to TLS: from then on the request cannot be taken back.
    sent: bool,
    /// Its share of the peer's window, requests and bytes; given back with the entry.
    _window: (Permit, Permit),
}

/// How the table knows the answer that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Somebody waits for it.
    Yes,
    /// It was asked for, but nobody waits any more.
    NoLonger,
    /// It was never asked for.
    Never,
}

/// All requests of one connection that wait for their answers.
#[derive(Default)]
pub(crate) struct PendingTable {
    entries: FixedMap<u64, Pending>,
    serial: u64,
}

impl PendingTable {
    /// Notes a request that is going to be queued. `serial` names the caller from now on.
    pub(crate) fn insert(
        &mut self,
        id: u64,
        expected: Expected,
        deadline: Instant,
        window: (Permit, Permit),
    ) -> (u64, OneReceiver<Answer>) {
        let (waiter, answer) = self.waiter(deadline);
        let serial = waiter.serial;
        let entry = Pending { expected, waiter: Some(waiter), sent: false, _window: window };
        let before = self.entries.insert(id, entry);
        assert!(before.is_none(), "request id {id:#x} is in use");
        (serial, answer)
    }

    /// Waits for the answer to a request that is out already, if there is one with this id.
    ///
    /// # Panics
    /// When somebody else waits for it, or it is another operation: the caller has mixed up its ids.
    pub(crate) fn adopt(
        &mut self,
        id: u64,
        op: u16,
        deadline: Instant,
    ) -> Option<(u64, OneReceiver<Answer>)> {
        self.entries.get(&id)?;
        let (waiter, answer) = self.waiter(deadline);
        let serial = waiter.serial;
        let entry = self.entries.get_mut(&id)?;
        assert!(entry.expected.op == op && entry.waiter.is_none(), "request id {id:#x} is in use");
        entry.waiter = Some(waiter);
        Some((serial, answer))
    }

    fn waiter(&mut self, deadline: Instant) -> (Waiter, OneReceiver<Answer>) {
        self.serial += 1;
        let (sender, answer) = oneshot();
        (Waiter { serial: self.serial, deadline, answer: sender }, answer)
    }

    /// Whether an answer that is wanted may bring a payload of this length.
    pub(crate) fn allows(&self, id: u64, payload: usize) -> bool {
        self.entries.get(&id).is_some_and(|entry| payload <= entry.expected.payload_max)
    }

    /// Requests whose answers are out.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether an answer with this id and operation is wanted.
    pub(crate) fn wants(&self, id: u64, op: u16) -> Wanted {
        match self.entries.get(&id) {
            Some(entry) if entry.sent && entry.expected.op == op => {
                if entry.waiter.is_some() {
                    Wanted::Yes
                } else {
                    Wanted::NoLonger
                }
            }
            _ => Wanted::Never,
        }
    }

    /// Ends a request with its answer.
    pub(crate) fn answer(&mut self, id: u64, reply: Reply) {
        if let Some(waiter) = self.entries.remove(&id).and_then(|entry| entry.waiter) {
            // The caller may have gone just now.
            let _gone = waiter.answer.send(Ok(reply));
        }
    }

    /// Ends a request whose answer nobody wants.
    pub(crate) fn discard(&mut self, id: u64) {
        self.entries.remove(&id);
    }

    /// Notes that a request leaves.
    pub(crate) fn mark_sent(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.sent = true;
        }
    }

    /// The caller `serial` has gone. True when its request had not left: it is gone, too, and must not leave.
    pub(crate) fn forget(&mut self, id: u64, serial: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        if entry.waiter.as_ref().is_none_or(|waiter| waiter.serial != serial) {
            return false;
        }
        entry.waiter = None;
        let unsent = !entry.sent;
        if unsent {
            self.entries.remove(&id);
        }
        unsent
    }

    /// Tells those whose deadline has passed. Gives the ids of requests that had not left and are gone now, and the
    /// earliest deadline that is still to come.
    pub(crate) fn expire(&mut self, now: Instant) -> (Vec<u64>, Option<Instant>) {
        let (mut unsent, mut next) = (Vec::new(), None);
        for (&id, entry) in &mut self.entries {
            let Some(waiter) = entry.waiter.take_if(|waiter| waiter.deadline <= now) else {
                let deadline = entry.waiter.as_ref().map(|waiter| waiter.deadline);
                next = [next, deadline].into_iter().flatten().min();
                continue;
            };
            // Whoever has gone meanwhile does not need to be told.
            let _gone = waiter.answer.send(Err(CallError::Timeout));
            if !entry.sent {
                unsent.push(id);
            }
        }
        for id in &unsent {
            self.entries.remove(id);
        }
        (unsent, next)
    }

    /// Tells everybody that no answer will come.
    pub(crate) fn fail_all(&mut self, reason: &CloseReason) {
        for (_, entry) in std::mem::take(&mut self.entries) {
            if let Some(waiter) = entry.waiter {
                let _gone = waiter.answer.send(Err(CallError::Disconnected(reason.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rt::sync::Semaphore;

    use super::*;

    struct World {
        table: PendingTable,
        window: Semaphore,
    }

    impl World {
        fn new() -> Self {
            Self { table: PendingTable::default(), window: Semaphore::new(100) }
        }

        fn add(&mut self, id: u64, deadline: u64, sent: bool) -> (u64, OneReceiver<Answer>) {
            let permit = || self.window.try_acquire(1).unwrap();
            let window = (permit(), permit());
            let added = self.table.insert(
                id,
                Expected { op: 1, payload_max: 4 },
                Instant::from_nanos(deadline),
                window,
            );
            if sent {
                self.table.mark_sent(id);
            }
            added
        }
    }

    fn now(answer: OneReceiver<Answer>) -> Option<Answer> {
        let mut answer = std::pin::pin!(answer);
        match answer.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(answer) => Some(answer.expect("told")),
            std::task::Poll::Pending => None,
        }
    }

    fn reply() -> Reply {
        let empty = rt::buf::View::empty();
        Reply { status: wire::Status::Ok, body: empty.clone(), payload: empty }
    }

    #[test]
    fn an_abandoned_request_keeps_its_share_of_the_window_until_it_is_answered() {
        let mut world = World::new();
        let (serial, _) = world.add(7, 10, true);
        assert!(!world.table.forget(7, serial));
        assert_eq!((world.table.wants(7, 1), world.window.available()), (Wanted::NoLonger, 98));
        assert_eq!(world.table.wants(7, 2), Wanted::Never, "another operation");
        world.table.answer(7, reply());
        assert_eq!((world.table.wants(7, 1), world.window.available()), (Wanted::Never, 100));
    }

    #[test]
    fn a_request_that_has_not_left_goes_with_its_caller() {
        let mut world = World::new();
        let (serial, _) = world.add(7, 10, false);
        assert_eq!(world.table.wants(7, 1), Wanted::Never, "it cannot have been answered");
        assert!(!world.table.forget(7, serial + 1), "somebody else");
        assert!(world.table.forget(7, serial));
        assert_eq!((world.table.len(), world.window.available()), (0, 100));
        assert!(!world.table.forget(7, serial));
    }

    #[test]
    fn deadlines_pass_one_by_one() {
        let mut world = World::new();
        let (early, unsent, late) = (world.add(1, 10, true), world.add(2, 20, false), world.add(3, 30, true));
        let (gone, next) = world.table.expire(Instant::from_nanos(20));
        assert_eq!((gone, next), (vec![2], Some(Instant::from_nanos(30))));
        assert!(matches!(now(early.1), Some(Err(CallError::Timeout))));
        assert!(matches!(now(unsent.1), Some(Err(CallError::Timeout))));
        assert!(now(late.1).is_none());
        assert_eq!(world.table.len(), 2, "the one that left is still out");
    }

    #[test]
    fn a_repeated_request_waits_for_the_answer_that_is_out() {
        let mut world = World::new();
        let deadline = Instant::from_nanos(20);
        let (first, _) = world.add(5, 10, true);
        world.table.forget(5, first);
        let (second, answer) = world.table.adopt(5, 1, deadline).expect("it is out");
        assert_ne!(first, second);
        assert!(!world.table.forget(5, first), "the first caller is history");
        assert_eq!(world.table.wants(5, 1), Wanted::Yes);
        assert!(world.table.allows(5, 4) && !world.table.allows(5, 5) && !world.table.allows(6, 0));
        world.table.answer(5, reply());
        assert!(matches!(now(answer), Some(Ok(_))));
        assert!(world.table.adopt(5, 1, deadline).is_none());
        assert_eq!(world.window.available(), 100);
    }

    #[test]
    #[should_panic(expected = "request id 0x5 is in use")]
    fn two_callers_with_one_id_are_a_bug() {
        let mut world = World::new();
        let _first = world.add(5, 10, true);
        world.table.adopt(5, 1, Instant::from_nanos(20));
    }

    #[test]
    fn everybody_hears_of_the_end() {
        let mut world = World::new();
        let answers = [world.add(1, 10, true), world.add(2, 10, false), world.add(3, 10, true)];
        world.table.fail_all(&CloseReason::Cut);
        for (_, answer) in answers {
            assert!(matches!(now(answer), Some(Err(CallError::Disconnected(CloseReason::Cut)))));
        }
        assert_eq!((world.table.len(), world.window.available()), (0, 100));
    }
}
