//! The frozen frames: what is sent today must be what was sent by the first release.
//!
//! A new sample gets its file by `VSTORAGE_BLESS=1 cargo test -p datapath-wire`; a file that exists is
//! never written again. Its line in `fixtures/SHA256SUMS` is added by hand (`sha256sum v1/NAME.bin`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use wire::{Group, HEADER_LEN, Kind, Op};

use crate::sample::{all, parts};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn file_of(name: &str) -> PathBuf {
    root().join("v1").join(format!("{name}.bin"))
}

/// Names of all fixture files without extension.
fn stored() -> BTreeSet<String> {
    fs::read_dir(root().join("v1"))
        .expect("the directory of the fixtures")
        .map(|entry| entry.expect("a fixture").path())
        .map(|path| {
            assert_eq!(path.extension().and_then(|ext| ext.to_str()), Some("bin"), "{}", path.display());
            path.file_stem().and_then(|stem| stem.to_str()).expect("a plain name").to_owned()
        })
        .collect()
}

/// Adds the files of new samples when asked to. `create_new`, so that no fixture is ever overwritten.
fn bless(name: &str, frame: &[u8]) {
    if std::env::var_os("VSTORAGE_BLESS").is_none_or(|value| value != "1") {
        return;
    }
    if let Ok(mut file) = fs::File::create_new(file_of(name)) {
        std::io::Write::write_all(&mut file, frame).expect("write a new fixture");
    }
}

#[test]
fn frames_are_the_frozen_ones() {
    for sample in all() {
        bless(&sample.name, &sample.frame);
        let path = file_of(&sample.name);
        let frozen = fs::read(&path).unwrap_or_else(|error| {
            panic!("{}: {error}; a new sample gets its file by VSTORAGE_BLESS=1", path.display())
        });
        assert!(
            frozen == sample.frame,
            "{} differs from what is sent today: this would break a rolling upgrade",
            sample.name
        );
    }
}

#[test]
fn frozen_frames_mean_what_they_meant() {
    for sample in all() {
        let frozen = fs::read(file_of(&sample.name)).expect("a fixture");
        let (header, body) = parts(&frozen);
        assert_eq!(header.check_body(body), Ok(()), "{}", sample.name);
        (sample.check)(&header, body);
    }
}

#[test]
fn each_operation_is_frozen_in_both_directions() {
    let samples = all();
    for &op in Op::ALL {
        for kind in [Kind::Request, Kind::Response, Kind::Notice] {
            let wanted = (kind == Kind::Notice) == matches!(op, Op::Goodbye | Op::Revocations);
            let found = samples.iter().any(|sample| {
                let (header, _) = sample.parts();
                header.status.is_ok() && header.kind == kind && header.known_op() == Some(op)
            });
            assert_eq!(found, wanted, "{op} as {kind:?}");
        }
    }
}

#[test]
fn no_file_is_without_sample_and_each_has_a_checksum() {
    let names: BTreeSet<String> = all().into_iter().map(|sample| sample.name).collect();
    assert_eq!(names.len(), all().len(), "names are unique");
    assert_eq!(stored(), names);
    let sums = fs::read_to_string(root().join("SHA256SUMS")).expect("the list of checksums");
    let listed: BTreeSet<String> = sums
        .lines()
        .map(|line| {
            let (sum, path) = line.split_once("  ").expect("checksum, two blanks, path");
            assert!(sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
            let name = path.strip_prefix("v1/").and_then(|path| path.strip_suffix(".bin"));
            name.expect("a path below the list").to_owned()
        })
        .collect();
    assert_eq!(listed, names);
}

#[test]
fn a_newer_sender_is_understood() {
    // Each control body with a field added at its end, and each fixed body with its reserved bytes
    // used: what a later version may do (docs/formats/wire.md, "Rolling upgrades").
    for sample in all() {
        let (header, body) = sample.parts();
        let fixed = header
            .known_op()
            .is_none_or(|op| matches!(op.group(), Group::Data | Group::Reconcile) || op == Op::CopyRead);
        if fixed && header.status.is_ok() {
            continue;
        }
        // Field 1000, length-delimited, three bytes.
        let longer = [body, &[0xc2, 0x3e, 3, 1, 2, 3]].concat();
        (sample.check)(&header, &longer);
    }
    let mut frame = all().swap_remove(0).frame;
    frame[40..60].fill(0xff);
    let crc = wire::crc::crc32c(&frame[..60]).to_le_bytes();
    frame[60..HEADER_LEN].copy_from_slice(&crc);
    let (header, body) = parts(&frame);
    (all().swap_remove(0).check)(&header, body);
}
