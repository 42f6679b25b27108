//! Replicas are compared when they were verified, if they must be equal (C5, C7), and what differs is told once.

use std::rc::Rc;
use std::time::Duration;

use link::Connection;
use wire::cluster::{ClusterStat, Event, GetEvents};
use wire::cs::{AgreeingMembers, BlockRange, ReplicaDifference, VerifiedChunk};
use wire::lease::OpenMode;

use super::server_world::{FakeCs, World, file, soon, test, until};

async fn told(tool: &Connection) -> Vec<Event> {
    let events = tool.ask(&GetEvents::default(), soon()).await.expect("events").events;
    events.into_iter().filter(|event| event.code == "mds.replicas_differ").collect()
}

/// A server has verified a chunk, and says so.
async fn verifies(cs: &Rc<FakeCs>, chunk: VerifiedChunk) {
    cs.verified.borrow_mut().push(chunk);
    cs.heartbeat().await.expect("renewed");
}

#[test]
fn c7_one_member_compares_and_a_difference_is_told_once() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(3).await;
        let client = world.client(1).await;
        let file_id = file(&client.connection, "/f", 2).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        let map = client.allocate(&open, &[0, 1], soon()).await.expect("chunks");
        let second = map.chunks.iter().find(|entry| entry.index == 1).expect("its entry");
        let chunk = VerifiedChunk { chunk_id: second.chunk_id, file_id };
        for cs in servers.iter().rev() {
            verifies(cs, chunk).await;
        }
        let orders = |cs: &Rc<FakeCs>| cs.comparisons.borrow().len();
        until("the first one compares", || orders(&servers[0]) == 1).await;
        {
            let order = &servers[0].comparisons.borrow()[0];
            assert_eq!((order.items[0].chunk_id, order.items[0].version), (chunk.chunk_id, second.version));
            let others: Vec<u64> = servers[1..].iter().map(|cs| cs.id.get()).collect();
            assert_eq!(order.items[0].members, others);
            let addressed: Vec<u64> = order.servers.iter().map(|server| server.cs_id).collect();
            assert_eq!(addressed, others);
        }
        let ids: Vec<u64> = servers.iter().map(|cs| cs.id.get()).collect();
        let groups = [vec![ids[0], ids[2]], vec![ids[1]]].map(|cs_ids| AgreeingMembers { cs_ids });
        let difference =
            ReplicaDifference { range: BlockRange { first: 3, count: 2 }, groups: groups.into() };
        servers[0].differences.borrow_mut().push(difference);
        for round in 2..=4 {
            let deadline = soon();
            while orders(&servers[0]) < round {
                assert!(rt::time::now() < deadline, "it does not compare again");
                // Not while the one before is still under way.
                verifies(&servers[0], chunk).await;
                rt::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let deadline = soon();
        while told(&client.connection).await.is_empty() {
            assert!(rt::time::now() < deadline, "the difference is never told");
            rt::time::sleep(Duration::from_millis(10)).await;
        }
        let events = told(&client.connection).await;
        assert_eq!(events.len(), 1, "{events:?}");
        let text = &events[0].message;
        for part in [
            "Replicas of '/f' differ".to_owned(),
            format!("chunk {:#x}, 2 blocks", chunk.chunk_id),
            "bytes 77824..86016 of the file".into(),
            format!("CS#{} and CS#{} against CS#{}", ids[0], ids[2], ids[1]),
        ] {
            assert!(text.contains(&part), "{part:?} is not in {text:?}");
        }
        assert_eq!((orders(&servers[1]), orders(&servers[2])), (0, 0));
        world.stop().await;
    });
}

#[test]
fn c5_what_need_not_be_equal_is_not_compared() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(3).await;
        let client = world.client(1).await;
        let mut chunks = Vec::new();
        for path in ["/left", "/good"] {
            let file_id = file(&client.connection, path, 1).await;
            let open = client.open(path, OpenMode::Write).await.expect("open");
            let map = client.allocate(&open, &[0], soon()).await.expect("a chunk");
            chunks.push(VerifiedChunk { chunk_id: map.chunks[0].chunk_id, file_id });
            // Left without a flush: its members may differ.
            client.release(&open, path == "/good").await.expect("released");
        }
        let [left, good] = chunks[..] else { panic!("two chunks") };
        // Without checksums nothing can be said.
        servers[0].flags.set(0);
        servers[0].heartbeat().await.expect("renewed");
        let deadline = soon();
        loop {
            let stat = client.ask(&ClusterStat {}).await.expect("the state");
            if stat.cs.iter().any(|cs| cs.cs_id == servers[0].id.get() && cs.flags == 0) {
                break;
            }
            assert!(rt::time::now() < deadline, "its flags are never seen");
            rt::time::sleep(Duration::from_millis(5)).await;
        }
        for cs in &servers {
            let strange = VerifiedChunk { file_id: good.file_id + 100, ..good };
            cs.verified.borrow_mut().extend([left, strange, VerifiedChunk { chunk_id: 1, ..good }]);
            verifies(cs, good).await;
        }
        until("the one is compared", || !servers[1].comparisons.borrow().is_empty()).await;
        let order = servers[1].comparisons.borrow()[0].clone();
        assert_eq!((order.items.len(), order.items[0].chunk_id), (1, good.chunk_id));
        assert_eq!(order.items[0].members, [servers[2].id.get()]);
        let compared: Vec<_> = servers.iter().map(|cs| cs.comparisons.borrow().len()).collect();
        assert_eq!(compared, [0, 1, 0], "and nothing else");
        world.stop().await;
    });
}
