//! A directory that may be emptied: below the one that was given, under a name of ours, with a file that says so. What is
//! in a directory without that file is somebody's, and stays.

use std::io;
use std::path::{Path, PathBuf};

/// The file that says whose it is.
const MARKER: &str = ".made-by-vstorage-tests";
/// What the file says to whoever opens it.
const MARKER_TEXT: &str = "Tests of vstorage made this directory and empty it when they run again.\n";

/// Why there is no such directory.
#[derive(Debug, thiserror::Error)]
pub enum OwnDirError {
    /// It is somebody's.
    #[error(
        "{} was not made by these tests (it holds no file {MARKER}) and is left as it is; move it away, or choose another \
         --dir",
        .0.display()
    )]
    NotOurs(PathBuf),
    /// The file system.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A directory that may be emptied.
#[derive(Debug)]
pub struct OwnDir(PathBuf);

impl OwnDir {
    /// Makes the directory `name` below `given`, or takes the one that an earlier run has made.
    ///
    /// # Errors
    /// [`OwnDirError`].
    pub fn take(given: &Path, name: &str) -> Result<Self, OwnDirError> {
        let path = given.join(name);
        let of = |source| OwnDirError::Io { path: path.clone(), source };
        std::fs::create_dir_all(&path).map_err(of)?;
        let dir = path.canonicalize().map_err(of)?;
        let marker = dir.join(MARKER);
        let empty = std::fs::read_dir(&dir).map_err(of)?.next().is_none();
        if !empty && !marker.is_file() {
            return Err(OwnDirError::NotOurs(dir));
        }
        std::fs::write(marker, MARKER_TEXT).map_err(of)?;
        Ok(Self(dir))
    }

    /// Where it is: absolute, without links.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes what is in it. Nothing may be mounted there.
    ///
    /// # Errors
    /// [`OwnDirError::Io`].
    pub fn empty(&self) -> Result<(), OwnDirError> {
        let of = |path: &Path, source| OwnDirError::Io { path: path.to_owned(), source };
        for entry in std::fs::read_dir(&self.0).map_err(|source| of(&self.0, source))? {
            let entry = entry.map_err(|source| of(&self.0, source))?;
            if entry.file_name() == MARKER {
                continue;
            }
            let path = entry.path();
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(&path),
                Ok(_) => std::fs::remove_file(&path),
                Err(error) => Err(error),
            };
            removed.map_err(|source| of(&path, source))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_stays() {
        let given = std::env::temp_dir().join(format!("vstorage-own-{}", std::process::id()));
        std::fs::create_dir_all(given.join("theirs")).expect("writable");
        std::fs::write(given.join("theirs/thesis"), "years").expect("writable");
        let refused = OwnDir::take(&given, "theirs").expect_err("somebody's");
        assert!(refused.to_string().contains(MARKER), "{refused}");

        let own = OwnDir::take(&given, "ours").expect("free");
        std::fs::create_dir(own.path().join("cluster")).expect("writable");
        std::fs::write(own.path().join("cluster/log"), "").expect("writable");
        std::os::unix::fs::symlink("../theirs", own.path().join("link")).expect("writable");
        let again = OwnDir::take(&given, "ours").expect("made by us");
        again.empty().expect("removable");
        let left: Vec<_> = std::fs::read_dir(again.path()).expect("there").flatten().collect();
        assert!(left.iter().all(|entry| entry.file_name() == MARKER), "{left:?}");
        let theirs = std::fs::read_to_string(given.join("theirs/thesis"));
        assert_eq!(theirs.expect("it is still there"), "years");
        std::fs::remove_dir_all(&given).expect("removable");
    }
}
