//! Giving leases back, until the metadata server has heard it: one that it does not know to be given back would last as long as
//! the session, and nobody else could open the file (C1).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::{Rc, Weak};
use std::time::Duration;

use link::AskError;
use rt::sync::Notify;
use wire::Action;
use wire::lease::Release;

use crate::session::Session;

/// How long one request may take before it is sent again.
const ASK: Duration = Duration::from_secs(10);
/// Pause before a lease is given back that could not be given back before.
const PAUSE: Duration = Duration::from_secs(1);
/// Most leases that wait to be given back.
const WAITING_MAX: usize = 4096;

/// A lease that nobody uses any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unused {
    pub(crate) file_id: u64,
    pub(crate) epoch: u64,
    /// Of the session when the lease was asked for: a later one has ended it.
    pub(crate) generation: u64,
    /// All writes were flushed and nothing is in doubt.
    pub(crate) clean: bool,
}

/// Leases to be given back, by file. A file's later epoch has ended its earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Unreleased {
    waiting: RefCell<BTreeMap<u64, Unused>>,
    running: Cell<bool>,
    changed: Rc<Notify>,
}

impl Unreleased {
    /// A file was closed, or the session has changed.
    pub(crate) fn look_again(&self) {
        self.changed.notify_all();
    }

    /// Waits while a lease just granted, or one of a later number, is to be given back: giving back the one would end the other.
    /// Tells whether it had to.
    pub(crate) async fn passes(&self, session: &Session, file_id: u64, epoch: u64) -> bool {
        let mut waited = false;
        loop {
            let changed = self.changed.notified();
            let is_same = |lease: &Unused| lease.epoch >= epoch && lease.generation == session.generation();
            // Of a file that is open nothing is given back; to open it once more is refused.
            if session.is_open(file_id) || !self.waiting.borrow().get(&file_id).is_some_and(is_same) {
                return waited;
            }
            waited = true;
            changed.await;
        }
    }

    fn add(&self, lease: Unused) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= WAITING_MAX && !waiting.contains_key(&lease.file_id) {
            tracing::warn!("the lease of file {} ends with the session: too many wait", lease.file_id);
            return;
        }
        let known = waiting.entry(lease.file_id).or_insert(lease);
        if lease.epoch > known.epoch {
            *known = lease;
        }
    }

    /// Forgets a lease, unless that of the file is another one by now.
    fn done(&self, lease: Unused) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.get(&lease.file_id) == Some(&lease) {
            waiting.remove(&lease.file_id);
        }
        drop(waiting);
        self.changed.notify_all();
    }

    /// The next one in turn after `last`. Files that are open wait: whoever has one gives the lease back, or leaves that to this.
    fn next(&self, session: &Session, last: u64) -> Option<Unused> {
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|_, lease| lease.generation == session.generation());
        let after = waiting.range((Bound::Excluded(last), Bound::Unbounded));
        let mut in_turn = after.chain(waiting.range(..=last)).map(|(_, lease)| *lease);
        in_turn.find(|lease| !session.is_open(lease.file_id))
    }
}

impl Session {
    /// Gives a lease back; if that is not heard, it is said again until it is.
    pub(crate) async fn release(self: &Rc<Self>, lease: Unused) {
        if let Err(error) = self.ask_release(lease).await {
            tracing::warn!("giving the lease of file {} back: {error}; trying again", lease.file_id);
            self.release_later(lease);
        }
    }

    /// Gives a lease back without anybody waiting.
    pub(crate) fn release_later(self: &Rc<Self>, lease: Unused) {
        let unreleased = self.unreleased();
        unreleased.add(lease);
        unreleased.look_again();
        if !unreleased.running.replace(true) {
            rt::spawn(keep_releasing(Rc::downgrade(self)));
        }
    }

    /// Asks once; an answer that will never be another one counts as heard.
    async fn ask_release(&self, lease: Unused) -> Result<(), AskError> {
        let Unused { file_id, epoch, clean, .. } = lease;
        let request = Release { session: self.key(), file_id, epoch, clean };
        match self.master().ask(&request, rt::time::now() + ASK).await {
            Ok(_) => Ok(()),
            Err(AskError::Status { status, error }) if status.action() == Action::GiveUp => {
                tracing::warn!("giving the lease of file {file_id} back: {status}: {}", error.message);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Gives leases back until none is left or the session has ended.
async fn keep_releasing(session: Weak<Session>) {
    let mut last = 0;
    loop {
        let Some(strong) = session.upgrade() else { return };
        let unreleased = strong.unreleased();
        let changed = Rc::clone(&unreleased.changed);
        let change = changed.notified();
        let next = unreleased.next(&strong, last);
        if strong.is_closed() || unreleased.waiting.borrow().is_empty() {
            unreleased.running.set(false);
            return;
        }
        let Some(lease) = next else {
            drop(strong);
            change.await;
            continue;
        };
        last = lease.file_id;
        match strong.ask_release(lease).await {
            Ok(()) => unreleased.done(lease),
            Err(error) => {
                tracing::warn!("giving the lease of file {} back: {error}; trying again", lease.file_id);
                drop(strong);
                rt::time::sleep(PAUSE).await;
            }
        }
    }
}
