//! The daemon as a process: making, running, being killed; and what it says when it cannot.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use link::{Credentials, Endpoint, Expect, LocalHello};
use rt::net::Address;
use wire::hello::Role;
use wire::namespace::{Create, FileKind, List};

use super::raft_ledger::directory;
use super::server_world::{on_ring, soon};

/// A host with directories of its own.
struct Host {
    root: tempfile::TempDir,
    ip: Ipv4Addr,
}

impl Host {
    fn new() -> Self {
        let root = directory();
        // An address of its own, so that tests at the same time do not meet.
        let mut random = [0; 3];
        std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
        let [a, b, c] = random.map(|byte| byte % 254 + 1);
        Self { root, ip: Ipv4Addr::new(127, a, b, c) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn cluster(&self, file: &str) -> PathBuf {
        self.path("etc/clusters/stor1").join(file)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vstorage-mdsd"));
        command.args(args).env("VSTORAGE_ETC", self.path("etc")).stdin(Stdio::null());
        command
    }

    /// Runs a sub-command to its end, with this on its standard input.
    fn ends(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(args);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        // It may have ended already.
        let _ended = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn make_args<'a>(&self, dir: &'a str, address: &'a str) -> Vec<&'a str> {
        vec!["--log-level", "warn", "make", "-c", "stor1", "-I", "-a", address, "-r", dir]
    }

    /// Makes the cluster `stor1`.
    fn make(&self) {
        let (dir, address) = (self.path("mds"), self.ip.to_string());
        let output = self.ends(&self.make_args(dir.to_str().unwrap(), &address), "");
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.starts_with("MDS#1 made in ") && said.contains("\"stor1\""), "{said}");
    }

    fn run_args<'a>(&self, cluster: &'a str, dir: &'a str) -> [&'a str; 7] {
        ["--log-level", "warn", "run", "-c", cluster, "-r", dir]
    }

    /// Starts the daemon and waits until it is ready.
    fn start(&self) -> Daemon {
        let dir = self.path("mds");
        let mut command = self.command(&self.run_args("stor1", dir.to_str().unwrap()));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, format!("ready: MDS#1 at {}:2511 (master)\n", self.ip));
        Daemon(child)
    }

    /// What `run` says when it does not run.
    fn refusal(&self, cluster: &str) -> String {
        let dir = self.path("mds");
        failed(&self.ends(&self.run_args(cluster, dir.to_str().unwrap()), ""))
    }

    /// Everything in its directories, with its size.
    fn tree(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let mut todo = vec![self.root.path().to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let about = path.symlink_metadata().unwrap();
                if about.is_dir() {
                    todo.push(path.clone());
                }
                found.push((path, if about.is_file() { about.len() } else { 0 }));
            }
        }
        found.sort();
        found
    }

    /// Asks the daemon, with the credentials of this host.
    fn ask<C>(&self, calls: Vec<C>) -> Vec<C::Reply>
    where
        C: wire::Call<Reply: 'static> + 'static,
    {
        let path = self.cluster("auth_digest.key");
        let address = Address::Tcp(SocketAddr::from((self.ip, 2511)));
        on_ring(async move {
            let credentials = Credentials::load(&path).await.unwrap();
            let hello = LocalHello::new(Role::Tool, [1; 16]);
            let endpoint = Endpoint::new(credentials, hello, link::Options::default()).unwrap();
            let connection = endpoint.connect(&address, Expect::role(Role::Mds)).await.unwrap();
            let mut replies = Vec::new();
            for call in calls {
                replies.push(connection.ask(&call, soon()).await.unwrap());
            }
            replies
        })
    }
}

/// What a command that failed has said.
fn failed(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it did not fail: {said}");
    assert!(output.status.code().is_some(), "it was not killed: {said}");
    assert!(said.contains("vstorage-mdsd: ") && !said.contains("panicked"), "{said}");
    said
}

struct Daemon(Child);

impl Daemon {
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn terminate(mut self) {
        let pid = rustix_pid(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(self.0.wait().unwrap().code(), Some(0), "an orderly stop");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn rustix_pid(child: &Child) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(child.id() as i32).unwrap()
}

fn create(name: &str) -> Create {
    Create { path: format!("/{name}"), kind: FileKind::File.into(), ..Create::default() }
}

#[test]
fn a_cluster_is_made_with_all_it_needs() {
    let host = Host::new();
    let (dir, address) = (host.path("a/b/mds"), format!("{}:4110", host.ip));
    let mut args = host.make_args(dir.to_str().unwrap(), &address);
    args.push("-p");
    let output = host.ends(&args, "correct horse\n");
    assert!(output.status.success(), "{output:?}");
    let text = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    assert_eq!(text(host.cluster("bs.list")), format!("{address}\n"));
    assert_eq!(text(host.cluster("services.list")), format!("mds {}\n", dir.display()));
    let settings = text(dir.join("mds.conf"));
    assert!(
        settings.contains("cluster stor1\n") && settings.contains(&format!("address {address}\n")),
        "{settings}"
    );
    // The verifier is in the log.
    let log = dir.join("log-0000000000000001");
    for secret in [dir.join("ca.key"), log, host.cluster("auth_digest.key")] {
        assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{secret:?}");
        let bytes = std::fs::read(&secret).unwrap();
        assert!(!bytes.windows(5).any(|part| part == b"horse"), "{secret:?}");
    }
    let spoken = [output.stdout, output.stderr].concat();
    assert!(!String::from_utf8_lossy(&spoken).contains("horse"));
}

#[test]
fn hosts_join_a_real_server_by_a_password_that_was_set_late() {
    let host = Host::new();
    host.make();
    let dir = host.path("mds");
    // What an earlier build left.
    std::fs::write(dir.join("password.phc"), "$argon2id$v=19$m=19456,t=2,p=1$AAAA$AAAA\n").unwrap();
    let address = Address::Tcp(SocketAddr::from((host.ip, 2511)));
    let join = |typed: &'static str| {
        let address = address.clone();
        on_ring(async move {
            let visitor = link::guest::Visitor {
                cluster: "stor1".into(),
                password: link::password::Password::typed(typed).unwrap(),
                patience: Duration::from_secs(20),
                security: link::Security::real(),
            };
            visitor.enroll(&address, "s2", "00ff").await.map(|node| node.to_pem())
        })
    };
    let daemon = host.start();
    assert!(join("correct horse").is_err(), "there is none");
    let set = ["password", "-c", "stor1", "-r", dir.to_str().unwrap()];
    assert!(failed(&host.ends(&set, "correct horse\n")).contains("in use by another process"));
    daemon.terminate();
    assert!(failed(&host.ends(&set, "short\n")).contains("too short"));
    let output = host.ends(&set, "correct horse\n");
    assert!(output.status.success(), "{output:?}");
    assert!(!dir.join("password.phc").exists());
    let daemon = host.start();
    assert!(join("wrong horse").is_err());
    let node = join("correct horse").unwrap();
    daemon.kill();
    // What was admitted survives, and what was revoked would.
    let daemon = host.start();
    std::fs::write(host.cluster("auth_digest.key"), &*node).unwrap();
    let nodes = host.ask(vec![wire::auth::ListNodes::default()]).remove(0).nodes;
    assert_eq!(nodes.iter().map(|node| node.number).collect::<Vec<_>>(), [1, 2]);
    daemon.terminate();
}

#[test]
fn what_was_answered_survives_a_kill_at_any_moment() {
    let host = Host::new();
    host.make();
    let mut names = Vec::new();
    for round in 0..3 {
        let daemon = host.start();
        let listed = host.ask(vec![List { path: "/".into(), ..List::default() }]).remove(0);
        assert_eq!(listed.entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>(), names);
        let new: Vec<String> = (0..20).map(|number| format!("f{round}-{number:02}")).collect();
        host.ask(new.iter().map(|name| create(name)).collect());
        names.extend(new);
        daemon.kill();
    }
    let daemon = host.start();
    daemon.terminate();
    host.start().terminate();
}

#[test]
fn refused_makes_leave_nothing_behind() {
    let host = Host::new();
    let (dir, file) = (host.path("mds"), host.path("file"));
    std::fs::create_dir(host.path("full")).unwrap();
    std::fs::write(host.path("full/something"), "x").unwrap();
    std::fs::write(&file, "x").unwrap();
    std::fs::create_dir_all(host.path("etc/clusters/known")).unwrap();
    std::fs::write(host.path("etc/clusters/known/bs.list"), "10.0.0.1\n").unwrap();
    let taken = TcpListener::bind((host.ip, 4111)).unwrap();
    let before = host.tree();
    let ip = host.ip.to_string();
    let (dir, full, file) = (dir.to_str().unwrap(), host.path("full"), file.to_str().unwrap());
    let full = full.to_str().unwrap();
    let long = "x".repeat(64);
    let (taken_below, taken_here) = (format!("{ip}:4110"), format!("{ip}:4111"));
    let with = |cluster: &'static str, address: &str, dir: &str| {
        ["make", "-c", cluster, "-I", "-a", address, "-r", dir].map(str::to_owned).to_vec()
    };
    let table: Vec<(Vec<String>, &str)> = vec![
        (with("a b", &ip, dir), "no cluster name"),
        (with("../x", &ip, dir), "no cluster name"),
        (["make", "-c", &long, "-I", "-a", &ip, "-r", dir].map(str::to_owned).to_vec(), "more than 63"),
        (
            ["make", "-c", "stor1", "-a", &ip, "-r", dir].map(str::to_owned).to_vec(),
            "make a new cluster with -I",
        ),
        (with("stor1", "10.30.100.101:99999", dir), "not a port"),
        (with("stor1", "not/an/address", dir), "neither a host name nor an IP address"),
        (with("stor1", "fd00::1", dir), "brackets"),
        (with("stor1", "nowhere.invalid", dir), "cannot find the address of"),
        (with("stor1", "0.0.0.0", dir), "give one of its own addresses"),
        (with("stor1", "192.0.2.1", dir), "not an address of this host"),
        (with("stor1", &taken_below, dir), "port 4111"),
        (with("stor1", &taken_here, dir), "is in use by another program"),
        (with("stor1", &ip, full), "not empty (something)"),
        (with("stor1", &ip, file), "not a directory"),
        (with("known", &ip, dir), "knows a cluster \"known\" already"),
    ];
    for (args, expected) in table {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let said = failed(&host.ends(&args, ""));
        assert!(said.contains(expected), "{args:?}: {said}");
        assert_eq!(host.tree(), before, "{args:?}");
    }
    for (input, expected) in [("", "before a password came"), ("short\n", "too short")] {
        let mut args = host.make_args(dir, &ip);
        args.push("-p");
        let said = failed(&host.ends(&args, input));
        assert!(said.contains(expected), "{said}");
        assert_eq!(host.tree(), before);
    }
    drop(taken);
}

#[test]
fn a_make_that_fails_half_way_cleans_up() {
    let host = Host::new();
    std::fs::create_dir_all(host.path("etc")).unwrap();
    std::fs::write(host.path("etc/host_id"), "0".repeat(32)).unwrap();
    // The log is made before the directory of the cluster, which cannot be.
    std::os::unix::fs::symlink("/nowhere/at/all", host.path("etc/clusters")).unwrap();
    let before = host.tree();
    let (dir, ip) = (host.path("deep/mds"), host.ip.to_string());
    let said = failed(&host.ends(&host.make_args(dir.to_str().unwrap(), &ip), ""));
    assert!(said.contains("cannot make the directory"), "{said}");
    assert_eq!(host.tree(), before);
    // An empty directory that was there stays.
    std::fs::create_dir_all(&dir).unwrap();
    let before = host.tree();
    failed(&host.ends(&host.make_args(dir.to_str().unwrap(), &ip), ""));
    assert_eq!(host.tree(), before);
    std::fs::remove_file(host.path("etc/clusters")).unwrap();
    let output = host.ends(&host.make_args(dir.to_str().unwrap(), &ip), "");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_keeps_it_from_running_is_said() {
    let host = Host::new();
    assert!(host.refusal("stor1").contains("holds no metadata server"));
    host.make();
    assert!(host.refusal("other").contains("belongs to cluster \"stor1\", not to \"other\""));

    let settings = host.path("mds/mds.conf");
    let good = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, good.replace("format 1", "format 7")).unwrap();
    assert!(host.refusal("stor1").contains("newer version"));
    std::fs::write(&settings, &good).unwrap();

    let key = host.cluster("auth_digest.key");
    let credentials = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    assert!(host.refusal("stor1").contains("auth_digest.key: cannot read the file"));
    let other = Host::new();
    other.make();
    std::fs::copy(other.cluster("auth_digest.key"), &key).unwrap();
    assert!(host.refusal("stor1").contains("the credentials are of cluster"));
    std::fs::write(&key, credentials).unwrap();

    let authority = host.path("mds/ca.key");
    let good = std::fs::read(&authority).unwrap();
    std::fs::copy(other.path("mds/ca.key"), &authority).unwrap();
    assert!(host.refusal("stor1").contains("is that of another cluster"));
    std::fs::write(&authority, "garbage").unwrap();
    assert!(host.refusal("stor1").contains("ca.key: "));
    std::fs::write(&authority, good).unwrap();

    let taken = TcpListener::bind((host.ip, 2510)).unwrap();
    assert!(host.refusal("stor1").contains("another program uses the port"));
    drop(taken);

    let daemon = host.start();
    assert!(host.refusal("stor1").contains("is in use by another process"));
    daemon.terminate();
    host.start().terminate();
}

#[test]
fn a_damaged_log_is_not_taken_for_a_good_one() {
    let host = Host::new();
    host.make();
    let daemon = host.start();
    host.ask((0..50).map(|number| create(&format!("f{number}"))).collect());
    daemon.terminate();
    let segment = segment(&host.path("mds"));
    let good = std::fs::read(&segment).unwrap();
    let mut bad = good.clone();
    // In the middle of what is there, past the first groups.
    let used = bad.iter().rposition(|byte| *byte != 0).unwrap();
    bad[used / 2] ^= 0x10;
    std::fs::write(&segment, &bad).unwrap();
    let said = host.refusal("stor1");
    assert!(said.contains(segment.parent().unwrap().to_str().unwrap()), "{said}");
    assert_eq!(std::fs::read(&segment).unwrap(), bad, "nothing was touched");
    std::fs::write(&segment, &good).unwrap();
    let daemon = host.start();
    assert_eq!(host.ask(vec![List { path: "/".into(), ..List::default() }])[0].entries.len(), 50);
    daemon.terminate();
}

/// The log segment in use.
fn segment(dir: &Path) -> PathBuf {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let large = entries.filter(|path| path.metadata().unwrap().len() > 1 << 20);
    large.filter(|path| std::fs::read(path).unwrap().iter().any(|byte| *byte != 0)).min().expect("a segment")
}

/// Copies the files of a directory into a new one.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn c12_a_directory_that_was_put_back_is_noticed_and_accepted_only_on_purpose() {
    let host = Host::new();
    host.make();
    let daemon = host.start();
    host.ask(vec![create("early")]);
    daemon.terminate();
    let (dir, copy, newest) = (host.path("mds"), host.path("copy"), host.path("newest"));
    copy_dir(&dir, &copy);
    let daemon = host.start();
    host.ask(vec![create("late")]);
    daemon.terminate();
    std::fs::rename(&dir, &newest).unwrap();
    copy_dir(&copy, &dir);
    let said = host.refusal("stor1");
    assert!(said.contains("put back from a copy") && said.contains("vstorage-mdsd restored"), "{said}");
    // The newest one is welcome; nothing was lost.
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(&newest, &dir).unwrap();
    let daemon = host.start();
    assert_eq!(host.ask(vec![List { path: "/".into(), ..List::default() }])[0].entries.len(), 2);
    daemon.terminate();
    // There is nothing newer: the operator accepts that.
    std::fs::remove_dir_all(&dir).unwrap();
    copy_dir(&copy, &dir);
    let accepted = host.ends(&["restored", "-c", "stor1", "-r", dir.to_str().unwrap()], "");
    assert!(accepted.status.success(), "{accepted:?}");
    assert!(String::from_utf8_lossy(&accepted.stdout).contains("generation 2"), "{accepted:?}");
    let daemon = host.start();
    assert_eq!(host.ask(vec![List { path: "/".into(), ..List::default() }])[0].entries.len(), 1);
    daemon.terminate();
    // The same copy once more: it knows nothing of the second generation, whose ids must not come again.
    std::fs::remove_dir_all(&dir).unwrap();
    copy_dir(&copy, &dir);
    let accepted = host.ends(&["restored", "-c", "stor1", "-r", dir.to_str().unwrap()], "");
    assert!(String::from_utf8_lossy(&accepted.stdout).contains("generation 3"), "{accepted:?}");
    std::fs::write(host.cluster("mds.reign"), "nonsense").unwrap();
    assert!(host.refusal("stor1").contains("mds.reign is damaged"));
}

#[test]
fn files_that_are_damaged_or_missing_are_named() {
    let host = Host::new();
    host.make();
    let dir = host.path("mds");
    let identity = std::fs::read(dir.join("identity")).unwrap();
    let mut bad = identity.clone();
    bad[20] ^= 1;
    std::fs::write(dir.join("identity"), &bad).unwrap();
    let said = host.refusal("stor1");
    assert!(said.contains("identity is damaged (its CRC is wrong)") && said.contains("backup"), "{said}");
    std::fs::remove_file(dir.join("identity")).unwrap();
    assert!(host.refusal("stor1").contains("holds no metadata server"));
    std::fs::write(dir.join("identity"), &identity).unwrap();
    let segment = segment(&dir);
    let (whole, short) = (std::fs::read(&segment).unwrap(), 10_000);
    std::fs::write(&segment, &whole[..short]).unwrap();
    let said = host.refusal("stor1");
    assert!(said.contains("shorter than it was made") && said.contains("log-0000000000000001"), "{said}");
    std::fs::remove_file(&segment).unwrap();
    assert!(host.refusal("stor1").contains("the metadata log is empty"));
    let stranger = Host::new();
    stranger.make();
    std::fs::copy(self::segment(&stranger.path("mds")), &segment).unwrap();
    assert!(host.refusal("stor1").contains("of another metadata server"));
    std::fs::write(&segment, &whole).unwrap();
    host.start().terminate();
}

#[test]
fn a_directory_that_cannot_be_written_is_refused_and_stays_as_it_is() {
    let host = Host::new();
    host.make();
    host.start().terminate();
    let segment = segment(&host.path("mds"));
    let before = std::fs::read(&segment).unwrap();
    // For whoever runs the tests as root, too: no permission would stop him.
    let locked = |on: bool| {
        let flag = if on { "+i" } else { "-i" };
        Command::new("chattr").arg(flag).arg(&segment).status().is_ok_and(|status| status.success())
    };
    if locked(true) {
        let said = host.refusal("stor1");
        assert!(locked(false));
        assert!(said.contains("cannot open") && said.contains("not permitted"), "{said}");
    } else {
        std::fs::set_permissions(&segment, std::fs::Permissions::from_mode(0o400)).unwrap();
        let said = host.refusal("stor1");
        std::fs::set_permissions(&segment, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(said.contains("cannot open") && said.contains("ermi"), "{said}");
    }
    assert_eq!(std::fs::read(&segment).unwrap(), before);
    host.start().terminate();
}

#[test]
fn the_log_of_the_program_is_for_operators() {
    let host = Host::new();
    host.make();
    let (dir, log) = (host.path("mds"), host.path("log"));
    let log_file = log.to_str().unwrap();
    let args =
        ["--log-level", "info", "--log-file", log_file, "run", "-c", "stor1", "-r", dir.to_str().unwrap()];
    let mut child = host.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Daemon(child).terminate();
    let written = std::fs::read_to_string(&log).unwrap();
    assert!(written.contains("is the master") && !written.contains("openraft"), "{written}");
}

#[test]
fn idle_it_uses_next_to_nothing() {
    let host = Host::new();
    host.make();
    let daemon = host.start();
    let pid = daemon.0.id();
    let cpu_ticks = move || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<u64> =
            stat.rsplit(") ").next().unwrap().split(' ').filter_map(|field| field.parse().ok()).collect();
        // After the state, which is no number: ppid is the first; utime and stime are the 11th and 12th.
        fields[10] + fields[11]
    };
    let before = cpu_ticks();
    on_ring(async { rt::time::sleep(Duration::from_secs(3)).await });
    let used = cpu_ticks() - before;
    // A tick is 10 ms: 1 % of three seconds are three.
    assert!(used <= 3, "{used} ticks in three seconds");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 64 << 10, "{kib} KiB resident");
    daemon.terminate();
}
