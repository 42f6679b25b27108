//! Reading: from one member, verified, from another if that fails (C8).

use std::collections::BTreeSet;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use rt::buf::{Buf, View};
use wire::data::{BlockStatus, BlockStatusReply, Read, ReadReply, RunKind, Target};
use wire::{Action, Op};

use super::call::{Attempt, Message, Patience, Refused, all, until_replaced};
use super::lease::{Chunk, Lease};
use super::map::Need;
use super::reports::{Remedy, remedy};
use super::{ATTEMPT, BLOCK, BUSY_PAUSE, Halt, Inner, PART_MAX, Run, Stop, Volume};
use crate::error::VolumeError;
use crate::quickness;
use crate::servers::Server;

/// When the metadata server is asked whether others have a chunk whose members are all away, at first...
const LOOK_MIN: Duration = Duration::from_millis(500);
/// ...and later.
const LOOK_MAX: Duration = Duration::from_secs(4);
/// How long a member may take to answer while another one is connected.
const READ_ATTEMPT: Duration = Duration::from_secs(3);

/// Questions about one range that are asked before what is known is told.
const ASKED_MAX: u32 = 2048;

/// A part of a read.
#[derive(Clone, Copy, Debug)]
struct Part {
    index: u64,
    offset: u32,
    len: u32,
}

impl Part {
    /// The blocks it touches.
    fn blocks(&self) -> std::ops::Range<u32> {
        self.offset / BLOCK as u32..(self.offset + self.len).div_ceil(BLOCK as u32)
    }
}

/// What one member gave.
enum Found {
    Data(View),
    Zeroes,
}

/// What a member answered.
enum Answer {
    Found(Found),
    /// Its replica is damaged here. The block that it says is damaged; nothing if it does not say.
    Damaged(Option<u32>),
    /// It will not give it, now or later.
    Refused(VolumeError),
    /// It is away, busy, silent, or knows another version: it may be asked again after this pause.
    Later(Duration),
}

impl Volume {
    /// Reads a range. The parts lie one behind the other; `None` is a part that reads as zero.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn read(&self, offset: u64, len: u64) -> Result<Vec<(u64, Option<View>)>, VolumeError> {
        let inner = &self.inner;
        self.check_range(offset, len)?;
        if len == 0 {
            return Ok(Vec::new());
        }
        let _budget = inner.read_budget.acquire(len).await;
        let range = offset / BLOCK * BLOCK..(offset + len).next_multiple_of(BLOCK);
        let range = inner.ranges.shared(range).await;
        let parts = split(offset, len, inner.chunk_size);
        let mut damaged = Vec::new();
        let found = loop {
            let lease = inner.usable_lease().await?;
            damaged.clear();
            match inner.read_parts(&lease, &parts).await {
                Ok(found) => {
                    for (part, (_, bad)) in parts.iter().zip(&found) {
                        damaged.extend(bad.iter().map(|&block| (part.index, block)));
                    }
                    break found;
                }
                Err(Stop::Broken) => {}
                Err(Stop::Fatal(error)) => return Err(error),
            }
        };
        drop(range);
        for (index, block) in damaged {
            self.repair_later(index, block);
        }
        inner.session.report(|io| {
            io.read_ops += 1;
            io.read_bytes += len;
        });
        Ok(parts
            .iter()
            .zip(found)
            .map(|(part, (found, _))| match found {
                Found::Data(data) => (u64::from(part.len), Some(data)),
                Found::Zeroes => (u64::from(part.len), None),
            })
            .collect())
    }

    /// Reads a range into one buffer.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn read_whole(&self, offset: u64, len: usize) -> Result<Buf, VolumeError> {
        let parts = self.read(offset, len as u64).await?;
        let mut buf = Buf::new(len);
        let mut at = 0;
        for (part, data) in parts {
            let part = part as usize;
            match data {
                Some(data) => buf[at..at + part].copy_from_slice(&data),
                None => buf[at..at + part].fill(0),
            }
            at += part;
        }
        Ok(buf)
    }

    /// What is allocated in a range, from `offset` on; at most `runs_max` runs, and less than the range where it holds much.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn block_status(
        &self,
        offset: u64,
        len: u64,
        runs_max: usize,
    ) -> Result<Vec<Run>, VolumeError> {
        self.check_range(offset, len)?;
        let inner = &self.inner;
        let mut runs: Vec<Run> = Vec::new();
        let end = offset + len;
        let mut at = offset / BLOCK * BLOCK;
        let mut asked = 0;
        while at < end && asked < ASKED_MAX {
            asked += 1;
            let found = loop {
                let lease = inner.usable_lease().await?;
                let outcome = async {
                    let found = inner.status_from(&lease, at, end.next_multiple_of(BLOCK)).await?;
                    inner.may_acknowledge(&lease).await.map(|()| found)
                };
                match outcome.await {
                    Ok(found) => break found,
                    Err(Stop::Broken) => {}
                    Err(Stop::Fatal(error)) => return Err(error),
                }
            };
            for run in found {
                match runs.last_mut() {
                    Some(last) if last.data == run.data => last.len += run.len,
                    _ => runs.push(run),
                }
                at += run.len;
            }
            if runs.len() > runs_max {
                runs.truncate(runs_max);
                break;
            }
        }
        // The first and last runs may reach beyond the range asked for.
        if let Some(first) = runs.first_mut() {
            first.len -= offset % BLOCK;
        }
        let total: u64 = runs.iter().map(|run| run.len).sum();
        if total > len
            && let Some(last) = runs.last_mut()
        {
            last.len -= total - len;
        }
        Ok(runs)
    }

    /// Replaces a damaged block in the background.
    fn repair_later(&self, index: u64, block: u32) {
        if !self.inner.writable {
            return;
        }
        let volume = self.clone();
        rt::spawn(async move {
            if let Err(error) = volume.mend_block(index, block).await {
                tracing::warn!(
                    "file {}: repairing block {block} of chunk {index}: {error}",
                    volume.inner.file_id
                );
            }
        });
    }

    /// Replaces a block that is damaged on some member: reads it anew under its own lock and writes it to all (C8). In a chunk
    /// that takes no writes it is left as it is: readers of the block would wait behind this (C3).
    pub(super) async fn mend_block(&self, index: u64, block: u32) -> Result<(), VolumeError> {
        let inner = &self.inner;
        let offset = index * inner.chunk_size + u64::from(block) * BLOCK;
        let _range = inner.ranges.exclusive(offset..offset + BLOCK).await;
        let part = Part { index, offset: block * BLOCK as u32, len: BLOCK as u32 };
        loop {
            let lease = inner.usable_lease().await?;
            let outcome = async {
                if !inner.takes_repairs(&lease, index).await? {
                    return Ok(false);
                }
                let content = match inner.read_part(&lease, part).await?.0 {
                    Found::Data(data) => Buf::copy_of(&data),
                    Found::Zeroes => Buf::zeroed(BLOCK as usize),
                };
                if !inner.takes_repairs(&lease, index).await? {
                    return Ok(false);
                }
                inner.repair(&lease, index, block, content).await?;
                inner.may_acknowledge(&lease).await.map(|()| true)
            };
            match outcome.await {
                Ok(false) => return Ok(()),
                Ok(true) => {
                    tracing::warn!(
                        "file {}: block {block} of chunk {index} was damaged and is repaired",
                        inner.file_id
                    );
                    return Ok(());
                }
                Err(Stop::Broken) => {}
                Err(Stop::Fatal(error)) => return Err(error),
            }
        }
    }
}

impl Inner {
    /// Whether a block of this chunk can be repaired now. Not where it has been cut off, which writing would undo.
    async fn takes_repairs(&self, lease: &Rc<Lease>, index: u64) -> Result<bool, Stop> {
        let chunk = self.chunk(lease, index, Need::Read).await?;
        Ok(chunk.is_some_and(|chunk| !chunk.blocked.get()))
    }

    async fn read_parts(&self, lease: &Rc<Lease>, parts: &[Part]) -> Result<Vec<(Found, Vec<u32>)>, Stop> {
        let found = if let [only] = parts {
            vec![self.read_part(lease, *only).await?]
        } else {
            all(parts.iter().map(|&part| {
                let future: Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(self.read_part(lease, part));
                future
            }))
            .await?
        };
        self.may_acknowledge(lease).await?;
        Ok(found)
    }

    /// Reads a part from the first member that has it whole; also gives the blocks that were damaged elsewhere. A member
    /// that is away, busy or silent is left for the next one.
    async fn read_part(&self, lease: &Rc<Lease>, part: Part) -> Result<(Found, Vec<u32>), Stop> {
        let mut damaged = BTreeSet::new();
        let mut patience = Patience::default();
        let mut look = LOOK_MIN;
        let mut look_at = None;
        let mut refused_at = None;
        loop {
            if lease.is_broken() {
                return Err(Stop::Broken);
            }
            let Some(chunk) = self.chunk(lease, part.index, Need::Read).await? else {
                return Ok((Found::Zeroes, Vec::new()));
            };
            let mut refusal = None;
            let mut pause: Option<Duration> = None;
            let first = first_of(&chunk);
            for turn in 0..chunk.members.len() {
                let server = &chunk.members[(first + turn) % chunk.members.len()];
                let asked = rt::time::now();
                match self.read_member(lease, &chunk, server, part, &mut patience).await? {
                    Answer::Found(found) => {
                        server.quickness().note(rt::time::now(), asked.elapsed());
                        return Ok((found, damaged.into_iter().collect()));
                    }
                    Answer::Damaged(Some(block)) => damaged.extend(Some(block)),
                    Answer::Damaged(None) => damaged.extend(part.blocks()),
                    Answer::Refused(error) => refusal = Some(error),
                    Answer::Later(after) => {
                        server.quickness().note_none(rt::time::now(), asked.elapsed());
                        pause = Some(pause.map_or(after, |pause| pause.min(after)));
                    }
                }
            }
            let Some(pause) = pause else {
                // All its replicas may be elsewhere by now: what is asked was it once.
                if refused_at != Some(chunk.version) && damaged.is_empty() {
                    refused_at = Some(chunk.version);
                    self.look_for_others(lease, &chunk).await?;
                    continue;
                }
                // Each may have other blocks damaged.
                if !damaged.is_empty() && part.blocks().len() > 1 {
                    return Box::pin(self.read_by_block(lease, part)).await;
                }
                let block = damaged.first().copied().unwrap_or(part.offset / BLOCK as u32);
                return Err(refusal.unwrap_or(VolumeError::Corrupt { index: part.index, block }).into());
            };
            let is_there = chunk.members.iter().any(|server| server.is_connected());
            let worth_it = async {
                if is_there {
                    rt::time::sleep(pause).await;
                    Ok(())
                } else {
                    self.any_connected(lease, &chunk.members).await
                }
            };
            let due = *look_at.get_or_insert_with(|| rt::time::now() + look);
            let waited = rt::time::timeout_at(due, worth_it);
            match Box::pin(until_replaced(lease, &chunk, waited)).await {
                Ok(Ok(waited)) => waited?,
                Ok(Err(_)) | Err(Halt::Replaced) => {}
                Err(Halt::Stop(stop)) => return Err(stop),
            }
            // Others may have it by now, also while a member answers that it cannot: nobody who only reads would ever be told.
            if rt::time::now() >= due {
                look = (look * 2).min(LOOK_MAX);
                self.look_for_others(lease, &chunk).await?;
                look_at = None;
            }
        }
    }

    /// Reads a part of which no member has everything, block by block.
    async fn read_by_block(&self, lease: &Rc<Lease>, part: Part) -> Result<(Found, Vec<u32>), Stop> {
        let (mut data, mut damaged) = (Buf::zeroed(part.len as usize), Vec::new());
        let end = part.offset + part.len;
        let mut offset = part.offset;
        while offset < end {
            let next = end.min((offset / BLOCK as u32 + 1) * BLOCK as u32);
            let (found, bad) = self.read_part(lease, Part { offset, len: next - offset, ..part }).await?;
            if let Found::Data(found) = found {
                let at = (offset - part.offset) as usize;
                data[at..at + found.len()].copy_from_slice(&found);
            }
            damaged.extend(bad);
            offset = next;
        }
        Ok((Found::Data(data.freeze()), damaged))
    }

    /// Asks whether others have a chunk whose members cannot be read.
    async fn look_for_others(&self, lease: &Rc<Lease>, chunk: &Rc<Chunk>) -> Result<(), Stop> {
        match Box::pin(self.look_at_map(lease, chunk)).await {
            Ok(()) | Err(Halt::Replaced) => Ok(()),
            Err(Halt::Stop(stop)) => Err(stop),
        }
    }

    /// Reads a part from one member.
    async fn read_member(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        server: &Rc<Server>,
        part: Part,
        patience: &mut Patience,
    ) -> Result<Answer, Stop> {
        let request = Read {
            target: Target {
                file: self.file_id,
                epoch: lease.epoch,
                chunk: chunk.id,
                version: chunk.version,
            },
            offset: part.offset,
            len: part.len,
            unsettled: false,
        };
        let mut body = Vec::new();
        request.encode(&mut body);
        let message = Message { op: Op::Read, body, payload: None, reply_bytes: part.len as usize };
        // Damage on the way shows once; damage at rest shows again.
        for _ in 0..2 {
            let reply = match self.ask_member(lease, chunk, server, &message).await? {
                Attempt::Done(reply) => reply,
                Attempt::Refused(refused) => return self.read_refused(lease, chunk, server, part, &refused),
                Attempt::Busy(busy) => {
                    patience.note(server, &busy);
                    return Ok(Answer::Later(busy.pause));
                }
                Attempt::Later => return Ok(Answer::Later(BUSY_PAUSE)),
            };
            let decoded = ReadReply::decode(&reply.body, reply.payload.len() as u32);
            let Ok((answer, crcs)) = decoded else { continue };
            if !answer.answers(&request) {
                continue;
            }
            if answer.zeroes {
                return Ok(Answer::Found(Found::Zeroes));
            }
            if wire::crc::verify_blocks(part.offset.into(), &reply.payload, crcs.iter()).is_ok() {
                return Ok(Answer::Found(Found::Data(reply.payload)));
            }
        }
        Ok(Answer::Damaged(None))
    }

    /// One attempt at one member, with less patience while another one is there.
    async fn ask_member(
        &self,
        lease: &Rc<Lease>,
        chunk: &Chunk,
        server: &Rc<Server>,
        message: &Message,
    ) -> Result<Attempt, Stop> {
        let Some(live) = server.live() else {
            server.connect_in_background();
            return Ok(Attempt::Later);
        };
        let is_other = |other: &Rc<Server>| other.id() != server.id() && other.is_connected();
        let patience = if chunk.members.iter().any(is_other) { READ_ATTEMPT } else { ATTEMPT };
        self.attempt(lease, server, &live, message, patience).await
    }

    /// What a member's refusal to read means.
    fn read_refused(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        server: &Rc<Server>,
        part: Part,
        refused: &Refused,
    ) -> Result<Answer, Stop> {
        if remedy(refused, chunk.version) == Remedy::AskAgain {
            // It will have installed the version soon; another member may have by now.
            return Ok(Answer::Later(Duration::from_millis(5 + rt::random::below(45))));
        }
        tracing::warn!("reading from chunk server {}: {}: {}", server.id(), refused.status, refused.text);
        match refused.status.action() {
            Action::ReadElsewhere => Ok(Answer::Damaged(bad_block(part, refused))),
            Action::RefreshMap => {
                self.forget_chunk(lease, chunk);
                Ok(Answer::Later(BUSY_PAUSE))
            }
            // Settling is for an epoch of its own, whose fence lets no write through that is under way now. Where that
            // was done already, and for a reader who may not, the block is as good as damaged.
            Action::Settle if self.writable && !chunk.settled_here.get() => {
                lease.break_off();
                Err(Stop::Broken)
            }
            Action::Settle => Ok(Answer::Damaged(bad_block(part, refused))),
            // Nothing that writing the block again would mend.
            action => {
                if action == Action::ReportMember {
                    self.report_in_background(lease, chunk, server, refused.status);
                }
                let text = format!("{}: {}", refused.status, refused.text);
                Ok(Answer::Refused(VolumeError::Refused { cs: server.id(), text }))
            }
        }
    }

    /// What lies from `at` on, as far as one question tells.
    async fn status_from(&self, lease: &Rc<Lease>, at: u64, end: u64) -> Result<Vec<Run>, Stop> {
        let index = at / self.chunk_size;
        let next = self.next_chunk(lease, index..end.div_ceil(self.chunk_size)).await?;
        if next > index {
            let until = next.saturating_mul(self.chunk_size).min(end);
            return Ok(vec![Run { len: until - at, data: false }]);
        }
        let from = at % self.chunk_size;
        let len = (self.chunk_size - from).min(end - at);
        self.status_of(lease, index, from as u32, len as u32).await
    }

    async fn status_of(
        &self,
        lease: &Rc<Lease>,
        index: u64,
        offset: u32,
        len: u32,
    ) -> Result<Vec<Run>, Stop> {
        let Some(chunk) = self.chunk(lease, index, Need::Read).await? else {
            return Ok(vec![Run { len: u64::from(len), data: false }]);
        };
        let target =
            Target { file: self.file_id, epoch: lease.epoch, chunk: chunk.id, version: chunk.version };
        let request = BlockStatus { target, offset, len };
        let mut body = Vec::new();
        request.encode(&mut body);
        let message = Message { op: Op::BlockStatus, body, payload: None, reply_bytes: 0 };
        let first = first_of(&chunk);
        for turn in 0..chunk.members.len() {
            let server = &chunk.members[(first + turn) % chunk.members.len()];
            if let Attempt::Done(reply) = self.ask_member(lease, &chunk, server, &message).await? {
                return Ok(status_runs(server, &reply.body, offset, len)?);
            }
        }
        // Not knowing is answered by the safe side: there may be data.
        Ok(vec![Run { len: u64::from(len), data: true }])
    }
}

/// The block that a member says is damaged, if it lies in what was asked for.
fn bad_block(part: Part, refused: &Refused) -> Option<u32> {
    let block = u32::try_from(refused.detail).ok()?;
    part.blocks().contains(&block).then_some(block)
}

/// Which member to ask first.
fn first_of(chunk: &Chunk) -> usize {
    let members = &chunk.members;
    let Some(home) = members.get(chunk.home) else { return 0 };
    let expected = |index: usize| {
        let server = &members[index];
        server.is_connected().then(|| server.quickness().expected())
    };
    let first = quickness::choose(chunk.home, members.len(), expected);
    if first == chunk.home {
        return first;
    }
    if !home.is_connected() {
        home.connect_in_background();
    } else if home.quickness().has_rested(rt::time::now()) {
        return chunk.home;
    }
    first
}

/// The runs of a member's answer, which begin at `offset` and reach at most `len` far.
fn status_runs(server: &Server, body: &[u8], offset: u32, len: u32) -> Result<Vec<Run>, VolumeError> {
    let refused = |text: String| VolumeError::Refused { cs: server.id(), text };
    let reply = BlockStatusReply::decode(body).map_err(|error| refused(error.to_string()))?;
    let runs = reply.runs.iter();
    let runs: Vec<Run> =
        runs.map(|run| Run { len: u64::from(run.blocks) * BLOCK, data: run.kind == RunKind::Data }).collect();
    let covered: u64 = runs.iter().map(|run| run.len).sum();
    // It may end early, never late.
    if reply.offset != offset || covered == 0 || covered > u64::from(len) {
        return Err(refused("a block status of another range".into()));
    }
    Ok(runs)
}

/// Splits a range at chunk borders and at the most that one request carries.
fn split(offset: u64, len: u64, chunk_size: u64) -> Vec<Part> {
    let mut parts = Vec::new();
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let in_chunk = at % chunk_size;
        let part = (chunk_size - in_chunk).min(end - at).min(PART_MAX - in_chunk % BLOCK);
        parts.push(Part { index: at / chunk_size, offset: in_chunk as u32, len: part as u32 });
        at += part;
    }
    parts
}
