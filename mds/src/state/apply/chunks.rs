//! Chunks: allocating, creating, deleting (C9).

use super::files::check_size;
use super::members::Work;
use super::{Answer, Step, check_count};
use crate::state::State;
use crate::state::chunk::{ChunkEntry, MemberState};
use crate::state::command::{
    AllocateChunks, ChunkCreated, ChunksPurged, Leave, PurgeChunks, ReplaceCreating,
};
use crate::state::config::Parameter;
use crate::state::effect::{Effect, NewChunk};
use crate::state::event::EventCode;
use crate::state::ids::{ChunkId, CsId, FileId, Version};
use crate::state::inode::File;
use crate::state::outcome::{Allocated, ChunkPlace, Outcome};
use crate::state::placement::{Candidate, Placement, PlacementRefusal, Policy, derive_seed, place};
use crate::state::refusal::{BeyondEnd, ChunkAt, NoPlace, Refusal};
use std::collections::BTreeMap;

/// The most chunks allocated by one command.
pub const INDICES_MAX: usize = 256;

impl State {
    pub(super) fn allocate_chunks(&mut self, step: &mut Step, op: &AllocateChunks) -> Answer {
        let id = FileId::from_raw(op.file);
        self.writer(op.lease.as_ref(), id)?;
        let file = self.tree.file(id)?;
        let size = file.size.max(op.grow_to);
        check_size(size, file.attrs)?;
        check_indices(size.div_ceil(file.attrs.chunk_size), &op.indices)?;
        if size > file.size && file.is_end_unsettled() {
            return Err(Refusal::EndUnsettled(id.raw()));
        }
        let mut missing: Vec<u32> =
            op.indices.iter().copied().filter(|index| file.chunks.get(*index).is_none()).collect();
        missing.sort_unstable();
        missing.dedup();

        let policy = self.policy(file);
        let places = self.place_all(&policy, missing.len(), op.seed).map_err(|short| {
            let path = self.tree.path_of(id);
            step.event(
                EventCode::AllocFailed,
                &[&policy.replicas, &path, &policy.tier, &short.found, &short.why],
            );
            no_place(&policy, short)
        })?;

        self.grow(step, id, size)?;
        let mut work: BTreeMap<CsId, Vec<NewChunk>> = BTreeMap::new();
        for (index, placement) in missing.into_iter().zip(places) {
            let entry = self.insert_chunk(id, index, &placement)?;
            for member in entry.members().iter() {
                work.entry(member.cs).or_default().push(new_chunk(&entry, member.slot));
            }
        }
        let file = self.tree.file(id)?;
        let (epoch, chunk_size) = (file.lease.epoch(), file.attrs.chunk_size);
        for (cs, chunks) in work {
            step.effect(Effect::CreateChunks { cs, file: id, epoch, chunk_size, chunks });
        }
        let places = op.indices.iter().filter_map(|index| file.chunks.get(*index)).map(chunk_place);
        Ok(Outcome::Allocated(Allocated { chunks: places.collect() }))
    }

    fn grow(&mut self, step: &Step, id: FileId, size: u64) -> Result<(), Refusal> {
        let file = self.tree.file_mut(id)?;
        if size > file.size {
            file.size = size;
            self.tree.touch(id, step.now_ns());
        }
        Ok(())
    }

    /// Places all chunks of a command, or none: each placement counts with the space the ones before take.
    fn place_all(
        &self,
        policy: &Policy,
        count: usize,
        seed: u64,
    ) -> Result<Vec<Placement>, PlacementRefusal> {
        let mut candidates: Vec<Candidate<'_>> = self.candidates_for_new().collect();
        let mut places = Vec::with_capacity(count);
        for salt in 0..count as u64 {
            let placement = place(&candidates, &[], policy, derive_seed(seed, salt))?;
            for candidate in candidates.iter_mut().filter(|c| placement.servers.contains(&c.cs)) {
                candidate.free_bytes = candidate.free_bytes.saturating_sub(policy.chunk_size);
            }
            places.push(placement);
        }
        Ok(places)
    }

    /// Enters a new chunk in a file's map; returns a copy of the entry.
    fn insert_chunk(&mut self, id: FileId, index: u32, placement: &Placement) -> Result<ChunkEntry, Refusal> {
        let chunk = self.cluster.mint_chunk();
        let version = Version::first(self.cluster.generation);
        let entry =
            ChunkEntry::allocated(index, chunk, version, &placement.servers, placement.distinct_hosts);
        let file = self.tree.file_mut(id)?;
        let chunk_size = file.attrs.chunk_size;
        file.chunks.insert(entry.clone());
        self.creating.insert(chunk, (id, index));
        self.count_members(&entry, true);
        for cs in &placement.servers {
            if let Some(server) = self.servers.get_mut(*cs) {
                server.free_bytes = server.free_bytes.saturating_sub(chunk_size);
            }
        }
        Ok(entry)
    }

    pub(super) fn candidates(&self) -> impl Iterator<Item = Candidate<'_>> {
        self.servers.iter().map(|server| Candidate {
            cs: server.id,
            host: &server.host,
            tier: server.tier,
            free_bytes: server.free_bytes,
            total_bytes: server.total_bytes,
            // One that shows damage keeps what it has, and gets nothing new.
            usable: self.is_firm(server.id),
            doubtful: false,
        })
    }

    /// Candidates for new chunks. These are written now or not at all: if there is no other place, one that shows damage is better
    /// than none.
    fn candidates_for_new(&self) -> impl Iterator<Item = Candidate<'_>> {
        self.candidates().map(|candidate| {
            let doubtful = self.servers.get(candidate.cs).is_some_and(|server| {
                server.leave == Leave::Stay && server.serves() && server.shows_damage()
            });
            Candidate { usable: candidate.usable || doubtful, doubtful, ..candidate }
        })
    }

    pub(super) fn policy(&self, file: &File) -> Policy {
        Policy {
            replicas: file.attrs.replicas.normal,
            domain: file.attrs.domain,
            strict_domain: self.config.is_on(Parameter::StrictFailureDomain),
            tier: file.attrs.tier,
            strict_tier: self.config.is_on(Parameter::StrictTier),
            chunk_size: file.attrs.chunk_size,
            fill_margin: self.config.get(Parameter::FillMargin),
        }
    }

    /// Counts the members of a chunk that enters a map, or leaves it, with their chunk servers.
    pub(super) fn count_members(&mut self, entry: &ChunkEntry, enters: bool) {
        for member in entry.members().iter() {
            let Some(server) = self.servers.get_mut(member.cs) else { continue };
            let stale = u64::from(member.state == MemberState::Stale);
            if enters {
                server.replicas += 1;
                server.stale_replicas += stale;
            } else {
                server.replicas -= 1;
                server.stale_replicas -= stale;
            }
        }
    }

    pub(super) fn chunk_created(&mut self, step: &mut Step, op: &ChunkCreated) -> Answer {
        let cs = self.servers.registered(op.cs, op.session)?.id;
        let mut news = 0;
        let mut work = Work::default();
        for chunk in op.chunks.iter().copied().map(ChunkId::from_raw) {
            if self.replica_made(step, &mut work, cs, chunk) {
                news += 1;
                continue;
            }
            // A chunk that is not being created any more: done, replaced or deleted meanwhile.
            let Some((id, index)) = self.creating.get(&chunk).copied() else { continue };
            let file = self.tree.file_mut(id)?;
            let created = file.chunks.update(index, |entry| {
                let creating = entry.members().on(cs).is_some_and(|m| m.state == MemberState::Creating);
                if creating {
                    entry.members_mut().set_state(cs, MemberState::InSync);
                }
                (creating, entry.is_usable())
            });
            let Some((true, usable)) = created else { continue };
            news += 1;
            if usable {
                self.creating.remove(&chunk);
                step.effect(Effect::ChunkUsable { file: id, index });
            }
        }
        self.send(step, work);
        Ok(Outcome::Acknowledged(news))
    }

    pub(super) fn replace_creating(&mut self, step: &mut Step, op: &ReplaceCreating) -> Answer {
        let (chunk, cs) = (ChunkId::from_raw(op.chunk), CsId(op.cs));
        let not_creating = || Refusal::NotCreating(ChunkAt { chunk: op.chunk, cs: op.cs });
        let (id, index) = self.creating.get(&chunk).copied().ok_or_else(not_creating)?;
        let file = self.tree.file(id)?;
        let entry = file.chunks.get(index).ok_or_else(not_creating)?;
        let failed = entry.members().on(cs).filter(|member| member.state == MemberState::Creating);
        let slot = failed.ok_or_else(not_creating)?.slot;

        let policy = self.policy(file);
        let stay: Vec<CsId> =
            entry.members().iter().map(|member| member.cs).filter(|other| *other != cs).collect();
        // Not back to where it failed, nor to where a deletion of an earlier attempt may still be under way.
        let deleting = self.deletions.get(chunk).map_or(&[][..], |deletion| &deletion.waiting);
        let candidates: Vec<_> =
            self.candidates_for_new().filter(|c| c.cs != cs && !deleting.contains(&c.cs)).collect();
        // One place, whatever `replicas` has become since the chunk was allocated.
        let policy = Policy { replicas: stay.len() as u8 + 1, ..policy };
        let placement = place(&candidates, &stay, &policy, op.seed).map_err(|short| {
            let path = self.tree.path_of(id);
            step.event(EventCode::AllocFailed, &[&1, &path, &policy.tier, &short.found, &short.why]);
            no_place(&policy, short)
        })?;
        let chosen = *placement.servers.first().ok_or_else(not_creating)?;

        self.move_creating(step, id, index, cs, chosen, placement.distinct_hosts)?;
        let file = self.tree.file(id)?;
        if let Some(entry) = file.chunks.get(index) {
            step.effect(Effect::CreateChunks {
                cs: chosen,
                file: id,
                epoch: file.lease.epoch(),
                chunk_size: file.attrs.chunk_size,
                chunks: vec![new_chunk(entry, slot)],
            });
        }
        Ok(Outcome::Replaced(chosen.0))
    }

    fn move_creating(
        &mut self,
        step: &Step,
        id: FileId,
        index: u32,
        from: CsId,
        to: CsId,
        distinct_hosts: bool,
    ) -> Result<(), Refusal> {
        let file = self.tree.file_mut(id)?;
        let chunk_size = file.attrs.chunk_size;
        let about = file.chunks.update(index, |entry| {
            entry.members_mut().replace(from, to);
            entry.set_on_distinct_hosts(distinct_hosts);
            (entry.id(), entry.version())
        });
        let Some((chunk, version)) = about else { return Ok(()) };
        // It may have been created there all the same, or be so later.
        self.deletions.add_replicas(id, chunk, version, std::iter::once(from), step.now_ms);
        if let Some(server) = self.servers.get_mut(from) {
            server.replicas -= 1;
        }
        if let Some(server) = self.servers.get_mut(to) {
            server.replicas += 1;
            server.free_bytes = server.free_bytes.saturating_sub(chunk_size);
        }
        Ok(())
    }

    pub(super) fn purge_chunks(&mut self, step: &mut Step, op: &PurgeChunks) -> Answer {
        let known = |chunk: &&u64| self.deletions.get(ChunkId::from_raw(**chunk)).is_none();
        if let Some(unknown) = op.chunks.iter().find(known) {
            return Err(Refusal::NotDeleted(*unknown));
        }
        let mut work: BTreeMap<CsId, Vec<(ChunkId, Version)>> = BTreeMap::new();
        for chunk in op.chunks.iter().copied().map(ChunkId::from_raw) {
            let Some(deletion) = self.deletions.purge(chunk) else { continue };
            for cs in &deletion.waiting {
                work.entry(*cs).or_default().push((chunk, deletion.version));
            }
        }
        for (cs, mut chunks) in work {
            chunks.dedup();
            step.effect(Effect::DeleteChunks { cs, chunks });
        }
        Ok(Outcome::Acknowledged(op.chunks.len() as u64))
    }

    pub(super) fn chunks_purged(&mut self, op: &ChunksPurged) -> Answer {
        let cs = self.servers.registered(op.cs, op.session)?.id;
        let chunks = op.chunks.iter().copied().map(ChunkId::from_raw);
        let news = chunks.filter(|chunk| self.deletions.purged(*chunk, cs)).count();
        Ok(Outcome::Acknowledged(news as u64))
    }
}

/// What a chunk server is told about a chunk to create.
pub(super) fn new_chunk(entry: &ChunkEntry, slot: u8) -> NewChunk {
    NewChunk {
        index: entry.index(),
        chunk: entry.id(),
        version: entry.version(),
        layout: entry.layout(),
        slot,
    }
}

fn chunk_place(entry: &ChunkEntry) -> ChunkPlace {
    ChunkPlace {
        index: entry.index(),
        chunk: entry.id().raw(),
        version: entry.version().raw(),
        usable: entry.is_usable(),
        servers: entry.members().iter().map(|member| member.cs.0).collect(),
    }
}

fn check_indices(chunks: u64, indices: &[u32]) -> Result<(), Refusal> {
    check_count(indices.len(), INDICES_MAX)?;
    match indices.iter().find(|index| u64::from(**index) >= chunks) {
        Some(index) => Err(Refusal::BeyondEnd(BeyondEnd { index: *index, chunks })),
        None => Ok(()),
    }
}

fn no_place(policy: &Policy, short: PlacementRefusal) -> Refusal {
    Refusal::NoPlace(NoPlace {
        needed: short.needed.into(),
        found: short.found.into(),
        tier: policy.tier.into(),
        why: short.why.to_string(),
    })
}
