//! The content a write leaves behind: checked against the checksums that came with it, parts of blocks merged
//! with what was there, split where it takes more than one record (C8).

use std::ops::Range;
use std::rc::Rc;

use rt::buf::{Buf, View};

use super::write::{Checked, WriteKind};
use super::{ACTIVE_BLOCKS, Engine, MAX_DATA, Refusal};
use crate::format::block::BlockState;
use crate::format::journal::{GROUP_HEADER, GROUP_MAX};
use crate::format::record::FIXED;
use crate::format::{BLOCK, crc32c};

/// Most blocks of one part: an extent, and what an unaligned write adds.
const PART_BLOCKS: u32 = ACTIVE_BLOCKS + 1;

const _: () = assert!(
    GROUP_HEADER + FIXED + 4 * PART_BLOCKS as usize + BLOCK + PART_BLOCKS as usize * BLOCK <= GROUP_MAX,
    "a part fits a group"
);
const _: () = assert!(MAX_DATA < u32::MAX as usize && MAX_DATA.is_multiple_of(BLOCK));

/// Blocks of a write that take one record.
pub(super) struct Part {
    pub(super) blocks: Range<u32>,
    /// No block of it had to be merged with its old content.
    pub(super) whole: bool,
    pub(super) content: PartContent,
}

/// What becomes of the blocks.
pub(super) enum PartContent {
    Zero,
    Data {
        /// Whole blocks.
        payload: View,
        /// Stored checksums, one per block.
        words: Vec<u32>,
    },
}

impl Engine {
    /// The parts of a write. Its range is locked.
    pub(super) async fn parts(self: &Rc<Self>, write: &Checked<'_>) -> Result<Vec<Part>, Refusal> {
        let request = write.request;
        let (from, to) =
            (request.offset as usize % BLOCK, (request.offset as usize + request.len as usize) % BLOCK);
        let whole = from == 0 && to == 0;
        match &request.kind {
            WriteKind::Zero if whole => {
                Ok(vec![Part { blocks: write.blocks.clone(), whole, content: PartContent::Zero }])
            }
            WriteKind::Zero => Box::pin(self.zero_parts(write, from, to)).await,
            WriteKind::Data { payload, crcs } => {
                verify(payload, crcs, from, write.blocks.start)?;
                if whole {
                    let chunk = write.chunk.id;
                    let stored = write.blocks.clone().zip(crcs);
                    let words = stored.map(|(block, crc)| BlockState::of_plain(*crc, chunk, block).to_raw());
                    return Ok(split(
                        write.blocks.clone(),
                        payload,
                        &words.collect::<Vec<_>>(),
                        [true, true],
                    ));
                }
                let merge = self.merge(write, write.blocks.clone(), from, to, Some(payload));
                let (merged, words) = Box::pin(merge).await?;
                Ok(split(write.blocks.clone(), &merged, &words, [from == 0, to == 0]))
            }
        }
    }

    /// Zeroing parts of blocks merges them; whole blocks between them become holes.
    async fn zero_parts(
        self: &Rc<Self>,
        write: &Checked<'_>,
        from: usize,
        to: usize,
    ) -> Result<Vec<Part>, Refusal> {
        let Range { start, end } = write.blocks;
        let mut parts = Vec::new();
        let mut merged = Vec::new();
        if end - start == 1 {
            merged.push((start, from, to));
        } else {
            if from != 0 {
                merged.push((start, from, 0));
            }
            if to != 0 {
                merged.push((end - 1, 0, to));
            }
        }
        for (block, from, to) in merged {
            let blocks = block..block + 1;
            let (payload, words) = self.merge(write, blocks.clone(), from, to, None).await?;
            parts.push(Part { blocks, whole: false, content: PartContent::Data { payload, words } });
        }
        let between = start + u32::from(from != 0)..end - u32::from(to != 0);
        if !between.is_empty() {
            parts.push(Part { blocks: between, whole: true, content: PartContent::Zero });
        }
        Ok(parts)
    }

    /// Fills up the first and the last block with their old content, which is verified first (C8). The new content
    /// begins at byte `from` of the first block and ends before byte `to` of the last one, 0 for its end.
    async fn merge(
        self: &Rc<Self>,
        write: &Checked<'_>,
        blocks: Range<u32>,
        from: usize,
        to: usize,
        payload: Option<&View>,
    ) -> Result<(View, Vec<u32>), Refusal> {
        let chunk = write.chunk;
        let mut merged = Buf::zeroed(blocks.len() * BLOCK);
        let last = blocks.end - 1;
        if from != 0 {
            let head = self.read_blocks(chunk, blocks.start..blocks.start + 1).await?;
            merged[..BLOCK].copy_from_slice(&head);
        }
        if to != 0 && (last > blocks.start || from == 0) {
            let tail = self.read_blocks(chunk, last..blocks.end).await?;
            let at = merged.len() - BLOCK;
            merged[at..].copy_from_slice(&tail);
        }
        let end = merged.len() - if to == 0 { 0 } else { BLOCK - to };
        match payload {
            Some(payload) => merged[from..end].copy_from_slice(payload),
            None => merged[from..end].fill(0),
        }
        let words = merged.chunks(BLOCK).zip(blocks);
        let words = words.map(|(bytes, block)| BlockState::of_plain(crc32c(bytes), chunk.id, block).to_raw());
        let words = words.collect();
        Ok((merged.freeze(), words))
    }
}

/// Checks a payload against the checksums that came with it.
fn verify(payload: &View, crcs: &[u32], from: usize, first: u32) -> Result<(), Refusal> {
    let mut rest = &payload[..];
    for (index, crc) in crcs.iter().enumerate() {
        let len = if index == 0 { BLOCK - from } else { BLOCK };
        let (part, after) = rest.split_at(len.min(rest.len()));
        if crc32c(part) != *crc {
            return Err(Refusal::Damaged { block: first + index as u32 });
        }
        rest = after;
    }
    Ok(())
}

/// Splits whole blocks at the borders of extents, unless one record holds them all. `whole` says whether the first and
/// the last block came whole.
fn split(blocks: Range<u32>, payload: &View, words: &[u32], whole: [bool; 2]) -> Vec<Part> {
    let part = |part: Range<u32>| {
        let (from, to) = ((part.start - blocks.start) as usize, (part.end - blocks.start) as usize);
        let content = PartContent::Data {
            payload: payload.slice(from * BLOCK..to * BLOCK),
            words: words[from..to].to_vec(),
        };
        let whole = (part.start > blocks.start || whole[0]) && (part.end < blocks.end || whole[1]);
        Part { blocks: part, whole, content }
    };
    if blocks.len() as u32 <= PART_BLOCKS {
        return vec![part(blocks.clone())];
    }
    let mut parts = Vec::new();
    let mut at = blocks.start;
    while at < blocks.end {
        let end = blocks.end.min((at / ACTIVE_BLOCKS + 1) * ACTIVE_BLOCKS);
        parts.push(part(at..end));
        at = end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_writes_are_split_at_extents() {
        let shape = |blocks: Range<u32>, whole| -> Vec<(Range<u32>, bool)> {
            let payload = Buf::zeroed(blocks.len() * BLOCK).freeze();
            let words: Vec<u32> = blocks.clone().collect();
            let parts = split(blocks, &payload, &words, whole).into_iter().map(|part| {
                let PartContent::Data { payload, words } = part.content else { panic!("data stays data") };
                assert_eq!(payload.len(), part.blocks.len() * BLOCK);
                assert_eq!(words, part.blocks.clone().collect::<Vec<_>>());
                (part.blocks, part.whole)
            });
            parts.collect()
        };
        assert_eq!(shape(5..6, [false, true]), [(5..6, false)]);
        assert_eq!(shape(100..357, [true, true]), [(100..357, true)]);
        assert_eq!(
            shape(200..1000, [false, true]),
            [(200..256, false), (256..512, true), (512..768, true), (768..1000, true)]
        );
        assert_eq!(shape(0..512, [true, false]), [(0..256, true), (256..512, false)]);
    }

    #[test]
    fn damage_is_found_in_its_block() {
        let payload = View::copy_of(&vec![7; 3 * BLOCK]);
        let mut crcs =
            vec![crc32c(&payload[..BLOCK - 100]), crc32c(&payload[..BLOCK]), crc32c(&payload[..BLOCK])];
        crcs.push(crc32c(&payload[..100]));
        assert_eq!(verify(&payload, &crcs, 100, 40), Ok(()));
        crcs[2] ^= 1;
        assert_eq!(verify(&payload, &crcs, 100, 40), Err(Refusal::Damaged { block: 42 }));
    }
}
