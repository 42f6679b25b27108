//! Why a command failed, and with which exit code.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use link::discovery::DnsError;

use crate::attributes::AttributeError;
use crate::cluster::ClusterError;
use crate::guest::GuestError;
use crate::listen::NotOursError;
use crate::mds::MdsError;
use crate::mounted::MountedError;
use crate::password::PasswordError;
use crate::program::ProgramError;
use crate::service::ServiceError;

/// Exit code of a command line that makes no sense. `clap` uses it, too.
const USAGE: u8 = 2;

/// A command line that was read and makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Misuse {
    /// Attributes that do not go together.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// `set-attr` without attributes.
    #[error("no attribute to set: add NAME=VALUE ({})", crate::attributes::NAMES)]
    NoAttribute,
    /// A path of this host that is none of a mounted cluster.
    #[error(transparent)]
    Mounted(#[from] MountedError),
    /// A path of a mounted cluster, and another cluster named.
    #[error("{path} is a path of cluster '{found}', which is mounted there, and -c names '{named}'")]
    OtherMount {
        /// The path.
        path: String,
        /// Whose it is.
        found: String,
        /// The one named.
        named: String,
    },
    /// `-p` with a text that is no path within the cluster.
    #[error("{path:?}: {error}")]
    Path {
        /// The text.
        path: String,
        /// What is wrong with it.
        #[source]
        error: crate::path::PathError,
    },
    /// `make-mds` without `-I`.
    #[error("this version makes the first metadata server of a new cluster only: add -I")]
    SecondMds,
    /// A local directory with `..` in it.
    #[error("{0:?}: give the directory without \"..\"")]
    DotDot(PathBuf),
    /// A command that makes a cluster must be told its name.
    #[error("name the new cluster with -c NAME")]
    NewClusterUnnamed,
    /// The host of a metadata server cannot be authenticated like others.
    #[error(
        "this host runs a metadata server of cluster '{0}' and is authenticated; if its credentials are lost, restore them from a backup"
    )]
    FounderAgain(String),
    /// No such node.
    #[error("there is no node {0:?} that is a member: see list-nodes -a")]
    NoNode(String),
    /// No such chunk server.
    #[error("there is no chunk server CS#{0}: see list-services -C")]
    NoCs(u64),
    /// No such metadata server.
    #[error("there is no metadata server MDS#{0}: see list-services -M")]
    NoMds(u64),
    /// A name of several nodes.
    #[error("several nodes are called {name:?}: give a number ({})", numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))]
    ManyNodes {
        /// The name.
        name: String,
        /// Whose it is.
        numbers: Vec<u64>,
    },
    /// The top directory has no name to take away.
    #[error("the top directory cannot be removed or renamed")]
    Root,
    /// A Unix socket's path is too long.
    #[error("{0:?}: the path of a socket can have at most 107 bytes")]
    SocketPath(PathBuf),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line makes no sense.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// What this host knows of the cluster does not suffice.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The metadata servers do not answer, or refuse.
    #[error(transparent)]
    Mds(#[from] MdsError),
    /// A visit with nothing but the password.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// There is no password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// A daemon's program cannot be run.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// An address to listen at is none of this host's.
    #[error(transparent)]
    NotOurs(#[from] NotOursError),
    /// Somebody let the chunk server stay.
    #[error("CS#{0} is not being removed any more: somebody has cancelled it")]
    RemovalCancelled(u64),
    /// A cluster without a metadata server is none.
    #[error("MDS#{0} is the only metadata server of the cluster and cannot be removed; nothing was changed")]
    LastMds(u64),
    /// The address of a metadata server stays as it was made.
    #[error(
        "{dir:?}: a metadata server keeps the address it was made with in this version; nothing was changed (asked for: {})",
        meant.join(", ")
    )]
    AddressStays {
        /// Its directory.
        dir: PathBuf,
        /// The addresses wanted.
        meant: Vec<String>,
    },
    /// There is no such parameter.
    #[error("there is no parameter whose name begins with {prefix:?}; there are {}", alike.join(", "))]
    NoParameter {
        /// What was asked for.
        prefix: String,
        /// Those that begin most like it.
        alike: Vec<String>,
    },
    /// A service of this host cannot be started or stopped.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// There is no executor.
    #[error(transparent)]
    Start(#[from] rt::StartError),
    /// There is no log.
    #[error(transparent)]
    Log(#[from] link::daemon::LogError),
    /// A shrink that was not asked for.
    #[error(
        "{path} has {now} bytes; making it {wanted} bytes long destroys what lies behind: add --shrink if that is meant"
    )]
    WouldShrink {
        /// The file.
        path: String,
        /// Its size.
        now: u64,
        /// The size wanted.
        wanted: u64,
    },
    /// A mounted path and the cluster do not agree.
    #[error(
        "{given}: on the mount there is another file than {path} in cluster '{cluster}', as its metadata servers have it; it was \
         renamed just now, or the mount is of another cluster of that name: nothing was done; try again, or give \
         the path within the cluster with -p"
    )]
    NotTheSame {
        /// The path on this host.
        given: String,
        /// The path in the cluster.
        path: String,
        /// The cluster.
        cluster: String,
    },
    /// The end of a file that its last writer did not close.
    #[error(
        "{path} was not closed by its last writer, and what that left behind its end cannot be removed: {error}; nothing was changed"
    )]
    Unsettled {
        /// The file.
        path: String,
        /// Why.
        #[source]
        error: Box<dyn std::error::Error>,
    },
    /// Nobody knows where the metadata servers of a cluster are.
    #[error("cannot find the metadata servers of cluster '{cluster}': {error}")]
    Discovery {
        /// The cluster.
        cluster: String,
        /// Why.
        #[source]
        error: DnsError,
    },
    /// Results cannot be written.
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
    /// The terminal does not do what it is told.
    #[error("cannot use the terminal: {0}")]
    Terminal(#[source] io::Error),
    /// All that is to be said has been said.
    #[error("failed")]
    Reported,
}

impl Error {
    /// The exit code.
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Misuse(_) | Self::Cluster(ClusterError::NotNamed { .. }) => ExitCode::from(USAGE),
            // Whoever reads our output has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }

    /// Whether the operator is told nothing more.
    pub(crate) fn is_silent(&self) -> bool {
        match self {
            Self::Reported => true,
            Self::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}
