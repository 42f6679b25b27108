//! The control socket: how commands on the host reach a chunk server at work.
//!
//! A Unix socket in the server's directory, for its owner only. One request and one answer per connection, each with its length
//! (4 bytes) before it, all numbers little-endian:
//!
//! ```text
//! request  version (2) = 1, kind (1), ssd (1), bytes (8), directory: length (2), UTF-8
//! answer   version (2) = 1, outcome (1): 0 = done, 1 = refused; the rest is text for the operator
//! ```
//!
//! `kind`: 1 = add or move, 2 = destroy, 3 = resize. What is not asked for is zero.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rt::buf::{Buf, View};
use rt::net::{Address, Listener, Reader, Writer};
use rt::sync::Semaphore;

use super::configure::{Change, change};
use crate::engine::Engine;

/// Name of the socket.
const SOCKET: &str = "control";
const VERSION: u16 = 1;
/// Longest message.
const MESSAGE_MAX: usize = 8192;
/// Connections at once; more wait.
const CONNECTIONS: u64 = 4;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest path that fits the address of a Unix socket.
const PATH_MAX: usize = 100;
/// Pause after an accept that failed for want of something.
const PAUSE: Duration = Duration::from_millis(100);

const ADD: u8 = 1;
const DESTROY: u8 = 2;
const RESIZE: u8 = 3;
const DONE: u8 = 0;
const REFUSED: u8 = 1;

/// A socket's address, however long the name of its directory is.
struct Place {
    address: Address,
    /// Kept open as long as the address refers to it.
    _dir: Option<std::fs::File>,
}

impl Place {
    fn of(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        if path.as_os_str().len() <= PATH_MAX {
            return Ok(Self { address: Address::Unix(path), _dir: None });
        }
        let dir = std::fs::File::open(dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()));
        Ok(Self { address: Address::Unix(path), _dir: Some(dir) })
    }
}

/// Answers on the socket of a server whose directory is locked by this process. Ends with the task.
pub(super) struct Control {
    listener: Listener,
    path: PathBuf,
    _place: Place,
}

impl Drop for Control {
    fn drop(&mut self) {
        // The next start removes what is left.
        let _gone = std::fs::remove_file(&self.path);
    }
}

impl Control {
    /// Makes the socket; one that is there is left over from a server that was killed.
    ///
    /// # Errors
    /// Those of the file system and of `bind(2)`.
    pub(super) fn listen(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let place = Place::of(dir)?;
        let listener = Listener::bind(&place.address)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path, _place: place })
    }

    /// Answers, until it is dropped. A change that has begun goes on after that.
    pub(super) async fn serve(mut self, engine: Rc<Engine>) {
        let connections = Rc::new(Semaphore::new(CONNECTIONS));
        loop {
            let permit = connections.acquire(1).await;
            match self.listener.accept().await {
                Ok((reader, writer, _)) => {
                    let engine = Rc::clone(&engine);
                    rt::spawn(async move {
                        if let Err(error) = answer(&engine, reader, writer).await {
                            tracing::warn!("a request on the control socket: {error}");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!("the control socket: {error}");
                    rt::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn answer(engine: &Rc<Engine>, mut reader: Reader, mut writer: Writer) -> io::Result<()> {
    let late = |_elapsed| io::Error::from(io::ErrorKind::TimedOut);
    let deadline = rt::time::now() + PATIENCE;
    let request = rt::time::timeout_at(deadline, receive(&mut reader)).await.map_err(late)??;
    let (outcome, text) = match decode(&request) {
        Ok(wanted) => match change(engine, wanted).await {
            Ok(text) => (DONE, text),
            Err(text) => (REFUSED, text),
        },
        Err(text) => (REFUSED, text.to_owned()),
    };
    let mut answer = VERSION.to_le_bytes().to_vec();
    answer.push(outcome);
    answer.extend(text.as_bytes());
    send(&mut writer, &answer).await
}

/// What comes of asking a server.
pub(super) enum Asked {
    /// No server listens.
    Nobody,
    /// It has ended before it answered.
    Gone,
    /// It has done it, and says what.
    Done(String),
    /// It has not, and says why.
    Refused(String),
}

/// Asks the server at work in `dir`.
///
/// # Errors
/// Those of the connection, and answers that make no sense.
pub(super) async fn ask(dir: &Path, wanted: &Change) -> io::Result<Asked> {
    let place = Place::of(dir)?;
    let (mut reader, mut writer) = match rt::net::connect(&place.address).await {
        Ok(connected) => connected,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(Asked::Nobody);
        }
        Err(error) => return Err(error),
    };
    send(&mut writer, &encode(wanted)?).await?;
    let answer = match receive(&mut reader).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Asked::Gone),
        answer => answer?,
    };
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "the answer makes no sense");
    let (head, text) = answer.split_at_checked(3).ok_or_else(bad)?;
    let text = String::from_utf8_lossy(text).into_owned();
    match (u16::from_le_bytes([head[0], head[1]]), head[2]) {
        (VERSION, DONE) => Ok(Asked::Done(text)),
        (VERSION, REFUSED) => Ok(Asked::Refused(text)),
        _ => Err(bad()),
    }
}

async fn send(writer: &mut Writer, message: &[u8]) -> io::Result<()> {
    let len = u32::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let bytes = [&len.to_le_bytes()[..], message].concat();
    writer.send_all(View::copy_of(&bytes)).await
}

async fn receive(reader: &mut Reader) -> io::Result<Buf> {
    let (result, head) = reader.recv_exact(Buf::new(4), 0).await;
    result?;
    let mut len = [0; 4];
    len.copy_from_slice(&head);
    let len = u32::from_le_bytes(len) as usize;
    if len > MESSAGE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {len} bytes")));
    }
    let (result, message) = reader.recv_exact(Buf::new(len), 0).await;
    result.map(|()| message)
}

fn encode(wanted: &Change) -> io::Result<Vec<u8>> {
    let (kind, ssd, bytes, dir) = match wanted {
        Change::Add { dir, bytes, ssd } => (ADD, u8::from(*ssd), *bytes, dir.to_str()),
        Change::Destroy => (DESTROY, 0, 0, Some("")),
        Change::Resize { bytes } => (RESIZE, 0, *bytes, Some("")),
    };
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, "the directory's name is too long or not UTF-8");
    let dir = dir.ok_or_else(bad)?;
    let len = u16::try_from(dir.len()).map_err(|_| bad())?;
    let mut message = VERSION.to_le_bytes().to_vec();
    message.extend([kind, ssd]);
    message.extend(bytes.to_le_bytes());
    message.extend(len.to_le_bytes());
    message.extend(dir.as_bytes());
    Ok(message)
}

fn decode(message: &[u8]) -> Result<Change, &'static str> {
    const MALFORMED: &str = "the request makes no sense to this chunk server";
    let (version, rest) = message.split_first_chunk().ok_or(MALFORMED)?;
    if u16::from_le_bytes(*version) != VERSION {
        return Err("this chunk server is of another release than the command: restart it after the upgrade");
    }
    let (&[kind, ssd], rest) = rest.split_first_chunk().ok_or(MALFORMED)?;
    let (bytes, rest) = rest.split_first_chunk().ok_or(MALFORMED)?;
    let (len, dir) = rest.split_first_chunk().ok_or(MALFORMED)?;
    if dir.len() != usize::from(u16::from_le_bytes(*len)) || ssd > 1 {
        return Err(MALFORMED);
    }
    let bytes = u64::from_le_bytes(*bytes);
    let dir = std::str::from_utf8(dir).map_err(|_| MALFORMED)?;
    match kind {
        ADD if Path::new(dir).is_absolute() => {
            Ok(Change::Add { dir: PathBuf::from(dir), bytes, ssd: ssd == 1 })
        }
        DESTROY => Ok(Change::Destroy),
        RESIZE => Ok(Change::Resize { bytes }),
        _ => Err(MALFORMED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_a_round_trip() {
        let dir = PathBuf::from("/ssd/\u{fc}ber/cs1");
        for wanted in [
            Change::Add { dir: dir.clone(), bytes: 2048 << 20, ssd: true },
            Change::Add { dir, bytes: 1, ssd: false },
            Change::Destroy,
            Change::Resize { bytes: u64::MAX },
        ] {
            assert_eq!(decode(&encode(&wanted).unwrap()), Ok(wanted));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let good = encode(&Change::Add { dir: "/ssd".into(), bytes: 5, ssd: false }).unwrap();
        for len in 0..good.len() {
            assert!(decode(&good[..len]).is_err(), "{len} bytes");
        }
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            decode(&bad)
        };
        assert!(with(0, 2).unwrap_err().contains("release"));
        for (at, byte) in [(2, 0), (2, 9), (3, 2), (12, 200), (14, b'x'), (15, 0xFF)] {
            assert!(with(at, byte).is_err(), "byte {at}");
        }
    }
}
