//! CLEAR_MARKS.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{RawTarget, Target, check_flags};
use crate::body::{BodyError, exact, put};

/// CLEAR_MARKS request: forget what the reconciler has settled and flushed on all members (C5).
///
/// Listed writes up to and including (epoch, seq) go. A mark goes only if no later write has touched
/// its extent, so that a late duplicate of this request is harmless. The reply has no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClearMarks {
    /// The chunk, and what the sender knows of it.
    pub target: Target,
    /// Epoch up to which writes are settled; at most that of `target`.
    pub upto_epoch: u64,
    /// Sequence number within that epoch.
    pub upto_seq: u64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawClearMarks {
    target: RawTarget,
    upto_epoch: U64,
    upto_seq: U64,
    flags: U32,
    reserved: [u8; 12],
}

const _: () = assert!(size_of::<RawClearMarks>() == 64);

impl ClearMarks {
    fn check(&self) -> Result<(), BodyError> {
        if self.upto_epoch > self.target.epoch {
            return Err(BodyError::Contradiction { rule: "upto_epoch <= epoch" });
        }
        Ok(())
    }

    /// Appends the body to `out`.
    ///
    /// # Panics
    /// When `upto_epoch` is above the sender's own: the peer would refuse it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if let Err(error) = self.check() {
            panic!("{self:?} cannot be sent: {error}");
        }
        let raw = RawClearMarks {
            target: self.target.into(),
            upto_epoch: self.upto_epoch.into(),
            upto_seq: self.upto_seq.into(),
            flags: U32::ZERO,
            reserved: [0; 12],
        };
        put(&raw, out);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// An epoch above the sender's own, unknown flags, and a body of the wrong length.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let raw = exact::<RawClearMarks>(body)?;
        check_flags(raw.flags.get(), 0)?;
        let clear = Self {
            target: raw.target.into(),
            upto_epoch: raw.upto_epoch.get(),
            upto_seq: raw.upto_seq.get(),
        };
        clear.check()?;
        Ok(clear)
    }
}
