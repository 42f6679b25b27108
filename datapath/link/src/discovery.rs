//! Where the metadata servers of a cluster are: in the list of this host, else where the domain name system says.

mod dns;
mod resolver;

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::cluster_dir::HostDirs;
use crate::servers::{ListError, ServerAddress, parse_list};

pub use dns::DnsError;
pub use resolver::Resolver;

/// Why nobody knows where the metadata servers are.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// This host has no list, and the domain name system does not help.
    #[error("{path:?} is missing, and {error}")]
    NoList {
        /// Where the list belongs.
        path: PathBuf,
        /// What came of asking name servers.
        #[source]
        error: DnsError,
    },
    /// The list is empty.
    #[error("{path:?} lists no metadata server")]
    EmptyList {
        /// The list.
        path: PathBuf,
    },
    /// The list has a line that is no address.
    #[error("{path:?}, {error}")]
    BadList {
        /// The list.
        path: PathBuf,
        /// The line.
        #[source]
        error: ListError,
    },
    /// A file cannot be read.
    #[error("cannot read {path:?}: {error}{}", if error.kind() == io::ErrorKind::PermissionDenied { "; run this as root" } else { "" })]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// Who says where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// This host's list.
    List(PathBuf),
    /// The domain name system.
    Dns,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(path) => write!(f, "{path:?}"),
            Self::Dns => f.write_str("DNS"),
        }
    }
}

/// Where the metadata servers of a cluster are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// At least one.
    pub servers: Vec<ServerAddress>,
    /// Who says so.
    pub by: Source,
}

/// The metadata servers of a cluster by this host's list; without a list, by the SRV records of the cluster.
///
/// # Errors
/// [`DiscoveryError`].
pub async fn servers(dirs: &HostDirs, cluster: &str) -> Result<Found, DiscoveryError> {
    let path = dirs.bs_list(cluster);
    match rt::fs::read(&path).await {
        Ok(bytes) => match parse_list(&String::from_utf8_lossy(&bytes)) {
            Ok(servers) if servers.is_empty() => Err(DiscoveryError::EmptyList { path }),
            Ok(servers) => Ok(Found { servers, by: Source::List(path) }),
            Err(error) => Err(DiscoveryError::BadList { path, error }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let resolver = Resolver::load(dirs).await;
            let resolver = resolver
                .map_err(|error| DiscoveryError::Unreadable { path: dirs.resolv_conf.clone(), error })?;
            match resolver.servers_of(cluster).await {
                Ok(servers) => Ok(Found { servers, by: Source::Dns }),
                Err(error) => Err(DiscoveryError::NoList { path, error }),
            }
        }
        Err(error) => Err(DiscoveryError::Unreadable { path, error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run;

    #[test]
    fn what_is_wrong_with_a_list_is_said() {
        run(async {
            let root = tempfile::tempdir().unwrap();
            let dirs = HostDirs::below(root.path());
            let write = |text: &str| {
                std::fs::create_dir_all(dirs.cluster("stor1")).unwrap();
                std::fs::write(dirs.bs_list("stor1"), text).unwrap();
            };
            let missing = servers(&dirs, "stor1").await.unwrap_err();
            assert!(
                matches!(missing, DiscoveryError::NoList { error: DnsError::NoServer { .. }, .. }),
                "{missing}"
            );
            assert!(missing.to_string().contains("resolv.conf"), "{missing}");
            write("10.0.0.1\ns2:4110 # the other one\n");
            assert_eq!(servers(&dirs, "stor1").await.unwrap().servers.len(), 2);
            write("# nobody\n");
            assert!(matches!(servers(&dirs, "stor1").await, Err(DiscoveryError::EmptyList { .. })));
            write("10.0.0.1\nfd00::1\n");
            let text = servers(&dirs, "stor1").await.unwrap_err().to_string();
            assert!(text.contains("line 2: an IPv6 address needs brackets: [fd00::1]"), "{text}");
            std::fs::remove_file(dirs.bs_list("stor1")).unwrap();
            std::fs::create_dir(&dirs.resolv_conf).unwrap();
            assert!(matches!(servers(&dirs, "stor1").await, Err(DiscoveryError::Unreadable { .. })));
        });
    }
}
