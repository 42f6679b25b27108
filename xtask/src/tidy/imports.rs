//! Who may import whom (DESIGN, "Rooms"), and that wire and disk format never import each other.

use std::fs;
use std::path::Path;

use super::Finding;
use super::code::Source;
use crate::error::Error;
use crate::workspace::{Dependency, Member, Workspace};

/// What a room may import of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Imports {
    These(&'static [&'static str]),
    Anything,
}

use Imports::{Anything, These};

/// A line per room: its package, its short name where that differs, and what it may import by short name. Those that
/// may import anything are imported by nobody, but for [`EXCEPTION`].
const ROOMS: &[(&str, &str, Imports)] = &[
    ("datapath-rt", "rt", These(&[])),
    ("datapath-wire", "wire", These(&[])),
    ("datapath-link", "link", These(&["rt", "wire"])),
    ("datapath-client", "client", These(&["link", "rt", "wire"])),
    ("cs-engine", "cs-engine", These(&["link", "rt", "wire"])),
    ("mds", "mds", These(&["link", "rt", "wire"])),
    ("ublk-target", "ublk-target", These(&["client", "link", "rt", "wire"])),
    ("fuse-mount", "fuse-mount", These(&["client", "link", "rt", "wire"])),
    ("control-cli", "control-cli", These(&["client", "link", "rt", "wire"])),
    ("sim", "sim", Anything),
    ("benches", "benches", Anything),
    ("hw-tests", "hw-tests", Anything),
    ("xtask", "xtask", Anything),
];

/// Importer and imported, by decision 0008.
const EXCEPTION: (&str, &str) = ("benches", "hw-tests");

/// What is wrong with an import, if anything.
fn refusal(importer: &str, imported: &str) -> Option<String> {
    let room = |package: &str| ROOMS.iter().find(|(name, ..)| *name == package);
    let Some((_, importer, may)) = room(importer) else {
        return Some(format!(
            "{importer} is no room of the design: a new one needs a decision record and a line in xtask's ROOMS"
        ));
    };
    // A crate that is no room is found as an importer, so nothing is said of it twice.
    let (_, imported, of_imported) = room(imported)?;
    match may {
        _ if (*importer, *imported) == EXCEPTION => None,
        _ if *of_imported == Anything => Some(format!("nobody imports {imported}: remove the dependency")),
        Anything => None,
        These(allowed) if allowed.contains(imported) => None,
        These([]) => {
            Some(format!("{importer} imports no room, so not {imported} either: remove the dependency"))
        }
        These(allowed) => Some(format!(
            "{importer} may not import {imported}, only {}: remove the dependency",
            allowed.join(", ")
        )),
    }
}

/// Checks the dependencies of all members, those of tests and build scripts included.
pub(super) fn check_manifests(workspace: &Workspace, findings: &mut Vec<Finding>) -> Result<(), Error> {
    for member in &workspace.members {
        let path = member.manifest_path.strip_prefix(&workspace.root).unwrap_or(&member.manifest_path);
        let manifest = fs::read_to_string(&member.manifest_path)
            .map_err(|source| Error::Read { path: member.manifest_path.clone(), source })?;
        findings.extend(check_member(member, path, &manifest));
    }
    Ok(())
}

fn check_member(member: &Member, path: &Path, manifest: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if ROOMS.iter().all(|(name, ..)| *name != member.name) {
        findings.extend(refusal(&member.name, &member.name).map(|text| Finding::new(path, 1, text)));
        return findings;
    }
    for dependency in member.dependencies.iter().filter(|dependency| dependency.path.is_some()) {
        if let Some(text) = refusal(&member.name, &dependency.name) {
            findings.push(Finding::new(path, line_of(manifest, dependency), text));
        }
    }
    findings
}

/// The first line of a manifest that names a dependency; 1 if it is written in a way not foreseen here.
fn line_of(manifest: &str, dependency: &Dependency) -> usize {
    let key = dependency.rename.as_ref().unwrap_or(&dependency.name);
    let names_it = |line: &str| {
        let line = line.trim_start().trim_start_matches(['"', '\'']);
        let after_key = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-');
        let as_entry = line.strip_prefix(key.as_str()).is_some_and(after_key);
        let as_table = line.starts_with('[') && line.trim_end().ends_with(&format!("dependencies.{key}]"));
        as_entry || as_table
    };
    let mut in_dependencies = false;
    for (line, number) in manifest.lines().zip(1..) {
        if line.trim_start().starts_with('[') {
            in_dependencies = line.contains("dependencies");
        }
        if in_dependencies && names_it(line) {
            return number;
        }
    }
    1
}

/// How the wire crate is called.
const WIRE: &[&str] = &["wire", "datapath_wire"];
/// How the crates are called that write to disk.
const DISK: &[&str] = &["cs_engine", "mds"];

/// Checks one file: disk formats do not use the wire, and the wire uses no disk format. The manifests allow the first,
/// because other modules of the same crates do.
pub(super) fn check_formats(source: &Source, findings: &mut Vec<Finding>) {
    let (side, forbidden) = if source.path.starts_with("datapath/wire") {
        ("the wire", DISK)
    } else if is_disk_format(source.path) {
        ("a disk format", WIRE)
    } else {
        return;
    };
    let (mut in_use, mut seen) = (false, 0);
    for (at, word) in source.words() {
        // A statement ends at its semicolon, whatever comes next: a word or an attribute.
        in_use = (in_use && !source.code[seen..at].contains(';')) || word == "use";
        seen = at;
        let heads_path = source.code[at + word.len()..].trim_start().starts_with("::");
        if forbidden.contains(&word) && (in_use || heads_path) {
            let text = format!(
                "{side} imports `{word}`: wire and disk format never import each other, convert outside"
            );
            findings.push(Finding::new(source.path, source.line_of(at), text));
        }
    }
}

/// Modules and directories `format`, and the log of the metadata server.
fn is_disk_format(path: &Path) -> bool {
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    let named = path.iter().any(|part| part == "format" || part == "format.rs");
    is_rust && (named || path.starts_with("mds/src/log") || path == Path::new("mds/src/log.rs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows import columns, both in the order of `NAMES`; as the design has it, written out once more.
    const ALLOWED: [&str; 13] = [
        "- - - - - - - - - - - - -", // rt
        "- - - - - - - - - - - - -", // wire
        "+ + - - - - - - - - - - -", // link
        "+ + + - - - - - - - - - -", // client
        "+ + + - - - - - - - - - -", // cs-engine
        "+ + + - - - - - - - - - -", // mds
        "+ + + + - - - - - - - - -", // ublk-target
        "+ + + + - - - - - - - - -", // fuse-mount
        "+ + + + - - - - - - - - -", // control-cli
        "+ + + + + + + + + - - - -", // sim
        "+ + + + + + + + + - - + -", // benches
        "+ + + + + + + + + - - - -", // hw-tests
        "+ + + + + + + + + - - - -", // xtask
    ];
    const NAMES: [&str; 13] = [
        "datapath-rt",
        "datapath-wire",
        "datapath-link",
        "datapath-client",
        "cs-engine",
        "mds",
        "ublk-target",
        "fuse-mount",
        "control-cli",
        "sim",
        "benches",
        "hw-tests",
        "xtask",
    ];

    #[test]
    fn each_pair_is_allowed_or_refused_as_the_design_says() {
        for (importer, row) in NAMES.iter().zip(ALLOWED) {
            for (imported, cell) in NAMES.iter().zip(row.split(' ')) {
                let refused = refusal(importer, imported);
                assert_eq!(refused.is_none(), cell == "+", "{importer} imports {imported}: {refused:?}");
            }
        }
        assert_eq!(refusal("mds", "serde"), None);
        assert!(refusal("iscsi", "datapath-rt").unwrap().contains("decision record"));
    }

    fn member(name: &str, dependencies: &str) -> Member {
        let json = format!(
            r#"{{"name":"{name}","manifest_path":"/r/Cargo.toml","targets":[],"dependencies":[{dependencies}]}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn a_finding_is_on_the_line_of_the_dependency() {
        let client =
            r#"{"name":"datapath-client","rename":"client","path":"/r/datapath/client","kind":"dev"}"#;
        for (manifest, line) in [
            ("[package]\nname = \"mds\"\n[dependencies]\nclient-x = 1\nclient.workspace = true\n", 5),
            ("[dev-dependencies.client]\nworkspace = true\n", 1),
            ("[package]\n\n[target.'cfg(unix)'.build-dependencies]\n\"client\" = { path = \"..\" }\n", 4),
            ("client = 1\n[dependencies]\nclient-x = 1\n", 1),
        ] {
            let found = check_member(&member("mds", client), Path::new("mds/Cargo.toml"), manifest);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].line, line, "{manifest}");
            assert!(found[0].text.contains("mds may not import client"), "{}", found[0].text);
        }
    }

    #[test]
    fn members_may_import_crates_of_others_and_what_is_allowed() {
        let fine = r#"{"name":"clap"},{"name":"datapath-rt","rename":"rt","path":"/r/datapath/rt"}"#;
        assert_eq!(check_member(&member("mds", fine), Path::new("mds/Cargo.toml"), ""), []);
        let found = check_member(&member("iscsi", fine), Path::new("iscsi/Cargo.toml"), "");
        assert_eq!(found.len(), 1);
        assert!(found[0].text.contains("iscsi is no room"), "{}", found[0].text);
    }

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let mut findings = Vec::new();
        check_formats(&Source::new(Path::new(path), text), &mut findings);
        findings.into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn disk_formats_do_not_import_the_wire() {
        let text = "use wire::Frame;\nuse crate::{a,\n    wire};\nfn f(a: wire::Status) {}\nuse datapath_wire as w;\n";
        for path in
            ["cs-engine/src/format/journal.rs", "mds/src/log.rs", "mds/src/log/record.rs", "a/src/format.rs"]
        {
            assert_eq!(lines(path, text), [1, 3, 4, 5], "{path}");
        }
        assert_eq!(lines("cs-engine/src/serve.rs", text), [0; 0]);
        assert_eq!(lines("mds/src/login.rs", text), [0; 0]);
    }

    #[test]
    fn the_wire_imports_no_disk_format() {
        let text = "use cs_engine::format::Record;\nfn f() { mds::log::g() }\n";
        assert_eq!(lines("datapath/wire/src/control.rs", text), [1, 2]);
        assert_eq!(lines("sim/src/lib.rs", text), [0; 0]);
        // The layout of frames is the wire's own.
        assert_eq!(lines("datapath/wire/src/format.rs", "use wire::Frame;\n"), [0; 0]);
    }

    #[test]
    fn the_word_wire_is_not_an_import() {
        let text = "// use wire::Frame;\nuse a::b;\nlet wire = 1; f(\"wire::x\", wire, hard_wire::x);\n";
        assert_eq!(lines("mds/src/log.rs", text), [0; 0]);
    }
}
