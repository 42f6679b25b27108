//! A block device on top of an NBD export: the kernel's client where there is one, else nbdfuse and a loop device.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::Error;

use super::{failed, tool};

/// Where the pieces are below the quickstart's directory.
fn fuse_file(dir: &Path) -> PathBuf {
    dir.join("device").join("nbd")
}

fn mount_point(dir: &Path) -> PathBuf {
    dir.join("mnt")
}

/// How the device is made.
enum Kind {
    /// The kernel's NBD client.
    Kernel,
    /// nbdfuse shows the export as a file; a loop device makes it a disk.
    Fuse(Child),
}

/// An attached block device.
pub(super) struct BlockDevice {
    dir: PathBuf,
    kind: Kind,
    path: String,
    mounted: bool,
    attached: bool,
}

impl BlockDevice {
    /// Attaches the export behind `socket`.
    pub(super) fn attach(dir: &Path, socket: &Path) -> Result<Self, Error> {
        let device = |kind, path| Self { dir: dir.to_owned(), kind, path, mounted: false, attached: true };
        if Path::new("/sys/block/nbd0").exists() && which("nbd-client") {
            let path = "/dev/nbd0";
            tool("nbd-client", &["-unix", &socket.display().to_string(), path, "-block-size", "4096"])?;
            return Ok(device(Kind::Kernel, path.to_owned()));
        }
        let file = fuse_file(dir);
        let parent = dir.join("device");
        std::fs::create_dir_all(&parent).map_err(|source| Error::Read { path: parent.clone(), source })?;
        std::fs::write(&file, b"").map_err(|source| Error::Read { path: file.clone(), source })?;
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        // It says that its server is gone when that is killed on purpose.
        let logs = dir.join("log");
        std::fs::create_dir_all(&logs).map_err(|source| Error::Read { path: logs.clone(), source })?;
        let log = logs.join("nbdfuse.log");
        let said = std::fs::File::create(&log).map_err(|source| Error::Read { path: log.clone(), source })?;
        let child = Command::new("nbdfuse")
            .args(["-o", "allow_other"])
            .arg(&file)
            .arg(&uri)
            .stdin(Stdio::null())
            .stderr(said)
            .spawn()
            .map_err(|source| Error::Spawn { program: "nbdfuse".into(), source })?;
        let mut this = device(Kind::Fuse(child), String::new());
        this.wait_for_fuse(&file, &log)?;
        let found = tool("losetup", &["--find", "--show", "--direct-io=on", &file.display().to_string()])?;
        this.path = found.trim().to_owned();
        Ok(this)
    }

    /// Waits until nbdfuse has mounted: the mount shows as a change of /proc/self/mountinfo, which can be polled.
    fn wait_for_fuse(&mut self, file: &Path, log: &Path) -> Result<(), Error> {
        let mounts = std::fs::File::open("/proc/self/mountinfo")
            .map_err(|source| Error::Read { path: "/proc/self/mountinfo".into(), source })?;
        for _ in 0..100 {
            if std::fs::metadata(file).is_ok_and(|metadata| metadata.len() > 0) {
                return Ok(());
            }
            if let Kind::Fuse(child) = &mut self.kind
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(failed(format!(
                    "nbdfuse ended with {status} before it served the export; see {}",
                    log.display()
                )));
            }
            let mut fds = [rustix::event::PollFd::new(&mounts, rustix::event::PollFlags::PRI)];
            let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            // A change of the mounts or the end of the pause: either way the file is looked at again.
            let _changed = rustix::event::poll(&mut fds, Some(&limit));
        }
        Err(failed("nbdfuse has not served the export within 10 seconds"))
    }

    /// How the device is made, for the report.
    pub(super) fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Kernel => "kernel NBD client",
            Kind::Fuse(_) => "nbdfuse + loop device",
        }
    }

    pub(super) fn make_file_system(&self) -> Result<(), Error> {
        tool("mkfs.ext4", &["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", &self.path])
            .map(drop)
    }

    /// Replays the journal and checks everything.
    pub(super) fn check_file_system(&self) -> Result<(), Error> {
        // The first run replays the journal (exit code 1 = mended); the second must find nothing.
        let replay = Command::new("e2fsck").args(["-p", &self.path]).output();
        let replay = replay.map_err(|source| Error::Spawn { program: "e2fsck".into(), source })?;
        if replay.status.code().is_none_or(|code| code > 1) {
            return Err(failed(format!("e2fsck -p: {}", String::from_utf8_lossy(&replay.stdout))));
        }
        tool("e2fsck", &["-fn", &self.path]).map(drop)
    }

    pub(super) fn mount(&mut self) -> Result<(), Error> {
        let at = mount_point(&self.dir);
        std::fs::create_dir_all(&at).map_err(|source| Error::Read { path: at.clone(), source })?;
        tool("mount", &["-t", "ext4", &self.path, &at.display().to_string()])?;
        self.mounted = true;
        Ok(())
    }

    pub(super) fn mount_point(&self) -> PathBuf {
        mount_point(&self.dir)
    }

    /// Makes everything durable.
    pub(super) fn sync(&self) -> Result<(), Error> {
        tool("sync", &["-f", &self.mount_point().display().to_string()]).map(drop)
    }

    /// Leaves the device attached and mounted.
    pub(super) fn keep(&mut self) {
        self.attached = false;
    }

    /// Unmounts and detaches in order.
    pub(super) fn detach(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.mounted) {
            tool("umount", &[&self.mount_point().display().to_string()])?;
        }
        self.attached = false;
        match &mut self.kind {
            Kind::Kernel => tool("nbd-client", &["-d", &self.path]).map(drop),
            Kind::Fuse(child) => {
                tool("losetup", &["-d", &self.path])?;
                tool("fusermount3", &["-u", &fuse_file(&self.dir).display().to_string()])?;
                child.wait().map(drop).map_err(|source| Error::Wait { program: "nbdfuse".into(), source })
            }
        }
    }

    /// Lets go of a device whose export is gone: what ext4 still wanted to write fails, as on a host that loses its
    /// storage.
    pub(super) fn give_up(mut self) -> Result<(), Error> {
        self.attached = false;
        self.mounted = false;
        tool("umount", &["-l", &self.mount_point().display().to_string()])?;
        match &mut self.kind {
            Kind::Kernel => tool("nbd-client", &["-d", &self.path]).map(drop),
            Kind::Fuse(child) => {
                tool("losetup", &["-d", &self.path])?;
                tool("umount", &["-l", &fuse_file(&self.dir).display().to_string()])?;
                // Nobody holds the file any more once the loop device is gone; nbdfuse ends with its mount.
                child.wait().map(drop).map_err(|source| Error::Wait { program: "nbdfuse".into(), source })
            }
        }
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        if self.attached
            && let Err(error) = self.detach()
        {
            eprintln!("while cleaning up: {error}");
        }
    }
}

fn which(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Removes mounts and devices that an interrupted run has left below `dir`.
pub(super) fn clean(dir: &Path) -> Result<(), Error> {
    if !dir.exists() {
        return Ok(());
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts")
        .map_err(|source| Error::Read { path: "/proc/self/mounts".into(), source })?;
    let at = mount_point(dir).display().to_string();
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(at.as_str())) {
        tool("umount", &["-l", &at])?;
    }
    let file = fuse_file(dir).display().to_string();
    let loops = tool("losetup", &["--noheadings", "--output", "NAME,BACK-FILE"])?;
    for line in loops.lines() {
        if let Some((device, back)) = line.split_once(' ')
            && back.trim().trim_end_matches(" (deleted)") == file
        {
            tool("losetup", &["-d", device])?;
        }
    }
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(file.as_str())) {
        tool("umount", &["-l", &file])?;
    }
    Ok(())
}

/// fio with verification straight over NBD; gives a line for the report.
pub(super) fn fio_verify(uri: &str) -> Result<String, Error> {
    let uri = format!("--uri={uri}");
    let args = [
        "--name=quickstart",
        "--ioengine=nbd",
        &uri,
        "--rw=randrw",
        "--rwmixwrite=60",
        "--bsrange=4k-64k",
        "--iodepth=16",
        "--size=256M",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--fsync=64",
        "--runtime=20",
        "--time_based=0",
        "--output-format=json",
    ];
    let output = tool("fio", &args)?;
    let start = output.find('{').ok_or_else(|| failed(format!("fio printed no report:\n{output}")))?;
    let report: serde_json::Value = serde_json::from_str(&output[start..])?;
    let job = &report["jobs"][0];
    let number = |kind: &str, field: &str| job[kind][field].as_f64().unwrap_or(0.0);
    Ok(format!(
        "verified; write {:.0} ops/s, {:.0} MB/s; read {:.0} ops/s, {:.0} MB/s",
        number("write", "iops"),
        number("write", "bw_bytes") / 1e6,
        number("read", "iops"),
        number("read", "bw_bytes") / 1e6
    ))
}
