//! `vstorage rm`: removes a file or directory.

use clap::Args;
use serde::Serialize;
use wire::namespace::Remove;

use crate::cli::Context;
use crate::error::{Error, Misuse};
use crate::path::ClusterPath;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 rm /vm1
  vstorage -c stor1 rm -r /archive

A volume that is open lives on without a name until it is closed.";

/// Remove a file or directory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Rm {
    /// What to remove
    #[arg(value_name = "PATH")]
    path: ClusterPath,
    /// A directory with all it holds
    #[arg(short, long)]
    recursive: bool,
}

/// What was removed.
#[derive(Debug, Serialize)]
struct Removed {
    path: String,
}

impl Rm {
    /// Removes it.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        if self.path.is_root() {
            return Err(Misuse::Root.into());
        }
        let request = Remove { path: (&self.path).into(), recursive: self.recursive };
        context.mds().await?.change(&request, self.path.as_str()).await?;
        context.output.value(&Removed { path: (&self.path).into() }, String::new)
    }
}
