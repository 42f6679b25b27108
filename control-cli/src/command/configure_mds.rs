//! `vstorage configure-mds`: new addresses of the metadata servers, for a cluster that moves to another network.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use link::ServerAddress;
use link::cluster_dir::ServiceKind;
use link::servers::AddressError;

use crate::cli::Context;
use crate::error::Error;
use crate::program::local_dir;
use crate::service::{ServiceError, select};

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 configure-mds -r /vstorage/stor1-mds -n 1@10.10.20.1
  vstorage -c stor1 configure-mds -r /vstorage/stor1-mds -n 1@10.10.20.1:4110

This version checks what is asked for and then refuses: a metadata server keeps the address it was
made with.";

/// Give the metadata servers of the cluster new addresses
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ConfigureMds {
    /// The directory of the metadata server of this host
    #[arg(short, long, value_name = "DIR")]
    repository: PathBuf,
    /// The new address of a metadata server; give all of them
    #[arg(short, long = "new-address", value_name = "MDSID@ADDRESS[:PORT]", required = true)]
    new: Vec<NewAddress>,
}

/// A metadata server and its new address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NewAddress {
    mds_id: u64,
    address: ServerAddress,
}

/// Why a text is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum NewAddressError {
    #[error("give the number of the metadata server, an @ and its address: 1@10.10.20.1")]
    Form,
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl FromStr for NewAddress {
    type Err = NewAddressError;

    fn from_str(text: &str) -> Result<Self, NewAddressError> {
        let (id, address) = text.split_once('@').ok_or(NewAddressError::Form)?;
        let mds_id = id.parse().map_err(|_| NewAddressError::Form)?;
        Ok(Self { mds_id, address: address.parse()? })
    }
}

impl ConfigureMds {
    /// Finds the metadata server, and refuses.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let dir = local_dir(&self.repository)?;
        let cluster = context.cluster()?;
        let found = select(&cluster, &dir.display().to_string()).await?;
        let Some(service) = found.iter().find(|service| service.kind == ServiceKind::Mds) else {
            return Err(ServiceError::NotAnMds(dir).into());
        };
        let meant =
            self.new.into_iter().map(|new| format!("MDS#{} at {}", new.mds_id, new.address)).collect();
        Err(Error::AddressStays { dir: service.dir.clone(), meant })
    }
}
