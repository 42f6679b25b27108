//! Sessions of clients (C1).

use super::{Answer, Step, check_text};
use crate::state::State;
use crate::state::clients::Client;
use crate::state::command::{CloseSession, ExpireSession, OpenSession};
use crate::state::effect::Effect;
use crate::state::event::EventCode;
use crate::state::ids::{ClientId, FileId, Uuid};
use crate::state::lease::End;
use crate::state::outcome::{Outcome, SessionOpened};
use crate::state::refusal::{Refusal, SessionTaken};
use std::collections::BTreeMap;

impl State {
    pub(super) fn open_session(&mut self, step: &mut Step, op: &OpenSession) -> Answer {
        let uuid = Uuid::from_bytes(&op.client_uuid)
            .ok_or_else(|| Refusal::malformed("the client UUID has 16 bytes"))?;
        check_text("the name of a client's host or software", &op.host)?;
        check_text("the name of a client's host or software", &op.build)?;
        if op.new_token.is_none() {
            return Err(Refusal::malformed("a session needs a token"));
        }
        let known = self
            .clients
            .by_uuid(uuid)
            .map(|client| (client.id, client.is_live(), client.accepts(op.stored_token)));
        let taken_over = match known {
            Some((id, _, true)) => self.take_over(step, id, op),
            Some((id, true, false)) => return Err(self.session_taken(id)),
            Some((id, false, false)) => {
                // Somebody else now: what is kept for the old id is not for it.
                self.clients.remove(id);
                self.add_client(step, uuid, op);
                0
            }
            None => {
                self.add_client(step, uuid, op);
                0
            }
        };
        let client = self.clients.by_uuid(uuid).ok_or_else(|| Refusal::malformed("no such client"))?;
        let (id, session) = (client.id, client.session);
        step.effect(Effect::WatchClient { client: id, session });
        Ok(Outcome::Session(SessionOpened { client: id.0, token: op.new_token, session, taken_over }))
    }

    /// The same client, started anew: its leases end here and now, and wait for it (C1).
    fn take_over(&mut self, step: &mut Step, id: ClientId, op: &OpenSession) -> u64 {
        let held = self.held_by(id);
        for file in &held {
            self.end_lease(step, *file, id, End::TakenOver);
        }
        let session = self.session_number(step);
        if let Some(client) = self.clients.get_mut(id) {
            client.prior_token = Some(op.stored_token);
            client.token = op.new_token;
            client.session = session;
            client.opened_ms = step.now_ms;
            client.expired_index = None;
            client.lost.clear();
            client.host.clone_from(&op.host);
            client.build.clone_from(&op.build);
            client.kind = op.kind;
        }
        if !held.is_empty() {
            step.event(EventCode::SessionTakenOver, &[&id.0, &op.host, &held.len()]);
        }
        held.len() as u64
    }

    fn add_client(&mut self, step: &Step, uuid: Uuid, op: &OpenSession) {
        let id = self.clients.mint();
        self.clients.insert(Client {
            id,
            uuid,
            host: op.host.clone(),
            build: op.build.clone(),
            kind: op.kind,
            token: op.new_token,
            prior_token: None,
            session: self.session_number(step),
            opened_ms: step.now_ms,
            expired_index: None,
            leases: BTreeMap::new(),
            lost: BTreeMap::new(),
        });
    }

    fn session_taken(&self, id: ClientId) -> Refusal {
        let (uuid, host) = self
            .clients
            .get(id)
            .map(|client| (client.uuid.to_string(), client.host.clone()))
            .unwrap_or_default();
        Refusal::SessionTaken(SessionTaken { uuid, host, client: id.0 })
    }

    fn held_by(&self, id: ClientId) -> Vec<FileId> {
        self.clients.get(id).map(|client| client.leases.keys().copied().collect()).unwrap_or_default()
    }

    pub(super) fn close_session(&mut self, step: &mut Step, op: &CloseSession) -> Answer {
        let id = self.clients.authenticate(op.client, op.token)?;
        self.end_session(step, id, End::Dirty);
        Ok(Outcome::Done(()))
    }

    /// Ends a session for good: closed, or revoked.
    pub(super) fn end_session(&mut self, step: &mut Step, id: ClientId, how: End) {
        for file in self.held_by(id) {
            self.end_lease(step, file, id, how);
        }
        self.clients.remove(id);
        self.sweep_orphans(step);
        step.effect(Effect::UnwatchClient { client: id });
    }

    pub(super) fn expire_session(&mut self, step: &mut Step, op: &ExpireSession) -> Answer {
        let id = ClientId(op.client);
        let client = self.clients.get(id).filter(|client| client.is_live() && client.session == op.session);
        let host = client.ok_or(Refusal::NoSession(op.client))?.host.clone();
        let held = self.held_by(id);
        for file in &held {
            self.end_lease(step, *file, id, End::Expired);
        }
        self.clients.expire(id, step.index);
        self.sweep_orphans(step);
        if !held.is_empty() {
            step.event(EventCode::SessionExpired, &[&id.0, &host]);
        }
        step.effect(Effect::UnwatchClient { client: id });
        Ok(Outcome::Acknowledged(held.len() as u64))
    }
}
