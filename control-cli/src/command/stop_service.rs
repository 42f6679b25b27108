//! `vstorage stop-service`: stops this host's services where there is no systemd.

use clap::Args;

use crate::cli::Context;
use crate::error::Error;
use crate::service::process::BootId;
use crate::service::report::Reports;
use crate::service::stop::Manner;
use crate::service::{self, ServiceError, Turn};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 stop-service
  vstorage -c stor1 stop-service stor1-cs
  vstorage -c stor1 stop-service all --timeout 30 --kill

Services are asked to stop in order (SIGTERM), the metadata server last. Killing loses
nothing that was flushed, but the next start has to recover.";

/// Stop services of this host
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StopService {
    /// all, mds, cs, the directory of a service, or the last part of it
    #[arg(value_name = "SERVICE", default_value = "all")]
    service: String,
    /// Kill services that have not ended in time
    #[arg(long)]
    kill: bool,
    /// Even if systemd runs on this host
    #[arg(long)]
    no_systemd: bool,
}

impl StopService {
    /// Stops them.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let cluster = context.cluster()?;
        let services = service::select(&cluster, &self.service).await?;
        service::without_systemd("stop", self.no_systemd)?;
        let _turn = Turn::take(&cluster)?;
        let boot = BootId(rt::node::boot_id().map_err(ServiceError::Wait)?);
        let manner = Manner { patience: context.service_patience(), kill: self.kill };
        service::stop::stop(&cluster, boot, &services, manner, Reports::new(&mut context.output))
    }
}
