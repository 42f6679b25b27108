//! Making a chunk server's directory, and opening it: superblock, lock, journal, tables, recovery.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rt::buf::Buf;
use rt::fs::{self, File, OpenOptions};
use rt::sync::Notify;

use super::chunk::Chunk;
use super::{Counters, Engine, EngineOptions};
use crate::format::journal::{JournalHeader, RING_MIN};
use crate::format::superblock::{COPIES, Superblock};
use crate::format::{BLOCK, FormatError};
use crate::journal::scan::{self, ScanError, Scanned};
use crate::journal::Journal;
use crate::store::{CHUNKS, Store};
use crate::tables::{TableError, Tables};

/// Name of the superblock's file; it carries the directory's lock.
pub const SUPERBLOCK: &str = "superblock";
/// Name of the journal's file.
pub const JOURNAL: &str = "journal";

/// What to make.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The directory (`-r`); made if it does not exist, else it must be empty (`lost+found` aside).
    pub dir: PathBuf,
    /// Settings and identity; sequence, generation and the like are set here.
    pub superblock: Superblock,
}

/// Why a directory could not be made a chunk server's.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There is one already.
    #[error("{0} already holds a chunk server; choose another directory, or remove it with rm-cs first")]
    Exists(PathBuf),
    /// Something else is there.
    #[error("{0} is not empty; a chunk server needs an empty directory on its own disk")]
    NotEmpty(PathBuf),
    /// Not enough room.
    #[error("{dir} has {free} bytes free; the journal alone needs {needed}: choose a smaller one with -s")]
    NoSpace {
        /// The directory.
        dir: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// The journal would be too small.
    #[error("a journal of {0} bytes is too small; it needs at least {RING_MIN} bytes")]
    JournalTooSmall(u64),
    /// A setting does not fit.
    #[error("the {0} is too long")]
    Setting(&'static str),
    /// The file system.
    #[error("cannot write to {dir}: {error}")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What happened.
        #[source]
        error: io::Error,
    },
}

/// Why a chunk server's directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No superblock.
    #[error("{0} holds no chunk server (there is no superblock); make one with `vstorage make-cs -r`")]
    NotThere(PathBuf),
    /// The superblock cannot be used.
    #[error("the superblock in {dir} is unusable: {why}; the replicas on this disk must be rebuilt from others")]
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
    #[error("{0} failed with a device error before and is out of service for good; replace the disk and remove the CS")]
    Failed(PathBuf),
    /// The journal's file is not there.
    #[error("the journal {0} is missing; mount its disk, or remove this CS and make a new one")]
    JournalMissing(PathBuf),
    /// The journal cannot be used.
    #[error("the journal {path} cannot be used: {error}")]
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
    #[error("cannot open {dir}: {error}")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What happened.
        #[source]
        error: io::Error,
    },
}

/// Makes a directory a chunk server's, durably. On an error what was made is removed again.
///
/// # Errors
/// [`CreateError`].
pub async fn create(options: &CreateOptions) -> Result<(), CreateError> {
    let dir = &options.dir;
    let superblock = &options.superblock;
    superblock.validate().map_err(CreateError::Setting)?;
    if superblock.journal_bytes < RING_MIN {
        return Err(CreateError::JournalTooSmall(superblock.journal_bytes));
    }
    let io = |dir: &Path| {
        let dir = dir.to_owned();
        move |error| CreateError::Io { dir, error }
    };
    let meta_dir = superblock.journal_dir.as_deref().unwrap_or(dir).to_owned();
    for dir in [dir.as_path(), meta_dir.as_path()] {
        fs::create_dir_all(dir).await.map_err(io(dir))?;
        let entries = fs::read_dir(dir).await.map_err(io(dir))?;
        if entries.iter().any(|entry| entry.name == SUPERBLOCK || entry.name == JOURNAL) {
            return Err(CreateError::Exists(dir.to_owned()));
        }
        let chunks = dir.join(CHUNKS);
        let left = entries.iter().any(|entry| entry.name == CHUNKS);
        let empty = !left || fs::read_dir(&chunks).await.map_err(io(dir))?.is_empty();
        if !empty || entries.iter().any(|entry| entry.name != "lost+found" && entry.name != CHUNKS) {
            return Err(CreateError::NotEmpty(dir.to_owned()));
        }
    }
    let free = fs::space(&meta_dir).await.map_err(io(&meta_dir))?.free;
    let needed = superblock.journal_bytes + (1 << 20);
    if free < needed {
        return Err(CreateError::NoSpace { dir: meta_dir, free, needed });
    }
    let made = make_files(options, &meta_dir).await;
    if made.is_err() {
        for name in [JOURNAL, crate::tables::META_TABLE, crate::tables::CRC_TABLE] {
            // The first error is the one to report.
            let _absent = fs::remove_file(&meta_dir.join(name)).await;
        }
        let _absent = fs::remove_file(&dir.join(SUPERBLOCK)).await;
    }
    made.map_err(io(dir))
}

/// Undoes [`create`] for a server that could not join its cluster: removes the files that were made, and nothing else
/// (the empty directory of chunk files stays and may be used again).
pub async fn remove_created(options: &CreateOptions) {
    let meta_dir = options.superblock.journal_dir.as_deref().unwrap_or(&options.dir);
    let files = [(options.dir.as_path(), SUPERBLOCK)].into_iter().chain(
        [JOURNAL, crate::tables::META_TABLE, crate::tables::CRC_TABLE].map(|name| (meta_dir, name)),
    );
    for (dir, name) in files {
        if let Err(error) = fs::remove_file(&dir.join(name)).await {
            tracing::warn!("cannot remove {} again: {error}", dir.join(name).display());
        }
    }
}

async fn make_files(options: &CreateOptions, meta_dir: &Path) -> io::Result<()> {
    let superblock = &options.superblock;
    let header = JournalHeader {
        sequence: 1,
        store_uuid: superblock.store_uuid,
        generation: superblock.journal_generation,
        ring_bytes: superblock.journal_bytes,
        tail: 0,
        tail_previous_crc: 0,
        durable: 0,
    };
    Journal::create(&meta_dir.join(JOURNAL), header).await?;
    Tables::create(meta_dir).await?;
    fs::create_dir_all(&options.dir.join(CHUNKS)).await?;
    fs::sync_dir(meta_dir).await?;
    // The superblock comes last: without it the directory is nobody's.
    let path = options.dir.join(SUPERBLOCK);
    let file = File::open(&path, OpenOptions::direct().create_new()).await?;
    super::manage::write_superblock(&file, superblock).await?;
    file.sync_all().await?;
    fs::sync_dir(&options.dir).await?;
    match options.dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::sync_dir(parent).await,
        _ => Ok(()),
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
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(OpenError::NotThere(dir.to_owned())),
        Err(error) => return Err(io(error)),
    };
    if file.try_lock().await.map_err(io)? { Ok(file) } else { Err(OpenError::InUse(dir.to_owned())) }
}

/// Reads and checks the superblock.
///
/// # Errors
/// [`OpenError::Superblock`], [`OpenError::Io`].
pub async fn read_superblock(dir: &Path, file: &File) -> Result<Superblock, OpenError> {
    let (result, buf) = file.read_exact_at(Buf::new(COPIES * BLOCK), 0).await;
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let why = FormatError::Range { structure: "superblock", field: "file size" };
            return Err(OpenError::Superblock { dir: dir.to_owned(), why });
        }
        Err(error) => return Err(OpenError::Io { dir: dir.to_owned(), error }),
    }
    let copies: &[[u8; BLOCK]; COPIES] =
        buf.as_chunks::<BLOCK>().0.first_chunk().expect("the buffer holds every copy");
    Superblock::choose(copies).map_err(|why| OpenError::Superblock { dir: dir.to_owned(), why })
}

impl Engine {
    /// Opens a directory whose lock is held, recovers what the last run left behind, and starts the journal.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(dir: &Path, superblock_file: File, options: EngineOptions) -> Result<Rc<Self>, OpenError> {
        let io = |error| OpenError::Io { dir: dir.to_owned(), error };
        let mut superblock = read_superblock(dir, &superblock_file).await?;
        if superblock.failed {
            return Err(OpenError::Failed(dir.to_owned()));
        }
        let meta_dir = superblock.journal_dir.clone().unwrap_or_else(|| dir.to_owned());
        let journal_path = meta_dir.join(JOURNAL);
        let journal_file = match File::open(&journal_path, OpenOptions::direct()).await {
            Ok(file) => Rc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::JournalMissing(journal_path));
            }
            Err(error) => return Err(io(error)),
        };
        let scanned = scan::scan(&journal_file, &superblock.store_uuid, superblock.journal_generation).await;
        let scanned = scanned.map_err(|error| OpenError::Journal { path: journal_path, error })?;
        let (tables, slots) = Tables::open(&meta_dir, superblock.store_uuid, options.pages_max)
            .await
            .map_err(|error| OpenError::Tables { dir: meta_dir.clone(), error })?;
        superblock.incarnation = superblock.incarnation.max(scanned.incarnation) + 1;
        superblock.sequence += 1;
        super::manage::write_superblock(&superblock_file, &superblock).await.map_err(io)?;

        let Scanned { header, copy, records, position, durable, .. } = scanned;
        let chunks: BTreeMap<u64, Rc<Chunk>> =
            slots.into_iter().map(|slot| (slot.header.chunk, Chunk::new(slot.slot, slot.copy, slot.header))).collect();
        let journal = Journal::start(journal_file, header, copy, superblock.incarnation, position);
        let separate_journal = superblock.journal_dir.is_some();
        let engine = Rc::new(Self {
            dir: dir.to_owned(),
            superblock: RefCell::new(superblock),
            superblock_file,
            journal,
            tables,
            store: Store::new(dir, options.files_max),
            options,
            chunks: RefCell::new(chunks),
            files: RefCell::default(),
            floors: RefCell::default(),
            readers: RefCell::default(),
            readers_left: Notify::new(),
            checkpoint_serial: Cell::new(0),
            frozen_tail: Cell::new(None),
            map_entries: Cell::new(0),
            flushing: RefCell::default(),
            checkpoint_wanted: Notify::new(),
            checkpoint_done: Notify::new(),
            superblock_writing: rt::sync::Semaphore::new(1),
            creating: rt::sync::RangeLock::new(),
            failed: Cell::new(false),
            stopping: Cell::new(false),
            counters: Cell::new(Counters::default()),
            separate_journal,
        });
        engine.replay(records, durable).await.map_err(|error| OpenError::Io { dir: dir.to_owned(), error })?;
        // What was read back need not be durable: make it so before anything builds on it.
        if engine.flush().await.is_err() {
            return Err(OpenError::Failed(dir.to_owned()));
        }
        rt::spawn(Rc::clone(&engine).run_checkpoints());
        Ok(engine)
    }

    /// Stops in order: refuses new requests, moves what the journal holds, and closes it.
    pub async fn stop(self: &Rc<Self>) {
        self.stopping.set(true);
        self.checkpoint_wanted.notify_one();
        // Requests under way end by themselves; each holds a floor until then.
        while !self.floors.borrow().is_empty() {
            rt::yield_now().await;
        }
        if !self.failed.get() && self.frozen_tail.get().is_none() {
            // An error has been reported by then; the journal keeps what could not be moved.
            let _reported = self.checkpoint().await;
        }
        self.journal.close();
    }
}
