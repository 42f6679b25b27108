//! Replicas are made where they are missing, and removed where they have no use (C7, C9).

use super::members::{MEMBERS_MAX, Work};
use super::{Answer, Step, check_count};
use crate::state::State;
use crate::state::changes::{Addition, Position};
use crate::state::chunk::{ChunkEntry, MemberState};
use crate::state::command::{AddReplicas, CsState, FailureDomain, Leave, RemoveReplicas, ReplicaPlace};
use crate::state::effect::{Effect, NewReplica};
use crate::state::ids::{ChunkId, CsId, FileId};
use crate::state::inode::File;
use crate::state::outcome::Outcome;
use crate::state::placement::{Candidate, PlacementRefusal, Policy, has_room, margin_bytes, place};
use crate::state::replication::{Footing, Need, PlannedStep, Replica, ReplicaStep, need};
use crate::state::servers::ChunkServer;
use std::collections::{BTreeMap, BTreeSet};

/// How much better a place must be for a replica to be moved: a tenth of a disk.
const MUCH: u64 = 100;

/// How full a disk is, in thousandths.
fn fullness(server: &ChunkServer) -> u64 {
    let used = server.total_bytes.saturating_sub(server.free_bytes);
    // At most 1000.
    (u128::from(used) * 1000 / u128::from(server.total_bytes.max(1))) as u64
}

impl State {
    /// How a chunk server stands.
    pub(in crate::state) fn footing(&self, cs: CsId) -> Footing {
        match self.servers.get(cs) {
            None => Footing::Gone,
            Some(server) => match (server.leave, server.state) {
                (_, CsState::Offline | CsState::Dropped) | (Leave::Lost, _) => Footing::Gone,
                (Leave::Leave, _) if server.serves() => Footing::Leaving,
                // It still has what is good, but new copies are worth more.
                (Leave::Stay, _) if server.serves() && server.shows_damage() => Footing::Leaving,
                (Leave::Leave, _) => Footing::Gone,
                (Leave::Stay, _) if server.serves() => Footing::Firm,
                (Leave::Stay, _) => Footing::Away,
            },
        }
    }

    /// Whether replicas may come to a chunk server.
    pub fn is_firm(&self, cs: CsId) -> bool {
        self.footing(cs) == Footing::Firm
    }

    /// Whether a chunk server is waited for.
    pub fn is_away(&self, cs: CsId) -> bool {
        self.footing(cs) == Footing::Away
    }

    /// Whether a chunk server that is to be emptied is silent, but not for so long that it counts as offline: nothing more comes to it, but
    /// what it has may be back any moment.
    pub(super) fn is_only_silent(&self, cs: CsId) -> bool {
        let is_silent =
            |server: &ChunkServer| server.leave == Leave::Leave && server.state == CsState::Inactive;
        self.servers.get(cs).is_some_and(is_silent)
    }

    /// Whether a chunk server is not waited for any more.
    pub(super) fn is_gone(&self, cs: CsId) -> bool {
        self.footing(cs) == Footing::Gone
    }

    /// Whether a replica of a chunk may be filled. One that nobody has reconciled waits for that, as long as all its members may come
    /// back: one of them may have acknowledged writes that the others have lost (C4). With a member that is gone there is nothing to wait
    /// for, also when it has left the members since; but then all that are left have to be there. A copy of them makes nobody dispensable
    /// who remembers more, see [`Self::can_do_without`]: it keeps safe what they have.
    pub(super) fn may_fill(&self, entry: &ChunkEntry) -> bool {
        let is_gone = |state: MemberState| {
            entry.members().iter().any(|member| member.state == state && self.is_gone(member.cs))
        };
        !entry.is_unreconciled()
            || is_gone(MemberState::InSync)
            || (is_gone(MemberState::Absent) && entry.in_sync().all(|cs| self.is_alive(cs)))
    }

    /// What a chunk's replicas need now. `overdue` says for whom nobody waits any longer: who is away, by those who have to write;
    /// who has no room or could not be filled for long, at all.
    fn need_of(
        &self,
        file: &File,
        entry: &ChunkEntry,
        overdue: impl Fn(CsId, ChunkId) -> bool,
    ) -> Option<Need> {
        let overdue = |cs| overdue(cs, entry.id());
        let begun = self.changes.adding(entry.id()).next().is_some();
        if !entry.is_usable() || !(self.may_fill(entry) || begun) {
            return None;
        }
        let replicas = self.replicas_seen(file, entry, overdue);
        let wanted = file.attrs.replicas;
        let alive = entry.in_sync().filter(|cs| self.is_alive(*cs)).count();
        let mut away = replicas.iter().filter(|replica| self.footing(replica.cs) == Footing::Away);
        let hurry = alive < usize::from(wanted.minimum) && away.all(|replica| overdue(replica.cs));
        let found = need(&replicas, wanted, hurry);
        // Whoever reconciles it may need what only this replica has.
        let is_needed = |cs: CsId| {
            let replica = replicas.iter().find(|replica| replica.cs == cs);
            replica.is_some_and(|replica| {
                !matches!(replica.state, MemberState::Creating | MemberState::Failed)
                    && !self.is_given_up(entry, cs)
            })
        };
        found.filter(|need| !matches!(need, Need::Less(cs) if entry.is_unreconciled() && is_needed(*cs)))
    }

    /// A chunk's replicas as they count now: who is waited for in vain stands like one that is gone, and takes no place.
    fn replicas_seen(&self, file: &File, entry: &ChunkEntry, overdue: impl Fn(CsId) -> bool) -> Vec<Replica> {
        let mut replicas = self.replicas_of(file, entry);
        for replica in &mut replicas {
            let in_vain = match (replica.state, replica.footing) {
                (MemberState::Creating, Footing::Away) => overdue(replica.cs),
                (MemberState::Absent, Footing::Firm) => {
                    overdue(replica.cs) || !self.has_room_to_return(file, replica.cs)
                }
                _ => false,
            };
            if in_vain {
                replica.footing = Footing::Gone;
            }
        }
        replicas
    }

    /// A chunk's replicas with those that are being made.
    fn replicas_of(&self, file: &File, entry: &ChunkEntry) -> Vec<Replica> {
        let members =
            entry.members().iter().map(|member| (member.cs, member.state, self.is_kept(entry, &member)));
        let made = self.changes.adding(entry.id()).map(|cs| (cs, MemberState::Creating, false));
        let of = |(cs, state, kept): (CsId, MemberState, bool)| Replica {
            cs,
            state,
            footing: self.footing(cs),
            burden: self.burden(file, entry, cs),
            kept,
        };
        members.chain(made).map(of).collect()
    }

    /// How much there is to be said against a replica's place: first another one on the same host, then the wrong tier, then
    /// how full the disk is, in thousandths.
    fn burden(&self, file: &File, entry: &ChunkEntry, cs: CsId) -> u64 {
        self.burden_beside(file, entry.in_sync().filter(|other| *other != cs), cs)
    }

    /// As [`Self::burden`], beside these others.
    fn burden_beside(&self, file: &File, others: impl Iterator<Item = CsId>, cs: CsId) -> u64 {
        let Some(server) = self.servers.get(cs) else { return u64::MAX };
        let others = others.filter_map(|other| self.servers.get(other));
        let together = others.filter(|other| other.host == server.host).count() as u64;
        together << 20 | u64::from(server.tier != file.attrs.tier) << 12 | fullness(server)
    }

    /// The next step of chunks that need one, among some `limit` from a position on; and where to go on, if not at the end.
    pub fn plan_replicas(
        &self,
        from: (FileId, u32),
        limit: usize,
        overdue: impl Fn(CsId, ChunkId) -> bool,
    ) -> (Vec<ReplicaStep>, Option<(FileId, u32)>) {
        let mut steps = Vec::new();
        let mut left = limit;
        for (id, file) in self.tree.files_from(from.0) {
            let first = if id == from.0 { from.1 } else { 0 };
            for entry in file.chunks.iter_from(first) {
                if left == 0 {
                    return (steps, Some((id, entry.index())));
                }
                left -= 1;
                steps.extend(self.step_of((id, entry.index()), file, entry, &overdue));
            }
            // A file without chunks is a step as well.
            left = left.saturating_sub(usize::from(file.chunks.is_empty()));
        }
        (steps, None)
    }

    fn step_of(
        &self,
        position: Position,
        file: &File,
        entry: &ChunkEntry,
        overdue: impl Fn(CsId, ChunkId) -> bool,
    ) -> Option<ReplicaStep> {
        let step = match self.need_of(file, entry, overdue)? {
            Need::More(count, urgency) => PlannedStep::Add { count, urgency },
            Need::Less(cs) => PlannedStep::Remove { cs },
        };
        Some(ReplicaStep { file: position.0, index: position.1, version: entry.version(), step })
    }

    /// Replicas that would be much better elsewhere: where no other one is on the same host, on their tier, on a disk that is less
    /// full by a tenth. Of chunks that need nothing, among some `limit` from a position on; and where to go on, if not at the end.
    /// One more replica there is all it takes: then the one that carries most is one too many.
    pub fn plan_moves(
        &self,
        from: (FileId, u32),
        limit: usize,
        moves: usize,
        is_busy: impl Fn(CsId, ChunkId) -> bool,
    ) -> (Vec<ReplicaPlace>, Option<(FileId, u32)>) {
        let mut places: Vec<ReplicaPlace> = Vec::new();
        let mut left = limit;
        let firm = self.servers.iter().filter(|server| self.is_firm(server.id));
        let emptiest = firm.map(fullness).min().unwrap_or(0);
        for (id, file) in self.tree.files_from(from.0) {
            let first = if id == from.0 { from.1 } else { 0 };
            for entry in file.chunks.iter_from(first) {
                if left == 0 || places.len() >= moves {
                    return (places, Some((id, entry.index())));
                }
                left -= 1;
                let arrives = |cs: CsId| places.iter().any(|place| place.cs == cs.0);
                // Most chunks are where they should be: that is seen at a glance.
                let carries = entry.in_sync().map(|cs| self.burden(file, entry, cs)).max().unwrap_or(0);
                if carries <= emptiest + MUCH {
                    continue;
                }
                let better = self.better_place(file, entry, |cs| is_busy(cs, entry.id()) || arrives(cs));
                let (index, version) = (entry.index(), entry.version().raw());
                places.extend(better.map(|cs| ReplicaPlace { file: id.raw(), index, version, cs: cs.0 }));
            }
            left = left.saturating_sub(usize::from(file.chunks.is_empty()));
        }
        (places, None)
    }

    /// Where a replica of this chunk would be much better than one of those that are there.
    fn better_place(&self, file: &File, entry: &ChunkEntry, is_busy: impl Fn(CsId) -> bool) -> Option<CsId> {
        let settled = entry.is_usable()
            && !entry.is_unreconciled()
            && !entry.lacks_blocks()
            && entry.in_sync().count() == entry.members().len()
            && entry.in_sync().all(|cs| self.footing(cs) == Footing::Firm)
            && self.changes.adding(entry.id()).next().is_none()
            && self.need_of(file, entry, |_, _| false).is_none();
        if !settled {
            return None;
        }
        let policy = self.policy(file);
        let better = self.candidates().filter(|candidate| {
            let stays_free = margin_bytes(candidate.total_bytes, policy.fill_margin);
            candidate.usable
                && candidate.free_bytes >= stays_free.saturating_add(policy.chunk_size)
                && entry.members().on(candidate.cs).is_none()
                && !self.is_deleting(entry.id(), candidate.cs)
                && !is_busy(candidate.cs)
        });
        let better: Vec<CsId> = better.map(|candidate| candidate.cs).collect();
        let gains = entry.in_sync().flat_map(|leaves| {
            let carried = self.burden(file, entry, leaves);
            better.iter().map(move |comes| {
                let others = entry.in_sync().filter(move |other| *other != leaves);
                (carried.saturating_sub(self.burden_beside(file, others, *comes)), *comes)
            })
        });
        gains.max().filter(|(gain, _)| *gain > MUCH).map(|(_, comes)| comes)
    }

    /// The step that the chunk of an earlier one needs now.
    pub fn replan(&self, step: &ReplicaStep, overdue: impl Fn(CsId, ChunkId) -> bool) -> Option<ReplicaStep> {
        let file = self.tree.file(step.file).ok()?;
        self.step_of((step.file, step.index), file, file.chunks.get(step.index)?, overdue)
    }

    /// Whether one of the chunk servers that are open could take one more replica of a chunk: cheaper to ask than
    /// [`Self::places_for`], which says where.
    pub fn is_place_among(
        &self,
        step: &ReplicaStep,
        overdue: impl Fn(CsId, ChunkId) -> bool,
        is_open: impl Fn(CsId) -> bool,
    ) -> bool {
        let Ok(file) = self.tree.file(step.file) else { return false };
        let Some(entry) = file.chunks.get(step.index) else { return false };
        let policy = self.policy(file);
        let apart = policy.domain == FailureDomain::Host && policy.strict_domain;
        let replicas =
            if apart { self.replicas_seen(file, entry, |cs| overdue(cs, entry.id())) } else { Vec::new() };
        let stay = replicas.iter().filter(|replica| replica.keeps_place());
        let hosts: Vec<&str> =
            stay.filter_map(|replica| self.servers.get(replica.cs)).map(|server| &*server.host).collect();
        self.candidates().any(|candidate| {
            candidate.usable
                && is_open(candidate.cs)
                && (!policy.strict_tier || candidate.tier == policy.tier)
                && has_room(&candidate, &policy)
                && !hosts.contains(&candidate.host)
                && entry.members().on(candidate.cs).is_none()
                && !self.is_adding(entry.id(), candidate.cs)
                && !self.is_deleting(entry.id(), candidate.cs)
        })
    }

    /// Places for more replicas of a chunk, but not on chunk servers that are busy.
    ///
    /// # Errors
    /// What is short, with the busy ones among those that are asked: else it is only a matter of time, and `Ok` with fewer places.
    pub fn places_for(
        &self,
        step: &ReplicaStep,
        count: u8,
        seed: u64,
        overdue: impl Fn(CsId, ChunkId) -> bool,
        is_busy: impl Fn(CsId) -> bool,
    ) -> Result<Vec<CsId>, PlacementRefusal> {
        let Ok(file) = self.tree.file(step.file) else { return Ok(Vec::new()) };
        let Some(entry) = file.chunks.get(step.index) else { return Ok(Vec::new()) };
        // Where a replica counts, or will, no host gets another one. Those that are lost keep nobody away but from their own place.
        let replicas = self.replicas_seen(file, entry, |cs| overdue(cs, entry.id()));
        let stay: Vec<CsId> =
            replicas.iter().filter(|replica| replica.keeps_place()).map(|replica| replica.cs).collect();
        let taken: BTreeSet<CsId> = replicas.iter().map(|replica| replica.cs).collect();
        let mut candidates: Vec<Candidate<'_>> = self
            .candidates()
            .map(|candidate| {
                let free = !taken.contains(&candidate.cs) && !self.is_deleting(entry.id(), candidate.cs);
                let usable = candidate.usable && (free || stay.contains(&candidate.cs));
                Candidate { usable, ..candidate }
            })
            .collect();
        let policy = Policy { replicas: stay.len() as u8 + count, ..self.policy(file) };
        // If there is no place even for those that are idle, somebody has to be told.
        let short = place(&candidates, &stay, &policy, seed).err();
        let found = short.map_or(count, |short| short.found);
        for candidate in &mut candidates {
            candidate.usable &= !is_busy(candidate.cs) || stay.contains(&candidate.cs);
        }
        let idle = (1..=found).rev().find_map(|some| {
            let policy = Policy { replicas: stay.len() as u8 + some, ..policy };
            place(&candidates, &stay, &policy, seed).ok()
        });
        match (idle, short) {
            (Some(placement), _) => Ok(placement.servers),
            (None, Some(short)) if short.found == 0 => Err(short),
            (None, _) => Ok(Vec::new()),
        }
    }

    pub(super) fn is_deleting(&self, chunk: ChunkId, cs: CsId) -> bool {
        self.deletions.get(chunk).is_some_and(|deletion| deletion.waiting.contains(&cs))
    }

    /// Whether a chunk server is to make a replica and has not said that it did.
    pub fn is_adding(&self, chunk: ChunkId, cs: CsId) -> bool {
        self.changes.addition(cs, chunk).is_some()
    }

    /// A replica that is to be made, as a command names it.
    pub fn place_of_addition(&self, cs: CsId, chunk: ChunkId) -> Option<ReplicaPlace> {
        let (file, index) = self.changes.addition(cs, chunk)?.position;
        let version = self.tree.file(file).ok()?.chunks.get(index)?.version();
        Some(ReplicaPlace { file: file.raw(), index, version: version.raw(), cs: cs.0 })
    }

    /// Replicas that are on their way to a chunk server and can arrive: to be made, or to be filled by somebody who is there, but
    /// for those of which is known that it fails.
    pub fn arriving_on(&self, cs: CsId, is_failing: impl Fn(ChunkId) -> bool) -> usize {
        self.changes.additions_on(cs) + self.joiners_on(cs, is_failing)
    }

    pub(super) fn add_replicas(&mut self, step: &mut Step, op: &AddReplicas) -> Answer {
        check_count(op.places.len(), MEMBERS_MAX)?;
        let mut work: BTreeMap<CsId, Vec<NewReplica>> = BTreeMap::new();
        let mut added = 0;
        for at in &op.places {
            let (position, cs) = ((FileId::from_raw(at.file), at.index), CsId(at.cs));
            let Some(addition) = self.may_add(at) else { continue };
            let Some((chunk, size)) = self.chunk_and_size(position) else { continue };
            self.changes.add(cs, chunk, addition);
            if let Some(server) = self.servers.get_mut(cs) {
                server.free_bytes = server.free_bytes.saturating_sub(size);
            }
            work.entry(cs).or_default().extend(self.new_replica(cs, chunk));
            added += 1;
        }
        for (cs, chunks) in work {
            step.effect(Effect::MakeReplicas { cs, chunks });
        }
        Ok(Outcome::Acknowledged(added))
    }

    /// What is noted of a replica to be made; `None` if it cannot be.
    fn may_add(&self, at: &ReplicaPlace) -> Option<Addition> {
        let (position, cs) = ((FileId::from_raw(at.file), at.index), CsId(at.cs));
        let file = self.tree.file(position.0).ok()?;
        let entry = file.chunks.get(position.1)?;
        let chunk = entry.id();
        let may = entry.version().raw() == at.version
            && entry.is_usable()
            && self.may_fill(entry)
            && self.footing(cs) == Footing::Firm
            && entry.members().on(cs).is_none()
            && !self.is_adding(chunk, cs)
            && !self.is_deleting(chunk, cs);
        may.then_some(Addition { position, version: entry.version(), epoch: file.lease.epoch() })
    }

    fn chunk_and_size(&self, (id, index): Position) -> Option<(ChunkId, u64)> {
        let file = self.tree.file(id).ok()?;
        Some((file.chunks.get(index)?.id(), file.attrs.chunk_size))
    }

    /// What a chunk server is told about a replica to make.
    pub(super) fn new_replica(&self, cs: CsId, chunk: ChunkId) -> Option<NewReplica> {
        let made = self.changes.addition(cs, chunk)?;
        let file = self.tree.file(made.position.0).ok()?;
        let entry = file.chunks.get(made.position.1)?;
        Some(NewReplica {
            file: made.position.0,
            epoch: made.epoch,
            chunk_size: file.attrs.chunk_size,
            chunk,
            version: made.version,
            layout: entry.layout(),
        })
    }

    /// A chunk server has made a replica: it joins. Whether that was news.
    pub(super) fn replica_made(
        &mut self,
        step: &mut Step,
        work: &mut Work,
        cs: CsId,
        chunk: ChunkId,
    ) -> bool {
        let Some(made) = self.changes.addition(cs, chunk) else { return false };
        let Ok(file) = self.tree.file(made.position.0) else { return false };
        let Some(entry) = file.chunks.get(made.position.1) else { return false };
        let epoch = file.lease.epoch();
        if epoch != made.epoch {
            // It would take requests of a holder that is fenced everywhere else (C2).
            self.changes.add(cs, chunk, Addition { epoch, ..made });
            let chunks = self.new_replica(cs, chunk).into_iter().collect();
            step.effect(Effect::MakeReplicas { cs, chunks });
            return false;
        }
        if !entry.is_usable() || !self.may_fill(entry) || !entry.members().has_room() {
            self.end_addition(step, cs, chunk);
            return true;
        }
        let mut members = entry.members().clone();
        members.add(cs, MemberState::Joining);
        self.changes.end_addition(cs, chunk);
        self.change_members(work, made.position, members);
        self.changes.is_made(cs, chunk);
        true
    }

    /// A replica is not to be made after all. It may be there, or be made yet: it is deleted.
    pub(super) fn end_addition(&mut self, step: &Step, cs: CsId, chunk: ChunkId) {
        let Some(made) = self.changes.end_addition(cs, chunk) else { return };
        let entry = self.tree.file(made.position.0).ok().and_then(|file| file.chunks.get(made.position.1));
        let version = entry.map_or(made.version, ChunkEntry::version).max(made.version);
        self.deletions.add_replicas(made.position.0, chunk, version, std::iter::once(cs), step.now_ms);
    }

    /// Nothing is to be made on these chunk servers any more.
    pub(super) fn end_additions(&mut self, step: &Step, on: impl Fn(CsId) -> bool) {
        let made = self.changes.all_additions().filter(|(cs, ..)| on(*cs));
        let made: Vec<(CsId, ChunkId)> = made.map(|(cs, chunk, _)| (cs, chunk)).collect();
        made.into_iter().for_each(|(cs, chunk)| self.end_addition(step, cs, chunk));
    }

    pub(super) fn remove_replicas(&mut self, step: &mut Step, op: &RemoveReplicas) -> Answer {
        check_count(op.places.len(), MEMBERS_MAX)?;
        let mut work = Work::default();
        let mut removed = 0;
        for at in &op.places {
            let (position, cs) = ((FileId::from_raw(at.file), at.index), CsId(at.cs));
            let Ok(file) = self.tree.file(position.0) else { continue };
            let Some(entry) = file.chunks.get(position.1) else { continue };
            let (chunk, version) = (entry.id(), entry.version());
            // What was decided may be decided otherwise by now: nobody goes who is needed.
            let is_needed = self.need_of(file, entry, |_, _| false) != Some(Need::Less(cs));
            let is_made = self.is_adding(chunk, cs);
            if version.raw() != at.version || (is_needed && !is_made) {
                continue;
            }
            if is_made {
                self.end_addition(step, cs, chunk);
            } else {
                let mut members = entry.members().clone();
                members.remove(cs);
                self.change_members(&mut work, position, members);
                self.deletions.add_replicas(position.0, chunk, version, std::iter::once(cs), step.now_ms);
            }
            removed += 1;
        }
        self.send(step, work);
        Ok(Outcome::Acknowledged(removed))
    }
}
