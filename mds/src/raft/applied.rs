//! The state machine as the consensus library sees it: what is committed is applied here, in order, once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use rt::sync::Notify;

use super::config::{
    self, Entry, RaftLogId, RaftSnapshot, RaftSnapshotMeta, Responses, SnapshotData, StorageError,
    StoredMembership, Types,
};
use super::machine::{Applier, RestoreError};
use crate::log::{LogId, SnapshotMeta, Snapshots};

/// The state machine and how far it is. Shared by those who look at it; only the consensus library's worker moves it.
pub(super) struct Applied {
    machine: Rc<dyn Applier>,
    snapshots: Snapshots,
    last: Cell<Option<LogId>>,
    /// Commands applied, from the first one ever.
    commands: Cell<u64>,
    membership: RefCell<StoredMembership>,
    changed: Notify,
}

impl Applied {
    /// A machine in the state of a snapshot, or without one in its first state.
    pub(super) fn new(
        machine: Rc<dyn Applier>,
        snapshots: Snapshots,
        newest: Option<(SnapshotMeta, Vec<u8>)>,
    ) -> Result<Rc<Self>, RestoreError> {
        let applied = Self {
            machine,
            snapshots,
            last: Cell::new(None),
            commands: Cell::new(0),
            membership: RefCell::default(),
            changed: Notify::new(),
        };
        if let Some((meta, state)) = newest {
            applied.restore(&meta, &state)?;
        }
        Ok(Rc::new(applied))
    }

    fn restore(&self, meta: &SnapshotMeta, state: &[u8]) -> Result<(), RestoreError> {
        self.machine.restore(state)?;
        self.last.set(Some(meta.last));
        self.commands.set(meta.commands);
        let membership = config::stored_membership(meta.membership_id, meta.membership.clone());
        *self.membership.borrow_mut() = membership;
        self.changed.notify_all();
        Ok(())
    }

    /// The last entry applied.
    pub(super) fn last(&self) -> Option<LogId> {
        self.last.get()
    }

    /// Commands applied, from the first one ever.
    pub(super) fn commands(&self) -> u64 {
        self.commands.get()
    }

    /// The snapshots of this machine.
    pub(super) fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Wakes those who wait for something to be applied.
    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Waits for the next change.
    pub(super) fn changed(&self) -> rt::sync::Notified<'_> {
        self.changed.notified()
    }

    /// The state as it is now, and what belongs to it.
    pub(super) fn capture(&self) -> Option<(SnapshotMeta, Vec<u8>)> {
        let last = self.last.get()?;
        let membership = self.membership.borrow();
        let state = self.machine.snapshot();
        let meta = SnapshotMeta {
            last,
            commands: self.commands.get(),
            membership_id: membership.log_id().as_ref().map(config::from_log_id),
            membership: config::from_membership(membership.membership()),
            state_len: state.len() as u64,
        };
        Some((meta, state))
    }

    fn apply(&self, entry: Entry) -> Responses {
        self.last.set(Some(config::from_log_id(&entry.log_id)));
        match entry.payload {
            EntryPayload::Blank => Responses(Box::new(())),
            EntryPayload::Normal(batch) => {
                let before = self.commands.get();
                self.commands.set(before + batch.count());
                self.machine.apply(before + 1, &batch)
            }
            EntryPayload::Membership(membership) => {
                *self.membership.borrow_mut() = StoredMembership::new(Some(entry.log_id), membership);
                Responses(Box::new(()))
            }
        }
    }
}

/// The consensus library's handle.
pub(super) struct StateMachine(pub(super) Rc<Applied>);

/// Where the consensus library asks for a snapshot: they are taken by [`super::compact`], so there is one already.
pub(super) struct Builder(Rc<Applied>);

fn snapshot_of(meta: SnapshotMeta) -> RaftSnapshot {
    let index = meta.last.index;
    let meta = RaftSnapshotMeta {
        last_log_id: Some(config::log_id(meta.last)),
        last_membership: config::stored_membership(meta.membership_id, meta.membership),
        snapshot_id: format!("{}-{}", meta.last, meta.state_len),
    };
    RaftSnapshot { meta, snapshot: Box::new(SnapshotData::Stored(index)) }
}

#[derive(Debug, thiserror::Error)]
#[error("there is no snapshot yet")]
struct NoSnapshot;

#[derive(Debug, thiserror::Error)]
#[error("a snapshot without a last entry was received")]
struct NoLastEntry;

#[derive(Debug, thiserror::Error)]
#[error("the snapshot to install was not received")]
struct NotReceived;

fn writing<E: std::error::Error + 'static>(error: E) -> StorageError {
    StorageIOError::write_snapshot(None, AnyError::new(&error)).into()
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, StorageError> {
        let newest = self.0.snapshots.newest();
        newest
            .map(snapshot_of)
            .ok_or_else(|| StorageIOError::read_snapshot(None, AnyError::new(&NoSnapshot)).into())
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), StorageError> {
        Ok((self.0.last().map(config::log_id), self.0.membership.borrow().clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Responses>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let responses = entries.into_iter().map(|entry| self.0.apply(entry)).collect();
        self.0.wake();
        Ok(responses)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(Rc::clone(&self.0))
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotData>, StorageError> {
        Ok(Box::new(SnapshotData::Received { commands: 0, state: Vec::new() }))
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        snapshot: Box<SnapshotData>,
    ) -> Result<(), StorageError> {
        let installed = self.install(meta, *snapshot).await;
        if installed.is_err() {
            // The log waits for this snapshot before it drops what the snapshot would hold.
            self.0.snapshots.end();
        }
        installed
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, StorageError> {
        Ok(self.0.snapshots.newest().map(snapshot_of))
    }
}

impl StateMachine {
    /// Stores a received snapshot, then takes it over: after a crash it is there, or the log that it replaces is.
    async fn install(&self, meta: &RaftSnapshotMeta, data: SnapshotData) -> Result<(), StorageError> {
        let SnapshotData::Received { commands, state } = data else { return Err(writing(NotReceived)) };
        let last = meta.last_log_id.as_ref().map(config::from_log_id).ok_or_else(|| writing(NoLastEntry))?;
        let membership = &meta.last_membership;
        let meta = SnapshotMeta {
            last,
            commands,
            membership_id: membership.log_id().as_ref().map(config::from_log_id),
            membership: config::from_membership(membership.membership()),
            state_len: state.len() as u64,
        };
        self.0.snapshots.write(meta.clone(), &state).await.map_err(writing)?;
        self.0.restore(&meta, &state).map_err(writing)
    }
}
