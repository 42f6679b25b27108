//! Telling the metadata server the size and times of files being written: before fsync, close and release return, and from
//! time to time, for others who look.

use std::rc::{Rc, Weak};

use wire::inode::{SetInode, SizeChange, TimeChange};

use super::node::Node;
use super::{ATTEMPTS, Answer, Fs, REPORT_PAUSE};
use crate::errno::{self, Errno};

impl Fs {
    /// Notes that data up to `end` was written just now.
    pub(super) fn wrote(&self, node: &Node, end: u64, len: u64) {
        let now = crate::clock::now_ns();
        node.update(|inode| {
            inode.size = inode.size.max(end);
            // At most everything is allocated; the metadata server knows better as soon as it is asked.
            let most = inode.size.next_multiple_of(4096);
            inode.allocated_bytes = (inode.allocated_bytes + len).min(most).max(inode.allocated_bytes);
            // Otherwise the kernel knows when a program wrote, and says so.
            if !self.behaviour.writeback {
                inode.mtime_ns = now;
                inode.ctime_ns = now;
            }
        });
        node.open.soil();
    }

    /// Reports size and times if they are ahead.
    pub(super) async fn report(&self, node: &Rc<Node>) -> Answer<()> {
        if !node.open.is_dirty() {
            return Ok(());
        }
        let _one = node.open.reporting.acquire(1).await;
        for _ in 0..ATTEMPTS {
            if !node.open.is_dirty() {
                return Ok(());
            }
            let changes = node.open.changes();
            let volume = node.open.volume()?;
            volume.settle_end().await.map_err(|error| errno::of_volume(&error))?;
            let inode = node.inode();
            let size = SizeChange { size: inode.size, epoch: volume.epoch(), grow_only: true };
            let time = |ns| Some(TimeChange { ns, now: false });
            let answer = self.meta.change(|session| SetInode {
                session,
                id: node.id,
                now_ns: inode.ctime_ns,
                size: Some(size),
                mtime: time(inode.mtime_ns),
                ctime: time(inode.ctime_ns),
                ..SetInode::default()
            });
            match answer.await {
                Ok(reply) => {
                    node.open.set_reported(changes, inode.size);
                    node.learn_change(&reply.inode);
                    return Ok(());
                }
                // The lease has another epoch by now, or will have.
                Err(_) if volume.is_alive() => {
                    rt::time::sleep(REPORT_PAUSE / 10).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EIO)
    }

    async fn report_all(&self) {
        for node in self.nodes.all() {
            if node.open.is_writing() && node.open.is_dirty() {
                let _inside = node.open.enter().await;
                if let Err(error) = self.report(&node).await {
                    tracing::warn!("reporting the size of file {}: {error:?}", node.id);
                }
            }
        }
    }
}

/// Reports from time to time, while the file system is there.
pub(super) async fn keep_reporting(fs: Weak<Fs>) {
    loop {
        rt::time::sleep(REPORT_PAUSE).await;
        let Some(fs) = fs.upgrade() else { return };
        fs.report_all().await;
    }
}
