//! `kill -9` of every process under load.

use hw_tests::cluster::{Cluster, Options};

use crate::rebuild::{REBUILT, wait_healthy};
use crate::scene::{Loads, Scene, VOLUME, Works};

const ROUNDS: u64 = 4;
/// With a server that keeps no checksums.
const ROUNDS_UNCHECKED: u64 = 2;
/// Answers per load and round.
const ANSWERS: u64 = 1200;

/// What a completed flush covered is there after every process was killed; at the end nothing is found wrong on disk.
pub(crate) fn kill_everything(scene: &Scene) {
    let mut cluster = scene.cluster();
    kill_again_and_again(scene, &mut cluster, ROUNDS);
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
    scene.say("stopped in order, checked");
}

/// One of three servers keeps no checksums: it is made equal to the others after each kill, and serves alone what they have.
pub(crate) fn kill_unchecked(scene: &Scene) {
    let plain = Options::plain(&scene.dir, &scene.settings.binaries);
    let mut cluster = scene.cluster_of(Options { unchecked: Some(0), ..plain });
    let listed = cluster.vstorage(&["list-services", "-C"]).works("list-services");
    let rows = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let servers: Vec<_> = rows.filter(|row| row.get(1) == Some(&"active")).collect();
    let unchecked: Vec<bool> = servers.iter().map(|row| !row[3].contains('C')).collect();
    assert_eq!(unchecked, [true, false, false], "{listed}");
    let mut loads = kill_again_and_again(scene, &mut cluster, ROUNDS_UNCHECKED);
    wait_healthy(&cluster, REBUILT);
    for index in [1, 2] {
        cluster.servers[index].kill().works("kill -9 of a chunk server");
    }
    loads.judge(&cluster);
    scene.say("the server without checksums has everything");
    for index in [1, 2] {
        cluster.servers[index].start().works("start");
        cluster.servers[index].ready().works("ready");
    }
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
    scene.say("stopped in order, checked");
}

fn kill_again_and_again(scene: &Scene, cluster: &mut Cluster, rounds: u64) -> Loads {
    let mut loads = Loads::new(scene.settings.seed);
    cluster.export(VOLUME).works("export");
    for round in 1..=rounds {
        let (outcomes, ()) = loads.run(cluster, |cluster, watch| {
            // Never at the same place: some rounds meet a journal that is being emptied.
            assert!(watch.advances(ANSWERS + 500 * round), "the load does not advance");
            cluster.kill_all().works("kill");
        });
        for outcome in outcomes {
            let error = outcome.expect_err("the export was killed under it");
            assert!(matches!(error, hw_tests::load::LoadError::Nbd(_)), "{error}");
        }
        scene.say(format!("round {round}: killed; {}", loads.counts()));
        cluster.start_all().works("start after the kill");
        cluster.export(VOLUME).works("export after the kill");
        loads.judge(cluster);
        scene.say("started again; what was flushed is there");
    }
    loads
}
