//! Reading and writing open files.

use std::rc::Rc;

use client::Volume;
use rt::buf::View;
use wire::inode::SetInode;

use super::node::Node;
use super::{Answer, FileHandle, Fs};
use crate::errno::{self, Errno};
use crate::kernel::Writing;

/// What a read found.
pub(super) enum Found {
    /// This.
    One(View),
    /// Several parts, put together.
    Whole(Vec<u8>),
}

impl Found {
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::One(view) => view,
            Self::Whole(bytes) => bytes,
        }
    }
}

/// Doubts the end of a file when it is dropped, unless that was lifted: the next client to open it settles what is there.
struct EndDoubted(Volume, bool);

impl EndDoubted {
    fn lift(mut self) {
        self.1 = false;
    }
}

impl Drop for EndDoubted {
    fn drop(&mut self) {
        if self.1 {
            self.0.doubt_end();
        }
    }
}

impl Fs {
    /// Reads up to `len` bytes; fewer at the end of the file.
    pub(super) async fn read(&self, fh: u64, offset: u64, len: u32) -> Answer<Found> {
        let file = self.file(fh)?;
        let node = &file.node;
        let _inside = node.open.enter().await;
        let volume = node.open.volume()?;
        let len = u64::from(len).min(node.size().saturating_sub(offset));
        if len == 0 {
            return Ok(Found::Whole(Vec::new()));
        }
        let mut parts = volume.read(offset, len).await.map_err(|error| failed(&file, "reading", &error))?;
        if let [(_, Some(_))] = parts.as_slice()
            && let Some((_, Some(view))) = parts.pop()
        {
            return Ok(Found::One(view));
        }
        let mut bytes = Vec::with_capacity(len as usize);
        for (part, view) in parts {
            match view {
                Some(view) => bytes.extend_from_slice(&view),
                None => bytes.resize(bytes.len() + part as usize, 0),
            }
        }
        Ok(Found::Whole(bytes))
    }

    /// Writes all of the data.
    pub(super) async fn write(&self, writing: Writing) -> Answer<u32> {
        let Writing { fh, offset, data, from_cache, uid } = writing;
        let file = self.file(fh)?;
        let node = &file.node;
        let inside = node.open.enter().await;
        let volume = node.open.writable()?;
        let offset = if file.appends && !from_cache { node.size() } else { offset };
        let len = data.len();
        // However it ends but well, given up included, it may have left something behind the end.
        let doubt = EndDoubted(volume.clone(), offset + len as u64 > node.size());
        if let Err(error) = volume.write(offset, data).await {
            drop(inside);
            if matches!(error, client::VolumeError::NoSpace) && offset + len as u64 > node.size() {
                self.undo_growth(node).await;
                doubt.lift();
            }
            return Err(failed(&file, "writing", &error));
        }
        doubt.lift();
        self.wrote(node, offset + len as u64, len as u64);
        if file.direct && uid != 0 {
            self.take_set_id(node).await?;
        }
        Ok(len as u32)
    }

    /// Takes the set-id bits of a file that somebody without privileges has written. The kernel does so itself before what
    /// goes through its cache.
    async fn take_set_id(&self, node: &Rc<Node>) -> Answer<()> {
        let mode = node.inode().mode;
        let group = if mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
        let left = mode & !(libc::S_ISUID | group);
        if left == mode {
            return Ok(());
        }
        let (id, now_ns) = (node.id, crate::clock::now_ns());
        let change = self.meta.change(|session| SetInode {
            session,
            id,
            now_ns,
            mode: Some(left & 0o7777),
            ..SetInode::default()
        });
        node.learn_change(&change.await?.inode);
        Ok(())
    }

    /// A program closes a descriptor: others may look now.
    pub(super) async fn flush(&self, fh: u64) -> Answer<()> {
        let file = self.file(fh)?;
        let node = &file.node;
        if !file.writes || !node.open.is_dirty() || node.inode().nlink == 0 {
            return Ok(());
        }
        let _inside = node.open.enter().await;
        self.report(node).await
    }

    /// Makes what was written durable, and unless only data matters, the times as well.
    pub(super) async fn sync(&self, fh: u64, data_only: bool) -> Answer<()> {
        let file = self.file(fh)?;
        let node = &file.node;
        let _inside = node.open.enter().await;
        let volume = node.open.volume()?;
        volume.flush().await.map_err(|error| failed(&file, "flushing", &error))?;
        // A size that is not known to be reported is one that matters.
        if data_only && !node.open.has_grown(node.size()) {
            return Ok(());
        }
        self.report(node).await
    }
}

/// The number for a failure, which the log explains.
pub(super) fn failed(file: &Rc<FileHandle>, what: &str, error: &client::VolumeError) -> Errno {
    tracing::error!("{what} file {}: {error}", file.node.id);
    errno::of_volume(error)
}
