//! What a replica is under its version, what it remembers for one that is away, and what it lacks itself (C6, C7):
//! decisions, not procedures.

use super::chunk::Chunk;
use super::regions::Regions;
use crate::format::record::{INSTALL_JOINER, INSTALL_JOINS, INSTALL_KEEPS, MAP_WORDS, Record, RecordKind};

/// A map of what changes while a replica is away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Changes {
    /// It names what changed in versions above this one; 0 = a joiner has yet to take over what a member knows.
    pub(crate) since: u64,
    pub(crate) regions: Regions,
}

/// How far a joiner is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filling {
    /// What is not missing is as of this version, and as of every later one if this is the chunk's own. 0 = it is new.
    pub(crate) held: u64,
    /// Counts how often the map of what is missing was made anew under this version: it only shrinks in between.
    pub(crate) round: u64,
    pub(crate) missing: Regions,
    /// Of the missing ones those that have been copied here but not flushed yet.
    pub(crate) copied: Regions,
    /// Of the missing ones those that are missing only because writes without records may have reached them: whatever
    /// matches its checksums is whole. Not recorded: after a restart they are simply missing.
    pub(crate) suspect: Regions,
    /// Bytes copied since the server started.
    pub(crate) bytes: u64,
}

impl Filling {
    pub(crate) fn new(held: u64, round: u64, missing: Regions) -> Self {
        Self { held, round, missing, copied: Regions::default(), suspect: Regions::default(), bytes: 0 }
    }
}

/// What makes a replica more than a plain member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// It is a joiner.
    pub(crate) filling: Option<Filling>,
    pub(crate) changes: Option<Changes>,
}

/// A change of version that the metadata server has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Install {
    /// Lowest version that the replica may have now.
    pub from: u64,
    /// The version it has afterwards.
    pub to: u64,
    /// It is a joiner afterwards.
    pub joiner: bool,
    /// Somebody is away: a map of what changes is kept.
    pub keep: bool,
}

/// What a replica has of its own when a version is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    /// Regions of its writes that are not known to be stable, of all epochs.
    pub(crate) listed: Regions,
    /// Regions of extents that were active when the host's last boot ended: what was acknowledged there may be gone.
    pub(crate) lost: Regions,
    /// Regions of extents that were active when the server was killed: there may be writes without records.
    pub(crate) suspect: Regions,
    /// All regions of the chunk.
    pub(crate) all: Regions,
}

/// What becomes of an order to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It was done before.
    Done,
    /// This is the replica's standing from now on.
    Take(Box<Standing>),
    /// It has a version that cannot become that one.
    OtherVersion,
    /// It is something else under that very version.
    OtherRole,
    /// It cannot be a member yet.
    NotFilled,
}

/// Decides about an order.
pub(crate) fn decide(version: u64, standing: &Standing, own: &Own, order: &Install) -> Decision {
    if version == order.to {
        return if standing.filling.is_some() == order.joiner { Decision::Done } else { Decision::OtherRole };
    }
    if version > order.to || version < order.from {
        return Decision::OtherVersion;
    }
    let standing = match (order.joiner, &standing.filling) {
        (true, filling) => join(version, filling.as_ref(), standing.changes.as_ref(), own, order.keep),
        (false, Some(filling)) if filling.held != version || !filling.missing.is_empty() => {
            return Decision::NotFilled;
        }
        (false, filling) => {
            let begun = Changes {
                since: version,
                // What was not stable when it joined is not all on its list: it can only say that anything may differ.
                regions: if filling.is_some() { own.all.clone() } else { own.listed.clone() },
            };
            let known = standing.changes.as_ref().filter(|changes| changes.since > 0);
            let mut changes = known.cloned().unwrap_or(begun);
            changes.regions.unite(&own.listed);
            Standing { filling: None, changes: order.keep.then_some(changes) }
        }
    };
    Decision::Take(Box::new(standing))
}

/// A replica begins to join. It may have been away, whatever it was: what it did alone counts for nothing.
fn join(
    version: u64,
    filling: Option<&Filling>,
    changes: Option<&Changes>,
    own: &Own,
    keep: bool,
) -> Standing {
    let mut missing = own.listed.clone();
    missing.unite(&own.lost);
    if let Some(filling) = filling {
        missing.unite(&filling.missing);
        missing.unite(&filling.copied);
        // What was copied may be of writes that only that member had, and it may be the one that is gone: all of them
        // are in the map that was taken over from it.
        match changes.filter(|changes| changes.since > 0) {
            Some(changes) => missing.unite(&changes.regions),
            None if filling.held == version => missing.unite(&own.all),
            None => {}
        }
    }
    let held = filling.map_or(version, |filling| filling.held);
    let regions = changes.filter(|_| filling.is_some()).map(|changes| changes.regions.clone());
    let changes = Changes { since: 0, regions: regions.unwrap_or_default() };
    let mut suspect = own.suspect.clone();
    suspect.subtract(&missing);
    missing.unite(&suspect);
    let filling = Filling { suspect, ..Filling::new(held, 0, missing) };
    Standing { filling: Some(filling), changes: keep.then_some(changes) }
}

impl Standing {
    /// A replica that was just made and lacks everything.
    pub(crate) fn new_joiner(blocks: u32) -> Self {
        let filling = Filling::new(0, 0, Regions::all(blocks));
        let changes = Changes { since: 0, regions: Regions::default() };
        Self { filling: Some(filling), changes: Some(changes) }
    }

    /// Whether a plain member needs nothing of it.
    pub(crate) fn is_plain(&self) -> bool {
        self.filling.is_none() && self.changes.is_none()
    }

    /// The record that says so of a chunk under its present version.
    pub(crate) fn record(&self, chunk: &Chunk) -> Record {
        self.record_of(chunk.id, chunk.file, chunk.version.get())
    }

    /// The record that says so.
    pub(crate) fn record_of(&self, chunk: u64, file: u64, version: u64) -> Record {
        let mut record = Record { chunk, file, version, ..Record::new(RecordKind::Install) };
        if let Some(changes) = &self.changes {
            record.first |= INSTALL_KEEPS;
            record.seq = changes.since;
            record.words.extend(changes.regions.words().flat_map(|(position, bits)| [position, bits]));
        }
        if let Some(filling) = &self.filling {
            record.first |= INSTALL_JOINER;
            (record.done, record.stable) = (filling.held, filling.round);
            let words = filling.missing.words();
            record.words.extend(words.flat_map(|(position, bits)| [MAP_WORDS + position, bits]));
        }
        record
    }

    /// What a record says; regions behind the end of a chunk of so many blocks are left out.
    fn of_record(record: &Record, blocks: u32) -> Self {
        let (mut changed, mut missing) = (Regions::default(), Regions::default());
        for entry in record.entries() {
            match entry[0].checked_sub(MAP_WORDS) {
                None => changed.add_word(entry[0], entry[1]),
                Some(position) => missing.add_word(position, entry[1]),
            }
        }
        let all = Regions::all(blocks);
        changed.intersect(&all);
        missing.intersect(&all);
        let filling = Filling::new(record.done, record.stable, missing);
        Self {
            filling: (record.first & INSTALL_JOINER != 0).then_some(filling),
            changes: (record.first & INSTALL_KEEPS != 0)
                .then_some(Changes { since: record.seq, regions: changed }),
        }
    }
}

/// What the journal says of one chunk's standing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) version: u64,
    pub(crate) standing: Standing,
}

/// Whether a record voids what was listed and marked of its chunk before.
pub(crate) fn joins(record: &Record) -> bool {
    record.kind == RecordKind::Install && record.first & INSTALL_JOINS != 0
}

impl Installed {
    /// Takes one more record of the chunk, in the order of the journal. The highest version counts. Under one version
    /// the same is told several times, and a checkpoint may tell late what it found early: maps of changes are united, and
    /// of what is missing in the same round remains what all name.
    pub(crate) fn replay(found: Option<Self>, record: &Record, blocks: u32) -> Self {
        let new = Self { version: record.version, standing: Standing::of_record(record, blocks) };
        let Some(mut known) = found.filter(|known| known.version >= new.version) else { return new };
        if known.version > new.version {
            return known;
        }
        let round = |standing: &Standing| standing.filling.as_ref().map_or(0, |filling| filling.round);
        let (older, newer) = (round(&known.standing), round(&new.standing));
        known.standing.changes = match (known.standing.changes.take(), new.standing.changes) {
            (Some(mut known), Some(new)) => {
                known.regions.unite(&new.regions);
                known.since = if newer > older { new.since } else { known.since };
                Some(known)
            }
            // Given up when a joiner found that no member keeps one.
            (None, None) => None,
            (known, new) => {
                if newer > older {
                    new
                } else {
                    known
                }
            }
        };
        known.standing.filling = match (known.standing.filling.take(), new.standing.filling) {
            (Some(_), Some(new)) if newer > older => Some(new),
            (Some(mut known), Some(new)) if newer == older => {
                known.missing.intersect(&new.missing);
                Some(known)
            }
            (known, new) => known.or(new),
        };
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: u32 = 64;

    fn regions(list: &[u32]) -> Regions {
        let mut regions = Regions::default();
        list.iter().for_each(|region| regions.add_blocks(&(region * 16..region * 16 + 1)));
        regions
    }

    fn member(changes: Option<(u64, &[u32])>) -> Standing {
        let changes = changes.map(|(since, list)| Changes { since, regions: regions(list) });
        Standing { filling: None, changes }
    }

    fn joiner(held: u64, missing: &[u32], changes: Option<(u64, &[u32])>) -> Standing {
        let filling = Filling::new(held, 0, regions(missing));
        Standing { filling: Some(filling), ..member(changes) }
    }

    /// A joiner that would have everything of its region 0 if nothing hides there.
    fn returner(held: u64, missing: &[u32], changes: Option<(u64, &[u32])>) -> Standing {
        let mut standing = joiner(held, missing, changes);
        standing.filling.iter_mut().for_each(|filling| filling.suspect = regions(&[0]));
        standing
    }

    fn own() -> Own {
        let (listed, suspect) = (regions(&[1]), regions(&[0, 1]));
        Own { listed, suspect, lost: Regions::default(), all: Regions::all(BLOCKS) }
    }

    #[test]
    fn every_order_has_its_outcome() {
        use Decision::{Done, NotFilled, OtherRole, OtherVersion};
        let take = |standing| Decision::Take(Box::new(standing));
        let order = |from, to, joiner, keep| Install { from, to, joiner, keep };
        let plain = || member(None);
        let all: &[u32] = &[0, 1, 2, 3];
        for (name, version, standing, order, expected) in [
            ("done before", 5, plain(), order(3, 5, false, true), Done),
            ("done before, a joiner", 5, joiner(2, &[1], None), order(3, 5, true, false), Done),
            ("another role", 5, plain(), order(3, 5, true, false), OtherRole),
            ("a joiner is no member", 5, joiner(5, &[], None), order(3, 5, false, false), OtherRole),
            ("too new", 6, plain(), order(3, 5, false, false), OtherVersion),
            ("too old", 2, plain(), order(3, 5, false, false), OtherVersion),
            ("nobody away", 4, plain(), order(3, 5, false, false), take(plain())),
            ("somebody leaves", 4, plain(), order(3, 5, false, true), take(member(Some((4, &[1]))))),
            (
                "one more leaves",
                4,
                member(Some((2, &[3]))),
                order(3, 5, false, true),
                take(member(Some((2, &[1, 3])))),
            ),
            ("all are back", 4, member(Some((2, &[3]))), order(3, 5, false, false), take(plain())),
            ("returns", 2, plain(), order(1, 5, true, false), take(returner(2, &[0, 1], None))),
            (
                "returns, one still away",
                2,
                plain(),
                order(1, 5, true, true),
                take(returner(2, &[0, 1], Some((0, &[])))),
            ),
            (
                "returns with a map of its own",
                2,
                member(Some((1, &[3]))),
                order(1, 5, true, true),
                take(returner(2, &[0, 1], Some((0, &[])))),
            ),
            (
                "joins again before it knew what it lacked",
                4,
                joiner(2, &[3], Some((0, &[2]))),
                order(1, 6, true, true),
                take(returner(2, &[0, 1, 3], Some((0, &[2])))),
            ),
            (
                "joins again after it copied without a map",
                4,
                joiner(4, &[3], None),
                order(1, 6, true, false),
                take(joiner(4, all, None)),
            ),
            (
                "joins again after it copied what a map names",
                4,
                joiner(4, &[0], Some((2, &[3]))),
                order(1, 6, true, false),
                take(joiner(4, &[0, 1, 3], None)),
            ),
            (
                "a new one joins again",
                4,
                joiner(0, all, None),
                order(1, 6, true, false),
                take(joiner(0, all, None)),
            ),
            ("promoted too early", 4, joiner(4, &[3], None), order(4, 5, false, false), NotFilled),
            (
                "promoted before it knew what it lacked",
                4,
                joiner(2, &[], None),
                order(4, 5, false, false),
                NotFilled,
            ),
            ("promoted", 4, joiner(4, &[], Some((2, &[3]))), order(4, 5, false, false), take(plain())),
            (
                "promoted, one away",
                4,
                joiner(4, &[], Some((2, &[3]))),
                order(4, 5, false, true),
                take(member(Some((2, &[1, 3])))),
            ),
            (
                "promoted, one leaves",
                4,
                joiner(4, &[], None),
                order(4, 5, false, true),
                take(member(Some((4, all)))),
            ),
            (
                "promoted without what the members knew",
                4,
                joiner(4, &[], Some((0, &[2]))),
                order(4, 5, false, true),
                take(member(Some((4, all)))),
            ),
        ] {
            assert_eq!(decide(version, &standing, &own(), &order), expected, "{name}");
        }
    }

    #[test]
    fn what_lost_its_power_is_missing_whatever_it_looks_like() {
        let own = Own { lost: regions(&[0, 2]), suspect: regions(&[0, 3]), ..own() };
        let order = Install { from: 1, to: 5, joiner: true, keep: false };
        let Decision::Take(standing) = decide(2, &member(None), &own, &order) else { panic!("it joins") };
        let filling = standing.filling.expect("a joiner");
        assert_eq!((filling.missing, filling.suspect), (regions(&[0, 1, 2, 3]), regions(&[3])));
    }

    #[test]
    fn a_standing_survives_its_record() {
        for standing in
            [member(None), member(Some((7, &[0, 3]))), joiner(3, &[2], None), joiner(0, &[], Some((0, &[1])))]
        {
            let record = standing.record_of(1, 2, 9);
            let mut bytes = vec![0; record.encoded_len()];
            record.encode(4096, &mut bytes);
            let (decoded, _) = Record::decode(&bytes, 4096).unwrap();
            let installed = Installed::replay(None, &decoded, BLOCKS);
            assert_eq!(installed, Installed { version: 9, standing });
        }
    }

    #[test]
    fn what_is_told_several_times_is_put_together() {
        let told = |list: &[(u64, Standing)]| {
            let records = list.iter().map(|(version, standing)| standing.record_of(1, 2, *version));
            records.fold(None, |found, record| Some(Installed::replay(found, &record, BLOCKS))).unwrap()
        };
        let round = |round, standing: Standing| {
            let filling = standing.filling.map(|filling| Filling { round, ..filling });
            Standing { filling, ..standing }
        };
        let is = |version, standing| Installed { version, standing };
        let map = |list| member(Some((3, list)));
        assert_eq!(told(&[(5, map(&[1])), (6, member(None))]), is(6, member(None)));
        assert_eq!(told(&[(6, member(None)), (5, map(&[1]))]), is(6, member(None)), "told late");
        assert_eq!(told(&[(5, map(&[1])), (5, map(&[2]))]), is(5, map(&[1, 2])));
        let missing = |list| joiner(3, list, None);
        assert_eq!(
            told(&[(5, missing(&[1, 2])), (5, missing(&[2])), (5, missing(&[1, 2]))]),
            is(5, missing(&[2]))
        );
        // The difference was taken: more is missing than before.
        let first = joiner(3, &[1], Some((0, &[0])));
        let second = round(1, joiner(5, &[1, 2, 3], Some((3, &[2, 3]))));
        let found = told(&[(5, first.clone()), (5, second.clone()), (5, first)]);
        let mut expected = second;
        expected.changes = Some(Changes { since: 3, regions: regions(&[0, 2, 3]) });
        assert_eq!(found, is(5, expected));
    }
}
