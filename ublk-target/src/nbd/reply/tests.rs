//! Encodings byte by byte, and reads put together again the way a client does.

use super::*;
use crate::nbd::fuzz::XorShift;
use crate::nbd::wire::Fields;

const COOKIE: u64 = 0x0102_0304_0506_0708;
const COOKIE_BYTES: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn headers_are_encoded() {
    let simple = [0x67, 0x44, 0x66, 0x98];
    let chunk = [0x66, 0x8e, 0x33, 0xef];
    let rows: [(Vec<u8>, Vec<u8>); 11] = [
        (ReplyForm::Simple.ok(COOKIE).as_bytes().to_vec(), [&simple[..], &[0; 4], &COOKIE_BYTES].concat()),
        (
            ReplyForm::Structured.ok(COOKIE).as_bytes().to_vec(),
            [&simple[..], &[0; 4], &COOKIE_BYTES].concat(),
        ),
        (
            ReplyHeader::none(COOKIE).as_bytes().to_vec(),
            [&chunk[..], &[0, 1, 0, 0], &COOKIE_BYTES, &[0; 4]].concat(),
        ),
        (
            ReplyHeader::data(COOKIE, 0x1000, 512, false).as_bytes().to_vec(),
            [&chunk[..], &[0, 0, 0, 1], &COOKIE_BYTES, &[0, 0, 2, 8, 0, 0, 0, 0, 0, 0, 0x10, 0]].concat(),
        ),
        (
            ReplyHeader::data(COOKIE, 0, MAX_PAYLOAD, true).as_bytes().to_vec(),
            [&chunk[..], &[0, 1, 0, 1], &COOKIE_BYTES, &[2, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]].concat(),
        ),
        (
            ReplyHeader::hole(COOKIE, 0x1000, 0x2000, true).as_bytes().to_vec(),
            [
                &chunk[..],
                &[0, 1, 0, 2],
                &COOKIE_BYTES,
                &[0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x20, 0],
            ]
            .concat(),
        ),
        (
            ReplyForm::Simple.error(COOKIE, Errno::NoSpc, "unheard"),
            [&simple[..], &[0, 0, 0, 28], &COOKIE_BYTES].concat(),
        ),
        (
            ReplyForm::Simple.error_at(COOKIE, Errno::Io, "unheard", 9),
            [&simple[..], &[0, 0, 0, 5], &COOKIE_BYTES].concat(),
        ),
        (
            ReplyForm::Structured.error(COOKIE, Errno::Perm, "no"),
            [&chunk[..], &[0, 1, 0x80, 1], &COOKIE_BYTES, &[0, 0, 0, 8, 0, 0, 0, 1, 0, 2], b"no"].concat(),
        ),
        (
            ReplyForm::Structured.error(COOKIE, Errno::Shutdown, ""),
            [&chunk[..], &[0, 1, 0x80, 1], &COOKIE_BYTES, &[0, 0, 0, 6, 0, 0, 0, 108, 0, 0]].concat(),
        ),
        (
            ReplyForm::Structured.error_at(COOKIE, Errno::Io, "bad", 0x1000),
            [
                &chunk[..],
                &[0, 1, 0x80, 2],
                &COOKIE_BYTES,
                &[0, 0, 0, 17, 0, 0, 0, 5, 0, 3],
                b"bad",
                &[0, 0, 0, 0, 0, 0, 0x10, 0],
            ]
            .concat(),
        ),
    ];
    for (at, (got, expected)) in rows.into_iter().enumerate() {
        assert_eq!(got, expected, "row {at}");
    }
}

#[test]
fn long_messages_are_cut_between_characters() {
    let message = format!("x{}", "\u{fc}".repeat(MAX_STRING));
    let bytes = ReplyForm::Structured.error(0, Errno::Io, &message);
    let text = &bytes[wire::CHUNK_LEN + 6..];
    assert_eq!(text.len(), MAX_STRING - 1);
    assert_eq!(std::str::from_utf8(text), Ok(&message[..MAX_STRING - 1]));
    assert_eq!(bytes[wire::CHUNK_LEN - 4..wire::CHUNK_LEN], (6 + text.len() as u32).to_be_bytes());
    assert_eq!(bytes[wire::CHUNK_LEN + 4..wire::CHUNK_LEN + 6], (text.len() as u16).to_be_bytes());
}

/// The pieces of a read: kind of chunk and the bytes it covers, relative to the read.
fn pieces(form: ReplyForm, length: u32, df: bool, holes: &[Range<u32>]) -> Vec<(char, Range<u32>)> {
    let offset = 1 << 40;
    let read = ReadReply { cookie: COOKIE, offset, length, df, holes };
    let parts: Vec<ReadPart> = form.read(read).collect();
    let count = parts.len();
    parts.into_iter().enumerate().map(|(at, part)| piece(&part, offset, at + 1 == count)).collect()
}

/// Takes one part apart as a client would.
fn piece(part: &ReadPart, offset: u64, last: bool) -> (char, Range<u32>) {
    let payload = part.payload.start as u32..part.payload.end as u32;
    let mut fields = Fields(part.header.as_bytes());
    if fields.u32() == Some(wire::SIMPLE_REPLY_MAGIC) {
        assert_eq!((fields.u32(), fields.u64(), last), (Some(0), Some(COOKIE), true));
        return ('s', payload);
    }
    assert_eq!(fields.u16(), Some(u16::from(last)), "DONE on the last chunk only");
    let kind = fields.u16();
    assert_eq!(fields.u64(), Some(COOKIE));
    let length = fields.u32().unwrap();
    let start = (fields.u64().unwrap() - offset) as u32;
    if kind == Some(wire::REPLY_TYPE_OFFSET_HOLE) {
        assert_eq!((length, payload.len()), (12, 0));
        let size = fields.u32().unwrap();
        assert!(fields.is_empty());
        return ('h', start..start + size);
    }
    assert!(kind == Some(wire::REPLY_TYPE_OFFSET_DATA) && fields.is_empty());
    assert_eq!((start, length as usize), (payload.start, 8 + payload.len()));
    ('d', payload)
}

// A list of one hole is a list of ranges, not a range spelt wrongly.
#[allow(clippy::single_range_in_vec_init)]
#[test]
fn reads_are_split_at_holes() {
    use ReplyForm::{Simple, Structured};
    const K: u32 = 1024;
    type Row<'a> = (ReplyForm, bool, &'a [Range<u32>], &'a [(char, Range<u32>)]);
    let rows: [Row<'_>; 15] = [
        (Simple, false, &[], &[('s', 0..64 * K)]),
        (Simple, false, &[0..64 * K], &[('s', 0..64 * K)]),
        (Simple, false, &[4 * K..8 * K], &[('s', 0..64 * K)]),
        (Structured, false, &[], &[('d', 0..64 * K)]),
        (Structured, false, &[0..64 * K], &[('h', 0..64 * K)]),
        (Structured, false, &[0..u32::MAX], &[('h', 0..64 * K)]),
        (Structured, false, &[0..8 * K], &[('h', 0..8 * K), ('d', 8 * K..64 * K)]),
        (Structured, false, &[56 * K..99 * K], &[('d', 0..56 * K), ('h', 56 * K..64 * K)]),
        (
            Structured,
            false,
            &[4 * K..8 * K, 16 * K..32 * K],
            &[
                ('d', 0..4 * K),
                ('h', 4 * K..8 * K),
                ('d', 8 * K..16 * K),
                ('h', 16 * K..32 * K),
                ('d', 32 * K..64 * K),
            ],
        ),
        // too short for a chunk of its own, here or after clipping
        (Structured, false, &[4 * K..8 * K - 1], &[('d', 0..64 * K)]),
        (Structured, false, &[62 * K..99 * K], &[('d', 0..64 * K)]),
        // outside, or no range at all
        (Structured, false, &[64 * K..99 * K, 9..9], &[('d', 0..64 * K)]),
        // one chunk
        (Structured, true, &[4 * K..8 * K], &[('d', 0..64 * K)]),
        (Structured, true, &[0..64 * K], &[('h', 0..64 * K)]),
        (Structured, true, &[0..60 * K, 60 * K..64 * K], &[('d', 0..64 * K)]),
    ];
    for (form, df, holes, expected) in rows {
        assert_eq!(pieces(form, 64 * K, df, holes), expected, "{form:?} {df} {holes:?}");
    }
    assert_eq!(pieces(Structured, 0, false, &[]), []);
}

#[test]
fn parts_cover_every_read_exactly_once() {
    let mut random = XorShift::new(11);
    let mut chunks = 0;
    for _ in 0..5000 {
        let length = 1 + random.below(1 << 17) as u32;
        let mut holes: Vec<Range<u32>> = Vec::new();
        let mut at = 0;
        for _ in 0..random.below(12) {
            let start = at + random.below(1 << 14) as u32;
            at = start + random.below(1 << 14) as u32;
            holes.push(start..at);
        }
        let df = random.below(4) == 0;
        let pieces = pieces(ReplyForm::Structured, length, df, &holes);
        assert!(!df || pieces.len() == 1);
        let mut covered = 0;
        for (kind, range) in &pieces {
            assert_eq!(range.start, covered);
            assert!(range.start < range.end);
            let zero = |byte: &u32| holes.iter().any(|hole| hole.contains(byte));
            assert!(*kind == 'd' || range.clone().all(|byte| zero(&byte)));
            covered = range.end;
        }
        assert_eq!(covered, length);
        chunks += pieces.len();
    }
    assert!(chunks > 10_000, "only {chunks} chunks: the holes are not used");
}
