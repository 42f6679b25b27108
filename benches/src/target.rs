//! What is measured: the medium itself, the floor, and the ways into the store.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A way to the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A file, with direct I/O: on the medium itself or in a mount.
    File(PathBuf),
    /// Servers of the floor program, by their ports.
    Floor(Vec<u16>),
    /// A volume through the library.
    Volume {
        /// Name of the cluster.
        cluster: String,
        /// Path in it.
        path: String,
    },
    /// A volume through its export, by the socket.
    Nbd(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Floor(ports) => {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                write!(f, "floor:{}", ports.join(","))
            }
            Self::Volume { cluster, path } => write!(f, "volume:{cluster}:{path}"),
            Self::Nbd(socket) => write!(f, "nbd:{}", socket.display()),
        }
    }
}

/// The text names no target.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no target; it is file:PATH, floor:PORT,…, volume:CLUSTER:PATH or nbd:SOCKET")]
pub(crate) struct UnknownTarget(String);

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<Self, UnknownTarget> {
        let unknown = || UnknownTarget(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(unknown)?;
        match kind {
            "file" => Ok(Self::File(rest.into())),
            "nbd" => Ok(Self::Nbd(rest.into())),
            "floor" => {
                let ports: Result<_, _> = rest.split(',').map(str::parse).collect();
                ports.map(Self::Floor).map_err(|_| unknown())
            }
            "volume" => {
                let (cluster, path) = rest.split_once(':').ok_or_else(unknown)?;
                Ok(Self::Volume { cluster: cluster.into(), path: path.into() })
            }
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_found_by_what_they_are_shown_as() {
        let volume = Target::Volume { cluster: "c".into(), path: "/v".into() };
        for target in [Target::File("/a".into()), Target::Floor(vec![1, 2]), volume, Target::Nbd("/s".into())]
        {
            assert_eq!(target.to_string().parse::<Target>().ok(), Some(target));
        }
        assert!("floor:x".parse::<Target>().is_err() && "tape:/a".parse::<Target>().is_err());
    }
}
