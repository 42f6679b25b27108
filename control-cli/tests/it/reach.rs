//! Metadata servers that cannot be reached, or are not what they should be.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Duration;

use link::Roles;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};
use wire::namespace::{List, ListReply};
use wire::{ErrorBody, Status};

use crate::fake_mds::{FakeMds, authority, ended, run};
use crate::host::VSTORAGE;

#[test]
fn an_address_where_nobody_listens_is_named() {
    run(async {
        let mds = FakeMds::start().await;
        // Taken, so that nobody else listens there, and not listened at.
        let (_taken, free) = taken_port();
        mds.host.write_list("stor1", &format!("127.0.0.1:{}\n", free - 1));
        let ended = mds.vstorage(&["--timeout", "1", "ls"]).await;
        let text = ended.failed(1);
        assert!(text.contains("no metadata server of cluster 'stor1' can be reached within 1 s"), "{text}");
        assert!(text.contains(&format!("127.0.0.1:{free}: cannot connect: Connection refused")), "{text}");
        assert!(text.contains("bs.list") && text.contains("start-service mds"), "{text}");
    });
}

/// A port of the loopback that is bound without listening.
fn taken_port() -> (OwnedFd, u16) {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = SocketAddrV4::try_from(getsockname(&socket).unwrap()).unwrap();
    (socket, address.port())
}

#[test]
fn a_program_that_says_nothing_is_named() {
    run(async {
        let mds = FakeMds::start().await;
        let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = mute.local_addr().unwrap().port();
        mds.host.write_list("stor1", &format!("127.0.0.1:{}\n", port - 1));
        let ended = mds.vstorage(&["--timeout", "1", "ls"]).await;
        let text = ended.failed(1);
        assert!(text.contains(&format!("127.0.0.1:{port}: cannot connect: no answer within ")), "{text}");
    });
}

#[test]
fn a_foreign_cluster_is_refused_at_once() {
    run(async {
        let mds = FakeMds::start_of(&authority());
        // The same name, another authority.
        let ours = authority().issue("s1", "00112233", Roles::ALL).unwrap();
        ours.save(&mds.host.cluster_file("stor1", "auth_digest.key")).await.unwrap();
        let begun = rt::time::now();
        let ended = mds.vstorage(&["--timeout", "60", "ls"]).await;
        let text = ended.failed(1);
        assert!(text.contains("the peer is refused"), "{text}");
        assert!(begun.elapsed() < Duration::from_secs(30), "waiting does not help");
    });
}

#[test]
fn credentials_of_another_cluster_are_not_shown_to_anybody() {
    run(async {
        let mds = FakeMds::start().await;
        let other = link::ClusterAuthority::create("stor2", link::ClusterId::random()).unwrap();
        let other = other.issue("s1", "00112233", Roles::ALL).unwrap();
        other.save(&mds.host.cluster_file("stor1", "auth_digest.key")).await.unwrap();
        let ended = mds.vstorage(&["ls"]).await;
        assert!(
            ended.failed(1).contains("are those of cluster 'stor2'; replace them by those of 'stor1'"),
            "{ended:?}"
        );
    });
}

#[test]
fn a_server_that_does_not_answer_is_named() {
    run(async {
        let mds = FakeMds::start().await;
        mds.hold::<List>();
        let ended = mds.vstorage(&["--timeout", "1", "ls"]).await;
        let text = ended.failed(1);
        assert!(text.contains("did not answer within 1 s") && text.contains("is not known"), "{text}");
    });
}

#[test]
fn without_a_name_the_only_cluster_is_asked() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<List>(&ListReply::default());
        let command = mds.host.command(VSTORAGE, &["ls", "--json"]);
        assert_eq!(ended(command).await.done(), "[]\n");
    });
}

#[test]
fn a_busy_server_is_asked_again() {
    run(async {
        let mds = FakeMds::start().await;
        mds.refuse::<List>(Status::Retry, &ErrorBody { retry_after_ms: 10, ..Default::default() });
        mds.say::<List>(&ListReply::default());
        assert_eq!(mds.vstorage(&["ls"]).await.done(), "");
        assert_eq!(mds.seen::<List>().len(), 2);
    });
}

#[test]
fn a_name_that_cannot_be_found_keeps_nobody_from_the_others() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<List>(&ListReply::default());
        let list = mds.host.read("etc/clusters/stor1/bs.list");
        // A name that is never given out (RFC 6761).
        mds.host.write_list("stor1", &format!("s1.invalid:2510\n{list}"));
        assert_eq!(mds.vstorage(&["ls"]).await.done(), "");
        mds.host.write_list("stor1", "s1.invalid:2510\n");
        let ended = mds.vstorage(&["--timeout", "1", "ls"]).await;
        let text = ended.failed(1);
        assert!(text.contains("s1.invalid:2510: cannot find the address of s1.invalid"), "{text}");
        assert!(text.contains("no metadata server of cluster 'stor1' can be reached"), "{text}");
    });
}
