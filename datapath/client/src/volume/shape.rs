//! Files that change their size: growing by writes, cutting the end off.
//!
//! Behind the end everything is zero, so that growing needs no work: whoever cuts zeroes the rest of the chunk, and so does who settles
//! the chunk at the end after a writer that died, which may have written behind the size that it had told (C5). Until then the file
//! does not grow, neither here nor at the metadata server.

use std::pin::Pin;
use std::rc::Rc;

use rt::sync::RangeGuard;
use wire::Op;
use wire::Status;
use wire::data::{Write, WriteKind};

use super::call::{Message, all, unless_replaced};
use super::lease::{Chunk, Issued, Lease};
use super::map::Need;
use super::{BLOCK, BUSY_PAUSE, Halt, Inner, Stop, Volume};
use crate::error::VolumeError;
use crate::servers::Server;

/// A cut under way: what follows the new end reads as zero or belongs to chunks that are to go, and nobody touches it. Whoever holds
/// this tells the metadata server, which drops those chunks, and then says [`Cut::done`].
#[derive(Debug)]
pub struct Cut {
    volume: Volume,
    size: u64,
    _range: RangeGuard,
}

impl Volume {
    /// From now on writes may lie beyond the end and move it; [`Volume::size`] is what this client knows, and whoever uses the
    /// volume reports it to the metadata server.
    pub fn set_growing(&self) {
        self.inner.grows.set(true);
    }

    /// Whether a write that finds no space fails with [`VolumeError::NoSpace`]; else it waits.
    pub fn set_fails_when_full(&self, fails: bool) {
        self.inner.fails_when_full.set(fails);
    }

    /// Notes a size: that of a file made longer without a write, after [`Volume::settle_end`].
    pub fn extend(&self, size: u64) {
        self.inner.size.set(self.inner.size.get().max(size));
    }

    /// Sees to it that nothing but zeroes lies behind the end. Before that the metadata server lets nobody move it.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn settle_end(&self) -> Result<(), VolumeError> {
        let inner = &self.inner;
        loop {
            let lease = inner.usable_lease().await?;
            match inner.settle_end(&lease).await {
                Ok(()) => return Ok(()),
                Err(Stop::Broken) => {}
                Err(Stop::Fatal(error)) => return Err(error),
            }
        }
    }

    /// The metadata server does not know the size, or there may be more behind the end than zeroes: when the volume is closed, the lease is
    /// given back as not clean, so that the next client settles what is there.
    pub fn doubt_end(&self) {
        self.inner.end_in_doubt.set(true);
    }

    /// Begins to cut the file at `size` bytes: zeroes what follows in the chunk that stays, so that making the file longer
    /// again shows zeroes, and holds back everything beyond. The caller sees to it that nobody writes meanwhile.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn cut(&self, size: u64) -> Result<Cut, VolumeError> {
        let inner = &self.inner;
        let chunk_end = size.next_multiple_of(inner.chunk_size);
        // The first block keeps its head; the rest may become a hole. A write that failed may have left something even beyond
        // the end.
        let aligned = size.next_multiple_of(BLOCK);
        self.write_zeroes(size, aligned - size, false).await?;
        self.write_zeroes(aligned, chunk_end - aligned, true).await?;
        let range = inner.ranges.exclusive(chunk_end..u64::MAX).await;
        Ok(Cut { volume: self.clone(), size, _range: range })
    }
}

impl Inner {
    /// Settles the chunk that the end lies in.
    pub(crate) async fn settle_end(&self, lease: &Rc<Lease>) -> Result<(), Stop> {
        if lease.is_end_settled() {
            return Ok(());
        }
        if let Some(index) = self.end_index() {
            self.chunk(lease, index, Need::Zero).await?;
        }
        lease.set_end_settled();
        Ok(())
    }

    /// The chunk that the end lies in.
    pub(crate) fn end_index(&self) -> Option<u64> {
        Some(self.size.get().checked_sub(1)? / self.chunk_size)
    }

    /// Makes what a chunk holds behind the end of the file zero and stable. To be called while the chunk is being settled,
    /// and nothing else in it is in doubt.
    pub(crate) async fn zero_behind_end(&self, lease: &Rc<Lease>, chunk: &Rc<Chunk>) -> Result<(), Halt> {
        let start = chunk.index * self.chunk_size;
        let end = self.size.get().saturating_sub(start);
        if end >= self.chunk_size {
            return Ok(());
        }
        // Of the block at the end the head stays; the rest may become a hole.
        let hole = end.next_multiple_of(BLOCK);
        for (from, to, kind) in [(end, hole, WriteKind::Zeroes), (hole, self.chunk_size, WriteKind::Discard)]
        {
            if to > from {
                self.zero_members(lease, chunk, from as u32, (to - from) as u32, kind).await?;
            }
        }
        self.flush_members(lease, chunk).await
    }

    async fn zero_members(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        offset: u32,
        len: u32,
        kind: WriteKind,
    ) -> Result<(), Halt> {
        let issued = Issued::begin(lease);
        let seq = issued.seq;
        let (done, stable) = {
            let window = lease.window.borrow();
            (window.done().min(seq), window.stable().min(window.done().min(seq)))
        };
        let write = Write {
            target: self.target(lease, chunk),
            seq,
            done,
            stable,
            offset,
            len,
            kind,
            fua: false,
            stripe_version: 0,
        };
        let mut body = Vec::new();
        write.encode(&[], &mut body);
        let message = Message { op: Op::Write, body, payload: None, reply_bytes: 0 };
        all(chunk.members.iter().map(|server| {
            let future: Pin<Box<dyn Future<Output = _> + '_>> =
                Box::pin(self.zero_member(lease, chunk, server, seq, &message));
            future
        }))
        .await?;
        issued.answered();
        Ok(())
    }

    async fn zero_member(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        server: &Rc<Server>,
        seq: u64,
        message: &Message,
    ) -> Result<(), Halt> {
        lease.window.borrow_mut().touch(server.id(), seq);
        loop {
            let asked = unless_replaced(chunk, self.request(lease, server, message)).await;
            match asked?? {
                Ok(_) => return Ok(()),
                Err(refused) if refused.status == Status::NeedFlush => {
                    let upto = lease.window.borrow().done();
                    self.flush_member(lease, chunk, server, upto).await?;
                    rt::time::sleep(BUSY_PAUSE).await;
                }
                // A block that is lost stays so until it is written again; nobody reads from it what lies behind the end.
                Err(refused) if matches!(refused.status, Status::Corrupt | Status::Unsettled) => {
                    tracing::error!(
                        "file {}: the block at its end is lost on chunk server {}: {}",
                        self.file_id,
                        server.id(),
                        refused.text
                    );
                    return Ok(());
                }
                Err(refused) => self.overcome(lease, chunk, server, &refused).await?,
            }
        }
    }
}

impl Cut {
    /// The metadata server has dropped the chunks beyond the new end.
    pub fn done(self) {
        let inner = &self.volume.inner;
        let lease = Rc::clone(&inner.lease.borrow());
        lease.drop_chunks(self.size.div_ceil(inner.chunk_size));
        inner.size.set(self.size);
    }
}
