//! The command line, checked as far as that is possible without touching anything.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand};
use client::FailureLimits;
use link::cluster_dir::{BadClusterName, check_cluster_name};
use link::daemon::LOG_LEVELS;
use wire::limits::{MAX_NAME, MAX_PATH};

use crate::nbd::{ExportError, ServeOptions};

/// Longest path of a Unix socket in bytes (`sun_path` less its NUL).
const SOCKET_PATH_MAX: usize = 107;

const EXAMPLES: &str = "\
Examples:
  vstorage-ublkd nbd -c stor1 --socket /run/vm1.sock /vm1
      Serve the volume /vm1 of the cluster stor1 on a Unix socket. Then, for example:
      qemu-img info 'nbd+unix:///?socket=/run/vm1.sock'
      nbd-client -unix /run/vm1.sock /dev/nbd0
  vstorage-ublkd nbd -c stor1 --listen 127.0.0.1:10809 --read-only /vm1
      Serve it on a port of the loopback, for reading; others may read it at the same time.

When clients can connect, one line that begins with `ready:` is printed. The program runs until SIGTERM or SIGINT; then
it finishes what is under way, flushes, and gives the volume back. It may be killed at any time: started again for the
same volume it goes on at once.";

/// Offers volumes of a vstorage cluster to block clients
#[derive(Debug, Parser)]
#[command(name = "vstorage-ublkd", version, max_term_width = 100, after_help = EXAMPLES)]
pub(super) struct Cli {
    /// How much to log
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info", value_parser = LOG_LEVELS)]
    pub(super) log_level: String,
    /// Log to this file instead of standard error
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) log_file: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Nbd(Nbd),
}

/// Serve a volume by the NBD protocol
///
/// NBD asks for no password and encrypts nothing: whoever can reach the socket can read the volume, and write it unless
/// it is served read-only.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("where").required(true).multiple(true).args(["socket", "listen"])))]
pub(super) struct Nbd {
    /// The cluster
    #[arg(short = 'c', long, value_name = "CLUSTER")]
    pub(super) cluster: ClusterName,
    /// Serve on this Unix socket; one that a dead server left behind is replaced
    #[arg(long, value_name = "UNIX_PATH")]
    pub(super) socket: Option<SocketPath>,
    /// Who may use the Unix socket, as permissions in octal
    #[arg(long, value_name = "MODE", default_value = "600", requires = "socket", value_parser = mode)]
    pub(super) socket_mode: u32,
    /// Serve on this TCP address; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub(super) listen: Option<SocketAddr>,
    /// Let --listen name an address that other machines can reach
    #[arg(long, requires = "listen")]
    pub(super) allow_public: bool,
    /// Refuse writes, and let others read at the same time
    #[arg(long)]
    pub(super) read_only: bool,
    /// Name of the export; clients that ask for none get it, too
    #[arg(long, value_name = "EXPORT", default_value = "", hide_default_value = true, value_parser = export_name)]
    pub(super) name: String,
    /// How long to wait for the metadata servers and for a lease that is about to end, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "90", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait: u64,
    /// How long a chunk server may be silent before writes go on without it, in milliseconds; one whose connection breaks is
    /// waited for a sixth of that
    #[arg(long, value_name = "MILLISECONDS", default_value_t = FailureLimits::SILENCE_MS, value_parser = clap::value_parser!(u64).range(FailureLimits::SILENCE_MS_RANGE))]
    cs_timeout: u64,
    /// The volume, by its path within the cluster
    #[arg(value_name = "PATH")]
    pub(super) path: VolumePath,
}

impl Cli {
    /// Reads the command line; ends the process where it is wrong (exit code 2) or asks for help.
    pub(super) fn read() -> Self {
        let cli = Self::parse();
        let Command::Nbd(nbd) = &cli.command;
        if let Some(refusal) = nbd.refusal() {
            Self::command().error(ErrorKind::ValueValidation, refusal).exit();
        }
        cli
    }
}

impl Nbd {
    /// Why these arguments, each of them valid, are refused together.
    fn refusal(&self) -> Option<String> {
        let public = self.listen.filter(|listen| !listen.ip().is_loopback() && !self.allow_public)?;
        Some(format!(
            "{public} can be reached from other machines, and NBD has neither passwords nor encryption; listen on \
             127.0.0.1 or a Unix socket, or add --allow-public if the network is isolated"
        ))
    }

    /// Patience at the start.
    pub(super) fn wait(&self) -> Duration {
        Duration::from_secs(self.wait)
    }

    /// When a chunk server counts as lost.
    pub(super) fn failure_limits(&self) -> FailureLimits {
        FailureLimits::for_silence(self.cs_timeout)
    }

    /// How the server behaves.
    pub(super) fn serve_options(&self) -> ServeOptions {
        let description = format!("{} in cluster {}", self.path.as_str(), self.cluster.as_str());
        ServeOptions {
            name: self.name.clone(),
            // A path of the greatest length fills the protocol's field by itself.
            description: if description.len() <= crate::nbd::MAX_STRING {
                description
            } else {
                String::new()
            },
            read_only: self.read_only,
            ..ServeOptions::default()
        }
    }
}

/// The name of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClusterName(String);

impl ClusterName {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = BadClusterName;

    fn from_str(text: &str) -> Result<Self, BadClusterName> {
        check_cluster_name(text).map(|()| Self(text.to_owned()))
    }
}

/// The path of a volume: absolute, in its one normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VolumePath(String);

/// Why a text is no path of a volume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathError {
    /// It is relative.
    #[error("a path within the cluster begins with /")]
    Relative,
    /// It names the top directory.
    #[error("/ is the top directory and no volume")]
    Top,
    /// It has a `.` or `..`.
    #[error("a path within the cluster has neither . nor .. in it: name the place itself")]
    Dots,
    /// Something is too long.
    #[error("at most {MAX_NAME} bytes for each name in a path and {MAX_PATH} for all of it")]
    TooLong,
}

impl VolumePath {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory it is in.
    pub(super) fn directory(&self) -> &str {
        match self.0.rsplit_once('/') {
            Some((directory, _)) if !directory.is_empty() => directory,
            _ => "/",
        }
    }
}

impl FromStr for VolumePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let names = text.strip_prefix('/').ok_or(PathError::Relative)?;
        let mut path = String::new();
        for name in names.split('/').filter(|name| !name.is_empty()) {
            if name == "." || name == ".." {
                return Err(PathError::Dots);
            }
            if name.len() > MAX_NAME {
                return Err(PathError::TooLong);
            }
            path.push('/');
            path.push_str(name);
        }
        match path.len() {
            0 => Err(PathError::Top),
            1..=MAX_PATH => Ok(Self(path)),
            _ => Err(PathError::TooLong),
        }
    }
}

/// Where a Unix socket is to be: absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SocketPath(PathBuf);

/// Why a path is no place for a socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SocketPathError {
    /// There is no file name.
    #[error("give the path of a file")]
    NoName,
    /// The kernel takes no longer one.
    #[error(
        "the path of a socket has at most {SOCKET_PATH_MAX} bytes, {0:?} has more; choose a shorter one, such as /run/NAME.sock"
    )]
    TooLong(PathBuf),
}

impl SocketPath {
    pub(super) fn as_path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for SocketPath {
    type Err = SocketPathError;

    fn from_str(text: &str) -> Result<Self, SocketPathError> {
        let path = std::path::absolute(text).map_err(|_| SocketPathError::NoName)?;
        if path.file_name().is_none() || text.ends_with('/') {
            return Err(SocketPathError::NoName);
        }
        if path.as_os_str().as_bytes().len() > SOCKET_PATH_MAX {
            return Err(SocketPathError::TooLong(path));
        }
        Ok(Self(path))
    }
}

/// The text is not an address with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address with a port, such as 127.0.0.1:10809 or [::1]:10809")]
struct NoAddress;

fn address(text: &str) -> Result<SocketAddr, NoAddress> {
    text.parse().map_err(|_| NoAddress)
}

/// The text is not a set of permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not permissions in octal, such as 600 or 660")]
struct NoMode;

fn mode(text: &str) -> Result<u32, NoMode> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777).ok_or(NoMode)
}

fn export_name(text: &str) -> Result<String, ExportError> {
    let options = ServeOptions { name: text.to_owned(), ..ServeOptions::default() };
    options.check().map(|()| options.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn nbd(args: &[&str]) -> Result<Nbd, ErrorKind> {
        let line = ["vstorage-ublkd", "nbd"].iter().chain(args);
        let Command::Nbd(nbd) = Cli::try_parse_from(line).map_err(|error| error.kind())?.command;
        Ok(nbd)
    }

    #[test]
    fn arguments_are_checked() {
        let good =
            nbd(&["-c", "s", "--socket", "/run/x", "--read-only", "--log-level", "off", "//vm1/"]).unwrap();
        assert_eq!(good.path.as_str(), "/vm1");
        assert_eq!((good.socket_mode, good.wait()), (0o600, Duration::from_secs(90)));
        assert!(good.serve_options().read_only);
        assert_eq!(good.failure_limits(), FailureLimits::default());
        let quick = nbd(&["-c", "s", "--socket", "/x", "--cs-timeout", "1000", "/vm1"]).unwrap();
        assert_eq!(quick.failure_limits(), FailureLimits::for_silence(1000));
        let long = format!("/{}", "x".repeat(110));
        let name = "x".repeat(5000);
        for (bad, kind) in [
            (&["-c", "s", "/vm1"][..], ErrorKind::MissingRequiredArgument),
            (&["--socket", "/x", "/vm1"], ErrorKind::MissingRequiredArgument),
            (&["-c", "s", "--socket", "/x"], ErrorKind::MissingRequiredArgument),
            (&["-c", "a b", "--socket", "/x", "/vm1"], ErrorKind::ValueValidation),
            (&["-c", "s", "--socket", &long, "/vm1"], ErrorKind::ValueValidation),
            (&["-c", "s", "--socket", "/x/", "/vm1"], ErrorKind::ValueValidation),
            (&["-c", "s", "--listen", "localhost", "/vm1"], ErrorKind::ValueValidation),
            (&["-c", "s", "--socket", "/x", "--allow-public", "/vm1"], ErrorKind::MissingRequiredArgument),
            (&["-c", "s", "--socket", "/x", "--socket-mode", "9", "/vm1"], ErrorKind::ValueValidation),
            (&["-c", "s", "--socket", "/x", "--socket-mode", "1777", "/vm1"], ErrorKind::ValueValidation),
            (&["-c", "s", "--socket", "/x", "--name", &name, "/vm1"], ErrorKind::ValueValidation),
            (&["-c", "s", "--socket", "/x", "--wait", "0", "/vm1"], ErrorKind::ValueValidation),
            (&["-c", "s", "--socket", "/x", "--cs-timeout", "499", "/vm1"], ErrorKind::ValueValidation),
            (&["-c", "s", "--socket", "/x", "--cs-timeout", "15001", "/vm1"], ErrorKind::ValueValidation),
            (&["-c", "s", "--socket", "/x", "--log-level", "loud", "/vm1"], ErrorKind::InvalidValue),
            (&["-c", "s", "--socket", "/x", "vm1"], ErrorKind::ValueValidation),
        ] {
            assert_eq!(nbd(bad).map(|_| ()), Err(kind), "{bad:?}");
        }
    }

    #[test]
    fn only_the_loopback_goes_without_saying() {
        let refused = |args: &[&str]| nbd(args).unwrap().refusal().is_some();
        assert!(!refused(&["-c", "s", "--listen", "127.0.0.2:1", "/v"]));
        assert!(!refused(&["-c", "s", "--listen", "[::1]:1", "/v"]));
        assert!(refused(&["-c", "s", "--listen", "0.0.0.0:1", "/v"]));
        assert!(refused(&["-c", "s", "--listen", "[::]:1", "--socket", "/x", "/v"]));
        assert!(!refused(&["-c", "s", "--listen", "10.0.0.1:1", "--allow-public", "/v"]));
    }

    #[test]
    fn paths_have_one_form() {
        let path = |text: &str| text.parse::<VolumePath>().map(|path| path.0);
        assert_eq!(path("/a/b"), Ok("/a/b".into()));
        assert_eq!(path("//a///b/"), Ok("/a/b".into()));
        assert_eq!(path("a/b"), Err(PathError::Relative));
        assert_eq!(path("/"), Err(PathError::Top));
        assert_eq!(path("/a/../b"), Err(PathError::Dots));
        assert_eq!(path(&format!("/{}", "x".repeat(256))), Err(PathError::TooLong));
        assert_eq!(path(&"/x".repeat(2049)), Err(PathError::TooLong));
        let directory = |text: &str| text.parse::<VolumePath>().unwrap().directory().to_owned();
        assert_eq!((directory("/vm1").as_str(), directory("/a/vm1").as_str()), ("/", "/a"));
    }
}
