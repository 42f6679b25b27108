//! `vstorage change-password`: another password for the cluster.

use clap::Args;
use link::password;
use serde::Serialize;

use crate::cli::Context;
use crate::error::Error;
use crate::guest::{Guest, GuestError};
use crate::password::Password;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 change-password
  vstorage -c stor1 change-password -P

Without a terminal, or with -P, standard input has two lines: the old password and the new one.
Nodes stay nodes. A password that was forgotten is set on the host of the stopped metadata
server: vstorage-mdsd password -c stor1 -r DIR.";

/// Change the password of the cluster
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ChangePassword {
    /// Read the passwords from standard input, even if that is a terminal
    #[arg(short = 'P', long)]
    password_stdin: bool,
}

/// What has come of it.
#[derive(Debug, Serialize)]
struct Changed {
    cluster: String,
}

impl ChangePassword {
    /// Asks for both and has the new one registered.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let cluster = context.cluster()?;
        let servers = cluster.servers().await?.servers;
        let (old, new) = Password::ask_change(self.password_stdin)?;
        let new = password::Password::new(new.text()).map_err(GuestError::from)?;
        let guest = Guest::new(&cluster, servers, &old, context.answer_patience())?;
        guest.visit(async |visitor, address| visitor.change_password(address, &new).await).await?;
        let text = format!("the password of cluster '{}' is changed\n", cluster.name);
        context.output.value(&Changed { cluster: cluster.name.clone() }, || text)
    }
}
