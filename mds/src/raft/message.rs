//! What members say to each other, as bytes: `prost` messages, so that a rolling upgrade can add fields.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use prost::Message;

use super::config::{self, RaftLogId, RaftSnapshotMeta, RaftVote, Types};
use crate::log::{Batch, Entry, LogId, Membership, NodeId, Payload, Vote};

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// They are no protocol buffer of this kind.
    #[error("it cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A field that must be there is not.
    #[error("it lacks {0}")]
    Lacks(&'static str),
    /// The commands of an entry do not fill it.
    #[error("an entry in it is damaged")]
    Entry,
    /// Entries that do not follow each other.
    #[error("its entries do not follow each other")]
    Order,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PbLogId {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    node: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PbVote {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    node: u64,
    #[prost(bool, tag = "3")]
    committed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PbVoters {
    #[prost(uint64, repeated, tag = "1")]
    nodes: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct PbAddress {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(string, tag = "2")]
    address: String,
}

#[derive(Clone, PartialEq, Message)]
struct PbMembership {
    #[prost(message, repeated, tag = "1")]
    voters: Vec<PbVoters>,
    #[prost(message, repeated, tag = "2")]
    addresses: Vec<PbAddress>,
}

#[derive(Clone, PartialEq, Message)]
struct PbEntry {
    #[prost(message, optional, tag = "1")]
    id: Option<PbLogId>,
    #[prost(bytes = "vec", optional, tag = "2")]
    commands: Option<Vec<u8>>,
    #[prost(message, optional, tag = "3")]
    membership: Option<PbMembership>,
}

#[derive(Clone, PartialEq, Message)]
struct PbAppend {
    #[prost(message, optional, tag = "1")]
    vote: Option<PbVote>,
    #[prost(message, optional, tag = "2")]
    previous: Option<PbLogId>,
    #[prost(message, repeated, tag = "3")]
    entries: Vec<PbEntry>,
    #[prost(message, optional, tag = "4")]
    committed: Option<PbLogId>,
}

#[derive(Clone, PartialEq, Message)]
struct PbAppendAnswer {
    #[prost(oneof = "PbAppendOutcome", tags = "1, 2, 3, 4")]
    outcome: Option<PbAppendOutcome>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum PbAppendOutcome {
    #[prost(bool, tag = "1")]
    Taken(bool),
    #[prost(message, tag = "2")]
    TakenUpTo(PbReached),
    #[prost(bool, tag = "3")]
    Conflict(bool),
    #[prost(message, tag = "4")]
    HigherVote(PbVote),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PbReached {
    #[prost(message, optional, tag = "1")]
    last: Option<PbLogId>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PbVoteRequest {
    #[prost(message, optional, tag = "1")]
    vote: Option<PbVote>,
    #[prost(message, optional, tag = "2")]
    last: Option<PbLogId>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PbVoteAnswer {
    #[prost(message, optional, tag = "1")]
    vote: Option<PbVote>,
    #[prost(bool, tag = "2")]
    granted: bool,
    #[prost(message, optional, tag = "3")]
    last: Option<PbLogId>,
}

#[derive(Clone, PartialEq, Message)]
struct PbSnapshotPart {
    #[prost(message, optional, tag = "1")]
    vote: Option<PbVote>,
    #[prost(message, optional, tag = "2")]
    last: Option<PbLogId>,
    #[prost(message, optional, tag = "3")]
    membership_id: Option<PbLogId>,
    #[prost(message, optional, tag = "4")]
    membership: Option<PbMembership>,
    #[prost(string, tag = "5")]
    id: String,
    #[prost(uint64, tag = "6")]
    commands: u64,
    #[prost(uint64, tag = "7")]
    offset: u64,
    #[prost(bool, tag = "8")]
    done: bool,
    #[prost(bytes = "vec", tag = "9")]
    state: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PbSnapshotAnswer {
    #[prost(message, optional, tag = "1")]
    vote: Option<PbVote>,
}

fn pb_id(id: &RaftLogId) -> PbLogId {
    let LogId { term, node, index } = config::from_log_id(id);
    PbLogId { term, node, index }
}

fn id_of(id: PbLogId) -> RaftLogId {
    config::log_id(LogId { term: id.term, node: id.node, index: id.index })
}

fn pb_vote(vote: &RaftVote) -> PbVote {
    let Vote { term, node, committed } = config::from_vote(vote);
    PbVote { term, node, committed }
}

fn vote_of(vote: Option<PbVote>) -> Result<RaftVote, MessageError> {
    let PbVote { term, node, committed } = vote.ok_or(MessageError::Lacks("a vote"))?;
    Ok(config::vote(Vote { term, node, committed }))
}

fn pb_membership(membership: &Membership) -> PbMembership {
    let voters = membership.voters.iter().map(|nodes| PbVoters { nodes: nodes.iter().copied().collect() });
    let address = |(node, address): (&NodeId, &String)| PbAddress { node: *node, address: address.clone() };
    PbMembership { voters: voters.collect(), addresses: membership.addresses.iter().map(address).collect() }
}

fn membership_of(membership: PbMembership) -> Membership {
    Membership {
        voters: membership.voters.into_iter().map(|voters| voters.nodes.into_iter().collect()).collect(),
        addresses: membership.addresses.into_iter().map(|at| (at.node, at.address)).collect(),
    }
}

fn pb_entry(entry: config::Entry) -> PbEntry {
    let id = Some(pb_id(&entry.log_id));
    match config::from_entry(entry).payload {
        Payload::Blank => PbEntry { id, commands: None, membership: None },
        Payload::Commands(batch) => {
            PbEntry { id, commands: Some(batch.as_bytes().to_vec()), membership: None }
        }
        Payload::Membership(members) => {
            PbEntry { id, commands: None, membership: Some(pb_membership(&members)) }
        }
    }
}

fn entry_of(entry: PbEntry) -> Result<config::Entry, MessageError> {
    let payload = match (entry.commands, entry.membership) {
        (Some(bytes), None) => Payload::Commands(Batch::from_bytes(&bytes).map_err(|_| MessageError::Entry)?),
        (None, Some(members)) => Payload::Membership(membership_of(members)),
        (None, None) => Payload::Blank,
        (Some(_), Some(_)) => return Err(MessageError::Entry),
    };
    let id = config::from_log_id(&id_of(entry.id.ok_or(MessageError::Lacks("the id of an entry"))?));
    Ok(config::entry(Entry { id, payload }))
}

pub(super) fn encode_append(request: AppendEntriesRequest<Types>) -> Vec<u8> {
    PbAppend {
        vote: Some(pb_vote(&request.vote)),
        previous: request.prev_log_id.as_ref().map(pb_id),
        entries: request.entries.into_iter().map(pb_entry).collect(),
        committed: request.leader_commit.as_ref().map(pb_id),
    }
    .encode_to_vec()
}

pub(super) fn decode_append(bytes: &[u8]) -> Result<AppendEntriesRequest<Types>, MessageError> {
    let message = PbAppend::decode(bytes)?;
    let entries: Vec<config::Entry> = message.entries.into_iter().map(entry_of).collect::<Result<_, _>>()?;
    // The consensus library relies on it.
    let mut last = message.previous.map(|previous| previous.index);
    for entry in &entries {
        let next = last.map_or(Some(0), |last| last.checked_add(1));
        if next != Some(entry.log_id.index) {
            return Err(MessageError::Order);
        }
        last = next;
    }
    Ok(AppendEntriesRequest {
        vote: vote_of(message.vote)?,
        prev_log_id: message.previous.map(id_of),
        entries,
        leader_commit: message.committed.map(id_of),
    })
}

pub(super) fn encode_append_answer(answer: &AppendEntriesResponse<NodeId>) -> Vec<u8> {
    let outcome = match answer {
        AppendEntriesResponse::Success => PbAppendOutcome::Taken(true),
        AppendEntriesResponse::PartialSuccess(last) => {
            PbAppendOutcome::TakenUpTo(PbReached { last: last.as_ref().map(pb_id) })
        }
        AppendEntriesResponse::Conflict => PbAppendOutcome::Conflict(true),
        AppendEntriesResponse::HigherVote(vote) => PbAppendOutcome::HigherVote(pb_vote(vote)),
    };
    PbAppendAnswer { outcome: Some(outcome) }.encode_to_vec()
}

pub(super) fn decode_append_answer(bytes: &[u8]) -> Result<AppendEntriesResponse<NodeId>, MessageError> {
    let outcome = PbAppendAnswer::decode(bytes)?.outcome.ok_or(MessageError::Lacks("an outcome"))?;
    Ok(match outcome {
        PbAppendOutcome::Taken(_) => AppendEntriesResponse::Success,
        PbAppendOutcome::TakenUpTo(reached) => AppendEntriesResponse::PartialSuccess(reached.last.map(id_of)),
        PbAppendOutcome::Conflict(_) => AppendEntriesResponse::Conflict,
        PbAppendOutcome::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote_of(Some(vote))?),
    })
}

pub(super) fn encode_vote(request: &VoteRequest<NodeId>) -> Vec<u8> {
    PbVoteRequest { vote: Some(pb_vote(&request.vote)), last: request.last_log_id.as_ref().map(pb_id) }
        .encode_to_vec()
}

pub(super) fn decode_vote(bytes: &[u8]) -> Result<VoteRequest<NodeId>, MessageError> {
    let message = PbVoteRequest::decode(bytes)?;
    Ok(VoteRequest::new(vote_of(message.vote)?, message.last.map(id_of)))
}

pub(super) fn encode_vote_answer(answer: &VoteResponse<NodeId>) -> Vec<u8> {
    let VoteResponse { vote, vote_granted, last_log_id } = answer;
    PbVoteAnswer { vote: Some(pb_vote(vote)), granted: *vote_granted, last: last_log_id.as_ref().map(pb_id) }
        .encode_to_vec()
}

pub(super) fn decode_vote_answer(bytes: &[u8]) -> Result<VoteResponse<NodeId>, MessageError> {
    let message = PbVoteAnswer::decode(bytes)?;
    Ok(VoteResponse::new(vote_of(message.vote)?, message.last.map(id_of), message.granted))
}

/// What a part of a snapshot says besides its bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SnapshotPart {
    pub(super) vote: RaftVote,
    pub(super) meta: RaftSnapshotMeta,
    pub(super) commands: u64,
    pub(super) offset: u64,
    pub(super) done: bool,
}

pub(super) fn encode_snapshot_part(part: &SnapshotPart, state: &[u8]) -> Vec<u8> {
    let members = &part.meta.last_membership;
    PbSnapshotPart {
        vote: Some(pb_vote(&part.vote)),
        last: part.meta.last_log_id.as_ref().map(pb_id),
        membership_id: members.log_id().as_ref().map(pb_id),
        membership: Some(pb_membership(&config::from_membership(members.membership()))),
        id: part.meta.snapshot_id.clone(),
        commands: part.commands,
        offset: part.offset,
        done: part.done,
        state: state.to_vec(),
    }
    .encode_to_vec()
}

pub(super) fn decode_snapshot_part(bytes: &[u8]) -> Result<(SnapshotPart, Vec<u8>), MessageError> {
    let message = PbSnapshotPart::decode(bytes)?;
    let said_by = message.membership_id.map(|id| config::from_log_id(&id_of(id)));
    let members = membership_of(message.membership.ok_or(MessageError::Lacks("the members"))?);
    let meta = RaftSnapshotMeta {
        last_log_id: Some(id_of(message.last.ok_or(MessageError::Lacks("the last entry"))?)),
        last_membership: config::stored_membership(said_by, members),
        snapshot_id: message.id,
    };
    let (vote, commands, offset, done) =
        (vote_of(message.vote)?, message.commands, message.offset, message.done);
    Ok((SnapshotPart { vote, meta, commands, offset, done }, message.state))
}

pub(super) fn encode_snapshot_answer(vote: &RaftVote) -> Vec<u8> {
    PbSnapshotAnswer { vote: Some(pb_vote(vote)) }.encode_to_vec()
}

pub(super) fn decode_snapshot_answer(bytes: &[u8]) -> Result<RaftVote, MessageError> {
    vote_of(PbSnapshotAnswer::decode(bytes)?.vote)
}

/// One message of each kind, as bytes.
#[cfg(test)]
pub(super) fn samples() -> Vec<Vec<u8>> {
    tests::samples()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn samples() -> Vec<Vec<u8>> {
        let vote = RaftVote::new(7, 1);
        vec![
            encode_append(request()),
            encode_append_answer(&AppendEntriesResponse::PartialSuccess(Some(id(9)))),
            encode_append_answer(&AppendEntriesResponse::HigherVote(vote)),
            encode_vote(&VoteRequest::new(vote, Some(id(2)))),
            encode_vote_answer(&VoteResponse::new(vote, Some(id(2)), true)),
            encode_snapshot_part(&part(), b"state"),
            encode_snapshot_answer(&vote),
        ]
    }

    fn part() -> SnapshotPart {
        let meta = RaftSnapshotMeta {
            last_log_id: Some(id(40)),
            last_membership: config::stored_membership(None, Membership::founder(1, "a:1")),
            snapshot_id: "s".to_owned(),
        };
        SnapshotPart { vote: RaftVote::new_committed(4, 2), meta, commands: 33, offset: 7, done: true }
    }

    fn id(index: u64) -> RaftLogId {
        config::log_id(LogId { term: 4, node: 2, index })
    }

    fn request() -> AppendEntriesRequest<Types> {
        let payloads = [
            Payload::Blank,
            Payload::Commands(Batch::of([&b"a"[..], b"bc"])),
            Payload::Membership(Membership::founder(9, "x:1")),
        ];
        let entries = payloads.into_iter().zip(6..);
        let entries = entries
            .map(|(payload, index)| config::entry(Entry { id: config::from_log_id(&id(index)), payload }));
        AppendEntriesRequest {
            vote: RaftVote::new_committed(4, 2),
            prev_log_id: Some(id(5)),
            entries: entries.collect(),
            leader_commit: Some(id(3)),
        }
    }

    #[test]
    fn entries_come_back() {
        let (sent, back) = (request(), decode_append(&encode_append(request())).unwrap());
        assert_eq!(
            (sent.vote, sent.prev_log_id, sent.leader_commit),
            (back.vote, back.prev_log_id, back.leader_commit)
        );
        let entries = |request: AppendEntriesRequest<Types>| {
            request.entries.into_iter().map(config::from_entry).collect::<Vec<_>>()
        };
        assert_eq!(entries(sent), entries(back));
    }

    #[test]
    fn entries_with_a_hole_are_refused() {
        let mut holed = request();
        holed.entries.remove(1);
        assert_eq!(decode_append(&encode_append(holed)).err(), Some(MessageError::Order));
        assert_eq!(decode_append(&[]).err(), Some(MessageError::Lacks("a vote")));
    }

    #[test]
    fn answers_come_back() {
        for answer in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(None),
            AppendEntriesResponse::PartialSuccess(Some(id(0))),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(RaftVote::new(0, 0)),
        ] {
            assert_eq!(decode_append_answer(&encode_append_answer(&answer)), Ok(answer));
        }
        for granted in [false, true] {
            let answer = VoteResponse::new(RaftVote::new(7, 1), Some(id(2)), granted);
            assert_eq!(decode_vote_answer(&encode_vote_answer(&answer)), Ok(answer));
        }
        let ask = VoteRequest::new(RaftVote::new(7, 1), None);
        assert_eq!(decode_vote(&encode_vote(&ask)), Ok(ask));
    }

    #[test]
    fn parts_of_snapshots_come_back() {
        let bytes = encode_snapshot_part(&part(), b"state");
        assert_eq!(decode_snapshot_part(&bytes), Ok((part(), b"state".to_vec())));
        assert_eq!(
            decode_snapshot_answer(&encode_snapshot_answer(&RaftVote::new(2, 1))),
            Ok(RaftVote::new(2, 1))
        );
    }

    #[test]
    fn cut_messages_never_panic() {
        let bytes = encode_append(request());
        for len in 0..bytes.len() {
            let _any = decode_append(&bytes[..len]);
            let _any = decode_snapshot_part(&bytes[..len]);
        }
    }
}
