//! `vstorage start-service`: starts this host's services where there is no systemd.

use clap::Args;

use crate::cli::Context;
use crate::error::Error;
use crate::service::process::BootId;
use crate::service::report::Reports;
use crate::service::{self, ServiceError, Turn};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 start-service
  vstorage -c stor1 start-service mds
  vstorage -c stor1 start-service /vstorage/stor1-cs --timeout 600

The metadata server is started before the chunk servers; each start waits until the
service says that it is ready. Logs are in /var/log/vstorage, process numbers in
/run/vstorage. A service that runs already is left alone.";

/// Start services of this host
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StartService {
    /// all, mds, cs, the directory of a service, or the last part of it
    #[arg(value_name = "SERVICE", default_value = "all")]
    service: String,
    /// Even if systemd runs on this host
    #[arg(long)]
    no_systemd: bool,
}

impl StartService {
    /// Starts them.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let cluster = context.cluster()?;
        let services = service::select(&cluster, &self.service).await?;
        service::without_systemd("start", self.no_systemd)?;
        let _turn = Turn::take(&cluster)?;
        let boot = BootId(rt::node::boot_id().map_err(ServiceError::Wait)?);
        let patience = context.service_patience();
        service::start::start(&cluster, boot, &services, patience, Reports::new(&mut context.output))
    }
}
