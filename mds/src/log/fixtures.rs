//! Frozen bytes of the files of a metadata server, and parsers that take any bytes.
//!
//! `VSTORAGE_BLESS=1 cargo test -p mds log::fixtures` writes the files that are missing, and only those; the checksums are then
//! added with sha256sum(1) to `mds/fixtures/SHA256SUMS`. The files are those of one directory, `v1/server`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rt::random::Rng;

use super::directory::{Directory, Identity};
use super::entry::{Batch, Entry, LogId, Membership, Payload, Vote};
use super::record::{BLOCK, Group, Head, Kind};
use super::snapshot::{SnapshotMeta, Snapshots, decode_header, encode_header, encode_piece};
use super::store::{Log, LogOptions};
use super::{body, record, recover, scan, segment};

const IDENTITY: Identity = Identity { uuid: *b"0123456789abcdef", node: 3 };
const SIZE: u64 = 16 * BLOCK as u64;
const SEGMENT: &str = "log-0000000000000005";
const SNAPSHOT: &str = "snapshot-00000000000000000041";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1/server")
}

fn frozen(name: &str, fresh: &[u8]) -> Vec<u8> {
    let path = folder().join(name);
    let bless = std::env::var_os("VSTORAGE_BLESS").is_some_and(|value| value == "1");
    if bless && let Ok(mut file) = std::fs::File::create_new(&path) {
        file.write_all(fresh).expect("the fixtures are writable");
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn id(index: u64) -> LogId {
    LogId { term: 7, node: 3, index }
}

fn members() -> Membership {
    let mut members = Membership::founder(3, "10.0.0.3:2510");
    members.voters.push(BTreeSet::from([3, 4]));
    members.addresses.insert(4, "[fd00::4]:2510".to_owned());
    members
}

fn entries() -> Vec<Entry> {
    let payloads = [
        Payload::Blank,
        Payload::Commands(Batch::of([&b"create"[..], b"", &[0xAB; 5000]])),
        Payload::Membership(members()),
    ];
    payloads.into_iter().zip(42..).map(|(payload, index)| Entry { id: id(index), payload }).collect()
}

/// A segment that restates, holds three entries, takes back a fourth, and is vouched for.
fn segment_bytes() -> Vec<u8> {
    let restated = |head| Head { restated: true, ..head };
    let vote = Head { committed: true, ..Head::new(Kind::Vote, LogId { index: 0, ..id(0) }) };
    let mut bytes = vec![0; BLOCK];
    let header = segment::encode_header(IDENTITY.uuid, 5, SIZE);
    bytes[..header.len()].copy_from_slice(&header);
    let mut group = Group::new(IDENTITY.tag(), 100);
    for head in [vote, Head::new(Kind::Purge, id(41)), Head::new(Kind::Committed, id(41))] {
        group.push(restated(head), &[]);
    }
    for entry in entries() {
        group.push(Head::new(Kind::Entry, entry.id), &body::encode(&entry.payload));
    }
    let next = group.next_seq();
    bytes.extend(group.finish());
    let mut group = Group::new(IDENTITY.tag(), next);
    group.push(Head::new(Kind::Entry, id(45)), &body::encode(&Payload::Blank));
    group.push(Head::new(Kind::Truncate, id(45)), &[]);
    let next = group.next_seq();
    bytes.extend(group.finish());
    let mut group = Group::new(IDENTITY.tag(), next);
    group.push(Head::new(Kind::Committed, id(43)), &[]);
    bytes.extend(group.finish());
    bytes.resize(SIZE as usize, 0);
    bytes
}

fn meta() -> SnapshotMeta {
    SnapshotMeta {
        last: id(41),
        commands: 77,
        membership_id: Some(id(2)),
        membership: members(),
        state_len: state().len() as u64,
    }
}

fn state() -> Vec<u8> {
    (0..6000_u32).map(|n| n as u8).collect()
}

fn snapshot_bytes() -> Vec<u8> {
    let header = encode_header(&meta(), IDENTITY.uuid).unwrap();
    [header, encode_piece(0, &state()).to_vec()].concat()
}

#[test]
fn what_is_written_today_is_what_was_frozen() {
    let files = [("identity", IDENTITY.encode()), (SEGMENT, segment_bytes()), (SNAPSHOT, snapshot_bytes())];
    for (name, fresh) in files {
        assert!(frozen(name, &fresh) == fresh, "{name}");
    }
}

#[test]
fn what_was_frozen_is_read_and_means_the_same() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    for name in ["identity", SEGMENT, SNAPSHOT] {
        std::fs::copy(folder().join(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("lock"), "").unwrap();
    let at = dir.path().to_owned();
    rt::Executor::start(&rt::ExecutorOptions::default()).unwrap().run(async move {
        let directory = Rc::new(Directory::open(&at).await.unwrap());
        assert_eq!(directory.identity(), IDENTITY);
        let options = LogOptions { segment_bytes: SIZE, ..LogOptions::default() };
        let (log, torn) = Log::open(Rc::clone(&directory), options).await.unwrap();
        assert!(torn.is_none());
        assert_eq!(log.vote(), Some(Vote { term: 7, node: 3, committed: true }));
        assert_eq!((log.purged(), log.committed(), log.last()), (Some(id(41)), Some(id(43)), Some(id(44))));
        assert_eq!(log.read(0..u64::MAX, usize::MAX).await.unwrap(), entries());
        let (snapshots, loaded) = Snapshots::open(directory).await.unwrap();
        assert_eq!(loaded.newest, Some((meta(), state())));
        assert_eq!(snapshots.load(41).await.unwrap().1, state());
    });
}

/// Hands bytes to every parser of files; none may panic. Whether the checksums fit is for the caller to see to.
fn parse_any(bytes: &[u8]) -> usize {
    let path = Path::new("any");
    let taken = [
        Identity::decode(path, bytes).is_ok(),
        segment::check_header(bytes, path, IDENTITY.uuid, 5).is_ok(),
        record::parse(bytes, IDENTITY.tag()).is_ok_and(|(_, content)| body::decode(content).is_ok()),
        decode_header(bytes, path, IDENTITY.uuid, 41).is_ok(),
        body::decode(bytes).is_ok(),
        body::decode_membership(bytes).is_ok(),
        Batch::from_bytes(bytes).is_ok(),
    ];
    taken.into_iter().filter(|taken| *taken).count()
}

/// Changes bytes in one of many ways. Some keep a header's checksum right, so that what lies behind is reached.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, checksum_at: usize) {
    for _ in 0..=rng.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.below(bytes.len().min(200) as u64) as usize;
        match rng.below(5) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0xff][rng.below(4) as usize],
            2 => bytes.truncate(at),
            3 => bytes.extend_from_within(at..),
            _ => {
                let end = bytes.len().min(at + 8);
                bytes[at..end].fill(0xff);
            }
        }
    }
    if rng.one_in(2) && bytes.len() >= checksum_at + 4 {
        let sum = record::crc(&bytes[..checksum_at]).to_le_bytes();
        bytes[checksum_at..checksum_at + 4].copy_from_slice(&sum);
    }
}

#[test]
fn a_hundred_thousand_damaged_files_never_panic() {
    let (segment, snapshot) = (segment_bytes(), snapshot_bytes());
    let seeds: Vec<(Vec<u8>, usize)> = vec![
        (IDENTITY.encode(), 60),
        (segment[..64].to_vec(), 60),
        (segment[BLOCK..BLOCK + 64].to_vec(), 60),
        (segment[BLOCK + 192..BLOCK + 400].to_vec(), 60),
        (snapshot[..300].to_vec(), 124),
        (body::encode(&entries()[2].payload), 1 << 20),
        (body::encode(&entries()[2].payload)[1..].to_vec(), 1 << 20),
        (Batch::of([&b"one"[..], b"two"]).as_bytes().to_vec(), 1 << 20),
    ];
    let mut rng = Rng::from_seed(5);
    let (mut taken, mut refused) = (0, 0);
    for n in 0..120_000 {
        let (bytes, checksum_at) = &seeds[n % seeds.len()];
        let mut bytes = bytes.clone();
        mutate(&mut rng, &mut bytes, *checksum_at);
        match parse_any(&bytes) {
            0 => refused += 1,
            _ => taken += 1,
        }
    }
    assert!(taken > 1000 && refused > 10_000, "both ways are gone: {taken} taken, {refused} refused");
}

#[test]
fn damaged_segments_never_panic_and_lose_nothing_unnoticed() {
    let good = segment_bytes()[..6 * BLOCK].to_vec();
    let mut rng = Rng::from_seed(6);
    for _ in 0..3000 {
        let mut bytes = good.clone();
        let record = BLOCK + rng.below(5) as usize * BLOCK;
        let mut part = bytes.split_off(record);
        mutate(&mut rng, &mut part, 60);
        bytes.extend(part);
        bytes.resize(good.len(), 0);
        if let Ok(seen) = scan::scan(5, &bytes, IDENTITY.tag()) {
            let _decided = recover::recover(&[seen]);
        }
    }
}
