//! The deterministic state of the metadata service, and what commands do to it.
//!
//! [`State::apply`] is the whole of it: it takes the next [`Command`] of the replicated log and gives back an answer,
//! events and effects. It reads no clock, no random number, no file and no hash order, so every server that applies
//! the same log has the same state (C12), the simulator can replay it, and a snapshot is just the state
//! written down. What depends on time (leases running out, quarantines ending) is decided by the leader, which logs
//! it as a command.
//!
//! | module | holds |
//! |---|---|
//! | [`command`] | what the log contains |
//! | [`outcome`], [`refusal`], [`effect`], [`event`] | what comes out |
//! | [`ids`], [`path`], [`attrs`], [`config`] | the small types |
//! | [`namespace`], [`inode`], [`name`], [`xattrs`], [`chunk`], [`lease`], [`clients`], [`servers`], [`nodes`], [`window`] | the parts of the state |
//! | `apply` | one file per group of commands |
//! | [`placement`], `membership`, [`space`], [`health`] | pure decisions |
//! | [`query`], [`comparable`], [`settled`], [`view`], [`snapshot`], [`invariants`] | reading, writing down, checking |
//!
//! **Invariant:** a refused command changes nothing but the list of events and the window of answers.
//! **Invariant:** nothing here depends on the order in which effects are carried out, or on their being carried out
//! once: [`State::pending_work`] lists them again.

mod apply;
pub mod attrs;
mod changes;
pub mod chunk;
pub mod clients;
pub mod command;
pub mod comparable;
pub mod config;
pub mod effect;
pub mod event;
pub mod health;
pub mod ids;
pub mod inode;
pub mod invariants;
pub mod lease;
mod membership;
pub mod name;
pub mod namespace;
pub mod nodes;
pub mod outcome;
pub mod path;
pub mod placement;
pub mod query;
pub mod refusal;
pub mod replication;
pub mod servers;
pub mod settled;
pub mod snapshot;
pub mod space;
pub mod view;
pub mod window;
pub mod xattrs;

#[cfg(test)]
mod tests;

pub use apply::{INDICES_MAX, MEMBERS_MAX, RECONCILED_MAX, REPORTED_MAX, Stranger};
pub use command::{Command, CommandError, CommandOp};
pub use config::{Config, Parameter};
pub use effect::{CopyOrder, Effect, InstallOrder, NewChunk, NewReplica};
pub use event::{Event, EventCode, EventLog, Severity, Sys};
pub use ids::{ChunkId, ClientId, CsId, Epoch, FileId, Secret, Uuid, Version};
pub use outcome::Outcome;
pub use refusal::{Refusal, RefusalKind};

use changes::Changes;
use chunk::Deletions;
use clients::Clients;
use health::ClusterStatus;
use namespace::Namespace;
use nodes::Nodes;
use servers::ChunkServers;
use std::collections::{BTreeMap, BTreeSet};
use window::Window;

/// The cluster's identity and its counters of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its generation (C12): 0 before the cluster is created, then from 1.
    pub generation: u16,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
    /// The counter of the next file id.
    next_file: u64,
    /// The counter of the next chunk id.
    next_chunk: u64,
    /// Counters of chunk ids of this generation that chunk servers had and nobody here had ever given out, or that were given
    /// out later than such: from the first on, up to the second.
    ahead: Option<(u64, u64)>,
}

impl Cluster {
    fn mint_file(&mut self) -> FileId {
        let id = FileId::new(self.generation, self.next_file);
        self.next_file += 1;
        id
    }

    /// Whether an id is of those that the metadata should know of and does not.
    fn is_ahead(&self, chunk: ChunkId) -> bool {
        let counter = chunk.counter();
        chunk.generation() > self.generation
            || (chunk.generation() == self.generation
                && (counter >= self.next_chunk
                    || self.ahead.is_some_and(|(from, to)| (from..to).contains(&counter))))
    }

    fn mint_chunk(&mut self) -> ChunkId {
        let id = ChunkId::new(self.generation, self.next_chunk);
        self.next_chunk += 1;
        id
    }
}

/// The state of the metadata service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The index of the last command applied.
    applied: u64,
    cluster: Cluster,
    config: Config,
    tree: Namespace,
    servers: ChunkServers,
    clients: Clients,
    deletions: Deletions,
    nodes: Nodes,
    /// Chunks that some chosen chunk server has not created yet, and where they belong.
    creating: BTreeMap<ChunkId, (FileId, u32)>,
    /// Changes of member sets that are not done.
    changes: Changes,
    /// Files whose lease is in [`lease::Phase::Fencing`].
    fencing: BTreeSet<FileId>,
    /// Files that are kept for a client that does not hold them.
    kept: BTreeSet<FileId>,
    events: EventLog,
    window: Window,
    /// As last reported by an event.
    status: ClusterStatus,
    /// Percent of the disk space used that the last event about it named.
    filled: u64,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The answer to whoever asked.
    pub outcome: Result<Outcome, Refusal>,
    /// What happened; these are in the list of events already.
    pub events: Vec<Event>,
    /// What the leader has to do now.
    pub effects: Vec<Effect>,
}

impl State {
    /// The state before the first command.
    pub fn new() -> Self {
        Self::default()
    }

    /// The index of the last command applied; 0 before the first.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Who was admitted to the cluster, and what is kept of the password.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Carries out the command at `index` of the log.
    ///
    /// # Panics
    /// If `index` is not above that of the last command: applying a command twice would make this server differ from
    /// its peers for ever, so it is better to stop.
    pub fn apply(&mut self, index: u64, command: &Command) -> Applied {
        assert!(index > self.applied, "log index {index} after {}", self.applied);
        self.applied = index;
        let Some(op) = &command.op else {
            return Applied::refused(Refusal::malformed("a command without a kind"));
        };
        let request = command.request.filter(|_| !op.is_idempotent_by_itself());
        if let Some(request) = request
            && let Some(outcome) = self.window.recall(request.client_id, request.request_id, op.kind())
        {
            return Applied { outcome, events: Vec::new(), effects: Vec::new() };
        }
        let mut step = apply::Step::new(index, command.now_ms);
        let outcome = self.execute(&mut step, op);
        if let Some(request) = request {
            self.window.keep(index, request.client_id, request.request_id, op.kind(), &outcome);
        }
        let record = |(code, args)| self.events.push(command.now_ms, code, args);
        Applied { outcome, events: step.events.into_iter().map(record).collect(), effects: step.effects }
    }
}

impl Applied {
    fn refused(refusal: Refusal) -> Self {
        Self { outcome: Err(refusal), events: Vec::new(), effects: Vec::new() }
    }
}
