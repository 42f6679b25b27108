//! SURVEY and SURVEY_BLOCKS: what the reconciler asks each member (C5).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{RawTarget, Target, check_count, check_flags, check_range};
use crate::body::{BodyError, exact, fixed, list, put};
use crate::limits::{MAX_SURVEY_BLOCKS, MAX_SURVEY_ENTRIES};

/// SURVEY request: the active marks of a chunk and the writes not known stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Survey {
    /// The chunk, and what the sender knows of it. The epoch is the reconciler's own, so that nothing
    /// changes the chunk while it asks.
    pub target: Target,
    /// Entries the sender already has. A survey is continued only on the connection it began on.
    pub skip: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSurvey {
    target: RawTarget,
    skip: U32,
    flags: U32,
    reserved: U64,
}

const _: () = assert!(size_of::<RawSurvey>() == 48);

impl Survey {
    /// Appends the body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let raw = RawSurvey {
            target: self.target.into(),
            skip: self.skip.into(),
            flags: U32::ZERO,
            reserved: U64::ZERO,
        };
        put(&raw, out);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Unknown flags, and a body of the wrong length.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let raw = exact::<RawSurvey>(body)?;
        check_flags(raw.flags.get(), 0)?;
        Ok(Self { target: raw.target.into(), skip: raw.skip.get() })
    }
}

/// What an entry of a survey is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// An active mark without a listed write: the extent may differ between members.
    Mark = 0,
    /// A write that is not known to be stable.
    Write = 1,
}

impl EntryKind {
    fn from_code(code: u8) -> Result<Self, BodyError> {
        match code {
            0 => Ok(Self::Mark),
            1 => Ok(Self::Write),
            found => Err(BodyError::Value { field: "kind", found }),
        }
    }
}

/// A range that members may hold differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SurveyEntry {
    /// First block of the range within the chunk.
    pub first_block: u32,
    /// Blocks in the range, at least 1.
    pub blocks: u32,
    /// Mark or write.
    pub kind: EntryKind,
    /// Epoch of the write; 0 for a mark.
    pub epoch: u64,
    /// Sequence number of the write; 0 for a mark.
    pub seq: u64,
}

/// SURVEY reply: a page of entries, ascending by (first block, epoch, seq).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SurveyReply {
    /// Entries in all; the caller has them all when `skip` of its request plus those here are as many.
    pub total: u32,
    /// Blocks that one active mark covers on this CS.
    pub mark_blocks: u32,
    /// The page, at most [`MAX_SURVEY_ENTRIES`].
    pub entries: Vec<SurveyEntry>,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSurveyReply {
    total: U32,
    mark_blocks: U32,
    entry_count: U32,
    flags: U32,
    reserved: [u8; 16],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    first_block: U32,
    blocks: U32,
    epoch: U64,
    seq: U64,
    kind: u8,
    reserved: [u8; 7],
}

const _: () = {
    assert!(size_of::<RawSurveyReply>() == 32);
    assert!(size_of::<RawEntry>() == 32);
};

impl SurveyReply {
    fn check(&self) -> Result<(), BodyError> {
        check_count(self.entries.len() as u32, MAX_SURVEY_ENTRIES)?;
        if self.entries.len() as u64 > self.total.into() {
            return Err(BodyError::Contradiction { rule: "a page has at most all entries" });
        }
        if self.mark_blocks == 0 {
            return Err(BodyError::Contradiction { rule: "a mark covers at least one block" });
        }
        for entry in &self.entries {
            check_range(entry.first_block, entry.blocks)?;
            if entry.kind == EntryKind::Mark && (entry.epoch, entry.seq) != (0, 0) {
                return Err(BodyError::Contradiction { rule: "a mark has no epoch and seq" });
            }
        }
        if !self.entries.is_sorted_by_key(|entry| (entry.first_block, entry.epoch, entry.seq)) {
            return Err(BodyError::Contradiction { rule: "entries ascend" });
        }
        Ok(())
    }

    /// Appends the body to `out`.
    ///
    /// # Panics
    /// When the entries are out of order or otherwise such that the peer would refuse them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if let Err(error) = self.check() {
            panic!("survey of {} entries cannot be sent: {error}", self.total);
        }
        let raw = RawSurveyReply {
            total: self.total.into(),
            mark_blocks: self.mark_blocks.into(),
            entry_count: (self.entries.len() as u32).into(),
            flags: U32::ZERO,
            reserved: [0; 16],
        };
        put(&raw, out);
        for entry in &self.entries {
            let raw = RawEntry {
                first_block: entry.first_block.into(),
                blocks: entry.blocks.into(),
                epoch: entry.epoch.into(),
                seq: entry.seq.into(),
                kind: entry.kind as u8,
                reserved: [0; 7],
            };
            put(&raw, out);
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Entries that are out of order, empty or of an unknown kind, and a body of the wrong length.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let (raw, rest) = fixed::<RawSurveyReply>(body)?;
        check_flags(raw.flags.get(), 0)?;
        check_count(raw.entry_count.get(), MAX_SURVEY_ENTRIES)?;
        let entries = list::<RawEntry>(rest, raw.entry_count.get() as usize)?
            .iter()
            .map(|entry| {
                Ok(SurveyEntry {
                    first_block: entry.first_block.get(),
                    blocks: entry.blocks.get(),
                    kind: EntryKind::from_code(entry.kind)?,
                    epoch: entry.epoch.get(),
                    seq: entry.seq.get(),
                })
            })
            .collect::<Result<_, BodyError>>()?;
        let reply = Self { total: raw.total.get(), mark_blocks: raw.mark_blocks.get(), entries };
        reply.check()?;
        Ok(reply)
    }
}

/// SURVEY_BLOCKS request: the last write of each block and whether the data matches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SurveyBlocks {
    /// The chunk, and what the sender knows of it.
    pub target: Target,
    /// First block within the chunk.
    pub first_block: u32,
    /// How many blocks, 1 to [`MAX_SURVEY_BLOCKS`].
    pub count: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSurveyBlocks {
    target: RawTarget,
    first_block: U32,
    count: U32,
    flags: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<RawSurveyBlocks>() == 48);

fn check_survey_blocks(first_block: u32, count: u32) -> Result<(), BodyError> {
    check_range(first_block, count)?;
    check_count(count, MAX_SURVEY_BLOCKS)
}

impl SurveyBlocks {
    /// Appends the body to `out`.
    ///
    /// # Panics
    /// When the range is empty or too long: the peer would refuse it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if let Err(error) = check_survey_blocks(self.first_block, self.count) {
            panic!("{self:?} cannot be sent: {error}");
        }
        let raw = RawSurveyBlocks {
            target: self.target.into(),
            first_block: self.first_block.into(),
            count: self.count.into(),
            flags: U32::ZERO,
            reserved: U32::ZERO,
        };
        put(&raw, out);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// A range that is empty or too long, unknown flags, and a body of the wrong length.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let raw = exact::<RawSurveyBlocks>(body)?;
        check_flags(raw.flags.get(), 0)?;
        check_survey_blocks(raw.first_block.get(), raw.count.get())?;
        Ok(Self { target: raw.target.into(), first_block: raw.first_block.get(), count: raw.count.get() })
    }
}

/// Whether a block's data is what its last record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BlockState {
    /// The data matches a recorded CRC: that of (epoch, seq).
    Match = 0,
    /// The block reads as zeroes by its record.
    Zero = 1,
    /// The data matches no record: torn, or of a write whose record is lost.
    Unmatched = 2,
}

impl BlockState {
    fn from_code(code: u8) -> Result<Self, BodyError> {
        match code {
            0 => Ok(Self::Match),
            1 => Ok(Self::Zero),
            2 => Ok(Self::Unmatched),
            found => Err(BodyError::Value { field: "state", found }),
        }
    }
}

/// What a member holds in one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockSurvey {
    /// Epoch of the write that the data matches, or with [`BlockState::Unmatched`] of the last one that was taken; 0 when that was stable
    /// long ago.
    pub epoch: u64,
    /// Sequence number of that write.
    pub seq: u64,
    /// Plain CRC32C of the 4096 bytes held, so that copies can be compared without moving them; 0 for
    /// [`BlockState::Zero`].
    pub crc: u32,
    /// Whether the data matches its record.
    pub state: BlockState,
}

/// SURVEY_BLOCKS reply: as many blocks as were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SurveyBlocksReply {
    /// First block, as in the request.
    pub first_block: u32,
    /// One entry per block.
    pub blocks: Vec<BlockSurvey>,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBlocksReply {
    first_block: U32,
    count: U32,
    flags: U32,
    reserved: U32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBlock {
    epoch: U64,
    seq: U64,
    crc: U32,
    state: u8,
    reserved: [u8; 3],
}

const _: () = {
    assert!(size_of::<RawBlocksReply>() == 16);
    assert!(size_of::<RawBlock>() == 24);
};

impl SurveyBlocksReply {
    /// Whether this is the range that was asked for.
    pub fn answers(&self, request: &SurveyBlocks) -> bool {
        self.first_block == request.first_block && self.blocks.len() as u64 == request.count.into()
    }

    /// Appends the body to `out`.
    ///
    /// # Panics
    /// When the range is one that cannot have been asked for.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if let Err(error) = check_survey_blocks(self.first_block, self.blocks.len() as u32) {
            panic!("survey of {} blocks cannot be sent: {error}", self.blocks.len());
        }
        let raw = RawBlocksReply {
            first_block: self.first_block.into(),
            count: (self.blocks.len() as u32).into(),
            flags: U32::ZERO,
            reserved: U32::ZERO,
        };
        out.reserve(size_of::<RawBlocksReply>() + self.blocks.len() * size_of::<RawBlock>());
        put(&raw, out);
        for block in &self.blocks {
            let raw = RawBlock {
                epoch: block.epoch.into(),
                seq: block.seq.into(),
                crc: block.crc.into(),
                state: block.state as u8,
                reserved: [0; 3],
            };
            put(&raw, out);
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// A range that cannot have been asked for, unknown states, and a body of the wrong length.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let (raw, rest) = fixed::<RawBlocksReply>(body)?;
        check_flags(raw.flags.get(), 0)?;
        check_survey_blocks(raw.first_block.get(), raw.count.get())?;
        let blocks = list::<RawBlock>(rest, raw.count.get() as usize)?
            .iter()
            .map(|block| {
                Ok(BlockSurvey {
                    epoch: block.epoch.get(),
                    seq: block.seq.get(),
                    crc: block.crc.get(),
                    state: BlockState::from_code(block.state)?,
                })
            })
            .collect::<Result<_, BodyError>>()?;
        Ok(Self { first_block: raw.first_block.get(), blocks })
    }
}
