//! Devices to serve: a sparse file, and a wrapper that records what is asked of it and holds it back.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use client::Run;
use rt::buf::{Buf, View};
use rt::fs::{Allocation, File, OpenOptions};
use rt::sync::Notify;
use ublk_target::device::{Device, DeviceError, Parts};

/// A file of this host.
pub(crate) struct FileDevice {
    file: File,
    /// The same file, to ask where its holes are.
    map: std::fs::File,
    size: u64,
}

impl FileDevice {
    /// A new file of zeroes.
    pub(crate) async fn create(path: &Path, size: u64) -> Self {
        let options = OpenOptions { write: true, create: true, ..OpenOptions::default() };
        let file = File::open(path, options).await.expect("a writable directory");
        file.set_len(size).await.expect("a file as large as that");
        Self { file, map: std::fs::File::open(path).expect("it is there"), size }
    }

    /// The runs of a range.
    fn runs(&self, offset: u64, len: u64) -> io::Result<Vec<Run>> {
        use rustix::fs::SeekFrom;
        let end = offset + len;
        let mut at = offset;
        let mut runs = Vec::new();
        while at < end {
            let data = match rustix::fs::seek(&self.map, SeekFrom::Data(at)) {
                Ok(data) => data.min(end),
                Err(rustix::io::Errno::NXIO) => end,
                Err(error) => return Err(error.into()),
            };
            if data > at {
                runs.push(Run { len: data - at, data: false });
                at = data;
            }
            if at < end {
                let hole = rustix::fs::seek(&self.map, SeekFrom::Hole(at))?.min(end);
                runs.push(Run { len: hole - at, data: true });
                at = hole;
            }
        }
        Ok(runs)
    }
}

impl Device for FileDevice {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&self, offset: u64, len: u64) -> Result<Parts, DeviceError> {
        let mut at = offset;
        let mut parts = Vec::new();
        for run in self.runs(offset, len)? {
            let data = if run.data {
                let (result, buf) = self.file.read_exact_at(Buf::new(run.len as usize), at).await;
                result?;
                Some(buf.freeze())
            } else {
                None
            };
            parts.push((run.len, data));
            at += run.len;
        }
        Ok(parts)
    }

    async fn write(&self, offset: u64, data: View) -> Result<(), DeviceError> {
        Ok(self.file.write_all_at(data, offset).await?)
    }

    async fn write_zeroes(&self, offset: u64, len: u64, punch: bool) -> Result<(), DeviceError> {
        let kind = if punch { Allocation::Punch } else { Allocation::Zero };
        Ok(self.file.allocate(kind, offset, len).await?)
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        Ok(self.file.allocate(Allocation::Punch, offset, len).await?)
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        Ok(self.file.sync_data().await?)
    }

    async fn block_status(&self, offset: u64, len: u64, runs_max: usize) -> Result<Vec<Run>, DeviceError> {
        let mut runs = self.runs(offset, len)?;
        runs.truncate(runs_max);
        Ok(runs)
    }
}

/// What was asked of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A write of zeroes that must stay allocated.
    Zero,
    /// A write of zeroes that may become a hole.
    Punch,
    /// A discard.
    Discard,
    /// A flush.
    Flush,
    /// A question about allocation.
    Status,
}

/// One line of a device's diary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// What was asked.
    pub(crate) ask: Ask,
    /// Whether it has ended, or has only begun.
    pub(crate) ended: bool,
    /// First byte; 0 for a flush.
    pub(crate) offset: u64,
    /// Bytes; 0 for a flush.
    pub(crate) len: u64,
}

/// How a device is held back.
#[derive(Default)]
pub(crate) struct Control {
    /// What happened, in order.
    pub(crate) diary: RefCell<Vec<Entry>>,
    /// Requests that begin below this offset wait (flushes begin at 0).
    pub(crate) shut_below: Cell<u64>,
    /// Reads take a random time up to this.
    pub(crate) read_delay: Cell<Duration>,
    /// The next request fails so.
    pub(crate) failure: Cell<Option<io::ErrorKind>>,
    /// Requests and bytes under way, and the most there were.
    pub(crate) now: Cell<(usize, u64)>,
    pub(crate) peak: Cell<(usize, u64)>,
    changed: Notify,
}

impl Control {
    /// Lets everything through.
    pub(crate) fn open(&self) {
        self.shut_below.set(0);
        self.changed.notify_all();
    }

    /// Waits until the device has been asked for something so many times.
    pub(crate) async fn asked(&self, count: usize) {
        loop {
            let changed = self.changed.notified();
            if self.diary.borrow().iter().filter(|entry| !entry.ended).count() >= count {
                return;
            }
            changed.await;
        }
    }

    /// Waits until a request of this kind has ended.
    pub(crate) async fn ended(&self, ask: Ask) {
        loop {
            let changed = self.changed.notified();
            if self.diary.borrow().iter().any(|entry| entry.ended && entry.ask == ask) {
                return;
            }
            changed.await;
        }
    }

    /// What was asked, in order of beginning, without questions about allocation.
    pub(crate) fn begun(&self) -> Vec<Ask> {
        let diary = self.diary.borrow();
        diary.iter().filter(|entry| !entry.ended && entry.ask != Ask::Status).map(|entry| entry.ask).collect()
    }

    fn note(&self, ask: Ask, ended: bool, offset: u64, len: u64) {
        self.diary.borrow_mut().push(Entry { ask, ended, offset, len });
        let (requests, bytes) = self.now.get();
        let now = if ended { (requests - 1, bytes - len) } else { (requests + 1, bytes + len) };
        self.now.set(now);
        let peak = self.peak.get();
        self.peak.set((peak.0.max(now.0), peak.1.max(now.1)));
        self.changed.notify_all();
    }

    async fn pass<T>(
        &self,
        (ask, offset, len): (Ask, u64, u64),
        work: impl Future<Output = Result<T, DeviceError>>,
    ) -> Result<T, DeviceError> {
        self.note(ask, false, offset, len);
        while offset < self.shut_below.get() {
            self.changed.notified().await;
        }
        let delay = self.read_delay.get();
        if ask == Ask::Read && !delay.is_zero() {
            rt::time::sleep(Duration::from_nanos(rt::random::below(delay.as_nanos() as u64))).await;
        }
        let result = match self.failure.take() {
            Some(kind) => Err(io::Error::from(kind).into()),
            None => work.await,
        };
        self.note(ask, true, offset, len);
        result
    }
}

/// A device under control.
pub(crate) struct Watched<D> {
    device: D,
    pub(crate) control: Rc<Control>,
}

impl<D> Watched<D> {
    pub(crate) fn new(device: D) -> Self {
        Self { device, control: Rc::default() }
    }
}

impl<D: Device> Device for Watched<D> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    async fn read(&self, offset: u64, len: u64) -> Result<Parts, DeviceError> {
        self.control.pass((Ask::Read, offset, len), self.device.read(offset, len)).await
    }

    async fn write(&self, offset: u64, data: View) -> Result<(), DeviceError> {
        let len = data.len() as u64;
        self.control.pass((Ask::Write, offset, len), self.device.write(offset, data)).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, punch: bool) -> Result<(), DeviceError> {
        let ask = if punch { Ask::Punch } else { Ask::Zero };
        self.control.pass((ask, offset, len), self.device.write_zeroes(offset, len, punch)).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.control.pass((Ask::Discard, offset, len), self.device.discard(offset, len)).await
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.control.pass((Ask::Flush, 0, 0), self.device.flush()).await
    }

    async fn block_status(&self, offset: u64, len: u64, runs_max: usize) -> Result<Vec<Run>, DeviceError> {
        self.control.pass((Ask::Status, offset, len), self.device.block_status(offset, len, runs_max)).await
    }
}
