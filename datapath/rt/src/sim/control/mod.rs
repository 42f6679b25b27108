//! What the controller may do to the world: hosts, processes, power and clocks here, [disks](disk_fault) and
//! [links](cut) in the modules below.
//!
//! Everything takes effect at once. Except for the questions, only tasks of the controller may call it.

mod disk;
mod net;

use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::host::{Host, HostId, HostOptions, Life, Process as Record, ProcessId};
use super::world::World;
use super::{Coverage, calling};
use crate::context::{self, Core};
use crate::random::Rng;
use crate::task::{self, JoinHandle, Owner};

pub use disk::{
    clear_disk_faults, damages, disk_fault, disk_image, durable_content, fault_rates, files_under,
    make_unreadable, occupy, restore_disk, rot, visible_content,
};
pub use net::{
    connections, cut, delay, half_open, heal, heal_all, partition, reset_connections, reset_one_connection,
};

fn controller() -> Rc<World> {
    let (world, owner) = calling();
    assert_eq!(owner, 0, "only the controller may shape the world");
    world
}

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit<T> {
    /// Its main future has ended.
    Returned(T),
    /// It was killed, or its host lost power.
    Killed,
}

impl<T> Exit<T> {
    /// What the main future has returned.
    ///
    /// # Panics
    /// When the process was killed.
    #[track_caller]
    pub fn returned(self) -> T {
        match self {
            Self::Returned(value) => value,
            Self::Killed => panic!("the process was killed"),
        }
    }
}

/// A process that was started. Dropping this leaves it running.
#[derive(Debug)]
pub struct Process<T> {
    id: ProcessId,
    main: JoinHandle<T>,
}

impl<T> Process<T> {
    /// Its name for the other functions.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Waits for its end.
    pub async fn wait(self) -> Exit<T> {
        self.main.await.map_or(Exit::Killed, Exit::Returned)
    }
}

/// What the other end of a connection sees of a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerView {
    /// Nothing: the connection is half-open until somebody sends on it after the power is back.
    Silence,
    /// A reset, as if a switch had answered for the host.
    Reset,
}

/// Adds a host and switches it on. Its address is the next one of 10.0.0.0/16, from 10.0.0.1.
pub fn add_host(options: HostOptions) -> HostId {
    let world = controller();
    let rng = Rng::from_seed(world.rng.borrow_mut().next_u64());
    let mut hosts = world.hosts.borrow_mut();
    let id = HostId(u32::try_from(hosts.len()).expect("fewer than 65536 hosts"));
    hosts.push(Host::new(id, options, rng));
    id
}

/// The address of a host.
#[must_use]
pub fn host_ip(host: HostId) -> IpAddr {
    calling().0.ip_of(host)
}

/// Starts a process; `main` is its main future.
///
/// # Panics
/// When the host has no power.
pub fn start_process<F>(host: HostId, name: &str, main: F) -> Process<F::Output>
where
    F: Future + 'static,
{
    let world = controller();
    assert!(world.is_powered(host), "a host without power runs nothing");
    let owner = {
        let mut processes = world.processes.borrow_mut();
        let clock = world.hosts.borrow()[host.0 as usize].clock;
        processes.push(Record::new(name, Some(host), clock));
        Owner::try_from(processes.len() - 1).expect("fewer than 2^32 processes")
    };
    world.line(owner, || "starts".to_owned());
    let theirs = Rc::clone(&world);
    let main = task::spawn_owned(owner, async move {
        let output = main.await;
        theirs.ended.borrow_mut().push(owner);
        output
    });
    Process { id: ProcessId(owner), main }
}

/// Kills a process as SIGKILL does; false if it has ended already.
pub fn kill(process: ProcessId) -> bool {
    let world = controller();
    let alive = is_alive(process);
    if alive {
        world.hit("process.kill");
        context::with(|core| world.end_process(core, process.0, true));
    }
    alive
}

/// Stops a process as SIGSTOP does; false if it has ended or is paused already.
pub fn pause(process: ProcessId) -> bool {
    let world = controller();
    let mut processes = world.processes.borrow_mut();
    let record = &mut processes[process.0 as usize];
    if record.life != Life::Running {
        return false;
    }
    record.life = Life::Paused;
    drop(processes);
    world.hit("process.pause");
    world.line(process.0, || "pauses".to_owned());
    true
}

/// Lets a paused process go on; false if it was not paused.
pub fn resume(process: ProcessId) -> bool {
    let world = controller();
    let mut processes = world.processes.borrow_mut();
    let record = &mut processes[process.0 as usize];
    if record.life != Life::Paused {
        return false;
    }
    record.life = Life::Running;
    if record.has_work() && !record.listed {
        record.listed = true;
        world.runnable.borrow_mut().push(process.0);
    }
    drop(processes);
    world.line(process.0, || "resumes".to_owned());
    true
}

/// Whether a process has not ended; a paused one is alive.
#[must_use]
pub fn is_alive(process: ProcessId) -> bool {
    calling().0.processes.borrow()[process.0 as usize].life != Life::Dead
}

/// The processes of a host that have not ended, oldest first.
#[must_use]
pub fn processes(host: HostId) -> Vec<ProcessId> {
    let world = calling().0;
    let processes = world.processes.borrow();
    let live = processes
        .iter()
        .zip(0..)
        .filter(|(record, _)| record.host == Some(host) && record.life != Life::Dead);
    live.map(|(_, owner)| ProcessId(owner)).collect()
}

/// Cuts the power of hosts, all at one moment: their processes die and their disks lose what is volatile. Hosts that
/// have none are left as they are.
pub fn power_cut(hosts: &[HostId], peers: PeerView) {
    let world = controller();
    let hosts: Vec<HostId> = hosts.iter().copied().filter(|host| world.is_powered(*host)).collect();
    for host in &hosts {
        world.hosts.borrow_mut()[host.0 as usize].powered = false;
    }
    for host in hosts {
        world.hit("host.power-cut");
        context::with(|core| world.lose_power(core, host, peers == PeerView::Reset));
    }
}

/// Switches a host on again, with a new boot id; no process runs on it yet.
///
/// # Panics
/// When it is on.
pub fn power_on(host: HostId) {
    let world = controller();
    assert!(!world.is_powered(host), "the host has power");
    world.hosts.borrow_mut()[host.0 as usize].boot();
}

/// Whether a host has power.
#[must_use]
pub fn is_powered(host: HostId) -> bool {
    calling().0.is_powered(host)
}

/// Moves the wall clock of a host by so many milliseconds. The boot-time clock, on which timers run, does not jump.
pub fn shift_wall_clock(host: HostId, by_ms: i64) {
    let world = controller();
    world.hit("host.wall-clock-jump");
    world.hosts.borrow_mut()[host.0 as usize].wall_offset_ms += by_ms;
}

/// The seed of the run.
#[must_use]
pub fn seed() -> u64 {
    calling().0.options.seed
}

/// Virtual time since the world began.
#[must_use]
pub fn now() -> Duration {
    calling().0.elapsed()
}

/// Lets virtual time pass.
pub async fn advance(by: Duration) {
    crate::time::sleep(by).await;
}

/// What became less although it may only grow ([`super::rises`]), in words, in the order in which it was seen.
#[must_use]
pub fn fallen() -> Vec<String> {
    calling().0.fallen()
}

/// How often each name was hit so far.
#[must_use]
pub fn coverage() -> Coverage {
    calling().0.coverage()
}

impl World {
    /// Ends a process: on the spot for its tasks, later for what its kernel still does.
    pub(super) fn end_process(&self, core: &Core, owner: Owner, killed: bool) {
        if !self.bury(owner, if killed { "is killed" } else { "ends" }) {
            return;
        }
        self.net.borrow_mut().orphan(self, owner, killed);
        if killed {
            self.orphan_operations(owner);
        }
        Self::drop_tasks(core, owner);
        self.release(owner, None);
    }

    /// Notes the death of a process; false if it was dead.
    fn bury(&self, owner: Owner, how: &'static str) -> bool {
        let mut processes = self.processes.borrow_mut();
        let record = &mut processes[owner as usize];
        if record.life == Life::Dead {
            return false;
        }
        record.life = Life::Dead;
        record.round.clear();
        record.next.clear();
        drop(processes);
        self.line(owner, || how.to_owned());
        true
    }

    fn drop_tasks(core: &Core, owner: Owner) {
        // What destructors spawn belongs to the dead process, too, and goes with it.
        let before = core.tasks.owner.replace(owner);
        while core.tasks.abort_owner(owner) > 0 {}
        core.tasks.owner.set(before);
    }

    fn lose_power(&self, core: &Core, host: HostId, tell_peers: bool) {
        self.net.borrow_mut().power_cut(self, host, tell_peers);
        for ProcessId(owner) in processes(host) {
            self.bury(owner, "loses power");
            self.net.borrow_mut().drop_attempts(owner);
            Self::drop_tasks(core, owner);
        }
        let mut interrupted = self.interrupt_operations(host);
        let mut hosts = self.hosts.borrow_mut();
        for (index, mount) in hosts[host.0 as usize].mounts.iter_mut().enumerate() {
            let here = interrupted
                .extract_if(.., |(at, _)| *at == index)
                .filter_map(|(_, request)| request.interrupted());
            mount.fs.crash(here.collect());
        }
    }
}
