//! The written description names each operation and status as the code has it.

use std::fs;
use std::path::Path;

use wire::{Op, Status};

/// Cells of each row of the tables in `docs/formats/wire.md`, without quotes.
fn rows() -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats/wire.md");
    let text = fs::read_to_string(path).expect("the description");
    text.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").map(|cell| cell.trim().replace('`', "")).collect())
        .collect()
}

#[test]
fn each_operation_has_its_row() {
    let rows = rows();
    for &op in Op::ALL {
        let code = format!("{:#06x}", op.code());
        let found: Vec<_> = rows.iter().filter(|row| row[0] == code && row.len() == 4).collect();
        assert_eq!(found.len(), 1, "{op} {code}");
        assert_eq!(found[0][1], op.name(), "{code}");
    }
    let ops = rows.iter().filter(|row| row[0].starts_with("0x") && row.len() == 4).count();
    assert_eq!(ops, Op::ALL.len(), "an operation is described that does not exist");
}

#[test]
fn each_status_has_its_row() {
    let rows = rows();
    for &status in Status::ALL {
        let code = format!("{:#06x}", status.code());
        let row = rows.iter().find(|row| row[0] == code && row[1] == status.name());
        let row = row.unwrap_or_else(|| panic!("{} {code} is not described", status.name()));
        assert_eq!(row[2], status.blame().name(), "{}", status.name());
        assert_eq!(row[3], status.action().name(), "{}", status.name());
    }
    let statuses = rows.iter().filter(|row| row[0].starts_with("0x") && row.len() == 5).count();
    assert_eq!(statuses, Status::ALL.len(), "a status is described that does not exist");
}
