//! Directories and files that are not what they should be: each daemon says what is wrong and what to do, ends with a
//! code other than zero, and nothing is lost.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;

use hw_tests::cluster::{Cluster, Ended, NAME, Options, free_ports, run_to_end};
use hw_tests::nbd::{Client, Request};
use hw_tests::seeded::Seeded;

use crate::scene::{PATIENCE, Scene, VOLUME, Works};

/// Where the volume has data: at its beginning, and over a chunk's border.
const DATA: [std::ops::Range<u64>; 2] = [0..(2 << 20), (63 << 20)..(65 << 20)];

/// A cluster with known data, and the cases tried on it.
struct Table<'a> {
    scene: &'a Scene<'a>,
    cluster: Cluster,
    content: Vec<Vec<u8>>,
    wrong: Vec<String>,
}

/// A file that is moved or changed for one case and put back afterwards.
struct PutBack {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl PutBack {
    fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), bytes: std::fs::read(path).expect("readable") }
    }

    fn now(self) {
        std::fs::write(&self.path, &self.bytes).expect("writable");
    }
}

/// Every row of the table.
pub(crate) fn bad_files(scene: &Scene) {
    let options = Options { fixed_ports: true, ..Options::plain(&scene.dir, &scene.settings.binaries) };
    let mut table =
        Table { scene, cluster: scene.cluster_of(options), content: Vec::new(), wrong: Vec::new() };
    table.fill();
    superblocks(&mut table);
    journals(&mut table);
    other_clusters(&mut table);
    ports(&mut table);
    read_only(&mut table);
    clocks(&mut table);
    // None of these needs the metadata server or the first chunk server stopped, whose locks are waited for meanwhile.
    let second = SecondDaemons::start(&table);
    two_exports(&mut table);
    truncated_chunk(&mut table);
    rolled_back(&mut table);
    second.judge(&mut table);
    table.cluster.stop_export().works("stop of the export");
    // Nobody has written down what runs: the locks of the directories say it.
    let stop = ["stop-service", "--no-systemd", "--timeout", "60", "all"];
    let stopped = table.cluster.vstorage(&stop).works("stop-service without pid files");
    assert_eq!(stopped.matches(": stopped (pid ").count(), 3, "{stopped}");
    table.cluster.stop_all().works("orderly stop");
    table.cluster.check_all().works("check");
    assert!(table.wrong.is_empty(), "{} rows are wrong:\n{}", table.wrong.len(), table.wrong.join("\n"));
}

impl Table<'_> {
    fn fill(&mut self) {
        let mut seeded = Seeded::new(self.scene.settings.seed);
        self.cluster.export(VOLUME).works("export");
        let mut client = Client::connect(&self.cluster.socket(), PATIENCE).expect("the export greets");
        for range in DATA {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            seeded.fill(&mut bytes);
            let answer =
                client.ask(Request::Write, range.start, bytes.len() as u32, &bytes).expect("answered");
            assert_eq!(answer.error, 0);
            self.content.push(bytes);
        }
        assert_eq!(client.ask(Request::Flush, 0, 0, &[]).expect("answered").error, 0);
        drop(client);
        self.cluster.stop_export().works("stop of the export");
    }

    /// Ends the case: everything runs, and the data is what it was.
    fn nothing_lost(&mut self, case: &str) {
        self.cluster.start_all().works(case);
        self.cluster.export(VOLUME).works(case);
        self.same_data(case);
        self.cluster.stop_export().works(case);
    }

    fn same_data(&mut self, case: &str) {
        let mut client = Client::connect(&self.cluster.socket(), PATIENCE).expect("the export greets");
        for (range, bytes) in DATA.iter().zip(&self.content) {
            let answer = client.ask(Request::Read, range.start, bytes.len() as u32, &[]).expect("answered");
            assert_eq!(answer.error, 0, "{case}: the data is readable");
            assert!(answer.data == *bytes, "{case}: the data has changed");
        }
        self.scene.say(format!("{case}: data unchanged"));
    }

    /// The command must end with `code` and say all of `words`; what it does not is noted, so that one run shows all.
    fn refused(&mut self, case: &str, command: &Command, code: i32, words: &[&str]) {
        let ended = run_to_end(command, "password\n").works(case);
        self.judge(case, &ended, code, words);
    }

    fn judge(&mut self, case: &str, ended: &Ended, code: i32, words: &[&str]) {
        let said = format!("{}{}", ended.stdout, ended.stderr);
        let missing: Vec<&&str> = words.iter().filter(|word| !said.contains(**word)).collect();
        if ended.code != Some(code) || !missing.is_empty() {
            self.wrong(format!(
                "{case}: expected code {code} and the words {words:?}, missing {missing:?}: {ended}"
            ));
        } else {
            self.scene.say(format!("{case}: refused as it should be"));
        }
    }

    /// Notes what is wrong, so that one run shows all of it.
    fn wrong(&mut self, what: String) {
        self.scene.say(format!("WRONG: {what}"));
        self.wrong.push(what);
    }

    /// `vstorage-csd run` on the directory of a chunk server.
    fn run_server(&self, index: usize) -> Command {
        let repository = self.cluster.servers[index].repository().display().to_string();
        self.cluster.command("vstorage-csd", &["--log-level", "warn", "run", "-c", NAME, "-r", &repository])
    }

    /// A file of a stopped chunk server.
    fn file(&self, index: usize, name: &str) -> PathBuf {
        self.cluster.servers[index].repository().join(name)
    }
}

fn superblocks(table: &mut Table) {
    table.cluster.servers[0].stop().works("stop");
    let path = table.file(0, "superblock");
    let good = PutBack::of(&path);
    let mut garbage = vec![0; good.bytes.len()];
    Seeded::new(9).fill(&mut garbage);
    std::fs::write(&path, &garbage).expect("writable");
    table.refused("unreadable superblock", &table.run_server(0), 1, &["superblock", "unusable", "rebuilt"]);
    std::fs::write(&path, &good.bytes[..1000]).expect("writable");
    table.refused("short superblock", &table.run_server(0), 1, &["superblock", "unusable", "rebuilt"]);
    std::fs::copy(table.file(1, "superblock"), &path).expect("copied");
    let words = ["journal", "another chunk server", "put"];
    table.refused("foreign superblock", &table.run_server(0), 1, &words);
    std::fs::remove_file(&path).expect("removed");
    table.refused("no superblock", &table.run_server(0), 1, &["no superblock", "make-cs"]);
    good.now();
    table.nothing_lost("superblocks");
}

fn journals(table: &mut Table) {
    table.cluster.servers[0].stop().works("stop");
    table.cluster.servers[1].stop().works("stop");
    let (path, aside) = (table.file(0, "journal"), table.file(0, "aside"));
    std::fs::rename(&path, &aside).expect("renamed");
    table.refused("journal missing", &table.run_server(0), 1, &["journal", "is missing", "mount its disk"]);
    std::fs::copy(table.file(1, "journal"), &path).expect("copied");
    let words = ["journal", "another chunk server", "put"];
    table.refused("journal of another chunk server", &table.run_server(0), 1, &words);
    std::fs::write(&path, b"not a journal").expect("writable");
    table.refused("journal of a few bytes", &table.run_server(0), 1, &["journal", "cannot be used"]);
    std::fs::rename(&aside, &path).expect("renamed");
    table.nothing_lost("journals");
}

/// A second daemon on a directory waits a while for the lock, as for one of a process that was just killed.
struct SecondDaemons {
    mds: JoinHandle<Ended>,
    server: JoinHandle<Ended>,
}

impl SecondDaemons {
    fn start(table: &Table) -> Self {
        let mds = table.cluster.mds.repository().display().to_string();
        let mds = table.cluster.command("vstorage-mdsd", &["run", "-c", NAME, "-r", &mds]);
        let server = table.run_server(0);
        Self { mds: beside("a second metadata server", mds), server: beside("a second chunk server", server) }
    }

    fn judge(self, table: &mut Table) {
        let server = self.server.join().expect("no panic");
        let words = ["in use by another", "stop that one first"];
        table.judge("two chunk servers on one directory", &server, 1, &words);
        let mds = self.mds.join().expect("no panic");
        table.judge("two metadata servers on one directory", &mds, 1, &["in use by another", "stop"]);
    }
}

/// Runs a command to its end on a thread of its own.
fn beside(what: &'static str, command: Command) -> JoinHandle<Ended> {
    let run = move || run_to_end(&command, "").works(what);
    std::thread::Builder::new().spawn(run).expect("a thread")
}

fn two_exports(table: &mut Table) {
    table.cluster.export(VOLUME).works("export");
    let args = ["-c", NAME, "export", "--nbd", &format!("{}/second.sock", table.scene.dir.display()), VOLUME];
    let second = table.cluster.command("vstorage", &args);
    table.refused("two exports of one volume", &second, 1, &["is served by process", "already"]);
    table.cluster.stop_export().works("stop");
    table.nothing_lost("two exports");
}

/// A host that is a member of another cluster, of the same name or another.
fn other_clusters(table: &mut Table) {
    let repository = table.cluster.servers[0].repository().display().to_string();
    let unknown = table.cluster.command("vstorage-csd", &["run", "-c", "unknown", "-r", &repository]);
    table.cluster.servers[0].stop().works("stop");
    table.refused("a cluster this host does not know", &unknown, 1, &["unknown", "auth-node"]);

    let list =
        std::fs::read(table.cluster.dir().join("etc/clusters").join(NAME).join("bs.list")).expect("a list");
    for other in [NAME, "other"] {
        let dir = table.scene.dir.join(format!("host-{other}"));
        let at = |mut command: Command| {
            command.env("VSTORAGE_ETC", dir.join("etc"));
            command
        };
        let (mds, address) = (dir.join("mds").display().to_string(), format!("127.0.0.1:{}", free_ports()));
        let make = at(table
            .cluster
            .command("vstorage", &["-c", other, "make-mds", "-I", "-a", &address, "-r", &mds, "-p"]));
        let made = run_to_end(&make, "a-long-password\n").works("another cluster");
        assert!(made.succeeded(), "{made}");
        let run = at(table.cluster.command("vstorage-csd", &["run", "-c", other, "-r", &repository]));
        let words = ["belongs to", "cluster", "credentials"];
        table.refused(&format!("a chunk server of another cluster '{other}'"), &run, 1, &words);
        // Its credentials are another authority's, and it asks our metadata server.
        std::fs::write(dir.join("etc/clusters").join(other).join("bs.list"), &list).expect("writable");
        let stat = at(table.cluster.command("vstorage", &["-c", other, "--timeout", "5", "stat"]));
        let words = ["its certificate is for cluster", "check the address and the cluster name"];
        table.refused(&format!("untrusted certificate, cluster '{other}'"), &stat, 1, &words);
    }
    table.nothing_lost("other clusters");
}

fn ports(table: &mut Table) {
    let port = table.cluster.port();
    let dir = table.scene.dir.join("port");
    let (mds, address) = (dir.join("mds").display().to_string(), format!("127.0.0.1:{port}"));
    let mut make = table
        .cluster
        .command("vstorage", &["-c", "taken", "make-mds", "-I", "-a", &address, "-r", &mds, "-p"]);
    make.env("VSTORAGE_ETC", dir.join("etc"));
    table.refused("make-mds at a port in use", &make, 1, &[&(port + 1).to_string(), "in use", "choose"]);

    // The address of a chunk server stands in its log.
    let log = table.cluster.log("cs1");
    let address =
        log.lines().filter_map(|line| line.split("ready: ").nth(1)?.split(" at ").nth(1)).next_back();
    let address = address.expect("it said where it listens").to_owned();
    table.cluster.servers[0].stop().works("stop");
    let squatter = TcpListener::bind(&address).expect("the port is free now");
    table.refused(
        "a chunk server's port in use",
        &table.run_server(0),
        1,
        &["cannot listen", &address, "in use"],
    );
    let export = table.cluster.command("vstorage", &["-c", NAME, "export", "--listen", &address, VOLUME]);
    table.refused(
        "an export's port in use",
        &export,
        1,
        &["another program listens", &address, "choose another port"],
    );
    drop(squatter);
    table.cluster.mds.stop().works("stop");
    let squatter = TcpListener::bind(("127.0.0.1", port + 1)).expect("the port is free now");
    let mds = table.cluster.mds.repository().display().to_string();
    let run = table.cluster.command("vstorage-mdsd", &["run", "-c", NAME, "-r", &mds]);
    table.refused("a metadata server's port in use", &run, 1, &[&(port + 1).to_string(), "in use"]);
    drop(squatter);
    table.nothing_lost("ports");
}

/// In a mount namespace of its own the directory is read-only, for root too.
fn read_only(table: &mut Table) {
    const SCRIPT: &str =
        r#"dir=$1; shift; mount --bind "$dir" "$dir" && mount -o remount,ro,bind "$dir" && exec "$@""#;
    let under = |dir: &str, command: Command| {
        let mut outer = Command::new("unshare");
        outer.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh", dir]);
        outer.arg(command.get_program()).args(command.get_args());
        outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        outer
    };
    table.cluster.servers[0].stop().works("stop");
    let repository = table.cluster.servers[0].repository().display().to_string();
    let run = under(&repository, table.run_server(0));
    table.refused(
        "a chunk server's directory is read-only",
        &run,
        1,
        &[&repository, "Read-only file system", "remount"],
    );
    let empty = table.scene.dir.join("empty");
    std::fs::create_dir_all(&empty).expect("a directory");
    let empty = empty.display().to_string();
    let make = under(&empty, table.cluster.command("vstorage", &["-c", NAME, "make-cs", "-r", &empty]));
    table.refused("make-cs in a read-only directory", &make, 1, &[&empty, "Read-only file system"]);
    table.cluster.mds.stop().works("stop");
    let mds = table.cluster.mds.repository().display().to_string();
    let run = under(&mds, table.cluster.command("vstorage-mdsd", &["run", "-c", NAME, "-r", &mds]));
    table.refused("a metadata server's directory is read-only", &run, 1, &[&mds, "Read-only file system"]);
    table.nothing_lost("read-only directories");
}

/// The servers' clocks since boot are days apart, and jump back at the next start. (The wall clock has no namespace; it
/// only dates logs and certificates.)
fn clocks(table: &mut Table) {
    table.cluster.servers.iter_mut().for_each(|server| server.stop().works("stop"));
    table.cluster.mds.stop().works("stop");
    let ahead = |days: u64| format!("{}", days * 86_400);
    let start = |node: &mut hw_tests::cluster::Node, days| {
        node.start_under(&["unshare", "--time", "--boottime", &ahead(days), "--monotonic", &ahead(days)])
            .works("start");
        node.ready().works("ready with another clock");
        let clock_of =
            |process: &str| std::fs::read_link(format!("/proc/{process}/ns/time")).expect("it runs");
        let pid = node.pid().expect("it runs").to_string();
        assert_ne!(clock_of(&pid), clock_of("self"), "it has a clock of its own");
    };
    start(&mut table.cluster.mds, 400);
    table.cluster.servers.iter_mut().zip([3, 0, 4000]).for_each(|(server, days)| start(server, days));
    table.nothing_lost("clocks days apart");
    table.cluster.kill_all().works("kill");
    table.nothing_lost("clocks that jumped back");
}

/// What one chunk server has lost is read from the others.
fn truncated_chunk(table: &mut Table) {
    table.cluster.servers[1].stop().works("stop");
    let chunks = table.file(1, "chunks");
    let below = |dir: PathBuf| std::fs::read_dir(dir).expect("chunks").flatten().map(|entry| entry.path());
    let file = below(chunks).flat_map(below).min().expect("a chunk");
    let good = PutBack::of(&file);
    std::fs::File::options()
        .write(true)
        .open(&file)
        .and_then(|file| file.set_len(1 << 20))
        .expect("truncated");
    let check = table.cluster.check(&table.cluster.servers[1]).works("check");
    // Its number, without the zeroes before it.
    let name = file.file_name().unwrap_or_default().to_string_lossy().trim_start_matches('0').to_owned();
    table.judge("check of a truncated chunk file", &check, 1, &[&name]);
    table.cluster.start_all().works("start with a truncated chunk file");
    table.cluster.export(VOLUME).works("export with a truncated chunk file");
    table.same_data("truncated chunk file");
    table.cluster.stop_export().works("stop");
    table.cluster.servers[1].stop().works("stop");
    good.now();
    table.nothing_lost("chunk file put back");
}

/// A chunk server that went back in time is found out by its nonce (C10): nothing is read from it.
fn rolled_back(table: &mut Table) {
    table.cluster.servers[2].stop().works("stop");
    let old = PutBack::of(&table.file(2, "superblock"));
    table.cluster.start_all().works("a run in between");
    table.cluster.servers[2].stop().works("stop");
    old.now();
    let words = ["rolled back, copied or restored", "make a new chunk server"];
    table.refused("rolled-back superblock", &table.run_server(2), 1, &words);
    // Two of three are left to read from.
    table.cluster.export(VOLUME).works("export without the one that was rolled back");
    table.same_data("rolled-back superblock");
}
