//! The disk that forgets and the RAM medium on the real kernel. Needs root, FUSE and loop devices.

use std::path::{Path, PathBuf};

mod ext4;
mod media;
mod raw;

/// A directory for one test, removed with it. Its name is fixed, so that a run cleans up after an interrupted one.
struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    fn new(name: &str) -> Self {
        Self { dir: Path::new(env!("CARGO_TARGET_TMPDIR")).join(name) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing is mounted below it any more, or it must not be removed.
        if hw_tests::cleanup_stale(&self.dir).is_ok() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
