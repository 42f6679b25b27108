//! Stream sockets.
//!
//! Data arrives in memory the driver picks ([`Reader::recv`]) or straight in an aligned buffer
//! ([`Reader::recv_exact`]); it leaves from counted views, without a copy in the kernel where that pays.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use crate::buf::{Buf, View};
use crate::context::{self, Driver};
use crate::sim;
use crate::uring;

/// Payloads from this size on are received straight into their buffer, in bytes.
pub const LARGE: usize = 16 << 10;
/// Sends from this size on leave the data in place until the peer has it, in bytes; never on loopback, where the
/// kernel copies anyway; `docs/decisions/0006-zero-copy-threshold.md` has the numbers.
pub const ZERO_COPY_MIN: usize = 32 << 10;

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Address {
    pub(crate) fn from_any(any: &rustix::net::SocketAddrAny) -> io::Result<Self> {
        if let Ok(tcp) = SocketAddr::try_from(any.clone()) {
            return Ok(Self::Tcp(tcp));
        }
        let unix = rustix::net::SocketAddrUnix::try_from(any.clone()).map_err(io::Error::from)?;
        let path = unix.path().map(|path| PathBuf::from(path.to_string_lossy().into_owned()));
        Ok(Self::Unix(path.unwrap_or_default()))
    }

    fn any(&self) -> io::Result<rustix::net::SocketAddrAny> {
        Ok(match self {
            Self::Tcp(tcp) => (*tcp).into(),
            Self::Unix(path) => rustix::net::SocketAddrUnix::new(path)?.into(),
        })
    }

    pub(crate) fn storage(&self) -> io::Result<libc::sockaddr_storage> {
        let any = self.any()?;
        // SAFETY: all-zero is a valid `sockaddr_storage`.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        // SAFETY: the address is at most as long as the storage, which both types guarantee.
        unsafe {
            std::ptr::copy_nonoverlapping(
                any.as_ptr().cast::<u8>(),
                (&raw mut storage).cast(),
                any.addr_len() as usize,
            );
        }
        Ok(storage)
    }

    pub(crate) fn storage_len(&self) -> libc::socklen_t {
        self.any().map_or(0, |any| any.addr_len() as libc::socklen_t)
    }
}

#[derive(Debug)]
enum ListenerInner {
    Uring(uring::UringListener),
    Sim(sim::SimListener),
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener(ListenerInner);

impl Listener {
    /// Listens at `address`; TCP port 0 picks a free one.
    ///
    /// # Errors
    /// Those of `bind(2)` and `listen(2)`.
    pub fn bind(address: &Address) -> io::Result<Self> {
        context::with(|core| match &core.driver {
            Driver::Uring(ring) => uring::UringListener::bind(ring, address).map(ListenerInner::Uring),
            Driver::Sim(_) => sim::SimListener::bind(address).map(ListenerInner::Sim),
        })
        .map(Self)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    pub fn local_address(&self) -> io::Result<Address> {
        match &self.0 {
            ListenerInner::Uring(listener) => listener.local_address(),
            ListenerInner::Sim(listener) => listener.local_address(),
        }
    }

    /// The next connection and where it comes from.
    ///
    /// # Errors
    /// Those of `accept(2)`; the listener stays usable.
    pub async fn accept(&mut self) -> io::Result<(Reader, Writer, Address)> {
        match &mut self.0 {
            ListenerInner::Uring(listener) => {
                let (reader, writer, peer) = listener.accept().await?;
                Ok((Reader::new(ReaderInner::Uring(reader)), Writer(WriterInner::Uring(writer)), peer))
            }
            ListenerInner::Sim(listener) => {
                let (reader, writer, peer) = listener.accept().await?;
                Ok((Reader::new(ReaderInner::Sim(reader)), Writer(WriterInner::Sim(writer)), peer))
            }
        }
    }
}

/// Connects to `address`.
///
/// # Errors
/// Those of `connect(2)`.
pub async fn connect(address: &Address) -> io::Result<(Reader, Writer)> {
    let ring = context::with(|core| match &core.driver {
        Driver::Uring(ring) => Some(ring.clone()),
        Driver::Sim(_) => None,
    });
    match ring {
        Some(ring) => {
            let (reader, writer) = uring::connect(&ring, address).await?;
            Ok((Reader::new(ReaderInner::Uring(reader)), Writer(WriterInner::Uring(writer))))
        }
        None => {
            let (reader, writer) = sim::connect(address).await?;
            Ok((Reader::new(ReaderInner::Sim(reader)), Writer(WriterInner::Sim(writer))))
        }
    }
}

#[derive(Debug)]
enum ReceivedInner {
    Provided(uring::Provided),
    Owned { buf: Buf, from: usize },
}

/// Bytes that have arrived. Drop it before waiting for more: the memory is the driver's.
#[derive(Debug)]
pub struct Received(ReceivedInner);

impl Received {
    pub(crate) fn owned(buf: Buf) -> Self {
        Self(ReceivedInner::Owned { buf, from: 0 })
    }

    /// Drops the first `count` bytes.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn advance(&mut self, count: usize) {
        match &mut self.0 {
            ReceivedInner::Provided(provided) => provided.advance(count),
            ReceivedInner::Owned { buf, from } => {
                assert!(*from + count <= buf.len(), "cannot skip more than there is");
                *from += count;
            }
        }
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            ReceivedInner::Provided(provided) => provided,
            ReceivedInner::Owned { buf, from } => &buf[*from..],
        }
    }
}

impl DerefMut for Received {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            ReceivedInner::Provided(provided) => provided,
            ReceivedInner::Owned { buf, from } => &mut buf[*from..],
        }
    }
}

#[derive(Debug)]
enum ReaderInner {
    Uring(uring::UringReader),
    Sim(sim::SimReader),
}

/// The receiving half of a connection.
#[derive(Debug)]
pub struct Reader {
    inner: ReaderInner,
    /// Bytes a direct receive took too many.
    left: Option<Received>,
}

impl Reader {
    fn new(inner: ReaderInner) -> Self {
        Self { inner, left: None }
    }

    /// What has arrived next, at least one byte; `None` when the peer has ended the stream.
    ///
    /// # Errors
    /// Those of `recv(2)`.
    pub async fn recv(&mut self) -> io::Result<Option<Received>> {
        if let Some(left) = self.left.take() {
            return Ok(Some(left));
        }
        match &mut self.inner {
            ReaderInner::Uring(reader) => {
                Ok(reader.recv().await?.map(|provided| Received(ReceivedInner::Provided(provided))))
            }
            ReaderInner::Sim(reader) => reader.recv().await,
        }
    }

    /// Stops taking data off the socket until the next receive, and moves what has arrived (`rest` first: what the
    /// caller has not used of the last part) to memory of its own. For a reader that has to wait for something else:
    /// all connections share the driver's memory, and one that keeps it can stop them all.
    ///
    /// # Errors
    /// Those of `recv(2)`; the end of the stream is none, the next receive reports it.
    pub async fn pause(&mut self, rest: Option<Received>) -> io::Result<()> {
        let mut parts: Vec<Received> = rest.into_iter().chain(self.left.take()).collect();
        let mut copied = Vec::new();
        if let ReaderInner::Uring(reader) = &mut self.inner {
            // Data that is copied already and alone is put back as it is.
            if parts.iter().any(|part| matches!(part.0, ReceivedInner::Provided(_))) || reader.is_standing() {
                parts.drain(..).for_each(|part| copied.extend_from_slice(&part));
                reader.pause(&mut copied).await?;
            }
        }
        self.left = match parts.len() {
            0 if copied.is_empty() => None,
            1 => parts.pop(),
            _ => {
                parts.iter().for_each(|part| copied.extend_from_slice(part));
                Some(Received::owned(Buf::copy_of(&copied)))
            }
        };
        Ok(())
    }

    /// Fills `buf[from..]`; from [`LARGE`] bytes on the kernel writes straight into it.
    ///
    /// If the future is dropped before it is ready, the stream is unusable: bytes may be lost.
    ///
    /// # Errors
    /// `UnexpectedEof` when the stream ends before; those of `recv(2)`.
    pub async fn recv_exact(&mut self, mut buf: Buf, mut from: usize) -> (io::Result<()>, Buf) {
        while from < buf.len() {
            let Some(mut left) = self.left.take() else { break };
            let count = left.len().min(buf.len() - from);
            buf[from..from + count].copy_from_slice(&left[..count]);
            from += count;
            left.advance(count);
            if !left.is_empty() {
                self.left = Some(left);
            }
        }
        if from == buf.len() {
            return (Ok(()), buf);
        }
        match &mut self.inner {
            ReaderInner::Uring(reader) => {
                let (result, buf) = reader.recv_into(buf, from).await;
                let result = result.map(|rest| {
                    self.left = rest.map(|provided| Received(ReceivedInner::Provided(provided)));
                });
                (result, buf)
            }
            ReaderInner::Sim(reader) => loop {
                match reader.recv().await {
                    Ok(Some(mut part)) => {
                        let count = part.len().min(buf.len() - from);
                        buf[from..from + count].copy_from_slice(&part[..count]);
                        from += count;
                        part.advance(count);
                        if !part.is_empty() {
                            self.left = Some(part);
                        }
                        if from == buf.len() {
                            return (Ok(()), buf);
                        }
                    }
                    Ok(None) => return (Err(io::ErrorKind::UnexpectedEof.into()), buf),
                    Err(error) => return (Err(error), buf),
                }
            },
        }
    }
}

#[derive(Debug)]
enum WriterInner {
    Uring(uring::UringWriter),
    Sim(sim::SimWriter),
}

/// The sending half of a connection. One send at a time: a second one under way would mix with the first.
#[derive(Debug)]
pub struct Writer(WriterInner);

impl Writer {
    /// Sends all of `data`.
    ///
    /// # Errors
    /// Those of `send(2)`.
    pub async fn send_all(&mut self, data: View) -> io::Result<()> {
        match &self.0 {
            WriterInner::Uring(writer) => writer.send_all(data).await,
            WriterInner::Sim(writer) => writer.send_all(&data).await,
        }
    }

    /// Sends all views in order.
    ///
    /// # Errors
    /// Those of `sendmsg(2)`.
    pub async fn send_all_vectored(&mut self, views: Vec<View>) -> io::Result<()> {
        match &self.0 {
            WriterInner::Uring(writer) => writer.send_vectored(views).await,
            WriterInner::Sim(writer) => {
                for view in views {
                    writer.send_all(&view).await?;
                }
                Ok(())
            }
        }
    }

    /// Leaves the data of sends from this size on (bytes) in place until the peer has it, instead of copying it into the
    /// kernel; `usize::MAX` for never. A connection begins with [`ZERO_COPY_MIN`], or never where both ends are on
    /// this host. For measurements and tests.
    pub fn set_zero_copy_min(&mut self, bytes: usize) {
        match &self.0 {
            WriterInner::Uring(writer) => writer.set_zero_copy_min(bytes),
            WriterInner::Sim(_) => {}
        }
    }

    /// Ends the connection in both directions: a receive under way completes.
    pub fn shutdown(&mut self) {
        match &self.0 {
            WriterInner::Uring(writer) => writer.shutdown(),
            WriterInner::Sim(writer) => writer.shutdown(),
        }
    }
}
