//! What the reconciler asks after an unclean end of a lease (C5): what is in doubt here, what is here, and that it is
//! settled.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::blocks::Place;
use super::chunk::Chunk;
use super::files::Unstable;
use super::read::Reader;
use super::{ACTIVE_BLOCKS, Engine, Refusal};
use crate::format::BLOCK;
use crate::format::block::BlockState;
use crate::format::record::{Record, RecordKind};
use crate::journal::Class;

/// Blocks whose content may differ between members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Doubt {
    /// First block.
    pub first: u32,
    /// Epoch of the write that is not known stable; 0 for an active mark.
    pub epoch: u64,
    /// Its sequence number; 0 for an active mark.
    pub seq: u64,
    /// Blocks.
    pub count: u32,
}

/// What one block is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSurvey {
    /// Epoch of the write that made it, or of the last one that was taken of what is unknown now; 0 if that is stable.
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
        let _request = self.begin()?;
        let chunk = self.member_for(file, chunk, version)?;
        let state = self.check_epoch(file, epoch)?;
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
    pub async fn survey(
        self: &Rc<Self>,
        file: u64,
        epoch: u64,
        chunk: u64,
        version: u64,
        first: u32,
        count: u32,
    ) -> Result<Vec<BlockSurvey>, Refusal> {
        let _request = self.begin()?;
        let chunk = self.member_for(file, chunk, version)?;
        let state = self.check_epoch(file, epoch)?;
        let end = first.checked_add(count).filter(|&end| end <= chunk.blocks() && count > 0);
        let end = end.ok_or(Refusal::Invalid("the range is not inside the chunk"))?;
        let _in_flight = state.enter(epoch);
        let _locked = chunk.ranges.shared(u64::from(first)..u64::from(end)).await;
        self.recheck(&chunk, epoch, version)?;
        let touches = |w: &Unstable| w.chunk == chunk.id && w.first < end && first < w.first + w.count;
        let unstable: Vec<_> = state.unstable().into_iter().filter(|(_, _, write)| touches(write)).collect();
        let mut surveys = Vec::with_capacity(count as usize);
        for block in first..end {
            let content = self.survey_block(&chunk, block).await?;
            let writes = unstable.iter().filter(|(_, _, write)| write.blocks().contains(&block));
            let newest = writes.map(|&(epoch, seq, _)| (epoch, seq)).max().unwrap_or((0, 0));
            // The block map knows which write the content really is: a newer one may not have survived.
            let (epoch, seq) =
                chunk.entry(block).map_or(newest, |entry| newest.min((entry.epoch, entry.seq)));
            surveys.push(BlockSurvey { epoch, seq, content });
        }
        Ok(surveys)
    }

    async fn survey_block(self: &Rc<Self>, chunk: &Rc<Chunk>, block: u32) -> Result<Surveyed, Refusal> {
        let _reader = Reader::enter(self);
        let blocks = block..block + 1;
        let states = self.states(chunk, blocks.clone()).await?;
        match states[0].0 {
            BlockState::Hole => Ok(Surveyed::Hole),
            BlockState::Unknown | BlockState::Lost => Ok(Surveyed::Unknown),
            BlockState::Data(_) | BlockState::Unchecked => {
                let mut tried = false;
                loop {
                    match self.read_states(chunk, blocks.clone(), &states).await {
                        Ok((_, crcs)) => return Ok(Surveyed::Data(crcs[0])),
                        // A device that gives something else, or nothing, for once has lost nothing; what is chosen instead stays for ever.
                        Err(Refusal::Corrupt { .. } | Refusal::Unsettled { .. }) if !tried => tried = true,
                        Err(Refusal::Corrupt { .. } | Refusal::Unsettled { .. }) => {
                            return Ok(Surveyed::Unknown);
                        }
                        Err(refusal) => return Err(refusal),
                    }
                }
            }
        }
    }

    /// The content of a block, as it lies in the file where it cannot be verified: what a chunk's members accept when
    /// nobody can tell, inside active extents only (C5).
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
        let _request = self.begin()?;
        let chunk = self.member_for(file, chunk, version)?;
        let state = self.check_epoch(file, epoch)?;
        if block >= chunk.blocks() {
            return Err(Refusal::Invalid("the range is not inside the chunk"));
        }
        let _in_flight = state.enter(epoch);
        let _locked = chunk.ranges.shared(u64::from(block)..u64::from(block) + 1).await;
        self.recheck(&chunk, epoch, version)?;
        self.accept_locked(&chunk, block).await
    }

    /// As [`Self::accept_block`] of a block whose range is locked.
    pub(super) async fn accept_locked(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        block: u32,
    ) -> Result<rt::buf::Buf, Refusal> {
        match self.read_blocks(chunk, block..block + 1).await {
            Err(Refusal::Unsettled { .. })
                if chunk.active.borrow().contains_key(&(block / ACTIVE_BLOCKS))
                    // What the file holds is older than what was lost in the journal.
                    && !chunk.entry(block).is_some_and(|entry| matches!(entry.place, Place::Journal(_))) => {}
            // Nothing that a crash left: what lies there was not acknowledged in this place.
            Err(Refusal::Unsettled { block }) => return Err(Refusal::Corrupt { block }),
            verified => return verified,
        }
        let open = self.chunk_file(chunk).await?;
        let (result, buf) =
            open.file().read_exact_at(rt::buf::Buf::new(BLOCK), u64::from(block) * BLOCK as u64).await;
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
        let _request = self.begin()?;
        let chunk = self.member_for(file, chunk, version)?;
        let state = self.check_epoch(file, epoch)?;
        let _in_flight = state.enter(epoch);
        // Nobody may be about to write under a mark that goes.
        let _all = chunk.ranges.exclusive(0..u64::from(chunk.blocks())).await;
        self.recheck(&chunk, epoch, version)?;
        let upto = epoch.saturating_sub(1);
        let record = Record { file, chunk: chunk.id, epoch: upto, ..Record::new(RecordKind::Clear) };
        let appended = self.append(Class::Urgent, record, None).await?;
        state.clear_unstable(chunk.id, upto);
        // A late duplicate of this request must not take the marks of later writes away.
        let left = state.unstable_extents();
        chunk.active.borrow_mut().retain(|&extent, mark| {
            (mark.suspect, mark.lost) = (None, false);
            left.contains(&(chunk.id, extent))
        });
        drop(appended);
        Ok(())
    }
}
