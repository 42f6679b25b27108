//! Everything that can happen to servers, disks, networks and clients, by seed, under writers that are judged from outside.
//!
//! Rounds of faults, one or two at a time, each of them mended before the next. Most rounds must not be seen by the client but
//! for a pause; others take the client's or everybody's power, after which what a completed flush covered is there. The plan
//! is the seed's; when each fault meets what is under way is the machine's.

mod faults;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hw_tests::cluster::{Cluster, Options};
use hw_tests::deadline::{Deadline, Stopwatch, let_pass, poll_until};
use hw_tests::load::LoadError;
use hw_tests::nbd::{Client, Request};
use hw_tests::network::Network;
use hw_tests::seeded::Seeded;

use crate::fio::Fio;
use crate::power::{self, Disks};
use crate::scene::{Loads, PATIENCE, Scene, VOLUME, Watch, Works};
use faults::{Fault, World};

/// How long it goes on unless told otherwise.
const SECONDS: u64 = 120;
/// Answers per load between two faults, and after each.
const ANSWERS: u64 = 150;
/// How long replicas may take to be whole again. A chunk server that has failed a client several times is not given back to it
/// for a while, a minute at most.
const WHOLE: Duration = Duration::from_secs(420);
/// How long that is waited for before the metadata server is started anew, which remembers no such failures.
const PATIENT: Duration = Duration::from_secs(12);
/// How long repairs may take, and the pause for them between two checks.
const SOUND: Duration = Duration::from_secs(300);
const VERIFIED: Duration = Duration::from_secs(5);
/// Between two looks at that.
const LOOK: Duration = Duration::from_millis(300);
/// Journals in MB: small ones are full now and then.
const JOURNAL_MB: u32 = 64;
/// The chunk server that has a disk for its journal, a very small one.
const TIGHT: usize = 2;
const TIGHT_MB: u32 = 10;
/// How long that may take to be full.
const FULL: Duration = Duration::from_secs(6);
/// A part of the volume that nobody else uses, and how much of it is written and trimmed.
const SPARE: u64 = 144 << 20;
const SPARE_BYTES: u32 = 1 << 20;
/// A file that is deleted.
const DOOMED: &str = "/doomed";
/// Leases that end in a pause, and so many chunks verified that what rots is found.
const SETTINGS: &[&str] = &["gen.lease_term=8", "mds.wd.verify_chunks=200"];
/// fio is ended with its round.
const FIO_SECONDS: u64 = 24 * 60 * 60;
/// Its part of the volume, before those of the loads.
const FIO: &[&str] = &["--size=48M", "--rate_iops=300,300"];
/// The client sees this when disks are full.
const ENOSPC: u32 = 28;

/// What a round is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Faults that the client sees as pauses.
    Faults,
    /// The client is killed, with some servers.
    Client,
    /// All chunk servers lose power; metadata server and client go on.
    Servers,
    /// Everything loses power.
    Everything,
}

impl Round {
    fn draw(seeded: &mut Seeded) -> Self {
        match seeded.below(12) {
            0..8 => Self::Faults,
            8..10 => Self::Client,
            10 => Self::Servers,
            _ => Self::Everything,
        }
    }
}

/// Chunks by state, as `stat` has them: all, and those that are healthy.
fn chunks(cluster: &Cluster) -> (u64, u64, String) {
    let text = cluster.vstorage(&["stat", "--json"]).works("stat");
    let stat: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let count = |value: &serde_json::Value| value.as_u64().expect("a count");
    (count(&stat["fs"]["chunks"]), count(&stat["chunks"]["healthy"]), stat["chunks"].to_string())
}

/// Waits until every chunk has all its replicas; whether they have in time.
fn whole_within(cluster: &Cluster, limit: Duration) -> bool {
    let whole = poll_until(limit, || {
        let (all, healthy, _) = chunks(cluster);
        if all != healthy {
            // Each look is a process of its own, and takes time from those that copy.
            let_pass(LOOK);
        }
        (all == healthy).then_some(())
    });
    whole.is_some()
}

/// Waits until every chunk has all its replicas, a short while unless `patient`: then the metadata server is started anew.
fn become_whole(scene: &Scene, cluster: &mut Cluster, patient: bool) {
    let clock = Stopwatch::start();
    if !patient && !whole_within(cluster, PATIENT) {
        scene.say("kill -9 of the metadata server, so that nobody rests any longer");
        cluster.mds.kill().works("kill -9");
        cluster.start_all().works("start");
    }
    let whole = whole_within(cluster, WHOLE);
    let (_, _, states) = chunks(cluster);
    assert!(whole, "replicas are not whole after {} s: {states}", WHOLE.as_secs());
    scene.say(format!("all replicas are whole after {:.1} s", clock.elapsed().as_secs_f64()));
}

/// A run.
struct Torture<'a> {
    scene: &'a Scene<'a>,
    world: World,
    seeded: Seeded,
    until: Deadline,
    struck: BTreeMap<&'static str, u32>,
}

/// See the module.
pub(crate) fn torture(scene: &Scene) {
    let settings = scene.settings;
    let seconds = if settings.is_long { settings.soak_seconds } else { SECONDS };
    let disks = Disks::with_journal_of(scene, TIGHT);
    let (tight, point) = disks.journal().expect("it was asked for");
    let own_journals = [(tight, (point.join("journal"), TIGHT_MB))].into();
    // Chunk servers, metadata server, client.
    let network = match Network::make(5) {
        Ok(network) => Some(Arc::new(network)),
        Err(error) if ["CI", "VSTORAGE_REQUIRE_ALL"].iter().all(|name| std::env::var_os(name).is_none()) => {
            scene.say(format!("skipped: cuts of the network, which needs network namespaces ({error})"));
            None
        }
        Err(error) => panic!("no network namespaces, and nothing may be skipped: {error}"),
    };
    let (servers, mds) = disks.repositories();
    let options = Options {
        mds,
        servers,
        machines: true,
        journal_mb: Some(JOURNAL_MB),
        own_journals,
        network: network.clone(),
        ..Options::plain(&scene.dir, &settings.binaries)
    };
    let mut cluster = scene.cluster_of(options);
    cluster.vstorage(&[&["set-config"][..], SETTINGS].concat()).works("set-config");
    cluster.export(VOLUME).works("export");
    let mut loads = Loads::new(settings.seed);
    let mut torture = Torture {
        scene,
        world: World { disks, network, rotten: None, ids: vec![1025, 1026, 1027], newest: 1028, lost: None },
        seeded: Seeded::new(settings.seed),
        until: Deadline::after(Duration::from_secs(seconds)),
        struck: BTreeMap::new(),
    };
    let mut round = 0;
    while !torture.until.passed() {
        round += 1;
        let kind = Round::draw(&mut torture.seeded);
        scene.say(format!("round {round}: {kind:?}"));
        torture.round(kind, &mut cluster, &mut loads);
        scene.say(format!("round {round}: nothing is missing; {}", loads.counts()));
    }
    scene.say(format!("{round} rounds; faults: {:?}", torture.struck));
    torture.end(cluster, loads);
}

impl Torture<'_> {
    fn round(&mut self, kind: Round, cluster: &mut Cluster, loads: &mut Loads) {
        match kind {
            Round::Faults => self.faults(cluster, loads),
            Round::Client => self.client(cluster, loads),
            Round::Servers => {
                // A replica that is on its way back holds nothing that counts.
                become_whole(self.scene, cluster, false);
                let (report, told) = power::cut_servers(cluster, &mut self.world.disks, loads);
                let what = if told { "the client was told" } else { "nothing of that was acknowledged" };
                self.scene.say(format!("{} unflushed writes lost; {what}", report.writes_lost));
            }
            Round::Everything => {
                let report = power::cut_everything(cluster, &mut self.world.disks, loads);
                self.scene.say(format!("{} unflushed writes lost", report.writes_lost));
            }
        }
    }

    /// Nothing that was answered may be missing, and no error be seen but that of a full disk.
    fn faults(&mut self, cluster: &mut Cluster, loads: &mut Loads) {
        let steps = 2 + self.seeded.below(4);
        let fio = Fio::start(cluster, &self.scene.dir, FIO_SECONDS, FIO);
        let (outcomes, was_full) = loads.run(cluster, |cluster, watch| {
            let mut was_full = false;
            for _ in 0..steps {
                was_full |= self.step(cluster, watch, was_full);
                if self.until.passed() {
                    break;
                }
            }
            was_full
        });
        for outcome in outcomes {
            match outcome {
                Ok(()) => {}
                Err(LoadError::Refused { error: ENOSPC, .. }) if was_full => {
                    self.scene.say("a writer was told that there is no room");
                }
                Err(error) => panic!("the client must see no error: {error}"),
            }
        }
        loads.judge_acknowledged(cluster);
        let (error, written, verified) = fio.end();
        assert!(error == 0 || (was_full && error == i64::from(ENOSPC)), "fio ended with errno {error}");
        self.scene.say(format!("fio wrote {} MiB and verified {} MiB", written >> 20, verified >> 20));
    }

    /// One or two faults, and their mending. Says whether a disk was full.
    fn step(&mut self, cluster: &mut Cluster, watch: &Watch, was_full: bool) -> bool {
        let mut faults = vec![Fault::draw(&mut self.seeded, &self.world)];
        if self.seeded.chance(35) {
            let second = Fault::draw(&mut self.seeded, &self.world);
            if second.goes_with(faults[0]) {
                faults.push(second);
            }
        }
        let pause = Duration::from_millis(match self.seeded.chance(85) {
            true => 300 + self.seeded.below(5000),
            false => 5000 + self.seeded.below(15_000),
        });
        let fills = faults.iter().any(|fault| matches!(fault, Fault::Fill(_)));
        if faults.iter().any(|fault| fault.wants_all()) {
            become_whole(self.scene, cluster, false);
        }
        // One that was told of a full disk has ended.
        assert!(watch.advances(ANSWERS) || was_full, "the load does not go on");
        if let [Fault::Fill(_)] = faults[..] {
            self.make_spare(cluster);
        }
        let journaled = self.world.disks.journal_bytes();
        for fault in &faults {
            self.scene.say(format!("{fault}, for {:.1} s", pause.as_secs_f64()));
            *self.struck.entry(fault.name()).or_default() += 1;
            self.world.strike(*fault, cluster, &mut self.seeded);
        }
        if let [Fault::Fill(_)] = faults[..] {
            self.give_room(cluster);
        }
        let is_slow = faults.iter().any(|fault| matches!(fault, Fault::JournalFull(_)));
        let_pass(if is_slow { pause.max(FULL) } else { pause });
        if is_slow {
            let bytes = self.world.disks.journal_bytes() - journaled;
            self.scene.say(format!("{} KiB went to the disk of the journal", bytes >> 10));
        }
        self.world.mend(cluster);
        let clock = Stopwatch::start();
        assert!(watch.advances(ANSWERS) || was_full || fills, "the load does not go on after {faults:?}");
        self.scene.say(format!("mended; {ANSWERS} answers after {:.1} s", clock.elapsed().as_secs_f64()));
        fills
    }

    /// Writes what can be given back, and makes a file that can be deleted.
    fn make_spare(&self, cluster: &Cluster) {
        let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
        let bytes = vec![0xA5; SPARE_BYTES as usize];
        let written = client.ask(Request::Write, SPARE, SPARE_BYTES, &bytes).expect("answered");
        assert_eq!(written.error, 0, "there is room for it");
        assert_eq!(client.ask(Request::Flush, 0, 0, &[]).expect("answered").error, 0);
        cluster.vstorage(&["create", DOOMED, "--size", "64M"]).works("create");
    }

    /// Trims and deletions work while a disk is full (C13).
    fn give_room(&self, cluster: &Cluster) {
        let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
        let trimmed = client.ask(Request::Trim, SPARE, SPARE_BYTES, &[]).expect("a trim waits for no room");
        assert_eq!(trimmed.error, 0, "a trim works on a full disk");
        let read = client.ask(Request::Read, SPARE, SPARE_BYTES, &[]).expect("answered");
        assert!(read.error == 0 && read.data.iter().all(|byte| *byte == 0), "what was trimmed reads as zero");
        cluster.vstorage(&["rm", DOOMED]).works("a deletion works on a full disk");
        self.scene.say("full: a trim and a deletion work");
    }

    /// What a completed flush covered is there when the client is opened anew.
    fn client(&mut self, cluster: &mut Cluster, loads: &mut Loads) {
        let (_, ()) = loads.run(cluster, |cluster, watch| {
            assert!(watch.advances(ANSWERS), "the load does not go on");
            self.scene.say("kill -9 of the client");
            *self.struck.entry("client killed").or_default() += 1;
            cluster.kill_export().works("kill the export");
            if self.seeded.chance(50) {
                let fault = Fault::draw(&mut self.seeded, &self.world);
                if !fault.loses_data() && !fault.is_of_client() {
                    self.scene.say(fault.to_string());
                    self.world.strike(fault, cluster, &mut self.seeded);
                    let_pass(Duration::from_millis(self.seeded.below(3000)));
                }
            }
        });
        self.world.mend(cluster);
        cluster.export(VOLUME).works("export after the kill");
        loads.judge(cluster);
    }

    /// Waits until what has rotted is repaired, read or not: until the check of that server finds nothing.
    fn become_sound(&self, cluster: &mut Cluster, index: usize) {
        let clock = Stopwatch::start();
        let mut found = String::new();
        let sound = poll_until(SOUND, || {
            cluster.servers[index].stop().works("SIGTERM");
            let checked = cluster.check(&cluster.servers[index]).works("check");
            cluster.start_all().works("start");
            if !checked.succeeded() {
                found = format!("{checked:?}");
                let_pass(VERIFIED);
            }
            checked.succeeded().then_some(())
        });
        assert!(sound.is_some(), "what has rotted is not repaired after {} s: {found}", SOUND.as_secs());
        self.scene.say(format!("what had rotted is repaired after {:.1} s", clock.elapsed().as_secs_f64()));
        become_whole(self.scene, cluster, self.scene.settings.is_long);
    }

    /// Heals everything, waits until it is whole, compares everything and checks every disk.
    fn end(mut self, mut cluster: Cluster, mut loads: Loads) {
        self.world.mend(&mut cluster);
        become_whole(self.scene, &mut cluster, self.scene.settings.is_long);
        loads.judge_acknowledged(&cluster);
        if let Some(index) = self.world.rotten {
            self.become_sound(&mut cluster, index);
        }
        let differ = crate::damage::events(&cluster, "mds.replicas_differ");
        assert!(differ.is_empty(), "replicas were compared all the time: {differ:?}");
        cluster.stop_all().works("orderly stop");
        cluster.check_all().works("check");
        drop(cluster);
        self.world.disks.check();
        self.scene.say("stopped in order, checked; ext4 clean");
    }
}
