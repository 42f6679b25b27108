//! `vstorage stat`: the state of the cluster, or of a file.

use clap::Args;
use wire::cluster::{ClusterStat, GetEvents};
use wire::namespace::{FileRef, Stat as StatRequest};

use crate::cli::Context;
use crate::error::Error;
use crate::path::ClusterPath;
use crate::view::cluster::ClusterView;
use crate::view::file::FileView;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 stat
  vstorage -c stor1 stat --json
  vstorage -c stor1 stat /vm1";

/// How many of the latest events are shown with the cluster.
const EVENTS: u32 = 10;

/// Show the state of the cluster, or of a file
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Stat {
    /// A file or directory; without it, the cluster
    #[arg(value_name = "PATH")]
    path: Option<ClusterPath>,
}

impl Stat {
    /// Shows it.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let mds = context.announced_mds().await?;
        if let Some(path) = &self.path {
            let request = StatRequest { file: Some(FileRef::Path(path.into())) };
            let view = FileView::from(&mds.ask(&request, path.as_str()).await?.info);
            return context.output.value(&view, || view.to_string());
        }
        let cluster = mds.ask(&ClusterStat {}, "cluster").await?;
        let latest = GetEvents { limit: EVENTS, newest: true, ..Default::default() };
        let events = mds.ask(&latest, "events").await?.events;
        let view = ClusterView::new(&cluster, &events);
        context.output.value(&view, || view.to_string())
    }
}
