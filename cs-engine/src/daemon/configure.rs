//! `configure`: the journal of a chunk server, at work or not.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use super::control::{self, Asked};
use super::make::INTERNAL_JOURNAL;
use super::{ConfigureArgs, Failure};
use crate::engine::{self, Engine, EngineOptions, JournalChange, OpenError};

/// What is to become of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A journal in a directory of its own.
    Add {
        /// The directory.
        dir: PathBuf,
        /// Bytes.
        bytes: u64,
        /// `-T ssd`.
        ssd: bool,
    },
    /// Back beside the chunks.
    Destroy,
    /// Another size where it is.
    Resize {
        /// Bytes.
        bytes: u64,
    },
}

/// Carries out a change.
///
/// # Errors
/// Why not, in words for the operator.
pub(super) async fn change(engine: &Rc<Engine>, wanted: Change) -> Result<String, String> {
    let now = engine.superblock();
    let to = match wanted {
        Change::Add { dir, .. } if dir == *engine.dir() => {
            return Err("a journal of its own needs another directory than the chunk server's".into());
        }
        Change::Add { dir, bytes, ssd } => JournalChange { dir: Some(dir), bytes, ssd },
        Change::Destroy if now.journal_dir.is_none() => {
            return Err(format!(
                "CS#{} has no journal to destroy: it keeps {} MB beside its chunks, and cannot do without",
                now.cs_id,
                now.journal_bytes >> 20
            ));
        }
        Change::Destroy => JournalChange { dir: None, bytes: INTERNAL_JOURNAL, ssd: false },
        Change::Resize { bytes } => {
            JournalChange { dir: now.journal_dir.clone(), bytes, ssd: now.ssd_journal }
        }
    };
    // In a task of its own: a change that has begun runs to its end, whoever waits for it.
    let theirs = Rc::clone(engine);
    let changed = rt::spawn(async move { theirs.change_journal(to).await }).await;
    let changed = changed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let superblock = engine.superblock();
    let place = superblock.journal_dir.as_ref().map_or("beside its chunks".to_owned(), |dir| {
        format!("in {}{}", dir.display(), if superblock.ssd_journal { ", tuned for SSDs" } else { "" })
    });
    let what = if changed { "now has" } else { "already has" };
    Ok(format!("CS#{} {what} a journal of {} MB {place}", superblock.cs_id, superblock.journal_bytes >> 20))
}

pub(super) async fn configure(args: ConfigureArgs) -> Result<ExitCode, Failure> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(Failure::io("bad path"));
    let dir = absolute(&args.repository)?;
    let bytes = args.journal_size.map(|megabytes| megabytes.saturating_mul(1 << 20));
    let wanted = match (&args.add, bytes) {
        (Some(to), Some(bytes)) => Change::Add { dir: absolute(to)?, bytes, ssd: args.tune.is_some() },
        (_, Some(bytes)) => Change::Resize { bytes },
        _ => Change::Destroy,
    };
    let done = match engine::lock_directory(&dir).await {
        Ok(lock) => {
            let engine = Engine::open(&dir, lock, EngineOptions::default()).await?;
            let done = change(&engine, wanted).await;
            engine.stop().await;
            done
        }
        Err(OpenError::InUse(_)) => match control::ask(&dir, &wanted).await {
            Ok(Asked::Done(text)) => Ok(text),
            Ok(Asked::Refused(text)) => Err(text),
            Ok(Asked::Gone) => Err("the chunk server has ended before it answered; its journal is the present one or the new one: \
                                    start it, and look at it with vstorage list-services -C"
                .into()),
            Ok(Asked::Nobody) => return Err(OpenError::InUse(dir).into()),
            Err(error) => return Err(Failure::Control { dir, error }),
        },
        Err(error) => return Err(error.into()),
    };
    match done {
        Ok(text) => {
            println!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Err(text) => Err(Failure::Configure(text)),
    }
}
