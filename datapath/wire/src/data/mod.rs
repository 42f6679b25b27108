//! Data operations between a client and a chunk server: fixed little-endian bodies.
//!
//! Each operation has a native type whose `decode` checks everything that can be checked without
//! state: lengths, ranges, counts, flags. The layouts behind them are private; all their fields are
//! naturally placed, sizes are multiples of 8, reserved bytes are sent as zero and ignored on receipt.

mod block_status;
mod flush;
mod marks;
mod read;
mod survey;
mod write;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use block_status::{BlockStatus, BlockStatusReply, Run, RunKind};
pub use flush::{Flush, FlushReply, InstalledVersion};
pub use marks::ClearMarks;
pub use read::{Read, ReadReply};
pub use survey::{
    BlockState, BlockSurvey, EntryKind, Survey, SurveyBlocks, SurveyBlocksReply, SurveyEntry, SurveyReply,
};
pub use write::{Settle, Write, WriteKind, WriteReply};

use crate::body::BodyError;
use crate::crc;
use crate::limits::BLOCK;

/// Body flags in these bits must be understood by the receiver, which refuses the request if it does
/// not know one; flags outside may be ignored.
pub const FLAGS_MUST_UNDERSTAND: u32 = 0xffff_0000;

/// What each request about a chunk carries, so that the CS can refuse what is outdated (C2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Target {
    /// File id.
    pub file: u64,
    /// Epoch of the sender's lease on the file.
    pub epoch: u64,
    /// Chunk id.
    pub chunk: u64,
    /// Version of the chunk the sender knows.
    pub version: u64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTarget {
    file: U64,
    epoch: U64,
    chunk: U64,
    version: U64,
}

const _: () = assert!(size_of::<RawTarget>() == 32);

impl From<Target> for RawTarget {
    fn from(target: Target) -> Self {
        Self {
            file: target.file.into(),
            epoch: target.epoch.into(),
            chunk: target.chunk.into(),
            version: target.version.into(),
        }
    }
}

impl From<RawTarget> for Target {
    fn from(raw: RawTarget) -> Self {
        Self {
            file: raw.file.get(),
            epoch: raw.epoch.get(),
            chunk: raw.chunk.get(),
            version: raw.version.get(),
        }
    }
}

/// The list of CRC32C behind a body, one per block the range touches, where it was received.
///
/// On the wire a CRC is plain: of just the bytes present, which for the first and last part may be
/// less than a block (C8).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Crcs<'a>(&'a [U32]);

impl<'a> Crcs<'a> {
    /// How many.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none: zeroes, or a discard.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The CRCs in the order of the blocks; pass it to [`crc::verify_blocks`].
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.0.iter().map(|crc| crc.get())
    }

    /// The CRC of one part.
    pub fn get(&self, part: usize) -> Option<u32> {
        self.0.get(part).map(|crc| crc.get())
    }
}

impl std::fmt::Debug for Crcs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(|crc| format!("{crc:#010x}"))).finish()
    }
}

/// How many CRCs a range of bytes needs.
fn parts_of(offset: u32, len: u32) -> u32 {
    // At most 2^20 + 1: both are below 2^32.
    crc::parts(offset.into(), len.into()) as u32
}

/// Refuses a range that is empty, or whose end is no `u32`.
fn check_range(offset: u32, len: u32) -> Result<(), BodyError> {
    if len == 0 || offset.checked_add(len).is_none() {
        return Err(BodyError::Range { offset, len });
    }
    Ok(())
}

/// Refuses a range of bytes that does not consist of whole blocks.
fn check_blocks(offset: u32, len: u32) -> Result<(), BodyError> {
    check_range(offset, len)?;
    if !offset.is_multiple_of(BLOCK) || !len.is_multiple_of(BLOCK) {
        return Err(BodyError::Unaligned { offset, len });
    }
    Ok(())
}

/// Refuses flags that must be understood and are not.
fn check_flags(flags: u32, known: u32) -> Result<(), BodyError> {
    match flags & FLAGS_MUST_UNDERSTAND & !known {
        0 => Ok(()),
        unknown => Err(BodyError::Flags { unknown }),
    }
}

/// Refuses watermarks that contradict each other: stable on all members implies answered (C5, C11).
fn check_watermarks(stable: u64, done: u64) -> Result<(), BodyError> {
    if stable > done {
        return Err(BodyError::Contradiction { rule: "stable <= done" });
    }
    Ok(())
}

/// Refuses a count beyond what one message may hold.
fn check_count(count: u32, max: u32) -> Result<(), BodyError> {
    if count > max {
        return Err(BodyError::TooMany { count: count.into(), max: max.into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
