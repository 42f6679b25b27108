//! The RAM medium, and cleaning up after a killed owner.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hw_tests::deadline::poll_until;
use hw_tests::direct_file::{AlignedBuffer, DirectFile};
use hw_tests::forgetting_disk::{ForgettingDisk, Options};
use hw_tests::process::DaemonSpec;
use hw_tests::ram_medium::RamMedium;
use hw_tests::{cleanup_stale, machine};

use crate::Scratch;

/// Set for the copy of this test binary that is to be killed.
const VICTIM: &str = "VSTORAGE_HW_TESTS_VICTIM";

fn mounts_below(dir: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
    table.lines().filter(|line| line.contains(&*dir.to_string_lossy())).count()
}

fn loops_below(dir: &Path) -> usize {
    let listed = Command::new("losetup").arg("--list").stderr(Stdio::null()).output().expect("installed");
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter(|line| line.contains(&*dir.to_string_lossy()))
        .count()
}

#[test]
fn the_ram_medium_is_a_disk_in_memory() {
    if !machine::can_run("the_ram_medium_is_a_disk_in_memory") {
        return;
    }
    let scratch = Scratch::new("ram");
    let medium = RamMedium::create(&scratch.dir, 64 << 20).expect("root");
    let path = medium.path().join("file");
    let file = DirectFile::create(&path).expect("ext4 offers direct I/O");
    let mut block = AlignedBuffer::new(65536);
    block.fill(0x5a);
    file.write_at(0, &block).expect("writes");
    file.sync_data().expect("syncs");
    let mut read = AlignedBuffer::new(65536);
    file.read_at(0, &mut read).expect("reads");
    assert_eq!(*read, *block);
    assert_ne!(path.metadata().expect("there").dev(), scratch.dir.metadata().expect("there").dev());
    drop(file);
    assert!(mounts_below(&scratch.dir) == 2 && loops_below(&scratch.dir) == 1);
    drop(medium);
    assert!(mounts_below(&scratch.dir) == 0 && loops_below(&scratch.dir) == 0, "all is removed");
}

/// Not a test by itself: what the next test starts and kills.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(VICTIM) else { return };
    let dir = Path::new(&dir);
    let mut disk =
        ForgettingDisk::create(&dir.join("disk"), 32 << 20, Options::default()).expect("root, FUSE");
    disk.attach().expect("a loop device");
    disk.mkfs().expect("formats");
    disk.mount(&dir.join("disk/mnt")).expect("mounts");
    let _ram = RamMedium::create(&dir.join("ram"), 32 << 20).expect("root");
    let mut helper = DaemonSpec::new("sleep", dir.join("helper.log")).arg("1000").start().expect("starts");
    assert!(helper.is_running());
    println!("\nmounted, helper {}", helper.pid());
    // Threads that are blocked in their own file system when they are killed.
    for number in 0.. {
        let file = std::fs::File::create(dir.join("disk/mnt").join(format!("file-{}", number % 100)))
            .expect("creates");
        file.sync_all().expect("syncs");
    }
}

#[test]
fn a_killed_owner_is_cleaned_up_after() {
    if !machine::can_run("a_killed_owner_is_cleaned_up_after") {
        return;
    }
    let scratch = Scratch::new("killed");
    let parts = [scratch.dir.join("disk"), scratch.dir.join("ram")];
    for part in &parts {
        cleanup_stale(part).expect("an earlier run's rest");
    }
    std::fs::create_dir_all(&scratch.dir).expect("writable");
    let victim = DaemonSpec::new(std::env::current_exe().expect("known"), scratch.dir.join("log"))
        .args(["--exact", "media::victim", "--nocapture"])
        .env(VICTIM, &scratch.dir);
    let mut daemon = victim.start().expect("starts");
    let line = daemon.wait_line("mounted", Duration::from_secs(30)).expect("mounts");
    let helper = line.rsplit_once(' ').expect("a pid").1;
    assert!(cleanup_stale(&parts[0]).expect_err("it lives").to_string().contains("in use by process"));
    assert!(mounts_below(&scratch.dir) >= 4);
    daemon.signal(rustix::process::Signal::KILL).expect("lives");
    // Its death may wait for the cleaning up, as it is blocked in a file system that it served itself.
    for part in &parts {
        cleanup_stale(part).expect("can be cleaned");
    }
    daemon.wait_exit(Duration::from_secs(10)).expect("is free to end");
    assert!(mounts_below(&scratch.dir) == 0 && loops_below(&scratch.dir) == 0, "all is removed");
    // Adopted by init, which may leave it a zombie for a while.
    let stat = Path::new("/proc").join(helper).join("stat");
    let ended =
        || std::fs::read_to_string(&stat).map_or(Some(()), |stat| stat.contains(") Z ").then_some(()));
    assert!(poll_until(Duration::from_secs(10), ended).is_some(), "a daemon outlives the killed test");
    let again = ForgettingDisk::create(&parts[0], 32 << 20, Options::default()).expect("free");
    drop(again);
}

#[test]
fn a_disk_held_by_a_process_goes_with_it() {
    if !machine::can_run("a_disk_held_by_a_process_goes_with_it") {
        return;
    }
    let scratch = Scratch::new("held");
    let mut disk = ForgettingDisk::create(&scratch.dir, 32 << 20, Options::default()).expect("root, FUSE");
    let device = disk.attach().expect("a loop device");
    disk.mkfs().expect("formats");
    let root = scratch.dir.join("mnt");
    disk.mount(&root).expect("mounts");
    let spec = DaemonSpec::new("sh", scratch.dir.join("log"))
        .arg("-c")
        .arg(format!("cd {root:?}; echo in; exec sleep 1000"));
    let mut holder = spec.start().expect("starts");
    holder.wait_line("in", Duration::from_secs(20)).expect("enters");
    drop(disk);
    assert_eq!(mounts_below(&scratch.dir), 0, "nothing to trip over is left");
    let sys = Path::new("/sys/block").join(device.file_name().expect("a name")).join("loop/backing_file");
    let backing = || std::fs::read_to_string(&sys).unwrap_or_default();
    assert_eq!(backing(), "/disk.img\n", "held by a process, without its FUSE mount");
    holder.kill().expect("dies");
    assert!(poll_until(Duration::from_secs(10), || (backing() != "/disk.img\n").then_some(())).is_some());
}
