//! Bounded queues (C13): each important one tells its length by [`rt::sim::gauge`], and no run may see one longer than
//! it is meant to be.

use std::collections::BTreeMap;

use cs_engine::engine;
use cs_engine::format::CHUNK_BLOCKS_MAX;

/// Bytes that one answer or request takes at most besides its payload's window.
const ONE_MESSAGE: u64 = 2 << 20;

/// A queue and its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The name under which it tells its length.
    pub name: &'static str,
    /// How long it may become.
    pub most: u64,
    /// What it is.
    pub what: &'static str,
}

/// Every queue that is watched.
///
/// The limits of connections are those of [`link::Options::default`], under which all of them run.
#[must_use]
pub fn all() -> Vec<Queue> {
    let options = link::Options::default();
    let (requests, bytes) = (u64::from(options.limits.requests), options.limits.bytes);
    let queue = |name, most, what| Queue { name, most, what };
    vec![
        queue("link.requests-out", requests, "requests of one connection that wait for their answers"),
        queue(
            "link.requests-in",
            requests,
            "requests of one connection that are being served or wait for it",
        ),
        queue("link.request-bytes-in", bytes + ONE_MESSAGE, "their bytes"),
        queue(
            "link.queue-bytes",
            options.queue_bytes as u64 + bytes + ONE_MESSAGE,
            "bytes that wait to be sent on one connection: answers, and requests within the peer's window",
        ),
        // Those that are under way when the limit is met are listed, too.
        queue(
            "cs.unstable-writes",
            engine::UNSTABLE_MAX as u64 + 2 * requests,
            "writes of one file that are not stable, on a chunk server",
        ),
        queue(
            "cs.map-entries",
            2 * (engine::BLOCK_MAP_MAX + CHUNK_BLOCKS_MAX as usize) as u64,
            "blocks that the last checkpoint of a chunk server does not have",
        ),
        queue("cs.journal-percent", 100, "how full the journal of a chunk server is"),
        queue("mds.requests", 8192, "requests at the metadata server"),
        queue("mds.batch", 1024, "proposals in one entry of its log"),
    ]
}

/// What was longer than it may be, in words, and what was never told.
#[must_use]
pub fn judge(gauges: &BTreeMap<&'static str, u64>) -> Vec<String> {
    let mut findings = Vec::new();
    for Queue { name, most, what } in all() {
        match gauges.get(name) {
            Some(length) if *length <= most => {}
            Some(length) => findings.push(format!("C13: {name} was {length} and may be {most}: {what}")),
            None => findings.push(format!("C13: {name} never told its length: {what}")),
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_or_unknown_is_found() {
        let mut gauges: BTreeMap<_, _> = all().into_iter().map(|queue| (queue.name, queue.most)).collect();
        assert_eq!(judge(&gauges), Vec::<String>::new());
        gauges.insert("cs.journal-percent", 101);
        gauges.remove("mds.batch");
        let found = judge(&gauges);
        assert!(found.len() == 2 && found[0].contains("was 101 and may be 100"), "{found:?}");
    }
}
