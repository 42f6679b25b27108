//! What this host knows of its clusters: which one is meant, where its metadata servers are, and who we are in it.

use std::io;
use std::path::PathBuf;

use link::cluster_dir::{BadClusterName, HostDirs, check_cluster_name};
use link::discovery::{DiscoveryError, DnsError, Found};
use link::servers::ListError;
use link::{Credentials, CredentialsError};

/// Why this host cannot talk to a cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] BadClusterName),
    /// No name was given, and there is not exactly one to choose.
    #[error("name the cluster with -c NAME; {}", known_text(known))]
    NotNamed {
        /// The clusters this host knows.
        known: Vec<String>,
    },
    /// There is no list of metadata servers, and no DNS record of them.
    #[error(
        "this host has no list of the metadata servers of cluster '{name}' ({}), and {error}; \
         write one with a line ADDRESS:PORT per server: echo 10.30.100.101:2510 >> {path:?}",
        known_text(known)
    )]
    NoList {
        /// The cluster.
        name: String,
        /// Where the list belongs.
        path: PathBuf,
        /// The clusters this host knows.
        known: Vec<String>,
        /// What came of asking name servers.
        #[source]
        error: DnsError,
    },
    /// The list is empty.
    #[error(
        "{path:?} lists no metadata server; add a line ADDRESS:PORT per server, such as 10.30.100.101:2510"
    )]
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
    /// A file or directory cannot be read.
    #[error("cannot read {path:?}: {error}{}", if error.kind() == io::ErrorKind::PermissionDenied { "; run this as root" } else { "" })]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Something cannot be written.
    #[error("cannot write {path:?}: {error}")]
    Unwritable {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// There are no credentials.
    #[error(
        "this host is not authenticated in cluster '{name}': {path:?} is missing; \
         make-mds -I makes it on the first host of the cluster; on other hosts run vstorage -c {name} auth-node"
    )]
    NoCredentials {
        /// The cluster.
        name: String,
        /// Where they belong.
        path: PathBuf,
    },
    /// The credentials cannot be used.
    #[error("cannot use the credentials in {path:?}: {error}")]
    BadCredentials {
        /// Their file.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        error: CredentialsError,
    },
    /// TLS does not take the credentials.
    #[error("cannot use the credentials in {path:?}: {error}")]
    Tls {
        /// Their file.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        error: link::ConfigError,
    },
    /// The credentials are those of another cluster.
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
}

fn known_text(known: &[String]) -> String {
    if known.is_empty() {
        return "this host knows no cluster".to_owned();
    }
    format!("this host knows: {}", known.join(", "))
}

/// A cluster by its name, and the directories of this host.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// Its name.
    pub(crate) name: String,
    /// The directories.
    pub(crate) dirs: HostDirs,
}

impl Cluster {
    /// The cluster that is meant: the one named, else the only one this host knows.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) fn meant(dirs: &HostDirs, name: Option<&str>) -> Result<Self, ClusterError> {
        let name = match name {
            Some(name) => {
                check_cluster_name(name)?;
                name.to_owned()
            }
            None => {
                let [name] = <[String; 1]>::try_from(known(dirs)?)
                    .map_err(|known| ClusterError::NotNamed { known })?;
                name
            }
        };
        Ok(Self { name, dirs: dirs.clone() })
    }

    /// The metadata servers by this host's list, else by DNS records.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) async fn servers(&self) -> Result<Found, ClusterError> {
        Err(match link::discovery::servers(&self.dirs, &self.name).await {
            Ok(found) => return Ok(found),
            Err(DiscoveryError::NoList { path, error }) => {
                let known = known(&self.dirs)?;
                ClusterError::NoList { name: self.name.clone(), path, known, error }
            }
            Err(DiscoveryError::EmptyList { path }) => ClusterError::EmptyList { path },
            Err(DiscoveryError::BadList { path, error }) => ClusterError::BadList { path, error },
            Err(DiscoveryError::Unreadable { path, error }) => ClusterError::Unreadable { path, error },
        })
    }

    /// This host's credentials.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) async fn credentials(&self) -> Result<Credentials, ClusterError> {
        let path = self.dirs.credentials(&self.name);
        let credentials = match Credentials::load(&path).await {
            Ok(credentials) => credentials,
            Err(CredentialsError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ClusterError::NoCredentials { name: self.name.clone(), path });
            }
            Err(CredentialsError::Read(error)) => return Err(ClusterError::Unreadable { path, error }),
            Err(error) => return Err(ClusterError::BadCredentials { path, error }),
        };
        if credentials.cluster_name() != self.name {
            let (found, wanted) = (credentials.cluster_name().to_owned(), self.name.clone());
            return Err(ClusterError::OtherCluster { path, found, wanted });
        }
        match credentials.check_validity() {
            Ok(()) => Ok(credentials),
            Err(error) => Err(ClusterError::BadCredentials { path, error }),
        }
    }
}

/// The clusters this host knows, in order: those with a directory that has something in it.
fn known(dirs: &HostDirs) -> Result<Vec<String>, ClusterError> {
    let path = dirs.etc.join("clusters");
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ClusterError::Unreadable { path, error }),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| check_cluster_name(name).is_ok())
        .filter(|name| {
            [dirs.bs_list(name), dirs.credentials(name), dirs.services(name)].iter().any(|file| file.exists())
        })
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use rt::{Executor, ExecutorOptions};

    use super::*;

    fn add(dirs: &HostDirs, name: &str, list: &str) {
        std::fs::create_dir_all(dirs.cluster(name)).unwrap();
        std::fs::write(dirs.bs_list(name), list).unwrap();
    }

    #[test]
    fn without_a_name_the_only_cluster_is_meant() {
        let root = tempfile::tempdir().unwrap();
        let dirs = HostDirs::below(root.path());
        let none = Cluster::meant(&dirs, None).unwrap_err().to_string();
        assert_eq!(none, "name the cluster with -c NAME; this host knows no cluster");
        add(&dirs, "stor1", "127.0.0.1\n");
        std::fs::create_dir_all(dirs.cluster("empty")).unwrap();
        assert_eq!(Cluster::meant(&dirs, None).unwrap().name, "stor1");
        add(&dirs, "a2", "127.0.0.1\n");
        let many = Cluster::meant(&dirs, None).unwrap_err().to_string();
        assert_eq!(many, "name the cluster with -c NAME; this host knows: a2, stor1");
        assert_eq!(Cluster::meant(&dirs, Some("new")).unwrap().name, "new");
        assert!(matches!(Cluster::meant(&dirs, Some("../x")), Err(ClusterError::Name(_))));
    }

    #[test]
    fn what_is_wrong_with_the_list_is_said() {
        let root = tempfile::tempdir().unwrap();
        let dirs = HostDirs::below(root.path());
        add(&dirs, "stor1", "10.0.0.1\ns2:4110 # the other one\n");
        add(&dirs, "stor3", "# nobody\n");
        add(&dirs, "stor4", "10.0.0.1\nfd00::1\n");
        Executor::start(&ExecutorOptions::default()).unwrap().run(async move {
            let servers = async |name| Cluster::meant(&dirs, Some(name)).unwrap().servers().await;
            assert_eq!(servers("stor1").await.unwrap().servers.len(), 2);
            let text = servers("stor2").await.unwrap_err().to_string();
            assert!(text.contains("'stor2'") && text.contains("this host knows: stor1"), "{text}");
            assert!(text.contains("no name server is known by"), "{text}");
            assert!(text.contains("echo 10.30.100.101:2510 >> ") && text.contains("stor2/bs.list"), "{text}");
            assert!(matches!(servers("stor3").await, Err(ClusterError::EmptyList { .. })));
            let text = servers("stor4").await.unwrap_err().to_string();
            assert!(text.contains("line 2: an IPv6 address needs brackets: [fd00::1]"), "{text}");
        });
    }
}
