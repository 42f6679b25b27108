//! What this host knows of the cluster: who we are in it, and where its metadata servers are.

use std::io;

use link::cluster_dir::HostDirs;
use link::servers::parse_list;
use link::{Credentials, CredentialsError, Endpoint, LocalHello, Options, ServerAddress};
use wire::hello::Role;

use super::args::Nbd;
use super::failure::Failure;

/// What this host knows of the cluster.
pub(super) struct Cluster {
    pub(super) dirs: HostDirs,
    pub(super) endpoint: Endpoint,
    pub(super) servers: Vec<ServerAddress>,
}

impl Cluster {
    /// Reads it, and changes nothing.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) async fn load(nbd: &Nbd) -> Result<Self, Failure> {
        let dirs = HostDirs::from_environment();
        let cluster = nbd.cluster.as_str();
        let path = dirs.credentials(cluster);
        let credentials = match Credentials::load(&path).await {
            Ok(credentials) => credentials,
            Err(CredentialsError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::NoCredentials { cluster: cluster.to_owned(), path });
            }
            Err(CredentialsError::Read(error)) => return Err(Failure::Unreadable { path, error }),
            Err(error) => return Err(Failure::Credentials { path, error }),
        };
        if credentials.cluster_name() != cluster {
            let found = credentials.cluster_name().to_owned();
            return Err(Failure::OtherCluster { path, found, wanted: cluster.to_owned() });
        }
        if let Err(error) = credentials.check_validity() {
            return Err(Failure::Credentials { path, error });
        }
        let boot_id = rt::node::boot_id().map_err(Failure::system("cannot read the boot id"))?;
        let hello = LocalHello::new(Role::Client, boot_id);
        let endpoint = Endpoint::new(credentials, hello, Options::default())
            .map_err(|error| Failure::Tls { path, error })?;
        let servers = Self::list(&dirs, cluster).await?;
        Ok(Self { dirs, endpoint, servers })
    }

    async fn list(dirs: &HostDirs, cluster: &str) -> Result<Vec<ServerAddress>, Failure> {
        let path = dirs.bs_list(cluster);
        let bytes = match rt::fs::read(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::NoList { cluster: cluster.to_owned(), path });
            }
            Err(error) => return Err(Failure::Unreadable { path, error }),
        };
        let servers = parse_list(&String::from_utf8_lossy(&bytes));
        let servers = servers.map_err(|error| Failure::BadList { path: path.clone(), error })?;
        if servers.is_empty() { Err(Failure::EmptyList(path)) } else { Ok(servers) }
    }
}
