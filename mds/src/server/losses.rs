//! Blocks that members lack are waited for until everybody has been asked who may have them (C8).
//!
//! Silence says nothing: who was restarted has forgotten what it lacks until its verifier comes round. So when all who may have a block have
//! been members under one version for a moment, each is made to look at all of the chunk and to repair it from the others. What is damaged
//! then although everybody has answered is on nobody.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rt::sync::Notify;
use rt::time::Instant;
use wire::Status;
use wire::cs::{BlockRange, DamageItem};

use super::reign::Reign;
use super::repairs::NotTried;
use crate::state::ChunkId;
use crate::state::command::{CommandOp, LossAt, SettleLosses};

/// How long all have to be members before they are asked.
const THERE_LONG: Duration = Duration::from_secs(30);
/// How often it is looked whether they are.
const PAUSE: Duration = Duration::from_secs(30);
/// The longest rest of a chunk of which somebody did not answer.
const REST_MAX: Duration = Duration::from_secs(3600);
/// Blocks that are looked at by one order: also where each needs several questions of a disk that is slow to say no, it ends in its time.
const ASKED_BLOCKS: u32 = 256;

/// A chunk that members lack blocks of, with all there who may have them.
#[derive(Clone, Copy, Debug)]
struct There {
    /// Under this version.
    version: u64,
    /// When they are asked.
    due: Instant,
    rest: Duration,
}

/// Chunks that members lack blocks of, with all there who may have them.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    wanted: Notify,
    there: RefCell<BTreeMap<ChunkId, There>>,
}

impl Losses {
    /// Members of a chunk lack blocks.
    pub(super) fn look(&self) {
        self.wanted.notify_one();
    }

    /// Which of those that can be settled have been like this for a moment.
    fn there_long(&self, found: Vec<(ChunkId, LossAt)>, now: Instant) -> Vec<(ChunkId, LossAt)> {
        let mut there = self.there.borrow_mut();
        let seen = found.iter().map(|(chunk, loss)| {
            let before = there.get(chunk).copied().filter(|before| before.version == loss.version);
            let new = There { version: loss.version, due: now + THERE_LONG, rest: THERE_LONG };
            (*chunk, before.unwrap_or(new))
        });
        let seen = seen.collect();
        *there = seen;
        found.into_iter().filter(|(chunk, _)| there[chunk].due <= now).collect()
    }

    /// Somebody did not answer: they are asked again after a rest, which doubles each time.
    fn not_answered(&self, chunk: ChunkId, now: Instant) {
        if let Some(there) = self.there.borrow_mut().get_mut(&chunk) {
            there.rest = (there.rest * 2).min(REST_MAX);
            there.due = now + there.rest;
        }
    }
}

impl Reign {
    /// Runs for as long as the reign.
    pub(super) async fn settle_losses(self: Rc<Self>) {
        loop {
            let wanted = self.losses.wanted.notified();
            let found = self.read(crate::state::State::losses_to_settle);
            for (chunk, loss) in self.losses.there_long(found, rt::time::now()) {
                if self.is_over() {
                    return;
                }
                if !self.have_all_answered(chunk, &loss).await {
                    self.losses.not_answered(chunk, rt::time::now());
                    continue;
                }
                rt::sim::hit("mds.losses-settled");
                let op = CommandOp::SettleLosses(SettleLosses { chunks: vec![loss] });
                match self.insist(op).await {
                    Some(Ok(_)) => {}
                    Some(Err(refusal)) => tracing::warn!("lost blocks are waited for still: {refusal}"),
                    None => return,
                }
            }
            if self.read(crate::state::State::is_somebody_lacking) {
                let _wanted = rt::time::timeout(PAUSE, wanted).await;
            } else {
                wanted.await;
            }
        }
    }

    /// Has each member of a chunk look at all of it, and repair what is damaged: whether all have, and whoever they asked said what it has.
    async fn have_all_answered(self: &Rc<Self>, chunk: ChunkId, loss: &LossAt) -> bool {
        let asked = self.read(|state| state.members_to_ask(chunk, loss));
        let (members, blocks) = &asked;
        for (cs, session) in members {
            for first in (0..*blocks).step_by(ASKED_BLOCKS as usize) {
                let damage = DamageItem {
                    file_id: loss.file,
                    chunk_id: chunk.raw(),
                    version: loss.version,
                    ranges: vec![BlockRange { first, count: ASKED_BLOCKS.min(blocks - first) }],
                    ..DamageItem::default()
                };
                match self.order_repair(*cs, *session, damage).await {
                    Ok(Status::Ok | Status::Corrupt) => {}
                    Ok(status) => {
                        let chunk = chunk.raw();
                        tracing::debug!("{cs} does not say what chunk {chunk:#x} lacks for good: {status}");
                        return false;
                    }
                    Err(NotTried) => return false,
                }
            }
        }
        // Who was away for a moment was not asked by the others: it has another session.
        !members.is_empty() && self.read(|state| state.members_to_ask(chunk, loss)) == asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_there_for_a_moment_under_one_version() {
        let losses = Losses::default();
        let chunk = ChunkId::new(1, 7);
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        let found = |version| vec![(chunk, LossAt { file: 4, index: 0, version })];
        let asked = |version, seconds| losses.there_long(found(version), at(seconds)).len();
        assert_eq!([asked(5, 100), asked(5, 129), asked(5, 130)], [0, 0, 1]);
        assert_eq!([asked(6, 131), asked(6, 160), asked(6, 161)], [0, 0, 1], "another version");
        assert_eq!(losses.there_long(Vec::new(), at(162)), []);
        assert_eq!([asked(6, 163), asked(6, 192), asked(6, 193)], [0, 0, 1], "one was away");
        losses.not_answered(chunk, at(200));
        assert_eq!([asked(6, 259), asked(6, 260)], [0, 1], "a rest");
        losses.not_answered(chunk, at(300));
        assert_eq!([asked(6, 419), asked(6, 420)], [0, 1], "a longer one");
    }
}
