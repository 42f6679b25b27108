//! Repairing damaged blocks from another member (C8).
//!
//! A block is repaired under its lock, and only if it is damaged then: a client may have written over it. What another member
//! sends has been verified by both.
//!
//! Where a checksum is recorded here, what comes must match it: a member may have an older content, because a write has not
//! reached it yet, or a newer one, which would be listed there and not here (C5). Where the record is what is damaged, or there
//! is none (`-S`), the content must be settled instead: neither side lists a write there, first this one, then, after it has
//! sent it, the other one. Then every write that may be in it is stable or here, and every write that was here is in it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use rt::buf::Buf;

use super::chunk::Chunk;
use super::fill::{Fault, Listed, Piece, Source, pieces};
use super::read::ReadReply;
use super::regions::REGION_BLOCKS;
use super::{Engine, Refusal};
use crate::format::block::BlockState;
use crate::format::{BLOCK, crc32c};

/// Most blocks that are looked at, and fetched, together.
const LOCKED_MAX: u32 = 256;

/// What a damaged block can be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The checksum that is recorded here.
    Recorded,
    /// Nothing.
    Unrecorded,
}

/// What became of a run of damaged blocks.
enum Outcome {
    /// So many are still damaged.
    Left(u32),
    /// The others have a part of them only.
    Partly,
}

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
                let damaged = self.to_repair(&chunk, piece).await?;
                self.without_doubt(&chunk, damaged, &mut left, source).await?
            };
            // The last one is the next one. What is damaged on the other side, too, is asked for by the region, then by the block.
            let neighbours = |a: &(u32, Kind), b: &(u32, Kind)| a.0 + 1 == b.0 && a.1 == b.1;
            let runs = damaged.chunk_by(neighbours);
            let mut wanted: Vec<(Range<u32>, Kind)> =
                runs.map(|run| (run[0].0..run[0].0 + run.len() as u32, run[0].1)).collect();
            while let Some((run, kind)) = wanted.pop() {
                match self.repair_run(&chunk, version, run.clone(), kind, source).await? {
                    Outcome::Left(count) => left += count,
                    Outcome::Partly => {
                        let step = if run.len() > REGION_BLOCKS as usize { REGION_BLOCKS } else { 1 };
                        let parts = run.clone().step_by(step as usize);
                        wanted.extend(parts.map(|first| (first..run.end.min(first + step), kind)));
                    }
                }
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

    /// What can be known of damaged blocks whose range is locked. Those that nothing is recorded of and a write is listed for
    /// stay as they are, until that is stable or settled.
    async fn without_doubt(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        damaged: Vec<u32>,
        left: &mut u32,
        source: &dyn Source,
    ) -> Result<Vec<(u32, Kind)>, Refusal> {
        let mut listed = Vec::new();
        self.file_state(chunk.file).for_each_unstable(chunk.id, |_, _, blocks| listed.push(blocks));
        let mut kinds = Vec::with_capacity(damaged.len());
        for block in damaged {
            if self.is_recorded(chunk, block).await? {
                kinds.push((block, Kind::Recorded));
            } else if listed.iter().any(|blocks| blocks.contains(&block)) {
                *left += 1;
                source.passed_over();
            } else {
                kinds.push((block, Kind::Unrecorded));
            }
        }
        Ok(kinds)
    }

    /// Repairs neighbouring blocks of one kind.
    async fn repair_run(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        version: u64,
        blocks: Range<u32>,
        kind: Kind,
        source: &dyn Source,
    ) -> Result<Outcome, Refusal> {
        let (offset, len) = (blocks.start * BLOCK as u32, blocks.len() as u32 * BLOCK as u32);
        let read = async {
            match kind {
                Kind::Recorded => source.read(offset, len).await.map(|reply| (reply, Vec::new())),
                Kind::Unrecorded => source.read_settled(offset, len).await,
            }
        };
        // Without the lock: whether it is what was lost shows under it, and clients do not wait for another server.
        let reply = match rt::first(read, self.superseded(chunk)).await {
            rt::First::Left(reply) => reply,
            rt::First::Right(()) if self.stopping.get() => return Err(Refusal::Stopping),
            rt::First::Right(()) => return Err(Refusal::StaleVersion { have: version, wanted: version }),
        };
        if reply.is_err() && blocks.len() > 1 && matches!(source.fault(offset, len), Fault::Partly) {
            return Ok(Outcome::Partly);
        }
        self.map_has_room().await?;
        let _locked = chunk.ranges.exclusive(u64::from(blocks.start)..u64::from(blocks.end)).await;
        self.recheck(chunk, u64::MAX, version)?;
        let damaged = self.to_repair(chunk, blocks.clone()).await?;
        // Nobody has anything better; it may be another time.
        let Ok((reply, listed)) = reply else { return Ok(Outcome::Left(damaged.len() as u32)) };
        // A write that came meanwhile is the only one who knows of its block.
        let mut own = Vec::new();
        self.file_state(chunk.file).for_each_unstable(chunk.id, |_, _, blocks| own.push(blocks));
        let mut good = BTreeSet::new();
        for &block in &damaged {
            let usable = match kind {
                Kind::Recorded => self.was_lost(chunk, block, plain(&reply, &blocks, block)).await?,
                // A write since then has a record, and it is not damaged any more, or another kind.
                Kind::Unrecorded => {
                    let unsettled = |write: &Listed| {
                        (write.first..write.first.saturating_add(write.count)).contains(&block)
                    };
                    let in_doubt =
                        listed.iter().any(unsettled) || own.iter().any(|blocks| blocks.contains(&block));
                    if in_doubt {
                        source.passed_over();
                    }
                    !in_doubt && !self.is_recorded(chunk, block).await?
                }
            };
            if usable {
                good.insert(block);
            }
        }
        let others: BTreeSet<u32> = blocks.clone().filter(|block| !good.contains(block)).collect();
        for piece in pieces(&blocks, &reply, &others) {
            let piece = match piece.content {
                // What is recorded as data stays data.
                None if kind == Kind::Recorded => {
                    let zeroes = Buf::zeroed(piece.blocks.len() * BLOCK).freeze();
                    let crcs = vec![crc32c(&zeroes[..BLOCK]); piece.blocks.len()];
                    Piece { content: Some((zeroes, crcs)), ..piece }
                }
                _ => piece,
            };
            self.write_copied(chunk, version, piece).await?;
        }
        for block in good {
            rt::sim::hit("engine.block-repaired");
            tracing::warn!("chunk {:#x}, block {block}: repaired from another member", chunk.id);
        }
        let left = self.damaged(chunk, blocks).await?.len();
        self.count(|counters| counters.repaired_blocks += damaged.len().saturating_sub(left) as u64);
        Ok(Outcome::Left(left as u32))
    }

    /// Whether a checksum of a block is recorded here.
    async fn is_recorded(self: &Rc<Self>, chunk: &Rc<Chunk>, block: u32) -> Result<bool, Refusal> {
        let states = self.states(chunk, block..block + 1).await?;
        Ok(!matches!(states[0].0, BlockState::Lost | BlockState::Unchecked | BlockState::Unknown))
    }

    /// Whether content with this plain checksum is what is recorded of a block here.
    async fn was_lost(self: &Rc<Self>, chunk: &Rc<Chunk>, block: u32, plain: u32) -> Result<bool, Refusal> {
        if rt::sim::planted("repair-unchecked") {
            return Ok(true);
        }
        let states = self.states(chunk, block..block + 1).await?;
        Ok(matches!(states[0].0, BlockState::Data(stored) if stored.matches(plain, chunk.id, block)))
    }
}

/// The plain checksum of a block of what was sent.
fn plain(reply: &ReadReply, blocks: &Range<u32>, block: u32) -> u32 {
    let at = (block - blocks.start) as usize * BLOCK;
    match &reply.payload {
        Some(payload) => crc32c(&payload[at..at + BLOCK]),
        None => crc32c(&[0; BLOCK]),
    }
}
