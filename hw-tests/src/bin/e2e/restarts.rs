//! Chunk servers that come and go while a client works.

use hw_tests::cluster::{Cluster, Options};
use hw_tests::deadline::Stopwatch;
use hw_tests::ram_medium::RamMedium;
use hw_tests::seeded::Seeded;

use crate::fio::Fio;
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
    let mut fio = Fio::start(&cluster, &scene.dir, seconds, &["--size=128M"]);
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
