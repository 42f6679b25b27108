//! One function per parser that takes any bytes.
//!
//! Each says whether the parser accepted them and panics when something accepted does not survive a
//! round trip. The tests of this crate drive them with inputs grown from the fixtures; the targets in
//! `fuzz/` hand them to libFuzzer.

use prost::Message;

use crate::auth::{RevocationList, Revocations};
use crate::body::decode_body;
use crate::call::ROWS;
use crate::crc::crc32c;
use crate::data::{
    BlockStatus, BlockStatusReply, ClearMarks, Crcs, Flush, FlushReply, Read, ReadReply, Settle, Survey,
    SurveyBlocks, SurveyBlocksReply, SurveyReply, Write, WriteReply,
};
use crate::header::{FrameError, Header, Kind};
use crate::hello::Goodbye;
use crate::limits::HEADER_LEN;
use crate::op::{Group, Op};
use crate::status::ErrorBody;

/// A fuzz function, and how a frame becomes one of its inputs.
pub struct Target {
    /// Name, as in `fuzz/fuzz_targets/`.
    pub name: &'static str,
    /// Hands bytes to the parser; whether it accepted them.
    pub run: fn(&[u8]) -> bool,
    /// An input made of a good frame, unless the parser is not for such frames.
    pub seed: fn(&Header, &[u8]) -> Option<Vec<u8>>,
}

/// All fuzz functions.
pub const TARGETS: &[Target] = &[
    Target { name: "header", run: header, seed: |header, _| Some(header.encode().to_vec()) },
    Target { name: "frame", run: frame, seed: |header, body| Some([&header.encode(), body].concat()) },
    Target {
        name: "error_body",
        run: error_body,
        seed: |header, body| seed_if(!header.status.is_ok(), body),
    },
    Target {
        name: "revocations",
        run: revocations,
        seed: |header, body| seed_if(is(header, Op::Revocations), body),
    },
    Target { name: "goodbye", run: goodbye, seed: |header, body| seed_if(is(header, Op::Goodbye), body) },
    Target { name: "write", run: write, seed: |header, body| with_payload(request(header, Op::Write), body) },
    Target {
        name: "write_reply",
        run: write_reply,
        seed: |header, body| seed_if(reply(header, Op::Write) || reply(header, Op::Settle), body),
    },
    Target {
        name: "read",
        run: read,
        seed: |header, body| seed_if(is(header, Op::Read) || is(header, Op::CopyRead), body),
    },
    Target {
        name: "read_reply",
        run: read_reply,
        seed: |header, body| {
            let is_read = reply(header, Op::Read) || reply(header, Op::CopyRead);
            with_payload(is_read.then_some(header), body)
        },
    },
    Target { name: "flush", run: flush, seed: |header, body| seed_if(is(header, Op::Flush), body) },
    Target {
        name: "flush_reply",
        run: flush_reply,
        seed: |header, body| seed_if(reply(header, Op::Flush), body),
    },
    Target {
        name: "block_status",
        run: block_status,
        seed: |header, body| seed_if(is(header, Op::BlockStatus), body),
    },
    Target {
        name: "block_status_reply",
        run: block_status_reply,
        seed: |header, body| seed_if(reply(header, Op::BlockStatus), body),
    },
    Target { name: "survey", run: survey, seed: |header, body| seed_if(is(header, Op::Survey), body) },
    Target {
        name: "survey_reply",
        run: survey_reply,
        seed: |header, body| seed_if(reply(header, Op::Survey), body),
    },
    Target {
        name: "survey_blocks",
        run: survey_blocks,
        seed: |header, body| seed_if(is(header, Op::SurveyBlocks), body),
    },
    Target {
        name: "survey_blocks_reply",
        run: survey_blocks_reply,
        seed: |header, body| seed_if(reply(header, Op::SurveyBlocks), body),
    },
    Target {
        name: "settle",
        run: settle,
        seed: |header, body| with_payload(request(header, Op::Settle), body),
    },
    Target {
        name: "clear_marks",
        run: clear_marks,
        seed: |header, body| seed_if(is(header, Op::ClearMarks), body),
    },
    Target { name: "hello", run: hello, seed: |header, body| control_seed(Group::Connection, header, body) },
    Target { name: "copy", run: copy, seed: |header, body| control_seed(Group::Copy, header, body) },
    Target { name: "session", run: session, seed: |header, body| control_seed(Group::Session, header, body) },
    Target {
        name: "namespace",
        run: namespace,
        seed: |header, body| control_seed(Group::Namespace, header, body),
    },
    Target { name: "inode", run: inode, seed: |header, body| control_seed(Group::Inode, header, body) },
    Target { name: "lease", run: lease, seed: |header, body| control_seed(Group::Lease, header, body) },
    Target { name: "cs", run: cs, seed: |header, body| control_seed(Group::ChunkServer, header, body) },
    Target { name: "command", run: command, seed: |header, body| control_seed(Group::Command, header, body) },
    Target { name: "cluster", run: cluster, seed: |header, body| control_seed(Group::Cluster, header, body) },
    Target { name: "guest", run: guest, seed: |header, body| control_seed(Group::Guest, header, body) },
    Target { name: "node", run: node, seed: |header, body| control_seed(Group::Node, header, body) },
];

fn is(header: &Header, op: Op) -> bool {
    header.known_op() == Some(op) && header.kind != Kind::Response
}

fn reply(header: &Header, op: Op) -> bool {
    header.known_op() == Some(op) && header.kind == Kind::Response && header.status.is_ok()
}

fn request(header: &Header, op: Op) -> Option<&Header> {
    is(header, op).then_some(header)
}

fn seed_if(wanted: bool, body: &[u8]) -> Option<Vec<u8>> {
    wanted.then(|| body.to_vec())
}

/// Bodies that come with a payload are led by its length, so that the fuzzer can change it.
fn with_payload(header: Option<&Header>, body: &[u8]) -> Option<Vec<u8>> {
    header.map(|header| [&header.payload_len.to_le_bytes(), body].concat())
}

/// Control bodies are led by one byte that chooses the operation, and request (even) or reply (odd).
fn control_seed(group: Group, header: &Header, body: &[u8]) -> Option<Vec<u8>> {
    if !header.status.is_ok() {
        return None;
    }
    let row = rows(group).position(|row| row.op.code() == header.op)?;
    let selector = 2 * row as u8 + u8::from(header.kind == Kind::Response);
    Some([&[selector], body].concat())
}

fn rows(group: Group) -> impl Iterator<Item = &'static crate::call::Row> {
    ROWS.iter().filter(move |row| row.op.group() == group)
}

fn control(group: Group, data: &[u8]) -> bool {
    let Some((&selector, body)) = data.split_first() else { return false };
    let count = rows(group).count();
    let Some(row) = rows(group).nth(usize::from(selector / 2) % count) else { return false };
    if selector.is_multiple_of(2) { (row.request)(body) } else { (row.reply)(body) }
}

/// Whether `body` is a message of this kind; panics if it does not survive a round trip.
pub(crate) fn round_trips<M: Message + Default + PartialEq + std::fmt::Debug>(body: &[u8]) -> bool {
    let Ok(message) = decode_body::<M>(body) else { return false };
    // What was read may take more bytes than it had, such as required sub-messages that were missing:
    // not through `encode_body`, whose limit is the sender's business.
    let again = M::decode(message.encode_to_vec().as_slice());
    assert!(again.is_ok_and(|again| again == message), "{message:?} does not survive a round trip");
    true
}

/// The header: as it is, and with its CRC made right so that the checks behind it are reached.
pub fn header(data: &[u8]) -> bool {
    let Some(bytes) = data.first_chunk::<HEADER_LEN>() else { return false };
    // Mostly refused for its CRC; what counts is that it does not panic.
    let _ = checked_header(bytes);
    let mut patched = *bytes;
    let crc = crc32c(&patched[..60]);
    patched[60..].copy_from_slice(&crc.to_le_bytes());
    checked_header(&patched).is_ok()
}

fn checked_header(bytes: &[u8; HEADER_LEN]) -> Result<Header, FrameError> {
    let header = Header::decode(bytes).inspect_err(|error| assert!(!error.to_string().is_empty()))?;
    assert_eq!(Header::decode(&header.encode()), Ok(header));
    Ok(header)
}

/// A whole frame: the header, the body it announces, and the parser of its operation.
pub fn frame(data: &[u8]) -> bool {
    let Some((bytes, body)) = data.split_first_chunk::<HEADER_LEN>() else { return false };
    let mut patched = *bytes;
    patched[28..32].copy_from_slice(&(body.len() as u32).to_le_bytes());
    patched[36..40].copy_from_slice(&crc32c(body).to_le_bytes());
    let crc = crc32c(&patched[..60]);
    patched[60..].copy_from_slice(&crc.to_le_bytes());
    let Ok(header) = checked_header(&patched) else { return false };
    assert_eq!(header.check_body(body), Ok(()));
    if !header.status.is_ok() {
        return error_body(body);
    }
    if reply(&header, Op::ClearMarks) {
        return body.is_empty();
    }
    TARGETS
        .iter()
        .filter(|target| target.name != "header" && target.name != "frame")
        .filter_map(|target| (target.seed)(&header, body).map(|input| (target.run)(&input)))
        .fold(false, |any, accepted| any | accepted)
}

/// The body of a response that failed.
pub fn error_body(data: &[u8]) -> bool {
    let accepted = round_trips::<ErrorBody>(data);
    assert!(accepted || ErrorBody::lossy(data) == ErrorBody::default());
    accepted
}

/// GOODBYE notice.
pub fn goodbye(data: &[u8]) -> bool {
    round_trips::<Goodbye>(data)
}

/// HELLO and PING.
pub fn hello(data: &[u8]) -> bool {
    control(Group::Connection, data)
}

/// Operations between chunk servers.
pub fn copy(data: &[u8]) -> bool {
    control(Group::Copy, data)
}

/// Session operations.
pub fn session(data: &[u8]) -> bool {
    control(Group::Session, data)
}

/// Namespace operations.
pub fn namespace(data: &[u8]) -> bool {
    control(Group::Namespace, data)
}

/// Inode operations.
pub fn inode(data: &[u8]) -> bool {
    control(Group::Inode, data)
}

/// Lease and map operations.
pub fn lease(data: &[u8]) -> bool {
    control(Group::Lease, data)
}

/// Operations from CS to MDS.
pub fn cs(data: &[u8]) -> bool {
    control(Group::ChunkServer, data)
}

/// Operations from MDS to CS.
pub fn command(data: &[u8]) -> bool {
    control(Group::Command, data)
}

/// Configuration and monitoring.
pub fn cluster(data: &[u8]) -> bool {
    control(Group::Cluster, data)
}

/// What guests say and hear.
pub fn guest(data: &[u8]) -> bool {
    control(Group::Guest, data)
}

/// Members and their certificates.
pub fn node(data: &[u8]) -> bool {
    control(Group::Node, data)
}

/// REVOCATIONS notice, and the list in it.
pub fn revocations(data: &[u8]) -> bool {
    let accepted = round_trips::<Revocations>(data);
    if let Ok(notice) = decode_body::<Revocations>(data) {
        round_trips::<RevocationList>(&notice.list);
    }
    accepted
}

/// A fixed body without a list of checksums: decode, encode, decode.
fn fixed<T, E: std::fmt::Display>(
    data: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T, &mut Vec<u8>),
) -> bool
where
    T: PartialEq + std::fmt::Debug,
{
    let value = match decode(data) {
        Ok(value) => value,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let mut body = Vec::new();
    encode(&value, &mut body);
    assert_eq!(body.len(), data.len(), "the length is part of the layout");
    let again = decode(&body);
    assert!(again.is_ok_and(|again| again == value), "{value:?} does not survive a round trip");
    true
}

/// A fixed body with a payload and a list of checksums.
fn with_crcs<T>(
    data: &[u8],
    decode: impl for<'a> Fn(&'a [u8], u32) -> Result<(T, Crcs<'a>), crate::BodyError>,
    encode: impl Fn(&T, &[u32], &mut Vec<u8>),
) -> bool
where
    T: PartialEq + std::fmt::Debug,
{
    let Some((payload_len, body)) = data.split_first_chunk::<4>() else { return false };
    let payload_len = u32::from_le_bytes(*payload_len);
    let owned = |bytes: &[u8]| {
        decode(bytes, payload_len).map(|(value, crcs)| (value, crcs.iter().collect::<Vec<_>>()))
    };
    fixed(body, owned, |(value, crcs), out| encode(value, crcs, out))
}

/// WRITE request.
pub fn write(data: &[u8]) -> bool {
    with_crcs(data, Write::decode, Write::encode)
}

/// WRITE and SETTLE reply.
pub fn write_reply(data: &[u8]) -> bool {
    fixed(data, WriteReply::decode, WriteReply::encode)
}

/// READ request.
pub fn read(data: &[u8]) -> bool {
    fixed(data, Read::decode, Read::encode)
}

/// READ reply.
pub fn read_reply(data: &[u8]) -> bool {
    with_crcs(data, ReadReply::decode, ReadReply::encode)
}

/// FLUSH request.
pub fn flush(data: &[u8]) -> bool {
    fixed(data, Flush::decode, |(flush, installed), out| flush.encode(installed, out))
}

/// FLUSH reply.
pub fn flush_reply(data: &[u8]) -> bool {
    fixed(data, FlushReply::decode, FlushReply::encode)
}

/// BLOCK_STATUS request.
pub fn block_status(data: &[u8]) -> bool {
    fixed(data, BlockStatus::decode, BlockStatus::encode)
}

/// BLOCK_STATUS reply.
pub fn block_status_reply(data: &[u8]) -> bool {
    fixed(data, BlockStatusReply::decode, BlockStatusReply::encode)
}

/// SURVEY request.
pub fn survey(data: &[u8]) -> bool {
    fixed(data, Survey::decode, Survey::encode)
}

/// SURVEY reply.
pub fn survey_reply(data: &[u8]) -> bool {
    fixed(data, SurveyReply::decode, SurveyReply::encode)
}

/// SURVEY_BLOCKS request.
pub fn survey_blocks(data: &[u8]) -> bool {
    fixed(data, SurveyBlocks::decode, SurveyBlocks::encode)
}

/// SURVEY_BLOCKS reply.
pub fn survey_blocks_reply(data: &[u8]) -> bool {
    fixed(data, SurveyBlocksReply::decode, SurveyBlocksReply::encode)
}

/// SETTLE request.
pub fn settle(data: &[u8]) -> bool {
    with_crcs(data, Settle::decode, Settle::encode)
}

/// CLEAR_MARKS request.
pub fn clear_marks(data: &[u8]) -> bool {
    fixed(data, ClearMarks::decode, ClearMarks::encode)
}
