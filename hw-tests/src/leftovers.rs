//! Who owns a directory of ours, and the removal of what an interrupted owner left mounted.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};

use crate::deadline::poll_until;
use crate::loop_device::{self, DETACH_LIMIT, LoopError};
use crate::mounts;
use crate::tool::ToolError;

/// Holds the pid and start time of the owner, so that a pid used anew does not count.
pub(crate) const OWNER_FILE: &str = "owner";
/// Bit of SIGKILL in the signal masks of `/proc/PID/status`.
const SIGKILL_BIT: u64 = 1 << 8;

/// How long killed processes may take to end.
const ENDING_LIMIT: Duration = Duration::from_secs(10);

/// Why a directory could not be taken or cleaned.
#[derive(Debug, thiserror::Error)]
pub enum LeftoverError {
    /// A living process works there.
    #[error("{} is in use by process {pid}; wait for it or end it", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Its owner.
        pid: u32,
    },
    /// A mount could not be removed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A loop device could not be removed.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// The directory or the mount table cannot be read or written.
    #[error("cannot work in {}: {source}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A claim on a directory; falls with the process or on drop.
#[derive(Debug)]
pub(crate) struct Claim {
    dir: PathBuf,
}

impl Claim {
    /// Makes `dir` if absent, removes what a dead owner left there, and claims it.
    pub(crate) fn take(dir: &Path) -> Result<Self, LeftoverError> {
        let io = |source| LeftoverError::Io { dir: dir.to_path_buf(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        cleanup_stale(dir)?;
        let dir = dir.canonicalize().map_err(io)?;
        let pid = std::process::id();
        let started = start_time(pid).unwrap_or_default();
        std::fs::write(dir.join(OWNER_FILE), format!("{pid} {started}\n")).map_err(io)?;
        Ok(Self { dir })
    }

    /// The canonical directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Without it the next one finds a claim of a dead process, which is as good.
        let _ = std::fs::remove_file(self.dir.join(OWNER_FILE));
    }
}

/// Removes what an interrupted run left of the media in `dir`: file systems mounted from or below it, loop devices on
/// files below it, the FUSE mount. Files stay. A directory that does not exist is clean.
///
/// A server that was killed while one of its threads waited for itself is blocked in the kernel; ending the FUSE
/// connection from here releases it.
///
/// # Errors
/// [`LeftoverError::InUse`] if a living process owns `dir`.
pub fn cleanup_stale(dir: &Path) -> Result<(), LeftoverError> {
    let io = |source| LeftoverError::Io { dir: dir.to_path_buf(), source };
    let dir = match canonical(dir) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    if let Some(pid) = living_owner(&dir) {
        return Err(LeftoverError::InUse { dir, pid });
    }
    let table = mounts::table().map_err(io)?;
    let ours: Vec<_> = table.iter().filter(|mounted| mounted.point.starts_with(&dir)).collect();
    // First end the FUSE connections: whatever waits for a dead server goes on, with an error.
    for mounted in ours.iter().filter(|mounted| mounted.kind.starts_with("fuse")) {
        mounts::abort_fuse(&mounted.point);
    }
    let loops = loop_device::on_files_below(&dir);
    for mounted in table.iter().rev() {
        if loops.iter().any(|device| device.path() == mounted.source) {
            mounts::unmount(&mounted.point)?;
        }
    }
    for device in &loops {
        device.detach(DETACH_LIMIT)?;
    }
    for mounted in ours.iter().rev() {
        if mounts::is_mounted(&mounted.point) {
            mounts::unmount(&mounted.point)?;
        }
    }
    match std::fs::remove_file(dir.join(OWNER_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(error)),
        _ => Ok(()),
    }
}

/// As [`Path::canonicalize`], but asks no server of a mount at `dir` itself, which may never answer; ends its connection.
fn canonical(dir: &Path) -> io::Result<PathBuf> {
    if let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let point = parent.canonicalize()?.join(name);
        if mounts::is_mounted(&point) {
            mounts::abort_fuse(&point);
            return Ok(point);
        }
    }
    dir.canonicalize()
}

/// From now on processes whose parent has ended are children of this one: daemons that went into the background.
///
/// # Errors
/// Those of `prctl(2)`.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Kills the children of this process that are left, but for those in `spared`, with all that they started, and collects
/// them. One that does not end although it was killed waits in the kernel: it is named and left.
pub fn end_children(spared: &[u32]) {
    let none_left = || {
        let mut left = 0;
        for child in children_of(std::process::id()).into_iter().filter(|pid| !spared.contains(pid)) {
            let Some(child) = Pid::from_raw(child.cast_signed()) else { continue };
            // It may be ending by itself. Its own children are ours next.
            let _ended = rustix::process::kill_process(child, Signal::KILL);
            let _collected = rustix::process::waitpid(Some(child), WaitOptions::NOHANG);
            left += 1;
        }
        (left == 0).then_some(())
    };
    if poll_until(ENDING_LIMIT, none_left).is_none() {
        eprintln!("left behind: children of {} that do not end", std::process::id());
    }
}

/// The children of a process, by the fourth field of `/proc/PID/stat`, see proc(5).
fn children_of(parent: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent_of = |stat: &str| stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok();
        if parent_of(&stat) == Some(parent) {
            children.push(pid);
        }
    }
    children
}

/// The process that claimed `dir`, if it lives.
fn living_owner(dir: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(dir.join(OWNER_FILE)).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let pid: u32 = pid.parse().ok()?;
    (start_time(pid)? == started.parse().ok()? && !is_dying(pid)).then_some(pid)
}

/// Start of a process in clock ticks since boot: field 22 of `/proc/PID/stat`, see proc(5).
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, a name in parentheses, may hold anything.
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// Whether a process has ended or has a SIGKILL pending that a blocked thread keeps from taking effect.
fn is_dying(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    status.lines().any(|line| match line.split_once(':') {
        Some(("State", state)) => matches!(state.trim().chars().next(), Some('Z' | 'X')),
        Some(("SigPnd" | "ShdPnd", mask)) => {
            u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & SIGKILL_BIT != 0)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_of_a_living_process_holds_and_a_dead_one_does_not() {
        let dir = std::env::temp_dir().join(format!("vstorage-claim-{}", std::process::id()));
        assert!(cleanup_stale(&dir).is_ok(), "a directory that is not there is clean");
        let claim = Claim::take(&dir).expect("free");
        let refused = Claim::take(&dir).expect_err("we live");
        assert!(
            matches!(refused, LeftoverError::InUse { pid, .. } if pid == std::process::id()),
            "{refused}"
        );
        // The same pid with another start time is another process, long gone.
        std::fs::write(dir.join(OWNER_FILE), format!("{} 1\n", std::process::id())).expect("writable");
        drop(Claim::take(&dir).expect("the owner is gone"));
        drop(claim);
        assert!(!dir.join(OWNER_FILE).exists());
        std::fs::remove_dir_all(&dir).expect("removable");
    }

    #[test]
    fn a_zombie_is_dying() {
        let mut child = std::process::Command::new("true").spawn().expect("starts");
        let pid = child.id();
        let seen =
            crate::deadline::poll_until(std::time::Duration::from_secs(10), || is_dying(pid).then_some(()));
        assert!(seen.is_some());
        child.wait().expect("ends");
        assert!(!is_dying(std::process::id()));
    }
}
