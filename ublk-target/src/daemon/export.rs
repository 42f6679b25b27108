//! `nbd`: from the command line to the orderly stop.

use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use client::state::{self, Lock, StateDir};
use client::{HostCluster, Membership, MembershipError, OpenOptions, Servers, Volume};
use link::{Endpoint, Expect, Keep, Master};
use rt::net::Listener;
use rt::signal::StopSignals;
use wire::hello::Role;
use wire::session::ClientKind;

use super::args::Nbd;
use super::failure::Failure;
use super::signals::Signals;
use super::socket::{self, Claim};
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
    let signals = Signals::start(signals);
    let cluster = HostCluster::load(nbd.cluster.as_str()).await?;
    match signals.unless_stopped(Export::open(&nbd, cluster)).await {
        Some(export) => export?.serve(&nbd, &signals).await,
        None => {
            tracing::info!("stopped before the volume was open");
            Ok(())
        }
    }
}

/// A volume that is open, and the sockets it will be served on.
struct Export {
    volume: Volume,
    session: Membership,
    endpoint: Endpoint,
    sockets: Sockets,
    /// Of the one writer.
    _lock: Option<Lock>,
}

impl Export {
    /// Takes the places to listen at, then the lease.
    async fn open(nbd: &Nbd, cluster: HostCluster) -> Result<Self, Failure> {
        let HostCluster { dirs, endpoint, servers } = cluster;
        let (name, path) = (nbd.cluster.as_str(), nbd.path.as_str());
        let state = StateDir::open(&dirs.run, "ublkd").await?;
        let sockets = Sockets::open(nbd, &state).await?;
        let lock = match nbd.read_only {
            true => None,
            false => {
                let what = format!("{path} of cluster '{name}'");
                Some(state.lock(&state::volume_name(name, path), &what).await?)
            }
        };
        let file = (!nbd.read_only).then(|| state.session(name, path));
        let master = Rc::new(Master::new(&endpoint, servers, Keep::new(Expect::role(Role::Mds))));
        let list = dirs.bs_list(name);
        let session = Membership::begin(master, ClientKind::Nbd, file, nbd.wait()).await;
        let session = session.map_err(|error| match error {
            MembershipError::State(error) => error.into(),
            MembershipError::Ask(error) => Failure::session(nbd, list.clone(), error),
        })?;
        let servers = Servers::with_limits(endpoint.clone(), nbd.failure_limits());
        let options = OpenOptions { write: !nbd.read_only, patience: nbd.wait() };
        match Volume::open(session.session(), &servers, path, &options).await {
            Ok(volume) => Ok(Self { volume, session, endpoint, sockets, _lock: lock }),
            Err(error) => {
                session.end().await;
                Err(Failure::open(nbd, list, error))
            }
        }
    }

    /// Serves clients until told to stop; then closes everything in order.
    async fn serve(self, nbd: &Nbd, signals: &Signals) -> Result<(), Failure> {
        let Self { volume, session, endpoint, sockets, _lock } = self;
        let Sockets { listeners, uris, _claim } = sockets;
        if let Some(address) = nbd.listen.filter(|listen| !listen.ip().is_loopback()) {
            eprintln!(
                "vstorage-ublkd: warning: {address} can be reached from other machines; whoever reaches it can use the \
                 volume, since NBD has neither passwords nor encryption"
            );
        }
        let serving = serve(listeners, Rc::new(volume.clone()), nbd.serve_options(), signals.stopped());
        let ready = format!("ready: {} (size {})", uris.join(" "), volume.size());
        tracing::info!("{ready}");
        let mut out = std::io::stdout();
        // Whoever started us may have stopped listening.
        let _unheard = writeln!(out, "{ready}").and_then(|()| out.flush());
        let served = match serving.await {
            Ok(served) => served,
            Err(error) => unreachable!("name and description have been checked: {error}"),
        };
        tracing::info!("stopping; {} clients were served", served.connections);
        let path = nbd.path.as_str();
        let closing = async {
            close(&volume, served, path).await?;
            session.end().await;
            endpoint.close().await;
            tracing::info!("stopped in order");
            Ok(())
        };
        let closed = signals.unless_stopped_again(closing).await;
        closed.unwrap_or_else(|| Err(Failure::Impatient { path: path.to_owned() }))
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

/// The sockets of the command line.
struct Sockets {
    listeners: Vec<Listener>,
    uris: Vec<String>,
    _claim: Option<Claim>,
}

impl Sockets {
    async fn open(nbd: &Nbd, state: &StateDir) -> Result<Self, Failure> {
        let mut sockets = Self { listeners: Vec::new(), uris: Vec::new(), _claim: None };
        if let Some(path) = &nbd.socket {
            let (listener, claim) = socket::listen_unix(state, path.as_path(), nbd.socket_mode).await?;
            sockets.listeners.push(listener);
            sockets.uris.push(uri::unix(path.as_path(), &nbd.name));
            sockets._claim = Some(claim);
        }
        if let Some(address) = nbd.listen {
            let (listener, bound) = socket::listen_tcp(address).await?;
            sockets.listeners.push(listener);
            sockets.uris.push(uri::tcp(bound, &nbd.name));
        }
        Ok(sockets)
    }
}
