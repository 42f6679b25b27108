//! This process at the metadata servers: one renewal for all its files (C1).
//!
//! A lease lasts from the *sending* of the last successful renewal. At five sixths of it the client stops issuing and
//! acknowledging; whoever asks [`Session::valid`] waits until a renewal has succeeded, or learns that the session is
//! over.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use link::{AskError, Master};
use rt::sync::Notify;
use rt::time::Instant;
use wire::session::{ClientKind, CloseSession, IoStats, OpenSession, RenewSession, SessionKey};
use wire::{Action, Status};

use crate::release::Unreleased;

/// Who opens a session.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Identity of this client across restarts.
    pub client_uuid: [u8; 16],
    /// What it is.
    pub kind: ClientKind,
    /// The stored key of an earlier run, to take its leases over (C1).
    pub resume: Option<SessionKey>,
    /// How long to wait for the metadata servers at the start.
    pub patience: Duration,
}

/// The session is over: the metadata server has ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session with the metadata servers is over")]
pub struct Lapsed;

/// How long one attempt of a renewal may take.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Until this moment requests may be issued and answered.
    Until(Instant),
    Over,
}

/// A session with the metadata servers.
pub struct Session {
    master: Rc<Master>,
    key: RefCell<SessionKey>,
    options: SessionOptions,
    life: Cell<Life>,
    term: Cell<Duration>,
    changed: Notify,
    /// Grows whenever the session had to be opened anew: leases of an older one must be opened anew too.
    generation: Cell<u64>,
    closed: Cell<bool>,
    wake: Rc<Notify>,
    io: Cell<IoStats>,
    next_request: Cell<u64>,
    /// Ids of changes that are not answered.
    unanswered: RefCell<BTreeSet<u64>>,
    /// Leases that were taken away, by file: the epoch that is gone.
    revoked: RefCell<BTreeMap<u64, u64>>,
    /// Files that are open: a second opening would count the same numbers under the same epoch (C11).
    open_files: RefCell<BTreeSet<u64>>,
    /// Leases that nobody uses and that the metadata server may not know to be given back.
    unreleased: Unreleased,
}

/// A change under way: while this lives, the metadata server keeps its outcome (C11).
#[derive(Debug)]
pub struct Change {
    session: Rc<Session>,
    id: u64,
}

impl Drop for Change {
    fn drop(&mut self) {
        self.session.unanswered.borrow_mut().remove(&self.id);
    }
}

impl Change {
    /// Asks for the change, under the same id in every attempt; it may be asked for again after an error.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask<R: wire::Call>(&self, request: &R, deadline: Instant) -> Result<R::Reply, AskError> {
        self.session.master.ask_as(self.id, request, deadline).await
    }
}

/// A file that is open in a session, until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenFile {
    session: Rc<Session>,
    file_id: u64,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.session.open_files.borrow_mut().remove(&self.file_id);
        self.session.unreleased.look_again();
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("key", &self.key.borrow())
            .field("life", &self.life.get())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Opens a session and keeps it alive until it is closed or dropped.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn open(master: Rc<Master>, options: SessionOptions) -> Result<Rc<Self>, AskError> {
        let sent = rt::time::now();
        let reply = ask_session(&master, &options, options.resume.clone()).await?;
        let term = Duration::from_millis(u64::from(reply.term_ms));
        let session = Rc::new(Self {
            master,
            key: RefCell::new(reply.session),
            options,
            life: Cell::new(Life::Until(usable_until(sent, term))),
            term: Cell::new(term),
            changed: Notify::new(),
            generation: Cell::new(0),
            closed: Cell::new(false),
            wake: Rc::default(),
            io: Cell::new(IoStats::default()),
            next_request: Cell::new(1),
            unanswered: RefCell::default(),
            revoked: RefCell::default(),
            open_files: RefCell::default(),
            unreleased: Unreleased::default(),
        });
        rt::spawn(keep_alive(Rc::downgrade(&session)));
        Ok(session)
    }

    /// What names the session in requests.
    #[must_use]
    pub fn key(&self) -> SessionKey {
        self.key.borrow().clone()
    }

    /// Waits until the key is another one than `known`, and gives it: the session had to be opened anew. Whoever stores
    /// the key to take the leases over later (C1) must store it again.
    pub async fn key_changed(&self, known: &SessionKey) -> SessionKey {
        loop {
            let changed = self.changed.notified();
            let key = self.key();
            if key != *known {
                return key;
            }
            changed.await;
        }
    }

    /// The way to the metadata servers.
    #[must_use]
    pub fn master(&self) -> &Rc<Master> {
        &self.master
    }

    /// Notes that a file is open; `None` if it is already.
    pub(crate) fn enter(self: &Rc<Self>, file_id: u64) -> Option<OpenFile> {
        let is_new = self.open_files.borrow_mut().insert(file_id);
        is_new.then(|| OpenFile { session: Rc::clone(self), file_id })
    }

    pub(crate) fn is_open(&self, file_id: u64) -> bool {
        self.open_files.borrow().contains(&file_id)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(crate) fn unreleased(&self) -> &Unreleased {
        &self.unreleased
    }

    /// Whether the lease of a file at this epoch was taken away, as the last renewal told.
    pub(crate) fn is_revoked(&self, file_id: u64, epoch: u64) -> bool {
        self.revoked.borrow().get(&file_id).is_some_and(|gone| epoch <= *gone)
    }

    /// Grows whenever the session had to be opened anew.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Begins a change that is carried out once, however often it is asked for.
    #[must_use]
    pub fn change(self: &Rc<Self>) -> Change {
        let id = self.next_request.get();
        self.next_request.set(id + 1);
        self.unanswered.borrow_mut().insert(id);
        Change { session: Rc::clone(self), id }
    }

    /// All changes with lower ids have been answered, or nobody waits for their answers.
    fn answered_below(&self) -> u64 {
        let first = self.unanswered.borrow().first().copied();
        first.unwrap_or(self.next_request.get())
    }

    /// Adds to what the next renewal reports.
    pub(crate) fn report(&self, change: impl FnOnce(&mut IoStats)) {
        let mut io = self.io.get();
        change(&mut io);
        self.io.set(io);
    }

    /// Whether requests may be issued and answered right now.
    pub(crate) fn is_valid(&self) -> bool {
        matches!(self.life.get(), Life::Until(until) if rt::time::now() < until)
    }

    /// Whether requests may be issued. A client that slept may believe so for too long: the fence holds all the same (C2).
    pub(crate) fn may_issue(&self) -> bool {
        self.is_valid() || rt::sim::planted("lease-not-watched")
    }

    /// Waits until requests may be issued and answered.
    ///
    /// # Errors
    /// [`Lapsed`] when the session was closed.
    pub async fn valid(&self) -> Result<(), Lapsed> {
        loop {
            if !self.closed.get() && self.is_valid() {
                return Ok(());
            }
            let changed = self.changed.notified();
            if self.closed.get() || self.life.get() == Life::Over {
                return Err(Lapsed);
            }
            changed.await;
        }
    }

    async fn renew(&self) -> Result<(), AskError> {
        let sent = rt::time::now();
        let request =
            RenewSession { session: self.key(), io: self.io.get(), answered_below: self.answered_below() };
        let deadline = sent + RENEWAL_PATIENCE.min(self.term.get() / 3);
        match self.master.ask(&request, deadline).await {
            // Closed meanwhile: it stays so.
            _ if self.closed.get() => Ok(()),
            Ok(reply) => {
                let term = Duration::from_millis(u64::from(reply.term_ms));
                self.term.set(term);
                self.life.set(Life::Until(usable_until(sent, term)));
                // It is told again until the file is released or opened anew.
                *self.revoked.borrow_mut() =
                    reply.revoked.iter().map(|file| (file.file_id, file.epoch)).collect();
                self.changed.notify_all();
                Ok(())
            }
            Err(AskError::Status { status, .. })
                if status == Status::SessionExpired || status.action() == Action::Rejoin =>
            {
                self.rejoin().await
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the session anew after it expired; files must be opened anew too, which fails if another client has
    /// been granted one since (C1).
    async fn rejoin(&self) -> Result<(), AskError> {
        let sent = rt::time::now();
        let resume = self.key();
        let reply = ask_session(&self.master, &self.options, Some(resume)).await?;
        if self.closed.get() {
            let deadline = rt::time::now() + RENEWAL_PATIENCE;
            return self.master.ask(&CloseSession { session: reply.session }, deadline).await.map(drop);
        }
        let term = Duration::from_millis(u64::from(reply.term_ms));
        *self.key.borrow_mut() = reply.session;
        self.term.set(term);
        self.generation.set(self.generation.get() + 1);
        self.life.set(Life::Until(usable_until(sent, term)));
        self.changed.notify_all();
        self.unreleased.look_again();
        Ok(())
    }

    /// Ends the session in order. Volumes must be closed before.
    ///
    /// # Errors
    /// [`AskError`]; the session then ends by itself when its term is over.
    pub async fn close(&self) -> Result<(), AskError> {
        self.closed.set(true);
        self.life.set(Life::Over);
        self.wake.notify_one();
        self.unreleased.look_again();
        self.changed.notify_all();
        let deadline = rt::time::now() + RENEWAL_PATIENCE;
        self.master.ask(&CloseSession { session: self.key() }, deadline).await.map(drop)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whoever renews it is told at once; the metadata servers notice when the term is over.
        self.wake.notify_one();
        self.unreleased.look_again();
    }
}

/// Renews a session every third of its term until it is closed or dropped.
async fn keep_alive(session: Weak<Session>) {
    loop {
        let Some(strong) = session.upgrade() else { return };
        let (pause, wake) = (strong.term.get() / 3, Rc::clone(&strong.wake));
        if strong.closed.get() {
            return;
        }
        drop(strong);
        // Woken early only to end.
        let _ending = rt::time::timeout(pause, wake.notified()).await;
        while let Some(strong) = session.upgrade().filter(|strong| !strong.closed.get()) {
            let Err(error) = strong.renew().await else { break };
            tracing::warn!("renewing the session failed: {error}");
            drop(strong);
            let pause = Duration::from_millis(200) + Duration::from_millis(rt::random::below(200));
            rt::time::sleep(pause).await;
        }
    }
}

/// Five sixths of the term, counted from the sending of the renewal (C1).
fn usable_until(sent: Instant, term: Duration) -> Instant {
    sent + term * 5 / 6
}

async fn ask_session(
    master: &Master,
    options: &SessionOptions,
    resume: Option<SessionKey>,
) -> Result<wire::session::OpenSessionReply, AskError> {
    let request = OpenSession {
        client_uuid: options.client_uuid.to_vec(),
        host_name: rt::node::host_name(),
        resume,
        kind: options.kind.into(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
    };
    master.ask(&request, rt::time::now() + options.patience).await
}
