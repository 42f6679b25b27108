//! The io_uring driver: one ring per executor thread, for files, sockets, timers and wakes.
//!
//! SINGLE_ISSUER and DEFER_TASKRUN: only this thread submits and only it runs completions, inside the one
//! `io_uring_enter` per turn that also submits and, when nothing is runnable, sleeps.
//! The ring's file table holds every open file, so a lock taken on a file falls only after the last operation
//! of a killed process has ended (C10).

mod file;
pub(crate) mod files;
mod ops;
mod pool;
mod recv;
mod socket;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::launch::{ExecutorOptions, StartError};
use crate::mailbox::Inbox;
use crate::timers::Timers;

pub(crate) use file::{UringFile, create_dir, remove_file, rename};
pub(crate) use files::{Registered, entry_for};
pub(crate) use ops::{Keep, Multi, Op};
pub(crate) use pool::PoolSlot;
pub(crate) use recv::Provided;
pub(crate) use socket::{UringListener, UringReader, UringWriter, connect};

/// `user_data` of completions nobody waits for (cancel requests).
const NOBODY: u64 = u64::MAX;
/// `user_data` of the read on the inbox's eventfd.
const EVENT: u64 = u64::MAX - 1;

/// A shared handle to this thread's ring.
#[derive(Clone)]
pub(crate) struct Ring(Rc<Inner>);

pub(crate) struct Inner {
    /// Declared first: the ring is closed before the memory its operations use goes away.
    ring: RefCell<IoUring>,
    ops: RefCell<ops::Ops>,
    files: RefCell<files::Files>,
    pool: RefCell<pool::Pool>,
    recv: RefCell<recv::RecvRing>,
    recv_room: crate::sync::Notify,
    /// Entries that found the submission queue full.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    completions: RefCell<Vec<(u64, i32, u32)>>,
    event: RefCell<Box<u64>>,
    inbox: Arc<Inbox>,
    enters: Cell<u64>,
}

impl Ring {
    pub(crate) fn start(options: &ExecutorOptions, inbox: Arc<Inbox>) -> Result<Self, StartError> {
        let ring = build(options)?;
        let files = files::Files::register(&ring, options.files_max)?;
        let pool = pool::Pool::register(&ring, options.pool_bytes_max)?;
        let recv = recv::RecvRing::register(&ring, options.recv_buffers)?;
        let ring = Self(Rc::new(Inner {
            ring: RefCell::new(ring),
            ops: RefCell::default(),
            files: RefCell::new(files),
            pool: RefCell::new(pool),
            recv: RefCell::new(recv),
            recv_room: crate::sync::Notify::new(),
            backlog: RefCell::default(),
            completions: RefCell::default(),
            event: RefCell::default(),
            inbox,
            enters: Cell::new(0),
        }));
        ring.arm_event();
        Ok(ring)
    }

    #[expect(clippy::unused_self, reason = "the clock belongs to the driver")]
    pub(crate) fn now_nanos(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
    }

    /// `io_uring_enter` calls so far.
    pub(crate) fn enters(&self) -> u64 {
        self.0.enters.get()
    }

    fn arm_event(&self) {
        let Some(event) = self.0.inbox.event() else { return };
        let target: *mut u64 = &raw mut **self.0.event.borrow_mut();
        let fd = types::Fd(std::os::fd::AsRawFd::as_raw_fd(event));
        self.push(opcode::Read::new(fd, target.cast(), 8).build().user_data(EVENT));
    }

    /// Queues an entry; it reaches the kernel with this turn's `io_uring_enter`.
    fn push(&self, entry: squeue::Entry) {
        let mut ring = self.0.ring.borrow_mut();
        let mut backlog = self.0.backlog.borrow_mut();
        // SAFETY: whatever the entry points to is kept by the operation table until its last completion.
        if !backlog.is_empty() || unsafe { ring.submission().push(&entry) }.is_err() {
            backlog.push_back(entry);
        }
    }

    fn flush_backlog(&self) {
        let mut ring = self.0.ring.borrow_mut();
        let mut backlog = self.0.backlog.borrow_mut();
        let mut queue = ring.submission();
        while let Some(entry) = backlog.front() {
            // SAFETY: as in `push`.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            backlog.pop_front();
        }
    }

    /// Submits what is queued, takes what has completed, and, if nothing else is runnable, sleeps until
    /// something completes or `deadline` (nanoseconds) passes.
    pub(crate) fn turn(&self, may_sleep: bool, timers: &RefCell<Timers>) {
        self.flush_backlog();
        let sleep = may_sleep && self.0.backlog.borrow().is_empty() && self.0.inbox.prepare_sleep();
        let outcome = if sleep {
            let deadline = timers.borrow_mut().next_deadline();
            self.enter_sleeping(deadline)
        } else {
            self.enter_polling()
        };
        self.0.inbox.end_sleep();
        if let Err(error) = outcome {
            match error.raw_os_error() {
                // Interrupted, timed out, or completions must be taken first: all are normal.
                Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => {}
                _ => panic!("io_uring_enter failed on a ring that was working: {error}"),
            }
        }
        self.release_files();
        self.reap();
    }

    /// Closes files that have been dropped. What is queued goes to the kernel before; where it cannot at the moment,
    /// they are closed after a later turn.
    fn release_files(&self) {
        if self.0.files.borrow().all_released() {
            return;
        }
        loop {
            self.flush_backlog();
            let mut ring = self.0.ring.borrow_mut();
            if ring.submission().is_empty() && self.0.backlog.borrow().is_empty() {
                return self.0.files.borrow_mut().release(&ring);
            }
            self.0.enters.set(self.0.enters.get() + 1);
            if ring.submit().is_err() {
                return;
            }
        }
    }

    fn enter_polling(&self) -> std::io::Result<usize> {
        let mut ring = self.0.ring.borrow_mut();
        let queue = ring.submission();
        let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        drop(queue);
        if idle {
            return Ok(0);
        }
        self.0.enters.set(self.0.enters.get() + 1);
        ring.submit()
    }

    fn enter_sleeping(&self, deadline: Option<u64>) -> std::io::Result<usize> {
        let mut ring = self.0.ring.borrow_mut();
        if !ring.completion().is_empty() {
            return ring.submit();
        }
        self.0.enters.set(self.0.enters.get() + 1);
        let Some(deadline) = deadline else { return ring.submit_and_wait(1) };
        let left = deadline.saturating_sub(self.now_nanos());
        let left = types::Timespec::new().sec(left / 1_000_000_000).nsec((left % 1_000_000_000) as u32);
        ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&left))
    }

    fn reap(&self) {
        let mut batch = std::mem::take(&mut *self.0.completions.borrow_mut());
        {
            let mut ring = self.0.ring.borrow_mut();
            batch.extend(ring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())));
        }
        for (user_data, result, flags) in batch.drain(..) {
            match user_data {
                NOBODY => {}
                EVENT => self.arm_event(),
                _ => self.complete(user_data, result, flags),
            }
        }
        *self.0.completions.borrow_mut() = batch;
    }

    fn complete(&self, user_data: u64, result: i32, flags: u32) {
        if cqueue::buffer_select(flags).is_some() {
            self.0.recv.borrow_mut().taken();
        }
        let done = self.0.ops.borrow_mut().complete(user_data, result, flags);
        // Outside the borrow: wakers and destructors may start or cancel operations.
        match done {
            ops::Completed::Wake(Some(waker)) => waker.wake(),
            ops::Completed::Wake(None) => {}
            ops::Completed::Orphan { keep, result, flags } => {
                if let Some(id) = cqueue::buffer_select(flags) {
                    self.give_back(id);
                }
                keep.dispose(result, flags);
            }
        }
    }

    /// Starts an operation; `keep` is what the kernel may touch until it has completed.
    pub(crate) fn submit(&self, entry: squeue::Entry, keep: Keep) -> Op {
        let id = self.0.ops.borrow_mut().start(keep);
        self.push(entry.user_data(id.user_data()));
        Op::new(self.clone(), id)
    }

    /// Starts an operation with many completions.
    pub(crate) fn submit_multi(&self, entry: squeue::Entry) -> Multi {
        let id = self.0.ops.borrow_mut().start_multi();
        self.push(entry.user_data(id.user_data()));
        Multi::new(self.clone(), id)
    }

    fn cancel(&self, id: ops::OpId) {
        self.push(opcode::AsyncCancel::new(id.user_data()).build().user_data(NOBODY));
    }

    /// Whether operations are still in the kernel whose results are not known.
    pub(crate) fn busy(&self) -> bool {
        let ops = self.0.ops.borrow();
        ops.in_flight() > ops.lingering()
    }

    /// Whether the kernel may still read memory of sends whose results are known: peers have not acknowledged them.
    pub(crate) fn lingers(&self) -> bool {
        self.0.ops.borrow().lingering() > 0
    }

    /// Returns a provided buffer.
    fn give_back(&self, id: u16) {
        self.0.recv.borrow_mut().give_back(id);
        self.0.recv_room.notify_one();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing the ring waits for no one; operations still running must not lose their memory. Executors drain
        // before they drop the ring, so this finds something only after a panic, or when a peer that is not there any
        // more has not acknowledged a zero-copy send.
        if self.ops.get_mut().in_flight() > 0 {
            std::mem::forget(std::mem::take(self.ops.get_mut()));
            self.pool.get_mut().leak();
            self.recv.get_mut().leak();
            std::mem::forget(std::mem::take(self.event.get_mut()));
        }
    }
}

/// Most threads of the kernel that work for a ring on files. A flush on a dead disk holds one for good, and with the kernel's four for each
/// CPU nothing would be flushed on another disk then. They are made when all others sleep.
const FILE_WORKERS: u32 = 256;

fn build(options: &ExecutorOptions) -> Result<IoUring, StartError> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
    builder.setup_clamp().setup_cqsize(options.ring_entries * 4);
    let ring = builder.build(options.ring_entries).map_err(|error| StartError::from_setup(&error))?;
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err(StartError::lacking("timed waits on io_uring"));
    }
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| StartError::from_setup(&error))?;
    for (code, name) in [
        (opcode::SendZc::CODE, "zero-copy send"),
        (opcode::AcceptMulti::CODE, "accept"),
        (opcode::RenameAt::CODE, "renameat"),
        (opcode::Fallocate::CODE, "fallocate"),
    ] {
        if !probe.is_supported(code) {
            return Err(StartError::lacking(name));
        }
    }
    // The second one is for all else, and stays.
    let workers = ring.submitter().register_iowq_max_workers(&mut [FILE_WORKERS, 0]);
    workers.map_err(|error| StartError::from_setup(&error))?;
    Ok(ring)
}

pub(crate) fn wall_clock_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec.max(0).cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
}

/// The outcome of a completion as an `io::Result`.
pub(crate) fn outcome(result: i32) -> std::io::Result<usize> {
    usize::try_from(result).map_err(|_| std::io::Error::from_raw_os_error(-result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_disk_leaves_threads_for_others() {
        let ring = build(&ExecutorOptions::default()).expect("io_uring works here");
        // With zeroes nothing is changed, and what is so is told.
        let mut workers = [0, 0];
        ring.submitter().register_iowq_max_workers(&mut workers).unwrap();
        assert_eq!(workers[0], FILE_WORKERS);
    }
}
