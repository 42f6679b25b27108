//! Replies of the transmission phase ("Simple reply message", "Structured reply chunk message").
//!
//! Headers are encoded apart from the payload, so that data read from a volume goes out without a copy.

use std::ops::Range;

use super::transmission::Errno;
use super::wire;
use super::{MAX_PAYLOAD, MAX_STRING, MIN_HOLE};

const MAX_HEADER: usize = wire::CHUNK_LEN + 12;

// A data chunk, the length field of which counts its offset too.
const _: () = assert!(MAX_PAYLOAD as u64 + 8 <= u32::MAX as u64);

/// The bytes that precede a payload, on the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReplyHeader {
    bytes: [u8; MAX_HEADER],
    length: u8,
}

impl ReplyHeader {
    fn new() -> Self {
        Self { bytes: [0; MAX_HEADER], length: 0 }
    }

    fn with<const N: usize>(mut self, field: [u8; N]) -> Self {
        let at = usize::from(self.length);
        self.bytes[at..at + N].copy_from_slice(&field);
        self.length += N as u8;
        self
    }

    fn simple(cookie: u64, error: u32) -> Self {
        Self::new()
            .with(wire::SIMPLE_REPLY_MAGIC.to_be_bytes())
            .with(error.to_be_bytes())
            .with(cookie.to_be_bytes())
    }

    pub(super) fn chunk(cookie: u64, kind: u16, done: bool, length: u32) -> Self {
        let flags = if done { wire::REPLY_FLAG_DONE } else { 0 };
        Self::new()
            .with(wire::STRUCTURED_REPLY_MAGIC.to_be_bytes())
            .with(flags.to_be_bytes())
            .with(kind.to_be_bytes())
            .with(cookie.to_be_bytes())
            .with(length.to_be_bytes())
    }

    /// The last chunk of a structured reply whose other chunks were sent without DONE.
    #[must_use]
    pub fn none(cookie: u64) -> Self {
        Self::chunk(cookie, wire::REPLY_TYPE_NONE, true, 0)
    }

    /// A structured content chunk of a read; `length` bytes of payload (1 to [`MAX_PAYLOAD`]) follow. `done`
    /// only if no error can be found any more.
    #[must_use]
    pub fn data(cookie: u64, offset: u64, length: u32, done: bool) -> Self {
        debug_assert!((1..=MAX_PAYLOAD).contains(&length));
        Self::chunk(cookie, wire::REPLY_TYPE_OFFSET_DATA, done, length + 8).with(offset.to_be_bytes())
    }

    /// A structured content chunk of a read: `length` zeroes (1 or more), nothing follows.
    #[must_use]
    pub fn hole(cookie: u64, offset: u64, length: u32, done: bool) -> Self {
        debug_assert!(length > 0);
        Self::chunk(cookie, wire::REPLY_TYPE_OFFSET_HOLE, done, 12)
            .with(offset.to_be_bytes())
            .with(length.to_be_bytes())
    }

    /// The bytes to send, at most 32.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl AsRef<[u8]> for ReplyHeader {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl std::fmt::Debug for ReplyHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplyHeader({:02x?})", self.as_bytes())
    }
}

/// How a session's replies look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyForm {
    /// Simple replies only.
    Simple,
    /// Structured replies for reads, block status and errors; simple ones, which are shorter and equally
    /// allowed, for success without a payload.
    Structured,
}

impl ReplyForm {
    /// Success of a request whose reply has no payload: write, flush, trim, cache, write-zeroes.
    #[must_use]
    pub fn ok(self, cookie: u64) -> ReplyHeader {
        ReplyHeader::simple(cookie, 0)
    }

    /// Failure of any request. `message` is for the client's operator; simple replies have no room for it.
    #[must_use]
    pub fn error(self, cookie: u64, errno: Errno, message: &str) -> Vec<u8> {
        match self {
            Self::Simple => ReplyHeader::simple(cookie, errno as u32).as_bytes().to_vec(),
            Self::Structured => error_chunk(cookie, wire::REPLY_TYPE_ERROR, (errno, message), &[]),
        }
    }

    /// Like [`error`](Self::error), for a request that failed at `offset` of the export and not before it. A
    /// content chunk that covers the offset must have been sent already.
    #[must_use]
    pub fn error_at(self, cookie: u64, errno: Errno, message: &str, offset: u64) -> Vec<u8> {
        let tail = offset.to_be_bytes();
        match self {
            Self::Simple => self.error(cookie, errno, message),
            Self::Structured => error_chunk(cookie, wire::REPLY_TYPE_ERROR_OFFSET, (errno, message), &tail),
        }
    }

    /// The chunks that answer `read` with success, to be sent in order.
    #[must_use]
    pub fn read(self, read: ReadReply<'_>) -> ReadParts<'_> {
        let whole = self == Self::Simple || read.df;
        ReadParts { form: self, read, whole, at: 0 }
    }
}

/// An error chunk, always the last of its reply, with `tail` after the message.
fn error_chunk(cookie: u64, kind: u16, error: (Errno, &str), tail: &[u8]) -> Vec<u8> {
    let (errno, message) = error;
    let message = &message.as_bytes()[..message.floor_char_boundary(MAX_STRING)];
    let length = 6 + message.len() + tail.len();
    let mut out = Vec::with_capacity(wire::CHUNK_LEN + length);
    out.extend_from_slice(ReplyHeader::chunk(cookie, kind, true, length as u32).as_bytes());
    out.extend_from_slice(&(errno as u32).to_be_bytes());
    out.extend_from_slice(&(message.len() as u16).to_be_bytes());
    out.extend_from_slice(message);
    out.extend_from_slice(tail);
    out
}

/// A successful read, all of its data at hand.
///
/// The buffer must hold `length` bytes, zeroes in the holes too: what is worth a chunk of its own is decided
/// by [`ReadParts`].
#[derive(Clone, Copy, Debug)]
pub struct ReadReply<'a> {
    /// The request's cookie.
    pub cookie: u64,
    /// The request's offset.
    pub offset: u64,
    /// The request's length, at most [`MAX_PAYLOAD`].
    pub length: u32,
    /// The request's DF flag.
    pub df: bool,
    /// Runs known to be zero, relative to `offset`, ascending. Parts outside the read are ignored.
    pub holes: &'a [Range<u32>],
}

/// A header and the part of the read buffer that follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPart {
    /// Sent first.
    pub header: ReplyHeader,
    /// Range of the read buffer to send next; empty for a hole.
    pub payload: Range<usize>,
}

/// The parts of a read's reply in order; they cover the read exactly once.
///
/// The last content chunk carries the DONE flag, so there must be no error left that could still be found.
#[derive(Clone, Debug)]
pub struct ReadParts<'a> {
    form: ReplyForm,
    read: ReadReply<'a>,
    whole: bool,
    at: u32,
}

impl ReadParts<'_> {
    /// The first hole at or after `at` that gets a chunk of its own, clipped to the read.
    fn next_hole(&mut self) -> Option<Range<u32>> {
        let ReadReply { length, holes, .. } = self.read;
        let passed = holes.iter().take_while(|hole| hole.end <= self.at).count();
        self.read.holes = &holes[passed..];
        let clip = |hole: &Range<u32>| hole.start.max(self.at)..hole.end.min(length);
        let mut clipped = self.read.holes.iter().map(clip);
        if self.whole {
            // One chunk: a hole only if there is nothing else.
            return clipped.find(|hole| *hole == (0..length) && self.form == ReplyForm::Structured);
        }
        clipped.find(|hole| hole.end.saturating_sub(hole.start) >= MIN_HOLE)
    }
}

impl Iterator for ReadParts<'_> {
    type Item = ReadPart;

    fn next(&mut self) -> Option<ReadPart> {
        let ReadReply { cookie, offset, length, .. } = self.read;
        if self.at >= length {
            return None;
        }
        let start = self.at;
        let hole = self.next_hole();
        let in_hole = hole.as_ref().is_some_and(|hole| hole.start == start);
        let end = match hole {
            Some(hole) if in_hole => hole.end,
            Some(hole) => hole.start,
            None => length,
        };
        self.at = end;
        let (done, here) = (end == length, offset.saturating_add(u64::from(start)));
        let header = match self.form {
            ReplyForm::Simple => ReplyHeader::simple(cookie, 0),
            ReplyForm::Structured if in_hole => ReplyHeader::hole(cookie, here, end - start, done),
            ReplyForm::Structured => ReplyHeader::data(cookie, here, end - start, done),
        };
        let payload = if in_hole { 0..0 } else { start as usize..end as usize };
        Some(ReadPart { header, payload })
    }
}

#[cfg(test)]
mod tests;
