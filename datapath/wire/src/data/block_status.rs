//! BLOCK_STATUS.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::read::RawRange;
use super::{Target, check_blocks, check_count, check_flags};
use crate::body::{BodyError, exact, fixed, list, put};
use crate::limits::{BLOCK, MAX_RUNS};

/// BLOCK_STATUS request: which blocks of a range are holes?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockStatus {
    /// The chunk, and what the sender knows of it.
    pub target: Target,
    /// First byte within the chunk, a multiple of [`BLOCK`].
    pub offset: u32,
    /// Length in bytes, a positive multiple of [`BLOCK`].
    pub len: u32,
}

impl BlockStatus {
    /// Appends the body to `out`.
    ///
    /// # Panics
    /// When the range is empty or unaligned: the peer would refuse it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if let Err(error) = check_blocks(self.offset, self.len) {
            panic!("{self:?} cannot be sent: {error}");
        }
        let raw = RawRange {
            target: self.target.into(),
            offset: self.offset.into(),
            len: self.len.into(),
            flags: U32::ZERO,
            reserved: U32::ZERO,
        };
        put(&raw, out);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// A range that is empty or unaligned, unknown flags, and a body of the wrong length.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let raw = exact::<RawRange>(body)?;
        check_flags(raw.flags.get(), 0)?;
        let status = Self { target: raw.target.into(), offset: raw.offset.get(), len: raw.len.get() };
        check_blocks(status.offset, status.len)?;
        Ok(status)
    }
}

/// What a run of blocks holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RunKind {
    /// Space is allocated.
    Data = 0,
    /// No space is allocated; reads as zeroes.
    Hole = 1,
}

impl RunKind {
    fn from_code(code: u8) -> Result<Self, BodyError> {
        match code {
            0 => Ok(Self::Data),
            1 => Ok(Self::Hole),
            found => Err(BodyError::Value { field: "kind", found }),
        }
    }
}

/// Adjacent blocks of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// How many blocks, at least 1.
    pub blocks: u32,
    /// What they hold.
    pub kind: RunKind,
}

/// BLOCK_STATUS reply: runs from the start of the range.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlockStatusReply {
    /// First byte, as in the request.
    pub offset: u32,
    /// The runs, at most [`MAX_RUNS`]. They cover at least one block and may end before the range does: the
    /// caller asks again for the rest.
    pub runs: Vec<Run>,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawReply {
    offset: U32,
    len: U32,
    run_count: U32,
    reserved: U32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRun {
    blocks: U32,
    kind: u8,
    reserved: [u8; 3],
}

const _: () = {
    assert!(size_of::<RawReply>() == 16);
    assert!(size_of::<RawRun>() == 8);
};

impl BlockStatusReply {
    /// Bytes the runs cover.
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.blocks) * u64::from(BLOCK)).sum()
    }

    /// Whether the runs cover nothing. Such a reply is never sent.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    fn check(&self) -> Result<u32, BodyError> {
        check_count(self.runs.len() as u32, MAX_RUNS)?;
        if self.runs.iter().any(|run| run.blocks == 0) {
            return Err(BodyError::Contradiction { rule: "a run has at least one block" });
        }
        let len = u32::try_from(self.len())
            .map_err(|_| BodyError::Contradiction { rule: "the runs end within the chunk" })?;
        check_blocks(self.offset, len)?;
        Ok(len)
    }

    /// Appends the body to `out`.
    ///
    /// # Panics
    /// When there are no runs, or the peer would refuse them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let len = match self.check() {
            Ok(len) => len,
            Err(error) => panic!("block status at {} cannot be sent: {error}", self.offset),
        };
        let raw = RawReply {
            offset: self.offset.into(),
            len: len.into(),
            run_count: (self.runs.len() as u32).into(),
            reserved: U32::ZERO,
        };
        put(&raw, out);
        for run in &self.runs {
            put(&RawRun { blocks: run.blocks.into(), kind: run.kind as u8, reserved: [0; 3] }, out);
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Runs that do not add up, unknown kinds, and a body of the wrong length.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let (raw, rest) = fixed::<RawReply>(body)?;
        check_count(raw.run_count.get(), MAX_RUNS)?;
        let runs = list::<RawRun>(rest, raw.run_count.get() as usize)?
            .iter()
            .map(|run| Ok(Run { blocks: run.blocks.get(), kind: RunKind::from_code(run.kind)? }))
            .collect::<Result<_, BodyError>>()?;
        let reply = Self { offset: raw.offset.get(), runs };
        if reply.check()? != raw.len.get() {
            return Err(BodyError::Contradiction { rule: "the runs add up to the length" });
        }
        Ok(reply)
    }
}
