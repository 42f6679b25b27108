//! The NBD programs of others, straight on the export.

use std::path::Path;
use std::process::Command;

use hw_tests::cluster::{Cluster, run_to_end};
use hw_tests::deadline::poll_until;
use hw_tests::nbd::{Client, Request};
use hw_tests::seeded::Seeded;
use serde_json::Value;

use crate::scene::{PATIENCE, Scene, VOLUME, VOLUME_BYTES, Works};

const MIB: usize = 1 << 20;
/// Where the image has data, in MiB; the rest is holes.
const DATA: &[std::ops::Range<usize>] = &[0..3, 10..11, 63..66, 130..150];

/// Runs a program, which must succeed, and returns what it printed.
fn tool(dir: &Path, program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args).env("TMPDIR", dir);
    let ended = run_to_end(&command, "").works("a program");
    assert!(ended.succeeded(), "{ended}");
    ended.stdout
}

/// An image of the volume's size: seeded bytes in [`DATA`], holes elsewhere.
fn make_image(path: &Path, seed: u64) {
    let file = std::fs::File::create(path).expect("an image");
    file.set_len(VOLUME_BYTES).expect("its size");
    let mut seeded = Seeded::new(seed);
    let mut piece = vec![0; MIB];
    for place in DATA.iter().cloned().flatten() {
        seeded.fill(&mut piece);
        std::os::unix::fs::FileExt::write_all_at(&file, &piece, (place * MIB) as u64).expect("room");
    }
}

/// `qemu-img`, `qemu-io`, `nbdcopy`, `nbdinfo` and fio's `nbd` engine work with the export; trim gives space back.
pub(crate) fn nbd_tools(scene: &Scene) {
    let mut cluster = scene.small_cluster();
    cluster.export(VOLUME).works("export");
    let (dir, uri) = (scene.dir.as_path(), cluster.uri());
    let image = dir.join("image").display().to_string();
    make_image(Path::new(&image), scene.settings.seed);

    let info: Value = serde_json::from_str(&tool(dir, "nbdinfo", &["--json", &uri])).expect("JSON");
    let export = &info["exports"][0];
    for ability in ["can_multi_conn", "can_flush", "can_fua", "can_trim", "can_zero"] {
        assert_eq!(export[ability], true, "{ability}: {export}");
    }
    assert_eq!(export["export-size"], VOLUME_BYTES, "{export}");
    scene.say("nbdinfo: size, multi-conn, flush, FUA, trim, zeroes");

    tool(dir, "qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", "--target-is-zero", &image, &uri]);
    tool(dir, "qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &uri]);
    check_map(dir, &uri);
    scene.say("qemu-img: copied in, equal, the map shows the holes");

    let back = dir.join("back").display().to_string();
    tool(dir, "nbdcopy", &["--connections=4", &uri, &back]);
    tool(dir, "cmp", &[&image, &back]);
    make_image(Path::new(&image), scene.settings.seed + 1);
    tool(dir, "nbdcopy", &["--connections=4", "--flush", &image, &uri]);
    tool(dir, "qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &uri]);
    scene.say("nbdcopy: out and in over four connections, equal");

    qemu_io(dir, &uri);
    scene.say("qemu-io: patterns, FUA, zeroes, discard");
    fio(dir, &uri);
    scene.say("fio: verified over two connections");
    trim_gives_space_back(scene, &mut cluster);
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}

/// Every MiB of data is data for `qemu-img map`, and every MiB far from data is a hole that reads as zeroes.
fn check_map(dir: &Path, uri: &str) {
    let map: Value =
        serde_json::from_str(&tool(dir, "qemu-img", &["map", "--output=json", "-f", "raw", uri]))
            .expect("JSON");
    let extents = map.as_array().expect("a list");
    let is_data_at = |place: usize| {
        let offset = (place * MIB) as u64;
        let holds = |extent: &&Value| {
            let start = extent["start"].as_u64().unwrap_or(u64::MAX);
            (start..start.saturating_add(extent["length"].as_u64().unwrap_or(0))).contains(&offset)
        };
        let extent = extents.iter().find(holds).expect("the map covers the volume");
        let (data, zero) = (extent["data"] == true, extent["zero"] == true);
        assert!(data != zero, "what is no data reads as zeroes: {extent}");
        data
    };
    for place in 0..VOLUME_BYTES as usize / MIB {
        let is_data = DATA.iter().any(|range| range.contains(&place));
        assert_eq!(is_data_at(place), is_data, "MiB {place}");
    }
    let counted = tool(dir, "nbdinfo", &["--map", "--totals", uri]);
    assert!(counted.contains("hole,zero"), "{counted}");
}

fn qemu_io(dir: &Path, uri: &str) {
    let script = [
        "write -P 0xa5 4k 60k",
        "write -f -P 0x5a 1234567 4321",
        "write -z 32k 8k",
        "read -P 0xa5 4k 28k",
        "read -P 0 32k 8k",
        "read -P 0xa5 40k 24k",
        "read -P 0x5a 1234567 4321",
        "discard 4k 60k",
        "flush",
        "aio_write -P 0x11 20M 1M",
        "aio_write -P 0x22 21M 1M",
        "aio_flush",
        "read -P 0x11 20M 1M",
        "read -P 0x22 21M 1M",
    ];
    let mut args = vec!["-f", "raw", uri];
    script.iter().for_each(|line| args.extend(["-c", line]));
    let said = tool(dir, "qemu-io", &args);
    assert!(!said.contains("failed") && !said.contains("error"), "{said}");
}

fn fio(dir: &Path, uri: &str) {
    let uri = format!("--uri={uri}");
    let report = dir.join("fio.txt").display().to_string();
    let mut command = Command::new("fio");
    // fio leaves a file where it runs.
    command.args([
        "--name=e2e",
        "--ioengine=nbd",
        &uri,
        "--rw=randwrite",
        "--bsrange=512-128k",
        "--iodepth=16",
    ]);
    command.args([
        "--numjobs=2",
        "--size=24M",
        "--offset_increment=64M",
        "--verify=crc32c",
        "--verify_fatal=1",
    ]);
    command.args(["--do_verify=1", "--fsync=32", "--verify_state_save=0"]);
    command.arg(format!("--output={report}"));
    let ended = run_to_end(&command, "").works("fio");
    assert!(ended.succeeded(), "{ended}{}", std::fs::read_to_string(&report).unwrap_or_default());
}

/// 512-byte sectors that the chunk files of all servers take.
fn sectors_used(cluster: &Cluster) -> u64 {
    cluster.servers.iter().map(|server| sectors_below(&server.repository().join("chunks"))).sum()
}

fn sectors_below(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => sectors_below(&entry.path()),
        Ok(found) => found.blocks(),
        // Gone meanwhile.
        Err(_) => 0,
    };
    entries.map(of).sum()
}

/// Whether replicas are away or being filled.
fn is_any_away(cluster: &Cluster) -> bool {
    let text = cluster.vstorage(&["stat", "--json"]).works("stat");
    let stat: Value = serde_json::from_str(&text).expect("JSON");
    stat["chunks"]["healthy"] != stat["fs"]["chunks"]
}

/// After a trim of the whole volume, the chunk files take next to nothing once the journals are emptied, as an orderly
/// stop does.
fn trim_gives_space_back(scene: &Scene, cluster: &mut Cluster) {
    let emptied = |cluster: &mut Cluster| {
        cluster.servers.iter_mut().try_for_each(hw_tests::cluster::Node::stop).works("stop");
        let used = sectors_used(cluster);
        cluster.start_all().works("start");
        used >> 11
    };
    let before = emptied(cluster);
    assert!(before > 50, "the chunk files hold something: {before} MiB");
    let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    assert_eq!(client.ask(Request::Trim, 0, VOLUME_BYTES as u32, &[]).expect("answered").error, 0);
    assert_eq!(client.ask(Request::Flush, 0, 0, &[]).expect("answered").error, 0);
    // Whoever was left out when the servers were stopped one after the other has to hear of it.
    let healthy = poll_until(PATIENCE, || (!is_any_away(cluster)).then_some(()));
    assert!(healthy.is_some(), "replicas do not return");
    let after = emptied(cluster);
    scene.say(format!("trim: the chunk files took {before} MiB and take {after} MiB"));
    assert!(after < before / 20, "trim gives the space back");
    let answer = client.ask(Request::Read, 0, 1 << 20, &[]).expect("answered");
    assert!(
        answer.error == 0 && answer.data.iter().all(|&byte| byte == 0),
        "a trimmed volume reads as zeroes"
    );
}
