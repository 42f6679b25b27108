//! Recovery: what the journal's records mean for block maps, marks and what is remembered of files.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::Engine;
use super::blocks::Place;
use super::chunk::{Chunk, Mark};
use super::files::{FileState, Unstable};
use super::history::{ChunkHistory, History, Life, Said, contents, resolve};
use super::recovery::{Content, Crash, Row};
use crate::format::block::BlockState;
use crate::format::record::{Record, RecordKind, u64_of};
use crate::format::table::CRCS_PER_PAGE;
use crate::journal::scan::Found;
use crate::store::ChunkFile;

/// What the crash left of writes.
#[derive(Debug, Default)]
struct Fate {
    /// LSN of the newest record of each block (chunk, block) that survived, 0 for none.
    survived: BTreeMap<(u64, u32), u64>,
    /// Writes (epoch, sequence number) of which a block (chunk, block) is lost.
    lost: BTreeSet<(u64, u32, u64, u64)>,
}

/// A write: file, epoch, sequence number.
type Write = (u64, u64, u64);

impl Engine {
    /// Applies the records found in the journal, oldest first. `clean`: nothing was under way when the last run ended.
    pub(super) async fn replay(self: &Rc<Self>, records: Vec<Found>, clean: bool) {
        for found in &records {
            self.replay_sessions(&found.record);
        }
        self.replay_installs(&records);
        let life = |chunk| {
            let chunks = self.chunks.borrow();
            chunks.get(&chunk).map(|chunk| Life { born: chunk.header.get().born, blocks: chunk.blocks() })
        };
        let history = History::read(&records, life);
        let mut fate = Fate::default();
        let mut lost = false;
        for (id, history) in &history.chunks {
            let chunk = self.chunks.borrow().get(id).map(Rc::clone);
            let Some(chunk) = chunk else { continue };
            self.adopt_marks(&chunk, history, clean);
            lost |= self.replay_chunk(&chunk, history, &mut fate).await;
        }
        let mut undone = BTreeSet::new();
        for found in &records {
            if life(found.record.chunk).is_none_or(|life| found.lsn >= life.born) {
                self.replay_outcome(found, &fate, &mut undone);
            }
        }
        // Of files that have no chunk here any more nothing needs to be remembered.
        self.files.borrow_mut().retain(|_, file| file.chunks.get() > 0);
        self.records.set(records.len());
        if lost {
            self.journal().hold_durable(true);
            self.checkpoint_wanted.notify_one();
        }
    }

    /// Fences, sessions and watermarks.
    fn replay_sessions(&self, record: &Record) {
        match record.kind {
            RecordKind::Fence => {
                for entry in record.entries() {
                    let state = self.file_state(u64_of(entry));
                    state.raise_fence(u64_of(&entry[2..]));
                    // It is made durable before anything is served.
                    state.complete_fence(u64_of(&entry[2..]));
                }
            }
            RecordKind::Sessions => {
                for entry in record.entries() {
                    self.file_state(u64_of(entry)).replay(u64_of(&entry[2..]), u64_of(&entry[4..]), 0);
                }
            }
            RecordKind::Outcomes => self.file_state(record.file).replay(record.epoch, record.done, 0),
            kind if kind.is_write() && !record.copied => {
                self.file_state(record.file).replay(record.epoch, record.done, record.stable);
            }
            _ => {}
        }
    }

    fn adopt_marks(&self, chunk: &Rc<Chunk>, history: &ChunkHistory, clean: bool) {
        if history.marks.is_empty() {
            return;
        }
        let suspect = (!clean).then(|| self.file_state(chunk.file).epoch());
        let lost = !clean && self.superblock.borrow().boot_id != self.boot_id;
        let marks = history.marks.iter().map(|(&extent, &lsn)| (extent, Mark { lsn, suspect, lost }));
        chunk.active.borrow_mut().extend(marks);
        self.marked.borrow_mut().insert(chunk.id, Rc::clone(chunk));
    }

    /// Decides every block of a chunk that the journal speaks of; whether an in-place write was lost.
    async fn replay_chunk(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        history: &ChunkHistory,
        fate: &mut Fate,
    ) -> bool {
        let in_doubt = history.in_doubt();
        let in_place = history.blocks.values().flatten().any(|said| said.in_place);
        let file = if in_place { self.chunk_file(chunk).await.ok() } else { None };
        let contents = match &file {
            Some(file) => {
                // What a killed server wrote may be volatile, and in extents that nobody has committed.
                file.set_uncommitted();
                contents(file.file(), &in_doubt).await
            }
            None => BTreeMap::new(),
        };
        let kept = self.superblock.borrow().boot_id == self.boot_id;
        let crash = Crash { durable: self.journal().durable(), kept };
        let mut lost = false;
        let mut not_arrived = 0;
        let mut entries = Vec::new();
        let blocks: Vec<u32> = history.blocks.keys().copied().collect();
        for same_page in blocks.chunk_by(|a, b| a / CRCS_PER_PAGE == b / CRCS_PER_PAGE) {
            let first = same_page[0];
            self.tables.expect_unborn(chunk.slot, first / CRCS_PER_PAGE);
            let base = self.table_states(chunk, first..same_page[same_page.len() - 1] + 1).await;
            for &block in same_page {
                // A damaged page has been reported.
                let base = base.as_ref().map_or(BlockState::Unknown, |base| base[(block - first) as usize]);
                let content = contents.get(&block).copied().unwrap_or(Content::Unreadable);
                let said = &history.blocks[&block];
                let resolved = resolve(chunk.id, block, said, base, content, crash);
                note_row(chunk, block, resolved.row);
                not_arrived += u32::from(resolved.row == Row::NotArrived);
                lost |= !matches!(resolved.row, Row::InPlaceNewest | Row::Redo);
                fate.note(chunk.id, block, said, resolved.survived);
                entries.extend(resolved.entry.map(|entry| (block, entry)));
            }
        }
        let moved: Vec<u32> = entries
            .iter()
            .filter(|(_, e)| matches!(e.place, Place::Journal(_)))
            .map(|(block, _)| *block)
            .collect();
        if not_arrived > 0 {
            tracing::info!(
                "chunk {:#x}: {not_arrived} blocks of writes that had not arrived when the server was killed: they are sent again, \
                 or settled",
                chunk.id
            );
        }
        if !entries.is_empty() {
            self.note_entries(chunk, entries.into_iter());
        }
        self.reserve(chunk, file, &moved).await;
        lost
    }

    /// Reserves space again for what a checkpoint will move, before requests can take it: a crash may have taken the
    /// reservation back.
    async fn reserve(&self, chunk: &Chunk, file: Option<Rc<ChunkFile>>, blocks: &[u32]) {
        if blocks.is_empty() {
            return;
        }
        let file = match file {
            Some(file) => file,
            None => match self.chunk_file(chunk).await {
                Ok(file) => file,
                // A lost replica: reads report it.
                Err(_reported) => return,
            },
        };
        for run in blocks.chunk_by(|a, b| a + 1 == *b) {
            if let Err(refusal) = self.allocate(&file, run[0]..run[0] + run.len() as u32).await {
                tracing::warn!("chunk {:#x}: {refusal}; its journaled writes wait for space", chunk.id);
                return;
            }
        }
    }

    /// A write counts as carried out only if its data survived; what survived of it is not yet stable. In the order
    /// of the journal, because a write may have been sent again.
    fn replay_outcome(&self, found: &Found, fate: &Fate, undone: &mut BTreeSet<Write>) {
        let record = &found.record;
        self.replay_joining(found);
        match record.kind {
            RecordKind::Outcomes if !rt::sim::planted("dedup-lost") => {
                let state = self.file_state(record.file);
                for &ahead in &record.words {
                    let seq = record.done + u64::from(ahead);
                    if !undone.contains(&(record.file, record.epoch, seq)) {
                        state.done(record.epoch, seq);
                    }
                }
            }
            RecordKind::Unstable => {
                let state = self.file_state(record.file);
                for entry in record.entries() {
                    let write = Unstable { chunk: u64_of(entry), first: entry[3], count: entry[4] };
                    let born = self.chunks.borrow().get(&write.chunk).map(|chunk| chunk.header.get().born);
                    if born.is_some_and(|born| found.lsn >= born) {
                        let (epoch, seq) = (record.epoch, record.seq + u64::from(entry[2]));
                        let left = |block: &u32| !fate.lost.contains(&(write.chunk, *block, epoch, seq));
                        let blocks: Vec<u32> = write.blocks().filter(left).collect();
                        list_unstable(&state, epoch, seq, write.chunk, &blocks);
                    }
                }
            }
            RecordKind::Clear => self.file_state(record.file).clear_unstable(record.chunk, record.epoch),
            kind if kind.is_write() && !record.copied => self.replay_write(found, fate, undone),
            _ => {}
        }
    }

    fn replay_write(&self, found: &Found, fate: &Fate, undone: &mut BTreeSet<Write>) {
        let record = &found.record;
        let state = self.file_state(record.file);
        let blocks: Vec<u32> = (record.first..record.first + record.count)
            .filter(|block| fate.survived.get(&(record.chunk, *block)).is_some_and(|&lsn| lsn >= found.lsn))
            .collect();
        list_unstable(&state, record.epoch, record.seq, record.chunk, &blocks);
        let write = (record.file, record.epoch, record.seq);
        if blocks.len() < record.count as usize {
            undone.insert(write);
            state.undo(record.epoch, record.seq);
        } else if !record.part {
            undone.remove(&write);
            if !rt::sim::planted("dedup-lost") {
                state.done(record.epoch, record.seq);
            }
        }
    }
}

impl Fate {
    fn note(&mut self, chunk: u64, block: u32, said: &[Said], survived: u64) {
        self.survived.insert((chunk, block), survived);
        let write = |said: &Said| (chunk, block, said.entry.epoch, said.entry.seq);
        let (left, lost): (Vec<_>, Vec<_>) = said.iter().partition(|said| said.entry.lsn <= survived);
        self.lost.extend(lost.iter().copied().map(write));
        // The same content may have been written twice, by its writer and by a reconciler.
        for said in left {
            self.lost.remove(&write(said));
        }
    }
}

/// Lists blocks of a write, in ascending order, as not yet stable.
fn list_unstable(file: &FileState, epoch: u64, seq: u64, chunk: u64, blocks: &[u32]) {
    for run in blocks.chunk_by(|a, b| a + 1 == *b) {
        file.add_unstable(epoch, seq, Unstable { chunk, first: run[0], count: run.len() as u32 });
    }
}

fn note_row(chunk: &Chunk, block: u32, row: Row) {
    rt::sim::hit(row.name());
    if let Row::Overwritten | Row::Torn | Row::Unreadable = row {
        tracing::warn!("chunk {:#x}, block {block}: {row:?}; the other members must settle it", chunk.id);
    }
}
