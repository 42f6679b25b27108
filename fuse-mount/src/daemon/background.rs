//! Going into the background: the program starts itself anew, waits until that process says that the cluster is mounted, and leaves.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::args::helper_words;
use super::failure::Failure;

/// What the process in the background says.
const MOUNTED: &str = "mounted";

/// Starts the daemon in the background and waits until the cluster is mounted.
///
/// # Errors
/// [`Failure`]; what went wrong in the background has been said on standard error already.
pub(super) fn launch() -> Result<(), Failure> {
    let program = std::env::current_exe().map_err(Failure::system("cannot find this program"))?;
    let mut command = Command::new(program);
    command.arg("--detached").args(helper_words().into_iter().skip(1));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(Failure::system("cannot start the daemon"))?;
    if let Some(out) = child.stdout.take() {
        let mut line = String::new();
        let read = BufReader::new(out).read_line(&mut line);
        if read.is_ok() && line.trim_end() == MOUNTED {
            return Ok(());
        }
    }
    let status = child.wait().map_err(Failure::system("cannot wait for the daemon"))?;
    if status.code() == Some(1) {
        // It has said why.
        std::process::exit(1);
    }
    Err(Failure::Died(status))
}

/// Leaves the session of whoever started this.
///
/// # Errors
/// Those of `setsid(2)`.
pub(super) fn leave() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Says that the cluster is mounted, and lets go of the terminal and the directory.
///
/// # Errors
/// Those of `open(2)` and `dup2(2)`.
pub(super) fn say_mounted() -> io::Result<()> {
    let mut out = io::stdout();
    // Whoever started us may have stopped listening.
    let _unheard = writeln!(out, "{MOUNTED}").and_then(|()| out.flush());
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    std::env::set_current_dir("/")
}
