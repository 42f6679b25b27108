//! Why a sub-command failed; the text says what to do.

use std::net::SocketAddr;
use std::path::PathBuf;

use link::cluster_dir::BadClusterName;
use link::servers::AddressError;
use link::{AuthorityError, CredentialsError};
use rt::StartError;

use super::password::PasswordError;
use super::settings::SettingsError;
use crate::server::ServerError;

/// Why a sub-command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Bad cluster name.
    #[error(transparent)]
    Name(#[from] BadClusterName),
    /// A cluster name that is good for a directory, but not for the metadata.
    #[error("{0:?} is no cluster name: it has more than 63 characters, or begins with -")]
    LongName(String),
    /// Something else than a new cluster was asked for.
    #[error("metadata servers cannot be added to a cluster yet: make a new cluster with -I")]
    NotInit,
    /// Not an address.
    #[error(
        "{text:?} is no address of a metadata server: {error}; give ADDRESS or ADDRESS:PORT, such as 10.30.100.101:2510"
    )]
    Address {
        /// What was given.
        text: String,
        /// Why not.
        #[source]
        error: AddressError,
    },
    /// A name without an address.
    #[error("cannot find the address of {host:?}: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// Why not.
        #[source]
        error: std::io::Error,
    },
    /// An address that means all of them.
    #[error("{0} is no address at which others reach this host: give one of its own addresses")]
    Unspecified(std::net::IpAddr),
    /// The address is another host's.
    #[error("{0} is not an address of this host: give one that `ip address` shows")]
    ForeignAddress(std::net::IpAddr),
    /// Somebody else uses the port.
    #[error("port {} of {} is in use by another program: choose two free ports with -a {}:PORT", .0.port(), .0.ip(), .0.ip())]
    PortInUse(SocketAddr),
    /// Any other trouble with the address.
    #[error("cannot listen at {address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The host belongs to such a cluster already.
    #[error(
        "this host knows a cluster {cluster:?} already ({}): choose another name, or remove that file if the cluster is gone",
        .path.display()
    )]
    ClusterExists {
        /// The name.
        cluster: String,
        /// A file of it.
        path: PathBuf,
    },
    /// The directory is used for something.
    #[error("{} is not empty ({found}): give an empty or a new directory", .dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// Something in it.
        found: String,
    },
    /// The path is no directory.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The directory is of another cluster.
    #[error("{} belongs to cluster {found:?}, not to {expected:?}", .dir.display())]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Its cluster.
        found: String,
        /// On the command line.
        expected: String,
    },
    /// No usable credentials.
    #[error(
        "{}: {error}; without it this host is no member of cluster {cluster:?}: restore it from a backup", .path.display()
    )]
    Credentials {
        /// The cluster.
        cluster: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: CredentialsError,
    },
    /// The authority beside the log cannot be used.
    #[error("{}: {error}; restore it from a backup", .path.display())]
    BadAuthority {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: AuthorityError,
    },
    /// No usable password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The settings beside the log.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No executor.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The authority of the new cluster.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The server itself.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Anything else of the system.
    #[error("cannot {what} {}: {error}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
}

impl Failure {
    /// Adds what was tried, and on which file, to what the system said.
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { what, path, error }
    }
}
