//! Changes of member sets that are not done yet: versions to be installed, joiners to be filled, replicas that are away (C6, C7).

use super::chunk::{ChunkEntry, MemberState};
use super::ids::{ChunkId, CsId, Epoch, FileId, Version};
use std::collections::{BTreeMap, BTreeSet};

/// Where a chunk is in the maps.
pub(super) type Position = (FileId, u32);

/// A version that a chunk server has not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Where the chunk is.
    pub(super) position: Position,
    /// The lowest version that the replica may have.
    pub(super) from: Version,
}

/// A replica that a chunk server is to make, empty: it joins when it is there (C9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addition {
    /// Where the chunk is.
    pub(super) position: Position,
    /// The version it is made with. It installs another one to join, so that it may be an old one by then.
    pub(super) version: Version,
    /// The epoch of the file that is recorded with it (C2).
    pub(super) epoch: Epoch,
}

type ByServer<T> = BTreeMap<CsId, BTreeMap<ChunkId, T>>;

/// What is not done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Members and joiners that have not installed the present version of their chunk.
    due: ByServer<Due>,
    /// Replicas that are to be made.
    adding: ByServer<Addition>,
    /// Derived from the maps.
    joining: ByServer<Position>,
    /// Derived from the maps.
    absent: ByServer<Position>,
    /// Replicas that were made to join and have never been members: they have nothing that the others do not have.
    fresh: BTreeSet<(ChunkId, CsId)>,
    /// Chunks with members that lack blocks. Derived from the maps.
    lacking: BTreeMap<ChunkId, Position>,
}

fn remove<T>(table: &mut ByServer<T>, cs: CsId, chunk: ChunkId) -> Option<T> {
    let chunks = table.get_mut(&cs)?;
    let removed = chunks.remove(&chunk);
    if chunks.is_empty() {
        table.remove(&cs);
    }
    removed
}

fn has<T>(table: &ByServer<T>, cs: CsId, chunk: ChunkId) -> bool {
    table.get(&cs).is_some_and(|chunks| chunks.contains_key(&chunk))
}

impl Changes {
    /// A chunk has become another: before and after; `None` where it is in no map.
    pub(super) fn note(&mut self, file: FileId, before: Option<&ChunkEntry>, after: Option<&ChunkEntry>) {
        if let Some(entry) = before {
            for member in entry.members().iter() {
                remove(&mut self.joining, member.cs, entry.id());
                remove(&mut self.absent, member.cs, entry.id());
                let stays = after.and_then(|after| after.members().on(member.cs));
                if !stays.is_some_and(|member| takes_writes(member.state)) {
                    remove(&mut self.due, member.cs, entry.id());
                }
                if !stays.is_some_and(|member| may_be_fresh(member.state)) {
                    self.fresh.remove(&(entry.id(), member.cs));
                }
            }
        }
        if let Some(entry) = before.or(after) {
            let lacks = after.is_some_and(ChunkEntry::lacks_blocks);
            self.lacks(entry.id(), (file, entry.index()), lacks);
        }
        let Some(entry) = after else { return };
        for member in entry.members().iter() {
            let table = match member.state {
                MemberState::Joining => &mut self.joining,
                MemberState::Absent => &mut self.absent,
                _ => continue,
            };
            table.entry(member.cs).or_default().insert(entry.id(), (file, entry.index()));
        }
    }

    /// A replica joins that was made for it.
    pub(super) fn is_made(&mut self, cs: CsId, chunk: ChunkId) {
        self.fresh.insert((chunk, cs));
    }

    /// Whether a replica was made to join and has never been a member.
    pub(super) fn is_fresh(&self, cs: CsId, chunk: ChunkId) -> bool {
        self.fresh.contains(&(chunk, cs))
    }

    /// Replicas that have never been members.
    pub(super) fn all_fresh(&self) -> impl Iterator<Item = (ChunkId, CsId)> {
        self.fresh.iter().copied()
    }

    /// A chunk has members that lack blocks, or it has none.
    pub(super) fn lacks(&mut self, chunk: ChunkId, at: Position, lacks: bool) {
        if lacks {
            self.lacking.insert(chunk, at);
        } else {
            self.lacking.remove(&chunk);
        }
    }

    /// Chunks with members that lack blocks.
    pub(super) fn lacking(&self) -> impl Iterator<Item = (ChunkId, Position)> {
        self.lacking.iter().map(|(chunk, at)| (*chunk, *at))
    }

    /// A replica is to go from a version to the present one.
    pub(super) fn install(&mut self, cs: CsId, chunk: ChunkId, due: Due) {
        self.due.entry(cs).or_default().entry(chunk).or_insert(due);
    }

    /// A replica has installed a version, which is the present one or not.
    pub(super) fn installed(&mut self, cs: CsId, chunk: ChunkId, version: Version, is_present: bool) {
        if is_present {
            remove(&mut self.due, cs, chunk);
        } else if let Some(due) = self.due.get_mut(&cs).and_then(|chunks| chunks.get_mut(&chunk)) {
            due.from = due.from.max(version);
        }
    }

    /// What a chunk server has not installed of a chunk.
    pub(super) fn due(&self, cs: CsId, chunk: ChunkId) -> Option<Due> {
        self.due.get(&cs)?.get(&chunk).copied()
    }

    /// What is to be installed, by chunk server.
    pub(super) fn all_due(&self) -> impl Iterator<Item = (CsId, ChunkId, Due)> {
        self.due.iter().flat_map(|(cs, chunks)| chunks.iter().map(|(chunk, due)| (*cs, *chunk, *due)))
    }

    /// A chunk server is to make a replica.
    pub(super) fn add(&mut self, cs: CsId, chunk: ChunkId, addition: Addition) {
        self.adding.entry(cs).or_default().insert(chunk, addition);
    }

    /// What a chunk server is to make of a chunk.
    pub(super) fn addition(&self, cs: CsId, chunk: ChunkId) -> Option<Addition> {
        self.adding.get(&cs)?.get(&chunk).copied()
    }

    /// A replica is made, or is not to be made any more.
    pub(super) fn end_addition(&mut self, cs: CsId, chunk: ChunkId) -> Option<Addition> {
        remove(&mut self.adding, cs, chunk)
    }

    /// Replicas that are to be made, by chunk server.
    pub(super) fn all_additions(&self) -> impl Iterator<Item = (CsId, ChunkId, Addition)> {
        self.adding.iter().flat_map(|(cs, chunks)| chunks.iter().map(|(chunk, made)| (*cs, *chunk, *made)))
    }

    /// Chunk servers that are to make a replica of a chunk.
    pub(super) fn adding(&self, chunk: ChunkId) -> impl Iterator<Item = CsId> {
        self.adding.iter().filter(move |(_, chunks)| chunks.contains_key(&chunk)).map(|(cs, _)| *cs)
    }

    /// Replicas that a chunk server is to make.
    pub(super) fn additions_on(&self, cs: CsId) -> usize {
        self.adding.get(&cs).map_or(0, BTreeMap::len)
    }

    /// Joiners, by chunk server.
    pub(super) fn joining(&self) -> impl Iterator<Item = (CsId, ChunkId, Position)> {
        self.joining.iter().flat_map(|(cs, chunks)| chunks.iter().map(|(chunk, at)| (*cs, *chunk, *at)))
    }

    /// Where the joiner on a chunk server is.
    pub(super) fn joiner(&self, cs: CsId, chunk: ChunkId) -> Option<Position> {
        self.joining.get(&cs)?.get(&chunk).copied()
    }

    /// Replicas that are on their way to a chunk server: to be made, or to be filled.
    pub(super) fn arriving_on(&self, cs: CsId) -> usize {
        self.additions_on(cs) + self.joining.get(&cs).map_or(0, BTreeMap::len)
    }

    /// Where the joiners on a chunk server are.
    pub(super) fn joining_at(&self, cs: CsId) -> impl Iterator<Item = Position> {
        self.joining.get(&cs).into_iter().flat_map(|chunks| chunks.values().copied())
    }

    /// Whether a chunk server's replica of a chunk is away.
    pub(super) fn is_absent(&self, cs: CsId, chunk: ChunkId) -> bool {
        has(&self.absent, cs, chunk)
    }

    /// Chunks with replicas on a chunk server that are away.
    pub(super) fn absent_on(&self, cs: CsId) -> impl Iterator<Item = Position> {
        self.absent.get(&cs).into_iter().flat_map(|chunks| chunks.values().copied())
    }

    /// Chunk servers with replicas that are away.
    pub(super) fn absent_servers(&self) -> impl Iterator<Item = CsId> {
        self.absent.keys().copied()
    }

    /// Whether what is derived is what follows from these maps, and nothing is due that cannot be.
    pub(super) fn agrees<'a>(
        &self,
        entries: impl Iterator<Item = (FileId, &'a ChunkEntry)>,
    ) -> Result<(), &'static str> {
        let mut fresh = Self::default();
        let (mut due, mut adding, mut young) = (0, 0, 0);
        for (file, entry) in entries {
            fresh.note(file, None, Some(entry));
            for cs in self.adding(entry.id()) {
                adding += 1;
                let made = self.addition(cs, entry.id());
                if made.is_none_or(|made| {
                    made.position != (file, entry.index()) || made.version > entry.version()
                }) {
                    return Err(
                        "a replica is to be made of a chunk that is elsewhere, or with a version to come",
                    );
                }
                if entry.members().on(cs).is_some() {
                    return Err("a replica is to be made where there is one");
                }
            }
            for member in entry.members().iter() {
                if self.is_fresh(member.cs, entry.id()) {
                    young += 1;
                    if !may_be_fresh(member.state) {
                        return Err("a replica that has never been a member is one");
                    }
                }
                let Some(waiting) = self.due(member.cs, entry.id()) else { continue };
                due += 1;
                if !takes_writes(member.state) {
                    return Err("a version is to be installed on a replica that is none");
                }
                if waiting.position != (file, entry.index()) || waiting.from >= entry.version() {
                    return Err("a version to be installed is not above the one before, or elsewhere");
                }
            }
        }
        if (&fresh.joining, &fresh.absent) != (&self.joining, &self.absent) {
            return Err("the lists of joiners and of replicas that are away are wrong");
        }
        if fresh.lacking != self.lacking {
            return Err("the list of chunks with members that lack blocks is wrong");
        }
        if young != self.fresh.len() {
            return Err("a replica that has never been a member is in no map");
        }
        if adding != self.all_additions().count() || has_empty(&self.adding) {
            return Err("a replica is to be made of a chunk that is in no map");
        }
        if due != self.all_due().count() || has_empty(&self.due) {
            return Err("a version is to be installed of a chunk that is in no map");
        }
        Ok(())
    }

    /// Whether a joiner could be filled by this member now: both have installed the version.
    pub(super) fn is_settled(&self, cs: CsId, chunk: ChunkId) -> bool {
        !has(&self.due, cs, chunk)
    }
}

fn has_empty<T>(table: &ByServer<T>) -> bool {
    table.values().any(BTreeMap::is_empty)
}

/// Whether a replica in this state is told of versions.
pub(super) fn takes_writes(state: MemberState) -> bool {
    matches!(state, MemberState::InSync | MemberState::Joining)
}

/// Whether a replica in this state may be one that has never been a member.
fn may_be_fresh(state: MemberState) -> bool {
    matches!(state, MemberState::Joining | MemberState::Absent)
}
