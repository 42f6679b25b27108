//! A directory that may be emptied: below the one that was given, under a name of ours, with a file that says so. What is
//! in a directory without that file is somebody's, and stays.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::leftovers::{Claim, LeftoverError, OWNER_FILE};

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
    /// A living process works there, or what a dead one left there cannot be removed.
    #[error("{0}, or choose another --dir")]
    Taken(#[from] LeftoverError),
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
pub struct OwnDir {
    path: PathBuf,
    _claim: Option<Claim>,
}

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
        Ok(Self { path: dir, _claim: None })
    }

    /// As [`OwnDir::take`], for this process alone as long as the result lives. What a dead owner has left mounted there is
    /// taken away; its files stay.
    ///
    /// # Errors
    /// [`OwnDirError`]; [`OwnDirError::Taken`] while another process has it, and then nothing is touched.
    pub fn claim(given: &Path, name: &str) -> Result<Self, OwnDirError> {
        let own = Self::take(given, name)?;
        let of = |source| OwnDirError::Io { path: own.path.clone(), source };
        // Of two that come at the same time one is first.
        let order = File::open(own.path.join(MARKER)).map_err(of)?;
        flock(&order, FlockOperation::LockExclusive).map_err(|error| of(error.into()))?;
        let claim = Claim::take(&own.path)?;
        Ok(Self { path: own.path, _claim: Some(claim) })
    }

    /// Where it is: absolute, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what is in it. Nothing may be mounted there.
    ///
    /// # Errors
    /// [`OwnDirError::Io`].
    pub fn empty(&self) -> Result<(), OwnDirError> {
        let of = |path: &Path, source| OwnDirError::Io { path: path.to_owned(), source };
        for entry in std::fs::read_dir(&self.path).map_err(|source| of(&self.path, source))? {
            let entry = entry.map_err(|source| of(&self.path, source))?;
            if entry.file_name() == MARKER || entry.file_name() == OWNER_FILE {
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
    #[test]
    fn one_process_at_a_time_has_a_claimed_directory() {
        let given = std::env::temp_dir().join(format!("vstorage-claimed-{}", std::process::id()));
        let own = OwnDir::claim(&given, "ours").expect("free");
        own.empty().expect("the claim is no content");
        let refused = OwnDir::claim(&given, "ours").expect_err("we live").to_string();
        let pid = format!("in use by process {};", std::process::id());
        assert!(refused.contains(&pid) && refused.ends_with("or choose another --dir"), "{refused}");
        // The same pid with another start time is another process, long gone.
        std::fs::write(own.path().join(OWNER_FILE), format!("{} 1\n", std::process::id())).expect("writable");
        let heir = OwnDir::claim(&given, "ours").expect("its owner is gone");
        drop(heir);
        drop(own);
        drop(OwnDir::claim(&given, "ours").expect("given back"));
        std::fs::remove_dir_all(&given).expect("removable");
    }
}
