//! `vstorage mv`: another name for a file or directory.

use clap::Args;
use serde::Serialize;
use wire::namespace::Rename;

use crate::cli::Context;
use crate::error::{Error, Misuse};
use crate::path::ClusterPath;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 mv /vm1 /archive/vm1

A name that is taken is never replaced. Both names are whole paths: /archive alone would
be the new name.";

/// Rename a file or directory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Mv {
    /// Its path now
    #[arg(value_name = "FROM")]
    from: ClusterPath,
    /// Its path to be
    #[arg(value_name = "TO")]
    to: ClusterPath,
}

/// What was renamed.
#[derive(Debug, Serialize)]
struct Renamed {
    from: String,
    to: String,
}

impl Mv {
    /// Renames it.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        if self.from.is_root() || self.to.is_root() {
            return Err(Misuse::Root.into());
        }
        let renamed = Renamed { from: (&self.from).into(), to: (&self.to).into() };
        let request = Rename { from: renamed.from.clone(), to: renamed.to.clone() };
        let subject = format!("{} -> {}", renamed.from, renamed.to);
        context.mds().await?.change(&request, &subject).await?;
        context.output.value(&renamed, String::new)
    }
}
