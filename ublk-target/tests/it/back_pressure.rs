//! What clients can make the server hold (C13).

use std::time::Duration;

use ublk_target::nbd::{ServeOptions, wire};

use crate::raw::{Raw, request};
use crate::server::{MIB, Server, run};
use crate::tools::quick;

/// Sends until the socket takes no more for a while; gives how many bytes went out.
async fn stuff(client: &mut Raw, bytes: &[u8]) -> usize {
    // A stalled client takes nothing off its socket, and this executor's memory is the server's, too.
    client.pause().await;
    let mut sent = 0;
    for piece in bytes.chunks(28 * 100) {
        match rt::time::timeout(Duration::from_millis(100), client.try_send(piece)).await {
            Ok(result) => result.expect("the server stays"),
            Err(_) => break,
        }
        sent += piece.len();
    }
    sent
}

#[test]
fn a_client_that_does_not_read_its_replies_is_read_no_further() {
    run(async {
        let options = ServeOptions { bytes_max: 8 << 20, ..ServeOptions::default() };
        let server = Server::start(64 * MIB, options).await;
        let mut filler = server.client().await;
        filler.write(0, 0, &vec![3; 4 << 20]).await;
        let mut stalled = server.client().await;
        let mut requests = Vec::new();
        for cookie in 0..50_000 {
            requests.extend(request(wire::CMD_READ, 0, cookie, cookie % 4 * MIB, 1 << 20));
        }
        let sent = stuff(&mut stalled, &requests).await;
        assert!(sent < requests.len(), "50 000 reads of 1 MiB were accepted");
        let served = server.control.diary.borrow().iter().filter(|entry| !entry.ended).count();
        assert!(
            served < 32,
            "{served} reads of 1 MiB were carried out for 8 MiB of room and some in the socket"
        );
        assert!(server.control.peak.get().1 <= 8 << 20);
        // Others are served as if nothing were.
        let started = rt::time::now();
        for _ in 0..100 {
            assert_eq!(filler.read(0, 4096).await, [3; 4096]);
        }
        assert!(started.elapsed() < Duration::from_secs(3));
        // And once it reads it gets everything it asked for, in full.
        for _ in 0..40 {
            let answer = stalled.answer().await;
            assert_eq!((answer.error, answer.data().len()), (0, 1 << 20));
        }
        drop(stalled);
        server.stop().await;
    });
}

/// Requests that wait for their place must not keep the memory that all sockets of the executor share: replies of
/// chunk servers come through it, too.
#[test]
fn floods_of_requests_leave_the_receive_buffers_to_others() {
    run(async {
        let options = ServeOptions { requests_max: 16, ..ServeOptions::default() };
        let server = Server::start(64 * MIB, options).await;
        let mut bystander = server.client().await;
        server.control.shut_below.set(MIB);
        let flood: Vec<u8> = (0..40_000).flat_map(|at| request(wire::CMD_READ, 0, at, 0, 512)).collect();
        let mut clients = Vec::new();
        let count = if quick() { 3 } else { 12 };
        for _ in 0..count {
            let mut client = server.client().await;
            let sent = stuff(&mut client, &flood).await;
            assert!(sent < flood.len());
            clients.push(client);
        }
        assert_eq!(server.control.now.get().0, count * 16, "each has its number of requests under way");
        let before = rt::launch::enters();
        let started = rt::time::now();
        for _ in 0..100 {
            assert_eq!(bystander.read(2 * MIB, 4096).await, [0; 4096]);
        }
        assert!(started.elapsed() < Duration::from_secs(3));
        let enters = rt::launch::enters() - before;
        assert!(enters < 3000, "{enters} system calls for 100 reads: somebody polls");
        server.control.open();
        for client in &mut clients {
            for _ in 0..200 {
                assert_eq!(client.answer().await.error, 0);
            }
            client.pause().await;
        }
        drop(clients);
        server.stop().await;
    });
}

#[test]
fn all_connections_together_have_a_limit() {
    run(async {
        let options =
            ServeOptions { bytes_max: 4 << 20, bytes_total_max: 6 << 20, ..ServeOptions::default() };
        let server = Server::start(64 * MIB, options).await;
        server.control.shut_below.set(u64::MAX);
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = server.client().await;
            let batch: Vec<u8> =
                (0..8).flat_map(|at| request(wire::CMD_READ, 0, at, at * MIB, 1 << 20)).collect();
            client.send(&batch).await;
            clients.push(client);
        }
        server.control.asked(6).await;
        rt::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(server.control.peak.get(), (6, 6 << 20));
        server.control.open();
        for client in &mut clients {
            for _ in 0..8 {
                assert_eq!(client.answer().await.error, 0);
            }
        }
        assert!(server.control.peak.get().1 <= 6 << 20);
        server.stop().await;
    });
}

/// Little memory, two connections' worth, and little patience.
fn narrow() -> ServeOptions {
    let stall_timeout = Duration::from_millis(1500);
    ServeOptions { bytes_max: 4 << 20, bytes_total_max: 8 << 20, stall_timeout, ..ServeOptions::default() }
}

#[test]
fn writes_that_are_announced_and_never_sent_do_not_lock_others_out() {
    run(async {
        let server = Server::start(64 * MIB, narrow()).await;
        // Whoever is in nobody's way may take any time.
        let mut slow = server.client().await;
        slow.send(&request(wire::CMD_WRITE, 0, 7, 0, 4096)).await;
        rt::time::sleep(Duration::from_millis(1000)).await;
        slow.send(&[5; 4096]).await;
        assert_eq!(slow.answer().await.error, 0);

        let mut bystander = server.client().await;
        let mut idlers = Vec::new();
        for _ in 0..2 {
            let mut idler = server.client().await;
            idler.send(&request(wire::CMD_WRITE, 0, 1, 0, 4 << 20)).await;
            idlers.push(idler);
        }
        // Asked again and again: one of the first may still come before the writes.
        for _ in 0..20 {
            assert_eq!(bystander.read(0, 4096).await, [5; 4096]);
            bystander.write(0, MIB, &vec![6; 1 << 20]).await;
        }
        // No more of them than was necessary, and none of their writes has begun.
        assert!(idlers[0].is_closed().await);
        let began = server.control.diary.borrow().iter().filter(|entry| entry.len == 4 << 20).count();
        assert_eq!(began, 0);
        drop(idlers);
        server.stop().await;
    });
}

#[test]
fn replies_that_are_never_fetched_do_not_lock_others_out() {
    run(async {
        let server = Server::start(64 * MIB, narrow()).await;
        let mut bystander = server.client().await;
        bystander.write(0, 0, &vec![3; 4 << 20]).await;
        let mut hoarders = Vec::new();
        for _ in 0..2 {
            let mut hoarder = server.client().await;
            hoarder.pause().await;
            for at in 0..8 {
                hoarder.send(&request(wire::CMD_READ, 0, at, at % 4 * MIB, 1 << 20)).await;
            }
            hoarders.push(hoarder);
        }
        // All memory is taken: what was read waits for its turn on the sockets.
        while server.control.diary.borrow().iter().filter(|entry| entry.ended).count() < 1 + 8 {
            rt::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..20 {
            assert_eq!(bystander.read(0, 1 << 20).await, vec![3; 1 << 20]);
        }
        drop(hoarders);
        server.stop().await;
    });
}

#[test]
fn an_idle_server_makes_no_system_calls() {
    run(async {
        let server = Server::start(MIB, ServeOptions::default()).await;
        let (mut one, _other) = (server.client().await, server.client().await);
        assert_eq!(one.read(0, 4096).await, [0; 4096]);
        let before = rt::launch::enters();
        rt::time::sleep(Duration::from_millis(300)).await;
        let enters = rt::launch::enters() - before;
        assert!(enters < 10, "{enters} system calls while idle");
        server.stop().await;
    });
}
