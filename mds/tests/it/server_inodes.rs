//! Operations by inode: POSIX semantics as a table, leases, restarts, large directories, two clients at once.

use std::collections::BTreeMap;
use std::rc::Rc;

use link::AskError;
use wire::inode::{
    GetInode, GetXattr, Inode, InodeReply, Link, ListXattrs, Lookup, MakeNode, MakeNodeReply, ReadDir,
    RemoveXattr, RenameEntry, RenameMode, SetInode, SetXattr, SizeChange, StatFs, TimeChange, Unlink,
    UnlinkReply, UnlinkWhat, XattrMode,
};
use wire::lease::{AllocateChunks, Open, OpenMode};
use wire::namespace::{FileKind, FileRef, List, Stat};
use wire::{Call, Status};

use super::server_world::{Client, World, refused, soon, test};

/// 15 November 2023, with nanoseconds.
const T0: i64 = 1_700_000_000_123_456_789;

/// A client that names things by paths below the top directory, and has a clock of its own.
struct Mount {
    client: Client,
    clock: std::cell::Cell<i64>,
}

type Answer<T> = Result<T, Status>;

fn status(error: AskError) -> Status {
    match error {
        AskError::Status { status, .. } => status,
        other => panic!("not answered: {other}"),
    }
}

impl Mount {
    async fn new(world: &World, uuid: u8) -> Self {
        Self { client: world.client(uuid).await, clock: std::cell::Cell::new(T0) }
    }

    fn tick(&self) -> i64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    async fn ask<C: Call>(&self, call: &C) -> Answer<C::Reply> {
        self.client.ask(call).await.map_err(status)
    }

    /// The directory of a path, and the last name.
    async fn parent<'p>(&self, path: &'p str) -> Answer<(u64, &'p str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((if dir.is_empty() { 0 } else { self.walk(dir).await?.id }, name))
    }

    async fn walk(&self, path: &str) -> Answer<Inode> {
        let mut at = self.ask(&GetInode { id: 0 }).await?.inode;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = self.ask(&Lookup { parent: at.id, name: name.into() }).await?.inode;
        }
        Ok(at)
    }

    async fn make_request(&self, path: &str, kind: FileKind) -> Answer<MakeNode> {
        let (parent, name) = self.parent(path).await?;
        Ok(MakeNode {
            session: self.client.session.clone(),
            parent,
            name: name.into(),
            now_ns: self.tick(),
            kind: kind.into(),
            mode: 0o640,
            uid: 1000,
            gid: 100,
            rdev: 0x0103,
            target: if kind == FileKind::Symlink { b"../to".to_vec() } else { Vec::new() },
            exclusive: true,
            open: false,
        })
    }

    async fn make(&self, path: &str, kind: FileKind) -> Answer<MakeNodeReply> {
        self.ask(&self.make_request(path, kind).await?).await
    }

    async fn link(&self, from: &str, to: &str) -> Answer<InodeReply> {
        let (id, (parent, name)) = (self.walk(from).await?.id, self.parent(to).await?);
        let session = self.client.session.clone();
        self.ask(&Link { session, id, parent, name: name.into(), now_ns: self.tick() }).await
    }

    async fn unlink(&self, path: &str, what: UnlinkWhat) -> Answer<UnlinkReply> {
        let (parent, name) = self.parent(path).await?;
        let session = self.client.session.clone();
        let what = what.into();
        self.ask(&Unlink { session, parent, name: name.into(), what, now_ns: self.tick() }).await
    }

    async fn rename(&self, from: &str, to: &str, mode: RenameMode) -> Answer<Option<UnlinkReply>> {
        let ((parent, name), (new_parent, new_name)) = (self.parent(from).await?, self.parent(to).await?);
        let call = RenameEntry {
            session: self.client.session.clone(),
            parent,
            name: name.into(),
            new_parent,
            new_name: new_name.into(),
            mode: mode.into(),
            now_ns: self.tick(),
        };
        Ok(self.ask(&call).await?.other)
    }

    fn change(&self, id: u64) -> SetInode {
        SetInode { session: self.client.session.clone(), id, now_ns: self.tick(), ..SetInode::default() }
    }

    async fn resize(&self, path: &str, size: u64, epoch: u64, grow_only: bool) -> Answer<Inode> {
        let change = self.change(self.walk(path).await?.id);
        let size = Some(SizeChange { size, epoch, grow_only });
        Ok(self.ask(&SetInode { size, ..change }).await?.inode)
    }

    async fn set_xattr(&self, path: &str, name: &str, value: &[u8], mode: XattrMode) -> Answer<()> {
        let call = SetXattr {
            session: self.client.session.clone(),
            id: self.walk(path).await?.id,
            name: name.into(),
            value: value.to_vec(),
            mode: mode.into(),
            now_ns: self.tick(),
        };
        self.ask(&call).await.map(drop)
    }

    async fn remove_xattr(&self, path: &str, name: &str) -> Answer<()> {
        let (session, id) = (self.client.session.clone(), self.walk(path).await?.id);
        self.ask(&RemoveXattr { session, id, name: name.into(), now_ns: self.tick() }).await.map(drop)
    }

    /// Everything below a directory, with extended attributes, by its path.
    async fn tree(&self) -> BTreeMap<String, (Inode, Vec<(Vec<u8>, Vec<u8>)>)> {
        let mut found = BTreeMap::new();
        let mut todo = vec![(String::new(), 0)];
        while let Some((path, id)) = todo.pop() {
            for entry in self.ask(&ReadDir { id, ..ReadDir::default() }).await.expect("a directory").entries {
                let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
                let id = entry.inode.id;
                let mut xattrs = Vec::new();
                for name in self.ask(&ListXattrs { id }).await.expect("there").names {
                    let value = self.ask(&GetXattr { id, name: name.clone() }).await.expect("listed").value;
                    xattrs.push((name, value));
                }
                if entry.inode.kind() == FileKind::Directory {
                    todo.push((path.clone(), id));
                }
                found.insert(path, (entry.inode, xattrs));
            }
        }
        found
    }
}

/// What came of two things at once.
async fn both<T>(one: rt::JoinHandle<T>, two: rt::JoinHandle<T>) -> (T, T) {
    (one.await.expect("it ends"), two.await.expect("it ends"))
}

/// A row of the table. Paths are below the top directory.
#[derive(Clone, Copy, Debug)]
enum Do {
    Make(&'static str, FileKind),
    Link(&'static str, &'static str),
    Unlink(&'static str),
    Rmdir(&'static str),
    Rename(&'static str, &'static str),
    NoReplace(&'static str, &'static str),
    Exchange(&'static str, &'static str),
    Nlink(&'static str, u32),
    Same(&'static str, &'static str),
    Kind(&'static str, FileKind),
    Resize(&'static str, u64),
    SetXattr(&'static str, &'static str, XattrMode),
    DropXattr(&'static str, &'static str),
    ReadLink(&'static str),
}
use Do::*;

const FILE: FileKind = FileKind::File;
const DIR: FileKind = FileKind::Directory;
const LINK: FileKind = FileKind::Symlink;

const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
const EPERM: i32 = 1;
const EFBIG: i32 = 27;
const ENOTEMPTY: i32 = 39;
const ENAMETOOLONG: i32 = 36;
const ENODATA: i32 = 61;

/// 255 and 256 bytes.
const LONGEST: &str = concat!(
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234",
);
const TOO_LONG: &str = concat!(
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "01234567890123456789012345678901234567890123456789012345",
);

/// What is done, one after the other, and the number of `errno` that comes of it.
const TABLE: &[(Do, i32)] = &[
    (Make("d", DIR), 0),
    (Make("d", DIR), EEXIST),
    (Make("d/f", FILE), 0),
    (Make("d/f", DIR), EEXIST),
    (Make("d/f/g", FILE), ENOTDIR),
    (Make("none/g", FILE), ENOENT),
    (Make("d/.", DIR), EINVAL),
    (Make("d/..", DIR), EINVAL),
    (Make(TOO_LONG, FILE), ENAMETOOLONG),
    (Make(LONGEST, FILE), 0),
    (Unlink(LONGEST), 0),
    (Make("d/l", LINK), 0),
    (Make("d/p", FileKind::Fifo), 0),
    (Make("d/s", FileKind::Socket), 0),
    (Make("d/c", FileKind::CharDevice), 0),
    (Make("d/b", FileKind::BlockDevice), 0),
    (Kind("d/l", LINK), 0),
    (Kind("d/p", FileKind::Fifo), 0),
    (Kind("d/s", FileKind::Socket), 0),
    (Kind("d/c", FileKind::CharDevice), 0),
    (Kind("d/b", FileKind::BlockDevice), 0),
    (ReadLink("d/l"), 0),
    (ReadLink("d/f"), EINVAL),
    (Make("x", FileKind::Unspecified), EINVAL),
    // The links of directories.
    (Nlink("d", 2), 0),
    (Make("d/sub", DIR), 0),
    (Nlink("d", 3), 0),
    (Rename("d/sub", "sub"), 0),
    (Nlink("d", 2), 0),
    (Rename("sub", "d/sub"), 0),
    (Nlink("", 3), 0),
    (Rmdir("d/sub"), 0),
    (Nlink("d", 2), 0),
    // Hard links.
    (Link("d/f", "hard"), 0),
    (Nlink("d/f", 2), 0),
    (Same("d/f", "hard"), 0),
    (Link("d/f", "hard"), EEXIST),
    (Link("d", "hard2"), EPERM),
    (Link("none", "hard2"), ENOENT),
    (Link("d/l", "d/l2"), 0),
    (Nlink("d/l", 2), 0),
    (Rename("hard", "d/f"), 0),
    (Nlink("hard", 2), 0),
    (NoReplace("hard", "d/f"), EEXIST),
    (Unlink("d/f"), 0),
    (Nlink("hard", 1), 0),
    (Rename("hard", "d/f"), 0),
    (Same("hard", "d/f"), ENOENT),
    // Unlink and rmdir.
    (Unlink("none"), ENOENT),
    (Unlink("d"), EISDIR),
    (Rmdir("d/f"), ENOTDIR),
    (Rmdir("d"), ENOTEMPTY),
    (Unlink("d/l"), 0),
    (Unlink("d/l"), ENOENT),
    (Unlink("d/p/x"), ENOTDIR),
    (Rmdir("none/x"), ENOENT),
    // Rename.
    (Make("e", DIR), 0),
    (Make("full", DIR), 0),
    (Make("full/x", FILE), 0),
    (Make("g", FILE), 0),
    (Rename("none", "g"), ENOENT),
    (Rename("g", "e"), EISDIR),
    (Rename("e", "g"), ENOTDIR),
    (Rename("e", "full"), ENOTEMPTY),
    (Rename("full", "full/y"), EINVAL),
    (Rename("d", "d/deep"), EINVAL),
    (Rename("g", "d/f/z"), ENOTDIR),
    (Rename("g", "none/z"), ENOENT),
    (Rename("g", TOO_LONG), ENAMETOOLONG),
    (Rename("full", "e"), 0),
    (Kind("e/x", FILE), 0),
    (Kind("full", DIR), ENOENT),
    (NoReplace("g", "e/x"), EEXIST),
    (NoReplace("g", "e/y"), 0),
    (Rename("e/y", "e/x"), 0),
    (Kind("e/y", FILE), ENOENT),
    (Rename("e", "e"), 0),
    // Exchange.
    (Exchange("e", "none"), ENOENT),
    (Exchange("d/f", "e"), 0),
    (Kind("e", FILE), 0),
    (Kind("d/f/x", FILE), 0),
    (Nlink("", 3), 0),
    (Nlink("d", 3), 0),
    (Exchange("d", "d/f"), EINVAL),
    (Exchange("d/f", "d"), EINVAL),
    (Exchange("e", "d/f"), 0),
    (Kind("d/f", FILE), 0),
    (Exchange("d", "d"), 0),
    // Sizes without a lease.
    (Resize("d/f", 1 << 40), 0),
    (Resize("d/f", 5), 0),
    (Resize("d", 5), EISDIR),
    (Resize("d/p", 5), EINVAL),
    (Resize("d/f", u64::MAX), EFBIG),
    // Extended attributes.
    (SetXattr("d/f", "user.a", XattrMode::Replace), ENODATA),
    (SetXattr("d/f", "user.a", XattrMode::Create), 0),
    (SetXattr("d/f", "user.a", XattrMode::Create), EEXIST),
    (SetXattr("d/f", "user.a", XattrMode::Replace), 0),
    (SetXattr("d", "user.b", XattrMode::Any), 0),
    (SetXattr("d/c", "user.b", XattrMode::Any), 0),
    (SetXattr("", "user.top", XattrMode::Any), 0),
    (SetXattr("d/f", "", XattrMode::Any), EINVAL),
    (SetXattr("d/f", TOO_LONG, XattrMode::Any), ENAMETOOLONG),
    (DropXattr("d/f", "user.b"), ENODATA),
    (DropXattr("d/f", TOO_LONG), ENODATA),
    (DropXattr("d", "user.b"), 0),
];

async fn carry_out(mount: &Mount, row: Do) -> Answer<()> {
    match row {
        Make(path, kind) => mount.make(path, kind).await.map(|made| assert!(made.created)),
        Link(from, to) => mount.link(from, to).await.map(drop),
        Unlink(path) => mount.unlink(path, UnlinkWhat::NotADirectory).await.map(drop),
        Rmdir(path) => mount.unlink(path, UnlinkWhat::Directory).await.map(drop),
        Rename(from, to) => mount.rename(from, to, RenameMode::Replace).await.map(drop),
        NoReplace(from, to) => mount.rename(from, to, RenameMode::NoReplace).await.map(drop),
        Exchange(from, to) => mount.rename(from, to, RenameMode::Exchange).await.map(drop),
        Nlink(path, nlink) => mount.walk(path).await.map(|inode| assert_eq!(inode.nlink, nlink, "{path}")),
        Same(one, two) => {
            let ids = (mount.walk(one).await?.id, mount.walk(two).await?.id);
            assert_eq!(ids.0, ids.1);
            Ok(())
        }
        Kind(path, kind) => mount.walk(path).await.map(|inode| assert_eq!(inode.kind(), kind, "{path}")),
        Resize(path, size) => {
            mount.resize(path, size, 0, false).await.map(|inode| assert_eq!(inode.size, size))
        }
        SetXattr(path, name, mode) => mount.set_xattr(path, name, b"value", mode).await,
        DropXattr(path, name) => mount.remove_xattr(path, name).await,
        ReadLink(path) => {
            let id = mount.walk(path).await?.id;
            let target = mount.ask(&wire::inode::ReadLink { id }).await?.target;
            assert_eq!(target, b"../to");
            Ok(())
        }
    }
}

/// The table twice: at one go, and with a restart (from a snapshot and from the log) again and again in between, which
/// must make no difference.
#[test]
fn names_behave_as_posix_says() {
    test(async {
        let mut worlds = Vec::new();
        for restarts in [false, true] {
            let mut world = World::made(mds::server::ServerOptions::default()).await;
            if restarts {
                world.options.consensus.snapshot_entries = 20;
            }
            world.run().await;
            let mut mount = Mount::new(&world, 1).await;
            for (number, (row, errno)) in TABLE.iter().enumerate() {
                let answer = carry_out(&mount, *row).await;
                let got = answer.map_or_else(Status::errno, |()| 0);
                assert_eq!(got, *errno, "row {number}: {row:?}");
                if restarts && number % 15 == 14 {
                    let before = mount.tree().await;
                    world.stop().await;
                    world.run().await;
                    let clock = mount.clock.get();
                    mount = Mount::new(&world, number as u8).await;
                    mount.clock.set(clock);
                    assert_eq!(mount.tree().await, before, "after row {number}");
                }
            }
            let top = mount.walk("").await.expect("there");
            worlds.push((top.nlink, top.mtime_ns, mount.tree().await));
            world.stop().await;
        }
        assert_eq!(worlds[0].2.len(), 9, "{:?}", worlds[0].2.keys());
        assert!(worlds[0] == worlds[1]);
    });
}

#[test]
fn attributes_are_those_that_were_set() {
    test(async {
        let world = World::calm().await;
        let mount = Mount::new(&world, 1).await;
        let dir = mount.make("d", DIR).await.expect("made").inode;
        assert_eq!(
            (dir.mode, dir.uid, dir.gid, dir.nlink, dir.size, dir.kind()),
            (0o640, 1000, 100, 2, 4096, DIR)
        );
        let born = mount.clock.get();
        assert_eq!([dir.atime_ns, dir.mtime_ns, dir.ctime_ns, dir.btime_ns], [born; 4]);

        // A directory with the set-group-id bit gives its group, and to directories the bit.
        let change = mount.change(dir.id);
        let set = SetInode { mode: Some(0o102_775), gid: Some(7), ..change };
        let dir = mount.ask(&set).await.expect("set").inode;
        assert_eq!((dir.mode, dir.gid, dir.mtime_ns, dir.ctime_ns), (0o2775, 7, born, born + 1));
        let sub = mount.make("d/sub", DIR).await.expect("made").inode;
        let file = mount.make("d/f", FILE).await.expect("made").inode;
        assert_eq!((sub.mode, sub.gid, file.mode, file.gid), (0o2640, 7, 0o640, 7));
        let device = mount.make("d/c", FileKind::CharDevice).await.expect("made").inode;
        let fifo = mount.make("d/p", FileKind::Fifo).await.expect("made").inode;
        assert_eq!((device.rdev, fifo.rdev, file.rdev), (0x0103, 0, 0));
        let after = mount.walk("d").await.expect("there");
        let now = mount.clock.get();
        assert_eq!((after.mtime_ns, after.ctime_ns, after.nlink), (now, now, 3), "its entries changed");

        // Times, also before 1970; what is not named stays, but for the change of the inode itself.
        let time = |ns, now| Some(TimeChange { ns, now });
        let change = mount.change(file.id);
        let now = change.now_ns;
        let set = SetInode { atime: time(-5, false), mtime: time(0, true), ..change };
        let set = mount.ask(&set).await.expect("set").inode;
        assert_eq!((set.atime_ns, set.mtime_ns, set.ctime_ns), (-5, now, now));
        let change = mount.change(file.id);
        let set = mount.ask(&SetInode { ctime: time(9, false), uid: Some(3), ..change }).await.expect("set");
        assert_eq!((set.inode.ctime_ns, set.inode.mtime_ns, set.inode.uid), (9, now, 3));

        // Nothing of a change that is refused.
        let change = mount.change(file.id);
        let size = Some(SizeChange { size: u64::MAX, ..SizeChange::default() });
        let refused = mount.ask(&SetInode { mode: Some(0), size, ..change }).await;
        assert_eq!(refused, Err(Status::FileTooLarge));
        assert_eq!(mount.walk("d/f").await, Ok(set.inode));

        // A hard link changes the inode; so does losing it.
        let linked = mount.link("d/f", "again").await.expect("linked").inode;
        assert_eq!((linked.nlink, linked.ctime_ns), (2, mount.clock.get()));
        let left = mount.unlink("d/f", UnlinkWhat::Any).await.expect("unlinked");
        assert_eq!((left.id, left.nlink, left.gone), (file.id, 1, false));
        assert_eq!(mount.walk("again").await.expect("there").ctime_ns, mount.clock.get());
        let left = mount.unlink("again", UnlinkWhat::Any).await.expect("unlinked");
        assert_eq!((left.nlink, left.gone), (0, true));
        assert_eq!(mount.ask(&GetInode { id: file.id }).await, Err(Status::Gone));
        assert_eq!(mount.ask(&Lookup { parent: file.id, name: b"x".to_vec() }).await, Err(Status::NotFound));
        let long = ReadDir { id: sub.id, ..ReadDir::default() };
        assert_eq!(mount.ask(&long).await.map(|page| (page.entries.len(), page.parent)), Ok((0, dir.id)));

        // Without a clock of the client, that of the server.
        let change = SetInode { now_ns: 0, mode: Some(0), ..mount.change(sub.id) };
        let stamped = mount.ask(&change).await.expect("set").inode.ctime_ns;
        assert!(stamped > T0, "{stamped}");
        let space = mount.ask(&StatFs {}).await.expect("space");
        assert_eq!((space.inodes, space.total_bytes), (5, 0));
        world.stop().await;
    });
}

#[test]
fn what_has_the_name_is_answered_unless_it_must_be_new() {
    test(async {
        let world = World::calm().await;
        let mount = Mount::new(&world, 1).await;
        let made = mount.make("f", FILE).await.expect("made");
        let call = mount.make_request("f", FILE).await.expect("a parent");
        let open = MakeNode { exclusive: false, open: true, ..call };
        let again = mount.ask(&open).await.expect("answered");
        assert_eq!((again.inode, again.created, again.opened), (made.inode, false, None));
        // Bad targets and names never reach the log.
        let call = mount.make_request("l", LINK).await.expect("a parent");
        for (target, errno) in [(vec![], 22), (b"a\0".to_vec(), 22), (vec![b'x'; 4096], 36)] {
            let refused = mount.ask(&MakeNode { target, ..call.clone() }).await;
            assert_eq!(refused.map_err(Status::errno).err(), Some(errno));
        }
        mount.ask(&MakeNode { target: vec![b'x'; 4095], ..call.clone() }).await.expect("the longest target");
        assert_eq!(mount.walk("l").await.map(|link| link.size), Ok(4095));
        // A session that is none.
        let mut session = call.session.clone();
        session.token[3] ^= 1;
        assert_eq!(mount.ask(&MakeNode { session, ..call }).await, Err(Status::SessionExpired));
        world.stop().await;
    });
}

#[test]
fn extended_attributes_have_limits() {
    test(async {
        let world = World::calm().await;
        let mount = Mount::new(&world, 1).await;
        let id = mount.make("f", FILE).await.expect("made").inode.id;
        let big = vec![0xa5; 64 << 10];
        assert_eq!(
            mount.set_xattr("f", "user.a", &[&big[..], &[1]].concat(), XattrMode::Any).await,
            Err(Status::ValueTooLarge)
        );
        mount.set_xattr("f", "user.a", &big, XattrMode::Any).await.expect("the longest value");
        assert_eq!(mount.set_xattr("f", "user.b", &big, XattrMode::Any).await, Err(Status::XattrsFull));
        mount.set_xattr("f", "user.a", b"", XattrMode::Any).await.expect("replaced");
        mount.set_xattr("f", "user.b", &big, XattrMode::Any).await.expect("there is room again");
        let names = mount.ask(&ListXattrs { id }).await.expect("listed").names;
        assert_eq!(names, [b"user.a".to_vec(), b"user.b".to_vec()]);
        world.stop().await;
        world.run().await;
        let mount = Mount::new(&world, 2).await;
        let get = |name: &str| GetXattr { id, name: name.into() };
        assert_eq!(mount.ask(&get("user.a")).await.map(|reply| reply.value.len()), Ok(0));
        assert!(mount.ask(&get("user.b")).await.is_ok_and(|reply| reply.value == big));
        assert_eq!(mount.ask(&get("user.c")).await.map(drop), Err(Status::NoData));
        world.stop().await;
    });
}

#[test]
fn c1_sizes_belong_to_the_writer() {
    test(async {
        let world = World::calm().await;
        let _servers = world.chunk_servers(1).await;
        let (one, two) = (Mount::new(&world, 1).await, Mount::new(&world, 2).await);
        // Made and opened in one trip; the lease is real.
        let call = one.make_request("f", FILE).await.expect("a parent");
        let made = one.ask(&MakeNode { open: true, ..call }).await.expect("made");
        let open = made.opened.expect("opened");
        let (id, epoch) = (made.inode.id, open.epoch);
        assert_eq!(
            (open.file_id, open.size, open.needs_reconcile, open.chunk_size),
            (id, 0, false, 64 << 20)
        );
        assert_eq!((made.inode.epoch, made.inode.writer), (epoch, one.client.session.client_id));
        let other = Open {
            file: Some(FileRef::Id(id)),
            session: two.client.session.clone(),
            mode: OpenMode::Write.into(),
            ..Open::default()
        };
        let (status, error) = refused(two.client.ask(&other).await);
        assert_eq!((status, error.detail), (Status::LeaseHeld, one.client.session.client_id));

        // Who does not hold it changes no size, however it asks.
        assert_eq!(two.resize("f", 5, 0, false).await, Err(Status::LeaseHeld));
        assert_eq!(two.resize("f", 5, epoch, false).await, Err(Status::StaleEpoch));
        assert_eq!(two.resize("f", 5, epoch, true).await, Err(Status::StaleEpoch));
        assert_eq!(one.resize("f", 5, epoch + 1, false).await, Err(Status::StaleEpoch));
        let chmod = SetInode { mode: Some(0o600), ..two.change(id) };
        assert_eq!(two.ask(&chmod).await.expect("a mode is nobody's").inode.mode, 0o600);

        // It grows with its chunks, in one trip; a report that comes late takes nothing away.
        let (session, indices) = (one.client.session.clone(), vec![0, 2]);
        let grow_to = (2 << 26) + 10;
        let grow = AllocateChunks { session, file_id: id, epoch, indices, grow_to };
        let map = one.client.connection.ask(&grow, soon()).await.expect("allocated");
        assert_eq!(map.chunks.len(), 2);
        let grown = one.walk("f").await.expect("there");
        assert_eq!((grown.size, grown.allocated_bytes), (grow_to, 2 << 26));
        let late = one.resize("f", 100, epoch, true).await.expect("absorbed");
        assert_eq!((late.size, late.mtime_ns), (grow_to, grown.mtime_ns));
        let more = one.resize("f", grow_to + 1, epoch, true).await.expect("grown");
        assert_eq!((more.size, more.mtime_ns), (grow_to + 1, one.clock.get()));
        let again = AllocateChunks { grow_to: grow_to + 9, ..grow };
        one.client.connection.ask(&again, soon()).await.expect("only the size");
        assert_eq!(one.walk("f").await.expect("there").size, grow_to + 9);

        // Cut in the middle of a chunk: the writer zeroes the rest. What lies beyond goes.
        let cut = one.resize("f", 10, epoch, false).await.expect("cut");
        assert_eq!((cut.size, cut.allocated_bytes), (10, 4096));
        let chunks = Stat { file: Some(FileRef::Id(id)) };
        assert_eq!(one.ask(&chunks).await.map(|reply| reply.info.chunks), Ok(1));
        one.client.release(&open, true).await.expect("released");
        assert_eq!(two.resize("f", 5, 0, false).await, Err(Status::Invalid), "it would cut a chunk in two");
        assert_eq!(two.resize("f", 0, 0, false).await.map(|inode| inode.allocated_bytes), Ok(0));
        world.stop().await;
    });
}

#[test]
fn c9_an_unlinked_file_lives_until_its_last_lease_ends() {
    test(async {
        let world = World::calm().await;
        let mount = Mount::new(&world, 1).await;
        let call = mount.make_request("f", FILE).await.expect("a parent");
        let made = mount.ask(&MakeNode { open: true, ..call }).await.expect("made");
        let open = made.opened.expect("opened");
        mount.make("g", FILE).await.expect("made");
        // Replaced, which is another way to lose its name.
        let other = mount.rename("g", "f", RenameMode::Replace).await.expect("renamed").expect("replaced");
        assert_eq!((other.id, other.nlink, other.gone), (made.inode.id, 0, false));
        let id = made.inode.id;
        let orphan = mount.ask(&GetInode { id }).await.expect("it lives").inode;
        assert_eq!((orphan.nlink, orphan.ctime_ns), (0, mount.clock.get()));
        let session = mount.client.session.clone();
        let back = Link { session, id, parent: 0, name: b"back".to_vec(), now_ns: 1 };
        assert_eq!(mount.ask(&back).await, Err(Status::NotFound), "nothing brings it back");
        let size = Some(SizeChange { size: 77, epoch: open.epoch, grow_only: true });
        let grown = mount.ask(&SetInode { size, ..mount.change(id) }).await.expect("still written");
        assert_eq!(grown.inode.size, 77);
        world.stop().await;
        world.run().await;
        let restarted = Mount::new(&world, 9).await;
        assert_eq!(restarted.ask(&GetInode { id }).await.map(|reply| reply.inode.size), Ok(77));
        let release = wire::lease::Release {
            session: mount.client.session.clone(),
            file_id: id,
            epoch: open.epoch,
            clean: true,
        };
        restarted.ask(&release).await.expect("released");
        assert_eq!(restarted.ask(&GetInode { id }).await, Err(Status::Gone));
        world.stop().await;
    });
}

#[test]
fn c11_changes_that_are_repeated_are_carried_out_once() {
    test(async {
        let world = World::calm().await;
        let mount = Mount::new(&world, 1).await;
        let again = mount.client.session.clone();
        let call = mount.make_request("f", FILE).await.expect("a parent");
        let call = MakeNode { open: true, ..call };
        let first = mount.client.connection.ask_as(1, &call, soon()).await.expect("made");
        let unlink = Unlink {
            session: again,
            parent: 0,
            name: b"f".to_vec(),
            what: UnlinkWhat::Any.into(),
            now_ns: 5,
        };
        // After a restart, over another connection.
        world.stop().await;
        world.run().await;
        let connection = world.connect(wire::hello::Role::Client).await;
        let second = connection.ask_as(1, &call, soon()).await.expect("the same answer");
        assert_eq!(first, second);
        assert_eq!(refused(connection.ask_as(2, &call, soon()).await).0, Status::AlreadyExists);
        let gone = connection.ask_as(3, &unlink, soon()).await.expect("unlinked");
        assert_eq!(connection.ask_as(3, &unlink, soon()).await.expect("the same answer"), gone);
        assert_eq!(refused(connection.ask_as(4, &unlink, soon()).await).0, Status::NotFound);
        world.stop().await;
    });
}

#[test]
fn of_two_clients_that_make_one_name_one_makes_it() {
    test(async {
        let world = World::calm().await;
        let (one, two) = (Rc::new(Mount::new(&world, 1).await), Rc::new(Mount::new(&world, 2).await));
        let mut made = [0, 0];
        for number in 0..100 {
            let name = format!("n{number}");
            let open = |mount: &Rc<Mount>| {
                let (mount, name) = (Rc::clone(mount), name.clone());
                rt::spawn(async move {
                    let call = mount.make_request(&name, FILE).await.expect("a parent");
                    mount.ask(&MakeNode { open: true, exclusive: number % 2 == 0, ..call }).await
                })
            };
            let answers = both(open(&one), open(&two)).await;
            let won = [&answers.0, &answers.1]
                .map(|answer| answer.as_ref().is_ok_and(|made| made.created && made.opened.is_some()));
            assert_eq!(won.iter().filter(|won| **won).count(), 1, "{answers:?}");
            let lost = if won[0] { &answers.1 } else { &answers.0 };
            match lost {
                Err(status) => assert_eq!((*status, number % 2), (Status::AlreadyExists, 0)),
                Ok(there) => assert!(number % 2 == 1 && !there.created && there.opened.is_none()),
            }
            made[usize::from(won[1])] += 1;
        }
        // Renames that would make a circle together: one is refused.
        for number in 0..20 {
            let (a, b) = (format!("a{number}"), format!("b{number}"));
            one.make(&a, DIR).await.expect("made");
            one.make(&b, DIR).await.expect("made");
            let rename = |mount: &Rc<Mount>, from: &str, to: &str| {
                let (mount, from, to) = (Rc::clone(mount), from.to_owned(), format!("{to}/in"));
                rt::spawn(async move { mount.rename(&from, &to, RenameMode::Replace).await })
            };
            let answers = both(rename(&one, &a, &b), rename(&two, &b, &a)).await;
            assert!(answers.0.is_ok() != answers.1.is_ok(), "{answers:?}");
        }
        world.stop().await;
    });
}

#[test]
fn a_large_directory_comes_in_pages_that_changes_do_not_disturb() {
    const ENTRIES: usize = 100_000;
    const AT_ONCE: usize = 500;
    test(async {
        let world = World::calm().await;
        let mount = Mount::new(&world, 1).await;
        let parent = mount.make("d", DIR).await.expect("made").inode.id;
        let call = mount.make_request("d/x", FILE).await.expect("a parent");
        let name = |number: usize| format!("{:05}-{}", number * 7919 % ENTRIES, "n".repeat(number % 40));
        for first in (0..ENTRIES).step_by(AT_ONCE) {
            let calls: Vec<MakeNode> = (first..first + AT_ONCE)
                .map(|number| MakeNode { name: name(number).into(), ..call.clone() })
                .collect();
            let ask = |call: MakeNode| {
                let connection = mount.client.connection.clone();
                rt::spawn(async move { connection.ask(&call, soon()).await })
            };
            for made in calls.into_iter().map(ask).collect::<Vec<_>>() {
                made.await.expect("it ends").expect("made");
            }
        }
        let mut expected: Vec<String> = (0..ENTRIES).map(name).collect();
        expected.sort_unstable();
        let began = rt::time::now();
        let (mut seen, mut pages, mut after) = (Vec::new(), 0, Vec::new());
        loop {
            let page = mount.ask(&ReadDir { id: parent, after, limit: 0 }).await.expect("a page");
            assert!(page.entries.iter().all(|entry| entry.inode.kind() == FILE && entry.inode.nlink == 1));
            seen.extend(page.entries.into_iter().map(|entry| String::from_utf8(entry.name).expect("text")));
            pages += 1;
            after = seen.last().expect("no page is empty").clone().into_bytes();
            if !page.more {
                break;
            }
            if pages % 5 == 0 {
                // The name the cursor stands on goes, and names come before and behind it.
                let last = seen.last().expect("there").clone();
                mount.unlink(&format!("d/{last}"), UnlinkWhat::Any).await.expect("unlinked");
                mount.make(&format!("d/!{pages}"), FILE).await.expect("made");
                mount.make(&format!("d/~{pages}"), FILE).await.expect("made");
            }
        }
        let took = began.elapsed();
        println!("{ENTRIES} entries in {pages} pages: {took:?}");
        seen.retain(|name| !name.starts_with('~'));
        assert!(seen == expected, "each of those that were there the whole time, once");
        assert!(pages <= ENTRIES / 2000 + 2, "{pages}");
        assert!(took.as_secs() < 5, "{took:?}");
        world.stop().await;
    });
}

#[test]
fn names_that_are_no_text_are_shown_and_found_by_path() {
    test(async {
        let world = World::calm().await;
        let mount = Mount::new(&world, 1).await;
        for name in [&b"caf\xe9"[..], b"\xff", "caf\u{e9}".as_bytes(), b"a"] {
            let call = mount.make_request("x", FILE).await.expect("a parent");
            mount.ask(&MakeNode { name: name.to_vec(), ..call }).await.expect("made");
        }
        mount.make("l", LINK).await.expect("made");
        // Page by page, each name leads to the next.
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = mount.ask(&List { path: "/".into(), after, limit: 1 }).await.expect("listed");
            seen.extend(page.entries.into_iter().map(|entry| (entry.name.clone(), entry.kind())));
            after = seen.last().expect("no page is empty").0.clone();
            if !page.more {
                break;
            }
        }
        let shown = ["a", "caf\u{e9}", "caf\u{fffd}e9", "l", "\u{fffd}ff"];
        assert_eq!(seen.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), shown);
        assert_eq!((seen[2].1, seen[3].1), (FILE, LINK));
        let path = |path: &str| wire::namespace::Remove { path: path.into(), recursive: false };
        mount.ask(&path("/caf\u{fffd}e9")).await.expect("removed");
        assert_eq!(mount.ask(&Lookup { parent: 0, name: b"caf\xe9".to_vec() }).await, Err(Status::NotFound));
        let stat = mount.ask(&Stat { file: Some(FileRef::Path("/l".into())) }).await.expect("there").info;
        assert_eq!((stat.kind(), stat.size, stat.chunk_size), (LINK, 5, 0));
        let open = mount.client.open_request("/l", OpenMode::Read, 0);
        assert_eq!(mount.ask(&open).await.map(drop), Err(Status::Invalid));
        world.stop().await;
    });
}
