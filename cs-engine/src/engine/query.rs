//! Requests that change no data: the flush of a file, and what is allocated.

use std::rc::Rc;

use super::{Engine, Refusal};
use crate::format::BLOCK;
use crate::format::block::BlockState;

/// A replica in an inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The chunk.
    pub chunk: u64,
    /// Its version.
    pub version: u64,
    /// Its file is missing or has another length: nothing of it can be used.
    pub lost: bool,
}

impl Engine {
    /// Replicas here, at most `limit` from an id on, in the order of their ids.
    #[must_use]
    pub fn inventory(&self, from: u64, limit: usize) -> Vec<Held> {
        let (chunks, lost) = (self.chunks.borrow(), self.lost.borrow());
        let page = chunks.range(from..).take(limit);
        page.map(|(id, found)| Held { chunk: *id, version: found.version.get(), lost: lost.contains(id) })
            .collect()
    }

    /// Makes every write to a file that was answered before durable (C4), and takes the writer's watermarks.
    ///
    /// `settled_before`: the file was released cleanly before this epoch, so that nothing of lower epochs is in doubt.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn flush_file(
        self: &Rc<Self>,
        file: u64,
        epoch: u64,
        done: u64,
        stable: u64,
        settled_before: bool,
    ) -> Result<(), Refusal> {
        let _request = self.begin()?;
        if stable > done {
            return Err(Refusal::Invalid("the watermarks contradict each other"));
        }
        if !self.files.borrow().contains_key(&file) {
            // Nothing of it is here.
            return self.flush().await;
        }
        let state = self.check_epoch(file, epoch)?;
        let _in_flight = state.enter(epoch);
        state.advance(epoch, done, stable);
        if settled_before {
            let chunks = self.chunks.borrow();
            state.forget_below(epoch, |chunk| chunks.get(&chunk).map_or(0, |chunk| chunk.written_in.get()));
        }
        self.flush().await?;
        // A fence that rose meanwhile: the writer must not take this for its own success (C2).
        self.check_epoch(file, epoch).map(drop)
    }

    /// Whether chunks of a file have these versions or higher ones, those of them that are here: then what is listed of them here is in
    /// the map for whoever was left out by those versions, and may be taken for stable (C6).
    ///
    /// # Errors
    /// [`Refusal::StaleVersion`] for the first one that has not.
    pub fn has_installed(
        &self,
        file: u64,
        versions: impl IntoIterator<Item = (u64, u64)>,
    ) -> Result<(), Refusal> {
        let _request = self.begin()?;
        let chunks = self.chunks.borrow();
        for (chunk, wanted) in versions {
            let Some(chunk) = chunks.get(&chunk).filter(|chunk| chunk.file == file) else { continue };
            let have = chunk.version.get();
            if have < wanted {
                return Err(Refusal::StaleVersion { have, wanted });
            }
        }
        Ok(())
    }

    /// Per block of a range whether it is a hole.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn holes(
        self: &Rc<Self>,
        file: u64,
        epoch: u64,
        chunk: u64,
        version: u64,
        offset: u32,
        len: u32,
    ) -> Result<Vec<bool>, Refusal> {
        let _request = self.begin()?;
        let chunk = self.member_for(file, chunk, version)?;
        let state = self.check_epoch(file, epoch)?;
        let end = u64::from(offset) + u64::from(len);
        if len == 0 || end > chunk.size {
            return Err(Refusal::Invalid("the range is not inside the chunk"));
        }
        let _in_flight = state.enter(epoch);
        let blocks = offset / BLOCK as u32..end.div_ceil(BLOCK as u64) as u32;
        let _locked = chunk.ranges.shared(u64::from(blocks.start)..u64::from(blocks.end)).await;
        self.recheck(&chunk, epoch, version)?;
        let states = self.states(&chunk, blocks).await?;
        Ok(states.into_iter().map(|(state, _)| state == BlockState::Hole).collect())
    }
}
