//! The daemon behind a mounted cluster.

use std::process::ExitCode;

fn main() -> ExitCode {
    fuse_mount::daemon::main()
}
