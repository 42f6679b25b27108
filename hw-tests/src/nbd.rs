//! An NBD client that says exactly what a test wants said, right or wrong.
//!
//! Fixed newstyle with `NBD_OPT_GO` and simple replies, on a Unix socket; after the NBD protocol document
//! (`doc/proto.md` of the NBD project). Requests are sent and answers taken one at a time, in whatever order the caller
//! likes, so that many can be under way.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// `NBD_FLAG_C_FIXED_NEWSTYLE` and `NBD_FLAG_C_NO_ZEROES`.
const CLIENT_FLAGS: u32 = 3;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;
/// Answers about an option are at most this long.
const OPTION_REPLY_MAX: u32 = 64 << 10;

/// Force unit access: durable when answered.
pub const FUA: u16 = 1;
/// Zeroes must be written, no hole made.
pub const NO_HOLE: u16 = 2;

/// What is asked for; the numbers are the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Request {
    /// Bytes out.
    Read = 0,
    /// Bytes in.
    Write = 1,
    /// The end.
    Disconnect = 2,
    /// What was answered before becomes durable.
    Flush = 3,
    /// Space is given back.
    Trim = 4,
    /// Zeroes without their bytes.
    WriteZeroes = 6,
}

/// Why the export cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// The connection.
    #[error("the NBD connection failed while {doing}: {source}")]
    Io {
        /// At what.
        doing: &'static str,
        /// What the system said; `WouldBlock` when nothing came within the limit.
        source: io::Error,
    },
    /// The server does not speak NBD as expected.
    #[error("the NBD server answered with a wrong {0}")]
    Protocol(&'static str),
    /// The server refuses the export.
    #[error("the NBD server refused the export with option reply {0:#x}")]
    Refused(u32),
}

impl NbdError {
    fn io(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    /// Whether nothing came in time on a connection that stands.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Of the request with this cookie.
    pub cookie: u64,
    /// Zero, or an error number as in `errno.h`.
    pub error: u32,
    /// What was read.
    pub data: Vec<u8>,
}

/// A connection to an export.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    size: u64,
    last_cookie: u64,
    /// Cookies of reads under way, with their lengths.
    reads: BTreeMap<u64, u32>,
}

impl Client {
    /// Connects to the default export; every later wait is at most `patience`.
    ///
    /// # Errors
    /// [`NbdError`].
    pub fn connect(socket: &Path, patience: Duration) -> Result<Self, NbdError> {
        let stream = UnixStream::connect(socket).map_err(NbdError::io("connecting"))?;
        let limited = stream.set_read_timeout(Some(patience));
        limited
            .and_then(|()| stream.set_write_timeout(Some(patience)))
            .map_err(NbdError::io("connecting"))?;
        let mut client = Self { stream, size: 0, last_cookie: 0, reads: BTreeMap::new() };
        client.greet()?;
        client.go()?;
        Ok(client)
    }

    /// Bytes of the export.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The socket, for what no honest client sends.
    pub fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    fn greet(&mut self) -> Result<(), NbdError> {
        let (magic, options, _flags) = (self.u64()?, self.u64()?, self.u16()?);
        if (magic, options) != (MAGIC, OPTION_MAGIC) {
            return Err(NbdError::Protocol("greeting"));
        }
        self.send_raw(&CLIENT_FLAGS.to_be_bytes())
    }

    fn go(&mut self) -> Result<(), NbdError> {
        // An empty name and no request for information: the size comes anyway.
        let mut option = Vec::new();
        option.extend(OPTION_MAGIC.to_be_bytes());
        option.extend(OPT_GO.to_be_bytes());
        option.extend(6_u32.to_be_bytes());
        option.extend([0; 6]);
        self.send_raw(&option)?;
        loop {
            let (magic, _option, kind, len) = (self.u64()?, self.u32()?, self.u32()?, self.u32()?);
            if magic != OPTION_REPLY_MAGIC || len > OPTION_REPLY_MAX {
                return Err(NbdError::Protocol("option reply"));
            }
            let mut data = vec![0; len as usize];
            self.fill(&mut data)?;
            match kind {
                REP_ACK => return Ok(()),
                REP_INFO => self.take_info(&data),
                refused => return Err(NbdError::Refused(refused)),
            }
        }
    }

    fn take_info(&mut self, data: &[u8]) {
        if let Some((kind, rest)) = data.split_first_chunk::<2>()
            && u16::from_be_bytes(*kind) == INFO_EXPORT
            && let Some(size) = rest.first_chunk::<8>()
        {
            self.size = u64::from_be_bytes(*size);
        }
    }

    /// Sends a request and returns its cookie. `payload` is for writes only; `len` is sent as it is.
    ///
    /// # Errors
    /// [`NbdError::Io`].
    pub fn send(
        &mut self,
        request: Request,
        flags: u16,
        offset: u64,
        len: u32,
        payload: &[u8],
    ) -> Result<u64, NbdError> {
        self.last_cookie += 1;
        let mut header = Vec::with_capacity(28);
        header.extend(REQUEST_MAGIC.to_be_bytes());
        header.extend(flags.to_be_bytes());
        header.extend((request as u16).to_be_bytes());
        header.extend(self.last_cookie.to_be_bytes());
        header.extend(offset.to_be_bytes());
        header.extend(len.to_be_bytes());
        self.send_raw(&header)?;
        self.send_raw(payload)?;
        if request == Request::Read {
            self.reads.insert(self.last_cookie, len);
        }
        Ok(self.last_cookie)
    }

    /// Sends bytes, whatever they are.
    ///
    /// # Errors
    /// [`NbdError::Io`].
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), NbdError> {
        self.stream.write_all(bytes).map_err(NbdError::io("sending"))
    }

    /// Waits for the next answer.
    ///
    /// # Errors
    /// [`NbdError`]; see [`NbdError::is_timeout`].
    pub fn receive(&mut self) -> Result<Answer, NbdError> {
        let (magic, error, cookie) = (self.u32()?, self.u32()?, self.u64()?);
        if magic != REPLY_MAGIC {
            return Err(NbdError::Protocol("reply"));
        }
        let len = self.reads.remove(&cookie).filter(|_| error == 0).unwrap_or(0);
        let mut data = vec![0; len as usize];
        self.fill(&mut data)?;
        Ok(Answer { cookie, error, data })
    }

    /// Sends a request and waits for its answer; nothing else may be under way.
    ///
    /// # Errors
    /// [`NbdError`].
    pub fn ask(
        &mut self,
        request: Request,
        offset: u64,
        len: u32,
        payload: &[u8],
    ) -> Result<Answer, NbdError> {
        let cookie = self.send(request, 0, offset, len, payload)?;
        let answer = self.receive()?;
        if answer.cookie == cookie { Ok(answer) } else { Err(NbdError::Protocol("cookie")) }
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), NbdError> {
        self.stream.read_exact(out).map_err(NbdError::io("receiving"))
    }

    fn u16(&mut self) -> Result<u16, NbdError> {
        let mut bytes = [0; 2];
        self.fill(&mut bytes).map(|()| u16::from_be_bytes(bytes))
    }

    fn u32(&mut self) -> Result<u32, NbdError> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes).map(|()| u32::from_be_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, NbdError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes).map(|()| u64::from_be_bytes(bytes))
    }
}
