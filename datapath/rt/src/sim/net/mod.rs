//! The simulated network: links between hosts, listening sockets and connections.
//!
//! See [`crate::sim`] for what the model promises. [`conn`] moves the bytes of established connections, [`dial`]
//! establishes them, [`socket`] is what processes hold, and this file keeps the links.

mod conn;
mod dial;
mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::conn::Conn;
use self::dial::{Attempt, Listening};
use super::World;
use super::disk::{Latency, nanos};
use super::host::HostId;
use super::slab::{Key, Slab};
use crate::random::Rng;
use crate::task::Owner;

pub(crate) use socket::{SimListener, SimReader, SimWriter, connect};

/// Properties of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetOptions {
    /// Time of a packet between two hosts.
    pub remote: Latency,
    /// Time of a packet inside a host.
    pub local: Latency,
    /// Adds to the time of what is sent; bytes per second of one connection.
    pub bandwidth: u64,
    /// Bytes one direction of a connection holds before its sender waits.
    pub window: usize,
    /// The first pause before bytes that could not be delivered are sent again; it doubles.
    pub retry_min: Duration,
    /// The longest such pause.
    pub retry_max: Duration,
    /// How long bytes that cannot be delivered are sent again before the connection fails with ETIMEDOUT.
    pub give_up: Duration,
    /// How long a connection request is repeated before it fails with ETIMEDOUT.
    pub connect_give_up: Duration,
}

impl Default for NetOptions {
    /// A quick local network with the timeouts of Linux.
    fn default() -> Self {
        Self {
            remote: Latency::micros(20, 200),
            local: Latency::micros(5, 30),
            bandwidth: 1 << 30,
            window: 1 << 20,
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(10),
            give_up: Duration::from_secs(924),
            connect_give_up: Duration::from_secs(127),
        }
    }
}

/// A link made slow for a while.
#[derive(Clone, Copy, Debug)]
struct Delay {
    extra: u64,
    until: u64,
}

pub(super) struct Net {
    options: NetOptions,
    rng: Rng,
    conns: Slab<Conn>,
    listeners: Slab<Listening>,
    attempts: Slab<Attempt>,
    /// Who listens on a TCP port of a host, and at which of its addresses.
    ports: BTreeMap<(HostId, u16), Vec<(std::net::IpAddr, Key)>>,
    /// Who listens on a Unix socket: host, mount and inode of its name.
    unix: BTreeMap<(HostId, usize, u64), Key>,
    next_port: BTreeMap<HostId, u16>,
    /// Directions in which nothing gets through.
    cuts: BTreeSet<(HostId, HostId)>,
    delays: BTreeMap<(HostId, HostId), Delay>,
}

impl Net {
    pub(super) fn new(options: NetOptions, rng: Rng) -> Self {
        Self {
            options,
            rng,
            conns: Slab::new(),
            listeners: Slab::new(),
            attempts: Slab::new(),
            ports: BTreeMap::new(),
            unix: BTreeMap::new(),
            next_port: BTreeMap::new(),
            cuts: BTreeSet::new(),
            delays: BTreeMap::new(),
        }
    }

    /// Nanoseconds a packet takes.
    fn flight_time(&mut self, from: HostId, to: HostId, now: u64) -> u64 {
        if from == to {
            return self.options.local.draw(&mut self.rng);
        }
        let time = self.options.remote.draw(&mut self.rng);
        match self.delays.get(&(from, to)) {
            Some(delay) if now < delay.until => time + self.rng.below(delay.extra + 1),
            _ => time,
        }
    }

    fn is_cut(&self, from: HostId, to: HostId) -> bool {
        !self.cuts.is_empty() && self.cuts.contains(&(from, to))
    }

    /// A pause before the next try, and the one after it.
    fn backoff(&mut self, last: u64, first: u64) -> u64 {
        let next = if last == 0 { first } else { last * 2 };
        let next = next.min(nanos(self.options.retry_max));
        next + self.rng.below(next / 8 + 1)
    }

    // For the controller.

    pub(super) fn cut(&mut self, from: HostId, to: HostId) {
        super::hit("net.cut");
        self.cuts.insert((from, to));
    }

    pub(super) fn heal(&mut self, from: HostId, to: HostId) {
        self.cuts.remove(&(from, to));
        self.catch_up();
    }

    pub(super) fn heal_all(&mut self) {
        self.cuts.clear();
        self.delays.clear();
        self.catch_up();
    }

    pub(super) fn delay(&mut self, from: HostId, to: HostId, extra: u64, until: u64) {
        super::hit("net.delay");
        self.delays.insert((from, to), Delay { extra, until });
    }

    fn between(&mut self, a: HostId, b: HostId) -> Vec<Key> {
        let joins = |conn: &Conn| {
            let hosts = [conn.ends[0].host, conn.ends[1].host];
            (hosts == [a, b] || hosts == [b, a]) && !conn.silent
        };
        self.conns.iter_mut().filter(|(_, conn)| joins(conn)).map(|(key, _)| key).collect()
    }

    /// Resets connections between two hosts: all, or a random one. Gives how many.
    pub(super) fn reset_between(&mut self, a: HostId, b: HostId, all: bool) -> usize {
        let mut keys = self.between(a, b);
        if !all && !keys.is_empty() {
            let one = self.rng.below(keys.len() as u64) as usize;
            keys = vec![keys[one]];
        }
        for &key in &keys {
            super::hit("net.reset");
            self.reset(key, 0);
            self.reset(key, 1);
        }
        keys.len()
    }

    /// Makes the connections between two hosts half-open: nothing arrives any more and nobody is told.
    pub(super) fn silence_between(&mut self, a: HostId, b: HostId) -> usize {
        let keys = self.between(a, b);
        for key in &keys {
            super::hit("net.half-open");
            if let Some(conn) = self.conns.get_mut(*key) {
                conn.silent = true;
            }
        }
        keys.len()
    }

    /// Connections there are.
    pub(super) fn connections(&self) -> usize {
        self.conns.keys().len()
    }

    /// A process has died: its listeners close at once, its connections soon.
    pub(super) fn orphan(&mut self, world: &World, owner: Owner, killed: bool) {
        for key in self.listeners.keys() {
            if self.listeners.get(key).is_some_and(|listener| listener.owner == owner) {
                self.close_listener(world, key);
            }
        }
        self.drop_attempts(owner);
        self.orphan_conns(world, owner, killed);
    }

    /// A host has lost its power: whatever it held of its connections is gone.
    pub(super) fn power_cut(&mut self, world: &World, host: HostId, tell_peers: bool) {
        for key in self.listeners.keys() {
            if self.listeners.get(key).is_some_and(|listener| listener.host == host) {
                self.forget_listener(key);
            }
        }
        self.lose_conns(world, host, tell_peers);
    }
}
