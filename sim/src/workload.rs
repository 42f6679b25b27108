//! A client: opens its volume and does what virtual machines do to disks, telling the oracle.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use client::{OpenOptions, Servers, Session, SessionOptions, Volume, VolumeError};
use link::Master;
use rt::buf::Buf;
use rt::sim::{HostId, control};
use wire::session::{ClientKind, SessionKey};

use crate::cluster::{CHUNK_BYTES, CHUNKS_DIR, REPLICAS_MIN, VOLUME_BYTES};
use crate::coverage;
use crate::oracle::{Oracle, SECTOR, Violation, WriteId};
use crate::scratch;

/// What is common to a whole run and lives outside every process.
#[derive(Debug, Default)]
pub struct Shared {
    /// One oracle per volume.
    pub oracles: RefCell<Vec<Oracle>>,
    /// What was found; the first one counts.
    pub violations: RefCell<Vec<String>>,
    /// Operations that were answered with success.
    pub operations: Cell<u64>,
    /// Highest epoch granted per volume (C1).
    pub epochs: RefCell<Vec<u64>>,
    /// Session keys kept across restarts of clients.
    pub keys: RefCell<Vec<Option<SessionKey>>>,
    /// The volume each client has open, or had when it was killed: it is kept for that client.
    pub open: RefCell<Vec<Option<usize>>>,
    /// A volume that a client shall take next, because its holder is cut off.
    pub wanted: RefCell<Vec<Option<usize>>>,
    /// Set once faults are over.
    pub calm: Cell<bool>,
    /// A write of the first chunk server may have landed anywhere on its disk.
    pub misdirected: Cell<bool>,
    /// Nothing is to be damaged in this run.
    pub undamaged: Cell<bool>,
    /// When each chunk server that has lost its power has lost it last; the end of all time, if its disk may lose anything.
    pub cuts: RefCell<BTreeMap<HostId, u64>>,
    /// Addresses of chunk servers that an operator has had removed.
    pub removed: RefCell<Vec<String>>,
    /// The first chunk server has refused to serve what such a write left: as long as a member cannot be replaced, the
    /// run is over.
    pub refused: Cell<bool>,
    /// Changes under way: what a fault is most likely to hurt.
    pub changing: Cell<usize>,
    /// Files made so far that live for a moment only.
    pub scratches: Cell<u64>,
}

/// A change under way, counted until it is dropped.
struct Changing<'a>(&'a Shared);

impl<'a> Changing<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.changing.set(shared.changing.get() + 1);
        Self(shared)
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.changing.set(self.0.changing.get() - 1);
    }
}

impl Shared {
    /// For a number of volumes and clients.
    #[must_use]
    pub fn new(volumes: usize, clients: usize) -> Rc<Self> {
        Rc::new(Self {
            oracles: RefCell::new(vec![Oracle::new(); volumes]),
            epochs: RefCell::new(vec![0; volumes]),
            keys: RefCell::new(vec![None; clients]),
            open: RefCell::new(vec![None; clients]),
            wanted: RefCell::new(vec![None; clients]),
            ..Self::default()
        })
    }

    /// What a volume may hold, now that all faults so far are known.
    pub fn oracle(&self, volume: usize) -> RefMut<'_, Oracle> {
        let mut oracle = RefMut::map(self.oracles.borrow_mut(), |oracles| &mut oracles[volume]);
        self.weaken(&mut oracle);
        oracle
    }

    /// What may be lost is not certain any more (C4): what no flush covers, once as many chunk servers as a chunk has members at least have
    /// lost their power after it, for others may have been left out (C3); and in blocks that are damaged on one chunk server,
    /// once a single other one has. What is damaged counts for the same place of all chunks.
    fn weaken(&self, oracle: &mut Oracle) {
        let cuts = self.cuts.borrow();
        let mut newest_first: Vec<u64> = cuts.values().copied().collect();
        newest_first.sort_unstable_by_key(|cut| std::cmp::Reverse(*cut));
        if let Some(cut) = newest_first.get(REPLICAS_MIN - 1) {
            oracle.weaken(now(), *cut);
        }
        for damage in control::damages() {
            let others = cuts.iter().filter(|(host, _)| **host != damage.host);
            let Some(cut) = others.map(|(_, cut)| *cut).max() else { continue };
            if !damage.path.starts_with(CHUNKS_DIR) {
                // Its tables or its journal: they are about anything.
                oracle.weaken(now(), cut);
                continue;
            }
            for chunk in (0..VOLUME_BYTES).step_by(CHUNK_BYTES as usize) {
                let (first, end) = (chunk + damage.bytes.start, chunk + damage.bytes.end);
                oracle.weaken_within(now(), first / SECTOR..end.div_ceil(SECTOR), cut);
            }
        }
    }

    /// Notes a violation.
    pub fn violation(&self, text: String) {
        rt::sim::trace(|| format!("VIOLATION {text}"));
        self.violations.borrow_mut().push(text);
    }

    fn note(&self, outcome: Result<(), Violation>) {
        if let Err(Violation(text)) = outcome {
            self.violation(text);
        }
    }
}

/// What one client works on.
#[derive(Clone, Debug)]
pub struct Job {
    /// Number of the client.
    pub client: usize,
    /// Number of the volume it works on, most of the time.
    pub volume: usize,
    /// How many volumes there are.
    pub volumes: usize,
    /// Bytes of the volume.
    pub size: u64,
    /// Operations side by side.
    pub depth: usize,
    /// Flushes among a hundred operations.
    pub flush_percent: u64,
    /// Operations after which the client closes the volume and ends.
    pub operations: u64,
    /// One round in so many ends with a file that is deleted while it is open.
    pub scratch_one_in: u64,
}

/// Operations of a client on a volume before it lets another client have it.
const ROUND: u64 = 60;
/// Average pause of a worker between two operations, in microseconds: the work shall last as long as the faults.
const THINK_US: u64 = 30_000;

/// Path of a volume in the cluster.
#[must_use]
pub fn path(volume: usize) -> String {
    format!("/volume{volume}")
}

/// The time of the world: hosts have clocks of their own.
pub fn now() -> u64 {
    u64::try_from(rt::sim::control::now().as_nanos()).unwrap_or(u64::MAX)
}

/// Runs a client to the end of its job.
pub async fn run(shared: Rc<Shared>, master: Rc<Master>, servers: Rc<Servers>, job: Job) {
    let resume = shared.keys.borrow()[job.client].clone();
    let options = SessionOptions {
        client_uuid: [job.client as u8 + 1; 16],
        kind: ClientKind::Nbd,
        resume,
        patience: Duration::from_secs(20),
    };
    let session = loop {
        match Session::open(Rc::clone(&master), options.clone()).await {
            Ok(session) => break session,
            Err(error) => {
                rt::sim::trace(|| format!("session: {error}"));
                rt::time::sleep(Duration::from_millis(500)).await;
            }
        }
    };
    shared.keys.borrow_mut()[job.client] = Some(session.key());
    let mut left = job.operations;
    while left > 0 {
        let mut job = job.clone();
        if let Some(kept) = shared.open.borrow()[job.client] {
            job.volume = kept;
        } else if let Some(wanted) = shared.wanted.borrow_mut()[job.client].take() {
            job.volume = wanted;
        } else if rt::random::below(3) == 0 {
            job.volume = rt::random::below(job.volumes as u64) as usize;
        }
        shared.open.borrow_mut()[job.client] = Some(job.volume);
        let volume = open(&shared, &session, &servers, &job).await;
        let round = left.min(1 + rt::random::below(2 * ROUND));
        let budget = Rc::new(Cell::new(round));
        let workers: Vec<_> = (0..job.depth)
            .map(|_| rt::spawn(work(Rc::clone(&shared), volume.clone(), job.clone(), Rc::clone(&budget))))
            .collect();
        for worker in workers {
            // A worker ends when its volume is lost; the next round opens it again.
            let _ended = worker.await;
        }
        left -= round - budget.get();
        let closing = now();
        match volume.close().await {
            Ok(()) => {
                let outcome = shared.oracle(job.volume).flushed(closing);
                shared.note(outcome);
                shared.open.borrow_mut()[job.client] = None;
            }
            Err(error) => {
                rt::sim::trace(|| format!("close: {error}"));
            }
        }
        if rt::random::below(job.scratch_one_in) == 0 {
            scratch::live_on(&shared, &session, &servers, &job).await;
        }
    }
    if let Err(error) = session.close().await {
        rt::sim::trace(|| format!("closing the session: {error}"));
    }
}

/// Opens the volume, waiting for whoever has it.
pub async fn open(shared: &Shared, session: &Rc<Session>, servers: &Rc<Servers>, job: &Job) -> Volume {
    let options = OpenOptions { write: true, patience: Duration::from_secs(20) };
    loop {
        match Volume::open(session, servers, &path(job.volume), &options).await {
            Ok(volume) => {
                let newest = shared.epochs.borrow()[job.volume];
                if volume.epoch() == newest {
                    shared.violation(format!("C1: epoch {newest:#x} granted twice"));
                }
                if volume.epoch() <= newest {
                    // The answer was so long on its way that somebody else was granted since: nothing can be written.
                    let outcome = volume.write(0, Buf::zeroed(SECTOR as usize).freeze()).await;
                    if outcome.is_ok() {
                        shared.violation(format!("C1: written at {:#x} after {newest:#x}", volume.epoch()));
                    }
                    continue;
                }
                shared.epochs.borrow_mut()[job.volume] = volume.epoch();
                let doubtful = shared.oracles.borrow_mut()[job.volume].fence(now());
                // What an earlier holder left unanswered has happened or not, once and for all (C2).
                for sectors in doubtful {
                    if let Err(error) = check_range(shared, &volume, job.volume, sectors).await {
                        rt::sim::trace(|| format!("reading after opening: {error}"));
                    }
                }
                return volume;
            }
            Err(error) => {
                rt::sim::trace(|| format!("open: {error}"));
                rt::time::sleep(Duration::from_millis(300)).await;
            }
        }
    }
}

async fn work(shared: Rc<Shared>, volume: Volume, job: Job, left: Rc<Cell<u64>>) {
    while left.get() > 0 {
        left.set(left.get() - 1);
        // Half of the time one comes right after the other.
        if rt::random::below(2) == 0 {
            rt::time::sleep(Duration::from_micros(rt::random::below(4 * THINK_US))).await;
        }
        let is_flush = rt::random::below(100) < job.flush_percent;
        let outcome = match rt::random::below(88) {
            _ if is_flush => flush(&shared, &volume, &job).await,
            0..45 => write(&shared, &volume, &job).await,
            45..80 => read(&shared, &volume, &job).await,
            80..85 => zero(&shared, &volume, &job).await,
            _ => status(&volume, &job).await,
        };
        match outcome {
            Ok(()) => shared.operations.set(shared.operations.get() + 1),
            Err(error) => {
                rt::sim::trace(|| format!("volume {}: {error}", job.volume));
                if let VolumeError::Corrupt { .. } = error {
                    shared.violation(format!("C8: {error}"));
                }
                return;
            }
        }
    }
}

/// Sectors of a random range: mostly blocks, sometimes parts of blocks, sometimes large.
fn range(job: &Job) -> std::ops::Range<u64> {
    let total = job.size / SECTOR;
    let (first, count) = match rt::random::below(20) {
        0..11 => (rt::random::below(total / 8) * 8, 8 * (1 + rt::random::below(4))),
        11..17 => (rt::random::below(total), 1 + rt::random::below(20)),
        _ => (rt::random::below(total / 8) * 8, 256 + 8 * rt::random::below(32)),
    };
    // A part of the volume is hot, so that writes meet each other.
    let first = if rt::random::below(3) == 0 { first % (total / 16).max(64) } else { first };
    first.min(total - 1)..(first + count).min(total)
}

/// Tells the oracle of a write that begins.
fn issue(shared: &Shared, volume: &Volume, job: &Job, sectors: &std::ops::Range<u64>, zero: bool) -> WriteId {
    // Whoever writes after somebody else was granted, not knowing it, changes nothing (C2).
    let is_late = volume.epoch() < shared.epochs.borrow()[job.volume];
    let mut oracles = shared.oracles.borrow_mut();
    if is_late {
        rt::sim::hit("client.writes-late");
        return oracles[job.volume].issue_late(now(), sectors.clone(), zero);
    }
    oracles[job.volume].issue(now(), sectors.clone(), zero)
}

async fn write(shared: &Shared, volume: &Volume, job: &Job) -> Result<(), VolumeError> {
    let sectors = range(job);
    let id = issue(shared, volume, job, &sectors, false);
    let _changing = Changing::begin(shared);
    let mut data = Buf::new((sectors.end - sectors.start) as usize * SECTOR as usize);
    for (bytes, sector) in data.chunks_mut(SECTOR as usize).zip(sectors.clone()) {
        bytes.copy_from_slice(&Oracle::content(job.volume as u64, sector, id));
    }
    volume.write(sectors.start * SECTOR, data.freeze()).await?;
    let outcome = shared.oracle(job.volume).acknowledge(now(), id);
    shared.note(outcome);
    Ok(())
}

async fn zero(shared: &Shared, volume: &Volume, job: &Job) -> Result<(), VolumeError> {
    let sectors = range(job);
    let id = issue(shared, volume, job, &sectors, true);
    let _changing = Changing::begin(shared);
    let punch = rt::random::below(2) == 0;
    volume.write_zeroes(sectors.start * SECTOR, (sectors.end - sectors.start) * SECTOR, punch).await?;
    let outcome = shared.oracle(job.volume).acknowledge(now(), id);
    shared.note(outcome);
    Ok(())
}

async fn read(shared: &Shared, volume: &Volume, job: &Job) -> Result<(), VolumeError> {
    check_range(shared, volume, job.volume, range(job)).await
}

/// Reads sectors and holds them against the oracle.
///
/// # Errors
/// [`VolumeError`].
pub async fn check_range(
    shared: &Shared,
    volume: &Volume,
    number: usize,
    sectors: std::ops::Range<u64>,
) -> Result<(), VolumeError> {
    let start = now();
    let len = (sectors.end - sectors.start) * SECTOR;
    let data = volume.read_whole(sectors.start * SECTOR, len as usize).await?;
    let end = now();
    let mut oracle = shared.oracle(number);
    for (bytes, sector) in data.chunks(SECTOR as usize).zip(sectors) {
        shared.note(oracle.check(number as u64, sector, start, end, bytes));
    }
    Ok(())
}

async fn flush(shared: &Shared, volume: &Volume, job: &Job) -> Result<(), VolumeError> {
    let start = now();
    volume.flush().await.inspect_err(|error| {
        if matches!(error, VolumeError::WritesLost) {
            rt::sim::hit(coverage::FLUSH_REFUSED);
        }
    })?;
    let outcome = shared.oracle(job.volume).flushed(start);
    shared.note(outcome);
    Ok(())
}

async fn status(volume: &Volume, job: &Job) -> Result<(), VolumeError> {
    let sectors = range(job);
    let len = (sectors.end - sectors.start) * SECTOR;
    let runs = volume.block_status(sectors.start * SECTOR, len, 1000).await?;
    let total: u64 = runs.iter().map(|run| run.len).sum();
    assert_eq!(total, len, "block status covers what was asked");
    Ok(())
}
