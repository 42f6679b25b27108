//! Talking to the other members.
//!
//! The messages are bytes ([`super::message`]); who carries them is up to the [`PeerTransport`].

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use openraft::error::{
    NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, RPCTypes, RaftNetwork, RaftNetworkFactory};

use super::config::{RaftSnapshot, RaftVote, SnapshotData, Types};
use super::message::{self, SnapshotPart};
use crate::log::{NodeId, Snapshots};

/// Bytes of a snapshot in one message.
const SNAPSHOT_PART_MAX: usize = 1 << 20;

/// Another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub node: NodeId,
    /// Its address, as it was given when it became a member.
    pub address: String,
}

/// Why a peer gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It cannot be reached now; trying again at once is of no use.
    #[error("metadata server {node} at {address} cannot be reached")]
    Unreachable {
        /// The peer.
        node: NodeId,
        /// Its address.
        address: String,
    },
    /// It did not answer in time.
    #[error("metadata server {node} did not answer within {after:?}")]
    TimedOut {
        /// The peer.
        node: NodeId,
        /// How long it had.
        after: Duration,
    },
    /// It answered that it cannot do this.
    #[error("metadata server {node} refused: {reason}")]
    Refused {
        /// The peer.
        node: NodeId,
        /// What it said.
        reason: String,
    },
    /// Its answer is no answer.
    #[error("metadata server {node} gave an answer that is none: {source}")]
    Garbled {
        /// The peer.
        node: NodeId,
        /// What is wrong with it.
        source: message::MessageError,
    },
}

/// The answer of a peer to come.
pub type PeerAnswer<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, PeerError>> + 'a>>;

/// Carries messages to other members and their answers back. Each message is for the function of the same name on the
/// other side ([`super::Consensus::append_entries`] and so on).
pub trait PeerTransport {
    /// Entries, or none as a sign of life.
    fn append_entries<'a>(&'a self, peer: &'a Peer, body: Vec<u8>, within: Duration) -> PeerAnswer<'a>;
    /// A candidate asks for a vote.
    fn vote<'a>(&'a self, peer: &'a Peer, body: Vec<u8>, within: Duration) -> PeerAnswer<'a>;
    /// A part of a snapshot.
    fn install_snapshot<'a>(&'a self, peer: &'a Peer, body: Vec<u8>, within: Duration) -> PeerAnswer<'a>;
}

/// The transport of a group of one: there is nobody to talk to.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl NoPeers {
    fn nobody(peer: &Peer) -> PeerAnswer<'_> {
        let Peer { node, address } = peer.clone();
        Box::pin(std::future::ready(Err(PeerError::Unreachable { node, address })))
    }
}

impl PeerTransport for NoPeers {
    fn append_entries<'a>(&'a self, peer: &'a Peer, _body: Vec<u8>, _within: Duration) -> PeerAnswer<'a> {
        Self::nobody(peer)
    }

    fn vote<'a>(&'a self, peer: &'a Peer, _body: Vec<u8>, _within: Duration) -> PeerAnswer<'a> {
        Self::nobody(peer)
    }

    fn install_snapshot<'a>(&'a self, peer: &'a Peer, _body: Vec<u8>, _within: Duration) -> PeerAnswer<'a> {
        Self::nobody(peer)
    }
}

/// Makes connections to peers for the consensus library.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) transport: Rc<dyn PeerTransport>,
    pub(super) snapshots: Snapshots,
    pub(super) node: NodeId,
}

/// A connection to one peer.
pub(super) struct Connection {
    network: Network,
    peer: Peer,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Connection {
        Connection { network: self.clone(), peer: Peer { node: target, address: node.addr.clone() } }
    }
}

impl Connection {
    /// Says in the consensus library's words why there is no answer.
    fn failed<E>(&self, action: RPCTypes, error: &PeerError) -> RPCError<NodeId, BasicNode, E>
    where
        E: std::error::Error,
    {
        match error {
            PeerError::Unreachable { .. } | PeerError::Refused { .. } => Unreachable::new(error).into(),
            PeerError::TimedOut { after, .. } => {
                let (id, target) = (self.network.node, self.peer.node);
                Timeout { action, id, target, timeout: *after }.into()
            }
            PeerError::Garbled { .. } => NetworkError::new(error).into(),
        }
    }

    fn garbled(&self, source: message::MessageError) -> PeerError {
        PeerError::Garbled { node: self.peer.node, source }
    }

    async fn send_snapshot(
        &self,
        vote: &RaftVote,
        snapshot: &RaftSnapshot,
        within: Duration,
    ) -> Result<RaftVote, PeerError> {
        let (commands, state) = self.load(snapshot).await?;
        let mut at = 0;
        loop {
            let end = (at + SNAPSHOT_PART_MAX).min(state.len());
            let done = end == state.len();
            let (meta, bytes) = (&snapshot.meta, &state[at..end]);
            let part = SnapshotPart { vote: *vote, meta: meta.clone(), commands, offset: at as u64, done };
            let body = message::encode_snapshot_part(&part, bytes);
            let answer = self.network.transport.install_snapshot(&self.peer, body, within).await?;
            let theirs = message::decode_snapshot_answer(&answer).map_err(|error| self.garbled(error))?;
            if done || theirs > *vote {
                return Ok(theirs);
            }
            at = end;
        }
    }

    /// The content of a snapshot that is to be sent.
    async fn load(&self, snapshot: &RaftSnapshot) -> Result<(u64, Vec<u8>), PeerError> {
        match &*snapshot.snapshot {
            SnapshotData::Received { commands, state } => Ok((*commands, state.clone())),
            SnapshotData::Stored(index) => {
                let loaded = self.network.snapshots.load(*index).await;
                // It may have been replaced by a newer one; the next attempt will take that.
                let refused = |error: crate::log::OpenError| PeerError::Refused {
                    node: self.network.node,
                    reason: error.to_string(),
                };
                loaded.map(|(meta, state)| (meta.commands, state)).map_err(refused)
            }
        }
    }
}

impl RaftNetwork<Types> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RPCError<NodeId, BasicNode, RaftError<NodeId>>> {
        let body = message::encode_append(rpc);
        let answer = self.network.transport.append_entries(&self.peer, body, option.hard_ttl()).await;
        let decoded = answer
            .and_then(|bytes| message::decode_append_answer(&bytes).map_err(|error| self.garbled(error)));
        decoded.map_err(|error| self.failed(RPCTypes::AppendEntries, &error))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RPCError<NodeId, BasicNode, RaftError<NodeId>>> {
        let body = message::encode_vote(&rpc);
        let answer = self.network.transport.vote(&self.peer, body, option.hard_ttl()).await;
        let decoded =
            answer.and_then(|bytes| message::decode_vote_answer(&bytes).map_err(|error| self.garbled(error)));
        decoded.map_err(|error| self.failed(RPCTypes::Vote, &error))
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<Types, openraft::error::Fatal<NodeId>>> {
        let mut cancel = std::pin::pin!(cancel);
        let mut sending = std::pin::pin!(self.send_snapshot(&vote, &snapshot, option.hard_ttl()));
        let sent = std::future::poll_fn(|cx| {
            use std::task::Poll;
            if let Poll::Ready(closed) = cancel.as_mut().poll(cx) {
                return Poll::Ready(Err(StreamingError::Closed(closed)));
            }
            sending.as_mut().poll(cx).map(|sent| {
                sent.map_err(|error| match self.failed(RPCTypes::InstallSnapshot, &error) {
                    RPCError::Timeout(timeout) => StreamingError::Timeout(timeout),
                    RPCError::Network(network) => StreamingError::Network(network),
                    RPCError::Unreachable(unreachable) => StreamingError::Unreachable(unreachable),
                    RPCError::RemoteError(remote) => StreamingError::RemoteError(remote),
                    RPCError::PayloadTooLarge(_) => StreamingError::Network(NetworkError::new(&error)),
                })
            })
        });
        sent.await.map(SnapshotResponse::new)
    }
}
