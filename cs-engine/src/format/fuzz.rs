//! One function per parser that takes any bytes.
//!
//! Each says whether the parser accepted them, after making their CRCs right so that the checks behind those are
//! reached, and panics when something accepted does not survive a round trip. The tests of this crate drive them with
//! inputs grown from the fixtures; the targets in `fuzz/` hand them to libFuzzer.

use super::journal::{GROUP_HEADER, GroupHeader, JournalHeader, LSN_MAX, RING_MIN};
use super::record::{FIXED, Record};
use super::superblock::Superblock;
use super::table::{ChunkHeader, CrcPage};
use super::{BLOCK, FormatError, crc32c};

/// Where a record says how many words it has.
const WORDS_AT: usize = 92;

/// A fuzz function, and how a fixture becomes one of its inputs.
#[derive(Debug)]
pub struct Target {
    /// Name, as in `fuzz/fuzz_targets/` behind `cs_`.
    pub name: &'static str,
    /// Hands bytes to the parser; whether it accepted them.
    pub run: fn(&[u8]) -> bool,
    /// Inputs made of a fixture, by its file's name.
    pub seeds: fn(&str, &[u8]) -> Vec<Vec<u8>>,
}

/// All fuzz functions.
pub const TARGETS: &[Target] = &[
    Target { name: "superblock", run: superblock, seeds: |name, bytes| block_of("superblock", name, bytes) },
    Target {
        name: "journal_header",
        run: journal_header,
        seeds: |name, bytes| block_of("journal-header", name, bytes),
    },
    Target { name: "group", run: group, seeds: |name, bytes| block_of("group", name, bytes) },
    Target { name: "record", run: record, seeds: records_of },
    Target {
        name: "chunk_header",
        run: chunk_header,
        seeds: |name, bytes| block_of("chunk-header", name, bytes),
    },
    Target { name: "crc_page", run: crc_page, seeds: |name, bytes| block_of("crc-page", name, bytes) },
];

/// The first block of a fixture without the zeroes at its end, where mutations would change nothing.
fn block_of(prefix: &str, name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    if !name.starts_with(prefix) {
        return Vec::new();
    }
    let used = &bytes[..bytes.len().min(BLOCK - 4)];
    let end = used.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    vec![used[..end].to_vec()]
}

/// Every record of a group.
fn records_of(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let Some(mut rest) = bytes.get(GROUP_HEADER..).filter(|_| name.starts_with("group")) else {
        return records;
    };
    while let Some(words) = rest.get(WORDS_AT..).and_then(|rest| rest.first_chunk()) {
        let len = FIXED + 4 * u32::from_le_bytes(*words) as usize;
        match rest.split_at_checked(len) {
            Some((record, after)) if record[0] != 0 => {
                records.push(record.to_vec());
                rest = after;
            }
            _ => break,
        }
    }
    records
}

fn block(data: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let len = data.len().min(BLOCK);
    block[..len].copy_from_slice(&data[..len]);
    block
}

fn put_crc(bytes: &mut [u8], at: usize, crc: u32) {
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// As it is, which is mostly refused for its CRC but must not panic, and with the CRC made right.
fn both<T: PartialEq + std::fmt::Debug>(
    data: &[u8],
    seal: impl Fn(&mut [u8; BLOCK]),
    decode: impl Fn(&[u8; BLOCK]) -> Result<T, FormatError>,
    encode: impl Fn(&T) -> [u8; BLOCK],
) -> bool {
    let mut bytes = block(data);
    let accepted = |bytes: &[u8; BLOCK]| match decode(bytes) {
        Ok(value) => {
            assert_eq!(decode(&encode(&value)).as_ref(), Ok(&value), "does not survive a round trip");
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    };
    let _mostly_refused = accepted(&bytes);
    seal(&mut bytes);
    accepted(&bytes)
}

fn seal_at_end(bytes: &mut [u8; BLOCK]) {
    let crc = crc32c(&bytes[..BLOCK - 4]);
    put_crc(bytes, BLOCK - 4, crc);
}

/// One copy of the superblock.
#[must_use]
pub fn superblock(data: &[u8]) -> bool {
    both(data, seal_at_end, Superblock::decode, Superblock::encode)
}

/// One copy of the journal's header.
#[must_use]
pub fn journal_header(data: &[u8]) -> bool {
    both(data, seal_at_end, JournalHeader::decode, JournalHeader::encode)
}

/// The header of a group, in the journal and at the place that it names itself.
#[must_use]
pub fn group(data: &[u8]) -> bool {
    let seal = |bytes: &mut [u8; BLOCK]| {
        let crc = crc32c(&bytes[..GROUP_HEADER - 4]);
        put_crc(bytes, GROUP_HEADER - 4, crc);
    };
    let u64_at = |bytes: &[u8; BLOCK], at: usize| {
        u64::from_le_bytes(*bytes[at..].first_chunk().expect("inside the header"))
    };
    let decode = |bytes: &[u8; BLOCK]| {
        let lsn = u64_at(bytes, 16) & !(BLOCK as u64 - 1);
        let journal = JournalHeader {
            sequence: 1,
            store_uuid: *bytes[72..].first_chunk().expect("inside the header"),
            generation: u64_at(bytes, 64),
            ring_bytes: 32 * RING_MIN,
            tail: 0,
            tail_previous_crc: 0,
            durable: 0,
        };
        GroupHeader::decode(bytes, &journal, lsn.min(LSN_MAX))
    };
    let encode = |group: &GroupHeader| {
        let mut bytes = [0; BLOCK];
        group.encode(&mut bytes);
        bytes
    };
    both(data, seal, decode, encode)
}

/// One record.
#[must_use]
pub fn record(data: &[u8]) -> bool {
    // Mostly refused for its CRC; what counts is that it does not panic.
    let _refused = Record::decode(data, 0);
    if data.len() < FIXED {
        return false;
    }
    let mut bytes = data.to_vec();
    // The list takes what there is, as far as it says so.
    let listed = u32::from_le_bytes(*bytes[WORDS_AT..].first_chunk().expect("checked above")) as usize;
    let end = listed.saturating_mul(4).saturating_add(FIXED).min(bytes.len());
    let crc = crc32c(&bytes[..FIXED - 4]) ^ crc32c(&bytes[FIXED..end]).rotate_left(1);
    put_crc(&mut bytes, FIXED - 4, crc);
    let lsn = u64::from_le_bytes(*bytes[8..].first_chunk().expect("checked above"));
    match Record::decode(&bytes, lsn) {
        Ok((record, len)) => {
            let mut again = vec![0; record.encoded_len()];
            record.encode(lsn, &mut again);
            assert_eq!(Record::decode(&again, lsn), Ok((record, len)), "does not survive a round trip");
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// The store's id of a header or page.
fn store(bytes: &[u8; BLOCK]) -> [u8; 16] {
    *bytes[16..].first_chunk().expect("inside the block")
}

/// One copy of a chunk's header.
#[must_use]
pub fn chunk_header(data: &[u8]) -> bool {
    let uuid = store(&block(data));
    both(data, seal_at_end, |bytes| ChunkHeader::decode(bytes, &uuid), |header| header.encode(&uuid))
}

/// One copy of a checksum page.
#[must_use]
pub fn crc_page(data: &[u8]) -> bool {
    let uuid = store(&block(data));
    let seal = |bytes: &mut [u8; BLOCK]| {
        let crc = super::table::page_crc(bytes);
        put_crc(bytes, super::table::PAGE_CRC_AT, crc);
    };
    both(data, seal, |bytes| CrcPage::decode(bytes, &uuid), |page| page.encode(&uuid))
}
