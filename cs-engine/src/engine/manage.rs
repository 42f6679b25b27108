//! What the metadata server orders: chunks made and deleted (C9), fences (C2); and the superblock.

use std::rc::Rc;

use rt::buf::View;

use super::chunk::Chunk;
use super::standing::Standing;
use super::{Engine, Refusal};
use crate::format::record::{Record, RecordKind};
use crate::format::superblock::{COPIES, Superblock};
use crate::format::table::{ChunkHeader, SlotState};
use crate::format::{BLOCK, CHUNK_MAX};
use crate::journal::Class;
use crate::tables::{Space, TableError};

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
    /// It is a joiner that lacks everything (C7).
    pub joining: bool,
}

impl Engine {
    /// Makes an empty replica that refuses epochs below `epoch` from the first (C2).
    ///
    /// # Errors
    /// Those of [`Engine::fence`] and [`Engine::create_chunk`].
    pub async fn create_fenced(self: &Rc<Self>, new: NewChunk, epoch: u64) -> Result<(), Refusal> {
        // What is known of the file stays until its chunk is there, whatever becomes of its other chunks.
        let _kept = self.file_state(new.file);
        self.fence(new.file, epoch).await?;
        self.create_chunk(new).await
    }

    /// Makes an empty replica, durably. Making the same again changes nothing.
    ///
    /// # Errors
    /// [`Refusal::StaleVersion`] when it is here with another version; [`Refusal::NoSpace`].
    pub async fn create_chunk(self: &Rc<Self>, new: NewChunk) -> Result<(), Refusal> {
        let _request = self.begin()?;
        if new.size == 0 || new.size > CHUNK_MAX || !new.size.is_multiple_of(BLOCK as u64) {
            return Err(Refusal::Invalid("the chunk size"));
        }
        let _one_at_a_time = self.creating.exclusive(new.chunk..new.chunk.saturating_add(1)).await;
        self.check_running()?;
        if let Some(chunk) = self.chunks.borrow().get(&new.chunk) {
            let have = chunk.version.get();
            let same = chunk.file == new.file && chunk.size == new.size && chunk.is_joiner() == new.joining;
            return if have == new.version && same {
                Ok(())
            } else {
                Err(Refusal::StaleVersion { have, wanted: new.version })
            };
        }
        if new.joining {
            self.room_for_joiner()?;
        }
        let made = self.make_chunk(new).await;
        if made == Err(Refusal::NoSpace)
            && let Err(error) = self.store.remove(new.chunk).await
        {
            // It holds nothing; the next start takes it away.
            tracing::warn!(
                "chunk {:#x}: cannot remove the file of a chunk that was not made: {error}",
                new.chunk
            );
        }
        made
    }

    async fn make_chunk(self: &Rc<Self>, new: NewChunk) -> Result<(), Refusal> {
        // First the slot: whoever had it before was born before this, and so are its pages.
        let (slot, sequence) = self.tables.reserve_slot();
        // No record of this life lies before, and none ever will: what is written by now is durable before the header
        // is, so that no crash takes the journal back behind it.
        let born = self.journal().written();
        self.flush().await?;
        self.store.create(new.chunk, new.size).await.map_err(|error| {
            if error.kind() == std::io::ErrorKind::StorageFull {
                self.tables.release(slot, sequence - 1);
                return Refusal::NoSpace;
            }
            self.fail("making a chunk file", &error);
            Refusal::DeviceFailed
        })?;
        let blocks = (new.size / BLOCK as u64) as u32;
        let checksums = !self.superblock.borrow().no_checksums;
        let space = Space { blocks, checksums, reused: sequence > 1 };
        let allocated = match self.tables.allocate(slot, space).await {
            Ok(allocated) => allocated,
            Err(TableError::Io { error, .. }) if error.kind() == std::io::ErrorKind::StorageFull => {
                self.tables.release(slot, sequence - 1);
                return Err(Refusal::NoSpace);
            }
            Err(error) => return Err(self.table_failed(&error)),
        };
        // Durable before the header: a crash must not leave a joiner that looks like an empty member. The tail stays before
        // the record until the chunk is known.
        let standing = new.joining.then(|| Standing::new_joiner(blocks));
        let _told = match &standing {
            Some(standing) => {
                let record = standing.record_of(new.chunk, new.file, new.version);
                let appended = self.append(Class::Urgent, record, None).await;
                if matches!(appended, Err(Refusal::NoSpace)) {
                    self.tables.release(slot, sequence - 1);
                }
                let appended = appended?;
                self.flush().await?;
                Some(appended)
            }
            None => None,
        };
        let header = ChunkHeader {
            sequence,
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
            born,
            verified: 0,
        };
        match self.tables.write_first_header(allocated, &header).await {
            Ok(()) => {}
            Err(TableError::Io { error, .. }) if error.kind() == std::io::ErrorKind::StorageFull => {
                self.tables.release(slot, sequence - 1);
                return Err(Refusal::NoSpace);
            }
            Err(error) => return Err(self.table_failed(&error)),
        }
        let file = self.file_state(new.file);
        file.chunks.set(file.chunks.get() + 1);
        let chunk = Chunk::new(slot, 0, header);
        chunk.set_untouched();
        if let Some(standing) = standing {
            self.set_standing(&chunk, Some(Box::new(standing)));
            self.installed.borrow_mut().insert(chunk.id, Rc::clone(&chunk));
        }
        self.chunks.borrow_mut().insert(new.chunk, chunk);
        Ok(())
    }

    /// Deletes a replica with at most this version; higher ones are spared (C9). Deleting what is gone is done. It needs
    /// no space, so that a full disk can be emptied (C13).
    ///
    /// # Errors
    /// [`Refusal::StaleVersion`] when the replica is newer.
    pub async fn delete_chunk(&self, chunk: u64, version: u64) -> Result<(), Refusal> {
        let _request = self.begin()?;
        let _one_at_a_time = self.creating.exclusive(chunk..chunk.saturating_add(1)).await;
        self.check_running()?;
        let Some(found) = self.chunks.borrow().get(&chunk).map(Rc::clone) else { return Ok(()) };
        let have = found.version.get();
        if have > version {
            return Err(Refusal::StaleVersion { have, wanted: version });
        }
        let _superseding = found.supersede();
        let _all = found.ranges.exclusive(0..u64::from(found.blocks())).await;
        // Whatever a checkpoint does with the chunk ends first, but not the checkpoint itself: it may be stuck.
        let _moving = found.moving.acquire(1).await;
        self.check_running()?;
        // From here on there is no way back but a failure.
        found.deleted.set(true);
        match self.store.retire(chunk).await {
            Err(error) if error.kind() != std::io::ErrorKind::StorageFull => {
                self.fail("renaming a chunk file", &error);
                return Err(Refusal::DeviceFailed);
            }
            _ => {}
        }
        let header = ChunkHeader {
            sequence: found.header.get().sequence + 1,
            state: SlotState::Free,
            ..found.header.get()
        };
        if let Err(error) = self.tables.write_header(found.slot, found.header_copy, &header).await {
            return Err(self.table_failed(&error));
        }
        self.forget(&found);
        self.tables.release(found.slot, header.sequence);
        if let Err(error) = self.store.remove(chunk).await {
            self.fail("removing a chunk file", &error);
            return Err(Refusal::DeviceFailed);
        }
        Ok(())
    }

    /// Drops everything that is remembered of a chunk, and of its file if that was the last one.
    fn forget(&self, chunk: &Chunk) {
        self.chunks.borrow_mut().remove(&chunk.id);
        self.touched.borrow_mut().remove(&chunk.id);
        self.marked.borrow_mut().remove(&chunk.id);
        self.installed.borrow_mut().remove(&chunk.id);
        self.set_standing(chunk, None);
        chunk.standing_changed.notify_all();
        let entries = chunk.live.take().len() + chunk.frozen.take().len();
        self.map_entries.set(self.map_entries.get() - entries);
        chunk.active.take();
        self.damage.forget(chunk.id);
        self.lost.borrow_mut().remove(&chunk.id);
        let file = self.file_state(chunk.file);
        file.forget_chunk(chunk.id);
        file.chunks.set(file.chunks.get() - 1);
        // A request of an old epoch finds no chunk now, and a chunk made later has another version. Somebody who makes one
        // now, or records a fence for it, holds the state beside this function and the map.
        if file.chunks.get() == 0 && file.is_idle() && Rc::strong_count(&file) == 2 {
            self.files.borrow_mut().remove(&chunk.file);
        }
    }

    /// Refuses epochs below `epoch` of a file for ever: drains what is under way and records it durably (C2).
    ///
    /// # Errors
    /// [`Refusal::DeviceFailed`], [`Refusal::Stopping`].
    pub async fn fence(self: &Rc<Self>, file: u64, epoch: u64) -> Result<(), Refusal> {
        let _request = self.begin()?;
        let state = self.file_state(file);
        // Only what is durable and drained counts: another order for the same fence may be under way.
        if state.completed_fence() >= epoch {
            return Ok(());
        }
        state.raise_fence(epoch);
        state.drained_below(epoch).await;
        if rt::sim::planted("fence-in-memory") {
            state.complete_fence(epoch);
            return Ok(());
        }
        let mut record = Record::new(RecordKind::Fence);
        record.push_u64(file);
        record.push_u64(epoch);
        self.append(Class::Urgent, record, None).await?;
        self.flush().await?;
        state.complete_fence(epoch);
        Ok(())
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
pub(super) async fn write_superblock(file: &rt::fs::File, superblock: &Superblock) -> std::io::Result<()> {
    let block = View::copy_of(&superblock.encode());
    for half in 0..2 {
        for copy in half * COPIES / 2..(half + 1) * COPIES / 2 {
            file.write_all_at(block.clone(), (copy * BLOCK) as u64).await?;
        }
        file.sync_data().await?;
    }
    Ok(())
}
