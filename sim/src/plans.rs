//! What the faults of a run are mostly about. A plan other than the drawn one looks for one thing, so that a deliberate bug of that
//! kind shows within a few seeds (`sim/tests/it`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use rt::sim::control;
use rt::sim::{HostId, ProcessId};
use wire::cluster::SetConfig;

use crate::cluster::{CHUNK_BYTES, CHUNK_SERVERS, CHUNKS_DIR, CLIENTS, Cluster, Part, REPLICAS_MIN};
use crate::faults::{self, after};
use crate::oracle::{Oracle, SECTOR};

/// Blocks of a chunk file.
const BLOCK: u64 = 4096;
/// How long a client is kept from the metadata server at most: its lease is over then, and another one has its volume.
const SUCCESSION_MAX: Duration = Duration::from_secs(15);
/// The longest wait for a write that nobody has flushed to be in the files of two chunk servers.
const UNFLUSHED_MAX: Duration = Duration::from_secs(10);
/// How many of these are looked for, the newest ones.
const UNFLUSHED_TRIED: usize = 8;
/// How long a client is given to find a damaged block, or the verifier to have it repaired.
const REPAIR_TIME: Duration = Duration::from_secs(8);

/// What the faults of a run are mostly about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Plan {
    /// The seed decides.
    #[default]
    Drawn,
    /// Who may write (C1, C2).
    Succession,
    /// As drawn, and a disk fails a write or a flush at any moment. Some of these runs wait for ever.
    Devices,
    /// What is left when clients die in the middle of writes (C5).
    Remains,
    /// Replicas that leave and return (C3, C6).
    Absence,
    /// Clients that sleep with answers on their way until others have their volumes (C1).
    Sleep,
    /// Chunk servers that restart while a client goes on whose lease is over (C2).
    Fences,
    /// Files that are deleted while they are open (C9).
    Deletion,
    /// A block is damaged on all members but one (C8).
    Damage,
    /// Members lose their power as soon as they have a new version (C7).
    Versions,
    /// A chunk server restarts with writes that no other member has got, and their client dies (C5).
    Doubts,
    /// A block with a write that nobody has flushed is damaged on one of two members, and the other one loses its power (C4).
    Decay,
}

impl Plan {
    /// Whether its faults are not those of the drawn plan.
    #[must_use]
    pub fn is_special(self) -> bool {
        !matches!(self, Self::Drawn | Self::Succession | Self::Devices)
    }

    /// One round of a client in so many ends with a file of its own that is deleted while it is open.
    #[must_use]
    pub fn scratch_one_in(self) -> u64 {
        match self {
            Self::Deletion => 1,
            Self::Drawn | Self::Succession | Self::Devices => 12,
            Self::Remains
            | Self::Absence
            | Self::Sleep
            | Self::Fences
            | Self::Damage
            | Self::Versions
            | Self::Doubts
            | Self::Decay => u64::MAX,
        }
    }
}

/// One fault of a special plan.
pub async fn one(cluster: &Rc<Cluster>, plan: Plan) {
    match plan {
        Plan::Drawn | Plan::Succession | Plan::Devices => {}
        Plan::Remains => remains(cluster).await,
        Plan::Absence => absence(cluster).await,
        Plan::Sleep => sleep(cluster).await,
        Plan::Fences => fences(cluster).await,
        Plan::Deletion => faults::one_mild(cluster),
        Plan::Damage => damage(cluster).await,
        Plan::Versions => versions(cluster).await,
        Plan::Doubts => doubts(cluster).await,
        Plan::Decay => decay(cluster).await,
    }
}

fn some_cs() -> usize {
    rt::random::below(CHUNK_SERVERS as u64) as usize
}

fn some_client() -> usize {
    rt::random::below(CLIENTS as u64) as usize
}

fn cs_hosts(cluster: &Cluster) -> Vec<HostId> {
    (0..CHUNK_SERVERS).map(|n| cluster.host(Part::Cs(n))).collect()
}

/// A client dies while one chunk server hears of its writes late.
async fn remains(cluster: &Rc<Cluster>) {
    let client = some_client();
    let (host, slow) = (cluster.host(Part::Client(client)), cluster.host(Part::Cs(some_cs())));
    control::delay(host, slow, Duration::from_millis(200), Duration::from_millis(400));
    for _ in 0..100 {
        if cluster.shared.changing.get() > 0 {
            break;
        }
        rt::time::sleep(Duration::from_millis(1)).await;
    }
    rt::time::sleep(Duration::from_millis(2 + rt::random::below(20))).await;
    let Some(process) = cluster.process(Part::Client(client)) else { return };
    if control::kill(process) {
        after(cluster, Duration::from_millis(rt::random::below(300)), move |cluster| {
            faults::restart(cluster, Part::Client(client));
        });
    }
    rt::time::sleep(Duration::from_secs(1)).await;
}

/// A chunk server is out of reach, or dead, for some seconds; sometimes the metadata server is, too, for those who would report it.
async fn absence(cluster: &Rc<Cluster>) {
    let n = some_cs();
    let away = Duration::from_millis(700 + rt::random::below(3_000));
    let clients: Vec<HostId> = (0..CLIENTS).map(|n| cluster.host(Part::Client(n))).collect();
    let (cs, mds) = (cluster.host(Part::Cs(n)), cluster.host(Part::Mds));
    if rt::random::below(2) == 0 {
        let Some(process) = cluster.process(Part::Cs(n)) else { return };
        if control::kill(process) {
            after(cluster, away, move |cluster| faults::restart(cluster, Part::Cs(n)));
        }
    } else {
        for &client in &clients {
            control::partition(client, cs);
            control::reset_connections(client, cs);
        }
        let clients = clients.clone();
        after(cluster, away, move |_| clients.iter().for_each(|&client| control::heal(client, cs)));
    }
    if rt::random::below(2) == 0 {
        for &client in &clients {
            control::partition(client, mds);
        }
        let late = away + Duration::from_millis(rt::random::below(1_500));
        after(cluster, late, move |_| clients.iter().for_each(|&client| control::heal(client, mds)));
    }
    rt::time::sleep(away + Duration::from_millis(rt::random::below(6_000))).await;
}

/// A client sleeps with answers on their way until another one has its volume.
async fn sleep(cluster: &Rc<Cluster>) {
    while cluster.shared.changing.get() == 0 && !(0..CLIENTS).all(|n| cluster.has_finished(n)) {
        rt::time::sleep(Duration::from_micros(100)).await;
    }
    rt::time::sleep(Duration::from_micros(rt::random::below(600))).await;
    let Some((client, process)) = asleep(cluster, some_client()).await else {
        return rt::time::sleep(Duration::from_millis(200)).await;
    };
    rt::sim::trace(|| format!("client {client} wakes up"));
    control::resume(process);
    rt::time::sleep(Duration::from_secs(2)).await;
}

/// A client sleeps in the middle of its writes until another one has its volume; then all chunk servers restart at once, and it wakes
/// up. It hears nothing of the metadata server for a while longer.
async fn fences(cluster: &Rc<Cluster>) {
    let client = some_client();
    let (host, mds) = (cluster.host(Part::Client(client)), cluster.host(Part::Mds));
    control::partition(host, mds);
    if let Some((_, process)) = asleep(cluster, client).await {
        for n in 0..CHUNK_SERVERS {
            if let Some(process) = cluster.process(Part::Cs(n))
                && control::kill(process)
            {
                faults::restart(cluster, Part::Cs(n));
            }
        }
        control::resume(process);
        rt::time::sleep(Duration::from_secs(3)).await;
    }
    control::heal(host, mds);
}

/// Stops a client until another one has its volume, or for a while; `None` if it does not run or has none.
async fn asleep(cluster: &Rc<Cluster>, client: usize) -> Option<(usize, ProcessId)> {
    let volume = cluster.shared.open.borrow()[client]?;
    let process = cluster.process(Part::Client(client))?;
    for (other, wanted) in cluster.shared.wanted.borrow_mut().iter_mut().enumerate().take(CLIENTS) {
        if other != client {
            *wanted = Some(volume);
        }
    }
    let before = cluster.shared.epochs.borrow()[volume];
    if !control::is_alive(process) || !control::pause(process) {
        return None;
    }
    let end = rt::time::now() + SUCCESSION_MAX;
    while cluster.shared.epochs.borrow()[volume] == before && rt::time::now() < end {
        rt::time::sleep(Duration::from_micros(200)).await;
    }
    Some((client, process))
}

/// A chunk server dies, so that the others get versions without it, and one of them loses its power in that moment.
async fn versions(cluster: &Rc<Cluster>) {
    let (away, next) = (some_cs(), 1 + rt::random::below(CHUNK_SERVERS as u64 - 1) as usize);
    let Some(process) = cluster.process(Part::Cs(away)) else { return };
    let installs = || control::coverage().get("engine.installs").copied().unwrap_or(0);
    let before = installs();
    if !control::kill(process) {
        return;
    }
    after(cluster, Duration::from_secs(2), move |cluster| faults::restart(cluster, Part::Cs(away)));
    let end = rt::time::now() + Duration::from_secs(3);
    while installs() == before && rt::time::now() < end {
        rt::time::sleep(Duration::from_micros(100)).await;
    }
    rt::time::sleep(Duration::from_micros(rt::random::below(2_000))).await;
    faults::power_cut(cluster, &[Part::Cs((away + next) % CHUNK_SERVERS)]);
    rt::time::sleep(Duration::from_secs(12)).await;
}

/// A client reaches a single chunk server and has it write; that one restarts, and has time to ask what is in doubt; then the client dies.
async fn doubts(cluster: &Rc<Cluster>) {
    let (client, n) = (some_client(), some_cs());
    let host = cluster.host(Part::Client(client));
    let beyond: Vec<HostId> = cs_hosts(cluster)
        .into_iter()
        .filter(|other| *other != cluster.host(Part::Cs(n)))
        .chain([cluster.host(Part::Mds)])
        .collect();
    for _ in 0..100 {
        if cluster.shared.changing.get() > 0 {
            break;
        }
        rt::time::sleep(Duration::from_millis(1)).await;
    }
    for &other in &beyond {
        control::partition(host, other);
    }
    // What it writes now ends nowhere.
    rt::time::sleep(Duration::from_millis(30 + rt::random::below(100))).await;
    if cluster.process(Part::Cs(n)).is_some_and(control::kill) {
        faults::restart(cluster, Part::Cs(n));
        rt::time::sleep(Duration::from_millis(500 + rt::random::below(1_500))).await;
    }
    if cluster.process(Part::Client(client)).is_some_and(control::kill) {
        after(cluster, Duration::from_millis(rt::random::below(300)), move |cluster| {
            faults::restart(cluster, Part::Client(client));
        });
    }
    for &other in &beyond {
        control::heal(host, other);
    }
    rt::time::sleep(Duration::from_secs(2)).await;
}

/// A write is on two members and not flushed: one of them damages it, and the other one loses its power in that moment.
async fn decay(cluster: &Rc<Cluster>) {
    for volume in 0..CLIENTS {
        faults::set_replicas(cluster, volume, REPLICAS_MIN as u64);
    }
    let end = rt::time::now() + UNFLUSHED_MAX;
    while rt::time::now() < end {
        rt::time::sleep(Duration::from_micros(rt::random::below(2_000))).await;
        let Some((path, offset, mut holders)) = unflushed_block(cluster) else { continue };
        let damaged = holders.swap_remove(rt::random::below(holders.len() as u64) as usize);
        let host = |n: &usize| cluster.host(Part::Cs(*n));
        let flushed = |n: &usize| control::durable_content(host(n), &path, offset, BLOCK as usize);
        let left = |n: &usize| control::visible_content(host(n), &path, offset, BLOCK as usize);
        let before: Vec<_> = holders.iter().map(flushed).collect();
        let others: Vec<Part> = holders.iter().copied().map(Part::Cs).collect();
        faults::power_cut(cluster, &others);
        // Where a part of the write has survived, nobody could tell what it is but the one that is to be damaged.
        let is_gone = |(n, before)| matches!((before, left(n)), (Ok(before), Ok(left)) if before == left);
        if holders.iter().zip(before).all(is_gone) {
            let _hole = control::rot(host(&damaged), &path, offset);
        }
        return rt::time::sleep(REPAIR_TIME * 2).await;
    }
}

/// A block with a write that was acknowledged and not flushed, where several chunk servers have it in the file of its chunk; which ones.
fn unflushed_block(cluster: &Cluster) -> Option<(PathBuf, u64, Vec<usize>)> {
    let mut found: BTreeMap<(PathBuf, u64), Vec<usize>> = BTreeMap::new();
    for (volume, oracle) in cluster.shared.oracles.borrow().iter().enumerate() {
        for (id, sector) in oracle.unflushed().take(UNFLUSHED_TRIED) {
            let at = sector * SECTOR % CHUNK_BYTES;
            let block = at / BLOCK * BLOCK;
            if control::damages().iter().any(|damage| damage.bytes.contains(&block)) {
                // Twice in one place is one too many.
                continue;
            }
            for n in 0..CHUNK_SERVERS {
                let host = cluster.host(Part::Cs(n));
                let holds = |path: &PathBuf| {
                    let content = control::visible_content(host, path, at, SECTOR as usize);
                    content.is_ok_and(|content| content == Oracle::content(volume as u64, sector, id))
                };
                let files = control::files_under(host, CHUNKS_DIR).into_iter().map(|(path, _)| path);
                files.filter(holds).for_each(|path| found.entry((path, block)).or_default().push(n));
            }
        }
    }
    found
        .into_iter()
        .map(|((path, block), holders)| (path, block, holders))
        .find(|(.., holders)| holders.len() > 1)
}

/// Has chunks verified, and compared, all the time.
pub(crate) fn verify_often(cluster: &Cluster) {
    cluster.operate(async move |master| {
        let request = SetConfig { key: "mds.wd.verify_chunks".into(), value: Some("240".into()) };
        let _unanswered = master.ask(&request, rt::time::now() + Duration::from_secs(5)).await;
    });
}

/// A block is damaged on all members of its chunk but one; clients and the verifier meet it.
async fn damage(cluster: &Rc<Cluster>) {
    verify_often(cluster);
    let hosts = cs_hosts(cluster);
    let held = |host: HostId| -> Vec<(PathBuf, u64)> {
        control::files_under(host, CHUNKS_DIR).into_iter().filter(|(_, len)| *len > 0).collect()
    };
    let first = some_cs();
    let files = held(hosts[first]);
    if files.is_empty() {
        return rt::time::sleep(Duration::from_millis(200)).await;
    }
    let (path, len) = &files[rt::random::below(files.len() as u64) as usize];
    let mut holders: Vec<HostId> =
        hosts.iter().copied().filter(|host| held(*host).iter().any(|(other, _)| other == path)).collect();
    let whole = rt::random::below(holders.len() as u64) as usize;
    holders.remove(whole);
    for _ in 0..4 {
        // A hole has no bits to flip.
        let block = (0..64).map(|_| rt::random::below(len / BLOCK) * BLOCK).find(|offset| {
            holders.first().is_some_and(|host| control::rot(*host, path, *offset).unwrap_or(false))
        });
        let Some(offset) = block else { continue };
        for host in &holders[1..] {
            let _hole = control::rot(*host, path, offset);
        }
    }
    rt::time::sleep(REPAIR_TIME).await;
}
