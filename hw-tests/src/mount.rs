//! A cluster mounted by a `vstorage-mount` in the foreground, which is a child of the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::cluster::{Cluster, NAME, READY_LIMIT, STOP_LIMIT, environment};
use crate::process::{Daemon, DaemonSpec, ProcessError};

/// Why a mount is not where the test wants it.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The daemon.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A directory or program.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// `umount` failed.
    #[error("umount: {0}")]
    Unmount(String),
    /// The daemon ended, but not in order.
    #[error("the daemon of {} ended with {status}", point.display())]
    Disorderly {
        /// Where it was mounted.
        point: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
    },
}

/// A mounted cluster. Dropping it kills its daemon.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    spec: DaemonSpec,
    daemon: Option<Daemon>,
}

impl Mount {
    /// Mounts the cluster at `point` with these options after `-o`; the log goes to the cluster's, named `name`.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn make(
        cluster: &Cluster,
        binaries: &Path,
        name: &str,
        point: &Path,
        options: &str,
    ) -> Result<Self, MountError> {
        std::fs::create_dir_all(point)
            .map_err(|source| MountError::Io { what: "cannot make a mount point", source })?;
        let log = cluster.dir().join("log").join(format!("{name}.log"));
        let mut spec = DaemonSpec::new(binaries.join("vstorage-mount"), log)
            .args(["-f", "-c", NAME, "-o", options])
            .arg(point);
        for (variable, value) in environment(cluster.dir()) {
            spec = spec.env(variable, value);
        }
        let mut mount = Self { point: point.to_owned(), spec, daemon: None };
        mount.mount()?;
        Ok(mount)
    }

    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Process id of the daemon while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Mounts it again.
    ///
    /// # Errors
    /// [`MountError::Process`].
    pub fn mount(&mut self) -> Result<(), MountError> {
        let mut daemon = self.spec.start()?;
        daemon.wait_line("ready:", READY_LIMIT)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Unmounts it; the daemon must end in order by itself.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn unmount(&mut self) -> Result<(), MountError> {
        umount(&self.point)?;
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let status = daemon.wait_exit(STOP_LIMIT)?;
        self.in_order(status)
    }

    /// SIGTERM; the daemon must unmount and end in order.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn terminate(&mut self) -> Result<(), MountError> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let status = daemon.terminate(STOP_LIMIT)?;
        self.in_order(status)
    }

    /// SIGKILL; the dead mount stays.
    ///
    /// # Errors
    /// [`MountError::Process`].
    pub fn kill(&mut self) -> Result<(), MountError> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
        }
        Ok(())
    }

    fn in_order(&self, status: std::process::ExitStatus) -> Result<(), MountError> {
        match status.success() {
            true => Ok(()),
            false => Err(MountError::Disorderly { point: self.point.clone(), status }),
        }
    }
}

/// Unmounts whatever is mounted at `point`.
///
/// # Errors
/// [`MountError`].
pub fn umount(point: &Path) -> Result<(), MountError> {
    let done = Command::new("umount").arg(point).output();
    let Output { status, stderr, .. } =
        done.map_err(|source| MountError::Io { what: "cannot run umount", source })?;
    match status.success() {
        true => Ok(()),
        false => Err(MountError::Unmount(String::from_utf8_lossy(&stderr).into_owned())),
    }
}

/// Takes away what an interrupted run has left mounted at `point`, whoever uses it.
pub fn clear(point: &Path) {
    let lazily = || Command::new("umount").arg("-l").arg(point).output();
    while lazily().is_ok_and(|out| out.status.success()) {}
}
