//! Writes and flushes on the loop device itself, judged sector by sector.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hw_tests::direct_file::{AlignedBuffer, DirectFile};
use hw_tests::forgetting_disk::{CutReport, ForgettingDisk, Options};
use hw_tests::machine;
use hw_tests::oracle::{Oracle, Violation};
use hw_tests::seeded::Seeded;
use rustix::fs::FallocateFlags;

use crate::Scratch;

const DISK_BYTES: u64 = 32 << 20;
/// Only the beginning is written, so that sectors are overwritten often.
const SECTORS: u64 = 2048;
const SECTOR_BYTES: u64 = 512;
const SEEDS: u64 = 6;
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

fn attached_disk(scratch: &Scratch, options: Options) -> (ForgettingDisk, DirectFile) {
    let mut disk = ForgettingDisk::create(&scratch.dir, DISK_BYTES, options).expect("root, FUSE");
    let device = DirectFile::open(&disk.attach().expect("a loop device")).expect("opens");
    (disk, device)
}

/// Writes to a device under the eyes of an oracle; a block of the oracle is a sector of the disk.
struct Witnessed {
    device: DirectFile,
    oracle: Mutex<Oracle>,
    sector_bytes: u64,
}

impl Witnessed {
    fn new(device: DirectFile, options: Options) -> Self {
        let oracle = Mutex::new(Oracle::with_block_bytes(options.seed, options.sector as usize));
        Self { device, oracle, sector_bytes: u64::from(options.sector) }
    }

    fn sectors(&self) -> u64 {
        SECTORS * SECTOR_BYTES / self.sector_bytes
    }

    /// One write, zeroing or flush; what it does depends on `seeded` alone.
    fn step(&self, seeded: &mut Seeded, last_id: &AtomicU64) -> io::Result<()> {
        let lock = || self.oracle.lock().expect("no panic before");
        if seeded.chance(6) {
            let token = lock().flush_started();
            self.device.sync_data()?;
            lock().flush_completed(token);
            return Ok(());
        }
        let first = seeded.below(self.sectors());
        let end = first + 1 + seeded.below((self.sectors() - first).min(24));
        let (offset, len) = (first * self.sector_bytes, (end - first) * self.sector_bytes);
        let zeroes = seeded.chance(10);
        let mut data = AlignedBuffer::new(len as usize);
        let id = {
            let mut oracle = lock();
            // Under the lock, since ids of a block grow in the order of issue.
            let id = last_id.fetch_add(1, Ordering::Relaxed) + 1;
            for (sector, content) in (first..end).zip(data.chunks_mut(self.sector_bytes as usize)) {
                if zeroes {
                    oracle.issued_zeroes(sector, id);
                } else {
                    oracle.stamp(sector, id, content);
                    oracle.issued(sector, id);
                }
            }
            id
        };
        if zeroes {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(self.device.file(), punch, offset, len)?;
        } else {
            self.device.write_at(offset, &data)?;
        }
        let mut oracle = lock();
        (first..end).for_each(|sector| oracle.completed(sector, id));
        Ok(())
    }

    /// Brings the disk back after a cut and judges every sector.
    fn judge(self, mut disk: ForgettingDisk) -> Verdict {
        let Self { device, oracle, sector_bytes } = self;
        drop(device);
        disk.detach().expect("nobody uses it");
        let device = DirectFile::open(&disk.power_on().expect("comes back")).expect("opens");
        let oracle = oracle.into_inner().expect("no panic before");
        let mut content = AlignedBuffer::new((SECTORS * SECTOR_BYTES) as usize);
        device.read_at(0, &mut content).expect("readable");
        let mut verdict = Verdict::default();
        for (sector, data) in (0..).zip(content.chunks(sector_bytes as usize)) {
            verdict.violations.extend(oracle.check(sector, data).err());
            verdict.forgotten += u64::from(oracle.check_acknowledged(sector, data).is_err());
        }
        verdict
    }
}

#[derive(Default)]
struct Verdict {
    violations: Vec<Violation>,
    /// Sectors that lack an acknowledged write.
    forgotten: u64,
}

fn one_run(scratch: &Scratch, options: Options) -> (CutReport, Verdict) {
    let (mut disk, device) = attached_disk(scratch, options);
    let witnessed = Witnessed::new(device, options);
    let mut seeded = Seeded::new(options.seed);
    let last_id = AtomicU64::new(0);
    for _ in 0..250 {
        witnessed.step(&mut seeded, &last_id).expect("the power is on");
    }
    let stats = disk.stats();
    assert!(stats.flushes > 0 && stats.writes > 0 && stats.zeroings > 0, "all kinds arrive: {stats:?}");
    let report = disk.power_cut().expect("was on");
    (report, witnessed.judge(disk))
}

#[test]
fn flushed_writes_survive_and_unflushed_ones_may_not() {
    if !machine::can_run("flushed_writes_survive_and_unflushed_ones_may_not") {
        return;
    }
    let scratch = Scratch::new("raw-honest");
    let (mut torn, mut lost, mut forgotten) = (0, 0, 0);
    for seed in 0..SEEDS {
        let sector = if seed % 2 == 0 { 512 } else { 4096 };
        let (report, verdict) = one_run(&scratch, Options { seed, sector, ..Options::default() });
        assert_eq!(verdict.violations, [], "seed {seed}: {report:?}");
        torn += report.writes_torn;
        lost += report.sectors_lost;
        forgotten += verdict.forgotten;
    }
    assert!(torn > 0 && lost > 0, "{torn} writes torn, {lost} sectors lost");
    assert!(forgotten > 0, "the loss shows outside");
}

#[test]
fn a_small_cache_keeps_the_promise_too() {
    if !machine::can_run("a_small_cache_keeps_the_promise_too") {
        return;
    }
    let scratch = Scratch::new("raw-small");
    for seed in 0..2 {
        let options = Options { seed, max_volatile_bytes: 64 << 10, tear: false, ..Options::default() };
        let (report, verdict) = one_run(&scratch, options);
        assert_eq!(verdict.violations, [], "seed {seed}: {report:?}");
        assert_eq!(report.writes_torn, 0);
    }
}

#[test]
fn a_lying_disk_is_found_out() {
    if !machine::can_run("a_lying_disk_is_found_out") {
        return;
    }
    let scratch = Scratch::new("raw-lies");
    let mut violations = Vec::new();
    for seed in 0..SEEDS {
        let (_, verdict) = one_run(&scratch, Options { seed, lies: true, ..Options::default() });
        violations.extend(verdict.violations);
    }
    assert!(!violations.is_empty(), "flushed writes are gone and nobody noticed");
    assert!(violations.iter().all(|violation| matches!(violation, Violation::Lost { .. })), "{violations:?}");
}

#[test]
fn a_cut_amid_writes_leaves_each_whole_or_unflushed() {
    if !machine::can_run("a_cut_amid_writes_leaves_each_whole_or_unflushed") {
        return;
    }
    let scratch = Scratch::new("raw-amid");
    for seed in 0..3 {
        let options = Options { seed, ..Options::default() };
        let (mut disk, device) = attached_disk(&scratch, options);
        let witnessed = Witnessed::new(device, options);
        let last_id = AtomicU64::new(0);
        let (progress, steps) = std::sync::mpsc::channel();
        let report = std::thread::scope(|scope| {
            for writer in 0..3 {
                let (progress, last_id, witnessed) = (progress.clone(), &last_id, &witnessed);
                scope.spawn(move || {
                    let mut seeded = Seeded::new(seed << 8 | writer);
                    while witnessed.step(&mut seeded, last_id).is_ok() {
                        let _ = progress.send(());
                    }
                });
            }
            for _ in 0..300 {
                steps.recv().expect("writers run");
            }
            disk.power_cut()
        })
        .expect("was on");
        assert!(disk.power_cut().is_err(), "it is off already");
        let verdict = witnessed.judge(disk);
        assert_eq!(verdict.violations, [], "seed {seed}: {report:?}");
    }
}

#[test]
fn after_the_cut_everything_fails_until_power_on() {
    if !machine::can_run("after_the_cut_everything_fails_until_power_on") {
        return;
    }
    let scratch = Scratch::new("raw-eio");
    let (mut disk, device) = attached_disk(&scratch, Options { seed: 1, ..Options::default() });
    let below = DirectFile::open(&disk.file()).expect("opens");
    let mut block = AlignedBuffer::new(4096);
    block.fill(0x11);
    device.write_at(0, &block).expect("the power is on");
    device.sync_data().expect("the power is on");
    assert_eq!(disk.stats().volatile_bytes, 0, "a flush empties the cache");
    block.fill(0x22);
    device.write_at(0, &block).expect("the power is on");
    assert_eq!(disk.stats().volatile_bytes, 4096, "a write stays in the cache");
    let medium = std::fs::read(scratch.dir.join("medium.img")).expect("there");
    assert_eq!(medium[0], 0x11, "and does not reach the medium");

    assert!(disk.power_on().is_err(), "it is attached");
    disk.power_cut().expect("was on");
    let failed =
        |outcome: io::Result<()>| assert_eq!(outcome.expect_err("no power").raw_os_error(), Some(EIO));
    failed(device.write_at(8192, &block));
    failed(device.read_at(0, &mut block));
    failed(device.sync_data());
    failed(below.write_at(8192, &block));
    assert!(DirectFile::open(&disk.file()).is_err(), "nothing opens without power");

    drop(device);
    disk.detach().expect("nobody uses it");
    let device = DirectFile::open(&disk.power_on().expect("comes back")).expect("opens");
    failed(below.write_at(8192, &block));
    device.read_at(8192, &mut block).expect("the power is on");
    assert!(block.iter().all(|&byte| byte == 0), "what was issued after the cut never lands");
    assert!(disk.power_on().is_err(), "the power is on");
}

#[test]
fn misfits_are_refused() {
    if !machine::can_run("misfits_are_refused") {
        return;
    }
    let scratch = Scratch::new("raw-misfits");
    let odd = Options { sector: 1000, ..Options::default() };
    let message =
        ForgettingDisk::create(&scratch.dir, DISK_BYTES, odd).expect_err("no such sectors").to_string();
    assert!(message.contains("use 512 or 4096"), "{message}");
    let message =
        ForgettingDisk::create(&scratch.dir, 5000, Options::default()).expect_err("odd size").to_string();
    assert!(message.contains("multiple of 4096"), "{message}");
    let disk = ForgettingDisk::create(&scratch.dir, DISK_BYTES, Options::default()).expect("root, FUSE");
    let message =
        ForgettingDisk::create(&scratch.dir, DISK_BYTES, Options::default()).expect_err("taken").to_string();
    assert!(message.contains("in use by process"), "{message}");
    assert!(disk.mkfs().is_err(), "it is not attached");
    let file = std::fs::OpenOptions::new().write(true).open(disk.file()).expect("opens");
    let write = |offset, len| std::os::unix::fs::FileExt::write_at(&file, &vec![1; len], offset);
    assert_eq!(write(0, 100).expect_err("part of a sector").raw_os_error(), Some(22));
    assert!(write(DISK_BYTES, 512).is_err(), "beyond the end");
    assert_eq!(write(DISK_BYTES - 512, 512).expect("the last sector"), 512);
    let reserve = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 4096);
    assert_eq!(reserve, Err(rustix::io::Errno::OPNOTSUPP));
    assert!(file.set_len(4096).is_err(), "a disk keeps its size");
}
