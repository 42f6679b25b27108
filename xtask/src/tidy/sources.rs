//! Rules on one Rust file: its first line, its length, and where `unsafe` may stand.

use std::path::Path;

use super::Finding;
use super::code::Source;

/// Lines of a file.
const LINES_MAX: usize = 1000;
/// Modules and directories named after what cannot be done without `unsafe`.
const UNSAFE_NAMES: [&str; 5] = ["ublk", "shm", "vhost", "capi", "simd"];
/// The one room that may use it throughout.
const UNSAFE_ROOM: &str = "datapath/rt/src";

/// Checks one file.
pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    let first = source.text.lines().find(|line| !line.trim().is_empty());
    if !first.is_some_and(|line| line.starts_with("//!")) {
        let message = "the module does not start with `//!`: say on top what it is for";
        findings.push(Finding::new(source.path, 1, message));
    }
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        let message = format!("{lines} lines are more than {LINES_MAX}: split the file");
        findings.push(Finding::new(source.path, LINES_MAX + 1, message));
    }
    if may_be_unsafe(source.path) {
        return;
    }
    for (at, _) in source.words().filter(|(_, word)| *word == "unsafe") {
        let names = UNSAFE_NAMES.join(", ");
        let message = format!(
            "`unsafe` outside {UNSAFE_ROOM} and outside modules named {names}: move it there or do without"
        );
        findings.push(Finding::new(source.path, source.line_of(at), message));
    }
}

fn may_be_unsafe(path: &Path) -> bool {
    let named = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        UNSAFE_NAMES.contains(&name.strip_suffix(".rs").unwrap_or(&name))
    };
    path.starts_with(UNSAFE_ROOM) || path.iter().any(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<(usize, String)> {
        let mut findings = Vec::new();
        check(&Source::new(Path::new(path), text), &mut findings);
        findings.into_iter().map(|finding| (finding.line, finding.text)).collect()
    }

    fn lines(path: &str, text: &str) -> Vec<usize> {
        findings(path, text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn a_module_starts_with_its_documentation() {
        assert_eq!(lines("a.rs", "//! What it is for.\n"), [0; 0]);
        assert_eq!(lines("a.rs", "\n//! What it is for.\n"), [0; 0]);
        for text in ["", "use a;\n//! late\n", "// no\n", "/// no\n", "#![no_main]\n//! late\n"] {
            assert!(findings("a.rs", text)[0].1.contains("does not start"), "{text:?}");
        }
    }

    #[test]
    fn a_file_has_a_thousand_lines_at_most() {
        assert_eq!(lines("a.rs", &"//!\n".repeat(1000)), [0; 0]);
        assert_eq!(lines("a.rs", &"//!\n".repeat(1001)), [1001]);
    }

    #[test]
    fn unsafe_stands_in_its_places_only() {
        let text = "//!\nfn f() { unsafe { g() } }\n";
        for path in
            ["datapath/rt/src/uring/ring.rs", "ublk-target/src/ublk.rs", "a/src/simd/avx2.rs", "b/capi/x.rs"]
        {
            assert_eq!(lines(path, text), [0; 0], "{path}");
        }
        for path in
            ["mds/src/lib.rs", "datapath/rt/tests/it/main.rs", "datapath/rtx/src/a.rs", "a/src/my_ublk.rs"]
        {
            assert_eq!(lines(path, text), [2], "{path}");
        }
    }

    #[test]
    fn the_word_unsafe_is_not_the_keyword() {
        let text = "//! unsafe\n#![deny(unsafe_code, unsafe_op_in_unsafe_fn)]\n// unsafe\nconst A: &str = \"unsafe\";\n";
        assert_eq!(lines("a.rs", text), [0; 0]);
        assert_eq!(lines("a.rs", "//!\n#[unsafe(no_mangle)]\nfn f() {}\n"), [2]);
    }
}
