//! Names, sizes and attributes.

use wire::hello::Empty;
use wire::limits::MAX_LISTED;
use wire::namespace::{
    Create, Entry, FileKind, FileRef, FileReply, GetAttr, GetAttrReply, List, ListReply, Remove, Rename,
    Resize, SetAttr, SetAttrReply, Stat,
};
use wire::{BodyError, Status};

use super::asked::Asked;
use super::attributes;
use super::failure::Failure;
use super::reign::{Reign, unexpected};
use super::shown;
use crate::state::command::{self, CommandOp, CreateFile, MakeDir, Target};
use crate::state::query::{self, StatKind};
use crate::state::{FileId, Outcome, Refusal, State};

/// Permission bits that are kept.
const MODE_BITS: u32 = 0o7777;

impl Reign {
    pub(super) async fn create(&self, call: Create, asked: &Asked) -> Result<FileReply, Failure> {
        let attrs = attributes::change(&call.attrs)?;
        let mode = call.mode & MODE_BITS;
        let op = match call.kind() {
            FileKind::File => {
                let attrs = Some(attrs.clone()).filter(|attrs| !attributes::is_empty(attrs));
                CommandOp::CreateFile(CreateFile { path: call.path.clone(), size: call.size, attrs, mode })
            }
            FileKind::Directory if call.size > 0 => {
                return Err(Failure::new(Status::Invalid, "a directory has no size"));
            }
            FileKind::Directory => {
                CommandOp::MakeDir(MakeDir { path: call.path.clone(), parents: false, mode })
            }
            FileKind::Unspecified => return Err(BodyError::Missing { field: "kind" }.into()),
            _ => return Err(Failure::new(Status::Invalid, "by path only files and directories are made")),
        };
        let id = match self.change(asked, asked.key(None), op).await?? {
            Outcome::Created(id) => FileId::from_raw(id),
            other => return Err(unexpected(&other)),
        };
        if call.kind() == FileKind::Directory && !attributes::is_empty(&attrs) {
            // Checked above. Repeated with the request, if this server stops in between.
            let op = command::SetAttr { path: call.path, change: Some(attrs), recursive: false };
            self.change(asked, None, CommandOp::SetAttr(op)).await??;
        }
        self.file_reply(id)
    }

    fn file_reply(&self, id: FileId) -> Result<FileReply, Failure> {
        self.read(|state| Ok(FileReply { info: shown::file_info(state, state.stat_id(id)?) }))
    }

    pub(super) async fn list(&self, call: List, asked: &Asked) -> Result<ListReply, Failure> {
        self.confirm(asked).await?;
        let after = Some(call.after.as_str()).filter(|name| !name.is_empty());
        let limit = if call.limit == 0 { MAX_LISTED } else { call.limit.min(MAX_LISTED) } as usize;
        let page = self.read(|state| state.list(&call.path, after, limit))?;
        let entry = |entry: query::DirEntry| Entry {
            name: entry.name,
            kind: shown::kind(entry.kind).into(),
            size: entry.size,
            file_id: entry.id.raw(),
            modified_ms: entry.changed_ms,
        };
        Ok(ListReply { entries: page.entries.into_iter().map(entry).collect(), more: page.more })
    }

    pub(super) async fn stat(&self, call: Stat, asked: &Asked) -> Result<FileReply, Failure> {
        self.confirm(asked).await?;
        self.read(|state| {
            let stat = match named(call.file.as_ref())? {
                FileRef::Path(path) => state.stat(path)?,
                FileRef::Id(id) => state.stat_id(FileId::from_raw(*id))?,
            };
            Ok(FileReply { info: shown::file_info(state, stat) })
        })
    }

    pub(super) async fn remove(&self, call: Remove, asked: &Asked) -> Result<Empty, Failure> {
        let op = CommandOp::Remove(command::Remove { path: call.path, recursive: call.recursive });
        self.change(asked, asked.key(None), op).await??;
        Ok(Empty {})
    }

    pub(super) async fn rename(&self, call: Rename, asked: &Asked) -> Result<Empty, Failure> {
        let op = CommandOp::Rename(command::Rename { from: call.from, to: call.to, no_replace: true });
        self.change(asked, asked.key(None), op).await??;
        Ok(Empty {})
    }

    pub(super) async fn resize(&self, call: Resize, asked: &Asked) -> Result<FileReply, Failure> {
        self.confirm(asked).await?;
        // By its id: the answer names the file that was changed, whatever has its name then.
        let id = self.read(|state| Ok::<_, Failure>(resolve(state, named(call.file.as_ref())?)?))?;
        let target = Target::file(id.raw());
        let op = command::Resize { target, size: call.size, lease: None, allow_shrink: call.allow_shrink };
        match self.change(asked, asked.key(None), CommandOp::Resize(op)).await? {
            Ok(_) => self.file_reply(id),
            Err(Refusal::InUse(held)) => Err(self.held(&held)),
            Err(refusal) => Err(refusal.into()),
        }
    }

    pub(super) async fn get_attr(&self, call: GetAttr, asked: &Asked) -> Result<GetAttrReply, Failure> {
        self.confirm(asked).await?;
        let stat = self.read(|state| state.stat(&call.path))?;
        let effective = attributes::in_force(stat.attrs);
        let explicit = match &stat.kind {
            StatKind::Dir { explicit, .. } => attributes::explicit(explicit),
            // A file took a copy of all when it was created, and goes its own way since.
            StatKind::File { .. } | StatKind::Other { .. } => effective.clone(),
        };
        Ok(GetAttrReply { explicit, effective })
    }

    pub(super) async fn set_attr(&self, call: SetAttr, asked: &Asked) -> Result<SetAttrReply, Failure> {
        let change = attributes::change(&call.attrs)?;
        if attributes::is_empty(&change) {
            return Err(Failure::new(Status::Invalid, "no attribute to change is named"));
        }
        let op = command::SetAttr { path: call.path, change: Some(change), recursive: call.recursive };
        match self.change(asked, asked.key(None), CommandOp::SetAttr(op)).await?? {
            Outcome::AttrsChanged(changed) => Ok(SetAttrReply { changed }),
            other => Err(unexpected(&other)),
        }
    }
}

/// The file a request names.
pub(super) fn named(file: Option<&FileRef>) -> Result<&FileRef, Failure> {
    file.ok_or_else(|| BodyError::Missing { field: "file" }.into())
}

/// The regular file that is named.
pub(super) fn resolve(state: &State, file: &FileRef) -> Result<FileId, Refusal> {
    match file {
        FileRef::Id(id) => {
            let id = FileId::from_raw(*id);
            state.tree().file(id).map(|_| id)
        }
        FileRef::Path(path) => {
            let stat = state.stat(path)?;
            match stat.kind {
                StatKind::File { .. } => Ok(stat.id),
                StatKind::Dir { .. } => Err(Refusal::IsADirectory(path.clone())),
                StatKind::Other { .. } => Err(Refusal::NotAFile(path.clone())),
            }
        }
    }
}
