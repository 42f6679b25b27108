//! `vstorage make-cs`: makes a chunk server, by `vstorage-csd make`.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Args, ValueEnum};
use wire::cluster::ClusterStat;
use wire::namespace::GetAttr;

use crate::cli::{Context, Next};
use crate::error::Error;
use crate::listen::ListenAddress;
use crate::program::{self, Daemon, local_dir};
use crate::redundancy::{self, Place};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 make-cs -r /vstorage/stor1-cs
  vstorage -c stor1 make-cs -r /vstorage/stor1-cs -t 1 -a 10.30.100.103:3000
  vstorage make-cs -r /vstorage/stor1-cs -a [fd00::3]
  vstorage -c stor1 make-cs -r /vstorage/stor1-cs -j /ssd/stor1/cs1 -s 30720 -T ssd

Afterwards start it: systemctl start vstorage-csd.target, or vstorage start-service where
there is no systemd.";

/// What a journal is tuned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Tuning {
    /// Flash.
    Ssd,
}

/// Make a chunk server
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MakeCs {
    /// The directory for its data, on a disk of its own
    #[arg(short, long, value_name = "DIR")]
    repository: PathBuf,
    /// Storage tier, 0 to 3 [default: 0]
    #[arg(short, long, value_name = "TIER", value_parser = clap::value_parser!(u8).range(0..=3))]
    tier: Option<u8>,
    /// The address at which clients reach it [default: the one that leads to the metadata servers, any port]
    #[arg(short, long, value_name = "ADDRESS[:PORT]")]
    address: Option<ListenAddress>,
    /// The directory for its journal, on an SSD [default: in its own directory]
    #[arg(short, long, value_name = "DIR", requires = "journal_size")]
    journal: Option<PathBuf>,
    /// Size of the journal in MB
    #[arg(short = 's', long, value_name = "MB", requires = "journal", value_parser = clap::value_parser!(u64).range(1..=16_777_216))]
    journal_size: Option<u64>,
    /// Tune the journal for flash
    #[arg(short = 'T', long, value_name = "ssd", value_enum, hide_possible_values = true)]
    tune: Option<Tuning>,
    /// Keep no checksums of the data
    #[arg(short = 'S', long)]
    no_checksums: bool,
}

impl MakeCs {
    /// Checks the arguments and leaves the rest to the daemon; then says whether the cluster's redundancy can be had.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &Context) -> Result<Next, Error> {
        let dir = local_dir(&self.repository)?;
        let journal = self.journal.as_deref().map(local_dir).transpose()?;
        let cluster = context.cluster()?;
        // Without these the new server could not join, which is said before anything is made.
        cluster.servers().await?;
        cluster.credentials().await?;
        let address = match &self.address {
            Some(address) => Some(address.own().await?),
            None => None,
        };
        let mut command = Command::new(Daemon::Cs.find()?);
        command.args(["make", "-c", &cluster.name, "-r"]).arg(&dir);
        if let Some(tier) = self.tier {
            command.args(["-t", &tier.to_string()]);
        }
        if let Some(address) = address {
            command.args(["-a", &address.to_string()]);
        }
        if let (Some(journal), Some(size)) = (journal, self.journal_size) {
            command.arg("-j").arg(journal).args(["-s", &size.to_string()]);
        }
        if self.tune == Some(Tuning::Ssd) {
            command.args(["-T", "ssd"]);
        }
        if self.no_checksums {
            command.arg("-S");
        }
        context.pass_quiet_logging(&mut command);
        let status = program::run(command)?;
        if !status.success() {
            // A signal has no code.
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(Next::Exit(code.map_or(ExitCode::FAILURE, ExitCode::from)));
        }
        let path = dir.display().to_string();
        if let Err(error) = warn_of_redundancy(context, &path).await {
            context
                .output
                .note(&format!("warning: cannot tell whether the redundancy policy can be met: {error}"));
        }
        Ok(Next::Done)
    }
}

/// Warns when there are too few places for the replicas that files at the top of the cluster ask for.
async fn warn_of_redundancy(context: &Context, path: &str) -> Result<(), Error> {
    let mds = context.mds().await?;
    let attrs = mds.ask(&GetAttr { path: "/".into() }, "/").await?.effective;
    let servers = mds.ask(&ClusterStat {}, "chunk servers").await?.cs;
    let host = context.dirs.host_id().await.unwrap_or_default();
    // It joins the others when it is started; until then only we know of it.
    let new = Place { host, path: path.to_owned() };
    if let Some(gap) = redundancy::gap(&attrs, &servers, &new) {
        context.output.note(&format!("warning: {}", gap.text(&context.cluster()?.name)));
    }
    Ok(())
}
