//! Writing: to all members and joiners at once, acknowledged when all have it (C3).
//!
//! A write keeps its number until it is answered. When the chunk gets another version meanwhile, it goes to everybody who is in that
//! one, under the same number: who has it already says so (C11). It is answered when all have answered under the same version.

use std::pin::Pin;
use std::rc::Rc;

use rt::buf::{Buf, View};
use wire::data::{Target, Write, WriteKind, WriteReply};
use wire::{Op, Status};

use super::call::{Message, all, unless_replaced};
use super::lease::{Chunk, Issued, Landed, Lease};
use super::map::Need;
use super::{BLOCK, BUSY_PAUSE, Halt, Inner, PART_MAX, Stop, Volume};
use crate::error::VolumeError;
use crate::servers::Server;

/// Chunks zeroed side by side.
const ZEROED_AT_ONCE: u64 = 64;

/// What a write does.
#[derive(Clone, Debug)]
enum Change {
    Data(View),
    Zeroes,
    Discard,
}

/// A part of a write that lies in one chunk.
#[derive(Clone, Debug)]
struct Part {
    index: u64,
    offset: u32,
    len: u32,
    change: Change,
    /// Plain CRC32C per block, made once over data that nobody can change any more (C8).
    crcs: Vec<u32>,
}

impl Part {
    /// Where it ends in the file.
    fn end(&self, chunk_size: u64) -> u64 {
        self.index * chunk_size + u64::from(self.offset) + u64::from(self.len)
    }
}

impl Volume {
    /// Writes `data` at `offset`. Answered when everybody in the chunks has it; durable after the next
    /// [`Volume::flush`].
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn write(&self, offset: u64, data: View) -> Result<(), VolumeError> {
        self.change(offset, data.len() as u64, Change::Data(data)).await
    }

    /// Makes a range read as zero. `punch` allows giving the space back.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn write_zeroes(&self, offset: u64, len: u64, punch: bool) -> Result<(), VolumeError> {
        self.change(offset, len, if punch { Change::Discard } else { Change::Zeroes }).await
    }

    /// Gives a range back; it reads as zero afterwards.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn discard(&self, offset: u64, len: u64) -> Result<(), VolumeError> {
        self.change(offset, len, Change::Discard).await
    }

    async fn change(&self, offset: u64, len: u64, change: Change) -> Result<(), VolumeError> {
        let inner = &self.inner;
        if !inner.writable {
            return Err(VolumeError::ReadOnly);
        }
        self.check_range(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let is_data = matches!(change, Change::Data(_));
        let started = rt::time::now();
        let weight = if is_data { len } else { BLOCK };
        let _budget = inner.budget.acquire(weight).await;
        // Whole blocks: two writes to parts of one block must not be merged side by side.
        let range = offset / BLOCK * BLOCK..(offset + len).next_multiple_of(BLOCK);
        let _range = inner.ranges.exclusive(range).await;
        // Data is summed up once; zeroes may span more chunks than there is memory for.
        let parts = if is_data { split(offset, len, inner.chunk_size, &change) } else { Vec::new() };
        let mut zeroed = offset;
        let mut was_corrupt = false;
        loop {
            let lease = inner.usable_lease().await?;
            let outcome = async {
                if !is_data {
                    Box::pin(inner.zero_chunks(&lease, &mut zeroed, offset + len, &change)).await?;
                    return Ok(Vec::new());
                }
                if inner.grows.get() && offset + len > inner.size.get() {
                    Box::pin(inner.settle_end(&lease)).await?;
                }
                inner.write_parts(&lease, &parts).await
            };
            match outcome.await {
                Ok(landed) => {
                    if is_data && inner.grows.get() {
                        self.extend(offset + len);
                    }
                    drop(landed);
                    break;
                }
                Err(Stop::Broken) => {}
                // A member's block may have rotted since it was settled: the next epoch mends it from another one that has it.
                Err(Stop::Fatal(VolumeError::Corrupt { .. })) if !was_corrupt => {
                    was_corrupt = true;
                    lease.break_off();
                }
                // No chunk could be had; where a member had no room the epoch is broken off already.
                Err(Stop::Fatal(VolumeError::NoSpace)) => return Err(VolumeError::NoSpace),
                Err(Stop::Fatal(error)) => {
                    // Some members may have it and others not: the next epoch settles that (C5).
                    lease.break_off();
                    return Err(error);
                }
            }
        }
        inner.session.report(|io| {
            let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            io.write_ops += 1;
            io.write_bytes += len;
            io.latency_us_max = io.latency_us_max.max(took);
        });
        Ok(())
    }
}

impl Inner {
    /// Gives what has to be kept until the size of the file tells of them.
    async fn write_parts<'a>(&self, lease: &'a Rc<Lease>, parts: &[Part]) -> Result<Vec<Landed<'a>>, Stop> {
        let landed = if let [only] = parts {
            self.write_part(lease, only).await?.into_iter().collect()
        } else {
            let landed = all(parts.iter().map(|part| {
                let future: Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(self.write_part(lease, part));
                future
            }));
            landed.await?.into_iter().flatten().collect()
        };
        self.may_acknowledge(lease).await?;
        Ok(landed)
    }

    /// Zeroes the chunks that are there from `at` to `end`, some at a time. `at` tells how far it has come: what has been answered
    /// under one epoch need not be done again under the next.
    async fn zero_chunks(
        &self,
        lease: &Rc<Lease>,
        at: &mut u64,
        end: u64,
        change: &Change,
    ) -> Result<(), Stop> {
        while *at < end {
            let first = *at / self.chunk_size;
            let index = self.next_chunk(lease, first..end.div_ceil(self.chunk_size)).await?;
            *at = index.saturating_mul(self.chunk_size).clamp(*at, end);
            let upto = (index + ZEROED_AT_ONCE).saturating_mul(self.chunk_size).min(end);
            self.write_parts(lease, &split(*at, upto - *at, self.chunk_size, change)).await?;
            *at = upto;
        }
        self.may_acknowledge(lease).await
    }

    async fn write_part<'a>(&self, lease: &'a Rc<Lease>, part: &Part) -> Result<Option<Landed<'a>>, Stop> {
        let need = match part.change {
            Change::Data(_) => Need::Data { end: part.end(self.chunk_size) },
            Change::Zeroes | Change::Discard => Need::Zero,
        };
        let mut issued: Option<Issued<'_>> = None;
        loop {
            let Some(chunk) = self.chunk(lease, part.index, need).await? else {
                // Zeroes over what was never written. (With a number given out something was there: dropping that ends the epoch.)
                return Ok(None);
            };
            let seq = issued.get_or_insert_with(|| Issued::write(lease, part.index)).seq;
            // Whoever waits for a server that is not needed any more is woken by the new version.
            let sent = if let ([only], []) = (&chunk.members[..], &chunk.joiners[..]) {
                let mut send = std::pin::pin!(self.write_member(lease, &chunk, only, part, seq));
                unless_replaced(&chunk, send.as_mut()).await.and_then(|sent| sent)
            } else {
                let sends = chunk.targets().map(|server| {
                    let future: Pin<Box<dyn Future<Output = _> + '_>> =
                        Box::pin(self.write_member(lease, &chunk, server, part, seq));
                    future
                });
                let sent = unless_replaced(&chunk, all(sends)).await.and_then(|sent| sent);
                sent.map(|answers| answers.into_iter().any(|flush_soon| flush_soon))
            };
            let flush_soon = match sent {
                Ok(flush_soon) if !chunk.is_replaced() => flush_soon,
                // Answers of the version before say nothing of who has come since.
                Ok(_) | Err(Halt::Replaced) => continue,
                Err(Halt::Stop(stop)) => return Err(stop),
            };
            lease.note_unstable(&chunk, seq);
            let is_growing = self.grows.get() && part.end(self.chunk_size) > self.size.get();
            let landed = is_growing.then(|| Landed::new(lease, part.index));
            if let Some(issued) = issued.take() {
                issued.answered();
            }
            if flush_soon {
                self.flush_in_background(lease);
            }
            return Ok(landed);
        }
    }

    /// Sends one part to one member or joiner until it has it, or the chunk has another version.
    ///
    /// A server never refuses this number as answered before (`DedupRefused`), however often it is sent: it refuses what lies below the
    /// highest `done` it has seen, and no request says more than the lowest number that is not answered ([`Window::done`]). If one did,
    /// that would be an error like other refusals for good, never an acknowledgement.
    ///
    /// [`Window::done`]: super::window::Window::done
    async fn write_member(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        server: &Rc<Server>,
        part: &Part,
        seq: u64,
    ) -> Result<bool, Halt> {
        lease.window.borrow_mut().touch(server.id(), seq);
        loop {
            let message = self.write_message(lease, chunk, part, seq);
            match self.request(lease, server, &message).await? {
                Ok(reply) => {
                    let reply = WriteReply::decode(&reply.body)
                        .map_err(|error| VolumeError::Refused { cs: server.id(), text: error.to_string() })?;
                    return Ok(reply.flush_soon);
                }
                Err(refused) if refused.status == Status::NeedFlush => {
                    let stable = lease.window.borrow().stable();
                    Box::pin(self.flush_under(lease)).await?;
                    if lease.window.borrow().stable() == stable {
                        // Another write, which waits for space perhaps, keeps it from moving.
                        rt::time::sleep(BUSY_PAUSE).await;
                    }
                }
                Err(refused)
                    if rt::sim::planted("acked-before-commit") && refused.status == Status::Timeout =>
                {
                    self.report_in_background(lease, chunk, server, refused.status);
                    return Ok(false);
                }
                Err(refused) => Box::pin(self.overcome(lease, chunk, server, &refused)).await?,
            }
        }
    }

    fn write_message(&self, lease: &Lease, chunk: &Chunk, part: &Part, seq: u64) -> Message {
        let window = lease.window.borrow();
        let write = Write {
            target: Target {
                file: self.file_id,
                epoch: lease.epoch,
                chunk: chunk.id,
                version: chunk.version,
            },
            seq,
            done: window.done().min(seq),
            stable: window.stable().min(window.done().min(seq)),
            offset: part.offset,
            len: part.len,
            kind: match part.change {
                Change::Data(_) => WriteKind::Data,
                Change::Zeroes => WriteKind::Zeroes,
                Change::Discard => WriteKind::Discard,
            },
            fua: false,
            stripe_version: 0,
        };
        let mut body = Vec::new();
        write.encode(&part.crcs, &mut body);
        let payload = match &part.change {
            Change::Data(data) => Some(data.clone()),
            _ => None,
        };
        Message { op: Op::Write, body, payload, reply_bytes: 0 }
    }

    /// Replaces a damaged block everywhere by the good content found on another member (C8). The caller holds the
    /// range for itself.
    pub(crate) async fn repair(
        &self,
        lease: &Rc<Lease>,
        index: u64,
        block: u32,
        content: Buf,
    ) -> Result<(), Stop> {
        let offset = block * BLOCK as u32;
        let mut crcs = Vec::new();
        wire::crc::block_crcs(offset.into(), &content, &mut crcs);
        let part = Part { index, offset, len: BLOCK as u32, change: Change::Data(content.freeze()), crcs };
        self.write_part(lease, &part).await.map(drop)
    }
}

/// Splits a range at chunk borders, and data at the most that one request carries.
fn split(offset: u64, len: u64, chunk_size: u64, change: &Change) -> Vec<Part> {
    let mut parts = Vec::new();
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let in_chunk = at % chunk_size;
        let mut part = (chunk_size - in_chunk).min(end - at);
        if matches!(change, Change::Data(_)) {
            // Parts end at block borders, so that only the ends of the whole write are parts of blocks.
            let room = PART_MAX - in_chunk % BLOCK;
            part = part.min(room);
        }
        let mut crcs = Vec::new();
        let change = match change {
            Change::Data(data) => {
                let from = (at - offset) as usize;
                let data = data.slice(from..from + part as usize);
                wire::crc::block_crcs(in_chunk, &data, &mut crcs);
                Change::Data(data)
            }
            other => other.clone(),
        };
        parts.push(Part { index: at / chunk_size, offset: in_chunk as u32, len: part as u32, change, crcs });
        at += part;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_split_at_chunks_and_blocks() {
        let chunk = 4 << 20;
        let data = Change::Data(View::copy_of(&vec![7; 3 << 20]));
        let parts = split(chunk - 1000, 3 << 20, chunk, &data);
        let shape: Vec<_> = parts.iter().map(|p| (p.index, u64::from(p.offset), u64::from(p.len))).collect();
        assert_eq!(shape[0], (0, chunk - 1000, 1000));
        assert_eq!(shape[1], (1, 0, 1 << 20));
        assert_eq!(shape.iter().map(|s| s.2).sum::<u64>(), 3 << 20);
        for part in &parts[1..parts.len() - 1] {
            assert_eq!((u64::from(part.offset) + u64::from(part.len)) % BLOCK, 0);
        }
        for part in &parts {
            let blocks = (part.offset % 4096 + part.len).div_ceil(4096);
            assert_eq!(part.crcs.len(), blocks as usize);
        }
        let parts = split(100, 2 * chunk, chunk, &Change::Discard);
        assert_eq!(parts.iter().map(|p| p.index).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
