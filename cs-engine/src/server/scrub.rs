//! The verifier: chunk after chunk in the background, so many per minute, and what it and the reads of clients have found
//! damaged is told to the metadata server, which knows who has a good copy (C8).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use rt::sync::Notify;
use rt::time::Instant;
use wire::cs::{self, BlockRange, DamageItem, ReplicaReport, ReplicaState, ScrubStats, VerifiedChunk};

use crate::engine::{DamageKind, Engine, Refusal};

/// Chunks per minute until somebody says otherwise, as `mds.wd.verify_chunks` has it.
const RATE: u32 = 2;
const MINUTE: Duration = Duration::from_secs(60);
/// What is still damaged so long after it was told is told again.
const TOLD_AGAIN: Duration = Duration::from_secs(300);
/// What is damaged is looked at so often, to see whether there is news to tell.
const LOOKED_AGAIN: Duration = Duration::from_secs(10);
/// Chunks told at once.
const CHUNKS_MAX: usize = 64;
/// Chunks that were verified and that the metadata server is to hear of; older ones are compared in the next cycle.
const VERIFIED_MAX: usize = 64;
/// Ranges told of a chunk at once.
const RANGES_MAX: usize = 256;
/// A server that has come across more damaged blocks than this since it started is not to be trusted any more.
const BAD_MAX: u64 = 1000;

/// Verifies chunks, and remembers what was told of damage.
#[derive(Debug)]
pub(crate) struct Scrub {
    engine: Rc<Engine>,
    per_minute: Cell<u32>,
    changed: Notify,
    running: Cell<bool>,
    /// By chunk.
    told: RefCell<BTreeMap<u64, Told>>,
    /// What is to be told by chunk, and whether nothing was told of that before.
    news: RefCell<BTreeMap<u64, (DamageItem, bool)>>,
    verified: RefCell<VecDeque<VerifiedChunk>>,
}

/// What the metadata server knows of the damage of a chunk.
#[derive(Debug)]
struct Told {
    /// Nothing: a new metadata server, which knows nothing of it.
    at: Option<Instant>,
    blocks: BTreeSet<u32>,
}

impl Scrub {
    pub(crate) fn new(engine: Rc<Engine>) -> Rc<Self> {
        Rc::new(Self {
            engine,
            per_minute: Cell::new(RATE),
            changed: Notify::new(),
            running: Cell::new(false),
            told: RefCell::default(),
            news: RefCell::default(),
            verified: RefCell::default(),
        })
    }

    pub(crate) fn set_rate(&self, per_minute: u32) {
        if self.per_minute.replace(per_minute) != per_minute {
            self.changed.notify_all();
        }
    }

    /// Begins to verify, unless it has begun.
    pub(crate) fn start(self: &Rc<Self>) {
        if !self.running.replace(true) {
            rt::spawn(Rc::clone(self).run());
            rt::spawn(Rc::clone(self).watch());
        }
    }

    async fn run(self: Rc<Self>) {
        let mut last = rt::time::now();
        loop {
            let changed = self.changed.notified();
            let per_minute = self.per_minute.get();
            if per_minute == 0 {
                changed.await;
                continue;
            }
            let next = last + MINUTE / per_minute;
            if rt::time::timeout_at(next, changed).await.is_ok() {
                continue;
            }
            last = rt::time::now();
            match self.engine.verify_next().await {
                Ok(Some(verified)) => {
                    if verified.damaged > 0 {
                        tracing::warn!(
                            "chunk {:#x}: {} blocks are damaged",
                            verified.chunk,
                            verified.damaged
                        );
                    }
                    self.note_verified(verified.chunk);
                }
                Ok(None) => {}
                Err(refusal) => {
                    tracing::debug!("no chunk is verified any more: {refusal}");
                    return;
                }
            }
        }
    }

    /// It can be compared with other members: what is damaged here is known now.
    fn note_verified(&self, chunk_id: u64) {
        let Some(file_id) = self.engine.file_of(chunk_id).filter(|_| self.engine.keeps_checksums()) else {
            return;
        };
        let mut verified = self.verified.borrow_mut();
        verified.retain(|one| one.chunk_id != chunk_id);
        if verified.len() == VERIFIED_MAX {
            verified.pop_front();
        }
        verified.push_back(VerifiedChunk { chunk_id, file_id });
    }

    /// Chunks that were verified since the last heartbeat.
    pub(crate) fn take_verified(&self) -> Vec<VerifiedChunk> {
        self.verified.take().into()
    }

    /// The heartbeat that named them was not heard: the next one does.
    pub(crate) fn not_named(&self, names: Vec<VerifiedChunk>) {
        let mut verified = self.verified.borrow_mut();
        for name in names.into_iter().rev() {
            if verified.len() < VERIFIED_MAX && !verified.contains(&name) {
                verified.push_front(name);
            }
        }
    }

    /// Looks at damage that was come across, as long as the server runs: what turns out to be good is forgotten, what is new or was
    /// told long ago is to be told.
    async fn watch(self: Rc<Self>) {
        loop {
            let noted = self.engine.damage().noted();
            if let Err(refusal) = self.look().await {
                tracing::debug!("damage is not looked at any more: {refusal}");
                return;
            }
            if self.engine.damage().is_empty() {
                noted.await;
            } else {
                let _noted = rt::time::timeout_at(rt::time::now() + LOOKED_AGAIN, noted).await;
            }
        }
    }

    async fn look(&self) -> Result<(), Refusal> {
        let chunks = self.engine.damage().chunks();
        self.told.borrow_mut().retain(|chunk, _| chunks.binary_search(chunk).is_ok());
        for chunk_id in chunks {
            let noted = self.engine.damage().blocks(chunk_id);
            let is_told = |told: &Told| {
                told.at.is_some_and(|at| at.elapsed() < TOLD_AGAIN)
                    && noted.keys().all(|block| told.blocks.contains(block))
            };
            if self.told.borrow().get(&chunk_id).is_some_and(is_told) {
                continue;
            }
            let (version, blocks) = match self.engine.damage_now(chunk_id).await {
                Ok((_, blocks)) if blocks.is_empty() => continue,
                Ok(damage) => damage,
                Err(
                    Refusal::UnknownChunk(_)
                    | Refusal::Joining(_)
                    | Refusal::ReplicaLost(_)
                    | Refusal::CannotOpen(_),
                ) => continue,
                Err(refusal) => return Err(refusal),
            };
            let kind = match blocks.values().max() {
                Some(DamageKind::Unreadable) => cs::DamageKind::Unreadable,
                _ => cs::DamageKind::Mismatch,
            };
            let ranges = ranges(blocks.keys().copied());
            let Some(file_id) = self.engine.file_of(chunk_id) else { continue };
            let item = DamageItem { chunk_id, version, kind: kind.into(), ranges, file_id };
            let told = Told { at: Some(rt::time::now()), blocks: blocks.into_keys().collect() };
            let is_new = self.told.borrow_mut().insert(chunk_id, told).is_none();
            let mut news = self.news.borrow_mut();
            // More blocks of it were found before anybody was told of the first.
            let was_new = news.get(&chunk_id).is_some_and(|(_, is_new)| *is_new);
            news.insert(chunk_id, (item, is_new || was_new));
        }
        Ok(())
    }

    /// There is a new registration: who takes it knows nothing of what was told.
    pub(crate) fn forget_told(&self) {
        self.told.borrow_mut().values_mut().for_each(|told| told.at = None);
        self.engine.damage().look_again();
    }

    /// Damage that the metadata server is to be told, and the replicas of which it is new.
    pub(crate) fn take_news(&self) -> (Vec<DamageItem>, Vec<ReplicaReport>) {
        let mut news = self.news.borrow_mut();
        let (mut items, mut replicas) = (Vec::new(), Vec::new());
        while items.len() < CHUNKS_MAX
            && let Some((chunk_id, (item, is_new))) = news.pop_first()
        {
            if is_new {
                let (version, state) = (item.version, ReplicaState::Corrupt.into());
                replicas.push(ReplicaReport { chunk_id, version, state, used_bytes: 0 });
            }
            items.push(item);
        }
        (items, replicas)
    }

    /// Nobody has heard that these replicas are damaged: it is news still.
    pub(crate) fn not_told(&self, chunks: &[u64]) {
        let mut told = self.told.borrow_mut();
        for chunk in chunks {
            told.remove(chunk);
        }
    }

    /// What was done so far.
    pub(crate) fn stats(&self) -> ScrubStats {
        let counters = self.engine.counters();
        ScrubStats {
            chunks: counters.verified_chunks,
            bad_blocks: counters.bad_blocks,
            repaired_blocks: counters.repaired_blocks,
            damaged_blocks: self.engine.damage().len() as u64,
            compared_chunks: counters.compared_chunks,
            differing_blocks: counters.differing_blocks,
        }
    }

    /// Whether the disk has shown so much damage that the server should be replaced.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.engine.counters().bad_blocks > BAD_MAX
    }
}

/// Neighbouring blocks together, as many as may be told.
fn ranges(blocks: impl Iterator<Item = u32>) -> Vec<BlockRange> {
    let mut ranges: Vec<BlockRange> = Vec::new();
    for block in blocks {
        let is_full = ranges.len() == RANGES_MAX;
        match ranges.last_mut() {
            Some(last) if last.first + last.count == block => last.count += 1,
            _ if is_full => break,
            _ => ranges.push(BlockRange { first: block, count: 1 }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_told_together() {
        let range = |first, count| BlockRange { first, count };
        assert_eq!(ranges([3, 4, 5, 9].into_iter()), [range(3, 3), range(9, 1)]);
        assert_eq!(ranges((0..2000).map(|block| block * 2)).len(), RANGES_MAX);
    }
}
