//! The table of headers: both copies of each.

use std::collections::BTreeMap;

use super::identity::{is_blank, is_later};
use super::report::{Finding, Problem, Report};
use super::{Context, disk};
use crate::engine::OpenError;
use crate::format::table::{ChunkHeader, META_SLOT, Place, SlotState, newer};
use crate::format::{BLOCK, FormatError};
use crate::tables::{META_TABLE, Slot, TableError};

/// Slots read at once.
const AT_ONCE: u32 = 128;

/// Checks every slot; gives those whose header is good.
pub(super) async fn check(context: &Context<'_>, report: &mut Report) -> Result<Vec<Slot>, OpenError> {
    let path = context.meta_dir.join(META_TABLE);
    let Some(file) = disk::open(&path).await.map_err(|error| context.io(error))? else {
        report.add(Finding::of_file(&path, Problem::Missing("table of chunk headers")));
        return Ok(Vec::new());
    };
    let len = file.len().await.map_err(|error| context.io(error))?;
    let count = u32::try_from(len.div_ceil(META_SLOT)).unwrap_or(u32::MAX);
    let mut slots = Vec::new();
    for first in (0..count).step_by(AT_ONCE as usize) {
        let some = AT_ONCE.min(count - first);
        let offset = Place::Meta { slot: first, copy: 0 }.offset();
        let buf = match disk::read_padded(&file, some as usize * META_SLOT as usize, offset).await {
            Ok(buf) => buf,
            Err(error) => {
                report.add(Finding::at(&path, offset, Problem::Unreadable(error)));
                continue;
            }
        };
        for (slot, pair) in (first..).zip(buf.as_chunks::<BLOCK>().0.as_chunks::<2>().0) {
            slots.extend(check_slot(context, slot, pair, report)?);
        }
    }
    Ok(slots)
}

/// Checks both copies of one header; gives the one that counts.
fn check_slot(
    context: &Context<'_>,
    slot: u32,
    pair: &[[u8; BLOCK]; 2],
    report: &mut Report,
) -> Result<Option<Slot>, OpenError> {
    let path = context.meta_dir.join(META_TABLE);
    let place = |copy| Place::Meta { slot, copy }.offset();
    let decoded = pair.each_ref().map(|copy| ChunkHeader::decode(copy, &context.superblock.store_uuid));
    let later = decoded.iter().find_map(|copy| copy.err().filter(is_later));
    if let Some(why) = later {
        let error = TableError::Header { slot, why };
        return Err(OpenError::Tables { dir: context.meta_dir.clone(), error });
    }
    let mut bad_copy = |copy: u8, why: FormatError, chunk: Option<u64>| {
        if context.tears() {
            report.copies_cut_off += 1;
        } else {
            report.add(Finding {
                chunk,
                ..Finding::at(&path, place(copy), Problem::HeaderCopy { slot, copy, why })
            });
        }
    };
    match newer(decoded, |header| header.sequence) {
        Ok((header, copy)) => {
            let other = 1 - copy;
            match decoded[usize::from(other)] {
                Err(_) if is_blank(&pair[usize::from(other)]) => {}
                Err(why) => bad_copy(other, why, Some(header.chunk)),
                Ok(old) if old.sequence == header.sequence && old != header => {
                    let problem = Problem::CopiesDiffer("a chunk's header");
                    report.add(Finding::at(&path, place(0), problem).chunk(header.chunk));
                }
                Ok(_) => {}
            }
            Ok(Some(Slot { slot, copy, header }))
        }
        Err(_) if pair.iter().all(is_blank) => Ok(None),
        // The first copy is written before the second: a chunk that was being made, which nobody was told of.
        Err([why, _]) if is_blank(&pair[1]) => {
            bad_copy(0, why, None);
            Ok(None)
        }
        Err([why, _]) => {
            report.add(Finding::at(&path, place(0), Problem::HeaderLost { slot, why }));
            Ok(None)
        }
    }
}

/// The replicas by chunk.
pub(super) fn live(context: &Context<'_>, slots: &[Slot], report: &mut Report) -> BTreeMap<u64, Slot> {
    let mut chunks: BTreeMap<u64, Slot> = BTreeMap::new();
    for slot in slots.iter().filter(|slot| slot.header.state == SlotState::Live) {
        if let Some(other) = chunks.insert(slot.header.chunk, *slot) {
            let offset = Place::Meta { slot: slot.slot, copy: slot.copy }.offset();
            let problem = Problem::HeaderTwice { first: other.slot, second: slot.slot };
            let path = context.meta_dir.join(META_TABLE);
            report.add(Finding::at(&path, offset, problem).chunk(slot.header.chunk));
        }
    }
    chunks
}
