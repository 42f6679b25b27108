//! Comparing replicas here with those of other members (C7): checksums find what rots, this finds what differs with good checksums
//! on both sides.
//!
//! First by the MiB, then by the block where that shows something. A difference counts when the block was written here neither
//! before nor after the other member was asked, when it is there again some seconds later, the same on both sides, and when each
//! side has read the block then and found it to match. Nothing is changed. Whoever restarts, leaves or gets another version
//! ends the comparison without a word: the next cycle of the verifier comes to the chunk again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use link::Connection;
use rt::sync::Semaphore;
use wire::Status;
use wire::copy::{CopyDigest, CopyDigestReply};
use wire::cs::{AgreeingMembers, BlockRange, CompareChunks, CompareItem, CompareResult, ReplicaDifference};

use super::Failure;
use super::copier::{Copier, status_of};
use crate::engine::{DIGEST_BLOCKS_MAX, Digest, DigestRequest, Engine};

/// Orders that are carried out at once; what is refused is compared in the next cycle.
const ORDERS_AT_ONCE: u64 = 4;
/// Blocks that are asked for at once by the MiB: 16 MiB.
const SPAN: u32 = 4096;
/// How long another member has to answer. It waits up to 0.2 s for calm before each MiB.
const PATIENCE: Duration = Duration::from_secs(10);
/// A difference that is not there any more after this long was none.
const LASTING: Duration = Duration::from_secs(5);
/// Differences told of a chunk.
const DIFFERENCES_MAX: usize = 64;

/// Compares replicas by order of the metadata server.
#[derive(Debug)]
pub(crate) struct Comparer {
    engine: Rc<Engine>,
    copier: Rc<Copier>,
    places: Semaphore,
}

/// A chunk that is being compared.
struct Subject<'a> {
    item: &'a CompareItem,
    /// Its replica here.
    own: u64,
    /// Always the same connections: who had to be connected anew has restarted.
    others: Vec<(u64, Connection)>,
}

/// What members have in a block, by their ids.
type Contents = BTreeMap<u64, u32>;

/// What a comparison has shown.
#[derive(Default)]
struct Found {
    /// Blocks in which members differ.
    blocks: BTreeMap<u32, Contents>,
    left_out: u32,
}

impl Comparer {
    pub(crate) fn new(engine: Rc<Engine>, copier: Rc<Copier>) -> Self {
        Self { engine, copier, places: Semaphore::new(ORDERS_AT_ONCE) }
    }

    /// Compares replicas here with others.
    pub(crate) async fn compare(&self, order: CompareChunks) -> Vec<CompareResult> {
        let place = self.places.try_acquire(1);
        self.copier.note_servers(&order.servers);
        let mut results = Vec::with_capacity(order.items.len());
        for item in &order.items {
            let found = if place.is_some() { self.compare_one(item).await } else { Err(Status::Retry) };
            results.push(match found {
                Ok(found) => self.result(item, found),
                Err(status) => {
                    tracing::debug!("chunk {:#x} is not compared: {status}", item.chunk_id);
                    let (chunk_id, status) = (item.chunk_id, u32::from(status.code()));
                    CompareResult { chunk_id, status, ..CompareResult::default() }
                }
            });
        }
        results
    }

    fn result(&self, item: &CompareItem, found: Found) -> CompareResult {
        let chunk_id = item.chunk_id;
        let differing_blocks = found.blocks.len() as u32;
        self.engine.note_compared(differing_blocks);
        rt::sim::hit("cs.replicas-compared");
        let differences = differences(&found.blocks);
        for ReplicaDifference { range, groups } in &differences {
            rt::sim::hit("cs.replicas-differ");
            let groups: Vec<_> = groups.iter().map(|group| &group.cs_ids).collect();
            tracing::error!(
                "chunk {chunk_id:#x}, {} blocks from {}: the replicas differ, and all checksums match; who agrees: {groups:?}",
                range.count,
                range.first
            );
        }
        let status = u32::from(Status::Ok.code());
        let left_out_blocks = found.left_out;
        CompareResult { chunk_id, status, differences, differing_blocks, left_out_blocks }
    }

    async fn compare_one(&self, item: &CompareItem) -> Result<Found, Status> {
        let blocks = self.engine.blocks_of(item.chunk_id).map_err(status)?;
        let own = self.engine.superblock().cs_id;
        let mut subject = Subject { item, own, others: Vec::new() };
        for &id in &item.members {
            let connection = self.copier.connected(id, rt::time::now() + PATIENCE).await?;
            subject.others.push((id, connection));
        }
        let mut found = Found::default();
        for start in (0..blocks).step_by(SPAN as usize) {
            let span = start..blocks.min(start + SPAN);
            let pieces = self.unequal_pieces(&mut subject, span).await?;
            for piece in pieces {
                let one = self.round(&mut subject, piece, false).await?;
                found.left_out += one.left_out;
                found.blocks.extend(one.blocks);
            }
        }
        if !found.blocks.is_empty() {
            rt::time::sleep(LASTING).await;
            let before = found.blocks.len();
            found.blocks = self.those_that_last(&mut subject, found.blocks).await?;
            // Not seen again, for whatever reason: that does not say that they are equal.
            found.left_out += before.saturating_sub(found.blocks.len()) as u32;
        }
        Ok(found)
    }

    /// Those of the pieces of 1 MiB that are not the same on all members, as far as can be seen at a glance.
    async fn unequal_pieces(
        &self,
        subject: &mut Subject<'_>,
        span: Range<u32>,
    ) -> Result<Vec<Range<u32>>, Status> {
        let own = self.own(subject, span.clone(), DIGEST_BLOCKS_MAX, false).await?;
        let theirs = self.theirs(subject, span.clone(), DIGEST_BLOCKS_MAX, false).await?;
        let pieces = span.clone().step_by(DIGEST_BLOCKS_MAX as usize).enumerate();
        let pieces = pieces.filter(|&(unit, _)| {
            let sum = own[unit].map(|digest| digest.sum);
            !theirs.is_empty() && (sum.is_none() || theirs.iter().any(|(_, sums)| sums[unit] != sum))
        });
        Ok(pieces.map(|(_, start)| start..span.end.min(start + DIGEST_BLOCKS_MAX)).collect())
    }

    /// Compares by the block: what is here, what is elsewhere, and whether it was the same here all the time.
    async fn round(
        &self,
        subject: &mut Subject<'_>,
        blocks: Range<u32>,
        examine: bool,
    ) -> Result<Found, Status> {
        let before = self.own(subject, blocks.clone(), 1, examine).await?;
        let theirs = self.theirs(subject, blocks.clone(), 1, examine).await?;
        let after = self.own(subject, blocks.clone(), 1, false).await?;
        let mut found = Found::default();
        for (at, block) in blocks.enumerate() {
            let own = before[at].filter(|digest| after[at] == Some(*digest)).map(|digest| digest.sum);
            let others = theirs.iter().filter_map(|(id, sums)| Some((*id, sums[at]?)));
            let mut contents: Contents = others.collect();
            found.left_out += u32::from(own.is_none() || contents.len() < theirs.len());
            let Some(own) = own else { continue };
            if contents.values().any(|sum| *sum != own) {
                contents.insert(subject.own, own);
                found.blocks.insert(block, contents);
            }
        }
        Ok(found)
    }

    /// Those of the differences that are still the same.
    async fn those_that_last(
        &self,
        subject: &mut Subject<'_>,
        first: BTreeMap<u32, Contents>,
    ) -> Result<BTreeMap<u32, Contents>, Status> {
        let blocks: Vec<u32> = first.keys().copied().collect();
        let mut lasting = BTreeMap::new();
        // However many there are, it is one round for each MiB.
        for run in blocks.chunk_by(|a, b| a / DIGEST_BLOCKS_MAX == b / DIGEST_BLOCKS_MAX) {
            let again = self.round(subject, run[0]..run[run.len() - 1] + 1, true).await?;
            for (block, mut contents) in again.blocks {
                contents.retain(|id, sum| first.get(&block).is_some_and(|first| first.get(id) == Some(sum)));
                let own = contents.get(&subject.own);
                if own.is_some_and(|own| contents.values().any(|sum| sum != own)) {
                    lasting.insert(block, contents);
                }
            }
        }
        Ok(lasting)
    }

    /// Digests of what is here. Where no checksums are kept there is nobody to compare with.
    async fn own(
        &self,
        subject: &mut Subject<'_>,
        blocks: Range<u32>,
        unit: u32,
        examine: bool,
    ) -> Result<Vec<Option<Digest>>, Status> {
        let CompareItem { file_id: file, chunk_id: chunk, version, .. } = *subject.item;
        let units = blocks.len().div_ceil(unit as usize);
        let request = DigestRequest { file, chunk, version, blocks, unit, examine };
        let digests = self.engine.digests(&request).await.map_err(status)?;
        Ok(digests.unwrap_or_else(|| {
            subject.others.clear();
            vec![None; units]
        }))
    }

    /// What the others answer; who keeps no checksums is asked no more.
    async fn theirs(
        &self,
        subject: &mut Subject<'_>,
        blocks: Range<u32>,
        unit_blocks: u32,
        examine: bool,
    ) -> Result<Vec<(u64, Vec<Option<u32>>)>, Status> {
        let CompareItem { file_id, chunk_id, version, .. } = *subject.item;
        let (first_block, count) = (blocks.start, blocks.len() as u32);
        let request =
            CopyDigest { file_id, chunk_id, version, first_block, blocks: count, unit_blocks, examine };
        let mut all = Vec::with_capacity(subject.others.len());
        let mut none_kept = Vec::new();
        for (id, connection) in &subject.others {
            let reply = connection.ask(&request, rt::time::now() + PATIENCE).await.map_err(status_of)?;
            if reply.none_kept {
                none_kept.push(*id);
                continue;
            }
            all.push((*id, sums(&reply, count.div_ceil(unit_blocks)).ok_or(Status::Invalid)?));
        }
        subject.others.retain(|(id, _)| !none_kept.contains(id));
        Ok(all)
    }
}

fn status(refusal: crate::engine::Refusal) -> Status {
    Failure::from(refusal).status
}

/// What an answer says of each unit; nothing when it makes no sense.
fn sums(reply: &CopyDigestReply, units: u32) -> Option<Vec<Option<u32>>> {
    let mut sums: Vec<Option<u32>> = reply.digests.iter().copied().map(Some).collect();
    if sums.len() != units as usize {
        return None;
    }
    for unit in &reply.left_out {
        *sums.get_mut(*unit as usize)? = None;
    }
    Some(sums)
}

/// Members that have the same, the most first.
fn groups(contents: &Contents) -> Vec<AgreeingMembers> {
    let mut by_content: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for (id, sum) in contents {
        by_content.entry(*sum).or_default().push(*id);
    }
    let mut groups: Vec<_> = by_content.into_values().map(|cs_ids| AgreeingMembers { cs_ids }).collect();
    groups.sort_by(|a, b| b.cs_ids.len().cmp(&a.cs_ids.len()).then(a.cs_ids.cmp(&b.cs_ids)));
    groups
}

/// Neighbouring blocks in which the same members agree together, as many as may be told.
fn differences(blocks: &BTreeMap<u32, Contents>) -> Vec<ReplicaDifference> {
    let mut differences: Vec<ReplicaDifference> = Vec::new();
    for (&block, contents) in blocks {
        let groups = groups(contents);
        let is_full = differences.len() == DIFFERENCES_MAX;
        match differences.last_mut() {
            Some(ReplicaDifference { range, groups: last })
                if range.first + range.count == block && *last == groups =>
            {
                range.count += 1;
            }
            _ if is_full => break,
            _ => differences.push(ReplicaDifference { range: BlockRange { first: block, count: 1 }, groups }),
        }
    }
    differences
}

const _: () = assert!(SPAN <= wire::copy::DIGESTS_MAX && DIGEST_BLOCKS_MAX <= wire::copy::DIGESTS_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_with_the_same_members_are_told_together() {
        let block = |number: u32, sums: [u32; 3]| (number, (1025..).zip(sums).collect::<Contents>());
        let blocks = [block(4, [1, 2, 1]), block(5, [7, 8, 7]), block(6, [1, 2, 3]), block(9, [1, 2, 2])];
        let told: Vec<_> = differences(&blocks.into())
            .into_iter()
            .map(|one| {
                let groups: Vec<_> = one.groups.into_iter().map(|group| group.cs_ids).collect();
                (one.range.first, one.range.count, groups)
            })
            .collect();
        let expected = [
            (4, 2, vec![vec![1025, 1027], vec![1026]]),
            (6, 1, vec![vec![1025], vec![1026], vec![1027]]),
            (9, 1, vec![vec![1026, 1027], vec![1025]]),
        ];
        assert_eq!(told, expected);
        let many = (0..2000).map(|number| block(number * 2, [1, 2, 3])).collect();
        assert_eq!(differences(&many).len(), DIFFERENCES_MAX);
    }

    #[test]
    fn an_answer_must_make_sense() {
        let reply = |digests: &[u32], left_out: &[u32]| {
            let (digests, left_out) = (digests.to_vec(), left_out.to_vec());
            sums(&CopyDigestReply { none_kept: false, digests, left_out }, 2)
        };
        assert_eq!(reply(&[5, 0], &[1]), Some(vec![Some(5), None]));
        assert_eq!(reply(&[5, 0, 1], &[]), None);
        assert_eq!(reply(&[5], &[]), None);
        assert_eq!(reply(&[5, 6], &[2]), None);
    }
}
