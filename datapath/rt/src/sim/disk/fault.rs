//! Faults of a disk: those asked for, and those that come by chance.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::options::FaultRates;
use crate::random::Rng;
use crate::sim::host::HostId;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFaultKind {
    /// A read fails with EIO.
    ReadError,
    /// A write fails with EIO; a part of it may have landed.
    WriteError,
    /// A flush fails with EIO; a part of what it covered is durable, and no later flush makes the rest so.
    FlushError,
    /// A write is acknowledged and never happens: new blocks read as zero, old ones keep what they hold.
    LostWrite,
    /// A write is acknowledged and its first block lands on another written block of the same disk.
    MisdirectedWrite,
    /// A stored bit in the range of a read flips for good before it.
    BitRot,
    /// A read gives data with a flipped bit; what is stored is right.
    CorruptRead,
    /// A read of more than one block gives only some blocks.
    ShortRead,
    /// A write of more than one block takes only some blocks.
    ShortWrite,
    /// An operation takes this much longer.
    Stall(Duration),
}

/// Content of a file that is not, or was for a moment not, what was written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the disk is.
    pub host: HostId,
    /// The path the file was opened under, or had.
    pub path: PathBuf,
    /// Its bytes that are in question.
    pub bytes: Range<u64>,
}

/// The part of an operation that a fault can strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Read,
    Write,
    Flush,
    Submit,
}

impl DiskFaultKind {
    fn act(self) -> Act {
        match self {
            Self::ReadError | Self::BitRot | Self::CorruptRead | Self::ShortRead => Act::Read,
            Self::WriteError | Self::LostWrite | Self::MisdirectedWrite | Self::ShortWrite => Act::Write,
            Self::FlushError => Act::Flush,
            Self::Stall(_) => Act::Submit,
        }
    }

    /// The name under which its occurrences are counted.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadError => "disk.read-error",
            Self::WriteError => "disk.write-error",
            Self::FlushError => "disk.flush-error",
            Self::LostWrite => "disk.lost-write",
            Self::MisdirectedWrite => "disk.misdirected-write",
            Self::BitRot => "disk.bit-rot",
            Self::CorruptRead => "disk.corrupt-read",
            Self::ShortRead => "disk.short-read",
            Self::ShortWrite => "disk.short-write",
            Self::Stall(_) => "disk.stall",
        }
    }
}

/// A fault that strikes certain operations: once, unless told otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFault {
    kind: DiskFaultKind,
    path: Option<PathBuf>,
    range: Option<Range<u64>>,
    skip: u64,
    times: u64,
}

impl DiskFault {
    /// Strikes the next operation it can strike.
    #[must_use]
    pub fn new(kind: DiskFaultKind) -> Self {
        Self { kind, path: None, range: None, skip: 0, times: 1 }
    }

    /// Only for files opened under this path, or under this directory.
    #[must_use]
    pub fn on(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Only for reads and writes that touch this range of the file, in bytes.
    #[must_use]
    pub fn within(mut self, range: Range<u64>) -> Self {
        self.range = Some(range);
        self
    }

    /// Lets this many operations pass first.
    #[must_use]
    pub fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Strikes this many operations.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Strikes until the faults are cleared.
    #[must_use]
    pub fn forever(self) -> Self {
        self.times(u64::MAX)
    }

    fn meets(&self, act: Act, path: &Path, range: &Range<u64>) -> bool {
        self.kind.act() == act
            && self.path.as_ref().is_none_or(|under| path.starts_with(under))
            && self.range.as_ref().is_none_or(|mine| mine.start < range.end && range.start < mine.end)
    }
}

/// The faults of one disk.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) asked: Vec<DiskFault>,
    pub(super) rates: FaultRates,
}

impl Faults {
    /// The fault that strikes this operation, if any.
    pub(super) fn strike(
        &mut self,
        act: Act,
        path: &Path,
        range: Range<u64>,
        stall: Duration,
        rng: &mut Rng,
    ) -> Option<DiskFaultKind> {
        let kind = self.asked_for(act, path, &range).or_else(|| self.by_chance(act, stall, rng))?;
        crate::sim::hit(kind.name());
        Some(kind)
    }

    fn asked_for(&mut self, act: Act, path: &Path, range: &Range<u64>) -> Option<DiskFaultKind> {
        let at = self.asked.iter_mut().position(|fault| {
            if !fault.meets(act, path, range) {
                return false;
            }
            let passes = fault.skip > 0;
            fault.skip = fault.skip.saturating_sub(1);
            !passes
        })?;
        let fault = &mut self.asked[at];
        fault.times -= 1;
        let kind = fault.kind;
        if fault.times == 0 {
            self.asked.remove(at);
        }
        Some(kind)
    }

    fn by_chance(&self, act: Act, stall: Duration, rng: &mut Rng) -> Option<DiskFaultKind> {
        if self.rates == FaultRates::default() {
            return None;
        }
        let rates = &self.rates;
        let chances: &[(u32, DiskFaultKind)] = match act {
            Act::Read => &[
                (rates.read_error, DiskFaultKind::ReadError),
                (rates.bit_rot, DiskFaultKind::BitRot),
                (rates.short_read, DiskFaultKind::ShortRead),
            ],
            Act::Write => &[
                (rates.write_error, DiskFaultKind::WriteError),
                (rates.lost_write, DiskFaultKind::LostWrite),
                (rates.misdirected_write, DiskFaultKind::MisdirectedWrite),
                (rates.short_write, DiskFaultKind::ShortWrite),
            ],
            Act::Flush => &[(rates.flush_error, DiskFaultKind::FlushError)],
            Act::Submit => &[(rates.stall, DiskFaultKind::Stall(stall))],
        };
        let (_, kind) = chances.iter().find(|(one_in, _)| rng.one_in(u64::from(*one_in)))?;
        Some(match kind {
            DiskFaultKind::Stall(longest) => {
                DiskFaultKind::Stall(Duration::from_nanos(rng.below(super::options::nanos(*longest) + 1)))
            }
            kind => *kind,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_what_it_names_after_its_skips_and_then_ends() {
        let fault = DiskFault::new(DiskFaultKind::WriteError).on("/cs").within(4096..8192).after(1).times(2);
        let mut faults = Faults { asked: vec![fault], ..Faults::default() };
        let mut rng = Rng::from_seed(1);
        let mut strike = |act, path: &str, range| {
            faults.strike(act, Path::new(path), range, Duration::ZERO, &mut rng).is_some()
        };
        assert!(!strike(Act::Read, "/cs/a", 4096..8192), "another kind of operation");
        assert!(!strike(Act::Write, "/csx/a", 4096..8192), "another path");
        assert!(!strike(Act::Write, "/cs/a", 0..4096), "another range");
        let struck = [1, 2, 3, 4].map(|_| strike(Act::Write, "/cs/a", 0..4097));
        assert_eq!(struck, [false, true, true, false]);
    }
}
