//! Modes, owners, times, extended attributes, locks, space.

use rustix::fs as sys;
use rustix::fs::{
    Access, AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    Uid, XattrFlags,
};

use crate::trial::{Case, Trial, plain};

const fn time(tv_sec: i64, tv_nsec: i64) -> Timespec {
    Timespec { tv_sec, tv_nsec }
}

fn set_times(t: &Trial, name: &str, atime: Timespec, mtime: Timespec) -> rustix::io::Result<()> {
    let times = Timestamps { last_access: atime, last_modification: mtime };
    sys::utimensat(CWD, t.path(name), &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn times(t: &mut Trial, name: &str) {
    let stat = sys::lstat(t.path(name));
    let times = stat
        .map(|stat| ((stat.st_atime, stat.st_atime_nsec as i64), (stat.st_mtime, stat.st_mtime_nsec as i64)));
    t.note("times", times);
}

/// Times of last change of data and inode, in nanoseconds.
fn stamps(t: &Trial, name: &str) -> (i128, i128) {
    let stat = sys::lstat(t.path(name)).expect("it is there");
    let ns = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    (ns(stat.st_mtime, stat.st_mtime_nsec as i64), ns(stat.st_ctime as i64, stat.st_ctime_nsec as i64))
}

/// For acts whose outcome is seen otherwise.
fn quiet(_outcome: rustix::io::Result<()>) {}

/// Lets the clock of any file system move on.
fn wait() {
    hw_tests::deadline::let_pass(std::time::Duration::from_millis(15));
}

/// Leaves whether an act has moved the times of last change of data and inode.
fn moves(t: &mut Trial, what: &str, name: &str, act: impl FnOnce(&mut Trial)) {
    let before = stamps(t, name);
    wait();
    act(t);
    let after = stamps(t, name);
    t.say(what, (after.0 > before.0, after.1 > before.1));
}

pub(crate) const CASES: &[Case] = &[
    plain("modes", |t| {
        t.make("a", b"");
        for mode in [0o000, 0o644, 0o4755, 0o2755, 0o1777, 0o7777] {
            let set = sys::chmod(t.path("a"), Mode::from_raw_mode(mode));
            t.did(&format!("{mode:o}"), set);
            t.stat("a");
        }
        let set = sys::chmod(t.path("missing"), Mode::from_raw_mode(0o600));
        t.did("missing", set);
    }),
    plain("umask", |t| {
        let old = rustix::process::umask(Mode::from_raw_mode(0o027));
        let open = sys::open(t.path("a"), OFlags::CREATE | OFlags::RDWR, Mode::from_raw_mode(0o666));
        t.did("open", open);
        let made = sys::mkdir(t.path("d"), Mode::from_raw_mode(0o777));
        t.did("mkdir", made);
        rustix::process::umask(old);
        t.stat("a");
        t.stat("d");
    }),
    plain("owners", |t| {
        t.make("a", b"");
        for (uid, gid) in [(Some(1000), None), (None, Some(2000)), (Some(3), Some(4)), (None, None)] {
            let set = sys::chown(t.path("a"), uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            t.did("chown", set);
            t.stat("a");
        }
    }),
    plain("owner_of_a_symlink", |t| {
        t.make("a", b"");
        let made = sys::symlink("a", t.path("l"));
        t.did("symlink", made);
        let set = sys::chownat(CWD, t.path("l"), Some(Uid::from_raw(7)), None, AtFlags::SYMLINK_NOFOLLOW);
        t.did("chown", set);
        t.stat("a");
        t.stat("l");
    }),
    plain("chown_takes_set_id_bits", |t| {
        t.make("a", b"");
        let set = sys::chmod(t.path("a"), Mode::from_raw_mode(0o6755));
        t.did("chmod", set);
        let set = sys::chown(t.path("a"), Some(Uid::from_raw(1000)), None);
        t.did("chown", set);
        t.stat("a");
    }),
    plain("set_group_id_directories", |t| {
        t.make_dir("d");
        let set = sys::chown(t.path("d"), None, Some(Gid::from_raw(4321)));
        t.did("chown", set);
        let set = sys::chmod(t.path("d"), Mode::from_raw_mode(0o2775));
        t.did("chmod", set);
        t.make("d/a", b"");
        t.make_dir("d/e");
        t.stat("d/a");
        t.stat("d/e");
    }),
    plain("times_to_the_nanosecond", |t| {
        t.make("a", b"");
        for (atime, mtime) in [
            (time(1, 2), time(1_600_000_000, 999_999_999)),
            (time(0, 0), time(0, 1)),
            (time(4_000_000_000, 5), time(4_000_000_001, 6)),
            (time(-1, 500_000_000), time(-1_000_000, 1)),
        ] {
            let set = set_times(t, "a", atime, mtime);
            t.did("set", set);
            times(t, "a");
        }
    }),
    plain("times_left_alone", |t| {
        t.make("a", b"");
        let set = set_times(t, "a", time(100, 1), time(200, 2));
        t.did("set", set);
        let set = set_times(t, "a", time(0, UTIME_OMIT as _), time(300, 3));
        t.did("set", set);
        times(t, "a");
        let set = set_times(t, "a", time(400, 4), time(0, UTIME_OMIT as _));
        t.did("set", set);
        times(t, "a");
    }),
    plain("times_set_to_now", |t| {
        t.make("a", b"");
        let set = set_times(t, "a", time(1, 0), time(1, 0));
        t.did("set", set);
        let set = set_times(t, "a", time(0, UTIME_NOW as _), time(0, UTIME_NOW as _));
        t.did("now", set);
        let recent =
            sys::stat(t.path("a")).map(|stat| stat.st_mtime > 1_600_000_000 && stat.st_atime > 1_600_000_000);
        t.note("recent", recent);
    }),
    plain("times_of_symlinks_and_directories", |t| {
        t.make_dir("d");
        let made = sys::symlink("d", t.path("l"));
        t.did("symlink", made);
        for name in ["d", "l"] {
            let set = set_times(t, name, time(11, 12), time(13, 14));
            t.did(name, set);
            times(t, name);
        }
    }),
    plain("set_times_survive_closing", |t| {
        let file = t.file("a", OFlags::CREATE | OFlags::RDWR);
        std::os::unix::fs::FileExt::write_all_at(&file, b"content", 0).expect("a write");
        let stamps = Timestamps { last_access: time(5, 6), last_modification: time(7, 8) };
        let set = sys::futimens(&file, &stamps);
        t.did("set", set);
        drop(file);
        times(t, "a");
    }),
    plain("what_moves_a_files_times", |t| {
        use std::os::unix::fs::FileExt;
        t.make("a", b"content");
        let file = t.file("a", OFlags::RDWR);
        moves(t, "write", "a", |_| file.write_all_at(b"x", 0).expect("a write"));
        moves(t, "truncate", "a", |_| file.set_len(3).expect("a truncate"));
        moves(t, "extend", "a", |_| file.set_len(30).expect("a truncate"));
        moves(t, "chmod", "a", |t| quiet(sys::chmod(t.path("a"), Mode::from_raw_mode(0o600))));
        moves(t, "link", "a", |t| quiet(sys::link(t.path("a"), t.path("b"))));
        moves(t, "unlink", "a", |t| quiet(sys::unlink(t.path("b"))));
        moves(t, "rename", "a", |t| {
            quiet(sys::rename(t.path("a"), t.path("c")));
            quiet(sys::rename(t.path("c"), t.path("a")));
        });
        moves(t, "read", "a", |_| file.read_exact_at(&mut [0; 2], 0).expect("a read"));
        moves(t, "nothing", "a", |_| {});
    }),
    plain("what_moves_a_directorys_times", |t| {
        t.make_dir("d");
        t.make("a", b"");
        moves(t, "create", "d", |t| t.make("d/a", b""));
        moves(t, "write", "d", |t| t.make("d/a", b"content"));
        moves(t, "link", "d", |t| quiet(sys::link(t.path("a"), t.path("d/b"))));
        moves(t, "mkdir", "d", |t| t.make_dir("d/e"));
        moves(t, "rename within", "d", |t| quiet(sys::rename(t.path("d/a"), t.path("d/c"))));
        moves(t, "rename away", "d", |t| quiet(sys::rename(t.path("d/c"), t.path("c"))));
        moves(t, "unlink", "d", |t| quiet(sys::unlink(t.path("d/b"))));
        moves(t, "rmdir", "d", |t| quiet(sys::rmdir(t.path("d/e"))));
        moves(t, "list", "d", |t| t.list("d"));
    }),
    plain("inode_numbers", |t| {
        t.make("a", b"");
        t.make("b", b"");
        let of = |t: &Trial, name: &str| sys::stat(t.path(name)).map(|stat| stat.st_ino).unwrap_or(0);
        let (a, b) = (of(t, "a"), of(t, "b"));
        t.say("different", a != b);
        let listed = std::fs::read_dir(t.path("")).expect("a directory").all(|entry| {
            use std::os::unix::fs::DirEntryExt;
            let entry = entry.expect("an entry");
            entry.ino() == if entry.file_name() == "a" { a } else { b }
        });
        t.say("listed", listed);
    }),
    plain("attributes", |t| {
        t.make("a", b"");
        let path = t.path("a");
        let set = sys::setxattr(&path, "user.one", b"1", XattrFlags::empty());
        t.did("set", set);
        let set = sys::setxattr(&path, "user.two", b"", XattrFlags::CREATE);
        t.did("create", set);
        let set = sys::setxattr(&path, "user.two", b"22", XattrFlags::CREATE);
        t.did("create again", set);
        let set = sys::setxattr(&path, "user.two", b"222", XattrFlags::REPLACE);
        t.did("replace", set);
        let set = sys::setxattr(&path, "user.three", b"3", XattrFlags::REPLACE);
        t.did("replace nothing", set);
        for name in ["user.one", "user.two", "user.three"] {
            let mut value = [0; 100];
            let got = sys::getxattr(&path, name, &mut value[..]);
            if let Some(len) = t.note(name, got) {
                t.show_bytes("value", &value[..len]);
            }
        }
        let mut little = [0; 1];
        let got = sys::getxattr(&path, "user.two", &mut little[..]);
        t.note("too little room", got);
        let gone = sys::removexattr(&path, "user.one");
        t.did("remove", gone);
        let gone = sys::removexattr(&path, "user.one");
        t.did("remove again", gone);
        names(t, "a");
    }),
    plain("attributes_of_directories_and_links", |t| {
        t.make_dir("d");
        let made = sys::symlink("d", t.path("l"));
        t.did("symlink", made);
        let set = sys::setxattr(t.path("d"), "user.a", b"of d", XattrFlags::empty());
        t.did("directory", set);
        let set = sys::lsetxattr(t.path("l"), "user.a", b"of l", XattrFlags::empty());
        t.did("link", set);
        let set = sys::lsetxattr(t.path("l"), "trusted.a", b"of l", XattrFlags::empty());
        t.did("trusted", set);
        names(t, "d");
    }),
    plain("attributes_with_strange_names", |t| {
        t.make("a", b"");
        for name in ["nothing", "strange.a", "user.", "user.\u{fc}"] {
            let set = sys::setxattr(t.path("a"), name, b"x", XattrFlags::empty());
            t.did(name, set);
        }
        let set = sys::setxattr(t.path("a"), "x".repeat(256), b"x", XattrFlags::empty());
        t.did("long", set);
        names(t, "a");
    }),
    plain("attributes_go_with_the_file", |t| {
        t.make("a", b"");
        let set = sys::setxattr(t.path("a"), "user.k", b"v", XattrFlags::empty());
        t.did("set", set);
        let moved = sys::rename(t.path("a"), t.path("b"));
        t.did("rename", moved);
        let made = sys::link(t.path("b"), t.path("c"));
        t.did("link", made);
        names(t, "c");
        t.make("a", b"");
        names(t, "a");
    }),
    plain("access", |t| {
        t.make("a", b"");
        let set = sys::chmod(t.path("a"), Mode::from_raw_mode(0o600));
        t.did("chmod", set);
        for access in [Access::EXISTS, Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK] {
            let may = sys::access(t.path("a"), access);
            t.did(&format!("{access:?}"), may);
        }
    }),
    plain("file_locks", |t| {
        t.make("a", b"");
        let one = t.file("a", OFlags::RDWR);
        let two = t.file("a", OFlags::RDWR);
        let lock = sys::flock(&one, FlockOperation::NonBlockingLockExclusive);
        t.did("one", lock);
        let lock = sys::flock(&two, FlockOperation::NonBlockingLockShared);
        t.did("two", lock);
        let lock = sys::flock(&one, FlockOperation::NonBlockingLockShared);
        t.did("one shared", lock);
        let lock = sys::flock(&two, FlockOperation::NonBlockingLockShared);
        t.did("two shared", lock);
        drop(one);
        let lock = sys::flock(&two, FlockOperation::NonBlockingLockExclusive);
        t.did("two alone", lock);
    }),
    plain("space", |t| {
        let space = sys::statvfs(t.path("")).map(|space| {
            (
                space.f_blocks > 0,
                space.f_bavail > 0,
                space.f_bavail <= space.f_blocks,
                space.f_namemax,
                space.f_bsize,
            )
        });
        t.note("space", space);
    }),
    plain("sync_of_everything", |t| {
        t.make("a", b"content");
        let file = t.file("a", OFlags::RDWR);
        let synced = sys::fsync(&file);
        t.did("fsync", synced);
        let synced = sys::fdatasync(&file);
        t.did("fdatasync", synced);
        let dir = t.file("", OFlags::RDONLY | OFlags::DIRECTORY);
        let synced = sys::fsync(&dir);
        t.did("directory", synced);
        let synced = sys::syncfs(&dir);
        t.did("syncfs", synced);
    }),
    plain("writing_takes_set_id_bits", |t| {
        t.make("a", b"x");
        let set = sys::chmod(t.path("a"), Mode::from_raw_mode(0o4755));
        t.did("chmod", set);
        t.make("a", b"y");
        t.stat("a");
    }),
];

/// Leaves the names of extended attributes that programs may set.
fn names(t: &mut Trial, name: &str) {
    let mut list = [0; 1024];
    let got = sys::listxattr(t.path(name), &mut list[..]);
    let names = got.map(|len| {
        let mut names: Vec<String> = list[..len]
            .split(|byte| *byte == 0)
            .filter(|name| name.starts_with(b"user."))
            .map(|name| name.escape_ascii().to_string())
            .collect();
        names.sort();
        names
    });
    t.note(&format!("names of {name}"), names);
}
