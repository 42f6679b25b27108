//! Flush: everything written so far becomes durable (C4).

use std::rc::Rc;
use std::time::Duration;

use rt::sync::{OneSender, oneshot};

use super::join::both;
use super::{Engine, Refusal};

/// How long after a flush the journal's header tells of it, unless a group has by then.
const NOTE_PAUSE: Duration = Duration::from_millis(100);

/// Flush rounds: requests that come while one runs share the next.
#[derive(Debug, Default)]
pub(crate) struct Flushing {
    waiting: Vec<OneSender<Result<(), Refusal>>>,
    running: bool,
    /// Everything below was complete when the last successful round began.
    reached: Option<u64>,
}

impl Engine {
    /// Makes every write that has been answered durable: journal, data device, and each chunk file with uncommitted
    /// extents.
    ///
    /// # Errors
    /// [`Refusal::DeviceFailed`]: then every replica here has failed for good; a flush is never tried again (C4).
    pub async fn flush(self: &Rc<Self>) -> Result<(), Refusal> {
        self.check_running()?;
        let (answer, receive) = oneshot();
        let start = {
            let mut flushing = self.flushing.borrow_mut();
            flushing.waiting.push(answer);
            !std::mem::replace(&mut flushing.running, true)
        };
        if start {
            rt::spawn(Rc::clone(self).flush_rounds());
        }
        receive.await.unwrap_or(Err(Refusal::Stopping))
    }

    async fn flush_rounds(self: Rc<Self>) {
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
        let files = self.store.uncommitted();
        if files.is_empty() && self.flushing.borrow().reached == Some(self.journal().written()) {
            // Whatever has been answered has a record; there is no new one, and none was under way then.
            return Ok(());
        }
        // What is incomplete now may miss this flush: the durable mark stops before it.
        let journal = self.journal();
        let reach = journal.complete();
        let commits: Vec<_> =
            files.into_iter().map(|file| rt::spawn(async move { file.commit().await })).collect();
        let data = async {
            if self.separate_journal.get() { self.superblock_file.sync_data().await } else { Ok(()) }
        };
        let timed = self.latency.start();
        let (records, data) = both(journal.file().sync_data(), data).await;
        drop(timed);
        let journal_failed = records.is_err();
        let mut result = records.and(data);
        for commit in commits {
            result = result.and(commit.await.unwrap_or_else(|error| Err(std::io::Error::other(error))));
        }
        match result {
            Ok(()) => {
                journal.set_durable(reach);
                self.flushing.borrow_mut().reached = Some(reach);
                self.flushed.notify_one();
                self.count(|counters| counters.flushes += 1);
                Ok(())
            }
            Err(error) => {
                if journal_failed {
                    self.fail_journal("a flush of the journal", &error);
                } else {
                    self.fail("a flush", &error);
                }
                Err(Refusal::DeviceFailed)
            }
        }
    }

    /// Writes down what is durable when the journal has been quiet for a while, until the server ends.
    pub(super) async fn run_notes(self: Rc<Self>) {
        while self.check_running().is_ok() {
            self.flushed.notified().await;
            rt::time::sleep(NOTE_PAUSE).await;
            let journal = self.journal();
            if let Err(error) = journal.note_durable().await
                && Rc::ptr_eq(&journal, &self.journal())
            {
                self.fail_journal("a write of the journal's header", &error);
            }
        }
    }
}
