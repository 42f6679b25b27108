//! What the blocks of a replica really hold, compared with what is recorded of them (C8): nothing is changed, and no error
//! is anybody's but the block's.

use std::ops::Range;
use std::rc::Rc;

use super::chunk::Chunk;
use super::read::{Reader, Run, runs};
use super::{Engine, Refusal};
use crate::format::block::BlockState;
use crate::format::{BLOCK, crc32c};

/// What a look at a block has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The content with this plain CRC32C is what is recorded.
    Data(u32),
    /// A hole: there is nothing that could be wrong.
    Hole,
    /// Nothing is recorded that the content could be compared with.
    Unchecked,
    /// The members must settle it (C5).
    Unsettled,
    /// It is something else than what is recorded.
    Mismatch,
    /// The device, or the page with its checksum, cannot be read.
    Unreadable,
}

impl Condition {
    /// The block is what its record says.
    pub(crate) fn is_proven(self) -> bool {
        matches!(self, Self::Data(_) | Self::Hole)
    }
}

impl Engine {
    /// Reads blocks, whose range is locked, and says of each what it is.
    pub(super) async fn examine(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        blocks: Range<u32>,
    ) -> Result<Vec<Condition>, Refusal> {
        let _reader = Reader::enter(self);
        let states = match self.states(chunk, blocks.clone()).await {
            Err(Refusal::Corrupt { .. }) => return Ok(vec![Condition::Unreadable; blocks.len()]),
            states => states?,
        };
        let mut conditions = Vec::with_capacity(states.len());
        let mut rest = states.iter();
        for run in runs(blocks, &states) {
            let contents = self.contents_of(chunk, &run).await?;
            for ((block, content), (state, _)) in run.blocks.zip(contents).zip(rest.by_ref()) {
                conditions.push(match (state, content) {
                    (BlockState::Hole, _) => Condition::Hole,
                    (BlockState::Unknown, _) => Condition::Unsettled,
                    (_, None) => Condition::Unreadable,
                    (BlockState::Unchecked, _) => Condition::Unchecked,
                    (BlockState::Data(stored), Some(plain)) if stored.matches(plain, chunk.id, block) => {
                        Condition::Data(plain)
                    }
                    _ if matches!(chunk.mismatch(block), Refusal::Unsettled { .. }) => Condition::Unsettled,
                    _ => Condition::Mismatch,
                });
            }
        }
        Ok(conditions)
    }

    /// The plain checksums of what a run of blocks holds; nothing for those that cannot be read.
    async fn contents_of(self: &Rc<Self>, chunk: &Rc<Chunk>, run: &Run) -> Result<Vec<Option<u32>>, Refusal> {
        if let Ok(data) = self.read_place(chunk, run).await? {
            return Ok(data.chunks(BLOCK).map(|bytes| Some(crc32c(bytes))).collect());
        }
        // One bad sector hides no others.
        let mut contents = Vec::with_capacity(run.blocks.len());
        for block in run.blocks.clone() {
            let one = self.read_place(chunk, &run.only(block)).await?;
            contents.push(one.ok().map(|bytes| crc32c(&bytes)));
        }
        Ok(contents)
    }
}
