//! Names: making, finding, linking, moving and removing.

use rustix::fs as sys;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};

use crate::trial::{Case, Trial, plain};

pub(crate) const CASES: &[Case] = &[
    plain("create_exclusive_twice", |t| {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let first = t.open("a", flags);
        t.did("first", first);
        let second = t.open("a", flags);
        t.did("second", second);
        t.stat("a");
    }),
    plain("create_without_excl_opens", |t| {
        t.make("a", b"old");
        let again = t.open("a", OFlags::CREATE | OFlags::RDWR);
        t.did("open", again);
        t.show("a");
    }),
    plain("create_exclusive_on_symlink", |t| {
        let made = sys::symlink("nowhere", t.path("l"));
        t.did("symlink", made);
        let open = t.open("l", OFlags::CREATE | OFlags::EXCL | OFlags::RDWR);
        t.did("create", open);
        let open = t.open("l", OFlags::CREATE | OFlags::RDWR);
        t.did("through", open);
        t.list("");
    }),
    plain("open_missing", |t| {
        let open = t.open("a", OFlags::RDONLY);
        t.did("open", open);
        let open = t.open("a/b", OFlags::RDONLY | OFlags::CREATE);
        t.did("below", open);
    }),
    plain("open_below_a_file", |t| {
        t.make("a", b"");
        let open = t.open("a/b", OFlags::RDONLY | OFlags::CREATE);
        t.did("open", open);
        let open = t.open("a/", OFlags::RDONLY);
        t.did("slash", open);
        let made = sys::mkdir(t.path("a/d"), Mode::from_raw_mode(0o755));
        t.did("mkdir", made);
    }),
    plain("open_directory_for_writing", |t| {
        t.make_dir("d");
        let open = t.open("d", OFlags::WRONLY);
        t.did("write", open);
        let open = t.open("d", OFlags::RDONLY);
        t.did("read", open);
        let open = t.open("d", OFlags::RDWR | OFlags::CREATE);
        t.did("create", open);
    }),
    plain("open_with_directory_flag", |t| {
        t.make("a", b"");
        t.make_dir("d");
        for name in ["a", "d"] {
            let open = t.open(name, OFlags::RDONLY | OFlags::DIRECTORY);
            t.did(name, open);
        }
    }),
    plain("open_nofollow", |t| {
        t.make("a", b"");
        let made = sys::symlink("a", t.path("l"));
        t.did("symlink", made);
        let open = t.open("l", OFlags::RDONLY | OFlags::NOFOLLOW);
        t.did("open", open);
    }),
    plain("longest_name", |t| {
        for len in [255, 256] {
            let name = "n".repeat(len);
            let open = t.open(&name, OFlags::CREATE | OFlags::RDWR);
            t.did(&format!("{len}"), open);
            let made = sys::mkdir(t.path(&name), Mode::from_raw_mode(0o755));
            t.did(&format!("directory {len}"), made);
        }
    }),
    plain("names_of_any_bytes", |t| {
        use std::os::unix::ffi::OsStrExt;
        for name in [&b"\xff\xfe"[..], b" ", b"\n", b"...", b"a\\b", "ü".as_bytes()] {
            let path = t.path("").join(std::ffi::OsStr::from_bytes(name));
            let made = std::fs::write(&path, name)
                .map_err(|error| rustix::io::Errno::from_io_error(&error).expect("from the system"));
            t.did("make", made);
        }
        t.list("");
    }),
    plain("mkdir_and_rmdir", |t| {
        let dir = t.path("d");
        let made = sys::mkdir(&dir, Mode::from_raw_mode(0o751));
        t.did("mkdir", made);
        t.stat("d");
        let made = sys::mkdir(&dir, Mode::from_raw_mode(0o751));
        t.did("again", made);
        let gone = sys::rmdir(&dir);
        t.did("rmdir", gone);
        let gone = sys::rmdir(&dir);
        t.did("gone", gone);
    }),
    plain("rmdir_of_a_full_one", |t| {
        t.make_dir("d");
        t.make("d/a", b"");
        let gone = sys::rmdir(t.path("d"));
        t.did("rmdir", gone);
        let gone = sys::unlink(t.path("d/a"));
        t.did("unlink", gone);
        let gone = sys::rmdir(t.path("d"));
        t.did("rmdir", gone);
    }),
    plain("rmdir_of_a_file_and_unlink_of_a_directory", |t| {
        t.make("a", b"");
        t.make_dir("d");
        let gone = sys::rmdir(t.path("a"));
        t.did("rmdir", gone);
        let gone = sys::unlink(t.path("d"));
        t.did("unlink", gone);
        let gone = sys::rmdir(t.path("d/."));
        t.did("dot", gone);
        let gone = sys::rmdir(t.path("d/.."));
        t.did("dots", gone);
    }),
    plain("links_of_directories", |t| {
        t.make_dir("d");
        t.stat("d");
        t.make_dir("d/e");
        t.make_dir("d/f");
        t.make("d/a", b"");
        t.stat("d");
        let gone = sys::rmdir(t.path("d/e"));
        t.did("rmdir", gone);
        t.stat("d");
    }),
    plain("hard_links", |t| {
        t.make("a", b"content");
        for (from, to) in [("a", "b"), ("a", "b"), ("missing", "c"), ("b", "c")] {
            let made = sys::link(t.path(from), t.path(to));
            t.did(&format!("link {from} {to}"), made);
        }
        t.stat("a");
        t.show("c");
        let same = sys::stat(t.path("a")).and_then(|a| sys::stat(t.path("c")).map(|c| a.st_ino == c.st_ino));
        t.note("same", same);
        for name in ["a", "b"] {
            let gone = sys::unlink(t.path(name));
            t.did(name, gone);
        }
        t.stat("c");
        t.show("c");
    }),
    plain("hard_link_of_a_directory", |t| {
        t.make_dir("d");
        let made = sys::link(t.path("d"), t.path("e"));
        t.did("link", made);
    }),
    plain("hard_link_of_a_symlink", |t| {
        let made = sys::symlink("nowhere", t.path("l"));
        t.did("symlink", made);
        let made = sys::linkat(CWD, t.path("l"), CWD, t.path("m"), AtFlags::empty());
        t.did("link", made);
        t.stat("l");
        let made = sys::linkat(CWD, t.path("l"), CWD, t.path("n"), AtFlags::SYMLINK_FOLLOW);
        t.did("follow", made);
    }),
    plain("symlinks", |t| {
        t.make("a", b"target");
        for (target, name) in [("a", "l"), ("nowhere", "m"), ("l", "n"), ("n", "n"), ("o", "o"), ("", "p")] {
            let made = sys::symlink(target, t.path(name));
            t.did(&format!("symlink {name}"), made);
            t.stat(name);
            let target = sys::readlink(t.path(name), Vec::new());
            t.note("leads to", target);
        }
        t.show("l");
        t.show("m");
        t.show("n");
        t.show("o");
        let target = sys::readlink(t.path("a"), Vec::new());
        t.note("no link", target);
    }),
    plain("longest_symlink", |t| {
        for len in [4094, 4095] {
            let target = "x".repeat(len);
            let made = sys::symlink(&target, t.path(&format!("l{len}")));
            t.did(&format!("{len}"), made);
            let read =
                sys::readlink(t.path(&format!("l{len}")), Vec::new()).map(|target| target.to_bytes().len());
            t.note("read", read);
        }
    }),
    plain("special_files", |t| {
        for (name, kind, device) in [
            ("p", FileType::Fifo, 0),
            ("s", FileType::Socket, 0),
            ("c", FileType::CharacterDevice, sys::makedev(1, 3)),
            ("b", FileType::BlockDevice, sys::makedev(7, 200)),
            ("f", FileType::RegularFile, 0),
        ] {
            let made = sys::mknodat(CWD, t.path(name), kind, Mode::from_raw_mode(0o640), device);
            t.did(name, made);
            t.stat(name);
        }
        t.list("");
        t.show("f");
    }),
    plain("rename_onto_nothing", |t| {
        t.make("a", b"content");
        let moved = sys::rename(t.path("a"), t.path("b"));
        t.did("rename", moved);
        t.list("");
        t.show("b");
        let moved = sys::rename(t.path("a"), t.path("c"));
        t.did("missing", moved);
        let moved = sys::rename(t.path("b"), t.path("d/c"));
        t.did("no directory", moved);
    }),
    plain("rename_over_a_file", |t| {
        t.make("a", b"new");
        t.make("b", b"old");
        let moved = sys::rename(t.path("a"), t.path("b"));
        t.did("rename", moved);
        t.list("");
        t.show("b");
    }),
    plain("rename_over_a_directory", |t| {
        for name in ["d", "e", "f"] {
            t.make_dir(name);
        }
        t.make("f/x", b"");
        t.make("a", b"");
        for (from, to) in [("d", "e"), ("e", "f"), ("a", "e"), ("e", "a"), ("f", "e")] {
            let moved = sys::rename(t.path(from), t.path(to));
            t.did(&format!("{from} over {to}"), moved);
        }
        t.list("");
        t.list("e");
    }),
    plain("rename_below_itself", |t| {
        t.make_dir("d");
        t.make_dir("d/e");
        for to in ["d/f", "d/e/f", "d"] {
            let moved = sys::rename(t.path("d"), t.path(to));
            t.did(to, moved);
        }
        t.list("d");
    }),
    plain("rename_of_two_names_of_one_file", |t| {
        t.make("a", b"x");
        let made = sys::link(t.path("a"), t.path("b"));
        t.did("link", made);
        let moved = sys::rename(t.path("a"), t.path("b"));
        t.did("rename", moved);
        t.list("");
        t.stat("a");
    }),
    plain("rename_noreplace", |t| {
        t.make("a", b"a");
        t.make("b", b"b");
        let moved = sys::renameat_with(CWD, t.path("a"), CWD, t.path("b"), RenameFlags::NOREPLACE);
        t.did("taken", moved);
        let moved = sys::renameat_with(CWD, t.path("a"), CWD, t.path("c"), RenameFlags::NOREPLACE);
        t.did("free", moved);
        t.list("");
    }),
    plain("rename_exchange", |t| {
        t.make("a", b"content of a");
        t.make_dir("d");
        t.make("d/b", b"content of b");
        let exchange = |t: &Trial, from: &str, to: &str| {
            sys::renameat_with(CWD, t.path(from), CWD, t.path(to), RenameFlags::EXCHANGE)
        };
        let moved = exchange(t, "a", "d/b");
        t.did("files", moved);
        t.show("a");
        t.show("d/b");
        let moved = exchange(t, "a", "d");
        t.did("file and directory", moved);
        t.list("");
        t.list("a");
        let moved = exchange(t, "a", "missing");
        t.did("missing", moved);
        t.stat("");
    }),
    plain("rename_moves_directories", |t| {
        t.make_dir("d");
        t.make_dir("e");
        t.make_dir("d/x");
        t.make("d/x/a", b"deep");
        let moved = sys::rename(t.path("d/x"), t.path("e/y"));
        t.did("rename", moved);
        t.stat("d");
        t.stat("e");
        t.show("e/y/a");
        let above =
            sys::stat(t.path("e/y/..")).and_then(|a| sys::stat(t.path("e")).map(|b| a.st_ino == b.st_ino));
        t.note("dots", above);
    }),
    plain("rename_of_a_symlink", |t| {
        t.make("a", b"a");
        let made = sys::symlink("a", t.path("l"));
        t.did("symlink", made);
        let moved = sys::rename(t.path("l"), t.path("m"));
        t.did("rename", moved);
        let moved = sys::rename(t.path("a"), t.path("m"));
        t.did("over", moved);
        t.list("");
    }),
    plain("rename_dots", |t| {
        t.make_dir("d");
        let moved = sys::rename(t.path("d/."), t.path("e"));
        t.did("dot", moved);
        let moved = sys::rename(t.path("d"), t.path("d/.."));
        t.did("dots", moved);
    }),
    plain("listing_names_each_once", |t| {
        for number in 0..1500 {
            t.make(&format!("f{number}"), b"");
        }
        let mut names: Vec<_> = std::fs::read_dir(t.path(""))
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        let all = names.len();
        names.sort();
        names.dedup();
        t.say("entries", (all, names.len()));
    }),
    plain("listing_while_removing", |t| {
        for number in 0..600 {
            t.make(&format!("f{number}"), b"");
        }
        let mut removed = 0;
        for entry in std::fs::read_dir(t.path("")).expect("a directory") {
            let entry = entry.expect("an entry");
            std::fs::remove_file(entry.path()).expect("it is there");
            removed += 1;
        }
        t.say("removed", removed);
        t.list("");
    }),
    plain("listing_of_a_removed_directory", |t| {
        t.make_dir("d");
        let dir = t.file("d", OFlags::RDONLY | OFlags::DIRECTORY);
        let gone = sys::rmdir(t.path("d"));
        t.did("rmdir", gone);
        let mut count = 0;
        for entry in sys::Dir::read_from(&dir).expect("a directory") {
            count += usize::from(entry.is_ok());
        }
        t.say("entries", count);
        let links = sys::fstat(&dir).map(|stat| stat.st_nlink);
        t.note("links", links);
        let open = sys::openat(&dir, "a", OFlags::CREATE | OFlags::RDWR, Mode::from_raw_mode(0o600));
        t.did("create below", open);
    }),
    plain("deep_trees", |t| {
        let mut path = t.path("");
        for level in 0..60 {
            path.push(format!("level{level}"));
            std::fs::create_dir(&path).expect("a directory");
        }
        let made = std::fs::write(path.join("a"), b"deep").is_ok();
        t.say("made", made);
        let read = std::fs::read(path.join("a")).map(|bytes| bytes.len()).ok();
        t.say("read", read);
        let removed = std::fs::remove_dir_all(t.path("level0")).is_ok();
        t.say("removed", removed);
    }),
    plain("path_too_long", |t| {
        let long = format!("{}a", "d/".repeat(2100));
        let open = t.open(&long, OFlags::RDONLY);
        t.did("open", open);
    }),
    plain("seek_in_a_directory", |t| {
        for number in 0..300 {
            t.make(&format!("f{number:03}"), b"");
        }
        let mut dir =
            sys::Dir::read_from(t.file("", OFlags::RDONLY | OFlags::DIRECTORY)).expect("a directory");
        let first: Vec<_> =
            dir.by_ref().take(120).map(|entry| entry.expect("an entry").file_name().to_owned()).collect();
        dir.rewind();
        let again: Vec<_> =
            dir.by_ref().take(120).map(|entry| entry.expect("an entry").file_name().to_owned()).collect();
        t.say("same", first == again);
        t.say("rest", dir.count());
    }),
    plain("anonymous_files", |t| {
        let open = sys::open(t.path(""), OFlags::TMPFILE | OFlags::RDWR, Mode::from_raw_mode(0o600));
        // Not every file system has them; programs fall back.
        t.say(
            "known answer",
            match open {
                Ok(_) => true,
                Err(error) => error == rustix::io::Errno::OPNOTSUPP,
            },
        );
    }),
];
