//! Chunks that belong to no file any more (C9).
//!
//! ```text
//!   deleted ──▶ quarantined ── PurgeChunks ──▶ purging ── ChunksPurged from every server ──▶ gone
//! ```

use super::ChunkEntry;
use crate::state::ids::{ChunkId, CsId, FileId, Version};
use std::collections::BTreeMap;

/// A chunk to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The file it belonged to.
    pub file: FileId,
    /// The version to delete; higher ones are spared.
    pub version: Version,
    /// Since when it is in quarantine, in milliseconds since 1970.
    pub since_ms: u64,
    /// The quarantine is over: chunk servers are being told.
    pub purging: bool,
    /// Chunk servers that may still hold it, sorted. Never empty.
    pub waiting: Vec<CsId>,
}

/// The delete list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletions {
    list: BTreeMap<ChunkId, Deletion>,
}

impl Deletions {
    /// A chunk in the list.
    pub fn get(&self, chunk: ChunkId) -> Option<&Deletion> {
        self.list.get(&chunk)
    }

    /// All chunks in the list.
    pub fn iter(&self) -> impl Iterator<Item = (ChunkId, &Deletion)> {
        self.list.iter().map(|(chunk, deletion)| (*chunk, deletion))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Puts a chunk with all its replicas in quarantine.
    pub(in crate::state) fn add(&mut self, file: FileId, entry: &ChunkEntry, now_ms: u64) {
        let servers = entry.members().iter().map(|member| member.cs);
        self.add_replicas(file, entry.id(), entry.version(), servers, now_ms);
    }

    /// Puts some replicas of a chunk in quarantine; with others of it that are there already, anew.
    pub(in crate::state) fn add_replicas(
        &mut self,
        file: FileId,
        chunk: ChunkId,
        version: Version,
        servers: impl Iterator<Item = CsId>,
        now_ms: u64,
    ) {
        let fresh = || Deletion { file, version, since_ms: now_ms, purging: false, waiting: Vec::new() };
        let deletion = self.list.entry(chunk).or_insert_with(fresh);
        deletion.waiting.extend(servers);
        deletion.waiting.sort_unstable();
        deletion.waiting.dedup();
        deletion.version = deletion.version.max(version);
        (deletion.since_ms, deletion.purging) = (now_ms, false);
        if deletion.waiting.is_empty() {
            self.list.remove(&chunk);
        }
    }

    /// Ends the quarantine of a chunk; `None` if it is not in the list.
    pub(in crate::state) fn purge(&mut self, chunk: ChunkId) -> Option<&Deletion> {
        let deletion = self.list.get_mut(&chunk)?;
        deletion.purging = true;
        Some(deletion)
    }

    /// A chunk server holds the chunk no more. Returns whether that was news.
    ///
    /// Only while purging: before, the chunk server was not asked and the answer is to something else.
    pub(in crate::state) fn purged(&mut self, chunk: ChunkId, cs: CsId) -> bool {
        let Some(deletion) = self.list.get_mut(&chunk).filter(|deletion| deletion.purging) else {
            return false;
        };
        let before = deletion.waiting.len();
        deletion.waiting.retain(|other| *other != cs);
        let news = deletion.waiting.len() < before;
        if deletion.waiting.is_empty() {
            self.list.remove(&chunk);
        }
        news
    }

    /// A chunk server is no part of the cluster any more: what is on it is none of our business.
    pub(in crate::state) fn forget(&mut self, cs: CsId) {
        for deletion in self.list.values_mut() {
            deletion.waiting.retain(|other| *other != cs);
        }
        self.list.retain(|_, deletion| !deletion.waiting.is_empty());
    }

    /// Starts every quarantine anew.
    pub(in crate::state) fn restart(&mut self, now_ms: u64) {
        for deletion in self.list.values_mut() {
            (deletion.since_ms, deletion.purging) = (now_ms, false);
        }
    }

    /// Puts a chunk back from a snapshot.
    pub(in crate::state) fn restore(&mut self, chunk: ChunkId, deletion: Deletion) {
        self.list.insert(chunk, deletion);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId::new(1, 9);
    const CHUNK: ChunkId = ChunkId::new(1, 4);

    fn two_servers() -> Deletions {
        let mut list = Deletions::default();
        let entry = ChunkEntry::allocated(0, CHUNK, Version::first(1), &[CsId(1026), CsId(1025)], true);
        list.add(FILE, &entry, 100);
        list
    }

    #[test]
    fn c9_a_chunk_is_gone_when_every_server_said_so_after_the_quarantine() {
        let mut list = two_servers();
        assert!(!list.purged(CHUNK, CsId(1025)), "nobody asked yet");
        assert!(list.purge(CHUNK).is_some());
        assert!(list.purged(CHUNK, CsId(1025)));
        assert!(!list.purged(CHUNK, CsId(1025)));
        assert_eq!(list.get(CHUNK).map(|deletion| deletion.waiting.clone()), Some(vec![CsId(1026)]));
        assert!(list.purged(CHUNK, CsId(1026)));
        assert!(list.is_empty() && list.purge(CHUNK).is_none());
    }

    #[test]
    fn more_replicas_of_a_chunk_start_its_quarantine_anew() {
        let mut list = two_servers();
        list.purge(CHUNK);
        list.add_replicas(FILE, CHUNK, Version::new(1, 3), [CsId(1026), CsId(1027)].into_iter(), 500);
        let deletion = list.get(CHUNK).unwrap();
        assert_eq!(deletion.waiting, [CsId(1025), CsId(1026), CsId(1027)]);
        assert_eq!((deletion.version, deletion.since_ms, deletion.purging), (Version::new(1, 3), 500, false));
    }
}
