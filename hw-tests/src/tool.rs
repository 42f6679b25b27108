//! The Debian tools these tests run, each with the package that brings it.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, ExitStatus, Stdio};

/// A program of the system and the Debian package it comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// File name, looked up in `PATH` and the two `sbin` directories.
    pub program: &'static str,
    /// Debian package.
    pub package: &'static str,
}

/// Makes and removes loop devices.
pub const LOSETUP: Tool = Tool { program: "losetup", package: "mount" };
/// Mounts file systems.
pub const MOUNT: Tool = Tool { program: "mount", package: "mount" };
/// Unmounts file systems.
pub const UMOUNT: Tool = Tool { program: "umount", package: "mount" };
/// Makes an ext4.
pub const MKFS_EXT4: Tool = Tool { program: "mkfs.ext4", package: "e2fsprogs" };
/// Checks an ext4.
pub const E2FSCK: Tool = Tool { program: "e2fsck", package: "e2fsprogs" };
/// Starts a program that dies with its parent.
pub const SETPRIV: Tool = Tool { program: "setpriv", package: "util-linux" };

/// Every tool above.
pub const ALL: [Tool; 6] = [LOSETUP, MOUNT, UMOUNT, MKFS_EXT4, E2FSCK, SETPRIV];

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It cannot be started.
    #[error("{} cannot be started: {source}; install the Debian package {}", tool.program, tool.package)]
    Start {
        /// The tool.
        tool: Tool,
        /// What the system said.
        source: io::Error,
    },
    /// It ran and failed.
    #[error("`{command}` failed with {status}: {output}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        output: String,
    },
}

impl Tool {
    /// A command for this tool with the search path that finds it, messages in English, no input.
    pub(crate) fn command(self) -> Command {
        let mut command = Command::new(self.program);
        command.env("PATH", search_path()).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// Runs the tool to its end and returns what it printed on standard output.
    ///
    /// The calls that may block on a file system served by this very process go through here on purpose: a child
    /// blocked in the kernel does not keep this process (and with it the server) from ending.
    pub(crate) fn run(self, args: &[&OsStr]) -> Result<String, ToolError> {
        let output =
            self.command().args(args).output().map_err(|source| ToolError::Start { tool: self, source })?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(printed);
        }
        let mut command = self.program.to_owned();
        for arg in args {
            command.push(' ');
            command.push_str(&arg.to_string_lossy());
        }
        let mut said = printed;
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        Err(ToolError::Failed { command, status: output.status, output: said.trim().to_owned() })
    }

    /// Whether the program is on this machine.
    pub(crate) fn is_installed(self) -> bool {
        std::env::split_paths(&search_path()).any(|dir| dir.join(self.program).is_file())
    }
}

/// `PATH` and the directories of system tools, which a user's `PATH` may lack.
fn search_path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push("/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_names_its_package() {
        let absent = Tool { program: "no-such-tool-here", package: "some-package" };
        assert!(!absent.is_installed());
        let message = absent.run(&[]).expect_err("it does not exist").to_string();
        assert!(message.contains("install the Debian package some-package"), "{message}");
    }

    #[test]
    fn a_failing_tool_shows_what_it_said() {
        let shell = Tool { program: "sh", package: "dash" };
        assert_eq!(shell.run(&["-c".as_ref(), "echo yes".as_ref()]).expect("runs"), "yes\n");
        let error = shell.run(&["-c".as_ref(), "echo no >&2; exit 3".as_ref()]).expect_err("exits with 3");
        assert!(matches!(&error, ToolError::Failed { output, .. } if output == "no"), "{error}");
    }
}
