//! Chunk servers that are added to a cluster: they fill in the background (decision 0011), and replicas follow their tier.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use hw_tests::cluster::{Cluster, Options};
use hw_tests::deadline::{let_pass, poll_until};
use hw_tests::nbd::{Client, Request};
use hw_tests::ram_medium::RamMedium;
use hw_tests::seeded::Seeded;
use serde_json::Value;

use crate::scene::{Loads, PATIENCE, Scene, VOLUME, VOLUME_BYTES, Works};

/// Each chunk server's disk.
const DISK_BYTES: u64 = 320 << 20;
const JOURNAL_MB: u32 = 32;
const SERVERS: usize = 3;
const REPLICAS: u64 = 2;
const CHUNK: u64 = 8 << 20;
const CHUNKS: u64 = VOLUME_BYTES / CHUNK;
const PIECE: u64 = 1 << 20;
/// The areas of [`Loads`].
const LOADED: [Range<u64>; 2] = [60 << 20..76 << 20, 120 << 20..132 << 20];
/// What is removed is deleted at once, so that the disks show it.
const SETTINGS: &[&str] = &["mds.wd.quarantine_tout=0"];
/// Decision 0011: no replica is moved to a disk that is not emptier by a tenth.
const MUCH: f64 = 0.1;
/// Disks are told of in steps, and a replica may be on its way while another is seen: some chunks of a disk.
const STEPS: f64 = 0.06;
/// How long moves may take.
const MOVED: Duration = Duration::from_secs(150);
/// Between two looks, and how long nothing moves any more when all is balanced.
const LOOK: Duration = Duration::from_millis(300);
const QUIET: Duration = Duration::from_secs(4);

/// A chunk server as `list-services` shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shown {
    replicas: u64,
    tier: u64,
    /// Part of its disk that is used.
    fullness: f64,
}

fn json(cluster: &Cluster, words: &[&str]) -> Value {
    let text = cluster.vstorage(&[words, &["--json"]].concat()).works("a command");
    serde_json::from_str(&text).expect("an object")
}

fn servers(cluster: &Cluster) -> Vec<Shown> {
    let all = json(cluster, &["list-services", "-C"]);
    let number = |cs: &Value, name: &str| cs[name].as_u64().unwrap_or_else(|| panic!("no {name}: {cs}"));
    let shown = |cs: &Value| {
        let (total, free) = (number(cs, "total_bytes"), number(cs, "free_bytes"));
        let fullness = 1.0 - free as f64 / total.max(1) as f64;
        Shown { replicas: number(cs, "replicas"), tier: number(cs, "tier"), fullness }
    };
    all["cs"].as_array().expect("a list").iter().map(shown).collect()
}

/// Replicas of the servers, and how full they are.
fn words(servers: &[Shown]) -> String {
    let word = |cs: &Shown| format!("{} at {:.0} %", cs.replicas, 100.0 * cs.fullness);
    servers.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// Whether every chunk is healthy, and nothing is on its way.
fn is_whole(cluster: &Cluster) -> bool {
    let chunks = json(cluster, &["stat"])["chunks"].clone();
    let counts = chunks.as_object().expect("counts by state");
    counts.iter().all(|(state, count)| state == "healthy" || count == 0)
}

/// Waits until all is as wished and stays so for a while; returns the servers. Says which states chunks were in meanwhile.
fn settled(scene: &Scene, cluster: &Cluster, what: &str, wished: impl Fn(&[Shown]) -> bool) -> Vec<Shown> {
    let mut busy = BTreeSet::new();
    let look = || {
        let_pass(LOOK);
        let chunks = json(cluster, &["stat"])["chunks"].clone();
        for (state, count) in chunks.as_object().expect("counts by state") {
            if count != 0 && state != "healthy" {
                busy.insert(state.clone());
            }
        }
        let before = servers(cluster);
        if !(wished(&before) && is_whole(cluster)) {
            return None;
        }
        let_pass(QUIET);
        let after = servers(cluster);
        let counts = |servers: &[Shown]| servers.iter().map(|cs| cs.replicas).collect::<Vec<_>>();
        (counts(&before) == counts(&after) && is_whole(cluster)).then_some(after)
    };
    let found = poll_until(MOVED, look);
    let found = found.unwrap_or_else(|| {
        let states = json(cluster, &["stat"])["chunks"].to_string();
        panic!("{what}: not within {} s: {}; {states}", MOVED.as_secs(), words(&servers(cluster)))
    });
    scene.say(format!("{what}: {}; `stat` showed {busy:?} on the way", words(&found)));
    found
}

/// How much fuller the fullest of them is than the emptiest.
fn spread(servers: &[Shown]) -> f64 {
    let fullness = || servers.iter().map(|cs| cs.fullness);
    fullness().fold(0.0, f64::max) - fullness().fold(1.0, f64::min)
}

/// An added chunk server takes over replicas until the disks are as full as each other, under a load that sees nothing of
/// it; with another tier a volume's replicas all go to the servers of that tier.
pub(crate) fn rebalance(scene: &Scene) {
    let medium = |number: usize| {
        RamMedium::create(&scene.dir.join(format!("ram{number}")), DISK_BYTES).expect("a RAM medium")
    };
    let media: Vec<RamMedium> = (0..SERVERS + 3).map(medium).collect();
    let repository = |index: usize| media[index].path().join("cs");
    let options = Options {
        servers: (0..SERVERS).map(repository).collect(),
        journal_mb: Some(JOURNAL_MB),
        ..Options::plain(&scene.dir, &scene.settings.binaries)
    };
    let mut cluster = Cluster::make(options).expect("a cluster");
    cluster.vstorage(&[&["set-config"][..], SETTINGS].concat()).works("set-config");
    let chunk_size = format!("chunk-size={CHUNK}");
    let attributes = [&*format!("replicas={REPLICAS}"), &chunk_size];
    let size = VOLUME_BYTES.to_string();
    cluster.vstorage(&[&["create", VOLUME, "--size", &size][..], &attributes].concat()).works("create");
    cluster.export(VOLUME).works("export");
    allocate(&cluster, scene.settings.seed);
    let mut loads = Loads::new(scene.settings.seed);
    let before = settled(scene, &cluster, "three chunk servers", |servers| {
        servers.iter().map(|cs| cs.replicas).sum::<u64>() == CHUNKS * REPLICAS
    });
    assert_eq!(before.len(), SERVERS);

    let (outcomes, ()) = loads.run(&mut cluster, |cluster, watch| {
        assert!(watch.advances(100), "the load works");
        cluster.add_server(&repository(SERVERS), 0).works("one more");
        settled(scene, cluster, "one more", |servers| {
            servers.len() == SERVERS + 1 && servers[SERVERS].replicas > 0 && spread(servers) <= MUCH + STEPS
        });
        assert!(watch.advances(100), "the load goes on");
    });
    for outcome in outcomes {
        outcome.expect("the client sees no error");
    }
    loads.judge_acknowledged(&cluster);

    for index in [SERVERS + 1, SERVERS + 2] {
        cluster.add_server(&repository(index), 1).works("one of another tier");
    }
    let others = servers(&cluster).iter().filter(|cs| cs.tier == 1).map(|cs| cs.replicas).sum::<u64>();
    assert_eq!(others, 0, "nothing goes to a tier that nobody asked for");
    cluster.vstorage(&["set-attr", "-p", VOLUME, "tier=1"]).works("set-attr");
    settled(scene, &cluster, "on tier 1", |servers| {
        servers.iter().all(|cs| cs.replicas == if cs.tier == 1 { CHUNKS } else { 0 })
    });
    loads.judge_acknowledged(&cluster);
    scene.say(loads.counts());
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}

/// Writes the whole volume, so that every chunk is there and takes room. The areas of the loads hold zeroes.
fn allocate(cluster: &Cluster, seed: u64) {
    let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    let (mut piece, zeroes) = (vec![0; PIECE as usize], vec![0; PIECE as usize]);
    let mut seeded = Seeded::new(seed);
    for at in (0..VOLUME_BYTES).step_by(PIECE as usize) {
        seeded.fill(&mut piece);
        let piece = if LOADED.iter().any(|area| area.contains(&at)) { &zeroes } else { &piece };
        assert_eq!(client.ask(Request::Write, at, PIECE as u32, piece).expect("answered").error, 0);
    }
    assert_eq!(client.ask(Request::Flush, 0, 0, &[]).expect("answered").error, 0);
}
