//! Statuses: what a response tells its caller to do.
//!
//! A code describes itself: its top four bits say who is to blame, the next four what the caller does,
//! the low byte numbers it. So a status added later still means something to a program that does not
//! know it, and [`Status::blame`] and [`Status::action`] need no table.

use std::fmt;

/// Who or what is to blame for an outcome (DESIGN §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blame {
    /// Nobody: it worked.
    Nobody,
    /// The peer or the road to it, now: it may work later or elsewhere.
    Peer,
    /// Bytes are not what they were.
    Corrupt,
    /// A disk failed or is full.
    Device,
    /// The request was understood and is not allowed in the present state.
    Refused,
    /// The request makes no sense: a bug or a version gap of the caller.
    Misuse,
    /// A class this code does not know.
    Unknown,
}

/// What the caller does about an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Go on: it worked.
    Done,
    /// Send the same request again, with the same sequence number or request id, at once.
    RetrySame,
    /// Send the same request again after `retry_after_ms` of the body, or after a growing pause.
    RetryAfter,
    /// Send the same request to the server that `hint` of the body names, else look for the master.
    Redirect,
    /// Close this connection; send the same request again on a new one.
    Reconnect,
    /// Flush the file (C5), then send the same request again.
    FlushFirst,
    /// Get the file's map from the MDS again, then ask the members it names.
    RefreshMap,
    /// Run the reconciler (C5) over the chunk or wait until its holder has, then ask again.
    Settle,
    /// Read from another member, and report this one.
    ReadElsewhere,
    /// Report the replica to the MDS and go on with the map it answers (C3).
    ReportMember,
    /// Open a new session (client) or register again (CS), before anything else.
    Rejoin,
    /// The open is over: whoever needs the file opens it again, at a higher epoch.
    Reopen,
    /// Hand the error to whoever asked; sending the request again cannot help.
    GiveUp,
}

impl Blame {
    const fn from_code(code: u16) -> Self {
        match code >> 12 {
            0 => Self::Nobody,
            1 => Self::Peer,
            2 => Self::Corrupt,
            3 => Self::Device,
            4 => Self::Refused,
            5 => Self::Misuse,
            _ => Self::Unknown,
        }
    }

    /// Name in logs and in `docs/formats/wire.md`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Peer => "peer",
            Self::Corrupt => "corrupt",
            Self::Device => "device",
            Self::Refused => "refused",
            Self::Misuse => "misuse",
            Self::Unknown => "unknown",
        }
    }
}

impl Action {
    const fn from_code(code: u16) -> Self {
        match (code >> 8) & 0xf {
            0 if code == 0 => Self::Done,
            1 => Self::RetrySame,
            2 => Self::RetryAfter,
            3 => Self::Redirect,
            4 => Self::Reconnect,
            5 => Self::FlushFirst,
            6 => Self::RefreshMap,
            7 => Self::Settle,
            8 => Self::ReadElsewhere,
            9 => Self::ReportMember,
            0xa => Self::Rejoin,
            0xb => Self::Reopen,
            _ => Self::GiveUp,
        }
    }

    /// Name in logs and in `docs/formats/wire.md`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::RetrySame => "retry same",
            Self::RetryAfter => "retry after",
            Self::Redirect => "redirect",
            Self::Reconnect => "reconnect",
            Self::FlushFirst => "flush first",
            Self::RefreshMap => "refresh map",
            Self::Settle => "settle",
            Self::ReadElsewhere => "read elsewhere",
            Self::ReportMember => "report member",
            Self::Rejoin => "rejoin",
            Self::Reopen => "reopen",
            Self::GiveUp => "give up",
        }
    }
}

/// Builds the enum, its codes, names and texts from one table.
macro_rules! statuses {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $name:literal, $text:literal;)+) => {
        /// Outcome of a request. The codes are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Status {
            $($(#[doc = $doc])+ $variant,)+
            /// A status this code does not know; its class and action still hold. Made by
            /// [`Status::from_code`] only.
            Unknown(u16),
        }

        impl Status {
            /// Every status this code knows, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The code on the wire.
            pub const fn code(self) -> u16 {
                match self {
                    $(Self::$variant => $code,)+
                    Self::Unknown(code) => code,
                }
            }

            /// The status of a code. Never fails: see [`Status::Unknown`].
            pub const fn from_code(code: u16) -> Self {
                match code {
                    $($code => Self::$variant,)+
                    code => Self::Unknown(code),
                }
            }

            /// Stable name, for logs and `--json`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                    Self::Unknown(_) => "unknown",
                }
            }

            /// What is wrong, in one clause for an operator.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Unknown(_) => "the server answered with a status this program does not know",
                }
            }
        }
    };
}

statuses! {
    /// Done.
    Ok = 0x0000, "ok", "done";

    /// The time budget ran out before an answer was known. Whether the request was executed is not
    /// known either; sending it again is safe (C11).
    Timeout = 0x1101, "timeout", "the request did not finish in time";
    /// Busy: a queue is at its bound (C13). `retry_after_ms` says when to come back.
    Retry = 0x1201, "retry", "the server is busy";
    /// This CS has not renewed its registration and answers no data requests until it has (C2).
    RegistrationLapsed = 0x1202, "registration_lapsed", "the chunk server has lost its registration and is renewing it";
    /// This MDS is not the master. `hint` is the master's address, empty if unknown.
    NotMaster = 0x1301, "not_master", "this metadata server is not the master";
    /// The server is stopping and takes no new requests.
    Stopping = 0x1401, "stopping", "the server is stopping";
    /// The list of writes not yet stable is full (C5).
    NeedFlush = 0x1501, "need_flush", "too many writes are not flushed yet";
    /// The chunk has not been reconciled since a lease ended (C5).
    Unsettled = 0x1701, "unsettled", "replicas of the chunk have not been reconciled yet";
    /// The server met a state that should not exist. Its log has the details.
    Internal = 0x1f01, "internal", "the server met an internal error, see its log";

    /// Payload or body arrived damaged; nothing was done with it (C8).
    ChecksumMismatch = 0x2101, "checksum_mismatch", "data was damaged on the way";
    /// What this replica has stored does not match its checksum (C8).
    Corrupt = 0x2801, "corrupt", "the stored replica is corrupt";

    /// No space: on the CS, or on too few of them. Back-pressure, not failure (C4, C13).
    NoSpace = 0x3201, "no_space", "not enough free disk space";
    /// A device of this CS failed; all its replicas are failed for good (C4).
    DeviceFailed = 0x3901, "device_failed", "the disk of the chunk server failed";

    /// The CS has another version of the chunk. `detail` is the one it has.
    StaleVersion = 0x4601, "stale_version", "the request names another version of the chunk";
    /// The CS has no replica of any chunk of the file.
    UnknownFile = 0x4602, "unknown_file", "the chunk server holds no chunk of this file";
    /// The CS has no replica of the chunk: a failed replica, never an empty one (C9).
    UnknownChunk = 0x4901, "unknown_chunk", "the chunk server holds no replica of this chunk";
    /// The MDS does not know this CS session: register again.
    NotRegistered = 0x4a01, "not_registered", "the chunk server is not registered";
    /// The MDS does not know this client session: it expired or was revoked.
    SessionExpired = 0x4a02, "session_expired", "the session has expired";
    /// A higher epoch of the file is recorded (C1, C2). `detail` is that epoch.
    StaleEpoch = 0x4b01, "stale_epoch", "the file has been opened again since";
    /// Another client holds the lease (EBUSY). `detail` is its client id, `hint` its host.
    LeaseHeld = 0x4f01, "lease_held", "the file is in use by another client";
    /// The name is taken.
    AlreadyExists = 0x4f02, "already_exists", "the name is already taken";
    /// No such file, directory, client, setting or server.
    NotFound = 0x4f03, "not_found", "no such object";
    /// The directory has entries.
    NotEmpty = 0x4f04, "not_empty", "the directory is not empty";
    /// The open, the file or the server is read-only.
    ReadOnly = 0x4f05, "read_only", "writing is not allowed here";
    /// The peer's role or certificate does not allow this.
    Forbidden = 0x4f06, "forbidden", "the operation is not permitted";
    /// The peer belongs to another cluster.
    WrongCluster = 0x4f07, "wrong_cluster", "the peer belongs to another cluster";
    /// A component of the path, or the target, is not a directory.
    NotADirectory = 0x4f08, "not_a_directory", "not a directory";
    /// The target is a directory.
    IsADirectory = 0x4f09, "is_a_directory", "is a directory";

    /// A name is longer than names can be (ENAMETOOLONG).
    NameTooLong = 0x4f0a, "name_too_long", "the name is too long";
    /// There is no extended attribute of this name (ENODATA).
    NoData = 0x4f0b, "no_data", "there is no such extended attribute";
    /// The inode has as many names as it can have (EMLINK).
    TooManyLinks = 0x4f0c, "too_many_links", "the file has too many names";
    /// The size is beyond what a file can have (EFBIG).
    FileTooLarge = 0x4f0d, "file_too_large", "the file would be too large";
    /// The extended attributes of the inode would take more than they may (ENOSPC).
    XattrsFull = 0x4f0e, "xattrs_full", "the extended attributes of the file take too much space";
    /// The value of an extended attribute is longer than it can be (E2BIG).
    ValueTooLarge = 0x4f0f, "value_too_large", "the value is too long";
    /// The inode that is named by its id is there no more (ESTALE).
    Gone = 0x4f10, "gone", "the file was removed";

    /// The operation, or a feature it demands, is not known to this server.
    Unsupported = 0x5f01, "unsupported", "the server does not support the operation";
    /// The request contradicts itself or the state it names.
    Invalid = 0x5f02, "invalid", "the request is not valid";
    /// The request is beyond a limit.
    TooLarge = 0x5f03, "too_large", "the request is too large";
    /// The sequence number is below `done`: the sender has already seen its outcome (C11).
    DedupRefused = 0x5f04, "dedup_refused", "the request is a late duplicate";
}

impl Status {
    /// Who is to blame. Holds for unknown codes too.
    pub const fn blame(self) -> Blame {
        Blame::from_code(self.code())
    }

    /// What the caller does. Holds for unknown codes too; an unknown action is [`Action::GiveUp`].
    pub const fn action(self) -> Action {
        Action::from_code(self.code())
    }

    /// The number of `errno` on Linux for whoever asked, when the caller can do no more about it: 0 for `Ok`. Each of the
    /// refusals of the namespace has its own; whatever a program cannot know by its number is EIO.
    pub const fn errno(self) -> i32 {
        match self {
            Self::Ok => 0,
            Self::Forbidden => 1,                   // EPERM
            Self::NotFound => 2,                    // ENOENT
            Self::ValueTooLarge => 7,               // E2BIG
            Self::Retry => 11,                      // EAGAIN
            Self::LeaseHeld => 16,                  // EBUSY
            Self::AlreadyExists => 17,              // EEXIST
            Self::NotADirectory => 20,              // ENOTDIR
            Self::IsADirectory => 21,               // EISDIR
            Self::Invalid => 22,                    // EINVAL
            Self::FileTooLarge => 27,               // EFBIG
            Self::NoSpace | Self::XattrsFull => 28, // ENOSPC
            Self::ReadOnly => 30,                   // EROFS
            Self::TooManyLinks => 31,               // EMLINK
            Self::NameTooLong => 36,                // ENAMETOOLONG
            Self::NotEmpty => 39,                   // ENOTEMPTY
            Self::NoData => 61,                     // ENODATA
            Self::TooLarge => 90,                   // EMSGSIZE
            Self::Unsupported => 95,                // EOPNOTSUPP
            Self::Timeout => 110,                   // ETIMEDOUT
            Self::Gone => 116,                      // ESTALE
            _ => 5,                                 // EIO
        }
    }

    /// Whether the request was done.
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::Ok)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(code) => write!(f, "{} (status {code:#06x})", self.text()),
            _ => f.write_str(self.text()),
        }
    }
}

/// Body of each response whose status is not [`Status::Ok`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ErrorBody {
    /// What is wrong and what to do, for an operator. May be empty.
    #[prost(string, tag = "1")]
    pub message: String,
    /// When to come back, in milliseconds from now; 0 = the caller's own pause.
    #[prost(uint32, tag = "2")]
    pub retry_after_ms: u32,
    /// Text the status defines: an address ([`Status::NotMaster`]), a host ([`Status::LeaseHeld`]).
    #[prost(string, tag = "3")]
    pub hint: String,
    /// Number the status defines: the recorded epoch ([`Status::StaleEpoch`]), the version held
    /// ([`Status::StaleVersion`]), the holder's client id ([`Status::LeaseHeld`]).
    #[prost(uint64, tag = "4")]
    pub detail: u64,
}

impl ErrorBody {
    /// Reads the body of a response that failed. A body that cannot be read must not hide the
    /// status, so it counts as empty.
    pub fn lossy(body: &[u8]) -> Self {
        crate::body::decode_body(body).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_round_trip() {
        let mut codes = BTreeSet::new();
        let mut names = BTreeSet::new();
        for &status in Status::ALL {
            assert!(codes.insert(status.code()), "{status:?}");
            assert!(names.insert(status.name()), "{status:?}");
            assert_eq!(Status::from_code(status.code()), status);
        }
        for code in 0..=u16::MAX {
            assert_eq!(Status::from_code(code).code(), code);
            assert_eq!(matches!(Status::from_code(code), Status::Unknown(_)), !codes.contains(&code));
        }
    }

    #[test]
    fn known_statuses_have_a_class_and_an_action() {
        for &status in Status::ALL {
            assert_ne!(status.blame(), Blame::Unknown, "{status:?}");
            assert_eq!(status.is_ok(), status.action() == Action::Done, "{status:?}");
            assert_eq!(status.is_ok(), status.blame() == Blame::Nobody, "{status:?}");
        }
    }

    #[test]
    fn what_callers_rely_on() {
        let table = [
            (Status::Retry, Blame::Peer, Action::RetryAfter),
            (Status::NotMaster, Blame::Peer, Action::Redirect),
            (Status::Timeout, Blame::Peer, Action::RetrySame),
            (Status::Stopping, Blame::Peer, Action::Reconnect),
            (Status::NeedFlush, Blame::Peer, Action::FlushFirst),
            (Status::Unsettled, Blame::Peer, Action::Settle),
            (Status::RegistrationLapsed, Blame::Peer, Action::RetryAfter),
            (Status::ChecksumMismatch, Blame::Corrupt, Action::RetrySame),
            (Status::Corrupt, Blame::Corrupt, Action::ReadElsewhere),
            (Status::NoSpace, Blame::Device, Action::RetryAfter),
            (Status::DeviceFailed, Blame::Device, Action::ReportMember),
            (Status::StaleVersion, Blame::Refused, Action::RefreshMap),
            (Status::UnknownChunk, Blame::Refused, Action::ReportMember),
            (Status::NotRegistered, Blame::Refused, Action::Rejoin),
            (Status::SessionExpired, Blame::Refused, Action::Rejoin),
            (Status::StaleEpoch, Blame::Refused, Action::Reopen),
            (Status::LeaseHeld, Blame::Refused, Action::GiveUp),
            (Status::DedupRefused, Blame::Misuse, Action::GiveUp),
        ];
        for (status, blame, action) in table {
            assert_eq!((status.blame(), status.action()), (blame, action), "{status:?}");
        }
    }

    #[test]
    fn refusals_of_the_namespace_have_their_own_errno() {
        let mut by_errno: BTreeMap<i32, Vec<Status>> = BTreeMap::new();
        for &status in Status::ALL {
            by_errno.entry(status.errno()).or_default().push(status);
        }
        assert_eq!(by_errno.remove(&0), Some(vec![Status::Ok]));
        // Full is full, whatever is.
        assert_eq!(by_errno.remove(&28), Some(vec![Status::NoSpace, Status::XattrsFull]));
        by_errno.remove(&5);
        for (errno, statuses) in by_errno {
            assert_eq!(statuses.len(), 1, "{errno}: {statuses:?}");
        }
        assert_eq!(Status::from_code(0x4fee).errno(), 5);
    }

    #[test]
    fn unknown_codes_keep_their_class() {
        let busy = Status::from_code(0x12ee);
        assert_eq!((busy.blame(), busy.action()), (Blame::Peer, Action::RetryAfter));
        let refused = Status::from_code(0x4fee);
        assert_eq!((refused.blame(), refused.action()), (Blame::Refused, Action::GiveUp));
        // Neither a new class nor a new action is ever taken for success.
        for code in 1..=u16::MAX {
            assert!(Status::from_code(code).action() != Action::Done, "{code:#06x}");
        }
        assert_eq!(Status::from_code(0x7d01).action(), Action::GiveUp);
        assert!(Status::from_code(0x7d01).to_string().contains("0x7d01"));
    }

    #[test]
    fn a_broken_error_body_counts_as_empty() {
        assert_eq!(ErrorBody::lossy(&[0xff; 9]), ErrorBody::default());
    }
}
