//! The log as the consensus library sees it.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader, StorageIOError};

use super::config::{self, Entry, RaftLogId, RaftVote, StorageError, Types};
use crate::log::{Log, LogFailure, NodeId, Snapshots};

/// The most bytes of entries in one message to a peer.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A handle to the log.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    log: Log,
    snapshots: Snapshots,
    node: NodeId,
}

impl Storage {
    pub(super) fn new(log: Log, snapshots: Snapshots) -> Self {
        let node = log.directory().identity().node;
        Self { log, snapshots, node }
    }
}

fn reading(error: LogFailure) -> StorageError {
    StorageIOError::read_logs(AnyError::new(&error)).into()
}

fn writing(error: LogFailure) -> StorageError {
    StorageIOError::write_logs(AnyError::new(&error)).into()
}

fn half_open(range: &impl RangeBounds<u64>) -> std::ops::Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<Types> for Storage {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, StorageError>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let entries = self.log.read(half_open(&range), usize::MAX).await.map_err(reading)?;
        Ok(entries.into_iter().map(config::entry).collect())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let entries = self.log.read(start..end, MESSAGE_BYTES_MAX).await.map_err(reading)?;
        Ok(entries.into_iter().map(config::entry).collect())
    }
}

impl RaftLogStorage<Types> for Storage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        Ok(LogState {
            last_purged_log_id: self.log.purged().map(config::log_id),
            last_log_id: self.log.last().map(config::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), StorageError> {
        let saved = self.log.save_vote(config::from_vote(vote)).await;
        saved.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, StorageError> {
        let vote = self.log.vote().map(|mut vote| {
            // A leader that restarts is elected anew, so that every reign has a term of its own: who became master
            // counts lease terms from there (C1).
            vote.committed &= vote.node != self.node;
            config::vote(vote)
        });
        Ok(vote)
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), StorageError> {
        if let Some(id) = committed {
            self.log.note_committed(config::from_log_id(&id));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, StorageError> {
        Ok(self.log.committed().map(config::log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(config::from_entry).collect();
        self.log.append(entries).await.map_err(writing)?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, first: RaftLogId) -> Result<(), StorageError> {
        self.log.truncate(config::from_log_id(&first)).await.map_err(writing)
    }

    async fn purge(&mut self, last: RaftLogId) -> Result<(), StorageError> {
        // The library drops entries as soon as a received snapshot is on its way to the state machine, which may not have
        // stored it yet.
        if !self.snapshots.wait_for(last.index).await {
            return Err(writing(LogFailure::Closed));
        }
        self.log.purge(config::from_log_id(&last)).await.map_err(writing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_of_ranges_become_half_open() {
        assert_eq!(half_open(&(3..7)), 3..7);
        assert_eq!(half_open(&(3..=7)), 3..8);
        assert_eq!(half_open(&..), 0..u64::MAX);
        assert_eq!(half_open(&(Bound::Excluded(3), Bound::Unbounded)), 4..u64::MAX);
    }
}
