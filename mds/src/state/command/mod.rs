//! Commands: the only things that change the state, as they stand in the replicated log.
//!
//! A command is a protobuf message. Whatever apply needs and cannot derive comes inside it: wall-clock stamps
//! and random values are drawn once, by the leader, before the command is logged.
//!
//! Rules of evolution (a log outlives the version that wrote it, and in a rolling upgrade two versions apply
//! the same one):
//! - A tag is never reused and a field never changes its meaning. `mds/fixtures/` holds frozen bytes.
//! - A server never applies a command it does not wholly understand: [`Command::decode_log`] refuses an unknown
//!   kind, and bytes that do not re-encode to themselves (an unknown field). A new meaning is therefore a new
//!   kind, or a new field that is only written once every member of the cluster knows it.

mod access;
mod cluster;
mod inode;
mod lease;
mod member;
mod namespace;
mod node;
mod report;

pub use access::{AdmitNode, LoginsFailed, NoteHour, RevokeNode, SetPassword};
pub use cluster::{InitCluster, LeaderElected, RaiseGeneration, SetConfig};
pub use inode::{
    LinkNode, MakeNode, NodeKind, RemoveXattr, RenameMode, RenameNode, SessionProof, SetInode, SetXattr,
    SizeSet, UnlinkNode, UnlinkWhat, XattrMode,
};
pub use lease::{
    AllocateChunks, ChunkCreated, ChunksPurged, CloseSession, EndReservation, ExpireSession, LeaseMode,
    LeaseProof, Open, OpenSession, PurgeChunks, ReconcileDone, ReconciledChunk, Release, ReplaceCreating,
    Resume, Revoke, RevokeWhat,
};
pub use member::{
    AddReplicas, ChunkPosition, ChunkVersion, DropMember, JoinMembers, LossAt, PromoteMembers,
    RemoveReplicas, ReplicaPlace, SettleLosses, VersionsInstalled,
};
pub use namespace::{
    AttrChange, CreateFile, FailureDomain, MakeDir, Remove, Rename, ReplicaChange, Resize, SetAttr, Target,
    TargetRef,
};
pub use node::{
    CsLapsed, CsReport, CsState, CsStateChanged, DropCs, FenceRecord, FencesRecorded, Leave, RegisterCs,
    ReleaseCs, ReportedEvent, ReportedSeverity,
};
pub use report::{LoseReplicas, NoteEvent, QuarantineReplicas, SkipIds, UnknownReplica};

use prost::Message;

/// One entry of the replicated log.
#[derive(Clone, PartialEq, Message)]
pub struct Command {
    /// The leader's wall clock in milliseconds since 1970 (UTC). Only ever a stamp: nothing is decided by it.
    #[prost(uint64, tag = "1")]
    pub now_ms: u64,
    /// Who asked, for idempotence (C11, C12); absent for what the leader proposes by itself.
    #[prost(message, optional, tag = "2")]
    pub request: Option<RequestId>,
    /// What to do.
    #[prost(
        oneof = "CommandOp",
        tags = "10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25, 30, 31, 32, 33, 34, 40, 41, 42, 43, 44, 45, 46, 47, 48, 50, 51, 52, 53, 54, 55, 56, 57, 58, 60, 61, 62, 63, 64, 65, 66, 70, 71, 72, 73, 74, 75, 76, 90, 91, 92, 93, 94"
    )]
    pub op: Option<CommandOp>,
}

/// Names a request for idempotence: a retry carries the same two numbers and gets the same answer, refusals too. Who
/// wants to try again after a refusal takes a new number.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RequestId {
    /// Any number that stays with the requester (a client id, a hash of its UUID).
    #[prost(uint64, tag = "1")]
    pub client_id: u64,
    /// Grows with each new request of this requester; requests may arrive out of order.
    #[prost(uint64, tag = "2")]
    pub request_id: u64,
}

/// The kinds of commands. The numbers are the tags in the log.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum CommandOp {
    /// See [`InitCluster`].
    #[prost(message, tag = "10")]
    InitCluster(InitCluster),
    /// See [`RaiseGeneration`].
    #[prost(message, tag = "11")]
    RaiseGeneration(RaiseGeneration),
    /// See [`LeaderElected`].
    #[prost(message, tag = "12")]
    LeaderElected(LeaderElected),
    /// See [`SetConfig`].
    #[prost(message, tag = "13")]
    SetConfig(SetConfig),
    /// See [`NoteEvent`].
    #[prost(message, tag = "14")]
    NoteEvent(NoteEvent),
    /// See [`SkipIds`].
    #[prost(message, tag = "15")]
    SkipIds(SkipIds),
    /// See [`MakeDir`].
    #[prost(message, tag = "20")]
    MakeDir(MakeDir),
    /// See [`CreateFile`].
    #[prost(message, tag = "21")]
    CreateFile(CreateFile),
    /// See [`Remove`].
    #[prost(message, tag = "22")]
    Remove(Remove),
    /// See [`Rename`].
    #[prost(message, tag = "23")]
    Rename(Rename),
    /// See [`Resize`].
    #[prost(message, tag = "24")]
    Resize(Resize),
    /// See [`SetAttr`].
    #[prost(message, tag = "25")]
    SetAttr(SetAttr),
    /// See [`RegisterCs`].
    #[prost(message, tag = "30")]
    RegisterCs(RegisterCs),
    /// See [`FencesRecorded`].
    #[prost(message, tag = "31")]
    FencesRecorded(FencesRecorded),
    /// See [`CsLapsed`].
    #[prost(message, tag = "32")]
    CsLapsed(CsLapsed),
    /// See [`CsStateChanged`].
    #[prost(message, tag = "33")]
    CsStateChanged(CsStateChanged),
    /// See [`CsReport`].
    #[prost(message, tag = "34")]
    CsReport(CsReport),
    /// See [`OpenSession`].
    #[prost(message, tag = "40")]
    OpenSession(OpenSession),
    /// See [`CloseSession`].
    #[prost(message, tag = "41")]
    CloseSession(CloseSession),
    /// See [`ExpireSession`].
    #[prost(message, tag = "42")]
    ExpireSession(ExpireSession),
    /// See [`Open`].
    #[prost(message, tag = "43")]
    Open(Open),
    /// See [`Resume`].
    #[prost(message, tag = "44")]
    Resume(Resume),
    /// See [`Release`].
    #[prost(message, tag = "45")]
    Release(Release),
    /// See [`Revoke`].
    #[prost(message, tag = "46")]
    Revoke(Revoke),
    /// See [`ReconcileDone`].
    #[prost(message, tag = "47")]
    ReconcileDone(ReconcileDone),
    /// See [`EndReservation`].
    #[prost(message, tag = "48")]
    EndReservation(EndReservation),
    /// See [`AllocateChunks`].
    #[prost(message, tag = "50")]
    AllocateChunks(AllocateChunks),
    /// See [`ChunkCreated`].
    #[prost(message, tag = "51")]
    ChunkCreated(ChunkCreated),
    /// See [`ReplaceCreating`].
    #[prost(message, tag = "52")]
    ReplaceCreating(ReplaceCreating),
    /// See [`PurgeChunks`].
    #[prost(message, tag = "53")]
    PurgeChunks(PurgeChunks),
    /// See [`ChunksPurged`].
    #[prost(message, tag = "54")]
    ChunksPurged(ChunksPurged),
    /// See [`DropMember`].
    #[prost(message, tag = "55")]
    DropMember(DropMember),
    /// See [`JoinMembers`].
    #[prost(message, tag = "56")]
    JoinMembers(JoinMembers),
    /// See [`PromoteMembers`].
    #[prost(message, tag = "57")]
    PromoteMembers(PromoteMembers),
    /// See [`VersionsInstalled`].
    #[prost(message, tag = "58")]
    VersionsInstalled(VersionsInstalled),
    /// See [`MakeNode`].
    #[prost(message, tag = "60")]
    MakeNode(MakeNode),
    /// See [`LinkNode`].
    #[prost(message, tag = "61")]
    LinkNode(LinkNode),
    /// See [`UnlinkNode`].
    #[prost(message, tag = "62")]
    UnlinkNode(UnlinkNode),
    /// See [`RenameNode`].
    #[prost(message, tag = "63")]
    RenameNode(RenameNode),
    /// See [`SetInode`].
    #[prost(message, tag = "64")]
    SetInode(SetInode),
    /// See [`SetXattr`].
    #[prost(message, tag = "65")]
    SetXattr(SetXattr),
    /// See [`RemoveXattr`].
    #[prost(message, tag = "66")]
    RemoveXattr(RemoveXattr),
    /// See [`AddReplicas`].
    #[prost(message, tag = "70")]
    AddReplicas(AddReplicas),
    /// See [`RemoveReplicas`].
    #[prost(message, tag = "71")]
    RemoveReplicas(RemoveReplicas),
    /// See [`ReleaseCs`].
    #[prost(message, tag = "72")]
    ReleaseCs(ReleaseCs),
    /// See [`DropCs`].
    #[prost(message, tag = "73")]
    DropCs(DropCs),
    /// See [`QuarantineReplicas`].
    #[prost(message, tag = "74")]
    QuarantineReplicas(QuarantineReplicas),
    /// See [`LoseReplicas`].
    #[prost(message, tag = "75")]
    LoseReplicas(LoseReplicas),
    /// See [`SettleLosses`].
    #[prost(message, tag = "76")]
    SettleLosses(SettleLosses),
    /// See [`SetPassword`].
    #[prost(message, tag = "90")]
    SetPassword(SetPassword),
    /// See [`AdmitNode`].
    #[prost(message, tag = "91")]
    AdmitNode(AdmitNode),
    /// See [`RevokeNode`].
    #[prost(message, tag = "92")]
    RevokeNode(RevokeNode),
    /// See [`LoginsFailed`].
    #[prost(message, tag = "93")]
    LoginsFailed(LoginsFailed),
    /// See [`NoteHour`].
    #[prost(message, tag = "94")]
    NoteHour(NoteHour),
}

/// The first tag of [`CommandOp`]; lower ones are fields of [`Command`] itself.
const FIRST_KIND: u32 = 10;

impl CommandOp {
    /// The tag of this kind in the log.
    pub fn kind(&self) -> u32 {
        match self {
            Self::InitCluster(_) => 10,
            Self::RaiseGeneration(_) => 11,
            Self::LeaderElected(_) => 12,
            Self::SetConfig(_) => 13,
            Self::NoteEvent(_) => 14,
            Self::SkipIds(_) => 15,
            Self::MakeDir(_) => 20,
            Self::CreateFile(_) => 21,
            Self::Remove(_) => 22,
            Self::Rename(_) => 23,
            Self::Resize(_) => 24,
            Self::SetAttr(_) => 25,
            Self::RegisterCs(_) => 30,
            Self::FencesRecorded(_) => 31,
            Self::CsLapsed(_) => 32,
            Self::CsStateChanged(_) => 33,
            Self::CsReport(_) => 34,
            Self::OpenSession(_) => 40,
            Self::CloseSession(_) => 41,
            Self::ExpireSession(_) => 42,
            Self::Open(_) => 43,
            Self::Resume(_) => 44,
            Self::Release(_) => 45,
            Self::Revoke(_) => 46,
            Self::ReconcileDone(_) => 47,
            Self::EndReservation(_) => 48,
            Self::AllocateChunks(_) => 50,
            Self::ChunkCreated(_) => 51,
            Self::ReplaceCreating(_) => 52,
            Self::PurgeChunks(_) => 53,
            Self::ChunksPurged(_) => 54,
            Self::DropMember(_) => 55,
            Self::JoinMembers(_) => 56,
            Self::PromoteMembers(_) => 57,
            Self::VersionsInstalled(_) => 58,
            Self::MakeNode(_) => 60,
            Self::LinkNode(_) => 61,
            Self::UnlinkNode(_) => 62,
            Self::RenameNode(_) => 63,
            Self::SetInode(_) => 64,
            Self::SetXattr(_) => 65,
            Self::RemoveXattr(_) => 66,
            Self::AddReplicas(_) => 70,
            Self::RemoveReplicas(_) => 71,
            Self::ReleaseCs(_) => 72,
            Self::DropCs(_) => 73,
            Self::QuarantineReplicas(_) => 74,
            Self::LoseReplicas(_) => 75,
            Self::SettleLosses(_) => 76,
            Self::SetPassword(_) => 90,
            Self::AdmitNode(_) => 91,
            Self::RevokeNode(_) => 92,
            Self::LoginsFailed(_) => 93,
            Self::NoteHour(_) => 94,
        }
    }

    /// Whether a repetition answers the same by itself, so that its (possibly large) outcome need not be kept.
    ///
    /// Allocation returns what is already allocated, a registration is repeated under the same nonce, and
    /// acknowledgements are absorbed.
    pub fn is_idempotent_by_itself(&self) -> bool {
        matches!(
            self,
            Self::RegisterCs(_)
                | Self::FencesRecorded(_)
                | Self::CsLapsed(_)
                | Self::CsReport(_)
                | Self::ReconcileDone(_)
                | Self::AllocateChunks(_)
                | Self::ChunkCreated(_)
                | Self::PurgeChunks(_)
                | Self::ChunksPurged(_)
                | Self::DropMember(_)
                | Self::JoinMembers(_)
                | Self::PromoteMembers(_)
                | Self::VersionsInstalled(_)
                | Self::AddReplicas(_)
                | Self::RemoveReplicas(_)
                | Self::ReleaseCs(_)
                | Self::DropCs(_)
                | Self::QuarantineReplicas(_)
                | Self::LoseReplicas(_)
                | Self::SettleLosses(_)
        )
    }
}

/// Why an entry of the log cannot be applied by this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Not a protobuf message at all: the log is damaged below its own checksums, or is not a log.
    #[error("a log entry of {length} bytes is not a command: {source}")]
    Unreadable {
        /// Bytes of the entry.
        length: usize,
        /// What the decoder says.
        source: prost::DecodeError,
    },
    /// A kind of command that a later version added.
    #[error("the log holds a command of kind {kind}, which this version does not know: run a later version")]
    UnknownKind {
        /// Its tag.
        kind: u32,
    },
    /// A known kind with a field that a later version added.
    #[error(
        "the log holds a command of kind {kind} with fields this version does not know: run a later version"
    )]
    UnknownFields {
        /// The tag of the kind.
        kind: u32,
    },
    /// No kind at all.
    #[error("the log holds a command without a kind")]
    NoKind,
}

impl Command {
    /// A command of the leader itself.
    pub fn internal(now_ms: u64, op: CommandOp) -> Self {
        Self { now_ms, request: None, op: Some(op) }
    }

    /// A command on behalf of a requester.
    pub fn requested(now_ms: u64, client_id: u64, request_id: u64, op: CommandOp) -> Self {
        Self { now_ms, request: Some(RequestId { client_id, request_id }), op: Some(op) }
    }

    /// Writes the entry for the log.
    pub fn encode_log(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// Reads an entry of the log.
    ///
    /// # Errors
    /// [`CommandError`] if this version would not apply the entry exactly as its writer did. The server must
    /// then stop: skipping an entry makes it differ from its peers for ever (C12).
    pub fn decode_log(bytes: &[u8]) -> Result<Self, CommandError> {
        let command =
            Self::decode(bytes).map_err(|source| CommandError::Unreadable { length: bytes.len(), source })?;
        let Some(op) = &command.op else {
            return Err(
                first_kind(bytes).map_or(CommandError::NoKind, |kind| CommandError::UnknownKind { kind })
            );
        };
        if command.encode_to_vec() != bytes {
            return Err(CommandError::UnknownFields { kind: op.kind() });
        }
        Ok(command)
    }
}

/// The tag of the first field that could be a kind. The bytes have been decoded once, so they are well-formed.
fn first_kind(mut bytes: &[u8]) -> Option<u32> {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes).ok()?;
        if tag >= FIRST_KIND {
            return Some(tag);
        }
        skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).ok()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Command {
        let op = CommandOp::SetConfig(SetConfig {
            key: "gen.lease_term".into(),
            value: "30".into(),
            origin: String::new(),
        });
        Command::requested(5, 9, 3, op)
    }

    #[test]
    fn an_entry_survives_the_log() {
        let command = sample();
        assert_eq!(Command::decode_log(&command.encode_log()), Ok(command));
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let mut bytes = Command { op: None, ..sample() }.encode_to_vec();
        prost::encoding::string::encode(99, &"later".to_owned(), &mut bytes);
        assert_eq!(Command::decode_log(&bytes), Err(CommandError::UnknownKind { kind: 99 }));
    }

    #[test]
    fn an_unknown_field_is_not_dropped_silently() {
        let mut bytes = sample().encode_log();
        prost::encoding::uint64::encode(7, &1, &mut bytes);
        assert_eq!(Command::decode_log(&bytes), Err(CommandError::UnknownFields { kind: 13 }));
    }

    #[test]
    fn an_unknown_field_inside_a_kind_is_not_dropped_silently() {
        #[derive(Clone, PartialEq, Message)]
        struct LaterSetConfig {
            #[prost(string, tag = "1")]
            key: String,
            #[prost(uint64, tag = "90")]
            added: u64,
        }
        let mut bytes = Vec::new();
        let later = LaterSetConfig { key: "gen.lease_term".into(), added: 1 };
        prost::encoding::message::encode(13, &later, &mut bytes);
        assert_eq!(Command::decode_log(&bytes), Err(CommandError::UnknownFields { kind: 13 }));
    }

    #[test]
    fn an_empty_or_damaged_entry_is_refused() {
        assert_eq!(Command::decode_log(&[]), Err(CommandError::NoKind));
        let bytes = sample().encode_log();
        let cut = &bytes[..bytes.len() - 1];
        assert!(matches!(Command::decode_log(cut), Err(CommandError::Unreadable { .. })));
    }
}
