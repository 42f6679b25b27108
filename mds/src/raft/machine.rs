//! What consensus replicates: a deterministic state machine.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

use super::config::Responses;
use crate::log::Batch;

/// A state machine: the same commands in the same order give the same state and the same responses on every member.
///
/// It reads no clock, no random number and nothing else that differs between members.
pub trait Machine: 'static {
    /// The answer to a command.
    type Response: 'static;
    /// Why a snapshot is not usable.
    type RestoreError: std::error::Error + 'static;

    /// Carries out the command with this number. The numbers begin at 1 and have no gaps; no number comes twice, not
    /// even after a restart.
    fn apply(&mut self, number: u64, command: &[u8]) -> Self::Response;

    /// The whole state as bytes.
    fn snapshot(&self) -> Vec<u8>;

    /// Takes over a state that [`Machine::snapshot`] wrote, in the place of the one it has.
    ///
    /// # Errors
    /// When the bytes are no such state.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Self::RestoreError>;
}

/// A state machine whose response type is hidden.
pub(super) trait Applier {
    /// Applies commands that are numbered from `first` on. The responses are a `Vec` of the machine's type.
    fn apply(&self, first: u64, batch: &Batch) -> Responses;
    /// The whole state as bytes.
    fn snapshot(&self) -> Vec<u8>;
    /// Takes over a state.
    fn restore(&self, snapshot: &[u8]) -> Result<(), RestoreError>;
}

/// A snapshot that the state machine does not take, though its bytes are as they were written.
#[derive(Debug, thiserror::Error)]
#[error("the state machine refuses a snapshot: {0}")]
pub struct RestoreError(#[source] Box<dyn std::error::Error>);

/// A machine and its only place.
pub(super) struct Cabinet<M>(RefCell<M>);

impl<M: Machine> Cabinet<M> {
    pub(super) fn new(machine: M) -> Rc<Self> {
        Rc::new(Self(RefCell::new(machine)))
    }

    /// Looks at the machine.
    pub(super) fn with<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        look(&self.0.borrow())
    }

    /// Opens what [`Applier::apply`] gave.
    pub(super) fn open(responses: Responses) -> Vec<M::Response> {
        let any: Box<dyn Any> = responses.0;
        *any.downcast().expect("the responses come from this machine")
    }
}

impl<M: Machine> Applier for Cabinet<M> {
    fn apply(&self, first: u64, batch: &Batch) -> Responses {
        let mut machine = self.0.borrow_mut();
        let responses = (first..).zip(batch.iter()).map(|(number, command)| machine.apply(number, command));
        Responses(Box::new(responses.collect::<Vec<M::Response>>()))
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.borrow().snapshot()
    }

    fn restore(&self, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.0.borrow_mut().restore(snapshot).map_err(|error| RestoreError(Box::new(error)))
    }
}
