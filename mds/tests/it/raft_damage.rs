//! Damaged, torn, foreign and incomplete logs on a real disk.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use mds::log::{BLOCK, Batch, Corruption, Directory, Entry, Log, LogId, LogOptions, OpenError, Payload};
use mds::raft::StartError;

use crate::raft_ledger::{
    check_lines, copy, create, directory, files_named, on_ring, open, propose_lines, until, without_snapshots,
};

const LINES: u64 = 12;

/// A log with [`LINES`] lines, each in a group of its own. A vouched one has a last group that only says that the one before
/// is durable.
fn sample(vouched: bool) -> tempfile::TempDir {
    let dir = directory();
    let at = dir.path().to_owned();
    on_ring(async move {
        create(&at, without_snapshots()).await;
        let group = open(&at, without_snapshots()).await.unwrap();
        propose_lines(&group, 1..=LINES).await;
        if vouched {
            let groups = group.metrics().log.groups;
            until("the last group is vouched for", || group.metrics().log.groups > groups).await;
        }
    });
    dir
}

/// The lines in a log, or why it does not open.
fn lines_in(dir: &Path) -> Result<u64, OpenError> {
    let dir = dir.to_owned();
    on_ring(async move {
        let options = without_snapshots().log;
        let (log, _) = Log::open(Rc::new(Directory::open(&dir).await?), options).await?;
        let entries = log.read(0..u64::MAX, usize::MAX).await.expect("readable");
        let commands = entries.iter().filter_map(|entry| match &entry.payload {
            Payload::Commands(batch) => Some(batch.count()),
            _ => None,
        });
        Ok(commands.sum())
    })
}

fn segment(dir: &Path) -> PathBuf {
    files_named(dir, "log-").swap_remove(0)
}

/// A copy of a directory with its first segment changed.
fn changed(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) -> tempfile::TempDir {
    let other = directory();
    copy(dir, other.path());
    let path = segment(other.path());
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
    other
}

/// Where each group of a segment begins, and where the content of the last one ends.
fn groups(bytes: &[u8]) -> (Vec<usize>, usize) {
    let starts = (BLOCK..bytes.len()).step_by(BLOCK).filter(|at| bytes[*at..].starts_with(b"MLr1"));
    (starts.collect(), bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1)
}

fn corruption(result: Result<u64, OpenError>) -> Option<Corruption> {
    match result {
        Err(OpenError::Corrupt { corruption, .. }) => Some(corruption),
        _ => None,
    }
}

#[test]
fn a_tail_torn_at_any_byte_loses_only_what_was_torn() {
    let dir = sample(false);
    let bytes = std::fs::read(segment(dir.path())).unwrap();
    let (starts, end) = groups(&bytes);
    let last = *starts.last().unwrap();
    assert_eq!(lines_in(dir.path()).unwrap(), LINES);
    for cut in (last..end).step_by(3) {
        let torn = changed(dir.path(), |bytes| bytes[cut..end].fill(0));
        assert_eq!(lines_in(torn.path()).unwrap(), LINES - 1, "cut at {cut}");
        // And once more: what was left of it is gone.
        assert_eq!(lines_in(torn.path()).unwrap(), LINES - 1, "cut at {cut}");
        let garbled = changed(dir.path(), |bytes| bytes[cut..end].iter_mut().for_each(|byte| *byte ^= 0x5A));
        assert_eq!(lines_in(garbled.path()).unwrap(), LINES - 1, "garbled from {cut}");
    }
}

#[test]
fn a_log_with_a_torn_tail_goes_on() {
    let dir = sample(false);
    let bytes = std::fs::read(segment(dir.path())).unwrap();
    let (starts, end) = groups(&bytes);
    let cut = (starts.last().unwrap() + end) / 2;
    let torn = changed(dir.path(), |bytes| bytes[cut..end].fill(0xEE));
    let at = torn.path().to_owned();
    on_ring({
        let at = at.clone();
        async move {
            let group = open(&at, without_snapshots()).await.unwrap();
            assert!(group.recovery().torn.is_some());
            check_lines(&group, LINES - 1);
            propose_lines(&group, LINES..=LINES + 20).await;
        }
    });
    on_ring(async move {
        let group = open(&at, without_snapshots()).await.unwrap();
        assert!(group.recovery().torn.is_none());
        check_lines(&group, LINES + 20);
    });
}

/// An entry whose record takes exactly so many bytes.
fn entry(index: u64, record: usize) -> Entry {
    let overhead = 64 + 1 + 4 + Batch::OVERHEAD;
    let command = vec![index as u8; record - overhead];
    Entry { id: LogId { term: 1, node: 1, index }, payload: Payload::Commands(Batch::of([&command[..]])) }
}

/// Opens a log, appends, and gives the indices and first bytes of what is there then.
fn append(dir: &Path, entries: Vec<Entry>) -> Vec<(u64, usize)> {
    let dir = dir.to_owned();
    on_ring(async move {
        let directory = Rc::new(Directory::open(&dir).await.expect("locked"));
        let (log, _) = Log::open(directory, without_snapshots().log).await.expect("opened");
        if !entries.is_empty() {
            log.append(entries).await.expect("appended");
        }
        let entries = log.read(1..u64::MAX, usize::MAX).await.expect("readable");
        let len = |entry: &Entry| match &entry.payload {
            Payload::Commands(batch) => batch.as_bytes().len(),
            _ => 0,
        };
        entries.iter().map(|entry| (entry.id.index, len(entry))).collect()
    })
}

#[test]
fn what_was_torn_never_comes_back() {
    let dir = directory();
    let at = dir.path().to_owned();
    on_ring({
        let at = at.clone();
        async move { create(&at, without_snapshots()).await }
    });
    // One group of two blocks, with a record at the beginning of each; the first block is lost.
    append(&at, vec![entry(1, BLOCK), entry(2, 200)]);
    let path = segment(&at);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2 * BLOCK..3 * BLOCK].fill(0);
    std::fs::write(&path, bytes).unwrap();
    // Another entry takes the place of the first; the second one would fit behind it.
    let after = append(&at, vec![entry(1, 300)]);
    assert_eq!(after, [(1, 300 - 65)]);
    assert_eq!(append(&at, Vec::new()), after);
}

#[test]
fn a_flipped_bit_in_any_durable_record_is_refused() {
    let dir = sample(true);
    let bytes = std::fs::read(segment(dir.path())).unwrap();
    let (starts, end) = groups(&bytes);
    let last = *starts.last().unwrap();
    assert_eq!(lines_in(dir.path()).unwrap(), LINES);
    for start in starts.iter().filter(|start| **start < last) {
        let stop = start + BLOCK;
        let content = bytes[*start..stop].iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for at in (0..content).step_by(11) {
            let bad = changed(dir.path(), |bytes| bytes[start + at] ^= 4);
            let found = corruption(lines_in(bad.path()));
            assert!(matches!(found, Some(Corruption::Damaged { .. })), "byte {} of {start}: {found:?}", at);
        }
        let lost = changed(dir.path(), |bytes| bytes[*start..stop].fill(0));
        assert!(corruption(lines_in(lost.path())).is_some(), "lost group at {start}");
    }
    // The last group only vouches for the one before: without it nothing is lost.
    let bad = changed(dir.path(), |bytes| bytes[(last + end) / 2] ^= 4);
    assert_eq!(lines_in(bad.path()).unwrap(), LINES);
}

#[test]
fn a_corrupt_log_is_refused_in_words_and_left_as_it_is() {
    let dir = sample(true);
    let bad = changed(dir.path(), |bytes| bytes[2 * BLOCK + 40] ^= 1);
    let before = std::fs::read(segment(bad.path())).unwrap();
    let at = bad.path().to_owned();
    let error = on_ring(async move { open(&at, without_snapshots()).await.map(drop).unwrap_err() });
    assert!(matches!(error, StartError::Open(OpenError::Corrupt { .. })), "{error:?}");
    let text = error.to_string();
    for part in ["segment 1, byte 8192", "CRC", "will not start", "backup"] {
        assert!(text.contains(part), "{part} in: {text}");
    }
    assert_eq!(std::fs::read(segment(bad.path())).unwrap(), before);
}

#[test]
fn strange_files_are_refused_in_words() {
    let dir = sample(true);
    let message = |dir: &tempfile::TempDir| lines_in(dir.path()).map(drop).unwrap_err().to_string();
    let expect = |dir: tempfile::TempDir, words: &str| {
        let text = message(&dir);
        assert!(text.contains(words), "{words} in: {text}");
    };
    let len = std::fs::metadata(segment(dir.path())).unwrap().len() as usize;
    expect(changed(dir.path(), |bytes| bytes.truncate(len - 1)), "shorter than it was made");
    expect(changed(dir.path(), |bytes| bytes.truncate(100)), "shorter than it was made");
    expect(changed(dir.path(), |bytes| bytes[0] ^= 1), "not a file of a metadata server");
    expect(changed(dir.path(), |bytes| bytes[40] ^= 1), "damaged");

    let other = sample(true);
    let mixed = directory();
    copy(dir.path(), mixed.path());
    std::fs::copy(segment(other.path()), segment(mixed.path())).unwrap();
    expect(mixed, "of another metadata server");

    let renamed = directory();
    copy(dir.path(), renamed.path());
    std::fs::rename(segment(renamed.path()), renamed.path().join("log-0000000000000009")).unwrap();
    expect(renamed, "not the file its name says");

    for (name, words) in [("identity", "holds no metadata server"), ("lock", "holds no metadata server")] {
        let without = directory();
        copy(dir.path(), without.path());
        std::fs::remove_file(without.path().join(name)).unwrap();
        expect(without, words);
    }
    let empty = directory();
    copy(dir.path(), empty.path());
    std::fs::remove_file(segment(empty.path())).unwrap();
    expect(empty, "segments are missing");
}

#[test]
fn a_missing_segment_in_the_middle_is_refused() {
    let dir = directory();
    let at = dir.path().to_owned();
    on_ring({
        let at = at.clone();
        async move {
            create(&at, without_snapshots()).await;
            let group = open(&at, without_snapshots()).await.unwrap();
            propose_lines(&group, 1..=100).await;
        }
    });
    let segments = files_named(&at, "log-");
    assert!(segments.len() >= 3, "{segments:?}");
    assert_eq!(lines_in(&at).unwrap(), 100);
    std::fs::remove_file(&segments[1]).unwrap();
    assert!(matches!(corruption(lines_in(&at)), Some(Corruption::Gap { .. })));
}

#[test]
fn a_log_without_identity_is_not_overwritten() {
    let dir = sample(true);
    std::fs::remove_file(dir.path().join("identity")).unwrap();
    let at = dir.path().to_owned();
    let error =
        on_ring(
            async move { mds::log::create(&at, 1, Some("x:1"), LogOptions::default()).await.unwrap_err() },
        );
    assert!(matches!(error, OpenError::Leftovers(_)), "{error:?}");
    assert_eq!(files_named(dir.path(), "log-").len(), 1);
}
