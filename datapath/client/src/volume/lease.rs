//! A volume's lease at one epoch, and the chunks it has met under it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::rc::Rc;

use rt::sync::{Notify, Semaphore};
use wire::data::InstalledVersion;
use wire::lease::{ChunkMap, MapReply, MemberState};

use super::known::Known;
use super::reports::Reports;
use super::window::{FlushPlan, Window};
use super::{Halt, Stop};
use crate::servers::{Server, Servers};

/// A chunk as its map says.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) index: u64,
    pub(crate) id: u64,
    pub(crate) version: u64,
    /// In sync: they have everything, and serve reads.
    pub(crate) members: Vec<Rc<Server>>,
    /// They are being filled, and must have every write, too (C7).
    pub(crate) joiners: Vec<Rc<Server>>,
    /// The members agree: nothing of an earlier epoch is in doubt (C5).
    pub(crate) settled: Cell<bool>,
    /// It was settled under this very epoch.
    pub(crate) settled_here: Cell<bool>,
    /// Fewer members than the file wants for a write (C3).
    pub(crate) blocked: Cell<bool>,
    pub(crate) settling: Semaphore,
    /// The member that reads go to where nothing speaks against it.
    pub(crate) home: usize,
    /// There is another version, or the map has to be asked for: whoever uses this looks for the chunk again.
    replaced: Cell<bool>,
    pub(crate) changed: Notify,
    /// One who looks whether the map has changed.
    pub(crate) looking: Semaphore,
}

impl Chunk {
    /// Everybody who must have every write: members and joiners.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Rc<Server>> {
        self.members.iter().chain(&self.joiners)
    }

    /// Whether a chunk server must have every write.
    pub(crate) fn is_target(&self, server: u64) -> bool {
        self.targets().any(|target| target.id() == server)
    }

    /// Wakes whoever uses this, to look for the chunk again.
    pub(crate) fn replace(&self) {
        self.replaced.set(true);
        self.changed.notify_all();
    }

    /// Whether to look for the chunk again.
    pub(crate) fn is_replaced(&self) -> bool {
        self.replaced.get()
    }

    /// Whether this can still be used under its lease.
    pub(crate) fn check(&self, lease: &Lease) -> Result<(), Halt> {
        lease.check()?;
        if self.is_replaced() { Err(Halt::Replaced) } else { Ok(()) }
    }

    /// With nobody in it.
    #[cfg(test)]
    pub(crate) fn bare(index: u64, version: u64) -> Self {
        Self {
            index,
            id: 1000 + index,
            version,
            members: Vec::new(),
            joiners: Vec::new(),
            settled: Cell::new(true),
            settled_here: Cell::new(false),
            blocked: Cell::new(false),
            settling: Semaphore::new(1),
            home: 0,
            replaced: Cell::new(false),
            changed: Notify::new(),
            looking: Semaphore::new(1),
        }
    }
}

/// The boot in which each chunk server was met.
type Boots = BTreeMap<u64, [u8; 16]>;

/// What an earlier epoch has left in a chunk: acknowledged writes that are not stable.
#[derive(Clone, Debug)]
struct AtRisk {
    /// Who had them, each in the boot it was in.
    members: Boots,
    /// Whose sequence numbers these are.
    epoch: u64,
    /// From the first write of the epoch that is not stable to the last one of this chunk.
    writes: RangeInclusive<u64>,
    /// Of those the ones that nobody was told of.
    unanswered: Rc<BTreeSet<u64>>,
}

/// Flushes for callers under way at a time: while one runs on the servers the next is on its way, and whoever comes
/// after that finds his work done.
const FLUSHES: u64 = 2;

/// A chunk with acknowledged writes that are not stable.
#[derive(Debug)]
struct UnstableChunk {
    /// The last such write.
    last: u64,
    /// The highest version that is known of the chunk.
    version: u64,
    /// Who has them, and is needed for them to be stable: those that have answered such a write and have been members or joiners in
    /// every version since.
    holders: BTreeSet<u64>,
    /// The members: who loses them, loses them for good (C4).
    members: Vec<u64>,
    /// Somebody who had them is left out of this version; these members have not said yet that they have installed it, and so noted for
    /// him what he may have lost. Before they have, the writes must not count as stable (C6).
    uninstalled: Option<(InstalledVersion, BTreeSet<u64>)>,
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
    /// A number for what settles a chunk.
    pub(crate) fn begin(lease: &'a Lease) -> Self {
        Self { lease, seq: lease.window.borrow_mut().issue(None), open: true }
    }

    /// A number for a caller's write to a chunk.
    pub(crate) fn write(lease: &'a Lease, chunk: u64) -> Self {
        Self { lease, seq: lease.window.borrow_mut().issue(Some(chunk)), open: true }
    }

    /// Everybody who must has it.
    pub(crate) fn answered(mut self) {
        self.open = false;
        self.lease.window.borrow_mut().answered(self.seq);
    }
}

/// A part of a write that is there while the size of the file does not tell yet: settling would zero it with what lies behind the end.
#[derive(Debug)]
pub(crate) struct Landed<'a> {
    lease: &'a Lease,
    chunk: u64,
}

impl<'a> Landed<'a> {
    pub(crate) fn new(lease: &'a Lease, chunk: u64) -> Self {
        lease.window.borrow_mut().land(chunk);
        Self { lease, chunk }
    }
}

impl Drop for Landed<'_> {
    fn drop(&mut self) {
        self.lease.window.borrow_mut().leave(self.chunk);
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
    pub(crate) reports: Reports,
    /// Chunk servers that flushes do without: when they could not be flushed, no chunk needed them any more.
    passed_over: RefCell<BTreeSet<u64>>,
    /// Chunks with acknowledged writes that are not stable.
    unstable_chunks: RefCell<BTreeMap<u64, UnstableChunk>>,
    /// For each chunk that earlier epochs have left with such writes, and that has not been settled since: the boots of
    /// its members when they took them (C4).
    at_risk: RefCell<BTreeMap<u64, AtRisk>>,
    /// Every chunk has been settled that the end of an earlier epoch has left in doubt: before that no flush may
    /// succeed, because what an earlier holder was told is acknowledged, too (C4).
    all_settled: Cell<bool>,
    /// The chunk at the end of the file is.
    end_settled: Cell<bool>,
    pub(crate) settled_all: Notify,
    /// Chunks that are settled as the metadata server knows, and whose members have not all been told.
    pub(crate) uncleared: RefCell<BTreeSet<u64>>,
    /// Flushes that somebody waits for.
    pub(crate) flushes: Semaphore,
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
            reports: Reports::default(),
            passed_over: RefCell::default(),
            unstable_chunks: RefCell::default(),
            at_risk: RefCell::default(),
            all_settled: Cell::new(!needs_reconcile),
            end_settled: Cell::new(!needs_reconcile),
            settled_all: Notify::new(),
            uncleared: RefCell::default(),
            flushes: Semaphore::new(FLUSHES),
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

    /// Whether members of a chunk have to be told still that it is settled.
    pub(crate) fn is_uncleared(&self, chunk: u64) -> bool {
        self.uncleared.borrow().contains(&chunk)
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

    /// Refuses to go on when the epoch is over.
    pub(crate) fn check(&self) -> Result<(), Stop> {
        if self.is_broken() { Err(Stop::Broken) } else { Ok(()) }
    }

    /// Checks that a server is still in the boot in which it was met (C10).
    pub(crate) fn same_boot(&self, server: u64, boot_id: [u8; 16]) -> bool {
        *self.boots.borrow_mut().entry(server).or_insert(boot_id) == boot_id
    }

    /// Whether some chunk counts on a server to have what it was given: it is a member, and no joiner everywhere.
    pub(crate) fn counts_on(&self, server: u64) -> bool {
        let is_member = |chunk: &Rc<Chunk>| chunk.members.iter().any(|member| member.id() == server);
        self.chunks.borrow().chunks().any(is_member)
            || self.unstable_chunks.borrow().values().any(|unstable| unstable.members.contains(&server))
    }

    /// Forgets in which boot a server was met, once no chunk that is known has it and no write depends on it: when it comes back, it
    /// comes back as a joiner.
    fn release_boot(&self, server: u64) {
        let has = |chunk: &Rc<Chunk>| chunk.is_target(server);
        let depends = |unstable: &UnstableChunk| {
            unstable.holders.contains(&server) || unstable.members.contains(&server)
        };
        if !self.chunks.borrow().chunks().any(has) && !self.unstable_chunks.borrow().values().any(depends) {
            self.boots.borrow_mut().remove(&server);
        }
    }

    /// Takes maps from an answer. A chunk that is known keeps what is known of it unless its version is higher: answers may
    /// come late.
    pub(crate) fn learn(&self, servers: &Servers, map: &MapReply, asked: std::ops::Range<u64>) {
        servers.learn(&map.servers);
        let used: BTreeSet<u64> = map
            .chunks
            .iter()
            .flat_map(|chunk| &chunk.members)
            .filter(|member| matches!(member.state(), MemberState::Member | MemberState::Joining))
            .map(|member| member.cs_id)
            .collect();
        for server in map.servers.iter().filter(|server| used.contains(&server.cs_id)) {
            // The boot that the metadata server knows: the server may have rebooted before we ever met it.
            if let Ok(boot_id) = <[u8; 16]>::try_from(server.boot_id.as_slice()) {
                self.boots.borrow_mut().entry(server.cs_id).or_insert(boot_id);
            }
        }
        let mut left = BTreeSet::new();
        for chunk in &map.chunks {
            let known = self.chunks.borrow().chunk(chunk.index).cloned();
            let is_same = known.as_ref().is_some_and(|known| known.id == chunk.chunk_id);
            match known {
                // A replica that turns out to be stale (C10) is none any more, at the same version.
                Some(known) if is_same && chunk.version == known.version && !loses(&known, chunk) => {
                    known.blocked.set(chunk.blocked);
                }
                Some(known) if is_same && chunk.version < known.version => {}
                known => {
                    let new = Rc::new(self.chunk(servers, chunk));
                    self.move_unstable(&new, &mut left);
                    self.chunks.borrow_mut().insert(chunk.index, Rc::clone(&new));
                    if let Some(known) = known {
                        new.settled_here.set(is_same && known.settled_here.get());
                        let gone = known.targets().map(|server| server.id());
                        left.extend(gone.filter(|server| !new.is_target(*server)));
                        known.replace();
                    }
                }
            }
        }
        self.chunks.borrow_mut().tell(asked);
        left.into_iter().for_each(|server| self.release_boot(server));
    }

    /// A chunk has other members: its unstable writes need those to be flushed that have them and are in it still. Whoever has joined
    /// since has what it copies from members made durable before it becomes one.
    fn move_unstable(&self, chunk: &Chunk, left: &mut BTreeSet<u64>) {
        let mut chunks = self.unstable_chunks.borrow_mut();
        let Some(unstable) = chunks.get_mut(&chunk.index) else { return };
        // A late answer, or a map that makes no sense, says nothing about who has them.
        let loses = unstable.holders.iter().any(|id| !chunk.is_target(*id));
        let is_late = chunk.version < unstable.version || (chunk.version == unstable.version && !loses);
        if is_late || chunk.members.is_empty() {
            return;
        }
        unstable.version = chunk.version;
        if loses || unstable.uninstalled.is_some() {
            let version = InstalledVersion { chunk: chunk.id, version: chunk.version };
            unstable.uninstalled = Some((version, chunk.members.iter().map(|server| server.id()).collect()));
        }
        left.extend(unstable.holders.iter().chain(&unstable.members).filter(|id| !chunk.is_target(**id)));
        unstable.holders.retain(|id| chunk.is_target(*id));
        let members = chunk.members.iter().map(|server| server.id());
        // In a chunk that is to be reconciled somebody may have become a member who copied from one that had lost its memory (C4).
        let counts = |id: &u64| chunk.settled.get() || unstable.members.contains(id);
        unstable.members = members.filter(counts).collect();
    }

    /// A server has been taken out of chunks of the file: the maps of all that have it are asked for again.
    pub(crate) fn forget_server(&self, server: u64) {
        let of_it: Vec<_> =
            self.chunks.borrow().chunks().filter(|chunk| chunk.is_target(server)).cloned().collect();
        for chunk in of_it {
            self.chunks.borrow_mut().forget(chunk.index);
            chunk.replace();
        }
        self.release_boot(server);
    }

    fn chunk(&self, servers: &Servers, map: &ChunkMap) -> Chunk {
        let in_state = |state| -> Vec<_> {
            let found = map.members.iter().filter(|member| member.state() == state);
            found.map(|member| servers.get(member.cs_id)).collect()
        };
        let (members, joiners) = (in_state(MemberState::Member), in_state(MemberState::Joining));
        for target in members.iter().chain(&joiners) {
            target.connect_in_background();
        }
        let home = if members.is_empty() { 0 } else { (map.index % members.len() as u64) as usize };
        Chunk {
            index: map.index,
            id: map.chunk_id,
            version: map.version,
            members,
            joiners,
            settled: Cell::new(!map.needs_reconcile),
            settled_here: Cell::new(false),
            blocked: Cell::new(map.blocked),
            settling: Semaphore::new(1),
            home,
            replaced: Cell::new(false),
            changed: Notify::new(),
            looking: Semaphore::new(1),
        }
    }

    /// Notes that a write which everybody in the chunk has answered is not stable. The chunk is as it is known now.
    pub(crate) fn note_unstable(&self, chunk: &Chunk, seq: u64) {
        let mut chunks = self.unstable_chunks.borrow_mut();
        let unstable = chunks.entry(chunk.index).or_insert_with(|| UnstableChunk {
            last: seq,
            version: chunk.version,
            holders: BTreeSet::new(),
            members: chunk.members.iter().map(|server| server.id()).collect(),
            uninstalled: None,
        });
        // Everybody has answered under this version.
        if unstable.uninstalled.as_ref().is_some_and(|(wanted, _)| wanted.version <= chunk.version) {
            unstable.uninstalled = None;
        }
        unstable.last = unstable.last.max(seq);
        unstable.version = unstable.version.max(chunk.version);
        unstable.holders.extend(chunk.targets().map(|server| server.id()));
    }

    /// A chunk with unstable writes that needs this server to be flushed, and the highest version known of it.
    pub(crate) fn needs_flushed(&self, server: u64) -> Option<(u64, u64)> {
        let chunks = self.unstable_chunks.borrow();
        let mut needing = chunks.iter().filter(|(_, unstable)| unstable.holders.contains(&server));
        needing.next().map(|(&index, unstable)| (index, unstable.version))
    }

    /// Whose answers are missing that they have installed versions without somebody who had unstable writes.
    pub(crate) fn uninstalled(&self) -> BTreeSet<u64> {
        let chunks = self.unstable_chunks.borrow();
        chunks
            .values()
            .filter_map(|unstable| unstable.uninstalled.as_ref())
            .flat_map(|(_, by)| by)
            .copied()
            .collect()
    }

    /// What one of them has to say so of, in order: index and version of some chunks.
    pub(crate) fn uninstalled_at(&self, server: u64, most: usize) -> Vec<(u64, InstalledVersion)> {
        let chunks = self.unstable_chunks.borrow();
        let wanted = chunks.iter().filter_map(|(&index, unstable)| {
            let (version, by) = unstable.uninstalled.as_ref()?;
            by.contains(&server).then_some((index, *version))
        });
        wanted.take(most).collect()
    }

    /// A server has said so.
    pub(crate) fn installed(&self, server: u64, versions: &[(u64, InstalledVersion)]) {
        let mut chunks = self.unstable_chunks.borrow_mut();
        for (index, said) in versions {
            let Some(unstable) = chunks.get_mut(index) else { continue };
            // Another version may have come meanwhile: of that one it has said nothing.
            if let Some((wanted, by)) = &mut unstable.uninstalled
                && wanted == said
            {
                by.remove(&server);
                if by.is_empty() {
                    unstable.uninstalled = None;
                }
            }
        }
    }

    /// What a flush that begins now has to do.
    ///
    /// It never claims more than is so. Each write below its mark is answered, and so is each one that it counts as answered
    /// ([`FlushPlan::answers`]), whatever its number: it was noted with everybody who had it then, before it was counted, or settling
    /// has flushed it. Of those, only who is left out of a later version is taken off the list ([`Lease::move_unstable`]); and only who
    /// is on no list is passed over ([`Lease::pass_over`]). So whoever is a member now was flushed after it had answered, or has joined since:
    /// then it became a member when what it had copied was durable (C7). That stays so whoever comes and goes afterwards: who finds
    /// that such a flush has come to its end needs none of his own.
    pub(crate) fn flush_plan(&self) -> FlushPlan {
        let mut plan = self.window.borrow().plan();
        let passed_over = self.passed_over.borrow();
        if !passed_over.is_empty() {
            plan.servers.retain(|(id, _)| !passed_over.contains(id) || self.needs_flushed(*id).is_some());
        }
        plan
    }

    /// From now on flushes do without a server that cannot be flushed, except for writes that it is given later.
    pub(crate) fn pass_over(&self, server: u64) {
        assert!(
            self.needs_flushed(server).is_none(),
            "chunk server {server} has writes that nobody else makes stable"
        );
        self.passed_over.borrow_mut().insert(server);
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
        let window = old.window.borrow();
        let (stable, unanswered) = (window.stable(), Rc::new(window.unanswered().collect()));
        for (&index, unstable) in old.unstable_chunks.borrow().iter() {
            let known = unstable.members.iter().filter_map(|id| boots.get(id).map(|boot| (*id, *boot)));
            let (writes, unanswered) = (stable..=unstable.last, Rc::clone(&unanswered));
            at_risk.insert(index, AtRisk { members: known.collect(), epoch: old.epoch, writes, unanswered });
        }
        *self.at_risk.borrow_mut() = at_risk;
    }

    /// Whether no member of a chunk that is about to be settled has all of the writes that were acknowledged and not flushed: each
    /// one that took them has rebooted since, or is left out. All members have been talked to under this epoch.
    pub(crate) fn lost_all(&self, chunk: &Chunk) -> bool {
        let Some(then) = self.at_risk.borrow_mut().remove(&chunk.index) else { return false };
        let now = self.boots.borrow();
        // Of one that is left out nothing is known, and nothing it has comes back (C6).
        let has_kept = |server: &Rc<Server>| {
            then.members.get(&server.id()).is_some_and(|boot| now.get(&server.id()) == Some(boot))
        };
        !chunk.members.iter().any(has_kept)
    }

    /// Whether a write to a chunk was acknowledged and is not stable, under this epoch or an earlier one that has left it at risk.
    pub(crate) fn is_at_risk(&self, index: u64, epoch: u64, seq: u64) -> bool {
        if epoch == self.epoch {
            let (window, chunks) = (self.window.borrow(), self.unstable_chunks.borrow());
            let in_range = |unstable: &UnstableChunk| (window.stable()..=unstable.last).contains(&seq);
            return chunks.get(&index).is_some_and(in_range) && window.unanswered().all(|open| open != seq);
        }
        let at_risk = self.at_risk.borrow();
        let counts = |then: &AtRisk| {
            then.epoch == epoch && then.writes.contains(&seq) && !then.unanswered.contains(&seq)
        };
        at_risk.get(&index).is_some_and(counts)
    }

    /// Forgets chunks whose writes are all stable.
    pub(crate) fn prune_unstable(&self) {
        let stable = self.window.borrow().stable();
        self.unstable_chunks.borrow_mut().retain(|_, unstable| unstable.last >= stable);
    }
}

/// Whether somebody whom writes to a chunk go to is not in a map of it any more.
fn loses(known: &Chunk, now: &ChunkMap) -> bool {
    let is_in = |id: u64| {
        let counts = |member: &&wire::lease::Member| {
            matches!(member.state(), MemberState::Member | MemberState::Joining)
        };
        now.members.iter().filter(counts).any(|member| member.cs_id == id)
    };
    known.targets().any(|server| !is_in(server.id()))
}

#[cfg(test)]
mod tests {
    use link::{ClusterAuthority, ClusterId, Endpoint, LocalHello, Options, Roles};
    use wire::hello::Role;
    use wire::lease::Member;

    use super::*;

    fn run(test: impl FnOnce(&Rc<Servers>, &Rc<Lease>) + 'static) {
        rt::Executor::start(&rt::ExecutorOptions::default()).expect("io_uring works here").run(async {
            let authority = ClusterAuthority::create("c", ClusterId::random()).expect("a good name");
            let credentials = authority.issue("node", "0123456789abcdef", Roles::ALL).expect("good names");
            let hello = LocalHello::new(Role::Client, [1; 16]);
            let endpoint = Endpoint::new(credentials, hello, Options::default()).expect("good credentials");
            test(&Servers::new(endpoint), &Rc::new(Lease::new(1, 0, false)));
        });
    }

    /// Tells of a version of the first chunk.
    fn learn(lease: &Lease, servers: &Servers, version: u64, members: &[u64], joiners: &[u64]) -> Rc<Chunk> {
        let in_state = |ids: &[u64], state: MemberState| -> Vec<Member> {
            ids.iter().map(|&cs_id| Member { cs_id, state: state.into(), slot: 0 }).collect()
        };
        let mut all = in_state(members, MemberState::Member);
        all.extend(in_state(joiners, MemberState::Joining));
        all.extend(in_state(&[99], MemberState::Absent));
        let chunk = ChunkMap { index: 0, chunk_id: 1000, version, members: all, ..ChunkMap::default() };
        lease.learn(servers, &MapReply { chunks: vec![chunk], ..MapReply::default() }, 0..1);
        lease.chunks.borrow().chunk(0).cloned().expect("learnt just now")
    }

    fn installed(version: u64) -> InstalledVersion {
        InstalledVersion { chunk: 1000, version }
    }

    #[test]
    fn c10_a_member_that_is_stale_is_none_any_more_at_the_same_version() {
        run(|servers, lease| {
            let before = learn(lease, servers, 5, &[1, 2, 3], &[]);
            write(lease, &before);
            let after = learn(lease, servers, 5, &[1, 3], &[]);
            assert!(before.is_replaced() && !after.is_target(2), "who waits for it is told");
            assert_eq!(lease.uninstalled().into_iter().collect::<Vec<_>>(), [1, 3]);
            // An answer that was on its way says nothing new.
            let late = learn(lease, servers, 5, &[1, 2, 3], &[]);
            assert!(Rc::ptr_eq(&after, &late));
        });
    }

    #[test]
    fn c6_what_somebody_who_left_has_lost_is_not_stable_before_the_others_have_noted_it() {
        run(|servers, lease| {
            let asked = |lease: &Lease| lease.uninstalled().into_iter().collect::<Vec<_>>();
            let chunk = learn(lease, servers, 5, &[1, 2], &[3]);
            write(lease, &chunk);
            learn(lease, servers, 6, &[1, 2, 3], &[4]);
            assert_eq!(asked(lease), [], "all who have it are there");
            learn(lease, servers, 7, &[1, 3], &[4]);
            assert_eq!(asked(lease), [1, 3], "the members; a joiner takes over what they know");
            assert_eq!(lease.uninstalled_at(1, 9), [(0, installed(7))]);
            assert_eq!((lease.uninstalled_at(1, 0), lease.uninstalled_at(2, 9)), (vec![], vec![]));
            lease.installed(1, &[(0, installed(7))]);
            assert_eq!(asked(lease), [3]);
            // One more version: all are asked again, and a late answer says nothing of it.
            let chunk = learn(lease, servers, 8, &[1, 3, 4], &[]);
            lease.installed(3, &[(0, installed(7))]);
            assert_eq!(asked(lease), [1, 3, 4]);
            lease.installed(3, &[(0, installed(8)), (5, installed(8))]);
            assert_eq!(asked(lease), [1, 4]);
            // Whoever answers a write under it has it.
            let late = Chunk::bare(0, 7);
            lease.note_unstable(&late, 1);
            assert_eq!(asked(lease), [1, 4]);
            write(lease, &chunk);
            assert_eq!(asked(lease), []);
            // A joiner that leaves loses them, too: it may return.
            learn(lease, servers, 9, &[1, 3, 4], &[5]);
            let chunk = learn(lease, servers, 10, &[1, 3, 4], &[5, 6]);
            write(lease, &chunk);
            learn(lease, servers, 11, &[1, 3, 4], &[5]);
            assert_eq!(asked(lease), [1, 3, 4]);
            for server in [1, 3, 4] {
                lease.installed(server, &[(0, installed(11))]);
            }
            assert_eq!(asked(lease), []);
            let plan = lease.flush_plan();
            lease.window.borrow_mut().flushed(&plan);
            lease.prune_unstable();
            learn(lease, servers, 12, &[1, 3], &[5]);
            assert_eq!(asked(lease), [], "nothing was unstable");
        });
    }

    /// A write that everybody in the chunk has answered.
    fn write(lease: &Lease, chunk: &Chunk) -> u64 {
        let issued = Issued::begin(lease);
        let seq = issued.seq;
        chunk.targets().for_each(|server| lease.window.borrow_mut().touch(server.id(), seq));
        lease.note_unstable(chunk, seq);
        issued.answered();
        seq
    }

    fn planned(lease: &Lease) -> Vec<u64> {
        lease.flush_plan().servers.iter().map(|(server, _)| *server).collect()
    }

    fn needed(lease: &Lease) -> Vec<u64> {
        (1..=9).filter(|server| lease.needs_flushed(*server).is_some()).collect()
    }

    #[test]
    fn c4_whoever_has_unstable_writes_and_is_in_the_chunk_is_needed() {
        run(|servers, lease| {
            let chunk = learn(lease, servers, 5, &[1, 2, 3], &[]);
            write(lease, &chunk);
            assert_eq!((planned(lease), needed(lease)), (vec![1, 2, 3], vec![1, 2, 3]));
            // One leaves and another joins: what was written before does not need that one.
            let chunk = learn(lease, servers, 6, &[1, 2], &[4]);
            assert_eq!(needed(lease), [1, 2]);
            assert_eq!(planned(lease), [1, 2, 3], "until it turns out that it cannot be flushed");
            lease.pass_over(3);
            assert_eq!(planned(lease), [1, 2]);
            write(lease, &chunk);
            assert_eq!((planned(lease), needed(lease)), (vec![1, 2, 4], vec![1, 2, 4]));
            // Back again, and written to: needed again.
            let chunk = learn(lease, servers, 7, &[1, 2, 4], &[3]);
            assert_eq!(planned(lease), [1, 2, 4]);
            write(lease, &chunk);
            assert_eq!(planned(lease), [1, 2, 3, 4]);
            let plan = lease.flush_plan();
            lease.window.borrow_mut().flushed(&plan);
            lease.prune_unstable();
            assert_eq!((planned(lease), needed(lease)), (vec![], vec![]));
        });
    }

    #[test]
    fn c4_a_flush_without_who_is_passed_over_counts_for_what_was_answered() {
        run(|servers, lease| {
            let chunk = learn(lease, servers, 5, &[1, 2, 3], &[]);
            write(lease, &chunk);
            let chunk = learn(lease, servers, 6, &[1, 2], &[]);
            lease.pass_over(3);
            let on_its_way = Issued::begin(lease);
            chunk.targets().for_each(|server| lease.window.borrow_mut().touch(server.id(), on_its_way.seq));
            write(lease, &chunk);
            let plan = lease.flush_plan();
            assert_eq!(planned(lease), [1, 2]);
            assert!(!lease.window.borrow().has_flushed(1), "it has only begun");
            lease.window.borrow_mut().flushed(&plan);
            lease.prune_unstable();
            let has_flushed_all = || lease.window.borrow().has_flushed(lease.window.borrow().answers());
            assert!(has_flushed_all());
            // The mark has not passed the last one yet: both stay needed, and are flushed again.
            assert_eq!((planned(lease), needed(lease)), (vec![1, 2], vec![1, 2]));
            lease.note_unstable(&chunk, on_its_way.seq);
            on_its_way.answered();
            assert!(!has_flushed_all());
        });
    }

    #[test]
    #[should_panic(expected = "has writes that nobody else makes stable")]
    fn c4_nobody_is_passed_over_whom_a_chunk_needs() {
        run(|servers, lease| {
            let chunk = learn(lease, servers, 5, &[1, 2], &[]);
            write(lease, &chunk);
            lease.pass_over(2);
        });
    }

    #[test]
    fn late_answers_take_nobody_off_a_list() {
        run(|servers, lease| {
            let old = learn(lease, servers, 5, &[1, 2], &[]);
            let chunk = learn(lease, servers, 6, &[1, 2], &[3]);
            assert!(old.is_replaced() && !chunk.is_replaced());
            write(lease, &chunk);
            let known = learn(lease, servers, 5, &[1, 2], &[]);
            assert_eq!(known.version, 6, "an older map says nothing");
            lease.forget_server(3);
            assert!(chunk.is_replaced());
            let known = learn(lease, servers, 5, &[1, 2], &[]);
            assert_eq!(known.version, 5, "nothing else was known");
            assert_eq!(needed(lease), [1, 2, 3]);
            assert_eq!(lease.needs_flushed(3), Some((0, 6)));
            learn(lease, servers, 7, &[1, 2], &[]);
            assert_eq!(needed(lease), [1, 2]);
            // A map with nobody in it makes nothing stable.
            learn(lease, servers, 8, &[], &[]);
            assert_eq!(needed(lease), [1, 2]);
        });
    }

    #[test]
    fn c4_what_is_at_risk_is_at_the_members() {
        run(|servers, lease| {
            let chunk = learn(lease, servers, 5, &[1, 2], &[3]);
            [1, 2, 3].iter().for_each(|server| assert!(lease.same_boot(*server, [7; 16])));
            write(lease, &chunk);
            let next = Rc::new(Lease::new(2, 0, true));
            next.inherit(lease);
            let chunk = learn(&next, servers, 5, &[1, 2], &[3]);
            [1, 2].iter().for_each(|server| assert!(next.same_boot(*server, [8; 16])));
            assert!(next.same_boot(3, [7; 16]));
            assert!(next.lost_all(&chunk), "what only a joiner has counts for nothing");
            // Nor does what one has that is left out, whatever became of it since.
            learn(lease, servers, 5, &[1, 2], &[3]);
            let next = Rc::new(Lease::new(2, 0, true));
            next.inherit(lease);
            let chunk = learn(&next, servers, 6, &[1], &[]);
            assert!(next.same_boot(1, [8; 16]));
            assert!(next.lost_all(&chunk), "C4: the other one may have been the last that had them");
            // After one member has left, the other one alone decides.
            learn(lease, servers, 6, &[1], &[]);
            let next = Rc::new(Lease::new(2, 0, true));
            next.inherit(lease);
            let chunk = learn(&next, servers, 6, &[1], &[]);
            assert!(next.same_boot(1, [7; 16]) && next.same_boot(2, [8; 16]));
            assert!(!next.lost_all(&chunk));
        });
    }

    #[test]
    fn c4_what_is_at_risk_is_not_stable() {
        run(|servers, lease| {
            let chunk = learn(lease, servers, 5, &[1, 2], &[]);
            let flushed = write(lease, &chunk);
            let plan = lease.flush_plan();
            lease.window.borrow_mut().flushed(&plan);
            let (open, noted) = (Issued::begin(lease), write(lease, &chunk));
            let later = Issued::begin(lease);
            let check = |lease: &Lease| {
                assert!(lease.is_at_risk(0, 1, noted));
                assert!(!lease.is_at_risk(0, 1, flushed), "stable");
                assert!(!lease.is_at_risk(0, 1, open.seq), "not answered");
                assert!(!lease.is_at_risk(0, 1, later.seq), "sent later");
                assert!(!lease.is_at_risk(1, 1, noted), "another chunk");
                assert!(!lease.is_at_risk(0, 7, noted), "another epoch");
            };
            check(lease);
            let (second, third) = (Rc::new(Lease::new(2, 0, true)), Rc::new(Lease::new(3, 0, true)));
            second.inherit(lease);
            check(&second);
            third.inherit(&second);
            check(&third);
            let chunk = learn(&third, servers, 6, &[1], &[]);
            assert!(third.lost_all(&chunk));
            assert!(!third.is_at_risk(0, 1, noted), "settled");
            [open, later].into_iter().for_each(Issued::answered);
        });
    }

    #[test]
    fn c4_who_became_a_member_before_a_chunk_was_reconciled_proves_nothing() {
        for (needs_reconcile, lost) in [(false, false), (true, true)] {
            run(move |servers, lease| {
                let chunk = learn(lease, servers, 5, &[1, 2], &[]);
                [1, 2].iter().for_each(|server| assert!(lease.same_boot(*server, [7; 16])));
                write(lease, &chunk);
                // Server 1 has lost its power, and server 2 is given up: server 3 has what was left on server 1.
                let of = |cs_id| Member { cs_id, state: MemberState::Member.into(), slot: 0 };
                let members = vec![of(1), of(3)];
                let map = ChunkMap {
                    index: 0,
                    chunk_id: 1000,
                    version: 6,
                    members,
                    needs_reconcile,
                    ..ChunkMap::default()
                };
                lease.learn(servers, &MapReply { chunks: vec![map], ..MapReply::default() }, 0..1);
                assert!(lease.same_boot(3, [7; 16]));
                let next = Rc::new(Lease::new(2, 0, true));
                next.inherit(lease);
                let chunk = learn(&next, servers, 6, &[1, 3], &[]);
                assert!(next.same_boot(1, [8; 16]) && next.same_boot(3, [7; 16]));
                assert_eq!(next.lost_all(&chunk), lost, "to be reconciled: {needs_reconcile}");
            });
        }
    }

    #[test]
    fn c10_the_boot_of_a_server_is_forgotten_when_nothing_depends_on_it() {
        run(|servers, lease| {
            let chunk = learn(lease, servers, 5, &[1, 2], &[3]);
            (1..=3).for_each(|server| assert!(lease.same_boot(server, [7; 16])));
            write(lease, &chunk);
            assert!(lease.counts_on(2) && !lease.counts_on(3));
            assert!(!lease.same_boot(3, [8; 16]));
            lease.forget_server(3);
            assert!(!lease.same_boot(3, [8; 16]), "the writes it has are not stable");
            learn(lease, servers, 6, &[1, 2], &[]);
            assert!(lease.same_boot(3, [8; 16]), "it may come back as what it is now");
            learn(lease, servers, 7, &[1], &[]);
            assert!(!lease.counts_on(2) && lease.same_boot(2, [9; 16]));
        });
    }
}
