//! The checksum of one block as it is stored.
//!
//! On the wire a block's CRC32C is plain; stored it is combined with the chunk's id and the block's index by
//! exclusive or, so that data read from the wrong place does not match, and so that a clone can be given new
//! checksums without reading its data (C8). Four values are reserved: a hole, a block whose content nobody knows, a block whose
//! checksum is not kept, and a block that is lost here.

use super::CHUNK_BLOCKS_MAX;

/// A stored checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoredCrc(u32);

/// What a stored checksum says about its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockState {
    /// Reads as zero, whatever the file holds.
    Hole,
    /// The content could not be told after a crash; not served until the members have settled it (C5).
    Unknown,
    /// Holds data whose checksum is not kept (`make-cs -S`).
    Unchecked,
    /// Neither the content nor its checksum is known here, because no replica had it when this one was filled, or by damage of
    /// table or journal: damaged until it is written, discarded or repaired (C8).
    Lost,
    /// Holds data with this checksum.
    Data(StoredCrc),
}

const HOLE: u32 = 0;
const UNKNOWN: u32 = 1;
const UNCHECKED: u32 = 2;
const LOST: u32 = 3;
const RESERVED: u32 = 4;

fn key(chunk: u64, block: u32) -> u32 {
    debug_assert!(block < CHUNK_BLOCKS_MAX);
    // The finaliser of MurmurHash3 (public domain): every bit of the place reaches every bit of the key.
    let mut z = chunk ^ (u64::from(block) << 40) ^ 0x5653_424C_4F43_4B21;
    z = (z ^ (z >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    z = (z ^ (z >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    (z ^ (z >> 33)) as u32
}

impl StoredCrc {
    /// The stored form of a block's plain CRC32C.
    #[must_use]
    pub fn of_plain(plain: u32, chunk: u64, block: u32) -> Self {
        let combined = plain ^ key(chunk, block);
        // Eight plain values in 2^32 share four stored ones; a mismatch still shows with all others.
        Self(if combined < RESERVED { combined + RESERVED } else { combined })
    }

    /// The plain CRC32C that it was made from.
    #[must_use]
    pub fn plain(self, chunk: u64, block: u32) -> u32 {
        self.0 ^ key(chunk, block)
    }

    /// Whether a block with this plain CRC32C is the one that was stored.
    #[must_use]
    pub fn matches(self, plain: u32, chunk: u64, block: u32) -> bool {
        Self::of_plain(plain, chunk, block) == self
    }
}

impl BlockState {
    /// Of data with this plain CRC32C.
    #[must_use]
    pub fn of_plain(plain: u32, chunk: u64, block: u32) -> Self {
        Self::Data(StoredCrc::of_plain(plain, chunk, block))
    }

    /// From a table entry or a record.
    #[must_use]
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            HOLE => Self::Hole,
            UNKNOWN => Self::Unknown,
            UNCHECKED => Self::Unchecked,
            LOST => Self::Lost,
            raw => Self::Data(StoredCrc(raw)),
        }
    }

    /// As a table entry or in a record.
    #[must_use]
    pub fn to_raw(self) -> u32 {
        match self {
            Self::Hole => HOLE,
            Self::Unknown => UNKNOWN,
            Self::Unchecked => UNCHECKED,
            Self::Lost => LOST,
            Self::Data(StoredCrc(raw)) => raw,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_good_in_its_own_place_only() {
        let stored = StoredCrc::of_plain(0x1234_5678, 7, 9);
        assert!(stored.matches(0x1234_5678, 7, 9));
        assert!(!stored.matches(0x1234_5678, 7, 10));
        assert!(!stored.matches(0x1234_5678, 8, 9));
        assert!(!stored.matches(0x1234_5679, 7, 9));
        assert_eq!(stored.plain(7, 9), 0x1234_5678);
    }

    #[test]
    fn reserved_values_are_never_data() {
        for combined in 0..8 {
            let plain = combined ^ key(3, 4);
            let raw = BlockState::of_plain(plain, 3, 4).to_raw();
            assert!(raw >= RESERVED);
            assert!(StoredCrc(raw).matches(plain, 3, 4));
        }
        for raw in [0, 1, 2, 3, 4, u32::MAX] {
            assert_eq!(BlockState::from_raw(raw).to_raw(), raw);
        }
    }
}
