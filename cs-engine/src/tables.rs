//! The tables at run time: slots of chunks and a bounded cache of checksum pages.
//!
//! Pages change only in a checkpoint; between two checkpoints what is newer lies in each chunk's block map and in the
//! journal.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::rc::Rc;

use rt::buf::{Buf, View};
use rt::collections::FixedMap;
use rt::fs::{File, OpenOptions};

use crate::format::block::BlockState;
use crate::format::table::{
    CRC_SLOT, CRCS_PER_PAGE, ChunkHeader, CrcPage, META_SLOT, PAGES_PER_CHUNK, Place, SlotState, newer,
};
use crate::format::{BLOCK, FormatError};

/// Names of the table files.
pub const META_TABLE: &str = "meta.table";
/// See [`META_TABLE`].
pub const CRC_TABLE: &str = "crc.table";

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The device.
    #[error("cannot access the {table}: {error}")]
    Io {
        /// The file.
        table: &'static str,
        /// What happened.
        #[source]
        error: io::Error,
    },
    /// Both copies of a chunk's header are bad.
    #[error("slot {slot} of {META_TABLE}: {why}")]
    Header {
        /// The slot.
        slot: u32,
        /// The first copy's error.
        why: FormatError,
    },
    /// Both copies of a checksum page are bad.
    #[error("checksum page {page} of slot {slot}: {why}")]
    Page {
        /// The slot.
        slot: u32,
        /// The page.
        page: u32,
        /// The first copy's error.
        why: FormatError,
    },
}

/// A cached page and the copy it was read from.
#[derive(Debug)]
pub struct CachedPage {
    page: RefCell<CrcPage>,
    copy: Cell<u8>,
    used: Cell<bool>,
}

/// The tables of a running server.
#[derive(Debug)]
pub struct Tables {
    meta: File,
    crc: File,
    store_uuid: [u8; 16],
    pages_max: usize,
    pages: RefCell<FixedMap<(u32, u32), Rc<CachedPage>>>,
    clock: RefCell<VecDeque<(u32, u32)>>,
    free: RefCell<BTreeSet<u32>>,
    next_slot: Cell<u32>,
}

/// A chunk found in the tables.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Its slot.
    pub slot: u32,
    /// Which copy of the header is current.
    pub copy: u8,
    /// The header.
    pub header: ChunkHeader,
}

impl Tables {
    /// Makes empty tables.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn create(dir: &Path) -> io::Result<()> {
        for name in [META_TABLE, CRC_TABLE] {
            File::open(&dir.join(name), OpenOptions::direct().create_new()).await?.sync_all().await?;
        }
        Ok(())
    }

    /// Opens the tables and reads every chunk header.
    ///
    /// # Errors
    /// [`TableError`].
    pub async fn open(dir: &Path, store_uuid: [u8; 16], pages_max: usize) -> Result<(Self, Vec<Slot>), TableError> {
        let meta = open_table(dir, META_TABLE).await?;
        let crc = open_table(dir, CRC_TABLE).await?;
        let len = meta.len().await.map_err(|error| TableError::Io { table: META_TABLE, error })?;
        let slots = u32::try_from(len.div_ceil(META_SLOT)).unwrap_or(u32::MAX);
        let tables = Self {
            meta,
            crc,
            store_uuid,
            pages_max: pages_max.max(16),
            pages: RefCell::default(),
            clock: RefCell::default(),
            free: RefCell::default(),
            next_slot: Cell::new(slots),
        };
        let found = tables.read_headers(slots).await?;
        Ok((tables, found))
    }

    async fn read_headers(&self, slots: u32) -> Result<Vec<Slot>, TableError> {
        let io = |error| TableError::Io { table: META_TABLE, error };
        let mut found = Vec::new();
        const AT_ONCE: u32 = 128;
        for first in (0..slots).step_by(AT_ONCE as usize) {
            let count = AT_ONCE.min(slots - first);
            let buf = Buf::zeroed(count as usize * META_SLOT as usize);
            let (result, buf) = self.meta.read_at(buf, u64::from(first) * META_SLOT).await;
            let len = result.map_err(io)?;
            for (index, pair) in buf[..len].chunks(META_SLOT as usize).enumerate() {
                let slot = first + index as u32;
                match self.decode_header(pair) {
                    Ok((header, copy)) if header.state == SlotState::Live => found.push(Slot { slot, copy, header }),
                    Ok(_) | Err(FormatError::Magic { .. }) => {
                        self.free.borrow_mut().insert(slot);
                    }
                    Err(why) => return Err(TableError::Header { slot, why }),
                }
            }
        }
        Ok(found)
    }

    fn decode_header(&self, pair: &[u8]) -> Result<(ChunkHeader, u8), FormatError> {
        let decode = |copy: usize| match pair.get(copy * BLOCK..).and_then(|bytes| bytes.first_chunk::<BLOCK>()) {
            Some(block) => ChunkHeader::decode(block, &self.store_uuid),
            None => Err(FormatError::Magic { structure: "chunk header" }),
        };
        // A slot whose only written copy is torn was never answered: it counts as free, as if unwritten.
        newer([decode(0), decode(1)], |header| header.sequence).map_err(|errors| match errors {
            [FormatError::Magic { .. }, _] | [_, FormatError::Magic { .. }] => {
                FormatError::Magic { structure: "chunk header" }
            }
            [first, _] => first,
        })
    }

    /// Finds a slot for a new chunk. It is taken at once and given back by [`Tables::release`].
    pub fn reserve_slot(&self) -> u32 {
        if let Some(slot) = self.free.borrow_mut().pop_first() {
            return slot;
        }
        let slot = self.next_slot.get();
        self.next_slot.set(slot + 1);
        slot
    }

    /// Gives a slot back.
    pub fn release(&self, slot: u32) {
        self.pages.borrow_mut().retain(|&(of, _), _| of != slot);
        self.clock.borrow_mut().retain(|&(of, _)| of != slot);
        self.free.borrow_mut().insert(slot);
    }

    /// Writes a chunk's header durably into the copy that is not `current`; gives the copy.
    ///
    /// # Errors
    /// [`TableError::Io`].
    pub async fn write_header(&self, slot: u32, current: u8, header: &ChunkHeader) -> Result<u8, TableError> {
        let copy = 1 - current;
        let at = Place::Meta { slot, copy }.offset();
        let io = |error| TableError::Io { table: META_TABLE, error };
        self.meta.write_all_at(View::copy_of(&header.encode(&self.store_uuid)), at).await.map_err(io)?;
        self.meta.sync_data().await.map_err(io)?;
        Ok(copy)
    }

    async fn page(&self, slot: u32, chunk: u64, page: u32) -> Result<Rc<CachedPage>, TableError> {
        let cached = self.pages.borrow().get(&(slot, page)).map(Rc::clone);
        if let Some(cached) = cached {
            cached.used.set(true);
            return Ok(cached);
        }
        let (page_read, copy) = self.read_page(slot, chunk, page).await?;
        // Another task may have read it meanwhile; there must be one cached page only.
        if let Some(cached) = self.pages.borrow().get(&(slot, page)) {
            return Ok(Rc::clone(cached));
        }
        self.evict();
        let cached =
            Rc::new(CachedPage { page: RefCell::new(page_read), copy: Cell::new(copy), used: Cell::new(true) });
        self.pages.borrow_mut().insert((slot, page), Rc::clone(&cached));
        self.clock.borrow_mut().push_back((slot, page));
        Ok(cached)
    }

    /// Makes room by the second-chance rule.
    fn evict(&self) {
        let (mut pages, mut clock) = (self.pages.borrow_mut(), self.clock.borrow_mut());
        let mut turns = 2 * clock.len();
        while pages.len() >= self.pages_max && turns > 0 {
            turns -= 1;
            let Some(key) = clock.pop_front() else { return };
            match pages.get(&key) {
                Some(page) if page.used.replace(false) || Rc::strong_count(page) > 1 => clock.push_back(key),
                _ => {
                    pages.remove(&key);
                }
            }
        }
    }

    async fn read_page(&self, slot: u32, chunk: u64, page: u32) -> Result<(CrcPage, u8), TableError> {
        let at = Place::CrcPage { slot, page, copy: 0 }.offset();
        let (result, buf) = self.crc.read_at(Buf::zeroed(2 * BLOCK), at).await;
        let len = result.map_err(|error| TableError::Io { table: CRC_TABLE, error })?;
        let decode = |copy: usize| match buf[..len].get(copy * BLOCK..).and_then(|bytes| bytes.first_chunk::<BLOCK>()) {
            Some(block) => CrcPage::decode(block, &self.store_uuid),
            None => Err(FormatError::Magic { structure: "checksum page" }),
        };
        match newer([decode(0), decode(1)], |page| page.sequence) {
            // The page of a chunk that had this slot before: for this chunk nothing was written yet.
            Ok((found, copy)) if found.chunk != chunk || found.page != page => {
                Ok((CrcPage { sequence: found.sequence, ..CrcPage::holes(chunk, page) }, copy))
            }
            Ok(found) => Ok(found),
            Err([FormatError::Magic { .. }, _] | [_, FormatError::Magic { .. }]) => {
                // Never written, or its very first write was cut off: the journal still has what it would say.
                Ok((CrcPage::holes(chunk, page), 1))
            }
            Err([why, _]) => Err(TableError::Page { slot, page, why }),
        }
    }

    /// What the table says of `blocks` of a chunk.
    ///
    /// # Errors
    /// [`TableError`].
    pub async fn states(
        &self,
        slot: u32,
        chunk: u64,
        blocks: std::ops::Range<u32>,
    ) -> Result<Vec<BlockState>, TableError> {
        let mut states = Vec::with_capacity(blocks.len());
        let mut block = blocks.start;
        while block < blocks.end {
            let page = self.page(slot, chunk, block / CRCS_PER_PAGE).await?;
            let end = blocks.end.min((block / CRCS_PER_PAGE + 1) * CRCS_PER_PAGE);
            let page = page.page.borrow();
            states.extend((block..end).map(|b| BlockState::from_raw(page.entries[(b % CRCS_PER_PAGE) as usize])));
            block = end;
        }
        Ok(states)
    }

    /// As [`Tables::states`] if every page is cached, without waiting.
    #[must_use]
    pub fn states_cached(&self, slot: u32, blocks: std::ops::Range<u32>) -> Option<Vec<BlockState>> {
        let pages = self.pages.borrow();
        let mut states = Vec::with_capacity(blocks.len());
        for block in blocks {
            let page = pages.get(&(slot, block / CRCS_PER_PAGE))?;
            page.used.set(true);
            states.push(BlockState::from_raw(page.page.borrow().entries[(block % CRCS_PER_PAGE) as usize]));
        }
        Some(states)
    }

    /// Writes new states of blocks of one chunk into its pages (the older copies); durable after [`Tables::sync`].
    ///
    /// # Errors
    /// [`TableError`].
    pub async fn update(&self, slot: u32, chunk: u64, changes: &[(u32, BlockState)]) -> Result<(), TableError> {
        for same_page in changes.chunk_by(|a, b| a.0 / CRCS_PER_PAGE == b.0 / CRCS_PER_PAGE) {
            let index = same_page[0].0 / CRCS_PER_PAGE;
            let cached = self.page(slot, chunk, index).await?;
            let (bytes, copy) = {
                let mut page = cached.page.borrow_mut();
                for (block, state) in same_page {
                    page.entries[(block % CRCS_PER_PAGE) as usize] = state.to_raw();
                }
                page.sequence += 1;
                (View::copy_of(&page.encode(&self.store_uuid)), 1 - cached.copy.get())
            };
            let at = Place::CrcPage { slot, page: index, copy }.offset();
            self.crc.write_all_at(bytes, at).await.map_err(|error| TableError::Io { table: CRC_TABLE, error })?;
            cached.copy.set(copy);
        }
        Ok(())
    }

    /// Makes updates durable.
    ///
    /// # Errors
    /// [`TableError::Io`].
    pub async fn sync(&self) -> Result<(), TableError> {
        self.crc.sync_data().await.map_err(|error| TableError::Io { table: CRC_TABLE, error })
    }

    /// Bytes the tables need for one more chunk.
    #[must_use]
    pub const fn bytes_per_chunk() -> u64 {
        CRC_SLOT + META_SLOT
    }
}

const _: () = assert!(PAGES_PER_CHUNK < 32);

async fn open_table(dir: &Path, table: &'static str) -> Result<File, TableError> {
    File::open(&dir.join(table), OpenOptions::direct()).await.map_err(|error| TableError::Io { table, error })
}
