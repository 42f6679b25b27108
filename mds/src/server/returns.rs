//! Replicas that are away return: as soon as their chunk servers serve, a few at a time (C6).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use rt::sync::Notify;
use rt::time::Instant;

use super::rebuild::Rebuild;
use super::reign::Reign;
use crate::state::command::{ChunkPosition, CommandOp, JoinMembers};
use crate::state::{CsId, FileId, State};

/// Joiners on one chunk server at once.
const JOINERS_MAX: usize = 256;
/// How often it is looked again while some cannot join.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a chunk server that a client could not reach is not given back to the client's file, at first...
const REST_MIN: Duration = Duration::from_secs(5);
/// ...and at most.
const REST_MAX: Duration = Duration::from_secs(60);
/// Rests that are remembered.
const RESTS_MAX: usize = 4096;

/// So many chunks more than is needed must be free before a disk that was full counts as one with room: else it would be told again and
/// again of one that is at the limit.
const ROOM_AGAIN: u64 = 2;

/// Until when a chunk server is kept from a file.
#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Instant,
    length: Duration,
}

/// What is known of returns besides the state.
#[derive(Debug, Default)]
pub(crate) struct Returns {
    wanted: Notify,
    rests: RefCell<BTreeMap<(FileId, CsId), Rest>>,
    /// Chunk servers of which it was told that they have no room.
    full: RefCell<BTreeSet<CsId>>,
}

impl Returns {
    /// Somebody may be able to return.
    pub(super) fn look(&self) {
        self.wanted.notify_one();
    }

    /// A client could not use a chunk server: given back at once, it would fail at once, again and again.
    pub(super) fn failed(&self, file: FileId, cs: CsId, now: Instant) {
        let mut rests = self.rests.borrow_mut();
        if rests.len() >= RESTS_MAX {
            rests.retain(|_, rest| rest.until + REST_MAX > now);
        }
        if rests.len() >= RESTS_MAX {
            rests.pop_first();
        }
        let Some(rest) = rests.get_mut(&(file, cs)) else {
            rests.insert((file, cs), Rest { until: now + REST_MIN, length: REST_MIN });
            return;
        };
        if rest.until > now {
            // It has not been given back since: the same failure, met in another chunk.
            return;
        }
        // Long ago is forgotten.
        let lately = rest.until + REST_MAX > now;
        let length = if lately { (rest.length * 2).min(REST_MAX) } else { REST_MIN };
        *rest = Rest { until: now + length, length };
    }

    /// A chunk server has registered anew: what it failed of the first time is over.
    pub(super) fn registered(&self, cs: CsId, now: Instant) {
        for ((_, of), rest) in self.rests.borrow_mut().iter_mut() {
            if *of == cs && rest.length == REST_MIN {
                rest.until = rest.until.min(now);
            }
        }
        self.look();
    }

    fn rests(&self, file: FileId, cs: CsId, now: Instant) -> bool {
        self.rests.borrow().get(&(file, cs)).is_some_and(|rest| rest.until > now)
    }
}

impl Reign {
    /// Runs for as long as the reign.
    pub(super) async fn return_replicas(self: Rc<Self>) {
        loop {
            let wanted = self.returns.wanted.notified();
            let some_wait = self.join_all().await;
            if some_wait {
                let _looked = rt::time::timeout(PAUSE, wanted).await;
            } else {
                wanted.await;
            }
        }
    }

    /// Lets everybody join who can now; whether some are left.
    async fn join_all(self: &Rc<Self>) -> bool {
        let servers: Vec<(CsId, u64)> = self.read(|state| {
            let away = state.servers_with_absent();
            let served = away.filter_map(|cs| state.server(cs)).filter(|server| server.serves());
            served.map(|server| (server.id, server.session)).collect()
        });
        self.returns.full.borrow_mut().retain(|cs| servers.iter().any(|(away, _)| away == cs));
        for (cs, session) in servers {
            let now = rt::time::now();
            let chunks = self.read(|state| joining_now(state, &self.rebuild, &self.returns, cs, now));
            self.tell_of_room(cs, session, chunks.is_empty());
            if chunks.is_empty() {
                continue;
            }
            let op = CommandOp::JoinMembers(JoinMembers { cs: cs.0, session, chunks });
            match self.insist(op).await {
                Some(Ok(_)) => {}
                Some(Err(refusal)) => tracing::debug!("{cs} does not join: {refusal}"),
                None => return false,
            }
        }
        self.read(|state| state.servers_with_absent().next().is_some())
    }

    /// Tells the operator of a chunk server whose disk is too full for what was to return, once until there is room for it.
    fn tell_of_room(self: &Rc<Self>, cs: CsId, session: u64, nothing_returns: bool) {
        let told = self.returns.full.borrow().contains(&cs);
        if !told && nothing_returns && self.read(|state| state.lacks_room_to_return(cs, 0)) {
            self.returns.full.borrow_mut().insert(cs);
            rt::spawn(Rc::clone(self).warn_of_no_room(cs, session));
        } else if told && !self.read(|state| state.lacks_room_to_return(cs, ROOM_AGAIN)) {
            self.returns.full.borrow_mut().remove(&cs);
        }
    }
}

/// Which replicas on a chunk server are given back now. To a full one nothing is: it would refuse at once, and each time the chunk would
/// have two versions more. Where joiners fail one is tried; and whoever writes to a chunk that has too few members waits for every one
/// that may be filled.
pub(crate) fn joining_now(
    state: &State,
    rebuild: &Rebuild,
    returns: &Returns,
    cs: CsId,
    now: Instant,
) -> Vec<ChunkPosition> {
    if rebuild.is_full(cs, now) {
        return Vec::new();
    }
    let is_futile = rebuild.is_futile(cs, now);
    let room = JOINERS_MAX.saturating_sub(state.joiners_on(cs, |chunk| rebuild.is_failing(state, cs, chunk)));
    let mut has_trial = is_futile && state.joiners_on(cs, |_| false) == 0;
    let is_given_up =
        |position| state.chunk_at(position).is_some_and(|chunk| rebuild.is_given_up(cs, chunk, now));
    // Those that rest are passed over; more are asked for than there is room, so that they hide nobody for long.
    let all = state.returning(cs, room + RESTS_MAX);
    let fit = all.into_iter().filter(|&position| {
        if returns.rests(position.0, cs, now) {
            return false;
        }
        let is_wanted = !is_given_up(position) && (!is_futile || std::mem::take(&mut has_trial));
        is_wanted || state.is_blocked(position)
    });
    fit.take(room).map(|(file, index)| ChunkPosition { file: file.raw(), index }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_again_rests_longer() {
        let returns = Returns::default();
        let (file, cs) = (FileId::from_raw(7), CsId(1025));
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        assert!(!returns.rests(file, cs, at(1000)));
        returns.failed(file, cs, at(1000));
        assert!(returns.rests(file, cs, at(1004)) && !returns.rests(file, cs, at(1005)));
        assert!(!returns.rests(FileId::from_raw(8), cs, at(1004)));
        returns.failed(file, cs, at(1006));
        assert!(returns.rests(file, cs, at(1015)) && !returns.rests(file, cs, at(1016)));
        returns.failed(file, cs, at(1007));
        assert!(!returns.rests(file, cs, at(1016)), "one failure, met twice");
        for _ in 0..20 {
            let until = returns.rests.borrow()[&(file, cs)].until;
            returns.failed(file, cs, until);
        }
        let until = returns.rests.borrow()[&(file, cs)].until;
        let length = |until: Instant| returns.rests.borrow()[&(file, cs)].until.since(until);
        returns.failed(file, cs, until);
        assert_eq!(length(until), REST_MAX);
        returns.registered(cs, until);
        assert_eq!(length(until), REST_MAX, "it failed again and again");
        returns.failed(file, cs, at(5000));
        assert!(
            returns.rests(file, cs, at(5004)) && !returns.rests(file, cs, at(5005)),
            "long ago is forgotten"
        );
        returns.failed(file, cs, at(9000));
        returns.registered(CsId(1026), at(9001));
        assert!(returns.rests(file, cs, at(9001)));
        returns.registered(cs, at(9001));
        assert!(!returns.rests(file, cs, at(9001)), "it was started again");
        for number in 0..2 * RESTS_MAX as u64 {
            returns.failed(FileId::from_raw(number), cs, at(5000));
        }
        assert!(returns.rests.borrow().len() <= RESTS_MAX, "C13");
    }
}
