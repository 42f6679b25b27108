//! Where the daemon listens: taking a place that is free, and no other.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::state::{self, Lock, StateDir, StateError};
use rt::net::{Address, Listener};
use rustix::fs::Mode;

/// How long a server may take to greet, which tells that it lives.
const PROBE_TIMEOUT: Duration = Duration::from_millis(300);
/// How long the kernel may take to clear up after a server that was killed, before its place counts as taken.
const DEATH_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks.
const DEATH_PAUSE: Duration = Duration::from_millis(10);

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    /// The run-time directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// A server listens there.
    #[error("another server listens on {0:?}; stop it first, or choose another --socket")]
    Live(PathBuf),
    /// Something else is there.
    #[error("{0:?} exists and is no socket; choose another --socket, or remove it if nobody needs it")]
    Foreign(PathBuf),
    /// The directory is missing.
    #[error("{0:?} does not exist; make this directory first, or choose another --socket")]
    NoDirectory(PathBuf),
    /// The file system says no.
    #[error("cannot make the socket {path:?}: {error}")]
    Path {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The port is taken.
    #[error("another program listens at {0}; choose another port (`ss -ltnp` shows who has which)")]
    PortInUse(SocketAddr),
    /// The address is none of this host.
    #[error("{0} is no address of this host; `ip address` shows which there are")]
    NotOurs(SocketAddr),
    /// The kernel says no.
    #[error("cannot listen at {address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// A Unix socket of ours. Its file goes when this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    _lock: Lock,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Nobody else has replaced it: we hold the lock. If it cannot be removed, the next server does it.
        let _left = std::fs::remove_file(&self.path);
    }
}

/// Listens on a Unix socket that only those may use whom `mode` allows.
///
/// # Errors
/// [`SocketError`].
pub(super) async fn listen_unix(
    state: &StateDir,
    path: &Path,
    mode: u32,
) -> Result<(Listener, Claim), SocketError> {
    // Quicker than waiting for the lock, and true for servers that know nothing of it.
    is_free(path).await?;
    let what = format!("the socket {}", path.display());
    let lock = state.lock(&state::socket_name(path), &what).await?;
    let fail = |error| SocketError::Path { path: path.to_owned(), error };
    if is_free(path).await? {
        std::fs::remove_file(path).map_err(fail)?;
        tracing::info!("removed {}, which a dead server had left behind", path.display());
    }
    // The socket must not be open to others even for a moment. Nothing else makes files meanwhile.
    let before = rustix::process::umask(Mode::from_raw_mode(!mode & 0o777));
    let bound = Listener::bind(&Address::Unix(path.to_owned()));
    rustix::process::umask(before);
    Ok((bound.map_err(fail)?, Claim { path: path.to_owned(), _lock: lock }))
}

/// Whether there is a dead socket in the way; an error if anything else is.
async fn is_free(path: &Path) -> Result<bool, SocketError> {
    let fail = |error| SocketError::Path { path: path.to_owned(), error };
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(Path::new("/"));
            return match directory.is_dir() {
                true => Ok(false),
                false => Err(SocketError::NoDirectory(directory.to_owned())),
            };
        }
        Err(error) => return Err(fail(error)),
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::Foreign(path.to_owned()));
    }
    let deadline = rt::time::now() + DEATH_PATIENCE;
    loop {
        match probe(path).await.map_err(fail)? {
            Probe::Gone => return Ok(false),
            Probe::Dead => return Ok(true),
            Probe::Dying if rt::time::now() < deadline => rt::time::sleep(DEATH_PAUSE).await,
            Probe::Dying | Probe::Live => return Err(SocketError::Live(path.to_owned())),
        }
    }
}

/// What a socket looks like to a client.
enum Probe {
    /// It has vanished.
    Gone,
    /// Nobody listens.
    Dead,
    /// It takes connections only to drop them, as the kernel does while it clears up after a server that was killed.
    Dying,
    /// Somebody listens.
    Live,
}

async fn probe(path: &Path) -> io::Result<Probe> {
    let talk = async {
        let (mut reader, writer) = rt::net::connect(&Address::Unix(path.to_owned())).await?;
        let greeting = reader.recv().await;
        drop(writer);
        Ok::<_, io::Error>(match greeting {
            Ok(Some(_)) => Probe::Live,
            Ok(None) | Err(_) => Probe::Dying,
        })
    };
    match rt::time::timeout(PROBE_TIMEOUT, talk).await {
        Ok(Ok(seen)) => Ok(seen),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Probe::Dead),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Probe::Gone),
        Ok(Err(error)) => Err(error),
        // Too busy to accept, or waiting for the client to speak first.
        Err(_) => Ok(Probe::Live),
    }
}

/// Listens on a TCP port.
///
/// # Errors
/// [`SocketError`].
pub(super) async fn listen_tcp(address: SocketAddr) -> Result<(Listener, SocketAddr), SocketError> {
    let fail = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => SocketError::PortInUse(address),
        io::ErrorKind::AddrNotAvailable => SocketError::NotOurs(address),
        _ => SocketError::Listen { address, error },
    };
    let deadline = rt::time::now() + DEATH_PATIENCE;
    let listener = loop {
        match Listener::bind(&Address::Tcp(address)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && rt::time::now() < deadline => {
                rt::time::sleep(DEATH_PAUSE).await;
            }
            bound => break bound.map_err(fail)?,
        }
    };
    match listener.local_address().map_err(fail)? {
        Address::Tcp(bound) => Ok((listener, bound)),
        Address::Unix(_) => unreachable!("a TCP socket has a TCP address"),
    }
}
