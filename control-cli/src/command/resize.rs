//! `vstorage resize`: another size for a volume.

use clap::Args;
use serde::Serialize;
use wire::namespace::{FileRef, Resize as ResizeRequest, Stat};

use crate::cli::Context;
use crate::error::Error;
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
        let size = mds.change(&request, path).await?.info.size;
        let resized = Resized { path: path.to_owned(), size_before: now, size };
        context.output.value(&resized, || format!("{} has {size} bytes now (before: {now})\n", self.path))
    }
}
