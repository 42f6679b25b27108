//! What can go wrong with consensus.

use std::path::PathBuf;
use std::sync::Arc;

use openraft::error::Fatal;

use super::machine::RestoreError;
use super::message::MessageError;
use super::peers::Peer;
use crate::log::{LogFailure, LogId, NodeId, OpenError, SnapshotError};

/// Why a member could not be opened. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its directory or log.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No good snapshot is left that the log goes on from.
    #[error(
        "{}: the metadata log goes on from entry {purged}, but no usable snapshot reaches that far{}. \
         The server will not start without it, because acknowledged changes would be lost. \
         Restore the directory from a backup, or, if other metadata servers hold the data, remove this one and add it \
         anew", .dir.display(), because(.bad)
    )]
    SnapshotMissing {
        /// The directory.
        dir: PathBuf,
        /// The last entry that only a snapshot holds.
        purged: LogId,
        /// The snapshots that are not usable, and why.
        bad: Vec<OpenError>,
    },
    /// The directory is an old copy.
    #[error(
        "{} is not what it was when this metadata server last ran: it knows of reign {found}, the newest was {newest}. It was put back from a copy, or its disk was rolled back. The server will not start on it, because acknowledged changes would be lost. Put the newest state of the directory back. If there is none, keep a copy of this one and accept the loss with `vstorage-mdsd restored`: all clients and chunk servers start anew then, and chunks it does not know are not used", .dir.display()
    )]
    RolledBack {
        /// The directory.
        dir: PathBuf,
        /// The newest reign it knows of.
        found: u64,
        /// The newest there was.
        newest: u64,
    },
    /// The state machine does not take a snapshot that is as it was written.
    #[error("{}: {error}; start the version of vstorage that wrote it, or a later one", .dir.display())]
    Restore {
        /// The directory.
        dir: PathBuf,
        /// What it said.
        error: RestoreError,
    },
    /// The log failed while it was being taken up.
    #[error(transparent)]
    Failed(#[from] Failure),
}

fn because(bad: &[OpenError]) -> String {
    bad.first().map_or_else(String::new, |error| format!(" ({error})"))
}

/// Why this member has stopped for good: the process must end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogFailure),
    /// A snapshot.
    #[error(transparent)]
    Snapshot(Arc<SnapshotError>),
    /// The consensus library.
    #[error("the metadata server stops: {0}")]
    Core(CoreFailure),
}

/// What the consensus library says about its end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct CoreFailure(Fatal<NodeId>);

impl From<Fatal<NodeId>> for Failure {
    fn from(fatal: Fatal<NodeId>) -> Self {
        Self::Core(CoreFailure(fatal))
    }
}

/// Why a command was not carried out, or may not have been.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Another member is the master, or none is. The command was not taken.
    #[error("this metadata server is not the master{}", hint(.leader.as_ref()))]
    NotLeader {
        /// Who is, if that is known.
        leader: Option<Peer>,
    },
    /// The command is larger than an entry may be. It was not taken.
    #[error("a command of {bytes} bytes is longer than {max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The longest there may be.
        max: usize,
    },
    /// The disk is full. The command was not taken.
    #[error("no room left for the metadata log in {}; free some space", .dir.display())]
    Full {
        /// The directory.
        dir: PathBuf,
    },
    /// This member was stopped; the command may or may not be carried out.
    #[error("the metadata server is stopping")]
    Stopped,
    /// This member has failed; the command may or may not be carried out.
    #[error(transparent)]
    Fatal(#[from] Failure),
}

fn hint(leader: Option<&Peer>) -> String {
    leader.map_or_else(String::new, |peer| format!("; it is {} at {}", peer.node, peer.address))
}

/// Why a read cannot be answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Another member is the master, or none is.
    #[error("this metadata server is not the master{}", hint(.leader.as_ref()))]
    NotLeader {
        /// Who is, if that is known.
        leader: Option<Peer>,
    },
    /// Too few members answer for this one to know that it still is the master.
    #[error("too few metadata servers can be reached")]
    NoQuorum,
    /// This member was stopped.
    #[error("the metadata server is stopping")]
    Stopped,
    /// This member has failed.
    #[error(transparent)]
    Fatal(#[from] Failure),
}

/// Why a message of a peer was not answered.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// It is no message.
    #[error("a message of another metadata server is not usable: {0}")]
    Garbled(#[from] MessageError),
    /// A part of a snapshot does not follow the one before.
    #[error("a part of a snapshot begins at byte {found} instead of {expected}")]
    OutOfOrder {
        /// Where it begins.
        found: u64,
        /// Where it should.
        expected: u64,
    },
    /// This member has stopped.
    #[error(transparent)]
    Fatal(#[from] Failure),
}

/// Why the members were not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MemberError {
    /// Another member is the master, or none is.
    #[error("this metadata server is not the master{}", hint(.leader.as_ref()))]
    NotLeader {
        /// Who is, if that is known.
        leader: Option<Peer>,
    },
    /// Another change is under way.
    #[error("the members are being changed already; try again when that is done")]
    Busy,
    /// This member has failed.
    #[error(transparent)]
    Fatal(#[from] Failure),
}
