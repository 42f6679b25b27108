//! `make`: a new cluster and its first metadata server.
//!
//! Everything that can be refused is checked before anything is touched. What is made is noted, and removed again if a later
//! step fails, so that nothing is left behind but a host id.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use link::cluster_dir::{HostDirs, ServiceKind, add_local_service, check_cluster_name};
use link::identity::{Identity, node_name};
use link::password::Verifier;
use link::{ClusterAuthority, ClusterId, Roles, ServerAddress};
use rt::net::{Address, Listener};

use super::MakeArgs;
use super::failure::Failure;
use super::password::{self, Password};
use super::settings::{self, Settings};
use crate::server::{self, FIRST_MDS_ID, Founding};
use crate::state::nodes::FOUNDER;

/// Longest name of a cluster.
const NAME_MAX: usize = 63;
/// Below this much free space there is a warning, in bytes.
const SPACE_WANTED: u64 = 10 << 30;
/// The authority of the cluster, beside the log. Whoever reads it can make himself a member.
pub(super) const AUTHORITY_FILE: &str = "ca.key";

/// What is to be made, as far as it can be checked without looking.
#[derive(Debug)]
pub(super) struct Plan {
    cluster: String,
    address: ServerAddress,
    dir: PathBuf,
    password: Option<Password>,
}

impl Plan {
    /// Checks the arguments, and reads the password.
    pub(super) fn of(args: MakeArgs) -> Result<Self, Failure> {
        check_cluster_name(&args.cluster)?;
        if args.cluster.len() > NAME_MAX || args.cluster.starts_with('-') {
            return Err(Failure::LongName(args.cluster));
        }
        if !args.init {
            return Err(Failure::NotInit);
        }
        let address = args.address.parse();
        let address = address.map_err(|error| Failure::Address { text: args.address.clone(), error })?;
        let dir = std::path::absolute(&args.repository).map_err(Failure::io("use", &args.repository))?;
        let password = args.password.then(|| password::read_line(io::stdin().lock())).transpose()?;
        Ok(Self { cluster: args.cluster, address, dir, password })
    }
}

pub(super) async fn make(plan: Plan) -> Result<(), Failure> {
    let dirs = HostDirs::from_environment();
    check_host(&dirs, &plan.cluster).await?;
    check_dir(&plan.dir).await?;
    let address = own_address(&plan.address).await?;
    warn_of_space(&plan.dir).await;

    let mut made = Made::default();
    match build(&plan, &dirs, address, &mut made).await {
        Ok(()) => {
            let Plan { cluster, dir, .. } = &plan;
            let _unread = writeln!(
                io::stdout(),
                "MDS#{FIRST_MDS_ID} made in {} for the new cluster {cluster:?}",
                dir.display()
            );
            Ok(())
        }
        Err(failure) => {
            made.remove();
            Err(failure)
        }
    }
}

/// Refuses a cluster that this host knows.
async fn check_host(dirs: &HostDirs, cluster: &str) -> Result<(), Failure> {
    for path in [dirs.credentials(cluster), dirs.services(cluster), dirs.bs_list(cluster)] {
        if rt::fs::exists(&path).await.map_err(Failure::io("look for", &path))? {
            return Err(Failure::ClusterExists { cluster: cluster.to_owned(), path });
        }
    }
    Ok(())
}

/// Refuses a directory that is used for something.
async fn check_dir(dir: &Path) -> Result<(), Failure> {
    match rt::fs::read_dir(dir).await {
        Ok(entries) => match entries.into_iter().next() {
            // What a file system of its own begins with.
            Some(entry) if entry.name != "lost+found" => {
                Err(Failure::NotEmpty { dir: dir.to_owned(), found: entry.name })
            }
            _ => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(Failure::NotADirectory(dir.to_owned()))
        }
        Err(error) => Err(Failure::io("read", dir)(error)),
    }
}

/// The address that is meant: one of this host's, with two free ports.
async fn own_address(wanted: &ServerAddress) -> Result<SocketAddr, Failure> {
    let resolve = |error| Failure::Resolve { host: wanted.host.clone(), error };
    let mut last = resolve(io::ErrorKind::NotFound.into());
    for address in wanted.for_servers().await.map_err(resolve)? {
        let Address::Tcp(address) = address else { continue };
        match check_ports(address) {
            Ok(()) => return Ok(address),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

fn check_ports(address: SocketAddr) -> Result<(), Failure> {
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(Failure::Unspecified(address.ip()));
    }
    for port in [address.port(), address.port().saturating_add(1)] {
        let address = SocketAddr::new(address.ip(), port);
        Listener::bind(&Address::Tcp(address)).map_err(|error| match error.kind() {
            io::ErrorKind::AddrNotAvailable => Failure::ForeignAddress(address.ip()),
            io::ErrorKind::AddrInUse => Failure::PortInUse(address),
            _ => Failure::Listen { address, error },
        })?;
    }
    Ok(())
}

async fn warn_of_space(dir: &Path) {
    // The directory itself may be still to be made.
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match rt::fs::space(there).await {
        Ok(space) if space.free < SPACE_WANTED => tracing::warn!(
            "{} has {} MiB free: 10 GiB should be free for metadata",
            there.display(),
            space.free >> 20
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!("cannot find out how much space {} has: {error}", there.display()),
    }
}

async fn build(plan: &Plan, dirs: &HostDirs, address: SocketAddr, made: &mut Made) -> Result<(), Failure> {
    let Plan { cluster, dir, .. } = plan;
    let host_id = dirs.host_id().await.map_err(Failure::io("find out the host id in", &dirs.etc))?;
    let authority = ClusterAuthority::create(cluster, ClusterId::random())?;
    let node = node_name(&rt::node::host_name());
    // The host that holds the authority needs nobody to renew its certificate: it has no end.
    let credentials = authority.issue_as(&Identity {
        cluster: authority.cluster(),
        node: node.clone(),
        host_id: host_id.clone(),
        roles: Roles::ALL,
        number: FOUNDER,
        until_h: 0,
    })?;
    let verifier = plan.password.as_ref().map(|password| Verifier::of(password, cluster));
    let verifier = verifier.transpose().map_err(password::PasswordError::from)?;
    let verifier = verifier.map(|verifier| verifier.to_bytes().to_vec());

    made.dir(dir, true)?;
    let founding = Founding { node: Some((node, host_id)), verifier };
    server::found(dir, authority.cluster().0, cluster, address, founding).await?;
    authority
        .save(&dir.join(AUTHORITY_FILE))
        .await
        .map_err(Failure::io("write", dir.join(AUTHORITY_FILE)))?;
    let settings = Settings { cluster: cluster.clone(), mds_id: FIRST_MDS_ID, address };
    write(&dir.join(settings::FILE), &settings.to_text()).await?;

    made.dir(&dirs.cluster(cluster), false)?;
    for file in [dirs.credentials(cluster), dirs.bs_list(cluster), dirs.services(cluster)] {
        made.files.push(file);
    }
    write(&dirs.bs_list(cluster), &format!("{}\n", plan.address)).await?;
    add_local_service(dirs, cluster, ServiceKind::Mds, dir)
        .await
        .map_err(Failure::io("write", dirs.services(cluster)))?;
    // Last: with it the host is a member.
    let path = dirs.credentials(cluster);
    credentials.save(&path).await.map_err(Failure::io("write", &path))
}

async fn write(path: &Path, text: &str) -> Result<(), Failure> {
    rt::fs::write_atomic(path, text.as_bytes()).await.map_err(Failure::io("write", path))
}

/// What was made so far.
#[derive(Debug, Default)]
struct Made {
    /// Directories that were not there, in the order of their making.
    dirs: Vec<PathBuf>,
    /// Directories that may have been there, empty, and of whose content all is ours.
    filled: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Made {
    /// Makes a directory and those above it.
    fn dir(&mut self, dir: &Path, ours: bool) -> Result<(), Failure> {
        let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
        for dir in missing.into_iter().rev() {
            std::fs::create_dir(dir).map_err(Failure::io("make the directory", dir))?;
            self.dirs.push(dir.to_owned());
            if let Some(parent) = dir.parent() {
                let synced = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
                synced.map_err(Failure::io("flush", parent))?;
            }
        }
        if ours {
            self.filled.push(dir.to_owned());
        }
        Ok(())
    }

    /// Removes it all. What cannot be removed is named.
    fn remove(self) {
        let note = |path: &Path, removed: io::Result<()>| match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!("cannot remove {} again: {error}", path.display());
            }
            _ => {}
        };
        for dir in &self.filled {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_name() == "lost+found" {
                    continue;
                }
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                note(
                    &path,
                    if is_dir { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) },
                );
            }
        }
        self.files.iter().for_each(|file| note(file, std::fs::remove_file(file)));
        self.dirs.iter().rev().for_each(|dir| note(dir, std::fs::remove_dir(dir)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_goes_and_what_was_there_stays() {
        let root = tempfile::tempdir().unwrap();
        let there = root.path().join("there");
        std::fs::create_dir(&there).unwrap();
        let (ours, list) = (there.join("a/b"), there.join("list"));
        let mut made = Made::default();
        made.dir(&there, false).unwrap();
        made.dir(&ours, true).unwrap();
        std::fs::write(ours.join("file"), "x").unwrap();
        std::fs::create_dir(ours.join("dir")).unwrap();
        std::fs::write(ours.join("dir/file"), "x").unwrap();
        std::fs::write(&list, "x").unwrap();
        made.files.push(list);
        made.files.push(there.join("never written"));
        made.remove();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(&there).unwrap().count(), 0);
    }
}
