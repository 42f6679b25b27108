//! `vstorage get-attr`: the attributes of a file or directory.

use clap::Args;
use serde::Serialize;
use wire::namespace::GetAttr as GetAttrRequest;

use crate::attributes::AttrsView;
use crate::cli::Context;
use crate::error::Error;
use crate::place::Place;
use crate::table::printable;

const EXAMPLES: &str = "\
Examples:
  vstorage get-attr /vstorage/stor1
  vstorage -c stor1 get-attr -p /
  vstorage -c stor1 get-attr -p /fast --json

With --json, \"explicit\" are the attributes that were set here, \"effective\" all that
are in force.";

/// Show the attributes of a file or directory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GetAttr {
    /// The path is one within the cluster, not one of this host below a mounted cluster
    #[arg(short = 'p', long = "cluster-path")]
    in_cluster: bool,
    /// The file or directory
    #[arg(value_name = "PATH")]
    path: String,
}

/// The attributes of a path.
#[derive(Debug, Serialize)]
struct Attributes {
    file: String,
    cluster: String,
    path: String,
    effective: AttrsView,
    explicit: AttrsView,
}

impl GetAttr {
    /// Shows them.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Error> {
        let place = Place::meant(self.in_cluster, &self.path)?;
        let (cluster, mds) = place.reach(context).await?;
        let request = GetAttrRequest { path: (&place.path).into() };
        let reply = mds.ask(&request, place.path.as_str()).await?;
        let shown = Attributes {
            file: place.given,
            cluster,
            path: (&place.path).into(),
            effective: (&reply.effective).into(),
            explicit: (&reply.explicit).into(),
        };
        context
            .output
            .value(&shown, || format!("File: '{}'\nAttributes:\n{}", printable(&shown.file), shown.effective))
    }
}
