//! What is there after a remount, and what must be there after a crash.

use std::os::unix::fs::FileExt;

use rustix::fs as sys;
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, XattrFlags};

use crate::trial::{Case, Trial, crash, remount};

const CREATE: OFlags = OFlags::CREATE.union(OFlags::RDWR);

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 249) as u8 | 1).collect()
}

/// Syncs the case's directory, as a careful program does after it made or moved names.
fn sync_dir(t: &mut Trial, name: &str) {
    let dir = t.file(name, OFlags::RDONLY | OFlags::DIRECTORY);
    let synced = sys::fsync(&dir);
    t.did("sync directory", synced);
}

fn make_synced(t: &mut Trial, name: &str, content: &[u8]) {
    let file = t.file(name, CREATE | OFlags::TRUNC);
    file.write_all_at(content, 0).expect("a write");
    let synced = sys::fsync(&file);
    t.did("sync", synced);
}

fn times(t: &mut Trial, name: &str) {
    let times = sys::lstat(t.path(name)).map(|stat| (stat.st_mtime, stat.st_mtime_nsec));
    t.note("times", times);
}

pub(crate) const CASES: &[Case] = &[
    remount("contents_stay", |t| t.make("a", &pattern(100_000)), |t| t.show("a")),
    remount(
        "large_files_stay",
        |t| t.make("a", &pattern(5 << 20)),
        |t| {
            t.show("a");
            t.stat("a");
        },
    ),
    remount(
        "trees_stay",
        |t| {
            t.make_dir("d");
            t.make_dir("d/e");
            t.make("d/e/a", b"deep");
            let made = sys::symlink("e/a", t.path("d/l"));
            t.did("symlink", made);
        },
        |t| {
            t.list("");
            t.list("d");
            t.show("d/l");
            t.stat("d");
        },
    ),
    remount(
        "attributes_stay",
        |t| {
            t.make("a", b"");
            let set = sys::chmod(t.path("a"), Mode::from_raw_mode(0o2711));
            t.did("chmod", set);
            let set = sys::chown(t.path("a"), Some(sys::Uid::from_raw(12)), Some(sys::Gid::from_raw(34)));
            t.did("chown", set);
            let set = sys::setxattr(t.path("a"), "user.k", b"value", XattrFlags::empty());
            t.did("attribute", set);
        },
        |t| {
            t.stat("a");
            let mut value = [0; 10];
            let got = sys::getxattr(t.path("a"), "user.k", &mut value[..]);
            t.note("attribute", got);
            t.show_bytes("value", &value);
        },
    ),
    remount(
        "times_stay",
        |t| {
            t.make("a", b"x");
            let time = |tv_sec, tv_nsec| sys::Timespec { tv_sec, tv_nsec };
            let stamps = sys::Timestamps { last_access: time(1, 2), last_modification: time(3, 4) };
            let set = sys::utimensat(CWD, t.path("a"), &stamps, AtFlags::empty());
            t.did("set", set);
        },
        |t| times(t, "a"),
    ),
    remount(
        "holes_stay",
        |t| {
            let file = t.file("a", CREATE);
            file.write_all_at(b"here", 1 << 30).expect("a write");
            file.set_len(3 << 30).expect("a truncate");
        },
        |t| {
            t.stat("a");
            let file = t.file("a", OFlags::RDONLY);
            let data = sys::seek(&file, sys::SeekFrom::Data(0));
            t.note("data", data);
            let mut buf = [1; 8];
            file.read_exact_at(&mut buf, (1 << 30) - 2).expect("a read");
            t.say("around", buf);
        },
    ),
    remount(
        "truncated_stays_truncated",
        |t| {
            t.make("a", &pattern(50_000));
            t.file("a", OFlags::RDWR).set_len(10_001).expect("a truncate");
        },
        |t| {
            t.show("a");
            t.file("a", OFlags::RDWR).set_len(20_000).expect("a truncate");
            t.show("a");
        },
    ),
    remount(
        "punched_stays_punched",
        |t| {
            t.make("a", &pattern(50_000));
            let file = t.file("a", OFlags::RDWR);
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let done = sys::fallocate(&file, punch, 5_000, 20_000);
            t.did("punch", done);
        },
        |t| t.show("a"),
    ),
    remount(
        "links_stay",
        |t| {
            t.make("a", b"x");
            let made = sys::link(t.path("a"), t.path("b"));
            t.did("link", made);
        },
        |t| {
            t.stat("b");
            let same =
                sys::stat(t.path("a")).and_then(|a| sys::stat(t.path("b")).map(|b| a.st_ino == b.st_ino));
            t.note("same", same);
        },
    ),
    remount(
        "special_files_stay",
        |t| {
            let made = sys::mknodat(CWD, t.path("p"), FileType::Fifo, Mode::from_raw_mode(0o600), 0);
            t.did("pipe", made);
            let device = sys::makedev(1, 5);
            let made =
                sys::mknodat(CWD, t.path("z"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), device);
            t.did("device", made);
        },
        |t| {
            t.stat("p");
            t.stat("z");
        },
    ),
    remount(
        "removed_stays_removed",
        |t| {
            t.make("a", b"");
            t.make("b", b"");
            t.make_dir("d");
            let gone = sys::unlink(t.path("a"));
            t.did("unlink", gone);
            let gone = sys::rmdir(t.path("d"));
            t.did("rmdir", gone);
        },
        |t| t.list(""),
    ),
    remount(
        "mapped_writes_stay",
        |t| {
            t.make("a", &pattern(20_000));
            let written = crate::shm::write_mapped(&t.path("a"), 5_000, b"through the map");
            t.did("map", written);
        },
        |t| t.show("a"),
    ),
    crash(
        "synced_content_survives",
        |t| {
            make_synced(t, "a", &pattern(300_000));
            sync_dir(t, "");
        },
        |t| {
            t.show("a");
            t.stat("a");
        },
    ),
    crash(
        "data_synced_content_survives",
        |t| {
            let file = t.file("a", CREATE);
            file.write_all_at(&pattern(70_001), 0).expect("a write");
            let synced = sys::fdatasync(&file);
            t.did("sync", synced);
            sync_dir(t, "");
        },
        |t| t.show("a"),
    ),
    crash(
        "synced_extension_survives",
        |t| {
            make_synced(t, "a", b"first");
            let file = t.file("a", OFlags::RDWR);
            file.write_all_at(&pattern(9_000), 100_000).expect("a write");
            let synced = sys::fdatasync(&file);
            t.did("sync", synced);
            sync_dir(t, "");
        },
        |t| t.show("a"),
    ),
    crash(
        "synced_overwrite_survives",
        |t| {
            make_synced(t, "a", &pattern(50_000));
            let file = t.file("a", OFlags::RDWR);
            file.write_all_at(b"over", 4_094).expect("a write");
            let synced = sys::fsync(&file);
            t.did("sync", synced);
            sync_dir(t, "");
        },
        |t| t.show("a"),
    ),
    crash(
        "synced_truncation_survives",
        |t| {
            make_synced(t, "a", &pattern(50_000));
            let file = t.file("a", OFlags::RDWR);
            file.set_len(12_345).expect("a truncate");
            file.set_len(30_000).expect("a truncate");
            let synced = sys::fsync(&file);
            t.did("sync", synced);
            sync_dir(t, "");
        },
        |t| t.show("a"),
    ),
    crash(
        "replacing_by_rename_survives",
        |t| {
            make_synced(t, "a", b"old");
            make_synced(t, "a.new", b"new content");
            let moved = sys::rename(t.path("a.new"), t.path("a"));
            t.did("rename", moved);
            sync_dir(t, "");
        },
        |t| {
            t.list("");
            t.show("a");
        },
    ),
    crash(
        "exchange_survives",
        |t| {
            make_synced(t, "a", b"a");
            make_synced(t, "b", b"b");
            let moved = sys::renameat_with(CWD, t.path("a"), CWD, t.path("b"), RenameFlags::EXCHANGE);
            t.did("exchange", moved);
            sync_dir(t, "");
        },
        |t| {
            t.show("a");
            t.show("b");
        },
    ),
    crash(
        "synced_names_survive",
        |t| {
            t.make_dir("d");
            make_synced(t, "d/a", b"x");
            let made = sys::link(t.path("d/a"), t.path("d/b"));
            t.did("link", made);
            let made = sys::symlink("a", t.path("d/l"));
            t.did("symlink", made);
            sync_dir(t, "d");
            sync_dir(t, "");
        },
        |t| {
            t.list("d");
            t.stat("d/b");
            t.show("d/l");
        },
    ),
    crash(
        "synced_attributes_survive",
        |t| {
            make_synced(t, "a", b"x");
            let file = t.file("a", OFlags::RDWR);
            let set = sys::fchmod(&file, Mode::from_raw_mode(0o751));
            t.did("chmod", set);
            let set = sys::fsetxattr(&file, "user.k", b"v", XattrFlags::empty());
            t.did("attribute", set);
            let time = |tv_sec, tv_nsec| sys::Timespec { tv_sec, tv_nsec };
            let set = sys::futimens(
                &file,
                &sys::Timestamps { last_access: time(9, 9), last_modification: time(8, 7) },
            );
            t.did("times", set);
            let synced = sys::fsync(&file);
            t.did("sync", synced);
            sync_dir(t, "");
        },
        |t| {
            t.stat("a");
            times(t, "a");
            let got = sys::getxattr(t.path("a"), "user.k", &mut [0; 10][..]);
            t.note("attribute", got);
        },
    ),
    crash(
        "synced_punch_survives",
        |t| {
            make_synced(t, "a", &pattern(60_000));
            let file = t.file("a", OFlags::RDWR);
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let done = sys::fallocate(&file, punch, 10_000, 30_000);
            t.did("punch", done);
            let synced = sys::fsync(&file);
            t.did("sync", synced);
            sync_dir(t, "");
        },
        |t| t.show("a"),
    ),
    crash(
        "mapped_and_synced_survives",
        |t| {
            make_synced(t, "a", &pattern(20_000));
            let written = crate::shm::write_mapped_and_sync(&t.path("a"), 7_777, b"through the map");
            t.did("map", written);
            sync_dir(t, "");
        },
        |t| t.show("a"),
    ),
    crash(
        "many_synced_files_survive",
        |t| {
            for number in 0..40 {
                let file = t.file(&format!("f{number}"), CREATE);
                file.write_all_at(format!("content {number}").as_bytes(), 0).expect("a write");
                sys::fsync(&file).expect("a sync");
            }
            sync_dir(t, "");
        },
        |t| {
            let whole = (0..40).filter(|number| {
                std::fs::read_to_string(t.path(&format!("f{number}")))
                    .is_ok_and(|text| text == format!("content {number}"))
            });
            let whole = whole.count();
            t.say("whole", whole);
        },
    ),
    crash(
        "what_was_open_can_be_written_again",
        |t| {
            make_synced(t, "a", b"before");
            sync_dir(t, "");
        },
        |t| {
            let file = t.file("a", OFlags::RDWR);
            file.write_all_at(b"after!", 0).expect("a write");
            let synced = sys::fsync(&file);
            t.did("sync", synced);
            t.show("a");
        },
    ),
];
