//! What can stop a command before it has an outcome.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::packages;
use crate::stopwatch::Shown;

/// What can stop a command before it has an outcome.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A program could not be started.
    #[error("cannot start {program}: {source}; install it or put it on PATH")]
    Spawn { program: String, source: io::Error },
    /// Waiting for a program failed.
    #[error("cannot wait for {program}: {source}")]
    Wait { program: String, source: io::Error },
    /// A program ended with something other than success.
    #[error("{program} ended with {status}")]
    Exit { program: String, status: ExitStatus },
    /// A program ran for longer than it may, and was killed with all its children.
    #[error("{program} was killed after {}: it had not ended", Shown(*.limit))]
    OutOfTime { program: String, limit: Duration },
    /// A program printed nothing for longer than it may, and was killed with all its children.
    #[error("{program} was killed: it had printed nothing for {}", Shown(*.limit))]
    Silent { program: String, limit: Duration },
    /// Whoever started the run was told to end.
    #[error("{program} was killed: the run was ended by a signal")]
    Ended { program: String },
    /// Whoever started the run was told to end before this was begun.
    #[error("{program} was not started: the run was ended by a signal")]
    NotBegun { program: String },
    /// `cargo metadata` printed something else than expected.
    #[error("cannot read the output of cargo metadata: {0}")]
    Metadata(#[from] serde_json::Error),
    /// A file of the repository could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// `tidy` compares with the history, so it needs one.
    #[error("{} is not a git checkout ({said}); tidy compares fixtures with their history: run it in a clone", root.display())]
    NotACheckout { root: PathBuf, said: String },
    /// A git command failed in a checkout.
    #[error("git {arguments} failed: {said}")]
    Git { arguments: String, said: String },
    /// Debian packages are missing and could not be installed.
    #[error(transparent)]
    Packages(#[from] packages::PackageError),
    /// A step of the quickstart failed.
    #[error("quickstart: {0}")]
    Quickstart(String),
    /// The simulator has no binary target.
    #[error("package sim has no binary target: there is nothing to run")]
    NoSimBinary,
    /// The range of seeds leaves the 64-bit numbers.
    #[error("seeds from {first}, {count} of them, go past 2^64-1: choose a smaller --first")]
    SeedRange { first: u64, count: u64 },
}
