//! Which file is the journal, and which one only looks like it.
//!
//! A new journal is made as `journal.next`, and has a higher generation than the one in use. The superblock says which
//! generation counts: when it names the new one, that takes the name `journal`. A crash in between leaves both names,
//! and whoever opens the directory tells them apart by their generations.

use std::io;
use std::path::{Path, PathBuf};

use rt::fs::{self, File, OpenOptions};

use super::open::JOURNAL;
use crate::format::journal::JournalHeader;
use crate::format::superblock::Superblock;
use crate::journal::scan::{self, ScanError};
use crate::tables::{CRC_TABLE, META_TABLE};

/// Name of a journal that is not in use yet.
pub(crate) const NEXT: &str = "journal.next";

/// Where the journal of a superblock is in the directory that it names. With `repair`, what a crash left is put in order first.
///
/// # Errors
/// Those of the file system. A journal that is not there is none: the path is where it should be.
pub(crate) async fn find(dir: &Path, superblock: &Superblock, repair: bool) -> io::Result<PathBuf> {
    let (plain, next) = (dir.join(JOURNAL), dir.join(NEXT));
    if !fs::exists(&next).await? {
        return Ok(plain);
    }
    let is_it = |header: Option<JournalHeader>| {
        header.is_some_and(|header| {
            header.store_uuid == superblock.store_uuid && header.generation == superblock.journal_generation
        })
    };
    let (here, new) = (header(&plain).await?, header(&next).await?);
    if is_it(here) {
        // Made and never used; somebody who makes one now has its lock.
        if repair {
            remove_remnant(&next, superblock).await?;
        }
        return Ok(plain);
    }
    if !is_it(new) {
        // Neither can be used: whoever opens the one that is there says why, and both stay.
        return Ok(if fs::exists(&plain).await? { plain } else { next });
    }
    if !repair {
        return Ok(next);
    }
    fs::rename(&next, &plain).await?;
    fs::sync_dir(dir).await?;
    Ok(plain)
}

/// Removes journal and tables of the server from a directory that is not the one in use. What belongs to others, or is
/// locked, stays. Says whether nothing of the server is left.
///
/// # Errors
/// Those of the file system.
pub(crate) async fn clear(dir: &Path, superblock: &Superblock) -> io::Result<bool> {
    let mut ours = false;
    for name in [JOURNAL, NEXT] {
        let path = dir.join(name);
        match is_remnant(&path, superblock).await? {
            Remnant::Ours => ours = true,
            Remnant::Locked => return Ok(false),
            Remnant::Newer => {
                tracing::error!(
                    "{} is newer than this chunk server: it stays; is this a copy?",
                    path.display()
                );
                return Ok(false);
            }
            Remnant::No => {}
        }
    }
    if ours {
        for name in [META_TABLE, CRC_TABLE] {
            remove(&dir.join(name)).await?;
        }
        fs::sync_dir(dir).await?;
        // Last: they say whose the tables are.
        for name in [JOURNAL, NEXT] {
            remove_remnant(&dir.join(name), superblock).await?;
        }
        fs::sync_dir(dir).await?;
    }
    Ok(true)
}

/// Removes journal and tables that are known to be ours and of no use any more.
///
/// # Errors
/// Those of the file system.
pub(crate) async fn remove_files(dir: &Path) -> io::Result<()> {
    for names in [[META_TABLE, CRC_TABLE], [JOURNAL, NEXT]] {
        for name in names {
            remove(&dir.join(name)).await?;
        }
        // The journals go last, after a power cut as well: they say whose the tables are.
        fs::sync_dir(dir).await?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remnant {
    No,
    Ours,
    /// Somebody uses it: another server, or a killed one whose last operation has not ended.
    Locked,
    /// The journal in use of another state of this server, of which this one is an older copy (C10).
    Newer,
}

/// Whether a file is a journal of this server, or was to become one, and is not in use.
async fn is_remnant(path: &Path, superblock: &Superblock) -> io::Result<Remnant> {
    let file = match File::open(path, OpenOptions { direct: true, ..OpenOptions::read() }).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Remnant::No),
        Err(error) => return Err(error),
    };
    if !file.try_lock().await? {
        return Ok(Remnant::Locked);
    }
    let ours = match scan::read_header(&file).await {
        Ok((header, _)) if header.store_uuid == superblock.store_uuid && path.ends_with(JOURNAL) => {
            // It has this name only once a superblock has named it.
            if header.generation > superblock.journal_generation {
                return Ok(Remnant::Newer);
            }
            true
        }
        Ok((header, _)) => header.store_uuid == superblock.store_uuid,
        Err(ScanError::Io(error)) => return Err(error),
        // Its making was cut off before anything was in it.
        Err(_) => path.ends_with(NEXT),
    };
    Ok(if ours { Remnant::Ours } else { Remnant::No })
}

async fn remove_remnant(path: &Path, superblock: &Superblock) -> io::Result<()> {
    match is_remnant(path, superblock).await? {
        Remnant::Ours => remove(path).await,
        Remnant::No | Remnant::Locked | Remnant::Newer => Ok(()),
    }
}

async fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn header(path: &Path) -> io::Result<Option<JournalHeader>> {
    let file = match File::open(path, OpenOptions { direct: true, ..OpenOptions::read() }).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match scan::read_header(&file).await {
        Ok((header, _)) => Ok(Some(header)),
        Err(ScanError::Io(error)) => Err(error),
        Err(_) => Ok(None),
    }
}
