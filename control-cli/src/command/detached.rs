//! `vstorage detached`: what `start-service` runs between itself and a daemon. Not for operators.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::program::{ProgramError, become_program};

/// Its name on the command line.
pub(crate) const NAME: &str = "detached";

/// Leave the terminal's session and become a program.
#[derive(Debug, Args)]
pub(crate) struct Detached {
    /// The program.
    #[arg(value_name = "PROGRAM")]
    program: PathBuf,
    /// Its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

impl Detached {
    /// Comes back only when it fails. A session of its own keeps the daemon from the signals of our terminal.
    pub(crate) fn run(self) -> ProgramError {
        if let Err(error) = rustix::process::setsid() {
            return ProgramError::Run { path: self.program, error: error.into() };
        }
        let mut command = Command::new(self.program);
        command.args(self.args);
        become_program(command)
    }
}
