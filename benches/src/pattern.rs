//! What is done to a target: the patterns of the table.

use std::fmt;
use std::str::FromStr;

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
    /// A write and then a flush.
    WriteFlush,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    pub(crate) operation: Operation,
    /// Bytes of an operation.
    pub(crate) bytes: u32,
    /// One behind the other instead of anywhere.
    pub(crate) sequential: bool,
    /// Operations under way.
    pub(crate) depth: usize,
}

const KIB4: u32 = 4 << 10;
const MIB: u32 = 1 << 20;

const fn random(operation: Operation, depth: usize) -> Pattern {
    Pattern { operation, bytes: KIB4, sequential: false, depth }
}

const fn sequential(operation: Operation) -> Pattern {
    Pattern { operation, bytes: MIB, sequential: true, depth: 4 }
}

/// Every row.
pub(crate) const ALL: &[Pattern] = &[
    random(Operation::Read, 1),
    random(Operation::Read, 16),
    random(Operation::Read, 32),
    random(Operation::Write, 1),
    random(Operation::Write, 16),
    random(Operation::Write, 32),
    random(Operation::WriteFlush, 1),
    random(Operation::WriteFlush, 16),
    sequential(Operation::Read),
    sequential(Operation::Write),
];

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::WriteFlush => "write+flush",
        };
        let order = if self.sequential { "seq" } else { "rand" };
        write!(f, "{order}-{operation}-{}k-d{}", self.bytes >> 10, self.depth)
    }
}

/// No pattern has this name.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no pattern; they are called like rand-write-4k-d16")]
pub(crate) struct UnknownPattern(String);

impl FromStr for Pattern {
    type Err = UnknownPattern;

    fn from_str(text: &str) -> Result<Self, UnknownPattern> {
        let found = ALL.iter().copied().find(|pattern| pattern.to_string() == text);
        found.ok_or_else(|| UnknownPattern(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_is_found_by_its_name() {
        for pattern in ALL {
            assert_eq!(pattern.to_string().parse::<Pattern>().ok(), Some(*pattern));
        }
        assert_eq!(ALL[4].to_string(), "rand-write-4k-d16");
        assert!("rand-write-4k-d17".parse::<Pattern>().is_err());
    }
}
