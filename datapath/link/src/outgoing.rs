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

#[cfg(test)]
mod tests {
    use rt::buf::View;
    use rt::random::Rng;
    use wire::Op;

    use super::*;
    use crate::error::CloseReason;
    use crate::frame::{Frame, FrameReader, Gate, Verdict};
    use crate::testing::{run, secured};
    use crate::tls::record::{Opened, Opener, length};

    #[derive(Default)]
    struct Seen(Vec<Frame>);

    impl Gate for Seen {
        fn admit(&mut self, _header: &Header) -> Result<Verdict, CloseReason> {
            Ok(Verdict::Keep)
        }
        fn deliver(&mut self, frame: Frame) -> Result<(), CloseReason> {
            self.0.push(frame);
            Ok(())
        }
    }

    fn frame(id: u64, body: usize, payload: &[View]) -> Outgoing {
        let body = vec![id as u8; body];
        let len = payload.iter().map(|view| view.len()).sum();
        let header = Header::request(Op::Write, id, 0, &body, len).unwrap();
        let deadline = Instant::from_nanos(5_000_000);
        Outgoing {
            header,
            sort: Sort::Request { deadline },
            body: body.into(),
            payload: payload.to_vec().into(),
        }
    }

    /// Opens a batch and gives its frames to `seen`; says how many records it had.
    fn take(batch: &mut [u8], opener: &mut Opener, reader: &mut FrameReader, seen: &mut Seen) -> usize {
        let (mut rest, mut records) = (batch, 0);
        while !rest.is_empty() {
            let (record, later) = rest.split_at_mut(length(rest).unwrap().expect("whole records"));
            if let Opened::Data(bytes) = opener.open(record).unwrap() {
                reader.feed(bytes, seen).unwrap();
            }
            (rest, records) = (later, records + 1);
        }
        records
    }

    #[test]
    fn frames_survive_batches_records_and_new_keys() {
        run(async {
            let (mut client, mut server) = secured().await;
            client.sealer.set_records_per_key(20);
            let mut rng = Rng::from_seed(5);
            let (mut queue, mut reader, mut seen) =
                (OutQueue::default(), FrameReader::new(), Seen::default());
            let (mut sent, mut left) = (Vec::new(), Vec::new());
            for id in 0..200 {
                let parts: Vec<View> = (0..rng.below(4))
                    .map(|_| View::copy_of(&vec![rng.below(256) as u8; rng.below(1 << 17) as usize]))
                    .collect();
                sent.push(parts.iter().flat_map(|part| part.to_vec()).collect::<Vec<u8>>());
                queue.push(frame(id, rng.below(300) as usize, &parts));
                while queue.bytes() > 1 << 20 || (id == 199 && !queue.is_empty()) {
                    let now = Instant::from_nanos(2_000_000);
                    let mut batch = queue.seal(&mut client.sealer, now, |id| left.push(id)).unwrap().unwrap();
                    assert!(batch.len() <= BATCH + KEY_UPDATE);
                    take(&mut batch, &mut server.opener, &mut reader, &mut seen);
                }
            }
            assert_eq!((queue.bytes(), queue.is_empty(), reader.is_between_frames()), (0, true, true));
            assert_eq!(left, (0..200).collect::<Vec<_>>());
            for (id, (frame, sent)) in seen.0.iter().zip(&sent).enumerate() {
                assert_eq!((frame.header.request_id, frame.header.timeout_us), (id as u64, 3000));
                assert!(frame.damage.is_none() && frame.payload[..] == sent[..]);
            }
            assert_eq!(seen.0.len(), 200);
        });
    }

    #[test]
    fn small_frames_share_a_record() {
        run(async {
            let (mut client, mut server) = secured().await;
            let (mut queue, mut reader, mut seen) =
                (OutQueue::default(), FrameReader::new(), Seen::default());
            for id in 0..100 {
                queue.push(frame(id, 10, &[]));
            }
            let mut batch = queue.seal(&mut client.sealer, Instant::from_nanos(0), |_| ()).unwrap().unwrap();
            assert_eq!(take(&mut batch, &mut server.opener, &mut reader, &mut seen), 1);
            assert_eq!((seen.0.len(), batch.len()), (100, 100 * (HEADER_LEN + 10) + OVERHEAD));
            assert!(queue.seal(&mut client.sealer, Instant::from_nanos(0), |_| ()).unwrap().is_none());
        });
    }

    #[test]
    fn a_request_is_taken_back_until_its_first_byte_has_left() {
        run(async {
            let (mut client, mut server) = secured().await;
            let (mut queue, mut reader, mut seen) =
                (OutQueue::default(), FrameReader::new(), Seen::default());
            let large = View::copy_of(&vec![3; BATCH * 2]);
            queue.push(frame(1, 10, &[large]));
            queue.push(frame(2, 10, &[]));
            queue.push(frame(3, 10, &[]));
            let mut now = |queue: &mut OutQueue| {
                let batch = queue.seal(&mut client.sealer, Instant::from_nanos(0), |_| ()).unwrap();
                if let Some(mut batch) = batch {
                    take(&mut batch, &mut server.opener, &mut reader, &mut seen);
                }
            };
            now(&mut queue);
            queue.remove(1);
            queue.remove(2);
            queue.remove(9);
            while !queue.is_empty() {
                now(&mut queue);
            }
            let ids: Vec<u64> = seen.0.iter().map(|frame| frame.header.request_id).collect();
            assert_eq!((ids, queue.bytes()), (vec![1, 3], 0));
            queue.push(frame(4, 10, &[]));
            queue.remove(4);
            assert!(queue.is_empty() && queue.bytes() == 0);
        });
    }

    #[test]
    fn what_is_left_of_a_deadline_is_never_no_limit() {
        let at = Instant::from_nanos;
        assert_eq!(timeout_us(at(5_000), at(2_000)), 3);
        assert_eq!(timeout_us(at(5_000), at(5_000)), 1);
        assert_eq!(timeout_us(at(5_000), at(9_000)), 1);
        assert_eq!(timeout_us(at(u64::MAX), at(0)), u32::MAX);
    }
}
