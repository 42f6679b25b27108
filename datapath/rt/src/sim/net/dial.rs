//! Listening, and establishing connections.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::task::{Context, Poll, Waker};

use super::Net;
use super::conn::End;
use crate::net::Address;
use crate::sim::World;
use crate::sim::disk::nanos;
use crate::sim::event::Event;
use crate::sim::host::HostId;
use crate::sim::slab::Key;
use crate::task::Owner;

/// The first port that is given to those who do not name one.
const FIRST_PORT: u16 = 32768;
/// The first pause before a connection request is repeated, in nanoseconds.
const REQUEST_PAUSE: u64 = 1_000_000_000;
/// How long it takes to learn that nobody has an address, in nanoseconds.
const NO_SUCH_HOST: u64 = 3_000_000_000;

/// A socket that listens.
pub(super) struct Listening {
    pub(super) owner: Owner,
    pub(super) host: HostId,
    pub(super) address: Address,
    name: Name,
    queue: VecDeque<Key>,
    waker: Option<Waker>,
}

/// Where a listener is found.
#[derive(Clone, Copy, Debug)]
enum Name {
    Port(u16),
    Unix(usize, u64),
}

/// What a connection request is for.
#[derive(Clone, Copy, Debug)]
enum Goal {
    Tcp { host: HostId, ip: IpAddr, port: u16 },
    Unix { mount: usize, ino: u64 },
    NoSuchHost,
}

/// A connection request under way.
pub(super) struct Attempt {
    owner: Owner,
    host: HostId,
    goal: Goal,
    waker: Option<Waker>,
    pause: u64,
    deadline: u64,
    /// The connection the target has made, or why not.
    result: Option<Result<Key, i32>>,
    /// The result has come back to who asked.
    answered: bool,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn unnamed() -> Address {
    Address::Unix(PathBuf::new())
}

impl Net {
    // Listening.

    pub(super) fn bind_tcp(&mut self, world: &World, owner: Owner, wanted: SocketAddr) -> io::Result<Key> {
        let host = world.host_of(owner);
        let ip = wanted.ip();
        if !ip.is_unspecified() && !ip.is_loopback() && world.ip_of(host) != ip {
            return Err(errno(libc::EADDRNOTAVAIL));
        }
        let port = if wanted.port() == 0 { self.free_port(host) } else { wanted.port() };
        let taken = self.ports.entry((host, port)).or_default();
        if taken.iter().any(|(other, _)| *other == ip || other.is_unspecified() || ip.is_unspecified()) {
            return Err(errno(libc::EADDRINUSE));
        }
        let key = self.listeners.insert(Listening {
            owner,
            host,
            address: Address::Tcp(SocketAddr::new(ip, port)),
            name: Name::Port(port),
            queue: VecDeque::new(),
            waker: None,
        });
        taken.push((ip, key));
        Ok(key)
    }

    fn free_port(&mut self, host: HostId) -> u16 {
        loop {
            let next = self.next_port.entry(host).or_insert(FIRST_PORT);
            let port = *next;
            *next = next.checked_add(1).unwrap_or(FIRST_PORT);
            if self.ports.get(&(host, port)).is_none_or(Vec::is_empty) {
                return port;
            }
        }
    }

    /// Listens at a name that has just been made.
    pub(super) fn bind_unix(
        &mut self,
        owner: Owner,
        host: HostId,
        path: PathBuf,
        mount: usize,
        ino: u64,
    ) -> Key {
        let key = self.listeners.insert(Listening {
            owner,
            host,
            address: Address::Unix(path),
            name: Name::Unix(mount, ino),
            queue: VecDeque::new(),
            waker: None,
        });
        self.unix.insert((host, mount, ino), key);
        key
    }

    pub(super) fn listener_address(&self, key: Key) -> io::Result<Address> {
        self.listeners.get(key).map(|listener| listener.address.clone()).ok_or(errno(libc::EBADF))
    }

    pub(super) fn poll_accept(&mut self, key: Key, cx: &mut Context<'_>) -> Poll<io::Result<Key>> {
        let Some(listener) = self.listeners.get_mut(key) else { return Poll::Ready(Err(errno(libc::EBADF))) };
        match listener.queue.pop_front() {
            Some(conn) => Poll::Ready(Ok(conn)),
            None => {
                listener.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(super) fn close_listener(&mut self, world: &World, key: Key) {
        for conn in self.forget_listener(key) {
            self.close_end(world, conn, 1, true);
        }
    }

    /// Removes a listener; gives the connections nobody has accepted.
    pub(super) fn forget_listener(&mut self, key: Key) -> VecDeque<Key> {
        let Some(listener) = self.listeners.remove(key) else { return VecDeque::new() };
        match listener.name {
            Name::Port(port) => {
                if let Some(taken) = self.ports.get_mut(&(listener.host, port)) {
                    taken.retain(|(_, other)| *other != key);
                }
            }
            Name::Unix(mount, ino) => {
                self.unix.remove(&(listener.host, mount, ino));
            }
        }
        listener.queue
    }

    // Connecting.

    pub(super) fn dial_tcp(&mut self, world: &World, owner: Owner, to: SocketAddr) -> Key {
        let from = world.host_of(owner);
        let host = if to.ip().is_loopback() { Some(from) } else { world.host_at(to.ip()) };
        match host {
            Some(host) => self.dial(world, owner, Goal::Tcp { host, ip: to.ip(), port: to.port() }),
            None => self.dial(world, owner, Goal::NoSuchHost),
        }
    }

    pub(super) fn dial_unix(&mut self, world: &World, owner: Owner, mount: usize, ino: u64) -> Key {
        self.dial(world, owner, Goal::Unix { mount, ino })
    }

    fn dial(&mut self, world: &World, owner: Owner, goal: Goal) -> Key {
        let (now, host) = (world.now_nanos(), world.host_of(owner));
        let time = match goal {
            Goal::Tcp { host: to, .. } => self.flight_time(host, to, now),
            Goal::Unix { .. } => self.flight_time(host, host, now),
            Goal::NoSuchHost => NO_SUCH_HOST,
        };
        let deadline = now + nanos(self.options.connect_give_up);
        let key = self.attempts.insert(Attempt {
            owner,
            host,
            goal,
            waker: None,
            pause: 0,
            deadline,
            result: None,
            answered: false,
        });
        world.after(time, Event::Request(key));
        key
    }

    /// A connection request has reached its target.
    pub(in crate::sim) fn request(&mut self, world: &World, key: Key) {
        let Some(attempt) = self.attempts.get(key) else { return };
        let (from, goal) = (attempt.host, attempt.goal);
        let now = world.now_nanos();
        let (to, listener) = match goal {
            Goal::NoSuchHost => return self.settle(key, Err(libc::EHOSTUNREACH)),
            Goal::Unix { mount, ino } => (from, self.unix.get(&(from, mount, ino)).copied()),
            Goal::Tcp { host, ip, port } => (host, self.listener_at(host, ip, port)),
        };
        if from != to && (!world.is_powered(to) || self.is_cut(from, to) || self.is_cut(to, from)) {
            return self.repeat_request(world, key);
        }
        match listener {
            Some(listener) => self.establish(world, key, to, listener),
            None => {
                super::super::hit("net.refused");
                self.attempt_result(key, Err(libc::ECONNREFUSED));
            }
        }
        let time = self.flight_time(to, from, now);
        world.after(time, Event::Answer(key));
    }

    fn listener_at(&self, host: HostId, ip: IpAddr, port: u16) -> Option<Key> {
        let taken = self.ports.get(&(host, port))?;
        taken.iter().find(|(at, _)| *at == ip || at.is_unspecified()).map(|(_, key)| *key)
    }

    fn establish(&mut self, world: &World, key: Key, to: HostId, listener: Key) {
        let Some(attempt) = self.attempts.get(key) else { return };
        let (owner, from, goal) = (attempt.owner, attempt.host, attempt.goal);
        let (server, client) = match goal {
            Goal::Tcp { ip, port, .. } => {
                let source =
                    if ip.is_loopback() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { world.ip_of(from) };
                let source = SocketAddr::new(source, self.free_port(from));
                (Address::Tcp(SocketAddr::new(ip, port)), Address::Tcp(source))
            }
            _ => (unnamed(), unnamed()),
        };
        let Some(acceptor) = self.listeners.get(listener).map(|listener| listener.owner) else { return };
        let conn = self.new_conn(End::new(from, owner, server), End::new(to, acceptor, client));
        if let Some(listener) = self.listeners.get_mut(listener) {
            listener.queue.push_back(conn);
            if let Some(waker) = listener.waker.take() {
                waker.wake();
            }
        }
        self.attempt_result(key, Ok(conn));
    }

    fn repeat_request(&mut self, world: &World, key: Key) {
        let now = world.now_nanos();
        let Some(attempt) = self.attempts.get_mut(key) else { return };
        if now >= attempt.deadline {
            super::super::hit("net.connect-timeout");
            return self.settle(key, Err(libc::ETIMEDOUT));
        }
        attempt.pause = if attempt.pause == 0 { REQUEST_PAUSE } else { attempt.pause * 2 };
        world.at((now + attempt.pause).min(attempt.deadline), Event::Request(key));
    }

    fn attempt_result(&mut self, key: Key, result: Result<Key, i32>) {
        if let Some(attempt) = self.attempts.get_mut(key) {
            attempt.result = Some(result);
        }
    }

    fn settle(&mut self, key: Key, result: Result<Key, i32>) {
        self.attempt_result(key, result);
        self.answer(key);
    }

    /// The answer to a connection request is back.
    pub(in crate::sim) fn answer(&mut self, key: Key) {
        let Some(attempt) = self.attempts.get_mut(key) else { return };
        attempt.answered = true;
        if let Some(waker) = attempt.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn poll_dial(&mut self, key: Key, cx: &mut Context<'_>) -> Poll<io::Result<Key>> {
        let Some(attempt) = self.attempts.get_mut(key) else {
            return Poll::Ready(Err(errno(libc::ECONNRESET)));
        };
        if let Some(result) = attempt.result.filter(|_| attempt.answered) {
            self.attempts.remove(key);
            return Poll::Ready(result.map_err(errno));
        }
        attempt.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Nobody waits for a connection request any more.
    pub(super) fn abandon(&mut self, world: &World, key: Key) {
        let made = self.attempts.remove(key).and_then(|attempt| attempt.result);
        if let Some(Ok(conn)) = made {
            self.close_end(world, conn, 0, false);
        }
    }

    pub(in crate::sim) fn drop_attempts(&mut self, owner: Owner) {
        for key in self.attempts.keys() {
            if self.attempts.get(key).is_some_and(|attempt| attempt.owner == owner) {
                self.attempts.remove(key);
            }
        }
    }
}
