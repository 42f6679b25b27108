//! A real tree of files: copied in, and compared by checksum.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::Error;

use super::{failed, tool};

/// What was copied: the checksum of each file by its path below the tree.
pub(super) struct Copied {
    /// Files.
    pub(super) files: usize,
    /// Bytes.
    pub(super) bytes: u64,
    sums: BTreeMap<PathBuf, [u8; 32]>,
}

/// The Rust toolchain's `lib/`.
pub(super) fn sysroot_lib() -> Result<PathBuf, Error> {
    Ok(PathBuf::from(tool("rustc", &["--print", "sysroot"])?.trim()).join("lib"))
}

fn files(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        let read = |source| Error::Read { path: dir.clone(), source };
        for entry in std::fs::read_dir(&dir).map_err(read)? {
            let entry = entry.map_err(read)?;
            let kind = entry.file_type().map_err(read)?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn checksum(path: &Path) -> Result<([u8; 32], u64), Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(read)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut buffer).map_err(read)?;
        if count == 0 {
            return Ok((hash.finalize().into(), bytes));
        }
        hash.update(&buffer[..count]);
        bytes += count as u64;
    }
}

/// Copies a tree and notes every checksum, taken from the source.
pub(super) fn copy(from: &Path, to: &Path) -> Result<Copied, Error> {
    let mut sums = BTreeMap::new();
    let mut total = 0;
    let all = files(from)?;
    for (index, path) in all.iter().enumerate() {
        let below = path.strip_prefix(from).map_err(|_| failed("a file outside its own tree"))?;
        let target = to.join(below);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|source| Error::Read { path: parent.to_owned(), source })?;
        }
        let (sum, bytes) = checksum(path)?;
        std::fs::copy(path, &target).map_err(|source| Error::Read { path: target, source })?;
        sums.insert(below.to_owned(), sum);
        total += bytes;
        if index % 50 == 49 {
            println!("    {} of {} files", index + 1, all.len());
        }
    }
    Ok(Copied { files: sums.len(), bytes: total, sums })
}

/// Compares every file with what was copied; gives how many there were.
pub(super) fn compare(copied: &Copied, at: &Path) -> Result<usize, Error> {
    let mut wrong = Vec::new();
    for (below, sum) in &copied.sums {
        if checksum(&at.join(below))?.0 != *sum {
            wrong.push(below.display().to_string());
        }
    }
    if wrong.is_empty() {
        return Ok(copied.sums.len());
    }
    Err(failed(format!("{} files differ after the restart: {}", wrong.len(), wrong.join(", "))))
}
