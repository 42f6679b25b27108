//! Writes, and discards and write-zeroes, which are writes in every respect (C11).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use rt::buf::{Buf, View};

use super::blocks::{Entry, Place};
use super::chunk::{Chunk, extents};
use super::content::{Part, PartContent};
use super::files::{Admission, FileState, Unstable};
use super::join::{Boxed, all, both};
use super::state::mark_record;
use super::{ACTIVE_BLOCKS, BLOCK_MAP_MAX, Engine, JOURNAL_MAX, MAX_DATA, RECORDS_MAX, Refusal, SEQ_WINDOW};
use crate::format::block::BlockState;
use crate::format::record::{Record, RecordKind};
use crate::format::{BLOCK, crc32c, is_zero};
use crate::journal::{Appended, Class};
use crate::store::ChunkFile;

/// Extents that are marked together with the one that a writer going along a chunk has come to.
const EXTENTS_AHEAD: u32 = 7;

/// What a write does to its range.
#[derive(Clone, Debug)]
pub enum WriteKind {
    /// Replaces it by this payload, whose CRC32Cs (one per block or part of a block) came with it.
    Data {
        /// The bytes.
        payload: View,
        /// Plain CRC32C per block touched; of the part that is present where a block is not whole.
        crcs: Vec<u32>,
    },
    /// Makes it read as zero. The space is given back where whole blocks are covered.
    Zero,
}

/// A write.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// File, epoch, chunk, version: what every request names (C2).
    pub file: u64,
    /// The lease epoch.
    pub epoch: u64,
    /// The chunk.
    pub chunk: u64,
    /// Version of the replica.
    pub version: u64,
    /// Sequence number of the write (C11).
    pub seq: u64,
    /// All lower ones have been answered (C11).
    pub done: u64,
    /// All lower ones are stable (C5).
    pub stable: u64,
    /// First byte in the chunk.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
    /// What to do.
    pub kind: WriteKind,
    /// Of the reconciler: the epoch and sequence number under which the content was written first (C5).
    pub settles: Option<(u64, u64)>,
}

impl WriteRequest {
    /// Epoch and number under which the content is listed.
    fn origin(&self) -> (u64, u64) {
        self.settles.unwrap_or((self.epoch, self.seq))
    }
}

/// The answer to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteReply {
    /// The client should flush soon: the list of unstable writes is filling.
    pub flush_soon: bool,
}

/// A write that has passed its checks and holds its range.
pub(super) struct Checked<'a> {
    pub(super) request: &'a WriteRequest,
    pub(super) chunk: &'a Rc<Chunk>,
    pub(super) blocks: Range<u32>,
    /// What is remembered of its file.
    file: &'a FileState,
}

impl Checked<'_> {
    /// Lists some of its blocks as not yet stable (C5).
    fn list(&self, blocks: &Range<u32>) {
        let (epoch, seq) = self.request.origin();
        let write = Unstable { chunk: self.chunk.id, first: blocks.start, count: blocks.len() as u32 };
        self.file.add_unstable(epoch, seq, write);
    }
}

/// Ends a write's presence in the books, however it ends.
struct Running {
    file: Rc<FileState>,
    key: (u64, u64, u64),
}

impl Drop for Running {
    fn drop(&mut self) {
        self.file.end(self.key.0, self.key.1, self.key.2);
    }
}

/// The way data goes (DESIGN §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Journal,
    InPlace,
}

/// Counts one more under `key`.
pub(super) fn count_in(counts: &RefCell<BTreeMap<u64, usize>>, key: u64) {
    *counts.borrow_mut().entry(key).or_insert(0) += 1;
}

/// Counts one less under `key`.
pub(super) fn release(counts: &RefCell<BTreeMap<u64, usize>>, key: u64) {
    let mut counts = counts.borrow_mut();
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

impl Engine {
    /// Carries out a write; answers when it is written on this server (not yet durable, C4).
    ///
    /// # Errors
    /// [`Refusal`]. After a refusal each block of the range holds the old or the new content.
    pub async fn write(self: &Rc<Self>, request: WriteRequest) -> Result<WriteReply, Refusal> {
        let _request = self.begin()?;
        let chunk = match request.settles {
            None => self.chunk_for(request.file, request.chunk, request.version)?,
            Some(_) => self.member_for(request.file, request.chunk, request.version)?,
        };
        let file = self.check_epoch(request.file, request.epoch)?;
        let blocks = block_range(&request, &chunk)?;
        let _in_flight = file.enter(request.epoch);
        file.advance(request.epoch, request.done, request.stable);
        self.map_has_room().await?;
        loop {
            match file.admit(request.epoch, request.seq, request.chunk) {
                Admission::New => break,
                Admission::Repeat => return Ok(WriteReply { flush_soon: self.wants_flush(&file) }),
                Admission::Answered { done } => return Err(Refusal::Answered { seq: request.seq, done }),
                Admission::Running => file.finished.notified().await,
            }
        }
        // What the reconciler writes was on the list of some member before; it must never wait for a flush. Nor must the
        // oldest write that is not answered: no flush reaches beyond it.
        // Nor one of a file that has nothing to flush: it is others that fill the lists.
        let has_room = file.has_room() && self.state_has_room();
        let must_pass = request.settles.is_some() || request.seq == request.done || file.is_stable();
        if !(has_room || must_pass) {
            return Err(Refusal::NeedFlush);
        }
        let key = (request.epoch, request.seq, request.chunk);
        file.begin(key.0, key.1, key.2);
        let running = Running { file: Rc::clone(&file), key };
        let parts = [request.offset, request.offset + request.len].map(|at| !at.is_multiple_of(BLOCK as u32));
        let locked = loop {
            let locked = chunk.ranges.exclusive(u64::from(blocks.start)..u64::from(blocks.end)).await;
            self.recheck(&chunk, request.epoch, request.version)?;
            let Some(region) = self.needs_old(&chunk, &blocks, parts) else { break locked };
            // The fetch takes the whole region's lock.
            drop(locked);
            Box::pin(self.fetch(&chunk, request.version, region)).await?;
        };
        rt::sim::rises("C1: the epoch of writes to file", request.file, request.epoch);
        if rt::sim::planted("acked-before-journal") {
            let engine = Rc::clone(self);
            rt::spawn(async move {
                let _held = (running, locked);
                let write = Checked { request: &request, chunk: &chunk, blocks, file: &file };
                engine.write_locked(&write).await
            });
            return Ok(WriteReply { flush_soon: false });
        }
        self.write_locked(&Checked { request: &request, chunk: &chunk, blocks, file: &file }).await?;
        drop((locked, running));
        Ok(WriteReply { flush_soon: self.wants_flush(&file) })
    }

    fn wants_flush(&self, file: &FileState) -> bool {
        file.wants_flush() || (!file.is_stable() && self.unstable_bytes() > self.journal().ring_bytes() / 12)
    }

    /// Whether what a checkpoint has to record leaves the journal usable; keeps room for it (C13).
    fn state_has_room(&self) -> bool {
        self.journal().reserve_for_state(self.state_bytes());
        self.unstable_bytes() <= self.journal().ring_bytes() / 8
    }

    /// Waits while the block maps are too large: a checkpoint is behind (C13).
    pub(super) async fn map_has_room(&self) -> Result<(), Refusal> {
        while self.map_entries.get() >= 2 * BLOCK_MAP_MAX {
            if self.stuck.get() {
                return Err(Refusal::NoSpace);
            }
            let done = self.checkpoint_done.notified();
            self.checkpoint_wanted.notify_one();
            done.await;
            self.check_running()?;
        }
        Ok(())
    }

    async fn write_locked(self: &Rc<Self>, write: &Checked<'_>) -> Result<(), Refusal> {
        let Checked { request, chunk, blocks, file } = write;
        if request.settles.is_none() && request.epoch > chunk.written_in.get() {
            chunk.written_in.set(request.epoch);
            file.written(chunk.id, request.epoch);
        }
        let result = self.write_parts(write).await;
        // Of one that was refused in the middle what is new here is listed already. Not more: what is listed of a write counts as its
        // content when the members are compared.
        if result.is_ok() {
            write.list(blocks);
        }
        chunk.changed(blocks);
        result?;
        file.done(request.epoch, request.seq);
        self.count(|counters| {
            counters.writes += 1;
            counters.write_bytes += u64::from(request.len);
        });
        Ok(())
    }

    async fn write_parts(self: &Rc<Self>, write: &Checked<'_>) -> Result<(), Refusal> {
        let Checked { request, chunk, .. } = write;
        let mut parts = self.parts(write).await?;
        let data = parts.iter().any(|part| matches!(part.content, PartContent::Data { .. }));
        let open = if data { Some(self.chunk_file(chunk).await?) } else { None };
        if let Some(open) = &open {
            // Space is there before anything is acknowledged, also for what a checkpoint moves later (C13).
            for part in parts.iter().filter(|part| matches!(part.content, PartContent::Data { .. })) {
                self.allocate(open, part.blocks.clone()).await?;
            }
        }
        if parts.len() == 1 {
            let only = parts.remove(0);
            self.write_part(write, only, open.as_ref(), false).await?;
        } else {
            let writes = parts.into_iter().map(|part| -> Boxed<'_, Result<(), Refusal>> {
                Box::pin(self.write_part(write, part, open.as_ref(), true))
            });
            all(writes.collect()).await?;
            self.append_outcome(request).await?;
        }
        Ok(())
    }

    /// Writes one part and notes it in the block map.
    async fn write_part(
        self: &Rc<Self>,
        write: &Checked<'_>,
        part: Part,
        file: Option<&Rc<ChunkFile>>,
        several: bool,
    ) -> Result<(), Refusal> {
        let Checked { request, chunk, .. } = write;
        let (epoch, seq) = request.origin();
        // The watermarks are of the request's epoch, the record may be of an older one.
        let (done, stable) = if request.settles.is_some() { (0, 0) } else { (request.done, request.stable) };
        let mut record = Record {
            part: several || request.settles.is_some(),
            chunk: chunk.id,
            version: request.version,
            file: request.file,
            epoch,
            seq,
            done,
            stable,
            first: part.blocks.start,
            count: part.blocks.len() as u32,
            ..Record::new(RecordKind::Zero)
        };
        let (appended, words, place) = match (part.content, file) {
            (PartContent::Data { payload, words }, Some(file)) => {
                record.words.clone_from(&words);
                let whole = part.whole && request.settles.is_none();
                let way = self.choose_way(chunk, file, &part.blocks, whole).await?;
                let appended = match way {
                    Way::Journal => self.append_data(record, payload).await?,
                    Way::InPlace => {
                        let written = self.write_in_place(record, payload, file, chunk, &part.blocks).await;
                        if written.is_err() {
                            self.list_nobodys(write, &part.blocks);
                        }
                        written?
                    }
                };
                (appended, words, Some(way))
            }
            // Without data there is no file.
            _ => (self.append(Class::Urgent, record, None).await?, Vec::new(), None),
        };
        self.mark(chunk, &part.blocks, appended.lsn);
        chunk.changed(&part.blocks);
        self.note_part(chunk, &part.blocks, &appended, (epoch, seq), &words, place);
        if several {
            // Others may take long or be refused, and a checkpoint may forget the record of this one.
            write.list(&part.blocks);
        }
        Ok(())
    }

    /// Lists what a write in place has left although its record was refused, see [`Self::write_in_place`].
    fn list_nobodys(&self, write: &Checked<'_>, blocks: &Range<u32>) {
        let is_nobodys =
            |block: &u32| write.chunk.entry(*block).is_some_and(|entry| (entry.epoch, entry.seq) == (0, 0));
        let left: Vec<u32> = blocks.clone().filter(is_nobodys).collect();
        let runs = left.chunk_by(|a, b| a + 1 == *b).map(|run| run[0]..run[0] + run.len() as u32);
        runs.for_each(|run| write.list(&run));
    }

    /// Notes blocks in the block map that went one way; without a way they are holes.
    pub(super) fn note_part(
        &self,
        chunk: &Rc<Chunk>,
        blocks: &Range<u32>,
        appended: &Appended,
        (epoch, seq): (u64, u64),
        words: &[u32],
        way: Option<Way>,
    ) {
        let entries = blocks.clone().enumerate().map(|(index, block)| {
            let (state, place) = match way {
                None => (BlockState::Hole, Place::Nowhere),
                Some(Way::InPlace) => (BlockState::from_raw(words[index]), Place::File),
                Some(Way::Journal) => {
                    let at = appended.payload + index as u64 * BLOCK as u64;
                    (BlockState::from_raw(words[index]), Place::Journal(at))
                }
            };
            (block, Entry { lsn: appended.lsn, epoch, seq, state, place })
        });
        self.note_entries(chunk, entries);
    }

    /// Puts entries into the block map.
    pub(super) fn note_entries(&self, chunk: &Rc<Chunk>, entries: impl Iterator<Item = (u32, Entry)>) {
        let mut map = chunk.live.borrow_mut();
        let before = map.len();
        map.insert_all(entries);
        if before == 0 {
            self.touched.borrow_mut().insert(chunk.id, Rc::clone(chunk));
        }
        self.map_entries.set(self.map_entries.get() + map.len() - before);
        rt::sim::gauge("cs.map-entries", self.map_entries.get() as u64);
        self.records.set(self.records.get() + 1);
        if self.map_entries.get() > BLOCK_MAP_MAX || self.records.get() > RECORDS_MAX {
            self.checkpoint_wanted.notify_one();
        }
    }

    /// Marks the extents under `blocks` as active.
    pub(super) fn mark(&self, chunk: &Rc<Chunk>, blocks: &Range<u32>, lsn: u64) {
        if chunk.active.borrow().is_empty() {
            self.marked.borrow_mut().insert(chunk.id, Rc::clone(chunk));
        }
        chunk.mark(blocks, lsn);
    }

    pub(super) async fn append(
        &self,
        class: Class,
        record: Record,
        payload: Option<View>,
    ) -> Result<Appended, Refusal> {
        self.journal().append(class, record, payload).await.map_err(|error| self.append_failed(error))
    }

    pub(super) async fn append_data(&self, mut record: Record, payload: View) -> Result<Appended, Refusal> {
        self.count(|counters| counters.journaled += 1);
        record.kind = RecordKind::Data;
        self.append(Class::Normal, record, Some(payload)).await
    }

    /// Records that a write of several parts is done.
    async fn append_outcome(&self, request: &WriteRequest) -> Result<(), Refusal> {
        let ahead = u32::try_from(request.seq - request.done).expect("the window is far below 2^32");
        let record = Record {
            file: request.file,
            epoch: request.epoch,
            done: request.done,
            words: vec![ahead],
            ..Record::new(RecordKind::Outcomes)
        };
        self.append(Class::Normal, record, None).await.map(drop)
    }

    pub(super) async fn allocate(&self, file: &ChunkFile, blocks: Range<u32>) -> Result<(), Refusal> {
        file.allocate(blocks).await.map_err(|error| {
            if error.kind() == std::io::ErrorKind::StorageFull {
                return Refusal::NoSpace;
            }
            self.fail("allocating space for a chunk", &error);
            Refusal::DeviceFailed
        })
    }

    /// Chooses the way of data (DESIGN §4).
    pub(super) async fn choose_way(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        file: &ChunkFile,
        blocks: &Range<u32>,
        whole: bool,
    ) -> Result<Way, Refusal> {
        let journal_only = {
            let superblock = self.superblock.borrow();
            superblock.no_checksums || !superblock.block_atomic
        };
        if !whole || journal_only || chunk.has_content_to_move(blocks) {
            return Ok(Way::Journal);
        }
        let active = chunk.is_active(blocks, self.journal().durable());
        let large = blocks.len() * BLOCK >= JOURNAL_MAX as usize;
        // An SSD before a disk that seeks: what is small goes to the SSD, to be moved sorted and merged.
        let seeks = self.separate_journal.get() && !self.superblock.borrow().ssd_journal;
        if !large && (seeks || !active) {
            return Ok(Way::Journal);
        }
        let states = self.states(chunk, blocks.clone()).await?;
        // It may be a hole of which nobody knows any more.
        if states.iter().any(|(state, _)| *state == BlockState::Lost) {
            return Ok(Way::Journal);
        }
        let is_hole = |(state, _): &(BlockState, Place)| *state == BlockState::Hole;
        if states.iter().any(is_hole)
            && !(large
                && (chunk.is_untouched(blocks) || Box::pin(self.holes_are_zero(file, blocks, &states)).await))
        {
            return Ok(Way::Journal);
        }
        // Over holes no mark is needed: without a record, whatever a crash leaves in the file reads as zero.
        if !active && !states.iter().all(is_hole) {
            Box::pin(self.activate(chunk, blocks)).await?;
        }
        Ok(Way::InPlace)
    }

    /// Whether the file holds zeroes where there are holes. It may not: after a crash, or where a checkpoint could not
    /// punch. In such a place recovery could not tell a hole from a lost write in place, and a chunk's only member
    /// would bring back what was there before.
    async fn holes_are_zero(
        &self,
        file: &ChunkFile,
        blocks: &Range<u32>,
        states: &[(BlockState, Place)],
    ) -> bool {
        let offset = u64::from(blocks.start) * BLOCK as u64;
        let (result, buf) = file.file().read_exact_at(Buf::new(blocks.len() * BLOCK), offset).await;
        let mut held = states.iter().zip(buf.chunks(BLOCK));
        result.is_ok() && held.all(|((state, _), bytes)| *state != BlockState::Hole || is_zero(bytes))
    }

    /// Marks the extents under `blocks` durably, so that data may touch them (C5). Where the one before is active the
    /// writer goes along the chunk: the next ones are marked by the same flush. Those that nothing is written to
    /// lose their marks in the next checkpoint.
    async fn activate(self: &Rc<Self>, chunk: &Rc<Chunk>, blocks: &Range<u32>) -> Result<(), Refusal> {
        rt::sim::hit("engine.extent-marked");
        let wanted = extents(blocks);
        let goes_on = wanted.start > 0 && chunk.active.borrow().contains_key(&(wanted.start - 1));
        let ahead = if goes_on { EXTENTS_AHEAD } else { 0 };
        let marked = wanted.start..(wanted.end + ahead).min(extents(&(0..chunk.blocks())).end);
        let mark = mark_record(chunk, marked.clone());
        let appended = self.append(Class::Normal, mark, None).await?;
        self.mark(chunk, &(marked.start * ACTIVE_BLOCKS..marked.end * ACTIVE_BLOCKS), appended.lsn);
        // Not held over the flush and the next append: those may need the tail to move.
        drop(appended);
        if rt::sim::planted("active-mark-not-durable") {
            return Ok(());
        }
        self.flush().await
    }

    /// Writes data and record side by side.
    pub(super) async fn write_in_place(
        &self,
        mut record: Record,
        payload: View,
        file: &Rc<ChunkFile>,
        chunk: &Rc<Chunk>,
        blocks: &Range<u32>,
    ) -> Result<Appended, Refusal> {
        self.count(|counters| counters.in_place += 1);
        record.kind = RecordKind::InPlace;
        let payload = if payload.is_aligned() { payload } else { View::copy_of(&payload) };
        let offset = u64::from(blocks.start) * BLOCK as u64;
        let kept = payload.clone();
        chunk.touch(blocks);
        let mut data = std::pin::pin!(async {
            let _timed = self.latency.start();
            file.file().write_all_at(payload, offset).await
        });
        let mut append = std::pin::pin!(self.append(Class::Normal, record, None));
        let (written, appended) = both(data.as_mut(), append.as_mut()).await;
        // In any case: the data may lie in extents that were never written before.
        if !self.is_written(chunk, blocks) {
            file.set_uncommitted();
        }
        if let Err(error) = written {
            self.fail("a write to a chunk file", &error);
            return Err(Refusal::DeviceFailed);
        }
        if appended.is_err() {
            // No room for the record of data that is there: a refused write may leave it so. It counts for nobody's
            // write, and after a crash the mark says that the block is in doubt. Holes have no mark: they stay holes,
            // whatever is under them.
            let lsn = self.journal().written();
            let states = Box::pin(self.states(chunk, blocks.clone())).await?;
            let was_data = states.iter().map(|(state, _)| *state != BlockState::Hole);
            let held = blocks.clone().zip(kept.chunks(BLOCK)).zip(was_data).filter(|(_, was_data)| *was_data);
            let entries = held.map(|((block, bytes), _)| {
                let state = BlockState::of_plain(crc32c(bytes), chunk.id, block);
                (block, Entry { lsn, epoch: 0, seq: 0, state, place: Place::File })
            });
            chunk.changed(blocks);
            self.note_entries(chunk, entries);
        }
        appended
    }

    /// Whether all of `blocks` are known to hold data in their file already, so that writing to them changes no
    /// extent. Nothing is read to find out.
    fn is_written(&self, chunk: &Chunk, blocks: &Range<u32>) -> bool {
        let Some(base) = self.tables.states_cached(chunk.owner(), blocks.clone()) else { return false };
        let base = base.into_iter().map(|state| matches!(state, BlockState::Data(_))).collect();
        chunk.newest(blocks, base, |entry| entry.place == Place::File).into_iter().all(|written| written)
    }
}

/// The blocks a request touches, after checking that it makes sense.
fn block_range(request: &WriteRequest, chunk: &Chunk) -> Result<Range<u32>, Refusal> {
    let end = u64::from(request.offset) + u64::from(request.len);
    if request.len == 0 || end > chunk.size {
        return Err(Refusal::Invalid("the range is not inside the chunk"));
    }
    if request.stable > request.done || request.done > request.seq {
        return Err(Refusal::Invalid("the watermarks contradict each other"));
    }
    if request.seq - request.done >= SEQ_WINDOW {
        return Err(Refusal::NeedFlush);
    }
    let blocks = request.offset / BLOCK as u32..(end.div_ceil(BLOCK as u64)) as u32;
    if let WriteKind::Data { payload, crcs } = &request.kind {
        if payload.len() != request.len as usize {
            return Err(Refusal::Invalid("the payload is not as long as the range"));
        }
        if crcs.len() != blocks.len() {
            return Err(Refusal::Invalid("there is not one checksum per block"));
        }
        if payload.len() > MAX_DATA {
            return Err(Refusal::Invalid("more data than one write may bring"));
        }
    }
    Ok(blocks)
}
