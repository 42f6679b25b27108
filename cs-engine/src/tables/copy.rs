//! Tables on their way to another directory, while they are in use.
//!
//! Every slot is copied; a slot that is changed meanwhile is noted and copied again. In the end, while nothing may change for
//! a moment, the last ones follow, and the copies take the place of the tables.
//!
//! **Invariant:** a change is noted when it is written and before the lock on changes falls.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::rc::Rc;

use rt::fs::{Allocation, File, OpenOptions};
use rt::sync::RangeGuard;

use super::{CRC_TABLE, Files, Found, META_TABLE, Tables, read_or_zero};
use crate::format::BLOCK;
use crate::format::table::{CRCS_PER_PAGE, META_SLOT, Place, SlotState};

/// Rounds of copying what was changed in the round before; what is left then is copied while changes wait.
const ROUNDS: usize = 4;
/// So few slots are copied while changes wait.
const FEW: usize = 64;

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
    /// Notes that a slot's copy would be out of date.
    pub(super) fn note_changed(&self, slot: u32) {
        if let Some(changed) = &mut *self.changed.borrow_mut() {
            changed.insert(slot);
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
    pub(crate) async fn copy_to(&self, dir: &Path, checksums: bool) -> io::Result<Copying<'_>> {
        let open = async |name| File::open(&dir.join(name), OpenOptions::direct().create_new()).await;
        let to = Rc::new(Files { meta: open(META_TABLE).await?, crc: open(CRC_TABLE).await? });
        self.changed.replace(Some(BTreeSet::new()));
        let copying = Copying { tables: self, to, checksums };
        for slot in 0..self.next_slot.get() {
            copying.copy_slot(slot).await?;
        }
        for _ in 0..ROUNDS {
            if self.changed.borrow().as_ref().is_none_or(|changed| changed.len() <= FEW) {
                break;
            }
            copying.copy_changed().await?;
        }
        Ok(copying)
    }
}

impl Copying<'_> {
    async fn copy_changed(&self) -> io::Result<()> {
        let changed = self.tables.changed.borrow_mut().as_mut().map(std::mem::take).unwrap_or_default();
        for slot in changed {
            self.copy_slot(slot).await?;
        }
        Ok(())
    }

    /// Both copies of a slot's header, and its pages if a chunk is there: of one that was nobody needs them.
    async fn copy_slot(&self, slot: u32) -> io::Result<()> {
        let from = self.tables.files();
        let at = Place::Meta { slot, copy: 0 }.offset();
        let headers = read_or_zero(&from.meta, META_SLOT as usize, at).await?;
        let found = self.tables.decode_header(slot, &headers).map_err(io::Error::other)?;
        self.to.meta.write_all_at(headers.freeze(), at).await?;
        let live = match found {
            Found::Header(found) if found.header.state == SlotState::Live => found.header,
            _ => return Ok(()),
        };
        if !self.checksums {
            return Ok(());
        }
        let pages = (live.size / BLOCK as u64).div_ceil(u64::from(CRCS_PER_PAGE));
        let bytes = pages * 2 * BLOCK as u64;
        let at = Place::CrcPage { slot, page: 0, copy: 0 }.offset();
        // Zeroes are written like anything else: a checkpoint must find the space (C13).
        self.to.crc.allocate(Allocation::Extend, at, bytes).await?;
        let pages = read_or_zero(&from.crc, bytes as usize, at).await?;
        self.to.crc.write_all_at(pages.freeze(), at).await
    }

    /// Copies what is left, durably. Their names are the caller's to make durable.
    ///
    /// # Errors
    /// Those of either device.
    pub(crate) async fn complete(&self, _still: &Still) -> io::Result<()> {
        self.copy_changed().await?;
        self.to.meta.sync_all().await?;
        self.to.crc.sync_all().await
    }

    /// Puts the copies in the place of the tables.
    pub(crate) fn adopt(self, _still: &Still) {
        self.tables.files.replace(Rc::clone(&self.to));
    }
}
