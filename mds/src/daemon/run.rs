//! `run`: the daemon itself; `restored`: a directory that was put back from a copy; `password`: a forgotten password.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use link::cluster_dir::HostDirs;
use link::password::Verifier;
use link::{AuthorityError, ClusterAuthority, Credentials, CredentialsError};
use rt::signal::StopSignals;

use super::failure::Failure;
use super::make::AUTHORITY_FILE;
use super::password::{self, Password, PasswordError};
use super::settings::Settings;
use super::{RunArgs, vitals};
use crate::log::OpenError;
use crate::raft::StartError;
use crate::server::{
    RunningServer, ServerError, ServerOptions, accept_restored, reset_password, start_server,
};

/// How long to wait for the lock of a daemon that was killed: its last operation may still be under way.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Pause between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn run(args: RunArgs) -> Result<(), Failure> {
    let mut stop = StopSignals::listen().map_err(Failure::io("listen for", "SIGTERM"))?;
    let (dir, settings) = load(&args).await?;
    let credentials = credentials(&args.cluster).await?;
    let authority = authority(&dir).await?;
    let options = ServerOptions {
        vitals: Some(vitals::watch()),
        mark: Some(mark(&args.cluster)),
        authority,
        ..ServerOptions::default()
    };
    let running = open(&dir, credentials, settings.address, options).await?;
    let outcome = until_stopped(&mut stop, &running, settings.mds_id).await;
    running.stop().await;
    outcome
}

/// Accepts a directory that was put back from a copy.
pub(super) async fn restored(args: RunArgs) -> Result<(), Failure> {
    let (dir, _) = load(&args).await?;
    let credentials = credentials(&args.cluster).await?;
    let generation = accept_restored(&dir, &credentials, &mark(&args.cluster)).await?;
    let _unread = writeln!(
        io::stdout(),
        "{} is taken as the newest state of cluster {:?}: generation {generation}",
        dir.display(),
        args.cluster
    );
    Ok(())
}

/// The directory that is meant, and what it says about itself.
async fn load(args: &RunArgs) -> Result<(PathBuf, Settings), Failure> {
    let dir = std::path::absolute(&args.repository).map_err(Failure::io("use", &args.repository))?;
    let settings = Settings::load(&dir).await?;
    if settings.cluster != args.cluster {
        return Err(Failure::OtherCluster { dir, found: settings.cluster, expected: args.cluster.clone() });
    }
    Ok((dir, settings))
}

/// Where the newest reign is noted.
fn mark(cluster: &str) -> PathBuf {
    HostDirs::from_environment().cluster(cluster).join("mds.reign")
}

async fn credentials(cluster: &str) -> Result<Credentials, Failure> {
    let path = HostDirs::from_environment().credentials(cluster);
    let fail = |error| Failure::Credentials { cluster: cluster.to_owned(), path: path.clone(), error };
    let credentials = Credentials::load(&path).await.map_err(fail)?;
    credentials.check_validity().map_err(fail)?;
    Ok(credentials)
}

/// The authority of the cluster, which lies beside the log.
async fn authority(dir: &Path) -> Result<Option<Rc<ClusterAuthority>>, Failure> {
    if rt::fs::exists(&dir.join(password::OLD_FILE)).await.unwrap_or(false) {
        tracing::warn!(
            "{} was written by an earlier version and is not used: nobody can authenticate until the password is set anew, with \
             `vstorage-mdsd password` while this server is stopped; that removes the file",
            dir.join(password::OLD_FILE).display()
        );
    }
    let path = dir.join(AUTHORITY_FILE);
    match ClusterAuthority::load(&path).await {
        Ok(authority) => Ok(Some(Rc::new(authority))),
        Err(AuthorityError::Credentials(CredentialsError::Read(error)))
            if error.kind() == io::ErrorKind::NotFound =>
        {
            tracing::error!(
                "{} is missing: no host can join the cluster, and none can be revoked; restore the file from a backup",
                path.display()
            );
            Ok(None)
        }
        Err(error) => Err(Failure::BadAuthority { path, error }),
    }
}

/// Sets the password of the cluster.
pub(super) async fn set_password(args: RunArgs, password: &Password) -> Result<(), Failure> {
    let (dir, _) = load(&args).await?;
    let credentials = credentials(&args.cluster).await?;
    let verifier = Verifier::of(password, &args.cluster).map_err(PasswordError::from)?;
    reset_password(&dir, &credentials, verifier.to_bytes().to_vec()).await?;
    let old = dir.join(password::OLD_FILE);
    match std::fs::remove_file(&old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("cannot remove {}, which is not used any more: {error}", old.display());
        }
        _ => {}
    }
    let _unread = writeln!(io::stdout(), "the password of cluster {:?} is set", args.cluster);
    Ok(())
}

/// Opens the server, waiting a little for the lock of one that was killed.
async fn open(
    dir: &Path,
    credentials: Credentials,
    address: SocketAddr,
    options: ServerOptions,
) -> Result<RunningServer, Failure> {
    let deadline = rt::time::now() + LOCK_PATIENCE;
    loop {
        match start_server(dir, credentials.clone(), address, options.clone()).await {
            Err(ServerError::Start(StartError::Open(OpenError::InUse(_)))) if rt::time::now() < deadline => {
                rt::time::sleep(LOCK_PAUSE).await;
            }
            other => return Ok(other?),
        }
    }
}

/// Waits for a request to stop, or for the server to fail; says when it is the master.
async fn until_stopped(stop: &mut StopSignals, running: &RunningServer, mds_id: u64) -> Result<(), Failure> {
    let mut signal = std::pin::pin!(stop.next());
    let mut failed = std::pin::pin!(running.failed());
    let mut master = std::pin::pin!(running.master());
    let mut announced = false;
    std::future::poll_fn(|cx| {
        if !announced && master.as_mut().poll(cx).is_ready() {
            announced = true;
            // Nobody need be there to read it.
            let _unread = writeln!(io::stdout(), "ready: MDS#{mds_id} at {} (master)", running.address());
        }
        if let Poll::Ready(signal) = signal.as_mut().poll(cx) {
            let number = signal.map_err(Failure::io("wait for", "signals"));
            return Poll::Ready(number.map(|number| tracing::info!("stopping on signal {number}")));
        }
        failed.as_mut().poll(cx).map(|error| Err(error.into()))
    })
    .await
}
