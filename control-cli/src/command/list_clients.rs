//! `vstorage list-clients`: who uses the cluster.

use clap::Args;
use wire::session::{ClientInfo, ListClients as ListClientsRequest};

use crate::cli::Context;
use crate::error::Error;
use crate::view::client::{ClientPlace, ClientView};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 list-clients
  vstorage -c stor1 list-clients --json";

/// List the clients
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ListClients {}

impl ListClients {
    /// Lists them, page by page.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let mds = context.mds().await?;
        let mut clients: Vec<ClientInfo> = Vec::new();
        loop {
            let after = clients.last().map_or(0, |client| client.client_id);
            let page = mds.ask(&ListClientsRequest { after }, "clients").await?;
            let ended = !page.more || page.clients.is_empty();
            clients.extend(page.clients);
            if ended {
                break;
            }
        }
        let rows: Vec<ClientPlace> = clients.iter().map(|one| ClientPlace(ClientView::from(one))).collect();
        context.output.rows(&rows)
    }
}
