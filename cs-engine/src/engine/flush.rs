//! Flush: everything written so far becomes durable (C4).

use rt::sync::{OneSender, oneshot};

use super::{Engine, Refusal};

/// Flush rounds: requests that come while one runs share the next.
#[derive(Debug, Default)]
pub(crate) struct Flushing {
    waiting: Vec<OneSender<Result<(), Refusal>>>,
    running: bool,
}

impl Engine {
    /// Makes every write that has been answered durable: journal, data device, and each chunk file with uncommitted
    /// extents.
    ///
    /// # Errors
    /// [`Refusal::DeviceFailed`]: then every replica here has failed for good; a flush is never tried again (C4).
    pub async fn flush(self: &std::rc::Rc<Self>) -> Result<(), Refusal> {
        let (answer, receive) = oneshot();
        let start = {
            let mut flushing = self.flushing.borrow_mut();
            flushing.waiting.push(answer);
            !std::mem::replace(&mut flushing.running, true)
        };
        if start {
            rt::spawn(std::rc::Rc::clone(self).flush_rounds());
        }
        receive.await.unwrap_or(Err(Refusal::Stopping))
    }

    async fn flush_rounds(self: std::rc::Rc<Self>) {
        loop {
            let batch = {
                let mut flushing = self.flushing.borrow_mut();
                let batch = std::mem::take(&mut flushing.waiting);
                flushing.running = !batch.is_empty();
                batch
            };
            if batch.is_empty() {
                return;
            }
            let result = self.flush_devices().await;
            for answer in batch {
                // Whoever asked may have gone; the flush has happened all the same.
                let _gone = answer.send(result.clone());
            }
        }
    }

    async fn flush_devices(&self) -> Result<(), Refusal> {
        if self.failed.get() {
            return Err(Refusal::DeviceFailed);
        }
        if rt::sim::planted("flush-skipped") {
            return Ok(());
        }
        // What is incomplete now may miss this flush: the durable mark stops before it.
        let written = self.journal.written();
        let reach = self.floors.borrow().first_key_value().map_or(written, |(&floor, _)| written.min(floor));
        let files = self.store.take_uncommitted();
        let syncs: Vec<_> = files.into_iter().map(|file| rt::spawn(async move { file.file().sync_data().await })).collect();
        let journal = self.journal.file().sync_data().await;
        let data = if self.separate_journal { self.superblock_file.sync_data().await } else { Ok(()) };
        let mut result = journal.and(data);
        for sync in syncs {
            result = result.and(sync.await.unwrap_or_else(|error| Err(std::io::Error::other(error))));
        }
        match result {
            Ok(()) => {
                self.journal.set_durable(reach);
                self.count(|counters| counters.flushes += 1);
                Ok(())
            }
            Err(error) => {
                self.fail("a flush", &error);
                Err(Refusal::DeviceFailed)
            }
        }
    }
}
