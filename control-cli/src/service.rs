//! The services of a cluster on this host, started and stopped without systemd.

pub(crate) mod holder;
pub(crate) mod pid_file;
pub(crate) mod process;
pub(crate) mod report;
pub(crate) mod start;
pub(crate) mod stop;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use link::cluster_dir::{LocalService, ServiceKind, local_services};
use rustix::fs::{FlockOperation, flock};

use crate::cluster::Cluster;
use crate::program::Daemon;

/// Why services cannot be started or stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// The list of services cannot be read.
    #[error("cannot read the services of cluster '{cluster}' on this host: {error}")]
    List {
        /// The cluster.
        cluster: String,
        /// What is wrong.
        #[source]
        error: io::Error,
    },
    /// There are none.
    #[error(
        "cluster '{cluster}' has no services on this host ({path:?} lists none); make-mds and make-cs make them"
    )]
    None {
        /// The cluster.
        cluster: String,
        /// The list.
        path: PathBuf,
    },
    /// None is called so.
    #[error(
        "no service of cluster '{cluster}' on this host is {wanted:?}; give all, mds, cs, or one of: {}",
        list(known)
    )]
    NoSuch {
        /// The cluster.
        cluster: String,
        /// What was asked for.
        wanted: String,
        /// The directories of the services there are.
        known: Vec<PathBuf>,
    },
    /// More than one is called so.
    #[error("{wanted:?} could be any of {}; give the whole directory", list(found))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// The directories it could be.
        found: Vec<PathBuf>,
    },
    /// It is a service of another kind.
    #[error("{0:?} is the directory of a metadata server, not of a chunk server; see list-services -C")]
    NotACs(PathBuf),
    /// It is a service of another kind.
    #[error("{0:?} is the directory of a chunk server, not of a metadata server; see list-services -M")]
    NotAnMds(PathBuf),
    /// systemd looks after the services.
    #[error(
        "systemd looks after the services of this host: add --no-systemd to do without it, or use\n  {commands}"
    )]
    Systemd {
        /// What to do instead.
        commands: String,
    },
    /// A file of ours cannot be used.
    #[error("cannot use {path:?}: {error}{}", if error.kind() == io::ErrorKind::PermissionDenied { "; run this as root" } else { "" })]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Somebody else starts or stops services right now.
    #[error(
        "another vstorage starts or stops services of cluster '{cluster}' right now; wait until it is done"
    )]
    Busy {
        /// The cluster.
        cluster: String,
    },
    /// Waiting for a process failed.
    #[error("cannot wait for the services: {0}")]
    Wait(#[source] io::Error),
}

fn list(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// A service of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// The cluster it is of.
    pub(crate) cluster: String,
    /// What it is.
    pub(crate) kind: ServiceKind,
    /// Its directory.
    pub(crate) dir: PathBuf,
}

impl Service {
    /// Its program.
    pub(crate) fn daemon(&self) -> Daemon {
        match self.kind {
            ServiceKind::Mds => Daemon::Mds,
            ServiceKind::Cs => Daemon::Cs,
        }
    }

    /// A name for its files that no other service has: its directory with `/` as `+`.
    pub(crate) fn file_stem(&self) -> String {
        let dir = self.dir.to_string_lossy();
        let mut name = String::new();
        for byte in dir.trim_matches('/').bytes() {
            match byte {
                b'/' => name.push('+'),
                byte if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-') => {
                    name.push(byte.into())
                }
                byte => name.push_str(&format!("%{byte:02x}")),
            }
        }
        // Names of files end at 255 bytes.
        const NAME_MAX: usize = 150;
        if name.len() > NAME_MAX {
            name = format!("{:08x}~{}", wire::crc::crc32c(dir.as_bytes()), &name[name.len() - NAME_MAX..]);
        }
        format!("{}.{}.{name}", self.cluster, self.kind.word())
    }
}

/// The services that are meant, in the order of the list.
///
/// # Errors
/// [`ServiceError`].
pub(crate) async fn select(cluster: &Cluster, wanted: &str) -> Result<Vec<Service>, ServiceError> {
    let listed = local_services(&cluster.dirs, &cluster.name)
        .await
        .map_err(|error| ServiceError::List { cluster: cluster.name.clone(), error })?;
    if listed.is_empty() {
        let path = cluster.dirs.services(&cluster.name);
        return Err(ServiceError::None { cluster: cluster.name.clone(), path });
    }
    choose(&cluster.name, &listed, wanted)
}

fn choose(cluster: &str, listed: &[LocalService], wanted: &str) -> Result<Vec<Service>, ServiceError> {
    let is_meant = |service: &&LocalService| match wanted {
        "all" => true,
        "mds" => service.kind == ServiceKind::Mds,
        "cs" => service.kind == ServiceKind::Cs,
        dir if dir.contains('/') => service.dir.components().eq(Path::new(dir).components()),
        name => service.dir.file_name().is_some_and(|last| last == name),
    };
    let meant: Vec<&LocalService> = listed.iter().filter(is_meant).collect();
    if meant.is_empty() {
        let known = listed.iter().map(|service| service.dir.clone()).collect();
        return Err(ServiceError::NoSuch { cluster: cluster.to_owned(), wanted: wanted.to_owned(), known });
    }
    if meant.len() > 1 && !matches!(wanted, "all" | "mds" | "cs") {
        let found = meant.iter().map(|service| service.dir.clone()).collect();
        return Err(ServiceError::Ambiguous { wanted: wanted.to_owned(), found });
    }
    let service =
        |one: &LocalService| Service { cluster: cluster.to_owned(), kind: one.kind, dir: one.dir.clone() };
    Ok(meant.into_iter().map(service).collect())
}

/// The units of the services.
const UNITS: [&str; 2] = ["vstorage-mdsd.target", "vstorage-csd.target"];
/// Where units may be, see systemd.unit(5).
const UNIT_DIRS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// Refuses where systemd looks after the services.
///
/// # Errors
/// [`ServiceError::Systemd`].
pub(crate) fn without_systemd(verb: &str, anyway: bool) -> Result<(), ServiceError> {
    if anyway || !systemd_has_units(Path::new("/")) {
        return Ok(());
    }
    Err(ServiceError::Systemd { commands: format!("systemctl {verb} {}", UNITS.join(" ")) })
}

/// Whether systemd runs and knows the services: without their units, as where the programs were copied by hand, they are
/// nobody's but ours.
fn systemd_has_units(root: &Path) -> bool {
    let has_unit = |dir: &str| UNITS.iter().any(|unit| root.join(dir).join(unit).exists());
    root.join("run/systemd/system").exists() && UNIT_DIRS.into_iter().any(has_unit)
}

/// The right to start and stop services of a cluster; ends when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: File,
}

impl Turn {
    /// Takes it, and makes the directories for logs and run-time files.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub(crate) fn take(cluster: &Cluster) -> Result<Self, ServiceError> {
        for dir in [&cluster.dirs.run, &cluster.dirs.log] {
            std::fs::create_dir_all(dir).map_err(|error| ServiceError::File { path: dir.clone(), error })?;
        }
        let path = cluster.dirs.run.join(format!("{}.lock", cluster.name));
        let opened = File::options().create(true).append(true).open(&path);
        let lock = opened.map_err(|error| ServiceError::File { path: path.clone(), error })?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(ServiceError::Busy { cluster: cluster.name.clone() }),
            Err(error) => Err(ServiceError::File { path, error: error.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed() -> Vec<LocalService> {
        let service = |kind, dir: &str| LocalService { kind, dir: dir.into() };
        vec![
            service(ServiceKind::Mds, "/vstorage/stor1-mds"),
            service(ServiceKind::Cs, "/vstorage/stor1-cs1"),
            service(ServiceKind::Cs, "/mnt/a/cs"),
            service(ServiceKind::Cs, "/mnt/b/cs"),
        ]
    }

    fn chosen(wanted: &str) -> Result<Vec<String>, String> {
        let services = choose("stor1", &listed(), wanted).map_err(|error| error.to_string())?;
        Ok(services.iter().map(|service| service.dir.display().to_string()).collect())
    }

    #[test]
    fn services_are_meant_by_kind_directory_or_name() {
        assert_eq!(chosen("all").unwrap().len(), 4);
        assert_eq!(chosen("mds").unwrap(), ["/vstorage/stor1-mds"]);
        assert_eq!(chosen("cs").unwrap().len(), 3, "the kind comes before a directory of that name");
        assert_eq!(chosen("stor1-cs1").unwrap(), ["/vstorage/stor1-cs1"]);
        assert_eq!(chosen("/mnt/b/cs").unwrap(), ["/mnt/b/cs"]);
        assert_eq!(chosen("/mnt/b//cs/").unwrap(), ["/mnt/b/cs"]);
        let unknown = chosen("stor1-cs9").unwrap_err();
        assert!(
            unknown.contains("\"stor1-cs9\"") && unknown.contains("/vstorage/stor1-cs1, /mnt/a/cs"),
            "{unknown}"
        );
    }

    #[test]
    fn systemd_looks_after_services_whose_units_it_has() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("lib/systemd/system")).unwrap();
        std::fs::write(root.path().join("lib/systemd/system/vstorage-csd.target"), "").unwrap();
        assert!(!systemd_has_units(root.path()), "it does not run");
        std::fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
        assert!(systemd_has_units(root.path()));
        std::fs::remove_file(root.path().join("lib/systemd/system/vstorage-csd.target")).unwrap();
        assert!(!systemd_has_units(root.path()), "it knows nothing of them");
    }

    #[test]
    fn a_name_of_two_directories_is_not_enough() {
        let service = |dir: &str| LocalService { kind: ServiceKind::Cs, dir: dir.into() };
        let error = choose("stor1", &[service("/a/one"), service("/b/one")], "one").unwrap_err();
        assert_eq!(error.to_string(), "\"one\" could be any of /a/one, /b/one; give the whole directory");
    }

    #[test]
    fn files_of_services_have_names_of_their_own() {
        let stem = |kind, dir: &str| Service { cluster: "stor1".into(), kind, dir: dir.into() }.file_stem();
        assert_eq!(stem(ServiceKind::Cs, "/vstorage/stor1-cs"), "stor1.cs.vstorage+stor1-cs");
        assert_eq!(stem(ServiceKind::Mds, "/a+b/c d"), "stor1.mds.a%2bb+c%20d");
        let (long, other) = (format!("/x{}", "/y".repeat(300)), format!("/z{}", "/y".repeat(300)));
        assert!(stem(ServiceKind::Cs, &long).len() < 250);
        assert_ne!(stem(ServiceKind::Cs, &long), stem(ServiceKind::Cs, &other));
    }
}
