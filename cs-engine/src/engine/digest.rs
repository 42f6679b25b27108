//! What is on record for a range of a member, in short, so that members can be compared without their data (C7).
//!
//! A digest is a checksum over stored checksums. What members may rightly differ in has none: blocks with a write that may not be
//! stable on all of them, blocks in doubt after a crash, damaged and lost ones (C5, C8). So a write that any member has, and lists
//! no more, is on all members, and two digests of the same blocks under the same version are equal, unless something went wrong.

use std::ops::Range;
use std::rc::Rc;

use super::chunk::Chunk;
use super::recovery::ZEROES;
use super::{ACTIVE_BLOCKS, Engine, Refusal};
use crate::format::block::BlockState;
use crate::format::crc32c;

/// Most blocks that are locked together, and of one unit: 1 MiB.
pub const DIGEST_BLOCKS_MAX: u32 = 256;

/// A unit of blocks in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// CRC32C over the stored checksums of its blocks, holes as zeroes. The same on every member.
    pub sum: u32,
    /// Another one after each write to one of the blocks, and sometimes without one. Of this server only.
    pub serial: u64,
}

/// Which blocks are to be digested.
#[derive(Clone, Debug)]
pub struct DigestRequest {
    /// The file.
    pub file: u64,
    /// The chunk.
    pub chunk: u64,
    /// Its version.
    pub version: u64,
    /// The blocks.
    pub blocks: Range<u32>,
    /// How many of them go into one digest, at most [`DIGEST_BLOCKS_MAX`].
    pub unit: u32,
    /// They are read, and left out unless they match what is on record.
    pub examine: bool,
}

impl Engine {
    /// Digests of a member's blocks, unit by unit; nothing for a unit that cannot be compared, and nothing at all where no checksums
    /// are kept. Gives way to clients as the verifier does.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn digests(
        self: &Rc<Self>,
        request: &DigestRequest,
    ) -> Result<Option<Vec<Option<Digest>>>, Refusal> {
        let DigestRequest { file, chunk, version, ref blocks, unit, examine } = *request;
        self.check_running()?;
        let chunk = self.member_for(file, chunk, version)?;
        if blocks.is_empty() || blocks.end > chunk.blocks() {
            return Err(Refusal::Invalid("the range is not inside the chunk"));
        }
        if !(1..=DIGEST_BLOCKS_MAX).contains(&unit) {
            return Err(Refusal::Invalid("a unit of digests has 1 to 256 blocks"));
        }
        if !self.keeps_checksums() {
            return Ok(None);
        }
        let piece = DIGEST_BLOCKS_MAX / unit * unit;
        let mut digests = Vec::with_capacity(blocks.len().div_ceil(unit as usize));
        for start in blocks.clone().step_by(piece as usize) {
            self.calm_down().await;
            let _request = self.begin()?;
            let blocks = start..blocks.end.min(start + piece);
            let _locked = chunk.ranges.shared(u64::from(blocks.start)..u64::from(blocks.end)).await;
            // It has no epoch that could be stale.
            self.recheck(&chunk, u64::MAX, version)?;
            digests.extend(self.digest_locked(&chunk, blocks, unit, examine).await?);
        }
        Ok(Some(digests))
    }

    /// Digests of blocks whose range is locked.
    async fn digest_locked(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        blocks: Range<u32>,
        unit: u32,
        examine: bool,
    ) -> Result<Vec<Option<Digest>>, Refusal> {
        let mut conditions = Vec::new();
        if examine {
            conditions = self.examine(chunk, blocks.clone()).await?;
            for (block, condition) in blocks.clone().zip(&conditions) {
                self.note_condition(chunk.id, block, *condition);
            }
        }
        let states = self.states(chunk, blocks.clone()).await?;
        let at = |block: u32| (block - blocks.start) as usize;
        let mut words: Vec<Option<u32>> = blocks
            .clone()
            .zip(states)
            .map(|(block, (state, _))| match state {
                BlockState::Hole => Some(BlockState::of_plain(ZEROES, chunk.id, block).to_raw()),
                BlockState::Data(_) => Some(state.to_raw()),
                BlockState::Unknown | BlockState::Unchecked | BlockState::Lost => None,
            })
            .collect();
        let mut leave_out = |some: Range<u32>| {
            for block in some.start.max(blocks.start)..some.end.min(blocks.end) {
                words[at(block)] = None;
            }
        };
        for (block, condition) in blocks.clone().zip(&conditions) {
            if !condition.is_proven() {
                leave_out(block..block + 1);
            }
        }
        self.damage.blocks(chunk.id).into_keys().for_each(|block| leave_out(block..block + 1));
        self.file_state(chunk.file).for_each_unstable(chunk.id, |_, _, blocks| leave_out(blocks));
        // Content without its record may lie there.
        for (&extent, mark) in &*chunk.active.borrow() {
            if mark.suspect.is_some() {
                leave_out(extent * ACTIVE_BLOCKS..(extent + 1) * ACTIVE_BLOCKS);
            }
        }
        let written = chunk.newest(&blocks, vec![0; blocks.len()], |entry| entry.lsn);
        let units = words.chunks(unit as usize).zip(written.chunks(unit as usize));
        Ok(units
            .map(|(words, written)| {
                let words: Vec<u32> = words.iter().copied().collect::<Option<_>>()?;
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                Some(Digest { sum: crc32c(&bytes), serial: self.serial(written) })
            })
            .collect())
    }

    /// A number for what wrote these blocks last: an entry goes from the maps only by a checkpoint that began after it came.
    fn serial(&self, written: &[u64]) -> u64 {
        // FNV-1a, by words.
        let numbers = std::iter::once(self.checkpoint_serial.get()).chain(written.iter().copied());
        numbers.fold(0xcbf2_9ce4_8422_2325, |hash, number| {
            (hash ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
        })
    }

    /// Whether checksums are kept here, so that the replicas can be compared with others.
    #[must_use]
    pub fn keeps_checksums(&self) -> bool {
        !self.superblock.borrow().no_checksums
    }

    /// A comparison with other members has come to its end.
    pub(crate) fn note_compared(&self, differing_blocks: u32) {
        self.count(|counters| {
            counters.compared_chunks += 1;
            counters.differing_blocks += u64::from(differing_blocks);
        });
    }

    /// Blocks of a chunk.
    ///
    /// # Errors
    /// [`Refusal::UnknownChunk`].
    pub fn blocks_of(&self, chunk: u64) -> Result<u32, Refusal> {
        Ok(self.found(chunk)?.blocks())
    }
}
