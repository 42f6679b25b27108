//! What a set of runs must have met, so that "no violation" says something.

use cs_engine::engine::recovery::Row;

/// Faults of the simulator that whole clusters are not exposed to, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "kill.write-partial",
        "takes a kill in the middle of a large write; met by the chunk server's own simulation",
    ),
    ("net.timeout", "the connection layer gives a silent peer up long before TCP does"),
    ("net.connect-timeout", "the same"),
    (
        "net.window-full",
        "takes more bytes under way than a volume lets out; met by the tests of the executor",
    ),
];

/// A flush that fails because all members have lost acknowledged writes (C4).
pub const FLUSH_REFUSED: &str = "flush.refused";

/// The clocks of hosts run at rates of their own.
pub const CLOCKS_DRIFT: &str = "clocks.drift";

/// What operators, lost disks and sleeping clients do.
const BESIDES: &[&str] = &[
    "disk.lost",
    "disk.replaced",
    "disk.damaged-regions",
    "disk.full-while-away",
    "operator.gives-up",
    "operator.remove",
    "operator.revoke",
    "client.sleeps",
    "client.deleted-while-open",
    CLOCKS_DRIFT,
    "mds.replica-added",
    "mds.replica-removed",
    "mds.cs-dropped",
    "mds.replicas-compared",
    "cs.doubt-settled",
];

/// A chunk server that does not serve because a misdirected write destroyed its journal: too rare to be demanded.
pub const JOURNAL_REFUSED: &str = "journal.refused";

/// Names of faults, and of answers to them, that every larger set of runs meets.
pub fn required() -> impl Iterator<Item = &'static str> {
    faults().chain([FLUSH_REFUSED]).chain(BESIDES.iter().copied())
}

fn faults() -> impl Iterator<Item = &'static str> {
    let left_out = |name: &&str| LEFT_OUT.iter().any(|(other, _)| other == name);
    rt::sim::FAULTS.iter().copied().filter(move |name| !left_out(name))
}

/// Names of the rows of the chunk server's recovery table. Some take so rare a moment that only the chunk server's own
/// simulation (`cs-engine/tests/it/simulated.rs`) can be asked to meet all of them.
pub fn rows() -> impl Iterator<Item = &'static str> {
    Row::ALL.iter().map(|row| row.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_exists() {
        for (name, _) in LEFT_OUT {
            assert!(rt::sim::FAULTS.contains(name), "{name}");
        }
        assert_eq!(faults().count(), rt::sim::FAULTS.len() - LEFT_OUT.len());
    }
}
