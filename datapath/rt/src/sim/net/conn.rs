//! Established connections: two byte pipes, each from one end to the other.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, Waker};

use super::Net;
use crate::net::Address;
use crate::sim::World;
use crate::sim::disk::nanos;
use crate::sim::event::Event;
use crate::sim::host::HostId;
use crate::sim::slab::Key;
use crate::task::Owner;

/// The most bytes that travel as one, and the most a receive gives.
const SEGMENT_MAX: usize = 64 << 10;
const RECEIVE_MAX: usize = 32 << 10;
/// A dead process's sockets are closed at most this much later, in nanoseconds.
const CLOSE_MAX: u64 = 20_000_000;

/// One end of a connection.
pub(super) struct End {
    pub(super) host: HostId,
    pub(super) owner: Owner,
    pub(super) peer: Address,
    /// The socket exists: a process or, after its death, its kernel holds it.
    open: bool,
    /// Its process is dead: only the kernel closes it.
    orphan: bool,
    /// It will be closed with a reset.
    hard: bool,
    /// Sends and receives have been ended by `shutdown`.
    shut: bool,
    error: Option<i32>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Halves a process holds.
    halves: u8,
}

impl End {
    pub(super) fn new(host: HostId, owner: Owner, peer: Address) -> Self {
        Self {
            host,
            owner,
            peer,
            open: true,
            orphan: false,
            hard: false,
            shut: false,
            error: None,
            reader: None,
            writer: None,
            halves: 2,
        }
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn fail(&mut self, error: i32) {
        self.error.get_or_insert(error);
        self.wake();
    }
}

#[derive(Debug)]
enum Cargo {
    Bytes(Vec<u8>),
    /// The sender has ended the stream.
    End,
}

/// One direction of a connection.
#[derive(Default)]
pub(super) struct Pipe {
    /// On the way, and when each part arrives at the earliest.
    flight: VecDeque<(u64, Cargo)>,
    /// Arrived and not yet received; the first `taken` bytes of the first part are gone.
    arrived: VecDeque<Vec<u8>>,
    taken: usize,
    ended: bool,
    /// Sent and not yet received, as far as the sender knows.
    outstanding: usize,
    /// Received, but the sender does not know.
    unreported: usize,
    last_arrival: u64,
    scheduled: bool,
    pause: u64,
    stuck_since: Option<u64>,
}

/// A connection; pipe `i` carries what end `i` sends.
pub(super) struct Conn {
    pub(super) ends: [End; 2],
    pipes: [Pipe; 2],
    /// Nothing arrives any more and nobody is told.
    pub(super) silent: bool,
}

impl Net {
    pub(super) fn new_conn(&mut self, client: End, server: End) -> Key {
        self.conns.insert(Conn {
            ends: [client, server],
            pipes: [Pipe::default(), Pipe::default()],
            silent: false,
        })
    }

    pub(super) fn peer(&self, conn: Key, end: usize) -> Option<Address> {
        self.conns.get(conn).map(|conn| conn.ends[end].peer.clone())
    }

    /// Puts as much of `data` on the way as the window takes.
    pub(super) fn poll_send(
        &mut self,
        world: &World,
        key: Key,
        end: usize,
        data: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(conn) = self.conns.get_mut(key) else { return Poll::Ready(Err(errno(libc::ECONNRESET))) };
        if let Some(error) = conn.ends[end].error {
            return Poll::Ready(Err(errno(error)));
        }
        if conn.ends[end].shut || !conn.ends[end].open {
            return Poll::Ready(Err(errno(libc::EPIPE)));
        }
        let room = self.options.window.saturating_sub(conn.pipes[end].outstanding);
        if room == 0 {
            super::super::hit("net.window-full");
            conn.ends[end].writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut count = room.min(data.len()).min(SEGMENT_MAX);
        if count > 1 && self.rng.one_in(8) {
            count = 1 + self.rng.below(count as u64 - 1) as usize;
        }
        conn.pipes[end].outstanding += count;
        self.depart(world, key, end, Cargo::Bytes(data[..count].to_vec()));
        Poll::Ready(Ok(count))
    }

    fn depart(&mut self, world: &World, key: Key, from: usize, cargo: Cargo) {
        let Some(conn) = self.conns.get(key) else { return };
        let (here, there) = (conn.ends[from].host, conn.ends[1 - from].host);
        let bytes = if let Cargo::Bytes(bytes) = &cargo { bytes.len() } else { 0 };
        let transfer = (bytes as u64).saturating_mul(1_000_000_000) / self.options.bandwidth.max(1);
        let now = world.now_nanos();
        let time = self.flight_time(here, there, now);
        let Some(conn) = self.conns.get_mut(key) else { return };
        let pipe = &mut conn.pipes[from];
        pipe.last_arrival = pipe.last_arrival.max(now + time) + transfer;
        pipe.flight.push_back((pipe.last_arrival, cargo));
        if !pipe.scheduled {
            pipe.scheduled = true;
            world.at(pipe.last_arrival, Event::Deliver { conn: key, from });
        }
    }

    /// Brings what is due from end `from` to the other one.
    pub(in crate::sim) fn deliver(&mut self, world: &World, key: Key, from: usize) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.pipes[from].scheduled = false;
        let (here, there) = (conn.ends[from].host, conn.ends[1 - from].host);
        if conn.silent || self.is_cut(here, there) || !world.is_powered(there) {
            return self.try_later(world, key, from);
        }
        let now = world.now_nanos();
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Conn { ends, pipes, .. } = conn;
        let pipe = &mut pipes[from];
        (pipe.pause, pipe.stuck_since) = (0, None);
        let receiver = &mut ends[1 - from];
        let mut refused = false;
        while let Some((at, _)) = pipe.flight.front() {
            if *at > now {
                pipe.scheduled = true;
                world.at(*at, Event::Deliver { conn: key, from });
                break;
            }
            match pipe.flight.pop_front() {
                Some((_, Cargo::Bytes(_))) if !receiver.open => refused = true,
                Some((_, Cargo::Bytes(bytes))) => pipe.arrived.push_back(bytes),
                Some((_, Cargo::End)) => pipe.ended = true,
                None => {}
            }
        }
        if let Some(waker) = receiver.reader.take() {
            waker.wake();
        }
        if refused {
            conn.pipes[from].flight.clear();
            self.send_reset(world, key, from);
        }
        self.collect(key);
    }

    /// What is on the way cannot arrive now.
    fn try_later(&mut self, world: &World, key: Key, from: usize) {
        let now = world.now_nanos();
        let first = nanos(self.options.retry_min);
        let last = self.conns.get(key).map_or(0, |conn| conn.pipes[from].pause);
        let pause = self.backoff(last, first);
        let give_up = nanos(self.options.give_up);
        let Some(conn) = self.conns.get_mut(key) else { return };
        let pipe = &mut conn.pipes[from];
        if pipe.flight.is_empty() {
            return;
        }
        let since = *pipe.stuck_since.get_or_insert(now);
        if now - since > give_up {
            super::super::hit("net.timeout");
            pipe.flight.clear();
            conn.ends[from].fail(libc::ETIMEDOUT);
            self.collect(key);
            return;
        }
        pipe.pause = pause;
        pipe.scheduled = true;
        world.at(now + pause, Event::Deliver { conn: key, from });
    }

    /// Takes some of what has arrived at an end; `None` at the end of the stream.
    pub(super) fn poll_recv(
        &mut self,
        key: Key,
        end: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<crate::buf::Buf>>> {
        let Some(conn) = self.conns.get_mut(key) else { return Poll::Ready(Err(errno(libc::ECONNRESET))) };
        let Conn { ends, pipes, silent } = conn;
        let (mine, pipe) = (&mut ends[end], &mut pipes[1 - end]);
        let available: usize = pipe.arrived.iter().take(4).map(Vec::len).sum::<usize>() - pipe.taken;
        if available == 0 {
            if let Some(error) = mine.error {
                return Poll::Ready(Err(errno(error)));
            }
            if pipe.ended || mine.shut {
                return Poll::Ready(Ok(None));
            }
            match &mut mine.reader {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let mut count = available.min(RECEIVE_MAX);
        if count > 1 && self.rng.one_in(4) {
            count = 1 + self.rng.below(count as u64 - 1) as usize;
        }
        let buf = pipe.take(count);
        let (here, there, silent) = (mine.host, ends[1 - end].host, *silent);
        pipe.unreported += count;
        if !silent && !self.is_cut(here, there) {
            self.report(key, 1 - end);
        }
        Poll::Ready(Ok(Some(buf)))
    }

    /// Tells a sender what has been received.
    fn report(&mut self, key: Key, from: usize) {
        let Some(Conn { ends, pipes, .. }) = self.conns.get_mut(key) else { return };
        let pipe = &mut pipes[from];
        pipe.outstanding -= std::mem::take(&mut pipe.unreported);
        if let Some(waker) = ends[from].writer.take() {
            waker.wake();
        }
    }

    /// After a link has healed: senders learn what has been received meanwhile.
    pub(super) fn catch_up(&mut self) {
        for key in self.conns.keys() {
            for from in [0, 1] {
                let Some(conn) = self.conns.get(key) else { continue };
                let cut = self.is_cut(conn.ends[1 - from].host, conn.ends[from].host);
                if conn.pipes[from].unreported > 0 && !conn.silent && !cut {
                    self.report(key, from);
                }
            }
        }
    }

    /// Ends both directions, as `shutdown(2)` does.
    pub(super) fn shutdown(&mut self, world: &World, key: Key, end: usize) {
        let Some(mine) = self.conns.get_mut(key).map(|conn| &mut conn.ends[end]) else { return };
        if !mine.open || mine.shut || mine.error.is_some() {
            return;
        }
        mine.shut = true;
        mine.wake();
        self.depart(world, key, end, Cargo::End);
    }

    /// A process has dropped one of its halves of an end.
    pub(super) fn drop_half(&mut self, world: &World, key: Key, end: usize) {
        let Some(mine) = self.conns.get_mut(key).map(|conn| &mut conn.ends[end]) else { return };
        mine.halves = mine.halves.saturating_sub(1);
        if mine.halves == 0 && !mine.orphan {
            self.close_end(world, key, end, false);
        }
    }

    /// Closes a socket: with a reset if something was left unread or `hard`, else by ending the stream.
    pub(in crate::sim) fn close_end(&mut self, world: &World, key: Key, end: usize, hard: bool) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let mine = &mut conn.ends[end];
        if !mine.open {
            return;
        }
        mine.open = false;
        (mine.reader, mine.writer) = (None, None);
        let (failed, shut) = (mine.error.is_some(), mine.shut);
        let unread = !conn.pipes[1 - end].arrived.is_empty();
        conn.pipes[1 - end].arrived.clear();
        conn.pipes[1 - end].taken = 0;
        if !failed && (unread || hard) {
            conn.pipes[end].flight.clear();
            self.send_reset(world, key, 1 - end);
        } else if !failed && !shut {
            self.depart(world, key, end, Cargo::End);
        }
        self.collect(key);
    }

    /// The event of a dead process's socket being closed.
    pub(in crate::sim) fn close_orphan(&mut self, world: &World, key: Key, end: usize) {
        let hard = self.conns.get(key).is_some_and(|conn| conn.ends[end].hard);
        self.close_end(world, key, end, hard);
    }

    /// Sends a reset to an end; it is lost if the link is cut.
    fn send_reset(&mut self, world: &World, key: Key, to: usize) {
        let Some(conn) = self.conns.get(key).filter(|conn| !conn.silent) else { return };
        let (here, there) = (conn.ends[1 - to].host, conn.ends[to].host);
        if self.is_cut(here, there) {
            super::super::hit("net.reset-lost");
            return;
        }
        let time = self.flight_time(here, there, world.now_nanos());
        world.after(time, Event::Reset { conn: key, end: to });
    }

    /// An end is told that its connection is no more.
    pub(in crate::sim) fn reset(&mut self, key: Key, end: usize) {
        let drop_unread = self.rng.one_in(2);
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.ends[end].open {
            conn.ends[end].fail(libc::ECONNRESET);
        }
        conn.pipes[end].flight.clear();
        if drop_unread {
            conn.pipes[1 - end].arrived.clear();
            conn.pipes[1 - end].taken = 0;
        }
        self.collect(key);
    }

    /// Forgets a connection that neither end has: what is under way would reach nobody.
    fn collect(&mut self, key: Key) {
        if self.conns.get(key).is_some_and(|conn| conn.ends.iter().all(|end| !end.open)) {
            self.conns.remove(key);
        }
    }

    pub(super) fn orphan_conns(&mut self, world: &World, owner: Owner, killed: bool) {
        for (key, conn) in self.conns.iter_mut() {
            for (end, mine) in conn.ends.iter_mut().enumerate() {
                if mine.owner == owner && mine.open && !mine.orphan {
                    mine.orphan = true;
                    mine.hard = killed && self.rng.one_in(3);
                    (mine.reader, mine.writer) = (None, None);
                    let wait = if killed { self.rng.below(CLOSE_MAX) } else { 0 };
                    world.after(wait, Event::Close { conn: key, end });
                }
            }
        }
    }

    pub(super) fn lose_conns(&mut self, world: &World, host: HostId, tell_peers: bool) {
        for key in self.conns.keys() {
            for end in [0, 1] {
                let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.ends[end].host == host) else {
                    continue;
                };
                conn.ends[end].open = false;
                conn.ends[end].orphan = true;
                conn.pipes[end].flight.clear();
                conn.pipes[1 - end].arrived.clear();
                conn.pipes[1 - end].taken = 0;
                if tell_peers && conn.ends[1 - end].host != host {
                    self.send_reset(world, key, 1 - end);
                }
                self.collect(key);
            }
        }
    }
}

impl Pipe {
    /// The next `count` bytes that have arrived.
    fn take(&mut self, count: usize) -> crate::buf::Buf {
        let mut buf = crate::buf::Buf::new(count);
        let mut filled = 0;
        while filled < count {
            let Some(part) = self.arrived.front() else { break };
            let rest = &part[self.taken..];
            let some = rest.len().min(count - filled);
            buf[filled..filled + some].copy_from_slice(&rest[..some]);
            filled += some;
            self.taken += some;
            if some == rest.len() {
                self.arrived.pop_front();
                self.taken = 0;
            }
        }
        buf
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}
