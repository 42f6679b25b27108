//! Inodes and their names, by the rules of POSIX.

use super::files::check_size;
use super::{Answer, Step};
use crate::state::State;
use crate::state::command::{
    LeaseMode, LinkNode, MakeNode, NodeKind, RemoveXattr, RenameMode, RenameNode, SetInode, SetXattr,
    SizeSet, UnlinkNode, UnlinkWhat, XattrMode,
};
use crate::state::ids::{ClientId, FileId};
use crate::state::inode::{
    Body, File, Inode, LINKS_MAX, MODE_BITS, SET_GID, SYMLINK_MAX, Special, SpecialKind,
};
use crate::state::lease::Lease;
use crate::state::name;
use crate::state::namespace::Entry;
use crate::state::outcome::{Made, Outcome, Renamed, Unlinked};
use crate::state::refusal::Refusal;
use crate::state::xattrs::Xattrs;

impl State {
    /// The inode of an id in a command; 0 is the top directory.
    pub(in crate::state) fn inode_id(&self, raw: u64) -> Result<FileId, Refusal> {
        let id = if raw == 0 { self.tree.root() } else { FileId::from_raw(raw) };
        self.tree.inode(id).map(|_| id).ok_or(Refusal::Gone(raw))
    }

    /// The directory of a name in a command: one that is gone has no entries.
    pub(in crate::state) fn parent(&self, raw: u64) -> Result<FileId, Refusal> {
        let id = if raw == 0 { self.tree.root() } else { FileId::from_raw(raw) };
        match self.tree.inode(id) {
            Some(Inode { body: Body::Dir(_), .. }) => Ok(id),
            Some(_) => Err(Refusal::NotADirectory(self.tree.path_of(id))),
            None => Err(Refusal::NotFound(self.tree.path_of(id))),
        }
    }

    /// The directory of a new name, which must be one.
    fn new_name(&self, parent: u64, name: &[u8]) -> Result<FileId, Refusal> {
        let parent = self.parent(parent)?;
        name::check(name)?;
        Ok(parent)
    }

    /// An entry that must be there.
    fn entry(&self, parent: u64, name: &[u8]) -> Result<Entry, Refusal> {
        let parent = self.new_name(parent, name)?;
        let id = self.tree.child(parent, name);
        let id = id.ok_or_else(|| Refusal::NotFound(self.tree.entry_path(parent, name)))?;
        Ok(Entry { parent, name: name.into(), id })
    }

    pub(super) fn make_node(&mut self, step: &mut Step, op: &MakeNode) -> Answer {
        let parent = self.new_name(op.parent, &op.name)?;
        let opener = match op.opener {
            Some(proof) => Some(self.clients.authenticate(proof.client, proof.token)?),
            None => None,
        };
        let body = self.new_body(parent, op)?;
        if let Some(id) = self.tree.child(parent, &op.name) {
            if op.exclusive {
                return Err(Refusal::Exists(self.tree.entry_path(parent, &op.name)));
            }
            return Ok(Outcome::Made(Made { id: id.raw(), created: false, granted: None }));
        }
        let (is_dir, is_file) = (matches!(body, Body::Dir(_)), matches!(body, Body::File(_)));
        let mut inode = Inode::new(op.mode & MODE_BITS, op.now_ns, body);
        (inode.uid, inode.gid) = (op.uid, op.gid);
        if let Some(above) = self.tree.inode(parent).filter(|above| above.mode & SET_GID != 0) {
            inode.gid = above.gid;
            inode.mode |= if is_dir { SET_GID } else { 0 };
        }
        let id = self.cluster.mint_file();
        self.tree.plant(id, inode, parent, &op.name, op.now_ns);
        let granted = match opener.filter(|_| is_file) {
            Some(client) => self.grant_new(step, id, client)?,
            None => None,
        };
        Ok(Outcome::Made(Made { id: id.raw(), created: true, granted }))
    }

    /// Gives the lease of a file that was made just now to who made it.
    fn grant_new(
        &mut self,
        step: &mut Step,
        id: FileId,
        client: ClientId,
    ) -> Result<Option<crate::state::outcome::Granted>, Refusal> {
        match self.ask(step, id, client, LeaseMode::Exclusive, Lease::open)? {
            Outcome::Granted(granted) => Ok(Some(granted)),
            // Nobody else knows the file.
            other => unreachable!("a new file answered {other:?}"),
        }
    }

    fn new_body(&self, parent: FileId, op: &MakeNode) -> Result<Body, Refusal> {
        let kind = NodeKind::try_from(op.kind).map_err(|_| Refusal::malformed("nothing of this kind"))?;
        let special = |kind, rdev| Ok(Body::Special(Special { kind, rdev }));
        match kind {
            NodeKind::File => Ok(Body::File(Box::new(File::new(0, self.tree.attrs_in(parent))))),
            NodeKind::Directory => Ok(Body::Dir(Box::default())),
            NodeKind::Symlink => match &*op.target {
                [] => Err(Refusal::malformed("a symbolic link leads somewhere")),
                target if target.contains(&0) => Err(Refusal::malformed("a target has no NUL byte in it")),
                target if target.len() > SYMLINK_MAX => Err(Refusal::NameTooLong(target.len() as u64)),
                target => Ok(Body::Symlink(target.into())),
            },
            NodeKind::Fifo => special(SpecialKind::Fifo, 0),
            NodeKind::Socket => special(SpecialKind::Socket, 0),
            NodeKind::CharDevice => special(SpecialKind::CharDevice, op.rdev),
            NodeKind::BlockDevice => special(SpecialKind::BlockDevice, op.rdev),
        }
    }

    pub(super) fn link_node(&mut self, _step: &mut Step, op: &LinkNode) -> Answer {
        let id = self.inode_id(op.id)?;
        let parent = self.new_name(op.parent, &op.name)?;
        if self.tree.child(parent, &op.name).is_some() {
            return Err(Refusal::Exists(self.tree.entry_path(parent, &op.name)));
        }
        if self.tree.dir(id).is_some() {
            return Err(Refusal::NotLinkable(self.tree.path_of(id)));
        }
        match self.tree.nlink(id) {
            0 => return Err(Refusal::NotFound(self.tree.path_of(id))),
            LINKS_MAX.. => return Err(Refusal::TooManyLinks(self.tree.path_of(id))),
            _ => {}
        }
        self.tree.enter(id, parent, &op.name, op.now_ns);
        self.tree.touch_inode(id, op.now_ns);
        Ok(Outcome::Done(()))
    }

    pub(super) fn unlink_node(&mut self, step: &mut Step, op: &UnlinkNode) -> Answer {
        let what = UnlinkWhat::try_from(op.what)
            .map_err(|_| Refusal::malformed("it is not said what shall be unlinked"))?;
        let entry = self.entry(op.parent, &op.name)?;
        let path = || self.tree.entry_path(entry.parent, &entry.name);
        match (self.tree.dir(entry.id), what) {
            (Some(_), UnlinkWhat::NotADirectory) => return Err(Refusal::IsADirectory(path())),
            (None, UnlinkWhat::Directory) => return Err(Refusal::NotADirectory(path())),
            (Some(dir), _) if !dir.children.is_empty() => return Err(Refusal::NotEmpty(path())),
            _ => {}
        }
        Ok(Outcome::Unlinked(self.unlink_entry(step, entry.parent, &entry.name, op.now_ns)))
    }

    /// Takes the name of an entry that is there away. Also what lives on without a name has changed.
    fn unlink_entry(&mut self, step: &mut Step, parent: FileId, name: &[u8], now_ns: i64) -> Unlinked {
        let unlinked = self.unlink(step, parent, name, now_ns).unwrap_or_default();
        self.tree.touch_inode(FileId::from_raw(unlinked.id), now_ns);
        unlinked
    }

    pub(super) fn rename_node(&mut self, step: &mut Step, op: &RenameNode) -> Answer {
        let mode = RenameMode::try_from(op.mode)
            .map_err(|_| Refusal::malformed("it is not said how the new name is taken"))?;
        let from = self.entry(op.parent, &op.name)?;
        let parent = self.new_name(op.new_parent, &op.new_name)?;
        let target = self.tree.child(parent, &op.new_name);
        let to = || self.tree.entry_path(parent, &op.new_name);
        let id = from.id;
        if target.is_some() && mode == RenameMode::NoReplace {
            return Err(Refusal::Exists(to()));
        }
        if target == Some(id) {
            return Ok(Outcome::Renamed(Renamed { id: id.raw(), other: None }));
        }
        if self.tree.is_within(parent, id) {
            return Err(Refusal::BelowItself(self.tree.path_of(id)));
        }
        let other = match (target, mode) {
            (None, RenameMode::Exchange) => return Err(Refusal::NotFound(to())),
            (Some(target), RenameMode::Exchange) => {
                if self.tree.is_within(from.parent, target) {
                    return Err(Refusal::BelowItself(self.tree.path_of(target)));
                }
                return Ok(Outcome::Renamed(self.exchange(&from, parent, &op.new_name, op.now_ns)));
            }
            (Some(target), _) => {
                self.check_replaceable(id, target, to)?;
                Some(self.unlink_entry(step, parent, &op.new_name, op.now_ns))
            }
            (None, _) => None,
        };
        self.tree.relink(&from, parent, &op.new_name, op.now_ns);
        self.tree.touch_inode(id, op.now_ns);
        Ok(Outcome::Renamed(Renamed { id: id.raw(), other }))
    }

    /// Exchanges two entries that are there, and neither of which lies below the other.
    fn exchange(&mut self, from: &Entry, parent: FileId, name: &[u8], now_ns: i64) -> Renamed {
        self.tree.leave(from.parent, &from.name, now_ns);
        let other = self.tree.leave(parent, name, now_ns).unwrap_or_default();
        self.tree.enter(from.id, parent, name, now_ns);
        self.tree.enter(other, from.parent, &from.name, now_ns);
        self.tree.touch_inode(from.id, now_ns);
        self.tree.touch_inode(other, now_ns);
        let nlink = self.tree.nlink(other);
        Renamed { id: from.id.raw(), other: Some(Unlinked { id: other.raw(), nlink, gone: false }) }
    }

    pub(super) fn set_inode(&mut self, step: &mut Step, op: &SetInode) -> Answer {
        let id = self.inode_id(op.id)?;
        let resized = match &op.size {
            Some(change) => self.set_file_size(step, id, change)?,
            None => false,
        };
        let Some(inode) = self.tree.inode_mut(id) else { return Err(Refusal::Gone(op.id)) };
        inode.mode = op.mode.map_or(inode.mode, |mode| mode & MODE_BITS);
        inode.uid = op.uid.unwrap_or(inode.uid);
        inode.gid = op.gid.unwrap_or(inode.gid);
        let times = &mut inode.times;
        times.access = op.atime_ns.unwrap_or(times.access);
        times.data = op.mtime_ns.unwrap_or(if resized { op.now_ns } else { times.data });
        times.inode = op.ctime_ns.unwrap_or(op.now_ns);
        Ok(Outcome::Done(()))
    }

    /// Changes the size of a file; whether it is another one now.
    fn set_file_size(&mut self, step: &mut Step, id: FileId, change: &SizeSet) -> Result<bool, Refusal> {
        let now = match self.tree.inode(id).map(|inode| &inode.body) {
            Some(Body::File(file)) => file.size,
            Some(Body::Dir(_)) => return Err(Refusal::IsADirectory(self.tree.path_of(id))),
            _ => return Err(Refusal::NotAFile(self.tree.path_of(id))),
        };
        check_size(change.size, self.tree.file(id)?.attrs)?;
        let size = if change.grow_only { change.size.max(now) } else { change.size };
        self.set_size(step, id, size, change.lease.as_ref(), true)?;
        Ok(size != now)
    }

    pub(super) fn set_xattr(&mut self, _step: &mut Step, op: &SetXattr) -> Answer {
        let mode = XattrMode::try_from(op.mode)
            .map_err(|_| Refusal::malformed("it is not said whether the attribute may exist"))?;
        let id = self.inode_id(op.id)?;
        let empty = Xattrs::default();
        let xattrs = self.tree.xattrs(id).unwrap_or(&empty);
        let exists = xattrs.get(&op.name).is_some();
        match mode {
            XattrMode::Create if exists => return Err(Refusal::Exists(name::shown(&op.name).into_owned())),
            XattrMode::Replace if !exists => return Err(no_xattr(&op.name)),
            _ => xattrs.check(&op.name, &op.value)?,
        }
        self.tree.change_xattrs(id, |xattrs| xattrs.set(&op.name, &op.value));
        self.tree.touch_inode(id, op.now_ns);
        Ok(Outcome::Done(()))
    }

    pub(super) fn remove_xattr(&mut self, _step: &mut Step, op: &RemoveXattr) -> Answer {
        let id = self.inode_id(op.id)?;
        if self.tree.xattrs(id).is_none_or(|xattrs| xattrs.get(&op.name).is_none()) {
            return Err(no_xattr(&op.name));
        }
        self.tree.change_xattrs(id, |xattrs| xattrs.remove(&op.name));
        self.tree.touch_inode(id, op.now_ns);
        Ok(Outcome::Done(()))
    }
}

pub(in crate::state) fn no_xattr(name: &[u8]) -> Refusal {
    // The name may be as long as a request.
    let name = &name[..name.len().min(crate::state::xattrs::XATTR_NAME_MAX)];
    Refusal::NoXattr(name::shown(name).into_owned())
}
