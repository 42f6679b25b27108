//! Properties of a simulated disk.

use std::time::Duration;

use crate::random::Rng;

/// How long an operation takes: between `min` and `max`, most of them near `min`; rarely up to `tail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The shortest time.
    pub min: Duration,
    /// The longest ordinary time.
    pub max: Duration,
    /// One operation in this many takes longer, up to `tail`; never if zero.
    pub tail_one_in: u32,
    /// The longest time of all.
    pub tail: Duration,
}

impl Latency {
    /// Between `min` and `max` microseconds; one operation in 200 takes up to 20 times the maximum.
    #[must_use]
    pub const fn micros(min: u64, max: u64) -> Self {
        Self {
            min: Duration::from_micros(min),
            max: Duration::from_micros(max),
            tail_one_in: 200,
            tail: Duration::from_micros(max * 20),
        }
    }

    /// Draws a time in nanoseconds.
    pub(in crate::sim) fn draw(&self, rng: &mut Rng) -> u64 {
        let (min, max) = (nanos(self.min), nanos(self.max));
        if rng.one_in(u64::from(self.tail_one_in)) {
            return max + rng.below(nanos(self.tail).saturating_sub(max) + 1);
        }
        // The lower of two draws: short times are more likely.
        let span = max.saturating_sub(min) + 1;
        min + rng.below(span).min(rng.below(span))
    }
}

pub(in crate::sim) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Faults that come by themselves: one operation in so many has one; none if zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// Reads that fail with EIO.
    pub read_error: u32,
    /// Writes that fail with EIO; what they leave behind is undefined.
    pub write_error: u32,
    /// Flushes that fail with EIO.
    pub flush_error: u32,
    /// Writes that are acknowledged and never happen.
    pub lost_write: u32,
    /// Writes that are acknowledged and land on another block.
    pub misdirected_write: u32,
    /// Reads before which a stored bit flips.
    pub bit_rot: u32,
    /// Reads that give fewer bytes than asked for and there are.
    pub short_read: u32,
    /// Writes that take fewer bytes than given.
    pub short_write: u32,
    /// Operations that take up to [`DiskOptions::stall`].
    pub stall: u32,
}

/// A disk with one file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// Room for data and, 4 KiB each, for names of files; in bytes.
    pub capacity: u64,
    /// What offset and length of direct I/O must be a multiple of: 512 or 4096 bytes.
    pub sector: u32,
    /// What a power cut never tears: 512 or 4096 bytes, aligned.
    pub atomic_unit: u32,
    /// Time of a read.
    pub read: Latency,
    /// Time of a write into the device's cache.
    pub write: Latency,
    /// Time of a flush.
    pub flush: Latency,
    /// Time of everything that is about names, sizes and allocation.
    pub metadata: Latency,
    /// Adds to the time of reads and writes; bytes per second.
    pub bandwidth: u64,
    /// The longest stall.
    pub stall: Duration,
    /// Faults by chance.
    pub rates: FaultRates,
}

impl Default for DiskOptions {
    /// An NVMe drive of 64 GiB with a volatile cache, without faults.
    fn default() -> Self {
        Self {
            capacity: 64 << 30,
            sector: 512,
            atomic_unit: 4096,
            read: Latency::micros(50, 150),
            write: Latency::micros(10, 60),
            flush: Latency::micros(100, 1500),
            metadata: Latency::micros(3, 30),
            bandwidth: 2 << 30,
            stall: Duration::from_secs(5),
            rates: FaultRates::default(),
        }
    }
}
