//! Making a chunk server's directory.

use std::io;
use std::path::{Path, PathBuf};

use rt::fs::{self, File, OpenOptions};

use super::open::{JOURNAL, SUPERBLOCK};
use crate::format::BLOCK;
use crate::format::journal::{JournalHeader, RING_MIN};
use crate::format::superblock::Superblock;
use crate::journal::Journal;
use crate::store::CHUNKS;
use crate::tables::{CRC_TABLE, META_TABLE, Tables};

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
    /// The journal is not made of whole blocks.
    #[error("a journal of {0} bytes is not made of whole blocks; choose a multiple of {BLOCK} bytes")]
    JournalUneven(u64),
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
    if !superblock.journal_bytes.is_multiple_of(BLOCK as u64) {
        return Err(CreateError::JournalUneven(superblock.journal_bytes));
    }
    let io = |dir: &Path| {
        let dir = dir.to_owned();
        move |error| CreateError::Io { dir, error }
    };
    let meta_dir = superblock.journal_dir.as_deref().unwrap_or(dir).to_owned();
    for dir in [dir.as_path(), meta_dir.as_path()] {
        make_dir(dir).await.map_err(io(dir))?;
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
        for name in [JOURNAL, META_TABLE, CRC_TABLE] {
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
    let files = [(options.dir.as_path(), SUPERBLOCK)]
        .into_iter()
        .chain([JOURNAL, META_TABLE, CRC_TABLE].map(|name| (meta_dir, name)));
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
    drop(Journal::create(&meta_dir.join(JOURNAL), header).await?);
    Tables::create(meta_dir).await?;
    fs::create_dir_all(&options.dir.join(CHUNKS)).await?;
    fs::sync_dir(meta_dir).await?;
    // The superblock comes last: without it the directory is nobody's.
    let path = options.dir.join(SUPERBLOCK);
    let file = File::open(&path, OpenOptions::direct().create_new()).await?;
    super::manage::write_superblock(&file, superblock).await?;
    file.sync_all().await?;
    fs::sync_dir(&options.dir).await
}

/// Makes a directory with those above it, durably.
pub(super) async fn make_dir(dir: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for above in dir.ancestors().filter(|above| !above.as_os_str().is_empty()) {
        if fs::exists(above).await? {
            break;
        }
        missing.push(above);
    }
    fs::create_dir_all(dir).await?;
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs::sync_dir(parent.unwrap_or(Path::new("."))).await?;
    }
    Ok(())
}
