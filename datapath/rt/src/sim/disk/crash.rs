//! What a power cut leaves of a disk.
//!
//! Each write in place that no flush has covered lands, is lost or is torn, independently of the others; each file's
//! changes of size and allocation survive up to a point in their order; names survive up to a point in theirs.

use std::collections::BTreeMap;

use super::cell::{Block, Cell, Class, SECTOR, WHOLE};
use super::content::Content;
use super::names::Node;
use super::{BLOCK, Effect, Fs, Target};
use crate::fs::Allocation;
use crate::random::Rng;
use crate::sim::hit;

/// An operation that the power cut interrupts.
#[derive(Debug)]
pub(in crate::sim) enum Interrupted {
    Write { target: Target, offset: u64, data: crate::buf::View },
    Allocate { target: Target, kind: Allocation, offset: u64, len: u64 },
    SetLen { target: Target, len: u64 },
    Remove { path: Vec<String> },
    Rename { from: Vec<String>, to: Vec<String> },
    CreateDir { path: Vec<String> },
}

/// The bias of one power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Mixed,
    LoseAll,
    KeepAll,
}

/// What becomes of one unflushed write.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lost,
    Kept,
    /// Each atomic unit for itself.
    Units(u64),
    /// Each block for itself.
    Blocks(u64),
    /// Everything before a block, and some units of it.
    Until(u64, u64),
    /// Everything after a block, and some units of it.
    From(u64, u64),
}

impl Fate {
    fn draw(first: u64, last: u64, mood: Mood, rng: &mut Rng) -> Self {
        let pivot = first + rng.below(last - first + 1);
        let salt = rng.next_u64();
        match (mood, rng.below(8)) {
            (Mood::LoseAll, _) | (Mood::Mixed, 0 | 1) => Self::Lost,
            (Mood::KeepAll, _) | (Mood::Mixed, 2 | 3) => Self::Kept,
            (_, 4) => Self::Units(salt),
            (_, 5) => Self::Blocks(salt),
            (_, 6) => Self::Until(pivot, salt),
            _ => Self::From(pivot, salt),
        }
    }

    /// The sectors that land of those in `mask` of a block.
    fn mask(self, block: u64, mask: u8, unit: usize) -> u8 {
        let units = |salt: u64| match unit {
            SECTOR => mask & coin(salt, block) as u8,
            _ if coin(salt, block) & 1 == 1 => mask,
            _ => 0,
        };
        match self {
            Self::Lost => 0,
            Self::Kept => mask,
            Self::Units(salt) => units(salt),
            Self::Blocks(salt) => {
                if coin(salt, block) & 1 == 1 {
                    mask
                } else {
                    0
                }
            }
            Self::Until(pivot, salt) | Self::From(pivot, salt) if block == pivot => units(salt),
            Self::Until(pivot, _) => {
                if block < pivot {
                    mask
                } else {
                    0
                }
            }
            Self::From(pivot, _) => {
                if block > pivot {
                    mask
                } else {
                    0
                }
            }
        }
    }
}

/// Eight random bits for a block of a write.
fn coin(salt: u64, block: u64) -> u64 {
    Rng::from_seed(salt ^ block.wrapping_mul(0x9E37_79B9_7F4A_7C15)).next_u64() >> 56
}

/// How much of each write in place has landed: sectors, of how many.
type Landed = BTreeMap<u64, (u32, u32)>;

impl Fs {
    /// Cuts the power while `interrupted` is in flight. Afterwards nothing is open and everything is durable.
    pub(in crate::sim) fn crash(&mut self, mut interrupted: Vec<Interrupted>) {
        while !interrupted.is_empty() {
            let next = self.rng.below(interrupted.len() as u64) as usize;
            let operation = interrupted.swap_remove(next);
            self.interrupt(operation);
        }
        let mood = match self.rng.below(8) {
            0 => Mood::LoseAll,
            1 => Mood::KeepAll,
            _ => Mood::Mixed,
        };
        let fates = self.fates(mood);
        let unit = self.options.atomic_unit as usize;
        let mut landed = Landed::new();
        for inode in self.names.inodes.values_mut() {
            if let Node::File(content) = &mut inode.node {
                let limit = commit_point(content, mood, &mut self.rng);
                *content = survive(content, limit, &fates, unit, &mut landed);
            }
        }
        count(&landed);
        self.crash_names(mood);
        self.cache.dirty.clear();
        self.recount();
    }

    /// An operation in flight may be done already, without anybody having been told: it becomes the last of its kind,
    /// and what is drawn for the others is drawn for it.
    fn interrupt(&mut self, operation: Interrupted) {
        if let Interrupted::Write { target, offset, data } = operation {
            // A full disk or an injected fault stops the write, which is one of the things that may happen anyway.
            let _stopped = self.write(&target, offset, &data, Effect::Whole);
            return;
        }
        if self.rng.one_in(2) {
            return;
        }
        let _refused = match operation {
            Interrupted::Allocate { target, kind, offset, len } => {
                self.allocate(target.ino, kind, offset, len)
            }
            Interrupted::SetLen { target, len } => self.set_len(target.ino, len),
            Interrupted::Remove { path } => self.remove_file(&path),
            Interrupted::Rename { from, to } => self.rename(&from, &to),
            Interrupted::CreateDir { path } => self.create_dir(&path),
            Interrupted::Write { .. } => Ok(()),
        };
    }

    /// Draws the fate of every unflushed write in place.
    fn fates(&mut self, mood: Mood) -> BTreeMap<u64, Fate> {
        let mut ranges: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for inode in self.names.inodes.values() {
            let Node::File(content) = &inode.node else { continue };
            for (&index, block) in content.blocks.iter().filter(|(_, block)| !block.pending.is_empty()) {
                for version in block.pending.iter().filter(|version| version.class != Class::Meta) {
                    let range = ranges.entry(version.seq).or_insert((index, index));
                    *range = (range.0.min(index), range.1.max(index));
                }
            }
        }
        let fate = |(seq, (first, last))| (seq, Fate::draw(first, last, mood, &mut self.rng));
        ranges.into_iter().map(fate).collect()
    }

    fn crash_names(&mut self, mood: Mood) {
        let pending = self.names.pending.len();
        let survive = match (mood, self.rng.below(4)) {
            (Mood::LoseAll, _) | (_, 0) => 0,
            (Mood::KeepAll, _) | (_, 1) => pending,
            _ => self.rng.below(pending as u64 + 1) as usize,
        };
        if survive < pending {
            hit("crash.name-lost");
        }
        if survive > 0 {
            hit("crash.name-kept");
        }
        self.names.crash(survive);
    }
}

/// The last change of size or allocation of a file that the file system happens to have committed.
fn commit_point(content: &Content, mood: Mood, rng: &mut Rng) -> u64 {
    let changes = content.uncommitted();
    let Some(&last) = changes.last() else { return 0 };
    match (mood, rng.below(4)) {
        (Mood::LoseAll, _) | (_, 0 | 1) => 0,
        (Mood::KeepAll, _) | (_, 2) => last,
        _ => changes[rng.below(changes.len() as u64) as usize],
    }
}

/// The file after the power cut.
fn survive(
    content: &Content,
    limit: u64,
    fates: &BTreeMap<u64, Fate>,
    unit: usize,
    landed: &mut Landed,
) -> Content {
    let mut size = content.durable_size;
    for (_, later) in content.sizes.iter().take_while(|(seq, _)| *seq <= limit) {
        size = *later;
    }
    if size != content.size {
        hit("crash.size-reverted");
    }
    let mut blocks = BTreeMap::new();
    for (&index, block) in &content.blocks {
        let mut cell = rest(index, block, limit, fates, unit, landed);
        let start = index * BLOCK as u64;
        if cell.is_written() && start + BLOCK as u64 > size {
            // What lies behind the end is given back when the file system recovers.
            if start >= size {
                cell = Cell::Hole;
            } else {
                let mut bytes = cell.bytes().to_vec();
                bytes[(size - start) as usize..].fill(0);
                cell = Cell::written(&bytes);
            }
        }
        if cell != Cell::Hole {
            blocks.insert(index, Block { durable: cell, pending: Vec::new() });
        }
    }
    Content::stable(size, blocks, content.unreadable.clone())
}

/// What is left of one block.
fn rest(
    index: u64,
    block: &Block,
    limit: u64,
    fates: &BTreeMap<u64, Fate>,
    unit: usize,
    landed: &mut Landed,
) -> Cell {
    let mut cell = block.durable.clone();
    let mut mapped = true;
    for version in &block.pending {
        if version.class == Class::Meta {
            mapped &= version.seq <= limit;
            if mapped {
                cell = cell.overlaid(&version.cell, version.mask);
            } else {
                hit("crash.allocation-lost");
            }
            continue;
        }
        let wanted = version.mask;
        let mask = match fates.get(&version.seq) {
            // Written to an allocation that never was: the bytes are somewhere, but not in this file.
            _ if !mapped || !cell.is_written() => 0,
            Some(fate) => fate.mask(index, wanted, unit),
            None => 0,
        };
        let entry = landed.entry(version.seq).or_default();
        *entry = (entry.0 + mask.count_ones(), entry.1 + wanted.count_ones());
        if mask != 0 && mask != wanted && wanted == WHOLE {
            hit("crash.block-torn");
        }
        cell = cell.overlaid(&version.cell, mask);
    }
    cell
}

fn count(landed: &Landed) {
    for (some, all) in landed.values() {
        hit(match some {
            0 => "crash.write-lost",
            some if some == all => "crash.write-kept",
            _ => "crash.write-torn",
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_choose_whole_units() {
        let land = |fate: Fate, unit| (0..64).map(|block| fate.mask(block, WHOLE, unit)).collect::<Vec<u8>>();
        assert_eq!(land(Fate::Lost, 512), [0; 64]);
        assert_eq!(land(Fate::Kept, 512), [WHOLE; 64]);
        let partial = |mask: &u8| *mask != 0 && *mask != WHOLE;
        assert!(land(Fate::Units(7), 512).iter().filter(|mask| partial(mask)).count() > 50);
        for fate in [Fate::Units(7), Fate::Blocks(7)] {
            let landed = land(fate, 4096);
            assert!(
                !landed.iter().any(partial) && landed.contains(&0) && landed.contains(&WHOLE),
                "{fate:?}"
            );
        }
        let until = land(Fate::Until(10, 7), 512);
        assert!(
            until[..10].iter().all(|mask| *mask == WHOLE) && partial(&until[10]) && until[11..] == [0; 53]
        );
        let from = land(Fate::From(10, 7), 512);
        assert!(from[..10] == [0; 10] && partial(&from[10]) && from[11..].iter().all(|mask| *mask == WHOLE));
    }

    #[test]
    fn only_written_sectors_can_land() {
        assert!((0..64).all(|block| Fate::Units(block).mask(block, 0b1010, 512) & !0b1010 == 0));
        assert_eq!(Fate::Kept.mask(0, 0b1010, 4096), 0b1010);
    }
}
