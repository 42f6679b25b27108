//! What a chunk server keeps on its disk: every structure, its version, its checksum.
//!
//! `docs/formats/chunk-server.md` draws the same structures box by box; `fixtures/` holds frozen samples. Nothing here
//! knows the wire protocol, and the wire knows nothing of this: a change of one cannot change the other.
//!
//! All numbers are little-endian. A structure read from disk is bytes until its `decode` has checked magic,
//! version and CRC; only then is there a value of its type.

pub mod block;
pub mod fuzz;
pub mod journal;
pub mod record;
pub mod superblock;
pub mod table;

/// Unit of checksums, of direct I/O and of journal sectors, in bytes.
pub const BLOCK: usize = 4096;
/// Largest chunk, in bytes.
pub const CHUNK_MAX: u64 = 64 << 20;
/// Blocks of the largest chunk.
pub const CHUNK_BLOCKS_MAX: u32 = (CHUNK_MAX / BLOCK as u64) as u32;

const _: () = assert!(CHUNK_MAX.is_multiple_of(BLOCK as u64) && CHUNK_MAX / BLOCK as u64 <= 1 << 16);

/// Whether there are nothing but zeroes; compared by the block, which is many times as fast as by the byte.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROES: [u8; BLOCK] = [0; BLOCK];
    bytes.chunks(BLOCK).all(|part| part == &ZEROES[..part.len()])
}

/// Why bytes from the disk are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Nothing was ever written here, or something else was.
    #[error("no {structure} here (wrong magic number)")]
    Magic {
        /// What was looked for.
        structure: &'static str,
    },
    /// Written by a later release.
    #[error(
        "{structure} has format version {found}; this release knows {known}: upgrade vstorage on this host"
    )]
    Version {
        /// What it is.
        structure: &'static str,
        /// Its version.
        found: u16,
        /// The newest version this code knows.
        known: u16,
    },
    /// A feature this release must understand and does not.
    #[error("{structure} uses unknown features {features:#x}: upgrade vstorage on this host")]
    Features {
        /// What it is.
        structure: &'static str,
        /// The unknown bits.
        features: u32,
    },
    /// The checksum does not match.
    #[error("{structure} is damaged (checksum mismatch)")]
    Checksum {
        /// What it is.
        structure: &'static str,
    },
    /// The device does not give it.
    #[error("{structure} cannot be read: look at the system log for errors of the disk")]
    Unreadable {
        /// What it is.
        structure: &'static str,
    },
    /// A field contradicts another although the checksum matches.
    #[error("{structure} is damaged ({field} is out of range)")]
    Range {
        /// What it is.
        structure: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// CRC32C (Castagnoli; RFC 3720 appendix B.4) of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Writes fields one after the other into a fixed space.
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        bytes.fill(0);
        Self { bytes, at: 0 }
    }

    pub(crate) fn put(&mut self, field: &[u8]) -> &mut Self {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Puts the CRC of everything before `at` into the four bytes there.
    pub(crate) fn seal(&mut self, at: usize) {
        let crc = crc32c(&self.bytes[..at]);
        self.bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Reads fields one after the other; the caller has checked the length.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let field = self.bytes[self.at..].first_chunk::<N>().expect("the caller has checked the length");
        self.at += N;
        *field
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// Whether the four bytes at `at` are the CRC of everything before.
    pub(crate) fn sealed(&self, at: usize) -> bool {
        let stored = self.bytes[at..].first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes));
        stored == Some(crc32c(&self.bytes[..at]))
    }
}
