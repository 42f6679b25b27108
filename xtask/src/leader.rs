//! A run that cleans up after itself although it is told to end: the process that was started leads, and does nothing but
//! wait for a second one that does the work.
//!
//! ```text
//! cargo xtask test ── leader: ends by SIGTERM, SIGINT or SIGKILL like any program
//!                      └── worker, in a process group of its own: sees that the leader is gone, ends all it has started,
//!                          takes away what is mounted, and ends
//! ```
//!
//! Holding signals back instead would do so for every program that is started, too.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};

use crate::error::Error;
use crate::process;

/// Tells a worker that it is one.
const VARIABLE: &str = "VSTORAGE_XTASK_WORKER";

static LEADER: OnceLock<OwnedFd> = OnceLock::new();

/// What this process is to do.
pub(crate) enum Part {
    /// The work.
    Work,
    /// Nothing any more: a worker has done it, or has ended because it could not.
    Led(ExitCode),
}

/// Takes a part: as the first process starts a worker and waits for it, as a worker remembers the leader.
pub(crate) fn take_part() -> Result<Part, Error> {
    let program = || "xtask".to_owned();
    if std::env::var_os(VARIABLE).is_none() {
        let own = std::env::current_exe().map_err(|source| Error::Spawn { program: program(), source })?;
        let mut worker = Command::new(own);
        worker.args(std::env::args_os().skip(1)).env(VARIABLE, "1").process_group(0);
        // Of a worker that does not end in order something may be left.
        let _adopted = process::adopt_orphans();
        let status = worker.status().map_err(|source| Error::Spawn { program: program(), source })?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        if code.is_none() {
            complain!("error: the process that ran the stages ended with {status}");
            process::end_orphans();
        }
        return Ok(Part::Led(code.map_or(ExitCode::FAILURE, ExitCode::from)));
    }
    let parent = getppid().ok_or(io::ErrorKind::NotFound.into());
    let leader = parent.and_then(watch);
    // It is set here and nowhere else.
    let _first = LEADER.set(leader.map_err(|source| Error::Wait { program: program(), source })?);
    Ok(Part::Work)
}

fn watch(pid: Pid) -> io::Result<OwnedFd> {
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether there was a leader and it has ended: nobody waits for the result.
pub(crate) fn is_gone() -> bool {
    LEADER.get().is_some_and(has_ended)
}

fn has_ended(process: &OwnedFd) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_leader_is_seen() {
        assert!(!is_gone(), "there is none");
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let leader = watch(Pid::from_child(&child)).unwrap();
        assert!(!has_ended(&leader));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(has_ended(&leader));
    }
}
