//! Disks that are full.

use std::time::Duration;

use hw_tests::cluster::Options;
use hw_tests::deadline::poll_until;
use hw_tests::nbd::{Client, Request};
use hw_tests::ram_medium::RamMedium;
use hw_tests::seeded::Seeded;

use crate::scene::{PATIENCE, Scene, Works};

/// Each chunk server's disk: smaller than the volume.
const DISK_BYTES: u64 = 224 << 20;
const JOURNAL_MB: u32 = 32;
const VOLUME: &str = "/big";
const VOLUME_BYTES: u64 = 1 << 30;
const PIECE: u64 = 1 << 20;
/// No answer for so long means that the write waits for room.
const WAITING: Duration = Duration::from_secs(6);
const ENOSPC: u32 = 28;

/// The content of a piece.
fn content(seed: u64, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; PIECE as usize];
    Seeded::new(seed << 32 | number).fill(&mut bytes);
    bytes
}

/// On full disks a write waits or is refused with ENOSPC; what was acknowledged is there, reads, flush and trim work, a
/// trim makes room for further writes, and all of it survives `kill -9`.
pub(crate) fn full_disk(scene: &Scene) {
    let media: Vec<RamMedium> = (1..=3)
        .map(|number| {
            RamMedium::create(&scene.dir.join(format!("ram{number}")), DISK_BYTES).expect("a RAM medium")
        })
        .collect();
    let options = Options {
        servers: media.iter().map(|medium| medium.path().join("cs")).collect(),
        journal_mb: Some(JOURNAL_MB),
        ..Options::plain(&scene.dir, &scene.settings.binaries)
    };
    let mut cluster = scene.cluster_of(options);
    cluster.vstorage(&["create", VOLUME, "--size", &VOLUME_BYTES.to_string()]).works("a volume");
    cluster.export(VOLUME).works("export");
    let seed = scene.settings.seed;
    let written = fill(&cluster.socket(), seed);
    scene.say(format!("full after {written} MiB"));
    assert!((60..DISK_BYTES / PIECE).contains(&written), "it is full when the disks are");

    let check = |client: &mut Client, pieces: std::ops::Range<u64>| {
        for number in pieces {
            let answer = client.ask(Request::Read, number * PIECE, PIECE as u32, &[]).expect("answered");
            assert!(answer.error == 0 && answer.data == content(seed, number), "piece {number} has changed");
        }
    };
    let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    assert_eq!(
        client.ask(Request::Flush, 0, 0, &[]).expect("answered").error,
        0,
        "a flush works on full disks"
    );
    check(&mut client, 0..written);
    scene.say("full: a flush works, all that was acknowledged is there");

    let trimmed = written / 2;
    let len = (trimmed * PIECE) as u32;
    assert_eq!(
        client.ask(Request::Trim, 0, len, &[]).expect("answered").error,
        0,
        "a trim works on full disks"
    );
    assert_eq!(client.ask(Request::Flush, 0, 0, &[]).expect("answered").error, 0);
    // Room comes back when the chunk servers get to it; a write that waits goes on, one that is refused is tried again.
    let goes_in = poll_until(PATIENCE, || {
        let bytes = content(seed, 0);
        let answer = client.ask(Request::Write, 0, PIECE as u32, &bytes).expect("answered");
        assert!([0, ENOSPC].contains(&answer.error), "errno {}", answer.error);
        (answer.error == 0).then_some(())
    });
    assert!(goes_in.is_some(), "a trim makes room for writes");
    assert_eq!(client.ask(Request::Flush, 0, 0, &[]).expect("answered").error, 0);
    scene.say("a trim made room");
    drop(client);

    cluster.kill_all().works("kill");
    cluster.start_all().works("start on disks that are nearly full");
    cluster.export(VOLUME).works("export");
    let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    check(&mut client, 0..1);
    check(&mut client, trimmed..written);
    let answer = client.ask(Request::Read, PIECE, PIECE as u32, &[]).expect("answered");
    assert!(answer.data.iter().all(|&byte| byte == 0), "what was trimmed reads as zeroes");
    drop(client);
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}

/// Writes pieces in order until one waits or is refused; returns how many went in.
fn fill(socket: &std::path::Path, seed: u64) -> u64 {
    let mut client = Client::connect(socket, WAITING).expect("the export greets");
    for number in 0..VOLUME_BYTES / PIECE {
        match client.ask(Request::Write, number * PIECE, PIECE as u32, &content(seed, number)) {
            Ok(answer) if answer.error == 0 => {}
            Ok(answer) => {
                assert_eq!(answer.error, ENOSPC, "full is told as such");
                return number;
            }
            Err(error) => {
                assert!(error.is_timeout(), "a connection survives a full disk: {error}");
                return number;
            }
        }
    }
    panic!("more went in than there is room");
}
