//! The engine: what a chunk server does with the requests it gets.
//!
//! The life of a write, as one line of awaits: checks (fence, version, duplicates) → range lock → checksums → merge of
//! parts → allocation → journal record and, where it is safe, data in place → block map → answer.
//! Reads go block map → table → file and verify every block. A checkpoint moves what the block maps hold into files
//! and tables and lets the journal's tail follow.
//!
//! **Invariant:** nothing is answered before its record is written. **Invariant:** no chunk file is touched where the
//! table says data unless the extent's mark is durable (C5). **Invariant:** a block with content in
//! the journal that no checkpoint has moved is never written in place. **Invariant:** nothing is written in place over
//! a hole where the file holds anything but zeroes. **Invariant:** a checkpoint waits for no lock
//! that a request holds, because requests wait for checkpoints.
//!
//! A request that has begun runs to its end: its future must not be dropped before (a task of its own does that), or the
//! locks it holds would fall while the kernel still works for it.

mod blocks;
mod checkpoint;
mod chunk;
mod content;
mod create;
mod damage;
mod digest;
mod doubts;
mod files;
mod fill;
mod flush;
pub(crate) mod history;
mod install;
mod join;
mod journal_change;
pub(crate) mod journal_place;
mod latency;
mod manage;
mod moves;
mod open;
mod query;
mod read;
mod reconcile;
pub mod recovery;
mod regions;
mod repair;
mod replay;
mod standing;
mod state;
mod verify;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rt::sync::{Notify, RangeLock, Semaphore};

use crate::format::superblock::Superblock;
use crate::journal::{AppendError, Journal};
use crate::store::Store;
use crate::tables::{TableError, Tables};

pub use blocks::{Entry, Place};
pub use chunk::Chunk;
pub use create::{CreateError, CreateOptions, create, remove_created};
pub use damage::{Damage, DamageKind};
pub use digest::{DIGEST_BLOCKS_MAX, Digest, DigestRequest};
pub use doubts::Settled;
pub use files::{FileState, Session, Unstable};
pub use fill::{Fault, Known, Listed, NotRead, Progress, Reading, ReadingSettled, Source};
pub use journal_change::{JournalChange, JournalError};
pub use latency::Latency;
pub use manage::NewChunk;
pub use open::{JOURNAL, OpenError, SUPERBLOCK, lock_directory, read_superblock};
pub use query::Held;
pub use read::ReadReply;
pub use reconcile::{BlockSurvey, Doubt, Surveyed};
pub use regions::{REGION_BLOCKS, Regions};
pub use standing::Install;
pub use verify::Verified;
pub use write::{WriteKind, WriteReply, WriteRequest};

/// Most bytes that one write or read moves.
pub const MAX_DATA: usize = 4 << 20;
/// Aligned writes below this many bytes go through the journal when their extent is not active yet, or over holes.
pub const JOURNAL_MAX: u32 = 128 << 10;
/// Blocks of one active extent (1 MiB): the unit of marks (C5), and the most one record of a write covers.
pub const ACTIVE_BLOCKS: u32 = 256;
/// Writes of one file that may be unstable before a flush is forced (C5).
pub const UNSTABLE_MAX: usize = 4096;
/// From this many on the client is asked to flush soon.
pub const UNSTABLE_SOON: usize = UNSTABLE_MAX * 3 / 4;
/// How far a write's sequence number may be ahead of the oldest one that is not answered.
pub const SEQ_WINDOW: u64 = 1 << 20;
/// Blocks in block maps before a checkpoint begins; at twice as many writes wait for it.
pub const BLOCK_MAP_MAX: usize = 128 << 10;
/// Records of writes before a checkpoint begins: what recovery has to read.
pub const RECORDS_MAX: usize = 256 << 10;

/// Why a request was refused. Each says whose fault it is and maps to one status on the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A higher epoch is recorded (C2).
    #[error("epoch {epoch} is fenced: epoch {fence} was recorded")]
    StaleEpoch {
        /// The request's.
        epoch: u64,
        /// Recorded here.
        fence: u64,
    },
    /// The replica has another version (C7).
    #[error("the replica has version {have}, the request is for {wanted}")]
    StaleVersion {
        /// Here.
        have: u64,
        /// In the request.
        wanted: u64,
    },
    /// No such chunk here: a failed replica, never an empty new one (C9).
    #[error("chunk {0:#x} is not here")]
    UnknownChunk(u64),
    /// The file of the chunk is missing or damaged: nothing here is worth repairing, others have the data.
    #[error("the file of chunk {0:#x} cannot be used here: the replica is lost")]
    ReplicaLost(u64),
    /// The file of the chunk is there, and cannot be opened now: descriptors or memory are short.
    #[error("the file of chunk {0:#x} cannot be opened now: try again")]
    CannotOpen(u64),
    /// The chunk belongs to another file.
    #[error("chunk {0:#x} belongs to another file")]
    ForeignChunk(u64),
    /// Below `done` (C11).
    #[error("write {seq} was answered before: everything below {done} is done")]
    Answered {
        /// The write.
        seq: u64,
        /// The watermark.
        done: u64,
    },
    /// The payload arrived damaged (C8).
    #[error("block {block} arrived damaged")]
    Damaged {
        /// Block of the chunk.
        block: u32,
    },
    /// Stored data does not match its checksum (C8).
    #[error("block {block} is corrupt here")]
    Corrupt {
        /// Block of the chunk.
        block: u32,
    },
    /// The members must settle the block first (C5).
    #[error("block {block} is unsettled after a crash")]
    Unsettled {
        /// Block of the chunk.
        block: u32,
    },
    /// The replica is still being filled: others have the data (C7).
    #[error("the replica of chunk {0:#x} here is still being filled: ask another one")]
    Joining(u64),
    /// A joiner cannot be a member before it has everything (C7).
    #[error("the replica of chunk {0:#x} here still lacks something and cannot be a member yet")]
    NotFilled(u64),
    /// A joiner needs content of a member and gets it from none.
    #[error("chunk {0:#x} is still being filled here, and no other replica of it can be reached")]
    NoSource(u64),
    /// Too many unstable writes (C5).
    #[error("{UNSTABLE_MAX} writes are not stable: flush first")]
    NeedFlush,
    /// No room on the disk (C13).
    #[error("no space left on the chunk server's disk")]
    NoSpace,
    /// The device failed; so have all replicas here (C4).
    #[error("the chunk server's device has failed")]
    DeviceFailed,
    /// The server is stopping.
    #[error("the chunk server is stopping")]
    Stopping,
    /// The request makes no sense.
    #[error("invalid request: {0}")]
    Invalid(&'static str),
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Failed => Self::DeviceFailed,
            AppendError::Closed => Self::Stopping,
            AppendError::Full => Self::NoSpace,
        }
    }
}

/// Sizes of caches.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Checksum pages of 4 KiB kept in memory.
    pub pages_max: usize,
    /// Chunk files kept open.
    pub files_max: usize,
    /// A checkpoint is made after this long without one, if there is anything to move.
    pub checkpoint_interval: std::time::Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { pages_max: 4096, files_max: 512, checkpoint_interval: std::time::Duration::from_secs(30) }
    }
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Write requests answered with success.
    pub writes: u64,
    /// Read requests answered with success.
    pub reads: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Flush rounds on the devices.
    pub flushes: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Writes that went through the journal with their payload.
    pub journaled: u64,
    /// Writes in place beside their record.
    pub in_place: u64,
    /// Stored blocks found corrupt.
    pub corrupt_blocks: u64,
    /// Chunks verified.
    pub verified_chunks: u64,
    /// Blocks of which it was new that they are damaged.
    pub bad_blocks: u64,
    /// Blocks repaired from other members.
    pub repaired_blocks: u64,
    /// Chunks compared with other members.
    pub compared_chunks: u64,
    /// Blocks in which members were found to differ, each time they were compared.
    pub differing_blocks: u64,
}

/// A running chunk server's data.
pub struct Engine {
    pub(crate) dir: PathBuf,
    pub(crate) superblock: RefCell<Superblock>,
    pub(crate) superblock_file: rt::fs::File,
    pub(crate) superblock_writing: Semaphore,
    pub(crate) journal: RefCell<Rc<Journal>>,
    /// Somebody puts another journal in its place.
    pub(crate) changing_journal: Cell<bool>,
    /// Told when there is another one.
    pub(crate) journal_change: Notify,
    pub(crate) tables: Tables,
    pub(crate) store: Store,
    pub(crate) options: EngineOptions,
    pub(crate) chunks: RefCell<BTreeMap<u64, Rc<Chunk>>>,
    /// Chunks with entries in their live maps.
    pub(crate) touched: RefCell<BTreeMap<u64, Rc<Chunk>>>,
    /// Chunks with active extents.
    pub(crate) marked: RefCell<BTreeMap<u64, Rc<Chunk>>>,
    /// Chunks whose headers do not say all: their version is later, they are joiners, or they keep a map of changes.
    pub(crate) installed: RefCell<BTreeMap<u64, Rc<Chunk>>>,
    /// How many of them are more than plain members: those stay, and each checkpoint records them.
    pub(crate) standings: Cell<usize>,
    pub(crate) files: RefCell<BTreeMap<u64, Rc<FileState>>>,
    pub(crate) unstable: Rc<files::Totals>,
    /// Reads under way by the checkpoint they began after: they may still need what it wants to overwrite.
    pub(crate) readers: RefCell<BTreeMap<u64, usize>>,
    pub(crate) readers_left: Notify,
    pub(crate) checkpointing: Semaphore,
    pub(crate) checkpoint_serial: Cell<u64>,
    /// What a checkpoint under way moves.
    pub(crate) frozen: RefCell<Option<checkpoint::Frozen>>,
    pub(crate) checkpoint_wanted: Notify,
    pub(crate) checkpoint_done: Notify,
    pub(crate) map_entries: Cell<usize>,
    pub(crate) records: Cell<usize>,
    pub(crate) flushing: RefCell<flush::Flushing>,
    pub(crate) flushed: Notify,
    pub(crate) creating: RangeLock,
    pub(crate) requests: Cell<usize>,
    /// Somebody waits until there are few requests.
    pub(crate) calm: verify::Calm,
    pub(crate) damage: Damage,
    /// Chunks whose files are missing or of another length, as far as somebody has come across them.
    pub(crate) lost: RefCell<BTreeSet<u64>>,
    pub(crate) requests_left: Notify,
    /// The host's boot in which this run is.
    pub(crate) boot_id: [u8; 16],
    pub(crate) failed: Cell<bool>,
    /// What failed, in words; and whether that is the device of a journal of its own.
    pub(crate) failure_text: RefCell<String>,
    pub(crate) journal_lost: Cell<bool>,
    pub(crate) latency: Rc<Latency>,
    pub(crate) failure: Notify,
    /// No new requests.
    pub(crate) stopping: Cell<bool>,
    /// Nothing at all any more.
    pub(crate) ended: Cell<bool>,
    /// Checkpoints find no space on the disk.
    pub(crate) stuck: Cell<bool>,
    pub(crate) counters: Cell<Counters>,
    /// The journal lies on a device of its own: a flush must reach the data device too.
    pub(crate) separate_journal: Cell<bool>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A request under way; the server does not stop before it has ended.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a Engine);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.calm.left(self.0.requests.get());
        if self.0.requests.get() == 0 && self.0.stopping.get() {
            self.0.requests_left.notify_all();
        }
    }
}

impl Engine {
    /// The superblock as it is on disk.
    #[must_use]
    pub fn superblock(&self) -> Superblock {
        self.superblock.borrow().clone()
    }

    /// The server's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits until the journal is another one than that of a generation.
    pub(crate) async fn journal_changed(&self, generation: u64) {
        loop {
            let changed = self.journal_change.notified();
            if self.superblock.borrow().journal_generation != generation {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn journal(&self) -> Rc<Journal> {
        Rc::clone(&self.journal.borrow())
    }

    /// Counters since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.get()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Whether a device has failed: every replica here is lost then (C4).
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// The journal's fill, in percent of its ring.
    #[must_use]
    pub fn journal_used_percent(&self) -> u64 {
        self.journal().used_percent()
    }

    /// Whether nothing waits in the journal to be moved (flag `c`).
    #[must_use]
    pub fn journal_is_clean(&self) -> bool {
        self.map_entries.get() == 0
    }

    /// Chunks here.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.chunks.borrow().len()
    }

    /// Whether what has failed is the device of a journal of its own (flag `S`).
    #[must_use]
    pub fn has_lost_journal(&self) -> bool {
        self.journal_lost.get()
    }

    /// What has failed, in words.
    pub(crate) fn failure_text(&self) -> String {
        self.failure_text.borrow().clone()
    }

    /// How long its devices take to answer.
    #[must_use]
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// As [`Engine::fail`], for what lies in the journal's directory.
    pub(crate) fn fail_journal(&self, what: &str, error: &dyn std::fmt::Display) {
        if !self.failed.get() {
            self.journal_lost.set(self.separate_journal.get());
        }
        self.fail(what, error);
    }

    /// Fails every replica here for good (C4): from now on every request is refused. A task of the engine notes it in
    /// the superblock, so that a restart does not forget.
    pub(crate) fn fail(&self, what: &str, error: &dyn std::fmt::Display) {
        if self.failed.replace(true) {
            return;
        }
        let dir = self.dir.display();
        self.failure_text.replace(format!("{what} failed: {error}"));
        tracing::error!(%dir, "{what} failed: {error}; this chunk server takes itself out of service");
        self.journal().fail();
        self.failure.notify_one();
        self.checkpoint_done.notify_all();
        self.checkpoint_wanted.notify_one();
    }

    pub(crate) fn table_failed(&self, error: &TableError) -> Refusal {
        self.fail_journal("access to a table", error);
        Refusal::DeviceFailed
    }

    pub(crate) fn append_failed(&self, error: AppendError) -> Refusal {
        if error == AppendError::Failed {
            self.fail_journal("a write to the journal", &error);
        }
        error.into()
    }

    pub(crate) fn check_running(&self) -> Result<(), Refusal> {
        if self.failed.get() {
            return Err(Refusal::DeviceFailed);
        }
        if self.ended.get() {
            return Err(Refusal::Stopping);
        }
        Ok(())
    }

    /// Begins a request.
    pub(crate) fn begin(&self) -> Result<Running<'_>, Refusal> {
        self.check_running()?;
        if self.stopping.get() {
            return Err(Refusal::Stopping);
        }
        self.requests.set(self.requests.get() + 1);
        Ok(Running(self))
    }

    pub(crate) fn file_state(&self, file: u64) -> Rc<FileState> {
        let mut files = self.files.borrow_mut();
        let state =
            files.entry(file).or_insert_with(|| Rc::new(FileState::new(file, Rc::clone(&self.unstable))));
        Rc::clone(state)
    }

    /// The chunk a request names, if the request's version and file fit (C2, C7, C9).
    pub(crate) fn chunk_for(&self, file: u64, chunk: u64, version: u64) -> Result<Rc<Chunk>, Refusal> {
        let found = self.chunks.borrow().get(&chunk).map(Rc::clone).ok_or(Refusal::UnknownChunk(chunk))?;
        if found.file != file {
            return Err(Refusal::ForeignChunk(chunk));
        }
        let have = found.version.get();
        if have != version {
            return Err(Refusal::StaleVersion { have, wanted: version });
        }
        Ok(found)
    }

    /// Refuses an epoch below the file's fence (C1, C2).
    pub(crate) fn check_epoch(&self, file: u64, epoch: u64) -> Result<Rc<FileState>, Refusal> {
        let state = self.file_state(file);
        let fence = state.fence();
        if epoch < fence {
            rt::sim::hit("engine.stale-epoch");
            if !rt::sim::planted("epoch-ignored") {
                return Err(Refusal::StaleEpoch { epoch, fence });
            }
        }
        Ok(state)
    }

    /// As [`Engine::chunk_for`], for what only a replica that has everything may answer (C7).
    pub(crate) fn member_for(&self, file: u64, chunk: u64, version: u64) -> Result<Rc<Chunk>, Refusal> {
        let found = self.chunk_for(file, chunk, version)?;
        if found.is_joiner() {
            return Err(Refusal::Joining(chunk));
        }
        Ok(found)
    }

    /// After a wait: the device may have failed, the fence may have risen, the chunk may be gone or have a later version.
    pub(crate) fn recheck(&self, chunk: &Chunk, epoch: u64, version: u64) -> Result<(), Refusal> {
        self.check_running()?;
        self.check_epoch(chunk.file, epoch)?;
        if chunk.deleted.get() {
            return Err(Refusal::UnknownChunk(chunk.id));
        }
        match chunk.version.get() {
            have if have == version => Ok(()),
            have => Err(Refusal::StaleVersion { have, wanted: version }),
        }
    }
}
