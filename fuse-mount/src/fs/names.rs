//! Names: finding, making, removing, moving.

use std::rc::Rc;

use wire::inode::{
    Link, Lookup, MakeNode, ReadLink, RenameEntry, RenameMode, Unlink, UnlinkReply, UnlinkWhat,
};
use wire::limits::MAX_NAME;
use wire::namespace::FileKind;

use super::node::Node;
use super::{Answer, Fs};
use crate::clock;
use crate::errno::Errno;
use crate::kernel::{Attr, AttrChange, Making, OpenFlags};

impl Fs {
    /// What has a name. The kernel counts one more on it.
    pub(super) async fn lookup(&self, parent: u64, name: Vec<u8>) -> Answer<Attr> {
        check(&name)?;
        let parent = self.nodes.id(parent);
        let asked = rt::time::now();
        let inode = self.meta.ask(&Lookup { parent, name }).await?.inode;
        Ok(self.tell(&self.nodes.learn(&inode, asked)))
    }

    /// The kernel is told of an inode.
    fn tell(&self, node: &Rc<Node>) -> Attr {
        self.nodes.count(node);
        node.attr(self.nodes.ino(node.id))
    }

    /// The kernel counts on inodes no more.
    pub(super) fn forget(&self, inodes: &[(u64, u64)]) {
        for &(ino, lookups) in inodes {
            self.nodes.forget(ino, lookups);
        }
    }

    /// Makes what is no open file.
    pub(super) async fn make(&self, making: Making) -> Answer<Attr> {
        let (reply, _) = self.make_node(&making, true, false).await?;
        Ok(self.tell(&self.nodes.learn(&reply.inode, rt::time::now())))
    }

    /// Makes a file and opens it.
    pub(super) async fn create(&self, making: Making, flags: i32) -> Answer<(Attr, u64, OpenFlags)> {
        let exclusive = flags & libc::O_EXCL != 0;
        let (reply, generation) = self.make_node(&making, exclusive, true).await?;
        let node = self.nodes.learn(&reply.inode, rt::time::now());
        let ino = self.nodes.ino(node.id);
        // Before the first wait: the kernel may forget it as soon as nobody counts on it.
        self.nodes.count(&node);
        let opened = match &reply.opened {
            Some(opened) => self.adopt(&node, generation, opened, flags).await,
            None => self.open_file(ino, flags).await,
        };
        let (fh, answer) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.nodes.forget(ino, 1);
                return Err(error);
            }
        };
        if !reply.created && flags & libc::O_TRUNC != 0 {
            // Made by another client since the kernel looked.
            let cut = AttrChange { size: Some(0), ..AttrChange::default() };
            if let Err(error) = self.change_attributes(ino, cut).await {
                let _closed = self.release_file(fh).await;
                self.nodes.forget(ino, 1);
                return Err(error);
            }
        }
        Ok((node.attr(ino), fh, answer))
    }

    /// Asks for a new inode; also gives the generation of the session under which its lease was granted.
    async fn make_node(
        &self,
        making: &Making,
        exclusive: bool,
        open: bool,
    ) -> Answer<(wire::inode::MakeNodeReply, u64)> {
        self.writable()?;
        check(&making.name)?;
        let kind = match making.mode & libc::S_IFMT {
            libc::S_IFREG | 0 => FileKind::File,
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFLNK => FileKind::Symlink,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            libc::S_IFCHR => FileKind::CharDevice,
            libc::S_IFBLK => FileKind::BlockDevice,
            _ => return Err(Errno::EINVAL),
        };
        let parent = self.nodes.id(making.parent);
        let now_ns = clock::now_ns();
        let generation = self.meta.session().generation();
        let reply = self.meta.change(|session| MakeNode {
            session,
            parent,
            name: making.name.clone(),
            now_ns,
            kind: kind.into(),
            mode: making.mode & 0o7777,
            uid: making.owner.uid,
            gid: making.owner.gid,
            rdev: making.rdev,
            target: making.target.clone(),
            exclusive,
            open,
        });
        let reply = reply.await?;
        self.touched(parent);
        Ok((reply, generation))
    }

    /// A directory's entries have changed: so have its times.
    fn touched(&self, id: u64) {
        if let Some(node) = self.nodes.by_id(id) {
            node.age();
        }
    }

    /// What happened to an inode that lost a name.
    fn lost_name(&self, what: &UnlinkReply) {
        if let Some(node) = self.nodes.by_id(what.id) {
            node.update(|inode| inode.nlink = what.nlink);
            if what.gone {
                node.set_gone();
            }
            node.age();
        }
    }

    /// `unlink` and `rmdir`.
    pub(super) async fn remove(&self, parent: u64, name: Vec<u8>, directory: bool) -> Answer<()> {
        self.writable()?;
        check(&name)?;
        let parent = self.nodes.id(parent);
        let now_ns = clock::now_ns();
        let what = if directory { UnlinkWhat::Directory } else { UnlinkWhat::NotADirectory };
        let reply = self.meta.change(|session| Unlink {
            session,
            parent,
            name: name.clone(),
            what: what.into(),
            now_ns,
        });
        let reply = reply.await?;
        self.touched(parent);
        self.lost_name(&reply);
        Ok(())
    }

    /// `renameat2`.
    pub(super) async fn rename(&self, from: (u64, Vec<u8>), to: (u64, Vec<u8>), flags: u32) -> Answer<()> {
        self.writable()?;
        check(&from.1)?;
        check(&to.1)?;
        let mode = match flags {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return Err(Errno::EINVAL),
        };
        let (parent, new_parent) = (self.nodes.id(from.0), self.nodes.id(to.0));
        let now_ns = clock::now_ns();
        let reply = self.meta.change(|session| RenameEntry {
            session,
            parent,
            name: from.1.clone(),
            new_parent,
            new_name: to.1.clone(),
            mode: mode.into(),
            now_ns,
        });
        let reply = reply.await?;
        self.touched(parent);
        self.touched(new_parent);
        self.touched(reply.id);
        if let Some(other) = &reply.other {
            self.lost_name(other);
        }
        Ok(())
    }

    /// One more name for an inode.
    pub(super) async fn link(&self, ino: u64, parent: u64, name: Vec<u8>) -> Answer<Attr> {
        self.writable()?;
        check(&name)?;
        let (id, parent) = (self.nodes.id(ino), self.nodes.id(parent));
        let now_ns = clock::now_ns();
        let reply =
            self.meta.change(|session| Link { session, id, parent, name: name.clone(), now_ns }).await?;
        self.touched(parent);
        Ok(self.tell(&self.nodes.learn(&reply.inode, rt::time::now())))
    }

    /// Where a symbolic link leads.
    pub(super) async fn read_link(&self, ino: u64) -> Answer<Vec<u8>> {
        let id = self.nodes.id(ino);
        Ok(self.meta.ask(&ReadLink { id }).await?.target)
    }
}

fn check(name: &[u8]) -> Answer<()> {
    if name.len() > MAX_NAME { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
}
