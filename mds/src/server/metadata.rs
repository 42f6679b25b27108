//! The state machine that consensus replicates: the state of the metadata, and what its commands ask the leader to do.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use rt::sync::Notify;

use crate::raft::Machine;
use crate::state::snapshot::SnapshotError;
use crate::state::{Command, Effect, Outcome, Refusal, State};

/// Effects that may wait; beyond, the leader works out again what is to be done.
const EFFECTS_MAX: usize = 1 << 16;

/// What a command answers.
pub(crate) type Answer = Result<Outcome, Refusal>;

struct Shared {
    state: RefCell<State>,
    /// What the commands applied since the last look ask for. Filled only while there is a leader to take it.
    effects: RefCell<VecDeque<Effect>>,
    collecting: Cell<bool>,
    overflowed: Cell<bool>,
    effects_came: Notify,
    applied: Notify,
}

/// The metadata of this member. Clones share it; only consensus changes it.
#[derive(Clone)]
pub(crate) struct Metadata(Rc<Shared>);

/// What the leader has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Todo {
    /// These, in their order.
    Effects(VecDeque<Effect>),
    /// Too much had gathered: everything that is pending.
    Everything,
}

impl Metadata {
    pub(crate) fn new() -> Self {
        Self(Rc::new(Shared {
            state: RefCell::new(State::new()),
            effects: RefCell::default(),
            collecting: Cell::new(false),
            overflowed: Cell::new(false),
            effects_came: Notify::new(),
            applied: Notify::new(),
        }))
    }

    /// Looks at the state. `look` must not wait, and does not change it.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.state.borrow())
    }

    /// Waits for the next command to be applied.
    pub(crate) fn applied(&self) -> rt::sync::Notified<'_> {
        self.0.applied.notified()
    }

    /// Wakes those who wait for a command to be applied.
    pub(crate) fn wake(&self) {
        self.0.applied.notify_all();
    }

    /// Begins or ends to gather effects; what has gathered is dropped.
    pub(crate) fn collect(&self, on: bool) {
        self.0.collecting.set(on);
        self.0.overflowed.set(false);
        self.0.effects.borrow_mut().clear();
    }

    /// What is to be done since the last call, waiting until there is something.
    pub(crate) async fn todo(&self) -> Todo {
        loop {
            let came = self.0.effects_came.notified();
            if self.0.overflowed.take() {
                self.0.effects.borrow_mut().clear();
                return Todo::Everything;
            }
            let effects = std::mem::take(&mut *self.0.effects.borrow_mut());
            if !effects.is_empty() {
                return Todo::Effects(effects);
            }
            came.await;
        }
    }

    fn gather(&self, effects: Vec<Effect>) {
        if effects.is_empty() || !self.0.collecting.get() {
            return;
        }
        let mut queue = self.0.effects.borrow_mut();
        if queue.len() + effects.len() > EFFECTS_MAX {
            self.0.overflowed.set(true);
        } else {
            queue.extend(effects);
        }
        self.0.effects_came.notify_all();
    }
}

impl Machine for Metadata {
    type Response = Answer;
    type RestoreError = SnapshotError;

    /// # Panics
    /// If the command was written by a later version. Skipping it would make this server differ from its peers for
    /// ever, and nothing after it may be applied either, so it is better to stop.
    fn apply(&mut self, number: u64, command: &[u8]) -> Answer {
        let command =
            Command::decode_log(command).unwrap_or_else(|error| panic!("command {number}: {error}"));
        let applied = self.0.state.borrow_mut().apply(number, &command);
        if self.0.collecting.get() {
            // Only those of its own reign: what is applied again at a start happened long ago.
            for event in &applied.events {
                tracing::info!(id = event.id, code = event.name(), "{}", event.message());
            }
        }
        self.gather(applied.effects);
        self.0.applied.notify_all();
        applied.outcome
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.state.borrow().encode_snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), SnapshotError> {
        let state = State::decode_snapshot(snapshot)?;
        *self.0.state.borrow_mut() = state;
        self.0.applied.notify_all();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Secret;
    use crate::state::command::{CommandOp, InitCluster, OpenSession, SetConfig};

    fn entry(op: CommandOp) -> Vec<u8> {
        Command::internal(5, op).encode_log()
    }

    fn init() -> Vec<u8> {
        entry(CommandOp::InitCluster(InitCluster { uuid: vec![1; 16], name: "stor1".into() }))
    }

    fn session(n: u8) -> Vec<u8> {
        entry(CommandOp::OpenSession(OpenSession {
            client_uuid: vec![n; 16],
            new_token: Secret { high: 1, low: n.into() },
            ..OpenSession::default()
        }))
    }

    #[test]
    fn effects_gather_only_for_a_leader() {
        let mut metadata = Metadata::new();
        metadata.apply(1, &init()).unwrap();
        metadata.apply(2, &session(1)).unwrap();
        assert!(metadata.0.effects.borrow().is_empty());
        metadata.collect(true);
        metadata.apply(3, &session(2)).unwrap();
        let effects: Vec<Effect> = metadata.0.effects.borrow().iter().cloned().collect();
        assert!(matches!(effects[..], [Effect::WatchClient { .. }]), "{effects:?}");
        metadata.collect(false);
        assert!(metadata.0.effects.borrow().is_empty());
    }

    #[test]
    fn a_snapshot_is_taken_over() {
        let mut one = Metadata::new();
        one.apply(1, &init()).unwrap();
        let mut two = Metadata::new();
        two.restore(&one.snapshot()).unwrap();
        assert!(one.read(|state| two.read(|other| state == other)));
        assert!(two.restore(b"nonsense").is_err());
        assert!(one.read(|state| two.read(|other| state == other)), "nothing of a bad one is used");
    }

    #[test]
    #[should_panic(expected = "run a later version")]
    fn what_a_later_version_wrote_stops_the_server() {
        let mut bytes = entry(CommandOp::SetConfig(SetConfig::default()));
        prost::encoding::uint64::encode(7, &1, &mut bytes);
        let _answer = Metadata::new().apply(1, &bytes);
    }
}
