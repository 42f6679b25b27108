//! A state machine that remembers everything, and the ground the tests of consensus stand on.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use mds::log::LogOptions;
use mds::raft::{Consensus, Machine, NoPeers, Options, StartError};

/// Remembers every command. The answer to a command is its number.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) lines: Vec<Vec<u8>>,
}

#[derive(Debug, thiserror::Error)]
#[error("no ledger")]
pub(crate) struct NoLedger;

impl Machine for Ledger {
    type Response = u64;
    type RestoreError = NoLedger;

    fn apply(&mut self, number: u64, command: &[u8]) -> u64 {
        assert_eq!(number, self.lines.len() as u64 + 1, "commands are numbered without gaps");
        self.lines.push(command.to_vec());
        number
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = b"ledger".to_vec();
        for line in &self.lines {
            bytes.extend_from_slice(&(line.len() as u32).to_le_bytes());
            bytes.extend_from_slice(line);
        }
        bytes
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), NoLedger> {
        let mut rest = snapshot.strip_prefix(b"ledger").ok_or(NoLedger)?;
        self.lines.clear();
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            let (line, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(NoLedger)?;
            self.lines.push(line.to_vec());
            rest = after;
        }
        Ok(())
    }
}

pub(crate) type Group = Consensus<Ledger>;

/// Small segments, so that a few hundred commands fill many.
pub(crate) fn small() -> Options {
    let log = LogOptions { segment_bytes: 128 << 10, cached_bytes_max: 4 << 10 };
    Options { log, snapshot_entries: 100, ..Options::default() }
}

/// Small segments and no snapshots.
pub(crate) fn without_snapshots() -> Options {
    Options { snapshot_entries: u64::MAX, snapshot_log_bytes: u64::MAX, ..small() }
}

/// Runs a future on a ring of its own. What still runs when it ends is killed.
pub(crate) fn on_ring<F>(main: F) -> F::Output
where
    F: Future + 'static,
{
    rt::Executor::start(&rt::ExecutorOptions::default()).expect("a ring").run(main)
}

/// A directory on a real disk that goes away in the end.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

pub(crate) async fn create(dir: &Path, options: Options) {
    Group::create(dir, 1, "127.0.0.1:2510", options.log).await.expect("created");
}

pub(crate) async fn open(dir: &Path, options: Options) -> Result<Group, StartError> {
    Group::open(dir, Ledger::default(), options, Rc::new(NoPeers)).await
}

/// The line with this number.
pub(crate) fn line(number: u64) -> Vec<u8> {
    format!("line {number}").into_bytes()
}

/// Waits until something is so that comes of itself, however busy the machine is.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = rt::time::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(rt::time::now() < deadline, "still not so after a minute: {what}");
        rt::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Proposes lines one after the other, each in an entry of its own.
pub(crate) async fn propose_lines(group: &Group, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        assert_eq!(group.propose(line(number)).await.expect("committed"), number);
    }
}

/// Checks that the ledger has exactly the lines up to `count`, in order.
pub(crate) fn check_lines(group: &Group, count: u64) {
    let expected: Vec<Vec<u8>> = (1..=count).map(line).collect();
    group.with(|ledger| assert_eq!(ledger.lines, expected));
}

/// Copies the files of a directory.
pub(crate) fn copy(from: &Path, to: &Path) {
    for name in files(from) {
        std::fs::copy(from.join(&name), to.join(&name)).expect("copied");
    }
}

/// The names of the files of a directory, sorted.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let mut names: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").file_name().into()).collect();
    names.sort();
    names
}

/// The files whose names begin so, without drafts, sorted.
pub(crate) fn files_named(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let fits = |name: &PathBuf| name.extension().is_none() && name.to_string_lossy().starts_with(prefix);
    files(dir).into_iter().filter(fits).map(|name| dir.join(name)).collect()
}
