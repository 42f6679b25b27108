//! A disk that forgets: what has not been flushed may be gone after [`ForgettingDisk::power_cut`].
//!
//! Killing a process, even a virtual machine, proves nothing about flushes: the page cache of the host survives it. This
//! disk has a write cache of its own below the kernel's:
//!
//! ```text
//!   chunk server's directory
//!   ext4                       page cache, journal; fsync becomes REQ_OP_FLUSH
//!   /dev/loopN                 direct I/O: no page cache; flush becomes vfs_fsync on the file below
//!   FUSE  dir/fuse/disk.img    FOPEN_DIRECT_IO, no writeback cache: no page cache; FUSE_WRITE, FUSE_FSYNC
//!   VolatileCache              in this process: all since the last FUSE_FSYNC
//!   dir/medium.img             what survives
//! ```
//!
//! Discard and write-zeroes arrive as `FUSE_FALLOCATE` and are volatile writes of zeroes. A flush covers every write
//! that arrived before it. The seed decides what a cut leaves; the order in which the kernel sends requests is its
//! own, so a seed does not replay a run exactly.
//!
//! The file system is served by threads of this process. When the process is killed, its disk's I/O fails and
//! [`cleanup_stale`](crate::cleanup_stale) (also run by [`ForgettingDisk::create`]) removes the rest.
//!
//! Sequence of a test:
//!
//! ```text
//! create → attach → mkfs → mount → daemons run → power_cut → kill daemons → detach → power_on → mount → compare
//! ```

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption};

use crate::ext4;
use crate::leftovers::{Claim, LeftoverError};
use crate::loop_device::{DETACH_LIMIT, LoopDevice, LoopError};
use crate::mounts;
use crate::tool::ToolError;

mod cache;
mod extents;
mod served_file;

pub use cache::CutReport;
use cache::VolatileCache;
use served_file::{Drive, FILE_NAME, ServedFile};
pub use served_file::{Pace, Stats};

/// Holds what was flushed.
const MEDIUM_FILE: &str = "medium.img";
/// Where the FUSE file system is mounted.
const FUSE_DIR: &str = "fuse";
/// Requests served at a time; the work is copying under one lock, so more would only wait.
const SERVER_THREADS: usize = 2;

/// How long an orderly end is tried on drop before the disk is taken from those who still hold it.
const DROP_LIMIT: Duration = Duration::from_secs(1);

/// How a disk behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Decides what a power cut leaves.
    pub seed: u64,
    /// Bytes that are written whole or not at all, also the logical block of the loop device: 512 or 4096.
    pub sector: u32,
    /// Whether a write of several sectors can be kept in part.
    pub tear: bool,
    /// Bytes of unflushed data held in memory; above it, writes of the seed's choice go to the medium early.
    pub max_volatile_bytes: u64,
    /// Acknowledges flushes and makes nothing durable: proves that a test notices.
    pub lies: bool,
}

impl Default for Options {
    /// Honest, tearing, sectors of 512 bytes, 64 MiB of cache.
    fn default() -> Self {
        Self { seed: 0, sector: 512, tear: true, max_volatile_bytes: 64 << 20, lies: false }
    }
}

/// Why the disk could not do something.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Sectors have 512 or 4096 bytes.
    #[error("sectors of {0} bytes are not offered; use 512 or 4096")]
    BadSector(u32),
    /// The size is no multiple of 4096 bytes, or zero.
    #[error("a disk of {0} bytes is not offered; use a multiple of 4096")]
    BadSize(u64),
    /// A call that needs a loop device came before [`ForgettingDisk::attach`].
    #[error("the disk is not attached; call attach() or power_on() first")]
    NotAttached,
    /// A call that needs a bare disk came before [`ForgettingDisk::detach`].
    #[error("the disk is attached; call detach() first")]
    StillAttached,
    /// [`ForgettingDisk::power_on`] without a cut.
    #[error("the power is on")]
    PowerIsOn,
    /// [`ForgettingDisk::power_cut`] or [`ForgettingDisk::attach`] without power.
    #[error("the power is off; call detach() and power_on() first")]
    PowerIsOff,
    /// The directory is another's or cannot be cleaned.
    #[error(transparent)]
    Leftover(#[from] LeftoverError),
    /// The loop device.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// Making, mounting or unmounting a file system.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file or directory of the disk itself.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The FUSE file system could not be mounted.
    #[error("cannot mount FUSE at {}: {source}; this needs root and /dev/fuse", path.display())]
    Fuse {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The disk. Dropping it removes mounts and devices; the medium stays in its directory.
#[derive(Debug)]
pub struct ForgettingDisk {
    options: Options,
    drive: Arc<Drive>,
    session: Option<BackgroundSession>,
    loop_device: Option<LoopDevice>,
    mount_point: Option<PathBuf>,
    claim: Claim,
}

impl ForgettingDisk {
    /// Makes an empty disk of `size_bytes` in `dir` and serves it at `dir/fuse/disk.img`.
    ///
    /// `dir` is made if absent; what an interrupted run left there is removed first.
    ///
    /// # Errors
    /// [`DiskError::Leftover`] if a living process uses `dir`; [`DiskError::Fuse`] without root or FUSE.
    pub fn create(dir: &Path, size_bytes: u64, options: Options) -> Result<Self, DiskError> {
        if !matches!(options.sector, 512 | 4096) {
            return Err(DiskError::BadSector(options.sector));
        }
        if size_bytes == 0 || !size_bytes.is_multiple_of(4096) {
            return Err(DiskError::BadSize(size_bytes));
        }
        let claim = Claim::take(dir)?;
        let path = claim.dir().join(MEDIUM_FILE);
        let medium = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .and_then(|medium| medium.set_len(size_bytes).map(|()| medium))
            .map_err(|source| DiskError::Io { path, source })?;
        let cache =
            VolatileCache::new(options.sector, options.tear, options.max_volatile_bytes, options.seed);
        let drive = Arc::new(Drive::new(medium, size_bytes, options.sector, cache, options.lies));
        let session = Some(serve(&drive, &claim.dir().join(FUSE_DIR))?);
        Ok(Self { options, drive, session, loop_device: None, mount_point: None, claim })
    }

    /// Puts a loop device on the disk and returns its path.
    pub fn attach(&mut self) -> Result<PathBuf, DiskError> {
        if self.loop_device.is_some() {
            return Err(DiskError::StillAttached);
        }
        if !self.drive.is_powered() {
            return Err(DiskError::PowerIsOff);
        }
        let device = LoopDevice::attach(&self.file(), self.options.sector)?;
        let path = device.path().to_path_buf();
        self.loop_device = Some(device);
        Ok(path)
    }

    /// The file below the loop device, for those who need no block device. Open it anew after each power cut.
    pub fn file(&self) -> PathBuf {
        self.claim.dir().join(FUSE_DIR).join(FILE_NAME)
    }

    /// Path of the loop device, while attached.
    pub fn device(&self) -> Option<&Path> {
        self.loop_device.as_ref().map(LoopDevice::path)
    }

    /// Makes an ext4 on the attached disk.
    pub fn mkfs(&self) -> Result<(), DiskError> {
        Ok(ext4::make(self.device().ok_or(DiskError::NotAttached)?)?)
    }

    /// Mounts the ext4 at `point`, made if absent; after a cut the kernel replays its journal here.
    pub fn mount(&mut self, point: &Path) -> Result<(), DiskError> {
        let device = self.device().ok_or(DiskError::NotAttached)?;
        std::fs::create_dir_all(point)
            .map_err(|source| DiskError::Io { path: point.to_path_buf(), source })?;
        ext4::mount(device, point)?;
        self.mount_point = Some(point.to_path_buf());
        Ok(())
    }

    /// Unmounts the ext4; the disk stays attached.
    pub fn unmount(&mut self) -> Result<(), DiskError> {
        if let Some(point) = &self.mount_point {
            mounts::unmount(point)?;
            self.mount_point = None;
        }
        Ok(())
    }

    /// Checks the ext4 of the attached, unmounted disk without changing it.
    ///
    /// # Errors
    /// [`DiskError::Tool`] with what `e2fsck` found.
    pub fn check(&self) -> Result<(), DiskError> {
        Ok(ext4::check(self.device().ok_or(DiskError::NotAttached)?)?)
    }

    /// What the disk did so far.
    pub fn stats(&self) -> Stats {
        self.drive.stats()
    }

    /// From now on flushes are acknowledged and do nothing (or do their work again).
    pub fn set_lies(&self, lies: bool) {
        self.drive.set_lies(lies);
    }

    /// From now on writes, zeroings and flushes are taken at this pace. A power cut ends it.
    ///
    /// # Errors
    /// [`DiskError::Io`] if no thread can be had for it.
    pub fn set_pace(&self, pace: Pace) -> Result<(), DiskError> {
        let path = self.claim.dir().join(MEDIUM_FILE);
        self.drive.set_pace(pace).map_err(|source| DiskError::Io { path, source })
    }

    /// Cuts the power: in one moment all I/O begins to fail with `EIO`, and each unflushed write is lost, torn or kept
    /// by the seed's choice. A write in flight at that moment is either one of the unflushed or fails. The page cache of a
    /// mounted ext4 stays until it is unmounted, but nothing in it reaches the disk any more.
    ///
    /// Then: kill the daemons, [`detach`](Self::detach), [`power_on`](Self::power_on).
    ///
    /// # Errors
    /// [`DiskError::PowerIsOff`] if it is cut already.
    pub fn power_cut(&mut self) -> Result<CutReport, DiskError> {
        if !self.drive.is_powered() {
            return Err(DiskError::PowerIsOff);
        }
        let path = self.claim.dir().join(MEDIUM_FILE);
        self.drive.cut().map_err(|source| DiskError::Io { path, source })
    }

    /// Unmounts the ext4 and removes the loop device; returns when the kernel has let go of it.
    ///
    /// # Errors
    /// [`LoopError::Busy`] if processes still have files open on it: end them and call again.
    pub fn detach(&mut self) -> Result<(), DiskError> {
        self.detach_within(DETACH_LIMIT)
    }

    fn detach_within(&mut self, limit: Duration) -> Result<(), DiskError> {
        self.unmount()?;
        if let Some(device) = &self.loop_device {
            device.detach(limit)?;
            self.loop_device = None;
        }
        Ok(())
    }

    /// Brings the same disk back with what the cut left, on a new loop device, and returns its path.
    pub fn power_on(&mut self) -> Result<PathBuf, DiskError> {
        if self.loop_device.is_some() {
            return Err(DiskError::StillAttached);
        }
        if self.drive.is_powered() {
            return Err(DiskError::PowerIsOn);
        }
        self.drive.power_on();
        self.attach()
    }

    /// Unmounts and removes everything; with force where an orderly end is refused.
    fn dismantle(&mut self) -> Result<(), DiskError> {
        // What is held would keep its user from ending.
        self.set_pace(Pace::Full)?;
        let detached = self.detach_within(DROP_LIMIT);
        let fuse = self.claim.dir().join(FUSE_DIR);
        if detached.is_err() {
            mounts::abort_fuse(&fuse);
        }
        if mounts::is_mounted(&fuse) {
            mounts::unmount(&fuse)?;
        }
        // Joining is safe: unmounted or aborted, the server threads end.
        if let Some(session) = self.session.take() {
            session.join().map_err(|source| DiskError::Fuse { path: fuse, source })?;
        }
        detached
    }
}

impl Drop for ForgettingDisk {
    fn drop(&mut self) {
        if let Err(error) = self.dismantle() {
            eprintln!("the forgetting disk in {} is not fully removed: {error}", self.claim.dir().display());
        }
    }
}

/// Mounts the file system at `point` and starts its threads.
fn serve(drive: &Arc<Drive>, point: &Path) -> Result<BackgroundSession, DiskError> {
    std::fs::create_dir_all(point).map_err(|source| DiskError::Io { path: point.to_path_buf(), source })?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("vstorage-forgetting-disk".to_owned()),
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    config.n_threads = Some(SERVER_THREADS);
    fuser::spawn_mount(ServedFile(Arc::clone(drive)), point, &config)
        .map_err(|source| DiskError::Fuse { path: point.to_path_buf(), source })
}
