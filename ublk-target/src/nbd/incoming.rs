//! The receiving side of a connection, by whole pieces.

use std::io;

use rt::buf::Buf;
use rt::net::{Reader, Received};

/// Cuts what arrives into headers and payloads.
///
/// Small pieces are copied out of the driver's memory; what of a payload has not arrived yet is received straight
/// into its buffer where that pays ([`rt::net::LARGE`]). A future of these functions that is dropped before it is
/// ready leaves the stream unusable.
#[derive(Debug)]
pub(super) struct Incoming {
    reader: Reader,
    /// The unused end of the last part; never empty.
    rest: Option<Received>,
}

impl Incoming {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, rest: None }
    }

    /// The next part of the stream; `None` at its end.
    async fn part(&mut self) -> io::Result<Option<Received>> {
        match self.rest.take() {
            Some(rest) => Ok(Some(rest)),
            None => self.reader.recv().await,
        }
    }

    /// Keeps what is left of a part.
    fn keep(&mut self, rest: Received) {
        self.rest = Some(rest).filter(|rest| !rest.is_empty());
    }

    /// Fills `out`; gives how much of it, less only at the end of the stream.
    async fn fill(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            let Some(mut part) = self.part().await? else { break };
            let count = part.len().min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&part[..count]);
            filled += count;
            part.advance(count);
            self.keep(part);
        }
        Ok(filled)
    }

    /// The next `N` bytes; `None` if the stream ends before the first of them.
    pub(super) async fn header<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut header = [0; N];
        match self.fill(&mut header).await? {
            0 if N > 0 => Ok(None),
            count if count == N => Ok(Some(header)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The next `len` bytes, for pieces that are short or rare.
    pub(super) async fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        match self.fill(&mut bytes).await? {
            count if count == len => Ok(bytes),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The next `len` bytes in a buffer that direct I/O may use.
    pub(super) async fn payload(&mut self, len: usize) -> io::Result<Buf> {
        let mut buf = Buf::new(len);
        let mut filled = 0;
        if let Some(mut rest) = self.rest.take() {
            filled = rest.len().min(len);
            buf[..filled].copy_from_slice(&rest[..filled]);
            rest.advance(filled);
            self.keep(rest);
        }
        if filled == len {
            return Ok(buf);
        }
        let (result, buf) = self.reader.recv_exact(buf, filled).await;
        result.map(|()| buf)
    }

    /// Throws the next `len` bytes away.
    pub(super) async fn skip(&mut self, len: u32) -> io::Result<()> {
        let mut left = len as usize;
        while left > 0 {
            let mut part = self.part().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let count = part.len().min(left);
            left -= count;
            part.advance(count);
            self.keep(part);
        }
        Ok(())
    }

    /// Stops receiving until the next piece is asked for, and lets go of the driver's memory. To be called before
    /// waiting for anything but the socket.
    pub(super) async fn pause(&mut self) -> io::Result<()> {
        let rest = self.rest.take();
        self.reader.pause(rest).await
    }
}
