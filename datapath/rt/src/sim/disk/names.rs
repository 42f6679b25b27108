//! Directories: what is visible, what is durable, and the changes in between, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use super::content::{Content, Ino};
use crate::fs::DirEntry;

/// The root directory.
pub(super) const ROOT: Ino = 1;
/// Uncommitted changes of names beyond which the file system commits by itself.
const PENDING_MAX: usize = 4096;

/// A directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Dir {
    pub(super) entries: BTreeMap<String, Ino>,
    pub(super) durable: BTreeMap<String, Ino>,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    Dir(Dir),
    File(Content),
    /// The name of a Unix socket.
    Socket,
}

/// Something with a name, or with open handles, or with a name that a power cut would bring back.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) node: Node,
    /// Visible names.
    pub(super) links: u32,
    /// Durable names and uncommitted changes that give it one.
    pub(super) kept: u32,
    /// Open handles.
    pub(super) opens: u32,
    /// The handle that holds the exclusive lock.
    pub(super) lock: Option<u64>,
}

/// A change of one name; `None` removes it.
#[derive(Clone, Debug)]
struct Change {
    dir: Ino,
    name: String,
    to: Option<Ino>,
}

/// One operation on names that is not durable: all of its changes or none survive.
#[derive(Clone, Debug)]
pub(super) struct NameOp {
    seq: u64,
    changes: Vec<Change>,
}

/// The tree of names.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) inodes: BTreeMap<Ino, Inode>,
    pub(super) pending: Vec<NameOp>,
    next: Ino,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Names {
    pub(super) fn new() -> Self {
        let root = Inode { node: Node::Dir(Dir::default()), links: 1, kept: 1, opens: 0, lock: None };
        Self { inodes: BTreeMap::from([(ROOT, root)]), pending: Vec::new(), next: ROOT + 1 }
    }

    pub(super) fn dir(&self, ino: Ino) -> io::Result<&Dir> {
        match self.inodes.get(&ino).map(|inode| &inode.node) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(_) => Err(errno(libc::ENOTDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    fn dir_mut(&mut self, ino: Ino) -> Option<&mut Dir> {
        match self.inodes.get_mut(&ino).map(|inode| &mut inode.node) {
            Some(Node::Dir(dir)) => Some(dir),
            _ => None,
        }
    }

    pub(super) fn file(&self, ino: Ino) -> Option<&Content> {
        match self.inodes.get(&ino).map(|inode| &inode.node) {
            Some(Node::File(content)) => Some(content),
            _ => None,
        }
    }

    pub(super) fn file_mut(&mut self, ino: Ino) -> Option<&mut Content> {
        match self.inodes.get_mut(&ino).map(|inode| &mut inode.node) {
            Some(Node::File(content)) => Some(content),
            _ => None,
        }
    }

    /// What a path names.
    pub(super) fn resolve(&self, path: &[String]) -> io::Result<Ino> {
        path.iter()
            .try_fold(ROOT, |at, name| self.dir(at)?.entries.get(name).copied().ok_or(errno(libc::ENOENT)))
    }

    /// A visible name of a file, below the root.
    pub(super) fn path_of(&self, file: Ino) -> Option<PathBuf> {
        let mut todo = vec![(ROOT, PathBuf::new())];
        while let Some((at, path)) = todo.pop() {
            for (name, &ino) in &self.dir(at).ok()?.entries {
                if ino == file {
                    return Some(path.join(name));
                }
                if self.dir(ino).is_ok() {
                    todo.push((ino, path.join(name)));
                }
            }
        }
        None
    }

    /// The directory a path lies in, its last part, and what has that name.
    pub(super) fn parent<'a>(&self, path: &'a [String]) -> io::Result<(Ino, &'a str, Option<Ino>)> {
        let (name, above) = path.split_last().ok_or(errno(libc::EEXIST))?;
        let dir = self.resolve(above)?;
        Ok((dir, name, self.dir(dir)?.entries.get(name).copied()))
    }

    /// Makes something new under a free name.
    pub(super) fn create(&mut self, dir: Ino, name: &str, node: Node, seq: u64) -> Ino {
        let ino = self.next;
        self.next += 1;
        self.inodes.insert(ino, Inode { node, links: 0, kept: 0, opens: 0, lock: None });
        self.apply(vec![Change { dir, name: name.to_owned(), to: Some(ino) }], seq);
        ino
    }

    /// Removes the name of a file or socket.
    pub(super) fn unlink(&mut self, path: &[String], seq: u64) -> io::Result<Ino> {
        let (dir, name, ino) = self.parent(path)?;
        let ino = ino.ok_or(errno(libc::ENOENT))?;
        if self.dir(ino).is_ok() {
            return Err(errno(libc::EISDIR));
        }
        self.apply(vec![Change { dir, name: name.to_owned(), to: None }], seq);
        Ok(ino)
    }

    /// Renames; gives what was replaced.
    pub(super) fn rename(&mut self, from: &[String], to: &[String], seq: u64) -> io::Result<Option<Ino>> {
        let (from_dir, from_name, moved) = self.parent(from)?;
        let (to_dir, to_name, replaced) = self.parent(to)?;
        let moved = moved.ok_or(errno(libc::ENOENT))?;
        if replaced == Some(moved) {
            return Ok(None);
        }
        if to.starts_with(from) {
            return Err(errno(libc::EINVAL));
        }
        if let Some(replaced) = replaced {
            match (self.dir(moved).is_ok(), self.dir(replaced)) {
                (true, Err(_)) => return Err(errno(libc::ENOTDIR)),
                (false, Ok(_)) => return Err(errno(libc::EISDIR)),
                (true, Ok(dir)) if !dir.entries.is_empty() => return Err(errno(libc::ENOTEMPTY)),
                _ => {}
            }
        }
        let changes = vec![
            Change { dir: from_dir, name: from_name.to_owned(), to: None },
            Change { dir: to_dir, name: to_name.to_owned(), to: Some(moved) },
        ];
        self.apply(changes, seq);
        Ok(replaced)
    }

    /// Makes changes visible and remembers them until they are durable.
    fn apply(&mut self, changes: Vec<Change>, seq: u64) {
        for change in &changes {
            let Some(dir) = self.dir_mut(change.dir) else { continue };
            let old = match change.to {
                Some(ino) => dir.entries.insert(change.name.clone(), ino),
                None => dir.entries.remove(&change.name),
            };
            if let Some(inode) = old.and_then(|ino| self.inodes.get_mut(&ino)) {
                inode.links -= 1;
            }
            if let Some(inode) = change.to.and_then(|ino| self.inodes.get_mut(&ino)) {
                inode.links += 1;
                inode.kept += 1;
            }
        }
        self.pending.push(NameOp { seq, changes });
        if self.pending.len() > PENDING_MAX {
            let oldest: Vec<NameOp> = self.pending.drain(..PENDING_MAX / 2).collect();
            oldest.into_iter().for_each(|op| self.commit(op));
        }
    }

    /// Makes one operation durable.
    fn commit(&mut self, op: NameOp) {
        for Change { dir, name, to } in op.changes {
            let Some(target) = self.dir_mut(dir) else { continue };
            let old = match to {
                // It leaves `kept` as a change and enters it as a durable name.
                Some(ino) => target.durable.insert(name, ino),
                None => target.durable.remove(&name),
            };
            if let Some(old) = old {
                self.forget(old);
            }
        }
    }

    fn forget(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        inode.kept -= 1;
        self.collect(ino);
    }

    /// Drops what nothing refers to any more.
    pub(super) fn collect(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get(&ino)
            && inode.links == 0
            && inode.kept == 0
            && inode.opens == 0
        {
            self.inodes.remove(&ino);
        }
    }

    /// Makes the changes in one directory durable that were made up to `upto`, whether or not older ones in other
    /// directories are.
    pub(super) fn sync_dir(&mut self, dir: Ino, upto: u64) {
        while let Some(at) = self.pending.iter().position(|op| op.seq <= upto && op.touches(dir)) {
            let op = self.pending.remove(at);
            // What older operations would do to the same names must not come back later.
            let mut superseded = Vec::new();
            for older in &mut self.pending[..at] {
                older.changes.retain(|old| {
                    let same = op.changes.iter().any(|new| new.dir == old.dir && new.name == old.name);
                    superseded.extend(old.to.filter(|_| same));
                    !same
                });
            }
            self.pending.retain(|op| !op.changes.is_empty());
            self.commit(op);
            superseded.into_iter().for_each(|ino| self.forget(ino));
        }
    }

    /// What a power cut does: the first `count` uncommitted operations survive, the others never were.
    pub(super) fn crash(&mut self, count: usize) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.truncate(count);
        for op in pending {
            self.commit(op);
        }
        let (mut reached, mut todo) = (BTreeSet::new(), vec![ROOT]);
        while let Some(ino) = todo.pop() {
            if reached.insert(ino)
                && let Ok(dir) = self.dir(ino)
            {
                todo.extend(dir.durable.values());
            }
        }
        self.inodes.retain(|ino, _| reached.contains(ino));
        self.settle();
    }

    /// Makes what is visible equal to what is durable and counts names anew; no file is open.
    fn settle(&mut self) {
        let mut names: BTreeMap<Ino, u32> = BTreeMap::from([(ROOT, 1)]);
        for inode in self.inodes.values_mut() {
            if let Node::Dir(dir) = &mut inode.node {
                dir.entries = dir.durable.clone();
                dir.durable.values().for_each(|ino| *names.entry(*ino).or_default() += 1);
            }
        }
        for (ino, inode) in &mut self.inodes {
            let count = names.get(ino).copied().unwrap_or(0);
            (inode.links, inode.kept, inode.opens, inode.lock) = (count, count, 0, None);
        }
    }

    /// A copy with everything visible made durable and nothing open.
    pub(super) fn settled(&self) -> Self {
        let mut copy = Self { inodes: BTreeMap::new(), pending: Vec::new(), next: self.next };
        for (&ino, inode) in self.inodes.iter().filter(|(_, inode)| inode.links > 0) {
            let node = match &inode.node {
                Node::Dir(dir) => Node::Dir(Dir { entries: BTreeMap::new(), durable: dir.entries.clone() }),
                Node::File(content) => Node::File(content.settled()),
                Node::Socket => Node::Socket,
            };
            copy.inodes.insert(ino, Inode { node, links: 0, kept: 0, opens: 0, lock: None });
        }
        copy.settle();
        copy
    }

    pub(super) fn list(&self, path: &[String]) -> io::Result<Vec<DirEntry>> {
        let entries = &self.dir(self.resolve(path)?)?.entries;
        let entry =
            |(name, ino): (&String, &Ino)| DirEntry { name: name.clone(), is_dir: self.dir(*ino).is_ok() };
        Ok(entries.iter().map(entry).collect())
    }
}

impl NameOp {
    fn touches(&self, dir: Ino) -> bool {
        self.changes.iter().any(|change| change.dir == dir)
    }
}
