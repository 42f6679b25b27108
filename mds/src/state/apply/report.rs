//! What comparing the maps with what chunk servers have has shown, and events of the leader's.

use super::members::{MEMBERS_MAX, Work};
use super::{Answer, Step, check_count, check_text};
use crate::state::State;
use crate::state::chunk::ChunkEntry;
use crate::state::command::{
    LoseReplicas, NoteEvent, QuarantineReplicas, ReplicaPlace, SkipIds, UnknownReplica,
};
use crate::state::config::Parameter;
use crate::state::event::EventCode;
use crate::state::ids::{ChunkId, CsId, FileId, Version};
use crate::state::membership::Leaving;
use crate::state::outcome::Outcome;
use crate::state::refusal::Refusal;

/// Most arguments of an event.
const ARGS_MAX: usize = 8;

/// Most ids skipped at once: those of more chunks than a cluster has.
const SKIP_MAX: u64 = 1 << 32;

/// What a replica is that some chunk server has and no map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// It was made in this generation of the cluster, and its chunk is deleted, whose id never comes back, or is elsewhere.
    Deleted,
    /// It is of a time before the metadata was restored from a backup, which may have known it (C12): an operator decides.
    Former,
    /// It is of that time, and newer than what the backup knows of its chunk: perhaps the newest there is.
    Newer,
    /// It was never made, or never had that version, as far as this metadata knows: that is older than it should be.
    Unborn,
}

impl State {
    /// Judges a chunk that is in no map.
    pub fn judge_stranger(&self, chunk: ChunkId) -> Stranger {
        if self.cluster.is_ahead(chunk) {
            Stranger::Unborn
        } else if chunk.generation() < self.cluster.generation {
            Stranger::Former
        } else {
            Stranger::Deleted
        }
    }

    /// Judges a replica of a chunk that is in the maps with other members. Maps from a backup may be those of a time before it
    /// was made (C12).
    pub fn judge_replica(&self, entry: &ChunkEntry, version: Version) -> Stranger {
        if version.generation() < self.cluster.generation {
            if version > entry.version() { Stranger::Newer } else { Stranger::Former }
        } else if version > entry.version() {
            Stranger::Unborn
        } else {
            Stranger::Deleted
        }
    }

    /// Whether a replica of a chunk that is in the maps with other members is deleted.
    pub fn is_surplus(&self, entry: &ChunkEntry, version: Version) -> bool {
        self.is_deletable(self.judge_replica(entry, version))
    }

    /// Whether what is judged so is deleted.
    pub fn is_deletable(&self, judged: Stranger) -> bool {
        match judged {
            Stranger::Deleted => true,
            Stranger::Former => self.config.is_on(Parameter::DeleteUnknown),
            Stranger::Newer | Stranger::Unborn => false,
        }
    }

    pub(super) fn skip_ids(&mut self, op: &SkipIds) -> Answer {
        let chunk = ChunkId::from_raw(op.chunk);
        let cluster = &mut self.cluster;
        if op.newer {
            cluster.ahead.get_or_insert((cluster.next_chunk, cluster.next_chunk));
        }
        let skipped = chunk.counter().checked_sub(cluster.next_chunk);
        // What lies far beyond is no id of any metadata of this cluster, and giving out ids never gets there.
        if chunk.generation() != cluster.generation || skipped.is_none_or(|skipped| skipped > SKIP_MAX) {
            return Ok(Outcome::Done(()));
        }
        let next = chunk.counter() + 1;
        let from = cluster.ahead.map_or(cluster.next_chunk, |(from, _)| from);
        cluster.ahead = Some((from, next));
        cluster.next_chunk = next;
        Ok(Outcome::Done(()))
    }

    /// Whether a replica on a chunk server is one that is being made or deleted.
    pub fn is_changing(&self, chunk: ChunkId, cs: CsId) -> bool {
        self.is_creating(chunk, cs) || self.is_adding(chunk, cs) || self.is_deleting(chunk, cs)
    }

    /// Whether a replica that is not there can be given up (C3).
    pub fn may_lose(&self, at: &ReplicaPlace) -> bool {
        let file = FileId::from_raw(at.file);
        let entry = self.entry_at((file, at.index));
        entry.is_some_and(|entry| self.without(file, entry, CsId(at.cs), Leaving::Failed).is_some())
    }

    /// The first chunk id that was not given out yet.
    pub fn next_chunk(&self) -> ChunkId {
        ChunkId::new(self.cluster.generation, self.cluster.next_chunk)
    }

    /// Looks at some `limit` chunks from a position on; says where to go on, if not at the end.
    pub fn visit_chunks(
        &self,
        from: (FileId, u32),
        limit: usize,
        mut visit: impl FnMut(FileId, &ChunkEntry),
    ) -> Option<(FileId, u32)> {
        let mut left = limit;
        for (id, file) in self.tree.files_from(from.0) {
            let first = if id == from.0 { from.1 } else { 0 };
            for entry in file.chunks.iter_from(first) {
                if left == 0 {
                    return Some((id, entry.index()));
                }
                left -= 1;
                visit(id, entry);
            }
            // A file without chunks is a step as well.
            left = left.saturating_sub(usize::from(file.chunks.is_empty()));
        }
        None
    }

    pub(super) fn quarantine_replicas(&mut self, step: &mut Step, op: &QuarantineReplicas) -> Answer {
        check_count(op.replicas.len(), MEMBERS_MAX)?;
        let cs = self.servers.registered(op.cs, op.session)?.id;
        let mut count = 0;
        for replica in &op.replicas {
            if !self.may_quarantine(cs, replica) {
                continue;
            }
            let (chunk, version) = (ChunkId::from_raw(replica.chunk), Version::from_raw(replica.version));
            let file = FileId::from_raw(replica.file);
            self.deletions.add_replicas(file, chunk, version, std::iter::once(cs), step.now_ms);
            count += 1;
        }
        if count > 0 {
            step.event(EventCode::ReplicasUnknown, &[&op.cs, &count]);
        }
        Ok(Outcome::Acknowledged(count))
    }

    /// Whether a replica is nobody's still. That a chunk which was in no map when the leader looked is in none now needs no look: ids
    /// are never used twice.
    fn may_quarantine(&self, cs: CsId, replica: &UnknownReplica) -> bool {
        let chunk = ChunkId::from_raw(replica.chunk);
        if self.is_changing(chunk, cs) || self.creating.contains_key(&chunk) {
            return false;
        }
        // Metadata that was put back without a word is wrong about what it knows as well.
        if self.cluster.ahead.is_some() {
            return false;
        }
        if replica.file == 0 {
            return self.is_deletable(self.judge_stranger(chunk));
        }
        let entry = self.entry_at((FileId::from_raw(replica.file), replica.index));
        entry.is_some_and(|entry| {
            entry.id() == chunk
                && entry.members().on(cs).is_none()
                // Nobody has compared yet what its members have.
                && !entry.is_unreconciled()
                && self.is_surplus(entry, Version::from_raw(replica.version))
        })
    }

    pub(super) fn lose_replicas(&mut self, step: &mut Step, op: &LoseReplicas) -> Answer {
        check_count(op.places.len(), MEMBERS_MAX)?;
        let cs = self.servers.registered(op.cs, op.session)?.id;
        let mut work = Work::default();
        let (mut lost, mut kept) = (Vec::new(), Vec::new());
        for at in &op.places {
            let position = (FileId::from_raw(at.file), at.index);
            let Some(entry) = self.entry_at(position) else { continue };
            if entry.version().raw() != at.version || entry.members().on(cs).is_none() {
                continue;
            }
            match self.without(position.0, entry, cs, Leaving::Failed) {
                Some(members) => {
                    self.change_members(&mut work, position, members);
                    lost.push(position.0);
                }
                None => kept.push(position.0),
            }
        }
        self.send(step, work);
        if !lost.is_empty() {
            self.tell_last_memories(step, cs);
        }
        for (code, files) in [(EventCode::ReplicasMissing, &lost), (EventCode::ReplicasGone, &kept)] {
            if let Some(first) = files.first() {
                step.event(code, &[&op.cs, &files.len(), &self.tree.path_of(*first)]);
            }
        }
        Ok(Outcome::Acknowledged(lost.len() as u64))
    }

    pub(super) fn note_event(step: &mut Step, op: &NoteEvent) -> Answer {
        let code = EventCode::try_from(op.code).ok().filter(|code| code.is_noted());
        let code = code.ok_or_else(|| Refusal::malformed("this kind of event is not noted by itself"))?;
        check_count(op.args.len(), ARGS_MAX)?;
        op.args.iter().try_for_each(|arg| check_text("an argument of an event", arg))?;
        let args: Vec<&dyn std::fmt::Display> = op.args.iter().map(|arg| arg as _).collect();
        step.event(code, &args);
        Ok(Outcome::Done(()))
    }
}
