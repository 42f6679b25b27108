//! The tables: one header and a row of checksum pages per chunk.
//!
//! Each page exists twice; an update writes the older copy, so that a torn write never hurts the newer one. File
//! `meta.table` holds the headers, `crc.table` the checksum pages, both by the chunk's slot.

use super::{BLOCK, CHUNK_BLOCKS_MAX, Decoder, Encoder, FormatError};

/// Checksums in one page.
pub const CRCS_PER_PAGE: u32 = 1008;
/// Checksum pages of the largest chunk.
pub const PAGES_PER_CHUNK: u32 = CHUNK_BLOCKS_MAX.div_ceil(CRCS_PER_PAGE);
/// Bytes of `meta.table` per slot.
pub const META_SLOT: u64 = 2 * BLOCK as u64;
/// Bytes of `crc.table` per slot.
pub const CRC_SLOT: u64 = PAGES_PER_CHUNK as u64 * 2 * BLOCK as u64;

const HEADER: usize = 64;
const _: () = assert!(HEADER + CRCS_PER_PAGE as usize * 4 == BLOCK);

const META_MAGIC: [u8; 8] = *b"VSTORCH\n";
const CRC_MAGIC: [u8; 8] = *b"VSTORCP\n";
const VERSION: u16 = 1;
const CRC_AT: usize = BLOCK - 4;

/// Where things lie; a device offset is made here and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Copy 0 or 1 of a chunk's header, in `meta.table`.
    Meta {
        /// The chunk's slot.
        slot: u32,
        /// 0 or 1.
        copy: u8,
    },
    /// Copy 0 or 1 of a checksum page, in `crc.table`.
    CrcPage {
        /// The chunk's slot.
        slot: u32,
        /// The page.
        page: u32,
        /// 0 or 1.
        copy: u8,
    },
}

impl Place {
    /// The offset in the place's file, in bytes.
    #[must_use]
    pub fn offset(self) -> u64 {
        match self {
            Self::Meta { slot, copy } => {
                assert!(copy < 2);
                u64::from(slot) * META_SLOT + u64::from(copy) * BLOCK as u64
            }
            Self::CrcPage { slot, page, copy } => {
                assert!(copy < 2 && page < PAGES_PER_CHUNK);
                u64::from(slot) * CRC_SLOT + (u64::from(page) * 2 + u64::from(copy)) * BLOCK as u64
            }
        }
    }
}

/// What a slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Nothing; the slot may be given to another chunk.
    Free,
    /// A replica.
    Live,
}

/// The header of a chunk's replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Grows with every update of this slot.
    pub sequence: u64,
    /// What the slot is used for.
    pub state: SlotState,
    /// The chunk's id.
    pub chunk: u64,
    /// Version of the replica (C7).
    pub version: u64,
    /// The file it belongs to.
    pub file: u64,
    /// Size in bytes.
    pub size: u64,
    /// Layout id: plain replica 0; reserved for erasure coding.
    pub layout: u32,
    /// Piece of the stripe set; 0 for replicas.
    pub piece: u16,
    /// Bytes of metadata per block: 4, the checksum.
    pub block_metadata: u16,
    /// Encryption key; 0 for none. With encryption the CRC covers ciphertext.
    pub key_id: u64,
    /// Stripe version; 0 for replicas.
    pub stripe_version: u64,
    /// LSN of the journal when this life of the replica began: older records and pages belong to an earlier one.
    pub born: u64,
    /// The server's count of verified chunks when this one was verified last (C8); 0 = never.
    pub verified: u64,
}

impl ChunkHeader {
    /// One copy.
    #[must_use]
    pub fn encode(&self, store_uuid: &[u8; 16]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut encoder = Encoder::new(&mut block);
        encoder.put(&META_MAGIC).u16(VERSION).u16(0).u32(0).put(store_uuid);
        encoder.u64(self.sequence).u64(self.chunk).u64(self.version).u64(self.file).u64(self.size);
        encoder
            .u32(self.layout)
            .u16(self.piece)
            .u16(self.block_metadata)
            .u64(self.key_id)
            .u64(self.stripe_version);
        encoder.u64(self.born).u8(u8::from(self.state == SlotState::Live));
        encoder.put(&[0; 7]).u64(self.verified);
        encoder.seal(CRC_AT);
        block
    }

    /// Checks and reads one copy.
    ///
    /// # Errors
    /// [`FormatError`]; `Magic` for a copy that was never written.
    pub fn decode(block: &[u8; BLOCK], store_uuid: &[u8; 16]) -> Result<Self, FormatError> {
        const NAME: &str = "chunk header";
        let mut decoder =
            open_page(block, META_MAGIC, |block| Decoder::new(block).sealed(CRC_AT), store_uuid, NAME)?;
        let header = Self {
            sequence: decoder.u64(),
            chunk: decoder.u64(),
            version: decoder.u64(),
            file: decoder.u64(),
            size: decoder.u64(),
            layout: decoder.u32(),
            piece: decoder.u16(),
            block_metadata: decoder.u16(),
            key_id: decoder.u64(),
            stripe_version: decoder.u64(),
            born: decoder.u64(),
            state: match decoder.u8() {
                0 => SlotState::Free,
                1 => SlotState::Live,
                _ => return Err(FormatError::Range { structure: NAME, field: "state" }),
            },
            verified: {
                decoder.take::<7>();
                decoder.u64()
            },
        };
        if header.size == 0 || header.size > super::CHUNK_MAX || !header.size.is_multiple_of(BLOCK as u64) {
            return Err(FormatError::Range { structure: NAME, field: "chunk size" });
        }
        if header.block_metadata != 4 || header.key_id != 0 || header.layout != 0 {
            return Err(FormatError::Features { structure: NAME, features: header.layout | 1 << 31 });
        }
        Ok(header)
    }
}

/// Checks what both structures begin with; gives a decoder behind the store's id.
fn open_page<'a>(
    block: &'a [u8; BLOCK],
    magic: [u8; 8],
    sealed: impl FnOnce(&[u8; BLOCK]) -> bool,
    store_uuid: &[u8; 16],
    structure: &'static str,
) -> Result<Decoder<'a>, FormatError> {
    let mut decoder = Decoder::new(block);
    if decoder.take() != magic {
        // A copy that was never written is empty; anything else in its place is damage.
        let blank = super::is_zero(block);
        return Err(if blank {
            FormatError::Magic { structure }
        } else {
            FormatError::Checksum { structure }
        });
    }
    // Before the version: a flipped bit must not pass for a later release.
    if !sealed(block) {
        return Err(FormatError::Checksum { structure });
    }
    let found = decoder.u16();
    if found != VERSION {
        return Err(FormatError::Version { structure, found, known: VERSION });
    }
    decoder.u16();
    let features = decoder.u32();
    if features != 0 {
        return Err(FormatError::Features { structure, features });
    }
    if &decoder.take::<16>() != store_uuid {
        return Err(FormatError::Range { structure, field: "store id" });
    }
    Ok(decoder)
}

pub(super) const PAGE_CRC_AT: usize = HEADER - 4;

/// Of everything but the CRC itself.
pub(super) fn page_crc(block: &[u8; BLOCK]) -> u32 {
    super::crc32c(&block[..PAGE_CRC_AT]) ^ super::crc32c(&block[HEADER..]).rotate_left(1)
}

fn page_is_sealed(block: &[u8; BLOCK]) -> bool {
    block[PAGE_CRC_AT..HEADER] == page_crc(block).to_le_bytes()
}

/// A page of stored checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrcPage {
    /// Grows with every update of this page.
    pub sequence: u64,
    /// The chunk.
    pub chunk: u64,
    /// Life of the replica, as in its header.
    pub born: u64,
    /// Index of the page in its chunk.
    pub page: u32,
    /// One raw [`super::block::BlockState`] per block.
    pub entries: Box<[u32; CRCS_PER_PAGE as usize]>,
}

impl CrcPage {
    /// A page that says hole for every block.
    #[must_use]
    pub fn holes(chunk: u64, born: u64, page: u32) -> Self {
        Self { sequence: 0, chunk, born, page, entries: Box::new([0; CRCS_PER_PAGE as usize]) }
    }

    /// One copy.
    #[must_use]
    pub fn encode(&self, store_uuid: &[u8; 16]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut encoder = Encoder::new(&mut block);
        encoder.put(&CRC_MAGIC).u16(VERSION).u16(0).u32(0).put(store_uuid);
        encoder.u64(self.sequence).u64(self.chunk).u64(self.born).u32(self.page).u32(0);
        for &entry in self.entries.iter() {
            encoder.u32(entry);
        }
        let crc = page_crc(&block);
        block[PAGE_CRC_AT..HEADER].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Checks and reads one copy.
    ///
    /// # Errors
    /// [`FormatError`]; `Magic` for a copy that was never written.
    pub fn decode(block: &[u8; BLOCK], store_uuid: &[u8; 16]) -> Result<Self, FormatError> {
        const NAME: &str = "checksum page";
        let mut decoder = open_page(block, CRC_MAGIC, page_is_sealed, store_uuid, NAME)?;
        let (sequence, chunk, born, page) = (decoder.u64(), decoder.u64(), decoder.u64(), decoder.u32());
        decoder.u32();
        let mut entries = Box::new([0; CRCS_PER_PAGE as usize]);
        for entry in entries.iter_mut() {
            *entry = decoder.u32();
        }
        if page >= PAGES_PER_CHUNK {
            return Err(FormatError::Range { structure: NAME, field: "page number" });
        }
        Ok(Self { sequence, chunk, born, page, entries })
    }
}

/// Of two copies, the newer one that is whole, and which of the two it is.
pub fn newer<T>(
    copies: [Result<T, FormatError>; 2],
    sequence: impl Fn(&T) -> u64,
) -> Result<(T, u8), [FormatError; 2]> {
    match copies {
        [Ok(a), Ok(b)] => Ok(if sequence(&b) > sequence(&a) { (b, 1) } else { (a, 0) }),
        [Ok(a), Err(_)] => Ok((a, 0)),
        [Err(_), Ok(b)] => Ok((b, 1)),
        [Err(a), Err(b)] => Err([a, b]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> ChunkHeader {
        ChunkHeader {
            sequence: 3,
            state: SlotState::Live,
            chunk: 0x0001_0000_0000_0007,
            version: 1,
            file: 12,
            size: 64 << 20,
            layout: 0,
            piece: 0,
            block_metadata: 4,
            key_id: 0,
            stripe_version: 0,
            born: 8192,
            verified: 77,
        }
    }

    #[test]
    fn headers_and_pages_survive_a_round_trip() {
        let store = [7; 16];
        assert_eq!(ChunkHeader::decode(&header().encode(&store), &store), Ok(header()));
        let mut page = CrcPage::holes(9, 5, 3);
        page.sequence = 11;
        page.entries[5] = 0xDEAD_BEEF;
        assert_eq!(CrcPage::decode(&page.encode(&store), &store), Ok(page.clone()));
        let foreign = FormatError::Range { structure: "checksum page", field: "store id" };
        assert_eq!(CrcPage::decode(&page.encode(&store), &[8; 16]), Err(foreign));
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let store = [7; 16];
        let good = CrcPage::holes(9, 5, 3).encode(&store);
        let meta = header().encode(&store);
        for at in 0..BLOCK {
            let mut bad = good;
            bad[at] ^= 0x10;
            assert!(CrcPage::decode(&bad, &store).is_err(), "page byte {at}");
            let mut bad = meta;
            bad[at] ^= 0x10;
            assert!(ChunkHeader::decode(&bad, &store).is_err(), "header byte {at}");
        }
    }

    #[test]
    fn places_never_overlap() {
        let mut seen = std::collections::BTreeSet::new();
        for slot in 0..3 {
            for page in 0..PAGES_PER_CHUNK {
                for copy in 0..2 {
                    assert!(seen.insert(Place::CrcPage { slot, page, copy }.offset()));
                }
            }
        }
        assert_eq!(seen.last(), Some(&(3 * CRC_SLOT - BLOCK as u64)));
    }
}
