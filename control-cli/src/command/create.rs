//! `vstorage create`: a volume or a directory, without a mount.

use clap::{ArgGroup, Args};
use serde::Serialize;
use wire::namespace::{Create as CreateRequest, FileKind};

use crate::attributes::{Attribute, collect};
use crate::cli::Context;
use crate::error::{Error, Misuse};
use crate::path::ClusterPath;
use crate::units::ByteSize;
use crate::view::file::kind_name;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 create /vm1 --size 100G
  vstorage -c stor1 create /fast/vm2 --size 20G replicas=3 tier=2
  vstorage -c stor1 create --dir /fast tier=2

Sizes are bytes, or numbers with K, M, G or T (steps of 1024). Attributes that are not
given are inherited from the directory. Space is taken when it is written to.";

/// Create a volume or a directory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("what").required(true).args(["size", "dir"])))]
pub(crate) struct Create {
    /// Its path within the cluster
    #[arg(value_name = "PATH")]
    path: ClusterPath,
    /// Size of the volume
    #[arg(long, value_name = "SIZE", value_parser = volume_size)]
    size: Option<ByteSize>,
    /// Make a directory
    #[arg(long)]
    dir: bool,
    /// Its own attributes
    #[arg(value_name = "NAME=VALUE")]
    attributes: Vec<Attribute>,
}

/// Why a size cannot be that of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum VolumeSizeError {
    /// It is none.
    #[error(transparent)]
    Size(#[from] crate::units::SizeError),
    /// It is nothing.
    #[error("a volume has at least 1 byte")]
    Empty,
}

/// A size that a volume can have.
fn volume_size(text: &str) -> Result<ByteSize, VolumeSizeError> {
    match text.parse()? {
        ByteSize(0) => Err(VolumeSizeError::Empty),
        size => Ok(size),
    }
}

/// What was made.
#[derive(Debug, Serialize)]
struct Created {
    path: String,
    kind: &'static str,
    file_id: u64,
    size: u64,
}

impl Create {
    /// Creates it.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        if self.path.is_root() {
            return Err(Misuse::Root.into());
        }
        let attrs = collect(&self.attributes).map_err(Misuse::from)?;
        let (kind, mode) = if self.dir { (FileKind::Directory, 0o755) } else { (FileKind::File, 0o600) };
        let size = self.size.map_or(0, |size| size.0);
        let path = self.path.as_str();
        let request = CreateRequest { path: path.to_owned(), kind: kind.into(), size, attrs, mode };
        let info = context.mds().await?.change(&request, path).await?.info;
        let created = Created {
            path: path.to_owned(),
            kind: kind_name(info.kind()),
            file_id: info.file_id,
            size: info.size,
        };
        context.output.value(&created, || match kind {
            FileKind::Directory => format!("created directory {}\n", self.path),
            _ => format!("created {} with {} ({} bytes)\n", self.path, ByteSize(info.size), info.size),
        })
    }
}
