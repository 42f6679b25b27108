//! The NBD server: one device, many connections.
//!
//! All connections share the device, so that a flush on one covers the writes answered on all
//! (`NBD_FLAG_CAN_MULTI_CONN`). An idle server waits in the kernel.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rt::net::{Address, Listener, Reader, Writer};
use rt::sync::{Notify, Semaphore};

use super::connection::{self, ConnectionError, Farewell, Surroundings};
use super::export::{Export, ExportError, ExportFlags, Exports};
use crate::device::Device;
use crate::stop::{Leash, Stop};

/// Pause after a connection could not be accepted, which is so when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Name of the export; the empty name selects it in any case.
    pub name: String,
    /// Text for a human; may be empty.
    pub description: String,
    /// Refuse everything that writes.
    pub read_only: bool,
    /// How long the handshake of a client may take.
    pub handshake_timeout: Duration,
    /// Most connections; a further one is closed at once.
    pub connections_max: u32,
    /// Most requests of one connection under way; the server receives no more of it until one is answered.
    pub requests_max: u32,
    /// Most bytes of reads and writes of one connection under way. One request may be larger when it is alone.
    pub bytes_max: u64,
    /// Most bytes of reads and writes of all connections under way.
    pub bytes_total_max: u64,
    /// How long a client may pause while it sends the data of a write or fetches replies and others wait for the memory it
    /// holds; then it is dropped. What it moves in time wins time back.
    pub stall_timeout: Duration,
    /// How long an orderly stop waits for requests under way and for clients to take their replies.
    pub stop_timeout: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            name: String::new(),
            description: String::new(),
            read_only: false,
            handshake_timeout: Duration::from_secs(10),
            connections_max: 64,
            requests_max: 256,
            bytes_max: 64 << 20,
            bytes_total_max: 256 << 20,
            stall_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(20),
        }
    }
}

impl ServeOptions {
    /// What is announced of the device.
    #[must_use]
    pub fn flags(&self) -> ExportFlags {
        ExportFlags {
            read_only: self.read_only,
            flush: true,
            fua: true,
            trim: true,
            write_zeroes: true,
            fast_zero: true,
            multi_conn: true,
            rotational: false,
            cache: true,
            df: true,
        }
    }

    /// Checks name and description.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn check(&self) -> Result<(), ExportError> {
        self.export(0).map(drop)
    }

    fn export(&self, size: u64) -> Result<Export, ExportError> {
        Export::new(self.name.as_str(), self.description.as_str(), size, self.flags())
    }
}

/// How serving ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Connections there were.
    pub connections: u64,
    /// Requests that the device had not answered when the time to stop was over. Their tasks still exist: what they
    /// do to the device ends with the executor.
    pub unfinished: usize,
}

/// The one export, as large as the device is when a client asks.
struct Offer<D> {
    options: Rc<ServeOptions>,
    device: Rc<D>,
}

impl<D: Device> Exports for Offer<D> {
    fn find_export(&self, name: &str) -> Option<Export> {
        // `serve` has checked the strings.
        let export = self.options.export(self.device.size()).ok()?;
        (name.is_empty() || name == export.name()).then_some(export)
    }

    fn exports(&self) -> Vec<Export> {
        self.find_export("").into_iter().collect()
    }
}

/// Connections that are there.
#[derive(Default)]
struct Clients {
    tasks: RefCell<BTreeMap<u64, rt::JoinHandle<()>>>,
    gone: Notify,
    count: Cell<u64>,
}

impl Clients {
    async fn all_gone(&self) {
        loop {
            let gone = self.gone.notified();
            if self.tasks.borrow().is_empty() {
                return;
            }
            gone.await;
        }
    }
}

/// What the tasks of a server share.
struct Server<D> {
    options: Rc<ServeOptions>,
    device: Rc<D>,
    surroundings: Rc<Surroundings>,
    clients: Rc<Clients>,
}

/// Serves `device` on `listeners` until `stop` is ready: then accepts nobody and reads no further requests, finishes
/// what is under way, and closes the connections. Flushing and closing the device is left to the caller.
///
/// # Errors
/// [`ExportError`] when name or description do not fit the protocol, before anything else.
pub async fn serve<D: Device>(
    listeners: Vec<Listener>,
    device: Rc<D>,
    options: ServeOptions,
    stop: impl Future<Output = ()>,
) -> Result<Served, ExportError> {
    options.check()?;
    let surroundings = Surroundings {
        stop: Stop::default(),
        handshake_timeout: options.handshake_timeout,
        requests_max: options.requests_max.max(1),
        bytes_max: options.bytes_max.max(1),
        server_bytes: Semaphore::new(options.bytes_total_max.max(1)),
        stall_timeout: options.stall_timeout,
        requests: Cell::new(0),
    };
    let server = Rc::new(Server {
        options: Rc::new(options),
        device,
        surroundings: Rc::new(surroundings),
        clients: Rc::default(),
    });
    let accept = |listener| Leash(rt::spawn(Rc::clone(&server).accept(listener)));
    let accepting: Vec<_> = listeners.into_iter().map(accept).collect();
    stop.await;
    drop(accepting);
    Ok(server.finish().await)
}

impl<D: Device> Server<D> {
    /// Takes connections for ever.
    async fn accept(self: Rc<Self>, mut listener: Listener) {
        loop {
            match listener.accept().await {
                Ok((reader, writer, from)) => self.admit((reader, writer), &from),
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    rt::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Starts the task of a connection.
    fn admit(&self, socket: (Reader, Writer), from: &Address) {
        let clients = Rc::clone(&self.clients);
        if clients.tasks.borrow().len() >= self.options.connections_max as usize {
            return tracing::warn!(%from, "refused: {} clients are connected already", self.options.connections_max);
        }
        let id = clients.count.get();
        clients.count.set(id + 1);
        tracing::debug!(client = id, %from, "connected");
        let (surroundings, device) = (Rc::clone(&self.surroundings), Rc::clone(&self.device));
        let offer = Offer { options: Rc::clone(&self.options), device: Rc::clone(&self.device) };
        let theirs = Rc::clone(&clients);
        let task = rt::spawn(async move {
            note(id, &connection::run(id, surroundings, device, offer, socket).await);
            theirs.tasks.borrow_mut().remove(&id);
            theirs.gone.notify_all();
        });
        clients.tasks.borrow_mut().insert(id, task);
    }

    /// Waits for what is under way.
    async fn finish(&self) -> Served {
        self.surroundings.stop.set();
        if rt::time::timeout(self.options.stop_timeout, self.clients.all_gone()).await.is_err() {
            let left = std::mem::take(&mut *self.clients.tasks.borrow_mut());
            tracing::warn!("{} clients did not end in time", left.len());
            left.values().for_each(rt::JoinHandle::abort);
        }
        Served { connections: self.clients.count.get(), unfinished: self.surroundings.requests.get() }
    }
}

/// Tells the log how a connection ended. That a client vanishes is its own affair.
fn note(client: u64, outcome: &Result<Farewell, ConnectionError>) {
    match outcome {
        Ok(farewell) => tracing::debug!(client, "gone: {farewell:?}"),
        Err(ConnectionError::Socket(error)) => tracing::debug!(client, "gone: {error}"),
        Err(error) => tracing::warn!(client, "dropped: {error}"),
    }
}
