//! Chunk servers that come and go while a client works.

use std::process::{Child, Command, Stdio};

use hw_tests::cluster::{Cluster, Options};
use hw_tests::deadline::{Stopwatch, poll_until};
use hw_tests::ram_medium::RamMedium;
use hw_tests::seeded::Seeded;

use crate::scene::{Loads, Scene, VOLUME, Works};

const ROUNDS: u64 = 12;
/// Answers per load between two restarts.
const ANSWERS: u64 = 300;
/// The RAM medium holds three journals and three copies of what fio writes.
const MEDIUM_BYTES: u64 = 2 << 30;
/// Journals in MB: small ones are emptied often.
const JOURNAL_MB: u32 = 64;

/// Ends a chunk server one way or the other, and starts it again.
fn restart(cluster: &mut Cluster, seeded: &mut Seeded) {
    let index = seeded.below(cluster.servers.len() as u64) as usize;
    let server = &mut cluster.servers[index];
    match seeded.chance(60) {
        true => server.kill().works("kill -9 of a chunk server"),
        false => server.stop().works("SIGTERM of a chunk server"),
    }
    cluster.start_all().works("restart of a chunk server");
}

/// The client's requests wait for the chunk server and go on; no error reaches it and nothing is lost.
pub(crate) fn restarts_under_load(scene: &Scene) {
    let mut cluster = scene.cluster();
    let mut loads = Loads::new(scene.settings.seed);
    let mut seeded = Seeded::new(scene.settings.seed);
    cluster.export(VOLUME).works("export");
    let (outcomes, ()) = loads.run(&mut cluster, |cluster, watch| {
        for round in 1..=ROUNDS {
            assert!(watch.advances(ANSWERS), "round {round}: the load does not go on");
            restart(cluster, &mut seeded);
        }
        assert!(watch.advances(ANSWERS), "the load does not go on after the last restart");
    });
    for outcome in outcomes {
        outcome.expect("the client sees no error");
    }
    loads.judge_acknowledged(&cluster);
    scene.say(format!("{ROUNDS} restarts; {}", loads.counts()));
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}

/// fio's own verification through NBD, on the RAM medium, while chunk servers are restarted.
pub(crate) fn fio_verifies_through_restarts(scene: &Scene) {
    let medium = RamMedium::create(&scene.dir.join("ram"), MEDIUM_BYTES).expect("a RAM medium");
    let repository = |name: &str| medium.path().join(name);
    let options = Options {
        mds: repository("mds"),
        servers: vec![repository("cs1"), repository("cs2"), repository("cs3")],
        journal_mb: Some(JOURNAL_MB),
        ..Options::plain(&scene.dir, &scene.settings.binaries)
    };
    let mut cluster = scene.cluster_of(options);
    cluster.export(VOLUME).works("export");
    let seconds = scene.settings.soak_seconds;
    let mut fio = Fio::start(&cluster, &scene.dir, seconds);
    let (clock, mut seeded, mut restarts) = (Stopwatch::start(), Seeded::new(scene.settings.seed), 0_u64);
    // A pause as long as the cluster needs to be at work again, which fio does not say.
    while clock.elapsed().as_secs() + 3 < seconds && fio.runs_for(1 + seeded.below(3)) {
        restart(&mut cluster, &mut seeded);
        restarts += 1;
        if restarts.is_multiple_of(50) {
            scene.say(format!("{restarts} restarts"));
        }
    }
    let figures = fio.finish(seconds);
    assert!(restarts > 0, "chunk servers were restarted meanwhile");
    scene.say(format!("{restarts} restarts in {seconds} s; {figures}"));
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
    drop(cluster);
    drop(medium);
}

/// A running fio.
struct Fio {
    child: Child,
    report: std::path::PathBuf,
}

impl Fio {
    fn start(cluster: &Cluster, dir: &std::path::Path, seconds: u64) -> Self {
        let report = dir.join("fio.json");
        let child = Command::new("fio")
            .current_dir(dir)
            .args(["--name=soak", "--ioengine=nbd", "--rw=randwrite", "--bsrange=4k-64k", "--iodepth=16"])
            .args([
                "--size=128M",
                "--verify=crc32c",
                "--verify_backlog=512",
                "--verify_fatal=1",
                "--fsync=64",
            ])
            .args(["--time_based", &format!("--runtime={seconds}"), "--output-format=json"])
            .arg(format!("--uri={}", cluster.uri()))
            .arg(format!("--output={}", report.display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("fio of the Debian package fio");
        Self { child, report }
    }

    /// Waits so many seconds; false as soon as it has ended.
    fn runs_for(&mut self, seconds: u64) -> bool {
        let limit = std::time::Duration::from_secs(seconds);
        poll_until(limit, || self.child.try_wait().expect("it is our child")).is_none()
    }

    /// Waits for its end, and returns its figures.
    fn finish(mut self, seconds: u64) -> String {
        assert!(!self.runs_for(seconds + 120), "fio does not end");
        let text = std::fs::read_to_string(&self.report).unwrap_or_default();
        let status = self.child.wait().expect("it has ended");
        assert!(status.success(), "fio's verification failed ({status}):\n{text}");
        let start = text.find('{').expect("a report");
        let report: serde_json::Value = serde_json::from_str(&text[start..]).expect("a JSON report");
        let job = &report["jobs"][0];
        let number = |kind: &str, field: &str| job[kind][field].as_f64().unwrap_or(0.0);
        assert_eq!(job["error"], 0, "{text}");
        let written = number("write", "io_bytes");
        let verified = number("read", "io_bytes");
        assert!(written > 0.0 && verified > 0.0, "fio wrote and verified:\n{text}");
        format!(
            "fio wrote {:.0} MB and verified {:.0} MB; {:.0} writes/s, longest write {:.1} s",
            written / 1e6,
            verified / 1e6,
            number("write", "iops"),
            job["write"]["lat_ns"]["max"].as_f64().unwrap_or(0.0) / 1e9
        )
    }
}

impl Drop for Fio {
    fn drop(&mut self) {
        // Ended already, unless the scenario failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
