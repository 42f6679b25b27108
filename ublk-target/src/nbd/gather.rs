//! Turning replies into the views that one send takes.
//!
//! Headers and short payloads of many replies are put one behind the other into one buffer; long payloads go out from
//! where they lie.

use std::collections::VecDeque;
use std::ops::Range;

use rt::buf::{Buf, View};

use super::reply::{ReadParts, ReadReply, ReplyForm, ReplyHeader};
use crate::device::Parts;

/// Reads up to this length are copied behind their header, in bytes: cheaper than one more segment of a send.
const INLINE_MAX: u64 = 4096;
/// Most bytes of headers and short payloads that replies are gathered to.
const INLINE_BATCH: usize = 64 << 10;
/// Most bytes that replies are gathered to; a longer reply goes by itself.
const BATCH: u64 = 1 << 20;
/// Bytes of zeroes kept for holes that are sent as data.
const ZEROES: usize = 64 << 10;
/// Longest header, in bytes.
const HEADER_MAX: usize = 32;

/// An answer to a request.
#[derive(Debug)]
pub(super) enum Reply {
    /// Success without a payload.
    Header(ReplyHeader),
    /// A reply that is encoded already.
    Bytes(Vec<u8>),
    /// The data of a read.
    Read(ReadData),
}

/// The data of a read and what it answers.
#[derive(Debug)]
pub(super) struct ReadData {
    /// The request's cookie.
    pub(super) cookie: u64,
    /// The request's offset.
    pub(super) offset: u64,
    /// The request's length.
    pub(super) length: u32,
    /// The request's DF flag.
    pub(super) df: bool,
    /// Parts that add up to the length.
    pub(super) parts: Parts,
}

impl Reply {
    /// An upper bound of the bytes that go into the shared buffer.
    fn inline_max(&self) -> usize {
        match self {
            Self::Header(header) => header.as_bytes().len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Read(read) => {
                // Between two holes there is at most one chunk of data.
                let headers = HEADER_MAX * (2 * read.parts.len() + 1);
                headers + if read.is_short() { read.length as usize } else { 0 }
            }
        }
    }

    /// An upper bound of all its bytes.
    fn total_max(&self) -> u64 {
        let payload = if let Self::Read(read) = self { u64::from(read.length) } else { 0 };
        self.inline_max() as u64 + payload
    }
}

impl ReadData {
    fn is_short(&self) -> bool {
        u64::from(self.length) <= INLINE_MAX
    }

    /// Runs that read as zeroes, neighbours joined.
    fn holes(&self) -> Vec<Range<u32>> {
        let mut holes: Vec<Range<u32>> = Vec::new();
        let mut at = 0;
        for (len, data) in &self.parts {
            // Parts add up to the length, which fits.
            let end = at + *len as u32;
            if data.is_none() {
                match holes.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => holes.push(at..end),
                }
            }
            at = end;
        }
        holes
    }
}

/// What is sent next.
#[derive(Debug)]
enum Piece {
    /// A part of the shared buffer.
    Inline(Range<usize>),
    /// A payload.
    View(View),
}

/// Encodes the replies of one connection.
#[derive(Debug)]
pub(super) struct Encoder {
    form: ReplyForm,
    zeroes: Option<View>,
    pieces: Vec<Piece>,
}

impl Encoder {
    pub(super) fn new(form: ReplyForm) -> Self {
        Self { form, zeroes: None, pieces: Vec::new() }
    }

    /// Takes replies off the front of `queue`, one at least, and gives the bytes to send for them in order. What
    /// they held comes into `held`.
    ///
    /// # Panics
    /// When the queue is empty.
    pub(super) fn batch<H>(&mut self, queue: &mut VecDeque<(Reply, H)>, held: &mut Vec<H>) -> Vec<View> {
        let (count, inline) = measure(queue);
        let mut inline = Inline { buf: Buf::new(inline), used: 0 };
        for (reply, hold) in queue.drain(..count) {
            held.push(hold);
            match reply {
                Reply::Header(header) => self.inline(&mut inline, header.as_bytes()),
                Reply::Bytes(bytes) => self.inline(&mut inline, &bytes),
                Reply::Read(read) => self.read(&mut inline, &read),
            }
        }
        let Inline { mut buf, used } = inline;
        buf.set_len(used);
        let shared = buf.freeze();
        let views = self.pieces.drain(..).map(|piece| match piece {
            Piece::Inline(range) => shared.slice(range),
            Piece::View(view) => view,
        });
        views.collect()
    }

    fn inline(&mut self, inline: &mut Inline, bytes: &[u8]) {
        let range = inline.take(bytes.len());
        inline.buf[range.clone()].copy_from_slice(bytes);
        self.note_inline(range);
    }

    /// Inline bytes behind each other become one piece.
    fn note_inline(&mut self, range: Range<usize>) {
        match self.pieces.last_mut() {
            Some(Piece::Inline(last)) if last.end == range.start => last.end = range.end,
            _ => self.pieces.push(Piece::Inline(range)),
        }
    }

    fn read(&mut self, inline: &mut Inline, read: &ReadData) {
        let holes = read.holes();
        let &ReadData { cookie, offset, length, df, .. } = read;
        let parts: ReadParts<'_> = self.form.read(ReadReply { cookie, offset, length, df, holes: &holes });
        let mut cursor = Cursor { parts: read.parts.iter(), current: None };
        let mut at = 0;
        for part in parts {
            self.inline(inline, part.header.as_bytes());
            if part.payload.is_empty() {
                continue;
            }
            cursor.skip(part.payload.start - at);
            at = part.payload.end;
            let mut left = part.payload.len();
            while left > 0 {
                let Some((len, data)) = cursor.next(left) else {
                    unreachable!("the parts of a read add up to its length");
                };
                left -= len;
                match data {
                    _ if read.is_short() => {
                        let range = inline.take(len);
                        match data {
                            Some(data) => inline.buf[range.clone()].copy_from_slice(&data),
                            None => inline.buf[range.clone()].fill(0),
                        }
                        self.note_inline(range);
                    }
                    Some(data) => self.pieces.push(Piece::View(data)),
                    None => self.zeroes(len),
                }
            }
        }
    }

    fn zeroes(&mut self, mut len: usize) {
        let zeroes = self.zeroes.get_or_insert_with(|| Buf::zeroed(ZEROES).freeze());
        while len > 0 {
            let count = len.min(ZEROES);
            self.pieces.push(Piece::View(zeroes.slice(..count)));
            len -= count;
        }
    }
}

/// How many replies go together, and how large a buffer they share.
fn measure<H>(queue: &VecDeque<(Reply, H)>) -> (usize, usize) {
    let (mut inline, mut total) = (0, 0);
    for (count, (reply, _)) in queue.iter().enumerate() {
        let (more_inline, more) = (reply.inline_max(), reply.total_max());
        if count > 0 && (inline + more_inline > INLINE_BATCH || total + more > BATCH) {
            return (count, inline);
        }
        inline += more_inline;
        total += more;
    }
    (queue.len(), inline)
}

/// The shared buffer under construction.
struct Inline {
    buf: Buf,
    used: usize,
}

impl Inline {
    fn take(&mut self, len: usize) -> Range<usize> {
        let start = self.used;
        self.used += len;
        start..self.used
    }
}

/// Walks over the parts of a read.
struct Cursor<'a> {
    parts: std::slice::Iter<'a, (u64, Option<View>)>,
    /// Bytes left of a part, and its data from there on.
    current: Option<(usize, Option<View>)>,
}

impl Cursor<'_> {
    /// The next bytes of one part, at most `max` of them.
    fn next(&mut self, max: usize) -> Option<(usize, Option<View>)> {
        let (len, data) = match self.current.take() {
            Some(current) => current,
            None => self
                .parts
                .by_ref()
                .map(|(len, data)| (*len as usize, data.clone()))
                .find(|(len, _)| *len > 0)?,
        };
        if len <= max {
            return Some((len, data));
        }
        self.current = Some((len - max, data.as_ref().map(|data| data.slice(max..))));
        Some((max, data.map(|data| data.slice(..max))))
    }

    fn skip(&mut self, mut len: usize) {
        while len > 0 {
            let Some((skipped, _)) = self.next(len) else { return };
            len -= skipped;
        }
    }
}

#[cfg(test)]
mod tests;
