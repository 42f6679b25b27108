//! Which file of which cluster a path of this host is, where a cluster is mounted.
//!
//! The kernel is asked, not the text of the path: the path is opened, and the kernel says on which mount that ended and
//! where in it. So links are followed, a mount below a mount counts, and what another mount hides is never taken for
//! the file that would be there without it.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use link::cluster_dir::check_cluster_name;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::path::{ClusterPath, PathError};

/// What is mounted where, as the kernel says it.
const MOUNTS: &str = "/proc/self/mountinfo";
/// Type of the file system of `vstorage-mount`.
const KIND: &str = "fuse.vstorage";
/// Before the name of the cluster in what is mounted.
const SCHEME: &str = "vstorage://";
/// The number of the top directory of every such mount.
const TOP: u64 = 1;

/// A file or directory of a mounted cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// The cluster.
    pub(crate) cluster: String,
    /// Its path there.
    pub(crate) path: ClusterPath,
    /// Its number on the mount.
    pub(crate) ino: u64,
}

/// Why a path of this host is none of a mounted cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountedError {
    /// Something else is there.
    #[error(
        "{path}: this host has no cluster mounted there ({found}); give a path within the cluster with -p, such as -p /"
    )]
    Elsewhere {
        /// The path.
        path: String,
        /// What is there.
        found: String,
    },
    /// It cannot be opened.
    #[error("{path}: {error}; give a path below a mounted cluster, or a path within the cluster with -p")]
    Open {
        /// The path.
        path: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The daemon of the mount is dead.
    #[error(
        "{path}: the mount there is dead, its vstorage-mount has ended; mount it again, or give a path within the cluster with -p"
    )]
    Dead {
        /// The path.
        path: String,
    },
    /// The list of mounts cannot be read, or says something new.
    #[error("cannot find out what is mounted at {path}: {error}")]
    Mounts {
        /// The path.
        path: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The file has no path on the mount as this process sees it.
    #[error(
        "{path}: the mount of cluster '{cluster}' does not say where in the cluster this is (it was removed, or the mount lies \
         outside of what this process sees); give the path within the cluster with -p"
    )]
    Placeless {
        /// The path.
        path: String,
        /// The cluster.
        cluster: String,
    },
    /// The path has characters that the cluster's paths do not have.
    #[error("{path}: {error}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        #[source]
        error: PathError,
    },
}

/// Finds the file of a mounted cluster that a path of this host means.
///
/// # Errors
/// [`MountedError`].
pub(crate) fn locate(path: &Path) -> Result<Mounted, MountedError> {
    let shown = || crate::table::printable(&path.to_string_lossy());
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let file = found.map_err(|error| failed(shown(), error))?;
    let wanted = StatxFlags::MNT_ID | StatxFlags::INO;
    let stat = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, wanted);
    let stat = stat.map_err(|error| failed(shown(), error))?;
    let unclear = |error: io::Error| MountedError::Mounts { path: shown(), error };
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(unclear(io::ErrorKind::Unsupported.into()));
    }
    let mounts = std::fs::read(MOUNTS).map_err(unclear)?;
    let here = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(unclear)?;
    match sort(&mounts, stat.stx_mnt_id, &here) {
        Sorted::Cluster { cluster, path: Some(place) } => {
            // Names in a cluster are UTF-8.
            let text = place.into_string().map_err(|_| unclear(io::ErrorKind::InvalidFilename.into()))?;
            let path = text.parse().map_err(|error| MountedError::Path { path: shown(), error })?;
            Ok(Mounted { cluster, path, ino: stat.stx_ino })
        }
        Sorted::Cluster { cluster, path: None } => Err(MountedError::Placeless { path: shown(), cluster }),
        Sorted::Other(found) => Err(MountedError::Elsewhere { path: shown(), found }),
        Sorted::Unlisted => {
            let found = "what is mounted there is not visible to this process".to_owned();
            Err(MountedError::Elsewhere { path: shown(), found })
        }
    }
}

fn failed(path: String, error: Errno) -> MountedError {
    match error {
        Errno::NOTCONN => MountedError::Dead { path },
        error => MountedError::Open { path, error: error.into() },
    }
}

impl Mounted {
    /// Whether the file that the cluster has at the path now is the one that was opened. It is not when names have been
    /// exchanged since, or when the mount is of another cluster of the same name.
    pub(crate) fn is(&self, file_id: u64) -> bool {
        // On the mount the top directory is number 1 whatever its id; the file of that id has another number there.
        self.path.is_root() == (self.ino == TOP)
            && (self.path.is_root() || self.ino == file_id || file_id == TOP)
    }
}

/// What a mount is.
#[derive(Debug, PartialEq, Eq)]
enum Sorted {
    /// A cluster, and the place within it.
    Cluster { cluster: String, path: Option<OsString> },
    /// Something else.
    Other(String),
    /// It is not in the list.
    Unlisted,
}

/// A line of the list of mounts, see proc(5).
struct Line<'a> {
    id: &'a [u8],
    root: PathBuf,
    point: PathBuf,
    kind: String,
    source: OsString,
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        // Between the sixth word and the dash come optional ones.
        let dash = words.iter().skip(6).position(|word| *word == b"-")? + 6;
        Some(Self {
            id: words[0],
            root: unescape(words.get(3)?).into(),
            point: unescape(words.get(4)?).into(),
            kind: String::from_utf8_lossy(words.get(dash + 1)?).into_owned(),
            source: unescape(words.get(dash + 2)?),
        })
    }
}

fn sort(mounts: &[u8], id: u64, here: &Path) -> Sorted {
    let id = id.to_string();
    let mut lines = mounts.split(|&byte| byte == b'\n').filter_map(Line::parse);
    let Some(line) = lines.find(|line| line.id == id.as_bytes()) else { return Sorted::Unlisted };
    let source = line.source.to_string_lossy().into_owned();
    let name = source.strip_prefix(SCHEME).filter(|name| check_cluster_name(name).is_ok());
    match name.filter(|_| line.kind == KIND) {
        Some(name) => Sorted::Cluster { cluster: name.to_owned(), path: place(&line, here) },
        None => {
            let what = if line.kind == KIND { format!("{} of {source}", line.kind) } else { line.kind };
            Sorted::Other(format!("{what} is, at {}", crate::table::printable(&line.point.to_string_lossy())))
        }
    }
}

/// The place within the cluster: where the mount begins there, and the rest.
fn place(line: &Line<'_>, here: &Path) -> Option<OsString> {
    let below = here.strip_prefix(&line.point).ok()?;
    let mut place = line.root.clone();
    // What is removed is marked at its end, and a mount may begin at what is removed.
    let removed = |path: &Path| {
        path.as_os_str().as_bytes().ends_with(b" (deleted)")
            || path.as_os_str().as_bytes().ends_with(b"//deleted")
    };
    if removed(here) && !here.exists() || removed(&line.root) {
        return None;
    }
    place.extend(below);
    Some(place.into_os_string())
}

/// Reads `\040` and the like, which stand for what would end a word.
fn unescape(word: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = if byte == b'\\' { tail.first_chunk::<3>() } else { None };
        let value = code.and_then(|code| std::str::from_utf8(code).ok());
        match value.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"\
21 1 0:19 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:40 / /vstorage/stor\\0401 rw,nosuid shared:2 master:7 - fuse.vstorage vstorage://stor1 rw,user_id=0
31 30 0:41 / /vstorage/stor\\0401/private rw - tmpfs none rw
32 21 0:40 /vms/a\\040b /vms rw - fuse.vstorage vstorage://stor1 rw
33 21 0:42 / /old rw - fuse.vstorage nothing rw
34 21 0:43 / /fake rw - tmpfs vstorage://stor1 rw
35 21 0:40 /gone//deleted /gone rw - fuse.vstorage vstorage://stor1 rw
";

    fn at(id: u64, here: &str) -> Sorted {
        sort(LIST, id, Path::new(here))
    }

    fn stor1(path: &str) -> Sorted {
        Sorted::Cluster { cluster: "stor1".into(), path: Some(path.into()) }
    }

    #[test]
    fn a_path_below_a_mount_is_one_of_the_cluster() {
        assert_eq!(at(30, "/vstorage/stor 1"), stor1("/"));
        assert_eq!(at(30, "/vstorage/stor 1/a/b"), stor1("/a/b"));
        assert_eq!(at(32, "/vms/c"), stor1("/vms/a b/c"), "a mount may begin at any directory");
        assert_eq!(at(32, "/vms"), stor1("/vms/a b"));
    }

    #[test]
    fn what_is_on_another_mount_is_none_of_the_cluster() {
        let other = |sorted| match sorted {
            Sorted::Other(text) => text,
            sorted => panic!("{sorted:?}"),
        };
        assert_eq!(
            other(at(31, "/vstorage/stor 1/private/x")),
            "tmpfs is, at /vstorage/stor 1/private",
            "it hides a file of the cluster"
        );
        assert_eq!(other(at(21, "/vstorage")), "ext4 is, at /");
        assert_eq!(other(at(34, "/fake/a")), "tmpfs is, at /fake", "anything may be called so");
        assert_eq!(other(at(33, "/old/a")), "fuse.vstorage of nothing is, at /old");
        assert_eq!(at(99, "/x"), Sorted::Unlisted);
    }

    #[test]
    fn what_has_no_place_is_not_guessed() {
        let placeless = Sorted::Cluster { cluster: "stor1".into(), path: None };
        assert_eq!(at(30, "/vstorage/stor 1/a (deleted)"), placeless);
        assert_eq!(at(35, "/gone/a"), placeless);
        assert_eq!(at(30, "(unreachable)/a"), placeless);
    }

    #[test]
    fn this_host_without_a_mount_says_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let text = locate(dir.path()).unwrap_err().to_string();
        assert!(
            text.contains("no cluster mounted there (") && text.contains("with -p, such as -p /"),
            "{text}"
        );
        let text = locate(&dir.path().join("none")).unwrap_err().to_string();
        assert!(text.contains("No such file or directory"), "{text}");
    }

    #[test]
    fn the_file_must_still_be_the_one_that_was_opened() {
        let mounted = |path: &str, ino| Mounted { cluster: "stor1".into(), path: path.parse().unwrap(), ino };
        assert!(mounted("/", 1).is(7));
        assert!(!mounted("/", 7).is(7));
        assert!(mounted("/a", 9).is(9));
        assert!(!mounted("/a", 9).is(10));
        assert!(!mounted("/a", 1).is(9));
        assert!(mounted("/a", 7).is(1), "where the top directory has another id");
    }
}
