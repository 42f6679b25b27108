//! `vstorage revoke`: takes leases away.

use clap::{ArgGroup, Args};
use serde::Serialize;
use wire::lease::{Revoke as RevokeRequest, RevokeTarget};

use crate::cli::Context;
use crate::error::Error;
use crate::path::ClusterPath;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 revoke /vm1
  vstorage -c stor1 revoke -C 2053

Whoever had the file open gets I/O errors from now on. What it had flushed stays.";

/// Take the leases on a file, or those of a client, away
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("whose").required(true).args(["path", "client"])))]
pub(crate) struct Revoke {
    /// All leases on this file
    #[arg(value_name = "PATH")]
    path: Option<ClusterPath>,
    /// All leases of this client
    #[arg(short = 'C', long, value_name = "CLIENT_ID")]
    client: Option<u64>,
}

/// How many were taken away.
#[derive(Debug, Serialize)]
struct Revoked {
    revoked: u32,
}

impl Revoke {
    /// Takes them away.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let subject = match (&self.path, self.client) {
            (Some(path), _) => path.as_str().to_owned(),
            (None, client) => format!("client {}", client.unwrap_or_default()),
        };
        let target = self
            .path
            .as_ref()
            .map(|path| RevokeTarget::Path(path.into()))
            .or(self.client.map(RevokeTarget::Client));
        let reply = context.mds().await?.change(&RevokeRequest { target }, &subject).await?;
        let noun = if reply.revoked == 1 { "lease" } else { "leases" };
        context
            .output
            .value(&Revoked { revoked: reply.revoked }, || format!("took {} {noun} away\n", reply.revoked))
    }
}
