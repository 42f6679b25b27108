//! The cluster of the quickstart, driven by the product's own commands.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::Error;
use crate::workspace::Workspace;

use super::{failed, step};

/// Name of the cluster.
const NAME: &str = "quick";
/// The password of a cluster that lives for a minute on loopback.
const PASSWORD: &str = "quickstart-password";
/// Chunk servers.
const SERVERS: usize = 3;

/// A running cluster.
pub(super) struct Cluster {
    dir: PathBuf,
    binaries: PathBuf,
    export: Option<Child>,
    keep: bool,
}

fn binaries(workspace: &Workspace) -> PathBuf {
    workspace.target_directory.join("release")
}

fn command(binaries: &Path, dir: &Path, program: &str) -> Command {
    let mut command = Command::new(binaries.join(program));
    command
        .env("VSTORAGE_ETC", dir.join("etc"))
        .env("VSTORAGE_LOG", dir.join("log"))
        .env("VSTORAGE_RUN", dir.join("run"));
    command
}

/// Ends the daemons that an earlier run has left.
pub(super) fn end_daemons(dir: &Path) {
    for pid in daemons(dir) {
        kill(pid);
    }
}

/// Daemons of the cluster in `dir`: our binaries whose environment names it. Found in /proc, so that those of an
/// interrupted run are found, too.
fn daemons(dir: &Path) -> Vec<i32> {
    let mark = format!("VSTORAGE_ETC={}", dir.join("etc").display());
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let command = std::fs::read(entry.path().join("comm")).unwrap_or_default();
        let ours = command.starts_with(b"vstorage-");
        if ours && environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// Kills a process and waits until it is gone.
fn kill(pid: i32) {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return };
    // The descriptor names the process for good: a reused number cannot be hit. A process that is gone is what we want.
    let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
    if rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::KILL).is_ok() {
        let mut fds = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        // Whether it has ended is seen by what comes next: its locks and ports.
        let _ended = rustix::event::poll(&mut fds, Some(&limit));
    }
}

/// Two free consecutive ports.
fn free_ports() -> Result<u16, Error> {
    for port in (24_100..24_900).step_by(2) {
        let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 1) {
            return Ok(port);
        }
    }
    Err(failed("no two free consecutive ports on 127.0.0.1 between 24100 and 24900"))
}

impl Cluster {
    /// Makes and starts the cluster.
    pub(super) fn make(workspace: &Workspace, dir: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(dir.join("etc"))
            .map_err(|source| Error::Read { path: dir.to_owned(), source })?;
        let cluster = Self { dir: dir.to_owned(), binaries: binaries(workspace), export: None, keep: false };
        let address = format!("127.0.0.1:{}", free_ports()?);
        let mds = dir.join("mds");
        let mut make =
            cluster.command(&["make-mds", "-I", "-a", &address, "-r", &mds.display().to_string(), "-p"]);
        make.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            make.spawn().map_err(|source| Error::Spawn { program: "vstorage make-mds".into(), source })?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that ended before it read the password says why itself.
            let _ended = writeln!(stdin, "{PASSWORD}");
        }
        let output = child
            .wait_with_output()
            .map_err(|source| Error::Wait { program: "vstorage make-mds".into(), source })?;
        if !output.status.success() {
            return Err(failed(format!("vstorage make-mds: {}", String::from_utf8_lossy(&output.stderr))));
        }
        cluster.vstorage(&["start-service", "--no-systemd", &mds.display().to_string()])?;
        for server in 1..=SERVERS {
            let repository = dir.join(format!("cs{server}")).display().to_string();
            cluster.vstorage(&["make-cs", "-r", &repository])?;
        }
        cluster.start_all()?;
        cluster.vstorage(&["set-attr", "-R", "-p", "/", "replicas=3", "failure-domain=disk"])?;
        Ok(cluster)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(&self.binaries, &self.dir, "vstorage");
        command.args(["-c", NAME]).args(args);
        command
    }

    /// Runs `vstorage -c NAME ...`.
    pub(super) fn vstorage(&self, args: &[&str]) -> Result<String, Error> {
        let output = self
            .command(args)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| Error::Spawn { program: "vstorage".into(), source })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(failed(format!(
            "`vstorage -c {NAME} {}` ended with {}:\n{}{}(logs: {})",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.dir.join("log").display()
        )))
    }

    /// The NBD socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join("run").join("nbd.sock")
    }

    /// The NBD socket as a URI.
    pub(super) fn socket_uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket().display())
    }

    /// Exports a volume; returns when it is served.
    pub(super) fn export(&mut self, path: &str) -> Result<(), Error> {
        let log = self.dir.join("log").join("nbd.log").display().to_string();
        let socket = self.socket().display().to_string();
        let mut child = self
            .command(&["--log-file", &log, "export", "--nbd", &socket, path])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Spawn { program: "vstorage export".into(), source })?;
        let Some(stdout) = child.stdout.take() else { return Err(failed("the export has no output")) };
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        if read.is_err() || !line.starts_with("ready:") {
            let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            return Err(failed(format!("the export ended with {status} before it served {path}; see {log}")));
        }
        self.export = Some(child);
        Ok(())
    }

    /// Starts every daemon of this host.
    pub(super) fn start_all(&self) -> Result<(), Error> {
        self.vstorage(&["start-service", "--no-systemd", "all"]).map(drop)
    }

    /// Stops the export and every daemon in order.
    pub(super) fn stop_all(&mut self) -> Result<(), Error> {
        if let Some(mut export) = self.export.take() {
            let pid = i32::try_from(export.id()).ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                    .map_err(|source| Error::Wait { program: "the export".into(), source: source.into() })?;
            }
            let status =
                export.wait().map_err(|source| Error::Wait { program: "the export".into(), source })?;
            if !status.success() {
                return Err(failed(format!("the export ended with {status} on SIGTERM")));
            }
        }
        self.vstorage(&["stop-service", "--no-systemd", "all"]).map(drop)
    }

    /// Kills everything with -9.
    pub(super) fn kill_all(&mut self) -> Result<(), Error> {
        let daemons = daemons(&self.dir);
        if daemons.len() < SERVERS + 2 {
            return Err(failed(format!(
                "found {} daemons to kill instead of {}",
                daemons.len(),
                SERVERS + 2
            )));
        }
        for pid in daemons {
            kill(pid);
        }
        if let Some(mut export) = self.export.take() {
            export.wait().map_err(|source| Error::Wait { program: "the export".into(), source })?;
        }
        Ok(())
    }

    /// Checks every stopped chunk server; gives a line for the report.
    pub(super) fn check_all(&self) -> Result<String, Error> {
        for server in 1..=SERVERS {
            let repository = self.dir.join(format!("cs{server}"));
            step(&format!("vstorage-csd check {}", repository.display()));
            let output = command(&self.binaries, &self.dir, "vstorage-csd")
                .arg("check")
                .arg(&repository)
                .output()
                .map_err(|source| Error::Spawn { program: "vstorage-csd".into(), source })?;
            if !output.status.success() {
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                return Err(failed(format!("{}:\n{text}", repository.display())));
            }
        }
        Ok(format!("{SERVERS} chunk servers, no finding"))
    }

    /// Leaves everything running.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        end_daemons(&self.dir);
        if let Some(mut export) = self.export.take() {
            // Killed above; only its entry in the process table is left.
            let _reaped = export.wait();
        }
    }
}

/// Prints the commands to go on by hand.
pub(super) fn how_to_go_on(workspace: &Workspace, dir: &Path, volume: &str) {
    let binaries = binaries(workspace);
    println!("\nThe cluster is running. To go on by hand:\n");
    for variable in ["ETC", "LOG", "RUN"] {
        println!("  export VSTORAGE_{variable}={}", dir.join(variable.to_lowercase()).display());
    }
    println!("  export PATH={}:$PATH", binaries.display());
    for line in [
        format!("vstorage -c {NAME} stat"),
        format!("vstorage -c {NAME} list-services"),
        format!("vstorage -c {NAME} get-event"),
        format!("nbdinfo 'nbd+unix:///?socket={}'", dir.join("run").join("nbd.sock").display()),
        format!("vstorage -c {NAME} create /another --size 10G"),
        format!("vstorage -c {NAME} stat {volume}"),
        format!("vstorage -c {NAME} stop-service --no-systemd all"),
    ] {
        println!("  {line}");
    }
    println!("\nThe next `cargo xtask quickstart` removes it.");
}
