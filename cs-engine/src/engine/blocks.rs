//! Block maps: what became of blocks since the last checkpoint.

use std::collections::BTreeMap;

use crate::format::block::BlockState;

/// Where a block's newest content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the chunk's file.
    File,
    /// In the journal, at this LSN; a checkpoint moves it.
    Journal(u64),
    /// Nowhere: the block reads as zero and a checkpoint punches it out.
    Nowhere,
}

/// Epoch and sequence number of what a joiner copied: as in the list of unstable writes, if that has any.
pub(crate) const COPIED: (u64, u64) = (u64::MAX, u64::MAX);

/// What became of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// LSN of the record that says so.
    pub lsn: u64,
    /// Lease epoch of the write.
    pub epoch: u64,
    /// Sequence number of the write.
    pub seq: u64,
    /// Its content.
    pub state: BlockState,
    /// Where that is.
    pub place: Place,
}

/// The newest entry per block.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockMap {
    entries: BTreeMap<u32, Entry>,
}

impl BlockMap {
    pub(crate) fn get(&self, block: u32) -> Option<&Entry> {
        self.entries.get(&block)
    }

    /// Notes an entry unless a newer one is there.
    pub(crate) fn insert(&mut self, block: u32, entry: Entry) {
        let slot = self.entries.entry(block).or_insert(entry);
        if slot.lsn <= entry.lsn {
            *slot = entry;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn range(&self, blocks: std::ops::Range<u32>) -> impl Iterator<Item = (u32, &Entry)> {
        self.entries.range(blocks).map(|(&block, entry)| (block, entry))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.entries.iter().map(|(&block, entry)| (block, entry))
    }
}
