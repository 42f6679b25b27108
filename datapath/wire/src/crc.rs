//! CRC32C of headers and bodies, and of the blocks of a payload (C8).
//!
//! A payload is checked in *parts*: it is cut where its absolute offset in the chunk crosses a 4 KiB
//! boundary, so that all parts but the first and the last are whole blocks. Each part has its own CRC
//! over just the bytes present.

use crate::limits::BLOCK;

/// CRC32C (CRC-32/ISCSI: polynomial 0x1EDC6F41 reflected, initial value and final XOR 0xFFFFFFFF;
/// RFC 3720 appendix B.4) of `bytes`. The CRC of nothing is 0.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// A part whose CRC is not the one that came with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("checksum mismatch in block {block}: received {expected:#010x}, computed {found:#010x}")]
pub struct BlockMismatch {
    /// Index of the part within the payload.
    pub part: u32,
    /// Index of the block within the chunk.
    pub block: u64,
    /// The CRC that came with the payload.
    pub expected: u32,
    /// The CRC of the bytes that arrived.
    pub found: u32,
}

/// Why a payload is refused against its list of CRCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The bytes are not those the sender summed.
    #[error(transparent)]
    Mismatch(#[from] BlockMismatch),
    /// The list is not as long as the payload has parts.
    #[error("payload has {parts} parts, but {crcs} checksums came with it")]
    Count {
        /// Parts of the payload.
        parts: usize,
        /// Checksums in the list.
        crcs: usize,
    },
}

/// How many blocks the `len` bytes at `offset` touch; 0 when `len` is 0.
#[inline]
pub const fn parts(offset: u64, len: u64) -> u64 {
    if len == 0 {
        return 0;
    }
    let within = offset % BLOCK as u64;
    (within + len).div_ceil(BLOCK as u64)
}

/// Cuts `bytes`, which begin at `offset` of the chunk, at block boundaries.
///
/// Yields at most `parts(offset, bytes.len())` non-empty slices which together are `bytes`.
pub fn split(offset: u64, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let block = BLOCK as usize;
    let head = (block - (offset % u64::from(BLOCK)) as usize) % block;
    let (first, rest) = bytes.split_at(head.min(bytes.len()));
    std::iter::once(first).filter(|part| !part.is_empty()).chain(rest.chunks(block))
}

/// Appends to `out` the CRC of each part of `bytes`, which begin at `offset` of the chunk.
pub fn block_crcs(offset: u64, bytes: &[u8], out: &mut Vec<u32>) {
    out.reserve(parts(offset, bytes.len() as u64) as usize);
    out.extend(split(offset, bytes).map(crc32c));
}

/// Checks each part of `bytes`, which begin at `offset` of the chunk, against `crcs`.
///
/// # Errors
/// The first part that does not match, or a list that is too short or too long.
pub fn verify_blocks(
    offset: u64,
    bytes: &[u8],
    crcs: impl ExactSizeIterator<Item = u32>,
) -> Result<(), VerifyError> {
    let parts = parts(offset, bytes.len() as u64) as usize;
    if parts != crcs.len() {
        return Err(VerifyError::Count { parts, crcs: crcs.len() });
    }
    let first = offset / u64::from(BLOCK);
    for (part, (bytes, expected)) in split(offset, bytes).zip(crcs).enumerate() {
        let found = crc32c(bytes);
        if found != expected {
            let block = first + part as u64;
            return Err(BlockMismatch { part: part as u32, block, expected, found }.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that repeat with no period a block could hide.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect()
    }

    #[test]
    fn known_answers() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&[]), 0);
    }

    #[test]
    fn agrees_with_the_oracle_at_every_length_and_alignment() {
        let bytes = noise(5000);
        for len in 0..=4200 {
            let start = len % 67;
            let slice = &bytes[start..start + len];
            assert_eq!(crc32c(slice), crc32c::crc32c(slice), "length {len} from {start}");
        }
        for start in 0..128 {
            let slice = &bytes[start..start + 4096];
            assert_eq!(crc32c(slice), crc32c::crc32c(slice), "block from {start}");
        }
        let long = noise(MAX_LONG);
        assert_eq!(crc32c(&long), crc32c::crc32c(&long));
    }
    const MAX_LONG: usize = (1 << 20) + 13;

    #[test]
    fn parts_are_blocks_touched() {
        for offset in [0u64, 1, 511, 4095, 4096, 4097, 8191, u64::from(u32::MAX)] {
            for len in [0u64, 1, 2, 4095, 4096, 4097, 8192, 12_289] {
                let slow = if len == 0 { 0 } else { (offset + len - 1) / 4096 - offset / 4096 + 1 };
                assert_eq!(parts(offset, len), slow, "{len} at {offset}");
                let bytes = vec![0u8; len as usize];
                let cut: Vec<_> = split(offset, &bytes).collect();
                assert_eq!(cut.len() as u64, slow);
                assert!(cut.iter().all(|part| !part.is_empty() && part.len() <= 4096));
                assert_eq!(cut.iter().map(|part| part.len() as u64).sum::<u64>(), len);
            }
        }
    }

    #[test]
    fn cuts_at_absolute_boundaries() {
        let bytes = noise(4096 + 100);
        let mut crcs = vec![7];
        block_crcs(4000, &bytes, &mut crcs);
        let expected = [
            7,
            crc32c::crc32c(&bytes[..96]),
            crc32c::crc32c(&bytes[96..4192]),
            crc32c::crc32c(&bytes[4192..]),
        ];
        assert_eq!(crcs, expected);
    }

    #[test]
    fn finds_each_damaged_bit_and_names_the_block() {
        let mut bytes = noise(10_000);
        let mut crcs = Vec::new();
        block_crcs(5000, &bytes, &mut crcs);
        assert_eq!(verify_blocks(5000, &bytes, crcs.iter().copied()), Ok(()));
        for position in (0..bytes.len()).step_by(97) {
            bytes[position] ^= 0x10;
            let error = verify_blocks(5000, &bytes, crcs.iter().copied());
            let block = (5000 + position as u64) / 4096;
            assert!(
                matches!(error, Err(VerifyError::Mismatch(found)) if found.block == block
                    && u64::from(found.part) == block - 1),
                "{position}: {error:?}"
            );
            bytes[position] ^= 0x10;
        }
    }

    #[test]
    fn refuses_a_list_of_the_wrong_length() {
        let error = verify_blocks(0, &[1; 4097], [0u32].into_iter());
        assert_eq!(error, Err(VerifyError::Count { parts: 2, crcs: 1 }));
        assert_eq!(verify_blocks(9, &[], [].into_iter()), Ok(()));
    }
}
