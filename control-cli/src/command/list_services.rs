//! `vstorage list-services`: the metadata and chunk servers of the cluster.

use clap::Args;
use serde::Serialize;
use wire::cluster::ListServices as ListServicesRequest;

use crate::cli::Context;
use crate::error::Error;
use crate::table::draw;
use crate::view::server::{CsPlace, CsView, MdsPlace, MdsView};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 list-services
  vstorage -c stor1 list-services -M
  vstorage -c stor1 list-services -C --json";

/// List the metadata and chunk servers with their directories
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ListServices {
    /// Metadata servers
    #[arg(short = 'M', long)]
    mds: bool,
    /// Chunk servers
    #[arg(short = 'C', long)]
    cs: bool,
    /// All of them, as without any of these
    #[arg(short, long)]
    all: bool,
}

/// The servers; those not asked for are left out.
#[derive(Debug, Serialize)]
struct Services {
    #[serde(skip_serializing_if = "Option::is_none")]
    mds: Option<Vec<MdsPlace>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cs: Option<Vec<CsPlace>>,
}

impl ListServices {
    /// Lists them.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let reply = context.mds().await?.ask(&ListServicesRequest {}, "services").await?;
        let (mds, cs) = if !self.all && (self.mds || self.cs) { (self.mds, self.cs) } else { (true, true) };
        let services = Services {
            mds: mds.then(|| reply.mds.iter().map(|one| MdsPlace(MdsView::from(one))).collect()),
            cs: cs.then(|| reply.cs.iter().map(|one| CsPlace(CsView::from(one))).collect()),
        };
        context.output.value(&services, || {
            let tables = [services.mds.as_deref().map(draw), services.cs.as_deref().map(draw)];
            tables.into_iter().flatten().collect::<Vec<_>>().join("\n")
        })
    }
}
