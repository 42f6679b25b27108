//! The command line, checked as far as that is possible without touching anything.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use link::cluster_dir::check_cluster_name;
use link::daemon::LOG_LEVELS;

use super::options::{MountOptions, OptionError};

/// Before the name of a cluster in `/etc/fstab`.
const SCHEME: &str = "vstorage://";
/// How programs are called that `mount(8)` starts.
const HELPER: &str = "mount.";

const EXAMPLES: &str = "\
Examples:
  vstorage-mount -c stor1 /vstorage/stor1
      Mount the cluster stor1. When this returns, it is mounted; a daemon serves it until `umount /vstorage/stor1`.
  vstorage-mount -c stor1 --fail-on-nospace -o noatime /vstorage/stor1
      Let writes fail with ENOSPC at once when the cluster is full, instead of waiting for space.
  vstorage-mount -f -o ro,direct_io -c stor1 /mnt
      Stay in the foreground; change nothing; keep nothing in the page cache.

In /etc/fstab, with this program also installed as /sbin/mount.fuse.vstorage:
  vstorage://stor1 /vstorage/stor1 fuse.vstorage rw,nosuid,nodev,_netdev 0 0

Options after -o:
  ro, rw, suid, dev, noexec, noatime, sync, dirsync and their opposites    as in mount(8); nosuid and nodev are usual
  direct_io           past the page cache always (else where a program opens with O_DIRECT)
  writeback_cache     the kernel keeps small writes to itself for a while and joins them; only where no other client
                      changes files that are in use here, since sizes are not looked at again
  max_readahead=BYTES how far the kernel reads ahead [1048576]
  fail_on_nospace     as --fail-on-nospace
  cs_timeout=MS       how many milliseconds a chunk server may be silent before writes go on without it [3500]; one whose
                      connection breaks is waited for a sixth of that
  private             only who mounts it may use it; usual is everybody, by the files' permissions";

/// Mounts a vstorage cluster as a file system
///
/// A file is written by one client at a time: on another, opening it meanwhile fails with EBUSY. Locks hold among the
/// programs of one mount.
#[derive(Debug, Parser)]
#[command(name = "vstorage-mount", version, max_term_width = 100, after_help = EXAMPLES)]
#[command(
    override_usage = "vstorage-mount [OPTIONS] -c CLUSTER DIR\n       vstorage-mount [OPTIONS] vstorage://CLUSTER DIR"
)]
pub(super) struct Cli {
    /// The cluster
    #[arg(short = 'c', long, value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Mount options, with commas between
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Stay in the foreground, and log to standard error unless there is a log file
    #[arg(short = 'f', long)]
    pub(super) foreground: bool,
    /// Let a write fail when the cluster is full; else it waits until there is space
    #[arg(long)]
    fail_on_nospace: bool,
    /// Log to this file [default: /var/log/vstorage/vstorage-mount.log, in the foreground standard error]
    #[arg(short = 'l', long, value_name = "FILE")]
    pub(super) log_file: Option<PathBuf>,
    /// How much to log
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = LOG_LEVELS)]
    pub(super) log_level: String,
    /// How long to wait for the metadata servers and for leases that are about to end, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "90", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait: u64,
    /// Started by itself, to say on standard output when it is mounted
    #[arg(long, hide = true)]
    pub(super) detached: bool,
    /// The cluster, unless -c names it, and the directory
    #[arg(value_name = "DIR", required = true, num_args = 1..=2)]
    places: Vec<OsString>,
}

/// What to mount, where, and how.
#[derive(Clone, Debug)]
pub(super) struct Mounting {
    /// The cluster.
    pub(super) cluster: String,
    /// The directory.
    pub(super) dir: PathBuf,
    /// How.
    pub(super) options: MountOptions,
    /// Patience at the start.
    pub(super) wait: Duration,
}

/// Why a command line that is complete makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UsageError {
    /// No cluster.
    #[error("which cluster? Give -c CLUSTER, or vstorage://CLUSTER before the directory")]
    NoCluster,
    /// Two.
    #[error("the cluster is named twice: give -c CLUSTER or vstorage://CLUSTER")]
    TwoClusters,
    /// Something else before the directory.
    #[error("{0:?} is no cluster: before the directory comes vstorage://CLUSTER")]
    NoSource(OsString),
    /// No name of a cluster.
    #[error(transparent)]
    Name(#[from] link::cluster_dir::BadClusterName),
    /// The options.
    #[error(transparent)]
    Option(#[from] OptionError),
}

impl Cli {
    /// Reads the command line; ends the process where it is wrong (exit code 2) or asks for help.
    pub(super) fn read() -> (Self, Mounting) {
        let (words, fake) = words(std::env::args_os().collect());
        if fake {
            std::process::exit(0);
        }
        let cli = Self::parse_from(words);
        match cli.mounting() {
            Ok(mounting) => (cli, mounting),
            Err(error) => Self::command().error(ErrorKind::ValueValidation, error).exit(),
        }
    }

    fn mounting(&self) -> Result<Mounting, UsageError> {
        let (source, dir) = match self.places.as_slice() {
            [source, dir] => (Some(source), dir),
            [dir, ..] => (None, dir),
            [] => return Err(UsageError::NoCluster),
        };
        let named = source.map(|source| {
            let text = source.to_str().and_then(|text| text.strip_prefix(SCHEME));
            text.map(|name| name.trim_end_matches('/')).ok_or_else(|| UsageError::NoSource(source.clone()))
        });
        let cluster = match (self.cluster.as_deref(), named.transpose()?) {
            (Some(name), None) | (None, Some(name)) => name,
            (Some(_), Some(_)) => return Err(UsageError::TwoClusters),
            (None, None) => return Err(UsageError::NoCluster),
        };
        check_cluster_name(cluster)?;
        let mut options = MountOptions::parse(&self.options)?;
        options.fails_when_full |= self.fail_on_nospace;
        let dir = PathBuf::from(dir);
        Ok(Mounting { cluster: cluster.to_owned(), dir, options, wait: Duration::from_secs(self.wait) })
    }
}

/// The words of the command line, without those that are `mount(8)`'s own.
pub(super) fn helper_words() -> Vec<OsString> {
    words(std::env::args_os().collect()).0
}

/// The words of the command line. As a helper of `mount(8)` the program is called with that one's switches: `-s`, `-n`, `-v` mean
/// nothing here, `-f` to do nothing at all, `-t` and `-N` have a value.
fn words(words: Vec<OsString>) -> (Vec<OsString>, bool) {
    let program = words.first().map(PathBuf::from);
    let name = program.as_deref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
    if !name.is_some_and(|name| name.starts_with(HELPER)) {
        return (words, false);
    }
    let (mut kept, mut fake) = (Vec::new(), false);
    let mut rest = words.into_iter();
    while let Some(word) = rest.next() {
        match word.to_str() {
            Some("-t" | "-N") => drop(rest.next()),
            Some(switches) if is_switches(switches) => fake |= switches.contains('f'),
            _ => kept.push(word),
        }
    }
    (kept, fake)
}

fn is_switches(word: &str) -> bool {
    word.len() > 1 && word.strip_prefix('-').is_some_and(|rest| rest.chars().all(|c| "sfnvw".contains(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn mounting(line: &[&str]) -> Result<Mounting, UsageError> {
        Cli::try_parse_from(std::iter::once(&"vstorage-mount").chain(line)).expect("complete").mounting()
    }

    #[test]
    fn both_forms_name_a_cluster_and_a_directory() {
        let plain = mounting(&["-c", "stor1", "/mnt"]).unwrap();
        assert_eq!((plain.cluster.as_str(), plain.dir), ("stor1", PathBuf::from("/mnt")));
        assert!(!plain.options.fails_when_full && !plain.options.read_only);
        let fstab = mounting(&["vstorage://stor1", "/mnt", "-o", "rw,nosuid,nodev"]).unwrap();
        assert_eq!(fstab.cluster, "stor1");
        let full = mounting(&["-c", "s", "--fail-on-nospace", "/mnt", "-o", "ro", "-o", "noexec"]).unwrap();
        assert!(full.options.fails_when_full && full.options.read_only);
        let error = |line: &[&str]| mounting(line).unwrap_err();
        assert_eq!(error(&["/mnt"]), UsageError::NoCluster);
        assert_eq!(error(&["-c", "a", "vstorage://a", "/mnt"]), UsageError::TwoClusters);
        assert_eq!(error(&["nfs://a", "/mnt"]), UsageError::NoSource("nfs://a".into()));
        assert!(matches!(error(&["-c", "a b", "/mnt"]), UsageError::Name(_)));
        assert!(matches!(error(&["-c", "a", "/mnt", "-o", "colour=red"]), UsageError::Option(_)));
    }

    #[test]
    fn mount_is_understood() {
        let line = |line: &[&str]| {
            let (words, fake) = words(line.iter().map(OsString::from).collect());
            (words.iter().map(|word| word.to_str().unwrap().to_owned()).collect::<Vec<_>>(), fake)
        };
        let helper =
            ["/sbin/mount.fuse.vstorage", "vstorage://s", "/mnt", "-sn", "-t", "fuse.vstorage", "-o", "rw"];
        let expected = ["/sbin/mount.fuse.vstorage", "vstorage://s", "/mnt", "-o", "rw"];
        assert_eq!(line(&helper), (expected.map(str::to_owned).to_vec(), false));
        assert!(line(&["mount.fuse.vstorage", "vstorage://s", "/mnt", "-f"]).1);
        let own = ["vstorage-mount", "-f", "-c", "s", "/mnt"];
        assert_eq!(line(&own), (own.map(str::to_owned).to_vec(), false));
    }
}
