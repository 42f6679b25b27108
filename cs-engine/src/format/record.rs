//! One record of the journal.
//!
//! A record says what a block range of a chunk became, or changes what the server must remember about a file. Its
//! payload, if any, lies behind all records of its group, block-aligned. What a record lists lies in its *words*,
//! behind its fixed part.

use super::block::BlockState;
use super::journal::GROUP_MAX;
use super::{CHUNK_BLOCKS_MAX, Decoder, Encoder, FormatError, crc32c};

/// Bytes before the words.
pub const FIXED: usize = 128;
/// Most blocks one record covers, and most words it has.
pub const BLOCKS_MAX: u32 = CHUNK_BLOCKS_MAX;

const NAME: &str = "journal record";
const CRC_AT: usize = FIXED - 4;
const FLAG_PART: u8 = 1;
const FLAG_COPIED: u8 = 2;

/// In [`RecordKind::Install`]: the replica is a joiner.
pub const INSTALL_JOINER: u32 = 1;
/// In [`RecordKind::Install`]: it keeps a map of changes.
pub const INSTALL_KEEPS: u32 = 2;
/// In [`RecordKind::Install`]: it joins here, and what was listed and marked of the chunk before is void.
pub const INSTALL_JOINS: u32 = 4;
/// Words of each map of an [`RecordKind::Install`]: a bit for each region of 64 KiB.
pub const MAP_WORDS: u32 = CHUNK_BLOCKS_MAX / 16 / 32;

/// What a record means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// Blocks with their new content as payload: redone from here. Words: one stored checksum per block.
    Data = 1,
    /// Blocks written in place beside this record: the file holds the old or the new content. Words as in `Data`.
    InPlace = 2,
    /// Blocks that read as zero from now on.
    Zero = 3,
    /// Extents of a chunk that in-place writes may touch from the moment this record is durable (C5). Words: a bit for
    /// each extent, in two words.
    Mark = 4,
    /// Fences: lower epochs are refused (C2). Words: (file, epoch), two words each.
    Fence = 5,
    /// Writes of a file already done (C11). Words: sequence numbers, as differences to `done`.
    Outcomes = 6,
    /// Writes of a file in an epoch that are not yet stable (C5). Words: (chunk in two words, sequence number as
    /// difference to `seq`, first block, blocks).
    Unstable = 7,
    /// The members of a chunk agree again: marks and unstable writes of epochs up to this one are void (C5).
    Clear = 8,
    /// What was a write of a part of a block, as the difference to the old content. Reserved.
    Delta = 9,
    /// Writers' sessions. Words: (file, epoch, done), two words each.
    Sessions = 10,
    /// The server was stopped in order: no write was under way.
    Stopped = 11,
    /// A replica has another version, and what it is under it (C6, C7). Words: pairs of a position and 32 bits there,
    /// ascending; first the map of changed regions, then that of missing ones.
    Install = 12,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Data,
        Self::InPlace,
        Self::Zero,
        Self::Mark,
        Self::Fence,
        Self::Outcomes,
        Self::Unstable,
        Self::Clear,
        Self::Delta,
        Self::Sessions,
        Self::Stopped,
        Self::Install,
    ];

    fn from_raw(raw: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == raw)
    }

    /// Words of one entry of the record's list.
    #[must_use]
    pub const fn entry_words(self) -> usize {
        match self {
            Self::Data | Self::InPlace | Self::Outcomes => 1,
            Self::Mark | Self::Install => 2,
            Self::Unstable => 5,
            Self::Fence => 4,
            Self::Sessions => 6,
            Self::Zero | Self::Clear | Self::Delta | Self::Stopped => 0,
        }
    }

    /// Whether it says what blocks became.
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Data | Self::InPlace | Self::Zero)
    }
}

/// A record; which fields count depends on its kind, the others are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it means.
    pub kind: RecordKind,
    /// A part of a write that took several records: that the write is done is told by a later record of outcomes.
    pub part: bool,
    /// Content that a joiner has copied from a member: of no write of its own (C7).
    pub copied: bool,
    /// The chunk.
    pub chunk: u64,
    /// Version of the replica the write was for; of [`RecordKind::Install`]: the one it has from here on.
    pub version: u64,
    /// The file.
    pub file: u64,
    /// Lease epoch of the write; of [`RecordKind::Clear`]: the last one that is void.
    pub epoch: u64,
    /// Sequence number of the write in its epoch; of [`RecordKind::Unstable`]: what the list's numbers add to;
    /// of [`RecordKind::Install`]: the map names what changed in versions above this one.
    pub seq: u64,
    /// All lower sequence numbers have been answered (C11); of [`RecordKind::Install`]: what is not missing is as of this
    /// version.
    pub done: u64,
    /// All lower sequence numbers are stable on all members (C5); of [`RecordKind::Install`]: counts how often the map of
    /// what is missing was made anew under the version.
    pub stable: u64,
    /// Reserved for erasure coding.
    pub stripe_version: u64,
    /// First block; of [`RecordKind::Install`]: flags.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Where the payload lies, in blocks from the start of the group; 0 for none.
    pub payload: u32,
    /// The list of the record, see [`RecordKind`].
    pub words: Vec<u32>,
}

impl Record {
    /// A record with every field zero.
    #[must_use]
    pub fn new(kind: RecordKind) -> Self {
        Self {
            kind,
            part: false,
            copied: false,
            chunk: 0,
            version: 0,
            file: 0,
            epoch: 0,
            seq: 0,
            done: 0,
            stable: 0,
            stripe_version: 0,
            first: 0,
            count: 0,
            payload: 0,
            words: Vec::new(),
        }
    }

    /// Bytes of the encoded record, without its payload.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        FIXED + self.words.len() * 4
    }

    /// Blocks of payload the record brings along.
    #[must_use]
    pub fn payload_blocks(&self) -> u32 {
        if self.kind == RecordKind::Data { self.count } else { 0 }
    }

    /// The stored checksum of the `index`th block.
    #[must_use]
    pub fn state(&self, index: u32) -> BlockState {
        match self.kind {
            RecordKind::Zero => BlockState::Hole,
            _ => BlockState::from_raw(self.words[index as usize]),
        }
    }

    /// Adds a number to the list as two words.
    pub fn push_u64(&mut self, value: u64) {
        self.words.extend([value as u32, (value >> 32) as u32]);
    }

    /// The entries of the list.
    pub fn entries(&self) -> impl Iterator<Item = &[u32]> {
        self.words.chunks_exact(self.kind.entry_words().max(1))
    }

    /// Writes the record into `bytes`, which has exactly its length.
    ///
    /// # Panics
    /// When it has not, or when there are 2^32 words.
    pub fn encode(&self, lsn: u64, bytes: &mut [u8]) {
        let words = u32::try_from(self.words.len()).expect("at most one word per block");
        let (fixed, list) = bytes.split_at_mut(FIXED);
        let mut encoder = Encoder::new(fixed);
        let flags = (u8::from(self.part) * FLAG_PART) | (u8::from(self.copied) * FLAG_COPIED);
        encoder.u8(self.kind as u8).u8(flags);
        encoder.u16(FIXED as u16).u32(0).u64(lsn);
        encoder.u64(self.chunk).u64(self.version).u64(self.file).u64(self.epoch).u64(self.seq);
        encoder.u64(self.done).u64(self.stable).u64(self.stripe_version);
        encoder.u32(self.first).u32(self.count).u32(self.payload).u32(words);
        for (slot, word) in list.chunks_exact_mut(4).zip(&self.words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let crc = Self::crc(bytes);
        bytes[CRC_AT..FIXED].copy_from_slice(&crc.to_le_bytes());
    }

    /// Of both parts; the rotation keeps a record whose list is empty apart from one with a list of zero CRC.
    fn crc(bytes: &[u8]) -> u32 {
        crc32c(&bytes[..CRC_AT]) ^ crc32c(&bytes[FIXED..]).rotate_left(1)
    }

    /// Checks and reads the record at the start of `bytes`; gives it with its length.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(bytes: &[u8], lsn: u64) -> Result<(Self, usize), FormatError> {
        const CHECKSUM: FormatError = FormatError::Checksum { structure: NAME };
        if bytes.len() < FIXED {
            return Err(CHECKSUM);
        }
        let mut decoder = Decoder::new(bytes);
        let (kind, flags, fixed, features, stored_lsn) =
            (decoder.u8(), decoder.u8(), decoder.u16(), decoder.u32(), decoder.u64());
        let (chunk, version, file, epoch, seq) =
            (decoder.u64(), decoder.u64(), decoder.u64(), decoder.u64(), decoder.u64());
        let (done, stable, stripe_version) = (decoder.u64(), decoder.u64(), decoder.u64());
        let (first, count, payload, words) = (decoder.u32(), decoder.u32(), decoder.u32(), decoder.u32());
        let len = FIXED + words as usize * 4;
        if words > BLOCKS_MAX || bytes.len() < len {
            return Err(CHECKSUM);
        }
        let stored =
            u32::from_le_bytes([bytes[CRC_AT], bytes[CRC_AT + 1], bytes[CRC_AT + 2], bytes[CRC_AT + 3]]);
        if Self::crc(&bytes[..len]) != stored || stored_lsn != lsn || usize::from(fixed) != FIXED {
            return Err(CHECKSUM);
        }
        let unknown = features | u32::from(flags & !(FLAG_PART | FLAG_COPIED)) << 24;
        if unknown != 0 {
            return Err(FormatError::Features { structure: NAME, features: unknown });
        }
        let Some(kind) = RecordKind::from_raw(kind) else {
            return Err(FormatError::Features { structure: NAME, features: u32::from(kind) });
        };
        let words =
            bytes[FIXED..len].as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let record = Self {
            kind,
            part: flags & FLAG_PART != 0,
            copied: flags & FLAG_COPIED != 0,
            chunk,
            version,
            file,
            epoch,
            seq,
            done,
            stable,
            stripe_version,
            first,
            count,
            payload,
            words,
        };
        record.check()?;
        Ok((record, len))
    }

    /// What holds for every record of its kind.
    fn check(&self) -> Result<(), FormatError> {
        let inside =
            |first: u32, count: u32| first.checked_add(count).is_some_and(|end| end <= CHUNK_BLOCKS_MAX);
        let listed = match self.kind.entry_words() {
            0 => self.words.is_empty(),
            1 if self.kind.is_write() => self.words.len() == self.count as usize,
            2 if self.kind == RecordKind::Mark => self.words.len() == 2,
            2 => self.words.len().is_multiple_of(2) && self.entries().is_sorted_by(|a, b| a[0] < b[0]),
            words => self.words.len().is_multiple_of(words),
        };
        let ranges = match self.kind {
            RecordKind::Unstable => self.entries().all(|entry| inside(entry[3], entry[4])),
            RecordKind::Install => {
                let known = INSTALL_JOINER | INSTALL_KEEPS | INSTALL_JOINS;
                self.first & !known == 0 && self.entries().all(|entry| entry[0] < 2 * MAP_WORDS)
            }
            _ => inside(self.first, self.count),
        };
        if self.payload as usize * super::BLOCK > GROUP_MAX {
            return Err(FormatError::Range { structure: NAME, field: "payload" });
        }
        match (listed, ranges) {
            (false, _) => Err(FormatError::Range { structure: NAME, field: "list" }),
            (_, false) => Err(FormatError::Range { structure: NAME, field: "block range" }),
            _ => Ok(()),
        }
    }
}

/// A number of two words of a list.
#[must_use]
pub fn u64_of(words: &[u32]) -> u64 {
    u64::from(words[0]) | u64::from(words[1]) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        Record {
            chunk: 7,
            version: 1,
            file: 3,
            epoch: 4,
            seq: 99,
            done: 90,
            stable: 80,
            first: 16,
            count: 3,
            payload: 1,
            words: vec![11, 22, 33],
            ..Record::new(RecordKind::Data)
        }
    }

    fn encoded(record: &Record) -> Vec<u8> {
        let mut bytes = vec![0; record.encoded_len()];
        record.encode(4096, &mut bytes);
        bytes
    }

    #[test]
    fn survives_a_round_trip_and_notices_damage() {
        let record = sample();
        let bytes = encoded(&record);
        assert_eq!(Record::decode(&bytes, 4096), Ok((record, bytes.len())));
        assert!(Record::decode(&bytes, 8192).is_err(), "a record of another group");
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            assert!(Record::decode(&bad, 4096).is_err(), "byte {at}");
        }
        for len in 0..bytes.len() {
            assert!(Record::decode(&bytes[..len], 4096).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn lists_must_fit_their_kind() {
        let list = |kind, words: &[u32]| Record { words: words.to_vec(), ..Record::new(kind) };
        let range = |field| Err(FormatError::Range { structure: NAME, field });
        for (record, expected) in [
            (list(RecordKind::Fence, &[1, 0, 2, 0]), Ok(())),
            (list(RecordKind::Fence, &[1, 0, 2]), range("list")),
            (list(RecordKind::Sessions, &[1, 0, 2, 0, 3, 0]), Ok(())),
            (list(RecordKind::Stopped, &[1]), range("list")),
            (list(RecordKind::Data, &[1]), range("list")),
            (list(RecordKind::Unstable, &[1, 0, 0, 5, 1]), Ok(())),
            (list(RecordKind::Unstable, &[1, 0, 0, CHUNK_BLOCKS_MAX, 1]), range("block range")),
            (list(RecordKind::Mark, &[1, 0]), Ok(())),
            (list(RecordKind::Mark, &[1, 0, 0, 0]), range("list")),
            (list(RecordKind::Install, &[]), Ok(())),
            (list(RecordKind::Install, &[0, 5, 63, 9]), Ok(())),
            (list(RecordKind::Install, &[0, 5, 63]), range("list")),
            (list(RecordKind::Install, &[3, 5, 3, 9]), range("list")),
            (list(RecordKind::Install, &[64, 9]), range("block range")),
            (Record { first: 8, ..Record::new(RecordKind::Install) }, range("block range")),
            (Record { first: 16_384, count: 1, ..Record::new(RecordKind::Zero) }, range("block range")),
            (Record { payload: 513, ..Record::new(RecordKind::Data) }, range("payload")),
        ] {
            let decoded =
                Record::decode(&encoded(&record), 4096).map(|(decoded, _)| assert_eq!(decoded, record));
            assert_eq!(decoded, expected, "{record:?}");
        }
    }

    #[test]
    fn long_numbers_take_two_words() {
        let mut record = Record::new(RecordKind::Fence);
        record.push_u64(0x0123_4567_89AB_CDEF);
        assert_eq!(u64_of(&record.words), 0x0123_4567_89AB_CDEF);
    }

    #[test]
    fn kinds_keep_their_numbers() {
        for (kind, number) in RecordKind::ALL.into_iter().zip(1..) {
            assert_eq!((kind as u8, RecordKind::from_raw(number)), (number, Some(kind)));
        }
    }
}
