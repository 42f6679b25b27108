//! Work that has no asynchronous form, on threads of its own.
//!
//! For directory scans, locks and library calls that block; never for the data path. In the simulator the work runs
//! inline, so that it stays on the one thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::task::{Poll, Waker};

use crate::context::{self, Driver};

/// At most this many blocking jobs run at once; more wait their turn.
pub const THREADS_MAX: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

#[derive(Default)]
struct Pool {
    queue: Mutex<Queue>,
    added: Condvar,
}

impl Pool {
    fn submit(&'static self, job: Job) -> std::io::Result<()> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.jobs.push_back(job);
        if queue.idle >= queue.jobs.len() || queue.threads >= THREADS_MAX {
            drop(queue);
            self.added.notify_one();
            return Ok(());
        }
        let started = std::thread::Builder::new().name("blocking".into()).spawn(|| self.work());
        match started {
            Ok(_detached) => {
                queue.threads += 1;
                Ok(())
            }
            // The job stays queued for the threads there are.
            Err(_) if queue.threads > 0 => Ok(()),
            Err(error) => {
                queue.jobs.pop_back();
                Err(error)
            }
        }
    }

    fn work(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            } else {
                queue.idle += 1;
                queue = self.added.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }
}

struct Slot<T> {
    result: Option<std::thread::Result<T>>,
    waker: Option<Waker>,
}

/// Runs `work` on a thread where it may block, and gives its result.
///
/// The work runs to its end even if the future is dropped.
///
/// # Errors
/// When no thread can be started for it.
///
/// # Panics
/// With the panic of `work`.
pub async fn run<T, F>(work: F) -> std::io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    static POOL: OnceLock<Pool> = OnceLock::new();
    if context::with(|core| matches!(core.driver, Driver::Sim(_))) {
        return Ok(work());
    }
    let slot = Arc::new(Mutex::new(Slot { result: None, waker: None }));
    let theirs = Arc::clone(&slot);
    POOL.get_or_init(Pool::default).submit(Box::new(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let mut slot = theirs.lock().unwrap_or_else(PoisonError::into_inner);
        slot.result = Some(result);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }))?;
    let result = std::future::poll_fn(|cx| {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    })
    .await;
    match result {
        Ok(value) => Ok(value),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
