//! Versions of replicas: installed by order (C7), told anew by checkpoints, found again at the start.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use super::chunk::Chunk;
use super::regions::Regions;
use super::standing::{Decision, Install, Installed, Own, Standing, decide, joins};
use super::{ACTIVE_BLOCKS, Engine, Refusal};
use crate::format::record::{FIXED, INSTALL_JOINS, MAP_WORDS, RecordKind};
use crate::format::table::ChunkHeader;
use crate::journal::Class;
use crate::journal::scan::Found;

/// Headers that one round of a checkpoint writes.
const HEADERS_AT_ONCE: usize = 256;
/// Bytes of the longest record of a standing.
const RECORD_MAX: u64 = FIXED as u64 + 2 * 2 * 4 * MAP_WORDS as u64;

/// What the simulator's checker calls the version of a replica.
const VERSION: &str = "C7: the version of chunk";

/// A replica that waits to have another version, or to go.
#[derive(Debug)]
pub(crate) struct Superseding<'a>(&'a Chunk);

impl Drop for Superseding<'_> {
    fn drop(&mut self) {
        self.0.superseding.set(self.0.superseding.get() - 1);
    }
}

impl Chunk {
    /// Whether it is still being filled.
    pub(crate) fn is_joiner(&self) -> bool {
        self.standing.borrow().as_ref().is_some_and(|standing| standing.filling.is_some())
    }

    /// Notes that blocks have changed, for a replica that is away (C6).
    pub(crate) fn changed(&self, blocks: &Range<u32>) {
        if let Some(standing) = &mut *self.standing.borrow_mut()
            && let Some(changes) = &mut standing.changes
        {
            changes.regions.add_blocks(blocks);
        }
    }

    /// Says that it will be another one soon, as long as what this returns lives.
    pub(crate) fn supersede(&self) -> Superseding<'_> {
        self.superseding.set(self.superseding.get() + 1);
        self.standing_changed.notify_all();
        Superseding(self)
    }
}

impl Engine {
    /// Gives a replica a later version: waits until nothing of it is under way, and is durable before anything of
    /// the later version begins (C7). Installing what is there changes nothing.
    ///
    /// # Errors
    /// [`Refusal::StaleVersion`] with the version that is here when it cannot become that one;
    /// [`Refusal::NotFilled`] for a joiner that still lacks something; [`Refusal::NoSpace`].
    pub async fn install(self: &Rc<Self>, chunk: u64, order: Install) -> Result<(), Refusal> {
        let _request = self.begin()?;
        let found = self.chunks.borrow().get(&chunk).map(Rc::clone);
        let chunk = found.ok_or(Refusal::UnknownChunk(chunk))?;
        let _superseding = (order.to > chunk.version.get()).then(|| chunk.supersede());
        let _all = chunk.ranges.exclusive(0..u64::from(chunk.blocks())).await;
        self.room_for_state().await?;
        // The version of a joiner is known here before its record is durable: a checkpoint must not write it into the header then,
        // nor leave the older one's record behind. What it does with the chunk ends first.
        let _moving = if order.joiner { Some(chunk.moving.acquire(1).await) } else { None };
        self.check_running()?;
        if chunk.deleted.get() {
            return Err(Refusal::UnknownChunk(chunk.id));
        }
        let order = self.within_budget(&chunk, order)?;
        let version = chunk.version.get();
        let now = chunk.standing.borrow().as_deref().cloned().unwrap_or_default();
        let standing = match decide(version, &now, &self.own_regions(&chunk), &order) {
            Decision::Done => return Ok(()),
            Decision::OtherVersion => return Err(Refusal::StaleVersion { have: version, wanted: order.to }),
            Decision::OtherRole => {
                return Err(Refusal::Invalid("the replica has another role under this version"));
            }
            Decision::NotFilled => return Err(Refusal::NotFilled(chunk.id)),
            Decision::Take(standing) => standing,
        };
        let mut record = standing.record_of(chunk.id, chunk.file, order.to);
        if !order.joiner {
            rt::sim::hit("engine.installs");
            let appended = self.append(Class::Urgent, record, None).await?;
            if !rt::sim::planted("install-not-durable") {
                self.flush().await?;
            }
            rt::sim::rises(VERSION, chunk.id, order.to);
            self.adopt_version(&chunk, order.to, standing);
            drop(appended);
            return Ok(());
        }
        rt::sim::hit("engine.joins");
        record.first |= INSTALL_JOINS;
        // Nothing of what is voided may be recorded behind this: both take their places here, without a wait between.
        let submitted = self.journal().submit(Class::Checkpoint, record, None);
        let submitted = submitted.map_err(|error| self.append_failed(error))?;
        self.file_state(chunk.file).void_chunk(chunk.id);
        chunk.active.borrow_mut().clear();
        // The lock keeps everything away until it is durable.
        self.adopt_version(&chunk, order.to, standing);
        let appended = submitted.written().await.map_err(|error| self.append_failed(error))?;
        self.flush().await?;
        rt::sim::rises(VERSION, chunk.id, order.to);
        drop(appended);
        // It may have been the last one with marks from before.
        self.note_boot().await
    }

    fn adopt_version(&self, chunk: &Rc<Chunk>, version: u64, standing: Box<Standing>) {
        chunk.version.set(version);
        chunk.source.take();
        self.set_standing(chunk, (!standing.is_plain()).then_some(standing));
        self.installed.borrow_mut().insert(chunk.id, Rc::clone(chunk));
        chunk.standing_changed.notify_all();
    }

    /// Changes what a replica is, and counts those that are more than plain members.
    pub(super) fn set_standing(&self, chunk: &Chunk, standing: Option<Box<Standing>>) {
        let is = usize::from(standing.is_some());
        let was = usize::from(chunk.standing.replace(standing).is_some());
        self.standings.set(self.standings.get() + is - was);
    }

    /// Whether versions wait for a checkpoint to write them into headers.
    pub(super) fn versions_wait(&self) -> bool {
        self.installed.borrow().len() > self.standings.get()
    }

    /// Regions of what is listed and marked here. Of an active extent in which the server has seen everything happen, the
    /// list names all that others may not have.
    fn own_regions(&self, chunk: &Chunk) -> Own {
        let mut own = Own { all: Regions::all(chunk.blocks()), ..Own::default() };
        let mut forgets = rt::sim::planted("returner-forgets-one");
        self.file_state(chunk.file).for_each_unstable(chunk.id, |_, _, blocks| {
            if !std::mem::take(&mut forgets) {
                own.listed.add_blocks(&blocks);
            }
        });
        let trusts = rt::sim::planted("returner-trusts-marks");
        for (extent, mark) in
            chunk.active.borrow().iter().filter(|(_, mark)| mark.suspect.is_some() && !trusts)
        {
            let end = chunk.blocks().min((extent + 1) * ACTIVE_BLOCKS);
            let regions = if mark.lost { &mut own.lost } else { &mut own.suspect };
            regions.add_blocks(&(extent * ACTIVE_BLOCKS..end));
        }
        own
    }

    /// Waits while the journal has no room but for checkpoints.
    async fn room_for_state(&self) -> Result<(), Refusal> {
        loop {
            self.check_running()?;
            let done = self.checkpoint_done.notified();
            if self.journal().has_room(Class::Urgent) {
                return Ok(());
            }
            if self.stuck.get() {
                return Err(Refusal::NoSpace);
            }
            self.checkpoint_wanted.notify_one();
            done.await;
        }
    }

    /// What standings take in the journal with each checkpoint, at most.
    pub(super) fn standing_bytes(&self) -> u64 {
        RECORD_MAX * self.standings.get() as u64
    }

    /// Refuses a joiner while maps take much of the journal.
    pub(super) fn room_for_joiner(&self) -> Result<(), Refusal> {
        if self.standing_bytes() < self.journal().ring_bytes() / 4 { Ok(()) } else { Err(Refusal::NoSpace) }
    }

    /// Each checkpoint writes all maps: they must leave the journal usable (C13). Without a map of changes whoever returns
    /// copies everything; a joiner must wait.
    fn within_budget(&self, chunk: &Chunk, order: Install) -> Result<Install, Refusal> {
        let (bytes, ring) = (self.standing_bytes(), self.journal().ring_bytes());
        if chunk.standing.borrow().is_some() || bytes < ring / 8 {
            return Ok(order);
        }
        if order.joiner {
            self.room_for_joiner()?;
        }
        if order.keep {
            tracing::warn!("chunk {:#x}: no room in the journal for a map of changes", chunk.id);
        }
        Ok(Install { keep: false, ..order })
    }

    /// Writes the versions of plain members into their headers, so that the journal need not tell them any more. What it
    /// still tells of others, [`Standing::record`] does. The caller flushes nothing: headers are durable when it ends.
    pub(super) async fn write_versions(&self) -> Result<(), Refusal> {
        // All of them: one that is about to join has a version below that the journal would not tell any more.
        let chunks: Vec<Rc<Chunk>> = self.installed.borrow().values().map(Rc::clone).collect();
        for some in chunks.chunks(HEADERS_AT_ONCE) {
            self.write_some_versions(some).await?;
        }
        Ok(())
    }

    async fn write_some_versions(&self, chunks: &[Rc<Chunk>]) -> Result<(), Refusal> {
        let mut held = Vec::new();
        let mut headers = Vec::new();
        for chunk in chunks {
            let moving = chunk.moving.acquire(1).await;
            let now = chunk.header.get();
            let version = chunk.version.get();
            if chunk.deleted.get() || chunk.standing.borrow().is_some() || version == now.version {
                continue;
            }
            held.push(moving);
            let header = ChunkHeader { version, sequence: now.sequence + 1, ..now };
            headers.push((chunk, header));
        }
        let list: Vec<_> =
            headers.iter().map(|(chunk, header)| (chunk.slot, chunk.header_copy, *header)).collect();
        self.tables.write_headers(&list).await.map_err(|error| self.table_failed(&error))?;
        let mut installed = self.installed.borrow_mut();
        for (chunk, header) in headers {
            chunk.header.set(header);
        }
        for chunk in chunks {
            if chunk.standing.borrow().is_none() && chunk.header.get().version == chunk.version.get() {
                installed.remove(&chunk.id);
            }
        }
        Ok(())
    }

    /// Versions and standings that the journal tells.
    pub(super) fn replay_installs(&self, records: &[Found]) {
        let mut told: BTreeMap<u64, Installed> = BTreeMap::new();
        let chunks = self.chunks.borrow();
        let living = |found: &Found| {
            let chunk = chunks.get(&found.record.chunk)?;
            (found.lsn >= chunk.header.get().born).then_some(chunk)
        };
        for found in records.iter().filter(|found| found.record.kind == RecordKind::Install) {
            let Some(chunk) = living(found) else { continue };
            let known = told.remove(&chunk.id);
            told.insert(chunk.id, Installed::replay(known, &found.record, chunk.blocks()));
        }
        for (id, Installed { version, standing }) in told {
            let Some(chunk) = chunks.get(&id).filter(|chunk| version >= chunk.version.get()) else {
                continue;
            };
            self.adopt_version(chunk, version, Box::new(standing));
        }
        // Bits are not written with each write: whatever the journal has counts as a change.
        for found in records.iter().filter(|found| found.record.kind.is_write() && !found.record.copied) {
            if let Some(chunk) = living(found) {
                let (first, end) = (found.record.first, found.record.first + found.record.count);
                chunk.changed(&(first.min(chunk.blocks())..end.min(chunk.blocks())));
            }
        }
    }

    /// Tells the simulator's checker which versions a restart has found.
    pub(super) fn tell_versions(&self) {
        self.chunks
            .borrow()
            .values()
            .for_each(|chunk| rt::sim::rises(VERSION, chunk.id, chunk.version.get()));
    }

    /// Voids what a record of joining voids, in the order of the journal.
    pub(super) fn replay_joining(&self, found: &Found) {
        if joins(&found.record) {
            self.file_state(found.record.file).void_chunk(found.record.chunk);
        }
    }
}
