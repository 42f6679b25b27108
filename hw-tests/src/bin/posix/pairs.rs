//! Two processes on one mount.

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use rustix::fs as sys;
use rustix::fs::{FlockOperation, Gid, Mode, OFlags, Uid};

use crate::trial::{Case, Trial, pair};

/// Somebody without privileges.
const USER: u32 = 54_321;

/// Lets the partner do its work and takes its lines.
fn together(t: &mut Trial) {
    let partner = t.partner();
    partner.end(t);
}

fn chown(t: &mut Trial, name: &str, uid: u32, gid: u32) {
    let set = sys::chown(t.path(name), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    t.did("chown", set);
}

fn chmod(t: &mut Trial, name: &str, mode: u32) {
    let set = sys::chmod(t.path(name), Mode::from_raw_mode(mode));
    t.did("chmod", set);
}

pub(crate) const CASES: &[Case] = &[
    pair(
        "what_one_writes_the_other_reads",
        |t| {
            let file = t.file("a", OFlags::CREATE | OFlags::RDWR);
            let mut partner = t.partner();
            partner.meet();
            file.write_all_at(b"first", 0).expect("a write");
            partner.go();
            partner.meet();
            file.write_all_at(b"second, longer", 0).expect("a write");
            partner.go();
            partner.end(t);
        },
        |t| {
            t.meet();
            let mut file = t.file("a", OFlags::RDONLY);
            let mut content = Vec::new();
            file.read_to_end(&mut content).expect("a read");
            t.show_bytes("content", &content);
            t.meet();
            file.read_to_end(&mut content).expect("a read");
            t.show_bytes("content", &content);
            t.show("a");
        },
    ),
    pair(
        "both_append",
        |t| {
            let mut file = t.file("a", OFlags::CREATE | OFlags::RDWR | OFlags::APPEND);
            let mut partner = t.partner();
            partner.meet();
            partner.go();
            for _ in 0..100 {
                file.write_all(b"one line of the first\n").expect("a write");
            }
            partner.end(t);
            let content = std::fs::read_to_string(t.path("a")).unwrap_or_default();
            let count = |line: &str| content.lines().filter(|found| *found == line).count();
            let counts =
                (count("one line of the first"), count("and one of the second"), content.lines().count());
            t.say("lines", counts);
        },
        |t| {
            let mut file = t.file("a", OFlags::RDWR | OFlags::APPEND);
            t.meet();
            for _ in 0..100 {
                file.write_all(b"and one of the second\n").expect("a write");
            }
        },
    ),
    pair(
        "unlinked_by_another",
        |t| {
            t.make("a", b"content");
            let file = t.file("a", OFlags::RDWR);
            together(t);
            let mut buf = [0; 7];
            file.read_exact_at(&mut buf, 0).expect("a read");
            t.show_bytes("content", &buf);
            t.list("");
            file.write_all_at(b"changed", 0).expect("a write");
            file.read_exact_at(&mut buf, 0).expect("a read");
            t.show_bytes("content", &buf);
        },
        |t| {
            let gone = sys::unlink(t.path("a"));
            t.did("unlink", gone);
        },
    ),
    pair(
        "renamed_over_by_another",
        |t| {
            t.make("a", b"old");
            let file = t.file("a", OFlags::RDONLY);
            together(t);
            let mut buf = [0; 3];
            file.read_exact_at(&mut buf, 0).expect("a read");
            t.show_bytes("old", &buf);
            t.show("a");
        },
        |t| {
            t.make("b", b"new");
            let moved = sys::rename(t.path("b"), t.path("a"));
            t.did("rename", moved);
        },
    ),
    pair(
        "truncated_by_another",
        |t| {
            t.make("a", b"0123456789");
            let file = t.file("a", OFlags::RDWR);
            file.read_exact_at(&mut [0; 10], 0).expect("a read");
            together(t);
            let mut buf = [0; 10];
            let read = file.read_at(&mut buf, 0).expect("a read");
            t.show_bytes("content", &buf[..read]);
        },
        |t| {
            let set = t.file("a", OFlags::WRONLY).set_len(4).is_ok();
            t.say("truncate", set);
        },
    ),
    pair(
        "exclusive_creation_has_one_winner",
        |t| {
            let mut partner = t.partner();
            partner.meet();
            partner.go();
            let mut won = 0;
            for number in 0..50 {
                let made = t.open(&format!("f{number}"), OFlags::CREATE | OFlags::EXCL | OFlags::RDWR);
                won += usize::from(made.is_ok());
            }
            t.make("first", won.to_string().as_bytes());
            partner.end(t);
            let count = |name: &str| {
                std::fs::read_to_string(t.path(name)).unwrap_or_default().parse::<usize>().unwrap_or(0)
            };
            let won = count("first") + count("second");
            t.say("won", won);
        },
        |t| {
            t.meet();
            let mut won = 0;
            for number in 0..50 {
                let made = t.open(&format!("f{number}"), OFlags::CREATE | OFlags::EXCL | OFlags::RDWR);
                won += usize::from(made.is_ok());
            }
            t.make("second", won.to_string().as_bytes());
        },
    ),
    pair(
        "file_locks_between_processes",
        |t| {
            t.make("a", b"");
            let file = t.file("a", OFlags::RDWR);
            let lock = sys::flock(&file, FlockOperation::LockExclusive);
            t.did("lock", lock);
            let mut partner = t.partner();
            partner.meet();
            let lock = sys::flock(&file, FlockOperation::Unlock);
            t.did("unlock", lock);
            partner.go();
            partner.end(t);
        },
        |t| {
            let file = t.file("a", OFlags::RDWR);
            let lock = sys::flock(&file, FlockOperation::NonBlockingLockExclusive);
            t.did("locked", lock);
            t.meet();
            let lock = sys::flock(&file, FlockOperation::NonBlockingLockExclusive);
            t.did("free", lock);
        },
    ),
    pair(
        "record_locks_between_processes",
        |t| {
            t.make("a", b"0123456789");
            let file = t.file("a", OFlags::RDWR);
            let lock = sys::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive);
            t.did("lock", lock);
            together(t);
            let lock = sys::fcntl_lock(&file, FlockOperation::Unlock);
            t.did("unlock", lock);
            together(t);
        },
        |t| {
            let file = t.file("a", OFlags::RDWR);
            let lock = sys::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive);
            t.did("lock", lock);
            let lock = sys::fcntl_lock(&file, FlockOperation::NonBlockingLockShared);
            t.did("shared", lock);
        },
    ),
    pair(
        "a_killed_process_leaves_no_lock",
        |t| {
            t.make("a", b"");
            let mut partner = t.partner();
            partner.meet();
            let file = t.file("a", OFlags::RDWR);
            let lock = sys::flock(&file, FlockOperation::NonBlockingLockExclusive);
            t.did("locked", lock);
            partner.kill();
            let lock = sys::flock(&file, FlockOperation::LockExclusive);
            t.did("free", lock);
        },
        |t| {
            let file = t.file("a", OFlags::RDWR);
            sys::flock(&file, FlockOperation::LockExclusive).expect("a lock");
            t.meet();
        },
    ),
    pair(
        "a_killed_process_leaves_what_it_wrote",
        |t| {
            let mut partner = t.partner();
            partner.meet();
            partner.kill();
            t.show("a");
        },
        |t| {
            let file = t.file("a", OFlags::CREATE | OFlags::RDWR);
            file.write_all_at(b"written, not synced", 0).expect("a write");
            t.meet();
        },
    ),
    pair(
        "users_see_what_modes_allow",
        |t| {
            chmod(t, "", 0o755);
            for (name, mode) in [("all", 0o666), ("read", 0o644), ("none", 0o600), ("write", 0o622)] {
                t.make(name, b"secret");
                chmod(t, name, mode);
            }
            together(t);
        },
        |t| {
            t.become_user(USER, USER);
            for name in ["all", "read", "none", "write"] {
                for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
                    let open = t.open(name, flags);
                    t.did(&format!("{name} {flags:?}"), open);
                }
            }
            let open = t.open("new", OFlags::CREATE | OFlags::RDWR);
            t.did("create", open);
            let gone = sys::unlink(t.path("all"));
            t.did("unlink", gone);
        },
    ),
    pair(
        "users_change_only_their_own",
        |t| {
            chmod(t, "", 0o777);
            t.make("theirs", b"x");
            t.make("others", b"x");
            chown(t, "theirs", USER, USER);
            chmod(t, "others", 0o666);
            together(t);
            t.stat("theirs");
            t.stat("others");
        },
        |t| {
            t.become_user(USER, USER);
            for name in ["theirs", "others"] {
                let set = sys::chmod(t.path(name), Mode::from_raw_mode(0o640));
                t.did("chmod", set);
                let set = sys::chown(t.path(name), Some(Uid::from_raw(USER + 1)), None);
                t.did("chown", set);
                let set = sys::chown(t.path(name), None, Some(Gid::from_raw(USER)));
                t.did("chgrp", set);
                let stamps = sys::Timestamps {
                    last_access: sys::Timespec { tv_sec: 1, tv_nsec: 0 },
                    last_modification: sys::Timespec { tv_sec: 1, tv_nsec: 0 },
                };
                let set = sys::utimensat(sys::CWD, t.path(name), &stamps, sys::AtFlags::empty());
                t.did("times", set);
            }
        },
    ),
    pair(
        "users_own_what_they_make",
        |t| {
            chmod(t, "", 0o777);
            together(t);
            t.stat("a");
            t.stat("d");
            t.stat("l");
        },
        |t| {
            t.become_user(USER, USER + 1);
            t.make("a", b"mine");
            t.make_dir("d");
            let made = sys::symlink("a", t.path("l"));
            t.did("symlink", made);
        },
    ),
    pair(
        "sticky_directories",
        |t| {
            t.make_dir("d");
            chmod(t, "d", 0o1777);
            chmod(t, "", 0o755);
            t.make("d/root", b"");
            t.make("d/user", b"");
            chown(t, "d/user", USER, USER);
            together(t);
            t.list("d");
        },
        |t| {
            t.become_user(USER, USER);
            let gone = sys::unlink(t.path("d/root"));
            t.did("root's", gone);
            let moved = sys::rename(t.path("d/root"), t.path("d/moved"));
            t.did("move", moved);
            let gone = sys::unlink(t.path("d/user"));
            t.did("own", gone);
        },
    ),
    pair(
        "directories_without_search",
        |t| {
            t.make_dir("d");
            t.make("d/a", b"x");
            chmod(t, "", 0o755);
            chmod(t, "d", 0o744);
            together(t);
            chmod(t, "d", 0o711);
            together(t);
        },
        |t| {
            t.become_user(USER, USER);
            let open = t.open("d/a", OFlags::RDONLY);
            t.did("open", open);
            let listed = std::fs::read_dir(t.path("d")).is_ok();
            t.say("list", listed);
        },
    ),
    pair(
        "writing_as_a_user_takes_set_id_bits",
        |t| {
            chmod(t, "", 0o755);
            t.make("a", b"x");
            chmod(t, "a", 0o6777);
            together(t);
            t.stat("a");
        },
        |t| {
            t.become_user(USER, USER);
            let file = t.file("a", OFlags::WRONLY);
            file.write_all_at(b"y", 0).expect("a write");
        },
    ),
    pair(
        "group_members",
        |t| {
            chmod(t, "", 0o755);
            t.make("a", b"x");
            chown(t, "a", 0, USER + 7);
            chmod(t, "a", 0o640);
            together(t);
        },
        |t| {
            t.become_user(USER, USER + 7);
            let open = t.open("a", OFlags::RDONLY);
            t.did("read", open);
            let open = t.open("a", OFlags::WRONLY);
            t.did("write", open);
        },
    ),
    pair(
        "both_list_while_one_makes",
        |t| {
            for number in 0..300 {
                t.make(&format!("old{number}"), b"");
            }
            let mut partner = t.partner();
            partner.meet();
            partner.go();
            for number in 0..300 {
                t.make(&format!("new{number}"), b"");
            }
            partner.end(t);
        },
        |t| {
            t.meet();
            for _ in 0..3 {
                let names = std::fs::read_dir(t.path("")).expect("a directory");
                let old = names.filter(|entry| {
                    entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("old"))
                });
                t.say("old", old.count());
            }
        },
    ),
    pair(
        "pipes_join_processes",
        |t| {
            let made =
                sys::mknodat(sys::CWD, t.path("p"), sys::FileType::Fifo, Mode::from_raw_mode(0o600), 0);
            t.did("make", made);
            let partner = t.partner();
            let content = std::fs::read(t.path("p")).unwrap_or_default();
            t.show_bytes("content", &content);
            partner.end(t);
        },
        |t| {
            let written = std::fs::write(t.path("p"), b"through the pipe").is_ok();
            t.say("written", written);
        },
    ),
    pair(
        "a_reader_while_another_writes_much",
        |t| {
            let file = t.file("a", OFlags::CREATE | OFlags::RDWR);
            file.set_len(4 << 20).expect("a truncate");
            let mut partner = t.partner();
            partner.meet();
            partner.go();
            for round in 1..=8u8 {
                file.write_all_at(&vec![round; 4 << 20], 0).expect("a write");
            }
            partner.end(t);
            t.show("a");
        },
        |t| {
            let file = t.file("a", OFlags::RDONLY);
            t.meet();
            let mut strange = 0;
            let mut buf = vec![0; 4096];
            for block in 0..1024 {
                file.read_exact_at(&mut buf, block * 4096).expect("a read");
                // ext4 itself may show parts of two writes to a read beside them; never anything else.
                strange += usize::from(buf.iter().any(|byte| *byte > 8));
            }
            t.say("blocks with what nobody wrote", strange);
        },
    ),
];
