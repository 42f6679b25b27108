//! Chunk servers whose journal or directory is not there: the cluster says which and why, and they come back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hw_tests::cluster::{Cluster, NAME, run_to_end};
use hw_tests::deadline::poll_until;

use crate::scene::{Scene, Works};

/// How long the cluster may take to show something.
const SHOWN: Duration = Duration::from_secs(60);

/// Flags and state of the chunk server in a directory, as `list-services` shows them.
fn shown(cluster: &Cluster, repository: &str) -> (String, String) {
    let text = cluster.vstorage(&["list-services", "-C", "--json"]).works("list-services");
    let services: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let rows = services["cs"].as_array().cloned().unwrap_or_default();
    let row = rows.iter().find(|row| row["path"] == repository).expect("a row for each chunk server");
    let word = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    (word("flags"), word("status"))
}

fn failures(cluster: &Cluster) -> usize {
    let text = cluster.vstorage(&["get-event", "-n", "500", "--json"]).works("get-event");
    let all: Vec<serde_json::Value> = serde_json::from_str(&text).expect("a list of events");
    let is_one = |event: &&serde_json::Value| {
        event["message"].as_str().is_some_and(|text| {
            text.contains("its journal cannot be used") || text.contains("its directory is not there")
        })
    };
    all.iter().filter(is_one).count()
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("aside")
}

/// Takes something away from a chunk server that was killed, and gives it back.
fn without(scene: &Scene, cluster: &mut Cluster, server: usize, what: &Path, flag: char, says: &str) {
    let repository = cluster.servers[server].repository().display().to_string();
    let before = failures(cluster);
    cluster.servers[server].kill().works("kill -9");
    std::fs::rename(what, aside(what)).expect("nothing is mounted there");
    for attempt in ["first", "second"] {
        let command = cluster.command("vstorage-csd", &["run", "-c", NAME, "-r", &repository]);
        let ended = run_to_end(&command, "").works("vstorage-csd can be started");
        assert!(ended.code == Some(1) && ended.stderr.contains(says), "{attempt}: {ended}");
    }
    let flagged = poll_until(SHOWN, || {
        let (flags, status) = shown(cluster, &repository);
        (flags.contains(flag) && status == "failed").then_some(flags)
    });
    scene.say(format!("shown as failed, with the flags {}", flagged.expect("the flag is shown")));
    assert_eq!(failures(cluster), before + 1, "one event for both attempts");
    std::fs::rename(aside(what), what).expect("it goes back");
    cluster.start_all().works("it starts when it has everything");
    let back = poll_until(SHOWN, || {
        let (flags, status) = shown(cluster, &repository);
        (!flags.contains(flag) && status == "active").then_some(flags)
    });
    scene.say(format!("active again, with the flags {}", back.expect("the flag is gone")));
}

/// A chunk server cannot start without its journal (flag `S`), nor without its directory (flag `R`).
pub(crate) fn faults(scene: &Scene) {
    let mut cluster = scene.small_cluster();
    let text = cluster.vstorage(&["list-services", "-C", "--json"]).works("list-services");
    let services: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let repository = cluster.servers[0].repository().to_owned();
    let rows = services["cs"].as_array().cloned().unwrap_or_default();
    let journal = rows
        .iter()
        .find(|row| row["path"] == repository.display().to_string())
        .and_then(|row| row["journal_path"].as_str())
        .expect("it has a journal of its own");
    without(scene, &mut cluster, 0, Path::new(journal), 'S', "the journal");
    let repository = cluster.servers[1].repository().to_owned();
    without(scene, &mut cluster, 1, &repository, 'R', "holds no chunk server");
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}
