//! The floor: the simplest program that sends blocks to N processes which write them with direct I/O and answer.
//!
//! Blocking sockets on loopback, one thread per connection, no checksum, no journal, no encryption: what any store with
//! servers in other processes must at least do.

use std::alloc::Layout;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::error::Error;

/// Bytes of the largest operation.
const MAX: usize = 1 << 20;
/// What direct I/O wants of addresses.
const ALIGN: usize = 4096;

const READ: u8 = 0;
const WRITE: u8 = 1;
const FLUSH: u8 = 2;

/// Kind, length and place of an operation.
const HEADER: usize = 16;

/// Options of a floor server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file it keeps the blocks in.
    file: PathBuf,
}

/// Room for one operation at an aligned address.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new() -> Self {
        let layout = Layout::from_size_align(MAX, ALIGN).unwrap_or(Layout::new::<u8>());
        let room = vec![0; layout.size() + layout.align()];
        let start = room.as_ptr().align_offset(ALIGN);
        Self(room, start)
    }

    fn part(&mut self, len: usize) -> &mut [u8] {
        &mut self.0[self.1..self.1 + len]
    }
}

/// Serves until its standard input ends.
pub(crate) fn serve(args: &Args) -> Result<(), Error> {
    let name = args.file.display().to_string();
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32);
    let file = options.open(&args.file).map_err(Error::io(format!("cannot open {name}")))?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(Error::io("cannot listen"))?;
    let port = listener.local_addr().map_err(Error::io("cannot listen"))?.port();
    println!("ready: {port}");
    for stream in listener.incoming() {
        let stream = stream.map_err(Error::io("cannot accept"))?;
        let file = file.try_clone().map_err(Error::io("cannot clone the file"))?;
        #[expect(clippy::disallowed_methods, reason = "the floor is made of plain threads")]
        std::thread::spawn(move || {
            if let Err(error) = converse(stream, &file) {
                eprintln!("floor: {error}");
            }
        });
    }
    Ok(())
}

fn converse(mut stream: TcpStream, file: &File) -> Result<(), Error> {
    let failed = || Error::io("floor");
    stream.set_nodelay(true).map_err(failed())?;
    let mut room = Aligned::new();
    let mut header = [0; HEADER];
    // The end of the connection is the end of the work.
    while stream.read_exact(&mut header).is_ok() {
        let (kind, len, offset) = decode(&header);
        let block = room.part(len.min(MAX));
        match kind {
            READ => {
                file.read_exact_at(block, offset).map_err(failed())?;
                stream.write_all(block).map_err(failed())?;
                continue;
            }
            WRITE => {
                stream.read_exact(block).map_err(failed())?;
                file.write_all_at(block, offset).map_err(failed())?;
            }
            _ => file.sync_data().map_err(failed())?,
        }
        stream.write_all(&[0; 8]).map_err(failed())?;
    }
    Ok(())
}

fn encode(kind: u8, len: usize, offset: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = kind;
    header[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    header[8..].copy_from_slice(&offset.to_le_bytes());
    header
}

fn decode(header: &[u8; HEADER]) -> (u8, usize, u64) {
    let [kind, _, _, _, a, b, c, d, offset @ ..] = *header;
    (kind, u32::from_le_bytes([a, b, c, d]) as usize, u64::from_le_bytes(offset))
}

/// Connections to all servers, for one operation at a time.
#[derive(Debug)]
pub(crate) struct FloorClient {
    servers: Vec<TcpStream>,
    next: usize,
}

impl FloorClient {
    /// Connects to servers on this host.
    pub(crate) fn connect(ports: &[u16]) -> Result<Self, Error> {
        let connect = |port: &u16| {
            let stream = TcpStream::connect(("127.0.0.1", *port))?;
            stream.set_nodelay(true).map(|()| stream)
        };
        let servers: Result<_, _> = ports.iter().map(connect).collect();
        Ok(Self { servers: servers.map_err(Error::io("cannot connect to the floor server"))?, next: 0 })
    }

    /// Reads from one of them.
    pub(crate) fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.next = (self.next + 1) % self.servers.len();
        let server = &mut self.servers[self.next];
        let sent = server.write_all(&encode(READ, out.len(), offset));
        sent.and_then(|()| server.read_exact(out)).map_err(Error::io("floor read"))
    }

    /// Writes to all of them.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut message = Vec::with_capacity(HEADER + data.len());
        message.extend(encode(WRITE, data.len(), offset));
        message.extend(data);
        self.ask_all(&message)
    }

    /// Flushes all of them.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        self.ask_all(&encode(FLUSH, 0, 0))
    }

    fn ask_all(&mut self, message: &[u8]) -> Result<(), Error> {
        for server in &mut self.servers {
            server.write_all(message).map_err(Error::io("floor"))?;
        }
        for server in &mut self.servers {
            server.read_exact(&mut [0; 8]).map_err(Error::io("floor"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_what_they_were_told() {
        assert_eq!(decode(&encode(WRITE, 4096, 1 << 40)), (WRITE, 4096, 1 << 40));
    }

    #[test]
    fn rooms_are_aligned() {
        assert_eq!(Aligned::new().part(4096).as_ptr().align_offset(ALIGN), 0);
    }
}
