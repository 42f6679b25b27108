//! `cargo xtask tidy`: the house rules that neither rustc nor clippy knows.
//!
//! Each rule is a module with a `check` that adds findings; all findings of all rules are listed at once.

mod code;
mod fixtures;
mod imports;
mod marks;
mod names;
mod public_items;
mod sources;
mod tree;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::Outcome;
use crate::error::Error;
use crate::workspace::Workspace;
use code::Source;
use tree::Tree;

/// A breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Relative to the root of the repository.
    path: PathBuf,
    /// Counted from 1; 1 if the finding concerns the whole file.
    line: usize,
    /// What is wrong and what to do.
    text: String,
}

impl Finding {
    fn new(path: &Path, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.text)
    }
}

/// Checks everything git knows or would add, and prints what it finds.
pub(crate) fn run(workspace: &Workspace) -> Result<Outcome, Error> {
    let tree = Tree::of_checkout(&workspace.root)?;
    let findings = check(workspace, &tree)?;
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {} files, no findings", tree.files.len());
            Ok(Outcome::Passed)
        }
        count => {
            println!("tidy: {} files, {count} findings", tree.files.len());
            Ok(Outcome::Failed)
        }
    }
}

/// All findings, by path and line.
fn check(workspace: &Workspace, tree: &Tree) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    imports::check_manifests(workspace, &mut findings)?;
    fixtures::check(tree, &mut findings)?;
    for path in &tree.files {
        names::check(path, &mut findings);
        // Anything but text, such as a binary fixture, has no lines to check.
        let Some(text) = tree.text(path)? else { continue };
        marks::check(path, &text, &mut findings);
        if path.extension().is_some_and(|extension| extension == "rs") {
            let source = Source::new(path, &text);
            sources::check(&source, &mut findings);
            public_items::check(&source, &mut findings);
            imports::check_formats(&source, &mut findings);
        }
    }
    findings.sort();
    findings.dedup();
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tree::Sample;

    #[test]
    fn a_finding_reads_like_a_compiler_message() {
        let finding = Finding::new(Path::new("mds/src/lib.rs"), 7, "mend it");
        assert_eq!(finding.to_string(), "mds/src/lib.rs:7: mend it");
    }

    #[test]
    fn every_rule_is_asked() {
        let sample = Sample::new();
        sample.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"mds\", \"sim\"]\n");
        let manifest =
            |name| format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
        sample.write("sim/Cargo.toml", manifest("sim"));
        sample.write("sim/src/lib.rs", "//! Simulator.\n");
        sample.write("mds/Cargo.toml", manifest("mds"));
        sample.write("mds/src/lib.rs", "//! Metadata.\n");
        let findings = |sample: &Sample| {
            let workspace = Workspace::load_at(sample.root()).unwrap();
            check(&workspace, &Tree::of_checkout(sample.root()).unwrap()).unwrap()
        };
        assert_eq!(findings(&sample), []);

        sample.write(
            "mds/Cargo.toml",
            &(manifest("mds") + "[dev-dependencies]\nsim = { path = \"../sim\" }\n"),
        );
        sample.write("mds/src/lib.rs", "//! Metadata.\npub fn undocumented() {}\n");
        sample.write("mds/src/utils.rs", "//! All sorts.\n");
        sample.write("mds/src/log.rs", concat!("// TO", "DO\nuse wire::Frame;\n"));
        sample.write("mds/fixtures/v1/log.bin", "bytes");
        let found = findings(&sample);
        let places: Vec<_> =
            found.iter().map(|found| format!("{}:{}", found.path.display(), found.line)).collect();
        let expected = [
            "mds/Cargo.toml:6",          // import
            "mds/fixtures/SHA256SUMS:1", // unlisted fixture
            "mds/src/lib.rs:2",          // undocumented
            "mds/src/log.rs:1",          // mark
            "mds/src/log.rs:1",          // no module documentation
            "mds/src/log.rs:2",          // disk format imports wire
            "mds/src/utils.rs:1",        // name
        ];
        assert_eq!(places, expected, "{found:#?}");
    }
}
