//! Files that change their size: growing by writes, cutting the end off.

use std::rc::Rc;

use rt::sync::RangeGuard;

use super::{BLOCK, Volume};
use crate::error::VolumeError;

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

    /// Notes a size: that of a file made longer without a write.
    pub fn extend(&self, size: u64) {
        self.inner.size.set(self.inner.size.get().max(size));
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

impl Cut {
    /// The metadata server has dropped the chunks beyond the new end.
    pub fn done(self) {
        let inner = &self.volume.inner;
        let lease = Rc::clone(&inner.lease.borrow());
        lease.drop_chunks(self.size.div_ceil(inner.chunk_size));
        inner.size.set(self.size);
    }
}
