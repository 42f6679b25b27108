//! The circumstances of a request: who asks, until when, and whether he may be asking again.

use std::time::Duration;

use link::{Connection, OWN_IDS, Request};
use rt::time::Instant;
use wire::Status;
use wire::session::SessionKey;

use super::failure::Failure;
use crate::state::Secret;
use crate::state::command::RequestId;

/// How long a request may take that does not say.
const USUAL_TIME: Duration = Duration::from_secs(30);
/// An answer is on its way at least this long before nobody waits for it any more, if there is as much time.
const MARGIN: Duration = Duration::from_millis(500);
/// Request ids below are those of a counter that began with its process, so without a session two programs may use the
/// same. Ids from here on are unique by themselves: drawn, or made of a clock.
const COUNTED_IDS: u64 = 1 << 32;

/// A client's session as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// The client's id.
    pub(crate) client: u32,
    /// The token of its session.
    pub(crate) token: Secret,
}

impl Holder {
    /// Reads a session's key.
    pub(crate) fn of(key: &SessionKey) -> Result<Self, Failure> {
        let read = || {
            let client = u32::try_from(key.client_id).ok().filter(|client| *client != 0)?;
            Some(Self { client, token: token(&key.token)? })
        };
        read().ok_or_else(|| Failure::new(Status::SessionExpired, "the request names no session: open one"))
    }
}

/// Reads a token; `None` if it is none of ours.
pub(crate) fn token(bytes: &[u8]) -> Option<Secret> {
    Secret::from_bytes(bytes).filter(|token| !token.is_none())
}

/// A request's circumstances.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The id its sender gave it.
    id: u64,
    /// When its sender stops waiting.
    pub(crate) deadline: Instant,
    /// The connection it came over.
    pub(crate) connection: Connection,
}

impl Asked {
    pub(crate) fn new(connection: Connection, request: &Request) -> Self {
        let deadline = request.deadline.unwrap_or_else(|| rt::time::now() + USUAL_TIME);
        Self { id: request.id, deadline, connection }
    }

    /// Until when something may be waited for, so that the answer still arrives in time.
    pub(crate) fn answer_by(&self) -> Instant {
        let left = self.deadline.since(rt::time::now());
        self.deadline - MARGIN.min(left / 4)
    }

    /// Names the request for idempotence (C11), if its sender gave it an id that stays the same in every attempt.
    pub(crate) fn key(&self, session: Option<&Holder>) -> Option<RequestId> {
        request_key(self.id, session, &self.connection.peer().identity.node)
    }
}

fn request_key(id: u64, session: Option<&Holder>, node: &str) -> Option<RequestId> {
    if id >= OWN_IDS {
        return None;
    }
    let client_id = match session {
        // Each session counts its own requests.
        Some(holder) => hash(&[&holder.client.to_le_bytes(), &holder.token.to_bytes()]),
        None if id < COUNTED_IDS => return None,
        // Each request is a requester of its own: ids that are drawn come in no order.
        None => hash(&[node.as_bytes(), &id.to_le_bytes()]),
    };
    Some(RequestId { client_id, request_id: id })
}

/// FNV-1a over all parts, with its bits mixed at the end. The same on every server and in every version.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for byte in parts.iter().copied().flatten() {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    state ^= state >> 33;
    state = state.wrapping_mul(0xff51_afd7_ed55_8ccd);
    state ^ state >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDER: Holder = Holder { client: 2049, token: Secret { high: 1, low: 77 } };

    #[test]
    fn a_request_is_known_again_by_its_session_and_id() {
        let key = |id, session: Option<&Holder>| request_key(id, session, "node");
        assert_eq!(key(OWN_IDS, Some(&HOLDER)), None, "chosen by the connection");
        assert_eq!(key(1, Some(&HOLDER)), key(1, Some(&HOLDER)));
        let next = Holder { token: Secret { high: 1, low: 78 }, ..HOLDER };
        assert_ne!(key(1, Some(&HOLDER)).unwrap().client_id, key(1, Some(&next)).unwrap().client_id);
        assert_eq!(key(1, Some(&HOLDER)).unwrap().client_id, key(2, Some(&HOLDER)).unwrap().client_id);
    }

    #[test]
    fn without_a_session_only_ids_that_are_unique_count() {
        let key = |id| request_key(id, None, "node");
        assert_eq!(key(7), None);
        assert_eq!(key(COUNTED_IDS - 1), None);
        assert!(key(COUNTED_IDS).is_some());
        assert_ne!(key(COUNTED_IDS).unwrap().client_id, key(COUNTED_IDS + 1).unwrap().client_id);
        assert_ne!(key(COUNTED_IDS), request_key(COUNTED_IDS, None, "other"));
    }

    #[test]
    fn sessions_are_read_with_care() {
        let key = |client_id, token: &[u8]| Holder::of(&SessionKey { client_id, token: token.to_vec() });
        assert_eq!(key(2049, &HOLDER.token.to_bytes()).ok(), Some(HOLDER));
        for bad in [key(0, &[1; 16]), key(1 << 32, &[1; 16]), key(5, &[1; 15]), key(5, &[0; 16]), key(5, &[])]
        {
            assert_eq!(bad.unwrap_err().status(), Status::SessionExpired);
        }
    }
}
