//! Reading without changing anything.

use std::io;
use std::path::Path;

use rt::buf::Buf;
use rt::fs::{File, OpenOptions};

use crate::format::BLOCK;

/// Opens a file for direct reading; `None` when it is not there.
pub(super) async fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path, OpenOptions { direct: true, ..OpenOptions::read() }).await {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads `len` bytes of whole blocks; what lies behind the end of the file is zero.
pub(super) async fn read_padded(file: &File, len: usize, offset: u64) -> io::Result<Buf> {
    let size = file.len().await?;
    let present = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
    let whole = present / BLOCK * BLOCK;
    let mut buf = Buf::zeroed(len);
    if whole > 0 {
        let (result, read) = file.read_exact_at(Buf::new(whole), offset).await;
        result?;
        buf[..whole].copy_from_slice(&read);
    }
    Ok(buf)
}
