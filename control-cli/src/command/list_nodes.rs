//! `vstorage list-nodes`: who was admitted to the cluster.

use clap::Args;
use wire::auth::{ListNodes as ListNodesRequest, NodeInfo};

use crate::cli::Context;
use crate::error::Error;
use crate::view::node::NodeView;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 list-nodes
  vstorage -c stor1 list-nodes -a --json";

/// List the nodes of the cluster
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ListNodes {
    /// Also those that were revoked
    #[arg(short, long)]
    all: bool,
}

impl ListNodes {
    /// Lists them, page by page.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let mds = context.mds().await?;
        let nodes = all(&mds).await?;
        let shown = nodes.iter().filter(|node| self.all || node.revoked_ms == 0);
        let rows: Vec<NodeView> = shown.map(NodeView::from).collect();
        context.output.rows(&rows)
    }
}

/// All nodes, revoked ones too.
///
/// # Errors
/// [`Error`].
pub(crate) async fn all(mds: &crate::mds::Mds) -> Result<Vec<NodeInfo>, Error> {
    let mut nodes: Vec<NodeInfo> = Vec::new();
    loop {
        let after = nodes.last().map_or(0, |node| node.number);
        let page = mds.ask(&ListNodesRequest { after }, "nodes").await?;
        let ended = !page.more || page.nodes.is_empty();
        nodes.extend(page.nodes);
        if ended {
            return Ok(nodes);
        }
    }
}
