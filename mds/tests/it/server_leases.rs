//! Sessions and leases (C1, C2).

use std::time::Duration;

use wire::Status;
use wire::cluster::GetEvents;
use wire::lease::{GetMap, OpenMode, Revoke, RevokeTarget};
use wire::namespace::{FileRef, Remove, Stat};
use wire::session::{ClientKind, CloseSession, ListClients, SessionKey};

use super::server_world::{World, file, open_session, refused, soon, test, within};

async fn pause(ms: u64) {
    rt::time::sleep(Duration::from_millis(ms)).await;
}

#[test]
fn c1_one_writer_and_everybody_else_is_told_who() {
    test(async {
        let world = World::calm().await;
        let (one, two) = (world.client(1).await, world.client(2).await);
        file(&one.connection, "/f", 4).await;
        let open = one.open("/f", OpenMode::Write).await.expect("open");
        assert_eq!((open.size, open.chunk_size, open.needs_reconcile), (4 * (64 << 10), 64 << 10, false));
        assert_eq!((open.attrs.replicas, open.map.chunks.len(), open.map.next_index), (Some(3), 0, 0));
        for mode in [OpenMode::Write, OpenMode::Read] {
            let (status, error) = refused(two.open("/f", mode).await);
            assert_eq!(
                (status, error.hint.as_str(), error.detail),
                (Status::LeaseHeld, "host1", one.session.client_id)
            );
            assert!(error.message.contains("host1"), "{error:?}");
        }
        let info = one.ask(&Stat { file: Some(FileRef::Path("/f".into())) }).await.expect("there").info;
        assert_eq!(
            (info.writer.map(|writer| writer.client_id), info.epoch),
            (Some(one.session.client_id), open.epoch)
        );
        one.release(&open, true).await.expect("released");
        one.release(&open, true).await.expect("again, as after a lost answer");
        let next = two.open("/f", OpenMode::Write).await.expect("open");
        assert!(next.epoch > open.epoch && !next.needs_reconcile);
        one.release(&open, true).await.expect("a late copy");
        assert_eq!(
            refused(one.open("/f", OpenMode::Write).await).0,
            Status::LeaseHeld,
            "it ends no lease of another"
        );
        world.stop().await;
    });
}

#[test]
fn readers_share() {
    test(async {
        let world = World::calm().await;
        let (one, two) = (world.client(1).await, world.client(2).await);
        file(&one.connection, "/f", 1).await;
        let first = one.open("/f", OpenMode::Read).await.expect("open");
        let second = two.open("/f", OpenMode::Read).await.expect("open");
        assert_eq!(first.epoch, second.epoch);
        assert_eq!(refused(two.open("/f", OpenMode::Write).await).0, Status::LeaseHeld);
        one.release(&first, true).await.expect("released");
        two.release(&second, true).await.expect("released");
        assert!(two.open("/f", OpenMode::Write).await.is_ok());
        world.stop().await;
    });
}

#[test]
fn c1_a_session_that_is_not_renewed_expires_and_comes_back_with_its_leases() {
    test(async {
        let world = World::start(600, 60_000).await;
        let one = world.client(1).await;
        assert_eq!(one.term_ms, 600);
        file(&one.connection, "/f", 1).await;
        let open = one.open("/f", OpenMode::Write).await.expect("open");
        // Several terms long it renews.
        for _ in 0..6 {
            pause(200).await;
            assert_eq!(one.renew().await.expect("renewed").term_ms, 600);
        }
        let two = world.client(2).await;
        assert_eq!(refused(two.open("/f", OpenMode::Write).await).0, Status::LeaseHeld);
        pause(900).await;
        assert_eq!(refused(one.renew().await).0, Status::SessionExpired);
        assert_eq!(refused(one.release(&open, true).await).0, Status::SessionExpired);
        // The same client, with its token, goes on at a higher epoch.
        let reply = open_session(&one.connection, 1, Some(one.session.clone())).await.expect("a session");
        assert_eq!(reply.session.client_id, one.session.client_id);
        assert_ne!(reply.session.token, one.session.token);
        let back = super::server_world::Client { session: reply.session, ..one };
        let again = back.ask(&back.open_request("/f", OpenMode::Write, open.epoch)).await.expect("resumed");
        assert!(again.epoch > open.epoch);
        let codes: Vec<String> = back
            .ask(&GetEvents::default())
            .await
            .expect("events")
            .events
            .into_iter()
            .map(|event| event.code)
            .collect();
        assert!(codes.iter().any(|code| code == "mds.session_expired"), "{codes:?}");
        world.stop().await;
    });
}

#[test]
fn c1_an_open_is_lost_when_another_was_granted_since() {
    test(async {
        let world = World::start(2_000, 60_000).await;
        let one = world.client(1).await;
        file(&one.connection, "/f", 1).await;
        let open = one.open("/f", OpenMode::Write).await.expect("open");
        pause(2_800).await;
        let two = world.client(2).await;
        let other = two.open("/f", OpenMode::Write).await.expect("free now");
        assert!(other.epoch > open.epoch);
        let reply = open_session(&one.connection, 1, Some(one.session.clone())).await.expect("a session");
        let back = super::server_world::Client { session: reply.session, ..one };
        let resume = back.open_request("/f", OpenMode::Write, open.epoch);
        assert_eq!(refused(back.ask(&resume).await).0, Status::StaleEpoch);
        two.release(&other, true).await.expect("released");
        assert_eq!(refused(back.ask(&resume).await).0, Status::StaleEpoch, "for ever");
        assert!(back.open("/f", OpenMode::Write).await.is_ok(), "but it may be opened anew");
        world.stop().await;
    });
}

#[test]
fn c1_a_restarted_daemon_takes_its_own_lease_over_at_once() {
    test(async {
        let world = World::calm().await;
        world.chunk_servers(3).await;
        let one = world.client(1).await;
        file(&one.connection, "/f", 1).await;
        let open = one.open("/f", OpenMode::Write).await.expect("open");
        one.allocate(&open, &[0], soon()).await.expect("allocated");
        // Without its token nobody takes it over.
        let (status, error) = refused(open_session(&one.connection, 1, None).await);
        assert_eq!(status, Status::Retry);
        assert!(error.retry_after_ms > 0 && error.message.contains("live session"), "{error:?}");
        let restarted = world.connect(wire::hello::Role::Client).await;
        let reply = open_session(&restarted, 1, Some(one.session.clone())).await.expect("taken over");
        assert_eq!(reply.session.client_id, one.session.client_id);
        // The old process is out.
        assert_eq!(refused(one.renew().await).0, Status::SessionExpired);
        let new = super::server_world::Client { connection: restarted, session: reply.session, term_ms: 0 };
        // Nobody else comes in between.
        let two = world.client(2).await;
        assert_eq!(refused(two.open("/f", OpenMode::Write).await).0, Status::LeaseHeld);
        let again = new.open("/f", OpenMode::Write).await.expect("open");
        assert!(again.epoch > open.epoch && again.needs_reconcile);
        world.stop().await;
    });
}

#[test]
fn c1_what_is_kept_for_a_restarted_client_is_kept_for_one_term() {
    test(async {
        let world = World::start(2_000, 60_000).await;
        let one = world.client(1).await;
        file(&one.connection, "/f", 1).await;
        one.open("/f", OpenMode::Write).await.expect("open");
        let restarted = world.connect(wire::hello::Role::Client).await;
        let begun = rt::time::now();
        let reply = open_session(&restarted, 1, Some(one.session.clone())).await.expect("taken over");
        let new = super::server_world::Client { connection: restarted, session: reply.session, term_ms: 0 };
        let two = world.client(2).await;
        // The new process lives and renews, but never opens the file.
        let granted = loop {
            new.renew().await.expect("its session is live all the time");
            two.renew().await.expect("so is that of the other");
            match two.open("/f", OpenMode::Write).await {
                Ok(granted) => break granted,
                Err(error) => assert_eq!(refused::<()>(Err(error)).0, Status::LeaseHeld),
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "kept for ever");
            pause(20).await;
        };
        assert!(begun.elapsed() >= Duration::from_millis(2_000), "a whole term: {:?}", begun.elapsed());
        assert!(granted.epoch > 0);
        // Whoever opens in time is not disturbed by the end of the time.
        two.release(&granted, true).await.expect("released");
        new.open("/f", OpenMode::Write).await.expect("open");
        let reply = open_session(&new.connection, 1, Some(new.session.clone())).await.expect("again");
        let third = super::server_world::Client { session: reply.session, ..new };
        let mine = third.open("/f", OpenMode::Write).await.expect("in time");
        for _ in 0..4 {
            pause(700).await;
            third.renew().await.expect("renewed");
        }
        third.release(&mine, true).await.expect("held until now");
        world.stop().await;
    });
}

#[test]
fn c1_a_writer_that_opens_anew_again_has_a_whole_term_again() {
    test(async {
        let world = World::start(3_000, 60_000).await;
        let servers = world.chunk_servers(3).await;
        let (one, two) = (world.client(1).await, world.client(2).await);
        file(&one.connection, "/f", 1).await;
        let open = one.open("/f", OpenMode::Write).await.expect("open");
        one.allocate(&open, &[0], soon()).await.expect("allocated");
        let begun = rt::time::now();
        let second = one.open("/f", OpenMode::Write).await.expect("anew");
        // Its time has been running since, and does not count for what comes now: a fence that takes longer than a term.
        servers[0].stalled.set(true);
        let (connection, request) =
            (one.connection.clone(), one.open_request("/f", OpenMode::Write, second.epoch));
        let again = rt::spawn(async move { connection.ask(&request, within(30_000)).await });
        while begun.elapsed() < Duration::from_millis(4_500) {
            one.renew().await.expect("renewed");
            two.renew().await.expect("renewed");
            pause(50).await;
            let request = two.open_request("/f", OpenMode::Write, 0);
            let answer = two.connection.ask(&request, within(5_000)).await;
            assert_eq!(refused(answer).0, Status::LeaseHeld, "after {:?}", begun.elapsed());
        }
        servers[0].go_on();
        assert!(again.await.expect("it ends").expect("it is the writer's").epoch > second.epoch);
        world.stop().await;
    });
}

#[test]
fn a_grant_that_comes_too_late_is_given_back() {
    test(async {
        let world = World::calm().await;
        let (one, two) = (world.client(1).await, world.client(2).await);
        // How long it takes here and now: the quickest of a few.
        let mut usual = Duration::MAX;
        for number in 0..5u64 {
            let path = format!("/usual{number}");
            file(&one.connection, &path, 1).await;
            let begun = rt::time::now();
            let open = one.open(&path, OpenMode::Write).await.expect("open");
            usual = usual.min(begun.elapsed());
            one.release(&open, true).await.expect("released");
        }
        let (mut late, mut kept) = (0, 0);
        for number in 0..40u32 {
            let path = format!("/f{number}");
            one.renew().await.expect("renewed");
            two.renew().await.expect("renewed");
            file(&one.connection, &path, 1).await;
            // Somewhere here the command is in the log already, and nobody waits for the answer any more.
            let time = rt::time::now() + usual * number / 20;
            let request = one.open_request(&path, OpenMode::Write, 0);
            match one.connection.ask(&request, time).await {
                Ok(open) => one.release(&open, true).await.expect("released"),
                Err(_) => late += 1,
            }
            let mut patience = 50;
            while let Err(error) = two.open(&path, OpenMode::Write).await {
                assert_eq!(refused::<()>(Err(error)).0, Status::LeaseHeld);
                patience -= 1;
                if patience == 0 {
                    // The answer was given in time, as far as the server can tell.
                    kept += 1;
                    let open = one.open(&path, OpenMode::Write).await.expect("its own");
                    one.release(&open, true).await.expect("released");
                }
                pause(5).await;
            }
        }
        assert!(kept < late, "of {late} late ones {kept} were held by nobody who knows");
        world.stop().await;
    });
}

#[test]
fn c10_a_holder_opens_its_file_again_at_a_higher_epoch() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(3).await;
        let one = world.client(1).await;
        let id = file(&one.connection, "/f", 2).await;
        let open = one.open("/f", OpenMode::Write).await.expect("open");
        one.allocate(&open, &[0, 1], soon()).await.expect("allocated");
        let resume = one.open_request("/f", OpenMode::Write, open.epoch);
        let second = one.ask(&resume).await.expect("open again");
        assert!(second.epoch > open.epoch && second.needs_reconcile);
        assert_eq!(second.map.chunks.len(), 2);
        assert!(second.map.chunks.iter().all(|chunk| chunk.needs_reconcile));
        for cs in &servers {
            assert_eq!(cs.fences.borrow().get(&id), Some(&second.epoch), "fenced before it was granted (C2)");
        }
        // The answer was lost: it is given again, and nothing is fenced.
        let orders: u32 = servers.iter().map(|cs| cs.orders.get()).sum();
        assert_eq!(one.ask(&resume).await.expect("again").epoch, second.epoch);
        assert_eq!(servers.iter().map(|cs| cs.orders.get()).sum::<u32>(), orders);
        // A second open in the same process never gets the same epoch.
        assert!(one.open("/f", OpenMode::Write).await.expect("anew").epoch > second.epoch);
        world.stop().await;
    });
}

#[test]
fn a_later_attempt_takes_the_place_of_one_that_waits() {
    test(async {
        let world = World::calm().await;
        let servers = world.chunk_servers(3).await;
        let one = world.client(1).await;
        file(&one.connection, "/f", 1).await;
        let open = one.open("/f", OpenMode::Write).await.expect("open");
        one.allocate(&open, &[0], soon()).await.expect("allocated");
        servers[0].stalled.set(true);
        let (connection, request) =
            (one.connection.clone(), one.open_request("/f", OpenMode::Write, open.epoch));
        let first = rt::spawn({
            let (connection, request) = (connection.clone(), request.clone());
            async move { connection.ask(&request, soon()).await }
        });
        pause(100).await;
        let second = rt::spawn(async move { connection.ask(&request, soon()).await });
        assert_eq!(refused(first.await.expect("it ends")).0, Status::Retry);
        servers[0].go_on();
        assert!(second.await.expect("it ends").expect("open again").epoch > open.epoch);
        world.stop().await;
    });
}

#[test]
fn c1_leases_can_be_taken_away() {
    test(async {
        let world = World::calm().await;
        let (one, two) = (world.client(1).await, world.client(2).await);
        file(&one.connection, "/f", 1).await;
        let open = one.open("/f", OpenMode::Write).await.expect("open");
        let by_path = Revoke { target: Some(RevokeTarget::Path("/f".into())) };
        assert_eq!(two.ask(&by_path).await.expect("revoked").revoked, 1);
        assert_eq!(two.ask(&by_path).await.expect("nothing left").revoked, 0);
        for _ in 0..2 {
            let lost = one.renew().await.expect("the session lives on").revoked;
            assert_eq!(
                lost.iter().map(|file| (file.file_id, file.epoch)).collect::<Vec<_>>(),
                [(open.file_id, open.epoch)]
            );
        }
        one.release(&open, false).await.expect("it knows now");
        assert!(one.renew().await.expect("renewed").revoked.is_empty());
        let resume = one.open_request("/f", OpenMode::Write, open.epoch);
        assert_eq!(refused(one.ask(&resume).await).0, Status::StaleEpoch);
        let again = two.open("/f", OpenMode::Write).await.expect("free");
        let by_client = |id| Revoke { target: Some(RevokeTarget::Client(id)) };
        assert_eq!(one.ask(&by_client(two.session.client_id)).await.expect("revoked").revoked, 1);
        assert_eq!(refused(two.renew().await).0, Status::SessionExpired);
        assert_eq!(refused(one.ask(&by_client(two.session.client_id)).await).0, Status::NotFound);
        assert_eq!(refused(one.ask(&by_client(u64::MAX)).await).0, Status::NotFound);
        assert_eq!(refused(one.ask(&Revoke { target: None }).await).0, Status::Invalid);
        assert!(one.open("/f", OpenMode::Write).await.expect("free").epoch > again.epoch);
        world.stop().await;
    });
}

#[test]
fn c1_a_revocation_is_told_by_the_next_master_too() {
    test(async {
        let world = World::calm().await;
        let (mut one, mut two) = (world.client(1).await, world.client(2).await);
        let mut opened = Vec::new();
        for path in ["/f", "/g"] {
            file(&one.connection, path, 1).await;
            opened.push(one.open(path, OpenMode::Read).await.expect("open"));
        }
        let revoke = |path: &str| Revoke { target: Some(RevokeTarget::Path(path.into())) };
        assert_eq!(two.ask(&revoke("/f")).await.expect("revoked").revoked, 1);
        // The one before knew it only from its own time, and the next one has not heard of the client yet.
        world.stop().await;
        world.run().await;
        for client in [&mut one, &mut two] {
            client.connection = world.connect(wire::hello::Role::Client).await;
        }
        assert_eq!(two.ask(&revoke("/g")).await.expect("revoked").revoked, 1);
        for _ in 0..2 {
            let lost = one.renew().await.expect("the session lives on").revoked;
            let lost: Vec<_> = lost.iter().map(|file| (file.file_id, file.epoch)).collect();
            assert_eq!(lost, opened.iter().map(|open| (open.file_id, open.epoch)).collect::<Vec<_>>());
        }
        let again = one.open("/f", OpenMode::Read).await.expect("anew");
        assert!(again.epoch > opened[0].epoch);
        one.release(&opened[1], false).await.expect("it knows");
        assert!(one.renew().await.expect("renewed").revoked.is_empty());
        world.stop().await;
    });
}

#[test]
fn c9_an_unlinked_file_lives_until_its_last_lease_ends() {
    test(async {
        let world = World::calm().await;
        let one = world.client(1).await;
        file(&one.connection, "/f", 1).await;
        let open = one.open("/f", OpenMode::Write).await.expect("open");
        one.ask(&Remove { path: "/f".into(), recursive: false }).await.expect("removed");
        assert_eq!(refused(one.open("/f", OpenMode::Write).await).0, Status::NotFound);
        let by_id = Stat { file: Some(FileRef::Id(open.file_id)) };
        assert_eq!(one.ask(&by_id).await.expect("still there").info.path, "");
        let resume = wire::lease::Open {
            file: Some(FileRef::Id(open.file_id)),
            ..one.open_request("", OpenMode::Write, open.epoch)
        };
        let again = one.ask(&resume).await.expect("even at a higher epoch");
        one.release(&again, true).await.expect("released");
        assert_eq!(refused(one.ask(&by_id).await).0, Status::NotFound);
        world.stop().await;
    });
}

#[test]
fn sessions_are_listed_and_closed() {
    test(async {
        let world = World::calm().await;
        let (one, two) = (world.client(1).await, world.client(2).await);
        file(&one.connection, "/f", 1).await;
        file(&one.connection, "/g", 1).await;
        one.open("/f", OpenMode::Write).await.expect("open");
        one.open("/g", OpenMode::Read).await.expect("open");
        one.renew().await.expect("renewed");
        let list = two.ask(&ListClients::default()).await.expect("listed");
        assert_eq!(list.clients.len(), 2);
        let first = &list.clients[0];
        assert_eq!(
            (first.client_id, first.host_name.as_str(), first.kind()),
            (2049, "host1", ClientKind::Nbd)
        );
        assert_eq!((first.leases_write, first.leases_read, first.io.write_ops), (1, 1, 1));
        assert!(first.address.starts_with("127."), "{first:?}");
        assert_eq!(two.ask(&ListClients { after: 2049 }).await.expect("listed").clients.len(), 1);
        let close = CloseSession { session: one.session.clone() };
        one.ask(&close).await.expect("closed");
        one.ask(&close).await.expect("again");
        assert_eq!(two.ask(&ListClients::default()).await.expect("listed").clients.len(), 1);
        assert!(two.open("/f", OpenMode::Write).await.is_ok(), "its leases are free");
        world.stop().await;
    });
}

#[test]
fn strangers_and_fools_are_told_apart() {
    test(async {
        let world = World::calm().await;
        let (one, two) = (world.client(1).await, world.client(2).await);
        file(&one.connection, "/f", 4).await;
        let open = one.open("/f", OpenMode::Write).await.expect("open");
        let thief = SessionKey { client_id: one.session.client_id, token: two.session.token.clone() };
        let request = wire::lease::Open { session: thief, ..one.open_request("/f", OpenMode::Write, 0) };
        assert_eq!(refused(two.ask(&request).await).0, Status::SessionExpired);
        let nobody = wire::lease::Open { session: SessionKey::default(), ..request.clone() };
        assert_eq!(refused(two.ask(&nobody).await).0, Status::SessionExpired);
        let modeless = wire::lease::Open { mode: 0, ..one.open_request("/f", OpenMode::Write, 0) };
        assert_eq!(refused(one.ask(&modeless).await).0, Status::Invalid);
        assert_eq!(refused(one.open("/", OpenMode::Read).await).0, Status::IsADirectory);
        assert_eq!(refused(one.open("/no", OpenMode::Read).await).0, Status::NotFound);
        let map = |epoch| GetMap { file_id: open.file_id, epoch, first_index: 0, count: 4 };
        let (status, error) = refused(two.ask(&map(open.epoch + 1)).await);
        assert_eq!((status, error.detail), (Status::StaleEpoch, open.epoch));
        assert!(one.ask(&map(open.epoch)).await.is_ok());
        assert_eq!(refused(two.allocate(&open, &[0], soon()).await).0, Status::StaleEpoch, "not the holder");
        assert_eq!(refused(one.allocate(&open, &[4], soon()).await).0, Status::Invalid, "beyond the end");
        assert_eq!(refused(one.allocate(&open, &[u64::MAX], soon()).await).0, Status::Invalid);
        assert_eq!(refused(one.allocate(&open, &[0; 300], soon()).await).0, Status::TooLarge);
        let keyless = open_session(&one.connection, 9, Some(SessionKey::default())).await;
        assert!(keyless.is_ok(), "a key that is none does no harm");
        let _late = one.connection.ask(&map(open.epoch), within(1)).await;
        assert!(one.ask(&map(open.epoch)).await.is_ok(), "a deadline that passes harms nobody");
        world.stop().await;
    });
}
