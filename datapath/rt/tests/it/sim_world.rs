//! What the simulator's tests share: one host, one process, and the end of it.

use std::future::Future;
use std::path::Path;

use datapath_rt as rt;
use rt::buf::{Buf, View};
use rt::fs::{File, OpenOptions};
use rt::sim::control::{self, Exit, Process};
use rt::sim::{DiskOptions, HostId, HostOptions, SimOptions, Simulation};

/// Runs a controller in an ordinary world.
pub(crate) fn world<F: Future + 'static>(seed: u64, controller: F) -> F::Output {
    Simulation::new(SimOptions::new(seed)).run(controller).unwrap()
}

/// Adds a host with this disk.
pub(crate) fn host_with(disk: DiskOptions) -> HostId {
    control::add_host(HostOptions::new("host").with_disk(disk))
}

/// Adds an ordinary host.
pub(crate) fn host() -> HostId {
    host_with(DiskOptions::default())
}

/// Runs a process to its end.
pub(crate) async fn on<F: Future + 'static>(host: HostId, main: F) -> F::Output {
    control::start_process(host, "test", main).wait().await.returned()
}

/// Starts a process that never ends by itself.
pub(crate) fn forever<F: Future + 'static>(host: HostId, main: F) -> Process<()> {
    control::start_process(host, "test", async move {
        let _output = main.await;
        std::future::pending().await
    })
}

/// A process that was meant to be killed.
pub(crate) async fn killed(process: Process<()>) {
    assert_eq!(process.wait().await, Exit::Killed);
}

/// `count` blocks of one byte.
pub(crate) fn blocks(byte: u8, count: usize) -> View {
    let mut buf = Buf::new(4096 * count);
    buf.fill(byte);
    buf.freeze()
}

/// Opens for direct I/O, and makes the file if need be.
pub(crate) async fn direct(path: impl AsRef<Path>) -> File {
    File::open(path.as_ref(), OpenOptions::direct().create()).await.unwrap()
}

/// A file of `count` durable blocks of one byte under a durable name.
pub(crate) async fn durable(path: &str, byte: u8, count: usize) -> File {
    let file = direct(path).await;
    file.write_all_at(blocks(byte, count), 0).await.unwrap();
    file.sync_data().await.unwrap();
    rt::fs::sync_dir(Path::new("/")).await.unwrap();
    file
}

/// The whole content of a file.
pub(crate) async fn content(path: &str) -> Vec<u8> {
    rt::fs::read(Path::new(path)).await.unwrap()
}
