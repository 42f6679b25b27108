//! Open files: reading, writing, sizes, holes.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use rustix::fs as sys;
use rustix::fs::{FallocateFlags, OFlags};

use crate::trial::{Case, Trial, plain};

const RW: OFlags = OFlags::RDWR;
const CREATE: OFlags = OFlags::RDWR.union(OFlags::CREATE);

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ seed | 1).collect()
}

fn errno<T>(outcome: std::io::Result<T>) -> rustix::io::Result<T> {
    outcome.map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
}

fn size(t: &mut Trial, name: &str) {
    let size = sys::stat(t.path(name)).map(|stat| stat.st_size);
    t.note("size", size);
}

pub(crate) const CASES: &[Case] = &[
    plain("write_and_read", |t| {
        t.make("a", b"hello");
        t.show("a");
        size(t, "a");
    }),
    plain("append_goes_to_the_end", |t| {
        t.make("a", b"one");
        let mut file = t.file("a", OFlags::WRONLY | OFlags::APPEND);
        file.seek(SeekFrom::Start(0)).expect("a seek");
        let written = errno(file.write(b"two"));
        t.note("write", written);
        let written = errno(file.write_at(b"three", 0));
        t.note("at", written);
        t.show("a");
    }),
    plain("append_by_two_handles", |t| {
        let mut one = t.file("a", CREATE | OFlags::APPEND);
        let mut two = t.file("a", CREATE | OFlags::APPEND);
        for round in 0..5u8 {
            one.write_all(&[b'a' + round]).expect("a write");
            two.write_all(&[b'A' + round]).expect("a write");
        }
        t.show("a");
    }),
    plain("truncating_open", |t| {
        t.make("a", b"long content");
        let open = t.open("a", OFlags::WRONLY | OFlags::TRUNC);
        t.did("open", open);
        size(t, "a");
        t.show("a");
    }),
    plain("truncate_shorter_and_longer", |t| {
        t.make("a", &pattern(10_000, 7));
        for len in [9_999, 4_097, 4_096, 4_095, 100, 5_000, 20_000, 0, 1] {
            let file = t.file("a", RW);
            let set = errno(file.set_len(len));
            t.did(&format!("{len}"), set);
            t.show("a");
        }
    }),
    plain("truncate_zeroes_the_tail", |t| {
        t.make("a", &pattern(9_000, 3));
        let file = t.file("a", RW);
        file.set_len(4_500).expect("a truncate");
        file.set_len(9_000).expect("a truncate");
        t.show("a");
        let mut tail = [1; 8];
        file.read_exact_at(&mut tail, 4_500).expect("a read");
        t.say("tail", tail);
    }),
    plain("truncate_by_path", |t| {
        t.make("a", b"0123456789");
        for len in ["4", "12"] {
            let status = std::process::Command::new("truncate").args(["-s", len]).arg(t.path("a")).status();
            t.say("truncate", status.map(|status| status.success()).ok());
            t.show("a");
        }
    }),
    plain("truncate_while_it_is_read", |t| {
        t.make("a", b"0123456789");
        let reader = t.file("a", OFlags::RDONLY);
        let writer = t.file("a", OFlags::WRONLY);
        writer.set_len(3).expect("a truncate");
        let mut buf = [0; 10];
        let read = errno(reader.read_at(&mut buf, 0));
        t.note("read", read);
        let read = errno(reader.read_at(&mut buf, 3));
        t.note("at the end", read);
        let read = errno(reader.read_at(&mut buf, 100));
        t.note("beyond", read);
    }),
    plain("truncate_of_a_reader_and_a_directory", |t| {
        t.make("a", b"x");
        let reader = t.file("a", OFlags::RDONLY);
        let set = errno(reader.set_len(0));
        t.did("reader", set);
        let dir = t.file("", OFlags::RDONLY | OFlags::DIRECTORY);
        let set = errno(dir.set_len(0));
        t.did("directory", set);
    }),
    plain("write_beyond_the_end", |t| {
        let file = t.file("a", CREATE);
        let written = errno(file.write_at(b"end", 10_000));
        t.note("write", written);
        t.show("a");
        let written = errno(file.write_at(b"middle", 5_000));
        t.note("write", written);
        t.show("a");
    }),
    plain("write_at_odd_places", |t| {
        let file = t.file("a", CREATE);
        file.write_all_at(&pattern(30_000, 1), 0).expect("a write");
        for (offset, len) in
            [(1, 1), (4_095, 2), (4_096, 4_096), (8_191, 4_098), (12_345, 10_000), (29_999, 5)]
        {
            file.write_all_at(&pattern(len, 0x80), offset).expect("a write");
        }
        t.show("a");
    }),
    plain("read_at_odd_places", |t| {
        t.make("a", &pattern(30_000, 9));
        let file = t.file("a", OFlags::RDONLY);
        for (offset, len) in
            [(0, 1), (1, 4_095), (4_095, 2), (8_191, 4_098), (29_990, 100), (30_000, 1), (0, 30_000)]
        {
            let mut buf = vec![0; len];
            let read = file.read_at(&mut buf, offset).expect("a read");
            t.show_bytes(&format!("{offset}+{len}"), &buf[..read]);
        }
    }),
    plain("large_writes_and_reads", |t| {
        let bytes = pattern(9 << 20, 5);
        let file = t.file("a", CREATE);
        file.write_all_at(&bytes, 777).expect("a write");
        drop(file);
        t.show("a");
        size(t, "a");
    }),
    plain("read_only_and_write_only", |t| {
        t.make("a", b"content");
        let mut reader = t.file("a", OFlags::RDONLY);
        let mut writer = t.file("a", OFlags::WRONLY);
        let written = errno(reader.write(b"x"));
        t.note("write", written);
        let read = errno(writer.read(&mut [0; 3]));
        t.note("read", read);
    }),
    plain("seeks", |t| {
        t.make("a", b"0123456789");
        let mut file = t.file("a", RW);
        for seek in [SeekFrom::End(-3), SeekFrom::Current(1), SeekFrom::Start(100), SeekFrom::End(5)] {
            let at = errno(file.seek(seek));
            t.note("seek", at);
        }
        let at = errno(file.seek(SeekFrom::End(-11)));
        t.note("before the beginning", at);
    }),
    plain("data_and_holes", |t| {
        let file = t.file("a", CREATE);
        file.write_all_at(&[7; 65_536], 1 << 20).expect("a write");
        file.set_len(4 << 20).expect("a truncate");
        file.sync_all().expect("a sync");
        for at in [0, 1 << 20, (1 << 20) + 5000, (1 << 20) + 65_536, (4 << 20) - 1, 4 << 20] {
            let data = sys::seek(&file, sys::SeekFrom::Data(at));
            t.note(&format!("data from {at}"), data);
            let hole = sys::seek(&file, sys::SeekFrom::Hole(at));
            t.note(&format!("hole from {at}"), hole);
        }
    }),
    plain("no_holes_in_full_files", |t| {
        t.make("a", &pattern(100_000, 1));
        let file = t.file("a", RW);
        file.sync_all().expect("a sync");
        let data = sys::seek(&file, sys::SeekFrom::Data(0));
        t.note("data", data);
        let hole = sys::seek(&file, sys::SeekFrom::Hole(0));
        t.note("hole", hole);
    }),
    plain("holes_of_empty_files", |t| {
        t.make("a", b"");
        let file = t.file("a", RW);
        let data = sys::seek(&file, sys::SeekFrom::Data(0));
        t.note("data", data);
        file.set_len(10_000).expect("a truncate");
        let data = sys::seek(&file, sys::SeekFrom::Data(0));
        t.note("data", data);
        let hole = sys::seek(&file, sys::SeekFrom::Hole(10));
        t.note("hole", hole);
    }),
    plain("sparse_terabytes", |t| {
        let file = t.file("a", CREATE);
        let set = errno(file.set_len(2 << 40));
        t.did("truncate", set);
        let written = errno(file.write_at(b"far", (2 << 40) - 3));
        t.note("write", written);
        let mut buf = [1; 16];
        let read = errno(file.read_at(&mut buf, (2 << 40) - 16));
        t.note("read", read);
        t.say("content", buf);
        let read = errno(file.read_at(&mut buf, 1 << 40));
        t.note("read", read);
        t.say("hole", buf);
        size(t, "a");
        let little = sys::fstat(&file).map(|stat| stat.st_blocks < 1 << 20);
        t.note("takes little", little);
    }),
    plain("preallocate", |t| {
        let file = t.file("a", CREATE);
        let done = sys::fallocate(&file, FallocateFlags::empty(), 0, 100_000);
        t.did("grow", done);
        size(t, "a");
        let done = sys::fallocate(&file, FallocateFlags::KEEP_SIZE, 100_000, 100_000);
        t.did("keep", done);
        size(t, "a");
        t.show("a");
        let done = sys::fallocate(&file, FallocateFlags::empty(), 0, 0);
        t.did("nothing", done);
    }),
    plain("punch_holes", |t| {
        t.make("a", &pattern(50_000, 2));
        let file = t.file("a", RW);
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for (offset, len) in [(8_192, 8_192), (20_001, 1), (30_000, 5_000), (49_000, 100_000), (200_000, 10)]
        {
            let done = sys::fallocate(&file, punch, offset, len);
            t.did(&format!("{offset}+{len}"), done);
            t.show("a");
        }
        size(t, "a");
        let done = sys::fallocate(&file, FallocateFlags::PUNCH_HOLE, 0, 10);
        t.did("without keeping", done);
    }),
    plain("punched_is_a_hole", |t| {
        t.make("a", &pattern(1 << 20, 2));
        let file = t.file("a", RW);
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let done = sys::fallocate(&file, punch, 65_536, 65_536);
        t.did("punch", done);
        file.sync_all().expect("a sync");
        let hole = sys::seek(&file, sys::SeekFrom::Hole(0));
        t.note("hole", hole);
        let data = sys::seek(&file, sys::SeekFrom::Data(65_536));
        t.note("data", data);
    }),
    plain("zero_ranges", |t| {
        t.make("a", &pattern(20_000, 4));
        let file = t.file("a", RW);
        let keep = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        for (flags, offset, len) in [
            (FallocateFlags::ZERO_RANGE, 100, 50),
            (FallocateFlags::ZERO_RANGE, 4_000, 5_000),
            (keep, 19_000, 5_000),
            (FallocateFlags::ZERO_RANGE, 19_500, 5_000),
        ] {
            let done = sys::fallocate(&file, flags, offset, len);
            t.did(&format!("{offset}+{len}"), done);
            t.show("a");
            size(t, "a");
        }
    }),
    plain("allocation_needs_a_writer", |t| {
        t.make("a", b"x");
        let file = t.file("a", OFlags::RDONLY);
        let done = sys::fallocate(&file, FallocateFlags::empty(), 0, 10);
        t.did("allocate", done);
    }),
    plain("direct_io", |t| {
        #[repr(align(4096))]
        struct Aligned([u8; 16_384]);
        let file = t.file("a", CREATE | OFlags::DIRECT);
        let mut buf = Box::new(Aligned([0x5a; 16_384]));
        let written = errno(file.write_at(&buf.0, 0));
        t.note("write", written);
        let written = errno(file.write_at(&buf.0[..4096], 20_480));
        t.note("write", written);
        buf.0.fill(0);
        let read = errno(file.read_at(&mut buf.0, 8_192));
        t.note("read", read);
        let content = buf.0;
        t.show_bytes("direct", &content);
        t.show("a");
    }),
    plain("direct_and_cached_agree", |t| {
        #[repr(align(4096))]
        struct Aligned([u8; 8_192]);
        t.make("a", &pattern(32_768, 6));
        let cached = t.file("a", RW);
        let mut first = vec![0; 32_768];
        cached.read_exact_at(&mut first, 0).expect("a read");
        let direct = t.file("a", RW | OFlags::DIRECT);
        direct.write_all_at(&Aligned([0x11; 8_192]).0, 4_096).expect("a direct write");
        t.show("a");
        cached.write_all_at(&[0x22; 8_192], 8_192).expect("a write");
        let mut buf = Box::new(Aligned([0; 8_192]));
        direct.read_exact_at(&mut buf.0, 8_192).expect("a direct read");
        let content = buf.0;
        t.show_bytes("direct", &content);
        t.show("a");
    }),
    plain("unlinked_but_open", |t| {
        let file = t.file("a", CREATE);
        file.write_all_at(b"still here", 0).expect("a write");
        let gone = sys::unlink(t.path("a"));
        t.did("unlink", gone);
        t.list("");
        let links = sys::fstat(&file).map(|stat| (stat.st_nlink, stat.st_size));
        t.note("links and size", links);
        file.write_all_at(b"more", 10).expect("a write");
        let mut buf = [0; 14];
        let read = errno(file.read_at(&mut buf, 0));
        t.note("read", read);
        t.show_bytes("content", &buf);
        let synced = errno(file.sync_all());
        t.did("sync", synced);
        t.make("a", b"another");
        t.show("a");
        let set = errno(file.set_len(3));
        t.did("truncate", set);
    }),
    plain("renamed_over_but_open", |t| {
        t.make("a", b"old content");
        let old = t.file("a", OFlags::RDONLY);
        t.make("b", b"new");
        let moved = sys::rename(t.path("b"), t.path("a"));
        t.did("rename", moved);
        let mut buf = [0; 11];
        let read = errno(old.read_at(&mut buf, 0));
        t.note("read", read);
        t.show_bytes("old", &buf);
        t.show("a");
    }),
    plain("reader_becomes_two", |t| {
        t.make("a", b"before");
        let reader = t.file("a", OFlags::RDONLY);
        let mut buf = [0; 6];
        reader.read_exact_at(&mut buf, 0).expect("a read");
        let writer = t.file("a", OFlags::WRONLY);
        writer.write_all_at(b"after!", 0).expect("a write");
        reader.read_exact_at(&mut buf, 0).expect("a read");
        t.show_bytes("reader", &buf);
        drop(writer);
        reader.read_exact_at(&mut buf, 0).expect("a read");
        t.show_bytes("reader", &buf);
    }),
    plain("same_file_by_two_names", |t| {
        t.make("a", b"one");
        let made = sys::link(t.path("a"), t.path("b"));
        t.did("link", made);
        let one = t.file("a", RW);
        let two = t.file("b", RW);
        one.write_all_at(b"changed", 0).expect("a write");
        let mut buf = [0; 7];
        let read = errno(two.read_at(&mut buf, 0));
        t.note("read", read);
        t.show_bytes("two", &buf);
    }),
    plain("copy_file_range", |t| {
        t.make("a", &pattern(300_000, 8));
        let from = t.file("a", OFlags::RDONLY);
        let to = t.file("b", CREATE);
        let (mut source, mut target, mut left) = (5_000u64, 1_000u64, 250_000usize);
        while left > 0 {
            match sys::copy_file_range(&from, Some(&mut source), &to, Some(&mut target), left) {
                Ok(0) => break,
                Ok(copied) => left -= copied,
                Err(error) => {
                    t.did::<()>("copy", Err(error));
                    break;
                }
            }
        }
        t.say("left", left);
        t.show("b");
    }),
    plain("many_small_files", |t| {
        for number in 0..200 {
            t.make(&format!("f{number}"), format!("content of {number}").as_bytes());
        }
        let mut wrong = 0;
        for number in 0..200 {
            let content = std::fs::read(t.path(&format!("f{number}"))).unwrap_or_default();
            wrong += usize::from(content != format!("content of {number}").as_bytes());
        }
        t.say("wrong", wrong);
    }),
    plain("writes_of_nothing", |t| {
        let file = t.file("a", CREATE);
        let written = errno(file.write_at(b"", 100));
        t.note("write", written);
        size(t, "a");
        let read = errno(file.read_at(&mut [], 0));
        t.note("read", read);
    }),
    plain("largest_offsets", |t| {
        let file = t.file("a", CREATE);
        let set = errno(file.set_len(1 << 43));
        t.did("eight terabytes", set);
        let seek = sys::seek(&file, sys::SeekFrom::Start(1 << 43));
        t.note("seek", seek);
        size(t, "a");
    }),
];
