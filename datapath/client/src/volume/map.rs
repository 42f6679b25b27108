//! Finding the chunk under an offset: cached, asked for, or allocated.

use std::rc::Rc;

use link::AskError;
use wire::lease::{AllocateChunks, GetMap, MapReply};
use wire::{Action, Status};

use super::lease::{Chunk, Lease};
use super::{ASK, BUSY_PAUSE, Inner, Stop};
use crate::error::VolumeError;

/// Maps asked for at once.
const MAPS_AT_ONCE: u64 = 64;

/// What a chunk is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// To read what it holds.
    Read,
    /// To make some of it zero.
    Zero,
    /// To write data: it is allocated if it must be.
    Data {
        /// Where the data ends in the file.
        end: u64,
    },
}

impl Inner {
    /// The chunk with this index, settled and ready; `None` when it was never allocated and need not be.
    pub(crate) async fn chunk(
        &self,
        lease: &Rc<Lease>,
        index: u64,
        need: Need,
    ) -> Result<Option<Rc<Chunk>>, Stop> {
        let allocate = match need {
            Need::Data { end } => Some(end),
            Need::Read | Need::Zero => None,
        };
        // With too few members nothing is written, nor taken for settled; what is settled may be read (C3).
        let must_wait = |chunk: &Chunk| {
            chunk.members.is_empty() || chunk.blocked && (need != Need::Read || !chunk.settled.get())
        };
        loop {
            let known = lease.chunks.borrow().get(&index).cloned();
            match known {
                Some(Some(chunk)) if must_wait(&chunk) => {
                    // Wait for the metadata server to name others. A write that nobody has must never count as one
                    // that everybody has.
                    self.forget_chunk(lease, &chunk);
                    rt::time::sleep(BUSY_PAUSE * 4).await;
                    if lease.is_broken() {
                        return Err(Stop::Broken);
                    }
                }
                Some(Some(chunk)) => {
                    if !chunk.settled.get() {
                        self.settle(lease, &chunk).await?;
                    }
                    return Ok(Some(chunk));
                }
                Some(None) if allocate.is_none() => return Ok(None),
                _ => self.fetch(lease, index, allocate.filter(|_| known.is_some())).await?,
            }
        }
    }

    /// Asks for maps from `index` on, or has the chunk allocated for data that ends at `allocate`.
    async fn fetch(&self, lease: &Rc<Lease>, index: u64, allocate: Option<u64>) -> Result<(), Stop> {
        let chunks = self.size.get().div_ceil(self.chunk_size);
        let change = self.session.change();
        loop {
            // For one attempt at a time: whoever waits for space keeps nobody from asking for other maps.
            let one_at_a_time = lease.mapping.acquire(1).await;
            if lease.is_broken() {
                return Err(Stop::Broken);
            }
            let known = lease.chunks.borrow().get(&index).map(Option::is_some);
            if known == Some(true) || (known == Some(false) && allocate.is_none()) {
                return Ok(());
            }
            let deadline = rt::time::now() + ASK;
            let (answer, asked) = if let Some(end) = allocate {
                let request = AllocateChunks {
                    session: self.session.key(),
                    file_id: self.file_id,
                    epoch: lease.epoch,
                    indices: vec![index],
                    grow_to: if self.grows.get() { self.size.get().max(end) } else { 0 },
                };
                (change.ask(&request, deadline).await, index..index)
            } else {
                let count = MAPS_AT_ONCE.min(chunks.saturating_sub(index)).max(1);
                (self.ask_map(lease, index, count).await, index..index + count)
            };
            match answer {
                Ok(map) => {
                    let end = if map.next_index == 0 { asked.end } else { map.next_index.min(asked.end) };
                    lease.learn(&self.servers, &map, asked.start..end.max(asked.start));
                    if allocate.is_none() {
                        lease.chunks.borrow_mut().entry(index).or_insert(None);
                    }
                    return Ok(());
                }
                Err(AskError::Status { status, error }) => self.map_refused(lease, status, &error.message)?,
                Err(error) => tracing::warn!("asking for the map of file {}: {error}", self.file_id),
            }
            drop(one_at_a_time);
            rt::time::sleep(BUSY_PAUSE).await;
        }
    }

    /// Asks once for a page of the map.
    pub(crate) async fn ask_map(&self, lease: &Lease, first: u64, count: u64) -> Result<MapReply, AskError> {
        let request =
            GetMap { file_id: self.file_id, epoch: lease.epoch, first_index: first, count: count as u32 };
        self.session.master().ask(&request, rt::time::now() + ASK).await
    }

    /// Forgets what is known of a chunk whose map has changed.
    pub(crate) fn forget_chunk(&self, lease: &Lease, chunk: &Chunk) {
        let mut chunks = lease.chunks.borrow_mut();
        if chunks
            .get(&chunk.index)
            .is_some_and(|known| known.as_ref().is_some_and(|known| known.version == chunk.version))
        {
            chunks.remove(&chunk.index);
        }
    }

    pub(crate) fn map_refused(&self, lease: &Lease, status: Status, text: &str) -> Result<(), Stop> {
        if status == Status::NoSpace && self.fails_when_full.get() {
            return Err(VolumeError::NoSpace.into());
        }
        match status.action() {
            Action::Reopen | Action::Rejoin => {
                lease.break_off();
                Err(Stop::Broken)
            }
            // A full cluster is waited for (C13), like a busy server.
            Action::GiveUp => Err(Stop::Fatal(VolumeError::LeaseLost(format!("{status}: {text}")))),
            _ => {
                tracing::warn!("file {}: {status}: {text}; trying again", self.file_id);
                Ok(())
            }
        }
    }
}
