//! Child daemons of a test: started with a log file, waited for by what they print, ended in every rude way.
//!
//! Waiting is for events: a line on the standard output's pipe, the exit on a pidfd. A daemon runs in a process group
//! of its own; the group is killed with it, and the kernel kills it when the test process dies, however that dies
//! (`setpriv --pdeathsig`, from a thread that lives as long as the process).

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::deadline::{Deadline, poll_until};
use crate::tool::SETPRIV;

/// How long a killed or stopped process may take to be so; longer only if blocked in the kernel.
const SIGNAL_LIMIT: Duration = Duration::from_secs(10);
/// Unread lines kept per daemon; older ones are only in the log.
const LINES_KEPT: usize = 10_000;
/// Run between `setpriv` and the daemon with the test process's pid as `$0`: a death before `setpriv` asked for the
/// signal sends none, but shows as another parent.
const UNLESS_ORPHANED: &str = r#"test "$PPID" = "$0" && exec "$@""#;
/// Bytes of the log's end shown in errors.
const TAIL_BYTES: u64 = 2048;

/// What to start, and how.
#[derive(Debug, Clone)]
pub struct DaemonSpec {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    log: PathBuf,
}

impl DaemonSpec {
    /// A program, by path or by name in `PATH`, whose two outputs are appended to the file `log`.
    pub fn new(program: impl AsRef<OsStr>, log: impl Into<PathBuf>) -> Self {
        Self { program: program.as_ref().to_owned(), args: Vec::new(), env: Vec::new(), log: log.into() }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable besides those inherited.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The same, started by another program that takes these words before the program's own.
    #[must_use]
    pub fn under(mut self, starter: &[&str]) -> Self {
        if let Some((first, words)) = starter.split_first() {
            let program = std::mem::replace(&mut self.program, first.into());
            let own = std::mem::take(&mut self.args);
            self.args.extend(words.iter().map(OsString::from));
            self.args.push(program);
            self.args.extend(own);
        }
        self
    }

    /// Starts the daemon. The same description can be started again.
    ///
    /// # Errors
    /// [`ProcessError::Start`], [`ProcessError::Log`]. A program that does not exist shows as
    /// [`ProcessError::Ended`] from [`Daemon::wait_line`].
    pub fn start(&self) -> Result<Daemon, ProcessError> {
        Daemon::start(self)
    }

    fn name(&self) -> String {
        let path = Path::new(&self.program);
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }
}

/// Why a daemon is not where the test wants it.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It cannot be started.
    #[error("{name} cannot be started: {source}; its start needs setpriv of the Debian package util-linux")]
    Start {
        /// Program.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Its log cannot be opened.
    #[error("the log {} cannot be opened: {source}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended while the test waited for a line.
    #[error("{name} ended with {status} before it printed {wanted:?}; its log ends:\n{log_tail}")]
    Ended {
        /// Program.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// What the test waited for.
        wanted: String,
        /// End of its log.
        log_tail: String,
    },
    /// The line did not come in time.
    #[error("{name} did not print {wanted:?} within {limit:?}; its log ends:\n{log_tail}")]
    Silent {
        /// Program.
        name: String,
        /// What the test waited for.
        wanted: String,
        /// How long.
        limit: Duration,
        /// End of its log.
        log_tail: String,
    },
    /// It did not end in time.
    #[error("{name} (pid {pid}) did not end within {limit:?}")]
    StillRuns {
        /// Program.
        name: String,
        /// Process id.
        pid: u32,
        /// How long.
        limit: Duration,
    },
    /// It did not stop in time.
    #[error("{name} (pid {pid}) did not stop")]
    NotStopped {
        /// Program.
        name: String,
        /// Process id.
        pid: u32,
    },
    /// A signal or a wait failed: it had ended already.
    #[error("{name} (pid {pid}) cannot be signalled or waited for: {source}")]
    Gone {
        /// Program.
        name: String,
        /// Process id.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
}

/// A running (or ended) child. Dropping it kills it and its process group.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    child: Child,
    pidfd: OwnedFd,
    pid: Pid,
    lines: Arc<Lines>,
    status: Option<ExitStatus>,
}

impl Daemon {
    fn start(spec: &DaemonSpec) -> Result<Self, ProcessError> {
        let name = spec.name();
        let open_log = || OpenOptions::new().create(true).append(true).open(&spec.log);
        let log_error = |source| ProcessError::Log { path: spec.log.clone(), source };
        let (log, errors) = (open_log().map_err(log_error)?, open_log().map_err(log_error)?);

        let mut command = Command::new(SETPRIV.program);
        command.args([
            "--pdeathsig",
            "KILL",
            "--",
            "sh",
            "-c",
            UNLESS_ORPHANED,
            &std::process::id().to_string(),
        ]);
        command.arg(&spec.program).args(&spec.args);
        command.envs(spec.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).process_group(0);

        let start_error = |source| ProcessError::Start { name: name.clone(), source };
        let mut child = spawn_from_lasting_thread(command).map_err(start_error)?;
        let pid = Pid::from_child(&child);
        let lines = Arc::new(Lines::default());
        let prepared = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(io::Error::from)
            .and_then(|pidfd| read_lines(child.stdout.take(), log, &lines).map(|()| pidfd));
        match prepared {
            Ok(pidfd) => Ok(Self { name, log: spec.log.clone(), child, pidfd, pid, lines, status: None }),
            Err(source) => {
                // Without a pidfd there is no Daemon whose drop would do it.
                let _ = child.kill().and_then(|()| child.wait());
                Err(start_error(source))
            }
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line on standard output that contains `wanted`, and returns it. Earlier lines are passed over.
    ///
    /// # Errors
    /// [`ProcessError::Ended`] if the daemon ends before, [`ProcessError::Silent`] after `limit`.
    pub fn wait_line(&mut self, wanted: &str, limit: Duration) -> Result<String, ProcessError> {
        let log_tail = |log: &Path| tail(log).unwrap_or_else(|error| format!("({error})"));
        match self.lines.wait_for(wanted, Deadline::after(limit)) {
            Awaited::Line(line) => Ok(line),
            Awaited::Closed => {
                let status = self.wait_exit(SIGNAL_LIMIT)?;
                let (name, log_tail) = (self.name.clone(), log_tail(&self.log));
                Err(ProcessError::Ended { name, status, wanted: wanted.to_owned(), log_tail })
            }
            Awaited::Nothing => {
                let (name, log_tail) = (self.name.clone(), log_tail(&self.log));
                Err(ProcessError::Silent { name, wanted: wanted.to_owned(), limit, log_tail })
            }
        }
    }

    /// Sends a signal to the daemon alone.
    ///
    /// # Errors
    /// [`ProcessError::Gone`] if it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        if self.status.is_some() {
            return Err(self.gone(io::Error::from(rustix::io::Errno::SRCH)));
        }
        rustix::process::pidfd_send_signal(&self.pidfd, signal).map_err(|errno| self.gone(errno.into()))
    }

    /// SIGKILL; returns when the process is gone and its files are closed.
    pub fn kill(&mut self) -> Result<ExitStatus, ProcessError> {
        match self.status {
            Some(status) => Ok(status),
            None => {
                self.signal(Signal::KILL)?;
                self.wait_exit(SIGNAL_LIMIT)
            }
        }
    }

    /// SIGTERM; waits up to `limit` for an orderly end.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus, ProcessError> {
        self.signal(Signal::TERM)?;
        self.wait_exit(limit)
    }

    /// SIGSTOP; returns when all its threads stand still.
    pub fn pause(&self) -> Result<(), ProcessError> {
        self.signal(Signal::STOP)?;
        let options =
            WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let state =
            poll_until(SIGNAL_LIMIT, || rustix::process::waitid(WaitId::Pid(self.pid), options).transpose());
        match state {
            Some(Ok(state)) if state.stopped() => Ok(()),
            Some(Ok(_)) => Err(self.gone(io::Error::from(rustix::io::Errno::SRCH))),
            Some(Err(errno)) => Err(self.gone(errno.into())),
            None => Err(ProcessError::NotStopped { name: self.name.clone(), pid: self.pid() }),
        }
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<(), ProcessError> {
        self.signal(Signal::CONT)
    }

    /// Waits up to `limit` for the end; what is left of the process group is killed then.
    ///
    /// # Errors
    /// [`ProcessError::StillRuns`].
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus, ProcessError> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        if !self.has_ended(limit).map_err(|source| self.gone(source))? {
            return Err(ProcessError::StillRuns { name: self.name.clone(), pid: self.pid(), limit });
        }
        // Before the wait: the ended leader still keeps the group's number from being used anew.
        self.kill_group();
        let status = self.child.wait().map_err(|source| self.gone(source))?;
        self.status = Some(status);
        Ok(status)
    }

    /// Whether it still runs (or is stopped).
    pub fn is_running(&mut self) -> bool {
        self.status.is_none() && !self.has_ended(Duration::ZERO).unwrap_or(true)
    }

    fn has_ended(&self, limit: Duration) -> io::Result<bool> {
        let deadline = Deadline::after(limit);
        loop {
            let left = rustix::event::Timespec::try_from(deadline.remaining()).map_err(io::Error::other)?;
            match rustix::event::poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn kill_group(&self) {
        // An empty group is the aim.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }

    fn gone(&self, source: io::Error) -> ProcessError {
        ProcessError::Gone { name: self.name.clone(), pid: self.pid(), source }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.status.is_some() {
            return;
        }
        self.kill_group();
        if let Err(error) = self.wait_exit(SIGNAL_LIMIT) {
            eprintln!("left behind: {error}");
        }
    }
}

/// The lines a daemon printed that nobody has read yet.
#[derive(Debug, Default)]
struct Lines {
    unread: Mutex<Unread>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Unread {
    lines: VecDeque<String>,
    closed: bool,
}

enum Awaited {
    Line(String),
    Closed,
    Nothing,
}

impl Lines {
    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: String) {
        let mut unread = self.unread();
        if unread.lines.len() == LINES_KEPT {
            unread.lines.pop_front();
        }
        unread.lines.push_back(line);
        self.changed.notify_all();
    }

    fn close(&self) {
        self.unread().closed = true;
        self.changed.notify_all();
    }

    fn wait_for(&self, wanted: &str, deadline: Deadline) -> Awaited {
        let mut unread = self.unread();
        loop {
            while let Some(line) = unread.lines.pop_front() {
                if line.contains(wanted) {
                    return Awaited::Line(line);
                }
            }
            if unread.closed {
                return Awaited::Closed;
            }
            if deadline.passed() {
                return Awaited::Nothing;
            }
            let waited = self.changed.wait_timeout(unread, deadline.remaining());
            unread = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Starts the thread that copies the pipe to the log and to `lines`, until the pipe's last writer has gone.
fn read_lines(pipe: Option<ChildStdout>, mut log: File, lines: &Arc<Lines>) -> io::Result<()> {
    let Some(pipe) = pipe else { return Err(io::Error::from(io::ErrorKind::BrokenPipe)) };
    let lines = Arc::clone(lines);
    let copy = move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            // A full disk must not stop the reading: the daemon would block on its pipe.
            let _ = log.write_all(&line);
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
        lines.close();
    };
    std::thread::Builder::new().name("daemon-output".to_owned()).spawn(copy).map(drop)
}

/// The last bytes of a log.
fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

type SpawnJob = (Command, Sender<io::Result<Child>>);

/// Starts `command` from a thread that lives as long as this process: the death signal is sent when the *thread* that
/// made the child ends, and test threads are short-lived.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<SpawnJob>> = OnceLock::new();
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = mpsc::channel::<SpawnJob>();
        let serve = move || {
            for (mut command, answer) in inbox {
                // The asker waits for the answer.
                let _ = answer.send(command.spawn());
            }
        };
        // If no thread can be made, the inbox is dropped and every send below fails.
        let _ = std::thread::Builder::new().name("daemon-spawner".to_owned()).spawn(serve);
        jobs
    });
    let (answer, outcome) = mpsc::channel();
    spawner.send((command, answer)).map_err(|_| gone())?;
    outcome.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests;
