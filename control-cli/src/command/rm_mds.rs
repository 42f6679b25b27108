//! `vstorage rm-mds`: takes a metadata server out of the cluster.

use clap::Args;
use wire::cluster::ListServices;

use crate::cli::Context;
use crate::error::{Error, Misuse};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 rm-mds 3

In this version a cluster has one metadata server, and the last one cannot be removed.";

/// Remove a metadata server from the cluster
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RmMds {
    /// The metadata server by its number, see list-services -M
    #[arg(value_name = "MDSID")]
    server: u64,
}

impl RmMds {
    /// Looks for it, and refuses.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let there = context.mds().await?.ask(&ListServices {}, "services").await?.mds;
        let is_there = there.iter().any(|mds| mds.mds_id == self.server);
        Err(if is_there { Error::LastMds(self.server) } else { Misuse::NoMds(self.server).into() })
    }
}
