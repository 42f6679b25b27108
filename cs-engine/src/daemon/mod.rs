//! `vstorage-csd`: make a chunk server, run it, check it.

mod check;
mod configure;
mod control;
mod device;
mod discovery;
mod make;
mod obituary;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use link::cluster_dir::{BadClusterName, HostDirs, check_cluster_name};
use link::{ClusterId, Credentials, CredentialsError, Endpoint, LocalHello, Options};
use rt::net::Address;
use rt::{Executor, ExecutorOptions, StartError};
use wire::hello::Role;

use crate::engine::{CreateError, OpenError};
use crate::server::RegistrationError;

/// The chunk server of vstorage.
#[derive(Debug, Parser)]
#[command(
    name = "vstorage-csd",
    version,
    max_term_width = 100,
    after_help = "Example:\n  vstorage-csd run -c stor1 -r /vstorage/stor1-cs\n\n\
                  Operators use vstorage make-cs and vstorage start-service, which call this program."
)]
struct Cli {
    /// How much to log: error, warn, info, debug or trace.
    #[arg(long, global = true, default_value = "info", value_parser = link::daemon::LOG_LEVELS)]
    log_level: String,
    /// Log to this file instead of standard error.
    #[arg(long, global = true)]
    log_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a chunk server and join it to the cluster.
    #[command(after_help = "Examples:\n  vstorage-csd make -c stor1 -r /vstorage/stor1-cs\n  \
                            vstorage-csd make -c stor1 -r /vstorage/stor1-cs -j /ssd/stor1/cs1 -s 30720 -T ssd")]
    Make(MakeArgs),
    /// Run a chunk server until SIGTERM.
    #[command(after_help = "Example:\n  vstorage-csd run -c stor1 -r /vstorage/stor1-cs")]
    Run(RunArgs),
    /// Add, move, resize or destroy the journal of a chunk server, which may be at work.
    #[command(
        after_help = "Examples:\n  vstorage-csd configure -r /vstorage/stor1-cs -a /ssd/stor1/cs1 -s 2048 -T ssd\n  \
                            vstorage-csd configure -r /vstorage/stor1-cs -s 4096\n  \
                            vstorage-csd configure -r /vstorage/stor1-cs -d"
    )]
    Configure(ConfigureArgs),
    /// Report every inconsistency of a stopped chunk server; changes nothing.
    ///
    /// Exit code: 0 nothing found, 1 findings, 2 it could not be checked.
    #[command(after_help = "Example:\n  vstorage-csd check /vstorage/stor1-cs")]
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct MakeArgs {
    /// The cluster.
    #[arg(short = 'c', long)]
    cluster: String,
    /// Directory of the chunk server, on a disk of its own; made if it does not exist.
    #[arg(short = 'r', long)]
    repository: PathBuf,
    /// Storage tier, 0 to 3.
    #[arg(short = 't', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=3))]
    tier: u8,
    /// Address and port at which clients reach the server; any free port when not given.
    #[arg(short = 'a', long)]
    address: Option<std::net::SocketAddr>,
    /// Directory for the journal and the checksums, on an SSD; needs -s.
    #[arg(short = 'j', long, requires = "journal_size")]
    journal: Option<PathBuf>,
    /// Size of the journal in MB.
    #[arg(short = 's', long)]
    journal_size: Option<u64>,
    /// Tune the journal; `ssd` is the only kind.
    #[arg(short = 'T', long, value_parser = ["ssd"])]
    tune: Option<String>,
    /// Keep no checksums.
    #[arg(short = 'S', long)]
    no_checksums: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The cluster.
    #[arg(short = 'c', long)]
    cluster: String,
    /// Directory of the chunk server.
    #[arg(short = 'r', long)]
    repository: PathBuf,
    /// Memory for checksum pages, in MB.
    #[arg(long, default_value_t = 16)]
    cache: usize,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true).args(["add", "destroy", "journal_size"])))]
struct ConfigureArgs {
    /// Directory of the chunk server.
    #[arg(short = 'r', long)]
    repository: PathBuf,
    /// Directory for a journal and the checksums, on an SSD; needs -s.
    #[arg(short = 'a', long = "add-journal", id = "add", requires = "journal_size")]
    add: Option<PathBuf>,
    /// Destroy that journal: the chunk server keeps one beside its chunks then.
    #[arg(short = 'd', long = "destroy-journal", conflicts_with_all = ["add", "journal_size"])]
    destroy: bool,
    /// Size of the journal in MB.
    #[arg(short = 's', long)]
    journal_size: Option<u64>,
    /// Tune the journal; `ssd` is the only kind.
    #[arg(short = 'T', long, value_parser = ["ssd"], requires = "add")]
    tune: Option<String>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Directory of the chunk server.
    repository: PathBuf,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Why a sub-command failed; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Bad cluster name.
    #[error(transparent)]
    Name(#[from] BadClusterName),
    /// No executor.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No usable credentials.
    #[error("{}: {error}; authenticate this node with `vstorage -c {cluster} auth-node`, or copy the file from the host of the first MDS", .path.display())]
    Credentials {
        /// The cluster.
        cluster: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: CredentialsError,
    },
    /// Nobody says where the metadata servers are.
    #[error("cannot tell where the metadata servers are: {0}; a list has one ADDRESS:PORT per line")]
    Discovery(#[from] link::discovery::DiscoveryError),
    /// No metadata server has an address.
    #[error("no metadata server can be found ({text}); check the names in {by}")]
    NoAddress {
        /// Who names them.
        by: link::discovery::Source,
        /// What is wrong with each.
        text: String,
    },
    /// Another cluster's server.
    #[error(
        "{} belongs to cluster {found:?} with id {found_id}, and the credentials for {expected:?} on this host are of \
         cluster id {expected_id}; name the right cluster with -c, or copy its credentials here",
        .dir.display()
    )]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// In the superblock.
        found: String,
        /// Its id there.
        found_id: ClusterId,
        /// On the command line.
        expected: String,
        /// Its id in the credentials.
        expected_id: ClusterId,
    },
    /// The connection layer.
    #[error("cannot use the credentials: {0}")]
    Config(#[from] link::ConfigError),
    /// Making the directory.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Opening the directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Joining the cluster.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// Listening.
    #[error("cannot listen at {address}: {error}; choose another address or port with -a")]
    Listen {
        /// Where.
        address: Address,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// A server at work cannot be asked.
    #[error("cannot reach the chunk server at work in {}: {error}; run as root, or as the owner of the directory", .dir.display())]
    Control {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The journal stays as it is.
    #[error("{0}")]
    Configure(String),
    /// Anything else of the system.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        error: std::io::Error,
    },
}

impl Failure {
    fn io(what: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |error| Self::Io { what, error }
    }
}

/// The grammar of the command line, for manual pages and completions.
#[must_use]
pub fn grammar() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the daemon's command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = link::daemon::init_logging(&cli.log_level, cli.log_file.as_deref()) {
        eprintln!("vstorage-csd: {error}");
        return ExitCode::from(2);
    }
    // A check may end at any moment.
    let checks = matches!(cli.command, Command::Check(_));
    // Before any thread starts: they inherit it.
    if !checks && let Err(error) = rt::signal::block_stop_signals() {
        eprintln!("vstorage-csd: cannot hold back SIGTERM: {error}");
        return ExitCode::FAILURE;
    }
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("vstorage-csd: {failure}");
            if checks { ExitCode::from(check::NOT_CHECKED) } else { ExitCode::FAILURE }
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Make(args) => {
            check_cluster_name(&args.cluster)?;
            Executor::start(&ExecutorOptions::default())?.run(make::make(args))
        }
        Command::Run(args) => {
            check_cluster_name(&args.cluster)?;
            Executor::start(&ExecutorOptions::default())?.run(run::run(args))
        }
        Command::Configure(args) => {
            Executor::start(&ExecutorOptions::default())?.run(configure::configure(args))
        }
        Command::Check(args) => Executor::start(&ExecutorOptions::default())?.run(check::check(args)),
    }
}

/// The endpoint of a chunk server on this host.
async fn endpoint(dirs: &HostDirs, cluster: &str, cs_id: u64) -> Result<Endpoint, Failure> {
    let path = dirs.credentials(cluster);
    let credentials = Credentials::load(&path).await.map_err(|error| Failure::Credentials {
        cluster: cluster.to_owned(),
        path,
        error,
    })?;
    let boot_id = rt::node::boot_id().map_err(Failure::io("cannot read the boot id"))?;
    let hello = LocalHello { cs_id, ..LocalHello::new(Role::Cs, boot_id) };
    Ok(Endpoint::new(credentials, hello, Options::default())?)
}
