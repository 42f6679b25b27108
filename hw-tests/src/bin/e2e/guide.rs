//! The commands of the operator's guide, on two "hosts" of this machine: what they print has the guide's shape and fields.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hw_tests::cluster::{Ended, environment, free_ports, run_to_end};
use hw_tests::deadline::{Stopwatch, poll_until};
use hw_tests::mount::{self, umount};

use crate::scene::Scene;

/// The guide's cluster.
const CLUSTER: &str = "stor1";
/// What is typed where the guide asks for the password.
const PASSWORD: &str = "guide-password\n";
/// A name that is never given out (RFC 6761, section 6.4).
const UNKNOWN_HOST: &str = "s9.invalid:2510";

/// What the whole cluster looks like, line by line; `*` is anything.
const STAT: [&str; 15] = [
    "Cluster 'stor1': *",
    "Space: [*] allocatable * of *, free * of *",
    "MDS nodes: 1 of 1, epoch uptime: *",
    "CS nodes: 3 of 3 (3 avail, 0 inactive, 0 offline)",
    "Replication: * norm, * limit",
    "Chunks: [*] * (*%) healthy, * (*%) standby, * (*%) degraded, * (*%) urgent,",
    "        * (*%) blocked, * (*%) pending, * (*%) offline, * (*%) replicating,",
    "        * (*%) overcommitted, * (*%) deleting, * (*%) void",
    "FS: * in * files, * inodes, * chunks, * chunk replicas",
    "IO:       read */s (*ops/s), write */s (*ops/s)",
    "IO total: read * (*ops), write * (*ops)",
    "Repl IO:  read *B/s, write *B/s",
    "Sync rate: *ops/s",
    "IO QDEPTH: * aver, * max",
    "",
];
/// How the lines begin that `top` leaves out until it is asked for more.
const MORE: [&str; 7] = ["Chunks:", "        ", "FS:", "IO total:", "Repl IO:", "Sync rate:", "IO QDEPTH:"];
/// Titles of its tables.
const MDS_COLUMNS: &str = "MDSID STATUS %CTIME COMMITS %CPU MEM UPTIME HOST";
const CS_COLUMNS: &str = "CSID STATUS SPACE AVAIL REPLICAS UNIQUE IOWAIT IOLAT(ms) QDEPTH HOST FLAGS";
const CLIENT_COLUMNS: &str = "CLID LEASES READ WRITE RD_OPS WR_OPS FSYNCS IOLAT(ms) HOST";
const EVENT_COLUMNS: &str = "TIME (UTC) SYS SEV MESSAGE";

/// A host: directories of its own. Dropping it stops what runs there.
struct Host {
    dir: PathBuf,
    binaries: PathBuf,
}

impl Host {
    fn new(scene: &Scene, name: &str) -> Self {
        let dir = scene.dir.join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        Self { dir, binaries: scene.settings.binaries.clone() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command.args(args).envs(environment(&self.dir));
        command
    }

    fn run_with(&self, args: &[&str], input: &str) -> Ended {
        run_to_end(&self.command("vstorage", args), input).expect("vstorage can be started")
    }

    /// Runs `vstorage`, which must do what it is asked.
    #[track_caller]
    fn done(&self, args: &[&str]) -> Ended {
        let ended = self.run_with(args, "");
        assert!(ended.succeeded(), "{ended}");
        ended
    }

    /// Runs `vstorage`, which must refuse, write no result, and say this.
    #[track_caller]
    fn refused(&self, args: &[&str], part: &str) {
        let ended = self.run_with(args, "");
        assert!(matches!(ended.code, Some(1 | 2)) && ended.stdout.is_empty(), "{ended}");
        assert!(ended.stderr.contains(part), "expected {part:?}: {ended}");
    }

    /// Runs `vstorage … --json`.
    #[track_caller]
    fn json(&self, args: &[&str]) -> serde_json::Value {
        let ended = self.done(&[args, &["--json"]].concat());
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended}"))
    }

    /// An attribute as `get-attr` shows it for these words.
    #[track_caller]
    fn attr(&self, words: &[&str], name: &str) -> String {
        let ended = self.done(&[&["get-attr"], words].concat());
        let value = ended.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {name}: {ended}")).to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for below in ["mnt/private", "bound", "mnt"] {
            mount::clear(&self.dir.join(below));
        }
        let stop = ["-c", CLUSTER, "stop-service", "--no-systemd", "--timeout", "5", "--kill"];
        let _stopped = run_to_end(&self.command("vstorage", &stop), "");
    }
}

/// Whether a line has a shape, in which `*` is anything.
fn fits(shape: &str, line: &str) -> bool {
    let mut parts = shape.split('*');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty() || shape.ends_with('*')
}

/// The rows below the titles, as words; a table ends with an empty line.
#[track_caller]
fn table(text: &str, titles: &str) -> Vec<Vec<String>> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut lines = text.lines().skip_while(|line| words(line).join(" ") != titles);
    assert!(lines.next().is_some(), "no table {titles:?} in\n{text}");
    lines.take_while(|line| !line.is_empty()).map(words).collect()
}

/// All commands of chapters 2, 3, 5, 6 and 8.1.2 that there are.
pub(crate) fn guide(scene: &Scene) {
    let (one, two) = (Host::new(scene, "s1"), Host::new(scene, "s2"));
    set_up(&one, &two);
    scene.say("chapters 2 and 6: the cluster is set up, by address, name and password");
    silent_names(&two);
    scene.say("a name server that never answers: --timeout holds");
    attributes(&one, &two);
    scene.say("chapter 3: attributes, by mounted paths and by paths in the cluster");
    hidden_paths(&one);
    scene.say("paths that mean nothing or something else are refused");
    parameters(&one);
    monitoring(&one, &two);
    scene.say("chapter 5: lists, states, events");
    journals(&two);
    leases(&one);
    umount(&one.dir.join("mnt")).expect("nobody uses it");
    for host in [&two, &one] {
        host.done(&["stop-service", "--no-systemd"]);
    }
}

/// Chapters 2.4 to 2.6, 6.2, 6.4.
fn set_up(one: &Host, two: &Host) {
    let port = free_ports();
    let six = TcpListener::bind(("::1", port)).is_ok();
    let address = if six { format!("[::1]:{port}") } else { format!("127.0.0.1:{port}") };
    let repository = one.path("stor1-mds");
    let make = ["-c", CLUSTER, "make-mds", "-I", "-a", &address, "-r", &repository, "-p"];
    let made = one.run_with(&make, PASSWORD);
    assert!(made.succeeded() && made.stdout.starts_with("MDS#1 made in "), "{made}");
    one.refused(&["make-mds", "-I", "-a", "::1", "-r", &repository, "-p"], "brackets: [::1]");
    one.done(&["-c", CLUSTER, "start-service", "--no-systemd", "mds"]);

    two.refused(&["-c", CLUSTER, "make-cs", "-r", &two.path("cs")], "bs.list");
    // A password is made hard to guess by work that takes seconds where much else is done.
    let join = ["-c", CLUSTER, "auth-node", "-b", &address, "--timeout", "90"];
    let joined = two.run_with(&join, PASSWORD);
    assert!(joined.succeeded() && joined.stdout.contains("is authenticated in cluster 'stor1'"), "{joined}");
    // From here on by name where this machine has one for it, and a name in front that cannot be found keeps nobody from the server.
    let list = two.dir.join("etc/clusters/stor1/bs.list");
    assert_eq!(std::fs::read_to_string(&list).expect("auth-node writes it"), format!("{address}\n"));
    let is_named = |found: SocketAddr| found.is_ipv6() == six;
    let named = ("localhost", port).to_socket_addrs().is_ok_and(|mut found| found.any(is_named));
    let server = if named { format!("localhost:{port}") } else { address.clone() };
    std::fs::write(&list, format!("{UNKNOWN_HOST}\n{server}\n")).expect("written");

    let numbers = ["1025", "1026", "1027"];
    let plain = one.done(&["-c", CLUSTER, "make-cs", "-r", &one.path("stor1-cs")]);
    let tiered = two.done(&["make-cs", "-r", &two.path("stor1-cs1"), "-t", "1", "-a", "localhost"]);
    let (cs2, journal) = (two.path("stor1-cs2"), two.path("ssd/stor1/cs2"));
    let journaled =
        two.done(&["-c", CLUSTER, "make-cs", "-r", &cs2, "-j", &journal, "-s", "64", "-T", "ssd"]);
    for (made, number) in [plain, tiered, journaled].iter().zip(numbers) {
        assert!(made.stdout.starts_with(&format!("CS#{number} made in ")), "{made}");
    }
    two.refused(&["make-cs", "-r", &two.path("cs"), "-a", "192.0.2.1:3000"], "this host has no such address");
    for host in [one, two] {
        host.done(&["-c", CLUSTER, "start-service", "--no-systemd", "cs"]);
    }
    std::fs::create_dir_all(one.dir.join("mnt")).expect("a mount point");
    let mounted = run_to_end(&one.command("vstorage-mount", &["-c", CLUSTER, &one.path("mnt")]), "");
    let mounted = mounted.expect("vstorage-mount can be started");
    assert!(mounted.succeeded(), "{mounted}");
}

/// With a list of names, and a name server that never answers, commands end when they are told to.
fn silent_names(host: &Host) {
    const NAME_SERVER: &str = "127.253.53.53";
    let silent = UdpSocket::bind((NAME_SERVER, 53)).expect("nobody else has this address of the loopback");
    let resolver = host.path("resolv.conf");
    std::fs::write(&resolver, format!("nameserver {NAME_SERVER}\n")).expect("written");
    let list = host.dir.join("etc/clusters/stor1/bs.list");
    let before = std::fs::read(&list).expect("it is there");
    let names: String = (1..=6).map(|number| format!("s{number}.stor.test:2510\n")).collect();
    std::fs::write(&list, names).expect("written");
    // Where only this command sees it.
    let program = host.binaries.join("vstorage").display().to_string();
    let script = "mount --bind \"$1\" /etc/resolv.conf && exec \"$2\" -c \"$3\" --timeout 4 stat";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh", &resolver, &program, CLUSTER])
        .envs(environment(&host.dir));
    let clock = Stopwatch::start();
    let ended = run_to_end(&command, "").expect("unshare, of the Debian package util-linux");
    let took = clock.elapsed();
    std::fs::write(&list, before).expect("written");
    drop(silent);
    assert_eq!(ended.code, Some(1), "{ended}");
    for number in 1..=6 {
        assert!(ended.stderr.contains(&format!("cannot find the address of s{number}.stor.test")), "{ended}");
    }
    // One after the other, they would take three seconds each, after the four.
    assert!(took < Duration::from_secs(15), "{took:?}: {ended}");
}

/// Chapters 3.5.2 to 3.5.5.
fn attributes(one: &Host, two: &Host) {
    let top = one.path("mnt");
    let ended = one.done(&["get-attr", &top]);
    assert_eq!(ended.stderr, "connected to MDS#1\n");
    let shown: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(shown[..2], [format!("File: '{top}'").as_str(), "Attributes:"], "{ended}");
    assert_eq!(shown[2..], ["chunk-size=64M", "failure-domain=host", "replicas=1:1", "tier=0"], "{ended}");

    let container = one.path("mnt/private/MyCT");
    std::fs::create_dir_all(&container).expect("a directory");
    std::fs::write(one.dir.join("mnt/private/MyCT/disk"), b"content").expect("a file");
    let changed = one.done(&["set-attr", "-R", &top, "replicas=3"]);
    assert_eq!(changed.stdout, format!("{top}: changed 4 files and directories\n"));
    assert_eq!(one.attr(&[&container], "replicas"), "3:2", "the minimum is one less");
    one.done(&["set-attr", "-R", &container, "replicas=2:1"]);
    one.done(&["set-attr", "-R", &container, "tier=1"]);
    assert_eq!(one.attr(&[&container], "tier"), "1");
    assert_eq!((one.attr(&[&top], "tier"), one.attr(&[&top], "replicas")), ("0".into(), "3:2".into()));
    assert_eq!(two.attr(&["-p", "/private/MyCT"], "replicas"), "2:1");
    assert_eq!(two.attr(&["-p", "/private/MyCT/disk"], "replicas"), "2:1", "a file below, too");
    one.done(&["set-attr", "-R", &container, "replicas=1", "failure-domain=disk", "tier=0"]);
    let json = two.json(&["get-attr", "-p", "/private/MyCT"]);
    assert_eq!(
        json["explicit"],
        serde_json::json!({"failure_domain": "disk", "replicas": 1, "replicas_min": 1, "tier": 0})
    );
    // By a directory above only what it says itself is kept: the whole tree is as the guide recommends.
    two.done(&["-c", CLUSTER, "set-attr", "-R", "-p", "/failure-domain=disk"]);
    assert_eq!(one.attr(&[&container], "failure-domain"), "disk");
    two.done(&["-c", CLUSTER, "set-attr", "-R", "-p", "/", "failure-domain=host"]);
    assert_eq!(one.attr(&[&container], "failure-domain"), "host");
    one.refused(&["set-attr", "-R", &top, "encoding=5+2"], "5+2");
    one.refused(&["set-attr", &top, "replicas=3:4"], "MIN from 1 to N");
    one.refused(&["set-attr", &top, "tier=1", "tier=2"], "given twice");
}

/// What is at a path counts, not what the path looks like.
fn hidden_paths(one: &Host) {
    let (top, bound) = (one.path("mnt"), one.path("bound"));
    let tier = |path: &str| one.attr(&["-p", path], "tier");
    let mounts = |words: &[&str]| {
        let ended = run_to_end(Command::new("mount").args(words), "").expect("mount can be started");
        assert!(ended.succeeded(), "{ended}");
    };
    let private = format!("{top}/private");
    std::fs::create_dir_all(&bound).expect("a mount point");
    mounts(&["--bind", &private, &bound]);
    mounts(&["-t", "tmpfs", "none", &private]);
    std::fs::create_dir(Path::new(&private).join("MyCT")).expect("a directory of another file system");
    let hidden = format!("{private}/MyCT");
    one.refused(&["set-attr", "-R", &hidden, "tier=2"], &format!("tmpfs is, at {private}"));
    assert_eq!(tier("/private/MyCT"), "0", "the one below it is as it was");
    // The other way to it is open.
    one.done(&["set-attr", "-R", &format!("{bound}/MyCT"), "tier=2"]);
    assert_eq!((tier("/private/MyCT"), tier("/private")), ("2".into(), "0".into()));
    umount(Path::new(&private)).expect("nobody uses it");
    umount(Path::new(&bound)).expect("nobody uses it");
    let link = one.path("link");
    symlink(&hidden, &link).expect("a link");
    assert_eq!(one.attr(&[&link], "tier"), "2");
    one.refused(&["-c", "other", "get-attr", &top], "is a path of cluster 'stor1', which is mounted there");
    one.refused(&["get-attr", &bound], "no cluster mounted there");
    one.refused(&["get-attr", &format!("{top}/none")], "No such file or directory");
}

/// Chapters 3.5.7, 7.6.5, 7.8, 8.1.2.
fn parameters(one: &Host) {
    for setting in [
        "gen.do_punch_hole=1",
        "mds.wd.verify_chunks=3",
        "mds.alloc.strict_tier=1",
        "mds.alloc.fill_margin=2",
    ] {
        one.done(&["-c", CLUSTER, "set-config", setting]);
        let name = setting.split('=').next().expect("a name");
        assert_eq!(one.done(&["get-config", name]).stdout, format!("{setting}\n"));
    }
    one.done(&["set-config", "--default", "mds.alloc.fill_margin"]);
    let all = one.json(&["get-config"]);
    let margin = all.as_array().and_then(|all| all.iter().find(|one| one["key"] == "mds.alloc.fill_margin"));
    assert_eq!(margin.map(|one| &one["value"]), Some(&"5".into()), "{all}");
    one.refused(&["set-config", "mds.alloc.fill_margin=51"], "0 to 50");
    one.refused(&["set-config", "mds.alloc.fill_margin=-1"], "0 to 50");
    one.refused(&["set-config", "mds.alloc.fil_margin=2"], "mds.alloc.fill_margin");
    one.refused(&["get-config", "mds.alloc.fil_"], "mds.alloc.fill_margin");
    one.refused(&["set-config", "mds.alloc.fill_margin"], "KEY=VALUE");
}

/// Chapter 5, and 3.5.6, 7.6.3 for the lists.
fn monitoring(one: &Host, two: &Host) {
    let stat = two.done(&["-c", CLUSTER, "stat"]);
    assert_eq!(stat.stderr, "connected to MDS#1\n");
    // Tiers stand below the space, as there are two.
    let lines: Vec<&str> = stat.stdout.lines().collect();
    let (tiers, head): (Vec<&str>, Vec<&str>) =
        lines.iter().partition(|line| fits("tier *: allocatable * of *, free * of *", line));
    assert_eq!(tiers.len(), 2, "{stat}");
    for (shape, line) in STAT.iter().zip(&head) {
        assert!(fits(shape, line), "expected {shape:?}, found {line:?}: {stat}");
    }
    let masters = table(&stat.stdout, MDS_COLUMNS);
    assert_eq!((masters.len(), &masters[0][..3]), (1, &["M".into(), "1".into(), "avail".into()][..]));
    let servers = table(&stat.stdout, CS_COLUMNS);
    let ids: Vec<&str> = servers.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(ids, ["1025", "1026", "1027"], "{stat}");
    assert!(
        servers.iter().all(|row| row[1] == "active" && row.len() == 11 && row[10].contains('C')),
        "{stat}"
    );
    assert_eq!(table(&stat.stdout, CLIENT_COLUMNS).len(), 1, "{stat}");
    let events = table(&stat.stdout, EVENT_COLUMNS);
    assert!(events.iter().any(|row| row[3] == "INF"), "{stat}");

    let listed = one.done(&["-c", CLUSTER, "list-services", "-M"]).stdout;
    let masters = table(&listed, "MDSID STATUS ADDRESS HOST VERSION PATH");
    assert_eq!(masters[0].last(), Some(&one.path("stor1-mds")), "{listed}");
    let listed = two.done(&["-c", CLUSTER, "list-services", "-C"]).stdout;
    let servers = table(&listed, "CSID STATUS TIER FLAGS ADDRESS HOST VERSION PATH JOURNAL");
    assert_eq!(servers[1][2], "1", "the tier it was made for: {listed}");
    assert!(servers[2][3].contains('J'), "it has a journal on an SSD: {listed}");
    assert_eq!(servers[2][8], two.path("ssd/stor1/cs2"), "{listed}");
    let all = one.done(&["list-services", "-a"]).stdout;
    assert_eq!(all.matches("VERSION").count(), 2, "{all}");
    assert_eq!(
        table(&one.done(&["list-clients"]).stdout, "CLID KIND LEASES AGE ADDRESS HOST VERSION").len(),
        1
    );
    assert_eq!(one.json(&["list-nodes"]).as_array().map(Vec::len), Some(2));
    for (words, field) in
        [(&["stat"][..], "cs"), (&["list-services"], "mds"), (&["stat", "/private/MyCT/disk"], "attributes")]
    {
        assert!(!one.json(words)[field].is_null(), "{words:?}");
    }
    for words in [&["get-event"][..], &["list-clients"], &["get-config"], &["ls"]] {
        assert!(one.json(words).as_array().is_some_and(|rows| !rows.is_empty()), "{words:?}");
    }
    top(one);
    removals(one);
    follow(one);
}

/// Chapters 5 and 3.5.5.3 for what is shown, without a terminal; the keys are in the tests of `control-cli`.
fn top(one: &Host) {
    let shown = one.done(&["-c", CLUSTER, "top"]);
    assert_eq!(shown.stderr, "connected to MDS#1\n");
    let brief: Vec<&str> = shown.stdout.lines().take_while(|line| !line.is_empty()).collect();
    let shapes =
        STAT.iter().filter(|shape| !shape.is_empty() && !MORE.iter().any(|more| shape.starts_with(more)));
    assert_eq!(brief.len(), shapes.clone().count(), "{shown}");
    for (shape, line) in shapes.zip(&brief) {
        assert!(fits(shape, line), "expected {shape:?}, found {line:?}: {shown}");
    }
    for titles in [MDS_COLUMNS, CS_COLUMNS, CLIENT_COLUMNS, EVENT_COLUMNS] {
        assert!(!table(&shown.stdout, titles).is_empty(), "{titles}: {shown}");
    }
    let all = one.done(&["top", "-v"]).stdout;
    assert!(MORE.iter().all(|more| all.lines().any(|line| line.starts_with(more))), "{all}");
    assert_eq!(one.json(&["top"])["cs_total"], 3);
}

/// Chapters 3.1, 3.2.2, 3.5.6: what this version cannot do is refused, in words.
fn removals(one: &Host) {
    one.refused(&["-c", CLUSTER, "rm-cs", "-f", "1027"], "CS#1027 cannot be removed: it is active");
    one.refused(&["rm-cs", "--cancel", "1027"], "it is not being removed");
    one.refused(&["rm-cs", "1027", "1031"], "no chunk server CS#1031");
    one.refused(&["rm-mds", "1"], "the only metadata server");
    one.refused(&["rm-mds", "3"], "no metadata server MDS#3");
    let new = ["-n", "1@10.10.20.1"];
    one.refused(
        &[&["configure-mds", "-r", &one.path("stor1-mds")][..], &new].concat(),
        "nothing was changed",
    );
    one.refused(&[&["configure-mds", "-r", &one.path("stor1-cs")][..], &new].concat(), "not of a metadata");
    assert_eq!(one.json(&["stat"])["cs_active"], 3);
}

/// `get-event` in numbers, and what happens while it follows.
fn follow(one: &Host) {
    let some = one.json(&["-c", CLUSTER, "get-event", "-n", "3"]);
    let ids: Vec<u64> = some.as_array().expect("rows").iter().filter_map(|row| row["id"].as_u64()).collect();
    assert_eq!(ids.len(), 3, "{some}");
    let (last, after) = (ids[2], ids[2].to_string());
    let mut command = Command::new("timeout");
    command.arg("60").arg(one.binaries.join("vstorage")).envs(environment(&one.dir));
    command.args(["get-event", "--follow", "--json", "--after", &after]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it can be started");
    one.done(&["set-config", "mds.wd.verify_chunks=4"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
    let event: serde_json::Value = serde_json::from_str(&line).expect("an object per line");
    assert!(event["id"].as_u64() > Some(last) && event["message"].as_str().is_some(), "{event}");
}

/// Chapter 7.6.3: journals of a chunk server at work.
fn journals(two: &Host) {
    let (cs, journal) = (two.path("stor1-cs2"), two.path("ssd/stor1/cs2"));
    let add = two.path("ssd/new");
    let change =
        |words: &[&str]| two.done(&[&["-c", CLUSTER, "configure-cs", "-r", &cs], words].concat()).stdout;
    let told = |path: &str| {
        poll_until(Duration::from_secs(30), || {
            let services = two.json(&["list-services", "-C"]);
            let rows = services["cs"].as_array().cloned().unwrap_or_default();
            rows.iter().any(|row| row["path"] == cs.as_str() && row["journal_path"] == path).then_some(())
        })
        .unwrap_or_else(|| panic!("no list of services shows the journal {path:?}"));
    };
    told(&journal);
    let text = change(&["-s", "96"]);
    assert!(text.contains("now has a journal of 96 MB"), "{text}");
    let text = change(&["-d"]);
    assert!(text.contains("now has a journal of 256 MB beside its chunks"), "{text}");
    told("");
    let text = change(&["-a", &add, "-s", "128", "-T", "ssd"]);
    assert!(text.contains(&format!("now has a journal of 128 MB in {add}, tuned for SSDs")), "{text}");
    told(&add);
    let words = |more: &[&'static str]| [&["configure-cs", "-r"], more].concat();
    two.refused(&[&words(&[])[..], &[&cs, "-s", "1"]].concat(), "too small");
    two.refused(&[&words(&[])[..], &[&journal, "-d"]].concat(), "no service of cluster 'stor1'");
    let left: Vec<_> = std::fs::read_dir(&journal).expect("a directory").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A file that is open, and how it is taken away from whoever has it.
fn leases(one: &Host) {
    let file = std::fs::File::open(one.dir.join("mnt/private/MyCT/disk")).expect("readers may read");
    let stat = one.json(&["stat", "/private/MyCT/disk"]);
    assert_eq!((&stat["readers"], &stat["writer"]), (&1.into(), &serde_json::Value::Null), "{stat}");
    assert_eq!(one.done(&["revoke", "/private/MyCT/disk"]).stdout, "took 1 lease away\n");
    assert_eq!(one.json(&["stat", "/private/MyCT/disk"])["readers"], 0);
    drop(file);
    one.refused(&["revoke", "/none"], "/none");
}
