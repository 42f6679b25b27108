//! Time: a clock that runs during suspend, sleeping, and deadlines.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::context;
use crate::timers::TimerId;

/// A point on the boot-time clock (`CLOCK_BOOTTIME`), which never goes back and runs during suspend; leases
/// are measured on it (C1). In the simulator: virtual nanoseconds since the world began, as the host counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// From nanoseconds of the clock's own epoch.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's own epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` until `self`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time that has passed since this point.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        now().since(self)
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The present moment on the boot-time clock.
#[must_use]
pub fn now() -> Instant {
    Instant(context::with(|core| core.now_nanos()))
}

/// Milliseconds since 1970-01-01 UTC by the wall clock, which may jump: for stamps that people read, never
/// for a decision about safety.
#[must_use]
pub fn wall_clock_ms() -> u64 {
    context::with(|core| core.wall_clock_ms())
}

/// Completes once `duration` has passed.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Completes once the clock has reached `deadline`.
#[must_use = "a timer runs only while it is awaited"]
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, timer: None }
}

/// The future of [`sleep`] and [`sleep_until`].
#[derive(Debug)]
pub struct Sleep {
    deadline: Instant,
    timer: Option<TimerId>,
}

impl Sleep {
    /// When this timer fires.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        context::with(|core| {
            if core.now_nanos() >= self.deadline.0 {
                if let Some(timer) = self.timer.take() {
                    core.timers.borrow_mut().cancel(timer);
                }
                return Poll::Ready(());
            }
            let mut timers = core.timers.borrow_mut();
            match self.timer {
                Some(timer) => timers.set_waker(timer, cx.waker()),
                None => self.timer = Some(timers.insert(core.timer_at(self.deadline.0), cx.waker().clone())),
            }
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            context::try_with(|core| core.timers.borrow_mut().cancel(timer));
        }
    }
}

/// A deadline passed before the future it guarded was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("deadline passed")]
pub struct Elapsed;

/// Runs `future` for at most `duration`.
///
/// # Errors
/// [`Elapsed`] when the time ran out; the future is dropped then. Operations it had started keep their buffers
/// until the kernel has let go of them.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    timeout_at(now() + duration, future).await
}

/// Runs `future` until `deadline` at the latest.
///
/// # Errors
/// As [`timeout`].
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    let mut future = std::pin::pin!(future);
    let mut timer = std::pin::pin!(sleep_until(deadline));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        timer.as_mut().poll(cx).map(|()| Err(Elapsed))
    })
    .await
}
