//! Finding the chunk under an offset: cached, asked for, or allocated.

use std::ops::Range;
use std::rc::Rc;

use link::AskError;
use wire::lease::{AllocateChunks, GetMap, MapReply};
use wire::{Action, Status};

use super::call::until_broken;
use super::known::{Next, Position};
use super::lease::{Chunk, Lease};
use super::{ASK, BUSY_PAUSE, Halt, Inner, Stop};
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

/// What the metadata server is asked for.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// What is known of so many positions.
    Maps { count: u64 },
    /// A chunk, for data that ends here in the file.
    Chunk { end: u64 },
}

impl Inner {
    /// The chunk with this index, settled and ready; `None` when it was never allocated and need not be.
    pub(crate) async fn chunk(
        &self,
        lease: &Rc<Lease>,
        index: u64,
        need: Need,
    ) -> Result<Option<Rc<Chunk>>, Stop> {
        // With too few members nothing is written, nor taken for settled; what is settled may be read (C3).
        let must_wait = |chunk: &Chunk| {
            chunk.members.is_empty() || chunk.blocked.get() && (need != Need::Read || !chunk.settled.get())
        };
        // What is written before the end is settled could fill the lists that the settling needs room in.
        if need != Need::Read && !lease.is_end_settled() && Some(index) != self.end_index() {
            Box::pin(self.settle_end(lease)).await?;
        }
        loop {
            lease.check()?;
            let known = lease.chunks.borrow().get(index);
            match known {
                Position::Chunk(chunk) if must_wait(&chunk) => {
                    // Wait for the metadata server to name others. A write that nobody has must never count as one
                    // that everybody has.
                    self.forget_chunk(lease, &chunk);
                    until_broken(lease, rt::time::sleep(BUSY_PAUSE * 4)).await?;
                }
                Position::Chunk(chunk) if chunk.is_replaced() => self.forget_chunk(lease, &chunk),
                Position::Chunk(chunk) => {
                    // Of a blocked chunk nobody needs to be told: it can be read (C3), and who is away would be waited for.
                    if !chunk.settled.get() || (lease.is_uncleared(index) && !chunk.blocked.get()) {
                        match Box::pin(self.settle(lease, &chunk)).await {
                            Ok(()) => {}
                            // What was written under the old version is done again. A number that was given out ends the epoch.
                            Err(Halt::Replaced) => continue,
                            Err(Halt::Stop(stop)) => return Err(stop),
                        }
                    }
                    return Ok(Some(chunk));
                }
                Position::Hole => match need {
                    Need::Data { end } => Box::pin(self.fetch(lease, index, Wanted::Chunk { end })).await?,
                    Need::Read | Need::Zero => return Ok(None),
                },
                Position::Unknown => Box::pin(self.fetch_maps(lease, index)).await?,
            }
        }
    }

    /// Asks for the maps of a position of which nothing is known, and of some behind it.
    pub(crate) async fn fetch_maps(&self, lease: &Rc<Lease>, index: u64) -> Result<(), Stop> {
        let chunks = self.size.get().div_ceil(self.chunk_size);
        let count = MAPS_AT_ONCE.min(chunks.saturating_sub(index)).max(1);
        self.fetch(lease, index, Wanted::Maps { count }).await
    }

    /// The first position in a range that has a chunk; the end of the range if none has.
    pub(crate) async fn next_chunk(&self, lease: &Rc<Lease>, range: Range<u64>) -> Result<u64, Stop> {
        loop {
            let next = lease.chunks.borrow().next(range.clone());
            match next {
                Next::Chunk(index) => return Ok(index),
                Next::End => return Ok(range.end),
                Next::Unknown(index) => {
                    // Holes are left out of the answer: it is as long as what is there.
                    let count = (range.end - index).min(u32::MAX.into());
                    self.fetch(lease, index, Wanted::Maps { count }).await?;
                }
            }
        }
    }

    /// Asks for maps from `index` on, or has the chunk allocated.
    async fn fetch(&self, lease: &Rc<Lease>, index: u64, wanted: Wanted) -> Result<(), Stop> {
        let change = self.session.change();
        loop {
            // One attempt of either kind at a time: whoever waits for space keeps nobody from asking for maps.
            let turn = match wanted {
                Wanted::Maps { .. } => &lease.mapping,
                Wanted::Chunk { .. } => &lease.allocating,
            };
            let one_at_a_time = until_broken(lease, turn.acquire(1)).await?;
            if lease.is_broken() {
                return Err(Stop::Broken);
            }
            let known = lease.chunks.borrow().get(index);
            match (known, wanted) {
                (Position::Chunk(_), _) | (Position::Hole, Wanted::Maps { .. }) => return Ok(()),
                (Position::Hole, Wanted::Chunk { .. }) | (Position::Unknown, _) => {}
            }
            let deadline = rt::time::now() + ASK;
            let (answer, asked) = match wanted {
                Wanted::Chunk { end } => {
                    let request = AllocateChunks {
                        session: self.session.key(),
                        file_id: self.file_id,
                        epoch: lease.epoch,
                        indices: vec![index],
                        grow_to: if self.grows.get() { self.size.get().max(end) } else { 0 },
                    };
                    (until_broken(lease, change.ask(&request, deadline)).await?, index..index)
                }
                Wanted::Maps { count } => {
                    (until_broken(lease, self.ask_map(lease, index, count)).await?, index..index + count)
                }
            };
            match answer {
                Ok(map) => {
                    let end = if map.next_index == 0 { asked.end } else { map.next_index.min(asked.end) };
                    // An answer that says nothing would be asked for again and again.
                    let least = if asked.is_empty() { index } else { index + 1 };
                    lease.learn(&self.servers, &map, asked.start..end.max(least));
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

    /// Forgets what is known of a chunk whose map has changed. Whoever uses it looks for it again.
    pub(crate) fn forget_chunk(&self, lease: &Lease, chunk: &Chunk) {
        chunk.replace();
        let mut chunks = lease.chunks.borrow_mut();
        let known = chunks.chunk(chunk.index).filter(|known| known.version == chunk.version);
        if let Some(known) = known {
            known.replace();
            chunks.forget(chunk.index);
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
