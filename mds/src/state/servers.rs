//! Chunk servers and their registrations (C2, C10).
//!
//! At each start a chunk server draws a nonce, stores it durably and registers with it and the nonce before; so an older
//! copy of its directory shows an older nonce. Until it has confirmed that the answer arrived it may repeat the very
//! same registration. (An image of a directory taken during the present run shows the present nonce: no nonce can
//! tell it. It is told by the boot id, if the host was restarted.)

use super::command::{CsState, Leave};
use super::ids::{CsId, Epoch, FIRST_CS_ID, FileId, Secret, Uuid};
use super::refusal::{CsIdMismatch, Refusal};
use std::collections::BTreeMap;

/// Flag `h`: stored data does not match its checksum.
pub const FLAG_DAMAGED: u32 = 1 << 9;

/// Flags `H` and `S`: its disk, or its journal's, has failed.
pub const FLAGS_FAILED: u32 = 1 << 8 | 1 << 10;

/// How far a registration has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Registration {
    /// It was not renewed in time: the chunk server counts as drained, and must register again.
    Lapsed = 0,
    /// The chunk server is recording fences and serves nothing yet.
    Recording = 1,
    /// It has confirmed, and serves.
    Serving = 2,
}

impl Registration {
    /// Reads the number of a stage.
    pub fn from_raw(raw: u32) -> Option<Self> {
        [Self::Lapsed, Self::Recording, Self::Serving].into_iter().find(|stage| *stage as u32 == raw)
    }
}

/// What a registration says about the chunk server's past (C10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Standing {
    /// It registered for the first time.
    New = 0,
    /// The right nonce, the same boot.
    Resumed = 1,
    /// The right nonce, another boot: what it held in memory is lost.
    Rebooted = 2,
    /// The first registration since the metadata was restored: taken on trust, as after a reboot (C12).
    Unverified = 3,
    /// A wrong nonce: rolled back, copied or restored.
    Stale = 4,
}

impl Standing {
    /// Reads the number of a standing.
    pub fn from_raw(raw: u32) -> Option<Self> {
        let all = [Self::New, Self::Resumed, Self::Rebooted, Self::Unverified, Self::Stale];
        all.into_iter().find(|standing| *standing as u32 == raw)
    }
}

/// A chunk server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkServer {
    /// Its id.
    pub id: CsId,
    /// The UUID of its directory.
    pub uuid: Uuid,
    /// Its host.
    pub host: String,
    /// Clients drop a session with it when this changes.
    pub boot_id: Uuid,
    /// Where it serves.
    pub addresses: Vec<String>,
    /// Its storage tier.
    pub tier: u8,
    /// Bytes of its file system.
    pub total_bytes: u64,
    /// Bytes free, as last reported, less what was placed there since.
    pub free_bytes: u64,
    /// What the operator sees as flags, as the bits of the wire protocol.
    pub flags: u32,
    /// The version of its software.
    pub build: String,
    /// Its host's name.
    pub host_name: String,
    /// Its directory.
    pub path: String,
    /// The directory of its journal; empty if that is inside its own.
    pub journal_path: String,
    /// Bytes of its journal.
    pub journal_bytes: u64,
    /// The nonce of its registration.
    pub(super) nonce: Secret,
    /// The nonce before, while the answer to the registration may not have arrived.
    pub(super) prior_nonce: Option<Secret>,
    /// The number of its session, which grows with each registration.
    pub session: u64,
    /// Take the next nonce on trust (C12).
    pub(super) trust_next: bool,
    /// What its registration said about its past.
    pub standing: Standing,
    /// How far its registration has come.
    pub registration: Registration,
    /// Whether it is heard from.
    pub state: CsState,
    /// The term it was granted, in milliseconds.
    pub term_ms: u64,
    /// When it registered, in milliseconds since 1970.
    pub registered_ms: u64,
    /// When its state last changed.
    pub changed_ms: u64,
    /// Replicas in the maps that are on it, in whatever state.
    pub replicas: u64,
    /// Of these, stale ones (C10).
    pub stale_replicas: u64,
    /// Whether it is to leave.
    pub leave: Leave,
    /// Replicas that have returned since the last one that was away came back.
    pub returned: u64,
    /// Bytes copied for them.
    pub returned_bytes: u64,
    /// Fences that were counted as drained while it was lapsed: to be recorded before it serves (C2).
    pub(super) debts: BTreeMap<FileId, Epoch>,
}

impl ChunkServer {
    /// A chunk server of which no more is known than its names.
    pub(super) fn new(id: CsId, uuid: Uuid) -> Self {
        Self {
            id,
            uuid,
            host: String::new(),
            boot_id: Uuid::default(),
            addresses: Vec::new(),
            tier: 0,
            total_bytes: 0,
            free_bytes: 0,
            flags: 0,
            build: String::new(),
            host_name: String::new(),
            path: String::new(),
            journal_path: String::new(),
            journal_bytes: 0,
            nonce: Secret::NONE,
            prior_nonce: None,
            session: 0,
            trust_next: false,
            standing: Standing::New,
            registration: Registration::Lapsed,
            state: CsState::Inactive,
            term_ms: 0,
            registered_ms: 0,
            changed_ms: 0,
            replicas: 0,
            stale_replicas: 0,
            leave: Leave::Stay,
            returned: 0,
            returned_bytes: 0,
            debts: BTreeMap::new(),
        }
    }

    /// Whether new chunks may be placed on it.
    pub fn is_usable(&self) -> bool {
        self.serves() && self.leave == Leave::Stay
    }

    /// Whether so much on it was damaged that its replicas are made anew elsewhere.
    pub fn shows_damage(&self) -> bool {
        self.flags & FLAG_DAMAGED != 0
    }

    /// Whether it has said that its disk, or its journal's, has failed.
    pub fn has_failed(&self) -> bool {
        self.flags & FLAGS_FAILED != 0
    }

    /// Whether what is on it can be used.
    pub fn serves(&self) -> bool {
        self.state == CsState::Active && self.registration == Registration::Serving
    }

    /// Whether its registration lapsed: it serves nothing until it registers again.
    pub fn is_lapsed(&self) -> bool {
        self.registration == Registration::Lapsed
    }

    /// Fences it has to record before it serves.
    pub fn debts(&self) -> impl Iterator<Item = (FileId, Epoch)> {
        self.debts.iter().map(|(file, epoch)| (*file, *epoch))
    }
}

/// What a chunk server presents when it registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) uuid: Uuid,
    pub(super) claimed_id: u32,
    pub(super) last_nonce: Secret,
    pub(super) new_nonce: Secret,
    pub(super) boot_id: Uuid,
}

/// Decides what a registration means (C10): a pure function of what is known and what is presented.
///
/// # Errors
/// The refusal, if it is not to be registered at all.
pub(super) fn judge(known: Option<&ChunkServer>, claim: Claim) -> Result<Standing, Refusal> {
    let Some(known) = known else {
        // A directory that says it was registered here, and was not, is of another cluster, or of a past that a
        // restore of the metadata has undone: an operator decides (C12).
        let first = claim.claimed_id == 0 && claim.last_nonce.is_none();
        return if first { Ok(Standing::New) } else { Err(Refusal::UnknownCs(claim.claimed_id)) };
    };
    if known.state == CsState::Dropped {
        return Err(Refusal::CsDropped(known.id.0));
    }
    if claim.claimed_id != 0 && claim.claimed_id != known.id.0 {
        return Err(Refusal::CsIdMismatch(CsIdMismatch {
            uuid: claim.uuid.to_string(),
            known: known.id.0,
            claimed: claim.claimed_id,
        }));
    }
    if known.trust_next {
        return Ok(Standing::Unverified);
    }
    let rebooted = claim.boot_id != known.boot_id;
    let repeated = claim.new_nonce == known.nonce && known.prior_nonce == Some(claim.last_nonce);
    if repeated {
        // The answer was lost: it is given once more. What it said stays said, until it is confirmed.
        return Ok(match known.standing {
            Standing::New | Standing::Resumed if rebooted => Standing::Rebooted,
            standing => standing,
        });
    }
    if claim.last_nonce == known.nonce || rt::sim::planted("nonce-not-checked") {
        let carried = known.prior_nonce.is_some().then_some(known.standing);
        return Ok(match carried {
            Some(standing @ (Standing::Stale | Standing::Unverified | Standing::Rebooted)) => standing,
            _ if rebooted => Standing::Rebooted,
            _ => Standing::Resumed,
        });
    }
    if claim.new_nonce == known.nonce {
        // A late copy of a message that was answered, or an image of the directory taken just before it was: the
        // former does no harm, the latter comes again with a nonce of its own.
        return Err(Refusal::WrongRegistration(known.id.0));
    }
    // A copy that comes while the original serves must not take its replicas down.
    if known.is_lapsed() { Ok(Standing::Stale) } else { Err(Refusal::CsTwice(known.id.0)) }
}

/// All chunk servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkServers {
    by_id: BTreeMap<CsId, ChunkServer>,
    by_uuid: BTreeMap<Uuid, CsId>,
    next_id: u32,
}

impl Default for ChunkServers {
    fn default() -> Self {
        Self { by_id: BTreeMap::new(), by_uuid: BTreeMap::new(), next_id: FIRST_CS_ID }
    }
}

impl ChunkServers {
    /// A chunk server by id.
    pub fn get(&self, id: CsId) -> Option<&ChunkServer> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: CsId) -> Option<&mut ChunkServer> {
        self.by_id.get_mut(&id)
    }

    /// A chunk server by the UUID of its directory.
    pub fn by_uuid(&self, uuid: Uuid) -> Option<&ChunkServer> {
        self.by_uuid.get(&uuid).and_then(|id| self.by_id.get(id))
    }

    /// All chunk servers by id.
    pub fn iter(&self) -> impl Iterator<Item = &ChunkServer> {
        self.by_id.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut ChunkServer> {
        self.by_id.values_mut()
    }

    /// The id the next new chunk server gets.
    pub(super) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Skips ids that may have been handed out and forgotten (C12).
    pub(super) fn skip_ids(&mut self, next_id: u32) {
        self.next_id = self.next_id.max(next_id);
    }

    /// Gives a new chunk server its id.
    pub(super) fn mint(&mut self) -> CsId {
        let id = CsId(self.next_id);
        self.next_id += 1;
        id
    }

    /// Adds or replaces a chunk server.
    pub(super) fn insert(&mut self, server: ChunkServer) {
        self.by_uuid.insert(server.uuid, server.id);
        self.by_id.insert(server.id, server);
    }

    /// The chunk server whose present session this is (C10).
    ///
    /// # Errors
    /// [`Refusal::UnknownCs`] or [`Refusal::WrongRegistration`].
    pub(super) fn registered(&mut self, cs: u32, session: u64) -> Result<&mut ChunkServer, Refusal> {
        let server = self.by_id.get_mut(&CsId(cs)).ok_or(Refusal::UnknownCs(cs))?;
        if server.session == session { Ok(server) } else { Err(Refusal::WrongRegistration(cs)) }
    }

    /// Checks that both maps agree.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let agree = self.by_id.values().all(|server| self.by_uuid.get(&server.uuid) == Some(&server.id));
        if !agree || self.by_id.len() != self.by_uuid.len() {
            return Err("a chunk server is not found by its UUID");
        }
        if self.by_id.last_key_value().is_some_and(|(id, _)| id.0 >= self.next_id) {
            return Err("a chunk server id is to be handed out twice");
        }
        let early =
            |server: &ChunkServer| server.registration == Registration::Serving && !server.debts.is_empty();
        if self.by_id.values().any(early) {
            return Err("a chunk server serves before it recorded its fences");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Uuid = Uuid([1; 16]);
    const NEXT_BOOT: Uuid = Uuid([2; 16]);

    fn nonce(n: u64) -> Secret {
        Secret { high: 0, low: n }
    }

    fn server(registration: Registration) -> ChunkServer {
        let named = ChunkServer::new(CsId(1025), Uuid([7; 16]));
        ChunkServer { boot_id: BOOT, nonce: nonce(20), standing: Standing::Resumed, registration, ..named }
    }

    #[test]
    fn c10_the_table_of_registrations() {
        use Registration::{Lapsed, Recording, Serving};
        let serving = server(Serving);
        let lapsed = server(Lapsed);
        // Registered with 20 after 10, and not confirmed yet.
        let unconfirmed =
            |standing| ChunkServer { prior_nonce: Some(nonce(10)), standing, ..server(Recording) };
        let lapsed_unconfirmed = ChunkServer { registration: Lapsed, ..unconfirmed(Standing::Resumed) };
        let restored = ChunkServer { trust_next: true, ..server(Lapsed) };
        let dropped = ChunkServer { state: CsState::Dropped, ..server(Lapsed) };
        let twice = Err(Refusal::CsTwice(1025));
        let mismatch = Refusal::CsIdMismatch(CsIdMismatch {
            uuid: Uuid([7; 16]).to_string(),
            known: 1025,
            claimed: 1026,
        });
        type Row = (&'static str, Option<ChunkServer>, (u32, u64, u64, Uuid), Result<Standing, Refusal>);
        let rows: Vec<Row> = vec![
            ("first time", None, (0, 0, 5, BOOT), Ok(Standing::New)),
            ("unknown, claims an id", None, (1025, 4, 5, BOOT), Err(Refusal::UnknownCs(1025))),
            ("unknown, has a nonce", None, (0, 4, 5, BOOT), Err(Refusal::UnknownCs(0))),
            ("another's id", Some(serving.clone()), (1026, 20, 30, BOOT), Err(mismatch)),
            ("restart", Some(serving.clone()), (1025, 20, 30, BOOT), Ok(Standing::Resumed)),
            ("restart after a lapse", Some(lapsed.clone()), (1025, 20, 30, BOOT), Ok(Standing::Resumed)),
            ("again without a restart", Some(serving.clone()), (1025, 20, 20, BOOT), Ok(Standing::Resumed)),
            ("again after a lapse", Some(lapsed.clone()), (1025, 20, 20, BOOT), Ok(Standing::Resumed)),
            (
                "again before it confirmed 'rebooted'",
                Some(unconfirmed(Standing::Rebooted)),
                (1025, 20, 20, BOOT),
                Ok(Standing::Rebooted),
            ),
            ("reboot", Some(serving.clone()), (1025, 20, 30, NEXT_BOOT), Ok(Standing::Rebooted)),
            ("rolled back", Some(lapsed.clone()), (1025, 10, 30, BOOT), Ok(Standing::Stale)),
            ("rolled back to before its id", Some(lapsed.clone()), (0, 0, 30, BOOT), Ok(Standing::Stale)),
            (
                "late copy of an answered message",
                Some(lapsed.clone()),
                (1025, 10, 20, BOOT),
                Err(Refusal::WrongRegistration(1025)),
            ),
            ("a copy while the original serves", Some(serving.clone()), (1025, 10, 30, BOOT), twice.clone()),
            (
                "answer lost",
                Some(unconfirmed(Standing::Resumed)),
                (1025, 10, 20, BOOT),
                Ok(Standing::Resumed),
            ),
            (
                "first answer lost",
                Some(ChunkServer { prior_nonce: Some(nonce(0)), ..unconfirmed(Standing::New) }),
                (0, 0, 20, BOOT),
                Ok(Standing::New),
            ),
            (
                "answer 'stale' lost",
                Some(unconfirmed(Standing::Stale)),
                (1025, 10, 20, BOOT),
                Ok(Standing::Stale),
            ),
            (
                "answer lost, then a reboot",
                Some(unconfirmed(Standing::Resumed)),
                (1025, 10, 20, NEXT_BOOT),
                Ok(Standing::Rebooted),
            ),
            (
                "answer lost, then a lapse",
                Some(lapsed_unconfirmed),
                (1025, 10, 20, BOOT),
                Ok(Standing::Resumed),
            ),
            (
                "answered 'rebooted', restarted before it confirmed",
                Some(unconfirmed(Standing::Rebooted)),
                (1025, 20, 30, BOOT),
                Ok(Standing::Rebooted),
            ),
            (
                "answered, restarted before it confirmed",
                Some(unconfirmed(Standing::Resumed)),
                (1025, 20, 30, BOOT),
                Ok(Standing::Resumed),
            ),
            (
                "wrong nonce before a confirmation",
                Some(unconfirmed(Standing::Resumed)),
                (1025, 9, 30, BOOT),
                twice,
            ),
            ("removed", Some(dropped), (1025, 20, 30, BOOT), Err(Refusal::CsDropped(1025))),
            ("metadata restored", Some(restored.clone()), (1025, 999, 30, BOOT), Ok(Standing::Unverified)),
        ];
        for (name, known, (claimed_id, last_nonce, new_nonce, boot_id), want) in rows {
            let (last_nonce, new_nonce) = (nonce(last_nonce), nonce(new_nonce));
            let claim = Claim { uuid: Uuid([7; 16]), claimed_id, last_nonce, new_nonce, boot_id };
            assert_eq!(judge(known.as_ref(), claim), want, "{name}");
        }
    }

    #[test]
    fn numbers_in_snapshots_read_back() {
        for raw in 0..5 {
            assert_eq!(Standing::from_raw(raw).map(|standing| standing as u32), Some(raw));
        }
        for raw in 0..3 {
            assert_eq!(Registration::from_raw(raw).map(|stage| stage as u32), Some(raw));
        }
        assert_eq!((Standing::from_raw(5), Registration::from_raw(3)), (None, None));
    }
}
