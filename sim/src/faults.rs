//! Faults: what strikes, when, and how it ends.

use std::rc::Rc;
use std::time::Duration;

use link::Master;
use rt::sim::control::{self, PeerView};
use rt::sim::{DiskFault, DiskFaultKind, HostId};
use wire::cluster::{ClusterStat, GetEvents, RemoveAction, RemoveCs, ServiceStatus};
use wire::lease::{Revoke, RevokeTarget};
use wire::namespace::{Attrs, SetAttr};

use crate::cluster::{CHUNK_SERVERS, CHUNKS_DIR, CLIENTS, CS_DIR, Cluster, Part, REPLICAS_MIN};
use crate::plans::{self, Plan};
use crate::workload;

/// A client is cut off for at least this long: longer than the lease that it has in these runs...
const ISOLATION_MIN: Duration = Duration::from_millis(9_000);
/// ...and at most this long: shorter than its connections live.
const ISOLATION_MAX: Duration = Duration::from_millis(14_500);
/// How long it takes until others have the replicas of a chunk server whose disk has failed.
const REBUILT: Duration = Duration::from_secs(27);
/// Bytes that are damaged on one chunk server only.
const REGION: u64 = 64 << 10;
/// The longest wait for a cluster to get on between two faults.
const PROGRESS_MAX: Duration = Duration::from_secs(20);

/// Strikes until `count` faults have struck and the clients are done, or only until the count is reached.
pub async fn strike(cluster: &Rc<Cluster>, count: usize, plan: Plan) {
    if plan.is_special() {
        for _ in 0..count {
            progress(cluster, 20 + rt::random::below(60)).await;
            plans::one(cluster, plan).await;
        }
        return;
    }
    // Some runs are mostly about who may write (C1, C2).
    let succession = rt::random::below(4) == 0 || plan == Plan::Succession;
    let mut loss = match rt::random::below(6) {
        _ if plan == Plan::Devices => Loss::Device,
        0 => Loss::Disk,
        1 => Loss::Device,
        2 | 3 => Loss::Operator,
        _ => Loss::None,
    };
    // One copy is enough to lose: what is damaged must be whole elsewhere.
    cluster.shared.undamaged.set(matches!(loss, Loss::Disk | Loss::Device));
    let damage = if rt::random::below(2) == 0 { Damage::OneServer } else { Damage::Regions };
    let at = rt::random::below(count.max(1) as u64) as usize;
    if loss == Loss::Device && plan != Plan::Devices {
        loss = Loss::None;
        progress(cluster, rt::random::below(150)).await;
        fail_device(cluster);
        gently(cluster).await;
    }
    for number in 0..count {
        if number == at {
            match std::mem::take(&mut loss) {
                Loss::Disk => lose_disk(cluster),
                Loss::Operator => remove_server(cluster),
                Loss::Device => fail_device(cluster),
                Loss::None => {}
            }
        }
        if rt::random::below(3) == 0 {
            rt::time::sleep(Duration::from_millis(50 + rt::random::below(1500))).await;
        } else {
            progress(cluster, rt::random::below(150)).await;
        }
        for _ in 0..rt::random::below(200) {
            // Most faults hurt most in the middle of a change.
            if cluster.shared.changing.get() > 0 {
                rt::time::sleep(Duration::from_micros(rt::random::below(300))).await;
                break;
            }
            rt::time::sleep(Duration::from_micros(100)).await;
        }
        if succession && rt::random::below(3) > 0 {
            isolate(cluster);
            rt::time::sleep(ISOLATION_MAX).await;
            continue;
        }
        one(cluster, damage).await;
        if rt::random::below(3) == 0 {
            // Sometimes two at once.
            one(cluster, damage).await;
        }
    }
}

/// Waits until the clients have got some further operations done, so that something is at stake, or for a while.
async fn progress(cluster: &Cluster, operations: u64) {
    let goal = cluster.shared.operations.get() + operations;
    let end = rt::time::now() + PROGRESS_MAX;
    while cluster.shared.operations.get() < goal && rt::time::now() < end {
        rt::time::sleep(Duration::from_millis(10)).await;
    }
}

fn some_part() -> Part {
    match rt::random::below(8) {
        0 => Part::Mds,
        1..6 => Part::Cs(rt::random::below(CHUNK_SERVERS as u64) as usize),
        _ => Part::Client(rt::random::below(CLIENTS as u64) as usize),
    }
}

fn some_cs() -> usize {
    rt::random::below(CHUNK_SERVERS as u64) as usize
}

fn some_host(cluster: &Cluster) -> HostId {
    cluster.host(some_part())
}

async fn one(cluster: &Rc<Cluster>, damaged: Damage) {
    match rt::random::below(28) {
        0..5 => kill(cluster, some_part()),
        5..7 => pause(cluster, some_part()),
        7..10 => {
            let part = some_part();
            power_cut(cluster, &[part]);
        }
        10 => {
            // Everything at once.
            let all: Vec<Part> = std::iter::once(Part::Mds).chain((0..CHUNK_SERVERS).map(Part::Cs)).collect();
            power_cut(cluster, &all);
        }
        11 => {
            let all: Vec<Part> = (0..CHUNK_SERVERS).map(Part::Cs).collect();
            power_cut(cluster, &all);
        }
        12..14 => {
            let (a, b) = (some_host(cluster), some_host(cluster));
            if a != b {
                control::partition(a, b);
                after(cluster, Duration::from_millis(rt::random::below(15_000)), move |_| {
                    control::heal(a, b)
                });
            }
        }
        14 => {
            let (a, b) = (some_host(cluster), some_host(cluster));
            if a != b {
                control::reset_connections(a, b);
            }
        }
        15 => {
            let (a, b) = (some_host(cluster), some_host(cluster));
            if a != b {
                control::half_open(a, b);
            }
        }
        16 => {
            let (a, b) = (some_host(cluster), some_host(cluster));
            let extra = Duration::from_millis(rt::random::below(500));
            control::delay(a, b, extra, Duration::from_secs(5));
        }
        17..19 => damage(cluster, damaged),
        19 => fill(cluster, some_cs()),
        20..22 => isolate(cluster),
        22..24 => change_replicas(cluster),
        24 => revoke(cluster),
        25 => overtake(cluster),
        26 => fill_and_leave(cluster),
        _ => {
            let jump = rt::random::below(7_200_000) as i64 - 3_600_000;
            control::shift_wall_clock(some_host(cluster), jump);
        }
    }
}

/// A fault that takes nobody's lease: only processes of servers die, and start again.
pub fn one_mild(cluster: &Rc<Cluster>) {
    match rt::random::below(4) {
        0 => kill(cluster, Part::Mds),
        1 => kill(cluster, Part::Cs(some_cs())),
        _ => {}
    }
}

/// Does something later, from a task of the controller.
pub fn after(cluster: &Rc<Cluster>, pause: Duration, action: impl FnOnce(&Rc<Cluster>) + 'static) {
    let cluster = Rc::clone(cluster);
    rt::spawn(async move {
        rt::time::sleep(pause).await;
        action(&cluster);
    });
}

fn restart_later(cluster: &Rc<Cluster>, part: Part) {
    after(cluster, Duration::from_millis(rt::random::below(6_000)), move |cluster| restart(cluster, part));
}

/// Starts a part again if it is down and its host has power.
pub fn restart(cluster: &Rc<Cluster>, part: Part) {
    let done = matches!(part, Part::Client(n) if cluster.has_finished(n));
    if !done && !cluster.is_dead(part) && !cluster.is_running(part) && control::is_powered(cluster.host(part))
    {
        cluster.start(part);
    }
}

fn kill(cluster: &Rc<Cluster>, part: Part) {
    if let Some(process) = cluster.process(part)
        && control::kill(process)
    {
        restart_later(cluster, part);
    }
}

fn pause(cluster: &Rc<Cluster>, part: Part) {
    if let Some(process) = cluster.process(part)
        && control::is_alive(process)
        && control::pause(process)
    {
        // Mostly short, sometimes longer than any lease.
        let pause =
            if rt::random::below(2) == 0 { rt::random::below(2_000) } else { rt::random::below(20_000) };
        after(cluster, Duration::from_millis(pause), move |_| {
            control::resume(process);
        });
    }
}

/// Some hosts lose their power, and have it again after a while.
pub fn power_cut(cluster: &Rc<Cluster>, parts: &[Part]) {
    let hosts: Vec<HostId> =
        parts.iter().map(|&part| cluster.host(part)).filter(|&host| control::is_powered(host)).collect();
    if hosts.is_empty() {
        return;
    }
    let view = if rt::random::below(2) == 0 { PeerView::Silence } else { PeerView::Reset };
    control::power_cut(&hosts, view);
    let now = rt::time::now().as_nanos();
    for part in parts.iter().filter(|part| matches!(part, Part::Cs(_))) {
        cluster.shared.cuts.borrow_mut().insert(cluster.host(*part), now);
    }
    let parts = parts.to_vec();
    after(cluster, Duration::from_millis(rt::random::below(8_000)), move |cluster| {
        for part in parts {
            let host = cluster.host(part);
            if !control::is_powered(host) {
                control::power_on(host);
            }
            restart_later(cluster, part);
        }
    });
}

/// What becomes of a chunk server for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Loss {
    /// Nothing.
    #[default]
    None,
    /// Its disk is lost.
    Disk,
    /// Its disk fails a write or a flush.
    Device,
    /// An operator removes it, and may think better of it.
    Operator,
}

/// A disk is lost with all that was on it: the others make its replicas anew.
fn lose_disk(cluster: &Rc<Cluster>) {
    rt::sim::hit("disk.lost");
    let n = some_cs();
    cluster.bury(n);
    power_cut(cluster, &[Part::Cs(n)]);
    // In some runs an operator knows, long before or after it counts as offline; in others he has to be told.
    if rt::random::below(2) == 0 {
        let patience = Duration::from_millis(rt::random::below(60_000));
        let address = cluster.cs_address(n);
        after(cluster, patience, move |cluster| give_up(cluster, address, false));
    }
    if rt::random::below(2) == 0 {
        after(cluster, Duration::from_millis(rt::random::below(25_000)), move |cluster| {
            let cluster = Rc::clone(cluster);
            rt::spawn(async move { cluster.replace(n).await });
        });
    }
}

/// An operator says that a chunk server will never be back: chunks may wait for what only it had (C10). If `told`, only after an event
/// has named it.
fn give_up(cluster: &Cluster, address: String, told: bool) {
    cluster.operate(async move |master| {
        let patience = || rt::time::now() + Duration::from_secs(20);
        // Refused as long as the metadata server has not noticed that it is gone.
        for _ in 0..120 {
            rt::time::sleep(Duration::from_secs(1)).await;
            let stat = master.ask(&ClusterStat {}, patience()).await.unwrap_or_default();
            let Some(lost) = stat.cs.iter().find(|cs| cs.addresses.contains(&address)) else { continue };
            if lost.status() == ServiceStatus::Dropped {
                return;
            }
            if told && !is_named(&master, lost.cs_id).await {
                continue;
            }
            let request = RemoveCs { cs_id: lost.cs_id, action: RemoveAction::Force.into() };
            if master.ask(&request, patience()).await.is_ok() {
                rt::sim::hit(if told { "operator.gives-up-as-told" } else { "operator.gives-up" });
                return;
            }
        }
    });
}

/// Whether an event says that chunks wait for a chunk server.
async fn is_named(master: &Master, cs: u64) -> bool {
    let newest = GetEvents { limit: 1000, newest: true, ..GetEvents::default() };
    let events = master.ask(&newest, rt::time::now() + Duration::from_secs(20)).await.unwrap_or_default();
    let name = format!("CS#{cs}");
    let mut waits = events.events.iter().filter(|event| event.code == "mds.last_memory_away");
    waits.any(|event| event.message.contains(&name))
}

/// A disk refuses a write or a flush: its chunk server takes itself out of service for good, whatever it is asked for afterwards
/// (C4), and the others make its replicas anew.
fn fail_device(cluster: &Rc<Cluster>) {
    let n = some_cs();
    cluster.doom(n);
    // From now on nothing is certain that is only here.
    cluster.shared.cuts.borrow_mut().insert(cluster.host(Part::Cs(n)), u64::MAX);
    let kind = if rt::random::below(2) == 0 { DiskFaultKind::WriteError } else { DiskFaultKind::FlushError };
    let fault = DiskFault::new(kind).on(CS_DIR).after(rt::random::below(40));
    control::disk_fault(cluster.host(Part::Cs(n)), CS_DIR, fault);
}

/// Faults for as long as others make the replicas of a disk anew. No other server may forget what it was about to do: a chunk at its
/// minimum that nobody has reconciled waits for the one that is gone, for ever (C5; the plan `devices` meets that).
async fn gently(cluster: &Rc<Cluster>) {
    for _ in 0..3 {
        match rt::random::below(4) {
            0 => kill(cluster, Part::Client(rt::random::below(CLIENTS as u64) as usize)),
            1 => isolate(cluster),
            2 => revoke(cluster),
            _ => {}
        }
        rt::time::sleep(REBUILT / 3).await;
    }
}

/// An operator takes a lease away from whoever has it.
fn revoke(cluster: &Rc<Cluster>) {
    rt::sim::hit("operator.revoke");
    let volume = rt::random::below(CLIENTS as u64) as usize;
    let path = workload::path(volume);
    let patience = Duration::from_secs(20);
    cluster.shared.oracles.borrow_mut()[volume].revoke(workload::now() + patience.as_nanos() as u64);
    cluster.operate(async move |master| {
        let request = Revoke { target: Some(RevokeTarget::Path(path)) };
        let _unanswered = master.ask(&request, rt::time::now() + patience).await;
    });
}

/// What a client sends for a moment is on its way for seconds: by then it has given that connection up for another one.
fn overtake(cluster: &Rc<Cluster>) {
    let client = cluster.host(Part::Client(rt::random::below(CLIENTS as u64) as usize));
    let extra = Duration::from_millis(1_000 + rt::random::below(11_000));
    control::delay(
        client,
        cluster.host(Part::Cs(some_cs())),
        extra,
        Duration::from_millis(rt::random::below(500)),
    );
}

/// A disk is full while another chunk server is away: there is nobody to give way to.
fn fill_and_leave(cluster: &Rc<Cluster>) {
    rt::sim::hit("disk.full-while-away");
    let (full, away) = (some_cs(), some_cs());
    fill(cluster, full);
    if full != away {
        kill(cluster, Part::Cs(away));
    }
}

fn remove_server(cluster: &Rc<Cluster>) {
    rt::sim::hit("operator.remove");
    let cancels = rt::random::below(2) == 0;
    let chosen = rt::random::below(CHUNK_SERVERS as u64);
    cluster.operate(async move |master| {
        let patience = || rt::time::now() + Duration::from_secs(20);
        let request = |action: RemoveAction| RemoveCs { cs_id: 1025 + chosen, action: action.into() };
        // Refused while too few are left that could take what is on it.
        let _refused = master.ask(&request(RemoveAction::Release), patience()).await;
        rt::time::sleep(Duration::from_millis(rt::random::below(10_000))).await;
        if cancels {
            let _refused = master.ask(&request(RemoveAction::Cancel), patience()).await;
        }
    });
}

/// An operator wants more or fewer replicas of a volume, never fewer than the minimum.
fn change_replicas(cluster: &Rc<Cluster>) {
    let volume = rt::random::below(CLIENTS as u64) as usize;
    set_replicas(cluster, volume, REPLICAS_MIN as u64 + rt::random::below(2));
}

/// An operator wants so many replicas of a volume.
pub fn set_replicas(cluster: &Rc<Cluster>, volume: usize, normal: u64) {
    let path = workload::path(volume);
    cluster.operate(async move |master| {
        let attrs = Attrs {
            replicas: Some(normal as u32),
            replicas_min: Some(REPLICAS_MIN as u32),
            ..Attrs::default()
        };
        let request = SetAttr { path, attrs, ..SetAttr::default() };
        let _unanswered = master.ask(&request, rt::time::now() + Duration::from_secs(20)).await;
    });
}

/// Where the damage of a run may be: each block must be whole on another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// Anywhere on the first chunk server.
    OneServer,
    /// On all of them, in regions of their own.
    Regions,
}

/// Damages data of a chunk server.
fn damage(cluster: &Cluster, damaged: Damage) {
    if cluster.shared.undamaged.get() {
        return;
    }
    let n = if damaged == Damage::OneServer { 0 } else { some_cs() };
    let host = cluster.host(Part::Cs(n));
    let files: Vec<_> =
        control::files_under(host, CHUNKS_DIR).into_iter().filter(|(_, len)| *len > 0).collect();
    if files.is_empty() {
        return;
    }
    let (path, len) = &files[rt::random::below(files.len() as u64) as usize];
    let (first, within) = match damaged {
        Damage::OneServer => (0, *len),
        Damage::Regions => {
            let stripe = rt::random::below((*len / REGION / CHUNK_SERVERS as u64).max(1));
            ((stripe * CHUNK_SERVERS as u64 + n as u64) * REGION, REGION)
        }
    };
    let kind = match rt::random::below(6) {
        1 if damaged == Damage::OneServer => DiskFaultKind::CorruptRead,
        2 if damaged == Damage::OneServer => DiskFaultKind::ReadError,
        3 if damaged == Damage::OneServer => DiskFaultKind::LostWrite,
        4 if damaged == Damage::OneServer => DiskFaultKind::BitRot,
        5 if damaged == Damage::OneServer => {
            cluster.shared.misdirected.set(true);
            DiskFaultKind::MisdirectedWrite
        }
        // What strikes an operation may strike beyond a region.
        _ => {
            // A hole has no bits to flip.
            let flips =
                |_: &u64| control::rot(host, path, first + rt::random::below(within)).unwrap_or(false);
            if (0..64).find(flips).is_some() && damaged == Damage::Regions {
                rt::sim::hit("disk.damaged-regions");
            }
            return;
        }
    };
    control::disk_fault(host, path, DiskFault::new(kind).on(path));
}

/// Keeps a client from everybody, slows it down or lets it sleep, about as long as its lease lasts: what it has sent comes after
/// another client has got its volume (C2).
fn isolate(cluster: &Rc<Cluster>) {
    let client = rt::random::below(CLIENTS as u64) as usize;
    let host = cluster.host(Part::Client(client));
    let held = cluster.shared.open.borrow()[client];
    for (other, wanted) in cluster.shared.wanted.borrow_mut().iter_mut().enumerate().take(CLIENTS) {
        if other != client {
            *wanted = held;
        }
    }
    let others: Vec<HostId> = parts().map(|part| cluster.host(part)).filter(|&other| other != host).collect();
    let lasting = ISOLATION_MIN + (ISOLATION_MAX - ISOLATION_MIN) * rt::random::below(100) as u32 / 100;
    let way = rt::random::below(4);
    if way == 0 {
        // It sleeps, and wakes up to answers of long ago.
        if let Some(process) = cluster.process(Part::Client(client))
            && control::is_alive(process)
            && control::pause(process)
        {
            rt::sim::hit("client.sleeps");
            after(cluster, lasting, move |_| {
                control::resume(process);
            });
        }
        return;
    }
    if way == 1 {
        for &other in &others {
            control::delay(host, other, lasting, lasting);
        }
        return;
    }
    for &other in &others {
        control::partition(host, other);
    }
    // Sometimes it hears from the metadata server a moment before it hears from the chunk servers.
    let mds = cluster.host(Part::Mds);
    let early = Duration::from_millis(if rt::random::below(2) == 0 { 0 } else { rt::random::below(500) });
    after(cluster, lasting - early, move |_| control::heal(host, mds));
    after(cluster, lasting, move |_| others.iter().for_each(|&other| control::heal(host, other)));
}

/// Fills a disk for a while.
fn fill(cluster: &Rc<Cluster>, n: usize) {
    let host = cluster.host(Part::Cs(n));
    control::occupy(host, CS_DIR, 4 << 30);
    after(cluster, Duration::from_millis(rt::random::below(10_000)), move |_| {
        control::occupy(host, CS_DIR, 0)
    });
}

/// Ends every fault: the network heals, disks have room, everything has power and runs.
pub async fn calm(cluster: &Rc<Cluster>) {
    // What was planned to happen later happens first.
    rt::time::sleep(Duration::from_secs(30)).await;
    control::heal_all();
    for part in parts() {
        let host = cluster.host(part);
        if !cluster.is_doomed(part) {
            control::clear_disk_faults(host);
        }
        if let Part::Cs(_) = part {
            control::occupy(host, CS_DIR, 0);
        }
        if let Part::Cs(n) = part
            && cluster.is_doomed(part)
        {
            give_up(cluster, cluster.cs_address(n), true);
        }
        if cluster.is_dead(part) {
            continue;
        }
        if !control::is_powered(host) {
            control::power_on(host);
        }
        if let Some(process) = cluster.process(part) {
            control::resume(process);
        }
        restart(cluster, part);
    }
    if let Some(address) = cluster.lost_address() {
        give_up(cluster, address, true);
    }
    cluster.shared.calm.set(true);
}

/// Every part of the cluster.
pub fn parts() -> impl Iterator<Item = Part> {
    std::iter::once(Part::Mds).chain((0..CHUNK_SERVERS).map(Part::Cs)).chain((0..CLIENTS).map(Part::Client))
}
