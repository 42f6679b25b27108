//! The programs of the daemons: where they are, and how they are run in our place.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::error::Misuse;

/// A daemon's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Daemon {
    /// Metadata server.
    Mds,
    /// Chunk server.
    Cs,
    /// Block devices and their export.
    Block,
}

impl Daemon {
    /// The name of its program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Mds => "vstorage-mdsd",
            Self::Cs => "vstorage-csd",
            Self::Block => "vstorage-ublkd",
        }
    }

    /// Its program: beside our own, else in PATH.
    ///
    /// # Errors
    /// [`ProgramError::Missing`].
    pub(crate) fn find(self) -> Result<PathBuf, ProgramError> {
        let own = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
        let path = std::env::var_os("PATH").unwrap_or_default();
        find_in(self.program(), own.into_iter().chain(std::env::split_paths(&path)))
    }
}

/// Why a program cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// It is not there.
    #[error(
        "the program {name} is neither beside vstorage nor in PATH; install it, or put its directory into PATH"
    )]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// The system does not run it.
    #[error("cannot run {path:?}: {error}")]
    Run {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

fn find_in(name: &'static str, dirs: impl Iterator<Item = PathBuf>) -> Result<PathBuf, ProgramError> {
    let runs = |path: &PathBuf| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    // A relative entry of PATH would depend on where we are.
    let mut candidates = dirs.filter(|dir| dir.is_absolute()).map(|dir| dir.join(name));
    candidates.find(runs).ok_or(ProgramError::Missing { name })
}

/// Puts a program in our place. Comes back only when that fails.
pub(crate) fn become_program(mut command: Command) -> ProgramError {
    let error = command.exec();
    ProgramError::Run { path: command.get_program().into(), error }
}

/// Runs a program to its end, with our input and output.
///
/// # Errors
/// [`ProgramError::Run`].
pub(crate) fn run(mut command: Command) -> Result<ExitStatus, ProgramError> {
    command.status().map_err(|error| ProgramError::Run { path: command.get_program().into(), error })
}

/// A local directory as the daemons want it: absolute.
///
/// # Errors
/// [`Misuse::DotDot`]: where `..` leads depends on links, and the directory is written down for later.
pub(crate) fn local_dir(dir: &Path) -> Result<PathBuf, Misuse> {
    if dir.components().any(|component| component.as_os_str() == OsStr::new("..")) {
        return Err(Misuse::DotDot(dir.to_owned()));
    }
    // Fails only for an empty path, or without a working directory; then the daemon's message is the better one.
    Ok(std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_program_that_can_run_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let dirs: Vec<PathBuf> =
            ["plain", "dir", "one", "two"].iter().map(|name| root.path().join(name)).collect();
        dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        let find = || {
            find_in(
                "vstorage-csd",
                [PathBuf::from("."), root.path().join("none")].into_iter().chain(dirs.clone()),
            )
        };
        let file = |dir: &Path, mode| {
            let path = dir.join("vstorage-csd");
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        file(&dirs[0], 0o644);
        std::fs::create_dir(dirs[1].join("vstorage-csd")).unwrap();
        let missing = find().unwrap_err().to_string();
        assert!(missing.contains("vstorage-csd") && missing.contains("PATH"), "{missing}");
        let two = file(&dirs[3], 0o755);
        assert_eq!(find().unwrap(), two);
        let one = file(&dirs[2], 0o700);
        assert_eq!(find().unwrap(), one);
    }

    #[test]
    fn local_directories_become_absolute() {
        assert_eq!(local_dir(Path::new("/vstorage/stor1-cs")).unwrap(), Path::new("/vstorage/stor1-cs"));
        assert_eq!(local_dir(Path::new("/vstorage/./stor1-cs/")).unwrap(), Path::new("/vstorage/stor1-cs/"));
        assert!(local_dir(Path::new("cs")).unwrap().is_absolute());
        assert!(matches!(local_dir(Path::new("/a/../b")), Err(Misuse::DotDot(_))));
    }
}
