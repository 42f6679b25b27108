//! Operations in flight and what they keep alive.
//!
//! An entry is freed by its last completion, never by the future that waits for it: a dropped future leaves an
//! orphan behind whose buffers the kernel may still fill.

use std::collections::VecDeque;
use std::ffi::CString;
use std::future::Future;
use std::os::fd::FromRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::cqueue;

use super::{Registered, Ring};
use crate::buf::{Buf, View};

/// What the kernel may touch while an operation runs.
#[derive(Debug)]
#[expect(dead_code, reason = "held for the kernel, not read by us")]
pub(crate) enum Keep {
    Nothing,
    Buf(Buf),
    View(View),
    Vectored(Box<Vectored>),
    Path(CString),
    Paths(CString, CString),
    Address(Box<libc::sockaddr_storage>),
    /// The file, whose place in the table nobody else may take before.
    File(Rc<Registered>),
    /// The result is a new descriptor; an orphan closes it.
    Descriptor(Option<CString>),
}

/// Several views written or sent by one operation.
pub(crate) struct Vectored {
    pub(crate) views: Vec<View>,
    pub(crate) iovecs: Vec<libc::iovec>,
    pub(crate) header: libc::msghdr,
}

impl std::fmt::Debug for Vectored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vectored").field("views", &self.views).finish_non_exhaustive()
    }
}

impl Keep {
    /// Ends an operation nobody waits for any more.
    pub(super) fn dispose(self, result: i32, flags: u32) {
        if let Self::Descriptor(_) = self
            && result >= 0
            && !cqueue::notif(flags)
        {
            // SAFETY: the completion made this descriptor and handed it to nobody else.
            drop(unsafe { std::os::fd::OwnedFd::from_raw_fd(result) });
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpId {
    slot: u32,
    generation: u32,
}

impl OpId {
    pub(super) fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }
}

#[derive(Debug)]
enum State {
    Vacant,
    /// Submitted; the result of a zero-copy send may be there while its notification is still to come.
    Running {
        keep: Keep,
        waker: Option<Waker>,
        result: Option<i32>,
    },
    Done {
        keep: Keep,
        result: i32,
    },
    Orphan {
        keep: Keep,
        /// The result is a descriptor per completion (multishot accept) or buffers to give back.
        multi: bool,
        /// Only the notification of a zero-copy send is still to come.
        lingering: bool,
    },
    Multi {
        waker: Option<Waker>,
        results: VecDeque<(i32, u32)>,
        ended: bool,
    },
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
}

/// The table of operations.
#[derive(Debug, Default)]
pub(crate) struct Ops {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    in_flight: usize,
    /// Those of them whose results are known (see [`Ops::lingering`]).
    lingering: usize,
}

/// What a completion asks of its reaper.
pub(super) enum Completed {
    Wake(Option<Waker>),
    Orphan { keep: Keep, result: i32, flags: u32 },
}

impl Ops {
    fn insert(&mut self, state: State) -> OpId {
        self.in_flight += 1;
        if let Some(slot) = self.vacant.pop() {
            let entry = &mut self.slots[slot as usize];
            entry.state = state;
            return OpId { slot, generation: entry.generation };
        }
        self.slots.push(Slot { generation: 0, state });
        OpId { slot: u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 operations"), generation: 0 }
    }

    pub(super) fn start(&mut self, keep: Keep) -> OpId {
        self.insert(State::Running { keep, waker: None, result: None })
    }

    pub(super) fn start_multi(&mut self) -> OpId {
        self.insert(State::Multi { waker: None, results: VecDeque::new(), ended: false })
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Zero-copy sends that have their results: the kernel may read their memory until the peer has acknowledged it.
    pub(super) fn lingering(&self) -> usize {
        self.lingering
    }

    fn free(&mut self, id: OpId) -> State {
        let entry = &mut self.slots[id.slot as usize];
        // Generations stay below the reserved values of `user_data`.
        entry.generation = (entry.generation + 1) & 0x7fff_ffff;
        self.vacant.push(id.slot);
        std::mem::replace(&mut entry.state, State::Vacant)
    }

    fn state(&mut self, id: OpId) -> &mut State {
        let entry = &mut self.slots[id.slot as usize];
        assert_eq!(entry.generation, id.generation, "an operation outlived its table entry");
        &mut entry.state
    }

    pub(super) fn complete(&mut self, user_data: u64, result: i32, flags: u32) -> Completed {
        let id = OpId { slot: user_data as u32, generation: (user_data >> 32) as u32 };
        let more = cqueue::more(flags);
        if !more {
            self.in_flight -= 1;
        }
        let state = self.state(id);
        match state {
            State::Vacant | State::Done { .. } => panic!("a completion for an operation that has ended"),
            State::Running { result: first, waker, .. } if more => {
                // A zero-copy send: the data may still be read, the notification follows. Whoever waits for the result
                // has it already: a peer that acknowledges late must not hold up what is sent next.
                *first = Some(result);
                let waker = waker.take();
                self.lingering += 1;
                Completed::Wake(waker)
            }
            State::Running { keep, waker, result: first } => {
                let lingered = usize::from(first.is_some());
                let result = first.unwrap_or(result);
                let keep = std::mem::replace(keep, Keep::Nothing);
                let waker = waker.take();
                *state = State::Done { keep, result };
                self.lingering -= lingered;
                Completed::Wake(waker)
            }
            State::Multi { waker, results, ended } => {
                results.push_back((result, flags));
                *ended = !more;
                Completed::Wake(waker.take())
            }
            State::Orphan { multi, lingering, keep } if more => {
                // Of single operations only a zero-copy send has more to say, and only that keeps a view then.
                let (multi, is_send) = (*multi, matches!(keep, Keep::View(_)));
                *lingering = is_send;
                self.lingering += usize::from(is_send);
                let keep = if multi { Keep::Descriptor(None) } else { Keep::Nothing };
                Completed::Orphan { keep, result, flags }
            }
            State::Orphan { lingering, .. } => {
                let lingered = usize::from(*lingering);
                self.lingering -= lingered;
                let State::Orphan { keep, .. } = self.free(id) else { unreachable!("matched above") };
                Completed::Orphan { keep, result, flags }
            }
        }
    }
}

/// Waits for one operation; gives its raw result and what it kept.
#[derive(Debug)]
pub(crate) struct Op {
    ring: Option<Ring>,
    id: OpId,
    cancel: bool,
}

impl Op {
    pub(super) fn new(ring: Ring, id: OpId) -> Self {
        Self { ring: Some(ring), id, cancel: false }
    }

    /// Asks the kernel to end the operation early when its future is dropped: for reads that may wait for ever, never
    /// for writes.
    pub(crate) fn cancel_on_drop(mut self) -> Self {
        self.cancel = true;
        self
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

impl Future for Op {
    type Output = (i32, Keep);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(i32, Keep)> {
        let ring = self.ring.take().expect("polled after completion");
        {
            let mut ops = ring.0.ops.borrow_mut();
            match ops.state(self.id) {
                // The operation goes on alone, with what it keeps, until its notification has come.
                State::Running { keep, result: Some(result), .. } => {
                    let (keep, result) = (std::mem::replace(keep, Keep::Nothing), *result);
                    *ops.state(self.id) = State::Orphan { keep, multi: false, lingering: true };
                    return Poll::Ready((result, Keep::Nothing));
                }
                State::Running { waker, .. } => {
                    *waker = Some(cx.waker().clone());
                    drop(ops);
                    self.ring = Some(ring);
                    return Poll::Pending;
                }
                State::Done { .. } => {}
                other => unreachable!("a single operation in state {other:?}"),
            }
            let State::Done { keep, result } = ops.free(self.id) else { unreachable!("matched above") };
            Poll::Ready((result, keep))
        }
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        let Some(ring) = self.ring.take() else { return };
        let mut ops = ring.0.ops.borrow_mut();
        match ops.state(self.id) {
            State::Running { keep, result, .. } => {
                let (keep, lingering) = (std::mem::replace(keep, Keep::Nothing), result.is_some());
                *ops.state(self.id) = State::Orphan { keep, multi: false, lingering };
                drop(ops);
                if self.cancel {
                    ring.cancel(self.id);
                }
            }
            State::Done { .. } => {
                let State::Done { keep, result } = ops.free(self.id) else { unreachable!("matched above") };
                drop(ops);
                keep.dispose(result, 0);
            }
            other => unreachable!("a single operation in state {other:?}"),
        }
    }
}

/// Waits for an operation with many completions.
#[derive(Debug)]
pub(crate) struct Multi {
    ring: Ring,
    id: OpId,
    accept: bool,
}

impl Multi {
    pub(super) fn new(ring: Ring, id: OpId) -> Self {
        Self { ring, id, accept: false }
    }

    /// Results are descriptors: those nobody takes are closed.
    pub(crate) fn of_descriptors(mut self) -> Self {
        self.accept = true;
        self
    }

    /// The next result, or `None` once the kernel has ended the operation.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(i32, u32)>> {
        let mut ops = self.ring.0.ops.borrow_mut();
        let State::Multi { waker, results, ended } = ops.state(self.id) else {
            unreachable!("a multishot operation in another state")
        };
        if let Some(next) = results.pop_front() {
            return Poll::Ready(Some(next));
        }
        if *ended {
            return Poll::Ready(None);
        }
        *waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Asks the kernel to end the operation; what has arrived can still be taken until `None`.
    pub(crate) fn stop(&self) {
        let ended = match self.ring.0.ops.borrow_mut().state(self.id) {
            State::Multi { ended, .. } => *ended,
            _ => true,
        };
        if !ended {
            self.ring.cancel(self.id);
        }
    }
}

impl Drop for Multi {
    fn drop(&mut self) {
        let mut ops = self.ring.0.ops.borrow_mut();
        let State::Multi { results, ended, .. } = ops.state(self.id) else {
            unreachable!("a multishot operation in another state")
        };
        let (left, ended) = (std::mem::take(results), *ended);
        if ended {
            ops.free(self.id);
        } else {
            let keep = if self.accept { Keep::Descriptor(None) } else { Keep::Nothing };
            *ops.state(self.id) = State::Orphan { keep, multi: self.accept, lingering: false };
        }
        drop(ops);
        if !ended {
            self.ring.cancel(self.id);
        }
        for (result, flags) in left {
            if let Some(id) = cqueue::buffer_select(flags) {
                self.ring.give_back(id);
            } else if self.accept {
                Keep::Descriptor(None).dispose(result, flags);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::context::{self, Driver};
    use crate::{Executor, ExecutorOptions};

    /// The kernel's flags of a completion: more to come, and the notification of a zero-copy send.
    const MORE: u32 = 1 << 1;
    const NOTIFICATION: u32 = 1 << 3;

    fn ring() -> Ring {
        context::with(|core| match &core.driver {
            Driver::Uring(ring) => ring.clone(),
            Driver::Sim(_) => unreachable!("this test runs on a ring"),
        })
    }

    fn run<F: Future + 'static>(main: F) -> F::Output {
        Executor::start(&ExecutorOptions::default()).expect("io_uring works here").run(main)
    }

    /// A send that the kernel never hears of: the test is the kernel.
    fn send(ring: &Ring) -> (Op, OpId) {
        let id = ring.0.ops.borrow_mut().start(Keep::View(View::copy_of(b"data")));
        (Op::new(ring.clone(), id), id)
    }

    fn keeps_data(ring: &Ring, id: OpId) -> bool {
        let mut ops = ring.0.ops.borrow_mut();
        matches!(
            ops.state(id),
            State::Running { keep: Keep::View(_), .. } | State::Orphan { keep: Keep::View(_), .. }
        )
    }

    fn counts(ring: &Ring) -> (usize, usize) {
        let ops = ring.0.ops.borrow();
        (ops.in_flight(), ops.lingering())
    }

    #[test]
    fn a_zero_copy_send_has_its_result_before_the_peer_has_the_data() {
        run(async {
            let ring = ring();
            let before = counts(&ring).0;
            let (op, id) = send(&ring);
            let op = crate::spawn(op);
            crate::yield_now().await;
            ring.complete(id.user_data(), 4, MORE);
            let result = crate::time::timeout(Duration::from_secs(5), op).await;
            assert!(matches!(result, Ok(Ok((4, Keep::Nothing)))), "{result:?}");
            assert!(keeps_data(&ring, id) && !ring.busy() && ring.lingers());
            assert_eq!(counts(&ring), (before + 1, 1));
            ring.complete(id.user_data(), 0, NOTIFICATION);
            assert_eq!(counts(&ring), (before, 0));
        });
    }

    #[test]
    fn a_zero_copy_send_given_up_keeps_its_data_until_the_notification() {
        run(async {
            let ring = ring();
            let before = counts(&ring).0;
            for known in [false, true] {
                let (op, id) = send(&ring);
                if known {
                    ring.complete(id.user_data(), 4, MORE);
                }
                drop(op);
                if !known {
                    assert!(ring.busy());
                    ring.complete(id.user_data(), 4, MORE);
                }
                assert!(keeps_data(&ring, id) && ring.lingers());
                ring.complete(id.user_data(), 0, NOTIFICATION);
                assert_eq!(counts(&ring), (before, 0), "{known}");
            }
        });
    }

    #[test]
    fn an_executor_ends_though_a_peer_never_acknowledges() {
        let start = run(async {
            let ring = ring();
            let (op, id) = send(&ring);
            ring.complete(id.user_data(), 4, MORE);
            assert_eq!(op.await.0, 4);
            crate::time::now()
        });
        let end = run(async { crate::time::now() });
        assert!(end.since(start) >= Duration::from_millis(400), "it waits a moment");
        assert!(end.since(start) < Duration::from_secs(10), "but not for ever");
    }
}
