//! Records: a 64-byte header with a CRC of its own, then the body.
//!
//! See `docs/formats/mds-log.md` for the picture. Records of one group follow each other at multiples of [`ALIGN`];
//! a group begins at a multiple of [`BLOCK`] and is filled up with zeroes to the next one.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::entry::LogId;

/// What a write never splits and never rewrites, in bytes; groups begin and end at its multiples.
pub const BLOCK: usize = 4096;
/// Length of a record's header in bytes.
pub(super) const HEADER: usize = 64;
/// Records begin at multiples of this many bytes.
const ALIGN: usize = 8;
/// The longest body, in bytes.
pub(super) const BODY_MAX: usize = 1 << 20;

const MAGIC: [u8; 4] = *b"MLr1";
const VERSION: u8 = 1;
const FLAG_COMMITTED: u16 = 1;
const FLAG_RESTATED: u16 = 2;

pub(super) fn crc(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// An entry; the body holds its payload.
    Entry = 1,
    /// A vote: the term and node of the record's id.
    Vote = 2,
    /// Everything up to the record's id is committed.
    Committed = 3,
    /// The entries from the record's id on are dropped.
    Truncate = 4,
    /// The entries up to the record's id are dropped; a snapshot holds them.
    Purge = 5,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        [Self::Entry, Self::Vote, Self::Committed, Self::Truncate, Self::Purge]
            .into_iter()
            .find(|kind| *kind as u8 == code)
    }
}

/// What a record's header says besides its place in the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) id: LogId,
    /// Of a vote: whether a majority has granted it.
    pub(super) committed: bool,
    /// Repeats, at the beginning of a segment, what an earlier segment said.
    pub(super) restated: bool,
}

impl Head {
    pub(super) const fn new(kind: Kind, id: LogId) -> Self {
        Self { kind, id, committed: false, restated: false }
    }
}

/// A header that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) head: Head,
    /// Position in the sequence of all records of this log, from 1.
    pub(super) seq: u64,
    /// The last record known to be durable when this one was written.
    pub(super) durable: u64,
    pub(super) body_len: u32,
    pub(super) body_crc: u32,
}

impl Header {
    /// Bytes the record takes, with what fills it up.
    pub(super) fn record_len(&self) -> usize {
        record_len(self.body_len as usize)
    }
}

/// Bytes a record with such a body takes.
pub(super) fn record_len(body_len: usize) -> usize {
    (HEADER + body_len).next_multiple_of(ALIGN)
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    magic: [u8; 4],
    version: u8,
    kind: u8,
    flags: U16,
    body_len: U32,
    body_crc: U32,
    seq: U64,
    durable: U64,
    term: U64,
    node: U64,
    index: U64,
    tag: U32,
    header_crc: U32,
}

const _: () = assert!(size_of::<Raw>() == HEADER);

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Other bytes than a record's first ones.
    #[error("no record begins here")]
    NoRecord,
    /// The header's CRC is wrong.
    #[error("the CRC of a record's header is wrong")]
    HeaderCrc,
    /// The body's CRC is wrong.
    #[error("the CRC of a record's body is wrong")]
    BodyCrc,
    /// The record would end behind the segment.
    #[error("a record ends behind the end of its segment")]
    Length,
    /// A good record of another log.
    #[error("a record belongs to another log")]
    Foreign,
    /// A good record in the wrong place.
    #[error("a record has the number {found}")]
    Sequence {
        /// Its place in the sequence.
        found: u64,
    },
    /// Nothing but zeroes where there was a record.
    #[error("records are missing")]
    Missing,
}

/// A good record that this version cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Newer;

/// What parsing finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Flaw(Flaw),
    Newer(Newer),
}

impl From<Flaw> for Unreadable {
    fn from(flaw: Flaw) -> Self {
        Self::Flaw(flaw)
    }
}

/// Checks the header at the beginning of `bytes`; `tag` is that of this log. The body is not looked at.
pub(super) fn parse_header(bytes: &[u8], tag: u32) -> Result<Header, Unreadable> {
    let (raw, _) = Raw::read_from_prefix(bytes).map_err(|_| Flaw::NoRecord)?;
    if raw.magic != MAGIC {
        return Err(Flaw::NoRecord.into());
    }
    if raw.header_crc.get() != crc(&raw.as_bytes()[..HEADER - 4]) {
        return Err(Flaw::HeaderCrc.into());
    }
    if raw.tag.get() != tag {
        return Err(Flaw::Foreign.into());
    }
    let known = FLAG_COMMITTED | FLAG_RESTATED;
    let (Some(kind), VERSION, 0) = (Kind::from_code(raw.kind), raw.version, raw.flags.get() & !known) else {
        return Err(Unreadable::Newer(Newer));
    };
    let id = LogId { term: raw.term.get(), node: raw.node.get(), index: raw.index.get() };
    let flag = |bit| raw.flags.get() & bit != 0;
    let head = Head { kind, id, committed: flag(FLAG_COMMITTED), restated: flag(FLAG_RESTATED) };
    if raw.body_len.get() as usize > BODY_MAX {
        return Err(Flaw::Length.into());
    }
    let (body_len, body_crc) = (raw.body_len.get(), raw.body_crc.get());
    Ok(Header { head, seq: raw.seq.get(), durable: raw.durable.get(), body_len, body_crc })
}

/// Checks the record at the beginning of `bytes` and gives its header and body.
pub(super) fn parse(bytes: &[u8], tag: u32) -> Result<(Header, &[u8]), Unreadable> {
    let header = parse_header(bytes, tag)?;
    let content = bytes.get(HEADER..header.record_len()).ok_or(Flaw::Length)?;
    let (body, filling) = content.split_at(header.body_len as usize);
    if crc(body) != header.body_crc || filling.iter().any(|byte| *byte != 0) {
        return Err(Flaw::BodyCrc.into());
    }
    Ok((header, body))
}

/// Whether a header might begin here: tells records from the zeroes that fill a group up.
pub(super) fn begins_record(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Records that are written and flushed together.
#[derive(Debug)]
pub(super) struct Group {
    bytes: Vec<u8>,
    tag: u32,
    durable: u64,
    next_seq: u64,
}

impl Group {
    /// An empty group; its first record will have the number `next_seq`, and all before it are durable.
    pub(super) fn new(tag: u32, next_seq: u64) -> Self {
        Self { bytes: Vec::new(), tag, durable: next_seq - 1, next_seq }
    }

    /// Adds a record and gives its offset in the group.
    pub(super) fn push(&mut self, head: Head, body: &[u8]) -> usize {
        let offset = self.bytes.len();
        let mut flags = 0;
        if head.committed {
            flags |= FLAG_COMMITTED;
        }
        if head.restated {
            flags |= FLAG_RESTATED;
        }
        let mut raw = Raw {
            magic: MAGIC,
            version: VERSION,
            kind: head.kind as u8,
            flags: flags.into(),
            body_len: u32::try_from(body.len()).expect("bodies are limited").into(),
            body_crc: crc(body).into(),
            seq: self.next_seq.into(),
            durable: self.durable.into(),
            term: head.id.term.into(),
            node: head.id.node.into(),
            index: head.id.index.into(),
            tag: self.tag.into(),
            header_crc: 0.into(),
        };
        raw.header_crc = crc(&raw.as_bytes()[..HEADER - 4]).into();
        self.bytes.extend_from_slice(raw.as_bytes());
        self.bytes.extend_from_slice(body);
        self.bytes.resize(offset + record_len(body.len()), 0);
        self.next_seq += 1;
        offset
    }

    /// The number of the record that would come next.
    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The bytes to write: whole blocks.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: u32 = 0xDEAD_BEEF;

    fn sample() -> Vec<u8> {
        let mut group = Group::new(TAG, 41);
        let id = LogId { term: 3, node: 1, index: 77 };
        assert_eq!(group.push(Head::new(Kind::Entry, id), b"a body"), 0);
        let vote = Head { committed: true, ..Head::new(Kind::Vote, LogId { index: 0, ..id }) };
        assert_eq!(group.push(vote, &[]), 72);
        assert_eq!(group.next_seq(), 43);
        group.finish()
    }

    #[test]
    fn records_come_back_with_their_place() {
        let bytes = sample();
        assert_eq!(bytes.len(), BLOCK);
        let (header, body) = parse(&bytes, TAG).unwrap();
        assert_eq!((header.seq, header.durable, body), (41, 40, &b"a body"[..]));
        assert_eq!(header.head.id, LogId { term: 3, node: 1, index: 77 });
        let (vote, _) = parse(&bytes[header.record_len()..], TAG).unwrap();
        assert_eq!((vote.seq, vote.durable, vote.head.committed), (42, 40, true));
        assert!(!begins_record(&bytes[header.record_len() + vote.record_len()..]));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let bytes = sample();
        let len = HEADER + 8;
        for bit in 0..len * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad, TAG).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn strange_records_are_told_apart() {
        let bytes = sample();
        let flaw = |bytes: &[u8], tag| match parse(bytes, tag) {
            Err(Unreadable::Flaw(flaw)) => flaw,
            other => panic!("{other:?}"),
        };
        assert_eq!(flaw(&bytes, TAG + 1), Flaw::Foreign);
        assert_eq!(flaw(&bytes[1..], TAG), Flaw::NoRecord);
        assert_eq!(flaw(&bytes[..HEADER - 1], TAG), Flaw::NoRecord);
        assert_eq!(flaw(&bytes[..HEADER + 7], TAG), Flaw::Length);
        for (at, value) in [(4, 2), (5, 99), (7, 0x80)] {
            let mut newer = bytes.clone();
            newer[at] = value;
            let sum = crc(&newer[..HEADER - 4]);
            newer[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(parse(&newer, TAG), Err(Unreadable::Newer(Newer)), "byte {at}");
        }
    }
}
