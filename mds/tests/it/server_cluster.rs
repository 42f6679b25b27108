//! The cluster as a whole: settings, events, state; and requests that make no sense.

use std::time::Duration;

use link::{Call, Credentials};
use mds::server::{ServerError, ServerOptions, start_server};
use wire::cluster::{ClusterHealth, ClusterStat, CopyRate, GetConfig, GetEvents, SetConfig};
use wire::hello::Role;
use wire::namespace::Create;
use wire::{Op, Status};

use super::server_world::{World, file, refused, soon, test, within};

#[test]
fn settings_are_read_and_changed() {
    test(async {
        let world = World::calm().await;
        let tool = world.tool().await;
        let get = |prefix: &str| GetConfig { prefix: prefix.into() };
        let all = tool.ask(&get(""), soon()).await.expect("read").entries;
        assert!(all.len() > 5 && all.windows(2).all(|pair| pair[0].key < pair[1].key));
        let set =
            |key: &str, value: Option<&str>| SetConfig { key: key.into(), value: value.map(str::to_owned) };
        tool.ask(&set("gen.lease_term", Some("30")), soon()).await.expect("set");
        let entries = tool.ask(&get("gen.lease"), soon()).await.expect("read").entries;
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].value.as_str(), entries[0].default.as_str()), ("30", "60"));
        world.stop().await;
        world.run().await;
        let tool = world.tool().await;
        assert_eq!(tool.ask(&get("gen.lease"), soon()).await.expect("read").entries[0].value, "30");
        tool.ask(&set("gen.lease_term", None), soon()).await.expect("back to the default");
        assert_eq!(tool.ask(&get("gen.lease"), soon()).await.expect("read").entries[0].value, "60");
        let (status, error) = refused(tool.ask(&set("gen.lease_tern", Some("5")), soon()).await);
        assert_eq!(status, Status::NotFound);
        assert!(error.message.contains("gen.lease_term"), "{error:?}");
        assert_eq!(refused(tool.ask(&set("gen.lease_tern", None), soon()).await).0, Status::NotFound);
        let (status, error) = refused(tool.ask(&set("gen.lease_term", Some("5 minutes")), soon()).await);
        assert_eq!(status, Status::Invalid);
        assert!(error.message.contains("6 to 3600"), "{error:?}");
        world.stop().await;
    });
}

#[test]
fn the_configured_term_is_used_where_none_is_given() {
    test(async {
        let world = World::made(ServerOptions::default()).await;
        world.run().await;
        let client = world.client(1).await;
        assert_eq!(client.term_ms, 60_000);
        let set = SetConfig { key: "gen.lease_term".into(), value: Some("7".into()) };
        client.ask(&set).await.expect("set");
        assert_eq!(client.renew().await.expect("renewed").term_ms, 7000);
        world.stop().await;
    });
}

#[test]
fn events_are_followed_as_they_come() {
    test(async {
        let world = World::calm().await;
        let tool = world.tool().await;
        let last = tool.ask(&GetEvents::default(), soon()).await.expect("events").last_id;
        let follow = GetEvents { after: last, follow: true, ..GetEvents::default() };
        let began = rt::time::now();
        let none = tool.ask(&follow, within(500)).await.expect("in time, though empty");
        assert!(none.events.is_empty() && none.last_id == last);
        assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
        let waiting = rt::spawn({
            let tool = tool.clone();
            async move { tool.ask(&follow, soon()).await }
        });
        rt::time::sleep(Duration::from_millis(50)).await;
        let set = SetConfig { key: "gen.lease_term".into(), value: Some("31".into()) };
        tool.ask(&set, soon()).await.expect("set");
        let came = waiting.await.expect("it ends").expect("events").events;
        assert_eq!(came.len(), 1);
        assert_eq!(
            (came[0].id, came[0].code.as_str(), came[0].sys.as_str()),
            (last + 1, "mds.config_changed", "MDS")
        );
        assert!(came[0].message.contains("31") && came[0].message.contains("node"), "{came:?}");
        assert!(came[0].time_ms > 1_700_000_000_000);
        let newest = GetEvents { limit: 2, newest: true, ..GetEvents::default() };
        let events = tool.ask(&newest, soon()).await.expect("events").events;
        assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), [last, last + 1]);
        // A server that stops does not leave its followers waiting.
        let follow = GetEvents { after: last + 1, follow: true, ..GetEvents::default() };
        let waiting = rt::spawn(async move { tool.ask(&follow, soon()).await });
        rt::time::sleep(Duration::from_millis(50)).await;
        let began = rt::time::now();
        world.stop().await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        let _ended = waiting.await.expect("it ends");
    });
}

#[test]
fn the_state_of_the_cluster_is_shown() {
    test(async {
        let world = World::start(60_000, 1_500).await;
        let tool = world.tool().await;
        let stat = tool.ask(&ClusterStat {}, soon()).await.expect("the state");
        assert_eq!((stat.name.as_str(), stat.health()), ("stor1", ClusterHealth::Unknown));
        assert_eq!(stat.cluster_uuid, world.authority.cluster().0);
        let servers = world.chunk_servers(3).await;
        let client = world.client(1).await;
        file(&tool, "/f", 10).await;
        client.renew().await.expect("renewed");
        client.renew().await.expect("renewed");
        let stat = tool.ask(&ClusterStat {}, soon()).await.expect("the state");
        assert_eq!((stat.health(), stat.cs_active, stat.cs_total), (ClusterHealth::Healthy, 3, 3));
        assert_eq!((stat.fs_files, stat.fs_inodes, stat.fs_bytes), (1, 2, 10 * (64 << 10)));
        assert_eq!((stat.space.total_bytes, stat.space.free_bytes), (300 << 30, 270 << 30));
        assert!(stat.space.allocatable_bytes > 200 << 30 && stat.tiers.len() == 1);
        assert_eq!((stat.clients.len(), stat.cs.len(), stat.mds.len(), stat.master_id), (1, 3, 1, 1));
        assert_eq!(stat.io.write_ops, 1, "the counters of two renewals are the same");
        assert_eq!(stat.copy_rate, Some(CopyRate::default()));
        servers[0].copied.set((64 << 20, 0));
        servers[2].copied.set((0, 32 << 20));
        servers[0].heartbeat().await.expect("renewed");
        servers[2].heartbeat().await.expect("renewed");
        let copies = tool.ask(&ClusterStat {}, soon()).await.expect("the state").copy_rate.expect("counted");
        assert!(copies.read_bytes > 0 && copies.write_bytes > 0, "{copies:?}");
        servers[1].fall_silent();
        let deadline = soon();
        loop {
            let stat = tool.ask(&ClusterStat {}, soon()).await.expect("the state");
            if (stat.health(), stat.cs_inactive) == (ClusterHealth::Degraded, 1) {
                break;
            }
            assert!(rt::time::now() < deadline, "{stat:?}");
        }
        world.stop().await;
    });
}

#[test]
fn garbage_is_refused_and_harms_nobody() {
    test(async {
        let world = World::calm().await;
        let tool = world.tool().await;
        let status = async |op: Op, body: Vec<u8>| {
            tool.call(Call::new(op, body, soon())).await.expect("an answer").status
        };
        for op in [Op::Create, Op::Open, Op::OpenSession, Op::RenewSession, Op::GetEvents, Op::SetAttr] {
            assert_eq!(status(op, vec![0xff; 100]).await, Status::Invalid, "{op}");
        }
        assert_eq!(status(Op::OpenSession, Vec::new()).await, Status::Invalid, "no UUID");
        assert_eq!(status(Op::RenewSession, Vec::new()).await, Status::SessionExpired);
        assert_eq!(status(Op::Create, Vec::new()).await, Status::Invalid);
        for op in [Op::Write, Op::Survey, Op::Fence, Op::CreateChunks] {
            assert_eq!(status(op, vec![0; 64]).await, Status::Unsupported, "{op}");
        }
        assert_eq!(status(Op::RegisterCs, Vec::new()).await, Status::Forbidden);
        assert_eq!(status(Op::ClusterStat, Vec::new()).await, Status::Ok);
        // Random bodies to everything, from every role.
        let mut rng = rt::random::Rng::from_seed(7);
        for role in [Role::Tool, Role::Cs, Role::Client] {
            let peer = world.connect(role).await;
            for round in 0..400 {
                let op = Op::ALL[rng.below(Op::ALL.len() as u64) as usize];
                if matches!(op, Op::Hello | Op::Ping | Op::Goodbye) {
                    continue;
                }
                let mut body = vec![0; rng.below(60) as usize];
                rng.fill(&mut body);
                if round % 2 == 0 {
                    // A well-formed field now and then, so that more is reached than the decoder.
                    body = [&[0x0a, 2, b'/', b'x'][..], &[0x10, round as u8 & 0x7f]].concat();
                }
                let call = Call::new(op, body, within(100));
                if let Ok(reply) = peer.call(call).await {
                    assert_ne!(reply.status, Status::Internal, "{op}");
                }
            }
        }
        let kind = wire::namespace::FileKind::File.into();
        let create = Create { path: "/after".into(), kind, ..Create::default() };
        assert!(tool.ask(&create, soon()).await.is_ok());
        world.stop().await;
    });
}

#[test]
fn a_deadline_that_passes_is_answered_in_time() {
    test(async {
        let world = World::calm().await;
        let tool = world.tool().await;
        for ms in [1, 2, 5, 20] {
            let _any = tool.ask(&ClusterStat {}, within(ms)).await;
        }
        assert!(tool.ask(&ClusterStat {}, soon()).await.is_ok());
        world.stop().await;
    });
}

#[test]
fn a_server_starts_only_where_it_belongs() {
    test(async {
        let world = World::calm().await;
        // Twice in one directory.
        match world.try_run().await {
            Err(error) => assert!(error.to_string().contains("in use by another process"), "{error}"),
            Ok(()) => panic!("two servers in one directory"),
        }
        world.stop().await;
        // Another cluster's credentials.
        let other = World::made(ServerOptions::default()).await;
        let stranger: Credentials = other.authority.issue("x", "00", link::Roles::ALL).expect("good names");
        let refused = start_server(&world.path(), stranger, world.address, ServerOptions::default()).await;
        assert!(matches!(refused, Err(ServerError::OtherCluster { .. })), "{refused:?}");
        // Ports in use: both of them.
        for offset in [0, 1] {
            let port = std::net::SocketAddr::new(world.address.ip(), world.address.port() + offset);
            let taken = rt::net::Listener::bind(&rt::net::Address::Tcp(port)).expect("free");
            match world.try_run().await {
                Err(error @ ServerError::Listen { address, .. }) => {
                    assert_eq!(address, port);
                    assert!(error.to_string().contains("another program uses the port"), "{error}");
                }
                other => panic!("{other:?}"),
            }
            drop(taken);
        }
        world.run().await;
        world.stop().await;
    });
}
