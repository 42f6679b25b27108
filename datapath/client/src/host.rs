//! What this host knows of the cluster: who we are in it, and where its metadata servers are.

use std::io;
use std::path::PathBuf;

use link::cluster_dir::HostDirs;
use link::servers::{ListError, parse_list};
use link::{Credentials, CredentialsError, Endpoint, LocalHello, Options, ServerAddress};
use wire::hello::Role;

/// Why what this host knows of a cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No credentials.
    #[error(
        "this host is not authenticated in cluster '{cluster}': {path:?} is missing; run `vstorage -c {cluster} auth-node` \
         (on the first host of a new cluster: `vstorage -c {cluster} make-mds -I …`)"
    )]
    NoCredentials {
        /// The cluster.
        cluster: String,
        /// Where they belong.
        path: PathBuf,
    },
    /// Unusable credentials.
    #[error("cannot use the credentials in {path:?}: {error}")]
    Credentials {
        /// Their file.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        error: CredentialsError,
    },
    /// Somebody else's credentials.
    #[error(
        "the credentials in {path:?} are those of cluster '{found}'; replace them by those of '{wanted}'"
    )]
    OtherCluster {
        /// Their file.
        path: PathBuf,
        /// Whose they are.
        found: String,
        /// Whose they should be.
        wanted: String,
    },
    /// Credentials that TLS does not take.
    #[error("cannot use the credentials in {path:?}: {error}")]
    Tls {
        /// Their file.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        error: link::ConfigError,
    },
    /// No list of metadata servers.
    #[error(
        "this host has no list of the metadata servers of cluster '{cluster}': {path:?} is missing; \
         write one with a line ADDRESS:PORT per server, such as 10.30.100.101:2510"
    )]
    NoList {
        /// The cluster.
        cluster: String,
        /// Where the list belongs.
        path: PathBuf,
    },
    /// An empty list.
    #[error("{0:?} lists no metadata server; add a line ADDRESS:PORT per server, such as 10.30.100.101:2510")]
    EmptyList(PathBuf),
    /// A list with something else in it.
    #[error("{path:?}, {error}")]
    BadList {
        /// The list.
        path: PathBuf,
        /// The line.
        #[source]
        error: ListError,
    },
    /// A file that cannot be read.
    #[error("cannot read {path:?}: {error}{}", if error.kind() == io::ErrorKind::PermissionDenied { "; run this as root" } else { "" })]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The boot id.
    #[error("cannot read the boot id: {error}")]
    BootId {
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// What this host knows of the cluster.
#[derive(Debug)]
pub struct HostCluster {
    /// Where this host keeps things.
    pub dirs: HostDirs,
    /// Makes connections in the cluster.
    pub endpoint: Endpoint,
    /// The metadata servers.
    pub servers: Vec<ServerAddress>,
}

impl HostCluster {
    /// Reads it, and changes nothing.
    ///
    /// # Errors
    /// [`HostError`].
    pub async fn load(cluster: &str) -> Result<Self, HostError> {
        let dirs = HostDirs::from_environment();
        let path = dirs.credentials(cluster);
        let credentials = match Credentials::load(&path).await {
            Ok(credentials) => credentials,
            Err(CredentialsError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HostError::NoCredentials { cluster: cluster.to_owned(), path });
            }
            Err(CredentialsError::Read(error)) => return Err(HostError::Unreadable { path, error }),
            Err(error) => return Err(HostError::Credentials { path, error }),
        };
        if credentials.cluster_name() != cluster {
            let found = credentials.cluster_name().to_owned();
            return Err(HostError::OtherCluster { path, found, wanted: cluster.to_owned() });
        }
        if let Err(error) = credentials.check_validity() {
            return Err(HostError::Credentials { path, error });
        }
        let boot_id = rt::node::boot_id().map_err(|error| HostError::BootId { error })?;
        let hello = LocalHello::new(Role::Client, boot_id);
        let endpoint = Endpoint::new(credentials, hello, Options::default())
            .map_err(|error| HostError::Tls { path, error })?;
        let servers = Self::list(&dirs, cluster).await?;
        Ok(Self { dirs, endpoint, servers })
    }

    async fn list(dirs: &HostDirs, cluster: &str) -> Result<Vec<ServerAddress>, HostError> {
        let path = dirs.bs_list(cluster);
        let bytes = match rt::fs::read(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HostError::NoList { cluster: cluster.to_owned(), path });
            }
            Err(error) => return Err(HostError::Unreadable { path, error }),
        };
        let servers = parse_list(&String::from_utf8_lossy(&bytes));
        let servers = servers.map_err(|error| HostError::BadList { path: path.clone(), error })?;
        if servers.is_empty() { Err(HostError::EmptyList(path)) } else { Ok(servers) }
    }
}
