//! A chunk server that cannot start tells the cluster why, so that the operator sees it where all others are shown.
//!
//! It registers with the flags of a failed server, which is noted and refused. Without its directory a server does not know
//! who it is: the metadata server knows which one is at this path of this host.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::Duration;

use link::cluster_dir::HostDirs;
use link::{AskError, Expect};
use rt::net::Address;
use wire::cs::{FLAG_FAILED_IO, FLAG_FAILED_JOURNAL, FLAG_FAILED_REPOSITORY, RegisterCs};
use wire::hello::Role;
use wire::{Action, Status};

use super::discovery::Servers;
use super::{Failure, endpoint};
use crate::engine::OpenError;
use crate::format::FormatError;
use crate::format::superblock::Superblock;
use crate::journal::scan::ScanError;
use crate::tables::TableError;

/// How long to try.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one metadata server may take.
const EACH: Duration = Duration::from_secs(4);
/// Metadata servers asked, those that others name among them.
const ASKED_MAX: usize = 8;

/// Whose it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Obituary<'a> {
    pub(super) dirs: &'a HostDirs,
    pub(super) cluster: &'a str,
    pub(super) host_id: &'a str,
    pub(super) dir: &'a Path,
}

/// The flags of a server that cannot be opened; none where another start may well succeed.
fn flags(superblock: Option<&Superblock>, error: &OpenError) -> Option<u32> {
    if !is_of_disk(error) {
        return None;
    }
    let own_journal = superblock.is_some_and(|superblock| superblock.journal_dir.is_some());
    let journal = if own_journal { FLAG_FAILED_JOURNAL } else { FLAG_FAILED_IO };
    match error {
        OpenError::InUse(_) => None,
        OpenError::NotThere(_) => Some(FLAG_FAILED_REPOSITORY),
        OpenError::JournalMissing(_) | OpenError::Journal { .. } | OpenError::Tables { .. } => Some(journal),
        OpenError::Failed { journal: true, .. } => Some(FLAG_FAILED_JOURNAL),
        OpenError::Failed { .. } | OpenError::Superblock { .. } => Some(FLAG_FAILED_IO),
        OpenError::Io { error, .. } => match error.kind() {
            // A path through something that is no directory.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Some(FLAG_FAILED_REPOSITORY),
            _ if is_of_device(error) => Some(FLAG_FAILED_IO),
            _ => None,
        },
    }
}

/// Whether what failed is the disk or what is on it, not the release of this daemon, its rights or its limits.
fn is_of_disk(error: &OpenError) -> bool {
    let is_of_release =
        |why: &FormatError| matches!(why, FormatError::Version { .. } | FormatError::Features { .. });
    match error {
        OpenError::Superblock { why, .. } | OpenError::Journal { error: ScanError::Header(why), .. } => {
            !is_of_release(why)
        }
        OpenError::Tables {
            error: TableError::Header { why, .. } | TableError::Page { why, .. }, ..
        } => !is_of_release(why),
        OpenError::Journal { error: ScanError::Io(error), .. }
        | OpenError::Tables { error: TableError::Io { error, .. }, .. } => {
            error.kind() == io::ErrorKind::NotFound || is_of_device(error)
        }
        _ => true,
    }
}

/// A read-only file system is what is left of one whose disk has failed.
fn is_of_device(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const OF_DEVICE: [Errno; 6] =
        [Errno::IO, Errno::UCLEAN, Errno::NXIO, Errno::STALE, Errno::ROFS, Errno::NOTDIR];
    error.raw_os_error().is_some_and(|number| OF_DEVICE.map(Errno::raw_os_error).contains(&number))
}

impl Obituary<'_> {
    /// Tells the cluster, if there is something to tell and somebody to hear it; gives the error back.
    pub(super) async fn publish(self, superblock: Option<&Superblock>, error: OpenError) -> Failure {
        if let Some(flags) = flags(superblock, &error) {
            match rt::time::timeout_at(rt::time::now() + PATIENCE, self.tell(superblock, flags)).await {
                Ok(Ok(true)) => {}
                Ok(Err(why)) => {
                    tracing::warn!("the cluster could not be told that this server does not start: {why}")
                }
                Ok(Ok(false)) | Err(_) => {
                    tracing::warn!("no metadata server could be told that this server does not start")
                }
            }
        }
        error.into()
    }

    /// Tells one metadata server after the other, until one has noted it.
    async fn tell(self, superblock: Option<&Superblock>, flags: u32) -> Result<bool, Failure> {
        let cs_id = superblock.map_or(0, |superblock| superblock.cs_id);
        let endpoint = endpoint(self.dirs, self.cluster, cs_id).await?;
        let servers = Servers::load(self.dirs, self.cluster).await?.addresses().await?;
        let zero = vec![0; 16];
        let call = RegisterCs {
            cs_id,
            cs_uuid: superblock.map_or(zero.clone(), |superblock| superblock.cs_uuid.to_vec()),
            nonce: zero.clone(),
            new_nonce: zero,
            host_id: self.host_id.to_owned(),
            host_name: rt::node::host_name(),
            boot_id: rt::node::boot_id().map_err(Failure::io("cannot read the boot id"))?.to_vec(),
            tier: superblock.map_or(0, |superblock| u32::from(superblock.tier)),
            flags,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            path: self.dir.display().to_string(),
            ..RegisterCs::default()
        };
        let mut servers: VecDeque<Address> = servers.into();
        let mut noted = false;
        for _ in 0..ASKED_MAX {
            let Some(address) = servers.pop_front() else { break };
            let deadline = rt::time::now() + EACH;
            let asked = async {
                let connection = match endpoint.connect(&address, Expect::role(Role::Mds)).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        tracing::debug!("{address}: {error}");
                        return None;
                    }
                };
                Some(connection.ask(&call, deadline).await)
            };
            match rt::time::timeout_at(deadline, asked).await {
                // This is how it is acknowledged.
                Ok(Some(Err(AskError::Status { status: Status::DeviceFailed, .. }))) => {
                    noted = true;
                    break;
                }
                Ok(Some(Err(AskError::Status { status, error })))
                    if status.action() == Action::RetryAfter =>
                {
                    rt::time::sleep(Duration::from_millis(error.retry_after_ms.into())).await;
                    servers.push_back(address);
                }
                Ok(Some(Err(AskError::Status { status, error }))) if status.action() == Action::Redirect => {
                    servers.extend(error.hint.parse().ok().map(Address::Tcp));
                }
                Ok(Some(Err(error))) => tracing::warn!("{address}: {error}"),
                Ok(Some(Ok(_)) | None) | Err(_) => {}
            }
        }
        endpoint.close().await;
        Ok(noted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_flag() {
        let inside = crate::format::superblock::tests::sample();
        let inside = Superblock { journal_dir: None, ..inside };
        let outside = Superblock { journal_dir: Some("/ssd".into()), ..inside.clone() };
        let dir = || "/cs".into();
        let journal = || OpenError::Journal { path: dir(), error: ScanError::Foreign };
        let io = |number| OpenError::Io { dir: dir(), error: io::Error::from_raw_os_error(number) };
        let later = || FormatError::Version { structure: "it", found: 9, known: 1 };
        let rotten = || FormatError::Checksum { structure: "it" };
        let header = |why| OpenError::Journal { path: dir(), error: ScanError::Header(why) };
        let superblock = |why| OpenError::Superblock { dir: dir(), why };
        let table =
            |number| TableError::Io { table: "crc.table", error: io::Error::from_raw_os_error(number) };
        let tables = |number| OpenError::Tables { dir: dir(), error: table(number) };
        let device = |number| ScanError::Io(io::Error::from_raw_os_error(number));
        let unreadable = |number| OpenError::Journal { path: dir(), error: device(number) };
        let (h, s, r) = (Some(FLAG_FAILED_IO), Some(FLAG_FAILED_JOURNAL), Some(FLAG_FAILED_REPOSITORY));
        for (superblock, error, expected) in [
            (None, OpenError::NotThere(dir()), r),
            (None, OpenError::InUse(dir()), None),
            (None, io(5), h),
            (None, io(13), None),
            (None, io(20), r),
            (None, io(24), None),
            (None, io(30), h),
            (None, superblock(rotten()), h),
            (None, superblock(later()), None),
            (Some(&inside), OpenError::JournalMissing(dir()), h),
            (Some(&outside), OpenError::JournalMissing(dir()), s),
            (Some(&outside), journal(), s),
            (Some(&inside), journal(), h),
            (Some(&outside), header(rotten()), s),
            (Some(&outside), header(later()), None),
            (Some(&outside), unreadable(5), s),
            (Some(&outside), unreadable(20), s),
            (Some(&inside), unreadable(30), h),
            (Some(&outside), unreadable(13), None),
            (Some(&outside), tables(5), s),
            (Some(&outside), tables(2), s),
            (Some(&outside), tables(24), None),
            (Some(&outside), OpenError::Failed { dir: dir(), journal: false }, h),
            (Some(&outside), OpenError::Failed { dir: dir(), journal: true }, s),
        ] {
            assert_eq!(flags(superblock, &error), expected, "{error}");
        }
    }
}
