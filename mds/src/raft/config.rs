//! The types the consensus library works with, and their counterparts in the log.

use std::any::Any;
use std::collections::BTreeMap;

use openraft::impls::OneshotResponder;
use openraft::{BasicNode, EntryPayload, RaftTypeConfig};

use super::runtime::Runtime;
use crate::log::{self, Batch, LogId, NodeId, Payload};

/// The types of our consensus group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Types;

impl RaftTypeConfig for Types {
    type D = Batch;
    type R = Responses;
    type NodeId = NodeId;
    type Node = BasicNode;
    type Entry = openraft::Entry<Self>;
    type SnapshotData = SnapshotData;
    type AsyncRuntime = Runtime;
    type Responder = OneshotResponder<Self>;
}

pub(super) type Entry = openraft::Entry<Types>;
pub(super) type RaftLogId = openraft::LogId<NodeId>;
pub(super) type RaftVote = openraft::Vote<NodeId>;
pub(super) type RaftMembership = openraft::Membership<NodeId, BasicNode>;
pub(super) type StoredMembership = openraft::StoredMembership<NodeId, BasicNode>;
pub(super) type StorageError = openraft::StorageError<NodeId>;
pub(super) type RaftSnapshot = openraft::Snapshot<Types>;
pub(super) type RaftSnapshotMeta = openraft::SnapshotMeta<NodeId, BasicNode>;

/// The responses to the commands of an entry. Which type they have only the state machine knows, so that the consensus
/// library is compiled once and not for each.
pub(super) struct Responses(pub(super) Box<dyn Any>);

impl std::fmt::Debug for Responses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Responses")
    }
}

/// What stands for a snapshot while the consensus library hands it around.
#[derive(Debug)]
pub(super) enum SnapshotData {
    /// On our disk, under the index of its last entry.
    Stored(u64),
    /// Received from the leader: how many commands it has seen, and the state.
    Received {
        /// How many commands have been applied.
        commands: u64,
        /// The state.
        state: Vec<u8>,
    },
}

pub(super) fn log_id(id: LogId) -> RaftLogId {
    RaftLogId::new(openraft::CommittedLeaderId::new(id.term, id.node), id.index)
}

pub(super) fn from_log_id(id: &RaftLogId) -> LogId {
    LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(super) fn vote(vote: log::Vote) -> RaftVote {
    let log::Vote { term, node, committed } = vote;
    if committed { RaftVote::new_committed(term, node) } else { RaftVote::new(term, node) }
}

pub(super) fn from_vote(vote: &RaftVote) -> log::Vote {
    let leader = vote.leader_id();
    log::Vote { term: leader.term, node: leader.node_id, committed: vote.is_committed() }
}

pub(super) fn membership(membership: log::Membership) -> RaftMembership {
    let nodes: BTreeMap<NodeId, BasicNode> =
        membership.addresses.into_iter().map(|(node, address)| (node, BasicNode::new(address))).collect();
    RaftMembership::new(membership.voters, nodes)
}

pub(super) fn from_membership(membership: &RaftMembership) -> log::Membership {
    log::Membership {
        voters: membership.get_joint_config().clone(),
        addresses: membership.nodes().map(|(node, at)| (*node, at.addr.clone())).collect(),
    }
}

pub(super) fn entry(entry: log::Entry) -> Entry {
    let payload = match entry.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Commands(batch) => EntryPayload::Normal(batch),
        Payload::Membership(members) => EntryPayload::Membership(membership(members)),
    };
    Entry { log_id: log_id(entry.id), payload }
}

pub(super) fn from_entry(entry: Entry) -> log::Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(batch) => Payload::Commands(batch),
        EntryPayload::Membership(members) => Payload::Membership(from_membership(&members)),
    };
    log::Entry { id: from_log_id(&entry.log_id), payload }
}

pub(super) fn stored_membership(id: Option<LogId>, members: log::Membership) -> StoredMembership {
    StoredMembership::new(id.map(log_id), membership(members))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_back() {
        let id = LogId { term: 3, node: 2, index: 9 };
        assert_eq!(from_log_id(&log_id(id)), id);
        for committed in [false, true] {
            let promised = log::Vote { term: 3, node: 2, committed };
            assert_eq!(from_vote(&vote(promised)), promised);
        }
        let mut members = log::Membership::founder(1, "a:1");
        members.voters.push([1, 2].into());
        members.addresses.insert(2, "b:2".to_owned());
        members.addresses.insert(3, "c:3".to_owned());
        for payload in
            [Payload::Blank, Payload::Commands(Batch::of([&b"x"[..]])), Payload::Membership(members)]
        {
            let ours = log::Entry { id, payload };
            assert_eq!(from_entry(entry(ours.clone())), ours);
        }
    }
}
