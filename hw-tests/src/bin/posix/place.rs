//! Where cases run: a directory, an ext4, a mounted cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hw_tests::cluster::{Cluster, Options};
use hw_tests::ext4;
use hw_tests::loop_device::LoopDevice;
use hw_tests::mount::{self, Mount};
use hw_tests::own_dir::OwnDir;

/// Bytes of the ext4, all of them a hole at first.
const EXT4_BYTES: u64 = 8 << 30;
/// How long the kernel may take to let go of a loop device.
const DETACH_LIMIT: Duration = Duration::from_secs(10);

/// A place for cases.
pub(crate) trait Place {
    /// Its top directory.
    fn root(&self) -> PathBuf;
    /// Unmounts and mounts again.
    fn remount(&mut self);
    /// Kills what can be killed, and mounts again.
    fn crash(&mut self);
}

/// A directory.
pub(crate) struct Plain(pub(crate) PathBuf);

impl Place for Plain {
    fn root(&self) -> PathBuf {
        self.0.clone()
    }

    fn remount(&mut self) {}

    fn crash(&mut self) {}
}

/// Unmounts whatever an interrupted run has left, and removes what is in the directory.
pub(crate) fn clear(own: &OwnDir) {
    for mount in ["ext4", "mount"] {
        mount::clear(&own.path().join(mount));
    }
    own.empty().expect("nothing is mounted there any more");
}

/// An ext4 in a file.
pub(crate) struct Ext4 {
    point: PathBuf,
    device: LoopDevice,
}

impl Ext4 {
    pub(crate) fn make(dir: &Path) -> Self {
        let (image, point) = (dir.join("ext4.img"), dir.join("ext4"));
        std::fs::File::create(&image).and_then(|file| file.set_len(EXT4_BYTES)).expect("an image");
        std::fs::create_dir_all(&point).expect("a mount point");
        let device = LoopDevice::attach(&image, 512).expect("a loop device");
        ext4::make(device.path()).expect("an ext4");
        let ext4 = Self { point, device };
        ext4.mount();
        ext4
    }

    fn mount(&self) {
        ext4::mount(self.device.path(), &self.point).expect("the ext4 mounts");
    }
}

impl Place for Ext4 {
    fn root(&self) -> PathBuf {
        self.point.clone()
    }

    fn remount(&mut self) {
        mount::umount(&self.point).expect("nobody uses it");
        self.mount();
    }

    fn crash(&mut self) {
        self.remount();
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        mount::umount(&self.point).expect("nobody uses it");
        self.device.detach(DETACH_LIMIT).expect("nobody uses it");
    }
}

/// A cluster with three chunk servers, mounted.
pub(crate) struct Mounted {
    cluster: Cluster,
    mount: Mount,
}

impl Mounted {
    pub(crate) fn make(dir: &Path, binaries: &Path, options: &str) -> Self {
        let cluster = Cluster::make(Options::plain(&dir.join("cluster"), binaries)).expect("a cluster");
        let mount = Mount::make(&cluster, binaries, "mount", &dir.join("mount"), options);
        Self { cluster, mount: mount.expect("the cluster can be mounted") }
    }

    /// Unmounts, and ends the cluster in order.
    pub(crate) fn end(mut self) {
        self.mount.unmount().expect("the daemon ends in order");
        self.cluster.stop_all().expect("the cluster stops in order");
        self.cluster.check_all().expect("chunk servers are whole");
    }
}

impl Place for Mounted {
    fn root(&self) -> PathBuf {
        self.mount.point().to_owned()
    }

    fn remount(&mut self) {
        self.mount.unmount().expect("the daemon ends in order");
        self.mount.mount().expect("it can be mounted again");
    }

    fn crash(&mut self) {
        self.mount.kill().expect("it runs");
        // Takes the dead mount away by itself.
        self.mount.mount().expect("it can be mounted again");
    }
}
