//! What a chunk's replicas lack, and what is too many: a pure decision (guide 5.3.2; C3, C6, C7, C9).
//!
//! It is asked again after every step, until there is nothing left to do.

use super::attrs::Replicas;
use super::chunk::MemberState;
use super::command::ReplicaPlace;
use super::ids::{CsId, FileId, Version};

/// How a chunk server stands, as far as the place of replicas goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Footing {
    /// It serves, and is to stay.
    Firm,
    /// It is not heard of, but may soon be back; or it has just come, and does not serve yet.
    Away,
    /// It serves, and is to be emptied.
    Leaving,
    /// It is offline, or nobody knows it.
    Gone,
}

/// One replica, or one that is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replica {
    /// Where it is.
    pub(super) cs: CsId,
    /// What it is; [`MemberState::Creating`] for one that is to join when its chunk server has made it.
    pub(super) state: MemberState,
    /// How its chunk server stands.
    pub(super) footing: Footing,
    /// How much better it would be elsewhere, if one has to go.
    pub(super) burden: u64,
    /// It may have blocks that members lack: it does not go.
    pub(super) kept: bool,
}

impl Replica {
    /// Whether it counts or will, so that no other one comes to its host.
    pub(super) fn keeps_place(&self) -> bool {
        !matches!(self.state, MemberState::Stale | MemberState::Failed)
            && !matches!(self.footing, Footing::Gone | Footing::Leaving)
    }
}

/// How much depends on a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Writes wait, or one more failure loses data.
    Endangered,
    /// Fewer replicas than wanted.
    Degraded,
    /// Nothing is missing: what is too many takes space.
    Surplus,
}

/// What the leader can do about a chunk's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedStep {
    /// Have more made.
    Add {
        /// How many.
        count: u8,
        /// How much depends on it.
        urgency: Urgency,
    },
    /// Have one removed.
    Remove {
        /// Where.
        cs: CsId,
    },
}

/// A step for one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaStep {
    /// The file.
    pub file: FileId,
    /// Which of its chunks.
    pub index: u32,
    /// Its version when this was decided.
    pub version: Version,
    /// What to do.
    pub step: PlannedStep,
}

impl ReplicaStep {
    /// As a command names a replica of its chunk on a chunk server.
    pub fn place(&self, cs: CsId) -> ReplicaPlace {
        ReplicaPlace { file: self.file.raw(), index: self.index, version: self.version.raw(), cs: cs.0 }
    }

    /// How much depends on it.
    pub fn urgency(&self) -> Urgency {
        match self.step {
            PlannedStep::Add { urgency, .. } => urgency,
            PlannedStep::Remove { .. } => Urgency::Surplus,
        }
    }
}

/// The next step towards what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// So many more replicas are to be made.
    More(u8, Urgency),
    /// The replica there is to go.
    Less(CsId),
}

/// What is to be done next about these replicas; `None` if nothing is, or nothing can be now.
///
/// `hurry` says that whoever is away is not waited for: too few are left to write to.
pub(super) fn need(replicas: &[Replica], wanted: Replicas, hurry: bool) -> Option<Need> {
    use Footing::{Away, Firm, Gone, Leaving};
    use MemberState::{Absent, Creating, Failed, InSync, Joining, Stale};
    let count = |is: &dyn Fn(MemberState, Footing) -> bool| {
        replicas.iter().filter(|replica| is(replica.state, replica.footing)).count()
    };
    let first = |is: &dyn Fn(MemberState, Footing) -> bool| {
        let found = replicas.iter().find(|replica| is(replica.state, replica.footing));
        found.map(|replica| Need::Less(replica.cs))
    };
    // What is only to be made can be made elsewhere as well.
    if let Some(useless) = first(&|state, footing| state == Creating && matches!(footing, Gone | Leaving)) {
        return Some(useless);
    }
    let normal = usize::from(wanted.normal);
    let sources = count(&|state, footing| state == InSync && matches!(footing, Firm | Leaving));
    // It has nothing, and keeps the place from one that would have.
    if sources > 0
        && let Some(lost) = first(&|state, footing| state == Failed && footing == Firm)
    {
        return Some(lost);
    }
    let firm = count(&|state, footing| state == InSync && footing == Firm);
    let coming = |footing| footing == Firm || (footing == Away && !hurry);
    let expected = count(&|state, footing| match state {
        InSync => coming(footing),
        Joining | Creating | Absent => coming(footing),
        Stale | Failed => false,
    });
    if expected < normal {
        let urgency = if sources < usize::from(wanted.minimum) || sources <= 1 {
            Urgency::Endangered
        } else {
            Urgency::Degraded
        };
        // At most 15 are wanted. Nothing can be copied from nobody.
        return (sources > 0).then_some(Need::More((normal - expected) as u8, urgency));
    }
    if firm < normal {
        return None;
    }
    // As many as wanted are where they are to stay: the others have no use any more.
    let useless = |state, footing| match state {
        Stale | Failed | Absent => true,
        InSync => matches!(footing, Gone | Leaving),
        Joining => footing != Firm,
        Creating => false,
    };
    let mut spared = replicas.iter().filter(|replica| !replica.kept);
    if let Some(replica) = spared.find(|replica| useless(replica.state, replica.footing)) {
        return Some(Need::Less(replica.cs));
    }
    if firm == normal {
        return None;
    }
    let movable = replicas.iter().filter(|r| !r.kept && (r.state, r.footing) == (InSync, Firm));
    movable.max_by_key(|replica| (replica.burden, replica.cs)).map(|replica| Need::Less(replica.cs))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two letters per replica, the first one in capitals if it is kept. Members in s`y`nc, `j`oining, `a`bsent, `s`tale, `f`ailed, to be `c`reated; on a chunk server that
    /// is `+` firm, `~` away, `>` leaving, `-` gone. A digit is the burden.
    fn replicas(text: &str) -> Vec<Replica> {
        let one = |(n, word): (usize, &str)| {
            let letters = word.as_bytes();
            Replica {
                cs: CsId(n as u32),
                kept: letters[0].is_ascii_uppercase(),
                state: match letters[0].to_ascii_lowercase() {
                    b'y' => MemberState::InSync,
                    b'j' => MemberState::Joining,
                    b'a' => MemberState::Absent,
                    b's' => MemberState::Stale,
                    b'f' => MemberState::Failed,
                    _ => MemberState::Creating,
                },
                footing: match letters[1] {
                    b'+' => Footing::Firm,
                    b'~' => Footing::Away,
                    b'>' => Footing::Leaving,
                    _ => Footing::Gone,
                },
                burden: letters.get(2).map_or(0, |digit| u64::from(digit - b'0')),
            }
        };
        text.split_whitespace().enumerate().map(one).collect()
    }

    #[test]
    fn the_table_of_needs() {
        use Need::{Less, More};
        use Urgency::{Degraded, Endangered};
        /// Replicas, how many are wanted, the minimum, what is needed, and what in a hurry.
        type Row = (&'static str, u8, u8, Option<Need>, Option<Need>);
        #[rustfmt::skip]
        let rows: &[Row] = &[
            ("y+ y+ y+",       3, 2, None,                        None),
            // Whoever is away for a short time is waited for, unless writes wait.
            ("y+ y+ y~",       3, 2, None,                        Some(More(1, Degraded))),
            ("y+ y~",          2, 2, None,                        Some(More(1, Endangered))),
            ("y+ y+ a~",       3, 2, None,                        Some(More(1, Degraded))),
            // Returns by difference.
            ("y+ y+ a+",       3, 2, None,                        None),
            ("y+ y+ j+",       3, 2, None,                        None),
            // Gone.
            ("y+ y+ y-",       3, 2, Some(More(1, Degraded)),     Some(More(1, Degraded))),
            ("y+ y+ a-",       3, 2, Some(More(1, Degraded)),     Some(More(1, Degraded))),
            ("y+ y-",          2, 1, Some(More(1, Endangered)),   Some(More(1, Endangered))),
            ("y+ y- y-",       3, 2, Some(More(2, Endangered)),   Some(More(2, Endangered))),
            ("y+ s+ s+",       3, 2, Some(More(2, Endangered)),   Some(More(2, Endangered))),
            // What has nothing makes place first.
            ("y+ s+ f+",       3, 2, Some(Less(CsId(2))),         Some(Less(CsId(2)))),
            ("y+ y+ f+",       3, 2, Some(Less(CsId(2))),         Some(Less(CsId(2)))),
            ("y+ y+ f~",       3, 2, Some(More(1, Degraded)),     Some(More(1, Degraded))),
            // Nobody to copy from.
            ("y- y-",          2, 1, None,                        None),
            ("y~ y-",          2, 1, None,                        None),
            ("s+ f+",          2, 1, None,                        None),
            // Under way.
            ("y+ y- c+",       2, 1, None,                        None),
            ("y+ y- j+",       2, 1, None,                        None),
            // Whoever has just registered again makes it in a moment.
            ("y+ y- c~",       2, 1, None,                        Some(More(1, Endangered))),
            ("y+ y- c>",       2, 1, Some(Less(CsId(2))),         Some(Less(CsId(2)))),
            ("y+ y- c-",       2, 1, Some(Less(CsId(2))),         Some(Less(CsId(2)))),
            ("y+ y- j~",       2, 1, None,                        Some(More(1, Endangered))),
            ("y+ y- j-",       2, 1, Some(More(1, Endangered)),   Some(More(1, Endangered))),
            // Done: what was lost is given up, wherever it is.
            ("y+ y- y+",       2, 1, Some(Less(CsId(1))),         Some(Less(CsId(1)))),
            ("y+ a- y+",       2, 1, Some(Less(CsId(1))),         Some(Less(CsId(1)))),
            ("y+ a+ y+",       2, 1, Some(Less(CsId(1))),         Some(Less(CsId(1)))),
            ("y+ s+ y+",       2, 1, Some(Less(CsId(1))),         Some(Less(CsId(1)))),
            ("y+ f~ y+",       2, 1, Some(Less(CsId(1))),         Some(Less(CsId(1)))),
            ("y+ y~ y+",       2, 1, None,                        None),
            ("y+ j- y+",       2, 1, Some(Less(CsId(1))),         Some(Less(CsId(1)))),
            // Emptying a server: first the other replica, then this one goes.
            ("y+ y>",          2, 1, Some(More(1, Degraded)),     Some(More(1, Degraded))),
            ("y>",             1, 1, Some(More(1, Endangered)),   Some(More(1, Endangered))),
            ("y+ y> j+",       2, 1, None,                        None),
            ("y+ y> y+",       2, 1, Some(Less(CsId(1))),         Some(Less(CsId(1)))),
            ("y+ a> y+",       2, 1, Some(Less(CsId(1))),         Some(Less(CsId(1)))),
            // Fewer are wanted: whoever carries most goes.
            ("y+1 y+3 y+2",    2, 1, Some(Less(CsId(1))),         Some(Less(CsId(1)))),
            ("y+1 y+1 y+1",    1, 1, Some(Less(CsId(2))),         Some(Less(CsId(2)))),
            // A move: the new one is filled first.
            ("y+3 y+ j+",      2, 1, None,                        None),
            ("y+3 y+ c+",      2, 1, None,                        None),
            ("y+3 y+ y+",      2, 1, Some(Less(CsId(0))),         Some(Less(CsId(0)))),
            // Members lack blocks that others may have.
            ("Y+ Y+ Y+",       2, 1, None,                        None),
            ("Y+ Y+ A+",       2, 1, None,                        None),
            ("Y+ Y+ A-",       2, 1, None,                        None),
            ("Y+ Y> Y+",       2, 1, None,                        None),
            ("Y+ Y- Y+",       2, 1, None,                        None),
            ("Y+ y- Y+",       2, 1, Some(Less(CsId(1))),         Some(Less(CsId(1)))),
            ("Y+ f+ Y+",       2, 1, Some(Less(CsId(1))),         Some(Less(CsId(1)))),
            ("Y+ s+ Y+",       2, 1, Some(Less(CsId(1))),         Some(Less(CsId(1)))),
            ("Y+ A-",          2, 1, Some(More(1, Endangered)),   Some(More(1, Endangered))),
            ("Y+3 y+ Y+",      2, 1, Some(Less(CsId(1))),         Some(Less(CsId(1)))),
            // More are wanted.
            ("y+",             3, 2, Some(More(2, Endangered)),   Some(More(2, Endangered))),
            ("y+ y+",          3, 2, Some(More(1, Degraded)),     Some(More(1, Degraded))),
        ];
        for (text, normal, minimum, calm, hurried) in rows {
            let wanted = Replicas { normal: *normal, minimum: *minimum };
            assert_eq!(need(&replicas(text), wanted, false), *calm, "{text} of {normal}:{minimum}");
            assert_eq!(
                need(&replicas(text), wanted, true),
                *hurried,
                "{text} of {normal}:{minimum}, hurried"
            );
        }
    }

    #[test]
    fn c9_nobody_goes_unless_enough_stay() {
        // Every set of up to four replicas.
        let states = ['y', 'j', 'a', 's', 'f', 'c'];
        let footings = ['+', '~', '>', '-'];
        let kinds = states.len() * footings.len();
        let word =
            |kind: usize| format!("{}{}", states[kind / footings.len()], footings[kind % footings.len()]);
        for number in 0..kinds.pow(4) {
            let text =
                (0..4).map(|place| word(number / kinds.pow(place) % kinds)).collect::<Vec<_>>().join(" ");
            let all = replicas(&text);
            for (normal, minimum) in [(1, 1), (2, 1), (3, 2)] {
                let wanted = Replicas { normal, minimum };
                let Some(Need::Less(gone)) = need(&all, wanted, false) else { continue };
                let stay = all.iter().filter(|replica| {
                    replica.cs != gone
                        && (replica.state, replica.footing) == (MemberState::InSync, Footing::Firm)
                });
                let has_nothing = [MemberState::Creating, MemberState::Failed];
                let is_held = all.iter().any(|r| r.cs == gone && !has_nothing.contains(&r.state));
                assert!(!is_held || stay.count() >= usize::from(normal), "{text} of {normal}: {gone}");
            }
        }
    }
}
