//! Blocks that members lack are waited for until everybody has been asked who may have them (C8).
//!
//! A chunk server tells what is damaged on it every five minutes, and it is repaired from all members each time. Where all who may
//! have a block have been members under one version for longer than that takes a few times, it is repaired, or nobody has it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rt::sync::Notify;
use rt::time::Instant;

use super::reign::Reign;
use crate::state::command::{CommandOp, LossAt, SettleLosses};
use crate::state::{ChunkId, MEMBERS_MAX};

/// How long all have to be members: what is damaged is told three times meanwhile.
const ASKED_LONG: Duration = Duration::from_secs(900);
/// How often it is looked whether they are.
const PAUSE: Duration = Duration::from_secs(30);

/// Since when all are there who may have what members of a chunk lack, by chunk: under this version.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    wanted: Notify,
    there: RefCell<BTreeMap<ChunkId, (u64, Instant)>>,
}

impl Losses {
    /// Members of a chunk lack blocks.
    pub(super) fn look(&self) {
        self.wanted.notify_one();
    }

    /// A repair was not tried, or did not end: the time begins anew.
    pub(super) fn not_asked(&self, chunk: ChunkId) {
        self.there.borrow_mut().remove(&chunk);
    }

    /// Which of those that can be settled have been like this for long.
    fn asked_long(&self, found: Vec<(ChunkId, LossAt)>, now: Instant) -> Vec<LossAt> {
        let mut there = self.there.borrow_mut();
        let seen = found.iter().map(|(chunk, loss)| {
            let before = there.get(chunk).copied().filter(|(version, _)| *version == loss.version);
            (*chunk, before.unwrap_or((loss.version, now)))
        });
        let seen = seen.collect();
        *there = seen;
        let is_long = |chunk: &ChunkId| now.since(there[chunk].1) >= ASKED_LONG;
        found.into_iter().filter(|(chunk, _)| is_long(chunk)).map(|(_, loss)| loss).collect()
    }
}

impl Reign {
    /// Runs for as long as the reign.
    pub(super) async fn settle_losses(self: Rc<Self>) {
        loop {
            let wanted = self.losses.wanted.notified();
            let found = self.read(crate::state::State::losses_to_settle);
            for some in self.losses.asked_long(found, rt::time::now()).chunks(MEMBERS_MAX) {
                rt::sim::hit("mds.losses-settled");
                let op = CommandOp::SettleLosses(SettleLosses { chunks: some.to_vec() });
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_there_for_long_under_one_version() {
        let losses = Losses::default();
        let chunk = ChunkId::new(1, 7);
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        let found = |version| vec![(chunk, LossAt { file: 4, index: 0, version })];
        let settled = |version, seconds| losses.asked_long(found(version), at(seconds)).len();
        assert_eq!([settled(5, 100), settled(5, 999), settled(5, 1000)], [0, 0, 1]);
        assert_eq!([settled(6, 1001), settled(6, 1900), settled(6, 1901)], [0, 0, 1], "another version");
        losses.not_asked(chunk);
        assert_eq!([settled(6, 1902), settled(6, 2801), settled(6, 2802)], [0, 0, 1], "nobody was asked");
        assert_eq!(losses.asked_long(Vec::new(), at(2803)), []);
        assert_eq!([settled(6, 2804), settled(6, 3703), settled(6, 3704)], [0, 0, 1], "one was away");
    }
}
