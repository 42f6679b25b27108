//! Reading inodes: what a mounted file system asks without changing anything.
//!
//! Nothing here walks a directory or a map: each answer takes time in proportion to what it holds, and to the
//! logarithm of what there is.

use super::apply::no_xattr;
use super::command::NodeKind;
use super::ids::{ClientId, Epoch, FileId};
use super::inode::{Body, DIR_SIZE, Inode, SpecialKind, Times};
use super::lease::Phase;
use super::refusal::Refusal;
use super::{Namespace, State};
use std::ops::Bound::{Excluded, Unbounded};

/// The block that allocated space is rounded up to, in bytes.
const BLOCK: u64 = 4096;

/// An inode as a mounted file system sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeView {
    /// Its id.
    pub id: FileId,
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits as in POSIX.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names it has; of a directory 2 and one more for each directory in it.
    pub nlink: u32,
    /// Number of a device.
    pub rdev: u32,
    /// Size in bytes.
    pub size: u64,
    /// Chunks times chunk size, at most the size rounded up to 4096; replicas not counted.
    pub allocated_bytes: u64,
    /// When it was used and changed.
    pub times: Times,
    /// Highest epoch of its lease.
    pub epoch: Epoch,
    /// Who may write it.
    pub writer: Option<ClientId>,
    /// How many read it.
    pub readers: usize,
    /// Bytes per chunk; 0 for what is no file.
    pub chunk_size: u64,
}

/// A page of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InodePage<'a> {
    /// Names and what has them, by the bytes of the names.
    pub entries: Vec<(&'a [u8], InodeView)>,
    /// There are more: ask again after the last name.
    pub more: bool,
    /// The directory above; of the top directory itself.
    pub parent: FileId,
}

impl State {
    /// Describes an inode; 0 is the top directory.
    ///
    /// # Errors
    /// [`Refusal::Gone`].
    pub fn inode_view(&self, raw: u64) -> Result<InodeView, Refusal> {
        let id = self.inode_id(raw)?;
        let inode = self.tree.inode(id).ok_or(Refusal::Gone(raw))?;
        Ok(describe(&self.tree, id, inode))
    }

    /// What a directory lists under a name; `None` if nothing.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] and [`Refusal::NotADirectory`] about the directory; [`Refusal::NameTooLong`] and
    /// [`Refusal::BadName`].
    pub fn lookup_inode(&self, parent: u64, name: &[u8]) -> Result<Option<InodeView>, Refusal> {
        let parent = self.parent(parent)?;
        super::name::check(name)?;
        let found = self.tree.child(parent, name).and_then(|id| Some((id, self.tree.inode(id)?)));
        Ok(found.map(|(id, inode)| describe(&self.tree, id, inode)))
    }

    /// A page of a directory: at most `limit` entries after a name, or from the first.
    ///
    /// # Errors
    /// [`Refusal::Gone`] and [`Refusal::NotADirectory`].
    pub fn read_dir(&self, raw: u64, after: &[u8], limit: usize) -> Result<InodePage<'_>, Refusal> {
        let id = self.inode_id(raw)?;
        let dir = self.tree.dir(id).ok_or_else(|| Refusal::NotADirectory(self.tree.path_of(id)))?;
        // No name is empty.
        let mut rest = dir.children.range::<[u8], _>((Excluded(after), Unbounded));
        let entries = rest
            .by_ref()
            .take(limit)
            .filter_map(|(name, id)| Some((&**name, describe(&self.tree, *id, self.tree.inode(*id)?))));
        let entries = entries.collect();
        Ok(InodePage { entries, more: rest.next().is_some(), parent: self.tree.parent_of(id) })
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`Refusal::Gone`]; [`Refusal::Malformed`] if it is none.
    pub fn link_target(&self, raw: u64) -> Result<&[u8], Refusal> {
        match self.tree.inode(self.inode_id(raw)?).map(|inode| &inode.body) {
            Some(Body::Symlink(target)) => Ok(target),
            _ => Err(Refusal::malformed("it is not a symbolic link")),
        }
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`Refusal::Gone`] and [`Refusal::NoXattr`].
    pub fn xattr(&self, raw: u64, name: &[u8]) -> Result<&[u8], Refusal> {
        let id = self.inode_id(raw)?;
        self.tree.xattrs(id).and_then(|xattrs| xattrs.get(name)).ok_or_else(|| no_xattr(name))
    }

    /// The names of the extended attributes, by their bytes.
    ///
    /// # Errors
    /// [`Refusal::Gone`].
    pub fn xattr_names(&self, raw: u64) -> Result<impl Iterator<Item = &[u8]>, Refusal> {
        let id = self.inode_id(raw)?;
        Ok(self.tree.xattrs(id).into_iter().flat_map(|xattrs| xattrs.iter().map(|(name, _)| name)))
    }
}

fn describe(tree: &Namespace, id: FileId, inode: &Inode) -> InodeView {
    let view = InodeView {
        id,
        kind: NodeKind::Directory,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        nlink: tree.nlink(id),
        rdev: 0,
        size: 0,
        allocated_bytes: 0,
        times: inode.times,
        epoch: Epoch::ZERO,
        writer: None,
        readers: 0,
        chunk_size: 0,
    };
    match &inode.body {
        Body::Dir(_) => InodeView { size: DIR_SIZE, ..view },
        Body::Symlink(target) => InodeView { kind: NodeKind::Symlink, size: target.len() as u64, ..view },
        Body::Special(special) => {
            let kind = match special.kind {
                SpecialKind::Fifo => NodeKind::Fifo,
                SpecialKind::Socket => NodeKind::Socket,
                SpecialKind::CharDevice => NodeKind::CharDevice,
                SpecialKind::BlockDevice => NodeKind::BlockDevice,
            };
            InodeView { kind, rdev: special.rdev, ..view }
        }
        Body::File(file) => {
            let (writer, readers) = match file.lease.phase() {
                Phase::Exclusive { holder } => (Some(*holder), 0),
                Phase::Shared { readers, .. } => (None, readers.len()),
                Phase::Idle | Phase::Unclean | Phase::Fencing { .. } | Phase::Fenced => (None, 0),
            };
            let chunk_size = file.attrs.chunk_size;
            let space = (file.chunks.len() as u64).saturating_mul(chunk_size);
            InodeView {
                kind: NodeKind::File,
                size: file.size,
                allocated_bytes: space.min(file.size.checked_next_multiple_of(BLOCK).unwrap_or(space)),
                epoch: file.lease.epoch(),
                writer,
                readers,
                chunk_size,
                ..view
            }
        }
    }
}
