//! Another journal for a server at work: added, moved, resized, or back beside the chunks (C10).
//!
//! The new journal goes on where the old one ends: LSNs and the chain of groups continue, so that nothing in memory or in
//! the tables has to be told. In order:
//!
//! 1. Note in the superblock where the new one will be, make it, copy the tables there, checkpoint. All requests go on.
//! 2. Hold the old journal: appends wait. What it still has goes into files, tables and headers. The tables stand still, and
//!    the last of their changes are copied.
//! 3. Record the state in the new journal, and flush that.
//! 4. Write the superblock: the new directory, size and generation. From here on the new journal counts.
//! 5. Appends go on there; the old files are removed.
//!
//! **Invariant:** at every moment exactly one journal has the generation of the superblock, and whatever was answered is in
//! it, or in files and tables. **Invariant:** until step 4 an error leaves everything as it was.
//!
//! Reads never wait; writes, and orders that change a table, wait during steps 2 to 4, which is about as long as one small
//! checkpoint takes.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rt::fs;

use super::create::make_dir;
use super::journal_place::{self, NEXT};
use super::open::{JOURNAL, meta_dir};
use super::{Engine, Refusal};
use crate::format::BLOCK;
use crate::format::journal::{GROUP_MAX, JournalHeader, RING_MIN};
use crate::format::superblock::{OtherJournal, Superblock};
use crate::journal::{Class, Hold, Journal};
use crate::tables::{CRC_TABLE, CopyError, META_TABLE};

/// Checkpoints before appends are held, at most: each leaves less to the next one, unless writers are faster.
const CHECKPOINTS: usize = 3;
/// Part of the ring in use, in percent, at which it makes no sense to wait for less.
const LITTLE_PERCENT: u64 = 5;
/// What a directory needs beside journal and tables.
const SPARE: u64 = 1 << 20;

/// The journal that a server is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalChange {
    /// Its directory; `None` = beside the chunks.
    pub dir: Option<PathBuf>,
    /// Bytes of its ring.
    pub bytes: u64,
    /// Whether it is tuned for SSDs (`-T ssd`).
    pub ssd: bool,
}

/// Why the journal stays what it is.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another change is under way.
    #[error("the journal of this chunk server is being changed already; wait for that to end")]
    Busy,
    /// Too small.
    #[error("a journal of {0} bytes is too small; it needs at least {RING_MIN} bytes")]
    TooSmall(u64),
    /// Not whole blocks.
    #[error("a journal of {0} bytes is not made of whole blocks; choose a multiple of {BLOCK} bytes")]
    Uneven(u64),
    /// Too small for what it has to hold now.
    #[error(
        "a journal of {bytes} bytes is too small for what this chunk server has to remember at present; choose at least {needed} \
         bytes, or try again when clients have flushed"
    )]
    TooSmallNow {
        /// Asked for.
        bytes: u64,
        /// What would do.
        needed: u64,
    },
    /// The directory's name does not fit.
    #[error("the name of the {0} is too long, or is not UTF-8")]
    Setting(&'static str),
    /// Something else is there.
    #[error("{0} is not empty; choose a directory of its own for the journal")]
    NotEmpty(PathBuf),
    /// No room.
    #[error(
        "{dir} has {free} bytes free; the journal needs {needed}: choose a smaller one with -s, or another directory"
    )]
    NoSpace {
        /// The directory.
        dir: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// What the old journal holds cannot be moved.
    #[error("the present journal cannot be emptied: {0}; the journal stays as it is")]
    Engine(#[from] Refusal),
    /// The old place.
    #[error("cannot read the present journal and tables in {dir}: {error}; the journal stays as it is")]
    Old {
        /// The directory.
        dir: PathBuf,
        /// What happened.
        #[source]
        error: io::Error,
    },
    /// What an earlier change has left cannot be removed.
    #[error(
        "what an earlier change of the journal has left in {0} cannot be removed; see the log of this chunk server, make that \
         directory accessible, and try again"
    )]
    Left(PathBuf),
    /// The new place.
    #[error("cannot make the journal in {dir}: {error}; the journal stays as it is")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What happened.
        #[source]
        error: io::Error,
    },
}

/// Lets appends go on if nothing comes of a change.
struct Held(Rc<Journal>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

/// Lets others change the journal.
struct Changing<'a>(&'a Engine);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.changing_journal.set(false);
    }
}

/// A change that has passed its checks.
struct Plan {
    change: JournalChange,
    /// Directory of the new journal, and of the old one.
    to: PathBuf,
    from: PathBuf,
}

impl Plan {
    fn moves(&self) -> bool {
        self.to != self.from
    }

    fn io(&self, error: io::Error) -> JournalError {
        JournalError::Io { dir: self.to.clone(), error }
    }

    fn old(&self, error: io::Error) -> JournalError {
        JournalError::Old { dir: self.from.clone(), error }
    }

    fn copy(&self, error: CopyError) -> JournalError {
        match error {
            CopyError::From(error) => self.old(error),
            CopyError::To(error) => self.io(error),
        }
    }

    /// The old directory as the superblock names it.
    fn left(&self, superblock: &Superblock) -> OtherJournal {
        match &superblock.journal_dir {
            _ if !self.moves() => OtherJournal::None,
            Some(dir) => OtherJournal::At(dir.clone()),
            None => OtherJournal::Inside,
        }
    }
}

impl Engine {
    /// Gives the server another journal, while requests go on. Says whether anything had to be done.
    ///
    /// # Errors
    /// [`JournalError`]: the journal is the same as before then.
    pub async fn change_journal(self: &Rc<Self>, change: JournalChange) -> Result<bool, JournalError> {
        self.check_running()?;
        if self.changing_journal.replace(true) {
            return Err(JournalError::Busy);
        }
        let _changing = Changing(self);
        let plan = self.plan(change)?;
        let now = self.superblock();
        if !plan.moves() && plan.change.bytes == now.journal_bytes {
            if plan.change.ssd == now.ssd_journal {
                return Ok(false);
            }
            self.update(|superblock| superblock.ssd_journal = plan.change.ssd).await?;
            return Ok(true);
        }
        self.settle_names(&plan).await?;
        self.check_place(&plan).await?;
        if plan.moves() {
            let other = match &plan.change.dir {
                Some(dir) => OtherJournal::At(dir.clone()),
                None => OtherJournal::Inside,
            };
            // Before anything is there, so that no crash leaves files that nobody knows.
            self.update(|superblock| superblock.other_journal = other).await?;
        }
        match self.put_in_place(&plan).await {
            Ok(()) => {
                self.leave(&plan).await;
                Ok(true)
            }
            Err(error) => {
                self.give_up(&plan).await;
                Err(error)
            }
        }
    }

    async fn update(&self, change: impl FnOnce(&mut Superblock)) -> Result<(), JournalError> {
        let updated = self.update_superblock(change).await;
        updated.map_err(|_reported| JournalError::Engine(Refusal::DeviceFailed))
    }

    fn plan(&self, change: JournalChange) -> Result<Plan, JournalError> {
        if change.bytes < RING_MIN {
            return Err(JournalError::TooSmall(change.bytes));
        }
        if !change.bytes.is_multiple_of(BLOCK as u64) {
            return Err(JournalError::Uneven(change.bytes));
        }
        let now = self.superblock();
        let new = Superblock { journal_dir: change.dir.clone(), ..now.clone() };
        new.validate().map_err(JournalError::Setting)?;
        let needed = ring_for_state(self.state_bytes());
        if change.bytes < needed {
            return Err(JournalError::TooSmallNow { bytes: change.bytes, needed });
        }
        let (to, from) = (meta_dir(&self.dir, &new), meta_dir(&self.dir, &now));
        Ok(Plan { change, to, from })
    }

    /// Whatever an earlier change could not bring to its end is done first: the name of the journal in use must not be taken
    /// for that of a remnant.
    async fn settle_names(&self, plan: &Plan) -> Result<(), JournalError> {
        let superblock = self.superblock();
        journal_place::find(&plan.from, &superblock, true).await.map_err(|error| plan.old(error))?;
        self.clear_other_journal().await;
        if plan.moves() {
            // The superblock can name one such directory: what is in it must not be forgotten.
            match self.superblock().other_journal {
                OtherJournal::None => {}
                OtherJournal::Inside => return Err(JournalError::Left(self.dir.clone())),
                OtherJournal::At(dir) => return Err(JournalError::Left(dir)),
            }
        }
        Ok(())
    }

    /// The new directory must be empty and large enough.
    async fn check_place(&self, plan: &Plan) -> Result<(), JournalError> {
        let io = |error| plan.io(error);
        let mut needed = plan.change.bytes + SPARE;
        if plan.moves() {
            make_dir(&plan.to).await.map_err(io)?;
            let entries = fs::read_dir(&plan.to).await.map_err(io)?;
            let inside = plan.change.dir.is_none();
            let taken = [JOURNAL, NEXT, META_TABLE, CRC_TABLE];
            let in_the_way = entries.iter().any(|entry| {
                let name = entry.name.as_str();
                if inside { taken.contains(&name) } else { name != "lost+found" }
            });
            if in_the_way {
                return Err(JournalError::NotEmpty(plan.to.clone()));
            }
            needed += self.tables.bytes().await.map_err(|error| plan.old(error))?;
        }
        let free = fs::space(&plan.to).await.map_err(io)?.free;
        if free < needed {
            return Err(JournalError::NoSpace { dir: plan.to.clone(), free, needed });
        }
        Ok(())
    }

    /// Steps 1 to 4.
    async fn put_in_place(self: &Rc<Self>, plan: &Plan) -> Result<(), JournalError> {
        let io = |error| plan.io(error);
        let now = self.superblock();
        let made = JournalHeader {
            sequence: 1,
            store_uuid: now.store_uuid,
            generation: now.journal_generation + 1,
            ring_bytes: plan.change.bytes,
            tail: 0,
            tail_previous_crc: 0,
            durable: 0,
        };
        let file = Journal::create(&plan.to.join(NEXT), made).await.map_err(io)?;
        // Before the tables are there: it says whose they are.
        fs::sync_dir(&plan.to).await.map_err(io)?;
        let copying = if plan.moves() {
            let copying = self.tables.copy_to(&plan.to, !now.no_checksums).await;
            Some(copying.map_err(|error| plan.copy(error))?)
        } else {
            None
        };
        fs::sync_dir(&plan.to).await.map_err(io)?;
        for _ in 0..CHECKPOINTS {
            self.checkpoint().await?;
            if self.journal().used_percent() <= LITTLE_PERCENT {
                break;
            }
        }
        if let Some(copying) = &copying {
            // All that those have written: what is left is copied while everything waits.
            copying.catch_up().await.map_err(|error| plan.copy(error))?;
        }
        let _request = self.begin()?;
        let _no_other_checkpoint = self.checkpointing.acquire(1).await;
        self.check_running()?;
        let old = self.journal();
        let held = Held(Rc::clone(&old));
        old.hold(Hold::Requests).await.map_err(|error| self.append_failed(error))?;
        rt::sim::hit("engine.journal-held");
        self.empty_journal().await?;
        // Replicas may still have joined: who orders that keeps checkpoints from the chunk until it is recorded. Of them the
        // state says all.
        old.hold(Hold::Everything).await.map_err(|error| self.append_failed(error))?;
        rt::sim::hit("engine.journal-silent");
        let still = self.tables.still().await;
        if let Some(copying) = &copying {
            copying.complete(&still).await.map_err(|error| plan.copy(error))?;
        }
        let new = old.continue_in(file, &made).await.map_err(io)?;
        if let Err(error) = self.begin_in(&new).await {
            new.close();
            return Err(error.into_error(plan));
        }
        // Something else may have failed while everything was held: then nothing goes on, here or there (C4).
        if let Err(refusal) = self.check_running() {
            new.close();
            return Err(refusal.into());
        }
        let left = plan.left(&now);
        let (dir, bytes, ssd) = (plan.change.dir.clone(), plan.change.bytes, plan.change.ssd);
        let updated = self.update(|superblock| {
            superblock.journal_dir = dir;
            superblock.journal_bytes = bytes;
            superblock.journal_generation = made.generation;
            superblock.ssd_journal = ssd;
            superblock.other_journal = left;
        });
        if let Err(error) = updated.await {
            // Nobody knows which of them counts: the server has failed, and answers nothing any more.
            new.fail();
            return Err(error);
        }
        rt::sim::hit("engine.journal-changed");
        self.separate_journal.set(plan.change.dir.is_some());
        if let Some(copying) = copying {
            copying.adopt(&still);
        }
        new.succeed(&old);
        self.journal.replace(new);
        if self.failed.get() {
            // While the superblock was written: only the old journal was told.
            self.journal().fail();
        }
        drop(held);
        self.journal_change.notify_all();
        // Whoever waits for room, or for a checkpoint, looks at the new one.
        self.checkpoint_done.notify_all();
        self.checkpoint_wanted.notify_one();
        Ok(())
    }

    /// Moves everything that the journal has to its place, durably, while nothing can be appended.
    async fn empty_journal(self: &Rc<Self>) -> Result<(), Refusal> {
        loop {
            let chunks = self.freeze();
            self.flush().await?;
            self.move_frozen(&chunks).await?;
            self.flush().await?;
            self.update_tables(&chunks).await?;
            self.drop_frozen().await;
            // An earlier attempt may have left maps that had to be finished first.
            if self.touched.borrow().is_empty() {
                break;
            }
        }
        self.write_versions().await
    }

    /// Step 3.
    async fn begin_in(self: &Rc<Self>, new: &Journal) -> Result<(), BeginError> {
        let records = self.state_records();
        let bytes: u64 = records.iter().map(|record| record.encoded_len() as u64).sum();
        let needed = ring_for_state(bytes);
        if new.ring_bytes() < needed {
            return Err(BeginError::TooSmall(needed));
        }
        new.reserve_for_state(bytes);
        let submitted: Result<Vec<_>, _> =
            records.into_iter().map(|record| new.submit(Class::Checkpoint, record, None)).collect();
        let mut result = Ok(());
        for record in submitted.map_err(|error| BeginError::Io(io::Error::other(error)))? {
            result = result.and(record.written().await.map(drop));
        }
        result.map_err(|error| BeginError::Io(io::Error::other(error)))?;
        let reach = new.written();
        new.file().sync_data().await.map_err(BeginError::Io)?;
        new.set_durable(reach);
        // The header that it was made with knows nothing of that: were it the only one to be read, the journal would be empty.
        new.trim(new.tail()).await.map_err(BeginError::Io)
    }

    /// Step 5 but for the appends. What cannot be done now is done by the next start.
    async fn leave(&self, plan: &Plan) {
        let named = async {
            fs::rename(&plan.to.join(NEXT), &plan.to.join(JOURNAL)).await?;
            fs::sync_dir(&plan.to).await
        };
        if let Err(error) = named.await {
            if error.kind() == io::ErrorKind::NotFound {
                tracing::error!(dir = %plan.to.display(), "somebody has removed the new journal; the old one stays: {error}");
                return;
            }
            tracing::warn!(dir = %plan.to.display(), "the new journal keeps its first name until the next start: {error}");
        }
        if plan.moves() {
            self.remove_other(&plan.from).await;
        }
    }

    /// Removes what was made for a change of which nothing came.
    async fn give_up(&self, plan: &Plan) {
        if self.check_running().is_err() {
            // The next start finds out what counts.
            return;
        }
        if plan.moves() {
            // Another server may have begun in the same place at the same time: what it has made is not ours.
            self.clear_other_journal().await;
        } else if let Err(error) = fs::remove_file(&plan.to.join(NEXT)).await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {error}", plan.to.join(NEXT).display());
        }
    }

    async fn remove_other(&self, dir: &Path) {
        if let Err(error) = journal_place::remove_files(dir).await {
            tracing::warn!("cannot remove what is left of a journal in {}: {error}", dir.display());
            return;
        }
        // A failure takes the server out of service, and is told by that.
        let _reported = self.update(|superblock| superblock.other_journal = OtherJournal::None).await;
    }

    /// Removes what an interrupted change has left.
    pub(super) async fn clear_other_journal(&self) {
        let superblock = self.superblock();
        let dir = match &superblock.other_journal {
            OtherJournal::None => return,
            OtherJournal::Inside => &self.dir,
            OtherJournal::At(dir) => dir,
        };
        if *dir != meta_dir(&self.dir, &superblock) {
            match journal_place::clear(dir, &superblock).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!("cannot remove what is left of a journal in {}: {error}", dir.display());
                    return;
                }
            }
        }
        let _reported = self.update(|superblock| superblock.other_journal = OtherJournal::None).await;
    }
}

/// The least ring beside such a state: twice what a checkpoint records has to fit, beside what writes may use.
fn ring_for_state(bytes: u64) -> u64 {
    (4 * bytes + 2 * GROUP_MAX as u64).next_multiple_of(1 << 20).max(RING_MIN)
}

/// Why the state could not be recorded in the new journal.
enum BeginError {
    TooSmall(u64),
    Io(io::Error),
}

impl BeginError {
    fn into_error(self, plan: &Plan) -> JournalError {
        match self {
            Self::TooSmall(needed) => JournalError::TooSmallNow { bytes: plan.change.bytes, needed },
            Self::Io(error) => plan.io(error),
        }
    }
}
