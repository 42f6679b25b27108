//! Where a host keeps what it knows of its clusters.
//!
//! `/etc/vstorage/host_id` and, per cluster, `/etc/vstorage/clusters/NAME/` with `bs.list`, `auth_digest.key` and the
//! list of services made on this host. The root is moved by the environment variable `VSTORAGE_ETC`, so that many
//! "hosts" fit on one machine.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use rt::fs;

/// Environment variable that moves `/etc/vstorage`.
pub const ETC_VARIABLE: &str = "VSTORAGE_ETC";
/// Environment variable that moves `/var/log/vstorage`.
pub const LOG_VARIABLE: &str = "VSTORAGE_LOG";
/// Environment variable that moves `/run/vstorage`.
pub const RUN_VARIABLE: &str = "VSTORAGE_RUN";
/// Environment variable that moves `/etc/resolv.conf`, as far as it is read for `vstorage` itself.
pub const RESOLV_CONF_VARIABLE: &str = "VSTORAGE_RESOLV_CONF";

/// Port of the metadata servers among themselves; clients and chunk servers dial the one above.
pub const MDS_PORT: u16 = 2510;

/// Directories of this host, and one file that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDirs {
    /// Configuration.
    pub etc: PathBuf,
    /// Logs.
    pub log: PathBuf,
    /// Run-time files.
    pub run: PathBuf,
    /// Which name servers there are, resolv.conf(5).
    pub resolv_conf: PathBuf,
}

impl HostDirs {
    /// From the environment, or the usual places.
    #[must_use]
    pub fn from_environment() -> Self {
        let dir = |variable, usual| moved(std::env::var_os(variable), usual);
        Self {
            etc: dir(ETC_VARIABLE, "/etc/vstorage"),
            log: dir(LOG_VARIABLE, "/var/log/vstorage"),
            run: dir(RUN_VARIABLE, "/run/vstorage"),
            resolv_conf: dir(RESOLV_CONF_VARIABLE, "/etc/resolv.conf"),
        }
    }

    /// All below one directory.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        let [etc, log, run, resolv_conf] = ["etc", "log", "run", "resolv.conf"].map(|name| root.join(name));
        Self { etc, log, run, resolv_conf }
    }

    /// Directory of a cluster.
    #[must_use]
    pub fn cluster(&self, name: &str) -> PathBuf {
        self.etc.join("clusters").join(name)
    }

    /// The node's credentials for a cluster.
    #[must_use]
    pub fn credentials(&self, name: &str) -> PathBuf {
        self.cluster(name).join("auth_digest.key")
    }

    /// Addresses of the metadata servers of a cluster.
    #[must_use]
    pub fn bs_list(&self, name: &str) -> PathBuf {
        self.cluster(name).join("bs.list")
    }

    /// Services of a cluster that were made on this host.
    #[must_use]
    pub fn services(&self, name: &str) -> PathBuf {
        self.cluster(name).join("services.list")
    }

    /// The host's identity; made if there is none yet.
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` when the file holds something else.
    pub async fn host_id(&self) -> io::Result<String> {
        let path = self.etc.join("host_id");
        match fs::read(&path).await {
            Ok(bytes) => parse_host_id(&bytes).ok_or_else(|| {
                let text = format!(
                    "{} does not hold a host id (16 to 32 hexadecimal digits); write a new one as the guide shows",
                    path.display()
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.etc).await?;
                let mut id = [0; 16];
                rt::random::fill_secret(&mut id);
                let text: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
                fs::write_atomic(&path, format!("{text}\n").as_bytes()).await?;
                Ok(text)
            }
            Err(error) => Err(error),
        }
    }
}

/// Where a directory is: as the variable says, absolute, since daemons leave the directory in which they were started; an
/// empty variable says nothing.
fn moved(variable: Option<OsString>, usual: &str) -> PathBuf {
    let given = variable.filter(|given| !given.is_empty()).map(PathBuf::from);
    // Without a working directory there is nothing that a relative path could mean: its use says so.
    given.map_or_else(|| usual.into(), |given| std::path::absolute(&given).unwrap_or(given))
}

fn parse_host_id(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    ((16..=32).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit()))
        .then(|| digits.to_ascii_lowercase())
}

/// Why a cluster's name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no cluster name: use 1 to 64 of the characters a-z, A-Z, 0-9, - and _")]
pub struct BadClusterName(pub String);

/// Checks a cluster's name.
///
/// # Errors
/// [`BadClusterName`].
pub fn check_cluster_name(name: &str) -> Result<(), BadClusterName> {
    let good = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if good { Ok(()) } else { Err(BadClusterName(name.to_owned())) }
}

/// A service made on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalService {
    /// What it is.
    pub kind: ServiceKind,
    /// Its directory.
    pub dir: PathBuf,
}

/// Kinds of services with a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// `vstorage-mdsd`.
    Mds,
    /// `vstorage-csd`.
    Cs,
}

impl ServiceKind {
    /// Its word in the list.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Mds => "mds",
            Self::Cs => "cs",
        }
    }
}

/// Services of a cluster made on this host.
///
/// # Errors
/// Those of the file system; `InvalidData` for a line that cannot be read.
pub async fn local_services(dirs: &HostDirs, cluster: &str) -> io::Result<Vec<LocalService>> {
    let path = dirs.services(cluster);
    let bytes = match fs::read(&path).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut services = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let service = match line.split_once(' ') {
            Some(("mds", dir)) => LocalService { kind: ServiceKind::Mds, dir: dir.into() },
            Some(("cs", dir)) => LocalService { kind: ServiceKind::Cs, dir: dir.into() },
            _ if line.trim().is_empty() => continue,
            _ => {
                let text = format!("{}:{}: expected `mds DIR` or `cs DIR`", path.display(), number + 1);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        };
        services.push(service);
    }
    Ok(services)
}

/// Adds a service to the cluster's list on this host.
///
/// # Errors
/// As [`local_services`].
pub async fn add_local_service(
    dirs: &HostDirs,
    cluster: &str,
    kind: ServiceKind,
    dir: &Path,
) -> io::Result<()> {
    let mut services = local_services(dirs, cluster).await?;
    let service = LocalService { kind, dir: dir.to_owned() };
    if services.contains(&service) {
        return Ok(());
    }
    services.push(service);
    let text: String = services.iter().map(|s| format!("{} {}\n", s.kind.word(), s.dir.display())).collect();
    fs::create_dir_all(&dirs.cluster(cluster)).await?;
    fs::write_atomic(&dirs.services(cluster), text.as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_moves_a_directory_to_an_absolute_place() {
        let moved = |variable: Option<&str>| moved(variable.map(OsString::from), "/etc/vstorage");
        assert_eq!(moved(None), Path::new("/etc/vstorage"));
        assert_eq!(moved(Some("")), Path::new("/etc/vstorage"));
        assert_eq!(moved(Some("/a/etc")), Path::new("/a/etc"));
        assert_eq!(moved(Some("etc")), std::env::current_dir().unwrap().join("etc"));
    }

    #[test]
    fn cluster_names() {
        for good in ["stor1", "A-b_9", "x"] {
            assert_eq!(check_cluster_name(good), Ok(()));
        }
        let long = "a".repeat(65);
        for bad in ["", "a b", "../x", "é", long.as_str()] {
            assert!(check_cluster_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_ids_may_have_dashes() {
        assert_eq!(
            parse_host_id(b"00112233-4455-6677-8899-AABBCCDDEEFF\n").as_deref(),
            Some("00112233445566778899aabbccddeeff")
        );
        assert_eq!(
            parse_host_id(b"0123456789abcdef\n").as_deref(),
            Some("0123456789abcdef"),
            "as the guide makes it"
        );
        assert_eq!(parse_host_id(b"short"), None);
    }
}
