//! Files and directories are named after what is in them.

use std::path::Path;

use super::Finding;

/// Names that say nothing, so that anything ends up in there.
const EMPTY: [&str; 8] = ["util", "utils", "helper", "helpers", "common", "commons", "manager", "managers"];

/// Finds empty names anywhere in a path.
pub(super) fn check(path: &Path, findings: &mut Vec<Finding>) {
    for part in path {
        let name = part.to_string_lossy();
        let stem = name.split('.').next().unwrap_or_default();
        if EMPTY.contains(&stem.to_lowercase().as_str()) {
            findings.push(Finding::new(
                path,
                1,
                format!("the name `{stem}` says nothing: name what is in there"),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str) -> usize {
        let mut findings = Vec::new();
        check(Path::new(path), &mut findings);
        findings.len()
    }

    #[test]
    fn empty_names_are_found_at_any_depth() {
        assert_eq!(count("mds/src/utils.rs"), 1);
        assert_eq!(count("mds/tests/common/mod.rs"), 1);
        assert_eq!(count("scripts/Helpers.sh"), 1);
        assert_eq!(count("manager/util/x"), 2);
    }

    #[test]
    fn names_that_contain_one_are_fine() {
        assert_eq!(count("mds/src/uncommon.rs"), 0);
        assert_eq!(count("docs/utilisation.md"), 0);
        assert_eq!(count("a/lease_manager.rs"), 0);
    }
}
