//! A host of its own for each test: directories, programs, and the `vstorage` command run on it.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The built program.
pub(crate) const VSTORAGE: &str = env!("CARGO_BIN_EXE_vstorage");

/// A host.
pub(crate) struct Host {
    root: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ended {
    /// Standard output of a command that did what it was asked.
    #[track_caller]
    pub(crate) fn done(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        &self.stdout
    }

    /// JSON of a command that did what it was asked.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.done()).expect("JSON")
    }

    /// Standard error of a command that failed with this code, and wrote no result.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32) -> &str {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{self:?}");
        &self.stderr
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A file of the cluster on this host.
    pub(crate) fn cluster_file(&self, cluster: &str, file: &str) -> PathBuf {
        let dir = self.path("etc/clusters").join(cluster);
        std::fs::create_dir_all(&dir).expect("a directory");
        dir.join(file)
    }

    /// Writes the list of metadata servers.
    pub(crate) fn write_list(&self, cluster: &str, text: &str) {
        std::fs::write(self.cluster_file(cluster, "bs.list"), text).expect("written");
    }

    /// The command on this host; it finds no programs but those beside it.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).env("PATH", "/usr/bin:/bin");
        // Without a resolv.conf nobody asks a name server of this machine.
        let places = [("ETC", "etc"), ("LOG", "log"), ("RUN", "run"), ("RESOLV_CONF", "resolv.conf")];
        for (variable, name) in places {
            command.env(format!("VSTORAGE_{variable}"), self.path(name));
        }
        command
    }

    /// Runs `vstorage`.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        self.command(VSTORAGE, args).output().expect("it runs").into()
    }

    /// Runs a copy of `vstorage` that has the programs of [`Host::install`] beside it.
    pub(crate) fn run_installed(&self, args: &[&str]) -> Ended {
        self.command(self.installed(), args).output().expect("it runs").into()
    }

    /// As [`Host::run_installed`], with standard input.
    pub(crate) fn run_with_input(&self, args: &[&str], input: &str) -> Ended {
        let mut command = self.command(self.installed(), args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        // It need not read all of it.
        let _unread = child.stdin.take().expect("piped").write_all(input.as_bytes());
        child.wait_with_output().expect("it ends").into()
    }

    /// A copy of `vstorage` in a directory of its own.
    pub(crate) fn installed(&self) -> PathBuf {
        let program = self.path("bin/vstorage");
        if !program.exists() {
            std::fs::create_dir_all(self.path("bin")).expect("a directory");
            if std::fs::hard_link(VSTORAGE, &program).is_err() {
                let copied = Command::new("cp").arg(VSTORAGE).arg(&program).status();
                assert!(copied.expect("cp of the Debian package coreutils").success());
            }
        }
        program
    }

    /// Puts a shell script beside the copy of `vstorage`. Another process writes it: a child that a thread beside us starts
    /// meanwhile would hold a copy of our descriptor, and a file that somebody may write cannot be run.
    pub(crate) fn install(&self, name: &str, script: &str) -> PathBuf {
        let path = self.installed().with_file_name(name);
        let mut writer = Command::new("sh");
        writer.args(["-c", "printf '#!/bin/sh\\n%s' \"$2\" > \"$1\" && chmod 755 \"$1\"", "sh"]);
        assert!(writer.arg(&path).arg(script).status().expect("a shell").success());
        path
    }

    /// What a file holds; empty when there is none.
    pub(crate) fn read(&self, name: impl AsRef<Path>) -> String {
        std::fs::read_to_string(self.root.path().join(name)).unwrap_or_default()
    }
}
