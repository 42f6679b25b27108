//! Names, sizes, attributes; idempotence; what survives a restart.

use link::Connection;
use wire::hello::Role;
use wire::namespace::{
    Attrs, Create, FailureDomain, FileInfo, FileKind, FileRef, GetAttr, List, Remove, Rename, Resize,
    SetAttr, Stat,
};
use wire::{Call, Status};

use super::server_world::{World, file, refused, soon, test};

fn create(path: &str, kind: FileKind, size: u64) -> Create {
    Create { path: path.into(), kind: kind.into(), size, attrs: Attrs::default(), mode: 0o640 }
}

async fn stat(connection: &Connection, path: &str) -> FileInfo {
    let file = Some(FileRef::Path(path.into()));
    connection.ask(&Stat { file }, soon()).await.expect("it is there").info
}

async fn status<C: Call>(connection: &Connection, call: &C) -> Status
where
    C::Reply: std::fmt::Debug,
{
    refused(connection.ask(call, soon()).await).0
}

#[test]
fn files_and_directories_come_and_go() {
    test(async {
        let world = World::calm().await;
        let tool = world.tool().await;
        let made = tool.ask(&create("/vms", FileKind::Directory, 0), soon()).await.expect("made").info;
        assert_eq!((made.kind(), made.path.as_str(), made.mode), (FileKind::Directory, "/vms", 0o640));
        let disk = tool.ask(&create("/vms/disk1", FileKind::File, 5 << 30), soon()).await.expect("made").info;
        assert_eq!((disk.kind(), disk.size, disk.chunk_size), (FileKind::File, 5 << 30, 64 << 20));
        assert_eq!((disk.attrs.replicas, disk.attrs.encoding.as_deref()), (Some(1), Some("")));
        assert_eq!(stat(&tool, "/vms/disk1").await, disk);
        let by_id =
            tool.ask(&Stat { file: Some(FileRef::Id(disk.file_id)) }, soon()).await.expect("there").info;
        assert_eq!(by_id, disk);

        let list = |path: &str, after: &str, limit| List { path: path.into(), after: after.into(), limit };
        for name in ["a", "b", "c"] {
            tool.ask(&create(&format!("/vms/{name}"), FileKind::File, 0), soon()).await.expect("made");
        }
        let page = tool.ask(&list("/vms", "", 2), soon()).await.expect("listed");
        assert_eq!(page.entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(page.more);
        let rest = tool.ask(&list("/vms", "b", 0), soon()).await.expect("listed");
        assert_eq!(rest.entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["c", "disk1"]);
        assert!(!rest.more && rest.entries[1].size == 5 << 30);

        let rename = |from: &str, to: &str| Rename { from: from.into(), to: to.into() };
        tool.ask(&rename("/vms/disk1", "/vms/disk2"), soon()).await.expect("renamed");
        assert_eq!(stat(&tool, "/vms/disk2").await.file_id, disk.file_id);
        assert_eq!(status(&tool, &rename("/vms/a", "/vms/b")).await, Status::AlreadyExists);

        let resize = |size, allow_shrink| Resize {
            file: Some(FileRef::Path("/vms/disk2".into())),
            size,
            allow_shrink,
        };
        assert_eq!(tool.ask(&resize(6 << 30, false), soon()).await.expect("grown").info.size, 6 << 30);
        assert_eq!(status(&tool, &resize(1 << 30, false)).await, Status::Invalid);
        assert_eq!(tool.ask(&resize(1 << 30, true), soon()).await.expect("shrunk").info.size, 1 << 30);

        let remove = |path: &str, recursive| Remove { path: path.into(), recursive };
        assert_eq!(status(&tool, &remove("/vms", false)).await, Status::NotEmpty);
        tool.ask(&remove("/vms", true), soon()).await.expect("removed");
        assert_eq!(status(&tool, &list("/vms", "", 0)).await, Status::NotFound);
        world.stop().await;
    });
}

#[test]
fn attributes_are_inherited_and_changed() {
    test(async {
        let world = World::calm().await;
        let tool = world.tool().await;
        let set = |path: &str, recursive, attrs| SetAttr { path: path.into(), recursive, attrs };
        let three = Attrs {
            replicas: Some(3),
            failure_domain: Some(FailureDomain::Disk.into()),
            tier: Some(2),
            ..Attrs::default()
        };
        assert_eq!(tool.ask(&set("/", false, three), soon()).await.expect("set").changed, 1);
        let attrs = Attrs { replicas: Some(2), replicas_min: Some(2), ..Attrs::default() };
        let dir = Create { attrs, ..create("/two", FileKind::Directory, 0) };
        tool.ask(&dir, soon()).await.expect("made");
        tool.ask(&create("/two/f", FileKind::File, 1), soon()).await.expect("made");
        let get = |path: &str| GetAttr { path: path.into() };
        let of = tool.ask(&get("/two"), soon()).await.expect("there");
        assert_eq!((of.explicit.replicas, of.explicit.tier), (Some(2), None));
        assert_eq!(
            (of.effective.replicas, of.effective.replicas_min, of.effective.tier),
            (Some(2), Some(2), Some(2))
        );
        let of = tool.ask(&get("/two/f"), soon()).await.expect("there");
        assert_eq!((of.effective.replicas, of.effective.failure_domain()), (Some(2), FailureDomain::Disk));

        assert_eq!(status(&tool, &set("/two", false, Attrs::default())).await, Status::Invalid);
        let encoding = Attrs { encoding: Some("5+2".into()), ..Attrs::default() };
        assert_eq!(status(&tool, &set("/two", false, encoding.clone())).await, Status::Unsupported);
        let bad = Create { attrs: encoding, ..create("/three", FileKind::Directory, 0) };
        assert_eq!(status(&tool, &bad).await, Status::Unsupported);
        assert_eq!(status(&tool, &get("/three")).await, Status::NotFound, "a refusal leaves nothing");
        world.stop().await;
    });
}

#[test]
fn bad_names_are_refused_with_a_reason() {
    test(async {
        let world = World::calm().await;
        let tool = world.tool().await;
        tool.ask(&create("/f", FileKind::File, 0), soon()).await.expect("made");
        let table = [
            (create("", FileKind::File, 0), Status::Invalid),
            (create("f", FileKind::File, 0), Status::Invalid),
            (create("/../etc", FileKind::File, 0), Status::Invalid),
            (create("/a/./b", FileKind::File, 0), Status::Invalid),
            (create(&format!("/{}", "x".repeat(256)), FileKind::File, 0), Status::Invalid),
            (create(&"/x".repeat(3000), FileKind::File, 0), Status::Invalid),
            (create("/f", FileKind::File, 0), Status::AlreadyExists),
            (create("/f/g", FileKind::File, 0), Status::NotADirectory),
            (create("/no/f", FileKind::File, 0), Status::NotFound),
            (create("/big", FileKind::File, u64::MAX), Status::FileTooLarge),
            (create("/d", FileKind::Directory, 5), Status::Invalid),
            (create("/d", FileKind::Unspecified, 0), Status::Invalid),
            (Create { kind: 77, ..create("/d", FileKind::File, 0) }, Status::Invalid),
        ];
        for (call, expected) in table {
            assert_eq!(status(&tool, &call).await, expected, "{call:?}");
        }
        assert_eq!(status(&tool, &Remove { path: "/".into(), recursive: true }).await, Status::Invalid);
        assert_eq!(status(&tool, &Stat { file: None }).await, Status::Invalid);
        assert_eq!(status(&tool, &Stat { file: Some(FileRef::Id(99)) }).await, Status::NotFound);
        world.stop().await;
    });
}

#[test]
fn c12_a_request_that_is_repeated_is_carried_out_once() {
    test(async {
        let world = World::calm().await;
        let (one, two) = (world.tool().await, world.tool().await);
        let id = 1 << 40;
        let call = create("/f", FileKind::File, 7);
        let first = one.ask_as(id, &call, soon()).await.expect("made");
        // On another connection, as after a break.
        let again = two.ask_as(id, &call, soon()).await.expect("the same answer");
        assert_eq!(again.info.file_id, first.info.file_id);
        let remove = Remove { path: "/f".into(), recursive: false };
        one.ask_as(id + 1, &remove, soon()).await.expect("removed");
        two.ask_as(id + 1, &remove, soon()).await.expect("the same answer");
        // Another request, another answer; and one whose id is a mere counter is never taken for a repetition.
        assert_eq!(refused(one.ask_as(id + 2, &remove, soon()).await).0, Status::NotFound);
        one.ask_as(3, &call, soon()).await.expect("made");
        assert_eq!(refused(two.ask_as(3, &call, soon()).await).0, Status::AlreadyExists);

        let other = create("/g", FileKind::File, 7);
        let first = one.ask_as(id + 3, &other, soon()).await.expect("made");
        world.stop().await;
        world.run().await;
        let three = world.tool().await;
        let again = three.ask_as(id + 3, &other, soon()).await.expect("the same answer after a restart");
        assert_eq!(again.info.file_id, first.info.file_id);
        three.ask_as(id + 1, &remove, soon()).await.expect("the same answer after a restart");
        assert_eq!(stat(&three, "/f").await.size, 7, "and nothing was removed by it");
        world.stop().await;
    });
}

#[test]
fn what_was_answered_survives_a_restart() {
    test(async {
        let world = World::calm().await;
        let tool = world.tool().await;
        for number in 0..50 {
            file(&tool, &format!("/f{number}"), number).await;
        }
        let before = tool.ask(&List { path: "/".into(), ..List::default() }, soon()).await.expect("listed");
        for _ in 0..3 {
            world.stop().await;
            world.run().await;
        }
        let tool = world.tool().await;
        let after = tool.ask(&List { path: "/".into(), ..List::default() }, soon()).await.expect("listed");
        assert_eq!(before, after);
        assert_eq!(after.entries.len(), 50);
        world.stop().await;
    });
}

#[test]
fn chunk_servers_and_strangers_cannot_change_names() {
    test(async {
        let world = World::calm().await;
        for role in [Role::Cs, Role::Mds] {
            let peer = world.connect(role).await;
            assert_eq!(status(&peer, &create("/f", FileKind::File, 0)).await, Status::Forbidden, "{role:?}");
        }
        let client = world.connect(Role::Client).await;
        let register = wire::cs::RegisterCs { cs_uuid: vec![1; 16], ..Default::default() };
        assert_eq!(status(&client, &register).await, Status::Forbidden);
        world.stop().await;
    });
}
