//! The content of one file: sparse blocks, its size, and which changes of both are durable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::cell::{BLOCK, Block, Cell, Class, Version, WHOLE, sectors};

pub(super) type Ino = u64;

/// Unflushed changes of one block beyond which the device stops remembering them apart.
const VERSIONS_MAX: usize = 8;
/// Uncommitted changes of one file beyond which the file system commits by itself.
const OWN_MAX: usize = 8192;

/// A change of a block that any flush of the device makes durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dirty {
    /// A flush issued from here on covers it.
    pub(super) order: u64,
    pub(super) ino: Ino,
    pub(super) block: u64,
    pub(super) version: u64,
}

/// The write cache of the device, in the order of completion.
#[derive(Clone, Debug, Default)]
pub(super) struct Cache {
    /// Grows with every operation that changes something.
    pub(super) seq: u64,
    pub(super) dirty: VecDeque<Dirty>,
}

impl Cache {
    pub(super) fn next(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }
}

/// A file.
#[derive(Clone, Debug, Default)]
pub(in crate::sim) struct Content {
    pub(in crate::sim) size: u64,
    pub(super) durable_size: u64,
    /// Changes of the size that are not durable.
    pub(super) sizes: VecDeque<(u64, u64)>,
    pub(super) blocks: BTreeMap<u64, Block>,
    /// Changes that only a sync of this file makes durable: operation and block.
    own: VecDeque<(u64, u64)>,
    /// Blocks that are no holes.
    pub(super) allocated: u64,
    /// Blocks the device cannot read until they are written again.
    pub(super) unreadable: BTreeSet<u64>,
}

impl Content {
    /// Copies what is visible at `offset`; gives fewer bytes at the end of the file.
    pub(in crate::sim) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let count = self.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        self.visible(offset, &mut buf[..count], Block::current);
        count
    }

    /// Copies what would be there after a power cut that takes everything volatile.
    pub(in crate::sim) fn read_durable(&self, offset: u64, buf: &mut [u8]) -> usize {
        let count = self.durable_size.saturating_sub(offset).min(buf.len() as u64) as usize;
        self.visible(offset, &mut buf[..count], |block| &block.durable);
        count
    }

    fn visible(&self, offset: u64, buf: &mut [u8], pick: impl Fn(&Block) -> &Cell) {
        let mut at = 0;
        while at < buf.len() {
            let (index, from) = split(offset + at as u64);
            let count = (BLOCK - from).min(buf.len() - at);
            let target = &mut buf[at..at + count];
            match self.blocks.get(&index).map(&pick) {
                Some(cell) => target.copy_from_slice(&cell.bytes()[from..from + count]),
                None => target.fill(0),
            }
            at += count;
        }
    }

    /// How many holes a write to the range would fill.
    pub(super) fn holes(&self, offset: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let (first, last) = (offset / BLOCK as u64, (offset + len - 1) / BLOCK as u64);
        let used =
            self.blocks.range(first..=last).filter(|(_, block)| *block.current() != Cell::Hole).count();
        last - first + 1 - used as u64
    }

    /// Stores data as the change `seq`; the size is not touched.
    pub(super) fn store(
        &mut self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        seq: u64,
        direct: bool,
        cache: &mut Cache,
    ) {
        let mut at = 0;
        while at < data.len() {
            let (index, from) = split(offset + at as u64);
            let count = (BLOCK - from).min(data.len() - at);
            let part = &data[at..at + count];
            let block = self.blocks.entry(index).or_insert_with(Block::hole);
            let cell = if count == BLOCK {
                Cell::written(part)
            } else {
                let mut bytes = [0; BLOCK];
                bytes.copy_from_slice(block.current().bytes());
                bytes[from..from + count].copy_from_slice(part);
                Cell::written(&bytes)
            };
            let version =
                Version { seq, mask: sectors(from, from + count), class: block.class(direct), direct, cell };
            self.put(ino, index, version, cache);
            at += count;
        }
    }

    /// Adds a change of a block that exists in the map.
    fn put(&mut self, ino: Ino, index: u64, version: Version, cache: &mut Cache) {
        let block = self.blocks.get_mut(&index).expect("the caller has made it");
        let (seq, class) = (version.seq, version.class);
        match (*block.current() == Cell::Hole, version.cell == Cell::Hole) {
            (true, false) => self.allocated += 1,
            (false, true) => self.allocated -= 1,
            _ => {}
        }
        if !self.unreadable.is_empty() {
            self.unreadable.remove(&index);
        }
        block.pending.push(version);
        let crowded =
            (block.pending.len() > VERSIONS_MAX).then(|| (block.pending[0].seq, block.pending[0].class));
        if class == Class::Device {
            cache.dirty.push_back(Dirty { order: seq, ino, block: index, version: seq });
        } else {
            self.own.push_back((seq, index));
        }
        match crowded {
            Some((oldest, Class::Meta)) => self.commit(ino, oldest, cache),
            Some((oldest, _)) => self.land(index, oldest),
            None => {}
        }
        if self.own.len() > OWN_MAX {
            let (half, _) = self.own[OWN_MAX / 2];
            self.commit(ino, half, cache);
        }
    }

    /// Makes one change of one block durable.
    pub(super) fn land(&mut self, index: u64, seq: u64) {
        let Some(block) = self.blocks.get_mut(&index) else { return };
        block.land_one(seq);
        if block.durable == Cell::Hole && block.pending.is_empty() {
            self.blocks.remove(&index);
        }
    }

    /// What a sync of this file does for its changes up to `upto`: data, size and allocation become durable.
    pub(super) fn commit(&mut self, ino: Ino, upto: u64, cache: &mut Cache) {
        while let Some(&(seq, size)) = self.sizes.front()
            && seq <= upto
        {
            self.durable_size = size;
            self.sizes.pop_front();
        }
        while let Some(&(seq, index)) = self.own.front()
            && seq <= upto
        {
            self.own.pop_front();
            let Some(block) = self.blocks.get_mut(&index) else { continue };
            block.land_through(upto);
            if block.durable == Cell::Hole && block.pending.is_empty() {
                self.blocks.remove(&index);
                continue;
            }
            if !block.is_committed() {
                continue;
            }
            // The allocation is committed now: what was written meanwhile waits for a flush of the device only.
            for version in &mut block.pending {
                if version.class == Class::Own && version.direct {
                    version.class = Class::Device;
                    let order = cache.next();
                    cache.dirty.push_back(Dirty { order, ino, block: index, version: version.seq });
                }
            }
        }
    }

    /// Forgets to make changes up to `upto` durable at any later sync.
    pub(super) fn forget(&mut self, upto: u64) {
        self.own.retain(|(seq, _)| *seq > upto);
    }

    /// The operations that have changed the allocation or the size and are not durable, in order.
    pub(super) fn uncommitted(&self) -> Vec<u64> {
        let meta = |version: &&Version| version.class == Class::Meta;
        let changes = self
            .blocks
            .values()
            .flat_map(|block| block.pending.iter().filter(meta).map(|version| version.seq));
        let all: BTreeSet<u64> = changes.chain(self.sizes.iter().map(|(seq, _)| *seq)).collect();
        all.into_iter().collect()
    }

    /// Sets the size as the change `seq`.
    pub(super) fn resize(&mut self, size: u64, seq: u64) {
        if size != self.size {
            self.size = size;
            self.sizes.push_back((seq, size));
        }
    }

    /// Turns holes of the range into allocated blocks.
    pub(super) fn reserve(&mut self, ino: Ino, offset: u64, len: u64, seq: u64, cache: &mut Cache) {
        let end = offset + len;
        for index in offset / BLOCK as u64..end.div_ceil(BLOCK as u64) {
            let block = self.blocks.entry(index).or_insert_with(Block::hole);
            if *block.current() == Cell::Hole {
                self.put(ino, index, meta(seq, Cell::Unwritten), cache);
            }
        }
    }

    /// Makes the range read as zero: whole blocks become `cell` (a hole or unwritten), parts of blocks are written.
    pub(super) fn clear(
        &mut self,
        ino: Ino,
        offset: u64,
        len: u64,
        cell: &Cell,
        seq: u64,
        cache: &mut Cache,
    ) {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let (index, from) = split(at);
            let count = ((BLOCK - from) as u64).min(end - at);
            let whole = count == BLOCK as u64;
            if *cell == Cell::Hole && !self.blocks.contains_key(&index) {
                // Jump over what is a hole already.
                let next = self.blocks.range(index..).next().map_or(end, |(&next, _)| next * BLOCK as u64);
                at = next.max(at + count);
                continue;
            }
            let current = self.blocks.entry(index).or_insert_with(Block::hole).current();
            if whole && current != cell {
                self.put(ino, index, meta(seq, cell.clone()), cache);
            } else if !whole && current.is_written() {
                self.store(ino, at, &vec![0; count as usize], seq, true, cache);
            } else if !whole && *current == Cell::Hole && *cell == Cell::Unwritten {
                self.put(ino, index, meta(seq, Cell::Unwritten), cache);
            }
            at += count;
        }
    }

    /// Drops everything from `size` on, as truncation does; the size itself is set apart.
    pub(super) fn cut(&mut self, ino: Ino, size: u64, seq: u64, cache: &mut Cache) {
        let Some((&last, _)) = self.blocks.last_key_value() else { return };
        let end = (last + 1) * BLOCK as u64;
        if size < end {
            self.clear(ino, size, end - size, &Cell::Hole, seq, cache);
        }
    }

    /// The first block in use at or after `index`, else the first of all.
    pub(super) fn written_near(&self, index: u64) -> Option<u64> {
        let written = |(_, block): &(&u64, &Block)| block.current().is_written();
        let after = self.blocks.range(index..).find(written).or_else(|| self.blocks.iter().find(written));
        after.map(|(&index, _)| index)
    }

    /// Makes the blocks of a range of bytes fail reads until they are written.
    pub(in crate::sim) fn make_unreadable(&mut self, range: std::ops::Range<u64>) {
        self.unreadable.extend(range.start / BLOCK as u64..range.end.div_ceil(BLOCK as u64));
    }

    /// Flips one stored bit, wherever the block is kept.
    pub(in crate::sim) fn rot(&mut self, index: u64, byte: usize, bit: u8) -> bool {
        let Some(block) = self.blocks.get_mut(&index).filter(|block| block.current().is_written()) else {
            return false;
        };
        for cell in std::iter::once(&mut block.durable)
            .chain(block.pending.iter_mut().map(|version| &mut version.cell))
        {
            if cell.is_written() {
                let mut bytes = cell.bytes().to_vec();
                bytes[byte % BLOCK] ^= 1 << (bit % 8);
                *cell = Cell::written(&bytes);
            }
        }
        true
    }

    /// The same file with everything visible made durable.
    pub(super) fn settled(&self) -> Self {
        let blocks = self.blocks.iter().filter(|(_, block)| *block.current() != Cell::Hole);
        let blocks = blocks
            .map(|(&index, block)| (index, Block { durable: block.current().clone(), pending: Vec::new() }));
        Self::stable(self.size, blocks.collect(), self.unreadable.clone())
    }

    /// A file without volatile changes.
    pub(super) fn stable(size: u64, blocks: BTreeMap<u64, Block>, unreadable: BTreeSet<u64>) -> Self {
        let allocated = blocks.len() as u64;
        Self { size, durable_size: size, blocks, allocated, unreadable, ..Self::default() }
    }
}

fn meta(seq: u64, cell: Cell) -> Version {
    Version { seq, mask: WHOLE, class: Class::Meta, direct: true, cell }
}

fn split(offset: u64) -> (u64, usize) {
    (offset / BLOCK as u64, (offset % BLOCK as u64) as usize)
}
