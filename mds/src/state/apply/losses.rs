//! Blocks that no member had when a replica was filled: whoever may have them is kept until it has been asked (C8).

use super::members::MEMBERS_MAX;
use super::{Answer, Step, check_count};
use crate::state::State;
use crate::state::changes::Position;
use crate::state::chunk::{ChunkEntry, Member, MemberState};
use crate::state::command::{CsState, Leave, LossAt, SettleLosses};
use crate::state::effect::Effect;
use crate::state::event::EventCode;
use crate::state::ids::{ChunkId, CsId, FileId};
use crate::state::outcome::Outcome;
use crate::state::servers::ChunkServer;
use std::collections::BTreeSet;

/// Chunk servers that are named in an event.
const NAMED: usize = 8;

/// Blocks that replicas on a chunk server were filled without, as far as an operator is to hear of it.
#[derive(Default)]
pub(super) struct Losses {
    chunks: u64,
    blocks: u64,
    /// The file of the first chunk.
    first: Option<FileId>,
    /// Who may have them, and is not there.
    waited_for: BTreeSet<CsId>,
}

/// Chunk servers as an event names them: not all if they are many.
pub(super) fn names_of(servers: &BTreeSet<CsId>) -> String {
    let mut names: Vec<String> = servers.iter().take(NAMED).map(CsId::to_string).collect();
    let others = servers.len() - names.len();
    if others > 0 {
        names.push(format!("{others} more"));
    }
    names.join(", ")
}

impl State {
    /// Whether a replica is kept because it may have blocks that members of its chunk lack. Not if an operator has given up its chunk
    /// server by force (who empties one gives up nothing of it, also when it is offline for a while), nor one that has never been a
    /// member: it has what the members have.
    pub(super) fn is_kept(&self, entry: &ChunkEntry, member: &Member) -> bool {
        let may_return =
            matches!(member.state, MemberState::InSync | MemberState::Joining | MemberState::Absent);
        let is_given_up =
            |server: &ChunkServer| server.leave == Leave::Lost || server.state == CsState::Dropped;
        let stays = self.servers.get(member.cs).is_some_and(|server| !is_given_up(server));
        entry.lacks_blocks() && may_return && stays && !self.changes.is_fresh(member.cs, entry.id())
    }

    /// As [`Self::is_kept`], of the replica on a chunk server.
    pub(super) fn is_kept_on(&self, entry: &ChunkEntry, cs: CsId) -> bool {
        entry.members().on(cs).is_some_and(|member| self.is_kept(entry, &member))
    }

    /// Members of a chunk lack blocks from now on. An operator is to hear of it when that is new: a replica was made without them, or
    /// somebody is waited for. One that returns without what it had given up before is no news.
    pub(super) fn note_loss(&mut self, at: Position, blocks: u32, is_made: bool, losses: &mut Losses) {
        let is_new = self.entry_at(at).is_some_and(|entry| !entry.lacks_blocks());
        self.set_lacks_blocks(at, true);
        let Some(entry) = self.entry_at(at).filter(|_| is_new) else { return };
        let is_there = |member: &Member| member.state == MemberState::InSync && self.is_alive(member.cs);
        let kept = entry.members().iter().filter(|member| self.is_kept(entry, member) && !is_there(member));
        let waited_for: Vec<CsId> = kept.map(|member| member.cs).collect();
        if is_made || !waited_for.is_empty() {
            losses.chunks += 1;
            losses.blocks += u64::from(blocks);
            losses.first.get_or_insert(at.0);
            losses.waited_for.extend(waited_for);
        }
    }

    /// Tells an operator of what a chunk server was filled without, and who is waited for because of that.
    pub(super) fn tell_of_losses(&self, step: &mut Step, cs: CsId, losses: &Losses) {
        let Some(first) = losses.first else { return };
        let (path, names) = (self.tree.path_of(first), names_of(&losses.waited_for));
        step.event(EventCode::BlocksLost, &[&cs.0, &losses.blocks, &path, &losses.chunks, &names]);
    }

    fn set_lacks_blocks(&mut self, at: Position, lacks: bool) {
        let Ok(file) = self.tree.file_mut(at.0) else { return };
        let changed = file.chunks.update(at.1, |entry| {
            entry.set_lacks_blocks(lacks);
            entry.id()
        });
        if let Some(chunk) = changed {
            self.changes.lacks(chunk, at, lacks);
        }
    }

    /// Whether all who may have what members of a chunk lack are members that can be asked.
    fn are_all_there(&self, entry: &ChunkEntry) -> bool {
        let is_there = |member: &Member| {
            member.state == MemberState::InSync
                && self.is_alive(member.cs)
                && self.changes.is_settled(member.cs, entry.id())
        };
        entry.lacks_blocks()
            && !entry.is_unreconciled()
            && entry.members().iter().all(|member| !self.is_kept(entry, &member) || is_there(&member))
    }

    /// Chunks with members that lack blocks, of which all can be asked who may have them.
    pub fn losses_to_settle(&self) -> Vec<(ChunkId, LossAt)> {
        let found = self.changes.lacking().filter_map(|(chunk, at)| Some((chunk, at, self.entry_at(at)?)));
        let there = found.filter(|(_, _, entry)| self.are_all_there(entry));
        let named = there.map(|(chunk, (file, index), entry)| {
            (chunk, LossAt { file: file.raw(), index, version: entry.version().raw() })
        });
        named.collect()
    }

    /// The members of a chunk that are there with their sessions, and how many blocks it has, if it is the one that is meant.
    pub fn members_to_ask(&self, chunk: ChunkId, loss: &LossAt) -> (Vec<(CsId, u64)>, u32) {
        let at = (FileId::from_raw(loss.file), loss.index);
        let is_meant = |entry: &&ChunkEntry| (entry.id(), entry.version().raw()) == (chunk, loss.version);
        let Some(entry) = self.entry_at(at).filter(is_meant) else { return Default::default() };
        let size = self.tree.file(at.0).map_or(0, |file| file.attrs.chunk_size);
        let alive = entry.in_sync().filter(|cs| self.is_alive(*cs));
        let members = alive.filter_map(|cs| Some((cs, self.servers.get(cs)?.session)));
        (members.collect(), u32::try_from(size / 4096).unwrap_or(u32::MAX))
    }

    /// Whether members of some chunk lack blocks.
    pub fn is_somebody_lacking(&self) -> bool {
        self.changes.lacking().next().is_some()
    }

    pub(super) fn settle_losses(&mut self, step: &mut Step, op: &SettleLosses) -> Answer {
        check_count(op.chunks.len(), MEMBERS_MAX)?;
        let mut settled = 0;
        for loss in &op.chunks {
            let at = (FileId::from_raw(loss.file), loss.index);
            let is_settled = self
                .entry_at(at)
                .is_some_and(|entry| entry.version().raw() == loss.version && self.are_all_there(entry));
            if is_settled {
                self.set_lacks_blocks(at, false);
                settled += 1;
            }
        }
        if settled > 0 {
            step.effect(Effect::Replicate);
        }
        Ok(Outcome::Acknowledged(settled))
    }
}
