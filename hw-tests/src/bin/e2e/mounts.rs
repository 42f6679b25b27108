//! The cluster mounted: by two clients at once, and by all the words and signals there are.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hw_tests::cluster::{Cluster, Ended, NAME, Options, run_to_end};
use hw_tests::deadline::{Stopwatch, poll_until};
use hw_tests::mount::{self, Mount};

use crate::scene::{PATIENCE, Scene};

/// How long a refusal may take: "at once".
const AT_ONCE: Duration = Duration::from_secs(2);

fn write_open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// The lease of a file goes back when the kernel says that the last handle is closed, shortly after a program is told so.
fn open_soon(path: &Path) -> File {
    let opened = poll_until(PATIENCE, || match write_open(path) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => None,
        other => Some(other.expect("it can be opened")),
    });
    opened.expect("the other client has closed it")
}

fn content(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).expect("a file");
    bytes
}

/// One writer, what others see, and what becomes of leases when a client ends or dies.
pub(crate) fn two_mounts(scene: &Scene) {
    let cluster = Cluster::make(Options::plain(&scene.dir, &scene.settings.binaries)).expect("a cluster");
    let make = |name: &str, options: &str| {
        Mount::make(&cluster, &scene.settings.binaries, name, &scene.dir.join(name), options)
            .expect("a mount")
    };
    let (mut one, mut two) = (make("one", "rw"), make("two", "rw"));
    let (a, b) = (one.point().join("file"), two.point().join("file"));

    let mut writer = File::create(&a).expect("a file");
    writer.write_all(b"by one").expect("a write");
    let clock = Stopwatch::start();
    let refused = write_open(&b).expect_err("one client writes it");
    assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
    let refused = File::open(&b).expect_err("one client writes it");
    assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
    assert!(clock.elapsed() < AT_ONCE, "refusals take {:?}", clock.elapsed());
    drop(writer);
    scene.say("a second writer gets EBUSY");

    let second = open_soon(&b);
    assert_eq!(content(&b), b"by one");
    second.write_all_at(b"by two", 0).expect("a write");
    drop(second);
    drop(open_soon(&a));
    // As long as before, so only the lease tells that what this client has cached is old.
    assert_eq!(content(&a), b"by two");
    let longer = open_soon(&b);
    longer.write_all_at(&[b'+'; 10_000], 6).expect("a write");
    drop(longer);
    let mut appender =
        poll_until(PATIENCE, || OpenOptions::new().append(true).open(&a).ok()).expect("it is free");
    appender.write_all(b"end").expect("an append");
    drop(appender);
    let whole = content(&a);
    assert_eq!((whole.len(), &whole[10_006..]), (10_009, &b"end"[..]), "appended at the end there is");
    scene.say("each sees what the other wrote");

    let readers = (File::open(&a).expect("a reader"), poll_until(PATIENCE, || File::open(&b).ok()));
    assert!(readers.1.is_some(), "two read at once");
    let refused = write_open(&a).expect_err("another client reads it");
    assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
    drop(readers);
    drop(open_soon(&a));

    let held = open_soon(&a);
    held.write_all_at(b"unsynced, but the daemon ends in order", 0).expect("a write");
    one.terminate().expect("SIGTERM ends it in order");
    drop(open_soon(&b));
    assert!(content(&b).starts_with(b"unsynced, but the daemon"), "SIGTERM flushes");
    drop(held);
    one.mount().expect("it can be mounted again");
    scene.say("a daemon that is told to stop gives its leases back");

    let held = open_soon(&a);
    held.write_all_at(b"synced", 0).expect("a write");
    held.sync_all().expect("a sync");
    one.kill().expect("it runs");
    drop(held);
    one.mount().expect("the dead mount is taken away");
    let clock = Stopwatch::start();
    assert!(content(&a).starts_with(b"synced"));
    write_open(&a).expect("the same client, restarted, has its lease back");
    assert!(clock.elapsed() < Duration::from_secs(20), "that takes {:?}", clock.elapsed());
    scene.say("a daemon that was killed has its leases back at once");

    two.unmount().expect("it ends in order");
    let reader = make("two", "ro");
    let (file, new) = (reader.point().join("file"), reader.point().join("new"));
    let seen = poll_until(PATIENCE, || File::open(&file).ok());
    assert!(seen.is_some(), "a reader may read");
    assert_eq!(write_open(&file).expect_err("read-only").kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(File::create(new).expect_err("read-only").kind(), ErrorKind::ReadOnlyFilesystem);
    drop((seen, reader));
    mount::clear(&scene.dir.join("two"));
    one.unmount().expect("it ends in order");
}

/// Runs the program by one of its names to its end.
fn words(cluster: &Cluster, program: &str, args: &[&str]) -> Ended {
    run_to_end(&cluster.command(program, args), "").expect("it can be started")
}

/// Forms of the command line, the background, refusals.
pub(crate) fn mount_commands(scene: &Scene) {
    let cluster = Cluster::make(Options::plain(&scene.dir, &scene.settings.binaries)).expect("a cluster");
    let point = scene.dir.join("mnt");
    std::fs::create_dir_all(&point).expect("a mount point");
    let dir = point.display().to_string();
    let mounted = |ended: &Ended| {
        assert!(ended.succeeded(), "{ended}");
        std::fs::write(point.join("a"), b"mounted").expect("it can be written when the command returns");
    };
    let gone = || {
        let free = poll_until(PATIENCE, || {
            let again = words(&cluster, "vstorage-mount", &["-c", NAME, &dir, "-o", "ro"]);
            again.succeeded().then_some(())
        });
        assert!(free.is_some(), "the daemon before has ended");
        mount::umount(&point).expect("nobody uses it");
    };

    mounted(&words(&cluster, "vstorage-mount", &["-c", NAME, &dir]));
    let twice = words(&cluster, "vstorage-mount", &["-c", NAME, &dir]);
    assert_eq!(twice.code, Some(1), "{twice}");
    assert!(twice.stderr.contains("already"), "{twice}");
    mount::umount(&point).expect("nobody uses it");
    gone();
    scene.say("the background");

    // As mount(8) calls its helper for fstab's fuse.vstorage.
    let helper = scene.dir.join("mount.fuse.vstorage");
    symlink(scene.settings.binaries.join("vstorage-mount"), &helper).expect("a link");
    let helper = helper.display().to_string();
    let source = format!("vstorage://{NAME}");
    let ended = words(&cluster, &helper, &[&source, &dir, "-n", "-o", "rw,nosuid,nodev,_netdev"]);
    mounted(&ended);
    let table = std::fs::read_to_string("/proc/self/mounts").expect("a list");
    let line = table.lines().find(|line| line.contains(&dir)).expect("it is mounted");
    assert!(line.starts_with(&format!("{source} {dir} fuse.vstorage rw,nosuid,nodev")), "{line}");
    mount::umount(&point).expect("nobody uses it");
    gone();
    scene.say("the form of fstab");

    let missing = scene.dir.join("missing").display().to_string();
    for (args, code, text) in [
        (vec!["-c", NAME, missing.as_str()], 1, "make the directory first"),
        (vec!["-c", "elsewhere", &dir], 1, "not authenticated in cluster 'elsewhere'"),
        (vec!["-c", NAME, "-o", "colour=red", &dir], 2, "no mount option"),
        (vec![dir.as_str()], 2, "which cluster?"),
        (vec!["nfs://x", dir.as_str()], 2, "is no cluster"),
    ] {
        let refused = words(&cluster, "vstorage-mount", &args);
        assert_eq!(refused.code, Some(code), "{refused}");
        assert!(refused.stderr.contains(text), "{refused}");
    }
    scene.say("refusals say what to do");
}

/// The table of POSIX cases; a program of its own, which can also be run alone.
pub(crate) fn posix(scene: &Scene) {
    let program = scene.settings.binaries.join("posix");
    let dir = scene.dir.join("posix");
    let output = Command::new(program).arg("--dir").arg(dir).output().expect("it can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default().to_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    scene.say(last.replace("test result: ", ""));
}

/// Programs of the Debian packages `git`, `cargo`, `sqlite3` and, in long runs, `postgresql`; in long runs also the own tests of
/// SQLite and PostgreSQL, from Debian's sources of those packages.
pub(crate) fn mounted_programs(scene: &Scene) {
    let cluster = Cluster::make(Options::plain(&scene.dir, &scene.settings.binaries)).expect("a cluster");
    let mut mount = Mount::make(&cluster, &scene.settings.binaries, "mount", &scene.dir.join("mnt"), "rw")
        .expect("a mount");
    let scratch = scene.dir.join("scratch");
    std::fs::create_dir(&scratch).expect("a directory");
    let (extent, limit) = if scene.settings.is_long { ("all", "3600") } else { ("some", "120") };
    let mut shell = Command::new("timeout");
    shell.args(["--kill-after=5", limit, "sh", "-c", include_str!("programs.sh"), "programs"]);
    shell.arg(mount.point()).arg(extent).arg(&scratch).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut shell = shell.spawn().expect("timeout, of the Debian package coreutils");
    let lines = BufReader::new(shell.stdout.take().expect("piped")).split(b'\n');
    lines.for_each(|line| scene.say(String::from_utf8_lossy(&line.expect("a pipe"))));
    let status = shell.wait().expect("it is our child");
    assert!(
        status.success(),
        "the last of the programs above ended with {status} (124: not within {limit} s)"
    );
    mount.unmount().expect("it ends in order");
}
