//! The volatile write cache: what it holds, how it is flushed, and what a power cut leaves of it.
//!
//! Every write since the last flush is kept whole, also one that a later write covered: the medium of a real drive may
//! have received any of the versions of a sector by the time the power goes. Pure logic over a [`Medium`].
//!
//! Rules:
//! - a read sees the newest write;
//! - a flush puts the newest write of every sector on the medium;
//! - a cut leaves in each sector one of the versions written to it since the last flush, or what the medium held;
//! - over its limit the cache moves writes to the medium by itself, in any order, as drives do. A write so moved is
//!   never undone, and no earlier write of the same sector lands on it later.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;

use super::extents::ExtentMap;
use crate::seeded::Seeded;

/// Where flushed sectors are. Offsets and lengths in bytes.
pub(super) trait Medium {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn zero_at(&self, offset: u64, len: u64) -> io::Result<()>;
}

impl Medium for File {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(self, out, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        FileExt::write_all_at(self, data, offset)
    }

    fn zero_at(&self, offset: u64, len: u64) -> io::Result<()> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(self, punch, offset, len)?)
    }
}

/// What a power cut left of the writes that no flush had covered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CutReport {
    /// Writes of which nothing was kept.
    pub writes_lost: u64,
    /// Writes kept whole.
    pub writes_kept: u64,
    /// Writes kept in part.
    pub writes_torn: u64,
    /// Unflushed sectors that went back to what the medium held.
    pub sectors_lost: u64,
    /// Unflushed sectors that hold their newest content.
    pub sectors_kept: u64,
    /// Unflushed sectors that hold a version between the flushed and the newest one.
    pub sectors_stale: u64,
}

/// One write since the last flush.
#[derive(Debug)]
struct Pending {
    first: u64,
    end: u64,
    /// `None` for zeroes, which need no memory.
    data: Option<Box<[u8]>>,
}

/// The writes since the last flush. Positions in sectors unless they say bytes.
#[derive(Debug)]
pub(super) struct VolatileCache {
    sector_bytes: u64,
    tear: bool,
    limit_bytes: u64,
    seeded: Seeded,
    last_write: u64,
    pending: BTreeMap<u64, Pending>,
    /// The newest write of each sector, as far as it is still pending.
    newest: ExtentMap,
    /// Sectors whose write was moved to the medium before a flush.
    moved: ExtentMap,
    held_bytes: u64,
}

impl VolatileCache {
    pub(super) fn new(sector_bytes: u32, tear: bool, limit_bytes: u64, seed: u64) -> Self {
        Self {
            sector_bytes: u64::from(sector_bytes),
            tear,
            limit_bytes,
            seeded: Seeded::new(seed),
            last_write: 0,
            pending: BTreeMap::new(),
            newest: ExtentMap::default(),
            moved: ExtentMap::default(),
            held_bytes: 0,
        }
    }

    /// Bytes of data held in memory.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Holds a write of whole sectors; `offset` in bytes.
    pub(super) fn write(&mut self, medium: &impl Medium, offset: u64, data: &[u8]) -> io::Result<()> {
        self.hold(medium, offset, data.len() as u64, Some(data.into()))
    }

    /// Holds a write of zeroes; `offset` and `len` in bytes, whole sectors.
    pub(super) fn zero(&mut self, medium: &impl Medium, offset: u64, len: u64) -> io::Result<()> {
        self.hold(medium, offset, len, None)
    }

    fn hold(
        &mut self,
        medium: &impl Medium,
        offset: u64,
        len: u64,
        data: Option<Box<[u8]>>,
    ) -> io::Result<()> {
        debug_assert!(offset.is_multiple_of(self.sector_bytes) && len.is_multiple_of(self.sector_bytes));
        if len == 0 {
            return Ok(());
        }
        let (first, end) = (offset / self.sector_bytes, (offset + len) / self.sector_bytes);
        self.last_write += 1;
        self.held_bytes += data.as_ref().map_or(0, |data| data.len() as u64);
        self.newest.raise(first, end, self.last_write);
        self.pending.insert(self.last_write, Pending { first, end, data });
        while self.held_bytes > self.limit_bytes {
            self.move_one(medium)?;
        }
        Ok(())
    }

    /// Moves one write of the seed's choice to the medium.
    fn move_one(&mut self, medium: &impl Medium) -> io::Result<()> {
        let Some((&oldest, _)) = self.pending.first_key_value() else { return Ok(()) };
        let from = oldest + self.seeded.below(self.last_write - oldest + 1);
        let chosen = self.pending.range(from..).next().map_or(oldest, |(&write, _)| write);
        let Some(pending) = self.pending.remove(&chosen) else { return Ok(()) };
        self.held_bytes -= pending.data.as_ref().map_or(0, |data| data.len() as u64);
        self.newest.remove(pending.first, pending.end, chosen);
        for (start, end) in self.moved.raise(pending.first, pending.end, chosen) {
            put(medium, self.sector_bytes, &pending, start, end)?;
        }
        Ok(())
    }

    /// Reads the newest content; `offset` in bytes, any alignment.
    pub(super) fn read(&self, medium: &impl Medium, offset: u64, out: &mut [u8]) -> io::Result<()> {
        medium.read_at(offset, out)?;
        let until = offset + out.len() as u64;
        let (first, end) = (offset / self.sector_bytes, until.div_ceil(self.sector_bytes));
        for extent in self.newest.within(first, end) {
            let Some(pending) = self.pending.get(&extent.write) else { continue };
            let from = (extent.start * self.sector_bytes).max(offset);
            let to = (extent.end * self.sector_bytes).min(until);
            let target = &mut out[(from - offset) as usize..(to - offset) as usize];
            match &pending.data {
                Some(data) => {
                    let begin = from - pending.first * self.sector_bytes;
                    target.copy_from_slice(&data[begin as usize..][..target.len()]);
                }
                None => target.fill(0),
            }
        }
        Ok(())
    }

    /// Puts everything on the medium.
    pub(super) fn flush(&mut self, medium: &impl Medium) -> io::Result<()> {
        for extent in self.newest.iter() {
            if let Some(pending) = self.pending.get(&extent.write) {
                put(medium, self.sector_bytes, pending, extent.start, extent.end)?;
            }
        }
        self.forget();
        Ok(())
    }

    /// Decides the fate of every pending write, puts on the medium what is kept, and holds nothing afterwards.
    pub(super) fn cut(&mut self, medium: &impl Medium) -> io::Result<CutReport> {
        let mut report = CutReport::default();
        let mut landed = ExtentMap::default();
        let plan = Plan::draw(&mut self.seeded, self.pending.len() as u64);
        for (rank, (&write, pending)) in self.pending.iter().enumerate() {
            let sectors = pending.end - pending.first;
            let mut fate = plan.fate(&mut self.seeded, rank as u64);
            if fate == Fate::Torn && (!self.tear || sectors == 1) {
                fate = if self.seeded.chance(50) { Fate::Kept } else { Fate::Lost };
            }
            let kept = match fate {
                Fate::Lost => Vec::new(),
                Fate::Kept => vec![(pending.first, pending.end)],
                Fate::Torn => tear(&mut self.seeded, pending.first, pending.end),
            };
            match kept.iter().map(|(start, end)| end - start).sum::<u64>() {
                0 => report.writes_lost += 1,
                all if all == sectors => report.writes_kept += 1,
                _ => report.writes_torn += 1,
            }
            for (start, end) in kept {
                landed.raise(start, end, write);
                for (start, end) in self.moved.raise(start, end, write) {
                    put(medium, self.sector_bytes, pending, start, end)?;
                }
            }
        }
        count_sectors(&self.newest, &landed, &mut report);
        self.forget();
        Ok(report)
    }

    fn forget(&mut self) {
        self.pending.clear();
        self.newest.clear();
        self.moved.clear();
        self.held_bytes = 0;
    }
}

/// Writes the sectors `start..end` of a pending write to the medium.
fn put(medium: &impl Medium, sector_bytes: u64, pending: &Pending, start: u64, end: u64) -> io::Result<()> {
    let (offset, len) = (start * sector_bytes, (end - start) * sector_bytes);
    match &pending.data {
        Some(data) => {
            let begin = (start - pending.first) * sector_bytes;
            medium.write_at(offset, &data[begin as usize..(begin + len) as usize])
        }
        None => medium.zero_at(offset, len),
    }
}

/// Compares what landed with what was newest.
fn count_sectors(newest: &ExtentMap, landed: &ExtentMap, report: &mut CutReport) {
    for wanted in newest.iter() {
        let mut lost = wanted.end - wanted.start;
        for got in landed.within(wanted.start, wanted.end) {
            let sectors = got.end - got.start;
            lost -= sectors;
            if got.write == wanted.write {
                report.sectors_kept += sectors;
            } else {
                report.sectors_stale += sectors;
            }
        }
        report.sectors_lost += lost;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lost,
    Kept,
    Torn,
}

/// The shape of one power cut. Each shape is the enemy of another wrong belief about drives.
#[derive(Debug, Clone, Copy)]
enum Plan {
    /// Every write for itself.
    Scattered,
    /// Nothing unflushed survives.
    AllLost,
    /// The drive wrote in order: all before this rank, torn at it, nothing after.
    Prefix(u64),
    /// The drive wrote the recent ones first: old ones lost, recent ones kept.
    RecentOnly(u64),
    /// All but this one.
    AllButOne(u64),
    /// Only this one.
    OnlyOne(u64),
}

impl Plan {
    fn draw(seeded: &mut Seeded, writes: u64) -> Self {
        let rank = if writes == 0 { 0 } else { seeded.below(writes) };
        match seeded.below(10) {
            0..4 => Self::Scattered,
            4 => Self::AllLost,
            5 => Self::Prefix(rank),
            6..8 => Self::RecentOnly(rank),
            8 => Self::AllButOne(rank),
            _ => Self::OnlyOne(rank),
        }
    }

    fn fate(self, seeded: &mut Seeded, rank: u64) -> Fate {
        let kept_if = |kept| if kept { Fate::Kept } else { Fate::Lost };
        match self {
            Self::Scattered => [Fate::Lost, Fate::Kept, Fate::Torn][seeded.below(3) as usize],
            Self::AllLost => Fate::Lost,
            Self::Prefix(last) | Self::RecentOnly(last) if rank == last => Fate::Torn,
            Self::Prefix(last) => kept_if(rank < last),
            Self::RecentOnly(first) => kept_if(rank > first),
            Self::AllButOne(one) => kept_if(rank != one),
            Self::OnlyOne(one) => kept_if(rank == one),
        }
    }
}

/// The sectors of `first..end` that a torn write leaves: its beginning, its end, or any.
fn tear(seeded: &mut Seeded, first: u64, end: u64) -> Vec<(u64, u64)> {
    let middle = first + 1 + seeded.below(end - first - 1);
    match seeded.below(3) {
        0 => vec![(first, middle)],
        1 => vec![(middle, end)],
        _ => (first..end).filter(|_| seeded.chance(50)).map(|sector| (sector, sector + 1)).collect(),
    }
}

#[cfg(test)]
mod tests;
