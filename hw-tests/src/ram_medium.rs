//! The RAM medium: an ext4 whose disk is memory, with direct I/O like a real one.
//!
//! A directory on tmpfs is no stand-in for a disk: it is the page cache itself, with neither blocks nor flushes. Here a
//! loop device with direct I/O lies between: `tmpfs dir/ram` → `dir/ram/disk.img` → `/dev/loopN` → ext4 `dir/mnt`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::ext4;
use crate::leftovers::{Claim, LeftoverError};
use crate::loop_device::{DETACH_LIMIT, LoopDevice, LoopError};
use crate::mounts;
use crate::tool::ToolError;

const SECTOR_BYTES: u32 = 4096;
/// What tmpfs may need besides the file's pages.
const TMPFS_SLACK_BYTES: u64 = 1 << 20;

/// Why the medium could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The directory is another's or cannot be cleaned.
    #[error(transparent)]
    Leftover(#[from] LeftoverError),
    /// The loop device.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// Making or mounting a file system.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file or directory of the medium itself.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A mounted ext4 in memory. Dropping it unmounts it and frees the memory.
#[derive(Debug)]
pub struct RamMedium {
    loop_device: Option<LoopDevice>,
    claim: Claim,
}

impl RamMedium {
    /// Makes the medium with a disk of `size_bytes` and mounts its ext4 at `dir/mnt`. Memory is taken as it is written.
    ///
    /// `dir` is made if absent; what an interrupted run left there is removed first.
    ///
    /// # Errors
    /// [`RamError::Tool`] without root, or when the size is too small for an ext4.
    pub fn create(dir: &Path, size_bytes: u64) -> Result<Self, RamError> {
        let mut medium = Self { loop_device: None, claim: Claim::take(dir)? };
        let tmpfs = medium.tmpfs();
        for path in [&tmpfs, &medium.path()] {
            std::fs::create_dir_all(path).map_err(|source| RamError::Io { path: path.clone(), source })?;
        }
        let options = format!("size={},mode=0700,noatime", size_bytes + TMPFS_SLACK_BYTES);
        mounts::mount("tmpfs", &options, "vstorage-ram-medium".as_ref(), &tmpfs)?;
        let file = tmpfs.join("disk.img");
        File::create_new(&file)
            .and_then(|disk| disk.set_len(size_bytes))
            .map_err(|source| RamError::Io { path: file.clone(), source })?;
        let device = medium.loop_device.insert(LoopDevice::attach(&file, SECTOR_BYTES)?).path().to_path_buf();
        ext4::make(&device)?;
        ext4::mount(&device, &medium.path())?;
        Ok(medium)
    }

    /// The mounted ext4's root directory.
    pub fn path(&self) -> PathBuf {
        self.claim.dir().join("mnt")
    }

    /// The loop device.
    pub fn device(&self) -> Option<&Path> {
        self.loop_device.as_ref().map(LoopDevice::path)
    }

    fn tmpfs(&self) -> PathBuf {
        self.claim.dir().join("ram")
    }

    fn dismantle(&mut self) -> Result<(), RamError> {
        if mounts::is_mounted(&self.path()) {
            mounts::unmount(&self.path())?;
        }
        if let Some(device) = self.loop_device.take() {
            device.detach(DETACH_LIMIT)?;
        }
        if mounts::is_mounted(&self.tmpfs()) {
            mounts::unmount(&self.tmpfs())?;
        }
        Ok(())
    }
}

impl Drop for RamMedium {
    fn drop(&mut self) {
        if let Err(error) = self.dismantle() {
            eprintln!("the RAM medium in {} is not fully removed: {error}", self.claim.dir().display());
        }
    }
}
