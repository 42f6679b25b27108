//! Which write holds each sector: disjoint ranges, each with the number of a write.

use std::collections::BTreeMap;

/// A range of sectors and the write that owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// First sector.
    pub(super) start: u64,
    /// One past the last sector.
    pub(super) end: u64,
    /// Number of the write; greater is later.
    pub(super) write: u64,
}

/// Disjoint extents in order of their sectors.
#[derive(Debug, Default)]
pub(super) struct ExtentMap {
    /// Start to (end, write).
    map: BTreeMap<u64, (u64, u64)>,
}

impl ExtentMap {
    /// Gives the sectors `start..end` to `write` except where a later write holds them. Returns the ranges taken.
    pub(super) fn raise(&mut self, start: u64, end: u64, write: u64) -> Vec<(u64, u64)> {
        let mut taken: Vec<(u64, u64)> = Vec::new();
        let mut take = |from: u64, to: u64| match taken.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ if from < to => taken.push((from, to)),
            _ => {}
        };
        let mut at = start;
        for held in self.touching(start, end) {
            take(at, held.start.max(start));
            if held.write < write {
                self.map.remove(&held.start);
                self.put(held.start, held.start.max(start), held.write);
                self.put(held.end.min(end), held.end, held.write);
                take(held.start.max(start), held.end.min(end));
            }
            at = held.end.min(end);
        }
        take(at, end);
        for &(from, to) in &taken {
            self.put(from, to, write);
        }
        taken
    }

    /// Forgets `write` within `start..end`.
    pub(super) fn remove(&mut self, start: u64, end: u64, write: u64) {
        for held in self.touching(start, end) {
            if held.write == write {
                self.map.remove(&held.start);
                self.put(held.start, held.start.max(start), held.write);
                self.put(held.end.min(end), held.end, held.write);
            }
        }
    }

    /// The extents within `start..end`, cut to it, in order.
    pub(super) fn within(&self, start: u64, end: u64) -> Vec<Extent> {
        let cut = |held: Extent| Extent { start: held.start.max(start), end: held.end.min(end), ..held };
        self.touching(start, end).into_iter().map(cut).collect()
    }

    /// All extents in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.map.iter().map(|(&start, &(end, write))| Extent { start, end, write })
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.map.clear();
    }

    /// The extents that share a sector with `start..end`, whole, in order.
    fn touching(&self, start: u64, end: u64) -> Vec<Extent> {
        if start >= end {
            return Vec::new();
        }
        let before = self.map.range(..start).next_back().filter(|(_, (held_end, _))| *held_end > start);
        let inside = self.map.range(start..end);
        let extent = |(&start, &(end, write)): (&u64, &(u64, u64))| Extent { start, end, write };
        before.into_iter().chain(inside).map(extent).collect()
    }

    fn put(&mut self, start: u64, end: u64, write: u64) {
        if start < end {
            self.map.insert(start, (end, write));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    /// The slow twin: one number per sector, zero where nothing is held.
    fn twin_of(map: &ExtentMap, sectors: u64) -> Vec<u64> {
        let mut held = vec![0; sectors as usize];
        let mut end_before = 0;
        for extent in map.iter() {
            assert!(
                extent.start < extent.end && extent.start >= end_before,
                "disjoint and in order: {map:?}"
            );
            end_before = extent.end;
            held[extent.start as usize..extent.end as usize].fill(extent.write);
        }
        held
    }

    #[test]
    fn agrees_with_one_number_per_sector() {
        const SECTORS: u64 = 24;
        for seed in 0..200 {
            let mut seeded = Seeded::new(seed);
            let mut map = ExtentMap::default();
            let mut twin = vec![0; SECTORS as usize];
            for _ in 0..40 {
                let start = seeded.below(SECTORS);
                let end = start + seeded.below(SECTORS - start + 1);
                let write = 1 + seeded.below(12);
                if seeded.chance(25) {
                    map.remove(start, end, write);
                    twin[start as usize..end as usize]
                        .iter_mut()
                        .filter(|held| **held == write)
                        .for_each(|held| *held = 0);
                } else {
                    let mut expected = Vec::new();
                    for sector in start..end {
                        let held = &mut twin[sector as usize];
                        if *held < write {
                            *held = write;
                            expected.push(sector);
                        }
                    }
                    let taken = map.raise(start, end, write);
                    let flat: Vec<u64> = taken.iter().flat_map(|&(from, to)| from..to).collect();
                    assert_eq!(flat, expected);
                }
                assert_eq!(twin_of(&map, SECTORS), twin);
                let window = map.within(start, end);
                assert!(window.iter().all(|extent| extent.start >= start && extent.end <= end));
                let flat: u64 = window.iter().map(|extent| extent.end - extent.start).sum();
                assert_eq!(
                    flat,
                    twin[start as usize..end as usize].iter().filter(|held| **held != 0).count() as u64
                );
            }
        }
    }
}
