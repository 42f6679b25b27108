//! For the unit tests of this crate: an executor to run on.

use std::future::Future;

use rt::{Executor, ExecutorOptions};

/// Runs `main` on the real driver.
pub(crate) fn run<F: Future + 'static>(main: F) -> F::Output {
    Executor::start(&ExecutorOptions::default()).expect("io_uring works here").run(main)
}
