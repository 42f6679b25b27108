//! I/O counters and rates.

use serde::Serialize;
use wire::session::IoStats;

/// Amounts of I/O: in all, or per second, as the name of the field says that holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct IoView {
    /// Bytes read.
    pub(crate) read_bytes: u64,
    /// Bytes written.
    pub(crate) write_bytes: u64,
    /// Read operations.
    pub(crate) read_ops: u64,
    /// Write operations.
    pub(crate) write_ops: u64,
    /// Flushes.
    pub(crate) flushes: u64,
}

impl From<&IoStats> for IoView {
    fn from(io: &IoStats) -> Self {
        Self {
            read_bytes: io.read_bytes,
            write_bytes: io.write_bytes,
            read_ops: io.read_ops,
            write_ops: io.write_ops,
            flushes: io.flushes,
        }
    }
}
