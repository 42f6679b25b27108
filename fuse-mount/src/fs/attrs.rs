//! Attributes, the file system's space, extended attributes.

use std::rc::Rc;

use wire::inode::{
    GetXattr, ListXattrs, RemoveXattr, SetInode, SetXattr, StatFs, StatFsReply, TimeChange, XattrMode,
};
use wire::limits::MAX_XATTR_VALUE;

use super::node::Node;
use super::{Answer, Fs};
use crate::clock;
use crate::errno::Errno;
use crate::kernel::{Attr, AttrChange, TimeChange as KernelTime};

/// Beginnings of the names of extended attributes.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// What the kernel asks for before each write to a file.
const CAPABILITIES: &[u8] = b"security.capability";

impl Fs {
    /// Attributes of an inode.
    pub(super) async fn attributes(&self, ino: u64) -> Answer<Attr> {
        let node = self.node(ino)?;
        self.refresh(&node).await?;
        Ok(node.attr(ino))
    }

    /// Asks the metadata server unless what is known is fresh.
    pub(super) async fn refresh(&self, node: &Rc<Node>) -> Answer<()> {
        if node.fresh().is_some() {
            return Ok(());
        }
        let asked = rt::time::now();
        match self.meta.inode(node.id).await {
            Ok(inode) => node.learn(&inode, asked),
            // Somebody still uses it here: it is as it was, without a name.
            Err(error) if error.code() == libc::ESTALE => node.set_gone(),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Changes attributes.
    pub(super) async fn change_attributes(&self, ino: u64, change: AttrChange) -> Answer<Attr> {
        self.writable()?;
        let node = self.node(ino)?;
        let now = clock::now_ns();
        let request = SetInode {
            id: node.id,
            now_ns: now,
            mode: change.mode.map(|mode| mode & 0o7777),
            uid: change.uid,
            gid: change.gid,
            atime: change.atime.map(time),
            mtime: change.mtime.map(time),
            ctime: change.ctime_ns.map(|ns| TimeChange { ns, now: false }),
            ..SetInode::default()
        };
        match change.size {
            Some(size) => self.resize(&node, size, request).await?,
            None => self.set_inode(&node, &change, request).await?,
        }
        Ok(node.attr(ino))
    }

    async fn set_inode(&self, node: &Rc<Node>, change: &AttrChange, request: SetInode) -> Answer<()> {
        if node.is_gone() {
            // Nobody will see it; whoever still has it does.
            node.update(|inode| {
                inode.mode = request.mode.unwrap_or(inode.mode);
                inode.uid = request.uid.unwrap_or(inode.uid);
                inode.gid = request.gid.unwrap_or(inode.gid);
            });
            return Ok(());
        }
        let _inside = node.open.enter().await;
        if node.open.is_dirty() && change.mtime.is_some() {
            // What was written before has an earlier time, and must not be told later.
            self.report(node).await?;
        }
        let now = request.now_ns;
        let reply = self.meta.change(|session| SetInode { session, ..request.clone() }).await?;
        let of = |change: Option<KernelTime>| match change? {
            KernelTime::To(ns) => Some(ns),
            KernelTime::Now => Some(now),
        };
        if let Some(mtime_ns) = of(change.mtime) {
            node.update(|inode| inode.mtime_ns = mtime_ns);
        }
        node.learn_change(&reply.inode);
        Ok(())
    }

    /// Space of the cluster.
    pub(super) async fn space(&self) -> Answer<StatFsReply> {
        self.meta.ask(&StatFs {}).await
    }

    /// Sets an extended attribute.
    pub(super) async fn set_xattr(&self, ino: u64, name: Vec<u8>, value: Vec<u8>, flags: i32) -> Answer<()> {
        self.writable()?;
        check_name(&name)?;
        let node = self.node(ino)?;
        let id = node.id;
        node.set_plain(false);
        if value.len() > MAX_XATTR_VALUE {
            return Err(Errno::E2BIG);
        }
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Errno::EINVAL),
        };
        let now_ns = clock::now_ns();
        self.meta
            .change(|session| SetXattr {
                session,
                id,
                name: name.clone(),
                value: value.clone(),
                mode: mode.into(),
                now_ns,
            })
            .await
            .map(drop)
    }

    /// An extended attribute's value.
    pub(super) async fn xattr(&self, ino: u64, name: Vec<u8>) -> Answer<Vec<u8>> {
        check_name(&name)?;
        let node = self.node(ino)?;
        let is_capabilities = name == CAPABILITIES;
        if is_capabilities && node.is_plain() {
            return Err(Errno::ENODATA);
        }
        let answer = self.meta.ask(&GetXattr { id: node.id, name }).await;
        if is_capabilities {
            node.set_plain(answer.as_ref().is_err_and(|error| error.code() == libc::ENODATA));
        }
        Ok(answer?.value)
    }

    /// Names of extended attributes, with a NUL after each.
    pub(super) async fn xattrs(&self, ino: u64) -> Answer<Vec<u8>> {
        let id = self.node(ino)?.id;
        let names = self.meta.ask(&ListXattrs { id }).await?.names;
        let mut list = Vec::new();
        for name in names {
            list.extend_from_slice(&name);
            list.push(0);
        }
        Ok(list)
    }

    /// Removes an extended attribute.
    pub(super) async fn remove_xattr(&self, ino: u64, name: Vec<u8>) -> Answer<()> {
        self.writable()?;
        let id = self.node(ino)?.id;
        let now_ns = clock::now_ns();
        self.meta.change(|session| RemoveXattr { session, id, name: name.clone(), now_ns }).await.map(drop)
    }
}

/// Refuses names outside the namespaces that are kept; access control lists are not, nobody would heed them.
fn check_name(name: &[u8]) -> Answer<()> {
    match NAMESPACES.iter().find_map(|space| name.strip_prefix(*space)) {
        Some(b"") => Err(Errno::EINVAL),
        Some(_) => Ok(()),
        None => Err(Errno::EOPNOTSUPP),
    }
}

fn time(time: KernelTime) -> TimeChange {
    match time {
        KernelTime::To(ns) => TimeChange { ns, now: false },
        KernelTime::Now => TimeChange { ns: 0, now: true },
    }
}
