//! Frames on their way out, and how they become records.

use std::collections::VecDeque;

use rt::buf::Buf;
use rt::time::Instant;
use wire::{HEADER_LEN, Header};

use crate::message::{Body, Payload};
use crate::tls::record::{CONTENT_MAX, Content, HEADER, KEY_UPDATE, OVERHEAD, RecordError, SENT_MAX, Sealer};

/// Most bytes sealed and sent at once.
const BATCH: usize = 256 << 10;
/// Most plaintext in it: its records are full.
const BATCH_CONTENT: usize = BATCH / SENT_MAX * CONTENT_MAX;

/// What else a frame on its way out is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sort {
    /// A request of ours.
    Request { deadline: Instant },
    /// The connection's own business.
    Control,
    /// Anything else.
    Other,
}

/// A frame on its way out.
pub(crate) struct Outgoing {
    pub(crate) header: Header,
    pub(crate) sort: Sort,
    pub(crate) body: Body,
    pub(crate) payload: Payload,
}

/// Frames on their way out, first in, first out.
#[derive(Default)]
pub(crate) struct OutQueue {
    frames: VecDeque<Outgoing>,
    /// Bytes of the first frame that have been sealed.
    done: usize,
    /// The first frame's header as it travels, once its first byte has been sealed.
    header: Option<[u8; HEADER_LEN]>,
    /// Bytes of all frames that have not been sealed.
    bytes: usize,
    control: usize,
}

impl OutQueue {
    pub(crate) fn push(&mut self, frame: Outgoing) {
        self.bytes += HEADER_LEN + frame.header.rest_len();
        self.control += usize::from(matches!(frame.sort, Sort::Control));
        self.frames.push_back(frame);
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames of the connection's own that wait.
    pub(crate) fn control(&self) -> usize {
        self.control
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Takes back a request that has not begun to leave.
    pub(crate) fn remove(&mut self, id: u64) {
        let started = usize::from(self.header.is_some());
        let ours =
            |frame: &Outgoing| matches!(frame.sort, Sort::Request { .. }) && frame.header.request_id == id;
        let at = self.frames.iter().skip(started).position(ours);
        if let Some(frame) = at.and_then(|at| self.frames.remove(started + at)) {
            self.bytes -= HEADER_LEN + frame.header.rest_len();
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Seals what fits into one batch; `None` when there is nothing. `leaving` is told the id of each request that
    /// begins to leave.
    pub(crate) fn seal(
        &mut self,
        sealer: &mut Sealer,
        now: Instant,
        mut leaving: impl FnMut(u64),
    ) -> Result<Option<Buf>, RecordError> {
        let content = self.bytes.min(BATCH_CONTENT);
        if content == 0 {
            return Ok(None);
        }
        let prefix = if sealer.is_worn() { KEY_UPDATE } else { 0 };
        let mut buf = Buf::new(prefix + content + content.div_ceil(CONTENT_MAX) * OVERHEAD);
        if prefix > 0 {
            sealer.update(&mut buf[..prefix])?;
        }
        let mut records = Records { buf: &mut buf[prefix..], sealer, content: 0, left: content };
        while records.left > 0 {
            let Some(frame) = self.frames.front_mut() else { break };
            let header = self.header.get_or_insert_with(|| {
                if let Sort::Request { deadline } = frame.sort {
                    frame.header.timeout_us = timeout_us(deadline, now);
                    leaving(frame.header.request_id);
                }
                frame.header.encode()
            });
            let mut offset = 0;
            let pieces = [&header[..], &frame.body[..]];
            for piece in pieces.into_iter().chain(frame.payload.views().iter().map(|view| &view[..])) {
                let sealed = self.done.saturating_sub(offset).min(piece.len());
                self.done += records.put(&piece[sealed..]);
                offset += piece.len();
            }
            if self.done == HEADER_LEN + frame.header.rest_len() {
                self.control -= usize::from(matches!(frame.sort, Sort::Control));
                self.frames.pop_front();
                (self.done, self.header) = (0, None);
            }
        }
        records.finish();
        self.bytes -= content;
        Ok(Some(buf))
    }
}

/// What is left of a deadline, as a header says it: 0 would mean "no limit".
fn timeout_us(deadline: Instant, now: Instant) -> u32 {
    u32::try_from(deadline.since(now).as_micros()).unwrap_or(u32::MAX).max(1)
}

/// Fills records one after the other.
struct Records<'a> {
    /// From the record under construction on.
    buf: &'a mut [u8],
    sealer: &'a mut Sealer,
    /// Plaintext in the record under construction, in bytes.
    content: usize,
    /// Plaintext still to come, in bytes.
    left: usize,
}

impl Records<'_> {
    /// Takes bytes as far as there is room, and says how many.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.left);
        let mut rest = &bytes[..taken];
        while !rest.is_empty() {
            let (part, later) = rest.split_at(rest.len().min(CONTENT_MAX - self.content));
            let at = HEADER + self.content;
            self.buf[at..at + part.len()].copy_from_slice(part);
            self.content += part.len();
            rest = later;
            if self.content == CONTENT_MAX {
                self.seal();
            }
        }
        self.left -= taken;
        taken
    }

    fn seal(&mut self) {
        let buf = std::mem::take(&mut self.buf);
        let (record, rest) = buf.split_at_mut(self.content + OVERHEAD);
        self.sealer.seal(record, Content::Data);
        (self.buf, self.content) = (rest, 0);
    }

    fn finish(mut self) {
        if self.content > 0 {
            self.seal();
        }
    }
}
