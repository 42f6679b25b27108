//! Waiting for a descriptor that is read by calls of its owner: a kernel device that has no asynchronous form.

use std::io;
use std::os::fd::OwnedFd;

use io_uring::opcode;

use crate::context::{self, Driver};
use crate::uring::{Keep, Registered, outcome};

/// A descriptor that can be waited for.
#[derive(Debug)]
pub struct Readable {
    registered: Registered,
}

impl Readable {
    /// Takes a descriptor, a duplicate of the one that is read.
    ///
    /// # Errors
    /// Those of registering it.
    ///
    /// # Panics
    /// In the simulator, which has no descriptors.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let ring = context::with(|core| match &core.driver {
            Driver::Uring(ring) => ring.clone(),
            Driver::Sim(_) => panic!("the simulator has no descriptors"),
        });
        Ok(Self { registered: Registered::new(&ring, fd)? })
    }

    /// Waits until reading would not wait: there is something, or an error to be told.
    ///
    /// # Errors
    /// Those of `poll(2)`.
    pub async fn ready(&self) -> io::Result<()> {
        let events = libc::POLLIN as u32;
        let entry =
            crate::uring::entry_for!(self.registered.target(), |fd| opcode::PollAdd::new(fd, events).build());
        let (result, _) = self.registered.ring().submit(entry, Keep::Nothing).cancel_on_drop().await;
        outcome(result).map(drop)
    }
}
