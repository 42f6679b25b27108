//! Repairing damaged blocks from another member (C8).
//!
//! A block is repaired under its lock, and only if it is damaged then: a client may have written over it. What another member
//! sends has been verified by both, and must match what is recorded here: a member may have an older content, because
//! a write has not reached it yet, or a newer one, which would be listed there and not here (C5). Where the record is what is
//! damaged, or there is none (`-S`), the block stays as it is, and the replica must be filled anew.

use std::ops::Range;
use std::rc::Rc;

use rt::buf::Buf;

use super::chunk::Chunk;
use super::fill::{Piece, Source};
use super::{Engine, Refusal};
use crate::format::block::BlockState;
use crate::format::{BLOCK, crc32c};

/// Most blocks that are looked at, and fetched, together.
const LOCKED_MAX: u32 = 256;

impl Engine {
    /// Repairs damaged blocks of a member from another one. Gives how many of them are still damaged.
    ///
    /// # Errors
    /// [`Refusal::StaleVersion`] when the replica has another version; [`Refusal`].
    pub async fn repair_blocks(
        self: &Rc<Self>,
        file: u64,
        chunk: u64,
        version: u64,
        blocks: Range<u32>,
        source: &dyn Source,
    ) -> Result<u32, Refusal> {
        let _request = self.begin()?;
        let chunk = self.member_for(file, chunk, version)?;
        if blocks.is_empty() || blocks.end > chunk.blocks() {
            return Err(Refusal::Invalid("the range is not inside the chunk"));
        }
        let mut left = 0;
        for start in blocks.clone().step_by(LOCKED_MAX as usize) {
            let piece = start..blocks.end.min(start + LOCKED_MAX);
            let damaged = {
                let _locked = chunk.ranges.shared(u64::from(piece.start)..u64::from(piece.end)).await;
                // The repair has no epoch that could be stale.
                self.recheck(&chunk, u64::MAX, version)?;
                self.to_repair(&chunk, piece).await?
            };
            for run in damaged.chunk_by(|a, b| a + 1 == *b) {
                left += self.repair_run(&chunk, version, run[0]..run[0] + run.len() as u32, source).await?;
            }
        }
        Ok(left)
    }

    /// Those of a locked range that are damaged now.
    async fn damaged(self: &Rc<Self>, chunk: &Rc<Chunk>, blocks: Range<u32>) -> Result<Vec<u32>, Refusal> {
        let conditions = self.examine(chunk, blocks.clone()).await?;
        let damaged = blocks
            .zip(conditions)
            .filter(|&(block, condition)| self.note_condition(chunk.id, block, condition));
        Ok(damaged.map(|(block, _)| block).collect())
    }

    async fn to_repair(self: &Rc<Self>, chunk: &Rc<Chunk>, blocks: Range<u32>) -> Result<Vec<u32>, Refusal> {
        if rt::sim::planted("repair-unchecked") {
            return Ok(blocks.collect());
        }
        self.damaged(chunk, blocks).await
    }

    /// Gives how many blocks are damaged in the end.
    async fn repair_run(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        version: u64,
        blocks: Range<u32>,
        source: &dyn Source,
    ) -> Result<u32, Refusal> {
        let (offset, len) = (blocks.start * BLOCK as u32, blocks.len() as u32 * BLOCK as u32);
        // Without the lock: whether it is what was lost shows under it, and clients do not wait for another server.
        let reply = match rt::first(source.read(offset, len), self.superseded(chunk)).await {
            // Nobody has anything better; it may be another time.
            rt::First::Left(reply) => reply.ok(),
            rt::First::Right(()) if self.stopping.get() => return Err(Refusal::Stopping),
            rt::First::Right(()) => return Err(Refusal::StaleVersion { have: version, wanted: version }),
        };
        let _locked = chunk.ranges.exclusive(u64::from(blocks.start)..u64::from(blocks.end)).await;
        self.recheck(chunk, u64::MAX, version)?;
        let damaged = self.to_repair(chunk, blocks.clone()).await?;
        let Some(reply) = reply else { return Ok(damaged.len() as u32) };
        for &block in &damaged {
            let at = (block - blocks.start) as usize * BLOCK;
            let payload = match &reply.payload {
                Some(payload) => payload.slice(at..at + BLOCK),
                None => Buf::zeroed(BLOCK).freeze(),
            };
            let plain = crc32c(&payload);
            if self.was_lost(chunk, block, plain).await? {
                let piece = Piece { blocks: block..block + 1, content: Some((payload, vec![plain])) };
                self.write_copied(chunk, version, piece).await?;
                rt::sim::hit("engine.block-repaired");
                tracing::warn!("chunk {:#x}, block {block}: repaired from another member", chunk.id);
            }
        }
        let left = self.damaged(chunk, blocks).await?.len();
        self.count(|counters| counters.repaired_blocks += damaged.len().saturating_sub(left) as u64);
        Ok(left as u32)
    }

    /// Whether content with this plain checksum is what is recorded of a block here.
    async fn was_lost(self: &Rc<Self>, chunk: &Rc<Chunk>, block: u32, plain: u32) -> Result<bool, Refusal> {
        if rt::sim::planted("repair-unchecked") {
            return Ok(true);
        }
        match self.states(chunk, block..block + 1).await {
            Ok(states) => {
                Ok(matches!(states[0].0, BlockState::Data(stored) if stored.matches(plain, chunk.id, block)))
            }
            Err(Refusal::Corrupt { .. }) => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }
}
