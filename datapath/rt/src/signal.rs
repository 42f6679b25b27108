//! Signals as something to wait for.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::opcode;

use crate::buf::Buf;
use crate::context::{self, Driver};
use crate::uring::{Keep, Registered, outcome};

/// Requests to stop: SIGTERM and SIGINT.
#[derive(Debug)]
pub struct StopSignals {
    registered: Registered,
}

fn stop_set() -> libc::sigset_t {
    // SAFETY: `sigemptyset` initialises the set; the signal numbers are valid.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        set
    }
}

/// Keeps SIGTERM and SIGINT from ending the process at once. Call it in `main`, before any thread starts: threads
/// inherit it.
///
/// # Errors
/// Those of `pthread_sigmask(3)`.
pub fn block_stop_signals() -> io::Result<()> {
    let set = stop_set();
    // SAFETY: the set is initialised and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

impl StopSignals {
    /// Listens for the signals that [`block_stop_signals`] holds back.
    ///
    /// # Errors
    /// Those of `signalfd(2)`.
    ///
    /// # Panics
    /// In the simulator, whose processes are stopped by its world.
    pub fn listen() -> io::Result<Self> {
        let set = stop_set();
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let raw = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let ring = context::with(|core| match &core.driver {
            Driver::Uring(ring) => ring.clone(),
            Driver::Sim(_) => panic!("simulated processes get no signals"),
        });
        Ok(Self { registered: Registered::new(&ring, fd)? })
    }

    /// Waits for the next request to stop and gives the signal's number.
    ///
    /// # Errors
    /// Those of `read(2)`.
    pub async fn next(&mut self) -> io::Result<i32> {
        let size = size_of::<libc::signalfd_siginfo>();
        let mut buf = Buf::new(size);
        let (start, len) = (buf.as_mut_ptr(), size as u32);
        let entry =
            crate::uring::entry_for!(self.registered.target(), |fd| opcode::Read::new(fd, start, len)
                .build());
        let (result, keep) = self.registered.ring().submit(entry, Keep::Buf(buf)).cancel_on_drop().await;
        outcome(result)?;
        let Keep::Buf(buf) = keep else { unreachable!("an operation gives back what it kept") };
        let number = buf.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes));
        number.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
