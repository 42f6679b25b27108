//! An outside witness of block writes: what a block may hold after a crash.
//!
//! The test tells the oracle what it asks of the volume and what was answered; after a crash the oracle judges what is
//! read back. Rules:
//!
//! - A flush covers the writes that were completed before it was issued, no others. What a *completed* flush covers is
//!   *flushed*.
//! - A block may hold a flushed write, or any write that was not over before some flushed one began: issued later, or
//!   at the same time. An unanswered or failed write counts as still going on.
//! - It never holds an older write, never parts of two, never another block's content, never anything else.
//! - A block never written holds zeroes, as after a write of zeroes.
//!
//! Tell the oracle *before* issuing and *after* completion; in between it is generous, never wrong. It has no lock of
//! its own: callers with several threads keep it in a mutex and call [`Oracle::issued`] before they submit.
//!
//! Content is a function of (seed, block, write id), so no data is kept. Each 512-byte sector carries its own stamp,
//! which tells a torn block from garbage.

use std::collections::BTreeMap;

use crate::seeded::{Seeded, mix};

const STAMP_SECTOR: usize = 512;
const MAGIC: u64 = 0x6b63_6f6c_6273_5776;
/// magic, seed, block, write id, sector in block; 8 bytes each.
const STAMP_BYTES: usize = 40;

/// What a block's bytes say they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Zeroes: never written, or written with zeroes.
    Zeroes,
    /// The whole content of this write.
    Write(u64),
}

/// What a block must not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Neither a stamp nor zeroes.
    #[error("block {block}: sector {sector} holds garbage")]
    Garbage {
        /// The block.
        block: u64,
        /// Its 512-byte sector.
        sector: u64,
    },
    /// Content of another block.
    #[error("block {block}: sector {sector} holds content of block {found}")]
    Misdirected {
        /// The block.
        block: u64,
        /// Its 512-byte sector.
        sector: u64,
        /// Whose content it is.
        found: u64,
    },
    /// Content of another run.
    #[error("block {block}: sector {sector} holds content of the run with seed {found}")]
    Foreign {
        /// The block.
        block: u64,
        /// Its 512-byte sector.
        sector: u64,
        /// That run's seed.
        found: u64,
    },
    /// Parts of two writes.
    #[error("block {block} is torn: it begins with {first:?} and sector {sector} holds {other:?}")]
    Torn {
        /// The block.
        block: u64,
        /// What its first sector holds.
        first: Content,
        /// The first sector that differs.
        sector: u64,
        /// What that holds.
        other: Content,
    },
    /// A write that was over before one began that must not be lost.
    #[error("block {block} went back to {found:?}; write {wanted} or one not older must be there")]
    Lost {
        /// The block.
        block: u64,
        /// What it holds.
        found: Content,
        /// The latest begun write that must not be lost.
        wanted: u64,
    },
    /// A write nobody issued.
    #[error("block {block} holds {found:?}, which was never written to it")]
    NeverIssued {
        /// The block.
        block: u64,
        /// What it holds.
        found: Content,
    },
}

/// A flush that was issued. Give it to [`Oracle::flush_completed`]; drop it if the flush failed.
#[derive(Debug)]
#[must_use = "a flush that completes makes writes durable"]
pub struct FlushToken {
    started: u64,
}

/// What may be in each block of a volume.
#[derive(Debug)]
pub struct Oracle {
    seed: u64,
    block_bytes: usize,
    /// Counts events; each has its own moment.
    clock: u64,
    blocks: BTreeMap<u64, History>,
    /// Completed and not yet flushed writes: moment of completion to (block, id).
    unflushed: BTreeMap<u64, (u64, u64)>,
}

/// The writes of one block that may still be found in it.
#[derive(Debug)]
struct History {
    live: Vec<Write>,
    last_id: u64,
    /// When the latest begun flushed write began; a write completed before is over. Zero before any flush.
    floor: u64,
    /// Id of that write.
    floor_id: u64,
}

#[derive(Debug, Clone, Copy)]
struct Write {
    id: u64,
    zeroes: bool,
    issued: u64,
    /// `None` while it is going on.
    completed: Option<u64>,
}

impl Write {
    fn content(&self) -> Content {
        if self.zeroes { Content::Zeroes } else { Content::Write(self.id) }
    }
}

impl Default for History {
    /// Zeroes from before the first event.
    fn default() -> Self {
        let zeroes = Write { id: 0, zeroes: true, issued: 0, completed: Some(0) };
        Self { live: vec![zeroes], last_id: 0, floor: 0, floor_id: 0 }
    }
}

impl Oracle {
    /// An oracle for a volume of zeroes with blocks of 4096 bytes.
    pub fn new(seed: u64) -> Self {
        Self::with_block_bytes(seed, 4096)
    }

    /// An oracle whose blocks (the unit that must not tear) have `block_bytes`.
    ///
    /// # Panics
    /// If that is not a positive multiple of 512.
    pub fn with_block_bytes(seed: u64, block_bytes: usize) -> Self {
        assert!(block_bytes > 0 && block_bytes.is_multiple_of(STAMP_SECTOR), "blocks are of whole sectors");
        Self { seed, block_bytes, clock: 0, blocks: BTreeMap::new(), unflushed: BTreeMap::new() }
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Fills `out`, one block, with the content of write `id` to `block`.
    pub fn stamp(&self, block: u64, id: u64, out: &mut [u8]) {
        assert_eq!(out.len(), self.block_bytes, "a stamp fills one block");
        for (place, sector) in (0..).zip(out.chunks_mut(STAMP_SECTOR)) {
            stamp_sector([MAGIC, self.seed, block, id, place], sector);
        }
    }

    /// A write with the stamped content is about to be issued. One id may be used for a write of several blocks.
    ///
    /// # Panics
    /// If `id` is not above all earlier ids of the block.
    pub fn issued(&mut self, block: u64, id: u64) {
        self.issue(block, id, false);
    }

    /// A write of zeroes (or a discard that zeroes) is about to be issued; otherwise as [`issued`](Self::issued).
    pub fn issued_zeroes(&mut self, block: u64, id: u64) {
        self.issue(block, id, true);
    }

    fn issue(&mut self, block: u64, id: u64, zeroes: bool) {
        let issued = self.tick();
        let history = self.blocks.entry(block).or_default();
        assert!(id > history.last_id, "ids of a block grow: {id} after {}", history.last_id);
        history.last_id = id;
        history.live.push(Write { id, zeroes, issued, completed: None });
    }

    /// The write was acknowledged. A failed write is never reported: it may still land.
    ///
    /// # Panics
    /// If the write was not issued, or completed already.
    pub fn completed(&mut self, block: u64, id: u64) {
        let completed = self.tick();
        let live = self
            .blocks
            .get_mut(&block)
            .and_then(|history| history.live.iter_mut().find(|write| write.id == id));
        match live {
            Some(write) if write.completed.is_none() => write.completed = Some(completed),
            _ => panic!("write {id} to block {block} is not going on"),
        }
        self.unflushed.insert(completed, (block, id));
    }

    /// As [`completed`](Self::completed), for a write that is durable when it is acknowledged (FUA).
    ///
    /// # Panics
    /// As [`completed`](Self::completed).
    pub fn completed_durably(&mut self, block: u64, id: u64) {
        self.completed(block, id);
        self.unflushed.remove(&self.clock);
        if let Some(history) = self.blocks.get_mut(&block) {
            history.flushed(id);
        }
    }

    /// A flush is about to be issued.
    pub fn flush_started(&mut self) -> FlushToken {
        FlushToken { started: self.tick() }
    }

    /// The flush was acknowledged: all writes completed before it was issued are flushed.
    pub fn flush_completed(&mut self, token: FlushToken) {
        let later = self.unflushed.split_off(&token.started);
        for (block, id) in std::mem::replace(&mut self.unflushed, later).into_values() {
            if let Some(history) = self.blocks.get_mut(&block) {
                history.flushed(id);
            }
        }
    }

    /// Judges what was read from `block` after a crash.
    pub fn check(&self, block: u64, data: &[u8]) -> Result<(), Violation> {
        let found = self.content(block, data)?;
        let untouched = History::default();
        let history = self.blocks.get(&block).unwrap_or(&untouched);
        history.judge(block, found, history.floor, history.floor_id)
    }

    /// Judges what was read from `block` by a read that began after the last event, and without a crash in between:
    /// what was acknowledged is there, flushed or not.
    pub fn check_acknowledged(&self, block: u64, data: &[u8]) -> Result<(), Violation> {
        let found = self.content(block, data)?;
        let untouched = History::default();
        let history = self.blocks.get(&block).unwrap_or(&untouched);
        let over = history.live.iter().filter(|write| write.completed.is_some());
        let (floor, floor_id) = over.map(|write| (write.issued, write.id)).max().unwrap_or((0, 0));
        history.judge(block, found, floor, floor_id)
    }

    /// Judges like [`check`](Self::check) and then takes what was found as the block's only content, flushed: from now on
    /// the crash is history. No write to the block may be going on; unanswered ones are over.
    pub fn settle(&mut self, block: u64, data: &[u8]) -> Result<(), Violation> {
        self.check(block, data)?;
        let found = self.content(block, data)?;
        let now = self.tick();
        if let Some(history) = self.blocks.get_mut(&block) {
            let id = match found {
                Content::Write(id) => id,
                Content::Zeroes => 0,
            };
            let gone: Vec<u64> = history.live.iter().filter_map(|write| write.completed).collect();
            history.live =
                vec![Write { id, zeroes: found == Content::Zeroes, issued: now, completed: Some(now) }];
            (history.floor, history.floor_id) = (now, id);
            for moment in gone {
                self.unflushed.remove(&moment);
            }
        }
        Ok(())
    }

    /// The blocks the oracle was ever told of, in order.
    pub fn blocks(&self) -> impl Iterator<Item = u64> + '_ {
        self.blocks.keys().copied()
    }

    /// What the bytes say they are, whether or not they may be there.
    pub fn content(&self, block: u64, data: &[u8]) -> Result<Content, Violation> {
        assert_eq!(data.len(), self.block_bytes, "a block is read whole");
        let mut first = None;
        for (place, sector) in (0..).zip(data.chunks(STAMP_SECTOR)) {
            let content = self.sector_content(block, place, sector)?;
            let first = *first.get_or_insert(content);
            if content != first {
                return Err(Violation::Torn { block, first, sector: place, other: content });
            }
        }
        Ok(first.unwrap_or(Content::Zeroes))
    }

    fn sector_content(&self, block: u64, place: u64, sector: &[u8]) -> Result<Content, Violation> {
        if sector.iter().all(|&byte| byte == 0) {
            return Ok(Content::Zeroes);
        }
        let mut stamp = [0_u64; STAMP_BYTES / 8];
        for (word, bytes) in stamp.iter_mut().zip(sector.chunks(8)) {
            *word = bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        }
        let mut expected = [0; STAMP_SECTOR];
        stamp_sector(stamp, &mut expected);
        let [magic, seed, found, id, at] = stamp;
        if magic != MAGIC || sector != expected {
            return Err(Violation::Garbage { block, sector: place });
        }
        if seed != self.seed {
            return Err(Violation::Foreign { block, sector: place, found: seed });
        }
        if found != block || at != place {
            return Err(Violation::Misdirected { block, sector: place, found });
        }
        Ok(Content::Write(id))
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

impl History {
    /// Write `id` is flushed: what was over before it began can no longer be there.
    fn flushed(&mut self, id: u64) {
        let Some(write) = self.live.iter().find(|write| write.id == id) else { return };
        if write.issued > self.floor {
            (self.floor, self.floor_id) = (write.issued, id);
            let floor = self.floor;
            self.live.retain(|write| write.completed.is_none_or(|at| at >= floor));
        }
    }

    /// Whether `found` is of a write that was not over when the write `floor_id` began, at the moment `floor`.
    fn judge(&self, block: u64, found: Content, floor: u64, floor_id: u64) -> Result<(), Violation> {
        let may_remain = |write: &&Write| write.completed.is_none_or(|at| at >= floor);
        if self.live.iter().filter(may_remain).any(|write| write.content() == found) {
            return Ok(());
        }
        match found {
            Content::Write(id) if id > self.last_id => Err(Violation::NeverIssued { block, found }),
            _ => Err(Violation::Lost { block, found, wanted: floor_id }),
        }
    }
}

/// A sector: the stamp's words, then filler drawn from them, never all zero.
fn stamp_sector(stamp: [u64; STAMP_BYTES / 8], out: &mut [u8]) {
    let (head, filler) = out.split_at_mut(STAMP_BYTES);
    for (bytes, word) in head.chunks_mut(8).zip(stamp) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Seeded::new(stamp.into_iter().fold(0, |seed, word| mix(seed ^ word))).fill(filler);
}

#[cfg(test)]
mod tests;
