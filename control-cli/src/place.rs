//! The file that a path argument means, with or without `-p`.

use std::path::Path;

use wire::namespace::{FileRef, Stat};

use crate::cli::Context;
use crate::cluster::Cluster;
use crate::error::{Error, Misuse};
use crate::mds::Mds;
use crate::mounted::{self, Mounted};
use crate::path::ClusterPath;
use crate::table::printable;

/// A file by the path that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// As it was given.
    pub(crate) given: String,
    /// Its path within the cluster.
    pub(crate) path: ClusterPath,
    /// Where it was found on this host; with `-p` it is not looked for.
    mounted: Option<Mounted>,
}

impl Place {
    /// The file meant by an argument with or without `-p`.
    ///
    /// # Errors
    /// [`Misuse`].
    pub(crate) fn meant(in_cluster: bool, given: &str) -> Result<Self, Misuse> {
        if !in_cluster {
            let mounted = mounted::locate(Path::new(given))?;
            return Ok(Self { given: given.to_owned(), path: mounted.path.clone(), mounted: Some(mounted) });
        }
        let path = given.parse().map_err(|error| Misuse::Path { path: given.to_owned(), error })?;
        Ok(Self { given: given.to_owned(), path, mounted: None })
    }

    /// The name of its cluster, and the metadata servers of that, connected. What was found on a mount must be there, too.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn reach(&self, context: &Context) -> Result<(String, Mds), Error> {
        let Some(mounted) = &self.mounted else {
            let cluster = context.cluster()?;
            let mds = context.announced_mds_of(&cluster).await?;
            return Ok((cluster.name, mds));
        };
        let cluster = Cluster::meant(&context.dirs, Some(&self.cluster_named(mounted, context)?))?;
        let mds = context.announced_mds_of(&cluster).await?;
        let request = Stat { file: Some(FileRef::Path((&self.path).into())) };
        let info = mds.ask(&request, self.path.as_str()).await?.info;
        if !mounted.is(info.file_id) {
            return Err(Error::NotTheSame {
                given: printable(&self.given),
                path: self.path.to_string(),
                cluster: cluster.name,
            });
        }
        Ok((cluster.name, mds))
    }

    fn cluster_named(&self, mounted: &Mounted, context: &Context) -> Result<String, Misuse> {
        match &context.globals.cluster {
            Some(named) if *named != mounted.cluster => Err(Misuse::OtherMount {
                path: printable(&self.given),
                found: mounted.cluster.clone(),
                named: named.clone(),
            }),
            _ => Ok(mounted.cluster.clone()),
        }
    }
}
