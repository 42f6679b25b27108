//! Frames out of a stream of plaintext.
//!
//! The stream comes in pieces that live in somebody else's memory. A payload is copied once, to the front of
//! an aligned buffer; a small body shares the payload's buffer, behind it.

use rt::buf::{Buf, View};
use wire::{FrameError, HEADER_LEN, Header};

use crate::error::CloseReason;

/// Up to this size, in bytes, body and payload share a buffer. Beyond, rounding to powers of two would waste more
/// than a second buffer costs.
const JOINT_MAX: usize = 8 << 10;

/// What to do with a frame whose header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Collect and deliver it.
    Keep,
    /// Nobody wants it any more: deliver it without its content.
    Skip,
}

/// A whole frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) body: View,
    pub(crate) payload: View,
    /// Nobody wanted it: its content is not there.
    pub(crate) skipped: bool,
    /// Set when the body is not what the header says; the frame's place in the stream is good.
    pub(crate) damage: Option<FrameError>,
}

/// Who receives frames.
pub(crate) trait Gate {
    /// Decides on a header before memory is spent on what follows.
    fn admit(&mut self, header: &Header) -> Result<Verdict, CloseReason>;
    /// Takes a frame.
    fn deliver(&mut self, frame: Frame) -> Result<(), CloseReason>;
}

enum Memory {
    Skip,
    /// There is nothing to keep.
    None,
    /// The payload, then the body.
    Joint(Buf),
    Split {
        body: Buf,
        payload: Buf,
    },
}

/// A frame under construction.
struct Partial {
    header: Header,
    memory: Memory,
    /// Bytes of body and payload that have come.
    filled: usize,
}

impl Partial {
    fn new(header: Header, verdict: Verdict) -> Self {
        let (body, payload) = (header.body_len as usize, header.payload_len as usize);
        let memory = match verdict {
            Verdict::Skip => Memory::Skip,
            Verdict::Keep if body + payload == 0 => Memory::None,
            Verdict::Keep if body == 0 || payload == 0 || body + payload <= JOINT_MAX => {
                Memory::Joint(Buf::new(body + payload))
            }
            Verdict::Keep => Memory::Split { body: Buf::new(body), payload: Buf::new(payload) },
        };
        Self { header, memory, filled: 0 }
    }

    /// Takes what belongs to the frame from the front of `bytes`.
    fn fill(&mut self, bytes: &mut &[u8]) {
        let (body, payload) = (self.header.body_len as usize, self.header.payload_len as usize);
        while self.filled < body + payload && !bytes.is_empty() {
            // On the wire the body comes first.
            let (start, end) = if self.filled < body { (0, body) } else { (body, body + payload) };
            let count = bytes.len().min(end - self.filled);
            let (part, rest) = bytes.split_at(count);
            let at = self.filled - start;
            match &mut self.memory {
                Memory::Skip | Memory::None => {}
                Memory::Joint(buf) if start == 0 && body > 0 => {
                    buf[payload + at..payload + at + count].copy_from_slice(part);
                }
                Memory::Joint(payload) => payload[at..at + count].copy_from_slice(part),
                Memory::Split { body: buf, .. } if start == 0 => buf[at..at + count].copy_from_slice(part),
                Memory::Split { payload, .. } => payload[at..at + count].copy_from_slice(part),
            }
            self.filled += count;
            *bytes = rest;
        }
    }

    fn is_whole(&self) -> bool {
        self.filled == self.header.rest_len()
    }

    fn finish(self, empty: &View) -> Frame {
        let payload_len = self.header.payload_len as usize;
        let skipped = matches!(self.memory, Memory::Skip);
        let (body, payload) = match self.memory {
            Memory::Skip | Memory::None => (empty.clone(), empty.clone()),
            Memory::Joint(buf) => {
                let both = buf.freeze();
                (both.slice(payload_len..), both.slice(..payload_len))
            }
            Memory::Split { body, payload } => (body.freeze(), payload.freeze()),
        };
        let damage = if skipped { None } else { self.header.check_body(&body).err() };
        Frame { header: self.header, body, payload, skipped, damage }
    }
}

/// Cuts a stream into frames.
pub(crate) struct FrameReader {
    header: [u8; HEADER_LEN],
    /// Bytes of the header that have come.
    have: usize,
    partial: Option<Partial>,
    /// Stands for every body and payload of no bytes.
    empty: View,
}

impl FrameReader {
    pub(crate) fn new() -> Self {
        Self { header: [0; HEADER_LEN], have: 0, partial: None, empty: View::empty() }
    }

    /// Whether the stream may end here.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.have == 0 && self.partial.is_none()
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// What the gate says; or [`CloseReason::Frame`], when the stream is not made of frames.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], gate: &mut impl Gate) -> Result<(), CloseReason> {
        loop {
            if self.partial.is_none() {
                let count = bytes.len().min(HEADER_LEN - self.have);
                self.header[self.have..self.have + count].copy_from_slice(&bytes[..count]);
                self.have += count;
                bytes = &bytes[count..];
                if self.have < HEADER_LEN {
                    return Ok(());
                }
                self.have = 0;
                let header = Header::decode(&self.header)?;
                self.begin(header, gate)?;
            }
            if let Some(partial) = &mut self.partial {
                partial.fill(&mut bytes);
                if !partial.is_whole() {
                    return Ok(());
                }
            }
            if let Some(partial) = self.partial.take() {
                gate.deliver(partial.finish(&self.empty))?;
            }
        }
    }

    fn begin(&mut self, header: Header, gate: &mut impl Gate) -> Result<(), CloseReason> {
        let verdict = gate.admit(&header)?;
        let partial = Partial::new(header, verdict);
        if !partial.is_whole() {
            self.partial = Some(partial);
            return Ok(());
        }
        gate.deliver(partial.finish(&self.empty))
    }
}

#[cfg(test)]
mod tests {
    use rt::random::Rng;
    use wire::{MAX_PAYLOAD, Op};

    use super::*;
    use crate::testing::run;

    #[derive(Default)]
    struct Seen {
        frames: Vec<Frame>,
        skip: Option<u64>,
    }

    impl Gate for Seen {
        fn admit(&mut self, header: &Header) -> Result<Verdict, CloseReason> {
            Ok(if self.skip == Some(header.request_id) { Verdict::Skip } else { Verdict::Keep })
        }
        fn deliver(&mut self, frame: Frame) -> Result<(), CloseReason> {
            self.frames.push(frame);
            Ok(())
        }
    }

    fn frame(id: u64, body: &[u8], payload: &[u8]) -> Vec<u8> {
        let header = Header::request(Op::Write, id, 0, body, payload.len()).unwrap();
        [&header.encode()[..], body, payload].concat()
    }

    #[test]
    fn frames_come_out_whole_however_the_stream_is_cut() {
        run(async {
            let sizes = [
                (0, 0),
                (1, 0),
                (0, 1),
                (130, 4096),
                (8192, 1),
                (100, 16 << 10),
                (70_000, 200_000),
                (0, 4096),
            ];
            let mut rng = Rng::from_seed(11);
            let mut bytes = |len: usize| {
                let mut bytes = vec![0; len];
                rng.fill(&mut bytes);
                bytes
            };
            let parts: Vec<_> = sizes.iter().map(|&(body, payload)| (bytes(body), bytes(payload))).collect();
            let stream: Vec<u8> = parts
                .iter()
                .enumerate()
                .flat_map(|(id, (body, payload))| frame(id as u64, body, payload))
                .collect();
            let mut rng = Rng::from_seed(12);
            for longest in [1, 63, 64, 65, 1000, 50_000, stream.len()] {
                let (mut reader, mut seen) = (FrameReader::new(), Seen::default());
                let mut rest = &stream[..];
                while !rest.is_empty() {
                    let count = (1 + rng.below(longest as u64) as usize).min(rest.len());
                    reader.feed(&rest[..count], &mut seen).unwrap();
                    rest = &rest[count..];
                }
                assert!(reader.is_between_frames());
                assert_eq!(seen.frames.len(), parts.len());
                for (frame, (body, payload)) in seen.frames.iter().zip(&parts) {
                    assert!(frame.damage.is_none());
                    assert_eq!((&frame.body[..], &frame.payload[..]), (&body[..], &payload[..]));
                    assert!(frame.payload.is_empty() || frame.payload.is_aligned());
                }
            }
        });
    }

    #[test]
    fn a_skipped_frame_costs_no_memory_and_keeps_the_place() {
        run(async {
            let (mut reader, mut seen) = (FrameReader::new(), Seen { skip: Some(1), ..Seen::default() });
            let long = vec![7; MAX_PAYLOAD as usize];
            for bytes in [frame(1, b"body", &long), frame(2, b"b", b"p")] {
                reader.feed(&bytes, &mut seen).unwrap();
            }
            assert!(seen.frames[0].body.is_empty() && seen.frames[0].payload.is_empty());
            assert!(seen.frames[0].skipped && seen.frames[0].damage.is_none());
            assert_eq!(&seen.frames[1].payload[..], b"p");
        });
    }

    #[test]
    fn damaged_bodies_are_delivered_as_such_and_damaged_headers_end_the_stream() {
        run(async {
            let (mut reader, mut seen) = (FrameReader::new(), Seen::default());
            let mut bytes = frame(1, b"body", b"payload");
            bytes[HEADER_LEN] ^= 1;
            reader.feed(&bytes, &mut seen).unwrap();
            assert!(matches!(seen.frames[0].damage, Some(FrameError::BodyCrc { .. })));
            let error = reader.feed(&[b'x'; 64], &mut seen).unwrap_err();
            assert!(matches!(error, CloseReason::Frame(FrameError::Magic { .. })));
        });
    }
}
