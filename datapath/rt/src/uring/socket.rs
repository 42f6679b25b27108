//! Sockets on the ring: multishot accept and receive, sends that copy or not by size.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::{cqueue, opcode, squeue};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use super::files::entry_for;
use super::ops::Vectored;
use super::recv::GROUP;
use super::{Keep, Multi, Provided, Registered, Ring, outcome};
use crate::buf::{Buf, View};
use crate::net::{Address, LARGE, ZERO_COPY_MIN};

/// A listening socket with a standing multishot accept.
#[derive(Debug)]
pub(crate) struct UringListener {
    registered: Registered,
    accept: Option<Multi>,
}

fn socket(address: &Address) -> io::Result<OwnedFd> {
    let family = match address {
        Address::Tcp(std::net::SocketAddr::V4(_)) => AddressFamily::INET,
        Address::Tcp(std::net::SocketAddr::V6(_)) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    };
    Ok(net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

fn tune(fd: &OwnedFd) {
    // Only TCP sockets know the option, and a socket without it still works.
    let _unix = sockopt::set_tcp_nodelay(fd, true);
}

impl UringListener {
    pub(crate) fn bind(ring: &Ring, address: &Address) -> io::Result<Self> {
        let fd = socket(address)?;
        match address {
            Address::Tcp(tcp) => {
                sockopt::set_socket_reuseaddr(&fd, true)?;
                net::bind(&fd, tcp)?;
            }
            Address::Unix(path) => net::bind(&fd, &net::SocketAddrUnix::new(path)?)?,
        }
        net::listen(&fd, 1024)?;
        Ok(Self { registered: Registered::new(ring, fd)?, accept: None })
    }

    pub(crate) fn local_address(&self) -> io::Result<Address> {
        Address::from_any(&net::getsockname(self.registered.fd())?)
    }

    pub(crate) async fn accept(&mut self) -> io::Result<(UringReader, UringWriter, Address)> {
        loop {
            let fd = self.next().await?;
            tune(&fd);
            let peer = match net::getpeername(&fd) {
                Ok(Some(peer)) => Address::from_any(&peer)?,
                Ok(None) => Address::Unix(std::path::PathBuf::new()),
                // It has reset the connection meanwhile. That is its affair, not trouble of the listener.
                Err(rustix::io::Errno::NOTCONN) => continue,
                Err(error) => return Err(error.into()),
            };
            let (reader, writer) = split(Registered::new(self.registered.ring(), fd)?, &peer);
            return Ok((reader, writer, peer));
        }
    }

    async fn next(&mut self) -> io::Result<OwnedFd> {
        let ring = self.registered.ring().clone();
        let target = self.registered.target();
        let accept = &mut self.accept;
        let result = poll_fn(|cx| {
            loop {
                let multi = accept.get_or_insert_with(|| {
                    let entry = entry_for!(target, |fd| opcode::AcceptMulti::new(fd)
                        .flags(libc::SOCK_CLOEXEC)
                        .build());
                    ring.submit_multi(entry).of_descriptors()
                });
                match multi.poll_next(cx) {
                    std::task::Poll::Pending => return std::task::Poll::Pending,
                    std::task::Poll::Ready(Some((result, _))) => {
                        return std::task::Poll::Ready(outcome(result));
                    }
                    std::task::Poll::Ready(None) => *accept = None,
                }
            }
        })
        .await?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
    }
}

pub(crate) async fn connect(ring: &Ring, address: &Address) -> io::Result<(UringReader, UringWriter)> {
    let fd = socket(address)?;
    tune(&fd);
    let mut storage: Box<libc::sockaddr_storage> = Box::new(address.storage()?);
    let len = address.storage_len();
    let registered = Registered::new(ring, fd)?;
    let start: *const libc::sockaddr = (&raw mut *storage).cast();
    let entry = entry_for!(registered.target(), |fd| opcode::Connect::new(fd, start, len).build());
    outcome(ring.submit(entry, Keep::Address(storage)).cancel_on_drop().await.0)?;
    Ok(split(registered, address))
}

#[derive(Debug)]
struct Socket {
    registered: Registered,
    /// Sends from this size on are zero-copy, in bytes.
    zero_copy_min: Cell<usize>,
}

fn split(registered: Registered, peer: &Address) -> (UringReader, UringWriter) {
    let zero_copy_min = if is_remote(&registered, peer) { ZERO_COPY_MIN } else { usize::MAX };
    let socket = Rc::new(Socket { registered, zero_copy_min: Cell::new(zero_copy_min) });
    (
        UringReader { socket: Rc::clone(&socket), multi: None, eof: false, large: false },
        UringWriter { socket },
    )
}

/// Whether what is sent leaves this host. On loopback, be it to an address of a network card, and on Unix sockets the
/// kernel copies a "zero-copy" send after all, and charges for the attempt.
fn is_remote(registered: &Registered, peer: &Address) -> bool {
    let Address::Tcp(peer) = peer else { return false };
    let local = net::getsockname(registered.fd()).map_err(io::Error::from);
    let same = matches!(
        local.and_then(|local| Address::from_any(&local)),
        Ok(Address::Tcp(local)) if local.ip() == peer.ip()
    );
    !peer.ip().is_loopback() && !same
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct UringReader {
    socket: Rc<Socket>,
    multi: Option<Multi>,
    eof: bool,
    /// The last payload was received directly: expect another one and do not arm multishot in between.
    large: bool,
}

impl UringReader {
    pub(crate) async fn recv(&mut self) -> io::Result<Option<Provided>> {
        loop {
            if self.eof {
                return Ok(None);
            }
            let ring = self.socket.registered.ring().clone();
            if self.multi.is_none() {
                while !ring.0.recv.borrow().has_room() {
                    ring.0.recv_room.notified().await;
                }
                // It is kept like a standing one: a caller that gives up waiting loses nothing.
                self.multi = Some(ring.submit_multi(self.entry()));
                // What is free is free for all: nothing may ever come here.
                if ring.0.recv.borrow().has_room() {
                    ring.0.recv_room.notify_one();
                }
            }
            let multi = self.multi.as_mut().expect("armed above");
            match poll_fn(|cx| multi.poll_next(cx)).await {
                None => self.multi = None,
                Some((result, flags)) => {
                    if let Some(received) = self.received(&ring, result, flags)? {
                        return Ok(received);
                    }
                }
            }
        }
    }

    /// A standing receive, or, where a direct one is likely to follow, a single one.
    fn entry(&mut self) -> squeue::Entry {
        let target = self.socket.registered.target();
        if !std::mem::take(&mut self.large) {
            return entry_for!(target, |fd| opcode::RecvMulti::new(fd, GROUP).build());
        }
        let len = super::recv::BUFFER as u32;
        let entry = entry_for!(target, |fd| {
            opcode::Recv::new(fd, std::ptr::null_mut(), len).buf_group(GROUP).build()
        });
        entry.flags(squeue::Flags::BUFFER_SELECT)
    }

    /// Some(data), Some(None) at the end of the stream, None when buffers ran out and the receive must be armed again.
    fn received(&mut self, ring: &Ring, result: i32, flags: u32) -> io::Result<Option<Option<Provided>>> {
        let provided = cqueue::buffer_select(flags)
            .map(|id| Provided::new(ring, id, usize::try_from(result).unwrap_or(0)));
        match result {
            0 => {
                self.eof = true;
                Ok(Some(None))
            }
            // Out of buffers, or stopped for a direct receive that then needed less than it thought.
            error if error == -libc::ENOBUFS || error == -libc::ECANCELED => Ok(None),
            _ => {
                outcome(result)?;
                Ok(Some(provided))
            }
        }
    }

    /// Receives exactly `buf[from..]`, straight into the buffer where that pays.
    pub(crate) async fn recv_into(
        &mut self,
        mut buf: Buf,
        mut from: usize,
    ) -> (io::Result<Option<Provided>>, Buf) {
        // What multishot has taken off the socket already comes first; a rest too small for a direct receive comes
        // the same way.
        while buf.len() - from > 0 {
            if buf.len() - from >= LARGE {
                match self.stop_multishot().await {
                    Ok(None) => break,
                    Ok(Some(part)) => match fill(&mut buf, &mut from, part) {
                        None => continue,
                        rest => return (Ok(rest), buf),
                    },
                    Err(error) => return (Err(error), buf),
                }
            }
            match self.recv().await {
                Ok(Some(part)) => {
                    if let Some(rest) = fill(&mut buf, &mut from, part) {
                        return (Ok(Some(rest)), buf);
                    }
                }
                Ok(None) => return (Err(io::ErrorKind::UnexpectedEof.into()), buf),
                Err(error) => return (Err(error), buf),
            }
        }
        while from < buf.len() {
            self.large = true;
            // SAFETY: `from < len`, inside the buffer.
            let start = unsafe { buf.as_mut_ptr().add(from) };
            let left = (buf.len() - from) as u32;
            let entry = entry_for!(self.socket.registered.target(), |fd| {
                opcode::Recv::new(fd, start, left).flags(libc::MSG_WAITALL).build()
            });
            let ring = self.socket.registered.ring().clone();
            let (result, keep) = ring.submit(entry, Keep::Buf(buf)).cancel_on_drop().await;
            let Keep::Buf(back) = keep else { unreachable!("an operation gives back what it kept") };
            buf = back;
            match outcome(result) {
                Ok(0) => return (Err(io::ErrorKind::UnexpectedEof.into()), buf),
                Ok(count) => from += count,
                Err(error) => return (Err(error), buf),
            }
        }
        (Ok(None), buf)
    }

    /// Whether the kernel takes data off the socket by itself.
    pub(crate) fn is_standing(&self) -> bool {
        self.multi.is_some()
    }

    /// Ends the standing receive and copies what it had taken. The end of the stream shows at the next receive.
    pub(crate) async fn pause(&mut self, copied: &mut Vec<u8>) -> io::Result<()> {
        loop {
            match self.stop_multishot().await {
                Ok(Some(part)) => copied.extend_from_slice(&part),
                Ok(None) => return Ok(()),
                Err(_) if self.eof => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the standing receive; gives data it had already taken, one part per call, then `None`.
    async fn stop_multishot(&mut self) -> io::Result<Option<Provided>> {
        let ring = self.socket.registered.ring().clone();
        let Some(multi) = &mut self.multi else { return Ok(None) };
        multi.stop();
        while let Some((result, flags)) = poll_fn(|cx| multi.poll_next(cx)).await {
            if let Some(id) = cqueue::buffer_select(flags) {
                let part = Provided::new(&ring, id, usize::try_from(result).unwrap_or(0));
                if result > 0 {
                    return Ok(Some(part));
                }
            }
            match result {
                0 => self.eof = true,
                error if error == -libc::ECANCELED || error == -libc::ENOBUFS => {}
                error => outcome(error).map(drop)?,
            }
        }
        self.multi = None;
        if self.eof { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) }
    }
}

/// Copies `part` into `buf[from..]`; gives back the part's end when it does not fit.
fn fill(buf: &mut Buf, from: &mut usize, mut part: Provided) -> Option<Provided> {
    let count = part.len().min(buf.len() - *from);
    buf[*from..*from + count].copy_from_slice(&part[..count]);
    *from += count;
    if count == part.len() {
        return None;
    }
    part.advance(count);
    Some(part)
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct UringWriter {
    socket: Rc<Socket>,
}

impl UringWriter {
    pub(crate) async fn send_all(&self, mut data: View) -> io::Result<()> {
        while !data.is_empty() {
            let sent = self.send(data.clone()).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            data = data.slice(sent..);
        }
        Ok(())
    }

    async fn send(&self, data: View) -> io::Result<usize> {
        let (start, len) = (data.first_byte(), data.len() as u32);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let ring = self.socket.registered.ring();
        let target = self.socket.registered.target();
        if data.len() >= self.socket.zero_copy_min.get() {
            let index = data.registered();
            let entry = entry_for!(target, |fd| {
                opcode::SendZc::new(fd, start, len).flags(flags).buf_index(index).build()
            });
            match outcome(ring.submit(entry, Keep::View(data.clone())).cancel_on_drop().await.0) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    self.set_zero_copy_min(usize::MAX);
                }
                other => return other,
            }
        }
        let entry = entry_for!(target, |fd| opcode::Send::new(fd, start, len).flags(flags).build());
        outcome(ring.submit(entry, Keep::View(data)).cancel_on_drop().await.0)
    }

    pub(crate) async fn send_vectored(&self, mut views: Vec<View>) -> io::Result<()> {
        views.retain(|view| !view.is_empty());
        while !views.is_empty() {
            let mut sent = self.send_some(views.clone()).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let whole = views.iter().take_while(|view| {
                let fits = sent >= view.len();
                if fits {
                    sent -= view.len();
                }
                fits
            });
            let whole = whole.count();
            views.drain(..whole);
            if sent > 0 {
                views[0] = views[0].slice(sent..);
            }
        }
        Ok(())
    }

    async fn send_some(&self, mut views: Vec<View>) -> io::Result<usize> {
        views.truncate(libc::UIO_MAXIOV as usize);
        let iovecs: Vec<libc::iovec> = views
            .iter()
            .map(|view| libc::iovec { iov_base: view.first_byte().cast_mut().cast(), iov_len: view.len() })
            .collect();
        // SAFETY: all-zero is a valid `msghdr`.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        let mut vectored = Box::new(Vectored { views, iovecs, header });
        vectored.header.msg_iov = vectored.iovecs.as_mut_ptr();
        vectored.header.msg_iovlen = vectored.iovecs.len() as _;
        let header: *const libc::msghdr = &raw const vectored.header;
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
        let entry = entry_for!(self.socket.registered.target(), |fd| {
            opcode::SendMsg::new(fd, header).flags(flags).build()
        });
        outcome(
            self.socket.registered.ring().submit(entry, Keep::Vectored(vectored)).cancel_on_drop().await.0,
        )
    }

    pub(crate) fn set_zero_copy_min(&self, bytes: usize) {
        self.socket.zero_copy_min.set(bytes);
    }

    /// Ends the connection in both directions: a receive under way completes.
    pub(crate) fn shutdown(&self) {
        // The peer may have gone already; then there is nothing left to end.
        let _gone = net::shutdown(self.socket.registered.fd(), net::Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::context::{self, Driver};
    use crate::{Executor, ExecutorOptions};

    const LONG: Duration = Duration::from_secs(20);

    fn run<F: Future + 'static>(recv_buffers: u16, main: F) -> F::Output {
        let options = ExecutorOptions { recv_buffers, ..ExecutorOptions::default() };
        Executor::start(&options).expect("io_uring works here").run(main)
    }

    fn ring() -> Ring {
        context::with(|core| match &core.driver {
            Driver::Uring(ring) => ring.clone(),
            Driver::Sim(_) => unreachable!("this test runs on a ring"),
        })
    }

    /// A connection: the reader of one side, the writer of the other, and the other halves.
    async fn pair(
        ring: &Ring,
        listener: &mut UringListener,
    ) -> (UringReader, UringWriter, UringReader, UringWriter) {
        let (their_reader, writer) = connect(ring, &listener.local_address().unwrap()).await.unwrap();
        let (reader, their_writer, _) = listener.accept().await.unwrap();
        (reader, writer, their_reader, their_writer)
    }

    fn listen(ring: &Ring) -> UringListener {
        UringListener::bind(ring, &Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap()
    }

    #[test]
    fn a_free_buffer_is_there_for_whoever_gets_data() {
        let _alone = crate::uring::files::tests::alone();
        run(2, async {
            let ring = ring();
            let mut listener = listen(&ring);
            let (mut busy, to_busy, ..) = pair(&ring, &mut listener).await;
            let mut held = Vec::new();
            for _ in 0..2 {
                to_busy.send_all(View::copy_of(b"held")).await.unwrap();
                held.push(busy.recv().await.unwrap().unwrap());
            }
            assert!(!ring.0.recv.borrow().has_room());
            let (mut idle, _to_idle, _a, _b) = pair(&ring, &mut listener).await;
            let (mut awaited, to_awaited, _c, _d) = pair(&ring, &mut listener).await;
            let idling = crate::spawn(async move { idle.recv().await.map(drop) });
            let receiving =
                crate::spawn(async move { awaited.recv().await.map(|data| data.unwrap().to_vec()) });
            crate::yield_now().await;
            // One of both takes this for itself, and nothing ever comes to it.
            held.pop();
            to_awaited.send_all(View::copy_of(b"at last")).await.unwrap();
            let received = crate::time::timeout(LONG, receiving).await.expect("there is a buffer");
            assert_eq!(received.unwrap().unwrap(), b"at last");
            idling.abort();
        });
    }
}
