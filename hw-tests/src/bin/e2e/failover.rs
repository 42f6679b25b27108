//! Chunk servers that die or fall silent under load: the client goes on without them (C3), and they return by difference (C6).

use std::collections::BTreeSet;
use std::time::Duration;

use hw_tests::cluster::Cluster;
use hw_tests::deadline::{Stopwatch, let_pass, poll_until};
use hw_tests::nbd::{Client, Request};
use hw_tests::seeded::Seeded;

use crate::scene::{Loads, PATIENCE, Scene, VOLUME, VOLUME_BYTES, Watch, Works};

/// Answers per load that show that it goes on.
const ANSWERS: u64 = 300;
/// How long the load may stand when a chunk server is killed, and when one is silent. The bars are 1.5 and 5 s; a machine that
/// tests run on beside others is given more.
const KILLED: Duration = Duration::from_secs(6);
const SILENT: Duration = Duration::from_secs(12);
/// How long a chunk server is away while it is measured what it copies then.
const OUTAGE: Duration = Duration::from_secs(10);
/// Writes between two flushes then.
const FLUSHED_AFTER: u64 = 25;
/// Between two writes meanwhile, so that they do not reach all regions there are.
const WRITE_PAUSE: Duration = Duration::from_millis(25);
/// Bytes of a region, the unit of catching up.
const REGION: u64 = 64 << 10;
/// How long a replica may take to be back.
const BACK: Duration = Duration::from_secs(60);

/// Events with this code.
fn events(cluster: &Cluster, code: &str) -> Vec<String> {
    let text = cluster.vstorage(&["get-event", "-n", "200", "--json"]).works("get-event");
    let all: Vec<serde_json::Value> = serde_json::from_str(&text).expect("a list of events");
    let named = all.into_iter().filter(|event| event["code"] == code);
    named.map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect()
}

/// How long the loads stand still until they have gone on without a server.
fn standstill(watch: &Watch) -> Duration {
    let clock = Stopwatch::start();
    assert!(watch.advances(ANSWERS), "the load does not go on");
    clock.elapsed()
}

fn wait_for(cluster: &Cluster, code: &str, count: usize) -> String {
    let found = poll_until(BACK, || {
        let found = events(cluster, code);
        (found.len() >= count).then(|| found.last().cloned().unwrap_or_default())
    });
    found.unwrap_or_else(|| panic!("no event {code} within {} s", BACK.as_secs()))
}

/// What chunk servers copy among themselves by `stat`, once their heartbeats have told of any.
fn copying(cluster: &Cluster) -> (u64, u64) {
    let found = poll_until(BACK, || {
        let text = cluster.vstorage(&["stat", "--json"]).works("stat");
        let stat: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let rate = |name: &str| stat["copy_rate"][name].as_u64().expect("a rate");
        let rates = (rate("read_bytes"), rate("write_bytes"));
        (rates.0 > 0 && rates.1 > 0).then_some(rates)
    });
    found.unwrap_or_else(|| panic!("a replica returned, and stat shows nothing that was copied"))
}

/// One chunk server is killed and stays away, comes back, and another one is silent for a while.
pub(crate) fn failover(scene: &Scene) {
    let mut cluster = scene.cluster();
    let mut loads = Loads::new(scene.settings.seed);
    cluster.export(VOLUME).works("export");
    let (outcomes, ()) = loads.run(&mut cluster, |cluster, watch| {
        assert!(watch.advances(ANSWERS), "the load goes on");
        cluster.servers[0].kill().works("kill -9 of a chunk server");
        let stood = standstill(watch);
        scene.say(format!("killed: {ANSWERS} answers took {:.2} s", stood.as_secs_f64()));
        assert!(stood < KILLED, "the load stood for {stood:?}");
        scene.say(wait_for(cluster, "mds.replicas_left", 1));
        assert!(watch.advances(4 * ANSWERS), "the load goes on without it");
        cluster.start_all().works("the chunk server comes back");
        scene.say(wait_for(cluster, "mds.replicas_returned", 1));
        let (read, written) = copying(cluster);
        scene.say(format!("Repl IO by stat: {read} bytes read and {written} written per second"));
        assert!(watch.advances(ANSWERS), "the load goes on with it");
        cluster.servers[1].pause().works("SIGSTOP of a chunk server");
        let stood = standstill(watch);
        scene.say(format!("silent: {ANSWERS} answers took {:.2} s", stood.as_secs_f64()));
        assert!(stood < SILENT, "the load stood for {stood:?}");
        scene.say(wait_for(cluster, "mds.replicas_left", 2));
        cluster.servers[1].resume().works("SIGCONT");
        scene.say(wait_for(cluster, "mds.replicas_returned", 2));
        assert!(watch.advances(ANSWERS), "the load goes on with all");
    });
    for outcome in outcomes {
        outcome.expect("the client sees no error");
    }
    loads.judge_acknowledged(&cluster);
    scene.say(loads.counts());
    catch_up(scene, &mut cluster);
    // What the first one was given back is enough: the others go.
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}

/// Writes 4 KiB at random places of the whole volume, and knows which regions they were in.
struct Scribbler {
    client: Client,
    seeded: Seeded,
    regions: BTreeSet<u64>,
    writes: u64,
}

impl Scribbler {
    fn write(&mut self) {
        let offset = self.seeded.below(VOLUME_BYTES / 4096) * 4096;
        let mut block = vec![0; 4096];
        self.seeded.fill(&mut block);
        self.ask(Request::Write, offset, &block);
        self.regions.insert(offset / REGION);
        self.writes += 1;
        if self.writes.is_multiple_of(FLUSHED_AFTER) {
            self.ask(Request::Flush, 0, &[]);
        }
    }

    fn ask(&mut self, request: Request, offset: u64, payload: &[u8]) {
        let answer = self.client.ask(request, offset, payload.len() as u32, payload);
        assert_eq!(answer.expect("the export answers").error, 0, "{request:?} at {offset}");
    }

    /// Writes at its pace for a while, and for as long as it takes to write so often.
    fn go_on(&mut self, time: Duration, least: u64) {
        let (clock, begun) = (Stopwatch::start(), self.writes);
        while clock.elapsed() < time || self.writes - begun < least {
            self.write();
            let_pass(WRITE_PAUSE);
        }
    }
}

/// Measures what a chunk server copies that was dead for a while under random writes, however much of its disk was being
/// written to when it died.
fn catch_up(scene: &Scene, cluster: &mut Cluster) {
    let client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    let seeded = Seeded::new(scene.settings.seed);
    let mut scribbler = Scribbler { client, seeded, regions: BTreeSet::new(), writes: 0 };
    for _ in 0..5000 {
        scribbler.write();
    }
    scribbler.go_on(OUTAGE / 5, 0);
    cluster.servers[0].kill().works("kill -9 of a chunk server");
    scribbler.regions.clear();
    scribbler.go_on(OUTAGE, 10 * FLUSHED_AFTER);
    let written = scribbler.regions.len() as u64 * REGION;
    let returned = events(cluster, "mds.replicas_returned").len();
    cluster.start_all().works("the chunk server comes back");
    let message = wait_for(cluster, "mds.replicas_returned", returned + 1);
    let words: Vec<&str> = message.split(' ').collect();
    let bytes = words.windows(2).find(|pair| pair[1] == "bytes").and_then(|pair| pair[0].parse::<u64>().ok());
    let copied = bytes.unwrap_or_else(|| panic!("no bytes in {message:?}"));
    scene.say(format!(
        "caught up after {} s: {copied} bytes copied, {written} written meanwhile in whole regions: {:.2} times",
        OUTAGE.as_secs(),
        copied as f64 / written as f64
    ));
    assert!(copied * 100 <= written * 120, "more than a fifth too much");
}
