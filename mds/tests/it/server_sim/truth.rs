//! What the world outside knows, and what must hold in it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use rt::time::Instant;
use wire::lease::{MapReply, MemberState};
use wire::session::SessionKey;

/// The directory of a chunk server.
#[derive(Clone, Default)]
pub(super) struct Directory {
    /// Counts the directories that this chunk server has had.
    pub(super) uuid: u8,
    pub(super) id: u64,
    pub(super) nonce: [u8; 16],
    pub(super) offered: [u8; 16],
    pub(super) fences: BTreeMap<u64, u64>,
    /// The file of each chunk.
    pub(super) chunks: BTreeMap<u64, u64>,
    /// It is older than what was registered last (C10). The chunk server does not know.
    pub(super) rolled_back: bool,
}

/// A chunk server: its directory, and what it would do with a request for data right now.
#[derive(Default)]
pub(super) struct CsDisk {
    pub(super) dir: Directory,
    /// As it was before the nonce was drawn that is offered now.
    pub(super) before: Option<Directory>,
    /// As it was before a nonce was drawn that has been registered since.
    pub(super) copy: Option<Directory>,
    // In memory.
    pub(super) alive: bool,
    pub(super) fences_pending: bool,
    pub(super) serve_until: Option<Instant>,
}

impl CsDisk {
    pub(super) fn serves(&self, now: Instant) -> bool {
        self.alive && !self.fences_pending && self.serve_until.is_some_and(|until| now < until)
    }
}

/// What a client thinks it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Belief {
    pub(super) client: usize,
    pub(super) epoch: u64,
    pub(super) until: Instant,
}

/// What the world outside knows.
#[derive(Default)]
pub(super) struct Truth {
    pub(super) servers: Vec<RefCell<CsDisk>>,
    pub(super) beliefs: RefCell<BTreeMap<u64, Belief>>,
    pub(super) highest: RefCell<BTreeMap<u64, u64>>,
    /// Files whose last holder said, or may have said, that nothing is under way.
    pub(super) clean: RefCell<BTreeSet<u64>>,
    /// Replicas that clients were told of, as chunk and chunk server: nobody asks for others.
    pub(super) told: RefCell<BTreeSet<(u64, u64)>>,
    /// What clients stored of their sessions.
    pub(super) keys: Vec<RefCell<Option<SessionKey>>>,
    pub(super) grants: Cell<u64>,
    pub(super) allocated: Cell<u64>,
    /// Directories that were found to be rolled back.
    pub(super) stale: Cell<u64>,
    /// Ids of chunk servers whose directory was rolled back or given up: what the maps say of them is not so.
    pub(super) lost: RefCell<BTreeSet<u64>>,
    /// Per client: times it got through since the faults stopped.
    pub(super) rounds: Vec<Cell<u64>>,
}

impl Truth {
    pub(super) fn grant(&self, file: u64, belief: Belief) {
        let now = rt::time::now();
        if belief.until <= now {
            // The answer took so long that the client does not trust it any more.
            return;
        }
        self.grants.set(self.grants.get() + 1);
        if let Some(other) = self.beliefs.borrow().get(&file)
            && other.client != belief.client
        {
            assert!(
                other.until <= now,
                "C1: {belief:?} was granted file {file} while {other:?} trusts its lease"
            );
        }
        let before = self.highest.borrow_mut().insert(file, belief.epoch).unwrap_or(0);
        assert!(belief.epoch > before, "C1: epoch {:#x} was granted after {before:#x}", belief.epoch);
        let clean = self.clean.borrow_mut().remove(&file);
        for (number, server) in self.servers.iter().enumerate() {
            let server = server.borrow();
            let told = self.told.borrow();
            let holds = server
                .dir
                .chunks
                .iter()
                .any(|(chunk, of)| *of == file && told.contains(&(*chunk, server.dir.id)));
            // Epochs in between were granted to nobody who heard of it, and given back.
            let fenced = server.dir.fences.get(&file).is_some_and(|fence| *fence > before);
            assert!(
                clean || !holds || fenced || !server.serves(now),
                "C2: epoch {:#x} of file {file} was granted, and chunk server {number} still serves at {:?}",
                belief.epoch,
                server.dir.fences.get(&file)
            );
        }
        self.beliefs.borrow_mut().insert(file, belief);
    }

    pub(super) fn tell(&self, map: &MapReply) {
        let members = map
            .chunks
            .iter()
            .flat_map(|chunk| chunk.members.iter().map(|member| (chunk.chunk_id, member.cs_id)));
        self.told.borrow_mut().extend(members);
    }

    pub(super) fn renewed(&self, client: usize, until: Instant) {
        for belief in self.beliefs.borrow_mut().values_mut().filter(|belief| belief.client == client) {
            belief.until = until;
        }
    }

    pub(super) fn forget(&self, client: usize, file: Option<u64>) {
        self.beliefs
            .borrow_mut()
            .retain(|of, belief| belief.client != client || file.is_some_and(|file| *of != file));
    }

    /// C9: what a map gives out is there.
    pub(super) fn check_map(&self, map: &MapReply) {
        for chunk in &map.chunks {
            let members = chunk.members.iter().filter(|member| member.state() == MemberState::Member);
            for member in members.filter(|member| !self.lost.borrow().contains(&member.cs_id)) {
                let held = self.servers.iter().any(|server| {
                    let dir = &server.borrow().dir;
                    dir.id == member.cs_id && dir.chunks.contains_key(&chunk.chunk_id)
                });
                assert!(
                    held,
                    "C9: chunk {:#x} was given out before {} held it",
                    chunk.chunk_id, member.cs_id
                );
            }
        }
    }

    /// Puts an older copy of its directory in the place of a chunk server that is dead, if there is one.
    pub(super) fn roll_back(&self, number: usize) {
        let server = &mut *self.servers[number].borrow_mut();
        let Some(copy) = server.copy.take() else { return };
        self.lost.borrow_mut().insert(server.dir.id);
        server.dir = Directory { rolled_back: true, ..copy };
    }
}
