//! Up to which epoch nothing of a chunk is in doubt (C5).

use std::collections::BTreeSet;

use super::State;
use super::chunk::{ChunkEntry, MemberState};
use super::ids::{ChunkId, CsId, Epoch, FileId, Version};
use super::lease::Phase;

/// What a member may take for stable on all members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its version, of which the chunk server is a member.
    pub version: Version,
    /// Writes of lower epochs are.
    pub below: u64,
    /// The highest epoch there is.
    pub newest: Epoch,
}

impl State {
    /// Chunks among these of which a chunk server is a member in sync, with its version installed, and which are reconciled. Epochs that have
    /// ended have ended in order then, or were reconciled with it; or it has joined since, and has no doubts of its own.
    pub fn settled(&self, file: FileId, chunks: &BTreeSet<ChunkId>, cs: CsId) -> Vec<Settled> {
        // Chunk servers know of what these metadata have forgotten (C12).
        if self.cluster.ahead.is_some() {
            return Vec::new();
        }
        let Ok(file) = self.tree.file(file) else { return Vec::new() };
        let newest = file.lease().epoch();
        let below = match file.lease().phase() {
            // Readers write nothing but what reconciles, and that is done.
            Phase::Idle | Phase::Shared { .. } => newest.raw() + 1,
            Phase::Exclusive { .. } => newest.raw(),
            Phase::Unclean | Phase::Fencing { .. } | Phase::Fenced => return Vec::new(),
        };
        let is_settled = |entry: &ChunkEntry| {
            chunks.contains(&entry.id())
                // Of what a restored backup knew nothing is certain: a chunk that it saw being created may have been written since (C12).
                && entry.id().generation() == self.cluster.generation
                && !entry.is_unreconciled()
                && entry.members().on(cs).is_some_and(|member| member.state == MemberState::InSync)
                && self.changes.is_settled(cs, entry.id())
        };
        let settled =
            |entry: &ChunkEntry| Settled { chunk: entry.id(), version: entry.version(), below, newest };
        file.chunks.iter().filter(|entry| is_settled(entry)).map(settled).collect()
    }
}
