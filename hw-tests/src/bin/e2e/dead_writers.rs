//! Clients that die while they have files open: what they leave behind, and what they hold.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hw_tests::cluster::{Cluster, Options};
use hw_tests::deadline::poll_until;
use hw_tests::mount::Mount;

use crate::scene::{PATIENCE, Scene, Works};

/// Size of each file as the metadata server knows it.
const TOLD: usize = 100;
/// Bytes written behind that.
const UNTOLD: usize = 20_000;

/// Shorter than a mount waits for the metadata servers.
const KILL_LIMIT: Duration = Duration::from_secs(45);

fn open(path: &Path) -> File {
    let opened = poll_until(PATIENCE, || OpenOptions::new().read(true).write(true).open(path).ok());
    opened.expect("it can be opened for writing")
}

/// What was told is there, and behind it nothing of the dead writer up to `size`.
fn judge(path: &Path, size: usize) {
    let mut bytes = Vec::new();
    let opened = poll_until(PATIENCE, || File::open(path).ok()).expect("it can be opened");
    (&opened).read_to_end(&mut bytes).expect("it can be read");
    assert_eq!(bytes.len(), size, "{}", path.display());
    assert!(bytes[..TOLD].iter().all(|byte| *byte == b'a'), "{}", path.display());
    let strange = bytes[TOLD..].iter().position(|byte| *byte != 0);
    assert_eq!(strange, None, "{}: bytes of a dead writer behind its end", path.display());
}

/// A client writes behind the end of files and dies before it can say so. Whoever makes a file longer then finds zeroes.
pub(crate) fn dead_writers(scene: &Scene) {
    let cluster = Cluster::make(Options::plain(&scene.dir, &scene.settings.binaries)).expect("a cluster");
    let make = |name: &str| {
        let point = scene.dir.join(name);
        // Past the page cache: then a write asks the metadata server nothing.
        Mount::make(&cluster, &scene.settings.binaries, name, &point, "rw,direct_io").expect("a mount")
    };
    let (mut one, two) = (make("one"), make("two"));
    let path = |mount: &Mount, name: &str| mount.point().join(name);
    let names = ["truncated", "appended", "read", "resized", "elsewhere"];
    let files: Vec<File> = names
        .iter()
        .map(|name| {
            std::fs::write(path(&one, name), [b'a'; TOLD]).expect("a file");
            open(&path(&one, name))
        })
        .collect();
    cluster.mds.pause().works("the metadata server stands still");
    for file in &files {
        file.write_all_at(&[b'X'; UNTOLD], TOLD as u64).expect("data needs no metadata server");
    }
    one.kill().expect("it runs");
    drop(files);
    cluster.mds.resume().works("the metadata server goes on");
    one.mount().expect("the dead mount is taken away");
    scene.say("a writer has died before it could tell its sizes");

    let truncated = path(&one, "truncated");
    judge(&truncated, TOLD);
    let long = open(&truncated);
    long.set_len(10_000).expect("longer");
    drop(long);
    judge(&truncated, 10_000);

    let appended = open(&path(&one, "appended"));
    appended.write_all_at(&[0; 10], 30_000).expect("a write farther out");
    appended.sync_all().expect("a sync");
    drop(appended);
    judge(&path(&one, "appended"), 30_010);

    let read = path(&one, "read");
    judge(&read, TOLD);
    open(&read).set_len(50_000).expect("longer");
    judge(&read, 50_000);
    scene.say("the same client makes files longer");

    cluster.vstorage(&["revoke", "/resized"]).works("a lease can be taken away");
    cluster.vstorage(&["resize", "/resized", "--size", "16384"]).works("a file can be made longer");
    judge(&path(&two, "resized"), 16_384);

    cluster.vstorage(&["revoke", "/elsewhere"]).works("a lease can be taken away");
    let elsewhere = open(&path(&two, "elsewhere"));
    elsewhere.set_len(70_000_000).expect("longer than a chunk");
    drop(elsewhere);
    judge(&path(&two, "elsewhere"), 70_000_000);
    scene.say("others make files longer");
}

/// A program is killed while it waits for a file to be opened: it ends at once, though nobody answers, and the lease that comes later
/// is given back.
pub(crate) fn killed_openers(scene: &Scene) {
    let cluster = Cluster::make(Options::plain(&scene.dir, &scene.settings.binaries)).expect("a cluster");
    let make = |name: &str| {
        Mount::make(&cluster, &scene.settings.binaries, name, &scene.dir.join(name), "rw").expect("a mount")
    };
    let (mut one, mut two) = (make("one"), make("two"));
    let path = one.point().join("file");
    std::fs::write(&path, b"content").expect("a file");
    // By this descriptor the file is opened without looking for its name.
    let known = rustix::fs::open(&path, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
    let known = known.expect("it can be found");
    drop(open(&two.point().join("file")));
    for _ in 0..3 {
        cluster.mds.pause().works("the metadata server stands still");
        let link = format!("/proc/{}/fd/{}", std::process::id(), known.as_raw_fd());
        let mut opener =
            Command::new("sh").args(["-c", "exec 3>>\"$1\"", "opener", &link]).spawn().expect("a shell");
        let wait_channel = format!("/proc/{}/wchan", opener.id());
        let waits = poll_until(KILL_LIMIT, || {
            let at = std::fs::read_to_string(&wait_channel).unwrap_or_default();
            (at.contains("fuse") || at == "request_wait_answer").then_some(())
        });
        assert!(waits.is_some(), "it waits for the mount: {:?}", std::fs::read_to_string(&wait_channel));
        opener.kill().expect("it is our child");
        let ended = poll_until(KILL_LIMIT, || opener.try_wait().expect("it is our child"));
        cluster.mds.resume().works("the metadata server goes on");
        assert!(ended.is_some_and(|status| !status.success()), "a program that is killed ends: {ended:?}");
        drop(open(&two.point().join("file")));
    }
    scene.say("killed programs end at once, and keep no lease");
    drop(known);
    two.unmount().expect("it ends in order");
    one.unmount().expect("it ends in order");
}
