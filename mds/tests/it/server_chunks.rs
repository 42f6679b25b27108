//! Chunks: placement, creation, replacement, maps, reconciling, deletion (C5, C9).

use std::collections::BTreeSet;
use std::time::Duration;

use wire::Status;
use wire::cluster::{ClusterStat, GetEvents, SetConfig};
use wire::cs::{CaughtUp, CaughtUpItem};
use wire::lease::{
    GetMap, MapReply, MemberState, OpenMode, ReconcileDone, ReportMember, Revoke, RevokeTarget,
};
use wire::namespace::{FileRef, Remove, Stat};

use super::server_world::{World, file, refused, soon, test, until, within};

fn members(map: &MapReply) -> Vec<BTreeSet<u64>> {
    map.chunks.iter().map(|chunk| chunk.members.iter().map(|member| member.cs_id).collect()).collect()
}

#[test]
fn c9_chunks_are_created_on_all_before_they_are_given_out() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(3).await;
        let client = world.client(1).await;
        let id = file(&client.connection, "/f", 100).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        assert_eq!(open.map.next_index, 16, "the rest of the file is not answered");
        let map = client.allocate(&open, &[3, 50], soon()).await.expect("allocated");
        assert_eq!(map.chunks.iter().map(|chunk| chunk.index).collect::<Vec<_>>(), [3, 50]);
        assert_eq!(members(&map), [BTreeSet::from([1025, 1026, 1027]), BTreeSet::from([1025, 1026, 1027])]);
        for chunk in &map.chunks {
            assert!(chunk.members.iter().all(|member| member.state() == MemberState::Member));
            assert!(!chunk.needs_reconcile && !chunk.blocked && chunk.version > 0);
            for cs in &servers {
                let held = cs.chunks.borrow()[&chunk.chunk_id];
                assert_eq!((held.version, held.file_id, held.size_bytes), (chunk.version, id, 64 << 10));
                assert_eq!(held.epoch, open.epoch, "born fenced (C2)");
            }
        }
        assert_eq!(map.servers.len(), 3);
        assert_eq!(
            (map.servers[0].addresses[0].as_str(), map.servers[0].boot_id.len()),
            ("127.0.0.1:3001", 16)
        );
        // Again: the same.
        assert_eq!(client.allocate(&open, &[3, 50], soon()).await.expect("there"), map);
        let get = GetMap { file_id: id, epoch: open.epoch, first_index: 0, count: 100 };
        let whole = client.ask(&get).await.expect("the map");
        assert_eq!((whole.chunks, whole.next_index), (map.chunks.clone(), 0));
        let page = client.ask(&GetMap { first_index: 4, count: 10, ..get }).await.expect("the map");
        assert!(page.chunks.is_empty() && page.servers.is_empty());
        let info = client.ask(&Stat { file: Some(FileRef::Id(id)) }).await.expect("there").info;
        assert_eq!((info.chunks, info.allocated_bytes), (2, 2 * (64 << 10)));
        let stat = client.ask(&ClusterStat {}).await.expect("the state");
        assert_eq!((stat.fs_chunks, stat.fs_replicas, stat.chunks.healthy), (2, 6, 2));
        world.stop().await;
        world.run().await;
        let tool = world.tool().await;
        let get = GetMap { first_index: 0, count: 100, ..get };
        assert_eq!(
            tool.ask(&get, soon()).await.expect("the map").chunks,
            map.chunks,
            "a restart loses nothing"
        );
        world.stop().await;
    });
}

#[test]
fn a_chunk_server_that_refuses_is_replaced() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(4).await;
        servers[1].create_status.set(Status::NoSpace);
        let client = world.client(1).await;
        file(&client.connection, "/f", 32).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        let indices: Vec<u64> = (0..32).collect();
        let map = client.allocate(&open, &indices, soon()).await.expect("allocated");
        assert!(members(&map).iter().all(|members| *members == BTreeSet::from([1025, 1027, 1028])));
        // Where it may have been created all the same, it is deleted.
        let set = SetConfig { key: "mds.wd.quarantine_tout".into(), value: Some("0".into()) };
        client.ask(&set).await.expect("set");
        until("what was given up is deleted", || !servers[1].deleted.borrow().is_empty()).await;
        world.stop().await;
    });
}

#[test]
fn c9_a_creation_that_was_refused_is_not_ordered_again_when_another_has_the_chunk() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(4).await;
        servers[1].create_status.set(Status::NoSpace);
        let client = world.client(1).await;
        file(&client.connection, "/f", 32).await;
        let indices: Vec<u64> = (0..32).collect();
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        let map = client.allocate(&open, &indices, soon()).await.expect("allocated");
        assert!(members(&map).iter().all(|members| *members == BTreeSet::from([1025, 1027, 1028])));
        servers[1].create_status.set(Status::Ok);
        // What is still wanted of it comes behind anything that would be sent again.
        rt::time::sleep(Duration::from_millis(2_500)).await;
        file(&client.connection, "/g", 32).await;
        let other = client.open("/g", OpenMode::Write).await.expect("open");
        let wanted = client.allocate(&other, &indices, soon()).await.expect("allocated");
        assert!(members(&wanted).iter().any(|members| members.contains(&1026)), "{wanted:?}");
        let made: BTreeSet<u64> = servers[1].chunks.borrow().values().map(|item| item.file_id).collect();
        assert_eq!(made, BTreeSet::from([other.file_id]), "nothing of the first file");
        world.stop().await;
    });
}

#[test]
fn a_chunk_server_that_stays_away_is_replaced() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(4).await;
        servers[2].stalled.set(true);
        let client = world.client(1).await;
        file(&client.connection, "/f", 8).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        let began = rt::time::now();
        let indices: Vec<u64> = (0..8).collect();
        let map = client.allocate(&open, &indices, within(30_000)).await.expect("allocated");
        assert!(members(&map).iter().all(|members| *members == BTreeSet::from([1025, 1026, 1028])));
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        world.stop().await;
    });
}

#[test]
fn an_allocation_waits_within_its_deadline() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(3).await;
        servers[0].stalled.set(true);
        let client = world.client(1).await;
        let id = file(&client.connection, "/f", 1).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        let began = rt::time::now();
        assert_eq!(refused(client.allocate(&open, &[0], within(2_000)).await).0, Status::Retry);
        assert!(
            began.elapsed() < Duration::from_millis(2_000),
            "the answer came in time: {:?}",
            began.elapsed()
        );
        // A chunk in the making is a hole to everybody.
        let get = GetMap { file_id: id, epoch: open.epoch, first_index: 0, count: 1 };
        assert!(client.ask(&get).await.expect("the map").chunks.is_empty());
        servers[0].go_on();
        let map = client.allocate(&open, &[0], soon()).await.expect("allocated");
        assert_eq!(map.chunks.len(), 1);
        world.stop().await;
    });
}

#[test]
fn c5_who_has_lost_the_lease_meanwhile_gets_no_map() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(3).await;
        servers[0].stalled.set(true);
        let client = std::rc::Rc::new(world.client(1).await);
        file(&client.connection, "/f", 1).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        let asking = rt::spawn({
            let client = std::rc::Rc::clone(&client);
            async move { client.allocate(&open, &[0], soon()).await }
        });
        until("the chunk is being made", || !servers[1].chunks.borrow().is_empty()).await;
        let revoke = Revoke { target: Some(RevokeTarget::Path("/f".into())) };
        world.tool().await.ask(&revoke, soon()).await.expect("revoked");
        servers[0].go_on();
        let answer = asking.await.expect("it ends");
        assert_eq!(refused(answer).0, Status::StaleEpoch);
        // The refusal may arrive before the chunk server has taken up its work again.
        until("the chunk is made all the same", || servers[0].chunks.borrow().len() == 1).await;
        world.stop().await;
    });
}

#[test]
fn without_room_nothing_is_allocated_and_the_sender_is_slowed() {
    test(async {
        let world = World::calm().await;
        world.chunk_servers(2).await;
        let client = world.client(1).await;
        file(&client.connection, "/f", 1).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        let began = rt::time::now();
        let (status, error) = refused(client.allocate(&open, &[0], soon()).await);
        assert_eq!(status, Status::NoSpace);
        assert!(error.message.contains("cannot place 3 replicas") && error.retry_after_ms > 0, "{error:?}");
        assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
        let events = client.ask(&GetEvents::default()).await.expect("events").events;
        assert!(events.iter().any(|event| event.code == "mds.alloc_failed"), "{events:?}");
        world.stop().await;
    });
}

#[test]
fn work_that_a_restart_interrupted_goes_on() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(3).await;
        let client = world.client(1).await;
        file(&client.connection, "/f", 2).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        client.allocate(&open, &[1], soon()).await.expect("allocated");
        servers[0].stalled.set(true);
        assert_eq!(refused(client.allocate(&open, &[0], within(2_000)).await).0, Status::Retry);
        world.stop().await;
        for cs in &servers {
            cs.fall_silent();
            cs.stalled.set(false);
        }
        world.run().await;
        for cs in &servers {
            cs.join().await;
        }
        let again = super::server_world::Client {
            connection: world.connect(wire::hello::Role::Client).await,
            ..client
        };
        let map = again.allocate(&open, &[0], soon()).await.expect("allocated");
        assert_eq!(map.chunks.len(), 1);
        for cs in &servers {
            assert!(cs.chunks.borrow().contains_key(&map.chunks[0].chunk_id));
        }
        world.stop().await;
    });
}

#[test]
fn c5_chunks_are_reconciled_one_by_one() {
    test(async {
        let world = World::calm().await;
        world.chunk_servers(3).await;
        let client = world.client(1).await;
        let id = file(&client.connection, "/f", 2).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        client.allocate(&open, &[0, 1], soon()).await.expect("allocated");
        client.release(&open, false).await.expect("released");
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        assert!(open.needs_reconcile);
        let done = |chunk: &wire::lease::ChunkMap, version| ReconcileDone {
            session: client.session.clone(),
            file_id: id,
            epoch: open.epoch,
            chunk_id: chunk.chunk_id,
            version,
            writes_lost: true,
        };
        let [first, second] = &open.map.chunks[..] else { panic!("two chunks") };
        let (status, error) = refused(client.ask(&done(first, first.version + 1)).await);
        assert_eq!((status, error.detail), (Status::StaleVersion, first.version));
        for _ in 0..2 {
            client.ask(&done(first, first.version)).await.expect("done");
        }
        let get = GetMap { file_id: id, epoch: open.epoch, first_index: 0, count: 2 };
        let map = client.ask(&get).await.expect("the map");
        assert_eq!(map.chunks.iter().map(|chunk| chunk.needs_reconcile).collect::<Vec<_>>(), [false, true]);
        client.ask(&done(second, second.version)).await.expect("done");
        client.release(&open, true).await.expect("released");
        assert!(!client.open("/f", OpenMode::Write).await.expect("open").needs_reconcile);
        world.stop().await;
    });
}

#[test]
fn c3_c6_a_member_that_fails_is_left_out_and_returns() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(3).await;
        let client = world.client(1).await;
        let id = file(&client.connection, "/f", 2).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        let map = client.allocate(&open, &[0, 1], soon()).await.expect("allocated");
        let chunk = &map.chunks[0];
        let report = |status: Status, cs_id| ReportMember {
            session: client.session.clone(),
            file_id: id,
            epoch: open.epoch,
            chunk_id: chunk.chunk_id,
            version: chunk.version,
            cs_id,
            status: status.code().into(),
        };
        let state_of = |map: &MapReply, cs| {
            map.chunks[0].members.iter().find(|member| member.cs_id == cs).map(|member| member.state())
        };
        let left = client.ask(&report(Status::Timeout, 1025)).await.expect("the map");
        assert_eq!(left.chunks[0].version, chunk.version + 1);
        assert_eq!(state_of(&left, 1025), Some(MemberState::Absent));
        assert!(!left.chunks[0].blocked && left.servers.len() == 3);
        // Both chunks at once, on both that remain.
        let has = |cs: &super::server_world::FakeCs, version| {
            let chunks = cs.chunks.borrow();
            map.chunks.iter().all(|chunk| chunks[&chunk.chunk_id].version == version)
        };
        until("the rest has the version", || servers[1..].iter().all(|cs| has(cs, chunk.version + 1))).await;
        assert!(has(&servers[0], chunk.version));
        // The same report again, and one about the next: nobody may leave any more.
        for cs in [1025, 1026] {
            assert_eq!(client.ask(&report(Status::Timeout, cs)).await.expect("the map"), left);
        }
        let next = ReportMember { version: chunk.version + 1, ..report(Status::Timeout, 1026) };
        assert_eq!(client.ask(&next).await.expect("the map"), left);
        // It serves all the while: after a rest it joins, and is told to copy from a member.
        until("it is told to copy", || !servers[0].copies.borrow().is_empty()).await;
        let order = servers[0].copies.borrow_mut().remove(0);
        assert!(has(&servers[0], chunk.version + 2));
        assert_eq!(order.items.len(), 2);
        assert!(
            order.items.iter().all(|item| item.version == chunk.version + 2 && !item.sources.contains(&1025))
        );
        assert!(order.items[0].sources.iter().all(|cs| order.servers.iter().any(|at| at.cs_id == *cs)));
        let done = |status: Status| CaughtUp {
            cs_id: 1025,
            session: servers[0].session.get(),
            items: order
                .items
                .iter()
                .map(|item| CaughtUpItem {
                    chunk_id: item.chunk_id,
                    version: item.version,
                    status: status.code().into(),
                    copied_bytes: 4096,
                    lost_blocks: 0,
                })
                .collect(),
        };
        let to_mds = servers[0].connection.borrow().clone().expect("connected");
        to_mds.ask(&done(Status::Timeout), soon()).await.expect("heard");
        until("it is told to copy", || !servers[0].copies.borrow().is_empty()).await;
        to_mds.ask(&done(Status::Ok), soon()).await.expect("promoted");
        let get = GetMap { file_id: id, epoch: open.epoch, first_index: 0, count: 2 };
        let now = client.ask(&get).await.expect("the map");
        assert_eq!(now.chunks[0].version, chunk.version + 3);
        assert_eq!(state_of(&now, 1025), Some(MemberState::Member));
        until("all have the version", || servers.iter().all(|cs| has(cs, chunk.version + 3))).await;
        let events = client.ask(&GetEvents::default()).await.expect("events").events;
        let codes: Vec<_> = events.iter().map(|event| event.code.as_str()).collect();
        let count = |code| codes.iter().filter(|other| **other == code).count();
        assert_eq!((count("mds.replicas_left"), count("mds.replicas_returned")), (1, 1), "{codes:?}");
        world.stop().await;
    });
}

#[test]
fn c9_a_replica_that_is_gone_is_noticed_when_its_version_is_to_change() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(3).await;
        let client = world.client(1).await;
        let id = file(&client.connection, "/f", 1).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        let map = client.allocate(&open, &[0], soon()).await.expect("allocated");
        let chunk = map.chunks[0].clone();
        servers[1].chunks.borrow_mut().clear();
        let report = ReportMember {
            session: client.session.clone(),
            file_id: id,
            epoch: open.epoch,
            chunk_id: chunk.chunk_id,
            version: chunk.version,
            cs_id: 1025,
            status: Status::Timeout.code().into(),
        };
        client.ask(&report).await.expect("the map");
        // One is away and one has lost it: not enough to leave that one out, but nobody says that all is well.
        let orders = servers[1].orders.get();
        until("it is told again", || servers[1].orders.get() > orders).await;
        let get = GetMap { file_id: id, epoch: open.epoch, first_index: 0, count: 1 };
        let now = client.ask(&get).await.expect("the map");
        let states: Vec<_> = now.chunks[0].members.iter().map(|member| member.state()).collect();
        assert!(
            states.contains(&MemberState::Absent) && !states.contains(&MemberState::Failed),
            "{states:?}"
        );
        world.stop().await;
    });
}

#[test]
fn reports_about_replicas_become_events_once() {
    test(async {
        let world = World::calm().await;
        world.chunk_servers(3).await;
        let client = world.client(1).await;
        let id = file(&client.connection, "/f", 1).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        let map = client.allocate(&open, &[0], soon()).await.expect("allocated");
        let chunk = &map.chunks[0];
        let report = |status: Status, cs_id| ReportMember {
            session: client.session.clone(),
            file_id: id,
            epoch: open.epoch,
            chunk_id: chunk.chunk_id,
            version: chunk.version,
            cs_id,
            status: status.code().into(),
        };
        for _ in 0..3 {
            let now = client.ask(&report(Status::Corrupt, 1025)).await.expect("the map");
            assert_eq!(now.chunks, map.chunks, "the rest of the replica is good");
        }
        client.ask(&report(Status::Timeout, 1026)).await.expect("nothing grave");
        client.ask(&report(Status::Corrupt, 99)).await.expect("nobody's");
        let events = client.ask(&GetEvents::default()).await.expect("events").events;
        let told: Vec<_> = events.iter().filter(|event| event.code == "cs.replica_failed").collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].message.contains("CS#1025") && !told[0].message.contains("times"), "{told:?}");
        let unknown = ReportMember { chunk_id: 7, ..report(Status::Corrupt, 1025) };
        assert_eq!(refused(client.ask(&unknown).await).0, Status::StaleVersion);
        world.stop().await;
    });
}

#[test]
fn c9_removed_chunks_are_deleted_at_once_if_everybody_is_there_and_else_after_their_quarantine() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(3).await;
        let client = world.client(1).await;
        let written = async |path: &str| {
            file(&client.connection, path, 4).await;
            let open = client.open(path, OpenMode::Write).await.expect("open");
            client.allocate(&open, &[0, 1, 2, 3], soon()).await.expect("allocated");
            client.release(&open, true).await.expect("released");
        };
        let remove = async |path: &str| {
            client.ask(&Remove { path: path.into(), recursive: false }).await.expect("removed");
        };
        let deleting = async || client.ask(&ClusterStat {}).await.expect("the state").chunks.deleting;
        written("/swift").await;
        remove("/swift").await;
        until("all are deleted", || servers.iter().all(|cs| cs.chunks.borrow().is_empty())).await;
        let deadline = soon();
        while deleting().await > 0 {
            assert!(rt::time::now() < deadline);
        }
        written("/f").await;
        servers.iter().for_each(|cs| cs.deleted.borrow_mut().clear());
        // It registers, and does not come to serve.
        servers[2].fall_silent();
        let nonce = servers[2].nonce.get();
        servers[2].register(nonce, nonce + 1).await.expect("registered");
        servers[2].die().await;
        remove("/f").await;
        assert_eq!(deleting().await, 4);
        rt::time::sleep(Duration::from_millis(300)).await;
        assert!(servers.iter().all(|cs| cs.deleted.borrow().is_empty()), "still in quarantine");
        let set = SetConfig { key: "mds.wd.quarantine_tout".into(), value: Some("0".into()) };
        client.ask(&set).await.expect("set");
        until("they are deleted", || servers[..2].iter().all(|cs| cs.chunks.borrow().is_empty())).await;
        assert_eq!(
            (deleting().await, servers[2].chunks.borrow().len()),
            (4, 4),
            "until the third one returns"
        );
        servers[2].join().await;
        until("all are deleted", || servers[2].chunks.borrow().is_empty()).await;
        let deadline = soon();
        while deleting().await > 0 {
            assert!(rt::time::now() < deadline);
        }
        world.stop().await;
    });
}
