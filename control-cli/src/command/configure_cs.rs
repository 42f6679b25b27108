//! `vstorage configure-cs`: the journal of a chunk server of this host.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use link::cluster_dir::ServiceKind;

use super::make_cs::Tuning;
use crate::cli::Context;
use crate::error::Error;
use crate::program::local_dir;
use crate::service::{ServiceError, select};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 configure-cs -r /vstorage/stor1-cs1 -a /ssd/stor1-cs1-journal -s 2048 -T ssd
  vstorage -c stor1 configure-cs -r /vstorage/stor1-cs1 -s 4096
  vstorage -c stor1 configure-cs -r /vstorage/stor1-cs1 -d

This version checks what is asked for and then refuses: a chunk server keeps the journal it was made
with.";

/// Add, resize or remove the journal of a chunk server
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("change").required(true).multiple(true).args(["add", "destroy", "size"])))]
pub(crate) struct ConfigureCs {
    /// The directory of the chunk server
    #[arg(short, long, value_name = "DIR")]
    repository: PathBuf,
    /// Add a journal in this directory, on an SSD
    #[arg(short, long = "add-journal", value_name = "DIR", id = "add", requires = "size")]
    add: Option<PathBuf>,
    /// Remove the journal
    #[arg(short, long = "destroy-journal", id = "destroy", conflicts_with_all = ["add", "size"])]
    destroy: bool,
    /// Size of the journal in MB
    #[arg(short = 's', long = "journal-size", value_name = "MB", id = "size", value_parser = clap::value_parser!(u64).range(1..=16_777_216))]
    size: Option<u64>,
    /// Tune the journal for flash
    #[arg(short = 'T', long, value_name = "ssd", value_enum, hide_possible_values = true, requires = "add")]
    tune: Option<Tuning>,
}

impl ConfigureCs {
    /// Finds the chunk server, and refuses.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let dir = local_dir(&self.repository)?;
        self.add.as_deref().map(local_dir).transpose()?;
        let cluster = context.cluster()?;
        let found = select(&cluster, &dir.display().to_string()).await?;
        match found.iter().find(|service| service.kind == ServiceKind::Cs) {
            Some(service) => Err(Error::JournalStays(service.dir.clone())),
            None => Err(ServiceError::NotACs(dir).into()),
        }
    }
}
