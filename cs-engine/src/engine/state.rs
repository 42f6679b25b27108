//! Step 5 of a checkpoint: what the server must remember that is in no file and no table.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::chunk::{Chunk, Mark};
use super::files::{FileState, Unstable};
use super::{ACTIVE_BLOCKS, Engine, Refusal};
use crate::format::record::{FIXED, Record, RecordKind};
use crate::journal::{AppendError, Class};

/// Most words in one record of the state.
const WORDS_MAX: usize = 6 * 1024;

/// Packs entries into as few records as possible.
struct Packer {
    template: Record,
    records: Vec<Record>,
}

impl Packer {
    fn new(template: Record) -> Self {
        Self { template, records: Vec::new() }
    }

    /// The record to add the next entry to.
    fn room(&mut self) -> &mut Record {
        if self.records.last().is_none_or(|record| record.words.len() >= WORDS_MAX) {
            self.records.push(self.template.clone());
        }
        self.records.last_mut().expect("one was just added if there was none")
    }
}

impl Engine {
    /// What the state takes in the journal, in bytes and about.
    pub(super) fn state_bytes(&self) -> u64 {
        self.unstable_bytes() + self.file_bytes() + self.standing_bytes()
    }

    /// The part of the state that goes when writers flush.
    pub(super) fn unstable_bytes(&self) -> u64 {
        let marked = self.marked.borrow().len();
        let (writes, listed) = (self.unstable.writes.get(), self.unstable.files.get());
        (24 * writes + 2 * (FIXED + 4) * listed + (FIXED + 8) * marked) as u64
    }

    /// The part of the state that stays as long as there are files: their fences and sessions.
    pub(super) fn file_bytes(&self) -> u64 {
        40 * self.files.borrow().len() as u64
    }

    /// Records the state anew.
    pub(super) async fn record_state(self: &Rc<Self>) -> Result<(), Refusal> {
        let records = self.state_records();
        let bytes = records.iter().map(|record| record.encoded_len() as u64).sum();
        self.journal().reserve_for_state(bytes);
        // All take their places at once: what voids a part of the state lies wholly before or behind it.
        let submitted: Result<Vec<_>, AppendError> = records
            .into_iter()
            .map(|record| self.journal().submit(Class::Checkpoint, record, None))
            .collect();
        let mut result = Ok(());
        for record in submitted.map_err(|error| self.append_failed(error))? {
            result = result.and(record.written().await.map(drop));
        }
        result.map_err(|error| self.append_failed(error))
    }

    pub(super) fn state_records(&self) -> Vec<Record> {
        let installed = self.installed.borrow();
        let standing =
            installed.values().filter_map(|chunk| Some(chunk.standing.borrow().as_ref()?.record(chunk)));
        let mut kept: Vec<Record> = standing.collect();
        drop(installed);
        let files = self.files.borrow();
        let mut records = file_records(files.values().map(|file| &**file));
        let unstable: BTreeSet<(u64, u32)> =
            files.values().flat_map(|file| file.unstable_extents()).collect();
        drop(files);
        self.marked.borrow_mut().retain(|_, chunk| {
            self.retire_marks(chunk, &unstable);
            let active = chunk.active.borrow();
            if !active.is_empty() {
                records.push(mark_record(chunk, active.keys().copied()));
            }
            !active.is_empty()
        });
        records.append(&mut kept);
        records
    }

    /// Whether writes may hide under a mark whose records a crash has taken.
    pub(super) fn has_suspects(&self) -> bool {
        self.any_mark(|mark| mark.suspect.is_some())
    }

    fn any_mark(&self, is: impl Fn(&Mark) -> bool) -> bool {
        self.marked.borrow().values().any(|chunk| chunk.active.borrow().values().any(&is))
    }

    /// Notes in which boot of the host the server runs, but not while there are marks that are older: the next start is to
    /// know as well that writes may have gone from under them (C6). Nor while the journal has records that this start did not believe, for
    /// another one would find them as it did.
    pub(super) async fn note_boot(&self) -> Result<(), Refusal> {
        let boot_id = self.boot_id;
        let is_too_early = || self.journal().is_durable_held() || self.any_mark(|mark| mark.lost);
        if self.superblock.borrow().boot_id == boot_id || is_too_early() {
            return Ok(());
        }
        let noted = self.update_superblock(|superblock| superblock.boot_id = boot_id).await;
        noted.map_err(|_reported| Refusal::DeviceFailed)
    }

    /// Forgets marks of extents in which every write is stable and none is under way (C5).
    fn retire_marks(&self, chunk: &Chunk, unstable: &BTreeSet<(u64, u32)>) {
        // Whoever holds a range may be about to write under a mark.
        if !chunk.ranges.is_empty() {
            return;
        }
        let file = self.file_state(chunk.file);
        let live = chunk.live.borrow();
        chunk.active.borrow_mut().retain(|&extent, mark| {
            let blocks = extent * ACTIVE_BLOCKS..(extent + 1) * ACTIVE_BLOCKS;
            if let Some(epoch) = mark.suspect
                && file.is_settled_since_start(epoch, chunk.written_in.get())
            {
                (mark.suspect, mark.lost) = (None, false);
            }
            mark.suspect.is_some()
                || unstable.contains(&(chunk.id, extent))
                || live.range(blocks).next().is_some()
        });
    }
}

/// Fences, sessions, outcomes and unstable writes.
fn file_records<'a>(files: impl Iterator<Item = &'a FileState>) -> Vec<Record> {
    let mut fences = Packer::new(Record::new(RecordKind::Fence));
    let mut sessions = Packer::new(Record::new(RecordKind::Sessions));
    let mut others = Vec::new();
    for file in files {
        if file.ordered_fence() > 0 && !rt::sim::planted("fence-in-memory") {
            let record = fences.room();
            record.push_u64(file.file);
            record.push_u64(file.ordered_fence());
        }
        let session = file.session();
        if session.epoch > 0 {
            let record = sessions.room();
            record.push_u64(file.file);
            record.push_u64(session.epoch);
            record.push_u64(session.done);
        }
        if !rt::sim::planted("dedup-lost") {
            let mut outcomes = Packer::new(Record {
                file: file.file,
                epoch: session.epoch,
                done: session.done,
                ..Record::new(RecordKind::Outcomes)
            });
            for seq in &session.outcomes {
                // Nothing further ahead is admitted.
                outcomes.room().words.extend(u32::try_from(seq - session.done).ok());
            }
            others.append(&mut outcomes.records);
        }
        others.extend(unstable_records(file.file, &file.unstable()));
    }
    // Sessions come first: what follows counts only within them.
    [fences.records, sessions.records, others].concat()
}

/// Records of unstable writes of a file, which ascend.
pub(super) fn unstable_records(file: u64, writes: &[(u64, u64, Unstable)]) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    for &(epoch, seq, write) in writes {
        let fits = |record: &Record| {
            record.epoch == epoch && record.words.len() < WORDS_MAX && seq - record.seq <= u64::from(u32::MAX)
        };
        if !records.last().is_some_and(fits) {
            records.push(Record { file, epoch, seq, ..Record::new(RecordKind::Unstable) });
        }
        let record = records.last_mut().expect("one was just added if there was none");
        record.push_u64(write.chunk);
        // Numbers of an epoch come in order, so the first one is the lowest.
        record.words.extend([(seq - record.seq) as u32, write.first, write.count]);
    }
    records
}

/// The record that marks extents of a chunk.
pub(super) fn mark_record(chunk: &Chunk, extents: impl Iterator<Item = u32>) -> Record {
    let mut record = Record { chunk: chunk.id, file: chunk.file, ..Record::new(RecordKind::Mark) };
    record.push_u64(extents.fold(0, |bits, extent| bits | 1 << extent));
    record
}

const _: () = assert!(crate::format::CHUNK_BLOCKS_MAX / ACTIVE_BLOCKS <= u64::BITS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::files::Totals;

    #[test]
    fn the_state_of_files_is_packed() {
        let total: Rc<Totals> = Rc::default();
        let files: Vec<FileState> = (1..=2000).map(|file| FileState::new(file, Rc::clone(&total))).collect();
        for file in &files {
            file.raise_fence(7);
            file.replay(8, 5, 5);
        }
        for seq in 5..4100 {
            files[3].done(8, seq);
            files[3].add_unstable(8, seq, Unstable { chunk: seq % 2, first: 9, count: 2 });
        }
        let records = file_records(files.iter());
        let count = |kind| records.iter().filter(|record| record.kind == kind).count();
        assert_eq!(count(RecordKind::Fence), 2000usize.div_ceil(WORDS_MAX / 4));
        assert_eq!(count(RecordKind::Sessions), 2000usize.div_ceil(WORDS_MAX / 6));
        assert_eq!(count(RecordKind::Outcomes), 1);
        assert_eq!(count(RecordKind::Unstable), (4095usize * 5).div_ceil(WORDS_MAX));
        let listed: usize =
            records.iter().filter(|r| r.kind == RecordKind::Unstable).map(|r| r.entries().count()).sum();
        assert_eq!(listed, 4095);
        for record in records {
            let mut bytes = vec![0; record.encoded_len()];
            record.encode(0, &mut bytes);
            assert!(Record::decode(&bytes, 0).is_ok());
        }
    }
}
