//! One request to one member, sent until it is answered.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use link::{AskError, Call, CallError, Reply};
use rt::time::Instant;
use rt::{First, first};
use wire::{Action, Op, Status};

use super::lease::{Chunk, Lease};
use super::{ATTEMPT, BUSY_PAUSE, Halt, Inner, Stop};
use crate::error::VolumeError;
use crate::servers::{Live, Server};

/// How long a member may be away before the metadata server is first asked where it is...
const LOCATE_MIN: Duration = Duration::from_millis(250);
/// ...and later, at most, how often.
const LOCATE_MAX: Duration = Duration::from_secs(4);
/// From this pause on it is said.
const LOCATE_SAY: Duration = Duration::from_secs(1);

/// How long a server may be busy before that is said.
const BUSY_SAY: Duration = Duration::from_secs(1);
/// How long a full server may keep a chunk from being settled before it is reported.
const FULL_MAX: Duration = Duration::from_secs(5);

/// A request as it goes to every member.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) op: Op,
    pub(crate) body: Vec<u8>,
    pub(crate) payload: Option<rt::buf::View>,
    pub(crate) reply_bytes: usize,
}

impl Message {
    fn call(&self, patience: Duration) -> Call {
        let call =
            Call::new(self.op, self.body.clone(), rt::time::now() + patience).expecting(self.reply_bytes);
        match &self.payload {
            Some(payload) => call.with_payload(payload.clone()),
            None => call,
        }
    }

    /// Bytes that it takes of what may be under way.
    fn bytes(&self) -> u64 {
        (self.body.len() + self.payload.as_ref().map_or(0, |payload| payload.len()) + self.reply_bytes) as u64
    }
}

/// A refusal that the caller decides about.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) status: Status,
    pub(crate) text: String,
    /// What the status defines: the version that the server has.
    pub(crate) detail: u64,
}

impl Refused {
    /// The server counts as lost: nobody has answered.
    fn lost() -> Self {
        Self { status: Status::Timeout, text: "it cannot be reached".into(), detail: 0 }
    }
}

/// What one attempt gave.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// Success.
    Done(Reply),
    /// A refusal that sending again cannot change.
    Refused(Refused),
    /// A refusal that passes.
    Busy(Busy),
    /// No answer.
    Later,
}

/// A refusal that passes.
#[derive(Debug)]
pub(crate) struct Busy {
    status: Status,
    text: String,
    /// Before the request is sent again.
    pub(crate) pause: Duration,
}

/// How long one request has been refused for the time being.
#[derive(Debug, Default)]
pub(crate) struct Patience(Option<Instant>);

impl Patience {
    /// Notes one more such refusal, and says it if it has lasted.
    pub(crate) fn note(&mut self, server: &Server, busy: &Busy) {
        let since = *self.0.get_or_insert_with(rt::time::now);
        if since.elapsed() >= BUSY_SAY && server.may_say(busy.status) {
            let Busy { status, text, .. } = busy;
            let colon = if text.is_empty() { "" } else { ": " };
            tracing::warn!("chunk server {}: {status}{colon}{text}; requests to it wait", server.id());
        }
    }
}

/// What the caller does about a refusal.
enum Refusal {
    Final(Refused),
    Passing(Busy),
}

impl Inner {
    /// Sends a request to a server until it is answered with success or a refusal that sending again cannot change, or the server
    /// counts as lost: then the status is `Timeout`. Breaks the epoch off when it comes back in another boot (C10).
    pub(crate) async fn request(
        &self,
        lease: &Rc<Lease>,
        server: &Rc<Server>,
        message: &Message,
    ) -> Result<Result<Reply, Refused>, Stop> {
        let mut patience = Patience::default();
        let mut lapsed: Option<Instant> = None;
        let mut full: Option<Instant> = None;
        loop {
            lease.check()?;
            let live = match server.live() {
                Some(live) => live,
                // Boxed, as is whatever seldom happens: a request pays for the largest future it may wait for.
                None => match Box::pin(until_broken(lease, met(server))).await? {
                    Some(live) => live,
                    None => return Ok(Err(Refused::lost())),
                },
            };
            let attempt = self.attempt(lease, server, &live, message, ATTEMPT).await?;
            match attempt {
                Attempt::Busy(Busy { status: Status::RegistrationLapsed, .. }) => {
                    lapsed.get_or_insert_with(rt::time::now);
                }
                _ => lapsed = None,
            }
            match attempt {
                Attempt::Done(reply) => return Ok(Ok(reply)),
                // Nobody else can carry it out in its place.
                Attempt::Refused(refused) if refused.status.action() == Action::GiveUp => {
                    let text = format!("{}: {}", refused.status, refused.text);
                    return Err(VolumeError::Refused { cs: server.id(), text }.into());
                }
                Attempt::Refused(refused) => return Ok(Err(refused)),
                // It may be that only we do not hear of it: without a registration it does not serve.
                Attempt::Busy(Busy { status, text, .. })
                    if lapsed.is_some_and(|since| since.elapsed() >= server.limits().gone) =>
                {
                    return Ok(Err(Refused { status, text, detail: 0 }));
                }
                // Nobody can use what has to be settled there: others may do without it.
                Attempt::Busy(Busy { status: Status::NoSpace, text, .. })
                    if message.op == Op::Settle
                        && full.get_or_insert_with(rt::time::now).elapsed() >= FULL_MAX =>
                {
                    return Ok(Err(Refused { status: Status::NoSpace, text, detail: 0 }));
                }
                Attempt::Busy(busy) => {
                    patience.note(server, &busy);
                    until_broken(lease, rt::time::sleep(busy.pause)).await?;
                }
                Attempt::Later if server.is_connected() => {
                    until_broken(lease, rt::time::sleep(BUSY_PAUSE)).await?;
                }
                Attempt::Later => {}
            }
        }
    }

    /// Sends a request once over a connection.
    pub(crate) async fn attempt(
        &self,
        lease: &Rc<Lease>,
        server: &Rc<Server>,
        live: &Live,
        message: &Message,
        patience: Duration,
    ) -> Result<Attempt, Stop> {
        if !lease.same_boot(server.id(), live.boot_id) {
            if !lease.counts_on(server.id()) {
                // What it had not made durable is gone: it joins anew, and nothing else is lost (C7).
                let text = "it has rebooted while it was joining".to_owned();
                return Ok(Attempt::Refused(Refused { status: Status::RegistrationLapsed, text, detail: 0 }));
            }
            tracing::warn!(
                "chunk server {} has rebooted: file {} needs a new epoch",
                server.id(),
                self.file_id
            );
            lease.break_off();
            return Err(Stop::Broken);
        }
        if !self.session.may_issue() && self.session.valid().await.is_err() {
            return Err(Stop::Fatal(VolumeError::LeaseLost("the session has ended".into())));
        }
        let mut answer = std::pin::pin!(server.call(live, message.call(patience), message.bytes()));
        match until_broken(lease, answer.as_mut()).await? {
            Ok(reply) if reply.status.is_ok() => return Ok(Attempt::Done(reply)),
            Ok(reply) => {
                return self.refused(lease, server, message.op, &reply).map(|refusal| match refusal {
                    Refusal::Final(refused) => Attempt::Refused(refused),
                    Refusal::Passing(busy) => Attempt::Busy(busy),
                });
            }
            Err(CallError::Timeout) => {
                tracing::warn!("chunk server {}: no answer within {} s", server.id(), patience.as_secs());
            }
            Err(CallError::Disconnected(reason)) => {
                tracing::debug!("chunk server {}: {reason}", server.id());
                server.forget(live.serial);
            }
            Err(CallError::Unreachable(error)) => tracing::debug!("chunk server {}: {error}", server.id()),
            Err(error @ CallError::TooLarge(_)) => {
                return Err(VolumeError::Refused { cs: server.id(), text: error.to_string() }.into());
            }
        }
        Ok(Attempt::Later)
    }

    /// Waits until one of these members is connected.
    pub(crate) async fn any_connected(&self, lease: &Rc<Lease>, members: &[Rc<Server>]) -> Result<(), Stop> {
        let mut waiting: Vec<_> =
            members.iter().map(|server| Box::pin(self.connected(lease, server))).collect();
        std::future::poll_fn(|cx| {
            let mut ready = waiting.iter_mut().filter_map(|one| match one.as_mut().poll(cx) {
                Poll::Ready(outcome) => Some(outcome.map(drop)),
                Poll::Pending => None,
            });
            ready.next().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// The connection to a member, however long that takes. A server that stays away may have come back somewhere
    /// else: its addresses are asked for again.
    async fn connected(&self, lease: &Rc<Lease>, server: &Rc<Server>) -> Result<Live, Stop> {
        let mut patience = LOCATE_MIN;
        loop {
            let waiting = rt::time::timeout(patience, server.connected());
            if let Ok(live) = until_broken(lease, waiting).await? {
                return Ok(live);
            }
            patience = (patience * 2).min(LOCATE_MAX);
            if let Some(_locating) = server.locate() {
                if patience > LOCATE_SAY {
                    server.miss();
                }
                until_broken(lease, self.locate(lease, server)).await??;
            }
        }
    }

    /// Asks where a member is, by the map of one of its chunks.
    async fn locate(&self, lease: &Lease, server: &Server) -> Result<(), Stop> {
        let holds = |chunk: &&Rc<Chunk>| chunk.is_target(server.id());
        let index = lease.chunks.borrow().chunks().find(holds).map(|c| c.index);
        let Some(index) = index else { return Ok(()) };
        match self.ask_map(lease, index, 1).await {
            Ok(map) => self.servers.learn(&map.servers),
            Err(AskError::Status { status, error }) => self.map_refused(lease, status, &error.message)?,
            Err(error) => tracing::debug!("asking where chunk server {} is: {error}", server.id()),
        }
        Ok(())
    }

    /// What a refusal means.
    fn refused(&self, lease: &Lease, server: &Server, op: Op, reply: &Reply) -> Result<Refusal, Stop> {
        let status = reply.status;
        let error = reply.error();
        let (text, detail) = (error.message, error.detail);
        match status.action() {
            Action::Done => unreachable!("success is no refusal"),
            // What settles a chunk waits for room all the same: nobody could use the chunk before.
            _ if status == Status::NoSpace && op == Op::Write && self.fails_when_full.get() => {
                Err(VolumeError::NoSpace.into())
            }
            Action::RetrySame | Action::RetryAfter | Action::Reconnect | Action::Redirect => {
                let wanted = Duration::from_millis(error.retry_after_ms.into());
                Ok(Refusal::Passing(Busy { status, text, pause: wanted.clamp(BUSY_PAUSE, ATTEMPT) }))
            }
            Action::Reopen | Action::Rejoin => {
                tracing::warn!("chunk server {}: {status}: {text}", server.id());
                lease.break_off();
                Err(Stop::Broken)
            }
            Action::FlushFirst
            | Action::RefreshMap
            | Action::Settle
            | Action::ReadElsewhere
            | Action::ReportMember
            | Action::GiveUp => Ok(Refusal::Final(Refused { status, text, detail })),
        }
    }

    /// Begins a new epoch because of a refusal by a member that settling may mend, or that nothing is known about.
    pub(crate) fn member_refused(
        &self,
        lease: &Lease,
        chunk: &Chunk,
        server: &Server,
        refused: &Refused,
    ) -> Stop {
        tracing::error!(
            "chunk {} of file {} on chunk server {}: {}: {}",
            chunk.index,
            self.file_id,
            server.id(),
            refused.status,
            refused.text
        );
        self.forget_chunk(lease, chunk);
        lease.break_off();
        Stop::Broken
    }
}

/// Runs a future until the epoch breaks.
pub(crate) async fn until_broken<F: Future>(lease: &Lease, future: F) -> Result<F::Output, Stop> {
    let mut future = std::pin::pin!(future);
    let mut broke = std::pin::pin!(lease.broke.notified());
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if lease.is_broken() || broke.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Stop::Broken));
        }
        Poll::Pending
    })
    .await
}

/// Runs a future until the chunk that it is about has another version.
pub(crate) async fn unless_replaced<F: Future>(chunk: &Chunk, future: F) -> Result<F::Output, Halt> {
    let replaced = chunk.changed.notified();
    if chunk.is_replaced() {
        return Err(Halt::Replaced);
    }
    match first(future, replaced).await {
        First::Left(output) => Ok(output),
        First::Right(()) => Err(Halt::Replaced),
    }
}

/// Runs a future until the epoch breaks, or the chunk that it is about has another version.
pub(crate) async fn until_replaced<F: Future>(
    lease: &Lease,
    chunk: &Chunk,
    future: F,
) -> Result<F::Output, Halt> {
    until_broken(lease, unless_replaced(chunk, future)).await?
}

/// The connection to a server; `None` when it counts as lost before there is one.
async fn met(server: &Rc<Server>) -> Option<Live> {
    server.connect_in_background();
    match first(server.connected(), server.lost()).await {
        First::Left(live) => Some(live),
        First::Right(()) => None,
    }
}

/// Runs futures side by side; the first error ends it, and the rest are dropped.
pub(crate) async fn all<'a, T: 'a, E: 'a>(
    futures: impl IntoIterator<Item = Pin<Box<dyn Future<Output = Result<T, E>> + 'a>>>,
) -> Result<Vec<T>, E> {
    let mut running: Vec<_> = futures.into_iter().map(Some).collect();
    let mut results: Vec<Option<T>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(move |cx: &mut Context<'_>| {
        let mut pending = false;
        for (slot, result) in running.iter_mut().zip(results.iter_mut()) {
            let Some(future) = slot else { continue };
            match future.as_mut().poll(cx) {
                Poll::Pending => pending = true,
                Poll::Ready(Ok(value)) => {
                    *result = Some(value);
                    *slot = None;
                }
                Poll::Ready(Err(stop)) => return Poll::Ready(Err(stop)),
            }
        }
        if pending {
            return Poll::Pending;
        }
        Poll::Ready(Ok(results.iter_mut().filter_map(Option::take).collect()))
    })
    .await
}
