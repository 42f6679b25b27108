//! Directories, files, sizes and attributes.

use super::{Answer, Step};
use crate::state::State;
use crate::state::attrs::{AttrSet, Attrs};
use crate::state::chunk::ChunkEntry;
use crate::state::command::{CreateFile, MakeDir, Remove, Rename, Resize, SetAttr};
use crate::state::ids::{ClientId, FileId};
use crate::state::namespace::{Body, Dir, File, parse_path};
use crate::state::outcome::{Held, Outcome, Removed, Resized};
use crate::state::path::Path;
use crate::state::refusal::{FileTooLarge, Refusal};

impl State {
    pub(super) fn make_dir(&mut self, step: &mut Step, op: &MakeDir) -> Answer {
        let path = parse_path(&op.path)?;
        if !op.parents {
            let (parent, name) = self.tree.lookup_parent(path)?;
            self.check_free(parent, name, path)?;
            return Ok(Outcome::Created(self.link_dir(step, parent, name, op.mode).raw()));
        }
        let mut at = self.tree.root();
        let mut names = path.names().peekable();
        while let Some(name) = names.peek() {
            let Some(dir) = self.tree.dir(at) else {
                return Err(Refusal::NotADirectory(self.tree.path_of(at)));
            };
            let Some(child) = dir.children.get(*name) else { break };
            at = *child;
            names.next();
        }
        if self.tree.dir(at).is_none() {
            return Err(Refusal::NotADirectory(self.tree.path_of(at)));
        }
        for name in names {
            at = self.link_dir(step, at, name, op.mode);
        }
        Ok(Outcome::Created(at.raw()))
    }

    fn link_dir(&mut self, step: &Step, parent: FileId, name: &str, mode: u32) -> FileId {
        let id = self.cluster.mint_file();
        self.tree.link(id, parent, name, step.now_ms, mode, Body::Dir(Dir::default()));
        id
    }

    fn check_free(&self, parent: FileId, name: &str, path: Path<'_>) -> Result<(), Refusal> {
        let taken = self.tree.dir(parent).is_some_and(|dir| dir.children.contains_key(name));
        if taken { Err(Refusal::Exists(path.to_string())) } else { Ok(()) }
    }

    pub(super) fn create_file(&mut self, step: &mut Step, op: &CreateFile) -> Answer {
        let path = parse_path(&op.path)?;
        let (parent, name) = self.tree.lookup_parent(path)?;
        self.check_free(parent, name, path)?;
        let own = op.attrs.as_ref().map(AttrSet::parse).transpose()?.unwrap_or_default();
        let attrs = own.over(self.tree.attrs_in(parent));
        check_size(op.size, attrs)?;
        let id = self.cluster.mint_file();
        let body = Body::File(Box::new(File::new(op.size, attrs)));
        self.tree.link(id, parent, name, step.now_ms, op.mode, body);
        Ok(Outcome::Created(id.raw()))
    }

    pub(super) fn remove(&mut self, step: &mut Step, op: &Remove) -> Answer {
        let path = parse_path(&op.path)?;
        if path.is_root() {
            return Err(Refusal::TopDirectory(()));
        }
        let id = self.tree.lookup(path)?;
        if !op.recursive && self.tree.dir(id).is_some_and(|dir| !dir.children.is_empty()) {
            return Err(Refusal::NotEmpty(path.to_string()));
        }
        let mut removed = Removed::default();
        // Children before their directories.
        for id in std::iter::once(id).chain(self.tree.below(id)).collect::<Vec<_>>().into_iter().rev() {
            removed.entries += 1;
            removed.orphans += u64::from(self.unlink(step, id));
        }
        Ok(Outcome::Removed(removed))
    }

    /// Unlinks a file or an empty directory. Returns whether it lives on as an orphan (C9).
    fn unlink(&mut self, step: &mut Step, id: FileId) -> bool {
        self.tree.unlink(id, step.now_ms);
        if self.tree.file(id).is_ok() {
            self.tree.keep_orphan(id);
            self.sweep_orphans(step);
        } else {
            self.delete_file(step, id);
        }
        self.tree.orphans().contains(&id)
    }

    /// Deletes an unlinked file (or directory): its chunks go to the delete list (C9).
    pub(super) fn delete_file(&mut self, step: &mut Step, id: FileId) {
        let Some(inode) = self.tree.forget(id) else { return };
        if let Body::File(file) = inode.body {
            self.discard_chunks(step, id, file.chunks.iter());
        }
        self.fencing.remove(&id);
        self.kept.remove(&id);
        for server in self.servers.iter_mut() {
            server.debts.remove(&id);
        }
    }

    /// Sends chunks that left their file's map to the delete list.
    fn discard_chunks<'a>(
        &mut self,
        step: &Step,
        file: FileId,
        entries: impl Iterator<Item = &'a ChunkEntry>,
    ) {
        for entry in entries {
            self.creating.remove(&entry.id());
            self.count_members(entry, false);
            self.deletions.add(file, entry, step.now_ms);
        }
    }

    pub(super) fn rename(&mut self, step: &mut Step, op: &Rename) -> Answer {
        let (from, to) = (parse_path(&op.from)?, parse_path(&op.to)?);
        if from.is_root() || to.is_root() {
            return Err(Refusal::TopDirectory(()));
        }
        let id = self.tree.lookup(from)?;
        let (parent, name) = self.tree.lookup_parent(to)?;
        let target = self.tree.dir(parent).and_then(|dir| dir.children.get(name)).copied();
        if target == Some(id) {
            return Ok(Outcome::Done(()));
        }
        if to.is_within(from) {
            return Err(Refusal::BelowItself(from.to_string()));
        }
        if let Some(target) = target {
            self.check_replaceable(id, target, to, op.no_replace)?;
            self.unlink(step, target);
        }
        self.tree.relink(id, parent, name, step.now_ms);
        Ok(Outcome::Done(()))
    }

    /// POSIX `rename`: a file goes over a file, a directory over an empty directory.
    fn check_replaceable(
        &self,
        id: FileId,
        target: FileId,
        to: Path<'_>,
        no_replace: bool,
    ) -> Result<(), Refusal> {
        let to = to.to_string();
        if no_replace {
            return Err(Refusal::Exists(to));
        }
        match (self.tree.dir(id), self.tree.dir(target)) {
            (None, Some(_)) => Err(Refusal::IsADirectory(to)),
            (Some(_), None) => Err(Refusal::NotADirectory(to)),
            (Some(_), Some(dir)) if !dir.children.is_empty() => Err(Refusal::NotEmpty(to)),
            (None, None) | (Some(_), Some(_)) => Ok(()),
        }
    }

    pub(super) fn resize(&mut self, step: &mut Step, op: &Resize) -> Answer {
        let id = self.resolve(op.target.as_ref())?;
        let under_lease = op.lease.is_some();
        if under_lease {
            self.writer(op.lease.as_ref(), id)?;
        } else if let Some(held) = self.in_use(id)? {
            return Err(Refusal::InUse(held));
        }
        let file = self.tree.file_mut(id)?;
        check_size(op.size, file.attrs)?;
        let keep = op.size.div_ceil(file.attrs.chunk_size);
        let shrinks = op.size < file.size;
        let cuts = !op.size.is_multiple_of(file.attrs.chunk_size)
            && last_index(keep).is_some_and(|last| file.chunks.get(last).is_some());
        if shrinks && !op.allow_shrink {
            return Err(Refusal::ShrinkNotAllowed(file.size));
        }
        if shrinks && cuts && !under_lease {
            return Err(Refusal::ShrinkNeedsLease(file.attrs.chunk_size));
        }
        file.size = op.size;
        let mut gone = Vec::new();
        if shrinks {
            // Who comes back to a file that was cut while it was away would work with a map that is wrong (C1).
            if !under_lease {
                file.lease.forget_resumable();
            }
            if let Ok(first) = u32::try_from(keep) {
                gone = file.chunks.split_off(first);
            }
        }
        self.tree.touch(id, step.now_ms);
        self.discard_chunks(step, id, gone.iter());
        Ok(Outcome::Resized(Resized { size: op.size, dropped: gone.len() as u64 }))
    }

    /// Who stands in the way of changing a file without its lease: holders, or a live client it is kept for.
    fn in_use(&self, id: FileId) -> Result<Option<Held>, Refusal> {
        let lease = self.tree.file(id)?.lease();
        let ids = |clients: &[ClientId]| clients.iter().map(|client| client.0).collect();
        let kept_for = lease.reserved_for().filter(|client| self.clients.is_live(*client));
        Ok(match (lease.holders(), kept_for) {
            ([], None) => None,
            ([], Some(client)) => Some(Held { file: id.raw(), by: vec![client.0], reserved: true }),
            (holders, _) => Some(Held { file: id.raw(), by: ids(holders), reserved: false }),
        })
    }

    pub(super) fn set_attr(&mut self, step: &mut Step, op: &SetAttr) -> Answer {
        let path = parse_path(&op.path)?;
        let id = self.tree.lookup(path)?;
        let change = op.change.as_ref().map(AttrSet::parse).transpose()?.unwrap_or_default();
        let mut changed = 1;
        if let Some(dir) = self.tree.dir_mut(id) {
            dir.attrs.merge(&change);
        } else {
            let file = self.tree.file_mut(id)?;
            if change.chunk_size.is_some_and(|size| size != file.attrs.chunk_size) {
                return Err(Refusal::ChunkSizeFixed(path.to_string()));
            }
            file.attrs = change.over(file.attrs);
        }
        self.tree.touch(id, step.now_ms);
        if op.recursive {
            // The chunk size of files that exist is fixed; new ones follow their directory.
            let for_files = AttrSet { chunk_size: None, ..change };
            for below in self.tree.below(id) {
                match self.tree.dir_mut(below) {
                    Some(dir) => dir.attrs.forget(&change),
                    None => {
                        let file = self.tree.file_mut(below)?;
                        file.attrs = for_files.over(file.attrs);
                    }
                }
                self.tree.touch(below, step.now_ms);
                changed += 1;
            }
        }
        Ok(Outcome::AttrsChanged(changed))
    }
}

/// The index of the last of `chunks` chunks.
fn last_index(chunks: u64) -> Option<u32> {
    u32::try_from(chunks.checked_sub(1)?).ok()
}

/// A chunk index has 32 bits.
fn check_size(size: u64, attrs: Attrs) -> Result<(), Refusal> {
    let limit = attrs.chunk_size * (1 << 32);
    if size > limit { Err(Refusal::FileTooLarge(FileTooLarge { size, limit })) } else { Ok(()) }
}
