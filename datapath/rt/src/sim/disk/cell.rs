//! One 4 KiB block of a file: what is stable and what was written since.

use std::rc::Rc;

/// Bytes of a block, the unit of allocation.
pub(in crate::sim) const BLOCK: usize = 4096;
/// Bytes of the smallest unit a device writes.
pub(super) const SECTOR: usize = 512;
/// The mask of all sectors of a block.
pub(super) const WHOLE: u8 = 0xff;

static ZEROES: [u8; BLOCK] = [0; BLOCK];

/// What a block holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// Nothing: not allocated, reads as zero.
    Hole,
    /// Allocated but never written: reads as zero.
    Unwritten,
    /// Data; `None` is all zero.
    Written(Option<Rc<[u8]>>),
}

impl Cell {
    /// A block of data; `bytes` has its whole length.
    pub(super) fn written(bytes: &[u8]) -> Self {
        Self::Written((bytes != ZEROES).then(|| Rc::from(bytes)))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Written(Some(bytes)) => bytes,
            _ => &ZEROES,
        }
    }

    pub(super) fn is_written(&self) -> bool {
        matches!(self, Self::Written(_))
    }

    /// This block after `top`'s sectors in `mask` have landed on it.
    pub(super) fn overlaid(&self, top: &Self, mask: u8) -> Self {
        if mask == WHOLE || !top.is_written() {
            return top.clone();
        }
        if mask == 0 {
            return self.clone();
        }
        let mut bytes = [0; BLOCK];
        bytes.copy_from_slice(self.bytes());
        for sector in (0..8).filter(|sector| mask >> sector & 1 == 1) {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            bytes[range.clone()].copy_from_slice(&top.bytes()[range]);
        }
        Self::written(&bytes)
    }
}

/// The sectors of a block that the bytes `from..to` of it touch.
pub(super) fn sectors(from: usize, to: usize) -> u8 {
    let (first, end) = (from / SECTOR, to.div_ceil(SECTOR));
    let below = |sector: usize| (1u16 << sector) - 1;
    (below(end) & !below(first)) as u8
}

/// What makes a change of a block durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// In place on a committed block, past the page cache: any flush of the device.
    Device,
    /// In place, but in the page cache or on a block whose allocation is not committed: a sync of the file.
    Own,
    /// A change of the allocation itself: a sync of the file, in order with the file's other such changes.
    Meta,
}

/// One change of a block that has completed and is not durable.
#[derive(Clone, Debug)]
pub(super) struct Version {
    /// The operation that made it.
    pub(super) seq: u64,
    /// The sectors it wrote.
    pub(super) mask: u8,
    pub(super) class: Class,
    /// It went past the page cache.
    pub(super) direct: bool,
    /// The whole block after it.
    pub(super) cell: Cell,
}

/// A block of a file.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// What a power cut leaves if nothing of `pending` lands.
    pub(super) durable: Cell,
    /// In the order of completion.
    pub(super) pending: Vec<Version>,
}

impl Block {
    pub(super) fn hole() -> Self {
        Self { durable: Cell::Hole, pending: Vec::new() }
    }

    /// What a read finds.
    pub(super) fn current(&self) -> &Cell {
        self.pending.last().map_or(&self.durable, |version| &version.cell)
    }

    /// The class of a write that completes now.
    pub(super) fn class(&self, direct: bool) -> Class {
        if !self.current().is_written() {
            Class::Meta
        } else if direct && self.is_committed() {
            Class::Device
        } else {
            Class::Own
        }
    }

    /// Whether the allocation of what is visible would survive a power cut.
    pub(super) fn is_committed(&self) -> bool {
        self.durable.is_written() && self.pending.iter().all(|version| version.class != Class::Meta)
    }

    /// Makes the one change `seq` durable; what it overwrote no longer matters.
    pub(super) fn land_one(&mut self, seq: u64) {
        let Some(at) = self.pending.iter().position(|version| version.seq == seq) else { return };
        let version = self.pending.remove(at);
        self.durable = self.durable.overlaid(&version.cell, version.mask);
        if at > 0 {
            for older in &mut self.pending[..at] {
                older.mask &= !version.mask;
            }
            self.pending.retain(|version| version.mask != 0);
        }
    }

    /// Makes every change up to `seq` durable, in order.
    pub(super) fn land_through(&mut self, seq: u64) {
        let count = self.pending.iter().take_while(|version| version.seq <= seq).count();
        for version in self.pending.drain(..count) {
            self.durable = self.durable.overlaid(&version.cell, version.mask);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(byte: u8) -> Cell {
        Cell::written(&[byte; BLOCK])
    }

    #[test]
    fn masks_name_the_touched_sectors() {
        for (from, to, mask) in
            [(0, 4096, 0xff), (0, 1, 1), (511, 513, 3), (512, 1024, 2), (3584, 4096, 0x80)]
        {
            assert_eq!(sectors(from, to), mask, "{from}..{to}");
        }
    }

    #[test]
    fn zeroes_take_no_memory_and_overlays_take_sectors() {
        assert_eq!(full(0), Cell::Written(None));
        let mixed = full(1).overlaid(&full(2), 0b10);
        assert_eq!((mixed.bytes()[511], mixed.bytes()[512], mixed.bytes()[1024]), (1, 2, 1));
        assert_eq!(full(1).overlaid(&Cell::Hole, WHOLE), Cell::Hole);
    }

    #[test]
    fn what_lands_late_does_not_hide_what_came_after_it() {
        let version =
            |seq, mask, byte| Version { seq, mask, class: Class::Own, direct: false, cell: full(byte) };
        let mut block = Block { durable: full(0), pending: vec![version(1, 0b11, 1), version(2, 0b10, 2)] };
        block.land_one(2);
        block.land_through(1);
        assert_eq!(
            (block.durable.bytes()[0], block.durable.bytes()[512], block.durable.bytes()[1024]),
            (1, 2, 0)
        );
        assert!(block.pending.is_empty());
    }
}
