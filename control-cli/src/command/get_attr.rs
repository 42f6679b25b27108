//! `vstorage get-attr`: the attributes of a file or directory.

use clap::Args;
use serde::Serialize;
use wire::namespace::GetAttr as GetAttrRequest;

use crate::attributes::AttrsView;
use crate::cli::Context;
use crate::error::{Error, Misuse};
use crate::path::ClusterPath;

const EXAMPLES: &str = "\
Examples:
  vstorage -c stor1 get-attr -p /
  vstorage -c stor1 get-attr -p /fast --json

With --json, \"explicit\" are the attributes that were set here, \"effective\" all that
are in force.";

/// Show the attributes of a file or directory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GetAttr {
    /// The path is one within the cluster
    #[arg(short = 'p', long = "cluster-path")]
    in_cluster: bool,
    /// The file or directory
    #[arg(value_name = "PATH")]
    path: String,
}

/// The attributes of a path.
#[derive(Debug, Serialize)]
struct Attributes {
    path: String,
    effective: AttrsView,
    explicit: AttrsView,
}

/// The path meant by an argument with or without `-p`.
///
/// # Errors
/// [`Misuse`].
pub(super) fn meant(in_cluster: bool, path: &str) -> Result<ClusterPath, Misuse> {
    if !in_cluster {
        return Err(Misuse::NotMounted(path.to_owned()));
    }
    path.parse().map_err(|error| Misuse::Path { path: path.to_owned(), error })
}

impl GetAttr {
    /// Shows them.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let path = meant(self.in_cluster, &self.path)?;
        let mds = context.announced_mds().await?;
        let reply = mds.ask(&GetAttrRequest { path: (&path).into() }, path.as_str()).await?;
        let shown = Attributes {
            path: (&path).into(),
            effective: (&reply.effective).into(),
            explicit: (&reply.explicit).into(),
        };
        context.output.value(&shown, || format!("File: '{path}'\nAttributes:\n{}", shown.effective))
    }
}
