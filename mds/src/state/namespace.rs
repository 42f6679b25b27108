//! The tree of directories and files.
//!
//! This module knows how the tree hangs together and nothing of leases, chunk servers or events. There are no
//! hard links, so every inode has one parent and one name, except the top directory and files that are unlinked
//! but still in use (*orphans*, C9).

use super::attrs::{AttrSet, Attrs};
use super::chunk::ChunkMap;
use super::ids::FileId;
use super::lease::Lease;
use super::path::Path;
use super::refusal::{BadPath, Refusal};
use std::collections::{BTreeMap, BTreeSet};

/// Permission bits of the top directory.
const ROOT_MODE: u32 = 0o755;

/// A directory or file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Where it hangs; `None` for the top directory and for orphans.
    pub(super) place: Option<Place>,
    /// When it was made, in milliseconds since 1970.
    pub(super) created_ms: u64,
    /// When its entries, size or attributes last changed.
    pub(super) changed_ms: u64,
    /// Permission bits as in POSIX.
    pub(super) mode: u32,
    pub(super) body: Body,
}

/// Where an inode hangs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) parent: FileId,
    pub(super) name: Box<str>,
}

/// What kind of inode it is. Kinds 1 and 2 in snapshots; others (symbolic link, snapshot) are reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Dir(Dir),
    File(Box<File>),
}

/// A directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dir {
    pub(super) children: BTreeMap<Box<str>, FileId>,
    /// What was set on this directory itself.
    pub(super) attrs: AttrSet,
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub(super) size: u64,
    pub(super) attrs: Attrs,
    pub(super) chunks: ChunkMap,
    pub(super) lease: Lease,
}

impl File {
    /// An empty file.
    pub(super) fn new(size: u64, attrs: Attrs) -> Self {
        Self { size, attrs, chunks: ChunkMap::default(), lease: Lease::default() }
    }

    /// Chunks that the size covers, allocated or not.
    pub fn chunk_span(&self) -> u64 {
        self.size.div_ceil(self.attrs.chunk_size)
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its attributes.
    pub fn attrs(&self) -> Attrs {
        self.attrs
    }

    /// Its map.
    pub fn chunks(&self) -> &ChunkMap {
        &self.chunks
    }

    /// Its lease.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

/// The tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    inodes: BTreeMap<FileId, Inode>,
    root: FileId,
    orphans: BTreeSet<FileId>,
}

impl Namespace {
    /// A tree with nothing but the top directory, which says everything about attributes.
    pub(super) fn new(root: FileId, now_ms: u64) -> Self {
        let top = Attrs::default();
        let attrs = AttrSet {
            replicas: Some(top.replicas),
            domain: Some(top.domain),
            tier: Some(top.tier),
            chunk_size: Some(top.chunk_size),
        };
        let body = Body::Dir(Dir { children: BTreeMap::new(), attrs });
        let inode = Inode { place: None, created_ms: now_ms, changed_ms: now_ms, mode: ROOT_MODE, body };
        Self { inodes: BTreeMap::from([(root, inode)]), root, orphans: BTreeSet::new() }
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
            Body::Dir(_) => None,
        })
    }

    pub(super) fn files_mut(&mut self) -> impl Iterator<Item = (FileId, &mut File)> {
        self.inodes.iter_mut().filter_map(|(id, inode)| match &mut inode.body {
            Body::File(file) => Some((*id, &mut **file)),
            Body::Dir(_) => None,
        })
    }

    /// Finds what a path leads to.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] or [`Refusal::NotADirectory`], naming the part of the path that is so.
    pub fn lookup(&self, path: Path<'_>) -> Result<FileId, Refusal> {
        let mut at = self.root;
        let mut walked = 0;
        for name in path.names() {
            let here = &path.as_str()[..walked.max(1)];
            let dir = self.dir(at).ok_or_else(|| Refusal::NotADirectory(here.to_owned()))?;
            walked += 1 + name.len();
            at = *dir
                .children
                .get(name)
                .ok_or_else(|| Refusal::NotFound(path.as_str()[..walked].to_owned()))?;
        }
        Ok(at)
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

    /// The path of an inode, for people: orphans have none and are shown by their id.
    pub fn path_of(&self, id: FileId) -> String {
        let mut names = Vec::new();
        let mut at = id;
        while let Some(Place { parent, name }) = self.inodes.get(&at).and_then(|inode| inode.place.as_ref()) {
            names.push(&**name);
            at = *parent;
        }
        if at != self.root {
            return format!("(unlinked file {:#x})", id.raw());
        }
        names.iter().rev().fold(String::new(), |path, name| path + "/" + name)
            + if names.is_empty() { "/" } else { "" }
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

    /// Adds an entry to a directory. The caller has checked that the name is free.
    pub(super) fn link(
        &mut self,
        id: FileId,
        parent: FileId,
        name: &str,
        now_ms: u64,
        mode: u32,
        body: Body,
    ) {
        let place = Some(Place { parent, name: name.into() });
        let inode = Inode { place, created_ms: now_ms, changed_ms: now_ms, mode, body };
        let fresh = self.inodes.insert(id, inode).is_none();
        assert!(fresh, "the id {id} is in use");
        self.enter(id, parent, name, now_ms);
    }

    fn enter(&mut self, id: FileId, parent: FileId, name: &str, now_ms: u64) {
        let dir = self.dir_mut(parent).expect("callers look the directory up");
        let free = dir.children.insert(name.into(), id).is_none();
        assert!(free, "the name {name} is taken");
        self.touch(parent, now_ms);
    }

    /// Takes an inode out of its directory. It stays, without a place.
    pub(super) fn unlink(&mut self, id: FileId, now_ms: u64) {
        let Some(place) = self.inodes.get_mut(&id).and_then(|inode| inode.place.take()) else { return };
        if let Some(dir) = self.dir_mut(place.parent) {
            dir.children.remove(&place.name);
        }
        self.touch(place.parent, now_ms);
    }

    /// Moves an inode to a name that is free.
    pub(super) fn relink(&mut self, id: FileId, parent: FileId, name: &str, now_ms: u64) {
        self.unlink(id, now_ms);
        self.enter(id, parent, name, now_ms);
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.place = Some(Place { parent, name: name.into() });
        }
        self.touch(id, now_ms);
    }

    /// Notes that an inode changed.
    pub(super) fn touch(&mut self, id: FileId, now_ms: u64) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.changed_ms = now_ms;
        }
    }

    /// Keeps an unlinked file until its last lease ends.
    pub(super) fn keep_orphan(&mut self, id: FileId) {
        self.orphans.insert(id);
    }

    /// Takes an unlinked inode out of the tree.
    pub(super) fn forget(&mut self, id: FileId) -> Option<Inode> {
        self.orphans.remove(&id);
        self.inodes.remove(&id)
    }

    /// All that lies below a directory, parents before children.
    pub(super) fn below(&self, id: FileId) -> Vec<FileId> {
        let mut found = Vec::new();
        let mut todo = vec![id];
        while let Some(dir) = todo.pop().and_then(|id| self.dir(id)) {
            for child in dir.children.values() {
                found.push(*child);
                if self.dir(*child).is_some() {
                    todo.push(*child);
                }
            }
        }
        found
    }

    /// Builds the tree from a snapshot: places first, the entries of directories follow from them.
    ///
    /// # Errors
    /// The id of an inode that hangs nowhere, or in something that is not a directory, or under a taken name.
    pub(super) fn restore(root: FileId, inodes: BTreeMap<FileId, Inode>) -> Result<Self, FileId> {
        let mut tree = Self { inodes, root, orphans: BTreeSet::new() };
        let places: Vec<(FileId, Option<Place>)> =
            tree.inodes.iter().map(|(id, inode)| (*id, inode.place.clone())).collect();
        for (id, place) in places {
            match place {
                Some(Place { parent, name }) => {
                    let dir = tree.dir_mut(parent).ok_or(id)?;
                    if dir.children.insert(name, id).is_some() {
                        return Err(id);
                    }
                }
                None if id == root => {}
                None => {
                    tree.orphans.insert(id);
                }
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

    fn dir() -> Body {
        Body::Dir(Dir::default())
    }

    fn path(text: &str) -> Path<'_> {
        Path::parse(text).unwrap()
    }

    /// `/a/b/f`
    fn tree() -> Namespace {
        let mut tree = Namespace::new(id(1), 0);
        tree.link(id(2), id(1), "a", 1, 0, dir());
        tree.link(id(3), id(2), "b", 2, 0, dir());
        tree.link(id(4), id(3), "f", 3, 0, Body::File(Box::new(File::new(0, Attrs::default()))));
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
        tree.relink(id(3), id(1), "c", 9);
        assert_eq!(tree.path_of(id(4)), "/c/f");
        assert_eq!(tree.lookup(path("/a/b")), Err(Refusal::NotFound("/a/b".into())));
        assert_eq!(tree.inode(id(2)).unwrap().changed_ms, 9);
        tree.unlink(id(4), 10);
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
        assert_eq!(tree().below(id(1)), [id(2), id(3), id(4)]);
        assert_eq!(tree().below(id(4)), []);
    }

    #[test]
    fn a_tree_is_rebuilt_from_its_places() {
        let tree = tree();
        let mut bare = tree.inodes.clone();
        for inode in bare.values_mut() {
            if let Body::Dir(dir) = &mut inode.body {
                dir.children.clear();
            }
        }
        assert_eq!(Namespace::restore(id(1), bare.clone()), Ok(tree));
        bare.remove(&id(3));
        assert_eq!(Namespace::restore(id(1), bare), Err(id(4)), "its directory is missing");
    }
}
