//! What is deleted frees its space: within seconds when all chunk servers are there, else when they return (C9).

use std::time::Duration;

use hw_tests::cluster::{Cluster, Options};
use hw_tests::deadline::{Stopwatch, poll_until};

use crate::rebuild::{CHUNK, chunk_files, chunks, fill, id_of, wait_healthy, wait_status};
use crate::scene::{Scene, Works};

/// Chunk servers.
const SERVERS: usize = 3;
/// How long deleting may take. Far below the quarantine that holds unless it is set.
const FREED: Duration = Duration::from_secs(30);
/// Bytes of the volume.
const BYTES: u64 = 16 * CHUNK;

/// Free bytes of all disks, as the operator sees them.
fn free(cluster: &Cluster) -> u64 {
    let text = cluster.vstorage(&["stat", "--json"]).works("stat");
    let stat: serde_json::Value = serde_json::from_str(&text).expect("an object");
    stat["space"]["free_bytes"].as_u64().expect("a number of bytes")
}

fn files(cluster: &Cluster, servers: std::ops::Range<usize>) -> usize {
    servers.map(|index| chunk_files(cluster.servers[index].repository())).sum()
}

/// Waits until no chunk file is left on these servers.
fn wait_gone(cluster: &Cluster, servers: std::ops::Range<usize>) {
    let gone = poll_until(FREED, || (files(cluster, servers.clone()) == 0).then_some(()));
    assert!(gone.is_some(), "{} chunk files are still there: {}", files(cluster, servers), chunks(cluster));
}

fn make(cluster: &mut Cluster, path: &str) {
    cluster.vstorage(&["create", path, "--size", &BYTES.to_string(), "replicas=2"]).works("create");
    fill(cluster, path, BYTES);
}

/// A file of 1 GiB is unlinked: its space is free within seconds, and `stat` says so; with a chunk server down its chunks wait in
/// quarantine, and those on it until it returns.
pub(crate) fn deletion(scene: &Scene) {
    let servers = (1..=SERVERS).map(|number| scene.dir.join(format!("cs{number}"))).collect();
    let mut cluster =
        scene.cluster_of(Options { servers, ..Options::plain(&scene.dir, &scene.settings.binaries) });
    cluster.vstorage(&["set-config", "mds.cs.term=4"]).works("set-config");
    make(&mut cluster, "/swift");
    assert_eq!(files(&cluster, 0..SERVERS) as u64, 2 * BYTES / CHUNK);
    let before = free(&cluster);
    let clock = Stopwatch::start();
    cluster.vstorage(&["rm", "/swift"]).works("rm");
    wait_gone(&cluster, 0..SERVERS);
    scene.say(format!("1 GiB in two replicas is off the disks after {:.2} s", clock.elapsed().as_secs_f64()));
    // The disk is one for all of them, and others write to it: half of what must come back is demanded.
    let wanted = before + SERVERS as u64 * BYTES;
    let seen = poll_until(FREED, || (free(&cluster) >= wanted).then_some(()));
    assert!(seen.is_some(), "free were {before} bytes, are {}", free(&cluster));
    scene.say(format!("stat shows it after {:.2} s", clock.elapsed().as_secs_f64()));

    make(&mut cluster, "/slow");
    let on_lost = files(&cluster, 0..1);
    assert!(on_lost > 0, "it has a share");
    cluster.vstorage(&["set-config", "mds.wd.quarantine_tout=3"]).works("set-config");
    cluster.servers[0].kill().works("kill -9 of a chunk server");
    wait_status(&cluster, &id_of(0), "inactive");
    cluster.vstorage(&["rm", "/slow"]).works("rm");
    let clock = Stopwatch::start();
    // The others delete what the lost one has nothing of at once.
    let waiting = chunks(&cluster)["deleting"].as_u64().expect("a count");
    assert!((on_lost as u64..=BYTES / CHUNK).contains(&waiting), "{waiting} wait, or are being deleted");
    wait_gone(&cluster, 1..SERVERS);
    scene.say(format!("the others have deleted theirs after {:.1} s", clock.elapsed().as_secs_f64()));
    assert_eq!(files(&cluster, 0..1), on_lost, "nobody can have deleted these");
    let left = poll_until(FREED, || (chunks(&cluster)["deleting"] == on_lost).then_some(()));
    assert!(left.is_some(), "those of the lost one stay on the list: {}", chunks(&cluster));
    cluster.start_all().works("the chunk server comes back");
    let clock = Stopwatch::start();
    wait_gone(&cluster, 0..SERVERS);
    scene.say(format!("and it {:.1} s after its return", clock.elapsed().as_secs_f64()));
    wait_healthy(&cluster, FREED);
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}
