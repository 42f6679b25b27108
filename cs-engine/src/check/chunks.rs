//! The chunks: their records, their files, their content.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rt::buf::Buf;
use rt::fs::File;

use super::report::{Finding, Problem, Report};
use super::{Context, disk, pages};
use crate::engine::history::{ChunkHistory, History, contents, resolve};
use crate::engine::recovery::{Content, Crash, Row};
use crate::engine::{ACTIVE_BLOCKS, JOURNAL, OpenError, Place, REGION_BLOCKS};
use crate::format::block::BlockState;
use crate::format::journal::JournalHeader;
use crate::format::record::{MAP_WORDS, RecordKind, u64_of};
use crate::format::table::{self, CRCS_PER_PAGE, ChunkHeader};
use crate::format::{BLOCK, crc32c};
use crate::journal::scan::Found;
use crate::store::{CHUNKS, DELETED, Store};
use crate::tables::{CRC_TABLE, META_TABLE, Slot};

/// Most blocks of one read.
const READ_BLOCKS: usize = 256;
/// Reads under way at once.
const AT_ONCE: usize = 4;
/// What a file may occupy beyond its size: the file system's own blocks are counted with it.
const OVERHEAD_MAX: u64 = 1 << 20;

/// What the journal says.
pub(super) struct Known {
    pub(super) history: History,
    pub(super) crash: Crash,
}

/// Checks that records of living chunks fit them.
pub(super) fn check_records(
    context: &Context<'_>,
    journal: &JournalHeader,
    records: &[Found],
    chunks: &BTreeMap<u64, Slot>,
    report: &mut Report,
) {
    let path = context.meta_dir.join(JOURNAL);
    for Found { lsn, record, .. } in records {
        let slot = chunks.get(&record.chunk).filter(|slot| *lsn >= slot.header.born);
        let Some(header) = slot.map(|slot| slot.header) else { continue };
        let blocks = header.size / BLOCK as u64;
        let mut add = |what| {
            let finding = Finding::at(&path, journal.offset(*lsn), Problem::Record { lsn: *lsn, what });
            report.add(finding.chunk(record.chunk));
        };
        if record.kind == RecordKind::Mark {
            let extents = blocks.div_ceil(u64::from(ACTIVE_BLOCKS)) as u32;
            if u64_of(&record.words).checked_shr(extents).unwrap_or(0) != 0 {
                add("marks extents behind the end of its chunk");
            }
        }
        if record.kind == RecordKind::Install {
            let regions = blocks.div_ceil(u64::from(REGION_BLOCKS)) as u32;
            let behind = |entry: &[u32]| {
                let first = entry[0] % MAP_WORDS * 32;
                first >= regions || regions - first < 32 && entry[1] >> (regions - first) != 0
            };
            if record.entries().any(behind) {
                add("names regions behind the end of its chunk");
            }
        }
        if record.kind.is_write() && u64::from(record.first) + u64::from(record.count) > blocks {
            add("is about blocks behind the end of its chunk");
        }
        if (record.kind.is_write() || record.kind == RecordKind::Install) && record.file != header.file {
            add("names another file than its chunk does");
        }
    }
}

/// Checks that no replica is younger than the journal.
pub(super) fn check_births(
    context: &Context<'_>,
    end: u64,
    chunks: &BTreeMap<u64, Slot>,
    report: &mut Report,
) {
    for Slot { slot, copy, header } in chunks.values().filter(|slot| slot.header.born > end) {
        let offset = table::Place::Meta { slot: *slot, copy: *copy }.offset();
        let problem = Problem::BornLater { born: header.born, end };
        report.add(Finding::at(&context.meta_dir.join(META_TABLE), offset, problem).chunk(header.chunk));
    }
}

/// Looks for files that belong to no chunk. What an interrupted creation or deletion leaves is none: the next start
/// clears it away.
pub(super) async fn check_strays(
    context: &Context<'_>,
    chunks: &BTreeMap<u64, Slot>,
    report: &mut Report,
) -> Result<(), OpenError> {
    let dir = context.dir.join(CHUNKS);
    let strays = match Store::new(context.dir, 0).strays(|chunk| chunks.contains_key(&chunk), |_| ()).await {
        Ok(strays) => strays,
        Err(error) => {
            let problem = match error.kind() {
                io::ErrorKind::NotFound => Problem::Missing("directory of the chunks"),
                io::ErrorKind::InvalidData => Problem::StrayName(error),
                _ => Problem::Unreadable(error),
            };
            report.add(Finding::of_file(&dir, problem));
            return Ok(());
        }
    };
    for stray in strays.into_iter().filter(|stray| !stray.deleted) {
        if stray.chunk.is_some() {
            let file = disk::open(&stray.path).await.map_err(|error| context.io(error))?;
            let occupied = match &file {
                Some(file) => file.allocated_bytes().await.map_err(|error| context.io(error))?,
                None => 0,
            };
            if occupied == 0 {
                continue;
            }
        }
        report.add(Finding { chunk: stray.chunk, ..Finding::of_file(&stray.path, Problem::Stray) });
    }
    Ok(())
}

/// A walk over the chunks.
pub(super) struct Walk<'a> {
    context: &'a Context<'a>,
    known: Option<&'a Known>,
    crc_table: Option<File>,
    store: Store,
    report: &'a mut Report,
}

/// A chunk's file and what is known of it.
struct Opened {
    path: PathBuf,
    file: Rc<File>,
    /// Whole blocks that are there.
    blocks: u32,
    /// Bytes of the file.
    len: u64,
    /// Bytes of the device.
    occupied: u64,
}

/// What is wrong with a block.
enum Bad {
    Mismatch,
    Unreadable(io::Error),
}

impl<'a> Walk<'a> {
    pub(super) async fn new(
        context: &'a Context<'a>,
        known: Option<&'a Known>,
        report: &'a mut Report,
    ) -> Result<Self, OpenError> {
        let mut crc_table = None;
        if !context.superblock.no_checksums {
            let path = context.meta_dir.join(CRC_TABLE);
            crc_table = disk::open(&path).await.map_err(|error| context.io(error))?;
            if crc_table.is_none() {
                report.add(Finding::of_file(&path, Problem::Missing("table of checksums")));
            }
        }
        Ok(Self { context, known, crc_table, store: Store::new(context.dir, 0), report })
    }

    /// Checks one chunk; `progress` is told the bytes done.
    pub(super) async fn chunk(
        &mut self,
        slot: &Slot,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), OpenError> {
        let header = slot.header;
        let opened = self.open(header.chunk).await;
        let table = self.table(slot).await?;
        let opened = match opened {
            Ok(opened) => opened,
            Err(finding) => {
                self.report.add(finding);
                return Ok(());
            }
        };
        let lost = table.iter().skip(opened.blocks as usize);
        let lost = lost.filter(|state| matches!(state, Some(BlockState::Data(_)))).count() as u64;
        if opened.len != header.size {
            let problem = Problem::FileSize { found: opened.len, size: header.size, lost };
            self.report.add(Finding::at(&opened.path, opened.len, problem).chunk(header.chunk));
        }
        if opened.occupied > header.size + OVERHEAD_MAX {
            let problem = Problem::FileExtents { found: opened.occupied, size: header.size };
            self.report.add(Finding::of_file(&opened.path, problem).chunk(header.chunk));
        }
        let Some(known) = self.known else { return Ok(()) };
        let history = known.history.chunks.get(&header.chunk);
        let left = match history {
            Some(history) => self.resolve(slot, history, known.crash, &opened, table).await,
            None => table,
        };
        self.content(slot, history, &opened, &left, progress).await;
        Ok(())
    }

    async fn open(&self, chunk: u64) -> Result<Opened, Finding> {
        let path = self.store.path(chunk);
        let unreadable = |path: &Path, error| Finding::of_file(path, Problem::Unreadable(error)).chunk(chunk);
        // Under its second name when a deletion was cut off before the header knew of it.
        for path in [path.clone(), path.with_extension(&DELETED[1..])] {
            let fail = |error| unreadable(&path, error);
            let Some(file) = disk::open(&path).await.map_err(fail)? else { continue };
            let (len, occupied) =
                (file.len().await.map_err(fail)?, file.allocated_bytes().await.map_err(fail)?);
            let blocks = u32::try_from(len / BLOCK as u64).unwrap_or(u32::MAX);
            return Ok(Opened { file: Rc::new(file), blocks, len, occupied, path });
        }
        Err(Finding::of_file(&path, Problem::FileMissing).chunk(chunk))
    }

    /// What the last checkpoint says of every block; `None` where nothing can be said.
    async fn table(&mut self, slot: &Slot) -> Result<Vec<Option<BlockState>>, OpenError> {
        let blocks = (slot.header.size / BLOCK as u64) as usize;
        if self.context.superblock.no_checksums {
            return Ok(vec![Some(BlockState::Unchecked); blocks]);
        }
        let Some(file) = &self.crc_table else { return Ok(vec![None; blocks]) };
        let known = self.known.map(|known| known.history.chunks.get(&slot.header.chunk));
        let expected = |page: u32| match known {
            Some(Some(history)) => {
                let blocks = page * CRCS_PER_PAGE..(page + 1) * CRCS_PER_PAGE;
                history.blocks.range(blocks).next().is_some()
            }
            Some(None) => false,
            // Without the journal nobody can tell.
            None => true,
        };
        pages::states(self.context, file, slot, expected, self.report).await
    }

    /// Decides every block that the journal speaks of, as the next start will. Gives the states of the others; those
    /// decided are holes in it, or to be read for their error.
    async fn resolve(
        &mut self,
        slot: &Slot,
        history: &ChunkHistory,
        crash: Crash,
        opened: &Opened,
        mut table: Vec<Option<BlockState>>,
    ) -> Vec<Option<BlockState>> {
        let chunk = slot.header.chunk;
        let in_doubt: Vec<u32> =
            history.in_doubt().into_iter().filter(|&block| block < opened.blocks).collect();
        let contents = contents(&opened.file, &in_doubt).await;
        for (&block, said) in &history.blocks {
            let state = &mut table[block as usize];
            let content = contents.get(&block).copied().unwrap_or(Content::Unreadable);
            let base = state.unwrap_or(BlockState::Unknown);
            let resolved = resolve(chunk, block, said, base, content, crash);
            *state = Some(BlockState::Hole);
            match resolved.entry.map(|entry| (entry.state, entry.place)) {
                Some((BlockState::Unknown, _)) if resolved.row == Row::Unreadable => {
                    *state = Some(BlockState::Unchecked);
                }
                Some((BlockState::Unknown, _)) => self.report.blocks_unsettled += 1,
                Some((BlockState::Lost, _)) => *state = Some(BlockState::Lost),
                Some((_, Place::Nowhere)) => {}
                Some((_, Place::Journal(_))) => {
                    // Its checksum was compared when the journal was read.
                    self.report.blocks_in_journal += 1;
                    self.report.bytes_verified += BLOCK as u64;
                }
                Some((_, Place::File)) => self.report.bytes_verified += BLOCK as u64,
                None => {
                    let data = matches!(base, BlockState::Data(_));
                    self.report.bytes_verified += u64::from(data) * BLOCK as u64;
                }
            }
        }
        table
    }

    /// Compares what the file holds with the checksums.
    async fn content(
        &mut self,
        slot: &Slot,
        history: Option<&ChunkHistory>,
        opened: &Opened,
        states: &[Option<BlockState>],
        progress: &mut dyn FnMut(u64),
    ) {
        let chunk = slot.header.chunk;
        let unknown = |state: &&Option<BlockState>| **state == Some(BlockState::Unknown);
        self.report.blocks_unsettled += states.iter().filter(unknown).count() as u64;
        let blocks: Vec<u32> = (0..)
            .zip(states)
            .filter(|(_, state)| **state == Some(BlockState::Lost))
            .map(|(b, _)| b)
            .collect();
        for run in blocks.chunk_by(|a, b| a + 1 == *b) {
            let blocks = run[0]..run[run.len() - 1] + 1;
            self.report.add(Finding::of_blocks(&opened.path, chunk, blocks, Problem::Lost));
        }
        let mut reading = VecDeque::new();
        let mut runs = runs(states, opened.blocks, opened.occupied > 0).into_iter();
        loop {
            while reading.len() < AT_ONCE
                && let Some(run) = runs.next()
            {
                let expected: Vec<BlockState> =
                    states[run.start as usize..run.end as usize].iter().copied().flatten().collect();
                let file = Rc::clone(&opened.file);
                let end = u64::from(run.end) * BLOCK as u64;
                reading.push_back((end, rt::spawn(verify(file, chunk, run, expected))));
            }
            let Some((end, read)) = reading.pop_front() else { return };
            // A task of ours ends only with a result.
            if let Ok((good, bad)) = read.await {
                self.report.bytes_verified += good * BLOCK as u64;
                self.note_bad(&slot.header, history, &opened.path, bad);
            }
            progress(end);
        }
    }

    /// Reports bad blocks, neighbours together; where a crash may have left data without its record they are
    /// unsettled, and what a joiner has not caught up with says nothing.
    fn note_bad(
        &mut self,
        header: &ChunkHeader,
        history: Option<&ChunkHistory>,
        path: &Path,
        bad: Vec<(u32, Bad)>,
    ) {
        let chunk = header.chunk;
        let installed = history.and_then(|history| history.installed.as_ref());
        let installed = installed.filter(|installed| installed.version >= header.version);
        let filling = installed.and_then(|installed| installed.standing.filling.as_ref());
        let is_missing =
            |block: u32| filling.is_some_and(|filling| filling.missing.contains(block / REGION_BLOCKS));
        let mut mismatch: Option<Range<u32>> = None;
        let mut mismatches = Vec::new();
        for (block, bad) in bad {
            let active = history.is_some_and(|history| history.marks.contains_key(&(block / ACTIVE_BLOCKS)));
            match bad {
                Bad::Mismatch if active => self.report.blocks_unsettled += 1,
                Bad::Mismatch if is_missing(block) => self.report.blocks_missing += 1,
                Bad::Mismatch => match &mut mismatch {
                    Some(run) if run.end == block => run.end += 1,
                    other => mismatches.extend(other.replace(block..block + 1)),
                },
                Bad::Unreadable(error) => {
                    let problem = Problem::Unreadable(error);
                    self.report.add(Finding::of_blocks(path, chunk, block..block + 1, problem));
                }
            }
        }
        for blocks in mismatches.into_iter().chain(mismatch) {
            self.report.add(Finding::of_blocks(path, chunk, blocks, Problem::Content));
        }
    }
}

/// The blocks to read: those with data, and those whose checksums are not kept unless the file is empty.
fn runs(states: &[Option<BlockState>], present: u32, occupied: bool) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for (block, state) in (0..present).zip(states) {
        let wanted = match state {
            Some(BlockState::Data(_)) => true,
            Some(BlockState::Unchecked) => occupied,
            _ => false,
        };
        if !wanted {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == block && run.len() < READ_BLOCKS => run.end += 1,
            _ => runs.push(block..block + 1),
        }
    }
    runs
}

/// Reads blocks and compares them; gives how many match and which do not.
async fn verify(
    file: Rc<File>,
    chunk: u64,
    run: Range<u32>,
    expected: Vec<BlockState>,
) -> (u64, Vec<(u32, Bad)>) {
    let (mut good, mut bad) = (0, Vec::new());
    let mut compare = |block, state: &BlockState, bytes: &[u8]| match state {
        BlockState::Data(stored) if stored.matches(crc32c(bytes), chunk, block) => good += 1,
        BlockState::Data(_) => bad.push((block, Bad::Mismatch)),
        _ => {}
    };
    let offset = |block| u64::from(block) * BLOCK as u64;
    let (result, buf) = file.read_exact_at(Buf::new(run.len() * BLOCK), offset(run.start)).await;
    if result.is_ok() {
        for ((block, state), bytes) in run.zip(&expected).zip(buf.chunks(BLOCK)) {
            compare(block, state, bytes);
        }
        return (good, bad);
    }
    let mut unreadable = Vec::new();
    for (block, state) in run.zip(&expected) {
        match file.read_exact_at(Buf::new(BLOCK), offset(block)).await {
            (Ok(()), buf) => compare(block, state, &buf),
            (Err(error), _) => unreadable.push((block, Bad::Unreadable(error))),
        }
    }
    bad.append(&mut unreadable);
    (good, bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_is_read() {
        let data = Some(BlockState::of_plain(1, 1, 1));
        let unchecked = Some(BlockState::Unchecked);
        let hole = Some(BlockState::Hole);
        let states = [data, data, hole, None, Some(BlockState::Unknown), unchecked, data, data];
        assert_eq!(runs(&states, 7, true), [0..2, 5..7]);
        assert_eq!(runs(&states, 7, false), [0..2, 6..7]);
        assert_eq!(runs(&[data; 600], 600, true), [0..256, 256..512, 512..600]);
    }
}
