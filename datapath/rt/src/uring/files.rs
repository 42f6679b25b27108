//! The ring's table of registered files.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use io_uring::{IoUring, types};

use super::Ring;
use crate::launch::StartError;

/// Free slots of the file table, and files that wait to leave it.
#[derive(Debug)]
pub(super) struct Files {
    vacant: Vec<u32>,
    retired: Vec<Retired>,
}

/// A file nobody uses any more but, perhaps, an operation that has not reached the kernel yet. The kernel looks at a
/// slot or descriptor only then: were either given to another file before, the operation would go to that one.
#[derive(Debug)]
struct Retired {
    slot: Option<u32>,
    fd: OwnedFd,
}

impl Files {
    pub(super) fn register(ring: &IoUring, files_max: u32) -> Result<Self, StartError> {
        // The kernel refuses a table larger than the limit of open files.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let count = files_max.min(u32::try_from(limit).unwrap_or(u32::MAX));
        ring.submitter().register_files_sparse(count).map_err(|error| StartError::from_setup(&error))?;
        Ok(Self { vacant: (0..count).rev().collect(), retired: Vec::new() })
    }

    /// Whether every file that was dropped is closed.
    pub(super) fn all_released(&self) -> bool {
        self.retired.is_empty()
    }

    /// Closes the files that have been dropped; every operation on them must have reached the kernel, which keeps
    /// them open for as long as it needs.
    pub(super) fn release(&mut self, ring: &IoUring) {
        for Retired { slot, fd } in self.retired.drain(..) {
            // A slot that could not be cleared is never used again.
            if let Some(slot) = slot
                && ring.submitter().register_files_update(slot, &[-1]).is_ok()
            {
                self.vacant.push(slot);
            }
            drop(fd);
        }
    }
}

/// An open file with its place in the table, which it leaves when it is dropped. Operations under way keep the file
/// open in the kernel.
#[derive(Debug)]
pub(crate) struct Registered {
    ring: Ring,
    slot: Option<u32>,
    /// `None` only while it is dropped.
    fd: Option<OwnedFd>,
}

impl Registered {
    /// Puts `fd` into the table; when the table is full, operations name the descriptor itself.
    pub(crate) fn new(ring: &Ring, fd: OwnedFd) -> std::io::Result<Self> {
        let slot = ring.0.files.borrow_mut().vacant.pop();
        if let Some(slot) = slot {
            let update = ring.0.ring.borrow().submitter().register_files_update(slot, &[fd.as_raw_fd()]);
            update.inspect_err(|_| ring.0.files.borrow_mut().vacant.push(slot))?;
        }
        Ok(Self { ring: ring.clone(), slot, fd: Some(fd) })
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The descriptor, for what is not done on the ring.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("there until it is dropped").as_fd()
    }

    /// Applies the operation builder to the registered slot or the plain descriptor.
    pub(crate) fn target(&self) -> Target {
        self.slot
            .map_or(Target::Plain(types::Fd(self.fd().as_raw_fd())), |slot| Target::Slot(types::Fixed(slot)))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            self.ring.0.files.borrow_mut().retired.push(Retired { slot: self.slot, fd });
            self.ring.release_files();
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

#[cfg(test)]
pub(super) mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use io_uring::opcode;

    use super::*;
    use crate::buf::View;
    use crate::context::{self, Driver};
    use crate::uring::Keep;
    use crate::{Executor, ExecutorOptions};

    /// Descriptors have the numbers that are free in the whole process: who counts on that is alone.
    static DESCRIPTORS: Mutex<()> = Mutex::new(());

    /// Waits until no other test opens files.
    pub(in crate::uring) fn alone() -> MutexGuard<'static, ()> {
        DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring() -> Ring {
        context::with(|core| match &core.driver {
            Driver::Uring(ring) => ring.clone(),
            Driver::Sim(_) => unreachable!("this test runs on a ring"),
        })
    }

    /// A write that is started and given up together with its file, while another file is opened.
    fn write_to_the_dead(files_max: u32) {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            File::options().read(true).write(true).create_new(true).open(dir.path().join(name)).unwrap()
        };
        let (dead, alive) = (make("dead"), make("alive"));
        let dead_again = dead.try_clone().unwrap();
        let options = ExecutorOptions { files_max, ..ExecutorOptions::default() };
        let alive = Executor::start(&options).unwrap().run(async move {
            let ring = ring();
            // Uses up a table of one place, so that descriptors are named themselves.
            let _first = Registered::new(&ring, dead_again.try_clone().unwrap().into()).unwrap();
            let number = dead.as_raw_fd();
            let registered = Registered::new(&ring, dead.into()).unwrap();
            let data = View::copy_of(b"for the dead file");
            let (start, len) = (data.first_byte(), data.len() as u32);
            let entry = entry_for!(registered.target(), |fd| opcode::Write::new(fd, start, len).build());
            drop(ring.submit(entry, Keep::View(data)));
            drop(registered);
            // The same turn, the same slot, and the same descriptor: the lowest that is free.
            let next: OwnedFd = alive.try_clone().unwrap().into();
            assert_eq!(next.as_raw_fd(), number);
            let registered = Registered::new(&ring, next).unwrap();
            crate::time::sleep(std::time::Duration::from_millis(20)).await;
            let mut found = [0; 17];
            dead_again.read_exact_at(&mut found, 0).unwrap();
            assert_eq!(&found, b"for the dead file");
            drop(registered);
            alive
        });
        assert_eq!(alive.metadata().unwrap().len(), 0, "it went to the file that took the place");
    }

    #[test]
    fn an_operation_never_reaches_the_file_that_took_its_files_place() {
        let _alone = alone();
        write_to_the_dead(64);
        write_to_the_dead(1);
    }
}
