//! The one table of operation codes.
//!
//! The high byte of a code is its [`Group`], which says who serves it.

use std::fmt;

/// Operations that belong together and are served by the same role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// Of the connection itself; served by every role.
    Connection,
    /// Reads and writes, client to CS.
    Data,
    /// What the reconciler of C5 needs, client to CS.
    Reconcile,
    /// Filling a joiner, CS to CS.
    Copy,
    /// Client sessions, client to MDS.
    Session,
    /// Names, sizes and attributes, client to MDS.
    Namespace,
    /// Inodes and their names, for a kernel's file system client, client to MDS.
    Inode,
    /// Leases and chunk maps, client to MDS.
    Lease,
    /// Registration and reports, CS to MDS.
    ChunkServer,
    /// Orders, MDS to CS on the connection the CS opened.
    Command,
    /// Configuration and monitoring, tool to MDS.
    Cluster,
    /// Proving the password, guest to MDS: the only operations for those who have no certificate, and not for others.
    Guest,
    /// Members and their certificates, anyone to MDS.
    Node,
}

impl Group {
    /// The group of an operation code, known or not.
    pub const fn from_code(code: u16) -> Option<Self> {
        match code >> 8 {
            0x00 => Some(Self::Connection),
            0x01 => Some(Self::Data),
            0x02 => Some(Self::Reconcile),
            0x03 => Some(Self::Copy),
            0x10 => Some(Self::Session),
            0x11 => Some(Self::Namespace),
            0x12 => Some(Self::Lease),
            0x13 => Some(Self::ChunkServer),
            0x14 => Some(Self::Command),
            0x15 => Some(Self::Cluster),
            0x17 => Some(Self::Inode),
            0x30 => Some(Self::Guest),
            0x31 => Some(Self::Node),
            _ => None,
        }
    }
}

/// Builds the enum and its names from one table.
macro_rules! ops {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $name:literal;)+) => {
        /// An operation. The codes are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Op {
            $($(#[doc = $doc])+ $variant = $code,)+
        }

        impl Op {
            /// Every operation, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The operation of a code, if this code knows it.
            pub const fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Stable name, for logs and fixtures.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

ops! {
    /// First exchange on each connection: who both sides are and what they speak.
    Hello = 0x0001, "hello";
    /// Is the peer alive?
    Ping = 0x0002, "ping";
    /// Notice: the sender takes no new requests on this connection and closes it when the running
    /// ones are answered.
    Goodbye = 0x0003, "goodbye";
    /// Notice of an MDS: these nodes are members no longer.
    Revocations = 0x0040, "revocations";

    /// Write, write zeroes or discard a range of a chunk.
    Write = 0x0101, "write";
    /// Read a range of a chunk.
    Read = 0x0102, "read";
    /// Make the answered writes to a file durable on this CS (C4).
    Flush = 0x0103, "flush";
    /// Which blocks of a range are holes?
    BlockStatus = 0x0104, "block_status";

    /// The active marks and the writes not known stable of a chunk (C5).
    Survey = 0x0201, "survey";
    /// Per block of a range: the last write and whether the data matches it (C5).
    SurveyBlocks = 0x0202, "survey_blocks";
    /// Write the content the reconciler chose (C5).
    Settle = 0x0203, "settle";
    /// Forget marks and listed writes after the result is flushed on all members (C5).
    ClearMarks = 0x0204, "clear_marks";

    /// What has changed since the asker was a member (C6)?
    ChangedRegions = 0x0301, "changed_regions";
    /// Read a range of a chunk for a joiner (C7).
    CopyRead = 0x0302, "copy_read";
    /// Make durable what a joiner has read (C4).
    CopyFlush = 0x0303, "copy_flush";
    /// Checksums of the checksums of a range, for a member that compares itself with this one (C7).
    CopyDigest = 0x0304, "copy_digest";

    /// Open a client session, or take one's own over.
    OpenSession = 0x1001, "open_session";
    /// Renew all leases of a session.
    RenewSession = 0x1002, "renew_session";
    /// End a session and release its leases.
    CloseSession = 0x1003, "close_session";
    /// Who has a session?
    ListClients = 0x1004, "list_clients";

    /// Create a file or directory.
    Create = 0x1101, "create";
    /// List a directory.
    List = 0x1102, "list";
    /// What is this file?
    Stat = 0x1103, "stat";
    /// Remove a file or directory.
    Remove = 0x1104, "remove";
    /// Rename a file or directory.
    Rename = 0x1105, "rename";
    /// Change a file's size.
    Resize = 0x1106, "resize";
    /// Attributes of a file or directory, its own and inherited.
    GetAttr = 0x1107, "get_attr";
    /// Change attributes.
    SetAttr = 0x1108, "set_attr";

    /// Open a file under a lease (C1).
    Open = 0x1201, "open";
    /// Release a lease.
    Release = 0x1202, "release";
    /// Where are these chunks?
    GetMap = 0x1203, "get_map";
    /// Allocate chunks of a file open for writing.
    AllocateChunks = 0x1204, "allocate_chunks";
    /// A chunk has been reconciled (C5).
    ReconcileDone = 0x1205, "reconcile_done";
    /// A replica failed (C3).
    ReportMember = 0x1206, "report_member";
    /// Take leases away (C1).
    Revoke = 0x1207, "revoke";

    /// Register a CS (C10).
    RegisterCs = 0x1301, "register_cs";
    /// Renew a CS's registration, with differences (C2).
    Heartbeat = 0x1302, "heartbeat";
    /// A page of the inventory of replicas a CS holds.
    ReportChunks = 0x1303, "report_chunks";
    /// Joiners are whole, or could not be filled (C7).
    CaughtUp = 0x1304, "caught_up";
    /// Blocks are damaged (C8).
    ReportDamage = 0x1305, "report_damage";

    /// Create replicas (C9).
    CreateChunks = 0x1401, "create_chunks";
    /// Delete replicas (C9).
    DeleteChunks = 0x1402, "delete_chunks";
    /// Drain older requests and record the epoch (C2).
    Fence = 0x1403, "fence";
    /// Replicas change their versions (C7).
    InstallVersions = 0x1404, "install_versions";
    /// Fill joiners (C6, C7).
    CatchUp = 0x1405, "catch_up";
    /// Repair damaged blocks from other members (C8).
    RepairBlocks = 0x1406, "repair_blocks";
    /// Compare replicas with those of other members (C7).
    CompareChunks = 0x1407, "compare_chunks";

    /// Settings whose key has a prefix.
    GetConfig = 0x1501, "get_config";
    /// Change a setting.
    SetConfig = 0x1502, "set_config";
    /// All MDS and CS, with paths and flags.
    ListServices = 0x1503, "list_services";
    /// The cluster's state, as `vstorage stat` shows it.
    ClusterStat = 0x1504, "cluster_stat";
    /// Events, old ones and as they come.
    GetEvents = 0x1505, "get_events";
    /// Take a CS out of the cluster, or say how far that is.
    RemoveCs = 0x1506, "remove_cs";

    /// What has this name in a directory?
    Lookup = 0x1701, "lookup";
    /// What is this inode?
    GetInode = 0x1702, "get_inode";
    /// Change an inode's mode, owner, size or times.
    SetInode = 0x1703, "set_inode";
    /// Make a file, directory, symbolic link or special file.
    MakeNode = 0x1704, "make_node";
    /// Give an inode one more name.
    Link = 0x1705, "link";
    /// Take a name away.
    Unlink = 0x1706, "unlink";
    /// Move a name, replacing or exchanging another.
    RenameEntry = 0x1707, "rename_entry";
    /// A page of a directory, with its inodes.
    ReadDir = 0x1708, "read_dir";
    /// Where does this symbolic link lead?
    ReadLink = 0x1709, "read_link";
    /// Value of an extended attribute.
    GetXattr = 0x170a, "get_xattr";
    /// Set an extended attribute.
    SetXattr = 0x170b, "set_xattr";
    /// Names of the extended attributes.
    ListXattrs = 0x170c, "list_xattrs";
    /// Remove an extended attribute.
    RemoveXattr = 0x170d, "remove_xattr";
    /// Space and inodes of the whole cluster.
    StatFs = 0x170e, "stat_fs";

    /// Begin to prove the password of the cluster.
    Login = 0x3001, "login";
    /// Become a node of the cluster.
    Enroll = 0x3002, "enroll";
    /// Begin to change the password of the cluster.
    NewPassword = 0x3003, "new_password";
    /// Change the password of the cluster.
    SetPassword = 0x3004, "set_password";

    /// Who was admitted to the cluster?
    ListNodes = 0x3101, "list_nodes";
    /// A node is no longer a member.
    RevokeNode = 0x3102, "revoke_node";
    /// A certificate that lasts longer.
    RenewCertificate = 0x3103, "renew_certificate";
}

impl Op {
    /// The code on the wire.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The group, which says who serves the operation.
    pub const fn group(self) -> Group {
        match Group::from_code(self.code()) {
            Some(group) => group,
            None => unreachable!(),
        }
    }
}

const _: () = {
    // Each code of the table lies in a group.
    let mut index = 0;
    while index < Op::ALL.len() {
        let _ = Op::ALL[index].group();
        index += 1;
    }
};

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_round_trip() {
        let names: BTreeSet<_> = Op::ALL.iter().map(|op| op.name()).collect();
        assert_eq!(names.len(), Op::ALL.len());
        let known: Vec<_> = (0..=u16::MAX).filter_map(Op::from_code).collect();
        assert_eq!(known.len(), Op::ALL.len());
        for op in known {
            assert_eq!(Op::from_code(op.code()), Some(op));
        }
    }

    #[test]
    fn a_group_is_known_before_its_operations_are() {
        assert_eq!(Group::from_code(0x01ff), Some(Group::Data));
        assert_eq!(Op::from_code(0x01ff), None);
        assert_eq!(Group::from_code(0x2001), None);
    }
}
