//! Stopping services: SIGTERM, and waiting for the end. SIGKILL only when it is asked for.

use std::os::fd::AsFd;
use std::time::Duration;

use link::cluster_dir::ServiceKind;
use rt::time::Instant;
use rustix::process::Signal;

use super::holder::Holder;
use super::pid_file::PidFile;
use super::process::{BootId, Handle, wait_for_any};
use super::report::{Fate, Report, Reports};
use super::{Service, ServiceError};
use crate::cluster::Cluster;
use crate::error::Error;

/// How long the end of a killed process may take; only a disk that does not answer makes it longer.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// A service on its way down.
struct Stopping {
    service: Service,
    pid_file: PidFile,
    process: Handle,
}

/// How services are stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// How long to wait for their end.
    pub(crate) patience: Duration,
    /// Kill those that have not ended then.
    pub(crate) kill: bool,
}

/// Stops services, the metadata server after the others.
///
/// # Errors
/// [`Error::Reported`] when one still runs; what is wrong with our own files.
pub(crate) fn stop(
    cluster: &Cluster,
    boot: BootId,
    services: &[Service],
    manner: Manner,
    mut reports: Reports<'_>,
) -> Result<(), Error> {
    for kind in [ServiceKind::Cs, ServiceKind::Mds] {
        let mut stopping = Vec::new();
        for service in services.iter().filter(|service| service.kind == kind) {
            let pid_file = PidFile::of(cluster, service);
            let running =
                pid_file.read(boot)?.map(Handle::of).transpose().map_err(ServiceError::Wait)?.flatten();
            let process = match running {
                Some(process) => process,
                None => {
                    pid_file.remove()?;
                    // It may have been started by other means, or its file was lost.
                    match unlisted(service)? {
                        Ok(process) => process,
                        Err(report) => {
                            reports.add(report)?;
                            continue;
                        }
                    }
                }
            };
            process.signal(Signal::TERM).map_err(ServiceError::Wait)?;
            stopping.push(Stopping { service: service.clone(), pid_file, process });
        }
        let left = wait(stopping, rt::time::now() + manner.patience, Fate::Stopped, &mut reports)?;
        if manner.kill {
            for one in &left {
                one.process.signal(Signal::KILL).map_err(ServiceError::Wait)?;
            }
            let left = wait(left, rt::time::now() + KILL_PATIENCE, Fate::Killed, &mut reports)?;
            tell(
                &left,
                "it was killed and has not ended: it waits for a disk that does not answer",
                &mut reports,
            )?;
        } else {
            let text =
                format!("it has not ended within {} s; wait, or use --kill", manner.patience.as_secs());
            tell(&left, &text, &mut reports)?;
        }
    }
    reports.finish()
}

/// The process of a service that has no pid file, by the lock on its directory; what there is to say if it is not there
/// or not ours to stop.
fn unlisted(service: &Service) -> Result<Result<Handle, Report>, Error> {
    Ok(match Holder::of(service)? {
        Holder::Nobody => Err(Report::new(service, Fate::NotRunning)),
        Holder::Daemon(process) => Handle::of(process)
            .map_err(ServiceError::Wait)?
            .ok_or_else(|| Report::new(service, Fate::NotRunning)),
        Holder::Other(Some(pid)) => Err(Report::new(service, Fate::StillRunning)
            .pid(pid)
            .message("this process uses its directory and was not started as its service; end it yourself")),
        Holder::Other(None) => Err(Report::new(service, Fate::StillRunning).message(
            "a process that cannot be seen from here, as in another container, uses its directory; stop it there",
        )),
    })
}

/// Waits for the end of each; gives back those that have not ended by the deadline.
fn wait(
    mut stopping: Vec<Stopping>,
    deadline: Instant,
    fate: Fate,
    reports: &mut Reports<'_>,
) -> Result<Vec<Stopping>, Error> {
    while !stopping.is_empty() {
        let processes: Vec<_> = stopping.iter().map(|one| one.process.as_fd()).collect();
        let ended = wait_for_any(&processes, deadline).map_err(ServiceError::Wait)?;
        if !ended.contains(&true) {
            break;
        }
        let mut left = Vec::new();
        for (one, ended) in stopping.into_iter().zip(ended) {
            if ended {
                one.pid_file.remove()?;
                reports.add(Report::new(&one.service, fate).pid(one.process.pid))?;
            } else {
                left.push(one);
            }
        }
        stopping = left;
    }
    Ok(stopping)
}

fn tell(left: &[Stopping], text: &str, reports: &mut Reports<'_>) -> Result<(), Error> {
    for one in left {
        reports.add(Report::new(&one.service, Fate::StillRunning).pid(one.process.pid).message(text))?;
    }
    Ok(())
}
