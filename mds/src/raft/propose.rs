//! Proposing commands: those that come while a batch is under way make up the next one.
//!
//! The consensus library writes and flushes one entry at a time, so the group commit is here: a batch is one entry. That
//! holds whatever the number of members is.

use std::marker::PhantomData;
use std::rc::Weak;

use openraft::error::{ClientWriteError, RaftError};
use rt::sync::{OneReceiver, OneSender, Receiver, SendError, Sender, channel, oneshot};

use super::core::{Core, RaftCore};
use super::error::ProposeError;
use super::machine::{Cabinet, Machine};
use crate::log::Batch;

/// Proposals that may wait; a further one waits for room.
const WAITING_MAX: usize = 4096;
/// Commands in one entry.
const BATCH_MAX: usize = 1024;

struct Proposal<R> {
    command: Vec<u8>,
    answer: OneSender<Result<R, ProposeError>>,
}

/// Takes proposals.
pub(super) struct Proposer<M: Machine> {
    queue: Sender<Proposal<M::Response>>,
    command_max: usize,
    machine: PhantomData<M>,
}

impl<M: Machine> Proposer<M> {
    /// Starts the task that carries proposals to the consensus library; it ends when the proposer is dropped.
    pub(super) fn start(core: &std::rc::Rc<Core>) -> Self {
        let (queue, proposals) = channel(WAITING_MAX);
        let batch_max = core.options.log.body_max() - 8;
        let work = Work::<M> {
            core: std::rc::Rc::downgrade(core),
            raft: core.raft.clone(),
            proposals,
            batch_max,
            held: None,
        };
        drop(rt::spawn(work.run()));
        Self { queue, command_max: batch_max - Batch::OVERHEAD, machine: PhantomData }
    }

    /// Queues a command; its answer comes when it is committed and applied.
    pub(super) async fn queue(
        &self,
        command: Vec<u8>,
    ) -> Result<OneReceiver<Result<M::Response, ProposeError>>, ProposeError> {
        if command.len() > self.command_max {
            return Err(ProposeError::TooLarge { bytes: command.len(), max: self.command_max });
        }
        let (answer, answered) = oneshot();
        match self.queue.send(Proposal { command, answer }).await {
            Ok(()) => Ok(answered),
            Err(SendError(_)) => Err(ProposeError::Stopped),
        }
    }
}

struct Work<M: Machine> {
    core: Weak<Core>,
    raft: RaftCore,
    proposals: Receiver<Proposal<M::Response>>,
    batch_max: usize,
    /// Did not fit into the last batch.
    held: Option<Proposal<M::Response>>,
}

impl<M: Machine> Work<M> {
    async fn run(mut self) {
        while let Some(batch) = self.gather().await {
            let began = rt::time::now();
            rt::sim::gauge("mds.batch", batch.len() as u64);
            let commands = Batch::of(batch.iter().map(|proposal| &proposal.command[..]));
            match self.raft.client_write(commands).await {
                Ok(written) => {
                    if let Some(core) = self.core.upgrade() {
                        core.meter.committed(batch.len() as u64, began.elapsed());
                    }
                    let responses = Cabinet::<M>::open(written.data);
                    debug_assert_eq!(responses.len(), batch.len(), "one response for each command");
                    for (proposal, response) in batch.into_iter().zip(responses) {
                        // Whoever has gone meanwhile wants no answer.
                        let _gone = proposal.answer.send(Ok(response));
                    }
                }
                Err(error) => {
                    let error = self.explain(error);
                    for proposal in batch {
                        let _gone = proposal.answer.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// The next batch: at least one command, and what else waits as far as it fits.
    async fn gather(&mut self) -> Option<Vec<Proposal<M::Response>>> {
        let first = match self.held.take() {
            Some(held) => held,
            None => self.proposals.recv().await?,
        };
        let mut bytes = first.command.len() + Batch::OVERHEAD;
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX
            && let Some(next) = self.proposals.try_recv()
        {
            bytes += next.command.len() + Batch::OVERHEAD;
            if bytes > self.batch_max {
                self.held = Some(next);
                break;
            }
            batch.push(next);
        }
        Some(batch)
    }

    fn explain(&self, error: RaftError<u64, ClientWriteError<u64, openraft::BasicNode>>) -> ProposeError {
        let Some(core) = self.core.upgrade() else { return ProposeError::Stopped };
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                ProposeError::NotLeader { leader: core.hint(forward) }
            }
            // Only a change of members can be refused so.
            RaftError::APIError(ClientWriteError::ChangeMembershipError(_)) => {
                ProposeError::NotLeader { leader: None }
            }
            RaftError::Fatal(_) if core.is_stopping() => ProposeError::Stopped,
            RaftError::Fatal(fatal) => ProposeError::Fatal(core.fail(fatal)),
        }
    }
}
