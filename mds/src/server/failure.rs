//! Refusals on their way to the wire: the one place where they become statuses (DESIGN §6).

use link::Response;
use wire::{BodyError, ErrorBody, Status};

use crate::raft::{ProposeError, ReadError};
use crate::state::Refusal;

/// When to come back to a server that waits for something it expects soon, in milliseconds.
const SOON_MS: u32 = 200;
/// When to come back for what takes a while: space, the end of somebody's term, in milliseconds.
const LATER_MS: u32 = 1000;

/// Why a request is not carried out.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    status: Status,
    error: ErrorBody,
}

impl Failure {
    /// A failure with a text for the operator.
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, error: ErrorBody { message: message.into(), ..ErrorBody::default() } }
    }

    /// Come back soon: something is under way that has not ended in the time of the request.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(Status::Retry, message).after_ms(SOON_MS)
    }

    /// The time of the request is over; whether it was carried out is not known.
    pub(crate) fn timeout() -> Self {
        Self::new(Status::Timeout, "the metadata log did not take the change in time; it may still do so")
    }

    /// The request names a session or registration that is over.
    pub(crate) fn not_registered() -> Self {
        Self::new(Status::NotRegistered, "this registration has lapsed or was replaced; register again")
    }

    /// Sets when to come back.
    pub(crate) fn after_ms(mut self, retry_after_ms: u32) -> Self {
        self.error.retry_after_ms = retry_after_ms;
        self
    }

    /// Sets the number the status defines.
    pub(crate) fn detail(mut self, detail: u64) -> Self {
        self.error.detail = detail;
        self
    }

    /// Sets the text the status defines.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.error.hint = hint.into();
        self
    }

    /// The status.
    #[cfg(test)]
    pub(crate) fn status(&self) -> Status {
        self.status
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Self {
        let mut error = failure.error;
        if error.message.is_empty() {
            error.message = failure.status.text().to_owned();
        }
        Self::failure(failure.status, &error)
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        let text = error.to_string();
        match error {
            ProposeError::NotLeader { leader } => {
                Self::new(Status::NotMaster, text).hint(leader.map_or_else(String::new, |peer| peer.address))
            }
            ProposeError::TooLarge { .. } => Self::new(Status::TooLarge, text),
            ProposeError::Full { .. } => Self::new(Status::NoSpace, text).after_ms(LATER_MS),
            ProposeError::Stopped | ProposeError::Fatal(_) => Self::new(Status::Stopping, text),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let text = error.to_string();
        match error {
            ReadError::NotLeader { leader } => {
                Self::new(Status::NotMaster, text).hint(leader.map_or_else(String::new, |peer| peer.address))
            }
            ReadError::NoQuorum => Self::busy(text),
            ReadError::Stopped | ReadError::Fatal(_) => Self::new(Status::Stopping, text),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let failure = Self::new(status_of(&refusal), refusal.to_string());
        match refusal {
            Refusal::WrongEpoch(wrong) => failure.detail(wrong.current),
            Refusal::InUse(held) => failure.detail(held.by.first().copied().unwrap_or(0).into()),
            Refusal::SessionTaken(_) | Refusal::CsTwice(_) | Refusal::NoPlace(_) => {
                failure.after_ms(LATER_MS)
            }
            _ => failure,
        }
    }
}

/// What a refusal tells its caller to do.
fn status_of(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::NotFound(_)
        | Refusal::UnknownFile(_)
        | Refusal::UnknownCs(_)
        | Refusal::UnknownNode(_)
        | Refusal::UnknownParameter(_) => Status::NotFound,
        Refusal::Exists(_) | Refusal::AlreadyInitialized(_) => Status::AlreadyExists,
        Refusal::NotADirectory(_) => Status::NotADirectory,
        Refusal::IsADirectory(_) => Status::IsADirectory,
        Refusal::NotEmpty(_) => Status::NotEmpty,
        Refusal::RequestTooOld(_) => Status::DedupRefused,
        Refusal::EncodingUnsupported(_) => Status::Unsupported,
        Refusal::FileTooLarge(_) => Status::FileTooLarge,
        Refusal::TooMany(_) => Status::TooLarge,
        Refusal::Gone(_) => Status::Gone,
        Refusal::NameTooLong(_) => Status::NameTooLong,
        Refusal::NotLinkable(_) => Status::Forbidden,
        Refusal::TooManyLinks(_) => Status::TooManyLinks,
        Refusal::NoXattr(_) => Status::NoData,
        Refusal::XattrsFull(_) => Status::XattrsFull,
        Refusal::ValueTooLarge(_) => Status::ValueTooLarge,
        Refusal::Malformed(_)
        | Refusal::RequestReused(_)
        | Refusal::BadPath(_)
        | Refusal::TopDirectory(())
        | Refusal::BelowItself(_)
        | Refusal::BadAttribute(_)
        | Refusal::ChunkSizeFixed(_)
        | Refusal::ShrinkNeedsLease(_)
        | Refusal::ShrinkNotAllowed(_)
        | Refusal::BeyondEnd(_)
        | Refusal::CsIdMismatch(_)
        | Refusal::BadValue(_)
        | Refusal::NotAFile(_)
        | Refusal::CsStays(_)
        | Refusal::BadName(_) => Status::Invalid,
        // The client opens its session anew, with the token it has.
        Refusal::NoSession(_) | Refusal::WrongToken(_) => Status::SessionExpired,
        // What is not the sender's any more it must open again (C1).
        Refusal::NotHolder(_) | Refusal::WrongEpoch(_) | Refusal::ResumeLost(_) => Status::StaleEpoch,
        Refusal::PasswordChanged(()) | Refusal::CsDropped(_) => Status::Forbidden,
        Refusal::EndUnsettled(_) => Status::Unsettled,
        Refusal::InUse(_) => Status::LeaseHeld,
        // Both end by themselves, when the term of the other one is over.
        Refusal::SessionTaken(_) | Refusal::CsTwice(_) => Status::Retry,
        Refusal::NoPlace(_) => Status::NoSpace,
        Refusal::WrongRegistration(_) => Status::NotRegistered,
        // Only the leader's own commands are refused like this.
        Refusal::NotInitialized(())
        | Refusal::NotCreating(_)
        | Refusal::NotDeleted(_)
        | Refusal::BadCsStep(_) => Status::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::outcome::Held;
    use crate::state::refusal::{NoPlace, SessionTaken, WrongEpoch};
    use wire::Action;

    #[test]
    fn refusals_say_what_to_do() {
        let taken = SessionTaken { uuid: "u".into(), host: "h".into(), client: 2049 };
        let short = NoPlace { needed: 3, found: 2, tier: 0, why: "2 hosts".into() };
        let table = [
            (Refusal::NoSession(2049), Status::SessionExpired, Action::Rejoin),
            (Refusal::WrongToken(2049), Status::SessionExpired, Action::Rejoin),
            (Refusal::ResumeLost(5), Status::StaleEpoch, Action::Reopen),
            (Refusal::SessionTaken(taken), Status::Retry, Action::RetryAfter),
            (Refusal::CsTwice(1025), Status::Retry, Action::RetryAfter),
            (Refusal::NoPlace(short), Status::NoSpace, Action::RetryAfter),
            (Refusal::WrongRegistration(1025), Status::NotRegistered, Action::Rejoin),
            (Refusal::Exists("/a".into()), Status::AlreadyExists, Action::GiveUp),
            (Refusal::Malformed("x".into()), Status::Invalid, Action::GiveUp),
        ];
        for (refusal, status, action) in table {
            let text = refusal.to_string();
            let failure = Failure::from(refusal);
            assert_eq!((failure.status, failure.status.action()), (status, action), "{text}");
            assert_eq!(failure.error.message, text);
            let comes_back = matches!(action, Action::RetryAfter);
            assert_eq!(failure.error.retry_after_ms > 0, comes_back, "{text}");
        }
    }

    #[test]
    fn numbers_go_along() {
        let held = Failure::from(Refusal::InUse(Held { file: 7, by: vec![2050], reserved: false }));
        assert_eq!((held.status, held.error.detail), (Status::LeaseHeld, 2050));
        let epoch = Failure::from(Refusal::WrongEpoch(WrongEpoch { file: 7, given: 1, current: 3 }));
        assert_eq!((epoch.status, epoch.error.detail), (Status::StaleEpoch, 3));
    }

    #[test]
    fn an_answer_is_never_without_words() {
        let response = Response::from(Failure::new(Status::Forbidden, ""));
        assert_eq!(ErrorBody::lossy(&response.body).message, Status::Forbidden.text());
    }
}
