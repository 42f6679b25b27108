//! The world: everything a simulation consists of, and its clock.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::event::{Event, Events};
use super::host::{Clock, Host, HostId, Process};
use super::net::Net;
use super::ops::{Handles, Operation};
use super::slab::Slab;
use super::trace::Trace;
use super::{Coverage, SimOptions};
use crate::random::Rng;
use crate::task::Owner;

/// The wall clock when a world begins, in milliseconds since 1970: 2026-01-01.
const WALL_CLOCK_START_MS: u64 = 1_767_225_600_000;

/// What it is of which host, and whose.
type Height = (&'static str, Option<HostId>, u64);

pub(crate) struct World {
    pub(super) options: SimOptions,
    now: Cell<u64>,
    pub(super) steps: Cell<u64>,
    /// For scheduling and for what becomes of processes; disks and the network draw from their own.
    pub(super) rng: RefCell<Rng>,
    pub(super) events: RefCell<Events>,
    pub(super) trace: RefCell<Trace>,
    coverage: RefCell<Coverage>,
    /// The most that was noted under each name.
    gauges: RefCell<Coverage>,
    /// The highest that was noted of what may only grow.
    heights: RefCell<BTreeMap<Height, u64>>,
    /// What became less, in words.
    fallen: RefCell<Vec<String>>,
    pub(super) hosts: RefCell<Vec<Host>>,
    /// By owner; the first is the controller.
    pub(super) processes: RefCell<Vec<Process>>,
    /// Processes with something to run, in no order.
    pub(super) runnable: RefCell<Vec<Owner>>,
    /// Processes whose main future has ended and which are still to be cleared away.
    pub(super) ended: RefCell<Vec<Owner>>,
    pub(super) operations: RefCell<Slab<Operation>>,
    pub(super) handles: RefCell<Handles>,
    pub(super) net: RefCell<Net>,
}

impl World {
    pub(super) fn new(options: SimOptions) -> Rc<Self> {
        let mut rng = Rng::from_seed(options.seed);
        let net = Net::new(options.net.clone(), Rng::from_seed(rng.next_u64()));
        Rc::new(Self {
            now: Cell::new(0),
            steps: Cell::new(0),
            rng: RefCell::new(rng),
            events: RefCell::default(),
            trace: RefCell::new(Trace::new(options.trace)),
            coverage: RefCell::default(),
            gauges: RefCell::default(),
            heights: RefCell::default(),
            fallen: RefCell::default(),
            hosts: RefCell::default(),
            processes: RefCell::new(vec![Process::new("controller", None, Clock::default())]),
            runnable: RefCell::default(),
            ended: RefCell::default(),
            operations: RefCell::new(Slab::new()),
            handles: RefCell::default(),
            net: RefCell::new(net),
            options,
        })
    }

    // Time.

    pub(crate) fn now_nanos(&self) -> u64 {
        self.now.get()
    }

    /// The clock of the host of a process.
    pub(crate) fn local_nanos(&self, owner: Owner) -> u64 {
        self.clock_of(owner).local(self.now.get())
    }

    /// When the clock of the host of a process will have reached `local`.
    pub(crate) fn world_nanos(&self, owner: Owner, local: u64) -> u64 {
        self.clock_of(owner).world(local)
    }

    fn clock_of(&self, owner: Owner) -> Clock {
        self.processes.borrow()[owner as usize].clock
    }

    pub(super) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.now.get())
    }

    pub(super) fn set_now(&self, now: u64) {
        self.now.set(now);
    }

    /// Lets an event happen at a time.
    pub(super) fn at(&self, at: u64, event: Event) {
        self.events.borrow_mut().push(at, event);
    }

    /// Lets an event happen in a while.
    pub(super) fn after(&self, nanos: u64, event: Event) {
        self.at(self.now.get().saturating_add(nanos), event);
    }

    /// True once in `odds` on average.
    pub(super) fn chance(&self, odds: u64) -> bool {
        self.rng.borrow_mut().one_in(odds)
    }

    // Who and where.

    /// The host of a process.
    ///
    /// # Panics
    /// For the controller, which is on none.
    pub(super) fn host_of(&self, owner: Owner) -> HostId {
        let host = self.processes.borrow()[owner as usize].host;
        host.expect("the controller has no disk and no network: start a process with control::start_process")
    }

    fn of_host<T>(&self, owner: Owner, get: impl FnOnce(&Host) -> T) -> Option<T> {
        let host = self.processes.borrow()[owner as usize].host?;
        Some(get(&self.hosts.borrow()[host.0 as usize]))
    }

    pub(crate) fn wall_clock_ms(&self, owner: Owner) -> u64 {
        let offset = self.of_host(owner, |host| host.wall_offset_ms).unwrap_or(0);
        (WALL_CLOCK_START_MS + self.now.get() / 1_000_000).saturating_add_signed(offset)
    }

    pub(crate) fn boot_id(&self, owner: Owner) -> [u8; 16] {
        self.of_host(owner, |host| host.boot_id).unwrap_or_default()
    }

    pub(crate) fn host_name(&self, owner: Owner) -> String {
        self.of_host(owner, |host| host.name.clone()).unwrap_or_else(|| "controller".to_owned())
    }

    pub(super) fn is_powered(&self, host: HostId) -> bool {
        self.hosts.borrow()[host.0 as usize].powered
    }

    pub(super) fn ip_of(&self, host: HostId) -> IpAddr {
        self.hosts.borrow()[host.0 as usize].ip
    }

    pub(super) fn host_at(&self, ip: IpAddr) -> Option<HostId> {
        // Addresses are given in order, so this needs no search.
        let IpAddr::V4(v4) = ip else { return None };
        let [_, _, high, low] = v4.octets();
        let index = u32::from(u16::from_be_bytes([high, low])).checked_sub(1)?;
        self.hosts.borrow().get(index as usize).filter(|host| host.ip == ip).map(|_| HostId(index))
    }

    // What is told about a run.

    pub(super) fn hit(&self, name: &'static str) {
        *self.coverage.borrow_mut().entry(name).or_insert(0) += 1;
    }

    pub(super) fn coverage(&self) -> Coverage {
        self.coverage.borrow().clone()
    }

    pub(super) fn gauge(&self, name: &'static str, length: u64) {
        let mut gauges = self.gauges.borrow_mut();
        let most = gauges.entry(name).or_insert(0);
        *most = (*most).max(length);
    }

    pub(super) fn rises(&self, owner: Owner, what: &'static str, key: u64, value: u64) {
        let host = self.processes.borrow()[owner as usize].host;
        let mut heights = self.heights.borrow_mut();
        let height = heights.entry((what, host, key)).or_insert(value);
        if value < *height {
            let name = self.of_host(owner, |host| host.name.clone()).unwrap_or_default();
            let text = format!("{what} {key:#x} on {name} was {height:#x} and is {value:#x}");
            self.line(owner, || text.clone());
            self.fallen.borrow_mut().push(text);
        }
        *height = value.max(*height);
    }

    pub(super) fn fallen(&self) -> Vec<String> {
        self.fallen.borrow().clone()
    }

    pub(super) fn gauges(&self) -> Coverage {
        self.gauges.borrow().clone()
    }

    pub(super) fn has_planted(&self, name: &str) -> bool {
        self.options.planted.iter().any(|planted| planted == name)
    }

    pub(super) fn fold(&self, word: u64) {
        self.trace.borrow_mut().fold(word);
    }

    pub(super) fn wants_lines(&self) -> bool {
        self.trace.borrow().wants_lines()
    }

    pub(super) fn line(&self, owner: Owner, text: impl FnOnce() -> String) {
        if !self.wants_lines() {
            return;
        }
        let text = text();
        let host = self.of_host(owner, |host| host.name.clone()).unwrap_or_else(|| "-".to_owned());
        let process = self.processes.borrow()[owner as usize].name.clone();
        self.trace.borrow_mut().line(self.now.get(), &host, &process, &text);
    }
}
