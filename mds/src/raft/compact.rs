//! Taking snapshots, so that the log stays short.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use super::Options;
use super::applied::Applied;
use super::core::Core;
use super::error::Failure;
use crate::log::SnapshotError;

/// How long to wait before trying again on a full disk.
const FULL_RETRY: Duration = Duration::from_secs(10);

/// How much there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Backlog {
    /// Entries applied since the last snapshot.
    entries: u64,
    /// Bytes of the log since then.
    bytes: u64,
    /// Bytes of the last snapshot.
    snapshot: u64,
}

/// Whether a snapshot is worth it: the log is as long as wanted, but writing snapshots takes no more than a few times the
/// bytes of the log itself, however large the state is.
fn is_due(backlog: Backlog, options: &Options) -> bool {
    let Backlog { entries, bytes, snapshot } = backlog;
    let many = entries >= options.snapshot_entries && bytes >= snapshot / 4;
    many || bytes >= options.snapshot_log_bytes.max(snapshot)
}

/// Takes a snapshot whenever one is due, until the member ends.
pub(super) async fn run(core: Weak<Core>, applied: Rc<Applied>) {
    loop {
        let progress = applied.changed();
        let Some(member) = core.upgrade().filter(|member| !member.is_stopping()) else { return };
        if is_due(backlog(&member), &member.options) {
            match take(&member).await {
                Ok(()) => continue,
                Err(SnapshotError::Full { .. }) => {
                    drop(member);
                    rt::time::sleep(FULL_RETRY).await;
                    continue;
                }
                Err(error) => {
                    member.fail(Failure::Snapshot(Arc::new(error)));
                    let _ended = member.raft.shutdown().await;
                    return;
                }
            }
        }
        drop(member);
        progress.await;
    }
}

fn backlog(member: &Core) -> Backlog {
    let Some(last) = member.applied.last() else { return Backlog { entries: 0, bytes: 0, snapshot: 0 } };
    let newest = member.applied.snapshots().newest();
    let next = newest.as_ref().map_or(0, |meta| meta.last.index + 1);
    Backlog {
        entries: (last.index + 1).saturating_sub(next),
        bytes: member.log.bytes_from(next),
        snapshot: newest.map_or(0, |meta| meta.state_len),
    }
}

async fn take(member: &Core) -> Result<(), SnapshotError> {
    let began = rt::time::now();
    let Some((meta, state)) = member.applied.capture() else { return Ok(()) };
    let snapshots = member.applied.snapshots();
    snapshots.write(meta, &state).await?;
    member.meter.snapshot(began.elapsed());
    // The log stays behind the older one of the two that are kept: if the newest turns out to be damaged, the other and the
    // log give the same state. An error says that the member is ending.
    let kept = snapshots
        .oldest()
        .filter(|oldest| snapshots.newest().is_some_and(|newest| newest.last > oldest.last));
    if let Some(kept) = kept {
        let _purging = member.raft.trigger().purge_log(kept.last.index).await;
    }
    let _noted = member.raft.trigger().snapshot().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_due_when_they_are_worth_it() {
        let options = Options { snapshot_entries: 1000, snapshot_log_bytes: 10_000, ..Options::default() };
        // Entries, bytes of the log, bytes of the last snapshot.
        let table = [
            (0, 0, 0, false),
            (999, 9_999, 0, false),
            (1000, 1, 0, true),
            (1000, 249, 1000, false),
            (1000, 250, 1000, true),
            (1, 10_000, 0, true),
            (1, 10_000, 20_000, false),
            (1, 20_000, 20_000, true),
        ];
        for (entries, bytes, snapshot, due) in table {
            let backlog = Backlog { entries, bytes, snapshot };
            assert_eq!(is_due(backlog, &options), due, "{backlog:?}");
        }
    }
}
