//! Which blocks are damaged, as far as somebody has come across them (C8).
//!
//! A block is noted by the read or the verification that finds it; it goes when it is looked at again and is good: after a
//! repair, or because a client has written over it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use rt::sync::{Notified, Notify};

use super::verify::Condition;
use super::{Engine, Refusal};
use crate::format::block::BlockState;

/// Most blocks that are noted. A disk with more is found out by its count, and the next verification finds the rest.
const NOTED_MAX: usize = 64 << 10;

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DamageKind {
    /// A read of several blocks has failed; it may have been another one.
    Suspected,
    /// It does not match its checksum.
    Mismatch,
    /// The device cannot read it.
    Unreadable,
}

/// Damaged blocks by chunk.
#[derive(Debug, Default)]
pub struct Damage {
    chunks: RefCell<BTreeMap<u64, BTreeMap<u32, DamageKind>>>,
    noted: Notify,
}

impl Damage {
    /// Chunks with damaged blocks.
    #[must_use]
    pub fn chunks(&self) -> Vec<u64> {
        self.chunks.borrow().keys().copied().collect()
    }

    /// Completes when a block is noted that was not, or when all are to be looked at again.
    pub fn noted(&self) -> Notified<'_> {
        self.noted.notified()
    }

    /// Has whoever waits for news look at everything again.
    pub fn look_again(&self) {
        self.noted.notify_all();
    }

    /// The damaged blocks of a chunk.
    #[must_use]
    pub fn blocks(&self, chunk: u64) -> BTreeMap<u32, DamageKind> {
        self.chunks.borrow().get(&chunk).cloned().unwrap_or_default()
    }

    /// All damaged blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.borrow().values().map(BTreeMap::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.borrow().is_empty()
    }

    /// Whether it is new that the block is damaged.
    fn note(&self, chunk: u64, block: u32, kind: DamageKind) -> bool {
        let full = self.len() >= NOTED_MAX;
        let mut chunks = self.chunks.borrow_mut();
        let known = chunks.get(&chunk).and_then(|blocks| blocks.get(&block)).copied();
        if known.is_some() || !full {
            let worst = known.map_or(kind, |known| known.max(kind));
            chunks.entry(chunk).or_default().insert(block, worst);
        }
        if known.is_none() {
            self.noted.notify_all();
        }
        known.is_none_or(|known| known == DamageKind::Suspected) && kind != DamageKind::Suspected
    }

    fn is_good(&self, chunk: u64, block: u32) {
        let mut chunks = self.chunks.borrow_mut();
        if let Some(blocks) = chunks.get_mut(&chunk) {
            blocks.remove(&block);
            if blocks.is_empty() {
                chunks.remove(&chunk);
            }
        }
    }

    pub(super) fn forget(&self, chunk: u64) {
        self.chunks.borrow_mut().remove(&chunk);
    }
}

impl Engine {
    /// Damaged blocks that somebody has come across.
    #[must_use]
    pub fn damage(&self) -> &Damage {
        &self.damage
    }

    pub(super) fn note_damage(&self, chunk: u64, block: u32, kind: DamageKind) {
        if self.damage.note(chunk, block, kind) {
            rt::sim::hit("engine.damage-found");
            self.count(|counters| counters.bad_blocks += 1);
        }
    }

    pub(super) fn suspect_damage(&self, chunk: u64, block: u32) {
        self.damage.note(chunk, block, DamageKind::Suspected);
    }

    /// Notes what a look at a block has shown; whether it is damaged.
    pub(super) fn note_condition(&self, chunk: u64, block: u32, condition: Condition) -> bool {
        let kind = match condition {
            Condition::Mismatch => DamageKind::Mismatch,
            // Another disk has lost it, or one place on this one, however many blocks that said something of.
            Condition::Lost => {
                self.damage.note(chunk, block, DamageKind::Mismatch);
                return true;
            }
            Condition::Unreadable => DamageKind::Unreadable,
            Condition::Data(_) | Condition::Hole | Condition::Unchecked | Condition::Unsettled => {
                self.damage.is_good(chunk, block);
                return false;
            }
        };
        self.note_damage(chunk, block, kind);
        true
    }

    /// The file of a chunk, if there is a replica here.
    pub fn file_of(&self, chunk: u64) -> Option<u64> {
        self.found(chunk).ok().map(|found| found.file)
    }

    /// How many blocks of a joiner are noted as lost: no member had them. They count as come across, so that they are told as soon as it
    /// is a member itself.
    ///
    /// # Errors
    /// [`Refusal::StaleVersion`] when it is no joiner under that version; [`Refusal`].
    pub async fn lost_blocks(&self, chunk: u64, version: u64) -> Result<u32, Refusal> {
        let _request = self.begin()?;
        let found = self.found(chunk)?;
        self.progress(chunk, version)?;
        let mut lost = 0;
        for (block, (state, _)) in (0..).zip(self.states(&found, 0..found.blocks()).await?) {
            if state == BlockState::Lost {
                self.damage.note(chunk, block, DamageKind::Mismatch);
                lost += 1;
            }
        }
        Ok(lost)
    }

    /// Looks again at the blocks of a chunk that are noted as damaged, and forgets those that are not. Gives the chunk's
    /// version and those that are.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn damage_now(
        self: &Rc<Self>,
        chunk: u64,
    ) -> Result<(u64, BTreeMap<u32, DamageKind>), Refusal> {
        let _request = self.begin()?;
        let Ok(found) = self.found(chunk) else {
            self.damage.forget(chunk);
            return Err(Refusal::UnknownChunk(chunk));
        };
        if found.is_joiner() {
            // What it lacks is told when it is a member: nobody repairs a joiner.
            return Err(Refusal::Joining(chunk));
        }
        for block in self.damage.blocks(chunk).into_keys() {
            let _locked = found.ranges.shared(u64::from(block)..u64::from(block) + 1).await;
            self.recheck_member(&found)?;
            for condition in self.examine(&found, block..block + 1).await? {
                self.note_condition(chunk, block, condition);
            }
        }
        Ok((found.version.get(), self.damage.blocks(chunk)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_new_once() {
        let damage = Damage::default();
        assert!(!damage.note(1, 7, DamageKind::Suspected), "it may be another block");
        assert!(damage.note(1, 7, DamageKind::Mismatch));
        assert!(!damage.note(1, 7, DamageKind::Mismatch));
        assert!(!damage.note(1, 7, DamageKind::Unreadable));
        assert!(damage.note(2, 7, DamageKind::Unreadable));
        assert_eq!(damage.blocks(1), BTreeMap::from([(7, DamageKind::Unreadable)]));
        assert_eq!((damage.chunks(), damage.len()), (vec![1, 2], 2));
        damage.is_good(1, 7);
        damage.forget(2);
        assert!(damage.is_empty());
    }
}
