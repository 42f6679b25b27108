//! The directory of a quickstart: below the one that was given, under a name of ours, with a file that says so. What is
//! in a directory without that file is somebody's, and stays.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;

use super::failed;

/// Its name below the directory that was given.
const NAME: &str = "vstorage-quickstart";
/// The file that says whose it is.
const MARKER: &str = ".made-by-quickstart";
/// What the file says to whoever opens it.
const MARKER_TEXT: &str = "cargo xtask quickstart made this directory and removes it when it runs again.\n";
/// Where daemons log.
const LOGS: &str = "log";

/// A directory that may be removed.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
}

impl Place {
    /// Makes the directory below `given`, or takes the one that an earlier quickstart has made.
    pub(super) fn take(given: &Path) -> Result<Self, Error> {
        let at = |source| Error::Read { path: given.to_owned(), source };
        // Daemons and their environment are told of it, wherever they run.
        let dir = std::path::absolute(given).map_err(at)?.join(NAME);
        let place = Self { dir };
        std::fs::create_dir_all(&place.dir).map_err(|source| place.failure(source))?;
        let marker = place.dir.join(MARKER);
        let empty = std::fs::read_dir(&place.dir).map_err(|source| place.failure(source))?.next().is_none();
        if !empty && !marker.is_file() {
            return Err(failed(format!(
                "{} was not made by a quickstart (it holds no file {MARKER}) and is left as it is; move it away, or \
                 choose another --dir",
                place.dir.display()
            )));
        }
        std::fs::write(&marker, MARKER_TEXT).map_err(|source| place.failure(source))?;
        Ok(place)
    }

    /// Where it is; absolute.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes what is in it. Nothing may be mounted there.
    pub(super) fn empty(&self) -> Result<(), Error> {
        self.empty_but(&[])
    }

    /// Removes what is in it but the logs; gives where they are.
    pub(super) fn keep_logs(&self) -> Result<PathBuf, Error> {
        self.empty_but(&[LOGS])?;
        Ok(self.dir.join(LOGS))
    }

    /// Removes it. Nothing may be mounted there.
    pub(super) fn remove(&self) -> Result<(), Error> {
        self.empty()?;
        std::fs::remove_dir_all(&self.dir).map_err(|source| self.failure(source))
    }

    fn empty_but(&self, kept: &[&str]) -> Result<(), Error> {
        for entry in std::fs::read_dir(&self.dir).map_err(|source| self.failure(source))? {
            let entry = entry.map_err(|source| self.failure(source))?;
            let name = entry.file_name();
            if name == MARKER || kept.iter().any(|kept| name == *kept) {
                continue;
            }
            let path = entry.path();
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(&path),
                Ok(_) => std::fs::remove_file(&path),
                Err(error) => Err(error),
            };
            removed.map_err(|source| Error::Read { path, source })?;
        }
        Ok(())
    }

    fn failure(&self, source: io::Error) -> Error {
        Error::Read { path: self.dir.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_stays() {
        let given = tempfile::tempdir().unwrap();
        std::fs::create_dir(given.path().join("etc")).unwrap();
        std::fs::write(given.path().join("etc/thesis"), "years").unwrap();
        let place = Place::take(given.path()).unwrap();
        place.empty().unwrap();
        place.remove().unwrap();
        assert_eq!(std::fs::read_to_string(given.path().join("etc/thesis")).unwrap(), "years");

        // Also under the name of ours.
        let named = given.path().join(NAME);
        std::fs::create_dir(&named).unwrap();
        std::fs::write(named.join("etc"), "a file").unwrap();
        let said = Place::take(given.path()).unwrap_err().to_string();
        assert!(said.contains(MARKER) && said.contains(&named.display().to_string()), "{said}");
        assert_eq!(std::fs::read_to_string(named.join("etc")).unwrap(), "a file");
    }

    #[test]
    fn an_earlier_run_is_removed_and_a_failed_one_keeps_its_logs() {
        let given = tempfile::tempdir().unwrap();
        let place = Place::take(&given.path().join("new")).unwrap();
        std::fs::create_dir(place.dir().join(LOGS)).unwrap();
        std::fs::create_dir(place.dir().join("cs1")).unwrap();
        std::fs::write(place.dir().join("log/mds.log"), "why").unwrap();
        let logs = place.keep_logs().unwrap();
        assert_eq!(std::fs::read_to_string(logs.join("mds.log")).unwrap(), "why");
        assert!(!place.dir().join("cs1").exists());
        let again = Place::take(&given.path().join("new")).unwrap();
        again.empty().unwrap();
        assert!(!logs.exists());
        again.remove().unwrap();
        assert!(!again.dir().exists());
    }

    #[test]
    fn a_relative_directory_is_made_absolute() {
        // Refused before anything is made: there is no way below a file.
        let said = Place::take(Path::new("Cargo.toml")).unwrap_err().to_string();
        let here = std::env::current_dir().unwrap();
        assert!(said.contains(&here.join("Cargo.toml").join(NAME).display().to_string()), "{said}");
    }
}
