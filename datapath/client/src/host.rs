//! What this host knows of the cluster: who we are in it, and where its metadata servers are.

use std::io;
use std::path::PathBuf;

use link::cluster_dir::HostDirs;
use link::discovery::DiscoveryError;
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
    /// Nobody says where the metadata servers are.
    #[error(
        "cannot tell where the metadata servers of cluster '{cluster}' are: {error}; \
         a list has a line ADDRESS:PORT per server, such as 10.30.100.101:2510"
    )]
    Servers {
        /// The cluster.
        cluster: String,
        /// Why.
        #[source]
        error: DiscoveryError,
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
        let found = link::discovery::servers(&dirs, cluster).await;
        let found = found.map_err(|error| HostError::Servers { cluster: cluster.to_owned(), error })?;
        Ok(Self { dirs, endpoint, servers: found.servers })
    }
}
