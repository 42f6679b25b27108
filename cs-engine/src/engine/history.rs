//! What the journal's records say of chunks: for every block its candidates, for every chunk its marks.
//!
//! Both recovery and the check of a stopped server read the journal through this.

use std::collections::BTreeMap;

use rt::buf::Buf;
use rt::fs::File;

use super::ACTIVE_BLOCKS;
use super::blocks::{COPIED, Entry, Place};
use super::recovery::{Candidate, Content, Crash, Decision, Row, decide, needs_content};
use super::standing::{Installed, joins};
use crate::format::block::BlockState;
use crate::format::record::{Record, RecordKind, u64_of};
use crate::format::{BLOCK, crc32c};
use crate::journal::scan::Found;

/// Most blocks read at once.
const READ_BLOCKS: usize = 256;

/// What a record said about one block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    pub(crate) entry: Entry,
    pub(crate) in_place: bool,
}

impl Said {
    fn candidate(&self) -> Candidate {
        match (self.in_place, self.entry.state) {
            (true, BlockState::Data(crc)) => {
                let copied = (self.entry.epoch, self.entry.seq) == COPIED;
                Candidate::InPlace { lsn: self.entry.lsn, crc, copied }
            }
            (_, BlockState::Data(crc)) => Candidate::Redo { lsn: self.entry.lsn, crc: Some(crc) },
            // A hole, or a block that is lost: the file's content counts for nothing.
            _ => Candidate::Redo { lsn: self.entry.lsn, crc: None },
        }
    }
}

/// The life of a replica: what the journal says of earlier ones does not count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) born: u64,
    pub(crate) blocks: u32,
}

/// What the journal says of one chunk.
#[derive(Debug, Default)]
pub(crate) struct ChunkHistory {
    /// Oldest first.
    pub(crate) blocks: BTreeMap<u32, Vec<Said>>,
    /// Active extents: LSN of the record that marked each.
    pub(crate) marks: BTreeMap<u32, u64>,
    newest_epoch: u64,
    /// Its newest version, if that is newer than the table's, and what the replica is under it.
    pub(crate) installed: Option<Installed>,
}

/// What the journal says of all chunks.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) chunks: BTreeMap<u64, ChunkHistory>,
}

impl History {
    /// Reads records, oldest first.
    pub(crate) fn read(records: &[Found], life: impl Fn(u64) -> Option<Life>) -> Self {
        let mut history = Self::default();
        for found in records {
            let record = &found.record;
            if record.kind == RecordKind::Unstable {
                // A checkpoint records lists before marks: it may be the first to speak of a chunk.
                for id in record.entries().map(u64_of) {
                    if life(id).is_some_and(|life| found.lsn >= life.born) {
                        let chunk = history.chunks.entry(id).or_default();
                        chunk.newest_epoch = chunk.newest_epoch.max(record.epoch);
                    }
                }
            }
            let about_chunk = record.kind.is_write()
                || matches!(record.kind, RecordKind::Mark | RecordKind::Clear | RecordKind::Install);
            let Some(life) = life(record.chunk).filter(|life| about_chunk && found.lsn >= life.born) else {
                continue;
            };
            let chunk = history.chunks.entry(record.chunk).or_default();
            match record.kind {
                RecordKind::Mark => chunk.mark(u64_of(&record.words), life, found.lsn),
                RecordKind::Clear => chunk.clear(record.epoch),
                RecordKind::Install => chunk.install(record, life),
                _ if record.first + record.count <= life.blocks => chunk.write(found),
                _ => {}
            }
        }
        history
    }
}

impl ChunkHistory {
    fn mark(&mut self, bits: u64, life: Life, lsn: u64) {
        for extent in (0..life.blocks.div_ceil(ACTIVE_BLOCKS)).filter(|extent| bits >> extent & 1 == 1) {
            self.marks.entry(extent).or_insert(lsn);
        }
    }

    fn install(&mut self, record: &Record, life: Life) {
        self.installed = Some(Installed::replay(self.installed.take(), record, life.blocks));
        if joins(record) {
            self.marks.clear();
        }
    }

    /// The members agreed on everything up to `epoch`. Marks that later writes may rely on stay.
    fn clear(&mut self, epoch: u64) {
        if self.newest_epoch <= epoch {
            self.marks.clear();
        }
    }

    fn write(&mut self, found: &Found) {
        let record = &found.record;
        self.newest_epoch = self.newest_epoch.max(record.epoch);
        for extent in super::chunk::extents(&(record.first..record.first + record.count)) {
            self.marks.entry(extent).or_insert(found.lsn);
        }
        for index in 0..record.count {
            let said =
                Said { entry: entry_of(record, found, index), in_place: record.kind == RecordKind::InPlace };
            self.blocks.entry(record.first + index).or_default().push(said);
        }
    }

    /// The blocks of which the file's content must be known.
    pub(crate) fn in_doubt(&self) -> Vec<u32> {
        let in_doubt = |said: &[Said]| needs_content(&candidates(said));
        self.blocks.iter().filter(|(_, said)| in_doubt(said)).map(|(&block, _)| block).collect()
    }
}

fn entry_of(record: &Record, found: &Found, index: u32) -> Entry {
    let place = match record.kind {
        RecordKind::Data => Place::Journal(found.payload + u64::from(index) * BLOCK as u64),
        RecordKind::Zero => Place::Nowhere,
        _ => Place::File,
    };
    let (epoch, seq) = if record.copied { COPIED } else { (record.epoch, record.seq) };
    Entry { lsn: found.lsn, epoch, seq, state: record.state(index), place }
}

/// Newest first.
fn candidates(said: &[Said]) -> Vec<Candidate> {
    said.iter().rev().map(Said::candidate).collect()
}

/// What became of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resolved {
    /// What is newer than the table; `None` when the table has it.
    pub(crate) entry: Option<Entry>,
    /// LSN of the newest record that survived, 0 for none.
    pub(crate) survived: u64,
    pub(crate) row: Row,
}

/// Decides a block; `said` is not empty.
pub(crate) fn resolve(
    chunk: u64,
    block: u32,
    said: &[Said],
    base: BlockState,
    content: Content,
    crash: Crash,
) -> Resolved {
    let (decision, row) =
        decide(&candidates(said), base, content, crash, |crc, plain| crc.matches(plain, chunk, block));
    let newest = said.len() - 1;
    match decision {
        Decision::Candidate(index) => {
            let entry = said[newest - index].entry;
            Resolved { entry: Some(entry), survived: entry.lsn, row }
        }
        Decision::Base => Resolved { entry: None, survived: 0, row },
        Decision::Unknown => {
            let entry = Entry { state: BlockState::Unknown, place: Place::File, ..said[newest].entry };
            Resolved { entry: Some(entry), survived: 0, row }
        }
    }
}

/// What a chunk's file holds in `blocks`, which ascend; neighbours are read together.
pub(crate) async fn contents(file: &File, blocks: &[u32]) -> BTreeMap<u32, Content> {
    let mut contents = BTreeMap::new();
    for run in blocks.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(READ_BLOCKS)) {
        let offset = u64::from(run[0]) * BLOCK as u64;
        let (result, buf) = file.read_exact_at(Buf::new(run.len() * BLOCK), offset).await;
        if result.is_ok() {
            contents.extend(
                run.iter().zip(buf.chunks(BLOCK)).map(|(&b, bytes)| (b, Content::Plain(crc32c(bytes)))),
            );
            continue;
        }
        for &block in run {
            let (result, buf) = file.read_exact_at(Buf::new(BLOCK), u64::from(block) * BLOCK as u64).await;
            contents.insert(block, result.map_or(Content::Unreadable, |()| Content::Plain(crc32c(&buf))));
        }
    }
    contents
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(chunk: u64) -> Option<Life> {
        (chunk == 7).then_some(Life { born: 100, blocks: 1024 })
    }

    fn write(lsn: u64, kind: RecordKind, first: u32, words: &[u32], epoch: u64) -> Found {
        let count = if kind == RecordKind::Zero { 1 } else { words.len() as u32 };
        let record =
            Record { chunk: 7, first, count, epoch, seq: lsn, words: words.to_vec(), ..Record::new(kind) };
        Found { lsn, payload: lsn + 4096, record }
    }

    fn special(lsn: u64, kind: RecordKind, epoch: u64, words: &[u32]) -> Found {
        let record = Record { chunk: 7, epoch, words: words.to_vec(), ..Record::new(kind) };
        Found { lsn, payload: 0, record }
    }

    #[test]
    fn earlier_lives_and_other_chunks_do_not_count() {
        let mut other = write(200, RecordKind::Data, 0, &[9], 1);
        other.record.chunk = 8;
        let records = [
            write(96, RecordKind::Data, 0, &[9], 1),
            special(98, RecordKind::Mark, 0, &[8, 0]),
            other,
            write(100, RecordKind::Data, 5, &[9, 10], 1),
            write(104, RecordKind::Data, 1023, &[9, 10], 1),
        ];
        let history = History::read(&records, life);
        assert_eq!(history.chunks.len(), 1);
        let chunk = &history.chunks[&7];
        assert_eq!(chunk.blocks.keys().copied().collect::<Vec<_>>(), [5, 6]);
        assert_eq!(chunk.blocks[&6][0].entry.place, Place::Journal(100 + 8192));
        assert_eq!(chunk.marks, BTreeMap::from([(0, 100)]));
    }

    #[test]
    fn marks_are_cleared_unless_later_writes_rely_on_them() {
        let before =
            [special(110, RecordKind::Mark, 0, &[0b1010, 0]), write(120, RecordKind::Zero, 600, &[], 3)];
        let marks = |more: &[Found]| {
            let records: Vec<Found> = before.iter().chain(more).cloned().collect();
            History::read(&records, life).chunks[&7].marks.keys().copied().collect::<Vec<_>>()
        };
        assert_eq!(marks(&[]), [1, 2, 3]);
        assert!(marks(&[special(130, RecordKind::Clear, 3, &[])]).is_empty());
        assert_eq!(marks(&[special(130, RecordKind::Clear, 2, &[])]), [1, 2, 3]);
        let unstable = special(125, RecordKind::Unstable, 4, &[7, 0, 0, 5, 1]);
        let listed_first = special(105, RecordKind::Unstable, 4, &[7, 0, 0, 5, 1]);
        let records = [&[listed_first], &before[..], &[special(130, RecordKind::Clear, 3, &[])]].concat();
        let history = History::read(&records, life);
        assert_eq!(history.chunks[&7].marks.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(marks(&[unstable, special(130, RecordKind::Clear, 3, &[])]), [1, 2, 3]);
        let later = [special(130, RecordKind::Clear, 3, &[]), write(140, RecordKind::InPlace, 0, &[77], 4)];
        assert_eq!(marks(&later), [0]);
    }

    #[test]
    fn the_chosen_record_becomes_the_entry() {
        let stored = |plain| BlockState::of_plain(plain, 7, 5).to_raw();
        let records = [
            write(100, RecordKind::Data, 5, &[stored(1)], 1),
            write(104, RecordKind::InPlace, 5, &[stored(2)], 1),
            write(108, RecordKind::InPlace, 5, &[stored(3)], 1),
        ];
        let history = History::read(&records, life);
        let chunk = &history.chunks[&7];
        assert_eq!(chunk.in_doubt(), [5]);
        let crash = Crash { durable: 0, kept: false };
        let resolved =
            |content| resolve(7, 5, &chunk.blocks[&5], BlockState::Hole, Content::Plain(content), crash);
        let summary = |content| {
            let resolved = resolved(content);
            (resolved.survived, resolved.entry.map(|entry| entry.lsn), resolved.row)
        };
        assert_eq!(summary(3), (108, Some(108), Row::InPlaceNewest));
        assert_eq!(summary(2), (104, Some(104), Row::InPlaceOlder));
        assert_eq!(summary(1), (100, Some(100), Row::RedoUnder));
        assert_eq!(summary(9), (0, Some(108), Row::Torn));
    }
}
