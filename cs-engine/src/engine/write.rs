//! Writes, and discards and write-zeroes, which are writes in every respect (C11).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use rt::buf::{Buf, View};

use super::blocks::{Entry, Place};
use super::chunk::{Chunk, extents};
use super::files::{Admission, FileState, Unstable};
use super::{BLOCK_MAP_MAX, Engine, JOURNAL_MAX, Refusal};
use crate::format::block::{BlockState, StoredCrc};
use crate::format::record::{Record, RecordKind};
use crate::format::{BLOCK, crc32c};
use crate::journal::{Appended, Class};
use crate::store::ChunkFile;

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

/// The answer to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteReply {
    /// The client should flush soon: the list of unstable writes is filling.
    pub flush_soon: bool,
}

/// A write that has passed its checks.
struct Checked {
    file: Rc<FileState>,
    chunk: Rc<Chunk>,
    blocks: Range<u32>,
}

/// Ends a write's presence in the books, however it ends.
struct Running<'a> {
    engine: &'a Engine,
    file: Rc<FileState>,
    epoch: u64,
    seq: u64,
    chunk: u64,
    floor: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.file.end(self.epoch, self.seq, self.chunk);
        release(&self.engine.floors, self.floor);
    }
}

/// Counts one more under `key`.
pub(crate) fn count_in(counts: &RefCell<BTreeMap<u64, usize>>, key: u64) {
    *counts.borrow_mut().entry(key).or_insert(0) += 1;
}

/// Counts one less under `key`.
pub(crate) fn release(counts: &RefCell<BTreeMap<u64, usize>>, key: u64) {
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
    /// [`Refusal`]; a refused write has changed nothing that counts.
    pub async fn write(self: &Rc<Self>, request: WriteRequest) -> Result<WriteReply, Refusal> {
        self.check_running()?;
        let file = self.check_epoch(request.file, request.epoch)?;
        let chunk = self.chunk_for(request.file, request.chunk, request.version)?;
        let blocks = block_range(&request, &chunk)?;
        let _in_flight = file.enter(request.epoch);
        file.advance(request.epoch, request.done, request.stable);
        loop {
            let finished = file.finished.notified();
            match file.admit(request.epoch, request.seq, request.chunk) {
                Admission::New => break,
                Admission::Repeat => return Ok(WriteReply { flush_soon: file.wants_flush() }),
                Admission::Answered { done } => return Err(Refusal::Answered { seq: request.seq, done }),
                Admission::Running => finished.await,
            }
        }
        file.begin(request.epoch, request.seq, request.chunk);
        let floor = self.journal.written();
        count_in(&self.floors, floor);
        let _running = Running {
            engine: self,
            file: Rc::clone(&file),
            epoch: request.epoch,
            seq: request.seq,
            chunk: request.chunk,
            floor,
        };
        if !file.has_room() {
            return Err(Refusal::NeedFlush);
        }
        let checked = Checked { file, chunk, blocks };
        let locked = checked.chunk.ranges.exclusive(u64::from(checked.blocks.start)..u64::from(checked.blocks.end));
        let _locked = locked.await;
        self.recheck(&request, &checked)?;
        let bytes = u64::from(request.len);
        let flush_soon = self.write_locked(&request, &checked).await?;
        self.count(|counters| {
            counters.writes += 1;
            counters.write_bytes += bytes;
        });
        Ok(WriteReply { flush_soon })
    }

    /// After a wait: the fence may have risen, the chunk may be gone.
    fn recheck(&self, request: &WriteRequest, checked: &Checked) -> Result<(), Refusal> {
        self.check_running()?;
        self.check_epoch(request.file, request.epoch)?;
        if checked.chunk.deleted.get() {
            return Err(Refusal::UnknownChunk(request.chunk));
        }
        Ok(())
    }

    async fn write_locked(
        self: &Rc<Self>,
        request: &WriteRequest,
        checked: &Checked,
    ) -> Result<bool, Refusal> {
        let Checked { file, chunk, blocks } = checked;
        let (origin_epoch, origin_seq) = request.settles.unwrap_or((request.epoch, request.seq));
        let content = self.content(request, chunk, blocks).await?;
        let mut record = Record {
            chunk: chunk.id,
            version: request.version,
            file: request.file,
            epoch: origin_epoch,
            seq: origin_seq,
            done: request.done,
            stable: request.stable,
            first: blocks.start,
            count: blocks.len() as u32,
            ..Record::new(RecordKind::Zero)
        };
        let place = match &content {
            Content::Zero => self.append(record, Vec::new()).await.map(|at| (at, Way::Nowhere))?,
            Content::Data { payload, states } => {
                record.words = states.iter().map(|state| state.to_raw()).collect();
                self.write_data(record, payload, request, checked).await?
            }
        };
        let (appended, way) = place;
        chunk.mark(blocks.clone(), appended.lsn);
        let entries = blocks.clone().map(|block| {
            let index = block - blocks.start;
            let (state, place) = match (&content, way) {
                (Content::Zero, _) | (_, Way::Nowhere) => (BlockState::Hole, Place::Nowhere),
                (Content::Data { states, .. }, Way::InPlace) => (states[index as usize], Place::File),
                (Content::Data { states, .. }, Way::Journal) => (
                    states[index as usize],
                    Place::Journal(appended.payload + u64::from(index) * BLOCK as u64),
                ),
            };
            (block, Entry { lsn: appended.lsn, epoch: origin_epoch, seq: origin_seq, state, place })
        });
        self.note_entries(chunk, entries);
        let write = Unstable { chunk: chunk.id, first: blocks.start, count: blocks.len() as u32 };
        if request.settles.is_some() {
            file.add_unstable(origin_epoch, origin_seq, write);
        } else {
            file.done(request.epoch, request.seq, write);
        }
        Ok(file.wants_flush())
    }

    /// Puts entries into the block map.
    pub(crate) fn note_entries(&self, chunk: &Chunk, entries: impl Iterator<Item = (u32, Entry)>) {
        let mut map = chunk.live.borrow_mut();
        let before = map.len();
        for (block, entry) in entries {
            map.insert(block, entry);
        }
        let total = self.map_entries.get() + map.len() - before;
        self.map_entries.set(total);
        if total > BLOCK_MAP_MAX {
            self.checkpoint_wanted.notify_one();
        }
    }

    async fn append(&self, record: Record, payload: Vec<View>) -> Result<Appended, Refusal> {
        if rt::sim::planted("acked-before-journal") && record.payload_blocks() > 0 {
            let lsn = self.journal.next();
            let journal = Rc::clone(&self.journal);
            rt::spawn(async move { journal.append(Class::Normal, record, payload).await });
            return Ok(Appended { lsn, payload: lsn });
        }
        match self.journal.append(Class::Normal, record, payload).await {
            Ok(appended) => Ok(appended),
            Err(error) => {
                let refusal = Refusal::from(error);
                if refusal == Refusal::DeviceFailed {
                    self.fail("a write to the journal", &"see above");
                }
                Err(refusal)
            }
        }
    }

    /// Chooses among the three ways to write data (DESIGN §4) and goes it.
    async fn write_data(
        self: &Rc<Self>,
        mut record: Record,
        payload: &View,
        request: &WriteRequest,
        checked: &Checked,
    ) -> Result<(Appended, Way), Refusal> {
        let Checked { chunk, blocks, .. } = checked;
        let file = self.chunk_file(chunk).await?;
        // Space is there before anything is acknowledged, also for what a checkpoint moves later (C13).
        self.allocate(&file, blocks.clone()).await?;
        let way = self.choose_way(request, chunk, blocks).await?;
        match way {
            Way::Journal | Way::Nowhere => {
                self.count(|counters| counters.journaled += 1);
                record.kind = RecordKind::Data;
                let appended = self.append(record, vec![payload.clone()]).await?;
                Ok((appended, Way::Journal))
            }
            Way::InPlace => {
                self.count(|counters| counters.in_place += 1);
                record.kind = RecordKind::InPlace;
                let appended = self.write_in_place(record, payload, &file, chunk, blocks).await?;
                Ok((appended, Way::InPlace))
            }
        }
    }

    pub(crate) async fn allocate(&self, file: &ChunkFile, blocks: Range<u32>) -> Result<(), Refusal> {
        file.allocate(blocks).await.map_err(|error| {
            if error.kind() == std::io::ErrorKind::StorageFull {
                return Refusal::NoSpace;
            }
            self.fail("allocating space for a chunk", &error);
            Refusal::DeviceFailed
        })
    }

    async fn choose_way(
        self: &Rc<Self>,
        request: &WriteRequest,
        chunk: &Chunk,
        blocks: &Range<u32>,
    ) -> Result<Way, Refusal> {
        let whole = request.offset.is_multiple_of(BLOCK as u32) && request.len.is_multiple_of(BLOCK as u32);
        let journal_only = {
            let superblock = self.superblock.borrow();
            superblock.no_checksums || !superblock.block_atomic
        };
        if !whole || journal_only || request.settles.is_some() || chunk.has_content_to_move(blocks.clone()) {
            return Ok(Way::Journal);
        }
        if chunk.is_active(blocks, self.journal.durable()) {
            return Ok(Way::InPlace);
        }
        let large = request.len >= JOURNAL_MAX;
        if !large {
            return Ok(Way::Journal);
        }
        // First touch: where the table says hole, whatever a crash leaves in the file reads as zero.
        let states = self.states(chunk, blocks.clone()).await?;
        if states.iter().all(|(state, place)| *state == BlockState::Hole && *place == Place::File) {
            return Ok(Way::InPlace);
        }
        self.activate(chunk, blocks).await?;
        Ok(Way::InPlace)
    }

    /// Marks the extents under `blocks` durably, so that data may touch them (C5).
    async fn activate(self: &Rc<Self>, chunk: &Chunk, blocks: &Range<u32>) -> Result<(), Refusal> {
        let extents = extents(blocks);
        let mark = Record {
            chunk: chunk.id,
            file: chunk.file,
            first: extents.start,
            count: extents.len() as u32,
            ..Record::new(RecordKind::Mark)
        };
        let appended = self.append(mark, Vec::new()).await?;
        chunk.mark(blocks.clone(), appended.lsn);
        if rt::sim::planted("active-mark-not-durable") {
            return Ok(());
        }
        self.flush().await
    }

    /// Writes data and record side by side.
    async fn write_in_place(
        &self,
        record: Record,
        payload: &View,
        file: &Rc<ChunkFile>,
        chunk: &Chunk,
        blocks: &Range<u32>,
    ) -> Result<Appended, Refusal> {
        let offset = u64::from(blocks.start) * BLOCK as u64;
        let data = rt::spawn({
            let (file, payload) = (Rc::clone(file), payload.clone());
            async move { file.file().write_all_at(payload, offset).await }
        });
        let appended = self.append(record, Vec::new()).await;
        let written = data.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        if let Err(error) = written {
            self.fail("a write to a chunk file", &error);
            return Err(Refusal::DeviceFailed);
        }
        let base = self.table_states(chunk, blocks.clone()).await?;
        if base.iter().any(|state| *state == BlockState::Hole) {
            file.set_uncommitted();
        }
        appended
    }

    /// The whole blocks a write leaves behind, checked against the checksums that came with it (C8).
    async fn content(
        self: &Rc<Self>,
        request: &WriteRequest,
        chunk: &Rc<Chunk>,
        blocks: &Range<u32>,
    ) -> Result<Content, Refusal> {
        let WriteKind::Data { payload, crcs } = &request.kind else {
            return self.zero_content(request, chunk, blocks).await;
        };
        let mut at = 0;
        let mut offset = request.offset as usize;
        for (block, crc) in blocks.clone().zip(crcs) {
            let part = (BLOCK - offset % BLOCK).min(payload.len() - at);
            if crc32c(&payload[at..at + part]) != *crc {
                return Err(Refusal::Damaged { block });
            }
            at += part;
            offset += part;
        }
        let whole = request.offset.is_multiple_of(BLOCK as u32) && request.len.is_multiple_of(BLOCK as u32);
        if whole {
            let payload = if payload.is_aligned() { payload.clone() } else { View::copy_of(payload) };
            let states = blocks.clone().zip(crcs).map(|(block, crc)| {
                BlockState::Data(StoredCrc::of_plain(*crc, chunk.id, block))
            });
            return Ok(Content::Data { payload, states: states.collect() });
        }
        self.merge(request, chunk, blocks, Some(payload)).await
    }

    /// Zeroing whole blocks makes holes; parts of blocks are merged.
    async fn zero_content(
        self: &Rc<Self>,
        request: &WriteRequest,
        chunk: &Rc<Chunk>,
        blocks: &Range<u32>,
    ) -> Result<Content, Refusal> {
        let whole = request.offset.is_multiple_of(BLOCK as u32) && request.len.is_multiple_of(BLOCK as u32);
        if whole {
            return Ok(Content::Zero);
        }
        self.merge(request, chunk, blocks, None).await
    }

    /// Fills up parts of blocks with their old content, which is verified first (C8).
    async fn merge(
        self: &Rc<Self>,
        request: &WriteRequest,
        chunk: &Rc<Chunk>,
        blocks: &Range<u32>,
        payload: Option<&View>,
    ) -> Result<Content, Refusal> {
        let mut merged = Buf::zeroed(blocks.len() * BLOCK);
        let from = request.offset as usize - blocks.start as usize * BLOCK;
        let to = from + request.len as usize;
        if !from.is_multiple_of(BLOCK) {
            let head = self.read_blocks(chunk, blocks.start..blocks.start + 1).await?;
            merged[..BLOCK].copy_from_slice(&head);
        }
        let last = blocks.end - 1;
        if !to.is_multiple_of(BLOCK) && (last > blocks.start || from.is_multiple_of(BLOCK)) {
            let tail = self.read_blocks(chunk, last..blocks.end).await?;
            let at = merged.len() - BLOCK;
            merged[at..].copy_from_slice(&tail);
        }
        match payload {
            Some(payload) => merged[from..to].copy_from_slice(payload),
            None => merged[from..to].fill(0),
        }
        let states = merged.chunks(BLOCK).zip(blocks.clone());
        let states = states.map(|(bytes, block)| BlockState::of_plain(crc32c(bytes), chunk.id, block)).collect();
        Ok(Content::Data { payload: merged.freeze(), states })
    }
}

/// What a write leaves behind, in whole blocks.
enum Content {
    Zero,
    Data { payload: View, states: Vec<BlockState> },
}

/// The way a write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Journal,
    InPlace,
    Nowhere,
}

/// The blocks a request touches, after checking that it makes sense.
fn block_range(request: &WriteRequest, chunk: &Chunk) -> Result<Range<u32>, Refusal> {
    let end = u64::from(request.offset) + u64::from(request.len);
    if request.len == 0 || end > chunk.size {
        return Err(Refusal::Invalid("the range is not inside the chunk"));
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

/// Most bytes of one write's data: its record and payload fit into a group.
pub const MAX_DATA: usize = 1 << 20;
const _: () = assert!(
    crate::format::journal::GROUP_HEADER
        + crate::format::record::FIXED
        + 4 * (MAX_DATA / BLOCK + 1)
        + MAX_DATA
        + 2 * BLOCK
        < crate::format::journal::GROUP_MAX
);
