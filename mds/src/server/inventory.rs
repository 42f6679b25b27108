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
use crate::state::command::{CommandOp, LoseReplicas, QuarantineReplicas, ReplicaPlace, UnknownReplica};
use crate::state::{ChunkId, CsId, EventCode, FileId, MEMBERS_MAX, Parameter, Stranger, Version};

/// Where all chunks begin.
const START: (FileId, u32) = (FileId::ZERO, 0);
/// Chunks that are looked at between two looks at everything else.
const LOOK_MAX: usize = 16_384;
/// How long the next page may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Differences of each kind that are followed at once: the rest is found by the next comparison, which follows at once.
const FOUND_MAX: usize = 16_384;

/// Comparisons.
#[derive(Debug, Default)]
pub(crate) struct Inventories {
    /// The one that goes on.
    scan: RefCell<Option<Scan>>,
    /// Those that are done: for which registration, and when.
    done: RefCell<BTreeMap<CsId, (u64, Instant)>>,
    /// How many chunks of each kind that is left alone the operator was told of.
    told: RefCell<BTreeMap<(CsId, EventCode), usize>>,
    /// Replicas that are not there and cannot be given up, of which the operator was told.
    gone: RefCell<BTreeSet<(CsId, ChunkId)>>,
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
    found: Found,
}

/// What differs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Replicas that should not be there, and their versions.
    unknown: BTreeMap<ChunkId, Version>,
    /// Replicas that should be there, and their versions when that was looked up.
    missing: BTreeMap<ChunkId, Version>,
    /// There is more of one kind than is followed at once.
    more: bool,
}

impl Found {
    fn add(&mut self, is_there: bool, chunk: ChunkId, version: Version) {
        let list = if is_there { &mut self.unknown } else { &mut self.missing };
        if list.len() < FOUND_MAX {
            list.insert(chunk, version);
        } else {
            self.more = true;
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
            found: Found::default(),
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
                self.found.add(true, chunk, Version::from_raw(replica.version));
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
                self.found.add(false, expected.chunk, expected.version);
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
            // Its turn comes again, after the others.
            self.inventories.done.borrow_mut().insert(given_up.cs, (given_up.session, now));
        }
        let (serves, interval) = self.read(|state| {
            let serves = state.server(cs).is_some_and(|server| server.serves());
            (serves, Duration::from_secs(state.config(Parameter::InventoryInterval)))
        });
        let done = self.inventories.done.borrow().get(&cs).copied();
        let is_due = done.is_none_or(|(of, at)| of != session || now.since(at) >= interval);
        if scan.is_none() && serves && is_due {
            *scan = Some(Scan::new(cs, session, now));
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
        expected.sort_unstable();
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
            let found = std::mem::take(&mut going.found);
            rt::spawn(Rc::clone(self).settle_differences(cs, call.session, found));
        }
        Ok(Empty {})
    }

    /// Has done what follows from a comparison.
    async fn settle_differences(self: Rc<Self>, cs: CsId, session: u64, found: Found) {
        let more = found.more;
        if self.act_on(cs, session, found).await.is_none() {
            return;
        }
        if !more {
            self.inventories.done.borrow_mut().insert(cs, (session, rt::time::now()));
        }
        self.inventories.scan.borrow_mut().take_if(|scan| (scan.cs, scan.session) == (cs, session));
    }

    /// `None` when the reign is over.
    async fn act_on(&self, cs: CsId, session: u64, mut found: Found) -> Option<()> {
        let mut unknown: Vec<UnknownReplica> = Vec::new();
        let mut places: Vec<(ChunkId, ReplicaPlace)> = Vec::new();
        let mut from = Some(START).filter(|_| !found.unknown.is_empty() || !found.missing.is_empty());
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
                        let (chunk, version, file) = (chunk.raw(), version.raw(), file.raw());
                        unknown.push(UnknownReplica { chunk, version, file, index });
                    }
                    if member.is_some() && found.missing.get(&chunk) == Some(&now) {
                        let (file, version) = (file.raw(), now.raw());
                        places.push((chunk, ReplicaPlace { file, index, version, cs: cs.0 }));
                    }
                })
            });
            rt::yield_now().await;
        }
        self.note_kept(cs, &found.unknown).await;
        let deletes = self.read(|state| state.config(Parameter::DeleteUnknown) != 0);
        self.read(|state| {
            let deleted = found.unknown.iter().filter(|(chunk, _)| match state.judge_stranger(**chunk) {
                Stranger::Deleted => true,
                Stranger::Former => deletes,
                Stranger::Unborn => false,
            });
            unknown.extend(deleted.map(|(chunk, version)| {
                let (chunk, version) = (chunk.raw(), version.raw());
                UnknownReplica { chunk, version, file: 0, index: 0 }
            }));
            unknown.retain(|replica| !state.is_changing(ChunkId::from_raw(replica.chunk), cs));
            self.inventories
                .gone
                .borrow_mut()
                .retain(|(of, chunk)| *of != cs || found.missing.contains_key(chunk));
        });
        let told = self.inventories.gone.borrow().clone();
        places.retain(|(chunk, _)| !told.contains(&(cs, *chunk)));
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
    async fn note_kept(&self, cs: CsId, unknown: &BTreeMap<ChunkId, Version>) {
        let (mut former, mut unborn) = (0, 0);
        self.read(|state| {
            let keeps = state.config(Parameter::DeleteUnknown) == 0;
            for chunk in unknown.keys() {
                match state.judge_stranger(*chunk) {
                    Stranger::Deleted => {}
                    Stranger::Former => former += usize::from(keeps),
                    Stranger::Unborn => unborn += 1,
                }
            }
        });
        for (code, count) in [(EventCode::UnknownKept, former), (EventCode::MetadataOld, unborn)] {
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
        assert_eq!((scan.found.unknown.len(), scan.found.more), (FOUND_MAX, true));
    }
}
