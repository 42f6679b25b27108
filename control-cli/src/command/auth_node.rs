//! `vstorage auth-node`: makes this host a node of a cluster, by the password of the cluster.

use std::io;
use std::path::PathBuf;

use clap::Args;
use link::cluster_dir::{ServiceKind, local_services};
use link::identity::node_name;
use link::{Credentials, ServerAddress};
use serde::Serialize;

use crate::cli::Context;
use crate::cluster::{Cluster, ClusterError};
use crate::error::{Error, Misuse};
use crate::guest::Guest;
use crate::password::Password;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 auth-node
  vstorage -c stor1 auth-node -b 10.30.100.101 -b 10.30.100.102:4110
  vstorage -c stor1 auth-node -P

The key is made on this host and never leaves it; the password does not leave it either. Without
a terminal, or with -P, the password is one line of standard input.";

/// Make this host a node of the cluster
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AuthNode {
    /// A metadata server, if this host has no list of them yet; the list is written then
    #[arg(short, long = "bootstrap", value_name = "ADDRESS[:PORT]", value_delimiter = ',')]
    bootstrap: Vec<ServerAddress>,
    /// Read the password from standard input, even if that is a terminal
    #[arg(short = 'P', long)]
    password_stdin: bool,
    /// The name of this node [default: the name of this host]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// What has come of it.
#[derive(Debug, Serialize)]
struct Authenticated {
    cluster: String,
    node: u64,
    name: String,
    file: PathBuf,
}

impl AuthNode {
    /// Asks for the password, has a key certified, and stores both.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let cluster = context.cluster()?;
        let servers = match &self.bootstrap[..] {
            [] => cluster.servers().await?.servers,
            given => given.to_vec(),
        };
        let path = cluster.dirs.credentials(&cluster.name);
        let before = known(&cluster, &path).await?;
        let host_id = cluster.dirs.host_id().await;
        let host_id = host_id.map_err(|error| write_error(cluster.dirs.etc.join("host_id"), error))?;
        let name = self.node.unwrap_or_else(|| node_name(&rt::node::host_name()));
        let password = Password::ask("Please enter password for cluster: ", self.password_stdin)?;

        let guest = Guest::new(&cluster, servers, &password, context.answer_patience())?;
        let credentials =
            guest.visit(async |visitor, address| visitor.enroll(address, &name, &host_id).await).await?;

        let dir = cluster.dirs.cluster(&cluster.name);
        rt::fs::create_dir_all(&dir).await.map_err(|error| write_error(dir, error))?;
        write_list(&cluster, &self.bootstrap).await?;
        credentials.save(&path).await.map_err(|error| write_error(path.clone(), error))?;
        let number = credentials.identity().number;
        if let Some(before) = before.filter(|before| *before != 0) {
            context.output.note(&format!(
                "this host was node {before} before; if its key may be in other hands, revoke it: \
                 vstorage -c {} revoke-node {before}",
                cluster.name
            ));
        }
        let done = Authenticated { cluster: cluster.name.clone(), node: number, name, file: path };
        let text = format!("node {number} ({}) is authenticated in cluster '{}'\n", done.name, cluster.name);
        context.output.value(&done, || text)
    }
}

/// The number this host has in the cluster, if it is a node already.
async fn known(cluster: &Cluster, path: &std::path::Path) -> Result<Option<u64>, Error> {
    let services = local_services(&cluster.dirs, &cluster.name).await;
    let services = services.map_err(|error| read_error(cluster.dirs.services(&cluster.name), error))?;
    if services.iter().any(|service| service.kind == ServiceKind::Mds) {
        // Nobody gets a certificate by password that a metadata server could run with.
        return Err(Misuse::FounderAgain(cluster.name.clone()).into());
    }
    let found = Credentials::load(path).await;
    Ok(found.ok().map(|found| found.identity().number))
}

/// Writes the list of metadata servers, if there is none.
async fn write_list(cluster: &Cluster, servers: &[ServerAddress]) -> Result<(), Error> {
    let path = cluster.dirs.bs_list(&cluster.name);
    if servers.is_empty() || rt::fs::exists(&path).await.unwrap_or(true) {
        return Ok(());
    }
    let text: String = servers.iter().map(|server| format!("{server}\n")).collect();
    rt::fs::write_atomic(&path, text.as_bytes()).await.map_err(|error| write_error(path, error))
}

fn read_error(path: PathBuf, error: io::Error) -> Error {
    ClusterError::Unreadable { path, error }.into()
}

fn write_error(path: PathBuf, error: io::Error) -> Error {
    ClusterError::Unwritable { path, error }.into()
}
