//! A verifying load: a writer that keeps many requests under way on an export and knows what every block may hold.
//!
//! It writes (some with FUA), trims, writes zeroes, flushes and reads back, at random places of an area of its own, with
//! ranges that overlap others under way. Every read is judged, and after a crash [`Load::judge`] judges the whole area.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::deadline::{Deadline, Stopwatch};
use crate::nbd::{self, Answer, Client, NbdError, Request};
use crate::oracle::{FlushToken, Oracle, Violation};
use crate::seeded::Seeded;

/// Requests under way.
const DEPTH: usize = 16;
/// Longest range of a request, in bytes.
const REQUEST_MAX: u64 = 64 << 10;
/// Bytes per read of a judgement.
const JUDGE_BYTES: u64 = 1 << 20;

/// Why a load ended early.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The connection broke, or nothing was answered in time.
    #[error(transparent)]
    Nbd(#[from] NbdError),
    /// A request was answered with an error.
    #[error("{request:?} at {offset} (+{len}) was answered with errno {error}")]
    Refused {
        /// What was asked.
        request: Request,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u64,
        /// The answer.
        error: u32,
    },
    /// A read, with the whole cluster up, found what must not be there.
    #[error("read back: {0}")]
    Violation(#[from] Violation),
    /// An answer to no request.
    #[error("an answer came for cookie {0}, which is not under way")]
    Unasked(u64),
}

/// What was answered so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes.
    pub writes: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Trims and writes of zeroes.
    pub zeroings: u64,
    /// Reads, each judged.
    pub reads: u64,
    /// The longest time between two answers.
    pub longest_wait: Duration,
}

impl Counts {
    /// Requests answered.
    pub fn all(&self) -> u64 {
        self.writes + self.flushes + self.zeroings + self.reads
    }
}

/// What others see of one run of a load, and how they end it. A stop that was asked for before the run began holds.
#[derive(Debug, Default)]
pub struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    answered: u64,
    stop: bool,
    ended: bool,
}

impl Progress {
    /// Waits until `more` further requests have been answered. False if the load ended or the limit passed before.
    pub fn advances(&self, more: u64, limit: Duration) -> bool {
        let deadline = Deadline::after(limit);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = state.answered + more;
        while state.answered < wanted && !state.ended && !deadline.passed() {
            let waited = self.changed.wait_timeout(state, deadline.remaining());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.answered >= wanted
    }

    /// Asks the load to take what is under way to its end and return.
    pub fn stop(&self) {
        self.with(|state| state.stop = true);
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
        changed
    }
}

/// Tells those who watch that a run is over, also when it panics.
struct Ended<'a>(&'a Progress);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.with(|state| state.ended = true);
    }
}

/// A request under way.
#[derive(Debug)]
struct Op {
    request: Request,
    /// In blocks of the oracle.
    blocks: Range<u64>,
    /// Id of a write.
    id: u64,
    fua: bool,
    token: Option<FlushToken>,
}

/// The load, and all it knows about its area.
#[derive(Debug)]
pub struct Load {
    oracle: Oracle,
    seeded: Seeded,
    area: Range<u64>,
    /// Flushes among 100 requests, and half as many of the others with FUA.
    flush_percent: u64,
    last_id: u64,
    under_way: BTreeMap<u64, Op>,
    counts: Counts,
}

impl Load {
    /// A load on the bytes of `area`, which hold zeroes. `block_bytes` is the unit that must not tear and of which all
    /// ranges are multiples: 4096, or 512 for writes that share blocks of the volume.
    ///
    /// # Panics
    /// If the area is not made of such blocks, or has fewer than a request may cover.
    pub fn new(seed: u64, area: Range<u64>, block_bytes: usize) -> Self {
        let unit = block_bytes as u64;
        assert!(area.start.is_multiple_of(unit) && area.end.is_multiple_of(unit), "an area of whole blocks");
        assert!(area.end - area.start >= REQUEST_MAX, "an area of some size");
        let oracle = Oracle::with_block_bytes(seed, block_bytes);
        let seeded = Seeded::new(seed);
        let (under_way, counts) = (BTreeMap::new(), Counts::default());
        Self { oracle, seeded, area, flush_percent: 7, last_id: 0, under_way, counts }
    }

    /// Flushes seldom, so that much is at stake at every moment.
    #[must_use]
    pub fn rarely_flushed(self) -> Self {
        Self { flush_percent: 1, ..self }
    }

    /// What was answered so far, over all runs.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Works until told to stop; then everything has been answered.
    ///
    /// # Errors
    /// [`LoadError`]. What was under way stays unanswered for ever.
    pub fn run(&mut self, client: &mut Client, progress: &Progress) -> Result<(), LoadError> {
        let _ended = Ended(progress);
        let outcome = self.work(client, progress);
        // Unanswered requests may still take effect, or not: so the oracle has it without being told.
        self.under_way.clear();
        outcome
    }

    fn work(&mut self, client: &mut Client, progress: &Progress) -> Result<(), LoadError> {
        let mut clock = Stopwatch::start();
        loop {
            let stop = progress.with(|state| state.stop);
            while !stop && self.under_way.len() < DEPTH {
                self.issue(client)?;
            }
            if self.under_way.is_empty() {
                return Ok(());
            }
            let answer = client.receive()?;
            self.counts.longest_wait = self.counts.longest_wait.max(clock.elapsed());
            clock = Stopwatch::start();
            self.take(answer)?;
            progress.with(|state| state.answered += 1);
        }
    }

    /// Sends the next request of the seed's choice.
    fn issue(&mut self, client: &mut Client) -> Result<(), NbdError> {
        let request = match self.seeded.below(100) {
            0..64 => Request::Write,
            64..88 => Request::Read,
            88..94 => Request::Trim,
            _ => Request::WriteZeroes,
        };
        if self.seeded.chance(self.flush_percent) {
            let request = Request::Flush;
            let token = Some(self.oracle.flush_started());
            let cookie = client.send(request, 0, 0, 0, &[])?;
            self.under_way.insert(cookie, Op { request, blocks: 0..0, id: 0, fua: false, token });
            return Ok(());
        }
        let blocks = self.draw_range();
        // A read is judged by what was answered before it began, so nothing may write there meanwhile.
        let is_read = |op: &Op| op.request == Request::Read;
        let meets = |op: &Op| op.blocks.start < blocks.end && blocks.start < op.blocks.end;
        let is_in_the_way = |op: &Op| {
            meets(op) && (is_read(op) != (request == Request::Read)) && op.request != Request::Flush
        };
        if self.under_way.values().any(is_in_the_way) {
            return Ok(());
        }
        self.issue_at(client, request, blocks)
    }

    fn draw_range(&mut self) -> Range<u64> {
        let unit = self.oracle.block_bytes() as u64;
        let (first, end) = (self.area.start / unit, self.area.end / unit);
        let most = REQUEST_MAX / unit;
        // Mostly short, as programs write, and all lengths up to the longest.
        let longest = if self.seeded.chance(70) { most.min(8192 / unit) } else { most };
        let len = 1 + self.seeded.below(longest);
        // A quarter of all requests meet in a small part, so that they overlap.
        let span = if self.seeded.chance(25) { (1 << 20) / unit } else { end - first };
        let start = first + self.seeded.below(span.min(end - first) - len.min(span) + 1);
        start..(start + len).min(end)
    }

    fn issue_at(
        &mut self,
        client: &mut Client,
        request: Request,
        blocks: Range<u64>,
    ) -> Result<(), NbdError> {
        let unit = self.oracle.block_bytes() as u64;
        let len = ((blocks.end - blocks.start) * unit) as u32;
        let mut payload = Vec::new();
        self.last_id += 1;
        let id = self.last_id;
        match request {
            Request::Write => {
                payload = vec![0; len as usize];
                for (block, content) in blocks.clone().zip(payload.chunks_mut(unit as usize)) {
                    self.oracle.stamp(block, id, content);
                    self.oracle.issued(block, id);
                }
            }
            Request::Trim | Request::WriteZeroes => {
                blocks.clone().for_each(|block| self.oracle.issued_zeroes(block, id));
            }
            _ => {}
        }
        let fua = request != Request::Read && self.seeded.chance(self.flush_percent.div_ceil(2));
        let mut flags = if fua { nbd::FUA } else { 0 };
        if request == Request::WriteZeroes && self.seeded.chance(30) {
            flags |= nbd::NO_HOLE;
        }
        let cookie = client.send(request, flags, blocks.start * unit, len, &payload)?;
        self.under_way.insert(cookie, Op { request, blocks, id, fua, token: None });
        Ok(())
    }

    fn take(&mut self, answer: Answer) -> Result<(), LoadError> {
        let op = self.under_way.remove(&answer.cookie).ok_or(LoadError::Unasked(answer.cookie))?;
        let unit = self.oracle.block_bytes() as u64;
        let len = (op.blocks.end - op.blocks.start) * unit;
        if answer.error != 0 {
            let (request, offset, error) = (op.request, op.blocks.start * unit, answer.error);
            return Err(LoadError::Refused { request, offset, len, error });
        }
        match op.request {
            Request::Read => {
                for (block, data) in op.blocks.zip(answer.data.chunks(unit as usize)) {
                    self.oracle.check_acknowledged(block, data)?;
                }
                self.counts.reads += 1;
            }
            Request::Flush => {
                if let Some(token) = op.token {
                    self.oracle.flush_completed(token);
                }
                self.counts.flushes += 1;
            }
            Request::Write | Request::Trim | Request::WriteZeroes => {
                for block in op.blocks {
                    match op.fua {
                        true => self.oracle.completed_durably(block, op.id),
                        false => self.oracle.completed(block, op.id),
                    }
                }
                match op.request {
                    Request::Write => {
                        (self.counts.writes, self.counts.bytes) =
                            (self.counts.writes + 1, self.counts.bytes + len)
                    }
                    _ => self.counts.zeroings += 1,
                }
            }
            Request::Disconnect => {}
        }
        Ok(())
    }

    /// Reads the whole area after a crash and judges every block: what a completed flush covered is there. What is found
    /// is from now on what must be there.
    ///
    /// # Errors
    /// [`LoadError`] when it cannot be read; violations are the result.
    pub fn judge(&mut self, client: &mut Client) -> Result<Vec<Violation>, LoadError> {
        self.read_all(client, Oracle::settle)
    }

    /// Reads the whole area without a crash before, and judges every block: what was answered is there.
    ///
    /// # Errors
    /// [`LoadError`] when it cannot be read; violations are the result.
    pub fn judge_acknowledged(&mut self, client: &mut Client) -> Result<Vec<Violation>, LoadError> {
        self.read_all(client, |oracle, block, data| oracle.check_acknowledged(block, data))
    }

    fn read_all(
        &mut self,
        client: &mut Client,
        check: impl Fn(&mut Oracle, u64, &[u8]) -> Result<(), Violation>,
    ) -> Result<Vec<Violation>, LoadError> {
        let unit = self.oracle.block_bytes() as u64;
        let mut violations = Vec::new();
        let mut offset = self.area.start;
        while offset < self.area.end {
            let len = JUDGE_BYTES.min(self.area.end - offset);
            let answer = client.ask(Request::Read, offset, len as u32, &[])?;
            if answer.error != 0 {
                return Err(LoadError::Refused { request: Request::Read, offset, len, error: answer.error });
            }
            for (block, data) in (offset / unit..).zip(answer.data.chunks(unit as usize)) {
                violations.extend(check(&mut self.oracle, block, data).err());
            }
            offset += len;
        }
        Ok(violations)
    }
}

#[cfg(test)]
mod tests;
