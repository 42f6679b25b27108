//! Why a measurement cannot be made.

use std::io;

/// Why a measurement cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] hw_tests::cluster::ClusterError),
    /// A process of ours.
    #[error(transparent)]
    Process(#[from] hw_tests::process::ProcessError),
    /// The mount.
    #[error(transparent)]
    Mount(#[from] hw_tests::mount::MountError),
    /// The medium in memory.
    #[error(transparent)]
    Ram(#[from] hw_tests::ram_medium::RamError),
    /// The directory.
    #[error(transparent)]
    Dir(#[from] hw_tests::own_dir::OwnDirError),
    /// The export.
    #[error(transparent)]
    Nbd(#[from] hw_tests::nbd::NbdError),
    /// The executor.
    #[error(transparent)]
    Start(#[from] rt::StartError),
    /// The volume.
    #[error(transparent)]
    Volume(#[from] client::VolumeError),
    /// Something on the way to the volume.
    #[error("{0}")]
    Access(String),
    /// An operation failed.
    #[error("{what} was answered with error {error}")]
    Refused {
        /// Which operation.
        what: &'static str,
        /// The error number.
        error: u32,
    },
    /// A worker printed something else than its result.
    #[error("the worker for {target} printed no result: {output}")]
    NoResult {
        /// What it measured.
        target: String,
        /// What it printed.
        output: String,
    },
}

impl Error {
    /// For `map_err`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// For `map_err`, where the error's text says everything.
    pub(crate) fn access(error: impl std::fmt::Display) -> Self {
        Self::Access(error.to_string())
    }
}
