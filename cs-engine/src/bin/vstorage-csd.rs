//! The chunk server's daemon and its sub-commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    cs_engine::daemon::main()
}
