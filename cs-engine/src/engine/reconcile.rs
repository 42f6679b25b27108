//! What the reconciler asks after an unclean end of a lease (C5): what is in doubt here, what is here, and that it is
//! settled.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::chunk::Chunk;
use super::read::Reader;
use super::{ACTIVE_BLOCKS, Engine, Refusal};
use crate::format::block::BlockState;
use crate::format::record::{Record, RecordKind};
use crate::format::{BLOCK, crc32c};
use crate::journal::Class;

/// Blocks whose content may differ between members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Doubt {
    /// First block.
    pub first: u32,
    /// Blocks.
    pub count: u32,
    /// Epoch of the write that is not known stable; 0 for an active mark.
    pub epoch: u64,
    /// Its sequence number; 0 for an active mark.
    pub seq: u64,
}

/// What one block is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSurvey {
    /// Epoch of the write that made it, 0 if that is stable.
    pub epoch: u64,
    /// Sequence number of that write.
    pub seq: u64,
    /// The content.
    pub content: Surveyed,
}

/// Content of a surveyed block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surveyed {
    /// Verified data with this plain CRC32C.
    Data(u32),
    /// A hole.
    Hole,
    /// Unknown or damaged here.
    Unknown,
}

impl Engine {
    /// Every range of a chunk that is in doubt here: unstable writes and active extents.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn doubts(&self, file: u64, epoch: u64, chunk: u64, version: u64) -> Result<Vec<Doubt>, Refusal> {
        self.check_running()?;
        let state = self.check_epoch(file, epoch)?;
        let chunk = self.chunk_for(file, chunk, version)?;
        let mut doubts = BTreeSet::new();
        for (epoch, seq, write) in state.unstable() {
            if write.chunk == chunk.id {
                doubts.insert(Doubt { first: write.first, count: write.count, epoch, seq });
            }
        }
        for &extent in chunk.active.borrow().keys() {
            let first = extent * ACTIVE_BLOCKS;
            let count = ACTIVE_BLOCKS.min(chunk.blocks() - first);
            doubts.insert(Doubt { first, count, epoch: 0, seq: 0 });
        }
        Ok(doubts.into_iter().collect())
    }

    /// What each block of a range is here; the content is read and verified.
    ///
    /// # Errors
    /// [`Refusal`].
    #[expect(clippy::too_many_arguments, reason = "they are the fields of the request")]
    pub async fn survey(
        self: &Rc<Self>,
        file: u64,
        epoch: u64,
        chunk: u64,
        version: u64,
        first: u32,
        count: u32,
    ) -> Result<Vec<BlockSurvey>, Refusal> {
        self.check_running()?;
        let state = self.check_epoch(file, epoch)?;
        let chunk = self.chunk_for(file, chunk, version)?;
        let end = first.checked_add(count).filter(|&end| end <= chunk.blocks() && count > 0);
        let end = end.ok_or(Refusal::Invalid("the range is not inside the chunk"))?;
        let _in_flight = state.enter(epoch);
        let _locked = chunk.ranges.shared(u64::from(first)..u64::from(end)).await;
        let unstable = state.unstable();
        let mut surveys = Vec::with_capacity(count as usize);
        for block in first..end {
            let content = self.survey_block(&chunk, block).await?;
            let writes = unstable.iter().filter(|(_, _, w)| w.chunk == chunk.id && w.first <= block && block < w.first + w.count);
            let newest = writes.map(|&(epoch, seq, _)| (epoch, seq)).max().unwrap_or((0, 0));
            // The block map knows which write the content really is: a newer one may not have survived.
            let (epoch, seq) = chunk.entry(block).map_or(newest, |entry| newest.min((entry.epoch, entry.seq)));
            surveys.push(BlockSurvey { epoch, seq, content });
        }
        Ok(surveys)
    }

    async fn survey_block(self: &Rc<Self>, chunk: &Rc<Chunk>, block: u32) -> Result<Surveyed, Refusal> {
        let _reader = Reader::enter(self);
        let states = self.states(chunk, block..block + 1).await?;
        match states[0].0 {
            BlockState::Hole => Ok(Surveyed::Hole),
            BlockState::Unknown => Ok(Surveyed::Unknown),
            BlockState::Data(_) | BlockState::Unchecked => {
                match self.read_states(chunk, block..block + 1, &states).await {
                    Ok((data, _)) => Ok(Surveyed::Data(crc32c(&data[..BLOCK]))),
                    Err(Refusal::Corrupt { .. } | Refusal::Unsettled { .. }) => Ok(Surveyed::Unknown),
                    Err(refusal) => Err(refusal),
                }
            }
        }
    }

    /// The content of a block as it lies in the file, verified or not: what a chunk's only member accepts when nobody
    /// else can tell, inside active extents only (C5).
    ///
    /// # Errors
    /// [`Refusal::Corrupt`] outside active extents or when the device cannot read it.
    pub async fn accept_block(
        self: &Rc<Self>,
        file: u64,
        epoch: u64,
        chunk: u64,
        version: u64,
        block: u32,
    ) -> Result<rt::buf::Buf, Refusal> {
        self.check_running()?;
        self.check_epoch(file, epoch)?;
        let chunk = self.chunk_for(file, chunk, version)?;
        if block >= chunk.blocks() || !chunk.active.borrow().contains_key(&(block / ACTIVE_BLOCKS)) {
            return Err(Refusal::Corrupt { block });
        }
        let open = self.chunk_file(&chunk).await?;
        let (result, buf) = open.file().read_exact_at(rt::buf::Buf::new(BLOCK), u64::from(block) * BLOCK as u64).await;
        result.map_err(|_| Refusal::Corrupt { block })?;
        Ok(buf)
    }

    /// Voids marks and unstable writes of epochs below `epoch`: every member has the same content, durably.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn clear_doubts(
        self: &Rc<Self>,
        file: u64,
        epoch: u64,
        chunk: u64,
        version: u64,
    ) -> Result<(), Refusal> {
        self.check_running()?;
        let state = self.check_epoch(file, epoch)?;
        let chunk = self.chunk_for(file, chunk, version)?;
        let _in_flight = state.enter(epoch);
        let record =
            Record { file, chunk: chunk.id, epoch: epoch.saturating_sub(1), ..Record::new(RecordKind::Clear) };
        self.journal.append(Class::Normal, record, Vec::new()).await?;
        state.clear_unstable(chunk.id, epoch.saturating_sub(1));
        Ok(())
    }
}
