//! The tables at run time: slots of chunks and a bounded cache of checksum pages.
//!
//! Pages change only in a checkpoint; between two checkpoints what is newer lies in each chunk's block map and in the
//! journal. An update writes the copy of a page that is not the current one; a page that was never written gets its
//! first copy, and after a flush the second one, so that from then on one damaged copy is never the only one.

mod copy;

pub(crate) use copy::CopyError;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rt::buf::{Buf, View};
use rt::collections::FixedMap;
use rt::fs::{Allocation, File, OpenOptions};
use rt::sync::RangeLock;

use crate::format::block::BlockState;
use crate::format::table::{
    CRC_SLOT, CRCS_PER_PAGE, ChunkHeader, CrcPage, META_SLOT, PAGES_PER_CHUNK, Place, SlotState, newer,
};
use crate::format::{BLOCK, FormatError};
use crate::sectors::read_each;

/// Names of the table files.
pub const META_TABLE: &str = "meta.table";
/// See [`META_TABLE`].
pub const CRC_TABLE: &str = "crc.table";

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The device.
    #[error("cannot access {table}: {error}")]
    Io {
        /// The file.
        table: &'static str,
        /// What happened.
        #[source]
        error: io::Error,
    },
    /// A chunk's header was written by another release, or no copy of it can be read.
    #[error("slot {slot} of {META_TABLE}: {why}")]
    Header {
        /// The slot.
        slot: u32,
        /// What is wrong.
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

/// How often, and after which pause, a page that the device does not give is asked for again before it is made anew: a path that
/// fails over comes back.
const UNREADABLE_TRIES: u32 = 4;
const UNREADABLE_PAUSE: Duration = Duration::from_millis(500);

fn crc_io(error: io::Error) -> TableError {
    TableError::Io { table: CRC_TABLE, error }
}

fn meta_io(error: io::Error) -> TableError {
    TableError::Io { table: META_TABLE, error }
}

/// Whose pages lie in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The slot.
    pub slot: u32,
    /// The chunk.
    pub chunk: u64,
    /// Its life, as in its header: pages of an earlier one count for nothing.
    pub born: u64,
}

/// A cached page and the copy it was read from.
#[derive(Debug)]
struct CachedPage {
    page: RefCell<CrcPage>,
    copy: Cell<u8>,
    /// No copy on disk is of this life of the chunk.
    unwritten: Cell<bool>,
    used: Cell<bool>,
}

impl CachedPage {
    /// Whoever asks for a chunk that has gone may have put its page here after the slot was given back.
    fn is_of(&self, owner: Owner) -> bool {
        let page = self.page.borrow();
        (page.chunk, page.born) == (owner.chunk, owner.born)
    }
}

/// The files of the tables.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) meta: File,
    pub(crate) crc: File,
}

/// The tables of a running server.
#[derive(Debug)]
pub struct Tables {
    files: RefCell<Rc<Files>>,
    /// Shared by all that change the tables, exclusive for whoever puts others in their place.
    changing: RangeLock,
    /// What was changed since it was copied by slot, while the tables are being copied.
    changed: RefCell<Option<BTreeMap<u32, copy::Parts>>>,
    store_uuid: [u8; 16],
    pages_max: usize,
    pages: RefCell<FixedMap<(u32, u32), Rc<CachedPage>>>,
    clock: RefCell<VecDeque<(u32, u32)>>,
    /// Reading and updating a page exclude each other: there is one truth about each.
    page_locks: RangeLock,
    /// Pages whose very first write may have been cut off by a crash.
    unborn: RefCell<BTreeSet<(u32, u32)>>,
    /// Pages that were written for the first time since the last [`Tables::sync`], and in which copy.
    fresh: RefCell<BTreeMap<(u32, u32), u8>>,
    /// Free slots, with the sequence number of the header that is in each.
    free: RefCell<BTreeMap<u32, u64>>,
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

/// What a new chunk needs in the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// Its blocks.
    pub(crate) blocks: u32,
    /// Checksums are kept.
    pub(crate) checksums: bool,
    /// Another chunk had the slot before.
    pub(crate) reused: bool,
}

/// Space for a new chunk in the tables that were in use when it was asked for.
#[derive(Debug)]
pub(crate) struct Allocated {
    slot: u32,
    space: Space,
    files: Rc<Files>,
}

/// What lies in a slot of the table of headers.
#[derive(Clone, Debug)]
pub enum Found {
    /// A chunk, or one that was: its state says so.
    Header(Slot),
    /// Nothing was ever written.
    Nothing,
    /// Both copies are damaged: whatever chunk was here is lost.
    Lost(FormatError),
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

    /// Opens the tables and reads every chunk header; slots whose header is damaged are left out of use.
    ///
    /// # Errors
    /// [`TableError`].
    pub async fn open(
        dir: &Path,
        store_uuid: [u8; 16],
        pages_max: usize,
        write: bool,
    ) -> Result<(Self, Vec<(u32, Found)>), TableError> {
        let options = OpenOptions { write, ..OpenOptions::direct() };
        let meta = File::open(&dir.join(META_TABLE), options).await.map_err(meta_io)?;
        let crc = File::open(&dir.join(CRC_TABLE), options).await.map_err(crc_io)?;
        let len = meta.len().await.map_err(meta_io)?;
        let slots = u32::try_from(len.div_ceil(META_SLOT)).unwrap_or(u32::MAX);
        let tables = Self {
            files: RefCell::new(Rc::new(Files { meta, crc })),
            changing: RangeLock::new(),
            changed: RefCell::default(),
            store_uuid,
            pages_max: pages_max.max(16),
            pages: RefCell::default(),
            clock: RefCell::default(),
            page_locks: RangeLock::new(),
            unborn: RefCell::default(),
            fresh: RefCell::default(),
            free: RefCell::default(),
            next_slot: Cell::new(slots),
        };
        let found = tables.read_headers(slots).await?;
        Ok((tables, found))
    }

    /// Makes durable what [`Tables::open`] found: a server that was killed may have left it in the disk's volatile cache
    /// only, where a power cut takes it back.
    ///
    /// # Errors
    /// [`TableError::Io`].
    pub async fn commit_found(&self) -> Result<(), TableError> {
        self.files().meta.sync_data().await.map_err(meta_io)?;
        self.files().crc.sync_data().await.map_err(crc_io)
    }

    async fn read_headers(&self, slots: u32) -> Result<Vec<(u32, Found)>, TableError> {
        const AT_ONCE: u32 = 128;
        let mut all = Vec::new();
        for first in (0..slots).step_by(AT_ONCE as usize) {
            let count = AT_ONCE.min(slots - first);
            let len = count as usize * META_SLOT as usize;
            let at = u64::from(first) * META_SLOT;
            let (buf, bad) = read_each(&self.files().meta, len, at).await.map_err(meta_io)?;
            for &index in &bad {
                let slot = first + index as u32 / 2;
                tracing::error!(
                    "slot {slot} of {META_TABLE}: copy {} of its header cannot be read",
                    index % 2
                );
            }
            for (slot, pair) in (first..).zip(buf.chunks_exact(META_SLOT as usize)) {
                let found = self.decode_header(slot, pair)?;
                let index = 2 * (slot - first) as usize;
                if matches!(found, Found::Lost(_)) && (bad.contains(&index) || bad.contains(&(index + 1))) {
                    // It may be readable the next time; by then the journal would have forgotten the chunk (C4).
                    return Err(TableError::Header {
                        slot,
                        why: FormatError::Unreadable { structure: "chunk header" },
                    });
                }
                match &found {
                    Found::Header(Slot { header, .. }) if header.state == SlotState::Live => {}
                    Found::Header(Slot { header, .. }) => {
                        self.free.borrow_mut().insert(slot, header.sequence);
                    }
                    Found::Nothing => {
                        self.free.borrow_mut().insert(slot, 0);
                    }
                    Found::Lost(why) => {
                        tracing::error!("slot {slot} of {META_TABLE}: {why}; its replica is lost")
                    }
                }
                all.push((slot, found));
            }
        }
        Ok(all)
    }

    fn decode_header(&self, slot: u32, pair: &[u8]) -> Result<Found, TableError> {
        let copies = pair.as_chunks::<BLOCK>().0;
        let decoded = [
            ChunkHeader::decode(&copies[0], &self.store_uuid),
            ChunkHeader::decode(&copies[1], &self.store_uuid),
        ];
        if let Some(&Err(why @ (FormatError::Version { .. } | FormatError::Features { .. }))) = decoded
            .iter()
            .find(|copy| matches!(copy, Err(FormatError::Version { .. } | FormatError::Features { .. })))
        {
            return Err(TableError::Header { slot, why });
        }
        Ok(match newer(decoded, |header| header.sequence) {
            Ok((header, copy)) => Found::Header(Slot { slot, copy, header }),
            // Copy 0 is written first, then copy 1: with copy 1 untouched, copy 0 is either untouched or torn by a crash
            // in the creation of a chunk, which nobody was told of.
            Err([_, FormatError::Magic { .. }]) => Found::Nothing,
            Err([why, _]) => Found::Lost(why),
        })
    }

    /// Finds a slot for a new chunk, and the least sequence number its header must have. It is taken at once and given
    /// back by [`Tables::release`].
    pub fn reserve_slot(&self) -> (u32, u64) {
        if let Some((slot, sequence)) = self.free.borrow_mut().pop_first() {
            return (slot, sequence + 1);
        }
        let slot = self.next_slot.get();
        self.next_slot.set(slot + 1);
        (slot, 1)
    }

    /// Allocates the space of a slot's header and, if they are kept, of the checksums of `blocks` blocks, so that a
    /// checkpoint never finds the disk full (C13). Its header is to be written with [`Tables::write_first_header`].
    ///
    /// # Errors
    /// `StorageFull`, or those of the device.
    pub(crate) async fn allocate(&self, slot: u32, space: Space) -> Result<Allocated, TableError> {
        let _changing = self.changing.shared(0..1).await;
        self.allocate_here(slot, space).await?;
        Ok(Allocated { slot, space, files: self.files() })
    }

    /// As [`Tables::allocate`], with the lock on changes held.
    async fn allocate_here(&self, slot: u32, space: Space) -> Result<(), TableError> {
        let Space { blocks, checksums, reused } = space;
        let meta = Place::Meta { slot, copy: 0 }.offset();
        self.files().meta.allocate(Allocation::Extend, meta, META_SLOT).await.map_err(meta_io)?;
        if checksums {
            let bytes = u64::from(blocks.div_ceil(CRCS_PER_PAGE)) * 2 * BLOCK as u64;
            let from = Place::CrcPage { slot, page: 0, copy: 0 }.offset();
            self.files().crc.allocate(Allocation::Extend, from, bytes).await.map_err(crc_io)?;
            if reused {
                self.clear_damage(slot, blocks.div_ceil(CRCS_PER_PAGE)).await?;
            }
            // A power cut may take an allocation along that no flush has committed.
            self.files().crc.sync_data().await.map_err(crc_io)?;
        }
        self.note_parts(slot, copy::ALL);
        Ok(())
    }

    /// Makes copies of pages that a slot's last chunk left damaged count as never written: of the new chunk they can say
    /// nothing, but would cast doubt on it. Durable with the next flush of the table.
    async fn clear_damage(&self, slot: u32, pages: u32) -> Result<(), TableError> {
        for page in 0..pages {
            for (copy, found) in (0..).zip(self.copies(slot, page).await?) {
                if damage(&found).is_some() {
                    let at = Place::CrcPage { slot, page, copy }.offset();
                    self.files().crc.write_all_at(Buf::zeroed(BLOCK).freeze(), at).await.map_err(crc_io)?;
                }
            }
        }
        Ok(())
    }

    /// Gives a slot back whose header has this sequence number.
    pub fn release(&self, slot: u32, sequence: u64) {
        let of_others = |of: u32| of != slot;
        self.pages.borrow_mut().retain(|&(of, _), _| of_others(of));
        self.clock.borrow_mut().retain(|&(of, _)| of_others(of));
        self.unborn.borrow_mut().retain(|&(of, _)| of_others(of));
        self.fresh.borrow_mut().retain(|&(of, _), _| of_others(of));
        self.free.borrow_mut().insert(slot, sequence);
    }

    /// Writes the first header of a chunk durably into both copies, copy 0 first. Other tables may have come into their place
    /// since its space was allocated: then it is allocated there as well.
    ///
    /// # Errors
    /// `StorageFull`: nothing was written; those of the device.
    pub(crate) async fn write_first_header(
        &self,
        allocated: Allocated,
        header: &ChunkHeader,
    ) -> Result<(), TableError> {
        let _changing = self.changing.shared(0..1).await;
        let Allocated { slot, space, files } = allocated;
        if !Rc::ptr_eq(&files, &self.files()) {
            rt::sim::hit("tables.allocated-again");
            self.allocate_here(slot, space).await?;
        }
        self.write_both(slot, 1, header).await
    }

    /// Writes a chunk's header durably into both copies, the one that is not `current` first.
    ///
    /// # Errors
    /// [`TableError::Io`].
    pub async fn write_header(&self, slot: u32, current: u8, header: &ChunkHeader) -> Result<(), TableError> {
        let _changing = self.changing.shared(0..1).await;
        self.write_both(slot, current, header).await
    }

    async fn write_both(&self, slot: u32, current: u8, header: &ChunkHeader) -> Result<(), TableError> {
        let bytes = View::copy_of(&header.encode(&self.store_uuid));
        for copy in [1 - current, current] {
            let at = Place::Meta { slot, copy }.offset();
            self.files().meta.write_all_at(bytes.clone(), at).await.map_err(meta_io)?;
            self.files().meta.sync_data().await.map_err(meta_io)?;
        }
        self.note_parts(slot, copy::ALL);
        Ok(())
    }

    /// Writes headers of many slots durably, each given with its current copy: the other copies first, then these.
    ///
    /// # Errors
    /// [`TableError::Io`].
    pub async fn write_headers(&self, headers: &[(u32, u8, ChunkHeader)]) -> Result<(), TableError> {
        if headers.is_empty() {
            return Ok(());
        }
        let _changing = self.changing.shared(0..1).await;
        for current in [false, true] {
            for (slot, copy, header) in headers {
                let copy = if current { *copy } else { 1 - copy };
                let at = Place::Meta { slot: *slot, copy }.offset();
                let bytes = View::copy_of(&header.encode(&self.store_uuid));
                self.files().meta.write_all_at(bytes, at).await.map_err(meta_io)?;
            }
            self.files().meta.sync_data().await.map_err(meta_io)?;
        }
        headers.iter().for_each(|(slot, ..)| self.note_parts(*slot, copy::HEADER));
        Ok(())
    }

    /// Says that a page's first write may have been cut off: if it is torn, it counts as never written, because
    /// the journal has all that it would say.
    pub fn expect_unborn(&self, slot: u32, page: u32) {
        self.unborn.borrow_mut().insert((slot, page));
    }

    pub(crate) fn files(&self) -> Rc<Files> {
        Rc::clone(&self.files.borrow())
    }

    fn lock_key(slot: u32, page: u32) -> Range<u64> {
        let key = u64::from(slot) * u64::from(PAGES_PER_CHUNK) + u64::from(page);
        key..key + 1
    }

    fn cached(&self, owner: Owner, page: u32) -> Option<Rc<CachedPage>> {
        let pages = self.pages.borrow();
        let cached = pages.get(&(owner.slot, page)).filter(|cached| cached.is_of(owner))?;
        cached.used.set(true);
        Some(Rc::clone(cached))
    }

    async fn page(&self, owner: Owner, page: u32) -> Result<Rc<CachedPage>, TableError> {
        if let Some(cached) = self.cached(owner, page) {
            return Ok(cached);
        }
        let _locked = self.page_locks.exclusive(Self::lock_key(owner.slot, page)).await;
        self.page_locked(owner, page).await
    }

    async fn page_locked(&self, owner: Owner, page: u32) -> Result<Rc<CachedPage>, TableError> {
        if let Some(cached) = self.cached(owner, page) {
            return Ok(cached);
        }
        let (found, copy, unwritten) = self.read_page(owner, page).await?;
        Ok(self.keep(owner, page, found, copy, unwritten))
    }

    /// In the place of a page of which no copy is good: what is written from now on is known, all else is lost until it is
    /// repaired, written or discarded (C8).
    async fn page_anew(
        &self,
        owner: Owner,
        page: u32,
        why: FormatError,
    ) -> Result<Rc<CachedPage>, TableError> {
        let (slot, lost) = (owner.slot, BlockState::Lost.to_raw());
        let mut copies = self.copies(slot, page).await?;
        let unreadable = |copies: &[Result<CrcPage, FormatError>; 2]| {
            copies.iter().any(|copy| matches!(copy, Err(FormatError::Unreadable { .. })))
        };
        for _ in 0..UNREADABLE_TRIES {
            // What can be read now was only out of reach.
            match self.read_page(owner, page).await {
                Ok((found, copy, unwritten)) => return Ok(self.keep(owner, page, found, copy, unwritten)),
                Err(TableError::Page { .. }) if unreadable(&copies) => {
                    rt::time::sleep(UNREADABLE_PAUSE).await
                }
                Err(TableError::Page { .. }) => break,
                Err(error) => return Err(error),
            }
            copies = self.copies(slot, page).await?;
        }
        if copies.iter().any(|copy| copy.is_err() && damage(copy).is_none() && !is_blank(copy)) {
            // Of a later release: it is not for this one to write over.
            return Err(TableError::Page { slot, page, why });
        }
        tracing::error!("checksum page {page} of slot {slot}: {why}; made anew, without what it said");
        rt::sim::hit("tables.page-anew");
        // A good copy is of an earlier life: what is written counts beside it, and takes the place of the bad one first.
        let stays = copies.iter().position(Result::is_ok);
        let sequence = copies.iter().flatten().map(|page| page.sequence).max().unwrap_or(0);
        let mut found = CrcPage { sequence, ..CrcPage::holes(owner.chunk, owner.born, page) };
        found.entries.fill(lost);
        Ok(self.keep(owner, page, found, stays.unwrap_or(1) as u8, true))
    }

    /// Puts a page into the cache.
    fn keep(&self, owner: Owner, page: u32, found: CrcPage, copy: u8, unwritten: bool) -> Rc<CachedPage> {
        self.evict();
        let cached = Rc::new(CachedPage {
            page: RefCell::new(found),
            copy: Cell::new(copy),
            unwritten: Cell::new(unwritten),
            used: Cell::new(true),
        });
        self.pages.borrow_mut().insert((owner.slot, page), Rc::clone(&cached));
        self.clock.borrow_mut().push_back((owner.slot, page));
        cached
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

    /// Both copies of a page as they are on disk.
    ///
    /// # Errors
    /// [`TableError::Io`].
    pub async fn copies(
        &self,
        slot: u32,
        page: u32,
    ) -> Result<[Result<CrcPage, FormatError>; 2], TableError> {
        let at = Place::CrcPage { slot, page, copy: 0 }.offset();
        let files = self.files();
        let (buf, bad) = read_each(&files.crc, 2 * BLOCK, at).await.map_err(crc_io)?;
        let blocks = buf.as_chunks::<BLOCK>().0;
        Ok([0, 1].map(|copy| match CrcPage::decode(&blocks[copy], &self.store_uuid) {
            Err(_) if bad.contains(&copy) => Err(FormatError::Unreadable { structure: "checksum page" }),
            decoded => decoded,
        }))
    }

    /// The page, its current copy, and whether it is as good as never written.
    async fn read_page(&self, owner: Owner, page: u32) -> Result<(CrcPage, u8, bool), TableError> {
        let fresh = |sequence, copy| {
            (CrcPage { sequence, ..CrcPage::holes(owner.chunk, owner.born, page) }, copy, true)
        };
        let copies = self.copies(owner.slot, page).await?;
        // A crash tears a copy only while the journal has what it would say. Any other damaged copy may have been the
        // newer one: of what the older one calls a hole nobody knows what it is now (C8).
        let damage = copies.iter().find_map(damage);
        let torn = damage.is_some() && self.unborn.borrow().contains(&(owner.slot, page));
        let rotten = damage.filter(|_| !torn);
        match newer(copies, |page| page.sequence) {
            Ok((mut found, copy)) if (found.chunk, found.born) == (owner.chunk, owner.born) => {
                if found.page == page {
                    if let Some(why) = rotten {
                        tracing::error!(
                            "checksum page {page} of slot {}: {why}; holes there are in doubt",
                            owner.slot
                        );
                        let hole = BlockState::Hole.to_raw();
                        let holes = found.entries.iter_mut().filter(|entry| **entry == hole);
                        holes.for_each(|entry| *entry = BlockState::Unknown.to_raw());
                    }
                    if torn {
                        // The next checkpoint writes it anew, whether it changes the page or not.
                        self.fresh.borrow_mut().insert((owner.slot, page), copy);
                    }
                    return Ok((found, copy, false));
                }
                let why = FormatError::Range { structure: "checksum page", field: "page number" };
                Err(TableError::Page { slot: owner.slot, page, why })
            }
            // The page of a chunk that had this slot before: for this chunk nothing was written yet.
            Ok((found, copy)) if found.born < owner.born => match rotten {
                Some(why) => Err(TableError::Page { slot: owner.slot, page, why }),
                None => Ok(fresh(found.sequence, copy)),
            },
            Ok(_) => {
                let why = FormatError::Range { structure: "checksum page", field: "chunk" };
                Err(TableError::Page { slot: owner.slot, page, why })
            }
            Err([FormatError::Magic { .. }, FormatError::Magic { .. }]) => Ok(fresh(0, 1)),
            // Its very first write was cut off: the journal still has what it would say.
            Err([_, FormatError::Magic { .. }]) if self.unborn.borrow().contains(&(owner.slot, page)) => {
                Ok(fresh(0, 1))
            }
            Err([why, _]) => Err(TableError::Page { slot: owner.slot, page, why }),
        }
    }

    /// What the table says of `blocks` of a chunk.
    ///
    /// # Errors
    /// [`TableError`].
    pub async fn states(&self, owner: Owner, blocks: Range<u32>) -> Result<Vec<BlockState>, TableError> {
        let mut states = Vec::with_capacity(blocks.len());
        let mut block = blocks.start;
        while block < blocks.end {
            let page = self.page(owner, block / CRCS_PER_PAGE).await?;
            let end = blocks.end.min((block / CRCS_PER_PAGE + 1) * CRCS_PER_PAGE);
            let page = page.page.borrow();
            states.extend(
                (block..end).map(|b| BlockState::from_raw(page.entries[(b % CRCS_PER_PAGE) as usize])),
            );
            block = end;
        }
        Ok(states)
    }

    /// As [`Tables::states`] if every page is cached, without waiting.
    #[must_use]
    pub fn states_cached(&self, owner: Owner, blocks: Range<u32>) -> Option<Vec<BlockState>> {
        let pages = self.pages.borrow();
        let mut states = Vec::with_capacity(blocks.len());
        let mut block = blocks.start;
        while block < blocks.end {
            let key = (owner.slot, block / CRCS_PER_PAGE);
            let page = pages.get(&key).filter(|cached| cached.is_of(owner))?;
            page.used.set(true);
            let end = blocks.end.min((block / CRCS_PER_PAGE + 1) * CRCS_PER_PAGE);
            let page = page.page.borrow();
            states.extend(
                (block..end).map(|b| BlockState::from_raw(page.entries[(b % CRCS_PER_PAGE) as usize])),
            );
            block = end;
        }
        Some(states)
    }

    /// Writes new states of blocks of one chunk, sorted by block, into its pages; durable after [`Tables::sync`], which
    /// must come before the next update of the same page.
    ///
    /// # Errors
    /// [`TableError`]; with `Page` the other pages have been updated.
    pub async fn update(&self, owner: Owner, changes: &[(u32, BlockState)]) -> Result<(), TableError> {
        let mut result = Ok(());
        for same_page in changes.chunk_by(|a, b| a.0 / CRCS_PER_PAGE == b.0 / CRCS_PER_PAGE) {
            match self.update_page(owner, same_page).await {
                Err(error @ TableError::Page { .. }) => result = Err(error),
                other => other?,
            }
        }
        result
    }

    async fn update_page(&self, owner: Owner, changes: &[(u32, BlockState)]) -> Result<(), TableError> {
        let index = changes[0].0 / CRCS_PER_PAGE;
        let _changing = self.changing.shared(0..1).await;
        let _locked = self.page_locks.exclusive(Self::lock_key(owner.slot, index)).await;
        let cached = match self.page_locked(owner, index).await {
            Err(TableError::Page { why, .. }) => self.page_anew(owner, index, why).await?,
            cached => cached?,
        };
        let (bytes, copy) = {
            let mut page = cached.page.borrow_mut();
            for (block, state) in changes {
                page.entries[(block % CRCS_PER_PAGE) as usize] = state.to_raw();
            }
            page.sequence += 1;
            (View::copy_of(&page.encode(&self.store_uuid)), 1 - cached.copy.get())
        };
        let at = Place::CrcPage { slot: owner.slot, page: index, copy }.offset();
        self.files().crc.write_all_at(bytes, at).await.map_err(crc_io)?;
        cached.copy.set(copy);
        self.note_parts(owner.slot, copy::page(index));
        let mut fresh = self.fresh.borrow_mut();
        if cached.unwritten.replace(false) || fresh.contains_key(&(owner.slot, index)) {
            fresh.insert((owner.slot, index), copy);
        }
        Ok(())
    }

    /// Makes updates durable.
    ///
    /// # Errors
    /// [`TableError::Io`].
    pub async fn sync(&self) -> Result<(), TableError> {
        let _changing = self.changing.shared(0..1).await;
        self.files().crc.sync_data().await.map_err(crc_io)?;
        // Whatever the journal knew at the start is in the tables now.
        self.unborn.borrow_mut().clear();
        let fresh = std::mem::take(&mut *self.fresh.borrow_mut());
        if fresh.is_empty() {
            return Ok(());
        }
        // Only now the other copy: a crash must not tear both.
        for ((slot, page), copy) in fresh {
            let _locked = self.page_locks.exclusive(Self::lock_key(slot, page)).await;
            let place = |copy| Place::CrcPage { slot, page, copy }.offset();
            let (result, buf) = self.files().crc.read_exact_at(Buf::new(BLOCK), place(copy)).await;
            result.map_err(crc_io)?;
            self.files().crc.write_all_at(buf.freeze(), place(1 - copy)).await.map_err(crc_io)?;
            self.note_parts(slot, copy::page(page));
        }
        self.files().crc.sync_data().await.map_err(crc_io)
    }
}

const _: () = assert!(PAGES_PER_CHUNK < 32 && CRC_SLOT.is_multiple_of(BLOCK as u64));

fn is_blank(copy: &Result<CrcPage, FormatError>) -> bool {
    matches!(copy, Err(FormatError::Magic { .. }))
}

/// Why a copy of a page is damaged, if it was ever written.
fn damage(copy: &Result<CrcPage, FormatError>) -> Option<FormatError> {
    match copy {
        Err(
            why @ (FormatError::Checksum { .. } | FormatError::Range { .. } | FormatError::Unreadable { .. }),
        ) => Some(*why),
        _ => None,
    }
}
