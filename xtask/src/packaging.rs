//! `cargo xtask packaging`: writes the manual pages and completions anew, from the grammars of the command lines.

use std::time::Duration;

use crate::Outcome;
use crate::error::Error;
use crate::process::{self, Limits};
use crate::workspace::Workspace;

/// Tells the test that compares them to write them instead.
const WRITE: &str = "VSTORAGE_WRITE_PACKAGING";
/// The test.
const TEST: &[&str] = &[
    "test",
    "--profile",
    "ci",
    "-p",
    "xtask",
    "--test",
    "packaging",
    "packaging_is_up_to_date",
    "--",
    "--nocapture",
];

/// Runs the test so that it writes.
pub(crate) fn run(workspace: &Workspace) -> Result<Outcome, Error> {
    let limits = Limits { total: Duration::from_secs(3600), silence: None };
    process::succeed(workspace.cargo().args(TEST).env(WRITE, "1"), limits, process::echo)?;
    Ok(Outcome::Passed)
}
