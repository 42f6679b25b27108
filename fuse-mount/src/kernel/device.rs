//! `/dev/fuse`: mounting, agreeing on what both sides can do, reading requests.

use std::cell::RefCell;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::rc::Rc;

use rt::buf::{Buf, View};
use rt::readiness::Readable;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::TRANSFER_MAX;
use super::abi::{self, Arguments, Body, IN_HEADER, REQUEST_SLACK, WRITE_IN, init, opcode};
use super::decode::{self, Header};
use super::notices::{Notices, Old};
use super::reply::Reply;
use super::request::Request;
use super::waiting::{Waiting, is_dying};

/// Where the kernel's side is.
const DEVICE: &str = "/dev/fuse";
/// Type of the file system.
const KIND: &str = "fuse.vstorage";
/// Requests for readahead and asynchronous I/O that the kernel has under way at once.
const BACKGROUND_MAX: u16 = 128;
/// Data of a write from this size on is not copied: it stays in the buffer it was read into.
const KEPT_FROM: usize = 64 << 10;
/// Bytes of the first part of a request: all but the data of a write.
const HEAD: usize = IN_HEADER + WRITE_IN;

/// How the kernel is to treat the file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// The kernel may keep written data to itself for a while.
    pub(crate) writeback: bool,
    /// Bytes it may read ahead.
    pub(crate) readahead_max: u32,
    /// Users other than the one who mounts may use it.
    pub(crate) for_all: bool,
    /// For `mount(2)`.
    pub(crate) flags: MountFlags,
}

/// The device of one mount.
#[derive(Debug)]
pub(crate) struct Device {
    file: File,
    readable: Readable,
    spare: RefCell<Option<Buf>>,
    waiting: Waiting,
    notices: Notices,
}

/// What reading the device gave.
#[derive(Debug)]
pub(crate) enum Next {
    /// A request.
    Request(Request, Reply),
    /// None at the moment.
    Nothing,
    /// It is not mounted any more.
    End,
}

impl Device {
    /// Mounts, and agrees with the kernel on what both can do.
    ///
    /// # Errors
    /// Those of `open(2)` and `mount(2)`; `Unsupported` for a kernel that is too old.
    pub(crate) fn mount(source: &str, dir: &Path, manner: &Manner) -> io::Result<Rc<Self>> {
        let file = File::options().read(true).write(true).open(DEVICE)?;
        let mut data = format!(
            "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
            file.as_raw_fd(),
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw()
        );
        if manner.for_all {
            data.push_str(",allow_other");
        }
        let data = CString::new(data)?;
        rustix::mount::mount(source, dir, KIND, manner.flags, data.as_c_str())?;
        let ready = greet(&file, manner).and_then(|()| {
            let flags = rustix::fs::fcntl_getfl(&file)?;
            rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
            let notices = Notices::start(file.try_clone()?)?;
            Ok((Readable::new(file.as_fd().try_clone_to_owned()?)?, notices))
        });
        match ready {
            Ok((readable, notices)) => Ok(Rc::new(Self {
                file,
                readable,
                spare: RefCell::default(),
                waiting: Waiting::default(),
                notices,
            })),
            Err(error) => {
                let gone = rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH);
                gone.map_err(io::Error::from).and(Err(error))
            }
        }
    }

    /// The next request, if there is one.
    ///
    /// # Errors
    /// Those of `read(2)`.
    pub(crate) fn next(self: &Rc<Self>) -> io::Result<Next> {
        let mut head = [0; HEAD];
        let mut buf =
            self.spare.borrow_mut().take().unwrap_or_else(|| Buf::new(TRANSFER_MAX + REQUEST_SLACK));
        let read =
            rustix::io::readv(&self.file, &mut [IoSliceMut::new(&mut head), IoSliceMut::new(&mut buf)]);
        let len = match read {
            Ok(len) => len,
            Err(error) => {
                *self.spare.borrow_mut() = Some(buf);
                return match error {
                    Errno::AGAIN | Errno::INTR | Errno::NOENT => Ok(Next::Nothing),
                    Errno::NODEV | Errno::NOTCONN => Ok(Next::End),
                    error => Err(error.into()),
                };
            }
        };
        let rest = len.saturating_sub(HEAD);
        let head = &head[..len.min(HEAD)];
        let header = Header::read(head).map_err(io::Error::other)?;
        let reply = Reply::new(Rc::clone(self), header.unique);
        self.waiting.add(header.unique, may_go(header.opcode).then_some(header.thread));
        let decoded = if header.opcode == opcode::WRITE {
            decode::write(&header, &head[IN_HEADER..], self.keep(buf, rest))
        } else {
            let bytes = [&head[IN_HEADER..], &buf[..rest]].concat();
            *self.spare.borrow_mut() = Some(buf);
            decode::request(&header, &bytes)
        };
        match decoded {
            Ok(_) if header.opcode == opcode::DESTROY => {
                reply.ok();
                Ok(Next::End)
            }
            Ok(request) => Ok(Next::Request(request, reply)),
            Err(short) => {
                tracing::error!("{short} (operation {})", header.opcode);
                Ok(Next::Request(Request::Refused { errno: libc::EIO }, reply))
            }
        }
    }

    /// The data of a write: little is copied, so that the buffer can be used again.
    fn keep(&self, mut buf: Buf, len: usize) -> View {
        if len >= KEPT_FROM {
            buf.set_len(len);
            return buf.freeze();
        }
        let data = Buf::copy_of(&buf[..len]).freeze();
        *self.spare.borrow_mut() = Some(buf);
        data
    }

    /// Waits until there is a request, or the end.
    ///
    /// # Errors
    /// Those of `poll(2)`.
    pub(crate) async fn ready(&self) -> io::Result<()> {
        self.readable.ready().await
    }

    /// Answers a request; false if nobody takes the answer: whoever asked has gone meanwhile, or the mount has.
    pub(super) fn answer(&self, unique: u64, error: i32, body: &[u8]) -> bool {
        if !self.waiting.take(unique) {
            return false;
        }
        let mut header = Body(Vec::with_capacity(abi::OUT_HEADER));
        header.u32((abi::OUT_HEADER + body.len()) as u32).u32(error.cast_unsigned()).u64(unique);
        let sent = rustix::io::writev(&self.file, &[IoSlice::new(&header.0), IoSlice::new(body)]);
        if let Err(error) = sent {
            tracing::debug!("answering the kernel: {error}");
        }
        sent.is_ok()
    }

    /// A request will not be answered.
    pub(super) fn leave(&self, unique: u64) {
        self.waiting.take(unique);
    }

    /// Lets the caller of a request go if it is being killed: it gets EINTR. Tells whether the request still waits.
    pub(crate) fn let_go(&self, unique: u64) -> bool {
        match self.waiting.thread(unique) {
            Some(thread) if is_dying(thread) => {
                self.answer(unique, -libc::EINTR, &[]);
                self.waiting.say_let_go();
                false
            }
            Some(_) => true,
            None => false,
        }
    }

    /// Waits until the caller of a request has been let go.
    pub(super) async fn until_let_go(&self, unique: u64) {
        self.waiting.let_go(unique).await;
    }

    /// Has the kernel told that what it knows of an inode is old. Returns at once.
    pub(crate) fn tell_old(&self, ino: u64, old: Old) {
        self.notices.tell(ino, old);
    }
}

/// Whether a request may be carried out when whoever asked has gone and others go on. A change of names or sizes may not: it
/// would come after what they were told is done. A write holds its range until it ends.
fn may_go(code: u32) -> bool {
    matches!(
        code,
        opcode::LOOKUP
            | opcode::GETATTR
            | opcode::OPEN
            | opcode::READ
            | opcode::WRITE
            | opcode::FLUSH
            | opcode::FSYNC
            | opcode::OPENDIR
            | opcode::READDIR
            | opcode::READDIRPLUS
            | opcode::STATFS
            | opcode::LSEEK
            | opcode::GETXATTR
            | opcode::LISTXATTR
    )
}

/// The first request and its answer.
fn greet(file: &File, manner: &Manner) -> io::Result<()> {
    let mut bytes = vec![0; TRANSFER_MAX + REQUEST_SLACK];
    let len = loop {
        match rustix::io::read(file, &mut bytes[..]) {
            Ok(len) => break len,
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let header = Header::read(&bytes[..len]).map_err(io::Error::other)?;
    if header.opcode != opcode::INIT {
        return Err(io::Error::other("the kernel does not begin with INIT"));
    }
    let mut arguments = Arguments(&bytes[IN_HEADER..len]);
    let mut word = || arguments.u32().map_err(io::Error::other);
    let (major, minor, readahead, flags) = (word()?, word()?, word()?, word()?);
    if major != abi::MAJOR || minor < 36 {
        let text = format!(
            "the kernel speaks version {major}.{minor} of the FUSE protocol, 7.36 is needed (Linux 5.17)"
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let offered = u64::from(flags) | u64::from(word()?) << 32;
    let mut wanted = init::ASYNC_READ
        | init::BIG_WRITES
        | init::DO_READDIRPLUS
        | init::READDIRPLUS_AUTO
        | init::ASYNC_DIO
        | init::PARALLEL_DIROPS
        | init::MAX_PAGES
        | init::CACHE_SYMLINKS
        | init::INIT_EXT
        | init::DIRECT_IO_ALLOW_MMAP;
    if manner.writeback {
        wanted |= init::WRITEBACK_CACHE;
    }
    let agreed = offered & wanted;
    let mut body = Body::default();
    body.u32(abi::MAJOR).u32(abi::MINOR).u32(manner.readahead_max.min(readahead)).u32(agreed as u32);
    body.0.extend_from_slice(&BACKGROUND_MAX.to_ne_bytes());
    body.0.extend_from_slice(&(BACKGROUND_MAX / 4 * 3).to_ne_bytes());
    let pages = (TRANSFER_MAX / 4096) as u16;
    body.u32(TRANSFER_MAX as u32).u32(1);
    body.0.extend_from_slice(&pages.to_ne_bytes());
    body.zeroes(2);
    body.u32((agreed >> 32) as u32).zeroes(4 + 6 * 4);
    let mut answer = Body::default();
    answer.u32((abi::OUT_HEADER + body.0.len()) as u32).u32(0).u64(header.unique);
    answer.0.extend_from_slice(&body.0);
    rustix::io::write(file, &answer.0)?;
    Ok(())
}
