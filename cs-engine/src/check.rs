//! `vstorage-csd check`: walks a stopped chunk server and reports every inconsistency.
//!
//! Superblock → journal → headers of the chunks → files that belong to no chunk → per chunk its records, its file, its
//! checksum pages, its content. What a block must be is decided from the journal by the pure functions that recovery
//! uses ([`crate::engine::recovery`]), so that the check of a killed server expects exactly what its next start will make of it.
//!
//! **Invariant:** nothing is written; every file is opened for reading only. **Invariant:** a running server is never
//! looked at: the check holds the same locks.
//!
//! Holes are told from the tables and not read, so that the work is proportional to the data. In memory at a time: the
//! headers of all chunks, what the journal says, and a few MiB of one chunk.

mod chunks;
mod disk;
mod identity;
mod pages;
mod report;
mod slots;

use std::path::{Path, PathBuf};

use crate::engine::OpenError;
use crate::engine::history::{History, Life};
use crate::engine::recovery::Crash;
use crate::format::BLOCK;
use crate::format::superblock::Superblock;
use crate::journal::scan::Scanned;

pub use report::{FINDINGS_MAX, Finding, Problem, Report};

/// How far a check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of chunks checked or skipped as holes.
    pub done: u64,
    /// Bytes of all chunks.
    pub total: u64,
}

impl Progress {
    /// In percent; 100 when there is nothing to do.
    #[must_use]
    pub fn percent(self) -> u64 {
        (self.done * 100).checked_div(self.total).unwrap_or(100)
    }
}

/// What the parts of a check know of the server.
struct Context<'a> {
    dir: &'a Path,
    superblock: &'a Superblock,
    /// Directory of journal and tables.
    meta_dir: PathBuf,
}

impl Context<'_> {
    /// Whether a power cut may leave a block half written.
    fn tears(&self) -> bool {
        !self.superblock.block_atomic
    }

    fn io(&self, error: std::io::Error) -> OpenError {
        OpenError::Io { dir: self.dir.to_owned(), error }
    }
}

/// Checks the chunk server in `dir`, whose daemon does not run.
///
/// # Errors
/// [`OpenError`] when there is nothing to check or it cannot be checked: no chunk server, a daemon holds it, it was
/// written by a later release, no permission. Whatever is wrong on the disk itself is in the report.
pub async fn run(dir: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Report, OpenError> {
    let mut report = Report { dir: dir.to_owned(), ..Report::default() };
    let superblock_file = identity::lock(dir).await?;
    let Some(superblock) = identity::check_superblock(dir, &superblock_file, &mut report).await? else {
        return Ok(report);
    };
    report.cs_id = superblock.cs_id;
    report.cluster.clone_from(&superblock.cluster_name);
    let context = Context {
        dir,
        superblock: &superblock,
        meta_dir: superblock.journal_dir.clone().unwrap_or_else(|| dir.to_owned()),
    };
    let journal = identity::check_journal(&context, &mut report).await?;
    let slots = slots::check(&context, &mut report).await?;
    let chunks = slots::live(&context, &slots, &mut report);
    report.chunks = chunks.len() as u64;
    let life = |chunk: u64| {
        let header = &chunks.get(&chunk)?.header;
        Some(Life { born: header.born, blocks: (header.size / BLOCK as u64) as u32 })
    };
    let kept = rt::node::boot_id().map_err(|error| context.io(error))? == superblock.boot_id;
    let known = journal.map(|(file, scanned)| {
        let Scanned { header, records, position, .. } = scanned;
        chunks::check_records(&context, &header, &records, &chunks, &mut report);
        chunks::check_births(&context, position.next, &chunks, &mut report);
        let crash = Crash { durable: position.durable, kept };
        let known = chunks::Known { history: History::read(&records, life), crash };
        (file, known)
    });
    report.contents_checked = known.is_some();
    chunks::check_strays(&context, &chunks, &mut report).await?;
    let known = known.as_ref().map(|(_locked, known)| known);
    let mut walk = chunks::Walk::new(&context, known, &mut report).await?;
    let mut at = Progress { done: 0, total: chunks.values().map(|slot| slot.header.size).sum() };
    for slot in chunks.values() {
        progress(at);
        walk.chunk(slot, &mut |bytes| progress(Progress { done: at.done + bytes, ..at })).await?;
        at.done += slot.header.size;
    }
    progress(at);
    Ok(report)
}
