//! Disks that are full.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use hw_tests::cluster::{Cluster, Options};
use hw_tests::deadline::poll_until;
use hw_tests::mount::Mount;
use hw_tests::nbd::{Client, Request};
use hw_tests::ram_medium::RamMedium;
use hw_tests::seeded::Seeded;
use rustix::fs::{FallocateFlags, fallocate};

use crate::scene::{PATIENCE, Scene, Works};

/// Each chunk server's disk: smaller than the volume.
const DISK_BYTES: u64 = 224 << 20;
const JOURNAL_MB: u32 = 32;
const VOLUME: &str = "/big";
const VOLUME_BYTES: u64 = 1 << 30;
const PIECE: u64 = 1 << 20;
/// No answer for so long means that the write waits for room.
const WAITING: Duration = Duration::from_secs(6);
const ENOSPC: u32 = 28;
/// Bytes of a file that is one of many, and the number of one beyond them.
const FILE: u64 = 4 << 20;
const LATE: u64 = 1 << 20;

/// The metadata server's disk: room for some segments of its log.
const MDS_DISK_BYTES: u64 = 48 << 20;
/// Changes after which a metadata server on a full disk must have refused one: the last segment of its log has 4 MiB, and
/// a change takes 4 KiB of it at least.
const CHANGES_MAX: u64 = 1100;

/// Those of them that are made through a mount, which is faster than a command for each.
const CHANGES_MOUNTED: u64 = 400;

/// The content of a piece.
fn content(seed: u64, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; PIECE as usize];
    Seeded::new(seed << 32 | number).fill(&mut bytes);
    bytes
}

/// On full disks a write waits or is refused with ENOSPC; what was acknowledged is there, reads, flush and trim work, a
/// trim makes room for further writes, and all of it survives `kill -9`.
pub(crate) fn full_disk(scene: &Scene) {
    let media: Vec<RamMedium> = (1..=3)
        .map(|number| {
            RamMedium::create(&scene.dir.join(format!("ram{number}")), DISK_BYTES).expect("a RAM medium")
        })
        .collect();
    let options = Options {
        servers: media.iter().map(|medium| medium.path().join("cs")).collect(),
        journal_mb: Some(JOURNAL_MB),
        ..Options::plain(&scene.dir, &scene.settings.binaries)
    };
    let mut cluster = scene.cluster_of(options);
    cluster.vstorage(&["create", VOLUME, "--size", &VOLUME_BYTES.to_string()]).works("a volume");
    cluster.export(VOLUME).works("export");
    let seed = scene.settings.seed;
    let written = fill(&cluster.socket(), seed);
    scene.say(format!("full after {written} MiB"));
    assert!((60..DISK_BYTES / PIECE).contains(&written), "it is full when the disks are");

    let check = |client: &mut Client, pieces: std::ops::Range<u64>| {
        for number in pieces {
            let answer = client.ask(Request::Read, number * PIECE, PIECE as u32, &[]).expect("answered");
            assert!(answer.error == 0 && answer.data == content(seed, number), "piece {number} has changed");
        }
    };
    let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    assert_eq!(
        client.ask(Request::Flush, 0, 0, &[]).expect("answered").error,
        0,
        "a flush works on full disks"
    );
    check(&mut client, 0..written);
    scene.say("full: a flush works, all that was acknowledged is there");

    let trimmed = written / 2;
    let len = (trimmed * PIECE) as u32;
    assert_eq!(
        client.ask(Request::Trim, 0, len, &[]).expect("answered").error,
        0,
        "a trim works on full disks"
    );
    assert_eq!(client.ask(Request::Flush, 0, 0, &[]).expect("answered").error, 0);
    // Room comes back when the chunk servers get to it; a write that waits goes on, one that is refused is tried again.
    let goes_in = poll_until(PATIENCE, || {
        let bytes = content(seed, 0);
        let answer = client.ask(Request::Write, 0, PIECE as u32, &bytes).expect("answered");
        assert!([0, ENOSPC].contains(&answer.error), "errno {}", answer.error);
        (answer.error == 0).then_some(())
    });
    assert!(goes_in.is_some(), "a trim makes room for writes");
    assert_eq!(client.ask(Request::Flush, 0, 0, &[]).expect("answered").error, 0);
    scene.say("a trim made room");
    drop(client);

    cluster.kill_all().works("kill");
    cluster.start_all().works("start on disks that are nearly full");
    cluster.export(VOLUME).works("export");
    let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    check(&mut client, 0..1);
    check(&mut client, trimmed..written);
    let answer = client.ask(Request::Read, PIECE, PIECE as u32, &[]).expect("answered");
    assert!(answer.data.iter().all(|&byte| byte == 0), "what was trimmed reads as zeroes");
    drop(client);
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}

/// On full disks a write to a mounted file fails, and leaves the file as it was: no longer, and with nothing behind its end.
pub(crate) fn full_mount(scene: &Scene) {
    let media: Vec<RamMedium> = (1..=2)
        .map(|number| {
            RamMedium::create(&scene.dir.join(format!("ram{number}")), DISK_BYTES).expect("a RAM medium")
        })
        .collect();
    let options = Options {
        servers: media.iter().map(|medium| medium.path().join("cs")).collect(),
        journal_mb: Some(JOURNAL_MB),
        ..Options::plain(&scene.dir, &scene.settings.binaries)
    };
    let cluster = Cluster::make(options).expect("a cluster");
    // Small chunks, and writes from one into the next: then the first part of a write finds room and the second does not.
    cluster.vstorage(&["set-attr", "-R", "-p", "/", "chunk-size=1M"]).works("smaller chunks");
    let make = |name: &str| {
        let point = scene.dir.join(name);
        let options = "rw,direct_io,fail_on_nospace";
        Mount::make(&cluster, &scene.settings.binaries, name, &point, options).expect("a mount")
    };
    let (mut one, mut two) = (make("one"), make("two"));
    let name = one.point().join("file");
    let file = File::create_new(&name).expect("a file");
    let piece = vec![b'x'; PIECE as usize / 2];
    let mut end = 0;
    let refused = loop {
        let offset = end + PIECE * 3 / 4 - end % PIECE;
        match file.write_all_at(&piece, offset) {
            Ok(()) => end = offset + piece.len() as u64,
            Err(error) => break error,
        }
        // Half of each chunk is a hole.
        assert!(end < 4 * DISK_BYTES, "the disks take more than they have");
    };
    assert_eq!(refused.raw_os_error(), Some(ENOSPC as i32), "{refused}");
    let far = end + (1 << 30) + PIECE * 3 / 4 - end % PIECE;
    match file.write_all_at(&piece, far) {
        // A chunk server may have made room meanwhile.
        Ok(()) => end = far + piece.len() as u64,
        Err(error) => assert_eq!(error.raw_os_error(), Some(ENOSPC as i32), "{error}"),
    }
    assert_eq!(file.metadata().expect("attributes").size(), end, "what was refused makes the file no longer");
    file.sync_all().expect("a sync works on full disks");
    scene.say(format!("full after {} MiB", end >> 20));
    drop(file);
    let other = two.point().join("file");
    let seen = poll_until(PATIENCE, || OpenOptions::new().read(true).write(true).open(&other).ok());
    let seen = seen.expect("the other client has closed it");
    assert_eq!(seen.metadata().expect("attributes").size(), end, "nor for others");
    seen.set_len(end + 2 * PIECE).expect("longer, without data");
    let mut tail = vec![1; 2 * PIECE as usize];
    seen.read_exact_at(&mut tail, end).expect("a read");
    assert_eq!(tail.iter().position(|byte| *byte != 0), None, "a part of what was refused");
    drop(seen);
    scene.say("a write that was refused has left nothing");
    two.unmount().expect("it ends in order");
    one.unmount().expect("it ends in order");
}

/// Allocation stops at the margin that is to stay free: then a write waits, or fails with ENOSPC, as it was mounted; reads,
/// syncs, holes and deletions work, and once these have made room the write that waits goes on by itself.
pub(crate) fn full_cluster(scene: &Scene) {
    let media: Vec<RamMedium> = (1..=3)
        .map(|number| {
            RamMedium::create(&scene.dir.join(format!("ram{number}")), DISK_BYTES).expect("a RAM medium")
        })
        .collect();
    let options = Options {
        servers: media.iter().map(|medium| medium.path().join("cs")).collect(),
        journal_mb: Some(JOURNAL_MB),
        ..Options::plain(&scene.dir, &scene.settings.binaries)
    };
    let mut cluster = Cluster::make(options).expect("a cluster");
    cluster.vstorage(&["set-attr", "-R", "-p", "/", "chunk-size=1M"]).works("smaller chunks");
    cluster.vstorage(&["set-config", "mds.wd.quarantine_tout=0"]).works("set-config");
    assert!(cluster.vstorage(&["get-config", "mds.alloc.fill_margin"]).works("get-config").contains('5'));
    let make = |cluster: &Cluster, name: &str, options: &str| {
        let point = scene.dir.join(name);
        Mount::make(cluster, &scene.settings.binaries, name, &point, options).expect("a mount")
    };
    let mut waits = make(&cluster, "waits", "rw,direct_io");
    let mut fails = make(&cluster, "fails", "rw,direct_io,fail_on_nospace");
    let seed = scene.settings.seed;

    let refused = (0..DISK_BYTES / FILE).find(|number| !write_file(fails.point(), seed, *number));
    let files = refused.expect("the disks take more than they have");
    // A file may have gone in halfway, and what a disk tells is as old as its last heartbeat.
    let is_full = |percent: &Vec<f64>| percent.iter().all(|percent| (85.0..98.0).contains(percent));
    let percent = poll_until(PATIENCE, || Some(used_percent(&cluster)).filter(is_full));
    let now = used_percent(&cluster);
    scene.say(format!("full after {files} files; disks at {now:.1?} %"));
    assert!(percent.is_some(), "new chunks come to 95 % of a disk: {now:.1?} %");
    let space = || -> serde_json::Value {
        let text = cluster.vstorage(&["stat", "--json"]).works("stat");
        serde_json::from_str::<serde_json::Value>(&text).expect("an object")["space"].take()
    };
    let is_over =
        |space: &serde_json::Value| space["allocatable_bytes"].as_u64().expect("a count") <= 4 * FILE;
    let told = poll_until(PATIENCE, || Some(space()).filter(is_over));
    let space = space();
    assert!(told.is_some(), "`stat` tells that there is nothing left to allocate: {space}");
    assert!(space["free_bytes"].as_u64().expect("a count") > 0, "{space}");

    // What is there can be read, written over and synced; a hole can be made.
    let first = fails.point().join("0");
    assert!(std::fs::read(&first).expect("a read") == file_content(seed, 0), "file 0 has changed");
    let file = OpenOptions::new().read(true).write(true).open(&first).expect("it opens");
    file.write_all_at(&file_content(seed, 0)[..PIECE as usize], 0).expect("what is there is written over");
    file.sync_all().expect("a sync works");
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, hole, PIECE, PIECE).expect("a hole can be made");
    file.sync_all().expect("a sync works");
    drop(file);

    let (done, ended) = mpsc::channel();
    std::thread::scope(|scope| {
        let point = waits.point().to_owned();
        scope.spawn(move || {
            let outcome = write_new(&point.join("late"), &file_content(seed, LATE));
            // Nobody listens any more where the scenario has failed.
            let _ = done.send(outcome.map_err(|error| error.to_string()));
        });
        let early = ended.recv_timeout(WAITING);
        assert!(early.is_err(), "a write to a full cluster waits: {early:?}");
        assert!(!write_file(fails.point(), seed, files + 1), "or fails, as it was mounted");
        scene.say("full: one mount waits, the other is told ENOSPC; reads, syncs and holes work");
        for number in 1..=files / 2 {
            std::fs::remove_file(fails.point().join(number.to_string())).expect("a deletion works");
        }
        let outcome = ended.recv_timeout(PATIENCE).expect("deletions make room for the write that waits");
        outcome.expect("it goes in");
    });
    scene.say("deletions made room, and the write that waited went on by itself");

    // The margin can be changed.
    cluster.vstorage(&["set-config", "mds.alloc.fill_margin=40"]).works("set-config");
    let stops = poll_until(PATIENCE, || (!write_file(fails.point(), seed, files + 2)).then_some(()));
    assert!(stops.is_some(), "with a larger margin allocation stops before");
    cluster.vstorage(&["set-config", "--default", "mds.alloc.fill_margin"]).works("set-config");
    let goes_on = poll_until(PATIENCE, || write_file(fails.point(), seed, files + 3).then_some(()));
    assert!(goes_on.is_some(), "and goes on with the usual one");
    scene.say("a larger margin stops allocation before, the usual one lets it go on");

    waits.unmount().expect("it ends in order");
    fails.unmount().expect("it ends in order");
    cluster.kill_all().works("kill");
    cluster.start_all().works("start");
    let mut again = make(&cluster, "again", "ro,direct_io");
    for number in files / 2 + 1..files {
        let found = std::fs::read(again.point().join(number.to_string())).expect("a file");
        assert!(found == file_content(seed, number), "file {number} has changed");
    }
    let late = std::fs::read(again.point().join("late")).expect("a file");
    assert!(late == file_content(seed, LATE), "what waited has changed");
    again.unmount().expect("it ends in order");
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}

fn file_content(seed: u64, number: u64) -> Vec<u8> {
    (0..FILE / PIECE).flat_map(|piece| content(seed, number << 8 | piece)).collect()
}

/// Makes a file of a content, synced.
fn write_new(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let file = File::create(path)?;
    file.write_all_at(content, 0)?;
    file.sync_all()
}

/// Writes the file of a number; false if there is no room, and the file is not left then.
fn write_file(point: &Path, seed: u64, number: u64) -> bool {
    let path = point.join(number.to_string());
    match write_new(&path, &file_content(seed, number)) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(ENOSPC as i32), "{error}");
            std::fs::remove_file(&path).expect("a deletion works");
            false
        }
    }
}

/// How full the disks of the chunk servers are, as the cluster shows it.
fn used_percent(cluster: &Cluster) -> Vec<f64> {
    let text = cluster.vstorage(&["list-services", "-C", "--json"]).works("list-services");
    let all: serde_json::Value = serde_json::from_str(&text).expect("an object");
    let number = |cs: &serde_json::Value, name: &str| cs[name].as_f64().expect("a number");
    let used = |cs| 100.0 - 100.0 * number(cs, "free_bytes") / number(cs, "total_bytes");
    all["cs"].as_array().expect("a list").iter().map(used).collect()
}

/// On a full disk a metadata server refuses changes and says why; what changes nothing goes on, so does the data path, also
/// after `kill -9`; nothing is lost, and once there is room it takes changes again by itself.
pub(crate) fn full_metadata(scene: &Scene) {
    let medium = RamMedium::create(&scene.dir.join("ram-mds"), MDS_DISK_BYTES).expect("a RAM medium");
    let plain = Options::plain(&scene.dir, &scene.settings.binaries);
    let mut cluster = scene.cluster_of(Options { mds: medium.path().join("mds"), ..plain });
    cluster.vstorage(&["create", "--dir", "/dir"]).works("a directory");
    cluster.export(crate::scene::VOLUME).works("export");
    let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    let seed = scene.settings.seed;
    let moves_data = |client: &mut Client, round: u64| {
        for number in 0..4 {
            let bytes = content(seed + round, number);
            let offset = number * PIECE;
            assert_eq!(client.ask(Request::Write, offset, PIECE as u32, &bytes).expect("answered").error, 0);
            assert_eq!(client.ask(Request::Flush, 0, 0, &[]).expect("answered").error, 0);
            let read = client.ask(Request::Read, offset, PIECE as u32, &[]).expect("answered");
            assert!(read.error == 0 && read.data == bytes, "piece {number} of round {round}");
        }
    };
    moves_data(&mut client, 0);

    let ballast = medium.path().join("ballast");
    take_the_rest(&ballast);
    let point = scene.dir.join("mnt");
    let mount = Mount::make(&cluster, &scene.settings.binaries, "mount", &point, "rw");
    let mut mount = mount.expect("it can be mounted on a full disk");
    for number in 1..CHANGES_MOUNTED {
        let made = std::fs::create_dir(point.join(format!("dir/{number}")));
        made.unwrap_or_else(|error| panic!("the log has room of its own: change {number}: {error}"));
    }
    mount.unmount().expect("it ends in order");
    scene.say(format!("{CHANGES_MOUNTED} changes through a mount"));
    let create = |cluster: &Cluster, number: u64| {
        cluster.try_vstorage(&["create", "--dir", &format!("/dir/{number}")]).works("create runs")
    };
    let refused = (CHANGES_MOUNTED..CHANGES_MAX)
        .map(|number| (number, create(&cluster, number)))
        .find(|(_, ended)| !ended.succeeded());
    let (made, refusal) = refused.expect("a change is refused at last");
    for part in ["no room left for the metadata log", "free some space"] {
        assert!(refusal.stderr.contains(part), "{refusal}");
    }
    assert!(cluster.log("mds").contains("no room in"), "the log of the server says so too");
    scene.say(format!("full after {made} changes: {}", refusal.stderr.trim()));
    let listed = |cluster: &Cluster| {
        let text = cluster.vstorage(&["ls", "/dir"]).works("listing");
        // The first is number 1.
        1 + text.lines().filter(|line| line.contains("drwx") || line.contains('/')).count() as u64
    };
    assert_eq!(listed(&cluster), made, "what was refused is not there, what was taken is");
    moves_data(&mut client, 1);

    cluster.mds.kill().works("kill");
    cluster.mds.start().works("start");
    cluster.mds.ready().works("it serves on a full disk");
    assert_eq!(listed(&cluster), made);
    assert!(!create(&cluster, made).succeeded(), "there is still no room");
    moves_data(&mut client, 2);
    scene.say("full: it serves what changes nothing, also after kill -9");

    std::fs::remove_file(&ballast).expect("it was made above");
    let again = poll_until(PATIENCE, || create(&cluster, made).succeeded().then_some(()));
    assert!(again.is_some(), "changes are taken once there is room");
    assert_eq!(listed(&cluster), made + 1);
    moves_data(&mut client, 3);
    drop(client);
    cluster.kill_all().works("kill");
    cluster.start_all().works("start");
    assert_eq!(listed(&cluster), made + 1, "nothing is lost");
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}

/// Fills a file system to the last block.
fn take_the_rest(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create_new(path).expect("a file");
    for len in [1 << 20, 4096] {
        let zeroes = vec![0; len];
        loop {
            match file.write_all(&zeroes).and_then(|()| file.sync_data()) {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
                    break;
                }
            }
        }
    }
}

/// Writes pieces in order until one waits or is refused; returns how many went in.
fn fill(socket: &Path, seed: u64) -> u64 {
    let mut client = Client::connect(socket, WAITING).expect("the export greets");
    for number in 0..VOLUME_BYTES / PIECE {
        match client.ask(Request::Write, number * PIECE, PIECE as u32, &content(seed, number)) {
            Ok(answer) if answer.error == 0 => {}
            Ok(answer) => {
                assert_eq!(answer.error, ENOSPC, "full is told as such");
                return number;
            }
            Err(error) => {
                assert!(error.is_timeout(), "a connection survives a full disk: {error}");
                return number;
            }
        }
    }
    panic!("more went in than there is room");
}
