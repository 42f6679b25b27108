//! Replicas leave, join, and are promoted (C3, C6, C7).

use super::losses::Losses;
use super::{Answer, Step, check_count, check_text};
use crate::state::State;
use crate::state::changes::{Due, Position, takes_writes};
use crate::state::chunk::{ChunkEntry, MemberSet, MemberState};
use crate::state::command::{
    ChunkVersion, DropMember, JoinMembers, Leave, PromoteMembers, VersionsInstalled,
};
use crate::state::effect::{CopyOrder, Effect, InstallOrder};
use crate::state::event::EventCode;
use crate::state::ids::{ChunkId, CsId, FileId, Version};
use crate::state::inode::File;
use crate::state::membership::{Leaving, leave, promote};
use crate::state::outcome::Outcome;
use crate::state::placement::margin_bytes;
use crate::state::refusal::Refusal;
use crate::state::replication::Footing;
use std::collections::{BTreeMap, BTreeSet};

/// The most chunks in one command about members.
pub const MEMBERS_MAX: usize = 1024;
/// Percent of a disk that stay free when replicas return to it. Less than for new ones: most of what they need is there...
const RETURN_MARGIN: u64 = 2;
/// ...and so many chunks are enough: on a large disk that is nearly full, everything would stay away for good otherwise.
const RETURN_CHUNKS: u64 = 4;

/// What chunk servers are to be told because member sets have changed.
#[derive(Default)]
pub(super) struct Work {
    installs: BTreeMap<CsId, BTreeMap<ChunkId, Position>>,
    /// Somebody is away, or may return.
    returns: bool,
    /// Some chunk has other members: it may lack some, or have too many.
    changed: bool,
}

impl State {
    /// Makes a chunk's members these, at the next version (C7).
    pub(super) fn change_members(&mut self, work: &mut Work, (id, index): Position, members: MemberSet) {
        let version = |entry: &ChunkEntry| entry.version().next(self.cluster.generation);
        let Ok(file) = self.tree.file_mut(id) else { return };
        let changed = file.chunks.update(index, |entry| {
            let before = entry.clone();
            let next = version(entry);
            entry.change(next, members);
            (before, entry.clone())
        });
        let Some((before, mut after)) = changed else { return };
        let distinct = self.are_on_distinct_hosts(&after);
        if after.is_on_distinct_hosts() != distinct {
            after.set_on_distinct_hosts(distinct);
            if let Ok(file) = self.tree.file_mut(id) {
                file.chunks.update(index, |entry| entry.set_on_distinct_hosts(distinct));
            }
        }
        self.count_members(&before, false);
        self.count_members(&after, true);
        self.changes.note(id, Some(&before), Some(&after));
        for member in after.members().iter().filter(|member| takes_writes(member.state)) {
            // A joiner may have any version that it left with.
            let was = before.members().on(member.cs).map(|member| member.state);
            let from = if was.is_some_and(takes_writes) { before.version() } else { Version::ZERO };
            self.changes.install(member.cs, after.id(), Due { position: (id, index), from });
            work.installs.entry(member.cs).or_default().insert(after.id(), (id, index));
        }
        work.changed = true;
        work.returns |= after.members().count(MemberState::Absent) > 0;
    }

    fn are_on_distinct_hosts(&self, entry: &ChunkEntry) -> bool {
        let mut hosts = BTreeSet::new();
        entry
            .members()
            .iter()
            .all(|member| hosts.insert(self.servers.get(member.cs).map(|server| &server.host)))
    }

    /// What a chunk server is told about the present version of a chunk, if it has not installed it.
    pub(super) fn install_order(&self, entry: &ChunkEntry, cs: CsId) -> Option<InstallOrder> {
        let due = self.changes.due(cs, entry.id())?;
        let member = entry.members().on(cs)?;
        Some(InstallOrder {
            chunk: entry.id(),
            from: due.from,
            to: entry.version(),
            joins: member.state == MemberState::Joining,
            // A joiner may have to leave again, and needs what has changed while it was away to begin with.
            keep: entry.members().count(MemberState::Absent) + entry.members().count(MemberState::Joining)
                > 0,
        })
    }

    /// Tells chunk servers what has become of chunks in the end.
    pub(super) fn send(&self, step: &mut Step, work: Work) {
        for (cs, changed) in work.installs {
            let entries = changed.into_values().filter_map(|position| self.entry_at(position));
            let chunks: Vec<_> = entries.filter_map(|entry| self.install_order(entry, cs)).collect();
            if !chunks.is_empty() {
                step.effect(Effect::InstallVersions { cs, chunks });
            }
        }
        if work.returns {
            step.effect(Effect::Returns);
        }
        if work.changed {
            step.effect(Effect::Replicate);
        }
    }

    pub(super) fn is_alive(&self, cs: CsId) -> bool {
        self.servers.get(cs).is_some_and(|server| !server.is_lapsed())
    }

    /// What would become of a chunk's members if the replica on a chunk server left; `None` if it stays.
    pub(super) fn without(
        &self,
        id: FileId,
        entry: &ChunkEntry,
        cs: CsId,
        how: Leaving,
    ) -> Option<MemberSet> {
        let minimum = self.tree.file(id).ok()?.attrs.replicas.minimum;
        let usable = entry.is_usable().then_some(entry)?;
        if how == Leaving::Absent && !self.can_do_without(entry, cs) {
            return None;
        }
        leave(usable.members(), cs, how, minimum, |cs| self.is_alive(cs))
    }

    /// The chunks of a file that a [`DropMember`] changes, with what becomes of their members.
    fn dropped(&self, op: &DropMember) -> Vec<(Position, MemberSet)> {
        let (id, cs) = (FileId::from_raw(op.file), CsId(op.cs));
        let Ok(file) = self.tree.file(id) else { return Vec::new() };
        let is_named = |entry: &&ChunkEntry| entry.id().raw() == op.chunk;
        if op.chunk != 0 {
            let named = file.chunks.iter().find(is_named);
            let present = named.is_some_and(|entry| {
                let takes = entry.members().on(cs).is_some_and(|member| takes_writes(member.state));
                entry.version().raw() == op.version && takes
            });
            if !present {
                return Vec::new();
            }
        }
        // What was made and cannot become a member has nothing to return with.
        let is_useless = op.lease.is_none() && self.changes.is_fresh(cs, ChunkId::from_raw(op.chunk));
        let how = if op.lost || is_useless { Leaving::Failed } else { Leaving::Absent };
        // Who writes has all of them without it at once; what is seen of one chunk only is about that one.
        let one = op.lost || (op.lease.is_none() && op.chunk != 0);
        let concerned = file.chunks.iter().filter(|entry| !one || is_named(entry));
        concerned.filter_map(|entry| Some(((id, entry.index()), self.without(id, entry, cs, how)?))).collect()
    }

    /// Whether a [`DropMember`] would change anything, so that it is worth an entry in the log.
    pub fn may_drop(&self, op: &DropMember) -> bool {
        !self.dropped(op).is_empty()
    }

    pub(super) fn drop_member(&mut self, step: &mut Step, op: &DropMember) -> Answer {
        let id = FileId::from_raw(op.file);
        check_text("a reason", &op.why)?;
        if op.lease.is_some() {
            self.holder(op.lease.as_ref(), id)?;
        }
        if op.lost && op.chunk == 0 {
            return Err(Refusal::malformed("a lost replica is of one chunk"));
        }
        let dropped = self.dropped(op);
        let count = dropped.len() as u64;
        let mut work = Work::default();
        for (position, members) in dropped {
            self.change_members(&mut work, position, members);
        }
        self.send(step, work);
        if count > 0 && (op.lost || op.lease.is_some()) {
            let code = if op.lost { EventCode::ReplicaLost } else { EventCode::ReplicasLeft };
            step.event(code, &[&op.cs, &count, &self.tree.path_of(id), &op.why]);
        }
        Ok(Outcome::Acknowledged(count))
    }

    pub(super) fn join_members(&mut self, step: &mut Step, op: &JoinMembers) -> Answer {
        check_count(op.chunks.len(), MEMBERS_MAX)?;
        let server = self.servers.registered(op.cs, op.session)?;
        let id = server.id;
        if !server.serves() {
            return Err(Refusal::WrongRegistration(op.cs));
        }
        let mut work = Work::default();
        let mut joined = 0;
        for at in &op.chunks {
            let position = (FileId::from_raw(at.file), at.index);
            let Some(members) = self.may_join(position, id) else { continue };
            self.change_members(&mut work, position, members);
            joined += 1;
        }
        self.send(step, work);
        Ok(Outcome::Acknowledged(joined))
    }

    /// Whether nobody wants to remove a chunk server.
    fn stays(&self, cs: CsId) -> bool {
        self.servers.get(cs).is_some_and(|server| server.leave == Leave::Stay)
    }

    /// The members of a chunk with the absent one as a joiner; `None` if it cannot join now.
    fn may_join(&self, (id, index): Position, cs: CsId) -> Option<MemberSet> {
        let file = self.tree.file(id).ok()?;
        let entry = file.chunks.get(index)?;
        let absent = entry.members().on(cs).is_some_and(|member| member.state == MemberState::Absent);
        // Nothing returns to what is to be emptied, unless others need it from there.
        // One that nobody can fill would keep the place from others.
        let may = absent
            && (self.stays(cs) || self.is_kept_on(entry, cs))
            && entry.is_usable()
            && self.may_fill(entry)
            && self.has_room_to_return(file, cs)
            && entry.in_sync().any(|cs| self.is_alive(cs));
        may.then(|| {
            let mut members = entry.members().clone();
            members.set_state(cs, MemberState::Joining);
            members
        })
    }

    /// Whether a replica of a file can return to a chunk server. On a full disk it would only make all who write wait (C13).
    pub(super) fn has_room_to_return(&self, file: &File, cs: CsId) -> bool {
        self.has_room_for(file, cs, 0)
    }

    /// As [`Self::has_room_to_return`], with so many chunks to spare.
    fn has_room_for(&self, file: &File, cs: CsId, spare: u64) -> bool {
        let margin = self.policy(file).fill_margin.min(RETURN_MARGIN);
        self.servers.get(cs).is_some_and(|server| {
            let chunk = file.attrs.chunk_size;
            let stays_free =
                margin_bytes(server.total_bytes, margin).min(chunk.saturating_mul(RETURN_CHUNKS));
            let needed = chunk.saturating_mul(spare.saturating_add(1));
            server.free_bytes >= stays_free.saturating_add(needed)
        })
    }

    /// Whether a replica that is away cannot return to a chunk server only because its disk is full, or would be again after so many
    /// chunks more.
    pub fn lacks_room_to_return(&self, cs: CsId, spare: u64) -> bool {
        let mut last = None;
        // What counts is how large the chunks of a file are: one of each is enough.
        let differ = |(id, _): &Position| last.replace(*id) != Some(*id);
        let mut files = self.away_to_return(cs).filter(differ).filter_map(|(id, _)| self.tree.file(id).ok());
        files.any(|file| !self.has_room_for(file, cs, spare))
    }

    /// Whether a chunk has fewer members that are there than it needs to be written.
    pub fn is_blocked(&self, at: Position) -> bool {
        let alive = self.entry_at(at).map(|entry| entry.in_sync().filter(|cs| self.is_alive(*cs)).count());
        let minimum = self.tree.file(at.0).map_or(1, |file| file.attrs.replicas.minimum);
        alive.is_some_and(|alive| alive < usize::from(minimum))
    }

    /// Replicas on a chunk server that could join now, at most `limit`.
    pub fn returning(&self, cs: CsId, limit: usize) -> Vec<Position> {
        let may = |position: &Position| self.may_join(*position, cs).is_some();
        self.away_to_return(cs).filter(may).take(limit).collect()
    }

    /// Replicas that are away and of which it is worth to look whether they can return. Of a server that is to be emptied only those count
    /// that may have what others lack: that are few, and all others would be looked at in vain, each time.
    pub(in crate::state) fn away_to_return(&self, cs: CsId) -> impl Iterator<Item = Position> {
        let stays = self.stays(cs);
        let all = self.changes.absent_on(cs).take_while(move |_| stays);
        let lacking = self.changes.lacking().take_while(move |_| !stays);
        all.chain(
            lacking
                .filter(move |(chunk, _)| self.changes.is_absent(cs, *chunk))
                .map(|(_, position)| position),
        )
    }

    /// The chunk at a place in the maps.
    pub fn chunk_at(&self, position: Position) -> Option<ChunkId> {
        self.entry_at(position).map(ChunkEntry::id)
    }

    /// Chunk servers that have replicas which are away.
    pub fn servers_with_absent(&self) -> impl Iterator<Item = CsId> {
        self.changes.absent_servers()
    }

    /// Joiners on a chunk server that somebody can fill, but for those of which is known that it fails.
    pub fn joiners_on(&self, cs: CsId, is_failing: impl Fn(ChunkId) -> bool) -> usize {
        let entries = self.changes.joining_at(cs).filter_map(|position| self.entry_at(position));
        let may =
            |entry: &&ChunkEntry| entry.in_sync().any(|cs| self.is_alive(cs)) && !is_failing(entry.id());
        entries.filter(may).count()
    }

    pub(super) fn promote_members(&mut self, step: &mut Step, op: &PromoteMembers) -> Answer {
        check_count(op.chunks.len(), MEMBERS_MAX)?;
        let cs = self.servers.registered(op.cs, op.session)?.id;
        let mut work = Work::default();
        let (mut promoted, mut copied) = (0, 0u64);
        let mut losses = Losses::default();
        for done in &op.chunks {
            let chunk = ChunkId::from_raw(done.chunk);
            let Some(position) = self.changes.joiner(cs, chunk) else { continue };
            let Ok(file) = self.tree.file(position.0) else { continue };
            let Some(entry) = file.chunks.get(position.1) else { continue };
            let present = entry.version().raw() == done.version && self.changes.is_settled(cs, chunk);
            if !present {
                continue;
            }
            if !self.may_fill(entry) {
                // Somebody is back who may have more. Nobody would ask about this joiner again, and it would keep its place.
                let mut members = entry.members().clone();
                members.set_state(cs, MemberState::Absent);
                self.change_members(&mut work, position, members);
                continue;
            }
            let minimum = file.attrs.replicas.minimum;
            // Of those who have not reconciled only who is gone for good may leave.
            let unreconciled = entry.is_unreconciled();
            let stays = |cs| if unreconciled { !self.is_given_up(entry, cs) } else { self.is_alive(cs) };
            let Some(members) = promote(entry.members(), cs, minimum, stays) else {
                continue;
            };
            let is_made = self.changes.is_fresh(cs, chunk);
            self.change_members(&mut work, position, members);
            if unreconciled && let Ok(file) = self.tree.file_mut(position.0) {
                // It has what its sources had, but whoever reconciles believes it last: what it lists has no numbers.
                file.chunks.update(position.1, |entry| entry.forget(cs));
            }
            if done.lost_blocks > 0 {
                self.note_loss(position, done.lost_blocks, is_made, &mut losses);
            }
            promoted += 1;
            copied = copied.saturating_add(done.copied_bytes);
        }
        self.send(step, work);
        self.tell_of_losses(step, cs, &losses);
        if self.changes.absent_on(cs).next().is_some() {
            step.effect(Effect::Returns);
        }
        let is_last = self.changes.arriving_on(cs) == 0 && self.changes.absent_on(cs).next().is_none();
        if let Some(server) = self.servers.get_mut(cs) {
            server.returned += promoted;
            server.returned_bytes = server.returned_bytes.saturating_add(copied);
            if is_last && promoted > 0 {
                let (replicas, bytes) = (server.returned, server.returned_bytes);
                (server.returned, server.returned_bytes) = (0, 0);
                step.event(EventCode::ReplicasReturned, &[&op.cs, &replicas, &bytes]);
            }
        }
        Ok(Outcome::Acknowledged(promoted))
    }

    pub(super) fn versions_installed(&mut self, step: &mut Step, op: &VersionsInstalled) -> Answer {
        check_count(op.chunks.len(), MEMBERS_MAX)?;
        let cs = self.servers.registered(op.cs, op.session)?.id;
        let mut news = 0;
        let mut copies: BTreeMap<CsId, Vec<CopyOrder>> = BTreeMap::new();
        let is_present = |done: &ChunkVersion| {
            let due = self.changes.due(cs, ChunkId::from_raw(done.chunk));
            let entry = due.and_then(|due| self.entry_at(due.position));
            entry.is_none_or(|entry| done.version <= entry.version().raw())
        };
        if !op.chunks.iter().all(is_present) {
            return Err(Refusal::malformed("a version that was never committed is installed"));
        }
        for done in &op.chunks {
            let (chunk, version) = (ChunkId::from_raw(done.chunk), Version::from_raw(done.version));
            let Some(due) = self.changes.due(cs, chunk) else { continue };
            let Some(entry) = self.entry_at(due.position) else { continue };
            let present = entry.version() == version;
            self.changes.installed(cs, chunk, version, present);
            news += 1;
            if present {
                self.copy_orders(due.position, &mut copies);
            }
        }
        for (cs, chunks) in copies {
            step.effect(Effect::CatchUp { cs, chunks });
        }
        Ok(Outcome::Acknowledged(news))
    }

    /// The file of a chunk of which a chunk server is to install a version.
    pub fn file_of_due(&self, cs: CsId, chunk: ChunkId) -> Option<FileId> {
        self.changes.due(cs, chunk).map(|due| due.position.0)
    }

    /// Whether a chunk server is to install this version still.
    pub fn is_install_due(&self, cs: CsId, order: &InstallOrder) -> bool {
        let due = self.changes.due(cs, order.chunk);
        due.and_then(|due| self.entry_at(due.position)).is_some_and(|entry| entry.version() == order.to)
    }

    /// The joiner of a chunk on a chunk server, as an order to fill it.
    pub fn joiner(&self, cs: CsId, chunk: ChunkId) -> Option<CopyOrder> {
        let (file, index) = self.changes.joiner(cs, chunk)?;
        let entry = self.entry_at((file, index))?;
        Some(CopyOrder { file, index, chunk, version: entry.version() })
    }

    /// Whether a replica is to be filled: it is a joiner, or will be one when it can.
    pub fn is_to_be_filled(&self, cs: CsId, chunk: ChunkId) -> bool {
        self.changes.joiner(cs, chunk).is_some() || self.changes.is_absent(cs, chunk)
    }

    pub(super) fn entry_at(&self, (id, index): Position) -> Option<&ChunkEntry> {
        self.tree.file(id).ok()?.chunks.get(index)
    }

    /// The joiners of a chunk that have installed the version. They are filled as soon as there is a member to do it from.
    pub(super) fn copy_orders(&self, at: Position, orders: &mut BTreeMap<CsId, Vec<CopyOrder>>) {
        let Some(entry) = self.entry_at(at) else { return };
        for member in entry.members().iter() {
            if member.state == MemberState::Joining && self.changes.is_settled(member.cs, entry.id()) {
                let order =
                    CopyOrder { file: at.0, index: at.1, chunk: entry.id(), version: entry.version() };
                orders.entry(member.cs).or_default().push(order);
            }
        }
    }

    /// Members that a joiner can be filled from.
    fn sources_of(&self, entry: &ChunkEntry) -> impl Iterator<Item = CsId> {
        entry
            .in_sync()
            .filter(|cs| self.is_alive(*cs) && self.changes.is_settled(*cs, entry.id()))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Whether a joiner's chunk has as many members as it wants: it only lies better there.
    pub fn is_spare(&self, order: &CopyOrder) -> bool {
        let Ok(file) = self.tree.file(order.file) else { return false };
        let Some(entry) = file.chunks.get(order.index) else { return false };
        let firm = entry.in_sync().filter(|cs| self.footing(*cs) == Footing::Firm).count();
        firm >= usize::from(file.attrs.replicas.normal)
    }

    /// Members that a joiner can be filled from, if it is one still, at this version.
    pub fn copy_sources(&self, cs: CsId, order: &CopyOrder) -> Vec<CsId> {
        let entry = self.entry_at((order.file, order.index));
        let present = entry.filter(|entry| (entry.id(), entry.version()) == (order.chunk, order.version));
        let joiner = self.changes.joiner(cs, order.chunk).is_some();
        present.filter(|_| joiner).map_or_else(Vec::new, |entry| self.sources_of(entry).collect())
    }

    /// Whether nobody has reconciled the chunk of an order.
    pub fn is_unreconciled(&self, order: &CopyOrder) -> bool {
        self.entry_at((order.file, order.index)).is_some_and(ChunkEntry::is_unreconciled)
    }

    /// Whether nobody else than these can have what a joiner lacks: all other members are gone for good, or cannot return. Other joiners
    /// may have held the chunk before, and keep what they have of it: they are waited for until it is known that they cannot be
    /// filled, either. Of several such one comes after the other, and who was only made comes last. Whoever is not waited for here,
    /// and may have more, is kept ([`ChunkEntry::lacks_blocks`]). That a server is to be emptied is no reason to do without what it has while
    /// it is only silent.
    pub fn are_last_sources(
        &self,
        cs: CsId,
        order: &CopyOrder,
        sources: &[CsId],
        is_failing: impl Fn(CsId) -> bool,
        is_given_up: impl Fn(CsId) -> bool,
    ) -> bool {
        let is_meant = |entry: &&ChunkEntry| (entry.id(), entry.version()) == (order.chunk, order.version);
        let Some(entry) = self.entry_at((order.file, order.index)).filter(is_meant) else { return false };
        let Ok(file) = self.tree.file(order.file) else { return false };
        let turn = |cs: CsId| (self.changes.is_fresh(cs, order.chunk), cs);
        let is_stuck = |cs: CsId| is_given_up(cs) || !self.has_room_to_return(file, cs);
        entry.members().iter().all(|member| match member.state {
            MemberState::InSync => {
                let is_gone = self.is_given_up(entry, member.cs) && !self.is_only_silent(member.cs);
                sources.contains(&member.cs) || is_gone
            }
            // Who shows damage may return all the same; who is to be emptied only when it is known that it is needed.
            MemberState::Absent => match self.footing(member.cs) {
                Footing::Gone => !(self.is_only_silent(member.cs) && self.is_kept(entry, &member)),
                Footing::Firm | Footing::Leaving if is_stuck(member.cs) => true,
                Footing::Leaving if !self.stays(member.cs) && !self.is_kept(entry, &member) => true,
                _ => self.changes.is_fresh(member.cs, order.chunk),
            },
            MemberState::Joining => {
                let comes_later = turn(member.cs) > turn(cs) && is_failing(member.cs);
                member.cs == cs || !self.is_alive(member.cs) || comes_later
            }
            _ => true,
        })
    }

    /// The version of a chunk of a file, if there is a member on a chunk server.
    pub fn version_on(&self, file: FileId, chunk: ChunkId, cs: CsId) -> Option<Version> {
        let mut entries = self.tree.file(file).ok()?.chunks.iter();
        let entry = entries.find(|entry| entry.id() == chunk)?;
        entry.in_sync().any(|member| member == cs).then(|| entry.version())
    }

    /// Other members that damaged blocks of a member can be repaired from, if the chunk is the one that is meant.
    pub fn repair_sources(&self, file: FileId, chunk: ChunkId, version: Version, cs: CsId) -> Vec<CsId> {
        let found =
            self.tree.file(file).ok().and_then(|file| file.chunks.iter().find(|entry| entry.id() == chunk));
        let is_meant = |entry: &&ChunkEntry| {
            let member = entry.members().on(cs).map(|member| member.state);
            entry.version() == version && !entry.is_unreconciled() && member == Some(MemberState::InSync)
        };
        let sources =
            found.filter(is_meant).map(|entry| self.sources_of(entry).filter(|other| *other != cs).collect());
        sources.unwrap_or_default()
    }

    /// Chunks with joiners that may not be filled now.
    pub(super) fn joiners_to_wait(&self) -> impl Iterator<Item = ChunkId> {
        let entries = self.changes.joining().filter_map(|(_, _, position)| self.entry_at(position));
        entries.filter(|entry| !self.may_fill(entry)).map(ChunkEntry::id)
    }

    /// Joiners leave (they may have writes that no member has, or lack some that all had) and begin anew later.
    pub(super) fn dismiss_joiners(
        &mut self,
        step: &mut Step,
        whom: impl Fn(CsId, FileId, &ChunkEntry) -> bool,
    ) {
        let joiners: Vec<(CsId, Position)> =
            self.changes.joining().map(|(cs, _, position)| (cs, position)).collect();
        let mut work = Work::default();
        for (cs, position) in joiners {
            let Some(entry) = self.entry_at(position) else { continue };
            if !whom(cs, position.0, entry) {
                continue;
            }
            let mut members = entry.members().clone();
            members.set_state(cs, MemberState::Absent);
            self.change_members(&mut work, position, members);
        }
        self.send(step, work);
    }
}
