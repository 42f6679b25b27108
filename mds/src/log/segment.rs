//! Segments: the files of the log, made at full size and filled with zeroes before they are used.
//!
//! Because every block was written before, appending changes no file system metadata: a flush costs one flush of
//! the device, and a write cannot fail for want of space.

use std::io;
use std::path::{Path, PathBuf};

use rt::buf::{Buf, View};
use rt::fs::{self, File, OpenOptions};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::directory::Directory;
use super::failure::{OpenError, Strangeness};
use super::record::{BLOCK, crc};

const MAGIC: [u8; 8] = *b"vstorMDL";
const VERSION: u32 = 1;
const HEADER: usize = 64;
/// How much is written or read at once, in bytes.
pub(super) const STEP: usize = 1 << 20;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    block: U32,
    uuid: [u8; 16],
    number: U64,
    size: U64,
    reserved: [u8; 12],
    crc: U32,
}

const _: () = assert!(size_of::<Raw>() == HEADER);

/// The file of a segment.
pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log-{number:016x}"))
}

/// The file of a segment that is being made.
pub(super) fn draft_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log-{number:016x}.new"))
}

/// The number in a segment's file name.
pub(super) fn number_in(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?;
    let plain = digits.len() == 16 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if plain { u64::from_str_radix(digits, 16).ok() } else { None }
}

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) number: u64,
    pub(super) size: u64,
}

impl Segment {
    /// Makes a segment under a draft name: complete and durable but for its name.
    pub(super) async fn draft(dir: &Directory, number: u64, size: u64) -> io::Result<Self> {
        let path = draft_of(dir.path(), number);
        match fs::remove_file(&path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::open(&path, OpenOptions::direct().create_new()).await?;
        match Self::fill(&file, dir, number, size).await {
            Ok(()) => Ok(Self { file, path, number, size }),
            Err(error) => {
                drop(file);
                // It is no use, and takes room that may be what is missing.
                let _gone = fs::remove_file(&path).await;
                Err(error)
            }
        }
    }

    async fn fill(file: &File, dir: &Directory, number: u64, size: u64) -> io::Result<()> {
        let mut first = Buf::zeroed(BLOCK);
        first[..HEADER].copy_from_slice(&encode_header(dir.identity().uuid, number, size));
        file.write_all_at(first.freeze(), 0).await?;
        let zeroes = Buf::zeroed(STEP).freeze();
        let mut at = BLOCK as u64;
        while at < size {
            let len = (size - at).min(STEP as u64) as usize;
            file.write_all_at(zeroes.slice(..len), at).await?;
            at += len as u64;
        }
        file.sync_all().await
    }

    /// Gives a draft its name, durably.
    pub(super) async fn publish(self, dir: &Directory) -> io::Result<Self> {
        let path = path_of(dir.path(), self.number);
        fs::rename(&self.path, &path).await?;
        fs::sync_dir(dir.path()).await?;
        Ok(Self { path, ..self })
    }

    /// Opens a segment and reads the whole of it.
    pub(super) async fn open(dir: &Directory, number: u64) -> Result<(Self, Vec<u8>), OpenError> {
        let path = path_of(dir.path(), number);
        let file = match File::open(&path, OpenOptions::direct()).await {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(OpenError::NoDirectIo(path));
            }
            other => other.map_err(OpenError::io("open", &path))?,
        };
        let len = file.len().await.map_err(OpenError::io("measure", &path))?;
        if len < BLOCK as u64 {
            return Err(OpenError::strange(&path, Strangeness::Short));
        }
        let first = read(&file, 0, BLOCK).await.map_err(OpenError::io("read", &path))?;
        let size = check_header(&first, &path, dir.identity().uuid, number)?;
        if len < size {
            return Err(OpenError::strange(&path, Strangeness::Short));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        while (bytes.len() as u64) < size {
            let step = (size as usize - bytes.len()).min(STEP);
            let part = read(&file, bytes.len() as u64, step).await.map_err(OpenError::io("read", &path))?;
            bytes.extend_from_slice(&part);
        }
        Ok((Self { file, path, number, size }, bytes))
    }

    /// Replaces what is stored from `from` to `end` by zeroes; the part of its block before `from` stays.
    pub(super) async fn wipe(&self, from: u64, end: u64) -> io::Result<()> {
        let (start, end) =
            (from / BLOCK as u64 * BLOCK as u64, end.next_multiple_of(BLOCK as u64).min(self.size));
        if start >= end {
            return Ok(());
        }
        let mut bytes = Buf::zeroed((end - start) as usize);
        let kept = (from - start) as usize;
        bytes[..kept].copy_from_slice(&read(&self.file, start, BLOCK).await?[..kept]);
        self.file.write_all_at(bytes.freeze(), start).await
    }
}

/// Reads whole blocks.
pub(super) async fn read(file: &File, offset: u64, len: usize) -> io::Result<View> {
    let (result, buf) = file.read_exact_at(Buf::new(len), offset).await;
    result.map(|()| buf.freeze())
}

/// The header of a segment.
pub(super) fn encode_header(uuid: [u8; 16], number: u64, size: u64) -> [u8; HEADER] {
    let mut raw = Raw {
        magic: MAGIC,
        version: VERSION.into(),
        block: (BLOCK as u32).into(),
        uuid,
        number: number.into(),
        size: size.into(),
        reserved: [0; 12],
        crc: 0.into(),
    };
    raw.crc = crc(&raw.as_bytes()[..HEADER - 4]).into();
    let mut bytes = [0; HEADER];
    bytes.copy_from_slice(raw.as_bytes());
    bytes
}

/// Checks the header of a segment of the directory with this UUID; gives the segment's size.
pub(super) fn check_header(bytes: &[u8], path: &Path, uuid: [u8; 16], number: u64) -> Result<u64, OpenError> {
    let strange = |what| OpenError::strange(path, what);
    let (raw, _) = Raw::read_from_prefix(bytes).map_err(|_| strange(Strangeness::Short))?;
    if raw.magic != MAGIC {
        return Err(strange(Strangeness::Magic));
    }
    if raw.crc.get() != crc(&raw.as_bytes()[..HEADER - 4]) {
        return Err(strange(Strangeness::Crc));
    }
    if raw.version.get() != VERSION || raw.block.get() as usize != BLOCK {
        return Err(OpenError::Newer(path.to_owned()));
    }
    if raw.uuid != uuid {
        return Err(strange(Strangeness::Foreign));
    }
    if raw.number.get() != number || !raw.size.get().is_multiple_of(BLOCK as u64) {
        return Err(strange(Strangeness::Name));
    }
    Ok(raw.size.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_segments_have_numbers() {
        let dir = Path::new("d");
        let name = path_of(dir, 0x1f).file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(number_in(&name), Some(0x1f));
        let draft = draft_of(dir, 0x1f).file_name().unwrap().to_str().unwrap().to_owned();
        for name in [&draft[..], "log-1f", "log-000000000000001F", "log-+00000000000001f", "lock", "identity"]
        {
            assert_eq!(number_in(name), None, "{name}");
        }
    }
}
