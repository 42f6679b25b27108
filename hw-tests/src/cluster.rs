//! A cluster of real daemons on this machine: one metadata server, some chunk servers, exports of volumes.
//!
//! Made by the product's own commands, under directories of its own (`VSTORAGE_ETC`, `VSTORAGE_LOG`, `VSTORAGE_RUN`). The
//! daemons are children of the test, so that they can be paused, killed and waited for, and never outlive it.
//!
//! With [`Options::machines`] each server believes that it is on a machine of its own which boots anew whenever
//! [`Node::reboot`] says so: in a mount namespace of its own another file lies over `/proc/sys/kernel/random/boot_id`.
//! A power cut that left the boot id as it was would be no power cut to the servers.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::network::Network;
use crate::process::{Daemon, DaemonSpec, ProcessError};
use crate::seeded::Seeded;

/// Name of the cluster, and of its directories.
pub const NAME: &str = "e2e";
/// The password of the cluster.
const PASSWORD: &str = "end-to-end-password";
/// How long a daemon may take to be ready: recovery, registration, leases of those before it.
pub const READY_LIMIT: Duration = Duration::from_secs(100);
/// How long a daemon may take to stop in order.
pub const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How long a command may take, in seconds.
const COMMAND_LIMIT: &str = "120";
/// Ports of metadata servers, two for each.
const PORTS: std::ops::Range<u16> = 25_000..29_000;
/// Bytes of each log shown on a failure.
const TAIL_BYTES: u64 = 3000;

/// Puts the file `$1` over the boot id and lets go of the mounts below `$2` that are others' disks than those of `$3` and
/// `$4`: a copy of a mount in this namespace would keep the disk from being detached. Then runs the rest.
const ON_A_MACHINE: &str = r#"
boot=$1 scratch=$2 own=$3 journal=$4
shift 4
while read -r _ point _; do
    case $own/ in "$point"/*) continue ;; esac
    case $journal/ in "$point"/*) continue ;; esac
    case $point in "$scratch"/*) umount -l "$point" ;; esac
done </proc/self/mounts
mount --bind "$boot" /proc/sys/kernel/random/boot_id || exit 97
exec "$@"
"#;

/// Why the cluster is not where the test wants it.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A daemon.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A command failed.
    #[error("{0}")]
    Command(Ended),
    /// A command cannot be run, or a file not be made.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A daemon was told to stop in order and ended otherwise.
    #[error("{name} ended with {status} on SIGTERM")]
    Disorderly {
        /// Which.
        name: String,
        /// How it ended.
        status: ExitStatus,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ClusterError {
    let what = what.into();
    move |source| ClusterError::Io { what, source }
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// As it was typed.
    pub line: String,
    /// Exit code; `None` after a signal. 124 when it was given up.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self.code.map_or("a signal".to_owned(), |code| format!("code {code}"));
        write!(f, "`{}` ended with {code}\n{}{}", self.line, self.stdout, self.stderr)
    }
}

impl Ended {
    /// Whether it did what it was asked.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }
}

/// Runs a command with `input` to its end, at most two minutes.
///
/// # Errors
/// [`ClusterError::Io`] if it cannot be started; how it ended is the result.
pub fn run_to_end(command: &Command, input: &str) -> Result<Ended, ClusterError> {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    let line = words.join(" ");
    let mut limited = Command::new("timeout");
    limited.args(["--kill-after=5", COMMAND_LIMIT]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = limited.spawn().map_err(io_error(format!("cannot run `{line}`")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It need not read it.
        let _unread = stdin.write_all(input.as_bytes());
    }
    let Output { status, stdout, stderr } =
        child.wait_with_output().map_err(io_error(format!("cannot wait for `{line}`")))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ended { line, code: status.code(), stdout: text(stdout), stderr: text(stderr) })
}

/// What cluster to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of everything but the repositories.
    pub dir: PathBuf,
    /// Where the programs are.
    pub binaries: PathBuf,
    /// Repository of the metadata server.
    pub mds: PathBuf,
    /// Repositories of the chunk servers.
    pub servers: Vec<PathBuf>,
    /// Size of the journal in MB; it lies in a directory beside the repository then. Without, it is the usual one.
    pub journal_mb: Option<u32>,
    /// Journals of chunk servers that lie elsewhere: directory and size in MB.
    pub own_journals: BTreeMap<usize, (PathBuf, u32)>,
    /// Tiers of chunk servers; 0 for the others.
    pub tiers: BTreeMap<usize, u8>,
    /// The chunk server that keeps no checksums (`-S`).
    pub unchecked: Option<usize>,
    /// Whether each server is on a machine of its own.
    pub machines: bool,
    /// Whether chunk servers keep their ports; by default they take any at each start.
    pub fixed_ports: bool,
    /// Where each of them is: the chunk servers, the metadata server, the client. Without, all are on the loopback.
    pub network: Option<Arc<Network>>,
}

impl Options {
    /// A metadata server and three chunk servers in directories below `dir`.
    pub fn plain(dir: &Path, binaries: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            binaries: binaries.to_owned(),
            mds: dir.join("mds"),
            servers: (1..=3).map(|number| dir.join(format!("cs{number}"))).collect(),
            journal_mb: None,
            own_journals: BTreeMap::new(),
            tiers: BTreeMap::new(),
            unchecked: None,
            machines: false,
            fixed_ports: false,
            network: None,
        }
    }

    /// The host of the metadata server in the network.
    pub fn mds_host(&self) -> usize {
        self.servers.len()
    }

    /// The host of the client in the network.
    pub fn client_host(&self) -> usize {
        self.servers.len() + 1
    }

    /// What runs a program on a host; nothing without a network.
    fn starter(&self, host: usize) -> Vec<String> {
        self.network.as_ref().map(|network| network.starter(host).to_vec()).unwrap_or_default()
    }

    fn address(&self, host: usize) -> Ipv4Addr {
        self.network.as_ref().map_or(Ipv4Addr::LOCALHOST, |network| network.address(host))
    }
}

/// A server and its directory.
#[derive(Debug)]
pub struct Node {
    name: String,
    spec: DaemonSpec,
    repository: PathBuf,
    boot: Option<(PathBuf, Seeded)>,
    daemon: Option<Daemon>,
}

impl Node {
    /// Its directory.
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// Process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Starts it without waiting.
    ///
    /// # Errors
    /// [`ClusterError::Process`].
    pub fn start(&mut self) -> Result<(), ClusterError> {
        self.daemon = Some(self.spec.start()?);
        Ok(())
    }

    /// Starts it by another program that takes these words before the daemon's own, without waiting.
    ///
    /// # Errors
    /// [`ClusterError::Process`].
    pub fn start_under(&mut self, starter: &[&str]) -> Result<(), ClusterError> {
        self.daemon = Some(self.spec.clone().under(starter).start()?);
        Ok(())
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// [`ClusterError::Process`] if it ends before or is late.
    pub fn ready(&mut self) -> Result<(), ClusterError> {
        if let Some(daemon) = &mut self.daemon {
            daemon.wait_line("ready:", READY_LIMIT)?;
        }
        Ok(())
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// [`ClusterError::Process`].
    pub fn pause(&self) -> Result<(), ClusterError> {
        Ok(self.daemon.as_ref().map_or(Ok(()), Daemon::pause)?)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// [`ClusterError::Process`].
    pub fn resume(&self) -> Result<(), ClusterError> {
        Ok(self.daemon.as_ref().map_or(Ok(()), Daemon::resume)?)
    }

    /// SIGKILL, without waiting until it is gone: it may have to wait for a disk.
    ///
    /// # Errors
    /// [`ClusterError::Process`].
    pub fn begin_kill(&self) -> Result<(), ClusterError> {
        let killed = self.daemon.as_ref().map(|daemon| daemon.signal(rustix::process::Signal::KILL));
        Ok(killed.transpose().map(drop)?)
    }

    /// SIGKILL; returns when it is gone.
    ///
    /// # Errors
    /// [`ClusterError::Process`].
    pub fn kill(&mut self) -> Result<(), ClusterError> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
        }
        Ok(())
    }

    /// SIGTERM; returns when it has ended in order.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn stop(&mut self) -> Result<(), ClusterError> {
        stop(&mut self.daemon, &self.name)
    }

    /// The machine has another boot id from now on.
    ///
    /// # Errors
    /// [`ClusterError::Io`].
    pub fn reboot(&mut self) -> Result<(), ClusterError> {
        let Some((path, seeded)) = &mut self.boot else { return Ok(()) };
        let (high, low) = (seeded.bits(), seeded.bits());
        let digits = format!("{high:016x}{low:016x}");
        let groups = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
        std::fs::write(&*path, format!("{}\n", groups.join("-"))).map_err(io_error("cannot write a boot id"))
    }
}

fn stop(daemon: &mut Option<Daemon>, name: &str) -> Result<(), ClusterError> {
    let Some(mut daemon) = daemon.take() else { return Ok(()) };
    let status = daemon.terminate(STOP_LIMIT)?;
    if status.success() { Ok(()) } else { Err(ClusterError::Disorderly { name: name.to_owned(), status }) }
}

/// The cluster. Dropping it kills it; while panicking it first shows how the logs end.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    /// The metadata server.
    pub mds: Node,
    /// The chunk servers.
    pub servers: Vec<Node>,
    export: Option<Daemon>,
    port: u16,
}

impl Cluster {
    /// Makes the cluster, starts it, and asks for a replica on every chunk server.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn make(options: Options) -> Result<Self, ClusterError> {
        for dir in ["etc", "log", "run", "boot"] {
            let path = options.dir.join(dir);
            std::fs::create_dir_all(&path).map_err(io_error(format!("cannot make {}", path.display())))?;
        }
        let mds = node(&options, options.mds_host(), "mds", "vstorage-mdsd", &options.mds);
        let make = |(index, path): (usize, &PathBuf)| {
            node(&options, index, &format!("cs{}", index + 1), "vstorage-csd", path)
        };
        let servers = options.servers.iter().enumerate().map(make).collect();
        let mut cluster = Self { options, mds, servers, export: None, port: free_ports() };
        cluster.mds.reboot()?;
        let host = cluster.options.mds_host();
        let address = format!("{}:{}", cluster.options.address(host), cluster.port);
        let repository = cluster.options.mds.display().to_string();
        let args = ["-c", NAME, "make-mds", "-I", "-a", &address, "-r", &repository, "-p"];
        let make = cluster.command_on(host, "vstorage", &args);
        require(run_to_end(&make, &format!("{PASSWORD}\n"))?)?;
        cluster.mds.start()?;
        cluster.mds.ready()?;
        for index in 0..cluster.servers.len() {
            cluster.servers[index].reboot()?;
            cluster.make_server(index)?;
        }
        cluster.start_all()?;
        let replicas = format!("replicas={}", cluster.servers.len().min(3));
        cluster.vstorage(&["set-attr", "-R", "-p", "/", &replicas, "failure-domain=disk"])?;
        Ok(cluster)
    }

    /// Makes a new chunk server in the place of one whose directory is lost, and starts it.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn remake_server(&mut self, index: usize) -> Result<(), ClusterError> {
        self.make_server(index)?;
        self.servers[index].start()?;
        self.servers[index].ready()
    }

    /// Makes one chunk server more, of this tier, and starts it.
    ///
    /// # Errors
    /// [`ClusterError`].
    ///
    /// # Panics
    /// In a network: it would have no host of its own.
    pub fn add_server(&mut self, repository: &Path, tier: u8) -> Result<(), ClusterError> {
        assert!(self.options.network.is_none(), "a network has as many hosts as it was made with");
        let index = self.servers.len();
        self.options.servers.push(repository.to_owned());
        self.options.tiers.insert(index, tier);
        let name = format!("cs{}", index + 1);
        let mut server = node(&self.options, index, &name, "vstorage-csd", repository);
        server.reboot()?;
        self.servers.push(server);
        self.remake_server(index)
    }

    fn make_server(&self, index: usize) -> Result<(), ClusterError> {
        let repository = self.options.servers[index].display().to_string();
        let mut args = vec!["make-cs", "-r", &repository];
        let own = self.options.own_journals.get(&index);
        let own = own.map(|(dir, size)| (dir.display().to_string(), size.to_string()));
        let beside = || Some((format!("{repository}-journal"), self.options.journal_mb?.to_string()));
        let journal = own.or_else(beside);
        if let Some((dir, size)) = &journal {
            args.extend(["-j", dir, "-s", size]);
        }
        let tier = self.options.tiers.get(&index).map(ToString::to_string);
        if let Some(tier) = &tier {
            args.extend(["-t", tier]);
        }
        if self.options.unchecked == Some(index) {
            args.push("-S");
        }
        let address = format!("{}:{}", self.options.address(index), free_ports());
        if self.options.fixed_ports {
            args.extend(["-a", &address]);
        }
        let mut words = vec!["-c", NAME];
        words.extend(args);
        require(run_to_end(&self.command_on(index, "vstorage", &words), "")?).map(drop)
    }

    /// A program of the product with this cluster's environment, where the client is.
    pub fn command<A: AsRef<OsStr>>(&self, program: &str, args: &[A]) -> Command {
        self.command_on(self.options.client_host(), program, args)
    }

    fn command_on<A: AsRef<OsStr>>(&self, host: usize, program: &str, args: &[A]) -> Command {
        let program = self.options.binaries.join(program);
        let mut command = match &self.options.starter(host)[..] {
            [] => Command::new(program),
            [starter, words @ ..] => {
                let mut command = Command::new(starter);
                command.args(words).arg(program);
                command
            }
        };
        command.args(args);
        for (variable, dir) in environment(&self.options.dir) {
            command.env(variable, dir);
        }
        command
    }

    /// Runs `vstorage -c NAME …` to its end, however that is.
    ///
    /// # Errors
    /// [`ClusterError::Io`] if it cannot be started.
    pub fn try_vstorage(&self, args: &[&str]) -> Result<Ended, ClusterError> {
        let mut words = vec!["-c", NAME];
        words.extend(args);
        run_to_end(&self.command("vstorage", &words), "")
    }

    /// Runs `vstorage -c NAME …` and returns what it printed.
    ///
    /// # Errors
    /// [`ClusterError::Command`] unless it succeeds.
    pub fn vstorage(&self, args: &[&str]) -> Result<String, ClusterError> {
        require(self.try_vstorage(args)?).map(|ended| ended.stdout)
    }

    /// Port at which the metadata server hears others like it; chunk servers and clients use the next one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Directory of everything but the repositories.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// Process ids of all daemons that run, with their names.
    pub fn pids(&self) -> Vec<(String, u32)> {
        let nodes = std::iter::once(&self.mds).chain(&self.servers);
        let mut pids: Vec<_> = nodes.filter_map(|node| Some((node.name.clone(), node.pid()?))).collect();
        pids.extend(self.export.as_ref().map(|export| ("export".to_owned(), export.pid())));
        pids
    }

    /// Starts what does not run and waits until it serves: the metadata server, then the chunk servers.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn start_all(&mut self) -> Result<(), ClusterError> {
        if self.mds.daemon.is_none() {
            self.mds.start()?;
            self.mds.ready()?;
        }
        let mut started = Vec::new();
        for (index, server) in self.servers.iter_mut().enumerate() {
            if server.daemon.is_none() {
                server.start()?;
                started.push(index);
            }
        }
        started.into_iter().try_for_each(|index| self.servers[index].ready())
    }

    /// The Unix socket of the export.
    pub fn socket(&self) -> PathBuf {
        self.options.dir.join("nbd.sock")
    }

    /// The export as a URI.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket().display())
    }

    /// Exports a volume and waits until it is served.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn export(&mut self, path: &str) -> Result<(), ClusterError> {
        let socket = self.socket().display().to_string();
        let log = self.options.dir.join("log/export.log");
        let mut spec = DaemonSpec::new(self.options.binaries.join("vstorage"), log).args([
            "-c",
            NAME,
            "--log-level",
            "info",
            "export",
            "--nbd",
            &socket,
            path,
        ]);
        for (variable, dir) in environment(&self.options.dir) {
            spec = spec.env(variable, dir);
        }
        let mut daemon = under(spec, &self.options.starter(self.options.client_host())).start()?;
        daemon.wait_line("ready:", READY_LIMIT)?;
        self.export = Some(daemon);
        Ok(())
    }

    /// SIGSTOP to the export.
    ///
    /// # Errors
    /// [`ClusterError::Process`].
    pub fn pause_export(&self) -> Result<(), ClusterError> {
        Ok(self.export.as_ref().map_or(Ok(()), Daemon::pause)?)
    }

    /// SIGCONT to the export.
    ///
    /// # Errors
    /// [`ClusterError::Process`].
    pub fn resume_export(&self) -> Result<(), ClusterError> {
        Ok(self.export.as_ref().map_or(Ok(()), Daemon::resume)?)
    }

    /// SIGKILL to the export.
    ///
    /// # Errors
    /// [`ClusterError::Process`].
    pub fn kill_export(&mut self) -> Result<(), ClusterError> {
        if let Some(mut export) = self.export.take() {
            export.kill()?;
        }
        Ok(())
    }

    /// SIGTERM to the export, which must end in order.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn stop_export(&mut self) -> Result<(), ClusterError> {
        stop(&mut self.export, "the export")
    }

    /// SIGKILL to every process, in one go.
    ///
    /// # Errors
    /// [`ClusterError::Process`].
    pub fn kill_all(&mut self) -> Result<(), ClusterError> {
        let nodes = std::iter::once(&self.mds).chain(&self.servers);
        for daemon in nodes.filter_map(|node| node.daemon.as_ref()).chain(&self.export) {
            daemon.signal(rustix::process::Signal::KILL)?;
        }
        self.kill_export()?;
        self.mds.kill()?;
        self.servers.iter_mut().try_for_each(Node::kill)
    }

    /// SIGTERM to every process, the metadata server last; each must end in order.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn stop_all(&mut self) -> Result<(), ClusterError> {
        self.stop_export()?;
        self.servers.iter_mut().try_for_each(Node::stop)?;
        self.mds.stop()
    }

    /// `vstorage-csd check` of every stopped chunk server; each must find nothing.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with what it found.
    pub fn check_all(&self) -> Result<(), ClusterError> {
        for server in &self.servers {
            require(self.check(server)?)?;
        }
        Ok(())
    }

    /// `vstorage-csd check` of one stopped chunk server.
    ///
    /// # Errors
    /// [`ClusterError::Io`] if it cannot be started.
    pub fn check(&self, server: &Node) -> Result<Ended, ClusterError> {
        run_to_end(&self.command("vstorage-csd", &["check".as_ref(), server.repository.as_os_str()]), "")
    }

    /// The log of a daemon: `mds`, `cs1`…, `export`.
    pub fn log(&self, name: &str) -> String {
        let path = self.options.dir.join("log").join(format!("{name}.log"));
        std::fs::read(path).map_or(String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn show_logs(&self) {
        let Ok(entries) = std::fs::read_dir(self.options.dir.join("log")) else { return };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            eprintln!("--- the end of {name}:\n{}", tail(&path).unwrap_or_default());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
    }
}

fn under(spec: DaemonSpec, starter: &[String]) -> DaemonSpec {
    let words: Vec<&str> = starter.iter().map(String::as_str).collect();
    spec.under(&words)
}

fn node(options: &Options, host: usize, name: &str, program: &str, repository: &Path) -> Node {
    let program = options.binaries.join(program);
    let log = options.dir.join("log").join(format!("{name}.log"));
    let boot = options.machines.then(|| {
        let number = name.bytes().fold(7, |number, byte| number * 31 + u64::from(byte));
        (options.dir.join("boot").join(name), Seeded::new(number))
    });
    let mut spec = match &boot {
        None => DaemonSpec::new(&program, log),
        Some((file, _)) => DaemonSpec::new("unshare", log)
            .args(["--mount", "--propagation", "private", "sh", "-c", ON_A_MACHINE, name])
            .args([file.as_os_str(), options.dir.as_os_str(), repository.as_os_str()])
            .args([options.own_journals.get(&host).map_or(repository, |(dir, _)| dir)])
            .arg(&program),
    };
    spec = spec.args(["run", "-c", NAME, "-r"]).arg(repository);
    for (variable, dir) in environment(&options.dir) {
        spec = spec.env(variable, dir);
    }
    let spec = under(spec, &options.starter(host));
    Node { name: name.to_owned(), spec, repository: repository.to_owned(), boot, daemon: None }
}

/// The environment of a program that belongs to the cluster in `dir`.
pub fn environment(dir: &Path) -> [(&'static str, OsString); 4] {
    // There is no resolv.conf: nobody asks a name server of this machine.
    [
        ("VSTORAGE_ETC", "etc"),
        ("VSTORAGE_LOG", "log"),
        ("VSTORAGE_RUN", "run"),
        ("VSTORAGE_RESOLV_CONF", "resolv.conf"),
    ]
    .map(|(variable, name)| (variable, dir.join(name).into_os_string()))
}

fn require(ended: Ended) -> Result<Ended, ClusterError> {
    if ended.succeeded() { Ok(ended) } else { Err(ClusterError::Command(ended)) }
}

/// Two ports in a row that nobody listens at; no two calls of this process give the same.
pub fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    loop {
        let step = NEXT.fetch_add(2, Ordering::Relaxed);
        // Runs beside each other begin at different places.
        let begin = (std::process::id() % u32::from(span / 2)) as u16 * 2;
        let port = PORTS.start + (begin + step) % span;
        if is_free(port) && is_free(port + 1) {
            return port;
        }
    }
}

/// Whether a server could listen at the port. The probe is bound and never listens: until its exec, a child that another
/// thread makes meanwhile holds a copy of it, which must not be in that server's way.
pub fn is_free(port: u16) -> bool {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
    let probe = || {
        let probe = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&probe, true)?;
        bind(&probe, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
    };
    probe().is_ok()
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_command_is_run_to_its_end_with_its_input() {
        let mut command = Command::new("sh");
        command.args(["-c", "cat; echo $NAME >&2; exit 3"]).env("NAME", "value");
        let ended = run_to_end(&command, "input").expect("it runs");
        assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(3), "input", "value\n"));
        assert!(!ended.succeeded());
        assert!(ended.to_string().contains("ended with code 3\ninputvalue\n"), "{ended}");
    }

    #[test]
    fn ports_are_free_and_never_given_twice() {
        let ports: Vec<u16> = (0..5).map(|_| free_ports()).collect();
        let mut distinct = ports.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), ports.len());
        assert!(ports.iter().all(|port| PORTS.contains(port) && is_free(*port)));
        let listener = TcpListener::bind(("127.0.0.1", ports[0])).expect("a free port");
        assert!(!is_free(ports[0]), "somebody listens there");
        drop(listener);
    }
}
