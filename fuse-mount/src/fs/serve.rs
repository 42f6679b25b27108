//! From a request to its answer.

use fuser::{Errno, FileHandle, FopenFlags, Generation};

use super::{Answer, Fs, LIFETIME};
use crate::request::Request;

/// Unit of the file system's space in bytes.
const BLOCK: u64 = 4096;
/// Longest name in bytes.
const NAME_MAX: u32 = 255;
/// Free inodes are told as this many, since there is no limit.
const FREE_INODES: u64 = 1 << 32;

/// Answers with success, or with the error.
macro_rules! answer {
    ($reply:expr, $outcome:expr, $ok:expr) => {{
        let reply = $reply;
        match $outcome {
            Ok(value) => $ok(reply, value),
            Err(error) => reply.error(error),
        }
    }};
}

impl Fs {
    /// Carries a request out and answers it.
    pub(super) async fn answer(&self, request: Request) {
        match request {
            Request::Read { fh, offset, len, reply } => match self.read(fh, offset, len).await {
                Ok(found) => reply.data(found.as_slice()),
                Err(error) => reply.error(error),
            },
            Request::Write { fh, offset, data, reply } => {
                answer!(reply, self.write(fh, offset, data).await, |reply: fuser::ReplyWrite, len| {
                    reply.written(len)
                });
            }
            Request::Flush { fh, reply } => done(reply, self.flush(fh).await),
            Request::Release { fh, reply } => done(reply, self.release_file(fh).await),
            Request::Sync { fh, data_only, reply } => done(reply, self.sync(fh, data_only).await),
            Request::Allocate { fh, offset, len, mode, reply } => {
                done(reply, self.allocate(fh, offset, len, mode).await);
            }
            Request::Seek { fh, offset, whence, reply } => {
                answer!(reply, self.seek(fh, offset, whence).await, |reply: fuser::ReplyLseek, at| {
                    reply.offset(at)
                });
            }
            Request::Open { ino, flags, reply } => match self.open_file(ino, flags).await {
                Ok((fh, flags)) => reply.opened(FileHandle(fh), flags),
                Err(error) => reply.error(error),
            },
            other => self.answer_names(other).await,
        }
    }

    /// The requests about names and directories.
    async fn answer_names(&self, request: Request) {
        match request {
            Request::Lookup { parent, name, reply } => entry(reply, self.lookup(parent, name).await),
            Request::Forget { inodes } => self.forget(&inodes),
            Request::ReadLink { ino, reply } => match self.read_link(ino).await {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(error),
            },
            Request::Make { making, reply } => entry(reply, self.make(making).await),
            Request::Create { making, flags, reply } => match self.create(making, flags).await {
                Ok((attr, fh, flags)) => {
                    reply.created(&LIFETIME, &attr, Generation(0), FileHandle(fh), flags);
                }
                Err(error) => reply.error(error),
            },
            Request::Remove { parent, name, directory, reply } => {
                done(reply, self.remove(parent, name, directory).await);
            }
            Request::Rename { from, to, flags, reply } => done(reply, self.rename(from, to, flags).await),
            Request::Link { ino, parent, name, reply } => entry(reply, self.link(ino, parent, name).await),
            Request::OpenDir { ino, reply } => match self.open_directory(ino) {
                Ok(fh) => reply.opened(FileHandle(fh), FopenFlags::empty()),
                Err(error) => reply.error(error),
            },
            Request::ReadDir { fh, offset, mut reply } => {
                match self.read_directory(fh, offset, &mut reply).await {
                    Ok(()) => reply.ok(),
                    Err(error) => reply.error(error),
                }
            }
            Request::ReadDirPlus { fh, offset, mut reply } => {
                match self.read_directory_plus(fh, offset, &mut reply).await {
                    Ok(()) => reply.ok(),
                    Err(error) => reply.error(error),
                }
            }
            Request::ReleaseDir { fh, reply } => done(reply, self.release_directory(fh)),
            other => self.answer_attributes(other).await,
        }
    }

    /// The requests about attributes.
    async fn answer_attributes(&self, request: Request) {
        match request {
            Request::GetAttr { ino, reply } => attributes(reply, self.attributes(ino).await),
            Request::SetAttr { ino, change, reply } => {
                attributes(reply, self.change_attributes(ino, change).await);
            }
            Request::StatFs { reply } => match self.space().await {
                Ok(space) => {
                    let (total, free) =
                        (space.allocatable_total_bytes / BLOCK, space.allocatable_bytes / BLOCK);
                    let inodes = space.inodes + FREE_INODES;
                    let block = BLOCK as u32;
                    reply.statfs(total, free, free, inodes, FREE_INODES, block, NAME_MAX, block);
                }
                Err(error) => reply.error(error),
            },
            Request::SetXattr { ino, name, value, flags, reply } => {
                done(reply, self.set_xattr(ino, name, value, flags).await);
            }
            Request::GetXattr { ino, name, room, reply } => xattr(reply, room, self.xattr(ino, name).await),
            Request::ListXattrs { ino, room, reply } => xattr(reply, room, self.xattrs(ino).await),
            Request::RemoveXattr { ino, name, reply } => done(reply, self.remove_xattr(ino, name).await),
            // Answered by the callers of this.
            other => unreachable!("{other:?} is answered elsewhere"),
        }
    }
}

fn done(reply: fuser::ReplyEmpty, outcome: Answer<()>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn entry(reply: fuser::ReplyEntry, outcome: Answer<fuser::FileAttr>) {
    match outcome {
        Ok(attr) => reply.entry(&LIFETIME, &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn attributes(reply: fuser::ReplyAttr, outcome: Answer<fuser::FileAttr>) {
    match outcome {
        Ok(attr) => reply.attr(&LIFETIME, &attr),
        Err(error) => reply.error(error),
    }
}

/// Without room only the length is asked for.
fn xattr(reply: fuser::ReplyXattr, room: u32, outcome: Answer<Vec<u8>>) {
    match outcome {
        Ok(value) if room == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > room as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(error),
    }
}
