//! Who may leave a chunk's members, and who becomes one: pure decisions (C3, C7).

use super::chunk::{MemberSet, MemberState};
use super::ids::CsId;

/// What a replica that leaves becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It may return by difference.
    Absent,
    /// It has nothing worth returning with.
    Failed,
}

impl Leaving {
    fn state(self) -> MemberState {
        match self {
            Self::Absent => MemberState::Absent,
            Self::Failed => MemberState::Failed,
        }
    }
}

/// The set without the replica on `gone`; `None` if it may not leave, or is not there to leave.
///
/// A member in sync leaves only if enough others remain: in sync, on chunk servers whose registration has not lapsed (C3).
pub(super) fn leave(
    set: &MemberSet,
    gone: CsId,
    how: Leaving,
    minimum: u8,
    is_alive: impl Fn(CsId) -> bool,
) -> Option<MemberSet> {
    let member = set.on(gone)?;
    let may = match member.state {
        MemberState::Joining => true,
        MemberState::InSync => alive(set, is_alive, Some(gone)) >= usize::from(minimum.max(1)),
        MemberState::Absent => how == Leaving::Failed,
        MemberState::Creating | MemberState::Stale | MemberState::Failed => false,
    };
    let mut left = set.clone();
    left.set_state(gone, how.state());
    may.then_some(left)
}

/// The set with the joiner on `ready` as a member. Members whose chunk servers have lapsed leave with the same command, if that
/// leaves enough: else a chunk whose second member failed while its first one returns would wait for both. `None` if it is no joiner.
pub(super) fn promote(
    set: &MemberSet,
    ready: CsId,
    minimum: u8,
    is_alive: impl Fn(CsId) -> bool,
) -> Option<MemberSet> {
    set.on(ready).filter(|member| member.state == MemberState::Joining)?;
    let mut promoted = set.clone();
    promoted.set_state(ready, MemberState::InSync);
    let lapsed: Vec<CsId> = promoted
        .iter()
        .filter(|member| member.state == MemberState::InSync && !is_alive(member.cs))
        .map(|member| member.cs)
        .collect();
    if alive(&promoted, &is_alive, None) >= usize::from(minimum.max(1)) {
        for cs in lapsed {
            promoted.set_state(cs, MemberState::Absent);
        }
    }
    Some(promoted)
}

/// Members in sync on chunk servers that are heard of, but for one.
fn alive(set: &MemberSet, is_alive: impl Fn(CsId) -> bool, but: Option<CsId>) -> usize {
    let counts = |member: &super::chunk::Member| {
        member.state == MemberState::InSync && Some(member.cs) != but && is_alive(member.cs)
    };
    set.iter().filter(counts).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::chunk::Member;

    /// Letters: in-sync members that are `a`live or `l`apsed; `j`oining, `x` joining and lapsed; a`b`sent, `s`tale, `f`ailed, `c`reating.
    fn set(letters: &str) -> MemberSet {
        MemberSet::new(letters.chars().enumerate().map(|(slot, letter)| Member {
            slot: slot as u8,
            cs: CsId(slot as u32),
            forgetful: false,
            state: match letter {
                'a' | 'l' => MemberState::InSync,
                'j' | 'x' => MemberState::Joining,
                'b' => MemberState::Absent,
                's' => MemberState::Stale,
                'f' => MemberState::Failed,
                _ => MemberState::Creating,
            },
        }))
    }

    fn show(set: &MemberSet) -> String {
        let letter = |member: Member| match member.state {
            MemberState::InSync => 'm',
            MemberState::Joining => 'j',
            MemberState::Absent => 'b',
            MemberState::Stale => 's',
            MemberState::Failed => 'f',
            MemberState::Creating => 'c',
        };
        set.iter().map(letter).collect()
    }

    #[test]
    fn c3_nobody_leaves_below_the_minimum() {
        let left = |letters: &str, gone: u32, how, minimum| {
            let alive = |cs: CsId| !matches!(letters.as_bytes()[cs.0 as usize], b'l' | b'x');
            leave(&set(letters), CsId(gone), how, minimum, alive).map(|set| show(&set))
        };
        use Leaving::{Absent, Failed};
        #[rustfmt::skip]
        let rows: &[(&str, u32, Leaving, u8, Option<&str>)] = &[
            ("aaa", 0, Absent, 2, Some("bmm")),
            ("aaa", 1, Failed, 2, Some("mfm")),
            ("aa",  0, Absent, 2, None),
            ("aa",  0, Absent, 1, Some("bm")),
            ("a",   0, Absent, 1, None),
            ("a",   0, Absent, 0, None),
            ("laa", 0, Absent, 2, Some("bmm")),
            // The other one has lapsed: it may never come back.
            ("al",  0, Absent, 1, None),
            ("ala", 0, Absent, 2, None),
            ("ala", 0, Absent, 1, Some("bmm")),
            // Joiners do not count, and always may leave.
            ("aj",  0, Absent, 1, None),
            ("aj",  1, Absent, 1, Some("mb")),
            ("ax",  1, Failed, 1, Some("mf")),
            ("ab",  1, Absent, 1, None),
            ("ab",  1, Failed, 1, Some("mf")),
            ("as",  1, Absent, 1, None),
            ("ac",  1, Absent, 1, None),
        ];
        for &(letters, gone, how, minimum, want) in rows {
            assert_eq!(left(letters, gone, how, minimum).as_deref(), want, "{letters} without {gone}");
        }
        assert_eq!(leave(&set("aa"), CsId(9), Absent, 1, |_| true), None);
    }

    #[test]
    fn c7_a_joiner_is_promoted_and_lapsed_members_leave_if_enough_remain() {
        let promoted = |letters: &str, ready: u32, minimum| {
            let alive = |cs: CsId| !matches!(letters.as_bytes()[cs.0 as usize], b'l' | b'x');
            promote(&set(letters), CsId(ready), minimum, alive).map(|set| show(&set))
        };
        #[rustfmt::skip]
        let rows: &[(&str, u32, u8, Option<&str>)] = &[
            ("aaj", 2, 2, Some("mmm")),
            ("alj", 2, 2, Some("mbm")),
            ("llj", 2, 2, Some("mmm")),
            ("llj", 2, 1, Some("bbm")),
            ("ajj", 1, 1, Some("mmj")),
            ("ab",  1, 1, None),
            ("aa",  1, 1, None),
        ];
        for &(letters, ready, minimum, want) in rows {
            assert_eq!(promoted(letters, ready, minimum).as_deref(), want, "{letters} with {ready}");
        }
    }
}
