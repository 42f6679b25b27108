//! Faults: what strikes, when, and how it ends.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use rt::sim::control::{self, PeerView};
use rt::sim::{DiskFault, DiskFaultKind, HostId};
use wire::cluster::{RemoveAction, RemoveCs};
use wire::namespace::{Attrs, SetAttr};

use crate::cluster::{CHUNK_SERVERS, CLIENTS, CS_DIR, Cluster, Part, REPLICAS_MIN};
use crate::plans::{self, Plan};
use crate::workload::{self, Shared};

/// A client is cut off for at least this long: longer than the lease that it has in these runs...
const ISOLATION_MIN: Duration = Duration::from_millis(9_000);
/// ...and at most this long: shorter than its connections live.
const ISOLATION_MAX: Duration = Duration::from_millis(14_500);
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
    let cuts = Rc::new(RefCell::new(vec![None; CHUNK_SERVERS]));
    // Some runs are mostly about who may write (C1, C2).
    let succession = rt::random::below(4) == 0 || plan == Plan::Succession;
    let mut loss = match rt::random::below(3) {
        0 => Loss::Disk,
        1 => Loss::Operator,
        _ => Loss::None,
    };
    // One copy is enough to lose: what is damaged must be whole elsewhere.
    cluster.shared.undamaged.set(loss == Loss::Disk);
    let at = rt::random::below(count.max(1) as u64) as usize;
    for number in 0..count {
        if number == at {
            match std::mem::take(&mut loss) {
                Loss::Disk => lose_disk(cluster, &cuts),
                Loss::Operator => remove_server(cluster),
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
        one(cluster, &cuts).await;
        if rt::random::below(3) == 0 {
            // Sometimes two at once.
            one(cluster, &cuts).await;
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

async fn one(cluster: &Rc<Cluster>, cuts: &Rc<RefCell<Vec<Option<u64>>>>) {
    match rt::random::below(24) {
        0..5 => kill(cluster, some_part()),
        5..7 => pause(cluster, some_part()),
        7..10 => {
            let part = some_part();
            power_cut(cluster, cuts, &[part]);
        }
        10 => {
            // Everything at once.
            let all: Vec<Part> = std::iter::once(Part::Mds).chain((0..CHUNK_SERVERS).map(Part::Cs)).collect();
            power_cut(cluster, cuts, &all);
        }
        11 => {
            let all: Vec<Part> = (0..CHUNK_SERVERS).map(Part::Cs).collect();
            power_cut(cluster, cuts, &all);
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
        17 => damage(cluster),
        18 => fill(cluster, some_cs()),
        19..21 => isolate(cluster),
        21..23 => change_replicas(cluster),
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

fn power_cut(cluster: &Rc<Cluster>, cuts: &Rc<RefCell<Vec<Option<u64>>>>, parts: &[Part]) {
    let hosts: Vec<HostId> =
        parts.iter().map(|&part| cluster.host(part)).filter(|&host| control::is_powered(host)).collect();
    if hosts.is_empty() {
        return;
    }
    let view = if rt::random::below(2) == 0 { PeerView::Silence } else { PeerView::Reset };
    control::power_cut(&hosts, view);
    let now = rt::time::now().as_nanos();
    for part in parts {
        if let Part::Cs(n) = part {
            cuts.borrow_mut()[*n] = Some(now);
        }
    }
    weaken(&cluster.shared, &cuts.borrow());
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
    /// An operator removes it, and may think better of it.
    Operator,
}

/// A disk is lost with all that was on it: the others make its replicas anew.
fn lose_disk(cluster: &Rc<Cluster>, cuts: &Rc<RefCell<Vec<Option<u64>>>>) {
    rt::sim::hit("disk.lost");
    let n = some_cs();
    cluster.bury(n);
    power_cut(cluster, cuts, &[Part::Cs(n)]);
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
    let path = workload::path(rt::random::below(CLIENTS as u64) as usize);
    let normal = REPLICAS_MIN as u64 + rt::random::below(2);
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

/// What every member may have lost is not certain any more (C4). There are as many members as the minimum at least; the others may have
/// been left out (C3).
fn weaken(shared: &Shared, cuts: &[Option<u64>]) {
    let mut newest_first: Vec<u64> = cuts.iter().flatten().copied().collect();
    newest_first.sort_unstable_by_key(|cut| std::cmp::Reverse(*cut));
    let Some(cut) = newest_first.get(REPLICAS_MIN - 1) else { return };
    for oracle in shared.oracles.borrow_mut().iter_mut() {
        oracle.weaken(*cut);
    }
}

/// Damages data of one chunk server, always the same: another member must have it whole.
fn damage(cluster: &Cluster) {
    if cluster.shared.undamaged.get() {
        return;
    }
    let host = cluster.host(Part::Cs(0));
    let chunks = format!("{CS_DIR}/chunks");
    let files: Vec<_> = control::files_under(host, &chunks).into_iter().filter(|(_, len)| *len > 0).collect();
    if files.is_empty() {
        return;
    }
    let (path, len) = &files[rt::random::below(files.len() as u64) as usize];
    let kind = match rt::random::below(6) {
        0 => {
            // A hole has no bits to flip.
            let flips = |_: &u64| control::rot(host, path, rt::random::below(*len)).unwrap_or(false);
            let _tried = (0..64).find(flips);
            return;
        }
        1 => DiskFaultKind::CorruptRead,
        2 => DiskFaultKind::ReadError,
        3 => DiskFaultKind::LostWrite,
        4 => DiskFaultKind::BitRot,
        _ => {
            cluster.shared.misdirected.set(true);
            DiskFaultKind::MisdirectedWrite
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
        control::clear_disk_faults(host);
        if let Part::Cs(_) = part {
            control::occupy(host, CS_DIR, 0);
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
    cluster.shared.calm.set(true);
}

/// Every part of the cluster.
pub fn parts() -> impl Iterator<Item = Part> {
    std::iter::once(Part::Mds).chain((0..CHUNK_SERVERS).map(Part::Cs)).chain((0..CLIENTS).map(Part::Client))
}
