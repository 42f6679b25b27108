//! Steps 3 and 4 of a checkpoint: content into the chunk files, checksums into the tables.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use rt::buf::{Buf, View};
use rt::sync::Semaphore;

use super::blocks::{Entry, Place};
use super::chunk::Chunk;
use super::join::at_once;
use super::{DamageKind, Engine, Refusal};
use crate::format::block::BlockState;
use crate::format::{BLOCK, crc32c};
use crate::sectors::is_unreadable;
use crate::store::ChunkFile;
use crate::tables::TableError;

/// Most blocks moved by one read and one write.
const MOVE_BLOCKS: u32 = 256;
/// Moves, or updates of chunks' pages, under way at once.
const AT_ONCE: u64 = 16;
/// How often, and after which pause, a block of the journal that cannot be read is asked for again.
const READ_TRIES: u32 = 4;
const READ_PAUSE: Duration = Duration::from_millis(500);

/// The first error of several tasks.
type Outcome = Rc<RefCell<Result<(), Refusal>>>;

fn note(outcome: &Outcome, result: Result<(), Refusal>) {
    let mut outcome = outcome.borrow_mut();
    if outcome.is_ok() {
        *outcome = result;
    }
}

impl Engine {
    /// Step 3, a bounded number of runs at a time.
    pub(super) async fn move_frozen(self: &Rc<Self>, chunks: &[Rc<Chunk>]) -> Result<(), Refusal> {
        let at_once = Semaphore::new(AT_ONCE);
        let outcome: Outcome = Rc::new(RefCell::new(Ok(())));
        for chunk in chunks {
            let runs = content_runs(&chunk.frozen.borrow().iter().map(|(b, e)| (b, *e)).collect::<Vec<_>>());
            if runs.is_empty() {
                continue;
            }
            // Held until the chunk's last run has ended.
            let moving = Rc::new(chunk.moving.acquire(1).await);
            if chunk.deleted.get() {
                continue;
            }
            let file = match self.store.file(chunk.id, chunk.size).await {
                Ok(file) => file,
                Err(error) if error.may_pass() => {
                    // Until then the journal keeps the content.
                    tracing::error!("chunk {:#x}: {error}; its journaled writes wait for that", chunk.id);
                    return Err(Refusal::NoSpace);
                }
                Err(error) => match self.file_refused(chunk, &error) {
                    // A lost file is found again, and reported, by every read. The others go on.
                    Refusal::ReplicaLost(_) => continue,
                    refusal => return Err(refusal),
                },
            };
            for run in runs {
                let permit = at_once.acquire(1).await;
                let (engine, chunk, file) = (Rc::clone(self), Rc::clone(chunk), Rc::clone(&file));
                let (outcome, moving) = (Rc::clone(&outcome), Rc::clone(&moving));
                rt::spawn(async move {
                    note(&outcome, engine.move_run(&chunk, &file, run).await);
                    drop((permit, moving));
                });
            }
        }
        let _all = at_once.acquire(AT_ONCE).await;
        outcome.borrow().clone()
    }

    async fn move_run(&self, chunk: &Chunk, file: &ChunkFile, run: Run) -> Result<(), Refusal> {
        match run.source {
            Source::Punch => self.punch(chunk, file, run.blocks).await,
            Source::Journal(places) => {
                let (data, mut bad) = self.read_places(&places, run.blocks.len()).await?;
                bad.extend(self.rotten_for_good(chunk, &run.blocks, &data));
                if !bad.is_empty() {
                    return self.move_what_can_be_read(chunk, file, &run.blocks, &data, &bad).await;
                }
                // After a restart the space may have to be found again.
                self.allocate(file, run.blocks.clone()).await?;
                self.move_data(chunk, file, run.blocks.start, data).await
            }
        }
    }

    async fn move_data(
        &self,
        chunk: &Chunk,
        file: &ChunkFile,
        first: u32,
        data: View,
    ) -> Result<(), Refusal> {
        chunk.touch(&(first..first + data.len().div_ceil(BLOCK) as u32));
        let timed = self.latency.start();
        let written = file.file().write_all_at(data, u64::from(first) * BLOCK as u64).await;
        drop(timed);
        if let Err(error) = written {
            self.fail("a write to a chunk file", &error);
            return Err(Refusal::DeviceFailed);
        }
        file.set_uncommitted();
        Ok(())
    }

    /// Blocks that have rotted in the journal, where this is the last look at their checksums (`-S`). Elsewhere the table keeps
    /// those, and whoever reads finds out.
    fn rotten_for_good(&self, chunk: &Chunk, blocks: &Range<u32>, data: &View) -> Vec<usize> {
        if !self.superblock.borrow().no_checksums {
            return Vec::new();
        }
        let frozen = chunk.frozen.borrow();
        let rotten = |(index, block): (usize, u32)| {
            let bytes = &data[index * BLOCK..(index + 1) * BLOCK];
            match frozen.get(block).map(|entry| entry.state) {
                Some(BlockState::Data(stored)) if !stored.matches(crc32c(bytes), chunk.id, block) => {
                    Some(index)
                }
                _ => None,
            }
        };
        blocks.clone().enumerate().filter_map(rotten).collect()
    }

    /// Some blocks of what the journal held cannot be read any more: they are lost here, and repaired from other members (C8).
    async fn move_what_can_be_read(
        &self,
        chunk: &Chunk,
        file: &ChunkFile,
        blocks: &Range<u32>,
        data: &View,
        bad: &[usize],
    ) -> Result<(), Refusal> {
        let mut listed = false;
        self.file_state(chunk.file).for_each_unstable(chunk.id, |_, _, unstable| {
            listed |= bad.iter().any(|&index| unstable.contains(&(blocks.start + index as u32)));
        });
        if listed || self.superblock.borrow().no_checksums {
            // Nothing could say that the file holds something else; or nobody has flushed it, and a flush may not succeed (C4).
            self.fail_journal(
                "reading the journal",
                &std::io::Error::other("a sector is not what was written there"),
            );
            return Err(Refusal::DeviceFailed);
        }
        self.allocate(file, blocks.clone()).await?;
        for (index, block) in blocks.clone().enumerate() {
            if bad.contains(&index) {
                tracing::error!("chunk {:#x}, block {block}: the journal cannot be read there", chunk.id);
                chunk.frozen.borrow_mut().lose(block);
                self.note_damage(chunk.id, block, DamageKind::Unreadable);
            } else {
                self.move_data(chunk, file, block, data.slice(index * BLOCK..(index + 1) * BLOCK)).await?;
            }
        }
        Ok(())
    }

    /// The content of neighbouring blocks from where it lies in the journal, and which of them cannot be read.
    async fn read_places(&self, places: &[(u64, u32)], blocks: usize) -> Result<(View, Vec<usize>), Refusal> {
        if let [(at, _)] = places {
            let (result, part) = self.journal().read_payload(*at, Buf::new(blocks * BLOCK)).await;
            if result.is_ok() {
                return Ok((part.freeze(), Vec::new()));
            }
        }
        let (mut data, mut bad) = (Buf::zeroed(blocks * BLOCK), Vec::new());
        let (mut to, mut tries) = (0, READ_TRIES);
        for &(at, count) in places {
            let bytes = count as usize * BLOCK;
            let (result, part) = self.journal().read_payload(at, Buf::new(bytes)).await;
            if result.is_ok() {
                data[to * BLOCK..to * BLOCK + bytes].copy_from_slice(&part);
            } else {
                // One bad sector hides no others.
                for index in 0..count as usize {
                    match self.read_stubborn(at + (index * BLOCK) as u64, &mut tries).await {
                        Ok(part) => {
                            data[(to + index) * BLOCK..(to + index + 1) * BLOCK].copy_from_slice(&part)
                        }
                        Err(error) if is_unreadable(&error) => bad.push(to + index),
                        Err(error) => {
                            self.fail_journal("reading the journal", &error);
                            return Err(Refusal::DeviceFailed);
                        }
                    }
                }
            }
            to += count as usize;
        }
        Ok((data.freeze(), bad))
    }

    /// A block of the journal, asked for again for a while: a path that fails over comes back, and what is given up is lost. The
    /// while is one for all blocks that are read together.
    async fn read_stubborn(&self, at: u64, tries: &mut u32) -> std::io::Result<Buf> {
        loop {
            let (result, part) = self.journal().read_payload(at, Buf::new(BLOCK)).await;
            match result {
                Ok(()) => return Ok(part),
                Err(error) if is_unreadable(&error) && *tries > 0 => {
                    *tries -= 1;
                    rt::time::sleep(READ_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives blocks that became holes back to the file system, all at once or piece by piece.
    async fn punch(&self, chunk: &Chunk, file: &ChunkFile, blocks: Range<u32>) -> Result<(), Refusal> {
        if self.punch_free(chunk, file, &blocks).await? {
            return Ok(());
        }
        for start in blocks.clone().step_by(MOVE_BLOCKS as usize) {
            let piece = start..blocks.end.min(start + MOVE_BLOCKS);
            if self.punch_free(chunk, file, &piece).await? || !self.superblock.borrow().no_checksums {
                // The table will say that it is a hole, whatever the file holds.
                continue;
            }
            self.hole_made(file.zero(piece).await)?;
        }
        Ok(())
    }

    /// Punches unless a request holds a part of the range, or data is to be moved there later: that has reserved the
    /// very space. A checkpoint must not wait for requests, which may wait for it.
    async fn punch_free(
        &self,
        chunk: &Chunk,
        file: &ChunkFile,
        blocks: &Range<u32>,
    ) -> Result<bool, Refusal> {
        let Some(_held) = at_once(chunk.ranges.exclusive(u64::from(blocks.start)..u64::from(blocks.end)))
        else {
            return Ok(false);
        };
        let reserved = |(_, entry): (u32, &Entry)| entry.place != Place::Nowhere;
        if chunk.live.borrow().range(blocks.clone()).any(reserved) {
            return Ok(false);
        }
        self.hole_made(file.punch(blocks.clone()).await).map(|()| true)
    }

    fn hole_made(&self, result: std::io::Result<()>) -> Result<(), Refusal> {
        result.map_err(|error| {
            if error.kind() == std::io::ErrorKind::StorageFull {
                return Refusal::NoSpace;
            }
            self.fail("giving space back to the file system", &error);
            Refusal::DeviceFailed
        })
    }

    /// Step 4.
    pub(super) async fn update_tables(self: &Rc<Self>, chunks: &[Rc<Chunk>]) -> Result<(), Refusal> {
        if self.superblock.borrow().no_checksums {
            return Ok(());
        }
        let at_once = Semaphore::new(AT_ONCE);
        let outcome: Outcome = Rc::new(RefCell::new(Ok(())));
        for chunk in chunks {
            let permit = at_once.acquire(1).await;
            let (engine, chunk, outcome) = (Rc::clone(self), Rc::clone(chunk), Rc::clone(&outcome));
            rt::spawn(async move {
                note(&outcome, engine.update_pages(&chunk).await);
                drop(permit);
            });
        }
        let _all = at_once.acquire(AT_ONCE).await;
        outcome.borrow().clone()?;
        self.tables.sync().await.map_err(|error| self.table_failed(&error))
    }

    async fn update_pages(&self, chunk: &Chunk) -> Result<(), Refusal> {
        let _moving = chunk.moving.acquire(1).await;
        if chunk.deleted.get() {
            return Ok(());
        }
        let changes: Vec<(u32, BlockState)> =
            chunk.frozen.borrow().iter().map(|(block, entry)| (block, entry.state)).collect();
        match self.tables.update(chunk.owner(), &changes).await {
            Ok(()) => Ok(()),
            // A damaged page makes its blocks unreadable, which reads report; the others go on.
            Err(error @ TableError::Page { .. }) => {
                tracing::error!("chunk {:#x}: {error}", chunk.id);
                Ok(())
            }
            Err(error) => Err(self.table_failed(&error)),
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
        let last = runs.last_mut().filter(|run| run.blocks.end == block);
        let short = |blocks: &Range<u32>| (blocks.len() as u32) < MOVE_BLOCKS;
        match (entry.place, last) {
            (Place::File, _) => {}
            (Place::Nowhere, Some(Run { blocks, source: Source::Punch })) => blocks.end += 1,
            (Place::Nowhere, _) => runs.push(Run { blocks: block..block + 1, source: Source::Punch }),
            (Place::Journal(at), Some(Run { blocks, source: Source::Journal(places) })) if short(blocks) => {
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

    fn entry(place: Place) -> Entry {
        Entry { lsn: 1, epoch: 1, seq: 1, state: BlockState::Hole, place }
    }

    #[test]
    fn neighbours_are_moved_together() {
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

    #[test]
    fn moves_are_bounded_and_holes_are_not() {
        let moved: Vec<_> =
            (0..600u32).map(|b| (b, entry(Place::Journal(4096 + u64::from(b) * BLOCK as u64)))).collect();
        let lengths: Vec<_> = content_runs(&moved).iter().map(|run| run.blocks.len()).collect();
        assert_eq!(lengths, [256, 256, 88]);
        let holes: Vec<_> = (0..600).map(|b| (b, entry(Place::Nowhere))).collect();
        assert_eq!(content_runs(&holes).len(), 1);
    }
}
