//! Reading the journal back at start: which groups count, and whether the end is a torn tail or damage.

use std::collections::VecDeque;
use std::io;

use rt::buf::Buf;
use rt::fs::File;

use super::Position;
use crate::format::block::BlockState;
use crate::format::journal::{GROUP_HEADER, GROUP_MAX, GroupHeader, JournalHeader, RING_START};
use crate::format::record::{Record, RecordKind};
use crate::format::table::newer;
use crate::format::{BLOCK, FormatError, crc32c};
use crate::sectors::read_each;

/// How far behind a bad group a good one is looked for, in bytes.
const LOOK_AHEAD: u64 = 8 * GROUP_MAX as u64;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The device.
    #[error("cannot read the journal: {0}")]
    Io(#[from] io::Error),
    /// Neither copy of the header is good.
    #[error("the journal's header is unusable: {0}")]
    Header(FormatError),
    /// It belongs to another chunk server.
    #[error("the journal belongs to another chunk server")]
    Foreign,
    /// It is not the one the superblock knows (C10).
    #[error(
        "the journal has generation {found}, the superblock says {expected}: one of them was restored or copied"
    )]
    Generation {
        /// In the journal.
        found: u64,
        /// In the superblock.
        expected: u64,
    },
    /// A record that was known durable is bad: never cut the journal there.
    #[error("the journal is damaged at LSN {lsn}, before LSN {durable}, up to which it was durable: {why}")]
    Damaged {
        /// Where.
        lsn: u64,
        /// What was known durable.
        durable: u64,
        /// What is wrong there.
        why: FormatError,
    },
}

/// A record as it was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// LSN of its group.
    pub lsn: u64,
    /// Byte LSN of its payload.
    pub payload: u64,
    /// The record.
    pub record: Record,
}

/// The journal as it was found.
#[derive(Debug)]
pub struct Scanned {
    /// The newer good copy of the header.
    pub header: JournalHeader,
    /// Which copy that was.
    pub copy: u8,
    /// Every record from the tail on, in order.
    pub records: Vec<Found>,
    /// Where writing goes on.
    pub position: Position,
    /// Highest incarnation seen.
    pub incarnation: u64,
    /// The last record says that a run was stopped in order. Whether that was the last run the incarnation tells: of
    /// a later one the records may be lost.
    pub stopped: bool,
}

/// Reads the header.
///
/// # Errors
/// [`ScanError`].
pub async fn read_header(file: &File) -> Result<(JournalHeader, u8), ScanError> {
    let (result, mut buf) = file.read_exact_at(Buf::new(2 * BLOCK), 0).await;
    if let Err(error) = result {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Err(ScanError::Header(FormatError::Range { structure: "journal", field: "file size" }));
        }
        let (copies, bad) = read_each(file, 2 * BLOCK, 0).await?;
        if bad.len() == 2 {
            return Err(error.into());
        }
        tracing::error!("a copy of the journal's header cannot be read: {error}");
        buf = copies;
    }
    let copies = buf.as_chunks::<BLOCK>().0;
    let copies = [JournalHeader::decode(&copies[0]), JournalHeader::decode(&copies[1])];
    newer(copies, |header| header.sequence).map_err(|[first, _]| ScanError::Header(first))
}

/// Reads the whole journal.
///
/// # Errors
/// [`ScanError`].
pub async fn scan(file: &File, store_uuid: &[u8; 16], generation: u64) -> Result<Scanned, ScanError> {
    let (header, copy) = read_header(file).await?;
    if &header.store_uuid != store_uuid {
        return Err(ScanError::Foreign);
    }
    if header.generation != generation {
        return Err(ScanError::Generation { found: header.generation, expected: generation });
    }
    if file.len().await? < RING_START + header.ring_bytes {
        return Err(ScanError::Header(FormatError::Range { structure: "journal", field: "file size" }));
    }
    let mut scan = Scan {
        file,
        header,
        window: Buf::new(0),
        window_at: 0,
        records: Vec::new(),
        starts: VecDeque::new(),
        next: header.tail,
        previous_crc: header.tail_previous_crc,
        durable: header.durable,
        incarnation: 0,
        unreadable: Vec::new(),
    };
    let why = scan.walk().await?;
    scan.check_end(why).await?;
    let stopped = scan.records.last().is_some_and(|found| found.record.kind == RecordKind::Stopped);
    Ok(Scanned {
        header,
        copy,
        records: scan.records,
        position: Position {
            next: scan.next,
            previous_crc: scan.previous_crc,
            durable: scan.durable.min(scan.next),
            starts: scan.starts,
        },
        incarnation: scan.incarnation,
        stopped,
    })
}

struct Scan<'a> {
    file: &'a File,
    header: JournalHeader,
    window: Buf,
    /// Ring offset of the window's first byte.
    window_at: u64,
    records: Vec<Found>,
    starts: VecDeque<(u64, u32)>,
    next: u64,
    previous_crc: u32,
    durable: u64,
    incarnation: u64,
    /// Blocks that cannot be read, as if they were of this turn of the ring.
    unreadable: Vec<u64>,
}

impl Scan<'_> {
    /// The bytes at `lsn`, at most to the end of the ring.
    async fn bytes(&mut self, lsn: u64, len: usize) -> Result<&[u8], ScanError> {
        let at = lsn % self.header.ring_bytes;
        let len = len.min((self.header.ring_bytes - at) as usize);
        let inside = at >= self.window_at && at + len as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let read = (2 * GROUP_MAX as u64).min(self.header.ring_bytes - at) as usize;
            let window = std::mem::replace(&mut self.window, Buf::new(0));
            let window = if window.capacity() >= read {
                let mut window = window;
                window.set_len(read);
                window
            } else {
                Buf::new(read)
            };
            let (result, window) = self.file.read_exact_at(window, RING_START + at).await;
            self.window = match result {
                Ok(()) => window,
                Err(error) if is_unreadable(&error) => {
                    let (window, bad) = read_blocks(self.file, window, RING_START + at).await?;
                    self.unreadable.extend(bad.into_iter().map(|index| lsn + index * BLOCK as u64));
                    window
                }
                Err(error) => return Err(error.into()),
            };
            self.window_at = at;
        }
        let from = (at - self.window_at) as usize;
        Ok(&self.window[from..from + len])
    }

    /// Follows the chain; gives why it ended.
    async fn walk(&mut self) -> Result<FormatError, ScanError> {
        const CHAIN: FormatError = FormatError::Range { structure: "journal group", field: "chain" };
        loop {
            let lsn = self.next;
            if lsn - self.header.tail >= self.header.ring_bytes {
                return Ok(CHAIN);
            }
            let header = self.header;
            let first = self.bytes(lsn, BLOCK).await?;
            let crc = GroupHeader::crc_of(first);
            let group = match GroupHeader::decode(first, &header, lsn) {
                Ok(group) => group,
                Err(why) => return Ok(why),
            };
            if group.previous_crc != self.previous_crc || group.incarnation < self.incarnation {
                return Ok(CHAIN);
            }
            if group.records > 0
                && let Err(why) = self.group(&group).await?
            {
                return Ok(why);
            }
            self.starts.push_back((lsn, self.previous_crc));
            self.previous_crc = crc;
            self.next = lsn + u64::from(group.len);
            self.durable = self.durable.max(group.durable);
            self.incarnation = group.incarnation;
        }
    }

    /// Checks a group whole, payload included, and takes its records.
    async fn group(&mut self, group: &GroupHeader) -> Result<Result<(), FormatError>, ScanError> {
        let damaged = Err(FormatError::Checksum { structure: "journal group" });
        let bytes = self.bytes(group.lsn, group.len as usize).await?;
        let records = &bytes[GROUP_HEADER..GROUP_HEADER + group.records_len as usize];
        if crc32c(records) != group.records_crc {
            return Ok(damaged);
        }
        let mut found = Vec::new();
        let mut rest = records;
        for _ in 0..group.records {
            let (record, len) = match Record::decode(rest, group.lsn) {
                Ok(decoded) => decoded,
                Err(why) => return Ok(Err(why)),
            };
            rest = &rest[len..];
            if record.kind == RecordKind::Data && !payload_is_whole(&record, bytes) {
                return Ok(damaged);
            }
            let payload = group.lsn + u64::from(record.payload) * BLOCK as u64;
            found.push(Found { lsn: group.lsn, payload, record });
        }
        self.records.append(&mut found);
        Ok(Ok(()))
    }

    /// Decides whether the walk ended at a torn tail or at damage.
    async fn check_end(&mut self, why: FormatError) -> Result<(), ScanError> {
        let end = self.next;
        let mut durable = self.durable;
        if let FormatError::Version { .. } | FormatError::Features { .. } = why {
            return Err(ScanError::Header(why));
        }
        // A later group that was written after the bad one had been flushed proves damage.
        let header = self.header;
        let limit = (end + LOOK_AHEAD).min(header.tail + header.ring_bytes);
        let mut goes_on = false;
        let mut lsn = end + BLOCK as u64;
        while lsn < limit {
            let bytes = self.bytes(lsn, BLOCK).await?;
            if let Ok(group) = GroupHeader::decode(bytes, &header, lsn) {
                durable = durable.max(group.durable);
                goes_on |= group.incarnation >= self.incarnation;
            }
            lsn += BLOCK as u64;
        }
        // Groups are written one after the other: what cannot be read was whole, unless the power was cut, and may have been
        // acknowledged.
        let group = end..end + GROUP_MAX as u64;
        if let Some(bad) = self.unreadable.iter().find(|lsn| group.contains(lsn)).filter(|_| goes_on) {
            let text = format!("no sector can be read at LSN {bad}, and the journal goes on behind it");
            return Err(ScanError::Io(io::Error::other(text)));
        }
        if durable > end {
            return Err(ScanError::Damaged { lsn: end, durable, why });
        }
        Ok(())
    }
}

fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Reads block by block where a sector among them cannot be read; gives which cannot. Of a group such a sector makes a bad
/// one; in the unused part of the ring it matters to nobody. It reads as zero until it is written again.
async fn read_blocks(file: &File, mut window: Buf, at: u64) -> io::Result<(Buf, Vec<u64>)> {
    let mut block = Buf::new(BLOCK);
    let mut bad = Vec::new();
    for (index, place) in window.chunks_mut(BLOCK).enumerate() {
        let offset = at + (index * BLOCK) as u64;
        let (result, read) = file.read_exact_at(block, offset).await;
        block = read;
        match result {
            Ok(()) => place.copy_from_slice(&block),
            Err(error) if is_unreadable(&error) => {
                tracing::warn!("the journal cannot be read at byte {offset}: {error}");
                place.fill(0);
                bad.push(index as u64);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((window, bad))
}

fn payload_is_whole(record: &Record, group: &[u8]) -> bool {
    (0..record.count).all(|index| {
        let from = (record.payload + index) as usize * BLOCK;
        let Some(block) = group.get(from..from + BLOCK) else { return false };
        match record.state(index) {
            BlockState::Data(stored) => stored.matches(crc32c(block), record.chunk, record.first + index),
            _ => false,
        }
    })
}
