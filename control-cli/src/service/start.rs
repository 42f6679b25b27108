//! Starting services: detached from our terminal, with a log, until each says that it is ready.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use link::cluster_dir::{ETC_VARIABLE, LOG_VARIABLE, RESOLV_CONF_VARIABLE, RUN_VARIABLE, ServiceKind};
use rt::time::Instant;

use super::pid_file::PidFile;
use super::process::{BootId, Handle, ProcessId, wait_for_any};
use super::report::{Fate, Report, Reports};
use super::{Service, ServiceError};
use crate::cluster::Cluster;
use crate::error::Error;

/// What a daemon writes to standard output when it is ready begins so.
const READY: &str = "ready:";
/// What is said before that is kept up to here, in bytes.
const OUTPUT_MAX: usize = 64 << 10;
/// How many of its last lines of log are shown when a service ends at once.
const LOG_LINES: usize = 5;
/// How long a process that has closed its output may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// A service on its way up.
struct Starting {
    service: Service,
    process: ProcessId,
    pid_file: PidFile,
    child: Child,
    output: ChildStdout,
    said: Vec<u8>,
    log: PathBuf,
    log_start: u64,
}

/// How far a service has come.
enum Progress {
    /// Not there yet.
    Waiting,
    /// It said so, and this besides.
    Ready(String),
    /// It has closed its output, as the end of a process does.
    Ended,
}

/// Starts services, the metadata server before the others, and waits for each until the deadline.
///
/// # Errors
/// [`Error::Reported`] when one did not start; what is wrong with our own files.
pub(crate) fn start(
    cluster: &Cluster,
    boot: BootId,
    services: &[Service],
    patience: Duration,
    mut reports: Reports<'_>,
) -> Result<(), Error> {
    for kind in [ServiceKind::Mds, ServiceKind::Cs] {
        let mut starting = Vec::new();
        for service in services.iter().filter(|service| service.kind == kind) {
            match launch(cluster, boot, service) {
                Ok(Launch::Started(one)) => starting.push(*one),
                Ok(Launch::Running(pid)) => {
                    reports.add(Report::new(service, Fate::AlreadyRunning).pid(pid))?
                }
                Err(error) => reports.add(Report::new(service, Fate::Failed).message(error.to_string()))?,
            }
        }
        follow(starting, rt::time::now() + patience, patience, &mut reports)?;
    }
    reports.finish()
}

enum Launch {
    Started(Box<Starting>),
    Running(i32),
}

fn launch(cluster: &Cluster, boot: BootId, service: &Service) -> Result<Launch, Error> {
    let pid_file = PidFile::of(cluster, service);
    if let Some(process) = pid_file.read(boot)?
        && let Some(running) = Handle::of(process).map_err(ServiceError::Wait)?
    {
        return Ok(Launch::Running(running.pid));
    }
    let program = service.daemon().find()?;
    let log = cluster.dirs.log.join(format!("{}.log", service.file_stem()));
    let of_log = |error| ServiceError::File { path: log.clone(), error };
    let mut log_file = File::options().create(true).append(true).mode(0o640).open(&log).map_err(of_log)?;
    let log_start = log_file.seek(SeekFrom::End(0)).map_err(of_log)?;
    let own = std::env::current_exe()
        .map_err(|error| ServiceError::File { path: "/proc/self/exe".into(), error })?;
    let mut command = Command::new(&own);
    // We in between make the process leader of a session of its own before it becomes the daemon.
    command.arg(crate::command::detached::NAME).arg("--").arg(program).args([
        "run",
        "-c",
        &service.cluster,
        "-r",
    ]);
    // It runs elsewhere than we do: what was relative to our directory is not to its own.
    let dirs = &cluster.dirs;
    command.env(ETC_VARIABLE, &dirs.etc).env(LOG_VARIABLE, &dirs.log).env(RUN_VARIABLE, &dirs.run);
    command.env(RESOLV_CONF_VARIABLE, &dirs.resolv_conf);
    command.arg(&service.dir).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file);
    let mut child = command.spawn().map_err(|error| ServiceError::File { path: own, error })?;
    let output = child.stdout.take().unwrap_or_else(|| unreachable!("its output is a pipe"));
    let pid = i32::try_from(child.id()).unwrap_or_else(|_| unreachable!("process numbers are positive"));
    // It may have ended already; then the number is not used again before it is asked for its exit code.
    let process = ProcessId::of(pid).map_err(ServiceError::Wait)?.unwrap_or(ProcessId { pid, began: 0 });
    if let Err(error) = pid_file.write(process, boot, &service.dir) {
        // Nobody would find it again.
        child.kill().and_then(|()| child.wait()).map_err(ServiceError::Wait)?;
        return Err(error.into());
    }
    let service = service.clone();
    let said = Vec::new();
    Ok(Launch::Started(Box::new(Starting {
        service,
        process,
        pid_file,
        child,
        output,
        said,
        log,
        log_start,
    })))
}

/// Waits for all of them at once.
fn follow(
    mut starting: Vec<Starting>,
    deadline: Instant,
    patience: Duration,
    reports: &mut Reports<'_>,
) -> Result<(), Error> {
    while !starting.is_empty() {
        let outputs: Vec<_> = starting.iter().map(|one| one.output.as_fd()).collect();
        let heard = wait_for_any(&outputs, deadline).map_err(ServiceError::Wait)?;
        let late = !heard.contains(&true);
        let mut waiting = Vec::new();
        for (mut one, heard) in starting.into_iter().zip(heard) {
            let progress = if heard { one.listen().map_err(ServiceError::Wait)? } else { Progress::Waiting };
            match progress {
                Progress::Waiting if late => reports.add(one.late(patience))?,
                Progress::Waiting => waiting.push(one),
                Progress::Ready(message) => {
                    let report = Report::new(&one.service, Fate::Started).pid(one.process.pid);
                    reports.add(report.message(message))?;
                }
                Progress::Ended => reports.add(one.ended()?)?,
            }
        }
        starting = waiting;
    }
    Ok(())
}

impl Starting {
    fn listen(&mut self) -> io::Result<Progress> {
        let mut buffer = [0; 4096];
        let count = self.output.read(&mut buffer)?;
        if count == 0 {
            return Ok(Progress::Ended);
        }
        self.said.extend_from_slice(&buffer[..count]);
        if let Some(message) = ready_message(&self.said) {
            return Ok(Progress::Ready(message));
        }
        // Only the line that is not complete can still become the one we wait for.
        let complete = self.said.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.said.drain(..complete);
        self.said.truncate(OUTPUT_MAX);
        Ok(Progress::Waiting)
    }

    fn late(&self, patience: Duration) -> Report {
        let text =
            format!("not ready after {} s; it goes on, see {}", patience.as_secs(), self.log.display());
        Report::new(&self.service, Fate::NotReady).pid(self.process.pid).message(text)
    }

    fn ended(mut self) -> Result<Report, Error> {
        if let Some(handle) = Handle::of(self.process).map_err(ServiceError::Wait)? {
            let patience = rt::time::now() + END_PATIENCE;
            if !wait_for_any(&[handle.as_fd()], patience).map_err(ServiceError::Wait)?.contains(&true) {
                let text = format!(
                    "it closed its output without being ready; it goes on, see {}",
                    self.log.display()
                );
                return Ok(Report::new(&self.service, Fate::NotReady).pid(self.process.pid).message(text));
            }
        }
        let status = self.child.wait().map_err(ServiceError::Wait)?;
        self.pid_file.remove()?;
        let tail = log_tail(&self.log, self.log_start);
        let text = format!("it ended ({status}); {} says\n{tail}", self.log.display());
        Ok(Report::new(&self.service, Fate::Failed).message(text))
    }
}

/// What a complete line of output says beyond being ready.
fn ready_message(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let mut complete = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    complete.find_map(|line| line.strip_prefix(READY)).map(|rest| rest.trim().to_owned())
}

/// The last lines a service has logged since it was started.
fn log_tail(log: &Path, start: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(start))?;
        // Whatever made it end is near the end of not much.
        file.take(OUTPUT_MAX as u64).read_to_end(&mut bytes)
    });
    if let Err(error) = read {
        return format!("(cannot be read: {error})");
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        "(nothing)".to_owned()
    } else {
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_line_counts_as_ready() {
        assert_eq!(
            ready_message(b"ready: listens on 10.0.0.1:2511\n").as_deref(),
            Some("listens on 10.0.0.1:2511")
        );
        assert_eq!(ready_message(b"version 1\nready:\nmore").as_deref(), Some(""));
        assert_eq!(ready_message(b"ready: listens on 10.0"), None);
        assert_eq!(ready_message(b"not ready: yet\n"), None);
        assert_eq!(ready_message(b""), None);
    }

    #[test]
    fn the_tail_of_a_log_begins_with_this_start() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("log");
        let old = "old\n";
        std::fs::write(&log, format!("{old}1\n2\n\n3\n4\n5\n6\n")).unwrap();
        assert_eq!(log_tail(&log, old.len() as u64), "2\n3\n4\n5\n6");
        assert_eq!(log_tail(&log, 1000), "(nothing)");
        assert!(log_tail(&root.path().join("none"), 0).starts_with("(cannot be read"));
    }
}
