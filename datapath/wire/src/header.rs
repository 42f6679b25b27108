//! The frame header: 64 bytes with their own CRC, before each body and payload.
//!
//! [`RawHeader`] is bytes nobody has looked at. Only [`RawHeader::verify`] turns it into a [`Header`],
//! which is known to be intact, of a version we speak, and within the limits.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crc::crc32c;
use crate::limits::{HEADER_LEN, MAX_BODY, MAX_PAYLOAD};
use crate::op::Op;
use crate::status::Status;

/// The first four bytes of each frame.
pub const MAGIC: [u8; 4] = *b"VSF1";

/// The version of the header's layout.
pub const VERSION: u8 = 1;

/// Header flags in these bits must be understood by the receiver, which refuses the frame if it does
/// not know one; flags outside are hints and may be ignored.
pub const FLAGS_MUST_UNDERSTAND: u32 = 0xffff_0000;

/// Header flags this code knows. None is defined yet.
pub const FLAGS_KNOWN: u32 = 0;

/// Bytes of the header that its CRC covers: all before the CRC.
const COVERED: usize = 60;

/// Why a frame is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer does not speak this protocol, or the stream lost its place.
    #[error(
        "not a vstorage frame: it begins with {found:02x?}, expected {MAGIC:02x?}; \
         check that the address and port belong to a vstorage server"
    )]
    Magic {
        /// The first four bytes received.
        found: [u8; 4],
    },
    /// The peer uses a header layout this code does not know.
    #[error("frame version {found} is not supported, this program speaks {VERSION}; upgrade the older side")]
    Version {
        /// The version received.
        found: u8,
    },
    /// The header was damaged on the way.
    #[error("frame header damaged: checksum {stored:#010x} received, {computed:#010x} computed")]
    HeaderCrc {
        /// The CRC received.
        stored: u32,
        /// The CRC of what was received.
        computed: u32,
    },
    /// Neither request, response nor notice.
    #[error("unknown frame kind {found}")]
    Kind {
        /// The kind received.
        found: u8,
    },
    /// The sender demands a feature this code does not know.
    #[error("frame demands unknown features (flags {unknown:#010x}); upgrade this program")]
    Flags {
        /// The flags that must be understood and are not.
        unknown: u32,
    },
    /// The body is longer than any frame may have.
    #[error("frame body of {len} bytes exceeds the limit of {MAX_BODY}")]
    BodyTooLong {
        /// Length announced or asked for, in bytes.
        len: u64,
    },
    /// The payload is longer than any frame may have.
    #[error("frame payload of {len} bytes exceeds the limit of {MAX_PAYLOAD}; split the request")]
    PayloadTooLong {
        /// Length announced or asked for, in bytes.
        len: u64,
    },
    /// The bytes given as body are not as many as the header says.
    #[error("frame body has {found} bytes, its header says {expected}")]
    BodyLength {
        /// Length by the header, in bytes.
        expected: u32,
        /// Length given, in bytes.
        found: u64,
    },
    /// The body was damaged on the way.
    #[error("frame body damaged: checksum {stored:#010x} received, {computed:#010x} computed")]
    BodyCrc {
        /// The CRC in the header.
        stored: u32,
        /// The CRC of the body received.
        computed: u32,
    },
}

impl FrameError {
    /// Whether the place in the byte stream is lost, so that the connection must be closed. A damaged
    /// body is not: the lengths are known good, the frame can be answered with
    /// [`Status::ChecksumMismatch`] and the next one read.
    pub const fn loses_framing(&self) -> bool {
        !matches!(self, Self::BodyCrc { .. } | Self::BodyLength { .. })
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Wants a response with the same request id.
    Request = 1,
    /// Answers a request.
    Response = 2,
    /// One way; never answered.
    Notice = 3,
}

impl Kind {
    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Request),
            2 => Some(Self::Response),
            3 => Some(Self::Notice),
            _ => None,
        }
    }
}

/// The 64 bytes as they travel. Nothing in them has been checked.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawHeader {
    magic: [u8; 4],
    version: u8,
    kind: u8,
    op: U16,
    request_id: U64,
    flags: U32,
    status: U16,
    reserved_0: U16,
    timeout_us: U32,
    body_len: U32,
    payload_len: U32,
    body_crc: U32,
    reserved_1: [u8; 20],
    header_crc: U32,
}

const _: () = {
    assert!(size_of::<RawHeader>() == HEADER_LEN);
    assert!(std::mem::offset_of!(RawHeader, header_crc) == COVERED);
};

impl RawHeader {
    /// Views 64 received bytes as a header, without any check.
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        zerocopy::transmute!(*bytes)
    }

    /// Checks magic, version, CRC, kind, flags and lengths, in this order: what cannot be ours is
    /// told apart from what is ours and damaged.
    ///
    /// # Errors
    /// All of [`FrameError`] but the two about a body's bytes. Each loses the framing.
    pub fn verify(&self) -> Result<Header, FrameError> {
        if self.magic != MAGIC {
            return Err(FrameError::Magic { found: self.magic });
        }
        if self.version != VERSION {
            return Err(FrameError::Version { found: self.version });
        }
        let (stored, computed) = (self.header_crc.get(), self.computed_crc());
        if stored != computed {
            return Err(FrameError::HeaderCrc { stored, computed });
        }
        let kind = Kind::from_code(self.kind).ok_or(FrameError::Kind { found: self.kind })?;
        let unknown = self.flags.get() & FLAGS_MUST_UNDERSTAND & !FLAGS_KNOWN;
        if unknown != 0 {
            return Err(FrameError::Flags { unknown });
        }
        let (body_len, payload_len) = lengths(self.body_len.get().into(), self.payload_len.get().into())?;
        Ok(Header {
            kind,
            op: self.op.get(),
            request_id: self.request_id.get(),
            flags: self.flags.get(),
            // Reserved where there is no outcome yet.
            status: match kind {
                Kind::Response => Status::from_code(self.status.get()),
                Kind::Request | Kind::Notice => Status::Ok,
            },
            timeout_us: self.timeout_us.get(),
            body_len,
            payload_len,
            body_crc: self.body_crc.get(),
        })
    }

    fn computed_crc(&self) -> u32 {
        crc32c(&self.as_bytes()[..COVERED])
    }
}

/// Checks both lengths against the limits; `u64`, so that no cast can hide a length of 10 GiB.
fn lengths(body: u64, payload: u64) -> Result<(u32, u32), FrameError> {
    if body > MAX_BODY.into() {
        return Err(FrameError::BodyTooLong { len: body });
    }
    if payload > MAX_PAYLOAD.into() {
        return Err(FrameError::PayloadTooLong { len: payload });
    }
    Ok((body as u32, payload as u32))
}

/// A header that has been checked, or was made here.
///
/// The operation is kept as a code, so that a server can answer one it does not know with
/// [`Status::Unsupported`]: see [`Header::known_op`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Request, response or notice.
    pub kind: Kind,
    /// Code of the operation; a response repeats that of its request.
    pub op: u16,
    /// Chosen by the requester, repeated by the response. Control requests that change something keep
    /// it across retries and connections of one session, which makes them idempotent. 0 in notices.
    pub request_id: u64,
    /// Flags, see [`FLAGS_MUST_UNDERSTAND`].
    pub flags: u32,
    /// Outcome, in responses. [`Status::Ok`] in requests and notices.
    pub status: Status,
    /// What is left of a request's time budget when it is sent, in microseconds; 0 = no limit. A
    /// server drops work whose budget is gone. Not a time of day: clocks need not agree.
    pub timeout_us: u32,
    /// Length of the body in bytes, at most [`MAX_BODY`].
    pub body_len: u32,
    /// Length of the payload in bytes, at most [`MAX_PAYLOAD`].
    pub payload_len: u32,
    /// CRC32C of the body; 0 when there is none.
    pub body_crc: u32,
}

impl Header {
    /// Reads a header from 64 received bytes.
    ///
    /// # Errors
    /// See [`RawHeader::verify`].
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        RawHeader::from_bytes(bytes).verify()
    }

    /// A request for `op`. `timeout_us` is the time budget left, 0 = none; `payload_len` in bytes.
    ///
    /// # Errors
    /// Body or payload beyond the limits.
    pub fn request(
        op: Op,
        request_id: u64,
        timeout_us: u32,
        body: &[u8],
        payload_len: usize,
    ) -> Result<Self, FrameError> {
        let header = Self::of(Kind::Request, op.code(), request_id, body, payload_len)?;
        Ok(Self { timeout_us, ..header })
    }

    /// The response to `request`, with `body` being the operation's reply or, unless `status` is
    /// [`Status::Ok`], an [`ErrorBody`](crate::ErrorBody).
    ///
    /// # Errors
    /// Body or payload beyond the limits.
    pub fn response(
        request: &Header,
        status: Status,
        body: &[u8],
        payload_len: usize,
    ) -> Result<Self, FrameError> {
        let header = Self::of(Kind::Response, request.op, request.request_id, body, payload_len)?;
        Ok(Self { status, ..header })
    }

    /// A notice of `op`, which nobody answers.
    ///
    /// # Errors
    /// Body or payload beyond the limits.
    pub fn notice(op: Op, body: &[u8], payload_len: usize) -> Result<Self, FrameError> {
        Self::of(Kind::Notice, op.code(), 0, body, payload_len)
    }

    fn of(kind: Kind, op: u16, request_id: u64, body: &[u8], payload: usize) -> Result<Self, FrameError> {
        let (body_len, payload_len) = lengths(body.len() as u64, payload as u64)?;
        Ok(Self {
            kind,
            op,
            request_id,
            flags: 0,
            status: Status::Ok,
            timeout_us: 0,
            body_len,
            payload_len,
            body_crc: crc32c(body),
        })
    }

    /// The bytes of this header.
    ///
    /// # Panics
    /// When a caller has raised a length beyond its limit: the frame would be refused.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        assert!(
            self.body_len <= MAX_BODY && self.payload_len <= MAX_PAYLOAD,
            "frame beyond limits: {self:?}"
        );
        let mut raw = RawHeader {
            magic: MAGIC,
            version: VERSION,
            kind: self.kind as u8,
            op: self.op.into(),
            request_id: self.request_id.into(),
            flags: self.flags.into(),
            status: self.status.code().into(),
            reserved_0: U16::ZERO,
            timeout_us: self.timeout_us.into(),
            body_len: self.body_len.into(),
            payload_len: self.payload_len.into(),
            body_crc: self.body_crc.into(),
            reserved_1: [0; 20],
            header_crc: U32::ZERO,
        };
        raw.header_crc = raw.computed_crc().into();
        zerocopy::transmute!(raw)
    }

    /// The operation, if this code knows it.
    pub fn known_op(&self) -> Option<Op> {
        Op::from_code(self.op)
    }

    /// Bytes that follow the header: body and payload.
    pub const fn rest_len(&self) -> usize {
        self.body_len as usize + self.payload_len as usize
    }

    /// Checks the body that followed this header.
    ///
    /// # Errors
    /// [`FrameError::BodyLength`] or [`FrameError::BodyCrc`]; neither loses the framing.
    pub fn check_body(&self, body: &[u8]) -> Result<(), FrameError> {
        if body.len() as u64 != u64::from(self.body_len) {
            return Err(FrameError::BodyLength { expected: self.body_len, found: body.len() as u64 });
        }
        let computed = crc32c(body);
        if computed != self.body_crc {
            return Err(FrameError::BodyCrc { stored: self.body_crc, computed });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header::request(Op::Write, 0x0102_0304_0506_0708, 250_000, b"body", 9000).unwrap()
    }

    /// Bytes of `sample` with one changed and the CRC made right again.
    fn with(position: usize, bytes: &[u8]) -> [u8; HEADER_LEN] {
        let mut frame = sample().encode();
        frame[position..position + bytes.len()].copy_from_slice(bytes);
        let crc = crc32c(&frame[..COVERED]);
        frame[COVERED..].copy_from_slice(&crc.to_le_bytes());
        frame
    }

    #[test]
    fn bytes_are_where_the_format_says() {
        let bytes = sample().encode();
        assert_eq!(&bytes[0..8], b"VSF1\x01\x01\x01\x01");
        assert_eq!(bytes[8..16], 0x0102_0304_0506_0708u64.to_le_bytes());
        assert_eq!(bytes[16..24], [0; 8]);
        assert_eq!(bytes[24..28], 250_000u32.to_le_bytes());
        assert_eq!(bytes[28..32], 4u32.to_le_bytes());
        assert_eq!(bytes[32..36], 9000u32.to_le_bytes());
        assert_eq!(bytes[36..40], crc32c::crc32c(b"body").to_le_bytes());
        assert_eq!(bytes[40..60], [0; 20]);
        assert_eq!(bytes[60..64], crc32c::crc32c(&bytes[..60]).to_le_bytes());
    }

    #[test]
    fn round_trip() {
        let request = sample();
        assert_eq!(Header::decode(&request.encode()), Ok(request));
        let response = Header::response(&request, Status::StaleEpoch, &[], 0).unwrap();
        assert_eq!((response.op, response.request_id), (request.op, request.request_id));
        assert_eq!(response.body_crc, 0);
        assert_eq!(Header::decode(&response.encode()), Ok(response));
        let notice = Header::notice(Op::Goodbye, b"x", 0).unwrap();
        assert_eq!(Header::decode(&notice.encode()), Ok(notice));
    }

    #[test]
    fn every_damaged_bit_is_refused() {
        let good = sample().encode();
        for bit in 0..HEADER_LEN * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let error = Header::decode(&bytes).expect_err("damage must be seen");
            assert!(error.loses_framing());
            match bit / 8 {
                0..4 => assert!(matches!(error, FrameError::Magic { .. })),
                4 => assert!(matches!(error, FrameError::Version { .. })),
                _ => assert!(matches!(error, FrameError::HeaderCrc { .. }), "{bit}: {error:?}"),
            }
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert_eq!(Header::decode(&with(5, &[4])), Err(FrameError::Kind { found: 4 }));
        assert_eq!(Header::decode(&with(4, &[2])), Err(FrameError::Version { found: 2 }));
        assert_eq!(Header::decode(&with(18, &[1])), Err(FrameError::Flags { unknown: 0x0001_0000 }));
        assert_eq!(
            Header::decode(b"GET / HTTP/1.1\r\nHost: a.example.invalid\r\nAccept: */*\r\n\r\n........"),
            Err(FrameError::Magic { found: *b"GET " })
        );
    }

    #[test]
    fn ignores_hints_reserved_bytes_and_unknown_operations() {
        assert_eq!(Header::decode(&with(16, &[0xff, 0xff])).map(|h| h.flags), Ok(0xffff));
        assert_eq!(Header::decode(&with(20, &[0xff; 4])), Ok(sample()), "status of a request, reserved");
        assert_eq!(Header::decode(&with(40, &[0xff; 20])), Ok(sample()));
        let unknown = Header::decode(&with(6, &[0xee, 0xee])).unwrap();
        assert_eq!((unknown.op, unknown.known_op()), (0xeeee, None));
    }

    #[test]
    fn refuses_lengths_beyond_the_limits() {
        let announced = u32::MAX.to_le_bytes();
        assert_eq!(
            Header::decode(&with(28, &announced)),
            Err(FrameError::BodyTooLong { len: u32::MAX.into() })
        );
        assert_eq!(
            Header::decode(&with(32, &announced)),
            Err(FrameError::PayloadTooLong { len: u32::MAX.into() })
        );
        assert_eq!(
            Header::decode(&with(32, &MAX_PAYLOAD.to_le_bytes())).map(|h| h.payload_len),
            Ok(MAX_PAYLOAD)
        );
        let over = (MAX_PAYLOAD + 1).to_le_bytes();
        assert!(Header::decode(&with(32, &over)).is_err());

        let ten_gib = 10usize << 30;
        let error = Header::request(Op::Write, 1, 0, &[], ten_gib).expect_err("too long");
        assert_eq!(error, FrameError::PayloadTooLong { len: 10 << 30 });
        assert_eq!(
            error.to_string(),
            "frame payload of 10737418240 bytes exceeds the limit of 4194304; split the request"
        );
        let body = vec![0; MAX_BODY as usize + 1];
        assert!(matches!(Header::notice(Op::Goodbye, &body, 0), Err(FrameError::BodyTooLong { .. })));
    }

    #[test]
    fn checks_the_body() {
        let header = sample();
        assert_eq!(header.check_body(b"body"), Ok(()));
        let short = header.check_body(b"bod").expect_err("short");
        assert_eq!(short, FrameError::BodyLength { expected: 4, found: 3 });
        let damaged = header.check_body(b"bodx").expect_err("damaged");
        assert!(matches!(damaged, FrameError::BodyCrc { .. }) && !damaged.loses_framing());
    }
}
