//! Checkpoints: what the block maps hold moves into files and tables, and the journal's tail follows.
//!
//! 1. Freeze: the live maps become the frozen ones. The tail may move to the lowest LSN of anything not in them.
//! 2. Flush: the records of the frozen maps are durable before what they describe is touched.
//! 3. Move: content from the journal goes into the chunk files, in order and merged; holes are punched; flush.
//! 4. Tables: the new checksums go into the older copies of their pages; flush.
//! 5. State: fences, sessions, unstable writes and marks are recorded anew behind the old records; flush. Versions of
//!    plain members go into their headers, which are flushed, too.
//! 6. Trim: the frozen maps go, reads that saw them end, and the header gets the new tail.
//!
//! A crash between any two steps leaves a journal that redoes all of it.

use std::rc::Rc;

use super::chunk::Chunk;
use super::{BLOCK_MAP_MAX, Engine, RECORDS_MAX, Refusal};

/// Pause before another attempt after the disk was found full.
const NO_SPACE_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// What a checkpoint moves; an attempt that ends early leaves it to the next one.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// The tail may move here.
    pub(super) tail: u64,
    /// Chunks with frozen maps.
    pub(super) chunks: Vec<Rc<Chunk>>,
}

impl Engine {
    /// Makes checkpoints whenever the journal fills, the maps grow, or time has passed, until the server ends.
    pub(super) async fn run_checkpoints(self: Rc<Self>) {
        while self.check_running().is_ok() {
            self.checkpoint_is_due().await;
            if self.check_running().is_err() {
                return;
            }
            match self.checkpoint().await {
                Ok(()) => {}
                // What cannot be moved stays in the journal; try again when there may be room (C13).
                Err(Refusal::NoSpace) => rt::time::sleep(NO_SPACE_PAUSE).await,
                Err(Refusal::DeviceFailed | Refusal::Stopping) => return,
                Err(refusal) => {
                    tracing::error!(dir = %self.dir.display(), "a checkpoint failed and is tried again: {refusal}");
                    rt::time::sleep(NO_SPACE_PAUSE).await;
                }
            }
        }
    }

    async fn checkpoint_is_due(&self) {
        let interval = rt::time::sleep(self.options.checkpoint_interval);
        let mut interval = std::pin::pin!(interval);
        let journal = self.journal();
        let mut pressed = std::pin::pin!(journal.pressed());
        let mut wanted = std::pin::pin!(self.checkpoint_wanted.notified());
        std::future::poll_fn(|cx| {
            let pressed = pressed.as_mut().poll(cx).is_ready();
            let wanted = wanted.as_mut().poll(cx).is_ready();
            let idle = interval.as_mut().poll(cx).is_ready();
            let something =
                self.map_entries.get() > 0 || self.frozen.borrow().is_some() || self.versions_wait();
            if pressed || wanted || (idle && something) {
                return std::task::Poll::Ready(());
            }
            if idle {
                interval.set(rt::time::sleep(self.options.checkpoint_interval));
                // Just made: it is pending, and this registers the task with it.
                let _pending = interval.as_mut().poll(cx);
            }
            std::task::Poll::Pending
        })
        .await;
    }

    /// Makes one checkpoint.
    ///
    /// # Errors
    /// [`Refusal::DeviceFailed`] when the server has failed; [`Refusal::Stopping`]; [`Refusal::NoSpace`] when the disk
    /// is full, so that the journal keeps what should move.
    pub async fn checkpoint(self: &Rc<Self>) -> Result<(), Refusal> {
        let _one_at_a_time = self.checkpointing.acquire(1).await;
        self.check_running()?;
        let result = self.checkpoint_steps().await;
        self.set_stuck(result == Err(Refusal::NoSpace));
        self.checkpoint_done.notify_all();
        result
    }

    async fn checkpoint_steps(self: &Rc<Self>) -> Result<(), Refusal> {
        let chunks = self.freeze();
        self.flush().await?;
        self.move_frozen(&chunks).await?;
        self.flush().await?;
        self.update_tables(&chunks).await?;
        self.record_state().await?;
        self.flush().await?;
        self.write_versions().await?;
        let tail = self.drop_frozen().await;
        if let Err(error) = self.journal().trim(tail).await {
            self.fail_journal("a write of the journal's header", &error);
            return Err(Refusal::DeviceFailed);
        }
        // Whatever recovery found lost lies before the tail now.
        self.journal().hold_durable(false);
        self.note_boot().await?;
        self.count(|counters| counters.checkpoints += 1);
        Ok(())
    }

    /// Says whether checkpoints fail for want of space: then nothing waits for one.
    fn set_stuck(&self, stuck: bool) {
        if stuck && !self.stuck.get() {
            tracing::error!(
                dir = %self.dir.display(),
                "the journal cannot be emptied: the disk is full, or a chunk's file cannot be opened (see above); free space on \
                 the disk or delete chunks"
            );
        }
        self.stuck.set(stuck);
        self.journal().set_stuck(stuck);
    }

    /// Step 1, unless an attempt that ended early has left something to finish first.
    pub(super) fn freeze(&self) -> Vec<Rc<Chunk>> {
        let mut frozen = self.frozen.borrow_mut();
        if let Some(frozen) = &*frozen {
            return frozen.chunks.clone();
        }
        let chunks: Vec<_> = std::mem::take(&mut *self.touched.borrow_mut()).into_values().collect();
        for chunk in &chunks {
            chunk.live.swap(&chunk.frozen);
        }
        self.records.set(0);
        *frozen = Some(Frozen { tail: self.journal().complete(), chunks: chunks.clone() });
        chunks
    }

    /// Step 6 but for the header: nothing may read the journal's old payloads any more. Gives the new tail.
    pub(super) async fn drop_frozen(&self) -> u64 {
        let Some(frozen) = self.frozen.take() else { return self.journal().tail() };
        let dropped: usize = frozen.chunks.iter().map(|chunk| chunk.frozen.take().len()).sum();
        self.map_entries.set(self.map_entries.get() - dropped);
        let serial = self.checkpoint_serial.get() + 1;
        self.checkpoint_serial.set(serial);
        loop {
            let left = self.readers_left.notified();
            if self.readers.borrow().range(..serial).next().is_none() {
                return frozen.tail;
            }
            left.await;
        }
    }
}

const _: () = assert!(BLOCK_MAP_MAX > super::ACTIVE_BLOCKS as usize * 64 && RECORDS_MAX > 0);
