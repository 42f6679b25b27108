//! Commands that only look.

use wire::Status;
use wire::cluster::{
    ClusterHealth, ClusterStat, ClusterStatReply, ConfigEntry, CopyRate, CsInfo, Event, GetConfig,
    GetConfigReply, GetEvents, GetEventsReply, ListServices, ListServicesReply, MdsInfo, ServiceStatus,
    Severity, Space,
};
use wire::namespace::{
    Attrs, Entry, FailureDomain, FileInfo, FileKind, FileReply, GetAttr, GetAttrReply, List, ListReply, Stat,
};
use wire::session::{ClientInfo, ClientKind, ListClients, ListClientsReply};

use crate::fake_mds::{FakeMds, run};

fn entry(name: &str, kind: FileKind, size: u64) -> Entry {
    Entry { name: name.into(), kind: kind.into(), size, file_id: 17, modified_ms: 1_393_001_720_000 }
}

pub(crate) fn effective() -> Attrs {
    Attrs {
        replicas: Some(3),
        replicas_min: Some(2),
        failure_domain: Some(FailureDomain::Host.into()),
        tier: Some(0),
        encoding: None,
        chunk_size: Some(64 << 20),
    }
}

#[test]
fn a_directory_is_listed_page_by_page() {
    run(async {
        let mds = FakeMds::start().await;
        let pages = [
            vec![entry("a", FileKind::Directory, 0), entry("b", FileKind::File, 1)],
            vec![entry("c\n", FileKind::File, 2)],
        ];
        for _ in 0..3 {
            mds.say::<List>(&ListReply { entries: pages[0].clone(), more: true });
            mds.say::<List>(&ListReply { entries: pages[1].clone(), more: false });
        }
        assert_eq!(mds.vstorage(&["ls"]).await.done(), "a/\nb\nc\\n\n");
        let asked: Vec<(String, String)> =
            mds.seen::<List>().into_iter().map(|list| (list.path, list.after)).collect();
        assert_eq!(asked, [("/".into(), "".into()), ("/".into(), "b".into())]);
        let long = "\
TYPE       SIZE  MODIFIED (UTC)     NAME
directory     0  21-02-14 16:55:20  a
file          1  21-02-14 16:55:20  b
file          2  21-02-14 16:55:20  c\\n
";
        assert_eq!(mds.vstorage(&["ls", "-l", "//x/"]).await.done(), long);
        assert_eq!(mds.seen::<List>()[2].path, "/x");
        let json = mds.vstorage(&["ls", "--json"]).await.json();
        assert_eq!(
            json[2],
            serde_json::json!({"name": "c\n", "kind": "file", "size": 2, "file_id": 17, "modified_ms": 1_393_001_720_000_u64})
        );
    });
}

#[test]
fn a_file_lists_itself() {
    run(async {
        let mds = FakeMds::start().await;
        mds.refuse::<List>(Status::NotADirectory, &wire::ErrorBody::default());
        mds.say::<Stat>(&FileReply {
            info: FileInfo { size: 5, kind: FileKind::File.into(), ..Default::default() },
        });
        assert_eq!(mds.vstorage(&["ls", "/a/vm1"]).await.done(), "vm1\n");
    });
}

pub(crate) fn cluster() -> ClusterStatReply {
    let gib = 1 << 30;
    ClusterStatReply {
        name: "stor1".into(),
        health: ClusterHealth::Healthy.into(),
        space: Space {
            total_bytes: 250 * gib,
            free_bytes: 250 * gib,
            allocatable_bytes: 238 * gib,
            allocatable_total_bytes: 250 * gib,
            tier: 0,
        },
        master_id: 7,
        master_uptime_ms: 33 * 60_000,
        mds_up: 1,
        mds_total: 1,
        cs_active: 1,
        cs_total: 1,
        replicas: 1,
        replicas_min: 1,
        mds: vec![mds_info()],
        cs: vec![cs_info()],
        clients: vec![ClientInfo {
            client_id: 2053,
            host_name: "s4".into(),
            leases_write: 1,
            ..Default::default()
        }],
        copy_rate: Some(CopyRate::default()),
        ..Default::default()
    }
}

fn mds_info() -> MdsInfo {
    MdsInfo {
        mds_id: 7,
        address: "10.30.24.73:2510".into(),
        host_name: "s1".into(),
        path: "/vstorage/stor1-mds".into(),
        status: ServiceStatus::Active.into(),
        master: true,
        memory_bytes: 10 << 20,
        uptime_ms: 33 * 60_000,
        software: "0.1.0".into(),
        ..Default::default()
    }
}

pub(crate) fn cs_info() -> CsInfo {
    CsInfo {
        cs_id: 1025,
        addresses: vec!["10.30.24.74:3000".into()],
        host_name: "s2".into(),
        host_id: "00ff".into(),
        path: "/vstorage/stor1-cs".into(),
        status: ServiceStatus::Active.into(),
        flags: wire::cs::FLAG_JOURNAL | wire::cs::FLAG_CHECKSUMS,
        total_bytes: 125 << 30,
        free_bytes: 119 << 30,
        software: "0.1.0".into(),
        ..Default::default()
    }
}

pub(crate) fn event(id: u64) -> Event {
    Event {
        id,
        time_ms: 1_393_001_720_000 + id * 1000,
        sys: "JRN".into(),
        severity: Severity::Info.into(),
        code: "mds.became_master".into(),
        message: format!("MDS#{id} is now the master"),
    }
}

#[test]
fn the_cluster_is_shown() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<ClusterStat>(&cluster());
        mds.say::<GetEvents>(&GetEventsReply { events: vec![event(1), event(2)], last_id: 2 });
        let ended = mds.vstorage(&["stat"]).await;
        assert_eq!(ended.stderr, "connected to MDS#7\n");
        let text = "\
Cluster 'stor1': healthy
Space: [OK] allocatable 238GB of 250GB, free 250GB of 250GB
MDS nodes: 1 of 1, epoch uptime: 33 min
CS nodes: 1 of 1 (1 avail, 0 inactive, 0 offline)
Replication: 1 norm, 1 limit
Chunks: [OK] 0 (0%) healthy, 0 (0%) standby, 0 (0%) degraded, 0 (0%) urgent,
        0 (0%) blocked, 0 (0%) pending, 0 (0%) offline, 0 (0%) replicating,
        0 (0%) overcommitted, 0 (0%) deleting, 0 (0%) void
FS: 0B in 0 files, 0 inodes, 0 chunks, 0 chunk replicas
IO:       read 0B/s (0ops/s), write 0B/s (0ops/s)
IO total: read 0B (0ops), write 0B (0ops)
Repl IO:  read 0B/s, write 0B/s
Sync rate: 0ops/s
IO QDEPTH: 0.0 aver, 0.0 max

MDSID  STATUS  %CTIME  COMMITS  %CPU  MEM  UPTIME  HOST
M   7  avail     0.0%      0/s  0.0%  10m  33 min  s1:2510

CSID  STATUS  SPACE  AVAIL  REPLICAS  UNIQUE  IOWAIT  IOLAT(ms)  QDEPTH  HOST  FLAGS
1025  active  125GB  119GB         0       0      0%        0/0     0.0  s2    JC

CLID  LEASES  READ  WRITE  RD_OPS  WR_OPS  FSYNCS  IOLAT(ms)  HOST
2053     0/1  0B/s   0B/s  0ops/s  0ops/s  0ops/s        0/0  s4

TIME (UTC)         SYS  SEV  MESSAGE
21-02-14 16:55:21  JRN  INF  MDS#1 is now the master
21-02-14 16:55:22  JRN  INF  MDS#2 is now the master
";
        assert_eq!(ended.done(), text);
        assert!(mds.seen::<GetEvents>()[0].newest, "the latest events are wanted");
        let ended = mds.vstorage(&["stat", "--json"]).await;
        let json = ended.json();
        assert_eq!(
            (&json["cluster"], &json["cs"][0]["free_bytes"]),
            (&"stor1".into(), &(119u64 << 30).into())
        );
        assert_eq!(ended.stderr, "");
    });
}

#[test]
fn a_file_is_shown() {
    run(async {
        let mds = FakeMds::start().await;
        let info = FileInfo {
            file_id: 17,
            kind: FileKind::File.into(),
            size: 2 << 30,
            chunk_size: 64 << 20,
            attrs: effective(),
            path: "/vm1".into(),
            mode: 0o600,
            ..Default::default()
        };
        mds.say::<Stat>(&FileReply { info });
        let text = mds.vstorage(&["stat", "/vm1"]).await.done().to_owned();
        assert!(
            text.starts_with("File: '/vm1'\nType: file, id 17, mode 0600\nSize: 2147483648 bytes (2GB)\n"),
            "{text}"
        );
        assert!(
            text.ends_with("Attributes:\nchunk-size=64M\nfailure-domain=host\nreplicas=3:2\ntier=0\n"),
            "{text}"
        );
        assert_eq!(mds.vstorage(&["stat", "/vm1", "--json"]).await.json()["attributes"]["replicas"], 3);
    });
}

#[test]
fn attributes_are_shown_as_in_the_guide() {
    run(async {
        let mds = FakeMds::start().await;
        let explicit = Attrs { tier: Some(0), ..Default::default() };
        mds.say::<GetAttr>(&GetAttrReply { explicit, effective: effective() });
        let ended = mds.vstorage(&["get-attr", "-p", "/"]).await;
        assert_eq!(ended.stderr, "connected to MDS#7\n");
        let text = "File: '/'\nAttributes:\nchunk-size=64M\nfailure-domain=host\nreplicas=3:2\ntier=0\n";
        assert_eq!(ended.done(), text);
        let json = mds.vstorage(&["get-attr", "-p", "/", "--json"]).await.json();
        assert_eq!(json["explicit"], serde_json::json!({"tier": 0}));
        assert_eq!(json["effective"]["chunk_size"], 64 << 20);
    });
}

#[test]
fn parameters_are_shown() {
    run(async {
        let mds = FakeMds::start().await;
        let entry = ConfigEntry {
            key: "mds.wd.max_offline_cs".into(),
            value: "3".into(),
            default: "2".into(),
            description: "With more the cluster has failed.".into(),
        };
        mds.say::<GetConfig>(&GetConfigReply { entries: vec![entry] });
        assert_eq!(mds.vstorage(&["get-config", "mds.wd"]).await.done(), "mds.wd.max_offline_cs=3\n");
        assert_eq!(mds.seen::<GetConfig>()[0].prefix, "mds.wd");
        let long = "\
KEY                    VALUE  DEFAULT  DESCRIPTION
mds.wd.max_offline_cs  3      2        With more the cluster has failed.
";
        assert_eq!(mds.vstorage(&["get-config", "-l"]).await.done(), long);
        assert_eq!(mds.vstorage(&["get-config", "--json"]).await.json()[0]["default"], "2");
    });
}

#[test]
fn a_parameter_that_is_not_there_is_told_with_those_that_are() {
    run(async {
        let mds = FakeMds::start().await;
        let entry = |key: &str| ConfigEntry { key: key.into(), value: "3".into(), ..Default::default() };
        mds.say::<GetConfig>(&GetConfigReply::default());
        let entries =
            vec![entry("gen.lease_term"), entry("mds.alloc.fill_margin"), entry("mds.alloc.strict_tier")];
        mds.say::<GetConfig>(&GetConfigReply { entries });
        let ended = mds.vstorage(&["get-config", "mds.alloc.filling"]).await;
        let text = "error: there is no parameter whose name begins with \"mds.alloc.filling\"; there are mds.alloc.fill_margin\n";
        assert_eq!(ended.failed(1), text);
    });
}

#[test]
fn services_are_listed() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<ListServices>(&ListServicesReply { mds: vec![mds_info()], cs: vec![cs_info()] });
        let masters = "\
MDSID  STATUS  ADDRESS           HOST  VERSION  PATH
M   7  avail   10.30.24.73:2510  s1    0.1.0    /vstorage/stor1-mds
";
        let chunks = "\
CSID  STATUS  TIER  FLAGS  ADDRESS           HOST  VERSION  PATH                JOURNAL
1025  active     0  JC     10.30.24.74:3000  s2    0.1.0    /vstorage/stor1-cs
";
        assert_eq!(mds.vstorage(&["list-services", "-M"]).await.done(), masters);
        assert_eq!(mds.vstorage(&["list-services", "-C"]).await.done(), chunks);
        let both = format!("{masters}\n{chunks}");
        for args in [&["list-services"][..], &["list-services", "-a"], &["list-services", "-M", "-C"]] {
            assert_eq!(mds.vstorage(args).await.done(), both, "{args:?}");
        }
        let json = mds.vstorage(&["list-services", "-C", "--json"]).await.json();
        assert!(json.get("mds").is_none() && json["cs"][0]["cs_id"] == 1025, "{json}");
    });
}

#[test]
fn clients_are_listed_page_by_page() {
    run(async {
        let mds = FakeMds::start().await;
        let client = |client_id| ClientInfo {
            client_id,
            host_name: "s4".into(),
            kind: ClientKind::Nbd.into(),
            leases_write: 1,
            ..Default::default()
        };
        mds.say::<ListClients>(&ListClientsReply { clients: vec![client(2051), client(2052)], more: true });
        mds.say::<ListClients>(&ListClientsReply { clients: vec![client(2053)], more: false });
        let ended = mds.vstorage(&["list-clients", "--json"]).await;
        let ids: Vec<u64> =
            ended.json().as_array().unwrap().iter().map(|one| one["client_id"].as_u64().unwrap()).collect();
        assert_eq!(ids, [2051, 2052, 2053]);
        assert_eq!(mds.seen::<ListClients>().iter().map(|list| list.after).collect::<Vec<_>>(), [0, 2052]);
        let text = mds.vstorage(&["list-clients"]).await.done().to_owned();
        assert!(text.starts_with("CLID  KIND  LEASES"), "{text}");
    });
}
