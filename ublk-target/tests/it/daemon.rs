//! `vstorage-ublkd` as a process: what it says, how it ends, what it leaves behind.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use ::wire::session::SessionKey;
use rt::net::Address;
use rustix::process::{Pid, Signal, kill_process};
use ublk_target::nbd::wire;

use crate::cluster::{CLUSTER, Did, Host, SIZE};
use crate::raw::Raw;
use crate::server::run;
use crate::tools::quick;

/// A daemon under test; killed if the test fails.
struct Daemon(Option<Child>);

/// How a daemon ended.
#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    out: String,
    err: String,
}

impl Daemon {
    fn start(host: &Host, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vstorage-ublkd"));
        command.args(["nbd", "-c", CLUSTER]).args(args);
        command.env("VSTORAGE_ETC", host.etc()).env("VSTORAGE_RUN", host.run());
        command.env("VSTORAGE_RESOLV_CONF", host.path("resolv.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(command.spawn().expect("the daemon was built")))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("waited for once")
    }

    /// Waits for the line that says so, and gives it.
    async fn ready(&mut self) -> String {
        let out = self.child().stdout.take().expect("piped");
        let line = rt::blocking::run(move || {
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line).map(|_| line)
        });
        let line = rt::time::timeout(Duration::from_secs(30), line).await.expect("ready in time");
        let line = line.expect("a thread").expect("text");
        if line.is_empty() {
            panic!("{:?}", Self(self.0.take()).ended().await);
        }
        line.trim_end().to_owned()
    }

    fn signal(&mut self, signal: Signal) {
        let pid = Pid::from_child(self.child());
        kill_process(pid, signal).expect("it runs");
    }

    /// Waits for its end.
    async fn ended(mut self) -> Ended {
        let mut child = self.0.take().expect("waited for once");
        let mut outputs = (child.stdout.take(), child.stderr.take());
        rt::blocking::run(move || {
            let (mut out, mut err) = (String::new(), String::new());
            if let Some(pipe) = &mut outputs.0 {
                pipe.read_to_string(&mut out).expect("text");
            }
            if let Some(pipe) = &mut outputs.1 {
                pipe.read_to_string(&mut err).expect("text");
            }
            Ended { status: child.wait().expect("a child"), out, err }
        })
        .await
        .expect("a thread")
    }

    /// Runs a daemon that cannot start; gives what it says.
    async fn refuses(host: &Host, args: &[&str], code: i32) -> String {
        let ended = Self::start(host, args).ended().await;
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert_eq!(ended.out, "");
        ended.err
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself.
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// An address that is not this host's: one of those for documentation (RFC 5737), some of which test networks do use.
fn foreign_address() -> String {
    let is_foreign = |address: &String| {
        let error = std::net::TcpListener::bind(address).err();
        error.is_some_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable)
    };
    let mut candidates =
        ["192.0.2.1", "198.51.100.77", "203.0.113.201"].map(|host| format!("{host}:10809")).into_iter();
    candidates.find(is_foreign).expect("one that this host has not")
}

/// Checks that a message says all this.
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

#[test]
fn a_wrong_command_line_is_refused_before_anything_is_touched() {
    run(async {
        let host = Host::new().await;
        let socket = host.path("x.sock");
        let socket = text(&socket);
        for (args, parts) in [
            (&["/vm1"][..], &["--socket", "--listen"][..]),
            (&["--socket", socket, "vm1"], &["begins with /"]),
            (&["--socket", socket, "/a/../vm1"], &["neither . nor .."]),
            (&["--listen", "0.0.0.0:0", "/vm1"], &["other machines", "--allow-public", "127.0.0.1"]),
            (&["--listen", "localhost:1", "/vm1"], &["127.0.0.1:10809"]),
            (&["--socket", socket, "--log-level", "loud", "/vm1"], &["trace"]),
        ] {
            says(&Daemon::refuses(&host, args, 2).await, parts);
        }
        let log = host.path("missing/log");
        let args = ["--socket", socket, "--log-file", text(&log), "/vm1"];
        says(&Daemon::refuses(&host, &args, 2).await, &["log file", text(&log)]);
        assert!(!host.run().exists() && !Path::new(socket).exists());
        let help = Daemon::start(&host, &["--help"]).ended().await;
        assert!(help.status.success());
        says(
            &help.out,
            &["Examples:", "--read-only", "vstorage-ublkd nbd -c stor1 --socket", "NBD asks for no password"],
        );
    });
}

#[test]
fn a_host_that_is_not_ready_is_told_what_to_do() {
    run(async {
        let host = Host::new().await;
        let socket = host.path("x.sock");
        let args = ["--socket", text(&socket), "--wait", "1", "/vm1"];
        says(&Daemon::refuses(&host, &args, 1).await, &["bs.list", "is missing", "ADDRESS:PORT"]);
        host.list("# none yet\n");
        says(&Daemon::refuses(&host, &args, 1).await, &["bs.list", "lists no metadata server"]);
        host.list("127.0.0.1:2510\nwhat?\n");
        says(&Daemon::refuses(&host, &args, 1).await, &["bs.list", "line 2"]);
        // Nobody listens there.
        host.list("127.0.0.1:1\n");
        let message = Daemon::refuses(&host, &args, 1).await;
        says(&message, &["no metadata server of cluster 'stor1' answered within 1 s", "refused", "bs.list"]);
        assert!(!socket.exists(), "the socket goes with the daemon");
        let key = host.cluster_dir().join("auth_digest.key");
        let credentials = std::fs::read(&key).unwrap();
        std::fs::write(&key, "nonsense").unwrap();
        says(&Daemon::refuses(&host, &args, 1).await, &["credentials", "auth_digest.key"]);
        std::fs::remove_file(&key).unwrap();
        says(&Daemon::refuses(&host, &args, 1).await, &["auth_digest.key", "auth-node", "make-mds"]);
        // The credentials of one cluster under the name of another.
        std::fs::create_dir_all(host.etc().join("clusters/stor2")).unwrap();
        std::fs::write(host.etc().join("clusters/stor2/auth_digest.key"), credentials).unwrap();
        let args = ["-c", "stor2", "--socket", text(&socket), "/vm1"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_vstorage-ublkd"));
        command.arg("nbd").args(args).env("VSTORAGE_ETC", host.etc()).env("VSTORAGE_RUN", host.run());
        let output = rt::blocking::run(move || command.output()).await.unwrap().unwrap();
        says(&String::from_utf8_lossy(&output.stderr), &["those of cluster 'stor1'", "'stor2'"]);
        assert_eq!(output.status.code(), Some(1));
    });
}

#[test]
fn places_that_are_taken_are_left_alone() {
    run(async {
        let host = Host::new().await;
        host.list("127.0.0.1:1\n");
        let path = host.path("x.sock");
        let args = ["--socket", text(&path), "--wait", "1", "/vm1"];
        std::fs::write(&path, "precious").unwrap();
        says(&Daemon::refuses(&host, &args, 1).await, &["is no socket", text(&path)]);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        let live = UnixListener::bind(&path).unwrap();
        says(&Daemon::refuses(&host, &args, 1).await, &["another server listens", text(&path)]);
        assert!(path.exists());
        // A socket whose server has died is in nobody's way.
        drop(live);
        assert!(path.exists());
        says(&Daemon::refuses(&host, &args, 1).await, &["no metadata server"]);
        assert!(!path.exists());
        let nowhere = host.path("missing/x.sock");
        let message = Daemon::refuses(&host, &["--socket", text(&nowhere), "/vm1"], 1).await;
        says(&message, &["missing", "make this directory first"]);
    });
}

#[test]
fn addresses_that_cannot_be_had_are_explained() {
    if quick() {
        // A port in use is tried for a while, since a daemon that was killed keeps it for a moment.
        return;
    }
    run(async {
        let host = Host::new().await;
        host.list("127.0.0.1:1\n");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let message = Daemon::refuses(&host, &["--listen", &address, "/vm1"], 1).await;
        says(&message, &["another program listens at", &address]);
        let foreign = foreign_address();
        let message = Daemon::refuses(&host, &["--listen", &foreign, "--allow-public", "/vm1"], 1).await;
        says(&message, &[&format!("{foreign} is no address of this host")]);
    });
}

#[test]
fn volumes_that_cannot_be_had_are_explained() {
    run(async {
        let host = Host::new().await;
        let mds = host.start_mds();
        let socket = host.path("x.sock");
        for (path, parts) in [
            ("/a/none", &["no volume /a/none", "vstorage -c stor1 ls /a", "create /a/none"][..]),
            ("/dir", &["/dir is a directory"]),
            ("/held", &["/held is in use by client 2077 on host s2.test", "revoke /held"]),
        ] {
            let message = Daemon::refuses(&host, &["--socket", text(&socket), path], 1).await;
            says(&message, parts);
            assert_eq!(mds.did.borrow().last(), Some(&Did::Close), "the session is closed");
        }
        assert!(!socket.exists());
        let left: Vec<_> = std::fs::read_dir(host.run().join("ublkd")).unwrap().flatten().collect();
        assert!(left.iter().all(|entry| text(&entry.path()).ends_with(".lock")), "{left:?}");
    });
}

#[test]
fn a_volume_is_served_until_the_daemon_is_told_to_stop() {
    run(async {
        let host = Host::new().await;
        let mds = host.start_mds();
        let (socket, log) = (host.path("x y.sock"), host.path("log"));
        let args = ["--socket", text(&socket), "--socket-mode", "640", "--listen", "127.0.0.1:0"];
        let mut daemon =
            Daemon::start(&host, &[&args[..], &["--name", "vol", "--log-file", text(&log), "/vm1"]].concat());
        let ready = daemon.ready().await;
        let expected =
            format!("ready: nbd+unix:///vol?socket={} nbd://127.0.0.1:", text(&socket).replace(' ', "%20"));
        assert!(ready.starts_with(&expected) && ready.ends_with(&format!("/vol (size {SIZE})")), "{ready}");
        let metadata = std::fs::metadata(&socket).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
        let port = ready.split("127.0.0.1:").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
        let tcp = Address::Tcp(format!("127.0.0.1:{port}").parse().unwrap());
        for address in [Address::Unix(socket.clone()), tcp] {
            let mut client = Raw::connect(&address).await;
            let (size, flags) = client.handshake(true).await;
            assert_eq!((size, flags & wire::FLAG_READ_ONLY), (SIZE, 0));
            assert_eq!(client.read(100 << 20, 1 << 20).await, vec![0; 1 << 20]);
            let status = client.ask(wire::CMD_BLOCK_STATUS, 0, 0, SIZE as u32).await;
            assert_eq!(status.extents, [(SIZE as u32, 3)]);
            assert_eq!(client.ask(wire::CMD_TRIM, wire::CMD_FLAG_FUA, 0, SIZE as u32).await.error, 0);
        }
        let session = host.run().join("ublkd/stor1+vm1.session");
        assert_eq!(std::fs::metadata(&session).unwrap().permissions().mode() & 0o777, 0o600);
        daemon.signal(Signal::TERM);
        let ended = daemon.ended().await;
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert_eq!(ended.err, "", "the log went to its file");
        assert!(!socket.exists() && !session.exists());
        let did = mds.did.borrow().clone();
        let expected = [
            Did::Session { client: 2049, resumed: false },
            Did::Open { path: "/vm1".into(), write: true, epoch: 1 },
            Did::Release { clean: true },
            Did::Close,
        ];
        assert_eq!(did, expected);
        let log = std::fs::read_to_string(log).unwrap();
        says(&log, &["ready: nbd+unix", "stopped in order"]);
        assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    });
}

#[test]
fn a_killed_daemon_is_replaced_at_once() {
    run(async {
        let host = Host::new().await;
        let mds = host.start_mds();
        let socket = host.path("x.sock");
        let args = ["--socket", text(&socket), "/vm1"];
        let mut first = Daemon::start(&host, &args);
        first.ready().await;
        // Two at once would take the lease from each other.
        let other = host.path("other.sock");
        let pid = first.child().id().to_string();
        let message = Daemon::refuses(&host, &["--socket", text(&other), "/vm1"], 1).await;
        says(&message, &["/vm1 of cluster 'stor1' is served by process", &pid, "stop that one first"]);
        let mut second = Daemon::start(&host, &["--socket", text(&other), "/vm2"]);
        second.ready().await;
        first.signal(Signal::KILL);
        let started = rt::time::now();
        first.ended().await;
        let mut again = Daemon::start(&host, &args);
        again.ready().await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        let mut client = Raw::connect(&Address::Unix(socket.clone())).await;
        client.handshake(true).await;
        assert_eq!(client.read(0, 4096).await, [0; 4096]);
        let did = mds.did.borrow().clone();
        let vm1 = |epoch| Did::Open { path: "/vm1".into(), write: true, epoch };
        assert_eq!(did[..2], [Did::Session { client: 2049, resumed: false }, vm1(1)]);
        assert_eq!(did[4..], [Did::Session { client: 2049, resumed: true }, vm1(3)], "the same client");
        for mut daemon in [again, second] {
            daemon.signal(Signal::INT);
            assert_eq!(daemon.ended().await.status.code(), Some(0));
        }
    });
}

#[test]
fn the_stored_key_follows_the_session() {
    run(async {
        let host = Host::new().await;
        let mds = host.start_mds();
        mds.term_ms.set(600);
        let socket = host.path("x.sock");
        let mut daemon = Daemon::start(&host, &["--socket", text(&socket), "/vm1"]);
        daemon.ready().await;
        let first = mds.key();
        mds.expire.set(true);
        let file = host.run().join("ublkd/stor1+vm1.session");
        let token =
            |key: &SessionKey| -> String { key.token.iter().map(|byte| format!("{byte:02x}")).collect() };
        let within = async {
            while mds.key() == first || !std::fs::read_to_string(&file).unwrap().contains(&token(&mds.key()))
            {
                rt::time::sleep(Duration::from_millis(10)).await;
            }
        };
        rt::time::timeout(Duration::from_secs(10), within).await.expect("the new key is stored");
        assert_ne!(token(&first), token(&mds.key()));
    });
}

#[test]
fn readers_share_and_leave_nothing_behind() {
    run(async {
        let host = Host::new().await;
        let mds = host.start_mds();
        let mut daemons = Vec::new();
        for name in ["a.sock", "b.sock"] {
            let socket = host.path(name);
            let mut daemon = Daemon::start(&host, &["--socket", text(&socket), "--read-only", "/vm1"]);
            daemon.ready().await;
            let mut client = Raw::connect(&Address::Unix(socket)).await;
            let (_, flags) = client.handshake(true).await;
            assert_eq!(flags & wire::FLAG_READ_ONLY, wire::FLAG_READ_ONLY);
            assert_eq!(client.ask(wire::CMD_TRIM, 0, 0, 4096).await.error, 1);
            assert_eq!(client.ask(wire::CMD_FLUSH, 0, 0, 0).await.error, 0);
            daemons.push(daemon);
        }
        let opens =
            mds.did.borrow().iter().filter(|did| matches!(did, Did::Open { write: false, .. })).count();
        assert_eq!(opens, 2);
        for mut daemon in daemons {
            daemon.signal(Signal::TERM);
            assert_eq!(daemon.ended().await.status.code(), Some(0));
        }
        let left: Vec<_> = std::fs::read_dir(host.run().join("ublkd")).unwrap().flatten().collect();
        assert!(left.iter().all(|entry| text(&entry.path()).contains("socket")), "{left:?}");
    });
}

#[test]
fn waiting_at_the_start_can_be_ended() {
    run(async {
        let host = Host::new().await;
        host.list("127.0.0.1:1\n");
        let socket = host.path("x.sock");
        let mut daemon = Daemon::start(&host, &["--socket", text(&socket), "/vm1"]);
        while !socket.exists() {
            rt::time::sleep(Duration::from_millis(5)).await;
        }
        daemon.signal(Signal::TERM);
        let started = rt::time::now();
        let ended = daemon.ended().await;
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(!socket.exists());
    });
}

#[test]
fn a_public_address_comes_with_a_warning() {
    run(async {
        let host = Host::new().await;
        host.start_mds();
        let mut daemon = Daemon::start(&host, &["--listen", "0.0.0.0:0", "--allow-public", "/vm1"]);
        let ready = daemon.ready().await;
        assert!(ready.starts_with("ready: nbd://0.0.0.0:"), "{ready}");
        daemon.signal(Signal::TERM);
        let ended = daemon.ended().await;
        assert_eq!(ended.status.code(), Some(0));
        says(
            &ended.err,
            &["warning: 0.0.0.0:0 can be reached from other machines", "neither passwords nor encryption"],
        );
    });
}

/// A line of `/proc/PID/status` as a number.
fn status_of(child: &Child, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a known line");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn an_idle_daemon_sleeps_and_is_small() {
    run(async {
        let host = Host::new().await;
        let _mds = host.start_mds();
        let socket = host.path("x.sock");
        let mut daemon = Daemon::start(&host, &["--socket", text(&socket), "/vm1"]);
        daemon.ready().await;
        let mut client = Raw::connect(&Address::Unix(socket)).await;
        client.handshake(true).await;
        assert_eq!(client.read(0, 4096).await, [0; 4096]);
        let before = status_of(daemon.child(), "voluntary_ctxt_switches");
        rt::time::sleep(Duration::from_millis(700)).await;
        let woken = status_of(daemon.child(), "voluntary_ctxt_switches") - before;
        assert!(woken < 20, "woken {woken} times in 700 ms with nothing to do");
        let resident = status_of(daemon.child(), "VmRSS");
        assert!(resident < 64 << 10, "{resident} KiB resident");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().await.status.code(), Some(0));
    });
}
