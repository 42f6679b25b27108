//! Opening files under leases, and giving them back (C1, C2).
//!
//! A client that opens a file it holds already has lost sight of what it did under its lease: a chunk server lost its memory,
//! a connection broke in the middle, or its volume was dropped without being closed. Its numbers of writes would begin anew,
//! so it must not have the same epoch twice. Its lease ends without a flush, is kept for it, and is granted anew at a
//! higher epoch, fence and reconciliation included (C2, C5).

use std::cell::Cell;
use std::rc::Rc;

use wire::hello::Empty;
use wire::lease::{MapReply, Open, OpenMode, OpenReply, Release, Revoke, RevokeReply, RevokeTarget};
use wire::{BodyError, Status};

use super::asked::{Asked, Holder};
use super::attributes;
use super::failure::Failure;
use super::metadata::Answer;
use super::names::{named, resolve};
use super::reign::{Reign, unexpected};
use super::shown;
use crate::raft::ProposeError;
use crate::state::command::{self, CommandOp, LeaseMode, LeaseProof, Resume, RevokeWhat, Target};
use crate::state::lease::{Lease, Phase};
use crate::state::outcome::{Granted, Held};
use crate::state::{ClientId, CsId, Epoch, FileId, Outcome, Refusal, State};

/// Who opens what.
#[derive(Clone, Copy, Debug)]
struct Wish {
    holder: Holder,
    file: FileId,
    mode: LeaseMode,
    /// The epoch at which the client held it; zero for a first open.
    resume: Epoch,
}

/// What to do next for somebody who opens a file.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "made once per request and taken apart at once")]
enum Step {
    /// Put this to the log: it will be granted, or start a fence.
    Ask(CommandOp),
    /// Wait until chunk servers have recorded the epoch.
    Wait(Vec<CsId>),
    /// Others have it.
    Held(Held),
}

impl Wish {
    fn holds(&self, state: &State) -> bool {
        state.tree().file(self.file).is_ok_and(|file| file.lease().mode_of(self.client()).is_some())
    }

    fn client(&self) -> ClientId {
        ClientId(self.holder.client)
    }

    /// Decides from the state alone.
    fn next(&self, state: &State) -> Result<Step, Refusal> {
        let client = state.authenticate(self.holder.client, self.holder.token)?;
        let file = state.tree().file(self.file)?;
        let lease = file.lease();
        if let Some(mode) = lease.mode_of(client) {
            if self.resume != Epoch::ZERO {
                // Given up if that is the epoch it holds; if it holds a higher one, that answer was lost.
                return Ok(Step::Ask(self.ask_back(self.resume)));
            }
            let suspect = file.chunks().unreconciled() > 0;
            if mode == self.mode && needs_new_epoch(lease, suspect) {
                return Ok(Step::Ask(self.ask_back(lease.epoch())));
            }
        } else if self.resume != Epoch::ZERO && !lease.resumable().contains(&client) {
            return Err(Refusal::ResumeLost(self.file.raw()));
        }
        if state.may_grant(client, &self.target(), self.mode)? {
            let first = self.resume == Epoch::ZERO;
            return Ok(Step::Ask(if first { self.open() } else { self.ask_back(self.resume) }));
        }
        let live = |owner: &ClientId| state.client(*owner).is_some_and(|owner| owner.is_live());
        let of_another = lease.reserved_for().filter(live).is_some_and(|owner| owner != client);
        Ok(match lease.phase() {
            Phase::Fencing { waiting } if !of_another => Step::Wait(waiting.clone()),
            _ => Step::Held(self.holders(lease)),
        })
    }

    fn holders(&self, lease: &Lease) -> Held {
        let ids = |clients: &[ClientId]| clients.iter().map(|client| client.0).collect();
        match lease.holders() {
            [] => Held { file: self.file.raw(), by: ids(lease.reserved_for().as_slice()), reserved: true },
            holders => Held { file: self.file.raw(), by: ids(holders), reserved: false },
        }
    }

    fn target(&self) -> Target {
        Target { target: Some(command::TargetRef::File(self.file.raw())) }
    }

    fn open(&self) -> CommandOp {
        let Holder { client, token } = self.holder;
        CommandOp::Open(command::Open { client, token, target: Some(self.target()), mode: self.mode.into() })
    }

    fn ask_back(&self, epoch: Epoch) -> CommandOp {
        let Holder { client, token } = self.holder;
        let (file, mode, epoch) = (self.file.raw(), self.mode.into(), epoch.raw());
        CommandOp::Resume(Resume { client, token, file, mode, epoch })
    }
}

/// Whether a client that opens what it holds gets a higher epoch. A reader writes nothing, unless it reconciles.
fn needs_new_epoch(lease: &Lease, suspect: bool) -> bool {
    match lease.phase() {
        Phase::Exclusive { .. } => true,
        Phase::Shared { .. } => suspect,
        Phase::Idle | Phase::Unclean | Phase::Fencing { .. } | Phase::Fenced => false,
    }
}

impl Reign {
    pub(super) async fn open(self: &Rc<Self>, call: Open, asked: &Asked) -> Result<OpenReply, Failure> {
        let holder = Holder::of(&call.session)?;
        let mode = match call.mode() {
            OpenMode::Read => LeaseMode::Shared,
            OpenMode::Write => LeaseMode::Exclusive,
            OpenMode::Unspecified => return Err(BodyError::Missing { field: "mode" }.into()),
        };
        self.confirm(asked).await?;
        let file = self.read(|state| resolve(state, named(call.file.as_ref())?).map_err(Failure::from))?;
        let wish = Wish { holder, file, mode, resume: Epoch::from_raw(call.resume_epoch) };
        let attempt = Rc::new(Attempt::new(self, wish.client(), file));
        // Chunk servers may take longer than a term to record the epoch (C2): who keeps asking does not lose the file to it.
        if self.kept_for(file) == Some(wish.client()) {
            self.keep_for(wish.client(), file);
        }
        let granted = self.obtain(&wish, asked, &attempt).await?;
        self.keep_ended(file);
        if rt::time::now() >= asked.deadline || !asked.connection.is_open() {
            self.give_back(&wish, &attempt, &granted).await;
            return Err(Failure::timeout());
        }
        self.read(|state| {
            let attrs = attributes::in_force(state.tree().file(file)?.attrs());
            let map = first_positions(state, file, call.map_count)?;
            Ok(OpenReply {
                file_id: granted.file,
                epoch: granted.epoch,
                size: granted.size,
                chunk_size: granted.chunk_size,
                attrs,
                needs_reconcile: granted.needs_reconcile,
                map,
            })
        })
    }

    /// Asks and waits until the lease is granted, refused, or the time is over.
    async fn obtain(
        self: &Rc<Self>,
        wish: &Wish,
        asked: &Asked,
        attempt: &Rc<Attempt>,
    ) -> Result<Granted, Failure> {
        let listener = self.waiting.listen(wish.file);
        loop {
            let woken = listener.woken();
            if self.is_over() {
                return Err(Self::not_master());
            }
            if !attempt.is_last() || !asked.connection.is_open() {
                // Nobody hears the answer; a lease that is granted all the same would be in the way.
                return Err(Self::replaced());
            }
            let waiting = match self.read(|state| wish.next(state))? {
                Step::Ask(op) => match self.ask_log(wish, asked, attempt, op).await? {
                    // An earlier request of the client was granted it, and gave it back since.
                    Err(Refusal::ResumeLost(_)) if wish.resume == Epoch::ZERO => continue,
                    Err(refusal) => return Err(refusal.into()),
                    // One grant is answered once: it may be given back when the answer is lost.
                    Ok(Outcome::Granted(_)) if !attempt.is_last() => return Err(Self::replaced()),
                    Ok(answer) => match answer {
                        Outcome::Granted(granted) => return Ok(granted),
                        Outcome::Held(held) => return Err(self.held(&held)),
                        Outcome::Fencing(fencing) => fencing.waiting.into_iter().map(CsId).collect(),
                        other => return Err(unexpected(&other)),
                    },
                },
                Step::Wait(waiting) => waiting,
                Step::Held(held) => return Err(self.held(&held)),
            };
            if rt::time::timeout_at(asked.answer_by(), woken).await.is_err() {
                let names: Vec<String> = waiting.iter().map(ToString::to_string).collect();
                let text = format!("the file is fenced first: waiting for {}", names.join(", "));
                return Err(Failure::busy(text));
            }
        }
    }

    fn replaced() -> Failure {
        Failure::busy("a later request of this client opens the file")
    }

    /// Proposes a command that may grant a lease. When that happens after the request's time, the lease is given back.
    async fn ask_log(
        self: &Rc<Self>,
        wish: &Wish,
        asked: &Asked,
        attempt: &Rc<Attempt>,
        op: CommandOp,
    ) -> Result<Answer, Failure> {
        let is_its = self.read(|state| wish.holds(state)) || self.kept_for(wish.file) == Some(wish.client());
        attempt.held_before.set(attempt.held_before.get() || is_its);
        let reign = Rc::clone(self);
        let mut asking = rt::spawn(async move { reign.propose(None, op).await });
        if let Ok(answer) = rt::time::timeout_at(asked.answer_by(), &mut asking).await {
            return Ok(answer.unwrap_or(Err(ProposeError::Stopped))?);
        }
        let (reign, wish, attempt) = (Rc::clone(self), *wish, Rc::clone(attempt));
        rt::spawn(async move {
            if let Ok(Ok(Ok(Outcome::Granted(granted)))) = asking.await {
                reign.give_back(&wish, &attempt, &granted).await;
            }
        });
        Err(Failure::timeout())
    }

    /// Ends a lease whose grant could not be answered: it would be held for as long as the session, and used by nobody. Not
    /// if the client had it before or asks for it again, and not if it resumes, as it may do so only once.
    async fn give_back(&self, wish: &Wish, attempt: &Attempt, granted: &Granted) {
        if wish.resume != Epoch::ZERO || attempt.held_before.get() || !attempt.is_last() {
            return;
        }
        let Holder { client, token } = wish.holder;
        let op = CommandOp::Release(command::Release {
            lease: Some(LeaseProof { client, token, epoch: granted.epoch }),
            file: granted.file,
            clean: true,
            successor: 0,
        });
        match self.insist(op).await {
            Some(Ok(_)) => tracing::info!("file {:#x} was granted to CL#{client} too late", granted.file),
            Some(Err(refusal)) => tracing::debug!("a late grant is over already: {refusal}"),
            None => {}
        }
    }

    /// What somebody gets who wants a file that others have.
    pub(super) fn held(&self, held: &Held) -> Failure {
        let first = held.by.first().copied().unwrap_or(0);
        let holder = self.read(|state| shown::holder(state, ClientId(first)));
        let others = match held.by.len() {
            0 | 1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let what = if held.reserved { "is kept for" } else { "is in use by" };
        let text = format!("the file {what} CL#{first} on host {:?}{others}", holder.host_name);
        Failure::new(Status::LeaseHeld, text).detail(first.into()).hint(holder.host_name)
    }

    /// Gives a lease back. One that is over already is as good as given back.
    pub(super) async fn release(&self, call: Release, asked: &Asked) -> Result<Empty, Failure> {
        let Holder { client, token } = Holder::of(&call.session)?;
        let op = CommandOp::Release(command::Release {
            lease: Some(LeaseProof { client, token, epoch: call.epoch }),
            file: call.file_id,
            clean: call.clean,
            successor: 0,
        });
        match self.change(asked, None, op).await? {
            Ok(_) | Err(Refusal::NotHolder(_) | Refusal::WrongEpoch(_) | Refusal::UnknownFile(_)) => {
                Ok(Empty {})
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    pub(super) async fn revoke(&self, call: Revoke, asked: &Asked) -> Result<RevokeReply, Failure> {
        let what = match call.target {
            Some(RevokeTarget::Path(path)) => {
                RevokeWhat::File(Target { target: Some(command::TargetRef::Path(path)) })
            }
            Some(RevokeTarget::Client(id)) => {
                let unknown = || Failure::new(Status::NotFound, format!("there is no client CL#{id}"));
                RevokeWhat::Client(u32::try_from(id).map_err(|_| unknown())?)
            }
            None => return Err(BodyError::Missing { field: "target" }.into()),
        };
        let op = CommandOp::Revoke(command::Revoke { what: Some(what), told: true });
        match self.change(asked, asked.key(None), op).await? {
            Ok(Outcome::Acknowledged(count)) => {
                Ok(RevokeReply { revoked: u32::try_from(count).unwrap_or(u32::MAX) })
            }
            Ok(other) => Err(unexpected(&other)),
            Err(Refusal::NoSession(id)) => {
                Err(Failure::new(Status::NotFound, format!("client CL#{id} has no session")))
            }
            Err(refusal) => Err(refusal.into()),
        }
    }
}

/// The first positions of a file. What is left out counts as not answered: who opens a file reads an answer without a next
/// position as the map of the whole file.
fn first_positions(state: &State, file: FileId, count: u32) -> Result<MapReply, Failure> {
    let span = state.tree().file(file)?.chunk_span();
    let mut map = shown::map(state, file, 0, count.into())?;
    let answered = u64::from(count).min(shown::POSITIONS_MAX);
    if map.next_index == 0 && answered < span {
        map.next_index = answered;
    }
    Ok(map)
}

/// A request to open a file that is under way. A later one of the same client for the same file takes its place.
struct Attempt {
    reign: Rc<Reign>,
    key: (ClientId, FileId),
    serial: u64,
    /// The client had a lease already when it asked last.
    held_before: Cell<bool>,
}

impl Attempt {
    fn new(reign: &Rc<Reign>, client: ClientId, file: FileId) -> Self {
        let key = (client, file);
        let serial = reign.attempts.get();
        reign.attempts.set(serial + 1);
        reign.opening.borrow_mut().insert(key, serial);
        // Those before see that they are not the last any more.
        reign.waiting.wake(file);
        Self { reign: Rc::clone(reign), key, serial, held_before: Cell::new(false) }
    }

    fn is_last(&self) -> bool {
        self.reign.opening.borrow().get(&self.key) == Some(&self.serial)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_last() {
            self.reign.opening.borrow_mut().remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
