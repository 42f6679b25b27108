//! Power cuts on disks that forget.

use std::path::{Path, PathBuf};

use hw_tests::cluster::{Cluster, Options};
use hw_tests::forgetting_disk::{self, CutReport, ForgettingDisk, Pace};
use hw_tests::load::LoadError;
use hw_tests::oracle::Violation;

use crate::scene::{self, Loads, Scene, VOLUME, Works};

/// Room for a journal, the chunks and ext4's own things.
const DISK_BYTES: u64 = 1 << 30;
/// For a metadata server, or a journal.
const SMALL_DISK_BYTES: u64 = 256 << 20;
/// Answers per load before a cut.
const ANSWERS: u64 = 700;
const EIO: u32 = 5;

/// Whose power is cut.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// One chunk server's; the others and the client go on.
    One(usize),
    /// All chunk servers'; the metadata server and the client go on.
    AllServers,
    /// Everything's.
    Everything,
}

const CUTS: &[Cut] = &[
    Cut::One(0),
    Cut::Everything,
    Cut::One(2),
    Cut::AllServers,
    Cut::Everything,
    Cut::AllServers,
    Cut::One(1),
];

/// Further cuts when one kind has taken nothing: now and then all was flushed just before.
const MORE_CUTS: usize = 4;

/// What the cuts have shown so far.
#[derive(Debug, Default)]
struct Shown {
    /// Writes that were lost to each kind of cut.
    one: u64,
    servers: u64,
    everything: u64,
    /// Cuts after which a flush said that acknowledged writes are lost.
    told: usize,
}

impl Shown {
    fn add(&mut self, cut: Cut, report: &CutReport) {
        *match cut {
            Cut::One(_) => &mut self.one,
            Cut::AllServers => &mut self.servers,
            Cut::Everything => &mut self.everything,
        } += report.writes_lost;
    }

    /// A cut that has yet to show what it is there for.
    fn missing(&self) -> Option<Cut> {
        match self {
            Self { one: 0, .. } => Some(Cut::One(0)),
            Self { servers: 0, .. } | Self { told: 0, .. } => Some(Cut::AllServers),
            Self { everything: 0, .. } => Some(Cut::Everything),
            _ => None,
        }
    }
}

/// A disk and where it is mounted.
type Mounted = (ForgettingDisk, PathBuf);

/// The disks, in the order: chunk servers, metadata server.
pub(crate) struct Disks {
    disks: Vec<Mounted>,
    /// A disk for the journal of this chunk server alone, which has power when its other one has.
    journal: Option<(usize, Mounted)>,
}

impl Disks {
    pub(crate) fn make(scene: &Scene) -> Self {
        Self { disks: (0..4).map(|number| make_disk(scene, number)).collect(), journal: None }
    }

    /// The same, and one more for the journal of a chunk server.
    pub(crate) fn with_journal_of(scene: &Scene, index: usize) -> Self {
        Self { journal: Some((index, make_disk(scene, 4))), ..Self::make(scene) }
    }

    /// The chunk server that has a disk for its journal, and where that is mounted.
    pub(crate) fn journal(&self) -> Option<(usize, &Path)> {
        self.journal.as_ref().map(|(index, (_, point))| (*index, &**point))
    }

    /// Bytes written to that disk so far.
    pub(crate) fn journal_bytes(&self) -> u64 {
        self.journal.as_ref().map_or(0, |(_, (disk, _))| disk.stats().bytes)
    }

    /// Changes the pace of the disk with the chunks of that server.
    pub(crate) fn set_pace_behind_journal(&self, pace: Pace) {
        if let Some((index, _)) = self.journal {
            self.disks[index].0.set_pace(pace).expect("a thread");
        }
    }

    /// The disks of a server.
    fn of(&mut self, index: usize) -> impl Iterator<Item = &mut Mounted> {
        let journal = self.journal.as_mut().filter(move |(owner, _)| *owner == index);
        self.disks.get_mut(index).into_iter().chain(journal.map(|(_, disk)| disk))
    }

    /// Directories on them: of the chunk servers, and of the metadata server.
    pub(crate) fn repositories(&self) -> (Vec<PathBuf>, PathBuf) {
        let mut all: Vec<PathBuf> = self.disks.iter().map(|(_, point)| point.join("repository")).collect();
        let mds = all.pop().expect("the last is the metadata server's");
        (all, mds)
    }

    /// Where one is mounted.
    pub(crate) fn point(&self, index: usize) -> &Path {
        &self.disks[index].1
    }

    /// Takes the power of these disks and of the machines they are in, and brings it back. Returns what was lost.
    pub(crate) fn cut(&mut self, cluster: &mut Cluster, which: &[usize]) -> CutReport {
        // A machine stops in the moment its disk does: nobody there sees the disk fail.
        for &index in which {
            node(cluster, index).pause().works("pause");
        }
        let mut sum = CutReport::default();
        for &index in which {
            for (disk, _) in self.of(index) {
                let report = disk.power_cut().expect("it was on");
                sum.writes_lost += report.writes_lost;
                sum.writes_torn += report.writes_torn;
                sum.writes_kept += report.writes_kept;
            }
        }
        for &index in which {
            let node = node(cluster, index);
            node.kill().works("kill");
            node.reboot().works("reboot");
            for (disk, point) in self.of(index) {
                disk.detach().expect("nobody uses it");
                disk.power_on().expect("comes back");
                // Replays ext4's journal; then it must be clean.
                disk.mount(point).expect("mounts again");
                disk.unmount().expect("nobody uses it");
                disk.check().expect("ext4 is clean after the cut");
                disk.mount(point).expect("mounts again");
            }
        }
        sum
    }

    /// Puts an empty disk in the place of one that is lost with all that was on it.
    pub(crate) fn replace(&mut self, cluster: &mut Cluster, index: usize) {
        node(cluster, index).kill().works("kill");
        for (disk, point) in self.of(index) {
            // Also where other namespaces have it mounted.
            disk.detach().expect("nobody uses it");
            disk.attach().expect("a loop device");
            disk.mkfs().expect("formats");
            disk.mount(point).expect("mounts");
        }
    }

    /// The file systems must be clean.
    pub(crate) fn check(&mut self) {
        for (disk, _) in self.disks.iter_mut().chain(self.journal.as_mut().map(|(_, disk)| disk)) {
            disk.unmount().expect("nobody uses it");
            disk.check().expect("ext4 is clean at the end");
        }
    }
}

/// A mounted disk that forgets; the first three are the chunk servers'.
fn make_disk(scene: &Scene, number: u64) -> Mounted {
    let dir = scene.dir.join(format!("disk{number}"));
    let size = if number < 3 { DISK_BYTES } else { SMALL_DISK_BYTES };
    let seed = scene.settings.seed * 100 + number;
    let sector = if number == 1 { 4096 } else { 512 };
    let options = forgetting_disk::Options { seed, sector, ..Default::default() };
    let mut disk = ForgettingDisk::create(&dir, size, options).expect("root and FUSE");
    disk.attach().expect("a loop device");
    disk.mkfs().expect("formats");
    let point = dir.join("mnt");
    disk.mount(&point).expect("mounts");
    (disk, point)
}

fn node(cluster: &mut Cluster, index: usize) -> &mut hw_tests::cluster::Node {
    let Cluster { servers, mds, .. } = cluster;
    servers.get_mut(index).unwrap_or(mds)
}

/// What a completed flush covered is there after cuts of one chunk server, of all, and of everything; the file systems
/// and the chunk servers' own structures are clean.
pub(crate) fn power_cuts(scene: &Scene) {
    let mut disks = Disks::make(scene);
    scene.say("four disks that forget");
    let (servers, mds) = disks.repositories();
    let options =
        Options { mds, servers, machines: true, ..Options::plain(&scene.dir, &scene.settings.binaries) };
    let mut cluster = scene.cluster_of(options);
    let mut loads = Loads::new(scene.settings.seed).rarely_flushed();
    cluster.export(VOLUME).works("export");
    let mut shown = Shown::default();
    for number in 1..=CUTS.len() + MORE_CUTS {
        let Some(cut) = CUTS.get(number - 1).copied().or_else(|| shown.missing()) else { break };
        let report = match cut {
            Cut::One(index) => cut_one(&mut cluster, &mut disks, &mut loads, index),
            Cut::AllServers => {
                let (report, is_told) = cut_servers(&mut cluster, &mut disks, &mut loads);
                shown.told += usize::from(is_told);
                report
            }
            Cut::Everything => cut_everything(&mut cluster, &mut disks, &mut loads),
        };
        shown.add(cut, &report);
        scene.say(format!(
            "cut {number}, {cut:?}: {} unflushed writes lost, {} torn, {} kept; nothing missing; {}",
            report.writes_lost,
            report.writes_torn,
            report.writes_kept,
            loads.counts()
        ));
    }
    assert!(shown.missing().is_none(), "the cuts took nothing, or the client was told of nothing: {shown:?}");
    let events = cluster.vstorage(&["get-event", "-n", "1000", "--json"]).works("events");
    let told = events.matches("mds.writes_lost").count();
    assert!(told >= shown.told, "{told} events of lost writes for {} flushes that failed", shown.told);
    scene.say(format!("{} times a flush told of lost writes, {told} events", shown.told));
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
    drop(cluster);
    disks.check();
    scene.say("stopped in order, checked; ext4 clean");
}

/// The others hold all that was acknowledged: the client sees a pause and no error.
fn cut_one(cluster: &mut Cluster, disks: &mut Disks, loads: &mut Loads, index: usize) -> CutReport {
    let (outcomes, report) = loads.run(cluster, |cluster, watch| {
        assert!(watch.advances(ANSWERS), "the load does not advance");
        let report = disks.cut(cluster, &[index]);
        cluster.start_all().works("start after the cut");
        assert!(watch.advances(ANSWERS), "the load does not go on after the cut of one chunk server");
        report
    });
    for outcome in outcomes {
        outcome.expect("the client sees no error");
    }
    loads.judge_acknowledged(cluster);
    report
}

/// What was not flushed may be lost on every member: the client must be told, by EIO, and the volume is opened anew. Says
/// whether it was told.
pub(crate) fn cut_servers(cluster: &mut Cluster, disks: &mut Disks, loads: &mut Loads) -> (CutReport, bool) {
    let (outcomes, report) = loads.run(cluster, |cluster, watch| {
        assert!(watch.advances(ANSWERS), "the load does not advance");
        let report = disks.cut(cluster, &[0, 1, 2]);
        cluster.start_all().works("start after the cut");
        // It ends with EIO, or goes on if nothing was at stake.
        watch.advances(ANSWERS);
        report
    });
    let is_flushed = match scene::flush(cluster) {
        0 => true,
        EIO => false,
        error => panic!("a flush after the cut was answered with errno {error}"),
    };
    for outcome in outcomes {
        match outcome {
            Ok(()) => {}
            // The client was told, or it read what is older before it asked: then the flush must have told it.
            Err(LoadError::Refused { error: EIO, .. } | LoadError::Violation(Violation::Lost { .. })) => {
                assert!(!is_flushed, "C4: a flush succeeds after acknowledged writes were lost");
            }
            Err(other) => panic!("the client is told with EIO or goes on: {other}"),
        }
    }
    if is_flushed {
        loads.judge_acknowledged(cluster);
    }
    cluster.kill_export().works("kill the export");
    cluster.export(VOLUME).works("export after the cut");
    loads.judge(cluster);
    (report, !is_flushed)
}

/// All that runs stops at once.
pub(crate) fn cut_everything(cluster: &mut Cluster, disks: &mut Disks, loads: &mut Loads) -> CutReport {
    let (_, report) = loads.run(cluster, |cluster, watch| {
        assert!(watch.advances(ANSWERS), "the load does not advance");
        cluster.kill_export().works("kill the export");
        disks.cut(cluster, &[0, 1, 2, 3])
    });
    cluster.start_all().works("start after the cut");
    cluster.export(VOLUME).works("export after the cut");
    loads.judge(cluster);
    report
}
