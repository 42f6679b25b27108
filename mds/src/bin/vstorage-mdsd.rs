//! The metadata server's daemon and its sub-commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    mds::daemon::main()
}
