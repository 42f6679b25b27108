//! A server to test, on an executor of its own.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use rt::net::{Address, Listener};
use rt::sync::{OneSender, oneshot};
use rt::{Executor, ExecutorOptions};
use tempfile::TempDir;
use ublk_target::nbd::{ServeOptions, Served, serve};

use crate::device::{Control, FileDevice, Watched};
use crate::raw::Raw;

/// One mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// Runs a test on the real driver; one that hangs fails.
pub(crate) fn run<F: Future<Output = ()> + 'static>(test: F) {
    let executor = Executor::start(&ExecutorOptions::default()).expect("io_uring works here");
    let ended = executor.run(async { rt::time::timeout(Duration::from_secs(100), test).await });
    assert!(ended.is_ok(), "the test hangs");
}

/// A server on a sparse file.
pub(crate) struct Server {
    pub(crate) control: Rc<Control>,
    pub(crate) address: Address,
    pub(crate) dir: TempDir,
    stop: Option<OneSender<()>>,
    task: rt::JoinHandle<Served>,
}

impl Server {
    /// On a Unix socket.
    pub(crate) async fn start(size: u64, options: ServeOptions) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = Address::Unix(dir.path().join("nbd.sock"));
        Self::start_at(dir, &socket, size, options).await
    }

    /// On a port of the loopback.
    pub(crate) async fn start_tcp(size: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let any = Address::Tcp("127.0.0.1:0".parse().expect("an address"));
        Self::start_at(dir, &any, size, ServeOptions::default()).await
    }

    async fn start_at(dir: TempDir, address: &Address, size: u64, options: ServeOptions) -> Self {
        let device = Watched::new(FileDevice::create(&dir.path().join("volume"), size).await);
        let control = Rc::clone(&device.control);
        let listener = Listener::bind(address).expect("a free address");
        let address = listener.local_address().expect("bound");
        let (stop, stopped) = oneshot();
        let task = rt::spawn(async move {
            let wait = async {
                // A test that fails drops the other end.
                let _failing = stopped.await;
            };
            serve(vec![listener], Rc::new(device), options, wait).await.expect("a valid name")
        });
        Self { control, address, dir, stop: Some(stop), task }
    }

    /// Where the data is.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    /// A path for something else.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As programs want to be told.
    pub(crate) fn uri(&self) -> String {
        match &self.address {
            Address::Tcp(address) => format!("nbd://{address}/"),
            Address::Unix(path) => format!("nbd+unix:///?socket={}", path.display()),
        }
    }

    /// A client with structured replies and block status.
    pub(crate) async fn client(&self) -> Raw {
        let mut raw = Raw::connect(&self.address).await;
        raw.handshake(true).await;
        raw
    }

    /// Asks the server to stop without waiting for it.
    pub(crate) fn ask_to_stop(&mut self) {
        let stop = self.stop.take().expect("a server is stopped once");
        stop.send(()).expect("the server runs");
    }

    /// Waits until the server has stopped.
    pub(crate) async fn stopped(self) -> Served {
        self.task.await.expect("nobody aborts the server")
    }

    /// Whether the server has stopped.
    pub(crate) fn has_stopped(&self) -> bool {
        self.task.is_finished()
    }

    /// Stops the server in order; nothing may be left behind.
    pub(crate) async fn stop(mut self) {
        self.ask_to_stop();
        let control = Rc::clone(&self.control);
        assert_eq!(self.stopped().await.unfinished, 0);
        assert_eq!(control.now.get(), (0, 0));
    }
}
