//! READ.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Crcs, RawTarget, Target, check_flags, check_range, parts_of};
use crate::body::{BodyError, exact, fixed, list, put};
use crate::limits::MAX_PAYLOAD;

/// Serve blocks that are not settled. Must be understood: to a server that does not know it, the
/// request is unsupported rather than one to wait for.
const FLAG_UNSETTLED: u32 = 0x0001_0000;

/// Reply: the whole range is zeroes; no payload, no checksums.
const REPLY_ZEROES: u32 = 0x0000_0001;

/// READ request: a range of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Read {
    /// The chunk, and what the sender knows of it.
    pub target: Target,
    /// First byte within the chunk.
    pub offset: u32,
    /// Length in bytes, 1 to [`MAX_PAYLOAD`].
    pub len: u32,
    /// Serve the bytes on the device even if C5 has not settled them. For the reconciler only, which
    /// must look at the copies to choose one; anyone else would be shown data that may vanish. Damage
    /// (C8) is answered as such all the same unless the block is in an active extent.
    pub unsettled: bool,
}

/// Layout of READ, and of BLOCK_STATUS.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawRange {
    pub(super) target: RawTarget,
    pub(super) offset: U32,
    pub(super) len: U32,
    pub(super) flags: U32,
    pub(super) reserved: U32,
}

const _: () = assert!(size_of::<RawRange>() == 48);

impl Read {
    /// Checks that the range is one a frame can answer.
    ///
    /// # Errors
    /// [`BodyError::Range`] or [`BodyError::DataTooLong`].
    pub fn check(&self) -> Result<(), BodyError> {
        check_range(self.offset, self.len)?;
        if self.len > MAX_PAYLOAD {
            return Err(BodyError::DataTooLong { len: self.len });
        }
        Ok(())
    }

    /// Appends the body to `out`.
    ///
    /// # Panics
    /// When [`Read::check`] refuses it: the peer would too.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if let Err(error) = self.check() {
            panic!("{self:?} cannot be sent: {error}");
        }
        let raw = RawRange {
            target: self.target.into(),
            offset: self.offset.into(),
            len: self.len.into(),
            flags: if self.unsettled { FLAG_UNSETTLED } else { 0 }.into(),
            reserved: U32::ZERO,
        };
        put(&raw, out);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// What [`Read::check`] says, unknown flags, and a body of the wrong length.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let raw = exact::<RawRange>(body)?;
        check_flags(raw.flags.get(), FLAG_UNSETTLED)?;
        let read = Self {
            target: raw.target.into(),
            offset: raw.offset.get(),
            len: raw.len.get(),
            unsettled: raw.flags.get() & FLAG_UNSETTLED != 0,
        };
        read.check()?;
        Ok(read)
    }
}

/// READ reply: the whole range that was asked for, never less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadReply {
    /// First byte, as in the request.
    pub offset: u32,
    /// Length in bytes, as in the request.
    pub len: u32,
    /// All of it is zeroes: there is no payload and no checksum.
    pub zeroes: bool,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawReadReply {
    offset: U32,
    len: U32,
    flags: U32,
    part_count: U16,
    reserved: U16,
}

const _: () = assert!(size_of::<RawReadReply>() == 16);

impl ReadReply {
    /// Payload this reply comes with, in bytes.
    pub const fn payload_len(&self) -> u32 {
        if self.zeroes { 0 } else { self.len }
    }

    /// Checksums this reply comes with: one per block its payload touches.
    pub fn part_count(&self) -> u32 {
        parts_of(self.offset, self.payload_len())
    }

    /// Whether this is the range that was asked for.
    pub fn answers(&self, request: &Read) -> bool {
        (self.offset, self.len) == (request.offset, request.len)
    }

    fn check(&self, parts: u32, payload_len: u32) -> Result<(), BodyError> {
        check_range(self.offset, self.len)?;
        if self.len > MAX_PAYLOAD {
            return Err(BodyError::DataTooLong { len: self.len });
        }
        if parts != self.part_count() {
            return Err(BodyError::Parts { expected: self.part_count(), found: parts });
        }
        if payload_len != self.payload_len() {
            return Err(BodyError::Payload { expected: self.payload_len(), found: payload_len });
        }
        Ok(())
    }

    /// Appends the body to `out`; `crcs` are those of the payload's parts.
    ///
    /// # Panics
    /// When the range or the count of `crcs` is one the peer would refuse.
    pub fn encode(&self, crcs: &[u32], out: &mut Vec<u8>) {
        if let Err(error) = self.check(crcs.len() as u32, self.payload_len()) {
            panic!("{self:?} cannot be sent: {error}");
        }
        let raw = RawReadReply {
            offset: self.offset.into(),
            len: self.len.into(),
            flags: if self.zeroes { REPLY_ZEROES } else { 0 }.into(),
            // `check` has compared it with a count that fits: see MAX_PARTS.
            part_count: (crcs.len() as u16).into(),
            reserved: U16::ZERO,
        };
        out.reserve(size_of::<RawReadReply>() + 4 * crcs.len());
        put(&raw, out);
        out.extend(crcs.iter().flat_map(|crc| crc.to_le_bytes()));
    }

    /// Reads a body that came with a payload of `payload_len` bytes. The caller compares it with its
    /// request ([`ReadReply::answers`]) and the payload with the checksums.
    ///
    /// # Errors
    /// Range, count or payload that do not fit each other, and a body of the wrong length.
    pub fn decode(body: &[u8], payload_len: u32) -> Result<(Self, Crcs<'_>), BodyError> {
        let (raw, rest) = fixed::<RawReadReply>(body)?;
        check_flags(raw.flags.get(), 0)?;
        let reply = Self {
            offset: raw.offset.get(),
            len: raw.len.get(),
            zeroes: raw.flags.get() & REPLY_ZEROES != 0,
        };
        reply.check(raw.part_count.get().into(), payload_len)?;
        Ok((reply, Crcs(list(rest, raw.part_count.get().into())?)))
    }
}
