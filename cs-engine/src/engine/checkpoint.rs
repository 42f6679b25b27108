//! Checkpoints: what the block maps hold moves into files and tables, and the journal's tail follows.
//!
//! 1. Freeze: the live maps become the frozen ones. The tail may move to the lowest LSN of anything not in them.
//! 2. Flush: the records of the frozen maps are durable before what they describe is touched.
//! 3. Move: content from the journal goes into the chunk files, in order and merged; holes are punched; flush.
//! 4. Tables: the new checksums go into the older copies of their pages; flush.
//! 5. State: fences, outcomes, unstable writes and marks are recorded anew behind the old records; flush.
//! 6. Trim: the frozen maps go, reads that saw them end, and the header gets the new tail.
//!
//! A crash between any two steps leaves a journal that redoes all of it.

use std::ops::Range;
use std::rc::Rc;

use rt::buf::Buf;

use super::blocks::{Entry, Place};
use super::chunk::Chunk;
use super::{Engine, Refusal};
use crate::format::BLOCK;
use crate::format::block::BlockState;
use crate::format::record::{Record, RecordKind};
use crate::journal::Class;

/// Most blocks moved by one read and one write.
const MOVE_BLOCKS: u32 = 256;
/// Chunks moved at once.
const MOVES_AT_ONCE: u64 = 4;
/// Pause before another attempt after the disk was found full.
const NO_SPACE_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
/// Numbers in one record of outcomes.
const OUTCOMES_PER_RECORD: usize = 1024;

impl Engine {
    /// Makes checkpoints whenever the journal fills, the maps grow, or time has passed, until the server stops.
    pub async fn run_checkpoints(self: Rc<Self>) {
        while !self.failed.get() && !self.stopping.get() {
            self.checkpoint_is_due().await;
            if self.stopping.get() {
                return;
            }
            match self.checkpoint().await {
                Ok(()) => {}
                // What cannot be moved stays in the journal; try again when there may be room (C13).
                Err(Refusal::NoSpace) => rt::time::sleep(NO_SPACE_PAUSE).await,
                Err(_) => return,
            }
        }
    }

    async fn checkpoint_is_due(&self) {
        let interval = rt::time::sleep(self.options.checkpoint_interval);
        let mut interval = std::pin::pin!(interval);
        let mut pressed = std::pin::pin!(self.journal.pressed());
        let mut wanted = std::pin::pin!(self.checkpoint_wanted.notified());
        std::future::poll_fn(|cx| {
            let due = pressed.as_mut().poll(cx).is_ready() || wanted.as_mut().poll(cx).is_ready();
            let idle_due = interval.as_mut().poll(cx).is_ready();
            if due || (idle_due && self.map_entries.get() > 0) {
                return std::task::Poll::Ready(());
            }
            if idle_due {
                interval.set(rt::time::sleep(self.options.checkpoint_interval));
                let _pending = interval.as_mut().poll(cx);
            }
            std::task::Poll::Pending
        })
        .await;
    }

    /// Makes one checkpoint.
    ///
    /// # Errors
    /// [`Refusal::DeviceFailed`] when the server has failed; [`Refusal::Stopping`].
    pub async fn checkpoint(self: &Rc<Self>) -> Result<(), Refusal> {
        let tail = self.freeze();
        self.flush().await?;
        self.move_frozen().await?;
        self.flush().await?;
        self.update_tables().await?;
        self.record_state().await?;
        self.flush().await?;
        self.drop_frozen().await;
        if let Err(error) = self.journal.trim(tail).await {
            self.fail("a write of the journal's header", &error);
            return Err(Refusal::DeviceFailed);
        }
        self.frozen_tail.set(None);
        self.count(|counters| counters.checkpoints += 1);
        self.checkpoint_done.notify_all();
        Ok(())
    }

    /// Step 1; gives the LSN that the tail may move to.
    fn freeze(&self) -> u64 {
        // An attempt that ended early has left its maps: finish those first.
        if let Some(tail) = self.frozen_tail.get() {
            return tail;
        }
        for chunk in self.chunks.borrow().values() {
            chunk.live.swap(&chunk.frozen);
        }
        let written = self.journal.written();
        let tail = self.floors.borrow().first_key_value().map_or(written, |(&floor, _)| floor.min(written));
        self.frozen_tail.set(Some(tail));
        tail
    }

    fn frozen_chunks(&self) -> Vec<Rc<Chunk>> {
        let chunks = self.chunks.borrow();
        chunks.values().filter(|chunk| !chunk.frozen.borrow().is_empty()).map(Rc::clone).collect()
    }

    /// Step 3, a few chunks at a time.
    async fn move_frozen(self: &Rc<Self>) -> Result<(), Refusal> {
        let at_once = rt::sync::Semaphore::new(MOVES_AT_ONCE);
        let mut moves = Vec::new();
        for chunk in self.frozen_chunks() {
            let permit = at_once.acquire(1).await;
            let engine = Rc::clone(self);
            moves.push(rt::spawn(async move {
                let _permit = permit;
                engine.move_chunk(&chunk).await
            }));
        }
        let mut result = Ok(());
        for one in moves {
            result = result.and(one.await.unwrap_or(Err(Refusal::Stopping)));
        }
        result
    }

    async fn move_chunk(&self, chunk: &Rc<Chunk>) -> Result<(), Refusal> {
        let runs = content_runs(&chunk.frozen.borrow().iter().map(|(b, e)| (b, *e)).collect::<Vec<_>>());
        if runs.is_empty() || chunk.deleted.get() {
            return Ok(());
        }
        let file = match self.chunk_file(chunk).await {
            // A lost file is found again, and reported, by every read.
            Err(Refusal::Corrupt { .. }) => return Ok(()),
            other => other?,
        };
        for run in runs {
            match run.source {
                Source::Punch => {
                    if let Err(error) = file.punch(run.blocks.clone()).await {
                        self.fail("giving space back to the file system", &error);
                        return Err(Refusal::DeviceFailed);
                    }
                }
                Source::Journal(places) => {
                    let mut data = Buf::new(run.blocks.len() * BLOCK);
                    let mut at = 0;
                    for (start, blocks) in places {
                        let bytes = blocks as usize * BLOCK;
                        let (result, part) = self.journal.read_payload(start, Buf::new(bytes)).await;
                        if let Err(error) = result {
                            self.fail("reading the journal", &error);
                            return Err(Refusal::DeviceFailed);
                        }
                        data[at..at + bytes].copy_from_slice(&part);
                        at += bytes;
                    }
                    // Punched meanwhile by an older record of the same checkpoint: allocate again.
                    self.allocate(&file, run.blocks.clone()).await?;
                    let offset = u64::from(run.blocks.start) * BLOCK as u64;
                    if let Err(error) = file.file().write_all_at(data.freeze(), offset).await {
                        self.fail("a write to a chunk file", &error);
                        return Err(Refusal::DeviceFailed);
                    }
                    file.set_uncommitted();
                }
            }
        }
        Ok(())
    }

    /// Step 4.
    async fn update_tables(&self) -> Result<(), Refusal> {
        if self.superblock.borrow().no_checksums {
            return Ok(());
        }
        let mut any = false;
        for chunk in self.frozen_chunks() {
            if chunk.deleted.get() {
                continue;
            }
            let changes: Vec<(u32, BlockState)> =
                chunk.frozen.borrow().iter().map(|(block, entry)| (block, entry.state)).collect();
            match self.tables.update(chunk.slot, chunk.id, &changes).await {
                Ok(()) => any = true,
                // A damaged page makes its blocks unreadable, which reads report; the others go on.
                Err(crate::tables::TableError::Page { why, page, .. }) => {
                    tracing::error!("chunk {:#x}, checksum page {page}: {why}", chunk.id);
                }
                Err(error) => return Err(self.table_failed(&error)),
            }
        }
        if any {
            self.tables.sync().await.map_err(|error| self.table_failed(&error))?;
        }
        Ok(())
    }

    /// Step 5.
    async fn record_state(&self) -> Result<(), Refusal> {
        let mut appends = Vec::new();
        for record in self.state_records() {
            let journal = Rc::clone(&self.journal);
            appends.push(rt::spawn(async move { journal.append(Class::Reserve, record, Vec::new()).await }));
        }
        let mut result = Ok(());
        for append in appends {
            let appended = append.await.unwrap_or(Err(crate::journal::AppendError::Closed));
            result = result.and(appended.map(drop).map_err(Refusal::from));
        }
        if result == Err(Refusal::DeviceFailed) {
            self.fail("a write to the journal", &"see above");
        }
        result
    }

    /// Everything the server must remember that is in no file and no table.
    pub(crate) fn state_records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for file in self.files.borrow().values() {
            if file.recorded_fence() > 0 {
                records.push(Record { file: file.file, epoch: file.recorded_fence(), ..Record::new(RecordKind::Fence) });
            }
            let session = file.session();
            let outcomes: Vec<u32> = if rt::sim::planted("dedup-lost") {
                Vec::new()
            } else {
                // The window of a client is far below 2^32; anything else could not have been admitted.
                session.outcomes.iter().filter_map(|seq| u32::try_from(seq - session.done).ok()).collect()
            };
            let mut parts: Vec<&[u32]> = outcomes.chunks(OUTCOMES_PER_RECORD).collect();
            if parts.is_empty() && session.epoch > 0 {
                parts.push(&[]);
            }
            for part in parts {
                records.push(Record {
                    file: file.file,
                    epoch: session.epoch,
                    done: session.done,
                    words: part.to_vec(),
                    ..Record::new(RecordKind::Outcomes)
                });
            }
            for (epoch, seq, write) in file.unstable() {
                records.push(Record {
                    file: file.file,
                    chunk: write.chunk,
                    epoch,
                    seq,
                    first: write.first,
                    count: write.count,
                    ..Record::new(RecordKind::Unstable)
                });
            }
        }
        for chunk in self.chunks.borrow().values() {
            self.retire_marks(chunk);
            for (&extent, _) in chunk.active.borrow().iter() {
                records.push(Record {
                    chunk: chunk.id,
                    file: chunk.file,
                    first: extent,
                    count: 1,
                    ..Record::new(RecordKind::Mark)
                });
            }
        }
        records
    }

    /// Forgets marks of extents in which every write is stable and none is under way (C5).
    fn retire_marks(&self, chunk: &Chunk) {
        if !chunk.ranges.is_empty() {
            return;
        }
        let file = self.file_state(chunk.file);
        chunk.active.borrow_mut().retain(|&extent, _| {
            let blocks = extent * super::ACTIVE_BLOCKS..(extent + 1) * super::ACTIVE_BLOCKS;
            file.is_unstable(chunk.id, &blocks) || chunk.live.borrow().range(blocks).next().is_some()
        });
    }

    /// Step 6: nothing may read the journal's old payloads any more.
    async fn drop_frozen(&self) {
        let mut dropped = 0;
        for chunk in self.frozen_chunks() {
            dropped += chunk.frozen.take().len();
        }
        self.map_entries.set(self.map_entries.get() - dropped);
        let serial = self.checkpoint_serial.get() + 1;
        self.checkpoint_serial.set(serial);
        loop {
            let left = self.readers_left.notified();
            if self.readers.borrow().range(..serial).next().is_none() {
                return;
            }
            left.await;
        }
    }
}

/// What happens to neighbouring blocks in a checkpoint.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    blocks: Range<u32>,
    source: Source,
}

#[derive(Debug, PartialEq, Eq)]
enum Source {
    Punch,
    /// Pieces of the journal in order: LSN and blocks.
    Journal(Vec<(u64, u32)>),
}

/// Merges neighbouring blocks that are moved or punched; blocks already in place are left out.
fn content_runs(entries: &[(u32, Entry)]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &(block, entry) in entries {
        let last = runs.last_mut().filter(|run| run.blocks.end == block && (run.blocks.len() as u32) < MOVE_BLOCKS);
        match (entry.place, last) {
            (Place::File, _) => {}
            (Place::Nowhere, Some(Run { blocks, source: Source::Punch })) => blocks.end += 1,
            (Place::Nowhere, _) => runs.push(Run { blocks: block..block + 1, source: Source::Punch }),
            (Place::Journal(at), Some(Run { blocks, source: Source::Journal(places) })) => {
                blocks.end += 1;
                match places.last_mut() {
                    Some((start, count)) if *start + u64::from(*count) * BLOCK as u64 == at => *count += 1,
                    _ => places.push((at, 1)),
                }
            }
            (Place::Journal(at), _) => {
                runs.push(Run { blocks: block..block + 1, source: Source::Journal(vec![(at, 1)]) });
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_moved_together() {
        let entry = |place| Entry { lsn: 1, epoch: 1, seq: 1, state: BlockState::Hole, place };
        let entries = [
            (3, entry(Place::Journal(8192))),
            (4, entry(Place::Journal(12288))),
            (5, entry(Place::Journal(4096))),
            (6, entry(Place::File)),
            (7, entry(Place::Nowhere)),
            (8, entry(Place::Nowhere)),
            (10, entry(Place::Nowhere)),
        ];
        let runs = content_runs(&entries);
        assert_eq!(
            runs,
            [
                Run { blocks: 3..6, source: Source::Journal(vec![(8192, 2), (4096, 1)]) },
                Run { blocks: 7..9, source: Source::Punch },
                Run { blocks: 10..11, source: Source::Punch },
            ]
        );
    }
}
