//! Reading structures of which a copy may lie on a sector that cannot be read: that hides no other copy.

use std::io;

use rt::buf::Buf;
use rt::fs::File;
use rustix::io::Errno;

use crate::format::BLOCK;

/// What stands for a block that could not be read: no structure, and not zero like one that was never written.
const UNREADABLE: &[u8; 64] = b"the device could not read this block of a table or of a header.\n";

/// As [`read_or_zero`], whole blocks: one that cannot be read hides no other. Gives which those are; nothing takes what stands in
/// their place for a structure.
///
/// # Errors
/// All but those that say that a sector cannot be read.
pub(crate) async fn read_each(file: &File, len: usize, offset: u64) -> io::Result<(Buf, Vec<usize>)> {
    match read_or_zero(file, len, offset).await {
        Ok(buf) => return Ok((buf, Vec::new())),
        Err(error) if !is_unreadable(&error) => return Err(error),
        Err(_) => {}
    }
    let (mut blocks, mut bad) = (Buf::zeroed(len), Vec::new());
    for (index, block) in blocks.chunks_exact_mut(BLOCK).enumerate() {
        match read_or_zero(file, BLOCK, offset + (index * BLOCK) as u64).await {
            Ok(buf) => block.copy_from_slice(&buf),
            Err(error) if is_unreadable(&error) => {
                block.chunks_exact_mut(UNREADABLE.len()).for_each(|line| line.copy_from_slice(UNREADABLE));
                bad.push(index);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((blocks, bad))
}

/// Whether this is what a device says of a sector that it cannot read.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::NODATA | Errno::ILSEQ))
}

/// Reads `len` bytes; what lies behind the end of the file is zero.
///
/// # Errors
/// Those of the file system and the device.
pub(crate) async fn read_or_zero(file: &File, len: usize, offset: u64) -> io::Result<Buf> {
    let (result, mut buf) = file.read_at(Buf::zeroed(len), offset).await;
    let mut have = result?;
    while have < len {
        // A short read, or the end: only asking again tells them apart.
        let from = have / BLOCK * BLOCK;
        let (result, rest) = file.read_at(Buf::new(len - from), offset + from as u64).await;
        let count = result?;
        if from + count <= have {
            buf[have..].fill(0);
            break;
        }
        buf[from..from + count].copy_from_slice(&rest[..count]);
        have = from + count;
    }
    Ok(buf)
}
