//! Notices to the kernel, from a thread of their own.
//!
//! The kernel may hold an inode's lock, or drop the last reference to an inode and write its pages back, before it takes a
//! notice: then it waits for answers of ours. So no notice is sent where requests are answered.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::abi::{self, Body};

/// What the kernel knows of an inode is old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Old {
    /// Its attributes.
    Attributes,
    /// Its attributes and its data.
    Data,
}

/// What is to be said: each thing once, however often it was asked for meanwhile.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeSet<(u64, Old)>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// The way to the thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Notices(Arc<Shared>);

impl Notices {
    /// Starts the thread, which sends by `file`.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(super) fn start(file: File) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let send = move |ino, old| {
            // Inodes that the kernel has forgotten meanwhile need no notice.
            if let Err(error) = rustix::io::write(&file, &notice(ino, old)) {
                tracing::debug!("a notice to the kernel: {error}");
            }
        };
        std::thread::Builder::new().name("notices".into()).spawn(move || theirs.run(send))?;
        Ok(Self(shared))
    }

    /// Has the kernel told. Returns at once.
    pub(super) fn tell(&self, ino: u64, old: Old) {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.waiting.insert((ino, old));
        drop(queue);
        self.0.changed.notify_one();
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn run(&self, send: impl Fn(u64, Old)) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some((ino, old)) = queue.waiting.pop_first() {
                drop(queue);
                send(ino, old);
                queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            } else if queue.ended {
                return;
            } else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// FUSE_NOTIFY_INVAL_INODE.
fn notice(ino: u64, old: Old) -> Vec<u8> {
    let mut notice = Body::default();
    let body_len = 24;
    notice.u32((abi::OUT_HEADER + body_len) as u32).u32(abi::NOTIFY_INVAL_INODE.cast_unsigned()).u64(0);
    // Data from here on; from -1 on is none.
    let from = match old {
        Old::Attributes => u64::MAX,
        Old::Data => 0,
    };
    notice.u64(ino).u64(from).u64(0);
    notice.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn whoever_tells_does_not_wait_for_the_kernel() {
        let (ours, mut kernel) = UnixStream::pair().unwrap();
        let notices = Notices::start(File::from(std::os::fd::OwnedFd::from(ours))).unwrap();
        // More than the other side takes without reading.
        for ino in 0..100_000 {
            notices.tell(ino, Old::Data);
        }
        notices.tell(7, Old::Data);
        drop(notices);
        let mut all = Vec::new();
        kernel.read_to_end(&mut all).unwrap();
        let inodes: BTreeSet<u64> =
            all.chunks(40).map(|one| u64::from_ne_bytes(one[16..24].try_into().unwrap())).collect();
        assert_eq!(inodes.len(), 100_000, "each is told, also those that waited when the mount ended");
    }

    #[test]
    fn a_notice_is_as_the_kernel_wants_it() {
        let bytes = notice(9, Old::Attributes);
        assert_eq!(bytes.len(), 40);
        assert_eq!(bytes[..8], [40u32.to_ne_bytes(), 2u32.to_ne_bytes()].concat());
        assert_eq!(bytes[24..32], (-1i64).to_ne_bytes());
        assert_eq!(notice(9, Old::Data)[24..40], [0; 16]);
    }
}
