//! The state written down, and read back.
//!
//! The format is drawn in `docs/formats/mds-state.md`: a header with its own checksum, then records. What can be
//! derived (lists of work, counts, what sessions hold) is not written but worked out again, so it cannot disagree.

mod access;
mod build;
mod records;

use super::State;
use super::invariants::InvariantViolation;
use crc_fast::{CrcAlgorithm, checksum};
use prost::Message;
use records::{End, Record, RecordKind};

/// The first bytes of a snapshot.
const MAGIC: [u8; 8] = *b"VSMDSNAP";
/// The version this code writes and reads.
pub const SNAPSHOT_VERSION: u32 = 1;
/// Bytes of the header.
const HEADER: usize = 32;
/// Bytes of the header that its checksum covers.
const HEADER_COVERED: usize = 28;

/// Why bytes are not a snapshot that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Not a snapshot of metadata at all.
    #[error("this is not a snapshot of metadata (wrong first bytes)")]
    NotASnapshot,
    /// Too short, or longer than the header says.
    #[error("the snapshot has {got} bytes instead of {want}: it is truncated or damaged")]
    Length {
        /// Bytes there should be.
        want: u64,
        /// Bytes there are.
        got: u64,
    },
    /// A checksum does not match.
    #[error("the {part} of the snapshot is damaged: its checksum does not match")]
    Damaged {
        /// Header or body.
        part: &'static str,
    },
    /// A format this version does not know.
    #[error(
        "the snapshot has format {version} with flags {flags:#x}, which this version does not know: run a later version"
    )]
    UnknownFormat {
        /// Its format.
        version: u32,
        /// Its flags.
        flags: u32,
    },
    /// A record this version does not know, or does not know wholly.
    #[error("record {number} of the snapshot was written by a later version: run that version")]
    UnknownRecord {
        /// Which, from 0.
        number: u64,
    },
    /// A record that cannot be what it is, under a good checksum.
    #[error("record {number} of the snapshot is wrong: {what}")]
    BadRecord {
        /// Which, from 0.
        number: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The records contradict each other.
    #[error("the snapshot contradicts itself: {0}")]
    Contradiction(#[from] InvariantViolation),
}

impl State {
    /// Writes the state down. Equal states give equal bytes.
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let mut count = 0u64;
        build::write(self, &mut |kind| {
            count += 1;
            append(&mut bytes, kind);
        });
        append(&mut bytes, RecordKind::End(End { records: count }));
        let body = (bytes.len() - HEADER) as u64;
        let body_crc = crc32c(&bytes[HEADER..]);
        let header = &mut bytes[..HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&body.to_le_bytes());
        header[24..28].copy_from_slice(&body_crc.to_le_bytes());
        let header_crc = crc32c(&header[..HEADER_COVERED]);
        header[28..].copy_from_slice(&header_crc.to_le_bytes());
        bytes
    }

    /// Reads a state back.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing of a damaged snapshot is used.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let body = check_header(bytes)?;
        let mut builder = build::Builder::default();
        let mut rest = body;
        let mut number = 0;
        loop {
            let at = |what| SnapshotError::BadRecord { number, what };
            match next_record(&mut rest, number)? {
                RecordKind::End(end) if end.records == number && rest.is_empty() => break,
                RecordKind::End(_) => return Err(at("the last record does not count right")),
                kind => builder.add(kind).map_err(at)?,
            }
            number += 1;
        }
        let state = builder.finish().map_err(|what| SnapshotError::BadRecord { number, what })?;
        state.self_check()?;
        Ok(state)
    }
}

fn append(bytes: &mut Vec<u8>, kind: RecordKind) {
    let record = Record { kind: Some(kind) };
    bytes.reserve(record.encoded_len() + 5);
    prost::encode_length_delimiter(record.encoded_len(), bytes).expect("a vector takes any number of bytes");
    record.encode_raw(bytes);
}

/// Takes the next record off the body.
fn next_record(rest: &mut &[u8], number: u64) -> Result<RecordKind, SnapshotError> {
    let at = |what| SnapshotError::BadRecord { number, what };
    let length = prost::decode_length_delimiter(&mut *rest).map_err(|_| at("its length cannot be read"))?;
    let Some((record, tail)) = rest.split_at_checked(length) else { return Err(at("it is cut off")) };
    *rest = tail;
    let decoded = Record::decode(record).map_err(|_| at("it cannot be decoded"))?;
    // What this version does not know is missing when the record is measured again.
    if decoded.encoded_len() != length {
        return Err(SnapshotError::UnknownRecord { number });
    }
    decoded.kind.ok_or(at("it is empty"))
}

/// Checks everything there is to check about the bytes as bytes; returns the body.
fn check_header(bytes: &[u8]) -> Result<&[u8], SnapshotError> {
    let got = bytes.len() as u64;
    if !bytes.starts_with(&MAGIC) {
        return Err(SnapshotError::NotASnapshot);
    }
    let Some((header, body)) = bytes.split_at_checked(HEADER) else {
        return Err(SnapshotError::Length { want: HEADER as u64, got });
    };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if word(28) != crc32c(&header[..HEADER_COVERED]) {
        return Err(SnapshotError::Damaged { part: "header" });
    }
    let (version, flags) = (word(8), word(12));
    if version != SNAPSHOT_VERSION || flags != 0 {
        return Err(SnapshotError::UnknownFormat { version, flags });
    }
    let length = u64::from(word(16)) | u64::from(word(20)) << 32;
    if body.len() as u64 != length {
        return Err(SnapshotError::Length { want: length.saturating_add(HEADER as u64), got });
    }
    if word(24) != crc32c(body) {
        return Err(SnapshotError::Damaged { part: "body" });
    }
    Ok(body)
}

/// CRC-32C (Castagnoli), as iSCSI uses it (RFC 3720, appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm has 32 bits.
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts right checksums on a snapshot that was changed.
    fn reseal(bytes: &mut [u8]) {
        let body = crc32c(&bytes[HEADER..]);
        bytes[24..28].copy_from_slice(&body.to_le_bytes());
        let header = crc32c(&bytes[..HEADER_COVERED]);
        bytes[28..32].copy_from_slice(&header.to_le_bytes());
    }

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn an_empty_state_survives() {
        let state = State::new();
        assert_eq!(State::decode_snapshot(&state.encode_snapshot()), Ok(state));
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_noticed() {
        let bytes = State::new().encode_snapshot();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(State::decode_snapshot(&damaged).is_err(), "byte {at}");
            assert!(State::decode_snapshot(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(State::decode_snapshot(&[&bytes[..], &[0]].concat()).is_err(), "a byte too many");
    }

    #[test]
    fn other_formats_are_named() {
        let mut bytes = State::new().encode_snapshot();
        bytes[8] = 2;
        reseal(&mut bytes);
        let unknown = Err(SnapshotError::UnknownFormat { version: 2, flags: 0 });
        assert_eq!(State::decode_snapshot(&bytes), unknown);
        assert_eq!(State::decode_snapshot(b"something else"), Err(SnapshotError::NotASnapshot));
    }

    #[test]
    fn a_record_of_a_later_version_is_not_skipped() {
        let mut bytes = State::new().encode_snapshot();
        // A record whose only field has the unused tag 120: key, length 0.
        bytes.splice(HEADER..HEADER, [3, 0xc2, 0x07, 0]);
        let body = (bytes.len() - HEADER) as u64;
        bytes[16..24].copy_from_slice(&body.to_le_bytes());
        reseal(&mut bytes);
        assert_eq!(State::decode_snapshot(&bytes), Err(SnapshotError::UnknownRecord { number: 0 }));
    }
}
