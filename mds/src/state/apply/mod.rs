//! What each command does, one file per group.
//!
//! Every handler first checks, then changes: once it has changed anything it cannot refuse any more.

mod access;
mod chunks;
mod cluster;
mod files;
mod inodes;
mod leases;
mod losses;
mod members;
mod memory;
mod pending;
mod removal;
mod replication;
mod report;
mod servers;
mod sessions;

pub use chunks::INDICES_MAX;
pub(super) use inodes::no_xattr;
pub use leases::RECONCILED_MAX;
pub use members::MEMBERS_MAX;
pub use report::Stranger;
pub use servers::REPORTED_MAX;

use super::State;
use super::command::{CommandOp, LeaseMode, LeaseProof, Target, TargetRef};
use super::effect::Effect;
use super::event::EventCode;
use super::ids::{ClientId, Epoch, FileId};
use super::inode::{Body, ns_of_ms};
use super::namespace::parse_path;
use super::outcome::Outcome;
use super::refusal::{NotHolder, Refusal, TooMany, WrongEpoch};

/// One command being carried out.
pub(super) struct Step {
    /// Its index in the log.
    pub(super) index: u64,
    /// Its stamp.
    pub(super) now_ms: u64,
    /// What happened so far.
    pub(super) events: Vec<(EventCode, Vec<String>)>,
    /// What the leader has to do.
    pub(super) effects: Vec<Effect>,
}

impl Step {
    pub(super) fn new(index: u64, now_ms: u64) -> Self {
        Self { index, now_ms, events: Vec::new(), effects: Vec::new() }
    }

    /// Its stamp in nanoseconds.
    fn now_ns(&self) -> i64 {
        ns_of_ms(self.now_ms)
    }

    fn event(&mut self, code: EventCode, args: &[&dyn std::fmt::Display]) {
        self.events.push((code, args.iter().map(ToString::to_string).collect()));
    }

    fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}

/// What a handler gives back.
type Answer = Result<Outcome, Refusal>;

impl State {
    /// Carries out a command that is new.
    pub(super) fn execute(&mut self, step: &mut Step, op: &CommandOp) -> Answer {
        if self.cluster.generation == 0 && !matches!(op, CommandOp::InitCluster(_)) {
            return Err(Refusal::NotInitialized(()));
        }
        let answer = self.dispatch(step, op)?;
        if let Some(client) = token_user(op) {
            self.clients.confirm(client);
        }
        Ok(answer)
    }

    fn dispatch(&mut self, step: &mut Step, op: &CommandOp) -> Answer {
        match op {
            CommandOp::InitCluster(op) => self.init_cluster(step, op),
            CommandOp::RaiseGeneration(op) => self.raise_generation(step, op),
            CommandOp::LeaderElected(op) => self.leader_elected(step, op),
            CommandOp::SetConfig(op) => self.set_config(step, op),
            CommandOp::NoteEvent(op) => Self::note_event(step, op),
            CommandOp::SkipIds(op) => self.skip_ids(op),
            CommandOp::MakeDir(op) => self.make_dir(step, op),
            CommandOp::CreateFile(op) => self.create_file(step, op),
            CommandOp::Remove(op) => self.remove(step, op),
            CommandOp::Rename(op) => self.rename(step, op),
            CommandOp::Resize(op) => self.resize(step, op),
            CommandOp::SetAttr(op) => self.set_attr(step, op),
            CommandOp::RegisterCs(op) => self.register_cs(step, op),
            CommandOp::FencesRecorded(op) => self.fences_recorded(step, op),
            CommandOp::CsLapsed(op) => self.cs_lapsed(step, op),
            CommandOp::CsStateChanged(op) => self.cs_state_changed(step, op),
            CommandOp::CsReport(op) => self.cs_report(step, op),
            CommandOp::OpenSession(op) => self.open_session(step, op),
            CommandOp::CloseSession(op) => self.close_session(step, op),
            CommandOp::ExpireSession(op) => self.expire_session(step, op),
            CommandOp::Open(op) => self.open(step, op),
            CommandOp::Resume(op) => self.resume(step, op),
            CommandOp::Release(op) => self.release(step, op),
            CommandOp::Revoke(op) => self.revoke(step, op),
            CommandOp::ReconcileDone(op) => self.reconcile_done(step, op),
            CommandOp::EndReservation(op) => self.end_reservation(step, op),
            CommandOp::AllocateChunks(op) => self.allocate_chunks(step, op),
            CommandOp::ChunkCreated(op) => self.chunk_created(step, op),
            CommandOp::ReplaceCreating(op) => self.replace_creating(step, op),
            CommandOp::PurgeChunks(op) => self.purge_chunks(step, op),
            CommandOp::ChunksPurged(op) => self.chunks_purged(op),
            CommandOp::DropMember(op) => self.drop_member(step, op),
            CommandOp::JoinMembers(op) => self.join_members(step, op),
            CommandOp::PromoteMembers(op) => self.promote_members(step, op),
            CommandOp::VersionsInstalled(op) => self.versions_installed(step, op),
            CommandOp::AddReplicas(op) => self.add_replicas(step, op),
            CommandOp::RemoveReplicas(op) => self.remove_replicas(step, op),
            CommandOp::ReleaseCs(op) => self.release_cs(step, op),
            CommandOp::DropCs(op) => self.drop_cs(step, op),
            CommandOp::QuarantineReplicas(op) => self.quarantine_replicas(step, op),
            CommandOp::LoseReplicas(op) => self.lose_replicas(step, op),
            CommandOp::SettleLosses(op) => self.settle_losses(step, op),
            CommandOp::MakeNode(op) => self.make_node(step, op),
            CommandOp::LinkNode(op) => self.link_node(step, op),
            CommandOp::UnlinkNode(op) => self.unlink_node(step, op),
            CommandOp::RenameNode(op) => self.rename_node(step, op),
            CommandOp::SetInode(op) => self.set_inode(step, op),
            CommandOp::SetXattr(op) => self.set_xattr(step, op),
            CommandOp::RemoveXattr(op) => self.remove_xattr(step, op),
            CommandOp::SetPassword(op) => self.set_password(step, op),
            CommandOp::AdmitNode(op) => self.admit_node(step, op),
            CommandOp::RevokeNode(op) => self.revoke_node(step, op),
            CommandOp::LoginsFailed(op) => self.logins_failed(step, op),
            CommandOp::NoteHour(op) => self.note_hour(step, *op),
        }
    }

    /// The number of a session opened by this command: unique, also across a restore (C12).
    fn session_number(&self, step: &Step) -> u64 {
        Epoch::new(self.cluster.generation, step.index).raw()
    }

    /// Finds the regular file a command names.
    pub(super) fn resolve(&self, target: Option<&Target>) -> Result<FileId, Refusal> {
        match target.and_then(|target| target.target.as_ref()) {
            Some(TargetRef::File(raw)) => {
                let id = FileId::from_raw(*raw);
                self.tree.file(id).map(|_| id)
            }
            Some(TargetRef::Path(text)) => {
                let path = parse_path(text)?;
                let id = self.tree.lookup(path)?;
                match self.tree.inode(id).map(|inode| &inode.body) {
                    Some(Body::File(_)) => Ok(id),
                    Some(Body::Dir(_)) => Err(Refusal::IsADirectory(text.clone())),
                    _ => Err(Refusal::NotAFile(text.clone())),
                }
            }
            None => Err(Refusal::malformed("no file is named")),
        }
    }

    /// Checks that the sender holds the lease of a file, at the present epoch; says how.
    fn holder(&self, proof: Option<&LeaseProof>, file: FileId) -> Result<(ClientId, LeaseMode), Refusal> {
        let proof = proof.ok_or_else(|| Refusal::malformed("no lease is named"))?;
        let client = self.clients.authenticate(proof.client, proof.token)?;
        let lease = self.tree.file(file)?.lease();
        let mode = lease
            .mode_of(client)
            .ok_or(Refusal::NotHolder(NotHolder { file: file.raw(), client: client.0 }))?;
        if proof.epoch != lease.epoch().raw() {
            return Err(Refusal::WrongEpoch(WrongEpoch {
                file: file.raw(),
                given: proof.epoch,
                current: lease.epoch().raw(),
            }));
        }
        Ok((client, mode))
    }

    /// Checks that the sender is the writer of a file, at the present epoch (C1).
    fn writer(&self, proof: Option<&LeaseProof>, file: FileId) -> Result<ClientId, Refusal> {
        match self.holder(proof, file)? {
            (client, LeaseMode::Exclusive) => Ok(client),
            (client, LeaseMode::Shared) => {
                Err(Refusal::NotHolder(NotHolder { file: file.raw(), client: client.0 }))
            }
        }
    }
}

/// The longest name, address or note in a command, in bytes.
const TEXT_MAX: usize = 255;

fn check_text(what: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > TEXT_MAX {
        Err(Refusal::Malformed(format!("{what} has at most {TEXT_MAX} bytes")))
    } else {
        Ok(())
    }
}

fn check_count(given: usize, limit: usize) -> Result<(), Refusal> {
    if given > limit {
        Err(Refusal::TooMany(TooMany { given: given as u64, limit: limit as u64 }))
    } else {
        Ok(())
    }
}

/// The client that showed with this command that it has its session's token.
fn token_user(op: &CommandOp) -> Option<ClientId> {
    let client = match op {
        CommandOp::Open(op) => op.client,
        CommandOp::Resume(op) => op.client,
        CommandOp::Release(op) => op.lease?.client,
        CommandOp::Resize(op) => op.lease?.client,
        CommandOp::ReconcileDone(op) => op.lease?.client,
        CommandOp::AllocateChunks(op) => op.lease?.client,
        CommandOp::DropMember(op) => op.lease?.client,
        CommandOp::SetInode(op) => op.size?.lease?.client,
        CommandOp::MakeNode(op) => op.opener?.client,
        _ => return None,
    };
    Some(ClientId(client))
}
