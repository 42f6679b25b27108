//! Opening a chunk server's directory: superblock, lock, journal, tables, recovery; and stopping.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rt::buf::Buf;
use rt::fs::{self, File, OpenOptions};
use rt::sync::{Notify, RangeLock, Semaphore};

use super::chunk::Chunk;
use super::journal_place;
use super::{Counters, Engine, EngineOptions, Latency};
use crate::format::record::{Record, RecordKind};
use crate::format::superblock::{COPIES, Superblock};
use crate::format::table::SlotState;
use crate::format::{BLOCK, FormatError};
use crate::journal::scan::{self, ScanError, Scanned};
use crate::journal::{Class, Journal};
use crate::sectors::read_each;
use crate::store::Store;
use crate::tables::{Found, TableError, Tables};

/// Name of the superblock's file; it carries the directory's lock.
pub const SUPERBLOCK: &str = "superblock";
/// Name of the journal's file.
pub const JOURNAL: &str = "journal";

/// Why a chunk server's directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No superblock.
    #[error(
        "{0} holds no chunk server (there is no superblock): if there was one, its disk is not mounted; else make one with \
         `vstorage make-cs -r`"
    )]
    NotThere(PathBuf),
    /// The superblock cannot be used.
    #[error(
        "the superblock in {dir} is unusable: {why}; the replicas on this disk must be rebuilt from others"
    )]
    Superblock {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        why: FormatError,
    },
    /// Another daemon has it.
    #[error("{0} is in use by another vstorage-csd; stop that one first")]
    InUse(PathBuf),
    /// It failed before.
    #[error(
        "{dir} is out of service for good: {} failed with a device error before; replace that disk, remove this CS and make a \
         new one",
        if *journal { "the disk of its journal" } else { "its disk" }
    )]
    Failed {
        /// The directory.
        dir: PathBuf,
        /// It was the disk of its journal.
        journal: bool,
    },
    /// The journal's file is not there.
    #[error("the journal {0} is missing; mount its disk, or remove this CS and make a new one")]
    JournalMissing(PathBuf),
    /// The journal cannot be used.
    #[error(
        "the journal {path} cannot be used: {error}; put the journal of this CS back, or remove this CS and make a new one"
    )]
    Journal {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        error: ScanError,
    },
    /// The tables cannot be used.
    #[error("{dir}: {error}")]
    Tables {
        /// Where they are.
        dir: PathBuf,
        /// Why.
        #[source]
        error: TableError,
    },
    /// The file system.
    #[error("cannot open {dir}: {error}{}", what_to_do(error))]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What happened.
        #[source]
        error: io::Error,
    },
}

fn what_to_do(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "; remount its file system read-write",
        io::ErrorKind::PermissionDenied => "; run as root, or as the owner of the directory",
        _ => "",
    }
}

/// Takes the directory's lock: the open superblock file holds it.
///
/// # Errors
/// [`OpenError::NotThere`], [`OpenError::InUse`].
pub async fn lock_directory(dir: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::Io { dir: dir.to_owned(), error };
    let file = match File::open(&dir.join(SUPERBLOCK), OpenOptions::direct()).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::NotThere(dir.to_owned()));
        }
        Err(error) => return Err(io(error)),
    };
    if file.try_lock().await.map_err(io)? { Ok(file) } else { Err(OpenError::InUse(dir.to_owned())) }
}

/// Reads and checks the superblock.
///
/// # Errors
/// [`OpenError::Superblock`], [`OpenError::Io`].
pub async fn read_superblock(dir: &Path, file: &File) -> Result<Superblock, OpenError> {
    let (result, mut buf) = file.read_exact_at(Buf::new(COPIES * BLOCK), 0).await;
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let why = FormatError::Range { structure: "superblock", field: "file size" };
            return Err(OpenError::Superblock { dir: dir.to_owned(), why });
        }
        Err(error) => {
            let io = |error| OpenError::Io { dir: dir.to_owned(), error };
            let (copies, bad) = read_each(file, COPIES * BLOCK, 0).await.map_err(io)?;
            if bad.len() == COPIES {
                return Err(io(error));
            }
            tracing::error!(dir = %dir.display(), "{} copies of the superblock cannot be read: {error}", bad.len());
            buf = copies;
        }
    }
    let copies: &[[u8; BLOCK]; COPIES] =
        buf.as_chunks::<BLOCK>().0.first_chunk().expect("the buffer holds every copy");
    Superblock::choose(copies).map_err(|why| OpenError::Superblock { dir: dir.to_owned(), why })
}

/// The directory of journal and tables.
pub(crate) fn meta_dir(dir: &Path, superblock: &Superblock) -> PathBuf {
    superblock.journal_dir.clone().unwrap_or_else(|| dir.to_owned())
}

/// Opens and reads the journal that belongs to a superblock.
///
/// # Errors
/// [`OpenError`].
pub(crate) async fn open_journal(
    dir: &Path,
    superblock: &Superblock,
    write: bool,
) -> Result<(File, Scanned), OpenError> {
    let meta_dir = meta_dir(dir, superblock);
    let find = journal_place::find(&meta_dir, superblock, write).await;
    let path = find.map_err(|error| OpenError::Journal { path: meta_dir.clone(), error: error.into() })?;
    let io = |error: io::Error| OpenError::Journal { path: path.clone(), error: error.into() };
    let file = match File::open(&path, OpenOptions { write, ..OpenOptions::direct() }).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(OpenError::JournalMissing(path)),
        Err(error) => return Err(io(error)),
    };
    // A copied directory names the journal of the original, which may be running.
    if !file.try_lock().await.map_err(io)? {
        return Err(OpenError::InUse(path));
    }
    let scanned = scan::scan(&file, &superblock.store_uuid, superblock.journal_generation).await;
    let scanned = scanned.map_err(|error| OpenError::Journal { path, error })?;
    Ok((file, scanned))
}

impl Engine {
    /// Opens a directory whose lock is held, recovers what the last run left behind, and starts the journal.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        dir: &Path,
        superblock_file: File,
        options: EngineOptions,
    ) -> Result<Rc<Self>, OpenError> {
        let io = |error| OpenError::Io { dir: dir.to_owned(), error };
        let mut superblock = read_superblock(dir, &superblock_file).await?;
        if superblock.failed {
            return Err(OpenError::Failed { dir: dir.to_owned(), journal: superblock.failed_journal });
        }
        // What follows goes by it for good, and what was read need not be durable: whoever wrote it may have been killed before.
        superblock_file.sync_data().await.map_err(io)?;
        let (journal_file, scanned) = open_journal(dir, &superblock, true).await?;
        let meta_dir = meta_dir(dir, &superblock);
        let (tables, slots) = Tables::open(&meta_dir, superblock.store_uuid, options.pages_max, true)
            .await
            .map_err(|error| OpenError::Tables { dir: meta_dir, error })?;
        let clean = scanned.stopped && scanned.incarnation == superblock.incarnation;
        superblock.incarnation = superblock.incarnation.max(scanned.incarnation) + 1;
        superblock.sequence += 1;
        super::manage::write_superblock(&superblock_file, &superblock).await.map_err(io)?;

        let Scanned { header, copy, records, position, .. } = scanned;
        let latency = Rc::new(Latency::default());
        let incarnation = superblock.incarnation;
        let journal =
            Journal::start(Rc::new(journal_file), header, copy, incarnation, position, Rc::clone(&latency));
        let boot_id = rt::node::boot_id().map_err(io)?;
        let mut engine = Self::new(dir, superblock, superblock_file, journal, tables, options, boot_id);
        engine.latency = latency;
        let engine = Rc::new(engine);
        engine.adopt_chunks(slots);
        let recovered = engine.recover(records, clean).await;
        if let Err(error) = recovered {
            if engine.failed.get() && !engine.superblock_failed().await {
                tracing::error!(dir = %dir.display(), "the failure could not be noted on the disk");
            }
            engine.end();
            return Err(error);
        }
        engine.tell_versions();
        rt::spawn(Rc::clone(&engine).run_checkpoints());
        rt::spawn(Rc::clone(&engine).run_notes());
        rt::spawn(Rc::clone(&engine).run_failure());
        engine.clear_other_journal().await;
        Ok(engine)
    }

    fn new(
        dir: &Path,
        superblock: Superblock,
        superblock_file: File,
        journal: Rc<Journal>,
        tables: Tables,
        options: EngineOptions,
        boot_id: [u8; 16],
    ) -> Self {
        Self {
            dir: dir.to_owned(),
            separate_journal: Cell::new(superblock.journal_dir.is_some()),
            superblock: RefCell::new(superblock),
            superblock_file,
            superblock_writing: Semaphore::new(1),
            journal: RefCell::new(journal),
            changing_journal: Cell::new(false),
            journal_change: Notify::new(),
            tables,
            store: Store::new(dir, options.files_max),
            options,
            chunks: RefCell::default(),
            touched: RefCell::default(),
            marked: RefCell::default(),
            installed: RefCell::default(),
            standings: Cell::default(),
            files: RefCell::default(),
            unstable: Rc::default(),
            readers: RefCell::default(),
            readers_left: Notify::new(),
            checkpointing: Semaphore::new(1),
            checkpoint_serial: Cell::new(0),
            frozen: RefCell::default(),
            checkpoint_wanted: Notify::new(),
            checkpoint_done: Notify::new(),
            map_entries: Cell::new(0),
            records: Cell::new(0),
            flushing: RefCell::default(),
            flushed: Notify::new(),
            creating: RangeLock::new(),
            requests: Cell::new(0),
            calm: super::verify::Calm::default(),
            damage: super::Damage::default(),
            lost: RefCell::default(),
            requests_left: Notify::new(),
            boot_id,
            failed: Cell::new(false),
            failure_text: RefCell::default(),
            journal_lost: Cell::new(false),
            latency: Rc::default(),
            failure: Notify::new(),
            stopping: Cell::new(false),
            ended: Cell::new(false),
            stuck: Cell::new(false),
            counters: Cell::new(Counters::default()),
        }
    }

    fn adopt_chunks(&self, slots: Vec<(u32, Found)>) {
        let mut chunks = BTreeMap::new();
        for (slot, found) in slots {
            let Found::Header(found) = found else { continue };
            if found.header.state != SlotState::Live {
                continue;
            }
            let chunk = Chunk::new(slot, found.copy, found.header);
            let files = self.file_state(chunk.file);
            files.chunks.set(files.chunks.get() + 1);
            if let Some(other) = chunks.insert(chunk.id, chunk) {
                let other: Rc<Chunk> = other;
                tracing::error!(
                    "slots {} and {slot} both hold chunk {:#x}; run `vstorage-csd check`",
                    other.slot,
                    other.id
                );
            }
        }
        *self.chunks.borrow_mut() = chunks;
    }

    fn out_of_service(&self) -> OpenError {
        OpenError::Failed { dir: self.dir.clone(), journal: self.journal_lost.get() }
    }

    async fn recover(self: &Rc<Self>, records: Vec<scan::Found>, clean: bool) -> Result<(), OpenError> {
        // Before anybody is told of a chunk, and before a page is written over the older of its copies (C9).
        if let Err(error) = self.tables.commit_found().await {
            self.table_failed(&error);
            return Err(self.out_of_service());
        }
        self.clear_away().await.map_err(|error| OpenError::Io { dir: self.dir.clone(), error })?;
        self.replay(records, clean).await;
        // What was read back need not be durable: make it so before anything builds on it.
        if self.flush().await.is_err() || self.note_boot().await.is_err() {
            return Err(self.out_of_service());
        }
        Ok(())
    }

    /// Finishes deletions that a crash cut off, and undoes those of which the chunk does not know. Notes which chunks have no file.
    async fn clear_away(&self) -> io::Result<()> {
        let mut missing: BTreeSet<u64> = self.chunks.borrow().keys().copied().collect();
        let is_alive = |chunk| self.chunks.borrow().contains_key(&chunk);
        let seen = |chunk| {
            missing.remove(&chunk);
        };
        let strays = match self.store.strays(is_alive, seen).await {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!("{}: {error}", self.dir.display());
                return Ok(());
            }
            strays => strays?,
        };
        for stray in strays {
            let alive = stray.chunk.filter(|chunk| self.chunks.borrow().contains_key(chunk));
            match (stray.deleted, alive) {
                (true, Some(chunk)) if !fs::exists(&self.store.path(chunk)).await? => {
                    self.store.restore(chunk).await?;
                    missing.remove(&chunk);
                }
                (true, _) => fs::remove_file(&stray.path).await?,
                // Of a creation that was cut off, if it holds nothing.
                (false, _) if stray.chunk.is_some() && is_empty(&stray.path).await? => {
                    fs::remove_file(&stray.path).await?;
                }
                _ => {
                    tracing::warn!(
                        "{} belongs to no chunk here; run `vstorage-csd check`",
                        stray.path.display()
                    );
                }
            }
        }
        for chunk in &missing {
            tracing::error!("chunk {chunk:#x}: the chunk's file is missing: the replica is lost");
        }
        self.lost.replace(missing);
        Ok(())
    }

    /// Stops in order: refuses new requests, waits for those under way, moves what the journal holds, and closes it.
    pub async fn stop(self: &Rc<Self>) {
        self.stopping.set(true);
        self.stop_filling();
        loop {
            let left = self.requests_left.notified();
            if self.requests.get() == 0 {
                break;
            }
            left.await;
        }
        if self.check_running().is_ok() {
            match self.checkpoint().await {
                Ok(()) => self.record_stop().await,
                // The journal keeps what could not be moved.
                Err(refusal) => {
                    tracing::warn!(dir = %self.dir.display(), "not emptied at the stop: {refusal}")
                }
            }
        }
        self.end();
    }

    /// Says in the journal that nothing was under way at its end, unless something of an earlier crash is still in doubt:
    /// then the next start must doubt it as well (C5).
    async fn record_stop(self: &Rc<Self>) {
        if self.has_suspects() {
            return;
        }
        let record = Record::new(RecordKind::Stopped);
        let stopped = match self.journal().append(Class::Checkpoint, record, None).await {
            Ok(_) => self.flush().await,
            Err(error) => Err(self.append_failed(error)),
        };
        if let Err(refusal) = stopped {
            tracing::warn!(dir = %self.dir.display(), "not stopped in order: {refusal}");
        }
    }

    fn end(&self) {
        self.ended.set(true);
        self.journal().close();
        self.checkpoint_wanted.notify_one();
        self.flushed.notify_one();
        self.failure.notify_one();
    }

    /// Waits for a failure and notes it in the superblock, so that a restart does not take the server for a good one
    /// (C4).
    async fn run_failure(self: Rc<Self>) {
        self.failure.notified().await;
        if !self.failed.get() || self.superblock_failed().await {
            return;
        }
        tracing::error!(
            dir = %self.dir.display(),
            "the failure could not be noted on the disk: do not start this chunk server again"
        );
    }

    /// Notes the failure; the superblock's own file may be what has failed, so that another attempt opens it anew.
    async fn superblock_failed(&self) -> bool {
        let _one_at_a_time = self.superblock_writing.acquire(1).await;
        let mut superblock = self.superblock();
        superblock.failed = true;
        superblock.failed_journal = self.journal_lost.get();
        superblock.sequence += 1;
        if super::manage::write_superblock(&self.superblock_file, &superblock).await.is_ok() {
            *self.superblock.borrow_mut() = superblock;
            return true;
        }
        match File::open(&self.dir.join(SUPERBLOCK), OpenOptions::direct()).await {
            Ok(file) => super::manage::write_superblock(&file, &superblock).await.is_ok(),
            Err(_) => false,
        }
    }
}

/// Whether nothing is stored in a file.
async fn is_empty(path: &Path) -> io::Result<bool> {
    Ok(File::open(path, OpenOptions::read()).await?.allocated_bytes().await? == 0)
}
