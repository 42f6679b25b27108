//! What state a chunk, and the cluster, is in (guide 5.1, 5.3.2).

use super::attrs::Replicas;
use super::chunk::{ChunkEntry, MemberState};
use super::command::CsState;
use super::ids::CsId;
use std::fmt;

/// The state of a chunk, as the operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChunkHealth {
    /// As many active replicas as wanted.
    Healthy,
    /// As many as wanted, but some on inactive chunk servers that may soon be back.
    Standby,
    /// Fewer than wanted, not fewer than the minimum.
    Degraded,
    /// Degraded, and a replica that no longer counts holds older data.
    Urgent,
    /// Fewer active replicas than the minimum: writes wait (C3), reads go on. Or only a replica that is away has all that was
    /// acknowledged: what is in doubt waits for it (C10).
    Blocked,
    /// Blocked, and nobody is waited for any more: it is replicated before all others.
    Pending,
    /// No replica can be reached: reads wait too.
    Offline,
    /// A replica is being filled (C7).
    Replicating,
    /// More replicas than wanted.
    Overcommitted,
    /// Allocated, and not yet created everywhere.
    Void,
}

impl ChunkHealth {
    /// All states, in the order in which they are shown.
    pub const ALL: [Self; 10] = [
        Self::Healthy,
        Self::Standby,
        Self::Degraded,
        Self::Urgent,
        Self::Blocked,
        Self::Pending,
        Self::Offline,
        Self::Replicating,
        Self::Overcommitted,
        Self::Void,
    ];

    /// Judges a chunk. `reach` says how a chunk server is: `None` if it is not known at all; `is_needed` whether nothing can be
    /// reconciled without a member.
    pub fn of(
        entry: &ChunkEntry,
        replicas: Replicas,
        reach: impl Fn(CsId) -> Option<CsState>,
        is_needed: impl Fn(CsId) -> bool,
    ) -> Self {
        let (mut active, mut inactive) = (0u8, 0u8);
        let mut waits = false;
        let (mut readable, mut old, mut awaited, mut joining) = (false, false, false, false);
        for member in entry.members().iter() {
            let heard_of = matches!(reach(member.cs), Some(CsState::Active | CsState::Inactive));
            readable |= member.state == MemberState::InSync && heard_of;
            awaited |= matches!(member.state, MemberState::InSync | MemberState::Absent)
                && reach(member.cs) == Some(CsState::Inactive);
            match (member.state, reach(member.cs)) {
                (MemberState::Creating, _) => return Self::Void,
                (MemberState::Joining, _) => joining = true,
                // Away for a short time only.
                (MemberState::Absent, Some(CsState::Inactive)) => inactive += 1,
                (MemberState::Absent | MemberState::Stale | MemberState::Failed, _) => old = true,
                (MemberState::InSync, Some(CsState::Active)) => active += 1,
                (MemberState::InSync, away) => {
                    inactive += u8::from(away == Some(CsState::Inactive));
                    waits |= is_needed(member.cs);
                }
            }
        }
        if !readable {
            Self::Offline
        } else if active < replicas.minimum {
            // Without an active replica there is nothing to copy from.
            if awaited || waits || active == 0 { Self::Blocked } else { Self::Pending }
        } else if waits {
            Self::Blocked
        } else if joining {
            Self::Replicating
        } else if active > replicas.normal {
            Self::Overcommitted
        } else if active == replicas.normal {
            Self::Healthy
        } else if old {
            Self::Urgent
        } else if active + inactive >= replicas.normal {
            Self::Standby
        } else {
            Self::Degraded
        }
    }
}

impl fmt::Display for ChunkHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Standby => "standby",
            Self::Degraded => "degraded",
            Self::Urgent => "urgent",
            Self::Blocked => "blocked",
            Self::Pending => "pending",
            Self::Offline => "offline",
            Self::Replicating => "replicating",
            Self::Overcommitted => "overcommitted",
            Self::Void => "void",
        })
    }
}

/// How many chunks are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkCounts([u64; ChunkHealth::ALL.len()]);

impl ChunkCounts {
    /// How many are in this state.
    pub fn get(&self, health: ChunkHealth) -> u64 {
        self.0[health as usize]
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Counts one more.
    pub fn add(&mut self, health: ChunkHealth) {
        self.0[health as usize] += 1;
    }
}

/// How many chunk servers are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CsCounts {
    /// Active ones.
    pub active: u64,
    /// Inactive ones.
    pub inactive: u64,
    /// Offline ones.
    pub offline: u64,
}

/// The state of the cluster, as the operator sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterStatus {
    /// No chunk server has registered yet.
    #[default]
    Unknown,
    /// All chunk servers are active.
    Healthy,
    /// Some are not.
    Degraded,
    /// More are offline than may be.
    Failed,
}

impl ClusterStatus {
    /// Judges the cluster. With `max_offline` 0 it never counts as failed.
    pub fn of(counts: CsCounts, max_offline: u64) -> Self {
        if counts == CsCounts::default() {
            Self::Unknown
        } else if max_offline > 0 && counts.offline > max_offline {
            Self::Failed
        } else if counts.inactive + counts.offline > 0 {
            Self::Degraded
        } else {
            Self::Healthy
        }
    }
}

impl fmt::Display for ClusterStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::ids::{ChunkId, Version};

    /// Builds a chunk from letters: `a`ctive, `i`nactive, `o`ffline, unknown `?` in-sync members; `s`tale, `f`ailed,
    /// `j`oining, `c`reating members on active servers; `I` and `O` like `i` and `o`, and nothing is reconciled without them; absent ones on active (`b`), inactive (`d`) and offline (`e`) ones.
    fn judge(members: &str, normal: u8, minimum: u8) -> ChunkHealth {
        let ids: Vec<_> = (0..members.len() as u32).map(CsId).collect();
        let mut entry = ChunkEntry::allocated(0, ChunkId::new(1, 1), Version::first(1), &ids, true);
        for (cs, letter) in ids.iter().zip(members.chars()) {
            let state = match letter {
                's' => MemberState::Stale,
                'f' => MemberState::Failed,
                'j' => MemberState::Joining,
                'b' | 'd' | 'e' => MemberState::Absent,
                'c' => MemberState::Creating,
                _ => MemberState::InSync,
            };
            entry.members_mut().set_state(*cs, state);
        }
        let reach = |cs: CsId| match members.as_bytes()[cs.0 as usize] {
            b'i' | b'I' | b'd' => Some(CsState::Inactive),
            b'o' | b'O' | b'e' => Some(CsState::Offline),
            b'?' => None,
            _ => Some(CsState::Active),
        };
        let is_needed = |cs: CsId| members.as_bytes()[cs.0 as usize].is_ascii_uppercase();
        ChunkHealth::of(&entry, Replicas { normal, minimum }, reach, is_needed)
    }

    #[test]
    fn chunks_are_judged_by_the_table_of_the_guide() {
        use ChunkHealth::*;
        let cases = [
            ("aaa", Healthy),
            ("aai", Standby),
            ("aao", Degraded),
            ("aa?", Degraded),
            ("aa", Degraded),
            ("aas", Urgent),
            ("aaf", Urgent),
            ("aab", Urgent),
            ("aad", Standby),
            ("aae", Urgent),
            ("aaad", Healthy),
            ("add", Blocked),
            ("ddd", Offline),
            ("aaas", Healthy),
            ("aii", Blocked),
            ("aoo", Pending),
            ("aio", Blocked),
            ("ass", Pending),
            ("ade", Blocked),
            ("iii", Blocked),
            ("iss", Blocked),
            ("ooo", Offline),
            ("sss", Offline),
            ("", Offline),
            ("aaj", Replicating),
            ("aoj", Pending),
            ("aij", Blocked),
            ("ooj", Offline),
            ("aaaa", Overcommitted),
            ("aaI", Blocked),
            ("aaO", Blocked),
            ("aoO", Blocked),
            ("aaaO", Blocked),
            ("OOO", Offline),
            ("aaOc", Void),
            ("aac", Void),
            ("ccc", Void),
        ];
        for (members, want) in cases {
            assert_eq!(judge(members, 3, 2), want, "{members}");
        }
        assert_eq!(judge("a", 1, 1), Healthy);
        assert_eq!(judge("i", 1, 1), Blocked);
    }

    #[test]
    fn the_cluster_is_judged_by_its_chunk_servers() {
        let counts = |active, inactive, offline| CsCounts { active, inactive, offline };
        let cases = [
            (counts(0, 0, 0), 2, ClusterStatus::Unknown),
            (counts(3, 0, 0), 2, ClusterStatus::Healthy),
            (counts(2, 1, 0), 2, ClusterStatus::Degraded),
            (counts(1, 0, 2), 2, ClusterStatus::Degraded),
            (counts(9, 0, 3), 2, ClusterStatus::Failed),
            (counts(0, 9, 0), 2, ClusterStatus::Degraded),
            (counts(9, 0, 9), 0, ClusterStatus::Degraded),
        ];
        for (counts, limit, want) in cases {
            assert_eq!(ClusterStatus::of(counts, limit), want, "{counts:?} {limit}");
        }
    }
}
