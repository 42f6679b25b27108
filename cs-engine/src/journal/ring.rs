//! The writer of the ring: gathering appends into groups, writing them, moving the tail.

use std::io;
use std::rc::Rc;

use rt::buf::{Buf, View};

use super::{AppendError, Appended, Class, Hold, Journal, PRESSURE, Pending};
use crate::format::journal::{GROUP_HEADER, GROUP_MAX, GroupHeader, JournalHeader};
use crate::format::{BLOCK, crc32c};

impl Hold {
    /// The classes that it lets pass.
    fn passing(self) -> &'static [Class] {
        match self {
            Self::Nothing => &Class::ALL,
            Self::Requests => &[Class::Checkpoint],
            Self::Everything => &[],
        }
    }
}

impl Journal {
    pub(super) async fn write_groups(self: Rc<Self>) {
        loop {
            let wake = self.floors.work.notified();
            if self.check_open().is_err() {
                break;
            }
            self.tell_pressure();
            match self.gather() {
                Some(batch) => {
                    drop(wake);
                    self.write_group(batch).await;
                    self.floors.tell_quiet();
                }
                None => {
                    if self.stuck.get() && self.held.get() == Hold::Nothing {
                        self.refuse(&[Class::Urgent, Class::Normal], &AppendError::Full);
                    }
                    self.floors.starving.set(self.queues.iter().any(|queue| !queue.borrow().is_empty()));
                    wake.await;
                }
            }
        }
        let error = self.check_open().err().unwrap_or(AppendError::Closed);
        self.refuse(&Class::ALL, &error);
        self.floors.tell_quiet();
    }

    fn refuse(&self, classes: &[Class], error: &AppendError) {
        for class in classes {
            let left: Vec<Pending> = self.queues[*class as usize].borrow_mut().drain(..).collect();
            for pending in left {
                // Whoever asked may have gone.
                let _gone = pending.answer.send(Err(error.clone()));
            }
        }
    }

    /// Asks for a checkpoint when one could free a good part of the ring. How much is used does not matter: what
    /// is held by a floor no checkpoint can free.
    fn tell_pressure(&self) {
        if self.complete() - self.tail() > self.ring_bytes() / PRESSURE {
            self.pressure.notify_one();
        }
    }

    /// Takes what fits into one group and into the ring, the more urgent first; the others follow in the same group, so that
    /// none waits for ever.
    fn gather(&self) -> Option<Vec<Pending>> {
        let free = self.ring_bytes() - (self.next.get() - self.tail());
        let mut batch = Vec::new();
        let (mut records, mut payload) = (GROUP_HEADER, 0);
        for class in self.held.get().passing() {
            let keep = self.kept_from(*class);
            let mut queue = self.queues[*class as usize].borrow_mut();
            let mut count = 0;
            for pending in queue.iter() {
                let more_records = records + pending.record.encoded_len();
                let more_payload = payload + pending.payload_len();
                let len = more_records.next_multiple_of(BLOCK) + more_payload;
                // A filler may be needed before the group: count it.
                let ring_left = self.ring_left();
                let filler = if (len as u64) > ring_left { ring_left } else { 0 };
                if len > GROUP_MAX || len as u64 + filler + keep > free {
                    break;
                }
                (records, payload) = (more_records, more_payload);
                count += 1;
            }
            batch.extend(queue.drain(..count));
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// Bytes up to the end of the ring.
    fn ring_left(&self) -> u64 {
        let ring = self.ring_bytes();
        ring - self.next.get() % ring
    }

    async fn write_group(&self, mut batch: Vec<Pending>) {
        let records_len: usize = batch.iter().map(|pending| pending.record.encoded_len()).sum();
        let payload_at = (GROUP_HEADER + records_len).next_multiple_of(BLOCK);
        let len = payload_at + batch.iter().map(Pending::payload_len).sum::<usize>();
        let mut result = Ok(());
        if len as u64 > self.ring_left() {
            result = self.write_filler().await;
        }
        let lsn = self.next.get();
        let mut buf = Buf::new(len);
        buf[..payload_at].fill(0);
        let (mut at, mut block) = (GROUP_HEADER, payload_at / BLOCK);
        let mut answers = Vec::with_capacity(batch.len());
        for pending in &mut batch {
            // From here on the record has its place.
            let floor = self.floors.hold(lsn);
            answers.push(Appended { lsn, payload: lsn + (block * BLOCK) as u64, floor });
            if let Some(payload) = &pending.payload {
                pending.record.payload = block as u32;
                buf[block * BLOCK..block * BLOCK + payload.len()].copy_from_slice(payload);
                block += payload.len() / BLOCK;
            }
            let end = at + pending.record.encoded_len();
            pending.record.encode(lsn, &mut buf[at..end]);
            at = end;
        }
        if result.is_ok() {
            let records_crc = crc32c(&buf[GROUP_HEADER..at]);
            result = self.write(lsn, buf, records_len, batch.len(), records_crc).await;
        }
        if let Err(error) = &result {
            tracing::error!("writing the journal at LSN {lsn}: {error}");
            // What lies behind a group that is not there cannot be found again.
            self.fail();
        }
        for (pending, appended) in batch.into_iter().zip(answers) {
            let answer = if result.is_ok() { Ok(appended) } else { Err(AppendError::Failed) };
            // A caller that went away does not un-write its record.
            let _gone = pending.answer.send(answer);
        }
    }

    async fn write_filler(&self) -> io::Result<()> {
        self.write(self.next.get(), Buf::zeroed(BLOCK), 0, 0, 0).await
    }

    /// Writes one group; a filler's length is the rest of the ring, though one block of it is written.
    async fn write(
        &self,
        lsn: u64,
        mut buf: Buf,
        records_len: usize,
        records: usize,
        records_crc: u32,
    ) -> io::Result<()> {
        let len = if records == 0 { self.ring_left() } else { buf.len() as u64 };
        let header = self.header.get();
        let durable = self.durable.get();
        let group = GroupHeader {
            lsn,
            len: u32::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?,
            records_len: records_len as u32,
            records: records as u32,
            previous_crc: self.previous_crc.get(),
            records_crc,
            incarnation: self.incarnation,
            durable,
            generation: header.generation,
            store_uuid: header.store_uuid,
        };
        let crc = group.encode(&mut buf);
        // The cursor moves before the write: whatever is appended meanwhile lies behind this group.
        self.next.set(lsn + len);
        rt::sim::gauge("cs.journal-percent", self.used_percent());
        self.writing.set(Some(lsn));
        self.starts.borrow_mut().push_back((lsn, self.previous_crc.replace(crc)));
        let timed = self.latency.start();
        self.file.write_all_at(buf.freeze(), header.offset(lsn)).await?;
        drop(timed);
        self.writing.set(None);
        self.durable_told.set(self.durable_told.get().max(durable));
        Ok(())
    }

    /// Moves the tail to the first group at or behind `wanted`, durably: what lies before may be overwritten then.
    ///
    /// # Errors
    /// When the header cannot be written; the journal has failed then.
    pub async fn trim(&self, wanted: u64) -> io::Result<()> {
        let _one_at_a_time = self.header_writing.acquire(1).await;
        let (tail, tail_previous_crc) = {
            let starts = self.starts.borrow();
            let at = starts.partition_point(|&(lsn, _)| lsn < wanted);
            starts.get(at).copied().unwrap_or((self.next.get(), self.previous_crc.get()))
        };
        let header = JournalHeader { tail, tail_previous_crc, ..self.next_header() };
        let written = match self.write_header(&header).await {
            Ok(()) => self.file.sync_data().await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            self.fail();
            return Err(error);
        }
        self.header_copy.set(1 - self.header_copy.get());
        self.header.set(header);
        let mut starts = self.starts.borrow_mut();
        while starts.front().is_some_and(|&(lsn, _)| lsn < tail) {
            starts.pop_front();
        }
        drop(starts);
        self.floors.work.notify_one();
        Ok(())
    }

    /// Writes down up to where the journal is durable if nothing on disk says so yet: else damage of the newest groups
    /// would pass for a torn tail. Not flushed: it is a help, no promise.
    ///
    /// # Errors
    /// When the header cannot be written; the journal has failed then.
    pub async fn note_durable(&self) -> io::Result<()> {
        let _one_at_a_time = self.header_writing.acquire(1).await;
        if self.durable.get() <= self.durable_told.get() || self.check_open().is_err() {
            return Ok(());
        }
        // Always into the copy that is not known durable, so that a torn write never hurts the one that is.
        let header = self.next_header();
        if let Err(error) = self.write_header(&header).await {
            self.fail();
            return Err(error);
        }
        self.header.set(header);
        Ok(())
    }

    fn next_header(&self) -> JournalHeader {
        let header = self.header.get();
        JournalHeader { sequence: header.sequence + 1, durable: self.durable.get(), ..header }
    }

    async fn write_header(&self, header: &JournalHeader) -> io::Result<()> {
        let copy = 1 - self.header_copy.get();
        self.file.write_all_at(View::copy_of(&header.encode()), u64::from(copy) * BLOCK as u64).await?;
        self.durable_told.set(self.durable_told.get().max(header.durable));
        Ok(())
    }
}
