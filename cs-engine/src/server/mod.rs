//! The chunk server on the network: requests of clients and orders of the metadata server meet the engine.

mod compare;
mod control;
mod copier;
mod courtesy;
mod data;
mod doubts;
mod pace;
mod registration;
mod scrub;

use std::rc::Rc;

use link::{Connection, Request, Response, Service};
use rt::sync::RangeLock;
use wire::data::Read;
use wire::hello::Role;
use wire::op::Group;
use wire::{ErrorBody, Op, Status};

use crate::engine::{Engine, Refusal};

pub(crate) use compare::Comparer;
pub(crate) use copier::Copier;
pub(crate) use courtesy::Courtesy;
pub(crate) use registration::Registration;
pub use registration::{Joined, Registrar, RegistrarOptions, RegistrationError};
pub(crate) use scrub::Scrub;

/// Answers requests.
#[derive(Debug)]
pub struct Server {
    engine: Rc<Engine>,
    registration: Registration,
    boot_id: [u8; 16],
    copier: Rc<Copier>,
    scrub: Rc<Scrub>,
    comparer: Comparer,
    courtesy: Rc<Courtesy>,
    /// Deletions come after the creations that arrived before them, which may be slow: a chunk that is made after it was deleted
    /// is nobody's (C9).
    orders: RangeLock,
}

impl Server {
    /// A server that refuses data until it is registered (C2).
    #[must_use]
    pub fn new(engine: Rc<Engine>, boot_id: [u8; 16]) -> Rc<Self> {
        let courtesy = Courtesy::new();
        let copier = Copier::new(Rc::clone(&engine), Rc::clone(&courtesy));
        let scrub = Scrub::new(Rc::clone(&engine));
        let comparer = Comparer::new(Rc::clone(&engine), Rc::clone(&copier));
        let (registration, orders) = (Registration::new(), RangeLock::new());
        Rc::new(Self { engine, registration, boot_id, copier, scrub, comparer, courtesy, orders })
    }

    /// The engine behind it.
    #[must_use]
    pub fn engine(&self) -> &Rc<Engine> {
        &self.engine
    }

    /// Completes once the cluster has taken the server in and data may be served.
    pub async fn serving(&self) {
        self.registration.serving().await;
    }

    /// Fills the joiners that are here.
    pub(crate) fn copier(&self) -> &Rc<Copier> {
        &self.copier
    }

    /// Verifies the chunks that are here.
    pub(crate) fn scrub(&self) -> &Rc<Scrub> {
        &self.scrub
    }

    /// How many chunks are verified per minute, until the metadata server says otherwise; 0 = none.
    pub fn verify_per_minute(&self, chunks: u32) {
        self.scrub.set_rate(chunks);
    }

    /// Limits what joiners here read from members, in bytes per second; `None` = no limit.
    pub fn limit_copying(&self, bytes_per_second: Option<u64>) {
        self.copier.pace.limit(bytes_per_second);
    }

    /// Limits the same of replicas that their chunks do not need, and that only lie better here.
    pub fn limit_moving(&self, bytes_per_second: Option<u64>) {
        self.copier.spare_pace.limit(bytes_per_second);
    }

    pub(crate) fn registration(&self) -> &Registration {
        &self.registration
    }

    async fn answer(&self, connection: &Connection, request: Request) -> Result<Response, Failure> {
        let op = request.known_op().ok_or(Failure::status(Status::Unsupported))?;
        match op {
            Op::CreateChunks
            | Op::DeleteChunks
            | Op::Fence
            | Op::InstallVersions
            | Op::CatchUp
            | Op::RepairBlocks
            | Op::CompareChunks => {
                if connection.peer().role != Role::Mds {
                    return Err(Failure::status(Status::Forbidden));
                }
                Box::pin(self.order(op, &request)).await
            }
            _ => {
                // A server that has not renewed for half its term may be fenced without knowing (C2).
                if !self.registration.may_serve() {
                    return Err(Failure::status(Status::RegistrationLapsed));
                }
                if op.group() == Group::Copy && connection.peer().role != Role::Cs {
                    return Err(Failure::status(Status::Forbidden));
                }
                // What other chunk servers and reconcilers need waits for clients, and nobody for the former.
                let _client = (connection.peer().role != Role::Cs).then(|| self.courtesy.client());
                let answer = self.data(op, request).await;
                // What was under way when the cluster said so is not answered either (C10).
                if self.registration.is_withdrawn() {
                    return Err(Failure::status(Status::RegistrationLapsed));
                }
                answer
            }
        }
    }
}

impl Service for Server {
    /// A read changes nothing, unless it accepts a block as it lies on the disk.
    fn may_be_dropped(&self, request: &Request) -> bool {
        matches!(request.known_op(), Some(Op::Read | Op::CopyRead))
            && Read::decode(&request.body).is_ok_and(|read| !read.unsettled)
    }

    async fn serve(self: Rc<Self>, connection: Connection, request: Request) -> Response {
        match self.answer(&connection, request).await {
            Ok(response) => response,
            Err(failure) => failure.into(),
        }
    }
}

/// A refusal on its way to the wire.
#[derive(Debug)]
pub(crate) struct Failure {
    status: Status,
    message: String,
    detail: u64,
}

impl Failure {
    fn status(status: Status) -> Self {
        Self { status, message: status.text().to_owned(), detail: 0 }
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Self {
        let error = ErrorBody { message: failure.message, detail: failure.detail, ..ErrorBody::default() };
        Self::failure(failure.status, &error)
    }
}

impl From<wire::BodyError> for Failure {
    fn from(error: wire::BodyError) -> Self {
        Self { status: error.status(), message: error.to_string(), detail: 0 }
    }
}

impl From<Refusal> for Failure {
    /// The one place where the engine's errors become statuses (DESIGN §6).
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        let (status, detail) = match refusal {
            Refusal::StaleEpoch { fence, .. } => (Status::StaleEpoch, fence),
            Refusal::StaleVersion { have, .. } => (Status::StaleVersion, have),
            Refusal::UnknownChunk(chunk) | Refusal::ReplicaLost(chunk) => (Status::UnknownChunk, chunk),
            Refusal::ForeignChunk(_) => (Status::Invalid, 0),
            Refusal::Answered { done, .. } => (Status::DedupRefused, done),
            Refusal::Damaged { block } => (Status::ChecksumMismatch, u64::from(block)),
            Refusal::Corrupt { block } => (Status::Corrupt, u64::from(block)),
            Refusal::Unsettled { block } => (Status::Unsettled, u64::from(block)),
            Refusal::NoSource(chunk) => (Status::UnknownChunk, chunk),
            Refusal::Joining(chunk) | Refusal::NotFilled(chunk) | Refusal::CannotOpen(chunk) => {
                (Status::Retry, chunk)
            }
            Refusal::NeedFlush => (Status::NeedFlush, 0),
            Refusal::NoSpace => (Status::NoSpace, 0),
            Refusal::DeviceFailed => (Status::DeviceFailed, 0),
            Refusal::Stopping => (Status::Stopping, 0),
            Refusal::Invalid(_) => (Status::Invalid, 0),
        };
        Self { status, message, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Action;

    #[test]
    fn a_replica_that_cannot_be_opened_now_is_asked_again_and_a_lost_one_is_left_out() {
        let action = |refusal: Refusal| Failure::from(refusal).status.action();
        assert_eq!(action(Refusal::CannotOpen(7)), Action::RetryAfter);
        assert_eq!(action(Refusal::ReplicaLost(7)), Action::ReportMember);
    }
}
