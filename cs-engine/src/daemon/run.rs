//! `run`: the daemon itself.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use link::ClusterId;
use link::cluster_dir::HostDirs;
use rt::net::{Address, Listener};
use rt::signal::StopSignals;

use super::control::Control;
use super::discovery::Servers;
use super::obituary::Obituary;
use super::{Failure, RunArgs, endpoint};
use crate::engine::{self, Engine, EngineOptions, OpenError};
use crate::server::{Registrar, RegistrarOptions, Server};

/// How long to wait for the lock of a daemon that was killed: its last operation may still be under way.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let mut stop = StopSignals::listen().map_err(Failure::io("cannot listen for SIGTERM"))?;
    // One wait for all of it: a signal that comes between two would be lost.
    let mut stop = std::pin::pin!(stop.next());
    let dirs = HostDirs::from_environment();
    let host_id = dirs.host_id().await.map_err(Failure::io("cannot find out the host id"))?;
    let dir = std::path::absolute(&args.repository).map_err(Failure::io("bad path"))?;
    let obituary = Obituary { dirs: &dirs, cluster: &args.cluster, host_id: &host_id, dir: &dir };
    let mut lock = match locked(&dir).await {
        Ok(lock) => lock,
        Err(error) => return Err(obituary.publish(None, error).await),
    };
    let superblock = match engine::read_superblock(&dir, &lock).await {
        Ok(superblock) => superblock,
        Err(error) => return Err(obituary.publish(None, error).await),
    };
    let endpoint = endpoint(&dirs, &args.cluster, superblock.cs_id).await?;
    let servers = Servers::load(&dirs, &args.cluster).await?;
    let expected_id = endpoint.credentials().identity().cluster;
    let found_id = ClusterId(superblock.cluster);
    if found_id != expected_id {
        let (found, expected) = (superblock.cluster_name, args.cluster);
        return Err(Failure::OtherCluster { dir, found, found_id, expected, expected_id });
    }
    let Some(mds) = unless_stopped(stop.as_mut(), servers.wait()).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let options = EngineOptions { pages_max: args.cache << 8, ..EngineOptions::default() };
    let deadline = rt::time::now() + LOCK_PATIENCE;
    let opened = loop {
        match Engine::open(&dir, lock, options.clone()).await {
            // The lock of a journal may outlive that of the superblock.
            Err(OpenError::InUse(_)) if rt::time::now() < deadline => {
                rt::time::sleep(LOCK_PAUSE).await;
                lock = match locked(&dir).await {
                    Ok(lock) => lock,
                    Err(error) => break Err(error),
                };
            }
            opened => break opened,
        }
    };
    let engine = match opened {
        Ok(engine) => engine,
        Err(error) => return Err(obituary.publish(Some(&superblock), error).await),
    };
    let boot_id = rt::node::boot_id().map_err(Failure::io("cannot read the boot id"))?;
    let server = Server::new(Rc::clone(&engine), boot_id);
    let (listener, reachable) = listen(&superblock.listen, &mds)?;
    let serving = rt::spawn({
        let (endpoint, server) = (endpoint.clone(), Rc::clone(&server));
        async move { endpoint.serve(listener, server).await }
    });
    let known = mds.clone();
    let registrar = Rc::new(Registrar::new(
        Rc::clone(&server),
        endpoint.clone(),
        RegistrarOptions { mds, addresses: vec![reachable.to_string()], host_id, path: dir.clone() },
    ));
    let following = rt::spawn(servers.follow(Rc::clone(&registrar), known));
    let mut registering = rt::spawn(async move { registrar.run().await });
    let ready = rt::spawn({
        let server = Rc::clone(&server);
        async move {
            server.serving().await;
            println!("ready: CS#{} at {reachable}", server.engine().superblock().cs_id);
        }
    });
    let controlling = match Control::listen(&dir) {
        Ok(control) => Some(rt::spawn(control.serve(Rc::clone(&engine)))),
        Err(error) => {
            // Clients do not need it.
            tracing::error!(
                "no commands can reach this chunk server: cannot make its control socket: {error}"
            );
            None
        }
    };
    let outcome = until_stopped(stop, &mut registering).await;
    if let Some(controlling) = controlling {
        controlling.abort();
    }
    // First, so that a server that is leaving does not register again.
    following.abort();
    registering.abort();
    ready.abort();
    serving.abort();
    endpoint.close().await;
    engine.stop().await;
    outcome
}

/// Waits for a request to stop, or for the registrar to give up.
async fn until_stopped(
    mut signal: Pin<&mut impl Future<Output = std::io::Result<i32>>>,
    registering: &mut rt::JoinHandle<Result<(), crate::server::RegistrationError>>,
) -> Result<ExitCode, Failure> {
    let mut registering = std::pin::pin!(registering);
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(signal) = signal.as_mut().poll(cx) {
            let outcome = signal.map_err(Failure::io("waiting for signals"));
            return std::task::Poll::Ready(outcome.map(|number| {
                tracing::info!("stopping on signal {number}");
                ExitCode::SUCCESS
            }));
        }
        match registering.as_mut().poll(cx) {
            std::task::Poll::Ready(Ok(Err(error))) => std::task::Poll::Ready(Err(error.into())),
            std::task::Poll::Ready(_) => std::task::Poll::Ready(Ok(ExitCode::FAILURE)),
            std::task::Poll::Pending => std::task::Poll::Pending,
        }
    })
    .await
}

/// What comes of `work`; nothing if we are asked to stop before.
async fn unless_stopped<T>(
    mut signal: Pin<&mut impl Future<Output = std::io::Result<i32>>>,
    work: impl Future<Output = T>,
) -> Result<Option<T>, Failure> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(signal) = signal.as_mut().poll(cx) {
            return std::task::Poll::Ready(signal.map(|_| None).map_err(Failure::io("waiting for signals")));
        }
        work.as_mut().poll(cx).map(|done| Ok(Some(done)))
    })
    .await
}

async fn locked(dir: &Path) -> Result<rt::fs::File, OpenError> {
    let deadline = rt::time::now() + LOCK_PATIENCE;
    loop {
        match engine::lock_directory(dir).await {
            Err(OpenError::InUse(_)) if rt::time::now() < deadline => rt::time::sleep(LOCK_PAUSE).await,
            other => return other,
        }
    }
}

/// Listens where `-a` said, or at any port of the address from which the metadata servers see this host.
fn listen(configured: &str, mds: &[Address]) -> Result<(Listener, SocketAddr), Failure> {
    let wanted = match configured.parse::<SocketAddr>() {
        Ok(address) => address,
        Err(_) => SocketAddr::new(local_address(mds).map_err(Failure::io("cannot find out our address"))?, 0),
    };
    let address = Address::Tcp(wanted);
    let fail = |error| Failure::Listen { address: address.clone(), error };
    let listener = Listener::bind(&address).map_err(fail)?;
    match listener.local_address().map_err(fail)? {
        Address::Tcp(bound) => Ok((listener, bound)),
        Address::Unix(_) => unreachable!("a TCP socket has a TCP address"),
    }
}

/// The address of ours that the kernel would use towards a metadata server; nothing is sent.
fn local_address(mds: &[Address]) -> std::io::Result<IpAddr> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in mds {
        let Address::Tcp(address) = address else { continue };
        let any: SocketAddr =
            if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let probe = UdpSocket::bind(any).and_then(|socket| {
            socket.connect(address)?;
            socket.local_addr()
        });
        match probe {
            Ok(local) => return Ok(local.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}
