//! Chunk servers: registration, nonces, terms (C2, C10).

use std::rc::Rc;

use link::Connection;
use wire::Status;
use wire::cluster::{CsInfo, Event, GetEvents, ListServices, ServiceStatus};
use wire::cs::{FLAG_FAILED_JOURNAL, FLAG_FAILED_REPOSITORY, FLAGS_OUT_OF_SERVICE, RegisterCs};
use wire::hello::Role;
use wire::lease::OpenMode;

use super::server_world::{FakeCs, World, file, refused, soon, test, until, within};

async fn listed(tool: &Connection) -> Vec<CsInfo> {
    tool.ask(&ListServices {}, soon()).await.expect("listed").cs
}

async fn events(tool: &Connection) -> Vec<Event> {
    tool.ask(&GetEvents::default(), soon()).await.expect("events").events
}

async fn has_event(tool: &Connection, code: &str) -> bool {
    events(tool).await.iter().any(|event| event.code == code)
}

async fn noted(tool: &Connection, code: &str) -> usize {
    events(tool).await.iter().filter(|event| event.code == code).count()
}

/// Waits until a chunk server is shown so.
async fn until_shown(tool: &Connection, status: ServiceStatus) -> CsInfo {
    let deadline = soon();
    loop {
        let cs = listed(tool).await.remove(0);
        if cs.status() == status {
            return cs;
        }
        assert!(rt::time::now() < deadline, "never {status:?}: {cs:?}");
        rt::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[test]
fn new_chunk_servers_get_ids_and_are_listed() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(2).await;
        assert_eq!(servers.iter().map(|cs| cs.id.get()).collect::<Vec<_>>(), [1025, 1026]);
        let tool = world.tool().await;
        let list = tool.ask(&ListServices {}, soon()).await.expect("listed");
        assert_eq!((list.mds.len(), list.mds[0].mds_id, list.mds[0].master), (1, 1, true));
        let cs = &list.cs[1];
        assert_eq!((cs.cs_id, cs.host_id.as_str(), cs.host_name.as_str()), (1026, "host2", "host2.test"));
        assert_eq!((cs.status(), cs.path.as_str()), (ServiceStatus::Active, "/cs2"));
        assert_eq!(
            (cs.total_bytes, cs.free_bytes, cs.flags),
            (100 << 30, 90 << 30, wire::cs::FLAG_CHECKSUMS)
        );
        assert_eq!(cs.addresses, ["127.0.0.1:3002"]);
        world.stop().await;
    });
}

#[test]
fn c10_the_right_nonce_goes_on_and_a_lost_answer_is_repeated() {
    test(async {
        let world = World::calm().await;
        let cs = FakeCs::new(&world, 1);
        let first = cs.register(0, 1).await.expect("new");
        assert_eq!((first.cs_id, first.stale), (1025, false));
        // The answer is lost: the same registration again. It has no id yet.
        cs.id.set(0);
        let again = cs.register(0, 1).await.expect("repeated");
        assert_eq!(again.cs_id, 1025);
        assert_ne!(again.session, first.session);
        // What belongs to the earlier life is refused.
        cs.session.set(first.session);
        assert_eq!(refused(cs.heartbeat().await).0, Status::NotRegistered);
        cs.session.set(again.session);
        cs.heartbeat().await.expect("renewed");
        // A restart, and a loss of the connection without one.
        let restarted = cs.register(1, 2).await.expect("restarted");
        assert!(!restarted.stale);
        cs.heartbeat().await.expect("renewed");
        let reconnected = cs.register(2, 2).await.expect("the same run");
        assert!(!reconnected.stale);
        cs.heartbeat().await.expect("renewed");
        assert_eq!(listed(&world.tool().await).await.len(), 1);
        world.stop().await;
    });
}

#[test]
fn c10_a_wrong_nonce_makes_stale_but_not_while_the_original_serves() {
    test(async {
        let world = World::start(60_000, 600).await;
        let tool = world.tool().await;
        let cs = FakeCs::new(&world, 1);
        cs.register(0, 1).await.expect("new");
        cs.heartbeat().await.expect("renewed");
        cs.register(1, 2).await.expect("restarted");
        cs.heartbeat().await.expect("renewed");
        // A copy of the directory, from before.
        let copy = FakeCs::new(&world, 1);
        copy.id.set(1025);
        let (status, error) = refused(copy.register(1, 9).await);
        assert_eq!(status, Status::Retry);
        assert!(error.message.contains("another instance") && error.retry_after_ms > 0, "{error:?}");
        cs.heartbeat().await.expect("the original goes on");
        // The original ends, and its term runs out.
        until_shown(&tool, ServiceStatus::Inactive).await;
        let reply = copy.register(1, 9).await.expect("registered as stale");
        assert!(reply.stale && reply.more_fences, "it must never serve");
        assert!(has_event(&tool, "mds.cs_stale").await);
        assert_eq!(refused(copy.heartbeat().await).0, Status::Forbidden);
        let (status, error) = refused(copy.register(9, 10).await);
        assert_eq!(status, Status::Forbidden);
        assert!(error.message.contains("rolled back"), "{error:?}");
        assert_eq!(until_shown(&tool, ServiceStatus::Failed).await.cs_id, 1025);
        world.stop().await;
    });
}

#[test]
fn c2_a_registration_that_is_not_renewed_lapses_for_good() {
    test(async {
        let world = World::start(60_000, 1_500).await;
        let tool = world.tool().await;
        let cs = FakeCs::new(&world, 1);
        cs.join().await;
        until_shown(&tool, ServiceStatus::Active).await;
        // Several terms long it renews.
        rt::time::sleep(std::time::Duration::from_millis(4_000)).await;
        assert_eq!(listed(&tool).await[0].status(), ServiceStatus::Active);
        cs.fall_silent();
        until_shown(&tool, ServiceStatus::Inactive).await;
        assert!(has_event(&tool, "mds.cs_inactive").await);
        assert_eq!(refused(cs.heartbeat().await).0, Status::NotRegistered, "too late");
        cs.join().await;
        until_shown(&tool, ServiceStatus::Active).await;
        world.stop().await;
    });
}

#[test]
fn a_new_master_begins_full_terms() {
    test(async {
        let world = World::start(60_000, 1000).await;
        let tool = world.tool().await;
        let cs = FakeCs::new(&world, 1);
        cs.join().await;
        until_shown(&tool, ServiceStatus::Active).await;
        world.stop().await;
        cs.fall_silent();
        let began = rt::time::now();
        world.run().await;
        let tool = world.tool().await;
        assert_eq!(listed(&tool).await[0].status(), ServiceStatus::Active);
        until_shown(&tool, ServiceStatus::Inactive).await;
        assert!(began.elapsed().as_millis() >= 1000, "{:?}", began.elapsed());
        assert!(events(&tool).await.iter().filter(|event| event.code == "mds.became_master").count() >= 2);
        world.stop().await;
    });
}

#[test]
fn c2_a_lapsed_chunk_server_gets_the_fences_it_missed_before_it_serves() {
    test(async {
        let world = World::start(60_000, 3_000).await;
        let servers = world.chunk_servers(3).await;
        let client = world.client(1).await;
        let id = file(&client.connection, "/f", 4).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        client.allocate(&open, &[0], soon()).await.expect("allocated");
        // One is away when the lease ends without a flush.
        servers[0].die().await;
        client.release(&open, false).await.expect("released");
        let began = rt::time::now();
        let again = client.open("/f", OpenMode::Write).await.expect("open again");
        assert!(again.epoch > open.epoch && again.needs_reconcile);
        assert!(
            began.elapsed().as_millis() >= 200,
            "not before the absent one has lapsed: {:?}",
            began.elapsed()
        );
        for cs in &servers[1..] {
            assert_eq!(cs.fences.borrow().get(&id), Some(&again.epoch));
        }
        let back = FakeCs::new(&world, 1);
        back.id.set(servers[0].id.get());
        back.nonce.set(servers[0].nonce.get());
        back.join().await;
        assert_eq!(*back.told.borrow(), [(id, again.epoch)]);
        until("it serves", || back.serves.get()).await;
        world.stop().await;
    });
}

#[test]
fn one_that_cannot_start_is_noted_where_it_registered_last() {
    test(async {
        let world = World::start(60_000, 400).await;
        let tool = world.tool().await;
        // Three disks, one after the other, in one directory of one host; the second one was never removed.
        let disks: Vec<_> = (1..=3).map(|uuid| FakeCs::new(&world, uuid)).collect();
        for disk in &disks {
            let connection = disk.connect().await;
            let call = RegisterCs { host_id: "h".into(), path: "/cs".into(), ..disk.request(0, 1) };
            connection.ask(&call, soon()).await.expect("registered");
            rt::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let unknown = |flags| RegisterCs {
            host_id: "h".into(),
            path: "/cs".into(),
            cs_uuid: vec![0; 16],
            flags,
            ..disks[2].request(0, 0)
        };
        let connection = disks[2].connect().await;
        for _ in 0..2 {
            let (status, _) = refused(connection.ask(&unknown(FLAG_FAILED_REPOSITORY), soon()).await);
            assert_eq!(status, Status::DeviceFailed, "it is noted");
        }
        let flags = |services: &[CsInfo]| {
            services.iter().map(|cs| cs.flags & FLAGS_OUT_OF_SERVICE).collect::<Vec<_>>()
        };
        assert_eq!(flags(&listed(&tool).await), [0, 0, FLAG_FAILED_REPOSITORY]);
        // One that knows who it is, in whichever directory.
        let journal = RegisterCs { flags: FLAG_FAILED_JOURNAL, ..disks[0].request(1, 2) };
        assert_eq!(refused(connection.ask(&journal, soon()).await).0, Status::DeviceFailed);
        assert_eq!(flags(&listed(&tool).await), [FLAG_FAILED_JOURNAL, 0, FLAG_FAILED_REPOSITORY]);
        assert_eq!(noted(&tool, "cs.failed").await, 2, "once for each");
        world.stop().await;
    });
}

#[test]
fn a_failed_chunk_server_is_not_renewed() {
    test(async {
        let world = World::start(60_000, 400).await;
        let tool = world.tool().await;
        let cs = FakeCs::new(&world, 1);
        cs.join().await;
        until_shown(&tool, ServiceStatus::Active).await;
        cs.fall_silent();
        cs.flags.set(wire::cs::FLAG_FAILED_IO);
        let (status, error) = refused(cs.heartbeat().await);
        assert_eq!(status, Status::DeviceFailed);
        assert!(error.message.contains("look at its disks"), "{error:?}");
        assert_eq!(until_shown(&tool, ServiceStatus::Failed).await.flags, wire::cs::FLAG_FAILED_IO);
        assert_eq!(refused(cs.register(1, 2).await).0, Status::DeviceFailed);
        for _ in 0..100 {
            if has_event(&tool, "mds.cs_inactive").await {
                return world.stop().await;
            }
            rt::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("it never lapsed");
    });
}

#[test]
fn heartbeats_bring_space_and_events() {
    test(async {
        let world = World::calm().await;
        let tool = world.tool().await;
        let cs = FakeCs::new(&world, 1);
        cs.register(0, 1).await.expect("new");
        cs.heartbeat().await.expect("renewed");
        cs.free_bytes.set((90 << 30) - (1 << 20));
        cs.heartbeat().await.expect("renewed");
        let shown = listed(&tool).await[0].free_bytes;
        assert_eq!(shown, (90 << 30) - (1 << 20), "shown, though it is too little to be worth an entry");
        cs.free_bytes.set(50 << 30);
        cs.heartbeat().await.expect("renewed");
        let deadline = soon();
        while listed(&tool).await[0].free_bytes != 50 << 30 {
            assert!(rt::time::now() < deadline);
        }
        let connection = cs.connection.borrow().clone().expect("connected");
        let event =
            Event { code: "cs.hot".into(), severity: 3, message: "it burns".into(), ..Event::default() };
        let heartbeat = wire::cs::Heartbeat {
            cs_id: cs.id.get(),
            session: cs.session.get(),
            free_bytes: 50 << 30,
            total_bytes: 100 << 30,
            flags: cs.flags.get(),
            events: vec![event],
            ..Default::default()
        };
        connection.ask(&heartbeat, soon()).await.expect("renewed");
        while !has_event(&tool, "cs.hot").await {
            assert!(rt::time::now() < deadline);
        }
        let seen = events(&tool).await.into_iter().find(|event| event.code == "cs.hot").expect("there");
        assert_eq!((seen.severity, seen.sys.as_str(), seen.message.as_str()), (3, "CS", "CS#1025: it burns"));
        world.stop().await;
    });
}

#[test]
fn senseless_registrations_are_refused() {
    test(async {
        let world = World::calm().await;
        let cs = FakeCs::new(&world, 1);
        let connection = cs.connect().await;
        let good = cs.request(0, 1);
        let table = [
            (wire::cs::RegisterCs { cs_uuid: vec![1; 15], ..good.clone() }, Status::Invalid),
            (wire::cs::RegisterCs { boot_id: Vec::new(), ..good.clone() }, Status::Invalid),
            (wire::cs::RegisterCs { new_nonce: Vec::new(), ..good.clone() }, Status::Invalid),
            (wire::cs::RegisterCs { new_nonce: vec![0; 16], ..good.clone() }, Status::Invalid),
            (wire::cs::RegisterCs { new_nonce: vec![1; 8], ..good.clone() }, Status::Invalid),
            (wire::cs::RegisterCs { tier: 4, ..good.clone() }, Status::Invalid),
            (wire::cs::RegisterCs { host_id: "x".repeat(300), ..good.clone() }, Status::Invalid),
            (wire::cs::RegisterCs { addresses: vec!["a".into(); 17], ..good.clone() }, Status::TooLarge),
            (wire::cs::RegisterCs { cs_id: 1025, ..good.clone() }, Status::NotFound),
            (wire::cs::RegisterCs { cs_id: u64::MAX, ..good.clone() }, Status::NotFound),
            (wire::cs::RegisterCs { nonce: vec![7; 16], ..good.clone() }, Status::NotFound),
        ];
        for (request, expected) in table {
            assert_eq!(refused(connection.ask(&request, soon()).await).0, expected, "{request:?}");
        }
        let heartbeat = wire::cs::Heartbeat { cs_id: 1025, session: 5, ..Default::default() };
        assert_eq!(refused(connection.ask(&heartbeat, soon()).await).0, Status::NotRegistered);
        let page = wire::cs::ReportChunks { cs_id: 1025, session: 5, ..Default::default() };
        assert_eq!(refused(connection.ask(&page, soon()).await).0, Status::NotRegistered);
        assert!(listed(&world.tool().await).await.is_empty());
        connection.ask(&good, soon()).await.expect("the good one");
        assert_eq!(listed(&world.tool().await).await.len(), 1);
        world.stop().await;
    });
}

#[test]
fn a_stalled_chunk_server_delays_nobody_else() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(4).await;
        let client = world.client(1).await;
        let id = file(&client.connection, "/f", 8).await;
        let open = client.open("/f", OpenMode::Write).await.expect("open");
        client.allocate(&open, &(0..8).collect::<Vec<_>>(), soon()).await.expect("allocated");
        // One that holds a chunk of /f does not answer the fence.
        let slow: &Rc<FakeCs> = servers.iter().find(|cs| !cs.chunks.borrow().is_empty()).expect("one");
        slow.stalled.set(true);
        client.release(&open, false).await.expect("released");
        let request = client.open_request("/f", OpenMode::Write, 0);
        let (status, error) = refused(client.connection.ask(&request, within(700)).await);
        assert_eq!(status, Status::Retry);
        assert!(error.message.contains(&format!("CS#{}", slow.id.get())), "{error:?}");
        // Meanwhile others work with the rest.
        file(&client.connection, "/g", 1).await;
        let other = client.open("/g", OpenMode::Write).await.expect("open");
        assert!(other.epoch > 0);
        assert!(
            servers
                .iter()
                .all(|cs| cs.id.get() == slow.id.get() || cs.fences.borrow().get(&id) > Some(&open.epoch))
        );
        slow.go_on();
        let again = client.open("/f", OpenMode::Write).await.expect("open again");
        assert!(again.epoch > open.epoch);
        world.stop().await;
    });
}

#[test]
fn tools_see_who_is_there_without_a_session() {
    test(async {
        let world = World::calm().await;
        world.chunk_servers(1).await;
        let tool = world.connect(Role::Tool).await;
        assert_eq!(listed(&tool).await.len(), 1);
        world.stop().await;
    });
}
