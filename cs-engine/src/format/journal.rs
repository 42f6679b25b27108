//! The journal's header and the header of a group of records.
//!
//! The journal is a ring of blocks behind two copies of its header. An LSN counts bytes of the ring since the journal
//! was made; it names a group and is the group's place. A group never wraps: a filler takes the rest of
//! the ring. No sector of the ring is written twice before the tail has passed it.

use super::{BLOCK, Decoder, Encoder, FormatError};

/// Bytes before the ring: the two copies of the header.
pub const RING_START: u64 = 2 * BLOCK as u64;
/// Bytes of a group's header.
pub const GROUP_HEADER: usize = 128;
/// Most bytes of a group.
pub const GROUP_MAX: usize = 2 << 20;
/// Smallest ring.
pub const RING_MIN: u64 = 8 << 20;

const _: () = assert!(RING_MIN >= 4 * GROUP_MAX as u64);

/// Highest LSN: what is added to one never overflows. A disk that takes 10 GB a second gets there in 14 years.
pub const LSN_MAX: u64 = 1 << 62;

const HEADER_MAGIC: [u8; 8] = *b"VSTORCJ\n";
const GROUP_MAGIC: [u8; 8] = *b"VSTORGR\n";
const VERSION: u16 = 1;
const HEADER_CRC_AT: usize = BLOCK - 4;
const GROUP_CRC_AT: usize = GROUP_HEADER - 4;

/// Where the ring begins; written anew with every checkpoint, into the older of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalHeader {
    /// Grows with every update.
    pub sequence: u64,
    /// The store this journal belongs to (C10).
    pub store_uuid: [u8; 16],
    /// Must equal the superblock's (C10).
    pub generation: u64,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// LSN of the oldest group that recovery needs.
    pub tail: u64,
    /// CRC of the header of the group before the tail: what the group at the tail must continue.
    pub tail_previous_crc: u32,
    /// Everything below was durable when this was written.
    pub durable: u64,
}

impl JournalHeader {
    /// One copy.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut encoder = Encoder::new(&mut block);
        encoder.put(&HEADER_MAGIC).u16(VERSION).u16(0).u32(0).u64(self.sequence).put(&self.store_uuid);
        encoder
            .u64(self.generation)
            .u64(self.ring_bytes)
            .u64(self.tail)
            .u64(self.durable)
            .u32(self.tail_previous_crc);
        encoder.seal(HEADER_CRC_AT);
        block
    }

    /// Checks and reads one copy.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(block: &[u8; BLOCK]) -> Result<Self, FormatError> {
        const NAME: &str = "journal header";
        let mut decoder = Decoder::new(block);
        if decoder.take() != HEADER_MAGIC {
            return Err(FormatError::Magic { structure: NAME });
        }
        // Before the version: a flipped bit must not pass for a later release.
        if !decoder.sealed(HEADER_CRC_AT) {
            return Err(FormatError::Checksum { structure: NAME });
        }
        let found = decoder.u16();
        if found != VERSION {
            return Err(FormatError::Version { structure: NAME, found, known: VERSION });
        }
        decoder.u16();
        let features = decoder.u32();
        if features != 0 {
            return Err(FormatError::Features { structure: NAME, features });
        }
        let header = Self {
            sequence: decoder.u64(),
            store_uuid: decoder.take(),
            generation: decoder.u64(),
            ring_bytes: decoder.u64(),
            tail: decoder.u64(),
            durable: decoder.u64(),
            tail_previous_crc: decoder.u32(),
        };
        if header.ring_bytes < RING_MIN || !header.ring_bytes.is_multiple_of(BLOCK as u64) {
            return Err(FormatError::Range { structure: NAME, field: "ring size" });
        }
        if !header.tail.is_multiple_of(BLOCK as u64) || header.tail > LSN_MAX {
            return Err(FormatError::Range { structure: NAME, field: "tail" });
        }
        Ok(header)
    }

    /// Offset in the journal file of the byte with this LSN.
    #[must_use]
    pub fn offset(&self, lsn: u64) -> u64 {
        RING_START + lsn % self.ring_bytes
    }
}

/// The header of a group: what was appended by one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// Its LSN.
    pub lsn: u64,
    /// Bytes of the group with records and payload, a multiple of the block.
    pub len: u32,
    /// Bytes of records behind this header.
    pub records_len: u32,
    /// Number of records; 0 for a filler.
    pub records: u32,
    /// CRC of the group before.
    pub previous_crc: u32,
    /// CRC of the records.
    pub records_crc: u32,
    /// Start of the server that wrote it; never lower than the group's before.
    pub incarnation: u64,
    /// Everything below this LSN, and the in-place data that belongs to it, was durable when this was written.
    pub durable: u64,
    /// Generation of the journal.
    pub generation: u64,
    /// The store.
    pub store_uuid: [u8; 16],
}

impl GroupHeader {
    /// Writes the header into the first [`GROUP_HEADER`] bytes; gives its CRC, which the next group repeats.
    ///
    /// # Panics
    /// When there are fewer bytes.
    pub fn encode(&self, bytes: &mut [u8]) -> u32 {
        let bytes = &mut bytes[..GROUP_HEADER];
        let mut encoder = Encoder::new(bytes);
        encoder.put(&GROUP_MAGIC).u16(VERSION).u16(GROUP_HEADER as u16).u32(0);
        encoder.u64(self.lsn).u32(self.len).u32(self.records_len).u32(self.records).u32(self.previous_crc);
        encoder.u32(self.records_crc).u32(0).u64(self.incarnation).u64(self.durable).u64(self.generation);
        encoder.put(&self.store_uuid);
        encoder.seal(GROUP_CRC_AT);
        Self::crc_of(bytes)
    }

    /// The CRC stored in an encoded header.
    #[must_use]
    pub fn crc_of(bytes: &[u8]) -> u32 {
        u32::from_le_bytes([
            bytes[GROUP_CRC_AT],
            bytes[GROUP_CRC_AT + 1],
            bytes[GROUP_CRC_AT + 2],
            bytes[GROUP_CRC_AT + 3],
        ])
    }

    /// Checks and reads the header of the group that should be at `lsn`.
    ///
    /// # Errors
    /// [`FormatError`]. A group of another store, generation or place counts as absent (`Magic`): the ring is full
    /// of groups that were.
    pub fn decode(bytes: &[u8], journal: &JournalHeader, lsn: u64) -> Result<Self, FormatError> {
        const NAME: &str = "journal group";
        const ABSENT: FormatError = FormatError::Magic { structure: NAME };
        let Some(bytes) = bytes.get(..GROUP_HEADER) else { return Err(ABSENT) };
        let mut decoder = Decoder::new(bytes);
        if decoder.take() != GROUP_MAGIC {
            return Err(ABSENT);
        }
        if !decoder.sealed(GROUP_CRC_AT) {
            return Err(FormatError::Checksum { structure: NAME });
        }
        let found = decoder.u16();
        if found != VERSION {
            return Err(FormatError::Version { structure: NAME, found, known: VERSION });
        }
        decoder.u16();
        let features = decoder.u32();
        let header = Self {
            lsn: decoder.u64(),
            len: decoder.u32(),
            records_len: decoder.u32(),
            records: decoder.u32(),
            previous_crc: decoder.u32(),
            records_crc: decoder.u32(),
            incarnation: {
                decoder.u32();
                decoder.u64()
            },
            durable: decoder.u64(),
            generation: decoder.u64(),
            store_uuid: decoder.take(),
        };
        if header.lsn != lsn
            || header.generation != journal.generation
            || header.store_uuid != journal.store_uuid
        {
            return Err(ABSENT);
        }
        if features != 0 {
            return Err(FormatError::Features { structure: NAME, features });
        }
        let len = u64::from(header.len);
        let fits = len >= BLOCK as u64
            && len.is_multiple_of(BLOCK as u64)
            && len <= journal.ring_bytes - lsn % journal.ring_bytes
            && (header.records == 0 || len <= GROUP_MAX as u64)
            && GROUP_HEADER as u64 + u64::from(header.records_len) <= len;
        if !fits {
            return Err(FormatError::Range { structure: NAME, field: "length" });
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> JournalHeader {
        JournalHeader {
            sequence: 1,
            store_uuid: [9; 16],
            generation: 2,
            ring_bytes: RING_MIN,
            tail: 8192,
            tail_previous_crc: 77,
            durable: 4096,
        }
    }

    #[test]
    fn headers_survive_a_round_trip() {
        assert_eq!(JournalHeader::decode(&journal().encode()), Ok(journal()));
        let group = GroupHeader {
            lsn: 12288,
            len: 8192,
            records_len: 300,
            records: 2,
            previous_crc: 1,
            records_crc: 2,
            incarnation: 3,
            durable: 4096,
            generation: 2,
            store_uuid: [9; 16],
        };
        let mut bytes = [0; BLOCK];
        let crc = group.encode(&mut bytes);
        assert_eq!(GroupHeader::crc_of(&bytes), crc);
        assert_eq!(GroupHeader::decode(&bytes, &journal(), 12288), Ok(group));
        let absent = Err(FormatError::Magic { structure: "journal group" });
        assert_eq!(GroupHeader::decode(&bytes, &journal(), 16384), absent);
        let other = JournalHeader { generation: 3, ..journal() };
        assert_eq!(GroupHeader::decode(&bytes, &other, 12288), absent);
        for at in 0..GROUP_HEADER {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert!(GroupHeader::decode(&bad, &journal(), 12288).is_err(), "byte {at}");
        }
    }
}
