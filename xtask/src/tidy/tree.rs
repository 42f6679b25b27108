//! The files of the checkout, and git's memory of them.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;

/// A git checkout.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// Regular files that are tracked, or new and not ignored; relative to the root, sorted.
    pub(super) files: Vec<PathBuf>,
}

impl Tree {
    /// Lists the files of the checkout at `root`; an error if there is none.
    pub(super) fn of_checkout(root: &Path) -> Result<Self, Error> {
        let mut tree = Self { root: root.to_owned(), files: Vec::new() };
        tree.git(&["rev-parse", "--is-inside-work-tree"]).map_err(|error| match error {
            Error::Git { said, .. } => Error::NotACheckout { root: root.to_owned(), said },
            other => other,
        })?;
        let mut files = paths(tree.git(&["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?);
        // Neither what was deleted but is still in the index, nor symbolic links, whose targets are listed themselves.
        files.retain(|path| fs::symlink_metadata(root.join(path)).is_ok_and(|found| found.is_file()));
        files.sort();
        files.dedup();
        tree.files = files;
        Ok(tree)
    }

    /// The bytes of a file; `None` if it is not there.
    pub(super) fn bytes(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        match fs::read(self.root.join(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Read { path: path.to_owned(), source }),
        }
    }

    /// A file as text; `None` if it is not there or is not text.
    pub(super) fn text(&self, path: &Path) -> Result<Option<String>, Error> {
        let text = self.bytes(path)?.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(text.filter(|text| !text.contains('\0')))
    }

    /// Whether the history has such a commit. It has no `HEAD` before the first, and no `HEAD^` in a shallow clone.
    pub(super) fn has_commit(&self, revision: &str) -> bool {
        self.git(&["rev-parse", "--verify", "--quiet", &format!("{revision}^{{commit}}")]).is_ok()
    }

    /// The files of a commit.
    pub(super) fn files_at(&self, revision: &str) -> Result<Vec<PathBuf>, Error> {
        Ok(paths(self.git(&["ls-tree", "-r", "-z", "--name-only", revision])?))
    }

    /// A file as it was in a commit.
    pub(super) fn text_at(&self, revision: &str, path: &Path) -> Result<String, Error> {
        let bytes = self.git(&["show", &format!("{revision}:./{}", path.display())])?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn git(&self, arguments: &[&str]) -> Result<Vec<u8>, Error> {
        let output = git_command(&self.root)
            .args(arguments)
            .output()
            .map_err(|source| Error::Spawn { program: "git".into(), source })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Git { arguments: arguments.join(" "), said })
    }
}

/// Git in `root`, whatever repository the caller's environment points at, as it does inside a git hook.
fn git_command(root: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(root).stdin(Stdio::null());
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        command.env_remove(name);
    }
    command
}

fn paths(separated_by_nul: Vec<u8>) -> Vec<PathBuf> {
    let names = separated_by_nul.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| PathBuf::from(OsString::from_vec(name.to_vec()))).collect()
}

/// A small checkout for tests of rules.
#[cfg(test)]
pub(super) struct Sample(tempfile::TempDir);

#[cfg(test)]
impl Sample {
    pub(super) fn new() -> Self {
        let sample = Self(tempfile::tempdir().unwrap());
        sample.git(&["init", "--quiet"]);
        sample
    }

    pub(super) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn tree(&self) -> Tree {
        Tree::of_checkout(self.root()).unwrap()
    }

    pub(super) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        fs::remove_file(self.root().join(path)).unwrap();
    }

    pub(super) fn commit(&self) {
        self.git(&["add", "--all"]);
        let author =
            ["-c", "user.name=tidy", "-c", "user.email=tidy@localhost", "-c", "commit.gpgsign=false"];
        self.git(
            &[&author[..], &["commit", "--quiet", "--allow-empty", "--no-verify", "-m", "sample"]].concat(),
        );
    }

    fn git(&self, arguments: &[&str]) {
        assert!(git_command(self.root()).args(arguments).status().unwrap().success(), "git {arguments:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_deleted_and_linked_files_are_left_out() {
        let sample = Sample::new();
        sample.write(".gitignore", "/target\n");
        sample.write("target/x", "");
        sample.write("gone", "");
        sample.write("dir/new", "");
        sample.commit();
        sample.remove("gone");
        sample.write("dir/other", "");
        std::os::unix::fs::symlink("new", sample.root().join("dir/link")).unwrap();
        assert_eq!(sample.tree().files, [".gitignore", "dir/new", "dir/other"].map(PathBuf::from));
    }

    #[test]
    fn a_directory_without_git_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = Tree::of_checkout(directory.path()).unwrap_err();
        assert!(error.to_string().contains("is not a git checkout"), "{error}");
    }

    #[test]
    fn text_is_told_from_bytes() {
        let sample = Sample::new();
        sample.write("text", "gruß");
        sample.write("nul", "a\0b");
        sample.write("latin", b"gru\xdf");
        let text = |name: &str| sample.tree().text(Path::new(name)).unwrap();
        assert_eq!(text("text").as_deref(), Some("gruß"));
        assert_eq!((text("nul"), text("latin"), text("absent")), (None, None, None));
    }

    #[test]
    fn commits_are_read_back() {
        let sample = Sample::new();
        sample.write("dir/file", "old");
        assert!(!sample.tree().has_commit("HEAD"));
        sample.commit();
        sample.write("dir/file", "new");
        let tree = sample.tree();
        assert!(tree.has_commit("HEAD") && !tree.has_commit("HEAD^"));
        assert_eq!(tree.files_at("HEAD").unwrap(), [PathBuf::from("dir/file")]);
        assert_eq!(tree.text_at("HEAD", Path::new("dir/file")).unwrap(), "old");
    }
}
