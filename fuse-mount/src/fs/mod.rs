//! The file system: inodes, names, files and directories of the mounted cluster, on one executor.
//!
//! Each request is a task. Names and attributes are the metadata server's matter ([`meta`]); a file that is open here is a
//! [`client::Volume`] under one lease for all its handles ([`file`]), and its size and times are known here first and
//! reported ([`report`]).

mod attrs;
mod data;
mod dir;
mod file;
mod meta;
mod names;
mod node;
mod report;
mod serve;
mod shape;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use client::{Servers, Session};
use rt::sync::Notify;

use crate::errno::Errno;
use crate::kernel::{Device, Next, Reply, Request};
use dir::Directory;
use meta::Meta;
use node::{Node, Nodes};

/// Inode number of the top directory at the kernel.
const ROOT: u64 = 1;
/// How long the kernel may go by what it was told of names and attributes.
const LIFETIME: Duration = Duration::from_secs(1);
/// How often sizes and times of files being written are reported.
const REPORT_PAUSE: Duration = Duration::from_secs(1);
/// Attempts to tell the metadata server a size while the lease changes its epoch.
const ATTEMPTS: u32 = 50;

/// Requests taken before those that are under way have their turn.
const TURN: usize = 32;

/// A result, or the number of the error.
type Answer<T> = Result<T, Errno>;

/// How the file system behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    /// Nothing is changed.
    pub(crate) read_only: bool,
    /// Past the kernel's page cache always, not only where a program asks for it.
    pub(crate) direct: bool,
    /// The kernel keeps written data, sizes and times to itself for a while.
    pub(crate) writeback: bool,
    /// A write that finds no space fails; else it waits.
    pub(crate) fails_when_full: bool,
    /// How long to wait for a lease that is being fenced.
    pub(crate) patience: Duration,
}

/// What a file handle stands for.
#[derive(Clone, Debug)]
enum Handle {
    File(Rc<FileHandle>),
    Directory(Rc<Directory>),
}

/// An open file.
#[derive(Debug)]
struct FileHandle {
    node: Rc<Node>,
    /// May write.
    writes: bool,
    /// Writes go to the end, wherever the kernel believes that is.
    appends: bool,
    /// Past the kernel's page cache.
    direct: bool,
}

/// The mounted file system.
pub(crate) struct Fs {
    meta: Meta,
    servers: Rc<Servers>,
    behaviour: Behaviour,
    nodes: Nodes,
    handles: RefCell<BTreeMap<u64, Handle>>,
    next_handle: Cell<u64>,
    device: RefCell<Option<Rc<Device>>>,
    busy: Cell<usize>,
    idle: Notify,
}

impl std::fmt::Debug for Fs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fs").field("behaviour", &self.behaviour).finish_non_exhaustive()
    }
}

impl Fs {
    /// Looks at the top directory, so that there is something to mount.
    ///
    /// # Errors
    /// What the metadata server says.
    pub(crate) async fn open(
        session: Rc<Session>,
        servers: Rc<Servers>,
        behaviour: Behaviour,
    ) -> Result<Rc<Self>, link::AskError> {
        let meta = Meta::new(session);
        let asked = rt::time::now();
        let root = meta.root(behaviour.patience).await?;
        let fs = Rc::new(Self {
            meta,
            servers,
            behaviour,
            nodes: Nodes::new(root, asked),
            handles: RefCell::default(),
            next_handle: Cell::new(1),
            device: RefCell::default(),
            busy: Cell::new(0),
            idle: Notify::new(),
        });
        rt::spawn(report::keep_reporting(Rc::downgrade(&fs)));
        Ok(fs)
    }

    /// Serves the requests of a device until there are no more: the file system is not mounted any longer.
    ///
    /// # Errors
    /// Those of the device.
    pub(crate) async fn serve(self: &Rc<Self>, device: &Rc<Device>) -> io::Result<()> {
        *self.device.borrow_mut() = Some(Rc::clone(device));
        loop {
            for _ in 0..TURN {
                match device.next()? {
                    Next::Request(request, reply) => self.begin(request, reply),
                    Next::Nothing => break,
                    Next::End => return Ok(()),
                }
            }
            device.ready().await?;
        }
    }

    /// Carries a request out in a task of its own.
    fn begin(self: &Rc<Self>, request: Request, reply: Reply) {
        let fs = Rc::clone(self);
        self.busy.set(self.busy.get() + 1);
        rt::spawn(async move {
            fs.answer(request, reply).await;
            fs.busy.set(fs.busy.get() - 1);
            if fs.busy.get() == 0 {
                fs.idle.notify_all();
            }
        });
    }

    /// Waits until every request has been answered.
    pub(crate) async fn settle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.busy.get() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Flushes every file and gives its lease back; says how many could not be.
    pub(crate) async fn close(&self) -> usize {
        let mut failed = 0;
        for node in self.nodes.all() {
            if node.open.is_open() && self.close_volume(&node).await.is_err() {
                failed += 1;
            }
        }
        failed
    }

    /// Files that have a lease.
    pub(crate) fn open_files(&self) -> usize {
        self.nodes.all().iter().filter(|node| node.open.is_open() && node.open.volume().is_ok()).count()
    }

    fn node(&self, ino: u64) -> Answer<Rc<Node>> {
        self.nodes.get(ino).ok_or(Errno::ESTALE)
    }

    fn file(&self, fh: u64) -> Answer<Rc<FileHandle>> {
        match self.handles.borrow().get(&fh) {
            Some(Handle::File(file)) => Ok(Rc::clone(file)),
            _ => Err(Errno::EBADF),
        }
    }

    fn directory(&self, fh: u64) -> Answer<Rc<Directory>> {
        match self.handles.borrow().get(&fh) {
            Some(Handle::Directory(directory)) => Ok(Rc::clone(directory)),
            _ => Err(Errno::EBADF),
        }
    }

    fn add_handle(&self, handle: Handle) -> u64 {
        let fh = self.next_handle.get();
        self.next_handle.set(fh + 1);
        self.handles.borrow_mut().insert(fh, handle);
        fh
    }

    /// Refuses changes of a file system that is mounted read-only.
    fn writable(&self) -> Answer<()> {
        if self.behaviour.read_only { Err(Errno::EROFS) } else { Ok(()) }
    }
}
