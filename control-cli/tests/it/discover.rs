//! What the domain name system says of clusters.

use wire::namespace::{List, ListReply};

use crate::fake_mds::{FakeMds, run};
use crate::host::Host;
use crate::name_server::{Manner, NameServer, service, text};

fn host(server: &NameServer) -> Host {
    let host = Host::new();
    server.serve(&host);
    host
}

/// Lines of the form `DD-MM-YY HH:MM:SS.mmm Discovering using ...`, without their times.
fn attempts(stderr: &str) -> Vec<&str> {
    stderr
        .lines()
        .map(|line| {
            let (time, rest) = line.split_at_checked(22).expect("a line with its time");
            let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            assert_eq!(shape, "00-00-00 00:00:00.000 ", "{line}");
            rest.strip_prefix("Discovering using ").expect(line)
        })
        .collect()
}

#[test]
fn clusters_are_found_as_the_guide_shows() {
    let server = NameServer::start(
        Manner::Closed,
        vec![
            text("pstorage_clusters", &["stor3,stor1", "stor2"]),
            text("pstorage_clusters", &["stor1"]),
            service("_pstorage._tcp.stor9", 0, "s1.stor.test", 2510),
        ],
    );
    let ended = host(&server).run(&["discover"]);
    assert_eq!(ended.done(), "stor1\nstor2\nstor3\n");
    let [txt, zone, zeroconf] = &attempts(&ended.stderr)[..] else { panic!("{ended:?}") };
    assert_eq!(*txt, "DNS TXT records: OK");
    assert!(zone.starts_with("DNS zone transfer: FAIL (name server 127.0.0.1:"), "{zone}");
    assert!(zone.ends_with(" answers Refused)"), "{zone}");
    assert_eq!(*zeroconf, "Zeroconf: not supported");
}

#[test]
fn a_zone_names_clusters_by_their_servers() {
    let server = NameServer::start(
        Manner::Open,
        vec![
            service("_pstorage._tcp.stor1", 0, "s1.stor.test", 2510),
            service("_pstorage._tcp.stor1", 0, "s2.stor.test", 2510),
            service("_pstorage._tcp.stor2", 0, "s2.stor.test", 4110),
            service("_pstorage._tcp.stor3", 0, "", 0),
            service("_ldap._tcp", 0, "s2.stor.test", 389),
            text("pstorage_clusters", &["stor2"]),
        ],
    );
    let found = host(&server).run(&["discover", "--json"]).json();
    let clusters = serde_json::json!([
        { "cluster": "stor1", "by": ["dns-zone"] },
        { "cluster": "stor2", "by": ["dns-txt", "dns-zone"] },
    ]);
    assert_eq!(found["clusters"], clusters);
    assert_eq!(found["domains"], serde_json::json!(["stor.test"]));
    let results: Vec<_> = found["attempts"].as_array().unwrap().iter().map(|one| &one["result"]).collect();
    assert_eq!(results, ["OK", "OK", "not supported"]);
    assert!(found["attempts"][0]["at_ms"].as_u64() > Some(1_700_000_000_000));
}

#[test]
fn servers_of_a_cluster_come_in_their_order() {
    let server = NameServer::start(
        Manner::Long,
        vec![
            service("_pstorage._tcp.stor1", 7, "s2.stor.test", 4110),
            service("_pstorage._tcp.stor1", 0, "s1.stor.test", 2510),
            service("_pstorage._tcp.stor1", 7, "s2.stor.test", 4110),
            service("_pstorage._tcp.stor1", 8, "s3.stor.test", 0),
        ],
    );
    let host = host(&server);
    let ended = host.run(&["-c", "stor1", "discover"]);
    assert_eq!(ended.done(), "s1.stor.test:2510\ns2.stor.test:4110\n");
    assert_eq!((server.datagrams(), server.connections()), (1, 1), "the answer was too long for a datagram");
    let found = host.run(&["-c", "stor1", "discover", "--json"]).json();
    assert_eq!(found[1], serde_json::json!({ "host": "s2.stor.test", "port": 4110 }));
    let ended = host.run(&["-c", "stor2", "discover"]);
    let text = ended.failed(1);
    assert!(text.contains("'stor2': there is no DNS record of _pstorage._tcp.stor2 in stor.test"), "{text}");
}

#[test]
fn nothing_there_is_no_failure() {
    let server = NameServer::start(Manner::Open, Vec::new());
    let ended = host(&server).run(&["discover"]);
    assert_eq!(ended.done(), "");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(attempts(&lines[..3].join("\n"))[..2], ["DNS TXT records: OK", "DNS zone transfer: OK"]);
    assert!(lines[3].starts_with("no DNS record tells of a cluster"), "{lines:?}");
}

#[test]
fn who_says_nothing_is_asked_again_and_then_left() {
    let server = NameServer::start(Manner::Silent, Vec::new());
    let ended = host(&server).run(&["discover"]);
    ended.failed(1);
    assert!(ended.stderr.contains("TXT records: FAIL (name server 127.0.0.1:"), "{ended:?}");
    assert_eq!(ended.stderr.matches(": no answer)").count(), 2, "{ended:?}");
    assert_eq!((server.datagrams(), server.connections()), (2, 1));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let server = NameServer::start(Manner::Garbage, Vec::new());
    let ended = host(&server).run(&["discover"]);
    ended.failed(1);
    assert_eq!(ended.stderr.matches(": its answer is malformed)").count(), 2, "{ended:?}");
    let server = NameServer::start(
        Manner::Broken,
        vec![service("_pstorage._tcp.stor1", 0, "s1.stor.test", 2510), text("pstorage_clusters", &["stor2"])],
    );
    let ended = host(&server).run(&["discover"]);
    assert_eq!(ended.done(), "stor2\n", "half a zone tells nothing");
    assert!(ended.stderr.contains("zone transfer: FAIL (name server 127.0.0.1:"), "{ended:?}");
}

#[test]
fn without_a_name_server_there_is_nobody_to_ask() {
    let ended = Host::new().run(&["discover"]);
    let text = ended.stderr.as_str();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert_eq!(text.matches("FAIL (no name server is known by ").count(), 2, "{text}");
    assert!(text.contains("resolv.conf"), "{text}");
}

#[test]
fn without_a_list_metadata_servers_are_those_of_the_records() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<List>(&ListReply::default());
        let list = mds.host.cluster_file("stor1", "bs.list");
        let port =
            std::fs::read_to_string(&list).unwrap().trim().rsplit_once(':').unwrap().1.parse().unwrap();
        std::fs::remove_file(&list).unwrap();
        let text = mds.vstorage(&["ls"]).await.failed(1).to_owned();
        assert!(text.contains("has no list") && text.contains("no name server is known"), "{text}");
        let server =
            NameServer::start(Manner::Closed, vec![service("_pstorage._tcp.stor1", 0, "localhost", port)]);
        server.serve(&mds.host);
        assert_eq!(mds.vstorage(&["ls"]).await.done(), "");
        assert_eq!(mds.seen::<List>().len(), 1);
        // The list comes first.
        std::fs::write(&list, "127.0.0.1:1\n").unwrap();
        let asked = server.datagrams();
        let text = mds.vstorage(&["--timeout", "1", "ls"]).await.failed(1).to_owned();
        assert!(text.contains("bs.list") && !text.contains("localhost"), "{text}");
        assert_eq!(server.datagrams(), asked);
        std::fs::remove_file(&list).unwrap();
        let server =
            NameServer::start(Manner::Closed, vec![service("_pstorage._tcp.stor1", 0, "localhost", 1)]);
        server.serve(&mds.host);
        let text = mds.vstorage(&["--timeout", "1", "ls"]).await.failed(1).to_owned();
        assert!(text.contains("and the addresses in DNS: localhost:1"), "{text}");
    });
}
