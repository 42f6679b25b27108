//! The tree of directories and files.
//!
//! This module knows how the tree hangs together and nothing of leases, chunk servers or events. A directory has one
//! name; everything else has one or several (hard links), or none while it is unlinked but still in use (*orphans*,
//! C9). Of several names one is in the inode itself, which is the one that paths for people and events show; when it
//! is taken away, the first of the others in the order of (directory, name) takes its place. Which attributes apply
//! to a file does not depend on it: a file took a copy of them when it was created.

use super::attrs::{AttrSet, Attrs};
use super::ids::FileId;
use super::inode::{Body, Dir, File, Inode, Place};
use super::name::{self, Name};
use super::path::Path;
use super::refusal::{BadPath, Refusal};
use super::xattrs::Xattrs;
use std::collections::{BTreeMap, BTreeSet};

/// Permission bits of the top directory.
const ROOT_MODE: u32 = 0o755;

/// The tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    inodes: BTreeMap<FileId, Inode>,
    root: FileId,
    orphans: BTreeSet<FileId>,
    /// The names of inodes that have several, but for the one in the inode. Never empty sets.
    links: BTreeMap<FileId, BTreeSet<Place>>,
    /// Never empty ones.
    xattrs: BTreeMap<FileId, Xattrs>,
}

/// An entry of a directory: where it is, how it is called, and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) parent: FileId,
    pub(super) name: Name,
    pub(super) id: FileId,
}

impl Namespace {
    /// A tree with nothing but the top directory, which says everything about attributes.
    pub(super) fn new(root: FileId, now_ns: i64) -> Self {
        let top = Attrs::default();
        let attrs = AttrSet {
            replicas: Some(top.replicas),
            domain: Some(top.domain),
            tier: Some(top.tier),
            chunk_size: Some(top.chunk_size),
        };
        let inode = Inode::new(ROOT_MODE, now_ns, Body::Dir(Box::new(Dir::new(attrs))));
        Self { inodes: BTreeMap::from([(root, inode)]), root, ..Self::default() }
    }

    /// The id of the top directory.
    pub fn root(&self) -> FileId {
        self.root
    }

    /// All inodes by id.
    pub fn iter(&self) -> impl Iterator<Item = (FileId, &Inode)> {
        self.inodes.iter().map(|(id, inode)| (*id, inode))
    }

    /// How many inodes there are.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Whether there is no cluster yet.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// Unlinked files still in use.
    pub fn orphans(&self) -> &BTreeSet<FileId> {
        &self.orphans
    }

    /// An inode.
    pub fn inode(&self, id: FileId) -> Option<&Inode> {
        self.inodes.get(&id)
    }

    pub(super) fn inode_mut(&mut self, id: FileId) -> Option<&mut Inode> {
        self.inodes.get_mut(&id)
    }

    /// A regular file.
    ///
    /// # Errors
    /// [`Refusal::UnknownFile`] if there is none with this id.
    pub fn file(&self, id: FileId) -> Result<&File, Refusal> {
        match self.inodes.get(&id).map(|inode| &inode.body) {
            Some(Body::File(file)) => Ok(file),
            _ => Err(Refusal::UnknownFile(id.raw())),
        }
    }

    pub(super) fn file_mut(&mut self, id: FileId) -> Result<&mut File, Refusal> {
        match self.inodes.get_mut(&id).map(|inode| &mut inode.body) {
            Some(Body::File(file)) => Ok(file),
            _ => Err(Refusal::UnknownFile(id.raw())),
        }
    }

    /// A directory by id.
    pub(super) fn dir(&self, id: FileId) -> Option<&Dir> {
        match self.inodes.get(&id).map(|inode| &inode.body) {
            Some(Body::Dir(dir)) => Some(dir),
            _ => None,
        }
    }

    pub(super) fn dir_mut(&mut self, id: FileId) -> Option<&mut Dir> {
        match self.inodes.get_mut(&id).map(|inode| &mut inode.body) {
            Some(Body::Dir(dir)) => Some(dir),
            _ => None,
        }
    }

    /// All regular files, orphans too.
    pub fn files(&self) -> impl Iterator<Item = (FileId, &File)> {
        self.inodes.iter().filter_map(|(id, inode)| match &inode.body {
            Body::File(file) => Some((*id, &**file)),
            _ => None,
        })
    }

    /// Regular files from this id on, orphans too.
    pub(super) fn files_from(&self, first: FileId) -> impl Iterator<Item = (FileId, &File)> {
        self.inodes.range(first..).filter_map(|(id, inode)| match &inode.body {
            Body::File(file) => Some((*id, &**file)),
            _ => None,
        })
    }

    pub(super) fn files_mut(&mut self) -> impl Iterator<Item = (FileId, &mut File)> {
        self.inodes.iter_mut().filter_map(|(id, inode)| match &mut inode.body {
            Body::File(file) => Some((*id, &mut **file)),
            _ => None,
        })
    }

    /// The extended attributes of an inode; `None` if it has none.
    pub(super) fn xattrs(&self, id: FileId) -> Option<&Xattrs> {
        self.xattrs.get(&id)
    }

    /// Changes the extended attributes of an inode that exists.
    pub(super) fn change_xattrs<T>(&mut self, id: FileId, change: impl FnOnce(&mut Xattrs) -> T) -> T {
        let xattrs = self.xattrs.entry(id).or_default();
        let result = change(xattrs);
        if xattrs.is_empty() {
            self.xattrs.remove(&id);
        }
        result
    }

    // Finding.

    /// What a directory lists under a name.
    pub(super) fn child(&self, dir: FileId, name: &[u8]) -> Option<FileId> {
        self.dir(dir)?.children.get(name).copied()
    }

    /// What a directory lists under a name that is written as text.
    fn child_shown(dir: &Dir, text: &str) -> Option<(Name, FileId)> {
        let entry = |name: &[u8]| dir.children.get_key_value(name);
        let found = entry(text.as_bytes()).or_else(|| entry(&name::from_shown(text)?));
        found.map(|(name, id)| (Name::clone(name), *id))
    }

    /// Finds what a path leads to.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] or [`Refusal::NotADirectory`], naming the part of the path that is so. Symbolic links are
    /// not followed: kernels do that.
    pub fn lookup(&self, path: Path<'_>) -> Result<FileId, Refusal> {
        if path.is_root() { Ok(self.root) } else { self.lookup_entry(path).map(|entry| entry.id) }
    }

    /// Finds the entry of a path.
    ///
    /// # Errors
    /// As [`Namespace::lookup`]; [`Refusal::TopDirectory`] for `/`, which is no entry.
    pub(super) fn lookup_entry(&self, path: Path<'_>) -> Result<Entry, Refusal> {
        let mut at = self.root;
        let mut last = None;
        let mut walked = 0;
        for text in path.names() {
            let here = &path.as_str()[..walked.max(1)];
            let dir = self.dir(at).ok_or_else(|| Refusal::NotADirectory(here.to_owned()))?;
            walked += 1 + text.len();
            let found = Self::child_shown(dir, text);
            let (name, id) = found.ok_or_else(|| Refusal::NotFound(path.as_str()[..walked].to_owned()))?;
            last = Some(Entry { parent: at, name, id });
            at = id;
        }
        last.ok_or(Refusal::TopDirectory(()))
    }

    /// Finds the directory an entry is in, or shall be in, and the entry's name.
    ///
    /// # Errors
    /// As [`Namespace::lookup`]; [`Refusal::TopDirectory`] for `/`.
    pub(super) fn lookup_parent<'p>(&self, path: Path<'p>) -> Result<(FileId, &'p str), Refusal> {
        let (parent, name) = path.split_last().ok_or(Refusal::TopDirectory(()))?;
        let id = self.lookup(parent)?;
        match self.dir(id) {
            Some(_) => Ok((id, name)),
            None => Err(Refusal::NotADirectory(parent.to_string())),
        }
    }

    /// How many names an inode has; of a directory 2 and one more for each directory in it, as ext4 counts.
    pub fn nlink(&self, id: FileId) -> u32 {
        match self.inodes.get(&id) {
            Some(Inode { body: Body::Dir(dir), .. }) => dir.subdirs.saturating_add(2),
            Some(Inode { place: Some(_), .. }) => {
                // At most LINKS_MAX.
                1 + self.links.get(&id).map_or(0, |others| others.len() as u32)
            }
            _ => 0,
        }
    }

    /// All names of an inode.
    pub(super) fn names_of(&self, id: FileId) -> impl Iterator<Item = &Place> {
        let first = self.inodes.get(&id).and_then(|inode| inode.place.as_ref());
        first.into_iter().chain(self.links.get(&id).into_iter().flatten())
    }

    /// The names of an inode but for the one in the inode.
    pub(super) fn other_names_of(&self, id: FileId) -> impl Iterator<Item = &Place> {
        self.links.get(&id).into_iter().flatten()
    }

    /// The directory above; the top directory is above itself.
    pub(super) fn parent_of(&self, dir: FileId) -> FileId {
        self.inodes.get(&dir).and_then(|inode| inode.place.as_ref()).map_or(self.root, |place| place.parent)
    }

    /// Whether an inode is this directory, or lies below it. Takes time in proportion to the depth.
    pub(super) fn is_within(&self, id: FileId, dir: FileId) -> bool {
        let mut at = id;
        loop {
            if at == dir {
                return true;
            }
            match self.inodes.get(&at).and_then(|inode| inode.place.as_ref()) {
                Some(place) => at = place.parent,
                None => return false,
            }
        }
    }

    /// The path of an inode, for people, by one of its names: orphans have none and are shown by their id.
    pub fn path_of(&self, id: FileId) -> String {
        let mut names = Vec::new();
        let mut at = id;
        while let Some(Place { parent, name }) = self.inodes.get(&at).and_then(|inode| inode.place.as_ref()) {
            names.push(name::shown(name));
            at = *parent;
        }
        if at != self.root {
            return format!("(unlinked file {:#x})", id.raw());
        }
        names.iter().rev().fold(String::new(), |path, name| path + "/" + name)
            + if names.is_empty() { "/" } else { "" }
    }

    /// The path of an entry that is, or would be, in a directory.
    pub(super) fn entry_path(&self, dir: FileId, name: &[u8]) -> String {
        let mut path = self.path_of(dir);
        if dir != self.root {
            path.push('/');
        }
        path + &name::shown(name)
    }

    /// What is in force in a directory: what it says itself, then the directory above, and so on.
    pub fn attrs_in(&self, dir: FileId) -> Attrs {
        let mut said = AttrSet::default();
        let mut at = Some(dir);
        while let Some(inode) = at.and_then(|id| self.inodes.get(&id)) {
            if let Body::Dir(dir) = &inode.body {
                let nearer = said;
                said = dir.attrs;
                said.merge(&nearer);
            }
            at = inode.place.as_ref().map(|place| place.parent);
        }
        said.over(Attrs::default())
    }

    /// The entries below a directory, parents before children.
    pub(super) fn below(&self, id: FileId) -> Vec<Entry> {
        let mut found = Vec::new();
        let mut todo = vec![id];
        while let Some((parent, dir)) = todo.pop().and_then(|id| Some((id, self.dir(id)?))) {
            for (name, child) in &dir.children {
                found.push(Entry { parent, name: Name::clone(name), id: *child });
                if self.dir(*child).is_some() {
                    todo.push(*child);
                }
            }
        }
        found
    }

    // Changing.

    /// Adds a new inode under a name. The caller has checked that it is free.
    pub(super) fn plant(&mut self, id: FileId, inode: Inode, parent: FileId, name: &[u8], now_ns: i64) {
        let fresh = self.inodes.insert(id, inode).is_none();
        assert!(fresh, "the id {id} is in use");
        self.enter(id, parent, name, now_ns);
    }

    /// Gives an inode one more name. The caller has checked that it is free, and that a directory has none.
    pub(super) fn enter(&mut self, id: FileId, parent: FileId, name: &[u8], now_ns: i64) {
        let place = Place { parent, name: name.into() };
        let is_dir = self.dir(id).is_some();
        let dir = self.dir_mut(parent).expect("callers look the directory up");
        let free = dir.children.insert(Name::clone(&place.name), id).is_none();
        assert!(free, "the name {} is taken", name::shown(name));
        dir.subdirs += u32::from(is_dir);
        self.touch(parent, now_ns);
        let Some(inode) = self.inodes.get_mut(&id) else { return };
        match inode.place {
            None => inode.place = Some(place),
            Some(_) => {
                self.links.entry(id).or_default().insert(place);
            }
        }
    }

    /// Takes a name away; returns what had it. That stays, perhaps without a name.
    pub(super) fn leave(&mut self, parent: FileId, name: &[u8], now_ns: i64) -> Option<FileId> {
        let id = self.child(parent, name)?;
        let is_dir = self.dir(id).is_some();
        let dir = self.dir_mut(parent)?;
        let (name, _) = dir.children.remove_entry(name)?;
        dir.subdirs -= u32::from(is_dir);
        self.touch(parent, now_ns);
        let place = Place { parent, name };
        let others = self.links.get_mut(&id);
        let Some(inode) = self.inodes.get_mut(&id) else { return Some(id) };
        if inode.place.as_ref() == Some(&place) {
            inode.place = others.and_then(BTreeSet::pop_first);
        } else if let Some(others) = others {
            others.remove(&place);
        }
        if self.links.get(&id).is_some_and(BTreeSet::is_empty) {
            self.links.remove(&id);
        }
        Some(id)
    }

    /// Moves an entry to a name that is free.
    pub(super) fn relink(&mut self, entry: &Entry, parent: FileId, name: &[u8], now_ns: i64) {
        self.leave(entry.parent, &entry.name, now_ns);
        self.enter(entry.id, parent, name, now_ns);
    }

    /// Notes that the data of an inode, or the entries of a directory, changed.
    pub(super) fn touch(&mut self, id: FileId, now_ns: i64) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.times.touch(now_ns);
        }
    }

    /// Notes that an inode changed, but not its data.
    pub(super) fn touch_inode(&mut self, id: FileId, now_ns: i64) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.times.inode = now_ns;
        }
    }

    /// Keeps an unlinked file until its last lease ends.
    pub(super) fn keep_orphan(&mut self, id: FileId) {
        self.orphans.insert(id);
    }

    /// Takes an unlinked inode out of the tree.
    pub(super) fn forget(&mut self, id: FileId) -> Option<Inode> {
        self.orphans.remove(&id);
        self.xattrs.remove(&id);
        self.inodes.remove(&id)
    }

    /// Builds the tree from a snapshot: names first, the entries of directories follow from them.
    ///
    /// # Errors
    /// The id of an inode that hangs nowhere, or in something that is not a directory, or under a taken name, or that
    /// is a directory with several names.
    pub(super) fn restore(
        root: FileId,
        inodes: BTreeMap<FileId, Inode>,
        links: BTreeMap<FileId, BTreeSet<Place>>,
        xattrs: BTreeMap<FileId, Xattrs>,
    ) -> Result<Self, FileId> {
        let mut tree = Self { inodes, root, orphans: BTreeSet::new(), links, xattrs };
        let ids: Vec<FileId> = tree.inodes.keys().copied().collect();
        for id in ids {
            let names: Vec<Place> = tree.names_of(id).cloned().collect();
            let is_dir = tree.dir(id).is_some();
            if names.is_empty() && id != root {
                tree.orphans.insert(id);
            }
            if names.len() > 1 && is_dir {
                return Err(id);
            }
            for Place { parent, name } in names {
                let dir = tree.dir_mut(parent).ok_or(id)?;
                dir.subdirs += u32::from(is_dir);
                if dir.children.insert(name, id).is_some() {
                    return Err(id);
                }
            }
        }
        let besides = tree.links.iter().map(|(id, others)| (id, others.is_empty()));
        let besides = besides.chain(tree.xattrs.iter().map(|(id, xattrs)| (id, xattrs.is_empty())));
        for (id, empty) in besides {
            if empty || !tree.inodes.contains_key(id) {
                return Err(*id);
            }
        }
        if root != FileId::ZERO && tree.dir(root).is_none() {
            return Err(root);
        }
        Ok(tree)
    }
}

/// Checks a path that came with a command.
pub(super) fn parse_path(text: &str) -> Result<Path<'_>, Refusal> {
    Path::parse(text)
        .map_err(|error| Refusal::BadPath(BadPath { path: text.to_owned(), reason: error.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::command::FailureDomain;

    fn id(n: u64) -> FileId {
        FileId::new(1, n)
    }

    fn dir() -> Inode {
        Inode::new(0, 0, Body::Dir(Box::default()))
    }

    fn file() -> Inode {
        Inode::new(0, 0, Body::File(Box::new(File::new(0, Attrs::default()))))
    }

    fn path(text: &str) -> Path<'_> {
        Path::parse(text).unwrap()
    }

    /// `/a/b/f`
    fn tree() -> Namespace {
        let mut tree = Namespace::new(id(1), 0);
        tree.plant(id(2), dir(), id(1), b"a", 1);
        tree.plant(id(3), dir(), id(2), b"b", 2);
        tree.plant(id(4), file(), id(3), b"f", 3);
        tree
    }

    #[test]
    fn lookups_name_the_part_that_is_missing() {
        let tree = tree();
        assert_eq!(tree.lookup(path("/")), Ok(id(1)));
        assert_eq!(tree.lookup(path("/a/b/f")), Ok(id(4)));
        assert_eq!(tree.lookup(path("/a/x/f")), Err(Refusal::NotFound("/a/x".into())));
        assert_eq!(tree.lookup(path("/a/b/f/g")), Err(Refusal::NotADirectory("/a/b/f".into())));
        assert_eq!(tree.lookup_parent(path("/a/new")), Ok((id(2), "new")));
        assert_eq!(tree.lookup_parent(path("/a/b/f/g")), Err(Refusal::NotADirectory("/a/b/f".into())));
        assert_eq!(tree.lookup_parent(path("/")), Err(Refusal::TopDirectory(())));
    }

    #[test]
    fn paths_follow_a_move() {
        let mut tree = tree();
        assert_eq!(tree.path_of(id(1)), "/");
        assert_eq!(tree.path_of(id(4)), "/a/b/f");
        let entry = tree.lookup_entry(path("/a/b")).unwrap();
        assert_eq!(entry, Entry { parent: id(2), name: b"b".as_slice().into(), id: id(3) });
        assert_eq!((tree.nlink(id(1)), tree.nlink(id(2))), (3, 3));
        tree.relink(&entry, id(1), b"c", 9);
        assert_eq!((tree.nlink(id(1)), tree.nlink(id(2))), (4, 2));
        assert_eq!(tree.path_of(id(4)), "/c/f");
        assert_eq!(tree.lookup(path("/a/b")), Err(Refusal::NotFound("/a/b".into())));
        assert_eq!(tree.inode(id(2)).unwrap().times.data, 9);
        assert_eq!(tree.leave(id(3), b"f", 10), Some(id(4)));
        tree.keep_orphan(id(4));
        assert_eq!(tree.path_of(id(4)), "(unlinked file 0x1000000000004)");
        assert!(tree.forget(id(4)).is_some() && tree.orphans().is_empty());
    }

    #[test]
    fn attributes_come_from_the_nearest_directory_that_says_something() {
        let mut tree = tree();
        tree.dir_mut(id(2)).unwrap().attrs =
            AttrSet { tier: Some(1), domain: Some(FailureDomain::Disk), ..AttrSet::default() };
        tree.dir_mut(id(3)).unwrap().attrs = AttrSet { tier: Some(2), ..AttrSet::default() };
        assert_eq!(tree.attrs_in(id(1)), Attrs::default());
        assert_eq!(tree.attrs_in(id(2)).tier, 1);
        let inner = tree.attrs_in(id(3));
        assert_eq!(
            (inner.tier, inner.domain, inner.chunk_size),
            (2, FailureDomain::Disk, Attrs::default().chunk_size)
        );
    }

    #[test]
    fn what_lies_below_comes_parents_first() {
        let below = |from| tree().below(from).into_iter().map(|entry| entry.id).collect::<Vec<_>>();
        assert_eq!(below(id(1)), [id(2), id(3), id(4)]);
        assert_eq!(below(id(4)), []);
    }

    #[test]
    fn of_several_names_another_takes_over() {
        let mut tree = tree();
        tree.enter(id(4), id(1), b"z", 4);
        tree.enter(id(4), id(1), b"\xff", 5);
        assert_eq!((tree.nlink(id(4)), tree.path_of(id(4)).as_str()), (3, "/a/b/f"));
        assert_eq!(tree.lookup(path("/\u{fffd}ff")), Ok(id(4)), "by the text it is shown with");
        assert_eq!(tree.leave(id(3), b"f", 6), Some(id(4)));
        assert_eq!((tree.nlink(id(4)), tree.path_of(id(4)).as_str()), (2, "/z"));
        assert_eq!(tree.leave(id(1), b"\xff", 7), Some(id(4)));
        assert_eq!((tree.nlink(id(4)), tree.leave(id(1), b"none", 8)), (1, None));
        assert!(tree.links.is_empty());
        assert_eq!(tree.leave(id(1), b"z", 9), Some(id(4)));
        assert_eq!(tree.nlink(id(4)), 0);
    }

    #[test]
    fn what_lies_within_what() {
        let tree = tree();
        for (inner, outer, within) in [(4, 1, true), (4, 4, true), (3, 2, true), (2, 3, false), (1, 2, false)]
        {
            assert_eq!(tree.is_within(id(inner), id(outer)), within, "{inner} in {outer}");
        }
    }

    #[test]
    fn a_tree_is_rebuilt_from_its_names() {
        let mut tree = tree();
        tree.enter(id(4), id(1), b"again", 4);
        tree.change_xattrs(id(4), |xattrs| xattrs.set(b"user.a", b"b"));
        let mut bare = tree.inodes.clone();
        for inode in bare.values_mut() {
            if let Body::Dir(dir) = &mut inode.body {
                dir.children.clear();
                dir.subdirs = 0;
            }
        }
        let restore = |bare, links| Namespace::restore(id(1), bare, links, tree.xattrs.clone());
        assert_eq!(restore(bare.clone(), tree.links.clone()), Ok(tree.clone()));
        let two = BTreeMap::from([(id(3), tree.links[&id(4)].clone())]);
        assert_eq!(restore(bare.clone(), two), Err(id(3)), "a directory with two names");
        bare.remove(&id(3));
        assert_eq!(restore(bare, tree.links.clone()), Err(id(4)), "its directory is missing");
    }
}
