//! Sessions of clients (C1): opening, renewing, closing, listing.

use std::collections::BTreeMap;

use prost::Message;
use rt::time::Instant;
use wire::hello::Empty;
use wire::session::{
    ClientInfo, CloseSession, IoStats, ListClients, ListClientsReply, OpenSession, OpenSessionReply,
    RenewSession, RenewSessionReply, RevokedFile, SessionKey,
};
use wire::{MAX_BODY, Status};

use super::asked::{Asked, Holder, token};
use super::failure::Failure;
use super::rates::{Rates, add};
use super::reign::{Reign, unexpected};
use super::watch::Watch;
use crate::state::clients::Client;
use crate::state::command::{self, CommandOp, LeaseMode};
use crate::state::{ClientId, Epoch, FileId, Outcome, Refusal, Secret};

/// Clients in one listing.
const LISTED_MAX: usize = 1000;
/// Bytes of a listing, with room for what goes around it.
const LISTED_BYTES: usize = MAX_BODY as usize - (64 << 10);

/// What is known of a session besides the state.
#[derive(Clone, Debug, Default)]
struct Memory {
    address: String,
    rates: Rates,
}

/// The sessions of this reign.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(super) watch: Watch<ClientId>,
    /// Files that are kept for a client that does not hold them, by the session that has the time.
    pub(super) kept: Watch<FileId>,
    memory: BTreeMap<ClientId, Memory>,
    /// I/O of all clients since the reign began.
    total: IoStats,
}

impl Sessions {
    /// The session is over.
    pub(super) fn forget(&mut self, client: ClientId) {
        self.watch.end(client);
        self.memory.remove(&client);
    }

    /// Forgets all but these.
    pub(super) fn retain(&mut self, is_live: impl Fn(ClientId) -> bool) {
        let gone: Vec<ClientId> = self.memory.keys().copied().filter(|client| !is_live(*client)).collect();
        gone.into_iter().for_each(|client| self.forget(client));
    }

    /// I/O of all clients: since the reign began, and per second.
    pub(super) fn totals(&self, now: Instant) -> (IoStats, IoStats) {
        let mut rate = IoStats::default();
        self.memory.values().for_each(|memory| add(&mut rate, &memory.rates.per_second(now)));
        (self.total, rate)
    }

    /// Notes a client's counters.
    fn report(&mut self, client: ClientId, address: String, now: Instant, io: IoStats) {
        let memory = self.memory.entry(client).or_default();
        let added = memory.rates.note(now, io);
        memory.address = address;
        add(&mut self.total, &added);
    }

    fn info(&self, client: &Client, now: Instant, now_ms: u64) -> ClientInfo {
        let memory = self.memory.get(&client.id).cloned().unwrap_or_default();
        let held = |mode| client.leases().filter(|(_, held)| *held == mode).count() as u32;
        ClientInfo {
            client_id: client.id.0.into(),
            host_name: client.host.clone(),
            address: memory.address,
            kind: i32::try_from(client.kind).unwrap_or(0),
            leases_read: held(LeaseMode::Shared),
            leases_write: held(LeaseMode::Exclusive),
            io: memory.rates.last(),
            io_rate: memory.rates.per_second(now),
            age_ms: now_ms.saturating_sub(client.opened_ms),
            software: client.build.clone(),
        }
    }
}

impl Reign {
    pub(super) async fn open_session(
        &self,
        call: OpenSession,
        asked: &Asked,
    ) -> Result<OpenSessionReply, Failure> {
        wire::body::id16("client_uuid", &call.client_uuid)?;
        let op = CommandOp::OpenSession(command::OpenSession {
            client_uuid: call.client_uuid,
            host: shortened(call.host_name),
            stored_token: call.resume.and_then(|key| token(&key.token)).unwrap_or(Secret::NONE),
            new_token: secret(),
            build: shortened(call.software),
            kind: u32::try_from(call.kind).unwrap_or(0),
        });
        let opened = match self.change(asked, asked.key(None), op).await?? {
            Outcome::Session(opened) => opened,
            other => return Err(unexpected(&other)),
        };
        let (client, term) = (ClientId(opened.client), self.lease_term());
        // An answer that is given once more may be that of a session which is over.
        let is_present = |client: &Client| client.is_live() && client.session == opened.session;
        if self.read(|state| state.client(client).is_some_and(is_present)) {
            let address = asked.connection.peer().address.to_string();
            let mut sessions = self.sessions.borrow_mut();
            sessions.memory.insert(client, Memory { address, ..Memory::default() });
            // What is counted here is never shorter than what the answer says, also if the configured term has changed.
            sessions.watch.begin(client, opened.session, rt::time::now() + term);
            self.terms_changed.notify_all();
        }
        Ok(OpenSessionReply {
            session: SessionKey { client_id: opened.client.into(), token: opened.token.to_bytes().to_vec() },
            term_ms: millis(term),
        })
    }

    /// Renews a session (C1). The term counts for the client from when it sent this; here from now on, which is later.
    pub(super) async fn renew_session(
        &self,
        call: RenewSession,
        asked: &Asked,
    ) -> Result<RenewSessionReply, Failure> {
        let holder = Holder::of(&call.session)?;
        self.confirm(asked).await?;
        // Nothing is awaited from here on: what is found true stays so until the term is longer.
        let (session, revoked) = self.read(|state| {
            let client = state.authenticate(holder.client, holder.token)?;
            let client = state.client(client).ok_or(Refusal::NoSession(holder.client))?;
            Ok::<_, Refusal>((client.session, client.lost().map(revoked_file).collect()))
        })?;
        let (client, now, term) = (ClientId(holder.client), rt::time::now(), self.lease_term());
        let mut sessions = self.sessions.borrow_mut();
        if !sessions.watch.knows(client, session) {
            // Opened just now: the effect that begins its term is still on its way.
            sessions.watch.begin(client, session, now + term);
            self.terms_changed.notify_all();
        }
        if !sessions.watch.renew(client, session, now + term) {
            return Err(Failure::new(
                Status::SessionExpired,
                "the session was not renewed in time and is over",
            ));
        }
        // `answered_below` needs no attention: the answers kept for a session are bounded by their number.
        let address = asked.connection.peer().address.to_string();
        sessions.report(client, address, now, call.io);
        Ok(RenewSessionReply { term_ms: millis(term), revoked })
    }

    /// Ends a session. One that is over already is as good as ended.
    pub(super) async fn close_session(&self, call: CloseSession, asked: &Asked) -> Result<Empty, Failure> {
        let Holder { client, token } = Holder::of(&call.session)?;
        let op = CommandOp::CloseSession(command::CloseSession { client, token });
        match self.change(asked, None, op).await? {
            Ok(_) | Err(Refusal::NoSession(_)) => Ok(Empty {}),
            Err(refusal) => Err(refusal.into()),
        }
    }

    pub(super) async fn list_clients(
        &self,
        call: ListClients,
        asked: &Asked,
    ) -> Result<ListClientsReply, Failure> {
        self.confirm(asked).await?;
        let (clients, more) = self.clients_after(call.after, LISTED_BYTES);
        Ok(ListClientsReply { clients, more })
    }

    /// Clients with a session and a higher id than `after`, as many as fit; and whether there are more.
    pub(super) fn clients_after(&self, after: u64, bytes_max: usize) -> (Vec<ClientInfo>, bool) {
        let (now, now_ms) = (rt::time::now(), rt::time::wall_clock_ms());
        let sessions = self.sessions.borrow();
        self.read(|state| {
            let live = state.clients().filter(|client| client.is_live() && u64::from(client.id.0) > after);
            let (mut listed, mut bytes) = (Vec::new(), 0);
            for client in live {
                let info = sessions.info(client, now, now_ms);
                bytes += info.encoded_len() + 8;
                if listed.len() == LISTED_MAX || bytes > bytes_max {
                    return (listed, true);
                }
                listed.push(info);
            }
            (listed, false)
        })
    }
}

fn revoked_file((file, epoch): (FileId, Epoch)) -> RevokedFile {
    RevokedFile { file_id: file.raw(), epoch: epoch.raw() }
}

/// A token that cannot be guessed.
fn secret() -> Secret {
    loop {
        let mut bytes = [0; 16];
        rt::random::fill_secret(&mut bytes);
        if let Some(drawn) = token(&bytes) {
            return drawn;
        }
    }
}

/// A term as it travels.
pub(super) fn millis(term: std::time::Duration) -> u32 {
    u32::try_from(term.as_millis()).unwrap_or(u32::MAX)
}

/// Longest text about itself that a peer has the state keep, in bytes.
const TEXT_MAX: usize = 255;

/// A text of a peer, for people, no longer than it should be.
pub(super) fn shortened(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shortened("short".into()), "short");
        let long = "ä".repeat(200);
        assert_eq!(shortened(long), "ä".repeat(127));
    }

    #[test]
    fn what_is_known_of_a_session_goes_with_it() {
        let mut sessions = Sessions::default();
        let now = Instant::from_nanos(5);
        for client in [2049, 2050] {
            sessions.report(ClientId(client), "a".into(), now, IoStats::default());
        }
        sessions.retain(|live| live != ClientId(2049));
        assert!(sessions.memory.keys().eq([&ClientId(2050)]), "the end of the other was not heard of");
        sessions.forget(ClientId(2050));
        assert!(sessions.memory.is_empty());
    }
}
