//! `cargo xtask fix`: formats the code and applies what clippy can mend by itself.

use std::time::Duration;

use crate::Outcome;
use crate::error::Error;
use crate::process::{self, Limits};
use crate::workspace::Workspace;

/// Formatting comes last, because what clippy writes is not formatted.
const COMMANDS: [&[&str]; 2] = [
    &[
        "clippy",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
        "--profile",
        "ci",
        "--workspace",
        "--all-targets",
    ],
    &["fmt", "--all"],
];

/// Runs the commands; the first that fails ends it.
pub(crate) fn run(workspace: &Workspace) -> Result<Outcome, Error> {
    for arguments in COMMANDS {
        let limits = Limits { total: Duration::from_secs(3600), silence: None };
        process::succeed(workspace.cargo().args(arguments), limits, process::echo)?;
    }
    Ok(Outcome::Passed)
}
