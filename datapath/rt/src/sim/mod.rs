//! The simulator driver: a whole cluster in one thread, from one seed.
//!
//! A [`Simulation`] is a world of hosts with disks, a network between them and processes on them. Time is virtual,
//! and every choice (which task runs, how long an operation takes, what a power cut leaves) is drawn from the seed,
//! so the same seed and program give the same trace, byte for byte. The future given to [`Simulation::run`] is the
//! *controller*: it is on no host and shapes the world through [`control`]. Everything below is what a program on
//! the world may rely on, and what it may not.
//!
//! # Scheduling and time
//!
//! * Each process is one thread: a task runs until it waits. Of the processes with something to run a random one is
//!   next; of its tasks, a random one of those that were ready when its current round began, so every ready task
//!   runs once before one runs twice. There is no other order between tasks.
//! * The clock stands still while a task runs and moves by up to [`SimOptions::poll_cost`] afterwards; when nothing
//!   can run it jumps to the next timer or event. The boot-time clock of a host (`rt::time::now`, timers) may run at a rate
//!   of its own ([`HostOptions::clock_fast_ppm`]); its wall clock can be moved apart ([`control::shift_wall_clock`]).
//! * `rt::blocking::run` runs inline and takes no time.
//! * **Not modelled:** several threads in one process, preemption, processor time of what a task computes.
//!
//! # Processes
//!
//! * A process ends when its main future does, or by [`control::kill`] or a power cut: its tasks are dropped on the
//!   spot, its listeners close at once, its connections within 20 ms (by a reset, or by an end of stream).
//! * Operations on disks that were under way at a kill still happen, happen in part or are cancelled, later, each
//!   by chance. File locks fall, and files close, after the last of them. What has completed stays.
//! * [`control::pause`] stops a process as SIGSTOP does: its wakes are kept until it resumes; its kernel goes on.
//!
//! # Disks
//!
//! One file system per disk, after ext4 on a device with a volatile cache. What a completed write stored is visible
//! to every later read at once and survives a kill. It survives a **power cut** only so:
//!
//! * **Data in place** (direct writes to blocks whose allocation is committed) is durable after any `sync_data` or
//!   `sync_all` of any file *of that disk* that was issued after the write completed. Until then each write lands,
//!   is lost or is torn, independently of the others and of their order. What is never torn is
//!   [`DiskOptions::atomic_unit`].
//! * **Allocation** (writes to holes, to reserved or to zeroed blocks; `allocate`; `set_len`) and the **size** are
//!   durable after a sync of their own file, and so is the data of such writes. Until then these changes of a file
//!   survive up to a random point in their order. Each survives whole or leaves what was there before it: a lost
//!   write a hole or zeroes, a lost punch the old data; none leaves a torn block.
//! * Writes **through the page cache** (files not opened `direct`) need a sync of their own file, too, and may be
//!   torn.
//! * **Names** (create, rename, remove, mkdir) are durable after `sync_dir` of a directory they touch. Until then a
//!   random prefix of them, in their order, survives. `sync_all` of a file does not make its name durable;
//!   `sync_dir` does not make the content of a file durable.
//! * After a **failed flush** a part of what it covered is durable, and no later flush makes the rest so.
//! * An operation **in flight** at the power cut counts as done, as done in part or as never begun, each by chance.
//! * Two writes to one range that are in flight together complete in either order; that order is what is visible.
//! * Direct I/O needs offset, length and memory aligned to [`DiskOptions::sector`], else EINVAL.
//! * **Not modelled:** symbolic and hard links, permissions, `rmdir`, limits of queues, blocks shared between
//!   files, the space of metadata (each file and directory counts 4 KiB, its blocks 4 KiB each).
//!
//! Faults ([`control::disk_fault`], [`FaultRates`]): errors, lost and misdirected writes, bit rot, stalls, short
//! transfers, a full disk; each is described at [`DiskFaultKind`].
//!
//! # Network
//!
//! * A connection is two byte streams: nothing in them is lost, doubled or reordered; received data is cut at
//!   random places. A sender waits when [`NetOptions::window`] bytes have not been received.
//! * On a **cut** link ([`control::cut`], one direction) data waits and is sent again with growing pauses; after
//!   [`NetOptions::give_up`] the sender gets ETIMEDOUT. Resets are lost on it. Connecting needs both directions.
//! * A host without power, and [`control::half_open`], look like a cut link; a host that is back answers what comes
//!   for an old connection with a reset.
//! * A socket that is closed with unread data resets its peer, another one ends the stream.
//! * **Not modelled:** packets, congestion, a shared bandwidth of links, limits of the accept queue, names of
//!   hosts.
//!
//! # Faults that must be provable
//!
//! [`hit`] counts by name that something was reached; every fault counts itself ([`FAULTS`]). [`planted`] asks
//! whether this run carries a deliberate bug of that name. Both do nothing, and [`trace()`] builds no line, on the
//! other driver.

#![forbid(unsafe_code)]

pub mod control;
mod disk;
mod event;
mod file;
mod host;
mod net;
mod ops;
mod run;
mod slab;
mod trace;
mod world;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::context::{self, Driver};
use crate::task::Owner;

pub use disk::{Damage, DiskFault, DiskFaultKind, DiskImage, DiskOptions, FaultRates, Latency};
pub(crate) use file::{SimFile, create_dir, exists, read_dir, remove_file, rename, space, sync_dir};
pub use host::{HostId, HostOptions, ProcessId};
pub use net::NetOptions;
pub(crate) use net::{SimListener, SimReader, SimWriter, connect};
pub use run::Simulation;
pub use trace::TraceLines;
pub(crate) use world::World;

/// What a simulation is made of.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// Everything follows from it.
    pub seed: u64,
    /// What to do with the lines of the trace.
    pub trace: TraceLines,
    /// Virtual time after which the run fails.
    pub time_max: Duration,
    /// Polls and events after which the run fails.
    pub steps_max: u64,
    /// The most virtual time one poll of a task takes.
    pub poll_cost: Duration,
    /// The network.
    pub net: NetOptions,
    /// Names of the deliberate bugs this run carries ([`planted`]).
    pub planted: Vec<String>,
}

impl SimOptions {
    /// An ordinary world.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            trace: TraceLines::Off,
            time_max: Duration::from_secs(24 * 3600),
            steps_max: 1 << 30,
            poll_cost: Duration::from_micros(5),
            net: NetOptions::default(),
            planted: Vec::new(),
        }
    }
}

/// Why a run came to no end. The controller's own findings are its result, and a panic of any task is a panic of the
/// run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimFailure {
    /// Every task waits, and nothing will ever happen.
    #[error("seed {seed}, {now:?}: deadlock, {tasks} tasks wait and nothing is under way")]
    Deadlock {
        /// The seed of the run.
        seed: u64,
        /// Virtual time since the world began.
        now: Duration,
        /// Tasks that have not ended.
        tasks: usize,
    },
    /// [`SimOptions::time_max`] has passed.
    #[error("seed {seed}: not done after {now:?} of virtual time")]
    TimeLimit {
        /// The seed of the run.
        seed: u64,
        /// Virtual time since the world began.
        now: Duration,
    },
    /// [`SimOptions::steps_max`] is exceeded: something runs in circles.
    #[error("seed {seed}, {now:?}: not done after {steps} steps")]
    StepLimit {
        /// The seed of the run.
        seed: u64,
        /// Virtual time since the world began.
        now: Duration,
        /// Polls and events so far.
        steps: u64,
    },
}

/// The names under which the faults of the world are counted; a set of runs that is to prove something about faults
/// must have hit the ones it uses.
pub const FAULTS: &[&str] = &[
    "process.kill",
    "process.pause",
    "host.power-cut",
    "host.wall-clock-jump",
    "kill.operation-done",
    "kill.operation-canceled",
    "kill.write-partial",
    "crash.write-kept",
    "crash.write-lost",
    "crash.write-torn",
    "crash.block-torn",
    "crash.allocation-lost",
    "crash.size-reverted",
    "crash.name-kept",
    "crash.name-lost",
    "disk.read-error",
    "disk.write-error",
    "disk.flush-error",
    "disk.lost-write",
    "disk.misdirected-write",
    "disk.bit-rot",
    "disk.corrupt-read",
    "disk.short-read",
    "disk.short-write",
    "disk.stall",
    "disk.full",
    "net.cut",
    "net.delay",
    "net.reset",
    "net.reset-lost",
    "net.half-open",
    "net.refused",
    "net.timeout",
    "net.connect-timeout",
    "net.window-full",
];

fn try_world<T>(work: impl FnOnce(&Rc<World>, Owner) -> T) -> Option<T> {
    context::try_with(|core| match &core.driver {
        Driver::Uring(_) => None,
        Driver::Sim(world) => Some(work(world, core.tasks.owner.get())),
    })
    .flatten()
}

/// The world of this thread and the process that runs in it now.
fn calling() -> (Rc<World>, Owner) {
    try_world(|world, owner| (Rc::clone(world), owner)).expect("called outside a simulation")
}

/// Whether the calling thread is in a simulation. What must never be used in earnest (cryptography without secrets) asks
/// this before it starts.
#[must_use]
pub fn is_running() -> bool {
    try_world(|_, _| ()).is_some()
}

/// Counts that something was reached; nothing outside a simulation.
pub fn hit(name: &'static str) {
    try_world(|world, _| world.hit(name));
}

/// Notes how long a queue is that must be bounded (C13); nothing outside a simulation. The longest of a run is kept:
/// see [`Simulation::gauges`].
pub fn gauge(name: &'static str, length: u64) {
    try_world(|world, _| world.gauge(name, length));
}

/// Notes a number of the calling host that may only grow, by what it is and whose; nothing outside a simulation. A run tells what
/// became less: see [`control::fallen`].
pub fn rises(what: &'static str, key: u64, value: u64) {
    try_world(|world, owner| world.rises(owner, what, key, value));
}

/// Whether this run carries the deliberate bug `name`: code under test plants it so, and a checker proves that it is
/// caught. Always false outside a simulation.
#[must_use]
pub fn planted(name: &str) -> bool {
    try_world(|world, _| world.has_planted(name)).unwrap_or(false)
}

/// Adds a line to the trace of a simulation that keeps lines; it does not go into the trace's hash, which must not
/// depend on whether lines are kept.
pub fn trace(text: impl FnOnce() -> String) {
    try_world(|world, owner| world.line(owner, text));
}

/// How often each name was hit.
pub type Coverage = BTreeMap<&'static str, u64>;
