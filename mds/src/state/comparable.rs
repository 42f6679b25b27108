//! Which replicas can be compared with each other: those that must be equal (C5, C7).

use super::State;
use super::chunk::{ChunkEntry, MemberState};
use super::ids::{ChunkId, CsId, FileId, Version};

/// The flag of a chunk server that keeps checksums, as in the wire protocol.
pub const FLAG_CHECKSUMS: u32 = 1 << 1;

/// A chunk whose replicas must be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparable {
    /// Their version.
    pub version: Version,
    /// Where in the file the chunk begins, in bytes.
    pub offset: u64,
    /// How many blocks it has.
    pub blocks: u32,
    /// Members with checksums, ascending; at least two.
    pub members: Vec<CsId>,
}

impl State {
    /// A chunk of which all replicas are there and in sync, under one version, with nothing to be reconciled.
    pub fn comparable(&self, file: FileId, chunk: ChunkId) -> Option<Comparable> {
        let file = self.tree.file(file).ok()?;
        let entry = file.chunks.iter().find(|entry| entry.id() == chunk)?;
        let is_whole = |entry: &&ChunkEntry| {
            !entry.is_unreconciled()
                && entry.layout() == 0
                && entry.members().iter().all(|member| {
                    member.state == MemberState::InSync && self.changes.is_settled(member.cs, chunk)
                })
        };
        let entry = Some(entry).filter(is_whole)?;
        let mut members = Vec::new();
        for cs in entry.in_sync() {
            let server = self.server(cs).filter(|server| !server.is_lapsed())?;
            members.extend((server.flags & FLAG_CHECKSUMS != 0).then_some(cs));
        }
        members.sort_unstable();
        let offset = u64::from(entry.index()) * file.attrs.chunk_size;
        let blocks = u32::try_from(file.attrs.chunk_size / 4096).ok()?;
        (members.len() > 1).then_some(Comparable { version: entry.version(), offset, blocks, members })
    }
}
