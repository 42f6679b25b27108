//! The daemon that exports volumes to block clients.

use std::process::ExitCode;

fn main() -> ExitCode {
    ublk_target::daemon::main()
}
