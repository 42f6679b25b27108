//! Journals of chunk servers at work: added, resized, moved and destroyed under load, and nothing is lost.

use std::path::Path;

use hw_tests::cluster::{Cluster, NAME};

use crate::scene::{Loads, Scene, VOLUME, Works};

/// Answers per load that show that it goes on.
const ANSWERS: u64 = 200;

fn configure(scene: &Scene, cluster: &Cluster, server: usize, words: &[&str]) {
    let repository = cluster.servers[server].repository().display().to_string();
    let args = [&["configure-cs", "-r", &repository], words].concat();
    scene.say(cluster.vstorage(&args).works("configure-cs").trim_end());
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).expect("a directory").next().is_none()
}

/// Every chunk server gets other journals while two loads write, `kill -9` comes in the middle of a change and after all
/// of them, and a server that is stopped is treated the same.
pub(crate) fn journals(scene: &Scene) {
    let mut cluster = scene.cluster();
    let mut loads = Loads::new(scene.settings.seed);
    cluster.export(VOLUME).works("export");
    let place = |name: &str| scene.dir.join("ssd").join(name);
    let text = |name: &str| place(name).display().to_string();
    let (outcomes, ()) = loads.run(&mut cluster, |cluster, watch| {
        assert!(watch.advances(ANSWERS), "the load goes on");
        for server in 0..3 {
            let (one, two) = (text(&format!("one{server}")), text(&format!("two{server}")));
            configure(scene, cluster, server, &["-a", &one, "-s", "64", "-T", "ssd"]);
            assert!(watch.advances(ANSWERS), "the load goes on with a journal that was added");
            configure(scene, cluster, server, &["-s", "96"]);
            assert!(watch.advances(ANSWERS), "the load goes on with a larger one");
            configure(scene, cluster, server, &["-a", &two, "-s", "64"]);
            assert!(watch.advances(ANSWERS), "the load goes on with one that was moved");
            assert!(is_empty(Path::new(&one)), "nothing is left of the one before");
            if server > 0 {
                configure(scene, cluster, server, &["-d"]);
                assert!(watch.advances(ANSWERS), "the load goes on without");
                assert!(is_empty(Path::new(&two)), "nothing is left of the one that was destroyed");
            }
        }
        // Killed while a large one is being made: the present one stays.
        let (third, large) = (cluster.servers[2].repository().display().to_string(), text("large"));
        let words = ["-c", NAME, "configure-cs", "-r", &third, "-a", &large, "-s", "2048"];
        let mut command = cluster.command("vstorage", &words);
        let mut child = command.spawn().expect("vstorage can be started");
        let begun = hw_tests::deadline::poll_until(crate::scene::PATIENCE, || {
            place("large").join("journal.next").exists().then_some(())
        });
        begun.expect("the new journal is being made");
        cluster.servers[2].kill().works("kill -9 in the middle");
        assert!(!child.wait().expect("it is our child").success(), "a change that was cut off is none");
        assert!(watch.advances(ANSWERS), "the load goes on without the third");
        cluster.start_all().works("it comes back");
        assert!(watch.advances(ANSWERS), "the load goes on with all");
    });
    for outcome in outcomes {
        outcome.expect("the client sees no error");
    }
    assert!(is_empty(&place("large")), "the start removes what a cut-off change has left");
    loads.judge_acknowledged(&cluster);
    cluster.kill_all().works("kill -9 of all");
    cluster.start_all().works("a start");
    cluster.export(VOLUME).works("export");
    loads.judge_acknowledged(&cluster);
    scene.say(loads.counts());
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
    // A server that does not run.
    configure(scene, &cluster, 0, &["-d"]);
    configure(scene, &cluster, 1, &["-a", &text("stopped"), "-s", "32"]);
    cluster.check_all().works("check");
    cluster.start_all().works("a start with other journals");
    cluster.export(VOLUME).works("export");
    loads.judge_acknowledged(&cluster);
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}
