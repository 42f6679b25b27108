//! Commands that change something.

use wire::cluster::{
    CsInfo, ListServices, ListServicesReply, RemoveAction, RemoveCs, RemoveCsReply, ServiceStatus, SetConfig,
};
use wire::hello::Empty;
use wire::lease::{Revoke, RevokeReply, RevokeTarget};
use wire::namespace::{
    Create, FailureDomain, FileInfo, FileKind, FileReply, Remove, Rename, Resize, SetAttr, SetAttrReply, Stat,
};
use wire::{ErrorBody, Status};

use crate::fake_mds::{FakeMds, run};

fn file(size: u64) -> FileReply {
    FileReply { info: FileInfo { file_id: 17, kind: FileKind::File.into(), size, ..Default::default() } }
}

#[test]
fn volumes_and_directories_are_created() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<Create>(&file(2 << 30));
        let ended = mds.vstorage(&["create", "/vm1", "--size", "2G", "replicas=3", "chunk-size=1M"]).await;
        assert_eq!(ended.done(), "created /vm1 with 2G (2147483648 bytes)\n");
        let asked = mds.seen::<Create>().remove(0);
        assert_eq!((asked.path.as_str(), asked.kind(), asked.size), ("/vm1", FileKind::File, 2 << 30));
        assert_eq!((asked.attrs.replicas, asked.attrs.replicas_min, asked.attrs.tier), (Some(3), None, None));
        assert_eq!(asked.attrs.chunk_size, Some(1 << 20));
        let json = mds.vstorage(&["create", "/vm2", "--size", "2147483648", "--json"]).await.json();
        assert_eq!(
            json,
            serde_json::json!({"path": "/vm2", "kind": "file", "file_id": 17, "size": 2_147_483_648_u64})
        );
        let ended = mds.vstorage(&["create", "--dir", "/fast", "tier=2"]).await;
        assert_eq!(ended.done(), "created directory /fast\n");
        assert_eq!(mds.seen::<Create>()[2].kind(), FileKind::Directory);
    });
}

#[test]
fn a_refusal_ends_with_1_and_is_explained() {
    run(async {
        let mds = FakeMds::start().await;
        let said = ErrorBody { message: "/vm1: already exists".into(), ..Default::default() };
        mds.refuse::<Create>(Status::AlreadyExists, &said);
        let ended = mds.vstorage(&["create", "/vm1", "--size", "2G"]).await;
        assert_eq!(ended.failed(1), "error: /vm1: already exists\n");
        let held = ErrorBody { hint: "s4".into(), detail: 2053, ..Default::default() };
        mds.refuse::<Remove>(Status::LeaseHeld, &held);
        let ended = mds.vstorage(&["rm", "/vm1"]).await;
        assert!(ended.failed(1).contains("vstorage -c stor1 revoke -C 2053"), "{ended:?}");
    });
}

#[test]
fn a_change_has_the_same_id_in_each_attempt_and_another_each_time() {
    run(async {
        let mds = FakeMds::start().await;
        mds.refuse::<Create>(Status::Retry, &ErrorBody { retry_after_ms: 10, ..Default::default() });
        mds.say::<Create>(&file(1));
        mds.vstorage(&["create", "/a", "--size", "1"]).await.done();
        mds.vstorage(&["create", "/b", "--size", "1"]).await.done();
        let ids = mds.ids::<Create>();
        assert_eq!(ids.len(), 3);
        assert_eq!(ids[0], ids[1]);
        assert!(ids[2] > ids[1] && ids[2] < link::OWN_IDS, "{ids:?}");
    });
}

#[test]
fn shrinking_must_be_meant() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<Stat>(&file(2 << 30));
        mds.say::<Resize>(&file(1 << 30));
        let ended = mds.vstorage(&["resize", "/vm1", "--size", "1G"]).await;
        assert!(
            ended.failed(1).contains("/vm1 has 2147483648 bytes") && ended.stderr.contains("add --shrink"),
            "{ended:?}"
        );
        assert_eq!(mds.seen::<Resize>().len(), 0);
        let ended = mds.vstorage(&["resize", "/vm1", "--size", "1G", "--shrink"]).await;
        assert_eq!(ended.done(), "/vm1 has 1073741824 bytes now (before: 2147483648)\n");
        assert!(mds.seen::<Resize>()[0].allow_shrink);
        mds.vstorage(&["resize", "/vm1", "--size", "3G"]).await.done();
        let asked = mds.seen::<Resize>().remove(1);
        assert_eq!((asked.size, asked.allow_shrink), (3 << 30, false));
    });
}

#[test]
fn names_are_changed_and_removed() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<Rename>(&Empty {});
        mds.say::<Remove>(&Empty {});
        assert_eq!(mds.vstorage(&["mv", "/vm1", "/archive/vm1/"]).await.done(), "");
        let asked = mds.seen::<Rename>().remove(0);
        assert_eq!((asked.from.as_str(), asked.to.as_str()), ("/vm1", "/archive/vm1"));
        assert_eq!(mds.vstorage(&["rm", "-r", "/archive", "--json"]).await.json()["path"], "/archive");
        let asked = mds.seen::<Remove>().remove(0);
        assert!(asked.recursive && asked.path == "/archive");
    });
}

#[test]
fn attributes_are_set_as_in_the_guide_misprint_included() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<SetAttr>(&SetAttrReply { changed: 4 });
        let ended = mds.vstorage(&["set-attr", "-R", "-p", "/", "replicas=3:2", "tier=1"]).await;
        assert_eq!(ended.done(), "/: changed 4 files and directories\n");
        mds.vstorage(&["set-attr", "-R", "-p", "/failure-domain=disk"]).await.done();
        let asked = mds.seen::<SetAttr>();
        assert_eq!((asked[0].path.as_str(), asked[0].recursive), ("/", true));
        assert_eq!(
            (asked[0].attrs.replicas, asked[0].attrs.replicas_min, asked[0].attrs.tier),
            (Some(3), Some(2), Some(1))
        );
        assert_eq!((asked[1].path.as_str(), asked[1].attrs.failure_domain()), ("/", FailureDomain::Disk));
        assert_eq!(asked[1].attrs.replicas, None);
    });
}

#[test]
fn parameters_are_set_up_to_the_first_refusal() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<SetConfig>(&Empty {});
        let said = ErrorBody { message: "there is no parameter 'b'".into(), ..Default::default() };
        mds.refuse::<SetConfig>(Status::NotFound, &said);
        mds.say::<SetConfig>(&Empty {});
        let ended = mds.vstorage(&["set-config", "a=1", "b=2", "c=3"]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), "a=1\n"));
        assert_eq!(ended.stderr, "error: there is no parameter 'b'\n");
        assert_eq!(mds.seen::<SetConfig>().len(), 2);
        let ended = mds.vstorage(&["set-config", "c=3", "--default", "d"]).await;
        assert_eq!(ended.done(), "c=3\nd=(default)\n");
        let asked = mds.seen::<SetConfig>();
        assert_eq!(
            (asked[2].value.as_deref(), asked[3].key.as_str(), asked[3].value.as_deref()),
            (Some("3"), "d", None)
        );
    });
}

#[test]
fn leases_are_revoked_by_file_or_client() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<Revoke>(&RevokeReply { revoked: 1 });
        assert_eq!(mds.vstorage(&["revoke", "/vm1"]).await.done(), "took 1 lease away\n");
        assert_eq!(mds.vstorage(&["revoke", "-C", "2053", "--json"]).await.json()["revoked"], 1);
        let asked = mds.seen::<Revoke>();
        assert_eq!(asked[0].target, Some(RevokeTarget::Path("/vm1".into())));
        assert_eq!(asked[1].target, Some(RevokeTarget::Client(2053)));
    });
}

#[test]
fn a_chunk_server_is_removed_stays_or_is_given_up() {
    run(async {
        let mds = FakeMds::start().await;
        let cs = |cs_id| CsInfo { cs_id, ..Default::default() };
        mds.say::<ListServices>(&ListServicesReply { cs: vec![cs(1027), cs(1028)], mds: Vec::new() });
        let reply = |status: ServiceStatus, replicas| RemoveCsReply {
            status: status.into(),
            replicas,
            bytes: replicas << 26,
        };
        mds.say::<RemoveCs>(&reply(ServiceStatus::Releasing, 40));
        let ended = mds.vstorage(&["rm-cs", "1028"]).await;
        assert_eq!(
            ended.done(),
            "CS#1028 is being removed: 40 replicas (about 2.5GB) go to other chunk servers\n"
        );
        // A wrong number: nothing is asked for the right one either.
        let ended = mds.vstorage(&["rm-cs", "1027", "1031"]).await;
        assert!(ended.failed(2).contains("no chunk server CS#1031"), "{ended:?}");
        assert_eq!(mds.seen::<RemoveCs>(), [RemoveCs { cs_id: 1028, action: RemoveAction::Release.into() }]);

        // The last answer is given again and again: the first of these comes once more.
        mds.say::<RemoveCs>(&reply(ServiceStatus::Dropped, 0));
        let ended = mds.vstorage(&["rm-cs", "--wait", "1028"]).await;
        assert!(ended.stdout.starts_with("CS#1028 is removed from the cluster"), "{ended:?}");
        assert!(ended.stderr.contains("0B of 2.5GB moved, 40 replicas left"), "{ended:?}");
        let actions: Vec<i32> = mds.seen::<RemoveCs>()[1..].iter().map(|asked| asked.action).collect();
        assert_eq!(actions, [RemoveAction::Release, RemoveAction::Unspecified].map(i32::from));
    });
}

#[test]
fn a_chunk_server_stays_after_all_or_cannot_go() {
    run(async {
        let mds = FakeMds::start().await;
        let cs = |cs_id| CsInfo { cs_id, ..Default::default() };
        mds.say::<ListServices>(&ListServicesReply { cs: vec![cs(1027), cs(1028)], mds: Vec::new() });
        let active = RemoveCsReply { status: ServiceStatus::Active.into(), replicas: 40, bytes: 40 << 26 };
        mds.say::<RemoveCs>(&active);
        assert_eq!(
            mds.vstorage(&["rm-cs", "--cancel", "1028"]).await.done(),
            "CS#1028 stays in the cluster\n"
        );
        assert_eq!(mds.vstorage(&["rm-cs", "-f", "1028", "--json"]).await.json()[0]["status"], "active");
        let actions: Vec<i32> = mds.seen::<RemoveCs>().iter().map(|asked| asked.action).collect();
        assert_eq!(actions, [RemoveAction::Cancel, RemoveAction::Force].map(i32::from));
        let ended = mds.vstorage(&["rm-cs", "--wait", "1028"]).await;
        assert!(ended.failed(1).contains("somebody has cancelled it"), "{ended:?}");
    });
}

#[test]
fn a_chunk_server_that_cannot_be_removed_says_why() {
    run(async {
        let mds = FakeMds::start().await;
        let cs = CsInfo { cs_id: 1028, ..Default::default() };
        mds.say::<ListServices>(&ListServicesReply { cs: vec![cs], mds: Vec::new() });
        let said = ErrorBody { message: "CS#1028 cannot be removed: why".into(), ..Default::default() };
        mds.refuse::<RemoveCs>(Status::Invalid, &said);
        let ended = mds.vstorage(&["rm-cs", "1028"]).await;
        assert_eq!(ended.failed(1), "error: CS#1028 cannot be removed: why\n");
    });
}
