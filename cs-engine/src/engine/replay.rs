//! Recovery: what the journal's records mean for block maps, marks and what is remembered of files.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use rt::buf::Buf;

use super::blocks::{Entry, Place};
use super::chunk::Chunk;
use super::files::{FileState, Unstable};
use super::recovery::{Candidate, Content, Decision, decide, needs_content};
use super::{ACTIVE_BLOCKS, Engine};
use crate::format::block::BlockState;
use crate::format::record::{Record, RecordKind};
use crate::format::{BLOCK, crc32c};
use crate::journal::scan::Found;

/// What a record said about one block.
#[derive(Clone, Copy, Debug)]
struct Said {
    entry: Entry,
    in_place: bool,
}

impl Said {
    fn candidate(&self) -> Candidate {
        match (self.in_place, self.entry.state) {
            (true, BlockState::Data(crc)) => Candidate::InPlace { lsn: self.entry.lsn, crc },
            _ => Candidate::Redo { lsn: self.entry.lsn },
        }
    }
}

impl Engine {
    /// Applies the records found in the journal, oldest first, then decides every block they touch.
    pub(crate) async fn replay(self: &Rc<Self>, records: Vec<Found>, durable: u64) -> io::Result<()> {
        let mut said: BTreeMap<u64, BTreeMap<u32, Vec<Said>>> = BTreeMap::new();
        for found in &records {
            self.replay_file(&found.record);
            self.replay_blocks(found, &mut said);
        }
        let mut resolved: BTreeMap<(u64, u32), u64> = BTreeMap::new();
        for (id, blocks) in said {
            let chunk = self.chunks.borrow().get(&id).map(Rc::clone);
            let Some(chunk) = chunk else { continue };
            for (block, mut history) in blocks {
                history.reverse();
                let entry = self.resolve(&chunk, block, &history, durable).await?;
                resolved.insert((id, block), entry.map_or(0, |entry| entry.lsn));
                if let Some(entry) = entry {
                    self.note_entries(&chunk, std::iter::once((block, entry)));
                }
            }
        }
        for found in &records {
            self.replay_outcome(found, &resolved);
        }
        Ok(())
    }

    /// Fences, sessions, watermarks, marks.
    fn replay_file(&self, record: &Record) {
        let state = self.file_state(record.file);
        match record.kind {
            RecordKind::Fence => state.raise_fence(record.epoch),
            RecordKind::Outcomes => {
                state.advance(record.epoch, record.done, 0);
                for &word in &record.words {
                    state.restore_outcome(record.epoch, record.done + u64::from(word));
                }
            }
            RecordKind::Data | RecordKind::InPlace | RecordKind::Zero => {
                state.advance(record.epoch, record.done, record.stable);
            }
            RecordKind::Clear => state.clear_unstable(record.chunk, record.epoch),
            RecordKind::Unstable => {
                let write = Unstable { chunk: record.chunk, first: record.first, count: record.count };
                state.add_unstable(record.epoch, record.seq, write);
            }
            RecordKind::Mark | RecordKind::Delta => {}
        }
    }

    fn replay_blocks(&self, found: &Found, said: &mut BTreeMap<u64, BTreeMap<u32, Vec<Said>>>) {
        let record = &found.record;
        let chunk = self.chunks.borrow().get(&record.chunk).map(Rc::clone);
        let Some(chunk) = chunk else { return };
        if record.kind == RecordKind::Mark {
            let first = record.first.saturating_mul(ACTIVE_BLOCKS);
            let end = (record.first + record.count).saturating_mul(ACTIVE_BLOCKS).min(chunk.blocks());
            chunk.mark(first..end, found.lsn);
            return;
        }
        if !matches!(record.kind, RecordKind::Data | RecordKind::InPlace | RecordKind::Zero)
            || record.first + record.count > chunk.blocks()
        {
            return;
        }
        chunk.mark(record.first..record.first + record.count, found.lsn);
        let blocks = said.entry(record.chunk).or_default();
        for index in 0..record.count {
            let place = match record.kind {
                RecordKind::Data => Place::Journal(found.payload + u64::from(index) * BLOCK as u64),
                RecordKind::Zero => Place::Nowhere,
                _ => Place::File,
            };
            let state = record.state(index);
            let entry = Entry { lsn: found.lsn, epoch: record.epoch, seq: record.seq, state, place };
            let in_place = record.kind == RecordKind::InPlace;
            blocks.entry(record.first + index).or_default().push(Said { entry, in_place });
        }
    }

    /// Decides one block; `None` when it is what the table says.
    async fn resolve(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        block: u32,
        history: &[Said],
        durable: u64,
    ) -> io::Result<Option<Entry>> {
        let candidates: Vec<Candidate> = history.iter().map(Said::candidate).collect();
        let content = if needs_content(&candidates) { self.content_of(chunk, block).await? } else { Content::Unreadable };
        let base = match self.table_states(chunk, block..block + 1).await {
            Ok(states) => states[0],
            Err(_) => BlockState::Unknown,
        };
        let (decision, row) =
            decide(&candidates, base, content, durable, |crc, plain| crc.matches(plain, chunk.id, block));
        rt::sim::hit(row.name());
        Ok(match decision {
            Decision::Candidate(index) => Some(history[index].entry),
            Decision::Base => None,
            Decision::Unknown => {
                tracing::warn!("chunk {:#x}, block {block}: {row:?}; the other members must settle it", chunk.id);
                Some(Entry { state: BlockState::Unknown, place: Place::File, ..history[0].entry })
            }
        })
    }

    async fn content_of(self: &Rc<Self>, chunk: &Rc<Chunk>, block: u32) -> io::Result<Content> {
        let Ok(file) = self.chunk_file(chunk).await else { return Ok(Content::Unreadable) };
        let (result, buf) = file.file().read_exact_at(Buf::new(BLOCK), u64::from(block) * BLOCK as u64).await;
        Ok(match result {
            Ok(()) => Content::Plain(crc32c(&buf)),
            Err(_) => Content::Unreadable,
        })
    }

    /// A write counts as carried out only if its data survived; what survived of it is not yet stable.
    fn replay_outcome(&self, found: &Found, resolved: &BTreeMap<(u64, u32), u64>) {
        let record = &found.record;
        if !matches!(record.kind, RecordKind::Data | RecordKind::InPlace | RecordKind::Zero) {
            return;
        }
        let state: Rc<FileState> = self.file_state(record.file);
        let survived = |block: u32| resolved.get(&(record.chunk, block)).is_some_and(|&lsn| lsn >= found.lsn);
        let mut whole = true;
        let mut run: Option<Unstable> = None;
        for block in record.first..record.first + record.count {
            if !survived(block) {
                whole = false;
                if let Some(run) = run.take() {
                    state.add_unstable(record.epoch, record.seq, run);
                }
                continue;
            }
            match &mut run {
                Some(run) => run.count += 1,
                None => run = Some(Unstable { chunk: record.chunk, first: block, count: 1 }),
            }
        }
        if let Some(run) = run {
            state.add_unstable(record.epoch, record.seq, run);
        }
        if whole && !rt::sim::planted("dedup-lost") {
            state.restore_outcome(record.epoch, record.seq);
        }
    }
}
