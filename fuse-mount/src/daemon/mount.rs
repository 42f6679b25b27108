//! The mount itself: a directory that is free, the kernel's side, and its end.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::failure::Failure;
use super::options::MountOptions;
use crate::kernel::{Device, Manner};

/// Type of the file system, as the kernel lists it.
const KIND: &str = "fuse.vstorage";
/// What is mounted, as the kernel says it.
const MOUNTS: &str = "/proc/self/mountinfo";
/// Dead mounts that are taken away before a directory counts as taken.
const STALE_MAX: usize = 16;

/// A directory in its one form; it may be the mount point of a dead daemon, so it is not looked into.
///
/// # Errors
/// [`Failure::Directory`].
pub(super) fn resolve(dir: &Path) -> Result<PathBuf, Failure> {
    let fail = |error| Failure::Directory { dir: dir.to_owned(), error };
    let absolute = std::path::absolute(dir).map_err(fail)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            let path = std::fs::canonicalize(parent).map_err(fail)?.join(name);
            // The last part may be a symbolic link.
            let is_link = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
            if is_link { std::fs::canonicalize(&path).map_err(fail) } else { Ok(path) }
        }
        _ => Err(fail(io::ErrorKind::InvalidInput.into())),
    }
}

/// Sees to it that nothing is mounted at a directory: what a dead daemon has left is taken away.
///
/// # Errors
/// [`Failure`].
pub(super) fn clear(dir: &Path) -> Result<(), Failure> {
    for _ in 0..STALE_MAX {
        let mounts =
            std::fs::read_to_string(MOUNTS).map_err(Failure::system("cannot read the list of mounts"))?;
        let Some(kind) = kind_of_mount(&mounts, dir) else { break };
        // Attributes the kernel may still have; space it asks for.
        let is_stale = kind == KIND && rustix::fs::statfs(dir).is_err_and(|error| error == Errno::NOTCONN);
        if !is_stale {
            return Err(Failure::Taken { dir: dir.to_owned(), what: kind });
        }
        tracing::warn!("{} is the mount point of a daemon that is dead; clearing it", dir.display());
        let unmounted = unmount(dir);
        unmounted.map_err(Failure::system("cannot unmount what a dead daemon has left"))?;
    }
    let found = std::fs::metadata(dir).map_err(|error| Failure::Directory { dir: dir.to_owned(), error })?;
    match found.is_dir() {
        true => Ok(()),
        false => Err(Failure::Directory { dir: dir.to_owned(), error: io::ErrorKind::NotADirectory.into() }),
    }
}

/// Mounts.
///
/// # Errors
/// [`Failure::Mount`].
pub(super) fn mount(cluster: &str, dir: &Path, options: &MountOptions) -> Result<Rc<Device>, Failure> {
    let manner = Manner {
        writeback: options.writeback,
        readahead_max: options.readahead_max,
        for_all: options.for_all,
        flags: options.flags,
    };
    let mounted = Device::mount(&format!("vstorage://{cluster}"), dir, &manner);
    mounted.map_err(|error| Failure::Mount { dir: dir.to_owned(), error })
}

/// Takes the mount away at once; files that are open stay so until they are closed.
///
/// # Errors
/// Those of `umount2(2)`.
pub(super) fn unmount(dir: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(dir, UnmountFlags::DETACH)?)
}

/// Has the kernel write back what programs have written to mapped files.
///
/// # Errors
/// Those of `syncfs(2)`.
pub(super) fn write_back(dir: &Path) -> io::Result<()> {
    let top = rustix::fs::open(
        dir,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    Ok(rustix::fs::syncfs(top)?)
}

/// Type of what is mounted at a directory, uppermost.
fn kind_of_mount(mounts: &str, dir: &Path) -> Option<String> {
    let at = |line: &&str| line.split(' ').nth(4).is_some_and(|point| unescape(point) == dir);
    let line = mounts.lines().rfind(at)?;
    let (_, rest) = line.split_once(" - ")?;
    Some(rest.split(' ').next()?.to_owned())
}

/// Reads `\040` and the like, as `proc(5)` writes what would end a word.
fn unescape(word: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = word.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = if byte == b'\\' { tail.first_chunk::<3>() } else { None };
        let value = code
            .and_then(|code| std::str::from_utf8(code).ok())
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match value {
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
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uppermost_mount_counts() {
        let mounts = "\
21 1 0:19 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:40 / /mnt/a\\040b rw,nosuid shared:2 master:7 - fuse.vstorage vstorage://s rw,user_id=0
31 30 0:41 / /mnt/a\\040b rw - tmpfs none rw
32 21 0:42 / /mnt/c rw - fuse.vstorage vstorage://s rw
";
        let kind = |dir: &str| kind_of_mount(mounts, Path::new(dir));
        assert_eq!(kind("/mnt/a b").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/mnt/c").as_deref(), Some("fuse.vstorage"));
        assert_eq!(kind("/mnt"), None);
        assert_eq!(unescape("\\134x\\9"), Path::new("\\x\\9"));
    }

    #[test]
    fn directories_have_one_form() {
        let dir = std::env::temp_dir().canonicalize().unwrap();
        assert!(matches!(resolve(&dir.join("x/../.")), Err(Failure::Directory { .. })));
        assert_eq!(resolve(&dir.join(".")).unwrap(), dir);
        assert!(matches!(resolve(Path::new("/")), Err(Failure::Directory { .. })));
    }
}
