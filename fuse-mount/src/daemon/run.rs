//! From the command line to the orderly end.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use client::state::{StateDir, volume_name};
use client::{HostCluster, Membership, MembershipError, Servers};
use link::{AskError, Expect, Keep, Master};
use rt::signal::StopSignals;
use wire::hello::Role;
use wire::session::ClientKind;

use super::args::Mounting;
use super::background;
use super::failure::Failure;
use super::mount;
use crate::fs::{Behaviour, Fs};
use crate::kernel::Device;
use crate::race::{First, race};

/// How long programs that have files open may go on with them once the daemon is told to stop.
const GRACE: Duration = Duration::from_secs(2);
/// How long requests that are under way then may take.
const SETTLE: Duration = Duration::from_secs(30);

/// Mounts, serves until unmounted or told to stop, and ends in order.
///
/// # Errors
/// [`Failure`].
pub(super) async fn run(mounting: &Mounting, detached: bool) -> Result<(), Failure> {
    if detached {
        background::leave().map_err(Failure::system("cannot leave the terminal's session"))?;
    }
    let mut signals = StopSignals::listen().map_err(Failure::system("cannot listen for SIGTERM"))?;
    let dir = mount::resolve(&mounting.dir)?;
    let HostCluster { dirs, endpoint, servers } = HostCluster::load(&mounting.cluster).await?;
    let state = StateDir::open(&dirs.run, "mount").await?;
    let place = dir.display().to_string();
    let name = volume_name(&mounting.cluster, &place);
    let _lock = state.lock(&name, &format!("{place} (cluster '{}')", mounting.cluster)).await?;
    mount::clear(&dir)?;
    let master = Rc::new(Master::new(&endpoint, servers, Keep::new(Expect::role(Role::Mds))));
    let file = state.session(&mounting.cluster, &place);
    let patient = |error| no_session(mounting, dirs.bs_list(&mounting.cluster), error);
    let membership = Membership::begin(master, ClientKind::Mount, Some(file), mounting.wait).await;
    let membership = membership.map_err(|error| match error {
        MembershipError::State(error) => error.into(),
        MembershipError::Ask(error) => patient(error),
    })?;
    let servers = Servers::with_limits(endpoint.clone(), mounting.options.limits);
    let fs =
        Fs::open(Rc::clone(membership.session()), servers, behaviour(mounting)).await.map_err(patient)?;
    let device = mount::mount(&mounting.cluster, &dir, &mounting.options)?;
    tracing::info!("cluster '{}' is mounted at {}", mounting.cluster, dir.display());
    if detached {
        background::say_mounted().map_err(Failure::system("cannot let go of the terminal"))?;
    } else {
        println!("ready: {place}");
    }
    let told_to_stop = {
        let serving = pin!(fs.serve(&device));
        match race(serving, pin!(signals.next())).await {
            First::Left(served) => {
                served.map_err(Failure::system("cannot read the kernel's requests"))?;
                false
            }
            First::Right(_) => true,
        }
    };
    let mut ending = pin!(async {
        if told_to_stop {
            stop(&fs, &device, &dir).await;
        }
        if rt::time::timeout(SETTLE, fs.settle()).await.is_err() {
            tracing::warn!("requests are under way that chunk servers do not answer");
        }
        let files = match rt::time::timeout(SETTLE, fs.close()).await {
            Ok(files) => files,
            Err(_) => fs.open_files(),
        };
        membership.end().await;
        endpoint.close().await;
        if files == 0 { Ok(()) } else { Err(Failure::Unfinished { files }) }
    });
    let ended = match race(ending.as_mut(), pin!(signals.next())).await {
        First::Left(ended) => ended,
        First::Right(_) => Err(Failure::Impatient),
    };
    tracing::info!("cluster '{}' is no longer mounted at {}", mounting.cluster, dir.display());
    ended
}

/// Told to stop: what programs have written is fetched from the kernel, the mount goes, and those who have files open
/// get a moment.
async fn stop(fs: &Rc<Fs>, device: &Rc<Device>, dir: &std::path::Path) {
    let written = {
        let dir = dir.to_owned();
        rt::blocking::run(move || mount::write_back(&dir).and_then(|()| mount::unmount(&dir)))
    };
    let mut serving = pin!(fs.serve(device));
    // Answered by ourselves meanwhile.
    let written = race(serving.as_mut(), pin!(rt::time::timeout(SETTLE, written))).await;
    match written {
        First::Left(_) => return,
        First::Right(Ok(Ok(Ok(())))) => {}
        First::Right(outcome) => {
            tracing::warn!("unmounting {}: {outcome:?}", dir.display());
            if let Err(error) = mount::unmount(dir) {
                tracing::warn!("unmounting {}: {error}", dir.display());
            }
        }
    }
    if rt::time::timeout(GRACE, serving).await.is_err() {
        tracing::warn!("programs still have files open below {}; they lose them", dir.display());
    }
}

fn behaviour(mounting: &Mounting) -> Behaviour {
    let options = &mounting.options;
    Behaviour {
        read_only: options.read_only,
        direct: options.direct,
        writeback: options.writeback,
        fails_when_full: options.fails_when_full,
        patience: mounting.wait,
    }
}

/// Why the metadata servers gave no session.
fn no_session(mounting: &Mounting, list: std::path::PathBuf, error: AskError) -> Failure {
    let cluster = mounting.cluster.clone();
    match error {
        AskError::Call(_) => Failure::NoMaster { cluster, waited: mounting.wait, list, error },
        error => Failure::Session { cluster, error },
    }
}
