//! What became of a block in a crash: a decision, not a procedure.
//!
//! The journal tells, newest first, what a block may have become since the last checkpoint; the table tells what it
//! was; the file tells what is there. [`decide`] puts the three together. What is chosen must be proved by the
//! content, unless the journal holds the newest content itself: the mark of what is durable lags on disk, and a
//! later write whose record was lost may have gone over one that was flushed.
//!
//! | row | newest candidates | the file's content | decision |
//! |---|---|---|---|
//! | [`Row::InPlaceNewest`] | in place | matches it | that write |
//! | [`Row::InPlaceOlder`] | in place, not durable | matches an older in-place write | the older write: the newer was never flushed |
//! | [`Row::Redo`] | in the journal | not looked at | redo it |
//! | [`Row::RedoUnder`] | in place, not durable, over one in the journal | matches that one | redo it: a checkpoint had moved it |
//! | [`Row::Base`] | in place, none durable | matches the table | as before |
//! | [`Row::BaseHole`] | in place, none durable | is zero; the table says hole | a hole, as before |
//! | [`Row::Overwritten`] | in place and durable | matches nothing as new | unknown: of a later write whose record was lost, or the device lost a flushed write |
//! | [`Row::Torn`] | in place, none durable | matches nothing | unknown: settle it with the other members (C5) |
//! | [`Row::NotArrived`] | in place, of a client, in the host's present boot | as of one of the four rows before with something older | unknown: under way when the server was killed, so that it is sent again, or the device lost it |
//! | [`Row::Unreadable`] | in place | cannot be read | unknown |
//!
//! As long as the host has not lost its memory, what a client was told of is in the file. So content that is older than
//! the newest record is not taken for what the block is: of a write that was answered it would be an older state, and nobody would
//! know (a device may have put the data elsewhere). What fills joiners and repairs blocks is begun anew by itself.

use crate::format::block::{BlockState, StoredCrc};

/// What a record says a block became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// Written in place beside the record.
    InPlace {
        /// LSN of the record.
        lsn: u64,
        /// Checksum of the content.
        crc: StoredCrc,
        /// It was copied from a member: nobody was told of it.
        copied: bool,
    },
    /// Content in the journal, or a hole.
    Redo {
        /// LSN of the record.
        lsn: u64,
        /// Checksum of the content; `None` for a hole.
        crc: Option<StoredCrc>,
    },
}

/// Plain CRC32C of a block of zeroes.
pub const ZEROES: u32 = 0x98F9_4189;

/// Which line of the table applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the table above documents each")]
pub enum Row {
    InPlaceNewest,
    InPlaceOlder,
    Redo,
    RedoUnder,
    Base,
    BaseHole,
    Overwritten,
    Torn,
    NotArrived,
    Unreadable,
}

impl Row {
    /// Every row.
    pub const ALL: [Self; 10] = [
        Self::InPlaceNewest,
        Self::InPlaceOlder,
        Self::Redo,
        Self::RedoUnder,
        Self::Base,
        Self::BaseHole,
        Self::Overwritten,
        Self::Torn,
        Self::NotArrived,
        Self::Unreadable,
    ];

    /// Name in the simulator's coverage table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InPlaceNewest => "recovery.in_place_newest",
            Self::InPlaceOlder => "recovery.in_place_older",
            Self::Redo => "recovery.redo",
            Self::RedoUnder => "recovery.redo_under",
            Self::Base => "recovery.base",
            Self::BaseHole => "recovery.base_hole",
            Self::Overwritten => "recovery.overwritten",
            Self::Torn => "recovery.torn",
            Self::NotArrived => "recovery.not_arrived",
            Self::Unreadable => "recovery.unreadable",
        }
    }
}

/// What the block is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The candidate with this index.
    Candidate(usize),
    /// What the table says.
    Base,
    /// Nobody here can tell.
    Unknown,
}

/// What the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// This plain CRC32C.
    Plain(u32),
    /// The device could not read it.
    Unreadable,
}

/// Whether [`decide`] needs the file's content: not when the newest candidate is redone from the journal.
#[must_use]
pub fn needs_content(candidates: &[Candidate]) -> bool {
    matches!(candidates.first(), Some(Candidate::InPlace { .. }))
}

/// What is known of the crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    /// The LSN below which records and the in-place data that belongs to them are known to have been flushed.
    pub durable: u64,
    /// The host has kept its memory: it is in the boot in which the server ran last.
    pub kept: bool,
}

/// Decides what a block is. `candidates` are newest first and not empty.
#[must_use]
pub fn decide(
    candidates: &[Candidate],
    base: BlockState,
    content: Content,
    crash: Crash,
    matches: impl Fn(StoredCrc, u32) -> bool,
) -> (Decision, Row) {
    let (decision, row) = newest_that_is_there(candidates, base, content, crash.durable, matches);
    let newer = match decision {
        Decision::Candidate(index) => &candidates[..index],
        Decision::Base => candidates,
        Decision::Unknown => &[],
    };
    let is_told = |candidate: &Candidate| matches!(candidate, Candidate::InPlace { copied: false, .. });
    if crash.kept && newer.iter().any(is_told) {
        return (Decision::Unknown, Row::NotArrived);
    }
    (decision, row)
}

fn newest_that_is_there(
    candidates: &[Candidate],
    base: BlockState,
    content: Content,
    durable: u64,
    matches: impl Fn(StoredCrc, u32) -> bool,
) -> (Decision, Row) {
    if let Some(Candidate::Redo { .. }) = candidates.first() {
        return (Decision::Candidate(0), Row::Redo);
    }
    let Content::Plain(plain) = content else { return (Decision::Unknown, Row::Unreadable) };
    for (index, candidate) in candidates.iter().enumerate() {
        match *candidate {
            Candidate::Redo { crc, .. } if crc.map_or(plain == ZEROES, |crc| matches(crc, plain)) => {
                return (Decision::Candidate(index), Row::RedoUnder);
            }
            // What lies below it is older still.
            Candidate::Redo { .. } => return (Decision::Unknown, Row::Torn),
            Candidate::InPlace { crc, .. } if matches(crc, plain) => {
                let row = if index == 0 { Row::InPlaceNewest } else { Row::InPlaceOlder };
                return (Decision::Candidate(index), row);
            }
            Candidate::InPlace { lsn, .. } if lsn < durable => return (Decision::Unknown, Row::Overwritten),
            Candidate::InPlace { .. } => {}
        }
    }
    match base {
        BlockState::Hole if plain == ZEROES => (Decision::Base, Row::BaseHole),
        BlockState::Data(crc) if matches(crc, plain) => (Decision::Base, Row::Base),
        _ => (Decision::Unknown, Row::Torn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc(plain: u32) -> StoredCrc {
        StoredCrc::of_plain(plain, 1, 1)
    }

    fn in_place(lsn: u64, plain: u32) -> Candidate {
        Candidate::InPlace { lsn, crc: crc(plain), copied: false }
    }

    #[test]
    fn every_row_of_the_table() {
        let redo = Candidate::Redo { lsn: 5, crc: Some(crc(7)) };
        let hole = Candidate::Redo { lsn: 5, crc: None };
        let data = BlockState::Data(crc(1));
        let c = |index| Decision::Candidate(index);
        let unknown = Decision::Unknown;
        let plain = Content::Plain;
        #[expect(clippy::type_complexity, reason = "a table")]
        #[rustfmt::skip]
        let rows: &[(&[Candidate], BlockState, Content, u64, Decision, Row)] = &[
            (&[in_place(9, 3)],                 data, plain(3), 0, c(0), Row::InPlaceNewest),
            (&[in_place(9, 3)],                 data, plain(3), 99, c(0), Row::InPlaceNewest),
            (&[in_place(9, 3), in_place(7, 2)], data, plain(2), 0, c(1), Row::InPlaceOlder),
            (&[in_place(9, 3), in_place(7, 2)], data, plain(2), 9, c(1), Row::InPlaceOlder),
            (&[in_place(9, 3), in_place(7, 2)], data, plain(2), 10, unknown, Row::Overwritten),
            (&[in_place(9, 3), in_place(7, 2)], data, plain(1), 8, unknown, Row::Overwritten),
            (&[redo],                           data, plain(8), 0, c(0), Row::Redo),
            (&[hole],                           data, plain(8), 0, c(0), Row::Redo),
            (&[redo, in_place(3, 3)],           data, Content::Unreadable, 99, c(0), Row::Redo),
            (&[in_place(9, 3), redo],           data, plain(7), 0, c(1), Row::RedoUnder),
            (&[in_place(9, 3), redo],           data, plain(7), 10, unknown, Row::Overwritten),
            // The write at 9 may have been flushed, and gone over by one without a record.
            (&[in_place(9, 3), redo],           data, plain(8), 0, unknown, Row::Torn),
            (&[in_place(9, 3), redo],           data, plain(1), 0, unknown, Row::Torn),
            (&[in_place(9, 3), hole],           data, plain(ZEROES), 0, c(1), Row::RedoUnder),
            (&[in_place(9, 3), hole],           data, plain(8), 0, unknown, Row::Torn),
            (&[in_place(9, 3)],                 data, plain(1), 0, Decision::Base, Row::Base),
            (&[in_place(9, 3)],                 data, plain(1), 10, unknown, Row::Overwritten),
            (&[in_place(9, 3)],                 BlockState::Hole, plain(ZEROES), 0, Decision::Base, Row::BaseHole),
            (&[in_place(9, 3)],                 BlockState::Hole, plain(8), 0, unknown, Row::Torn),
            (&[in_place(9, 3)],                 BlockState::Hole, plain(ZEROES), 10, unknown, Row::Overwritten),
            // Without checksums nothing is written in place.
            (&[in_place(9, 3)],                 BlockState::Unchecked, plain(8), 0, unknown, Row::Torn),
            (&[in_place(9, 3)],                 data, plain(8), 0, unknown, Row::Torn),
            (&[in_place(9, 3)],                 BlockState::Unknown, plain(8), 0, unknown, Row::Torn),
            (&[in_place(9, 3)],                 BlockState::Unknown, plain(3), 0, c(0), Row::InPlaceNewest),
            (&[in_place(9, 3)],                 data, Content::Unreadable, 0, unknown, Row::Unreadable),
            (&[in_place(9, 3), redo],           data, Content::Unreadable, 0, unknown, Row::Unreadable),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for (number, (candidates, base, content, durable, decision, row)) in rows.iter().enumerate() {
            let found = |kept| {
                let crash = Crash { durable: *durable, kept };
                decide(candidates, *base, *content, crash, |crc, plain| crc.matches(plain, 1, 1))
            };
            assert_eq!(found(false), (*decision, *row), "line {number}");
            seen.insert(row.name());
            let older = matches!(row, Row::InPlaceOlder | Row::RedoUnder | Row::Base | Row::BaseHole);
            let expected = if older { (unknown, Row::NotArrived) } else { (*decision, *row) };
            assert_eq!(found(true), expected, "line {number}, and the host has kept its memory");
            seen.insert(found(true).1.name());
        }
        assert_eq!(seen.len(), Row::ALL.len(), "a row of the table has no line here");
    }

    #[test]
    fn what_was_copied_is_copied_again() {
        let copied = Candidate::InPlace { lsn: 9, crc: crc(3), copied: true };
        let data = BlockState::Data(crc(1));
        let found = |candidates: &[Candidate], plain| {
            let crash = Crash { durable: 0, kept: true };
            decide(candidates, data, Content::Plain(plain), crash, |crc, plain| crc.matches(plain, 1, 1)).1
        };
        assert_eq!(found(&[copied], 1), Row::Base);
        assert_eq!(found(&[copied, in_place(7, 2)], 2), Row::InPlaceOlder);
        assert_eq!(found(&[copied, in_place(7, 2)], 1), Row::NotArrived, "a client was told of the one at 7");
    }

    #[test]
    fn zeroes_have_this_checksum() {
        assert_eq!(crate::format::crc32c(&[0; crate::format::BLOCK]), ZEROES);
    }

    /// Whatever happens, a decision is never older than the newest durable record.
    #[test]
    fn nothing_durable_is_rolled_back() {
        for durable in 0..12 {
            for content in 0..5 {
                let redo = Candidate::Redo { lsn: 5, crc: Some(crc(4)) };
                let candidates = [in_place(9, 3), in_place(7, 2), redo];
                let (decision, _) = decide(
                    &candidates,
                    BlockState::Data(crc(1)),
                    Content::Plain(content),
                    Crash { durable, kept: false },
                    |crc, plain| crc.matches(plain, 1, 1),
                );
                let lsn = match decision {
                    Decision::Candidate(0) => 9,
                    Decision::Candidate(1) => 7,
                    Decision::Candidate(_) => 5,
                    Decision::Base => 0,
                    Decision::Unknown => continue,
                };
                let newest_durable = [9, 7, 5].into_iter().find(|&lsn| lsn < durable).unwrap_or(0);
                assert!(lsn >= newest_durable, "durable {durable}, content {content}: chose {lsn}");
            }
        }
    }
}
