//! One line of a file's map.

use super::{MemberSet, MemberState};
use crate::state::ids::{ChunkId, CsId, Version};

/// Entry is shared between files and immutable (a snapshot). Reserved.
const SHARED: u8 = 1;
/// Replicas may differ since the last holder's end: see [`ChunkEntry::is_unreconciled`].
const UNRECONCILED: u8 = 2;
/// Placed with all replicas on different hosts, and still so.
const ON_DISTINCT_HOSTS: u8 = 4;
/// Members lack blocks: see [`ChunkEntry::lacks_blocks`].
const LACKS_BLOCKS: u8 = 8;
const FLAGS: u8 = SHARED | UNRECONCILED | ON_DISTINCT_HOSTS | LACKS_BLOCKS;

/// A chunk of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    id: ChunkId,
    version: Version,
    members: MemberSet,
    /// [`ChunkId::ZERO`] for none.
    parent: ChunkId,
    index: u32,
    layout: u16,
    flags: u8,
}

const _: () = assert!(size_of::<ChunkEntry>() == 48, "the budget per chunk counts on 48 bytes");

/// The parts of an entry as they stand in a snapshot.
#[derive(Clone, Debug)]
pub(in crate::state) struct ChunkParts {
    pub(in crate::state) index: u32,
    pub(in crate::state) id: ChunkId,
    pub(in crate::state) version: Version,
    pub(in crate::state) members: MemberSet,
    pub(in crate::state) parent: ChunkId,
    pub(in crate::state) layout: u16,
    pub(in crate::state) flags: u8,
}

impl ChunkEntry {
    /// A chunk that was just allocated.
    pub(in crate::state) fn allocated(
        index: u32,
        id: ChunkId,
        version: Version,
        servers: &[CsId],
        distinct_hosts: bool,
    ) -> Self {
        let flags = if distinct_hosts { ON_DISTINCT_HOSTS } else { 0 };
        let members = MemberSet::creating(servers);
        Self { id, version, members, parent: ChunkId::ZERO, index, layout: 0, flags }
    }

    /// Which chunk of the file.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The chunk's id.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// Its version. It changes with the members, by a committed compare-and-swap (C7).
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its replicas.
    pub fn members(&self) -> &MemberSet {
        &self.members
    }

    /// The chunk it was cloned from. Reserved.
    pub fn parent(&self) -> Option<ChunkId> {
        (self.parent != ChunkId::ZERO).then_some(self.parent)
    }

    /// How it is laid out: 0 is plain replicas; others are reserved.
    pub fn layout(&self) -> u16 {
        self.layout
    }

    /// Belongs to a snapshot and never changes. Reserved.
    pub fn is_shared(&self) -> bool {
        self.flags & SHARED != 0
    }

    /// A lease ended without a flush while this chunk was in use: its replicas may differ, and nothing may read,
    /// rebuild, scrub or trim it before the reconciler has treated it (C5).
    pub fn is_unreconciled(&self) -> bool {
        self.flags & UNRECONCILED != 0
    }

    /// All replicas were placed on different hosts, and no chunk server has moved since to break that.
    pub fn is_on_distinct_hosts(&self) -> bool {
        self.flags & ON_DISTINCT_HOSTS != 0
    }

    /// A replica became a member without some blocks, because no member had them whole (C8). Whoever is away may have them: no replica
    /// goes that could be asked still.
    pub fn lacks_blocks(&self) -> bool {
        self.flags & LACKS_BLOCKS != 0
    }

    /// Every chosen chunk server has said that it holds the chunk (C9): it may be written.
    pub fn is_usable(&self) -> bool {
        self.members.count(MemberState::Creating) == 0
    }

    /// Members in the sense of the contract.
    pub fn in_sync(&self) -> impl Iterator<Item = CsId> {
        self.members.iter().filter(|member| member.state == MemberState::InSync).map(|member| member.cs)
    }

    /// The next version with other members.
    pub(in crate::state) fn change(&mut self, version: Version, members: MemberSet) {
        assert!(version > self.version, "versions only grow (C7)");
        (self.version, self.members) = (version, members);
        self.members.spread();
    }

    /// Members that have all that was acknowledged, as far as anybody can have it (C10).
    pub(in crate::state) fn remembering(&self) -> impl Iterator<Item = CsId> {
        let remembers = |member: &super::Member| member.state == MemberState::InSync && !member.forgetful;
        self.members.iter().filter(remembers).map(|member| member.cs)
    }

    /// A member may lack what was acknowledged, if that is not reconciled; whether that is new.
    pub(in crate::state) fn forget(&mut self, cs: CsId) -> bool {
        self.is_unreconciled() && self.members.forget(cs)
    }

    pub(in crate::state) fn members_mut(&mut self) -> &mut MemberSet {
        &mut self.members
    }

    pub(in crate::state) fn set_unreconciled(&mut self, on: bool) {
        self.set_flag(UNRECONCILED, on);
        if !on {
            self.members.remember();
        }
    }

    pub(in crate::state) fn set_lacks_blocks(&mut self, on: bool) {
        self.set_flag(LACKS_BLOCKS, on);
    }

    pub(in crate::state) fn set_on_distinct_hosts(&mut self, on: bool) {
        self.set_flag(ON_DISTINCT_HOSTS, on);
    }

    fn set_flag(&mut self, flag: u8, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    /// Takes the entry apart for a snapshot.
    pub(in crate::state) fn to_parts(&self) -> ChunkParts {
        let Self { id, version, members, parent, index, layout, flags } = self.clone();
        ChunkParts { index, id, version, members, parent, layout, flags }
    }

    /// Builds an entry from a snapshot; `None` if there is a flag this version does not know, or somebody is forgetful in a reconciled
    /// chunk.
    pub(in crate::state) fn from_parts(parts: ChunkParts) -> Option<Self> {
        let ChunkParts { index, id, version, members, parent, layout, flags } = parts;
        let makes_sense = flags & !FLAGS == 0 && (flags & UNRECONCILED != 0 || !members.is_any_forgetful());
        makes_sense.then_some(Self { id, version, members, parent, index, layout, flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c9_a_chunk_is_usable_when_all_have_created_it() {
        let servers = [CsId(1025), CsId(1026)];
        let mut entry = ChunkEntry::allocated(3, ChunkId::new(1, 1), Version::first(1), &servers, true);
        assert!(!entry.is_usable());
        entry.members_mut().set_state(CsId(1025), MemberState::InSync);
        assert!(!entry.is_usable());
        assert_eq!(entry.in_sync().collect::<Vec<_>>(), [CsId(1025)]);
        entry.members_mut().set_state(CsId(1026), MemberState::InSync);
        assert!(entry.is_usable());
    }

    #[test]
    fn flags_do_not_disturb_each_other() {
        let mut entry = ChunkEntry::allocated(0, ChunkId::new(1, 1), Version::first(1), &[CsId(1025)], true);
        entry.set_unreconciled(true);
        assert!(entry.is_unreconciled() && entry.is_on_distinct_hosts() && !entry.is_shared());
        entry.set_on_distinct_hosts(false);
        assert!(entry.is_unreconciled() && !entry.is_on_distinct_hosts());
        let parts = entry.to_parts();
        assert_eq!(ChunkEntry::from_parts(parts.clone()), Some(entry));
        assert_eq!(ChunkEntry::from_parts(ChunkParts { flags: 0x80, ..parts }), None);
    }

    #[test]
    fn c10_what_is_reconciled_is_remembered_by_all() {
        let cs = CsId(1025);
        let mut entry = ChunkEntry::allocated(0, ChunkId::new(1, 1), Version::first(1), &[cs], true);
        entry.members_mut().set_state(cs, MemberState::InSync);
        assert!(!entry.forget(cs), "it is reconciled");
        entry.set_unreconciled(true);
        assert_eq!(entry.remembering().collect::<Vec<_>>(), [cs]);
        assert!(entry.forget(cs));
        assert_eq!(entry.remembering().next(), None);
        let parts = entry.to_parts();
        assert_eq!(ChunkEntry::from_parts(parts.clone()).as_ref(), Some(&entry));
        assert_eq!(ChunkEntry::from_parts(ChunkParts { flags: 0, ..parts }), None);
        entry.set_unreconciled(false);
        assert_eq!(entry.remembering().next(), Some(cs));
    }
}
