//! `vstorage set-attr`: changes attributes of a file or directory.

use clap::Args;
use serde::Serialize;
use wire::namespace::SetAttr as SetAttrRequest;

use crate::attributes::{Attribute, AttributeError, collect};
use crate::cli::Context;
use crate::error::{Error, Misuse};
use crate::place::Place;
use crate::table::printable;

const EXAMPLES: &str = "\
Examples:
  vstorage set-attr -R /vstorage/stor1 replicas=3
  vstorage set-attr -R /vstorage/stor1/private/MyCT tier=1
  vstorage -c stor1 set-attr -R -p / replicas=3:2 failure-domain=host
  vstorage -c stor1 set-attr -p /fast tier=2

Attributes: replicas=N[:MIN] (1 to 15), failure-domain=disk|host, tier=0..3,
chunk-size=SIZE, encoding=M+N. Without MIN the metadata server sets the minimum: one less
than N, at least 1. Without -R a directory's change is for what is created in it from now
on.";

/// Change attributes of a file or directory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SetAttr {
    /// A directory with all below it
    #[arg(short = 'R', long)]
    recursive: bool,
    /// The path is one within the cluster, not one of this host below a mounted cluster
    #[arg(short = 'p', long = "cluster-path")]
    in_cluster: bool,
    /// The file or directory
    #[arg(value_name = "PATH")]
    path: String,
    /// The attributes
    #[arg(value_name = "NAME=VALUE")]
    attributes: Vec<String>,
}

/// What was changed.
#[derive(Debug, Serialize)]
struct Changed {
    file: String,
    cluster: String,
    path: String,
    changed: u64,
}

impl SetAttr {
    /// Changes them.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn run(mut self, context: &mut Context) -> Result<(), Error> {
        self.part_misprint();
        let attributes: Result<Vec<Attribute>, AttributeError> =
            self.attributes.iter().map(|text| text.parse()).collect();
        let attrs = attributes.and_then(|attributes| collect(&attributes)).map_err(Misuse::from)?;
        if self.attributes.is_empty() {
            return Err(Misuse::NoAttribute.into());
        }
        let place = Place::meant(self.in_cluster, &self.path)?;
        let (cluster, mds) = place.reach(context).await?;
        let request = SetAttrRequest { path: (&place.path).into(), recursive: self.recursive, attrs };
        let changed = mds.change(&request, place.path.as_str()).await?.changed;
        let noun = if changed == 1 { "file or directory" } else { "files and directories" };
        let shown = Changed { file: place.given, cluster, path: (&place.path).into(), changed };
        context.output.value(&shown, || format!("{}: changed {changed} {noun}\n", printable(&shown.file)))
    }

    /// The operator's guide prints `-p / failure-domain=host` without the blank. Where no other attribute is given
    /// and the path is `/` and one attribute, that is what is meant.
    fn part_misprint(&mut self) {
        if self.attributes.is_empty()
            && let Some(attribute) = self.path.strip_prefix('/')
            && !attribute.contains('/')
            && !matches!(
                attribute.parse::<Attribute>(),
                Err(AttributeError::Form(_) | AttributeError::Unknown(_))
            )
        {
            self.attributes.push(attribute.to_owned());
            self.path.truncate(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_blank_after_the_slash_is_seen() {
        let parted = |path: &str, attributes: &[&str]| {
            let attributes = attributes.iter().map(|&text| text.to_owned()).collect();
            let mut command = SetAttr { recursive: false, in_cluster: true, path: path.into(), attributes };
            command.part_misprint();
            (command.path, command.attributes)
        };
        let both = |path: &str, attributes: &[&str]| {
            (path.to_owned(), attributes.iter().map(|&t| t.to_owned()).collect())
        };
        assert_eq!(parted("/failure-domain=disk", &[]), both("/", &["failure-domain=disk"]));
        assert_eq!(
            parted("/replicas=99", &[]),
            both("/", &["replicas=99"]),
            "so that the value is refused by name"
        );
        assert_eq!(parted("/", &["tier=1"]), both("/", &["tier=1"]));
        assert_eq!(
            parted("/tier=1", &["replicas=2"]),
            both("/tier=1", &["replicas=2"]),
            "a file may be called so"
        );
        assert_eq!(parted("/a/tier=1", &[]), both("/a/tier=1", &[]));
        assert_eq!(parted("/colour=red", &[]), both("/colour=red", &[]));
        assert_eq!(parted("/a", &[]), both("/a", &[]));
    }
}
