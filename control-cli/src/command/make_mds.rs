//! `vstorage make-mds`: makes a cluster and its first metadata server, by `vstorage-mdsd make`.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use link::ServerAddress;

use crate::cli::{Context, Next};
use crate::error::{Error, Misuse};
use crate::password::Password;
use crate::program::{Daemon, local_dir};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 make-mds -I -a 10.30.100.101 -r /vstorage/stor1-mds -p
  vstorage -c stor1 make-mds -I -a 10.30.100.101:4110 -r /vstorage/stor1-mds -p

The port given and the next one are used: the first by metadata servers among themselves,
the second by chunk servers and clients. Without a terminal, -p reads one line of standard
input.";

/// Make a cluster and its first metadata server
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MakeMds {
    /// Make a new cluster
    #[arg(short = 'I', long)]
    init: bool,
    /// The address at which the others reach this server
    #[arg(short, long, value_name = "ADDRESS[:PORT]")]
    address: ServerAddress,
    /// The directory for its data; 10 GB should be free there
    #[arg(short, long, value_name = "DIR")]
    repository: PathBuf,
    /// A metadata server of the cluster that this one is to join; this version makes the first one only
    #[arg(short, long, value_name = "ADDRESS[:PORT]", value_delimiter = ',', conflicts_with = "init")]
    bootstrap: Vec<ServerAddress>,
    /// Ask for the password of the new cluster
    #[arg(short, long)]
    password: bool,
}

impl MakeMds {
    /// Checks the arguments, asks for the password, and leaves the rest to the daemon.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) fn run(self, context: &Context) -> Result<Next, Error> {
        if !self.init {
            return Err(Misuse::SecondMds.into());
        }
        let dir = local_dir(&self.repository)?;
        // The only cluster this host knows is never the one to be made.
        if context.globals.cluster.is_none() {
            return Err(Misuse::NewClusterUnnamed.into());
        }
        let cluster = context.cluster()?;
        let mut command = Command::new(Daemon::Mds.find()?);
        command.args(["make", "-c", &cluster.name, "-I", "-a", &self.address.to_string(), "-r"]).arg(dir);
        context.pass_quiet_logging(&mut command);
        if self.password {
            command.arg("-p").stdin(Password::ask_new()?.into_pipe()?);
        }
        Ok(Next::Become(command))
    }
}
