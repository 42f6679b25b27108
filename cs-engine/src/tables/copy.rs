//! Tables on their way to another directory, while they are in use.
//!
//! Every slot is copied; what is changed of a slot meanwhile is noted and copied again. In the end, while nothing may change
//! for a moment, the last of it follows, and the copies take the place of the tables.
//!
//! **Invariant:** a change is noted when it is written and before the lock on changes falls. **Invariant:** what cannot be read
//! is damaged in the copy, too, and never a hole.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::rc::Rc;

use rt::fs::{Allocation, File, OpenOptions};
use rt::sync::RangeGuard;

use super::{CRC_TABLE, Files, Found, META_TABLE, TableError, Tables};
use crate::format::BLOCK;
use crate::format::table::{CRCS_PER_PAGE, META_SLOT, PAGES_PER_CHUNK, Place, SlotState};
use crate::sectors::read_each;

/// Rounds of copying what was changed in the round before; what is left then is copied while changes wait.
const ROUNDS: usize = 4;
/// So few slots are copied while changes wait.
const FEW: usize = 64;

/// What of a slot was changed: a bit per page of checksums, and one for the header.
pub(super) type Parts = u32;

/// The header of a chunk that was there before.
pub(super) const HEADER: Parts = 1 << 31;
/// Everything.
pub(super) const ALL: Parts = Parts::MAX;

/// One page.
pub(super) const fn page(page: u32) -> Parts {
    1 << page
}

const _: () = assert!(PAGES_PER_CHUNK < 31);

/// Why tables could not be copied.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// The tables in use.
    From(io::Error),
    /// The copies.
    To(io::Error),
}

impl From<TableError> for CopyError {
    fn from(error: TableError) -> Self {
        Self::From(io::Error::other(error))
    }
}

/// Tables that are being copied; when it is dropped the copies are given up, and their files are the caller's to remove.
#[derive(Debug)]
pub(crate) struct Copying<'a> {
    tables: &'a Tables,
    to: Rc<Files>,
    checksums: bool,
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        self.tables.changed.take();
    }
}

/// As long as it lives nothing changes the tables.
#[derive(Debug)]
pub(crate) struct Still {
    _alone: RangeGuard,
}

impl Tables {
    /// Notes that the copy of parts of a slot would be out of date.
    pub(super) fn note_parts(&self, slot: u32, parts: Parts) {
        if let Some(changed) = &mut *self.changed.borrow_mut() {
            *changed.entry(slot).or_default() |= parts;
        }
    }

    /// Bytes that copies of the tables take.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) async fn bytes(&self) -> io::Result<u64> {
        let files = self.files();
        Ok(files.meta.len().await? + files.crc.allocated_bytes().await?)
    }

    /// Waits until nothing changes the tables, and lets nothing until the answer is dropped.
    pub(crate) async fn still(&self) -> Still {
        Still { _alone: self.changing.exclusive(0..1).await }
    }

    /// Copies the tables into new files in `dir`; little is left to do then. Without `checksums` their table is empty.
    ///
    /// # Errors
    /// Those of the file system, and of either device.
    pub(crate) async fn copy_to(&self, dir: &Path, checksums: bool) -> Result<Copying<'_>, CopyError> {
        let open = async |name| {
            let file = File::open(&dir.join(name), OpenOptions::direct().create_new()).await;
            file.map_err(CopyError::To)
        };
        let to = Rc::new(Files { meta: open(META_TABLE).await?, crc: open(CRC_TABLE).await? });
        self.changed.replace(Some(BTreeMap::new()));
        let copying = Copying { tables: self, to, checksums };
        for slot in 0..self.next_slot.get() {
            copying.copy_slot(slot, ALL).await?;
        }
        copying.catch_up().await?;
        Ok(copying)
    }
}

impl Copying<'_> {
    /// Copies what was changed since it was copied, until that is little or changes come as fast as they are copied.
    ///
    /// # Errors
    /// Those of either device.
    pub(crate) async fn catch_up(&self) -> Result<(), CopyError> {
        for _ in 0..ROUNDS {
            if self.tables.changed.borrow().as_ref().is_none_or(|changed| changed.len() <= FEW) {
                break;
            }
            self.copy_changed().await?;
        }
        Ok(())
    }

    async fn copy_changed(&self) -> Result<(), CopyError> {
        let changed = self.tables.changed.borrow_mut().as_mut().map(std::mem::take).unwrap_or_default();
        for (slot, parts) in changed {
            self.copy_slot(slot, parts).await?;
        }
        Ok(())
    }

    /// Both copies of a slot's header, and of its pages if a chunk is there: of one that was nobody needs them.
    async fn copy_slot(&self, slot: u32, parts: Parts) -> Result<(), CopyError> {
        let from = self.tables.files();
        let at = Place::Meta { slot, copy: 0 }.offset();
        let (headers, bad) = read_each(&from.meta, META_SLOT as usize, at).await.map_err(CopyError::From)?;
        if let [_, _] = bad[..] {
            // Who has lost its header has lost the chunk.
            let why = format!("no copy of the header in slot {slot} of {META_TABLE} can be read");
            return Err(CopyError::From(io::Error::other(why)));
        }
        let found = self.tables.decode_header(slot, &headers)?;
        self.to.meta.write_all_at(headers.freeze(), at).await.map_err(CopyError::To)?;
        let live = match found {
            Found::Header(found) if found.header.state == SlotState::Live => found.header,
            _ => return Ok(()),
        };
        if !self.checksums || parts == HEADER {
            return Ok(());
        }
        let pages = (live.size / BLOCK as u64).div_ceil(u64::from(CRCS_PER_PAGE)) as u32;
        if parts != ALL {
            for changed in (0..pages).filter(|index| parts & page(*index) != 0) {
                self.copy_pages(&from, slot, changed, 1).await?;
            }
            return Ok(());
        }
        let bytes = u64::from(pages) * 2 * BLOCK as u64;
        let at = Place::CrcPage { slot, page: 0, copy: 0 }.offset();
        // Zeroes are written like anything else: a checkpoint must find the space (C13).
        self.to.crc.allocate(Allocation::Extend, at, bytes).await.map_err(CopyError::To)?;
        self.copy_pages(&from, slot, 0, pages).await
    }

    async fn copy_pages(&self, from: &Files, slot: u32, first: u32, pages: u32) -> Result<(), CopyError> {
        let at = Place::CrcPage { slot, page: first, copy: 0 }.offset();
        let len = pages as usize * 2 * BLOCK;
        let (copies, bad) = read_each(&from.crc, len, at).await.map_err(CopyError::From)?;
        if !bad.is_empty() {
            tracing::error!(
                "{CRC_TABLE}, slot {slot}: {} blocks cannot be read; they stay damaged",
                bad.len()
            );
        }
        self.to.crc.write_all_at(copies.freeze(), at).await.map_err(CopyError::To)
    }

    /// Copies what is left, durably. Their names are the caller's to make durable.
    ///
    /// # Errors
    /// Those of either device.
    pub(crate) async fn complete(&self, _still: &Still) -> Result<(), CopyError> {
        let left = self.tables.changed.borrow().as_ref().map_or(0, BTreeMap::len);
        rt::sim::gauge("tables.slots-copied-in-the-end", left as u64);
        self.copy_changed().await?;
        self.to.meta.sync_all().await.map_err(CopyError::To)?;
        self.to.crc.sync_all().await.map_err(CopyError::To)
    }

    /// Puts the copies in the place of the tables.
    pub(crate) fn adopt(self, _still: &Still) {
        self.tables.files.replace(Rc::clone(&self.to));
    }
}
