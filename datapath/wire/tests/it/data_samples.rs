//! Samples of the data operations.

use wire::crc::{block_crcs, verify_blocks};
use wire::data::{
    BlockState, BlockStatus, BlockStatusReply, BlockSurvey, ClearMarks, EntryKind, Flush, FlushReply,
    InstalledVersion, Read, ReadReply, Run, RunKind, Settle, Survey, SurveyBlocks, SurveyBlocksReply,
    SurveyEntry, SurveyReply, Target, Write, WriteKind, WriteReply,
};
use wire::{Op, Status};

use crate::sample::Sample;

const TARGET: Target = Target { file: 0x1001, epoch: 0x0001_0000_0000_0007, chunk: 0x2002, version: 0x11 };

/// `len` bytes that differ from block to block.
fn content(len: u32) -> Vec<u8> {
    (0..len).map(|at| (at / 251 + at % 251) as u8).collect()
}

fn crcs_of(offset: u32, payload: &[u8]) -> Vec<u32> {
    let mut crcs = Vec::new();
    block_crcs(offset.into(), payload, &mut crcs);
    crcs
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Vec::new();
    encode(&mut body);
    body
}

fn write(kind: WriteKind, offset: u32, len: u32) -> Write {
    Write {
        target: TARGET,
        seq: 1234,
        done: 1200,
        stable: 1100,
        offset,
        len,
        kind,
        fua: kind != WriteKind::Discard,
        stripe_version: 0,
    }
}

fn write_sample(name: &str, write: Write) -> Sample {
    let payload = content(write.payload_len());
    let crcs = crcs_of(write.offset, &payload);
    let body = encoded(|out| write.encode(&crcs, out));
    let held = payload.clone();
    Sample::request(name, Op::Write, body, &payload, move |header, body| {
        let (found, crcs) = Write::decode(body, header.payload_len).expect("accepted");
        assert_eq!(found, write);
        assert_eq!(verify_blocks(write.offset.into(), &held, crcs.iter()), Ok(()));
    })
}

fn settle_sample() -> Sample {
    let settle =
        Settle { write: write(WriteKind::Data, 8192, 4096), win_epoch: TARGET.epoch - 1, win_seq: 99 };
    let payload = content(4096);
    let body = encoded(|out| settle.encode(&crcs_of(8192, &payload), out));
    Sample::request("settle.request", Op::Settle, body, &payload, move |header, body| {
        assert_eq!(Settle::decode(body, header.payload_len).map(|(found, _)| found), Ok(settle));
    })
}

fn write_reply_samples() -> [Sample; 2] {
    [("write.response", Op::Write), ("settle.response", Op::Settle)].map(|(name, op)| {
        let reply = WriteReply { flush_soon: op == Op::Write, durable_hint: 1111 };
        Sample::response(name, op, Status::Ok, encoded(|out| reply.encode(out)), &[], move |_, body| {
            assert_eq!(WriteReply::decode(body), Ok(reply));
        })
    })
}

fn read_samples() -> Vec<Sample> {
    let read = Read { target: TARGET, offset: 4000, len: 5000, unsettled: false };
    let requests = [("read.request", read), ("read_unsettled.request", Read { unsettled: true, ..read })];
    let mut samples: Vec<Sample> = requests
        .into_iter()
        .map(|(name, read)| {
            Sample::request(name, Op::Read, encoded(|out| read.encode(out)), &[], move |_, body| {
                assert_eq!(Read::decode(body), Ok(read));
            })
        })
        .collect();
    let copy = Read { target: Target { epoch: 0, ..TARGET }, offset: 65536, len: 65536, unsettled: false };
    samples.push(Sample::request(
        "copy_read.request",
        Op::CopyRead,
        encoded(|out| copy.encode(out)),
        &[],
        move |_, body| assert_eq!(Read::decode(body), Ok(copy)),
    ));
    let copied = ReadReply { offset: 65536, len: 65536, zeroes: true };
    let body = encoded(|out| copied.encode(&[], out));
    samples.push(Sample::response(
        "copy_read.response",
        Op::CopyRead,
        Status::Ok,
        body,
        &[],
        move |_, body| {
            let (found, _) = ReadReply::decode(body, 0).expect("accepted");
            assert!(found == copied && found.answers(&copy));
        },
    ));
    for (name, zeroes) in [("read.response", false), ("read_zeroes.response", true)] {
        let reply = ReadReply { offset: 4000, len: 5000, zeroes };
        let payload = content(reply.payload_len());
        let body = encoded(|out| reply.encode(&crcs_of(4000, &payload), out));
        let held = payload.clone();
        samples.push(Sample::response(name, Op::Read, Status::Ok, body, &payload, move |header, body| {
            let (found, crcs) = ReadReply::decode(body, header.payload_len).expect("accepted");
            assert_eq!(found, reply);
            assert!(found.answers(&read));
            assert_eq!(verify_blocks(4000, &held, crcs.iter()), Ok(()));
        }));
    }
    samples
}

fn flush_samples() -> [Sample; 3] {
    let flush = Flush {
        file: TARGET.file,
        epoch: TARGET.epoch,
        upto_seq: 1235,
        done: 1230,
        stable: 1100,
        settled_before: false,
    };
    let reply = FlushReply { boot_id: *b"0123456789abcdef" };
    let installed = [
        InstalledVersion { chunk: TARGET.chunk, version: TARGET.version },
        InstalledVersion { chunk: TARGET.chunk + 1, version: 9 },
    ];
    let sample = |name, installed: Vec<InstalledVersion>| {
        let body = encoded(|out| flush.encode(&installed, out));
        Sample::request(name, Op::Flush, body, &[], move |_, body| {
            assert_eq!(Flush::decode(body), Ok((flush, installed.clone())));
        })
    };
    [
        sample("flush.request", Vec::new()),
        sample("flush_installed.request", installed.to_vec()),
        Sample::response(
            "flush.response",
            Op::Flush,
            Status::Ok,
            encoded(|out| reply.encode(out)),
            &[],
            move |_, body| assert_eq!(FlushReply::decode(body), Ok(reply)),
        ),
    ]
}

fn block_status_samples() -> [Sample; 2] {
    let status = BlockStatus { target: TARGET, offset: 1 << 20, len: 1 << 20 };
    let runs = vec![
        Run { blocks: 100, kind: RunKind::Data },
        Run { blocks: 56, kind: RunKind::Hole },
        Run { blocks: 100, kind: RunKind::Data },
    ];
    let reply = BlockStatusReply { offset: 1 << 20, runs };
    let bodies = (encoded(|out| status.encode(out)), encoded(|out| reply.encode(out)));
    [
        Sample::request("block_status.request", Op::BlockStatus, bodies.0, &[], move |_, body| {
            assert_eq!(BlockStatus::decode(body), Ok(status));
        }),
        Sample::response(
            "block_status.response",
            Op::BlockStatus,
            Status::Ok,
            bodies.1,
            &[],
            move |_, body| {
                assert_eq!(BlockStatusReply::decode(body).as_ref(), Ok(&reply));
            },
        ),
    ]
}

fn survey_samples() -> [Sample; 2] {
    let survey = Survey { target: TARGET, skip: 5 };
    let entry = SurveyEntry { first_block: 256, blocks: 256, kind: EntryKind::Mark, epoch: 0, seq: 0 };
    let written =
        SurveyEntry { first_block: 300, blocks: 2, kind: EntryKind::Write, epoch: TARGET.epoch - 1, seq: 98 };
    let reply = SurveyReply { total: 7, mark_blocks: 256, entries: vec![entry, written] };
    let bodies = (encoded(|out| survey.encode(out)), encoded(|out| reply.encode(out)));
    [
        Sample::request("survey.request", Op::Survey, bodies.0, &[], move |_, body| {
            assert_eq!(Survey::decode(body), Ok(survey));
        }),
        Sample::response("survey.response", Op::Survey, Status::Ok, bodies.1, &[], move |_, body| {
            assert_eq!(SurveyReply::decode(body).as_ref(), Ok(&reply));
        }),
    ]
}

fn survey_blocks_samples() -> [Sample; 2] {
    let survey = SurveyBlocks { target: TARGET, first_block: 300, count: 3 };
    let blocks = vec![
        BlockSurvey { epoch: TARGET.epoch - 1, seq: 98, crc: 0x1234_5678, state: BlockState::Match },
        BlockSurvey { epoch: TARGET.epoch - 2, seq: 7, crc: 0, state: BlockState::Zero },
        BlockSurvey { epoch: 0, seq: 0, crc: 0x9abc_def0, state: BlockState::Unmatched },
    ];
    let reply = SurveyBlocksReply { first_block: 300, blocks };
    let bodies = (encoded(|out| survey.encode(out)), encoded(|out| reply.encode(out)));
    [
        Sample::request("survey_blocks.request", Op::SurveyBlocks, bodies.0, &[], move |_, body| {
            assert_eq!(SurveyBlocks::decode(body), Ok(survey));
        }),
        Sample::response(
            "survey_blocks.response",
            Op::SurveyBlocks,
            Status::Ok,
            bodies.1,
            &[],
            move |_, body| {
                assert_eq!(SurveyBlocksReply::decode(body).as_ref(), Ok(&reply));
            },
        ),
    ]
}

fn clear_marks_samples() -> [Sample; 2] {
    let clear = ClearMarks { target: TARGET, upto_epoch: TARGET.epoch, upto_seq: 55 };
    [
        Sample::request(
            "clear_marks.request",
            Op::ClearMarks,
            encoded(|out| clear.encode(out)),
            &[],
            move |_, body| assert_eq!(ClearMarks::decode(body), Ok(clear)),
        ),
        Sample::response("clear_marks.response", Op::ClearMarks, Status::Ok, Vec::new(), &[], |_, body| {
            assert!(body.is_empty());
        }),
    ]
}

/// All samples of data operations.
pub(crate) fn all() -> Vec<Sample> {
    let mut samples = vec![
        write_sample("write.request", write(WriteKind::Data, 4000, 5000)),
        write_sample("write_zeroes.request", write(WriteKind::Zeroes, 4096, 8 << 20)),
        write_sample("write_discard.request", write(WriteKind::Discard, 0, 64 << 20)),
        settle_sample(),
    ];
    samples.extend(write_reply_samples());
    samples.extend(read_samples());
    samples.extend(flush_samples());
    samples.extend(block_status_samples());
    samples.extend(survey_samples());
    samples.extend(survey_blocks_samples());
    samples.extend(clear_marks_samples());
    samples
}
