//! Hosts and the processes on them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::disk::{DiskOptions, Fs};
use crate::random::Rng;
use crate::task::TaskId;

/// Names a host of one world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub(super) u32);

/// Names a process of one world; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub(super) u32);

/// A host to add.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The name it has for itself and in the trace.
    pub name: String,
    /// Its disks, each with one file system, and where they are mounted. One of them must be at `/`.
    pub disks: Vec<(PathBuf, DiskOptions)>,
    /// By how much its boot-time clock is fast, in parts per million; slow if negative. More than -1 000 000.
    pub clock_fast_ppm: i32,
}

impl HostOptions {
    /// A host with one disk.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            disks: vec![(PathBuf::from("/"), DiskOptions::default())],
            clock_fast_ppm: 0,
        }
    }

    /// The same with a clock that runs at another rate than the world's.
    #[must_use]
    pub fn with_clock(mut self, fast_ppm: i32) -> Self {
        self.clock_fast_ppm = fast_ppm;
        self
    }

    /// The same with other properties of its first disk.
    #[must_use]
    pub fn with_disk(mut self, options: DiskOptions) -> Self {
        self.disks[0].1 = options;
        self
    }
}

/// The rate of a boot-time clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock {
    fast_ppm: i32,
}

/// Parts of which a clock's rate counts some.
const MILLION: i128 = 1_000_000;

impl Clock {
    fn new(fast_ppm: i32) -> Self {
        assert!(i128::from(fast_ppm) > -MILLION, "a clock does not stand still or run backwards");
        Self { fast_ppm }
    }

    /// What it shows when so many nanoseconds of the world have passed.
    pub(super) fn local(self, world: u64) -> u64 {
        let rate = MILLION + i128::from(self.fast_ppm);
        u64::try_from(i128::from(world) * rate / MILLION).unwrap_or(u64::MAX)
    }

    /// The first moment of the world at which it shows `local`.
    pub(super) fn world(self, local: u64) -> u64 {
        let rate = MILLION + i128::from(self.fast_ppm);
        u64::try_from((i128::from(local) * MILLION + rate - 1) / rate).unwrap_or(u64::MAX)
    }
}

pub(super) struct Mount {
    pub(super) path: PathBuf,
    pub(super) fs: Fs,
}

pub(super) struct Host {
    pub(super) name: String,
    pub(super) ip: IpAddr,
    pub(super) boot_id: [u8; 16],
    pub(super) powered: bool,
    pub(super) clock: Clock,
    /// What its wall clock is ahead of the world's, in milliseconds.
    pub(super) wall_offset_ms: i64,
    /// Longest path first.
    pub(super) mounts: Vec<Mount>,
    pub(super) rng: Rng,
}

impl Host {
    pub(super) fn new(id: HostId, options: HostOptions, mut rng: Rng) -> Self {
        let mut disks = options.disks;
        disks.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        assert!(disks.iter().any(|(path, _)| path == Path::new("/")), "a host needs a disk at /");
        let mounts = disks
            .into_iter()
            .map(|(path, disk)| Mount { path, fs: Fs::new(disk, Rng::from_seed(rng.next_u64())) })
            .collect();
        let [_, _, high, low] = (id.0 + 1).to_be_bytes();
        let mut host = Self {
            name: options.name,
            ip: IpAddr::V4(Ipv4Addr::new(10, 0, high, low)),
            boot_id: [0; 16],
            powered: true,
            clock: Clock::new(options.clock_fast_ppm),
            wall_offset_ms: 0,
            mounts,
            rng,
        };
        host.boot();
        host
    }

    /// Begins a new boot.
    pub(super) fn boot(&mut self) {
        self.rng.fill(&mut self.boot_id);
        self.powered = true;
    }

    /// The mount that holds `path`, and the names below its root.
    pub(super) fn locate(&self, path: &Path) -> std::io::Result<(usize, Vec<String>)> {
        let path = normal(path)?;
        let index = self.mounts.iter().position(|mount| path.starts_with(&mount.path));
        let index = index.expect("one disk is mounted at /");
        let below = path.strip_prefix(&self.mounts[index].path).expect("it starts with it");
        let names = below.iter().map(|name| name.to_str().map(str::to_owned));
        Ok((index, names.collect::<Option<_>>().ok_or(std::io::ErrorKind::InvalidInput)?))
    }
}

/// The path from the root, without `.` and `..`; relative ones begin at the root. There are no symbolic links, so
/// this is what the kernel would find.
fn normal(path: &Path) -> std::io::Result<PathBuf> {
    let mut normal = PathBuf::from("/");
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => {
                if name.len() > 255 {
                    return Err(std::io::Error::from_raw_os_error(libc::ENAMETOOLONG));
                }
                normal.push(name);
            }
            std::path::Component::ParentDir => {
                normal.pop();
            }
            _ => {}
        }
    }
    Ok(normal)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    Paused,
    Dead,
}

/// A process: its run queue and its state. The first one (owner 0) is the controller, which is on no host.
pub(super) struct Process {
    pub(super) name: String,
    pub(super) host: Option<HostId>,
    pub(super) clock: Clock,
    pub(super) life: Life,
    /// Ready tasks of this round; the order in which they run is drawn.
    pub(super) round: Vec<TaskId>,
    /// Tasks woken since the round began: every ready task runs once before one runs twice.
    pub(super) next: Vec<TaskId>,
    /// Whether it is in the list of processes that have something to run.
    pub(super) listed: bool,
    /// Disk operations in the kernel; it keeps what the process held until they have ended.
    pub(super) in_flight: u32,
}

impl Process {
    pub(super) fn new(name: &str, host: Option<HostId>, clock: Clock) -> Self {
        Self {
            name: name.to_owned(),
            host,
            clock,
            life: Life::Running,
            round: Vec::new(),
            next: Vec::new(),
            listed: false,
            in_flight: 0,
        }
    }

    pub(super) fn has_work(&self) -> bool {
        !(self.round.is_empty() && self.next.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_what_was_asked_for_at_the_first_such_moment() {
        for fast_ppm in [-900_000, -20_000, -1, 0, 1, 20_000, 3_000_000] {
            let clock = Clock::new(fast_ppm);
            for local in [0, 1, 7, 999_999, 1_000_000, 123_456_789_012_345] {
                let world = clock.world(local);
                assert!(clock.local(world) >= local, "{fast_ppm} {local}");
                assert!(world == 0 || clock.local(world - 1) < local, "{fast_ppm} {local}");
            }
        }
        assert_eq!(Clock::new(20_000).local(1_000_000_000), 1_020_000_000);
    }

    #[test]
    fn paths_are_found_on_the_mount_with_the_longest_prefix() {
        let mut options = HostOptions::new("a");
        options.disks.push((PathBuf::from("/mnt/ssd"), DiskOptions::default()));
        let host = Host::new(HostId(4), options, Rng::from_seed(1));
        let locate = |path: &str| host.locate(Path::new(path)).unwrap();
        assert_eq!(locate("/mnt/ssd/a/./b"), (0, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(locate("/mnt/ssdx"), (1, vec!["mnt".to_owned(), "ssdx".to_owned()]));
        assert_eq!(locate("x/../../y"), (1, vec!["y".to_owned()]));
        assert_eq!(locate("/"), (1, Vec::new()));
        assert_eq!(host.ip.to_string(), "10.0.0.5");
    }
}
