//! The programs that tests run, and the Debian packages they come in.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::Error;
use crate::leader;
use crate::process::{self, Limits};

/// A Debian package and the programs wanted from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    /// Its name in Debian 12.
    pub(crate) name: &'static str,
    /// Any of these missing means that the package is.
    pub(crate) programs: &'static [&'static str],
}

/// What the tests run: clients of the NBD server, and a file system with its tools on top of it.
pub(crate) const FOR_TESTS: &[Package] = &[
    Package { name: "qemu-utils", programs: &["qemu-img", "qemu-io"] },
    Package { name: "libnbd-bin", programs: &["nbdcopy", "nbdinfo", "nbdfuse"] },
    Package { name: "fio", programs: &["fio"] },
    Package { name: "e2fsprogs", programs: &["mkfs.ext4", "e2fsck"] },
    Package { name: "mount", programs: &["mount", "losetup"] },
    Package { name: "util-linux", programs: &["unshare", "nsenter"] },
    Package { name: "fuse3", programs: &["fusermount3"] },
    // Networks that are cut.
    Package { name: "iproute2", programs: &["ip"] },
    // Reads the manual pages.
    Package { name: "groff-base", programs: &["groff"] },
    // At work on a mounted cluster.
    Package { name: "git", programs: &["git"] },
    Package { name: "sqlite3", programs: &["sqlite3"] },
];

/// Where administrators' programs are; not every user's PATH has them.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// For one run of apt-get, download included.
const APT_MAX: Duration = Duration::from_secs(600);

/// Why the programs are not there and were not installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackageError {
    /// There is no apt-get.
    #[error(
        "these programs are missing: {}; there is no apt-get here to install them with: \
         install what your system calls the Debian packages {}",
        join(programs),
        join(packages)
    )]
    NotDebian { programs: Vec<&'static str>, packages: Vec<&'static str> },
    /// apt-get needs root.
    #[error("Debian packages are missing and only root can install them: run `sudo apt-get install -y {}`", join(.0))]
    NotRoot(Vec<&'static str>),
    /// apt-get was content, yet the programs are not there.
    #[error(
        "apt-get installed {} but these programs are still missing: {}; is another system's package of that name pinned?",
        join(packages),
        join(programs)
    )]
    StillMissing { programs: Vec<&'static str>, packages: Vec<&'static str> },
}

fn join(names: &[&str]) -> String {
    names.join(" ")
}

/// Installs those of `wanted` that are missing. Without any, it changes nothing and needs neither Debian nor root.
pub(crate) fn ensure(wanted: &[Package]) -> Result<(), Error> {
    let path = search_path();
    let missing = Missing::among(wanted, &path);
    if missing.packages.is_empty() {
        return Ok(());
    }
    missing.installable(is_program("apt-get", &path), rustix::process::geteuid().is_root())?;
    say!("installing Debian packages: {}", join(&missing.packages));
    // A fresh machine has no package lists, and an old one may have stale ones: fetch them when they are needed.
    if apt_get(&missing.packages).is_err() {
        apt(&["update"])?;
        apt_get(&missing.packages)?;
    }
    let left = Missing::among(wanted, &path);
    if left.packages.is_empty() {
        return Ok(());
    }
    Err(PackageError::StillMissing { programs: left.programs, packages: left.packages }.into())
}

fn apt_get(packages: &[&str]) -> Result<(), Error> {
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)
}

fn apt(arguments: &[&str]) -> Result<(), Error> {
    let mut command = Command::new("apt-get");
    command.args(["-q", "-o", "DPkg::Lock::Timeout=300"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    if leader::is_gone() {
        return Err(Error::NotBegun { program: "apt-get".into() });
    }
    // Killed between two packages, it would leave a system that installs nothing until somebody repairs it.
    process::complete(&mut command, Limits { total: APT_MAX, silence: None }, process::echo)
}

/// What is missing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    programs: Vec<&'static str>,
    packages: Vec<&'static str>,
}

impl Missing {
    fn among(wanted: &[Package], path: &[PathBuf]) -> Self {
        let mut missing = Self::default();
        for package in wanted {
            let before = missing.programs.len();
            missing.programs.extend(package.programs.iter().filter(|name| !is_program(name, path)));
            if missing.programs.len() > before {
                missing.packages.push(package.name);
            }
        }
        missing
    }

    /// Whether apt-get can be asked for it.
    fn installable(&self, has_apt: bool, is_root: bool) -> Result<(), PackageError> {
        match (has_apt, is_root) {
            (false, _) => Err(PackageError::NotDebian {
                programs: self.programs.clone(),
                packages: self.packages.clone(),
            }),
            (true, false) => Err(PackageError::NotRoot(self.packages.clone())),
            (true, true) => Ok(()),
        }
    }
}

fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(SYSTEM_DIRECTORIES.map(PathBuf::from)).collect()
}

fn is_program(name: &str, path: &[PathBuf]) -> bool {
    path.iter().any(|directory| is_executable(&directory.join(name)))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: &[Package] = &[
        Package { name: "one", programs: &["a", "b"] },
        Package { name: "two", programs: &["c"] },
        Package { name: "three", programs: &["d"] },
    ];

    #[test]
    fn a_program_is_an_executable_file_on_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str, mode: u32| {
            let file = directory.path().join(name);
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        };
        place("a", 0o755);
        place("c", 0o755);
        place("d", 0o644);
        let missing =
            Missing::among(WANTED, &[directory.path().join("nothing"), directory.path().to_owned()]);
        assert_eq!(missing, Missing { programs: vec!["b", "d"], packages: vec!["one", "three"] });
        place("b", 0o700);
        place("d", 0o755);
        assert_eq!(Missing::among(WANTED, &[directory.path().to_owned()]), Missing::default());
    }

    #[test]
    fn who_cannot_install_is_told_what_to_do() {
        let missing = Missing::among(WANTED, &[]);
        assert!(missing.installable(true, true).is_ok());
        let said = missing.installable(true, false).unwrap_err().to_string();
        assert!(said.contains("sudo apt-get install -y one two three"), "{said}");
        let said = missing.installable(false, true).unwrap_err().to_string();
        assert!(said.contains("missing: a b c d;") && said.contains("no apt-get"), "{said}");
    }

    #[test]
    fn nothing_missing_changes_nothing() {
        assert!(ensure(&[Package { name: "no-such-package", programs: &["sh"] }]).is_ok());
    }
}
