//! Chunk servers that are lost, replaced and removed: what they held is made anew on the others (C7, C9).

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use hw_tests::cluster::{Cluster, ClusterError, Options};
use hw_tests::deadline::{Stopwatch, poll_seldom, poll_until};
use hw_tests::nbd::{Client, Request};
use hw_tests::seeded::Seeded;

use crate::scene::{Loads, PATIENCE, Scene, VOLUME, Works};

/// Chunk servers.
const SERVERS: usize = 5;
/// How long a rebuild may take, besides the time for its bytes.
pub(crate) const REBUILT: Duration = Duration::from_secs(120);
/// How long deleted replicas may stay.
const PURGED: Duration = Duration::from_secs(60);
/// Chunks have 64 MiB.
pub(crate) const CHUNK: u64 = 64 << 20;
/// Bytes of a volume whose client is watched.
const CLIENT_BYTES: u64 = 128 << 20;
/// Bytes that are written and copied at once.
const PIECE: usize = 1 << 20;

/// How many chunks are in which state.
pub(crate) fn chunks(cluster: &Cluster) -> serde_json::Value {
    let text = cluster.vstorage(&["stat", "--json"]).works("stat");
    let stat: serde_json::Value = serde_json::from_str(&text).expect("an object");
    stat["chunks"].clone()
}

fn are_healthy(chunks: &serde_json::Value) -> bool {
    let counts = chunks.as_object().expect("counts by state");
    counts.iter().all(|(state, count)| matches!(&**state, "healthy" | "deleting") || count == 0)
}

pub(crate) fn wait_healthy(cluster: &Cluster, limit: Duration) {
    // The question costs what the answer waits for.
    let found = poll_seldom(limit, || are_healthy(&chunks(cluster)).then_some(()));
    assert!(found.is_some(), "not all chunks are healthy after {} s: {}", limit.as_secs(), chunks(cluster));
}

fn shown(cluster: &Cluster, id: &str) -> serde_json::Value {
    let text = cluster.vstorage(&["list-services", "-C", "--json"]).works("list-services");
    let all: serde_json::Value = serde_json::from_str(&text).expect("an object");
    let found =
        all["cs"].as_array().expect("a list").iter().find(|cs| cs["cs_id"].as_u64() == id.parse().ok());
    found.unwrap_or_else(|| panic!("no CS#{id} in {text}")).clone()
}

fn status_of(cluster: &Cluster, id: &str) -> String {
    shown(cluster, id)["status"].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn wait_status(cluster: &Cluster, id: &str, wanted: &str) {
    let found = poll_until(REBUILT, || (status_of(cluster, id) == wanted).then_some(()));
    assert!(found.is_some(), "CS#{id} is {} and not {wanted}", status_of(cluster, id));
}

/// The numbers of chunk servers by the order in which they were made: the first is 1025.
pub(crate) fn id_of(index: usize) -> String {
    (1025 + index).to_string()
}

/// Files of chunks: in directories by the last digits of their names.
pub(crate) fn chunk_files(repository: &Path) -> usize {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries(&repository.join("chunks")).map(|dir| entries(&dir.path()).count()).sum()
}

/// Fills a volume with what [`check`] expects.
pub(crate) fn fill(cluster: &mut Cluster, path: &str, bytes: u64) {
    each_piece(cluster, path, bytes, |client, at, piece| {
        let answer = client.ask(Request::Write, at, PIECE as u32, piece).expect("the export answers");
        assert_eq!(answer.error, 0, "writing at {at}");
    });
}

pub(crate) fn check(cluster: &mut Cluster, path: &str, bytes: u64) {
    each_piece(cluster, path, bytes, |client, at, piece| {
        let answer = client.ask(Request::Read, at, PIECE as u32, &[]).expect("the export answers");
        assert_eq!(answer.error, 0, "reading at {at}");
        assert!(answer.data == piece, "the content at {at} is another one");
    });
}

fn each_piece(cluster: &mut Cluster, path: &str, bytes: u64, mut visit: impl FnMut(&mut Client, u64, &[u8])) {
    cluster.export(path).works("export");
    let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    let mut piece = vec![0; PIECE];
    for at in (0..bytes).step_by(PIECE) {
        for (number, word) in piece.chunks_exact_mut(8).enumerate() {
            let value = (at + number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            word.copy_from_slice(&value.to_le_bytes());
        }
        visit(&mut client, at, &piece);
    }
    let flushed = client.ask(Request::Flush, 0, 0, &[]).expect("the export answers");
    assert_eq!(flushed.error, 0);
    drop(client);
    cluster.stop_export().works("the export ends in order");
}

/// Bytes per second at which the medium copies a file to another with direct I/O, and makes it durable.
fn raw_copy(dir: &Path, bytes: u64) -> f64 {
    let direct = |write: bool, path: &Path| -> File {
        let mut options = OpenOptions::new();
        options
            .read(!write)
            .write(write)
            .create(write)
            .custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32);
        options.open(path).expect("a file for direct I/O")
    };
    let layout = std::alloc::Layout::from_size_align(PIECE, 4096).expect("a power of two");
    let mut piece = vec![0u8; layout.size() + layout.align()];
    let aligned = piece.as_ptr().align_offset(layout.align());
    let piece = &mut piece[aligned..aligned + PIECE];
    for (number, byte) in piece.iter_mut().enumerate() {
        *byte = (number * 31) as u8;
    }
    let (from, to) = (dir.join("raw-from"), dir.join("raw-to"));
    let mut file = direct(true, &from);
    (0..bytes / PIECE as u64).for_each(|_| file.write_all(piece).expect("the disk has room"));
    file.sync_all().expect("the disk works");
    let clock = Stopwatch::start();
    let (mut source, mut target) = (direct(false, &from), direct(true, &to));
    for _ in 0..bytes / PIECE as u64 {
        source.read_exact(piece).expect("it was written");
        target.write_all(piece).expect("the disk has room");
    }
    target.sync_all().expect("the disk works");
    let speed = bytes as f64 / clock.elapsed().as_secs_f64();
    std::fs::remove_file(from).and_then(|()| std::fs::remove_file(to)).expect("they are ours");
    speed
}

/// A chunk server is lost for good, one is removed in order, one by force; the number of replicas changes; all under load.
pub(crate) fn rebuild(scene: &Scene) {
    let servers = (1..=SERVERS).map(|number| scene.dir.join(format!("cs{number}"))).collect();
    let mut cluster =
        scene.cluster_of(Options { servers, ..Options::plain(&scene.dir, &scene.settings.binaries) });
    let settings = [
        "mds.cs.term=4",
        "mds.wd.offline_tout=10",
        "mds.wd.quarantine_tout=2",
        "mds.wd.max_offline_cs_hosts=0",
    ];
    cluster.vstorage(&[&["set-config"][..], &settings].concat()).works("set-config");
    let bytes = CHUNK * if scene.settings.is_long { 64 } else { 4 };
    cluster.vstorage(&["create", "/two", "--size", &bytes.to_string(), "replicas=2"]).works("create");
    fill(&mut cluster, "/two", bytes);
    let mut loads = Loads::new(scene.settings.seed);
    cluster.export(VOLUME).works("export");

    let (outcomes, ()) = loads.run(&mut cluster, |cluster, watch| {
        assert!(watch.advances(300), "the load goes on");
        cluster.servers[0].kill().works("kill -9 of a chunk server");
        wait_status(cluster, &id_of(0), "offline");
        scene.say(format!("offline: {}", chunks(cluster)));
        let clock = Stopwatch::start();
        wait_healthy(cluster, REBUILT);
        scene.say(format!("rebuilt after {:.1} s, beside a load", clock.elapsed().as_secs_f64()));
        let told = cluster.vstorage(&["get-event", "-n", "1000", "--json"]).works("events");
        for code in ["mds.cluster_degraded", "mds.cs_offline", "mds.replication_started"] {
            assert!(told.contains(code), "{code} is missing in {told}");
        }
        let completed = poll_until(REBUILT, || {
            let told = cluster.vstorage(&["get-event", "-n", "1000", "--json"]).works("events");
            told.contains("mds.replication_completed").then_some(())
        });
        assert!(completed.is_some(), "the end of it is told, too");
        assert!(watch.advances(300), "the load goes on");
        let given_up = poll_until(REBUILT, || (shown(cluster, &id_of(0))["replicas"] == 0).then_some(()));
        assert!(given_up.is_some(), "others have taken all its places");
        // It returns with replicas that nobody wants any more.
        assert!(chunk_files(cluster.servers[0].repository()) > 0);
        cluster.start_all().works("the chunk server comes back");
        wait_status(cluster, &id_of(0), "active");
        let emptied =
            poll_until(PURGED, || (chunk_files(cluster.servers[0].repository()) == 0).then_some(()));
        assert!(emptied.is_some(), "what nobody wants is deleted");

        let removed = cluster.vstorage(&["rm-cs", "--wait", &id_of(1)]).works("rm-cs --wait");
        assert!(removed.contains("is removed from the cluster"), "{removed}");
        assert_eq!(status_of(cluster, &id_of(1)), "dropped");
        scene.say("one was emptied and removed");
        wait_healthy(cluster, REBUILT);
        assert!(watch.advances(300), "the load goes on");

        cluster.vstorage(&["set-attr", "-p", "/two", "replicas=3"]).works("set-attr");
        wait_healthy(cluster, REBUILT);
        cluster.vstorage(&["set-attr", "-p", "/two", "replicas=2"]).works("set-attr");
        wait_healthy(cluster, REBUILT);
        scene.say("a third replica was made, and removed again");

        // With four left one more may go by force, but only when it does not serve.
        let active = cluster.try_vstorage(&["rm-cs", "-f", &id_of(2)]).works("rm-cs -f");
        assert!(!active.succeeded() && active.stderr.contains("it is active"), "{active:?}");
        cluster.servers[2].kill().works("kill -9 of a chunk server");
        wait_status(cluster, &id_of(2), "inactive");
        let removed = cluster.vstorage(&["rm-cs", "-f", "--wait", &id_of(2)]).works("rm-cs -f --wait");
        assert!(removed.contains("is removed from the cluster"), "{removed}");
        wait_healthy(cluster, REBUILT);
        scene.say("one was given up");
        assert!(watch.advances(300), "the load goes on");
        // Three are left, and the volume of the load wants three replicas.
        let needed = cluster.try_vstorage(&["rm-cs", &id_of(3)]).works("rm-cs");
        assert!(!needed.succeeded() && needed.stderr.contains("want 3 replicas"), "{needed:?}");
    });
    for outcome in outcomes {
        outcome.expect("the client sees no error");
    }
    loads.judge_acknowledged(&cluster);
    scene.say(loads.counts());
    cluster.stop_export().works("the export ends in order");
    check(&mut cluster, "/two", bytes);
    // Those that were removed serve nobody: they end, and say why.
    let gone = cluster.try_vstorage(&["rm-cs", "--cancel", &id_of(1)]).works("rm-cs --cancel");
    assert!(!gone.succeeded() && gone.stderr.contains("was removed"), "{gone:?}");
    let ended = cluster.servers[1].stop();
    assert!(matches!(ended, Err(ClusterError::Disorderly { .. })), "{ended:?}");
    let said = cluster.log("cs2");
    assert!(said.contains("CS#1026 was removed from the cluster"), "{said}");
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}

/// How fast a lost chunk server's replicas are made anew when nobody else needs the disks, against a plain copy.
pub(crate) fn rebuild_speed(scene: &Scene) {
    if !scene.settings.is_long {
        scene.say("skipped: a speed says something only over minutes; --minutes 1 measures it");
        return;
    }
    let servers = (1..=SERVERS).map(|number| scene.dir.join(format!("cs{number}"))).collect();
    let mut cluster =
        scene.cluster_of(Options { servers, ..Options::plain(&scene.dir, &scene.settings.binaries) });
    let settings = ["mds.cs.term=4", "mds.wd.offline_tout=10"];
    cluster.vstorage(&[&["set-config"][..], &settings].concat()).works("set-config");
    // Every second or so the metadata server looks at what is missing: that counts, and should not decide.
    let bytes = CHUNK * 96;
    cluster.vstorage(&["create", "/two", "--size", &bytes.to_string(), "replicas=2"]).works("create");
    fill(&mut cluster, "/two", bytes);
    let lost = chunk_files(cluster.servers[0].repository()) as u64 * CHUNK;
    cluster.servers[0].kill().works("kill -9 of a chunk server");
    let before = raw_copy(&scene.dir, lost.max(CHUNK));
    wait_status(&cluster, &id_of(0), "offline");
    let clock = Stopwatch::start();
    let limit = REBUILT + Duration::from_secs(lost / (10 << 20));
    let found = poll_seldom(limit, || are_healthy(&chunks(&cluster)).then_some(()));
    assert!(found.is_some(), "not all chunks are healthy: {}", chunks(&cluster));
    let took = clock.elapsed().as_secs_f64();
    let raw = before.midpoint(raw_copy(&scene.dir, lost.max(CHUNK)));
    let speed = lost as f64 / took;
    let mb = 1e6;
    scene.say(format!(
        "{} MiB in {took:.1} s: {:.0} MB/s, {:.0} % of a plain copy ({:.0} MB/s)",
        lost >> 20,
        speed / mb,
        100.0 * speed / raw,
        raw / mb
    ));
    check(&mut cluster, "/two", bytes);
    beside_a_client(scene, &mut cluster);
    check(&mut cluster, "/two", bytes);
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}

/// How long a client waits for 4 KiB while another chunk server's replicas are made anew, against when nothing else goes on.
fn beside_a_client(scene: &Scene, cluster: &mut Cluster) {
    cluster.start_all().works("the lost chunk server comes back");
    wait_status(cluster, &id_of(0), "active");
    wait_healthy(cluster, REBUILT);
    fill(cluster, VOLUME, CLIENT_BYTES);
    cluster.export(VOLUME).works("export");
    let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    let mut seeded = Seeded::new(scene.settings.seed);
    let mut idle = Took::default();
    measure(&mut client, &mut seeded, &mut idle, Duration::from_secs(15));
    cluster.servers[1].kill().works("kill -9 of a chunk server");
    wait_status(cluster, &id_of(1), "offline");
    let (clock, mut beside) = (Stopwatch::start(), Took::default());
    loop {
        measure(&mut client, &mut seeded, &mut beside, Duration::from_secs(1));
        let counts = chunks(cluster);
        let lacks = |state: &str| counts[state].as_u64().unwrap_or(0) > 0;
        if !["degraded", "urgent", "blocked", "pending", "replicating"].into_iter().any(lacks) {
            break;
        }
        assert!(clock.elapsed() < REBUILT * 5, "not rebuilt beside a client: {counts}");
    }
    let took = clock.elapsed().as_secs_f64();
    drop(client);
    cluster.stop_export().works("the export ends in order");
    scene.say(format!("beside a client rebuilt in {took:.1} s; its 4 KiB took (median, p95, p99), in ms:"));
    let all = |took: &Took| [&took.writes[..], &took.reads].concat();
    let kinds = [
        ("all", all(&idle), all(&beside)),
        ("writes", idle.writes, beside.writes),
        ("reads", idle.reads, beside.reads),
    ];
    for (kind, mut idle, mut beside) in kinds {
        let (before, during) = (percentiles(&mut idle), percentiles(&mut beside));
        let times = during[2] / before[2];
        scene.say(format!("  {kind}: {before:.2?} alone, {during:.2?} meanwhile: p99 {times:.1} times"));
    }
}

/// How long each request took.
#[derive(Default)]
struct Took {
    writes: Vec<Duration>,
    reads: Vec<Duration>,
}

/// Writes and reads at random places, one after the other.
fn measure(client: &mut Client, seeded: &mut Seeded, took: &mut Took, how_long: Duration) {
    let (clock, block) = (Stopwatch::start(), vec![7; 4096]);
    while clock.elapsed() < how_long {
        let at = seeded.below(CLIENT_BYTES / 4096) * 4096;
        let kinds = [(Request::Write, &block[..], &mut took.writes), (Request::Read, &[], &mut took.reads)];
        for (request, data, took) in kinds {
            let one = Stopwatch::start();
            let answer = client.ask(request, at, 4096, data).expect("the export answers");
            assert_eq!(answer.error, 0);
            took.push(one.elapsed());
        }
    }
}

/// The median, the 95th and the 99th percentile in milliseconds.
fn percentiles(took: &mut [Duration]) -> [f64; 3] {
    took.sort_unstable();
    [50, 95, 99].map(|percent| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1000.0)
}
