//! Clients and their sessions (C1).
//!
//! A client is known by the UUID in its state directory; each session has a token. Whoever presents the stored token
//! is the same client started anew and takes its own leases over at once; whoever comes with the UUID alone waits
//! until the session is over, and is then somebody else: it gets a new id, so nothing that is kept for the old one
//! falls to it.
//!
//! The token of a new session is answered once, and the answer may be lost. Until a command has used it, the token
//! before it still opens a session; it opens nothing else.

use super::command::LeaseMode;
use super::ids::{ClientId, Epoch, FIRST_CLIENT_ID, FileId, Secret, Uuid};
use super::refusal::Refusal;
use std::collections::BTreeMap;

/// How many clients are remembered whose session expired, so that they can resume.
pub const EXPIRED_MAX: usize = 1024;

/// Revoked leases of which a client is told, at most; it learns of others when it uses them.
pub const LOST_MAX: usize = 1024;

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its id.
    pub id: ClientId,
    /// The UUID of its state directory.
    pub uuid: Uuid,
    /// Its host.
    pub host: String,
    /// The version of its software.
    pub build: String,
    /// What it is, as the number of the wire protocol.
    pub kind: u32,
    /// The token of its session.
    pub(super) token: Secret,
    /// The token before, while the present one may not have arrived.
    pub(super) prior_token: Option<Secret>,
    /// The number of its session, which grows with each.
    pub session: u64,
    /// When it was opened, in milliseconds since 1970.
    pub opened_ms: u64,
    /// The log index at which the session expired; `None` while it is live.
    pub expired_index: Option<u64>,
    /// What it holds. The leases of the files say the same.
    pub(super) leases: BTreeMap<FileId, LeaseMode>,
    /// Leases that were revoked, with their epochs, until it shows that it knows.
    pub(super) lost: BTreeMap<FileId, Epoch>,
}

impl Client {
    /// Whether its session is live.
    pub fn is_live(&self) -> bool {
        self.expired_index.is_none()
    }

    /// What it holds.
    pub fn leases(&self) -> impl Iterator<Item = (FileId, LeaseMode)> {
        self.leases.iter().map(|(file, mode)| (*file, *mode))
    }

    /// Leases that were revoked, until it gives them back or has the file anew.
    pub fn lost(&self) -> impl Iterator<Item = (FileId, Epoch)> {
        self.lost.iter().map(|(file, epoch)| (*file, *epoch))
    }

    /// Notes a lease that was revoked.
    pub(super) fn lose(&mut self, file: FileId, epoch: Epoch) {
        if self.lost.len() < LOST_MAX || self.lost.contains_key(&file) {
            self.lost.insert(file, epoch);
        }
    }

    /// Whether `stored` is its token, or the one before that is still good for opening a session.
    pub(super) fn accepts(&self, stored: Secret) -> bool {
        !stored.is_none() && (stored == self.token || self.prior_token == Some(stored))
    }
}

/// All clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    by_id: BTreeMap<ClientId, Client>,
    by_uuid: BTreeMap<Uuid, ClientId>,
    next_id: u32,
}

impl Default for Clients {
    fn default() -> Self {
        Self { by_id: BTreeMap::new(), by_uuid: BTreeMap::new(), next_id: FIRST_CLIENT_ID }
    }
}

impl Clients {
    /// A client by id.
    pub fn get(&self, id: ClientId) -> Option<&Client> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.by_id.get_mut(&id)
    }

    /// A client by the UUID of its directory.
    pub fn by_uuid(&self, uuid: Uuid) -> Option<&Client> {
        self.by_uuid.get(&uuid).and_then(|id| self.by_id.get(id))
    }

    /// All clients, expired ones too.
    pub fn iter(&self) -> impl Iterator<Item = &Client> {
        self.by_id.values()
    }

    /// Whether this client has a live session.
    pub fn is_live(&self, id: ClientId) -> bool {
        self.by_id.get(&id).is_some_and(Client::is_live)
    }

    /// The id the next new client gets.
    pub(super) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Skips ids that may have been handed out and forgotten (C12).
    pub(super) fn skip_ids(&mut self, next_id: u32) {
        self.next_id = self.next_id.max(next_id);
    }

    /// Checks that a command comes from the present process of a client with a live session.
    ///
    /// # Errors
    /// [`Refusal::NoSession`] or [`Refusal::WrongToken`].
    pub(super) fn authenticate(&self, id: u32, token: Secret) -> Result<ClientId, Refusal> {
        let client = self.by_id.get(&ClientId(id)).filter(|client| client.is_live());
        let client = client.ok_or(Refusal::NoSession(id))?;
        if client.token == token { Ok(client.id) } else { Err(Refusal::WrongToken(id)) }
    }

    /// The client has used its token, so it has it: the one before is worth nothing any more.
    pub(super) fn confirm(&mut self, id: ClientId) {
        if let Some(client) = self.by_id.get_mut(&id) {
            client.prior_token = None;
        }
    }

    /// Gives a new client its id.
    pub(super) fn mint(&mut self) -> ClientId {
        let id = ClientId(self.next_id);
        self.next_id += 1;
        id
    }

    /// Adds or replaces a client.
    pub(super) fn insert(&mut self, client: Client) {
        self.by_uuid.insert(client.uuid, client.id);
        self.by_id.insert(client.id, client);
    }

    /// Forgets a client.
    pub(super) fn remove(&mut self, id: ClientId) -> Option<Client> {
        let client = self.by_id.remove(&id)?;
        self.by_uuid.remove(&client.uuid);
        Some(client)
    }

    /// Notes that a session expired, and forgets the one that expired first if too many have.
    pub(super) fn expire(&mut self, id: ClientId, index: u64) {
        if let Some(client) = self.by_id.get_mut(&id) {
            client.expired_index = Some(index);
            client.lost.clear();
        }
        let expired = self.by_id.values().filter_map(|client| Some((client.expired_index?, client.id)));
        if expired.clone().count() > EXPIRED_MAX
            && let Some((_, first)) = expired.min()
        {
            self.remove(first);
        }
    }

    /// Checks that both maps agree.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let agree = self.by_id.values().all(|client| self.by_uuid.get(&client.uuid) == Some(&client.id));
        if !agree || self.by_id.len() != self.by_uuid.len() {
            return Err("a client is not found by its UUID");
        }
        if self.by_id.last_key_value().is_some_and(|(id, _)| id.0 >= self.next_id) {
            return Err("a client id is to be handed out twice");
        }
        let is_empty = |client: &Client| client.leases.is_empty() && client.lost.is_empty();
        if self.by_id.values().any(|client| !client.is_live() && !is_empty(client)) {
            return Err("a client without a session holds leases, or is told of some");
        }
        if self.by_id.values().any(|client| client.lost.len() > LOST_MAX) {
            return Err("a client is told of too many leases");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(n: u64) -> Secret {
        Secret { high: 0, low: n }
    }

    fn client(id: u32, expired_index: Option<u64>) -> Client {
        Client {
            id: ClientId(id),
            uuid: Uuid(u128::from(id).to_le_bytes()),
            host: String::new(),
            build: String::new(),
            kind: 0,
            token: token(5),
            prior_token: Some(token(4)),
            session: 1,
            opened_ms: 0,
            expired_index,
            leases: BTreeMap::new(),
            lost: BTreeMap::new(),
        }
    }

    #[test]
    fn the_token_before_is_good_for_opening_only_and_only_until_the_new_one_is_used() {
        let mut clients = Clients::default();
        clients.insert(client(2049, None));
        assert_eq!(clients.authenticate(2049, token(5)), Ok(ClientId(2049)));
        assert_eq!(clients.authenticate(2049, token(4)), Err(Refusal::WrongToken(2049)));
        assert_eq!(clients.authenticate(2050, token(5)), Err(Refusal::NoSession(2050)));
        let accepts = |clients: &Clients, stored| clients.get(ClientId(2049)).unwrap().accepts(token(stored));
        assert!(accepts(&clients, 4) && accepts(&clients, 5) && !accepts(&clients, 0));
        clients.confirm(ClientId(2049));
        assert!(!accepts(&clients, 4) && accepts(&clients, 5));
    }

    #[test]
    fn the_memory_of_expired_clients_is_bounded() {
        let mut clients = Clients::default();
        clients.skip_ids(10_000);
        for n in 0..=EXPIRED_MAX as u32 {
            clients.insert(client(3000 + n, None));
            clients.expire(ClientId(3000 + n), u64::from(n) + 1);
        }
        assert_eq!(clients.iter().count(), EXPIRED_MAX);
        assert!(clients.get(ClientId(3000)).is_none() && clients.get(ClientId(3001)).is_some());
        assert_eq!(clients.authenticate(3001, token(5)), Err(Refusal::NoSession(3001)));
        assert_eq!(clients.check(), Ok(()));
    }
}
