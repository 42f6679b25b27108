//! `start-service` and `stop-service`, with daemons that are shell scripts.

use std::fs::File;

use rustix::fs::{FlockOperation, flock};

use crate::host::{Ended, Host};

/// A daemon that is ready at once and ends when it is told to.
const GOOD: &str = "\
echo \"$(basename \"$0\") $*\" >> \"$VSTORAGE_ETC/calls\"
echo \"starting $5\" >&2
echo \"version 1\"
echo \"ready: in $5\"
exec sleep 600
";

/// A host with a metadata server and two chunk servers; whatever runs there ends with it.
struct Services(Host);

impl Services {
    fn new(mds: &str, cs: &str) -> Self {
        let host = Host::new();
        host.install("vstorage-mdsd", mds);
        host.install("vstorage-csd", cs);
        let list = "cs /vstorage/cs1\nmds /vstorage/mds\ncs /vstorage/cs2\n";
        std::fs::write(host.cluster_file("stor1", "services.list"), list).unwrap();
        Self(host)
    }

    fn run(&self, args: &[&str]) -> Ended {
        let args: Vec<&str> = args.iter().copied().chain(["--no-systemd", "--timeout", "20"]).collect();
        self.0.run_installed(&args)
    }

    fn pid(&self, name: &str) -> i32 {
        let text = self.0.read(format!("run/stor1.{name}.pid"));
        text.lines().next().expect("a pid file").parse().expect("a number")
    }

    /// A field of `/proc/PID/stat`, counted from 1 as in proc(5); empty when there is no such process.
    fn stat_field(pid: i32, number: usize) -> String {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        rest.split_whitespace().nth(number - 3).unwrap_or_default().to_owned()
    }

    fn lives(pid: i32) -> bool {
        !matches!(Self::stat_field(pid, 3).as_str(), "" | "Z" | "X")
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.0.run_installed(&["stop-service", "--no-systemd", "--timeout", "1", "--kill"]);
    }
}

/// The lines of an output, without the numbers of processes, in order.
fn lines(text: &str) -> Vec<String> {
    let plain = |line: &str| match line.split_once(" (pid ") {
        Some((before, after)) => {
            format!("{before}{}", after.split_once(')').map(|(_, rest)| rest).unwrap_or_default())
        }
        None => line.to_owned(),
    };
    let mut lines: Vec<String> = text.lines().map(plain).collect();
    lines.sort();
    lines
}

#[test]
fn services_are_started_in_order_and_stopped() {
    let services = Services::new(GOOD, GOOD);
    let started = services.run(&["start-service"]);
    assert!(started.done().starts_with("mds /vstorage/mds: started (pid "), "{started:?}");
    let expected = [
        "cs /vstorage/cs1: started: in /vstorage/cs1",
        "cs /vstorage/cs2: started: in /vstorage/cs2",
        "mds /vstorage/mds: started: in /vstorage/mds",
    ];
    assert_eq!(lines(started.done()), expected);
    let calls = services.0.read("etc/calls");
    assert_eq!(calls.lines().next(), Some("vstorage-mdsd run -c stor1 -r /vstorage/mds"));
    assert_eq!(services.0.read("log/stor1.cs.vstorage+cs1.log"), "starting /vstorage/cs1\n");
    let pid = services.pid("cs.vstorage+cs1");
    assert!(Services::lives(pid));
    assert_eq!(Services::stat_field(pid, 6), pid.to_string(), "a session of its own");
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));

    let again = services.run(&["start-service", "all", "--json"]);
    let states: Vec<_> = again.json().as_array().unwrap().iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states, ["already_running"; 3]);
    assert_eq!(services.pid("cs.vstorage+cs1"), pid);

    let one = services.run(&["stop-service", "cs1"]);
    assert_eq!(lines(one.done()), ["cs /vstorage/cs1: stopped"]);
    assert!(!Services::lives(pid));
    let all = services.run(&["stop-service"]);
    assert!(
        all.done().trim_end().lines().last().unwrap().starts_with("mds /vstorage/mds: stopped"),
        "{all:?}"
    );
    let expected =
        ["cs /vstorage/cs1: not running", "cs /vstorage/cs2: stopped", "mds /vstorage/mds: stopped"];
    assert_eq!(lines(all.done()), expected);
    assert_eq!(services.0.read("run/stor1.cs.vstorage+cs2.pid"), "");
}

#[test]
fn a_service_that_ends_at_once_is_reported_with_its_log() {
    let services = Services::new(GOOD, "echo 'error: port 3000 is in use' >&2\nexit 3\n");
    std::fs::create_dir_all(services.0.path("log")).unwrap();
    std::fs::write(services.0.path("log/stor1.cs.vstorage+cs1.log"), "old\n").unwrap();
    let ended = services.run(&["start-service"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.stderr, "", "all has been said");
    let log = services.0.path("log/stor1.cs.vstorage+cs1.log");
    let expected = format!(
        "cs /vstorage/cs1: failed: it ended (exit status: 3); {} says\n    error: port 3000 is in use\n",
        log.display()
    );
    assert!(ended.stdout.contains(&expected), "{ended:?}");
    assert!(ended.stdout.contains("mds /vstorage/mds: started"), "{ended:?}");
    assert!(!services.0.path("run/stor1.cs.vstorage+cs1.pid").exists());
}

#[test]
fn a_service_that_is_not_ready_in_time_goes_on() {
    let services = Services::new("echo 'not ready: yet'\nexec sleep 600\n", GOOD);
    let ended = services.0.run_installed(&["start-service", "mds", "--no-systemd", "--timeout", "1"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("mds /vstorage/mds: not ready yet (pid "), "{ended:?}");
    assert!(ended.stdout.contains("not ready after 1 s; it goes on, see "), "{ended:?}");
    assert!(Services::lives(services.pid("mds.vstorage+mds")));
    assert_eq!(lines(services.run(&["stop-service", "mds"]).done()), ["mds /vstorage/mds: stopped"]);
}

#[test]
fn only_who_is_told_to_kill_kills() {
    let services = Services::new("trap '' TERM\necho ready:\nexec sleep 600\n", GOOD);
    assert_eq!(lines(services.run(&["start-service", "mds"]).done()), ["mds /vstorage/mds: started"]);
    let pid = services.pid("mds.vstorage+mds");
    let stop = |more: &[&str]| {
        let args = [&["stop-service", "/vstorage/mds", "--no-systemd", "--timeout", "1"], more].concat();
        services.0.run_installed(&args)
    };
    let ended = stop(&[]);
    assert_eq!(ended.code, Some(1));
    let text = "mds /vstorage/mds: still running: it has not ended within 1 s; wait, or use --kill";
    assert_eq!(lines(&ended.stdout), [text]);
    assert!(Services::lives(pid));
    assert_eq!(lines(stop(&["--kill"]).done()), ["mds /vstorage/mds: killed"]);
    assert!(!Services::lives(pid));
}

#[test]
fn a_process_that_only_has_the_number_is_left_alone() {
    let services = Services::new(GOOD, GOOD);
    services.run(&["start-service", "cs1"]).done();
    let file = "run/stor1.cs.vstorage+cs1.pid";
    let text = services.0.read(file);
    let pid = services.pid("cs.vstorage+cs1");
    let began = Services::stat_field(pid, 22);
    assert!(text.contains(&format!("\nbegan {began}\n")), "{text}");
    // As if the number had been used again since.
    let other = text.replace(&format!("began {began}"), "began 1");
    std::fs::write(services.0.path(file), other).unwrap();
    assert_eq!(lines(services.run(&["stop-service", "cs1"]).done()), ["cs /vstorage/cs1: not running"]);
    assert!(Services::lives(pid));
    std::fs::write(services.0.path(file), text).unwrap();
    assert_eq!(lines(services.run(&["stop-service", "cs1"]).done()), ["cs /vstorage/cs1: stopped"]);
}

/// A daemon that holds the lock on its directory, as the real ones do.
const LOCKING: &str = "\
exec perl -MFcntl=:flock -e '
    open(my $file, \"<\", \"$ARGV[5]/superblock\") or die; flock($file, LOCK_EX) or die;
    $| = 1; print \"ready: locked\\n\"; sleep 600;
' \"$0\" \"$@\"
";

/// Writes the list of services: one chunk server in a directory that exists.
fn list_one(services: &Services) -> String {
    let dir = services.0.path("cs1");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("superblock"), "").unwrap();
    let list = services.0.cluster_file("stor1", "services.list");
    std::fs::write(list, format!("cs {}\n", dir.display())).unwrap();
    dir.display().to_string()
}

#[test]
fn a_service_whose_pid_file_was_lost_is_stopped_by_its_lock() {
    let services = Services::new(GOOD, LOCKING);
    let dir = list_one(&services);
    assert_eq!(lines(services.run(&["start-service"]).done()), [format!("cs {dir}: started: locked")]);
    let file = format!("run/stor1.cs.{}.pid", dir.trim_start_matches('/').replace('/', "+"));
    let pid: i32 = services.0.read(&file).lines().next().expect("a pid file").parse().unwrap();
    std::fs::remove_file(services.0.path(&file)).unwrap();
    assert_eq!(lines(services.run(&["stop-service"]).done()), [format!("cs {dir}: stopped")]);
    assert!(!Services::lives(pid));
    assert_eq!(lines(services.run(&["stop-service"]).done()), [format!("cs {dir}: not running")]);
}

#[test]
fn whoever_else_uses_the_directory_is_named_and_left_alone() {
    let services = Services::new(GOOD, GOOD);
    let dir = list_one(&services);
    let lock = File::open(services.0.path("cs1/superblock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let ended = services.run(&["stop-service", "--kill"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let expected = format!("cs {dir}: still running (pid {}): this process uses", std::process::id());
    assert!(ended.stdout.starts_with(&expected), "{ended:?}");
    drop(lock);
}

#[test]
fn a_service_that_nobody_would_find_again_is_not_left_running() {
    let services = Services::new(GOOD, GOOD);
    // Where the pid file is written first.
    std::fs::create_dir_all(services.0.path("run/stor1.cs.vstorage+cs1.pid.new")).unwrap();
    let ended = services.run(&["start-service", "cs1"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("cs /vstorage/cs1: failed: cannot use"), "{ended:?}");
    let left = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let own = services.0.path("etc").display().to_string();
        environment.split(|byte| *byte == 0).any(|word| word == format!("VSTORAGE_ETC={own}").as_bytes())
    });
    assert_eq!(left.count(), 0, "something still runs");
}

#[test]
fn two_do_not_start_services_at_once() {
    let services = Services::new(GOOD, GOOD);
    std::fs::create_dir_all(services.0.path("run")).unwrap();
    let lock = File::create(services.0.path("run/stor1.lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let ended = services.run(&["start-service"]);
    assert!(
        ended.failed(1).contains("another vstorage starts or stops services of cluster 'stor1'"),
        "{ended:?}"
    );
}

#[test]
fn unknown_services_are_refused_with_those_there_are() {
    let services = Services::new(GOOD, GOOD);
    let ended = services.run(&["start-service", "cs9"]);
    assert!(ended.failed(1).contains("/vstorage/cs1, /vstorage/mds, /vstorage/cs2"), "{ended:?}");
}

#[test]
fn journals_are_left_to_the_program_of_the_chunk_server() {
    let services = Services::new(GOOD, "echo \"$*\" >> \"$VSTORAGE_ETC/calls\"\nexit 3");
    let run = |args: &[&str]| services.0.run_installed(&[&["configure-cs", "-r"], args].concat());
    for change in [&["-a", "/ssd/new", "-s", "2048", "-T", "ssd"][..], &["-s", "4096"], &["-d"]] {
        run(&[&["/vstorage/cs1"], change].concat()).failed(3);
        let calls = services.0.read("etc/calls");
        let expected = format!("configure -r /vstorage/cs1 {}", change.join(" "));
        assert!(calls.lines().last().is_some_and(|line| line.contains(&expected)), "{calls}");
    }
    let before = services.0.read("etc/calls");
    assert!(run(&["/vstorage/mds", "-d"]).failed(1).contains("of a metadata server, not of a chunk server"));
    let text = run(&["/vstorage/cs9", "-d"]).failed(1).to_owned();
    assert!(text.contains("/vstorage/cs1, /vstorage/mds, /vstorage/cs2"), "{text}");
    assert!(run(&["/vstorage/cs1", "-a", "/ssd/../x", "-s", "1"]).failed(2).contains(".."));
    assert_eq!(services.0.read("etc/calls"), before, "nothing was started");
}
