//! `vstorage ls`: what is in a directory of the cluster.

use clap::Args;
use wire::Status;
use wire::namespace::{Entry, FileKind, FileRef, List, Stat};

use crate::cli::Context;
use crate::error::Error;
use crate::mds::{Mds, MdsError};
use crate::path::ClusterPath;
use crate::table::printable;
use crate::view::file::EntryView;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 ls
  vstorage -c stor1 ls -l /fast
  vstorage -c stor1 ls --json /";

/// List a directory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Ls {
    /// The directory, or a file
    #[arg(value_name = "PATH", default_value = "/")]
    path: ClusterPath,
    /// Type, size and time of each entry
    #[arg(short, long)]
    long: bool,
}

impl Ls {
    /// Lists it.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let mds = context.mds().await?;
        let entries: Vec<EntryView> = entries(&mds, &self.path).await?.iter().map(EntryView::from).collect();
        if self.long {
            return context.output.rows(&entries);
        }
        context.output.value(&entries, || {
            let slash = |entry: &EntryView| if entry.is_directory() { "/" } else { "" };
            entries.iter().map(|entry| format!("{}{}\n", printable(&entry.name), slash(entry))).collect()
        })
    }
}

/// All entries, page by page. A file lists itself.
async fn entries(mds: &Mds, path: &ClusterPath) -> Result<Vec<Entry>, MdsError> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let after = entries.last().map(|entry| entry.name.clone()).unwrap_or_default();
        let page = match mds.ask(&List { path: path.into(), after, limit: 0 }, path.as_str()).await {
            Ok(page) => page,
            Err(MdsError::Refused { status: Status::NotADirectory, .. }) => return itself(mds, path).await,
            Err(error) => return Err(error),
        };
        let ended = !page.more || page.entries.is_empty();
        entries.extend(page.entries);
        if ended {
            return Ok(entries);
        }
    }
}

async fn itself(mds: &Mds, path: &ClusterPath) -> Result<Vec<Entry>, MdsError> {
    let info = mds.ask(&Stat { file: Some(FileRef::Path(path.into())) }, path.as_str()).await?.info;
    Ok(vec![Entry {
        name: path.name().to_owned(),
        kind: FileKind::File.into(),
        size: info.size,
        file_id: info.file_id,
        modified_ms: info.modified_ms,
    }])
}
