//! The NBD server: one device, many connections.
//!
//! All connections share the device, so that a flush on one covers the writes answered on all
//! (`NBD_FLAG_CAN_MULTI_CONN`). An idle server waits in the kernel.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use rt::net::{Address, Listener, Reader, Writer};
use rt::sync::{Notify, Semaphore};

use super::connection::{self, ConnectionError, Farewell, Surroundings};
use super::export::{Export, ExportError, ExportFlags, Exports};
use super::stop::{Stop, unless};
use crate::device::Device;

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

/// Serves `device` on `listener` until `stop` is ready: then accepts nobody and reads no further requests, finishes
/// what is under way, and closes the connections. Flushing and closing the device is left to the caller.
///
/// # Errors
/// [`ExportError`] when name or description do not fit the protocol, before anything else.
pub async fn serve<D: Device>(
    mut listener: Listener,
    device: Rc<D>,
    options: ServeOptions,
    stop: impl Future<Output = ()>,
) -> Result<Served, ExportError> {
    options.check()?;
    let options = Rc::new(options);
    let surroundings = Rc::new(Surroundings {
        stop: Stop::default(),
        handshake_timeout: options.handshake_timeout,
        requests_max: options.requests_max.max(1),
        bytes_max: options.bytes_max.max(1),
        server_bytes: Semaphore::new(options.bytes_total_max.max(1)),
        requests: Cell::new(0),
    });
    let clients = Rc::new(Clients::default());
    let mut stop = pin!(stop);
    while let Some(accepted) = unless(stop.as_mut(), listener.accept()).await {
        match accepted {
            Ok((reader, writer, from)) => {
                if clients.tasks.borrow().len() >= options.connections_max as usize {
                    tracing::warn!(%from, "refused: {} clients are connected already", options.connections_max);
                    continue;
                }
                let offer = Offer { options: Rc::clone(&options), device: Rc::clone(&device) };
                admit(&clients, &surroundings, offer, (reader, writer), &from);
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                if unless(stop.as_mut(), rt::time::sleep(ACCEPT_PAUSE)).await.is_none() {
                    break;
                }
            }
        }
    }
    drop(listener);
    surroundings.stop.set();
    if rt::time::timeout(options.stop_timeout, clients.all_gone()).await.is_err() {
        let left = std::mem::take(&mut *clients.tasks.borrow_mut());
        tracing::warn!("{} clients did not end in time", left.len());
        left.values().for_each(rt::JoinHandle::abort);
    }
    Ok(Served { connections: clients.count.get(), unfinished: surroundings.requests.get() })
}

/// Starts the task of a connection.
fn admit<D: Device>(
    clients: &Rc<Clients>,
    surroundings: &Rc<Surroundings>,
    offer: Offer<D>,
    socket: (Reader, Writer),
    from: &Address,
) {
    let id = clients.count.get();
    clients.count.set(id + 1);
    tracing::debug!(client = id, %from, "connected");
    let (theirs, surroundings) = (Rc::clone(clients), Rc::clone(surroundings));
    let device = Rc::clone(&offer.device);
    let task = rt::spawn(async move {
        note(id, &connection::run(id, surroundings, device, offer, socket).await);
        theirs.tasks.borrow_mut().remove(&id);
        theirs.gone.notify_all();
    });
    clients.tasks.borrow_mut().insert(id, task);
}

/// Tells the log how a connection ended. That a client vanishes is its own affair.
fn note(client: u64, outcome: &Result<Farewell, ConnectionError>) {
    match outcome {
        Ok(farewell) => tracing::debug!(client, "gone: {farewell:?}"),
        Err(ConnectionError::Socket(error)) => tracing::debug!(client, "gone: {error}"),
        Err(error) => tracing::warn!(client, "dropped: {error}"),
    }
}
