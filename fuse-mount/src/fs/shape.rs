//! What changes a file's shape: cutting, extending, allocating, punching holes; and finding holes.

use std::rc::Rc;
use std::time::Duration;

use wire::Status;
use wire::inode::{SetInode, SizeChange, StatFs, TimeChange};

use super::data::failed;
use super::node::Node;
use super::{ATTEMPTS, Answer, Fs, REPORT_PAUSE};
use crate::errno::{self, Errno};

/// Largest size of a file in bytes.
pub(super) const SIZE_MAX: u64 = i64::MAX as u64;
/// The longest wait for a file to be as long as before a write that failed; else its end is in doubt until it is opened again.
const UNDO_MAX: Duration = Duration::from_secs(10);
/// Runs asked for at once when looking for data or a hole.
const RUNS: usize = 16;

/// What `fallocate(2)` is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allocation {
    /// Sees to it that there is space.
    Reserve { keeps_size: bool },
    /// Gives space back.
    Punch,
    /// Makes a range read as zero.
    Zero { keeps_size: bool },
}

impl Allocation {
    fn from_mode(mode: i32) -> Answer<Self> {
        let keeps_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Ok(Self::Reserve { keeps_size }),
            libc::FALLOC_FL_PUNCH_HOLE if keeps_size => Ok(Self::Punch),
            libc::FALLOC_FL_ZERO_RANGE => Ok(Self::Zero { keeps_size }),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

impl Fs {
    /// `fallocate(2)`.
    pub(super) async fn allocate(&self, fh: u64, offset: u64, len: u64, mode: i32) -> Answer<()> {
        let what = Allocation::from_mode(mode)?;
        let file = self.file(fh)?;
        let node = &file.node;
        let end = offset.checked_add(len).filter(|end| *end <= SIZE_MAX).ok_or(Errno::EFBIG)?;
        if let Allocation::Reserve { .. } = what {
            // Space is taken when it is written; more than there is cannot be promised.
            let free = self.meta.ask(&StatFs {}).await?.allocatable_bytes;
            let has = node.inode().allocated_bytes;
            if end.saturating_sub(has.max(offset)) > free {
                return Err(Errno::ENOSPC);
            }
        }
        let _inside = node.open.enter().await;
        let volume = node.open.writable()?;
        if end > volume.size_max() {
            return Err(Errno::EFBIG);
        }
        let within = end.min(node.size()).saturating_sub(offset);
        let done = match what {
            Allocation::Reserve { .. } => Ok(()),
            Allocation::Punch => volume.write_zeroes(offset, within, true).await,
            Allocation::Zero { .. } => volume.write_zeroes(offset, within, false).await,
        };
        done.map_err(|error| failed(&file, "zeroing", &error))?;
        let keeps_size = !matches!(
            what,
            Allocation::Reserve { keeps_size: false } | Allocation::Zero { keeps_size: false }
        );
        let now = crate::clock::now_ns();
        if !keeps_size && end > node.size() {
            volume.settle_end().await.map_err(|error| failed(&file, "making longer", &error))?;
            volume.extend(end);
        }
        node.update(|inode| {
            inode.size = if keeps_size { inode.size } else { inode.size.max(end) };
            inode.mtime_ns = now;
            inode.ctime_ns = now;
        });
        node.open.soil();
        Ok(())
    }

    /// `lseek(2)` for data and holes.
    pub(super) async fn seek(&self, fh: u64, offset: i64, whence: i32) -> Answer<u64> {
        let wants_data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return Err(Errno::EINVAL),
        };
        let file = self.file(fh)?;
        let node = &file.node;
        let _inside = node.open.enter().await;
        let volume = node.open.volume()?;
        let size = node.size();
        let mut at = u64::try_from(offset).ok().filter(|at| *at < size).ok_or(Errno::ENXIO)?;
        while at < size {
            let runs = volume.block_status(at, size - at, RUNS).await;
            for run in runs.map_err(|error| failed(&file, "looking at", &error))? {
                if run.data == wants_data {
                    return Ok(at);
                }
                at += run.len;
            }
        }
        // The end counts as a hole.
        if wants_data { Err(Errno::ENXIO) } else { Ok(size) }
    }

    /// Sets a size, and with it whatever else `request` says.
    pub(super) async fn resize(&self, node: &Rc<Node>, size: u64, request: SetInode) -> Answer<()> {
        if size > SIZE_MAX {
            return Err(Errno::EFBIG);
        }
        let is_open = node.open.is_open();
        if !is_open && (size == 0 || size >= self.meta.inode(node.id).await?.size) {
            // All goes or nothing does: no chunk is cut, and nobody has the file.
            let change = SizeChange { size, epoch: 0, grow_only: false };
            let reply =
                self.meta.change(|session| SetInode { session, size: Some(change), ..request.clone() });
            match reply.await {
                Ok(reply) => {
                    node.learn_change(&reply.inode);
                    return Ok(());
                }
                // Opened here meanwhile.
                Err(error) if error.code() == libc::EBUSY && node.open.is_open() => {}
                // A writer that died may have left something behind the end ([`Status::Unsettled`]): whoever has the lease settles it.
                Err(error) if error == errno::of_status(Status::Unsettled) => {}
                Err(error) => return Err(error),
            }
        }
        self.with_lease(node, async || self.resize_open(node, Some(size), request, None).await).await
    }

    /// A write behind the end has found no space: what it was given before that, and the size that came with it, goes again.
    pub(super) async fn undo_growth(&self, node: &Rc<Node>) {
        let inode = node.inode();
        let time = |ns| Some(TimeChange { ns, now: false });
        let request = SetInode {
            id: node.id,
            now_ns: inode.ctime_ns,
            mtime: time(inode.mtime_ns),
            ctime: time(inode.ctime_ns),
            ..SetInode::default()
        };
        if let Err(error) = self.resize_open(node, None, request, Some(UNDO_MAX)).await {
            tracing::warn!("file {} may be longer than what was written: {error:?}", node.id);
            if let Ok(volume) = node.open.volume() {
                volume.doubt_end();
            }
        }
    }

    /// Gives a file another size, or makes sure of the one it has, and of zeroes behind it. With `patience` it takes no longer before the
    /// metadata server is asked: a chunk may have to be settled on a server that is full. What was asked is waited for: nobody may write to
    /// chunks that go.
    async fn resize_open(
        &self,
        node: &Rc<Node>,
        size: Option<u64>,
        request: SetInode,
        patience: Option<Duration>,
    ) -> Answer<()> {
        let _alone = node.open.enter_alone().await;
        let _one = node.open.reporting.acquire(1).await;
        let volume = node.open.writable()?;
        let fail = |error| {
            tracing::error!("cutting file {}: {error}", node.id);
            errno::of_volume(&error)
        };
        let (size, cuts) = match size {
            Some(size) => (size, size < node.size()),
            None => (node.size(), true),
        };
        let cut = match patience {
            _ if !cuts => None,
            None => Some(volume.cut(size).await.map_err(fail)?),
            Some(most) => {
                let cut = rt::time::timeout(most, volume.cut(size)).await;
                Some(cut.map_err(|_| Errno::EIO)?.map_err(fail)?)
            }
        };
        let changes = node.open.changes();
        let mut attempts = 0;
        let inode = loop {
            if cut.is_none() {
                volume.settle_end().await.map_err(fail)?;
            }
            let reply = self.meta.change(|session| SetInode {
                session,
                size: Some(SizeChange { size, epoch: volume.epoch(), grow_only: false }),
                ..request.clone()
            });
            attempts += 1;
            match reply.await {
                Ok(reply) => break reply.inode,
                // The lease has another epoch by now, or will have.
                Err(Errno::EIO) if attempts < ATTEMPTS && volume.is_alive() => {
                    rt::time::sleep(REPORT_PAUSE / 10).await;
                }
                Err(error) => return Err(error),
            }
        };
        match cut {
            Some(cut) => cut.done(),
            None => volume.extend(size),
        }
        // All of it is said there now, and nothing was written meanwhile.
        node.open.set_reported(changes, size);
        node.update(|known| *known = inode);
        node.learn_change(&inode);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_done_right_is_done() {
        use libc::{
            FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE,
            FALLOC_FL_UNSHARE_RANGE, FALLOC_FL_ZERO_RANGE,
        };
        let of = |mode| Allocation::from_mode(mode).map_err(Errno::code);
        assert_eq!(of(0), Ok(Allocation::Reserve { keeps_size: false }));
        assert_eq!(of(FALLOC_FL_KEEP_SIZE), Ok(Allocation::Reserve { keeps_size: true }));
        assert_eq!(of(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE), Ok(Allocation::Punch));
        assert_eq!(of(FALLOC_FL_ZERO_RANGE), Ok(Allocation::Zero { keeps_size: false }));
        for mode in [
            FALLOC_FL_PUNCH_HOLE,
            FALLOC_FL_COLLAPSE_RANGE,
            FALLOC_FL_INSERT_RANGE,
            FALLOC_FL_UNSHARE_RANGE,
            FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE,
        ] {
            assert_eq!(of(mode), Err(libc::EOPNOTSUPP), "{mode:#x}");
        }
    }
}
