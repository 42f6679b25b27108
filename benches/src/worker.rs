//! One measurement: a pattern on a target, for some seconds, with what it cost.

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Barrier;
use std::time::Duration;

use client::{OpenOptions, Servers, Session, SessionOptions, Volume};
use hw_tests::deadline::{Deadline, Stopwatch};
use hw_tests::nbd::{Client, Request};
use hw_tests::seeded::Seeded;
use link::cluster_dir::HostDirs;
use link::servers::parse_list;
use link::{Credentials, Endpoint, Expect, Keep, LocalHello, Master};
use rt::buf::{Buf, View};
use rt::{Executor, ExecutorOptions};
use serde::{Deserialize, Serialize};
use wire::hello::Role;
use wire::session::ClientKind;

use crate::error::Error;
use crate::floor::FloorClient;
use crate::latency::Percentiles;
use crate::pattern::{Operation, Pattern};
use crate::sample::Sample;
use crate::target::Target;

/// Patience with the metadata server and with an export.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of a worker.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(long)]
    pub(crate) target: Target,
    /// With which pattern.
    #[arg(long)]
    pub(crate) pattern: Pattern,
    /// For how long.
    #[arg(long)]
    pub(crate) milliseconds: u64,
    /// Bytes of the area the pattern moves in, from the start.
    #[arg(long)]
    pub(crate) area: u64,
    /// Write the whole area first, once.
    #[arg(long)]
    pub(crate) fill: bool,
    /// Processes whose time counts besides the worker's.
    #[arg(long, value_delimiter = ',')]
    pub(crate) pids: Vec<u32>,
    /// File with the device's counters.
    #[arg(long)]
    pub(crate) device: Option<PathBuf>,
    /// Decides the places.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// What a measurement found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    pub(crate) latency_us: Percentiles,
    /// Microseconds on a core, per operation.
    pub(crate) cpu_us: f64,
    /// Context switches per operation.
    pub(crate) switches: f64,
    /// Flushes of the device per operation.
    pub(crate) flushes: f64,
}

/// Measures and prints the result.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let measured = match &args.target {
        Target::Floor(ports) => floor(args, ports)?,
        Target::Nbd(socket) => nbd(args, socket)?,
        Target::File(path) => {
            let (args, path) = (args.clone(), path.clone());
            executor()?.run(async move { file(&args, &path).await })?
        }
        Target::Volume { cluster, path } => {
            let (args, cluster, path) = (args.clone(), cluster.clone(), path.clone());
            executor()?.run(async move { volume(&args, &cluster, &path).await })?
        }
    };
    let line = serde_json::to_string(&measured).map_err(Error::access)?;
    writeln!(std::io::stdout(), "{line}").map_err(Error::io("cannot print"))
}

fn executor() -> Result<Executor, Error> {
    Ok(Executor::start(&ExecutorOptions::default())?)
}

/// The time of a measurement.
struct Window {
    clock: Stopwatch,
    deadline: Deadline,
    before: Sample,
    pids: Vec<u32>,
    device: Option<PathBuf>,
}

impl Window {
    fn open(args: &Args) -> Self {
        let mut pids = args.pids.clone();
        pids.push(std::process::id());
        let before = Sample::take(&pids, args.device.as_deref());
        let deadline = Deadline::after(Duration::from_millis(args.milliseconds));
        Self { clock: Stopwatch::start(), deadline, before, pids, device: args.device.clone() }
    }

    fn is_open(&self) -> bool {
        !self.deadline.passed()
    }

    /// How long it was open, and what was used meanwhile.
    fn close(&self) -> (f64, Sample) {
        let seconds = self.clock.elapsed().as_secs_f64();
        (seconds, Sample::take(&self.pids, self.device.as_deref()) - self.before)
    }
}

impl Measured {
    fn new(latencies: Vec<u64>, (seconds, used): (f64, Sample)) -> Self {
        let operations = latencies.len() as u64;
        let per = |sum: u64| sum as f64 / operations.max(1) as f64;
        Self {
            operations,
            seconds,
            latency_us: Percentiles::of(latencies),
            cpu_us: per(used.cpu_ns) / 1e3,
            switches: per(used.switches),
            flushes: per(used.flushes),
        }
    }
}

/// Where operations go.
struct Places {
    pattern: Pattern,
    units: u64,
    next: u64,
    seeded: Seeded,
}

impl Places {
    fn new(args: &Args) -> Self {
        let units = (args.area / u64::from(args.pattern.bytes)).max(1);
        Self { pattern: args.pattern, units, next: 0, seeded: Seeded::new(args.seed) }
    }

    fn draw(&mut self) -> u64 {
        let unit =
            if self.pattern.sequential { self.next % self.units } else { self.seeded.below(self.units) };
        self.next += 1;
        unit * u64::from(self.pattern.bytes)
    }
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Seeded::new(seed ^ 0x5eed).fill(&mut bytes);
    bytes
}

/// A file or a volume, seen from a task of the executor.
#[derive(Clone)]
enum Way {
    File(Rc<rt::fs::File>),
    Volume(Volume),
}

impl Way {
    async fn write(&self, offset: u64, data: View) -> Result<(), Error> {
        match self {
            Self::File(file) => file.write_all_at(data, offset).await.map_err(Error::io("write")),
            Self::Volume(volume) => Ok(volume.write(offset, data).await?),
        }
    }

    async fn flush(&self) -> Result<(), Error> {
        match self {
            Self::File(file) => file.sync_data().await.map_err(Error::io("flush")),
            Self::Volume(volume) => Ok(volume.flush().await?),
        }
    }

    async fn read(&self, offset: u64, len: u32, room: Option<Buf>) -> Result<Option<Buf>, Error> {
        match self {
            Self::File(file) => {
                let buf = room.unwrap_or_else(|| Buf::new(len as usize));
                let (outcome, buf) = file.read_exact_at(buf, offset).await;
                outcome.map_err(Error::io("read")).map(|()| Some(buf))
            }
            Self::Volume(volume) => {
                drop(volume.read(offset, len.into()).await?);
                Ok(None)
            }
        }
    }

    async fn fill(&self, args: &Args) -> Result<(), Error> {
        let data = View::copy_of(&content(args.seed, 1 << 20));
        for offset in (0..args.area).step_by(1 << 20) {
            self.write(offset, data.clone()).await?;
        }
        self.flush().await
    }

    async fn measure(&self, args: &Args) -> Result<Measured, Error> {
        if args.fill {
            self.fill(args).await?;
        }
        let places = Rc::new(RefCell::new(Places::new(args)));
        let window = Rc::new(Window::open(args));
        let tasks: Vec<_> = (0..args.pattern.depth)
            .map(|number| {
                let work = work(self.clone(), args.pattern, Rc::clone(&places), Rc::clone(&window), number);
                rt::spawn(work)
            })
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await.map_err(Error::access)??);
        }
        Ok(Measured::new(latencies, window.close()))
    }
}

async fn work(
    way: Way,
    pattern: Pattern,
    places: Rc<RefCell<Places>>,
    window: Rc<Window>,
    number: usize,
) -> Result<Vec<u64>, Error> {
    let data = View::copy_of(&content(number as u64, pattern.bytes as usize));
    let mut room = None;
    let mut latencies = Vec::new();
    while window.is_open() {
        let offset = places.borrow_mut().draw();
        let begun = rt::time::now();
        match pattern.operation {
            Operation::Read => room = way.read(offset, pattern.bytes, room.take()).await?,
            Operation::Write => way.write(offset, data.clone()).await?,
            Operation::WriteFlush => {
                way.write(offset, data.clone()).await?;
                way.flush().await?;
            }
        }
        latencies.push(begun.elapsed().as_nanos() as u64);
    }
    Ok(latencies)
}

async fn file(args: &Args, path: &Path) -> Result<Measured, Error> {
    let options = rt::fs::OpenOptions::direct();
    let file = rt::fs::File::open(path, options).await.map_err(Error::io(format!("{}", path.display())))?;
    Way::File(Rc::new(file)).measure(args).await
}

async fn volume(args: &Args, cluster: &str, path: &str) -> Result<Measured, Error> {
    let dirs = HostDirs::from_environment();
    let credentials = Credentials::load(&dirs.credentials(cluster)).await.map_err(Error::access)?;
    let boot_id = rt::node::boot_id().map_err(Error::io("cannot read the boot id"))?;
    let hello = LocalHello::new(Role::Client, boot_id);
    let endpoint = Endpoint::new(credentials, hello, link::Options::default()).map_err(Error::access)?;
    let list = rt::fs::read(&dirs.bs_list(cluster)).await.map_err(Error::io("bs.list"))?;
    let list = parse_list(&String::from_utf8_lossy(&list)).map_err(Error::access)?;
    let master = Rc::new(Master::new(&endpoint, list, Keep::new(Expect::role(Role::Mds))));
    let mut client_uuid = [0; 16];
    rt::random::fill_secret(&mut client_uuid);
    let options = SessionOptions { client_uuid, kind: ClientKind::Tool, resume: None, patience: PATIENCE };
    let session = Session::open(master, options).await.map_err(Error::access)?;
    let servers = Servers::new(endpoint.clone());
    let options = OpenOptions { write: true, patience: PATIENCE };
    let volume = Volume::open(&session, &servers, path, &options).await.map_err(Error::access)?;
    let measured = Way::Volume(volume.clone()).measure(args).await;
    volume.close().await?;
    session.close().await.map_err(Error::access)?;
    endpoint.close().await;
    measured
}

/// As many threads as operations under way, each with its own connections.
fn floor(args: &Args, ports: &[u16]) -> Result<Measured, Error> {
    let pattern = args.pattern;
    if args.fill {
        let mut client = FloorClient::connect(ports)?;
        let data = content(args.seed, 1 << 20);
        (0..args.area).step_by(1 << 20).try_for_each(|offset| client.write(offset, &data))?;
        client.flush()?;
    }
    let clients: Result<Vec<_>, _> = (0..pattern.depth).map(|_| FloorClient::connect(ports)).collect();
    let clients = clients?;
    let window = Window::open(args);
    let one = |number: usize, mut client: FloorClient| -> Result<Vec<u64>, Error> {
        let mut places = Places::new(&Args { seed: args.seed + number as u64, ..args.clone() });
        let mut room = content(number as u64, pattern.bytes as usize);
        let mut latencies = Vec::new();
        while window.is_open() {
            let offset = places.draw();
            let clock = Stopwatch::start();
            match pattern.operation {
                Operation::Read => client.read(offset, &mut room)?,
                Operation::Write => client.write(offset, &room)?,
                Operation::WriteFlush => {
                    client.write(offset, &room)?;
                    client.flush()?;
                }
            }
            latencies.push(clock.elapsed().as_nanos() as u64);
        }
        Ok(latencies)
    };
    // Nobody's thread is gone before it is looked at what the threads have used.
    let done = Barrier::new(pattern.depth + 1);
    std::thread::scope(|scope| {
        let (one, done) = (&one, &done);
        let start = |(number, client)| {
            scope.spawn(move || {
                let outcome = one(number, client);
                done.wait();
                done.wait();
                outcome
            })
        };
        let threads: Vec<_> = clients.into_iter().enumerate().map(start).collect();
        done.wait();
        let used = window.close();
        done.wait();
        let mut latencies = Vec::new();
        for thread in threads {
            latencies.extend(thread.join().map_err(|_| Error::Access("a thread panicked".into()))??);
        }
        Ok(Measured::new(latencies, used))
    })
}

/// One connection with as many requests under way as the pattern says; a write with a flush takes two.
fn nbd(args: &Args, socket: &Path) -> Result<Measured, Error> {
    let pattern = args.pattern;
    let mut client = Client::connect(socket, PATIENCE)?;
    let data = content(args.seed, 1 << 20);
    if args.fill {
        for offset in (0..args.area).step_by(1 << 20) {
            let answer = client.ask(Request::Write, offset, 1 << 20, &data)?;
            accept("write", answer.error)?;
        }
        accept("flush", client.ask(Request::Flush, 0, 0, &[])?.error)?;
    }
    let mut places = Places::new(args);
    let window = Window::open(args);
    let mut under_way = std::collections::BTreeMap::new();
    let mut latencies = Vec::new();
    let payload = &data[..pattern.bytes as usize];
    loop {
        while under_way.len() < pattern.depth && window.is_open() {
            let offset = places.draw();
            let clock = Stopwatch::start();
            let cookie = match pattern.operation {
                Operation::Read => client.send(Request::Read, 0, offset, pattern.bytes, &[])?,
                _ => client.send(Request::Write, 0, offset, pattern.bytes, payload)?,
            };
            under_way.insert(cookie, (clock, pattern.operation == Operation::WriteFlush));
        }
        if under_way.is_empty() {
            return Ok(Measured::new(latencies, window.close()));
        }
        let answer = client.receive()?;
        accept("a request", answer.error)?;
        let Some((clock, flush)) = under_way.remove(&answer.cookie) else {
            return Err(Error::Access("an answer to no request".into()));
        };
        if flush {
            let cookie = client.send(Request::Flush, 0, 0, 0, &[])?;
            under_way.insert(cookie, (clock, false));
        } else {
            latencies.push(clock.elapsed().as_nanos() as u64);
        }
    }
}

fn accept(what: &'static str, error: u32) -> Result<(), Error> {
    if error == 0 { Ok(()) } else { Err(Error::Refused { what, error }) }
}
