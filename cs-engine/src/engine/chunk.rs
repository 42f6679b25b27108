//! A chunk's replica at run time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use rt::sync::{Notify, RangeLock, Semaphore};

use super::blocks::{BlockMap, Entry, Place};
use super::fill::Source;
use super::regions::{REGION_BLOCKS, Regions};
use super::standing::Standing;
use super::{ACTIVE_BLOCKS, Engine, Refusal};
use crate::format::BLOCK;
use crate::format::block::BlockState;
use crate::format::table::CRCS_PER_PAGE;
use crate::format::table::ChunkHeader;
use crate::store::{ChunkFile, FileError};
use crate::tables::{Owner, TableError};

/// The mark of an active extent (C5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// LSN of the record that made it.
    pub(crate) lsn: u64,
    /// It was there when the server started after a crash, in a session of this epoch: writes whose records were
    /// lost may hide under it.
    pub(crate) suspect: Option<u64>,
    /// Only of a suspect one: the host has been in another boot since, so that what was acknowledged may be gone, too.
    pub(crate) lost: bool,
}

/// A replica.
#[derive(Debug)]
pub struct Chunk {
    /// The chunk.
    pub id: u64,
    /// Its file.
    pub file: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Version of the replica (C7).
    pub version: Cell<u64>,
    pub(crate) slot: u32,
    pub(crate) header_copy: u8,
    pub(crate) header: Cell<ChunkHeader>,
    /// Entries of the current generation.
    pub(crate) live: RefCell<BlockMap>,
    /// Entries that a checkpoint is moving.
    pub(crate) frozen: RefCell<BlockMap>,
    /// Active extents.
    pub(crate) active: RefCell<BTreeMap<u32, Mark>>,
    /// Orders everything that touches a range: client writes, reconciler, scrub (C8).
    pub(crate) ranges: RangeLock,
    /// Held by whatever a checkpoint does with the chunk, and by its deletion.
    pub(crate) moving: Semaphore,
    pub(crate) deleted: Cell<bool>,
    /// The highest epoch in which a holder has written to it since the server started.
    pub(crate) written_in: Cell<u64>,
    /// Regions that nothing was written to since the file was made, by this process: they read as zero.
    pub(crate) untouched: RefCell<Option<Box<Regions>>>,
    /// What makes it more than a plain member.
    pub(crate) standing: RefCell<Option<Box<Standing>>>,
    /// Where a joiner under this version gets what it lacks.
    pub(crate) source: RefCell<Option<(u64, Rc<dyn Source>)>>,
    /// Orders that wait to give it a later version or to delete it: nobody waits for a member's answer meanwhile.
    pub(crate) superseding: Cell<u32>,
    /// Its version, its standing or its source is another, or it is being superseded.
    pub(crate) standing_changed: Notify,
}

impl Chunk {
    pub(crate) fn new(slot: u32, header_copy: u8, header: ChunkHeader) -> Rc<Self> {
        Rc::new(Self {
            id: header.chunk,
            file: header.file,
            size: header.size,
            version: Cell::new(header.version),
            slot,
            header_copy,
            header: Cell::new(header),
            live: RefCell::default(),
            frozen: RefCell::default(),
            active: RefCell::default(),
            ranges: RangeLock::new(),
            moving: Semaphore::new(1),
            deleted: Cell::new(false),
            written_in: Cell::new(0),
            untouched: RefCell::default(),
            standing: RefCell::default(),
            source: RefCell::default(),
            superseding: Cell::new(0),
            standing_changed: Notify::new(),
        })
    }

    /// Blocks of the chunk.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        (self.size / BLOCK as u64) as u32
    }

    /// Whose checksum pages are this chunk's.
    pub(crate) fn owner(&self) -> Owner {
        Owner { slot: self.slot, chunk: self.id, born: self.header.get().born }
    }

    /// The newest entry of a block, if the last checkpoint does not have it.
    pub(crate) fn entry(&self, block: u32) -> Option<Entry> {
        let live = self.live.borrow().get(block).copied();
        live.or_else(|| self.frozen.borrow().get(block).copied())
    }

    /// What the newest entries say of blocks, over what is known without them.
    pub(crate) fn newest<T>(&self, blocks: &Range<u32>, base: Vec<T>, of: impl Fn(&Entry) -> T) -> Vec<T> {
        let mut newest = base;
        for map in [&self.frozen, &self.live] {
            for (block, entry) in map.borrow().range(blocks.clone()) {
                newest[(block - blocks.start) as usize] = of(entry);
            }
        }
        newest
    }

    /// The file was made just now.
    pub(crate) fn set_untouched(&self) {
        self.untouched.replace(Some(Box::new(Regions::all(self.blocks()))));
    }

    /// Something is about to be written to the file.
    pub(crate) fn touch(&self, blocks: &Range<u32>) {
        let mut untouched = self.untouched.borrow_mut();
        if let Some(regions) = &mut *untouched {
            let mut touched = Regions::default();
            touched.add_blocks(blocks);
            regions.subtract(&touched);
            if regions.is_empty() {
                *untouched = None;
            }
        }
    }

    /// Whether the file is known to have nothing but zeroes there.
    pub(crate) fn is_untouched(&self, blocks: &Range<u32>) -> bool {
        let regions = blocks.start / REGION_BLOCKS..blocks.end.div_ceil(REGION_BLOCKS);
        let untouched = self.untouched.borrow();
        untouched.as_ref().is_some_and(|set| regions.clone().all(|region| set.contains(region)))
    }

    /// Whether any block of the range has content that must still be moved.
    pub(crate) fn has_content_to_move(&self, blocks: &Range<u32>) -> bool {
        let moves = |map: &BlockMap| map.range(blocks.clone()).any(|(_, entry)| entry.place != Place::File);
        moves(&self.live.borrow()) || moves(&self.frozen.borrow())
    }

    /// Marks the extents under `blocks` as active since the record at `lsn`, unless they are already.
    pub(crate) fn mark(&self, blocks: &Range<u32>, lsn: u64) {
        let mut active = self.active.borrow_mut();
        for extent in extents(blocks) {
            active.entry(extent).or_insert(Mark { lsn, suspect: None, lost: false });
        }
    }

    /// Whether in-place writes may touch the extents under `blocks`: all marks are durable.
    pub(crate) fn is_active(&self, blocks: &Range<u32>, durable: u64) -> bool {
        let active = self.active.borrow();
        extents(blocks).all(|extent| active.get(&extent).is_some_and(|mark| mark.lsn < durable))
    }

    /// Whether a crash may have left writes without records there, which nobody has settled or sent again since.
    pub(crate) fn is_suspect(&self, block: u32) -> bool {
        self.active.borrow().get(&(block / ACTIVE_BLOCKS)).is_some_and(|mark| mark.suspect.is_some())
    }

    /// What a block is whose content does not match its checksum: unsettled where a crash may have left data
    /// without its record, damaged elsewhere.
    pub(crate) fn mismatch(&self, block: u32) -> Refusal {
        match self.active.borrow().get(&(block / ACTIVE_BLOCKS)) {
            // An entry is of this run, or was compared with the content when it began.
            Some(Mark { suspect: Some(_), .. }) if self.entry(block).is_none() => {
                Refusal::Unsettled { block }
            }
            _ => Refusal::Corrupt { block },
        }
    }
}

/// The active-extent numbers that `blocks` touch.
pub(crate) fn extents(blocks: &Range<u32>) -> Range<u32> {
    blocks.start / ACTIVE_BLOCKS..blocks.end.div_ceil(ACTIVE_BLOCKS)
}

impl Engine {
    /// The open file of a chunk.
    pub(crate) async fn chunk_file(&self, chunk: &Chunk) -> Result<Rc<ChunkFile>, Refusal> {
        let file = self.store.file(chunk.id, chunk.size).await;
        let file = file.map_err(|error| self.file_refused(chunk, &error))?;
        // It may have been put back.
        if !self.lost.borrow().is_empty() {
            self.lost.borrow_mut().remove(&chunk.id);
        }
        Ok(file)
    }

    /// A lost or truncated file, or one the system does not open, is one lost replica, not a failed device; if only descriptors are
    /// short, it is neither.
    pub(crate) fn file_refused(&self, chunk: &Chunk, error: &FileError) -> Refusal {
        if let FileError::Commit(error) = error {
            self.fail("a flush", error);
            return Refusal::DeviceFailed;
        }
        tracing::error!("chunk {:#x}: {error}", chunk.id);
        if error.is_shortage() {
            return Refusal::CannotOpen(chunk.id);
        }
        // With wrong rights it is there all the same, and is not to be given up.
        if matches!(error, FileError::Missing | FileError::Size { .. }) {
            self.lost.borrow_mut().insert(chunk.id);
        }
        Refusal::ReplicaLost(chunk.id)
    }

    /// What the last checkpoint says of blocks.
    pub(crate) async fn table_states(
        &self,
        chunk: &Chunk,
        blocks: Range<u32>,
    ) -> Result<Vec<BlockState>, Refusal> {
        if self.superblock.borrow().no_checksums {
            return Ok(vec![BlockState::Unchecked; blocks.len()]);
        }
        if let Some(states) = self.tables.states_cached(chunk.owner(), blocks.clone()) {
            return Ok(states);
        }
        match Box::pin(self.tables.states(chunk.owner(), blocks.clone())).await {
            Err(TableError::Page { .. } | TableError::Io { .. }) => {
                Box::pin(self.states_by_page(chunk, blocks)).await
            }
            states => states.map_err(|error| self.table_failed(&error)),
        }
    }

    /// As [`Self::table_states`], where a page is damaged: that costs its own blocks, and no others (C8).
    async fn states_by_page(&self, chunk: &Chunk, blocks: Range<u32>) -> Result<Vec<BlockState>, Refusal> {
        let mut states = Vec::with_capacity(blocks.len());
        let mut from = blocks.start;
        while from < blocks.end {
            let end = blocks.end.min((from / CRCS_PER_PAGE + 1) * CRCS_PER_PAGE);
            match self.tables.states(chunk.owner(), from..end).await {
                Ok(known) => states.extend(known),
                // A sector that cannot be read is damage of what it holds, no failure of the device.
                Err(error @ (TableError::Page { .. } | TableError::Io { .. })) => {
                    tracing::error!("chunk {:#x}, blocks {from}..{end}: {error}", chunk.id);
                    self.count(|counters| counters.corrupt_blocks += 1);
                    states.resize(states.len() + (end - from) as usize, BlockState::Lost);
                }
                Err(error) => return Err(self.table_failed(&error)),
            }
            from = end;
        }
        Ok(states)
    }

    /// What is known of blocks now, newest first: block map, then table.
    pub(crate) async fn states(
        &self,
        chunk: &Chunk,
        blocks: Range<u32>,
    ) -> Result<Vec<(BlockState, Place)>, Refusal> {
        loop {
            let serial = self.checkpoint_serial.get();
            let base = self.table_states(chunk, blocks.clone()).await?;
            if serial != self.checkpoint_serial.get() {
                // While pages were read a checkpoint has moved entries from the maps into them.
                continue;
            }
            let base = base.into_iter().map(|state| (state, Place::File)).collect();
            return Ok(chunk.newest(&blocks, base, |entry| (entry.state, entry.place)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::table::SlotState;

    #[test]
    fn what_was_written_to_is_untouched_no_more() {
        let header = ChunkHeader {
            sequence: 1,
            state: SlotState::Live,
            chunk: 1,
            version: 1,
            file: 1,
            size: 1 << 20,
            layout: 0,
            piece: 0,
            block_metadata: 4,
            key_id: 0,
            stripe_version: 0,
            born: 0,
            verified: 0,
        };
        let chunk = Chunk::new(0, 0, header);
        assert!(!chunk.is_untouched(&(0..16)), "a file that was there before may hold anything");
        chunk.set_untouched();
        assert!(chunk.is_untouched(&(0..256)));
        // The last block of the second region, and the first of the third.
        chunk.touch(&(31..33));
        for (blocks, expected) in
            [(0..16, true), (0..17, false), (16..20, false), (40..48, false), (48..256, true)]
        {
            assert_eq!(chunk.is_untouched(&blocks), expected, "{blocks:?}");
        }
        chunk.touch(&(0..256));
        assert!(chunk.untouched.borrow().is_none(), "nothing is kept of a file that is all written");
    }
}
