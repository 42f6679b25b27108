//! `kill -9` of every process under load.

use crate::scene::{Loads, Scene, VOLUME, Works};

const ROUNDS: u64 = 4;
/// Answers per load and round.
const ANSWERS: u64 = 1200;

/// What a completed flush covered is there after every process was killed; at the end nothing is found wrong on disk.
pub(crate) fn kill_everything(scene: &Scene) {
    let mut cluster = scene.cluster();
    let mut loads = Loads::new(scene.settings.seed);
    cluster.export(VOLUME).works("export");
    for round in 1..=ROUNDS {
        let (outcomes, ()) = loads.run(&mut cluster, |cluster, watch| {
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
        loads.judge(&cluster);
        scene.say("started again; what was flushed is there");
    }
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
    scene.say("stopped in order, checked");
}
