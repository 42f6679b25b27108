//! `vstorage-mdsd`: make the first metadata server of a cluster, run it, set a forgotten password, accept an old copy of it.

mod failure;
mod make;
mod password;
mod run;
mod settings;
mod vitals;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rt::{Executor, ExecutorOptions};

use failure::Failure;

/// The metadata server of vstorage.
#[derive(Debug, Parser)]
#[command(
    name = "vstorage-mdsd",
    version,
    max_term_width = 100,
    after_help = "Example:\n  vstorage-mdsd run -c stor1 -r /vstorage/stor1-mds\n\n\
                  Operators use vstorage make-mds and vstorage start-service, which call this program."
)]
struct Cli {
    /// How much to log: off, error, warn, info, debug or trace.
    #[arg(long, global = true, default_value = "info")]
    log_level: String,
    /// Log to this file instead of standard error.
    #[arg(long, global = true)]
    log_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new cluster and its first metadata server.
    #[command(
        after_help = "Examples:\n  vstorage-mdsd make -c stor1 -I -a 10.30.100.101 -r /vstorage/stor1-mds -p\n  \
                            vstorage-mdsd make -c stor1 -I -a 10.30.100.101:4110 -r /vstorage/stor1-mds"
    )]
    Make(MakeArgs),
    /// Run a metadata server until SIGTERM.
    #[command(after_help = "Example:\n  vstorage-mdsd run -c stor1 -r /vstorage/stor1-mds")]
    Run(RunArgs),
    /// Set the password of a cluster whose metadata server is stopped, without the old one: it was forgotten, or never set.
    #[command(after_help = "Example:\n  vstorage-mdsd password -c stor1 -r /vstorage/stor1-mds\n\n\
                      The password is the first line of standard input.")]
    Password(RunArgs),
    /// Accept that the directory of a metadata server was put back from a copy, and that what was changed since is lost.
    #[command(after_help = "Example:\n  vstorage-mdsd restored -c stor1 -r /vstorage/stor1-mds")]
    Restored(RunArgs),
}

#[derive(Debug, Args)]
struct MakeArgs {
    /// The name of the cluster.
    #[arg(short = 'c', long)]
    cluster: String,
    /// Make a new cluster; metadata servers cannot be added to one yet.
    #[arg(short = 'I', long)]
    init: bool,
    /// The address of this host at which the others reach it. This port and the next one are used; 2510 and 2511 if none is
    /// given.
    #[arg(short = 'a', long, value_name = "ADDRESS[:PORT]")]
    address: String,
    /// Directory of the metadata server; made if it does not exist. 10 GB should be free there.
    #[arg(short = 'r', long, value_name = "DIR")]
    repository: PathBuf,
    /// Take the password of the cluster from the first line of standard input.
    #[arg(short = 'p', long)]
    password: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The name of the cluster.
    #[arg(short = 'c', long)]
    cluster: String,
    /// Directory of the metadata server.
    #[arg(short = 'r', long, value_name = "DIR")]
    repository: PathBuf,
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
    let chatty = &[crate::raft::LOG_TARGET];
    if let Err(error) = link::daemon::init_logging_without(chatty, &cli.log_level, cli.log_file.as_deref()) {
        eprintln!("vstorage-mdsd: {error}");
        return ExitCode::from(2);
    }
    // Before any thread starts: they inherit it.
    if let Err(error) = rt::signal::block_stop_signals() {
        eprintln!("vstorage-mdsd: cannot hold back SIGTERM: {error}");
        return ExitCode::FAILURE;
    }
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("vstorage-mdsd: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    let executor = |options: &ExecutorOptions| Executor::start(options).map_err(Failure::from);
    // No large payloads pass here.
    let options = ExecutorOptions { pool_bytes_max: 16 << 20, ..ExecutorOptions::default() };
    match command {
        Command::Make(args) => {
            let plan = make::Plan::of(args)?;
            executor(&options)?.run(make::make(plan))
        }
        Command::Run(args) => {
            link::cluster_dir::check_cluster_name(&args.cluster)?;
            executor(&options)?.run(run::run(args))
        }
        Command::Password(args) => {
            link::cluster_dir::check_cluster_name(&args.cluster)?;
            let password = password::read_line(std::io::stdin().lock())?;
            executor(&options)?.run(async move { run::set_password(args, &password).await })
        }
        Command::Restored(args) => {
            link::cluster_dir::check_cluster_name(&args.cluster)?;
            executor(&options)?.run(run::restored(args))
        }
    }
}
