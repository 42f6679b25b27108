//! Chunks that are being created, and what happens when a chunk server does not do it (C9).
//!
//! A chunk server that refuses, or says nothing for a while, is replaced by another one. If there is none, it is asked again
//! after a pause that grows.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rt::sync::Notify;
use rt::time::Instant;

use super::reign::Reign;
use crate::state::chunk::MemberState;
use crate::state::command::{CommandOp, ReplaceCreating};
use crate::state::{ChunkId, CsId, FileId, Outcome};

/// How long a chunk server has to create a chunk before another one is chosen.
const PATIENCE: Duration = Duration::from_secs(3);
/// First pause after no other place was found; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
struct Attempt {
    file: FileId,
    index: u32,
    due: Instant,
    pause: Duration,
}

/// What is being created where.
#[derive(Debug, Default)]
pub(crate) struct Creations {
    attempts: RefCell<BTreeMap<(ChunkId, CsId), Attempt>>,
    hurried: Notify,
    /// What is waited for, if that has a time.
    asleep_until: Cell<Option<Instant>>,
}

impl Creations {
    /// A chunk server was chosen for a chunk.
    pub(super) fn begin(&self, chunk: ChunkId, cs: CsId, file: FileId, index: u32, now: Instant) {
        let mut attempts = self.attempts.borrow_mut();
        let attempt = Attempt { file, index, due: now + PATIENCE, pause: PAUSE_MIN };
        attempts.entry((chunk, cs)).or_insert(attempt);
        // Whoever waits for what is due later must not sleep past it.
        if self.asleep_until.get().is_none_or(|until| attempt.due < until) {
            self.hurried.notify_one();
        }
    }

    /// A chunk server holds a chunk.
    pub(super) fn done(&self, chunk: ChunkId, cs: CsId) {
        self.attempts.borrow_mut().remove(&(chunk, cs));
    }

    /// A chunk server refused to create a chunk: look for another one at once, unless that has just been tried in vain.
    pub(super) fn refused(&self, chunk: ChunkId, cs: CsId, now: Instant) {
        if let Some(attempt) = self.attempts.borrow_mut().get_mut(&(chunk, cs))
            && attempt.pause == PAUSE_MIN
        {
            attempt.due = now;
            self.hurried.notify_one();
        }
    }

    fn next(&self) -> Option<(ChunkId, CsId, Attempt)> {
        let attempts = self.attempts.borrow();
        let first = attempts.iter().min_by_key(|(_, attempt)| attempt.due);
        first.map(|((chunk, cs), attempt)| (*chunk, *cs, *attempt))
    }

    fn put_off(&self, chunk: ChunkId, cs: CsId, now: Instant) {
        if let Some(attempt) = self.attempts.borrow_mut().get_mut(&(chunk, cs)) {
            attempt.due = now + attempt.pause;
            attempt.pause = (attempt.pause * 2).min(PAUSE_MAX);
        }
    }
}

impl Reign {
    /// Replaces chunk servers that do not create what they should; runs for as long as the reign.
    pub(super) async fn mend_creations(self: Rc<Self>) {
        loop {
            let hurried = self.creations.hurried.notified();
            let Some((chunk, cs, attempt)) = self.creations.next() else {
                hurried.await;
                continue;
            };
            if attempt.due > rt::time::now() {
                self.creations.asleep_until.set(Some(attempt.due));
                let _hurried = rt::time::timeout_at(attempt.due, hurried).await;
                self.creations.asleep_until.set(None);
                continue;
            }
            drop(hurried);
            if self.is_creating(chunk, cs, attempt) {
                self.replace(chunk, cs).await;
            } else {
                self.creations.done(chunk, cs);
            }
        }
    }

    fn is_creating(&self, chunk: ChunkId, cs: CsId, attempt: Attempt) -> bool {
        self.read(|state| {
            let entry =
                state.tree().file(attempt.file).ok().and_then(|file| file.chunks().get(attempt.index));
            let member = entry.filter(|entry| entry.id() == chunk).and_then(|entry| entry.members().on(cs));
            member.is_some_and(|member| member.state == MemberState::Creating)
        })
    }

    async fn replace(&self, chunk: ChunkId, cs: CsId) {
        let op = ReplaceCreating { chunk: chunk.raw(), cs: cs.0, seed: rt::random::u64() };
        match self.insist(CommandOp::ReplaceCreating(op)).await {
            Some(Ok(Outcome::Replaced(other))) => {
                tracing::warn!("{cs} does not create chunk {:#x}: CS#{other} shall", chunk.raw());
                self.creations.done(chunk, cs);
            }
            Some(answer) => {
                tracing::warn!("{cs} does not create chunk {:#x}, and no other can: {answer:?}", chunk.raw());
                self.creations.put_off(chunk, cs, rt::time::now());
                self.servers.borrow().order(cs, super::orders::CsLink::hurry);
            }
            None => self.creations.put_off(chunk, cs, rt::time::now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;

    const FILE: FileId = FileId::new(1, 9);
    const CHUNK: ChunkId = ChunkId::new(1, 4);

    #[test]
    fn the_most_urgent_is_next_and_pauses_grow() {
        let creations = Creations::default();
        let start = Instant::from_nanos(0);
        creations.begin(CHUNK, CsId(1025), FILE, 0, start);
        creations.begin(CHUNK, CsId(1026), FILE, 0, start + Duration::from_secs(1));
        let due = |creations: &Creations| {
            creations.next().map(|(_, cs, attempt)| (cs.0, attempt.due.since(start).as_millis()))
        };
        assert_eq!(due(&creations), Some((1025, 3000)));
        creations.refused(CHUNK, CsId(1026), start + Duration::from_secs(2));
        assert_eq!(due(&creations), Some((1026, 2000)));
        creations.put_off(CHUNK, CsId(1026), start + Duration::from_secs(2));
        assert_eq!(due(&creations), Some((1026, 2500)));
        creations.refused(CHUNK, CsId(1026), start);
        assert_eq!(due(&creations), Some((1026, 2500)), "tried just now");
        for _ in 0..20 {
            creations.put_off(CHUNK, CsId(1026), start);
        }
        creations.done(CHUNK, CsId(1025));
        assert_eq!(due(&creations), Some((1026, 30_000)));
        creations.begin(CHUNK, CsId(1026), FILE, 0, start);
        assert_eq!(due(&creations), Some((1026, 30_000)), "what is under way is not begun again");
        creations.done(CHUNK, CsId(1026));
        assert_eq!(due(&creations), None);
    }

    #[test]
    fn c13_a_creation_does_not_wait_for_the_pause_of_another() {
        let creations = Creations::default();
        let start = Instant::from_nanos(0);
        let woken = |begin: &dyn Fn()| {
            let mut hurried = std::pin::pin!(creations.hurried.notified());
            let mut cx = Context::from_waker(Waker::noop());
            assert!(hurried.as_mut().poll(&mut cx).is_pending());
            begin();
            hurried.as_mut().poll(&mut cx).is_ready()
        };
        let begin = |number, at| creations.begin(ChunkId::new(1, number), CsId(1025), FILE, 0, at);
        assert!(woken(&|| begin(4, start)), "nobody knows of anything");
        creations.asleep_until.set(Some(start + Duration::from_secs(30)));
        assert!(woken(&|| begin(5, start)), "due in three seconds");
        creations.asleep_until.set(Some(start + PATIENCE));
        assert!(!woken(&|| begin(6, start + Duration::from_secs(1))), "its turn comes");
    }
}
