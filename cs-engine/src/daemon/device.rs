//! What the disk under a directory promises.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether the disk under `dir` writes a block of 4 KiB whole or not at all when power fails. What cannot be found out
/// counts as no: then aligned overwrites go through the journal.
pub(super) fn is_block_atomic(dir: &Path) -> bool {
    let Ok(metadata) = std::fs::metadata(dir) else { return false };
    let device = metadata.dev();
    let node = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    // A partition has no queue of its own; its disk's is one level up.
    let queues = ["queue/physical_block_size", "../queue/physical_block_size"];
    let size = queues.iter().find_map(|queue| std::fs::read_to_string(Path::new(&node).join(queue)).ok());
    size.and_then(|size| size.trim().parse::<u64>().ok())
        .is_some_and(|size| size >= crate::format::BLOCK as u64)
}
