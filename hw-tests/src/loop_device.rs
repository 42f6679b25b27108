//! Loop devices with direct I/O.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::deadline::poll_until;
use crate::tool::{LOSETUP, ToolError};

/// How long the kernel may take to let go of a loop device after its last user has gone.
pub const DETACH_LIMIT: Duration = Duration::from_secs(10);

/// Why a loop device could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// `losetup` failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The kernel said no to direct I/O, so writes would stop in the page cache.
    #[error("{} does not use direct I/O on {}", device.display(), file.display())]
    NotDirect {
        /// The loop device, removed again.
        device: PathBuf,
        /// The file below it.
        file: PathBuf,
    },
    /// Somebody still uses it.
    #[error("{} is still in use; end the processes that hold it or files on it", device.display())]
    Busy {
        /// The loop device.
        device: PathBuf,
    },
}

/// A loop device on a file, with direct I/O. Not removed on drop: its owners unmount first.
#[derive(Debug)]
pub struct LoopDevice {
    device: PathBuf,
    file: PathBuf,
}

impl LoopDevice {
    /// Puts a loop device with sectors of `sector_bytes` (512 or 4096) on `file`, which must be an absolute path.
    pub fn attach(file: &Path, sector_bytes: u32) -> Result<Self, LoopError> {
        let sector = format!("--sector-size={sector_bytes}");
        let args = ["--find", "--show", "--direct-io=on", &sector];
        let mut args: Vec<&std::ffi::OsStr> = args.iter().map(AsRef::as_ref).collect();
        args.push(file.as_os_str());
        let device = Self { device: PathBuf::from(LOSETUP.run(&args)?.trim()), file: file.to_path_buf() };
        // losetup only warns when direct I/O is refused.
        if attribute(&device.device, "loop/dio").as_deref() == Some("1") {
            return Ok(device);
        }
        device.detach(DETACH_LIMIT)?;
        Err(LoopError::NotDirect { device: device.device, file: device.file })
    }

    /// Path of the block device.
    pub fn path(&self) -> &Path {
        &self.device
    }

    /// Removes the device and waits up to `limit` until the kernel has let go of the file.
    ///
    /// # Errors
    /// [`LoopError::Busy`] while somebody has it open or mounted; then it goes with its last user.
    pub fn detach(&self, limit: Duration) -> Result<(), LoopError> {
        if !self.is_attached() {
            return Ok(());
        }
        if let Err(error) = LOSETUP.run(&["--detach".as_ref(), self.device.as_os_str()])
            && self.is_attached()
        {
            return Err(error.into());
        }
        // The detaching ends with the last close of the device, which announces itself nowhere.
        poll_until(limit, || (!self.is_attached()).then_some(()))
            .ok_or_else(|| LoopError::Busy { device: self.device.clone() })
    }

    /// Whether the device exists and has our file below it; its number may long be somebody else's.
    fn is_attached(&self) -> bool {
        attribute(&self.device, "loop/backing_file").is_some_and(|backing| Path::new(&backing) == self.file)
    }
}

/// All loop devices on files at or below `dir`, which must be canonical.
pub(crate) fn on_files_below(dir: &Path) -> Vec<LoopDevice> {
    let Ok(entries) = std::fs::read_dir("/sys/block") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let device = Path::new("/dev").join(entry.file_name());
        if let Some(backing) = attribute(&device, "loop/backing_file") {
            let file = PathBuf::from(backing);
            if file.starts_with(dir) {
                found.push(LoopDevice { device, file });
            }
        }
    }
    found
}

/// A sysfs attribute of a block device, without the line end.
fn attribute(device: &Path, name: &str) -> Option<String> {
    let sys = Path::new("/sys/block").join(device.file_name()?).join(name);
    Some(std::fs::read_to_string(sys).ok()?.trim_end().to_owned())
}
