//! Table tests of [`super::recover`].

use super::super::scan::Later;
use super::*;

const SIZE: u64 = 64 * BLOCK as u64;

fn id(term: u64, index: u64) -> LogId {
    LogId { term, node: 1, index }
}

fn entry(index: u64) -> Head {
    Head::new(Kind::Entry, id(1, index))
}

fn head(kind: Kind, index: u64) -> Head {
    Head::new(kind, id(1, index))
}

fn restated(kind: Kind, index: u64) -> Head {
    Head { restated: true, ..head(kind, index) }
}

/// A segment whose records are groups of their own.
fn segment(number: u64, first_seq: u64, heads: &[Head]) -> SegmentScan {
    let records = heads.iter().zip(0_u64..).map(|(head, at)| {
        let seq = first_seq + at;
        Scanned { head: *head, seq, durable: seq - 1, offset: (at + 1) * BLOCK as u64, body_len: 20 }
    });
    let records: Vec<Scanned> = records.collect();
    let end = (records.len() as u64 + 1) * BLOCK as u64;
    SegmentScan { number, records, end, rest: Rest::Blank }
}

fn dirty(scan: SegmentScan, durable: Option<u64>) -> SegmentScan {
    let later = durable.map(|durable| Later { offset: SIZE - BLOCK as u64, durable });
    let rest = Rest::Dirty { at: scan.end, flaw: Flaw::HeaderCrc, end: SIZE, later };
    SegmentScan { rest, ..scan }
}

fn indices(recovered: &Recovered) -> Vec<u64> {
    recovered.entries.iter().map(|found| found.id.index).collect()
}

#[test]
fn a_whole_log_is_taken_as_it_is() {
    let vote = Head { committed: true, ..Head::new(Kind::Vote, LogId { term: 4, node: 2, index: 0 }) };
    let scans = [
        segment(1, 1, &[entry(0), vote, entry(1)]),
        segment(2, 4, &[restated(Kind::Vote, 0), head(Kind::Committed, 1), entry(2)]),
    ];
    let found = recover(&scans).unwrap();
    assert_eq!(indices(&found), [0, 1, 2]);
    assert_eq!(found.vote, Some(Vote { term: 1, node: 1, committed: false }));
    assert_eq!((found.committed, found.purged, found.next_seq), (Some(id(1, 1)), None, 7));
    assert_eq!((found.segment, found.position, found.torn), (2, 4 * BLOCK as u64, None));
    assert!(found.stale.is_empty());
    let place = found.entries[2];
    assert_eq!((place.segment, place.offset), (2, 3 * BLOCK as u64));
}

#[test]
fn flaws_are_torn_tails_until_something_proves_more() {
    let base = || segment(1, 1, &[entry(0), entry(1)]);
    // What follows the two good records, and whether it is corruption.
    let table: Vec<(&str, Vec<SegmentScan>, bool)> = vec![
        ("blank", vec![base()], false),
        ("garbage", vec![dirty(base(), None)], false),
        ("a header of the torn group itself", vec![dirty(base(), Some(2))], false),
        ("a header that claims the flaw was durable", vec![dirty(base(), Some(3))], true),
        ("an empty segment after a blank rest", vec![base(), segment(2, 0, &[])], false),
        ("an empty segment after garbage", vec![dirty(base(), None), segment(2, 0, &[])], true),
        ("a segment that goes on", vec![base(), segment(2, 3, &[entry(2)])], false),
        (
            "a segment that goes on after dirt in unused space",
            vec![dirty(base(), None), segment(2, 3, &[entry(2)])],
            false,
        ),
        ("a segment that skips a record", vec![base(), segment(2, 4, &[entry(3)])], true),
        ("a segment that repeats records", vec![base(), segment(2, 1, &[entry(0)])], false),
        ("garbage at the beginning of a segment", vec![base(), dirty(segment(2, 0, &[]), Some(2))], false),
        ("garbage there that was durable", vec![base(), dirty(segment(2, 0, &[]), Some(3))], true),
    ];
    for (what, scans, corrupt) in table {
        let result = recover(&scans);
        match &result {
            Ok(found) => {
                assert!(!corrupt, "{what}: {found:?}");
                assert_eq!(indices(found)[..2], [0, 1], "{what}");
            }
            Err(Corruption::Damaged { .. }) => assert!(corrupt, "{what}: {result:?}"),
            Err(other) => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn a_torn_tail_is_cut_where_it_begins() {
    let found = recover(&[dirty(segment(1, 1, &[entry(0), entry(1)]), Some(2))]).unwrap();
    let torn = TornTail { segment: 1, offset: 3 * BLOCK as u64, flaw: Flaw::HeaderCrc, end: SIZE };
    assert_eq!((found.torn, found.position, found.next_seq), (Some(torn), 3 * BLOCK as u64, 3));

    // In the middle of a block: the good part of the group stays, the next one begins behind it.
    let mut scan = segment(1, 1, &[entry(0)]);
    scan.rest = Rest::Dirty { at: BLOCK as u64 + 88, flaw: Flaw::BodyCrc, end: SIZE, later: None };
    let found = recover(&[scan]).unwrap();
    assert_eq!((found.torn.unwrap().offset, found.position), (BLOCK as u64 + 88, 2 * BLOCK as u64));
}

#[test]
fn a_good_record_in_a_wrong_place_is_no_record_of_it() {
    // Number 3 is missing and 2 stands there again, without anything newer: an interrupted write.
    let mut scan = segment(1, 1, &[entry(0), entry(1), entry(1)]);
    scan.records[2].seq = 2;
    scan.records[2].durable = 1;
    let found = recover(&[scan.clone()]).unwrap();
    assert_eq!((indices(&found), found.next_seq), (vec![0, 1], 3));
    assert_eq!(found.torn.unwrap().flaw, Flaw::Sequence { found: 2 });
    assert_eq!(found.position, 3 * BLOCK as u64);

    // A misdirected write of a later group stands on an earlier one.
    scan.records[1] = Scanned { seq: 9, durable: 8, ..scan.records[1] };
    let expected = Corruption::Damaged {
        segment: 1,
        offset: 2 * BLOCK as u64,
        flaw: Flaw::Sequence { found: 9 },
        proof_segment: 1,
        proof_offset: 2 * BLOCK as u64,
    };
    assert_eq!(recover(&[scan]), Err(expected));
}

#[test]
fn segments_before_a_gap_are_dropped_if_they_are_not_needed() {
    let old = segment(3, 10, &[entry(0)]);
    let new = segment(5, 40, &[restated(Kind::Purge, 19), entry(20), entry(21)]);
    let found = recover(&[old.clone(), new]).unwrap();
    assert_eq!((found.stale.clone(), indices(&found), found.segment), (vec![3], vec![20, 21], 5));

    let needed = segment(5, 40, &[restated(Kind::Purge, 17), entry(20)]);
    assert_eq!(recover(&[old, needed]), Err(Corruption::Gap { first: 20, needed: 18 }));
}

#[test]
fn a_run_may_begin_anywhere_if_the_purge_comes_later() {
    let scans = [
        segment(7, 70, &[restated(Kind::Purge, 9), entry(40), entry(41)]),
        segment(8, 73, &[restated(Kind::Purge, 9), head(Kind::Purge, 40), entry(42)]),
    ];
    let found = recover(&scans).unwrap();
    assert_eq!((indices(&found), found.purged), (vec![41, 42], Some(id(1, 40))));
}

#[test]
fn an_installed_snapshot_replaces_the_log() {
    let scans = [segment(1, 1, &[entry(0), entry(1), head(Kind::Purge, 90), entry(91)])];
    let found = recover(&scans).unwrap();
    assert_eq!((indices(&found), found.purged), (vec![91], Some(id(1, 90))));
    let bare = recover(&[segment(1, 1, &[entry(0), head(Kind::Purge, 90)])]).unwrap();
    assert_eq!((indices(&bare), bare.purged), (vec![], Some(id(1, 90))));
}

#[test]
fn truncated_entries_are_replaced_by_those_of_the_new_leader() {
    let newer = Head::new(Kind::Entry, id(2, 1));
    let found =
        recover(&[segment(1, 1, &[entry(0), entry(1), entry(2), head(Kind::Truncate, 1), newer])]).unwrap();
    assert_eq!(found.entries.iter().map(|found| found.id).collect::<Vec<_>>(), [id(1, 0), id(2, 1)]);
}

#[test]
fn contradictions_are_corruption() {
    let order = |found, expected| Contradiction::Order { found, expected };
    let table: Vec<(&str, Vec<Head>, Contradiction)> = vec![
        ("a hole", vec![entry(0), entry(2)], order(2, 1)),
        ("a repetition", vec![entry(0), entry(1), entry(1)], order(1, 2)),
        ("an older term", vec![Head::new(Kind::Entry, id(2, 0)), entry(1)], Contradiction::Term(id(1, 1))),
        (
            "dropping what never was",
            vec![entry(0), head(Kind::Truncate, 1)],
            Contradiction::Truncation(id(1, 1)),
        ),
        (
            "dropping what was committed",
            vec![entry(0), entry(1), head(Kind::Committed, 1), head(Kind::Truncate, 1)],
            Contradiction::Truncation(id(1, 1)),
        ),
        (
            "dropping what was purged",
            vec![entry(0), entry(1), head(Kind::Purge, 0), head(Kind::Truncate, 0)],
            Contradiction::Truncation(id(1, 0)),
        ),
        ("an entry not behind the snapshot", vec![entry(0), head(Kind::Purge, 9), entry(1)], order(1, 10)),
    ];
    for (what, heads, expected) in table {
        match recover(&[segment(1, 1, &heads)]) {
            Err(Corruption::Contradiction { contradiction, .. }) => {
                assert_eq!(contradiction, expected, "{what}")
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn committed_entries_must_be_there() {
    let missing = Corruption::CommittedMissing { committed: id(1, 5) };
    assert_eq!(recover(&[segment(1, 1, &[entry(0), head(Kind::Committed, 5)])]), Err(missing));
    let covered = recover(&[segment(1, 1, &[entry(0), head(Kind::Committed, 0), head(Kind::Purge, 5)])]);
    assert!(covered.is_ok());
}

#[test]
fn a_log_without_records_is_corrupt() {
    for scans in [vec![], vec![segment(1, 0, &[])], vec![dirty(segment(1, 0, &[]), None)]] {
        assert_eq!(recover(&scans), Err(Corruption::Empty));
    }
}

#[test]
fn a_run_that_begins_with_damage_is_corrupt() {
    let rest = segment(2, 5, &[entry(4)]);
    for scans in [
        vec![dirty(segment(1, 0, &[]), Some(3))],
        vec![dirty(segment(1, 0, &[]), None), rest.clone()],
        vec![segment(1, 0, &[]), rest],
    ] {
        assert!(matches!(recover(&scans), Err(Corruption::Damaged { segment: 1, .. })), "{scans:?}");
    }
}

#[test]
fn messages_say_what_to_do() {
    let error = recover(&[dirty(segment(1, 1, &[entry(0)]), Some(7))]).unwrap_err().to_string();
    for part in ["segment 1", "byte 8192", "CRC", "will not start", "backup", "other metadata servers"] {
        assert!(error.contains(part), "{part} in: {error}");
    }
}
