//! Inodes and their names, for the clients of kernels.
//!
//! Reading takes no entry in the log. A change names its session, and is one entry.

use wire::hello::Empty;
use wire::inode::{
    DirEntry, GetInode, GetXattr, GetXattrReply, InodeReply, Link, ListXattrs, ListXattrsReply, Lookup,
    MakeNode, MakeNodeReply, ReadDir, ReadDirReply, ReadLink, ReadLinkReply, RemoveXattr, RenameEntry,
    RenameEntryReply, RenameMode, SetInode, SetXattr, StatFs, StatFsReply, TimeChange, Unlink, UnlinkReply,
    UnlinkWhat, XattrMode,
};
use wire::lease::OpenReply;
use wire::limits::{MAX_LISTED, MAX_SYMLINK, MAX_XATTR_NAME, MAX_XATTR_VALUE};
use wire::namespace::FileKind;
use wire::session::SessionKey;
use wire::{BodyError, Status};

use super::asked::{Asked, Holder};
use super::attributes;
use super::failure::Failure;
use super::reign::{Reign, unexpected};
use super::shown;
use crate::state::command::{self, CommandOp, LeaseProof, NodeKind, SessionProof, SizeSet};
use crate::state::lease::Lease;
use crate::state::outcome::{Granted, Made, Renamed, Unlinked};
use crate::state::{ClientId, FileId, Outcome, Refusal, name};

impl Reign {
    pub(super) async fn lookup(&self, call: Lookup, asked: &Asked) -> Result<InodeReply, Failure> {
        self.confirm(asked).await?;
        match self.read(|state| state.lookup_inode(call.parent, &call.name))? {
            Some(node) => Ok(InodeReply { inode: shown::inode(&node) }),
            // Asked often, and mostly out of habit: no words.
            None => Err(Failure::new(Status::NotFound, "")),
        }
    }

    pub(super) async fn get_inode(&self, call: GetInode, asked: &Asked) -> Result<InodeReply, Failure> {
        self.confirm(asked).await?;
        self.inode_reply(call.id)
    }

    fn inode_reply(&self, id: u64) -> Result<InodeReply, Failure> {
        let node = self.read(|state| state.inode_view(id))?;
        Ok(InodeReply { inode: shown::inode(&node) })
    }

    pub(super) async fn read_dir(&self, call: ReadDir, asked: &Asked) -> Result<ReadDirReply, Failure> {
        self.confirm(asked).await?;
        let limit = if call.limit == 0 { MAX_LISTED } else { call.limit.min(MAX_LISTED) } as usize;
        self.read(|state| {
            let page = state.read_dir(call.id, &call.after, limit)?;
            let entries = page.entries.iter();
            let entries =
                entries.map(|(name, node)| DirEntry { name: name.to_vec(), inode: shown::inode(node) });
            let (more, parent) = (page.more, page.parent.raw());
            Ok(ReadDirReply { entries: entries.collect(), more, parent })
        })
    }

    pub(super) async fn read_link(&self, call: ReadLink, asked: &Asked) -> Result<ReadLinkReply, Failure> {
        self.confirm(asked).await?;
        self.read(|state| Ok(ReadLinkReply { target: state.link_target(call.id)?.to_vec() }))
    }

    pub(super) async fn get_xattr(&self, call: GetXattr, asked: &Asked) -> Result<GetXattrReply, Failure> {
        self.confirm(asked).await?;
        self.read(|state| Ok(GetXattrReply { value: state.xattr(call.id, &call.name)?.to_vec() }))
    }

    pub(super) async fn list_xattrs(
        &self,
        call: ListXattrs,
        asked: &Asked,
    ) -> Result<ListXattrsReply, Failure> {
        self.confirm(asked).await?;
        self.read(|state| {
            Ok(ListXattrsReply { names: state.xattr_names(call.id)?.map(<[u8]>::to_vec).collect() })
        })
    }

    pub(super) async fn stat_fs(&self, _call: StatFs, asked: &Asked) -> Result<StatFsReply, Failure> {
        self.confirm(asked).await?;
        Ok(self.read(|state| {
            let servers = self.servers.borrow();
            let space = state.space(|server| servers.free_bytes(server));
            StatFsReply {
                total_bytes: space.total,
                free_bytes: space.free,
                allocatable_total_bytes: space.allocatable_total,
                allocatable_bytes: space.allocatable,
                inodes: state.tree().len() as u64,
            }
        }))
    }

    // Changing.

    /// The session of a request, which must be a live one.
    fn session(&self, key: &SessionKey) -> Result<Holder, Failure> {
        let holder = Holder::of(key)?;
        self.read(|state| state.authenticate(holder.client, holder.token))?;
        Ok(holder)
    }

    pub(super) async fn make_node(&self, call: MakeNode, asked: &Asked) -> Result<MakeNodeReply, Failure> {
        let holder = self.session(&call.session)?;
        name::check(&call.name)?;
        if call.target.len() > MAX_SYMLINK {
            return Err(Refusal::NameTooLong(call.target.len() as u64).into());
        }
        let kind = node_kind(call.kind())?;
        let session = SessionProof { client: holder.client, token: holder.token };
        let op = CommandOp::MakeNode(command::MakeNode {
            parent: call.parent,
            name: call.name,
            kind: kind.into(),
            mode: call.mode,
            uid: call.uid,
            gid: call.gid,
            rdev: call.rdev,
            target: call.target,
            exclusive: call.exclusive,
            opener: call.open.then_some(session),
            now_ns: stamp(call.now_ns),
        });
        let Made { id, created, granted } = match self.change(asked, asked.key(Some(&holder)), op).await?? {
            Outcome::Made(made) => made,
            other => return Err(unexpected(&other)),
        };
        // An answer that is given once more may be of a lease that is over: the client has to open the file.
        let granted = granted.filter(|granted| self.still_holds(&holder, granted));
        let opened = granted.map(|granted| self.opened(granted)).transpose()?;
        Ok(MakeNodeReply { inode: self.inode_reply(id)?.inode, created, opened })
    }

    fn still_holds(&self, holder: &Holder, granted: &Granted) -> bool {
        self.read(|state| {
            let file = state.tree().file(FileId::from_raw(granted.file));
            let holds = |lease: &Lease| lease.mode_of(ClientId(holder.client)).is_some();
            file.is_ok_and(|file| holds(file.lease()) && file.lease().epoch().raw() == granted.epoch)
        })
    }

    /// The lease of a file that was made and opened at once.
    fn opened(&self, granted: Granted) -> Result<OpenReply, Failure> {
        let file = FileId::from_raw(granted.file);
        self.keep_ended(file);
        let attrs = self.read(|state| state.tree().file(file).map(|file| file.attrs()))?;
        Ok(OpenReply {
            file_id: granted.file,
            epoch: granted.epoch,
            size: granted.size,
            chunk_size: granted.chunk_size,
            attrs: attributes::in_force(attrs),
            needs_reconcile: granted.needs_reconcile,
            ..OpenReply::default()
        })
    }

    pub(super) async fn link(&self, call: Link, asked: &Asked) -> Result<InodeReply, Failure> {
        let holder = self.session(&call.session)?;
        name::check(&call.name)?;
        let op = CommandOp::LinkNode(command::LinkNode {
            id: call.id,
            parent: call.parent,
            name: call.name,
            now_ns: stamp(call.now_ns),
        });
        self.change(asked, asked.key(Some(&holder)), op).await??;
        self.inode_reply(call.id)
    }

    pub(super) async fn unlink(&self, call: Unlink, asked: &Asked) -> Result<UnlinkReply, Failure> {
        let holder = self.session(&call.session)?;
        name::check(&call.name)?;
        let what = match call.what() {
            UnlinkWhat::Any => command::UnlinkWhat::Any,
            UnlinkWhat::NotADirectory => command::UnlinkWhat::NotADirectory,
            UnlinkWhat::Directory => command::UnlinkWhat::Directory,
            UnlinkWhat::Unspecified => return Err(BodyError::Missing { field: "what" }.into()),
        };
        let op = CommandOp::UnlinkNode(command::UnlinkNode {
            parent: call.parent,
            name: call.name,
            what: what.into(),
            now_ns: stamp(call.now_ns),
        });
        match self.change(asked, asked.key(Some(&holder)), op).await?? {
            Outcome::Unlinked(unlinked) => Ok(unlink_reply(unlinked)),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn rename_entry(
        &self,
        call: RenameEntry,
        asked: &Asked,
    ) -> Result<RenameEntryReply, Failure> {
        let holder = self.session(&call.session)?;
        name::check(&call.name)?;
        name::check(&call.new_name)?;
        let mode = match call.mode() {
            RenameMode::Replace => command::RenameMode::Replace,
            RenameMode::NoReplace => command::RenameMode::NoReplace,
            RenameMode::Exchange => command::RenameMode::Exchange,
            RenameMode::Unspecified => return Err(BodyError::Missing { field: "mode" }.into()),
        };
        let op = CommandOp::RenameNode(command::RenameNode {
            parent: call.parent,
            name: call.name,
            new_parent: call.new_parent,
            new_name: call.new_name,
            mode: mode.into(),
            now_ns: stamp(call.now_ns),
        });
        match self.change(asked, asked.key(Some(&holder)), op).await?? {
            Outcome::Renamed(Renamed { id, other }) => {
                Ok(RenameEntryReply { id, other: other.map(unlink_reply) })
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn set_inode(&self, call: SetInode, asked: &Asked) -> Result<InodeReply, Failure> {
        let holder = self.session(&call.session)?;
        let now_ns = stamp(call.now_ns);
        let time = |change: Option<TimeChange>| change.map(|time| if time.now { now_ns } else { time.ns });
        let size = call.size.map(|change| {
            let Holder { client, token } = holder;
            let lease = LeaseProof { client, token, epoch: change.epoch };
            let lease = (change.epoch != 0).then_some(lease);
            SizeSet { size: change.size, lease, grow_only: change.grow_only }
        });
        let op = CommandOp::SetInode(command::SetInode {
            id: call.id,
            mode: call.mode,
            uid: call.uid,
            gid: call.gid,
            size,
            atime_ns: time(call.atime),
            mtime_ns: time(call.mtime),
            ctime_ns: time(call.ctime),
            now_ns,
        });
        match self.change(asked, asked.key(Some(&holder)), op).await? {
            Ok(_) => self.inode_reply(call.id),
            Err(Refusal::InUse(held)) => Err(self.held(&held)),
            Err(refusal) => Err(refusal.into()),
        }
    }

    pub(super) async fn set_xattr(&self, call: SetXattr, asked: &Asked) -> Result<Empty, Failure> {
        let holder = self.session(&call.session)?;
        // What is much too long does not even go into the log.
        if call.name.len() > MAX_XATTR_NAME {
            return Err(Refusal::NameTooLong(call.name.len() as u64).into());
        }
        if call.value.len() > MAX_XATTR_VALUE {
            return Err(Refusal::ValueTooLarge(call.value.len() as u64).into());
        }
        let mode = match call.mode() {
            XattrMode::Any => command::XattrMode::Any,
            XattrMode::Create => command::XattrMode::Create,
            XattrMode::Replace => command::XattrMode::Replace,
            XattrMode::Unspecified => return Err(BodyError::Missing { field: "mode" }.into()),
        };
        let op = CommandOp::SetXattr(command::SetXattr {
            id: call.id,
            name: call.name,
            value: call.value,
            mode: mode.into(),
            now_ns: stamp(call.now_ns),
        });
        self.change(asked, asked.key(Some(&holder)), op).await??;
        Ok(Empty {})
    }

    pub(super) async fn remove_xattr(&self, call: RemoveXattr, asked: &Asked) -> Result<Empty, Failure> {
        let holder = self.session(&call.session)?;
        if call.name.len() > MAX_XATTR_NAME {
            return Err(Failure::new(Status::NoData, ""));
        }
        let op = CommandOp::RemoveXattr(command::RemoveXattr {
            id: call.id,
            name: call.name,
            now_ns: stamp(call.now_ns),
        });
        self.change(asked, asked.key(Some(&holder)), op).await??;
        Ok(Empty {})
    }
}

/// The time stamp of a change: the client's, or this server's if it has none.
fn stamp(now_ns: i64) -> i64 {
    if now_ns != 0 {
        return now_ns;
    }
    i64::try_from(rt::time::wall_clock_ms()).map_or(i64::MAX, |ms| ms.saturating_mul(1_000_000))
}

fn node_kind(kind: FileKind) -> Result<NodeKind, Failure> {
    Ok(match kind {
        FileKind::File => NodeKind::File,
        FileKind::Directory => NodeKind::Directory,
        FileKind::Symlink => NodeKind::Symlink,
        FileKind::Fifo => NodeKind::Fifo,
        FileKind::Socket => NodeKind::Socket,
        FileKind::CharDevice => NodeKind::CharDevice,
        FileKind::BlockDevice => NodeKind::BlockDevice,
        FileKind::Unspecified => return Err(BodyError::Missing { field: "kind" }.into()),
    })
}

fn unlink_reply(unlinked: Unlinked) -> UnlinkReply {
    UnlinkReply { id: unlinked.id, nlink: unlinked.nlink, gone: unlinked.gone }
}
