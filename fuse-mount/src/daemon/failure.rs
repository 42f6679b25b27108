//! Why the daemon gave up, in words that tell the operator what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use client::{HostError, StateError};
use link::AskError;
use rt::StartError;

/// Why the daemon gave up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No executor.
    #[error(transparent)]
    Start(#[from] StartError),
    /// What this host knows of the cluster.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The run-time directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// No log.
    #[error(transparent)]
    Log(#[from] link::daemon::LogError),
    /// No metadata server answers.
    #[error(
        "no metadata server of cluster '{cluster}' answered within {} s: {error}; check that they run, and that {list:?} \
         names them", waited.as_secs()
    )]
    NoMaster {
        /// The cluster.
        cluster: String,
        /// How long we waited.
        waited: Duration,
        /// The list of servers.
        list: PathBuf,
        /// What happened last.
        #[source]
        error: AskError,
    },
    /// No session.
    #[error("the metadata server of cluster '{cluster}' gives no session: {error}")]
    Session {
        /// The cluster.
        cluster: String,
        /// What it said.
        #[source]
        error: AskError,
    },
    /// No directory to mount at.
    #[error("cannot mount at {dir:?}: {error}; make the directory first")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        #[source]
        error: io::Error,
    },
    /// Something is mounted there.
    #[error("{dir:?} is a mount point of {what} already; unmount that first, or choose another directory")]
    Taken {
        /// The directory.
        dir: PathBuf,
        /// What is mounted.
        what: String,
    },
    /// The mount failed.
    #[error(
        "cannot mount at {dir:?}: {error}; this needs root, /dev/fuse and the kernel's FUSE (`modprobe fuse`)"
    )]
    Mount {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Files that were not flushed.
    #[error("{files} files were not closed in order, see the log; what was synced before is kept")]
    Unfinished {
        /// How many.
        files: usize,
    },
    /// Told to stop twice.
    #[error("stopped by a second signal; what was not synced may be lost")]
    Impatient,
    /// The process in the background ended before it was mounted.
    #[error("the daemon ended with {0} before the cluster was mounted")]
    Died(std::process::ExitStatus),
    /// Anything else of the system.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        error: io::Error,
    },
}

impl Failure {
    pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::System { what, error }
    }
}
