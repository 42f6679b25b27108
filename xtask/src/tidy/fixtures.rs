//! Fixtures are frozen: files written by an old release that every later one must read.
//!
//! Each `fixtures` directory has a `SHA256SUMS`, in the format of sha256sum(1), with a line for every file below it.
//! Lines may be added; none may be changed or removed against the work tree's commit or its parent.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Finding;
use super::tree::Tree;
use crate::error::Error;

const SUMS: &str = "SHA256SUMS";
/// Commits whose sums must still be there.
const REVISIONS: [&str; 2] = ["HEAD", "HEAD^"];

/// Checks all `fixtures` directories.
pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) -> Result<(), Error> {
    let mut directories: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in &tree.files {
        if let Some((directory, file)) = split(path) {
            directories.entry(directory).or_default().push(file);
        }
    }
    for (directory, files) in &directories {
        check_sums(tree, directory, files, findings)?;
    }
    for revision in REVISIONS.into_iter().filter(|revision| tree.has_commit(revision)) {
        check_history(tree, revision, findings)?;
    }
    Ok(())
}

/// The outermost directory `fixtures` of a path, and the rest of the path.
fn split(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let parts: Vec<_> = path.iter().collect();
    let at = parts[..parts.len() - 1].iter().position(|part| *part == "fixtures")?;
    Some((parts[..=at].iter().collect(), parts[at + 1..].iter().collect()))
}

/// Compares the files of a directory with its sums.
fn check_sums(
    tree: &Tree,
    directory: &Path,
    files: &[PathBuf],
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let sums_path = directory.join(SUMS);
    let sums = tree.text(&sums_path)?.unwrap_or_default();
    let mut listed = BTreeMap::new();
    for (line, number) in sums.lines().zip(1..) {
        let Some((sum, file)) = parse(line) else {
            findings.push(Finding::new(&sums_path, number, "not a line of sha256sum: mend it"));
            continue;
        };
        if listed.insert(file.clone(), (sum, number)).is_some() {
            findings.push(Finding::new(&sums_path, number, format!("{} is listed twice", file.display())));
        }
    }
    for file in files.iter().filter(|file| **file != Path::new(SUMS)) {
        let sum = hex(&tree.bytes(&directory.join(file))?.unwrap_or_default());
        match listed.remove(file) {
            None => {
                let text =
                    format!("{} is not listed: if it is new, add the line `{sum}  {0}`", file.display());
                findings.push(Finding::new(&sums_path, 1, text));
            }
            Some((expected, _)) if expected == sum => {}
            Some((_, number)) => {
                let text = format!("{} was changed: fixtures are frozen, restore it", file.display());
                findings.push(Finding::new(&sums_path, number, text));
            }
        }
    }
    for (file, (_, number)) in listed {
        let text = format!("{} is gone: fixtures are frozen, restore it", file.display());
        findings.push(Finding::new(&sums_path, number, text));
    }
    Ok(())
}

/// Looks for lines that an earlier commit has and the work tree has not.
fn check_history(tree: &Tree, revision: &str, findings: &mut Vec<Finding>) -> Result<(), Error> {
    for path in tree.files_at(revision)? {
        if split(&path).is_none_or(|(_, file)| file != Path::new(SUMS)) {
            continue;
        }
        let now = tree.text(&path)?.unwrap_or_default();
        for line in tree.text_at(revision, &path)?.lines() {
            if !now.lines().any(|other| other == line) {
                let text = format!(
                    "the line `{line}` of {revision} is gone or changed: fixtures are frozen, restore it"
                );
                findings.push(Finding::new(&path, 1, text));
            }
        }
    }
    Ok(())
}

/// `SUM  FILE`, or `SUM *FILE` as sha256sum writes with `--binary`.
fn parse(line: &str) -> Option<(String, PathBuf)> {
    let (sum, file) = line.split_at_checked(64)?;
    let file = file.strip_prefix("  ").or_else(|| file.strip_prefix(" *"))?;
    let file = file.strip_prefix("./").unwrap_or(file);
    let is_sum = sum.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_sum && !file.is_empty()).then(|| (sum.to_owned(), PathBuf::from(file)))
}

/// The sum of some bytes, in lower case.
fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::Sample;

    fn findings(sample: &Sample) -> Vec<String> {
        let mut findings = Vec::new();
        check(&sample.tree(), &mut findings).unwrap();
        findings.iter().map(Finding::to_string).collect()
    }

    /// Two fixtures with their sums, not committed.
    fn sample() -> Sample {
        let sample = Sample::new();
        sample.write("mds/fixtures/v1/log", "one");
        sample.write("mds/fixtures/v1/snapshot", [0, 255]);
        let sums = [line(b"one", "v1/log"), line(&[0, 255], "v1/snapshot")].concat();
        sample.write("mds/fixtures/SHA256SUMS", sums);
        sample
    }

    fn line(bytes: &[u8], file: &str) -> String {
        format!("{}  {file}\n", hex(bytes))
    }

    #[test]
    fn sums_are_those_of_sha256sum() {
        // FIPS 180-4, one-block example.
        assert_eq!(hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn lines_are_those_of_sha256sum() {
        let sum = hex(b"");
        let parsed = |rest: &str| parse(&format!("{sum}{rest}")).map(|(_, file)| file);
        assert_eq!(parsed("  v1/a b"), Some(PathBuf::from("v1/a b")));
        assert_eq!(parsed(" *./v1/a"), Some(PathBuf::from("v1/a")));
        assert_eq!(parsed(" a"), None);
        assert_eq!(parsed("  "), None);
        assert_eq!(parse("  a"), None);
        assert_eq!(parse(&format!("{}  a", sum.to_uppercase())), None);
        assert_eq!(parse(&"é".repeat(40)), None);
    }

    #[test]
    fn complete_sums_are_fine_with_and_without_history() {
        let sample = sample();
        assert_eq!(findings(&sample), [""; 0]);
        sample.commit();
        sample.write("mds/fixtures/v2/log", "two");
        let more = [line(b"one", "v1/log"), line(&[0, 255], "v1/snapshot"), line(b"two", "v2/log")].concat();
        sample.write("mds/fixtures/SHA256SUMS", more);
        assert_eq!(findings(&sample), [""; 0]);
        sample.commit();
        sample.commit();
        assert_eq!(findings(&sample), [""; 0]);
    }

    #[test]
    fn a_directory_without_sums_is_found() {
        let sample = Sample::new();
        sample.write("mds/tests/fixtures/log", "one");
        let found = findings(&sample);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("mds/tests/fixtures/SHA256SUMS:1: log is not listed"), "{}", found[0]);
        assert!(found[0].contains(&hex(b"one")), "{}", found[0]);
    }

    #[test]
    fn files_that_differ_from_their_sums_are_found() {
        let sample = sample();
        sample.write("mds/fixtures/v1/log", "1");
        sample.remove("mds/fixtures/v1/snapshot");
        let found = findings(&sample);
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].starts_with("mds/fixtures/SHA256SUMS:1: v1/log was changed"), "{}", found[0]);
        assert!(found[1].starts_with("mds/fixtures/SHA256SUMS:2: v1/snapshot is gone"), "{}", found[1]);
    }

    #[test]
    fn bad_lines_are_found() {
        let sample = sample();
        let sums =
            [line(b"one", "v1/log"), line(&[0, 255], "v1/snapshot"), "\n".into(), line(b"one", "v1/log")];
        sample.write("mds/fixtures/SHA256SUMS", sums.concat());
        let found = findings(&sample);
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].contains(":3: not a line"), "{}", found[0]);
        assert!(found[1].contains(":4: v1/log is listed twice"), "{}", found[1]);
    }

    #[test]
    fn a_fixture_changed_together_with_its_sum_is_found() {
        let sample = sample();
        sample.commit();
        sample.write("mds/fixtures/v1/log", "1");
        sample.write(
            "mds/fixtures/SHA256SUMS",
            [line(b"1", "v1/log"), line(&[0, 255], "v1/snapshot")].concat(),
        );
        let found = findings(&sample);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains(&hex(b"one")) && found[0].contains("of HEAD is gone"), "{}", found[0]);
        // Once it is committed, the parent still tells.
        sample.commit();
        let found = findings(&sample);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("of HEAD^ is gone"), "{}", found[0]);
    }

    #[test]
    fn a_directory_that_was_removed_is_found() {
        let sample = sample();
        sample.commit();
        for file in ["v1/log", "v1/snapshot", "SHA256SUMS"] {
            sample.remove(&format!("mds/fixtures/{file}"));
        }
        assert_eq!(findings(&sample).len(), 2);
    }
}
