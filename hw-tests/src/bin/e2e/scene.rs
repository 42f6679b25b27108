//! Where a scenario plays: its directory, its cluster, its loads.

use std::cell::RefCell;
use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use hw_tests::cleanup_stale;
use hw_tests::cluster::{Cluster, ClusterError, Options};
use hw_tests::deadline::Stopwatch;
use hw_tests::load::{Counts, Load, LoadError, Progress};
use hw_tests::nbd::{Client, Request};

/// How long the soak goes on unless told otherwise.
pub(crate) const SOAK_SECONDS: u64 = 20;
/// How long an answer may take: a chunk server may be restarted meanwhile.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// The volume of most scenarios.
pub(crate) const VOLUME: &str = "/v";
/// Its size in bytes.
pub(crate) const VOLUME_BYTES: u64 = 160 << 20;

/// How the names of directories begin that are being removed.
const REMOVED: &str = ".removed-";

/// What all scenarios share.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where the programs are.
    pub(crate) binaries: PathBuf,
    /// Where the scenarios' directories are.
    pub(crate) dir: PathBuf,
    /// Decides what can be decided.
    pub(crate) seed: u64,
    /// How long the soak goes on.
    pub(crate) soak_seconds: u64,
    /// It was said how long.
    pub(crate) is_long: bool,
    /// Directories on their way out.
    pub(crate) removals: RefCell<Vec<Child>>,
}

impl Settings {
    /// Removes what a run that was interrupted was removing.
    pub(crate) fn finish_removals(&self) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(REMOVED) {
                std::fs::remove_dir_all(entry.path()).expect("nothing is mounted there");
            }
        }
    }

    /// Removes a directory beside what comes next: it takes some seconds on file systems that discard.
    fn remove(&self, dir: &Path) {
        let number = self.removals.borrow().len();
        let aside = self.dir.join(format!("{REMOVED}{}-{number}", std::process::id()));
        std::fs::rename(dir, &aside).expect("nothing is mounted there any more");
        let removal = Command::new("rm").args(["-rf", "--one-file-system"]).arg(aside).spawn();
        self.removals.borrow_mut().push(removal.expect("rm of the Debian package coreutils"));
    }

    /// The processes that remove directories.
    pub(crate) fn removing(&self) -> Vec<u32> {
        self.removals.borrow().iter().map(Child::id).collect()
    }

    /// Waits until all that is to be removed is.
    pub(crate) fn wait_for_removals(&self) {
        for mut removal in self.removals.take() {
            let status = removal.wait().expect("it is our child");
            assert!(status.success(), "rm ended with {status}");
        }
    }
}

/// A scenario's place. Dropping it removes it, unless something is still mounted there.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// What all scenarios share.
    pub(crate) settings: &'a Settings,
    clock: Stopwatch,
}

impl<'a> Scene<'a> {
    /// An empty place; what an interrupted run left there is removed.
    pub(crate) fn new(name: &str, settings: &'a Settings) -> Self {
        let dir = settings.dir.join(name);
        clear(&dir, settings);
        std::fs::create_dir_all(&dir).expect("a directory for the scenario");
        let dir = dir.canonicalize().expect("it is there");
        Self { dir, settings, clock: Stopwatch::start() }
    }

    /// Shows how far it is.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        println!("   {:6.1} s  {}", self.clock.elapsed().as_secs_f64(), text.as_ref());
    }

    /// A running cluster with the volume [`VOLUME`], not exported; its journals lie beside the chunks.
    pub(crate) fn cluster(&self) -> Cluster {
        self.cluster_of(Options::plain(&self.dir, &self.settings.binaries))
    }

    /// As [`Scene::cluster`], with small journals in directories of their own.
    pub(crate) fn small_cluster(&self) -> Cluster {
        let plain = Options::plain(&self.dir, &self.settings.binaries);
        self.cluster_of(Options { journal_mb: Some(64), ..plain })
    }

    /// As [`Scene::cluster`], made to order.
    pub(crate) fn cluster_of(&self, options: Options) -> Cluster {
        let cluster = Cluster::make(options).expect("a cluster can be made");
        let size = VOLUME_BYTES.to_string();
        cluster.vstorage(&["create", VOLUME, "--size", &size]).expect("a volume can be made");
        self.say("the cluster is up");
        cluster
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        // After a failure everything stays where it can be looked at; the next run removes it.
        if !std::thread::panicking() {
            clear(&self.dir, self.settings);
        }
    }
}

/// Takes away what is mounted below a scenario's directory; its files stay.
pub(crate) fn abandon(dir: &Path) {
    if let Err(error) = cleanup_stale(dir) {
        eprintln!("left behind: {error}");
    }
}

/// By what the directory itself says of its entries: a mount may never answer.
fn is_dir(entry: &DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// Removes a directory with what is mounted in and below it.
fn clear(dir: &Path, settings: &Settings) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(is_dir) {
        cleanup_stale(&entry.path()).expect("what an earlier run left can be removed");
    }
    settings.remove(dir);
}

/// Loads that work on one volume at the same time, each over a connection and on an area of its own.
#[derive(Debug)]
pub(crate) struct Loads {
    loads: Vec<Load>,
}

impl Loads {
    /// One that writes whole blocks, and one that writes sectors: each has a part of the volume, on both sides of a
    /// chunk's border.
    pub(crate) fn new(seed: u64) -> Self {
        // Chunks have 64 MiB.
        let (first, second) = ((60 << 20)..(76 << 20), (120 << 20)..(132 << 20));
        Self { loads: vec![Load::new(seed, first, 4096), Load::new(seed + 1000, second, 512)] }
    }

    /// The same, flushed seldom.
    pub(crate) fn rarely_flushed(self) -> Self {
        Self { loads: self.loads.into_iter().map(Load::rarely_flushed).collect() }
    }

    /// Runs all loads, and `meanwhile` beside them; they go on until they are told to stop or fail.
    pub(crate) fn run<T>(
        &mut self,
        cluster: &mut Cluster,
        meanwhile: impl FnOnce(&mut Cluster, &Watch) -> T,
    ) -> (Vec<Result<(), LoadError>>, T) {
        let watch = Watch { all: self.loads.iter().map(|_| Progress::default()).collect() };
        let socket = cluster.socket();
        let connect = |_: &Load| Client::connect(&socket, PATIENCE).expect("the export greets");
        let clients: Vec<Client> = self.loads.iter().map(connect).collect();
        std::thread::scope(|scope| {
            // Also when something here panics: the scope waits for the threads.
            let stop = StopAll(&watch);
            let handles: Vec<_> = self
                .loads
                .iter_mut()
                .zip(&watch.all)
                .zip(clients)
                .map(|((load, progress), mut client)| scope.spawn(move || load.run(&mut client, progress)))
                .collect();
            let result = meanwhile(cluster, &watch);
            drop(stop);
            let join =
                |handle: std::thread::ScopedJoinHandle<'_, _>| handle.join().expect("a load does not panic");
            (handles.into_iter().map(join).collect(), result)
        })
    }

    /// Judges all areas after a crash and panics on a violation.
    pub(crate) fn judge(&mut self, cluster: &Cluster) {
        self.judge_by(cluster, Load::judge);
    }

    /// Judges all areas when nothing may be lost, and panics on a violation.
    pub(crate) fn judge_acknowledged(&mut self, cluster: &Cluster) {
        self.judge_by(cluster, Load::judge_acknowledged);
    }

    fn judge_by(
        &mut self,
        cluster: &Cluster,
        judge: fn(&mut Load, &mut Client) -> Result<Vec<hw_tests::oracle::Violation>, LoadError>,
    ) {
        let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
        for load in &mut self.loads {
            let violations = judge(load, &mut client).expect("the volume is readable");
            for violation in violations.iter().take(10) {
                eprintln!("violation: {violation}");
            }
            assert!(violations.is_empty(), "{} violations, the first of them above", violations.len());
        }
    }

    /// What was answered, over all loads.
    pub(crate) fn counts(&self) -> String {
        let sum = |part: fn(Counts) -> u64| self.loads.iter().map(|load| part(load.counts())).sum::<u64>();
        let longest = self.loads.iter().map(|load| load.counts().longest_wait).max().unwrap_or_default();
        format!(
            "{} writes ({} MiB), {} zeroings, {} flushes, {} reads judged; longest wait {:.1} s",
            sum(|counts| counts.writes),
            sum(|counts| counts.bytes) >> 20,
            sum(|counts| counts.zeroings),
            sum(|counts| counts.flushes),
            sum(|counts| counts.reads),
            longest.as_secs_f64()
        )
    }
}

/// Flushes the exported volume; gives the answer, an error number or zero.
pub(crate) fn flush(cluster: &Cluster) -> u32 {
    let mut client = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    client.ask(Request::Flush, 0, 0, &[]).expect("the export answers").error
}

/// How far all loads are.
#[derive(Debug)]
pub(crate) struct Watch {
    all: Vec<Progress>,
}

impl Watch {
    /// Waits until each load has had `more` further answers. False when one ended or does not get them.
    pub(crate) fn advances(&self, more: u64) -> bool {
        self.all.iter().all(|progress| progress.advances(more, PATIENCE))
    }
}

struct StopAll<'a>(&'a Watch);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        self.0.all.iter().for_each(Progress::stop);
    }
}

/// What a cluster did when it should have worked.
pub(crate) trait Works<T> {
    /// The result; panics with the whole error text where there is none.
    fn works(self, what: &str) -> T;
}

impl<T> Works<T> for Result<T, ClusterError> {
    #[track_caller]
    fn works(self, what: &str) -> T {
        self.unwrap_or_else(|error| panic!("{what}: {error}"))
    }
}
