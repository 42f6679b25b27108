//! What the tests share: a directory that outlives its servers, and a client that numbers its writes.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{
    self, CreateOptions, Engine, EngineOptions, NewChunk, OpenError, ReadReply, Refusal, WriteKind,
    WriteReply, WriteRequest,
};
use cs_engine::format::journal::RING_MIN;
use cs_engine::format::superblock::{OtherJournal, Superblock};
use cs_engine::format::{BLOCK, crc32c};
use rt::buf::View;

pub(crate) const FILE: u64 = 77;
pub(crate) const CHUNK: u64 = 0x0001_0000_0000_0042;
pub(crate) const MIB: u32 = 1 << 20;

/// Whether the short form of long tests is wanted.
pub(crate) fn quick() -> bool {
    std::env::var_os("VSTORAGE_QUICK").is_some_and(|value| value == "1")
}

/// The settings of a new server.
pub(crate) fn superblock() -> Superblock {
    Superblock {
        sequence: 1,
        cluster: [1; 16],
        cluster_name: "test".into(),
        cs_uuid: [2; 16],
        cs_id: 0,
        store_uuid: [3; 16],
        journal_generation: 1,
        nonce: [0; 16],
        nonce_offered: [0; 16],
        boot_id: [0; 16],
        incarnation: 0,
        tier: 0,
        no_checksums: false,
        ssd_journal: false,
        block_atomic: true,
        failed: false,
        failed_journal: false,
        journal_bytes: RING_MIN,
        journal_dir: None,
        listen: String::new(),
        other_journal: OtherJournal::None,
    }
}

/// Shows what the engine logs if VSTORAGE_LOG is set; many tests are about errors, which would drown the rest.
pub(crate) fn log() {
    if std::env::var_os("VSTORAGE_LOG").is_some() {
        // Another test has done it already.
        let _done = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_ansi(false)
            .with_test_writer()
            .try_init();
    }
}

/// Runs on an executor of its own; whatever still runs at the end is dropped, as a kill does.
pub(crate) fn run<F: Future + 'static>(main: F) -> F::Output {
    log();
    let options = rt::ExecutorOptions { pool_bytes_max: 16 << 20, ..rt::ExecutorOptions::default() };
    rt::Executor::start(&options).expect("io_uring works here").run(main)
}

/// A chunk server's directory.
#[derive(Debug)]
pub(crate) struct Rig {
    _dir: tempfile::TempDir,
    pub(crate) path: PathBuf,
    pub(crate) options: EngineOptions,
}

impl Rig {
    /// Makes one with other settings.
    pub(crate) fn with(change: impl FnOnce(&mut Superblock, &Path)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("cs");
        let mut superblock = superblock();
        change(&mut superblock, dir.path());
        let options = CreateOptions { dir: path.clone(), superblock };
        run(async move { engine::create(&options).await }).expect("a new chunk server");
        Self { _dir: dir, path, options: EngineOptions::default() }
    }

    pub(crate) fn new() -> Self {
        Self::with(|_, _| {})
    }

    /// One life of the server: `main` runs, then everything is dropped without a word.
    pub(crate) fn life<T: 'static>(&self, main: impl AsyncFnOnce(Rc<Engine>) -> T + 'static) -> T {
        self.try_life(main).expect("the server starts")
    }

    pub(crate) fn try_life<T: 'static>(
        &self,
        main: impl AsyncFnOnce(Rc<Engine>) -> T + 'static,
    ) -> Result<T, OpenError> {
        let (path, options) = (self.path.clone(), self.options.clone());
        run(async move {
            let engine = open(&path, options).await?;
            Ok(main(engine).await)
        })
    }
}

pub(crate) async fn open(path: &Path, options: EngineOptions) -> Result<Rc<Engine>, OpenError> {
    // The kernel may still work for the life before; it lets go of each file when that has ended.
    let deadline = rt::time::now() + Duration::from_secs(10);
    loop {
        let opened = match engine::lock_directory(path).await {
            Ok(lock) => Engine::open(path, lock, options.clone()).await,
            Err(error) => Err(error),
        };
        match opened {
            Err(OpenError::InUse(_)) if rt::time::now() < deadline => {
                rt::time::sleep(Duration::from_millis(1)).await;
            }
            opened => return opened,
        }
    }
}

/// Plain checksums per block of bytes at `offset` of a chunk.
pub(crate) fn crcs(offset: u32, bytes: &[u8]) -> Vec<u32> {
    let mut crcs = Vec::new();
    let (mut rest, mut from) = (bytes, offset as usize % BLOCK);
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.len().min(BLOCK - from));
        crcs.push(crc32c(part));
        (rest, from) = (after, 0);
    }
    crcs
}

/// Bytes that tell where they are from.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rt::random::Rng::from_seed(seed).fill(&mut bytes);
    bytes
}

/// A client with one request at a time in mind; several may run at once.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) engine: Rc<Engine>,
    pub(crate) file: u64,
    pub(crate) epoch: Cell<u64>,
    pub(crate) version: Cell<u64>,
    pub(crate) next: Cell<u64>,
    pub(crate) done: Cell<u64>,
    pub(crate) stable: Cell<u64>,
}

impl Client {
    pub(crate) fn new(engine: &Rc<Engine>, epoch: u64) -> Self {
        Self {
            engine: Rc::clone(engine),
            file: FILE,
            epoch: Cell::new(epoch),
            version: Cell::new(1),
            next: Cell::new(1),
            done: Cell::new(1),
            stable: Cell::new(1),
        }
    }

    /// With a chunk of `size` bytes.
    pub(crate) async fn with_chunk(engine: &Rc<Engine>, epoch: u64, size: u64) -> Self {
        engine.create_chunk(new_chunk(CHUNK, size)).await.expect("a new chunk");
        Self::new(engine, epoch)
    }

    pub(crate) fn request(&self, chunk: u64, offset: u32, len: u32, kind: WriteKind) -> WriteRequest {
        let seq = self.next.get();
        self.next.set(seq + 1);
        WriteRequest {
            file: self.file,
            epoch: self.epoch.get(),
            chunk,
            version: self.version.get(),
            seq,
            done: self.done.get(),
            stable: self.stable.get(),
            offset,
            len,
            kind,
            settles: None,
        }
    }

    pub(crate) fn data(&self, chunk: u64, offset: u32, bytes: &[u8]) -> WriteRequest {
        let kind = WriteKind::Data { payload: View::copy_of(bytes), crcs: crcs(offset, bytes) };
        self.request(chunk, offset, bytes.len() as u32, kind)
    }

    pub(crate) async fn try_write(
        &self,
        chunk: u64,
        offset: u32,
        bytes: &[u8],
    ) -> Result<WriteReply, Refusal> {
        self.engine.write(self.data(chunk, offset, bytes)).await
    }

    pub(crate) async fn write(&self, offset: u32, bytes: &[u8]) {
        self.try_write(CHUNK, offset, bytes).await.expect("a write");
        self.done.set(self.next.get());
    }

    pub(crate) async fn zero(&self, offset: u32, len: u32) {
        let request = self.request(CHUNK, offset, len, WriteKind::Zero);
        self.engine.write(request).await.expect("a write of zeroes");
        self.done.set(self.next.get());
    }

    /// Flushes; what was written before is stable then, this server being the only member.
    pub(crate) async fn flush(&self) {
        self.engine.flush().await.expect("a flush");
        self.stable.set(self.done.get());
    }

    pub(crate) async fn try_read(&self, chunk: u64, offset: u32, len: u32) -> Result<Vec<u8>, Refusal> {
        let reply =
            self.engine.read(self.file, self.epoch.get(), chunk, self.version.get(), offset, len).await?;
        let ReadReply { payload, crcs: found } = reply;
        let Some(payload) = payload else { return Ok(vec![0; len as usize]) };
        assert_eq!(found, crcs(offset, &payload), "checksums of the answer");
        Ok(payload.to_vec())
    }

    pub(crate) async fn read(&self, offset: u32, len: u32) -> Vec<u8> {
        self.try_read(CHUNK, offset, len).await.expect("a read")
    }
}

pub(crate) fn new_chunk(chunk: u64, size: u64) -> NewChunk {
    NewChunk { chunk, version: 1, file: FILE, size, joining: false }
}

/// A server without checkpoints of its own accord.
pub(crate) fn no_interval() -> EngineOptions {
    EngineOptions { checkpoint_interval: Duration::from_secs(3600), ..EngineOptions::default() }
}
