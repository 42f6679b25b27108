//! From a request to its answer.

use super::{Answer, Fs, LIFETIME};
use crate::errno::Errno;
use crate::kernel::{Attr, OpenFlags, Reply, Request, Space};

/// Unit of the file system's space in bytes.
const BLOCK: u64 = 4096;
/// Longest name in bytes.
const NAME_MAX: u32 = 255;
/// Free inodes are told as this many, since there is no limit.
const FREE_INODES: u64 = 1 << 32;

impl Fs {
    /// Carries a request out and answers it.
    pub(super) async fn answer(&self, request: Request, reply: Reply) {
        match request {
            Request::Read { fh, offset, len } => {
                or_error(reply, self.read(fh, offset, len).await, |reply, found| {
                    reply.data(found.as_slice())
                });
            }
            Request::Write(writing) => or_error(reply, self.write(writing).await, Reply::length),
            Request::Flush { fh } => done(reply, self.flush(fh).await),
            Request::Release { fh } => done(reply, self.release_file(fh).await),
            Request::Sync { fh, data_only } => done(reply, self.sync(fh, data_only).await),
            Request::Allocate { fh, offset, len, mode } => {
                done(reply, self.allocate(fh, offset, len, mode).await);
            }
            Request::Seek { fh, offset, whence } => {
                or_error(reply, self.seek(fh, offset, whence).await, Reply::offset);
            }
            Request::Open { ino, flags } => {
                or_error(reply, self.open_file(ino, flags).await, |reply, (fh, flags)| {
                    reply.opened(fh, flags)
                });
            }
            other => self.answer_names(other, reply).await,
        }
    }

    /// The requests about names and directories.
    async fn answer_names(&self, request: Request, reply: Reply) {
        match request {
            Request::Lookup { parent, name } => entry(reply, self.lookup(parent, name).await),
            // Answered by nobody.
            Request::Forget { inodes } => {
                self.forget(&inodes);
                reply.never();
            }
            Request::ReadLink { ino } => {
                or_error(reply, self.read_link(ino).await, |reply, target| reply.data(&target));
            }
            Request::Make { making } => entry(reply, self.make(making).await),
            Request::Create { making, flags } => {
                or_error(reply, self.create(making, flags).await, |reply, (attr, fh, flags)| {
                    reply.created(&attr, LIFETIME, fh, flags);
                });
            }
            Request::Remove { parent, name, directory } => {
                done(reply, self.remove(parent, name, directory).await);
            }
            Request::Rename { from, to, flags } => done(reply, self.rename(from, to, flags).await),
            Request::Link { ino, parent, name } => entry(reply, self.link(ino, parent, name).await),
            Request::OpenDir { ino } => {
                or_error(reply, self.open_directory(ino), |reply, fh| reply.opened(fh, OpenFlags::default()));
            }
            Request::ReadDir { fh, offset, room, plus } => {
                let listing = self.read_directory(fh, offset, room, plus).await;
                or_error(reply, listing, |reply, listing| reply.listing(&listing));
            }
            Request::ReleaseDir { fh } => done(reply, self.release_directory(fh)),
            other => self.answer_attributes(other, reply).await,
        }
    }

    /// The requests about attributes, and the rest.
    async fn answer_attributes(&self, request: Request, reply: Reply) {
        match request {
            Request::GetAttr { ino } => attributes(reply, self.attributes(ino).await),
            Request::SetAttr { ino, change } => attributes(reply, self.change_attributes(ino, change).await),
            Request::StatFs => or_error(reply, self.space().await, |reply, space| {
                reply.space(&Space {
                    blocks: space.allocatable_total_bytes / BLOCK,
                    free_blocks: space.allocatable_bytes / BLOCK,
                    inodes: space.inodes + FREE_INODES,
                    free_inodes: FREE_INODES,
                    name_max: NAME_MAX,
                });
            }),
            Request::SetXattr { ino, name, value, flags } => {
                done(reply, self.set_xattr(ino, name, value, flags).await);
            }
            Request::GetXattr { ino, name, room } => xattr(reply, room, self.xattr(ino, name).await),
            Request::ListXattrs { ino, room } => xattr(reply, room, self.xattrs(ino).await),
            Request::RemoveXattr { ino, name } => done(reply, self.remove_xattr(ino, name).await),
            Request::SyncDir => reply.ok(),
            Request::Refused { errno } => reply.error(Errno::from_code(errno)),
            // Answered by the callers of this.
            other => unreachable!("{other:?} is answered elsewhere"),
        }
    }
}

fn or_error<T>(reply: Reply, outcome: Answer<T>, answer: impl FnOnce(Reply, T)) {
    match outcome {
        Ok(value) => answer(reply, value),
        Err(error) => reply.error(error),
    }
}

fn done(reply: Reply, outcome: Answer<()>) {
    or_error(reply, outcome, |reply, ()| reply.ok());
}

fn entry(reply: Reply, outcome: Answer<Attr>) {
    or_error(reply, outcome, |reply, attr| reply.entry(&attr, LIFETIME));
}

fn attributes(reply: Reply, outcome: Answer<Attr>) {
    or_error(reply, outcome, |reply, attr| reply.attr(&attr, LIFETIME));
}

/// Without room only the length is asked for.
fn xattr(reply: Reply, room: u32, outcome: Answer<Vec<u8>>) {
    or_error(reply, outcome, |reply, value| match value.len() {
        len if room == 0 => reply.length(len as u32),
        len if len > room as usize => reply.error(Errno::ERANGE),
        _ => reply.data(&value),
    });
}
