//! The Cargo workspace: its root, its members, and cargo itself as a command.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::error::Error;

/// What `cargo metadata --no-deps` says of the workspace around the current directory.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    /// Absolute path of the directory with the workspace's `Cargo.toml`.
    #[serde(rename = "workspace_root")]
    pub(crate) root: PathBuf,
    /// Absolute path of the directory cargo builds into.
    pub(crate) target_directory: PathBuf,
    /// The members.
    #[serde(rename = "packages")]
    pub(crate) members: Vec<Member>,
}

/// One package of the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Member {
    /// Package name, such as `datapath-rt`.
    pub(crate) name: String,
    /// Absolute path of its `Cargo.toml`.
    pub(crate) manifest_path: PathBuf,
    /// Direct dependencies of every kind and for every platform.
    pub(crate) dependencies: Vec<Dependency>,
    /// Libraries, binaries, tests and so on.
    pub(crate) targets: Vec<Target>,
}

/// One entry of a dependency table.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    /// Package name of what is imported.
    pub(crate) name: String,
    /// The importer's own name for it, where that differs.
    pub(crate) rename: Option<String>,
    /// Set when it is imported from a directory, as all members are.
    pub(crate) path: Option<PathBuf>,
}

/// One build target of a package.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    /// Its name; of a binary, the file's name.
    pub(crate) name: String,
    /// `lib`, `bin`, `test`, `bench`, `example` or `custom-build`.
    pub(crate) kind: BTreeSet<String>,
}

impl Workspace {
    /// Asks cargo about the workspace around the current directory.
    pub(crate) fn load() -> Result<Self, Error> {
        Self::load_at(Path::new("."))
    }

    /// Asks cargo about the workspace around `directory`.
    pub(crate) fn load_at(directory: &Path) -> Result<Self, Error> {
        let mut command = clean_cargo();
        command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(directory);
        let output = command
            .stderr(Stdio::inherit())
            .output()
            .map_err(|source| Error::Spawn { program: "cargo".into(), source })?;
        if !output.status.success() {
            return Err(Error::Exit { program: "cargo metadata".into(), status: output.status });
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Cargo, to be run in the workspace's root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = clean_cargo();
        command.current_dir(&self.root);
        command
    }

    /// The binary target of a member, if there is one. One that has the member's own name is preferred.
    pub(crate) fn binary_of(&self, member: &str) -> Option<&str> {
        let targets = &self.members.iter().find(|found| found.name == member)?.targets;
        let mut binaries =
            targets.iter().filter(|target| target.kind.contains("bin")).map(|target| &*target.name);
        let first = binaries.clone().next();
        binaries.find(|name| *name == member).or(first)
    }

    /// Where cargo puts a binary built with the `ci` profile.
    pub(crate) fn built_binary(&self, name: &str) -> PathBuf {
        self.target_directory.join("ci").join(name)
    }
}

/// Cargo without what `cargo run` set for this process.
///
/// Build scripts may depend on these variables; left in place, each change between `cargo build` and
/// `cargo xtask test` would compile their crates again.
fn clean_cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let set_by_run = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if set_by_run.iter().any(|prefix| text.starts_with(prefix))
            || ["CARGO", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&&*text)
        {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(targets: &str) -> Workspace {
        let json = format!(
            r#"{{"workspace_root":"/r","target_directory":"/r/target","other":1,"packages":[{{"name":"sim",
            "manifest_path":"/r/sim/Cargo.toml","dependencies":[],"targets":[{targets}]}}]}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn a_binary_is_found_by_kind() {
        let lib = r#"{"name":"sim","kind":["lib"]}"#;
        assert_eq!(workspace(lib).binary_of("sim"), None);
        let other = format!(r#"{lib},{{"name":"replay","kind":["bin"]}}"#);
        assert_eq!(workspace(&other).binary_of("sim"), Some("replay"));
        let both = format!(r#"{other},{{"name":"sim","kind":["bin"]}}"#);
        assert_eq!(workspace(&both).binary_of("sim"), Some("sim"));
        assert_eq!(workspace(&both).binary_of("mds"), None);
        assert_eq!(workspace(&both).built_binary("sim"), Path::new("/r/target/ci/sim"));
    }
}
