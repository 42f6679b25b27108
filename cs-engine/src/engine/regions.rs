//! A bit for each region of 64 KiB of a chunk (C6).

use std::ops::Range;

use crate::format::CHUNK_BLOCKS_MAX;
use crate::format::record::MAP_WORDS;

/// Blocks of a region.
pub const REGION_BLOCKS: u32 = 16;

const WORDS: usize = MAP_WORDS as usize;

const _: () = assert!(CHUNK_BLOCKS_MAX == MAP_WORDS * 32 * REGION_BLOCKS);

/// A set of regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regions([u32; WORDS]);

/// The blocks of a region in a chunk of so many.
pub(crate) fn blocks_of(region: u32, blocks: u32) -> Range<u32> {
    region * REGION_BLOCKS..blocks.min((region + 1) * REGION_BLOCKS)
}

impl Regions {
    /// Every region of a chunk of so many blocks.
    #[must_use]
    pub fn all(blocks: u32) -> Self {
        let mut all = Self::default();
        all.add_blocks(&(0..blocks));
        all
    }

    /// Adds the regions that these blocks touch.
    pub fn add_blocks(&mut self, blocks: &Range<u32>) {
        for region in blocks.start / REGION_BLOCKS..blocks.end.div_ceil(REGION_BLOCKS) {
            self.0[region as usize / 32] |= 1 << (region % 32);
        }
    }

    /// Whether a region is in the set.
    #[must_use]
    pub fn contains(&self, region: u32) -> bool {
        self.0[region as usize / 32] >> (region % 32) & 1 == 1
    }

    /// Adds those of another set.
    pub fn unite(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word |= other);
    }

    /// Leaves those that are in the other set, too.
    pub fn intersect(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= other);
    }

    /// Takes those of another set away.
    pub fn subtract(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= !other);
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// The regions, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let bits = |(index, word): (u32, &u32)| {
            let word = *word;
            (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 32 + bit)
        };
        (0..).zip(&self.0).flat_map(bits)
    }

    /// The words that are not zero, with their positions.
    pub(crate) fn words(&self) -> impl Iterator<Item = (u32, u32)> {
        (0..).zip(self.0).filter(|(_, word)| *word != 0)
    }

    /// Adds 32 regions from `32 × position` on.
    pub(crate) fn add_word(&mut self, position: u32, bits: u32) {
        self.0[position as usize] |= bits;
    }

    /// As bytes for a chunk of so many blocks: the lowest bit of the first byte is the first region; whole 8 bytes.
    #[must_use]
    pub fn to_bytes(&self, blocks: u32) -> Vec<u8> {
        let words = blocks.div_ceil(REGION_BLOCKS).div_ceil(64) as usize * 2;
        self.0[..words].iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Reads what [`Regions::to_bytes`] made for a chunk of so many blocks; `None` when it is of another length, or names
    /// regions behind the chunk's end.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], blocks: u32) -> Option<Self> {
        let words = blocks.div_ceil(REGION_BLOCKS).div_ceil(64) as usize * 2;
        let mut regions = Self::default();
        let (found, []) = bytes.as_chunks::<4>() else { return None };
        if found.len() != words {
            return None;
        }
        regions.0.iter_mut().zip(found).for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
        let mut beyond = regions.clone();
        beyond.subtract(&Self::all(blocks));
        beyond.is_empty().then_some(regions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_what_was_added() {
        let mut set = Regions::default();
        assert!(set.is_empty());
        set.add_blocks(&(15..33));
        set.add_blocks(&(16_383..16_384));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 2, 1023]);
        assert_eq!((set.len(), set.contains(1), set.contains(3)), (4, true, false));
        let mut other = Regions::default();
        other.add_blocks(&(16..17));
        let mut both = set.clone();
        both.intersect(&other);
        assert_eq!(both, other);
        set.subtract(&other);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 2, 1023]);
        set.unite(&other);
        assert_eq!(set.len(), 4);
        let mut again = Regions::default();
        set.words().for_each(|(position, bits)| again.add_word(position, bits));
        assert_eq!(again, set);
    }

    #[test]
    fn bytes_are_of_one_chunk() {
        for blocks in [1, 16, 17, 1024, 1025, CHUNK_BLOCKS_MAX] {
            let all = Regions::all(blocks);
            assert_eq!(all.len(), blocks.div_ceil(16));
            let bytes = all.to_bytes(blocks);
            assert!(bytes.len().is_multiple_of(8));
            assert_eq!(Regions::from_bytes(&bytes, blocks), Some(all));
            assert_eq!(Regions::from_bytes(&bytes[1..], blocks), None);
            assert_eq!(Regions::from_bytes(&[&bytes[..], &[0; 8]].concat(), blocks), None);
        }
        assert_eq!(Regions::from_bytes(&[4, 0, 0, 0, 0, 0, 0, 0], 32), None, "behind the end");
    }
}
