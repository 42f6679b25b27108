//! Who the server is and what its journal says: superblock and journal.

use std::path::Path;

use rt::buf::Buf;
use rt::fs::File;

use super::report::{Finding, Problem, Report};
use super::{Context, disk};
use crate::engine::{OpenError, SUPERBLOCK, journal_place};
use crate::format::journal::{JournalHeader, RING_START};
use crate::format::superblock::{COPIES, Superblock};
use crate::format::{BLOCK, FormatError, is_zero};
use crate::journal::scan::{self, ScanError, Scanned};

/// Takes the directory's lock without opening anything for writing.
pub(super) async fn lock(dir: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::Io { dir: dir.to_owned(), error };
    let file = disk::open(&dir.join(SUPERBLOCK)).await.map_err(io)?;
    let file = file.ok_or_else(|| OpenError::NotThere(dir.to_owned()))?;
    if file.try_lock().await.map_err(io)? { Ok(file) } else { Err(OpenError::InUse(dir.to_owned())) }
}

/// Whether an error says that a later release wrote the structure, which is no damage.
pub(super) fn is_later(why: &FormatError) -> bool {
    matches!(why, FormatError::Version { .. } | FormatError::Features { .. })
}

/// Checks all copies; gives the state to go on with, if any.
pub(super) async fn check_superblock(
    dir: &Path,
    file: &File,
    report: &mut Report,
) -> Result<Option<Superblock>, OpenError> {
    let io = |error| OpenError::Io { dir: dir.to_owned(), error };
    let path = dir.join(SUPERBLOCK);
    if file.len().await.map_err(io)? < (COPIES * BLOCK) as u64 {
        let why = FormatError::Range { structure: "superblock", field: "file size" };
        report.add(Finding::of_file(&path, Problem::SuperblockUnusable { why }));
        return Ok(None);
    }
    let (result, buf) = file.read_exact_at(Buf::new(COPIES * BLOCK), 0).await;
    if let Err(error) = result {
        report.add(Finding::of_file(&path, Problem::Unreadable(error)));
        return Ok(None);
    }
    let copies: &[[u8; BLOCK]; COPIES] =
        buf.as_chunks::<BLOCK>().0.first_chunk().expect("the buffer holds every copy");
    let decoded = copies.each_ref().map(Superblock::decode);
    let superblock = match Superblock::choose(copies) {
        Ok(superblock) => superblock,
        Err(why) if is_later(&why) => return Err(OpenError::Superblock { dir: dir.to_owned(), why }),
        Err(why) => {
            report.add(Finding::of_file(&path, Problem::SuperblockUnusable { why }));
            // One good copy still tells where the rest is.
            let good = decoded.into_iter().flatten().max_by_key(|one| one.sequence);
            return Ok(good);
        }
    };
    // An update that was cut off leaves one of the two halves as it was.
    let (first, second) = decoded.split_at(COPIES / 2);
    let half_is_whole = [first, second].iter().any(|half| half.iter().all(Result::is_ok));
    let torn = !superblock.block_atomic && half_is_whole;
    for (copy, decoded) in decoded.iter().enumerate() {
        match decoded {
            Err(_) if torn => report.copies_cut_off += 1,
            Err(why) => {
                let problem = Problem::SuperblockCopy { copy, why: *why };
                report.add(Finding::at(&path, (copy * BLOCK) as u64, problem));
            }
            Ok(_) => {}
        }
    }
    let sequences = decoded.each_ref().map(|copy| copy.as_ref().ok().map(|one| one.sequence));
    if !are_of_updates(sequences, superblock.sequence) {
        let sequences = sequences.into_iter().flatten().collect();
        report.add(Finding::of_file(&path, Problem::SuperblockMixed { sequences }));
    }
    if superblock.failed {
        report.add(Finding::of_file(&path, Problem::Failed));
    }
    Ok(Some(superblock))
}

/// Whether the good copies, given by their sequence numbers, are what interrupted updates leave: each writes the first
/// half, flushes, writes the second one, in which a copy may be missed again and again. `chosen` is the state that counts.
fn are_of_updates(sequences: [Option<u64>; COPIES], chosen: u64) -> bool {
    let newest = sequences.iter().flatten().max().copied().unwrap_or(chosen);
    let (first, second) = sequences.split_at(COPIES / 2);
    let first_behind = first.iter().flatten().any(|&sequence| sequence < newest);
    newest <= chosen + 1 && !(first_behind && second.contains(&Some(newest)))
}

/// Checks the journal that the superblock names; gives it unless it is unusable. The open file holds its lock.
pub(super) async fn check_journal(
    context: &Context<'_>,
    report: &mut Report,
) -> Result<Option<(File, Scanned)>, OpenError> {
    let place = journal_place::find(&context.meta_dir, context.superblock, false).await;
    let path = place.map_err(|error| context.io(error))?;
    let Some(file) = disk::open(&path).await.map_err(|error| context.io(error))? else {
        report.add(Finding::of_file(&path, Problem::Missing("journal")));
        return Ok(None);
    };
    if !file.try_lock().await.map_err(|error| context.io(error))? {
        return Err(OpenError::InUse(path));
    }
    let superblock = context.superblock;
    let header = match check_header(context, &file, &path, report).await {
        Ok(header) => header,
        Err(error) => {
            report.add(Finding::of_file(&path, Problem::Journal(error)));
            return Ok(None);
        }
    };
    match scan::scan(&file, &superblock.store_uuid, superblock.journal_generation).await {
        Ok(scanned) => {
            if scanned.incarnation > superblock.incarnation {
                let (journal, superblock) = (scanned.incarnation, superblock.incarnation);
                let problem = Problem::SuperblockRolledBack { superblock, journal };
                report.add(Finding::of_file(&context.dir.join(SUPERBLOCK), problem));
            }
            Ok(Some((file, scanned)))
        }
        Err(ScanError::Header(why)) if is_later(&why) => {
            Err(OpenError::Journal { path, error: ScanError::Header(why) })
        }
        Err(error) => {
            let offset = match &error {
                ScanError::Damaged { lsn, .. } => Some(header.offset(*lsn)),
                _ => None,
            };
            report.add(Finding { offset, ..Finding::of_file(&path, Problem::Journal(error)) });
            Ok(None)
        }
    }
}

/// Checks both copies of the journal's header; gives the one that counts.
async fn check_header(
    context: &Context<'_>,
    file: &File,
    path: &Path,
    report: &mut Report,
) -> Result<JournalHeader, ScanError> {
    let (header, current) = scan::read_header(file).await?;
    if header.ring_bytes != context.superblock.journal_bytes {
        let (found, expected) = (header.ring_bytes, context.superblock.journal_bytes);
        report.add(Finding::at(
            path,
            u64::from(current) * BLOCK as u64,
            Problem::JournalSize { found, expected },
        ));
    }
    let buf = disk::read_padded(file, RING_START as usize, 0).await?;
    let copy = 1 - current;
    let bytes = &buf.as_chunks::<BLOCK>().0[usize::from(copy)];
    match JournalHeader::decode(bytes) {
        // Only copy 0 is written when a journal is made.
        Err(_) if is_blank(bytes) => {}
        Err(_) if context.tears() => report.copies_cut_off += 1,
        Err(why) => {
            let problem = Problem::JournalHeaderCopy { copy, why };
            report.add(Finding::at(path, u64::from(copy) * BLOCK as u64, problem));
        }
        Ok(other) if other.sequence == header.sequence && other != header => {
            report.add(Finding::of_file(path, Problem::CopiesDiffer("the journal's header")));
        }
        Ok(_) => {}
    }
    Ok(header)
}

/// Whether nothing was ever written.
pub(super) fn is_blank(block: &[u8; BLOCK]) -> bool {
    is_zero(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_the_superblock_are_of_interrupted_updates() {
        for (sequences, chosen, expected) in [
            ([5, 5, 5, 5], 5, true),
            ([6, 5, 5, 5], 5, true),
            ([5, 6, 5, 5], 5, true),
            ([6, 6, 5, 6], 6, true),
            ([6, 6, 6, 3], 6, true),
            ([0, 5, 5, 5], 5, true),
            ([0, 0, 5, 5], 5, true),
            ([5, 5, 6, 6], 6, false),
            ([5, 6, 6, 6], 6, false),
            ([6, 5, 0, 6], 6, false),
            ([7, 5, 5, 5], 5, false),
        ] {
            // 0: a bad copy.
            let copies = sequences.map(|sequence| (sequence > 0).then_some(sequence));
            assert_eq!(are_of_updates(copies, chosen), expected, "{sequences:?}");
        }
    }
}
