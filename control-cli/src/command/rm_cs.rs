//! `vstorage rm-cs`: takes chunk servers out of the cluster, once their data can go elsewhere.

use clap::Args;
use wire::cluster::ListServices;

use crate::cli::Context;
use crate::error::{Error, Misuse};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 rm-cs --wait 1028
  vstorage -c stor1 rm-cs --cancel 1028
  vstorage -c stor1 rm-cs -f 1028

This version checks what is asked for and then refuses: it does not copy chunks from one chunk
server to others yet.";

/// Remove chunk servers from the cluster
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RmCs {
    /// Wait until their data is on other chunk servers
    #[arg(long, conflicts_with = "cancel")]
    wait: bool,
    /// Let those stay that are being removed
    #[arg(long, conflicts_with = "force")]
    cancel: bool,
    /// Remove those that are lost for ever, with their data
    #[arg(short, long)]
    force: bool,
    /// The chunk servers by their numbers, see list-services -C
    #[arg(value_name = "CSID", required = true)]
    servers: Vec<u64>,
}

impl RmCs {
    /// Looks for them, and refuses.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let there = context.mds().await?.ask(&ListServices {}, "services").await?.cs;
        let find = |id: u64| there.iter().find(|cs| cs.cs_id == id).ok_or(Misuse::NoCs(id));
        let meant = self.servers.into_iter().map(find).collect::<Result<Vec<_>, _>>()?;
        match meant.first() {
            Some(cs) if self.cancel => Err(Error::NotBeingRemoved(cs.cs_id)),
            Some(cs) => Err(Error::CsStays { id: cs.cs_id, replicas: cs.replicas, unique: cs.unique }),
            None => Ok(()),
        }
    }
}
