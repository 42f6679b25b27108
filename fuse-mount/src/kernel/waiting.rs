//! Requests that somebody waits for, and callers that are being killed while they do.
//!
//! A program that is killed ends only when what it waits for is answered. So the caller of a request that the kernel
//! interrupts is looked at until it is answered; if it is being killed, it gets EINTR at once, and what was asked for is
//! carried out without it, unless that could undo what others do meanwhile. Other signals wait, as they do on a disk.

use std::cell::RefCell;
use std::collections::BTreeMap;

use rt::sync::Notify;

/// Bit of SIGKILL in a set of signals; the kernel adds it for every signal that ends a process.
const KILL: u64 = 1 << (libc::SIGKILL - 1);

/// Requests that are not answered, with the thread that waits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    threads: RefCell<BTreeMap<u64, Option<u32>>>,
    /// A caller was let go.
    let_go: Notify,
}

impl Waiting {
    /// A request was read; `thread` is that of a caller who need not wait for it.
    pub(super) fn add(&self, unique: u64, thread: Option<u32>) {
        self.threads.borrow_mut().insert(unique, thread);
    }

    /// Whether a request is still to be answered; afterwards it is not.
    pub(super) fn take(&self, unique: u64) -> bool {
        self.threads.borrow_mut().remove(&unique).is_some()
    }

    /// The caller of a request does not wait any longer.
    pub(super) fn say_let_go(&self) {
        self.let_go.notify_all();
    }

    /// Waits until the caller of this request does not wait any longer.
    pub(super) async fn let_go(&self, unique: u64) {
        loop {
            let let_go = self.let_go.notified();
            if !self.threads.borrow().contains_key(&unique) {
                return;
            }
            let_go.await;
        }
    }

    /// The thread that waits for this request and need not.
    pub(super) fn thread(&self, unique: u64) -> Option<u32> {
        self.threads.borrow().get(&unique).copied().flatten()
    }
}

/// Whether a thread is being killed. One that cannot be looked at is not.
pub(super) fn is_dying(thread: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status"));
    status.is_ok_and(|status| has_kill(&status))
}

fn has_kill(status: &str) -> bool {
    let sets =
        status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")));
    sets.filter_map(|set| u64::from_str_radix(set.trim(), 16).ok()).any(|set| set & KILL != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dying_are_known_by_their_signals() {
        let status = |own: u64, shared: u64| {
            format!(
                "Name:\tdd\nSigQ:\t0/1\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{KILL:016x}\n"
            )
        };
        for (own, shared, dying) in
            [(0, 0, false), (KILL, 0, true), (0, KILL, true), (!KILL, !KILL, false), (u64::MAX, 0, true)]
        {
            assert_eq!(has_kill(&status(own, shared)), dying, "{own:x} {shared:x}");
        }
        assert!(!is_dying(std::process::id()));
        assert!(!is_dying(0));
    }

    #[test]
    fn each_request_is_answered_once() {
        let waiting = Waiting::default();
        waiting.add(5, Some(100));
        assert_eq!(waiting.thread(5), Some(100));
        assert!(waiting.take(5));
        assert!(!waiting.take(5));
        assert_eq!(waiting.thread(5), None);
    }
}
