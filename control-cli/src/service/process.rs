//! Processes that are not ours any more: whether they live, telling them to stop, and waiting for their end.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rt::time::Instant;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One run of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BootId(pub(crate) [u8; 16]);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A process and when it began: numbers of processes are used again, both together are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId {
    /// Its number.
    pub(crate) pid: i32,
    /// When it began, in the kernel's ticks since the machine did.
    pub(crate) began: u64,
}

impl ProcessId {
    /// The living process of this number, if there is one.
    ///
    /// # Errors
    /// Those of reading `/proc`.
    pub(crate) fn of(pid: i32) -> io::Result<Option<Self>> {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(text) => Ok(parse_stat(&text).map(|began| Self { pid, began })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // It ended while we read.
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// When a process began, by `/proc/PID/stat`; `None` if it has ended and nobody has asked for its exit code yet.
fn parse_stat(text: &str) -> Option<u64> {
    // The name of the program is in brackets and may hold anything, brackets and blanks too.
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X" | "x");
    // The state is field 3, the time is field 22.
    let began = fields.nth(18)?.parse().ok()?;
    alive.then_some(began)
}

/// A hold on a living process, which no other process can slip under.
#[derive(Debug)]
pub(crate) struct Handle {
    fd: OwnedFd,
    /// Its number.
    pub(crate) pid: i32,
}

impl Handle {
    /// Takes hold of a process; `None` if it has ended.
    ///
    /// # Errors
    /// Those of `pidfd_open(2)` and of reading `/proc`.
    pub(crate) fn of(process: ProcessId) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(process.pid) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // In this order: if the one under this number is still the one that was meant, so is the one we hold.
        let same = ProcessId::of(process.pid)? == Some(process);
        Ok(same.then_some(Self { fd, pid: process.pid }))
    }

    /// Sends a signal. To a process that has ended it is lost.
    ///
    /// # Errors
    /// Those of `pidfd_send_signal(2)`.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Err(Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Handle {
    /// Readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until one of the descriptors can be read or has come to its end; says for each whether it has. None has when
/// the deadline has passed.
///
/// # Errors
/// Those of `poll(2)`.
pub(crate) fn wait_for_any(fds: &[BorrowedFd<'_>], deadline: Instant) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    loop {
        let left = deadline.since(rt::time::now());
        // Seconds that do not fit are as good as for ever.
        let left = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut polled, Some(&left)) {
            Ok(_) => return Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    fn run<F: Future + 'static>(main: F) -> F::Output {
        rt::Executor::start(&rt::ExecutorOptions::default()).expect("io_uring works here").run(main)
    }

    #[test]
    fn the_name_of_a_program_cannot_mislead() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20 21";
        assert_eq!(parse_stat(&format!("7 (csd) {tail}")), Some(424_242));
        assert_eq!(parse_stat(&format!("7 (a) Z 1 (b)) {tail}")), Some(424_242));
        assert_eq!(parse_stat(&format!("7 (csd) {}", tail.replacen('S', "Z", 1))), None);
        assert_eq!(parse_stat("7 (csd) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn only_the_process_meant_is_held() {
        run(async {
            let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
            let pid = child.id() as i32;
            let process = ProcessId::of(pid).unwrap().expect("it lives");
            let later = ProcessId { began: process.began + 1, ..process };
            assert!(Handle::of(later).unwrap().is_none(), "another process of that number");
            let handle = Handle::of(process).unwrap().expect("it lives");
            let soon = || rt::time::now() + Duration::from_millis(30);
            assert_eq!(wait_for_any(&[handle.as_fd()], soon()).unwrap(), [false]);
            handle.signal(Signal::TERM).unwrap();
            let patient = rt::time::now() + Duration::from_secs(20);
            assert_eq!(wait_for_any(&[handle.as_fd()], patient).unwrap(), [true]);
            assert_eq!(ProcessId::of(pid).unwrap(), None, "it waits to be asked for its exit code");
            child.wait().unwrap();
            assert!(Handle::of(process).unwrap().is_none());
            handle.signal(Signal::TERM).unwrap();
        });
    }
}
