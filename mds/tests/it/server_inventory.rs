//! What chunk servers have is compared with the maps (C9); copied host ids; replicas that have no place.

use std::rc::Rc;
use std::time::Duration;

use link::Connection;
use wire::cluster::{Event, GetEvents, SetConfig};
use wire::cs::{CaughtUp, CaughtUpItem, CreateItem};
use wire::lease::OpenMode;
use wire::namespace::{Attrs, Remove, SetAttr};

use super::server_world::{FakeCs, World, file, soon, test, until};

async fn events(tool: &Connection) -> Vec<Event> {
    tool.ask(&GetEvents::default(), soon()).await.expect("events").events
}

async fn count(tool: &Connection, code: &str) -> usize {
    events(tool).await.iter().filter(|event| event.code == code).count()
}

async fn until_told(tool: &Connection, code: &str) {
    let deadline = soon();
    while count(tool, code).await == 0 {
        assert!(rt::time::now() < deadline, "{code} never came: {:?}", events(tool).await);
        rt::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Registers anew, and renews until it has told all it has.
async fn tells_all(cs: &Rc<FakeCs>) {
    let (nonce, before) = (cs.nonce.get(), cs.inventories.get());
    cs.register(nonce, nonce + 1).await.expect("registered");
    let deadline = soon();
    while cs.inventories.get() == before {
        assert!(rt::time::now() < deadline, "CS#{} is not asked for what it has", cs.id.get());
        cs.heartbeat().await.expect("renewed");
        rt::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn set(tool: &Connection, key: &str, value: &str) {
    tool.ask(&SetConfig { key: key.into(), value: Some(value.into()) }, soon()).await.expect("set");
}

/// A creation that was slow: the file was deleted, and everybody had said that nothing of it is there.
#[test]
fn c9_a_chunk_that_is_made_after_it_was_deleted_is_found_and_deleted() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(3).await;
        let client = world.client(1).await;
        set(&client.connection, "mds.wd.quarantine_tout", "0").await;
        file(&client.connection, "/f", 5).await;
        file(&client.connection, "/stays", 5).await;
        for path in ["/f", "/stays"] {
            let open = client.open(path, OpenMode::Write).await.expect("open");
            client.allocate(&open, &[0, 1, 2, 3, 4], soon()).await.expect("chunks");
            client.release(&open, true).await.expect("released");
        }
        let before = servers[0].chunks.borrow().clone();
        client.ask(&Remove { path: "/f".into(), recursive: false }).await.expect("removed");
        until("everybody has deleted it", || servers.iter().all(|cs| cs.chunks.borrow().len() == 5)).await;
        let late: Vec<CreateItem> = {
            let stays = servers[0].chunks.borrow();
            before.into_values().filter(|item| !stays.contains_key(&item.chunk_id)).collect()
        };
        servers[0].chunks.borrow_mut().extend(late.iter().map(|item| (item.chunk_id, *item)));
        tells_all(&servers[0]).await;
        until_told(&client.connection, "mds.replicas_unknown").await;
        until("what nobody knows is deleted", || servers[0].chunks.borrow().len() == 5).await;
        // Once more: nothing is new.
        tells_all(&servers[0]).await;
        tells_all(&servers[1]).await;
        assert_eq!(count(&client.connection, "mds.replicas_unknown").await, 1);
        assert_eq!(count(&client.connection, "mds.replicas_missing").await, 0);
        world.stop().await;
    });
}

#[test]
fn c9_a_replica_that_is_not_there_is_a_failed_one() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(3).await;
        let client = world.client(1).await;
        file(&client.connection, "/f", 3).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        client.allocate(&open, &[0, 1, 2], soon()).await.expect("chunks");
        let lost: Vec<u64> = servers[1].chunks.borrow().keys().copied().take(2).collect();
        servers[1].chunks.borrow_mut().retain(|chunk, _| !lost.contains(chunk));
        tells_all(&servers[1]).await;
        until_told(&client.connection, "mds.replicas_missing").await;
        let told = events(&client.connection).await;
        let told: Vec<&Event> = told.iter().filter(|event| event.code == "mds.replicas_missing").collect();
        assert_eq!(told.len(), 1, "one event for all of them");
        assert!(told[0].message.contains("CS#1026 does not have 2 replicas"), "{}", told[0].message);
        assert_eq!(servers[1].chunks.borrow().len(), 1, "what is there stays");
        world.stop().await;
    });
}

#[test]
fn copied_host_ids_are_told_of_once() {
    test(async {
        let world = World::calm().await;
        let tool = world.tool().await;
        let first = FakeCs::new(&world, 1);
        first.join().await;
        let register = async |number: u8, boot: u8, address: &str| {
            let cs = FakeCs::new(&world, number);
            cs.boot.set(boot);
            let connection = cs.connect().await;
            let mut claim = cs.request(0, 1);
            claim.host_id = "host1".into();
            claim.addresses = vec![address.into()];
            connection.ask(&claim, soon()).await.expect("registered");
            cs
        };
        // Another disk of the same machine; and a machine that has rebooted under its neighbour's eyes.
        let beside = register(2, 1, "127.0.0.1:3002").await;
        let rebooted = register(3, 9, "127.0.0.1:3003").await;
        let copied = register(4, 9, "10.0.0.4:3004").await;
        until_told(&tool, "mds.host_id_copied").await;
        let told = events(&tool).await;
        let told = told.iter().find(|event| event.code == "mds.host_id_copied").expect("it was there");
        assert!(told.message.contains("/etc/vstorage/host_id"), "{}", told.message);
        assert!(told.message.contains("CS#1028 at 10.0.0.4:3004"), "{}", told.message);
        let mut again = copied.request(1, 2);
        again.host_id = "host1".into();
        again.addresses = vec!["10.0.0.4:3004".into()];
        copied.connect().await.ask(&again, soon()).await.expect("registered");
        tool.ask(&GetEvents::default(), soon()).await.expect("events");
        // What follows a registration has come by the time that a later command is answered.
        set(&tool, "gen.lease_term", "61").await;
        assert_eq!(count(&tool, "mds.host_id_copied").await, 1);
        drop((beside, rebooted));
        world.stop().await;
    });
}

#[test]
fn replicas_without_a_place_are_told_of_once_and_when_there_is_one() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(2).await;
        let client = world.client(1).await;
        let tool = &client.connection;
        file(tool, "/f", 2).await;
        let replicas = |normal| SetAttr {
            path: "/f".into(),
            recursive: false,
            attrs: Attrs { replicas: Some(normal), replicas_min: Some(1), ..Attrs::default() },
        };
        tool.ask(&replicas(2), soon()).await.expect("set");
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        client.allocate(&open, &[0, 1], soon()).await.expect("chunks");
        tool.ask(&replicas(3), soon()).await.expect("set");
        until_told(tool, "mds.no_place").await;
        let told = events(tool).await;
        let told = told.iter().find(|event| event.code == "mds.no_place").expect("it was there");
        assert!(told.message.starts_with("2 chunks have no place"), "{}", told.message);
        assert!(told.message.contains("'/f', which needs 1 more"), "{}", told.message);
        let third = FakeCs::new(&world, 3);
        third.join().await;
        until_told(tool, "mds.replication_started").await;
        until_told(tool, "mds.places_found").await;
        let caught_up = || -> Vec<CaughtUpItem> {
            let copies = third.copies.borrow();
            let items = copies.iter().flat_map(|order| &order.items);
            items
                .map(|item| CaughtUpItem {
                    chunk_id: item.chunk_id,
                    version: item.version,
                    status: wire::Status::Ok.code().into(),
                    copied_bytes: 0,
                    lost_blocks: 0,
                })
                .collect()
        };
        until("both are to be filled", || caught_up().len() >= 2).await;
        assert_eq!(count(tool, "mds.replication_completed").await, 0);
        let (cs_id, session, items) = (third.id.get(), third.session.get(), caught_up());
        let connection = third.connection.borrow().clone().expect("connected");
        connection.ask(&CaughtUp { cs_id, session, items }, soon()).await.expect("told");
        until_told(tool, "mds.replication_completed").await;
        for code in ["mds.no_place", "mds.places_found", "mds.replication_started"] {
            assert_eq!(count(tool, code).await, 1, "{code}");
        }
        drop(servers);
        world.stop().await;
    });
}
