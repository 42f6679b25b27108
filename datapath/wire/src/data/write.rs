//! WRITE, and SETTLE which shares its layout.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Crcs, RawTarget, Target, check_range, check_watermarks, parts_of};
use crate::body::{BodyError, exact, fixed, list, put};
use crate::limits::MAX_PAYLOAD;

/// The write is acknowledged only when it is durable (C4).
const FLAG_FUA: u8 = 0x01;

/// Write flags in these bits must be understood by the receiver.
const FLAGS_MUST_UNDERSTAND: u8 = 0xf0;

/// Reply: please flush soon, the list of writes not yet stable is nearly full (C5).
const REPLY_FLUSH_SOON: u32 = 0x0000_0001;

/// What a write does to its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum WriteKind {
    /// Store the payload.
    Data = 0,
    /// Read as zeroes afterwards; space may stay allocated.
    Zeroes = 1,
    /// Read as zeroes afterwards; give the space back.
    Discard = 2,
}

impl WriteKind {
    fn from_code(code: u8) -> Result<Self, BodyError> {
        match code {
            0 => Ok(Self::Data),
            1 => Ok(Self::Zeroes),
            2 => Ok(Self::Discard),
            found => Err(BodyError::Value { field: "kind", found }),
        }
    }
}

/// WRITE request: change a range of a chunk. Zeroing and discarding are writes in every respect (C11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Write {
    /// The chunk, and what the sender knows of it.
    pub target: Target,
    /// Sequence number in (file, epoch); kept across retries and versions (C11).
    pub seq: u64,
    /// The sender has the answers of all writes with a lower number (C11).
    pub done: u64,
    /// All writes with a lower number are stable on all members (C5).
    pub stable: u64,
    /// First byte within the chunk.
    pub offset: u32,
    /// Length in bytes, at least 1. Of data at most [`MAX_PAYLOAD`]; of zeroes and discards up to the
    /// end of the chunk.
    pub len: u32,
    /// What to do with the range.
    pub kind: WriteKind,
    /// Answer only when durable (C4).
    pub fua: bool,
    /// Version of the erasure-coded stripe; 0 for replicated chunks.
    pub stripe_version: u64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawWrite {
    target: RawTarget,
    seq: U64,
    done: U64,
    stable: U64,
    offset: U32,
    len: U32,
    kind: u8,
    flags: u8,
    part_count: U16,
    reserved: U32,
    stripe_version: U64,
    /// SETTLE only; reserved in WRITE.
    win_epoch: U64,
    /// SETTLE only; reserved in WRITE.
    win_seq: U64,
}

const _: () = assert!(size_of::<RawWrite>() == 96);

impl Write {
    /// Payload this write comes with, in bytes.
    pub const fn payload_len(&self) -> u32 {
        match self.kind {
            WriteKind::Data => self.len,
            WriteKind::Zeroes | WriteKind::Discard => 0,
        }
    }

    /// Checksums this write comes with: one per block its data touches.
    pub fn part_count(&self) -> u32 {
        parts_of(self.offset, self.payload_len())
    }

    /// Checks that the fields fit each other and a payload of `payload_len` bytes with `parts`
    /// checksums.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self, parts: u32, payload_len: u32) -> Result<(), BodyError> {
        check_range(self.offset, self.len)?;
        if self.kind == WriteKind::Data && self.len > MAX_PAYLOAD {
            return Err(BodyError::DataTooLong { len: self.len });
        }
        if parts != self.part_count() {
            return Err(BodyError::Parts { expected: self.part_count(), found: parts });
        }
        if payload_len != self.payload_len() {
            return Err(BodyError::Payload { expected: self.payload_len(), found: payload_len });
        }
        if self.done > self.seq {
            return Err(BodyError::Contradiction { rule: "done <= seq" });
        }
        check_watermarks(self.stable, self.done)
    }

    /// Appends the body to `out`. `crcs` is what [`crc::block_crcs`](crate::crc::block_crcs) makes of
    /// the payload.
    ///
    /// # Panics
    /// When [`Write::check`] refuses it: the peer would too.
    pub fn encode(&self, crcs: &[u32], out: &mut Vec<u8>) {
        self.encode_raw(0, 0, crcs, out);
    }

    /// Reads a body that came with a payload of `payload_len` bytes.
    ///
    /// # Errors
    /// What [`Write::check`] says, and bodies of the wrong length.
    pub fn decode(body: &[u8], payload_len: u32) -> Result<(Self, Crcs<'_>), BodyError> {
        let (_, write, crcs) = Self::decode_raw(body, payload_len)?;
        Ok((write, crcs))
    }

    fn encode_raw(&self, win_epoch: u64, win_seq: u64, crcs: &[u32], out: &mut Vec<u8>) {
        if let Err(error) = self.check(crcs.len() as u32, self.payload_len()) {
            panic!("{self:?} cannot be sent: {error}");
        }
        let raw = RawWrite {
            target: self.target.into(),
            seq: self.seq.into(),
            done: self.done.into(),
            stable: self.stable.into(),
            offset: self.offset.into(),
            len: self.len.into(),
            kind: self.kind as u8,
            flags: if self.fua { FLAG_FUA } else { 0 },
            // `check` has compared it with a count that fits: see MAX_PARTS.
            part_count: (crcs.len() as u16).into(),
            reserved: U32::ZERO,
            stripe_version: self.stripe_version.into(),
            win_epoch: win_epoch.into(),
            win_seq: win_seq.into(),
        };
        out.reserve(size_of::<RawWrite>() + 4 * crcs.len());
        put(&raw, out);
        out.extend(crcs.iter().flat_map(|crc| crc.to_le_bytes()));
    }

    fn decode_raw(body: &[u8], payload_len: u32) -> Result<(&RawWrite, Self, Crcs<'_>), BodyError> {
        let (raw, rest) = fixed::<RawWrite>(body)?;
        let unknown = raw.flags & FLAGS_MUST_UNDERSTAND;
        if unknown != 0 {
            return Err(BodyError::Flags { unknown: unknown.into() });
        }
        let write = Self {
            target: raw.target.into(),
            seq: raw.seq.get(),
            done: raw.done.get(),
            stable: raw.stable.get(),
            offset: raw.offset.get(),
            len: raw.len.get(),
            kind: WriteKind::from_code(raw.kind)?,
            fua: raw.flags & FLAG_FUA != 0,
            stripe_version: raw.stripe_version.get(),
        };
        write.check(raw.part_count.get().into(), payload_len)?;
        let crcs = list(rest, raw.part_count.get().into())?;
        Ok((raw, write, Crcs(crcs)))
    }
}

/// WRITE and SETTLE reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct WriteReply {
    /// The list of writes not yet stable is nearly full: flush soon, before writes must wait (C5).
    pub flush_soon: bool,
    /// Writes with a lower sequence number are durable on this CS without a further flush. A hint: 0
    /// is always true.
    pub durable_hint: u64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawWriteReply {
    flags: U32,
    reserved: U32,
    durable_hint: U64,
}

const _: () = assert!(size_of::<RawWriteReply>() == 16);

impl WriteReply {
    /// Appends the body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let raw = RawWriteReply {
            flags: if self.flush_soon { REPLY_FLUSH_SOON } else { 0 }.into(),
            reserved: U32::ZERO,
            durable_hint: self.durable_hint.into(),
        };
        put(&raw, out);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// A body of the wrong length.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let raw = exact::<RawWriteReply>(body)?;
        super::check_flags(raw.flags.get(), 0)?;
        Ok(Self { flush_soon: raw.flags.get() & REPLY_FLUSH_SOON != 0, durable_hint: raw.durable_hint.get() })
    }
}

/// SETTLE request: the reconciler writes the content it chose (C5).
///
/// A write in every respect: its sequence number is of the reconciler's epoch, so that a late
/// duplicate is refused like that of a write (C11). What the CS records as the block's last write is
/// the winner's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Settle {
    /// The range and its new content.
    pub write: Write,
    /// Epoch of the write whose content won; 0 when no record matched and one copy was chosen.
    pub win_epoch: u64,
    /// Sequence number of the write whose content won.
    pub win_seq: u64,
}

impl Settle {
    fn check(&self) -> Result<(), BodyError> {
        if self.win_epoch > self.write.target.epoch {
            return Err(BodyError::Contradiction { rule: "win_epoch <= epoch" });
        }
        Ok(())
    }

    /// Appends the body to `out`; see [`Write::encode`].
    ///
    /// # Panics
    /// When the peer would refuse it.
    pub fn encode(&self, crcs: &[u32], out: &mut Vec<u8>) {
        if let Err(error) = self.check() {
            panic!("{self:?} cannot be sent: {error}");
        }
        self.write.encode_raw(self.win_epoch, self.win_seq, crcs, out);
    }

    /// Reads a body that came with a payload of `payload_len` bytes.
    ///
    /// # Errors
    /// See [`Write::decode`]; and a winner from the future.
    pub fn decode(body: &[u8], payload_len: u32) -> Result<(Self, Crcs<'_>), BodyError> {
        let (raw, write, crcs) = Write::decode_raw(body, payload_len)?;
        let settle = Self { write, win_epoch: raw.win_epoch.get(), win_seq: raw.win_seq.get() };
        settle.check()?;
        Ok((settle, crcs))
    }
}
