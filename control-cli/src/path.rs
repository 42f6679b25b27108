//! Paths within the cluster, as arguments.

use std::fmt;
use std::str::FromStr;

use wire::limits::{MAX_NAME, MAX_PATH};

/// A path within the cluster: absolute, in its one normal form (no empty components, no `/` at the end).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterPath(String);

/// Why a text is no path within the cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// It is relative.
    #[error("a path within the cluster begins with /: do you mean /{0}?")]
    Relative(String),
    /// It is empty.
    #[error("the path is empty; the top directory is /")]
    Empty,
    /// It has a `.` or `..`.
    #[error("the path must not contain {0:?}: name the place itself")]
    Dots(String),
    /// It has a NUL byte.
    #[error("the path must not contain a NUL byte")]
    Nul,
    /// A component is too long.
    #[error("a name in the path is {0} bytes long, the limit is {MAX_NAME}")]
    NameTooLong(usize),
    /// The path is too long.
    #[error("the path is {0} bytes long, the limit is {MAX_PATH}")]
    TooLong(usize),
}

impl ClusterPath {
    /// The top directory.
    pub(crate) fn root() -> Self {
        Self("/".to_owned())
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the top directory.
    pub(crate) fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// The last component; empty for the top directory.
    pub(crate) fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl From<&ClusterPath> for String {
    fn from(path: &ClusterPath) -> Self {
        path.0.clone()
    }
}

impl FromStr for ClusterPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        if text.contains('\0') {
            return Err(PathError::Nul);
        }
        let names = || text.split('/').filter(|name| !name.is_empty());
        if let Some(dots) = names().find(|name| matches!(*name, "." | "..")) {
            return Err(PathError::Dots(dots.to_owned()));
        }
        if !text.starts_with('/') {
            return Err(PathError::Relative(text.to_owned()));
        }
        if let Some(long) = names().map(str::len).find(|&len| len > MAX_NAME) {
            return Err(PathError::NameTooLong(long));
        }
        let path: String = names().flat_map(|name| ["/", name]).collect();
        match path.len() {
            0 => Ok(Self::root()),
            len if len > MAX_PATH => Err(PathError::TooLong(len)),
            _ => Ok(Self(path)),
        }
    }
}

impl fmt::Display for ClusterPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::table::printable(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_form_of_each_path() {
        let table = [
            ("/", "/"),
            ("///", "/"),
            ("/a", "/a"),
            ("/a/", "/a"),
            ("//a///b//", "/a/b"),
            ("/a b/c=d", "/a b/c=d"),
            ("/..a/b..", "/..a/b.."),
        ];
        for (text, normal) in table {
            assert_eq!(text.parse::<ClusterPath>().unwrap().as_str(), normal);
        }
        assert!("//".parse::<ClusterPath>().unwrap().is_root());
        assert_eq!("/a/b/".parse::<ClusterPath>().unwrap().name(), "b");
        assert_eq!(ClusterPath::root().name(), "");
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let long = "x".repeat(256);
        let deep = format!("/{}", "x".repeat(255)).repeat(17);
        let table = [
            ("", PathError::Empty),
            ("a/b", PathError::Relative("a/b".into())),
            ("/a/../b", PathError::Dots("..".into())),
            ("..", PathError::Dots("..".into())),
            ("/a/..", PathError::Dots("..".into())),
            ("/./a", PathError::Dots(".".into())),
            ("/a\0", PathError::Nul),
        ];
        for (text, error) in table {
            assert_eq!(text.parse::<ClusterPath>(), Err(error), "{text:?}");
        }
        assert_eq!(format!("/{long}").parse::<ClusterPath>(), Err(PathError::NameTooLong(256)));
        assert_eq!(deep.parse::<ClusterPath>(), Err(PathError::TooLong(4352)));
    }

    #[test]
    fn a_path_cannot_steer_the_terminal() {
        assert_eq!("/a\x1b[m".parse::<ClusterPath>().unwrap().to_string(), "/a\\u{1b}[m");
    }
}
