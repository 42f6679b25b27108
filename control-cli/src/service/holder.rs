//! Who has a service's directory: its daemon holds a lock there for as long as it runs, however it was started.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use link::cluster_dir::ServiceKind;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::process::ProcessId;
use super::{Service, ServiceError};

/// Who has the directory of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody: the service does not run.
    Nobody,
    /// Its daemon.
    Daemon(ProcessId),
    /// Another process, or one that cannot be seen from here.
    Other(Option<i32>),
}

/// The file that a daemon keeps locked.
fn lock_file(service: &Service) -> PathBuf {
    service.dir.join(match service.kind {
        ServiceKind::Mds => "lock",
        ServiceKind::Cs => "superblock",
    })
}

impl Holder {
    /// Looks who has the directory of a service.
    ///
    /// # Errors
    /// [`ServiceError::File`].
    pub(crate) fn of(service: &Service) -> Result<Self, ServiceError> {
        let path = lock_file(service);
        find(&path, service.daemon().program()).map_err(|error| ServiceError::File { path, error })
    }
}

fn find(path: &Path, program: &str) -> io::Result<Holder> {
    let file = match File::open(path) {
        Ok(file) => file,
        // Without it there is nothing that a daemon could have opened.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Holder::Nobody),
        Err(error) => return Err(error),
    };
    // A shared one, given back at once. A daemon that starts in this moment tries again.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => return Ok(Holder::Nobody),
        Err(Errno::WOULDBLOCK) => {}
        Err(error) => return Err(error.into()),
    }
    let Some(device) = device_of(&file)? else { return Ok(Holder::Other(None)) };
    let name = format!("{device}:{}", file.metadata()?.ino());
    let locks = std::fs::read_to_string("/proc/locks")?;
    let Some(pid) = locks.lines().find_map(|line| holder_in(line, &name)) else {
        return Ok(Holder::Other(None));
    };
    // First who it is, then what it runs: if it is still that one afterwards, it is what was meant.
    let process = ProcessId::of(pid)?;
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    Ok(match process {
        Some(process) if runs(&words, program) => Holder::Daemon(process),
        Some(_) => Holder::Other(Some(pid)),
        None => Holder::Other(None),
    })
}

/// The device of the file system a file is on, as `/proc/locks` names it. What stat(2) tells is another one on file systems
/// with parts of their own, as btrfs with its subvolumes; the table of mounts has that of the whole.
fn device_of(file: &File) -> io::Result<Option<String>> {
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mount = about.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
    Ok(mount.and_then(|mount| mounts.lines().find_map(|line| device_in(line, mount))))
}

/// The device in a line of `/proc/self/mountinfo` if it is about this mount, in the form of `/proc/locks`; see proc(5).
fn device_in(line: &str, mount: &str) -> Option<String> {
    let mut fields = line.split(' ');
    if fields.next() != Some(mount) {
        return None;
    }
    let (major, minor) = fields.nth(1)?.split_once(':')?;
    Some(format!("{:02x}:{:02x}", major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
}

/// The process of a line of `/proc/locks` if it is about this file (major:minor:inode) and says who holds the lock; see
/// proc(5).
fn holder_in(line: &str, file: &str) -> Option<i32> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    // Who waits has an arrow before the kind.
    let &[_, "FLOCK", _, _, pid, of, ..] = fields.as_slice() else { return None };
    (of == file).then(|| pid.parse().ok()).flatten().filter(|&pid| pid > 0)
}

/// Whether a command line, its words ended by zeroes, runs a daemon: `…/PROGRAM run …`.
fn runs(words: &[u8], program: &str) -> bool {
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    let is_program = |word: &[u8]| word.rsplit(|byte| *byte == b'/').next() == Some(program.as_bytes());
    words.windows(2).any(|pair| is_program(pair[0]) && pair[1] == b"run")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_its_holder() {
        let held = "7: FLOCK  ADVISORY  WRITE 1234 fe:00:10027329 0 EOF";
        assert_eq!(holder_in(held, "fe:00:10027329"), Some(1234));
        assert_eq!(holder_in(held, "fe:00:1002732"), None);
        assert_eq!(holder_in(&held.replace("FLOCK ", "POSIX "), "fe:00:10027329"), None);
        assert_eq!(holder_in("7: -> FLOCK  ADVISORY  WRITE 9 fe:00:10027329 0 EOF", "fe:00:10027329"), None);
        assert_eq!(holder_in(&held.replace("1234", "0"), "fe:00:10027329"), None, "of another namespace");
        assert_eq!(holder_in("", "fe:00:10027329"), None);
    }

    #[test]
    fn a_device_is_that_of_the_mount() {
        let line = "136 25 0:31 /root /srv rw,noatime shared:61 - btrfs /dev/sdb1 rw,subvol=/root";
        assert_eq!(device_in(line, "136").as_deref(), Some("00:1f"));
        assert_eq!(device_in(line, "13"), None);
        assert_eq!(device_in("25 1 254:0 / / rw - ext4 /dev/vda rw", "25").as_deref(), Some("fe:00"));
        assert_eq!(device_in("25 1", "25"), None);
    }

    #[test]
    fn a_daemon_is_known_by_its_command() {
        let runs = |words: &str| runs(words.replace(' ', "\0").as_bytes(), "vstorage-csd");
        assert!(runs("/usr/bin/vstorage-csd run -c stor1 -r /vstorage/cs"));
        assert!(runs("/bin/sh /usr/bin/vstorage-csd run -c stor1"));
        assert!(!runs("/usr/bin/vstorage-csd check /vstorage/cs"));
        assert!(!runs("/usr/bin/vstorage-mdsd run -c stor1"));
        assert!(!runs("vim vstorage-csd"));
        assert!(!runs(""));
    }

    #[test]
    fn a_free_directory_has_no_holder_and_a_held_one_has() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("superblock");
        assert_eq!(find(&path, "vstorage-csd").unwrap(), Holder::Nobody);
        let file = File::create(&path).unwrap();
        assert_eq!(find(&path, "vstorage-csd").unwrap(), Holder::Nobody);
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(find(&path, "vstorage-csd").unwrap(), Holder::Other(Some(own)));
        drop(file);
        assert_eq!(find(&path, "vstorage-csd").unwrap(), Holder::Nobody);
    }
}
