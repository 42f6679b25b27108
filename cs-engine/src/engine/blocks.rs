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

    /// Notes entries, which come in the order of their blocks. Blocks that are there already, in a long write as a rule
    /// all of them, are found by going along the map once.
    pub(crate) fn insert_all(&mut self, entries: impl Iterator<Item = (u32, Entry)>) {
        let mut entries = entries.peekable();
        let Some(&(first, one)) = entries.peek() else { return };
        entries.next();
        if entries.peek().is_none() {
            return self.insert(first, one);
        }
        let mut missing = Vec::new();
        let mut known = self.entries.range_mut(first..).peekable();
        for (block, entry) in std::iter::once((first, one)).chain(entries) {
            while known.next_if(|(known, _)| **known < block).is_some() {}
            match known.next_if(|(known, _)| **known == block) {
                Some((_, slot)) if slot.lsn <= entry.lsn => *slot = entry,
                Some(_) => {}
                None => missing.push((block, entry)),
            }
        }
        self.entries.extend(missing);
    }

    /// Notes that the content of a block is gone: what its place in the file holds is something else.
    pub(crate) fn lose(&mut self, block: u32) {
        if let Some(entry) = self.entries.get_mut(&block) {
            (entry.state, entry.place) = (BlockState::Lost, Place::File);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn range(&self, blocks: std::ops::Range<u32>) -> impl Iterator<Item = (u32, &Entry)> {
        // One block is found faster than two ends of a range.
        let one = if blocks.len() == 1 { self.entries.get_key_value(&blocks.start) } else { None };
        let several = (blocks.len() > 1).then(|| self.entries.range(blocks));
        one.into_iter().chain(several.into_iter().flatten()).map(|(&block, entry)| (block, entry))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.entries.iter().map(|(&block, entry)| (block, entry))
    }
}

#[cfg(test)]
mod tests {
    use rt::random::Rng;

    use super::*;

    fn entry(lsn: u64) -> Entry {
        Entry { lsn, epoch: 1, seq: lsn, state: BlockState::Hole, place: Place::Nowhere }
    }

    #[test]
    fn many_entries_are_noted_as_one_after_the_other() {
        let mut rng = Rng::from_seed(7);
        let (mut map, mut twin) = (BlockMap::default(), BlockMap::default());
        for _ in 0..2000 {
            let (first, lsn) = (rng.below(200) as u32, rng.below(50));
            let blocks: Vec<u32> = (first..first + rng.below(40) as u32).filter(|_| !rng.one_in(4)).collect();
            map.insert_all(blocks.iter().map(|&block| (block, entry(lsn))));
            for &block in &blocks {
                twin.insert(block, entry(lsn));
            }
            assert_eq!(map.entries, twin.entries);
            let range = first..first + rng.below(4) as u32;
            let obvious: Vec<_> = map.iter().filter(|(block, _)| range.contains(block)).collect();
            assert_eq!(map.range(range).collect::<Vec<_>>(), obvious);
        }
    }
}
