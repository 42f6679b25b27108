//! The orderly stop.

use std::time::Duration;

use ublk_target::nbd::{ServeOptions, wire};

use crate::raw::{Raw, request, write};
use crate::server::{MIB, Server, run};

#[test]
fn what_is_under_way_is_finished_and_answered() {
    run(async {
        let mut server = Server::start(MIB, ServeOptions::default()).await;
        let mut client = server.client().await;
        let mut idle = server.client().await;
        let mut shaking = Raw::connect(&server.address).await;
        shaking.greet().await;
        server.control.shut_below.set(MIB);
        client.send(&write(0, 1, 0, &[5; 4096])).await;
        client.send(&request(wire::CMD_READ, 0, 2, 8192, 4096)).await;
        server.control.asked(2).await;
        server.ask_to_stop();
        assert!(idle.is_closed().await, "nothing of this client was under way");
        assert!(shaking.is_closed().await);
        // Too late: it is not read any more.
        client.send(&write(0, 3, 0, &[6; 4096])).await;
        rt::time::sleep(Duration::from_millis(30)).await;
        assert!(!server.has_stopped(), "two requests are under way");
        server.control.open();
        let mut cookies = [client.answer().await.cookie, client.answer().await.cookie];
        cookies.sort_unstable();
        assert_eq!(cookies, [1, 2]);
        assert!(client.is_closed().await);
        let (file, address) = (server.file(), server.address.clone());
        let kept = std::fs::read(file).unwrap();
        assert_eq!(kept[..4096], [5; 4096]);
        assert_eq!(server.stopped().await.unfinished, 0);
        assert!(rt::net::connect(&address).await.is_err(), "nobody listens any more");
    });
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    run(async {
        let options = ServeOptions { stop_timeout: Duration::from_millis(200), ..ServeOptions::default() };
        let mut server = Server::start(64 * MIB, options).await;
        let mut stalled = server.client().await;
        // Replies that nobody reads, and a device that does not answer.
        for cookie in 0..20 {
            stalled.send(&request(wire::CMD_READ, 0, cookie, 32 * MIB, 1 << 20)).await;
        }
        let mut client = server.client().await;
        server.control.shut_below.set(MIB);
        client.send(&write(0, 1, 0, &[5; 4096])).await;
        client.send(&request(wire::CMD_FLUSH, 0, 2, 0, 0)).await;
        server.control.asked(22).await;
        server.ask_to_stop();
        let started = rt::time::now();
        let control = std::rc::Rc::clone(&server.control);
        let served = server.stopped().await;
        assert!(started.elapsed() < Duration::from_secs(5));
        assert_eq!(served.unfinished, 2);
        control.open();
    });
}

#[test]
fn a_disconnect_waits_for_what_came_before_it() {
    run(async {
        let server = Server::start(MIB, ServeOptions::default()).await;
        let mut client = server.client().await;
        server.control.shut_below.set(MIB);
        let mut batch = write(0, 1, 0, &[5; 4096]);
        batch.extend(request(wire::CMD_DISC, 0, 0, 0, 0));
        client.send(&batch).await;
        server.control.asked(1).await;
        rt::time::sleep(Duration::from_millis(20)).await;
        server.control.open();
        assert_eq!(client.answer().await.cookie, 1);
        assert!(client.is_closed().await);
        server.stop().await;
    });
}
