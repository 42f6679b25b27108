//! `vstorage export`: offers a volume to block clients of this host, by `vstorage-ublkd`.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;

use clap::{ArgGroup, Args};
use client::FailureLimits;

use crate::cli::{Context, Next};
use crate::error::{Error, Misuse};
use crate::path::ClusterPath;
use crate::program::Daemon;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 export --nbd /run/vm1.sock /vm1
  vstorage -c stor1 export --nbd /run/vm1.sock /vm1 --read-only
  vstorage -c stor1 export --listen 127.0.0.1:10809 /vm1

The command runs until it is told to stop (SIGTERM or Ctrl-C). Whoever can reach the
socket can read and write the volume: NBD asks for no password.";

/// Longest path of a Unix socket in bytes (`sun_path` less its NUL).
const SOCKET_PATH_MAX: usize = 107;

/// Export a volume as a network block device
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("where").required(true).multiple(true).args(["nbd", "listen"])))]
pub(crate) struct Export {
    /// Serve NBD on this Unix socket
    #[arg(long, value_name = "SOCKET")]
    nbd: Option<PathBuf>,
    /// Serve NBD on this address of the loopback
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback)]
    listen: Option<SocketAddr>,
    /// Refuse writes, and let others read at the same time
    #[arg(long)]
    read_only: bool,
    /// How long a chunk server may be silent before writes go on without it, in milliseconds; one whose connection breaks is
    /// waited for a sixth of that [default: 3500]
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(FailureLimits::SILENCE_MS_RANGE))]
    cs_timeout: Option<u64>,
    /// The volume
    #[arg(value_name = "PATH")]
    path: ClusterPath,
}

/// Why a text is no address to offer a volume at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum LoopbackError {
    /// It is none.
    #[error("not an address with a port, such as 127.0.0.1:10809")]
    Form,
    /// Others could reach it.
    #[error(
        "NBD has neither passwords nor encryption: give an address of the loopback, such as 127.0.0.1:10809"
    )]
    Public,
}

fn loopback(text: &str) -> Result<SocketAddr, LoopbackError> {
    let address: SocketAddr = text.parse().map_err(|_| LoopbackError::Form)?;
    if address.ip().is_loopback() { Ok(address) } else { Err(LoopbackError::Public) }
}

impl Export {
    /// Checks the arguments and leaves the rest to the daemon.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &Context) -> Result<Next, Error> {
        if let Some(socket) =
            self.nbd.as_ref().filter(|socket| socket.as_os_str().as_bytes().len() > SOCKET_PATH_MAX)
        {
            return Err(Misuse::SocketPath(socket.clone()).into());
        }
        let cluster = context.cluster()?;
        cluster.servers().await?;
        let mut command = Command::new(Daemon::Block.find()?);
        command.args(["nbd", "-c", &cluster.name]);
        if let Some(socket) = &self.nbd {
            command.arg("--socket").arg(socket);
        }
        if let Some(address) = self.listen {
            command.args(["--listen", &address.to_string()]);
        }
        if self.read_only {
            command.arg("--read-only");
        }
        if let Some(silence) = self.cs_timeout {
            command.args(["--cs-timeout", &silence.to_string()]);
        }
        context.pass_logging(&mut command);
        command.arg(self.path.as_str());
        Ok(Next::Become(command))
    }
}
