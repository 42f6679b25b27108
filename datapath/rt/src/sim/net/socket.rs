//! The sockets that simulated processes hold.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use super::super::World;
use crate::net::{Address, Received};
use crate::sim::slab::Key;

/// A listening socket.
pub(crate) struct SimListener {
    world: Rc<World>,
    key: Key,
}

/// The receiving half of a connection.
pub(crate) struct SimReader(Half);

/// The sending half of a connection.
pub(crate) struct SimWriter(Half);

struct Half {
    world: Rc<World>,
    conn: Key,
    end: usize,
}

macro_rules! opaque {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

opaque!(SimListener, SimReader, SimWriter);

impl Drop for Half {
    fn drop(&mut self) {
        self.world.net.borrow_mut().drop_half(&self.world, self.conn, self.end);
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.world.net.borrow_mut().close_listener(&self.world, self.key);
    }
}

fn halves(world: &Rc<World>, conn: Key, end: usize) -> (SimReader, SimWriter) {
    let half = || Half { world: Rc::clone(world), conn, end };
    (SimReader(half()), SimWriter(half()))
}

impl SimListener {
    pub(crate) fn bind(address: &Address) -> io::Result<Self> {
        let (world, owner) = crate::sim::calling();
        let key = match address {
            Address::Tcp(tcp) => world.net.borrow_mut().bind_tcp(&world, owner, *tcp)?,
            Address::Unix(path) => {
                let host = world.host_of(owner);
                let (mount, names) = world.hosts.borrow()[host.0 as usize].locate(path)?;
                let ino = world.with_fs((host, mount), |fs| fs.create_socket(&names))?;
                world.net.borrow_mut().bind_unix(owner, host, path.clone(), mount, ino)
            }
        };
        Ok(Self { world, key })
    }

    pub(crate) fn local_address(&self) -> io::Result<Address> {
        self.world.net.borrow().listener_address(self.key)
    }

    pub(crate) async fn accept(&mut self) -> io::Result<(SimReader, SimWriter, Address)> {
        let conn = poll_fn(|cx| self.world.net.borrow_mut().poll_accept(self.key, cx)).await?;
        let peer = self.world.net.borrow().peer(conn, 1);
        let (reader, writer) = halves(&self.world, conn, 1);
        // A connection that has died in the queue is still given out, and fails at its first use.
        Ok((reader, writer, peer.unwrap_or(Address::Unix(std::path::PathBuf::new()))))
    }
}

/// A connection request nobody waits for is withdrawn.
struct Dialing {
    world: Rc<World>,
    key: Key,
}

impl Drop for Dialing {
    fn drop(&mut self) {
        self.world.net.borrow_mut().abandon(&self.world, self.key);
    }
}

pub(crate) async fn connect(address: &Address) -> io::Result<(SimReader, SimWriter)> {
    let (world, owner) = crate::sim::calling();
    let key = match address {
        Address::Tcp(tcp) => world.net.borrow_mut().dial_tcp(&world, owner, *tcp),
        Address::Unix(path) => {
            let host = world.host_of(owner);
            let (mount, names) = world.hosts.borrow()[host.0 as usize].locate(path)?;
            let ino = world.with_fs((host, mount), |fs| fs.find_socket(&names))?;
            world.net.borrow_mut().dial_unix(&world, owner, mount, ino)
        }
    };
    let dialing = Dialing { world, key };
    let conn = poll_fn(|cx| dialing.world.net.borrow_mut().poll_dial(key, cx)).await?;
    Ok(halves(&dialing.world, conn, 0))
}

impl SimReader {
    pub(crate) async fn recv(&mut self) -> io::Result<Option<Received>> {
        let half = &self.0;
        let received = poll_fn(|cx| half.world.net.borrow_mut().poll_recv(half.conn, half.end, cx)).await?;
        Ok(received.map(Received::owned))
    }
}

impl SimWriter {
    pub(crate) async fn send_all(&self, data: &[u8]) -> io::Result<()> {
        let half = &self.0;
        let mut sent = 0;
        let mut rested = !half.world.chance(4);
        poll_fn(|cx| {
            while sent < data.len() {
                match half.world.net.borrow_mut().poll_send(
                    &half.world,
                    half.conn,
                    half.end,
                    &data[sent..],
                    cx,
                ) {
                    Poll::Ready(Ok(count)) => sent += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if std::mem::replace(&mut rested, true) {
                return Poll::Ready(Ok(()));
            }
            // On a ring a send is never done at its first poll; one in four is not here, either.
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    pub(crate) fn shutdown(&self) {
        self.0.world.net.borrow_mut().shutdown(&self.0.world, self.0.conn, self.0.end);
    }
}
