//! A journal that fills because the disk behind it is slow (C13).

use std::time::Duration;

use hw_tests::cluster::{Cluster, Options};
use hw_tests::deadline::let_pass;
use hw_tests::forgetting_disk::Pace;

use crate::power::Disks;
use crate::rebuild::{REBUILT, wait_healthy};
use crate::scene::{Loads, Scene, VOLUME, Works};

/// Whose journal it is.
const SERVER: usize = 1;
/// Its size, and that of the others.
const TIGHT_MB: u32 = 12;
const JOURNAL_MB: u32 = 64;
/// Blocks that lie in it at least when it is full: the rest is kept for checkpoints, or holds what they record.
const FULL_BLOCKS: u64 = (3 << 20) / 4096;
/// The slow disk takes a write in this time, so that even a few writers are faster.
const SLOW: Duration = Duration::from_millis(20);
/// In which time they fill the journal.
const FULL: Duration = Duration::from_secs(6);
const ANSWERS: u64 = 300;

/// With a slow disk behind it a journal fills; then writes take as long as the disk does, and nobody is told of an error. Nothing
/// is lost, also not when the chunk server is killed with a full journal.
pub(crate) fn journal_full(scene: &Scene) {
    let mut disks = Disks::with_journal_of(scene, SERVER);
    let (servers, mds) = disks.repositories();
    let (_, point) = disks.journal().expect("it was asked for");
    let options = Options {
        mds,
        servers,
        machines: true,
        journal_mb: Some(JOURNAL_MB),
        own_journals: [(SERVER, (point.join("journal"), TIGHT_MB))].into(),
        ..Options::plain(&scene.dir, &scene.settings.binaries)
    };
    let mut cluster = scene.cluster_of(options);
    cluster.export(VOLUME).works("export");
    // Each flush waits for the disk, and while it does the journal does not fill.
    let mut loads = Loads::new(scene.settings.seed).rarely_flushed();
    for is_killed in [false, true] {
        let (outcomes, ()) = loads.run(&mut cluster, |cluster, watch| {
            assert!(watch.advances(ANSWERS), "the load works");
            disks.set_pace_behind_journal(Pace::Slow(SLOW));
            let_pass(FULL);
            if is_killed {
                cluster.servers[SERVER].begin_kill().works("kill -9");
                disks.set_pace_behind_journal(Pace::Full);
                cluster.servers[SERVER].kill().works("it ends when its disk answers");
                let blocks = blocks_in_journal(cluster);
                scene.say(format!("killed with {blocks} blocks in its journal"));
                assert!(blocks >= FULL_BLOCKS, "the journal was not full");
                assert!(watch.advances(ANSWERS), "the load goes on without it");
                cluster.start_all().works("start");
            } else {
                assert!(watch.advances(ANSWERS), "the load goes on as fast as the disk");
                disks.set_pace_behind_journal(Pace::Full);
            }
            assert!(watch.advances(ANSWERS), "the load goes on");
        });
        for outcome in outcomes {
            outcome.expect("the client sees no error");
        }
        loads.judge_acknowledged(&cluster);
        scene.say(format!("nothing is missing; {}", loads.counts()));
    }
    // What has not come back yet says nothing about what it has.
    wait_healthy(&cluster, REBUILT);
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
    drop(cluster);
    disks.check();
}

/// Blocks that are in the journal of the stopped chunk server only, as its check counts them.
fn blocks_in_journal(cluster: &Cluster) -> u64 {
    let checked = cluster.check(&cluster.servers[SERVER]).works("check");
    let line = checked.stdout.lines().find(|line| line.contains("blocks wait in the journal"));
    line.and_then(|line| line.split(' ').next()?.parse().ok()).unwrap_or(0)
}
