//! What the metadata server orders: chunks made and deleted (C9), fences (C2); and the superblock.

use std::rc::Rc;

use rt::buf::View;

use super::chunk::Chunk;
use super::{Engine, Refusal};
use crate::format::superblock::{COPIES, Superblock};
use crate::format::table::{ChunkHeader, SlotState};
use crate::format::{BLOCK, CHUNK_MAX};
use crate::format::record::{Record, RecordKind};
use crate::journal::Class;

/// A chunk to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewChunk {
    /// Its id.
    pub chunk: u64,
    /// Its version.
    pub version: u64,
    /// Its file.
    pub file: u64,
    /// Its size in bytes: whole blocks, at most 64 MiB.
    pub size: u64,
}

impl Engine {
    /// Makes an empty replica, durably. Making the same again changes nothing.
    ///
    /// # Errors
    /// [`Refusal::StaleVersion`] when it is here with another version; [`Refusal::NoSpace`].
    pub async fn create_chunk(&self, new: NewChunk) -> Result<(), Refusal> {
        self.check_running()?;
        if new.size == 0 || new.size > CHUNK_MAX || !new.size.is_multiple_of(BLOCK as u64) {
            return Err(Refusal::Invalid("the chunk size"));
        }
        let _one_at_a_time = self.creating.exclusive(new.chunk..new.chunk.saturating_add(1)).await;
        if let Some(chunk) = self.chunks.borrow().get(&new.chunk) {
            let have = chunk.version.get();
            return if have == new.version && chunk.file == new.file && chunk.size == new.size {
                Ok(())
            } else {
                Err(Refusal::StaleVersion { have, wanted: new.version })
            };
        }
        let no_space_or_fail = |error: std::io::Error| {
            if error.kind() == std::io::ErrorKind::StorageFull {
                return Refusal::NoSpace;
            }
            self.fail("making a chunk file", &error);
            Refusal::DeviceFailed
        };
        self.store.create(new.chunk, new.size).await.map_err(no_space_or_fail)?;
        let slot = self.tables.reserve_slot();
        let header = ChunkHeader {
            sequence: self.next_header_sequence(),
            state: SlotState::Live,
            chunk: new.chunk,
            version: new.version,
            file: new.file,
            size: new.size,
            layout: 0,
            piece: 0,
            block_metadata: 4,
            key_id: 0,
            stripe_version: 0,
        };
        // Both copies: an older one of another chunk must not come back when the newer is torn later.
        let mut copy = 1;
        for _ in 0..2 {
            copy = match self.tables.write_header(slot, copy, &header).await {
                Ok(copy) => copy,
                Err(error) => return Err(self.table_failed(&error)),
            };
        }
        self.chunks.borrow_mut().insert(new.chunk, Chunk::new(slot, copy, header));
        Ok(())
    }

    fn next_header_sequence(&self) -> u64 {
        // LSNs only grow and the journal moves between any two headers' lives of one slot; start above both.
        self.journal.next().max(1)
    }

    /// Deletes a replica with at most this version; higher ones are spared (C9). Deleting what is gone is done.
    ///
    /// # Errors
    /// [`Refusal::StaleVersion`] when the replica is newer.
    pub async fn delete_chunk(&self, chunk: u64, version: u64) -> Result<(), Refusal> {
        self.check_running()?;
        let _one_at_a_time = self.creating.exclusive(chunk..chunk.saturating_add(1)).await;
        let Some(found) = self.chunks.borrow().get(&chunk).map(Rc::clone) else { return Ok(()) };
        let have = found.version.get();
        if have > version {
            return Err(Refusal::StaleVersion { have, wanted: version });
        }
        found.deleted.set(true);
        let _all = found.ranges.exclusive(0..u64::from(found.blocks())).await;
        // A checkpoint under way may hold the chunk: let it end before the slot is used again.
        while !found.frozen.borrow().is_empty() {
            let done = self.checkpoint_done.notified();
            self.checkpoint_wanted.notify_one();
            done.await;
            self.check_running()?;
        }
        let header = ChunkHeader { sequence: found.header.get().sequence + 1, state: SlotState::Free, ..found.header.get() };
        let mut copy = found.header_copy.get();
        for _ in 0..2 {
            copy = match self.tables.write_header(found.slot, copy, &header).await {
                Ok(copy) => copy,
                Err(error) => return Err(self.table_failed(&error)),
            };
        }
        self.chunks.borrow_mut().remove(&chunk);
        self.map_entries.set(self.map_entries.get() - found.live.take().len());
        self.file_state(found.file).forget_chunk(chunk);
        self.tables.release(found.slot);
        if let Err(error) = self.store.remove(chunk).await {
            self.fail("removing a chunk file", &error);
            return Err(Refusal::DeviceFailed);
        }
        Ok(())
    }

    /// Refuses epochs below `epoch` of a file for ever: drains what is under way and records it durably (C2).
    ///
    /// # Errors
    /// [`Refusal::DeviceFailed`], [`Refusal::Stopping`].
    pub async fn fence(self: &Rc<Self>, file: u64, epoch: u64) -> Result<(), Refusal> {
        self.check_running()?;
        let state = self.file_state(file);
        if state.recorded_fence() >= epoch {
            return Ok(());
        }
        state.raise_fence(epoch);
        state.drained_below(epoch).await;
        let record = Record { file, epoch, ..Record::new(RecordKind::Fence) };
        self.journal.append(Class::Reserve, record, Vec::new()).await?;
        self.flush().await
    }

    /// Changes the superblock durably: two copies, a flush, the other two, a flush.
    ///
    /// # Errors
    /// Those of the device; the server has failed then.
    pub async fn update_superblock(&self, change: impl FnOnce(&mut Superblock)) -> std::io::Result<()> {
        let _one_at_a_time = self.superblock_writing.acquire(1).await;
        let mut superblock = self.superblock();
        change(&mut superblock);
        superblock.sequence += 1;
        let result = write_superblock(&self.superblock_file, &superblock).await;
        match result {
            Ok(()) => *self.superblock.borrow_mut() = superblock,
            Err(ref error) => self.fail("a write of the superblock", error),
        }
        result
    }
}

/// Writes a superblock so that at every moment two copies hold the old or the new state.
pub(crate) async fn write_superblock(file: &rt::fs::File, superblock: &Superblock) -> std::io::Result<()> {
    let block = View::copy_of(&superblock.encode());
    for half in 0..2 {
        for copy in half * COPIES / 2..(half + 1) * COPIES / 2 {
            file.write_all_at(block.clone(), (copy * BLOCK) as u64).await?;
        }
        file.sync_data().await?;
    }
    Ok(())
}
