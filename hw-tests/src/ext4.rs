//! ext4 on a block device of ours.

use std::path::Path;

use crate::mounts;
use crate::tool::{E2FSCK, MKFS_EXT4, ToolError};

/// Makes an empty ext4. Nothing is left for the kernel to initialise later, so that no write of its own comes between
/// those of a test.
pub fn make(device: &Path) -> Result<(), ToolError> {
    let extended = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
    MKFS_EXT4
        .run(&[
            "-q".as_ref(),
            "-F".as_ref(),
            "-m0".as_ref(),
            "-E".as_ref(),
            extended.as_ref(),
            device.as_os_str(),
        ])
        .map(drop)
}

/// Mounts the ext4 of `device` at `point`, which is made if absent; a dirty journal is replayed.
pub fn mount(device: &Path, point: &Path) -> Result<(), ToolError> {
    mounts::mount("ext4", "noatime,nodiscard", device.as_os_str(), point)
}

/// Checks the unmounted ext4 of `device` without changing it.
///
/// # Errors
/// [`ToolError::Failed`] with what `e2fsck` found.
pub fn check(device: &Path) -> Result<(), ToolError> {
    E2FSCK.run(&["-f".as_ref(), "-n".as_ref(), device.as_os_str()]).map(drop)
}
