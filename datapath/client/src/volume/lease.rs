//! A volume's lease at one epoch, and the chunks it has met under it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use rt::sync::{Notify, Semaphore};
use wire::lease::{ChunkMap, MapReply, MemberState};

use super::known::Known;
use super::window::Window;
use crate::servers::{Server, Servers};

/// A chunk as its map says.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) index: u64,
    pub(crate) id: u64,
    pub(crate) version: u64,
    pub(crate) members: Vec<Rc<Server>>,
    /// The members agree: nothing of an earlier epoch is in doubt (C5).
    pub(crate) settled: Cell<bool>,
    /// It was settled under this very epoch.
    pub(crate) settled_here: Cell<bool>,
    /// Fewer members than the file wants for a write (C3).
    pub(crate) blocked: bool,
    pub(crate) settling: Semaphore,
    /// Where reads go first.
    pub(crate) preferred: Cell<usize>,
}

/// The boot in which each chunk server was met.
type Boots = BTreeMap<u64, [u8; 16]>;

/// A chunk with acknowledged writes that are not stable.
#[derive(Debug)]
struct UnstableChunk {
    /// The last such write.
    last: u64,
    /// Chunk servers that have them.
    members: Vec<u64>,
}

/// A sequence number under way. Dropped before it is answered, it would hold up `done` and `stable` for ever: then
/// nothing more can be done under its epoch.
#[derive(Debug)]
pub(crate) struct Issued<'a> {
    lease: &'a Lease,
    pub(crate) seq: u64,
    open: bool,
}

impl<'a> Issued<'a> {
    /// A number for a new write.
    pub(crate) fn begin(lease: &'a Lease) -> Self {
        Self { lease, seq: lease.window.borrow_mut().issue(), open: true }
    }

    /// Every member has it.
    pub(crate) fn answered(mut self) {
        self.open = false;
        self.lease.window.borrow_mut().answered(self.seq);
    }
}

impl Drop for Issued<'_> {
    fn drop(&mut self) {
        if self.open {
            self.lease.break_off();
        }
    }
}

/// One epoch of a lease.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) epoch: u64,
    pub(crate) session_generation: u64,
    pub(crate) needs_reconcile: bool,
    pub(crate) window: RefCell<Window>,
    pub(crate) chunks: RefCell<Known<Rc<Chunk>>>,
    /// One request for maps at a time.
    pub(crate) mapping: Semaphore,
    /// One request for a new chunk at a time.
    pub(crate) allocating: Semaphore,
    /// The boot in which each server was first met under this epoch (C10).
    pub(crate) boots: RefCell<Boots>,
    /// Chunks with acknowledged writes that are not stable.
    unstable_chunks: RefCell<BTreeMap<u64, UnstableChunk>>,
    /// For each chunk that earlier epochs have left with such writes, and that has not been settled since: the boots of
    /// its members when they took them (C4).
    at_risk: RefCell<BTreeMap<u64, Boots>>,
    /// Every chunk has been settled that the end of an earlier epoch has left in doubt: before that no flush may
    /// succeed, because what an earlier holder was told is acknowledged, too (C4).
    all_settled: Cell<bool>,
    /// The chunk at the end of the file is.
    end_settled: Cell<bool>,
    pub(crate) settled_all: Notify,
    /// A flush nobody waits for is under way.
    pub(crate) flushing: Cell<bool>,
    broken: Cell<bool>,
    pub(crate) broke: Notify,
}

impl Lease {
    pub(crate) fn new(epoch: u64, session_generation: u64, needs_reconcile: bool) -> Self {
        Self {
            epoch,
            session_generation,
            needs_reconcile,
            window: RefCell::new(Window::new()),
            chunks: RefCell::default(),
            mapping: Semaphore::new(1),
            allocating: Semaphore::new(1),
            boots: RefCell::default(),
            unstable_chunks: RefCell::default(),
            at_risk: RefCell::default(),
            all_settled: Cell::new(!needs_reconcile),
            end_settled: Cell::new(!needs_reconcile),
            settled_all: Notify::new(),
            flushing: Cell::new(false),
            broken: Cell::new(false),
            broke: Notify::new(),
        }
    }

    /// Nothing more can be done under this epoch; a new one is needed.
    pub(crate) fn break_off(&self) {
        self.broken.set(true);
        self.broke.notify_all();
    }

    /// Nothing of an earlier epoch is in doubt any more.
    pub(crate) fn set_all_settled(&self) {
        self.all_settled.set(true);
        self.settled_all.notify_all();
    }

    pub(crate) fn is_all_settled(&self) -> bool {
        self.all_settled.get()
    }

    /// The chunk at the end of the file is settled.
    pub(crate) fn set_end_settled(&self) {
        self.end_settled.set(true);
    }

    /// Whether the chunk at the end of the file is settled.
    pub(crate) fn is_end_settled(&self) -> bool {
        self.end_settled.get() || self.all_settled.get()
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Checks that a server is still in the boot in which it was met (C10).
    pub(crate) fn same_boot(&self, server: u64, boot_id: [u8; 16]) -> bool {
        *self.boots.borrow_mut().entry(server).or_insert(boot_id) == boot_id
    }

    /// Takes maps from an answer. A chunk that is known keeps what is known of it unless its version changed.
    pub(crate) fn learn(&self, servers: &Servers, map: &MapReply, asked: std::ops::Range<u64>) {
        servers.learn(&map.servers);
        for server in &map.servers {
            // The boot that the metadata server knows: the server may have rebooted before we ever met it.
            if let Ok(boot_id) = <[u8; 16]>::try_from(server.boot_id.as_slice()) {
                self.boots.borrow_mut().entry(server.cs_id).or_insert(boot_id);
            }
        }
        let mut chunks = self.chunks.borrow_mut();
        for chunk in &map.chunks {
            let known = chunks.chunk(chunk.index);
            if known.is_none_or(|known| known.version != chunk.version || known.id != chunk.chunk_id) {
                chunks.insert(chunk.index, Rc::new(self.chunk(servers, chunk)));
            }
        }
        chunks.tell(asked);
    }

    fn chunk(&self, servers: &Servers, map: &ChunkMap) -> Chunk {
        let members = map.members.iter().filter(|member| member.state() == MemberState::Member);
        let members: Vec<_> = members.map(|member| servers.get(member.cs_id)).collect();
        for member in &members {
            member.connect_in_background();
        }
        let preferred = if members.is_empty() { 0 } else { (map.index % members.len() as u64) as usize };
        Chunk {
            index: map.index,
            id: map.chunk_id,
            version: map.version,
            members,
            settled: Cell::new(!map.needs_reconcile),
            settled_here: Cell::new(false),
            blocked: map.blocked,
            settling: Semaphore::new(1),
            preferred: Cell::new(preferred),
        }
    }

    /// Notes that acknowledged writes up to `seq` of a chunk are not stable.
    pub(crate) fn note_unstable(&self, chunk: &Chunk, seq: u64) {
        let mut chunks = self.unstable_chunks.borrow_mut();
        let unstable = chunks.entry(chunk.index).or_insert_with(|| UnstableChunk {
            last: seq,
            members: chunk.members.iter().map(|server| server.id()).collect(),
        });
        unstable.last = unstable.last.max(seq);
    }

    /// Forgets the chunks from `first` on: the file has been cut, and there are none any more.
    pub(crate) fn drop_chunks(&self, first: u64) {
        self.chunks.borrow_mut().drop_from(first);
        self.unstable_chunks.borrow_mut().split_off(&first);
        self.at_risk.borrow_mut().split_off(&first);
    }

    /// Takes over what an earlier epoch has left at risk.
    pub(crate) fn inherit(&self, old: &Self) {
        old.prune_unstable();
        let mut at_risk = old.at_risk.borrow().clone();
        let boots = old.boots.borrow();
        for (&index, unstable) in old.unstable_chunks.borrow().iter() {
            let known = unstable.members.iter().filter_map(|id| boots.get(id).map(|boot| (*id, *boot)));
            at_risk.insert(index, known.collect());
        }
        *self.at_risk.borrow_mut() = at_risk;
    }

    /// Whether every member of a chunk that is about to be settled has rebooted since it took writes that were
    /// acknowledged and not flushed. All members have been talked to under this epoch.
    pub(crate) fn lost_all(&self, chunk: &Chunk) -> bool {
        let Some(then) = self.at_risk.borrow_mut().remove(&chunk.index) else { return false };
        let now = self.boots.borrow();
        // All of those that had the writes, whoever is a member now.
        !then.is_empty() && then.iter().all(|(id, boot)| now.get(id).is_some_and(|now| now != boot))
    }

    /// Forgets chunks whose writes are all stable.
    pub(crate) fn prune_unstable(&self) {
        let stable = self.window.borrow().stable();
        self.unstable_chunks.borrow_mut().retain(|_, unstable| unstable.last >= stable);
    }
}
