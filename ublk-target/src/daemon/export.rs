//! `nbd`: from the command line to the orderly stop.

use std::future::Future;
use std::io::Write;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use client::{OpenOptions, Servers, Session, SessionOptions, Volume};
use link::cluster_dir::HostDirs;
use link::servers::parse_list;
use link::{Change, Credentials, CredentialsError, Endpoint, Expect, Keep, LocalHello, Master, Options, ServerAddress};
use rt::net::Listener;
use rt::signal::StopSignals;
use wire::hello::Role;
use wire::session::ClientKind;

use super::args::Nbd;
use super::failure::Failure;
use super::socket::{self, Claim};
use super::state::{self, Lock, SessionFile, StateDir, Stored};
use super::uri;
use crate::nbd::{Served, serve};

/// How long the last flush and giving the lease back may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs until told to stop.
///
/// # Errors
/// [`Failure`].
pub(super) async fn run(nbd: Nbd) -> Result<(), Failure> {
    let signals = StopSignals::listen().map_err(Failure::system("cannot listen for SIGTERM"))?;
    let signals = Rc::new(Signals::start(signals));
    let cluster = Cluster::load(&nbd).await?;
    let started = match signals.unless_stopped(Export::open(&nbd, cluster)).await {
        Some(started) => started?,
        None => {
            tracing::info!("stopped before the volume was open");
            return Ok(());
        }
    };
    started.serve(&nbd, &signals).await
}

/// What this host knows of the cluster.
struct Cluster {
    dirs: HostDirs,
    endpoint: Endpoint,
    servers: Vec<ServerAddress>,
}

impl Cluster {
    /// Reads it, and changes nothing.
    async fn load(nbd: &Nbd) -> Result<Self, Failure> {
        let dirs = HostDirs::from_environment();
        let cluster = nbd.cluster.as_str();
        let path = dirs.credentials(cluster);
        let credentials = match Credentials::load(&path).await {
            Ok(credentials) => credentials,
            Err(CredentialsError::Read(error)) if error.kind() == std::io::ErrorKind::NotFound => {
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
        let endpoint =
            Endpoint::new(credentials, hello, Options::default()).map_err(|error| Failure::Tls { path, error })?;
        let servers = Self::list(&dirs, cluster).await?;
        Ok(Self { dirs, endpoint, servers })
    }

    async fn list(dirs: &HostDirs, cluster: &str) -> Result<Vec<ServerAddress>, Failure> {
        let path = dirs.bs_list(cluster);
        let bytes = match rt::fs::read(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::NoList { cluster: cluster.to_owned(), path });
            }
            Err(error) => return Err(Failure::Unreadable { path, error }),
        };
        let servers = parse_list(&String::from_utf8_lossy(&bytes));
        let servers = servers.map_err(|error| Failure::BadList { path: path.clone(), error })?;
        if servers.is_empty() { Err(Failure::EmptyList(path)) } else { Ok(servers) }
    }
}

/// A volume that is open, and the sockets it will be served on.
struct Export {
    volume: Volume,
    session: Rc<Session>,
    /// Stores the session's key whenever it changes.
    keeper: Option<(rt::JoinHandle<()>, SessionFile)>,
    endpoint: Endpoint,
    listeners: Vec<Listener>,
    uris: Vec<String>,
    _claim: Option<Claim>,
    _lock: Option<Lock>,
}

impl Export {
    /// Takes the places to listen at, then the lease.
    async fn open(nbd: &Nbd, cluster: Cluster) -> Result<Self, Failure> {
        let Cluster { dirs, endpoint, servers } = cluster;
        let state = StateDir::open(&dirs.run).await?;
        let (cluster_name, path) = (nbd.cluster.as_str(), nbd.path.as_str());
        let mut sockets = Sockets::default();
        sockets.open(nbd, &state).await?;
        let (lock, file) = if nbd.read_only {
            (None, None)
        } else {
            let what = format!("{path} of cluster '{cluster_name}'");
            let lock = state.lock(&state::volume_name(cluster_name, path), &what).await?;
            (Some(lock), Some(state.session(cluster_name, path)))
        };
        let list = dirs.bs_list(cluster_name);
        let keep = Keep::new(Expect::role(Role::Mds)).observed(|change| match change {
            Change::Up(connection) => tracing::info!("connected to the metadata server at {}", connection.peer().address),
            Change::Down(reason) => tracing::warn!("lost the metadata server: {reason}"),
            Change::Failed(error) => tracing::warn!("cannot connect to a metadata server: {error}"),
        });
        let master = Rc::new(Master::new(&endpoint, servers, keep));
        let (session, keeper) = Self::begin(nbd, master, file)
            .await?
            .map_err(|error| Failure::session(nbd, list.clone(), error))?;
        let servers = Servers::new(endpoint.clone());
        let options = OpenOptions { write: !nbd.read_only, patience: nbd.wait() };
        let volume = match Volume::open(&session, &servers, path, &options).await {
            Ok(volume) => volume,
            Err(error) => {
                let failure = Failure::open(nbd, list, error);
                // Nothing is held by it; left alone it would end by itself.
                end_session(&session, keeper).await;
                return Err(failure);
            }
        };
        let Sockets { listeners, uris, claim } = sockets;
        Ok(Self { volume, session, keeper, endpoint, listeners, uris, _claim: claim, _lock: lock })
    }

    /// Opens the session, as the client that an earlier daemon for the same volume was (C1).
    async fn begin(
        nbd: &Nbd,
        master: Rc<Master>,
        file: Option<SessionFile>,
    ) -> Result<Result<(Rc<Session>, Option<(rt::JoinHandle<()>, SessionFile)>), link::AskError>, Failure> {
        let stored = match &file {
            Some(file) => file.load().await?,
            None => None,
        };
        let client_uuid = stored.as_ref().map_or_else(new_uuid, |stored| stored.client_uuid);
        let options = SessionOptions {
            client_uuid,
            kind: ClientKind::Nbd,
            resume: stored.map(|stored| stored.key),
            patience: nbd.wait(),
        };
        let session = match Session::open(master, options).await {
            Ok(session) => session,
            Err(error) => return Ok(Err(error)),
        };
        let Some(file) = file else { return Ok(Ok((session, None))) };
        let mut stored = Stored { client_uuid, key: session.key() };
        // Before the lease is taken, so that it can be taken over.
        file.save(&stored).await?;
        let theirs = file.clone();
        let watched = Rc::clone(&session);
        let keeper = rt::spawn(async move {
            loop {
                stored.key = watched.key_changed(&stored.key).await;
                if let Err(error) = theirs.save(&stored).await {
                    tracing::error!("a restarted daemon will have to wait for the lease to end: {error}");
                }
            }
        });
        Ok(Ok((session, Some((keeper, file)))))
    }

    /// Serves clients until told to stop; then closes everything in order.
    async fn serve(self, nbd: &Nbd, signals: &Rc<Signals>) -> Result<(), Failure> {
        let Self { volume, session, keeper, endpoint, listeners, uris, .. } = self;
        if let Some(address) = nbd.listen.filter(|listen| !listen.ip().is_loopback()) {
            let warning = format!("warning: NBD has neither passwords nor encryption, and {address} is not the loopback");
            tracing::warn!("{warning}");
            eprintln!("{warning}");
        }
        let serving = serve(listeners, Rc::new(volume.clone()), nbd.serve_options(), signals.stopped());
        let ready = format!("ready: {} (size {})", uris.join(" "), volume.size());
        tracing::info!("{ready}");
        // Whoever started us may have stopped listening.
        let mut out = std::io::stdout();
        let _unheard = writeln!(out, "{ready}").and_then(|()| out.flush());
        let served = serving.await.unwrap_or_else(|error| unreachable!("the name was checked before: {error}"));
        tracing::info!("stopping; {} clients were served", served.connections);
        let path = nbd.path.as_str().to_owned();
        let closing = async {
            let outcome = close(&volume, served, &path).await;
            end_session(&session, keeper).await;
            endpoint.close().await;
            outcome
        };
        let outcome = match signals.unless_stopped_again(closing).await {
            Some(outcome) => outcome,
            None => Err(Failure::Impatient { path }),
        };
        if outcome.is_ok() {
            tracing::info!("stopped in order");
        }
        outcome
    }
}

/// Flushes and gives the lease back.
async fn close(volume: &Volume, served: Served, path: &str) -> Result<(), Failure> {
    let unfinished = || Failure::Unfinished { path: path.to_owned(), unfinished: served.unfinished };
    if served.unfinished > 0 {
        return Err(unfinished());
    }
    match rt::time::timeout(CLOSE_TIMEOUT, volume.close()).await {
        Ok(closed) => closed.map_err(|error| Failure::Close { path: path.to_owned(), error }),
        Err(_) => Err(unfinished()),
    }
}
