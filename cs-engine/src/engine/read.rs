//! Reads: every block is verified before its bytes leave (C8).

use std::ops::Range;
use std::rc::Rc;

use rt::buf::{Buf, View};

use super::blocks::Place;
use super::chunk::Chunk;
use super::{DamageKind, Engine, MAX_DATA, Refusal};
use crate::format::block::BlockState;
use crate::format::{BLOCK, crc32c};

/// The answer to a read.
#[derive(Clone, Debug)]
pub struct ReadReply {
    /// The bytes; `None` when every one is zero.
    pub payload: Option<View>,
    /// Plain CRC32C per block or part of a block; empty when every byte is zero.
    pub crcs: Vec<u32>,
}

/// Blocks next to each other that come from one place.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) blocks: Range<u32>,
    place: Place,
}

impl Run {
    /// One block of it.
    pub(super) fn only(&self, block: u32) -> Self {
        let place = match self.place {
            Place::Journal(at) => Place::Journal(at + u64::from(block - self.blocks.start) * BLOCK as u64),
            place => place,
        };
        Self { blocks: block..block + 1, place }
    }
}

/// A read under way: keeps the journal's payloads that it may have seen from being overwritten.
pub(super) struct Reader<'a> {
    engine: &'a Engine,
    serial: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn enter(engine: &'a Engine) -> Self {
        let serial = engine.checkpoint_serial.get();
        super::write::count_in(&engine.readers, serial);
        Self { engine, serial }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        super::write::release(&self.engine.readers, self.serial);
        self.engine.readers_left.notify_all();
    }
}

impl Engine {
    /// Reads bytes of a chunk.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn read(
        self: &Rc<Self>,
        file: u64,
        epoch: u64,
        chunk: u64,
        version: u64,
        offset: u32,
        len: u32,
    ) -> Result<ReadReply, Refusal> {
        let _request = self.begin()?;
        let chunk = self.member_for(file, chunk, version)?;
        let state = self.check_epoch(file, epoch)?;
        let end = u64::from(offset) + u64::from(len);
        if len == 0 || end > chunk.size || len as usize > MAX_DATA {
            return Err(Refusal::Invalid(
                "the range is not inside the chunk, or longer than one read may be",
            ));
        }
        let _in_flight = state.enter(epoch);
        let blocks = offset / BLOCK as u32..end.div_ceil(BLOCK as u64) as u32;
        let _locked = chunk.ranges.shared(u64::from(blocks.start)..u64::from(blocks.end)).await;
        self.recheck(&chunk, epoch, version)?;
        let reply = self.read_locked(&chunk, blocks, offset, len).await?;
        self.count(|counters| {
            counters.reads += 1;
            counters.read_bytes += u64::from(len);
        });
        Ok(reply)
    }

    /// Reads whole blocks for a joiner under the same version, whatever the writer's epoch (C7).
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn read_for_joiner(
        self: &Rc<Self>,
        file: u64,
        chunk: u64,
        version: u64,
        offset: u32,
        len: u32,
    ) -> Result<ReadReply, Refusal> {
        let _request = self.begin()?;
        let chunk = self.member_for(file, chunk, version)?;
        let end = u64::from(offset) + u64::from(len);
        let whole = offset.is_multiple_of(BLOCK as u32) && len.is_multiple_of(BLOCK as u32);
        if len == 0 || end > chunk.size || len as usize > MAX_DATA || !whole {
            return Err(Refusal::Invalid("not whole blocks of the chunk, or more than one read may be"));
        }
        let blocks = offset / BLOCK as u32..(end / BLOCK as u64) as u32;
        let _locked = chunk.ranges.shared(u64::from(blocks.start)..u64::from(blocks.end)).await;
        // Its own epoch is never stale.
        self.recheck(&chunk, u64::MAX, version)?;
        self.read_locked(&chunk, blocks, offset, len).await
    }

    /// A block for a joiner when no member can tell what it is, as it lies in the file (C5).
    ///
    /// # Errors
    /// [`Refusal::Corrupt`] where no crash may have left it so, or when the device cannot read it.
    pub async fn accept_for_joiner(
        self: &Rc<Self>,
        file: u64,
        chunk: u64,
        version: u64,
        block: u32,
    ) -> Result<Buf, Refusal> {
        let _request = self.begin()?;
        let chunk = self.member_for(file, chunk, version)?;
        if block >= chunk.blocks() {
            return Err(Refusal::Invalid("the range is not inside the chunk"));
        }
        let _locked = chunk.ranges.shared(u64::from(block)..u64::from(block) + 1).await;
        self.recheck(&chunk, u64::MAX, version)?;
        self.accept_locked(&chunk, block).await
    }

    /// The plain checksum that is on record for a block of a member, whatever it holds.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn recorded_for_joiner(
        self: &Rc<Self>,
        file: u64,
        chunk: u64,
        version: u64,
        block: u32,
    ) -> Result<Option<u32>, Refusal> {
        let _request = self.begin()?;
        let chunk = self.member_for(file, chunk, version)?;
        let _locked = chunk.ranges.shared(u64::from(block)..u64::from(block) + 1).await;
        self.recheck(&chunk, u64::MAX, version)?;
        let states = self.states(&chunk, block..block + 1).await?;
        Ok(match states[0].0 {
            BlockState::Data(stored) => Some(stored.plain(chunk.id, block)),
            _ => None,
        })
    }

    async fn read_locked(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        blocks: Range<u32>,
        offset: u32,
        len: u32,
    ) -> Result<ReadReply, Refusal> {
        let _reader = Reader::enter(self);
        let states = self.states(chunk, blocks.clone()).await?;
        if states.iter().all(|(state, _)| *state == BlockState::Hole) {
            return Ok(ReadReply { payload: None, crcs: Vec::new() });
        }
        let (data, crcs) = self.read_states(chunk, blocks, &states).await?;
        Ok(cut_out(data.freeze(), crcs, offset as usize % BLOCK, len as usize))
    }

    /// Whole blocks, verified; for merging parts.
    pub(super) async fn read_blocks(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        blocks: Range<u32>,
    ) -> Result<Buf, Refusal> {
        let _reader = Reader::enter(self);
        let states = self.states(chunk, blocks.clone()).await?;
        Ok(self.read_states(chunk, blocks, &states).await?.0)
    }

    /// Reads blocks whose states are known, verifies them, and gives their plain checksums.
    pub(super) async fn read_states(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        blocks: Range<u32>,
        states: &[(BlockState, Place)],
    ) -> Result<(Buf, Vec<u32>), Refusal> {
        if let Some(index) = states.iter().position(|(state, _)| *state == BlockState::Unknown) {
            let block = blocks.start + index as u32;
            let in_doubt = self.is_in_doubt(chunk, block);
            return Err(if in_doubt { Refusal::Unsettled { block } } else { Refusal::Corrupt { block } });
        }
        if let Some(index) = states.iter().position(|(state, _)| *state == BlockState::Lost) {
            return Err(Refusal::Corrupt { block: blocks.start + index as u32 });
        }
        let runs = runs(blocks.clone(), states);
        let data = match runs.as_slice() {
            [only] => self.read_run(chunk, only).await?,
            several => {
                let mut data = Buf::new(blocks.len() * BLOCK);
                for run in several {
                    let part = self.read_run(chunk, run).await?;
                    let at = (run.blocks.start - blocks.start) as usize * BLOCK;
                    data[at..at + part.len()].copy_from_slice(&part);
                }
                data
            }
        };
        let mut crcs = Vec::with_capacity(states.len());
        for ((block, bytes), (state, _)) in blocks.zip(data.chunks(BLOCK)).zip(states) {
            let plain = crc32c(bytes);
            if let BlockState::Data(stored) = state
                && !stored.matches(plain, chunk.id, block)
                && !rt::sim::planted("repair-unchecked")
            {
                return Err(self.mismatch(chunk, block));
            }
            crcs.push(plain);
        }
        Ok((data, crcs))
    }

    fn mismatch(&self, chunk: &Chunk, block: u32) -> Refusal {
        let refusal = chunk.mismatch(block);
        if let Refusal::Corrupt { .. } = refusal {
            self.count(|counters| counters.corrupt_blocks += 1);
            tracing::error!("chunk {:#x}, block {block}: stored data does not match its checksum", chunk.id);
            self.note_damage(chunk.id, block, DamageKind::Mismatch);
        }
        refusal
    }

    /// The bytes of a run as they lie there, unless the device refuses them.
    pub(super) async fn read_place(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        run: &Run,
    ) -> Result<std::io::Result<Buf>, Refusal> {
        let buf = Buf::new(run.blocks.len() * BLOCK);
        let _timed = self.latency.start();
        let (result, buf) = match run.place {
            Place::Nowhere => {
                let mut zeroes = buf;
                zeroes.fill(0);
                return Ok(Ok(zeroes));
            }
            Place::Journal(at) => self.journal().read_payload(at, buf).await,
            Place::File => {
                let file = self.chunk_file(chunk).await?;
                file.file().read_exact_at(buf, u64::from(run.blocks.start) * BLOCK as u64).await
            }
        };
        Ok(result.map(|()| buf))
    }

    async fn read_run(self: &Rc<Self>, chunk: &Rc<Chunk>, run: &Run) -> Result<Buf, Refusal> {
        match self.read_place(chunk, run).await? {
            Ok(buf) => Ok(buf),
            Err(error) => {
                // A sector that cannot be read is a damaged block, repaired from another member (C8).
                tracing::error!("chunk {:#x}, blocks {:?}: {error}", chunk.id, run.blocks);
                // Which of them it is shows when they are looked at one by one.
                run.blocks.clone().for_each(|block| self.suspect_damage(chunk.id, block));
                self.count(|counters| counters.corrupt_blocks += 1);
                Err(Refusal::Corrupt { block: run.blocks.start })
            }
        }
    }
}

/// The part of verified blocks that was asked for; parts of blocks get checksums of their own.
fn cut_out(data: View, mut crcs: Vec<u32>, from: usize, len: usize) -> ReadReply {
    let payload = data.slice(from..from + len);
    let tail = (from + len) % BLOCK;
    if from != 0 || (tail != 0 && crcs.len() == 1) {
        crcs[0] = crc32c(&payload[..len.min(BLOCK - from)]);
    }
    if tail != 0
        && crcs.len() > 1
        && let Some(last) = crcs.last_mut()
    {
        *last = crc32c(&payload[len - tail..]);
    }
    ReadReply { payload: Some(payload), crcs }
}

/// Groups blocks by where they come from; holes come from nowhere.
pub(super) fn runs(blocks: Range<u32>, states: &[(BlockState, Place)]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (block, (state, place)) in blocks.zip(states) {
        let place = if *state == BlockState::Hole { Place::Nowhere } else { *place };
        if let Some(last) = runs.last_mut() {
            let follows = match (last.place, place) {
                (Place::File, Place::File) | (Place::Nowhere, Place::Nowhere) => true,
                (Place::Journal(start), Place::Journal(at)) => {
                    at == start + last.blocks.len() as u64 * BLOCK as u64
                }
                _ => false,
            };
            if follows {
                last.blocks.end = block + 1;
                continue;
            }
        }
        runs.push(Run { blocks: block..block + 1, place });
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_blocks_have_checksums_of_their_own() {
        let data = View::copy_of(&(0..3 * BLOCK).map(|i| (i / 7) as u8).collect::<Vec<_>>());
        for (from, len) in [
            (0usize, 4096usize),
            (0, 100),
            (100, 200),
            (100, 3996),
            (100, 4000),
            (0, 8192),
            (5, 8192),
            (0, 8200),
        ] {
            let blocks = (from + len).div_ceil(BLOCK);
            let whole: Vec<u32> = data.chunks(BLOCK).take(blocks).map(crc32c).collect();
            let reply = cut_out(data.slice(..blocks * BLOCK), whole, from, len);
            let (mut at, mut expected) = (from, Vec::new());
            while at < from + len {
                let end = (from + len).min((at / BLOCK + 1) * BLOCK);
                expected.push(crc32c(&data[at..end]));
                at = end;
            }
            assert_eq!(reply.crcs, expected, "{len} bytes from {from}");
            assert_eq!(reply.payload.as_deref(), Some(&data[from..from + len]));
        }
    }

    #[test]
    fn neighbours_from_one_place_are_read_at_once() {
        let data = BlockState::of_plain(1, 1, 1);
        let states = [
            (data, Place::File),
            (data, Place::File),
            (BlockState::Hole, Place::File),
            (data, Place::Journal(8192)),
            (data, Place::Journal(12288)),
            (data, Place::Journal(4096)),
        ];
        let found: Vec<_> = runs(10..16, &states).into_iter().map(|run| (run.blocks, run.place)).collect();
        assert_eq!(
            found,
            [
                (10..12, Place::File),
                (12..13, Place::Nowhere),
                (13..15, Place::Journal(8192)),
                (15..16, Place::Journal(4096)),
            ]
        );
    }
}
