//! Reading a segment: which records are good, and what lies behind them.
//!
//! Nothing is decided here. [`scan`] says what it sees; [`super::recover`] says what it means.

use super::body;
use super::record::{self, BLOCK, Flaw, Head, Header, Kind, Newer, Unreadable};

/// A good record and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    pub(super) head: Head,
    pub(super) seq: u64,
    pub(super) durable: u64,
    /// Bytes from the beginning of the segment.
    pub(super) offset: u64,
    pub(super) body_len: u32,
}

/// A good header behind the first flaw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Later {
    pub(super) offset: u64,
    pub(super) durable: u64,
}

/// What lies behind the last good record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Zeroes, as the segment was made.
    Blank,
    /// Something else.
    Dirty {
        /// Where the next record should have been.
        at: u64,
        flaw: Flaw,
        /// Where the last byte that is not zero ends, rounded up to a block.
        end: u64,
        /// Of the good headers at block boundaries behind it, the one that claims most.
        later: Option<Later>,
    },
}

/// A segment as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentScan {
    pub(super) number: u64,
    pub(super) records: Vec<Scanned>,
    /// Where the next group would begin.
    pub(super) end: u64,
    pub(super) rest: Rest,
}

/// Reads a whole segment; the block of its own header is not looked at.
///
/// # Errors
/// [`Newer`] when a good record has a version, kind or flag that is not known here.
pub(super) fn scan(number: u64, bytes: &[u8], tag: u32) -> Result<SegmentScan, Newer> {
    let mut records = Vec::new();
    let mut at = BLOCK;
    let flaw = loop {
        match next_record(bytes, at) {
            Next::End => break None,
            Next::Flaw(offset) => {
                at = offset;
                break Some(Flaw::NoRecord);
            }
            Next::Record(offset) => {
                at = offset;
                match read_record(&bytes[offset..], tag) {
                    Ok(header) => {
                        records.push(scanned(&header, offset));
                        at += header.record_len();
                    }
                    Err(Unreadable::Flaw(flaw)) => break Some(flaw),
                    Err(Unreadable::Newer(newer)) => return Err(newer),
                }
            }
        }
    };
    let end = records.last().map_or(BLOCK, |last: &Scanned| {
        let len = record::record_len(last.body_len as usize);
        (last.offset as usize + len).next_multiple_of(BLOCK)
    });
    let rest = look_behind(bytes, at, flaw, tag);
    Ok(SegmentScan { number, records, end: end as u64, rest })
}

fn scanned(header: &Header, offset: usize) -> Scanned {
    let Header { head, seq, durable, body_len, .. } = *header;
    Scanned { head, seq, durable, offset: offset as u64, body_len }
}

fn read_record(bytes: &[u8], tag: u32) -> Result<Header, Unreadable> {
    let (header, content) = record::parse(bytes, tag)?;
    match header.head.kind {
        Kind::Entry => body::decode(content).map_err(|_| Unreadable::Newer(Newer)).map(|_| header),
        _ if content.is_empty() => Ok(header),
        _ => Err(Unreadable::Newer(Newer)),
    }
}

enum Next {
    /// A record seems to begin here.
    Record(usize),
    /// Something is here that is neither a record nor what fills a group up.
    Flaw(usize),
    /// Zeroes follow, or the segment ends.
    End,
}

/// Where the record after position `at` begins: at once, or at the next block if zeroes fill this one up.
fn next_record(bytes: &[u8], at: usize) -> Next {
    if at < bytes.len() && record::begins_record(&bytes[at..]) {
        return Next::Record(at);
    }
    let boundary = at.next_multiple_of(BLOCK).min(bytes.len());
    if let Some(dirt) = first_dirt(&bytes[at..boundary]) {
        return Next::Flaw(at + dirt / 8 * 8);
    }
    match bytes.get(boundary..) {
        Some(rest) if record::begins_record(rest) => Next::Record(boundary),
        Some(rest) if rest.iter().take(BLOCK).any(|byte| *byte != 0) => Next::Flaw(boundary),
        _ => Next::End,
    }
}

fn first_dirt(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte != 0)
}

/// Looks at what follows the last good record, from `at` on.
fn look_behind(bytes: &[u8], at: usize, flaw: Option<Flaw>, tag: u32) -> Rest {
    let Some(last) = bytes[at..].iter().rposition(|byte| *byte != 0) else { return Rest::Blank };
    let later = ((at + 1).next_multiple_of(BLOCK)..bytes.len())
        .step_by(BLOCK)
        .filter_map(|offset| {
            let header = record::parse_header(bytes.get(offset..)?, tag).ok()?;
            Some(Later { offset: offset as u64, durable: header.durable })
        })
        .max_by_key(|later| later.durable);
    let end = (at + last + 1).next_multiple_of(BLOCK) as u64;
    // Without a flaw at the place itself there are zeroes, and something behind them.
    Rest::Dirty { at: at as u64, flaw: flaw.unwrap_or(Flaw::Missing), end, later }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Batch, LogId, Payload};
    use super::super::record::Group;
    use super::*;

    const TAG: u32 = 7;
    const SIZE: usize = 16 * BLOCK;

    /// Groups of entries with bodies of the given sizes, one after the other.
    fn segment(groups: &[&[usize]]) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        let mut seq = 1;
        for sizes in groups {
            let mut group = Group::new(TAG, seq);
            for size in *sizes {
                let id = LogId { term: 1, node: 1, index: group.next_seq() - 1 };
                let payload = Payload::Commands(Batch::of([&vec![0xAB; *size][..]]));
                group.push(Head::new(Kind::Entry, id), &body::encode(&payload));
            }
            seq = group.next_seq();
            bytes.extend(group.finish());
        }
        bytes.resize(SIZE, 0);
        bytes
    }

    fn seqs(scan: &SegmentScan) -> Vec<(u64, u64)> {
        scan.records.iter().map(|record| (record.seq, record.durable)).collect()
    }

    #[test]
    fn good_records_are_listed_with_their_group() {
        let scan = scan(3, &segment(&[&[10, 5000], &[1], &[1, 1, 1]]), TAG).unwrap();
        assert_eq!(seqs(&scan), [(1, 0), (2, 0), (3, 2), (4, 3), (5, 3), (6, 3)]);
        assert_eq!((scan.number, scan.end, scan.rest), (3, 5 * BLOCK as u64, Rest::Blank));
        assert_eq!(scan.records[2].offset, 3 * BLOCK as u64);
    }

    #[test]
    fn a_fresh_or_full_segment_ends_where_its_records_do() {
        let fresh = scan(1, &vec![0; SIZE], TAG).unwrap();
        assert_eq!((fresh.records.len(), fresh.end, fresh.rest), (0, BLOCK as u64, Rest::Blank));
        let full = scan(1, &segment(&[&[14 * BLOCK]]), TAG).unwrap();
        assert_eq!((full.records.len(), full.end, full.rest), (1, SIZE as u64, Rest::Blank));
    }

    #[test]
    fn what_follows_a_flaw_is_reported_but_not_read() {
        let mut bytes = segment(&[&[10], &[9000, 10], &[10]]);
        bytes[2 * BLOCK + 5000] ^= 1;
        let scan = scan(1, &bytes, TAG).unwrap();
        assert_eq!(seqs(&scan), [(1, 0)]);
        assert_eq!(scan.end, 2 * BLOCK as u64);
        let later = Some(Later { offset: 5 * BLOCK as u64, durable: 3 });
        let (at, end) = (2 * BLOCK as u64, 6 * BLOCK as u64);
        assert_eq!(scan.rest, Rest::Dirty { at, flaw: Flaw::BodyCrc, end, later });
    }

    #[test]
    fn a_missing_block_is_told_from_the_end() {
        let mut bytes = segment(&[&[10], &[10], &[10]]);
        bytes[2 * BLOCK..3 * BLOCK].fill(0);
        let Rest::Dirty { flaw, later, .. } = scan(1, &bytes, TAG).unwrap().rest else { panic!("dirty") };
        assert_eq!((flaw, later.unwrap().durable), (Flaw::Missing, 2));
    }

    #[test]
    fn no_flipped_bit_changes_a_record() {
        let bytes = segment(&[&[10, 300], &[700]]);
        let good = scan(1, &bytes, TAG).unwrap();
        for bit in (BLOCK * 8..4 * BLOCK * 8).step_by(7) {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A flipped version or kind would need a fitting CRC to pass for a newer record.
            let scan = scan(1, &bad, TAG).unwrap();
            let count = scan.records.len();
            assert_eq!(scan.records, good.records[..count], "bit {bit}");
            assert!(scan.rest != Rest::Blank, "bit {bit}");
        }
    }

    #[test]
    fn an_unknown_kind_with_a_good_crc_is_newer_not_damaged() {
        let mut bytes = segment(&[&[10]]);
        bytes[BLOCK + 5] = 77;
        let sum = record::crc(&bytes[BLOCK..BLOCK + 60]);
        bytes[BLOCK + 60..BLOCK + 64].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(scan(1, &bytes, TAG), Err(Newer));
    }
}
