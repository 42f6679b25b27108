//! Paths inside the cluster.
//!
//! A [`Path`] is absolute, in UTF-8 and already normal: it has no `.`, `..`, empty component or NUL, so two
//! different paths are two different places and no path leads out of the cluster.

use std::fmt;

/// The longest component, in bytes, as in `limits.h` (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// The longest path, in bytes, as in `limits.h` (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;

/// Why a text is not a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("a path inside the cluster begins with /")]
    NotAbsolute,
    /// It is over [`PATH_MAX`] bytes.
    #[error("the path is longer than 4096 bytes")]
    TooLong,
    /// A component is over [`NAME_MAX`] bytes.
    #[error("a name in the path is longer than 255 bytes")]
    NameTooLong,
    /// Two slashes in a row, or one at the end.
    #[error("the path has an empty name in it (// or a slash at the end)")]
    EmptyName,
    /// A component is `.` or `..`.
    #[error("the path has . or .. in it")]
    DotName,
    /// A NUL byte.
    #[error("the path has a NUL byte in it")]
    Nul,
}

/// A valid path inside the cluster. Only [`Path::parse`] makes one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path<'a>(&'a str);

impl<'a> Path<'a> {
    /// The top directory.
    pub const ROOT: Path<'static> = Path("/");

    /// Checks a text.
    ///
    /// # Errors
    /// [`PathError`] says which rule is broken, the first from the left.
    pub fn parse(text: &'a str) -> Result<Self, PathError> {
        let Some(names) = text.strip_prefix('/') else { return Err(PathError::NotAbsolute) };
        if text.len() > PATH_MAX {
            return Err(PathError::TooLong);
        }
        if names.is_empty() {
            return Ok(Self(text));
        }
        names.split('/').try_for_each(check_name)?;
        Ok(Self(text))
    }

    /// The whole text.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Whether this is the top directory.
    pub fn is_root(self) -> bool {
        self.0.len() == 1
    }

    /// The components from the top down; none for the top directory.
    pub fn names(self) -> impl Iterator<Item = &'a str> {
        self.0[1..].split('/').filter(|name| !name.is_empty())
    }

    /// The directory that holds this entry and the entry's name; `None` for the top directory.
    pub fn split_last(self) -> Option<(Path<'a>, &'a str)> {
        if self.is_root() {
            return None;
        }
        let (parent, name) = self.0.rsplit_once('/')?;
        Some((if parent.is_empty() { Path("/") } else { Path(parent) }, name))
    }

    /// Whether `self` is `other` or lies below it.
    pub fn is_within(self, other: Path<'_>) -> bool {
        other.is_root()
            || self.0.strip_prefix(other.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Checks one component.
///
/// # Errors
/// The rule that is broken.
pub fn check_name(name: &str) -> Result<(), PathError> {
    match name {
        "" => Err(PathError::EmptyName),
        "." | ".." => Err(PathError::DotName),
        _ if name.len() > NAME_MAX => Err(PathError::NameTooLong),
        _ if name.contains('\0') => Err(PathError::Nul),
        _ if name.contains('/') => Err(PathError::EmptyName),
        _ => Ok(()),
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Path({:?})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_a_path() {
        let long_name = format!("/{}", "n".repeat(NAME_MAX + 1));
        let longest_name = format!("/{}", "n".repeat(NAME_MAX));
        let long_path = format!("/{}", "ab/".repeat(1400));
        let longest_path = format!("/{}{}", "ab/".repeat(1364), "abc");
        assert_eq!(longest_path.len(), PATH_MAX);
        let cases: &[(&str, Result<(), PathError>)] = &[
            ("/", Ok(())),
            ("/a", Ok(())),
            ("/a/b c/ü", Ok(())),
            ("/...", Ok(())),
            (&longest_name, Ok(())),
            (&longest_path, Ok(())),
            ("", Err(PathError::NotAbsolute)),
            ("a/b", Err(PathError::NotAbsolute)),
            ("//", Err(PathError::EmptyName)),
            ("/a/", Err(PathError::EmptyName)),
            ("/a//b", Err(PathError::EmptyName)),
            ("/a/./b", Err(PathError::DotName)),
            ("/..", Err(PathError::DotName)),
            ("/a/..", Err(PathError::DotName)),
            ("/a\0b", Err(PathError::Nul)),
            (&long_name, Err(PathError::NameTooLong)),
            (&long_path, Err(PathError::TooLong)),
        ];
        for (text, want) in cases {
            assert_eq!(Path::parse(text).map(|_| ()), *want, "{text:?}");
        }
    }

    #[test]
    fn taking_a_path_apart() {
        let path = Path::parse("/a/b/c").unwrap();
        assert_eq!(path.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(path.split_last(), Some((Path::parse("/a/b").unwrap(), "c")));
        assert_eq!(Path::parse("/a").unwrap().split_last(), Some((Path::ROOT, "a")));
        assert_eq!(Path::ROOT.split_last(), None);
        assert_eq!(Path::ROOT.names().count(), 0);
    }

    #[test]
    fn within_compares_whole_names() {
        let within = |a, b| Path::parse(a).unwrap().is_within(Path::parse(b).unwrap());
        assert!(within("/a/b", "/a"));
        assert!(within("/a", "/a"));
        assert!(within("/a", "/"));
        assert!(!within("/ab", "/a"));
        assert!(!within("/", "/a"));
    }
}
