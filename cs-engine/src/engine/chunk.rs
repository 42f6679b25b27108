//! A chunk's replica at run time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use rt::sync::RangeLock;

use super::blocks::{BlockMap, Entry, Place};
use super::{ACTIVE_BLOCKS, Engine, Refusal};
use crate::format::BLOCK;
use crate::format::block::BlockState;
use crate::format::table::ChunkHeader;
use crate::store::ChunkFile;

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
    pub(crate) header_copy: Cell<u8>,
    pub(crate) header: Cell<ChunkHeader>,
    /// Entries of the current generation.
    pub(crate) live: RefCell<BlockMap>,
    /// Entries that a checkpoint is moving.
    pub(crate) frozen: RefCell<BlockMap>,
    /// Active extents: LSN of the record that marked them, 0 for long ago.
    pub(crate) active: RefCell<BTreeMap<u32, u64>>,
    /// Orders everything that touches a range: client writes, reconciler, scrub (C8).
    pub(crate) ranges: RangeLock,
    pub(crate) deleted: Cell<bool>,
}

impl Chunk {
    pub(crate) fn new(slot: u32, copy: u8, header: ChunkHeader) -> Rc<Self> {
        Rc::new(Self {
            id: header.chunk,
            file: header.file,
            size: header.size,
            version: Cell::new(header.version),
            slot,
            header_copy: Cell::new(copy),
            header: Cell::new(header),
            live: RefCell::default(),
            frozen: RefCell::default(),
            active: RefCell::default(),
            ranges: RangeLock::new(),
            deleted: Cell::new(false),
        })
    }

    /// Blocks of the chunk.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        (self.size / BLOCK as u64) as u32
    }

    /// The newest entry of a block, if the last checkpoint does not have it.
    pub(crate) fn entry(&self, block: u32) -> Option<Entry> {
        let live = self.live.borrow().get(block).copied();
        live.or_else(|| self.frozen.borrow().get(block).copied())
    }

    /// Whether any block of the range has content that must still be moved.
    pub(crate) fn has_content_to_move(&self, blocks: Range<u32>) -> bool {
        let moves = |map: &BlockMap| map.range(blocks.clone()).any(|(_, entry)| entry.place != Place::File);
        moves(&self.live.borrow()) || moves(&self.frozen.borrow())
    }

    /// Marks the extents under `blocks` as active since the record at `lsn`, unless they are already.
    pub(crate) fn mark(&self, blocks: Range<u32>, lsn: u64) {
        let mut active = self.active.borrow_mut();
        for extent in extents(&blocks) {
            active.entry(extent).or_insert(lsn);
        }
    }

    /// Whether in-place writes may touch the extents under `blocks`: all marks are durable.
    pub(crate) fn is_active(&self, blocks: &Range<u32>, durable: u64) -> bool {
        let active = self.active.borrow();
        extents(blocks).all(|extent| active.get(&extent).is_some_and(|&lsn| lsn < durable))
    }
}

/// The active-extent numbers that `blocks` touch.
pub(crate) fn extents(blocks: &Range<u32>) -> Range<u32> {
    blocks.start / ACTIVE_BLOCKS..blocks.end.div_ceil(ACTIVE_BLOCKS)
}

impl Engine {
    /// The open file of a chunk.
    pub(crate) async fn chunk_file(&self, chunk: &Chunk) -> Result<Rc<ChunkFile>, Refusal> {
        match self.store.file(chunk.id, chunk.size).await {
            Ok(file) => Ok(file),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData) => {
                // A lost or truncated file is one lost replica, not a failed device.
                tracing::error!("chunk {:#x}: {error}", chunk.id);
                Err(Refusal::Corrupt { block: 0 })
            }
            Err(error) => {
                self.fail("opening a chunk file", &error);
                Err(Refusal::DeviceFailed)
            }
        }
    }

    /// What the last checkpoint says of blocks.
    pub(crate) async fn table_states(&self, chunk: &Chunk, blocks: Range<u32>) -> Result<Vec<BlockState>, Refusal> {
        if self.superblock.borrow().no_checksums {
            return Ok(vec![BlockState::Unchecked; blocks.len()]);
        }
        if let Some(states) = self.tables.states_cached(chunk.slot, blocks.clone()) {
            return Ok(states);
        }
        match self.tables.states(chunk.slot, chunk.id, blocks.clone()).await {
            Ok(states) => Ok(states),
            Err(crate::tables::TableError::Page { why, .. }) => {
                tracing::error!("chunk {:#x}, blocks {blocks:?}: {why}", chunk.id);
                Err(Refusal::Corrupt { block: blocks.start })
            }
            Err(error) => Err(self.table_failed(&error)),
        }
    }

    /// What is known of blocks now, newest first: block map, then table.
    pub(crate) async fn states(&self, chunk: &Chunk, blocks: Range<u32>) -> Result<Vec<(BlockState, Place)>, Refusal> {
        let base = self.table_states(chunk, blocks.clone()).await?;
        let (live, frozen) = (chunk.live.borrow(), chunk.frozen.borrow());
        Ok(blocks
            .zip(base)
            .map(|(block, base)| match live.get(block).or_else(|| frozen.get(block)) {
                Some(entry) => (entry.state, entry.place),
                None => (base, Place::File),
            })
            .collect())
    }
}
