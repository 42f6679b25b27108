//! When terms are over: sessions expire, registrations lapse, chunk servers count as offline (C1, C2).
//!
//! A term that is over is renewed no more from that moment on; only then is the command proposed that says so.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rt::time::Instant;

use super::reign::Reign;
use crate::state::command::{
    CommandOp, CsLapsed, CsState, CsStateChanged, EndReservation, ExpireSession, PurgeChunks,
};
use crate::state::{ChunkId, ClientId, CsId, FileId, Parameter};

/// A timer that is this late tells that the process was stopped, and nobody could renew.
const LATE: Duration = Duration::from_secs(1);
/// How often the delete list is looked through while there is something on it.
const PURGE_PAUSE: Duration = Duration::from_secs(5);
/// How often if quarantine is short.
const PURGE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// The shortest time between two looks, however much is deleted.
const PURGE_REST: Duration = Duration::from_millis(200);
/// Chunks in one command.
const PURGE_MAX: usize = 1024;

impl Reign {
    /// Runs for as long as the reign.
    pub(super) async fn keep_time(self: Rc<Self>) {
        loop {
            let changed = self.terms_changed.notified();
            let planned = self.next_end();
            let waited = match planned {
                Some(at) => rt::time::timeout_at(at, changed).await.is_err(),
                None => {
                    changed.await;
                    false
                }
            };
            let late = planned.filter(|_| waited).map_or(Duration::ZERO, |at| at.elapsed());
            if late > LATE {
                tracing::warn!("stopped for {} ms: all terms are longer by as much", late.as_millis());
                let mut sessions = self.sessions.borrow_mut();
                sessions.watch.delay(late);
                sessions.kept.delay(late);
                let mut servers = self.servers.borrow_mut();
                servers.watch.delay(late);
                servers.offline.delay(late);
            }
            self.end_terms();
        }
    }

    fn next_end(&self) -> Option<Instant> {
        let servers = self.servers.borrow();
        let sessions = self.sessions.borrow();
        let next =
            [sessions.watch.next(), sessions.kept.next(), servers.watch.next(), servers.offline.next()];
        next.into_iter().flatten().min()
    }

    fn end_terms(self: &Rc<Self>) {
        let now = rt::time::now();
        let (sessions, kept) = {
            let mut sessions = self.sessions.borrow_mut();
            let kept = sessions.kept.fire(now);
            kept.iter().for_each(|(file, _)| sessions.kept.end(*file));
            (sessions.watch.fire(now), kept)
        };
        let (lapsed, offline) = {
            let mut servers = self.servers.borrow_mut();
            (servers.watch.fire(now), servers.offline.fire(now))
        };
        for (client, session) in sessions {
            rt::spawn(Rc::clone(self).expire(client, session));
        }
        for (file, session) in kept {
            rt::spawn(Rc::clone(self).keep_no_more(file, session));
        }
        for (cs, session) in lapsed {
            rt::spawn(Rc::clone(self).lapse(cs, session));
        }
        for (cs, session) in offline {
            rt::spawn(Rc::clone(self).give_up(cs, session));
        }
    }

    async fn expire(self: Rc<Self>, client: ClientId, session: u64) {
        let op = CommandOp::ExpireSession(ExpireSession { client: client.0, session });
        if let Some(answer) = self.insist(op).await {
            // A refusal says that the session was closed or opened anew meanwhile.
            tracing::info!("the session of {client} is over: {answer:?}");
            self.sessions.borrow_mut().watch.end_this(client, session);
        }
    }

    /// A file was kept for a client for a whole term. If the client's daemon was restarted once more meanwhile, the new
    /// one has a term of its own; and nothing is taken from a client that is waiting for it at this moment.
    async fn keep_no_more(self: Rc<Self>, file: FileId, session: u64) {
        let owner = self.read(|state| {
            let client = state.tree().file(file).ok()?.lease().reserved_for()?;
            let live = state.client(client).filter(|client| client.is_live());
            Some((client, live.map_or(session, |client| client.session)))
        });
        let Some((client, present)) = owner else { return };
        if present != session || self.opening.borrow().contains_key(&(client, file)) {
            return self.keep_for(client, file);
        }
        let op = CommandOp::EndReservation(EndReservation { file: file.raw(), client: client.0, session });
        match self.insist(op).await {
            Some(Ok(_)) => tracing::info!(
                "file {:#x} was kept for {client}, which has not opened it: it is free",
                file.raw()
            ),
            // The client's daemon was restarted while the command was on its way: the new one has a term of its own.
            Some(Err(refusal)) => {
                tracing::debug!("file {:#x} is kept for {client} still: {refusal}", file.raw());
                if self.kept_for(file) == Some(client) {
                    self.keep_for(client, file);
                }
            }
            None => {}
        }
    }

    async fn lapse(self: Rc<Self>, cs: CsId, session: u64) {
        tracing::warn!("{cs} has not renewed its registration");
        let op = CommandOp::CsLapsed(CsLapsed { cs: cs.0, session });
        let Some(answer) = self.insist(op).await else { return };
        let offline = rt::time::now() + self.offline_after();
        let mut servers = self.servers.borrow_mut();
        servers.watch.end_this(cs, session);
        servers.unlink(cs, session);
        if answer.is_ok() && self.read(|state| state.server(cs).is_some_and(|server| server.is_lapsed())) {
            servers.offline.begin(cs, session, offline);
            self.terms_changed.notify_all();
        }
    }

    async fn give_up(self: Rc<Self>, cs: CsId, session: u64) {
        let lapsed = self.read(|state| {
            state.server(cs).is_some_and(|server| server.is_lapsed() && server.state == CsState::Inactive)
        });
        if lapsed {
            let state = CsState::Offline.into();
            let _refused =
                self.insist(CommandOp::CsStateChanged(CsStateChanged { cs: cs.0, session, state })).await;
        }
        self.servers.borrow_mut().offline.end_this(cs, session);
    }

    /// Ends the quarantine of deleted chunks (C9): at once where all is well, else when its time is over.
    pub(super) async fn end_quarantines(self: Rc<Self>) {
        let mut quarantines = Quarantines::default();
        loop {
            let wanted = self.purge_wanted.notified();
            let term = Duration::from_secs(self.read(|state| state.config(Parameter::QuarantineTout)));
            let now = rt::time::now();
            let (mut over, swift) = self.read(|state| {
                let servers = self.servers.borrow();
                let is_reached = |cs| servers.is_linked(cs);
                (quarantines.over(state.quarantined(), now, term), state.purgeable(is_reached))
            });
            (0..swift.len()).for_each(|_| rt::sim::hit("mds.purged-at-once"));
            over.extend(swift);
            over.sort_unstable();
            over.dedup();
            if over.is_empty() {
                let _wanted = rt::time::timeout(PURGE_PAUSE.min(term.max(PURGE_PAUSE_MIN)), wanted).await;
                // Whoever deletes one file after another is not looked after one by one.
                rt::time::sleep_until(now + PURGE_REST).await;
                continue;
            }
            for some in over.chunks(PURGE_MAX) {
                let chunks = some.iter().map(|chunk| chunk.raw()).collect();
                match self.insist(CommandOp::PurgeChunks(PurgeChunks { chunks })).await {
                    Some(Ok(_)) => {}
                    // Its file's deletion was undone by nothing we know; look again.
                    Some(Err(refusal)) => {
                        tracing::warn!("the quarantine of deleted chunks does not end: {refusal}");
                        rt::time::sleep(PURGE_PAUSE).await;
                    }
                    None => return,
                }
            }
        }
    }
}

/// When this master saw deletions first, each known by its stamp. The wall clock may be set, so it ends nothing (C9).
#[derive(Debug, Default)]
struct Quarantines {
    seen: BTreeMap<ChunkId, (u64, Instant)>,
}

impl Quarantines {
    /// Chunks whose quarantine of this length is over. What is not in quarantine any more is forgotten.
    fn over(
        &mut self,
        quarantined: impl Iterator<Item = (ChunkId, u64)>,
        now: Instant,
        term: Duration,
    ) -> Vec<ChunkId> {
        let seen = quarantined.map(|(chunk, stamp)| {
            let before = self.seen.get(&chunk).copied().filter(|(known, _)| *known == stamp);
            (chunk, before.unwrap_or((stamp, now)))
        });
        let seen = seen.collect();
        self.seen = seen;
        let is_over = |since| now.since(since) >= term || rt::sim::planted("quarantine-skipped");
        let over = self.seen.iter().filter(|(_, (_, since))| is_over(*since));
        over.map(|(chunk, _)| *chunk).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c9_quarantine_lasts_from_when_the_master_saw_the_deletion() {
        let chunks: Vec<ChunkId> = (1..=2000).map(|number| ChunkId::new(1, number)).collect();
        let mut quarantines = Quarantines::default();
        let stamp = std::cell::Cell::new(9);
        let mut over = |range: std::ops::Range<usize>, at_s: u64, term_s| {
            let now = Instant::from_nanos(at_s * 1_000_000_000);
            let stamped = chunks[range].iter().map(|chunk| (*chunk, stamp.get()));
            quarantines.over(stamped, now, Duration::from_secs(term_s))
        };
        assert_eq!(over(0..2, 100, 30), []);
        assert_eq!(over(0..3, 129, 30), []);
        assert_eq!(over(0..3, 130, 30), chunks[..2]);
        assert_eq!(over(2..3, 158, 30), []);
        assert_eq!(over(2..3, 159, 30), chunks[2..3]);
        assert_eq!(over(0..3, 160, 30), chunks[2..3], "others are deleted now");
        stamp.set(8);
        assert_eq!(over(2..3, 161, 30), [], "deleted anew");
        assert_eq!(over(0..2000, 161, 0).len(), 2000, "at once, if it is turned off");
    }
}
