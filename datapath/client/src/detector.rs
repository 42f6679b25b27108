//! When a chunk server counts as lost (C3): because there has been no connection to it for a while, or because it is silent although
//! there is one. One that answers pings is slow, and is waited for.

use std::cell::Cell;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use rt::time::Instant;

/// Requests on one connection from which on a ping might have to wait for their answers, and so would say nothing...
const CROWD_REQUESTS: u64 = 192;
/// ...and bytes of requests and answers.
const CROWD_BYTES: u64 = 24 << 20;

/// How long a chunk server may be away or silent before it is reported, and its replicas are done without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureLimits {
    /// Without a connection, from its loss or from the first wish to connect.
    pub gone: Duration,
    /// Before a request that is not answered makes somebody ask whether the server is there at all.
    pub unanswered: Duration,
    /// For the answer to that.
    pub unheard: Duration,
}

impl FailureLimits {
    /// How long a silent server is waited for unless told otherwise, in milliseconds.
    pub const SILENCE_MS: u64 = 3500;
    /// What can be asked for instead: less would be taken for silence where a busy host pauses for a moment; with more a request
    /// is given up, and the connection closed, before anybody asks.
    pub const SILENCE_MS_RANGE: RangeInclusive<u64> = 500..=15_000;

    /// Limits for waiting so many milliseconds for a server that is silent; the others in proportion.
    #[must_use]
    pub fn for_silence(ms: u64) -> Self {
        let part = |of_default: u64| Duration::from_micros(ms * 1000 * of_default / Self::SILENCE_MS);
        Self { gone: part(600), unanswered: part(2000), unheard: part(1500) }
    }
}

impl Default for FailureLimits {
    fn default() -> Self {
        Self::for_silence(Self::SILENCE_MS)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contact {
    /// There is a connection, or nobody has wanted one yet.
    Fine,
    /// There has been none since.
    Away(Instant),
    /// There was one, and nobody answered on it.
    Silent,
}

/// What is held against one chunk server.
#[derive(Debug)]
pub(crate) struct Detector {
    gone: Duration,
    contact: Cell<Contact>,
}

impl Detector {
    pub(crate) fn new(limits: &FailureLimits) -> Self {
        Self { gone: limits.gone, contact: Cell::new(Contact::Fine) }
    }

    /// There is no connection: it was lost, or is wanted for the first time.
    pub(crate) fn miss(&self, now: Instant) {
        if self.contact.get() == Contact::Fine {
            self.contact.set(Contact::Away(now));
        }
    }

    /// It did not answer on its connection.
    pub(crate) fn silence(&self) {
        self.contact.set(Contact::Silent);
    }

    /// There is a connection.
    pub(crate) fn meet(&self) {
        self.contact.set(Contact::Fine);
    }

    /// From when on it counts as lost, as things are.
    pub(crate) fn lost_from(&self) -> Option<Instant> {
        match self.contact.get() {
            Contact::Fine => None,
            Contact::Away(since) => Some(since + self.gone),
            Contact::Silent => Some(Instant::from_nanos(0)),
        }
    }
}

/// What is on its way over one connection.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    requests: Cell<u64>,
    bytes: Cell<u64>,
    answers: Cell<u64>,
}

impl Traffic {
    /// Counts a request in, until this is dropped.
    pub(crate) fn enter(self: &Rc<Self>, bytes: u64) -> OnItsWay {
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        OnItsWay { traffic: Rc::clone(self), bytes }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self) {
        self.answers.set(self.answers.get() + 1);
    }

    /// Answers so far.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.get()
    }

    /// Whether a ping might wait until others are answered.
    pub(crate) fn is_crowded(&self) -> bool {
        self.requests.get() >= CROWD_REQUESTS || self.bytes.get() >= CROWD_BYTES
    }
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(crate) struct OnItsWay {
    traffic: Rc<Traffic>,
    bytes: u64,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let Traffic { requests, bytes, .. } = &*self.traffic;
        requests.set(requests.get() - 1);
        bytes.set(bytes.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn limits_are_in_proportion() {
        let ms = |gone, unanswered, unheard| FailureLimits {
            gone: Duration::from_millis(gone),
            unanswered: Duration::from_millis(unanswered),
            unheard: Duration::from_millis(unheard),
        };
        assert_eq!(FailureLimits::default(), ms(600, 2000, 1500));
        assert_eq!(FailureLimits::for_silence(7000), ms(1200, 4000, 3000));
        for silence in FailureLimits::SILENCE_MS_RANGE.step_by(997) {
            let limits = FailureLimits::for_silence(silence);
            let sum = limits.unanswered + limits.unheard;
            assert!(sum <= Duration::from_millis(silence) && sum > Duration::from_millis(silence - 1));
        }
    }

    #[test]
    fn a_server_is_gone_when_it_has_been_away_for_a_while() {
        let detector = Detector::new(&FailureLimits::default());
        assert_eq!(detector.lost_from(), None, "nobody has wanted it yet");
        detector.miss(at(100));
        detector.miss(at(500));
        assert_eq!(detector.lost_from(), Some(at(700)), "from the first wish on");
        detector.meet();
        assert_eq!(detector.lost_from(), None);
        detector.miss(at(1000));
        assert_eq!(detector.lost_from(), Some(at(1600)), "from the loss on");
    }

    #[test]
    fn a_silent_server_is_lost_until_there_is_a_new_connection() {
        let detector = Detector::new(&FailureLimits::default());
        detector.meet();
        detector.silence();
        detector.miss(at(100));
        assert!(detector.lost_from().is_some_and(|from| from <= at(0)));
        detector.meet();
        assert_eq!(detector.lost_from(), None);
    }

    #[test]
    fn a_ping_that_could_not_leave_would_say_nothing() {
        let traffic = Rc::new(Traffic::default());
        let small: Vec<_> = (1..CROWD_REQUESTS).map(|_| traffic.enter(4096)).collect();
        assert!(!traffic.is_crowded());
        let one_more = traffic.enter(0);
        assert!(traffic.is_crowded());
        drop((small, one_more));
        assert!(!traffic.is_crowded());
        let _large = traffic.enter(CROWD_BYTES);
        assert!(traffic.is_crowded());
    }
}
