//! What can happen, how it is made to happen, and how it is mended.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hw_tests::cluster::Cluster;
use hw_tests::deadline::{let_pass, poll_until};
use hw_tests::forgetting_disk::Pace;
use hw_tests::network::Network;
use hw_tests::seeded::Seeded;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::power::Disks;
use crate::scene::{PATIENCE, Works};

/// Chunk servers.
const SERVERS: u64 = 3;
/// Place of the metadata server among disks and hosts.
const MDS: usize = SERVERS as usize;
/// Place of the client among hosts.
const CLIENT: usize = MDS + 1;
/// What fills a disk.
const BALLAST: &str = "ballast";
/// Between two attempts to remove a chunk server.
const RETRY: Duration = Duration::from_millis(500);
/// Bytes of a damaged place.
const SECTOR: u64 = 512;
/// A chunk's block.
const BLOCK: u64 = 4096;

/// Something that happens. Numbers are places of chunk servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Kill(usize),
    KillAll,
    Stop(usize),
    Pause(usize),
    PauseTwo(usize),
    Power(usize),
    Cut(usize),
    CutFromClient(usize),
    Mute(usize),
    CutFromEachOther(usize),
    Fill(usize),
    /// Of the one server whose journal has a disk of its own: its other disk takes nothing...
    Freeze,
    /// ...or a write in this time, so that the journal fills.
    JournalFull(Duration),
    Rot(usize),
    Lose(usize),
    MdsKill,
    MdsPause,
    MdsPower,
    MdsCut,
    ClientPause,
    ClientCut,
}

impl Fault {
    /// One that this world can have.
    pub(super) fn draw(seeded: &mut Seeded, world: &World) -> Self {
        loop {
            let server = seeded.below(SERVERS) as usize;
            let fault = match seeded.below(46) {
                0..6 => Self::Kill(server),
                6..8 => Self::KillAll,
                8..10 => Self::Stop(server),
                10..15 => Self::Pause(server),
                15 => Self::PauseTwo(server),
                16..20 => Self::Power(server),
                20..23 => Self::Cut(server),
                23..25 => Self::CutFromClient(server),
                25 => Self::Mute(server),
                26 => Self::CutFromEachOther(server),
                27..29 => Self::Fill(server),
                29..31 => Self::Rot(server),
                31..33 => Self::MdsKill,
                33..35 => Self::MdsPause,
                35 => Self::MdsPower,
                36 => Self::MdsCut,
                37..39 => Self::ClientPause,
                39 => Self::ClientCut,
                40..42 => Self::Freeze,
                42..44 => Self::JournalFull(Duration::from_millis(5 + seeded.below(40))),
                _ => Self::Lose(server),
            };
            let can_be = match fault {
                // Never where another copy may be damaged, too.
                Self::Rot(server) => world.rotten.is_none_or(|first| first == server),
                _ => !fault.is_of_network() || world.network.is_some(),
            };
            if can_be {
                return fault;
            }
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::KillAll => "kill all",
            Self::Stop(_) => "stop",
            Self::Pause(_) => "pause",
            Self::PauseTwo(_) => "pause two",
            Self::Power(_) => "power",
            Self::Cut(_) => "cut",
            Self::CutFromClient(_) => "cut from client",
            Self::Mute(_) => "mute",
            Self::CutFromEachOther(_) => "cut from each other",
            Self::Fill(_) => "full disk",
            Self::Freeze => "frozen disk",
            Self::JournalFull(_) => "full journal",
            Self::Rot(_) => "rot",
            Self::Lose(_) => "disk lost",
            Self::MdsKill => "MDS kill",
            Self::MdsPause => "MDS pause",
            Self::MdsPower => "MDS power",
            Self::MdsCut => "MDS cut",
            Self::ClientPause => "client pause",
            Self::ClientCut => "client cut",
        }
    }

    fn is_of_network(self) -> bool {
        matches!(
            self,
            Self::Cut(_)
                | Self::CutFromClient(_)
                | Self::Mute(_)
                | Self::CutFromEachOther(_)
                | Self::MdsCut
                | Self::ClientCut
        )
    }

    fn is_of_mds(self) -> bool {
        matches!(self, Self::MdsKill | Self::MdsPause | Self::MdsPower | Self::MdsCut)
    }

    pub(super) fn is_of_client(self) -> bool {
        matches!(self, Self::ClientPause | Self::ClientCut)
    }

    /// Whether it should meet replicas that are all there.
    pub(super) fn wants_all(self) -> bool {
        self.loses_data() || matches!(self, Self::Freeze | Self::JournalFull(_))
    }

    /// Whether a replica may lose what only the others have then.
    pub(super) fn loses_data(self) -> bool {
        matches!(self, Self::Power(_) | Self::Rot(_) | Self::Lose(_))
    }

    /// Whether both may happen at once: to different parts, and no two chunk servers lose what the other should have.
    pub(super) fn goes_with(self, other: Self) -> bool {
        let part = |fault: Self| (fault.is_of_mds(), fault.is_of_client());
        part(self) != part(other)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cs = |index: &usize| format!("cs{}", index + 1);
        match self {
            Self::Kill(index) => write!(f, "kill -9 of {}", cs(index)),
            Self::KillAll => f.write_str("kill -9 of all chunk servers"),
            Self::Stop(index) => write!(f, "SIGTERM of {}", cs(index)),
            Self::Pause(index) => write!(f, "SIGSTOP of {}", cs(index)),
            Self::PauseTwo(index) => write!(f, "SIGSTOP of all chunk servers but {}", cs(index)),
            Self::Power(index) => write!(f, "{} loses power", cs(index)),
            Self::Cut(index) => write!(f, "{} is cut off from everybody", cs(index)),
            Self::CutFromClient(index) => write!(f, "{} is cut off from the client", cs(index)),
            Self::Mute(index) => write!(f, "nobody hears {}", cs(index)),
            Self::CutFromEachOther(index) => write!(f, "{} is cut off from other chunk servers", cs(index)),
            Self::Fill(index) => write!(f, "the disk of {} is full", cs(index)),
            Self::Freeze => f.write_str("the disk behind a journal is frozen"),
            Self::JournalFull(pause) => {
                write!(f, "a journal fills: the disk behind it takes a write in {} ms", pause.as_millis())
            }
            Self::Rot(index) => write!(f, "sectors of {} rot", cs(index)),
            Self::Lose(index) => write!(f, "the disk of {} is lost", cs(index)),
            Self::MdsKill => f.write_str("kill -9 of the metadata server"),
            Self::MdsPause => f.write_str("SIGSTOP of the metadata server"),
            Self::MdsPower => f.write_str("the metadata server loses power"),
            Self::MdsCut => f.write_str("the metadata server is cut off"),
            Self::ClientPause => f.write_str("SIGSTOP of the client"),
            Self::ClientCut => f.write_str("the client is cut off"),
        }
    }
}

/// Where it happens.
pub(super) struct World {
    pub(super) disks: Disks,
    pub(super) network: Option<Arc<Network>>,
    /// The one chunk server whose sectors rot in this run.
    pub(super) rotten: Option<usize>,
    /// Numbers of the chunk servers in their places.
    pub(super) ids: Vec<u32>,
    /// That of the next one.
    pub(super) newest: u32,
    /// The place whose disk is empty.
    pub(super) lost: Option<usize>,
}

impl World {
    /// Makes it happen.
    pub(super) fn strike(&mut self, fault: Fault, cluster: &mut Cluster, seeded: &mut Seeded) {
        match fault {
            Fault::Kill(index) => cluster.servers[index].kill().works("kill -9"),
            Fault::KillAll => cluster.servers.iter_mut().for_each(|server| server.kill().works("kill -9")),
            Fault::Stop(index) => cluster.servers[index].stop().works("SIGTERM"),
            Fault::Pause(index) => cluster.servers[index].pause().works("SIGSTOP"),
            Fault::PauseTwo(spared) => {
                let others = cluster.servers.iter().enumerate().filter(|(index, _)| *index != spared);
                others.for_each(|(_, server)| server.pause().works("SIGSTOP"));
            }
            Fault::Power(index) => {
                self.disks.cut(cluster, &[index]);
            }
            Fault::MdsPower => {
                self.disks.cut(cluster, &[MDS]);
            }
            Fault::MdsKill => cluster.mds.kill().works("kill -9"),
            Fault::MdsPause => cluster.mds.pause().works("SIGSTOP"),
            Fault::ClientPause => cluster.pause_export().works("SIGSTOP"),
            Fault::Fill(index) => fill(&self.disks.point(index).join(BALLAST)),
            Fault::Freeze => self.disks.set_pace_behind_journal(Pace::Frozen),
            Fault::JournalFull(pause) => self.disks.set_pace_behind_journal(Pace::Slow(pause)),
            Fault::Rot(index) => {
                self.rotten = Some(index);
                cluster.servers[index].kill().works("kill -9");
                rot(&cluster.servers[index].repository().join("chunks"), seeded);
            }
            Fault::Lose(index) => {
                self.disks.replace(cluster, index);
                self.lost = Some(index);
            }
            Fault::Cut(_)
            | Fault::CutFromClient(_)
            | Fault::Mute(_)
            | Fault::CutFromEachOther(_)
            | Fault::MdsCut
            | Fault::ClientCut => self.cut(fault),
        }
    }

    fn cut(&self, fault: Fault) {
        let network = self.network.as_ref().expect("only where there is one");
        let both = |one, other| network.cut(one, other).and_then(|()| network.cut(other, one));
        let others = |host: usize| (0..network.hosts()).filter(move |other| *other != host);
        let cut = match fault {
            Fault::CutFromClient(host) => both(host, CLIENT),
            Fault::Mute(host) => others(host).try_for_each(|other| network.cut(host, other)),
            Fault::CutFromEachOther(host) => {
                others(host).filter(|other| *other < MDS).try_for_each(|other| both(host, other))
            }
            Fault::MdsCut => network.isolate(MDS),
            Fault::ClientCut => network.isolate(CLIENT),
            Fault::Cut(host) => network.isolate(host),
            other => unreachable!("{other} is none of the network"),
        };
        cut.expect("a rule of the network");
    }

    /// Mends all there is to mend, and waits until everything serves.
    pub(super) fn mend(&mut self, cluster: &mut Cluster) {
        self.disks.set_pace_behind_journal(Pace::Full);
        if let Some(network) = &self.network {
            network.heal().expect("rules of the network");
        }
        for index in 0..SERVERS as usize {
            match std::fs::remove_file(self.disks.point(index).join(BALLAST)) {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
            }
        }
        cluster.mds.resume().works("SIGCONT");
        cluster.servers.iter().for_each(|server| server.resume().works("SIGCONT"));
        cluster.resume_export().works("SIGCONT");
        if let Some(index) = self.lost.take() {
            self.replace(cluster, index);
        }
        cluster.start_all().works("start");
    }

    /// A new chunk server takes the place of one whose disk is lost, which is removed.
    fn replace(&mut self, cluster: &mut Cluster, index: usize) {
        if cluster.mds.pid().is_none() {
            cluster.mds.start().and_then(|()| cluster.mds.ready()).works("start");
        }
        cluster.remake_server(index).works("make-cs");
        let old = self.ids[index].to_string();
        self.ids[index] = self.newest;
        self.newest += 1;
        // Refused until its term has ended.
        let removed = poll_until(PATIENCE, || {
            let_pass(RETRY);
            cluster.try_vstorage(&["rm-cs", "-f", &old]).works("rm-cs").succeeded().then_some(())
        });
        assert!(removed.is_some(), "CS#{old} cannot be removed");
    }
}

/// Takes all room there is.
fn fill(path: &Path) {
    let file = File::create(path).expect("a file");
    let (mut end, mut piece) = (0, 64 << 20);
    while piece >= BLOCK {
        match fallocate(&file, FallocateFlags::empty(), end, piece) {
            Ok(()) => end += piece,
            Err(Errno::NOSPC) => piece /= 2,
            Err(error) => panic!("cannot fill {}: {error}", path.display()),
        }
    }
}

/// Damages a few sectors that hold something, in files of chunks.
fn rot(dir: &Path, seeded: &mut Seeded) {
    let below = |dir: &Path| {
        let entries = std::fs::read_dir(dir).expect("a directory of chunks");
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<PathBuf>>()
    };
    let mut files: Vec<PathBuf> = below(dir).iter().flat_map(|part| below(part)).collect();
    // Those with more to their names are being deleted.
    files.retain(|file| file.extension().is_none());
    files.sort();
    for _ in 0..1 + seeded.below(3) {
        let path = &files[seeded.below(files.len() as u64) as usize];
        let file = File::options().read(true).write(true).open(path).expect("a chunk");
        let sectors = file.metadata().expect("attributes").len() / SECTOR;
        let mut sector = [0; SECTOR as usize];
        // Most of a chunk may be a hole.
        for _ in 0..10_000 {
            let at = seeded.below(sectors) * SECTOR;
            file.read_exact_at(&mut sector, at).expect("a sector");
            if sector.iter().any(|byte| *byte != 0) {
                seeded.fill(&mut sector);
                file.write_all_at(&sector, at).expect("written");
                break;
            }
        }
        file.sync_all().expect("synced");
    }
}
