//! What may stand in no text file: marks of unfinished work, and paths of somebody's machine.

use std::path::Path;

use super::Finding;
use super::code::{line_of, words};

/// Marks in prose. Put together here so that this file is not its own finding.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
/// Macros that end a program where code is missing.
const UNFINISHED_MACROS: [&str; 2] = [concat!("to", "do"), concat!("unimple", "mented")];
/// Where checkouts lie on build machines.
const MACHINE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/fa", "rm/")];

/// Finds them in one file.
pub(super) fn check(path: &Path, text: &str, findings: &mut Vec<Finding>) {
    for (at, word) in words(text) {
        let called = text[at + word.len()..].starts_with('!');
        if UNFINISHED.contains(&word) {
            let message =
                format!("`{word}` marks unfinished work: finish it, or write it into docs/ROADMAP.md");
            findings.push(Finding::new(path, line_of(text, at), message));
        } else if called && UNFINISHED_MACROS.contains(&word) {
            let message = format!("`{word}!` stands for missing code: write the code");
            findings.push(Finding::new(path, line_of(text, at), message));
        }
    }
    for pattern in MACHINE_PATHS {
        for (at, _) in text.match_indices(pattern) {
            if is_start_of_path(&text[..at]) {
                let message =
                    format!("`{pattern}` is a path of one machine: make it relative to the repository");
                findings.push(Finding::new(path, line_of(text, at), message));
            }
        }
    }
}

/// Whether a slash after `before` starts a path rather than goes on with one.
fn is_start_of_path(before: &str) -> bool {
    !before.ends_with(|last: char| last.is_alphanumeric() || "_.-~*)}]>".contains(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        let mut findings = Vec::new();
        check(Path::new("x.rs"), text, &mut findings);
        findings.into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn marks_of_unfinished_work_are_found() {
        assert_eq!(lines(concat!("a\n// TO", "DO: b\n")), [2]);
        assert_eq!(lines(concat!("// FIX", "ME(later)")), [1]);
        assert_eq!(lines(concat!("# XX", "X")), [1]);
        assert_eq!(lines(concat!("fn f() { to", "do!() }")), [1]);
        assert_eq!(lines(concat!("unimple", "mented!(\"x\")")), [1]);
    }

    #[test]
    fn words_that_contain_a_mark_are_fine() {
        assert_eq!(lines(concat!("mktemp -d /tmp/a.XX", "XXXX")), [0; 0]);
        assert_eq!(lines(concat!("todo = \"warn\" # clippy::to", "do")), [0; 0]);
        assert_eq!(lines("METHODOLOGY todos"), [0; 0]);
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        assert_eq!(lines(concat!("\n\n/wo", "rk/main")), [3]);
        assert_eq!(lines(concat!("cd \"/fa", "rm/x\"")), [1]);
        assert_eq!(lines(concat!("/wo", "rk/a:/wo", "rk/b")), [1, 1]);
    }

    #[test]
    fn other_paths_are_fine() {
        assert_eq!(lines(concat!("target/wo", "rk/x ../wo", "rk/ ${DIR}/wo", "rk/")), [0; 0]);
        assert_eq!(lines("/workspace/ /var/lib/vstorage/"), [0; 0]);
    }
}
