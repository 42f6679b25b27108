//! Hash maps with a fixed hasher: the order of iteration is the same in every run.
//!
//! The keys are numbers handed out by our own servers, so a keyed hasher would buy nothing on the data
//! path; maps whose keys an outsider chooses are [`std::collections::BTreeMap`]s.

use std::hash::{BuildHasher, Hasher};

/// A hash map whose iteration order depends only on its history.
#[allow(clippy::disallowed_types, reason = "the hasher is fixed")]
pub type FixedMap<K, V> = std::collections::HashMap<K, V, FixedState>;
/// A hash set whose iteration order depends only on its history.
#[allow(clippy::disallowed_types, reason = "the hasher is fixed")]
pub type FixedSet<K> = std::collections::HashSet<K, FixedState>;

/// Builds [`FixedHasher`]s.
#[derive(Clone, Copy, Debug, Default)]
pub struct FixedState;

impl BuildHasher for FixedState {
    type Hasher = FixedHasher;

    fn build_hasher(&self) -> FixedHasher {
        FixedHasher(0)
    }
}

/// A multiply-and-rotate hasher for small keys.
#[derive(Clone, Copy, Debug)]
pub struct FixedHasher(u64);

impl FixedHasher {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

impl Hasher for FixedHasher {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0u8; 8];
            word[..part.len()].copy_from_slice(part);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }

    fn finish(&self) -> u64 {
        // The table uses the top bits for its tags and the low bits for the bucket: fold once.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_history_iterates_in_the_same_order() {
        let build = || {
            let mut map = FixedMap::default();
            for key in 0..1000u64 {
                map.insert(key * 7919, key);
            }
            map.remove(&(5 * 7919));
            map.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(build(), build());
    }

    #[test]
    fn sequential_keys_spread_over_buckets() {
        let mut low = std::collections::BTreeSet::new();
        for key in 0..256u64 {
            let mut hasher = FixedState.build_hasher();
            hasher.write_u64(key);
            low.insert(hasher.finish() & 0xff);
        }
        assert!(low.len() > 128, "only {} of 256 buckets used", low.len());
    }
}
