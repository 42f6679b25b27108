//! A file system on the disk, used by another process.

use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

use hw_tests::forgetting_disk::{ForgettingDisk, Options};
use hw_tests::machine;
use hw_tests::process::DaemonSpec;
use hw_tests::seeded::Seeded;

use crate::Scratch;

const DISK_BYTES: u64 = 64 << 20;

fn content(seed: u64) -> Vec<u8> {
    let mut content = vec![0; 300_000];
    Seeded::new(seed).fill(&mut content);
    content
}

#[test]
fn synced_files_survive_on_a_clean_ext4() {
    if !machine::can_run("synced_files_survive_on_a_clean_ext4") {
        return;
    }
    let scratch = Scratch::new("ext4-honest");
    let mut unsynced_lost = 0;
    for seed in 0..4 {
        let mut disk =
            ForgettingDisk::create(&scratch.dir, DISK_BYTES, Options { seed, ..Options::default() })
                .expect("root, FUSE");
        disk.attach().expect("a loop device");
        disk.mkfs().expect("formats");
        let root = scratch.dir.join("mnt");
        disk.mount(&root).expect("mounts");
        for number in 0..4 {
            let mut file = File::create(root.join(format!("synced-{number}"))).expect("creates");
            file.write_all(&content(number)).expect("writes");
            file.sync_all().expect("syncs");
            fs::write(root.join(format!("unsynced-{number}")), content(number)).expect("writes");
        }
        File::open(&root).and_then(|dir| dir.sync_all()).expect("syncs");

        // A daemon at work on the disk when the power goes.
        let script =
            "while dd if=/dev/zero of=work bs=64k count=4 conv=fsync; do echo round; done; exec sleep 1000";
        let spec =
            DaemonSpec::new("sh", scratch.dir.join("log")).arg("-c").arg(format!("cd {root:?}; {script}"));
        let mut daemon = spec.start().expect("starts");
        daemon.wait_line("round", Duration::from_secs(20)).expect("works");
        disk.power_cut().expect("was on");
        daemon.kill().expect("dies");
        disk.detach().expect("nobody uses it");

        disk.power_on().expect("comes back");
        disk.mount(&root).expect("the journal is replayed");
        for number in 0..4 {
            let synced = fs::read(root.join(format!("synced-{number}"))).expect("there");
            assert!(synced == content(number), "seed {seed}: synced-{number} changed");
            let unsynced = fs::read(root.join(format!("unsynced-{number}"))).unwrap_or_default();
            unsynced_lost += u64::from(unsynced != content(number));
        }
        disk.unmount().expect("nobody uses it");
        disk.check().expect("clean");
    }
    assert!(unsynced_lost > 0, "nothing was at stake");
}

#[test]
fn a_lying_disk_loses_synced_files() {
    if !machine::can_run("a_lying_disk_loses_synced_files") {
        return;
    }
    let scratch = Scratch::new("ext4-lies");
    let root = scratch.dir.join("mnt");
    let lost = (0..8).any(|seed| {
        let mut disk =
            ForgettingDisk::create(&scratch.dir, DISK_BYTES, Options { seed, ..Options::default() })
                .expect("root, FUSE");
        disk.attach().expect("a loop device");
        disk.mkfs().expect("formats");
        disk.mount(&root).expect("mounts");
        disk.set_lies(true);
        let mut file = File::create(root.join("synced")).expect("creates");
        file.write_all(&content(seed)).expect("writes");
        file.sync_all().expect("so it says");
        drop(file);
        disk.power_cut().expect("was on");
        disk.detach().expect("nobody uses it");
        disk.power_on().expect("comes back");
        disk.mount(&root).is_err() || fs::read(root.join("synced")).ok() != Some(content(seed))
    });
    assert!(lost, "flushes did nothing and no file was lost");
}
