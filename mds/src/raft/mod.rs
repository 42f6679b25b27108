//! Consensus: every change of the metadata goes through a replicated log before anybody sees it (C12).
//!
//! [`Consensus`] is what the rest of the server uses. Behind it are `openraft`, driven by `rt` so that the simulator runs
//! it too, the log on disk ([`crate::log`]), and a [`Machine`] in memory with snapshots.
//! `docs/decisions/0002-consensus-and-state-store.md` says why.
//!
//! | module | holds |
//! |---|---|
//! | [`machine`] | what is replicated |
//! | [`core`], [`role`], [`propose`], [`compact`] | one member and its tasks |
//! | [`storage`], [`applied`] | log and state machine as the library sees them |
//! | [`peers`], [`message`] | the other members |
//! | [`runtime`], [`config`] | the library's types, in ours |
//! | [`metrics`], [`error`] | numbers and errors |
//!
//! **Invariant:** an answer to a proposal means that its command is durable on a majority and applied here.
//! **Invariant:** no type of the library is part of this module's interface.
//! **Invariant:** with one member a run is determined by its seed. With more there is one choice in the library (when it
//! waits after a peer was unreachable) that is drawn from a source no seed controls.

mod applied;
mod compact;
mod config;
mod core;
mod error;
pub mod fuzz;
mod machine;
mod message;
mod metrics;
mod peers;
mod propose;
mod role;
mod runtime;
mod storage;

use std::path::Path;
use std::rc::Rc;

use self::core::Core;
use self::machine::Cabinet;
use self::propose::Proposer;
use crate::log::{self, LogId, LogOptions, NodeId, OpenError, TornTail};

pub use error::{CoreFailure, Failure, MemberError, ProposeError, ReadError, RpcError, StartError};
pub use machine::{Machine, RestoreError};
pub use message::MessageError;
pub use metrics::{Latency, Metrics};
pub use peers::{NoPeers, Peer, PeerAnswer, PeerError, PeerTransport};
pub use role::{Role, RoleWatch};

/// The target under which the consensus library writes to the program's log. It writes a lot: programs let only its
/// warnings through.
pub const LOG_TARGET: &str = "openraft";

/// A reign of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    /// The UUID of the member's directory.
    pub directory: [u8; 16],
    /// The term, which grows with each reign.
    pub term: u64,
}

/// How a member is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Those of the log.
    pub log: LogOptions,
    /// Entries after which a snapshot is taken, unless the last one was so large that it is not worth it yet.
    pub snapshot_entries: u64,
    /// Bytes of the log after which a snapshot is taken, unless the last one was larger.
    pub snapshot_log_bytes: u64,
    /// A reign that is known to have been. A directory that knows only of earlier ones is refused: it was put back from a copy.
    pub known_reign: Option<Reign>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log: LogOptions::default(),
            snapshot_entries: 16_384,
            snapshot_log_bytes: 64 << 20,
            known_reign: None,
        }
    }
}

/// What opening a member found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// An interrupted write at the end of the log that was dropped; nobody had an answer to it.
    pub torn: Option<TornTail>,
    /// The snapshot that the state began with.
    pub snapshot: Option<LogId>,
    /// Newer snapshots that are damaged; the log made up for them. Worth an event: the disk is losing data.
    pub bad_snapshots: Vec<OpenError>,
}

/// One member of a consensus group with its state machine. Clones share it; when the last one is dropped the member stops,
/// but [`Consensus::shutdown`] does so in order.
pub struct Consensus<M: Machine> {
    inner: Rc<Inner<M>>,
}

struct Inner<M: Machine> {
    core: Rc<Core>,
    cabinet: Rc<Cabinet<M>>,
    proposer: Proposer<M>,
    recovery: Recovery,
}

impl<M: Machine> Clone for Consensus<M> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

impl<M: Machine> std::fmt::Debug for Consensus<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("role", &self.role()).finish_non_exhaustive()
    }
}

impl<M: Machine> Consensus<M> {
    /// Creates the first member of a new group in a directory; it is durable when this returns. `address` is where
    /// other members will reach it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn create(
        dir: &Path,
        node: NodeId,
        address: &str,
        options: LogOptions,
    ) -> Result<(), OpenError> {
        log::create(dir, node, Some(address), options).await
    }

    /// Creates a member that waits for the master of an existing group to add it ([`Consensus::add_member`]).
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn join(dir: &Path, node: NodeId, options: LogOptions) -> Result<(), OpenError> {
        log::create(dir, node, None, options).await
    }

    /// Opens a member. `machine` is in its first state; when this returns it has seen everything that is known here to be
    /// committed, and a member that is alone leads.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn open(
        dir: &Path,
        machine: M,
        options: Options,
        transport: Rc<dyn PeerTransport>,
    ) -> Result<Self, StartError> {
        let cabinet = Cabinet::new(machine);
        let applier: Rc<dyn machine::Applier> = Rc::clone(&cabinet) as _;
        let (core, recovery) = Core::open(dir, applier, options, transport).await?;
        let proposer = Proposer::start(&core);
        Ok(Self { inner: Rc::new(Inner { core, cabinet, proposer, recovery }) })
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.inner.recovery
    }

    /// Proposes a command and waits until it is committed and applied. If the future is dropped the command may be carried
    /// out all the same.
    ///
    /// # Errors
    /// [`ProposeError`]; after some of them the command may be carried out all the same.
    pub async fn propose(&self, command: Vec<u8>) -> Result<M::Response, ProposeError> {
        let core = &self.inner.core;
        if matches!(core.roles.get(), Role::Leader { .. }) && core.log.is_full() {
            return Err(ProposeError::Full { dir: core.log.directory().path().to_owned() });
        }
        self.propose_vital(command).await
    }

    /// As [`Consensus::propose`], and on a full disk too: for the few short commands without which nothing can be served,
    /// not even what changes nothing. They use what the log keeps free for votes and the like.
    ///
    /// # Errors
    /// [`ProposeError`], but not [`ProposeError::Full`].
    pub async fn propose_vital(&self, command: Vec<u8>) -> Result<M::Response, ProposeError> {
        let core = &self.inner.core;
        if let Some(failure) = core.failure() {
            return Err(failure.into());
        }
        match core.roles.get() {
            Role::Leader { .. } => {}
            Role::Follower { leader, .. } => return Err(ProposeError::NotLeader { leader }),
            Role::Stopped => return Err(ProposeError::Stopped),
        }
        let answer = self.inner.proposer.queue(command).await?;
        answer.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Looks at the state machine as it is now. Call [`Consensus::read_barrier`] before to see everything that was answered
    /// anywhere.
    ///
    /// # Panics
    /// When called from the state machine itself.
    pub fn with<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        self.inner.cabinet.with(look)
    }

    /// Returns when a look at the state machine shows everything that was answered before the call (C12). At once if this
    /// member is alone.
    ///
    /// # Errors
    /// [`ReadError`]: this member does not know that it is the master.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        self.inner.core.read_barrier().await
    }

    /// The part this member plays now.
    #[must_use]
    pub fn role(&self) -> Role {
        self.inner.core.roles.get()
    }

    /// Its reign now, if it leads.
    #[must_use]
    pub fn reign(&self) -> Option<Reign> {
        let Role::Leader { term } = self.role() else { return None };
        let directory = self.inner.core.log.directory().identity().uuid;
        Some(Reign { directory, term })
    }

    /// The changes of its role, beginning with the role now. A new master begins full lease terms at each
    /// [`Role::Leader`] it gives (C1).
    #[must_use]
    pub fn watch_role(&self) -> RoleWatch {
        RoleWatch::new(Rc::clone(&self.inner.core.roles))
    }

    /// Why this member has failed, if it has: the process must end then.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.inner.core.failure()
    }

    /// What it is doing.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.inner.core.metrics()
    }

    /// Stops in order. What was answered is durable in any case.
    pub async fn shutdown(&self) {
        self.inner.core.shutdown().await;
    }

    /// Makes another member, which was created with [`Consensus::join`] and is running, a voter of this group. Returns when
    /// it has the whole log and the group has agreed.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn add_member(&self, node: NodeId, address: &str) -> Result<(), MemberError> {
        self.inner.core.add_member(node, address).await
    }

    /// Answers [`PeerTransport::append_entries`] of another member.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn append_entries(&self, body: &[u8]) -> Result<Vec<u8>, RpcError> {
        self.inner.core.append_entries(body).await
    }

    /// Answers [`PeerTransport::vote`] of another member.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn vote(&self, body: &[u8]) -> Result<Vec<u8>, RpcError> {
        self.inner.core.vote(body).await
    }

    /// Answers [`PeerTransport::install_snapshot`] of another member.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn install_snapshot(&self, body: &[u8]) -> Result<Vec<u8>, RpcError> {
        self.inner.core.install_snapshot(body).await
    }
}
