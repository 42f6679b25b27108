//! The `vstorage` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    control_cli::run()
}
