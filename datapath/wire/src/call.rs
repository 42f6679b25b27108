//! Which control request has which operation and which reply: one table, used by both ends.

use crate::hello::{Empty, Goodbye, Hello, Ping};
use crate::op::Op;
use crate::{auth, cluster, copy, cs, inode, lease, namespace, session};

/// A control request.
pub trait Call: prost::Message + Default {
    /// Its operation.
    const OP: Op;
    /// What answers it when the status is `Ok`.
    type Reply: prost::Message + Default;
}

/// A control message nobody answers.
pub trait Notice: prost::Message + Default {
    /// Its operation.
    const OP: Op;
}

impl Notice for Goodbye {
    const OP: Op = Op::Goodbye;
}

impl Notice for auth::Revocations {
    const OP: Op = Op::Revocations;
}

/// Implements [`Call`] for each row, and runs a callback over the rows for [`crate::fuzz`].
macro_rules! calls {
    ($($op:ident: $request:ty => $reply:ty;)+) => {
        $(impl Call for $request {
            const OP: Op = Op::$op;
            type Reply = $reply;
        })+

        /// A row of the table, for whoever has an operation code and bytes only.
        pub(crate) const ROWS: &[Row] = &[$(Row {
            op: Op::$op,
            request: crate::fuzz::round_trips::<$request>,
            reply: crate::fuzz::round_trips::<$reply>,
        }),+];
    };
}

/// The parsers of an operation's two bodies. Each says whether the bytes were accepted, and panics if
/// they do not survive a round trip.
pub(crate) struct Row {
    pub(crate) op: Op,
    pub(crate) request: fn(&[u8]) -> bool,
    pub(crate) reply: fn(&[u8]) -> bool,
}

calls! {
    Hello: Hello => Hello;
    Ping: Ping => Empty;

    OpenSession: session::OpenSession => session::OpenSessionReply;
    RenewSession: session::RenewSession => session::RenewSessionReply;
    CloseSession: session::CloseSession => Empty;
    ListClients: session::ListClients => session::ListClientsReply;

    Create: namespace::Create => namespace::FileReply;
    List: namespace::List => namespace::ListReply;
    Stat: namespace::Stat => namespace::FileReply;
    Remove: namespace::Remove => Empty;
    Rename: namespace::Rename => Empty;
    Resize: namespace::Resize => namespace::FileReply;
    GetAttr: namespace::GetAttr => namespace::GetAttrReply;
    SetAttr: namespace::SetAttr => namespace::SetAttrReply;

    Open: lease::Open => lease::OpenReply;
    Release: lease::Release => Empty;
    GetMap: lease::GetMap => lease::MapReply;
    AllocateChunks: lease::AllocateChunks => lease::MapReply;
    ReconcileDone: lease::ReconcileDone => Empty;
    ReportMember: lease::ReportMember => lease::MapReply;
    Revoke: lease::Revoke => lease::RevokeReply;

    RegisterCs: cs::RegisterCs => cs::RegisterCsReply;
    Heartbeat: cs::Heartbeat => cs::HeartbeatReply;
    ReportChunks: cs::ReportChunks => Empty;
    CaughtUp: cs::CaughtUp => Empty;
    ReportDamage: cs::ReportDamage => Empty;

    CreateChunks: cs::CreateChunks => cs::ResultsReply;
    DeleteChunks: cs::DeleteChunks => cs::ResultsReply;
    Fence: cs::Fence => cs::ResultsReply;
    InstallVersions: cs::InstallVersions => cs::ResultsReply;
    CatchUp: cs::CatchUp => cs::ResultsReply;
    RepairBlocks: cs::RepairBlocks => cs::ResultsReply;
    CompareChunks: cs::CompareChunks => cs::CompareChunksReply;

    ChangedRegions: copy::ChangedRegions => copy::ChangedRegionsReply;
    CopyFlush: copy::CopyFlush => copy::CopyFlushReply;
    CopyDigest: copy::CopyDigest => copy::CopyDigestReply;

    GetConfig: cluster::GetConfig => cluster::GetConfigReply;
    SetConfig: cluster::SetConfig => Empty;
    ListServices: cluster::ListServices => cluster::ListServicesReply;
    ClusterStat: cluster::ClusterStat => cluster::ClusterStatReply;
    GetEvents: cluster::GetEvents => cluster::GetEventsReply;
    RemoveCs: cluster::RemoveCs => cluster::RemoveCsReply;

    Lookup: inode::Lookup => inode::InodeReply;
    GetInode: inode::GetInode => inode::InodeReply;
    SetInode: inode::SetInode => inode::InodeReply;
    MakeNode: inode::MakeNode => inode::MakeNodeReply;
    Link: inode::Link => inode::InodeReply;
    Unlink: inode::Unlink => inode::UnlinkReply;
    RenameEntry: inode::RenameEntry => inode::RenameEntryReply;
    ReadDir: inode::ReadDir => inode::ReadDirReply;
    ReadLink: inode::ReadLink => inode::ReadLinkReply;
    GetXattr: inode::GetXattr => inode::GetXattrReply;
    SetXattr: inode::SetXattr => Empty;
    ListXattrs: inode::ListXattrs => inode::ListXattrsReply;
    RemoveXattr: inode::RemoveXattr => Empty;
    StatFs: inode::StatFs => inode::StatFsReply;

    Login: auth::Login => auth::LoginReply;
    Enroll: auth::Enroll => auth::EnrollReply;
    NewPassword: auth::NewPassword => auth::NewPasswordReply;
    SetPassword: auth::SetPassword => Empty;

    ListNodes: auth::ListNodes => auth::ListNodesReply;
    RevokeNode: auth::RevokeNode => Empty;
    RenewCertificate: auth::RenewCertificate => auth::RenewCertificateReply;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Group;

    #[test]
    fn each_operation_is_a_call_or_has_a_fixed_body() {
        for &op in Op::ALL {
            let rows = ROWS.iter().filter(|row| row.op == op).count();
            let fixed = matches!(op.group(), Group::Data | Group::Reconcile)
                || matches!(op, Op::CopyRead | Op::Goodbye | Op::Revocations);
            assert_eq!(rows, usize::from(!fixed), "{op}");
        }
    }
}
