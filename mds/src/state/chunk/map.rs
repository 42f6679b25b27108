//! A file's map from index to chunk.
//!
//! Entries lie side by side in pages of up to [`PAGE`] chunks. A page grows by a quarter at a time, so a well
//! filled map costs 48 bytes per chunk and at most a quarter more; a file with a single chunk per page (64 MiB in
//! every 8 GiB) costs about 110. The test below measures it.

use super::ChunkEntry;
use std::collections::BTreeMap;

/// Chunks per page.
const PAGE: u32 = 128;

/// The chunks of a file, by index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkMap {
    /// Never empty, sorted by index.
    pages: BTreeMap<u32, Vec<ChunkEntry>>,
    len: usize,
    unreconciled: usize,
}

impl ChunkMap {
    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many are to be reconciled (C5).
    pub fn unreconciled(&self) -> usize {
        self.unreconciled
    }

    /// The chunk at this index.
    pub fn get(&self, index: u32) -> Option<&ChunkEntry> {
        let page = self.pages.get(&(index / PAGE))?;
        page.binary_search_by_key(&index, ChunkEntry::index).ok().map(|at| &page[at])
    }

    /// All chunks by index.
    pub fn iter(&self) -> impl Iterator<Item = &ChunkEntry> {
        self.pages.values().flatten()
    }

    /// The chunks from this index on.
    pub fn iter_from(&self, index: u32) -> impl Iterator<Item = &ChunkEntry> {
        let first = index / PAGE;
        self.pages.range(first..).flat_map(|(_, page)| page).skip_while(move |entry| entry.index() < index)
    }

    /// Adds a chunk at an index that has none.
    pub(in crate::state) fn insert(&mut self, entry: ChunkEntry) {
        let page = self.pages.entry(entry.index() / PAGE).or_default();
        let at = page.partition_point(|other| other.index() < entry.index());
        let taken = page.get(at).is_some_and(|other| other.index() == entry.index());
        assert!(!taken, "the index {} has a chunk", entry.index());
        if page.len() == page.capacity() {
            page.reserve_exact(page.len() / 4 + 1);
        }
        self.len += 1;
        self.unreconciled += usize::from(entry.is_unreconciled());
        page.insert(at, entry);
    }

    /// Changes the chunk at this index; `None` if there is none.
    pub(in crate::state) fn update<T>(
        &mut self,
        index: u32,
        change: impl FnOnce(&mut ChunkEntry) -> T,
    ) -> Option<T> {
        let page = self.pages.get_mut(&(index / PAGE))?;
        let at = page.binary_search_by_key(&index, ChunkEntry::index).ok()?;
        let entry = &mut page[at];
        self.unreconciled -= usize::from(entry.is_unreconciled());
        let result = change(entry);
        self.unreconciled += usize::from(entry.is_unreconciled());
        Some(result)
    }

    /// Changes every chunk.
    pub(in crate::state) fn update_all(&mut self, mut change: impl FnMut(&mut ChunkEntry)) {
        self.unreconciled = 0;
        for entry in self.pages.values_mut().flatten() {
            change(entry);
            self.unreconciled += usize::from(entry.is_unreconciled());
        }
    }

    /// Takes out the chunks from this index on.
    pub(in crate::state) fn split_off(&mut self, index: u32) -> Vec<ChunkEntry> {
        let mut gone = Vec::new();
        if let Some(page) = self.pages.get_mut(&(index / PAGE)) {
            let at = page.partition_point(|entry| entry.index() < index);
            gone.extend(page.drain(at..));
            page.shrink_to_fit();
        }
        let beyond = (index / PAGE).saturating_add(1);
        if beyond > index / PAGE {
            gone.extend(self.pages.split_off(&beyond).into_values().flatten());
        }
        self.pages.retain(|_, page| !page.is_empty());
        self.len -= gone.len();
        self.unreconciled -= gone.iter().filter(|entry| entry.is_unreconciled()).count();
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::ids::{ChunkId, CsId, Version};

    fn entry(index: u32) -> ChunkEntry {
        let servers = [CsId(1025), CsId(1026), CsId(1027)];
        ChunkEntry::allocated(index, ChunkId::new(1, u64::from(index) + 1), Version::first(1), &servers, true)
    }

    fn filled(indices: impl IntoIterator<Item = u32>) -> ChunkMap {
        let mut map = ChunkMap::default();
        indices.into_iter().for_each(|index| map.insert(entry(index)));
        map
    }

    /// Bytes on the heap, as the allocator hands them out: capacities rounded up to 16, plus 16 for its own use,
    /// and the nodes of the tree (11 entries of key and vector, 6 of them filled when appended in order).
    fn heap_bytes(map: &ChunkMap) -> usize {
        let rounded = |bytes: usize| bytes.next_multiple_of(16) + 16;
        let pages: usize =
            map.pages.values().map(|page| rounded(page.capacity() * size_of::<ChunkEntry>())).sum();
        let node = rounded(11 * (size_of::<u32>() + size_of::<Vec<ChunkEntry>>()) + 16);
        pages + map.pages.len().div_ceil(6) * node
    }

    #[test]
    fn the_budget_of_100_bytes_per_chunk_holds() {
        // DESIGN §5. In order, in reverse, and with gaps.
        let orders: [(&str, ChunkMap); 3] = [
            ("appended", filled(0..100_000)),
            ("reversed", filled((0..100_000).rev())),
            ("every eighth", filled((0..100_000).map(|index| index * 8))),
        ];
        for (order, map) in orders {
            let per_chunk = heap_bytes(&map) / map.len();
            assert!(per_chunk <= 75, "{order}: {per_chunk} bytes per chunk");
        }
        let sparse = filled((0..10_000).map(|index| index * PAGE));
        let per_chunk = heap_bytes(&sparse) / sparse.len();
        assert!(per_chunk <= 125, "one chunk per page: {per_chunk} bytes per chunk");
    }

    #[test]
    fn chunks_are_found_where_they_are() {
        let map = filled([500, 0, 127, 128, u32::MAX]);
        assert_eq!(map.len(), 5);
        assert_eq!(map.iter().map(ChunkEntry::index).collect::<Vec<_>>(), [0, 127, 128, 500, u32::MAX]);
        assert_eq!(map.iter_from(127).map(ChunkEntry::index).collect::<Vec<_>>(), [127, 128, 500, u32::MAX]);
        assert_eq!(map.iter_from(129).map(ChunkEntry::index).collect::<Vec<_>>(), [500, u32::MAX]);
        assert!(map.get(128).is_some() && map.get(129).is_none() && map.get(4000).is_none());
    }

    #[test]
    fn cutting_off_takes_exactly_what_lies_beyond() {
        for cut in [0, 1, 127, 128, 129, 255, 256, 300, u32::MAX] {
            let indices = (0..300).chain([u32::MAX]);
            let mut map = filled(indices.clone());
            let gone = map.split_off(cut);
            let want: Vec<_> = indices.clone().filter(|index| *index >= cut).collect();
            assert_eq!(gone.iter().map(ChunkEntry::index).collect::<Vec<_>>(), want, "cut at {cut}");
            assert_eq!(map.len(), 301 - want.len());
            assert_eq!(map, filled(indices.filter(|index| *index < cut)), "nothing is left of the cut pages");
        }
    }

    #[test]
    fn the_count_of_unreconciled_chunks_follows() {
        let mut map = filled(0..10);
        map.update_all(|entry| entry.set_unreconciled(true));
        assert_eq!(map.unreconciled(), 10);
        map.update(3, |entry| entry.set_unreconciled(false));
        assert_eq!(map.update(99, |entry| entry.set_unreconciled(false)), None);
        assert_eq!(map.unreconciled(), 9);
        map.split_off(5);
        assert_eq!(map.unreconciled(), 4);
    }

    #[test]
    #[should_panic(expected = "has a chunk")]
    fn an_index_has_one_chunk() {
        filled([1, 1]);
    }
}
