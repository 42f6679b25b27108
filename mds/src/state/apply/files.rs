//! Directories, files, sizes and attributes.

use super::{Answer, Step};
use crate::state::State;
use crate::state::attrs::{AttrSet, Attrs};
use crate::state::chunk::ChunkEntry;
use crate::state::command::{CreateFile, LeaseProof, MakeDir, Remove, Rename, Resize, SetAttr};
use crate::state::effect::Effect;
use crate::state::ids::{ClientId, CsId, FileId};
use crate::state::inode::{Body, File, Inode};
use crate::state::namespace::parse_path;
use crate::state::outcome::{Held, Outcome, Removed, Resized, Unlinked};
use crate::state::path::Path;
use crate::state::refusal::{FileTooLarge, Refusal};
use std::collections::BTreeSet;

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
            let Some(child) = dir.children.get(name.as_bytes()) else { break };
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
        let inode = Inode::new(mode, step.now_ns(), Body::Dir(Box::default()));
        self.tree.plant(id, inode, parent, name.as_bytes(), step.now_ns());
        id
    }

    fn check_free(&self, parent: FileId, name: &str, path: Path<'_>) -> Result<(), Refusal> {
        let taken = self.tree.child(parent, name.as_bytes()).is_some();
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
        let inode = Inode::new(op.mode, step.now_ns(), Body::File(Box::new(File::new(op.size, attrs))));
        self.tree.plant(id, inode, parent, name.as_bytes(), step.now_ns());
        Ok(Outcome::Created(id.raw()))
    }

    pub(super) fn remove(&mut self, step: &mut Step, op: &Remove) -> Answer {
        let path = parse_path(&op.path)?;
        if path.is_root() {
            return Err(Refusal::TopDirectory(()));
        }
        let entry = self.tree.lookup_entry(path)?;
        if !op.recursive && self.tree.dir(entry.id).is_some_and(|dir| !dir.children.is_empty()) {
            return Err(Refusal::NotEmpty(path.to_string()));
        }
        let mut removed = Removed::default();
        let below = self.tree.below(entry.id);
        // Children before their directories.
        for entry in std::iter::once(entry).chain(below).collect::<Vec<_>>().into_iter().rev() {
            removed.entries += 1;
            let unlinked = self.unlink(step, entry.parent, &entry.name, step.now_ns());
            removed.orphans += u64::from(unlinked.is_some_and(|left| left.nlink == 0 && !left.gone));
        }
        Ok(Outcome::Removed(removed))
    }

    /// Takes a name away, of a directory only if it is empty. What has no more name is deleted, files when nobody holds
    /// them (C9).
    pub(super) fn unlink(
        &mut self,
        step: &mut Step,
        parent: FileId,
        name: &[u8],
        now_ns: i64,
    ) -> Option<Unlinked> {
        let id = self.tree.leave(parent, name, now_ns)?;
        let nlink = if self.tree.dir(id).is_some() { 0 } else { self.tree.nlink(id) };
        if nlink > 0 {
            self.tree.touch_inode(id, now_ns);
        } else if self.tree.file(id).is_ok() && !rt::sim::planted("quarantine-skipped") {
            self.tree.keep_orphan(id);
            self.sweep_orphan(step, id);
        } else {
            self.delete_file(step, id);
        }
        Some(Unlinked { id: id.raw(), nlink, gone: self.tree.inode(id).is_none() })
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
        step: &mut Step,
        file: FileId,
        entries: impl Iterator<Item = &'a ChunkEntry>,
    ) {
        let before = self.deletions.len();
        for entry in entries {
            self.creating.remove(&entry.id());
            self.count_members(entry, false);
            self.changes.note(file, Some(entry), None);
            self.deletions.add(file, entry, step.now_ms);
            let made: Vec<CsId> = self.changes.adding(entry.id()).collect();
            for cs in made {
                self.end_addition(step, cs, entry.id());
            }
        }
        if self.deletions.len() > before {
            step.effect(Effect::Purge);
        }
    }

    pub(super) fn rename(&mut self, step: &mut Step, op: &Rename) -> Answer {
        let (from, to) = (parse_path(&op.from)?, parse_path(&op.to)?);
        if from.is_root() || to.is_root() {
            return Err(Refusal::TopDirectory(()));
        }
        let entry = self.tree.lookup_entry(from)?;
        let (parent, name) = self.tree.lookup_parent(to)?;
        let (id, name) = (entry.id, name.as_bytes());
        let target = self.tree.child(parent, name);
        if target == Some(id) {
            return Ok(Outcome::Done(()));
        }
        if to.is_within(from) {
            return Err(Refusal::BelowItself(from.to_string()));
        }
        if let Some(target) = target {
            if op.no_replace {
                return Err(Refusal::Exists(to.to_string()));
            }
            self.check_replaceable(id, target, || to.to_string())?;
            self.unlink(step, parent, name, step.now_ns());
        }
        self.tree.relink(&entry, parent, name, step.now_ns());
        self.tree.touch(id, step.now_ns());
        Ok(Outcome::Done(()))
    }

    /// POSIX `rename`: a file goes over a file, a directory over an empty directory.
    pub(super) fn check_replaceable(
        &self,
        id: FileId,
        target: FileId,
        to: impl Fn() -> String,
    ) -> Result<(), Refusal> {
        match (self.tree.dir(id), self.tree.dir(target)) {
            (None, Some(_)) => Err(Refusal::IsADirectory(to())),
            (Some(_), None) => Err(Refusal::NotADirectory(to())),
            (Some(_), Some(dir)) if !dir.children.is_empty() => Err(Refusal::NotEmpty(to())),
            (None, None) | (Some(_), Some(_)) => Ok(()),
        }
    }

    pub(super) fn resize(&mut self, step: &mut Step, op: &Resize) -> Answer {
        let id = self.resolve(op.target.as_ref())?;
        let dropped = self.set_size(step, id, op.size, op.lease.as_ref(), op.allow_shrink)?;
        self.tree.touch(id, step.now_ns());
        Ok(Outcome::Resized(Resized { size: op.size, dropped }))
    }

    /// Changes the size of a file, under the write lease or while nobody holds one; returns how many chunks that dropped.
    pub(super) fn set_size(
        &mut self,
        step: &mut Step,
        id: FileId,
        size: u64,
        lease: Option<&LeaseProof>,
        allow_shrink: bool,
    ) -> Result<u64, Refusal> {
        if lease.is_some() {
            self.writer(lease, id)?;
        } else if let Some(held) = self.in_use(id)? {
            return Err(Refusal::InUse(held));
        }
        let file = self.tree.file_mut(id)?;
        check_size(size, file.attrs)?;
        let keep = size.div_ceil(file.attrs.chunk_size);
        let shrinks = size < file.size;
        let cuts = !size.is_multiple_of(file.attrs.chunk_size)
            && last_index(keep).is_some_and(|last| file.chunks.get(last).is_some());
        if shrinks && !allow_shrink {
            return Err(Refusal::ShrinkNotAllowed(file.size));
        }
        if shrinks && cuts && lease.is_none() {
            return Err(Refusal::ShrinkNeedsLease(file.attrs.chunk_size));
        }
        if size > file.size && file.is_end_unsettled() {
            return Err(Refusal::EndUnsettled(id.raw()));
        }
        file.size = size;
        let mut gone = Vec::new();
        if shrinks {
            // Who comes back to a file that was cut while it was away would work with a map that is wrong (C1).
            if lease.is_none() {
                file.lease.forget_resumable();
            }
            if let Ok(first) = u32::try_from(keep) {
                gone = file.chunks.split_off(first);
            }
        }
        self.discard_chunks(step, id, gone.iter());
        Ok(gone.len() as u64)
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
            let file = self.tree.file_mut(id).map_err(|_| Refusal::NotAFile(path.to_string()))?;
            if change.chunk_size.is_some_and(|size| size != file.attrs.chunk_size) {
                return Err(Refusal::ChunkSizeFixed(path.to_string()));
            }
            file.attrs = change.over(file.attrs);
        }
        self.tree.touch(id, step.now_ns());
        if op.recursive {
            // The chunk size of files that exist is fixed; new ones follow their directory.
            let for_files = AttrSet { chunk_size: None, ..change };
            // Each once, however many names it has.
            let below: BTreeSet<FileId> = self.tree.below(id).into_iter().map(|entry| entry.id).collect();
            for below in below {
                if let Some(dir) = self.tree.dir_mut(below) {
                    dir.attrs.forget(&change);
                } else if let Ok(file) = self.tree.file_mut(below) {
                    file.attrs = for_files.over(file.attrs);
                } else {
                    continue;
                }
                self.tree.touch(below, step.now_ns());
                changed += 1;
            }
        }
        step.effect(Effect::Replicate);
        Ok(Outcome::AttrsChanged(changed))
    }
}

/// The index of the last of `chunks` chunks.
fn last_index(chunks: u64) -> Option<u32> {
    u32::try_from(chunks.checked_sub(1)?).ok()
}

/// A chunk index has 32 bits.
pub(super) fn check_size(size: u64, attrs: Attrs) -> Result<(), Refusal> {
    let limit = attrs.chunk_size * (1 << 32);
    if size > limit { Err(Refusal::FileTooLarge(FileTooLarge { size, limit })) } else { Ok(()) }
}
