//! What the blocks of a replica really hold, compared with what is recorded of them, chunk after chunk in the background (C8).
//!
//! Reading passes the queue of each range like everybody else, a small piece at a time, and waits while clients have
//! requests under way, for a while: a server that is always busy is verified, too. When a chunk was verified is in its
//! header, so that a cycle goes on after a restart where it was.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use rt::sync::Notify;

use super::chunk::Chunk;
use super::read::{Reader, Run, runs};
use super::{Engine, Refusal};
use crate::format::block::BlockState;
use crate::format::table::ChunkHeader;
use crate::format::{BLOCK, crc32c};

/// Blocks that are verified together: 1 MiB.
const PIECE_BLOCKS: u32 = 256;
/// Requests beside which a piece is read at once.
const CALM_REQUESTS: usize = 2;
/// How long a piece waits for calm.
const PATIENCE: Duration = Duration::from_millis(200);

/// Wakes who waits until few requests are under way.
#[derive(Debug, Default)]
pub(crate) struct Calm {
    waiting: Cell<usize>,
    fewer: Notify,
}

impl Calm {
    /// A request has ended; so many are left.
    pub(super) fn left(&self, requests: usize) {
        if self.waiting.get() > 0 && requests <= CALM_REQUESTS {
            self.fewer.notify_all();
        }
    }
}

/// What a verification has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The chunk.
    pub chunk: u64,
    /// Blocks whose content was read.
    pub blocks: u32,
    /// Of these, damaged.
    pub damaged: u32,
}

/// What a look at a block has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The content with this plain CRC32C is what is recorded.
    Data(u32),
    /// A hole: there is nothing that could be wrong.
    Hole,
    /// Nothing is recorded that the content could be compared with.
    Unchecked,
    /// The members must settle it (C5).
    Unsettled,
    /// It is something else than what is recorded.
    Mismatch,
    /// The device cannot read it.
    Unreadable,
    /// Neither the content nor its checksum is known here any more.
    Lost,
}

impl Condition {
    /// The block is what its record says.
    pub(crate) fn is_proven(self) -> bool {
        matches!(self, Self::Data(_) | Self::Hole)
    }
}

impl Engine {
    /// Reads blocks, whose range is locked, and says of each what it is.
    pub(super) async fn examine(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        blocks: Range<u32>,
    ) -> Result<Vec<Condition>, Refusal> {
        let _reader = Reader::enter(self);
        let states = self.states(chunk, blocks.clone()).await?;
        let mut conditions = Vec::with_capacity(states.len());
        let mut rest = states.iter();
        for run in runs(blocks, &states) {
            let contents = self.contents_of(chunk, &run).await?;
            for ((block, content), (state, _)) in run.blocks.zip(contents).zip(rest.by_ref()) {
                conditions.push(match (state, content) {
                    (BlockState::Hole, _) => Condition::Hole,
                    (BlockState::Unknown, _) if self.is_in_doubt(chunk, block) => Condition::Unsettled,
                    // Nothing that could settle it is under way any more.
                    (BlockState::Unknown, _) => Condition::Lost,
                    (BlockState::Lost, _) => Condition::Lost,
                    (_, None) => Condition::Unreadable,
                    (BlockState::Unchecked, _) => Condition::Unchecked,
                    (BlockState::Data(stored), Some(plain)) if stored.matches(plain, chunk.id, block) => {
                        Condition::Data(plain)
                    }
                    _ if matches!(chunk.mismatch(block), Refusal::Unsettled { .. }) => Condition::Unsettled,
                    _ => Condition::Mismatch,
                });
            }
        }
        Ok(conditions)
    }

    /// Whether an unknown block is one that its writer may send again, or that a reconciler settles.
    pub(super) fn is_in_doubt(&self, chunk: &Chunk, block: u32) -> bool {
        let mut in_doubt = chunk.is_suspect(block);
        self.file_state(chunk.file)
            .for_each_unstable(chunk.id, |_, _, listed| in_doubt |= listed.contains(&block));
        in_doubt
    }

    /// The plain checksums of what a run of blocks holds; nothing for those that cannot be read.
    async fn contents_of(self: &Rc<Self>, chunk: &Rc<Chunk>, run: &Run) -> Result<Vec<Option<u32>>, Refusal> {
        if let Ok(data) = self.read_place(chunk, run).await? {
            return Ok(data.chunks(BLOCK).map(|bytes| Some(crc32c(bytes))).collect());
        }
        // One bad sector hides no others.
        let mut contents = Vec::with_capacity(run.blocks.len());
        for block in run.blocks.clone() {
            let one = self.read_place(chunk, &run.only(block)).await?;
            contents.push(one.ok().map(|bytes| crc32c(&bytes)));
        }
        Ok(contents)
    }

    /// Waits until few requests are under way, or for as long as is bearable.
    pub(super) async fn calm_down(&self) {
        let deadline = rt::time::now() + PATIENCE;
        self.calm.waiting.set(self.calm.waiting.get() + 1);
        loop {
            let fewer = self.calm.fewer.notified();
            if self.requests.get() <= CALM_REQUESTS || rt::time::timeout_at(deadline, fewer).await.is_err() {
                break;
            }
        }
        self.calm.waiting.set(self.calm.waiting.get() - 1);
    }

    /// Whether a replica that was found before a wait is still one that is examined.
    pub(super) fn recheck_member(&self, chunk: &Chunk) -> Result<(), Refusal> {
        self.check_running()?;
        if chunk.deleted.get() {
            return Err(Refusal::UnknownChunk(chunk.id));
        }
        if chunk.is_joiner() {
            return Err(Refusal::Joining(chunk.id));
        }
        Ok(())
    }

    /// Verifies the chunk that has not been verified for the longest time; nothing when there is none but joiners. A
    /// replica that goes or joins meanwhile is left.
    ///
    /// # Errors
    /// [`Refusal::DeviceFailed`], [`Refusal::Stopping`].
    pub async fn verify_next(self: &Rc<Self>) -> Result<Option<Verified>, Refusal> {
        self.check_running()?;
        let next = {
            let chunks = self.chunks.borrow();
            let members = chunks.values().filter(|chunk| !chunk.is_joiner());
            members.min_by_key(|chunk| (chunk.header.get().verified, chunk.id)).map(Rc::clone)
        };
        let Some(chunk) = next else { return Ok(None) };
        let verified = match self.verify(&chunk).await {
            Ok(verified) => Some(verified),
            Err(refusal @ (Refusal::DeviceFailed | Refusal::Stopping)) => return Err(refusal),
            // It was logged; the others come before it is tried again.
            Err(_) => None,
        };
        self.note_verified(&chunk).await?;
        Ok(verified)
    }

    async fn verify(self: &Rc<Self>, chunk: &Rc<Chunk>) -> Result<Verified, Refusal> {
        let mut verified = Verified { chunk: chunk.id, ..Verified::default() };
        for start in (0..chunk.blocks()).step_by(PIECE_BLOCKS as usize) {
            self.calm_down().await;
            let _request = self.begin()?;
            let blocks = start..chunk.blocks().min(start + PIECE_BLOCKS);
            let _locked = chunk.ranges.shared(u64::from(blocks.start)..u64::from(blocks.end)).await;
            self.recheck_member(chunk)?;
            for (block, condition) in blocks.clone().zip(self.examine(chunk, blocks).await?) {
                verified.blocks += u32::from(condition != Condition::Hole);
                if self.note_condition(chunk.id, block, condition) {
                    verified.damaged += 1;
                    tracing::error!(
                        "chunk {:#x}, block {block}: {condition:?}, found by the verifier",
                        chunk.id
                    );
                }
            }
        }
        self.count(|counters| counters.verified_chunks += 1);
        Ok(verified)
    }

    /// Notes in a chunk's header that it comes after all others now.
    async fn note_verified(&self, chunk: &Rc<Chunk>) -> Result<(), Refusal> {
        let _request = self.begin()?;
        let _moving = chunk.moving.acquire(1).await;
        self.check_running()?;
        if chunk.deleted.get() {
            return Ok(());
        }
        let last = self.chunks.borrow().values().map(|chunk| chunk.header.get().verified).max();
        let now = chunk.header.get();
        let header = ChunkHeader { verified: last.unwrap_or(0) + 1, sequence: now.sequence + 1, ..now };
        let written = self.tables.write_headers(&[(chunk.slot, chunk.header_copy, header)]).await;
        written.map_err(|error| self.table_failed(&error))?;
        chunk.header.set(header);
        Ok(())
    }
}
