//! The file `mds.conf` beside the log: whose metadata server this is, and where it is reached.
//!
//! `docs/formats/mds-files.md` describes it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Its name.
pub(super) const FILE: &str = "mds.conf";
/// The version this program writes and reads.
const FORMAT: &str = "1";

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettingsError {
    /// There is none.
    #[error("{} holds no metadata server; create one there with `vstorage make-mds`", .0.display())]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("cannot read {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {what}; restore the file from a backup", .path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: Flaw,
    },
}

/// What is wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flaw {
    /// Another format.
    #[error("written by a newer version of vstorage (format {0})")]
    Newer(String),
    /// A line that must be there is not.
    #[error("the line `{0} …` is missing")]
    Missing(&'static str),
    /// A value that cannot be.
    #[error("{value:?} is no value for `{key}`")]
    Value {
        /// The line.
        key: &'static str,
        /// What it says.
        value: String,
    },
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// The name of the cluster.
    pub(super) cluster: String,
    /// The id of the metadata server.
    pub(super) mds_id: u64,
    /// Where other metadata servers reach it; chunk servers and clients use the next port.
    pub(super) address: SocketAddr,
}

impl Settings {
    /// The file's text.
    pub(super) fn to_text(&self) -> String {
        let Self { cluster, mds_id, address } = self;
        format!(
            "# The metadata server in this directory. Written when it was made; see docs/formats/mds-files.md.\n\
             format {FORMAT}\ncluster {cluster}\nmds {mds_id}\naddress {address}\n"
        )
    }

    fn parse(text: &str) -> Result<Self, Flaw> {
        let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let value = |key: &'static str| {
            let found = lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == key);
            found.map(|(_, value)| value.trim()).ok_or(Flaw::Missing(key))
        };
        let bad = |key: &'static str, value: &str| Flaw::Value { key, value: value.to_owned() };
        let format = value("format")?;
        if format != FORMAT {
            return Err(Flaw::Newer(format.to_owned()));
        }
        let (mds, address) = (value("mds")?, value("address")?);
        Ok(Self {
            cluster: value("cluster")?.to_owned(),
            mds_id: mds.parse().ok().filter(|id| *id > 0).ok_or_else(|| bad("mds", mds))?,
            address: address.parse().map_err(|_| bad("address", address))?,
        })
    }

    /// Reads the settings of the metadata server in a directory.
    pub(super) async fn load(dir: &Path) -> Result<Self, SettingsError> {
        let path = dir.join(FILE);
        let bytes = match rt::fs::read(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SettingsError::Missing(dir.to_owned()));
            }
            Err(error) => return Err(SettingsError::Read { path, error }),
        };
        Self::parse(&String::from_utf8_lossy(&bytes)).map_err(|what| SettingsError::Bad { path, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { cluster: "stor1".into(), mds_id: 1, address: "[fd00::1]:2510".parse().unwrap() }
    }

    #[test]
    fn the_first_file_is_read_and_written_as_it_was() {
        let frozen = include_str!("../../fixtures/v1/mds.conf");
        assert_eq!(Settings::parse(frozen), Ok(settings()));
        assert_eq!(settings().to_text(), frozen);
    }

    #[test]
    fn settings_survive_their_file() {
        assert_eq!(Settings::parse(&settings().to_text()), Ok(settings()));
        let more = format!("\n{}later version\n", settings().to_text());
        assert_eq!(Settings::parse(&more), Ok(settings()), "lines of a later version may come");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = settings().to_text();
        let value = |key, value: &str| Flaw::Value { key, value: value.into() };
        let table = [
            (String::new(), Flaw::Missing("format")),
            (text.replace("format 1", "format 2"), Flaw::Newer("2".into())),
            (text.replace("mds 1\n", ""), Flaw::Missing("mds")),
            (text.replace("mds 1\n", "mds 0\n"), value("mds", "0")),
            (text.replace("[fd00::1]:2510", "fd00::1"), value("address", "fd00::1")),
            (text.replace("cluster stor1", "cluster"), Flaw::Missing("cluster")),
        ];
        for (text, flaw) in table {
            assert_eq!(Settings::parse(&text), Err(flaw), "{text}");
        }
    }
}
