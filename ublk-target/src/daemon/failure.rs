//! Why the daemon gave up, in words that tell the operator what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use client::{HostError, OpenError, StateError, VolumeError};
use link::AskError;
use rt::StartError;
use wire::{ErrorBody, Status};

use super::args::Nbd;
use super::socket::SocketError;

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
    /// No place to listen.
    #[error(transparent)]
    Socket(#[from] SocketError),
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
    /// No such volume.
    #[error(
        "there is no volume {path} in cluster '{cluster}'; `vstorage -c {cluster} ls {directory}` shows what there is, \
         `vstorage -c {cluster} create {path} --size SIZE` makes one"
    )]
    NoVolume {
        /// The cluster.
        cluster: String,
        /// The volume's path.
        path: String,
        /// The directory it would be in.
        directory: String,
    },
    /// A directory.
    #[error("{0} is a directory; give the path of a volume")]
    Directory(String),
    /// Somebody else has it.
    #[error(
        "{path} is in use by client {client}{}; stop it there, or take the lease away with `vstorage -c {cluster} revoke \
         {path}`. A client that died loses it by itself within a minute or so",
        if host.is_empty() { String::new() } else { format!(" on host {host}") }
    )]
    Held {
        /// The cluster.
        cluster: String,
        /// The volume's path.
        path: String,
        /// Id of the client that has the lease.
        client: u64,
        /// Its host.
        host: String,
    },
    /// Any other refusal.
    #[error("cannot open {path} in cluster '{cluster}': {error}")]
    Open {
        /// The cluster.
        cluster: String,
        /// The volume's path.
        path: String,
        /// Why.
        #[source]
        error: OpenError,
    },
    /// The last flush failed, or the volume was lost before.
    #[error("{path} was not closed in order: {error}; what clients had flushed before is kept")]
    Close {
        /// The volume's path.
        path: String,
        /// Why.
        #[source]
        error: VolumeError,
    },
    /// Something did not end in time.
    #[error(
        "{path} was not closed in order: {unfinished} requests did not end, or the last flush did not, because chunk \
         servers do not answer; what clients had flushed before is kept. Start this again to go on"
    )]
    Unfinished {
        /// The volume's path.
        path: String,
        /// Requests that nobody answered.
        unfinished: usize,
    },
    /// A second signal.
    #[error(
        "{path} was not closed in order: stopped by a second signal; what clients had flushed before is kept"
    )]
    Impatient {
        /// The volume's path.
        path: String,
    },
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

    /// Why the metadata servers gave no session.
    pub(super) fn session(nbd: &Nbd, list: PathBuf, error: AskError) -> Self {
        let cluster = nbd.cluster.as_str().to_owned();
        match error {
            AskError::Call(_) => Self::NoMaster { cluster, waited: nbd.wait(), list, error },
            error => Self::Session { cluster, error },
        }
    }

    /// Why a volume was not opened.
    pub(super) fn open(nbd: &Nbd, list: PathBuf, error: OpenError) -> Self {
        let (cluster, path) = (nbd.cluster.as_str().to_owned(), nbd.path.as_str().to_owned());
        match error {
            OpenError::Ask(error @ AskError::Call(_)) => Self::session(nbd, list, error),
            OpenError::Ask(AskError::Status { status: Status::NotFound, .. }) => {
                Self::NoVolume { cluster, path, directory: nbd.path.directory().to_owned() }
            }
            OpenError::Ask(AskError::Status { status: Status::IsADirectory, .. }) => Self::Directory(path),
            OpenError::Ask(AskError::Status { status: Status::LeaseHeld, error }) => {
                let ErrorBody { detail: client, hint: host, .. } = error;
                Self::Held { cluster, path, client, host }
            }
            error => Self::Open { cluster, path, error },
        }
    }
}
