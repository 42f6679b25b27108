//! What a log means that was found on disk: pure decisions over what [`super::scan`] saw.
//!
//! Groups are written one at a time: the next one only after the one before is durable, and each record carries the
//! number of the last one that was durable when it was written. So there is one rule. **A flaw is an interrupted write
//! if nothing claims that the place was durable; then it and what lies behind it are dropped. If a later record, or
//! a later segment, claims so, it is corruption, and nothing is dropped or served.**

use super::entry::{LogId, Vote};
use super::record::{BLOCK, Flaw, Head, Kind};
use super::scan::{Rest, Scanned, SegmentScan};

const ADVICE: &str = "The server will not start on this log, because acknowledged changes would be lost. \
                      Keep a copy of the directory; then restore it from a backup, \
                      or, if other metadata servers hold the data, remove this one and add it anew";

/// Why a log is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    /// Records that were durable are not readable.
    #[error(
        "the metadata log is damaged: segment {segment}, byte {offset}: {flaw}, but segment {proof_segment}, \
         byte {proof_offset}, shows that this part was complete. {ADVICE}"
    )]
    Damaged {
        /// Number of the segment.
        segment: u64,
        /// Byte in it.
        offset: u64,
        /// What is wrong there.
        flaw: Flaw,
        /// Number of the segment that proves it.
        proof_segment: u64,
        /// Byte in it.
        proof_offset: u64,
    },
    /// There is no record at all, though the log was created.
    #[error("the metadata log is empty: its segments are missing or hold no record. {ADVICE}")]
    Empty,
    /// The log begins behind the entries that are needed.
    #[error(
        "the metadata log begins with entry {first} where entry {needed} is needed: segments are missing. {ADVICE}"
    )]
    Gap {
        /// The first entry there is.
        first: u64,
        /// The first entry that no snapshot holds.
        needed: u64,
    },
    /// Records contradict each other though each is good by itself.
    #[error(
        "the metadata log contradicts itself: segment {segment}, byte {offset}: {contradiction}. {ADVICE}"
    )]
    Contradiction {
        /// Number of the segment.
        segment: u64,
        /// Byte in it.
        offset: u64,
        /// What does not fit.
        contradiction: Contradiction,
    },
    /// Entries that were committed are not there.
    #[error("the metadata log ends before entry {committed}, which was committed. {ADVICE}")]
    CommittedMissing {
        /// The entry.
        committed: LogId,
    },
}

/// How records contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// An entry does not follow the one before it.
    #[error("entry {found} where entry {expected} belongs")]
    Order {
        /// The index found.
        found: u64,
        /// The index expected.
        expected: u64,
    },
    /// An entry of an older leader follows one of a newer.
    #[error("entry {0} is older than the one before it")]
    Term(LogId),
    /// Entries were dropped that had to stay, or that never were.
    #[error("entries from {0} on are dropped, which are not there or were committed")]
    Truncation(LogId),
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: LogId,
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) body_len: u32,
}

/// An interrupted write at the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Number of the segment.
    pub segment: u64,
    /// Byte at which the records end that stay.
    pub offset: u64,
    /// What is wrong there.
    pub flaw: Flaw,
    /// Where the last byte that is not zero ends, rounded up to a block.
    pub(super) end: u64,
}

/// A log that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recovered {
    pub(super) entries: Vec<Found>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) next_seq: u64,
    /// The segment to append to, and where.
    pub(super) segment: u64,
    pub(super) position: u64,
    pub(super) torn: Option<TornTail>,
    /// Segments before a gap, which are not needed.
    pub(super) stale: Vec<u64>,
}

/// Decides what a log means.
///
/// # Errors
/// [`Corruption`].
pub(super) fn recover(scans: &[SegmentScan]) -> Result<Recovered, Corruption> {
    let run = last_run(scans);
    let stale = scans[..scans.len() - run.len()].iter().map(|scan| scan.number).collect();
    let (next_seq, torn) = check_sequence(run)?;
    let mut replay = Replay::default();
    for scan in run {
        let dropped = torn.filter(|torn| torn.segment == scan.number).map_or(u64::MAX, |torn| torn.offset);
        for record in scan.records.iter().take_while(|record| record.offset < dropped) {
            replay.record(scan.number, record).map_err(|contradiction| Corruption::Contradiction {
                segment: scan.number,
                offset: record.offset,
                contradiction,
            })?;
        }
    }
    let last = run.last().ok_or(Corruption::Empty)?;
    let position = match torn {
        Some(torn) => torn.offset.next_multiple_of(BLOCK as u64),
        None => last.end,
    };
    replay.finish()?;
    let Replay { entries, vote, committed, purged, .. } = replay;
    Ok(Recovered { entries, vote, committed, purged, next_seq, segment: last.number, position, torn, stale })
}

/// The segments with consecutive numbers that end with the newest.
fn last_run(scans: &[SegmentScan]) -> &[SegmentScan] {
    let breaks = scans.windows(2).rposition(|pair| pair[0].number + 1 != pair[1].number);
    &scans[breaks.map_or(0, |at| at + 1)..]
}

/// A place at which the sequence of records may have ended.
#[derive(Clone, Copy)]
struct Suspect {
    segment: u64,
    offset: u64,
    flaw: Flaw,
    end: u64,
}

impl Suspect {
    fn proven(self, proof_segment: u64, proof_offset: u64) -> Corruption {
        let Self { segment, offset, flaw, .. } = self;
        Corruption::Damaged { segment, offset, flaw, proof_segment, proof_offset }
    }
}

/// Follows the numbers of the records and finds where they end: the number of the next record, and the torn tail.
fn check_sequence(run: &[SegmentScan]) -> Result<(u64, Option<TornTail>), Corruption> {
    let mut next = first_of(run)?;
    let mut suspect: Option<Suspect> = None;
    for scan in run {
        if let Some(suspect) = suspect {
            match scan.records.first() {
                // The segment before had dirt behind its last group, which was complete.
                Some(first) if first.seq == next => {}
                first => return Err(suspect.proven(scan.number, first.map_or(0, |first| first.offset))),
            }
        }
        suspect = None;
        for (at, record) in scan.records.iter().enumerate() {
            if record.seq != next {
                suspect = Some(out_of_sequence(scan, at, next)?);
                break;
            }
            next += 1;
        }
        if suspect.is_none()
            && let Rest::Dirty { at, flaw, end, later } = scan.rest
        {
            let found = Suspect { segment: scan.number, offset: at, flaw, end };
            if let Some(later) = later.filter(|later| later.durable >= next) {
                return Err(found.proven(scan.number, later.offset));
            }
            suspect = Some(found);
        }
    }
    let torn = suspect.map(|Suspect { segment, offset, flaw, end }| TornTail { segment, offset, flaw, end });
    Ok((next, torn))
}

/// The number of the first record. Every segment begins with a group that was durable before anything else was.
fn first_of(run: &[SegmentScan]) -> Result<u64, Corruption> {
    let first = run.first().ok_or(Corruption::Empty)?;
    if let Some(record) = first.records.first() {
        return Ok(record.seq);
    }
    let (flaw, later) = match first.rest {
        Rest::Dirty { flaw, later, .. } => (flaw, later.map(|later| (first.number, later.offset))),
        Rest::Blank => (Flaw::Missing, None),
    };
    let next = run.get(1).map(|next| (next.number, 0));
    let suspect = Suspect { segment: first.number, offset: BLOCK as u64, flaw, end: first.end };
    Err(later.or(next).map_or(Corruption::Empty, |(segment, offset)| suspect.proven(segment, offset)))
}

/// Judges a good record, the one at `at` in its segment, that is not the one expected.
fn out_of_sequence(scan: &SegmentScan, at: usize, expected: u64) -> Result<Suspect, Corruption> {
    let record = &scan.records[at];
    let (flaw, end) = match scan.rest {
        Rest::Dirty { end, .. } => (Flaw::Sequence { found: record.seq }, end),
        Rest::Blank => (Flaw::Sequence { found: record.seq }, scan.end),
    };
    let suspect = Suspect { segment: scan.number, offset: record.offset, flaw, end };
    let later = match scan.rest {
        Rest::Dirty { later: Some(later), .. } => Some((later.offset, later.durable)),
        _ => None,
    };
    let claims = scan.records[at..].iter().map(|record| (record.offset, record.durable)).chain(later);
    match claims.max_by_key(|(_, durable)| *durable) {
        Some((offset, durable)) if durable >= expected => Err(suspect.proven(scan.number, offset)),
        _ => Ok(suspect),
    }
}

/// What the records say, one after the other.
#[derive(Default)]
struct Replay {
    entries: Vec<Found>,
    /// The index the next entry must have, once that is known.
    next: Option<u64>,
    last: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

impl Replay {
    fn record(&mut self, segment: u64, record: &Scanned) -> Result<(), Contradiction> {
        let Head { kind, id, committed, restated } = record.head;
        match kind {
            Kind::Entry => {
                self.entry(id)?;
                let Scanned { offset, body_len, .. } = *record;
                self.entries.push(Found { id, segment, offset, body_len });
            }
            Kind::Vote => self.vote = Some(Vote { term: id.term, node: id.node, committed }),
            Kind::Committed => self.committed = self.committed.max(Some(id)),
            Kind::Truncate => self.truncate(id)?,
            Kind::Purge => self.purge(id, restated),
        }
        Ok(())
    }

    fn entry(&mut self, id: LogId) -> Result<(), Contradiction> {
        if let Some(expected) = self.next
            && id.index != expected
        {
            return Err(Contradiction::Order { found: id.index, expected });
        }
        if self.last.is_some_and(|last| id <= last) {
            return Err(Contradiction::Term(id));
        }
        self.next = Some(id.index + 1);
        self.last = Some(id);
        Ok(())
    }

    fn truncate(&mut self, from: LogId) -> Result<(), Contradiction> {
        let settled = self.committed.max(self.purged).is_some_and(|id| from.index <= id.index);
        if settled || self.next.is_some_and(|next| from.index >= next) {
            return Err(Contradiction::Truncation(from));
        }
        self.entries.retain(|entry| entry.id.index < from.index);
        self.next = Some(from.index);
        self.last = self.entries.last().map(|entry| entry.id).or(self.purged);
        Ok(())
    }

    fn purge(&mut self, upto: LogId, restated: bool) {
        self.purged = self.purged.max(Some(upto));
        // At the beginning of the run nobody knows how far the segments before it went.
        let beyond = self.next.is_some_and(|next| next <= upto.index);
        if beyond && !restated {
            // A snapshot has replaced the whole log.
            self.next = Some(upto.index + 1);
            self.last = Some(upto);
            self.entries.clear();
        }
    }

    /// Drops what is purged and checks that nothing is missing.
    fn finish(&mut self) -> Result<(), Corruption> {
        if let Some(purged) = self.purged {
            self.entries.retain(|entry| entry.id.index > purged.index);
        }
        let needed = self.purged.map_or(0, |purged| purged.index + 1);
        if let Some(first) = self.entries.first()
            && first.id.index != needed
        {
            return Err(Corruption::Gap { first: first.id.index, needed });
        }
        let last = self.entries.last().map(|entry| entry.id).max(self.purged);
        match self.committed {
            Some(committed) if last.is_none_or(|last| committed.index > last.index) => {
                Err(Corruption::CommittedMissing { committed })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
