//! One member: the consensus library, its log, its state machine, and the tasks around them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use openraft::error::{ClientWriteError, ForwardToLeader, RaftError};
use openraft::{BasicNode, ChangeMembers, Config, Raft, ServerState, SnapshotPolicy};
use rt::sync::Notify;

use super::applied::{Applied, StateMachine};
use super::compact;
use super::config::{RaftSnapshot, RaftVote, SnapshotData, Types};
use super::error::{Failure, MemberError, ReadError, RpcError, StartError};
use super::machine::Applier;
use super::message;
use super::metrics::{Meter, Metrics};
use super::peers::{Network, Peer, PeerTransport};
use super::role::{Role, Roles};
use super::storage::Storage;
use super::{Options, Recovery, Reign};
use crate::log::{Directory, Log, NodeId, Snapshots};

/// Signs of life of a leader to its followers; the library's clock ticks every one and a half of them.
const HEARTBEAT_MS: u64 = 500;
/// A follower that hears nothing for this long (and up to twice as long) tries to lead.
const ELECTION_MS: u64 = 1500;
/// How long a peer has for a part of a snapshot.
const SNAPSHOT_MS: u64 = 10_000;

/// Entries that a learner may lack when it becomes a voter.
const CAUGHT_UP_LAG: u64 = 64;
/// How often that is looked at.
const CAUGHT_UP_POLL: Duration = Duration::from_millis(50);

pub(super) type RaftCore = Raft<Types>;

/// A snapshot that a peer is sending.
#[derive(Debug)]
struct Incoming {
    id: String,
    vote: RaftVote,
    state: Vec<u8>,
}

/// A member, whatever its state machine.
pub(super) struct Core {
    pub(super) raft: RaftCore,
    pub(super) log: Log,
    pub(super) applied: Rc<Applied>,
    pub(super) roles: Rc<Roles>,
    pub(super) meter: Meter,
    pub(super) options: Options,
    node: NodeId,
    /// Nobody else can have committed anything: this member was the only voter when it was opened, has added nobody since,
    /// and has heard of nobody.
    alone: Cell<bool>,
    incoming: RefCell<Option<Incoming>>,
    failure: RefCell<Option<Failure>>,
    stopping: Cell<bool>,
}

impl Drop for Core {
    fn drop(&mut self) {
        // The tasks that wait for progress, or for a failure, see that there will be none.
        self.applied.wake();
        self.log.failed().notify_all();
    }
}

fn library_config() -> Config {
    Config {
        cluster_name: "mds".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS,
        election_timeout_max: 2 * ELECTION_MS,
        install_snapshot_timeout: SNAPSHOT_MS,
        // Both are decided by `compact`, which also keeps the log behind the snapshot before the newest.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    }
}

impl Core {
    /// Opens a member and starts its tasks. A member that is alone leads when this returns.
    pub(super) async fn open(
        dir: &Path,
        machine: Rc<dyn Applier>,
        options: Options,
        transport: Rc<dyn PeerTransport>,
    ) -> Result<(Rc<Self>, Recovery), StartError> {
        let directory = Rc::new(Directory::open(dir).await?);
        let node = directory.identity().node;
        let (log, torn) = Log::open(Rc::clone(&directory), options.log).await?;
        check_reign(dir, options.known_reign, directory.identity().uuid, &log)?;
        let (snapshots, loaded) = Snapshots::open(directory).await?;
        let covered = loaded.newest.as_ref().map(|(meta, _)| meta.last);
        if let Some(purged) =
            log.purged().filter(|purged| covered.is_none_or(|last| last.index < purged.index))
        {
            return Err(StartError::SnapshotMissing { dir: dir.to_owned(), purged, bad: loaded.bad });
        }
        let recovery = Recovery { torn, snapshot: covered, bad_snapshots: loaded.bad };
        let applied = Applied::new(machine, snapshots.clone(), loaded.newest)
            .map_err(|error| StartError::Restore { dir: dir.to_owned(), error })?;
        let network = Network { transport, snapshots: snapshots.clone(), node };
        let storage = Storage::new(log.clone(), snapshots);
        let config = Arc::new(library_config());
        let raft = RaftCore::new(node, config, network, storage, StateMachine(Rc::clone(&applied))).await;
        let raft = raft.map_err(|fatal| failure_of(&log, fatal))?;
        let core = Rc::new(Self {
            raft,
            log,
            applied: Rc::clone(&applied),
            roles: Roles::new(),
            meter: Meter::default(),
            options,
            node,
            alone: Cell::new(false),
            incoming: RefCell::new(None),
            failure: RefCell::new(None),
            stopping: Cell::new(false),
        });
        core.start().await?;
        Ok((core, recovery))
    }

    async fn start(self: &Rc<Self>) -> Result<(), Failure> {
        drop(rt::spawn(watch_role(Rc::downgrade(self), Rc::clone(&self.roles), Rc::clone(&self.applied))));
        drop(rt::spawn(watch_log(Rc::downgrade(self), self.log.failed())));
        drop(rt::spawn(compact::run(Rc::downgrade(self), Rc::clone(&self.applied))));
        let me = self.node;
        let alone = self.raft.with_raft_state(move |state| {
            let mut voters = state.membership_state.effective().membership().voter_ids();
            voters.next() == Some(me) && voters.next().is_none()
        });
        self.alone.set(alone.await.map_err(|fatal| self.fail(fatal))?);
        if self.alone.get() {
            self.raft.trigger().elect().await.map_err(|fatal| self.fail(fatal))?;
            let mut watch = super::role::RoleWatch::new(Rc::clone(&self.roles));
            loop {
                match watch.next().await {
                    Role::Leader { .. } => break,
                    Role::Stopped => {
                        return Err(self.failure().unwrap_or(Failure::Log(crate::log::LogFailure::Closed)));
                    }
                    Role::Follower { .. } => {}
                }
            }
        }
        Ok(())
    }

    /// Why this member has failed, if it has.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.log.failure().map(Failure::Log).or_else(|| self.failure.borrow().clone())
    }

    /// Notes why the library has stopped; what made it stop is named before the library's own words.
    pub(super) fn fail(&self, failure: impl Into<Failure>) -> Failure {
        if !self.stopping.get() {
            let failure = failure.into();
            self.failure.borrow_mut().get_or_insert(failure);
        }
        self.failure().unwrap_or(Failure::Log(crate::log::LogFailure::Closed))
    }

    /// Whether it was asked to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Stops everything in order; what was appended is durable.
    pub(super) async fn shutdown(&self) {
        self.stopping.set(true);
        self.applied.snapshots().end();
        // An error says that its main task was gone already.
        let _ended = self.raft.shutdown().await;
        self.log.close().await;
        self.roles.set(Role::Stopped);
        self.applied.wake();
    }

    /// Returns when everything that was answered before the call is in the state machine, and nobody else can have answered
    /// anything newer.
    pub(super) async fn read_barrier(&self) -> Result<(), ReadError> {
        let role = self.roles.get();
        if let Some(failure) = self.failure() {
            return Err(failure.into());
        }
        match role {
            Role::Stopped => return Err(ReadError::Stopped),
            // The role says so only when all that was committed before is applied; later answers come after their
            // application.
            Role::Leader { .. } if self.alone.get() => return Ok(()),
            Role::Leader { .. } | Role::Follower { .. } => {}
        }
        let (wanted, _) = self.raft.get_read_log_id().await.map_err(|error| self.unreadable(error))?;
        loop {
            let changed = self.applied.changed();
            if self.applied.last().map(|last| last.index) >= wanted.map(|wanted| wanted.index) {
                return Ok(());
            }
            if self.roles.get() == Role::Stopped {
                return Err(ReadError::Stopped);
            }
            changed.await;
        }
    }

    fn unreadable(
        &self,
        error: RaftError<NodeId, openraft::error::CheckIsLeaderError<NodeId, BasicNode>>,
    ) -> ReadError {
        use openraft::error::CheckIsLeaderError as Check;
        match error {
            RaftError::APIError(Check::ForwardToLeader(forward)) => {
                ReadError::NotLeader { leader: self.hint(forward) }
            }
            RaftError::APIError(Check::QuorumNotEnough(_)) => ReadError::NoQuorum,
            RaftError::Fatal(_) if self.stopping.get() => ReadError::Stopped,
            RaftError::Fatal(fatal) => ReadError::Fatal(self.fail(fatal)),
        }
    }

    /// Who is the leader, in the library's words.
    pub(super) fn hint(&self, forward: ForwardToLeader<NodeId, BasicNode>) -> Option<Peer> {
        let other = forward.leader_id.zip(forward.leader_node).filter(|(node, _)| *node != self.node);
        other.map(|(node, at)| Peer { node, address: at.addr })
    }

    /// Makes another member, which was created with [`super::Consensus::join`] and is running, a voter.
    pub(super) async fn add_member(&self, node: NodeId, address: &str) -> Result<(), MemberError> {
        self.alone.set(false);
        let learner = self.raft.add_learner(node, BasicNode::new(address), false).await;
        learner.map_err(|error| self.unchanged(error))?;
        // As a voter it counts at once: one that does not answer would stop a group of one.
        while !self.has_caught_up(node)? {
            rt::time::sleep(CAUGHT_UP_POLL).await;
        }
        let voters = ChangeMembers::AddVoters(BTreeMap::from([(node, BasicNode::new(address))]));
        let changed = self.raft.change_membership(voters, false).await;
        changed.map(drop).map_err(|error| self.unchanged(error))
    }

    /// Whether a learner has nearly the whole log.
    fn has_caught_up(&self, node: NodeId) -> Result<bool, MemberError> {
        if let Some(failure) = self.failure() {
            return Err(failure.into());
        }
        let metrics = self.raft.data_metrics();
        let now = metrics.borrow();
        let Some(progress) = &now.replication else {
            return Err(MemberError::NotLeader { leader: self.roles.get().other_leader().cloned() });
        };
        let has = progress.get(&node).copied().flatten().map(|id| id.index);
        let last = now.last_log.map_or(0, |id| id.index);
        Ok(has.is_some_and(|has| has + CAUGHT_UP_LAG >= last))
    }

    fn unchanged(&self, error: RaftError<NodeId, ClientWriteError<NodeId, BasicNode>>) -> MemberError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                MemberError::NotLeader { leader: self.hint(forward) }
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(_)) => MemberError::Busy,
            RaftError::Fatal(fatal) => MemberError::Fatal(self.fail(fatal)),
        }
    }

    pub(super) async fn append_entries(&self, body: &[u8]) -> Result<Vec<u8>, RpcError> {
        let request = message::decode_append(body)?;
        self.alone.set(false);
        let answer = self.raft.append_entries(request).await;
        answer.map(|answer| message::encode_append_answer(&answer)).map_err(|error| self.refused(error))
    }

    pub(super) async fn vote(&self, body: &[u8]) -> Result<Vec<u8>, RpcError> {
        let request = message::decode_vote(body)?;
        self.alone.set(false);
        let answer = self.raft.vote(request).await;
        answer.map(|answer| message::encode_vote_answer(&answer)).map_err(|error| self.refused(error))
    }

    fn refused(&self, error: RaftError<NodeId>) -> RpcError {
        match error {
            RaftError::Fatal(fatal) => RpcError::Fatal(self.fail(fatal)),
            RaftError::APIError(never) => match never {},
        }
    }

    pub(super) async fn install_snapshot(&self, body: &[u8]) -> Result<Vec<u8>, RpcError> {
        let (part, bytes) = message::decode_snapshot_part(body)?;
        self.alone.set(false);
        let mine =
            self.raft.with_raft_state(|state| *state.vote_ref()).await.map_err(|fatal| self.fail(fatal))?;
        if mine > part.vote {
            return Ok(message::encode_snapshot_answer(&mine));
        }
        let state = {
            let mut incoming = self.incoming.borrow_mut();
            let goes_on = incoming.take_if(|from| from.id == part.meta.snapshot_id && from.vote == part.vote);
            let fresh = || Incoming { id: part.meta.snapshot_id.clone(), vote: part.vote, state: Vec::new() };
            let mut now = goes_on.filter(|_| part.offset > 0).unwrap_or_else(fresh);
            let expected = now.state.len() as u64;
            if part.offset != expected {
                return Err(RpcError::OutOfOrder { found: part.offset, expected });
            }
            now.state.extend_from_slice(&bytes);
            if !part.done {
                *incoming = Some(now);
                return Ok(message::encode_snapshot_answer(&mine));
            }
            now.state
        };
        let data = Box::new(SnapshotData::Received { commands: part.commands, state });
        let snapshot = RaftSnapshot { meta: part.meta, snapshot: data };
        let answer =
            self.raft.install_full_snapshot(part.vote, snapshot).await.map_err(|fatal| self.fail(fatal))?;
        Ok(message::encode_snapshot_answer(&answer.vote))
    }

    pub(super) fn metrics(&self) -> Metrics {
        let (proposals, commit, snapshots) = self.meter.read();
        let newest = self.applied.snapshots().newest();
        Metrics {
            role: self.roles.get(),
            last: self.log.last(),
            committed: self.log.committed(),
            applied: self.applied.last(),
            commands: self.applied.commands(),
            snapshot: newest.as_ref().map(|meta| meta.last),
            snapshot_bytes: newest.map_or(0, |meta| meta.state_len),
            log: self.log.stats(),
            full: self.log.is_full(),
            proposals,
            commit,
            snapshots,
        }
    }
}

/// Refuses a log that is older than a reign that was.
fn check_reign(dir: &Path, known: Option<Reign>, uuid: [u8; 16], log: &Log) -> Result<(), StartError> {
    let found = log.vote().map_or(0, |vote| vote.term);
    match known.filter(|known| known.directory == uuid && found < known.term) {
        Some(known) => Err(StartError::RolledBack { dir: dir.to_owned(), found, newest: known.term }),
        None => Ok(()),
    }
}

fn failure_of(log: &Log, fatal: openraft::error::Fatal<NodeId>) -> Failure {
    log.failure().map_or_else(|| fatal.into(), Failure::Log)
}

/// Stops the member when its log fails, wherever that was noticed: the library sees only what it asked for itself.
async fn watch_log(core: Weak<Core>, failed: Rc<Notify>) {
    loop {
        let failing = failed.notified();
        let Some(core) = core.upgrade() else { return };
        if let Some(failure) = core.log.failure() {
            tracing::error!("{failure}");
            // An error says that its main task was gone already.
            let _ended = core.raft.shutdown().await;
            core.roles.set(Role::Stopped);
            core.applied.wake();
            return;
        }
        drop(core);
        failing.await;
    }
}

/// Follows the library's state and publishes the role. It is the only waiter of that watch: which of several waiters the
/// library's channel wakes first is drawn from a random source that no seed controls.
async fn watch_role(core: Weak<Core>, roles: Rc<Roles>, applied: Rc<Applied>) {
    let Some((me, mut seen)) = core.upgrade().map(|core| (core.node, core.raft.server_metrics())) else {
        return;
    };
    drop(core);
    loop {
        let (leads, term, leader) = {
            let now = seen.borrow_and_update();
            let members = now.membership_config.membership();
            let other = now.current_leader.filter(|node| *node != me);
            let address = |node| members.get_node(&node).map(|at| at.addr.clone()).unwrap_or_default();
            let leader = other.map(|node| Peer { node, address: address(node) });
            (now.state == ServerState::Leader, now.vote.leader_id().term, leader)
        };
        if !leads {
            roles.set(Role::Follower { term, leader });
        }
        let mut leads_soon = leads;
        let changed = loop {
            let progress = applied.changed();
            // The first entry of its own term is behind everything that was committed before.
            if leads_soon && applied.last().is_some_and(|last| (last.term, last.node) == (term, me)) {
                roles.set(Role::Leader { term });
                leads_soon = false;
            }
            let changed = std::pin::pin!(seen.changed());
            if !leads_soon {
                break changed.await;
            }
            if let Some(changed) = first_of(changed, std::pin::pin!(progress)).await {
                break changed;
            }
        };
        if changed.is_err() {
            roles.set(Role::Stopped);
            applied.wake();
            return;
        }
    }
}

/// What `wanted` gives, or nothing if `other` is ready before.
async fn first_of<T>(
    mut wanted: Pin<&mut impl Future<Output = T>>,
    mut other: Pin<&mut impl Future<Output = ()>>,
) -> Option<T> {
    std::future::poll_fn(|cx| match wanted.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => other.as_mut().poll(cx).map(|()| None),
    })
    .await
}
