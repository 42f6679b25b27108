//! From a request to its answer.

use std::pin::pin;
use std::time::Duration;

use super::{Answer, Fs};
use crate::errno::Errno;
use crate::kernel::{Attr, OpenFlags, Reply, Request, Space};
use crate::race::{First, race};

/// Unit of the file system's space in bytes.
const BLOCK: u64 = 4096;
/// Longest name in bytes.
const NAME_MAX: u32 = 255;
/// How often a caller that has a signal is looked at.
const CALLER_PAUSE: Duration = Duration::from_millis(100);
/// How long a write may go on whose program has been killed: it is short of the end only if something is amiss.
const UNWANTED: Duration = Duration::from_secs(5);
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
            Request::Write(writing) => {
                let mut written = pin!(self.write(writing));
                let written = match race(written.as_mut(), pin!(reply.let_go())).await {
                    First::Left(written) => written,
                    // It may wait for space that never comes, and the lease of its file with it.
                    First::Right(()) => {
                        rt::time::timeout(UNWANTED, written).await.unwrap_or(Err(Errno::EINTR))
                    }
                };
                or_error(reply, written, Reply::length);
            }
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
                let opened = self.open_file(ino, flags).await;
                if let Some((fh, _)) = untaken(reply, opened, |reply, (fh, flags)| reply.opened(*fh, *flags))
                {
                    self.abandon(fh).await;
                }
            }
            other => self.answer_names(other, reply).await,
        }
    }

    /// The requests about names and directories.
    async fn answer_names(&self, request: Request, reply: Reply) {
        match request {
            Request::Lookup { parent, name } => self.entry(reply, self.lookup(parent, name).await),
            // Answered by nobody.
            Request::Forget { inodes } => {
                self.forget(&inodes);
                reply.never();
            }
            // Answered by nobody.
            Request::Interrupt { unique } => {
                reply.never();
                self.watch_caller(unique).await;
            }
            Request::ReadLink { ino } => {
                or_error(reply, self.read_link(ino).await, |reply, target| reply.data(&target));
            }
            Request::Make { making } => self.entry(reply, self.make(making).await),
            Request::Create { making, flags } => {
                let created = self.create(making, flags).await;
                let untaken =
                    untaken(reply, created, |reply, (attr, fh, flags)| reply.created(attr, *fh, *flags));
                if let Some((attr, fh, _)) = untaken {
                    self.forget(&[(attr.ino, 1)]);
                    self.abandon(fh).await;
                }
            }
            Request::Remove { parent, name, directory } => {
                done(reply, self.remove(parent, name, directory).await);
            }
            Request::Rename { from, to, flags } => done(reply, self.rename(from, to, flags).await),
            Request::Link { ino, parent, name } => self.entry(reply, self.link(ino, parent, name).await),
            Request::OpenDir { ino } => {
                let opened = self.open_directory(ino);
                if let Some(fh) = untaken(reply, opened, |reply, fh| reply.opened(*fh, OpenFlags::default()))
                {
                    self.forget_directory(fh);
                }
            }
            Request::ReadDir { fh, offset, room, plus } => {
                let listing = self.read_directory(fh, offset, room, plus).await;
                if let Some(listing) = untaken(reply, listing, Reply::listing) {
                    listing.counted().iter().for_each(|ino| self.forget(&[(*ino, 1)]));
                }
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

    fn entry(&self, reply: Reply, outcome: Answer<Attr>) {
        if let Some(attr) = untaken(reply, outcome, Reply::entry) {
            self.forget(&[(attr.ino, 1)]);
        }
    }

    /// Closes a handle that nobody has taken and so nobody will release: it would keep the lease.
    async fn abandon(&self, fh: u64) {
        if let Err(error) = self.release_file(fh).await {
            tracing::warn!("closing a file whose opener has gone: {error:?}");
        }
    }

    /// The caller of a request has a signal: if it is killed, now or later, it does not have to wait for the answer.
    async fn watch_caller(&self, unique: u64) {
        let Some(device) = self.device.borrow().clone() else { return };
        while device.let_go(unique) {
            rt::time::sleep(CALLER_PAUSE).await;
        }
    }
}

fn or_error<T>(reply: Reply, outcome: Answer<T>, answer: impl FnOnce(Reply, T)) {
    match outcome {
        Ok(value) => answer(reply, value),
        Err(error) => reply.error(error),
    }
}

/// Answers; gives back what nobody has taken, since whoever asked has gone.
fn untaken<T>(reply: Reply, outcome: Answer<T>, answer: impl FnOnce(Reply, &T) -> bool) -> Option<T> {
    match outcome {
        Ok(value) => (!answer(reply, &value)).then_some(value),
        Err(error) => {
            reply.error(error);
            None
        }
    }
}

fn done(reply: Reply, outcome: Answer<()>) {
    or_error(reply, outcome, |reply, ()| reply.ok());
}

fn attributes(reply: Reply, outcome: Answer<Attr>) {
    or_error(reply, outcome, |reply, attr| reply.attr(&attr));
}

/// Without room only the length is asked for.
fn xattr(reply: Reply, room: u32, outcome: Answer<Vec<u8>>) {
    or_error(reply, outcome, |reply, value| match value.len() {
        len if room == 0 => reply.length(len as u32),
        len if len > room as usize => reply.error(Errno::ERANGE),
        _ => reply.data(&value),
    });
}
