//! Why a command was not carried out. A refused command changes nothing but the list of events.

use prost::Message;

/// The reason of a refusal. Its text says what is wrong and, where there is something, what to do.
#[derive(Clone, PartialEq, Eq, prost::Oneof, thiserror::Error)]
pub enum Refusal {
    /// No `InitCluster` has been applied.
    #[error("this metadata server holds no cluster yet: create one with make-mds -I")]
    #[prost(message, tag = "1")]
    NotInitialized(()),
    /// `InitCluster` on a cluster that exists.
    #[error("this metadata server already holds the cluster '{0}'")]
    #[prost(string, tag = "2")]
    AlreadyInitialized(String),
    /// A field of the command cannot be what it is.
    #[error("the request is malformed: {0}")]
    #[prost(string, tag = "3")]
    Malformed(String),
    /// An earlier request of the same requester whose answer is no longer kept (C11).
    #[error("request {} of requester {:#x} is older than those whose answers are kept (from {})", .0.request, .0.client, .0.oldest)]
    #[prost(message, tag = "4")]
    RequestTooOld(RequestWindow),
    /// A request number that was used for another kind of command.
    #[error("request {} of requester {:#x} was another kind of request before", .0.request, .0.client)]
    #[prost(message, tag = "5")]
    RequestReused(RequestWindow),

    /// The text is not a path inside the cluster.
    #[error("{:?} is not a path inside the cluster: {}", .0.path, .0.reason)]
    #[prost(message, tag = "10")]
    BadPath(BadPath),
    /// Nothing is there.
    #[error("{0}: no such file or directory")]
    #[prost(string, tag = "11")]
    NotFound(String),
    /// A component of the path is a file.
    #[error("{0}: not a directory")]
    #[prost(string, tag = "12")]
    NotADirectory(String),
    /// A file was expected.
    #[error("{0}: is a directory")]
    #[prost(string, tag = "13")]
    IsADirectory(String),
    /// Something is there.
    #[error("{0}: already exists")]
    #[prost(string, tag = "14")]
    Exists(String),
    /// The directory has entries.
    #[error("{0}: the directory is not empty")]
    #[prost(string, tag = "15")]
    NotEmpty(String),
    /// The top directory can be neither removed nor moved nor replaced.
    #[error("the top directory of the cluster cannot be removed, moved or replaced")]
    #[prost(message, tag = "16")]
    TopDirectory(()),
    /// A directory was to move below itself.
    #[error("{0}: a directory cannot be moved below itself")]
    #[prost(string, tag = "17")]
    BelowItself(String),
    /// No file has this id (it may be deleted).
    #[error("there is no file with the id {0:#x}; it may have been deleted")]
    #[prost(uint64, tag = "18")]
    UnknownFile(u64),

    /// An attribute has a value it cannot have.
    #[error("{}={} is not possible: {}", .0.name, .0.value, .0.reason)]
    #[prost(message, tag = "20")]
    BadAttribute(BadAttribute),
    /// Erasure coding was asked for.
    #[error("encoding={0} is not supported by this version: use replicas=N[:M]")]
    #[prost(string, tag = "21")]
    EncodingUnsupported(String),
    /// The chunk size of a file is fixed when it is created.
    #[error("{0}: the chunk size of a file is fixed when it is created")]
    #[prost(string, tag = "22")]
    ChunkSizeFixed(String),
    /// The file would have more chunks than a file can have.
    #[error("a size of {} bytes is over the limit of {} bytes for this chunk size", .0.size, .0.limit)]
    #[prost(message, tag = "23")]
    FileTooLarge(FileTooLarge),
    /// The new end lies inside a chunk that holds data.
    #[error(
        "the new end lies inside a chunk: shrink under the write lease (the writer zeroes the rest of the chunk), or to a multiple of {0} bytes"
    )]
    #[prost(uint64, tag = "24")]
    ShrinkNeedsLease(u64),
    /// The new size is below the present one, and that was not allowed.
    #[error("a size below the present {0} bytes would destroy data: allow it explicitly")]
    #[prost(uint64, tag = "25")]
    ShrinkNotAllowed(u64),
    /// Behind the end may lie what a dead writer left.
    #[error(
        "the last writer of the file did not close it: before the file grows, the chunk at its end has to be settled; open it for writing first"
    )]
    #[prost(uint64, tag = "26")]
    EndUnsettled(u64),

    /// The client has no live session.
    #[error("client CL#{0} has no session: open one")]
    #[prost(uint32, tag = "30")]
    NoSession(u32),
    /// The token is not that of the client's session: a later process took the session over.
    #[error("the session of client CL#{0} was taken over: this process must stop")]
    #[prost(uint32, tag = "31")]
    WrongToken(u32),
    /// Another process holds the session of this client and its token was not presented.
    #[error(
        "client {} on {} has a live session CL#{}: wait until it expires, or use vstorage revoke",
        .0.uuid, .0.host, .0.client
    )]
    #[prost(message, tag = "32")]
    SessionTaken(SessionTaken),
    /// The client does not hold the lease it refers to.
    #[error("client CL#{} does not hold the lease on file {:#x}", .0.client, .0.file)]
    #[prost(message, tag = "33")]
    NotHolder(NotHolder),
    /// The client refers to an epoch that is not that of its lease.
    #[error("file {:#x} is at epoch {:#x}, not {:#x}", .0.file, .0.current, .0.given)]
    #[prost(message, tag = "34")]
    WrongEpoch(WrongEpoch),
    /// Somebody holds a lease on the file.
    #[error("file {:#x} is in use by {}", .0.file, clients(&.0.by))]
    #[prost(message, tag = "35")]
    InUse(super::outcome::Held),
    /// The lease cannot be had back: somebody else was granted since (C1).
    #[error("the lease on file {0:#x} is lost: somebody else was granted since, or it was revoked")]
    #[prost(uint64, tag = "36")]
    ResumeLost(u64),

    /// A chunk index beyond the end of the file.
    #[error("chunk {} lies beyond the end of the file ({} chunks)", .0.index, .0.chunks)]
    #[prost(message, tag = "40")]
    BeyondEnd(BeyondEnd),
    /// More items in one command than the limit.
    #[error("{} items in one request are over the limit of {}", .0.given, .0.limit)]
    #[prost(message, tag = "41")]
    TooMany(TooMany),
    /// There is no place for the replicas.
    #[error(
        "cannot place {} replicas at tier {}: {} chunk servers can take them ({})",
        .0.needed, .0.tier, .0.found, .0.why
    )]
    #[prost(message, tag = "42")]
    NoPlace(NoPlace),
    /// No chunk with this id is being created at that chunk server.
    #[error("chunk {:#x} is not being created on CS#{}", .0.chunk, .0.cs)]
    #[prost(message, tag = "43")]
    NotCreating(ChunkAt),
    /// The chunk is not in the delete list.
    #[error("chunk {0:#x} is not in the delete list")]
    #[prost(uint64, tag = "44")]
    NotDeleted(u64),

    /// No chunk server with this id or UUID.
    #[error("CS#{0} is not known to this cluster")]
    #[prost(uint32, tag = "50")]
    UnknownCs(u32),
    /// The command refers to another registration of the chunk server than the current one (C10).
    #[error("this is not the current registration of CS#{0}: register again")]
    #[prost(uint32, tag = "51")]
    WrongRegistration(u32),
    /// The chunk server's directory and its claimed id do not belong together.
    #[error("the directory {} belongs to CS#{}, not to CS#{}", .0.uuid, .0.known, .0.claimed)]
    #[prost(message, tag = "52")]
    CsIdMismatch(CsIdMismatch),
    /// A second instance of a directory whose first one is registered.
    #[error(
        "CS#{0} is registered by another instance of its directory: stop one of the two; a single one may register after the term has passed"
    )]
    #[prost(uint32, tag = "53")]
    CsTwice(u32),
    /// The leader's timers asked for a step that is not in the table.
    #[error("CS#{} cannot go from {} to {}", .0.cs, .0.from, .0.to)]
    #[prost(message, tag = "54")]
    BadCsStep(BadCsStep),

    /// A chunk server cannot leave as it was asked to.
    #[error("CS#{} cannot be removed: {}", .0.cs, .0.why)]
    #[prost(message, tag = "55")]
    CsStays(CsStays),
    /// The operator has removed this chunk server.
    #[error("CS#{0} was removed from the cluster: set up a new chunk server on its disk")]
    #[prost(uint32, tag = "56")]
    CsDropped(u32),

    /// No such parameter.
    #[error("there is no parameter '{}'{}", .0.key, nearest(&.0.nearest))]
    #[prost(message, tag = "60")]
    UnknownParameter(UnknownParameter),
    /// The value is not in the parameter's range.
    #[error("{}: '{}' is not a number from {} to {} ({})", .0.key, .0.value, .0.min, .0.max, .0.unit)]
    #[prost(message, tag = "61")]
    BadValue(BadValue),

    /// Neither a directory nor a file, but one of those was asked for by its path.
    #[error("{0}: neither a file nor a directory")]
    #[prost(string, tag = "70")]
    NotAFile(String),
    /// A name is longer than names can be.
    #[error("a name of {0} bytes is longer than names can be")]
    #[prost(uint64, tag = "71")]
    NameTooLong(u64),
    /// A name cannot be one.
    #[error("this is not a name: {0}")]
    #[prost(string, tag = "72")]
    BadName(String),
    /// No inode has this id any more.
    #[error("there is no inode with the id {0:#x}; it may have been deleted")]
    #[prost(uint64, tag = "73")]
    Gone(u64),
    /// A directory cannot have a second name.
    #[error("{0}: a directory cannot have a second name")]
    #[prost(string, tag = "74")]
    NotLinkable(String),
    /// An inode has as many names as it can have.
    #[error("{0}: the file has as many names as a file can have")]
    #[prost(string, tag = "75")]
    TooManyLinks(String),
    /// No such extended attribute.
    #[error("there is no extended attribute '{0}'")]
    #[prost(string, tag = "76")]
    NoXattr(String),
    /// The extended attributes of the inode would take more than they may.
    #[error("extended attributes of {0} bytes are over the limit of an inode")]
    #[prost(uint64, tag = "77")]
    XattrsFull(u64),
    /// The value of an extended attribute is too long.
    #[error("a value of {0} bytes is over the limit of an extended attribute")]
    #[prost(uint64, tag = "78")]
    ValueTooLarge(u64),
    /// No node has this number.
    #[error("there is no node {0}: see vstorage list-nodes")]
    #[prost(uint64, tag = "90")]
    UnknownNode(u64),
    /// The password was changed by somebody else meanwhile.
    #[error("the password was changed by somebody else meanwhile")]
    #[prost(message, tag = "91")]
    PasswordChanged(()),
}

fn nearest(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(": do you mean '{name}'?") }
}

fn clients(ids: &[u32]) -> String {
    ids.iter().map(|id| format!("CL#{id}")).collect::<Vec<_>>().join(", ")
}

/// What a refusal means to the one who asked; maps to a wire status and an `errno` at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request can never succeed as it is.
    Invalid,
    /// What it names is not there.
    NotFound,
    /// What it would make is there already, or stands in the way.
    Exists,
    /// Somebody else holds it; it may succeed later.
    Busy,
    /// The sender is not, or no longer, who it says it is: it must start a new session or registration.
    Stale,
    /// There is no room; it may succeed later.
    NoSpace,
}

impl Refusal {
    /// Classifies the refusal.
    pub fn kind(&self) -> RefusalKind {
        match self {
            Self::AlreadyInitialized(_)
            | Self::Malformed(_)
            | Self::RequestTooOld(_)
            | Self::RequestReused(_)
            | Self::BadPath(_)
            | Self::NotADirectory(_)
            | Self::IsADirectory(_)
            | Self::TopDirectory(())
            | Self::BelowItself(_)
            | Self::BadAttribute(_)
            | Self::EncodingUnsupported(_)
            | Self::ChunkSizeFixed(_)
            | Self::FileTooLarge(_)
            | Self::ShrinkNeedsLease(_)
            | Self::ShrinkNotAllowed(_)
            | Self::EndUnsettled(_)
            | Self::BeyondEnd(_)
            | Self::TooMany(_)
            | Self::CsIdMismatch(_)
            | Self::BadCsStep(_)
            | Self::CsStays(_)
            | Self::CsDropped(_)
            | Self::UnknownParameter(_)
            | Self::BadValue(_)
            | Self::NotAFile(_)
            | Self::NameTooLong(_)
            | Self::BadName(_)
            | Self::NotLinkable(_)
            | Self::TooManyLinks(_)
            | Self::XattrsFull(_)
            | Self::ValueTooLarge(_) => RefusalKind::Invalid,
            Self::NotInitialized(())
            | Self::NotFound(_)
            | Self::UnknownFile(_)
            | Self::NotCreating(_)
            | Self::NotDeleted(_)
            | Self::UnknownNode(_)
            | Self::UnknownCs(_)
            | Self::Gone(_)
            | Self::NoXattr(_) => RefusalKind::NotFound,
            Self::Exists(_) | Self::NotEmpty(_) => RefusalKind::Exists,
            Self::InUse(_) | Self::SessionTaken(_) | Self::CsTwice(_) => RefusalKind::Busy,
            Self::NoSession(_)
            | Self::WrongToken(_)
            | Self::NotHolder(_)
            | Self::WrongEpoch(_)
            | Self::ResumeLost(_)
            | Self::PasswordChanged(())
            | Self::WrongRegistration(_) => RefusalKind::Stale,
            Self::NoPlace(_) => RefusalKind::NoSpace,
        }
    }

    pub(crate) fn malformed(what: &str) -> Self {
        Self::Malformed(what.to_owned())
    }
}

/// See [`Refusal::RequestTooOld`] and [`Refusal::RequestReused`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RequestWindow {
    /// The requester.
    #[prost(uint64, tag = "1")]
    pub client: u64,
    /// The request.
    #[prost(uint64, tag = "2")]
    pub request: u64,
    /// The lowest request that would not be too old.
    #[prost(uint64, tag = "3")]
    pub oldest: u64,
}

/// See [`Refusal::CsStays`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CsStays {
    /// The chunk server.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// What is in the way, and what to do.
    #[prost(string, tag = "2")]
    pub why: String,
}

/// See [`Refusal::BadPath`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BadPath {
    /// The text.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Which rule it breaks.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// See [`Refusal::BadAttribute`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BadAttribute {
    /// The attribute.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
    /// What it may be.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// See [`Refusal::FileTooLarge`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct FileTooLarge {
    /// What was asked, in bytes.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// The largest size, in bytes.
    #[prost(uint64, tag = "2")]
    pub limit: u64,
}

/// See [`Refusal::SessionTaken`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SessionTaken {
    /// The client's UUID.
    #[prost(string, tag = "1")]
    pub uuid: String,
    /// The host of the live session.
    #[prost(string, tag = "2")]
    pub host: String,
    /// Its client id.
    #[prost(uint32, tag = "3")]
    pub client: u32,
}

/// See [`Refusal::NotHolder`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct NotHolder {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub file: u64,
    /// The client.
    #[prost(uint32, tag = "2")]
    pub client: u32,
}

/// See [`Refusal::WrongEpoch`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct WrongEpoch {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub file: u64,
    /// The epoch in the command.
    #[prost(uint64, tag = "2")]
    pub given: u64,
    /// The file's epoch.
    #[prost(uint64, tag = "3")]
    pub current: u64,
}

/// See [`Refusal::BeyondEnd`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct BeyondEnd {
    /// The index.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// Chunks that the file's size covers.
    #[prost(uint64, tag = "2")]
    pub chunks: u64,
}

/// See [`Refusal::TooMany`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct TooMany {
    /// How many there were.
    #[prost(uint64, tag = "1")]
    pub given: u64,
    /// How many there may be.
    #[prost(uint64, tag = "2")]
    pub limit: u64,
}

/// See [`Refusal::NoPlace`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NoPlace {
    /// Replicas wanted.
    #[prost(uint32, tag = "1")]
    pub needed: u32,
    /// Replicas that can be placed.
    #[prost(uint32, tag = "2")]
    pub found: u32,
    /// The tier asked for.
    #[prost(uint32, tag = "3")]
    pub tier: u32,
    /// What is short.
    #[prost(string, tag = "4")]
    pub why: String,
}

/// See [`Refusal::NotCreating`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ChunkAt {
    /// The chunk.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// The chunk server.
    #[prost(uint32, tag = "2")]
    pub cs: u32,
}

/// See [`Refusal::CsIdMismatch`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CsIdMismatch {
    /// The UUID of the directory.
    #[prost(string, tag = "1")]
    pub uuid: String,
    /// The id it was given.
    #[prost(uint32, tag = "2")]
    pub known: u32,
    /// The id it claims.
    #[prost(uint32, tag = "3")]
    pub claimed: u32,
}

/// See [`Refusal::BadCsStep`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BadCsStep {
    /// The chunk server.
    #[prost(uint32, tag = "1")]
    pub cs: u32,
    /// Its state.
    #[prost(string, tag = "2")]
    pub from: String,
    /// The state asked for.
    #[prost(string, tag = "3")]
    pub to: String,
}

/// See [`Refusal::UnknownParameter`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UnknownParameter {
    /// The name given.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The most similar name there is; empty if none is similar.
    #[prost(string, tag = "2")]
    pub nearest: String,
}

/// See [`Refusal::BadValue`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BadValue {
    /// The parameter.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The text given.
    #[prost(string, tag = "2")]
    pub value: String,
    /// The least value.
    #[prost(uint64, tag = "3")]
    pub min: u64,
    /// The greatest value.
    #[prost(uint64, tag = "4")]
    pub max: u64,
    /// The unit.
    #[prost(string, tag = "5")]
    pub unit: String,
}

/// Wraps [`Refusal`] so that it can be stored.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct StoredRefusal {
    /// The refusal.
    #[prost(
        oneof = "Refusal",
        tags = "1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23, 24, 25, 26, 30, 31, 32, 33, 34, 35, 36, 40, 41, 42, 43, 44, 50, 51, 52, 53, 54, 55, 56, 60, 61, 70, 71, 72, 73, 74, 75, 76, 77, 78, 90, 91"
    )]
    pub(crate) refusal: Option<Refusal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_what_is_wrong_and_what_to_do() {
        let refusal = Refusal::UnknownParameter(UnknownParameter {
            key: "gen.lease_tern".into(),
            nearest: "gen.lease_term".into(),
        });
        assert_eq!(
            refusal.to_string(),
            "there is no parameter 'gen.lease_tern': do you mean 'gen.lease_term'?"
        );
        let refusal =
            Refusal::InUse(crate::state::outcome::Held { file: 16, by: vec![2049, 2050], reserved: false });
        assert_eq!(refusal.to_string(), "file 0x10 is in use by CL#2049, CL#2050");
        assert_eq!(refusal.kind(), RefusalKind::Busy);
    }

    /// One of each variant.
    fn all() -> Vec<Refusal> {
        vec![
            Refusal::NotInitialized(()),
            Refusal::AlreadyInitialized("x".into()),
            Refusal::Malformed("x".into()),
            Refusal::RequestTooOld(Default::default()),
            Refusal::RequestReused(Default::default()),
            Refusal::BadPath(Default::default()),
            Refusal::NotFound("x".into()),
            Refusal::NotADirectory("x".into()),
            Refusal::IsADirectory("x".into()),
            Refusal::Exists("x".into()),
            Refusal::NotEmpty("x".into()),
            Refusal::TopDirectory(()),
            Refusal::BelowItself("x".into()),
            Refusal::UnknownFile(1),
            Refusal::BadAttribute(Default::default()),
            Refusal::EncodingUnsupported("x".into()),
            Refusal::ChunkSizeFixed("x".into()),
            Refusal::FileTooLarge(Default::default()),
            Refusal::ShrinkNeedsLease(1),
            Refusal::ShrinkNotAllowed(1),
            Refusal::EndUnsettled(1),
            Refusal::NoSession(1),
            Refusal::WrongToken(1),
            Refusal::SessionTaken(Default::default()),
            Refusal::NotHolder(Default::default()),
            Refusal::WrongEpoch(Default::default()),
            Refusal::InUse(Default::default()),
            Refusal::ResumeLost(1),
            Refusal::BeyondEnd(Default::default()),
            Refusal::TooMany(Default::default()),
            Refusal::NoPlace(Default::default()),
            Refusal::NotCreating(Default::default()),
            Refusal::NotDeleted(1),
            Refusal::UnknownCs(1),
            Refusal::WrongRegistration(1),
            Refusal::CsIdMismatch(Default::default()),
            Refusal::CsTwice(1),
            Refusal::BadCsStep(Default::default()),
            Refusal::CsStays(Default::default()),
            Refusal::CsDropped(1),
            Refusal::UnknownParameter(Default::default()),
            Refusal::BadValue(Default::default()),
            Refusal::NotAFile("x".into()),
            Refusal::NameTooLong(1),
            Refusal::BadName("x".into()),
            Refusal::Gone(1),
            Refusal::NotLinkable("x".into()),
            Refusal::TooManyLinks("x".into()),
            Refusal::NoXattr("x".into()),
            Refusal::XattrsFull(1),
            Refusal::ValueTooLarge(1),
            Refusal::UnknownNode(1),
            Refusal::PasswordChanged(()),
        ]
    }

    #[test]
    fn every_refusal_can_be_stored_and_read() {
        // A tag that is missing in the list of StoredRefusal would be dropped silently.
        for refusal in all() {
            assert!(!refusal.to_string().is_empty());
            let stored = StoredRefusal { refusal: Some(refusal) };
            assert_eq!(StoredRefusal::decode(&*stored.encode_to_vec()), Ok(stored));
        }
    }
}
