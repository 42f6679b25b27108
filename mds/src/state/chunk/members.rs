//! The replicas (or pieces) of one chunk, in 16 bytes for up to three of them.

use crate::state::ids::CsId;

/// The highest slot: 32 pieces of a stripe set.
pub const SLOT_MAX: u8 = 31;
/// How many members fit without a heap allocation.
const INLINE: usize = 3;

/// What one replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum MemberState {
    /// Chosen; the chunk server has not yet said that it holds the new chunk.
    Creating = 0,
    /// A member in the sense of the contract: holds everything that was acknowledged (C3).
    InSync = 1,
    /// Being filled; acknowledges writes, serves no reads, does not count (C7).
    Joining = 2,
    /// Holds old data: its chunk server was rolled back, copied or restored (C10). Serves nothing.
    Stale = 3,
    /// Lost or damaged on its chunk server for good. Serves nothing.
    Failed = 4,
    /// Left out while its chunk server could not be reached; returns by difference (C6). Serves nothing.
    Absent = 5,
}

impl MemberState {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Creating, Self::InSync, Self::Joining, Self::Stale, Self::Failed, Self::Absent];

    /// Reads the number of a state.
    pub fn from_raw(raw: u8) -> Option<Self> {
        Self::ALL.get(usize::from(raw)).copied()
    }
}

/// One replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Which piece of the stripe set, at most [`SLOT_MAX`]; the replica's number for plain replicas.
    pub slot: u8,
    /// Where it is.
    pub cs: CsId,
    /// What it is.
    pub state: MemberState,
    /// It may lack what was acknowledged and not flushed, or is not believed: its chunk server has lost its memory since, it is filled beside
    /// such a one, or has become a member since (C10). Of members and joiners only, and as long as nobody has reconciled the chunk.
    pub forgetful: bool,
}

/// [`MemberState::InSync`], and forgetful.
const FORGETFUL_MEMBER: u8 = 6;
/// [`MemberState::Joining`], and forgetful.
const FORGETFUL_JOINER: u8 = 7;

impl Member {
    /// State in the low three bits, slot above.
    pub(in crate::state) fn pack(self) -> u8 {
        assert!(self.slot <= SLOT_MAX, "a slot has five bits");
        let state = match (self.state, self.forgetful) {
            (MemberState::InSync, true) => FORGETFUL_MEMBER,
            (MemberState::Joining, true) => FORGETFUL_JOINER,
            (state, _) => state as u8,
        };
        state | self.slot << 3
    }

    /// Reads what [`Self::pack`] made of it.
    pub(in crate::state) fn unpack(cs: CsId, packed: u8) -> Option<Self> {
        let (state, forgetful) = match packed & 7 {
            FORGETFUL_MEMBER => (MemberState::InSync, true),
            FORGETFUL_JOINER => (MemberState::Joining, true),
            raw => (MemberState::from_raw(raw)?, false),
        };
        Some(Self { slot: packed >> 3, cs, state, forgetful })
    }

    fn may_be_forgetful(&self) -> bool {
        matches!(self.state, MemberState::InSync | MemberState::Joining)
    }
}

/// The replicas of a chunk, sorted by slot. At most one per chunk server.
#[derive(Clone, PartialEq, Eq)]
pub struct MemberSet(Repr);

#[derive(Clone, PartialEq, Eq)]
enum Repr {
    Inline(Inline),
    /// One pointer instead of the three words of a `Vec`.
    Spilled(Box<Spilled>),
}

#[derive(Clone, PartialEq, Eq)]
struct Inline {
    cs: [u32; INLINE],
    packed: [u8; INLINE],
    len: InlineLen,
}

#[derive(Clone, PartialEq, Eq)]
struct Spilled {
    members: Vec<Member>,
}

/// An enum and not a number: its unused values tell the compiler where to keep the tag of [`Repr`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum InlineLen {
    Zero,
    One,
    Two,
    Three,
}

const _: () = assert!(size_of::<MemberSet>() == 16, "the budget per chunk counts on 16 bytes");

impl MemberSet {
    /// Builds a set. Two members on one chunk server are our own bug.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Self {
        let mut members: Vec<Member> = members.into_iter().collect();
        for member in &mut members {
            member.forgetful &= member.may_be_forgetful();
        }
        members.sort_unstable();
        let distinct = members.iter().enumerate().all(|(i, a)| members[i + 1..].iter().all(|b| a.cs != b.cs));
        assert!(distinct, "two members on one chunk server: {members:?}");
        let len = match members.len() {
            0 => InlineLen::Zero,
            1 => InlineLen::One,
            2 => InlineLen::Two,
            3 => InlineLen::Three,
            _ => {
                members.shrink_to_fit();
                return Self(Repr::Spilled(Box::new(Spilled { members })));
            }
        };
        // Unused places are zero, so that equal sets are equal bytes.
        let mut inline = Inline { cs: [0; INLINE], packed: [0; INLINE], len };
        for (at, member) in members.into_iter().enumerate() {
            inline.cs[at] = member.cs.0;
            inline.packed[at] = member.pack();
        }
        Self(Repr::Inline(inline))
    }

    /// A set for a new chunk: slots in the order of `servers`, all still to be created.
    pub fn creating(servers: &[CsId]) -> Self {
        let slots = 0..=SLOT_MAX;
        assert!(servers.len() <= slots.len(), "more members than slots");
        let of = |(slot, cs): (u8, &CsId)| Member {
            slot,
            cs: *cs,
            state: MemberState::Creating,
            forgetful: false,
        };
        Self::new(slots.zip(servers).map(of))
    }

    /// How many there are, whatever their state.
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::Inline(inline) => inline.len as usize,
            Repr::Spilled(spilled) => spilled.members.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The members by slot.
    pub fn iter(&self) -> impl Iterator<Item = Member> {
        (0..self.len()).map(|at| match &self.0 {
            Repr::Inline(inline) => {
                Member::unpack(CsId(inline.cs[at]), inline.packed[at]).expect("only pack() writes these bits")
            }
            Repr::Spilled(spilled) => spilled.members[at],
        })
    }

    /// The member on this chunk server.
    pub fn on(&self, cs: CsId) -> Option<Member> {
        self.iter().find(|member| member.cs == cs)
    }

    /// How many are in this state.
    pub fn count(&self, state: MemberState) -> usize {
        self.iter().filter(|member| member.state == state).count()
    }

    /// Changes the state of the member on `cs`; returns the one before, `None` if there is no such member.
    pub fn set_state(&mut self, cs: CsId, state: MemberState) -> Option<MemberState> {
        let old = self.on(cs)?;
        let members =
            self.iter().map(|member| if member.cs == cs { Member { state, ..member } } else { member });
        *self = Self::new(members.collect::<Vec<_>>());
        Some(old.state)
    }

    /// Notes that a member or joiner may lack what was acknowledged, and with it all joiners, which may copy from it; whether anything is
    /// new.
    pub(in crate::state) fn forget(&mut self, cs: CsId) -> bool {
        // Most chunks are elsewhere.
        if !self.on(cs).is_some_and(|member| member.may_be_forgetful() && !member.forgetful) {
            return false;
        }
        let mark = |member: Member| Member { forgetful: member.forgetful || member.cs == cs, ..member };
        *self = Self::new(self.iter().map(mark).collect::<Vec<_>>());
        self.spread();
        true
    }

    /// Who is filled beside a forgetful member may have from it what it copies.
    pub(in crate::state) fn spread(&mut self) {
        if self.iter().any(|member| member.state == MemberState::InSync && member.forgetful) {
            let mark = |member: Member| Member {
                forgetful: member.forgetful || member.state == MemberState::Joining,
                ..member
            };
            *self = Self::new(self.iter().map(mark).collect::<Vec<_>>());
        }
    }

    /// Nobody is forgetful any more: all have the same.
    pub(in crate::state) fn remember(&mut self) {
        if self.is_any_forgetful() {
            *self = Self::new(
                self.iter().map(|member| Member { forgetful: false, ..member }).collect::<Vec<_>>(),
            );
        }
    }

    /// Whether somebody is forgetful.
    pub fn is_any_forgetful(&self) -> bool {
        self.iter().any(|member| member.forgetful)
    }

    /// Adds a member in the lowest slot that is free. There must be one: see [`Self::has_room`].
    pub fn add(&mut self, cs: CsId, state: MemberState) {
        let slot = (0..=SLOT_MAX).find(|slot| self.iter().all(|member| member.slot != *slot));
        let fresh = Member { slot: slot.expect("a free slot"), cs, state, forgetful: false };
        *self = Self::new(self.iter().chain([fresh]).collect::<Vec<_>>());
    }

    /// Whether there is a free slot.
    pub fn has_room(&self) -> bool {
        self.len() <= usize::from(SLOT_MAX)
    }

    /// Takes the member on `cs` out; whether there was one.
    pub fn remove(&mut self, cs: CsId) -> bool {
        let before = self.len();
        *self = Self::new(self.iter().filter(|member| member.cs != cs).collect::<Vec<_>>());
        self.len() < before
    }

    /// Puts `new` in the slot of `old`, to be created there. Returns whether `old` was a member.
    pub fn replace(&mut self, old: CsId, new: CsId) -> bool {
        let Some(gone) = self.on(old) else { return false };
        let fresh = Member { cs: new, state: MemberState::Creating, forgetful: false, ..gone };
        let rest = self.iter().filter(|member| member.cs != old).chain([fresh]);
        *self = Self::new(rest.collect::<Vec<_>>());
        true
    }
}

impl std::fmt::Debug for MemberSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(n: u32) -> Vec<CsId> {
        (0..n).map(|i| CsId(1025 + i)).collect()
    }

    #[test]
    fn sets_of_every_size_read_back() {
        for n in 0..=20 {
            let set = MemberSet::creating(&servers(n));
            assert_eq!(set.len(), n as usize);
            assert_eq!(set.is_empty(), n == 0);
            let want: Vec<_> = servers(n)
                .into_iter()
                .enumerate()
                .map(|(slot, cs)| Member {
                    slot: slot as u8,
                    cs,
                    state: MemberState::Creating,
                    forgetful: false,
                })
                .collect();
            assert_eq!(set.iter().collect::<Vec<_>>(), want);
            assert_eq!(set, MemberSet::new(want.into_iter().rev()), "the order of building does not matter");
        }
    }

    #[test]
    fn every_state_and_slot_is_kept() {
        for state in MemberState::ALL {
            for slot in 0..=SLOT_MAX {
                for forgetful in [false, true] {
                    let member = Member { slot, cs: CsId(u32::MAX), state, forgetful };
                    let kept = Member { forgetful: forgetful && member.may_be_forgetful(), ..member };
                    let set = MemberSet::new([member]);
                    assert_eq!(set.iter().next(), Some(kept));
                    assert_eq!(Member::unpack(kept.cs, kept.pack()), Some(kept));
                }
            }
        }
        assert_eq!(MemberState::from_raw(6), None);
    }

    #[test]
    fn c10_who_is_filled_beside_who_has_forgotten_has_forgotten() {
        let [a, b, c] = [CsId(1025), CsId(1026), CsId(1027)];
        let mut set = MemberSet::creating(&[a, b]);
        set.set_state(a, MemberState::InSync);
        set.set_state(b, MemberState::InSync);
        let forgetful = |set: &MemberSet| -> Vec<CsId> {
            set.iter().filter(|member| member.forgetful).map(|member| member.cs).collect()
        };
        set.add(c, MemberState::Joining);
        assert!(set.forget(a) && !set.forget(a));
        assert_eq!(forgetful(&set), [a, c], "it may copy from that one");
        set.set_state(c, MemberState::InSync);
        set.set_state(a, MemberState::Absent);
        assert_eq!(forgetful(&set), [c], "it stays so, and who has left counts for nothing");
        set.set_state(a, MemberState::Joining);
        set.spread();
        assert_eq!(forgetful(&set), [a, c]);
        set.remember();
        assert_eq!(forgetful(&set), []);
        assert!(!set.forget(CsId(7)), "it is not there");
    }

    #[test]
    fn states_change_one_by_one() {
        for n in [1, 3, 4] {
            let mut set = MemberSet::creating(&servers(n));
            assert_eq!(set.set_state(CsId(1025), MemberState::InSync), Some(MemberState::Creating));
            assert_eq!(set.set_state(CsId(7), MemberState::InSync), None);
            assert_eq!(set.count(MemberState::InSync), 1);
            assert_eq!(set.count(MemberState::Creating), n as usize - 1);
        }
    }

    #[test]
    fn a_replacement_takes_the_slot() {
        let mut set = MemberSet::creating(&servers(3));
        assert!(set.replace(CsId(1026), CsId(2000)));
        assert!(!set.replace(CsId(1026), CsId(2001)));
        assert_eq!(set.on(CsId(2000)).map(|member| member.slot), Some(1));
        assert_eq!(set.len(), 3);
    }

    #[test]
    fn members_come_and_go_and_slots_are_used_again() {
        for n in 0..=SLOT_MAX {
            let mut set = MemberSet::creating(&servers(u32::from(n)));
            assert!(set.has_room());
            set.add(CsId(7), MemberState::Joining);
            let added = Member { slot: n, cs: CsId(7), state: MemberState::Joining, forgetful: false };
            assert_eq!(set.on(CsId(7)), Some(added));
            assert_eq!(set.has_room(), n < SLOT_MAX);
            if n > 0 {
                assert!(set.remove(CsId(1025)) && !set.remove(CsId(1025)));
                set.add(CsId(8), MemberState::Joining);
                assert_eq!(set.on(CsId(8)).map(|member| member.slot), Some(0));
            }
        }
    }

    #[test]
    #[should_panic(expected = "two members on one chunk server")]
    fn never_two_on_one_chunk_server() {
        MemberSet::creating(&[CsId(1025), CsId(1025)]);
    }
}
