//! FLUSH.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{check_count, check_flags, check_watermarks};
use crate::body::{BodyError, exact, fixed, list, put};
use crate::limits::MAX_FLUSH_CHUNKS;

/// FLUSH request: make writes to a file durable on this CS, in all its chunks (C4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flush {
    /// File id.
    pub file: u64,
    /// Epoch of the sender's lease on the file.
    pub epoch: u64,
    /// Every write with a lower sequence number that this CS has answered must be durable.
    pub upto_seq: u64,
    /// The sender has the answers of all writes with a lower number (C11).
    pub done: u64,
    /// All writes with a lower number are stable on all members (C5).
    pub stable: u64,
    /// The file was released cleanly before this epoch: writes of lower epochs are stable, too (C5). A CS that does not
    /// know this keeps them listed until they are cleared.
    pub settled_before: bool,
}

/// A version that a chunk must have before the flush may succeed: the first one without a replica that has lost writes
/// which are not stable. The watermark may pass them only where a map of changes has taken them in (C6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstalledVersion {
    /// The chunk. One that the CS does not hold is passed over.
    pub chunk: u64,
    /// This version or a higher one.
    pub version: u64,
}

/// See [`Flush::settled_before`].
const FLAG_SETTLED_BEFORE: u32 = 0x0000_0001;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFlush {
    file: U64,
    epoch: U64,
    upto_seq: U64,
    done: U64,
    stable: U64,
    flags: U32,
    installed_count: U32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawInstalled {
    chunk: U64,
    version: U64,
}

const _: () = assert!(size_of::<RawFlush>() == 48 && size_of::<RawInstalled>() == 16);

impl Flush {
    /// Appends the body to `out`, with the versions that must be there first, [`MAX_FLUSH_CHUNKS`] at most.
    ///
    /// # Panics
    /// When `stable` is above `done`, or there are too many versions: the peer would refuse it.
    pub fn encode(&self, installed: &[InstalledVersion], out: &mut Vec<u8>) {
        let fits = installed.len() <= MAX_FLUSH_CHUNKS as usize;
        assert!(self.stable <= self.done && fits, "{self:?} cannot be sent");
        let raw = RawFlush {
            file: self.file.into(),
            epoch: self.epoch.into(),
            upto_seq: self.upto_seq.into(),
            done: self.done.into(),
            stable: self.stable.into(),
            flags: if self.settled_before { FLAG_SETTLED_BEFORE } else { 0 }.into(),
            installed_count: (installed.len() as u32).into(),
        };
        put(&raw, out);
        for one in installed {
            put(&RawInstalled { chunk: one.chunk.into(), version: one.version.into() }, out);
        }
    }

    /// Reads a body, and the versions that must be there first.
    ///
    /// # Errors
    /// Watermarks that contradict each other, unknown flags, too many versions, and a body of the wrong length.
    pub fn decode(body: &[u8]) -> Result<(Self, Vec<InstalledVersion>), BodyError> {
        let (raw, rest) = fixed::<RawFlush>(body)?;
        check_flags(raw.flags.get(), 0)?;
        let flush = Self {
            file: raw.file.get(),
            epoch: raw.epoch.get(),
            upto_seq: raw.upto_seq.get(),
            done: raw.done.get(),
            stable: raw.stable.get(),
            settled_before: raw.flags.get() & FLAG_SETTLED_BEFORE != 0,
        };
        check_watermarks(flush.stable, flush.done)?;
        let count = raw.installed_count.get();
        check_count(count, MAX_FLUSH_CHUNKS)?;
        let installed = list::<RawInstalled>(rest, count as usize)?;
        let read =
            |one: &RawInstalled| InstalledVersion { chunk: one.chunk.get(), version: one.version.get() };
        Ok((flush, installed.iter().map(read).collect()))
    }
}

/// FLUSH reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlushReply {
    /// Boot id of the CS's host. Another one than the writes were answered under means that some of
    /// them may be gone (C10).
    pub boot_id: [u8; 16],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFlushReply {
    boot_id: [u8; 16],
    flags: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<RawFlushReply>() == 24);

impl FlushReply {
    /// Appends the body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(&RawFlushReply { boot_id: self.boot_id, flags: U32::ZERO, reserved: U32::ZERO }, out);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Unknown flags, and a body of the wrong length.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let raw = exact::<RawFlushReply>(body)?;
        check_flags(raw.flags.get(), 0)?;
        Ok(Self { boot_id: raw.boot_id })
    }
}
