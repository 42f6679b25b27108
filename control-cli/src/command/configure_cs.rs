//! `vstorage configure-cs`: the journal of a chunk server of this host.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{ArgGroup, Args};
use link::cluster_dir::ServiceKind;

use super::make_cs::Tuning;
use crate::cli::{Context, Next};
use crate::error::Error;
use crate::program::{self, Daemon, local_dir};
use crate::service::{ServiceError, select};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 configure-cs -r /vstorage/stor1-cs1 -a /ssd/stor1-cs1-journal -s 2048 -T ssd
  vstorage -c stor1 configure-cs -r /vstorage/stor1-cs1 -s 4096
  vstorage -c stor1 configure-cs -r /vstorage/stor1-cs1 -d

The chunk server may be at work: clients notice nothing but a short pause in writing. With -a, one
that has a journal elsewhere moves to the new one; with -d it keeps its journal beside its
chunks.";

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
    /// Finds the chunk server, and leaves the rest to its program.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &Context) -> Result<Next, Error> {
        let dir = local_dir(&self.repository)?;
        let add = self.add.as_deref().map(local_dir).transpose()?;
        let cluster = context.cluster()?;
        let found = select(&cluster, &dir.display().to_string()).await?;
        let Some(service) = found.iter().find(|service| service.kind == ServiceKind::Cs) else {
            return Err(ServiceError::NotACs(dir).into());
        };
        let mut command = Command::new(Daemon::Cs.find()?);
        command.args(["configure", "-r"]).arg(&service.dir);
        if let Some(add) = add {
            command.arg("-a").arg(add);
        }
        if let Some(size) = self.size {
            command.args(["-s", &size.to_string()]);
        }
        if self.tune == Some(Tuning::Ssd) {
            command.args(["-T", "ssd"]);
        }
        if self.destroy {
            command.arg("-d");
        }
        context.pass_quiet_logging(&mut command);
        let status = program::run(command)?;
        if status.success() {
            return Ok(Next::Done);
        }
        // A signal has no code.
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(Next::Exit(code.map_or(ExitCode::FAILURE, ExitCode::from)))
    }
}
