//! Filling a joiner from a member (C6, C7): what the member knows, and how its content gets here.
//!
//! A region is locked here *before* it is read from the member. So whatever of it is not on the list of unstable writes then
//! is stable, and in what the member sends; what is on the list is newer, or will be sent again, and stays.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use rt::buf::View;

use super::blocks::COPIED;
use super::chunk::Chunk;
use super::files::Unstable;
use super::read::ReadReply;
use super::regions::{REGION_BLOCKS, Regions, blocks_of};
use super::standing::{Changes, Filling, Standing};
use super::state::unstable_records;
use super::verify::Condition;
use super::write::Way;
use super::{Engine, Refusal};
use crate::format::block::BlockState;
use crate::format::record::{Record, RecordKind};
use crate::format::{BLOCK, crc32c, is_zero};
use crate::journal::Class;

/// How long a write that needs old content waits until it is known where to fetch it.
const SOURCE_PATIENCE: Duration = Duration::from_secs(10);

/// Most regions that are read together to see what is in them.
const EXAMINED_REGIONS: usize = 16;

/// A write that a replica lists as not stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its epoch.
    pub epoch: u64,
    /// Its sequence number.
    pub seq: u64,
    /// First block.
    pub first: u32,
    /// Blocks.
    pub count: u32,
}

/// What a member knows for a joiner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The map reaches back to the version that the joiner held.
    pub complete: bool,
    /// The map names what changed in versions above this one; 0 = there is none.
    pub since: u64,
    /// The map.
    pub changed: Regions,
    /// Writes that are listed as not stable.
    pub listed: Vec<Listed>,
    /// Blocks of the chunk.
    pub blocks: u32,
}

/// How far a joiner is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The version it held; what it lacks is known once that is its own.
    pub held: u64,
    /// What must still be copied.
    pub lacking: Regions,
    /// What was copied and is not flushed yet.
    pub copied: Regions,
    /// Blocks of the chunk.
    pub blocks: u32,
    /// Bytes copied since the server started.
    pub bytes: u64,
}

/// The content of a range, or why no member gave it.
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<ReadReply, NotRead>> + 'a>>;

/// As [`Reading`], with writes that may be in it and not everywhere.
pub type ReadingSettled<'a> = Pin<Box<dyn Future<Output = Result<(ReadReply, Vec<Listed>), NotRead>> + 'a>>;

/// No member gave what was asked for; whoever asked them knows why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRead;

/// Why no member gave a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// None of them could be asked, or they refused all of it.
    #[default]
    Away,
    /// One that was asked holds some of it damaged, or not settled: parts of it may be had.
    Partly,
    /// No member has this block whole.
    Lost {
        /// The plain checksums that the members have on record for it; nothing of one that has lost that, too.
        recorded: Vec<Option<u32>>,
        /// No other one is waited for: unless it is here, it is lost.
        for_good: bool,
        /// Its chunk is reconciled: nobody will settle it.
        settled: bool,
    },
}

/// Reads from a joiner's members.
pub trait Source: Debug {
    /// Bytes of the chunk in whole blocks, verified.
    fn read(&self, offset: u32, len: u32) -> Reading<'_>;

    /// As [`Source::read`]; and what the member that gave it listed as not stable after that. Nothing from who cannot tell.
    fn read_settled(&self, _offset: u32, _len: u32) -> ReadingSettled<'_> {
        Box::pin(async { Err(NotRead) })
    }

    /// Of a block that was asked for, nothing was learned that counts for good.
    fn passed_over(&self) {}

    /// Why the last read of this very range gave nothing.
    fn fault(&self, _offset: u32, _len: u32) -> Fault {
        Fault::Away
    }
}

/// See [`Engine::own_copy`].
enum Own {
    /// It is what the members have lost.
    Right,
    /// Nobody can tell.
    Unclear,
    /// It is older, or none.
    Useless,
}

impl Chunk {
    /// How far a joiner is under `version`.
    fn filling<T>(&self, version: u64, see: impl FnOnce(&mut Standing) -> T) -> Result<T, Refusal> {
        let have = self.version.get();
        if self.deleted.get() {
            return Err(Refusal::UnknownChunk(self.id));
        }
        match &mut *self.standing.borrow_mut() {
            Some(standing) if have == version && standing.filling.is_some() => Ok(see(standing)),
            _ => Err(Refusal::StaleVersion { have, wanted: version }),
        }
    }

    fn progress(&self, version: u64) -> Result<Progress, Refusal> {
        let blocks = self.blocks();
        self.filling(version, |standing| {
            let filling = standing.filling.as_ref().expect("a joiner");
            Progress {
                held: filling.held,
                lacking: filling.lacking(version, blocks),
                copied: filling.copied.clone(),
                blocks,
                bytes: filling.bytes,
            }
        })
    }

    /// What of a joiner's region must come from a member before it can be read. Nothing of a member.
    fn lacks(&self, region: u32) -> bool {
        let (version, blocks) = (self.version.get(), self.blocks());
        let standing = self.standing.borrow();
        let filling = standing.as_ref().and_then(|standing| standing.filling.as_ref());
        filling.is_some_and(|filling| filling.lacking(version, blocks).contains(region))
    }
}

impl Engine {
    pub(super) fn found(&self, chunk: u64) -> Result<Rc<Chunk>, Refusal> {
        self.chunks.borrow().get(&chunk).map(Rc::clone).ok_or(Refusal::UnknownChunk(chunk))
    }

    /// Completes when a replica will have another version soon, or go, or the server stops.
    pub(super) async fn superseded(&self, chunk: &Chunk) {
        loop {
            let changed = chunk.standing_changed.notified();
            if chunk.superseding.get() > 0 || self.stopping.get() {
                return;
            }
            changed.await;
        }
    }

    /// Tells whoever waits for members that the server stops.
    pub(super) fn stop_filling(&self) {
        for chunk in self.installed.borrow().values() {
            chunk.standing_changed.notify_all();
        }
    }

    /// What a member knows for a joiner that held a version before it left; 0 = it is new.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn changed_regions(&self, file: u64, chunk: u64, version: u64, held: u64) -> Result<Known, Refusal> {
        let _request = self.begin()?;
        let chunk = self.member_for(file, chunk, version)?;
        let mut known = Known { blocks: chunk.blocks(), ..Known::default() };
        if let Some(changes) = chunk.standing.borrow().as_ref().and_then(|standing| standing.changes.as_ref())
        {
            known.complete = held != 0 && changes.since <= held;
            known.since = changes.since;
            known.changed = changes.regions.clone();
        }
        self.file_state(file).for_each_unstable(chunk.id, |epoch, seq, blocks| {
            let count = blocks.len() as u32;
            known.listed.push(Listed { epoch, seq, first: blocks.start, count });
        });
        Ok(known)
    }

    /// Makes durable what was read here for a joiner (C4).
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn flush_for_joiner(self: &Rc<Self>, chunk: u64, version: u64) -> Result<(), Refusal> {
        let _request = self.begin()?;
        let found = self.found(chunk)?;
        self.member_for(found.file, chunk, version)?;
        self.flush().await
    }

    /// How far a joiner is.
    ///
    /// # Errors
    /// [`Refusal::StaleVersion`] when it is no joiner under that version.
    pub fn progress(&self, chunk: u64, version: u64) -> Result<Progress, Refusal> {
        self.found(chunk)?.progress(version)
    }

    /// From where a joiner's writes may fetch what they need of missing regions.
    ///
    /// # Errors
    /// [`Refusal::StaleVersion`] when it is no joiner under that version.
    pub fn set_source(&self, chunk: u64, version: u64, source: Rc<dyn Source>) -> Result<(), Refusal> {
        let chunk = self.found(chunk)?;
        chunk.filling(version, |_| ())?;
        chunk.source.replace(Some((version, source)));
        chunk.standing_changed.notify_all();
        Ok(())
    }

    /// Looks at what a joiner lacks only because a crash may have left writes without records there: regions of which every
    /// block matches its checksum are whole. Comes before the difference is taken; after that it changes nothing.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn examine_suspects(self: &Rc<Self>, chunk: u64, version: u64) -> Result<(), Refusal> {
        let _request = self.begin()?;
        let chunk = self.found(chunk)?;
        let suspect = chunk.filling(version, |standing| {
            standing.filling.as_ref().map(|filling| filling.suspect.clone()).unwrap_or_default()
        })?;
        let suspect: Vec<u32> = suspect.iter().collect();
        for run in suspect.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(EXAMINED_REGIONS)) {
            let end = blocks_of(run[run.len() - 1], chunk.blocks()).end;
            let blocks = run[0] * REGION_BLOCKS..end;
            let _locked = chunk.ranges.shared(u64::from(blocks.start)..u64::from(blocks.end)).await;
            chunk.filling(version, |_| ())?;
            let found = self.examine(&chunk, blocks.clone()).await?;
            let mut whole = Regions::default();
            for (region, blocks) in run.iter().zip(found.chunks(REGION_BLOCKS as usize)) {
                if blocks.iter().all(|block| block.is_proven()) {
                    whole.add_blocks(&blocks_of(*region, chunk.blocks()));
                }
            }
            chunk.filling(version, |standing| {
                let filling = standing.filling.as_mut().expect("a joiner");
                whole.intersect(&filling.suspect);
                filling.missing.subtract(&whole);
                filling.suspect.subtract(&whole);
            })?;
        }
        Ok(())
    }

    /// Takes over what a member knows: what changed is missing, all of it when the map does not reach back far enough. What
    /// was copied before does not count.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn take_difference(
        self: &Rc<Self>,
        chunk: u64,
        version: u64,
        known: &Known,
    ) -> Result<(), Refusal> {
        let _request = self.begin()?;
        let chunk = self.found(chunk)?;
        let blocks = chunk.blocks();
        chunk.filling(version, |standing| {
            let filling = standing.filling.as_mut().expect("a joiner");
            if filling.held != version {
                let mut changed = if known.complete { known.changed.clone() } else { Regions::all(blocks) };
                if known.complete && rt::sim::planted("difference-forgets-one") {
                    let mut one = Regions::default();
                    changed.iter().take(1).for_each(|first| one.add_blocks(&blocks_of(first, blocks)));
                    changed.subtract(&one);
                }
                filling.missing.unite(&changed);
                filling.missing.unite(&std::mem::take(&mut filling.copied));
                filling.suspect = Regions::default();
                filling.held = version;
                filling.round += 1;
            }
            standing.changes = match standing.changes.take() {
                Some(changes) if known.since > 0 => {
                    let mut regions = changes.regions;
                    regions.unite(&known.changed);
                    Some(Changes { since: known.since, regions })
                }
                // Taken over before, perhaps from another member: it goes on.
                Some(changes) if changes.since > 0 => Some(changes),
                _ => None,
            };
        })?;
        self.record_standing(&chunk).await?;
        self.flush().await
    }

    /// Regions were copied from a member that may have lost them since: they are missing again.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn copy_again(
        self: &Rc<Self>,
        chunk: u64,
        version: u64,
        regions: &Regions,
    ) -> Result<(), Refusal> {
        let _request = self.begin()?;
        let chunk = self.found(chunk)?;
        chunk.filling(version, |standing| {
            let filling = standing.filling.as_mut().expect("a joiner");
            filling.missing.unite(regions);
            filling.copied.subtract(regions);
            filling.round += 1;
        })?;
        self.record_standing(&chunk).await?;
        self.flush().await
    }

    /// Records a joiner's standing anew; the caller flushes.
    async fn record_standing(&self, chunk: &Rc<Chunk>) -> Result<(), Refusal> {
        let record = chunk.standing.borrow().as_ref().map(|standing| standing.record(chunk));
        let Some(record) = record else { return Ok(()) };
        self.append(Class::Urgent, record, None).await.map(drop)
    }

    /// Copies neighbouring regions of a joiner, those of them that are not here yet. Gives how many bytes that were.
    ///
    /// # Errors
    /// [`Refusal::NoSource`] when no member gave the content; [`Refusal`].
    pub async fn copy_regions(
        self: &Rc<Self>,
        chunk: u64,
        version: u64,
        regions: Range<u32>,
        source: &dyn Source,
    ) -> Result<u64, Refusal> {
        let _request = self.begin()?;
        let chunk = self.found(chunk)?;
        self.map_has_room().await?;
        self.copy_locked(&chunk, version, regions, source).await
    }

    async fn copy_locked(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        version: u64,
        regions: Range<u32>,
        source: &dyn Source,
    ) -> Result<u64, Refusal> {
        let end = blocks_of(regions.end - 1, chunk.blocks()).end;
        let blocks = regions.start * REGION_BLOCKS..end;
        let _locked = chunk.ranges.exclusive(u64::from(blocks.start)..u64::from(blocks.end)).await;
        self.check_running()?;
        let round =
            chunk.filling(version, |standing| standing.filling.as_ref().map(|filling| filling.round))?;
        if !regions.clone().any(|region| chunk.lacks(region)) {
            return Ok(0);
        }
        let mut newer = BTreeSet::new();
        if !rt::sim::planted("copy-over-newer") {
            self.file_state(chunk.file).for_each_unstable(chunk.id, |_, _, listed| {
                newer.extend(listed.start.max(blocks.start)..listed.end.min(blocks.end));
            });
        }
        if !newer.is_empty() {
            rt::sim::hit("engine.copy-skips");
        }
        let (mut bytes, mut failed) = (0, Regions::default());
        // The last one is the next one. What is damaged is asked for by the region, then by the block: all else can be had.
        let mut wanted = vec![blocks.clone()];
        while let Some(part) = wanted.pop() {
            match self.read_member(chunk, version, source, &part).await? {
                Ok(reply) => {
                    for piece in pieces(&part, &reply, &newer) {
                        self.write_copied(chunk, version, piece).await?;
                    }
                    bytes += part.len() as u64 * BLOCK as u64;
                }
                Err(Fault::Partly) if part.len() > 1 => {
                    let step = if part.len() > REGION_BLOCKS as usize { REGION_BLOCKS } else { 1 };
                    let parts = part.clone().step_by(step as usize);
                    wanted.extend(parts.rev().map(|first| first..part.end.min(first + step)));
                }
                Err(Fault::Partly | Fault::Lost { .. }) if newer.contains(&part.start) => {}
                Err(Fault::Lost { recorded, for_good, settled }) if part.len() == 1 => {
                    let nobody_knows = recorded.iter().all(Option::is_none);
                    match self.own_copy(chunk, part.start, &recorded).await? {
                        Own::Right => {}
                        Own::Useless if for_good => self.write_lost(chunk, version, part).await?,
                        // What is here may be older, and whoever knew is gone. All else that is here may be missing there.
                        Own::Unclear if for_good && settled && nobody_knows && self.keeps_checksums() => {
                            tracing::error!(
                                "chunk {:#x}, block {}: what is here cannot be compared with anything; it is given up",
                                chunk.id,
                                part.start
                            );
                            self.write_lost(chunk, version, part).await?;
                        }
                        Own::Useless | Own::Unclear => failed.add_blocks(&part),
                    }
                }
                Err(_) => failed.add_blocks(&part),
            }
        }
        chunk.filling(version, |standing| {
            let filling = standing.filling.as_mut().expect("a joiner");
            filling.bytes += bytes;
            if Some(filling.round) == round {
                let mut copied = Regions::default();
                copied.add_blocks(&blocks);
                copied.subtract(&failed);
                filling.copied.unite(&copied);
            }
        })?;
        if failed.is_empty() { Ok(bytes) } else { Err(Refusal::NoSource(chunk.id)) }
    }

    /// Reads blocks from a member, whose range is locked here.
    async fn read_member(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        version: u64,
        source: &dyn Source,
        blocks: &Range<u32>,
    ) -> Result<Result<ReadReply, Fault>, Refusal> {
        let (offset, len) = (blocks.start * BLOCK as u32, blocks.len() as u32 * BLOCK as u32);
        // The only wait here that others can make long.
        let read = match rt::first(source.read(offset, len), self.superseded(chunk)).await {
            rt::First::Left(read) => read.map_err(|NotRead| source.fault(offset, len)),
            rt::First::Right(()) if self.stopping.get() => return Err(Refusal::Stopping),
            rt::First::Right(()) => return Err(Refusal::StaleVersion { have: version, wanted: version }),
        };
        self.check_running()?;
        Ok(read)
    }

    /// Writes what was copied, as a write of nobody: it is not listed, and no change for others.
    pub(super) async fn write_copied(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        version: u64,
        piece: Piece,
    ) -> Result<(), Refusal> {
        let Piece { blocks, content } = piece;
        if let Some(content) = content {
            return self.write_content(chunk, version, blocks, content).await;
        }
        let states = self.states(chunk, blocks.clone()).await;
        if states.is_ok_and(|states| states.iter().all(|(state, _)| *state == BlockState::Hole)) {
            return Ok(());
        }
        let record = copied_record(chunk, version, &blocks);
        let appended = self.append(Class::Urgent, record, None).await?;
        self.mark(chunk, &blocks, appended.lsn);
        self.note_part(chunk, &blocks, &appended, COPIED, &[], None);
        Ok(())
    }

    /// What a joiner's own content is worth of a block that no member has whole. It may be what they have lost, or older.
    async fn own_copy(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        block: u32,
        recorded: &[Option<u32>],
    ) -> Result<Own, Refusal> {
        if !self.keeps_checksums() {
            // Nothing here could tell that it is lost.
            return Ok(Own::Unclear);
        }
        let own = match self.examine(chunk, block..block + 1).await?[..] {
            [Condition::Data(plain)] => plain,
            // Whoever lost zeroes lost nothing that is not here, wherever they come from.
            [Condition::Hole] if recorded.contains(&Some(crc32c(&[0; BLOCK]))) => return Ok(Own::Right),
            _ => return Ok(Own::Useless),
        };
        if recorded.contains(&Some(own)) {
            rt::sim::hit("engine.own-copy-kept");
            return Ok(Own::Right);
        }
        Ok(if recorded.contains(&None) { Own::Unclear } else { Own::Useless })
    }

    /// Notes that no member had a block whole: as damaged here as there, so that all else of the chunk has its replicas (C8).
    async fn write_lost(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        version: u64,
        blocks: Range<u32>,
    ) -> Result<(), Refusal> {
        tracing::error!("chunk {:#x}, block {}: lost; no member has it whole", chunk.id, blocks.start);
        rt::sim::hit("engine.block-lost");
        let words = vec![BlockState::Lost.to_raw()];
        let mut record = copied_record(chunk, version, &blocks);
        (record.kind, record.words) = (RecordKind::InPlace, words.clone());
        let appended = self.append(Class::Urgent, record, None).await?;
        self.mark(chunk, &blocks, appended.lsn);
        self.note_part(chunk, &blocks, &appended, COPIED, &words, Some(Way::InPlace));
        Ok(())
    }

    /// Writes data with plain checksums, as a write of nobody.
    async fn write_content(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        version: u64,
        blocks: Range<u32>,
        (payload, crcs): (View, Vec<u32>),
    ) -> Result<(), Refusal> {
        let mut record = copied_record(chunk, version, &blocks);
        let stored = blocks.clone().zip(crcs);
        record.words =
            stored.map(|(block, crc)| BlockState::of_plain(crc, chunk.id, block).to_raw()).collect();
        let words = record.words.clone();
        let file = self.chunk_file(chunk).await?;
        self.allocate(&file, blocks.clone()).await?;
        let way = self.choose_way(chunk, &file, &blocks, true).await?;
        let appended = match way {
            Way::Journal => self.append_data(record, payload).await?,
            Way::InPlace => self.write_in_place(record, payload, &file, chunk, &blocks).await?,
        };
        self.mark(chunk, &blocks, appended.lsn);
        self.note_part(chunk, &blocks, &appended, COPIED, &words, Some(way));
        Ok(())
    }

    /// Strikes what was copied from what is missing: durable before it is forgotten.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn commit_copied(self: &Rc<Self>, chunk: u64, version: u64) -> Result<(), Refusal> {
        let _request = self.begin()?;
        let chunk = self.found(chunk)?;
        let state = |standing: &mut Standing| standing.filling.as_ref().map(|f| (f.round, f.copied.clone()));
        let Some((round, copied)) = chunk.filling(version, state)? else { return Ok(()) };
        if copied.is_empty() {
            return Ok(());
        }
        if !rt::sim::planted("copied-not-flushed") {
            self.flush().await?;
        }
        let struck = chunk.filling(version, |standing| {
            let filling = standing.filling.as_mut().expect("a joiner");
            // Before the difference is known, anything may still be missing.
            let counts = filling.round == round && filling.held == version;
            if counts {
                filling.missing.subtract(&copied);
                filling.copied.subtract(&copied);
            }
            counts
        })?;
        if struck { self.record_standing(&chunk).await } else { Ok(()) }
    }

    /// Takes over what a member lists as not stable, durably: whoever reconciles finds it here, too (C5).
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn inherit_list(
        self: &Rc<Self>,
        chunk: u64,
        version: u64,
        listed: &[Listed],
    ) -> Result<(), Refusal> {
        let _request = self.begin()?;
        let chunk = self.found(chunk)?;
        // An install would void what is listed by then, and not what comes after it: it waits. Nobody waits for a member in here.
        let _all = chunk.ranges.exclusive(0..u64::from(chunk.blocks())).await;
        chunk.filling(version, |_| ())?;
        let file = self.file_state(chunk.file);
        let fits = |listed: &&Listed| {
            listed.first.checked_add(listed.count).is_some_and(|end| end <= chunk.blocks())
        };
        let writes = listed.iter().filter(fits).map(|listed| {
            let write = Unstable { chunk: chunk.id, first: listed.first, count: listed.count };
            (listed.epoch, listed.seq, write)
        });
        let mut writes: Vec<_> = writes.collect();
        writes.sort_by_key(|&(epoch, seq, write)| (epoch, seq, write.first));
        let mut rest = writes.as_slice();
        for record in unstable_records(chunk.file, &writes) {
            let (listed, others) = rest.split_at(record.entries().count());
            rest = others;
            // A checkpoint that records the list anew may not pass it before these are on the list.
            let appended = self.append(Class::Urgent, record, None).await?;
            for &(epoch, seq, write) in listed {
                file.add_unstable(epoch, seq, write);
            }
            drop(appended);
        }
        self.flush().await
    }

    /// Whether a write must have old content that is not here: the regions of its first and last block.
    pub(super) fn needs_old(&self, chunk: &Chunk, blocks: &Range<u32>, parts: [bool; 2]) -> Option<u32> {
        if !chunk.is_joiner() {
            return None;
        }
        let ends = [(blocks.start, parts[0]), (blocks.end - 1, parts[1])];
        let needed = ends.into_iter().filter(|(_, part)| *part).map(|(block, _)| block);
        let lacks = |block: &u32| {
            let mut newer = false;
            self.file_state(chunk.file)
                .for_each_unstable(chunk.id, |_, _, listed| newer |= listed.contains(block));
            !newer && chunk.lacks(block / REGION_BLOCKS)
        };
        let found = needed.into_iter().find(lacks);
        found.map(|block| block / REGION_BLOCKS)
    }

    /// Fetches a region that a write needs.
    pub(super) async fn fetch(
        self: &Rc<Self>,
        chunk: &Rc<Chunk>,
        version: u64,
        region: u32,
    ) -> Result<(), Refusal> {
        rt::sim::hit("engine.fetched-for-a-write");
        let deadline = rt::time::now() + SOURCE_PATIENCE;
        let source = loop {
            let changed = chunk.standing_changed.notified();
            chunk.filling(version, |_| ())?;
            self.check_running()?;
            if self.stopping.get() {
                return Err(Refusal::Stopping);
            }
            let known = chunk.source.borrow().clone();
            match known {
                Some((of, source)) if of == version => break source,
                _ if rt::time::timeout_at(deadline, changed).await.is_err() => {
                    return Err(Refusal::NoSource(chunk.id));
                }
                _ => {}
            }
        };
        self.map_has_room().await?;
        self.copy_locked(chunk, version, region..region + 1, &*source).await.map(drop)
    }
}

impl Filling {
    /// What must still be copied of a chunk with this version: anything until it is known what.
    fn lacking(&self, version: u64, blocks: u32) -> Regions {
        let mut lacking = if self.held == version { self.missing.clone() } else { Regions::all(blocks) };
        lacking.subtract(&self.copied);
        lacking
    }
}

/// The record of blocks that were copied: holes, unless it is given words.
fn copied_record(chunk: &Chunk, version: u64, blocks: &Range<u32>) -> Record {
    Record {
        copied: true,
        chunk: chunk.id,
        version,
        file: chunk.file,
        first: blocks.start,
        count: blocks.len() as u32,
        ..Record::new(RecordKind::Zero)
    }
}

/// Neighbouring blocks to be written: data with plain checksums, or holes.
pub(super) struct Piece {
    pub(super) blocks: Range<u32>,
    pub(super) content: Option<(View, Vec<u32>)>,
}

/// What is to be written of a range that a member sent: without newer blocks, and with holes where a region has nothing
/// but zeroes.
pub(super) fn pieces(blocks: &Range<u32>, reply: &ReadReply, newer: &BTreeSet<u32>) -> Vec<Piece> {
    let at = |block: u32| (block - blocks.start) as usize;
    let bytes =
        |block: u32| reply.payload.as_ref().map(|data| &data[at(block) * BLOCK..(at(block) + 1) * BLOCK]);
    let is_zero_at = |block: u32| bytes(block).is_none_or(is_zero);
    let mut runs: Vec<(Range<u32>, bool)> = Vec::new();
    let mut region_start = blocks.start;
    while region_start < blocks.end {
        let region = region_start..blocks.end.min((region_start / REGION_BLOCKS + 1) * REGION_BLOCKS);
        let hole = region.clone().all(is_zero_at);
        for block in region.clone().filter(|block| !newer.contains(block)) {
            match runs.last_mut() {
                Some((run, kind)) if run.end == block && *kind == hole => run.end += 1,
                _ => runs.push((block..block + 1, hole)),
            }
        }
        region_start = region.end;
    }
    let piece = |(run, hole): (Range<u32>, bool)| {
        let content = reply.payload.as_ref().filter(|_| !hole).map(|data| {
            let range = at(run.start)..at(run.end);
            let payload = data.slice(range.start * BLOCK..range.end * BLOCK);
            let crcs = reply
                .crcs
                .get(range)
                .map_or_else(|| payload.chunks(BLOCK).map(crc32c).collect(), <[u32]>::to_vec);
            (payload, crcs)
        });
        Piece { blocks: run, content }
    };
    runs.into_iter().map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_blocks_stay_and_regions_of_zeroes_are_holes() {
        let mut data = vec![7; 48 * BLOCK];
        data[16 * BLOCK..32 * BLOCK].fill(0);
        data[40 * BLOCK..41 * BLOCK].fill(0);
        let crcs: Vec<u32> = data.chunks(BLOCK).map(crc32c).collect();
        let reply = ReadReply { payload: Some(View::copy_of(&data)), crcs };
        let newer = BTreeSet::from([102, 103, 120]);
        // Blocks 96 to 143: the second region of three is zero.
        let shape = |reply: &ReadReply| -> Vec<(Range<u32>, bool)> {
            let pieces = pieces(&(96..144), reply, &newer).into_iter();
            pieces
                .map(|piece| {
                    if let Some((payload, crcs)) = &piece.content {
                        let from = (piece.blocks.start - 96) as usize * BLOCK;
                        assert_eq!(payload[..], data[from..from + piece.blocks.len() * BLOCK]);
                        assert_eq!(*crcs, payload.chunks(BLOCK).map(crc32c).collect::<Vec<_>>());
                    }
                    (piece.blocks, piece.content.is_some())
                })
                .collect()
        };
        assert_eq!(
            shape(&reply),
            [(96..102, true), (104..112, true), (112..120, false), (121..128, false), (128..144, true)]
        );
        let zeroes = ReadReply { payload: None, crcs: Vec::new() };
        assert_eq!(shape(&zeroes), [(96..102, false), (104..120, false), (121..144, false)]);
    }
}
