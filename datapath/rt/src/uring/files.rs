//! The ring's table of registered files.

use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, types};

use super::Ring;
use crate::launch::StartError;

/// Free slots of the file table.
#[derive(Debug)]
pub(super) struct Files {
    vacant: Vec<u32>,
}

impl Files {
    pub(super) fn register(ring: &IoUring, files_max: u32) -> Result<Self, StartError> {
        // The kernel refuses a table larger than the limit of open files.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let count = files_max.min(u32::try_from(limit).unwrap_or(u32::MAX));
        ring.submitter().register_files_sparse(count).map_err(|error| StartError::from_setup(&error))?;
        Ok(Self { vacant: (0..count).rev().collect() })
    }
}

/// A file's place in the table; leaves it when dropped. Operations under way keep the file open in the kernel.
#[derive(Debug)]
pub(crate) struct Registered {
    ring: Ring,
    slot: Option<u32>,
    raw: i32,
}

impl Registered {
    /// Puts `fd` into the table; when the table is full, operations name the descriptor itself.
    pub(crate) fn new(ring: &Ring, fd: BorrowedFd<'_>) -> std::io::Result<Self> {
        let raw = fd.as_raw_fd();
        let slot = ring.0.files.borrow_mut().vacant.pop();
        if let Some(slot) = slot {
            ring.0.ring.borrow().submitter().register_files_update(slot, &[raw]).inspect_err(|_| {
                ring.0.files.borrow_mut().vacant.push(slot);
            })?;
        }
        Ok(Self { ring: ring.clone(), slot, raw })
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Applies the operation builder to the registered slot or the plain descriptor.
    pub(crate) fn target(&self) -> Target {
        self.slot.map_or(Target::Plain(types::Fd(self.raw)), |slot| Target::Slot(types::Fixed(slot)))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            let cleared = self.ring.0.ring.borrow().submitter().register_files_update(slot, &[-1]);
            // A slot that could not be cleared is never used again.
            if cleared.is_ok() {
                self.ring.0.files.borrow_mut().vacant.push(slot);
            }
        }
    }
}

/// How an operation names its file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Slot(types::Fixed),
    Plain(types::Fd),
}

/// Builds an entry for either kind of target.
macro_rules! entry_for {
    ($target:expr, |$fd:ident| $entry:expr) => {
        match $target {
            $crate::uring::files::Target::Slot($fd) => $entry,
            $crate::uring::files::Target::Plain($fd) => $entry,
        }
    };
}
pub(crate) use entry_for;
