//! Why an operation on a volume failed for good. What can be waited for is waited for.

use link::AskError;
use wire::Status;

/// Why a volume could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The metadata server refused, or did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// What it answered makes no sense.
    #[error("the metadata server gave an invalid {0}")]
    Answer(&'static str),
    /// This very session has the file open: the metadata server grants a file to a session once.
    #[error("the file is open in this process already")]
    AlreadyOpen,
}

impl OpenError {
    /// The status, if the metadata server refused.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Ask(AskError::Status { status, .. }) => Some(*status),
            _ => None,
        }
    }
}

/// Why an operation on an open volume failed for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// The range is not inside the volume.
    #[error("bytes {offset} to {} are not inside the volume of {size} bytes", offset.saturating_add(*len))]
    Range {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Size of the volume.
        size: u64,
    },
    /// Opened for reading only.
    #[error("the volume is open for reading only")]
    ReadOnly,
    /// Another client holds the lease now, or the file is gone: this open is dead for ever (C1).
    #[error("the lease is lost: {0}")]
    LeaseLost(String),
    /// No member has good data (C8).
    #[error("no replica of block {block} of chunk {index} is intact")]
    Corrupt {
        /// Index of the chunk in the file.
        index: u64,
        /// Block in the chunk.
        block: u32,
    },
    /// Every member of a chunk rebooted, or the last one that did not is damaged, while acknowledged writes were not flushed: they may be
    /// lost (C4).
    #[error(
        "unflushed writes may be lost: all replicas of a chunk restarted or are damaged; reopen the volume"
    )]
    WritesLost,
    /// A chunk server says that the request is wrong: a bug on one of both sides.
    #[error("refused by chunk server {cs}: {text}")]
    Refused {
        /// Which.
        cs: u64,
        /// What it said.
        text: String,
    },
    /// The cluster is full, and the volume does not wait for space.
    #[error("the cluster has no free space")]
    NoSpace,
    /// The volume was closed.
    #[error("the volume is closed")]
    Closed,
}
