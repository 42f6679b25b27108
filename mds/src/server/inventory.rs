//! What a chunk server has is compared with what it should have (C9, C12): after each registration, and every few hours.
//!
//! One chunk server at a time. First its replicas are taken from the maps, some thousands of chunks between two looks at everything
//! else; then it is asked for its own, page by page; what differs is looked for in the maps once more, because they have changed
//! meanwhile. The memory it takes is that of the ids of one chunk server's replicas.
//!
//! What no map has goes in quarantine; what is not there is made anew elsewhere. Both are commands, which decide once more.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use rt::time::Instant;
use wire::cs::{ReplicaReport, ReplicaState, ReportChunks};
use wire::hello::Empty;

use super::asked::Asked;
use super::failure::Failure;
use super::reign::Reign;
use crate::state::chunk::MemberState;
use crate::state::command::{
    CommandOp, LoseReplicas, QuarantineReplicas, ReplicaPlace, SkipIds, UnknownReplica,
};
use crate::state::{ChunkId, CsId, EventCode, FileId, MEMBERS_MAX, Parameter, Stranger, Version};

/// Where all chunks begin.
const START: (FileId, u32) = (FileId::ZERO, 0);
/// Chunks that are looked at between two looks at everything else.
const LOOK_MAX: usize = 16_384;
/// How long the next page may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Differences of each kind that are followed at once: the next comparison, which follows at once, goes on where there were so many.
const FOUND_MAX: usize = 16_384;

/// Comparisons.
#[derive(Debug, Default)]
pub(crate) struct Inventories {
    /// The one that goes on.
    scan: RefCell<Option<Scan>>,
    /// Those that are done: for which registration, and when.
    done: RefCell<BTreeMap<CsId, (u64, Instant)>>,
    /// Where the next comparison of a registration goes on that one did not finish, and what it left alone.
    parts: RefCell<BTreeMap<CsId, (u64, Part)>>,
    /// How many chunks of each kind that is left alone the operator was told of.
    told: RefCell<BTreeMap<(CsId, EventCode), usize>>,
    /// Replicas that are not there and could not be given up when the operator was told of them.
    gone: RefCell<BTreeSet<(CsId, ChunkId)>>,
}

/// How far a comparison came that found more than is followed at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    /// Chunks below this are done.
    from: u64,
    kept: Kept,
}

/// Replicas that are left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kept {
    former: usize,
    newer: usize,
    unborn: usize,
}

impl Kept {
    fn count(&mut self, judged: Stranger) {
        match judged {
            Stranger::Deleted => {}
            Stranger::Former => self.former += 1,
            Stranger::Newer => self.newer += 1,
            Stranger::Unborn => self.unborn += 1,
        }
    }
}

/// A replica that a chunk server should have, or may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Expected {
    chunk: ChunkId,
    version: Version,
    /// It must be there.
    must: bool,
}

/// How far a comparison is.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// The maps are being looked through.
    Gathering,
    /// The chunk server is to be asked with its next heartbeat.
    Ready,
    /// It was asked.
    Asked,
    /// All pages are there.
    Judging,
}

#[derive(Debug)]
struct Scan {
    cs: CsId,
    session: u64,
    stage: Stage,
    /// Until when it may stay as it is.
    until: Instant,
    /// In the order of their ids; those below `next` are compared.
    expected: Vec<Expected>,
    compared: usize,
    /// The lowest id that was not spoken of.
    next: u64,
    /// What an earlier part of the comparison has looked at.
    part: Part,
    /// The first id that was not given out when the maps were looked through.
    born: ChunkId,
    found: Found,
}

/// What differs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Replicas that should not be there, and their versions.
    unknown: BTreeMap<ChunkId, Version>,
    /// Replicas that should be there, and their versions when that was looked up.
    missing: BTreeMap<ChunkId, Version>,
    /// There is more of one kind than is followed at once: from this chunk on nothing is in the lists.
    more: Option<ChunkId>,
}

impl Found {
    /// Chunks come in the order of their ids.
    fn add(&mut self, is_there: bool, chunk: ChunkId, version: Version) {
        let list = if is_there { &mut self.unknown } else { &mut self.missing };
        if self.more.is_none() && list.len() < FOUND_MAX {
            list.insert(chunk, version);
        } else {
            self.more.get_or_insert(chunk);
        }
    }
}

impl Scan {
    fn new(cs: CsId, session: u64, now: Instant) -> Self {
        Self {
            cs,
            session,
            stage: Stage::Gathering,
            until: now + PATIENCE,
            expected: Vec::new(),
            compared: 0,
            next: 0,
            part: Part::default(),
            born: ChunkId::from_raw(0),
            found: Found::default(),
        }
    }

    fn differs(&mut self, is_there: bool, chunk: ChunkId, version: Version) {
        if chunk.raw() >= self.part.from {
            self.found.add(is_there, chunk, version);
        }
    }

    /// Compares a page; false if it is not the one that comes next.
    fn compare(&mut self, first: u64, replicas: &[ReplicaReport], last: bool) -> bool {
        let ascending = replicas.windows(2).all(|pair| pair[0].chunk_id < pair[1].chunk_id);
        let from = replicas.first().map_or(first, |replica| replica.chunk_id);
        if first != self.next || !ascending || from < first || (replicas.is_empty() && !last) {
            return false;
        }
        for replica in replicas {
            let chunk = ChunkId::from_raw(replica.chunk_id);
            self.pass(|expected| expected.chunk < chunk);
            let is_expected = self.expected.get(self.compared).filter(|expected| expected.chunk == chunk);
            // What cannot be used is as good as nothing.
            if is_expected.is_some() && replica.state() != ReplicaState::Missing {
                self.compared += 1;
            } else if is_expected.is_none() {
                self.differs(true, chunk, Version::from_raw(replica.version));
            } else {
                self.pass(|expected| expected.chunk == chunk);
            }
            self.next = replica.chunk_id.saturating_add(1);
        }
        if last {
            self.pass(|_| true);
        }
        true
    }

    /// These are not there.
    fn pass(&mut self, is_passed: impl Fn(&Expected) -> bool) {
        while let Some(expected) = self.expected.get(self.compared).copied().filter(&is_passed) {
            self.compared += 1;
            if expected.must {
                self.differs(false, expected.chunk, expected.version);
            }
        }
    }
}

impl Reign {
    /// Whether a chunk server is to tell all it has now. Begins a comparison if it is its turn.
    pub(super) fn wants_inventory(self: &Rc<Self>, cs: CsId, session: u64, now: Instant) -> bool {
        let mut scan = self.inventories.scan.borrow_mut();
        if let Some(scan) = scan.as_mut()
            && (scan.cs, scan.session, &scan.stage) == (cs, session, &Stage::Ready)
        {
            (scan.stage, scan.until) = (Stage::Asked, now + PATIENCE);
            return true;
        }
        let is_given_up = |scan: &mut Scan| {
            let ended = !self.read(|state| state.server(scan.cs).is_some_and(|s| s.session == scan.session));
            ended || (scan.until < now && matches!(scan.stage, Stage::Ready | Stage::Asked))
        };
        if let Some(given_up) = scan.take_if(is_given_up) {
            // Its turn comes again, after the others, and goes on where this one began.
            self.inventories.parts.borrow_mut().insert(given_up.cs, (given_up.session, given_up.part));
            self.inventories.done.borrow_mut().insert(given_up.cs, (given_up.session, now));
        }
        let (serves, interval) = self.read(|state| {
            let serves = state.server(cs).is_some_and(|server| server.serves());
            (serves, Duration::from_secs(state.config(Parameter::InventoryInterval)))
        });
        let done = self.inventories.done.borrow().get(&cs).copied();
        let is_due = done.is_none_or(|(of, at)| of != session || now.since(at) >= interval);
        if scan.is_none() && serves && is_due {
            let mut new = Scan::new(cs, session, now);
            let begun = self.inventories.parts.borrow_mut().remove(&cs);
            new.part = begun.filter(|(of, _)| *of == session).map_or_else(Part::default, |(_, part)| part);
            new.born = self.read(crate::state::State::next_chunk);
            *scan = Some(new);
            rt::spawn(Rc::clone(self).gather(cs, session));
        }
        false
    }

    /// Takes from the maps what a chunk server should have.
    async fn gather(self: Rc<Self>, cs: CsId, session: u64) {
        let mut expected = Vec::new();
        let mut from = Some(START);
        while let Some(at) = from.filter(|_| !self.is_over()) {
            from = self.read(|state| {
                state.visit_chunks(at, LOOK_MAX, |_, entry| {
                    let Some(member) = entry.members().on(cs) else { return };
                    let must = matches!(
                        member.state,
                        MemberState::InSync | MemberState::Joining | MemberState::Absent
                    );
                    expected.push(Expected { chunk: entry.id(), version: entry.version(), must });
                })
            });
            rt::yield_now().await;
        }
        // What it has not deleted yet is in no map.
        self.read(|state| {
            let deleting = state.deletions().filter(|(_, found)| found.waiting.contains(&cs));
            expected.extend(deleting.map(|(chunk, _)| Expected {
                chunk,
                version: Version::from_raw(0),
                must: false,
            }));
        });
        // Of a chunk that is in both lists the replica need not be there.
        expected.sort_unstable_by_key(|expected| (expected.chunk, expected.must));
        expected.dedup_by_key(|expected| expected.chunk);
        let mut scan = self.inventories.scan.borrow_mut();
        if let Some(scan) = scan.as_mut()
            && (scan.cs, scan.session, &scan.stage) == (cs, session, &Stage::Gathering)
        {
            (scan.expected, scan.stage) = (expected, Stage::Ready);
            scan.until = rt::time::now() + PATIENCE;
        }
    }

    /// A page of what a chunk server has.
    pub(super) async fn report_chunks(
        self: &Rc<Self>,
        call: ReportChunks,
        asked: &Asked,
    ) -> Result<Empty, Failure> {
        let cs = CsId(u32::try_from(call.cs_id).map_err(|_| Failure::not_registered())?);
        self.confirm(asked).await?;
        let is_known = |state: &crate::state::State| {
            state.server(cs).is_some_and(|server| server.session == call.session && !server.is_lapsed())
        };
        if !self.read(is_known) {
            return Err(Failure::not_registered());
        }
        let mut scan = self.inventories.scan.borrow_mut();
        let Some(going) = scan
            .as_mut()
            .filter(|scan| (scan.cs, scan.session, &scan.stage) == (cs, call.session, &Stage::Asked))
        else {
            // Nobody waits for it any more.
            return Ok(Empty {});
        };
        if !going.compare(call.first_id, &call.replicas, call.last) {
            *scan = None;
            self.inventories.done.borrow_mut().insert(cs, (call.session, rt::time::now()));
            return Err(Failure::new(
                wire::Status::Invalid,
                "this is not the page of the inventory that comes next: it is asked for again later",
            ));
        }
        going.until = rt::time::now() + PATIENCE;
        if call.last {
            going.stage = Stage::Judging;
            let (found, part, born) = (std::mem::take(&mut going.found), going.part, going.born);
            rt::spawn(Rc::clone(self).settle_differences(cs, call.session, found, part, born));
        }
        Ok(Empty {})
    }

    /// Has done what follows from a comparison.
    async fn settle_differences(
        self: Rc<Self>,
        cs: CsId,
        session: u64,
        found: Found,
        mut part: Part,
        born: ChunkId,
    ) {
        let more = found.more;
        if self.act_on(cs, session, found, &mut part, born).await.is_none() {
            return;
        }
        match more {
            Some(from) => {
                part.from = from.raw();
                self.inventories.parts.borrow_mut().insert(cs, (session, part));
            }
            None => {
                self.tell_kept(cs, part.kept).await;
                self.inventories.done.borrow_mut().insert(cs, (session, rt::time::now()));
            }
        }
        self.inventories.scan.borrow_mut().take_if(|scan| (scan.cs, scan.session) == (cs, session));
    }

    /// `None` when the reign is over.
    async fn act_on(
        &self,
        cs: CsId,
        session: u64,
        mut found: Found,
        part: &mut Part,
        born: ChunkId,
    ) -> Option<()> {
        let looked_at = part.from..found.more.map_or(u64::MAX, ChunkId::raw);
        let kept = &mut part.kept;
        let mut unknown: Vec<UnknownReplica> = Vec::new();
        let mut places: Vec<(ChunkId, ReplicaPlace)> = Vec::new();
        let mut from = Some(START).filter(|_| !found.unknown.is_empty() || !found.missing.is_empty());
        let (mut ahead, mut newer) = (None, false);
        while let Some(at) = from {
            if self.is_over() {
                return None;
            }
            from = self.read(|state| {
                state.visit_chunks(at, LOOK_MAX, |file, entry| {
                    let (chunk, index, now) = (entry.id(), entry.index(), entry.version());
                    let member = entry.members().on(cs);
                    if let Some(version) = found.unknown.remove(&chunk)
                        && member.is_none()
                    {
                        let judged = state.judge_replica(entry, version);
                        if judged == Stranger::Unborn {
                            ahead = ahead.max(Some(chunk));
                            newer = true;
                        }
                        if state.is_surplus(entry, version) {
                            let (chunk, version, file) = (chunk.raw(), version.raw(), file.raw());
                            unknown.push(UnknownReplica { chunk, version, file, index });
                        } else {
                            kept.count(judged);
                        }
                    }
                    if member.is_some() && found.missing.get(&chunk) == Some(&now) {
                        let (file, version) = (file.raw(), now.raw());
                        places.push((chunk, ReplicaPlace { file, index, version, cs: cs.0 }));
                    }
                })
            });
            rt::yield_now().await;
        }
        self.read(|state| {
            for (&chunk, version) in &found.unknown {
                let judged = state.judge_stranger(chunk);
                if judged == Stranger::Unborn {
                    ahead = ahead.max(Some(chunk).filter(|chunk| chunk.generation() == born.generation()));
                }
                if !state.is_deletable(judged) {
                    kept.count(judged);
                } else if chunk < born {
                    let (chunk, version) = (chunk.raw(), version.raw());
                    unknown.push(UnknownReplica { chunk, version, file: 0, index: 0 });
                }
                // What was made and deleted meanwhile is on its way out; else the next comparison finds it.
            }
            unknown.retain(|replica| !state.is_changing(ChunkId::from_raw(replica.chunk), cs));
            let mut gone = self.inventories.gone.borrow_mut();
            let is_back =
                |chunk: &ChunkId| looked_at.contains(&chunk.raw()) && !found.missing.contains_key(chunk);
            gone.retain(|(of, chunk)| *of != cs || !is_back(chunk));
            places.retain(|(chunk, place)| state.may_lose(place) || !gone.contains(&(cs, *chunk)));
        });
        if let Some(chunk) = ahead {
            let op = SkipIds { chunk: chunk.raw(), newer };
            if let Err(refusal) = self.insist(CommandOp::SkipIds(op)).await? {
                tracing::error!("{cs}: {refusal}");
            }
        }
        for some in unknown.chunks(MEMBERS_MAX) {
            (0..some.len()).for_each(|_| rt::sim::hit("mds.stranger-quarantined"));
            let op = QuarantineReplicas { cs: cs.0, session, replicas: some.to_vec() };
            if let Err(refusal) = self.insist(CommandOp::QuarantineReplicas(op)).await? {
                tracing::info!("{cs}: {refusal}");
                return Some(());
            }
        }
        for some in places.chunks(MEMBERS_MAX) {
            (0..some.len()).for_each(|_| rt::sim::hit("mds.replica-missing"));
            let op =
                LoseReplicas { cs: cs.0, session, places: some.iter().map(|(_, place)| *place).collect() };
            if let Err(refusal) = self.insist(CommandOp::LoseReplicas(op)).await? {
                tracing::info!("{cs}: {refusal}");
                return Some(());
            }
            // Those that are there still could not be given up.
            self.inventories.gone.borrow_mut().extend(some.iter().map(|(chunk, _)| (cs, *chunk)));
        }
        Some(())
    }

    /// Tells the operator of chunks that nobody knows and nobody deletes, once for as long as there are as many.
    async fn tell_kept(&self, cs: CsId, kept: Kept) {
        let told = [
            (EventCode::UnknownKept, kept.former),
            (EventCode::ReplicasNewer, kept.newer),
            (EventCode::MetadataOld, kept.unborn),
        ];
        for (code, count) in told {
            let before = self.inventories.told.borrow_mut().insert((cs, code), count);
            if count > 0 && before != Some(count) {
                self.note_event(code, vec![cs.0.to_string(), count.to_string()]).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(number: u64) -> ChunkId {
        ChunkId::new(1, number)
    }

    fn scan(expected: &[(u64, bool)]) -> Scan {
        let expected = expected.iter().map(|(number, must)| Expected {
            chunk: chunk(*number),
            version: Version::new(1, 7),
            must: *must,
        });
        Scan { expected: expected.collect(), ..Scan::new(CsId(1025), 3, Instant::from_nanos(0)) }
    }

    fn page(numbers: &[u64]) -> Vec<ReplicaReport> {
        let replica = |number: &u64| ReplicaReport {
            chunk_id: chunk(*number).raw(),
            version: Version::new(1, 7).raw(),
            state: ReplicaState::Good.into(),
            used_bytes: 0,
        };
        numbers.iter().map(replica).collect()
    }

    fn numbers(list: &BTreeMap<ChunkId, Version>) -> Vec<u64> {
        list.keys().map(|chunk| chunk.counter()).collect()
    }

    #[test]
    fn c9_what_differs_is_found_page_by_page() {
        let mut scan = scan(&[(2, true), (3, true), (5, false), (6, true), (9, true)]);
        assert!(scan.compare(0, &page(&[1, 2]), false));
        assert!(scan.compare(chunk(2).raw() + 1, &page(&[4, 6]), false));
        assert_eq!(numbers(&scan.found.missing), [3], "what lies beyond the page may come yet");
        assert!(scan.compare(chunk(6).raw() + 1, &page(&[7]), true));
        assert_eq!((numbers(&scan.found.unknown), numbers(&scan.found.missing)), (vec![1, 4, 7], vec![3, 9]));
    }

    #[test]
    fn a_replica_without_its_file_is_missing() {
        let mut scan = scan(&[(2, true), (3, true)]);
        let mut replicas = page(&[2, 3, 4]);
        replicas[0].state = ReplicaState::Missing.into();
        assert!(scan.compare(0, &replicas, true));
        assert_eq!((numbers(&scan.found.unknown), numbers(&scan.found.missing)), (vec![4], vec![2]));
    }

    #[test]
    fn pages_out_of_order_are_refused() {
        let mut scan = scan(&[]);
        assert!(!scan.compare(1, &page(&[1]), false), "it is not the first");
        assert!(!scan.compare(0, &page(&[2, 1]), false));
        assert!(!scan.compare(0, &[], false), "nothing, and more to come");
        assert!(scan.compare(0, &page(&[1]), false));
        assert!(!scan.compare(0, &page(&[1]), false), "again");
        assert!(scan.compare(chunk(1).raw() + 1, &[], true));
    }

    #[test]
    fn c13_no_more_is_followed_at_once_than_has_room() {
        let mut scan = scan(&[]);
        let many: Vec<u64> = (1..=FOUND_MAX as u64 + 1).collect();
        assert!(scan.compare(0, &page(&many), true));
        let last = chunk(FOUND_MAX as u64 + 1);
        assert_eq!((scan.found.unknown.len(), scan.found.more), (FOUND_MAX, Some(last)));
        // The next part goes on there, whatever became of the first.
        let mut next = self::scan(&[(1, true)]);
        next.part.from = last.raw();
        assert!(next.compare(0, &page(&many[1..]), true));
        assert_eq!((numbers(&next.found.unknown), next.found.more), (vec![last.counter()], None));
        assert!(next.found.missing.is_empty());
    }
}
