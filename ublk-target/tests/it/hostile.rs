//! Clients that break rules: each is answered or dropped, and no other one notices.

use std::time::Duration;

use ublk_target::nbd::{ServeOptions, wire};

use crate::device::Ask;
use crate::raw::{Raw, request, write};
use crate::server::{MIB, Server, run};

const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;

#[test]
fn garbage_ends_its_connection_only() {
    run(async {
        let server = Server::start(MIB, ServeOptions::default()).await;
        let mut bystander = server.client().await;
        let noise: Vec<u8> = (0..10_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for lines in [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &noise, &[0; 5000], &[0xff; 40]] {
            let mut client = Raw::connect(&server.address).await;
            // The server may hang up before all of it is sent.
            let _cut = client.try_send(lines).await;
            client.bytes(wire::GREETING_LEN).await.expect("a greeting");
            assert!(client.is_closed().await);
            let mut client = server.client().await;
            let _cut = client.try_send(lines).await;
            assert!(client.is_closed().await);
        }
        bystander.write(0, 0, &[7; 4096]).await;
        assert_eq!(bystander.read(0, 4096).await, [7; 4096]);
        assert_eq!(server.control.begun(), [Ask::Write, Ask::Read]);
        server.stop().await;
    });
}

#[test]
fn a_handshake_has_a_deadline_and_transmission_has_none() {
    run(async {
        let options =
            ServeOptions { handshake_timeout: Duration::from_millis(150), ..ServeOptions::default() };
        let server = Server::start(MIB, options).await;
        let mut proper = server.client().await;
        let mut silent = Raw::connect(&server.address).await;
        let mut slow = Raw::connect(&server.address).await;
        slow.greet().await;
        slow.send(&wire::OPTION_MAGIC.to_be_bytes()).await;
        let started = rt::time::now();
        silent.bytes(wire::GREETING_LEN).await.expect("a greeting");
        assert!(silent.is_closed().await);
        assert!(slow.is_closed().await, "a trickle of bytes buys no time");
        assert!(started.elapsed() < Duration::from_secs(5));
        rt::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(proper.read(0, 4096).await, [0; 4096]);
        server.stop().await;
    });
}

#[test]
fn clients_that_stop_in_the_middle_change_nothing() {
    run(async {
        let server = Server::start(MIB, ServeOptions::default()).await;
        // In the middle of a header, of a small payload, of a large one, of one that is thrown away.
        let beyond = write(0, 1, MIB, &[9; 200_000]);
        let cuts = [
            write(0, 1, 0, &[9; 4096])[..20].to_vec(),
            write(0, 1, 0, &[9; 4096])[..2000].to_vec(),
            write(0, 1, 0, &[9; 500_000])[..300_000].to_vec(),
            beyond[..100_000].to_vec(),
        ];
        for cut in &cuts {
            let mut client = server.client().await;
            client.send(cut).await;
            drop(client);
        }
        // Those that stay connected and silent hold nobody up either.
        let mut waiting = Vec::new();
        for cut in &cuts {
            let mut client = server.client().await;
            client.send(cut).await;
            waiting.push(client);
        }
        let mut proper = server.client().await;
        assert_eq!(proper.read(0, 8192).await, [0; 8192]);
        assert_eq!(server.control.begun(), [Ask::Read], "no part of a write was carried out");
        server.stop().await;
        for mut client in waiting {
            assert!(client.is_closed().await);
        }
    });
}

#[test]
fn a_client_that_vanishes_leaves_whole_writes_behind() {
    run(async {
        let server = Server::start(MIB, ServeOptions::default()).await;
        server.control.shut_below.set(MIB);
        let mut client = server.client().await;
        client.send(&write(0, 1, 0, &[5; 4096])).await;
        client.send(&request(wire::CMD_READ, 0, 2, 0, 4096)).await;
        server.control.asked(2).await;
        drop(client);
        rt::time::sleep(Duration::from_millis(20)).await;
        server.control.open();
        let ended = rt::time::timeout(Duration::from_secs(30), server.control.ended(Ask::Write)).await;
        ended.expect("what had been accepted is carried out");
        let mut other = server.client().await;
        assert_eq!(other.read(0, 4096).await, [5; 4096]);
        server.stop().await;
    });
}

#[test]
fn requests_beyond_the_limits_are_refused_or_dropped() {
    run(async {
        let server = Server::start(10 << 30, ServeOptions::default()).await;
        let mut client = server.client().await;
        for (command, offset, length, error) in [
            (wire::CMD_READ, 0, u32::MAX, EOVERFLOW),
            (wire::CMD_READ, 0, (32 << 20) + 1, EOVERFLOW),
            (wire::CMD_READ, 10 << 30, 1, EINVAL),
            (wire::CMD_READ, u64::MAX, 2, EINVAL),
            (wire::CMD_READ, 0, 0, EINVAL),
            (wire::CMD_TRIM, 8 << 30, u32::MAX, EINVAL),
            (wire::CMD_WRITE_ZEROES, 10 << 30, 4096, ENOSPC),
            (wire::CMD_FLUSH, 1, 0, EINVAL),
            (8, 0, 4096, EINVAL),
            (u16::MAX, 0, 4096, EINVAL),
        ] {
            let answer = client.ask(command, 0, offset, length).await;
            assert_eq!(answer.error, error, "command {command} at {offset} of {length}: {}", answer.text);
        }
        assert_eq!(client.ask(wire::CMD_READ, 1 << 9, 0, 4096).await.error, EINVAL, "unknown flags");
        // Refused, but small enough to be read to its end: the connection stays usable.
        client.send(&write(0, 3, 0, &vec![1; 40 << 20])).await;
        let answer = client.answer().await;
        assert_eq!((answer.cookie, answer.error), (3, EINVAL));
        client.send(&write(0, 4, (10 << 30) - 1, &[1; 2])).await;
        assert_eq!(client.answer().await.error, ENOSPC);
        assert_eq!(client.read(0, 4096).await, [0; 4096]);
        // Too large for that.
        client.send(&request(wire::CMD_WRITE, 0, 5, 0, u32::MAX)).await;
        assert!(client.is_closed().await);
        assert_eq!(server.control.begun(), [Ask::Read]);
        server.stop().await;
    });
}

#[test]
fn a_client_too_many_is_turned_away() {
    run(async {
        let server = Server::start(MIB, ServeOptions { connections_max: 2, ..ServeOptions::default() }).await;
        let (first, mut second) = (server.client().await, server.client().await);
        let mut third = Raw::connect(&server.address).await;
        assert!(third.is_closed().await);
        drop(first);
        // The server needs a moment to see that the first has gone.
        let mut fourth = loop {
            let mut client = Raw::connect(&server.address).await;
            if client.bytes(wire::GREETING_LEN).await.is_some() {
                break client;
            }
            rt::time::sleep(Duration::from_millis(5)).await;
        };
        let flags = wire::FLAG_C_FIXED_NEWSTYLE | wire::FLAG_C_NO_ZEROES;
        fourth.send(&flags.to_be_bytes()).await;
        assert_eq!(second.read(0, 512).await, [0; 512]);
        server.stop().await;
    });
}
