//! Shared memory of mapped files.
#![allow(unsafe_code, reason = "mapping a file is; each block says why it is sound")]

use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

use crate::trial::{Case, pair, plain};

/// A file mapped for reading and writing, shared.
struct Map {
    start: *mut u8,
    len: usize,
}

impl Map {
    fn new(path: &Path) -> rustix::io::Result<Self> {
        let file = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let len = rustix::fs::fstat(&file)?.st_size as usize;
        // SAFETY: the kernel chooses an address that is free.
        let start = unsafe {
            mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)?
        };
        Ok(Self { start: start.cast(), len })
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len, "within the map");
        // SAFETY: inside the map, which nobody else in this process refers to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(offset), bytes.len()) }
    }

    fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len, "within the map");
        // SAFETY: inside the map; volatile, because another process may write it.
        (0..len).map(|at| unsafe { self.start.add(offset + at).read_volatile() }).collect()
    }

    fn sync(&self) -> rustix::io::Result<()> {
        // SAFETY: the map's own range.
        unsafe { msync(self.start.cast(), self.len, MsyncFlags::SYNC) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the map's own range, which nobody refers to any more.
        let unmapped = unsafe { munmap(self.start.cast(), self.len) };
        unmapped.expect("a map of ours");
    }
}

/// Writes into a mapped file.
pub(crate) fn write_mapped(path: &Path, offset: usize, bytes: &[u8]) -> rustix::io::Result<()> {
    Map::new(path)?.write(offset, bytes);
    Ok(())
}

/// Writes into a mapped file and syncs it.
pub(crate) fn write_mapped_and_sync(path: &Path, offset: usize, bytes: &[u8]) -> rustix::io::Result<()> {
    let map = Map::new(path)?;
    map.write(offset, bytes);
    map.sync()
}

pub(crate) const CASES: &[Case] = &[
    plain("maps_are_written_and_read", |t| {
        t.make("a", &[b'.'; 10_000]);
        let written = write_mapped(&t.path("a"), 4_090, b"across pages");
        t.did("map", written);
        t.show("a");
        let map = Map::new(&t.path("a"));
        if let Some(map) = t.did("again", map) {
            let content = map.read(4_088, 16);
            t.show_bytes("content", &content);
        }
    }),
    plain("maps_and_writes_agree", |t| {
        use std::os::unix::fs::FileExt;
        t.make("a", &[b'.'; 10_000]);
        let map = Map::new(&t.path("a")).expect("a map");
        let file = t.file("a", OFlags::RDWR);
        file.write_all_at(b"by write", 100).expect("a write");
        t.show_bytes("map", &map.read(98, 12));
        map.write(200, b"by map");
        let mut buf = [0; 10];
        file.read_exact_at(&mut buf, 198).expect("a read");
        t.show_bytes("read", &buf);
        let synced = map.sync();
        t.did("sync", synced);
        t.show("a");
    }),
    plain("maps_outlive_their_handles", |t| {
        t.make("a", &[b'.'; 5_000]);
        let map = Map::new(&t.path("a")).expect("a map");
        let gone = rustix::fs::unlink(t.path("a"));
        t.did("unlink", gone);
        map.write(4_990, b"still here");
        t.show_bytes("map", &map.read(4_985, 15));
    }),
    plain("maps_need_a_writer", |t| {
        t.make("a", &[b'.'; 5_000]);
        let file = t.file("a", OFlags::RDONLY);
        // SAFETY: as in `Map::new`.
        let start = unsafe {
            mmap(std::ptr::null_mut(), 5_000, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)
        };
        t.did("map", start.map(|_| ()));
    }),
    pair(
        "processes_share_a_map",
        |t| {
            t.make("a", &[b'.'; 9_000]);
            let map = Map::new(&t.path("a")).expect("a map");
            let mut partner = t.partner();
            partner.meet();
            map.write(50, b"from one");
            partner.go();
            partner.meet();
            t.show_bytes("one sees", &map.read(8_000, 8));
            partner.go();
            partner.end(t);
            drop(map);
            t.show("a");
        },
        |t| {
            let map = Map::new(&t.path("a")).expect("a map");
            t.meet();
            t.show_bytes("other sees", &map.read(50, 8));
            map.write(8_000, b"from two");
            t.meet();
        },
    ),
];
