//! Answers of recent requests, so that a retry changes nothing and gets the same answer (C11, C12).

use super::outcome::Outcome;
use super::refusal::{Refusal, RequestWindow};
use std::collections::BTreeMap;

/// How many answers are kept for each requester: as many requests as it may have under way, and those it may have done
/// while one of them was held up.
pub const ANSWERS_MAX: usize = 1024;
/// For how many requesters answers are kept; beyond, the one that was quiet for longest is forgotten.
pub const REQUESTERS_MAX: usize = 4096;

/// An answer of a command.
pub type Answer = Result<Outcome, Refusal>;

/// An answer that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The kind of the command.
    pub kind: u32,
    /// What it answered.
    pub answer: Answer,
}

/// What is kept for one requester.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requester {
    /// The log index of its last request.
    pub last_index: u64,
    /// Requests below have been answered and forgotten.
    pub floor: u64,
    /// Answers by request.
    pub answers: BTreeMap<u64, Kept>,
}

/// The answers kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    requesters: BTreeMap<u64, Requester>,
}

impl Window {
    /// The answer to give without carrying anything out; `None` if the request is new.
    ///
    /// A request below those kept is refused: whether it was carried out is no longer known.
    pub(super) fn recall(&self, client: u64, request: u64, kind: u32) -> Option<Answer> {
        let requester = self.requesters.get(&client)?;
        let about = RequestWindow { client, request, oldest: requester.floor };
        match requester.answers.get(&request) {
            Some(kept) if kept.kind == kind => Some(kept.answer.clone()),
            Some(_) => Some(Err(Refusal::RequestReused(about))),
            None if request < requester.floor => Some(Err(Refusal::RequestTooOld(about))),
            None => None,
        }
    }

    /// Keeps the answer of a request that [`Window::recall`] did not know.
    pub(super) fn keep(&mut self, index: u64, client: u64, request: u64, kind: u32, answer: &Answer) {
        if !self.requesters.contains_key(&client) && self.requesters.len() == REQUESTERS_MAX {
            let quiet = self.requesters.iter().min_by_key(|(_, requester)| requester.last_index);
            if let Some(quiet) = quiet.map(|(client, _)| *client) {
                self.requesters.remove(&quiet);
            }
        }
        let requester = self.requesters.entry(client).or_default();
        requester.last_index = index;
        requester.answers.insert(request, Kept { kind, answer: answer.clone() });
        if requester.answers.len() > ANSWERS_MAX
            && let Some((oldest, _)) = requester.answers.pop_first()
        {
            requester.floor = oldest.saturating_add(1);
        }
    }

    /// All requesters.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Requester)> {
        self.requesters.iter().map(|(client, requester)| (*client, requester))
    }

    /// Puts a requester back from a snapshot.
    pub(super) fn restore(&mut self, client: u64, requester: Requester) {
        self.requesters.insert(client, requester);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(n: u64) -> Answer {
        Ok(Outcome::Created(n))
    }

    #[test]
    fn c11_a_retry_gets_the_same_answer_until_it_is_too_old() {
        let mut window = Window::default();
        let last = ANSWERS_MAX as u64 + 3;
        for request in 1..=last {
            assert_eq!(window.recall(7, request, 20), None);
            window.keep(request, 7, request, 20, &answer(request));
        }
        let recall = |request| window.recall(7, request, 20);
        assert!(matches!(recall(3), Some(Err(Refusal::RequestTooOld(w))) if w.oldest == 4));
        assert_eq!(recall(4), Some(answer(4)));
        assert_eq!(recall(last), Some(answer(last)));
        assert_eq!(recall(last + 1), None);
        assert_eq!(window.recall(8, 1, 20), None, "another requester");
        assert!(matches!(window.recall(7, last, 21), Some(Err(Refusal::RequestReused(_)))));
    }

    #[test]
    fn requests_may_arrive_out_of_order() {
        let mut window = Window::default();
        window.keep(1, 7, 10, 20, &answer(10));
        assert_eq!(window.recall(7, 9, 20), None);
        window.keep(2, 7, 9, 20, &answer(9));
        assert_eq!(window.recall(7, 10, 20), Some(answer(10)));
    }

    #[test]
    fn the_quietest_requester_is_forgotten() {
        let mut window = Window::default();
        for client in 0..REQUESTERS_MAX as u64 {
            window.keep(client + 1, client, 1, 20, &answer(1));
        }
        window.keep(90_000, 0, 2, 20, &answer(2));
        window.keep(90_001, 99_999, 1, 20, &answer(1));
        assert_eq!(window.iter().count(), REQUESTERS_MAX);
        assert_eq!(window.recall(1, 1, 20), None);
        assert_eq!(window.recall(0, 1, 20), Some(answer(1)));
    }
}
