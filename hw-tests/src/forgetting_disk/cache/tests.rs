//! The cache against a twin that remembers every version of every sector.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::*;

const SECTOR: usize = 512;
const SECTORS: u64 = 32;

/// A medium in memory.
struct Memory(RefCell<Vec<u8>>);

impl Memory {
    fn new() -> Self {
        Self(RefCell::new(vec![0; SECTORS as usize * SECTOR]))
    }

    /// The version a sector holds; every test stamps a sector with one repeated number.
    fn version(&self, sector: u64) -> u64 {
        version_in(&self.0.borrow()[sector as usize * SECTOR..][..SECTOR])
    }
}

impl Medium for Memory {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.copy_from_slice(&self.0.borrow()[offset as usize..][..out.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.borrow_mut()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.borrow_mut()[offset as usize..][..len as usize].fill(0);
        Ok(())
    }
}

fn version_in(sector: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&sector[..8]);
    assert!(sector.chunks(8).all(|part| part == first), "a sector is never mixed");
    u64::from_le_bytes(first)
}

fn stamped(version: u64, sectors: u64) -> Vec<u8> {
    version.to_le_bytes().repeat(SECTOR / 8 * sectors as usize)
}

/// Every version a sector may hold after a cut, the newest last.
struct Twin {
    versions: Vec<Vec<u64>>,
}

impl Twin {
    fn new() -> Self {
        Self { versions: vec![vec![0]; SECTORS as usize] }
    }

    fn write(&mut self, first: u64, end: u64, version: u64) {
        self.versions[first as usize..end as usize].iter_mut().for_each(|sector| sector.push(version));
    }

    fn newest(&self, sector: u64) -> u64 {
        self.versions[sector as usize].last().copied().unwrap_or(0)
    }

    fn flush(&mut self) {
        for sector in &mut self.versions {
            sector.drain(..sector.len() - 1);
        }
    }
}

/// Random writes, zeroes, reads, flushes and cuts; returns the sum of all reports.
fn run(seed: u64, tear: bool, limit_sectors: u64) -> CutReport {
    let mut seeded = Seeded::new(seed);
    let medium = Memory::new();
    let mut cache = VolatileCache::new(SECTOR as u32, tear, limit_sectors * SECTOR as u64, seed ^ 0xabcd);
    let mut twin = Twin::new();
    let mut sum = CutReport::default();
    for version in 1..300 {
        let first = seeded.below(SECTORS);
        let end = first + 1 + seeded.below((SECTORS - first).min(8));
        let (offset, len) = (first * SECTOR as u64, (end - first) * SECTOR as u64);
        match seeded.below(20) {
            0 => {
                cache.flush(&medium).expect("memory");
                twin.flush();
                (0..SECTORS).for_each(|sector| assert_eq!(medium.version(sector), twin.newest(sector)));
            }
            1 => {
                let before: Vec<u64> = (0..SECTORS).map(|sector| medium.version(sector)).collect();
                let report = cache.cut(&medium).expect("memory");
                check_cut(&medium, &twin, &before, &report);
                // Zeroes that were lost and zeroes that were there look alike.
                if !with_zeroes(seed) {
                    let behind =
                        (0..SECTORS).filter(|&sector| medium.version(sector) != twin.newest(sector)).count();
                    assert_eq!(report.sectors_lost + report.sectors_stale, behind as u64, "{report:?}");
                }
                twin.versions = (0..SECTORS).map(|sector| vec![medium.version(sector)]).collect();
                add(&mut sum, &report);
            }
            2..4 if with_zeroes(seed) => {
                cache.zero(&medium, offset, len).expect("memory");
                twin.write(first, end, 0);
            }
            4..7 => {
                let mut out = vec![0xee; len as usize];
                cache.read(&medium, offset, &mut out).expect("memory");
                for (sector, content) in (first..end).zip(out.chunks(SECTOR)) {
                    assert_eq!(version_in(content), twin.newest(sector));
                }
            }
            _ => {
                cache.write(&medium, offset, &stamped(version, end - first)).expect("memory");
                twin.write(first, end, version);
                assert!(cache.held_bytes() <= limit_sectors * SECTOR as u64);
            }
        }
    }
    sum
}

/// Every sector holds a version written to it, and none older than what the medium held `before` the cut.
fn check_cut(medium: &Memory, twin: &Twin, before: &[u64], report: &CutReport) {
    let mut unflushed = 0;
    for sector in 0..SECTORS {
        let allowed = &twin.versions[sector as usize];
        let (held, found) = (before[sector as usize], medium.version(sector));
        let oldest = allowed.iter().position(|&version| version == held);
        let newest = allowed.iter().rposition(|&version| version == found);
        assert!(newest.is_some() && newest >= oldest, "sector {sector}: {held}, now {found}, of {allowed:?}");
        unflushed += u64::from(allowed.len() > 1);
    }
    let counted = report.sectors_kept + report.sectors_lost + report.sectors_stale;
    assert!(counted <= unflushed, "{report:?}, {unflushed} unflushed");
}

fn with_zeroes(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

fn add(sum: &mut CutReport, report: &CutReport) {
    sum.writes_lost += report.writes_lost;
    sum.writes_kept += report.writes_kept;
    sum.writes_torn += report.writes_torn;
    sum.sectors_lost += report.sectors_lost;
    sum.sectors_kept += report.sectors_kept;
    sum.sectors_stale += report.sectors_stale;
}

#[test]
fn a_cut_leaves_only_versions_that_were_written() {
    let mut sum = CutReport::default();
    for seed in 0..60 {
        add(&mut sum, &run(seed, true, 1 << 20));
    }
    let outcomes = [
        sum.writes_lost,
        sum.writes_kept,
        sum.writes_torn,
        sum.sectors_lost,
        sum.sectors_kept,
        sum.sectors_stale,
    ];
    assert!(outcomes.iter().all(|&count| count > 100), "every outcome happens often: {sum:?}");
}

#[test]
fn without_tearing_writes_are_whole() {
    for seed in 0..60 {
        assert_eq!(run(seed, false, 1 << 20).writes_torn, 0);
    }
}

#[test]
fn a_small_cache_moves_writes_to_the_medium_in_any_order() {
    for seed in 0..60 {
        run(seed, true, 12);
    }
    let medium = Memory::new();
    let mut out_of_order = BTreeSet::new();
    for seed in 0..40 {
        let mut cache = VolatileCache::new(SECTOR as u32, true, 2 * SECTOR as u64, seed);
        for sector in 0..3 {
            cache.write(&medium, sector * SECTOR as u64, &stamped(seed + 1, 1)).expect("memory");
        }
        out_of_order.extend((0..3).filter(|&sector| medium.version(sector) == seed + 1));
    }
    assert_eq!(out_of_order.len(), 3, "the third write may reach the medium first");
}

#[test]
fn a_moved_write_is_not_undone_by_an_older_one() {
    // One sector written over and over: whatever is moved early, the flushed content is the newest.
    for seed in 0..40 {
        let medium = Memory::new();
        let mut cache = VolatileCache::new(SECTOR as u32, true, 2 * SECTOR as u64, seed);
        for version in 1..10 {
            cache.write(&medium, 0, &stamped(version, 1)).expect("memory");
        }
        cache.flush(&medium).expect("memory");
        assert_eq!(medium.version(0), 9);
    }
}

#[test]
fn the_same_seed_cuts_the_same_way() {
    assert_eq!(run(5, true, 1 << 20), run(5, true, 1 << 20));
    assert_ne!(run(5, true, 1 << 20), run(6, true, 1 << 20));
}

#[test]
fn reads_need_no_alignment() {
    let medium = Memory::new();
    let mut cache = VolatileCache::new(SECTOR as u32, true, 1 << 20, 1);
    cache.write(&medium, SECTOR as u64, &[7; SECTOR]).expect("memory");
    let mut out = [1; 4];
    cache.read(&medium, SECTOR as u64 - 2, &mut out).expect("memory");
    assert_eq!(out, [0, 0, 7, 7]);
    cache.read(&medium, 2 * SECTOR as u64 - 2, &mut out).expect("memory");
    assert_eq!(out, [7, 7, 0, 0]);
}
