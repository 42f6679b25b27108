//! Tests of the fixed bodies: what is refused, and that what is accepted comes back.

use super::*;
use crate::limits::{MAX_FLUSH_CHUNKS, MAX_PAYLOAD, MAX_RUNS, MAX_SURVEY_BLOCKS};
use crate::status::Status;

const TARGET: Target = Target { file: 1, epoch: 2, chunk: 3, version: 4 };

fn write(offset: u32, len: u32, kind: WriteKind) -> Write {
    Write { target: TARGET, seq: 30, done: 20, stable: 10, offset, len, kind, fua: false, stripe_version: 0 }
}

fn encoded(write: &Write) -> Vec<u8> {
    let mut body = Vec::new();
    write.encode(&vec![7; write.part_count() as usize], &mut body);
    body
}

#[test]
fn write_round_trips_at_every_alignment() {
    for offset in [0, 1, 4095, 4096, 65_535, u32::MAX - MAX_PAYLOAD] {
        for len in [1, 4095, 4096, 4097, 8192, MAX_PAYLOAD] {
            let sent = Write { fua: len % 2 == 0, ..write(offset, len, WriteKind::Data) };
            let (received, crcs) = Write::decode(&encoded(&sent), len).unwrap().to_owned_parts();
            assert_eq!(received, sent);
            assert_eq!(crcs.len() as u32, sent.part_count());
            assert!(sent.part_count() <= crate::limits::MAX_PARTS);
        }
    }
}

/// Detaches a decoded body from its bytes, so that the test can build them in one expression.
trait OwnedParts<T> {
    fn to_owned_parts(self) -> (T, Vec<u32>);
}

impl<T> OwnedParts<T> for (T, Crcs<'_>) {
    fn to_owned_parts(self) -> (T, Vec<u32>) {
        (self.0, self.1.iter().collect())
    }
}

#[test]
fn zeroes_and_discards_have_no_payload_and_no_checksums() {
    for kind in [WriteKind::Zeroes, WriteKind::Discard] {
        // Longer than any payload: the limit is the chunk, not the frame.
        let sent = write(100, 64 << 20, kind);
        let body = encoded(&sent);
        assert_eq!(body.len(), 96);
        assert!(Write::decode(&body, 0).unwrap().1.is_empty());
        assert_eq!(Write::decode(&body, 1), Err(BodyError::Payload { expected: 0, found: 1 }));
    }
}

#[test]
fn a_write_that_contradicts_itself_is_refused() {
    let good = write(4000, 5000, WriteKind::Data);
    assert_eq!(good.check(3, 5000), Ok(()));
    let table = [
        (good, 2, 5000, BodyError::Parts { expected: 3, found: 2 }),
        (good, 4, 5000, BodyError::Parts { expected: 3, found: 4 }),
        (good, 3, 4999, BodyError::Payload { expected: 5000, found: 4999 }),
        (Write { len: 0, ..good }, 0, 0, BodyError::Range { offset: 4000, len: 0 }),
        (Write { offset: u32::MAX, len: 2, ..good }, 2, 2, BodyError::Range { offset: u32::MAX, len: 2 }),
        (
            Write { len: MAX_PAYLOAD + 1, ..good },
            1,
            MAX_PAYLOAD + 1,
            BodyError::DataTooLong { len: MAX_PAYLOAD + 1 },
        ),
        (Write { done: 31, ..good }, 3, 5000, BodyError::Contradiction { rule: "done <= seq" }),
        (Write { stable: 21, ..good }, 3, 5000, BodyError::Contradiction { rule: "stable <= done" }),
    ];
    for (write, parts, payload, error) in table {
        assert_eq!(write.check(parts, payload), Err(error), "{write:?}");
    }
    // A write whose own number is the lowest unanswered one is the usual case at queue depth 1.
    assert_eq!(Write { done: 30, stable: 30, ..good }.check(3, 5000), Ok(()));
    assert_eq!(BodyError::DataTooLong { len: 9 }.status(), Status::TooLarge);
}

#[test]
fn write_bytes_are_where_the_format_says() {
    let sent = Write {
        target: Target { file: 0x11, epoch: 0x22, chunk: 0x33, version: 0x44 },
        seq: 0x55,
        done: 0x54,
        stable: 0x53,
        offset: 0x1000,
        len: 0x1001,
        kind: WriteKind::Data,
        fua: true,
        stripe_version: 0x66,
    };
    let mut body = vec![0xee];
    Settle { write: sent, win_epoch: 0x21, win_seq: 0x77 }.encode(&[0xaabb_ccdd, 1], &mut body);
    let body = &body[1..];
    let u64_at = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().unwrap());
    let words = [0, 8, 16, 24, 32, 40, 48].map(u64_at);
    assert_eq!(words, [0x11, 0x22, 0x33, 0x44, 0x55, 0x54, 0x53]);
    assert_eq!(body[56..64], [0, 0x10, 0, 0, 1, 0x10, 0, 0]);
    assert_eq!(body[64..72], [0, 1, 2, 0, 0, 0, 0, 0]);
    assert_eq!([72, 80, 88].map(u64_at), [0x66, 0x21, 0x77]);
    assert_eq!(body[96..], [0xdd, 0xcc, 0xbb, 0xaa, 1, 0, 0, 0]);
}

#[test]
fn reserved_bytes_and_hints_are_ignored_demands_are_not() {
    let sent = write(0, 4096, WriteKind::Data);
    let mut body = encoded(&sent);
    body[68..72].fill(0xff);
    body[80..96].fill(0xff);
    body[65] = 0x0e;
    assert_eq!(Write::decode(&body, 4096).unwrap().0, sent);
    body[65] = 0x10;
    let error = Write::decode(&body, 4096).expect_err("unknown demand");
    assert_eq!((error.status(), error), (Status::Unsupported, BodyError::Flags { unknown: 0x10 }));
    body[65] = 0;
    body[64] = 3;
    assert_eq!(Write::decode(&body, 4096), Err(BodyError::Value { field: "kind", found: 3 }));
}

#[test]
fn bodies_of_the_wrong_length_are_refused() {
    let body = encoded(&write(0, 8192, WriteKind::Data));
    assert_eq!(body.len(), 96 + 8);
    for len in 0..body.len() {
        assert!(Write::decode(&body[..len], 8192).is_err(), "{len}");
    }
    let mut long = body.clone();
    long.push(0);
    assert_eq!(Write::decode(&long, 8192), Err(BodyError::Length { expected: 8, found: 9 }));
    assert_eq!(Read::decode(&[0; 47]), Err(BodyError::TooShort { needed: 48, found: 47 }));
    assert_eq!(Read::decode(&[0; 49]), Err(BodyError::Length { expected: 48, found: 49 }));
    assert!(WriteReply::decode(&[0; 15]).is_err() && WriteReply::decode(&[0; 17]).is_err());
}

#[test]
fn settle_names_a_winner_of_the_past() {
    let write = write(0, 4096, WriteKind::Data);
    let sent = Settle { write, win_epoch: 2, win_seq: 9 };
    let mut body = Vec::new();
    sent.encode(&[5], &mut body);
    assert_eq!(Settle::decode(&body, 4096).unwrap().0, sent);
    body[80] = 3;
    let error = Settle::decode(&body, 4096).expect_err("winner from the future");
    assert_eq!(error, BodyError::Contradiction { rule: "win_epoch <= epoch" });
}

#[test]
fn read_asks_for_what_a_frame_can_answer() {
    let read = Read { target: TARGET, offset: 9, len: MAX_PAYLOAD, unsettled: true };
    let mut body = Vec::new();
    read.encode(&mut body);
    assert_eq!(Read::decode(&body), Ok(read));
    // What a request for 10 GiB looks like after a careless cast, and just above the limit.
    for len in [0x8000_0000, MAX_PAYLOAD + 1] {
        body[36..40].copy_from_slice(&u32::to_le_bytes(len));
        assert_eq!(Read::decode(&body), Err(BodyError::DataTooLong { len }));
    }
    body[36..40].fill(0);
    assert_eq!(Read::decode(&body), Err(BodyError::Range { offset: 9, len: 0 }));
}

#[test]
fn read_reply_is_the_whole_range_or_zeroes() {
    let request = Read { target: TARGET, offset: 4090, len: 10, unsettled: false };
    let reply = ReadReply { offset: 4090, len: 10, zeroes: false };
    assert!(reply.answers(&request));
    assert!(!ReadReply { len: 9, ..reply }.answers(&request));
    let mut body = Vec::new();
    reply.encode(&[1, 2], &mut body);
    let (received, crcs) = ReadReply::decode(&body, 10).unwrap();
    assert_eq!((received, crcs.get(1), crcs.get(2)), (reply, Some(2), None));
    assert!(ReadReply::decode(&body, 9).is_err());

    let zeroes = ReadReply { zeroes: true, ..reply };
    body.clear();
    zeroes.encode(&[], &mut body);
    assert_eq!(ReadReply::decode(&body, 0).unwrap().0, zeroes);
    assert!(ReadReply::decode(&body, 10).is_err());
}

#[test]
fn flush_watermarks() {
    let flush = Flush { file: 1, epoch: 2, upto_seq: 30, done: 29, stable: 28, settled_before: true };
    let mut body = Vec::new();
    flush.encode(&[], &mut body);
    assert_eq!(Flush::decode(&body), Ok((flush, Vec::new())));
    body[32] = 30;
    assert_eq!(Flush::decode(&body), Err(BodyError::Contradiction { rule: "stable <= done" }));
    body[32] = 0;
    body[42] = 1;
    assert_eq!(Flush::decode(&body), Err(BodyError::Flags { unknown: 0x0001_0000 }));
}

#[test]
fn a_flush_names_what_must_be_installed() {
    let flush = Flush { file: 1, epoch: 2, upto_seq: 30, done: 29, stable: 28, settled_before: false };
    let installed: Vec<_> =
        (0..MAX_FLUSH_CHUNKS.into()).map(|chunk| InstalledVersion { chunk, version: chunk + 7 }).collect();
    for count in [1, 2, installed.len()] {
        let mut body = Vec::new();
        flush.encode(&installed[..count], &mut body);
        assert_eq!(Flush::decode(&body), Ok((flush, installed[..count].to_vec())));
        let (expected, found) = (16 * count, 16 * count - 1);
        assert_eq!(Flush::decode(&body[..body.len() - 1]), Err(BodyError::Length { expected, found }));
    }
    let mut body = Vec::new();
    flush.encode(&installed, &mut body);
    body[44..48].copy_from_slice(&(MAX_FLUSH_CHUNKS + 1).to_le_bytes());
    body.extend_from_slice(&[0; 16]);
    let (count, max) = (u64::from(MAX_FLUSH_CHUNKS) + 1, MAX_FLUSH_CHUNKS.into());
    assert_eq!(Flush::decode(&body), Err(BodyError::TooMany { count, max }));
}

#[test]
fn block_status_runs_add_up() {
    let reply = BlockStatusReply {
        offset: 8192,
        runs: vec![Run { blocks: 3, kind: RunKind::Data }, Run { blocks: 5, kind: RunKind::Hole }],
    };
    let mut body = Vec::new();
    reply.encode(&mut body);
    assert_eq!(reply.len(), 8 * 4096);
    assert_eq!(BlockStatusReply::decode(&body), Ok(reply));
    for (at, value, what) in [
        (5, 0, "length"),
        (8, 3, "count"),
        (16, 0, "empty run"),
        (19, 0xff, "overflowing run"),
        (20, 2, "kind"),
        (0, 1, "unaligned start"),
    ] {
        let mut bad = body.clone();
        bad[at] = value;
        assert!(BlockStatusReply::decode(&bad).is_err(), "{what}");
    }
    let empty: Vec<u8> = vec![0; 16];
    assert!(BlockStatusReply::decode(&empty).is_err());
    let mut many = body;
    many[8..12].copy_from_slice(&(MAX_RUNS + 1).to_le_bytes());
    assert!(matches!(BlockStatusReply::decode(&many), Err(BodyError::TooMany { .. })));
    let mut request = Vec::new();
    BlockStatus { target: TARGET, offset: 0, len: 4096 }.encode(&mut request);
    request[32] = 1;
    assert_eq!(BlockStatus::decode(&request), Err(BodyError::Unaligned { offset: 1, len: 4096 }));
}

#[test]
fn survey_entries_ascend_and_marks_are_bare() {
    let entry = SurveyEntry { first_block: 5, blocks: 2, kind: EntryKind::Write, epoch: 1, seq: 8 };
    let mark = SurveyEntry { first_block: 0, blocks: 256, kind: EntryKind::Mark, epoch: 0, seq: 0 };
    let reply = SurveyReply { total: 9, mark_blocks: 256, entries: vec![mark, entry] };
    let mut body = Vec::new();
    reply.encode(&mut body);
    assert_eq!(SurveyReply::decode(&body), Ok(reply));
    for (at, value, what) in [
        (0, 1, "page larger than all"),
        (5, 0, "mark of no blocks"),
        (8, 1, "count"),
        (32, 9, "order"),
        (36 + 1, 0, "empty range"),
        (40, 1, "mark with an epoch"),
        (56, 2, "kind"),
    ] {
        let mut bad = body.clone();
        bad[at] = value;
        assert!(SurveyReply::decode(&bad).is_err(), "{what}");
    }
}

#[test]
fn survey_of_blocks_is_bounded_and_answered_in_full() {
    let request = SurveyBlocks { target: TARGET, first_block: 7, count: 2 };
    let mut body = Vec::new();
    request.encode(&mut body);
    assert_eq!(SurveyBlocks::decode(&body), Ok(request));
    body[36..40].copy_from_slice(&(MAX_SURVEY_BLOCKS + 1).to_le_bytes());
    assert!(matches!(SurveyBlocks::decode(&body), Err(BodyError::TooMany { .. })));

    let block = BlockSurvey { epoch: 1, seq: 2, crc: 3, state: BlockState::Match };
    let unmatched = BlockSurvey { epoch: 0, seq: 0, crc: 9, state: BlockState::Unmatched };
    let reply = SurveyBlocksReply { first_block: 7, blocks: vec![block, unmatched] };
    assert!(reply.answers(&request));
    assert!(!SurveyBlocksReply { first_block: 8, ..reply.clone() }.answers(&request));
    body.clear();
    reply.encode(&mut body);
    assert_eq!(SurveyBlocksReply::decode(&body), Ok(reply));
    body[16 + 20] = 3;
    assert_eq!(SurveyBlocksReply::decode(&body), Err(BodyError::Value { field: "state", found: 3 }));
}

#[test]
fn clear_marks_reach_no_later_epoch_than_the_senders() {
    let clear = ClearMarks { target: TARGET, upto_epoch: 2, upto_seq: 5 };
    let mut body = Vec::new();
    clear.encode(&mut body);
    assert_eq!(ClearMarks::decode(&body), Ok(clear));
    body[32] = 3;
    assert!(ClearMarks::decode(&body).is_err());
}

#[test]
#[should_panic(expected = "cannot be sent")]
fn sending_a_list_that_does_not_fit_is_a_bug() {
    write(0, 8192, WriteKind::Data).encode(&[1], &mut Vec::new());
}
