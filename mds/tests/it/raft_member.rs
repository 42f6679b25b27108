//! A single member on a real ring: what was answered survives kills, snapshots keep the log short, and wrong directories
//! are refused with a message that says what to do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use mds::log::OpenError;
use mds::raft::{NoPeers, Options, ProposeError, ReadError, Role, StartError};

use crate::raft_ledger::{
    Group, Ledger, check_lines, create, directory, files_named, line, on_ring, open, propose_lines, small,
    until, without_snapshots,
};

#[test]
fn everything_answered_survives_a_kill_exactly_once() {
    let dir = directory();
    let at = dir.path().to_owned();
    let answers: BTreeMap<u64, Vec<u8>> = on_ring({
        let at = at.clone();
        async move {
            create(&at, Options::default()).await;
            let group = open(&at, Options::default()).await.unwrap();
            let writers = (0..20).map(|writer| {
                let group = group.clone();
                rt::spawn(async move {
                    let mut answers = Vec::new();
                    for step in 0..50 {
                        let command = format!("writer {writer} step {step}").into_bytes();
                        answers.push((group.propose(command.clone()).await.unwrap(), command));
                    }
                    answers
                })
            });
            let mut all = BTreeMap::new();
            for writer in writers.collect::<Vec<_>>() {
                all.extend(writer.await.unwrap());
            }
            let metrics = group.metrics();
            assert_eq!((metrics.proposals, metrics.commands), (1000, 1000));
            assert!(metrics.commit.count < 1000, "commands that wait are proposed together: {metrics:?}");
            // Killed here: nothing is shut down.
            all
        }
    });
    assert_eq!(answers.len(), 1000);
    on_ring(async move {
        let group = open(&at, Options::default()).await.unwrap();
        group.with(|ledger| {
            assert_eq!(ledger.lines.len(), 1000);
            assert!(answers.iter().all(|(number, command)| &ledger.lines[*number as usize - 1] == command));
        });
        assert_eq!(group.propose(b"on".to_vec()).await.unwrap(), 1001);
    });
}

#[test]
fn kills_without_end_lose_nothing() {
    let dir = directory();
    let at = dir.path().to_owned();
    on_ring({
        let at = at.clone();
        async move { create(&at, small()).await }
    });
    for round in 0..12 {
        let at = at.clone();
        on_ring(async move {
            let group = open(&at, small()).await.unwrap();
            check_lines(&group, round * 30);
            propose_lines(&group, round * 30 + 1..=round * 30 + 30).await;
        });
    }
}

#[test]
fn the_log_stays_short_and_the_state_whole() {
    let dir = directory();
    let at = dir.path().to_owned();
    let path = at.clone();
    on_ring(async move {
        create(&at, small()).await;
        let group = open(&at, small()).await.unwrap();
        for hundred in 0..10 {
            propose_lines(&group, hundred * 100 + 1..=hundred * 100 + 100).await;
            // Whoever proposes without a pause may be faster than the disk takes snapshots.
            until("a snapshot is taken every 100 entries", || group.metrics().snapshots.count > hundred)
                .await;
        }
        // Since the older one of two snapshots, and what was proposed while they were taken.
        until("the log is short", || group.metrics().log.entries <= 310).await;
        // Two intervals of 100 blocks, the one under way, and what rounds that up to segments of 31 blocks.
        until("old segments are removed", || files_named(&at, "log-").len() <= 12).await;
        let metrics = group.metrics();
        assert!(metrics.log.segments <= 12 && metrics.snapshots.count >= 10, "{metrics:?}");
        group.shutdown().await;
    });
    let segments = files_named(&path, "log-");
    assert!(segments.len() <= 12, "{segments:?}");
    for _ in 0..2 {
        let at = path.clone();
        on_ring(async move {
            let group = open(&at, small()).await.unwrap();
            assert!(group.recovery().snapshot.is_some());
            check_lines(&group, 1000);
        });
        assert_eq!(files_named(&path, "snapshot-").len(), 2);
    }
}

#[test]
fn a_damaged_snapshot_costs_nothing_but_time_and_two_are_refused() {
    let dir = directory();
    let at = dir.path().to_owned();
    on_ring({
        let at = at.clone();
        async move {
            create(&at, small()).await;
            let group = open(&at, small()).await.unwrap();
            propose_lines(&group, 1..=450).await;
            until("there are two snapshots", || files_named(&at, "snapshot-").len() == 2).await;
            group.shutdown().await;
        }
    });
    let snapshots = files_named(&at, "snapshot-");
    assert_eq!(snapshots.len(), 2);
    flip(&snapshots[1], 5000);
    on_ring({
        let at = at.clone();
        async move {
            let group = open(&at, small()).await.unwrap();
            let bad = &group.recovery().bad_snapshots;
            assert!(matches!(&bad[..], [OpenError::Strange { .. }]), "{bad:?}");
            check_lines(&group, 450);
            propose_lines(&group, 451..=600).await;
            group.shutdown().await;
        }
    });
    assert!(
        !snapshots[1].exists() || files_named(&at, "snapshot-").len() == 2,
        "the damaged one is gone or replaced"
    );
    for path in files_named(&at, "snapshot-") {
        flip(&path, 20);
    }
    let error = on_ring({
        let at = at.clone();
        async move { open(&at, small()).await.map(drop).unwrap_err() }
    });
    assert!(matches!(error, StartError::SnapshotMissing { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("no usable snapshot") && text.contains("backup"), "{text}");
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn one_directory_has_one_user() {
    let dir = directory();
    let at = dir.path().to_owned();
    on_ring(async move {
        create(&at, small()).await;
        let group = open(&at, small()).await.unwrap();
        let error = open(&at, small()).await.map(drop).unwrap_err();
        assert!(matches!(error, StartError::Open(OpenError::InUse(_))), "{error:?}");
        assert!(error.to_string().contains("in use by another process"), "{error}");
        let again = Group::create(&at, 2, "x:1", small().log).await.unwrap_err();
        assert!(matches!(again, OpenError::InUse(_)), "{again:?}");
        group.shutdown().await;
        drop(group);
        let again = Group::create(&at, 2, "x:1", small().log).await.unwrap_err();
        assert!(matches!(again, OpenError::Exists(_)), "{again:?}");
        open(&at, small()).await.unwrap().shutdown().await;
    });
}

#[test]
fn a_directory_that_is_none_is_refused() {
    let dir = directory();
    let at = dir.path().to_owned();
    on_ring(async move {
        let error = open(&at.join("nothing"), small()).await.map(drop).unwrap_err();
        assert!(error.to_string().contains("holds no metadata server; create one"), "{error}");
        let error = open(&at, small()).await.map(drop).unwrap_err();
        assert!(matches!(error, StartError::Open(OpenError::NotCreated(_))), "{error:?}");
    });
}

#[test]
fn every_reign_has_its_own_term() {
    let dir = directory();
    let at = dir.path().to_owned();
    on_ring({
        let at = at.clone();
        async move { create(&at, small()).await }
    });
    let mut last = 0;
    for _ in 0..3 {
        let at = at.clone();
        let term = on_ring(async move {
            let group = open(&at, small()).await.unwrap();
            let mut watch = group.watch_role();
            let Role::Leader { term } = watch.next().await else { panic!("alone, it leads") };
            assert_eq!(group.role(), Role::Leader { term });
            group.shutdown().await;
            assert_eq!(watch.next().await, Role::Stopped);
            term
        });
        assert!(term > last, "{term} after {last}");
        last = term;
    }
}

#[test]
fn reads_see_what_was_answered_and_nothing_is_answered_after_the_end() {
    let dir = directory();
    let at = dir.path().to_owned();
    on_ring(async move {
        create(&at, small()).await;
        let group = open(&at, small()).await.unwrap();
        propose_lines(&group, 1..=5).await;
        group.read_barrier().await.unwrap();
        check_lines(&group, 5);
        let huge = group.propose(vec![0; 1 << 20]).await.unwrap_err();
        assert!(matches!(huge, ProposeError::TooLarge { .. }), "{huge:?}");
        let largest = small().log.body_max() - 12;
        group.propose(vec![7; largest]).await.unwrap();
        assert!(group.propose(vec![7; largest + 1]).await.is_err());
        group.shutdown().await;
        assert!(matches!(group.propose(line(6)).await, Err(ProposeError::Stopped)));
        assert!(matches!(group.read_barrier().await, Err(ReadError::Stopped)));
        assert!(group.failure().is_none());
    });
}

#[test]
fn proposals_under_way_at_the_end_are_answered_one_way_or_the_other() {
    let dir = directory();
    let at = dir.path().to_owned();
    let answered = on_ring({
        let at = at.clone();
        async move {
            create(&at, without_snapshots()).await;
            let group = open(&at, without_snapshots()).await.unwrap();
            let writers: Vec<_> = (0..50)
                .map(|writer| {
                    let group = group.clone();
                    rt::spawn(async move {
                        let mut done = 0;
                        while group.propose(format!("{writer}").into_bytes()).await.is_ok() {
                            done += 1;
                        }
                        done
                    })
                })
                .collect();
            until("somebody is answered", || group.metrics().proposals > 100).await;
            group.shutdown().await;
            let mut answered = 0;
            for writer in writers {
                answered += writer.await.unwrap();
            }
            answered
        }
    });
    on_ring(async move {
        let group = open(&at, without_snapshots()).await.unwrap();
        let lines = group.with(|ledger| ledger.lines.len());
        assert!(answered > 0 && lines >= answered, "{lines} lines of {answered} answered");
    });
}

#[test]
fn a_log_that_cannot_go_on_stops_the_member() {
    let dir = directory();
    let at = dir.path().to_owned();
    on_ring(async move {
        create(&at, without_snapshots()).await;
        let group = open(&at, without_snapshots()).await.unwrap();
        let mut watch = group.watch_role();
        assert!(watch.next().await.is_leader());
        // What the next segment is to be called is something that cannot be replaced.
        std::fs::create_dir(at.join("log-0000000000000002.new")).unwrap();
        let mut number = 0;
        // When the present one is half full the next is made; nobody who proposes waits for it.
        while group.failure().is_none() {
            number += 1;
            assert!(number < 40, "the next segment was never made");
            let proposed = group.propose(line(number)).await;
            assert!(proposed.is_ok() || group.failure().is_some(), "{proposed:?}");
        }
        let stopped = rt::time::timeout(Duration::from_secs(60), watch.next()).await;
        assert_eq!(stopped.expect("it does not lead any more"), Role::Stopped);
        let text = group.failure().expect("it says why").to_string();
        assert!(text.contains("log-0000000000000002.new") && text.contains("stops"), "{text}");
        assert!(matches!(group.propose(line(number)).await, Err(ProposeError::Fatal(_))));
        group.shutdown().await;
    });
}

#[test]
fn a_peer_that_cannot_be_reached_does_not_hurt() {
    let dir = directory();
    let at = dir.path().to_owned();
    on_ring(async move {
        create(&at, small()).await;
        let group = Group::open(&at, Ledger::default(), small(), Rc::new(NoPeers)).await.unwrap();
        propose_lines(&group, 1..=3).await;
        let adding = group.add_member(2, "192.0.2.1:2510");
        assert!(
            rt::time::timeout(Duration::from_millis(700), adding).await.is_err(),
            "nobody is there to add"
        );
        propose_lines(&group, 4..=300).await;
        group.read_barrier().await.unwrap();
        check_lines(&group, 300);
    });
}

#[test]
fn an_idle_member_sleeps() {
    let dir = directory();
    let at = dir.path().to_owned();
    on_ring(async move {
        create(&at, small()).await;
        let group = open(&at, small()).await.unwrap();
        propose_lines(&group, 1..=10).await;
        rt::time::sleep(Duration::from_millis(500)).await;
        let before = rt::launch::enters();
        rt::time::sleep(Duration::from_secs(3)).await;
        let wakes = rt::launch::enters() - before;
        assert!(wakes <= 15, "{wakes} wakes in three seconds of idleness");
        drop(group);
    });
}
