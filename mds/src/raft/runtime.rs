//! The consensus library on our executor: its tasks, timers, clock and random numbers are those of `rt`.
//!
//! So the simulator runs it as it runs everything else, and one thread carries it. Nothing here is `Send`.

use std::fmt::{Debug, Formatter};
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft::async_runtime::AsyncOneshotSendExt;
use openraft::{AsyncRuntime, OptionalSend};
use rt::sync::{Canceled, OneReceiver, OneSender};
use rt::time::{Elapsed, Sleep};

/// The executor, as the consensus library knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Runtime;

/// A point on the executor's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Instant(rt::time::Instant);

impl openraft::Instant for Instant {
    fn now() -> Self {
        Self(rt::time::now())
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0 + rhs)
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        Self(self.0 - rhs)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, rhs: Self) -> Duration {
        self.0.since(rhs.0)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, rhs: Duration) {
        *self = *self - rhs;
    }
}

/// A future that ends at a deadline at the latest.
#[derive(Debug)]
pub(super) struct Timeout<F> {
    future: Pin<Box<F>>,
    timer: Sleep,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut self.timer).poll(cx).map(|()| Err(Elapsed))
    }
}

/// The executor's random numbers: seeded in the simulator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random;

impl rand_core::RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        (rt::random::u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        rt::random::u64()
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        for part in dest.chunks_mut(8) {
            part.copy_from_slice(&rt::random::u64().to_le_bytes()[..part.len()]);
        }
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

/// Sends one value to another task.
pub(super) struct Sender<T>(OneSender<T>);

impl<T> Debug for Sender<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> AsyncOneshotSendExt<T> for Sender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = rt::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = rt::JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = Random;
    type OneshotSender<T: OptionalSend> = Sender<T>;
    type OneshotReceiverError = Canceled;
    type OneshotReceiver<T: OptionalSend> = OneReceiver<T>;

    fn spawn<T>(future: T) -> rt::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        rt::spawn(future)
    }

    fn sleep(duration: Duration) -> Sleep {
        rt::time::sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        rt::time::sleep_until(deadline.0)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), timer: rt::time::sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Instant, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), timer: rt::time::sleep_until(deadline.0) }
    }

    fn is_panic(_error: &rt::JoinError) -> bool {
        // A panic of a task is a panic of its executor, which nobody survives to ask.
        false
    }

    fn thread_rng() -> Random {
        Random
    }

    fn oneshot<T: OptionalSend>() -> (Sender<T>, OneReceiver<T>) {
        let (sender, receiver) = rt::sync::oneshot();
        (Sender(sender), receiver)
    }
}
