//! `vstorage resize`: another size for a volume.

use std::rc::Rc;

use clap::Args;
use client::{HostCluster, Membership, OpenOptions, Servers, Volume};
use link::{Expect, Keep, Master};
use serde::Serialize;
use wire::Status;
use wire::hello::Role;
use wire::namespace::{FileRef, Resize as ResizeRequest, Stat};
use wire::session::ClientKind;

use crate::cli::Context;
use crate::error::Error;
use crate::mds::MdsError;
use crate::path::ClusterPath;
use crate::units::ByteSize;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 resize /vm1 --size 200G
  vstorage -c stor1 resize /vm1 --size 50G --shrink";

/// Change the size of a volume
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Resize {
    /// The volume
    #[arg(value_name = "PATH")]
    path: ClusterPath,
    /// Its new size
    #[arg(long, value_name = "SIZE")]
    size: ByteSize,
    /// Let it become smaller: what lies behind its new end is destroyed
    #[arg(long)]
    shrink: bool,
}

/// What was changed.
#[derive(Debug, Serialize)]
struct Resized {
    path: String,
    size_before: u64,
    size: u64,
}

impl Resize {
    /// Resizes it.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let mds = context.mds().await?;
        let file = || Some(FileRef::Path((&self.path).into()));
        let path = self.path.as_str();
        let now = mds.ask(&Stat { file: file() }, path).await?.info.size;
        let wanted = self.size.0;
        if wanted < now && !self.shrink {
            return Err(Error::WouldShrink { path: self.path.to_string(), now, wanted });
        }
        let request = ResizeRequest { file: file(), size: wanted, allow_shrink: self.shrink };
        let reply = match mds.change(&request, path).await {
            Err(MdsError::Refused { status: Status::Unsettled, .. }) => {
                self.settle_end(context)
                    .await
                    .map_err(|error| Error::Unsettled { path: path.to_owned(), error })?;
                mds.change(&request, path).await
            }
            reply => reply,
        };
        let size = reply?.info.size;
        let resized = Resized { path: path.to_owned(), size_before: now, size };
        context.output.value(&resized, || format!("{} has {size} bytes now (before: {now})\n", self.path))
    }

    /// Opens the file for writing and closes it in order: so what a writer that died has left behind the end is gone, and would not
    /// appear in a larger file.
    async fn settle_end(&self, context: &Context) -> Result<(), Box<dyn std::error::Error>> {
        let HostCluster { endpoint, servers, .. } = HostCluster::load(&context.cluster()?.name).await?;
        let master = Rc::new(Master::new(&endpoint, servers, Keep::new(Expect::role(Role::Mds))));
        let patience = context.service_patience();
        let membership = Membership::begin(master, ClientKind::Tool, None, patience).await?;
        let settled = async {
            let options = OpenOptions { write: true, patience };
            let servers = Servers::new(endpoint.clone());
            let volume = Volume::open(membership.session(), &servers, self.path.as_str(), &options).await?;
            let settled = match rt::time::timeout(patience, volume.settle_end()).await {
                Ok(settled) => settled.map_err(Box::from),
                Err(_) => Err("its chunk servers do not answer".into()),
            };
            volume.close().await?;
            settled
        }
        .await;
        membership.end().await;
        endpoint.close().await;
        settled
    }
}
