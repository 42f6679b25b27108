//! Replicas are compared with each other (C7): checksums find what rots, this finds members that differ with good checksums.
//!
//! A chunk server names what its verifier has been through. The one with the lowest id of a chunk's members is asked to compare the
//! chunk, so that it happens once per cycle, and only if all its replicas must be equal. What is not asked or not answered is
//! named again in the next cycle: nothing is remembered but what the operator was told.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use wire::Status;
use wire::cs::{CompareChunks, CompareItem, CompareResult, ReplicaDifference, VerifiedChunk};

use super::orders::CsLink;
use super::reign::Reign;
use super::shown;
use crate::state::comparable::{Comparable, FLAG_CHECKSUMS};
use crate::state::{ChunkId, CsId, EventCode, FileId};

/// Comparisons under way at once.
const COMPARISONS_MAX: u64 = 64;
/// Chunks of one heartbeat that are looked at.
const VERIFIED_MAX: usize = 64;
/// How long a chunk server has to compare a chunk. It gives way to clients.
const COMPARE_TIME: Duration = Duration::from_secs(300);
/// Chunks with differences that are remembered, so that each is told once. Those beyond are told in every cycle.
const TOLD_MAX: usize = 1024;
/// Most ranges in one answer, and as many again that are remembered of a chunk.
const DIFFERENCES_MAX: usize = 64;
/// Ranges that an event names.
const RANGES_MAX: usize = 4;
const BLOCK: u64 = 4096;

const _: () = assert!(FLAG_CHECKSUMS == wire::cs::FLAG_CHECKSUMS);

/// Comparisons of replicas.
#[derive(Debug)]
pub(crate) struct Comparisons {
    places: rt::sync::Semaphore,
    /// Chunks that are being compared: a verifier that is quick comes round before that is done.
    running: RefCell<BTreeSet<ChunkId>>,
    /// Blocks of which the operator was told, by chunk.
    told: RefCell<BTreeMap<ChunkId, Vec<Range<u32>>>>,
}

impl Default for Comparisons {
    fn default() -> Self {
        let places = rt::sync::Semaphore::new(COMPARISONS_MAX);
        Self { places, running: RefCell::default(), told: RefCell::default() }
    }
}

impl Comparisons {
    /// Notes what differs in a chunk; whether some of it is news.
    fn note(&self, chunk: ChunkId, result: &CompareResult) -> bool {
        let mut told = self.told.borrow_mut();
        let mut ranges: Vec<Range<u32>> = result.differences.iter().map(blocks).collect();
        if ranges.is_empty() {
            // What could not be compared now may differ still.
            if result.left_out_blocks == 0 {
                told.remove(&chunk);
            }
            return false;
        }
        let known = told.get(&chunk).map_or(&[][..], Vec::as_slice);
        let is_in =
            |range: &Range<u32>, known: &Range<u32>| known.start <= range.start && range.end <= known.end;
        let is_news = ranges.iter().any(|range| !known.iter().any(|known| is_in(range, known)));
        if result.left_out_blocks > 0 {
            let others = known.iter().filter(|known| !ranges.contains(known));
            ranges.extend(others.take(DIFFERENCES_MAX).cloned().collect::<Vec<_>>());
        }
        if told.len() < TOLD_MAX || told.contains_key(&chunk) {
            told.insert(chunk, ranges);
        }
        is_news
    }
}

/// Whether an answer can be true: it comes from a chunk server, and what it says is remembered and told.
fn makes_sense(result: &CompareResult, comparable: &Comparable) -> bool {
    let is_member = |id: &u64| comparable.members.iter().any(|member| u64::from(member.0) == *id);
    let mut from = 0;
    result.differences.len() <= DIFFERENCES_MAX
        && result.differences.iter().all(|difference| {
            let range = difference.range;
            let end = range.first.checked_add(range.count).filter(|end| *end <= comparable.blocks);
            let is_behind = range.count > 0 && range.first >= from;
            from = end.unwrap_or(u32::MAX);
            let groups = &difference.groups;
            is_behind && end.is_some() && groups.iter().flat_map(|group| &group.cs_ids).all(is_member)
        })
}

/// A chunk is being compared until this is dropped.
struct Running<'a> {
    comparisons: &'a Comparisons,
    chunk: ChunkId,
}

impl<'a> Running<'a> {
    fn begin(comparisons: &'a Comparisons, chunk: ChunkId) -> Option<Self> {
        let is_new = comparisons.running.borrow_mut().insert(chunk);
        // Not `then_some`: who is turned away would end the one that runs.
        is_new.then(|| Self { comparisons, chunk })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.comparisons.running.borrow_mut().remove(&self.chunk);
    }
}

impl Reign {
    /// Has chunks compared that a chunk server has verified.
    pub(super) fn compare_verified(self: &Rc<Self>, cs: CsId, session: u64, verified: &[VerifiedChunk]) {
        for chunk in verified.iter().take(VERIFIED_MAX) {
            rt::spawn(Rc::clone(self).compare(cs, session, *chunk));
        }
    }

    async fn compare(self: Rc<Self>, cs: CsId, session: u64, verified: VerifiedChunk) {
        let VerifiedChunk { chunk_id, file_id } = verified;
        let (file, chunk) = (FileId::from_raw(file_id), ChunkId::from_raw(chunk_id));
        let find = || self.read(|state| state.comparable(file, chunk));
        let Some(comparable) = find().filter(|found| found.members.first() == Some(&cs)) else { return };
        let Some(_place) = self.comparisons.places.try_acquire(1) else { return };
        let Some(_running) = Running::begin(&self.comparisons, chunk) else { return };
        let Some(result) = self.order_comparison(cs, session, verified, &comparable).await else { return };
        // Those who were asked are the members still, and have had no reason to differ.
        if find().as_ref() != Some(&comparable) {
            return;
        }
        if !makes_sense(&result, &comparable) {
            tracing::warn!("{cs} answered nonsense about chunk {chunk_id:#x}: is it of the same release?");
            return;
        }
        rt::sim::hit("mds.replicas-compared");
        if self.comparisons.note(chunk, &result) {
            rt::sim::hit("mds.replicas-differ");
            let path = self.read(|state| state.tree().path_of(file));
            self.note_event(EventCode::ReplicasDiffer, args(path, &result, comparable.offset)).await;
        }
    }

    /// Asks a chunk server to compare its replica with those of the others; what it says when it could.
    async fn order_comparison(
        &self,
        cs: CsId,
        session: u64,
        verified: VerifiedChunk,
        comparable: &Comparable,
    ) -> Option<CompareResult> {
        let VerifiedChunk { chunk_id, file_id } = verified;
        let others = comparable.members.iter().copied().filter(|member| *member != cs);
        let members = others.clone().map(|member| member.0.into()).collect();
        let item = CompareItem { file_id, chunk_id, version: comparable.version.raw(), members };
        let servers = self.read(|state| shown::addresses_of(state, others));
        let mut connection = None;
        self.servers.borrow().order(cs, |link: &CsLink| {
            connection = (link.session == session).then(|| link.connection.clone());
        });
        let order = CompareChunks { items: vec![item], servers };
        let reply = connection?.ask(&order, rt::time::now() + COMPARE_TIME).await;
        let result = match reply {
            Ok(reply) => reply.results.into_iter().find(|result| result.chunk_id == chunk_id)?,
            Err(error) => {
                tracing::debug!("{cs} did not compare chunk {chunk_id:#x}: {error}");
                return None;
            }
        };
        let status = Status::from_code(u16::try_from(result.status).unwrap_or(u16::MAX));
        if !status.is_ok() {
            tracing::debug!("{cs} could not compare chunk {chunk_id:#x}: {status}");
            return None;
        }
        Some(result)
    }
}

fn blocks(difference: &ReplicaDifference) -> Range<u32> {
    let range = difference.range;
    range.first..range.first.saturating_add(range.count)
}

/// What the event says of a chunk that begins at `offset` of its file.
fn args(path: String, result: &CompareResult, offset: u64) -> Vec<String> {
    let ranges = result.differences.iter().take(RANGES_MAX).map(|difference| {
        let at = |block: u32| offset + u64::from(block) * BLOCK;
        let blocks = blocks(difference);
        format!("{}..{}", at(blocks.start), at(blocks.end))
    });
    let mut ranges: Vec<String> = ranges.collect();
    if result.differences.len() > RANGES_MAX {
        ranges.push("…".into());
    }
    let groups = result.differences.first().map_or(&[][..], |difference| &difference.groups);
    let groups = groups.iter().map(|group| {
        let ids: Vec<String> = group.cs_ids.iter().map(|id| format!("CS#{id}")).collect();
        ids.join(" and ")
    });
    let mut groups = groups.collect::<Vec<_>>().join(" against ");
    if result.differences.iter().any(|other| other.groups != result.differences[0].groups) {
        groups.push_str(" in the first of them");
    }
    let chunk = format!("{:#x}", result.chunk_id);
    vec![path, chunk, result.differing_blocks.to_string(), ranges.join(", "), groups]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Version;
    use wire::cs::{AgreeingMembers, BlockRange};

    fn difference(first: u32, count: u32, groups: &[&[u64]]) -> ReplicaDifference {
        let groups = groups.iter().map(|ids| AgreeingMembers { cs_ids: ids.to_vec() }).collect();
        ReplicaDifference { range: BlockRange { first, count }, groups }
    }

    #[test]
    fn what_differs_is_told_once() {
        let comparisons = Comparisons::default();
        let two = [difference(4, 1, &[&[1], &[2]]), difference(9, 2, &[&[1], &[2]])];
        let note = |chunk, differences: &[ReplicaDifference], left_out_blocks| {
            let differences = differences.to_vec();
            let result = CompareResult { differences, left_out_blocks, ..CompareResult::default() };
            comparisons.note(ChunkId::from_raw(chunk), &result)
        };
        assert!(note(7, &two, 0));
        assert!(!note(7, &two, 0));
        assert!(!note(7, &[], 3), "they may have been left out");
        assert!(!note(7, &two[1..], 0), "some of it was mended");
        assert!(note(7, &two, 0), "and is there again");
        assert!(!note(7, &[], 0));
        assert!(note(7, &two[..1], 0), "another occurrence");
        assert!(note(7, &two, 0));
        assert!(!note(7, &two[..1], 1) && !note(7, &two, 0), "some of it could not be looked at for once");
        assert!(!note(7, &two[..1], 0), "some of it was mended");
        for other in 0..2 * TOLD_MAX as u64 {
            note(100 + other, &two, 0);
        }
        assert_eq!(comparisons.told.borrow().len(), TOLD_MAX);
        assert!(!note(7, &two[..1], 0), "what is remembered stays so");
    }

    #[test]
    fn what_a_chunk_server_says_is_looked_at() {
        let (version, members) = (Version::from_raw(1), vec![CsId(1), CsId(2)]);
        let comparable = Comparable { version, offset: 0, blocks: 512, members };
        let pair: &[&[u64]] = &[&[1], &[2]];
        let many: Vec<_> = (0..=DIFFERENCES_MAX as u32).map(|block| difference(block * 2, 1, pair)).collect();
        for (differences, sense) in [
            (vec![], true),
            (vec![difference(0, 512, pair)], true),
            (vec![difference(511, 1, pair), difference(4, 1, pair)], false),
            (vec![difference(0, 513, pair)], false),
            (vec![difference(1, u32::MAX, pair)], false),
            (vec![difference(5, 0, pair)], false),
            (vec![difference(0, 1, &[&[1], &[7]])], false),
            (many.clone(), false),
            (many[1..].to_vec(), true),
        ] {
            let result = CompareResult { differences, ..CompareResult::default() };
            assert_eq!(makes_sense(&result, &comparable), sense, "{result:?}");
        }
    }

    #[test]
    fn an_event_names_the_place_in_the_file() {
        let groups: &[&[u64]] = &[&[1025, 1027], &[1026]];
        let mut result = CompareResult {
            chunk_id: 0x2002,
            differences: vec![difference(2, 3, groups)],
            differing_blocks: 3,
            ..CompareResult::default()
        };
        let told = args("/a".into(), &result, 1 << 20);
        let range = "1056768..1069056";
        assert_eq!(told, ["/a", "0x2002", "3", range, "CS#1025 and CS#1027 against CS#1026"]);
        result.differences.extend((10..20).map(|block| difference(block * 2, 1, &[&[1025], &[1027]])));
        let told = args("/a".into(), &result, 0);
        assert_eq!(told[3], "8192..20480, 81920..86016, 90112..94208, 98304..102400, …");
        assert!(told[4].ends_with(" in the first of them"), "{}", told[4]);
    }
}
