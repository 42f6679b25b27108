//! What can go wrong with the log: when it is opened, and while it is used.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::Flaw;
use super::recover::Corruption;

/// Why the directory of a metadata server could not be created or opened. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none.
    #[error("{} holds no metadata server; create one there with `vstorage make-mds`", .0.display())]
    NotCreated(PathBuf),
    /// There is one already.
    #[error("{} holds a metadata server already; give another directory, or remove this one first", .0.display())]
    Exists(PathBuf),
    /// There are segments of a log, but nothing that says whose.
    #[error(
        "{} holds a metadata log but no file `identity`: a creation that was interrupted, or a damaged directory; \
         give another directory, or remove this one if you are sure that it was never in use", .0.display()
    )]
    Leftovers(PathBuf),
    /// Another process uses it.
    #[error("{} is in use by another process; stop that metadata server first", .0.display())]
    InUse(PathBuf),
    /// A file is not what it should be.
    #[error("{} is {what}; put the right file in its place, or restore the whole directory from a backup", .path.display())]
    Strange {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: Strangeness,
    },
    /// A newer version has written it.
    #[error("{} was written by a newer version of vstorage; start that version, or a later one", .0.display())]
    Newer(PathBuf),
    /// The log is damaged.
    #[error("{}: {corruption}", .dir.display())]
    Corrupt {
        /// The directory.
        dir: PathBuf,
        /// How.
        corruption: Corruption,
    },
    /// The file system takes no direct I/O.
    #[error("the file system of {} takes no direct I/O; put the metadata server on ext4 or xfs", .0.display())]
    NoDirectIo(PathBuf),
    /// Anything else the system said.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    /// Adds what was tried, and on which file, to what the system said.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }

    pub(super) fn strange(path: &Path, what: Strangeness) -> Self {
        Self::Strange { path: path.to_owned(), what }
    }
}

/// What a file is instead of what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Strangeness {
    /// It begins with other bytes.
    #[error("not a file of a metadata server")]
    Magic,
    /// Its own CRC is wrong.
    #[error("damaged (its CRC is wrong)")]
    Crc,
    /// It has fewer bytes than it was made with.
    #[error("shorter than it was made")]
    Short,
    /// It belongs to another server or directory.
    #[error("of another metadata server")]
    Foreign,
    /// Its name and its content differ.
    #[error("not the file its name says")]
    Name,
}

/// Whether there is no room, or none that this user may have: it may come back.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A write, a flush or a read of the log failed. What the disk holds is not known now, so the log takes nothing more and
/// the process must end; the next start finds out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogFailure {
    /// The system said so.
    #[error("cannot {what} {}: {source}; the metadata server stops, check the disk and start it again", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// An entry that was written does not come back as it was.
    #[error("{}, byte {offset}: {flaw}; the metadata server stops, check the disk", .path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Byte in it.
        offset: u64,
        /// What is wrong there.
        flaw: Flaw,
    },
    /// The log was closed.
    #[error("the metadata log was closed")]
    Closed,
}

impl LogFailure {
    /// Adds what was tried, and on which file, to what the system said.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source: Arc::new(source) }
    }
}
